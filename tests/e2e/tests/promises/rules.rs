//! A webhook is sent what its rules say, and the history says what became of the rest.

use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use shopery_e2e::client::send;
use shopery_e2e::stored::Stored;
use shopery_e2e::{Behaviour, Client, Event, Service, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::truth::last_of;

const SOON: Duration = Duration::from_secs(20);

/// The event `number` of the order `order`.
fn updated(order: &str, number: usize, data: impl Into<String>) -> Event {
    let mut event = Event::new("order-updated", order).with_data(data);
    event.id = format!("evt_{order}_{number}");
    event
}

/// Such an event, which happened `seconds` ago.
fn updated_ago(order: &str, number: usize, seconds: i64, data: &str) -> Event {
    let time = OffsetDateTime::now_utc() - time::Duration::seconds(seconds);
    Event { time: Some(time.format(&Rfc3339).unwrap()), ..updated(order, number, data) }
}

fn in_state<'a>(history: &'a [Value], state: &str) -> Vec<&'a Value> {
    history.iter().filter(|delivery| delivery["state"] == state).collect()
}

/// What the endpoint got of an event.
fn body(stack: &Stack, path: &str, event: &str) -> Option<String> {
    let arrivals = stack.merchant.arrivals_at(path);
    let found = arrivals.iter().find(|arrival| arrival.event_id() == event)?;
    Some(String::from_utf8(found.body.to_vec()).unwrap())
}

