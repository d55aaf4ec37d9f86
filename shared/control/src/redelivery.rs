//! Putting a delivery back into the queue, which a person or a recovery asks for.
//!
//! The delivery keeps its id, which is the receiver's `webhook-id`. Its attempts are numbered on, its retry schedule
//! begins anew, and its state is that of the new round.

use anyhow::Context;
use shopery_model::{
    DeliveryId, DeliveryState, Event, EventType, Extensions, Job, JobMeta, Lane, Outcome, PayloadMode, Resend, Rules,
    StateVersion,
};
use shopery_queue::{Outgoing, Queue, subject};
use shopery_store::{DeliveryRecord, WebhookRecord};

/// Rounds of one delivery: its row grows with each.
pub const MAX_ROUNDS: u32 = 50;

/// Whether a job of the delivery is somewhere, so that another one would be one too many.
pub fn is_under_way(delivery: &DeliveryRecord) -> bool {
    [DeliveryState::Pending, DeliveryState::Parked].iter().any(|state| state.name() == delivery.state)
}

/// The job that begins the next round of a delivery; `None` if EVENTS no longer holds what it would carry. `asked` is
/// in place of the webhook's `payload`.
pub async fn redelivery_job(
    queue: &Queue,
    webhook: &WebhookRecord,
    delivery: &DeliveryRecord,
    asked: Option<PayloadMode>,
) -> anyhow::Result<Option<Job>> {
    let tenant = &webhook.tenant;
    let mut meta = redelivery_meta(webhook, delivery, asked)?;
    // Were EVENTS made anew, another event would be at this place.
    let own = queue
        .state_at(delivery.event_sequence)
        .await?
        .filter(|state| state.tenant == *tenant && is_of(&state.event, &meta));
    let Some(own) = own else {
        // What EVENTS has given up may have been followed by what it still has.
        let latest = match asked.unwrap_or(webhook.rules.payload) {
            PayloadMode::Latest => queue.latest_state(tenant, &delivery.resource).await?,
            PayloadMode::Original => None,
        };
        let Some(latest) = latest.filter(|latest| may_stand_in(&latest.event, latest.version, &meta, &webhook.rules))
        else {
            return Ok(None);
        };
        if !is_of(&latest.event, &meta) {
            meta.payload_of = Some(latest.payload_event());
        }
        return Ok(Some(Job { meta, payload: webhook.rules.project(&latest.event.data) }));
    };
    if let Some(paths) = &webhook.rules.changed {
        let previous = queue.previous_state(tenant, &delivery.resource, own.sequence).await?;
        let previous = previous.as_ref().map(|state| state.event.data.as_ref());
        meta.changed = paths.between(previous, &own.event.data).into_iter().map(str::to_owned).collect();
    }
    // The history keeps milliseconds.
    meta.triggered_at = own.event.time;
    meta.stored_ns = i64::try_from(own.version.stored_at().unix_timestamp_nanos()).ok();
    // Rows of before have no source, and none has the extensions.
    meta.source.clone_from(&own.event.source);
    meta.extensions.clone_from(&own.event.extensions);
    // Whether a newer state is sent in its place is decided at the attempt, where all of that is decided.
    Ok(Some(Job { meta, payload: webhook.rules.project(&own.event.data) }))
}

/// Whether it is the event of the delivery. Rows of before have no source.
fn is_of(event: &Event, meta: &JobMeta) -> bool {
    event.id == meta.event && (meta.source.is_empty() || event.source == meta.source)
}

/// Whether the latest state of the resource is sent in place of that of the delivery's event, which is no longer held. A
/// deletion is never sent under another name, nor another state under its name; a debounced delivery has the name and the
/// state of one event.
fn may_stand_in(latest: &Event, version: StateVersion, meta: &JobMeta, rules: &Rules) -> bool {
    let is_deletion = latest.event_type.is_deletion() || meta.event_type.is_deletion();
    is_of(latest, meta) || (version >= meta.version() && !is_deletion && rules.debounce.is_none())
}

/// The next round of a delivery.
pub fn redelivery_meta(
    webhook: &WebhookRecord,
    delivery: &DeliveryRecord,
    asked: Option<PayloadMode>,
) -> anyhow::Result<JobMeta> {
    let round = delivery.round + 1;
    Ok(JobMeta {
        delivery: delivery.id.parse().context("a delivery's id")?,
        tenant: webhook.tenant.clone(),
        webhook: webhook.id,
        source: delivery.source.clone().unwrap_or_default(),
        event: delivery.event_id.clone(),
        event_type: EventType::of_stored(&delivery.event_type).context("a delivery's event type")?,
        resource: delivery.resource.clone(),
        triggered_at: delivery.triggered_at,
        event_sequence: delivery.event_sequence,
        changed: Vec::new(),
        stored_ns: None,
        payload_of: None,
        fields: webhook.rules.fields.as_ref().map(|fields| fields.paths().to_vec()),
        extensions: Extensions::default(),
        may_be_stale: false,
        attempt: delivery.last_attempt + 1,
        failed_at: None,
        resend: Some(Resend { round, attempts_before: delivery.last_attempt, payload: asked }),
    })
}

