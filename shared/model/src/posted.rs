//! What an attempt has posted, and how its body is rebuilt when somebody looks.
//!
//! The history keeps no payloads: EVENTS holds every state for as long as events are kept. An attempt records whose state it
//! sent, which of its fields, and the hash of the body, so that a rebuilt body is shown only if it is the one that was sent.
//! Rejected: payloads in SQL, which would store each state once for each webhook and attempt.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{CloudEvent, EventType, Extensions, Fields, PayloadEvent, PayloadFormat};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Posted {
    /// Since when EVENTS has the delivery's event, in nanoseconds, if the body is of its state. The rest of what a
    /// [`PayloadEvent`] says is in the row of the delivery, and most attempts are of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_ns: Option<i64>,
    /// Whose state the body is otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_of: Option<PayloadEvent>,
    /// The event that the headers name, if it is not the delivery's own: the last one of a burst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<PayloadEvent>,
    /// The time of the delivery's event, where the history's milliseconds in UTC do not say all of it.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub triggered_at: Option<OffsetDateTime>,
    /// The paths of the state that were sent; all of it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// The name of the format; that of [`PayloadFormat::Resource`] if absent. Services that do not know it hand it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The paths in `X-Shopery-Fields-Changed`, and how many it left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changed_omitted: u32,
    /// The names of the webhook's own headers. Their values are secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// SHA-256 of the body, in base64url.
    pub sha256: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The event that the headers of a delivery name: its own, but for one of a burst, which names the last event of that.
#[derive(Debug, Clone, Copy)]
pub struct NamedEvent<'a> {
    pub source: &'a str,
    pub id: &'a str,
    pub event_type: EventType,
    /// `order/ord_123`
    pub resource: &'a str,
    pub at: OffsetDateTime,
}

impl NamedEvent<'_> {
    /// The body of a POST: a state as `fields` has left it, in the format that the webhook asks for.
    pub fn body(
        self,
        format: PayloadFormat,
        data: &Bytes,
        payload_of: &PayloadEvent,
        extensions: &Extensions,
    ) -> Bytes {
        match format {
            PayloadFormat::Resource => data.clone(),
            PayloadFormat::CloudEvent => {
                let PayloadEvent { id, version, .. } = payload_of;
                // What the headers say, for receivers that pass the body on without them.
                let extensions = extensions
                    .clone()
                    .with_text("shoperysequence", version.to_string())
                    .with_text("shoperypayloadeventid", id.clone());
                let event = CloudEvent {
                    id: self.id,
                    source: self.source,
                    event_type: self.event_type,
                    subject: self.resource,
                    time: Some(self.at),
                    extensions: &extensions,
                    data,
                };
                event.encode()
            }
        }
    }
}

impl Posted {
    pub fn hash(body: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, body))
    }

    /// The hash as people compare it: 64 hexadecimal digits.
    pub fn hash_in_hexadecimal(&self) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(&self.sha256).ok()?;
        Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// `None` if this version does not know it.
    pub fn format(&self) -> Option<PayloadFormat> {
        self.format.as_deref().map_or(Some(PayloadFormat::Resource), |name| name.parse().ok())
    }

    /// The body that was sent, rebuilt from the state that EVENTS holds; `None` if the result differs. `extensions` are those of
    /// the delivery's event, which a job carries only if its webhook asked for CloudEvents when it was routed.
    pub fn body(
        &self,
        named: NamedEvent<'_>,
        payload_of: &PayloadEvent,
        state: &Bytes,
        extensions: &Extensions,
    ) -> Option<Bytes> {
        let (format, fields) = (self.format()?, self.fields.clone().map(Fields::parse).transpose().ok()?);
        let data = fields.map_or_else(|| state.clone(), |fields| fields.project(state));
        let bodies = [extensions, &Extensions::default()];
        let mut bodies = bodies.into_iter().map(|it| named.body(format, &data, payload_of, it));
        bodies.find(|body| Self::hash(body) == self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StateVersion;
    use time::macros::datetime;

    fn posted(format: PayloadFormat, body: &[u8]) -> Posted {
        Posted {
            stored_ns: Some(1_795_514_400_000_000_000),
            payload_of: None,
            named: None,
            triggered_at: None,
            fields: Some(vec!["id".to_owned()]),
            format: (format != PayloadFormat::Resource).then(|| format.name().to_owned()),
            changed: vec![],
            changed_omitted: 0,
            headers: vec![],
            sha256: Posted::hash(body),
        }
    }

    #[test]
    fn a_body_is_rebuilt_or_there_is_none() {
        let at = datetime!(2026-11-24 10:00 UTC);
        let (event_type, resource) = ("order-paid".parse().unwrap(), "order/1");
        let named = NamedEvent { source: "orders", id: "evt_1", event_type, resource, at };
        let state = Bytes::from_static(b"{\"id\":\"1\",\"total\":59.80}");
        let payload_of =
            PayloadEvent { source: "orders".into(), id: "evt_1".into(), version: StateVersion::of(at, at, 7) };
        let none = Extensions::default();
        let extensions: Extensions = serde_json::from_str(r#"{"partitionkey":"eu"}"#).unwrap();
        let sent = Bytes::from_static(b"{\"id\":\"1\"}");
        let plain = posted(PayloadFormat::Resource, &sent);
        assert_eq!(plain.body(named, &payload_of, &state, &none), Some(sent.clone()));
        assert_eq!(plain.body(named, &payload_of, &Bytes::from_static(b"{\"id\":\"2\"}"), &none), None);
        for carried in [&none, &extensions] {
            let whole = named.body(PayloadFormat::CloudEvent, &sent, &payload_of, carried);
            let found = posted(PayloadFormat::CloudEvent, &whole).body(named, &payload_of, &state, &extensions);
            assert_eq!(found, Some(whole));
        }
        // sha256sum says so.
        let hexadecimal = posted(PayloadFormat::Resource, b"").hash_in_hexadecimal().unwrap();
        assert_eq!(hexadecimal, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
