//! The life of a webhook: disabled and enabled, given up on, deleted; and how its receiver finds what it misses.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream;
use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Client, DatabaseKind, Event, Service, Stack, parts, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(30);

on_both_databases!(
    what_waits_for_a_disabled_webhook_is_shown_and_sent_when_it_is_enabled,
    what_has_waited_may_be_discarded_whatever_crashes,
    a_webhook_whose_every_attempt_fails_is_disabled_and_the_others_hear_of_it,
    a_receiver_finds_what_it_misses_by_digests,
);

async fn create_disabled(client: &Client, url: &str) -> String {
    client.create_webhook_with(url, &["*"], json!({ "isEnabled": false })).await
}

/// Waits until the webhook is disabled; returns it.
async fn disabled(client: &Client, webhook: &str) -> Value {
    wait::until("the webhook to be disabled", SOON, async || {
        let found = client.get(&format!("/company/webhooks/{webhook}")).await.expect(200).json();
        if found["state"] == "disabled" { Ok(found) } else { Err(found.to_string()) }
    })
    .await
}

async fn what_waits_for_a_disabled_webhook_is_shown_and_sent_when_it_is_enabled(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let webhook = create_disabled(&client, &stack.merchant.url("/a")).await;
    let path = format!("/company/webhooks/{webhook}");
    assert_eq!(client.get(&path).await.expect(200).json()["waiting"], json!({ "parked": 0 }));
    for number in 0..5 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    client.in_state(&webhook, "parked", 5, SOON).await;
    let found = client.get(&path).await.expect(200).json();
    assert_eq!((&found["state"], &found["waiting"]["parked"]), (&json!("paused"), &json!(5)), "{found}");
    let oldest = shopery_e2e::client::time(&found["waiting"]["oldestAt"]);
    assert!(oldest >= shopery_e2e::client::time(&found["createdAt"]), "{found}");
    assert!(client.all("/company/webhooks").await[0].get("waiting").is_none());
    assert_eq!(stack.merchant.arrivals().len(), 0);

    // It is said only with what it belongs to.
    for (body, says) in [
        (json!({ "waiting": "discard" }), "\"isEnabled\": true"),
        (json!({ "isEnabled": false, "waiting": "send" }), "\"isEnabled\": true"),
        (json!({ "isEnabled": true, "waiting": "drop" }), "send or discard"),
    ] {
        let problem = client.patch(&path, &body).await.expect(422).problem();
        assert_eq!(problem["errors"][0]["field"], "waiting", "{problem}");
        assert!(problem["errors"][0]["detail"].as_str().unwrap().contains(says), "{problem}");
    }

    let enabled = client.patch(&path, &json!({ "isEnabled": true })).await.expect(200).json();
    assert_eq!(enabled["waiting"]["parked"], 5, "{enabled}");
    let delivered = client.settled(&webhook, 5, SOON).await;
    assert!(delivered.iter().all(|delivery| delivery["state"] == "delivered"), "{delivered:?}");
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 5);
}

