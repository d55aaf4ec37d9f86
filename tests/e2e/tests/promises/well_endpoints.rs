//! Endpoints that are well, as merchants have them: behind nginx, which closes connections as it likes, near and far.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use shopery_e2e::{Client, Distance, Event, Merchant, NameServer, Nginx, Service, Silent, Stack, ports, wait};
use tokio::process::Command;

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

/// Delivers everything to nginx, `port` of which leads to it; it takes other workers again and again if `is_reloaded`.
async fn deliver_all(nginx: &Nginx, port: u16, is_reloaded: bool) {
    let stack = stack(nginx, port).await;
    let client = stack.client("tnt_a");
    client.create_webhook(&format!("https://127.0.0.1:{port}/a"), &["*"]).await;
    let reload = || {
        if is_reloaded {
            nginx.reload();
        }
    };
    let published = publish(&client, reload).await;
    println!("{} requests were sent again at once", all_delivered(&stack, nginx, &published).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_that_ends_http_2_connections_fails_no_attempt() {
    let nginx = Nginx::start("ssl http2", "keepalive_requests 100; keepalive_timeout 1s;").await;
    deliver_all(&nginx, nginx.port(), true).await;
    assert!(nginx.served().iter().all(|served| served.protocol == "HTTP/2.0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_that_ends_http_1_connections_fails_no_attempt() {
    let nginx = Nginx::start("ssl", "keepalive_requests 20; keepalive_timeout 1s;").await;
    deliver_all(&nginx, nginx.port(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_far_away_that_ends_connections_fails_no_attempt() {
    let nginx = Nginx::start("ssl http2", "keepalive_requests 100; keepalive_timeout 1s;").await;
    let distance = Distance::to(nginx.port(), Duration::from_millis(150)).await;
    deliver_all(&nginx, distance.port(), false).await;
}

/// The deliverer's limit of file descriptors, as somebody lowers it who does not know.
async fn limit_descriptors(stack: &mut Stack, count: usize) {
    let pid = stack.process(Service::Deliverer).pid().to_string();
    let limit = format!("--nofile={count}:{count}");
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().await.expect("prlimit");
    assert!(status.success(), "{status}");
}

async fn obstacle(stack: &Stack) -> String {
    let ready = reqwest::get(format!("{}/readyz", stack.url(Service::Deliverer))).await.unwrap();
    ready.json::<Value>().await.unwrap()["obstacles"]["sender"].as_str().unwrap_or_default().to_owned()
}

/// No attempt has failed, and nothing of the webhooks says that one has.
async fn none_is_charged(stack: &Stack, client: &Client) {
    let metrics = stack.metrics(Service::Deliverer).await;
    let delivered = metrics.value("shopery_delivery_attempts_total{result=\"delivered\"}").unwrap_or_default();
    assert!(metrics.sum("shopery_delivery_attempts_total") == delivered, "{}", metrics.text());
    for webhook in client.all("/company/webhooks").await {
        assert!(webhook.get("failingSince").is_none(), "{webhook}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn want_of_file_descriptors_is_ours_and_the_operator_is_told() {
    const HOSTS: u32 = 400;
    let port = ports::free();
    let plan = Stack::plan().env("SHOPERY_EGRESS_ALLOW", "127.0.0.0/8").env("SHOPERY_EGRESS_PORTS", port.to_string());
    let mut stack = plan.start().await;
    let hosts: Vec<_> = (0..HOSTS).map(|number| Ipv4Addr::from(0x7f01_0000 + number + 1).to_string()).collect();
    let names: Vec<_> = hosts.iter().map(String::as_str).collect();
    let tls = stack.authority.server_config(&names, &[b"h2", b"http/1.1"]).unwrap();
    let merchant = Merchant::at(Ipv4Addr::UNSPECIFIED, port, tls).await;
    // A tenant has at most a hundred webhooks.
    let clients: Vec<_> = (0..4).map(|number| stack.client(&format!("tnt_{number}"))).collect();
    for (client, hosts) in clients.iter().zip(hosts.chunks(100)) {
        for host in hosts {
            client.create_webhook(&format!("https://{host}:{port}/{host}"), &["*"]).await;
        }
    }
    limit_descriptors(&mut stack, 256).await;
    for number in 0..3 {
        for client in &clients {
            client.publish(&Event::order(&number.to_string())).await.expect(202);
        }
    }
    wait::until_true("the operator to be told", SOON, async || obstacle(&stack).await.contains("ulimit -n")).await;
    merchant.wait_for("all deliveries", SOON, |all| all.len() >= 3 * HOSTS as usize).await;
    let faults = "shopery_sender_faults_total{fault=\"descriptors\"}";
    assert!(stack.metrics(Service::Deliverer).await.value(faults).is_some_and(|count| count > 0.0));
    for client in &clients {
        none_is_charged(&stack, client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn name_servers_of_ours_that_are_silent_are_charged_to_no_endpoint() {
    let (dns, port) = (NameServer::start().await, ports::free());
    let address = dns.address();
    let plan = Stack::plan().env("SHOPERY_EGRESS_DNS", address.to_string()).env("SHOPERY_EGRESS_ALLOW", "127.0.0.0/8");
    let stack = plan.env("SHOPERY_EGRESS_PORTS", port.to_string()).env("SHOPERY_RETRY_SCHEDULE", "1h").start().await;
    let tls = stack.authority.server_config(&["shop.example", "broken.example"], &[b"h2"]).unwrap();
    let merchant = Merchant::at(Ipv4Addr::LOCALHOST, port, tls).await;
    let client = stack.client("tnt_a");
    client.create_webhook(&format!("https://shop.example:{port}/a"), &["*"]).await;
    drop(dns);
    client.publish(&Event::order("1")).await.expect(202);
    wait::until_true("the operator to be told", SOON, async || obstacle(&stack).await.contains("no name server")).await;
    let dns = NameServer::at(address).await;
    dns.answer("shop.example", &[&["127.0.0.1"]]);
    merchant.wait_at("/a", 1, SOON).await;
    none_is_charged(&stack, &client).await;

    // Those of one name are its own matter.
    dns.is_broken("broken.example");
    let broken = client.create_webhook(&format!("https://broken.example:{port}/b"), &["*"]).await;
    client.publish(&Event::order("2")).await.expect(202);
    let failed = client.in_state(&broken, "pending", 1, SOON).await.remove(0);
    assert_eq!(failed["error"]["reason"], "dns_failed", "{failed}");
}

/// A stack that finds the endpoints' names at `dns`, and what serves `shop.example` at these addresses.
async fn named(dns: &NameServer, port: u16, addresses: &[Ipv4Addr]) -> (Stack, Vec<Merchant>) {
    let plan = Stack::plan().env("SHOPERY_EGRESS_DNS", dns.address().to_string());
    let plan = plan.env("SHOPERY_EGRESS_ALLOW", "127.0.0.0/8").env("SHOPERY_EGRESS_PORTS", port.to_string());
    let stack = plan.start().await;
    let mut merchants = Vec::new();
    for address in addresses {
        let tls = stack.authority.server_config(&["shop.example"], &[b"h2", b"http/1.1"]).unwrap();
        merchants.push(Merchant::at(*address, port, tls).await);
    }
    (stack, merchants)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_moves_is_followed_though_the_old_one_still_answers() {
    let (dns, port) = (NameServer::start().await, ports::free());
    let (stack, merchants) = named(&dns, port, &[Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)]).await;
    dns.answer("shop.example", &[&["127.0.0.2"]]);
    let client = stack.client("tnt_a");
    client.create_webhook(&format!("https://shop.example:{port}/"), &["*"]).await;
    client.publish(&Event::order("0")).await.expect(202);
    merchants[0].wait_at("/", 1, SOON).await;
    dns.answer("shop.example", &[&["127.0.0.3"]]);
    // The connection is never idle for as long as it would be closed for that.
    let mut published = 1;
    wait::until("the endpoint's new address to be used", SOON, async || {
        client.publish(&Event::order(&published.to_string())).await.expect(202);
        published += 1;
        let arrived = merchants[1].count();
        if arrived > 0 { Ok(()) } else { Err(format!("{published} published")) }
    })
    .await;
    let last = Event::order("last");
    client.publish(&last).await.expect(202);
    published += 1;
    merchants[1].wait_for("the last one", SOON, |all| all.iter().any(|one| one.event_id() == last.id)).await;
    wait::until_true("all deliveries", SOON, async || merchants[0].count() + merchants[1].count() == published).await;
    none_is_charged(&stack, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_most_of_whose_addresses_are_silent_is_reached() {
    let (dns, port) = (NameServer::start().await, ports::free());
    let (stack, merchants) = named(&dns, port, &[Ipv4Addr::LOCALHOST]).await;
    let mut silent = Vec::new();
    for last in 2..8 {
        silent.push(Silent::at(Ipv4Addr::new(127, 0, 0, last), port).await);
    }
    let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6", "127.0.0.7", "127.0.0.1"];
    dns.answer("shop.example", &[&addresses]);
    let client = stack.client("tnt_a");
    client.create_webhook(&format!("https://shop.example:{port}/"), &["*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    merchants[0].wait_at("/", 1, SOON).await;
    none_is_charged(&stack, &client).await;
}
