//! What identifies an event is its source and its id, whatever way and form it comes in.

use std::io::Write;
use std::time::Duration;

use async_nats::HeaderMap;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Value, json};
use shopery_e2e::client::{BATCH, ONE, send};
use shopery_e2e::{Client, Event, Publisher, Reply, Service, Stack, wait};

use crate::input::{check, dead_messages};

const SOON: Duration = Duration::from_secs(20);

/// `POST /events` with these headers.
async fn post(client: &Client, headers: &[(String, String)], body: impl Into<reqwest::Body>) -> Reply {
    let mut request = client.request(Method::POST, &format!("{}/events", client.ingest)).body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    send(request).await.unwrap()
}

fn headers(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// Publishes over NATS, with headers, and waits for the answer.
async fn request(publisher: &Publisher, event_type: &str, headers: &[(String, String)], body: Vec<u8>) -> Value {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.append(name.as_str(), value.as_str()));
    let request = async_nats::Request::new().payload(body.into()).headers(map).timeout(Some(Duration::from_secs(5)));
    let reply = publisher.client.send_request(publisher.subject(event_type), request).await.unwrap();
    serde_json::from_slice(&reply.payload).unwrap()
}

/// The events that can be pulled, once there are as many.
async fn pulled(client: &Client, count: usize) -> Vec<Value> {
    wait::until(&format!("{count} events"), SOON, async || {
        let events = client.all("/company/events").await;
        if events.len() == count { Ok(events) } else { Err(format!("{} of them", events.len())) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_of_two_sources_is_two_events() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let (one, other) = (Event::order("1").with_source("orders"), Event::order("1").with_source("billing"));
    for event in [&one, &other] {
        let told = client.publish(event).await.expect(202).json();
        assert_eq!(told, json!({ "id": event.id, "duplicate": false }));
    }
    let arrived = stack.merchant.wait_at("/a", 2, SOON).await;
    assert_ne!(arrived[0].webhook_id(), arrived[1].webhook_id());
    let kept = pulled(&client, 2).await;
    let mut sources: Vec<_> = kept.iter().map(|event| event["source"].as_str().unwrap()).collect();
    sources.sort_unstable();
    assert_eq!(sources, ["billing", "orders"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_told_whatever_way_it_takes() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let publisher = stack.publisher("tnt_a").await;

    // Over HTTP. Time, extensions and spaces may be others.
    let event = Event::order("http").with_data(r#"{"id":"http","total":1}"#);
    let mut repeat = event.clone().with_data(r#"{ "total": 1, "id": "http" }"#);
    repeat.time = Some("2026-11-24T10:00:00Z".to_owned());
    repeat.extensions = vec![("attempt".to_owned(), json!(2))];
    for (event, duplicate) in [(&event, false), (&event, true), (&repeat, true)] {
        assert_eq!(client.publish(event).await.expect(202).json(), json!({ "id": event.id, "duplicate": duplicate }));
    }
    // In a batch: of before, new, and twice in the batch.
    let fresh = Event::order("batch");
    let batch = Event::batch(&[event.clone(), fresh.clone(), fresh.clone()]);
    let told = client.post_events(BATCH, batch).await.expect(202).json();
    let events: Vec<_> = [(&event, true), (&fresh, false), (&fresh, true)]
        .map(|(event, duplicate)| json!({ "id": event.id, "duplicate": duplicate }))
        .into();
    assert_eq!(told, json!({ "ids": [event.id, fresh.id, fresh.id], "events": events }));

    // Over NATS: at once, after other ways in, and of what was published without a wish for an answer.
    let over_nats = Event::order("nats");
    for duplicate in [false, true, true] {
        let told = publisher.publish(&over_nats).await.unwrap();
        assert_eq!((&told["duplicate"], &told["id"]), (&json!(duplicate), &json!(over_nats.id)), "{told}");
    }
    assert_eq!(publisher.publish(&event).await.unwrap()["duplicate"], true);
    assert_eq!(client.publish(&over_nats).await.expect(202).json()["duplicate"], true);
    let silent = Event::order("silent");
    publisher.client.publish(publisher.subject("order-created"), silent.json().into()).await.unwrap();
    pulled(&client, 4).await;
    // Within a second of the first it could be the message itself.
    wait::until("the repeat to be told", SOON, async || {
        let told = publisher.publish(&silent).await.unwrap();
        if told["duplicate"] == true { Ok(()) } else { Err(told.to_string()) }
    })
    .await;

    // At the same time, one of them is the first.
    let crowd = Event::order("crowd");
    let told = futures_util::future::join_all((0..8).map(|_| publisher.publish(&crowd))).await;
    let first = told.iter().filter(|told| told.as_ref().unwrap()["duplicate"] == false).count();
    assert_eq!(first, 1, "{told:?}");

    client.settled(&webhook, 5, SOON).await;
    assert_eq!(stack.merchant.count(), 5);
    assert_eq!(client.all("/company/events").await.len(), 5);
    let dead = async_nats::jetstream::new(stack.operator().await).get_stream("DEAD").await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 0, "a repeat is nothing bad");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_used_for_another_event_is_refused() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let publisher = stack.publisher("tnt_a").await;
    let event = Event::order("1");
    client.publish(&event).await.expect(202);
    let others = [
        event.clone().with_data(r#"{"id":"2"}"#),
        Event { event_type: "order-paid".to_owned(), ..event.clone() },
        Event { subject: "order/2".to_owned(), ..event.clone() },
    ];
    for other in &others {
        let refused = client.publish(other).await;
        check("over HTTP", &refused, 409, "id");
        let problem = refused.problem();
        assert_eq!(problem["type"], "urn:shopery:problem:conflict");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("evt_1") && detail.contains("new id"), "{detail}");
    }

    // Those of a batch that are not in conflict are stored, and it can be sent again.
    let batch = [Event::order("b1"), others[0].clone(), Event::order("b2")];
    for round in 0..2 {
        let refused = client.post_events(BATCH, Event::batch(&batch)).await;
        check("in a batch", &refused, 409, "[1].id");
        let problem = refused.problem();
        assert!(problem["detail"].as_str().unwrap().starts_with("2 of 3 events were stored"), "{round}: {problem}");
        assert_eq!(problem["errors"].as_array().unwrap().len(), 1);
    }
    // A batch that contradicts itself stores nothing.
    let batch = [Event::order("c"), Event::order("d"), Event::order("c").with_data(r#"{"id":"x"}"#)];
    let refused = client.post_events(BATCH, Event::batch(&batch)).await;
    check("within a batch", &refused, 409, "[2].id");
    assert!(refused.problem()["detail"].as_str().unwrap().contains("nothing was stored"), "{}", refused.text());

    // Over NATS, also of what came over NATS just now.
    let recent = Event::order("nats");
    publisher.publish(&recent).await.unwrap();
    let bad = [others[0].clone(), recent.clone().with_data(r#"{"id":"other"}"#)];
    for other in &bad {
        let reply = publisher.publish(other).await.unwrap();
        assert_eq!((&reply["status"], &reply["error"]["code"]), (&json!(409), &json!(409)), "{reply}");
        assert_eq!(reply["errors"][0]["field"], "id", "{reply}");
    }
    assert_eq!(publisher.publish(&recent).await.unwrap()["duplicate"], true);
    for (on, dead) in dead_messages(&stack, bad.len()).await {
        assert_eq!(on, "dead.conflicting-event.tnt_a");
        assert!(bad.iter().any(|other| dead["body"] == other.json()), "{dead}");
        assert_eq!(dead["problem"]["status"], 409);
    }

    client.settled(&webhook, 4, SOON).await;
    let mut ids: Vec<_> = stack.merchant.arrivals().iter().map(|arrival| arrival.event_id().to_owned()).collect();
    ids.sort();
    assert_eq!(ids, ["evt_1", "evt_b1", "evt_b2", "evt_nats"]);
    let refused = stack.metrics(Service::Ingest).await;
    let count = |source: &str| {
        refused.value(&format!("shopery_events_refused_total{{source=\"{source}\",reason=\"conflict\"}}"))
    };
    assert_eq!((count("http"), count("nats")), (Some(6.0), Some(2.0)), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn extension_attributes_come_back() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let mut event = Event::order("1");
    let given = [("partitionkey", json!("Köln")), ("sampledrate", json!(-7)), ("dryrun", json!(true))];
    event.extensions = given.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    event.extensions.push(("absent".to_owned(), Value::Null));
    client.publish(&event).await.expect(202);
    let kept = pulled(&client, 1).await.remove(0);
    for (name, value) in &given {
        assert_eq!(kept[name], *value, "{kept}");
    }
    assert!(kept.get("absent").is_none(), "{kept}");
    for (name, value) in
        [("key", json!({})), ("key", json!([1])), ("key", json!(1.5)), ("Key", json!(1)), ("a_b", json!(1))]
    {
        let mut event = Event::order("2");
        event.extensions = vec![(name.to_owned(), value)];
        check(name, &client.publish(&event).await, 422, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_mode_is_taken_over_http_and_nats() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let publisher = stack.publisher("tnt_a").await;
    let mut event = Event::order("1").with_data(r#"{ "id": 1.0 }"#);
    event.id = "evt 1: \"é\" 100%".to_owned();
    event.extensions = vec![("partitionkey".to_owned(), json!("Köln"))];
    let binary = [event.headers(), headers(&[("content-type", "application/vnd.shopery.order+json")])].concat();

    // The same event in whichever mode.
    let told = post(&client, &binary, event.data.clone()).await.expect(202).json();
    assert_eq!(told, json!({ "id": event.id, "duplicate": false }));
    assert_eq!(client.publish(&event).await.expect(202).json()["duplicate"], true);
    let told = request(&publisher, "order-created", &binary, event.data.clone().into()).await;
    assert_eq!((&told["duplicate"], &told["id"]), (&json!(true), &json!(event.id)), "{told}");
    let over_nats = Event::order("2");
    let capitals: Vec<_> =
        over_nats.headers().into_iter().map(|(name, value)| (name.replace("ce-", "Ce-"), value)).collect();
    let told = request(&publisher, "order-created", &capitals, over_nats.data.clone().into()).await;
    assert_eq!(told["duplicate"], false, "{told}");
    let arrived = stack.merchant.wait_at("/a", 2, SOON).await;
    assert!(arrived.iter().any(|arrival| arrival.body == event.data.as_bytes()), "{arrived:?}");
    let kept = pulled(&client, 2).await;
    let kept = kept.iter().find(|kept| kept["id"] == event.id.as_str()).unwrap();
    assert_eq!(kept["partitionkey"], "Köln", "{kept}");

    // What is wrong is named as it was sent.
    for name in ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject"] {
        let without: Vec<_> = binary.iter().filter(|(known, _)| known != name).cloned().collect();
        check(name, &post(&client, &without, event.data.clone()).await, 422, name);
        let reply = request(&publisher, "order-created", &without, event.data.clone().into()).await;
        assert_eq!(reply["errors"][0]["field"], name, "{reply}");
    }
    check("not UTF-8", &post(&client, &with(&binary, "ce-id", "%C0%A0"), "{}").await, 422, "ce-id");
    check("no data", &post(&client, &binary, "").await, 422, "data");
    check("an array for data", &post(&client, &binary, "[1]").await, 422, "data");
    check("no JSON", &post(&client, &binary, "{").await, 400, "body");
    check("data of another type", &post(&client, &with(&binary, "content-type", "text/xml"), "{}").await, 415, "");
    check("too large", &post(&client, &binary, " ".repeat(256 * 1024 + 1)).await, 413, "");
    // A content type of CloudEvents goes before the headers.
    let structured = with(&binary, "content-type", ONE);
    let other = Event::order("structured");
    assert_eq!(post(&client, &structured, other.json()).await.expect(202).json()["id"], other.id);
    let batch = with(&binary, "content-type", BATCH);
    assert_eq!(
        post(&client, &batch, Event::batch(std::slice::from_ref(&other))).await.expect(202).json()["ids"],
        json!([other.id])
    );

    // What is wrong over NATS is on DEAD with its headers, and with no others.
    let bad = with(&with(&binary, "ce-time", "yesterday"), "authorization", "not to be kept");
    request(&publisher, "order-created", &bad, event.data.clone().into()).await;
    let dead = dead_messages(&stack, 6).await;
    let (_, dead) = dead.iter().find(|(_, dead)| dead["problem"]["errors"][0]["field"] == "ce-time").unwrap();
    assert!(dead["headers"].as_array().unwrap().contains(&json!(["ce-time", "yesterday"])), "{dead}");
    assert!(!dead.to_string().contains("not to be kept"), "{dead}");
}

/// The same headers with one more, or with another value for it.
fn with(of: &[(String, String)], name: &str, value: &str) -> Vec<(String, String)> {
    let others = of.iter().filter(|(known, _)| known != name).cloned();
    others.chain([(name.to_owned(), value.to_owned())]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_is_unpacked_within_bounds_and_other_encodings_are_refused_by_name() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let publisher = stack.publisher("tnt_a").await;
    let packed =
        |kind: &str, encoding: &str| headers(&[(CONTENT_TYPE.as_str(), kind), (CONTENT_ENCODING.as_str(), encoding)]);
    let (one, other) = (Event::order("1"), Event::order("2"));
    post(&client, &packed(ONE, "gzip"), gzip(one.json().as_bytes())).await.expect(202);
    post(&client, &packed(BATCH, "GZIP"), gzip(Event::batch(&[other]).as_bytes())).await.expect(202);
    let binary = [Event::order("3").headers(), packed("application/json", "gzip")].concat();
    post(&client, &binary, gzip(br#"{"id":"3"}"#)).await.expect(202);
    let over_nats = packed("", "gzip");
    let told = request(&publisher, "order-created", &over_nats[1..], gzip(Event::order("4").json().as_bytes())).await;
    assert_eq!(told["duplicate"], false, "{told}");
    pulled(&client, 4).await;

    // 128 MiB in 128 KiB, which is less than an event may have, and what is just over the limit.
    let bomb = gzip(&vec![b' '; 128 << 20]);
    assert!(bomb.len() < 200 << 10, "{}", bomb.len());
    check("a bomb as an event", &post(&client, &packed(ONE, "gzip"), bomb.clone()).await, 413, "");
    check("a bomb as a batch", &post(&client, &packed(BATCH, "gzip"), bomb.clone()).await, 413, "");
    check("a large event", &post(&client, &packed(ONE, "gzip"), gzip(&vec![b' '; (256 << 10) + 1])).await, 413, "");
    let reply = request(&publisher, "order-created", &over_nats[1..], bomb).await;
    assert_eq!(reply["status"], 413, "{reply}");
    check("no gzip", &post(&client, &packed(ONE, "gzip"), one.json()).await, 400, "body");
    let whole = gzip(one.json().as_bytes());
    let half = whole[..whole.len() / 2].to_vec();
    check("half of it", &post(&client, &packed(ONE, "gzip"), half).await, 400, "body");

    for encoding in ["br", "deflate", "gzip, br"] {
        let refused = post(&client, &packed(ONE, encoding), one.json()).await;
        check(encoding, &refused, 415, "");
        assert!(refused.text().contains(encoding), "{}", refused.text());
        assert_eq!(refused.header("accept-encoding"), "gzip");
    }
    let reply = request(&publisher, "order-created", &headers(&[("content-encoding", "br")]), one.json().into()).await;
    assert!(reply["status"] == 415 && reply["detail"].as_str().unwrap().contains("br"), "{reply}");
    // On DEAD, what can be unpacked is readable.
    let bad = gzip(b"{\"specversion\":\"0.3\"}");
    request(&publisher, "order-created", &over_nats[1..], bad).await;
    let dead = dead_messages(&stack, 3).await;
    assert!(dead.iter().any(|(_, dead)| dead["body"] == "{\"specversion\":\"0.3\"}"), "{dead:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_refused_in_words_of_its_publisher() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let publisher = stack.publisher("tnt_a").await;
    let good = Event::order("1").json();
    let positional = r#"["1.0","e1","orders","order-created","order/1",null,null,null,{}]"#;
    let table = [
        ("a BOM", ONE, format!("\u{feff}{good}"), "BOM"),
        ("an array", ONE, format!("[{good}]"), "cloudevents-batch+json"),
        ("an array as plain JSON", "application/json", format!("[{good}]"), "cloudevents-batch+json"),
        ("an array of the members", ONE, positional.to_owned(), "cloudevents-batch+json"),
        ("a number", ONE, "7".to_owned(), "JSON object"),
        ("a text", ONE, "\"a\"".to_owned(), "JSON object"),
        ("half of it", ONE, good[..good.len() / 2].to_owned(), "not valid JSON"),
        ("a BOM before a batch", BATCH, format!("\u{feff}[{good}]"), "BOM"),
        ("one event as a batch", BATCH, good.clone(), "application/cloudevents+json"),
        ("a number as a batch", BATCH, "7".to_owned(), "JSON array"),
        ("half a batch", BATCH, format!("[{good}"), "not valid JSON"),
    ];
    for (what, kind, body, named) in table {
        let refused = client.post_events(kind, body.clone()).await;
        check(what, &refused, 400, "body");
        let mut said = vec![refused.text()];
        if kind == ONE {
            let reply = publisher.request(publisher.subject("order-created"), body, HeaderMap::new()).await.unwrap();
            said.push(reply.to_string());
        }
        for said in said {
            assert!(said.contains(named), "{what}: {said}");
            for word in ["struct", "sequence", "a map", "RawValue", "tuple"] {
                assert!(!said.contains(word), "{what}: {said}");
            }
        }
    }
    for time in ["9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00", "99999-01-01T00:00:00Z"] {
        let event = Event { time: Some(time.to_owned()), ..Event::order("1") };
        check(time, &client.publish(&event).await, 422, "time");
    }
    client.publish(&Event::order("1")).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_not_as_the_catalogue_says_is_refused_or_counted() {
    let mut stack = Stack::plan().env("SHOPERY_VALIDATE_EVENTS", "reject").start().await;
    let client = stack.client("tnt_a");
    let publisher = stack.publisher("tnt_a").await;
    let order = |id: &str, quantity: Value| {
        let event = Event::order(id);
        let mut data: Value = serde_json::from_str(&event.data).unwrap();
        let mut item = data["line_items"][0].clone();
        item["quantity"] = quantity;
        data["line_items"].as_array_mut().unwrap().push(item);
        event.with_data(data.to_string())
    };
    let (good, bad) = (order("good", json!(2)), order("bad", json!("Grüße aus Göteborg")));
    let items = serde_json::from_str::<Value>(&good.data).unwrap()["line_items"].as_array().unwrap().len();
    let path = &format!("data.line_items[{}].quantity", items - 1);
    client.publish(&good).await.expect(202);
    check("over HTTP", &client.publish(&bad).await, 422, path);
    let batch = Event::batch(&[order("another", json!(1)), bad.clone()]);
    check("in a batch", &client.post_events(BATCH, batch).await, 422, &format!("[1].{path}"));
    check("what is required", &client.publish(&Event::order("bare").with_data(r#"{"id":"bare"}"#)).await, 422, "data");
    let reply = publisher.publish(&bad).await.unwrap();
    assert_eq!((&reply["status"], &reply["errors"][0]["field"]), (&json!(422), &json!(path)), "{reply}");
    dead_messages(&stack, 1).await;
    pulled(&client, 1).await;

    stack.stop(Service::Ingest).await;
    stack.run_with(Service::Ingest, &[("SHOPERY_VALIDATE_EVENTS", "warn")]).await;
    client.publish(&bad).await.expect(202);
    let over_nats = Event { id: "over nats".to_owned(), ..bad.clone() };
    assert_eq!(publisher.publish(&over_nats).await.unwrap()["duplicate"], false);
    pulled(&client, 3).await;
    wait::until("what is counted", SOON, async || {
        let metrics = stack.metrics(Service::Ingest).await;
        match metrics.value("shopery_events_unexpected_total{type=\"order-created\"}") {
            Some(2.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // The harness looks for what was in the data when it ends.
    let log = stack.log(Service::Ingest);
    assert!(log.contains("not as the catalogue says"), "{log}");

    stack.stop(Service::Ingest).await;
    stack.run_with(Service::Ingest, &[("SHOPERY_VALIDATE_EVENTS", "off")]).await;
    client.publish(&Event { id: "off".to_owned(), ..bad }).await.expect(202);
    assert!(!stack.metrics(Service::Ingest).await.text().contains("unexpected"));
}
