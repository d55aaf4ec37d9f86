//! The history shows of an attempt exactly what was sent and what was answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::{Arrival, Behaviour, Client, Event, Stack, wait};

const SOON: Duration = Duration::from_secs(60);
/// What every HTTP request has, and nobody asks for.
const OF_HTTP: [&str; 4] = ["accept", "content-length", "host", "user-agent"];
/// Their `fields` are changed while deliveries wait.
const PATCHED: [&str; 2] = ["/fields", "/original"];
const STATES: usize = 6;
const RESOURCES: usize = 30;

/// Every kind of webhook, by the path of its endpoint.
fn kinds() -> Vec<(&'static str, Value)> {
    vec![
        ("/plain", json!({})),
        ("/fields", json!({ "fields": ["id", "customer.email"], "dropDuplicates": false })),
        (
            "/original",
            json!({ "payload": "original", "fields": ["note"], "headers": { "X-Gate": "hush-hush-gate" }, "dropDuplicates": false }),
        ),
        ("/cloudevent", json!({ "format": "cloudevent", "fields": ["id", "total"], "dropDuplicates": false })),
        ("/changed", json!({ "changed": ["total", "note"], "signature": "both" })),
        ("/debounced", json!({ "debounce": "1s" })),
        ("/ordered", json!({ "ordered": true })),
    ]
}

/// States of all resources, one after the other; the number makes each another one.
async fn publish(client: &Client, round: usize) {
    for state in 0..STATES {
        let events = (0..RESOURCES).map(|resource| {
            let mut event = Event::order(&format!("ord {resource} é"));
            event.id = format!("evt-{round}-{state}-{resource}");
            let data = json!({
                "id": format!("ord {resource} é"), "total": (round * 7 + state / 2) as f64 + 0.5, "note": "„quoted“ \n \u{1f600}",
                "customer": { "email": format!("{}@example.com", state / 3), "name": state },
            });
            // As services of the platform write times, and with attributes of their own.
            event.time = Some("2026-11-24T12:00:00.0001+02:00".to_owned());
            event.extensions = vec![("partitionkey".to_owned(), json!("eu"))];
            event.with_data(data.to_string()).with_source("orders of ours")
        });
        client.try_publish_batch(&events.collect::<Vec<_>>()).await.unwrap().expect(202);
    }
}

async fn attempt(client: &Client, arrival: &Arrival, deliveries: &mut HashMap<String, Value>) -> (Value, Value) {
    let id = arrival.webhook_id();
    if !deliveries.contains_key(id) {
        deliveries.insert(id.to_owned(), client.delivery(&json!(id)).await);
    }
    let attempts = deliveries[id]["attempts"].as_array().unwrap();
    let listed = attempts.iter().find(|one| one["number"] == arrival.attempt());
    let listed = listed.unwrap_or_else(|| panic!("{id} has no attempt {}: {attempts:?}", arrival.attempt()));
    let path = format!("/company/deliveries/{id}/attempts/{}", listed["id"].as_str().unwrap());
    (listed.clone(), client.get(&path).await.expect(200).json())
}

