//! What an operator sees: health, metrics and logs.

use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Event, Service, Stack, token};

const SOON: Duration = Duration::from_secs(30);

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

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_and_hold_neither_secrets_nor_payloads() {
    let mut stack = Stack::plan().env("SHOPERY_LOG", "debug").start().await;
    let client = stack.client("tnt_a");
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 1, status: 500 });
    let body = json!({
        "name": "a", "url": stack.merchant.url("/a"), "events": ["*"], "isEnabled": true, "secret": secret
    });
    let webhook = client.post("/company/webhooks", &body).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let payload = "the-customer-lives-in-Storgatan-12";
    client
        .publish(&Event::order("1").with_data(json!({ "id": "1", "address": payload }).to_string()))
        .await
        .expect(202);
    client.settled(&webhook, 1, SOON).await;
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
        ("a payload", payload),
        ("the token secret", token::SECRET),
        ("the password of NATS", "the-services-nats-password"),
        ("a bad secret", "tooShortButSecret"),
        ("a token", client.token.rsplit('.').next().unwrap()),
    ];
    for service in Service::ALL {
        let log = stack.log(service);
        assert!(!log.is_empty(), "{} has no log", service.name());
        for line in log.lines() {
            let entry: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{}: {line}", service.name()));
            assert!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
        }
        for (what, text) in hidden {
            let line = log.lines().find(|line| line.contains(text));
            assert!(line.is_none(), "{} logs {what}: {}", service.name(), line.unwrap_or_default());
        }
    }
}
