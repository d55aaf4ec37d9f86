//! Payloads that tell a receiver nothing new: the same as the previous one to the same webhook for the same resource,
//! with one of the same event type before it, within the window. A payload that comes back after another (5, 4, 5) is
//! news, whichever events they were.
//!
//! Invariant: a payload is dropped only if the endpoint, as it is now, has accepted the same, or is still going to get it.
//! - Deliverers announce which deliveries have ended without that; what was sent before the webhook's URL or secret changed,
//!   or before it was enabled, does not count.
//! - A retry may send a newer state in place of its own event's. So we also remember the states that have no delivery for this
//!   webhook, or none yet, if their payload differs: a delivery from before such a state carries no event after it.
//!
//! Rejected: to drop only what the endpoint is known to have accepted. Then no event of a burst would be dropped.
//!
//! The memory belongs to one partition, and is bounded: after a partition got another owner, or when more than
//! [`MAX_KEYS`] of its resources change within the window, an identical payload may be sent once more. What is remembered is
//! what was decided, not what was stored: an event that is routed again meets its own decision, so it is never a
//! duplicate of itself, and what it carries for others is still sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use shopery_model::{DeliveryId, Event, EventType, Job, Webhook, WebhookId};
use shopery_queue::Recent;
use time::OffsetDateTime;

const MAX_KEYS: usize = 50_000;
/// Remembered of one key: more matter only if events are routed long after those that came behind them, or if more types
/// than these tell the same.
const MAX_SENT: usize = 8;
/// Undelivered deliveries that are remembered: as many as may fail within a window, and no more than fit.
const MAX_UNDELIVERED: usize = 100_000;

#[derive(Debug)]
pub(crate) struct Duplicates {
    sent: Recent<u128, AllSent>,
    undelivered: Arc<Undelivered>,
    /// The value of [`Undelivered::gaps`] since which `sent` is valid.
    gap: AtomicU64,
    window: Duration,
}

/// Deliveries that carry nothing, as announced by the deliverers. All partitions of a process share it.
#[derive(Debug)]
pub(crate) struct Undelivered {
    known: Recent<DeliveryId, ()>,
    /// How often we may have missed announcements.
    gaps: AtomicU64,
}

impl Default for Undelivered {
    fn default() -> Self {
        Self { known: Recent::new(MAX_UNDELIVERED), gaps: AtomicU64::new(0) }
    }
}

impl Undelivered {
    pub(crate) fn note(&self, deliveries: Vec<DeliveryId>) {
        for delivery in deliveries {
            self.known.update(delivery, |_| ((), Some(())));
        }
    }

    /// Announcements may have been missed, so no delivery from before carries anything.
    pub(crate) fn note_gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    fn contains(&self, delivery: DeliveryId) -> bool {
        self.known.update(delivery, |known| (known.is_some(), None))
    }
}

/// From where on a delivery can carry another.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Since {
    /// Behind this place in EVENTS.
    pub(crate) sequence: u64,
    /// Stored after this time.
    pub(crate) at: Option<OffsetDateTime>,
}

impl Since {
    fn allows(self, sent: &Sent) -> bool {
        sent.sequence > self.sequence && self.at.is_none_or(|at| at < sent.at)
    }
}

/// What one webhook was sent of one resource, in the order of EVENTS.
#[derive(Debug, Clone)]
struct AllSent(Box<[Sent]>);

/// A payload that was sent, or that a retry may send in place of an older one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sent {
    payload: u128,
    event_type: EventType,
    /// `None` if the event has no delivery, or none yet.
    delivery: Option<DeliveryId>,
    /// The event's place in EVENTS, and since when it is there.
    sequence: u64,
    at: OffsetDateTime,
}

impl Duplicates {
    /// `None` if the window is zero.
    pub(crate) fn within(window: Duration, undelivered: &Arc<Undelivered>) -> Option<Self> {
        let gap = undelivered.gaps.load(Ordering::Relaxed).into();
        let (sent, undelivered) = (Recent::new(MAX_KEYS), undelivered.clone());
        (!window.is_zero()).then_some(Self { sent, undelivered, gap, window })
    }

    /// This delivery carries nothing.
    pub(crate) fn forget(&self, delivery: DeliveryId) {
        self.undelivered.note(vec![delivery]);
    }

