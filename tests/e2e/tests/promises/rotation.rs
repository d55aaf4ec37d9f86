//! A secret is rotated without a delivery that its receiver cannot verify, whichever library it verifies with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::time::OffsetDateTime;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shopery_e2e::client::{self, time};
use shopery_e2e::stored::Stored;
use shopery_e2e::verify::{assert_accepted, assert_refused};
use shopery_e2e::{Arrival, Client, DatabaseKind, Event, Stack, token, wait};

const SOON: Duration = Duration::from_secs(30);
const GIVEN: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

on_both_databases!(
    deliveries_verify_before_during_and_after_a_rotation,
    rotations_at_the_same_time_leave_secrets_that_were_given_out,
    asymmetric_signatures_verify_by_the_public_key_and_rotate_with_the_secret,
);

/// A webhook, and what is delivered to it.
struct Receiver<'a> {
    stack: &'a Stack,
    client: Client,
    path: String,
    sent: usize,
}

impl<'a> Receiver<'a> {
    async fn new(stack: &'a Stack, members: Value) -> Self {
        let client = stack.client("tnt_a");
        let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["*"], members).await;
        Self { stack, client, path: format!("/company/webhooks/{webhook}"), sent: 0 }
    }

    async fn secrets(&self) -> Value {
        self.client.get(&format!("{}/secret", self.path)).await.expect(200).json()
    }

    async fn rotate(&self, body: Value) -> Value {
        self.client.post(&format!("{}/rotate-secret", self.path), &body).await.expect(200).json()
    }

    /// A delivery that is as it should be. Deliverers hear of a change within moments, so some may not be yet.
    async fn arrival(&mut self, what: &str, is_right: impl Fn(&Arrival) -> bool) -> Arc<Arrival> {
        let started = Instant::now();
        while started.elapsed() < SOON {
            self.sent += 1;
            self.client.publish(&Event::order(&self.sent.to_string())).await.expect(202);
            let arrivals = self.stack.merchant.wait_at("/a", self.sent, SOON).await;
            let last = arrivals.last().unwrap().clone();
            if is_right(&last) {
                return last;
            }
        }
        panic!("no delivery has {what}");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// The versions of the signatures of an arrival.
fn versions(arrival: &Arrival) -> Vec<&str> {
    arrival.header("webhook-signature").split(' ').map(|one| one.split_once(',').unwrap().0).collect()
}

async fn deliveries_verify_before_during_and_after_a_rotation(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let mut receiver = Receiver::new(&stack, json!({})).await;
    let first = receiver.secrets().await;
    let a = text(&first["secret"]).to_owned();
    assert_eq!(first, json!({ "secret": a }), "before a rotation there is nothing else to show");
    let before = receiver.arrival("one signature", |arrival| versions(arrival) == ["v1"]).await;
    assert_accepted(&before, &a).await;

    // During: both are valid, X-Shopery-Secret has the new one.
    let rotated = receiver.rotate(json!({})).await;
    let b = text(&rotated["secret"]).to_owned();
    assert_ne!(a, b);
    assert_eq!(rotated["previous"][0]["secret"], json!(a));
    let lasts = time(&rotated["previous"][0]["until"]) - OffsetDateTime::now_utc();
    assert!(lasts > ::time::Duration::hours(23) && lasts <= ::time::Duration::hours(24), "{lasts}");
    assert_eq!(receiver.secrets().await, rotated);
    let during = receiver.arrival("the new secret", |arrival| arrival.header("x-shopery-secret") == b).await;
    assert_eq!(versions(&during), ["v1", "v1"]);
    assert_accepted(&during, &a).await;
    assert_accepted(&during, &b).await;
    assert_refused(&during, GIVEN).await;

    // Another one meanwhile, with a secret that was given; a former one ends when its time has come.
    let rotated = receiver.rotate(json!({ "secret": GIVEN, "overlap": "1s" })).await;
    let former: Vec<_> = rotated["previous"].as_array().unwrap().iter().map(|one| text(&one["secret"])).collect();
    assert_eq!((text(&rotated["secret"]), &former[..]), (GIVEN, &[b.as_str(), a.as_str()][..]));
    wait::until_true("the overlap to end", SOON, async || {
        receiver.secrets().await["previous"].as_array().is_some_and(|previous| previous.len() == 1)
    })
    .await;
    let is_over = |arrival: &Arrival| arrival.header("x-shopery-secret") == GIVEN && versions(arrival).len() == 2;
    let after = receiver.arrival("two secrets", is_over).await;
    assert_accepted(&after, GIVEN).await;
    assert_accepted(&after, &a).await;
    assert_refused(&after, &b).await;

    // An overlap of nothing ends all former ones, and so does a secret in a PATCH.
    assert_eq!(receiver.rotate(json!({ "secret": GIVEN, "overlap": "0s" })).await, json!({ "secret": GIVEN }));
    let after = receiver.arrival("one secret", |arrival| versions(arrival).len() == 1).await;
    assert_accepted(&after, GIVEN).await;
    assert_refused(&after, &a).await;
    let c = text(&receiver.rotate(json!({})).await["secret"]).to_owned();
    receiver.client.patch(&receiver.path, &json!({ "secret": a })).await.expect(200);
    assert_eq!(receiver.secrets().await, json!({ "secret": a }));
    let after = receiver.arrival("the patched secret", |arrival| arrival.header("x-shopery-secret") == a).await;
    assert_accepted(&after, &a).await;
    assert_refused(&after, &c).await;

    let secrets = [&a, &b, &c, GIVEN].map(|secret| ("a secret", &secret["whsec_".len()..]));
    Stored::of(&stack).await.assert_without(secrets);
}

/// A generated secret that was answered to nobody would be one that no receiver has.
async fn rotations_at_the_same_time_leave_secrets_that_were_given_out(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let receiver = Receiver::new(&stack, json!({})).await;
    let path = format!("{}/rotate-secret", receiver.path);
    let (overlap, rename) = (json!({ "overlap": "1h" }), json!({ "name": "renamed", "signature": "both" }));
    let rotations = join_all((0..6).map(|_| receiver.client.post(&path, &overlap)));
    let (rotations, renamed) = tokio::join!(rotations, receiver.client.patch(&receiver.path, &rename));
    assert!(matches!(renamed.status, 200 | 409), "{}", renamed.text());
    let mut known = Vec::new();
    for rotated in rotations {
        assert!(matches!(rotated.status, 200 | 409), "{}", rotated.text());
        if rotated.status == 200 {
            known.push(rotated.json()["secret"].clone());
        }
    }
    assert!(!known.is_empty());
    let shown = receiver.secrets().await;
    assert!(known.contains(&shown["secret"]), "{shown} of {known:?}");
    assert!(shown["previous"].as_array().unwrap().len() <= 2, "{shown}");

    // What is wrong is said by field, and the text is not repeated; nobody else gets in.
    for (body, field) in [
        (json!({ "overlap": "8d" }), "overlap"),
        (json!({ "overlap": 5 }), "overlap"),
        (json!({ "secret": "whsec_tooShortButSecret" }), "secret"),
        (json!({ "secrets": 1 }), "secrets"),
    ] {
        let refused = receiver.client.post(&path, &body).await.expect(422);
        assert_eq!(refused.problem()["errors"][0]["field"], field, "{}", refused.text());
        assert!(!refused.text().contains("tooShortButSecret"));
    }
    let reader = receiver.client.with_token(&token::mint(&["tnt_a"], "webhooks:read"));
    reader.post(&path, &json!({})).await.expect(403).problem();
    stack.client("tnt_b").post(&path, &json!({})).await.expect(404).problem();
    assert_eq!(receiver.secrets().await, shown);
    // All may be left out, the body too.
    let bare = client::send(receiver.client.request(Method::POST, &path)).await.unwrap().expect(200);
    assert_eq!(bare.headers["cache-control"], "no-store");
    assert_ne!(bare.json()["secret"], shown["secret"]);
}

async fn asymmetric_signatures_verify_by_the_public_key_and_rotate_with_the_secret(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let mut receiver = Receiver::new(&stack, json!({ "signature": "both" })).await;
    let shown = receiver.secrets().await;
    let (secret, key) = (text(&shown["secret"]).to_owned(), text(&shown["publicKey"]).to_owned());
    assert!(key.starts_with("whpk_"), "{shown}");
    let first = receiver.arrival("both signatures", |arrival| versions(arrival) == ["v1", "v1a"]).await;
    assert_accepted(&first, &secret).await;
    assert_accepted(&first, &key).await;

    let rotated = receiver.rotate(json!({})).await;
    let new_key = text(&rotated["publicKey"]).to_owned();
    assert_eq!(rotated["previous"][0]["publicKey"], json!(key));
    let during = receiver.arrival("four signatures", |arrival| versions(arrival).len() == 4).await;
    assert_eq!(versions(&during), ["v1", "v1a", "v1", "v1a"]);
    for valid in [&secret, &key, &new_key, text(&rotated["secret"])] {
        assert_accepted(&during, valid).await;
    }
    assert_refused(&first, &new_key).await;

    // Asymmetric alone, without, and with it again: the key stays.
    for (signature, expected) in [("asymmetric", vec!["v1a", "v1a"]), ("symmetric", vec!["v1", "v1"])] {
        let changed = receiver.client.patch(&receiver.path, &json!({ "signature": signature })).await.expect(200);
        assert_eq!(changed.json()["signature"], signature);
        let arrival = receiver.arrival(signature, |arrival| versions(arrival) == expected).await;
        if signature == "asymmetric" {
            assert_accepted(&arrival, &new_key).await;
            assert_accepted(&arrival, &key).await;
            assert_refused(&arrival, &secret).await;
        }
    }
    receiver.client.patch(&receiver.path, &json!({ "signature": "both" })).await.expect(200);
    assert_eq!(receiver.secrets().await["publicKey"], json!(new_key));
    let bad = receiver.client.patch(&receiver.path, &json!({ "signature": "rsa" })).await.expect(422);
    assert_eq!(bad.problem()["errors"][0]["field"], "signature");
    let shown = receiver.client.get(&receiver.path).await.expect(200).text();
    assert!(!shown.contains("whsec_") && !shown.contains("whsk_"), "{shown}");
    let stored = Stored::of(&stack).await;
    stored.assert_without([("a secret", &secret["whsec_".len()..])]);
    assert!(!stored.part("the database").contains("whsk_") && !stored.part("KV_CONFIG").contains("whsk_"));
}
