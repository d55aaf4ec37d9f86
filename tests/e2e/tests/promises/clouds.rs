//! Event buses and topics: what arrives there is what would have arrived over HTTPS, and what was promised of that holds there too.
//!
//! Amazon EventBridge is moto with a queue behind each bus, Google Cloud Pub/Sub is Google's own emulator with a subscription of
//! each topic. Between them and the services is a proxy that fails as the clouds do, and remembers what it was sent.

mod failures;
mod kinds;
mod tenants;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::cloud::{Emulator, PROJECT};
use shopery_e2e::documents::{Document, Random, document, seed};
use shopery_e2e::verify::{self, Message, canonical};
use shopery_e2e::{Client, Cloud, Event, Fault, Received, Stack, parts, wait};
use shopery_local::emulators::{PubSub, REGION};
use shopery_model::{DestinationKind, Topic};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);
/// Documents for each cloud.
const COUNT: usize = 1000;
/// A bus or topic for each line: moto looks at all that a queue holds for each message that it takes or gives.
const TYPES: [&[&str]; 6] = [
    &["order-created", "order-updated"],
    &["order-paid", "order-fulfilled"],
    &["order-refunded", "order-cancelled"],
    &["product-created", "product-updated"],
    &["customer-created", "customer-updated"],
    &["product-deleted", "customer-deleted"],
];

on_both_clouds!(
    a_thousand_documents_arrive_once_each_with_their_bytes,
    the_envelope_has_what_https_has_as_headers_and_no_secret,
    a_receiver_with_the_clouds_own_libraries_reads_and_verifies_what_came,
);

/// What the signatures of deliveries cover: the bytes that came, and of what a bus passes on the canonical form.
async fn signed(kind: DestinationKind, received: &[Received]) -> Vec<Vec<u8>> {
    let bodies: Vec<_> = received.iter().map(|one| one.body.clone()).collect();
    if kind == DestinationKind::EventBridge { canonical(&bodies).await } else { bodies }
}

/// A webhook and where it sends.
struct Webhook {
    id: String,
    address: String,
    secret: String,
}

impl Webhook {
    async fn create(cloud: &Cloud, client: &Client, name: &str, events: &[&str], rules: Value) -> Self {
        let address = cloud.make(name, &client.tenant).await;
        let id = client.create_webhook_with(&address, events, rules).await;
        let secret = client.secret(&id).await;
        Self { id, address, secret }
    }
}

fn make(random: &mut Random, number: usize) -> (Document, Event) {
    let document = document(random, number);
    let of_kind = |name: &&&str| name.starts_with(document.kind);
    let types: Vec<_> = TYPES.iter().flat_map(|line| line.iter()).filter(of_kind).copied().collect();
    let event = Event {
        id: if random.once_in(5) { format!("evt {number}: é") } else { format!("evt_{number}") },
        event_type: random.pick(&types).to_owned(),
        subject: format!("{}/{}", document.kind, document.id),
        data: document.json.clone(),
        ..Event::order("")
    };
    (document, event)
}

