//! What clouds answer when they do not take a message, and what becomes of the delivery.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shopery_e2e::fault_proxy::{Request, STS};
use shopery_e2e::stack::Plan;
use shopery_e2e::{Client, Cloud, Event, Fault, Folder, Service, Stack, wait};
use shopery_local::emulators::ACCOUNT;
use shopery_model::DestinationKind;

use super::SOON;

on_both_clouds!(
    what_is_denied_or_missing_opens_the_circuit_at_once_and_its_owner_is_told,
    a_save_and_the_test_call_say_what_is_denied_and_what_is_missing,
    what_passes_is_retried_until_it_is_delivered,
    a_throttled_account_paces_all_its_webhooks_and_no_endpoint_of_https,
);

/// Circuits that are probed soon.
fn plan(cloud: &Cloud) -> Plan {
    Stack::plan().cloud(cloud).env("SHOPERY_PROBE_FIRST", "300ms").env("SHOPERY_PROBE_LONGEST", "1s")
}

async fn publish(client: &Client, event_type: &str, name: &str, count: usize) -> HashSet<String> {
    let events: Vec<_> = (0..count).map(|number| Event::new(event_type, &format!("{name}_{number}"))).collect();
    client.try_publish_batch(&events).await.unwrap().expect(202);
    events.into_iter().map(|event| event.id).collect()
}

/// The attempts of all deliveries of a webhook that have failed.
async fn failed_attempts(client: &Client, webhook: &str) -> Vec<Value> {
    let mut failed = Vec::new();
    for delivery in client.all(&format!("/company/webhooks/{webhook}/deliveries")).await {
        let whole = client.delivery(&delivery["id"]).await;
        failed.extend(whole["attempts"].as_array().unwrap().iter().filter(|one| !one["error"].is_null()).cloned());
    }
    failed
}

async fn what_is_denied_or_missing_opens_the_circuit_at_once_and_its_owner_is_told(cloud: Cloud) {
    // Probes that are far apart, so that nothing but the first attempt has opened it.
    let plan = Stack::plan().cloud(&cloud).env("SHOPERY_PROBE_FIRST", "2s").env("SHOPERY_PROBE_LONGEST", "2s");
    let stack = plan.env("SHOPERY_RETRY_SCHEDULE", "1h").env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/operations"), &["webhook-*"]).await;
    let (denied, missing) = (cloud.make("denied", "tnt_a").await, cloud.make("missing", "tnt_a").await);
    let of_denied = client.create_webhook(&denied, &["order-*"]).await;
    let of_missing = client.create_webhook(&missing, &["product-*"]).await;
    cloud.proxy.behave(&denied, Fault::denied(cloud.kind));
    cloud.delete("missing").await;
    let (code_of_missing, code_of_denied) = match cloud.kind {
        DestinationKind::PubSub => ("NOT_FOUND", "PERMISSION_DENIED"),
        _ => ("ResourceNotFoundException", "AccessDeniedException"),
    };
    let cases = [
        (&of_denied, &denied, "order-created", "access_denied", code_of_denied),
        (&of_missing, &missing, "product-created", "destination_not_found", code_of_missing),
    ];
    for (webhook, _, event_type, reason, code) in cases {
        client.publish(&Event::new(event_type, &format!("{reason}_first"))).await.expect(202);
        let delivery = client.in_state(webhook, "pending", 1, SOON).await.remove(0);
        let attempts = client.delivery(&delivery["id"]).await["attempts"].clone();
        let [attempt] = attempts.as_array().unwrap().as_slice() else { panic!("{attempts}") };
        assert_eq!((&attempt["error"]["reason"], &attempt["response"]["code"]), (&json!(reason), &json!(code)));
        let detail = attempt["error"]["detail"].as_str().unwrap();
        assert!(detail.contains(code) && detail.contains(' '), "{attempt}");
        // One failure was enough.
        publish(&client, event_type, reason, 10).await;
        client.in_state(webhook, "parked", 10, SOON).await;
    }
    let told = stack.merchant.wait_at("/operations", 2, SOON).await;
    for (webhook, address, _, reason, code) in cases {
        let mut bodies = told.iter().map(|one| serde_json::from_slice::<Value>(&one.body).unwrap());
        let body = bodies.find(|body| body["id"] == *webhook).unwrap();
        assert_eq!((&body["error"]["reason"], &body["url"]), (&json!(reason), &json!(address)), "{body}");
        assert!(body["error"]["detail"].as_str().unwrap().contains(code), "{body}");
        let attempts = cloud.proxy.attempts_at(address).len();
        assert!(attempts < 15, "{attempts} attempts to publish where that cannot be");
    }
    cloud.proxy.heal(&denied);
    // The first one waits for its retry.
    client.in_state(&of_denied, "delivered", 10, SOON).await;
    let recovered = stack.merchant.wait_at("/operations", 3, SOON).await.remove(2);
    assert_eq!(recovered.header("x-shopery-event"), "webhook-recovered");
}

