//! The operational events: what a tenant's other webhooks are notified of when one of them fails, works again or is disabled, and
//! when a delivery has failed.

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use shopery_model::{ABOUT_WEBHOOK, Event, Extensions, FailureReason, Invalid, Resource, TenantId};
use shopery_queue::{Outgoing, Queue};
use shopery_store::{DeliveryRecord, WebhookRecord, WebhookState};
use time::OffsetDateTime;

use crate::WebhookResource;

const SOURCE: &str = "shopery-webhooks";
const WEBHOOK_DISABLED: &str = "webhook-disabled";
pub const WEBHOOK_FAILING: &str = "webhook-failing";
pub const WEBHOOK_RECOVERED: &str = "webhook-recovered";
pub use shopery_model::DELIVERY_FAILED;

/// What a notification says besides the webhook itself.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct More {
    /// What its endpoint did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<FailureReason>,
    /// If it goes on failing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    will_be_disabled: bool,
}

/// The event that is still to be told of a webhook, if there is one. Its id follows from what has happened, so that
/// EVENTS keeps it once, whoever tells it and however often.
pub(crate) fn pending_notification(record: &WebhookRecord) -> Result<Option<Event>, Invalid> {
    let disabled = record.disabled.filter(|_| record.state == WebhookState::Disabled && !record.is_told);
    let warned = record.warned_at.filter(|_| record.state == WebhookState::Active && !record.is_warning_notified);
    let (event_type, at, will_be_disabled) = match (disabled, warned) {
        (Some((at, _)), _) => (WEBHOOK_DISABLED, at, false),
        (None, Some(at)) => (WEBHOOK_FAILING, at, true),
        (None, None) => return Ok(None),
    };
    of_webhook(event_type, record, at, at, More { will_be_disabled, ..More::default() }).map(Some)
}

/// Its circuit is open since then.
pub fn webhook_failing(
    record: &WebhookRecord,
    since: OffsetDateTime,
    now: OffsetDateTime,
    error: Option<FailureReason>,
) -> Result<Event, Invalid> {
    of_webhook(WEBHOOK_FAILING, record, since, now, More { error, ..More::default() })
}

/// The webhook that was failing since then works again.
pub fn webhook_recovered(record: &WebhookRecord, since: OffsetDateTime, now: OffsetDateTime) -> Result<Event, Invalid> {
    of_webhook(WEBHOOK_RECOVERED, record, since, now, More::default())
}

/// `id_at` tells one time that this happened to the webhook from the next.
fn of_webhook(
    event_type: &str,
    record: &WebhookRecord,
    id_at: OffsetDateTime,
    time: OffsetDateTime,
    more: More,
) -> Result<Event, Invalid> {
    #[derive(Serialize)]
    struct Data {
        #[serde(flatten)]
        webhook: WebhookResource,
        #[serde(flatten)]
        more: More,
    }
    let millis = id_at.unix_timestamp_nanos() / 1_000_000;
    Ok(Event {
        id: format!("{event_type}:{}:{millis}", record.id),
        source: SOURCE.to_owned(),
        event_type: event_type.parse()?,
        resource: Resource { kind: "webhook", id: record.id.to_string() },
        time,
        time_is_given: true,
        extensions: Extensions::default(),
        data: encode(&Data { webhook: record.clone().into(), more }),
    })
}

/// A delivery has failed.
pub fn delivery_failed(record: &DeliveryRecord) -> Result<Event, Invalid> {
    /// As the API lists it, without what only matters while it goes on.
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        id: &'a str,
        webhook_id: &'a str,
        event_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        event_source: Option<&'a str>,
        event: &'a str,
        resource: &'a str,
        state: &'a str,
        attempt_count: i32,
        #[serde(skip_serializing_if = "Option::is_none")]
        response_status: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<FailureReason>,
        #[serde(with = "crate::timestamp")]
        triggered_at: OffsetDateTime,
    }
    let error = record.fault.clone().map(|(reason, detail)| FailureReason { reason, detail });
    let data = encode(&Data {
        id: &record.id,
        webhook_id: &record.webhook_id,
        event_id: &record.event_id,
        event_source: record.source.as_deref(),
        event: &record.event_type,
        resource: &record.resource,
        state: &record.state,
        attempt_count: record.attempt_count,
        response_status: record.response_status,
        error,
        triggered_at: record.triggered_at,
    });
    Ok(Event {
        id: format!("{DELIVERY_FAILED}:{}:{}", record.id, record.round),
        source: SOURCE.to_owned(),
        event_type: DELIVERY_FAILED.parse()?,
        resource: Resource { kind: "delivery", id: record.id.clone() },
        time: record.updated_at,
        time_is_given: true,
        extensions: Extensions::default().with_text(ABOUT_WEBHOOK, record.webhook_id.clone()),
        data,
    })
}

