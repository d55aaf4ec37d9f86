//! JSON as a filter reads it: one level at a time, only where the pattern looks, and each number by its text.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::number::Number;

/// A value that is read when it is first looked at, and kept for the tests after.
#[derive(Debug)]
pub(super) struct Node<'a> {
    json: &'a RawValue,
    value: OnceCell<Option<Value<'a>>>,
}

#[derive(Debug)]
pub(super) enum Value<'a> {
    Scalar(Scalar<'a>),
    List(Vec<Node<'a>>),
    Object(Members<'a>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
}

/// In the order of the text, and with what it says twice.
pub(super) type Members<'a> = Vec<(Cow<'a, str>, Node<'a>)>;

impl<'a> Node<'a> {
    pub(super) fn new(json: &'a RawValue) -> Self {
        Self { json, value: OnceCell::new() }
    }

    pub(super) fn json(&self) -> &'a str {
        self.json.get()
    }

    /// A raw value has been through the JSON parser, so `None` is not expected.
    pub(super) fn value(&self) -> Option<&Value<'a>> {
        self.value.get_or_init(|| read(self.json.get()).ok()).as_ref()
    }
}

impl Scalar<'_> {
    pub(super) fn to_static(&self) -> Scalar<'static> {
        match self {
            Self::Null => Scalar::Null,
            Self::Bool(value) => Scalar::Bool(*value),
            Self::Number(number) => Scalar::Number(number.clone()),
            Self::Text(text) => Scalar::Text(text.clone().into_owned().into()),
        }
    }
}

fn read(json: &str) -> Result<Value<'_>, serde_json::Error> {
    Ok(match json.as_bytes().first() {
        Some(b'{') => Value::Object(serde_json::from_str::<Object<'_>>(json)?.0),
        Some(b'[') => Value::List(serde_json::from_str::<Vec<&RawValue>>(json)?.into_iter().map(Node::new).collect()),
        Some(b'"') => Value::Scalar(Scalar::Text(serde_json::from_str::<Text<'_>>(json)?.lossy())),
        Some(b't') => Value::Scalar(Scalar::Bool(true)),
        Some(b'f') => Value::Scalar(Scalar::Bool(false)),
        Some(b'n') => Value::Scalar(Scalar::Null),
        _ => Value::Scalar(Scalar::Number(Number::parse(json))),
    })
}

/// Read as bytes, because an event may hold half a surrogate pair (`\ud800`), which is JSON and yet no text.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, [u8]>);

impl<'a> Text<'a> {
    fn lossy(self) -> Cow<'a, str> {
        match self.0 {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
        }
    }
}

struct Object<'a>(Members<'a>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, json)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    members.push((name.lossy(), Node::new(json)));
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(InOrder).map(Object)
    }
}
