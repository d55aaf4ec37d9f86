//! Whatever is killed, paused, or taken away for a while, and whenever, every acknowledged event comes to one end at every webhook
//! that it matches. Of what can be had twice, there are two, and no two clocks agree. What NATS alone knew when it was emptied
//! is excused.
//!
//! `SHOPERY_TEST_FAULT_SECONDS` says for how long, `SHOPERY_TEST_SEED` repeats the choice of faults, and with
//! `SHOPERY_TEST_OLD_BINARIES`, a folder with the services of an older version, half of what is started is of that version, until a
//! round of faults is over.

mod fault;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::json;
use shopery_e2e::documents::{Random, seed};
use shopery_e2e::{Arrival, Behaviour, Burst, DatabaseKind, SmallDisk, Stack};

use fault::{Fault, Installation};

/// What came to no end by then was lost.
const REST_TIMEOUT: Duration = Duration::from_secs(180);
/// Before each but the first, NATS is emptied.
const ROUNDS: u64 = 2;
/// Of NATS and of PostgreSQL.
const DISK_MIB: usize = 1024;
/// The history of a second, with all that PostgreSQL keeps of it for a while.
const HISTORY_MIB: usize = 2;

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
    let seconds = std::env::var("SHOPERY_TEST_FAULT_SECONDS").map_or(30_u64, |text| text.parse().unwrap());
    let mut random = Random::new(seed());
    let nats_disk = SmallDisk::of_mib(DISK_MIB);
    let mut plan = Stack::plan()
        .database(database)
        .nats_store(nats_disk.path().join("nats"))
        .env("SHOPERY_PROBE_FIRST", "300ms")
        .env("SHOPERY_PROBE_LONGEST", "1s")
        .env("SHOPERY_SWEEP_INTERVAL", "1s");
    if database == DatabaseKind::Postgres {
        // A history that fills its disk by itself would be no fault of which anybody recovers.
        let history = HISTORY_MIB * usize::try_from(seconds).unwrap();
        plan = plan.postgres_disk(SmallDisk::of_mib(DISK_MIB + history));
    }
    let mut on = Installation::of(plan.start().await, nats_disk, &mut random).await;
    let stack = &on.stack;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/slow", Behaviour::Slow(Duration::from_millis(50)));
    stack.merchant.behave("/shaky", Behaviour::FailFirst { times: 60, status: 500 });
    stack.merchant.behave("/down", Behaviour::Answer(500));
    let mut webhooks = Vec::new();
    for path in ["/quick", "/slow", "/shaky", "/down"] {
        webhooks.push((path, client.create_webhook(&stack.merchant.url(path), &["order-*"]).await));
    }
    // It lets pass by what comes over NATS.
    let rules = json!({ "filter": { "id": [{ "prefix": "fault0_h" }, { "prefix": "fault1_h" }] } });
    webhooks.push(("/picky", client.create_webhook_with(&stack.merchant.url("/picky"), &["order-*"], rules).await));
    let publisher = stack.publisher("tnt_a").await;

    let (mut accepted, mut forgotten) = (HashSet::new(), HashSet::new());
    let (mut refusals, mut faults) = (0, 0);
    for round in 0..ROUNDS {
        on.stack.merchant.behave("/down", Behaviour::Answer(500));
        let (burst, started) = (Burst::start(&format!("fault{round}"), &client, 4, &publisher, 2), Instant::now());
        burst.progress(100).await;
        if round > 0 {
            // What of the rounds before has come to its end stays what it is.
            forgotten.extend(on.empty_nats(&burst).await);
        }
        while started.elapsed() < Duration::from_secs(seconds / ROUNDS) {
            let fault = Fault::choose(&mut random, database);
            println!("{round}, {:.1?}, {} events: {fault:?}", started.elapsed(), burst.accepted());
            fault.strike(&mut on, &burst, &mut random).await;
            burst.progress(1 + random.below(150)).await;
            faults += 1;
        }
        refusals += burst.refusals();
        accepted.extend(burst.end().await);
        on.stack.merchant.behave("/down", Behaviour::Answer(200));
        on.end_upgrade(&mut random).await;
        on.stack.at_rest(REST_TIMEOUT).await;
    }
    let stack = &on.stack;

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
            let is_first = events.insert(event.to_owned());
            assert!(is_first || forgotten.contains(event), "{path}: {event} has come to two ends: {delivery}");
            assert!(accepted.contains(event), "{path}: {event} was never published");
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            let is_due = *path != "/picky" || event.contains("_h");
            let came = arrived.contains(&(*path, id, event));
            let is_right = match state {
                "delivered" => is_due && came,
                "filtered" => !is_due && !came,
                // What was attempted over and over while the endpoint was down.
                "failed" => *path == "/down" && came && delivery["attemptCount"].as_i64() > Some(5),
                _ => forgotten.contains(event),
            };
            assert!(is_right, "{path}: arrived: {came}: {delivery}");
            *ends.entry(state).or_default() += 1;
        }
        let missing: Vec<_> = accepted.difference(&events).collect();
        let lost: Vec<_> = missing.iter().filter(|event| !forgotten.contains(**event)).take(5).collect();
        assert!(lost.is_empty(), "{path}: nothing is known of {lost:?} and maybe others");
        println!("{path}: {ends:?}, {} lost with NATS", missing.len());
    }
    let is_stray = |one: &Arrival| !ids.contains(one.webhook_id()) && !forgotten.contains(one.event_id());
    let strays: Vec<_> = arrivals.iter().filter(|one| is_stray(one)).collect();
    assert!(strays.is_empty(), "{} requests that the history knows nothing of: {:?}", strays.len(), strays[0]);
    let different: HashSet<_> = arrived.iter().map(|(_, id, _)| *id).collect();
    println!(
        "{} events acknowledged after {refusals} refusals and {faults} faults, {} of them just before NATS was emptied; {} \
         requests for {} deliveries",
        accepted.len(),
        forgotten.len(),
        arrivals.len(),
        different.len()
    );
}
