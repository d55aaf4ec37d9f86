//! An endpoint that does not keep up: its jobs are parked, nobody else notices, and they are sent when it works again.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::json;
use shopery_e2e::stack::Plan;
use shopery_e2e::{Behaviour, Client, Event, Service, Stack, wait};

const SOON: Duration = Duration::from_secs(30);

/// Circuits that are quick to open and to be probed.
fn plan() -> Plan {
    Stack::plan()
        .env("SHOPERY_PROBE_FIRST", "300ms")
        .env("SHOPERY_PROBE_LONGEST", "1s")
        .env("SHOPERY_SWEEP_INTERVAL", "1s")
}

fn event(number: usize) -> Event {
    Event::order(&format!("{number:05}"))
}

async fn publish(client: &Client, numbers: std::ops::Range<usize>) {
    let events: Vec<_> = numbers.map(event).collect();
    for part in events.chunks(500) {
        client.try_publish_batch(part).await.unwrap().expect(202);
    }
}

/// A webhook whose endpoint, `/down`, has failed often enough for its circuit to open.
async fn broken_webhook(stack: &Stack, client: &Client) -> String {
    stack.merchant.behave("/down", Behaviour::Answer(500));
    let webhook = client.create_webhook(&stack.merchant.url("/down"), &["*"]).await;
    for number in 0..5 {
        client.publish(&event(number)).await.expect(202);
        client.in_state(&webhook, "pending", number + 1, SOON).await;
    }
    webhook
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_is_left_alone_and_gets_everything_in_order_when_it_works() {
    let stack = plan().env("SHOPERY_RETRY_SCHEDULE", "1h").start().await;
    let client = stack.client("tnt_a");
    let webhook = broken_webhook(&stack, &client).await;
    publish(&client, 5..200).await;
    let parked = client.in_state(&webhook, "parked", 195, SOON).await;
    let attempted = parked.iter().filter(|delivery| delivery["attemptCount"] != 0).count();
    assert!(attempted <= 10, "{attempted} of 195 were attempted while the endpoint was down");
    let while_down = stack.merchant.arrivals_at("/down").len();
    assert!(while_down < 40, "{while_down} requests to a broken endpoint");

    stack.merchant.behave("/down", Behaviour::Answer(200));
    client.in_state(&webhook, "delivered", 195, SOON).await;
    let arrivals = stack.merchant.arrivals_at("/down");
    let order: Vec<_> = arrivals[while_down..].iter().map(|arrival| arrival.event_id().to_owned()).collect();
    // The probe may take one of the eight oldest; attempts that are under way at once may overtake each other.
    let place = |id: &str| id["evt_".len()..].parse::<usize>().unwrap();
    for (index, id) in order.iter().enumerate() {
        assert!(place(id).abs_diff(index + 5) <= 64 + 8, "{id} is number {index}");
    }
    // The circuit is closed: what comes now is sent at once.
    let before = Instant::now();
    client.publish(&event(1000)).await.expect(202);
    stack.merchant.wait_for("the next event", SOON, |all| all.iter().any(|one| one.event_id() == "evt_01000")).await;
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_endpoints_do_not_delay_the_others() {
    let stack = plan().env("SHOPERY_SLOTS", "128").start().await;
    let (loud, quiet) = (stack.client("tnt_a"), stack.client("tnt_b"));
    stack.merchant.behave("/silent", Behaviour::Hang);
    for _ in 0..5 {
        loud.create_webhook(&stack.merchant.url("/silent"), &["*"]).await;
    }
    quiet.create_webhook(&stack.merchant.url("/healthy"), &["*"]).await;
    quiet.publish(&Event::order("first")).await.expect(202);
    stack.merchant.wait_at("/healthy", 1, SOON).await;

    publish(&loud, 0..1000).await;
    let mut slowest = Duration::ZERO;
    for number in 0..100 {
        let published = Instant::now();
        quiet.publish(&event(number)).await.expect(202);
        stack.merchant.wait_at("/healthy", number + 2, SOON).await;
        slowest = slowest.max(published.elapsed());
    }
    // An attempt at a silent endpoint takes five seconds; none of them was in the way.
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    println!("the slowest of 100 healthy deliveries beside 5,000 silent ones took {slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_that_is_killed_while_it_drains_loses_nothing() {
    let mut stack = plan().env("SHOPERY_RETRY_SCHEDULE", "1s").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/down", Behaviour::Answer(500));
    let webhook = client.create_webhook(&stack.merchant.url("/down"), &["*"]).await;
    publish(&client, 0..3000).await;
    wait::until("a backlog", SOON, async || {
        let parked = client.all(&format!("/company/webhooks/{webhook}/deliveries?status=parked")).await.len();
        if parked > 2000 { Ok(()) } else { Err(format!("{parked} parked")) }
    })
    .await;
    let while_down = stack.merchant.arrivals_at("/down").len();
    stack.merchant.behave("/down", Behaviour::Answer(200));
    stack.merchant.wait_at("/down", while_down + 200, SOON).await;
    stack.kill(Service::Deliverer).await;
    stack.run(Service::Deliverer).await;
    let delivered = wait::until("everything", Duration::from_secs(60), async || {
        let delivered = client.all(&format!("/company/webhooks/{webhook}/deliveries?status=delivered")).await;
        let open = client.all(&format!("/company/webhooks/{webhook}/deliveries")).await;
        let open = open.iter().filter(|one| one["state"] == "parked" || one["state"] == "pending").count();
        // Those that failed twice while the endpoint was down have been given up.
        if open == 0 && delivered.len() > 2000 { Ok(delivered) } else { Err(format!("{} and {open}", delivered.len())) }
    })
    .await;
    println!("{} delivered after the endpoint came back and the deliverer was killed", delivered.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_disabled_webhook_has_waiting_is_sent_when_it_is_enabled_and_forgotten_when_it_is_deleted() {
    let stack = plan().env("SHOPERY_RETRY_SCHEDULE", "500ms,1s").start().await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for path in ["/kept", "/deleted"] {
        stack.merchant.behave(path, Behaviour::Answer(500));
        webhooks.push(client.create_webhook(&stack.merchant.url(path), &["*"]).await);
    }
    publish(&client, 0..3).await;
    for webhook in &webhooks {
        client.in_state(webhook, "pending", 3, SOON).await;
        client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "isEnabled": false })).await.expect(200);
    }
    for (webhook, path) in webhooks.iter().zip(["/kept", "/deleted"]) {
        client.in_state(webhook, "parked", 3, SOON).await;
        stack.merchant.behave(path, Behaviour::Answer(200));
    }
    let (kept, deleted) = (&webhooks[0], &webhooks[1]);
    client.delete(&format!("/company/webhooks/{deleted}")).await.expect(204);
    client.patch(&format!("/company/webhooks/{kept}"), &json!({ "isEnabled": true })).await.expect(200);
    client.in_state(kept, "delivered", 3, SOON).await;
    let operator = async_nats::jetstream::new(stack.operator().await);
    wait::until("PARKED to be empty", SOON, async || {
        let left = operator.get_stream("PARKED").await.unwrap().cached_info().state.messages;
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    })
    .await;
    client.in_state(deleted, "failed", 3, SOON).await;
    let late = stack.merchant.arrivals_at("/deleted").iter().filter(|one| one.attempt() > 2).count();
    assert_eq!(late, 0, "a deleted webhook was delivered to");
}

/// A circuit whose deliverer, and the timer that it should have had, are long gone.
async fn put_stale_circuit(operator: &async_nats::Client, webhook: &str) {
    let circuits = async_nats::jetstream::new(operator.clone()).get_key_value("CIRCUITS").await.unwrap();
    let ago = time::OffsetDateTime::now_utc() - Duration::from_secs(120);
    let ago = ago.format(&time::format_description::well_known::Rfc3339).unwrap();
    let circuit = json!({ "state": "draining", "since": ago, "probes": 0, "drainer": null, "seenAt": ago });
    circuits.put(format!("tnt_a.{webhook}"), circuit.to_string().into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_whose_timer_a_crash_has_lost_is_looked_after() {
    let stack = Stack::plan().env("SHOPERY_SWEEP_INTERVAL", "1s").start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    client.publish(&event(0)).await.expect(202);
    client.in_state(&webhook, "delivered", 1, SOON).await;
    put_stale_circuit(&stack.operator().await, &webhook).await;
    client.publish(&event(1)).await.expect(202);
    client.in_state(&webhook, "delivered", 2, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_of_a_disabled_webhook_costs_no_timer() {
    let stack = Stack::plan().env("SHOPERY_SWEEP_INTERVAL", "200ms").start().await;
    let disabled = stack.client("tnt_disabled");
    let waiting = disabled.create_webhook_with(&stack.merchant.url("/b"), &["*"], json!({ "isEnabled": false })).await;
    disabled.publish(&event(0)).await.expect(202);
    disabled.in_state(&waiting, "parked", 1, SOON).await;
    let operator = stack.operator().await;
    let mut timers = operator.subscribe("retry.tnt_disabled.>").await.unwrap();
    operator.flush().await.unwrap();

    // What only a sweep sees to shows that there were some.
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    for swept in 1..=3 {
        put_stale_circuit(&operator, &webhook).await;
        client.publish(&event(swept)).await.expect(202);
        client.in_state(&webhook, "delivered", swept, SOON).await;
    }
    operator.flush().await.unwrap();
    let timer = timers.next().now_or_never();
    assert!(timer.is_none(), "{timer:?}");
    disabled.patch(&format!("/company/webhooks/{waiting}"), &json!({ "isEnabled": true })).await.expect(200);
    disabled.in_state(&waiting, "delivered", 1, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_too_long_expires_and_is_recorded() {
    let stack = plan().env("SHOPERY_RETRY_SCHEDULE", "1h").env("SHOPERY_PARKED_MAX_AGE", "1s").start().await;
    let client = stack.client("tnt_a");
    let webhook = broken_webhook(&stack, &client).await;
    publish(&client, 5..40).await;
    client.in_state(&webhook, "expired", 35, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_carries_the_latest_state_unless_the_webhook_wants_the_original() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "1s").start().await;
    let client = stack.client("tnt_a");
    for (path, payload) in [("/latest", "latest"), ("/original", "original")] {
        stack.merchant.behave(path, Behaviour::FailFirst { times: 1, status: 500 });
        let rules = json!({ "payload": payload, "fields": ["state"] });
        client.create_webhook_with(&stack.merchant.url(path), &["order-created"], rules).await;
    }
    let created = Event::order("1").with_data(r#"{"id":"1","state":1.0}"#);
    client.publish(&created).await.expect(202);
    for path in ["/latest", "/original"] {
        stack.merchant.wait_at(path, 1, SOON).await;
    }
    let mut updated = Event::new("order-updated", "1").with_data(r#"{"id":"1","state":2.0}"#);
    updated.id = "evt_update".to_owned();
    client.publish(&updated).await.expect(202);
    for (path, sent) in [("/latest", r#"{"state":2.0}"#), ("/original", r#"{"state":1.0}"#)] {
        let arrivals = stack.merchant.wait_at(path, 2, SOON).await;
        assert_eq!(arrivals[0].body, r#"{"state":1.0}"#, "{path}");
        assert_eq!(arrivals[1].body, sent, "{path}");
        assert_eq!(arrivals[0].webhook_id(), arrivals[1].webhook_id());
    }
}

/// A job that needs such a state is sent with its own, and those beside it once.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_nobody_can_read_holds_up_nothing() {
    let stack = plan().env("SHOPERY_RETRY_SCHEDULE", "1h").start().await;
    let client = stack.client("tnt_a");
    let webhook = broken_webhook(&stack, &client).await;
    publish(&client, 5..45).await;
    client.in_state(&webhook, "parked", 40, SOON).await;
    let while_down = stack.merchant.arrivals_at("/down").len();
    let jetstream = async_nats::jetstream::new(stack.operator().await);
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    let state = events.get_last_raw_message_by_subject("events.*.tnt_a.order.00020").await.unwrap();
    jetstream.publish(state.subject, "no event".into()).await.unwrap().await.unwrap();

    stack.merchant.behave("/down", Behaviour::Answer(200));
    client.in_state(&webhook, "delivered", 40, SOON).await;
    let arrivals = stack.merchant.arrivals_at("/down");
    let mut came: Vec<_> = arrivals[while_down..].iter().map(|arrival| arrival.event_id()).collect();
    came.sort_unstable();
    assert_eq!(came, (5..45).map(|number| format!("evt_{number:05}")).collect::<Vec<_>>());
}
