//! The REST API, and that what it says is what the data plane does.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::{Value, json};
use shopery_e2e::client::time;
use shopery_e2e::{Client, DatabaseKind, Event, Service, Signal, Stack, process, wait};

const SOON: Duration = Duration::from_secs(30);
const MS: Duration = Duration::from_millis(1);

on_both_databases!(
    a_webhook_is_created_as_documented,
    a_webhook_lives_and_dies,
    what_is_published_once_a_webhook_is_created_reaches_it,
    lists_are_paged_newest_first,
    lists_are_cut_by_times,
    a_change_of_what_others_have_changed_meanwhile_is_refused,
    a_webhook_created_while_nats_is_away_works_when_it_is_back,
    a_webhook_that_config_has_lost_is_put_back,
);

/// The example of the public documentation, to the letter.
async fn a_webhook_is_created_as_documented(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let body = r#"{
"name": "webhook test",
"url": "https://test.com/wh",
"events": [
"order-created"
],
"isEnabled": true
}"#;
    let request = client.request(reqwest::Method::POST, "/company/webhooks");
    let request = request.header("Content-Type", "application/json").body(body);
    let created = shopery_e2e::client::send(request).await.unwrap().expect(201);
    let answer = created.json();
    let id = answer["id"].as_str().unwrap();
    let ulid = id.strip_prefix("wbh_").unwrap_or_else(|| panic!("{id}"));
    let is_crockford = |byte: u8| byte.is_ascii_digit() || (byte.is_ascii_uppercase() && !b"ILOU".contains(&byte));
    assert!(ulid.len() == 26 && ulid.bytes().all(is_crockford), "{id}");
    assert_eq!(answer, json!({ "id": id }), "nothing but the id");

    let found = client.get(&format!("/company/webhooks/{id}")).await.expect(200).json();
    for (member, value) in [
        ("id", json!(id)),
        ("name", json!("webhook test")),
        ("url", json!("https://test.com/wh")),
        ("events", json!(["order-created"])),
        ("isEnabled", json!(true)),
    ] {
        assert_eq!(found[member], value, "{found}");
    }
    assert!(found["createdAt"].is_string() && found["updatedAt"].is_string(), "{found}");
    assert!(found.get("secret").is_none() && !found.to_string().contains("whsec_"), "the secret is shown: {found}");
    assert!(client.secret(id).await.starts_with("whsec_"));
}

