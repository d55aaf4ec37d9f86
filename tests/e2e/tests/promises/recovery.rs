//! What an endpoint has missed can be sent again, one by one or all that was missed, and events can be pulled instead.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream;
use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Client, DatabaseKind, Event, Service, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SOON: Duration = Duration::from_secs(60);

on_both_databases!(
    what_failed_is_recovered_with_one_message_for_each_resource,
    a_delivery_is_sent_again_whatever_it_has_ended_as,
    a_recovery_survives_kill_dash_nine_and_sends_nothing_twice,
);

/// The event `number` of an order, whose state it tells.
fn state(order: usize, number: usize) -> Event {
    let kind = if number == 0 { "order-created" } else { "order-updated" };
    let mut event = Event::new(kind, &format!("{order:04}"));
    event.id = format!("evt_{order:04}_{number}");
    event.with_data(format!(r#"{{"id":"{order:04}","state":{number}.0}}"#))
}

async fn publish(client: &Client, events: &[Event]) {
    for part in events.chunks(500) {
        client.try_publish_batch(part).await.unwrap().expect(202);
    }
}

/// This many seconds ago, as a parameter.
pub(crate) fn ago(seconds: i64) -> String {
    (OffsetDateTime::now_utc() - time::Duration::seconds(seconds)).format(&Rfc3339).unwrap()
}

async fn recover(client: &Client, webhook: &str, more: Value) -> Value {
    let mut body = json!({ "since": ago(3600) });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let path = format!("/company/webhooks/{webhook}/recover");
    let recovery = client.post(&path, &body).await.expect(202).json();
    assert_eq!((&recovery["state"], &recovery["webhookId"]), (&json!("running"), &json!(webhook)), "{recovery}");
    recovery["id"].clone()
}

async fn recovery(client: &Client, id: &Value) -> Value {
    client.get(&format!("/company/recoveries/{}", id.as_str().unwrap())).await.expect(200).json()
}

/// Waits for the end of a recovery, which must have these counts: total, resent, skipped, unavailable.
async fn completed(client: &Client, id: &Value, counts: [u64; 4]) {
    let ended = wait::until("the recovery to end", SOON, async || {
        let found = recovery(client, id).await;
        if found["state"] == "running" { Err(found.to_string()) } else { Ok(found) }
    })
    .await;
    assert_eq!(ended["state"], "completed", "{ended}");
    assert!(ended["finishedAt"].is_string() && ended["error"].is_null(), "{ended}");
    let found = ["total", "resent", "skipped", "unavailable"].map(|count| ended[count].as_u64().unwrap());
    assert_eq!(found, counts, "{ended}");
}

fn count(history: &[Value], state: &str) -> usize {
    history.iter().filter(|delivery| delivery["state"] == state).count()
}

async fn resend(client: &Client, id: &Value) -> shopery_e2e::Reply {
    client.post(&format!("/company/deliveries/{}/resend", id.as_str().unwrap()), &json!({})).await
}

/// Waits until a delivery stands so.
async fn stands(client: &Client, id: &Value, state: &str) -> Value {
    wait::until(&format!("a delivery that is {state}"), SOON, async || {
        let found = client.delivery(id).await;
        if found["state"] == state { Ok(found) } else { Err(found.to_string()) }
    })
    .await
}

fn numbers(delivery: &Value) -> Vec<u64> {
    delivery["attempts"].as_array().unwrap().iter().map(|attempt| attempt["number"].as_u64().unwrap()).collect()
}

/// A webhook whose filter has let these events pass by; now it has none.
async fn webhook_that_missed(stack: &Stack, client: &Client, path: &str, events: &[Event]) -> String {
    let rules = json!({ "filter": { "never": [true] }, "dropDuplicates": false });
    let webhook = client.create_webhook_with(&stack.merchant.url(path), &["*"], rules).await;
    publish(client, events).await;
    client.settled(&webhook, events.len(), SOON).await;
    client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "filter": null })).await.expect(200);
    webhook
}

