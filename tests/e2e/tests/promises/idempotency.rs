//! A POST that is repeated under its `Idempotency-Key` is done once.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shopery_e2e::{Client, DatabaseKind, Event, Reply, Stack, wait};

const SOON: Duration = Duration::from_secs(30);

on_both_databases!(
    a_request_that_is_repeated_is_done_once_and_answered_the_same,
    of_many_at_once_one_is_done,
    what_is_secret_in_an_answer_is_said_again_and_stored_sealed,
    a_client_that_goes_away_stops_nothing_half_way,
);

async fn post(client: &Client, path: &str, key: &str, body: &Value) -> Reply {
    let request = client.request(Method::POST, path).header("Idempotency-Key", key).json(body);
    shopery_e2e::client::send(request).await.unwrap()
}

async fn a_request_that_is_repeated_is_done_once_and_answered_the_same(database: DatabaseKind) {
    let stack = Stack::plan().database(database).tenants(["tnt_a", "tnt_b"]).start().await;
    let (client, other) = (stack.client("tnt_a"), stack.client("tnt_b"));
    let webhook = json!({ "name": "a", "url": stack.merchant.url("/a"), "events": ["order-created"] });
    let first = post(&client, "/company/webhooks", "key-1", &webhook).await.expect(201);
    assert_eq!(first.header("idempotent-replayed"), "");
    for key in ["key-1", "\"key-1\""] {
        let again = post(&client, "/company/webhooks", key, &webhook).await.expect(201);
        assert_eq!((again.json(), again.header("location")), (first.json(), first.header("location")));
        assert_eq!(again.header("idempotent-replayed"), "true");
    }
    assert_eq!(client.all("/company/webhooks").await.len(), 1);
    // A key is for one request.
    let changed = json!({ "name": "b", "url": stack.merchant.url("/a"), "events": ["order-created"] });
    let differs = post(&client, "/company/webhooks", "key-1", &changed).await.expect(422).problem();
    assert_eq!(differs["errors"][0]["field"], "Idempotency-Key", "{differs}");
    // And of one tenant.
    let theirs = post(&other, "/company/webhooks", "key-1", &webhook).await.expect(201);
    assert_ne!(theirs.json(), first.json());
    // An error is an answer like others, as it would be without a key.
    let bad = json!({ "name": "" });
    let wrong = post(&client, "/company/webhooks", "key-2", &bad).await.expect(422);
    let again = post(&client, "/company/webhooks", "key-2", &bad).await.expect(422);
    assert_eq!((again.problem(), again.header("idempotent-replayed").as_str()), (wrong.problem(), "true"));
    for bad in ["", "a b", &"x".repeat(256)] {
        post(&client, "/company/webhooks", bad, &webhook).await.expect(400);
    }
    // Whoever may not do it hears that, whatever the key.
    post(&client.with_token("x.y.z"), "/company/webhooks", "key-1", &webhook).await.expect(401);
}

async fn a_client_that_goes_away_stops_nothing_half_way(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let clients = 30;
    for number in 0..clients {
        let webhook =
            json!({ "name": number.to_string(), "url": stack.merchant.url("/a"), "events": ["order-created"] });
        let key = format!("key-{number}");
        // Gone while the request is worked on: sooner or later in that.
        let gone_after = Duration::from_micros(300 * (number + 1));
        let request = client.request(Method::POST, "/company/webhooks").header("Idempotency-Key", &key).json(&webhook);
        let _ = request.timeout(gone_after).send().await;
        wait::until("the request to be answered", SOON, async || {
            let reply = post(&client, "/company/webhooks", &key, &webhook).await;
            if reply.status == 201 { Ok(()) } else { Err(format!("{}: {}", reply.status, reply.text())) }
        })
        .await;
    }
    assert_eq!(client.all("/company/webhooks").await.len() as u64, clients);
}

async fn of_many_at_once_one_is_done(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let id = client.create_webhook(&stack.merchant.url("/a"), &["order-created"]).await;
    client.publish(&Event::order("order-1")).await.expect(202);
    let delivery = client.settled(&id, 1, SOON).await[0]["id"].as_str().unwrap().to_owned();
    let resend = format!("/company/deliveries/{delivery}/resend");
    let body = json!({ "name": "a", "url": stack.merchant.url("/b"), "events": ["order-paid"] });
    let answers = join_all((0..20).map(|_| post(&client, "/company/webhooks", "many", &body))).await;
    assert!(answers.iter().all(|answer| matches!(answer.status, 201 | 409)), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.status == 201));
    assert_eq!(client.all("/company/webhooks").await.len(), 2);
    // One that needs no body.
    for _ in 0..3 {
        let request = client.request(Method::POST, &resend).header("Idempotency-Key", "again");
        shopery_e2e::client::send(request).await.unwrap().expect(202);
    }
    stack.merchant.wait_at("/a", 2, SOON).await;
    client.settled(&id, 1, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 2);
}

async fn what_is_secret_in_an_answer_is_said_again_and_stored_sealed(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let id = client.create_webhook(&stack.merchant.url("/a"), &["order-created"]).await;
    let path = format!("/company/webhooks/{id}/rotate-secret");
    let first = post(&client, &path, "rotate", &json!({})).await.expect(200).json();
    let again = post(&client, &path, "rotate", &json!({})).await.expect(200);
    assert_eq!(again.json(), first);
    assert_eq!(again.header("cache-control"), "no-store");
    assert_eq!(client.secret(&id).await, first["secret"]);
    assert_eq!(first["previous"].as_array().unwrap().len(), 1, "it was rotated once: {first}");
}
