//! What an operator sees: health, metrics and logs.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Event, Metrics, Service, Stack, token, wait};

const SOON: Duration = Duration::from_secs(30);

/// Waits until a metric of a service is as it should be.
async fn metric(stack: &Stack, service: Service, name: &str, is_right: impl Fn(f64) -> bool) -> f64 {
    wait::until(&format!("the right {name}"), SOON, async || {
        match Metrics::of(&stack.url(service)).await?.value(name) {
            Some(value) if is_right(value) => Ok(value),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_the_oldest_work_grows_while_it_waits_and_is_zero_when_there_is_none() {
    // One attempt at a time, so that a job which waits for its turn stays where it is.
    let mut stack = Stack::plan().env("SHOPERY_SLOTS", "1").env("SHOPERY_CIRCUIT_FAILURES", "1").start().await;
    let client = stack.client("tnt_a");
    let fast = "shopery_oldest_undelivered_seconds{lane=\"fast\"}";
    let parked = "shopery_oldest_undelivered_seconds{lane=\"parked\"}";
    let (unrouted, unrecorded) =
        ("shopery_oldest_unrouted_seconds{lane=\"fast\"}", "shopery_oldest_unrecorded_seconds");
    for lane in ["fast", "bulk", "due", "parked"] {
        let name = format!("shopery_oldest_undelivered_seconds{{lane=\"{lane}\"}}");
        metric(&stack, Service::Deliverer, &name, |age| age == 0.0).await;
    }
    metric(&stack, Service::Ingest, "shopery_oldest_unaccepted_seconds", |age| age == 0.0).await;
    metric(&stack, Service::Recorder, unrecorded, |age| age == 0.0).await;

    // Nobody routes, then nobody takes what is routed; who comes back sees how long it has waited.
    stack.merchant.behave("/a", Behaviour::Hang);
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    assert!(stack.stop(Service::Deliverer).await.success());
    client.publish(&Event::order("1")).await.expect(202);
    metric(&stack, Service::Router, unrouted, |age| age == 0.0).await;
    let published = std::time::Instant::now();
    stack.run(Service::Deliverer).await;
    stack.merchant.wait_at("/a", 1, SOON).await;
    let first = metric(&stack, Service::Deliverer, fast, |age| age > 0.0).await;
    assert!(first < published.elapsed().as_secs_f64() + 2.0, "{first}");
    // The endpoint never answers: the job is retried, and what comes behind it is parked.
    client.publish(&Event::order("2")).await.expect(202);
    let young = metric(&stack, Service::Deliverer, parked, |age| age > 0.0).await;
    metric(&stack, Service::Deliverer, parked, |age| age > young + 4.0).await;
    metric(&stack, Service::Deliverer, fast, |age| age == 0.0).await;

    stack.merchant.behave("/a", Behaviour::Answer(200));
    client.settled(&webhook, 2, SOON).await;
    metric(&stack, Service::Deliverer, parked, |age| age == 0.0).await;
    metric(&stack, Service::Recorder, unrecorded, |age| age == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_has_health_and_metrics() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    client.settled(&webhook, 1, SOON).await;
    for service in Service::ALL {
        let url = stack.url(service);
        assert_eq!(reqwest::get(format!("{url}/livez")).await.unwrap().status(), 200);
        let ready: Value =
            serde_json::from_slice(&reqwest::get(format!("{url}/readyz")).await.unwrap().bytes().await.unwrap())
                .unwrap();
        assert_eq!(ready["ready"], true, "{ready}");
        let metrics = reqwest::get(format!("{url}/metrics")).await.unwrap();
        assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
        let metrics = metrics.text().await.unwrap();
        assert!(metrics.contains("\nshopery_") || metrics.contains("# TYPE shopery_"), "{}: {metrics}", service.name());
        assert!(metrics.ends_with("# EOF\n"), "{}: {metrics}", service.name());
    }
}

/// A text as base64 may hold it, wherever it begins.
fn in_base64(text: &str) -> [String; 3] {
    [0, 1, 2].map(|offset| {
        let encoded = STANDARD_NO_PAD.encode([&vec![b' '; offset], text.as_bytes()].concat());
        // Without the characters that what comes before and behind has a part in.
        encoded[(offset * 8).div_ceil(6)..encoded.len() - 1].to_owned()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_and_hold_neither_secrets_nor_payloads() {
    for level in ["debug", "trace"] {
        logs_hold_neither_secrets_nor_payloads(level).await;
    }
}

async fn logs_hold_neither_secrets_nor_payloads(level: &str) {
    let mut stack = Stack::plan().env("SHOPERY_LOG", level).start().await;
    let client = stack.client("tnt_a");
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 1, status: 500 });
    let body = json!({
        "name": "a", "url": stack.merchant.url("/a"), "events": ["*"], "isEnabled": true, "secret": secret,
        "headers": { "Authorization": "Bearer the-token-of-a-gateway" }
    });
    let webhook = client.post("/company/webhooks", &body).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let payload = "the-customer-lives-in-Storgatan-12";
    client
        .publish(&Event::order("1").with_data(json!({ "id": "1", "address": payload }).to_string()))
        .await
        .expect(202);
    client.settled(&webhook, 1, SOON).await;
    let paused = client.create_webhook_with(&stack.merchant.url("/p"), &["*"], json!({ "isEnabled": false })).await;
    client
        .publish(&Event::order("4").with_data(json!({ "id": "4", "address": payload }).to_string()))
        .await
        .expect(202);
    client.in_state(&paused, "parked", 1, SOON).await;
    client.patch(&format!("/company/webhooks/{paused}"), &json!({ "isEnabled": true })).await.expect(200);
    client.in_state(&paused, "delivered", 1, SOON).await;
    // What is wrong is not repeated either.
    client.publish(&Event::order("2").with_data(format!("[\"{payload}\"]"))).await.expect(422);
    let publisher = stack.publisher("tnt_a").await;
    publisher.publish(&Event::order("3").with_data(format!("\"{payload}\""))).await.unwrap();
    let bad = json!({ "name": "", "url": "x", "events": [], "secret": "whsec_tooShortButSecret" });
    client.post("/company/webhooks", &bad).await.expect(422);
    client.post(&format!("/company/webhooks/{webhook}/test"), &json!({})).await.expect(200);
    for service in Service::ALL {
        assert!(stack.stop(service).await.success());
    }

    let hidden = [
        ("the endpoint's secret", &secret["whsec_".len()..]),
        ("a header's value", "the-token-of-a-gateway"),
        ("an encryption key", shopery_e2e::stack::KEYS.split_once(':').unwrap().1),
        ("a payload", payload),
        ("the token secret", token::SECRET),
        ("the password of NATS", "the-services-nats-password"),
        ("a bad secret", "tooShortButSecret"),
        ("a token", client.token.rsplit('.').next().unwrap()),
    ];
    let encoded = in_base64(payload);
    let hidden: Vec<_> = hidden.into_iter().chain(encoded.iter().map(|text| ("a payload", text.as_str()))).collect();
    for service in Service::ALL {
        let log = stack.log(service);
        assert!(!log.is_empty(), "{} has no log", service.name());
        for line in log.lines() {
            let entry: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{}: {line}", service.name()));
            assert!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
        }
        for (what, text) in &hidden {
            let line = log.lines().find(|line| line.contains(*text));
            assert!(line.is_none(), "{} logs {what}: {}", service.name(), line.unwrap_or_default());
        }
    }
}
