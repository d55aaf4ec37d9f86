//! A crash anywhere repeats work and never loses it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use shopery_e2e::{Behaviour, Burst, Service, Stack};

#[tokio::test(flavor = "multi_thread")]
async fn kill_dash_nine_of_each_service_and_of_nats_in_a_burst_loses_nothing() {
    // No circuit opens: what fails is retried.
    let mut stack = Stack::plan().env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let client = stack.client("tnt_a");
    // One endpoint answers at once, one takes its time, one fails at first: at every moment something is in flight.
    stack.merchant.behave("/slow", Behaviour::Slow(Duration::from_millis(80)));
    stack.merchant.behave("/shaky", Behaviour::FailFirst { times: 40, status: 500 });
    let mut webhooks = HashMap::new();
    for path in ["/quick", "/slow", "/shaky"] {
        webhooks.insert(path, client.create_webhook(&stack.merchant.url(path), &["order-*"]).await);
    }
    let publisher = stack.publisher("tnt_a").await;
    let burst = Burst::start("crash", &client, 6, &publisher, 3);

    for service in Service::ALL {
        burst.progress(150).await;
        stack.kill(service).await;
        match service {
            // Nobody acknowledges.
            Service::Ingest => burst.setbacks(10).await,
            _ => burst.progress(150).await,
        }
        stack.run(service).await;
    }
    burst.progress(150).await;
    stack.kill_nats().await;
    burst.setbacks(10).await;
    stack.start_nats().await;
    burst.progress(300).await;
    let refusals = burst.refusals();
    let accepted = burst.end().await;

    let due: HashSet<(&str, &str)> =
        accepted.iter().flat_map(|id| webhooks.keys().map(|path| (*path, id.as_str()))).collect();
    let arrivals = stack
        .merchant
        .wait_for("every acknowledged event at every webhook", Duration::from_secs(120), |all| {
            all.len() >= due.len() && {
                let seen: HashSet<_> = all.iter().map(|one| (one.path.as_str(), one.event_id())).collect();
                due.is_subset(&seen)
            }
        })
        .await;
    for (path, webhook) in &webhooks {
        let history = client.settled(webhook, accepted.len(), Duration::from_secs(60)).await;
        let states: HashSet<_> = history.iter().map(|delivery| delivery["state"].to_string()).collect();
        assert_eq!(states, HashSet::from(["\"delivered\"".to_owned()]), "{path}");
    }

    // A repeat has the id of the first, and only what failed or was under way is repeated.
    let ids: HashSet<_> = arrivals.iter().map(|one| one.webhook_id()).collect();
    assert_eq!(ids.len(), due.len(), "a repeat came under another webhook-id");
    let failed = 40;
    let repeats = stack.merchant.count().saturating_sub(due.len() + failed);
    println!(
        "{} events acknowledged after {refusals} refusals, {} deliveries, {repeats} repeats after five kills",
        accepted.len(),
        due.len()
    );
    assert!(repeats < due.len(), "a crash repeats what was in flight, not everything: {repeats} repeats");
}
