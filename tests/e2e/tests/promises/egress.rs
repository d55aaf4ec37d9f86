//! Where nobody can make us send to: neither by a URL, nor by what its name leads to, nor by a redirect; and what is
//! refused to the Test call is refused to a delivery and to a probe.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Client, Event, Merchant, NameServer, Service, Stack, ports, wait};

const SOON: Duration = Duration::from_secs(60);
const URLS: &str = include_str!("../../../../shared/sender/src/egress/forbidden.txt");

/// What name servers may answer; each row becomes the addresses of a name.
const ANSWERS: [&[&str]; 56] = [
    &["127.0.0.1"],
    &["127.0.0.53"],
    &["0.0.0.0"],
    &["10.0.0.1"],
    &["172.31.255.255"],
    &["192.168.1.1"],
    &["100.64.0.1"],
    &["100.100.100.200"],
    &["169.254.169.254"],
    &["168.63.129.16"],
    &["192.0.0.192"],
    &["198.18.0.1"],
    &["224.0.0.1"],
    &["255.255.255.255"],
    &["::1"],
    &["::"],
    &["::127.0.0.1"],
    &["::ffff:127.0.0.1"],
    &["::ffff:169.254.169.254"],
    &["64:ff9b::7f00:1"],
    &["64:ff9b:1::a9fe:a9fe"],
    &["2002:7f00:1::"],
    &["2001:0:7f00:1::"],
    &["fd00:ec2::254"],
    &["fe80::1"],
    &["ff02::1"],
    &["127.255.255.254"],
    &["10.255.255.254"],
    &["172.16.0.1"],
    &["192.0.0.1"],
    &["192.0.2.1"],
    &["192.88.99.1"],
    &["198.51.100.1"],
    &["203.0.113.1"],
    &["240.0.0.1"],
    &["::ffff:10.0.0.1"],
    &["::ffff:0:127.0.0.1"],
    &["64:ff9b::a00:1"],
    &["64:ff9b::a9fe:a9fe"],
    &["2002:a9fe:a9fe::1"],
    &["2001::1"],
    &["2001:db8::1"],
    &["3fff::1"],
    &["100::1"],
    &["fc00::1"],
    &["fec0::1"],
    &["2606:4700::5efe:a00:1"],
    // One bad address is enough, wherever it is.
    &["1.1.1.1", "127.0.0.1"],
    &["127.0.0.1", "1.1.1.1"],
    &["1.1.1.1", "8.8.8.8", "10.0.0.1"],
    &["1.1.1.1", "::1"],
    &["2606:4700::1111", "127.0.0.1"],
    &["2606:4700::1111", "fd00::1"],
    &["1.1.1.1", "2606:4700::1111", "169.254.169.254"],
    &["10.0.0.1", "192.168.1.1", "fe80::1"],
    &["1.1.1.1", "::ffff:127.0.0.1"],
];

/// Each URL with the port of the bait, so that whatever is sent to this machine arrives there.
fn urls(bait: u16) -> Vec<String> {
    let lines = URLS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let with_port = |line: &str| match reqwest::Url::parse(line) {
        Ok(mut url) if url.scheme() == "https" && url.port().is_none() => {
            // The spelling of the host is what it is about.
            let port = format!(":{bait}");
            let end = line[8..].find('/').map_or(line.len(), |end| end + 8);
            url.set_port(Some(bait)).unwrap();
            format!("{}{port}{}", &line[..end], &line[end..])
        }
        _ => line.to_owned(),
    };
    lines.map(with_port).collect()
}

async fn save(client: &Client, url: &str) -> Option<String> {
    let webhook = json!({ "name": "a webhook", "url": url, "events": ["*"], "isEnabled": true });
    let reply = client.post("/company/webhooks", &webhook).await;
    (reply.status == 201).then(|| reply.json()["id"].as_str().unwrap().to_owned())
}

