//! A repeat is harmless.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::{HeaderMap, jetstream};
use serde_json::json;
use shopery_e2e::client::BATCH;
use shopery_e2e::{Behaviour, Event, Service, Stack, wait};

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

/// A crash may make two jobs of a delivery. The one that is behind must not put an end to the other: PARKED takes the attempts
/// that it is given a second time for repeats, and nobody would be left to make the last ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_again_does_not_set_its_delivery_back() {
    let mut stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "100ms,5s").start().await;
    let jetstream = jetstream::new(stack.operator().await);
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    stack.merchant.behave("/a", Behaviour::Answer(500));
    stack.stop(Service::Deliverer).await;
    client.publish(&Event::order("1")).await.expect(202);
    let job = wait::until("the job", SOON, async || {
        let jobs = jetstream.get_stream("JOBS").await.map_err(|error| error.to_string())?;
        jobs.get_last_raw_message_by_subject("jobs.>").await.map_err(|error| error.to_string())
    })
    .await;
    stack.run(Service::Deliverer).await;
    stack.merchant.wait_at("/a", 2, SOON).await;
    // The third attempt is waited for.
    client.in_state(&webhook, "pending", 1, SOON).await;

    jetstream.publish(job.subject, job.payload).await.unwrap().await.unwrap();
    wait::until_true("the first attempt to fail again", SOON, async || {
        stack.merchant.arrivals_at("/a").get(2).is_some_and(|arrival| arrival.answered().is_some())
    })
    .await;
    stack.merchant.behave("/a", Behaviour::Answer(200));
    client.in_state(&webhook, "delivered", 1, SOON).await;
    let attempts: Vec<_> = stack.merchant.arrivals_at("/a").iter().map(|arrival| arrival.attempt()).collect();
    assert_eq!(attempts, [1, 2, 1, 3]);
}

async fn last_event(stack: &Stack) -> StreamMessage {
    let jetstream = jetstream::new(stack.operator().await);
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    events.get_last_raw_message_by_subject("events.>").await.unwrap()
}

/// A router gets the event once more, as if its acknowledgement were lost.
async fn route_again(stack: &Stack, event: StreamMessage) {
    let jetstream = jetstream::new(stack.operator().await);
    let mut place = HeaderMap::new();
    place.insert("Shopery-Event-Sequence", event.sequence.to_string());
    place.insert("Shopery-Event-Stored-At", event.time.unix_timestamp_nanos().to_string());
    let deferred = format!("deferred.{}", event.subject.strip_prefix("events.").unwrap());
    jetstream.publish_with_headers(deferred, place, event.payload).await.unwrap().await.unwrap();
}

/// Another router has routed what lies between.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_routed_again_after_a_takeover_carries_no_duplicate() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let rules = json!({ "fields": ["status"] });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["*"], rules).await;
    let updated = |number: usize, status: &str| Event {
        id: format!("evt_{number}"),
        ..Event::new("order-updated", "1").with_data(format!(r#"{{"status":"{status}"}}"#))
    };
    client.publish(&updated(1, "open")).await.expect(202);
    client.settled(&webhook, 1, SOON).await;
    let first = last_event(&stack).await;
    client.publish(&updated(2, "paid")).await.expect(202);
    client.settled(&webhook, 2, SOON).await;
    stack.stop(Service::Router).await;
    stack.run(Service::Router).await;

    route_again(&stack, first).await;
    let jetstream = jetstream::new(stack.operator().await);
    wait::until_true("it to be routed again", SOON, async || {
        jetstream.get_stream("DEFERRED").await.is_ok_and(|deferred| deferred.cached_info().state.messages == 0)
    })
    .await;
    client.publish(&updated(3, "open")).await.expect(202);
    let history = client.settled(&webhook, 3, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
}

/// What an endpoint has accepted under an id, it takes for a repeat under that id.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_that_is_repeated_after_a_crash_takes_nothing_new_along() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let rules = json!({ "debounce": "2s" });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["*"], rules).await;
    client.publish(&Event::order("1")).await.expect(202);
    let first = stack.merchant.wait_at("/a", 1, SOON).await[0].webhook_id().to_owned();
    client.settled(&webhook, 1, SOON).await;
    let event = last_event(&stack).await;

    // The ids of what has fired are lost with NATS; that the router gets the event again is as if its
    // acknowledgement were, too.
    stack.kill_nats().await;
    stack.start_nats().await;
    route_again(&stack, event).await;
    let jetstream = jetstream::new(stack.operator().await);
    wait::until_true("the burst to be repeated", SOON, async || {
        let retry = jetstream.get_stream("RETRY").await.unwrap();
        let is_scheduled = retry.get_last_raw_message_by_subject("retry.>").await.is_ok();
        is_scheduled || stack.merchant.arrivals_at("/a").len() > 1
    })
    .await;
    client.publish(&Event { id: "evt_2".to_owned(), ..Event::order("1") }).await.expect(202);
    let history = client.settled(&webhook, 2, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    let arrivals = stack.merchant.arrivals_at("/a");
    let second: Vec<_> =
        arrivals.iter().filter(|arrival| arrival.header("x-shopery-payload-event-id") == "evt_2").collect();
    assert!(!second.is_empty() && second.iter().all(|arrival| arrival.webhook_id() != first), "{arrivals:?}");
}
