//! Event buses and topics as far as no cloud is needed: what is refused and why, credentials that nobody is shown, and how an owner
//! lets us in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shopery_e2e::stack::Plan;
use shopery_e2e::{Client, DatabaseKind, Person, Service, Stack, ports};
use shopery_model::EndpointSecret;

const BUS: &str = "arn:aws:events:eu-west-1:123456789012:event-bus/orders";
const TOPIC: &str = "pubsub://shop-analytics/orders";
const PRINCIPAL: &str = "arn:aws:iam::999999999999:role/shopery";
const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
/// What no answer and no log may have.
const SECRETS: [&str; 3] = ["amazons-own-secret", "another-of-amazons", "MIIEgooglesOwnKey"];

on_both_databases!(credentials_are_kept_replaced_and_shown_to_nobody);

fn amazon(secret: &str) -> Value {
    json!({ "accessKeyId": KEY_ID, "secretAccessKey": secret })
}

/// A key file, with members that we have no use for.
fn google() -> Value {
    json!({
        "type": "service_account", "project_id": "shop-analytics", "private_key_id": "0a1b2c",
        "private_key": format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", SECRETS[2]),
        "client_email": "hooks@shop-analytics.iam.gserviceaccount.com", "token_uri": "https://evil.example/token",
    })
}

fn google_masked() -> Value {
    json!({
        "client_email": "hooks@shop-analytics.iam.gserviceaccount.com", "private_key": "***", "private_key_id": "0a1b2c",
    })
}

/// A platform with principals, whose clouds do not answer.
fn with_principals() -> Plan {
    Stack::plan()
        .env("SHOPERY_AWS_PRINCIPAL", PRINCIPAL)
        .env("AWS_ACCESS_KEY_ID", "AKIAPLATFORMSOWN0001")
        .env("AWS_SECRET_ACCESS_KEY", "the-platforms-own-secret")
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", ports::free()))
        .env("PUBSUB_EMULATOR_HOST", format!("127.0.0.1:{}", ports::free()))
}

