//! Whatever publishers, endpoints, owners of webhooks and crashes do, nothing breaks a promise of services/guarantees.md: random
//! cases, many side by side, against the reference in `e2e/src/reference`.
//!
//! `SHOPERY_TEST_CASES` says how many, `SHOPERY_TEST_SEED` repeats them, and `SHOPERY_TEST_CASE` plays one of them alone.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shopery_e2e::client::{send, time};
use shopery_e2e::documents::{Random, seed};
use shopery_e2e::reference::{self, Change, Clock, Planned, Row, Scenario, Seen, State, States, Step};
use shopery_e2e::{Client, Event, Merchant, Process, Publisher, Service, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Semaphore;

/// Without `SHOPERY_TEST_CASES`: what a run of the whole suite has time for.
const CASES: usize = 2000;
/// Of all cases, one in so many is played while services are killed.
const DISTURBED: usize = 4;
/// One of this number of faults is a kill of NATS: the services need longer to recover from that.
const NATS_KILLED: usize = 4;
/// One case in so many publishes over NATS too.
const OVER_NATS: usize = 8;
const AT_ONCE: usize = 32;
/// What has come to no end by then hangs.
const PATIENCE: Duration = Duration::from_secs(180);
/// Maximum time that the API waits for routers and deliverers to apply a change. Milliseconds.
const WAITED_FOR: i64 = 2000;
/// Time after which a service that the API did not wait for has applied the change. Milliseconds.
const APPLIED_LATER: i64 = 30_000;
/// Shown of what is wrong.
const SHOWN: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_no_promise_is_broken() {
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<usize>().unwrap());
    let seed = seed();
    let cases = variable("SHOPERY_TEST_CASES").unwrap_or(CASES);
    let (calm, disturbed) = match variable("SHOPERY_TEST_CASE") {
        Some(one) => (one..one + 1, 0..0),
        None => (0..cases - cases / DISTURBED, cases - cases / DISTURBED..cases),
    };
    let tenants: Vec<_> = (calm.start..calm.end.max(disturbed.end)).map(|number| format!("model_{number}")).collect();
    let with_nats = tenants.iter().step_by(OVER_NATS).map(String::as_str);
    let plan = Stack::plan()
        .tenants(with_nats)
        .env("SHOPERY_RETRY_SCHEDULE", "400ms,1s,2s,3s")
        .env("SHOPERY_PROBE_FIRST", "300ms")
        .env("SHOPERY_PROBE_LONGEST", "1s")
        .env("SHOPERY_SWEEP_INTERVAL", "1s");
    let mut stack = ["API_TENANT", "API_CLIENT"]
        .iter()
        .fold(plan, |plan, limit| plan.env(&format!("SHOPERY_{limit}_LIMIT"), "off"))
        .start()
        .await;
    let merchant = Arc::new(Merchant::start(&stack.authority).await);
    // Two, as in production.
    let mut second = stack.replica(Service::Router, 2).await;

    let mut tally = Tally::default();
    let began = Instant::now();
    let active = AtomicUsize::new(calm.len());
    let played = play(make(&stack, &merchant, seed, calm).await, &active).await;
    tally.add(&look(&stack, &merchant, played, false).await);
    println!("{} cases in {:.1?}", tally.cases, began.elapsed());

    if !disturbed.is_empty() {
        let began = Instant::now();
        let cases = make(&stack, &merchant, seed, disturbed).await;
        active.store(cases.len(), Ordering::Relaxed);
        let strikes = strike(&mut stack, &mut second, &active, Random::new(seed));
        let (played, faults) = tokio::join!(play(cases, &active), strikes);
        tally.add(&look(&stack, &merchant, played, true).await);
        println!("{} cases after {faults} faults, in {:.1?} more", tally.cases, began.elapsed());
    }
    second.kill().await;
    println!("{:?}; {} requests", tally.ends, tally.arrivals);
    let wrong = &tally.wrong;
    if !wrong.is_empty() {
        // Kept, since the test fails.
        std::fs::write(stack.folder().join("wrong.txt"), tally.report).unwrap();
    }
    assert!(wrong.is_empty(), "{} are wrong, such as\n{}", wrong.len(), wrong[..wrong.len().min(SHOWN)].join("\n"));
    // Otherwise too little was tried.
    let has = |end: &str| tally.ends.get(end).is_some_and(|count| *count > 0);
    let ends = ["delivered", "failed", "filtered", "duplicate", "superseded", "discarded"];
    assert!(tally.cases < 100 || ends.into_iter().all(has), "{:?}", tally.ends);
}

#[derive(Default)]
struct Tally {
    cases: usize,
    arrivals: usize,
    ends: BTreeMap<String, usize>,
    wrong: Vec<String>,
    /// All that was seen of the cases in which something is wrong.
    report: String,
}

