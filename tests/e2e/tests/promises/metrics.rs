//! What the metrics tell is what happened; and what is too old is forgotten.

use std::time::Duration;

use serde_json::json;
use shopery_e2e::{Behaviour, DatabaseKind, Event, Service, Stack, wait};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SOON: Duration = Duration::from_secs(40);

on_both_databases!(metrics_tell_what_happened);

async fn metrics_tell_what_happened(database: DatabaseKind) {
    let plan = Stack::plan().database(database).env("SHOPERY_RETRY_SCHEDULE", "200ms,300ms");
    let mut stack = plan.env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let client = stack.client("tnt_a");
    stack.merchant.behave("/bad", Behaviour::Answer(500));
    let good = client.create_webhook_with(&stack.merchant.url("/good"), &["*"], json!({ "fields": ["id"] })).await;
    let bad = client.create_webhook(&stack.merchant.url("/bad"), &["order-paid"]).await;
    for number in 0..10 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    // The same again to the one that is sent the id alone: a duplicate.
    let again = Event { id: "again".to_owned(), ..Event::order("0") };
    client.publish(&again).await.expect(202);
    for number in 0..3 {
        client.publish(&Event::new("order-paid", &format!("p{number}"))).await.expect(202);
    }
    client.settled(&good, 14, SOON).await;
    client.settled(&bad, 3, SOON).await;
    stack.at_rest(SOON).await;

    let of_good = client.get(&format!("/company/webhooks/{good}/metrics")).await.expect(200).json();
    assert_eq!(of_good["total"]["attempts"], 13, "{of_good}");
    assert_eq!(of_good["total"]["deliveries"], json!({ "delivered": 13, "duplicate": 1 }));
    assert_eq!(of_good["total"]["failedAttempts"], json!({}));
    let latency = &of_good["total"]["latency"];
    assert!(latency["p50"].as_f64().unwrap() <= latency["max"].as_f64().unwrap(), "{latency}");
    assert_eq!(of_good["now"], json!({ "oldestWaitingAt": null, "circuit": "closed" }));
    let in_windows: u64 = of_good["data"].as_array().unwrap().iter().map(|one| one["attempts"].as_u64().unwrap()).sum();
    assert_eq!(in_windows, 13);

    let of_bad = client.get(&format!("/company/webhooks/{bad}/metrics?step=1m")).await;
    assert_eq!(of_bad.expect(422).problem()["errors"][0]["field"], "step");
    let since = (OffsetDateTime::now_utc() - time::Duration::minutes(30)).format(&Rfc3339).unwrap();
    let window = format!("step=1m&created_at_min={since}");
    let of_bad = client.get(&format!("/company/webhooks/{bad}/metrics?{window}")).await.expect(200).json();
    assert_eq!(of_bad["total"]["attempts"], 9, "{of_bad}");
    assert_eq!(of_bad["total"]["failedAttempts"], json!({ "http_status": 9 }));
    assert_eq!(of_bad["total"]["deliveries"], json!({ "failed": 3 }));

    // A tenant's are those of its webhooks together; another's are none of it.
    let all = client.get("/company/metrics").await.expect(200).json();
    assert_eq!(all["total"]["attempts"], 22, "{all}");
    let theirs = stack.client("tnt_b").get("/company/metrics").await.expect(200).json();
    assert_eq!((&theirs["total"]["attempts"], &theirs["total"]["deliveries"]), (&json!(0), &json!({})));
    stack.client("tnt_b").get(&format!("/company/webhooks/{good}/metrics")).await.expect(404);

    // What waits is told, and the counts survive a crash of who counts.
    client.patch(&format!("/company/webhooks/{good}"), &json!({ "isEnabled": false })).await.expect(200);
    client.publish(&Event::order("late")).await.expect(202);
    stack.kill(Service::Recorder).await;
    stack.run(Service::Recorder).await;
    wait::until("the parked delivery to be told", SOON, async || {
        let found = client.get(&format!("/company/webhooks/{good}/metrics")).await.expect(200).json();
        let is_told = found["now"]["oldestWaitingAt"].is_string() && found["total"]["deliveries"]["parked"] == 1;
        if is_told && found["total"]["attempts"] == 13 { Ok(()) } else { Err(found["total"].to_string()) }
    })
    .await;
}

/// On PostgreSQL history goes by whole days: see `history` and `large_history`.
#[tokio::test(flavor = "multi_thread")]
async fn old_history_is_forgotten_and_the_counts_stay() {
    let mut stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["*"]).await;
    for number in 0..20 {
        client.publish(&Event::order(&number.to_string())).await.expect(202);
    }
    client.settled(&webhook, 20, SOON).await;
    let path = format!("/company/webhooks/{webhook}/deliveries");
    // Started with another age, it removes what is older, and goes on recording.
    stack.stop(Service::Controller).await;
    stack.run_with(Service::Controller, &[("SHOPERY_HISTORY_MAX_AGE", "1ms")]).await;
    wait::until("the history to be forgotten", SOON, async || {
        let left = client.all(&path).await.len();
        if left == 0 {
            return Ok(());
        }
        Err(format!("{left} deliveries are left"))
    })
    .await;
    client.publish(&Event::order("new")).await.expect(202);
    client.settled(&webhook, 1, SOON).await;
    let metrics = client.get(&format!("/company/webhooks/{webhook}/metrics")).await.expect(200).json();
    assert_eq!(metrics["total"]["deliveries"]["delivered"], 21, "{metrics}");
}
