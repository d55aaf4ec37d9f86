//! The data plane never touches SQL: without the database, webhooks still flow.
//! `SHOPERY_TEST_OUTAGE_SECONDS` makes the outage longer.

use std::collections::HashSet;
use std::time::Duration;

use shopery_e2e::{Burst, DatabaseKind, Event, Service, Stack};

const SOON: Duration = Duration::from_secs(60);

mod postgres {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn deliveries_go_on_while_the_database_is_stopped_and_the_history_is_complete_after() {
        let outage = std::env::var("SHOPERY_TEST_OUTAGE_SECONDS").map_or(4, |seconds| seconds.parse().unwrap());
        let mut stack = Stack::on(DatabaseKind::Postgres).await;
        let client = stack.client("tnt_a");
        let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
        let publisher = stack.publisher("tnt_a").await;
        let burst = Burst::start("outage", &client, 3, &publisher, 2);
        burst.progress(100).await;

        stack.postgres.as_mut().unwrap().stop().await;
        let end = tokio::time::Instant::now() + Duration::from_secs(outage);
        loop {
            let before = stack.merchant.count();
            burst.progress(50).await;
            stack.merchant.wait_for("deliveries without a database", SOON, |all| all.len() >= before + 50).await;
            if tokio::time::Instant::now() >= end {
                break;
            }
        }
        // The control plane says that it cannot work, and does not hang.
        let refused = client.get("/company/webhooks").await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        refused.problem();

        stack.postgres.as_mut().unwrap().resume().await;
        burst.progress(50).await;
        let accepted = burst.end().await;
        let history = client.settled(&webhook, accepted.len(), SOON).await;
        assert!(history.iter().all(|delivery| delivery["state"] == "delivered"));
        let recorded: HashSet<_> = history.iter().map(|delivery| delivery["eventId"].as_str().unwrap()).collect();
        assert_eq!(recorded, accepted.iter().map(String::as_str).collect());
        stack.ready(Service::Api).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_data_plane_restarts_without_the_database_and_the_control_plane() {
        the_data_plane_restarts_alone(DatabaseKind::Postgres).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_plane_restarts_without_the_control_plane() {
    the_data_plane_restarts_alone(DatabaseKind::Sqlite).await;
}

async fn the_data_plane_restarts_alone(database: DatabaseKind) {
    let mut stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    for service in [Service::Api, Service::Recorder, Service::Controller] {
        stack.kill(service).await;
    }
    if let Some(postgres) = &mut stack.postgres {
        postgres.stop().await;
    }
    for service in [Service::Ingest, Service::Router, Service::Deliverer] {
        stack.kill(service).await;
        stack.run(service).await;
    }
    client.publish(&Event::order("1")).await.expect(202);
    stack.merchant.wait_at("/a", 1, SOON).await;

    if let Some(postgres) = &mut stack.postgres {
        postgres.resume().await;
    }
    for service in [Service::Controller, Service::Recorder, Service::Api] {
        stack.run(service).await;
    }
    let history = client.settled(&webhook, 1, SOON).await;
    assert_eq!(history[0]["state"], "delivered");
}
