//! Lists and metrics of a large history on PostgreSQL tell the truth, and retention does not stand in the recorder's way.
//!
//! `SHOPERY_TEST_HISTORY=10000000` makes it large, of 1,000 webhooks; the times of lists, metrics, pages and the recorder that
//! are printed then are the point. Every day it is small, and no time is tested.

mod pages;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use shopery_e2e::documents::{Random, seed};
use shopery_e2e::past::{DAYS, Member, Past, RARE_TYPE};
use shopery_e2e::{Client, DatabaseKind, Service, Stack, wait};
use shopery_model::{Attempt, AttemptId, DeliveryId, DeliveryState, Extensions, JobMeta, Outcome, TenantId, WebhookId};
use shopery_store::{Recorded, Store};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SMALL: usize = 50_000;
const SOON: Duration = Duration::from_secs(60);
/// Tenants whose webhooks are created side by side.
const AT_ONCE: usize = 4;
/// Of what is slow, this many calls are enough for a p95.
const MIN_CALLS: usize = 20;

/// How often each call is made, and how long a measurement is: there is nothing to measure in a small history.
fn thoroughness() -> (usize, Duration) {
    if is_large() { (100, Duration::from_secs(10)) } else { (1, Duration::from_secs(1)) }
}

fn is_large() -> bool {
    size() > SMALL
}

fn size() -> usize {
    std::env::var("SHOPERY_TEST_HISTORY").map_or(SMALL, |rows| rows.parse().expect("SHOPERY_TEST_HISTORY: a number"))
}

/// How many webhooks each tenant has, and its part of about a thousand deliveries.
fn shape() -> Vec<(usize, usize)> {
    let (mut shape, tenants, other) = match is_large() {
        true => (vec![(100, 500), (100, 200)], 10, (100, 38)),
        false => (vec![(40, 500), (20, 200)], 20, (10, 17)),
    };
    shape.resize(tenants, other);
    shape
}

