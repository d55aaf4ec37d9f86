//! Row (k): what answers as EventBridge and Pub/Sub do, at once, over plain HTTP. What it reads of a request is what it notes: which
//! deliveries are in it.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::ledger::Ledger;
use crate::stack;

/// Where the webhooks of this row send.
pub const BUS: &str = "arn:aws:events:eu-west-1:123456789012:event-bus/load";
pub const TOPIC: &str = "pubsub://shopery-load/orders";

const TOPICS: &str = "/v1/projects/";

/// What the services are told of the clouds, which are at `sink`. The keys sign, and nobody verifies.
pub fn variables(sink: SocketAddr) -> [(&'static str, String); 6] {
    [
        ("AWS_ENDPOINT_URL", format!("http://{sink}")),
        ("AWS_REGION", "eu-west-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIAOFTHEBENCHMARKS0".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "of-the-benchmark-that-verifies-nothing".to_owned()),
        ("SHOPERY_AWS_PRINCIPAL", "arn:aws:iam::999999999999:role/load".to_owned()),
        ("PUBSUB_EMULATOR_HOST", sink.to_string()),
    ]
}

/// Whether a path is one of theirs.
pub fn is_for(path: &str) -> bool {
    path == "/" || path.starts_with(TOPICS)
}

pub async fn receive(request: Request<Incoming>, ledger: &Ledger) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let answer = if head.uri.path() == "/" {
        put_events(&body, ledger)
    } else if head.method == Method::GET {
        // Whose topic it is.
        Some(json!({ "labels": { "shopery-tenant": stack::TOPIC } }))
    } else {
        publish(&body, ledger)
    };
    let Some(answer) = answer else {
        let mut refused = Response::new(Full::default());
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return refused;
    };
    let mut answer = Response::new(Full::new(Bytes::from(answer.to_string())));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn put_events(body: &[u8], ledger: &Ledger) -> Option<Value> {
    let asked: Value = serde_json::from_slice(body).ok()?;
    let entries = asked["Entries"].as_array()?;
    for entry in entries {
        let detail: HashMap<&str, &RawValue> = serde_json::from_str(entry["Detail"].as_str()?).ok()?;
        let metadata: Value = serde_json::from_str(detail.get("metadata")?.get()).ok()?;
        note(&metadata, detail.get("payload")?.get().len(), ledger);
    }
    let answers = (0..entries.len()).map(|number| json!({ "EventId": number.to_string() }));
    Some(json!({ "FailedEntryCount": 0, "Entries": answers.collect::<Vec<_>>() }))
}

fn publish(body: &[u8], ledger: &Ledger) -> Option<Value> {
    let asked: Value = serde_json::from_slice(body).ok()?;
    let messages = asked["messages"].as_array()?;
    for message in messages {
        let data = message["data"].as_str()?;
        // Of base64.
        let bytes = data.len() / 4 * 3 - data.bytes().rev().take_while(|byte| *byte == b'=').count();
        note(&message["attributes"], bytes, ledger);
    }
    Some(json!({ "messageIds": (0..messages.len()).map(|number| number.to_string()).collect::<Vec<_>>() }))
}

fn note(names: &Value, bytes: usize, ledger: &Ledger) {
    // When a webhook is saved, a test is sent.
    if names["X-Shopery-Test"].is_null() {
        let name = |name: &str| names[name].as_str().unwrap_or_default().as_bytes();
        ledger.arrived(name("X-Shopery-Event-Id"), 0, name("webhook-id"), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload;

    #[test]
    fn deliveries_are_noted_and_tests_are_not() {
        let ledger = Ledger::default();
        let sheet = ledger.open(2, 1, None).unwrap();
        let (order, id) = (payload::order(0, 0), |number| payload::event_id(0, number));
        let metadata = json!({ "X-Shopery-Event-Id": id(0), "webhook-id": "dlv_1" });
        let detail = format!(r#"{{"payload":{order},"metadata":{metadata}}}"#);
        let test = json!({ "payload": {}, "metadata": { "X-Shopery-Test": "true" } }).to_string();
        let body = json!({ "Entries": [{ "Detail": detail }, { "Detail": test }] }).to_string();
        let answer = put_events(body.as_bytes(), &ledger).unwrap();
        assert_eq!((&answer["FailedEntryCount"], answer["Entries"].as_array().unwrap().len()), (&json!(0), 2));
        assert_eq!((sheet.arrivals(), ledger.strays()), (1, 0));

        // A text of as many bytes as base64 makes of an order.
        let data = format!(
            "{}{}",
            "A".repeat(order.len().div_ceil(3) * 4 - (3 - order.len() % 3) % 3),
            "=".repeat((3 - order.len() % 3) % 3)
        );
        let message = json!({ "data": data, "attributes": { "X-Shopery-Event-Id": id(1), "webhook-id": "dlv_2" } });
        let answer = publish(json!({ "messages": [message] }).to_string().as_bytes(), &ledger).unwrap();
        assert_eq!(answer, json!({ "messageIds": ["0"] }));
        assert_eq!((sheet.arrivals(), sheet.tally().damaged), (2, 0));
        assert!(put_events(b"{}", &ledger).is_none() && publish(b"no JSON", &ledger).is_none());
    }
}
