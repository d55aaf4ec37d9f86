//! A retry that the server could not fire is not forgotten.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use shopery_e2e::{Behaviour, Event, Service, Stack, wait};

const SOON: Duration = Duration::from_secs(30);

/// The server stores no message on RETRY that is larger than this; what a schedule publishes is one too.
async fn limit_messages(operator: &jetstream::Context, bytes: i32) {
    let config = operator.get_stream("RETRY").await.unwrap().cached_info().config.clone();
    operator.update_stream(Config { max_message_size: bytes, ..config }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_the_server_could_not_fire_is_published_again_and_fires_at_once() {
    // Nobody looks for it at first.
    let plan = Stack::plan().env("SHOPERY_SWEEP_INTERVAL", "1h").env("SHOPERY_RETRY_SCHEDULE", "2s");
    let mut stack = plan.start().await;
    let operator = jetstream::new(stack.operator().await);
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 1, status: 500 });
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    client.publish(&Event::order("stuck")).await.expect(202);
    let waiting = async || operator.get_stream("RETRY").await.unwrap().cached_info().state.messages;
    wait::until_true("the retry to be scheduled", SOON, async || waiting().await == 1).await;
    limit_messages(&operator, 100).await;
    // With its spread it is due after 2.4 s at most.
    let scheduled = Instant::now();
    wait::until_true("the retry to be long overdue", SOON, async || scheduled.elapsed() > Duration::from_secs(4)).await;
    limit_messages(&operator, -1).await;

    // There is room again, and other retries fire, but this one does not.
    stack.merchant.behave("/b", Behaviour::FailFirst { times: 1, status: 500 });
    let other = client.create_webhook(&stack.merchant.url("/b"), &["*"]).await;
    client.patch(&format!("/company/webhooks/{webhook}"), &serde_json::json!({ "events": ["order-paid"] })).await;
    client.publish(&Event::order("other")).await.expect(202);
    client.settled(&other, 1, SOON).await;
    assert_eq!((stack.merchant.arrivals_at("/a").len(), waiting().await), (1, 1));

    assert!(stack.stop(Service::Deliverer).await.success());
    stack.run_with(Service::Deliverer, &[("SHOPERY_SWEEP_INTERVAL", "500ms"), ("SHOPERY_OVERDUE_AFTER", "1s")]).await;
    stack.merchant.wait_at("/a", 2, SOON).await;
    let history = client.settled(&webhook, 1, SOON).await;
    assert_eq!((&history[0]["state"], history[0]["attemptCount"].as_i64()), (&"delivered".into(), Some(2)));
    wait::until_true("RETRY to be empty", SOON, async || waiting().await == 0).await;
    let found = stack.metrics(Service::Deliverer).await.value("shopery_overdue_schedules_total");
    assert_eq!(found, Some(1.0));
}
