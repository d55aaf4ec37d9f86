//! Webhooks on a real SQLite file: since when an endpoint is the one that it is, and whom others are to be notified of.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use shopery_model::{
    AttemptId, DELIVERY_FAILED, DeliveryId, DeliveryState, Extensions, Fault, JobMeta, Outcome, Rules, Sealed,
    TenantId, WebhookId,
};
use shopery_store::{Author, PendingFailures, Recorded, Resealed, Store, WebhookChange, WebhookRecord, WebhookState};
use time::OffsetDateTime;
use time::macros::datetime;

const CREATED: OffsetDateTime = datetime!(2026-11-24 10:00 UTC);

fn record() -> WebhookRecord {
    WebhookRecord {
        id: WebhookId::generate(),
        tenant: "t".parse().unwrap(),
        name: "a".to_owned(),
        description: None,
        metadata: Default::default(),
        destination: "https://a.example/".parse().unwrap(),
        events: vec!["*".parse().unwrap()],
        state: WebhookState::Active,
        sealed: Sealed::of_stored("v1.a.0".to_owned()),
        rules: Rules::default(),
        created_at: CREATED,
        updated_at: CREATED,
        failing_since: None,
        warned_at: None,
        is_warning_notified: false,
        disabled: None,
        is_told: false,
        discard_before: None,
        endpoint_since: None,
        version: 1,
    }
}

fn resealed(before: &WebhookRecord, number: usize, is_new_secret: bool) -> Resealed {
    let after = Sealed::of_stored(format!("v1.a.{number}"));
    Resealed { before: before.sealed.clone(), after, is_new_secret, told: Vec::new() }
}

