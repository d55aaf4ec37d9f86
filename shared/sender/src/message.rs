use std::borrow::Cow;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use shopery_model::{DestinationKind, Headers, PayloadEvent, PayloadFormat};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::https::Endpoint;

/// What a header value cannot hold as it is, as CloudEvents' HTTP binding has it: all but printable ASCII, the space, the
/// double quote, and the percent sign that marks what was encoded. Receivers and proxies do not agree on anything else.
const VALUE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
/// The same for an element of a list with commas between.
const ELEMENT: &AsciiSet = &VALUE.add(b',');
/// Maximum length of `X-Shopery-Fields-Changed`: servers refuse requests whose headers are larger than 4 to 8 KiB.
const MAX_FIELDS_CHANGED: usize = 2048;
/// Maximum length of the value of an attribute of a Pub/Sub message. The id and the source of an event, of 128 characters, exceed it
/// if they are of some other script: then the attribute is left out, since half of an id is the id of something else.
const MAX_ATTRIBUTE: usize = 1024;

/// What is sent to a destination.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// The same on every attempt: the receiver's key against duplicates.
    pub webhook_id: String,
    pub event: &'a str,
    pub event_id: &'a str,
    /// Who published the event; empty if that is not known.
    pub event_source: &'a str,
    /// The id of the webhook, if it is saved.
    pub webhook: Option<String>,
    pub tenant: &'a str,
    pub triggered_at: OffsetDateTime,
    /// The event whose state the payload is; `None` for a test.
    pub payload_of: Option<&'a PayloadEvent>,
    /// Which of the paths that the webhook watches have changed, as far as a header holds them, and how many it does not.
    pub changed: &'a [String],
    pub changed_omitted: usize,
    /// What messages are kept in order by where the destination can: the resource, of an ordered webhook.
    pub ordering_key: Option<&'a str>,
    pub attempt: u32,
    /// Somebody tries the endpoint: nothing has happened.
    pub is_test: bool,
    pub format: PayloadFormat,
    pub payload: Bytes,
}

/// What a value is told under: in lower case, as HTTP/2 wants it, and as documents write it, which is how a cloud keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    http: &'static str,
    cloud: &'static str,
}

impl Name {
    const fn new(http: &'static str, cloud: &'static str) -> Self {
        Self { http, cloud }
    }

    /// One that documents write in lower case too.
    const fn lower(name: &'static str) -> Self {
        Self::new(name, name)
    }
}

const CONTENT_TYPE: Name = Name::lower("content-type");
const SIGNATURE: Name = Name::lower("webhook-signature");

