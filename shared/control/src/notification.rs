//! The operational events `webhook-failing` and `webhook-disabled`: a tenant's other webhooks are notified that one is about to
//! be disabled, and that it was.

use bytes::Bytes;
use shopery_model::{Event, Extensions, Invalid, Resource};
use shopery_store::{WebhookRecord, WebhookState};

use crate::WebhookResource;

const DISABLED: &str = "webhook-disabled";
const FAILING: &str = "webhook-failing";

/// The event that is still to be told of a webhook, if there is one. Its id follows from what has happened, so that
/// EVENTS keeps it once, whoever tells it and however often.
pub(crate) fn pending_notification(record: &WebhookRecord) -> Result<Option<Event>, Invalid> {
    let disabled = record.disabled.filter(|_| record.state == WebhookState::Disabled && !record.is_told);
    let warned = record.warned_at.filter(|_| record.state == WebhookState::Active && !record.is_warning_notified);
    let (event_type, at) = match (disabled, warned) {
        (Some((at, _)), _) => (DISABLED, at),
        (None, Some(at)) => (FAILING, at),
        (None, None) => return Ok(None),
    };
    let millis = at.unix_timestamp_nanos() / 1_000_000;
    // Names, numbers and times always serialise.
    let data = serde_json::to_vec(&WebhookResource::from(record.clone())).unwrap_or_default();
    Ok(Some(Event {
        id: format!("{event_type}:{}:{millis}", record.id),
        source: "shopery-webhooks".to_owned(),
        event_type: event_type.parse()?,
        resource: Resource { kind: "webhook", id: record.id.to_string() },
        time: at,
        time_is_given: true,
        extensions: Extensions::default(),
        data: Bytes::from(data),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::webhook;
    use time::macros::datetime;

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