impl Tally {
    fn add(&mut self, seen: &[Seen]) {
        for case in seen {
            self.cases += 1;
            for webhook in &case.webhooks {
                self.arrivals += webhook.arrivals.len();
                for row in &webhook.rows {
                    *self.ends.entry(row.state.clone()).or_default() += 1;
                }
            }
            let wrong = reference::check(case);
            if !wrong.is_empty() {
                let _ = writeln!(self.report, "{}\n{wrong:#?}\n{case}", case.tenant);
            }
            self.wrong.extend(wrong.into_iter().map(|what| format!("{}: {what}", case.tenant)));
        }
    }
}

/// Makes all webhooks: before services are killed, since a crash between a POST and its answer would leave a webhook that nobody
/// knows of.
async fn make(stack: &Stack, merchant: &Arc<Merchant>, seed: u64, numbers: Range<usize>) -> Vec<Case> {
    let (places, client) = (Semaphore::new(AT_ONCE), stack.client("model"));
    let made = numbers.map(async |number| {
        let _place = places.acquire().await.unwrap();
        let has_nats = stack.has_publisher(&format!("model_{number}"));
        let scenario = Scenario::new(seed, number, has_nats);
        let client = client.of_tenant(&scenario.tenant);
        let publisher = if has_nats { Some(stack.publisher(&scenario.tenant).await) } else { None };
        Case::make(client, publisher, merchant.clone(), scenario).await
    });
    join_all(made).await
}

/// Plays cases side by side, until all of them have come to rest. `active` counts those that have not done all yet.
async fn play(cases: Vec<Case>, active: &AtomicUsize) -> Vec<Case> {
    let places = Semaphore::new(AT_ONCE);
    let played = cases.into_iter().map(async |mut case| {
        let place = places.acquire().await.unwrap();
        case.play().await;
        drop(place);
        active.fetch_sub(1, Ordering::Relaxed);
        case.come_to_rest().await;
        case
    });
    join_all(played).await
}

struct Case {
    client: Client,
    publisher: Option<Publisher>,
    merchant: Arc<Merchant>,
    scenario: Scenario,
    webhooks: Vec<Made>,
    /// By source and id.
    published: HashMap<(&'static str, String), Planned>,
    /// What has not come to rest in time.
    hangs: Option<String>,
}

struct Made {
    id: String,
    patched: Vec<reference::Patched>,
}

/// The endpoint of a webhook: a path for each URL that it has in turn.
fn path(tenant: &str, webhook: usize, url: usize) -> String {
    format!("/{tenant}/{webhook}/{url}")
}

fn now() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap()
}

fn millis(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap()
}

impl Case {
    async fn make(client: Client, publisher: Option<Publisher>, merchant: Arc<Merchant>, scenario: Scenario) -> Self {
        let mut webhooks = Vec::new();
        for (place, (rules, behaviour)) in scenario.webhooks.iter().enumerate() {
            // `*` would also have what is said of the webhooks themselves, which nobody here has planned.
            let events = if rules.events.is_empty() {
                vec!["order-*", "product-*", "customer-*", "inventory-*"]
            } else {
                rules.events.clone()
            };
            let path = |url| path(&scenario.tenant, place, url);
            (0..2).for_each(|url| merchant.behave(&path(url), behaviour.clone()));
            let id = client.create_webhook_with(&merchant.url(&path(0)), &events, rules.json()).await;
            webhooks.push(Made { id, patched: Vec::new() });
        }
        Self { client, publisher, merchant, scenario, webhooks, published: HashMap::new(), hangs: None }
    }

