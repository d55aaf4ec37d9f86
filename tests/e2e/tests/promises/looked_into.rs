//! What the API can be asked of webhooks, deliveries and events by those who look into them: people, and the pages.

use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Client, DatabaseKind, Event, Person, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const DEADLINE: Duration = Duration::from_secs(60);

on_both_databases!(
    deliveries_are_listed_by_all_that_tells_them_apart,
    an_event_says_what_became_of_it_at_every_webhook,
    a_delivery_that_goes_from_one_state_to_another_is_missed_by_no_list,
    a_table_of_webhooks_has_its_metrics_in_one_request,
    a_recovery_says_first_what_it_would_be_about,
);

fn ids(list: &[Value]) -> Vec<&str> {
    list.iter().map(|one| one["id"].as_str().unwrap()).collect()
}

fn field(problem: &Value) -> &str {
    problem["errors"][0]["field"].as_str().unwrap()
}

fn ago(seconds: i64) -> String {
    (OffsetDateTime::now_utc() - time::Duration::seconds(seconds)).format(&Rfc3339).unwrap()
}

async fn pages_of_three(client: &Client, query: &str) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/company/deliveries?limit=3&{query}{cursor}");
        let page = client.get(&path).await.expect(200).json();
        found.extend(page["data"].as_array().unwrap().iter().cloned());
        let Some(next) = page["nextCursor"].as_str() else { return found };
        cursor = format!("&cursor={next}");
    }
}

/// With one retry at once, so that what fails has soon failed for good.
async fn stack(database: DatabaseKind) -> Stack {
    Stack::plan().database(database).env("SHOPERY_RETRY_SCHEDULE", "1s").start().await
}

/// The number of deliveries that have come to an end.
async fn ended(client: &Client, webhook: &str, count: usize) {
    client.settled(webhook, count, DEADLINE).await;
}

async fn deliveries_are_listed_by_all_that_tells_them_apart(database: DatabaseKind) {
    let stack = stack(database).await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/gone", Behaviour::Answer(503));
    let well = client.create_webhook(&stack.merchant.url("/well"), &["order-*"]).await;
    let broken = client.create_webhook(&stack.merchant.url("/gone"), &["order-created"]).await;
    let filter = json!({ "filter": { "id": ["nobody"] } });
    let picky = client.create_webhook_with(&stack.merchant.url("/picky"), &["order-*"], filter).await;
    let paid = Event { id: "paid".to_owned(), ..Event::new("order-paid", "2") };
    for event in [Event::order("1"), Event::order("2"), paid] {
        client.publish(&event).await.expect(202);
    }
    for (webhook, count) in [(&well, 3), (&broken, 2), (&picky, 3)] {
        ended(&client, webhook, count).await;
    }
    let all = client.all("/company/deliveries").await;
    assert_eq!(all.len(), 8);
    let matching = |is: &dyn Fn(&Value) -> bool| all.iter().filter(|one| is(one)).cloned().collect::<Vec<_>>();
    for (query, expected) in [
        (format!("webhook={broken}"), matching(&|one| one["webhookId"] == *broken)),
        ("resource=order/2".to_owned(), matching(&|one| one["resource"] == "order/2")),
        ("resource=order/nobody".to_owned(), vec![]),
        ("status=failed".to_owned(), matching(&|one| one["state"] == "failed")),
        ("status=failed,filtered".to_owned(), matching(&|one| one["state"] != "delivered")),
        ("status=filtered&status=failed&status=failed".to_owned(), matching(&|one| one["state"] != "delivered")),
        ("reason=http_status".to_owned(), matching(&|one| one["webhookId"] == *broken)),
        ("reason=timeout".to_owned(), vec![]),
        ("response_status=503".to_owned(), matching(&|one| one["webhookId"] == *broken)),
        ("response_status=200".to_owned(), matching(&|one| one["webhookId"] == *well)),
        ("order=newest".to_owned(), all.clone()),
        ("order=oldest".to_owned(), all.iter().rev().cloned().collect()),
        (
            format!("webhook={well}&event=order-paid&resource=order/2&status=delivered&response_status=200"),
            matching(&|one| one["webhookId"] == *well && one["event"] == "order-paid"),
        ),
    ] {
        let expected = ids(&expected);
        let pages = pages_of_three(&client, &query).await;
        assert_eq!(ids(&pages), expected, "{query}");
        let whole = client.get(&format!("/company/deliveries?limit=200&{query}")).await.expect(200).json();
        assert_eq!(ids(whole["data"].as_array().unwrap()), expected, "{query}");
    }
    let of_webhook = client.all(&format!("/company/webhooks/{well}/deliveries?order=oldest&resource=order/2")).await;
    assert!(of_webhook.len() == 2 && of_webhook.iter().all(|one| one["responseStatus"] == 200), "{of_webhook:?}");
    for (query, name) in [
        ("webhook=wbh_1", "webhook"),
        ("status=failed,sent", "status"),
        ("status=", "status"),
        ("reason=bad_luck", "reason"),
        ("resource=order", "resource"),
        ("response_status=99", "response_status"),
        ("response_status=x", "response_status"),
        ("order=random", "order"),
        ("webhok=wbh_1", "webhok"),
    ] {
        let refused = client.get(&format!("/company/deliveries?{query}")).await.expect(422).problem();
        assert_eq!(field(&refused), name, "{refused}");
    }
    // What is asked for by the id of another tenant's webhook is nothing.
    let other = stack.client("tnt_b");
    assert!(other.all(&format!("/company/deliveries?webhook={well}")).await.is_empty());
    let person = Person::of(&stack, "tnt_a");
    let told = person.json(&["deliveries", "list", "--status", "failed,filtered", "--oldest-first"]).await;
    assert_eq!(told.as_array().unwrap().len(), 5, "{told}");
    let told = person.json(&["deliveries", "list", "--response-status", "503", "--reason", "http_status"]).await;
    assert_eq!(told.as_array().unwrap().len(), 2, "{told}");
}

