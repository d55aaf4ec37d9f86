//! JSON as it came: members in their order, numbers with all their digits.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// The members of an object, in their order.
#[derive(Debug)]
pub struct Members(pub Vec<(String, Box<RawValue>)>);

impl Members {
    /// The value at a path such as `error.reason`, as a person reads it; empty if there is none.
    pub fn text(&self, path: &str) -> String {
        let (name, within) = path.split_once('.').map_or((path, None), |(name, within)| (name, Some(within)));
        let Some((_, value)) = self.0.iter().find(|(known, _)| known == name) else { return String::new() };
        match within {
            Some(within) => of(value).map_or_else(String::new, |members| members.text(within)),
            None => text(value),
        }
    }
}

/// An object; `None` if it is anything else.
pub fn of(value: &RawValue) -> Option<Members> {
    serde_json::from_str(value.get()).ok()
}

/// A value as a person reads it: strings without quotes, arrays of simple values with commas between.
pub fn text(value: &RawValue) -> String {
    let json = value.get();
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).unwrap_or_else(|_| json.to_owned()),
        Some(b'n') => String::new(),
        Some(b'[') => match serde_json::from_str::<Vec<Box<RawValue>>>(json) {
            Ok(parts) if parts.iter().all(|part| !part.get().starts_with(['[', '{'])) => {
                parts.iter().map(|part| text(part)).collect::<Vec<_>>().join(", ")
            }
            _ => json.to_owned(),
        },
        _ => json.to_owned(),
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_numbers_their_digits() {
        let json = r#"{"z":10.10,"a":{"b":"ü\n"},"list":["x",1,true],"deep":[{"k":1}],"none":null,"big":12345678901234567890.5}"#;
        let members: Members = serde_json::from_str(json).unwrap();
        assert_eq!(members.0.iter().map(|(name, _)| name.as_str()).collect::<String>(), "zalistdeepnonebig");
        for (path, text) in [
            ("z", "10.10"),
            ("a.b", "ü\n"),
            ("list", "x, 1, true"),
            ("deep", r#"[{"k":1}]"#),
            ("none", ""),
            ("big", "12345678901234567890.5"),
            ("absent", ""),
            ("z.b", ""),
        ] {
            assert_eq!(members.text(path), text, "{path}");
        }
    }
}
