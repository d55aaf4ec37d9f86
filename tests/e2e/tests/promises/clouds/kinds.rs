//! What is promised of deliveries holds whatever they are sent to: each test here runs with an HTTPS endpoint, an event bus and a
//! topic.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::verify::{Message, verify};
use shopery_e2e::{Burst, Client, Event, Received, Service, Side, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{SOON, signed};

on_every_kind!(
    kill_dash_nine_of_the_deliverer_loses_nothing,
    what_fails_is_parked_and_sent_when_it_works_again,
    what_has_failed_for_good_is_recovered,
    a_retry_carries_the_latest_state,
    a_payload_that_says_nothing_new_is_not_sent,
    a_rate_limit_paces_and_drops_nothing,
    a_tenant_gets_what_is_its_own,
);

async fn publish(client: &Client, numbers: std::ops::Range<usize>) {
    let events: Vec<_> = numbers.map(|number| Event::order(&format!("{number:05}"))).collect();
    for part in events.chunks(500) {
        client.try_publish_batch(part).await.unwrap().expect(202);
    }
}

fn event_ids(received: &[Received]) -> Vec<String> {
    received.iter().map(Received::event_id).collect()
}

#[track_caller]
fn assert_delivered(history: &[Value]) {
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
}

async fn kill_dash_nine_of_the_deliverer_loses_nothing(side: Side) {
    let mut stack = side.plan(Stack::plan().env("SHOPERY_CIRCUIT_FAILURES", "50")).start().await;
    let client = stack.client("tnt_a");
    let address = side.make(&stack, "orders", "tnt_a").await;
    let webhook = client.create_webhook(&address, &["order-*"]).await;
    let publisher = stack.publisher("tnt_a").await;
    let burst = Burst::start("crash", &client, 2, &publisher, 1);
    for _ in 0..3 {
        burst.progress(50).await;
        stack.kill(Service::Deliverer).await;
        burst.progress(20).await;
        stack.run(Service::Deliverer).await;
    }
    let accepted = burst.end().await;
    let history = client.settled(&webhook, accepted.len(), SOON).await;
    assert_delivered(&history);
    let received = wait::until("every acknowledged event", SOON, async || {
        let received = side.received(&stack, &address).await;
        let ids: HashSet<_> = event_ids(&received).into_iter().collect();
        if accepted.is_subset(&ids) { Ok(received) } else { Err(format!("{} of {}", ids.len(), accepted.len())) }
    })
    .await;
    // A repeat has the id of the first.
    let deliveries: HashSet<_> = received.iter().map(|one| one.webhook_id().to_owned()).collect();
    assert_eq!(deliveries.len(), accepted.len());
    println!("{} events, {} repeats after three kills", accepted.len(), received.len() - accepted.len());
    assert!(received.len() < 2 * accepted.len(), "everything was sent again");
}

async fn what_fails_is_parked_and_sent_when_it_works_again(side: Side) {
    let plan = Stack::plan().env("SHOPERY_PROBE_FIRST", "300ms").env("SHOPERY_PROBE_LONGEST", "1s");
    let stack = side.plan(plan).start().await;
    let client = stack.client("tnt_a");
    let address = side.make(&stack, "orders", "tnt_a").await;
    let webhook = client.create_webhook(&address, &["*"]).await;
    side.fail(&stack, &address);
    publish(&client, 0..100).await;
    let parked = wait::until("a backlog", SOON, async || {
        let parked = client.all(&format!("/company/webhooks/{webhook}/deliveries?status=parked")).await;
        if parked.len() >= 70 { Ok(parked) } else { Err(format!("{} parked", parked.len())) }
    })
    .await;
    let untried = parked.iter().filter(|delivery| delivery["attemptCount"] == 0).count();
    assert!(untried >= 50, "{untried} of {} were left alone", parked.len());
    let found = client.get(&format!("/company/webhooks/{webhook}")).await.expect(200).json();
    assert!(found["waiting"]["parked"].as_u64() >= Some(50), "{found}");
    assert_eq!(side.received(&stack, &address).await.len(), 0);

    side.heal(&stack, &address);
    let history = client.settled(&webhook, 100, SOON).await;
    assert_delivered(&history);
    let tried = history.iter().find(|delivery| delivery["attemptCount"].as_u64() > Some(1)).expect("a failed attempt");
    let failed = client.delivery(&tried["id"]).await["attempts"][0].clone();
    assert_eq!(failed["error"]["reason"], side.reason(), "{failed}");
    let received = side.wait_at(&stack, &address, 100, SOON).await;
    let ids: HashSet<_> = event_ids(&received).into_iter().collect();
    assert_eq!((received.len(), ids.len()), (100, 100), "something came twice");
}

async fn what_has_failed_for_good_is_recovered(side: Side) {
    let plan = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "200ms").env("SHOPERY_CIRCUIT_FAILURES", "50");
    let stack = side.plan(plan).start().await;
    let client = stack.client("tnt_a");
    let address = side.make(&stack, "orders", "tnt_a").await;
    let webhook = client.create_webhook(&address, &["*"]).await;
    side.fail(&stack, &address);
    publish(&client, 0..20).await;
    for failed in client.in_state(&webhook, "failed", 20, SOON).await {
        assert_eq!(
            (&failed["error"]["reason"], &failed["attemptCount"]),
            (&json!(side.reason()), &json!(2)),
            "{failed}"
        );
    }
    side.heal(&stack, &address);
    let since = (OffsetDateTime::now_utc() - time::Duration::hours(1)).format(&Rfc3339).unwrap();
    let path = format!("/company/webhooks/{webhook}/recover");
    let recovery = client.post(&path, &json!({ "since": since })).await.expect(202).json();
    wait::until("the recovery to end", SOON, async || {
        let path = format!("/company/recoveries/{}", recovery["id"].as_str().unwrap());
        let found = client.get(&path).await.expect(200).json();
        if found["state"] == "completed" && found["resent"] == 20 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    assert_delivered(&client.settled(&webhook, 20, SOON).await);
    let received = side.wait_at(&stack, &address, 20, SOON).await;
    assert!(received.len() == 20 && received.iter().all(|one| one.name("x-shopery-attempt") == "3"), "{received:?}");
}

async fn a_retry_carries_the_latest_state(side: Side) {
    let stack = side.plan(Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "2s,2s")).start().await;
    let client = stack.client("tnt_a");
    let mut webhooks = Vec::new();
    for payload in ["latest", "original"] {
        let address = side.make(&stack, payload, "tnt_a").await;
        let rules = json!({ "payload": payload, "fields": ["state"] });
        // Of one kind of event each, so that what is sent to one is in no request with what is sent to the other.
        let events = if payload == "latest" { "order-created" } else { "product-created" };
        webhooks.push((client.create_webhook_with(&address, &[events], rules).await, address, events));
    }
    for (_, address, _) in &webhooks {
        side.fail_first(&stack, address, 1);
    }
    for (webhook, address, created) in &webhooks {
        let kind = created.split('-').next().unwrap();
        let event = |what: &str, state: &str| {
            let mut event = Event::new(&format!("{kind}-{what}"), "1").with_data(format!(r#"{{"state":"{state}"}}"#));
            event.id = format!("evt_{kind}_{what}");
            event
        };
        client.publish(&event("created", "old")).await.expect(202);
        wait::until_true("the first attempt to fail", SOON, async || !side.attempts(&stack, address).is_empty()).await;
        client.publish(&event("updated", "new")).await.expect(202);
        assert_delivered(&client.settled(webhook, 1, SOON).await);
        let received = side.wait_at(&stack, address, 1, SOON).await.remove(0);
        let (state, of) = if kind == "order" { ("new", "updated") } else { ("old", "created") };
        assert_eq!(received.json(), json!({ "state": state }), "{kind}");
        assert_eq!(received.event_id(), format!("evt_{kind}_created"));
        assert_eq!(received.name("x-shopery-payload-event-id"), format!("evt_{kind}_{of}"));
        assert_eq!(received.name("x-shopery-attempt"), "2");
    }
}

async fn a_payload_that_says_nothing_new_is_not_sent(side: Side) {
    let stack = side.plan(Stack::plan()).start().await;
    let client = stack.client("tnt_a");
    let address = side.make(&stack, "orders", "tnt_a").await;
    let rules = json!({ "fields": ["id", "status"] });
    let webhook = client.create_webhook_with(&address, &["order-updated"], rules).await;
    // The same event again is stored once; another one that tells the same is carried by the one before.
    let updated = |name: &str, status: &str| {
        let data = format!(r#"{{"id":1,"status":"{status}","note":"{name}"}}"#);
        Event { id: format!("evt_{name}"), ..Event::new("order-updated", "1").with_data(data) }
    };
    for (name, status, ends) in
        [("a", "open", "delivered"), ("a", "open", "delivered"), ("b", "open", "duplicate"), ("c", "paid", "delivered")]
    {
        client.publish(&updated(name, status)).await.expect(202);
        wait::until(&format!("{name} to be {ends}"), SOON, async || {
            let found = client.all(&format!("/company/webhooks/{webhook}/deliveries?status={ends}")).await;
            let is_it = found.iter().any(|delivery| delivery["eventId"] == format!("evt_{name}"));
            if is_it { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
    client.settled(&webhook, 3, SOON).await;
    let received = side.wait_at(&stack, &address, 2, SOON).await;
    let bodies: Vec<_> = received.iter().map(Received::json).collect();
    assert_eq!(bodies, [json!({ "id": 1, "status": "open" }), json!({ "id": 1, "status": "paid" })]);
    assert_eq!(event_ids(&received), ["evt_a", "evt_c"]);
}

async fn a_rate_limit_paces_and_drops_nothing(side: Side) {
    let stack = side.plan(Stack::plan()).start().await;
    let client = stack.client("tnt_a");
    let address = side.make(&stack, "orders", "tnt_a").await;
    let webhook = client.create_webhook_with(&address, &["*"], json!({ "rateLimit": 20 })).await;
    publish(&client, 0..80).await;
    assert_delivered(&client.settled(&webhook, 80, SOON).await);
    let attempts: Vec<_> = side.attempts(&stack, &address).into_iter().map(|(at, _)| at).collect();
    assert_eq!(attempts.len(), 80);
    let took = *attempts.last().unwrap() - attempts[0];
    println!("80 deliveries at 20 a second took {took:?}");
    assert!(took > Duration::from_millis(3400), "{took:?}");
    let busiest = (0..80).map(|first| {
        let end = attempts[first] + Duration::from_secs(1);
        attempts[first..].iter().take_while(|at| **at < end).count()
    });
    assert!(busiest.max().unwrap() <= 26);
    assert_eq!(side.wait_at(&stack, &address, 80, SOON).await.len(), 80);
}

async fn a_tenant_gets_what_is_its_own(side: Side) {
    let stack = side.plan(Stack::plan()).start().await;
    let mut addresses = BTreeMap::new();
    for tenant in ["tnt_a", "tnt_b"] {
        let address = side.make(&stack, &format!("of_{tenant}"), tenant).await;
        let webhook = stack.client(tenant).create_webhook(&address, &["*"]).await;
        addresses.insert(tenant, (webhook, address));
    }
    // The same ids and resources, all at once.
    let (a, b) = (stack.client("tnt_a"), stack.client("tnt_b"));
    tokio::join!(publish(&a, 0..60), publish(&b, 0..60));
    let mut deliveries = HashSet::new();
    for (tenant, (webhook, address)) in addresses {
        let client = stack.client(tenant);
        assert_delivered(&client.settled(&webhook, 60, SOON).await);
        let received = side.wait_at(&stack, &address, 60, SOON).await;
        assert_eq!(received.len(), 60);
        for one in &received {
            assert_eq!((one.name("x-shopery-tenant-id"), one.name("x-shopery-webhook-id")), (tenant, webhook.as_str()));
            assert!(deliveries.insert(one.webhook_id().to_owned()), "{} came to two tenants", one.webhook_id());
        }
        let secret = client.secret(&webhook).await;
        let covered = signed(side.kind(), &received[..5]).await;
        let messages = received.iter().zip(covered).map(|(one, body)| Message::of_received(one, &secret, body));
        let verdicts = verify(&messages.collect::<Vec<_>>()).await;
        assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
    }
}