/// Names, numbers, texts and times always serialise.
fn encode(data: &impl Serialize) -> Bytes {
    serde_json::to_vec(data).unwrap_or_default().into()
}

/// Puts an event of ours into EVENTS, unless it was the last one of its resource: EVENTS knows a repeat for minutes only.
pub async fn publish_once(queue: &Queue, tenant: &TenantId, event: &Event) -> anyhow::Result<()> {
    let last = queue.latest_state(tenant, &event.resource.to_string()).await?;
    if last.is_none_or(|last| last.event.id != event.id) {
        let published = queue.publish(&Outgoing::event(tenant, event)).await;
        published.with_context(|| format!("cannot publish {}", event.event_type))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::webhook;
    use time::macros::datetime;

    #[test]
    fn a_webhook_that_fails_is_told_of_with_the_reason_and_a_delivery_names_its_webhook() {
        let (since, now) = (datetime!(2026-11-24 10:00 UTC), datetime!(2026-11-24 10:05 UTC));
        let record = WebhookRecord { state: WebhookState::Active, disabled: None, ..webhook() };
        let error = FailureReason { reason: "http_status".to_owned(), detail: "it answered 500".to_owned() };
        let failing = webhook_failing(&record, since, now, Some(error)).unwrap();
        let data: serde_json::Value = serde_json::from_slice(&failing.data).unwrap();
        assert_eq!((&data["state"], &data["error"]["reason"]), (&"active".into(), &"http_status".into()), "{data}");
        let recovered = webhook_recovered(&record, since, now).unwrap();
        assert_eq!(recovered.id, format!("webhook-recovered:{}:1795514400000", record.id));
        assert_eq!(recovered.time, now);
        let delivery = DeliveryRecord {
            id: "dlv_01HA4XCG60CT4G3EWF4CKYM1MF".to_owned(),
            webhook_id: record.id.to_string(),
            event_id: "evt_1".to_owned(),
            source: Some("orders".to_owned()),
            event_type: "order-paid".to_owned(),
            resource: "order/1".to_owned(),
            event_sequence: 1,
            state: "failed".to_owned(),
            attempt_count: 8,
            last_attempt: 8,
            round: 1,
            fault: Some(("http_status".to_owned(), "it answered 500".to_owned())),
            response_status: Some(500),
            triggered_at: since,
            next_attempt_at: None,
            carried_by: None,
            created_at: since,
            updated_at: now,
        };
        let failed = delivery_failed(&delivery).unwrap();
        assert_eq!(failed.id, "delivery-failed:dlv_01HA4XCG60CT4G3EWF4CKYM1MF:1");
        for event in [failing, recovered, failed] {
            assert!(event.is_about(record.id), "{event:?}");
            assert_eq!(Event::parse_stored(&event.encode(), now).unwrap(), event);
        }
    }

    #[test]
    fn a_disabled_webhook_is_told_of_once_without_its_secret() {
        let event = pending_notification(&webhook()).unwrap().unwrap();
        assert_eq!(event.id, "webhook-disabled:wbh_01HA4XCG60CT4G3EWF4CKYM1MF:1795514400000");
        assert_eq!(pending_notification(&webhook()).unwrap().unwrap(), event);
        let stored = Event::parse_stored(&event.encode(), datetime!(2026-11-25 10:00 UTC)).unwrap();
        assert_eq!(stored, event);
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        assert_eq!((&data["state"], &data["disabledReason"]), (&"disabled".into(), &"failing".into()));
        assert_eq!(data["failingSince"], "2026-11-21T10:00:00.000Z");
        assert!(!data.to_string().contains("whsec_") && !data.to_string().contains("MfKQ9r8"), "{data}");

        let warned_at = Some(datetime!(2026-11-23 10:00 UTC));
        let failing = WebhookRecord { state: WebhookState::Active, disabled: None, warned_at, ..webhook() };
        let event = pending_notification(&failing).unwrap().unwrap();
        assert_eq!(event.id, "webhook-failing:wbh_01HA4XCG60CT4G3EWF4CKYM1MF:1795428000000");
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        assert_eq!(data["willBeDisabled"], true, "{data}");

        for other in [
            WebhookRecord { is_warning_notified: true, ..failing },
            WebhookRecord { is_told: true, ..webhook() },
            WebhookRecord { state: WebhookState::Active, ..webhook() },
            WebhookRecord { disabled: None, ..webhook() },
        ] {
            assert_eq!(pending_notification(&other).unwrap(), None);
        }
    }
}
