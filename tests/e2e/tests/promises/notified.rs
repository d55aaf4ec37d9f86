//! What a tenant's other webhooks are told of one that fails.

use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Client, DatabaseKind, Event, Service, Stack, stored, wait};

const SOON: Duration = Duration::from_secs(40);

on_both_databases!(
    that_an_endpoint_fails_and_works_again_is_told_once_whoever_restarts,
    what_was_discarded_is_no_recovery,
    what_was_given_up_is_told_and_two_broken_webhooks_do_not_tell_each_other,
);

async fn that_an_endpoint_fails_and_works_again_is_told_once_whoever_restarts(database: DatabaseKind) {
    let plan = Stack::plan().database(database).env("SHOPERY_PROBE_FIRST", "2s").env("SHOPERY_PROBE_LONGEST", "2s");
    let mut stack = plan.env("SHOPERY_RETRY_SCHEDULE", "1h").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/bad", Behaviour::Answer(500));
    let bad = client.create_webhook(&stack.merchant.url("/bad"), &["*"]).await;
    client.create_webhook(&stack.merchant.url("/operations"), &["webhook-*"]).await;
    stack.client("tnt_b").create_webhook(&stack.merchant.url("/others"), &["*"]).await;
    park_one(&client, &bad).await;
    let failing = stack.merchant.wait_at("/operations", 1, SOON).await.remove(0);
    assert_eq!(failing.header("x-shopery-event"), "webhook-failing");
    let body: Value = serde_json::from_slice(&failing.body).unwrap();
    assert_eq!((&body["id"], &body["state"]), (&json!(bad), &json!("active")), "{body}");
    assert_eq!(body["error"]["reason"], "http_status", "{body}");
    assert!(body["error"]["detail"].as_str().unwrap().contains("500") && body.get("headers").is_none(), "{body}");

    // Whoever leads next knows what was told.
    stack.kill(Service::Controller).await;
    stack.run(Service::Controller).await;
    stack.merchant.behave("/bad", Behaviour::Answer(200));
    let recovered = stack.merchant.wait_at("/operations", 2, SOON).await.remove(1);
    assert_eq!(recovered.header("x-shopery-event"), "webhook-recovered");
    let body: Value = serde_json::from_slice(&recovered.body).unwrap();
    assert_eq!((&body["id"], body.get("failingSince")), (&json!(bad), None), "{body}");
    assert!(body.get("error").is_none(), "{body}");

    let told = client.all(&format!("/company/webhooks/{bad}/deliveries")).await;
    assert!(told.iter().all(|one| one["event"] == "order-created"), "a webhook was told of itself: {told:?}");
    assert_eq!(stack.merchant.arrivals_at("/others").len(), 0, "another tenant was told");
    assert_eq!(stack.merchant.arrivals_at("/operations").len(), 2);
}

/// Publishes until something waits for the webhook: its circuit is open then, and stays so.
async fn park_one(client: &Client, webhook: &str) {
    let mut number = 0;
    wait::until("a delivery to be parked", SOON, async || {
        number += 1;
        client.publish(&Event::order(&number.to_string())).await.expect(202);
        let parked = client.all(&format!("/company/webhooks/{webhook}/deliveries?status=parked")).await;
        if parked.is_empty() { Err(format!("{number} events")) } else { Ok(()) }
    })
    .await;
}

async fn what_was_discarded_is_no_recovery(database: DatabaseKind) {
    let plan = Stack::plan().database(database).env("SHOPERY_PROBE_FIRST", "2s").env("SHOPERY_PROBE_LONGEST", "2s");
    let stack = plan.env("SHOPERY_RETRY_SCHEDULE", "1h").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/bad", Behaviour::Answer(500));
    let bad = client.create_webhook(&stack.merchant.url("/bad"), &["order-*"]).await;
    client.create_webhook(&stack.merchant.url("/operations"), &["webhook-*"]).await;
    park_one(&client, &bad).await;
    stack.merchant.wait_at("/operations", 1, SOON).await;
    let notices = async || stored::value(&stack, "SELECT count(*) FROM circuit_notices").await;
    assert_eq!(notices().await, "1");
    // Its owner enables it anew, and wants nothing of what has waited: nothing fails any more, and nothing was delivered.
    let enabled = json!({ "isEnabled": true, "waiting": "discard" });
    client.patch(&format!("/company/webhooks/{bad}"), &enabled).await.expect(200);
    // That takes half a minute by itself.
    wait::until_true("the notice to be forgotten", 3 * SOON, async || notices().await == "0").await;
    let told = stack.merchant.arrivals_at("/operations");
    assert_eq!(told.len(), 1, "{:?}", told.iter().map(|one| one.event_id().to_owned()).collect::<Vec<_>>());
}

