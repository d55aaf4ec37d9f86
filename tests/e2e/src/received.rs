//! A message as a merchant has it, whichever way it came.

use std::collections::{BTreeMap, HashMap};

use percent_encoding::percent_decode_str;
use serde_json::Value;
use serde_json::value::RawValue;
use shopery_local::emulators::Message;

use crate::Arrival;

#[derive(Debug, Clone)]
pub struct Received {
    /// Headers, attributes or `metadata`, by the names as they came.
    pub names: BTreeMap<String, String>,
    /// Of EventBridge the text of `payload`, as the queue has it.
    pub body: Vec<u8>,
    pub ordering_key: Option<String>,
    /// Of EventBridge: the whole event.
    pub event: Value,
}

impl Received {
    pub fn of_arrival(arrival: &Arrival) -> Self {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers = arrival.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes())));
        Self { names: headers.collect(), body: arrival.body.to_vec(), ordering_key: None, event: Value::Null }
    }

    pub fn of_message(message: Message) -> Self {
        let Message { data, attributes, ordering_key, .. } = message;
        Self { names: attributes, body: data, ordering_key, event: Value::Null }
    }

    /// What EventBridge has put into a queue.
    pub fn of_event(text: &str) -> Self {
        type Members = HashMap<String, Box<RawValue>>;
        let event: Members = serde_json::from_str(text).unwrap();
        let mut detail: Members = serde_json::from_str(event["detail"].get()).unwrap();
        let payload = detail.remove("payload").unwrap_or_else(|| panic!("no payload in {text}"));
        let names = serde_json::from_str(detail["metadata"].get()).unwrap();
        let event = serde_json::from_str(text).unwrap();
        Self { names, body: payload.get().as_bytes().to_vec(), ordering_key: None, event }
    }

    /// What is told under this name, whatever the case of its letters; it must be there.
    #[track_caller]
    pub fn name(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("there is no {name} in {:?}", self.names))
    }

    pub fn find(&self, name: &str) -> Option<&str> {
        let found = self.names.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn webhook_id(&self) -> &str {
        self.name("webhook-id")
    }

    /// As its publisher wrote it.
    pub fn event_id(&self) -> String {
        percent_decode_str(self.name("x-shopery-event-id")).decode_utf8().unwrap().into_owned()
    }

    /// What the Test call sends, and whoever saves a webhook.
    pub fn is_test(&self) -> bool {
        self.find("x-shopery-test") == Some("true")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