async fn what_failed_is_recovered_with_one_message_for_each_resource(database: DatabaseKind) {
    let plan = Stack::plan().database(database);
    let stack = plan.env("SHOPERY_RETRY_SCHEDULE", "200ms").env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/down", Behaviour::Answer(500));
    let webhook = client.create_webhook(&stack.merchant.url("/down"), &["*"]).await;
    // Ten orders, each with four states, while the endpoint is down for the whole schedule.
    for number in 0..4 {
        let events: Vec<_> = (0..10).map(|order| state(order, number)).collect();
        publish(&client, &events).await;
        client.settled(&webhook, 10 * (number + 1), SOON).await;
    }
    let history = client.settled(&webhook, 40, SOON).await;
    assert_eq!(count(&history, "failed"), 40);
    let while_down = stack.merchant.count();

    stack.merchant.behave("/down", Behaviour::Answer(200));
    let id = recover(&client, &webhook, json!({})).await;
    completed(&client, &id, [40, 10, 30, 0]).await;
    let history = client.settled(&webhook, 40, SOON).await;
    assert_eq!((count(&history, "delivered"), count(&history, "superseded")), (10, 30));
    let carriers: HashMap<_, _> = history
        .iter()
        .filter(|one| one["state"] == "delivered")
        .map(|one| (one["resource"].to_string(), one["id"].clone()))
        .collect();
    assert_eq!(carriers.len(), 10);
    for one in history.iter().filter(|one| one["state"] == "superseded") {
        assert_eq!(one["carriedBy"], carriers[&one["resource"].to_string()], "{one}");
    }
    let arrivals = stack.merchant.arrivals().split_off(while_down);
    assert_eq!(arrivals.len(), 10);
    for arrival in arrivals {
        let order = arrival.event_id()[4..8].to_owned();
        assert_eq!(arrival.body, format!(r#"{{"id":"{order}","state":3.0}}"#));
        assert_eq!(arrival.webhook_id(), carriers[&format!("\"order/{order}\"")]);
        assert_eq!(arrival.attempt(), 3);
    }
    for id in carriers.values() {
        assert_eq!(numbers(&client.delivery(id).await), [1, 2, 3]);
    }

    // There is nothing left to recover, and the list has both recoveries.
    let second = recover(&client, &webhook, json!({ "mode": "original", "until": "2099-01-01T00:00:00Z" })).await;
    completed(&client, &second, [0, 0, 0, 0]).await;
    let listed = client.all(&format!("/company/webhooks/{webhook}/recoveries")).await;
    assert_eq!(listed.iter().map(|one| &one["id"]).collect::<Vec<_>>(), [&second, &id]);
    let page = client.get(&format!("/company/webhooks/{webhook}/recoveries?limit=1")).await.expect(200).json();
    assert_eq!((page["data"].as_array().unwrap().len(), &page["nextCursor"]), (1, &second), "{page}");
    let path = format!("/company/recoveries/{}/cancel", id.as_str().unwrap());
    client.post(&path, &json!({})).await.expect(409).problem();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_sent_as_it_was_if_the_original_is_asked_for() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let events: Vec<_> = (0..5).flat_map(|number| (0..50).map(move |order| state(order, number))).collect();
    let webhook = webhook_that_missed(&stack, &client, "/a", &events).await;
    let id = recover(&client, &webhook, json!({ "mode": "original", "statuses": ["filtered"] })).await;
    completed(&client, &id, [250, 250, 0, 0]).await;
    let history = client.settled(&webhook, 250, SOON).await;
    assert_eq!(count(&history, "delivered"), 250);
    let bodies: HashMap<_, _> = events.iter().map(|event| (event.id.as_str(), event.data.as_str())).collect();
    let arrivals = stack.merchant.arrivals();
    let mut seen = HashSet::new();
    for arrival in &arrivals {
        assert_eq!(arrival.body, bodies[arrival.event_id()], "{}", arrival.event_id());
        assert!(seen.insert(arrival.event_id()), "{} came twice", arrival.event_id());
    }
    assert_eq!(seen.len(), 250);
}

async fn a_recovery_survives_kill_dash_nine_and_sends_nothing_twice(database: DatabaseKind) {
    let mut stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    // The states of a resource are on pages far apart.
    let events: Vec<_> = (0..3).flat_map(|number| (0..500).map(move |order| state(order, number))).collect();
    let webhook = webhook_that_missed(&stack, &client, "/a", &events).await;
    let id = recover(&client, &webhook, json!({ "statuses": ["filtered"] })).await;
    wait::until("the recovery to begin", SOON, async || {
        let found = recovery(&client, &id).await;
        if found["resent"] == 0 { Err(found.to_string()) } else { Ok(()) }
    })
    .await;
    stack.kill(Service::Controller).await;
    stack.run(Service::Controller).await;
    let found = recovery(&client, &id).await;
    assert_eq!(found["state"], "running", "the kill came too late: {found}");
    completed(&client, &id, [1500, 500, 1000, 0]).await;
    let history = client.settled(&webhook, 1500, SOON).await;
    assert_eq!((count(&history, "delivered"), count(&history, "superseded")), (500, 1000));
    let arrivals = stack.merchant.arrivals();
    let ids: HashSet<_> = arrivals.iter().map(|arrival| arrival.webhook_id()).collect();
    assert_eq!((arrivals.len(), ids.len()), (500, 500));
    for arrival in &arrivals {
        assert!(arrival.event_id().ends_with("_2"), "{} was sent", arrival.event_id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_waits_while_the_jobs_are_full_and_can_be_cancelled() {
    let mut stack = Stack::plan().env("SHOPERY_JOBS_MAX_MIB", "1").start().await;
    let client = stack.client("tnt_a");
    let large = |number: usize| {
        let data = format!(r#"{{"id":"{number}","fill":"{}"}}"#, "x".repeat(20_000));
        Event::order(&number.to_string()).with_data(data)
    };
    let mut webhooks = Vec::new();
    for path in ["/a", "/b", "/c", "/d"] {
        let rules = json!({ "filter": { "never": [true] } });
        webhooks.push(client.create_webhook_with(&stack.merchant.url(path), &["*"], rules).await);
    }
    for number in 0..120 {
        client.publish(&large(number)).await.expect(202);
    }
    for webhook in &webhooks {
        client.settled(webhook, 120, SOON).await;
        client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "filter": null })).await.expect(200);
    }
    assert!(stack.stop(Service::Deliverer).await.success());

    let asked = json!({ "statuses": ["filtered"], "mode": "original" });
    let first = recover(&client, &webhooks[0], asked.clone()).await;
    let jetstream = jetstream::new(stack.operator().await);
    wait::until("JOBS to be full", SOON, async || {
        let bytes = jetstream.get_stream("JOBS").await.map_err(|error| error.to_string())?.cached_info().state.bytes;
        let resent = recovery(&client, &first).await["resent"].as_u64().unwrap();
        if bytes > 1_000_000 && resent > 0 { Ok(()) } else { Err(format!("{bytes} bytes, {resent} sent")) }
    })
    .await;
    let mut all = vec![first.clone()];
    for webhook in &webhooks[1..] {
        all.push(recover(&client, webhook, asked.clone()).await);
    }
    let one_more = json!({ "since": ago(60) });
    let refused = client.post(&format!("/company/webhooks/{}/recover", webhooks[0]), &one_more).await.expect(409);
    assert!(refused.problem()["detail"].as_str().unwrap().contains("4 recoveries"), "{}", refused.text());
    assert_eq!(recovery(&client, &first).await["state"], "running");
    for id in &all {
        let path = format!("/company/recoveries/{}/cancel", id.as_str().unwrap());
        for _ in 0..2 {
            let cancelled = client.post(&path, &json!({})).await.expect(200).json();
            assert_eq!((&cancelled["state"], cancelled["finishedAt"].is_string()), (&json!("cancelled"), true));
        }
    }

    // What was handed over by then is sent, and nothing else.
    stack.run(Service::Deliverer).await;
    let history = client.settled(&webhooks[0], 120, SOON).await;
    let resent = recovery(&client, &first).await["resent"].as_u64().unwrap();
    assert_eq!(count(&history, "delivered") as u64, resent);
    assert_eq!(count(&history, "filtered") as u64, 120 - resent);
    assert!(resent < 120);
    let rest = recover(&client, &webhooks[0], asked).await;
    completed(&client, &rest, [120 - resent, 120 - resent, 0, 0]).await;
    let history = client.settled(&webhooks[0], 120, SOON).await;
    assert_eq!(count(&history, "delivered"), 120);
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 120);
}

async fn a_delivery_is_sent_again_whatever_it_has_ended_as(database: DatabaseKind) {
    let stack = Stack::plan().database(database).env("SHOPERY_RETRY_SCHEDULE", "1500ms").start().await;
    let client = stack.client("tnt_a");
    let path = "/a";
    stack.merchant.behave(path, Behaviour::Answer(500));
    let webhook = client.create_webhook(&stack.merchant.url(path), &["*"]).await;
    client.publish(&Event::order("1").with_data(r#"{"id":"1","filler":true}"#)).await.expect(202);
    let first = client.settled(&webhook, 1, SOON).await.remove(0);
    let id = &first["id"];
    assert_eq!((&first["state"], &first["attemptCount"]), (&json!("failed"), &json!(2)));
    assert_eq!(first["eventSource"], "e2e", "{first}");

    // Failed: it is delivered, under the same id, by the attempt after the last one.
    stack.merchant.behave(path, Behaviour::Answer(200));
    let (answer, repeat) = tokio::join!(resend(&client, id), resend(&client, id));
    assert!([answer.status, repeat.status].contains(&202), "{} {}", answer.text(), repeat.text());
    let answer = if answer.status == 202 { answer } else { repeat };
    assert_eq!(answer.json(), json!({ "id": id }));
    let delivered = stands(&client, id, "delivered").await;
    assert_eq!((numbers(&delivered), &delivered["attemptCount"]), (vec![1, 2, 3], &json!(3)));
    assert_eq!(delivered["eventSource"], "e2e", "{delivered}");
    let arrivals = stack.merchant.arrivals();
    assert_eq!((arrivals.len(), arrivals[2].attempt()), (3, 3), "asked for twice, it was not sent once");
    assert!(arrivals.iter().all(|arrival| *id == arrival.webhook_id()));

    // Delivered: asked for again it fails, and says so; the schedule begins anew.
    stack.merchant.behave(path, Behaviour::Answer(500));
    resend(&client, id).await.expect(202);
    let pending = client.delivery(id).await;
    assert_eq!(pending["state"], "pending", "{pending}");
    let refused = resend(&client, id).await.expect(409).problem();
    assert!(refused["detail"].as_str().unwrap().contains("pending"), "{refused}");
    let failed = stands(&client, id, "failed").await;
    assert_eq!((numbers(&failed), &failed["attemptCount"]), (vec![1, 2, 3, 4, 5], &json!(5)));
    assert_eq!(failed["error"]["reason"], "http_status");

    // Filtered: who asks for it gets it.
    stack.merchant.behave(path, Behaviour::Answer(200));
    let rules = json!({ "filter": { "never": [true] } });
    let picky = client.create_webhook_with(&stack.merchant.url("/picky"), &["*"], rules).await;
    client.publish(&Event::order("2")).await.expect(202);
    let filtered = client.settled(&picky, 1, SOON).await.remove(0);
    assert_eq!(filtered["state"], "filtered");
    resend(&client, &filtered["id"]).await.expect(202);
    assert_eq!(numbers(&stands(&client, &filtered["id"], "delivered").await), [1]);
    assert_eq!(stack.merchant.arrivals_at("/picky").len(), 1);

    // Parked: it waits, and another one would be one too many.
    client.settled(&webhook, 2, SOON).await;
    client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "isEnabled": false })).await.expect(200);
    resend(&client, id).await.expect(202);
    stands(&client, id, "parked").await;
    assert!(resend(&client, id).await.expect(409).text().contains("parked"));
    client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "isEnabled": true })).await.expect(200);
    assert_eq!(numbers(&stands(&client, id, "delivered").await), [1, 2, 3, 4, 5, 6]);

    // What EVENTS no longer holds, and what has nowhere to go.
    let jetstream = jetstream::new(stack.operator().await);
    jetstream.get_stream("EVENTS").await.unwrap().purge().await.unwrap();
    resend(&client, id).await.expect(410).problem();
    let lost = recover(&client, &webhook, json!({ "statuses": ["delivered", "failed"] })).await;
    completed(&client, &lost, [2, 0, 0, 2]).await;
    client.delete(&format!("/company/webhooks/{webhook}")).await.expect(204);
    assert!(resend(&client, id).await.expect(409).text().contains("deleted"));
    for unknown in ["dlv_01HA4XCG60CT4G3EWF4CKYM1MF", "nonsense"] {
        resend(&client, &json!(unknown)).await.expect(404).problem();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_recovery_is_refused_by_name() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let path = format!("/company/webhooks/{webhook}/recover");
    for (body, field) in [
        (json!({}), "since"),
        (json!({ "since": "yesterday" }), "since"),
        (json!({ "since": "2099-01-01T00:00:00Z" }), "since"),
        (json!({ "since": "0000-01-01T00:00:00+01:00" }), "since"),
        (json!({ "since": ago(60), "until": ago(120) }), "since"),
        (json!({ "since": ago(60), "until": 7 }), "until"),
        (json!({ "since": ago(60), "statuses": [] }), "statuses"),
        (json!({ "since": ago(60), "statuses": ["failed", "pending"] }), "statuses[1]"),
        (json!({ "since": ago(60), "mode": "both" }), "mode"),
        (json!({ "since": ago(60), "modes": "latest" }), "modes"),
    ] {
        let problem = client.post(&path, &body).await.expect(422).problem();
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
    }
    let reader = client.with_token(&shopery_e2e::token::mint(&["tnt_a"], "webhooks:read"));
    reader.post(&path, &json!({ "since": ago(60) })).await.expect(403).problem();
}

