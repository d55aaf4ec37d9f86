//! Many webhooks: a service that restarts knows all of them, and the rest of them costs little.
//!
//! `SHOPERY_TEST_WEBHOOKS` is their number. `SHOPERY_TEST_REST_SECONDS` is for how long the CPU time at rest is measured; it is
//! printed, as is how soon each service is ready again.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use shopery_e2e::{Event, Service, Stack, process};

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(300);
/// What a tenant may have.
const OF_A_TENANT: usize = 100;
/// With more requests at once the api answers 503, because SQLite takes too long.
const AT_ONCE: usize = 4;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_restarts_knows_every_webhook() {
    let tenants = number("SHOPERY_TEST_WEBHOOKS", 1000).div_ceil(OF_A_TENANT);
    let mut stack = Stack::start().await;
    let url = stack.merchant.url("/a");
    let created = stream::iter(0..tenants).for_each_concurrent(AT_ONCE, async |tenant| {
        let client = stack.client(&format!("tnt_{tenant}"));
        for _ in 0..OF_A_TENANT {
            client.create_webhook(&url, &["order-*"]).await;
        }
    });
    created.await;
    stack.at_rest(SOON).await;

    let rest = Duration::from_secs(number("SHOPERY_TEST_REST_SECONDS", 3) as u64);
    let pids: Vec<_> = Service::ALL
        .map(|service| (service.name(), stack.process(service).pid()))
        .into_iter()
        .chain([("nats-server", stack.nats_pid())])
        .collect();
    let before: Vec<_> = pids.iter().map(|(_, pid)| process::cpu_time(*pid)).collect();
    tokio::time::sleep(rest).await;
    println!("CPU at rest with {} webhooks, over {rest:?}, in percent of a core:", tenants * OF_A_TENANT);
    for ((name, pid), before) in pids.iter().zip(before) {
        let used = process::cpu_time(*pid) - before;
        println!("  {name}: {:.2}", used.as_secs_f64() / rest.as_secs_f64() * 100.0);
    }
    for service in Service::ALL {
        assert!(stack.stop(service).await.success());
        let began = Instant::now();
        stack.run(service).await;
        println!("{} was ready after {:.0?}", service.name(), began.elapsed());
    }

    let published = stream::iter(0..tenants).for_each_concurrent(AT_ONCE, async |tenant| {
        stack.client(&format!("tnt_{tenant}")).publish(&Event::order("1")).await.expect(202);
    });
    published.await;
    let all = tenants * OF_A_TENANT;
    assert_eq!(stack.merchant.wait_at("/a", all, LONG).await.len(), all);
    stack.at_rest(LONG).await;
    assert_eq!(stack.merchant.arrivals_at("/a").len(), all);
}
