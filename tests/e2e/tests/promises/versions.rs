//! Old and new versions side by side: what one has written, the other works on or leaves to those who know it.

use std::time::Duration;

use async_nats::HeaderMap;
use shopery_e2e::{Event, Service, Stack, wait};

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
    // It stands in nobody's way.
    client.publish(&Event::order("1")).await.expect(202);
    client.settled(&webhook, 1, SOON).await;
    let messages = async |name: &str| {
        let stream = jetstream.get_stream(name).await.unwrap();
        stream.cached_info().state.messages
    };
    assert_eq!((messages("JOBS").await, messages("OUTCOMES").await, messages("DEAD").await), (1, 1, 0));
}