async fn a_thousand_documents_arrive_once_each_with_their_bytes(cloud: Cloud) {
    // moto does one thing at a time: as much is under way as it does in time.
    let plan = Stack::plan().cloud(&cloud).env("SHOPERY_ACK_WAIT", "60s").env("SHOPERY_SLOTS", "128");
    let stack = plan.start().await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for types in TYPES {
        webhooks.push((types, Webhook::create(&cloud, &client, types[0], types, json!({})).await));
    }
    let mut random = Random::new(seed());
    let sent: Vec<_> = (0..COUNT).map(|number| make(&mut random, number)).collect();
    let events: Vec<_> = sent.iter().map(|(_, event)| event.clone()).collect();
    for part in events.chunks(60) {
        client.try_publish_batch(part).await.unwrap().expect(202);
    }
    let received = wait::until("everything", SOON, async || {
        let mut received = Vec::new();
        for (place, (_, webhook)) in webhooks.iter().enumerate() {
            received.extend(cloud.received(&webhook.address).await.into_iter().map(|one| (place, one)));
        }
        if received.len() >= COUNT { Ok(received) } else { Err(format!("{} of {COUNT}", received.len())) }
    })
    .await;
    for (types, webhook) in &webhooks {
        let due = events.iter().filter(|event| types.contains(&event.event_type.as_str())).count();
        let history = client.settled(&webhook.id, due, SOON).await;
        assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    }

    assert_eq!(received.len(), COUNT, "something came twice");
    let by_id: HashMap<_, _> = sent.iter().map(|(document, event)| (event.id.clone(), (document, event))).collect();
    let ids: HashSet<_> = received.iter().map(|(_, one)| one.event_id()).collect();
    assert!(ids.len() == COUNT && ids.iter().all(|id| by_id.contains_key(id)), "{ids:?}");
    let came: Vec<_> = received.iter().map(|(_, one)| one.clone()).collect();
    let covered = signed(cloud.kind, &came).await;
    let published: Vec<_> = came.iter().map(|one| by_id[&one.event_id()].0.json.clone().into_bytes()).collect();
    // Of what a bus passes on no byte has to be as it was: what it says has, which is what the canonical form shows.
    let expected = if cloud.kind == DestinationKind::PubSub { published } else { canonical(&published).await };
    let mut messages = Vec::new();
    for (((place, one), covered), expected) in received.iter().zip(covered).zip(expected) {
        let ((types, webhook), (_, event)) = (&webhooks[*place], by_id[&one.event_id()]);
        assert!(types.contains(&event.event_type.as_str()), "{} came to the place of {types:?}", event.event_type);
        assert!(covered == expected, "{}: {}", event.id, String::from_utf8_lossy(&covered));
        messages.push(Message::of_received(one, &webhook.secret, covered));
    }
    let refused: Vec<_> = verify::verify(&messages).await.into_iter().filter_map(Result::err).collect();
    assert!(refused.is_empty(), "{} of {COUNT}: {:?}", refused.len(), refused.first());
    let tampered: Vec<_> =
        messages.iter().take(50).map(|message| message.clone().with_header("webhook-id", "x")).collect();
    assert!(verify::verify(&tampered).await.iter().all(Result::is_err), "a changed message passed");

    let sizes: Vec<_> =
        cloud.proxy.requests().iter().map(|request| request.entries.len()).filter(|size| *size > 0).collect();
    let most = if cloud.kind == DestinationKind::PubSub { 1000 } else { 10 };
    println!("{COUNT} deliveries in {} requests, the largest of {:?}", sizes.len(), sizes.iter().max());
    assert!(sizes.len() < COUNT && sizes.iter().all(|size| *size <= most), "{sizes:?}");
}

/// What every HTTP request has, or an HTTPS endpoint alone.
const OF_HTTPS: [&str; 6] = ["accept", "content-length", "content-type", "host", "user-agent", "x-shopery-secret"];