/// The tenants, with webhooks that the API has made.
async fn members(stack: &Stack, names: &[String]) -> Vec<Member> {
    let created = stream::iter(names.iter().zip(shape())).map(|(name, (webhooks, share))| async move {
        let (client, url) = (stack.client(name), stack.merchant.url("/"));
        let mut ids = Vec::new();
        for _ in 0..webhooks {
            let id = client.create_webhook(&url, &["*"]).await;
            ids.push(id.parse::<WebhookId>().unwrap());
        }
        Member { tenant: name.parse().unwrap(), webhooks: ids, share }
    });
    created.buffered(AT_ONCE).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_metrics_are_true_and_retention_is_in_nobodys_way() {
    let names: Vec<_> = (0..shape().len()).map(|n| format!("tnt_{n}")).collect();
    let plan = Stack::plan().database(DatabaseKind::Postgres).tenants(names.iter().map(String::as_str));
    // Quick answers, one after the other, are more than it lets through.
    let mut stack = plan.env("SHOPERY_API_TENANT_LIMIT", "off").start().await;
    let (mut random, now) = (Random::new(seed()), OffsetDateTime::now_utc());
    let past = Past { members: members(&stack, &names).await, deliveries: size(), now };
    for service in [Service::Api, Service::Recorder, Service::Controller] {
        stack.stop(service).await;
    }
    let began = Instant::now();
    let postgres = stack.postgres.as_ref().unwrap();
    let store = Store::connect(&postgres.url()).await.unwrap();
    make_past_partitions(&stack, &store, now).await;
    let states = past.write(postgres, &mut random).await;
    println!("{} deliveries written in {:.0} s", past.deliveries, began.elapsed().as_secs_f64());
    let size = "SELECT pg_size_pretty(sum(pg_total_relation_size(inhrelid))) FROM pg_inherits \
                WHERE inhparent = 'deliveries'::regclass";
    println!("they take {} with their indexes", postgres.value(size).await);
    for service in [Service::Controller, Service::Recorder, Service::Api] {
        stack.run(service).await;
    }

    are_metrics_true(&stack, &past, &states).await;
    for member in &past.members[..2] {
        let client = stack.client(member.tenant.as_str());
        pages::time_pages(&stack, &client, member, now).await;
        time_calls(&client, member, now).await;
    }
    time_recorder(&mut stack, &store, &past).await;
}

/// As if we had run all the time.
async fn make_past_partitions(stack: &Stack, store: &Store, now: OffsetDateTime) {
    let postgres = stack.postgres.as_ref().unwrap();
    let names = "SELECT string_agg(inhrelid::regclass::text, ',') FROM pg_inherits \
                 WHERE inhparent = 'deliveries'::regclass AND inhrelid::regclass::text LIKE '%until%'";
    let names = postgres.value(names).await;
    postgres.value(&format!("DROP TABLE {names}")).await;
    for day in (0..=DAYS).rev() {
        store.prepare_history(now - time::Duration::days(day), time::Duration::days(DAYS)).await.unwrap();
    }
}

async fn are_metrics_true(stack: &Stack, past: &Past, states: &HashMap<(usize, &'static str), u64>) {
    let since = rfc(past.now - time::Duration::days(DAYS + 1));
    for (n, member) in past.members.iter().enumerate() {
        let client = stack.client(member.tenant.as_str());
        let metrics = client.get(&format!("/company/metrics?created_at_min={since}&step=1d")).await.expect(200).json();
        for ((_, state), count) in states.iter().filter(|((of, state), _)| *of == n && *state != "pending") {
            assert_eq!(metrics["total"]["deliveries"][state], *count, "{state} of {}", member.tenant);
        }
        let waiting = ["pending", "parked"].iter().any(|state| states.contains_key(&(n, *state)));
        assert_eq!(metrics["now"]["oldestWaitingAt"].is_string(), waiting, "of {}", member.tenant);
    }
}

fn rfc(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap()
}

/// Every list and metrics call, with filters that find much, little and nothing, at the first page and at the last.
fn calls(member: &Member, now: OffsetDateTime) -> Vec<String> {
    let ago = |days: i64| rfc(now - time::Duration::days(days));
    let (quiet, busy) = (member.webhooks[0], member.webhooks[1]);
    let last = format!("cursor={}", DeliveryId::first_at(now - time::Duration::days(DAYS - 1)));
    let mut filters = vec![String::new(), last.clone()];
    for state in DeliveryState::ALL {
        filters.push(format!("status={}", state.name()));
    }
    filters.extend([
        format!("status=failed&{last}"),
        "event=order-created".to_owned(),
        format!("event={RARE_TYPE}"),
        format!("event={RARE_TYPE}&{last}"),
        "status=failed&event=order-paid".to_owned(),
        format!("status=expired&event={RARE_TYPE}"),
        format!("status=delivered&event={RARE_TYPE}"),
        "status=failed,expired,parked".to_owned(),
        format!("status=failed,delivered&{last}"),
        "order=oldest".to_owned(),
        "status=failed&order=oldest".to_owned(),
        "resource=order/1".to_owned(),
        "reason=http_status".to_owned(),
        format!("reason=timeout&{last}"),
        "response_status=503".to_owned(),
        format!("created_at_max={}", ago(25)),
        format!("created_at_min={}&created_at_max={}", ago(20), ago(19)),
        format!("created_at_min={}&created_at_max={}&status=failed", ago(20), ago(10)),
        format!("updated_at_min={}", rfc(now)),
        format!("updated_at_min={}", rfc(now - time::Duration::hours(1))),
        format!("updated_at_min={}", ago(20)),
        format!("updated_at_max={}", ago(20)),
        format!("updated_at_min={}&updated_at_max={}", ago(20), ago(19)),
        format!("updated_at_min={}&status=failed", rfc(now - time::Duration::hours(1))),
        format!("updated_at_min={}&cursor={}", ago(1), DeliveryId::first_at(now - time::Duration::days(2))),
    ]);
    let mut calls = vec!["/company/webhooks".to_owned()];
    for list in ["company".to_owned(), format!("company/webhooks/{busy}"), format!("company/webhooks/{quiet}")] {
        calls.extend(filters.iter().map(|filter| format!("/{list}/deliveries?limit=50&{filter}")));
        calls.push(format!("/{list}/metrics"));
        calls.push(format!("/{list}/metrics?created_at_min={}&step=1h", ago(DAYS)));
    }
    calls.push(format!("/company/webhooks/metrics?created_at_min={}&step=1h", ago(1)));
    // The webhooks, and what else there is of one.
    calls.push(format!("/company/webhooks/{busy}/changes"));
    calls.push(format!("/company/webhooks/{busy}/recoveries"));
    calls.push(format!("/company/webhooks/{busy}/digest?created_at_min={}", ago(1)));
    calls.push("/company/events".to_owned());
    calls
}

/// What a call takes, in milliseconds: p95 and p50.
async fn measure(mut call: impl AsyncFnMut()) -> [f64; 2] {
    let ((calls, long), began) = (thoroughness(), Instant::now());
    let mut millis = Vec::new();
    while millis.len() < calls && (millis.len() < MIN_CALLS || began.elapsed() < long) {
        let began = Instant::now();
        call().await;
        millis.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    millis.sort_by(f64::total_cmp);
    [millis[millis.len() * 95 / 100], millis[millis.len() / 2]]
}

async fn time_calls(client: &Client, member: &Member, now: OffsetDateTime) {
    let mut times = Vec::new();
    for call in calls(member, now) {
        let call = call.trim_end_matches(['&', '?']).to_owned();
        let reply = client.get(&call).await.expect(200).json();
        are_rows_right(&call, &reply, member);
        let [p95, p50] = measure(async || {
            client.get(&call).await.expect(200);
        })
        .await;
        let rows = reply["data"].as_array().map_or(0, Vec::len);
        times.push((p95, p50, rows, call));
    }
    times.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("\n{}: p95 ms, p50 ms, rows, call", member.tenant);
    for (p95, p50, rows, call) in &times {
        println!("{p95:7.1} {p50:7.1} {rows:4}  {call}");
    }
}

/// Nothing of another webhook, in another state, of another type; in the order that was asked for.
fn are_rows_right(call: &str, reply: &Value, member: &Member) {
    if !call.contains("/deliveries") {
        return;
    }
    let rows = reply["data"].as_array().unwrap();
    let named = |name: &str| call.split(['?', '&']).find_map(|part| part.strip_prefix(name));
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap();
        assert!(named("status=").is_none_or(|states| states.split(',').any(|state| text("state") == state)), "{call}");
        assert!(named("resource=").is_none_or(|resource| text("resource") == resource), "{call}: {row}");
        assert!(named("reason=").is_none_or(|reason| row["error"]["reason"] == reason), "{call}: {row}");
        assert!(named("event=").is_none_or(|event| text("event") == event), "{call}: {row}");
        assert!(named("cursor=").is_none_or(|cursor| text("id") < cursor), "{call}: {row}");
        assert!(member.webhooks.iter().any(|id| text("webhookId") == id.to_string()), "{call}: {row}");
        assert!(!call.contains("/webhooks/") || call.contains(text("webhookId")), "{call}: {row}");
    }
    let is_oldest_first = named("order=").is_some();
    assert!(rows.is_sorted_by(|a, b| (a["id"].as_str() < b["id"].as_str()) == is_oldest_first), "{call}");
}

/// New outcomes at a steady rate, before and while a half of the history is forgotten; then by the service itself.
async fn time_recorder(stack: &mut Stack, store: &Store, past: &Past) {
    let (_, while_nothing_else) = thoroughness();
    let quiet = record_while(store, past, tokio::time::sleep(while_nothing_else)).await;
    let cut = past.now - time::Duration::days(DAYS / 2);
    let forgetting = async {
        let began = Instant::now();
        // A lock that is not to be had in time is tried for again, as the controller does with its next sweep.
        wait::until("15 days to be forgotten", SOON, async || {
            while store.forget_deliveries(cut).await.map_err(|error| error.to_string())? {}
            Ok(())
        })
        .await;
        println!("\n15 days forgotten in {:.2} s", began.elapsed().as_secs_f64());
        tokio::time::sleep(while_nothing_else).await;
    };
    let busy = record_while(store, past, forgetting).await;
    println!("recording 100 outcomes, 20 times a second: p50, p95, p99, max ms");
    println!("alone          {quiet}\nwith retention {busy}");

    let postgres = stack.postgres.as_ref().unwrap();
    let parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'deliveries'::regclass";
    let before: usize = postgres.value(parts).await.parse().unwrap();
    stack.stop(Service::Controller).await;
    stack.run_with(Service::Controller, &[("SHOPERY_HISTORY_MAX_AGE", "5d")]).await;
    let postgres = stack.postgres.as_ref().unwrap();
    wait::until("the controller to forget ten more days", SOON, async || {
        let left: usize = postgres.value(parts).await.parse().unwrap();
        if left + 10 == before { Ok(()) } else { Err(format!("{left} partitions of {before}")) }
    })
    .await;
}

async fn record_while(store: &Store, past: &Past, other: impl Future<Output = ()>) -> String {
    let mut millis = Vec::new();
    let recording = async {
        let mut turn = tokio::time::interval(Duration::from_millis(50));
        loop {
            turn.tick().await;
            let outcomes: Vec<_> = (0..100).map(|n| delivered(&past.members[n % 3], &AttemptId::generate())).collect();
            let (sequence, at) = (millis.len() as u64, OffsetDateTime::now_utc());
            let began = Instant::now();
            store.record_messages(&[Recorded { sequence, at, outcomes: &outcomes }]).await.unwrap();
            millis.push(began.elapsed().as_secs_f64() * 1000.0);
        }
    };
    tokio::select! {
        () = other => {}
        () = recording => {}
    }
    millis.sort_by(f64::total_cmp);
    let at = |percent: usize| millis.get(millis.len() * percent / 100).or(millis.last()).copied().unwrap_or_default();
    format!("{:.1} {:.1} {:.1} {:.1}", at(50), at(95), at(99), at(100))
}

fn delivered(member: &Member, attempt: &AttemptId) -> Outcome {
    let (now, event) = (OffsetDateTime::now_utc(), attempt.to_string());
    let (tenant, webhook): (TenantId, _) = (member.tenant.clone(), member.webhooks[1]);
    Outcome {
        job: JobMeta {
            delivery: DeliveryId::of(&tenant, "e2e", &event, now, webhook),
            tenant,
            webhook,
            source: "orders".to_owned(),
            event,
            event_type: "order-created".parse().unwrap(),
            resource: "order/1".to_owned(),
            triggered_at: now,
            event_sequence: 1,
            changed: Vec::new(),
            stored_ns: None,
            payload_of: None,
            fields: None,
            extensions: Extensions::default(),
            may_be_stale: false,
            attempt: 1,
            failed_at: None,
            resend: None,
        },
        state: DeliveryState::Delivered,
        next_attempt_at: None,
        attempt: Some(Attempt {
            id: *attempt,
            started_at: now,
            duration_ms: 12,
            url: "https://shop.example.com/webhooks/orders".to_owned(),
            request_bytes: 1200,
            status: Some(200),
            response_body: "ok".to_owned(),
            response_headers: String::new(),
            code: None,
            message_id: None,
            posted: None,
            note: None,
        }),
        fault: None,
        carried_by: None,
        at: now,
    }
}
