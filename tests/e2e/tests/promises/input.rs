//! Bad input: the right status, and a problem that names the field.

use std::time::Duration;

use futures_util::StreamExt;
use jsonwebtoken::Algorithm;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use shopery_e2e::client::{BATCH, ONE, send};
use shopery_e2e::{Client, Event, Reply, Service, Stack, token};

const SOON: Duration = Duration::from_secs(20);

/// Checks status, form, and that one of the errors is about `field`; no field means that none is named.
#[track_caller]
pub(crate) fn check(what: &str, reply: &Reply, status: u16, field: &str) {
    assert_eq!(reply.status, status, "{what}: {}", reply.text());
    let problem = reply.problem();
    if field.is_empty() {
        return;
    }
    let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{what}: no errors in {problem}"));
    let about = errors.iter().find(|error| error["field"] == field);
    let about = about.unwrap_or_else(|| panic!("{what}: no error is about {field}: {problem}"));
    assert!(about["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {problem}");
}

/// A good event with one member replaced; `Null` removes it.
fn event_with(member: &str, value: Value) -> String {
    let mut event: Value = serde_json::from_str(&Event::order("1").json()).unwrap();
    match value {
        Value::Null => drop(event.as_object_mut().unwrap().remove(member)),
        value => event[member] = value,
    }
    event.to_string()
}

fn bad_events() -> Vec<(&'static str, String, u16, &'static str)> {
    let members = ["specversion", "id", "source", "type", "subject", "data"];
    let mut table: Vec<_> =
        members.map(|member| ("a missing member", event_with(member, Value::Null), 422, member)).into();
    table.extend([
        ("no body", String::new(), 400, "body"),
        ("half a body", r#"{"specversion":"1.0""#.to_owned(), 400, "body"),
        ("no JSON", "hello".to_owned(), 400, "body"),
        ("an array", "[]".to_owned(), 400, "body"),
        ("null", "null".to_owned(), 400, "body"),
        ("another version", event_with("specversion", json!("0.3")), 422, "specversion"),
        ("a number for an id", event_with("id", json!(7)), 422, "id"),
        ("an empty id", event_with("id", json!("")), 422, "id"),
        ("a long id", event_with("id", json!("x".repeat(1000))), 422, "id"),
        ("a line break in an id", event_with("id", json!("a\nb")), 422, "id"),
        ("an unknown event", event_with("type", json!("order-eaten")), 422, "type"),
        ("a subject without a kind", event_with("subject", json!("ord_1")), 422, "subject"),
        ("a subject of another kind", event_with("subject", json!("product/1")), 422, "subject"),
        ("no time", event_with("time", json!("yesterday")), 422, "time"),
        ("a string for data", event_with("data", json!("x")), 422, "data"),
        ("an array for data", event_with("data", json!([1])), 422, "data"),
        ("data in base64", event_with("data_base64", json!("aGk=")), 422, "data_base64"),
        ("data of another type", event_with("datacontenttype", json!("text/xml")), 422, "datacontenttype"),
        ("a large event", event_with("data", json!({ "x": "x".repeat(256 * 1024) })), 413, ""),
    ]);
    table
}

fn bad_batches() -> Vec<(&'static str, String, u16, &'static str)> {
    let good = || Event::order("in a batch").json();
    let many: Vec<_> = (0..1001).map(|number| Event::order(&format!("many_{number}")).json()).collect();
    let large = event_with("data", json!({ "x": "x".repeat(256 * 1024) }));
    vec![
        ("no array", good(), 400, ""),
        ("no JSON", "[".to_owned(), 400, ""),
        ("an empty batch", "[]".to_owned(), 422, "batch"),
        ("1001 events", format!("[{}]", many.join(",")), 422, "batch"),
        ("a bad one among good ones", format!("[{},{}]", good(), event_with("type", json!("x"))), 422, "[1].type"),
        ("a large one among good ones", format!("[{},{large}]", good()), 422, "[1].data"),
        ("a number for an event", format!("[{},7]", good()), 422, "[1].body"),
        ("a batch over 16 MiB", format!("[{}]", " ".repeat(16 << 20)), 413, ""),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_is_refused_with_the_field_named_and_delivers_nothing() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    for (what, body, status, field) in bad_events() {
        check(what, &client.post_events(ONE, body).await, status, field);
    }
    for (what, body, status, field) in bad_batches() {
        check(what, &client.post_events(BATCH, body).await, status, field);
    }
    let unknown = client.post_events(ONE, event_with("type", json!("order-eaten"))).await.text();
    assert!(unknown.contains("order-created") && unknown.contains("inventory-deleted"), "{unknown}");
    for kind in ["text/plain", "application/xml", "multipart/form-data", ""] {
        check(kind, &client.post_events(kind, Event::order("1").json()).await, 415, "");
    }
    check("no route", &client.get(&format!("{}/nothing", client.ingest)).await, 404, "");
    check("no POST", &client.get(&format!("{}/events", client.ingest)).await, 405, "");
    for (what, client, status) in bad_tokens(&client, "events:write") {
        check(what, &client.publish(&Event::order("1")).await, status, "");
    }
    // Charset and case of a content type do not matter.
    let kind = "Application/CloudEvents+JSON; charset=utf-8";
    client.post_events(kind, Event::order("good").json()).await.expect(202);
    client.settled(&webhook, 1, SOON).await;
    assert_eq!(stack.merchant.count(), 1, "{:?}", stack.merchant.arrivals());
}

/// The same client with tokens that must not do.
fn bad_tokens(client: &Client, permission: &str) -> Vec<(&'static str, Client, u16)> {
    let claims = || token::claims(&["tnt_a"], token::ALL);
    let but = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        token::sign(&claims, Algorithm::HS256, token::SECRET)
    };
    let good = token::mint(&["tnt_a"], token::ALL);
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let other_scope = token::ALL.replace(permission, "");
    let other_body = {
        let forged = token::mint(&["tnt_a", "tnt_b"], token::ALL);
        forged.split('.').nth(1).unwrap().to_owned()
    };
    let table = [
        ("no token", String::new(), 401),
        ("garbage", "garbage".to_owned(), 401),
        ("an expired token", but("exp", json!(token::unix_now() - 60)), 401),
        ("a token without an end", but("exp", Value::Null), 401),
        ("a token of tomorrow", but("nbf", json!(token::unix_now() + 86_400)), 401),
        ("the algorithm none", format!("{none}.{body}."), 401),
        ("the algorithm none with a signature", format!("{none}.{body}.{signature}"), 401),
        ("forged claims", format!("{head}.{other_body}.{signature}"), 401),
        ("another secret", token::sign(&claims(), Algorithm::HS256, &token::SECRET.replace('e', "3")), 401),
        ("another algorithm", token::sign(&claims(), Algorithm::HS512, token::SECRET), 401),
        ("a missing permission", token::mint(&["tnt_a"], &other_scope), 403),
        ("another tenant", token::mint(&["tnt_b"], token::ALL), 403),
        ("no tenant", token::mint(&[], token::ALL), 403),
    ];
    table.into_iter().map(|(what, token, status)| (what, client.with_token(&token), status)).collect()
}

fn webhook_with(member: &str, value: Value) -> Value {
    let mut webhook = json!({
        "name": "webhook test", "url": "https://test.example/wh", "events": ["order-created"], "isEnabled": true
    });
    match value {
        Value::Null => drop(webhook.as_object_mut().unwrap().remove(member)),
        value => webhook[member] = value,
    }
    webhook
}

/// Member, bad value, and the field that the answer names.
fn bad_members() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("name", json!(7), "name"),
        ("name", json!(""), "name"),
        ("name", json!("x".repeat(1000)), "name"),
        ("url", json!(7), "url"),
        ("url", json!("not a URL"), "url"),
        ("url", json!("http://test.example/wh"), "url"),
        ("url", json!("ftp://test.example/wh"), "url"),
        ("url", json!("https://"), "url"),
        ("url", json!("https://user:password@test.example/wh"), "url"),
        ("url", json!("https://test.example/#fragment"), "url"),
        ("url", json!(format!("https://test.example/{}", "x".repeat(5000))), "url"),
        ("events", json!("order-created"), "events"),
        ("events", json!([]), "events"),
        ("events", json!(["order-created", "order-eaten"]), "events[1]"),
        ("events", json!([7]), "events[0]"),
        ("isEnabled", json!("yes"), "isEnabled"),
        ("secret", json!("short"), "secret"),
        ("secret", json!(7), "secret"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_webhook_is_refused_with_the_field_named() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let (all, one) = ("/company/webhooks", format!("/company/webhooks/{webhook}"));
    let before = client.get(&one).await.expect(200).json();

    for member in ["name", "url", "events"] {
        check("a missing member", &client.post(all, &webhook_with(member, Value::Null)).await, 422, member);
    }
    for (member, value, field) in bad_members() {
        let what = format!("{member}: {value:.60}");
        check(&what, &client.post(all, &webhook_with(member, value.clone())).await, 422, field);
        check(&what, &client.patch(&one, &json!({ member: value })).await, 422, field);
    }
    check("all at once", &client.post(all, &json!({ "name": "", "url": "x", "events": [] })).await, 422, "url");
    check("all at once", &client.post(all, &json!({ "name": "", "url": "x", "events": [] })).await, 422, "events");

    for (method, path) in [(Method::POST, all), (Method::PATCH, one.as_str())] {
        for body in ["", "{", "[]", "7", "null"] {
            let request = client.request(method.clone(), path).header(CONTENT_TYPE, "application/json").body(body);
            check(body, &send(request).await.unwrap(), 400, "body");
        }
        let large = json!({ "name": "x".repeat(100 * 1024) }).to_string();
        let request = client.request(method.clone(), path).header(CONTENT_TYPE, "application/json").body(large);
        check("a large body", &send(request).await.unwrap(), 413, "");
        let text = webhook_with("", Value::Null).to_string();
        let request = client.request(method.clone(), path).header(CONTENT_TYPE, "text/plain").body(text);
        check("a wrong content type", &send(request).await.unwrap(), 415, "");
    }
    for (what, client, status) in bad_tokens(&client, "webhooks:write") {
        check(what, &client.post(all, &webhook_with("", Value::Null)).await, status, "");
        check(what, &client.patch(&one, &json!({ "name": "x" })).await, status, "");
        check(what, &client.delete(&one).await, status, "");
    }
    for (what, client, status) in bad_tokens(&client, "webhooks:read") {
        check(what, &client.get(all).await, status, "");
        check(what, &client.get(&one).await, status, "");
    }
    assert_eq!(client.get(&one).await.expect(200).json(), before, "a refused request changed the webhook");
    assert_eq!(client.all(all).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_not_found_and_bad_queries_are_named() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    for path in [
        "/company/webhooks/wbh_01HA4XCG60CT4G3EWF4CKYM1MF",
        "/company/webhooks/wbh_01HA4XCG60CT4G3EWF4CKYM1MF/secret",
        "/company/webhooks/wbh_01HA4XCG60CT4G3EWF4CKYM1MF/deliveries",
        "/company/webhooks/7",
        "/company/webhooks/%00",
        "/company/webhooks/..%2f..%2f",
        "/company/deliveries/dlv_01HA4XCG60CT4G3EWF4CKYM1MF",
        "/company/deliveries/x'%20or%201=1",
        "/company/nothing",
        "/",
    ] {
        check(path, &client.get(path).await, 404, "");
    }
    check("no PUT", &send(client.request(Method::PUT, "/company/webhooks")).await.unwrap(), 405, "");
    for (query, field) in [("limit=0", "limit"), ("limit=x", "limit"), ("limit=99999", "limit"), ("cursor=x", "cursor")]
    {
        for list in ["/company/webhooks", "/company/deliveries"] {
            check(query, &client.get(&format!("{list}?{query}")).await, 422, field);
        }
    }
    let mut nobody = client.clone();
    nobody.tenant = String::new();
    check("no tenant", &nobody.get("/company/webhooks").await, 400, "");
    let url = "/company/webhooks/test";
    for bad in ["http://test.example/", "x", ""] {
        check(bad, &client.post(url, &json!({ "url": bad })).await, 422, "url");
    }
    check("no URL", &client.post(url, &json!({})).await, 422, "url");
    for path in ["/company/webhooks/%ff", "/%c3%28"] {
        check(path, &client.get(path).await, 400, "");
    }
}

/// Whoever knows the address can send any, without a token.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_methods_make_no_series() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    for number in 0..20 {
        let method = Method::from_bytes(format!("MADE{number}").as_bytes()).unwrap();
        check("made up", &send(client.request(method, "/company/webhooks")).await.unwrap(), 405, "");
    }
    let metrics = reqwest::get(format!("{}/metrics", stack.url(Service::Api))).await.unwrap().text().await.unwrap();
    assert!(!metrics.contains("MADE") && metrics.contains(r#"method="other""#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_over_nats_gets_the_problem_and_lands_on_dead() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let publisher = stack.publisher("tnt_a").await;
    let good = publisher.subject("order-created");
    let table = [
        ("no JSON", good.clone(), "hello".to_owned(), "body"),
        ("nothing", good.clone(), String::new(), "body"),
        ("no id", good.clone(), event_with("id", Value::Null), "id"),
        ("an unknown event", publisher.subject("order-eaten"), event_with("type", json!("order-eaten")), "type"),
        ("another event than the subject's", publisher.subject("order-paid"), Event::order("1").json(), "type"),
        ("a subject of four tokens", format!("{good}.more"), Event::order("1").json(), "subject"),
        ("a large event", good.clone(), event_with("data", json!({ "x": "x".repeat(256 * 1024) })), "data"),
    ];
    for (what, subject, body, field) in table.clone() {
        let reply = publisher.request(subject, body, Default::default()).await.unwrap();
        assert!(reply["error"]["description"].is_string() && reply["error"]["code"].is_u64(), "{what}: {reply}");
        assert!(reply["type"].is_string() && reply["status"].is_u64(), "{what}: {reply}");
        let named = reply["errors"].as_array().is_some_and(|errors| errors.iter().any(|error| error["field"] == field));
        assert!(named, "{what}: {reply}");
    }
    // Nobody waits for an answer to this one.
    publisher.client.publish(good, "no reply".into()).await.unwrap();
    publisher.client.flush().await.unwrap();

    let dead = dead_messages(&stack, table.len() + 1).await;
    for (what, subject, body, field) in table {
        // Of a large message the beginning is kept.
        let is_it = |dead: &Value| body.starts_with(dead["body"].as_str().unwrap()) && dead["bytes"] == body.len();
        let found = dead.iter().find(|(_, dead)| dead["subject"] == subject && is_it(dead));
        let (on, dead) = found.unwrap_or_else(|| panic!("{what} is not on DEAD: {dead:?}"));
        assert!(on.starts_with("dead.invalid-event."), "{what}: {on}");
        let reason = &dead["problem"]["errors"];
        assert!(reason.as_array().unwrap().iter().any(|error| error["field"] == field), "{what}: {reason}");
    }
    assert!(dead.iter().any(|(_, dead)| dead["body"] == "no reply"));

    publisher.publish(&Event::order("good")).await.unwrap();
    client.settled(&webhook, 1, SOON).await;
    assert_eq!(stack.merchant.count(), 1);
}

/// Subject and content of what is on DEAD, once there are `count` messages.
pub(crate) async fn dead_messages(stack: &Stack, count: usize) -> Vec<(String, Value)> {
    let operator = stack.operator().await;
    let jetstream = async_nats::jetstream::new(operator);
    let stream = jetstream.get_stream("DEAD").await.unwrap();
    let consumer = stream.create_consumer(async_nats::jetstream::consumer::pull::OrderedConfig::default()).await;
    let mut messages = consumer.unwrap().messages().await.unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        let message = shopery_e2e::wait::within("a message on DEAD", SOON, messages.next()).await.unwrap().unwrap();
        found.push((message.subject.to_string(), serde_json::from_slice(&message.payload).unwrap()));
    }
    found
}
