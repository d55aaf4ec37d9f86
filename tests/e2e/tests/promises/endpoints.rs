//! What an endpoint may do to us, and what its merchant is told.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use shopery_e2e::client::send;
use shopery_e2e::stack::Plan;
use shopery_e2e::{Arrival, Behaviour, Client, DatabaseKind, Event, Merchant, Stack, certificates, ports, wait};

const SOON: Duration = Duration::from_secs(30);

on_both_databases!(
    an_endpoint_that_fails_twice_gets_three_attempts_with_growing_delays,
    every_kind_of_broken_endpoint_is_a_recorded_failure_that_a_merchant_understands,
    an_endpoint_that_is_gone_disables_its_webhook,
);

async fn an_endpoint_that_fails_twice_gets_three_attempts_with_growing_delays(database: DatabaseKind) {
    let plan = Stack::plan().database(database).env("SHOPERY_RETRY_SCHEDULE", "500ms,1500ms,3s");
    let stack = plan.start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/twice", Behaviour::FailFirst { times: 2, status: 500 });
    let webhook = client.create_webhook(&stack.merchant.url("/twice"), &["order-created"]).await;
    let event = Event::order("1");
    client.publish(&event).await.expect(202);

    // After the first attempt the history says what is wrong and when it goes on.
    let path = format!("/company/webhooks/{webhook}/deliveries");
    let pending = wait::until("a pending delivery", SOON, async || {
        client.all(&path).await.pop().ok_or_else(|| "no delivery".to_owned())
    })
    .await;
    if pending["state"] == "pending" {
        assert!(pending["nextAttemptAt"].is_string() && pending["error"]["reason"] == "http_status", "{pending}");
    }

    let arrivals = stack.merchant.wait_at("/twice", 3, SOON).await;
    let delivery = client.settled(&webhook, 1, SOON).await.remove(0);
    assert_eq!(arrivals.len(), 3);
    assert!(arrivals.iter().all(|one| one.webhook_id() == arrivals[0].webhook_id() && one.body == event.data));
    let numbers: Vec<_> = arrivals.iter().map(|one| one.attempt()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    // As planned, with a fifth of jitter, and what a fired schedule and a busy machine add.
    let (first, second) = (arrivals[1].at - arrivals[0].at, arrivals[2].at - arrivals[1].at);
    assert!((0.4..2.0).contains(&first.as_secs_f64()), "{first:?}");
    assert!((1.2..4.0).contains(&second.as_secs_f64()), "{second:?}");
    assert!(first < second, "{first:?} then {second:?}");

    assert_eq!(delivery["id"], arrivals[0].webhook_id());
    let delivery = client.delivery(&delivery["id"]).await;
    for (member, value) in [
        ("state", json!("delivered")),
        ("attemptCount", json!(3)),
        ("webhookId", json!(webhook)),
        ("eventId", json!(event.id)),
        ("event", json!("order-created")),
        ("resource", json!("order/1")),
    ] {
        assert_eq!(delivery[member], value, "{member} of {delivery}");
    }
    let attempts = delivery["attempts"].as_array().unwrap();
    let statuses: Vec<_> = attempts.iter().map(|attempt| attempt["response"]["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [500, 500, 200], "{delivery}");
    for (number, attempt) in attempts.iter().enumerate() {
        assert_eq!(attempt["request"]["method"], "POST");
        assert_eq!(attempt["request"]["url"], stack.merchant.url("/twice"));
        assert_eq!(attempt["request"]["bytes"], event.data.len());
        assert!(attempt["id"].as_str().unwrap().starts_with("att_") && attempt["durationMs"].is_u64(), "{attempt}");
        let is_failure = number < 2;
        assert_eq!(attempt["error"]["reason"].as_str(), is_failure.then_some("http_status"), "{attempt}");
        let body = attempt["response"]["body"].as_str().unwrap();
        assert!(body.contains(if is_failure { "this is 500" } else { "this is 200" }), "{attempt}");
    }
}

/// An endpoint that cannot work, and what must be said about it.
struct Broken {
    name: &'static str,
    url: String,
    reason: &'static str,
    /// A word of the detail.
    says: &'static str,
    status: Option<u16>,
}

async fn every_kind_of_broken_endpoint_is_a_recorded_failure_that_a_merchant_understands(database: DatabaseKind) {
    let (stack, _merchants, broken) = stack_of_broken_endpoints(Stack::plan().database(database)).await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for endpoint in &broken {
        webhooks.push(client.create_webhook(&endpoint.url, &["order-created"]).await);
    }
    client.publish(&Event::order("1")).await.expect(202);

    // Meanwhile the Test button: the same code, so the same answers, for a saved webhook and for a bare URL.
    for (endpoint, webhook) in broken.iter().zip(&webhooks) {
        let saved = client.post(&format!("/company/webhooks/{webhook}/test"), &json!({})).await.expect(200).json();
        check_test(endpoint, &saved);
    }
    for endpoint in &broken {
        let bare = client.post("/company/webhooks/test", &json!({ "url": endpoint.url })).await.expect(200).json();
        check_test(endpoint, &bare);
    }

    for (endpoint, webhook) in broken.iter().zip(&webhooks) {
        let name = endpoint.name;
        let delivery = client.settled(webhook, 1, SOON).await.remove(0);
        assert_eq!(delivery["state"], "failed", "{name}: {delivery}");
        let delivery = client.delivery(&delivery["id"]).await;
        let attempts = delivery["attempts"].as_array().unwrap();
        assert_eq!((attempts.len(), &delivery["attemptCount"]), (2, &json!(2)), "{name}: {delivery}");
        for failed in attempts.iter().chain([&delivery]) {
            assert_eq!(failed["error"]["reason"], endpoint.reason, "{name}: {delivery}");
            let detail = failed["error"]["detail"].as_str().unwrap();
            assert!(detail.contains(endpoint.says), "{name}: {detail}");
        }
        for attempt in attempts {
            assert_eq!(attempt["response"]["status"].as_u64(), endpoint.status.map(u64::from), "{name}: {attempt}");
            let millis = attempt["durationMs"].as_u64().unwrap();
            let is_slow = endpoint.reason == "timeout";
            assert!(if is_slow { (4500..6500).contains(&millis) } else { millis < 4500 }, "{name}: {millis} ms");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_decides_and_what_was_odd_is_in_the_history() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let flood = |announced| Behaviour::Flood { bytes: 100_000_000, announced };
    let odd = [
        ("/trickle", Behaviour::Trickle, "did not end within 1 s"),
        ("/flood", flood(true), "over 16 KiB"),
        ("/endless", flood(false), "over 16 KiB"),
    ];
    let mut webhooks = Vec::new();
    for (path, behaviour, _) in &odd {
        stack.merchant.behave(path, behaviour.clone());
        webhooks.push(client.create_webhook(&stack.merchant.url(path), &["*"]).await);
    }
    client.publish(&Event::order("1")).await.expect(202);
    for (webhook, (path, _, says)) in webhooks.iter().zip(&odd) {
        let delivery = client.settled(webhook, 1, SOON).await.remove(0);
        assert_eq!(delivery["state"], "delivered", "{path}: {delivery}");
        let delivery = client.delivery(&delivery["id"]).await;
        let attempt = &delivery["attempts"][0];
        assert_eq!(attempt["response"]["status"], 200, "{path}: {attempt}");
        assert!(attempt["note"].as_str().is_some_and(|note| note.contains(says)), "{path}: {attempt}");
        assert!(attempt["durationMs"].as_u64().unwrap() < 3000, "{path}: {attempt}");
    }
    // A flood is not read: what left us fits the buffers on the way.
    assert!(stack.merchant.flooded() < 100_000_000, "{} bytes of floods were taken", stack.merchant.flooded());
}

fn check_test(endpoint: &Broken, answer: &Value) {
    let name = endpoint.name;
    assert_eq!(answer["success"], false, "{name}: {answer}");
    assert_eq!(answer["error"]["reason"], endpoint.reason, "{name}: {answer}");
    assert!(answer["error"]["detail"].as_str().unwrap().contains(endpoint.says), "{name}: {answer}");
    assert_eq!(answer["status"].as_u64(), endpoint.status.map(u64::from), "{name}: {answer}");
    assert!(answer["durationMs"].is_u64(), "{name}: {answer}");
}

/// The merchants live as long as the test.
async fn stack_of_broken_endpoints(plan: Plan) -> (Stack, Vec<Merchant>, Vec<Broken>) {
    let (expired_root, expired) = certificates::expired();
    let plan = plan.trust(&expired_root).env("SHOPERY_RETRY_SCHEDULE", "300ms").env("SHOPERY_SLOTS", "64");
    let self_signed = Merchant::with_tls(certificates::self_signed()).await;
    let expired = Merchant::with_tls(expired).await;
    // These ports may be sent to, and nothing else that is not public.
    let (own, wrong_name, closed) = (ports::free(), ports::free(), ports::free());
    let ports = [own, wrong_name, closed, self_signed.port(), expired.port()];
    let allowed: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let stack = plan.env("SHOPERY_EGRESS_ALLOW", allowed.join(",")).start().await;
    let own = Merchant::on_port(own, stack.authority.server_config(&["127.0.0.1"], &[b"http/1.1"]).unwrap()).await;
    let other_name = stack.authority.server_config(&["shop.example"], &[b"h2"]).unwrap();
    let wrong_name = Merchant::on_port(wrong_name, other_name).await;

    own.behave("/hang", Behaviour::Hang);
    own.behave("/redirect", Behaviour::Redirect(own.url("/elsewhere")));
    own.behave("/close", Behaviour::Close);
    own.behave("/404", Behaviour::Answer(404));
    let broken = |name, url, reason, says| Broken { name, url, reason, says, status: None };
    let answering = |name, url, reason, says, status| Broken { name, url, reason, says, status: Some(status) };
    let endpoints = vec![
        broken("a hang", own.url("/hang"), "timeout", "5 s"),
        answering("a redirect", own.url("/redirect"), "redirected", "final URL", 302),
        broken("a closed connection", own.url("/close"), "connection_failed", "connection"),
        answering("404", own.url("/404"), "http_status", "404", 404),
        broken("a self-signed certificate", self_signed.url("/"), "certificate_invalid", "self-signed"),
        broken("an expired certificate", expired.url("/"), "certificate_invalid", "expired"),
        broken("a wrong host name", wrong_name.url("/"), "certificate_invalid", "another host name"),
        broken("a refusal", format!("https://127.0.0.1:{closed}/"), "connection_refused", "refused"),
        broken("no such name", "https://no-such-shop.invalid/".to_owned(), "dns_failed", "cannot be resolved"),
    ];
    // The redirect led nowhere.
    (stack, vec![own, self_signed, expired, wrong_name], endpoints)
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_wait_for_as_long_as_the_endpoint_asks() {
    let plan = Stack::plan().env("SHOPERY_CIRCUIT_FAILURES", "1").env("SHOPERY_PROBE_FIRST", "200ms");
    let stack = plan.env("SHOPERY_RETRY_SCHEDULE", "1h").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/busy", Behaviour::Busy { times: 2, status: 503, retry_after: "3".to_owned() });
    let webhook = client.create_webhook(&stack.merchant.url("/busy"), &["*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    // Its circuit is open by then.
    client.in_state(&webhook, "pending", 1, SOON).await;
    client.publish(&Event::order("2")).await.expect(202);
    // The attempt that opens the circuit, a probe, and one that succeeds.
    let arrivals = stack.merchant.wait_at("/busy", 3, SOON).await;
    for pair in arrivals[..3].windows(2) {
        let delay = pair[1].at - pair[0].at;
        assert!(delay >= Duration::from_millis(2900), "{delay:?}");
    }
}

async fn an_endpoint_that_is_gone_disables_its_webhook(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/gone", Behaviour::Answer(410));
    let webhook = client.create_webhook(&stack.merchant.url("/gone"), &["*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    let delivery = client.settled(&webhook, 1, SOON).await.remove(0);
    assert_eq!((&delivery["state"], &delivery["attemptCount"]), (&json!("failed"), &json!(1)), "{delivery}");
    assert_eq!(delivery["error"]["reason"], "gone");

    let path = format!("/company/webhooks/{webhook}");
    wait::until("the webhook to be disabled", SOON, async || {
        let found = client.get(&path).await.expect(200).json();
        if found["isEnabled"] == false { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    // Events wait until the merchant enables it again.
    let beside = client.create_webhook(&stack.merchant.url("/beside"), &["order-*"]).await;
    client.publish(&Event::order("2")).await.expect(202);
    client.settled(&beside, 1, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/gone").len(), 1);
    stack.merchant.behave("/gone", Behaviour::Answer(200));
    client.patch(&path, &json!({ "isEnabled": true })).await.expect(200);
    client.publish(&Event::order("3")).await.expect(202);
    stack.merchant.wait_at("/gone", 3, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_of_a_busy_endpoint_is_honoured() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "200ms,200ms").start().await;
    let client = stack.client("tnt_a");
    for (path, status) in [("/429", 429), ("/503", 503), ("/500", 500)] {
        stack.merchant.behave(path, Behaviour::Busy { times: 1, status, retry_after: "3".to_owned() });
        client.create_webhook(&stack.merchant.url(path), &["*"]).await;
    }
    client.publish(&Event::order("1")).await.expect(202);
    for (path, is_asked) in [("/429", true), ("/503", true), ("/500", false)] {
        let arrivals = stack.merchant.wait_at(path, 2, SOON).await;
        let delay = arrivals[1].at - arrivals[0].at;
        assert_eq!(delay >= Duration::from_millis(2900), is_asked, "{path}: {delay:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_and_http_2_is_used_where_it_is_offered() {
    let stack = Stack::start().await;
    let old = Merchant::with_http1(&stack.authority).await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/new"), &["*"]).await;
    client.create_webhook(&old.url("/old"), &["*"]).await;
    for number in 0..20 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
        stack.merchant.wait_at("/new", number + 1, SOON).await;
        old.wait_at("/old", number + 1, SOON).await;
    }
    let connections = |arrivals: Vec<Arc<Arrival>>| arrivals.iter().map(|one| one.connection).max().unwrap() + 1;
    assert!(stack.merchant.arrivals().iter().all(|one| one.version == hyper::Version::HTTP_2));
    assert!(old.arrivals().iter().all(|one| one.version == hyper::Version::HTTP_11));
    assert!(connections(stack.merchant.arrivals()) <= 2);
    assert!(connections(old.arrivals()) <= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_call_posts_a_signed_sample_like_a_delivery() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-created"]).await;
    let secret = client.secret(&webhook).await;
    let answer = client.post(&format!("/company/webhooks/{webhook}/test"), &json!({})).await.expect(200).json();
    assert_eq!((&answer["success"], &answer["status"]), (&json!(true), &json!(200)), "{answer}");
    assert_eq!(answer["wouldDeliver"], true, "{answer}");
    let arrival = stack.merchant.wait_at("/a", 1, SOON).await.remove(0);
    assert_eq!(arrival.header("x-shopery-secret"), secret);
    assert_eq!(arrival.header("x-shopery-tenant-id"), "tnt_a");
    assert!(serde_json::from_slice::<Value>(&arrival.body).unwrap().is_object());
    let message = shopery_e2e::verify::Message::of(&arrival, &secret);
    assert_eq!(shopery_e2e::verify::verify(&[message]).await, [Ok(())]);

    let answer = client.post("/company/webhooks/test", &json!({ "url": stack.merchant.url("/b") })).await;
    assert_eq!(answer.expect(200).json()["success"], true);
    assert_eq!(stack.merchant.arrivals_at("/b").len(), 1);
    // A test is no delivery.
    assert_eq!(client.all("/company/deliveries").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_call_says_what_a_delivery_would_do_and_changes_nothing() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-created"]).await;
    let path = format!("/company/webhooks/{webhook}");
    let test = format!("{path}/test");
    for (status, would_deliver, says) in
        [(204, true, "a test expects 200"), (202, true, "a test expects 200"), (410, false, "gone for good")]
    {
        stack.merchant.behave("/a", Behaviour::Answer(status));
        let unsaved = json!({ "url": stack.merchant.url("/a") });
        for answer in [client.post(&test, &json!({})).await, client.post("/company/webhooks/test", &unsaved).await] {
            let answer = answer.expect(200).json();
            assert_eq!(
                (&answer["success"], &answer["wouldDeliver"]),
                (&json!(false), &json!(would_deliver)),
                "{answer}"
            );
            let detail = answer["error"]["detail"].as_str().unwrap();
            assert!(detail.contains(says) && !detail.contains("disabled"), "{answer}");
        }
    }
    let found = client.get(&path).await.expect(200).json();
    assert_eq!((&found["isEnabled"], &found["state"]), (&json!(true), &json!("active")), "{found}");

    // No body is as good as an empty object; a field that would be ignored is refused.
    stack.merchant.behave("/a", Behaviour::Answer(200));
    let request = || client.request(Method::POST, &test);
    for request in [request(), request().header(CONTENT_TYPE, "application/json")] {
        assert_eq!(send(request).await.unwrap().expect(200).json()["success"], true);
    }
    let refused = client.post(&test, &json!({ "url": "https://b.example/" })).await.expect(422).problem();
    assert_eq!(refused["errors"][0]["field"], "url", "{refused}");
    client.post(&test, &json!([])).await.expect(400).problem();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_disabled_parks_its_retries_and_one_that_is_deleted_ends_them() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "2s,2s,2s,2s").start().await;
    let client: Client = stack.client("tnt_a");
    stack.merchant.behave("/disabled", Behaviour::Answer(500));
    stack.merchant.behave("/deleted", Behaviour::Answer(500));
    let disabled = client.create_webhook(&stack.merchant.url("/disabled"), &["*"]).await;
    let deleted = client.create_webhook(&stack.merchant.url("/deleted"), &["*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    stack.merchant.wait_at("/disabled", 1, SOON).await;
    let gone = stack.merchant.wait_at("/deleted", 1, SOON).await;
    client.patch(&format!("/company/webhooks/{disabled}"), &json!({ "isEnabled": false })).await.expect(200);
    client.delete(&format!("/company/webhooks/{deleted}")).await.expect(204);

    wait::until("the retry of the disabled webhook to be parked", SOON, async || {
        let found = client.all(&format!("/company/webhooks/{disabled}/deliveries")).await;
        let [delivery] = &found[..] else { return Err(format!("{found:?}")) };
        let what = (&delivery["state"], &delivery["attemptCount"]);
        if what == (&json!("parked"), &json!(1)) { Ok(()) } else { Err(format!("{what:?}")) }
    })
    .await;
    let id = json!(gone[0].webhook_id());
    wait::until("the delivery of the deleted webhook to fail", SOON, async || {
        let found = client.get(&format!("/company/deliveries/{}", id.as_str().unwrap())).await;
        // What becomes of the history of a deleted webhook is not promised; that it ends is.
        let text = found.text();
        if found.status == 404 || found.json()["error"]["reason"] == "webhook_deleted" { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(stack.merchant.arrivals_at("/disabled").len(), 1);
    assert_eq!(stack.merchant.arrivals_at("/deleted").len(), 1);
}
