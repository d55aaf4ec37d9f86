//! The attributes of an event as they came, before each is judged by itself: members of a JSON object (structured mode), or
//! headers (binary mode).
//!
//! Attributes are read by hand, not by what serde derives: that would take an array for an event, and would name a Rust
//! type to a publisher that sent a number.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{Extensions, Invalid};

/// What CloudEvents or we give a meaning; all others are extensions.
const KNOWN: [&str; 9] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "data_base64"];

/// The attributes by name.
#[derive(Debug, Default)]
pub(crate) struct Attributes<'a>(Vec<(Cow<'a, str>, Given<'a>)>);

#[derive(Debug)]
enum Given<'a> {
    /// Of structured mode: any JSON.
    Json(&'a RawValue),
    /// Of binary mode: the text of a header, decoded.
    Text(String),
}

impl<'de> Deserialize<'de> for Attributes<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Attributes<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut attributes = Vec::with_capacity(KNOWN.len());
                while let Some((Name(name), value)) = map.next_entry()? {
                    attributes.push((name, Given::Json(value)));
                }
                Ok(Attributes(attributes))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A name that is borrowed unless it had to be unescaped.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Attributes<'a> {
    /// Those of structured JSON. The error is about what does not even read as an event.
    pub(crate) fn read(json: &'a [u8]) -> Result<Self, Invalid> {
        check_start(json)?;
        let first = json.iter().find(|byte| !byte.is_ascii_whitespace());
        serde_json::from_slice(json).map_err(|error| match first {
            Some(b'[') => Invalid::new(
                "body",
                "is a JSON array: one event is a JSON object; send a batch as application/cloudevents-batch+json",
            ),
            _ if error.is_data() => Invalid::new("body", "must be a CloudEvents 1.0 JSON object"),
            _ => Invalid::new("body", format!("is not valid JSON: {error}")),
        })
    }

    fn get(&self, name: &str) -> Option<&Given<'a>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The data of structured JSON, as it was written.
    pub(crate) fn data(&self) -> Option<&'a str> {
        match self.get("data")? {
            Given::Json(raw) => Some(raw.get()),
            Given::Text(_) => None,
        }
    }

    pub(crate) fn required(&self, name: &'static str) -> Result<String, Invalid> {
        self.optional(name)?.ok_or_else(|| Invalid::new(name, "is missing"))
    }

    /// JSON's `null` counts as absent, as CloudEvents has it.
    pub(crate) fn optional(&self, name: &'static str) -> Result<Option<String>, Invalid> {
        match self.get(name) {
            None => Ok(None),
            Some(Given::Text(text)) => Ok(Some(text.clone())),
            Some(Given::Json(raw)) => {
                serde_json::from_str(raw.get()).map_err(|_| Invalid::new(name, "must be a string"))
            }
        }
    }

    /// The names that a meaning is given to and that are there twice.
    pub(crate) fn repeated(&self) -> impl Iterator<Item = &'static str> {
        KNOWN.into_iter().filter(|known| self.0.iter().filter(|(name, _)| name == known).count() > 1)
    }

    pub(crate) fn extensions(&self, mut note: impl FnMut(Invalid)) -> Extensions {
        let mut extensions = Extensions::default();
        for (name, value) in self.0.iter().filter(|(name, _)| !KNOWN.contains(&name.as_ref())) {
            let added = match value {
                Given::Json(raw) => extensions.add(name, raw),
                Given::Text(text) => extensions.add_text(name, text),
            };
            if let Err(invalid) = added {
                note(invalid);
            }
        }
        extensions
    }
}

/// The attributes of an event in binary mode, each a header `ce-<name>`.
#[derive(Debug, Default)]
pub struct BinaryAttributes {
    given: Vec<(String, String)>,
    bytes: usize,
    wrong: Vec<Invalid>,
}

impl BinaryAttributes {
    /// What the name of each header begins with.
    pub const PREFIX: &'static str = "ce-";

    /// The headers that every event in binary mode has. A message with one of them is one, so that the error names
    /// what is missing.
    pub const REQUIRED: [&'static str; 4] = ["ce-specversion", "ce-id", "ce-source", "ce-type"];

    /// Adds a header, by its name without the prefix, in lower case, and its value as it came.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        // These two take another byte in the JSON that is stored.
        let escaped = value.iter().filter(|byte| matches!(byte, b'"' | b'\\')).count();
        self.bytes += Self::PREFIX.len() + name.len() + value.len() + escaped;
        match decode_header(value) {
            Ok(text) => self.given.push((name.to_owned(), text)),
            Err(detail) => self.wrong.push(as_header(Invalid::new(name.to_owned(), detail))),
        }
    }