/// A page of events: their ids, and the rest of the answer.
pub(crate) async fn events(client: &Client, query: &str) -> (Vec<String>, Value) {
    let page = client.get(&format!("/company/events?{query}")).await.expect(200).json();
    let ids = page["data"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    (ids, page)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_pulled_page_by_page_in_their_order() {
    let stack = Stack::start().await;
    let (client, others) = (stack.client("tnt_a"), stack.client("tnt_b"));
    assert_eq!(events(&client, "").await.0, Vec::<String>::new());
    let mut published = Vec::new();
    for number in 0..25 {
        let kind = if number % 5 == 0 { "product-created" } else { "order-created" };
        let event = Event::new(kind, &number.to_string()).with_data(r#"{ "price":10.10, "big":9007199254740993 }"#);
        client.publish(&event).await.expect(202);
        others.publish(&Event::order(&format!("other_{number}"))).await.expect(202);
        published.push(event.id);
    }
    let (mut pulled, mut cursor) = (Vec::new(), String::new());
    let last = loop {
        let (ids, page) = events(&client, &format!("limit=10{cursor}")).await;
        assert!(ids.len() == 10 || page["nextCursor"].is_null(), "{page}");
        assert_eq!((&page["gap"], page["oldestAvailable"].is_string()), (&json!(false), true));
        pulled.extend(ids);
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break page,
        }
    };
    assert_eq!(pulled, published);
    let event = &last["data"][0];
    assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("product-created")), "{event}");
    let text = client.get("/company/events?limit=1").await.expect(200).text();
    assert!(text.contains(r#""data":{ "price":10.10, "big":9007199254740993 }"#), "{text}");
    assert!(event["time"].is_string(), "{event}");

    // Whoever has seen all goes on from there.
    let position = format!("cursor={}", last["position"].as_str().unwrap());
    let (ids, page) = events(&client, &position).await;
    assert_eq!((ids.len(), &page["position"], &page["nextCursor"]), (0, &last["position"], &Value::Null));
    let between = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
    client.publish(&Event::order("new")).await.expect(202);
    assert_eq!(events(&client, &position).await.0, ["evt_new"]);

    for (query, count) in [
        ("event=product-created".to_owned(), 5),
        ("event=product-created&limit=5".to_owned(), 5),
        (format!("created_at_min={between}"), 1),
        (format!("updated_at_min={between}&event=order-created"), 1),
        (format!("created_at_max={between}&limit=200"), 25),
        (format!("created_at_max={between}&created_at_min={between}"), 0),
    ] {
        let (ids, page) = events(&client, &query).await;
        assert_eq!(ids.len(), count, "{query}: {page}");
        assert_eq!((&page["gap"], &page["nextCursor"]), (&json!(false), &Value::Null), "{query}");
    }
    let theirs = others.all("/company/events").await;
    assert_eq!(theirs.len(), 25);
    assert!(theirs.iter().all(|event| event["id"].as_str().unwrap().starts_with("evt_other_")));

    // A state that is published again behind a late one is no event of its own.
    let mut late = Event::new("order-updated", "new");
    (late.id, late.time) = ("evt_late".to_owned(), Some(ago(3600)));
    client.publish(&late).await.expect(202);
    let jetstream = jetstream::new(stack.operator().await);
    wait::until("the newest state to be the last one again", SOON, async || {
        let events = jetstream.get_stream("EVENTS").await.map_err(|error| error.to_string())?;
        let count = events.cached_info().state.messages;
        if count == 53 { Ok(()) } else { Err(format!("{count} messages")) }
    })
    .await;
    let (ids, page) = events(&client, &position).await;
    assert_eq!(ids, ["evt_new", "evt_late"]);
    let (ids, _) = events(&client, &format!("cursor={}", page["position"].as_str().unwrap())).await;
    assert!(ids.is_empty(), "{ids:?}");

    for query in ["cursor=7", "cursor=evp_", "limit=0", "event=order-eaten", "created_at_min=now", "status=failed"] {
        let problem = client.get(&format!("/company/events?{query}")).await.expect(422).problem();
        assert_eq!(problem["errors"][0]["field"], query.split('=').next().unwrap(), "{problem}");
    }
    // A cursor is of its tenant alone, and tells nobody how many events there are.
    let other = stack.client("tnt_b");
    for cursor in ["cursor=evp_x", &position] {
        other.get(&format!("/company/events?{cursor}")).await.expect(404).problem();
    }
    let writer = client.with_token(&shopery_e2e::token::mint(&["tnt_a"], "webhooks:write"));
    writer.get("/company/events").await.expect(403).problem();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_held_is_said() {
    let stack = Stack::plan().env("SHOPERY_EVENTS_MAX_AGE", "3s").start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let since = ago(1);
    client.publish(&Event::order("1")).await.expect(202);
    let (ids, page) = events(&client, &format!("created_at_min={since}")).await;
    assert_eq!((ids, &page["gap"]), (vec!["evt_1".to_owned()], &json!(false)));
    let cursor = format!("cursor={}", page["position"].as_str().unwrap());
    client.publish(&Event::order("2")).await.expect(202);
    let delivery = client.settled(&webhook, 2, SOON).await.remove(0);
    wait::until("EVENTS to forget", SOON, async || {
        let (ids, page) = events(&client, "").await;
        if ids.is_empty() { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    for query in [cursor.clone(), format!("created_at_min={since}")] {
        let (ids, page) = events(&client, &query).await;
        assert_eq!((ids.len(), &page["gap"], &page["oldestAvailable"]), (0, &json!(true), &Value::Null), "{query}");
    }
    client.publish(&Event::order("3")).await.expect(202);
    for query in [cursor, format!("created_at_min={since}")] {
        let (ids, page) = events(&client, &query).await;
        assert_eq!((ids, &page["gap"]), (vec!["evt_3".to_owned()], &json!(true)), "{query}");
        assert!(page["oldestAvailable"].is_string());
        let (ids, page) = events(&client, &format!("cursor={}", page["position"].as_str().unwrap())).await;
        assert_eq!((ids.len(), &page["gap"]), (0, &json!(false)));
    }

    assert_eq!(delivery["state"], "delivered");
    let problem = resend(&client, &delivery["id"]).await.expect(410).problem();
    assert_eq!(problem["type"], "urn:shopery:problem:gone");
}
