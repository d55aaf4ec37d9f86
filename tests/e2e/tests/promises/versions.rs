//! Old and new versions side by side: services process the messages of older versions, and leave those of newer ones alone.
//!
//! `SHOPERY_TEST_OLD_BINARIES` is a folder with the services of an older version. With it, `a_rollout_loses_nothing` replaces them
//! one by one; without it, the test replaces services by themselves.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use shopery_e2e::{Client, Event, Service, Stack, wait};

const SOON: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_version_without_partitions_has_stored_is_routed() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let jetstream = async_nats::jetstream::new(stack.operator().await);
    let event = Event::order("1");
    jetstream.publish("events.tnt_a.order.1", event.json().into()).await.unwrap().await.unwrap();
    client.settled(&webhook, 1, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/a")[0].event_id(), event.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_a_newer_version_waits_for_those_who_know_it() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let jetstream = async_nats::jetstream::new(stack.operator().await);
    let newer = |subject: String| {
        let (jetstream, mut headers) = (jetstream.clone(), HeaderMap::new());
        headers.insert("Shopery-Version", "2");
        async move {
            jetstream.publish_with_headers(subject, headers, "unheard of".into()).await.unwrap().await.unwrap();
        }
    };
    newer(format!("jobs.fast.tnt_a.{webhook}")).await;
    newer("outcomes.router".to_owned()).await;
    newer("events.tnt_a.order.2".to_owned()).await;
    let left = "shopery_too_new_messages_total";
    for (service, consumer) in
        [(Service::Deliverer, "deliverer-fast"), (Service::Recorder, "recorder"), (Service::Router, "router")]
    {
        wait::until_true("it to be left alone twice", SOON, async || {
            let metric = format!("{left}{{consumer=\"{consumer}\"}}");
            stack.metrics(service).await.value(&metric).is_some_and(|count| count >= 2.0)
        })
        .await;
    }
    // Other work continues.
    client.publish(&Event::order("1")).await.expect(202);
    client.settled(&webhook, 1, SOON).await;
    let messages = async |name: &str| {
        let stream = jetstream.get_stream(name).await.unwrap();
        stream.cached_info().state.messages
    };
    assert_eq!((messages("JOBS").await, messages("OUTCOMES").await, messages("DEAD").await), (1, 1, 0));
}

/// Publishes events of several tenants until it is told to stop; returns the ids by tenant.
async fn publish_all(clients: Vec<Client>, is_over: Arc<AtomicBool>) -> Vec<HashSet<String>> {
    let mut published = vec![HashSet::new(); clients.len()];
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        for (client, published) in clients.iter().zip(&mut published) {
            let event = Event::order(&number.to_string());
            // Publishers repeat an event until it is accepted.
            while !client.try_publish(&event).await.is_ok_and(|reply| reply.status == 202) {
                tokio::task::yield_now().await;
            }
            published.insert(event.id);
        }
    }
    published
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_loses_nothing() {
    let old = std::env::var_os("SHOPERY_TEST_OLD_BINARIES");
    let plan = old.into_iter().fold(Stack::plan(), |plan, folder| plan.binaries(folder.into()));
    let mut stack = plan.start().await;
    let tenants: Vec<_> = (0..8).map(|number| format!("tnt_{number}")).collect();
    let clients: Vec<_> = tenants.iter().map(|tenant| stack.client(tenant)).collect();
    let mut webhooks = Vec::new();
    for (tenant, client) in tenants.iter().zip(&clients) {
        webhooks.push(client.create_webhook(&stack.merchant.url(&format!("/{tenant}")), &["order-*"]).await);
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn(publish_all(clients.clone(), is_over.clone()));
    let arrivals =
        |stack: &Stack| tenants.iter().map(|tenant| stack.merchant.arrivals_at(&format!("/{tenant}")).len()).sum();
    stack.use_own_binaries();
    for service in Service::ALL {
        // Both versions run, then the new one alone.
        let mut beside = stack.replica(service, 2).await;
        let before: usize = arrivals(&stack);
        wait::until_true("deliveries beside the old version", SOON, async || arrivals(&stack) > before + 50).await;
        stack.stop(service).await;
        stack.run(service).await;
        beside.kill().await;
    }
    is_over.store(true, Ordering::Relaxed);
    let published = publishing.await.unwrap();
    for ((tenant, client), (webhook, published)) in tenants.iter().zip(&clients).zip(webhooks.iter().zip(&published)) {
        client.in_state(webhook, "delivered", published.len(), SOON).await;
        let came = stack.merchant.arrivals_at(&format!("/{tenant}"));
        let came: HashSet<_> = came.iter().map(|arrival| arrival.event_id().to_owned()).collect();
        assert_eq!(came, *published, "{tenant}");
    }
    let jetstream = async_nats::jetstream::new(stack.operator().await);
    let dead = jetstream.get_stream("DEAD").await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 0);
}
