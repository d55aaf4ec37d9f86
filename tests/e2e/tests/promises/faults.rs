//! Whatever is killed, paused, or taken away for a while, and whenever, every acknowledged event comes to one end at every webhook
//! that it matches. Of what can be had twice, there are two.
//!
//! `SHOPERY_TEST_FAULT_SECONDS` says for how long, `SHOPERY_TEST_SEED` repeats the choice of faults.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use serde_json::json;
use shopery_e2e::documents::{Random, seed};
use shopery_e2e::process::Signal;
use shopery_e2e::{Behaviour, Burst, DatabaseKind, Process, Service, Stack, wait};

/// What came to no end by then was lost.
const PATIENCE: Duration = Duration::from_secs(180);
/// Maximum pause: another router has taken over by then, and another controller leads. Milliseconds.
const LONGEST_PAUSE: usize = 8000;
/// Services of which a second process runs. Publishers and the test know the address of the first one of the others alone.
const SECOND: [Service; 4] = [Service::Router, Service::Deliverer, Service::Recorder, Service::Controller];

/// What happens to the installation.
#[derive(Debug, Clone, Copy)]
enum Fault {
    One(Service),
    Two(Service, Service),
    /// Killed again as soon as it has been started.
    Twice(Service),
    /// Of [`SECOND`].
    Second(usize),
    Nats,
    NatsAnd(Service),
    Paused(Service),
    SecondPaused(usize),
    NatsPaused,
    ConfigDeleted,
    Database(DatabaseFault),
}

/// Of PostgreSQL.
#[derive(Debug, Clone, Copy)]
enum DatabaseFault {
    Crashed,
    Silent,
    ReadOnly,
}

impl Fault {
    fn choose(random: &mut Random, database: DatabaseKind) -> Self {
        let service = Service::ALL[random.below(Service::ALL.len())];
        let second = random.below(SECOND.len());
        match random.below(if database == DatabaseKind::Postgres { 16 } else { 13 }) {
            0..3 => Self::One(service),
            3 => Self::Two(
                service,
                Service::ALL[(service as usize + 1 + random.below(Service::ALL.len() - 1)) % Service::ALL.len()],
            ),
            4 => Self::Twice(service),
            5 => Self::Second(second),
            6 => Self::Nats,
            7 => Self::NatsAnd(service),
            8 | 9 => Self::Paused(service),
            10 => Self::SecondPaused(second),
            11 => Self::NatsPaused,
            12 => Self::ConfigDeleted,
            13 => Self::Database(DatabaseFault::Crashed),
            14 => Self::Database(DatabaseFault::Silent),
            _ => Self::Database(DatabaseFault::ReadOnly),
        }
    }

    /// How long it lasts, in what publishers do meanwhile.
    async fn last(self, burst: &Burst, random: &mut Random) {
        let is_ingest = |service| service == Service::Ingest;
        match self {
            // They are told only after five seconds.
            Self::Nats | Self::NatsAnd(_) => burst.setbacks(1 + random.below(6)).await,
            Self::One(service) | Self::Twice(service) if is_ingest(service) => {
                burst.setbacks(1 + random.below(40)).await;
            }
            Self::Two(one, other) if is_ingest(one) || is_ingest(other) => burst.setbacks(1 + random.below(40)).await,
            // Whatever they do: they hear nothing.
            Self::Paused(_) | Self::SecondPaused(_) | Self::NatsPaused | Self::Database(_) => {
                tokio::time::sleep(Duration::from_millis(200 + random.below(LONGEST_PAUSE) as u64)).await;
            }
            _ => burst.progress(1 + random.below(200)).await,
        }
    }

