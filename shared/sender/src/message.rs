use std::borrow::Cow;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use shopery_model::{Headers, PayloadEvent, PayloadFormat};
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

impl Message<'_> {
    /// `now` becomes `webhook-timestamp`, which the signature covers.
    pub(crate) fn headers(&self, endpoint: Endpoint<'_>, now: OffsetDateTime) -> HeaderMap {
        let Endpoint { credentials, signature, .. } = endpoint;
        let signatures = credentials.signatures(signature, &self.webhook_id, now, &self.payload);
        // Its own come first, so that none could take the place of one of ours.
        self.headers_with(credentials.headers.iter(), &signatures, credentials.secret.expose(), now)
    }

    /// The headers as they were sent at `now`, for those who look into the history: what is secret is masked. `own` are the
    /// names of the webhook's own headers.
    pub fn masked_headers(&self, own: &[String], now: OffsetDateTime) -> Vec<(String, String)> {
        let own = own.iter().map(|name| (name.as_str(), Headers::MASK));
        let headers = self.headers_with(own, Headers::MASK, Headers::MASK, now);
        let shown = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), shown(value))).collect()
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
        set("content-type", content_type(self.format), false);
        set("webhook-id", &self.webhook_id, false);
        set("webhook-timestamp", &now.unix_timestamp().to_string(), false);
        set("webhook-signature", signatures, true);
        set("x-shopery-secret", secret, true);
        set("x-shopery-event", self.event, false);
        set("x-shopery-event-id", &encoded(self.event_id), false);
        if !self.event_source.is_empty() {
            set("x-shopery-event-source", &encoded(self.event_source), false);
        }
        if let Some(webhook) = &self.webhook {
            set("x-shopery-webhook-id", webhook, false);
        }
        set("x-shopery-tenant-id", &encoded(self.tenant), false);
        set("x-shopery-triggered-at", &timestamp(self.triggered_at), false);
        if let Some(PayloadEvent { id, version, .. }) = self.payload_of {
            set("x-shopery-payload-event-id", &encoded(id), false);
            set("x-shopery-payload-at", &timestamp(version.at()), false);
            set("x-shopery-sequence", &version.to_string(), false);
        }
        if !self.changed.is_empty() || self.changed_omitted > 0 {
            let list: Vec<_> = self.changed.iter().map(|path| element(path)).collect();
            set("x-shopery-fields-changed", &list.join(","), false);
            if self.changed_omitted > 0 {
                set("x-shopery-fields-changed-omitted", &self.changed_omitted.to_string(), false);
            }
        }
        set("x-shopery-attempt", &self.attempt.to_string(), false);
        if self.is_test {
            set("x-shopery-test", "true", false);
        }
        headers
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
    let mut length = 0;
    for (index, path) in paths.iter().enumerate() {
        length += usize::from(index > 0) + element(path).len();
        if length > MAX_FIELDS_CHANGED {
            return (&paths[..index], paths.len() - index);
        }
    }
    (paths, 0)
}

#[cfg(test)]
mod tests {
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
}
