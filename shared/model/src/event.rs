//! Events as they come in: CloudEvents 1.0 in structured JSON or binary mode, with the resource as `data`.
//!
//! Invariant: `data` is carried as the bytes that came in. It is never parsed into numbers and printed again, so every
//! digit, key order and escape reaches the merchant as the publisher wrote it.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;

use crate::attributes::{self, Attributes, BinaryAttributes};
use crate::catalogue::catalogue;
use crate::{EventType, Extensions, Invalid, StateVersion, WebhookId, parse_time};

/// The largest event we take, envelope included.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

const MAX_ID_CHARS: usize = 128;

/// The extension attribute by which an operational event says whom it tells of, where its resource is not the webhook.
pub const ABOUT_WEBHOOK: &str = "aboutwebhook";

/// What an event is about: `order/ord_123`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub kind: &'static str,
    pub id: String,
}

/// One state of one resource, at the moment when something happened to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Given by the publisher. Together with `source` it identifies the event: published again within ten minutes, it is
    /// the same event.
    pub id: String,
    pub source: String,
    pub event_type: EventType,
    pub resource: Resource,
    /// When it happened; if the publisher did not say, when it was stored.
    pub time: OffsetDateTime,
    /// Whether the publisher said. If not, the encoded event has no time, so that EVENTS' own clock is taken wherever it
    /// is read: the clocks of two ingests must not make an older state of a newer one.
    pub time_is_given: bool,
    pub extensions: Extensions,
    /// The resource: one JSON object, byte for byte as it was published.
    pub data: Bytes,
}

/// How a type is read: of a publisher it must be in the catalogue.
type ReadEventType = fn(&str) -> Result<EventType, Invalid>;

impl Event {
    /// Reads one CloudEvent in structured JSON. `now` becomes its time if it has none. All that is wrong is reported, not
    /// just the first.
    pub fn parse(json: &Bytes, now: OffsetDateTime) -> Result<Self, Vec<Invalid>> {
        check_size(json.len())?;
        Self::read_structured(json, now, str::parse)?.of_a_publisher()
    }

    /// Reads one CloudEvent in binary mode: its attributes are headers, and the body is its data. An error names the
    /// header, such as `ce-id`.
    pub fn parse_binary(headers: BinaryAttributes, body: &Bytes, now: OffsetDateTime) -> Result<Self, Vec<Invalid>> {
        check_size(headers.bytes() + body.len())?;
        let (attributes, mut wrong) = headers.into_attributes();
        match Self::read(&attributes, attributes::data_of_body(body), now, str::parse).and_then(Self::of_a_publisher) {
            Ok(event) if wrong.is_empty() => Ok(event),
            Ok(_) => Err(wrong),
            Err(found) => {
                // A header that cannot be decoded is not missing.
                for invalid in found.into_iter().map(attributes::as_header) {
                    if wrong.iter().all(|known| known.field != invalid.field) {
                        wrong.push(invalid);
                    }
                }
                Err(wrong)
            }
        }
    }

    /// Reads an event of ours, which was within the limit when it came in; [`encode`](Self::encode) may have added to it.
    pub fn parse_stored(json: &Bytes, now: OffsetDateTime) -> Result<Self, Vec<Invalid>> {
        Self::read_structured(json, now, EventType::of_stored)
    }

    fn read_structured(json: &Bytes, now: OffsetDateTime, event_type: ReadEventType) -> Result<Self, Vec<Invalid>> {
        let attributes = Attributes::read(json).map_err(|invalid| vec![invalid])?;
        let data = match attributes.data() {
            Some(object) if object.starts_with('{') => Ok(json.slice_ref(object.as_bytes())),
            Some(_) => Err(Invalid::new("data", "must be a JSON object, the resource")),
            None => Err(Invalid::new("data", "is missing: it is the resource, as a JSON object")),
        };
        Self::read(&attributes, data, now, event_type)
    }

    fn read(
        attributes: &Attributes,
        data: Result<Bytes, Invalid>,
        now: OffsetDateTime,
        event_type: ReadEventType,
    ) -> Result<Self, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let mut note = |invalid: Invalid| wrong.push(invalid);

