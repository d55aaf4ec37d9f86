//! The platform publishes for all tenants as one principal, and merchants let that in (the "confused deputy"): what keeps a tenant
//! from another's bus or topic. And keys of the merchant's own, which nobody else sees.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shopery_e2e::cloud::{OWN_KEY, OWN_KEY_ID, PLATFORM_KEY, PLATFORM_KEY_ID, PRINCIPAL, google_key};
use shopery_e2e::fault_proxy::Request;
use shopery_e2e::stored::Stored;
use shopery_e2e::{Client, Cloud, Event, Fault, Service, Stack, wait};
use shopery_local::emulators::ACCOUNT;
use shopery_model::DestinationKind;

use super::SOON;

on_both_clouds!(
    keys_of_a_merchants_own_are_used_for_it_alone_sealed_and_shown_to_nobody,
    what_waits_is_sent_at_once_when_there_are_other_keys,
);

/// The requests that published something for this tenant to this address, tests included.
fn published_by(cloud: &Cloud, address: &str, tenant: &str) -> usize {
    let requests = cloud.proxy.requests();
    let entries = requests.iter().flat_map(|request| &request.entries);
    entries.filter(|entry| entry.destination == address && entry.name("x-shopery-tenant-id") == tenant).count()
}

/// The policy that a merchant pastes lets in one source, and no tenant sends under another's.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_sends_to_anothers_bus_has_the_source_of_its_sender() {
    let cloud = Cloud::amazon().await;
    let stack = Stack::plan().cloud(&cloud).start().await;
    let (a, b) = (stack.client("tnt_a"), stack.client("tnt_b"));
    // moto enforces no policy; the rule behind this bus wants what the policy of the setup would let in.
    let address = cloud.make("of_a", "tnt_a").await;
    let setup = a.get(&format!("/company/destinations/setup?url={address}")).await.expect(200).json();
    assert_eq!((&setup["principal"], &setup["source"]), (&json!(PRINCIPAL), &json!("shopery/tnt_a")), "{setup}");
    let policy = setup["policy"].to_string();
    for part in ["events:PutEvents", "events:source", "shopery/tnt_a", PRINCIPAL, address.as_str()] {
        assert!(policy.contains(part), "{part} is not in {policy}");
    }
    let of_a = a.create_webhook(&address, &["*"]).await;
    let of_b = b.create_webhook(&address, &["*"]).await;
    let odd = stack.client("x\",\"source\":\"shopery/tnt_a");
    let of_odd = odd.create_webhook(&address, &["*"]).await;
    for (client, webhook, name) in [(&a, &of_a, "a"), (&b, &of_b, "b"), (&odd, &of_odd, "odd")] {
        for number in 0..5 {
            client.publish(&Event::order(&format!("{name}_{number}"))).await.expect(202);
        }
        client.settled(webhook, 5, SOON).await;
    }
    let received = cloud.wait_at(&address, 5, SOON).await;
    assert_eq!(received.len(), 5, "something of another tenant came through");
    assert!(received.iter().all(|one| one.name("x-shopery-tenant-id") == "tnt_a"), "{received:?}");
    let mut by_others = 0;
    for request in cloud.proxy.requests() {
        for entry in &request.entries {
            match entry.name("x-shopery-tenant-id") {
                tenant @ ("tnt_a" | "tnt_b") => assert_eq!(entry.source, format!("shopery/{tenant}")),
                _ => {
                    assert!(entry.source.starts_with("shopery/") && entry.source != "shopery/tnt_a", "{}", entry.source)
                }
            }
            by_others += usize::from(entry.source != "shopery/tnt_a");
        }
    }
    // Five deliveries of each of the two, and the tests when they were saved.
    assert_eq!(by_others, 12);

    // A bus of the platform's own account would let in whoever asks: there no policy is looked at.
    let own = address.replace(ACCOUNT, "999999999999");
    let body = json!({ "name": "a webhook", "url": own, "events": ["*"], "isEnabled": true });
    let problem = b.post("/company/webhooks", &body).await.expect(422).problem();
    assert_eq!(problem["errors"][0]["field"], "url", "{problem}");
    assert_eq!(published_by(&cloud, &own, "tnt_b"), 0);
}

