//! Duplicates: an event is dropped only if its carrier brings the same payload to the endpoint.

use std::time::Duration;

use serde_json::json;
use shopery_e2e::{Behaviour, Stack};

use super::truth::{ahead, create, delivery_of, ends, event, told};

const SOON: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_is_sent_again_to_an_endpoint_that_has_not_got_it() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "1s,1s").start().await;
    let client = stack.client("tnt_a");
    let webhook = create(&stack, &client, "/a", json!({ "fields": ["id", "status"] })).await;
    let path = format!("/company/webhooks/{webhook}");
    // All of them tell the receiver the same.
    let same = |name: &str| event("1", "order-updated", name, &format!(r#"{{"id":1,"status":"open","n":"{name}"}}"#));
    let publish = async |name: &str, state: &str| {
        client.publish(&same(name)).await.expect(202);
        ends(&client, &webhook, &format!("evt_1_{name}"), state).await
    };

    // Whoever was to tell the endpoint fails, and with it those that it carried.
    stack.merchant.behave("/a", Behaviour::Answer(500));
    client.try_publish_batch(&[same("carrier"), same("carried")]).await.unwrap().expect(202);
    let carrier = ends(&client, &webhook, "evt_1_carrier", "failed").await;
    assert_eq!(carrier["error"]["reason"], "http_status", "{carrier}");
    let carried = ends(&client, &webhook, "evt_1_carried", "failed").await;
    assert_eq!(carried["error"]["reason"], "carrier_failed", "{carried}");
    stack.merchant.behave("/a", Behaviour::Answer(200));
    let told = publish("after_a_failure", "delivered").await;
    let duplicate = publish("again", "duplicate").await;
    assert_eq!(duplicate["carriedBy"], told["id"], "{duplicate}");

    client.patch(&path, &json!({ "url": stack.merchant.url("/b") })).await.expect(200);
    let told = publish("at_another_url", "delivered").await;
    assert_eq!(publish("there_again", "duplicate").await["carriedBy"], told["id"]);

    client.post(&format!("{path}/rotate-secret"), &json!({})).await.expect(200);
    let told = publish("with_another_secret", "delivered").await;
    assert_eq!(publish("with_it_again", "duplicate").await["carriedBy"], told["id"]);

    client.patch(&path, &json!({ "isEnabled": false })).await.expect(200);
    client.patch(&path, &json!({ "isEnabled": true })).await.expect(200);
    let told = publish("enabled", "delivered").await;
    assert_eq!(publish("enabled_again", "duplicate").await["carriedBy"], told["id"]);

    let names = |path: &str| -> Vec<String> {
        let arrivals = stack.merchant.arrivals_at(path);
        let mut names: Vec<_> =
            arrivals.iter().map(|arrival| arrival.event_id().trim_start_matches("evt_1_").to_owned()).collect();
        names.dedup();
        names
    };
    assert_eq!(names("/a"), ["carrier", "after_a_failure"]);
    assert_eq!(names("/b"), ["at_another_url", "with_another_secret", "enabled"]);
}

/// A retry may send that state in place of its own event's.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_between_that_has_no_delivery_makes_a_payload_news() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "3s,3s").start().await;
    let client = stack.client("tnt_a");
    for (order, path, events, filter, end_between) in [
        ("1", "/unsubscribed", "order-updated", json!(null), None),
        ("2", "/filtered", "order-*", json!({ "total": [{ "numeric": [">", 100] }] }), Some("filtered")),
    ] {
        stack.merchant.behave(path, Behaviour::FailFirst { times: 1, status: 503 });
        let rules = json!({ "fields": ["status"], "filter": filter });
        let webhook = client.create_webhook_with(&stack.merchant.url(path), &[events], rules).await;
        let open = r#"{"status":"open","total":150}"#;
        client.publish(&event(order, "order-updated", "a", open)).await.expect(202);
        stack.merchant.wait_at(path, 1, SOON).await;
        let between = r#"{"status":"refunded","total":50}"#;
        client.publish(&event(order, "order-refunded", "b", between)).await.expect(202);
        client.publish(&event(order, "order-updated", "c", open)).await.expect(202);
        for (name, end) in [("a", Some("delivered")), ("b", end_between), ("c", Some("delivered"))] {
            let Some(end) = end else { continue };
            ends(&client, &webhook, &format!("evt_{order}_{name}"), end).await;
        }
        client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "isEnabled": false })).await.expect(200);
    }
}

/// Without this, the deletion would end the carrier as superseded, and no delivery would bring the newest state.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_carried_by_one_that_a_late_deletion_supersedes_is_told() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "8s,8s,8s").start().await;
    let client = stack.client("tnt_a");
    let modes = ["latest", "original"].map(|mode| (mode, format!("/{mode}")));
    let mut webhooks = Vec::new();
    for (mode, path) in &modes {
        stack.merchant.behave(path, Behaviour::FailFirst { times: 1, status: 503 });
        webhooks.push(create(&stack, &client, path, json!({ "fields": ["status"], "payload": mode })).await);
    }
    let open = r#"{"status":"open"}"#;
    client.publish(&ahead(-20, event("1", "order-updated", "a", open))).await.expect(202);
    for (_, path) in &modes {
        stack.merchant.wait_at(path, 1, SOON).await;
    }
    client.publish(&event("1", "order-updated", "c", open)).await.expect(202);
    for webhook in &webhooks {
        ends(&client, webhook, "evt_1_c", "duplicate").await;
    }
    client.publish(&ahead(-10, event("1", "order-deleted", "d", "{}"))).await.expect(202);
    for (webhook, (mode, path)) in webhooks.iter().zip(&modes) {
        ends(&client, webhook, "evt_1_d", "delivered").await;
        let history = client.settled(webhook, 3, SOON).await;
        let [a, c] = ["evt_1_a", "evt_1_c"].map(|event| delivery_of(&history, event));
        assert_eq!((&a["state"], &c["state"]), (&json!("delivered"), &json!("duplicate")), "{mode}: {history:?}");
        assert_eq!(c["carriedBy"], a["id"], "{mode}");
        let arrivals = stack.merchant.arrivals_at(path);
        assert_eq!(told(&arrivals).last(), Some(&("evt_1_a", "evt_1_c", open)), "{mode}");
    }
}
