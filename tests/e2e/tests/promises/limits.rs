//! Who asks too much, too slowly or at too great a length is bounded, and nobody else notices.

use std::time::{Duration, Instant};

use serde_json::json;
use shopery_e2e::{Client, Event, Reply, Service, Stack, token, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(30);

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).unwrap_or_else(|| panic!("no {name} in {reply:?}")).to_str().unwrap()
}

fn check_refusal(reply: &Reply, policy: &str) {
    assert_eq!(reply.status, 429, "{}", reply.text());
    assert_eq!(reply.problem()["type"], "urn:shopery:problem:too-many-requests");
    let seconds: u64 = header(reply, "retry-after").parse().unwrap();
    assert!((1..=3600).contains(&seconds), "{seconds}");
    assert!(header(reply, "ratelimit").contains(&format!("\"{policy}\";r=0;t={seconds}")), "{reply:?}");
}

/// A client of this name that may act for both tenants.
fn named(client: &Client, subject: &str) -> Client {
    let mut claims = token::claims(&["tnt_a", "tnt_b"], token::ALL);
    claims["sub"] = json!(subject);
    client.with_token(&token::sign(&claims, jsonwebtoken::Algorithm::HS256, token::SECRET))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_beyond_its_limit_is_refused_and_another_is_not() {
    let plan = Stack::plan().env("SHOPERY_API_TENANT_LIMIT", "10/1h").env("SHOPERY_INGEST_TENANT_LIMIT", "5/1h");
    let stack = plan.start().await;
    let (loud, quiet) = (stack.client("tnt_a"), stack.client("tnt_b"));
    for left in (0..10).rev() {
        let reply = loud.get("/company/webhooks").await.expect(200);
        assert_eq!(header(&reply, "ratelimit-policy"), "\"tenant\";q=10;w=3600, \"client\";q=60000;w=60");
        let state = header(&reply, "ratelimit");
        assert!(state.starts_with(&format!("\"tenant\";r={left};t=")) && state.contains("\"client\";r="), "{state}");
    }
    check_refusal(&loud.get("/company/webhooks").await, "tenant");
    // Another client of the tenant is refused too.
    check_refusal(&named(&loud, "another").get("/company/deliveries").await, "tenant");
    quiet.get("/company/webhooks").await.expect(200);

    for _ in 0..5 {
        loud.publish(&Event::order("1")).await.expect(202);
    }
    check_refusal(&loud.publish(&Event::order("1")).await, "tenant");
    let reply = quiet.publish(&Event::order("1")).await.expect(202);
    assert_eq!(header(&reply, "ratelimit-policy"), "\"tenant\";q=5;w=3600, \"client\";q=50000;w=1");
    // What is not of the API is not counted.
    for _ in 0..20 {
        assert_eq!(reqwest::get(format!("{}/readyz", loud.api)).await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_beyond_its_limit_is_refused_for_whichever_tenant_and_its_tenants_are_not() {
    let stack = Stack::plan().env("SHOPERY_API_CLIENT_LIMIT", "10/1h").start().await;
    let (a, b) = (stack.client("tnt_a"), stack.client("tnt_b"));
    for _ in 0..5 {
        named(&a, "loud").get("/company/webhooks").await.expect(200);
        named(&b, "loud").get("/company/webhooks").await.expect(200);
    }
    check_refusal(&named(&a, "loud").get("/company/webhooks").await, "client");
    check_refusal(&named(&b, "loud").get("/company/webhooks").await, "client");
    named(&a, "quiet").get("/company/webhooks").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_guesses_tokens_is_refused_and_known_tokens_are_not() {
    let plan = Stack::plan().env("SHOPERY_ADDRESS_LIMIT", "10/1h").env("SHOPERY_TRUSTED_PROXIES", "127.0.0.2");
    let stack = plan.start().await;
    let client = stack.client("tnt_a");
    client.get("/company/webhooks").await.expect(200);
    for number in 0..10 {
        let reply = client.with_token(&format!("guess {number}")).get("/company/webhooks").await.expect(401);
        assert_eq!(header(&reply, "ratelimit-policy"), "\"address\";q=10;w=3600");
    }
    check_refusal(&client.with_token("guess").get("/company/webhooks").await, "address");
    check_refusal(&client.with_token("").get("/company/webhooks").await, "address");
    // A good token is not looked at either, unless it is known; and a header does not make another address.
    check_refusal(&named(&client, "new").get("/company/webhooks").await, "address");
    let request = named(&client, "new").request(reqwest::Method::GET, "/company/webhooks");
    let forged = shopery_e2e::client::send(request.header("X-Forwarded-For", "198.51.100.7")).await.unwrap();
    check_refusal(&forged, "address");
    client.get("/company/webhooks").await.expect(200);
    // Ingest counts for itself.
    client.publish(&Event::order("1")).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_heads_are_refused_and_silent_connections_are_closed() {
    let stack = Stack::start().await;
    for service in [Service::Api, Service::Ingest] {
        let address = stack.url(service).replace("http://", "");
        let begun = Instant::now();
        let mut silent = Vec::new();
        for said in
            ["", "G", "PRI * HTTP/2.0", "GET / HTTP/1.1\r\nHost: a\r\n", "POST /events HTTP/1.1\r\nHost: a\r\nX: "]
        {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            silent.push((said, stream));
        }
        for (what, head) in [
            ("a long header", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000))),
            ("many headers", format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: x\r\n".repeat(1000))),
            ("a long path", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000))),
        ] {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            // The server may close before it has read all.
            let _ = stream.write_all(head.as_bytes()).await;
            let mut answer = Vec::new();
            let read = wait::within(what, SOON, stream.read_to_end(&mut answer)).await;
            let answer = String::from_utf8_lossy(&answer);
            let is_refused = answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414");
            assert!(is_refused || read.is_err() || answer.is_empty(), "{what}: {answer}");
        }
        for (said, mut stream) in silent {
            let mut answer = Vec::new();
            // However it is closed.
            let _ = wait::within("a silent connection to be closed", SOON, stream.read_to_end(&mut answer)).await;
            let seconds = begun.elapsed().as_secs_f64();
            assert!((9.0..20.0).contains(&seconds), "after {said:?}: {seconds} s");
        }
    }
    stack.client("tnt_a").get("/company/webhooks").await.expect(200);
}
