//! Stopping, restarting, and being told wrongly how to start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use shopery_e2e::{Behaviour, Event, Process, Service, Signal, Stack, parts, wait};
use tokio::process::Command;
use tokio::sync::Semaphore;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_that_is_told_to_stop_finishes_its_attempts() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let gate = Arc::new(Semaphore::new(0));
    stack.merchant.behave("/held", Behaviour::Hold(gate.clone()));
    let webhook = client.create_webhook(&stack.merchant.url("/held"), &["*"]).await;
    let count = 10;
    for number in 0..count {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    stack.merchant.wait_at("/held", count, SOON).await;

    stack.process(Service::Deliverer).signal(Signal::SIGTERM);
    wait::until_true("the drain", SOON, async || stack.log(Service::Deliverer).contains("stopping")).await;
    // It takes no new work.
    client.publish(&Event::order("late")).await.expect(202);
    assert!(stack.process(Service::Deliverer).ended().is_none(), "it left its attempts behind");
    gate.add_permits(1000);
    let status = stack.process(Service::Deliverer).exit(SOON).await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(stack.merchant.count(), count);

    stack.run(Service::Deliverer).await;
    let history = client.settled(&webhook, count + 1, SOON).await;
    assert!(history.iter().all(|one| one["state"] == "delivered" && one["attemptCount"] == 1), "{history:?}");
    assert_eq!(stack.merchant.count(), count + 1, "an attempt was repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once_and_the_work_is_repeated() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let gate = Arc::new(Semaphore::new(0));
    stack.merchant.behave("/held", Behaviour::Hold(gate.clone()));
    let webhook = client.create_webhook(&stack.merchant.url("/held"), &["*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    stack.merchant.wait_at("/held", 1, SOON).await;

    stack.process(Service::Deliverer).signal(Signal::SIGTERM);
    wait::until_true("the drain", SOON, async || stack.log(Service::Deliverer).contains("stopping")).await;
    let told = Instant::now();
    stack.process(Service::Deliverer).signal(Signal::SIGTERM);
    let status = stack.process(Service::Deliverer).exit(SOON).await;
    assert!(told.elapsed() < Duration::from_secs(2), "it took {:?}", told.elapsed());
    assert!(!status.success(), "unfinished work is no success");

    gate.add_permits(1000);
    stack.run(Service::Deliverer).await;
    let history = client.settled(&webhook, 1, SOON).await;
    assert_eq!(history[0]["state"], "delivered");
    let ids: Vec<_> = stack.merchant.arrivals().iter().map(|one| one.webhook_id().to_owned()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_idle_service_stops_with_success() {
    let mut stack = Stack::start().await;
    for service in Service::ALL {
        let told = Instant::now();
        let status = stack.stop(service).await;
        assert_eq!(status.code(), Some(0), "{}: {status}", service.name());
        assert!(told.elapsed() < Duration::from_secs(5), "{} took {:?}", service.name(), told.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_idle_nats_is_survived_without_a_restart_of_services() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    client.publish(&Event::order("0")).await.expect(202);
    stack.merchant.wait_at("/a", 1, SOON).await;
    for (number, hard) in [(1, false), (2, true)] {
        if hard {
            stack.kill_nats().await;
        } else {
            stack.stop_nats().await;
        }
        // Each of them sees that it cannot work, and lives.
        for service in Service::ALL {
            let ready = format!("{}/readyz", stack.url(service));
            wait::until_true(&format!("{} to miss NATS", service.name()), SOON, async || {
                reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 503)
            })
            .await;
            let live = reqwest::get(format!("{}/livez", stack.url(service))).await.unwrap();
            assert_eq!(live.status(), 200);
        }
        stack.start_nats().await;
        let back = Instant::now();
        for service in Service::ALL {
            stack.ready(service).await;
        }
        client.publish(&Event::order(&number.to_string())).await.expect(202);
        stack.merchant.wait_at("/a", number + 1, SOON).await;
        assert!(back.elapsed() < Duration::from_secs(8), "the first delivery took {:?}", back.elapsed());
        // A change of a webhook is seen too.
        let path = format!("/new{number}");
        let new = client.create_webhook(&stack.merchant.url(&path), &["product-*"]).await;
        client.publish(&Event::new("product-created", &format!("product_{number}"))).await.expect(202);
        stack.merchant.wait_at(&path, 1, SOON).await;
        client.delete(&format!("/company/webhooks/{new}")).await.expect(204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_starts_before_jetstream_waits_for_it_and_is_not_ready() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    for service in Service::ALL {
        stack.stop(service).await;
    }
    stack.stop_nats().await;
    // A server that can be connected to, and has no streams.
    let mut bare = Command::new(parts::nats_server().await);
    let port = stack.nats_url().rsplit(':').next().unwrap();
    bare.args(["--addr", "127.0.0.1", "--port", port, "--user", "services", "--pass", shopery_e2e::stack::PASSWORD]);
    let bare = Process::start("a bare nats-server", bare, &stack.folder().join("bare.log"));
    for service in Service::ALL {
        stack.spawn(service);
    }
    for service in Service::ALL {
        let tries = async || stack.log(service).contains("is JetStream enabled?");
        wait::until_true(&format!("{} to try", service.name()), SOON, tries).await;
    }
    for service in [Service::Router, Service::Deliverer] {
        let ready = reqwest::get(format!("{}/readyz", stack.url(service))).await.unwrap();
        assert_eq!(ready.status(), 503);
        let told: serde_json::Value = ready.json().await.unwrap();
        let why = told["obstacles"][service.name()].as_str().unwrap_or_default();
        assert!(why.contains("is JetStream enabled?"), "{told}");
    }
    drop(bare);
    stack.start_nats().await;
    for service in Service::ALL {
        stack.ready(service).await;
    }
    client.publish(&Event::order("1")).await.expect(202);
    stack.merchant.wait_at("/a", 1, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_shape_ends_a_start_at_once_with_one_clear_line() {
    let mut stack = Stack::start().await;
    stack.stop(Service::Router).await;
    let jetstream = async_nats::jetstream::new(stack.operator().await);
    jetstream.delete_stream("DEAD").await.unwrap();
    let theirs = async_nats::jetstream::stream::Config {
        name: "DEAD".to_owned(),
        subjects: vec!["theirs".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(theirs).await.unwrap();
    stack.spawn(Service::Router);
    let status = stack.process(Service::Router).exit(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(1));
    let said = stack.process(Service::Router).output();
    let line = said.lines().find(|line| line.starts_with("shopery-router: ")).unwrap_or_default();
    assert!(line.contains("stream DEAD exists with an incompatible shape") && line.contains("delete it"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_leaves_the_streams_as_they_are() {
    let mut stack = Stack::start().await;
    let operator = stack.operator().await;
    let mut updates = operator.subscribe("$JS.EVENT.ADVISORY.STREAM.UPDATED.>").await.unwrap();
    operator.flush().await.unwrap();
    for service in Service::ALL {
        stack.stop(service).await;
        stack.run(service).await;
    }
    // The first update is one that we make.
    let jetstream = async_nats::jetstream::new(operator);
    let mut config = jetstream.get_stream("DEAD").await.unwrap().cached_info().config.clone();
    config.description = Some("ours".to_owned());
    jetstream.update_stream(config).await.unwrap();
    let first = tokio::time::timeout(SOON, updates.next()).await.unwrap().unwrap();
    assert!(first.subject.ends_with(".DEAD"), "{}", first.subject);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_lists_the_variables_of_each_service() {
    for service in Service::ALL {
        let help = Command::new(parts::binary(service.name())).arg("--help").output().await.unwrap();
        assert!(help.status.success());
        let help = String::from_utf8(help.stdout).unwrap();
        let mut variables = vec!["SHOPERY_NATS_URL", "SHOPERY_LISTEN", "SHOPERY_LOG", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        variables.extend(match service {
            Service::Ingest => &["SHOPERY_JWT_SECRET", "SHOPERY_JWKS_URL", "SHOPERY_INGEST_TENANT_LIMIT"][..],
            Service::Router => &["SHOPERY_DUPLICATE_WINDOW"],
            Service::Deliverer => &[
                "SHOPERY_RETRY_SCHEDULE",
                "SHOPERY_CA_FILE",
                "SHOPERY_EGRESS_ALLOW",
                "SHOPERY_EGRESS_PORTS",
                "SHOPERY_EGRESS_DNS",
                "SHOPERY_ENCRYPTION_KEYS",
            ],
            Service::Recorder => &["SHOPERY_DATABASE_URL", "SHOPERY_DISABLE_AFTER"],
            Service::Controller => &["SHOPERY_DATABASE_URL", "SHOPERY_HISTORY_MAX_AGE", "SHOPERY_EVENTS_MAX_MIB"],
            Service::Api => &[
                "SHOPERY_JWT_SECRET",
                "SHOPERY_JWKS_URL",
                "SHOPERY_API_TENANT_LIMIT",
                "SHOPERY_DATABASE_URL",
                "SHOPERY_CA_FILE",
                "SHOPERY_ENCRYPTION_KEYS",
            ],
        });
        for variable in variables {
            assert!(help.contains(variable), "{} --help lacks {variable}:\n{help}", service.name());
        }
        let wrong = Command::new(parts::binary(service.name())).arg("--nonsense").output().await.unwrap();
        assert!(!wrong.status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_variable_is_reported_at_once() {
    for service in Service::ALL {
        let mut command = Command::new(parts::binary(service.name()));
        let secret = "a secret that is not shown";
        command.env_clear().env("SHOPERY_LISTEN", "nonsense").env("SHOPERY_ACK_WAIT", "soon");
        let ended =
            command.env("SHOPERY_JWT_SECRET", "short").env("SHOPERY_NATS_PASSWORD", secret).output().await.unwrap();
        assert_eq!(ended.status.code(), Some(1));
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(said.contains("SHOPERY_LISTEN") && said.contains("SHOPERY_ACK_WAIT"), "{said}");
        assert!(!said.contains(secret) && !said.contains("panicked"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_and_a_missing_nats_are_one_clear_line() {
    let mut stack = Stack::start().await;
    // The port of ingest is taken by ingest.
    let taken = stack.url(Service::Ingest).replace("http://", "");
    let mut command = Command::new(parts::binary("shopery-ingest"));
    command.env_clear().env("SHOPERY_LISTEN", &taken).env("SHOPERY_JWT_SECRET", shopery_e2e::token::SECRET);
    command.env("SHOPERY_NATS_URL", stack.nats_url());
    let mut process = Process::start("a second ingest", command, &stack.folder().join("second.log"));
    let status = process.exit(SOON).await;
    assert_eq!(status.code(), Some(1));
    let said = process.output();
    assert!(said.contains(&taken) && !said.contains("panicked"), "{said}");
    assert!(stack.process(Service::Ingest).ended().is_none());
}