    /// The size of all headers.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The attributes, and what is wrong with the others.
    pub(crate) fn into_attributes(mut self) -> (Attributes<'static>, Vec<Invalid>) {
        if self.given.iter().any(|(name, _)| name == "data") {
            self.wrong.push(Invalid::new("ce-data", "is no attribute: in binary mode the body is the data"));
        }
        let attributes = self.given.into_iter().map(|(name, text)| (name.into(), Given::Text(text)));
        (Attributes(attributes.collect()), self.wrong)
    }
}

/// An error about an attribute, for a publisher that sent it as a header.
pub(crate) fn as_header(invalid: Invalid) -> Invalid {
    match invalid.field.as_ref() {
        // These two are no headers.
        "data" | "body" => invalid,
        name => Invalid { field: format!("{}{name}", BinaryAttributes::PREFIX).into(), detail: invalid.detail },
    }
}

/// The data of an event in binary mode: one JSON object, without the space around it.
pub(crate) fn data_of_body(body: &Bytes) -> Result<Bytes, Invalid> {
    if body.trim_ascii().is_empty() {
        return Err(Invalid::new("data", "is missing: in binary mode the body is the resource, as a JSON object"));
    }
    check_start(body)?;
    let raw: &RawValue =
        serde_json::from_slice(body).map_err(|error| Invalid::new("body", format!("is not valid JSON: {error}")))?;
    if !raw.get().starts_with('{') {
        return Err(Invalid::new("data", "must be a JSON object, the resource"));
    }
    Ok(body.slice_ref(raw.get().as_bytes()))
}

/// A byte order mark is not JSON, and its error would be "expected value at line 1 column 1", which nobody understands.
fn check_start(json: &[u8]) -> Result<(), Invalid> {
    if json.starts_with(b"\xef\xbb\xbf") {
        return Err(Invalid::new("body", "begins with a byte order mark (BOM): send UTF-8 without it"));
    }
    Ok(())
}

/// A header's value as the CloudEvents HTTP binding (3.1.3.2) has it: a quoted string is unquoted, then one round of
/// percent-decoding; the bytes must be UTF-8. What is not encoded although it should be is taken as it is.
fn decode_header(value: &[u8]) -> Result<String, &'static str> {
    let unquoted = unquote(value.trim_ascii())?;
    let mut decoded = Vec::with_capacity(unquoted.len());
    let mut rest = unquoted.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        // Taken as it is, "100%" and "100%25" would be one id.
        let digits = rest.next().zip(rest.next()).and_then(|(high, low)| Some((hex(*high)?, hex(*low)?)));
        let (high, low) = digits.ok_or("has a % without two hexadecimal digits: write % as %25")?;
        decoded.push(high << 4 | low);
    }
    String::from_utf8(decoded).map_err(|_| "must be UTF-8, percent-encoded")
}

fn unquote(value: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let Some(quoted) = value.strip_prefix(b"\"") else { return Ok(value.into()) };
    let mut text = Vec::with_capacity(quoted.len());
    let mut rest = quoted.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'"' if rest.as_slice().is_empty() => return Ok(text.into()),
            b'"' => break,
            b'\\' => text.push(*rest.next().ok_or(OPEN_QUOTE)?),
            byte => text.push(byte),
        }
    }
    Err(OPEN_QUOTE)
}

const OPEN_QUOTE: &str = "begins with a double quote and does not end with it: write \" as %22";

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_decoded_as_the_http_binding_has_it() {
        for (value, decoded) in [
            ("orders", Ok("orders")),
            (" orders ", Ok("orders")),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", Ok("Euro € 😀")),
            ("%41%2f%2F", Ok("A//")),
            ("100%25", Ok("100%")),
            ("%2541", Ok("%41")),
            ("Zoë", Ok("Zoë")),
            (r#""a b""#, Ok("a b")),
            (r#""a \"b\" \\ %20""#, Ok(r#"a "b" \  "#)),
            (r#"a"b"#, Ok(r#"a"b"#)),
            ("", Ok("")),
            ("%", Err(())),
            ("%4", Err(())),
            ("%zz", Err(())),
            ("%C0%A0", Err(())),
            ("%FF", Err(())),
            (r#""a"#, Err(())),
            (r#""a"b"#, Err(())),
            (r#""a\"#, Err(())),
            (r#"""#, Err(())),
        ] {
            assert_eq!(decode_header(value.as_bytes()).as_deref().map_err(drop), decoded, "{value}");
        }
        assert!(decode_header(b"\xff").is_err());
    }
}
