//! Recoveries on a real SQLite file: one turn at a time, whoever takes it, and nothing counted twice.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use shopery_model::{
    AttemptId, DeliveryId, DeliveryState, Extensions, Fault, JobMeta, Outcome, PayloadMode, Resend, TenantId, WebhookId,
};
use shopery_store::{ItemState, RecoveryItem, RecoveryRecord, RecoveryState, RecoveryTurn, Store, StoreError, Times};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

const START: OffsetDateTime = datetime!(2026-11-24 10:00 UTC);

/// Removed when it is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn create() -> Self {
        let path = std::env::temp_dir().join(format!("shopery-recoveries-{}", AttemptId::generate()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    async fn store(&self) -> Store {
        Store::connect(&format!("sqlite://{}/history.db?mode=rwc", self.0.display())).await.unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tenant() -> TenantId {
    "t".parse().unwrap()
}

fn ended(webhook: WebhookId, number: i64, state: DeliveryState) -> Outcome {
    let at = START + Duration::seconds(number);
    Outcome {
        job: JobMeta {
            delivery: DeliveryId::of(&tenant(), "orders", &number.to_string(), at, webhook),
            tenant: tenant(),
            webhook,
            source: "orders".to_owned(),
            event: number.to_string(),
            event_type: "order-paid".parse().unwrap(),
            resource: format!("order/{}", number % 3),
            triggered_at: at,
            event_sequence: 7,
            changed: Vec::new(),
            stored_ns: None,
            payload_of: None,
            fields: None,
            extensions: Extensions::default(),
            may_be_stale: false,
            attempt: 1,
            resend: None,
            failed_at: None,
        },
        state,
        next_attempt_at: None,
        attempt: None,
        fault: None,
        carried_by: None,
        at,
    }
}

fn recovery(webhook: WebhookId, mode: PayloadMode) -> RecoveryRecord {
    let mut record = RecoveryRecord::new(tenant(), webhook, (START, START + Duration::hours(3)), START);
    record.mode = mode;
    record
}

/// Every delivery that the recovery looks at, page by page.
async fn walk(store: &Store, limit: u64) -> Vec<String> {
    let (mut seen, mut now) = (Vec::new(), START);
    loop {
        now += Duration::minutes(1);
        let turn = store.claim_recovery(now).await.unwrap().unwrap();
        let page = store.recovery_page(&turn, limit).await.unwrap();
        seen.extend(page.deliveries.into_iter().map(|delivery| delivery.event_id));
        let Some(end) = page.end else {
            store.finish_recovery(&turn, RecoveryState::Completed, None, now).await.unwrap();
            return seen;
        };
        assert!(store.pass_recovery(&turn, &end, &[], 0, now).await.unwrap());
        store.end_turn(&turn, now, now).await.unwrap();
    }
}

#[tokio::test]
async fn few_that_failed_among_many_are_found_in_their_order() {
    let folder = Folder::create();
    let store = folder.store().await;
    let webhook = WebhookId::generate();
    // More than a page may go through at once.
    let state = |number| if number % 1000 == 7 { DeliveryState::Failed } else { DeliveryState::Delivered };
    let outcomes: Vec<_> = (0..10_500).map(|number| ended(webhook, number, state(number))).collect();
    store.record(&outcomes).await.unwrap();
    let failed: Vec<_> = (0..11).map(|part| (part * 1000 + 7).to_string()).collect();
    for limit in [2, 100] {
        store.create_recovery(&recovery(webhook, PayloadMode::Original)).await.unwrap();
        assert_eq!(walk(&store, limit).await, failed);
        store.create_recovery(&recovery(webhook, PayloadMode::Latest)).await.unwrap();
        assert_eq!(walk(&store, limit).await, failed.iter().rev().cloned().collect::<Vec<_>>());
    }
}

async fn claim(store: &Store, now: OffsetDateTime) -> Option<RecoveryTurn> {
    store.claim_recovery(now).await.unwrap()
}

#[tokio::test]
async fn a_recovery_is_worked_on_by_one_at_a_time() {
    let folder = Folder::create();
    let (store, other) = (folder.store().await, folder.store().await);
    let webhook = WebhookId::generate();
    store.record(&[ended(webhook, 1, DeliveryState::Failed)]).await.unwrap();
    let record = recovery(webhook, PayloadMode::Latest);
    store.create_recovery(&record).await.unwrap();

    let late = claim(&store, START).await.unwrap();
    assert!(claim(&other, START + Duration::seconds(19)).await.is_none());
    let now = START + Duration::seconds(20);
    let turn = claim(&other, now).await.unwrap();
    // Whoever comes back after its lease writes nothing.
    let delivery = store.recovery_page(&turn, 10).await.unwrap().deliveries.remove(0);
    let planned = RecoveryItem {
        item: turn.item_of(&delivery),
        delivery: delivery.id.parse().unwrap(),
        round: 1,
        state: ItemState::Planned,
    };
    let planned = [planned];
    let sent = [RecoveryItem { state: ItemState::Sent, ..planned[0].clone() }];
    assert!(!store.plan_items(&late, &planned, now).await.unwrap());
    assert!(!store.settle_items(&late, &sent, &[], now).await.unwrap());
    assert!(!store.pass_recovery(&late, &delivery.id, &[], 5, now).await.unwrap());

    // What is planned is found by the next turn, and counted once.
    assert!(store.plan_items(&turn, &planned, now).await.unwrap());
    assert!(store.plan_items(&turn, &planned, now).await.unwrap());
    let now = now + Duration::minutes(1);
    let turn = claim(&store, now).await.unwrap();
    let found = store.planned_items(&turn).await.unwrap();
    assert_eq!((found.len(), found[0].0.delivery, found[0].1.round), (1, sent[0].delivery, 0));
    // Cancelled meanwhile: what was sent counts all the same, and nothing more is sent.
    assert!(store.cancel_recovery(&tenant(), record.id, now).await.unwrap());
    let mut asked = ended(webhook, 1, DeliveryState::Pending);
    asked.job.resend = Some(Resend { round: 1, attempts_before: 0, payload: None });
    assert!(store.settle_items(&turn, &sent, &[asked], now).await.unwrap());
    assert!(!store.pass_recovery(&turn, &delivery.id, &[], 0, now).await.unwrap());
    let found = store.recovery(&tenant(), record.id).await.unwrap().unwrap();
    assert_eq!((found.state, found.resent, found.unavailable), (RecoveryState::Cancelled, 1, 0));
    assert!(claim(&store, now + Duration::hours(1)).await.is_none());
    assert!(!store.cancel_recovery(&tenant(), record.id, now).await.unwrap());
    store.sweep_recoveries(now + Duration::hours(1)).await.unwrap();
    assert!(store.planned_items(&turn).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_tenant_has_a_bounded_number_of_recoveries_running_and_sees_its_own() {
    let folder = Folder::create();
    let store = folder.store().await;
    let webhook = WebhookId::generate();
    let records: Vec<_> = (0..5).map(|_| recovery(webhook, PayloadMode::Latest)).collect();
    for record in &records[..4] {
        store.create_recovery(record).await.unwrap();
    }
    assert!(matches!(store.create_recovery(&records[4]).await, Err(StoreError::TooManyRecoveries(4))));
    let another: TenantId = "u".parse().unwrap();
    let mut theirs = recovery(webhook, PayloadMode::Latest);
    theirs.tenant = another.clone();
    store.create_recovery(&theirs).await.unwrap();
    assert!(store.recovery(&another, records[0].id).await.unwrap().is_none());
    assert!(!store.cancel_recovery(&another, records[0].id, START).await.unwrap());
    assert_eq!(store.recoveries(&another, webhook, &Times::default(), None, 10).await.unwrap().items.len(), 1);
    assert!(store.cancel_recovery(&tenant(), records[0].id, START).await.unwrap());
    store.create_recovery(&records[4]).await.unwrap();
    assert_eq!(store.recoveries(&tenant(), webhook, &Times::default(), None, 10).await.unwrap().items.len(), 5);
}

#[tokio::test]
async fn what_was_discarded_is_recovered_only_where_it_is_named() {
    let folder = Folder::create();
    let store = folder.store().await;
    let webhook = WebhookId::generate();
    let mut of_before = ended(webhook, 2, DeliveryState::Failed);
    of_before.fault = Some((Fault::Discarded, "it waited when the webhook was enabled to start anew".to_owned()));
    let outcomes = [
        ended(webhook, 1, DeliveryState::Discarded),
        of_before,
        ended(webhook, 3, DeliveryState::Failed),
        ended(webhook, 4, DeliveryState::Expired),
    ];
    store.record(&outcomes).await.unwrap();
    let plain = recovery(webhook, PayloadMode::Original);
    store.create_recovery(&plain).await.unwrap();
    assert_eq!(walk(&store, 10).await, ["3", "4"]);
    let mut named = recovery(webhook, PayloadMode::Original);
    named.statuses = vec![DeliveryState::Discarded];
    store.create_recovery(&named).await.unwrap();
    assert_eq!(walk(&store, 10).await, ["1", "2"]);
}