    /// The delivery that carries the payload of this job; `None` if the job itself does. `at` is when EVENTS stored it.
    pub(crate) fn carrier(&self, job: &Job, at: OffsetDateTime, since: Since) -> Option<DeliveryId> {
        let meta = &job.meta;
        let this = Sent {
            payload: hash(&[&job.payload]),
            event_type: meta.event_type,
            delivery: Some(meta.delivery),
            sequence: meta.event_sequence,
            at,
        };
        let gaps = self.undelivered.gaps.load(Ordering::Relaxed);
        if self.gap.swap(gaps, Ordering::Relaxed) != gaps {
            self.sent.clear();
        }
        let carries = |before: &Sent, delivery| {
            since.allows(before) && at - before.at <= self.window && !self.undelivered.contains(delivery)
        };
        self.sent.update(key(meta.webhook, &meta.resource), |known| match known {
            Some(known) => known.place(this, carries),
            None => (None, Some(AllSent([this].into()))),
        })
    }

    /// Remembers a state that has no delivery for this webhook, or none yet.
    pub(crate) fn note_other(&self, webhook: &Webhook, event: &Event, sequence: u64, at: OffsetDateTime) {
        self.sent.update(key(webhook.id, &event.resource.to_string()), |known| {
            let other = || Sent {
                payload: hash(&[&webhook.rules.project(&event.data)]),
                event_type: event.event_type,
                delivery: None,
                sequence,
                at,
            };
            ((), known.and_then(|known| known.with_other(other())))
        });
    }
}

impl AllSent {
    /// The carrier, if it is another; and all that was sent as it is now, if that changed it.
    fn place(&self, this: Sent, carries: impl Fn(&Sent, DeliveryId) -> bool) -> (Option<DeliveryId>, Option<Self>) {
        let place = self.0.partition_point(|known| known.sequence < this.sequence);
        let known = self.0.get(place).filter(|known| known.sequence == this.sequence);
        if known.is_some_and(|known| known.delivery.is_some()) {
            // The event is routed again. Its payload may differ, because the webhook's rules have changed.
            return (None, (known != Some(&this)).then(|| self.with(place, this)));
        }
        let told_before = self.0[..place].iter().rev().take_while(|before| before.payload == this.payload);
        let mut carriers = told_before.filter(|before| before.event_type == this.event_type);
        let carrier = carriers.find_map(|before| Some((before, before.delivery?)));
        if let Some((before, delivery)) = carrier
            && carries(before, delivery)
        {
            return (Some(delivery), known.is_some().then(|| self.without(place)));
        }
        (None, Some(self.with(place, this)))
    }

    /// With a state that has no delivery, if its payload differs from the one before it.
    fn with_other(&self, other: Sent) -> Option<Self> {
        let place = self.0.partition_point(|known| known.sequence < other.sequence);
        let is_known = self.0.get(place).is_some_and(|known| known.sequence == other.sequence);
        let before = place.checked_sub(1).map(|before| self.0[before]);
        let is_news = before.is_some_and(|before| before.payload != other.payload);
        (is_news && !is_known).then(|| self.with(place, other))
    }

    /// Replaces the entry of the same sequence.
    fn with(&self, place: usize, this: Sent) -> Self {
        let mut sent = self.0.to_vec();
        match sent.get_mut(place) {
            Some(known) if known.sequence == this.sequence => *known = this,
            _ => sent.insert(place, this),
        }
        let surplus = sent.len().saturating_sub(MAX_SENT);
        Self(sent.split_off(surplus).into())
    }

    fn without(&self, place: usize) -> Self {
        Self(self.0[..place].iter().chain(&self.0[place + 1..]).copied().collect())
    }
}

fn key(webhook: WebhookId, resource: &str) -> u128 {
    hash(&[webhook.to_string().as_bytes(), resource.as_bytes()])
}