        attributes.repeated().for_each(|name| note(Invalid::new(name, "is there twice")));
        if attributes.required("specversion").map_err(&mut note).is_ok_and(|version| version != "1.0") {
            note(Invalid::new("specversion", "must be \"1.0\""));
        }
        let id = attributes.required("id").and_then(|id| bounded("id", id)).map_err(&mut note).ok();
        let source = attributes.required("source").and_then(|source| bounded("source", source)).map_err(&mut note).ok();
        let event_type = attributes.required("type").and_then(|name| event_type(&name)).map_err(&mut note).ok();
        let resource = attributes
            .required("subject")
            .and_then(|subject| Resource::parse(&subject, event_type))
            .map_err(&mut note)
            .ok();
        let time = attributes
            .optional("time")
            .and_then(|time| match time {
                None => Ok((now.replace_millisecond(now.millisecond()).unwrap_or(now), false)),
                Some(time) => parse_time(&time).map(|time| (time, true)).map_err(|detail| Invalid::new("time", detail)),
            })
            .map_err(&mut note)
            .ok();
        if let Some(kind) = attributes.optional("datacontenttype").map_err(&mut note).ok().flatten()
            && !is_json(&kind)
        {
            note(Invalid::new("datacontenttype", "must be application/json, or absent"));
        }
        if attributes.has("data_base64") {
            note(Invalid::new("data_base64", "is not supported: send the resource as a JSON object in data"));
        }
        let data = data.map_err(&mut note).ok();
        let extensions = attributes.extensions(&mut note);

        match (id, source, event_type, resource, time, data) {
            (Some(id), Some(source), Some(event_type), Some(resource), Some((time, time_is_given)), Some(data))
                if wrong.is_empty() =>
            {
                Ok(Self { id, source, event_type, resource, time, time_is_given, extensions, data })
            }
            _ => Err(wrong),
        }
    }

    /// The event, unless it is one that Shopery Webhooks alone publishes.
    fn of_a_publisher(self) -> Result<Self, Vec<Invalid>> {
        if self.event_type.is_operational() {
            let detail = format!("{} is told by Shopery Webhooks itself, to those who subscribe", self.event_type);
            return Err(vec![Invalid::new("type", detail)]);
        }
        Ok(self)
    }

    /// Where the state that it carries stands, once EVENTS has stored it then and there.
    pub fn version(&self, stored_at: OffsetDateTime, sequence: u64) -> StateVersion {
        StateVersion::of(self.time, stored_at, sequence)
    }

    /// Whether it says the same as another event of the same source and id: then it is a repeat of that one. A repeat
    /// may be stamped and traced anew, so neither time nor extensions count.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.event_type == other.event_type
            && self.resource == other.resource
            && (self.data == other.data || crate::fields::is_same_document(&self.data, &other.data))
    }

    /// A digest of what [`says_the_same_as`](Self::says_the_same_as) compares. Events of the same digest say the same;
    /// those of another may still, such as with other spaces in `data`.
    pub fn content_digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        // No part can contain the zero byte that ends it, so no two contents are run together the same.
        for part in
            [self.event_type.resource().as_bytes(), self.event_type.action.as_bytes(), self.resource.id.as_bytes()]
        {
            context.update(part);
            context.update(&[0]);
        }
        context.update(&self.data);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }

    /// W3C trace context, if the publisher carries one as a CloudEvents attribute.
    pub fn traceparent(&self) -> Option<&str> {
        self.extensions.text("traceparent").filter(|text| text.len() <= 128)
    }

    /// Whether it tells of this webhook, which is not told of itself.
    pub fn is_about(&self, webhook: WebhookId) -> bool {
        let is_it = |text: &str| text == webhook.to_string();
        self.event_type.is_operational()
            && (is_it(&self.resource.id) || self.extensions.text(ABOUT_WEBHOOK).is_some_and(is_it))
    }

    /// The event as CloudEvents JSON: canonical names, `data` untouched. [`Event::parse_stored`] reads it back.
    pub fn encode(&self) -> Bytes {
        CloudEvent {
            id: &self.id,
            source: &self.source,
            event_type: self.event_type,
            subject: &self.resource.to_string(),
            time: self.time_is_given.then_some(self.time),
            extensions: &self.extensions,
            data: &self.data,
        }
        .encode()
    }
}

