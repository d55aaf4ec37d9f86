//! A loud tenant and a webhook that wants to be spared: neither delays the others, neither loses anything.

use std::time::Duration;

use serde_json::json;
use shopery_e2e::{Client, Event, Service, Stack, wait};

const SOON: Duration = Duration::from_secs(60);

async fn publish(client: &Client, name: &str, count: usize) {
    let events: Vec<_> = (0..count).map(|number| Event::order(&format!("{name}-{number:05}"))).collect();
    for part in events.chunks(500) {
        client.try_publish_batch(part).await.unwrap().expect(202);
    }
}

/// Events that the router has put off.
async fn deferred(stack: &Stack) -> u64 {
    let metrics = reqwest::get(format!("{}/metrics", stack.url(Service::Router))).await.unwrap().text().await.unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix("shopery_events_deferred_total "));
    value.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_burst_of_a_loud_tenant_takes_the_bulk_lane_and_arrives_whole() {
    let stack = Stack::plan().tenants(["loud", "quiet"]).start().await;
    let (loud, quiet) = (stack.client("loud"), stack.client("quiet"));
    let mut webhooks = Vec::new();
    for number in 0..5 {
        webhooks.push(loud.create_webhook(&stack.merchant.url(&format!("/loud/{number}")), &["*"]).await);
    }
    let other = quiet.create_webhook(&stack.merchant.url("/quiet"), &["*"]).await;
    quiet.publish(&Event::order("first")).await.expect(202);
    publish(&loud, "burst", 1000).await;
    let before = stack.merchant.arrivals().len();
    quiet.publish(&Event::order("second")).await.expect(202);
    stack.merchant.wait_at("/quiet", 2, SOON).await;
    let ahead = stack.merchant.arrivals().len() - before;
    println!("{ahead} of 5000 deliveries came before one of a quiet tenant that was published after them");
    assert!(ahead < 3000, "{ahead}");
    quiet.settled(&other, 2, SOON).await;
    for webhook in &webhooks {
        let history = loud.settled(webhook, 1000, SOON).await;
        assert!(history.iter().all(|delivery| delivery["state"] == "delivered"));
    }
    let deferred = deferred(&stack).await;
    assert!(deferred > 500, "{deferred} of 1000 events were deferred");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_after_the_burst_of_a_tenant_that_was_alone_goes_ahead_of_it() {
    let stack = Stack::plan().tenants(["loud", "late"]).start().await;
    let (loud, late) = (stack.client("loud"), stack.client("late"));
    for number in 0..10 {
        loud.create_webhook(&stack.merchant.url(&format!("/loud/{number}")), &["*"]).await;
    }
    late.create_webhook(&stack.merchant.url("/late"), &["*"]).await;
    publish(&loud, "burst", 1000).await;
    let before = stack.merchant.arrivals().len();
    late.publish(&Event::order("late")).await.expect(202);
    stack.merchant.wait_at("/late", 1, SOON).await;
    let ahead = stack.merchant.arrivals().len() - before;
    println!("{before} of 10000 deliveries came before the event of another tenant, {ahead} more before its delivery");
    assert!(ahead < 3000, "{ahead}");
    stack.merchant.wait_for("all of the burst", SOON, |arrivals| arrivals.len() == 10_001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_paces_over_all_deliverers_in_order_and_drops_nothing() {
    let stack = Stack::plan().start().await;
    let client = stack.client("tnt_a");
    let spared = client.create_webhook(&stack.merchant.url("/spared"), &["*"]).await;
    let path = format!("/company/webhooks/{spared}");
    for wrong in [json!(0), json!(1001), json!(-1), json!(1.5), json!("50")] {
        let answer = client.patch(&path, &json!({ "rateLimit": wrong })).await.expect(422).json();
        assert_eq!(answer["errors"][0]["field"], "rateLimit", "{wrong}");
    }
    let patched = client.patch(&path, &json!({ "rateLimit": 50 })).await.expect(200).json();
    assert_eq!(patched["rateLimit"], 50);
    let beside = client.create_webhook(&stack.merchant.url("/beside"), &["*"]).await;
    publish(&client, "order", 200).await;
    client.settled(&beside, 200, SOON).await;
    client.settled(&spared, 200, SOON).await;

    let arrivals = stack.merchant.arrivals_at("/spared");
    assert_eq!(arrivals.len(), 200);
    let took = arrivals.last().unwrap().at - arrivals[0].at;
    println!("200 deliveries at 50 a second took {took:?}");
    assert!(took > Duration::from_millis(3500), "{took:?}");
    let busiest = (0..200).map(|first| {
        let end = arrivals[first].at + Duration::from_secs(1);
        arrivals[first..].iter().take_while(|arrival| arrival.at < end).count()
    });
    // A second's worth, and a tenth more where two turns meet.
    assert!(busiest.max().unwrap() <= 60);
    wait::until("the limit to be lifted", SOON, async || {
        client.patch(&path, &json!({ "rateLimit": null })).await.expect(200);
        Ok::<(), String>(())
    })
    .await;
    assert!(client.get(&path).await.expect(200).json().get("rateLimit").is_none());
}