/// 128 bits of SHA-256 over parts and their lengths.
fn hash(parts: &[&[u8]]) -> u128 {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut bits = [0; 16];
    bits.copy_from_slice(&context.finish().as_ref()[..16]);
    u128::from_be_bytes(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use shopery_model::{Extensions, JobMeta, WebhookId};

    const WINDOW: Duration = Duration::from_secs(600);

    /// The job of the event at this place of EVENTS, where an event is stored each second.
    fn job(sequence: u64, webhook: WebhookId, payload: &'static str) -> (Job, OffsetDateTime) {
        let at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(sequence);
        let (tenant, event) = ("t".parse().unwrap(), sequence.to_string());
        let meta = JobMeta {
            delivery: DeliveryId::of(&tenant, "orders", &event, at, webhook),
            tenant,
            webhook,
            source: "orders".to_owned(),
            event,
            event_type: "order-paid".parse().unwrap(),
            resource: "order/1".into(),
            triggered_at: at,
            event_sequence: sequence,
            changed: Vec::new(),
            stored_ns: None,
            payload_of: None,
            fields: None,
            extensions: Extensions::default(),
            may_be_stale: false,
            attempt: 1,
            resend: None,
            failed_at: None,
        };
        (Job { meta, payload: Bytes::from_static(payload.as_bytes()) }, at)
    }

    fn webhook() -> Webhook {
        let json = r#"{"id":"wbh_01HA4XCG60CT4G3EWF4CKYM1MF","tenant":"t","url":"https://a.example/","events":["*"],
            "isEnabled":true,"secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw","updatedAt":"2026-11-24T10:00:00Z"}"#;
        serde_json::from_str(json).unwrap()
    }

    fn event(data: &'static str) -> Event {
        let json = br#"{"specversion":"1.0","id":"e","source":"orders","type":"order-refunded","subject":"order/1","data":{}}"#;
        let event = Event::parse_stored(&Bytes::from_static(json), OffsetDateTime::UNIX_EPOCH).unwrap();
        Event { data: Bytes::from_static(data.as_bytes()), ..event }
    }

    /// Each row: payloads and where EVENTS has them, in the order in which they are routed, each with the place of the
    /// one that carries it.
    #[test]
    fn a_payload_is_carried_by_the_first_of_its_run() {
        let rows: [&[(u64, &'static str, u64)]; _] = [
            &[(1, "a", 1), (2, "a", 1), (3, "a", 1)],
            &[(1, "a", 1), (2, "b", 2), (3, "a", 3), (4, "a", 3)],
            // Routed again, each is what it was.
            &[(1, "a", 1), (2, "a", 1), (3, "b", 3), (2, "a", 1), (1, "a", 1), (3, "b", 3)],
            // The window begins with the first, so something is sent in each.
            &[(1, "a", 1), (600, "a", 1), (601, "a", 1), (602, "a", 602), (603, "a", 602)],
            // Routed late: another has been sent for what came after it.
            &[(1, "a", 1), (3, "b", 3), (2, "a", 1), (4, "b", 3)],
        ];
        for row in rows {
            let (duplicates, webhook) = (Duplicates::within(WINDOW, &Arc::default()).unwrap(), WebhookId::generate());
            for (sequence, payload, carrier) in row {
                let (this, at) = job(*sequence, webhook, payload);
                let expected = (sequence != carrier).then(|| job(*carrier, webhook, payload).0.meta.delivery);
                assert_eq!(duplicates.carrier(&this, at, Since::default()), expected, "{sequence} of {row:?}");
            }
        }
    }

    #[test]
    fn a_payload_that_comes_back_is_news_whichever_event_came_between() {
        let (duplicates, webhook) = (Duplicates::within(WINDOW, &Arc::default()).unwrap(), WebhookId::generate());
        let id = |sequence| Some(job(sequence, webhook, "").0.meta.delivery);
        for (sequence, event_type, payload, carrier) in [
            (1, "order-updated", "a", None),
            (2, "order-paid", "a", None),
            (3, "order-updated", "a", id(1)),
            (4, "order-paid", "b", None),
            (5, "order-updated", "a", None),
            (6, "order-updated", "a", id(5)),
            (7, "order-paid", "a", None),
        ] {
            let (mut this, at) = job(sequence, webhook, payload);
            this.meta.event_type = event_type.parse().unwrap();
            assert_eq!(duplicates.carrier(&this, at, Since::default()), carrier, "{sequence}");
        }
    }

    /// Each row: payloads and where EVENTS has them, as above. `None`: nothing is sent of it, or nothing yet.
    #[test]
    fn what_was_sent_before_another_state_carries_nothing_after_it() {
        let rows: [&[(u64, &'static str, Option<u64>)]; _] = [
            &[(1, "a", Some(1)), (2, "b", None), (3, "a", Some(3)), (4, "a", Some(3))],
            // It tells the same.
            &[(1, "a", Some(1)), (2, "a", None), (3, "a", Some(1)), (4, "b", None), (5, "a", Some(5))],
            &[(1, "a", Some(1)), (2, "b", None), (3, "a", None), (4, "a", Some(4)), (5, "a", Some(4))],
            // Decided later: sent, or dropped itself.
            &[(1, "a", Some(1)), (2, "b", None), (3, "a", Some(3)), (2, "b", Some(2)), (4, "a", Some(3))],
            &[(2, "a", Some(2)), (3, "a", None), (1, "b", Some(1)), (3, "a", Some(2)), (4, "a", Some(2))],
            &[(2, "b", Some(2)), (3, "a", None), (1, "b", Some(1)), (3, "a", Some(3)), (4, "a", Some(3))],
            // Routed again.
            &[(1, "a", Some(1)), (2, "b", None), (2, "b", None), (1, "a", Some(1)), (3, "a", Some(3)), (3, "a", None)],
            &[(1, "a", None), (2, "a", Some(2))],
        ];
        for row in rows {
            let (duplicates, webhook) = (Duplicates::within(WINDOW, &Arc::default()).unwrap(), webhook());
            for (sequence, payload, carrier) in row {
                let (this, at) = job(*sequence, webhook.id, payload);
                let Some(carrier) = carrier else {
                    duplicates.note_other(&webhook, &event(payload), *sequence, at);
                    continue;
                };
                let expected = (sequence != carrier).then(|| job(*carrier, webhook.id, payload).0.meta.delivery);
                assert_eq!(duplicates.carrier(&this, at, Since::default()), expected, "{sequence} of {row:?}");
            }
        }
    }

    #[test]
    fn only_what_the_endpoint_has_or_gets_carries_another() {
        let (duplicates, webhook) = (Duplicates::within(WINDOW, &Arc::default()).unwrap(), WebhookId::generate());
        let carrier = |sequence, since| {
            let (this, at) = job(sequence, webhook, "a");
            duplicates.carrier(&this, at, since)
        };
        let id = |sequence| Some(job(sequence, webhook, "a").0.meta.delivery);
        let none = Since::default();
        assert_eq!((carrier(1, none), carrier(2, none)), (None, id(1)));
        duplicates.forget(id(1).unwrap());
        assert_eq!((carrier(3, none), carrier(4, none)), (None, id(3)));
        // Routed again, a delivery is no duplicate of itself, even if it has failed.
        assert_eq!(carrier(1, none), None);
        let changed = Since { at: Some(job(4, webhook, "a").1), ..none };
        assert_eq!((carrier(5, changed), carrier(6, changed)), (None, id(5)));
        let deleted = Since { sequence: 6, ..none };
        assert_eq!((carrier(7, deleted), carrier(8, deleted)), (None, id(7)));
        duplicates.undelivered.note_gap();
        assert_eq!(carrier(9, none), None);
    }

    #[test]
    fn another_webhook_resource_or_event_type_is_another_matter() {
        let (duplicates, webhook) = (Duplicates::within(WINDOW, &Arc::default()).unwrap(), WebhookId::generate());
        let (first, at) = job(1, webhook, "a");
        assert_eq!(duplicates.carrier(&first, at, Since::default()), None);
        let (second, at) = job(2, webhook, "a");
        let of = |change: &dyn Fn(&mut JobMeta)| {
            let mut job = second.clone();
            change(&mut job.meta);
            duplicates.carrier(&job, at, Since::default())
        };
        assert_eq!(of(&|meta| meta.webhook = WebhookId::generate()), None);
        assert_eq!(of(&|meta| meta.resource = "order/2".into()), None);
        assert_eq!(of(&|meta| meta.event_type = "order-updated".parse().unwrap()), None);
        let (third, at) = job(3, webhook, "a");
        assert_eq!(duplicates.carrier(&third, at, Since::default()), Some(first.meta.delivery));
        assert!(Duplicates::within(Duration::ZERO, &Arc::default()).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (duplicates, webhook) = (Duplicates::within(WINDOW, &Arc::default()).unwrap(), WebhookId::generate());
        for sequence in 1..=100 {
            let (this, at) = job(sequence, webhook, if sequence % 2 == 0 { "a" } else { "b" });
            assert_eq!(duplicates.carrier(&this, at, Since::default()), None);
        }
        let meta = job(1, webhook, "a").0.meta;
        let sent = duplicates.sent.update(key(webhook, &meta.resource), |known| (known.cloned().unwrap(), None));
        assert_eq!(sent.0.len(), MAX_SENT);
        assert_eq!(sent.0[MAX_SENT - 1].sequence, 100);
    }
}
