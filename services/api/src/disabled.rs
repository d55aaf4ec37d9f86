//! The operational event `webhook-disabled`: a tenant's other webhooks hear that one was disabled.

use bytes::Bytes;
use shopery_model::{Event, Extensions, Invalid, Resource};
use shopery_store::{WebhookRecord, WebhookState};

use crate::webhooks;

/// The event that is still to be told of a webhook, if there is one. Its id follows from what has happened, so that
/// EVENTS keeps it once, whoever tells it and however often.
pub(crate) fn untold(record: &WebhookRecord) -> Result<Option<Event>, Invalid> {
    let Some((disabled_at, _)) = record.disabled.filter(|_| record.state == WebhookState::Disabled && !record.is_told)
    else {
        return Ok(None);
    };
    let millis = disabled_at.unix_timestamp_nanos() / 1_000_000;
    // Names, numbers and times always serialise.
    let data = serde_json::to_vec(&webhooks::Resource::from(record.clone())).unwrap_or_default();
    Ok(Some(Event {
        id: format!("webhook-disabled:{}:{millis}", record.id),
        source: "shopery-webhooks".to_owned(),
        event_type: "webhook-disabled".parse()?,
        resource: Resource { kind: "webhook", id: record.id.to_string() },
        time: disabled_at,
        time_is_given: true,
        extensions: Extensions::default(),
        data: Bytes::from(data),
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shopery_model::{Rules, Sealed};
    use shopery_store::DisabledReason;
    use time::macros::datetime;

    pub(crate) fn record() -> WebhookRecord {
        WebhookRecord {
            id: "wbh_01HA4XCG60CT4G3EWF4CKYM1MF".parse().unwrap(),
            tenant: "t".parse().unwrap(),
            name: "a".to_owned(),
            url: "https://a.example/".parse().unwrap(),
            events: vec!["*".parse().unwrap()],
            state: WebhookState::Disabled,
            sealed: Sealed::of_stored("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
            rules: Rules::default(),
            created_at: datetime!(2026-11-20 10:00 UTC),
            updated_at: datetime!(2026-11-24 10:00:01 UTC),
            failing_since: Some(datetime!(2026-11-21 10:00 UTC)),
            disabled: Some((datetime!(2026-11-24 10:00 UTC), DisabledReason::Failing)),
            is_told: false,
            discard_before: None,
            endpoint_since: None,
            version: 1,
        }
    }

    #[test]
    fn a_disabled_webhook_is_told_of_once_without_its_secret() {
        let event = untold(&record()).unwrap().unwrap();
        assert_eq!(event.id, "webhook-disabled:wbh_01HA4XCG60CT4G3EWF4CKYM1MF:1795514400000");
        assert_eq!(untold(&record()).unwrap().unwrap(), event);
        let stored = Event::parse_stored(&event.encode(), datetime!(2026-11-25 10:00 UTC)).unwrap();
        assert_eq!(stored, event);
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        assert_eq!((&data["state"], &data["disabledReason"]), (&"disabled".into(), &"failing".into()));
        assert_eq!(data["failingSince"], "2026-11-21T10:00:00.000Z");
        assert!(!data.to_string().contains("whsec_") && !data.to_string().contains("MfKQ9r8"), "{data}");

        for other in [
            WebhookRecord { is_told: true, ..record() },
            WebhookRecord { state: WebhookState::Active, ..record() },
            WebhookRecord { disabled: None, ..record() },
        ] {
            assert_eq!(untold(&other).unwrap(), None);
        }
    }
}