/// The reason is the field `url`, and is said.
#[track_caller]
fn check_refusal(url: &str, reply: &shopery_e2e::Reply) {
    assert_eq!(reply.status, 422, "{url}: {}", reply.text());
    let problem = reply.problem();
    assert_eq!(problem["errors"][0]["field"], "url", "{url}: {problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_url_and_no_answer_of_a_name_server_leads_where_it_must_not() {
    let (bait, dns) = (ports::free(), NameServer::start().await);
    let plan =
        Stack::plan().env("SHOPERY_EGRESS_DNS", dns.address().to_string()).env("SHOPERY_RETRY_SCHEDULE", "300ms");
    let lenient = plan.env("SHOPERY_EGRESS_ALLOW", "0.0.0.0/0,::/0").env("SHOPERY_INSECURE_ENDPOINTS", "true");
    let mut stack = lenient.start().await;
    let bait = Merchant::on_port(bait, stack.authority.server_config(&["127.0.0.1", "localhost"], &[]).unwrap()).await;
    let by_name = stack.client("tnt_names");

    // Saved while everything was allowed, as by an operator who then thought better of it.
    let urls = urls(bait.port());
    let mut saved = Vec::new();
    for (number, url) in urls.iter().enumerate() {
        // A tenant has 100 webhooks at most.
        let client = stack.client(&format!("tnt_urls_{}", number / 50));
        saved.extend(save(&client, url).await.map(|id| (client, id, url.clone())));
    }
    assert!(urls.len() >= 244 && saved.len() >= 200, "{} of {} could be saved", saved.len(), urls.len());
    for (number, addresses) in ANSWERS.iter().enumerate() {
        let name = format!("shop-{number}.example");
        dns.answer(&name, &[addresses]);
        let url = format!("https://{name}:{}/", bait.port());
        let id = save(&by_name, &url).await.unwrap();
        saved.push((by_name.clone(), id, url));
    }
    let strict_ports = format!("443,8443,{}", bait.port());
    let strict = [
        ("SHOPERY_EGRESS_ALLOW", ""),
        ("SHOPERY_INSECURE_ENDPOINTS", "false"),
        ("SHOPERY_EGRESS_PORTS", strict_ports.as_str()),
    ];
    for service in [Service::Api, Service::Deliverer] {
        assert!(stack.stop(service).await.success());
        stack.run_with(service, &strict).await;
    }

    let (one, first) = (saved[0].0.clone(), saved[0].1.clone());
    let mut tenants: Vec<_> = saved.iter().map(|(client, ..)| client).collect();
    tenants.dedup_by_key(|client| &client.tenant);
    for client in tenants {
        client.publish(&Event::order("1")).await.expect(202);
    }
    for url in &urls {
        let webhook = json!({ "name": "a webhook", "url": url, "events": ["*"], "isEnabled": true });
        check_refusal(url, &one.post("/company/webhooks", &webhook).await);
        check_refusal(url, &one.patch(&format!("/company/webhooks/{first}"), &json!({ "url": url })).await);
        check_refusal(url, &one.post("/company/webhooks/test", &json!({ "url": url })).await);
    }
    for (client, id, url) in &saved {
        let tested = client.post(&format!("/company/webhooks/{id}/test"), &json!({})).await.expect(200).json();
        assert_eq!(tested["error"]["reason"], "address_forbidden", "{url}: {tested}");
        assert_eq!((&tested["success"], &tested["status"]), (&json!(false), &Value::Null), "{url}: {tested}");
        if client.tenant == by_name.tenant {
            let bare = client.post("/company/webhooks/test", &json!({ "url": url })).await.expect(200).json();
            assert_eq!(bare["error"]["reason"], "address_forbidden", "{url}: {bare}");
        }
        let delivery = client.settled(id, 1, SOON).await.remove(0);
        assert_eq!((&delivery["state"], &delivery["attemptCount"]), (&json!("failed"), &json!(2)), "{url}: {delivery}");
        assert_eq!(delivery["error"]["reason"], "address_forbidden", "{url}: {delivery}");
    }
    assert_eq!(bait.count(), 0, "{:?}", bait.arrivals());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_elsewhere_the_second_time_and_a_redirect_lead_nowhere() {
    let dns = NameServer::start().await;
    let plan =
        Stack::plan().env("SHOPERY_EGRESS_DNS", dns.address().to_string()).env("SHOPERY_RETRY_SCHEDULE", "300ms");
    // What follows the first attempt is a probe, since the failure opens the circuit.
    let plan = plan.env("SHOPERY_CIRCUIT_FAILURES", "1").env("SHOPERY_PROBE_FIRST", "300ms");
    // Of two addresses of this machine one stands for the internet.
    let stack = plan.env("SHOPERY_EGRESS_ALLOW", "127.0.0.2").start().await;
    let client = stack.client("tnt_a");
    let names = ["delivered.example", "tested.example", "both.example", "redirected.example"];
    let tls = || stack.authority.server_config(&names, &[b"http/1.1"]).unwrap();
    let port = ports::free();
    let bait = Merchant::on_port(port, tls()).await;
    let shop = Merchant::at(Ipv4Addr::new(127, 0, 0, 2), port, tls()).await;
    let url = |name: &str| format!("https://{name}:{port}/{name}");
    for name in ["delivered.example", "tested.example"] {
        dns.answer(name, &[&["127.0.0.2"], &["127.0.0.1"]]);
        // No connection is kept, so the second attempt asks for the name again.
        shop.behave(&format!("/{name}"), Behaviour::Close);
    }
    dns.answer("both.example", &[&["127.0.0.2", "127.0.0.1"]]);
    dns.answer("redirected.example", &[&["127.0.0.2"]]);
    shop.behave("/redirected.example", Behaviour::Redirect(bait.url("/")));

    let test = async |name: &str| {
        let tested = client.post("/company/webhooks/test", &json!({ "url": url(name) })).await.expect(200).json();
        tested["error"]["reason"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(test("tested.example").await, "connection_failed");
    assert_eq!(test("tested.example").await, "address_forbidden");
    assert_eq!(test("both.example").await, "address_forbidden");
    assert_eq!(test("redirected.example").await, "redirected");

    let mut webhooks = Vec::new();
    for name in ["delivered.example", "both.example", "redirected.example"] {
        webhooks.push(client.create_webhook(&url(name), &["order-*"]).await);
    }
    client.publish(&Event::order("1")).await.expect(202);
    let reasons = [
        ["connection_failed", "address_forbidden"],
        ["address_forbidden", "address_forbidden"],
        ["redirected", "redirected"],
    ];
    for (webhook, reasons) in webhooks.iter().zip(reasons) {
        let path = format!("/company/webhooks/{webhook}/deliveries");
        wait::until("a first attempt and a probe", SOON, async || {
            let [delivery] = &client.all(&path).await[..] else { return Err("no delivery".to_owned()) };
            let delivery = client.delivery(&delivery["id"]).await;
            let attempts = delivery["attempts"].as_array().unwrap();
            let found: Vec<_> = attempts.iter().take(2).map(|one| &one["error"]["reason"]).collect();
            if found == reasons { Ok(()) } else { Err(delivery.to_string()) }
        })
        .await;
    }
    assert_eq!(shop.arrivals_at("/delivered.example").len(), 1);
    assert!(dns.asked("delivered.example") >= 2);
    assert_eq!(bait.count(), 0, "{:?}", bait.arrivals());
}
