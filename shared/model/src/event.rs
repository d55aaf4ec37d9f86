//! Events as they come in: CloudEvents 1.0 in structured JSON, with the resource as `data`.
//!
//! Invariant: `data` is carried as the bytes that came in. It is never parsed into numbers and printed again, so every
//! digit, key order and escape reaches the merchant as the publisher wrote it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::catalogue::catalogue;
use crate::{EventType, Invalid, WebhookId};

/// The largest event we take, envelope included.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

const MAX_ID_CHARS: usize = 128;

/// What an event is about: `order/ord_123`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub kind: &'static str,
    pub id: String,
}

/// One state of one resource, at the moment when something happened to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Given by the publisher: the same id, published again within ten minutes, is the same event.
    pub id: String,
    pub source: String,
    pub event_type: EventType,
    pub resource: Resource,
    /// When it happened; if the publisher did not say, when it was stored.
    pub time: OffsetDateTime,
    /// Whether the publisher said. If not, the encoded event has no time, so that EVENTS' own clock is taken wherever it
    /// is read: the clocks of two ingests must not make an older state of a newer one.
    pub time_is_given: bool,
    /// W3C trace context, if the publisher carries one as a CloudEvents attribute.
    pub traceparent: Option<String>,
    /// The resource: one JSON object, byte for byte as it was published.
    pub data: Bytes,
}

/// Attributes stay raw until each is judged by itself, so that an error can name its field.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    event_type: Option<&'a RawValue>,
    #[serde(borrow)]
    subject: Option<&'a RawValue>,
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    datacontenttype: Option<&'a RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<&'a RawValue>,
}

impl Event {
    /// Reads one CloudEvent. `now` becomes its time if it has none. All that is wrong is reported, not just the first.
    pub fn parse(json: &Bytes, now: OffsetDateTime) -> Result<Self, Vec<Invalid>> {
        if json.len() > MAX_EVENT_BYTES {
            return Err(vec![Invalid::new(
                "data",
                format!("the event has {} bytes; the limit is {MAX_EVENT_BYTES}", json.len()),
            )]);
        }
        let event = Self::parse_stored(json, now)?;
        if event.event_type.is_operational() {
            let detail = format!("{} is told by Shopery Webhooks itself, to those who subscribe", event.event_type);
            return Err(vec![Invalid::new("type", detail)]);
        }
        Ok(event)
    }