async fn the_envelope_has_what_https_has_as_headers_and_no_secret(cloud: Cloud) {
    let stack = Stack::plan().cloud(&cloud).start().await;
    let client = stack.client("tnt_a");
    let rules = json!({ "changed": ["total_price", "größe"] });
    let webhook = Webhook::create(&cloud, &client, "orders", &["order-*"], rules.clone()).await;
    client.create_webhook_with(&stack.merchant.url("/orders"), &["order-*"], rules).await;
    let mut event = Event::order("1").with_data(r#"{"id":"1","total_price":59.80,"größe":2,"z":[1.0e2],"a":"é/"}"#);
    event.time = Some("2026-10-25T02:30:00.125+02:00".to_owned());
    client.publish(&event).await.expect(202);
    let received = cloud.wait_at(&webhook.address, 1, SOON).await.remove(0);
    let arrival = stack.merchant.wait_at("/orders", 1, SOON).await.remove(0);

    let over_https: BTreeSet<_> = arrival.headers.keys().map(|name| name.as_str().to_owned()).collect();
    let names: BTreeSet<_> = received.names.keys().map(|name| name.to_lowercase()).collect();
    let expected = over_https.into_iter().filter(|name| !OF_HTTPS.contains(&name.as_str()));
    assert_eq!(names, expected.collect::<BTreeSet<_>>());
    for name in ["X-Shopery-Event", "X-Shopery-Tenant-Id", "webhook-id", "webhook-timestamp", "webhook-signature"] {
        assert!(received.names.contains_key(name), "{name} is written otherwise in {:?}", received.names);
    }
    for name in ["x-shopery-event", "x-shopery-event-id", "x-shopery-triggered-at", "x-shopery-fields-changed"] {
        assert_eq!(received.name(name), arrival.header(name), "{name}");
    }
    assert!(!format!("{received:?}").contains(webhook.secret.trim_start_matches("whsec_")), "{received:?}");
    match cloud.kind {
        DestinationKind::PubSub => {
            assert_eq!(received.body, event.data.as_bytes());
            assert_eq!(received.ordering_key, None, "a webhook without `ordered` has asked for no order");
        }
        _ => {
            let seen = &received.event;
            assert_eq!(
                (&seen["source"], &seen["detail-type"]),
                (&json!("shopery/tnt_a"), &json!("order-created")),
                "{seen}"
            );
            assert_eq!((&seen["time"], &seen["region"]), (&json!("2026-10-25T00:30:00Z"), &json!(REGION)), "{seen}");
            let members: BTreeSet<_> = seen["detail"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(members, BTreeSet::from(["metadata", "payload"]), "{seen}");
            assert_eq!(received.json(), serde_json::from_str::<Value>(&event.data).unwrap());
        }
    }
    shown_by_the_api(&cloud, &client, &webhook, &received).await;
}

/// What the history and the Test call say of a delivery to a cloud.
async fn shown_by_the_api(cloud: &Cloud, client: &Client, webhook: &Webhook, received: &Received) {
    let path = format!("/company/webhooks/{}", webhook.id);
    let shown = client.get(&path).await.expect(200).json();
    assert_eq!((&shown["url"], &shown["kind"]), (&json!(webhook.address), &json!(cloud.kind.name())), "{shown}");
    let delivery = client.settled(&webhook.id, 1, SOON).await.remove(0);
    let delivery = client.delivery(&delivery["id"]).await;
    let attempt = &delivery["attempts"][0];
    let (request, response) = (&attempt["request"], &attempt["response"]);
    assert_eq!((&request["url"], &request["method"]), (&json!(webhook.address), &json!("POST")), "{attempt}");
    let named: BTreeSet<_> = request["headers"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(named, received.names.keys().cloned().collect::<BTreeSet<_>>(), "{attempt}");
    assert_eq!(request["headers"]["webhook-signature"], "***", "{attempt}");
    let message_id = response["messageId"].as_str().unwrap_or_default();
    assert!(!message_id.is_empty() && response["status"].is_null() && response["code"].is_null(), "{attempt}");

    let tests = cloud.all_received(&webhook.address).await.iter().filter(|one| one.is_test()).count();
    let report = client.post(&format!("{path}/test"), &json!({})).await.expect(200).json();
    assert_eq!((&report["success"], &report["wouldDeliver"]), (&json!(true), &json!(true)), "{report}");
    assert!(report["status"].is_null() && report["response"]["messageId"].is_string(), "{report}");
    wait::until_true("the test to come", SOON, async || {
        let all = cloud.all_received(&webhook.address).await;
        all.iter().filter(|one| one.is_test() && one.name("x-shopery-event") == "webhook-test").count() > tests
    })
    .await;
}

/// Names that sort otherwise as UTF-16 than as UTF-8, and numbers that a sloppy parser gets wrong by a bit.
fn hard_to_canonicalise(random: &mut Random) -> String {
    let numbers: Vec<_> = (0..300)
        .map(|_| {
            let (whole, digits, power) = (random.draw() % 1_000_000, random.draw(), random.below(40));
            format!("{whole}.{digits:019}e{}{power}", if random.once_in(2) { "-" } else { "" })
        })
        .collect();
    format!(
        r#"{{"\ud83d\ude00":1,"\ufb33":2,"é":3,"e\u0301":4,"":5,"a":{{"B":[],"A":{{}}}},"n":[5e-324,2.2250738585072011e-308,1.7976931348623157e308,9007199254740993,-0,{}]}}"#,
        numbers.join(",")
    )
}

async fn a_receiver_with_the_clouds_own_libraries_reads_and_verifies_what_came(cloud: Cloud) {
    let stack = Stack::plan().cloud(&cloud).start().await;
    let client = stack.client("tnt_a");
    let webhook = Webhook::create(&cloud, &client, "orders", &["*"], json!({})).await;
    let mut random = Random::new(seed());
    let hard = Event::order("hard").with_data(hard_to_canonicalise(&mut random));
    let events = [Event::order("1"), Event::new("product-updated", "é 2").with_data(r#"{ "a" : [1.50, "\/"] }"#), hard];
    for event in &events {
        client.publish(event).await.expect(202);
    }
    client.settled(&webhook.id, events.len(), SOON).await;
    let topic = Topic { project: PROJECT.to_owned(), name: "orders".to_owned() };
    let settings = json!({
        "kind": cloud.kind.name(), "secret": webhook.secret, "count": events.len(),
        "endpoint": format!("http://{}", cloud.proxy.host()), "region": REGION, "queue": "orders",
        "subscription": PubSub::subscription(&topic),
    });
    let mut python = Command::new(parts::python());
    python.args(["-c", include_str!("clouds/receiver.py")]).env("SETTINGS", settings.to_string());
    // That library speaks gRPC, which is not what the proxy is for.
    if let Emulator::PubSub(emulator) = &cloud.emulator {
        python.env("PUBSUB_EMULATOR_HOST", emulator.host());
    }
    let done = wait::within("the receiver", SOON, python.kill_on_drop(true).output()).await.unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    let verdicts: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: BTreeSet<_> = verdicts.iter().map(|verdict| verdict["event"].as_str().unwrap().to_owned()).collect();
    let published: BTreeSet<_> =
        events.iter().map(|event| event.id.replace(' ', "%20").replace('é', "%C3%A9")).collect();
    assert_eq!(ids, published, "{said}");
    for verdict in &verdicts {
        assert_eq!((&verdict["verdict"], &verdict["tampered"]), (&json!("ok"), &json!("refused")), "{verdict}");
    }
}

/// A subscription that asks for it gets the messages of an ordering key in the order in which they were published.
#[tokio::test(flavor = "multi_thread")]
async fn ordering_keys_are_the_resources_and_their_messages_come_in_order() {
    let Some(cloud) = Cloud::google().await else { return };
    let (resources, updates) = (20, 15);
    let plan = Stack::plan().cloud(&cloud).env("SHOPERY_RETRY_SCHEDULE", "300ms,300ms,1s,1s,1s,1s");
    let stack = plan.env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let client = stack.client("tnt_a");
    let rules = json!({ "ordered": true, "payload": "original" });
    let webhook = Webhook::create(&cloud, &client, "orders", &["*"], rules).await;
    let events: Vec<_> = (0..updates)
        .flat_map(|number| (0..resources).map(move |order| (order, number)))
        .map(|(order, number)| {
            let data = format!(r#"{{"id":"{order}","number":{number}}}"#);
            let mut event = Event::new("order-updated", &order.to_string()).with_data(data);
            event.id = format!("evt_{order}_{number}");
            event
        })
        .collect();
    client.try_publish_batch(&events).await.unwrap().expect(202);
    cloud.wait_at(&webhook.address, 50, SOON).await;
    // What fails is sent again before what comes after it.
    cloud.proxy.behave_times(&webhook.address, Fault::broken(cloud.kind), 5);
    let history = client.settled(&webhook.id, events.len(), SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    let mut by_key: HashMap<String, Vec<u64>> = HashMap::new();
    for one in cloud.wait_at(&webhook.address, events.len(), SOON).await {
        let (body, key) = (one.json(), one.ordering_key.clone().expect("an ordering key"));
        assert_eq!(key, format!("order/{}", body["id"].as_str().unwrap()));
        by_key.entry(key).or_default().push(body["number"].as_u64().unwrap());
    }
    assert_eq!(by_key.len(), resources);
    for (key, numbers) in by_key {
        assert_eq!(numbers, (0..updates as u64).collect::<Vec<_>>(), "{key}");
    }
}
