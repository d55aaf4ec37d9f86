//! Headers that a webhook's owner adds to its deliveries: sent, and shown to nobody afterwards.

use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::stored::Stored;
use shopery_e2e::verify::assert_accepted;
use shopery_e2e::{Arrival, Behaviour, DatabaseKind, Event, Stack, wait};

const SOON: Duration = Duration::from_secs(30);

on_both_databases!(headers_are_sent_shown_masked_and_stored_sealed);

fn header<'a>(arrival: &'a Arrival, name: &str) -> Option<&'a str> {
    arrival.headers.get(name).map(|value| value.to_str().unwrap())
}

async fn headers_are_sent_shown_masked_and_stored_sealed(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let (token, key, new) = ("Bearer the-token-of-a-gateway", "the-key/of+a-receiver==", "a-value-that-came-later");
    let given = json!({ "headers": { "Authorization": token, "X-Api-Key": key } });
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 1, status: 500 });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["*"], given).await;
    let path = format!("/company/webhooks/{webhook}");
    let masked = json!({ "Authorization": "***", "X-Api-Key": "***" });
    assert_eq!(client.get(&path).await.expect(200).json()["headers"], masked);
    assert_eq!(client.all("/company/webhooks").await[0]["headers"], masked);

    // By every way on which something is sent: a first attempt, a retry, the Test call.
    client.publish(&Event::order("1")).await.expect(202);
    stack.merchant.wait_at("/a", 2, SOON).await;
    client.settled(&webhook, 1, SOON).await;
    client.post(&format!("{path}/test"), &json!({})).await.expect(200);
    let secret = client.secret(&webhook).await;
    let arrivals = stack.merchant.arrivals_at("/a");
    assert_eq!(arrivals.len(), 3);
    for arrival in arrivals {
        assert_eq!((header(&arrival, "authorization"), header(&arrival, "x-api-key")), (Some(token), Some(key)));
        assert_accepted(&arrival, &secret).await;
    }

    // A change replaces all of them; the mask that is sent back keeps a value; another change leaves them.
    let change = json!({ "headers": { "Authorization": "***", "X-New": new } });
    let changed = client.patch(&path, &change).await.expect(200).json();
    assert_eq!(changed["headers"], json!({ "Authorization": "***", "X-New": "***" }));
    client.patch(&path, &json!({ "name": "renamed", "headers": changed["headers"] })).await.expect(200);
    client.post(&format!("{path}/rotate-secret"), &json!({})).await.expect(200);
    client.post(&format!("{path}/test"), &json!({})).await.expect(200);
    let last = stack.merchant.arrivals_at("/a").pop().unwrap();
    let found = ["authorization", "x-api-key", "x-new"].map(|name| header(&last, name));
    assert_eq!(found, [Some(token), None, Some(new)]);
    Stored::of(&stack).await.assert_without([("a token", token), ("a key", key), ("a value", new)]);

    let changed = client.patch(&path, &json!({ "headers": null })).await.expect(200).json();
    assert_eq!(changed.get("headers"), None);
    let mut count = stack.merchant.arrivals_at("/a").len();
    wait::until("a delivery without them", SOON, async || {
        count += 1;
        client.publish(&Event::order(&format!("2-{count}"))).await.expect(202);
        let last = stack.merchant.wait_at("/a", count, SOON).await.pop().unwrap();
        if header(&last, "authorization").is_none() { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_cannot_be_are_refused_by_name_and_their_values_not_repeated() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let many: serde_json::Map<String, Value> = (0..17).map(|number| (format!("X-{number}"), json!("1"))).collect();
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let secretive = "a-value-that-is-secret";
    for (headers, field) in [
        (json!({ "X-Shopery-Secret": secretive }), "headers.X-Shopery-Secret"),
        (json!({ "webhook-id": secretive }), "headers.webhook-id"),
        (json!({ "Content-Type": secretive }), "headers.Content-Type"),
        (json!({ "Connection": secretive }), "headers.Connection"),
        (json!({ "Transfer-Encoding": secretive }), "headers.Transfer-Encoding"),
        (json!({ "Host": secretive }), "headers.Host"),
        (json!({ "a name": secretive }), "headers.a name"),
        (json!({ "X-A": format!("{secretive}\r\nX-B: b") }), "headers.X-A"),
        (json!({ "X-A": "" }), "headers.X-A"),
        (json!({ "X-A": 7 }), "headers.X-A"),
        (json!({ "X-A": secretive, "x-a": secretive }), "headers.x-a"),
        (json!({ "X-A": "***" }), "headers.X-A"),
        (json!({ "X-A": "a".repeat(1025) }), "headers.X-A"),
        (json!([secretive]), "headers"),
        (json!(many), "headers"),
    ] {
        let create = json!({ "name": "a", "url": stack.merchant.url("/a"), "events": ["*"], "headers": headers });
        let change = json!({ "headers": headers });
        let created = client.post("/company/webhooks", &create).await;
        let changed = client.patch(&format!("/company/webhooks/{webhook}"), &change).await;
        for refused in [created, changed] {
            let refused = refused.expect(422);
            assert_eq!(refused.problem()["errors"][0]["field"], field, "{}", refused.text());
            assert!(!refused.text().contains(secretive), "{}", refused.text());
        }
    }
    assert_eq!(client.all("/company/webhooks").await.len(), 1);
    let test = json!({ "url": stack.merchant.url("/a"), "headers": { "X-Tried": "before it is saved" } });
    client.post("/company/webhooks/test", &test).await.expect(200);
    assert_eq!(header(&stack.merchant.arrivals_at("/a")[0], "x-tried"), Some("before it is saved"));
}

/// Many a receiver in development answers with what it was sent, and an answer goes to the history.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_with_the_request_puts_no_secret_into_the_history() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::Echo);
    let token = "Bearer the-token-of-a-gateway";
    let given = json!({ "headers": { "Authorization": token } });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["*"], given).await;
    let secret = client.secret(&webhook).await;
    client.publish(&Event::order("1")).await.expect(202);
    let delivery = client.delivery(&client.settled(&webhook, 1, SOON).await[0]["id"]).await.to_string();
    assert!(delivery.contains("authorization") && delivery.contains("***"), "{delivery}");
    assert!(!delivery.contains(token), "{delivery}");
    Stored::of(&stack).await.assert_without([("the token", token), ("the secret", &secret["whsec_".len()..])]);
}