    /// Reads an event of ours, which was within the limit when it came in; [`encode`](Self::encode) may have added to it.
    pub fn parse_stored(json: &Bytes, now: OffsetDateTime) -> Result<Self, Vec<Invalid>> {
        let envelope: Envelope<'_> = serde_json::from_slice(json).map_err(|error| {
            let detail = if error.is_data() {
                format!("must be a CloudEvents 1.0 JSON object: {error}")
            } else {
                format!("is not valid JSON: {error}")
            };
            vec![Invalid::new("body", detail)]
        })?;

        let mut wrong = Vec::new();
        let mut note = |invalid: Invalid| wrong.push(invalid);

        if required("specversion", envelope.specversion).map_err(&mut note).is_ok_and(|version| version != "1.0") {
            note(Invalid::new("specversion", "must be \"1.0\""));
        }
        let id = required("id", envelope.id).and_then(|id| bounded("id", id)).map_err(&mut note).ok();
        let source =
            required("source", envelope.source).and_then(|source| bounded("source", source)).map_err(&mut note).ok();
        let event_type =
            required("type", envelope.event_type).and_then(|name| name.parse::<EventType>()).map_err(&mut note).ok();
        let resource = required("subject", envelope.subject)
            .and_then(|subject| Resource::parse(&subject, event_type))
            .map_err(&mut note)
            .ok();
        let time = optional("time", envelope.time)
            .and_then(|time| match time {
                None => Ok((now.replace_millisecond(now.millisecond()).unwrap_or(now), false)),
                Some(time) => OffsetDateTime::parse(&time, &Rfc3339)
                    .map(|time| (time, true))
                    .map_err(|_| Invalid::new("time", "must be an RFC 3339 timestamp, such as 2026-11-24T10:00:00Z")),
            })
            .map_err(&mut note)
            .ok();
        if let Some(kind) = optional("datacontenttype", envelope.datacontenttype).map_err(&mut note).ok().flatten()
            && !is_json(&kind)
        {
            note(Invalid::new("datacontenttype", "must be application/json, or absent"));
        }
        if envelope.data_base64.is_some() {
            note(Invalid::new("data_base64", "is not supported: send the resource as a JSON object in data"));
        }
        let data = match envelope.data.map(RawValue::get) {
            Some(object) if object.starts_with('{') => Some(json.slice_ref(object.as_bytes())),
            Some(_) => {
                note(Invalid::new("data", "must be a JSON object, the resource"));
                None
            }
            None => {
                note(Invalid::new("data", "is missing: it is the resource, as a JSON object"));
                None
            }
        };
        // A trace context that does not read is no reason to refuse an event.
        let traceparent = optional("traceparent", envelope.traceparent).ok().flatten().filter(|text| text.len() <= 128);

        match (id, source, event_type, resource, time, data) {
            (Some(id), Some(source), Some(event_type), Some(resource), Some((time, time_is_given)), Some(data))
                if wrong.is_empty() =>
            {
                Ok(Self { id, source, event_type, resource, time, time_is_given, traceparent, data })
            }
            _ => Err(wrong),
        }
    }

    /// Whether it tells of this webhook, which is not told of itself.
    pub fn is_about(&self, webhook: WebhookId) -> bool {
        self.event_type.is_operational() && self.resource.id == webhook.to_string()
    }

    /// The event as CloudEvents JSON: canonical names, `data` untouched. [`Event::parse_stored`] reads it back.
    pub fn encode(&self) -> Bytes {
        #[derive(Serialize)]
        struct Attributes<'a> {
            specversion: &'a str,
            id: &'a str,
            source: &'a str,
            #[serde(rename = "type")]
            event_type: EventType,
            subject: String,
            #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
            time: Option<OffsetDateTime>,
            datacontenttype: &'a str,
        }
        let attributes = Attributes {
            specversion: "1.0",
            id: &self.id,
            source: &self.source,
            event_type: self.event_type,
            subject: self.resource.to_string(),
            time: self.time_is_given.then_some(self.time),
            datacontenttype: "application/json",
        };
        let mut json = Vec::with_capacity(self.data.len() + 256);
        // Strings and a time in the years that RFC 3339 can print (they were parsed from it) always serialise.
        if serde_json::to_writer(&mut json, &attributes).is_ok() {
            json.pop();
        }
        json.extend_from_slice(b",\"data\":");
        json.extend_from_slice(&self.data);
        json.push(b'}');
        json.into()
    }
}

impl Resource {
    fn parse(subject: &str, event_type: Option<EventType>) -> Result<Self, Invalid> {
        let form = || {
            let kind = event_type.map_or("order", EventType::resource);
            Invalid::new("subject", format!("must name the resource as <kind>/<id>, such as {kind}/123"))
        };
        let (name, id) = subject.split_once('/').ok_or_else(form)?;
        let kind = catalogue().resource(name).ok_or_else(form)?.name;
        if let Some(expected) = event_type.map(EventType::resource)
            && expected != kind
        {
            return Err(Invalid::new(
                "subject",
                format!("names a {kind}, but the type is about a {expected}: use {expected}/<id>"),
            ));
        }
        Ok(Self { kind, id: bounded("subject", id.to_owned())? })
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

fn required(field: &'static str, value: Option<&RawValue>) -> Result<String, Invalid> {
    optional(field, value)?.ok_or_else(|| Invalid::new(field, "is missing"))
}

/// JSON's `null` counts as absent, as CloudEvents has it.
fn optional(field: &'static str, value: Option<&RawValue>) -> Result<Option<String>, Invalid> {
    match value {
        None => Ok(None),
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| Invalid::new(field, "must be a string")),
    }
}

/// Ids become subject tokens and headers, so they are bounded and printable.
fn bounded(field: &'static str, text: String) -> Result<String, Invalid> {
    let chars = text.chars().count();
    if chars == 0 || chars > MAX_ID_CHARS || text.chars().any(char::is_control) {
        return Err(Invalid::new(
            field,
            format!("must have 1 to {MAX_ID_CHARS} characters, none of them a control character"),
        ));
    }
    Ok(text)
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 10:00 UTC);