async fn what_has_waited_may_be_discarded_whatever_crashes(database: DatabaseKind) {
    let plan = Stack::plan().database(database).env("SHOPERY_RETRY_SCHEDULE", "1h");
    let mut stack = plan.env("SHOPERY_SWEEP_INTERVAL", "1s").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::Answer(500));
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let path = format!("/company/webhooks/{webhook}");
    for number in 0..2 {
        client.publish(&Event::order(&format!("scheduled_{number}"))).await.expect(202);
    }
    client.in_state(&webhook, "pending", 2, SOON).await;
    client.patch(&path, &json!({ "isEnabled": false })).await.expect(200);
    for number in 0..3 {
        client.publish(&Event::order(&format!("parked_{number}"))).await.expect(202);
    }
    client.in_state(&webhook, "parked", 3, SOON).await;

    stack.merchant.behave("/a", Behaviour::Answer(200));
    stack.kill(Service::Deliverer).await;
    let enabled = client.patch(&path, &json!({ "isEnabled": true, "waiting": "discard" })).await.expect(200).json();
    assert_eq!((&enabled["isEnabled"], &enabled["waiting"]["parked"]), (&json!(true), &json!(3)), "{enabled}");
    stack.kill(Service::Api).await;
    stack.run(Service::Deliverer).await;
    stack.run(Service::Api).await;
    for discarded in client.in_state(&webhook, "discarded", 5, SOON).await {
        assert_eq!(discarded["error"]["reason"], "discarded", "{discarded}");
    }
    // Whoever recovers what was missed has not missed what was not wanted.
    let since = OffsetDateTime::now_utc() - time::Duration::HOUR;
    let since = since.format(&Rfc3339).unwrap();
    let recovered = async |more: Value| {
        let mut body = json!({ "since": since });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let id = client.post(&format!("{path}/recover"), &body).await.expect(202).json()["id"].clone();
        wait::until("the recovery to end", SOON, async || {
            let found = client.get(&format!("/company/recoveries/{}", id.as_str().unwrap())).await.expect(200).json();
            if found["state"] == "completed" { Ok(found["resent"].as_u64().unwrap()) } else { Err(found.to_string()) }
        })
        .await
    };
    assert_eq!(recovered(json!({})).await, 0, "what was discarded was sent");
    let metrics = client.get(&format!("{path}/metrics")).await.expect(200).json();
    assert_eq!(metrics["total"]["deliveries"]["discarded"], 5, "{metrics}");
    let windows = digest(&client, &path, &since, "1d").await;
    let other: u64 = windows.iter().filter_map(|window| window["other"]["discarded"].as_u64()).sum();
    assert_eq!(other, 5, "{windows:?}");
    assert_eq!(client.get(&path).await.expect(200).json()["waiting"]["parked"], 0);

    // What comes now is sent, though its payload was discarded a moment ago.
    let mut again = Event::order("parked_0");
    again.id = "evt_again".to_owned();
    client.publish(&again).await.expect(202);
    client.in_state(&webhook, "delivered", 1, SOON).await;
    let sent: Vec<_> = stack.merchant.arrivals_at("/a").iter().map(|one| one.event_id().to_owned()).collect();
    assert_eq!(sent[2..], ["evt_again"], "{sent:?}");
    assert_eq!(recovered(json!({ "statuses": ["discarded"] })).await, 5);
    client.in_state(&webhook, "delivered", 6, SOON).await;
}

