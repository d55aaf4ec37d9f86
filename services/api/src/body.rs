//! Reading a JSON body field by field, so that everything wrong with it is said at once and by name.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use shopery_http::{Problem, read_body};
use shopery_model::Invalid;

const MAX_BYTES: usize = 64 * 1024;

/// A JSON object whose fields are taken out one by one; what is left in the end is unknown. Until then each stays the
/// text that was sent, so that no number loses a digit.
#[derive(Debug)]
pub(crate) struct Fields {
    fields: BTreeMap<String, Box<RawValue>>,
    wrong: Vec<Invalid>,
}

impl Fields {
    pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Self, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Problem::unsupported_media_type("send the header Content-Type: application/json"));
        }
        let body = read_body(body, MAX_BYTES, None).await?;
        match serde_json::from_slice(&body) {
            Ok(fields) => Ok(Self { fields, wrong: Vec::new() }),
            Err(error) => {
                let detail = if error.is_data() {
                    "must be a JSON object".to_owned()
                } else {
                    format!("is not valid JSON: {error}")
                };
                Err(Problem::invalid(vec![Invalid::new("body", detail)]))
            }
        }
    }

    /// For a request whose fields may all be left out: then it needs no body either, whatever type a client gives to none.
    pub(crate) async fn read_any(headers: &HeaderMap, body: Body) -> Result<Self, Problem> {
        let body = read_body(body, MAX_BYTES, None).await?;
        if body.is_empty() {
            return Ok(Self { fields: BTreeMap::new(), wrong: Vec::new() });
        }
        Self::read(headers, body.into()).await
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Option<String> {
        self.take(name, "must be a string")
    }

    pub(crate) fn bool(&mut self, name: &'static str) -> Option<bool> {
        self.take(name, "must be true or false")
    }

    /// Any value, as it was written.
    pub(crate) fn raw(&mut self, name: &'static str) -> Option<Box<RawValue>> {
        self.fields.remove(name)
    }

    /// An array of strings, each read by `parse`; an error names the element.
    pub(crate) fn list<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, Invalid>) -> Option<Vec<T>> {
        let elements: Vec<Box<RawValue>> = self.take(name, "must be an array of strings")?;
        let mut list = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            let parsed = match serde_json::from_str::<String>(element.get()) {
                Ok(text) => parse(&text).map_err(|invalid| invalid.detail),
                Err(_) => Err("must be a string".into()),
            };
            match parsed {
                Ok(value) => list.push(value),
                Err(detail) => self.wrong.push(Invalid::new(format!("{name}[{index}]"), detail)),
            }
        }
        (list.len() == elements.len()).then_some(list)
    }

    /// An object whose values are strings; an error names the member, and shows no value.
    pub(crate) fn members(&mut self, name: &'static str) -> Option<Vec<(String, SecretString)>> {
        let members: BTreeMap<String, Box<RawValue>> = self.take(name, "must be an object whose values are strings")?;
        let mut read = Vec::with_capacity(members.len());
        for (member, value) in &members {
            match serde_json::from_str::<String>(value.get()) {
                Ok(text) => read.push((member.clone(), text.into())),
                Err(_) => {
                    let shown: String = member.chars().take(60).collect();
                    self.wrong.push(Invalid::new(format!("{name}.{shown}"), "must be a string"));
                }
            }
        }
        (read.len() == members.len()).then_some(read)
    }

    /// An object whose values are strings that are no secret; an error names the member.
    pub(crate) fn texts(&mut self, name: &'static str) -> Option<BTreeMap<String, String>> {
        let members = self.members(name)?;
        Some(members.into_iter().map(|(member, text)| (member, text.expose_secret().to_owned())).collect())
    }

    /// A field that `null` clears: `Some(None)`. Any other value is read by `read`.
    pub(crate) fn clearable<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        if self.fields.get(name)?.get() == "null" {
            self.fields.remove(name);
            return Some(None);
        }
        read(self).map(Some)
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

    /// Whether something was wrong with this field.
    pub(crate) fn has_refused(&self, name: &str) -> bool {
        self.wrong.iter().any(|invalid| invalid.field == name)
    }

    /// Nothing may be wrong and nothing may be left.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for name in self.fields.keys() {
            let shown: String = name.chars().take(60).collect();
            self.wrong.push(Invalid::new(shown, "is not a known field"));
        }
        if self.wrong.is_empty() { Ok(()) } else { Err(Problem::invalid(self.wrong)) }
    }

    fn take<T: DeserializeOwned>(&mut self, name: &'static str, must: &'static str) -> Option<T> {
        let value = self.fields.remove(name)?;
        match serde_json::from_str(value.get()) {
            Ok(value) => Some(value),
            Err(_) => self.refuse(Invalid::new(name, must)),
        }
    }

    fn refuse<T>(&mut self, invalid: Invalid) -> Option<T> {
        self.wrong.push(invalid);
        None
    }
}