async fn a_webhook_lives_and_dies(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let body = json!({
        "name": "Zoë’s webhook", "url": stack.merchant.url("/a"), "events": ["orders-created"], "isEnabled": false,
        "secret": secret
    });
    let created = client.post("/company/webhooks", &body).await.expect(201).json();
    let path = format!("/company/webhooks/{}", created["id"].as_str().unwrap());
    let id = created["id"].as_str().unwrap();
    assert_eq!(client.secret(id).await, secret);
    let found = client.get(&path).await.expect(200).json();
    assert_eq!((&found["name"], &found["events"]), (&json!("Zoë’s webhook"), &json!(["order-created"])));

    // Disabled, it gets nothing; enabled to start anew, moved and with another secret, it gets what it wants now.
    let beside = client.create_webhook(&stack.merchant.url("/beside"), &["*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    client.settled(&beside, 1, SOON).await;
    wait::until("what came for it to be parked", SOON, async || {
        let found = client.get(&path).await.expect(200).json();
        if found["waiting"]["parked"] == 1 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    assert_eq!(stack.merchant.arrivals_at("/a").len(), 0);
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let change = json!({
        "isEnabled": true, "waiting": "discard", "url": stack.merchant.url("/b"), "events": ["product-*"], "secret": other, "name": "new"
    });
    client.patch(&path, &change).await.expect(200);
    let changed = client.get(&path).await.expect(200).json();
    assert_eq!((&changed["name"], &changed["isEnabled"]), (&json!("new"), &json!(true)), "{changed}");
    assert!(time(&changed["updatedAt"]) >= time(&found["updatedAt"]) && changed["createdAt"] == found["createdAt"]);
    client.publish(&Event::order("2")).await.expect(202);
    client.publish(&Event::new("product-updated", "3")).await.expect(202);
    let arrival = stack.merchant.wait_at("/b", 1, SOON).await.remove(0);
    assert_eq!(arrival.header("x-shopery-secret"), other);
    assert_eq!(arrival.header("x-shopery-event"), "product-updated");
    client.settled(&beside, 3, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/b").len(), 1);

    // Gone, it gets nothing.
    client.delete(&path).await.expect(204);
    client.get(&path).await.expect(404).problem();
    client.delete(&path).await.expect(404).problem();
    client.publish(&Event::new("product-updated", "4")).await.expect(202);
    client.settled(&beside, 4, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/b").len(), 1);
    let names: Vec<_> = client.all("/company/webhooks").await.iter().map(|one| one["id"].clone()).collect();
    assert_eq!(names, [json!(beside)]);
}

/// The answer waits for the routers, also for one that takes its time.
async fn what_is_published_once_a_webhook_is_created_reaches_it(database: DatabaseKind) {
    let mut stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    for number in 0..20 {
        let (path, url) = (format!("/{number}"), stack.merchant.url(&format!("/{number}")));
        let router = stack.process(Service::Router).pid();
        process::send(router, Signal::SIGSTOP).unwrap();
        let create = client.create_webhook(&url, &["*"]);
        let go_on = async {
            wait::until_true("the webhook is in the database", SOON, async || {
                client.get("/company/webhooks?limit=1").await.json()["data"][0]["url"] == url.as_str()
            })
            .await;
            process::send(router, Signal::SIGCONT).unwrap();
        };
        tokio::join!(create, go_on);
        client.publish(&Event::order(&format!("order-{number}"))).await.expect(202);
        stack.merchant.wait_at(&path, 1, SOON).await;
    }
}

async fn lists_are_paged_newest_first(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for number in 0..7 {
        webhooks.push(client.create_webhook(&stack.merchant.url(&format!("/{number}")), &["order-*"]).await);
    }
    assert_eq!(pages(&client, "/company/webhooks", 3).await, [3, 3, 1]);
    let all = client.all("/company/webhooks").await;
    let created: Vec<_> = all.iter().map(|one| time(&one["createdAt"])).collect();
    assert!(created.is_sorted_by(|newer, older| newer >= older), "{created:?}");
    // Of one millisecond, any order will do.
    let mut ids: Vec<_> = all.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    webhooks.sort();
    assert_eq!(ids, webhooks);

    for number in 0..3 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
        for webhook in &webhooks {
            client.settled(webhook, number + 1, SOON).await;
        }
    }
    assert_eq!(pages(&client, "/company/deliveries", 10).await, [10, 10, 1]);
    let all = client.all("/company/deliveries").await;
    let created: Vec<_> = all.iter().map(|one| time(&one["createdAt"])).collect();
    assert!(created.is_sorted_by(|newer, older| newer >= older), "{created:?}");
    let of_one = client.all(&format!("/company/webhooks/{}/deliveries", webhooks[0])).await;
    assert_eq!(of_one.len(), 3);
    for delivery in of_one {
        assert_eq!(delivery["webhookId"], json!(webhooks[0]));
        assert!(delivery["triggeredAt"].is_string() && delivery["updatedAt"].is_string(), "{delivery}");
    }
}

/// The sizes of the pages of a list; no entry may be on two of them.
async fn pages(client: &Client, path: &str, limit: usize) -> Vec<usize> {
    let (mut sizes, mut ids) = (Vec::new(), Vec::new());
    let mut query = format!("{path}?limit={limit}");
    loop {
        let page = client.get(&query).await.expect(200).json();
        let data = page["data"].as_array().unwrap();
        sizes.push(data.len());
        ids.extend(data.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        match page["nextCursor"].as_str() {
            Some(cursor) => query = format!("{path}?limit={limit}&cursor={cursor}"),
            None => break,
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "an entry is on two pages");
    sizes
}

/// As if the API had stopped between the two writes, to SQL and to CONFIG.
async fn lists_are_cut_by_times(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let mut ids = Vec::new();
    for number in 0..3 {
        let id = client.create_webhook(&stack.merchant.url(&format!("/{number}")), &["order-created"]).await;
        // Times have milliseconds: each webhook its own.
        let created = client.get(&format!("/company/webhooks/{id}")).await.expect(200).json()["createdAt"].clone();
        wait::until_true("the next millisecond", SOON, async || time::OffsetDateTime::now_utc() > time(&created) + MS)
            .await;
        ids.push((id, created.as_str().unwrap().to_owned()));
    }
    let (_, second) = &ids[1];
    let path = format!("/company/webhooks/{}", ids[0].0);
    let changed = client.patch(&path, &json!({ "name": "changed" })).await.expect(200).json();
    let changed = changed["updatedAt"].as_str().unwrap();
    for (query, found) in [
        (format!("created_at_min={second}"), [2, 1].as_slice()),
        (format!("created_at_max={second}"), &[1, 0]),
        (format!("created_at_min={second}&created_at_max={second}"), &[1]),
        (format!("updated_at_min={changed}"), &[0]),
        (format!("updated_at_max={second}"), &[1]),
        (format!("created_at_max={second}&updated_at_min={changed}"), &[0]),
    ] {
        let listed = client.get(&format!("/company/webhooks?{query}")).await.expect(200).json();
        let listed: Vec<_> = listed["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
        let wanted: Vec<_> = found.iter().map(|number| ids[*number].0.as_str()).collect();
        assert_eq!(listed, wanted, "{query}");
    }
    // A + that was not escaped is a space by now: the time is refused, and not taken for another.
    let named = second.replace('Z', "%2B00:00");
    let listed = client.get(&format!("/company/webhooks?created_at_max={named}")).await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2, "{listed}");
    for (query, says) in [
        (format!("created_at_max={}", second.replace('Z', "+00:00")), "%2B"),
        ("updated_at_min=9999-12-31T23:59:59-01:00".to_owned(), "year"),
    ] {
        for path in ["/company/webhooks", "/company/deliveries", "/company/events", "/company/metrics"] {
            if path == "/company/metrics" && query.starts_with("updated") {
                continue;
            }
            let problem = client.get(&format!("{path}?{query}")).await.expect(422).problem();
            assert!(problem["errors"][0]["detail"].as_str().unwrap().contains(says), "{path}: {problem}");
        }
    }
    // The same for deliveries.
    client.publish(&Event::order("order-1")).await.expect(202);
    for (id, _) in &ids {
        client.settled(id, 1, SOON).await;
    }
    let all = client.all("/company/deliveries").await;
    let last = all.iter().map(|one| one["updatedAt"].as_str().unwrap()).max().unwrap();
    assert_eq!(client.all(&format!("/company/deliveries?updated_at_max={last}")).await.len(), 3);
    assert_eq!(client.all(&format!("/company/deliveries?updated_at_max={second}")).await.len(), 0);
    assert_eq!(client.all(&format!("/company/deliveries?created_at_max={second}")).await.len(), 0);
}

async fn a_change_of_what_others_have_changed_meanwhile_is_refused(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let id = client.create_webhook(&stack.merchant.url("/a"), &["order-created"]).await;
    let path = format!("/company/webhooks/{id}");
    let patch = async |if_match: &str, body: &Value| {
        let request = client.request(reqwest::Method::PATCH, &path).header("If-Match", if_match);
        shopery_e2e::client::send(request.json(body)).await.unwrap()
    };
    let tag = client.get(&path).await.expect(200).header("etag");
    let first = patch(&tag, &json!({ "name": "first" })).await.expect(200);
    assert_ne!(first.header("etag"), tag);
    let lost = patch(&tag, &json!({ "name": "second" })).await.expect(412).problem();
    assert_eq!(lost["type"], "urn:shopery:problem:precondition-failed");
    // What is secret of it, too.
    patch(&tag, &json!({ "headers": { "X-A": "a" } })).await.expect(412);
    patch(&first.header("etag"), &json!({ "headers": { "X-A": "a" } })).await.expect(200);
    patch("*", &json!({ "name": "third" })).await.expect(200);
    client.patch(&path, &json!({ "name": "fourth" })).await.expect(200);
    patch("4", &json!({ "name": "fifth" })).await.expect(400);
    // Of many at once with one tag, one wins.
    let tag = client.get(&path).await.expect(200).header("etag");
    let many: Vec<_> = (0..10).map(|number| json!({ "name": format!("of many {number}") })).collect();
    let answers = futures_util::future::join_all(many.iter().map(|body| patch(&tag, body))).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(won == 1 && answers.iter().all(|answer| matches!(answer.status, 200 | 412)), "{won}");
}

async fn a_webhook_created_while_nats_is_away_works_when_it_is_back(database: DatabaseKind) {
    let mut stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let old = client.create_webhook(&stack.merchant.url("/old"), &["*"]).await;
    stack.kill_nats().await;
    let body = json!({ "name": "new", "url": stack.merchant.url("/new"), "events": ["*"], "isEnabled": true });
    let created = client.post("/company/webhooks", &body).await;
    assert!(matches!(created.status, 201 | 503), "{} {}", created.status, created.text());
    let changed =
        client.patch(&format!("/company/webhooks/{old}"), &json!({ "url": stack.merchant.url("/moved") })).await;
    assert!(matches!(changed.status, 200 | 503), "{} {}", changed.status, changed.text());
    // Whatever the answers were, SQL and CONFIG agree in the end, without a further request.
    stack.start_nats().await;
    let listed = client.all("/company/webhooks").await;
    let expected: Vec<String> = listed.iter().map(|webhook| webhook["url"].as_str().unwrap().to_owned()).collect();
    assert_eq!(expected.len(), if created.status == 201 { 2 } else { listed.len() });
    let in_config = config_urls(&stack, expected.len()).await;
    assert_eq!(in_config, {
        let mut urls = expected.clone();
        urls.sort();
        urls
    });
    for service in Service::ALL {
        stack.ready(service).await;
    }
    client.publish(&Event::order("1")).await.expect(202);
    for url in &expected {
        let path = url.rsplit_once('/').unwrap().1;
        stack.merchant.wait_at(&format!("/{path}"), 1, SOON).await;
    }
}

/// The URLs in CONFIG, once its entries agree with what the API lists.
async fn config_urls(stack: &Stack, count: usize) -> Vec<String> {
    let jetstream = jetstream::new(stack.operator().await);
    let client = stack.client("tnt_a");
    // Reconciliation runs within a minute.
    wait::until("CONFIG to agree with the API", Duration::from_secs(90), async || {
        let store = jetstream.get_key_value("CONFIG").await.map_err(|error| error.to_string())?;
        let mut urls = Vec::new();
        for webhook in client.all("/company/webhooks").await {
            let key = format!("tnt_a.{}", webhook["id"].as_str().unwrap());
            let entry = store.get(key).await.map_err(|error| error.to_string())?.ok_or("an entry is missing")?;
            let entry: Value = serde_json::from_slice(&entry).map_err(|error| error.to_string())?;
            if entry["url"] != webhook["url"] {
                return Err(format!("{} where the API says {}", entry["url"], webhook["url"]));
            }
            urls.push(webhook["url"].as_str().unwrap().to_owned());
        }
        urls.sort();
        if urls.len() == count { Ok(urls) } else { Err(format!("{urls:?}")) }
    })
    .await
}

async fn a_webhook_that_config_has_lost_is_put_back(database: DatabaseKind) {
    let mut stack = Stack::on(database).await;
    let client = stack.client("tnt_a");
    let kept = client.create_webhook(&stack.merchant.url("/kept"), &["*"]).await;
    let deleted = client.create_webhook(&stack.merchant.url("/deleted"), &["*"]).await;
    let jetstream = jetstream::new(stack.operator().await);
    let store = jetstream.get_key_value("CONFIG").await.unwrap();
    let stale = store.get(format!("tnt_a.{deleted}")).await.unwrap().unwrap();

    // CONFIG loses one webhook and brings back another one.
    client.delete(&format!("/company/webhooks/{deleted}")).await.expect(204);
    store.put(format!("tnt_a.{deleted}"), stale).await.unwrap();
    store.delete(format!("tnt_a.{kept}")).await.unwrap();
    stack.kill(Service::Controller).await;
    stack.run(Service::Controller).await;
    wait::until("CONFIG to agree with the database", Duration::from_secs(90), async || {
        let mine = store.get(format!("tnt_a.{kept}")).await.unwrap();
        let stale = store.get(format!("tnt_a.{deleted}")).await.unwrap();
        match (mine, stale) {
            (Some(_), None) => Ok(()),
            (mine, stale) => Err(format!("kept: {}, deleted: {}", mine.is_some(), stale.is_some())),
        }
    })
    .await;
    client.publish(&Event::order("1")).await.expect(202);
    stack.merchant.wait_at("/kept", 1, SOON).await;
    client.settled(&kept, 1, SOON).await;
    assert_eq!(stack.merchant.arrivals_at("/deleted").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_starts_has_nobody_wait_for_its_comparison() {
    let mut stack = Stack::on(DatabaseKind::Postgres).await;
    let client = stack.client("tnt_a");
    client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    assert!(stack.stop(Service::Controller).await.success());
    // CONFIG is complete, and the webhooks cannot be read.
    let held = stack.postgres.as_ref().unwrap().hold("LOCK TABLE webhooks IN ACCESS EXCLUSIVE MODE").await;
    stack.run(Service::Controller).await;
    held.end().await;
}
