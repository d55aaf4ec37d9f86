//! A pattern as it was understood, and whether a resource matches it.

use super::number::Number;
use super::value::{Members, Node, Scalar, Value};

/// Arrays within arrays count as one array, down to this many levels. It bounds the stack: an event may nest as deep
/// as its bytes allow.
const MAX_NESTED_ARRAYS: usize = 8;

/// All the rules must match.
#[derive(Debug, Clone)]
pub(super) struct Pattern(pub(super) Vec<Rule>);

#[derive(Debug, Clone)]
pub(super) enum Rule {
    /// One of the tests must match the field.
    Field(String, Vec<Test>),
    /// The field is an object, or an array with an object, that matches.
    Object(String, Pattern),
    /// `$or`: one of the patterns must match.
    Or(Vec<Pattern>),
}

#[derive(Debug, Clone)]
pub(super) enum Test {
    Exists(bool),
    Equals(Scalar<'static>),
    /// All of the comparisons hold.
    Numeric(Vec<(Comparison, Number)>),
    Text(TextTest),
    /// None of the tests match.
    AnythingBut(Vec<Test>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Debug, Clone)]
pub(super) enum TextTest {
    Prefix(String),
    Suffix(String),
    EqualsIgnoreCase(String),
    /// What stands between the stars; one piece means that there is no star.
    Wildcard(Vec<String>),
}

impl Pattern {
    pub(super) fn matches(&self, object: &Members<'_>) -> bool {
        self.0.iter().all(|rule| rule.matches(object))
    }
}

impl Rule {
    pub(super) fn matches(&self, object: &Members<'_>) -> bool {
        match self {
            Self::Or(patterns) => patterns.iter().any(|pattern| pattern.matches(object)),
            Self::Field(name, tests) => match member(object, name) {
                None => tests.iter().any(|test| matches!(test, Test::Exists(false))),
                Some(node) => {
                    tests.iter().any(|test| matches!(test, Test::Exists(true)))
                        || any_element(node, MAX_NESTED_ARRAYS, &mut |value| match value {
                            Value::Scalar(scalar) => tests.iter().any(|test| test.matches(scalar)),
                            _ => false,
                        })
                }
            },
            Self::Object(name, pattern) => {
                let mut is_object = false;
                let found = member(object, name).is_some_and(|node| {
                    any_element(node, MAX_NESTED_ARRAYS, &mut |value| match value {
                        Value::Object(inner) => {
                            is_object = true;
                            pattern.matches(inner)
                        }
                        _ => false,
                    })
                });
                // Where there is no object, its fields are absent: `exists: false` has to see that.
                found || (!is_object && pattern.matches(&Vec::new()))
            }
        }
    }
}

impl Test {
    fn matches(&self, scalar: &Scalar<'_>) -> bool {
        match (self, scalar) {
            (Self::Equals(expected), _) => expected == scalar,
            (Self::AnythingBut(tests), _) => !tests.iter().any(|test| test.matches(scalar)),
            (Self::Numeric(comparisons), Scalar::Number(number)) => {
                comparisons.iter().all(|(comparison, bound)| comparison.holds(number, bound))
            }
            (Self::Text(test), Scalar::Text(text)) => test.matches(text),
            // Whether a field is there was asked before its value was looked at.
            (Self::Exists(_) | Self::Numeric(_) | Self::Text(_), _) => false,
        }
    }
}

impl Comparison {
    fn holds(self, number: &Number, bound: &Number) -> bool {
        match self {
            Self::Equal => number == bound,
            Self::Less => number < bound,
            Self::AtMost => number <= bound,
            Self::Greater => number > bound,
            Self::AtLeast => number >= bound,
        }
    }

    pub(super) fn is_lower_bound(self) -> bool {
        matches!(self, Self::Greater | Self::AtLeast)
    }

    pub(super) fn is_upper_bound(self) -> bool {
        matches!(self, Self::Less | Self::AtMost)
    }
}

impl TextTest {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
            Self::EqualsIgnoreCase(expected) => lower_case(expected).eq(lower_case(text)),
            Self::Wildcard(pieces) => match &**pieces {
                [first, middle @ .., last] => {
                    // Each piece is taken where it first occurs, which leaves the most for those after it. So one
                    // pass will do, however many stars there are.
                    let between = text.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last));
                    between.and_then(|text| middle.iter().try_fold(text, |rest, piece| after(rest, piece))).is_some()
                }
                pieces => pieces.iter().any(|whole| whole == text),
            },
        }
    }
}

/// The last of several members with one name, as most parsers have it.
pub(super) fn member<'o, 'a>(object: &'o Members<'a>, wanted: &str) -> Option<&'o Node<'a>> {
    object.iter().rev().find(|(name, _)| name == wanted).map(|(_, node)| node)
}

/// Whether the value is wanted, or one of its elements if it is an array.
fn any_element<'a>(node: &Node<'a>, levels: usize, is_wanted: &mut dyn FnMut(&Value<'a>) -> bool) -> bool {
    match node.value() {
        Some(Value::List(elements)) => {
            levels > 0 && elements.iter().any(|element| any_element(element, levels - 1, is_wanted))
        }
        Some(value) => is_wanted(value),
        None => false,
    }
}

fn lower_case(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

fn after<'t>(text: &'t str, piece: &str) -> Option<&'t str> {
    text.split_once(piece).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A wildcard by its definition: a star is nothing, or one character and a star.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => {
                by_definition(rest, text) || text.split_first().is_some_and(|(_, text)| by_definition(pattern, text))
            }
            ([a, pattern @ ..], [b, text @ ..]) => a == b && by_definition(pattern, text),
            (pattern, text) => pattern.is_empty() && text.is_empty(),
        }
    }

    proptest! {
        #[test]
        fn a_wildcard_matches_by_its_definition(pattern in "[ab]{0,2}(\\*[ab]{1,2}){0,3}\\*?", text in "[ab]{0,8}") {
            let test = TextTest::Wildcard(pattern.split('*').map(str::to_owned).collect());
            prop_assert_eq!(test.matches(&text), by_definition(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
