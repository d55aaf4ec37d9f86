//! What an endpoint is told is true: the right state under the right name, nothing twice and nothing withheld, and the history
//! says what became of the rest. One test for each case of services/guarantees.md that a careless service gets wrong.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::{Arrival, Behaviour, Client, Event, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SOON: Duration = Duration::from_secs(40);
/// The first attempt may fail of a machine that is busy, before the endpoint has seen it.
const RETRIES: &str = "3s,3s,3s,3s";

/// An event of an order of this type, named so.
pub(super) fn event(order: &str, event_type: &str, name: &str, data: &str) -> Event {
    let mut event = Event::new(event_type, order).with_data(data);
    event.id = format!("evt_{order}_{name}");
    event
}

/// By a clock that is so far ahead; below 0 it is behind.
pub(super) fn ahead(seconds: i64, event: Event) -> Event {
    let time = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
    Event { time: Some(time.format(&Rfc3339).unwrap()), ..event }
}

pub(super) async fn create(stack: &Stack, client: &Client, path: &str, rules: Value) -> String {
    client.create_webhook_with(&stack.merchant.url(path), &["order-*"], rules).await
}

pub(super) fn delivery_of<'a>(history: &'a [Value], event: &str) -> &'a Value {
    history.iter().find(|delivery| delivery["eventId"] == event).unwrap_or_else(|| panic!("no {event} in {history:?}"))
}

