//! The books balance: what was published, times the webhooks that match, is what the history shows, state by state, what
//! the counters count, and what the endpoints received. `SHOPERY_TEST_SEED` repeats a run.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::documents::{Random, seed};
use shopery_e2e::{Behaviour, Client, Event, Service, Stack, wait};

const SOON: Duration = Duration::from_secs(60);
/// In each phase, of each tenant. Webhooks change between the phases.
const EVENTS: usize = 250;
const TENANTS: [&str; 3] = ["tnt_a", "tnt_b", "tnt_c"];
const KINDS: [&str; 3] = ["order", "product", "customer"];

/// What becomes of the events that a webhook is to be sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Delivered,
    /// Given up, or parked until it expired.
    Failed,
    /// Delivered, or carried by another delivery: when each event comes decides about it.
    Gathered,
}

struct Hook {
    name: &'static str,
    tenant: usize,
    id: String,
    events: &'static str,
    /// The phases in which it takes events.
    phases: std::ops::RangeInclusive<usize>,
    end: End,
    /// The books: how many events should end in which state, and which events those are.
    expected: BTreeMap<&'static str, usize>,
    matching: HashSet<String>,
    /// The last payload of each resource, and the event types that have told it.
    last: HashMap<String, (String, HashSet<String>)>,
}

/// An event, and the parts of it that rules look at.
struct Made {
    event: Event,
    total: usize,
}

