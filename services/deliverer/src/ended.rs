//! Deliveries that end without an attempt, though they waited for one.

use std::time::Duration;

use shopery_model::{DeliveryId, DeliveryState, Fault, JobMeta, Outcome};
use shopery_queue::Lookup;
use time::OffsetDateTime;

use crate::attempt::without_attempt;

/// Why a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Deleted,
    Discarded,
    Expired,
    /// The endpoint has accepted newer by this delivery.
    Superseded(DeliveryId),
    /// What would be sent does not match the webhook's filter.
    NotMatching,
}

impl End {
    /// Of a job that was parked at `at`; `None` if it goes on waiting or is sent.
    pub(crate) fn of_parked(
        webhook: &Lookup,
        at: OffsetDateTime,
        now: OffsetDateTime,
        max_age: Duration,
    ) -> Option<Self> {
        Self::of_waiting(webhook, at).or_else(|| (now - at > max_age).then_some(Self::Expired))
    }

    /// Of a job that has waited for its next attempt.
    pub(crate) fn of_scheduled(webhook: &Lookup, job: &JobMeta) -> Option<Self> {
        Self::of_waiting(webhook, job.failed_at.unwrap_or_else(|| job.delivery.created_at()))
    }

    /// A webhook of which nothing is known may still become known: what is for it goes on waiting.
    fn of_waiting(webhook: &Lookup, since: OffsetDateTime) -> Option<Self> {
        match webhook {
            Lookup::Deleted => Some(Self::Deleted),
            Lookup::Found(webhook) if webhook.discards(since) => Some(Self::Discarded),
            Lookup::Found(_) | Lookup::Unknown => None,
        }
    }

    pub(crate) fn outcome(self, job: JobMeta) -> Outcome {
        let (state, why) = match self {
            Self::Deleted => {
                (DeliveryState::Failed, Some((Fault::WebhookDeleted, "the webhook was deleted before the attempt")))
            }
            Self::Discarded => (
                DeliveryState::Discarded,
                Some((Fault::Discarded, "it waited when the webhook was enabled to start anew")),
            ),
            Self::Expired => (DeliveryState::Expired, None),
            Self::Superseded(carrier) => {
                return Outcome { carried_by: Some(carrier), ..without_attempt(job, DeliveryState::Superseded, None) };
            }
            Self::NotMatching => (
                DeliveryState::Filtered,
                Some((Fault::FilterNotMatched, "the state that would be sent does not match the webhook's filter")),
            ),
        };
        without_attempt(job, state, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shopery_model::{Extensions, TenantId, Webhook, WebhookId};
    use std::sync::Arc;
    use time::macros::datetime;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn webhook(discard_before: Option<OffsetDateTime>) -> Lookup {
        let json = r#"{"id":"wbh_01HA4XCG60CT4G3EWF4CKYM1MF","tenant":"t","url":"https://a.example/","events":["*"],
            "isEnabled":true,"secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw","updatedAt":"2026-11-24T10:00:00Z"}"#;
        Lookup::Found(Arc::new(Webhook { discard_before, ..serde_json::from_str(json).unwrap() }))
    }

    #[test]
    fn what_is_parked_ends_by_deletion_by_its_age_or_because_it_is_not_wanted_any_more() {
        let now = datetime!(2026-11-24 10:00 UTC);
        let hours = |hours: i64| now - time::Duration::hours(hours);
        for (webhook, at, end) in [
            (webhook(None), hours(1), None),
            (webhook(None), hours(25), Some(End::Expired)),
            (webhook(Some(hours(2))), hours(1), None),
            (webhook(Some(hours(2))), hours(3), Some(End::Discarded)),
            (webhook(Some(hours(2))), hours(25), Some(End::Discarded)),
            (Lookup::Deleted, hours(0), Some(End::Deleted)),
            // Absence is not deletion.
            (Lookup::Unknown, hours(1), None),
            (Lookup::Unknown, hours(25), Some(End::Expired)),
        ] {
            assert_eq!(End::of_parked(&webhook, at, now, DAY), end, "{at} {webhook:?}");
        }
    }

    /// An attempt that was made later, of a delivery that is sent again, say, goes on.
    #[test]
    fn a_retry_has_waited_since_its_last_attempt() {
        let created = datetime!(2026-11-24 10:00 UTC);
        let minutes = |minutes: i64| created + time::Duration::minutes(minutes);
        for (failed_at, discard_before, end) in [
            (None, None, None),
            (None, Some(minutes(1)), Some(End::Discarded)),
            (Some(minutes(2)), Some(minutes(1)), None),
            (Some(minutes(2)), Some(minutes(3)), Some(End::Discarded)),
        ] {
            let webhook = webhook(discard_before);
            let (tenant, id): (TenantId, _) = ("t".parse().unwrap(), WebhookId::generate());
            let job = JobMeta {
                delivery: DeliveryId::of(&tenant, "orders", "e", created, id),
                tenant,
                webhook: id,
                source: "orders".to_owned(),
                event: "e".to_owned(),
                event_type: "order-paid".parse().unwrap(),
                resource: "order/1".to_owned(),
                triggered_at: created,
                event_sequence: 1,
                changed: Vec::new(),
                stored_ns: None,
                payload_of: None,
                fields: None,
                extensions: Extensions::default(),
                may_be_stale: false,
                attempt: 2,
                resend: None,
                failed_at,
            };
            assert_eq!(End::of_scheduled(&webhook, &job), end, "{failed_at:?} {discard_before:?}");
        }
    }
}
