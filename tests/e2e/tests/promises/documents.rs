//! Ten thousand realistic documents for twenty tenants, each at exactly the webhooks that match.
//! `SHOPERY_TEST_DOCUMENTS` changes the number, `SHOPERY_TEST_SEED` repeats a run.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::json;
use shopery_e2e::documents::{Document, Random, document, seed};
use shopery_e2e::verify::{Message, verify};
use shopery_e2e::{Arrival, Client, Event, Publisher, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const ACTIONS: [(&str, &[&str]); 3] = [
    ("order", &["created", "updated", "paid", "fulfilled", "refunded", "cancelled", "deleted"]),
    ("product", &["created", "updated", "deleted"]),
    ("customer", &["created", "updated", "deleted"]),
];

/// The webhooks of each tenant: what they are called, what they subscribe to, and whether they are enabled.
const SUBSCRIPTIONS: [(&str, &[&str], bool); 6] = [
    ("one", &["order-created"], true),
    ("wildcard", &["order-*"], true),
    ("all", &["*"], true),
    ("plural", &["orders-created", "products-updated"], true),
    ("twice", &["customer-*", "customer-created"], true),
    ("disabled", &["*"], false),
];

/// Ids that would hurt in a subject, a header or a path if they were taken as they are.
const ODD_TENANTS: [&str; 7] = ["Zoë. shop*>", "a.b.c", "=2E", ">", "日本の店 🛍", "tnt/../x?y#z", "\"quoted\\"];

struct Sent {
    tenant: usize,
    document: Document,
    event: Event,
    /// The type by its canonical name.
    event_type: String,
}

struct Webhook {
    id: String,
    secret: String,
    tenant: usize,
    name: &'static str,
}

/// Whether a subscription wants a type, worked out apart from the code under test.
fn wants(name: &str, event_type: &str) -> bool {
    match name {
        "one" => event_type == "order-created",
        "wildcard" => event_type.starts_with("order-"),
        "all" => true,
        "plural" => event_type == "order-created" || event_type == "product-updated",
        "twice" => event_type.starts_with("customer-"),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_document_arrives_at_the_webhooks_that_match_byte_for_byte() {
    let count = std::env::var("SHOPERY_TEST_DOCUMENTS").map_or(10_000, |count| count.parse().unwrap());
    let tenants: Vec<String> = (0..20)
        .map(|number| ODD_TENANTS.get(number).map_or(format!("tnt_{number}"), |odd| (*odd).to_owned()))
        .collect();
    // Nothing crashes here, so nothing is repeated: an attempt that is slow on a busy machine must not be.
    let plan = Stack::plan().tenants(tenants.iter().map(String::as_str)).env("SHOPERY_ACK_WAIT", "60s");
    let stack = plan.start().await;
    let clients: Vec<_> = tenants.iter().map(|tenant| stack.client(tenant)).collect();
    let webhooks = create_webhooks(&stack, &clients).await;

    let mut random = Random::new(seed());
    let sent: Vec<_> = (0..count).map(|number| make(&mut random, number, tenants.len())).collect();
    let publishers: Vec<_> =
        stream::iter(&tenants).then(|tenant| async { stack.publisher(tenant).await }).collect().await;
    let started = Instant::now();
    publish(&sent, &clients, &publishers).await;
    println!("{count} documents accepted in {:.1?}", started.elapsed());

    let expected: usize = sent.iter().map(|sent| webhooks.values().filter(|to| to.wants(sent)).count()).sum();
    let deadline = Duration::from_secs(300);
    let what = format!("{expected} deliveries");
    stack.merchant.wait_for(&what, deadline, |all| all.len() >= expected).await;
    println!("{expected} deliveries have arrived after {:.1?}", started.elapsed());
    // The history is written after the answer: when it is complete, nothing else is under way.
    for webhook in webhooks.values() {
        let client = &clients[webhook.tenant];
        if webhook.name == "disabled" {
            let due = sent.iter().filter(|sent| sent.tenant == webhook.tenant).count();
            all_are_parked(client, &webhook.id, due).await;
            continue;
        }
        let due = sent.iter().filter(|sent| webhook.wants(sent)).count();
        let history = client.settled(&webhook.id, due, Duration::from_secs(120)).await;
        assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    }
    println!("the history is complete after {:.1?}", started.elapsed());

    let arrivals = stack.merchant.arrivals();
    check(&sent, &webhooks, &tenants, &arrivals);
    verify_samples(&sent, &webhooks, &arrivals).await;
}

/// A disabled webhook gets nothing; all that it subscribes to waits for it.
async fn all_are_parked(client: &Client, webhook: &str, count: usize) {
    let path = format!("/company/webhooks/{webhook}/deliveries");
    wait::until(&format!("{count} parked deliveries"), Duration::from_secs(120), async || {
        let found = client.all(&path).await;
        let parked = found.iter().filter(|delivery| delivery["state"] == "parked").count();
        if (parked, found.len()) == (count, count) { Ok(()) } else { Err(format!("{parked} of {}", found.len())) }
    })
    .await;
}

async fn create_webhooks(stack: &Stack, clients: &[Client]) -> HashMap<String, Webhook> {
    let mut webhooks = HashMap::new();
    for (tenant, client) in clients.iter().enumerate() {
        for (name, events, enabled) in SUBSCRIPTIONS {
            let path = format!("/{tenant}/{name}");
            let body =
                json!({ "name": name, "url": stack.merchant.url(&path), "events": events, "isEnabled": enabled });
            let created = client.post("/company/webhooks", &body).await.expect(201).json();
            let id = created["id"].as_str().unwrap().to_owned();
            let secret = client.secret(&id).await;
            webhooks.insert(path, Webhook { id, secret, tenant, name });
        }
    }
    webhooks
}

impl Webhook {
    fn wants(&self, sent: &Sent) -> bool {
        self.tenant == sent.tenant && wants(self.name, &sent.event_type)
    }
}

fn make(random: &mut Random, number: usize, tenants: usize) -> Sent {
    let document = document(random, number);
    let (_, actions) = ACTIONS.iter().find(|(kind, _)| *kind == document.kind).unwrap();
    let action = random.pick(actions);
    let event_type = format!("{}-{action}", document.kind);
    let event = Event {
        source: "e2e".to_owned(),
        id: if random.once_in(5) { format!("evt {number}: é.*>") } else { format!("evt_{number}") },
        event_type: if random.once_in(10) { format!("{}s-{action}", document.kind) } else { event_type.clone() },
        subject: format!("{}/{}", document.kind, document.id),
        time: random.once_in(3).then(|| "2026-10-25T02:30:00.125+02:00".to_owned()),
        data: document.json.clone(),
        ..Event::order("")
    };
    Sent { tenant: random.below(tenants), document, event, event_type }
}

/// A third one by one, a third in batches, a third over NATS, all at once.
async fn publish(sent: &[Sent], clients: &[Client], publishers: &[Publisher]) {
    let part = |remainder: usize| sent.iter().skip(remainder).step_by(3);
    let one_by_one = stream::iter(part(0)).for_each_concurrent(16, async |sent| {
        let answer = clients[sent.tenant].publish(&sent.event).await.expect(202).json();
        assert_eq!(answer, json!({ "id": sent.event.id, "duplicate": false }));
    });
    let mut batches: Vec<(usize, Vec<Event>)> = Vec::new();
    for tenant in 0..clients.len() {
        let events: Vec<_> = part(1).filter(|sent| sent.tenant == tenant).map(|sent| sent.event.clone()).collect();
        batches.extend(events.chunks(60).map(|chunk| (tenant, chunk.to_vec())));
    }
    let in_batches = stream::iter(&batches).for_each_concurrent(4, async |(tenant, events)| {
        let answer = clients[*tenant].try_publish_batch(events).await.unwrap().expect(202).json();
        let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
        let told: Vec<_> = ids.iter().map(|id| json!({ "id": id, "duplicate": false })).collect();
        assert_eq!(answer, json!({ "ids": ids, "events": told }));
    });
    let over_nats = stream::iter(part(2)).for_each_concurrent(16, async |sent| {
        let answer = publishers[sent.tenant].publish(&sent.event).await.unwrap();
        assert!(answer["seq"].is_u64() && answer["id"] == sent.event.id.as_str(), "{answer}");
    });
    tokio::join!(one_by_one, in_batches, over_nats);
}

fn check(sent: &[Sent], webhooks: &HashMap<String, Webhook>, tenants: &[String], arrivals: &[std::sync::Arc<Arrival>]) {
    let by_id: HashMap<_, _> = sent.iter().map(|sent| (sent.event.id.as_str(), sent)).collect();
    let (mut seen, mut ids) = (HashSet::new(), HashSet::new());
    for arrival in arrivals {
        let (webhook, sent) = (&webhooks[&arrival.path], by_id[arrival.event_id()]);
        assert!(webhook.wants(sent), "{} got {}", arrival.path, sent.event_type);
        assert!(seen.insert((&arrival.path, arrival.event_id())), "{} came twice", arrival.event_id());
        assert!(ids.insert(arrival.webhook_id()), "webhook-id {} came twice", arrival.webhook_id());
        assert_eq!(arrival.body, sent.document.json.as_bytes(), "{}", arrival.event_id());
        check_headers(arrival, webhook, sent, &tenants[sent.tenant]);
    }
    let due: usize = sent.iter().map(|sent| webhooks.values().filter(|to| to.wants(sent)).count()).sum();
    assert_eq!(arrivals.len(), due);
}

/// The headers of a first attempt.
fn check_headers(arrival: &Arrival, webhook: &Webhook, sent: &Sent, tenant: &str) {
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-shopery-secret", &webhook.secret),
        ("x-shopery-event", &sent.event_type),
        ("x-shopery-event-id", &sent.event.id),
        ("x-shopery-webhook-id", &webhook.id),
        ("x-shopery-tenant-id", tenant),
        ("x-shopery-attempt", "1"),
    ] {
        assert_eq!(arrival.decoded(name), value, "{name}");
    }
    assert!(arrival.header("user-agent").starts_with("Shopery-Webhooks/"), "{:?}", arrival.headers);
    assert!(arrival.webhook_id().starts_with("dlv_"), "{}", arrival.webhook_id());
    assert!(arrival.header("webhook-signature").starts_with("v1,"), "{:?}", arrival.headers);
    let timestamp: i64 = arrival.header("webhook-timestamp").parse().unwrap();
    let age = arrival.clock.unix_timestamp() - timestamp;
    assert!((-1..=10).contains(&age), "webhook-timestamp is {age} s old");
    let triggered = OffsetDateTime::parse(arrival.header("x-shopery-triggered-at"), &Rfc3339).unwrap();
    match &sent.event.time {
        Some(time) => assert_eq!(triggered, OffsetDateTime::parse(time, &Rfc3339).unwrap()),
        None => assert!((arrival.clock - triggered).abs() < time::Duration::minutes(5), "triggered at {triggered}"),
    }
}

/// Some of every kind pass with the merchant's secret, and none does after any change.
async fn verify_samples(sent: &[Sent], webhooks: &HashMap<String, Webhook>, arrivals: &[std::sync::Arc<Arrival>]) {
    let kinds: HashMap<_, _> = sent.iter().map(|sent| (sent.event.id.as_str(), sent.document.kind)).collect();
    for kind in ["order", "product", "customer"] {
        let of_kind = arrivals.iter().filter(|arrival| kinds[arrival.event_id()] == kind);
        let sample: Vec<_> =
            of_kind.step_by(7).take(150).map(|arrival| Message::of(arrival, &webhooks[&arrival.path].secret)).collect();
        assert!(sample.len() >= 100 || arrivals.len() < 5000, "only {} of {kind}", sample.len());
        let refused: Vec<_> = verify(&sample).await.into_iter().filter_map(Result::err).collect();
        assert!(refused.is_empty(), "{refused:?}");

        let tampered: Vec<_> = sample.iter().take(10).flat_map(tamper).collect();
        assert!(verify(&tampered).await.iter().all(Result::is_err), "a changed message passed");
    }
}

fn tamper(message: &Message) -> [Message; 4] {
    let mut longer = message.clone();
    longer.body.push(b' ');
    let timestamp: i64 = message.headers["webhook-timestamp"].parse().unwrap();
    let other_secret = Message { secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(), ..message.clone() };
    [
        longer,
        message.clone().with_header("webhook-id", "dlv_01HA4XCG60CT4G3EWF4CKYM1MF"),
        message.clone().with_header("webhook-timestamp", &(timestamp - 1).to_string()),
        other_secret,
    ]
}