    fn parse(json: &str) -> Result<Event, Vec<Invalid>> {
        Event::parse(&Bytes::copy_from_slice(json.as_bytes()), NOW)
    }

    fn with(field: &str, value: &str) -> String {
        let mut fields = vec![
            ("specversion", "\"1.0\""),
            ("id", "\"e1\""),
            ("source", "\"orders\""),
            ("type", "\"orders-created\""),
            ("subject", "\"order/ord_1\""),
            ("data", "{\"id\":1}"),
        ];
        fields.retain(|(name, _)| *name != field);
        if !value.is_empty() {
            fields.push((field, value));
        }
        let members: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    }

    #[test]
    fn an_event_keeps_every_byte_of_its_data() {
        let data =
            r#"{ "price": 10.10, "big": 12345678901234567890123, "e":1E+2, "name":"Zo\u00eb é", "a":{"a":[ ]} }"#;
        let event = parse(&with("data", data)).unwrap();
        assert_eq!(event.data, data.as_bytes());
        assert_eq!(event.event_type.to_string(), "order-created");
        assert_eq!(Event::parse(&event.encode(), NOW).unwrap(), event);
    }

    #[test]
    fn a_time_that_was_not_given_is_that_of_the_reader() {
        let later = NOW + time::Duration::hours(1);
        let event = parse(&with("", "")).unwrap();
        assert_eq!((event.time, event.time_is_given), (NOW, false));
        assert_eq!(Event::parse(&event.encode(), later).unwrap().time, later);
        let event = parse(&with("time", "\"2026-11-24T10:00:00Z\"")).unwrap();
        assert_eq!((event.time, event.time_is_given), (NOW, true));
        assert_eq!(Event::parse(&event.encode(), later).unwrap().time, NOW);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!("\"{}\"", "x".repeat(129));
        for (field, value) in [
            ("specversion", ""),
            ("specversion", "\"0.3\""),
            ("specversion", "1.0"),
            ("id", ""),
            ("id", "null"),
            ("id", "7"),
            ("id", "\"\""),
            ("id", long.as_str()),
            ("id", "\"a\\u0000\""),
            ("source", ""),
            ("type", ""),
            ("type", "\"order-eaten\""),
            ("subject", ""),
            ("subject", "\"ord_1\""),
            ("subject", "\"order/\""),
            ("subject", "\"product/p1\""),
            ("time", "\"yesterday\""),
            ("time", "7"),
            ("datacontenttype", "\"text/xml\""),
            ("data_base64", "\"aGk=\""),
            ("data", ""),
            ("data", "null"),
            ("data", "[1]"),
            ("data", "\"x\""),
        ] {
            let wrong = parse(&with(field, value)).unwrap_err();
            assert_eq!(wrong.len(), 1, "{field} {value}: {wrong:?}");
            assert_eq!(wrong[0].field, field, "{value}");
        }
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let fields: Vec<_> = parse("{}").unwrap_err().into_iter().map(|invalid| invalid.field).collect();
        assert_eq!(fields, ["specversion", "id", "source", "type", "subject", "data"]);
    }

    #[test]
    fn what_is_not_an_event_is_refused() {
        for json in ["", "{", "[]", "7", "null", "{\"id\":\"a\",\"id\":\"b\"}", "\u{feff}{}"] {
            assert_eq!(parse(json).unwrap_err()[0].field, "body", "{json}");
        }
        let large = with("data", &format!("{{\"x\":\"{}\"}}", "x".repeat(MAX_EVENT_BYTES)));
        assert!(parse(&large).unwrap_err()[0].detail.contains("262144"));
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Event::parse(&bytes.into(), NOW);
        }

        #[test]
        fn an_encoded_event_reads_back(id in "[^\\p{Cc}]{1,128}", resource in "[^\\p{Cc}]{1,128}", text in "\\PC*") {
            let data = serde_json::json!({ "text": text }).to_string();
            let event = Event {
                id,
                source: "orders".into(),
                event_type: "order-paid".parse().unwrap(),
                resource: Resource { kind: "order", id: resource },
                time: NOW,
                time_is_given: true,
                traceparent: None,
                data: data.into(),
            };
            prop_assert_eq!(Event::parse(&event.encode(), NOW).unwrap(), event);
        }
    }
}
