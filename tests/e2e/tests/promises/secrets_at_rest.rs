//! What is secret of a webhook is stored sealed, with keys that can be replaced and without which nothing is lost.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::{Value, json};
use shopery_e2e::stack::KEYS;
use shopery_e2e::stored::{Stored, execute};
use shopery_e2e::verify::assert_accepted;
use shopery_e2e::{Behaviour, DatabaseKind, Event, Metrics, Service, Stack, wait};

const SOON: Duration = Duration::from_secs(30);
const NEW_KEY: &str = "second:YW5vdGhlciBrZXkgb2YgdGhlIGUyZSBzdWl0ZS4uLi4=";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

on_both_databases!(
    no_secret_is_stored_in_plain,
    what_an_earlier_version_has_stored_works_and_is_sealed,
    the_encryption_key_is_replaced_while_everything_runs,
);

async fn no_secret_is_stored_in_plain(database: DatabaseKind) {
    let stack = Stack::plan().database(database).env("SHOPERY_LOG", "debug").start().await;
    let client = stack.client("tnt_a");
    // Something lies everywhere: delivered, to be tried again, parked.
    let given = json!({ "secret": SECRET });
    client.create_webhook_with(&stack.merchant.url("/a"), &["*"], given).await;
    stack.merchant.behave("/failing", Behaviour::Answer(500));
    let failing = client.create_webhook(&stack.merchant.url("/failing"), &["*"]).await;
    let paused = client.create_webhook_with(&stack.merchant.url("/p"), &["*"], json!({ "isEnabled": false })).await;
    // A router may hear of the webhook that was made last after it has the event.
    let mut number = 0;
    let stored = wait::until("a job to be parked", SOON, async || {
        number += 1;
        client.publish(&Event::order(&number.to_string())).await.expect(202);
        stack.merchant.wait_at("/a", number, SOON).await;
        let stored = Stored::of(&stack).await;
        if stored.part("PARKED").contains(&paused) { Ok(stored) } else { Err(stored.part("PARKED").to_owned()) }
    })
    .await;
    stack.merchant.wait_at("/failing", 1, SOON).await;
    let secrets = [client.secret(&failing).await, client.secret(&paused).await, SECRET.to_owned()];
    let hidden = secrets.iter().map(|secret| ("a secret", secret.trim_start_matches("whsec_")));
    stored.assert_without(hidden.chain([("the key", KEYS.split_once(':').unwrap().1)]));
    for place in ["the database", "KV_CONFIG"] {
        let sealed = stored.part(place).matches("v1.first.").count();
        assert_eq!(sealed, 3, "{place}: {}", stored.part(place));
    }
    assert_accepted(&stack.merchant.arrivals_at("/a")[0], SECRET).await;
    assert_accepted(&stack.merchant.arrivals_at("/failing")[0], &secrets[0]).await;
}

/// A database and a CONFIG as they were before there were keys.
async fn what_an_earlier_version_has_stored_works_and_is_sealed(database: DatabaseKind) {
    let mut stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["*"], json!({ "secret": SECRET })).await;
    for service in [Service::Api, Service::Recorder, Service::Controller, Service::Router, Service::Deliverer] {
        assert!(stack.stop(service).await.success());
    }
    let sql = format!(
        "UPDATE webhooks SET sealed = '{SECRET}'; ALTER TABLE webhooks RENAME COLUMN sealed TO secret; \
         DELETE FROM seaql_migrations WHERE version = 'm0005_sealed_credentials'"
    );
    execute(&stack, &sql).await;
    let config = jetstream::new(stack.operator().await).get_key_value("CONFIG").await.unwrap();
    let key = format!("tnt_a.{webhook}");
    let mut entry: Value = serde_json::from_slice(&config.get(&key).await.unwrap().unwrap()).unwrap();
    let entry = entry.as_object_mut().unwrap();
    entry.remove("sealed").unwrap();
    entry.insert("secret".to_owned(), json!(SECRET));
    config.put(&key, serde_json::to_vec(entry).unwrap().into()).await.unwrap();

    // That it is there shows that it would be found.
    let stored = Stored::of(&stack).await;
    assert!(stored.part("the database").contains(SECRET) && stored.part("KV_CONFIG").contains(SECRET));

    // First whoever reads CONFIG, then whoever writes it: so an installation is brought to a new version.
    stack.run(Service::Deliverer).await;
    stack.run(Service::Router).await;
    client.publish(&Event::order("1")).await.expect(202);
    assert_accepted(&stack.merchant.wait_at("/a", 1, SOON).await[0], SECRET).await;
    for service in [Service::Controller, Service::Recorder, Service::Api] {
        stack.run(service).await;
    }
    assert_eq!(client.secret(&webhook).await, SECRET);
    let stored = wait::until("all to be sealed", SOON, async || {
        let stored = Stored::of(&stack).await;
        let sealed = ["the database", "KV_CONFIG"].map(|place| stored.part(place).matches("v1.first.").count());
        if sealed == [1, 1] { Ok(stored) } else { Err(format!("{sealed:?}")) }
    })
    .await;
    stored.assert_without([("a secret", SECRET)]);
    client.publish(&Event::order("2")).await.expect(202);
    assert_accepted(&stack.merchant.wait_at("/a", 2, SOON).await[1], SECRET).await;
    client.settled(&webhook, 2, SOON).await;
}

