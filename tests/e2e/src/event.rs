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
    /// Further attributes, with their values as JSON.
    pub extensions: Vec<(String, Value)>,
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
            extensions: Vec::new(),
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

    pub fn with_source(mut self, source: &str) -> Self {
        self.source = source.to_owned();
        self
    }

    /// The headers of the event in binary mode, whose body is `data`; percent-encoded where they must be.
    pub fn headers(&self) -> Vec<(String, String)> {
        let encode = |text: &str| -> String {
            let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%');
            let each = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
            text.bytes().map(each).collect()
        };
        let known = [
            ("specversion", "1.0"),
            ("id", &self.id),
            ("source", &self.source),
            ("type", &self.event_type),
            ("subject", &self.subject),
        ];
        let mut headers: Vec<_> = known.map(|(name, text)| (format!("ce-{name}"), encode(text))).into();
        headers.extend(self.time.iter().map(|time| ("ce-time".to_owned(), encode(time))));
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        headers.extend(self.extensions.iter().map(|(name, value)| (format!("ce-{name}"), encode(&text(value)))));
        headers
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
        for (name, value) in &self.extensions {
            write!(json, "{}:{value},", quoted(name)).unwrap();
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
