//! The history on a real SQLite file: what comes twice, late or out of order leaves the truth in place.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use shopery_model::{
    Attempt, AttemptId, DeliveryId, DeliveryState, Extensions, Fault, JobMeta, Outcome, Resend, TenantId, WebhookId,
};
use shopery_store::{DeliveryFilter, Store};
use time::macros::datetime;

fn tenant(id: &str) -> TenantId {
    id.parse().unwrap()
}

async fn store(folder: &std::path::Path) -> Store {
    Store::connect(&format!("sqlite://{}/history.db?mode=rwc", folder.display())).await.unwrap()
}

/// Removed when it is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn create() -> Self {
        let path = std::env::temp_dir().join(format!("shopery-store-{}", AttemptId::generate()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn outcome(webhook: WebhookId, event: &str, attempt: u32, state: DeliveryState) -> Outcome {
    let tenant = tenant("t");
    let at = datetime!(2026-11-24 10:00 UTC) + time::Duration::seconds(i64::from(attempt));
    Outcome {
        job: JobMeta {
            delivery: DeliveryId::of(&tenant, "orders", event, datetime!(2026-11-24 10:00 UTC), webhook),
            tenant,
            webhook,
            source: "orders".to_owned(),
            event: event.to_owned(),
            event_type: "order-paid".parse().unwrap(),
            resource: "order/1".to_owned(),
            triggered_at: datetime!(2026-11-24 09:59 UTC),
            event_sequence: 7,
            changed: Vec::new(),
            stored_ns: None,
            payload_of: None,
            fields: None,
            extensions: Extensions::default(),
            may_be_stale: false,
            attempt,
            resend: None,
            failed_at: None,
        },
        state,
        next_attempt_at: (state == DeliveryState::Pending).then_some(at),
        attempt: Some(Attempt {
            id: AttemptId::generate(),
            started_at: at,
            duration_ms: 3,
            url: "https://a.example/".to_owned(),
            request_bytes: 9,
            status: Some(500),
            response_body: "no".to_owned(),
            response_headers: String::new(),
            code: None,
            message_id: None,
            posted: None,
            note: None,
        }),
        fault: (state != DeliveryState::Delivered).then(|| (Fault::HttpStatus, "it answered 500".to_owned())),
        carried_by: None,
        at,
    }
}

#[tokio::test]
async fn what_is_recorded_again_changes_nothing() {
    let folder = Folder::create();
    let store = store(&folder.0).await;
    let webhook = WebhookId::generate();
    let outcomes = [
        outcome(webhook, "e", 1, DeliveryState::Pending),
        outcome(webhook, "e", 2, DeliveryState::Pending),
        outcome(webhook, "e", 3, DeliveryState::Delivered),
    ];
    for batch in [&outcomes[..], &outcomes[..1], &outcomes[1..2], &outcomes[..]] {
        store.record(batch).await.unwrap();
        let (delivery, attempts) = store.delivery(&tenant("t"), outcomes[0].job.delivery).await.unwrap().unwrap();
        assert_eq!((delivery.state.as_str(), delivery.attempt_count), ("delivered", 3));
        assert_eq!((delivery.fault, delivery.next_attempt_at), (None, None));
        assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3]);
    }
}

#[tokio::test]
async fn a_late_failure_takes_no_delivery_back() {
    let folder = Folder::create();
    let store = store(&folder.0).await;
    let webhook = WebhookId::generate();
    for (arrivals, state, count) in [
        (vec![(1, DeliveryState::Delivered), (1, DeliveryState::Pending)], "delivered", 1),
        (vec![(2, DeliveryState::Pending), (1, DeliveryState::Pending)], "pending", 2),
        (vec![(3, DeliveryState::Failed), (2, DeliveryState::Pending)], "failed", 3),
        (vec![(3, DeliveryState::Failed), (3, DeliveryState::Delivered)], "delivered", 3),
    ] {
        let event = format!("{arrivals:?}");
        for (attempt, arrived) in &arrivals {
            store.record(&[outcome(webhook, &event, *attempt, *arrived)]).await.unwrap();
        }
        let id = DeliveryId::of(&tenant("t"), "orders", &event, datetime!(2026-11-24 10:00 UTC), webhook);
        let (delivery, attempts) = store.delivery(&tenant("t"), id).await.unwrap().unwrap();
        assert_eq!((delivery.state.as_str(), delivery.attempt_count), (state, count), "{event}");
        assert_eq!(attempts.len(), arrivals.len(), "{event}");
    }
}

