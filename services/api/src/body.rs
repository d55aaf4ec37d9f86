//! Reading a JSON body field by field, so that everything wrong with it is said at once and by name.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use serde_json::{Map, Value};
use shopery_http::{Problem, read_body};
use shopery_model::Invalid;

const MAX_BYTES: usize = 64 * 1024;

/// A JSON object whose fields are taken out one by one; what is left in the end is unknown.
#[derive(Debug)]
pub(crate) struct Fields {
    fields: Map<String, Value>,
    wrong: Vec<Invalid>,
}

impl Fields {
    pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Self, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Problem::unsupported_media_type("send the header Content-Type: application/json"));
        }
        let body = read_body(body, MAX_BYTES).await?;
        match serde_json::from_slice(&body) {
            Ok(Value::Object(fields)) => Ok(Self { fields, wrong: Vec::new() }),
            Ok(_) => Err(Problem::invalid(vec![Invalid::new("body", "must be a JSON object")])),
            Err(error) => Err(Problem::invalid(vec![Invalid::new("body", format!("is not valid JSON: {error}"))])),
        }
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Option<String> {
        match self.fields.remove(name)? {
            Value::String(text) => Some(text),
            _ => self.refuse(Invalid::new(name, "must be a string")),
        }
    }

    pub(crate) fn bool(&mut self, name: &'static str) -> Option<bool> {
        match self.fields.remove(name)? {
            Value::Bool(value) => Some(value),
            _ => self.refuse(Invalid::new(name, "must be true or false")),
        }
    }

    /// An array of strings, each read by `parse`; an error names the element.
    pub(crate) fn list<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, Invalid>) -> Option<Vec<T>> {
        let Value::Array(elements) = self.fields.remove(name)? else {
            return self.refuse(Invalid::new(name, "must be an array of strings"));
        };
        let mut list = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            let parsed = match element {
                Value::String(text) => parse(text).map_err(|invalid| invalid.detail),
                _ => Err("must be a string".into()),
            };
            match parsed {
                Ok(value) => list.push(value),
                Err(detail) => self.wrong.push(Invalid::new(format!("{name}[{index}]"), detail)),
            }
        }
        (list.len() == elements.len()).then_some(list)
    }

    /// Notes what is wrong with a value that was taken.
    pub(crate) fn check<T>(&mut self, result: Result<T, Invalid>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(invalid) => self.refuse(invalid),
        }
    }

    /// The value, noting that it is missing if nothing else was wrong with it.
    pub(crate) fn require<T>(&mut self, name: &'static str, value: Option<T>) -> Option<T> {
        let noted = |invalid: &Invalid| invalid.field == name || invalid.field.starts_with(&format!("{name}["));
        if value.is_none() && !self.wrong.iter().any(noted) {
            self.wrong.push(Invalid::new(name, "is missing"));
        }
        value
    }

    /// Nothing may be wrong and nothing may be left.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for name in self.fields.keys() {
            let shown: String = name.chars().take(60).collect();
            self.wrong.push(Invalid::new(shown, "is not a known field"));
        }
        if self.wrong.is_empty() { Ok(()) } else { Err(Problem::invalid(self.wrong)) }
    }

    fn refuse<T>(&mut self, invalid: Invalid) -> Option<T> {
        self.wrong.push(invalid);
        None
    }
}
