//! What a target of an event bus or a subscription of a topic is given: the message that was signed, out of the JSON around it.
//!
//! A topic keeps the very bytes that were signed. A bus does not: EventBridge, and what it feeds, parse and write JSON anew, so what
//! is signed there is the payload in its canonical form (RFC 8785), which is the same however it was written.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The message within an envelope.
#[derive(Debug, PartialEq)]
pub struct Opened {
    /// What the signature covers.
    pub body: Vec<u8>,
    /// What an HTTPS endpoint has as headers, and what it is called here.
    pub headers: Vec<(String, String)>,
    pub place: &'static str,
}

/// The members by which an envelope is known.
#[derive(Debug, Deserialize)]
struct Envelope {
    /// Of an event as a target has it.
    detail: Option<Box<RawValue>>,
    /// Of its detail.
    payload: Option<Box<RawValue>>,
    metadata: Option<Box<RawValue>>,
    /// Of a push, or an entry of what was pulled.
    message: Option<Box<RawValue>>,
    /// Of a message.
    data: Option<Box<RawValue>>,
    attributes: Option<Box<RawValue>>,
}

/// Opens an event of a bus, or its detail, and a message of a topic as it is pushed or pulled; `None` if it is none of them.
pub fn open(text: &[u8]) -> Option<Result<Opened, String>> {
    // A list, as `gcloud pubsub subscriptions pull --format=json` prints it, of one message.
    let envelope = match serde_json::from_slice::<Vec<Envelope>>(text) {
        Ok(list) => list.into_iter().next()?,
        Err(_) => serde_json::from_slice(text).ok()?,
    };
    let within = envelope.detail.as_deref().or(envelope.message.as_deref());
    let inner = match within.map(|within| serde_json::from_str::<Envelope>(within.get())) {
        Some(inner) => inner.ok()?,
        None => envelope,
    };
    match inner {
        Envelope { payload: Some(payload), metadata: Some(metadata), .. } => Some(of_bus(&payload, &metadata)),
        Envelope { data: Some(data), attributes, .. } => Some(of_topic(&data, attributes.as_deref())),
        _ => None,
    }
}

fn of_bus(payload: &RawValue, metadata: &RawValue) -> Result<Opened, String> {
    let canonical = serde_json::from_str::<Value>(payload.get()).and_then(|it| serde_json_canonicalizer::to_vec(&it));
    let body = canonical.map_err(|error| format!("the payload has no canonical form: {error}"))?;
    Ok(Opened { body, headers: texts("metadata", metadata)?, place: "metadata" })
}

fn of_topic(data: &RawValue, attributes: Option<&RawValue>) -> Result<Opened, String> {
    let text = serde_json::from_str::<String>(data.get()).ok();
    let body = text.and_then(|text| STANDARD.decode(text).ok()).ok_or("the data of the message is not base64")?;
    let headers = attributes.map_or_else(|| Ok(Vec::new()), |attributes| texts("attributes", attributes))?;
    Ok(Opened { body, headers, place: "attribute" })
}

fn texts(what: &str, members: &RawValue) -> Result<Vec<(String, String)>, String> {
    let members = serde_json::from_str::<BTreeMap<String, String>>(members.get());
    members.map(|members| members.into_iter().collect()).map_err(|_| format!("the {what} are not texts by name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{Arrived, Clock, Key, verify};
    use serde_json::json;
    use shopery_model::EndpointSecret;

    const AT: i64 = 1_614_265_330;
    /// As the platform has it, and as a bus may write it anew.
    const BODY: &str = r#"{"total_price":59.80,"id":"ord_1","note":"Zoë \/"}"#;
    const CANONICAL: &str = r#"{"id":"ord_1","note":"Zoë /","total_price":59.8}"#;

    fn secret() -> EndpointSecret {
        EndpointSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()
    }

    fn headers(signed: &str) -> Value {
        let signature = secret().sign("dlv_1", AT, signed.as_bytes());
        json!({ "webhook-id": "dlv_1", "webhook-timestamp": AT.to_string(), "webhook-signature": signature, "X-Shopery-Event": "order-paid" })
    }

    fn is_verified(text: &str) -> bool {
        let Opened { body, headers, place } = open(text.as_bytes()).unwrap().unwrap();
        let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let arrived = Arrived {
            id: header("webhook-id"),
            timestamp: header("webhook-timestamp"),
            signature: header("webhook-signature"),
            body: &body,
            place,
        };
        verify(arrived, &[Key::Secret(secret())], Clock { now: AT, tolerance: Some(300) }).is_ok()
    }

    #[test]
    fn an_event_of_a_bus_is_verified_however_its_json_was_written() {
        let metadata = headers(CANONICAL);
        let written = [BODY, CANONICAL, r#"{ "note": "Zo\u00eb /", "total_price": 5.98e1, "id": "ord_1" }"#];
        for payload in written {
            let detail = format!(r#"{{"metadata":{metadata},"payload":{payload}}}"#);
            let event =
                format!(r#"{{"version":"0","source":"shopery/t","detail-type":"order-paid","detail":{detail}}}"#);
            assert!(is_verified(&detail) && is_verified(&event), "{payload}");
        }
        let changed =
            format!(r#"{{"metadata":{metadata},"payload":{{"id":"ord_2","note":"Zoë /","total_price":59.8}}}}"#);
        assert!(!is_verified(&changed));
    }

    #[test]
    fn a_message_of_a_topic_is_verified_pushed_and_pulled() {
        let message = json!({ "data": STANDARD.encode(BODY), "attributes": headers(BODY), "messageId": "1" });
        for text in [
            message.to_string(),
            json!({ "message": message, "subscription": "projects/p/subscriptions/s" }).to_string(),
            json!([{ "ackId": "a", "message": message }]).to_string(),
        ] {
            assert!(is_verified(&text), "{text}");
        }
        let other = json!({ "data": STANDARD.encode(CANONICAL), "attributes": headers(BODY) });
        assert!(!is_verified(&other.to_string()));
    }

    #[test]
    fn what_is_no_envelope_is_left_and_what_is_a_broken_one_is_named() {
        for text in
            ["", "{}", BODY, "[]", "[1]", "\"x\"", r#"{"detail":"x"}"#, r#"{"payload":{}}"#, "{\"message\":\"x\"}"]
        {
            assert_eq!(open(text.as_bytes()), None, "{text}");
        }
        for (text, told) in [
            (r#"{"payload":{},"metadata":{"webhook-id":1}}"#, "metadata"),
            (r#"{"data":"%","attributes":{}}"#, "base64"),
            (r#"{"data":"","attributes":[]}"#, "attributes"),
        ] {
            assert!(open(text.as_bytes()).unwrap().unwrap_err().contains(told), "{text}");
        }
    }
}
