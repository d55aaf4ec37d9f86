//! Several routers: one router at a time has the events of a tenant, and another one continues when it stops or is killed.

use std::time::{Duration, Instant};

use serde_json::json;
use shopery_e2e::{Event, Process, Service, Signal, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SOON: Duration = Duration::from_secs(40);
/// Enough for both routers to have some.
const TENANTS: usize = 16;
const ORDERS: usize = 12;
/// Far below the redelivery of what a dead router has pulled, after 30 s by default.
const TAKEN_OVER: Duration = Duration::from_secs(25);

fn tenants() -> Vec<String> {
    (0..TENANTS).map(|number| format!("tnt_{number}")).collect()
}

/// How often the second router has taken a partition over.
fn taken_over(stack: &Stack) -> usize {
    let log = std::fs::read_to_string(stack.folder().join("shopery-router-2.log")).unwrap_or_default();
    log.matches("taken over").count()
}

/// Waits until the second router owns its share of the partitions. `before`: the number that it had taken over earlier.
async fn shares_are_even(stack: &Stack, before: usize) {
    wait::until_true("both to own their share", SOON, async || {
        let held = stack.metrics(Service::Router).await.value("shopery_partitions_held");
        taken_over(stack) >= before + 4 && held.is_some_and(|held| (4.0..=5.0).contains(&held))
    })
    .await;
}

/// Starts a second router, and waits until it owns its share of the partitions.
async fn second_router(stack: &Stack) -> Process {
    let before = taken_over(stack);
    let router = stack.replica(Service::Router, 2).await;
    shares_are_even(stack, before).await;
    router
}

fn event(order: usize, name: &str, seconds_ago: i64, status: &str) -> Event {
    let time = OffsetDateTime::now_utc() - time::Duration::seconds(seconds_ago);
    let mut event = Event::new("order-updated", &order.to_string()).with_data(json!({ "status": status }).to_string());
    event.id = format!("evt_{order}_{name}");
    event.time = Some(time.format(&Rfc3339).unwrap());
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routers_drop_what_one_would_and_send_no_old_state_last() {
    let stack = Stack::start().await;
    let mut second = second_router(&stack).await;
    let mut webhooks = Vec::new();
    for tenant in tenants() {
        let client = stack.client(&tenant);
        let webhook = |path: &str| stack.merchant.url(&format!("/{tenant}/{path}"));
        let fields =
            client.create_webhook_with(&webhook("fields"), &["order-*"], json!({ "fields": ["status"] })).await;
        let all = client.create_webhook(&webhook("all"), &["order-*"]).await;
        webhooks.push((tenant, client, fields, all));
    }
    for (_, client, _, _) in &webhooks {
        // The same state twice, then a change, then a late event from between.
        let told = [("a", 60, "open"), ("b", 50, "open"), ("d", 10, "paid"), ("c", 30, "open")];
        let events: Vec<_> = told
            .iter()
            .flat_map(|(name, ago, status)| (0..ORDERS).map(move |order| event(order, name, *ago, status)))
            .collect();
        client.try_publish_batch(&events).await.unwrap().expect(202);
    }
    for (tenant, client, fields, all) in &webhooks {
        let history = client.settled(fields, 4 * ORDERS, SOON).await;
        // The late event would send the newest state, which the endpoint already has.
        let duplicates = history.iter().filter(|delivery| delivery["state"] == "duplicate").count();
        assert_eq!(duplicates, 2 * ORDERS, "{tenant}: {history:?}");
        client.settled(all, 4 * ORDERS, SOON).await;
        for path in ["fields", "all"] {
            let arrivals = stack.merchant.arrivals_at(&format!("/{tenant}/{path}"));
            let is_late = |arrival: &&std::sync::Arc<shopery_e2e::Arrival>| arrival.event_id().ends_with("_c");
            for arrival in arrivals.iter().filter(is_late) {
                assert_eq!(arrival.body, json!({ "status": "paid" }).to_string(), "{tenant} {path}");
            }
        }
    }
    second.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_router_goes_on_where_one_ends() {
    let mut stack = Stack::start().await;
    let mut second = second_router(&stack).await;
    let mut clients = Vec::new();
    for tenant in tenants() {
        let client = stack.client(&tenant);
        let url = stack.merchant.url(&format!("/{tenant}"));
        let webhook = client.create_webhook(&url, &["order-*"]).await;
        clients.push((client, webhook));
    }
    let mut sent = 0;
    let mut publish_to_all = async |what: &str| {
        let began = Instant::now();
        for (client, _) in &clients {
            client.publish(&event(sent, what, 0, "open")).await.expect(202);
        }
        sent += 1;
        for (client, webhook) in &clients {
            client.in_state(webhook, "delivered", sent, TAKEN_OVER).await;
        }
        println!("{what}: all tenants had their event after {:.1?}", began.elapsed());
    };
    publish_to_all("both").await;
    // It is still connected, so some events go to it until its pulls expire.
    second.signal(Signal::SIGSTOP);
    publish_to_all("paused").await;
    let before = taken_over(&stack);
    second.signal(Signal::SIGCONT);
    publish_to_all("resumed").await;
    shares_are_even(&stack, before).await;
    second.kill().await;
    publish_to_all("killed").await;
    let mut second = second_router(&stack).await;
    second.signal(Signal::SIGTERM);
    publish_to_all("stopping").await;
    assert!(second.exit(SOON).await.success());
    publish_to_all("stopped").await;
    // A router that restarts at its address need not wait for its own lease.
    stack.kill(Service::Router).await;
    stack.run(Service::Router).await;
    publish_to_all("again").await;
}