/// Whose a topic is, its label says.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_sent_to_for_the_tenant_alone_that_its_label_names() {
    let Some(cloud) = Cloud::google().await else { return };
    let stack = Stack::plan().cloud(&cloud).start().await;
    let (a, b) = (stack.client("tnt_a"), stack.client("tnt_b"));
    let of_a = cloud.make("of_a", "tnt_a").await;
    let unlabelled = cloud.make_unlabelled("unlabelled").await;
    let of_b = cloud.make("of_b", "tnt_b").await;
    let setup = b.get(&format!("/company/destinations/setup?url={of_a}")).await.expect(200).json();
    assert_eq!((&setup["kind"], &setup["label"]), (&json!("pubsub"), &json!("tnt_b")), "{setup}");
    assert!(setup["commands"].to_string().contains("--update-labels=shopery-tenant=tnt_b"), "{setup}");
    a.create_webhook(&of_a, &["*"]).await;
    let webhook = b.create_webhook(&of_b, &["*"]).await;
    for address in [&of_a, &unlabelled] {
        let body = json!({ "name": "a webhook", "url": address, "events": ["*"], "isEnabled": true });
        let change = json!({ "url": address });
        for refused in
            [b.post("/company/webhooks", &body).await, b.patch(&format!("/company/webhooks/{webhook}"), &change).await]
        {
            let problem = refused.expect(422).problem();
            assert_eq!(problem["errors"][0]["field"], "url", "{problem}");
            let detail = problem["errors"][0]["detail"].as_str().unwrap();
            assert!(detail.contains("shopery-tenant") && detail.contains("tnt_b"), "{problem}");
        }
        let report = b.post("/company/webhooks/test", &change).await.expect(200).json();
        assert_eq!(
            (&report["success"], &report["error"]["reason"]),
            (&json!(false), &json!("access_denied")),
            "{report}"
        );
        // Saved while it is paused, it stays so.
        let paused = b.create_webhook_with(address, &["*"], json!({ "isEnabled": false })).await;
        let path = format!("/company/webhooks/{paused}");
        b.patch(&path, &json!({ "isEnabled": true })).await.expect(422).problem();
        b.post(&format!("{path}/test"), &json!({})).await.expect(200);
        assert_eq!(b.get(&path).await.expect(200).json()["isEnabled"], false);
        assert_eq!(published_by(&cloud, address, "tnt_b"), 0, "it was published to a topic that is not its tenant's");
    }
    // What the topics let in comes.
    for (client, address) in [(&a, &of_a), (&b, &of_b)] {
        client.publish(&Event::order("1")).await.expect(202);
        let received = cloud.wait_at(address, 1, SOON).await;
        assert_eq!(received[0].name("x-shopery-tenant-id"), client.tenant);
    }
}

/// What a webhook is given, how that is shown, and its secrets.
struct Own {
    given: Value,
    shown: Value,
    secrets: Vec<String>,
}

impl Own {
    fn aws(id: &str, secret: &str) -> Self {
        let given = json!({ "accessKeyId": id, "secretAccessKey": secret });
        Self { given, shown: json!({ "accessKeyId": id, "secretAccessKey": "***" }), secrets: vec![secret.to_owned()] }
    }

    fn google(id: &str) -> Self {
        let given = google_key(id);
        let shown = json!({ "client_email": given["client_email"], "private_key_id": id, "private_key": "***" });
        // Of the lines between the first and the last each is enough to tell that it is there.
        let pem = given["private_key"].as_str().unwrap();
        let secrets = pem.lines().filter(|line| line.len() == 64).map(str::to_owned).collect();
        Self { given, shown, secrets }
    }
}

/// The id of the key that a request is signed with: of Amazon the access key, of Google the key of the token.
fn key_of(signed: &str) -> String {
    if let Some(token) = signed.strip_prefix("Bearer ") {
        let head = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        return serde_json::from_slice::<Value>(&head).unwrap()["kid"].as_str().unwrap().to_owned();
    }
    let credential = signed.split_once("Credential=").unwrap_or_else(|| panic!("not signed: {signed}")).1;
    credential.split('/').next().unwrap().to_owned()
}