#[tokio::test]
async fn another_url_or_secret_or_enabling_it_makes_another_endpoint_and_nothing_else_does() {
    let folder = std::env::temp_dir().join(format!("shopery-webhooks-{}", AttemptId::generate()));
    std::fs::create_dir(&folder).unwrap();
    let store = Store::connect(&format!("sqlite://{}/a.db?mode=rwc", folder.display())).await.unwrap();
    let created = record();
    let (tenant, id) = (&created.tenant, created.id);
    store.create_webhook(&created, &[], &Author::default()).await.unwrap();
    let (mut before, mut since) = (created.clone(), None);
    assert_eq!(before.config().endpoint_since, None);
    let url = |url: &str| WebhookChange { destination: Some(url.parse().unwrap()), ..WebhookChange::default() };
    let state = |state| WebhookChange { state: Some(state), ..WebhookChange::default() };
    let sealed = |number, is_new| {
        move |now: &WebhookRecord| WebhookChange {
            sealed: Some(resealed(now, number, is_new)),
            ..WebhookChange::default()
        }
    };
    type Change = Box<dyn Fn(&WebhookRecord) -> WebhookChange>;
    let changes: Vec<(Change, bool)> = vec![
        (Box::new(|_| WebhookChange { name: Some("b".to_owned()), ..WebhookChange::default() }), false),
        (Box::new(move |_| url("https://a.example/")), false),
        (Box::new(move |_| url("https://b.example/")), true),
        (Box::new(move |_| state(WebhookState::Active)), false),
        (Box::new(move |_| state(WebhookState::Paused)), false),
        (Box::new(move |_| state(WebhookState::Active)), true),
        (Box::new(sealed(1, false)), false),
        (Box::new(sealed(2, true)), true),
    ];
    for (number, (change, is_new)) in (1..).zip(&changes) {
        let now = CREATED + time::Duration::minutes(number);
        let changed = store.update_webhook(tenant, id, change(&before), &Author::default(), now).await.unwrap();
        assert!(changed);
        let found = store.webhook(tenant, id).await.unwrap().unwrap();
        if *is_new {
            since = Some(now);
        }
        assert_eq!(found.endpoint_since, since, "change {number}");
        assert_eq!(found.config().endpoint_since, since);
        before = found;
    }
    // Another key has sealed the same.
    assert!(store.reseal(tenant, id, &resealed(&before, 3, false)).await.unwrap());
    let resealed = store.webhook(tenant, id).await.unwrap().unwrap();
    assert_eq!(resealed.endpoint_since, since);
    // What was judged of an endpoint is changed only while it is that one.
    let elsewhere = "https://c.example/".parse().unwrap();
    for (destination, sealed, is_changed) in [
        (elsewhere, &resealed.sealed, false),
        (resealed.destination.clone(), &before.sealed, false),
        (resealed.destination.clone(), &resealed.sealed, true),
    ] {
        let of_endpoint = Some((destination, sealed.clone()));
        let change = WebhookChange { name: Some("c".to_owned()), of_endpoint, ..WebhookChange::default() };
        let changed = store.update_webhook(tenant, id, change, &Author::default(), CREATED).await.unwrap();
        assert_eq!(changed, is_changed);
        assert_eq!(store.webhook(tenant, id).await.unwrap().unwrap().name == "c", is_changed);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

fn failed(tenant: &TenantId, event: String) -> Outcome {
    let webhook = WebhookId::generate();
    Outcome {
        job: JobMeta {
            delivery: DeliveryId::of(tenant, "orders", &event, CREATED, webhook),
            tenant: tenant.clone(),
            webhook,
            source: "orders".to_owned(),
            event,
            event_type: "order-created".parse().unwrap(),
            resource: "order/1".to_owned(),
            triggered_at: CREATED,
            event_sequence: 1,
            changed: Vec::new(),
            stored_ns: None,
            payload_of: None,
            fields: None,
            extensions: Extensions::default(),
            may_be_stale: false,
            attempt: 3,
            failed_at: None,
            resend: None,
        },
        state: DeliveryState::Failed,
        next_attempt_at: None,
        attempt: None,
        fault: Some((Fault::HttpStatus, "it answered 500".to_owned())),
        carried_by: None,
        at: CREATED,
    }
}

#[tokio::test]
async fn the_many_failures_of_one_tenant_keep_no_other_waiting_and_all_are_read() {
    let folder = std::env::temp_dir().join(format!("shopery-failures-{}", AttemptId::generate()));
    std::fs::create_dir(&folder).unwrap();
    let store = Store::connect(&format!("sqlite://{}/a.db?mode=rwc", folder.display())).await.unwrap();
    let mut pending = BTreeMap::new();
    for number in 0..40 {
        let tenant: TenantId = format!("tnt_{number:02}").parse().unwrap();
        let listener =
            WebhookRecord { tenant: tenant.clone(), events: vec![DELIVERY_FAILED.parse().unwrap()], ..record() };
        store.create_webhook(&listener, &[], &Author::default()).await.unwrap();
        let count = if number == 3 { 100 } else { 1 };
        let outcomes: Vec<_> = (0..count).map(|event| failed(&tenant, format!("e{event}"))).collect();
        store.record_messages(&[Recorded { sequence: number + 1, at: CREATED, outcomes: &outcomes }]).await.unwrap();
        pending.insert(tenant, count);
    }
    let (mut cursor, mut passes) = (String::new(), 0);
    while !pending.is_empty() {
        passes += 1;
        let PendingFailures { failures, cursor: next, is_more } = store.pending_failures(&cursor).await.unwrap();
        let mut read = BTreeMap::new();
        for failure in &failures {
            *read.entry(failure.tenant.clone()).or_insert(0) += 1;
        }
        assert!(read.values().all(|count| *count <= 32) && read.len() <= 32, "{read:?}");
        for (tenant, count) in read {
            let left = pending.remove(&tenant).unwrap() - count;
            if left > 0 {
                pending.insert(tenant, left);
            }
        }
        store.failures_notified(&failures).await.unwrap();
        assert!(is_more, "{pending:?}");
        // All others have had their turn.
        assert!(passes != 2 || pending.len() == 1, "{pending:?}");
        cursor = next;
    }
    assert!(passes <= 8, "{passes}");
    assert!(store.pending_failures("").await.unwrap().failures.is_empty());
    std::fs::remove_dir_all(&folder).unwrap();
}