/// An event as it is written: what is stored, shown, and sent to receivers that ask for CloudEvents.
#[derive(Debug, Clone, Copy)]
pub struct CloudEvent<'a> {
    pub id: &'a str,
    pub source: &'a str,
    pub event_type: EventType,
    pub subject: &'a str,
    pub time: Option<OffsetDateTime>,
    pub extensions: &'a Extensions,
    pub data: &'a Bytes,
}

impl CloudEvent<'_> {
    /// Structured JSON; `data` byte for byte.
    pub fn encode(&self) -> Bytes {
        #[derive(Serialize)]
        struct Attributes<'a> {
            specversion: &'a str,
            id: &'a str,
            source: &'a str,
            #[serde(rename = "type")]
            event_type: EventType,
            subject: &'a str,
            #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
            time: Option<OffsetDateTime>,
            datacontenttype: &'a str,
        }
        let attributes = Attributes {
            specversion: "1.0",
            id: self.id,
            source: self.source,
            event_type: self.event_type,
            subject: self.subject,
            time: self.time,
            datacontenttype: "application/json",
        };
        let mut json = Vec::with_capacity(self.data.len() + 256);
        // Strings and a time in the years that RFC 3339 can print (they were parsed from it) always serialise.
        if serde_json::to_writer(&mut json, &attributes).is_ok() {
            json.pop();
        }
        if !self.extensions.is_empty() {
            let start = json.len();
            if serde_json::to_writer(&mut json, self.extensions).is_ok() {
                // An object of its own, whose braces are those of the event.
                json[start] = b',';
                json.pop();
            }
        }
        json.extend_from_slice(b",\"data\":");
        json.extend_from_slice(self.data);
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
        let known = catalogue().resource(name).map(|resource| resource.name);
        // Of an event that another service has stored, the type may be about a resource that we do not know.
        let kind = known.or(event_type.map(EventType::resource).filter(|kind| *kind == name)).ok_or_else(form)?;
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

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