/// While the deliveries of `status=pending,delivered` are listed, they become `delivered`.
async fn a_delivery_that_goes_from_one_state_to_another_is_missed_by_no_list(database: DatabaseKind) {
    const COUNT: usize = 150;
    let stack = Stack::plan().database(database).env("SHOPERY_RETRY_SCHEDULE", "1s,1s").start().await;
    let client = stack.client("tnt_a");
    // What is refused is accepted some seconds later.
    stack.merchant.behave("/a", Behaviour::FailFirst { times: 10, status: 503 });
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let events: Vec<_> = (0..COUNT).map(|number| Event::order(&number.to_string())).collect();
    client.try_publish_batch(&events).await.unwrap().expect(202);
    let path = format!("/company/webhooks/{webhook}/deliveries?limit=200&status=pending,delivered,parked,failed");
    let list = async || client.get(&path).await.expect(200).json()["data"].as_array().unwrap().clone();
    wait::until("all deliveries", DEADLINE, async || {
        let found = list().await.len();
        if found == COUNT { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    wait::until("all to be delivered", DEADLINE, async || {
        let found = list().await;
        assert_eq!(found.len(), COUNT);
        let left = found.iter().filter(|one| one["state"] != "delivered").count();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_event_of_many_is_found_by_its_id_alone() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let events: Vec<_> = (0..2500).map(|number| Event::order(&number.to_string())).collect();
    for part in events.chunks(500) {
        client.try_publish_batch(part).await.unwrap().expect(202);
    }
    let found = client.get("/company/events/evt_2499").await.expect(200).json();
    assert_eq!(found["event"]["subject"], "order/2499");
    let missing = client.get("/company/events/evt_2500").await.expect(404).problem();
    assert!(missing["detail"].as_str().unwrap().contains("?resource="), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_behind_which_a_late_one_came_is_found_at_its_own_place() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let at = |minutes: i64| (OffsetDateTime::now_utc() - time::Duration::minutes(minutes)).format(&Rfc3339).unwrap();
    let of = |id: &str, minutes: i64| {
        let event = Event { id: id.to_owned(), ..Event::new("order-updated", "7") };
        Event { time: Some(at(minutes)), ..event }
    };
    client.publish(&of("newer", 1)).await.expect(202);
    ended(&client, &webhook, 1).await;
    client.publish(&of("late", 5)).await.expect(202);
    ended(&client, &webhook, 2).await;
    // The newer state is published again behind the late one, which is routed by then.
    let report = async |query: &str| client.get(&format!("/company/events/newer{query}")).await.expect(200).json();
    let (by_resource, by_time) = (report("?resource=order/7").await, report("").await);
    assert_eq!(by_resource, by_time);
    assert_eq!(by_resource["webhooks"][0]["outcome"], "delivered", "{by_resource}");
}

async fn an_event_says_what_became_of_it_at_every_webhook(database: DatabaseKind) {
    let stack = stack(database).await;
    let client = stack.client("tnt_a");
    let url = stack.merchant.url("/a");
    let plain = client.create_webhook(&url, &["order-*"]).await;
    let other = client.create_webhook(&url, &["product-created"]).await;
    let more = json!({ "filter": { "total_price": [{ "numeric": [">", 100] }] } });
    let picky = client.create_webhook_with(&url, &["*"], more).await;
    let watching = client.create_webhook_with(&url, &["*"], json!({ "changed": ["status"] })).await;
    let deleted = client.create_webhook(&url, &["*"]).await;
    let changed = client.create_webhook(&url, &["*"]).await;
    let published = Event::new("order-created", "7").with_data(r#"{"id":"7","total_price":59.80,"status":"open"}"#);
    client.publish(&published).await.expect(202);
    let paid = Event { id: "paid 7/á".to_owned(), ..Event::new("order-paid", "7") };
    let paid = paid.with_data(r#"{"id":"7","total_price":59.80,"status":"open"}"#);
    client.publish(&paid).await.expect(202);
    for webhook in [&plain, &picky, &watching, &deleted, &changed] {
        ended(&client, webhook, 2).await;
    }
    client.delete(&format!("/company/webhooks/{deleted}")).await.expect(204);
    client.patch(&format!("/company/webhooks/{changed}"), &json!({ "events": ["product-*"] })).await.expect(200);
    let late = client.create_webhook(&url, &["*"]).await;

    let path = |query: &str| format!("/company/events/paid%207%2F%C3%A1{query}");
    let report = client.get(&path("?resource=order/7")).await.expect(200).json();
    // Without the resource it is looked for among what came within the last hour, and by the source too.
    for query in ["", "?source=e2e", "?resource=order/7&source=e2e"] {
        assert_eq!(client.get(&path(query)).await.expect(200).json()["event"], report["event"], "{query}");
    }
    assert_eq!((&report["event"]["id"], &report["event"]["type"]), (&json!("paid 7/á"), &json!("order-paid")));
    let at = |webhook: &str| {
        let found = report["webhooks"].as_array().unwrap().iter().find(|one| one["webhookId"] == webhook);
        found.unwrap_or_else(|| panic!("{webhook}: {report}")).clone()
    };
    let says = |webhook: &str, state: Value, rules: &[&str], outcome: &str| {
        let found = at(webhook);
        assert_eq!(found["delivery"]["state"], state, "{found}");
        let objections = found["objections"].as_array().unwrap();
        assert_eq!(objections.iter().map(|one| one["rule"].as_str().unwrap()).collect::<Vec<_>>(), rules, "{found}");
        assert!(found["outcome"].as_str().unwrap().contains(outcome), "{found}");
    };
    assert_eq!(report["webhooks"].as_array().unwrap().len(), 7);
    says(&plain, json!("delivered"), &[], "delivered");
    says(&other, Value::Null, &["events"], "does not match");
    says(&picky, json!("filtered"), &["filter"], "filtered");
    says(&watching, json!("filtered"), &["changed"], "filtered");
    says(&deleted, json!("delivered"), &[], "deleted since");
    says(&changed, json!("delivered"), &["events"], "delivered");
    says(&late, Value::Null, &[], "made after the event");
    let why = at(&picky)["objections"][0].clone();
    assert_eq!(why["path"], "total_price");
    assert_eq!(why["detail"], r#"total_price is 59.80, which does not match [{"numeric":[">",100]}]"#);

    for query in ["?resource=order/8", "?source=another", "?resource=order/7&source=another"] {
        client.get(&path(query)).await.expect(404).problem();
    }
    let refused = client.get(&path("?resource=order")).await.expect(422).problem();
    assert_eq!(field(&refused), "resource");
    stack.client("tnt_b").get(&path("?resource=order/7")).await.expect(404).problem();
    let told = Person::of(&stack, "tnt_a").ok(&["events", "get", "paid 7/á", "--resource", "order/7"]).await;
    assert!(told.contains("59.80") && told.contains("made after the event"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_again_now_can_be_asked_for_again_under_the_same_key() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::Answer(503));
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    stack.merchant.wait_at("/a", 1, DEADLINE).await;
    let list = wait::until("the delivery", DEADLINE, async || {
        let list = client.all(&format!("/company/webhooks/{webhook}/deliveries")).await;
        if list.is_empty() { Err("none".to_owned()) } else { Ok(list) }
    })
    .await;
    let request = || {
        client
            .request(reqwest::Method::POST, "/company/deliveries/resend")
            .header("Idempotency-Key", "once")
            .json(&json!({ "ids": [list[0]["id"]] }))
    };
    let refused = shopery_e2e::client::send(request()).await.unwrap().expect(200).json();
    assert_eq!(refused["data"][0]["problem"]["status"], 409, "{refused}");
    stack.merchant.behave("/a", Behaviour::Answer(200));
    client.settled(&webhook, 1, DEADLINE).await;
    let again = shopery_e2e::client::send(request()).await.unwrap().expect(200).json();
    assert_eq!(again["data"][0]["resent"], true, "{again}");
    // What is final is kept.
    let kept = shopery_e2e::client::send(request()).await.unwrap().expect(200);
    assert_eq!(kept.header("idempotent-replayed"), "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_can_be_tried_before_they_are_saved() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let try_on = async |body: Value| client.post("/company/webhooks/match", &body).await.expect(200).json();
    let order = json!({ "id": "1", "total_price": 59.80, "status": "paid", "note": "x" });
    for (more, matches, rules) in [
        (json!({}), true, vec![]),
        (json!({ "events": ["product-*"] }), false, vec!["events"]),
        (json!({ "filter": { "total_price": [{ "numeric": [">", 50] }] } }), true, vec![]),
        (json!({ "filter": { "status": ["open"] }, "events": ["product-created"] }), false, vec!["events", "filter"]),
        (json!({ "changed": ["status"], "previous": { "status": "open" } }), true, vec![]),
        (json!({ "changed": ["status"], "previous": { "status": "paid" } }), false, vec!["changed"]),
    ] {
        let mut body = json!({ "eventType": "order-paid", "data": order });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let report = try_on(body).await;
        assert_eq!(report["matches"], matches, "{more} {report}");
        let found: Vec<_> = report["objections"].as_array().unwrap().iter().map(|one| one["rule"].clone()).collect();
        assert_eq!(found, rules, "{more} {report}");
        assert_eq!(report["payload"], order, "{report}");
    }
    // What is shown is what is sent, digit by digit.
    let tried = client
        .request(reqwest::Method::POST, "/company/webhooks/match")
        .header("content-type", "application/json")
        .body(r#"{"eventType":"order-paid","fields":["total_price"],"data":{"id":1,"total_price":59.80}}"#);
    let tried = shopery_e2e::client::send(tried).await.unwrap().expect(200);
    assert!(tried.text().contains(r#""payload":{"total_price":59.80}"#), "{}", tried.text());
    // Nothing is kept of a question, however long it is.
    let long = json!({ "eventType": "order-paid", "format": "cloudevent", "data": { "note": "x".repeat(60_000) } });
    for _ in 0..2 {
        let keyed = client.request(reqwest::Method::POST, "/company/webhooks/match").header("Idempotency-Key", "once");
        shopery_e2e::client::send(keyed.json(&long)).await.unwrap().expect(200);
    }
    let of_example = try_on(json!({ "eventType": "order-created", "fields": ["id"], "format": "cloudevent" })).await;
    assert_eq!(of_example["payload"]["type"], "order-created");
    assert_eq!(of_example["payload"]["data"].as_object().unwrap().len(), 1, "{of_example}");
    for (body, name) in [
        (json!({}), "eventType"),
        (json!({ "eventType": "order-eaten" }), "eventType"),
        (json!({ "eventType": "order-paid", "data": [1] }), "data"),
        (json!({ "eventType": "order-paid", "previous": null }), "previous"),
        (json!({ "eventType": "order-paid", "events": [] }), "events"),
        (json!({ "eventType": "order-paid", "events": vec!["order-paid"; 51] }), "events"),
        (json!({ "eventType": "order-paid", "filter": { "a": 7 } }), "filter.a"),
        (json!({ "eventType": "order-paid", "filtre": {} }), "filtre"),
    ] {
        let refused = client.post("/company/webhooks/match", &body).await.expect(422).problem();
        assert_eq!(field(&refused), name, "{body} {refused}");
    }
    let person = Person::of(&stack, "tnt_a");
    let sent = person.ok(&["webhooks", "match", "order-created", "--field", "id"]).await;
    assert!(sent.starts_with("{\"id\":"), "{sent}");
    let told = person.fails(1, &["webhooks", "match", "order-created", "--filter", r#"{"id":["nobody"]}"#]).await;
    assert!(told.contains("filter: id is"), "{told}");
}

async fn a_table_of_webhooks_has_its_metrics_in_one_request(database: DatabaseKind) {
    let stack = stack(database).await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for number in 0..3 {
        webhooks.push(client.create_webhook(&stack.merchant.url(&format!("/{number}")), &["order-*"]).await);
    }
    let idle = client.create_webhook(&stack.merchant.url("/idle"), &["product-*"]).await;
    for number in 0..5 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    for webhook in &webhooks {
        ended(&client, webhook, 5).await;
    }
    let all = wait::until("the counts", DEADLINE, async || {
        let all = client.get("/company/webhooks/metrics?step=1h").await.expect(200).json();
        let delivered = |one: &Value| one["total"]["deliveries"]["delivered"].as_u64().unwrap_or_default();
        let sum: u64 = all["data"].as_array().unwrap().iter().map(delivered).sum();
        if sum == 15 { Ok(all) } else { Err(all.to_string()) }
    })
    .await;
    let data = all["data"].as_array().unwrap();
    let found: Vec<_> = data.iter().map(|one| one["webhookId"].as_str().unwrap()).collect();
    assert_eq!(found, [&idle, &webhooks[2], &webhooks[1], &webhooks[0]], "newest first");
    for one in data {
        let id = one["webhookId"].as_str().unwrap();
        let alone = client.get(&format!("/company/webhooks/{id}/metrics?step=1h")).await.expect(200).json();
        for member in ["total", "now"] {
            assert_eq!(one[member], alone[member], "{id} {member}");
        }
        assert_eq!(one["data"].as_array().unwrap().len(), alone["data"].as_array().unwrap().len());
    }
    let two = format!("/company/webhooks/metrics?webhook={},{idle}", webhooks[1]);
    let two = client.get(&two).await.expect(200).json();
    let found: Vec<_> = two["data"].as_array().unwrap().iter().map(|one| one["webhookId"].clone()).collect();
    assert_eq!(found, [&*webhooks[1], &*idle]);
    // Another tenant's is one of which nothing was counted.
    let other = stack.client("tnt_b");
    let of_other = other.get(&format!("/company/webhooks/metrics?webhook={}", webhooks[1])).await.expect(200).json();
    assert_eq!(of_other["data"][0]["total"]["attempts"], 0, "{of_other}");
    assert_eq!(other.get("/company/webhooks/metrics").await.expect(200).json()["data"], json!([]));
    let ids: Vec<_> = (0..101).map(|number| format!("wbh_01HA4XCG60CT4G3EWF4CK0{number:04}")).collect();
    let many = format!("webhook={}", ids.join(","));
    for (query, name) in [("step=1m", "step"), ("webhook=wbh_1", "webhook"), (&*many, "webhook")] {
        let refused = client.get(&format!("/company/webhooks/metrics?{query}")).await.expect(422).problem();
        assert_eq!(field(&refused), name, "{refused}");
    }
    let hundred = format!("/company/webhooks/metrics?webhook={}", ids[1..].join(","));
    assert_eq!(client.get(&hundred).await.expect(200).json()["data"].as_array().unwrap().len(), 100);
    let told = Person::of(&stack, "tnt_a").ok(&["metrics", "--each"]).await;
    assert!(told.lines().count() == 5 && told.contains(&idle), "{told}");
}

async fn a_recovery_says_first_what_it_would_be_about(database: DatabaseKind) {
    let stack = stack(database).await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/a", Behaviour::Answer(500));
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let other = client.create_webhook(&stack.merchant.url("/b"), &["order-*"]).await;
    for number in 0..4 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
        ended(&client, &webhook, number + 1).await;
    }
    let list = client.all(&format!("/company/webhooks/{webhook}/deliveries?order=oldest")).await;
    assert!(list.iter().all(|one| one["state"] == "failed"), "{list:?}");
    let path = format!("/company/webhooks/{webhook}/recover");
    let since = ago(3600);
    let plan = client.post(&path, &json!({ "since": since, "dryRun": true })).await.expect(200).json();
    assert_eq!((&plan["dryRun"], &plan["total"], &plan["notHeld"]), (&json!(true), &json!(4), &json!(0)), "{plan}");
    assert_eq!((&plan["oldestAt"], &plan["newestAt"]), (&list[0]["createdAt"], &list[3]["createdAt"]), "{plan}");
    let delivered = json!({ "since": since, "dryRun": true, "statuses": ["delivered"] });
    let none = client.post(&path, &delivered).await.expect(200).json();
    assert_eq!((&none["total"], &none["oldestAt"]), (&json!(0), &Value::Null), "{none}");
    assert!(client.all(&format!("/company/webhooks/{webhook}/recoveries")).await.is_empty());

    // Everything that failed since the third one.
    let from_third = json!({ "sinceDelivery": list[2]["id"], "dryRun": true });
    assert_eq!(client.post(&path, &from_third).await.expect(200).json()["total"], 2);
    let foreign = client.all(&format!("/company/webhooks/{other}/deliveries")).await;
    for (body, name) in [
        (json!({ "sinceDelivery": foreign[0]["id"] }), "sinceDelivery"),
        (json!({ "sinceDelivery": "dlv_1" }), "sinceDelivery"),
        (json!({ "sinceDelivery": list[2]["id"], "since": since }), "sinceDelivery"),
        (json!({ "dryRun": true }), "since"),
        (json!({ "since": since, "dryRun": "yes" }), "dryRun"),
    ] {
        let refused = client.post(&path, &body).await.expect(422).problem();
        let errors = refused["errors"].as_array().unwrap();
        assert!(errors.len() == 1 && errors[0]["field"] == name, "{body} {refused}");
    }

    // Some of them are sent again by name, and what cannot be says so.
    stack.merchant.behave("/a", Behaviour::Answer(200));
    let wanted = [&list[0]["id"], &list[1]["id"], &list[0]["id"]];
    let unknown = json!("dlv_01HA4XCG60CT4G3EWF4CKYM1MF");
    let body = json!({ "ids": [wanted[0], unknown, wanted[1], wanted[2]] });
    let resent = client.post("/company/deliveries/resend", &body).await.expect(200).json();
    let told: Vec<_> = resent["data"].as_array().unwrap().iter().map(|one| one["resent"].clone()).collect();
    assert_eq!(told, [true, false, true], "{resent}");
    assert_eq!(resent["data"][1]["problem"]["status"], 404, "{resent}");
    for id in &wanted[..2] {
        wait::until("it to be delivered", DEADLINE, async || {
            let found = client.delivery(id).await;
            if found["state"] == "delivered" { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    }
    let too_many: Vec<_> = (0..101).map(|number| format!("dlv_{number}")).collect();
    for body in [json!({}), json!({ "ids": [] }), json!({ "ids": too_many }), json!({ "ids": "dlv_1" })] {
        let refused = client.post("/company/deliveries/resend", &body).await.expect(422).problem();
        assert_eq!(field(&refused), "ids", "{refused}");
    }
    let foreign = stack.client("tnt_b").post("/company/deliveries/resend", &json!({ "ids": [list[2]["id"]] })).await;
    assert_eq!(foreign.expect(200).json()["data"][0]["problem"]["status"], 404);
    let person = Person::of(&stack, "tnt_a");
    let told = person.json(&["recover", &webhook, "--since", "1h", "--dry-run"]).await;
    assert_eq!(told["total"], 2, "{told}");
    let [third, fourth] = [2, 3].map(|place| list[place]["id"].as_str().unwrap());
    let told = person.ok(&["deliveries", "resend", third, fourth]).await;
    assert_eq!(told, format!("{third}\n{fourth}"));
    let told = person.fails(1, &["deliveries", "resend", "dlv_1", "dlv_2"]).await;
    assert!(told.contains("no delivery with this id") && told.contains("2 of 2"), "{told}");

    // All but the last event are given up.
    let events = async_nats::jetstream::new(stack.operator().await).get_stream("EVENTS").await.unwrap();
    let last = events.cached_info().state.last_sequence;
    events.purge().sequence(last).await.unwrap();
    client.in_state(&webhook, "delivered", 4, DEADLINE).await;
    let delivered = json!({ "since": since, "dryRun": true, "statuses": ["delivered"] });
    let plan = client.post(&path, &delivered).await.expect(200).json();
    assert_eq!((&plan["total"], &plan["notHeld"]), (&json!(4), &json!(3)), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_shows_the_whole_exchange_and_says_what_to_do() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let rules = json!({ "fields": ["id"], "filter": { "id": ["nobody"] }, "headers": { "X-Gateway": "hunter2" } });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["order-created"], rules).await;
    let secret = client.secret(&webhook).await;
    let path = format!("/company/webhooks/{webhook}/test");
    let tested = client.post(&path, &json!({ "eventType": "order-created" })).await.expect(200);
    assert!(!tested.text().contains(&secret) && !tested.text().contains("hunter2"), "{}", tested.text());
    let tested = tested.json();
    assert_eq!(tested["success"], true, "{tested}");
    let arrival = stack.merchant.wait_at("/a", 1, DEADLINE).await.remove(0);
    assert_eq!(tested["request"]["body"], &*String::from_utf8_lossy(&arrival.body), "{tested}");
    assert_eq!((arrival.header("x-shopery-event"), arrival.header("x-shopery-test")), ("order-created", "true"));
    for (name, value) in tested["request"]["headers"].as_object().unwrap() {
        let is_masked = value == "***";
        assert!(is_masked || arrival.header(name) == value.as_str().unwrap(), "{name}: {value}");
    }
    let payload: Value = serde_json::from_slice(&arrival.body).unwrap();
    assert_eq!(payload.as_object().unwrap().keys().collect::<Vec<_>>(), ["id"]);
    assert_eq!(tested["objections"][0]["rule"], "filter", "{tested}");
    assert_eq!(tested["response"]["status"], 200, "{tested}");
    // Each on a connection of its own, or there would be nothing to time.
    for _ in 0..2 {
        let timing = client.post(&path, &json!({})).await.expect(200).json()["timing"].clone();
        assert_eq!(timing["dnsMs"], Value::Null, "the host is an address: {timing}");
        for part in ["connectMs", "tlsMs", "firstByteMs"] {
            assert!(timing[part].as_f64().is_some_and(|millis| millis < 1000.0), "{timing}");
        }
    }
    let url = json!({ "url": stack.merchant.url("/b"), "eventType": "product-updated" });
    assert_eq!(client.post("/company/webhooks/test", &url).await.expect(200).json()["success"], true);
    assert_eq!(stack.merchant.arrivals_at("/b")[0].header("x-shopery-event"), "product-updated");
    stack.merchant.behave("/b", Behaviour::Answer(401));
    let refused = client.post("/company/webhooks/test", &url).await.expect(200).json();
    assert!(refused["advice"].as_str().unwrap().contains("credentials"), "{refused}");
    for (path, body) in [(&*path, json!({ "eventType": "order-eaten" })), (&*path, json!({ "eventType": 7 }))] {
        assert_eq!(field(&client.post(path, &body).await.expect(422).problem()), "eventType");
    }
    let person = Person::of(&stack, "tnt_a");
    person.ok(&["webhooks", "test", &webhook, "--event", "order-created"]).await;
    let told = person.fails(1, &["webhooks", "test", "--url", &stack.merchant.url("/b")]).await;
    assert!(told.contains("it answered 401") && told.contains("credentials"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_has_a_description_and_labels_of_its_owner() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let more = json!({ "description": "Orders for\nthe warehouse", "metadata": { "team": "logistics", "é": "" } });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["order-*"], more.clone()).await;
    let path = format!("/company/webhooks/{webhook}");
    let shown = client.get(&path).await.expect(200).json();
    assert_eq!((&shown["description"], &shown["metadata"]), (&more["description"], &more["metadata"]), "{shown}");
    let listed = client.all("/company/webhooks").await.remove(0);
    assert_eq!(listed["metadata"], more["metadata"]);
    let changed = client.patch(&path, &json!({ "metadata": { "team": "shop" } })).await.expect(200).json();
    assert_eq!((&changed["metadata"], &changed["description"]), (&json!({ "team": "shop" }), &more["description"]));
    for (clear, left) in [(json!({ "description": null }), true), (json!({ "metadata": null }), false)] {
        let changed = client.patch(&path, &clear).await.expect(200).json();
        assert!(changed["description"].is_null() && changed["metadata"].is_object() == left, "{changed}");
    }
    let changes = client.all(&format!("{path}/changes")).await;
    assert_eq!(changes[0]["changes"], json!({ "metadata": { "from": { "team": "shop" } } }), "{changes:?}");
    assert_eq!(changes.len(), 4);
    let long = "x".repeat(1001);
    let many: Value = (0..17).map(|number| (number.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    for (body, name) in [
        (json!({ "description": long }), "description"),
        (json!({ "description": "a\u{7}b" }), "description"),
        (json!({ "description": 7 }), "description"),
        (json!({ "metadata": many }), "metadata"),
        (json!({ "metadata": { "": "x" } }), "metadata."),
        (json!({ "metadata": { "a": 7 } }), "metadata.a"),
        (json!({ "metadata": { "a": long } }), "metadata.a"),
        (json!({ "metadata": ["a"] }), "metadata"),
    ] {
        let refused = client.patch(&path, &body).await.expect(422).problem();
        assert_eq!(field(&refused), name, "{refused}");
    }
    let person = Person::of(&stack, "tnt_a");
    let options = ["--description", "for us", "--metadata", "team=a=b", "--metadata", "x="];
    let told = person.json(&[&["webhooks", "update", &webhook], &options[..]].concat()).await;
    assert_eq!((&told["description"], &told["metadata"]), (&json!("for us"), &json!({ "team": "a=b", "x": "" })));
    let told = person.json(&["webhooks", "update", &webhook, "--clear", "description,metadata"]).await;
    assert!(told["description"].is_null() && told["metadata"].is_null(), "{told}");
}
