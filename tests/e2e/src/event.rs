//! Events as a platform service publishes them.

use std::fmt::Write;

use serde_json::{Value, json};
use shopery_model::catalogue;

/// A CloudEvent whose `data` is text, so that a test decides about its every byte.
#[derive(Debug, Clone)]
pub struct Event {
    pub source: String,
    pub id: String,
    pub event_type: String,
    pub subject: String,
    pub time: Option<String>,
    pub data: String,
}

impl Event {
    /// An event about the resource `id` of the kind that its type names.
    pub fn new(event_type: &str, id: &str) -> Self {
        let kind = event_type.split('-').next().unwrap();
        Self {
            source: "e2e".to_owned(),
            id: format!("evt_{id}"),
            event_type: event_type.to_owned(),
            subject: format!("{kind}/{id}"),
            time: None,
            data: resource(event_type, id).to_string(),
        }
    }

    /// Of the catalogue's sample order.
    pub fn order(id: &str) -> Self {
        Self::new("order-created", id)
    }

    pub fn with_data(mut self, data: impl Into<String>) -> Self {
        self.data = data.into();
        self
    }

    /// CloudEvents 1.0 in structured JSON; `data` is spliced in as it is.
    pub fn json(&self) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let mut json = String::with_capacity(self.data.len() + 200);
        write!(
            json,
            r#"{{"specversion":"1.0","id":{},"source":{},"type":{},"subject":{},"#,
            quoted(&self.id),
            quoted(&self.source),
            quoted(&self.event_type),
            quoted(&self.subject),
        )
        .unwrap();
        if let Some(time) = &self.time {
            write!(json, r#""time":{},"#, quoted(time)).unwrap();
        }
        write!(json, r#""data":{}}}"#, self.data).unwrap();
        json
    }

    /// Many events as one batch.
    pub fn batch(events: &[Self]) -> String {
        format!("[{}]", events.iter().map(Self::json).collect::<Vec<_>>().join(","))
    }
}

/// The catalogue's example for this type, with this id, so that no test depends on a shape that nobody publishes. It has
/// the note by which [`crate::leaks`] knows a payload; a deletion has no note.
fn resource(event_type: &str, id: &str) -> Value {
    let known = catalogue().read(event_type);
    let example = known.and_then(|known| catalogue().example(known));
    let mut resource = example.map_or_else(|| json!({}), |example| serde_json::from_str(example.get()).unwrap());
    resource["id"] = json!(id);
    if known.is_none_or(|known| !known.is_deletion()) {
        resource["note"] = json!("Grüße aus Göteborg");
    }
    resource
}