    async fn play(&mut self) {
        for step in self.scenario.steps.clone() {
            match step {
                Step::Publish { events, over_nats } => self.publish(events, over_nats).await,
                Step::Patch { webhook, change } => self.patch(webhook, change).await,
                Step::Behave { webhook, behaviour } => {
                    for url in 0..2 {
                        self.merchant.behave(&path(&self.scenario.tenant, webhook, url), behaviour.clone());
                    }
                }
                // Nothing rests on it: it is what makes one case differ from another.
                Step::Pause(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            }
        }
    }

    /// As publishers do: again, until it is acknowledged.
    async fn publish(&mut self, planned: Vec<Planned>, over_nats: bool) {
        let events: Vec<_> = planned.iter().map(stamped).collect();
        for event in planned {
            self.published.entry((event.source, event.id.clone())).or_insert(event);
        }
        let what = format!("{} to be acknowledged", events[0].id);
        match self.publisher.as_ref().filter(|_| over_nats) {
            Some(publisher) => {
                for event in &events {
                    wait::until(&what, PATIENCE, async || match publisher.publish(event).await {
                        Ok(reply) if reply["seq"].is_u64() => Ok(()),
                        other => Err(format!("{other:?}")),
                    })
                    .await;
                }
            }
            None => {
                wait::until(&what, PATIENCE, async || {
                    let reply = match events.as_slice() {
                        [one] => self.client.try_publish(one).await,
                        all => self.client.try_publish_batch(all).await,
                    };
                    match reply {
                        Ok(reply) if reply.status == 202 => Ok(()),
                        Ok(reply) if reply.status != 503 => panic!("{}: {}", reply.status, reply.text()),
                        Ok(reply) => Err(reply.text()),
                        Err(error) => Err(error.to_string()),
                    }
                })
                .await;
            }
        }
    }

    async fn patch(&mut self, place: usize, change: Change) {
        let asked = now();
        let made = &mut self.webhooks[place];
        let url = |number| self.merchant.url(&path(&self.scenario.tenant, place, number));
        let path = format!("/company/webhooks/{}", made.id);
        // Asked for again while NATS is away: each of them can be.
        wait::until("a webhook to be changed", PATIENCE, async || {
            let request = match change.patch(url) {
                Some(body) => self.client.request(Method::PATCH, &path).json(&body),
                None => self.client.request(Method::POST, &format!("{path}/rotate-secret")).json(&json!({})),
            };
            match send(request).await {
                Ok(reply) if reply.status == 200 => Ok(()),
                Ok(reply) if reply.status < 500 => panic!("{change:?}: {}: {}", reply.status, reply.text()),
                Ok(reply) => Err(reply.text()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        let mut answered = now();
        if answered - asked >= WAITED_FOR {
            // The API did not wait for every service, and a late service applies the change later.
            answered += APPLIED_LATER;
        }
        made.patched.push(reference::Patched { change, asked, answered });
    }

    /// Waits until every delivery is known and at its end.
    async fn come_to_rest(&mut self) {
        let due = |event: &Planned| {
            let rules = self.scenario.webhooks.iter().map(|(rules, _)| rules);
            rules.filter(|rules| rules.subscribes_to(event.event_type)).count()
        };
        let due: usize = self.published.values().map(due).sum();
        let rest = wait::attempt("it to come to rest", PATIENCE, async || {
            let all = self.client.all("/company/deliveries").await;
            let is_open = |row: &&Value| row["state"] == "pending" || row["state"] == "parked";
            let open: Vec<_> = all.iter().filter(is_open).collect();
            match (all.len(), open.first()) {
                (count, None) if count >= due => Ok(()),
                (count, first) => Err(format!("{count} of {due}, {} of them open, such as {first:?}", open.len())),
            }
        });
        self.hangs = rest.await.err();
    }
}

/// An event with the time of its publisher's clock now.
fn stamped(planned: &Planned) -> Event {
    let time = match planned.clock {
        Clock::Silent => None,
        Clock::Off(millis) => Some(OffsetDateTime::now_utc() + time::Duration::milliseconds(millis)),
    };
    Event {
        source: planned.source.to_owned(),
        id: planned.id.clone(),
        event_type: planned.event_type.to_owned(),
        subject: planned.resource.clone(),
        time: time.map(|time| time.format(&Rfc3339).unwrap()),
        extensions: Vec::new(),
        data: planned.data.json(),
    }
}

/// Kills a router, the deliverer or NATS now and then, while there are cases left that play.
async fn strike(stack: &mut Stack, second: &mut Process, active: &AtomicUsize, mut random: Random) -> usize {
    let mut faults = 0;
    while active.load(Ordering::Relaxed) > 0 {
        // Not for correctness: so much comes between two faults.
        tokio::time::sleep(Duration::from_millis(1000 + random.below(2500) as u64)).await;
        match (faults, random.below(3)) {
            (faults, _) if faults % NATS_KILLED == 1 => {
                stack.kill_nats().await;
                stack.start_nats().await;
            }
            (_, 0) => {
                stack.kill(Service::Router).await;
                stack.run(Service::Router).await;
            }
            (_, 1) => {
                second.kill().await;
                *second = stack.replica(Service::Router, 2).await;
            }
            _ => {
                stack.kill(Service::Deliverer).await;
                stack.run(Service::Deliverer).await;
            }
        }
        faults += 1;
    }
    faults
}

/// What came of it all, once nothing moves any more.
async fn look(stack: &Stack, merchant: &Merchant, played: Vec<Case>, is_disturbed: bool) -> Vec<Seen> {
    let hangs: Vec<_> = played.iter().filter_map(|case| Some((&case.scenario.tenant, case.hangs.as_ref()?))).collect();
    println!("{} hang: {hangs:?}", hangs.len());
    if hangs.is_empty() {
        // A repeat after a crash may be under way still.
        stack.at_rest(PATIENCE).await;
    }
    let mut arrivals = merchant.arrivals_by_path();
    let (instant, clock) = (Instant::now(), OffsetDateTime::now_utc());
    // By one clock that never goes back, in milliseconds since 1970.
    let moment = |at: Instant| millis(clock) as f64 - instant.duration_since(at).as_secs_f64() * 1000.0;
    let mut all = Vec::new();
    for case in played {
        let tenant = case.scenario.tenant.clone();
        let mut webhooks = Vec::new();
        for (place, (made, (rules, _))) in case.webhooks.iter().zip(&case.scenario.webhooks).enumerate() {
            let rows = case.client.all(&format!("/company/webhooks/{}/deliveries", made.id)).await;
            let came = (0..2).flat_map(|url| arrivals.remove(&path(&tenant, place, url)).unwrap_or_default());
            let mut came: Vec<_> = came.map(|arrival| seen(&arrival, moment)).collect();
            came.sort_by(|a, b| a.arrived.total_cmp(&b.arrived));
            webhooks.push(reference::Webhook {
                id: format!("{} at /{place}", made.id),
                rules: rules.clone(),
                patched: made.patched.clone(),
                rows: rows.iter().map(row).collect(),
                arrivals: came,
            });
        }
        let states = states(&case, &webhooks).await;
        all.push(Seen { tenant, states, webhooks, is_disturbed });
    }
    all
}

/// The events in the order in which they were stored, as the list of events has it.
async fn states(case: &Case, webhooks: &[reference::Webhook]) -> BTreeMap<String, States> {
    // The first webhook is told of all events; when one was stored is when its delivery was made.
    let stored: HashMap<_, _> =
        webhooks[0].rows.iter().map(|row| ((row.resource.as_str(), row.event.as_str()), row.created)).collect();
    let listed = case.client.all("/company/events").await;
    assert_eq!(listed.len(), case.published.len(), "{}: {listed:?}", case.scenario.tenant);
    let mut states: BTreeMap<String, Vec<State>> = BTreeMap::new();
    for (place, event) in listed.iter().enumerate() {
        let (source, id) = (event["source"].as_str().unwrap(), event["id"].as_str().unwrap());
        let planned = case.published.iter().find(|((s, i), _)| *s == source && i == id);
        let (_, planned) = planned.unwrap_or_else(|| panic!("nobody has published {event}"));
        assert_eq!((&event["type"], &event["subject"]), (&json!(planned.event_type), &json!(planned.resource)));
        assert_eq!(event["data"], serde_json::from_str::<Value>(&planned.data.json()).unwrap());
        states.entry(planned.resource.clone()).or_default().push(State {
            source: source.to_owned(),
            id: id.to_owned(),
            event_type: planned.event_type.to_owned(),
            resource: planned.resource.clone(),
            data: planned.data.clone(),
            time: millis(time(&event["time"])),
            stored: *stored.get(&(planned.resource.as_str(), id)).unwrap_or_else(|| panic!("no delivery of {event}")),
            place,
        });
    }
    states.into_iter().map(|(resource, states)| (resource, States::new(states))).collect()
}

fn row(delivery: &Value) -> Row {
    let text = |name: &str| delivery[name].as_str().unwrap_or_default().to_owned();
    Row {
        id: text("id"),
        event: text("eventId"),
        event_type: text("event"),
        resource: text("resource"),
        state: text("state"),
        attempts: delivery["attemptCount"].as_i64().unwrap(),
        reason: delivery["error"]["reason"].as_str().unwrap_or_default().to_owned(),
        carried_by: delivery["carriedBy"].as_str().map(str::to_owned),
        created: millis(time(&delivery["createdAt"])),
        updated: millis(time(&delivery["updatedAt"])),
    }
}

fn seen(arrival: &shopery_e2e::Arrival, moment: impl Fn(Instant) -> f64) -> reference::Arrival {
    let text = |name: &str| arrival.header(name).to_owned();
    let at = OffsetDateTime::parse(arrival.header("x-shopery-payload-at"), &Rfc3339).unwrap();
    reference::Arrival {
        delivery: text("webhook-id"),
        event: text("x-shopery-event-id"),
        source: text("x-shopery-event-source"),
        event_type: text("x-shopery-event"),
        payload_event: text("x-shopery-payload-event-id"),
        payload_at: millis(at),
        sequence: text("x-shopery-sequence"),
        attempt: arrival.attempt(),
        began: arrival.header("webhook-timestamp").parse::<i64>().unwrap() * 1000,
        arrived: moment(arrival.at),
        answered: arrival.answered().map(|(status, at)| (status, moment(at))),
        body: String::from_utf8(arrival.body.to_vec()).unwrap(),
    }
}
