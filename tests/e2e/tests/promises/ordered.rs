//! With `ordered`, the deliveries of one resource are made one after the other, whatever fails, waits or is killed, and
//! no resource waits for another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shopery_e2e::stack::Plan;
use shopery_e2e::{Arrival, Behaviour, Client, Event, Process, Service, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SOON: Duration = Duration::from_secs(40);

fn plan() -> Plan {
    Stack::plan()
        .env("SHOPERY_PROBE_FIRST", "300ms")
        .env("SHOPERY_PROBE_LONGEST", "1s")
        .env("SHOPERY_SWEEP_INTERVAL", "1s")
}

/// Circuits that hardly ever open: what fails is retried.
fn patient() -> Plan {
    plan().env("SHOPERY_CIRCUIT_FAILURES", "50")
}

/// The update `number` of an order, whose state says so.
fn updated(order: &str, number: usize) -> Event {
    let mut event = Event::new("order-updated", order).with_data(format!(r#"{{"id":"{order}","number":{number}}}"#));
    event.id = format!("evt_{order}_{number}");
    event
}

fn ago(seconds: i64, event: Event) -> Event {
    let time = OffsetDateTime::now_utc() - time::Duration::seconds(seconds);
    Event { time: Some(time.format(&Rfc3339).unwrap()), ..event }
}

async fn publish(client: &Client, events: &[Event]) {
    for part in events.chunks(500) {
        client.try_publish_batch(part).await.unwrap().expect(202);
    }
}

async fn create(stack: &Stack, client: &Client, path: &str, payload: &str) -> String {
    let rules = json!({ "ordered": true, "payload": payload });
    client.create_webhook_with(&stack.merchant.url(path), &["*"], rules).await
}

/// The resource and the number of the state that came.
fn state(arrival: &Arrival) -> (String, u64) {
    let body: Value = serde_json::from_slice(&arrival.body).unwrap();
    (body["id"].as_str().unwrap().to_owned(), body["number"].as_u64().unwrap())
}

/// What was accepted of an order, by number.
fn accepted(arrivals: &[Arc<Arrival>], order: &str) -> Vec<u64> {
    let accepted = arrivals.iter().filter(|arrival| arrival.is_accepted()).map(|arrival| state(arrival));
    accepted.filter(|(of, _)| of == order).map(|(_, number)| number).collect()
}

/// Of each resource: what was accepted never goes back, and no two deliveries were under way at once.
#[track_caller]
fn assert_ordered(arrivals: &[Arc<Arrival>]) {
    let mut by_resource: HashMap<String, Vec<&Arc<Arrival>>> = HashMap::new();
    for arrival in arrivals {
        by_resource.entry(state(arrival).0).or_default().push(arrival);
    }
    for (resource, all) in &mut by_resource {
        all.sort_by_key(|arrival| arrival.at);
        let accepted: Vec<_> = all.iter().filter(|arrival| arrival.is_accepted()).collect();
        for pair in accepted.windows(2) {
            let [before, after] = [pair[0], pair[1]].map(|arrival| arrival.header("x-shopery-sequence"));
            assert!(before <= after, "{resource}: {:?} after {:?}", state(pair[1]), state(pair[0]));
        }
        // Whoever was killed has no answer, and may be waited for no longer than its lease.
        let mut under_way: Option<(Instant, &str)> = None;
        for arrival in all.iter() {
            if let Some((until, delivery)) = under_way {
                let is_alone = until <= arrival.at || delivery == arrival.webhook_id();
                assert!(is_alone, "{resource}: {} began while {delivery} was under way", arrival.webhook_id());
            }
            if let Some((_, at)) = arrival.answered() {
                under_way = Some((at, arrival.webhook_id()));
            }
        }
    }
}

fn states_of(history: &[Value]) -> HashMap<&str, usize> {
    let mut states = HashMap::new();
    for delivery in history {
        *states.entry(delivery["state"].as_str().unwrap()).or_default() += 1;
    }
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_waits_until_the_retries_of_the_one_before_it_have_ended() {
    let stack = patient().start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 3, status: 500 });
    let webhook = create(&stack, &client, "/a", "original").await;
    publish(&client, &(0..6).map(|number| updated("1", number)).collect::<Vec<_>>()).await;
    let history = client.settled(&webhook, 6, SOON).await;
    assert_eq!(states_of(&history), HashMap::from([("delivered", 6)]));
    let arrivals = stack.merchant.arrivals_at("/a");
    let numbers: Vec<_> = arrivals.iter().map(|arrival| state(arrival).1).collect();
    assert_eq!(numbers, [0, 0, 0, 0, 1, 2, 3, 4, 5]);
    assert_ordered(&arrivals);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_failed_for_good_does_not_hold_up_the_rest() {
    let stack = patient().env("SHOPERY_RETRY_SCHEDULE", "300ms").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::Refuse { text: r#""number":1}"#.to_owned(), status: 500 });
    let webhook = create(&stack, &client, "/a", "original").await;
    publish(&client, &(0..4).map(|number| updated("1", number)).collect::<Vec<_>>()).await;
    let history = client.settled(&webhook, 4, SOON).await;
    assert_eq!(states_of(&history), HashMap::from([("delivered", 3), ("failed", 1)]));
    let numbers: Vec<_> = stack.merchant.arrivals_at("/a").iter().map(|arrival| state(arrival).1).collect();
    assert_eq!(numbers, [0, 1, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_whose_deliveries_fail_holds_up_itself_alone() {
    let stack = patient().env("SHOPERY_RETRY_SCHEDULE", vec!["1s"; 30].join(",")).start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::Refuse { text: r#""id":"bad""#.to_owned(), status: 500 });
    let webhook = create(&stack, &client, "/a", "original").await;
    let others: Vec<_> = (0..20).map(|order| format!("good_{order}")).collect();
    let mut events = Vec::new();
    for number in 0..5 {
        events.push(updated("bad", number));
        events.extend(others.iter().map(|order| updated(order, number)));
    }
    publish(&client, &events).await;
    client.in_state(&webhook, "delivered", 100, SOON).await;
    let arrivals = stack.merchant.arrivals_at("/a");
    for order in &others {
        assert_eq!(accepted(&arrivals, order), [0, 1, 2, 3, 4], "{order}");
    }
    let bad = arrivals.iter().map(|arrival| state(arrival)).filter(|(order, _)| order == "bad");
    assert!(bad.into_iter().all(|(_, number)| number == 0), "one was sent before the first had ended");

    stack.merchant.behave("/a", Behaviour::Answer(200));
    client.settled(&webhook, 105, SOON).await;
    let arrivals = stack.merchant.arrivals_at("/a");
    assert_eq!(accepted(&arrivals, "bad"), [0, 1, 2, 3, 4]);
    assert_ordered(&arrivals);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_older_than_what_was_sent_is_superseded() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for payload in ["latest", "original"] {
        webhooks.push((payload, create(&stack, &client, &format!("/{payload}"), payload).await));
    }
    client.publish(&ago(10, updated("1", 2))).await.expect(202);
    for (_, webhook) in &webhooks {
        client.settled(webhook, 1, SOON).await;
    }
    client.publish(&ago(60, updated("1", 1))).await.expect(202);
    client.publish(&updated("1", 3)).await.expect(202);
    for (payload, webhook) in &webhooks {
        let history = client.settled(webhook, 3, SOON).await;
        let of = |event: &str| history.iter().find(|one| one["eventId"] == event).unwrap();
        let states = ["evt_1_1", "evt_1_2", "evt_1_3"].map(|event| of(event)["state"].as_str().unwrap());
        assert_eq!(states, ["superseded", "delivered", "delivered"], "{payload}");
        let carrier = &of("evt_1_1")["carriedBy"];
        assert!([&of("evt_1_2")["id"], &of("evt_1_3")["id"]].contains(&carrier), "{payload}: {carrier}");
        let arrivals = stack.merchant.arrivals_at(&format!("/{payload}"));
        assert_eq!(accepted(&arrivals, "1"), [2, 3], "{payload}");
    }
}

/// It stands before the one that has failed, and must not take away its turn, nor what is known of its attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_does_not_come_between_the_attempts_of_another_one() {
    let stack = patient().env("SHOPERY_RETRY_SCHEDULE", "1s,1s").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 2, status: 500 });
    let webhook = create(&stack, &client, "/a", "original").await;
    publish(&client, &[updated("1", 1)]).await;
    stack.merchant.wait_at("/a", 1, SOON).await;
    publish(&client, &[ago(60, updated("1", 0)), updated("1", 2)]).await;
    let history = client.settled(&webhook, 3, SOON).await;
    let end = |event: &str| {
        let delivery = history.iter().find(|delivery| delivery["eventId"] == event).unwrap();
        (delivery["state"].as_str().unwrap(), delivery["attemptCount"].as_u64().unwrap())
    };
    assert_eq!((end("evt_1_1"), end("evt_1_0")), (("delivered", 3), ("superseded", 0)), "{history:?}");
    let events: Vec<_> = stack
        .merchant
        .arrivals_at("/a")
        .iter()
        .map(|arrival| arrival.header("x-shopery-event-id").to_owned())
        .collect();
    assert_eq!(events, ["evt_1_1", "evt_1_1", "evt_1_1", "evt_1_2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_waited_while_a_webhook_was_disabled_is_sent_in_order_and_so_is_what_comes_meanwhile() {
    let stack = plan().start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::Slow(Duration::from_millis(20)));
    let webhook = create(&stack, &client, "/a", "original").await;
    let path = format!("/company/webhooks/{webhook}");
    let orders = ["1", "2", "3"];
    let events = |numbers: std::ops::Range<usize>| -> Vec<_> {
        numbers.flat_map(|number| orders.map(|order| updated(order, number))).collect()
    };
    publish(&client, &events(0..2)).await;
    client.settled(&webhook, 6, SOON).await;
    client.patch(&path, &json!({ "isEnabled": false })).await.expect(200);
    publish(&client, &events(2..20)).await;
    client.in_state(&webhook, "parked", 54, SOON).await;
    client.patch(&path, &json!({ "isEnabled": true })).await.expect(200);
    publish(&client, &events(20..30)).await;
    let history = client.settled(&webhook, 90, SOON).await;
    assert_eq!(states_of(&history), HashMap::from([("delivered", 90)]));
    let arrivals = stack.merchant.arrivals_at("/a");
    for order in orders {
        assert_eq!(accepted(&arrivals, order), (0..30).collect::<Vec<_>>(), "{order}");
    }
    assert_ordered(&arrivals);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_becomes_ordered_is_so_from_then_on() {
    let stack = patient().env("SHOPERY_RETRY_SCHEDULE", vec!["1s"; 20].join(",")).start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::Answer(500));
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    publish(&client, &(0..4).map(|number| updated("1", number)).collect::<Vec<_>>()).await;
    client.in_state(&webhook, "pending", 4, SOON).await;
    let ordered = json!({ "ordered": true });
    client.patch(&format!("/company/webhooks/{webhook}"), &ordered).await.expect(200);
    publish(&client, &(4..8).map(|number| updated("1", number)).collect::<Vec<_>>()).await;
    stack.merchant.behave("/a", Behaviour::Answer(200));
    let history = client.settled(&webhook, 8, SOON).await;
    for delivery in &history {
        assert!(delivery["state"] == "delivered" || delivery["state"] == "superseded", "{delivery}");
    }
    let arrivals = stack.merchant.arrivals_at("/a");
    let accepted: Vec<_> = arrivals.into_iter().filter(|arrival| arrival.is_accepted()).collect();
    assert_ordered(&accepted);
    assert_eq!(state(accepted.last().unwrap()).1, 7);
}

/// Kills one of two deliverers, or the other, and starts it again.
struct Killer {
    second: Process,
    kills: usize,
}

impl Killer {
    async fn strike(&mut self, stack: &mut Stack) {
        if self.kills.is_multiple_of(2) {
            stack.kill(Service::Deliverer).await;
            stack.run(Service::Deliverer).await;
        } else {
            self.second.kill().await;
            self.second = stack.replica(Service::Deliverer, 2).await;
        }
        self.kills += 1;
    }
}

/// `SHOPERY_TEST_ORDERED` says how many deliveries: 100,000 by hand.
#[tokio::test(flavor = "multi_thread")]
async fn kill_dash_nine_of_two_deliverers_inverts_and_loses_nothing() {
    let count: usize = std::env::var("SHOPERY_TEST_ORDERED").map_or(5000, |text| text.parse().unwrap());
    let resources = 300;
    let schedule = ["300ms,500ms,1s", &vec!["2s"; 40].join(",")].join(",");
    let mut stack = plan().env("SHOPERY_RETRY_SCHEDULE", schedule).start().await;
    let client = stack.client("tnt_a");
    let webhook = create(&stack, &client, "/a", "original").await;
    let mut killer = Killer { second: stack.replica(Service::Deliverer, 2).await, kills: 0 };
    let events: Vec<_> =
        (0..count).map(|number| updated(&format!("{}", number % resources), number / resources)).collect();

    // By turns: well, failing now and then, and not at all, so that some is retried and some is parked.
    let phases = [Behaviour::Answer(200), Behaviour::Turns(vec![200, 200, 500]), Behaviour::Answer(503)];
    let part = (count / 12).max(1);
    let began = Instant::now();
    for (number, events) in events.chunks(part).enumerate() {
        stack.merchant.behave("/a", phases[number % phases.len()].clone());
        publish(&client, events).await;
        // What comes of a part is under way when a deliverer is killed: a few requests of it have come.
        let some = stack.merchant.count() + 20;
        let _ = wait::attempt("some requests", Duration::from_secs(3), async || match stack.merchant.count() {
            came if came >= some => Ok(()),
            came => Err(format!("{came}")),
        })
        .await;
        killer.strike(&mut stack).await;
    }
    stack.merchant.behave("/a", Behaviour::Turns(vec![200; 30].into_iter().chain([500]).collect()));
    let mut delivered = 0;
    while delivered < count {
        // As long as something gets done there are kills.
        let deadline = Duration::from_secs(90 + count as u64 / 100);
        let waited = wait::attempt("more to be delivered", deadline, async || {
            let ids = |all: &[Arc<Arrival>]| -> usize {
                all.iter().filter(|one| one.is_accepted()).map(|one| one.webhook_id()).collect::<HashSet<_>>().len()
            };
            let now = ids(&stack.merchant.arrivals_at("/a"));
            if now == count || now >= delivered + count / 6 { Ok(now) } else { Err(format!("{now} of {count}")) }
        });
        delivered = waited.await.unwrap_or_else(|stuck| panic!("{stuck}"));
        if killer.kills < 20 {
            killer.strike(&mut stack).await;
        }
    }
    let history = client.settled(&webhook, count, Duration::from_secs(120)).await;
    assert_eq!(states_of(&history), HashMap::from([("delivered", count)]));
    stack.at_rest(Duration::from_secs(60)).await;

    let arrivals = stack.merchant.arrivals_at("/a");
    assert_ordered(&arrivals);
    for resource in 0..resources.min(count) {
        let mut numbers = accepted(&arrivals, &resource.to_string());
        // A repeat after a crash has the number of the one before.
        numbers.dedup();
        let expected = (resource..count).step_by(resources).len() as u64;
        assert_eq!(numbers, (0..expected).collect::<Vec<_>>(), "{resource}");
    }
    println!(
        "{count} deliveries of {resources} resources in order after {} kills: {} requests in {:.1?}",
        killer.kills,
        arrivals.len(),
        began.elapsed()
    );
}