/// A webhook that is saved without a try, as it is paused.
fn paused(url: &str, more: Value) -> Value {
    let mut body = json!({ "name": "n", "url": url, "events": ["*"], "isEnabled": false });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The fields of a refusal, and what is said of the first of them.
fn wrong(problem: &Value) -> (Vec<&str>, &str) {
    let errors = problem["errors"].as_array().unwrap();
    let fields = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
    (fields, errors[0]["detail"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_together_is_refused_by_its_field() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let (key, file, https) = (amazon(SECRETS[0]), google(), "https://test.com/wh");
    let headers = json!({ "X-A": "a" });
    for (url, more, fields, told) in [
        (BUS, json!({}), ["credentials"].as_slice(), "needed"),
        (TOPIC, json!({}), &["credentials"], "needed"),
        (BUS, json!({ "credentials": key, "headers": headers }), &["headers"], "event bus"),
        (TOPIC, json!({ "credentials": file, "headers": headers }), &["headers"], "topic"),
        (BUS, json!({ "credentials": file }), &["credentials"], "Google"),
        (TOPIC, json!({ "credentials": key }), &["credentials"], "Amazon"),
        (https, json!({ "credentials": key }), &["credentials"], "HTTPS endpoint"),
        (BUS, json!({ "credentials": "AKIA" }), &["credentials"], "accessKeyId"),
        (BUS, json!({ "credentials": amazon("***") }), &["credentials.secretAccessKey"], "***"),
        (BUS, json!({ "credentials": { "accessKeyId": "short" } }), &["credentials.secretAccessKey"], "missing"),
        ("arn:aws:events:us-east-1::event-source/aws.partner/a/b", json!({}), &["url"], "partner"),
        ("pubsub://shop-analytics", json!({}), &["url"], "<topic>"),
    ] {
        let refused = client.post("/company/webhooks", &paused(url, more.clone())).await.expect(422).problem();
        let (named, detail) = wrong(&refused);
        assert!(named == fields && detail.contains(told), "{url} {more}: {refused}");
        // A Test says the same.
        let mut tested = json!({ "url": url });
        tested.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let tested = client.post("/company/webhooks/test", &tested).await.expect(422).problem();
        assert_eq!(wrong(&tested).0, fields, "{tested}");
    }
    let both = json!({ "credentials": key, "headers": headers, "signature": "both" });
    let refused = client.post("/company/webhooks", &paused(BUS, both)).await.expect(422).problem();
    assert_eq!(wrong(&refused).0, ["headers", "signature"]);

    // It is the webhook as it would be that is judged, whatever of it is changed.
    let more = json!({ "headers": headers, "signature": "asymmetric" });
    let created = client.post("/company/webhooks", &paused(https, more)).await.expect(201).json();
    let path = format!("/company/webhooks/{}", created["id"].as_str().unwrap());
    let move_to = json!({ "url": BUS, "credentials": key });
    assert_eq!(wrong(&client.patch(&path, &move_to).await.expect(422).problem()).0, ["headers", "signature"]);
    let whole = json!({ "url": BUS, "credentials": key, "headers": null, "signature": "symmetric" });
    assert_eq!(client.patch(&path, &whole).await.expect(200).json()["kind"], "eventbridge");
    assert_eq!(wrong(&client.patch(&path, &json!({ "headers": headers })).await.expect(422).problem()).0, ["headers"]);
    let signature = json!({ "signature": "both" });
    assert_eq!(wrong(&client.patch(&path, &signature).await.expect(422).problem()).0, ["signature"]);
    client.patch(&path, &json!({ "name": "other", "ordered": true })).await.expect(200);
}

async fn credentials_are_kept_replaced_and_shown_to_nobody(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let created = client.post("/company/webhooks", &paused(BUS, json!({ "credentials": amazon(SECRETS[0]) }))).await;
    let path = format!("/company/webhooks/{}", created.expect(201).json()["id"].as_str().unwrap());
    let found = client.get(&path).await.expect(200).json();
    assert_eq!((&found["kind"], &found["url"]), (&json!("eventbridge"), &json!(BUS)));
    assert_eq!(found["credentials"], amazon("***"));
    assert_eq!(client.all("/company/webhooks").await[0]["credentials"], amazon("***"));

    // What was shown is sent back with a role: the secret stays. Of another key there is none.
    let role = "arn:aws:iam::123456789012:role/shopery";
    let mut with_role = amazon("***");
    with_role["roleArn"] = json!(role);
    let changed = client.patch(&path, &json!({ "credentials": with_role })).await.expect(200).json();
    assert_eq!(changed["credentials"], with_role);
    let other = json!({ "credentials": { "accessKeyId": "AKIAIOSFODNN7ANOTHER", "secretAccessKey": "***" } });
    assert_eq!(wrong(&client.patch(&path, &other).await.expect(422).problem()).0, ["credentials.secretAccessKey"]);
    client.patch(&path, &json!({ "credentials": amazon(SECRETS[1]) })).await.expect(200);
    // Without any there is no principal that could publish.
    assert_eq!(
        wrong(&client.patch(&path, &json!({ "credentials": null })).await.expect(422).problem()).0,
        ["credentials"]
    );

    // To another kind they are replaced, or taken away.
    let https = stack.merchant.url("/a");
    assert_eq!(wrong(&client.patch(&path, &json!({ "url": TOPIC })).await.expect(422).problem()).0, ["credentials"]);
    assert_eq!(wrong(&client.patch(&path, &json!({ "url": https })).await.expect(422).problem()).0, ["credentials"]);
    let moved = client.patch(&path, &json!({ "url": TOPIC, "credentials": google() })).await.expect(200).json();
    assert_eq!((&moved["kind"], &moved["credentials"]), (&json!("pubsub"), &google_masked()));
    let moved = client.patch(&path, &json!({ "url": https, "credentials": null })).await.expect(200).json();
    assert_eq!((&moved["kind"], moved.get("credentials")), (&json!("https"), None));

    let changes = client.all(&format!("{path}/changes")).await;
    let of: Vec<_> = changes.iter().rev().map(|change| change["changes"]["credentials"].clone()).collect();
    let change = |from: &Value, to: &Value| json!({ "from": from, "to": to });
    let expected = [
        json!({ "to": amazon("***") }),
        change(&amazon("***"), &with_role),
        change(&with_role, &amazon("***")),
        change(&amazon("***"), &google_masked()),
        json!({ "from": google_masked() }),
    ];
    assert_eq!(of, expected);
    let shown = [changes, client.all("/company/webhooks").await].concat();
    let told = Value::from(shown).to_string() + &stack.log(Service::Api);
    for secret in SECRETS {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
}

async fn setup(client: &Client, url: &str) -> Value {
    let url = percent_encoding::utf8_percent_encode(url, percent_encoding::NON_ALPHANUMERIC);
    client.get(&format!("/company/destinations/setup?url={url}")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn how_to_let_us_in_is_shown_for_each_tenant_and_address() {
    let stack = with_principals().start().await;
    let (ours, theirs) = (stack.client("tnt_a"), stack.client("tnt_b"));
    let bus = setup(&ours, BUS).await;
    assert_eq!((&bus["kind"], &bus["principal"]), (&json!("eventbridge"), &json!(PRINCIPAL)));
    let statement = &bus["policy"]["Statement"][0];
    assert_eq!((&statement["Resource"], &statement["Principal"]), (&json!(BUS), &json!({ "AWS": PRINCIPAL })));
    assert_eq!(statement["Condition"], json!({ "StringEquals": { "events:source": "shopery/tnt_a" } }));
    let command = bus["commands"][0].as_str().unwrap();
    assert!(command.starts_with("aws events put-permission --region eu-west-1 --event-bus-name orders --policy '{"));
    // What is pasted is the policy that is shown.
    let pasted = command.split_once('\'').unwrap().1.strip_suffix('\'').unwrap();
    assert_eq!(serde_json::from_str::<Value>(pasted).unwrap(), bus["policy"]);
    assert_eq!(setup(&theirs, BUS).await["source"], "shopery/tnt_b");

    let topic = setup(&ours, TOPIC).await;
    assert_eq!((&topic["kind"], &topic["label"], topic.get("policy")), (&json!("pubsub"), &json!("tnt_a"), None));
    assert_eq!(
        topic["commands"][0],
        "gcloud pubsub topics update orders --project=shop-analytics --update-labels=shopery-tenant=tnt_a"
    );
    for (query, told) in [
        ("", "missing"),
        ("?url=https://test.com/wh", "HTTPS endpoint"),
        ("?url=arn:aws:sns:us-east-1:123456789012:orders", "must be the ARN"),
    ] {
        let refused = ours.get(&format!("/company/destinations/setup{query}")).await.expect(422).problem();
        let (fields, detail) = wrong(&refused);
        assert!(fields == ["url"] && detail.contains(told), "{refused}");
    }
    // In the platform's own account no policy of the bus would be asked.
    let ours_alone = BUS.replace("123456789012", "999999999999");
    let refused = ours.post("/company/webhooks", &paused(&ours_alone, json!({}))).await.expect(422).problem();
    assert_eq!(wrong(&refused).0, ["url"]);

    // The same at a prompt: what can be pasted on stdout, what it does on stderr.
    let person = Person::of(&stack, "tnt_a");
    let ran = person.run(&["webhooks", "setup", BUS]).await;
    assert_eq!((ran.code, ran.out.trim_end()), (0, command), "{}", ran.err);
    assert!(ran.err.contains("shopery/tnt_a"), "{}", ran.err);
    assert_eq!(person.json(&["webhooks", "setup", TOPIC]).await, topic);
    assert!(person.fails(1, &["webhooks", "setup", "https://test.com/wh"]).await.contains("--url"));
}

/// The clouds of this platform do not answer, which says nothing of what is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_nobody_has_shown_to_be_ones_own_is_not_enabled() {
    let stack = with_principals().start().await;
    let client = stack.client("tnt_a");
    let enabled = |url: &str| json!({ "name": "n", "url": url, "events": ["*"] });
    // What keeps a bus from others is its policy, so it is saved.
    client.post("/company/webhooks", &enabled(BUS)).await.expect(201);
    let refused = client.post("/company/webhooks", &enabled(TOPIC)).await.expect(503).problem();
    assert!(refused["detail"].as_str().unwrap().contains("shown to be yours"), "{refused}");
    let id = client.post("/company/webhooks", &paused(TOPIC, json!({}))).await.expect(201).json()["id"].clone();
    let path = format!("/company/webhooks/{}", id.as_str().unwrap());
    client.patch(&path, &json!({ "isEnabled": true })).await.expect(503);
    client.patch(&path, &json!({ "isEnabled": true, "url": TOPIC.replace("orders", "others") })).await.expect(503);
    let found = client.get(&path).await.expect(200).json();
    assert_eq!((&found["state"], &found["url"]), (&json!("paused"), &json!(TOPIC)));

    // Nor is one that is enabled moved there.
    let endpoint = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let path = format!("/company/webhooks/{endpoint}");
    client.patch(&path, &json!({ "url": TOPIC })).await.expect(503);
    let found = client.patch(&path, &json!({ "url": TOPIC, "isEnabled": false })).await.expect(200).json();
    assert_eq!(found["state"], "paused");
    client.patch(&path, &json!({ "isEnabled": true, "url": stack.merchant.url("/b") })).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_given_at_a_prompt_by_a_file_alone() {
    let stack = Stack::start().await;
    let person = Person::of(&stack, "tnt_a");
    let file = |name: &str, json: &Value| std::fs::write(person.home.join(name), json.to_string()).unwrap();
    file("amazon.json", &amazon(SECRETS[0]));
    file("google.json", &google());
    let create = ["webhooks", "create", "--name", "n", "--url", BUS, "--event", "*", "--disabled", "--credentials"];
    let argument = amazon(SECRETS[0]).to_string();
    let refused = person.fails(2, &[&create[..], &[argument.as_str()]].concat()).await;
    assert!(refused.contains("--credentials") && !refused.contains(SECRETS[0]), "{refused}");
    let id = person.ok(&[&create[..], &["amazon.json"]].concat()).await;
    assert_eq!(person.json(&["webhooks", "get", &id]).await["credentials"], amazon("***"));
    let wrong = person.fails(1, &["webhooks", "update", &id, "--url", TOPIC]).await;
    assert!(wrong.contains("--credentials: are those of Amazon"), "{wrong}");
    let moved = person
        .pipe(
            &["webhooks", "update", &id, "--url", TOPIC, "--credentials", "-", "--json"],
            google().to_string().as_bytes(),
        )
        .await;
    assert_eq!(moved.code, 0, "{}", moved.err);
    let moved: Value = serde_json::from_str(&moved.out).unwrap();
    assert_eq!((&moved["kind"], &moved["credentials"]), (&json!("pubsub"), &google_masked()));
    let url = stack.merchant.url("/a");
    let moved = person.json(&["webhooks", "update", &id, "--url", &url, "--clear", "credentials"]).await;
    assert_eq!((&moved["kind"], moved.get("credentials")), (&json!("https"), None));
    let tested = person.fails(1, &["webhooks", "test", "--url", BUS, "--credentials", "google.json"]).await;
    assert!(tested.contains("are those of Google"), "{tested}");
}

/// As a target of a rule and a subscriber have them: see `clouds` for what really arrives.
#[tokio::test(flavor = "multi_thread")]
async fn what_buses_and_topics_pass_on_is_verified_at_a_prompt() {
    let stack = Stack::start().await;
    let person = Person::without_variables(&stack, "tnt_a");
    let secret = EndpointSecret::generate().unwrap();
    std::fs::write(person.home.join("secret"), secret.expose()).unwrap();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let metadata = |signed: &str| {
        let signature = secret.sign("dlv_1", now, signed.as_bytes());
        json!({ "webhook-id": "dlv_1", "webhook-timestamp": now.to_string(), "webhook-signature": signature })
    };
    let (sent, canonical) = (r#"{"total":59.80,"id":"ord_1"}"#, r#"{"id":"ord_1","total":59.8}"#);
    let event = format!(
        r#"{{"version":"0","detail-type":"order-paid","source":"shopery/tnt_a","detail":{{"payload":{sent},"metadata":{}}}}}"#,
        metadata(canonical)
    );
    let data = STANDARD.encode(sent);
    let push = json!({ "message": { "data": data, "attributes": metadata(sent) }, "subscription": "s" }).to_string();
    for arrived in [&event, &push] {
        let good = person.pipe(&["verify", "--secret", "@secret"], arrived.as_bytes()).await;
        assert_eq!((good.code, good.out.trim_end()), (0, "verified, by a v1 signature"), "{}", good.err);
        let changed = arrived.replace("dlv_1", "dlv_2");
        let bad = person.pipe(&["verify", "--secret", "@secret", "--json"], changed.as_bytes()).await;
        let told: Value = serde_json::from_str(&bad.out).unwrap();
        assert_eq!((bad.code, &told["verified"], &told["id"]), (1, &json!(false), &json!("dlv_2")));
    }
}