/// Waits until the delivery of an event has ended so.
pub(super) async fn ends(client: &Client, webhook: &str, event: &str, state: &str) -> Value {
    wait::until(&format!("{event} to be {state}"), SOON, async || {
        let history = client.all(&format!("/company/webhooks/{webhook}/deliveries")).await;
        match history.into_iter().find(|delivery| delivery["eventId"] == event) {
            Some(found) if found["state"] == state => Ok(found),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

pub(super) fn last_of<'a>(arrivals: &'a [Arc<Arrival>], event: &str) -> &'a Arc<Arrival> {
    arrivals.iter().rfind(|arrival| arrival.event_id() == event).unwrap_or_else(|| panic!("no {event} came"))
}

/// What came, as event, event of the payload, and body.
pub(super) fn told(arrivals: &[Arc<Arrival>]) -> Vec<(&str, &str, &str)> {
    arrivals
        .iter()
        .map(|arrival| {
            let body = std::str::from_utf8(&arrival.body).unwrap();
            (arrival.event_id(), arrival.header("x-shopery-payload-event-id"), body)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publishers_clock_that_is_ahead_hides_nothing_that_comes_later() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", RETRIES).start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/retry", Behaviour::FailFirst { times: 1, status: 503 });
    let retried = create(&stack, &client, "/retry", json!({})).await;
    let (old, new) = (r#"{"state":"old"}"#, r#"{"state":"new"}"#);
    client.publish(&ahead(2, event("1", "order-updated", "a", old))).await.expect(202);
    stack.merchant.wait_at("/retry", 1, SOON).await;
    client.publish(&event("1", "order-updated", "b", new)).await.expect(202);
    client.settled(&retried, 2, SOON).await;
    let arrivals = stack.merchant.arrivals_at("/retry");
    assert_eq!(arrivals.len(), 3);
    let retry = last_of(&arrivals, "evt_1_a");
    assert_eq!(told(std::slice::from_ref(retry)), [("evt_1_a", "evt_1_b", new)]);
    let [older, newer] = [&arrivals[0], retry].map(|arrival| arrival.header("x-shopery-sequence").to_owned());
    assert!(older < newer, "{older} {newer}");

    let debounced = create(&stack, &client, "/debounced", json!({ "debounce": "1s" })).await;
    let burst = [ahead(2, event("2", "order-updated", "a", old)), event("2", "order-updated", "b", new)];
    client.try_publish_batch(&burst).await.unwrap().expect(202);
    let history = client.settled(&debounced, 2, SOON).await;
    assert_eq!(told(&stack.merchant.arrivals_at("/debounced")), [("evt_2_b", "evt_2_b", new)]);
    // The delivery is that of the event of the burst that was routed first, and tells of the last one.
    let [a, b] = ["evt_2_a", "evt_2_b"].map(|event| delivery_of(&history, event));
    let (carrier, superseded) = if a["state"] == "delivered" { (a, b) } else { (b, a) };
    assert_eq!((&carrier["state"], &superseded["state"]), (&json!("delivered"), &json!("superseded")), "{history:?}");
    assert_eq!(superseded["carriedBy"], carrier["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_of_one_event_type_so_a_deletion_is_told_as_one() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = create(&stack, &client, "/a", json!({ "debounce": "1s" })).await;
    let (alive, gone) = (r#"{"is":"alive"}"#, r#"{"is":"gone"}"#);
    let both = [event("1", "order-created", "c", alive), event("1", "order-deleted", "d", gone)];
    client.try_publish_batch(&both).await.unwrap().expect(202);
    let history = client.settled(&webhook, 2, SOON).await;
    let [created, deleted] = ["evt_1_c", "evt_1_d"].map(|event| delivery_of(&history, event));
    assert_eq!(deleted["state"], "delivered", "{history:?}");
    let arrivals = stack.merchant.arrivals_at("/a");
    let mut told: Vec<_> = arrivals.iter().map(|one| (one.header("x-shopery-event"), one.body.clone())).collect();
    told.sort_unstable();
    // Both are due at the same time. A creation that is attempted after the deletion was accepted is superseded by it.
    if created["state"] == "superseded" {
        assert_eq!(created["carriedBy"], deleted["id"]);
        assert_eq!(told, [("order-deleted", gone.into())]);
    } else {
        assert_eq!(created["state"], "delivered", "{history:?}");
        assert_eq!(told, [("order-created", alive.into()), ("order-deleted", gone.into())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_undoes_no_deletion_and_tells_of_none_under_another_name() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "8s,8s,8s").start().await;
    let client = stack.client("tnt_a");
    for path in ["/all", "/undeleted"] {
        stack.merchant.behave(path, Behaviour::FailFirst { times: 1, status: 503 });
    }
    let all = create(&stack, &client, "/all", json!({})).await;
    let events = ["order-created", "order-paid"];
    let undeleted = client.create_webhook(&stack.merchant.url("/undeleted"), &events).await;
    let [created, paid, deleted] = ["created", "paid", "deleted"].map(|what| format!(r#"{{"is":"{what}"}}"#));
    client.publish(&event("1", "order-created", "c", &created)).await.expect(202);
    for path in ["/all", "/undeleted"] {
        stack.merchant.wait_at(path, 1, SOON).await;
    }
    client.publish(&event("1", "order-paid", "p", &paid)).await.expect(202);
    ends(&client, &all, "evt_1_p", "delivered").await;
    client.publish(&event("1", "order-deleted", "d", &deleted)).await.expect(202);
    ends(&client, &all, "evt_1_d", "delivered").await;

    // The endpoint knows of the deletion: there is nothing left to tell it.
    let history = client.settled(&all, 3, SOON).await;
    let superseded = delivery_of(&history, "evt_1_c");
    assert_eq!(superseded["state"], "superseded", "{superseded}");
    assert_eq!(superseded["carriedBy"], delivery_of(&history, "evt_1_d")["id"]);
    let arrivals = stack.merchant.arrivals_at("/all");
    let told: Vec<_> = arrivals.iter().map(|arrival| arrival.event_id()).collect();
    assert_eq!(told, ["evt_1_c", "evt_1_p", "evt_1_d"]);

    // This one is told nothing of deletions: it gets the last state before.
    client.settled(&undeleted, 2, SOON).await;
    let arrivals = stack.merchant.arrivals_at("/undeleted");
    assert_eq!(arrivals.len(), 3, "{arrivals:?}");
    let retry = last_of(&arrivals, "evt_1_c");
    assert_eq!(retry.header("x-shopery-event"), "order-created");
    assert_eq!(retry.header("x-shopery-payload-event-id"), "evt_1_p");
    assert_eq!(retry.body, paid);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sequence_finds_the_newest_of_forty_updates() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let latest = create(&stack, &client, "/latest", json!({})).await;
    let ordered = create(&stack, &client, "/ordered", json!({ "ordered": true, "payload": "original" })).await;
    let body = |number: usize| format!(r#"{{"number":{number}}}"#);
    let burst: Vec<_> =
        (0..40).map(|number| event("1", "order-updated", &format!("{number:02}"), &body(number))).collect();
    client.try_publish_batch(&burst).await.unwrap().expect(202);
    for webhook in [&latest, &ordered] {
        let history = client.settled(webhook, 40, SOON).await;
        assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    }
    // In whatever order they come, a receiver that drops what is older has the last one in the end.
    let arrivals = stack.merchant.arrivals_at("/latest");
    assert_eq!(arrivals.len(), 40);
    let newest = arrivals.iter().max_by_key(|arrival| arrival.header("x-shopery-sequence").to_owned()).unwrap();
    assert_eq!(newest.body, body(39));
    let old: Vec<_> = arrivals.iter().filter(|arrival| arrival.body != body(39)).map(|one| &one.body).collect();
    assert!(old.len() <= 2, "{} of 40 carry another state than the most recent one: {old:?}", old.len());

    let arrivals = stack.merchant.arrivals_at("/ordered");
    let came: Vec<_> = arrivals.iter().map(|arrival| arrival.body.clone()).collect();
    assert_eq!(came, (0..40).map(|number| body(number).into()).collect::<Vec<bytes::Bytes>>());
    let sequences: Vec<_> = arrivals.iter().map(|arrival| arrival.header("x-shopery-sequence")).collect();
    assert!(sequences.is_sorted() && sequences.iter().all(|sequence| sequence.len() == 32), "{sequences:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_sends_nothing_that_the_filter_does_not_match() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", RETRIES).start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 1, status: 500 });
    let filter = json!({ "filter": { "total": [{ "numeric": [">", 100] }] } });
    let webhook = create(&stack, &client, "/a", filter).await;
    client.publish(&event("1", "order-updated", "150", r#"{"total":150}"#)).await.expect(202);
    stack.merchant.wait_at("/a", 1, SOON).await;
    client.publish(&event("1", "order-updated", "50", r#"{"total":50}"#)).await.expect(202);
    let history = client.settled(&webhook, 2, SOON).await;
    let tried = delivery_of(&history, "evt_1_150");
    assert_eq!(
        (&tried["state"], &tried["error"]["reason"]),
        (&json!("filtered"), &json!("filter_not_matched")),
        "{tried}"
    );
    let untried = delivery_of(&history, "evt_1_50");
    assert_eq!((&untried["state"], &untried["attemptCount"]), (&json!("filtered"), &json!(0)), "{untried}");
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_discarded_stays_so_until_it_is_asked_for_by_name() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = create(&stack, &client, "/a", json!({ "isEnabled": false })).await;
    let path = format!("/company/webhooks/{webhook}");
    let since = (OffsetDateTime::now_utc() - time::Duration::minutes(5)).format(&Rfc3339).unwrap();
    for order in ["1", "2", "3"] {
        client.publish(&event(order, "order-created", "c", r#"{"is":"created"}"#)).await.expect(202);
    }
    client.in_state(&webhook, "parked", 3, SOON).await;
    client.patch(&path, &json!({ "isEnabled": true, "waiting": "discard" })).await.expect(200);
    client.in_state(&webhook, "discarded", 3, SOON).await;

    let recover = async |more: Value| {
        let mut body = json!({ "since": since });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let id = client.post(&format!("{path}/recover"), &body).await.expect(202).json()["id"].clone();
        let recovery = format!("/company/recoveries/{}", id.as_str().unwrap());
        wait::until("the recovery to end", SOON, async || {
            let found = client.get(&recovery).await.expect(200).json();
            if found["state"] == "completed" { Ok(found["resent"].clone()) } else { Err(found.to_string()) }
        })
        .await
    };
    assert_eq!(recover(json!({})).await, 0);
    client.in_state(&webhook, "discarded", 3, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 0);
    assert_eq!(recover(json!({ "statuses": ["discarded"] })).await, 3);
    client.in_state(&webhook, "delivered", 3, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 3);
}

/// Fifty members of 199 bytes each, and an order that has them.
fn long_paths() -> (Vec<String>, String) {
    let paths: Vec<_> = (0..50).map(|number| format!("{number:02}{}", "x".repeat(197))).collect();
    let members: Vec<_> = paths.iter().map(|path| format!("\"{path}\":1")).collect();
    (paths, format!("{{{}}}", members.join(",")))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_fits_into_a_header_and_every_delivery_is_posted_once() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let (paths, data) = long_paths();
    let webhook = create(&stack, &client, "/a", json!({ "changed": paths })).await;
    let orders: Vec<_> = (0..80).map(|order| event(&order.to_string(), "order-created", "c", &data)).collect();
    client.try_publish_batch(&orders).await.unwrap().expect(202);
    let history = client.settled(&webhook, 80, SOON).await;
    assert!(history.iter().all(|one| one["state"] == "delivered"), "{history:?}");
    let arrivals = stack.merchant.arrivals_at("/a");
    assert_eq!(arrivals.len(), 80);
    for arrival in &arrivals {
        let changed = arrival.header("x-shopery-fields-changed");
        assert!(changed.len() < 4096 && changed.is_ascii(), "{} bytes: {changed}", changed.len());
        let named: Vec<_> = changed.split(',').collect();
        assert!(named.iter().all(|path| paths.iter().any(|known| known == path)), "{changed}");
        let omitted: usize = arrival.header("x-shopery-fields-changed-omitted").parse().unwrap();
        assert_eq!(named.len() + omitted, 50);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_a_comma_or_another_script_is_named_without_doubt() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    create(&stack, &client, "/a", json!({ "changed": ["a,b", "a", "b", "größe", "50%"] })).await;
    let data = r#"{"a,b":1,"b":2,"größe":3,"50%":4}"#;
    client.publish(&event("1", "order-created", "c", data)).await.expect(202);
    let arrivals = stack.merchant.wait_at("/a", 1, SOON).await;
    assert_eq!(arrivals[0].header("x-shopery-fields-changed"), "a%2Cb,b,gr%C3%B6%C3%9Fe,50%25");
    assert!(arrivals[0].headers.get("x-shopery-fields-changed-omitted").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_any_script_come_in_ascii() {
    let tenant = "Zoë's 50% shop";
    let stack = Stack::start().await;
    let client = stack.client(tenant);
    client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let mut event = event("1", "order-created", "c", r#"{"id":1}"#);
    event.id = "évt 1, 100%".to_owned();
    event.source = "källa/日本".to_owned();
    client.publish(&event).await.expect(202);
    let arrivals = stack.merchant.wait_at("/a", 1, SOON).await;
    for (name, value) in &arrivals[0].headers {
        let is_printable = value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte));
        assert!(is_printable, "{name}: {value:?}");
    }
    for (name, text) in [
        ("x-shopery-tenant-id", tenant),
        ("x-shopery-event-id", &event.id),
        ("x-shopery-event-source", &event.source),
        ("x-shopery-payload-event-id", &event.id),
    ] {
        assert_eq!(arrivals[0].decoded(name), text, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_scheduled_deliveries_of_a_deleted_webhook_all_end() {
    let plan = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "1h").env("SHOPERY_CIRCUIT_FAILURES", "50");
    let stack = plan.start().await;
    let client = stack.client("tnt_a");
    // One in 31 is taken, so that no circuit opens.
    stack.merchant.behave("/a", Behaviour::Turns(vec![500; 30].into_iter().chain([200]).collect()));
    let (paths, data) = long_paths();
    let webhook = create(&stack, &client, "/a", json!({ "changed": paths })).await;
    let orders: Vec<_> = (0..310).map(|order| event(&order.to_string(), "order-created", "c", &data)).collect();
    for part in orders.chunks(100) {
        client.try_publish_batch(part).await.unwrap().expect(202);
    }
    client.in_state(&webhook, "pending", 300, SOON).await;
    client.delete(&format!("/company/webhooks/{webhook}")).await.expect(204);
    for ended in client.in_state(&webhook, "failed", 300, SOON).await {
        assert_eq!(ended["error"]["reason"], "webhook_deleted", "{ended}");
    }
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 310);
}