/// Waits for a decision of the router to have been counted.
async fn decided(stack: &Stack, decision: &str, count: u64) {
    let metrics = format!("{}/metrics", stack.url(Service::Router));
    let line = format!("shopery_deliveries_decided_total{{decision=\"{decision}\"}} {count}");
    wait::until(&line, SOON, async || {
        let text = reqwest::get(&metrics).await.unwrap().text().await.unwrap();
        if text.lines().any(|found| found == line) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_sent_as_they_were_written_and_nothing_else() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let rules = json!({ "fields": ["total", "id", "customer.email", "lines.sku"] });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["*"], rules).await;
    let data = r#"{ "secret": 1, "id": 9007199254740993, "total": 10.10, "lines": [{"sku":"é","price":1},{"price":2}],
        "customer": {"name":"Zoë","email":"z@a.example"} }"#;
    client.publish(&Event::order("1").with_data(data)).await.expect(202);
    client.settled(&webhook, 1, SOON).await;
    let sent = body(&stack, "/a", "evt_1").unwrap();
    let wanted = r#"{"id":9007199254740993,"total":10.10,"lines":[{"sku":"é"},{}],"customer":{"email":"z@a.example"}}"#;
    assert_eq!(sent, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_does_not_match_is_filtered_and_never_posted() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    // A number that a float would round: it must reach the filter digit by digit.
    let url = stack.merchant.url("/a");
    let webhook = format!(
        r#"{{"name":"a","url":"{url}","events":["*"],"filter":{{"number":[9007199254740993],"total":[{{"numeric":[">",10.10]}}]}}}}"#
    );
    let request = client.request(Method::POST, "/company/webhooks").header(CONTENT_TYPE, "application/json");
    let created = send(request.body(webhook)).await.unwrap().expect(201).json();
    let webhook = created["id"].as_str().unwrap();
    for (id, number, total) in [
        ("yes", "9007199254740993", "10.11"),
        ("rounded", "9007199254740992", "10.11"),
        ("equal", "9007199254740993", "10.1"),
    ] {
        let data = format!(r#"{{"number":{number},"total":{total}}}"#);
        client.publish(&Event::order(id).with_data(data)).await.expect(202);
    }
    let history = client.settled(webhook, 3, SOON).await;
    assert_eq!(in_state(&history, "delivered").len(), 1);
    let filtered = in_state(&history, "filtered");
    let mut about: Vec<_> = filtered.iter().map(|one| one["eventId"].as_str().unwrap()).collect();
    about.sort_unstable();
    assert_eq!(about, ["evt_equal", "evt_rounded"], "{history:?}");
    for one in filtered {
        assert_eq!((one["attemptCount"].as_i64(), &one["error"], one.get("carriedBy")), (Some(0), &Value::Null, None));
    }
    let listed = client.all(&format!("/company/webhooks/{webhook}/deliveries?status=filtered")).await;
    assert_eq!(listed.len(), 2);
    assert_eq!(stack.merchant.count(), 1);
    assert!(body(&stack, "/a", "evt_yes").is_some());
    decided(&stack, "filtered", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_waits_for_a_change_hears_of_that_change_alone() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    // Each state as it was: they come within seconds of each other.
    let rules = json!({ "changed": ["total", "lines.sku"], "payload": "original" });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["order-*"], rules).await;
    let states = [
        // The first state changes all that it has.
        (r#"{"id":1,"total":10.0,"note":"a","lines":[{"sku":"x"}]}"#, "delivered"),
        (r#"{"id":1,"total":10.0,"note":"b","lines":[{"sku":"x","price":1}]}"#, "filtered"),
        (r#"{"id":1,"total":10.1,"note":"b","lines":[{"sku":"x"}]}"#, "delivered"),
        (r#"{"id":1,"total":10.1,"lines":[{"sku":"x"},{"sku":"y"}]}"#, "delivered"),
        (r#"{"lines":[{"sku":"x"},{"sku":"y"}],"total":10.1}"#, "filtered"),
        (r#"{"lines":[{"sku":"x"},{"sku":"y"}]}"#, "delivered"),
    ];
    for (number, (data, _)) in states.iter().enumerate() {
        client.publish(&updated("1", number, *data)).await.expect(202);
        // The states of another order do not count.
        client.publish(&updated("2", number, r#"{"id":2}"#)).await.expect(202);
    }
    let history = client.settled(&webhook, 2 * states.len(), SOON).await;
    for (number, (data, state)) in states.iter().enumerate() {
        let event = format!("evt_1_{number}");
        let found = history.iter().find(|delivery| delivery["eventId"] == event.as_str()).unwrap();
        assert_eq!(found["state"], *state, "{data}");
        assert_eq!(body(&stack, "/a", &event), (*state == "delivered").then(|| (*data).to_owned()));
    }
    assert_eq!(in_state(&history, "filtered").len(), 2 + states.len(), "{history:?}");
}

/// An order updated 20 times, for webhooks that see more or less of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_tells_nothing_new_is_dropped_as_a_duplicate() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let create = async |path: &str, rules: Value| {
        client.create_webhook_with(&stack.merchant.url(path), &["order-updated"], rules).await
    };
    let ids = create("/ids", json!({ "fields": ["id"] })).await;
    let stamped = create("/stamped", json!({ "fields": ["id", "updated_at"] })).await;
    let every = create("/every", json!({ "fields": ["id"], "dropDuplicates": false })).await;
    for number in 0..20 {
        let data = format!(r#"{{"id":"ord_1","updated_at":{number},"total":7}}"#);
        client.publish(&updated("ord_1", number, data)).await.expect(202);
    }
    for (webhook, path) in [(&stamped, "/stamped"), (&every, "/every")] {
        let history = client.settled(webhook, 20, SOON).await;
        assert_eq!(in_state(&history, "delivered").len(), 20, "{path}: {history:?}");
        assert_eq!(stack.merchant.arrivals_at(path).len(), 20);
    }
    let history = client.settled(&ids, 20, SOON).await;
    let delivered = in_state(&history, "delivered");
    assert_eq!(delivered.len(), 1, "{history:?}");
    assert_eq!(delivered[0]["eventId"], "evt_ord_1_0");
    let duplicates = in_state(&history, "duplicate");
    assert_eq!(duplicates.len(), 19);
    assert!(duplicates.iter().all(|one| one["carriedBy"] == delivered[0]["id"]), "{duplicates:?}");
    assert_eq!(client.delivery(&duplicates[0]["id"]).await["carriedBy"], delivered[0]["id"]);
    assert_eq!(stack.merchant.arrivals_at("/ids").len(), 1);
    decided(&stack, "duplicate", 19).await;
    decided(&stack, "sent", 41).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_comes_back_is_no_duplicate_and_a_window_of_zero_drops_nothing() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let fields = json!({ "fields": ["available"] });
    let stock = client.create_webhook_with(&stack.merchant.url("/stock"), &["inventory-*"], fields.clone()).await;
    for (number, level) in [5, 4, 5, 5].into_iter().enumerate() {
        let mut event = Event::new("inventory-updated", "mug").with_data(format!(r#"{{"available":{level}}}"#));
        event.id = format!("evt_{number}");
        client.publish(&event).await.expect(202);
    }
    let history = client.settled(&stock, 4, SOON).await;
    let of = |event: &str| history.iter().find(|one| one["eventId"] == event).unwrap();
    let states = ["evt_0", "evt_1", "evt_2", "evt_3"].map(|event| of(event)["state"].as_str().unwrap());
    assert_eq!(states, ["delivered", "delivered", "delivered", "duplicate"]);
    assert_eq!(of("evt_3")["carriedBy"], of("evt_2")["id"]);

    stack.stop(Service::Router).await;
    stack.run_with(Service::Router, &[("SHOPERY_DUPLICATE_WINDOW", "0s")]).await;
    let orders = client.create_webhook_with(&stack.merchant.url("/orders"), &["order-*"], fields).await;
    for number in 0..3 {
        client.publish(&updated("1", number, "{}")).await.expect(202);
    }
    let history = client.settled(&orders, 3, SOON).await;
    assert_eq!(in_state(&history, "delivered").len(), 3, "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_changes_becomes_one_delivery_of_the_latest_state() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let rules = json!({ "debounce": "1s" });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["order-*"], rules).await;
    let began = Instant::now();
    let burst: Vec<_> = (0..20).map(|number| updated("1", number, format!(r#"{{"number":{number}}}"#))).collect();
    client.try_publish_batch(&burst).await.unwrap().expect(202);
    // Another order is another matter.
    client.publish(&updated("2", 0, r#"{"number":0}"#)).await.expect(202);
    let history = client.settled(&webhook, 21, SOON).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "it was sent at once");

    let delivered = in_state(&history, "delivered");
    assert_eq!(delivered.len(), 2, "{history:?}");
    let carrier = delivered.iter().find(|one| one["resource"] == "order/1").unwrap();
    let superseded = in_state(&history, "superseded");
    assert_eq!(superseded.len(), 19);
    assert!(superseded.iter().all(|one| one["carriedBy"] == carrier["id"]), "{superseded:?}");
    assert_eq!(stack.merchant.count(), 2);
    decided(&stack, "superseded", 19).await;

    // After it has fired, the next change begins anew.
    client.publish(&updated("1", 20, r#"{"number":20}"#)).await.expect(202);
    let history = client.settled(&webhook, 22, SOON).await;
    assert_eq!(in_state(&history, "delivered").len(), 3, "{history:?}");
    // It tells of the last event of the burst.
    let arrivals = stack.merchant.arrivals_at("/a");
    let sent = arrivals.iter().find(|arrival| carrier["id"] == arrival.webhook_id()).unwrap();
    assert_eq!((sent.event_id(), sent.body.as_ref()), ("evt_1_19", r#"{"number":19}"#.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_event_that_arrives_late_does_not_replace_the_newer_state() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let create = async |path: &str, rules: Value| {
        client.create_webhook_with(&stack.merchant.url(path), &["order-*"], rules).await
    };
    let latest = create("/latest", json!({ "dropDuplicates": false })).await;
    let original = create("/original", json!({ "payload": "original" })).await;
    let changes = create("/changes", json!({ "changed": ["total"] })).await;
    let (new, old) = (r#"{"total":2}"#, r#"{"total":1}"#);
    client.publish(&updated_ago("1", 2, 10, new)).await.expect(202);
    client.publish(&updated_ago("1", 1, 60, old)).await.expect(202);
    for (webhook, path, late) in
        [(&latest, "/latest", Some(new)), (&original, "/original", Some(old)), (&changes, "/changes", None)]
    {
        client.settled(webhook, 2, SOON).await;
        assert_eq!(body(&stack, path, "evt_1_2").as_deref(), Some(new), "{path}");
        assert_eq!(body(&stack, path, "evt_1_1").as_deref(), late, "{path}");
    }

    // What a retry would load is the newer state, and its publication is no event of its own.
    let jetstream = async_nats::jetstream::new(stack.operator().await);
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    let last = events.get_last_raw_message_by_subject("events.*.tnt_a.order.1").await.unwrap();
    let last: Value = serde_json::from_slice(&last.payload).unwrap();
    assert_eq!((&last["id"], &last["data"]["total"]), (&json!("evt_1_2"), &json!(2)));
    client.publish(&updated_ago("1", 3, 0, r#"{"total":3}"#)).await.expect(202);
    client.settled(&latest, 3, SOON).await;
    assert_eq!(body(&stack, "/latest", "evt_1_3").as_deref(), Some(r#"{"total":3}"#));
    assert_eq!(stack.merchant.arrivals_at("/latest").len(), 3);
}

/// However long no router gets to it, and whatever else lies there.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_does_not_take_a_late_state_for_the_newest_while_no_router_runs() {
    let mut stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "12s").start().await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    stack.merchant.behave("/a", Behaviour::Answer(500));
    let orders = ["ord", "unreadable"];
    for order in orders {
        client.publish(&updated_ago(order, 1, 60, r#"{"total":1}"#)).await.expect(202);
    }
    wait::until_true("an attempt of each", SOON, async || {
        stack.merchant.arrivals_at("/a").iter().filter(|arrival| arrival.answered().is_some()).count() == orders.len()
    })
    .await;
    stack.merchant.behave("/a", Behaviour::Answer(200));
    stack.stop(Service::Router).await;
    for order in orders {
        client.publish(&updated(order, 3, r#"{"total":3}"#)).await.expect(202);
    }
    let jetstream = async_nats::jetstream::new(stack.operator().await);
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    let stored = events.get_last_raw_message_by_subject("events.*.tnt_a.order.unreadable").await.unwrap();
    jetstream.publish(stored.subject, "unreadable".into()).await.unwrap().await.unwrap();
    for order in orders {
        client.publish(&updated_ago(order, 2, 30, r#"{"total":2}"#)).await.expect(202);
    }
    let arrivals = stack.merchant.wait_at("/a", 2 * orders.len(), SOON).await;
    for order in orders {
        let retry = last_of(&arrivals, &format!("evt_{order}_1"));
        assert_eq!(retry.header("x-shopery-payload-event-id"), format!("evt_{order}_3"));
        assert_eq!(retry.body, r#"{"total":3}"#);
    }
}

/// A router remembers which one is the newest, and so does not have to find it.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_state_is_taken_along_from_behind_any_number_of_late_ones() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    stack.stop(Service::Deliverer).await;
    client.publish(&updated("ord", 0, r#"{"total":0}"#)).await.expect(202);
    let late: Vec<_> = (1..=40).map(|number| updated_ago("ord", number, 60, r#"{"total":1}"#)).collect();
    client.try_publish_batch(&late).await.unwrap().expect(202);
    decided(&stack, "sent", 41).await;
    let stored = Stored::of(&stack).await;
    let states = [r#"{"total":0}"#, r#"{"total":1}"#].map(|state| stored.part("JOBS").matches(state).count());
    assert_eq!(states, [41, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_set_changed_cleared_and_refused_by_name() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let path = format!("/company/webhooks/{}", client.create_webhook(&stack.merchant.url("/a"), &["*"]).await);
    let shown = async || client.get(&path).await.expect(200).text();
    let plain = shown().await;
    assert!(plain.contains(r#""payload":"latest","dropDuplicates":true"#), "{plain}");
    assert!(plain.contains(r#""format":"resource","ordered":false"#), "{plain}");
    for absent in ["fields", "filter", "changed", "debounce"] {
        assert!(!plain.contains(&format!("\"{absent}\":")), "{plain}");
    }

    patch(&client, &path, r#"{"fields":["id"],"filter":{"total":[{"numeric":[">",10.10]}]},"debounce":"90s"}"#, 200)
        .await;
    patch(&client, &path, r#"{"changed":["total"],"dropDuplicates":false,"format":"cloudevent"}"#, 200).await;
    patch(&client, &path, r#"{"name":"renamed"}"#, 200).await;
    let full = shown().await;
    for part in [
        r#""fields":["id"]"#,
        r#""filter":{"total":[{"numeric":[">",10.10]}]}"#,
        r#""changed":["total"]"#,
        r#""debounce":"1m 30s""#,
        r#""dropDuplicates":false"#,
        r#""format":"cloudevent","ordered":false"#,
    ] {
        assert!(full.contains(part), "{part} is not in {full}");
    }

    for (change, field) in [
        (r#"{"fields":[]}"#, "fields"),
        (r#"{"fields":"id"}"#, "fields"),
        (r#"{"fields":["id","a..b"]}"#, "fields[1]"),
        (r#"{"fields":[7]}"#, "fields[0]"),
        (r#"{"filter":{}}"#, "filter"),
        (r#"{"filter":["x"]}"#, "filter"),
        (r#"{"filter":{"total":[{"numeric":[">","x"]}]}}"#, "filter.total[0].numeric"),
        (r#"{"changed":[]}"#, "changed"),
        (r#"{"changed":[""]}"#, "changed[0]"),
        (r#"{"payload":"newest"}"#, "payload"),
        (r#"{"payload":null}"#, "payload"),
        (r#"{"debounce":"0s"}"#, "debounce"),
        (r#"{"debounce":5}"#, "debounce"),
        (r#"{"dropDuplicates":"no"}"#, "dropDuplicates"),
        (r#"{"payload":"original"}"#, "debounce"),
        (r#"{"ordered":true}"#, "debounce"),
        (r#"{"ordered":"yes"}"#, "ordered"),
        (r#"{"ordered":null}"#, "ordered"),
        (r#"{"format":"xml"}"#, "format"),
        (r#"{"format":null}"#, "format"),
    ] {
        let reply = patch(&client, &path, change, 422).await;
        let errors = reply["errors"].as_array().unwrap();
        assert!(errors.iter().any(|error| error["field"] == field), "{change}: {reply}");
    }
    assert_eq!(shown().await, full, "a refused change was made");

    patch(&client, &path, r#"{"debounce":null,"payload":"original","ordered":true,"format":"resource"}"#, 200).await;
    let refused = patch(&client, &path, r#"{"debounce":"5s","payload":"latest"}"#, 422).await;
    assert_eq!(refused["errors"][0]["field"], "debounce", "{refused}");
    let both =
        json!({ "name": "a", "url": stack.merchant.url("/b"), "events": ["*"], "ordered": true, "debounce": "5s" });
    let refused = client.post("/company/webhooks", &both).await.expect(422).problem();
    assert_eq!(refused["errors"][0]["field"], "debounce", "{refused}");
    patch(&client, &path, r#"{"fields":null,"filter":null,"changed":null,"dropDuplicates":true}"#, 200).await;
    let cleared: Value = serde_json::from_str(&shown().await).unwrap();
    for absent in ["fields", "filter", "changed", "debounce"] {
        assert_eq!(cleared.get(absent), None, "{cleared}");
    }
    assert_eq!((&cleared["payload"], &cleared["ordered"]), (&json!("original"), &json!(true)));
    assert_eq!(cleared["format"], "resource");
}

/// Changes a webhook by JSON whose every digit counts.
async fn patch(client: &Client, path: &str, body: &str, status: u16) -> Value {
    let request = client.request(Method::PATCH, path).header(CONTENT_TYPE, "application/json");
    send(request.body(body.to_owned())).await.unwrap().expect(status).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_killed_leaves_no_event_without_its_end() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for (path, rules) in [
        ("/ids", json!({ "fields": ["id"] })),
        ("/odd", json!({ "filter": { "odd": [true] } })),
        ("/changes", json!({ "changed": ["odd"] })),
        ("/calm", json!({ "debounce": "1s" })),
    ] {
        webhooks.push(client.create_webhook_with(&stack.merchant.url(path), &["order-*"], rules).await);
    }
    let count = 300;
    let events: Vec<_> = (0..count)
        .map(|n| {
            updated(&format!("ord_{}", n % 3), n, format!(r#"{{"id":{},"number":{n},"odd":{}}}"#, n % 3, n % 2 == 1))
        })
        .collect();
    for (number, batch) in events.chunks(20).enumerate() {
        client.try_publish_batch(batch).await.unwrap().expect(202);
        if number % 5 == 2 {
            stack.kill(Service::Router).await;
            stack.run(Service::Router).await;
        }
    }
    let patience = Duration::from_secs(60);
    for webhook in &webhooks {
        let history = client.settled(webhook, count, patience).await;
        let delivered: std::collections::HashSet<_> =
            in_state(&history, "delivered").into_iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert!(!delivered.is_empty());
        for one in &history {
            match one["state"].as_str().unwrap() {
                "delivered" | "filtered" => assert_eq!(one.get("carriedBy"), None, "{one}"),
                "duplicate" | "superseded" => {
                    let carrier = one["carriedBy"].as_str().unwrap();
                    assert!(delivered.contains(carrier), "the carrier was not delivered: {one}");
                }
                _ => panic!("{one}"),
            }
        }
    }
}
