//! A stream that is full refuses or waits, and loses nothing.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures_util::future::join_all;
use serde_json::json;
use shopery_e2e::client::BATCH;
use shopery_e2e::{Arrival, Behaviour, Client, Event, Service, Stack, wait};

const SOON: Duration = Duration::from_secs(60);

/// An event of about 20 KB.
fn large(number: usize) -> Event {
    let id = format!("large_{number}");
    Event::order(&id).with_data(format!(r#"{{"id":"{id}","fill":"{}"}}"#, "x".repeat(20_000)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_that_is_full_of_what_nobody_has_routed_answers_503_and_keeps_what_it_accepted() {
    let mut stack = Stack::plan().env("SHOPERY_EVENTS_MAX_MIB", "1").start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    stack.stop(Service::Router).await;
    let mut accepted = HashSet::new();
    let refused = loop {
        let event = large(accepted.len());
        let answer = client.publish(&event).await;
        match answer.status {
            202 => accepted.insert(event.id),
            _ => break answer,
        };
        assert!(accepted.len() < 200, "1 MiB never fills");
    };
    assert!(accepted.len() > 20, "only {} events fit into 1 MiB", accepted.len());
    let problem = refused.clone().expect(503).problem();
    assert!(problem["detail"].as_str().unwrap().contains("full"), "{problem}");
    let retry_after = refused.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap();
    assert!((1..=60).contains(&retry_after));
    let batch = client.post_events(BATCH, Event::batch(&[large(1000), large(1001)])).await.expect(503);
    assert!(batch.headers.contains_key("retry-after"));
    let reply = stack.publisher("tnt_a").await.publish(&large(2000)).await.unwrap();
    assert_eq!(reply["error"]["code"], 503, "{reply}");

    // Once they are routed the oldest give way: HTTP works, and what NATS publishers were not told is stored still comes.
    stack.run(Service::Router).await;
    wait::until("an event to be accepted", SOON, async || {
        let answer = client.publish(&large(3000)).await;
        if answer.status == 202 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    accepted.extend(["evt_large_2000", "evt_large_3000"].map(str::to_owned));
    client.settled(&webhook, accepted.len(), SOON).await;
    let delivered: HashSet<_> = stack.merchant.arrivals().iter().map(|one| one.event_id().to_owned()).collect();
    assert_eq!(delivered, accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_routed_make_room_for_new_ones_and_it_is_said() {
    let stack = Stack::plan().env("SHOPERY_EVENTS_MAX_MIB", "2").start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let count = 300;
    for number in 0..count {
        wait::until("an event to be accepted", SOON, async || {
            let answer = client.publish(&large(number)).await;
            if answer.status == 202 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }
    let history = client.settled(&webhook, count, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    let given_up = stack.metrics(Service::Controller).await.value("shopery_events_given_up_total").unwrap();
    assert!(given_up >= 150.0, "{given_up}");
    let since = history.iter().map(|delivery| delivery["triggeredAt"].as_str().unwrap()).min().unwrap();
    let held = client.get(&format!("/company/events?created_at_min={since}")).await.expect(200).json();
    assert!(held["oldestAvailable"].as_str().unwrap() > since && held["gap"] == true, "{held}");
}

/// The oldest events are those of a tenant that publishes little.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_fills_the_event_stream_gives_up_its_own_events() {
    const MIB: usize = 8;
    let stack = Stack::plan().env("SHOPERY_EVENTS_MAX_MIB", MIB.to_string()).start().await;
    let (quiet, busy) = (stack.client("tnt_quiet"), stack.client("tnt_busy"));
    for number in 0..10 {
        quiet.publish(&Event::order(&format!("{number}"))).await.expect(202);
    }
    let events = jetstream::new(stack.operator().await).get_stream("EVENTS").await.unwrap();
    let (mut published, mut given_up) = (0, 0.0);
    for round in 0..3 {
        // Between the size from which on it gives up events, and that from which on all do.
        while events.get_info().await.unwrap().state.bytes < (MIB << 20) as u64 / 100 * 87 {
            busy.publish(&large(published)).await.expect(202);
            published += 1;
        }
        let before = given_up;
        given_up = wait::until(&format!("events to be given up, round {round}"), SOON, async || {
            let metrics = stack.metrics(Service::Controller).await;
            let now = metrics.value("shopery_events_given_up_total").unwrap_or_default();
            if now > before { Ok(now) } else { Err(now.to_string()) }
        })
        .await;
    }
    wait::until("as many events to be left as were not given up", SOON, async || {
        let left = busy.all("/company/events").await.len();
        let given_up =
            stack.metrics(Service::Controller).await.value("shopery_events_given_up_total").unwrap_or_default();
        if left == published - given_up as usize { Ok(()) } else { Err(format!("{left}, {given_up} of {published}")) }
    })
    .await;
    assert_eq!(quiet.all("/company/events").await.len(), 10);
    for (client, gap) in [(&quiet, false), (&busy, true)] {
        let page = client.get("/company/events?created_at_min=2026-01-01T00:00:00Z").await.expect(200).json();
        assert_eq!(page["gap"], gap, "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_with_a_rate_limit_take_no_place_from_the_retries_of_others() {
    // Sixteen places for what is due.
    let stack = Stack::plan().env("SHOPERY_SLOTS", "4").env("SHOPERY_RETRY_SCHEDULE", "1s").start().await;
    let loud = stack.client("tnt_loud");
    for number in 0..20 {
        let url = stack.merchant.url(&format!("/loud/{number}"));
        loud.create_webhook_with(&url, &["*"], json!({ "rateLimit": 1 })).await;
    }
    let events: Vec<_> = (0..100).map(|number| Event::order(&number.to_string())).collect();
    loud.try_publish_batch(&events).await.unwrap().expect(202);
    for number in 0..20 {
        stack.merchant.wait_at(&format!("/loud/{number}"), 1, SOON).await;
    }
    let quiet = stack.client("tnt_quiet");
    stack.merchant.behave("/quiet", Behaviour::FailFirst { times: 1, status: 500 });
    quiet.create_webhook(&stack.merchant.url("/quiet"), &["*"]).await;
    quiet.publish(&Event::order("1")).await.expect(202);
    stack.merchant.wait_at("/quiet", 2, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_outcome_to_be_stored_is_not_sent_again() {
    let mut stack = Stack::plan().env("SHOPERY_OUTCOMES_MAX_MIB", "1").start().await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    stack.kill(Service::Recorder).await;
    let events: Vec<_> = (0..6000).map(|number| Event::order(&number.to_string())).collect();
    for part in events.chunks(1000) {
        client.try_publish_batch(part).await.unwrap().expect(202);
    }
    // Three times as long as a job may go unacknowledged.
    wait::until_true("outcomes to have waited for 18 s", SOON, async || {
        let metrics = stack.metrics(Service::Deliverer).await;
        let age = |lane| metrics.value(&format!("shopery_oldest_undelivered_seconds{{lane=\"{lane}\"}}"));
        ["fast", "bulk"].into_iter().any(|lane| age(lane).is_some_and(|age| age > 18.0))
    })
    .await;
    assert!(stack.merchant.count() < events.len(), "OUTCOMES is not full");
    stack.run(Service::Recorder).await;
    stack.at_rest(SOON).await;
    let (arrivals, began) = (stack.merchant.arrivals(), Instant::now());
    let mut seen = HashMap::new();
    let ago = |arrival: &Arrival| (arrival.attempt(), began - arrival.at);
    let repeated: Vec<_> =
        arrivals.iter().filter_map(|one| Some((ago(one), ago(seen.insert(one.webhook_id(), one)?)))).collect();
    assert!(repeated.is_empty(), "attempt, and how long ago: {repeated:?}");
    assert_eq!(seen.len(), events.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_fills_what_is_parked_takes_no_place_from_others() {
    let stack = Stack::plan()
        .env("SHOPERY_PARKED_MAX_MIB", "4")
        .env("SHOPERY_RETRY_SCHEDULE", "1h")
        .env("SHOPERY_PROBE_FIRST", "1h")
        .start()
        .await;
    let (loud, other) = (stack.client("tnt_a"), stack.client("tnt_b"));
    stack.merchant.behave("/down", Behaviour::Answer(500));
    let broken = loud.create_webhook(&stack.merchant.url("/down"), &["*"]).await;
    for number in 0..1000 {
        loud.publish(&large(number)).await.expect(202);
    }
    wait::until("some to find no room", SOON, async || {
        let path = format!("/company/webhooks/{broken}/deliveries");
        let states: Vec<_> = loud.all(&path).await.into_iter().map(|one| one["state"].to_string()).collect();
        let count = |state: &str| states.iter().filter(|one| one.contains(state)).count();
        let seen = (states.len(), count("parked"), count("expired"));
        if seen.0 == 1000 && seen.1 > 100 && seen.2 > 500 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let expired = loud.get(&format!("/company/webhooks/{broken}/deliveries?status=expired")).await.expect(200).json();
    assert_eq!(expired["data"][0]["error"]["reason"], "parking_full", "{expired}");

    // Another's that works gets everything; one that fails finds room, and what fills it gives way.
    let healthy = other.create_webhook(&stack.merchant.url("/healthy"), &["order-*"]).await;
    let failing = other.create_webhook(&stack.merchant.url("/down"), &["*"]).await;
    for number in 0..128 {
        other.publish(&large(number)).await.expect(202);
    }
    let history = other.settled(&healthy, 128, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    wait::until("what failed to be parked", SOON, async || {
        let parked = other.all(&format!("/company/webhooks/{failing}/deliveries?status=parked")).await.len();
        if parked > 100 { Ok(()) } else { Err(parked.to_string()) }
    })
    .await;
    let lines = stack.log(Service::Deliverer).lines().count();
    assert!(lines < 1000, "{lines} lines of log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_job_stream_holds_events_back_and_then_delivers_all() {
    let mut stack = Stack::plan().env("SHOPERY_JOBS_MAX_MIB", "1").env("SHOPERY_SLOTS", "16").start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    assert!(stack.stop(Service::Deliverer).await.success());
    let count = 150;
    for number in 0..count {
        client.publish(&large(number)).await.expect(202);
    }
    let jetstream = jetstream::new(stack.operator().await);
    wait::until("JOBS to be full", SOON, async || {
        let mut stream = jetstream.get_stream("JOBS").await.map_err(|error| error.to_string())?;
        let state = stream.info().await.map_err(|error| error.to_string())?.state.clone();
        if state.bytes > 1_000_000 { Ok(()) } else { Err(format!("{} bytes", state.bytes)) }
    })
    .await;
    stack.ready(Service::Router).await;

    stack.run(Service::Deliverer).await;
    let history = client.settled(&webhook, count, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"));
    let events: HashSet<_> = stack.merchant.arrivals().iter().map(|one| one.event_id().to_owned()).collect();
    assert_eq!(events.len(), count);
}

/// The events of batch `number`.
fn batch(number: usize, size: usize) -> Vec<Event> {
    (0..size).map(|place| Event::order(&format!("batch_{number}_{place}"))).collect()
}

/// More messages than may be under way at a time: each batch must get on without the room that another one holds. What a single
/// publish takes beside them is printed, and measured by the benchmark (row h).
#[tokio::test(flavor = "multi_thread")]
async fn many_large_batches_at_once_do_not_wait_for_each_other() {
    let tenants: Vec<_> = (0..16).map(|number| format!("tnt_{number}")).collect();
    let all = tenants.iter().map(String::as_str).chain(["tnt_single"]);
    let stack = Stack::plan().tenants(all).start().await;
    let single = stack.client("tnt_single");
    let alone = singles(&single, "alone", |count| count < 200).await;
    let answers = (0..64).map(|number| {
        let client = stack.client(&tenants[number % tenants.len()]);
        async move { client.try_publish_batch(&batch(number, 1000)).await.unwrap().status }
    });
    let is_over = AtomicBool::new(false);
    let (answers, beside) = tokio::join!(
        async {
            let answers = tokio::time::timeout(SOON, join_all(answers)).await.expect("the batches wait for each other");
            is_over.store(true, Ordering::Relaxed);
            answers
        },
        singles(&single, "beside", |_| !is_over.load(Ordering::Relaxed)),
    );
    assert_eq!(answers, [202; 64]);
    let at = |times: &[Duration], share: f64| times[((times.len() - 1) as f64 * share) as usize];
    for (how, times) in [("alone", alone), ("beside 64 batches", beside)] {
        println!("{} single publishes {how}: p50 {:.1?}, p99 {:.1?}", times.len(), at(&times, 0.5), at(&times, 0.99));
    }
}

/// How long single publishes take, one every 10 ms for as long as `goes_on`; the shortest first.
async fn singles(client: &Client, name: &str, goes_on: impl Fn(usize) -> bool) -> Vec<Duration> {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let mut times = Vec::new();
    while goes_on(times.len()) {
        pace.tick().await;
        let event = Event::order(&format!("{name}_{}", times.len()));
        let began = Instant::now();
        client.publish(&event).await.expect(202);
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times
}

/// An event that needs a look at others makes its jobs beside others, and each of those has a part of them under way.
#[tokio::test(flavor = "multi_thread")]
async fn events_with_many_jobs_at_once_do_not_stop_the_router() {
    let stack = Stack::plan().tenants(["tnt_many", "tnt_other"]).start().await;
    let (many, other) = (stack.client("tnt_many"), stack.client("tnt_other"));
    let mut webhooks = Vec::new();
    for number in 0..12 {
        let url = stack.merchant.url(&format!("/many/{number}"));
        webhooks.push(many.create_webhook_with(&url, &["*"], json!({ "changed": ["id"] })).await);
    }
    let webhook = other.create_webhook(&stack.merchant.url("/other"), &["*"]).await;
    let (first, second) = (batch(1, 1000), batch(2, 1000));
    let (first, second) = tokio::join!(many.try_publish_batch(&first), many.try_publish_batch(&second));
    first.unwrap().expect(202);
    second.unwrap().expect(202);
    other.publish(&Event::order("other")).await.expect(202);
    other.settled(&webhook, 1, SOON).await;
    for webhook in &webhooks {
        many.settled(webhook, 2000, SOON).await;
    }
}