impl Message<'_> {
    /// `now` becomes `webhook-timestamp`, which the signature covers.
    pub(crate) fn headers(&self, endpoint: Endpoint<'_>, now: OffsetDateTime) -> HeaderMap {
        let Endpoint { credentials, signature, .. } = endpoint;
        let signatures = credentials.signatures(signature, &self.webhook_id, now, &self.payload);
        // Its own come first, so that none could take the place of one of ours.
        self.headers_with(credentials.headers.iter(), &signatures, credentials.secret.expose(), now)
    }

    /// The headers, or what a cloud is told in their place, as they were sent at `now`, for those who look into the history:
    /// what is secret is masked. `own` are the names of the webhook's own headers, which no cloud is sent.
    pub fn masked_headers(&self, kind: DestinationKind, own: &[String], now: OffsetDateTime) -> Vec<(String, String)> {
        if kind != DestinationKind::Https {
            let told = self.metadata(kind, Headers::MASK, now);
            return told.into_iter().map(|(name, value)| (name.to_owned(), value.into_owned())).collect();
        }
        let own = own.iter().map(|name| (name.as_str(), Headers::MASK));
        let headers = self.headers_with(own, Headers::MASK, Headers::MASK, now);
        let shown = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), shown(value))).collect()
    }

    /// What a cloud is told beside the payload. Never the secret: whoever reads a bus or topic could sign with it.
    pub(crate) fn metadata<'a>(
        &'a self,
        kind: DestinationKind,
        signatures: &'a str,
        now: OffsetDateTime,
    ) -> Vec<(&'static str, Cow<'a, str>)> {
        let (max_changed, max_value) = match kind {
            DestinationKind::PubSub => (MAX_ATTRIBUTE, MAX_ATTRIBUTE),
            DestinationKind::Https | DestinationKind::EventBridge => (MAX_FIELDS_CHANGED, usize::MAX),
        };
        // JSON of the resource needs no saying.
        let format =
            (self.format == PayloadFormat::CloudEvent).then(|| (CONTENT_TYPE, content_type(self.format).into()));
        let told = format.into_iter().chain(self.told(signatures, now, max_changed));
        told.filter(|(_, value)| value.len() <= max_value).map(|(name, value)| (name.cloud, value)).collect()
    }

    fn headers_with<'a>(
        &self,
        own: impl Iterator<Item = (&'a str, &'a str)>,
        signatures: &str,
        secret: &str,
        now: OffsetDateTime,
    ) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(24);
        for (name, value) in own {
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        let mut set = |name: &'static str, value: &str, is_secret: bool| {
            if let Ok(mut value) = HeaderValue::from_str(value) {
                value.set_sensitive(is_secret);
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        set(CONTENT_TYPE.http, content_type(self.format), false);
        set("x-shopery-secret", secret, true);
        for (name, value) in self.told(signatures, now, MAX_FIELDS_CHANGED) {
            set(name.http, &value, name == SIGNATURE);
        }
        headers
    }

    /// What a destination of any kind is told, in ASCII, with at most this number of bytes of the paths that have changed.
    fn told<'a>(&'a self, signatures: &'a str, now: OffsetDateTime, max_changed: usize) -> Vec<(Name, Cow<'a, str>)> {
        let mut told = Vec::with_capacity(20);
        let mut tell = |name: Name, value: Cow<'a, str>| told.push((name, value));
        tell(Name::lower("webhook-id"), self.webhook_id.as_str().into());
        tell(Name::lower("webhook-timestamp"), now.unix_timestamp().to_string().into());
        tell(SIGNATURE, signatures.into());
        tell(Name::new("x-shopery-event", "X-Shopery-Event"), self.event.into());
        tell(Name::new("x-shopery-event-id", "X-Shopery-Event-Id"), encoded(self.event_id));
        if !self.event_source.is_empty() {
            tell(Name::new("x-shopery-event-source", "X-Shopery-Event-Source"), encoded(self.event_source));
        }
        if let Some(webhook) = &self.webhook {
            tell(Name::new("x-shopery-webhook-id", "X-Shopery-Webhook-Id"), webhook.as_str().into());
        }
        tell(Name::new("x-shopery-tenant-id", "X-Shopery-Tenant-Id"), encoded(self.tenant));
        tell(Name::new("x-shopery-triggered-at", "X-Shopery-Triggered-At"), timestamp(self.triggered_at).into());
        if let Some(PayloadEvent { id, version, .. }) = self.payload_of {
            tell(Name::new("x-shopery-payload-event-id", "X-Shopery-Payload-Event-Id"), encoded(id));
            tell(Name::new("x-shopery-payload-at", "X-Shopery-Payload-At"), timestamp(version.at()).into());
            tell(Name::new("x-shopery-sequence", "X-Shopery-Sequence"), version.to_string().into());
        }
        let (changed, omitted) = fitting_in(max_changed, self.changed);
        let omitted = self.changed_omitted.saturating_add(omitted);
        if !changed.is_empty() || omitted > 0 {
            let list: Vec<_> = changed.iter().map(|path| element(path)).collect();
            tell(Name::new("x-shopery-fields-changed", "X-Shopery-Fields-Changed"), list.join(",").into());
            if omitted > 0 {
                let name = Name::new("x-shopery-fields-changed-omitted", "X-Shopery-Fields-Changed-Omitted");
                tell(name, omitted.to_string().into());
            }
        }
        tell(Name::new("x-shopery-attempt", "X-Shopery-Attempt"), self.attempt.to_string().into());
        if self.is_test {
            tell(Name::new("x-shopery-test", "X-Shopery-Test"), "true".into());
        }
        told
    }
}