async fn the_encryption_key_is_replaced_while_everything_runs(database: DatabaseKind) {
    let mut stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for number in 0..5 {
        let webhook = client.create_webhook(&stack.merchant.url(&format!("/{number}")), &["*"]).await;
        webhooks.push((webhook.clone(), client.secret(&webhook).await));
    }
    // Everybody can open what the new one seals; then it seals; then it has sealed everything; then the old one goes.
    let both = format!("{NEW_KEY},{KEYS}");
    for keys in [format!("{KEYS},{NEW_KEY}"), both] {
        for service in [Service::Deliverer, Service::Api] {
            assert!(stack.stop(service).await.success());
            stack.run_with(service, &[("SHOPERY_ENCRYPTION_KEYS", &keys)]).await;
        }
    }
    let new = client.create_webhook(&stack.merchant.url("/new"), &["*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    for count in [5, 0] {
        let done = stack.command(Service::Api).arg("reencrypt").output().await.unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let counted = format!("re-encrypted {count} webhooks with the key second");
        assert!(done.status.success() && said.contains(&counted), "{done:?}");
    }
    let stored = Stored::of(&stack).await;
    for place in ["the database", "KV_CONFIG"] {
        let by_key = ["v1.first.", "v1.second."].map(|seal| stored.part(place).matches(seal).count());
        assert_eq!(by_key, [0, 6], "{place}: {}", stored.part(place));
    }
    for service in [Service::Deliverer, Service::Api] {
        assert!(stack.stop(service).await.success());
        stack.run_with(service, &[("SHOPERY_ENCRYPTION_KEYS", NEW_KEY)]).await;
    }
    client.publish(&Event::order("2")).await.expect(202);
    for (number, (webhook, secret)) in webhooks.iter().enumerate() {
        assert_eq!(client.secret(webhook).await, *secret);
        client.settled(webhook, 2, SOON).await;
        for arrival in stack.merchant.arrivals_at(&format!("/{number}")) {
            assert_accepted(&arrival, secret).await;
        }
    }
    client.settled(&new, 2, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_open_nothing_are_one_clear_error_and_nothing_is_lost() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let secret = client.secret(&webhook).await;
    for service in [Service::Deliverer, Service::Api] {
        assert!(stack.stop(service).await.success());
    }
    client.publish(&Event::order("1")).await.expect(202);
    let another = format!("first:{}", NEW_KEY.split_once(':').unwrap().1);
    for (keys, why) in [
        ("", "SHOPERY_ENCRYPTION_KEYS is not set"),
        ("first:short", "SHOPERY_ENCRYPTION_KEYS: key 1 is not"),
        (NEW_KEY, "it is sealed with the key first, which SHOPERY_ENCRYPTION_KEYS does not have"),
        (&another, "the key first of SHOPERY_ENCRYPTION_KEYS does not open it"),
    ] {
        for service in [Service::Deliverer, Service::Api] {
            let mut command = stack.command(service);
            let ended = command.env("SHOPERY_ENCRYPTION_KEYS", keys).kill_on_drop(true).output();
            let ended = wait::within(&format!("{} to end", service.name()), SOON, ended).await.unwrap();
            let said = String::from_utf8(ended.stderr).unwrap();
            let lines = said.lines().filter(|line| line.contains(why) && !line.starts_with('{')).count();
            assert!(ended.status.code() == Some(1) && lines == 1 && !said.contains("panicked"), "{said}");
            assert!(keys.is_empty() || !said.contains(keys), "{said}");
        }
    }
    // The command leaves what it cannot open as it is, and says so.
    let done = stack.command(Service::Api).arg("reencrypt").env("SHOPERY_ENCRYPTION_KEYS", NEW_KEY).output();
    let done = wait::within("reencrypt to end", SOON, done).await.unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    let is_said = said.contains("1 webhooks were left as they are") && said.contains("the key first");
    assert!(done.status.code() == Some(1) && is_said, "{said}");
    for service in [Service::Deliverer, Service::Api] {
        stack.run(service).await;
    }
    client.settled(&webhook, 1, SOON).await;
    assert_accepted(&stack.merchant.arrivals_at("/a")[0], &secret).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_for_a_webhook_that_stays_closed_waits_and_the_others_get_theirs() {
    let mut stack = Stack::plan().env("SHOPERY_SWEEP_INTERVAL", "1s").start().await;
    let client = stack.client("tnt_a");
    let open = client.create_webhook(&stack.merchant.url("/open"), &["*"]).await;
    // The api seals with a key that the deliverer was not given.
    assert!(stack.stop(Service::Api).await.success());
    let both = format!("{NEW_KEY},{KEYS}");
    stack.run_with(Service::Api, &[("SHOPERY_ENCRYPTION_KEYS", &both)]).await;
    let closed = client.create_webhook(&stack.merchant.url("/closed"), &["*"]).await;
    let secret = client.secret(&closed).await;
    for number in 0..3 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    client.settled(&open, 3, SOON).await;
    wait::until("what came for the closed one to be parked", SOON, async || {
        let found = client.get(&format!("/company/webhooks/{closed}")).await.expect(200).json();
        if found["waiting"]["parked"] == 3 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    let unopened = Metrics::of(&stack.url(Service::Deliverer)).await.unwrap().value("shopery_unopened_webhooks");
    assert_eq!(unopened, Some(1.0));
    let log = stack.log(Service::Deliverer);
    assert_eq!(log.matches("a webhook cannot be opened").count(), 1, "{log}");
    assert_eq!(stack.merchant.arrivals_at("/closed").len(), 0);

    assert!(stack.stop(Service::Deliverer).await.success());
    stack.run(Service::Deliverer).await;
    client.settled(&closed, 3, SOON).await;
    assert_accepted(&stack.merchant.arrivals_at("/closed")[0], &secret).await;
}
