//! What the services share (streams, CONFIG, the schema) has one owner, the controller. The others wait for it, and never take
//! what is absent for what was deleted.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Client, DatabaseKind, Event, Process, Service, Signal, Stack, wait};

const SOON: Duration = Duration::from_secs(30);

fn event(number: usize) -> Event {
    Event::order(&format!("{number:03}"))
}

async fn obstacle(stack: &Stack, service: Service, name: &str) -> String {
    // It may have been started just now.
    let Ok(ready) = reqwest::get(format!("{}/readyz", stack.url(service))).await else { return String::new() };
    let told: Value = ready.json().await.unwrap();
    told["obstacles"][name].as_str().unwrap_or_default().to_owned()
}

async fn delivered(client: &Client, webhook: &str, count: usize) {
    let history = client.settled(webhook, count, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
}

/// CONFIG is there, and marked as complete.
async fn config_is_complete(stack: &Stack) {
    let jetstream = jetstream::new(stack.operator().await);
    wait::until("CONFIG to be complete", SOON, async || {
        let config = jetstream.get_key_value("CONFIG").await.map_err(|error| error.to_string())?;
        let mark = config.get("complete").await.map_err(|error| error.to_string())?;
        mark.map(drop).ok_or_else(|| "it has no mark".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_comes_back_with_an_empty_store_while_all_run() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let before = client.create_webhook(&stack.merchant.url("/before"), &["*"]).await;
    client.publish(&event(0)).await.expect(202);
    delivered(&client, &before, 1).await;

    stack.kill_nats().await;
    stack.empty_nats();
    stack.start_nats().await;
    config_is_complete(&stack).await;
    for service in Service::ALL {
        stack.ready(service).await;
    }
    let after = client.create_webhook(&stack.merchant.url("/after"), &["*"]).await;
    client.publish(&event(1)).await.expect(202);
    delivered(&client, &before, 2).await;
    delivered(&client, &after, 1).await;

    // Who starts now knows them too.
    for service in [Service::Router, Service::Deliverer] {
        stack.kill(service).await;
        stack.run(service).await;
    }
    client.publish(&event(2)).await.expect(202);
    delivered(&client, &before, 3).await;
    delivered(&client, &after, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_is_lost_deletes_no_webhook() {
    let mut stack = Stack::plan().env("SHOPERY_SWEEP_INTERVAL", "500ms").start().await;
    let client = stack.client("tnt_a");
    let kept = client.create_webhook(&stack.merchant.url("/kept"), &["*"]).await;
    let deleted = client.create_webhook(&stack.merchant.url("/deleted"), &["*"]).await;
    for webhook in [&kept, &deleted] {
        client.patch(&format!("/company/webhooks/{webhook}"), &json!({ "isEnabled": false })).await.expect(200);
    }
    for number in 0..21 {
        client.publish(&event(number)).await.expect(202);
    }
    for webhook in [&kept, &deleted] {
        client.in_state(webhook, "parked", 21, SOON).await;
    }
    // Nobody is there to fill the bucket that is made anew, empty, and to tell of the deletion.
    stack.stop(Service::Deliverer).await;
    client.delete(&format!("/company/webhooks/{deleted}")).await.expect(204);
    stack.kill(Service::Controller).await;
    stack.run(Service::Deliverer).await;
    let jetstream = jetstream::new(stack.operator().await);
    jetstream.delete_key_value("CONFIG").await.unwrap();
    let empty = jetstream::kv::Config { bucket: "CONFIG".to_owned(), history: 1, ..Default::default() };
    jetstream.create_key_value(empty).await.unwrap();
    let unknown = "CONFIG is not complete";
    wait::until_true("the router to see it", SOON, async || stack.log(Service::Router).contains(unknown)).await;

    // A router goes on with what it knows; one that starts waits, and says for what.
    client.publish(&event(21)).await.expect(202);
    client.in_state(&kept, "parked", 22, SOON).await;
    stack.stop(Service::Deliverer).await;
    stack.spawn(Service::Deliverer);
    wait::until_true("the deliverer to wait", SOON, async || {
        stack.log(Service::Deliverer).matches(unknown).count() > 0
            && obstacle(&stack, Service::Deliverer, "webhooks").await.contains(unknown)
    })
    .await;

    stack.run(Service::Controller).await;
    config_is_complete(&stack).await;
    stack.ready(Service::Deliverer).await;
    let ended = client.in_state(&deleted, "failed", 21, SOON).await;
    assert!(ended.iter().all(|one| one["error"]["reason"] == "webhook_deleted"), "{ended:?}");
    client.patch(&format!("/company/webhooks/{kept}"), &json!({ "isEnabled": true })).await.expect(200);
    delivered(&client, &kept, 22).await;
}

mod postgres {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn events_that_come_before_config_is_complete_are_routed_when_it_is() {
        let mut stack = Stack::on(DatabaseKind::Postgres).await;
        let client = stack.client("tnt_a");
        let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
        for service in Service::ALL {
            stack.stop(service).await;
        }
        stack.stop_nats().await;
        stack.empty_nats();
        stack.start_nats().await;
        stack.postgres.as_mut().unwrap().stop().await;
        // The streams are there without the database; the webhooks are not.
        for service in [Service::Controller, Service::Ingest, Service::Router, Service::Deliverer] {
            stack.spawn(service);
        }
        stack.ready(Service::Ingest).await;
        for number in 0..20 {
            client.publish(&event(number)).await.expect(202);
        }
        wait::until_true("the router to wait for CONFIG", SOON, async || {
            obstacle(&stack, Service::Router, "webhooks").await.contains("CONFIG is not complete")
        })
        .await;
        stack.postgres.as_mut().unwrap().resume().await;
        for service in [Service::Recorder, Service::Api] {
            stack.spawn(service);
        }
        for service in Service::ALL {
            stack.ready(service).await;
        }
        delivered(&client, &webhook, 20).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_database_that_takes_nothing_for_a_while_loses_no_outcome() {
        let stack = Stack::on(DatabaseKind::Postgres).await;
        let client = stack.client("tnt_a");
        let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
        let postgres = stack.postgres.as_ref().unwrap();
        postgres.be_read_only(true).await;
        let waits = "the history waits for the database";
        for number in 0..150 {
            client.publish(&event(number)).await.expect(202);
        }
        stack.merchant.wait_at("/a", 150, SOON).await;
        wait::until_true("the recorder to wait", SOON, async || {
            stack.log(Service::Recorder).matches(waits).count() > 4
        })
        .await;
        postgres.be_read_only(false).await;
        delivered(&client, &webhook, 150).await;
        let jetstream = jetstream::new(stack.operator().await);
        assert_eq!(jetstream.get_stream("DEAD").await.unwrap().cached_info().state.messages, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_row_that_does_not_read_stands_in_nobodys_way() {
        let mut stack = Stack::on(DatabaseKind::Postgres).await;
        let client = stack.client("tnt_a");
        let broken = client.create_webhook(&stack.merchant.url("/broken"), &["*"]).await;
        let other = client.create_webhook(&stack.merchant.url("/other"), &["*"]).await;
        let sql = format!("UPDATE webhooks SET rules = '[nonsense' WHERE id = '{broken}'");
        stack.postgres.as_ref().unwrap().value(&sql).await;
        let listed = client.all("/company/webhooks").await;
        assert_eq!(listed.iter().map(|one| one["id"].as_str().unwrap()).collect::<Vec<_>>(), [other.as_str()]);
        client.get(&format!("/company/webhooks/{broken}")).await.expect(500);
        for service in [Service::Api, Service::Recorder, Service::Controller] {
            stack.kill(service).await;
            stack.run(service).await;
        }
        client
            .patch(&format!("/company/webhooks/{other}"), &json!({ "url": stack.merchant.url("/new") }))
            .await
            .expect(200);
        client.publish(&event(0)).await.expect(202);
        stack.merchant.wait_at("/new", 1, SOON).await;
        // As CONFIG has it, it works.
        stack.merchant.wait_at("/broken", 1, SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_after_a_change_finds_it_however_often_nats_is_killed() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/first"), &["*"]).await;
    for round in 0..4 {
        for _ in 0..2 {
            stack.kill_nats().await;
            stack.start_nats().await;
        }
        let path = format!("/{round}");
        let url = stack.merchant.url(&path);
        let created = wait::until("a webhook to be created", SOON, async || {
            let body = json!({ "name": path, "url": url, "events": ["*"], "isEnabled": true });
            let answer = client.post("/company/webhooks", &body).await;
            if answer.status == 201 { Ok(answer.json()) } else { Err(answer.text()) }
        })
        .await;
        let webhook = created["id"].as_str().unwrap().to_owned();
        let mut published = 0;
        wait::until("20 events to be accepted", SOON, async || {
            while published < 20 {
                match client.try_publish(&event(round * 100 + published)).await {
                    Ok(answer) if answer.status == 202 => published += 1,
                    refused => return Err(format!("{refused:?}")),
                }
            }
            Ok(())
        })
        .await;
        // The kill may have cost NATS the acknowledgements of the round before, whose events then come again.
        wait::until("the 20 events to be delivered", SOON, async || {
            let history = client.all(&format!("/company/webhooks/{webhook}/deliveries?status=delivered")).await;
            let is_delivered = |number: &usize| {
                let id = event(round * 100 + number).id;
                history.iter().any(|delivery| delivery["eventId"] == id.as_str())
            };
            let count = (0..20).filter(is_delivered).count();
            if count == 20 { Ok(()) } else { Err(format!("{count} of them")) }
        })
        .await;
        client.delete(&format!("/company/webhooks/{webhook}")).await.expect(204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_answered_once_nats_has_it_though_nats_is_silent() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/old"), &["*"]).await;
    stack.signal_nats(Signal::SIGSTOP);
    let (path, body) = (format!("/company/webhooks/{webhook}"), json!({ "url": stack.merchant.url("/new") }));
    let mut change = Box::pin(client.patch(&path, &body));
    // For longer than a request to NATS waits.
    let answered = tokio::time::timeout(Duration::from_secs(6), &mut change).await;
    assert!(answered.is_err(), "{answered:?}");
    stack.signal_nats(Signal::SIGCONT);
    change.await.expect(200);
    client.publish(&event(0)).await.expect(202);
    stack.merchant.wait_at("/new", 1, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/old").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_other_sizes_changes_no_stream_and_the_controller_deletes_nothing_unasked() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    for number in 0..30 {
        client.publish(&event(number)).await.expect(202);
    }
    let jetstream = jetstream::new(stack.operator().await);
    let held = async || {
        let events = jetstream.get_stream("EVENTS").await.unwrap();
        let info = events.cached_info();
        (info.state.messages, info.config.max_age, info.config.max_bytes)
    };
    let before = held().await;
    assert_eq!(before.0, 30);
    let sizes = [("SHOPERY_EVENTS_MAX_MIB", "64"), ("SHOPERY_EVENTS_MAX_AGE", "100ms")];
    let start = |service: Service, extra: Option<(&str, &str)>| {
        let mut command = stack.command(service);
        command.env("SHOPERY_LISTEN", "127.0.0.1:0").envs(sizes).envs(extra);
        Process::start(service.name(), command, &stack.folder().join(&format!("{}-small.log", service.name())))
    };
    let router = start(Service::Router, None);
    wait::until_true("the router to be at work", SOON, async || router.output().contains("connected to NATS")).await;
    assert_eq!(held().await, before);
    drop(router);

    stack.stop(Service::Controller).await;
    let start = |extra: Option<(&str, &str)>| {
        let mut command = stack.command(Service::Controller);
        command.env("SHOPERY_LISTEN", "127.0.0.1:0").envs(sizes).envs(extra);
        Process::start("a controller", command, &stack.folder().join("small.log"))
    };
    let mut refused = start(None);
    let status = refused.exit(SOON).await;
    let said = refused.output();
    let line = said.lines().find(|line| line.starts_with("shopery-controller: ")).unwrap_or_default().to_owned();
    assert!(status.code() == Some(1) && line.contains("stream EVENTS holds 30 messages"), "{said}");
    assert!(line.contains("SHOPERY_STREAMS_MAY_SHRINK=true"), "{said}");
    assert_eq!(held().await, before);
    let asked = start(Some(("SHOPERY_STREAMS_MAY_SHRINK", "true")));
    wait::until_true("the stream to shrink", SOON, async || held().await.0 == 0).await;
    drop(asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_room_for_the_streams_is_one_line_that_names_the_variables() {
    let mut stack = Stack::start().await;
    stack.stop(Service::Controller).await;
    let mut command = stack.command(Service::Controller);
    // Some terabytes.
    command.env("SHOPERY_EVENTS_MAX_MIB", "8000000");
    let mut controller = Process::start("a controller", command, &stack.folder().join("large.log"));
    let status = controller.exit(SOON).await;
    let said = controller.output();
    let line = said.lines().find(|line| line.starts_with("shopery-controller: ")).unwrap_or_default();
    assert_eq!(status.code(), Some(1), "{said}");
    for told in ["NATS has no room for stream", "SHOPERY_EVENTS_MAX_MIB=", "SHOPERY_JOBS_MAX_MIB=", "max_file_store"] {
        assert!(line.contains(told), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_controller_takes_over() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    let second = stack.replica(Service::Controller, 1).await;
    assert!(!second.output().contains("leading"), "two of them lead");
    stack.kill(Service::Controller).await;
    wait::until_true("the second to lead", SOON, async || second.output().contains("leading")).await;
    let jetstream = jetstream::new(stack.operator().await);
    jetstream.delete_key_value("CONFIG").await.unwrap();
    config_is_complete(&stack).await;
    client.publish(&event(0)).await.expect(202);
    delivered(&client, &webhook, 1).await;
    // The first one, back again, waits.
    stack.run(Service::Controller).await;
    assert_eq!(stack.log(Service::Controller).matches("leading").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_what_is_parked_do_not_pile_up() {
    let stack = Stack::plan().env("SHOPERY_PROBE_FIRST", "100ms").env("SHOPERY_PROBE_LONGEST", "200ms").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/down", Behaviour::Answer(500));
    for _ in 0..8 {
        client.create_webhook(&stack.merchant.url("/down"), &["*"]).await;
    }
    for number in 0..10 {
        client.publish(&event(number)).await.expect(202);
    }
    stack.merchant.wait_at("/down", 8 * 40, SOON).await;
    let jetstream = jetstream::new(stack.operator().await);
    wait::until("idle readers to be gone", SOON, async || {
        let parked = jetstream.get_stream("PARKED").await.map_err(|error| error.to_string())?;
        match parked.cached_info().state.consumer_count {
            few if few <= 16 => Ok(()),
            many => Err(format!("{many} consumers")),
        }
    })
    .await;
}