/// The attempts of an ordered delivery are counted elsewhere than in its job, so whoever ends it takes it for the first.
#[tokio::test]
async fn what_ends_while_it_waits_has_ended_however_often_it_was_attempted() {
    let folder = Folder::create();
    let store = store(&folder.0).await;
    let webhook = WebhookId::generate();
    for state in [DeliveryState::Discarded, DeliveryState::Expired, DeliveryState::Failed] {
        let event = state.name();
        let ended = Outcome { attempt: None, ..outcome(webhook, event, 1, state) };
        let attempted = outcome(webhook, event, 3, DeliveryState::Pending);
        for outcomes in [[&attempted, &ended], [&ended, &attempted]] {
            for outcome in outcomes {
                store.record(std::slice::from_ref(outcome)).await.unwrap();
            }
            let (delivery, _) = store.delivery(&tenant("t"), ended.job.delivery).await.unwrap().unwrap();
            assert_eq!(delivery.state, state.name());
        }
        store.record(&[outcome(webhook, event, 3, DeliveryState::Delivered)]).await.unwrap();
        let (delivery, _) = store.delivery(&tenant("t"), ended.job.delivery).await.unwrap().unwrap();
        assert_eq!(delivery.state, "delivered");
    }
}

#[tokio::test]
async fn what_was_answered_last_stays_until_another_attempt_is_answered() {
    let folder = Folder::create();
    let store = store(&folder.0).await;
    let webhook = WebhookId::generate();
    let refused = |event: &str| outcome(webhook, event, 1, DeliveryState::Pending);
    let without = |event: &str, state| Outcome { attempt: None, fault: None, ..outcome(webhook, event, 2, state) };
    for (number, batches) in [
        // In one transaction, in two, and the other way round.
        vec![vec![refused("0"), without("0", DeliveryState::Parked)]],
        vec![vec![refused("1")], vec![without("1", DeliveryState::Parked)]],
        vec![vec![without("2", DeliveryState::Expired)], vec![refused("2")]],
    ]
    .into_iter()
    .enumerate()
    {
        for batch in &batches {
            store.record(batch).await.unwrap();
        }
        let id = refused(&number.to_string()).job.delivery;
        let (delivery, _) = store.delivery(&tenant("t"), id).await.unwrap().unwrap();
        assert_eq!(delivery.response_status, Some(500), "{number}: {}", delivery.state);
    }
    let filter = DeliveryFilter {
        states: vec![DeliveryState::Parked, DeliveryState::Expired],
        response_status: Some(500),
        ..DeliveryFilter::default()
    };
    assert_eq!(store.deliveries(&tenant("t"), &filter, None, 200).await.unwrap().items.len(), 3);
    // An attempt without an answer has none, and one that is delivered was not refused.
    let mut silent = outcome(webhook, "0", 2, DeliveryState::Pending);
    silent.attempt.as_mut().unwrap().status = None;
    let mut well = outcome(webhook, "1", 2, DeliveryState::Delivered);
    well.attempt.as_mut().unwrap().status = Some(204);
    store.record(&[silent, well]).await.unwrap();
    // What is recorded once more, or late, tells nothing new.
    store.record(&[refused("0"), refused("1")]).await.unwrap();
    for (event, status) in [("0", None), ("1", Some(204))] {
        let (delivery, _) = store.delivery(&tenant("t"), refused(event).job.delivery).await.unwrap().unwrap();
        assert_eq!(delivery.response_status, status, "{event}");
    }
}