async fn what_was_given_up_is_told_and_two_broken_webhooks_do_not_tell_each_other(database: DatabaseKind) {
    let plan = Stack::plan().database(database).env("SHOPERY_CIRCUIT_FAILURES", "50");
    let mut stack = plan.env("SHOPERY_RETRY_SCHEDULE", "200ms").start().await;
    let client = stack.client("tnt_a");
    let mut broken = Vec::new();
    for path in ["/bad", "/worse"] {
        stack.merchant.behave(path, Behaviour::Answer(500));
        broken.push(client.create_webhook(&stack.merchant.url(path), &["order-*", "delivery-*"]).await);
    }
    client.create_webhook(&stack.merchant.url("/operations"), &["delivery-failed"]).await;
    stack.client("tnt_b").create_webhook(&stack.merchant.url("/others"), &["*"]).await;
    // It is told when there is somebody to tell it.
    stack.kill(Service::Controller).await;
    for number in 0..3 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    for webhook in &broken {
        client.in_state(webhook, "failed", 3, SOON).await;
    }
    assert_eq!(stack.merchant.arrivals_at("/operations").len(), 0);
    stack.run(Service::Controller).await;
    for told in stack.merchant.wait_at("/operations", 6, SOON).await {
        assert_eq!(told.header("x-shopery-event"), "delivery-failed");
        let body: Value = serde_json::from_slice(&told.body).unwrap();
        assert!(broken.iter().any(|webhook| body["webhookId"] == *webhook), "{body}");
        let delivery = client.delivery(&body["id"]).await;
        for member in
            ["id", "webhookId", "eventId", "event", "resource", "state", "attemptCount", "error", "triggeredAt"]
        {
            assert_eq!(body[member], delivery[member], "{member} of {body}");
        }
        assert_eq!((&body["state"], &body["responseStatus"]), (&json!("failed"), &json!(500)), "{body}");
    }

    // Each of the two is told of the other, and nobody is told that this failed too.
    for webhook in &broken {
        for failed in client.in_state(webhook, "failed", 6, SOON).await {
            let event = client.get(&format!("/company/events/{}", failed["eventId"].as_str().unwrap())).await;
            let event = event.expect(200).json();
            assert_ne!(event["event"]["data"]["webhookId"], json!(webhook), "a webhook was told of itself: {event}");
        }
    }
    client.publish(&Event::order("last")).await.expect(202);
    stack.merchant.wait_at("/operations", 8, SOON).await;
    for webhook in &broken {
        client.in_state(webhook, "failed", 8, SOON).await;
    }
    stack.at_rest(SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/operations").len(), 8);
    assert_eq!(stack.merchant.arrivals_at("/others").len(), 0, "another tenant was told");

    // Its owner does not want it any more: nobody is told.
    client.delete(&format!("/company/webhooks/{}", broken[0])).await.expect(204);
    let failed = client.all(&format!("/company/webhooks/{}/deliveries?event=order-created", broken[1])).await;
    let retried = failed[0]["id"].as_str().unwrap();
    client.post(&format!("/company/deliveries/{retried}/resend"), &json!({})).await.expect(202);
    let again = stack.merchant.wait_at("/operations", 9, SOON).await.remove(8);
    let body: Value = serde_json::from_slice(&again.body).unwrap();
    assert_eq!((&body["id"], &body["attemptCount"]), (&json!(retried), &json!(4)), "{body}");
}