async fn a_save_and_the_test_call_say_what_is_denied_and_what_is_missing(cloud: Cloud) {
    let stack = plan(&cloud).start().await;
    let client = stack.client("tnt_a");
    let (denied, missing) = (cloud.make("denied", "tnt_a").await, cloud.address("missing"));
    let good = cloud.make("good", "tnt_a").await;
    let webhook = client.create_webhook(&good, &["*"]).await;
    let path = format!("/company/webhooks/{webhook}");
    cloud.proxy.behave(&denied, Fault::denied(cloud.kind));
    for (address, reason) in [(&denied, "access_denied"), (&missing, "destination_not_found")] {
        let body = json!({ "name": "a webhook", "url": address, "events": ["*"], "isEnabled": true });
        for refused in
            [client.post("/company/webhooks", &body).await, client.patch(&path, &json!({ "url": address })).await]
        {
            let problem = refused.expect(422).problem();
            assert_eq!(problem["errors"][0]["field"], "url", "{problem}");
            let detail = problem["errors"][0]["detail"].as_str().unwrap();
            assert!(detail.len() > 40 && detail.contains(' '), "{problem}");
            if reason == "access_denied" {
                assert!(detail.contains("/company/destinations/setup"), "{problem}");
            }
        }
        let report = client.post("/company/webhooks/test", &json!({ "url": address })).await.expect(200).json();
        assert_eq!((&report["success"], &report["error"]["reason"]), (&json!(false), &json!(reason)), "{report}");
        assert!(report["error"]["detail"].as_str().unwrap().contains(' ') && report["advice"].is_string(), "{report}");
    }
    let all = client.all("/company/webhooks").await;
    assert_eq!((all.len(), &all[0]["url"]), (1, &json!(good)), "{all:?}");

    // One that is saved paused is tried when it is enabled.
    let paused = client.create_webhook_with(&denied, &["*"], json!({ "isEnabled": false })).await;
    let enable = json!({ "isEnabled": true });
    let problem = client.patch(&format!("/company/webhooks/{paused}"), &enable).await.expect(422).problem();
    assert_eq!(problem["errors"][0]["field"], "url", "{problem}");
    cloud.proxy.heal(&denied);
    client.patch(&format!("/company/webhooks/{paused}"), &enable).await.expect(200);
}

async fn what_passes_is_retried_until_it_is_delivered(cloud: Cloud) {
    let stack = plan(&cloud).env("SHOPERY_ACK_WAIT", "20s").start().await;
    let client = stack.client("tnt_a");
    let code = Fault::broken(cloud.kind).code();
    for (event_type, name, fault, reason, code) in [
        ("order-created", "broken", Fault::broken(cloud.kind), "provider_error", json!(code)),
        ("product-created", "silent", Fault::Hang, "timeout", Value::Null),
    ] {
        let address = cloud.make(name, "tnt_a").await;
        let webhook = client.create_webhook(&address, &[event_type]).await;
        cloud.proxy.behave_times(&address, fault, 1);
        let event = Event::new(event_type, name);
        client.publish(&event).await.expect(202);
        let delivery = client.in_state(&webhook, "delivered", 1, SOON).await.remove(0);
        let whole = client.delivery(&delivery["id"]).await;
        let [first, second] = whole["attempts"].as_array().unwrap().as_slice() else { panic!("{whole}") };
        assert_eq!((&first["error"]["reason"], &second["error"]), (&json!(reason), &Value::Null), "{whole}");
        assert_eq!(first["response"]["code"], code, "{whole}");
        assert!(second["response"]["messageId"].is_string(), "{whole}");
        if reason == "timeout" {
            let took = first["durationMs"].as_u64().unwrap();
            assert!((4000..6500).contains(&took), "{took} ms");
        }
        let received = cloud.wait_at(&address, 1, SOON).await;
        assert_eq!(received.len(), 1);
        assert_eq!((received[0].event_id(), received[0].name("x-shopery-attempt")), (event.id, "2"));
    }
}

