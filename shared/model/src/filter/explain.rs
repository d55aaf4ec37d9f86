//! Why a resource does not match a pattern: for people, from the text of both.

use std::fmt;

use super::matching::{Pattern, Rule, member};
use super::value::{Members, Node, Value};

/// Mismatches that are told of at most; a pattern may have a hundred values.
const MAX: usize = 20;
/// Characters of a value that are shown.
const MAX_SHOWN: usize = 200;

/// A field that is not what the pattern asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Names with dots between, as `fields` has them; `$or` among them. Empty: of the whole resource, which is no object.
    pub path: String,
    /// The JSON of what the resource has there, cut after 200 characters; `None` if it has nothing.
    pub found: Option<String>,
    /// The JSON of what the pattern has there.
    pub wanted: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, found, wanted } = self;
        match found {
            None if path.is_empty() => f.write_str("the payload is no JSON object, and so matches no filter"),
            Some(found) => write!(f, "{path} is {found}, which does not match {wanted}"),
            None => write!(f, "{path} is absent, which does not match {wanted}"),
        }
    }
}

/// `wanted` is what `pattern` was read from, so their members are in the same order.
pub(super) fn explain(pattern: &Pattern, wanted: &Members<'_>, object: &Members<'_>, at: &str) -> Vec<Mismatch> {
    let mut found = Vec::new();
    for (rule, (name, node)) in pattern.0.iter().zip(wanted) {
        if found.len() >= MAX {
            break;
        }
        if rule.matches(object) {
            continue;
        }
        let path = if at.is_empty() { name.to_string() } else { format!("{at}.{name}") };
        let there = member(object, name);
        let of_value = |there: Option<&Node<'_>>| Mismatch {
            path: path.clone(),
            found: there.map(|node| shown(node.json())),
            wanted: shown(node.json()),
        };
        match (rule, node.value(), there.and_then(Node::value)) {
            (Rule::Object(_, inner), Some(Value::Object(wanted)), Some(Value::Object(object))) => {
                found.extend(explain(inner, wanted, object, &path));
            }
            (Rule::Object(_, inner), Some(Value::Object(wanted)), None) => {
                found.extend(explain(inner, wanted, &Vec::new(), &path));
            }
            // Of an array no one element is the one that should have matched.
            _ => found.push(of_value(there)),
        }
    }
    found.truncate(MAX);
    found
}

fn shown(json: &str) -> String {
    match json.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::Filter;

    fn told(pattern: &str, data: &str) -> Vec<String> {
        let filter: Filter = serde_json::from_str(pattern).unwrap();
        let mismatches = filter.mismatches(data.as_bytes());
        assert_eq!(mismatches.is_empty(), filter.matches(data.as_bytes()), "{pattern} {data}");
        mismatches.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_field_that_does_not_match_is_told_by_what_it_is() {
        let more = r#"{"total_price":[{"numeric":[">",50]}],"currency":["EUR"]}"#;
        let inner = r#"{"customer":{"email":[{"suffix":"@x.se"}],"note":[{"exists":false}]}}"#;
        let item = r#"{"items":{"sku":["A"]}}"#;
        let either = r#"{"$or":[{"a":[1]},{"b":[1]}]}"#;
        for (pattern, data, expected) in [
            (more, r#"{"total_price":59.80,"currency":"EUR"}"#, &[] as &[&str]),
            (
                more,
                r#"{"total_price":50.0,"currency":"EUR"}"#,
                &[r#"total_price is 50.0, which does not match [{"numeric":[">",50]}]"#],
            ),
            (
                more,
                r#"{"currency":"SEK"}"#,
                &[
                    r#"total_price is absent, which does not match [{"numeric":[">",50]}]"#,
                    r#"currency is "SEK", which does not match ["EUR"]"#,
                ],
            ),
            (
                inner,
                r#"{"customer":{"email":"a@x.de","note":null}}"#,
                &[
                    r#"customer.email is "a@x.de", which does not match [{"suffix":"@x.se"}]"#,
                    r#"customer.note is null, which does not match [{"exists":false}]"#,
                ],
            ),
            (inner, "{}", &[r#"customer.email is absent, which does not match [{"suffix":"@x.se"}]"#]),
            (
                item,
                r#"{"items":[{"sku":"B"},{"sku":"C"}]}"#,
                &[r#"items is [{"sku":"B"},{"sku":"C"}], which does not match {"sku":["A"]}"#],
            ),
            (item, r#"{"items":7}"#, &[r#"items is 7, which does not match {"sku":["A"]}"#]),
            (either, r#"{"c":1}"#, &[r#"$or is absent, which does not match [{"a":[1]},{"b":[1]}]"#]),
            (more, "[]", &["the payload is no JSON object, and so matches no filter"]),
        ] {
            assert_eq!(told(pattern, data), expected, "{pattern} {data}");
        }
    }

    #[test]
    fn what_is_told_is_bounded() {
        let fields: Vec<_> = (0..60).map(|number| format!("\"f{number}\":[1]")).collect();
        let long = format!("{{\"f0\":\"{}\"}}", "é".repeat(10_000));
        let told = told(&format!("{{{}}}", fields.join(",")), &long);
        assert_eq!(told.len(), 20);
        assert!(told[0].chars().count() < 260 && told[0].contains('…'), "{}", told[0]);
    }
}