fn content_type(format: PayloadFormat) -> &'static str {
    match format {
        PayloadFormat::Resource => "application/json",
        PayloadFormat::CloudEvent => "application/cloudevents+json",
    }
}

fn encoded(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, VALUE).into()
}

fn timestamp(time: OffsetDateTime) -> String {
    // A time within the years that RFC 3339 can write, which all of ours are, always prints.
    time.format(&Rfc3339).unwrap_or_default()
}

fn element(path: &str) -> Cow<'_, str> {
    utf8_percent_encode(path, ELEMENT).into()
}

/// The paths that fit in `X-Shopery-Fields-Changed`, and how many do not.
pub fn fitting(paths: &[String]) -> (&[String], usize) {
    fitting_in(MAX_FIELDS_CHANGED, paths)
}

fn fitting_in(max: usize, paths: &[String]) -> (&[String], usize) {
    let mut length = 0;
    for (index, path) in paths.iter().enumerate() {
        length += usize::from(index > 0) + element(path).len();
        if length > max {
            return (&paths[..index], paths.len() - index);
        }
    }
    (paths, 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn owned(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn a_value_is_ascii_and_reads_back() {
        for (text, value) in [
            ("evt-7", "evt-7"),
            ("a b", "a%20b"),
            (" ", "%20"),
            ("50%", "50%25"),
            ("Zoë.*>", "Zo%C3%AB.*>"),
            ("a,b", "a,b"),
        ] {
            assert_eq!(encoded(text), value);
            let decoded = percent_encoding::percent_decode_str(value).decode_utf8().unwrap();
            assert_eq!(decoded, text);
        }
    }

    #[test]
    fn a_list_of_paths_is_unambiguous_and_bounded() {
        let short = owned(&["a.b", "c,d", "é"]);
        assert_eq!(fitting(&short), (short.as_slice(), 0));
        assert_eq!(short.iter().map(|path| element(path)).collect::<Vec<_>>().join(","), "a.b,c%2Cd,%C3%A9");
        let long: Vec<_> = (0..50).map(|number| format!("{number:02}{}", "x".repeat(198))).collect();
        let (some, omitted) = fitting(&long);
        assert!(some.join(",").len() <= MAX_FIELDS_CHANGED && some.len() + omitted == 50, "{omitted}");
        assert_eq!(fitting(&owned(&[&"é".repeat(2000)])), (&[][..], 1));
    }

    #[test]
    fn a_cloud_is_told_what_an_endpoint_is_but_no_secret() {
        let changed = owned(&["total"]);
        let at = time::macros::datetime!(2026-12-01 10:00 UTC);
        let version = shopery_model::StateVersion::of(at, at, 7);
        let of = PayloadEvent { source: "orders".into(), id: "evt_1".into(), version };
        let message = Message {
            webhook_id: "dlv_1".to_owned(),
            event: "order-paid",
            event_id: "evt 1",
            event_source: "orders",
            webhook: Some("wbh_1".to_owned()),
            tenant: "acme",
            triggered_at: at,
            payload_of: Some(&of),
            changed: &changed,
            changed_omitted: 2,
            ordering_key: None,
            attempt: 1,
            is_test: true,
            format: PayloadFormat::CloudEvent,
            payload: Bytes::new(),
        };
        let own = owned(&["Authorization"]);
        let shown = |kind| {
            let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
            message.masked_headers(kind, &own, at).into_iter().map(lower).collect::<BTreeMap<_, _>>()
        };
        let mut https = shown(DestinationKind::Https);
        for secret in ["authorization", "x-shopery-secret"] {
            assert_eq!(https.remove(secret).as_deref(), Some("***"));
        }
        assert_eq!(https.len(), 17);
        assert_eq!(shown(DestinationKind::EventBridge), https);
        assert_eq!(shown(DestinationKind::PubSub), https);
    }
}
