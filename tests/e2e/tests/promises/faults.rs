//! Whatever is killed, and whenever, every acknowledged event comes to one end at every webhook that it matches.
//!
//! `SHOPERY_TEST_FAULT_SECONDS` says for how long things are killed, `SHOPERY_TEST_SEED` repeats the choice of them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::json;
use shopery_e2e::documents::{Random, seed};
use shopery_e2e::{Behaviour, Burst, Service, Stack};

/// What came to no end by then was lost.
const PATIENCE: Duration = Duration::from_secs(180);

/// What happens to the installation.
#[derive(Debug, Clone, Copy)]
enum Fault {
    One(Service),
    Two(Service, Service),
    /// Killed again as soon as it has been started.
    Twice(Service),
    Nats,
    NatsAnd(Service),
}

impl Fault {
    fn choose(random: &mut Random) -> Self {
        let service = Service::ALL[random.below(Service::ALL.len())];
        match random.below(8) {
            0..4 => Self::One(service),
            4 => Self::Two(
                service,
                Service::ALL[(service as usize + 1 + random.below(Service::ALL.len() - 1)) % Service::ALL.len()],
            ),
            5 => Self::Twice(service),
            6 => Self::Nats,
            _ => Self::NatsAnd(service),
        }
    }

    fn spares_ingest(self) -> bool {
        match self {
            Self::One(service) | Self::Twice(service) => service != Service::Ingest,
            Self::Two(one, other) => one != Service::Ingest && other != Service::Ingest,
            Self::Nats | Self::NatsAnd(_) => false,
        }
    }

    async fn strike(self, stack: &mut Stack, burst: &Burst, random: &mut Random) {
        match self {
            Self::One(service) | Self::Twice(service) => stack.kill(service).await,
            Self::Two(one, other) => {
                stack.kill(one).await;
                stack.kill(other).await;
            }
            Self::Nats => stack.kill_nats().await,
            Self::NatsAnd(service) => {
                stack.kill(service).await;
                stack.kill_nats().await;
            }
        }
        // How long it is away, in what publishers do meanwhile. Without NATS they are told only after five seconds.
        match self {
            Self::Nats | Self::NatsAnd(_) => burst.setbacks(1 + random.below(6)).await,
            _ if self.spares_ingest() => burst.progress(1 + random.below(200)).await,
            _ => burst.setbacks(1 + random.below(40)).await,
        }
        match self {
            Self::One(service) => stack.run(service).await,
            Self::Two(one, other) => {
                stack.run(one).await;
                stack.run(other).await;
            }
            Self::Twice(service) => {
                stack.spawn(service);
                if self.spares_ingest() {
                    burst.progress(1 + random.below(30)).await;
                }
                stack.kill(service).await;
                stack.run(service).await;
            }
            Self::Nats => stack.start_nats().await,
            Self::NatsAnd(service) => {
                stack.start_nats().await;
                stack.run(service).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_leave_every_acknowledged_event_with_one_end_at_every_webhook() {
    let seconds = std::env::var("SHOPERY_TEST_FAULT_SECONDS").map_or(20, |text| text.parse().unwrap());
    let mut random = Random::new(seed());
    let plan = Stack::plan()
        .env("SHOPERY_PROBE_FIRST", "300ms")
        .env("SHOPERY_PROBE_LONGEST", "1s")
        .env("SHOPERY_SWEEP_INTERVAL", "1s");
    let mut stack = plan.start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/slow", Behaviour::Slow(Duration::from_millis(50)));
    stack.merchant.behave("/shaky", Behaviour::FailFirst { times: 60, status: 500 });
    stack.merchant.behave("/down", Behaviour::Answer(500));
    let mut webhooks = Vec::new();
    for path in ["/quick", "/slow", "/shaky", "/down"] {
        webhooks.push((path, client.create_webhook(&stack.merchant.url(path), &["*"]).await));
    }
    // It lets pass by what comes over NATS.
    let rules = json!({ "filter": { "id": [{ "prefix": "fault_h" }] } });
    webhooks.push(("/picky", client.create_webhook_with(&stack.merchant.url("/picky"), &["*"], rules).await));
    let publisher = stack.publisher("tnt_a").await;
    let burst = Burst::start("fault", &client, 4, &publisher, 2);

    let (started, mut faults) = (Instant::now(), 0);
    burst.progress(100).await;
    while started.elapsed() < Duration::from_secs(seconds) {
        let fault = Fault::choose(&mut random);
        println!("{:.1?}, {} events: {fault:?}", started.elapsed(), burst.accepted());
        fault.strike(&mut stack, &burst, &mut random).await;
        burst.progress(1 + random.below(150)).await;
        faults += 1;
    }
    let refusals = burst.refusals();
    let accepted = burst.end().await;
    stack.merchant.behave("/down", Behaviour::Answer(200));
    stack.at_rest(PATIENCE).await;

    let arrivals = stack.merchant.arrivals();
    let arrived: HashSet<_> =
        arrivals.iter().map(|one| (one.path.as_str(), one.webhook_id(), one.event_id())).collect();
    let mut ids = HashSet::new();
    for (path, webhook) in &webhooks {
        let history = client.all(&format!("/company/webhooks/{webhook}/deliveries")).await;
        let mut ends: HashMap<&str, usize> = HashMap::new();
        let mut events = HashSet::new();
        for delivery in &history {
            let text = |name: &str| delivery[name].as_str().unwrap();
            let (id, event, state) = (text("id"), text("eventId"), text("state"));
            assert!(events.insert(event.to_owned()), "{path}: {event} has come to two ends: {delivery}");
            assert!(accepted.contains(event), "{path}: {event} was never published");
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            let is_due = *path != "/picky" || event.starts_with("evt_fault_h");
            let came = arrived.contains(&(*path, id, event));
            let is_right = match state {
                "delivered" => is_due && came,
                "filtered" => !is_due && !came,
                // What was attempted over and over while the endpoint was down.
                "failed" => *path == "/down" && came && delivery["attemptCount"].as_i64() > Some(5),
                _ => false,
            };
            assert!(is_right, "{path}: arrived: {came}: {delivery}");
            *ends.entry(state).or_default() += 1;
        }
        let lost: Vec<_> = accepted.difference(&events).take(5).collect();
        assert_eq!(events.len(), accepted.len(), "{path}: nothing is known of {lost:?} and maybe others");
        println!("{path}: {ends:?}");
    }
    let strays: Vec<_> = arrivals.iter().filter(|one| !ids.contains(one.webhook_id())).collect();
    assert!(strays.is_empty(), "{} requests that the history knows nothing of: {:?}", strays.len(), strays[0]);
    let different: HashSet<_> = arrived.iter().map(|(_, id, _)| *id).collect();
    println!(
        "{} events acknowledged after {refusals} refusals and {faults} faults; {} requests for {} deliveries",
        accepted.len(),
        arrivals.len(),
        different.len()
    );
}
