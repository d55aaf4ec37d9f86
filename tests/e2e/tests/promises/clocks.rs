//! Whatever the clock of a service says, what is due comes when it is due by that of NATS.

use std::time::Duration;

use serde_json::json;
use shopery_e2e::{Apart, Behaviour, Event, Service, Stack};

const SOON: Duration = Duration::from_secs(60);
const DELAY: Duration = Duration::from_secs(3);
/// The schedule spreads a delay by a fifth, and a busy machine takes its time.
const EARLIEST: Duration = Duration::from_millis(2300);
const LATEST: Duration = Duration::from_secs(10);

/// With the clocks of deliverer and router `clock_seconds` ahead.
async fn stack(clock_seconds: i64) -> Stack {
    let plan = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "3s").env("SHOPERY_CIRCUIT_FAILURES", "2");
    let mut stack = plan.env("SHOPERY_PROBE_FIRST", "3s").env("SHOPERY_PROBE_LONGEST", "3s").start().await;
    for service in [Service::Deliverer, Service::Router] {
        stack.stop(service).await;
        stack.set_apart(service, Apart { clock_seconds, ..Apart::default() });
        stack.run(service).await;
    }
    stack
}

/// How long after the first attempt at a path the next one came.
async fn pause(stack: &Stack, path: &str) -> Duration {
    let arrivals = stack.merchant.wait_at(path, 2, SOON).await;
    arrivals[1].at - arrivals[0].at
}

async fn what_is_due_is_due(clock_seconds: i64) {
    let stack = stack(clock_seconds).await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/retry", Behaviour::FailFirst { times: 1, status: 500 });
    client.create_webhook(&stack.merchant.url("/retry"), &["order-created"]).await;
    let rules = json!({ "debounce": format!("{}s", DELAY.as_secs()) });
    client.create_webhook_with(&stack.merchant.url("/debounced"), &["order-updated"], rules).await;

    client.publish(&Event::order("retry")).await.expect(202);
    let retry = pause(&stack, "/retry").await;
    assert!((EARLIEST..LATEST).contains(&retry), "the retry came after {retry:.1?}");
    let began = std::time::Instant::now();
    client.publish(&Event::new("order-updated", "burst")).await.expect(202);
    let came = stack.merchant.wait_at("/debounced", 1, SOON).await[0].at - began;
    assert!((EARLIEST..LATEST).contains(&came), "the burst came after {came:.1?}");

    // The first two attempts fail, and the endpoint is probed after a while.
    stack.merchant.behave("/probe", Behaviour::FailFirst { times: 2, status: 500 });
    client.create_webhook(&stack.merchant.url("/probe"), &["order-paid"]).await;
    for order in ["probe_1", "probe_2"] {
        client.publish(&Event::new("order-paid", order)).await.expect(202);
    }
    let arrivals = stack.merchant.wait_at("/probe", 3, SOON).await;
    let probe = arrivals[2].at - arrivals[1].at;
    assert!((Duration::from_secs(2)..LATEST).contains(&probe), "the probe came after {probe:.1?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_delays_nothing() {
    what_is_due_is_due(40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_behind_hurries_nothing() {
    what_is_due_is_due(-40).await;
}