/// Waits until something is delivered with this key: the deliverer hears of a change within moments.
async fn delivered_with(cloud: &Cloud, client: &Client, address: &str, key: &str) {
    let mut number = 0;
    wait::until(&format!("a delivery with {key}"), SOON, async || {
        number += 1;
        let before = cloud.proxy.requests_to(address).len();
        client.publish(&Event::order(&format!("{key}_{number}"))).await.expect(202);
        let sent = async || cloud.proxy.requests_to(address).len() > before;
        wait::until_true("the next request", Duration::from_secs(10), sent).await;
        let last = key_of(cloud.proxy.requests_to(address).last().unwrap().header("authorization"));
        if last == key { Ok(()) } else { Err(last) }
    })
    .await;
}

async fn keys_of_a_merchants_own_are_used_for_it_alone_sealed_and_shown_to_nobody(cloud: Cloud) {
    let stack = Stack::plan().cloud(&cloud).env("SHOPERY_LOG", "debug").start().await;
    let client = stack.client("tnt_a");
    let is_amazon = cloud.kind == DestinationKind::EventBridge;
    let [id, second_id] = if is_amazon { [OWN_KEY_ID, "AKIAANOTHEROFMERCHAN"] } else { ["0a1b2c3d", "4e5f6a7b"] };
    let (first, second) = if is_amazon {
        (Own::aws(id, OWN_KEY), Own::aws(second_id, "another/merchants+own/key/of/e2e/suite22"))
    } else {
        (Own::google(id), Own::google(second_id))
    };
    // Whose it is needs no showing by whoever has a key of it.
    let address = if is_amazon { cloud.make("own", "tnt_a").await } else { cloud.make_unlabelled("own").await };
    let beside = cloud.make("beside", "tnt_a").await;
    let webhook = client.create_webhook_with(&address, &["*"], json!({ "credentials": first.given })).await;
    client.create_webhook(&beside, &["*"]).await;
    let path = format!("/company/webhooks/{webhook}");
    assert_eq!(client.get(&path).await.expect(200).json()["credentials"], first.shown);
    delivered_with(&cloud, &client, &address, id).await;
    client.settled(&webhook, 1, SOON).await;

    // Rotated; what is masked is kept, and what is not of this kind is refused.
    let changed = client.patch(&path, &json!({ "credentials": second.given })).await.expect(200).json();
    assert_eq!(changed["credentials"], second.shown);
    client.patch(&path, &json!({ "credentials": second.shown })).await.expect(200);
    let problem = client.patch(&path, &json!({ "credentials": first.shown })).await.expect(422).problem();
    assert!(problem["errors"][0]["field"].as_str().unwrap().starts_with("credentials."), "{problem}");
    let other = if is_amazon { Own::google("0a1b2c3d") } else { Own::aws(OWN_KEY_ID, OWN_KEY) };
    let problem = client.patch(&path, &json!({ "credentials": other.given })).await.expect(422).problem();
    assert_eq!(problem["errors"][0]["field"], "credentials", "{problem}");
    delivered_with(&cloud, &client, &address, second_id).await;

    // In one request there is what one principal sends.
    for request in cloud.proxy.requests().iter().filter(|request| is_amazon && !request.entries.is_empty()) {
        let signed = request.header("authorization");
        let is_platforms = signed.contains(PLATFORM_KEY_ID);
        assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential="), "{signed}");
        let destination = if is_platforms { &beside } else { &address };
        assert!(request.entries.iter().all(|entry| entry.destination == *destination), "{request:?}");
    }
    let stored = Stored::of(&stack).await;
    let secrets = [&first.secrets[..], &second.secrets[..], &[PLATFORM_KEY.to_owned()][..]].concat();
    stored.assert_without(secrets.iter().map(|secret| ("a key of a cloud", secret.as_str())));
    for seen in [
        client.get(&path).await.text(),
        client.get(&format!("{path}/changes")).await.text(),
        client.get(&format!("{path}/secret")).await.text(),
    ] {
        assert!(secrets.iter().all(|secret| !seen.contains(secret)), "{seen}");
    }
    for service in [Service::Api, Service::Deliverer] {
        assert!(!stack.log(service).is_empty(), "{} has logged nothing to search", service.name());
    }
    // Without them the platform's are used, which nobody has let in at this topic.
    if is_amazon {
        client.patch(&path, &json!({ "credentials": null })).await.expect(200);
        delivered_with(&cloud, &client, &address, PLATFORM_KEY_ID).await;
    } else {
        let problem = client.patch(&path, &json!({ "credentials": null })).await.expect(422).problem();
        assert_eq!(problem["errors"][0]["field"], "url", "{problem}");
    }
}