#[tokio::test]
async fn a_list_is_whole_and_in_order_page_by_page_and_of_one_tenant() {
    let folder = Folder::create();
    let store = store(&folder.0).await;
    let webhook = WebhookId::generate();
    // More than one INSERT, and many rows of the same instant.
    let outcomes: Vec<_> =
        (0..2500).map(|i| outcome(webhook, &format!("e{i}"), 1 + i % 3, DeliveryState::Delivered)).collect();
    store.record(&outcomes).await.unwrap();
    let filter = DeliveryFilter { webhook: Some(webhook), ..DeliveryFilter::default() };
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.deliveries(&tenant("t"), &filter, cursor.as_ref(), 200).await.unwrap();
        seen.extend(page.items.into_iter().map(|delivery| (delivery.created_at, delivery.id)));
        // What is written meanwhile is newer, and does not disturb.
        let mut new = outcome(webhook, "new", 9, DeliveryState::Delivered);
        let (later, event) = (datetime!(2026-11-24 10:01 UTC), format!("new{}", seen.len()));
        new.job.delivery = DeliveryId::of(&tenant("t"), "orders", &event, later, webhook);
        store.record(&[new]).await.unwrap();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 2500);
    assert!(seen.is_sorted_by(|a, b| a > b));
    let others = store.deliveries(&tenant("u"), &DeliveryFilter::default(), None, 200).await.unwrap();
    assert!(others.items.is_empty());
    assert!(store.delivery(&tenant("u"), outcomes[0].job.delivery).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_sent_again_has_the_state_of_its_last_round_and_the_attempts_of_all() {
    let folder = Folder::create();
    let store = store(&folder.0).await;
    let webhook = WebhookId::generate();
    let first = outcome(webhook, "e", 1, DeliveryState::Delivered);
    let again = |attempt, round, attempts_before, state| {
        let mut outcome = outcome(webhook, "e", attempt, state);
        outcome.job.resend = Some(Resend { round, attempts_before, payload: None });
        outcome
    };
    let asked =
        |attempt, round| Outcome { attempt: None, ..again(attempt, round, attempt - 1, DeliveryState::Pending) };
    let superseded = Outcome { attempt: None, ..again(5, 3, 4, DeliveryState::Superseded) };
    for (outcome, state, attempts, last_attempt, round) in [
        (first.clone(), "delivered", 1, 1, 0),
        (asked(2, 1), "pending", 1, 1, 1),
        (again(2, 1, 1, DeliveryState::Pending), "pending", 2, 2, 1),
        // What comes late takes nothing back: of this round, or of the one before.
        (asked(2, 1), "pending", 2, 2, 1),
        (first, "pending", 2, 2, 1),
        (again(3, 1, 1, DeliveryState::Failed), "failed", 3, 3, 1),
        (asked(4, 2), "pending", 3, 3, 2),
        (again(4, 2, 3, DeliveryState::Delivered), "delivered", 4, 4, 2),
        (again(4, 2, 3, DeliveryState::Pending), "delivered", 4, 4, 2),
        (superseded, "superseded", 4, 4, 3),
    ] {
        let what = format!("{outcome:?}");
        store.record(&[outcome]).await.unwrap();
        let (delivery, _) = store.delivery(&tenant("t"), id_of("e", webhook)).await.unwrap().unwrap();
        assert_eq!((delivery.state.as_str(), delivery.attempt_count), (state, attempts), "{what}");
        assert_eq!((delivery.last_attempt, delivery.round), (last_attempt, round), "{what}");
    }
}

fn id_of(event: &str, webhook: WebhookId) -> DeliveryId {
    DeliveryId::of(&tenant("t"), "orders", event, datetime!(2026-11-24 10:00 UTC), webhook)
}
