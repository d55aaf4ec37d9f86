use std::process::Stdio;

use futures_util::StreamExt;

use super::*;
use crate::testing::TempDir;

const TIMEOUT: Duration = Duration::from_secs(10);

fn options(store: &Path) -> Options {
    let fallback = std::env::temp_dir().join("shopery-webhooks");
    let binary = find_or_install(&user_cache().unwrap_or(fallback)).unwrap();
    let publisher = |user: &str, tenant: &str| Publisher {
        user: user.into(),
        password: format!("pass-{user}"),
        tenant: tenant.into(),
        inbox_prefix: format!("_INBOX_{user}"),
    };
    Options {
        binary,
        store: store.to_owned(),
        port: None,
        service: ("services".into(), "all \"rights\" \\ $HOME".into()),
        publishers: vec![publisher("a", "tnt_a"), publisher("b", "Zoë's *.>")],
    }
}

async fn connect(server: &NatsServer, user: &str, password: &str) -> async_nats::Client {
    async_nats::ConnectOptions::with_user_and_password(user.into(), password.into())
        .custom_inbox_prefix(format!("_INBOX_{user}"))
        .connect(server.url())
        .await
        .unwrap()
}

fn is_alive(pid: u32) -> bool {
    std::process::Command::new("kill").args(["-0", &pid.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn the_server_takes_the_configuration_whatever_the_names() {
    let dir = TempDir::new();
    let mut options = options(&dir.path().join("a \"store\" \\ with $NAMES é"));
    options.publishers[0].password = "line\nbreak\ttab { } # //".into();
    let path = dir.path().join("nats.conf");
    private_file::write(&path, &config::text(&options, &dir.path().join("ports"))).unwrap();
    let checked = std::process::Command::new(&options.binary).arg("-t").arg("-c").arg(&path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[tokio::test]
async fn a_server_comes_back_on_its_store_and_port() {
    let dir = TempDir::new();
    let mut options = options(dir.path());
    let mut server = NatsServer::start(&options).await.unwrap();
    let (user, password) = options.service.clone();
    let client = connect(&server, &user, &password).await;
    let jetstream = async_nats::jetstream::new(client);
    let stream = async_nats::jetstream::stream::Config {
        name: "S".into(),
        subjects: vec!["s".into()],
        max_bytes: 16 << 30,
        ..Default::default()
    };
    jetstream.create_stream(stream).await.unwrap();
    jetstream.publish("s", "kept".into()).await.unwrap().await.unwrap();

    options.port = Some(server.port());
    for end in ["kill", "stop"] {
        let pid = server.pid();
        if end == "kill" {
            server.kill().await.unwrap()
        } else {
            server.stop().await.unwrap()
        }
        assert!(!is_alive(pid), "{end}");
        server = NatsServer::start(&options).await.unwrap();
        assert_eq!(Some(server.port()), options.port);
        let jetstream = async_nats::jetstream::new(connect(&server, &user, &password).await);
        assert_eq!(jetstream.get_stream("S").await.unwrap().cached_info().state.messages, 1, "{end}");
    }
}

#[tokio::test]
async fn a_publisher_may_publish_its_tenants_events_and_hear_the_answers_only() {
    let dir = TempDir::new();
    let options = options(dir.path());
    let server = NatsServer::start(&options).await.unwrap();
    let all = connect(&server, &options.service.0, &options.service.1).await;
    let mut seen = all.subscribe(">").await.unwrap();
    all.flush().await.unwrap();

    let publisher = connect(&server, "a", "pass-a").await;
    let mut heard = publisher.subscribe(">").await.unwrap();
    let mut other = publisher.subscribe("_INBOX_b.>").await.unwrap();
    for subject in ["in.tnt_b.order-paid", "events.tnt_a.order.1", "jobs.x", "$JS.API.INFO", "in.tnt_a.order-paid"] {
        publisher.publish(subject, "x".into()).await.unwrap();
    }
    let first = tokio::time::timeout(TIMEOUT, seen.next()).await.unwrap().unwrap();
    assert_eq!(first.subject.as_str(), "in.tnt_a.order-paid");

    let answer = tokio::spawn(async move { publisher.request("in.tnt_a.order-paid", "x".into()).await });
    let request = tokio::time::timeout(TIMEOUT, seen.next()).await.unwrap().unwrap();
    all.publish(request.reply.unwrap(), "answer".into()).await.unwrap();
    assert_eq!(&answer.await.unwrap().unwrap().payload[..], b"answer");
    // Refused, so closed or silent: the answer has come, and neither has heard it.
    assert!(futures_util::poll!(heard.next()).is_pending());
    assert!(futures_util::poll!(other.next()).is_pending());
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let dir = TempDir::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options(dir.path());
    options.port = Some(taken.local_addr().unwrap().port());
    let error = NatsServer::start(&options).await.unwrap_err().to_string();
    assert!(error.contains("address already in use") && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn the_keeper_kills_the_server_when_its_starter_is_gone() {
    let dir = TempDir::new();
    let mut server = NatsServer::start(&options(dir.path())).await.unwrap();
    server.process.let_go();
    tokio::time::timeout(TIMEOUT, server.process.wait()).await.unwrap().unwrap();
}
