use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::Endpoint;

/// What is posted to an endpoint.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// The same on every attempt: the receiver's key against duplicates.
    pub webhook_id: String,
    pub event: &'a str,
    pub event_id: &'a str,
    /// The id of the webhook, if it is saved.
    pub webhook: Option<String>,
    pub tenant: &'a str,
    pub triggered_at: OffsetDateTime,
    /// Which of the paths that the webhook watches have changed.
    pub changed: &'a [String],
    pub attempt: u32,
    pub payload: Bytes,
}

impl Message<'_> {
    /// `now` becomes `webhook-timestamp`, which the signature covers.
    pub(crate) fn headers(&self, endpoint: Endpoint<'_>, now: OffsetDateTime) -> HeaderMap {
        let Endpoint { credentials, signature, .. } = endpoint;
        let signatures = credentials.signatures(signature, &self.webhook_id, now, &self.payload);
        let mut headers = HeaderMap::with_capacity(16);
        // First, so that none could take the place of one of ours.
        for (name, value) in credentials.headers.iter() {
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        let mut set = |name: &'static str, value: &str, is_secret: bool| {
            // Ids and tenants are UTF-8 without control characters, so every one is a header value.
            if let Ok(mut value) = HeaderValue::from_bytes(value.as_bytes()) {
                value.set_sensitive(is_secret);
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        set("content-type", "application/json", false);
        set("webhook-id", &self.webhook_id, false);
        set("webhook-timestamp", &now.unix_timestamp().to_string(), false);
        set("webhook-signature", &signatures, true);
        set("x-shopery-secret", credentials.secret.expose(), true);
        set("x-shopery-event", self.event, false);
        set("x-shopery-event-id", self.event_id, false);
        if let Some(webhook) = &self.webhook {
            set("x-shopery-webhook-id", webhook, false);
        }
        set("x-shopery-tenant-id", self.tenant, false);
        set("x-shopery-triggered-at", &self.triggered_at.format(&Rfc3339).unwrap_or_default(), false);
        if !self.changed.is_empty() {
            set("x-shopery-fields-changed", &self.changed.join(","), false);
        }
        set("x-shopery-attempt", &self.attempt.to_string(), false);
        headers
    }
}
