//! A tenant can neither read nor touch another tenant's anything.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::{Value, json};
use shopery_e2e::client::send;
use shopery_e2e::{Client, DatabaseKind, Event, Reply, Stack, token, wait};

const SOON: Duration = Duration::from_secs(20);
/// What is in everything of ours: it must be in nothing that they are told.
const MARK: &str = "only-ours";

on_both_databases!(another_tenant_finds_nothing_by_any_route, a_tenant_has_its_own_lists_and_events);

/// What one tenant has: an id of each kind.
struct Belongings {
    webhook: String,
    ids: Vec<String>,
    cursor: String,
}

async fn furnish(stack: &Stack, client: &Client) -> Belongings {
    let rules = json!({ "name": MARK, "headers": { "X-Mark": MARK } });
    let webhook = client.create_webhook_with(&stack.merchant.url(&format!("/{MARK}")), &["*"], rules).await;
    for number in 1..=2 {
        let data = json!({ "id": number, "note": MARK }).to_string();
        client.publish(&Event::order(&format!("{MARK}-{number}")).with_data(data)).await.expect(202);
    }
    let delivery = client.settled(&webhook, 2, SOON).await.remove(0)["id"].as_str().unwrap().to_owned();
    let missed = json!({ "since": "2020-01-01T00:00:00Z" });
    let recovery = client.post(&format!("/company/webhooks/{webhook}/recover"), &missed).await.expect(202).json();
    let path = format!("/company/recoveries/{}", text(&recovery["id"]));
    wait::until("the recovery to end", SOON, async || {
        let found = client.get(&path).await.expect(200).json();
        if found["finishedAt"].is_string() { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    let page = client.get("/company/deliveries?limit=1").await.expect(200).json();
    let ids = vec![webhook.clone(), delivery, recovery["id"].as_str().unwrap().to_owned()];
    Belongings { webhook, ids, cursor: page["nextCursor"].as_str().unwrap().to_owned() }
}

/// The routes of the API, as it documents them itself.
async fn routes(client: &Client) -> Vec<(Method, String)> {
    let document = client.get("/openapi.json").await.expect(200).json();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let own = operation["parameters"].as_array().into_iter().flatten();
            let needed = own.filter(|one| one["in"] == "query" && one["required"] == true);
            let query: Vec<_> = needed.map(|one| format!("{}={}", text(&one["name"]), text(&one["example"]))).collect();
            let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
            let method = method.to_ascii_uppercase();
            if let Ok(method @ (Method::GET | Method::POST | Method::PATCH | Method::DELETE)) = method.parse()
                && path.starts_with("/company/")
            {
                routes.push((method, format!("{path}{query}")));
            }
        }
    }
    routes
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

async fn ask(client: &Client, method: &Method, path: &str) -> Reply {
    let mut request = client.request(method.clone(), path);
    if *method != Method::GET && *method != Method::DELETE {
        request = request.header(CONTENT_TYPE, "application/json").body("{}");
    }
    send(request).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// What an answer says, but for what is of the moment.
fn said(reply: &Reply) -> (u16, HeaderMap, String) {
    let mut headers = reply.headers.clone();
    for of_the_moment in ["date", "ratelimit"] {
        headers.remove(of_the_moment);
    }
    (reply.status, headers, reply.text())
}

/// All that a tenant can see of itself.
async fn seen(client: &Client, webhook: &str) -> Vec<Value> {
    let mut seen = Vec::new();
    for list in ["webhooks", "deliveries", "events"] {
        seen.extend(client.all(&format!("/company/{list}")).await);
    }
    for list in ["deliveries", "recoveries", "changes"] {
        seen.extend(client.all(&format!("/company/webhooks/{webhook}/{list}")).await);
    }
    seen.push(client.get(&format!("/company/webhooks/{webhook}/secret")).await.expect(200).json());
    seen
}

async fn another_tenant_finds_nothing_by_any_route(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let (ours, theirs) = (stack.client("tnt_a"), stack.client("tnt_b"));
    let our = furnish(&stack, &ours).await;
    stack.at_rest(SOON).await;
    let before = seen(&ours, &our.webhook).await;
    let arrived = stack.merchant.arrivals_at(&format!("/{MARK}")).len();

    let routes = routes(&ours).await;
    assert!(routes.len() > 20, "these cannot be all routes: {routes:?}");
    let mut forged = theirs.clone();
    forged.tenant = "tnt_a".to_owned();
    let nobody = theirs.with_token("");
    let plain = reqwest::Client::builder().no_proxy().timeout(SOON).build().unwrap();
    for (method, path) in &routes {
        let is_of_one = path.contains("{id}");
        for id in &our.ids {
            let (prefix, _) = id.split_once('_').unwrap();
            let (known, unknown) =
                (path.replace("{id}", id), path.replace("{id}", &format!("{prefix}_01HA4XCG60CT4G3EWF4CKYM1MF")));
            let reply = ask(&theirs, method, &known).await;
            let all = format!("{:?} {}", reply.headers, reply.text());
            assert!(!all.contains(MARK) && !all.contains("tnt_a"), "{method} {known}: {all}");
            if is_of_one {
                // What is another's is answered exactly as what does not exist.
                assert_eq!(reply.status, 404, "{method} {known}: {}", reply.text());
                assert_eq!(said(&reply), said(&ask(&theirs, method, &unknown).await), "{method} {known}");
            } else if *method == Method::GET {
                assert_eq!(reply.status, 200, "{method} {known}: {}", reply.text());
            }
            // Nor does the header alone open anything.
            assert_eq!(ask(&forged, method, &known).await.expect(403).problem()["status"], 403);
            assert_eq!(ask(&nobody, method, &known).await.expect(401).problem()["status"], 401);
            let url = format!("{}{known}", theirs.api);
            let without_tenant = plain.request(method.clone(), url).bearer_auth(&theirs.token);
            assert_eq!(send(without_tenant).await.unwrap().expect(400).problem()["status"], 400);
        }
        if *method == Method::GET && !is_of_one {
            let with_cursor = ask(&theirs, method, &format!("{path}?cursor={}", our.cursor)).await;
            assert!(!with_cursor.text().contains(MARK), "{path}: {}", with_cursor.text());
        }
    }

    // A key is a tenant's own: theirs does not show what ours was answered with.
    let body = json!({ "name": MARK, "url": stack.merchant.url("/keyed"), "events": ["customer-created"] });
    let keyed =
        |client: &Client| client.request(Method::POST, "/company/webhooks").header("Idempotency-Key", "k").json(&body);
    let our_answer = send(keyed(&ours)).await.unwrap().expect(201);
    let their_answer = send(keyed(&theirs)).await.unwrap().expect(201);
    assert_ne!(our_answer.json(), their_answer.json());
    assert_eq!(their_answer.header("idempotent-replayed"), "");
    ours.delete(&format!("/company/webhooks/{}", our_answer.json()["id"].as_str().unwrap())).await.expect(204);

    // And nothing of all that has done anything.
    stack.at_rest(SOON).await;
    assert_eq!(seen(&ours, &our.webhook).await, before);
    assert_eq!(stack.merchant.arrivals_at(&format!("/{MARK}")).len(), arrived);
}

async fn a_tenant_has_its_own_lists_and_events(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let (ours, theirs) = (stack.client("tnt_a"), stack.client("tnt_b"));
    let our = furnish(&stack, &ours).await;
    // A token for both tenants shows each its own.
    let both = token::mint(&["tnt_a", "tnt_b"], token::ALL);
    assert_eq!(ours.with_token(&both).all("/company/webhooks").await.len(), 1);
    for list in ["webhooks", "deliveries", "events"] {
        let found = theirs.with_token(&both).all(&format!("/company/{list}")).await;
        assert_eq!(found, Vec::<Value>::new(), "{list}");
    }
    theirs.with_token(&both).get(&format!("/company/webhooks/{}", our.webhook)).await.expect(404);

    // A webhook hears nothing of another's events.
    let own = theirs.create_webhook(&stack.merchant.url("/theirs"), &["*"]).await;
    theirs.publish(&Event::order("2")).await.expect(202);
    theirs.settled(&own, 1, SOON).await;
    assert!(stack.merchant.arrivals_at(&format!("/{MARK}")).len() <= 2);
    assert_eq!(theirs.all("/company/deliveries").await.len(), 1);
    assert_eq!(stack.merchant.arrivals_at("/theirs").len(), 1);
}
