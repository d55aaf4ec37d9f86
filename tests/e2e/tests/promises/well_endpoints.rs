//! Endpoints that are well, as merchants have them: behind nginx, which closes connections as it likes, near and far.

use std::collections::HashSet;
use std::time::Duration;

use shopery_e2e::{Client, Distance, Event, Nginx, Service, Stack, wait};

const SOON: Duration = Duration::from_secs(120);
const DELIVERIES: usize = 10_000;
const BATCH: usize = 1000;

async fn stack(nginx: &Nginx, port: u16) -> Stack {
    Stack::plan().trust(nginx.root()).env("SHOPERY_EGRESS_ALLOW", format!("127.0.0.1:{port}")).start().await
}

/// Publishes; `between` is done after each tenth.
async fn publish(client: &Client, between: impl Fn()) -> HashSet<String> {
    let events: Vec<_> = (0..DELIVERIES).map(|number| Event::order(&number.to_string())).collect();
    for part in events.chunks(BATCH) {
        client.try_publish_batch(part).await.unwrap().expect(202);
        between();
    }
    events.into_iter().map(|event| event.id).collect()
}

/// Everything was delivered, and no attempt has failed; returns how often a request was sent again at once.
async fn all_delivered(stack: &Stack, nginx: &Nginx, published: &HashSet<String>) -> f64 {
    let delivered = "shopery_delivery_attempts_total{result=\"delivered\"}";
    wait::until("all deliveries", SOON, async || {
        let metrics = stack.metrics(Service::Deliverer).await;
        let count = metrics.value(delivered).unwrap_or_default();
        let failed = metrics.sum("shopery_delivery_attempts_total") - count;
        assert!(failed == 0.0, "{failed} attempts have failed, {count} have not");
        if count >= DELIVERIES as f64 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    let served: HashSet<_> = nginx.served().into_iter().map(|served| served.event_id).collect();
    assert_eq!(served, *published);
    stack.metrics(Service::Deliverer).await.sum("shopery_sender_requests_resent_total")
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_that_ends_http_2_connections_fails_no_attempt() {
    let nginx = Nginx::start("ssl http2", "keepalive_requests 100; keepalive_timeout 1s;").await;
    let stack = stack(&nginx, nginx.port()).await;
    let client = stack.client("tnt_a");
    client.create_webhook(&format!("https://127.0.0.1:{}/a", nginx.port()), &["*"]).await;
    let published = publish(&client, || nginx.reload()).await;
    let resent = all_delivered(&stack, &nginx, &published).await;
    println!("{resent} requests were sent again at once");
    assert!(nginx.served().iter().all(|served| served.protocol == "HTTP/2.0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_that_ends_http_1_connections_fails_no_attempt() {
    let nginx = Nginx::start("ssl", "keepalive_requests 20; keepalive_timeout 1s;").await;
    let stack = stack(&nginx, nginx.port()).await;
    let client = stack.client("tnt_a");
    client.create_webhook(&format!("https://127.0.0.1:{}/a", nginx.port()), &["*"]).await;
    let published = publish(&client, || nginx.reload()).await;
    let resent = all_delivered(&stack, &nginx, &published).await;
    println!("{resent} requests were sent again at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_far_away_that_ends_connections_fails_no_attempt() {
    let nginx = Nginx::start("ssl http2", "keepalive_requests 100; keepalive_timeout 1s;").await;
    let distance = Distance::to(nginx.port(), Duration::from_millis(150)).await;
    let stack = stack(&nginx, distance.port()).await;
    let client = stack.client("tnt_a");
    client.create_webhook(&format!("https://127.0.0.1:{}/a", distance.port()), &["*"]).await;
    let published = publish(&client, || {}).await;
    let resent = all_delivered(&stack, &nginx, &published).await;
    println!("{resent} requests were sent again at once");
}