    async fn strike(self, stack: &mut Stack, second: &mut [Process], burst: &Burst, random: &mut Random) {
        match self {
            Self::One(service) | Self::Twice(service) => stack.kill(service).await,
            Self::Two(one, other) => {
                stack.kill(one).await;
                stack.kill(other).await;
            }
            Self::Second(place) => second[place].kill().await,
            Self::Nats => stack.kill_nats().await,
            Self::NatsAnd(service) => {
                stack.kill(service).await;
                stack.kill_nats().await;
            }
            Self::Paused(service) => stack.process(service).signal(Signal::SIGSTOP),
            Self::SecondPaused(place) => second[place].signal(Signal::SIGSTOP),
            Self::NatsPaused => stack.signal_nats(Signal::SIGSTOP),
            Self::ConfigDeleted => delete_config(stack).await,
            Self::Database(fault) => fault.begin(stack).await,
        }
        self.last(burst, random).await;
        match self {
            Self::One(service) => stack.run(service).await,
            Self::Two(one, other) => {
                stack.run(one).await;
                stack.run(other).await;
            }
            Self::Twice(service) => {
                stack.spawn(service);
                if service != Service::Ingest {
                    burst.progress(1 + random.below(30)).await;
                }
                stack.kill(service).await;
                stack.run(service).await;
            }
            Self::Second(place) => second[place] = stack.replica(SECOND[place], 2).await,
            Self::Nats => stack.start_nats().await,
            Self::NatsAnd(service) => {
                stack.start_nats().await;
                stack.run(service).await;
            }
            Self::Paused(service) => stack.process(service).signal(Signal::SIGCONT),
            Self::SecondPaused(place) => second[place].signal(Signal::SIGCONT),
            Self::NatsPaused => stack.signal_nats(Signal::SIGCONT),
            Self::ConfigDeleted => {}
            Self::Database(fault) => fault.end(stack).await,
        }
    }
}

impl DatabaseFault {
    async fn begin(self, stack: &mut Stack) {
        let postgres = stack.postgres.as_mut().unwrap();
        match self {
            Self::Crashed => postgres.stop().await,
            Self::Silent => postgres.signal_all(Signal::SIGSTOP),
            Self::ReadOnly => postgres.be_read_only(true).await,
        }
    }

    async fn end(self, stack: &mut Stack) {
        let postgres = stack.postgres.as_mut().unwrap();
        match self {
            Self::Crashed => postgres.resume().await,
            Self::Silent => postgres.signal_all(Signal::SIGCONT),
            Self::ReadOnly => postgres.be_read_only(false).await,
        }
    }
}

/// The controller makes a new one, and fills it from the database.
async fn delete_config(stack: &Stack) {
    let jetstream = jetstream::new(stack.operator().await);
    wait::until("CONFIG to be deleted", PATIENCE, async || {
        jetstream.delete_key_value("CONFIG").await.map_err(|error| error.to_string())
    })
    .await;
}

mod sqlite {
    #[tokio::test(flavor = "multi_thread")]
    async fn random_faults_leave_every_acknowledged_event_with_one_end_at_every_webhook() {
        super::random_faults(super::DatabaseKind::Sqlite).await;
    }
}

mod postgres {
    #[tokio::test(flavor = "multi_thread")]
    async fn random_faults_leave_every_acknowledged_event_with_one_end_at_every_webhook() {
        super::random_faults(super::DatabaseKind::Postgres).await;
    }
}

async fn random_faults(database: DatabaseKind) {
    let seconds = std::env::var("SHOPERY_TEST_FAULT_SECONDS").map_or(30, |text| text.parse().unwrap());
    let mut random = Random::new(seed());
    let plan = Stack::plan()
        .database(database)
        .env("SHOPERY_PROBE_FIRST", "300ms")
        .env("SHOPERY_PROBE_LONGEST", "1s")
        .env("SHOPERY_SWEEP_INTERVAL", "1s");
    let mut stack = plan.start().await;
    let mut second = Vec::new();
    for service in SECOND {
        second.push(stack.replica(service, 2).await);
    }
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
        let fault = Fault::choose(&mut random, database);
        println!("{:.1?}, {} events: {fault:?}", started.elapsed(), burst.accepted());
        fault.strike(&mut stack, &mut second, &burst, &mut random).await;
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