fn make(random: &mut Random, tenant: usize, phase: usize, number: usize) -> Made {
    let kind = random.pick(&KINDS);
    let action = random.pick(&["created", "updated", "updated"]);
    let (resource, total) = (format!("{kind}_{}", random.below(12)), 25 * random.below(4));
    let mut event = Event::new(&format!("{kind}-{action}"), &resource);
    event.id = format!("evt_{tenant}_{phase}_{number}");
    event.subject = format!("{kind}/{resource}");
    let note = random.below(2);
    Made { event: event.with_data(format!(r#"{{"id":"{resource}","total":{total},"note":{note}}}"#)), total }
}

impl Hook {
    fn takes(&self, made: &Made, phase: usize) -> bool {
        let kind = self.events.trim_end_matches('*');
        self.phases.contains(&phase) && made.event.event_type.starts_with(kind)
    }

    /// Enters an event into the books, as the documentation has it.
    fn enter(&mut self, made: &Made, phase: usize) {
        if !self.takes(made, phase) {
            return;
        }
        self.matching.insert(made.event.id.clone());
        match self.name {
            "filtered" if made.total <= 50 => return self.count("filtered"),
            // Of a few fields alone a payload is dropped.
            "fields" => {}
            _ => return self.count("sent"),
        }
        let payload = format!("{}", made.total);
        let (last, types) = self.last.entry(made.event.subject.clone()).or_default();
        if *last != payload {
            (*last, *types) = (payload, HashSet::new());
        }
        let is_new = types.insert(made.event.event_type.clone());
        self.count(if is_new { "sent" } else { "duplicate" });
    }

    fn count(&mut self, state: &'static str) {
        *self.expected.entry(state).or_default() += 1;
    }
}

/// `sent` stands for any state of an event that a job was made for.
fn book(state: &str) -> &'static str {
    match state {
        "filtered" => "filtered",
        "duplicate" => "duplicate",
        "superseded" => "superseded",
        _ => "sent",
    }
}

struct Books<'a> {
    stack: &'a Stack,
    clients: Vec<Client>,
    hooks: Vec<Hook>,
    random: Random,
    /// Events that EVENTS has, and those that ingest has accepted, repeats included.
    stored: usize,
    accepted: usize,
}

impl Books<'_> {
    async fn hook(&mut self, name: &'static str, tenant: usize, events: &'static str, end: End, rules: Value) {
        let url = self.stack.merchant.url(&format!("/{name}"));
        // All that is published here; `*` would also have what is said of the webhooks themselves.
        let all = KINDS.map(|kind| format!("{kind}-*"));
        let patterns = if events == "*" { all.iter().map(String::as_str).collect() } else { vec![events] };
        let id = self.clients[tenant].create_webhook_with(&url, &patterns, rules).await;
        let phases = if name == "late" { 2..=2 } else { 1..=2 };
        let (expected, matching, last) = Default::default();
        self.hooks.push(Hook { name, tenant, id, events, phases, end, expected, matching, last });
    }

    fn named(&mut self, name: &str) -> &mut Hook {
        self.hooks.iter_mut().find(|hook| hook.name == name).unwrap()
    }

    /// Publishes a tenant's events one after the other, some of them twice.
    async fn phase(&mut self, phase: usize) {
        for number in 0..EVENTS {
            for tenant in 0..TENANTS.len() {
                let made = make(&mut self.random, tenant, phase, number);
                for _ in 0..if self.random.once_in(10) { 2 } else { 1 } {
                    self.clients[tenant].publish(&made.event).await.expect(202);
                    self.accepted += 1;
                }
                self.stored += 1;
                self.hooks.iter_mut().filter(|hook| hook.tenant == tenant).for_each(|hook| hook.enter(&made, phase));
            }
        }
        wait::until("all events to be routed", SOON, async || match routed(self.stack).await {
            count if count == self.stored as f64 => Ok(()),
            count => Err(format!("{count} of {}", self.stored)),
        })
        .await;
    }

    /// Waits until the router knows what was changed: CONFIG tells the changes in their order.
    async fn known(&mut self) {
        let client = self.stack.client("tnt_marker");
        let url = self.stack.merchant.url("/marker");
        let marker = client.create_webhook(&url, &["order-*"]).await;
        wait::until("a webhook to be known", SOON, async || {
            client.publish(&Event::order(&format!("marker_{}", self.stored))).await.expect(202);
            (self.stored, self.accepted) = (self.stored + 1, self.accepted + 1);
            let known = client.all(&format!("/company/webhooks/{marker}/deliveries")).await.len();
            if known > 0 { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
    }
}

/// Events that the router is done with: one that is put off is looked at twice.
async fn routed(stack: &Stack) -> f64 {
    let router = stack.metrics(Service::Router).await;
    router.sum("shopery_events_routed_total") - router.sum("shopery_events_deferred_total")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_times_what_matches_is_in_the_history_and_in_the_counters() {
    // No tenant is beyond its rate, so events are routed in their order and each state is known beforehand.
    balanced(1_000_000, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_balance_too_when_most_events_are_put_off() {
    balanced(20, false).await;
}

/// Events beyond `rate` jobs a second of a tenant are put off; those behind them may go ahead. `in_order`: there are none.
async fn balanced(rate: usize, in_order: bool) {
    let plan = Stack::plan()
        .env("SHOPERY_TENANT_RATE", rate.to_string())
        .env("SHOPERY_TENANT_BURST", rate.to_string())
        // Nothing is repeated because it took long.
        .env("SHOPERY_ACK_WAIT", "60s")
        .env("SHOPERY_RETRY_SCHEDULE", "300ms")
        .env("SHOPERY_PROBE_FIRST", "300ms")
        .env("SHOPERY_PROBE_LONGEST", "1s")
        .env("SHOPERY_SWEEP_INTERVAL", "1s")
        .env("SHOPERY_PARKED_MAX_AGE", "10s");
    let stack = plan.start().await;
    for path in ["/broken", "/disabled", "/deleted"] {
        stack.merchant.behave(path, Behaviour::Answer(500));
    }
    stack.merchant.behave("/silent", Behaviour::Hang);
    stack.merchant.behave("/slow", Behaviour::Slow(Duration::from_millis(20)));
    let clients = TENANTS.map(|tenant| stack.client(tenant)).into();
    let random = Random::new(seed());
    let mut books = Books { stack: &stack, clients, hooks: vec![], random, stored: 0, accepted: 0 };
    // With the latest state, a delivery may be filtered at its attempt too.
    let filter = json!({ "filter": { "total": [{ "numeric": [">", 50] }] }, "payload": "original" });
    for (name, tenant, events, end, rules) in [
        ("plain", 0, "*", End::Delivered, json!({})),
        ("filtered", 0, "order-*", End::Delivered, filter),
        ("fields", 0, "order-*", End::Delivered, json!({ "fields": ["total"], "payload": "original" })),
        ("repeating", 0, "*", End::Delivered, json!({ "fields": ["id"], "dropDuplicates": false })),
        ("slow", 0, "product-*", End::Delivered, json!({})),
        ("healthy", 1, "*", End::Delivered, json!({})),
        ("broken", 1, "*", End::Failed, json!({})),
        ("silent", 1, "customer-*", End::Failed, json!({})),
        ("disabled", 1, "*", End::Failed, json!({})),
        ("deleted", 1, "*", End::Failed, json!({})),
        // Rules for which the router looks at other states first: of a tenant of their own.
        ("debounced", 2, "*", End::Gathered, json!({ "debounce": "1s" })),
        ("changed", 2, "*", End::Gathered, json!({ "changed": ["total"] })),
    ] {
        books.hook(name, tenant, events, end, rules).await;
    }
    books.known().await;
    books.phase(1).await;

    let (disabled, deleted) = (books.named("disabled").id.clone(), books.named("deleted").id.clone());
    let path = |id: &str| format!("/company/webhooks/{id}");
    books.clients[1].patch(&path(&disabled), &json!({ "isEnabled": false })).await.expect(200);
    books.clients[1].delete(&path(&deleted)).await.expect(204);
    // What a disabled webhook gets is parked, and ends as expired.
    books.named("deleted").phases = 1..=1;
    books.hook("late", 1, "*", End::Delivered, json!({})).await;
    books.known().await;
    books.phase(2).await;
    stack.at_rest(Duration::from_secs(120)).await;
    balance(&stack, &books, in_order).await;
}

async fn balance(stack: &Stack, books: &Books<'_>, in_order: bool) {
    let mut totals: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut delivered = 0;
    for hook in &books.hooks {
        let client = &books.clients[hook.tenant];
        let history = client.all(&format!("/company/webhooks/{}/deliveries", hook.id)).await;
        let events: HashSet<_> = history.iter().map(|one| one["eventId"].as_str().unwrap().to_owned()).collect();
        assert_eq!((history.len(), &events), (hook.matching.len(), &hook.matching), "{}", hook.name);
        let mut found: BTreeMap<&'static str, usize> = BTreeMap::new();
        for one in &history {
            let state = one["state"].as_str().unwrap();
            let is_right = match (book(state), hook.end) {
                ("sent", End::Delivered | End::Gathered) => state == "delivered",
                ("sent", End::Failed) => state == "failed" || state == "expired",
                ("superseded", end) => end == End::Gathered,
                _ => true,
            };
            assert!(is_right, "{}: {one}", hook.name);
            *found.entry(book(state)).or_default() += 1;
            *totals.entry(book(state)).or_default() += 1;
            delivered += usize::from(state == "delivered");
        }
        println!("{}: {found:?}", hook.name);
        if hook.end != End::Gathered && in_order {
            assert_eq!(found, hook.expected, "{}", hook.name);
        }
        // Every delivery is at its endpoint once; what failed was tried more than once.
        let arrived = stack.merchant.arrivals_at(&format!("/{}", hook.name));
        if hook.end != End::Failed {
            assert_eq!(arrived.len(), found.get("sent").copied().unwrap_or_default(), "{}", hook.name);
        }
    }
    let markers = stack.client("tnt_marker").all("/company/deliveries").await;
    assert!(markers.iter().all(|one| one["state"] == "delivered"), "{markers:?}");
    *totals.entry("sent").or_default() += markers.len();
    delivered += markers.len();
    for (number, client) in books.clients.iter().enumerate() {
        let matching: usize =
            books.hooks.iter().filter(|hook| hook.tenant == number).map(|hook| hook.matching.len()).sum();
        assert_eq!(client.all("/company/deliveries").await.len(), matching, "{}", client.tenant);
    }

    let ingest = stack.metrics(Service::Ingest).await;
    assert_eq!(ingest.sum("shopery_events_accepted_total"), books.accepted as f64);
    let router = stack.metrics(Service::Router).await;
    assert_eq!(routed(stack).await, books.stored as f64);
    assert_eq!(router.sum("shopery_events_deferred_total") > 0.0, !in_order);
    assert_eq!(router.sum("shopery_jobs_published_total"), totals["sent"] as f64);
    for (state, count) in &totals {
        let series = format!("shopery_deliveries_decided_total{{decision=\"{state}\"}}");
        assert_eq!(router.value(&series), Some(*count as f64), "{series}");
    }
    let deliverer = stack.metrics(Service::Deliverer).await;
    let delivered_attempts = deliverer.value("shopery_delivery_attempts_total{result=\"delivered\"}");
    assert_eq!(delivered_attempts, Some(delivered as f64));
    assert_eq!(deliverer.sum("shopery_delivery_attempts_total"), stack.merchant.count() as f64);
}