/// The limit counts what was read of the publisher: the envelope and the data, in either mode.
fn check_size(bytes: usize) -> Result<(), Vec<Invalid>> {
    if bytes <= MAX_EVENT_BYTES {
        return Ok(());
    }
    Err(vec![Invalid::new("data", format!("the event has {bytes} bytes; the limit is {MAX_EVENT_BYTES}"))])
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

/// Whether a content type is that of JSON: `application/json`, or anything that ends in `+json`.
pub fn is_json(content_type: &str) -> bool {
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
    fn extension_attributes_are_kept() {
        let json = with("partitionkey", "\"cus_7\"").replace("\"id\":\"e1\"", "\"sampledrate\":7,\"id\":\"e1\"");
        let event = parse(&json).unwrap();
        assert_eq!(event.extensions.text("partitionkey"), Some("cus_7"));
        let encoded = String::from_utf8(event.encode().to_vec()).unwrap();
        assert!(encoded.contains(r#","partitionkey":"cus_7","sampledrate":7,"data":{"#), "{encoded}");
        assert_eq!(parse(&encoded).unwrap(), event);
    }

    #[test]
    fn a_repeat_says_the_same_whatever_its_stamp() {
        let event = parse(&with("", "")).unwrap();
        for (field, value, is_same) in [
            ("time", "\"2026-11-24T09:00:00Z\"", true),
            ("traceparent", "\"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\"", true),
            ("data", "{ \"id\" : 1 }", true),
            ("data", "{\"id\":2}", false),
            ("type", "\"order-paid\"", false),
            ("subject", "\"order/ord_2\"", false),
        ] {
            assert_eq!(parse(&with(field, value)).unwrap().says_the_same_as(&event), is_same, "{field} {value}");
        }
    }

    #[test]
    fn a_digest_is_of_the_content_alone() {
        let event = parse(&with("", "")).unwrap();
        for (field, value, is_same) in [
            ("time", "\"2026-11-24T09:00:00Z\"", true),
            ("id", "\"e2\"", true),
            ("data", "{\"id\":2}", false),
            ("type", "\"order-paid\"", false),
            ("subject", "\"order/ord_2\"", false),
        ] {
            let other = parse(&with(field, value)).unwrap();
            assert_eq!(other.content_digest() == event.content_digest(), is_same, "{field} {value}");
        }
    }

    fn parse_binary(headers: &[(&str, &str)], body: &str) -> Result<Event, Vec<Invalid>> {
        let mut attributes = BinaryAttributes::default();
        headers.iter().for_each(|(name, value)| attributes.add(name, value.as_bytes()));
        Event::parse_binary(attributes, &Bytes::copy_from_slice(body.as_bytes()), NOW)
    }

    const BINARY: [(&str, &str); 5] = [
        ("specversion", "1.0"),
        ("id", "e1"),
        ("source", "orders"),
        ("type", "orders-created"),
        ("subject", "order/ord_1"),
    ];

    #[test]
    fn an_event_in_binary_mode_is_the_same_event() {
        let headers = [&BINARY[..], &[("partitionkey", "K%C3%B6ln%201"), ("time", "2026-11-24T10:00:00Z")]].concat();
        let json = with("data", "{ \"id\": 1.0 }")
            .replace("\"id\":\"e1\"", r#""id":"e1","partitionkey":"Köln 1","time":"2026-11-24T10:00:00Z""#);
        let event = parse_binary(&headers, " { \"id\": 1.0 }\n").unwrap();
        assert_eq!(event, parse(&json).unwrap());
        assert_eq!(event.data, "{ \"id\": 1.0 }".as_bytes());
    }

    #[test]
    fn what_is_wrong_in_binary_mode_is_named_by_its_header() {
        let fields = |headers: &[(&str, &str)], body: &str| -> Vec<String> {
            parse_binary(headers, body).unwrap_err().into_iter().map(|wrong| wrong.field.into_owned()).collect()
        };
        let without = |name: &str| BINARY.into_iter().filter(|(known, _)| *known != name).collect::<Vec<_>>();
        for (name, _) in BINARY {
            assert_eq!(fields(&without(name), "{}"), [format!("ce-{name}")]);
        }
        for (name, value) in [
            ("id", "a%00"),
            ("id", "100%"),
            ("id", "%C0%A0"),
            ("id", "\"open"),
            ("type", "order-eaten"),
            ("time", "yesterday"),
            ("datacontenttype", "text/xml"),
            ("data_base64", "aGk="),
            ("data", "x"),
            ("part_key", "x"),
        ] {
            let mut headers = without(name);
            headers.push((name, value));
            let wrong = fields(&headers, "{}");
            assert_eq!(wrong, [format!("ce-{name}")], "{value}");
        }
        assert_eq!(fields(&[&BINARY[..], &[("id", "e2")]].concat(), "{}"), ["ce-id"]);
        for (body, field) in [("", "data"), ("[1]", "data"), ("7", "data"), ("{", "body"), ("\u{feff}{}", "body")] {
            assert_eq!(fields(&BINARY, body), [field], "{body}");
        }
        assert_eq!(fields(&BINARY, "{},\"id\":\"e2\""), ["body"]);
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(MAX_EVENT_BYTES - 10));
        assert_eq!(fields(&BINARY, &large), ["data"], "headers count");
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
            ("time", "\"9999-12-31T23:59:59-01:00\""),
            ("time", "\"0000-01-01T00:00:00+01:00\""),
            ("partitionkey", "{}"),
            ("Key", "1"),
            ("datacontenttype", "\"text/xml\""),
            ("data_base64", "\"aGk=\""),
            ("data", ""),
            ("data", "null"),
            ("data", "[1]"),
            ("data", "\"x\""),
        ] {
            let wrong = parse(&with(field, value)).unwrap_err();
            assert_eq!(wrong.len(), 1, "{field} {value}: {wrong:?}");
            assert!(!wrong[0].detail.contains("struct"), "{wrong:?}");
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
        for json in ["", "{", "[]", "7", "null", "\"a\"", "\u{feff}{}"] {
            let wrong = parse(json).unwrap_err();
            assert_eq!(wrong[0].field, "body", "{json}");
            assert!(!wrong[0].detail.contains("struct"), "{wrong:?}");
        }
        let positional = r#"["1.0","e1","orders","order-created","order/1",null,null,null,{}]"#;
        assert!(parse(positional).unwrap_err()[0].detail.contains("cloudevents-batch"));
        assert!(parse("\u{feff}{}").unwrap_err()[0].detail.contains("BOM"));
        assert!(parse(r#"{"id":"a","id":"b"}"#).unwrap_err().iter().any(|wrong| wrong.detail == "is there twice"));
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
                extensions: Extensions::default(),
                data: data.into(),
            };
            prop_assert_eq!(Event::parse(&event.encode(), NOW).unwrap(), event);
        }
    }
}