async fn a_throttled_account_paces_all_its_webhooks_and_no_endpoint_of_https(cloud: Cloud) {
    // No circuit opens: what is paced is the account.
    let stack = plan(&cloud).env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let client = stack.client("tnt_a");
    let (places, each) = (5, 40);
    let mut webhooks = Vec::new();
    for number in 0..places {
        let address = cloud.make(&format!("orders_{number}"), "tnt_a").await;
        webhooks.push((client.create_webhook(&address, &["order-*"]).await, address));
    }
    let endpoint = client.create_webhook(&stack.merchant.url("/endpoint"), &["order-*"]).await;
    for (_, address) in &webhooks {
        cloud.proxy.behave(address, Fault::throttled(cloud.kind));
    }
    let began = Instant::now();
    let published = publish(&client, "order-created", "o", each).await;
    stack.merchant.wait_at("/endpoint", each, SOON).await;
    let beside = began.elapsed();
    assert!(beside < Duration::from_secs(3), "an endpoint was paced: {beside:?}");
    let requests = async || {
        let all = cloud.proxy.requests().into_iter();
        let at: Vec<_> = all.filter(|one| one.at >= began && !one.entries.is_empty()).map(|one| one.at).collect();
        let Some(first) = at.first().copied() else { return Err("nothing was sent".to_owned()) };
        if first.elapsed() < Duration::from_secs(3) { Err(format!("{} requests", at.len())) } else { Ok((first, at)) }
    };
    let (first, at) = wait::until("three seconds of throttling", SOON, requests).await;
    let later = at.iter().filter(|at| **at > first + Duration::from_secs(1)).count();
    println!("{} requests for {} deliveries, {later} of them after the first second", at.len(), places * each);
    // Each pause is twice as long as the one before, from 100 ms on: from the first second on there are few requests, though all
    // deliveries are to be tried again by then.
    assert!(later <= 12, "{later} requests");
    for (_, address) in &webhooks {
        cloud.proxy.heal(address);
    }
    for (webhook, address) in &webhooks {
        let history = client.settled(webhook, each, SOON).await;
        assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
        let received: HashSet<_> = cloud.wait_at(address, each, SOON).await.iter().map(|one| one.event_id()).collect();
        assert_eq!(received, published);
    }
    let mut failed = Vec::new();
    for (webhook, _) in &webhooks {
        failed.extend(failed_attempts(&client, webhook).await);
    }
    assert!(!failed.is_empty() && failed.iter().all(|one| one["error"]["reason"] == "throttled"), "{failed:?}");
    assert_eq!(failed_attempts(&client, &endpoint).await, Vec::<Value>::new());
    client.settled(&endpoint, each, SOON).await;
}

/// PutEvents answers 200 and fails some of its entries: those alone are sent again.
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_fail_alone_are_sent_again_alone() {
    let cloud = Cloud::amazon().await;
    let stack = plan(&cloud).env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let client = stack.client("tnt_a");
    let address = cloud.make("orders", "tnt_a").await;
    let webhook = client.create_webhook(&address, &["*"]).await;
    cloud.proxy.behave(&address, Fault::RefuseEveryOther { code: "InternalFailure" });
    let published = publish(&client, "order-created", "o", 60).await;
    let history = client.settled(&webhook, 60, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    let received: Vec<_> = cloud.wait_at(&address, 60, SOON).await.iter().map(|one| one.event_id()).collect();
    assert_eq!(received.len(), 60, "what had been accepted was sent again");
    assert_eq!(received.into_iter().collect::<HashSet<_>>(), published);
    let attempts = cloud.proxy.attempts_at(&address);
    assert_eq!(attempts.len(), 90, "30 of 60 failed once");
    assert!(cloud.proxy.requests_to(&address).len() < 90, "nothing was sent in a batch");
    let failed = failed_attempts(&client, &webhook).await;
    assert_eq!(failed.len(), 30);
    for attempt in failed {
        let told = (&attempt["error"]["reason"], &attempt["response"]["code"]);
        assert_eq!(told, (&json!("provider_error"), &json!("InternalFailure")), "{attempt}");
    }

    // What the cloud will never take fails at once, and nothing else with it.
    cloud.proxy.behave(&address, Fault::RefuseText { code: "MalformedDetail", text: "p_7".to_owned() });
    client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "events": ["product-*"] })).await.expect(200);
    publish(&client, "product-created", "p", 10).await;
    let failed = wait::until("one to fail", SOON, async || {
        let failed = client.all(&format!("/company/webhooks/{webhook}/deliveries?status=failed")).await;
        if failed.is_empty() { Err("none has".to_owned()) } else { Ok(failed) }
    })
    .await;
    client.in_state(&webhook, "delivered", 69, SOON).await;
    let [failed] = failed.as_slice() else { panic!("{failed:?}") };
    assert_eq!((&failed["eventId"], &failed["attemptCount"]), (&json!("evt_p_7"), &json!(1)), "{failed}");
    assert_eq!(failed["error"]["reason"], "message_rejected", "{failed}");
}

