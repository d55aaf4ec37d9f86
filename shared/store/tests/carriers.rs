//! What a delivery carries for others ends with it, on a real SQLite file; the suite has the same on PostgreSQL, in any order.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use shopery_model::{
    AttemptId, DeliveryId, DeliveryState, Extensions, Fault, JobMeta, Outcome, Resend, TenantId, WebhookId,
};
use shopery_store::{DeliveryRecord, Recorded, Store, Windows};
use time::OffsetDateTime;
use time::macros::datetime;

const AT: OffsetDateTime = datetime!(2026-11-24 10:00 UTC);

/// A store of its own; its file goes when this is dropped.
struct History {
    store: Store,
    folder: std::path::PathBuf,
    webhook: WebhookId,
}

impl Drop for History {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl History {
    async fn create() -> Self {
        let folder = std::env::temp_dir().join(format!("shopery-carriers-{}", AttemptId::generate()));
        std::fs::create_dir(&folder).unwrap();
        let store = Store::connect(&format!("sqlite://{}/a.db?mode=rwc", folder.display())).await.unwrap();
        Self { store, folder, webhook: WebhookId::generate() }
    }

    fn id(&self, event: &str) -> DeliveryId {
        DeliveryId::of(&tenant(), "orders", event, AT, self.webhook)
    }

