//! What is sent where nothing has happened: by the Test call, and as the preview of a webhook's rules.

use bytes::Bytes;
use serde_json::json;
use shopery_model::{
    EventType, Extensions, Invalid, NamedEvent, PayloadEvent, PayloadFormat, Rules, StateVersion, catalogue,
};
use time::OffsetDateTime;

use crate::body::Fields;

/// The source of the events that are made up.
pub(crate) const SOURCE: &str = "shopery-webhooks";

/// A state of no resource, as a webhook with these rules would be sent it.
pub(crate) struct Sample {
    /// `None`: it is of no event.
    pub(crate) event_type: Option<EventType>,
    /// The resource.
    pub(crate) data: Bytes,
    pub(crate) format: PayloadFormat,
    fields: Option<shopery_model::Fields>,
}

impl Sample {
    /// The example of an event type, or a plain message if there is none.
    pub(crate) fn of(event_type: Option<EventType>, rules: &Rules) -> Self {
        let example = event_type.and_then(|event_type| catalogue().example(event_type));
        match example {
            Some(example) => Self { event_type, ..Self::with(Bytes::from_static(example.get().as_bytes()), rules) },
            None => {
                let data = json!({ "test": true, "message": "This is a test of your webhook by Shopery." });
                let (format, fields) = (PayloadFormat::Resource, None);
                Self { event_type: None, data: Bytes::from(data.to_string()), format, fields }
            }
        }
    }

    fn with(data: Bytes, rules: &Rules) -> Self {
        Self { event_type: None, data, format: rules.format, fields: rules.fields.clone() }
    }

    /// A state that somebody has made up.
    pub(crate) fn made_up(event_type: EventType, data: Bytes, rules: &Rules) -> Self {
        Self { event_type: Some(event_type), ..Self::with(data, rules) }
    }

    /// The body, of an event with this id.
    pub(crate) fn body(&self, id: &str, now: OffsetDateTime) -> Bytes {
        let data = self.fields.as_ref().map_or_else(|| self.data.clone(), |fields| fields.project(&self.data));
        let Some(event_type) = self.event_type else { return data };
        let resource = format!("{}/example", event_type.resource());
        let named = NamedEvent { source: SOURCE, id, event_type, resource: &resource, at: now };
        let version = StateVersion::of(now, now, 1);
        let payload_of = PayloadEvent { source: SOURCE.to_owned(), id: id.to_owned(), version };
        named.body(self.format, &data, &payload_of, &Extensions::default())
    }
}

/// An event type that a webhook can subscribe to.
pub(crate) fn event_type(fields: &mut Fields) -> Option<EventType> {
    let text = fields.string("eventType")?;
    fields.check(text.parse::<EventType>().map_err(|invalid| Invalid::new("eventType", invalid.detail)))
}

/// An event type whose example is sent, if one is asked for.
pub(crate) fn with_example(fields: &mut Fields) -> Option<EventType> {
    let event_type = event_type(fields)?;
    let without = || Invalid::new("eventType", "has no example in the catalogue: leave it out for a plain test");
    fields.check(catalogue().example(event_type).map(|_| event_type).ok_or_else(without))
}
