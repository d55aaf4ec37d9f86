//! An endpoint that works and fails by turns is attempted within bounds, gets everything in the end, and disturbs nobody.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use shopery_e2e::{Behaviour, Event, Stack};

/// Between two events of the flapping tenant.
const PACE: Duration = Duration::from_millis(4);
/// Events after which its endpoint behaves in another way: two seconds and a half, on a machine that keeps up.
const PHASE: usize = 600;
const PHASES: usize = 8;
/// Attempts that a phase in which the endpoint fails may cost at most: those under way when it begins (a quarter of the
/// slots), the first that fail until the circuit opens, a last round of what is parked, and the probes of the phase; and the
/// retries of those, once.
const FAILURES: usize = 2 * (SLOTS / 4 + 5 + 64 + 10);
const SLOTS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_flaps_is_attempted_within_bounds_and_gets_everything_in_the_end() {
    let plan = Stack::plan()
        .env("SHOPERY_SLOTS", SLOTS.to_string())
        .env("SHOPERY_PROBE_FIRST", "300ms")
        .env("SHOPERY_PROBE_LONGEST", "1s")
        .env("SHOPERY_SWEEP_INTERVAL", "1s")
        .env("SHOPERY_RETRY_SCHEDULE", "1s,1s,2s,2s,4s,4s,8s,8s,16s,16s");
    let stack = plan.start().await;
    let (flapping, healthy) = (stack.client("tnt_a"), stack.client("tnt_b"));
    let webhook = flapping.create_webhook(&stack.merchant.url("/flap"), &["*"]).await;
    healthy.create_webhook(&stack.merchant.url("/healthy"), &["*"]).await;

    let (mut published, mut slowest) = (0, Duration::ZERO);
    let mut failing = 0;
    let started = Instant::now();
    let mut pace = tokio::time::interval(PACE);
    for phase in 0..PHASES {
        stack.merchant.behave(
            "/flap",
            match phase % 4 {
                1 => Behaviour::Answer(500),
                3 => Behaviour::Hang,
                _ => Behaviour::Answer(200),
            },
        );
        failing += phase % 2;
        for number in 0..PHASE {
            pace.tick().await;
            let event = Event::order(&format!("flap_{phase}_{number}"));
            flapping.publish(&event).await.expect(202);
            published += 1;
            if number % 60 == 0 {
                let event = Event::order(&format!("healthy_{phase}_{number}"));
                let (id, began) = (event.id.clone(), Instant::now());
                healthy.publish(&event).await.expect(202);
                let came =
                    |all: &[std::sync::Arc<shopery_e2e::Arrival>]| all.iter().rev().any(|one| one.event_id() == id);
                stack.merchant.wait_for("a healthy delivery", Duration::from_secs(10), came).await;
                slowest = slowest.max(began.elapsed());
            }
        }
    }
    let (took, attempts) = (started.elapsed(), stack.merchant.arrivals_at("/flap").len());
    stack.merchant.behave("/flap", Behaviour::Answer(200));
    stack.at_rest(Duration::from_secs(120)).await;

    let arrivals = stack.merchant.arrivals_at("/flap");
    let failures = arrivals.len().saturating_sub(published);
    println!(
        "{published} events in {took:.1?}: {attempts} attempts by then, {failures} of {} failed, in {failing} bad phases; \
         the slowest healthy delivery took {slowest:?}",
        arrivals.len()
    );
    assert!(failures <= failing * FAILURES, "{failures} attempts at an endpoint that was bad {failing} times");
    assert!(slowest < Duration::from_secs(3), "a healthy delivery took {slowest:?}");
    let events: HashSet<_> = arrivals.iter().map(|one| one.event_id()).collect();
    assert_eq!(events.len(), published);
    let history = flapping.all(&format!("/company/webhooks/{webhook}/deliveries")).await;
    let delivered = history.iter().filter(|one| one["state"] == "delivered").count();
    assert_eq!((history.len(), delivered), (published, published));
}