async fn what_waits_is_sent_at_once_when_there_are_other_keys(cloud: Cloud) {
    // Nothing else would try again for as long as the test runs.
    let plan = Stack::plan().cloud(&cloud).env("SHOPERY_PROBE_FIRST", "1h").env("SHOPERY_PROBE_LONGEST", "1h");
    let stack = plan.env("SHOPERY_RETRY_SCHEDULE", "1h").start().await;
    let client = stack.client("tnt_a");
    let (first, second) = match cloud.kind {
        DestinationKind::EventBridge => (
            Own::aws(OWN_KEY_ID, OWN_KEY),
            Own::aws("AKIAANOTHEROFMERCHAN", "another/merchants+own/key/of/e2e/suite22"),
        ),
        _ => (Own::google("0a1b2c3d"), Own::google("4e5f6a7b")),
    };
    let address = cloud.make("own", "tnt_a").await;
    let webhook = client.create_webhook_with(&address, &["*"], json!({ "credentials": first.given })).await;
    cloud.proxy.behave(&address, Fault::denied(cloud.kind));
    client.publish(&Event::order("first")).await.expect(202);
    client.in_state(&webhook, "pending", 1, SOON).await;
    for number in 0..10 {
        client.publish(&Event::order(&format!("parked_{number}"))).await.expect(202);
    }
    client.in_state(&webhook, "parked", 10, SOON).await;
    cloud.proxy.heal(&address);
    client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "credentials": second.given })).await.expect(200);
    client.in_state(&webhook, "delivered", 10, SOON).await;
}

fn text(request: &Request) -> String {
    String::from_utf8_lossy(&request.body).into_owned()
}

/// STS gives keys for a while; they are as secret as those that last.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_the_merchants_is_assumed_and_its_keys_are_kept_nowhere() {
    let cloud = Cloud::amazon().await;
    let stack = Stack::plan().cloud(&cloud).env("SHOPERY_LOG", "debug").start().await;
    let client = stack.client("tnt_a");
    let address = cloud.make("own", "tnt_a").await;
    let role = format!("arn:aws:iam::{ACCOUNT}:role/shopery");
    let credentials = json!({
        "accessKeyId": OWN_KEY_ID, "secretAccessKey": OWN_KEY, "roleArn": role, "externalId": "tnt_a-4711",
    });
    let webhook = client.create_webhook_with(&address, &["*"], json!({ "credentials": credentials })).await;
    for number in 0..20 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    client.settled(&webhook, 20, SOON).await;
    let requests = cloud.proxy.requests();
    let assumed: Vec<_> = requests.iter().filter(|request| text(request).contains("Action=AssumeRole")).collect();
    // One of the api, which tried it, and one of the deliverer.
    assert_eq!(assumed.len(), 2, "keys that last an hour were asked for again");
    let mut temporary = Vec::new();
    for request in &assumed {
        assert!(request.header("authorization").contains(OWN_KEY_ID), "{:?}", request.headers);
        assert!(text(request).contains("tnt_a-4711"), "{}", text(request));
        let answer = request.answer();
        for (start, end) in [("<SecretAccessKey>", "</SecretAccessKey>"), ("<SessionToken>", "</SessionToken>")] {
            let (_, rest) = answer.split_once(start).unwrap();
            temporary.push(rest.split_once(end).unwrap().0.to_owned());
        }
    }
    for request in cloud.proxy.requests_to(&address) {
        assert!(request.header("authorization").contains("Credential=ASIA"), "{}", request.header("authorization"));
        assert!(temporary.iter().any(|token| token == request.header("x-amz-security-token")));
    }
    let stored = Stored::of(&stack).await;
    stored.assert_without(temporary.iter().map(|secret| ("a temporary key", secret.as_str())));
}