async fn a_webhook_whose_every_attempt_fails_is_disabled_and_the_others_hear_of_it(database: DatabaseKind) {
    let plan =
        Stack::plan().database(database).env("SHOPERY_DISABLE_AFTER", "2s").env("SHOPERY_CIRCUIT_FAILURES", "50");
    let stack = plan.env("SHOPERY_RETRY_SCHEDULE", "500ms,500ms,500ms,500ms,500ms,500ms,500ms").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/bad", Behaviour::Answer(500));
    stack.merchant.behave("/late", Behaviour::FailFirst { times: 3, status: 500 });
    let bad = client.create_webhook(&stack.merchant.url("/bad"), &["*"]).await;
    let late = client.create_webhook(&stack.merchant.url("/late"), &["order-*"]).await;
    client.create_webhook(&stack.merchant.url("/operations"), &["webhook-*"]).await;
    stack.client("tnt_b").create_webhook(&stack.merchant.url("/others"), &["*"]).await;
    for number in 0..6 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }

    let found = disabled(&client, &bad).await;
    assert_eq!((&found["isEnabled"], &found["disabledReason"]), (&json!(false), &json!("failing")), "{found}");
    let time = |member: &str| shopery_e2e::client::time(&found[member]);
    assert!(time("disabledAt") - time("failingSince") >= Duration::from_secs(2), "{found}");
    let [warned, told] = &stack.merchant.wait_at("/operations", 2, SOON).await[..] else { panic!() };
    assert_eq!(warned.header("x-shopery-event"), "webhook-failing");
    let body: Value = serde_json::from_slice(&warned.body).unwrap();
    assert_eq!((&body["id"], &body["state"], &body["isEnabled"]), (&json!(bad), &json!("active"), &json!(true)));
    assert_eq!(body["failingSince"], found["failingSince"], "{body}");
    assert_eq!(told.header("x-shopery-event"), "webhook-disabled");
    assert!(told.event_id().starts_with(&format!("webhook-disabled:{bad}:")), "{}", told.event_id());
    let body: Value = serde_json::from_slice(&told.body).unwrap();
    for member in ["id", "name", "url", "state", "disabledReason", "disabledAt", "failingSince"] {
        assert_eq!(body[member], found[member], "{member} of {body}");
    }
    assert!(!body.to_string().contains("whsec_"), "{body}");

    // One that works in the end is none of those, and what was told is told once, to this tenant's others.
    let works = client.settled(&late, 6, SOON).await;
    assert!(works.iter().all(|one| one["state"] == "delivered"), "{works:?}");
    let works = client.get(&format!("/company/webhooks/{late}")).await.expect(200).json();
    assert!(works["state"] == "active" && works.get("failingSince").is_none(), "{works}");
    let about = client.all(&format!("/company/webhooks/{bad}/deliveries?event=webhook-disabled")).await;
    assert_eq!(about.len(), 0, "a webhook was told of itself: {about:?}");
    client.publish(&Event::order("later")).await.expect(202);
    client.settled(&late, 7, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/operations").len(), 2);
    assert_eq!(stack.merchant.arrivals_at("/others").len(), 0);

    let path = format!("/company/webhooks/{bad}");
    stack.merchant.behave("/bad", Behaviour::Answer(200));
    let enabled = client.patch(&path, &json!({ "isEnabled": true })).await.expect(200).json();
    for member in ["disabledReason", "disabledAt", "failingSince"] {
        assert!(enabled.get(member).is_none(), "{member} of {enabled}");
    }
    stack
        .merchant
        .wait_for("what waited", SOON, |all| all.iter().any(|one| one.path == "/bad" && one.event_id() == "evt_later"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_webhook_was_disabled_is_told_once_there_is_room_for_it() {
    let mut stack = Stack::plan().env("SHOPERY_EVENTS_MAX_MIB", "1").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/gone", Behaviour::Answer(410));
    let gone = create_disabled(&client, &stack.merchant.url("/gone")).await;
    client.create_webhook(&stack.merchant.url("/operations"), &["webhook-*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    client.in_state(&gone, "parked", 1, SOON).await;
    // EVENTS takes nothing more, however small: nobody routes, so nothing of it gives way.
    stack.stop(Service::Router).await;
    for size in [50_000, 1000, 1] {
        for number in 0.. {
            assert!(number < 2000, "1 MiB never fills");
            let event = Event::order(&format!("fill_{size}_{number}"));
            let event = event.with_data(format!(r#"{{"fill":"{}"}}"#, "x".repeat(size)));
            if stack.client("tnt_b").publish(&event).await.status == 503 {
                break;
            }
        }
    }
    client.patch(&format!("/company/webhooks/{gone}"), &json!({ "isEnabled": true })).await.expect(200);
    let found = disabled(&client, &gone).await;
    assert_eq!(found["disabledReason"], "gone", "{found}");
    let refused = "cannot publish webhook-disabled";
    wait::until_true("the controller to be refused", SOON, async || stack.log(Service::Controller).contains(refused))
        .await;
    assert_eq!(stack.merchant.arrivals_at("/operations").len(), 0);
    let jetstream = jetstream::new(stack.operator().await);
    jetstream.get_stream("EVENTS").await.unwrap().purge().await.unwrap();
    stack.run(Service::Router).await;
    let told = stack.merchant.wait_at("/operations", 1, SOON).await.remove(0);
    assert!(told.event_id().starts_with(&format!("webhook-disabled:{gone}:")), "{}", told.event_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_publishes_what_is_told_of_webhooks() {
    let stack = Stack::start().await;
    let mut event = Event::new("webhook-disabled", "wbh_01HA4XCG60CT4G3EWF4CKYM1MF");
    let problem = stack.client("tnt_a").publish(&event).await.expect(422).problem();
    assert_eq!(problem["errors"][0]["field"], "type", "{problem}");
    event.event_type = "webhooks-disabled".to_owned();
    stack.client("tnt_a").publish(&event).await.expect(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retries_of_a_deleted_webhook_end_soon_and_nobody_elses() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "1h").start().await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for path in ["/deleted", "/kept"] {
        stack.merchant.behave(path, Behaviour::Answer(500));
        webhooks.push(client.create_webhook(&stack.merchant.url(path), &["*"]).await);
    }
    let (deleted, kept) = (&webhooks[0], &webhooks[1]);
    for number in 0..3 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    for webhook in &webhooks {
        client.in_state(webhook, "pending", 3, SOON).await;
    }
    client.delete(&format!("/company/webhooks/{deleted}")).await.expect(204);
    for ended in client.in_state(deleted, "failed", 3, SOON).await {
        let what = (&ended["error"]["reason"], &ended["attemptCount"]);
        assert_eq!(what, (&json!("webhook_deleted"), &json!(1)), "{ended}");
    }
    let jetstream = jetstream::new(stack.operator().await);
    let retry = jetstream.get_stream("RETRY").await.unwrap();
    wait::until("the schedules of the deleted webhook to be gone", SOON, async || {
        use futures_util::TryStreamExt;
        let subjects = retry.info_with_subjects(">").await.map_err(|error| error.to_string())?;
        let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(|error| error.to_string())?;
        let of = |webhook: &str| subjects.iter().filter(|(subject, _)| subject.contains(webhook)).count();
        if (of(deleted), of(kept)) == (0, 3) { Ok(()) } else { Err(format!("{subjects:?}")) }
    })
    .await;
    client.in_state(kept, "pending", 3, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/deleted").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_was_scheduled_after_all_was_discarded_is_made() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "5s").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 1, status: 500 });
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let path = format!("/company/webhooks/{webhook}");
    client.patch(&path, &json!({ "isEnabled": true, "waiting": "discard" })).await.expect(200);
    client.publish(&Event::order("1")).await.expect(202);
    client.in_state(&webhook, "pending", 1, SOON).await;
    // What is scheduled is looked through once more, and this is found and left.
    client.patch(&path, &json!({ "isEnabled": true })).await.expect(200);
    let retry = jetstream::new(stack.operator().await).get_stream("RETRY").await.unwrap();
    wait::until("the timer to be done with", SOON, async || {
        let left = retry.get_info().await.map_err(|error| error.to_string())?.state.messages;
        if left == 1 { Ok(()) } else { Err(format!("{left} messages in RETRY")) }
    })
    .await;
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 1);
    let arrivals = stack.merchant.wait_at("/a", 2, SOON).await;
    assert!(arrivals[1].at - arrivals[0].at > Duration::from_secs(3), "the schedule was not what it had been");
    client.in_state(&webhook, "delivered", 1, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_for_a_webhook_that_has_all_parked_that_it_may_expires_and_says_why() {
    let stack = Stack::plan().env("SHOPERY_PARKED_MAX_JOBS", "10").start().await;
    let client = stack.client("tnt_a");
    let webhook = create_disabled(&client, &stack.merchant.url("/a")).await;
    for number in 0..10 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    client.in_state(&webhook, "parked", 10, SOON).await;
    for number in 10..15 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    for expired in client.in_state(&webhook, "expired", 5, SOON).await {
        assert_eq!(expired["error"]["reason"], "parking_full", "{expired}");
    }
    client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "isEnabled": true })).await.expect(200);
    client.in_state(&webhook, "delivered", 10, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_can_use_goes_to_dead_once_and_is_counted() {
    let stack = Stack::start().await;
    let jetstream = jetstream::new(stack.operator().await);
    let poison = "jobs.fast.tnt_a.wbh_01HA4XCG60CT4G3EWF4CKYM1MF";
    jetstream.publish(poison, "no job".into()).await.unwrap().await.unwrap();
    let metrics = format!("{}/metrics", stack.url(Service::Deliverer));
    let count = "shopery_dead_messages_total{reason=\"undecodable-job\"} 1";
    wait::until("it to be counted", SOON, async || {
        let metrics = reqwest::get(&metrics).await.unwrap().text().await.unwrap();
        if metrics.contains(count) { Ok(()) } else { Err(metrics) }
    })
    .await;
    let dead = jetstream.get_stream("DEAD").await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 1);
    let dead = dead.get_first_raw_message_by_subject("dead.undecodable-job.>", 1).await.unwrap();
    assert!(String::from_utf8_lossy(&dead.payload).contains("no job"));
    wait::until("JOBS to be empty", SOON, async || {
        let left = jetstream.get_stream("JOBS").await.unwrap().cached_info().state.messages;
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    })
    .await;
}

async fn a_receiver_finds_what_it_misses_by_digests(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let rules = json!({ "filter": { "total": [{ "numeric": [">", 100] }] } });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["*"], rules).await;
    let paused = create_disabled(&client, &stack.merchant.url("/paused")).await;
    let total = |number: usize| if number.is_multiple_of(10) { 1 } else { 1000 + number };
    for number in 0..300 {
        let event = Event::order(&number.to_string()).with_data(format!(r#"{{"total":{}}}"#, total(number)));
        client.publish(&event).await.expect(202);
    }
    // The receiver takes down the webhook-id of each; of what it got it loses two.
    let arrived = stack.merchant.wait_at("/a", 270, SOON).await;
    let mut received: Vec<String> = arrived.iter().map(|arrival| arrival.webhook_id().to_owned()).collect();
    client.settled(&webhook, 300, SOON).await;
    client.in_state(&paused, "parked", 300, SOON).await;
    let lost: HashSet<_> = [received.remove(200), received.remove(20)].into();
    let from = client.get(&format!("/company/webhooks/{webhook}")).await.expect(200).json()["createdAt"].clone();
    let (path, from) = (format!("/company/webhooks/{webhook}"), from.as_str().unwrap());

    // The whole time differs; second by second, the windows with those two do.
    let whole = digest(&client, &path, from, "1h").await;
    let [hour] = &whole[..] else { panic!("{whole:?}") };
    assert_eq!((&hour["delivered"], &hour["open"]), (&json!(270), &json!(0)), "{hour}");
    assert_eq!(hour["other"], json!({ "filtered": 30 }), "{hour}");
    assert_eq!(windows_of(&received, from, 3_600_000).await[0]["delivered"], 268);
    let theirs = windows_of(&received, from, 1000).await;
    let mut missing = Vec::new();
    for (index, window) in digest(&client, &path, from, "1s").await.iter().enumerate() {
        let nothing = json!({ "delivered": 0, "digest": "0".repeat(64) });
        let own = theirs.get(index).filter(|own| !own.is_null()).unwrap_or(&nothing);
        if own["digest"] == window["digest"] {
            assert_eq!(own["delivered"], window["delivered"], "{window}");
            continue;
        }
        let (from, to) = (window["from"].as_str().unwrap(), window["to"].as_str().unwrap());
        let list = format!("{path}/deliveries?status=delivered&created_at_min={from}&created_at_max={to}");
        let listed = client.all(&list).await;
        assert_eq!(listed.len(), usize::try_from(window["delivered"].as_u64().unwrap()).unwrap(), "{window}");
        missing.extend(listed.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
    }
    missing.retain(|id| !received.contains(id));
    assert_eq!(missing.into_iter().collect::<HashSet<_>>(), lost);

    // What is parked may still change; and errors say how to mend them.
    let open = digest(&client, &format!("/company/webhooks/{paused}"), from, "1h").await;
    let what = (&open[0]["delivered"], &open[0]["open"], &open[0]["digest"]);
    assert_eq!(what, (&json!(0), &json!(300), &json!("0".repeat(64))), "{open:?}");
    for (query, field) in [
        ("", "created_at_min"),
        ("created_at_min=yesterday", "created_at_min"),
        ("created_at_min=2026-01-01T00:00:00Z&created_at_max=2025-01-01T00:00:00Z", "created_at_max"),
        ("created_at_min=2026-01-01T00:00:00Z&created_at_max=2027-01-01T00:00:00Z", "step"),
        ("created_at_min=2026-01-01T00:00:00Z&step=500ms", "step"),
        ("created_at_min=2026-01-01T00:00:00Z&hour=1", "hour"),
    ] {
        let problem = client.get(&format!("{path}/digest?{query}")).await.expect(422).problem();
        assert_eq!(problem["errors"][0]["field"], field, "{query}: {problem}");
    }
    let theirs = stack.client("tnt_b").get(&format!("{path}/digest?created_at_min={from}")).await;
    theirs.expect(404).problem();
}

async fn digest(client: &Client, webhook: &str, from: &str, step: &str) -> Vec<Value> {
    let answer = client.get(&format!("{webhook}/digest?created_at_min={from}&step={step}")).await.expect(200).json();
    answer["data"].as_array().unwrap().clone()
}

/// The same of a receiver's own list, by the example of the documentation; `null` where it has nothing.
async fn windows_of(ids: &[String], from: &str, step_millis: u64) -> Vec<Value> {
    let readme = std::fs::read_to_string(parts::workspace().join("services/api/README.md")).unwrap();
    let example = readme.split("```python digest\n").nth(1).and_then(|rest| rest.split("\n```").next());
    let example = example.expect("services/api/README.md HAS NO BLOCK ```python digest");
    let start = shopery_e2e::client::time(&json!(from)).unix_timestamp_nanos() / 1_000_000;
    let program = format!(
        "{example}\n\
         import json, sys\n\
         found = digests(json.load(sys.stdin), {start}, {step_millis})\n\
         print(json.dumps([found.get(index) and dict(zip((\"delivered\", \"digest\"), found[index])) \
         for index in range(max(found) + 1)]))\n"
    );
    let mut python = Command::new(parts::python())
        .args(["-c", &program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(json!(ids).to_string().as_bytes()).await.unwrap();
    let done = python.wait_with_output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}
