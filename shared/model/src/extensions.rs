use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Invalid;

/// More than any event has: a bound, since every attribute is read and stored.
const MAX_ATTRIBUTES: usize = 64;
const MAX_NAME_CHARS: usize = 64;

/// The attributes of an event that CloudEvents does not require and we do not use: `dataschema`, `partitionkey`,
/// `traceparent` and whatever else a publisher adds. They are kept as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Extensions(BTreeMap<String, Value>);

/// The types that CloudEvents has and JSON can tell apart; a URI or a time is a string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Boolean(bool),
    Integer(i32),
    String(String),
}

impl Value {
    fn read(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok().or_else(|| Self::whole_number(json))
    }

    /// `7.0` and `7e0` are whole numbers too, as JSON Schema counts, and our OpenAPI document with it.
    fn whole_number(json: &str) -> Option<Self> {
        let number: f64 = serde_json::from_str(json).ok()?;
        let is_whole = number.fract() == 0.0 && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number);
        is_whole.then_some(Self::Integer(number as i32))
    }
}

impl Extensions {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of an attribute that is a string.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Value::String(text) => Some(text),
            Value::Boolean(_) | Value::Integer(_) => None,
        }
    }

    /// With an attribute of ours.
    pub fn with_text(mut self, name: &'static str, value: String) -> Self {
        self.0.insert(name.to_owned(), Value::String(value));
        self
    }

    /// Adds an attribute of structured JSON; `null` counts as absent, as CloudEvents has it.
    pub(crate) fn add(&mut self, name: &str, value: &RawValue) -> Result<(), Invalid> {
        self.insert(name, (value.get() != "null").then(|| Value::read(value.get())))
    }

    /// Adds an attribute of binary mode, where a header cannot tell a number from a text: all are strings.
    pub(crate) fn add_text(&mut self, name: &str, text: &str) -> Result<(), Invalid> {
        self.insert(name, Some(Some(Value::String(text.to_owned()))))
    }

    /// `None` is an attribute that is absent, `Some(None)` one of a type that CloudEvents does not have.
    fn insert(&mut self, name: &str, value: Option<Option<Value>>) -> Result<(), Invalid> {
        let invalid = |detail: &'static str| {
            let shown: String = name.chars().take(MAX_NAME_CHARS).collect();
            Invalid::new(shown, detail)
        };
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if name.is_empty() || name.len() > MAX_NAME_CHARS || !is_name(name) {
            return Err(invalid(
                "is no CloudEvents attribute: its name must have 1 to 64 characters, a-z and 0-9 alone",
            ));
        }
        let Some(value) = value else { return Ok(()) };
        let value = value.filter(|value| match value {
            Value::String(text) => !text.chars().any(char::is_control),
            Value::Boolean(_) | Value::Integer(_) => true,
        });
        let Some(value) = value else {
            return Err(invalid(
                "must be a string without control characters, true, false, or a whole number of 32 bits",
            ));
        };
        if self.0.insert(name.to_owned(), value).is_some() {
            return Err(invalid("is there twice"));
        }
        if self.0.len() > MAX_ATTRIBUTES {
            return Err(invalid("is one attribute too many: an event may have 64 besides the required ones"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(name: &str, json: &str) -> Result<Extensions, Invalid> {
        let mut extensions = Extensions::default();
        extensions.add(name, serde_json::from_str(json).unwrap())?;
        Ok(extensions)
    }

    #[test]
    fn an_attribute_is_of_a_type_of_cloudevents() {
        for (json, kept) in [("\"a\"", true), ("true", true), ("-7", true), ("null", false)] {
            let extensions = add("partitionkey", json).unwrap();
            assert_eq!(extensions.is_empty(), !kept, "{json}");
            let text = serde_json::to_string(&extensions).unwrap();
            assert_eq!(text, if kept { format!("{{\"partitionkey\":{json}}}") } else { "{}".to_owned() });
            assert_eq!(serde_json::from_str::<Extensions>(&text).unwrap(), extensions);
        }
        for (json, kept) in [("7.0", "7"), ("-2e2", "-200")] {
            let text = serde_json::to_string(&add("sampledrate", json).unwrap()).unwrap();
            assert_eq!(text, format!("{{\"sampledrate\":{kept}}}"));
        }
        for json in ["{}", "[]", "1.5", "1e999", "3000000000", "3000000000.0", "\"\\u0000\""] {
            assert_eq!(add("partitionkey", json).unwrap_err().field, "partitionkey", "{json}");
        }
        for name in ["", "Key", "key_1", "kéy", &"k".repeat(65)] {
            assert!(add(name, "1").is_err(), "{name}");
        }
    }

    #[test]
    fn there_are_few_and_each_is_there_once() {
        let (mut extensions, value) = (Extensions::default(), serde_json::from_str("1").unwrap());
        for number in 0..64 {
            extensions.add(&format!("a{number}"), value).unwrap();
        }
        assert!(extensions.add("a0", value).unwrap_err().detail.contains("twice"));
        assert!(extensions.add("b", value).is_err());
    }
}
