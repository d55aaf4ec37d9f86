//! Whoever fills its share of what a service has little of holds back nobody else. Each door of `services/README.md` is tried.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use serde_json::json;
use shopery_e2e::{Behaviour, Client, Event, Publisher, Reply, Service, Stack, token, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

const SOON: Duration = Duration::from_secs(60);
/// What the quiet tenant asks for, one after the other.
const ASKED: usize = 40;

/// The doors that are tried here.
const DOORS: [&str; 7] = ["batches", "bodies", "connections", "event-pages", "resends", "sums", "test-calls"];

/// While the loud tenant asks `loudly` over and over, side by side, the quiet one gets every answer; returns what the loud one was
/// told.
async fn beside<Q: Future<Output = Reply>, L: Future<Output = Reply>>(
    side_by_side: usize,
    loudly: impl Fn() -> L,
    quietly: impl Fn() -> Q,
) -> BTreeSet<u16> {
    let over = tokio_util::sync::CancellationToken::new();
    let loud = join_all((0..side_by_side).map(async |_| {
        let mut statuses = BTreeSet::new();
        while let Some(reply) = over.run_until_cancelled(loudly()).await {
            statuses.insert(reply.status);
        }
        statuses
    }));
    let quiet = async {
        for _ in 0..ASKED {
            let reply = quietly().await;
            assert!(reply.status < 300, "{} {}", reply.status, reply.text());
        }
        over.cancel();
    };
    let (loud, ()) = tokio::join!(loud, quiet);
    loud.into_iter().flatten().collect()
}

async fn doors(stack: &Stack) -> BTreeSet<String> {
    let mut doors = BTreeSet::new();
    for service in [Service::Api, Service::Ingest] {
        let metrics = stack.metrics(service).await.text().to_owned();
        let named = metrics.lines().filter(|line| line.contains("_refused_at_door_total{"));
        doors.extend(named.filter_map(|line| Some(line.split_once("door=\"")?.1.split_once('"')?.0.to_owned())));
    }
    doors
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_is_listed_and_tried() {
    let stack = Stack::start().await;
    let tried: BTreeSet<_> = DOORS.map(str::to_owned).into();
    assert_eq!(doors(&stack).await, tried);
    let listed = include_str!("../../../../services/README.md").lines();
    let listed: BTreeSet<_> =
        listed.filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect();
    assert_eq!(listed, tried);
}

#[tokio::test(flavor = "multi_thread")]
async fn test_calls_to_an_endpoint_that_never_answers_delay_nobody() {
    let stack = Stack::start().await;
    stack.merchant.behave("/hangs", Behaviour::Hang);
    let test = async |tenant: &Client, path: &str| {
        tenant.post("/company/webhooks/test", &json!({ "url": stack.merchant.url(path) })).await
    };
    let (loud, quiet) = (stack.client("tnt_loud"), stack.client("tnt_quiet"));
    let told = beside(100, || test(&loud, "/hangs"), || test(&quiet, "/well")).await;
    assert!(told.contains(&429), "{told:?}");
    // Each comes to its end, and the loud tenant has its share again.
    wait::until_true("the loud tenant to get an answer", SOON, async || test(&loud, "/well").await.status == 200).await;
}

/// Events with deliveries, of both tenants.
async fn with_history(stack: &Stack, events: usize) -> Vec<(Client, String)> {
    let mut tenants = Vec::new();
    for tenant in ["tnt_loud", "tnt_quiet"] {
        let client = stack.client(tenant);
        let webhook = client.create_webhook(&stack.merchant.url(&format!("/{tenant}")), &["*"]).await;
        let events: Vec<_> = (0..events).map(|number| Event::order(&number.to_string())).collect();
        for part in events.chunks(500) {
            client.try_publish_batch(part).await.unwrap().expect(202);
        }
        tenants.push((client, webhook));
    }
    stack.at_rest(SOON).await;
    tenants
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_and_metrics_of_one_tenant_leave_room_for_those_of_others() {
    let stack = Stack::start().await;
    let tenants = with_history(&stack, 3000).await;
    let [(loud, its), (quiet, own)] = &tenants[..] else { panic!("two tenants") };
    let digest =
        |webhook: &str| format!("/company/webhooks/{webhook}/digest?created_at_min=2026-01-01T00:00:00Z&step=30d");
    let told = beside(60, || async { loud.get(&digest(its)).await }, || async { quiet.get(&digest(own)).await }).await;
    assert!(told.contains(&429), "{told:?}");
    let metrics = "/company/metrics?created_at_min=2026-11-01T00:00:00Z&step=1d";
    let told = beside(60, || loud.get(metrics), || quiet.get(metrics)).await;
    assert!(told.contains(&429), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_events_of_one_tenant_leave_room_for_those_of_others() {
    let stack = Stack::start().await;
    let tenants = with_history(&stack, 1000).await;
    let [(loud, _), (quiet, _)] = &tenants[..] else { panic!("two tenants") };
    let told = beside(120, || loud.get("/company/events?limit=200"), || quiet.get("/company/events?limit=200")).await;
    assert!(told.contains(&429), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_tenant_to_send_many_again_leave_room_for_those_of_others() {
    let stack = Stack::start().await;
    let resend = async |client: &Client, count: usize| {
        let ids: Vec<_> = (0..count).map(|number| format!("dlv_01HA4XCG60CT4G3EWF4CK0{number:04}")).collect();
        client.post("/company/deliveries/resend", &json!({ "ids": ids })).await
    };
    let (loud, quiet) = (stack.client("tnt_loud"), stack.client("tnt_quiet"));
    let told = beside(60, || resend(&loud, 100), || resend(&quiet, 3)).await;
    assert!(told.contains(&429), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_one_tenant_leave_room_for_those_of_others() {
    let stack = Stack::start().await;
    let publish = async |client: &Client, count: usize| {
        let events: Vec<_> = (0..count).map(|number| Event::order(&number.to_string())).collect();
        client.try_publish_batch(&events).await.unwrap()
    };
    let (loud, quiet) = (stack.client("tnt_loud"), stack.client("tnt_quiet"));
    let told = beside(100, || publish(&loud, 1000), || publish(&quiet, 10)).await;
    assert!(told.contains(&429), "{told:?}");
}

/// An upload of 16 MiB, as it is announced.
async fn announce(stack: &Stack, tenant: &str) -> TcpStream {
    let address = stack.url(Service::Ingest).replace("http://", "");
    let head = format!(
        "POST /events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nX-tenant-ID: {tenant}\r\n\
         Content-Type: application/cloudevents-batch+json\r\nContent-Length: {}\r\n\r\n[",
        token::mint(&[tenant], token::ALL),
        16 * 1024 * 1024,
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_come_slowly_take_no_room_and_are_given_up() {
    let stack = Stack::start().await;
    let mut slow = Vec::new();
    for tenant in ["tnt_1", "tnt_2", "tnt_3", "tnt_4"] {
        for _ in 0..8 {
            slow.push(announce(&stack, tenant).await);
        }
    }
    for tenant in ["tnt_1", "tnt_quiet"] {
        let client = stack.client(tenant);
        for number in 0..10 {
            client.try_publish_batch(&[Event::order(&number.to_string())]).await.unwrap().expect(202);
        }
    }
    for mut stream in slow {
        let mut answer = Vec::new();
        let read = wait::within("a slow upload to be refused", SOON, stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(read.is_err() || (answer.contains(" 408 ") && answer.contains("too slowly")), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_leave_room_for_those_of_others() {
    const SHARE: usize = 1024;
    shopery_runtime::raise_descriptors();
    let stack = Stack::start().await;
    for service in [Service::Api, Service::Router] {
        let address: SocketAddr = stack.url(service).replace("http://", "").parse().unwrap();
        let hold = async || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            socket.connect(address).await.unwrap()
        };
        let mut held = Vec::new();
        for _ in 0..SHARE + 50 {
            held.push(hold().await);
        }
        let refused = format!(
            "shopery_{}_refused_at_door_total{{door=\"connections\",full=\"share\"}}",
            service.name().trim_start_matches("shopery-")
        );
        // Each of these connections is new.
        for _ in 0..ASKED {
            reqwest::get(format!("http://{address}/livez")).await.unwrap().error_for_status().unwrap();
        }
        wait::until_true("those beyond the share to be counted", SOON, async || {
            stack.metrics(service).await.value(&refused) >= Some(50.0)
        })
        .await;
        let closed = join_all(held.iter_mut().rev().take(50).map(|stream| async { stream.read_u8().await.is_err() }));
        let closed = wait::within("those beyond the share to be closed", Duration::from_secs(5), closed).await;
        assert_eq!(closed, [true; 50]);
        drop(held);
        wait::until_true("the address to have its share again", SOON, async || {
            let mut stream = hold().await;
            let asked = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            let mut answer = String::new();
            asked.is_ok() && stream.read_to_string(&mut answer).await.is_ok() && answer.contains(" 200 ")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_fills_neither_the_stream_nor_the_evidence_of_others() {
    let stack = Stack::plan().tenants(["tnt_loud", "tnt_quiet"]).start().await;
    let (loud, quiet) = (stack.publisher("tnt_loud").await, stack.publisher("tnt_quiet").await);
    let bad = |size: usize| format!("{{\"not\":\"{}\"", "x".repeat(size));
    let publish = async |publisher: &Publisher, size: usize| {
        publisher.client.publish(publisher.subject("order-created"), bad(size).into()).await.unwrap();
    };
    publish(&quiet, 10).await;
    for _ in 0..1000 {
        publish(&loud, 900_000).await;
        publish(&loud, 200_000).await;
    }
    loud.client.flush().await.unwrap();
    let client = stack.client("tnt_quiet");
    client.create_webhook(&stack.merchant.url("/quiet"), &["*"]).await;
    quiet.publish(&Event::order("1")).await.unwrap();
    stack.merchant.wait_at("/quiet", 1, SOON).await;
    stack.at_rest(SOON).await;
    let dead = async_nats::jetstream::new(stack.operator().await).get_stream("DEAD").await.unwrap();
    let subjects = dead.info_with_subjects("dead.>").await.unwrap();
    let held: Vec<(String, usize)> = subjects.try_collect().await.unwrap();
    let of = |tenant: &str| held.iter().find(|(subject, _)| subject.ends_with(tenant)).map(|(_, count)| *count);
    assert_eq!((of("tnt_loud"), of("tnt_quiet")), (Some(500), Some(1)), "{held:?}");
    assert!(dead.cached_info().state.bytes < 16 * 1024 * 1024);
    let lines = stack.log(Service::Ingest).lines().count();
    assert!(lines < 500, "{lines} lines of log");
}