/// Amazon decides about a request as a whole, so a request with entries for several buses would fail all of them for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_denied_or_missing_fails_no_other_tenants_deliveries() {
    let cloud = Cloud::amazon().await;
    let stack = plan(&cloud).start().await;
    let (bad, good) = (stack.client("tnt_a"), stack.client("tnt_b"));
    let (denied, missing) = (cloud.make("denied", "tnt_a").await, cloud.make("missing", "tnt_a").await);
    let address = cloud.make("good", "tnt_b").await;
    for bus in [&denied, &missing] {
        bad.create_webhook(bus, &["*"]).await;
    }
    let webhook = good.create_webhook(&address, &["*"]).await;
    cloud.proxy.behave(&denied, Fault::denied(cloud.kind));
    cloud.delete("missing").await;
    let mut published = HashSet::new();
    for round in 0..5 {
        let name = format!("round_{round}");
        let (_, ids) =
            tokio::join!(publish(&bad, "order-created", &name, 20), publish(&good, "order-created", &name, 20));
        published.extend(ids);
    }
    let history = good.settled(&webhook, 100, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    let received: HashSet<_> = cloud.wait_at(&address, 100, SOON).await.iter().map(|one| one.event_id()).collect();
    assert_eq!(received, published);
    assert_eq!(failed_attempts(&good, &webhook).await, Vec::<Value>::new());
}

/// Keys that the platform is given for a while are ours to have: without them a delivery waits, and has not failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_is_away_delays_and_fails_nothing() {
    let (cloud, folder) = (Cloud::amazon().await, Folder::create());
    let token = folder.join("web-identity");
    std::fs::write(&token, "the token of a cluster").unwrap();
    let lasting = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    let variables = cloud.variables().into_iter().filter(|(name, _)| !lasting.contains(name));
    let plan = variables.fold(Stack::plan(), |plan, (name, value)| plan.env(name, value));
    let plan = plan.env("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string());
    // moto takes the keys of a role for those of its account, which has the bus.
    let mut stack = plan.env("AWS_ROLE_ARN", format!("arn:aws:iam::{ACCOUNT}:role/shopery-webhooks")).start().await;
    let client = stack.client("tnt_a");
    let address = cloud.make("orders", "tnt_a").await;
    let webhook = client.create_webhook(&address, &["*"]).await;
    client.publish(&Event::order("first")).await.expect(202);
    client.in_state(&webhook, "delivered", 1, SOON).await;
    let signed = cloud.proxy.requests_to(&address)[0].header("authorization").to_owned();
    assert!(signed.contains("Credential=ASIA"), "{signed}");

    // A deliverer that has just started has no keys.
    for fault in [Fault::Hang, Fault::Refuse { status: 503, code: "ServiceUnavailable" }] {
        cloud.proxy.behave(STS, fault.clone());
        let before = client.all(&format!("/company/webhooks/{webhook}/deliveries")).await.len();
        stack.kill(Service::Deliverer).await;
        stack.spawn(Service::Deliverer);
        let asked = async || cloud.proxy.requests().iter().filter(|request| is_sts(request)).count();
        let count = asked().await;
        client.publish(&Event::order(&format!("{before}"))).await.expect(202);
        wait::until_true("keys to be asked for", SOON, async || asked().await > count + 1).await;
        let failed = failed_attempts(&client, &webhook).await;
        assert!(failed.is_empty(), "{fault:?}: {failed:?}");
        cloud.proxy.heal(STS);
        for delivery in client.in_state(&webhook, "delivered", before + 1, SOON).await {
            assert_eq!(delivery["attemptCount"], 1, "{fault:?}: {delivery}");
        }
    }
    // Keys that Amazon does not want any more are fetched anew, and the endpoint is not to blame.
    let refused = Fault::Refuse { status: 400, code: "ExpiredTokenException" };
    cloud.proxy.behave_times(&address, refused, 2);
    client.publish(&Event::order("expired")).await.expect(202);
    for delivery in client.in_state(&webhook, "delivered", 4, SOON).await {
        assert_eq!(delivery["attemptCount"], 1, "{delivery}");
    }
}

fn is_sts(request: &Request) -> bool {
    request.body.starts_with(b"Action=AssumeRole")
}
