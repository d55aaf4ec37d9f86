//! How soon the pages are there for somebody with a large history: from the request to the last byte, over loopback.

use serde_json::Value;
use shopery_e2e::past::{DAYS, Member, RARE_TYPE};
use shopery_e2e::{Client, Event, Stack, wait};
use shopery_model::{DeliveryId, DeliveryState};
use time::OffsetDateTime;

use super::{SOON, measure};
use crate::verification::Pages;

/// What a page should take at p95, in milliseconds.
const GOAL: f64 = 100.0;

pub(super) async fn time_pages(stack: &Stack, client: &Client, member: &Member, now: OffsetDateTime) {
    deliver_an_event(client).await;
    let pages = Pages::of(stack, client).await;
    let mut times = Vec::new();
    for (path, expected) in paths(client, member, now).await {
        let look = async || {
            let (status, page) = pages.look(&path).await;
            assert_eq!(status, expected, "{path}: {page}");
            page.len()
        };
        let bytes = look().await;
        let [p95, p50] = measure(async || {
            look().await;
        })
        .await;
        times.push((p95, p50, bytes, path));
    }
    times.sort_by(|a, b| b.0.total_cmp(&a.0));
    let slow = times.iter().filter(|(p95, ..)| *p95 > GOAL).count();
    println!("\n{}: {slow} of {} pages above {GOAL} ms; p95 ms, p50 ms, bytes, page", member.tenant, times.len());
    for (p95, p50, bytes, path) in &times {
        println!("{p95:7.1} {p50:7.1} {bytes:7}  {path}");
    }
}

/// Events of the past are no longer held; this one is, and has a delivery at each webhook.
async fn deliver_an_event(client: &Client) {
    client.publish(&Event::order("seen")).await.expect(202);
    wait::until("an event to be delivered to each webhook", SOON, async || {
        let report = client.get("/company/events/evt_seen?resource=order%2Fseen").await;
        if report.status != 200 {
            return Err(report.text());
        }
        let report = report.json();
        let webhooks = report["webhooks"].as_array().unwrap();
        let left = webhooks.iter().filter(|at| at["outcome"] != "delivered").count();
        if left == 0 { Ok(()) } else { Err(format!("{left} of {} without it", webhooks.len())) }
    })
    .await;
}

/// Every page but those of a recovery that runs, with each of its filters, and the status that it has.
async fn paths(client: &Client, member: &Member, now: OffsetDateTime) -> Vec<(String, u16)> {
    let newest = async |state: &str| {
        let found = client.get(&format!("/company/deliveries?limit=1&status={state}")).await.expect(200).json();
        found["data"][0].clone()
    };
    let text = |delivery: &Value, name: &str| delivery[name].as_str().unwrap().to_owned();
    let (delivered, failed) = (newest("delivered").await, newest("failed").await);
    let failed_id = text(&failed, "id");

    let mut paths = vec!["/sign-in".to_owned(), "/webhooks/new".to_owned(), "/events".to_owned()];
    let states = ["state=active", "state=paused"];
    let orders = ["sort=name", "sort=delivered", "sort=p95", "sort=waiting"];
    let searches = ["q=webhook", "q=nothing", "q=webhook&state=active&sort=p95"];
    let lists = [""].into_iter().chain(states).chain(orders).chain(searches);
    paths.extend(lists.map(|query| format!("/webhooks?{query}").trim_end_matches('?').to_owned()));
    let (quiet, busy) = (member.webhooks[0], member.webhooks[1]);
    for webhook in [busy, quiet] {
        paths.extend(["1h", "24h", "7d", "30d"].map(|range| format!("/webhooks/{webhook}?range={range}")));
        paths.extend(["edit", "verify", "changes", "recover"].map(|page| format!("/webhooks/{webhook}/{page}")));
        paths.push(format!("/deliveries?webhook={webhook}"));
        paths.push(format!("/deliveries?webhook={webhook}&status=failed"));
    }
    paths.push(format!("/webhooks/{}/recover?from={failed_id}", text(&failed, "webhookId")));
    paths.extend(DeliveryState::ALL.map(|state| format!("/deliveries?status={}", state.name())));
    let last = DeliveryId::first_at(now - time::Duration::days(DAYS - 1));
    paths.extend([
        "/deliveries".to_owned(),
        "/deliveries?status=failed&status=expired&status=parked".to_owned(),
        "/deliveries?event=order-created".to_owned(),
        format!("/deliveries?event={RARE_TYPE}"),
        "/deliveries?resource=order%2F1".to_owned(),
        "/deliveries?reason=http_status".to_owned(),
        "/deliveries?reason=timeout".to_owned(),
        "/deliveries?response_status=200".to_owned(),
        "/deliveries?response_status=503".to_owned(),
        format!("/deliveries?cursor={last}"),
        format!("/deliveries?status=failed&cursor={last}"),
        // What an open list asks for every three seconds.
        format!("/deliveries/news?after={}", text(&delivered, "id")),
        format!("/deliveries/{}", text(&delivered, "id")),
        format!("/deliveries/{failed_id}"),
        "/events/evt_seen?resource=order%2Fseen".to_owned(),
    ]);
    let mut paths: Vec<_> = paths.into_iter().map(|path| (path, 200)).collect();
    let resource = text(&failed, "resource").replace('/', "%2F");
    paths.push((format!("/events/{}?resource={resource}", text(&failed, "eventId")), 404));
    paths
}
