//! A repeat is harmless.

use std::time::Duration;

use shopery_e2e::client::BATCH;
use shopery_e2e::{Event, Stack};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_event_published_twice_over_http_and_nats_is_delivered_once() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let publisher = stack.publisher("tnt_a").await;

    let event = Event::order("1");
    let first = client.publish(&event).await.expect(202).json();
    assert_eq!(first["id"], event.id.as_str());
    // A repeat is taken as the first was, whatever way it takes, and stores nothing.
    client.publish(&event).await.expect(202);
    let reply = publisher.publish(&event).await.unwrap();
    assert!(reply["seq"].is_u64() && reply["stream"] == "EVENTS" && reply["id"] == event.id.as_str(), "{reply}");
    client.publish(&event.clone().with_data(r#"{"id":"another"}"#)).await.expect(409);
    client.post_events(BATCH, Event::batch(&[event.clone(), event.clone()])).await.expect(202);

    // The last event comes after all of these.
    client.publish(&Event::order("last")).await.expect(202);
    client.settled(&webhook, 2, SOON).await;
    let ids: Vec<_> = stack.merchant.arrivals().iter().map(|arrival| arrival.event_id().to_owned()).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert!(stack.merchant.arrivals().iter().any(|arrival| arrival.body == event.data.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_id_of_two_tenants_is_two_events() {
    let stack = Stack::start().await;
    for (tenant, path) in [("tnt_a", "/a"), ("tnt_b", "/b")] {
        let client = stack.client(tenant);
        client.create_webhook(&stack.merchant.url(path), &["*"]).await;
        client.publish(&Event::order("1")).await.expect(202);
    }
    let a = stack.merchant.wait_at("/a", 1, SOON).await;
    let b = stack.merchant.wait_at("/b", 1, SOON).await;
    assert_ne!(a[0].webhook_id(), b[0].webhook_id());
}