/// What is shown is what has arrived.
fn check(arrival: &Arrival, listed: &Value, shown: &Value) {
    let what = format!("{} {} attempt {}: {shown}", arrival.path, arrival.webhook_id(), arrival.attempt());
    let request = &shown["request"];
    assert_eq!(request["body"].as_str().map(str::as_bytes), Some(arrival.body.as_ref()), "{what}");
    assert_eq!(request["bytes"], arrival.body.len(), "{what}");
    let headers = request["headers"].as_object().unwrap();
    for (name, value) in headers {
        let sent = arrival.headers.get(name).unwrap_or_else(|| panic!("{name} was not sent: {what}"));
        let is_secret = ["webhook-signature", "x-shopery-secret", "x-gate"].contains(&name.as_str());
        let expected = if is_secret { "***" } else { sent.to_str().unwrap() };
        assert_eq!(value, expected, "{name}: {what}");
    }
    for name in arrival.headers.keys() {
        assert!(headers.contains_key(name.as_str()) || OF_HTTP.contains(&name.as_str()), "{name}: {what}");
    }
    // In the list of attempts there is no body.
    let mut without_body = shown.clone();
    without_body["request"].as_object_mut().unwrap().remove("body");
    assert_eq!(&without_body, listed);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_headers_are_shown_as_they_have_arrived() {
    let plan = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "300ms,600ms,1s,2s,4s");
    let stack = plan.env("SHOPERY_CIRCUIT_FAILURES", "50").env("SHOPERY_PROBE_FIRST", "300ms").start().await;
    let client = stack.client("tnt_é");
    let mut webhooks = HashMap::new();
    for (path, rules) in kinds() {
        // Some attempts fail, and what they are repeated with may be newer.
        stack.merchant.behave(path, Behaviour::Turns(vec![200, 503, 200, 200]));
        webhooks.insert(path, client.create_webhook_with(&stack.merchant.url(path), &["order-*"], rules).await);
    }
    // What waits is sent as it was projected when it was routed, although `fields` are others by then.
    for path in PATCHED {
        stack.merchant.behave(path, Behaviour::Answer(503));
    }
    publish(&client, 0).await;
    let plain = format!("/company/webhooks/{}", webhooks["/plain"]);
    client.patch(&plain, &json!({ "format": "cloudevent" })).await.expect(200);
    for path in PATCHED {
        stack.merchant.wait_at(path, RESOURCES, SOON).await;
        let patched = format!("/company/webhooks/{}", webhooks[path]);
        client.patch(&patched, &json!({ "fields": ["total"] })).await.expect(200);
        stack.merchant.behave(path, Behaviour::Turns(vec![200, 503, 200, 200]));
    }
    publish(&client, 1).await;
    stack.at_rest(SOON).await;
    for path in ["/fields", "/original", "/debounced", "/cloudevent"] {
        let ended = client.all(&format!("/company/webhooks/{}/deliveries?status=delivered", webhooks[path])).await;
        for delivery in ended.iter().take(10) {
            let id = delivery["id"].as_str().unwrap();
            client.post(&format!("/company/deliveries/{id}/resend"), &json!({})).await.expect(202);
        }
    }
    stack.at_rest(SOON).await;

    let (mut deliveries, mut retried) = (HashMap::new(), 0);
    let arrivals: Vec<Arc<Arrival>> = stack.merchant.arrivals();
    for arrival in &arrivals {
        let (listed, shown) = attempt(&client, arrival, &mut deliveries).await;
        check(arrival, &listed, &shown);
        retried += usize::from(arrival.attempt() > 1);
    }
    println!("{} attempts, {retried} of them repeated", arrivals.len());
    assert!(arrivals.len() >= 1000 && retried >= 100, "{} {retried}", arrivals.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_held_is_said_and_an_answer_is_kept_up_to_a_bound() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let of = async |path: &str| client.create_webhook(&stack.merchant.url(path), &["*"]).await;
    stack.merchant.behave("/echo", Behaviour::Echo);
    stack.merchant.behave("/flood", Behaviour::Flood { bytes: 20_000, announced: true });
    let (echo, flood) = (of("/echo").await, of("/flood").await);
    client.publish(&Event::order("1")).await.expect(202);
    let shown = async |webhook: &str| {
        let delivery = client.settled(webhook, 1, SOON).await.remove(0);
        let delivery = client.delivery(&delivery["id"]).await;
        let path = format!(
            "/company/deliveries/{}/attempts/{}",
            delivery["id"].as_str().unwrap(),
            delivery["attempts"][0]["id"].as_str().unwrap()
        );
        client.get(&path).await.expect(200).json()
    };
    let of_echo = shown(&echo).await;
    let response = &of_echo["response"];
    let secret = client.secret(&echo).await;
    assert!(response["body"].as_str().unwrap().contains("***") && !of_echo.to_string().contains(&secret), "{of_echo}");
    let names: Vec<_> = response["headers"].as_array().unwrap().iter().map(|header| &header["name"]).collect();
    assert!(names.contains(&&json!("content-length")), "{of_echo}");
    let kept = shown(&flood).await["response"]["body"].as_str().unwrap().len();
    assert_eq!(kept, 16 * 1024);
    assert!(of_echo["request"]["body"].is_string());

    let delivery = client.settled(&echo, 1, SOON).await.remove(0)["id"].as_str().unwrap().to_owned();
    let unknown = "att_01HA4XCG60CT4G3EWF4CKYM1MF";
    client.get(&format!("/company/deliveries/{delivery}/attempts/{unknown}")).await.expect(404);
    let events = async_nats::jetstream::new(stack.operator().await).get_stream("EVENTS").await.unwrap();
    events.purge().await.unwrap();
    wait::until("the body to be gone", SOON, async || {
        let shown = shown(&echo).await;
        let request = &shown["request"];
        let is_said = request["bodyUnavailable"].as_str().is_some_and(|why| why.contains("no longer held"));
        if is_said && request.get("body").is_none() { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    assert_eq!(shown(&echo).await["request"]["headers"], of_echo["request"]["headers"]);
}