    fn outcome(&self, event: &str, state: DeliveryState) -> Outcome {
        Outcome {
            job: JobMeta {
                delivery: self.id(event),
                tenant: tenant(),
                webhook: self.webhook,
                source: "orders".to_owned(),
                event: event.to_owned(),
                event_type: "order-paid".parse().unwrap(),
                resource: "order/1".to_owned(),
                triggered_at: AT,
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
            at: AT + time::Duration::SECOND,
        }
    }

    fn carried(&self, event: &str, state: DeliveryState, by: &str) -> Outcome {
        Outcome { carried_by: Some(self.id(by)), ..self.outcome(event, state) }
    }

    async fn record(&self, outcome: Outcome) {
        self.store.record(&[outcome]).await.unwrap();
    }

    async fn find(&self, event: &str) -> DeliveryRecord {
        self.store.delivery(&tenant(), self.id(event)).await.unwrap().unwrap().0
    }

    /// Where it stands, and the reason if it has one.
    async fn stands(&self, event: &str) -> (String, Option<String>) {
        let found = self.find(event).await;
        (found.state, found.fault.map(|(reason, _)| reason))
    }
}

fn tenant() -> TenantId {
    "t".parse().unwrap()
}

fn failed() -> (String, Option<String>) {
    ("failed".to_owned(), Some("carrier_failed".to_owned()))
}

fn as_it_was(state: &str) -> (String, Option<String>) {
    (state.to_owned(), None)
}

#[tokio::test]
async fn what_is_carried_fails_with_its_carrier_whichever_is_recorded_first() {
    use DeliveryState::{Delivered, Discarded, Duplicate, Expired, Failed, Filtered, Parked, Pending, Superseded};
    let not_matched = Some((Fault::FilterNotMatched, "the state does not match".to_owned()));
    for (end, fault, is_undelivered) in [
        (Failed, None, true),
        (Expired, None, true),
        (Discarded, None, true),
        // As a deliverer of before says it.
        (Failed, Some((Fault::Discarded, "it waited".to_owned())), true),
        // It was found at the attempt, when others relied on it already; what a router filters carries nothing.
        (Filtered, not_matched, true),
        (Filtered, None, false),
        (Delivered, None, false),
        (Pending, None, false),
        (Parked, None, false),
    ] {
        for is_carrier_first in [true, false] {
            let history = History::create().await;
            let carrier = Outcome { fault: fault.clone(), ..history.outcome("c", end) };
            let carried = [history.carried("d", Duplicate, "c"), history.carried("s", Superseded, "c")];
            let none_of_it = history.carried("n", Duplicate, "other");
            let mut order = carried.to_vec();
            order.insert(if is_carrier_first { 0 } else { 2 }, carrier.clone());
            order.push(none_of_it);
            // What is recorded again changes nothing.
            for outcome in order.iter().chain(&order) {
                history.record(outcome.clone()).await;
            }
            for (event, state) in [("d", "duplicate"), ("s", "superseded")] {
                let expected = if is_undelivered { failed() } else { as_it_was(state) };
                assert_eq!(history.stands(event).await, expected, "{end:?} {fault:?} {is_carrier_first}");
                let found = history.find(event).await;
                assert_eq!(found.carried_by, Some(history.id("c").to_string()));
                if let Some((_, detail)) = found.fault {
                    assert!(detail.contains(&history.id("c").to_string()), "{detail}");
                }
            }
            assert_eq!(history.stands("n").await, as_it_was("duplicate"));
            // In one batch it is the same.
            let history = History::create().await;
            let carrier = Outcome { fault: fault.clone(), ..history.outcome("c", end) };
            let batch = [history.carried("d", Duplicate, "c"), carrier];
            history.store.record(&batch).await.unwrap();
            let expected = if is_undelivered { failed() } else { as_it_was("duplicate") };
            assert_eq!(history.stands("d").await, expected, "{end:?} {fault:?}");
        }
    }
}

#[tokio::test]
async fn what_the_carried_one_carries_fails_too() {
    let history = History::create().await;
    let name = |number: usize| format!("e{number:03}");
    // The last one is recorded first, or the middle, or the first.
    for (run, first) in [0, 20, 39].into_iter().enumerate() {
        let chain: Vec<_> = (0..40).map(|number| name(run * 100 + number)).collect();
        let outcome = |number: usize| match number {
            0 => history.outcome(&chain[0], DeliveryState::Expired),
            _ => history.carried(&chain[number], DeliveryState::Superseded, &chain[number - 1]),
        };
        for number in (first..40).chain(0..first) {
            history.record(outcome(number)).await;
        }
        for event in &chain[1..] {
            assert_eq!(history.stands(event).await, failed(), "{event}");
        }
    }
}

#[tokio::test]
async fn a_carried_one_that_is_sent_again_has_the_state_of_that_and_a_carrier_that_is_saves_nobody() {
    let history = History::create().await;
    history.record(history.carried("d", DeliveryState::Duplicate, "c")).await;
    history.record(history.carried("e", DeliveryState::Duplicate, "c")).await;
    history.record(history.outcome("c", DeliveryState::Failed)).await;
    let again = |mut outcome: Outcome, round| {
        outcome.job.attempt = round + 1;
        outcome.job.resend = Some(Resend { round, attempts_before: round, payload: None });
        outcome
    };
    history.record(again(history.outcome("c", DeliveryState::Delivered), 1)).await;
    assert_eq!(history.stands("d").await, failed(), "nobody has sent it");
    history.record(again(history.outcome("d", DeliveryState::Pending), 1)).await;
    assert_eq!(history.stands("d").await, as_it_was("pending"));
    history.record(again(history.outcome("d", DeliveryState::Delivered), 1)).await;
    history.record(history.carried("d", DeliveryState::Duplicate, "c")).await;
    assert_eq!(history.stands("d").await, as_it_was("delivered"));
    // Carried by a recovery, it fails with the one that was sent then, in its new round.
    history.record(again(history.carried("e", DeliveryState::Superseded, "d"), 1)).await;
    assert_eq!(history.stands("e").await, as_it_was("superseded"));
    history.record(again(history.outcome("d", DeliveryState::Failed), 2)).await;
    assert_eq!(history.stands("e").await, failed());
    assert_eq!(history.find("e").await.round, 1);
}

/// The deliverer finds at an attempt that there is nothing to send any more: what waited for it has ended.
#[tokio::test]
async fn an_end_that_is_found_at_an_attempt_ends_what_waited_for_it() {
    use DeliveryState::{Delivered, Filtered, Parked, Pending, Superseded};
    let history = History::create().await;
    let of = |attempt, state| {
        let mut outcome = history.outcome("e", state);
        outcome.job.attempt = attempt;
        outcome
    };
    for waiting in [of(1, Parked), of(1, Pending), of(2, Parked)] {
        for end in [Superseded, Filtered] {
            let mut history = History::create().await;
            history.webhook = waiting.job.webhook;
            // A failed attempt is waited for its successor; what is parked waits for its own number.
            let attempt = waiting.job.attempt + u32::from(waiting.state == Pending);
            history.record(waiting.clone()).await;
            history.record(of(attempt, end)).await;
            history.record(waiting.clone()).await;
            assert_eq!(history.find("e").await.state, end.name(), "{waiting:?}");
            // What came of the attempt knows better.
            history.record(of(attempt, Delivered)).await;
            history.record(of(attempt, end)).await;
            assert_eq!(history.find("e").await.state, "delivered");
        }
    }
}

#[tokio::test]
async fn an_end_is_counted_once_though_its_carrier_fails_later() {
    let history = History::create().await;
    let outcomes =
        [history.carried("d", DeliveryState::Duplicate, "c"), history.outcome("c", DeliveryState::Failed), {
            // As a deliverer of before says it.
            let fault = Some((Fault::Discarded, "it waited".to_owned()));
            Outcome { fault, ..history.outcome("x", DeliveryState::Failed) }
        }];
    for (sequence, outcome) in (1..).zip(&outcomes) {
        let outcomes = std::slice::from_ref(outcome);
        history.store.record_messages(&[Recorded { sequence, at: AT, outcomes }]).await.unwrap();
    }
    assert_eq!(history.stands("d").await, failed());
    assert_eq!(history.find("x").await.state, "discarded");
    let windows = Windows { from: AT, step: std::time::Duration::from_secs(60), count: 1 };
    let counts = history.store.counts(&tenant(), None, windows, windows.from).await.unwrap();
    let states = counts[&0].states().into_iter().collect::<Vec<_>>();
    assert_eq!(states, [("discarded", 1), ("duplicate", 1), ("failed", 1)]);
}

#[tokio::test]
async fn a_delivery_knows_the_source_of_its_event() {
    let history = History::create().await;
    let mut of_before = history.outcome("e", DeliveryState::Pending);
    of_before.job.source = String::new();
    history.record(of_before).await;
    assert_eq!(history.find("e").await.source, None);
    history.record(history.outcome("e", DeliveryState::Delivered)).await;
    assert_eq!(history.find("e").await.source.as_deref(), Some("orders"));
}
