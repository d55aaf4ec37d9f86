//! Events are read from the newest back, page by page: each once, however many of others lie between.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::{Value, json};
use shopery_e2e::{Client, Event, Person, Stack, token, wait};

use crate::recovery::{ago, events};

const SOON: Duration = Duration::from_secs(60);

/// The ids of all that a query finds, from the newest back.
async fn newest(client: &Client, query: &str) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let (more, page) = events(client, &format!("order=newest{query}{cursor}")).await;
        ids.extend(more);
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

/// The same from the oldest on, turned round.
async fn oldest(client: &Client, query: &str) -> Vec<String> {
    let found = client.all(&format!("/company/events?{}", query.trim_start_matches('&'))).await;
    found.iter().rev().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

/// Publishes as many events, every tenth about a product.
async fn publish(client: &Client, name: &str, count: usize) {
    let event = |number| {
        let kind = if number % 10 == 0 { "product-created" } else { "order-created" };
        // Without the sample's payload, which a command that shows events may print and a log may not.
        let subject = format!("{name}_{number:03}");
        Event::new(kind, &subject).with_data(format!(r#"{{"id":"{subject}"}}"#))
    };
    let all: Vec<_> = (0..count).map(event).collect();
    client.try_publish_batch(&all).await.unwrap().expect(202);
}

async fn held(client: &Client, count: usize) {
    wait::until(&format!("{count} events"), SOON, async || match client.all("/company/events").await.len() {
        held if held == count => Ok(()),
        held => Err(format!("{held} of them")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_from_the_newest_back_each_once() {
    let stack = Stack::start().await;
    let (client, others) = (stack.client("tnt_a"), stack.client("tnt_b"));
    assert_eq!(newest(&client, "").await, Vec::<String>::new());
    // Few, then many, then few, with the events of somebody else between.
    publish(&client, "a", 5).await;
    publish(&others, "b", 150).await;
    publish(&client, "c", 140).await;
    publish(&others, "d", 150).await;
    publish(&client, "e", 5).await;
    held(&client, 150).await;
    held(&others, 300).await;
    let between = ago(0);
    publish(&others, "f", 10).await;
    publish(&client, "g", 10).await;
    held(&client, 160).await;
    held(&others, 310).await;

    for (query, limit) in [
        ("", ""),
        ("", "&limit=7"),
        ("", "&limit=200"),
        ("&event=product-created", ""),
        ("&event=product-created", "&limit=3"),
        ("&event=product-deleted", ""),
        (&*format!("&created_at_min={between}"), ""),
        (&*format!("&created_at_max={between}"), "&limit=40"),
        (&*format!("&created_at_max={between}&created_at_min={between}"), ""),
        ("&created_at_min=2026-01-01T00:00:00Z&created_at_max=9999-12-31T23:59:59.999999999Z", ""),
    ] {
        for whose in [&client, &others] {
            let found = newest(whose, &format!("{query}{limit}")).await;
            assert_eq!(found, oldest(whose, query).await, "{query}{limit}");
        }
    }
    assert_eq!(newest(&client, "&event=product-created").await.len(), 17);

    // What comes meanwhile is on no later page, and follows from the position of the first one.
    let (first, page) = events(&client, "order=newest&limit=50").await;
    assert_eq!((first.len(), &page["gap"], page["oldestAvailable"].is_string()), (50, &json!(false), true));
    publish(&client, "h", 3).await;
    held(&client, 163).await;
    let cursor = format!("cursor={}", page["nextCursor"].as_str().unwrap());
    let (second, later) = events(&client, &format!("order=newest&limit=50&{cursor}")).await;
    assert_eq!([first, second].concat(), newest(&client, "").await[3..103]);
    assert_eq!(later["position"], Value::Null, "{later}");
    let position = format!("cursor={}", page["position"].as_str().unwrap());
    let (mut new, _) = events(&client, &position).await;
    new.reverse();
    assert_eq!(new, events(&client, "order=newest&limit=3").await.0);

    // A cursor is of one order and one tenant.
    for (whose, query) in [
        (&client, cursor.clone()),
        (&client, format!("order=newest&{position}")),
        (&others, format!("order=newest&{cursor}")),
    ] {
        whose.get(&format!("/company/events?{query}")).await.expect(404).problem();
    }
    let problem = client.get("/company/events?order=first").await.expect(422).problem();
    assert_eq!(problem["errors"][0]["field"], "order", "{problem}");
    let writer = client.with_token(&token::mint(&["tnt_a"], "webhooks:write"));
    writer.get("/company/events?order=newest").await.expect(403).problem();
    let told = Person::of(&stack, "tnt_a").json(&["events", "list", "--newest-first", "--limit", "60"]).await;
    let told: Vec<_> = told.as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, newest(&client, "").await[..60]);

    // What is no longer held is said.
    let jetstream = jetstream::new(stack.operator().await);
    jetstream.get_stream("EVENTS").await.unwrap().purge().await.unwrap();
    let (ids, page) = events(&client, &format!("order=newest&{cursor}")).await;
    assert_eq!((ids.len(), &page["gap"], &page["nextCursor"]), (0, &json!(true), &Value::Null), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_events_is_short_and_none_is_left_out() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let fill = "x".repeat(200_000);
    for number in 0..45 {
        let event = Event::order(&format!("{number:02}")).with_data(format!(r#"{{"id":"{number}","fill":"{fill}"}}"#));
        client.publish(&event).await.expect(202);
    }
    // A state that is published again behind a late one is no event of its own.
    let mut late = Event::new("order-updated", "44");
    (late.id, late.time) = ("evt_late".to_owned(), Some(ago(3600)));
    client.publish(&late).await.expect(202);
    let jetstream = jetstream::new(stack.operator().await);
    wait::until("the newest state to be the last one again", SOON, async || {
        let events = jetstream.get_stream("EVENTS").await.map_err(|error| error.to_string())?;
        let count = events.cached_info().state.messages;
        if count == 47 { Ok(()) } else { Err(format!("{count} messages")) }
    })
    .await;
    let (first, page) = events(&client, "order=newest&limit=200").await;
    let bytes = page.to_string().len();
    assert!((15..=21).contains(&first.len()) && bytes < 4_300_000, "{} events, {bytes} bytes", first.len());
    let all = newest(&client, "&limit=200").await;
    assert_eq!(all, oldest(&client, "").await);
    assert_eq!((all.len(), &*all[0], &*all[1]), (46, "evt_late", "evt_44"));
}