/// Its id is that of the round: whoever asks twice before the history knows of the first is not sent it twice.
pub fn message(job: &Job) -> Outgoing {
    let subject = subject::job(Lane::Bulk, &job.meta.tenant, job.meta.webhook);
    Outgoing::new(subject, job.encode()).with_id(job.meta.key())
}

/// What the history says until the first attempt of the new round.
pub fn requested(job: JobMeta) -> Outcome {
    let now = shopery_queue::now();
    Outcome { next_attempt_at: Some(now), ..without_attempt(job, DeliveryState::Pending, None) }
}

/// What the history says of a delivery that another one carries from now on.
pub fn superseded(job: JobMeta, carrier: DeliveryId) -> Outcome {
    without_attempt(job, DeliveryState::Superseded, Some(carrier))
}

fn without_attempt(job: JobMeta, state: DeliveryState, carried_by: Option<DeliveryId>) -> Outcome {
    let at = shopery_queue::now();
    Outcome { job, state, next_attempt_at: None, attempt: None, fault: None, carried_by, at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use time::macros::datetime;

    const STORED: time::OffsetDateTime = datetime!(2026-11-24 10:00:00.000_4 UTC);

    fn event(id: &str, kind: &str, seconds: i64) -> Event {
        let at = STORED + time::Duration::seconds(seconds);
        let time = at.format(&time::format_description::well_known::Rfc3339).unwrap();
        let event = serde_json::json!({
            "specversion": "1.0", "id": id, "source": "orders", "type": kind, "subject": "order/1", "time": time, "data": {},
        });
        Event::parse_stored(&Bytes::from(event.to_string()), at).unwrap()
    }

    fn delivery(event: &Event, source: Option<&str>) -> DeliveryRecord {
        let webhook = crate::testing::webhook();
        DeliveryRecord {
            id: DeliveryId::of(&webhook.tenant, "orders", &event.id, STORED, webhook.id).to_string(),
            webhook_id: webhook.id.to_string(),
            event_id: event.id.clone(),
            source: source.map(str::to_owned),
            event_type: event.event_type.to_string(),
            resource: event.resource.to_string(),
            event_sequence: 7,
            state: "failed".to_owned(),
            attempt_count: 3,
            last_attempt: 3,
            round: 1,
            fault: None,
            response_status: None,
            triggered_at: event.time,
            next_attempt_at: None,
            carried_by: None,
            created_at: STORED,
            updated_at: STORED,
        }
    }

    #[test]
    fn the_next_round_knows_its_event_by_source_and_id() {
        let (webhook, paid) = (crate::testing::webhook(), event("e1", "order-paid", 0));
        let meta = redelivery_meta(&webhook, &delivery(&paid, Some("orders")), None).unwrap();
        assert_eq!((meta.source.as_str(), meta.attempt, meta.round()), ("orders", 4, 2));
        assert!(is_of(&paid, &meta));
        let other = Event { source: "shop".to_owned(), ..paid.clone() };
        assert!(!is_of(&other, &meta), "the same id of another source is another event");
        let of_before = redelivery_meta(&webhook, &delivery(&paid, None), None).unwrap();
        assert!(of_before.source.is_empty() && is_of(&other, &of_before));
    }

    #[test]
    fn a_state_stands_in_for_an_older_one_and_a_deletion_for_none() {
        let webhook = crate::testing::webhook();
        let debounced = Rules { debounce: Some("5s".parse().unwrap()), ..Rules::default() };
        let (paid, deleted) = (event("e1", "order-paid", 0), event("e1", "order-deleted", 0));
        for (own, latest, is_taken) in [
            (&paid, event("e2", "order-updated", 1), true),
            (&paid, event("e0", "order-updated", -1), false),
            (&paid, event("e2", "order-deleted", 1), false),
            (&deleted, event("e2", "order-created", 1), false),
            // Its own, published again behind a late one.
            (&paid, paid.clone(), true),
            (&deleted, deleted.clone(), true),
        ] {
            let meta = redelivery_meta(&webhook, &delivery(own, Some("orders")), None).unwrap();
            let (stored_at, is_own) = (Ord::max(latest.time, STORED), latest == *own);
            let version = latest.version(stored_at, 9);
            assert_eq!(may_stand_in(&latest, version, &meta, &Rules::default()), is_taken, "{own:?} {latest:?}");
            assert_eq!(may_stand_in(&latest, version, &meta, &debounced), is_own, "{own:?} {latest:?}");
        }
    }
}
