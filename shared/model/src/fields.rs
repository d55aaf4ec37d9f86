//! Paths into a resource: what of it a webhook is sent ([`Fields`]), and whose change it waits for ([`Changed`]).
//!
//! A path is the keys from the resource to a value, joined by dots: `customer.email`. An array on the way is gone
//! through: `line_items.sku` means the `sku` of each element. An array directly within an array is not gone through, so
//! the paths alone bound how deep we go. A key that itself contains a dot cannot be named.
//!
//! Invariant: a value is only ever copied or compared as the text the publisher wrote, never through a number type, so
//! no digit is lost. The cost grows with how deep the paths go, not with how many there are.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::Invalid;

const MAX_PATHS: usize = 50;
const MAX_PATH_BYTES: usize = 200;
const MAX_SEGMENTS: usize = 16;

/// Below this depth, values that are spelled differently count as different. It bounds the stack and the time that a
/// comparison takes; real resources nest to a tenth of it.
const MAX_COMPARED_DEPTH: usize = 64;

/// The part of a resource that a webhook is sent. Reads from and prints as the list of its paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Fields(Paths);

impl Fields {
    /// An error names the path it is about, as `fields[2]`. A path that is given twice counts once. An empty list is
    /// taken at its word: it selects nothing.
    pub fn parse(paths: Vec<String>) -> Result<Self, Invalid> {
        Paths::parse("fields", paths).map(Self)
    }

    /// As they were written.
    pub fn paths(&self) -> &[String] {
        &self.0.written
    }

    /// The object with the selected members alone. Keys, values and their order stay as they were written; whitespace
    /// between members goes.
    ///
    /// A path to an object or array takes it whole, so `a` makes `a.b` redundant. Objects and arrays on the way stay,
    /// even if nothing in them is selected (`{}`, `[]`), so the payload has the resource's shape. An element that is an
    /// object stays too, as `{}` if need be, so that the elements of two arrays can be matched; whatever else stands
    /// where a path goes on (a number, `null`, an array in an array) is left out. Data that is not an object gives
    /// `{}`: nothing is sent that was not asked for.
    pub fn project(&self, data: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(data.len().min(4096));
        match object(data) {
            Some(object) => self.0.root.project(object, &mut out),
            None => out.extend_from_slice(b"{}"),
        }
        out.into()
    }
}

impl TryFrom<Vec<String>> for Fields {
    type Error = Invalid;

    fn try_from(paths: Vec<String>) -> Result<Self, Invalid> {
        Self::parse(paths)
    }
}

impl From<Fields> for Vec<String> {
    fn from(fields: Fields) -> Self {
        fields.0.written
    }
}

/// The paths of which one must have changed for a webhook to hear of an update. Reads from and prints as their list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Changed(Paths);

impl Changed {
    /// As [`Fields::parse`]; an error names `changed[2]`.
    pub fn parse(paths: Vec<String>) -> Result<Self, Invalid> {
        Paths::parse("changed", paths).map(Self)
    }

    pub fn paths(&self) -> &[String] {
        &self.0.written
    }

    /// The paths, in the order they were given, that select something else in `after` than in `before`. Without a
    /// `before` (a first state) and with data that is not an object, that side selects nothing.
    ///
    /// What a path selects is a sequence, one value from each element on its way, and is compared in order; an element
    /// without a value adds nothing to it. An absent value differs from every present one, `null` included.
    ///
    /// Values are compared as JSON: whitespace, the spelling of strings and the order of keys do not count. Numbers are
    /// compared by their text, but for the case and the plus sign of an exponent: `1E+2` is `1e2`, but `1.0` is not
    /// `1`. A needless delivery does less harm than one that a rounding error has swallowed.
    pub fn between(&self, before: Option<&[u8]>, after: &[u8]) -> Vec<&str> {
        if before == Some(after) {
            return Vec::new();
        }
        let before = before.map_or_else(|| self.0.nothing(), |before| self.0.select(before));
        let after = self.0.select(after);
        let differs = before.iter().zip(&after).map(|(before, after)| !same_all(before, after, MAX_COMPARED_DEPTH));
        self.0.written.iter().zip(differs).filter(|(_, differs)| *differs).map(|(path, _)| path.as_str()).collect()
    }
}

impl TryFrom<Vec<String>> for Changed {
    type Error = Invalid;

    fn try_from(paths: Vec<String>) -> Result<Self, Invalid> {
        Self::parse(paths)
    }
}

impl From<Changed> for Vec<String> {
    fn from(changed: Changed) -> Self {
        changed.0.written
    }
}

/// Paths as they were given, without repetitions, and the tree they make.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Paths {
    written: Vec<String>,
    root: Node,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    /// The path that ends here: its place in the list.
    path: Option<usize>,
    /// Where paths go on, by the next key.
    below: BTreeMap<String, Node>,
}

impl Paths {
    fn parse(list: &str, paths: Vec<String>) -> Result<Self, Invalid> {
        let mut parsed = Self { written: Vec::with_capacity(paths.len().min(MAX_PATHS)), root: Node::default() };
        for (i, path) in paths.into_iter().enumerate() {
            let invalid = |detail: String| Invalid::new(format!("{list}[{i}]"), detail);
            if i == MAX_PATHS {
                return Err(invalid(format!("is one too many: the limit is {MAX_PATHS} paths")));
            }
            judge(&path).map_err(invalid)?;
            let end = path.split('.').fold(&mut parsed.root, |node, key| node.below.entry(key.to_owned()).or_default());
            if end.path.is_none() {
                end.path = Some(parsed.written.len());
                parsed.written.push(path);
            }
        }
        Ok(parsed)
    }

    fn nothing<'a>(&self) -> Vec<Vec<&'a RawValue>> {
        vec![Vec::new(); self.written.len()]
    }

    /// What each path selects, in the order of the document.
    fn select<'a>(&self, data: &'a [u8]) -> Vec<Vec<&'a RawValue>> {
        let mut found = self.nothing();
        if let Some(object) = object(data) {
            self.root.select(object, &mut found);
        }
        found
    }
}

fn judge(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("is empty: it must be a path, such as customer.email".into());
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("has {} bytes; the limit is {MAX_PATH_BYTES}", path.len()));
    }
    if path.chars().any(char::is_control) {
        return Err("must not contain a control character".into());
    }
    if path.split('.').any(str::is_empty) {
        return Err("must have a key before and after each dot, such as customer.email".into());
    }
    if path.split('.').count() > MAX_SEGMENTS {
        return Err(format!("goes through more than {MAX_SEGMENTS} keys"));
    }
    Ok(())
}

impl Node {
    fn child(&self, key: &RawValue) -> Option<&Node> {
        self.below.get(text(key)?.as_ref())
    }

    fn project(&self, object: &RawValue, out: &mut Vec<u8>) {
        out.push(b'{');
        for (key, value) in members(object) {
            let Some(node) = self.child(key) else { continue };
            let kind = first_byte(value);
            if node.path.is_none() && !matches!(kind, b'{' | b'[') {
                continue;
            }
            separate(out);
            out.extend_from_slice(key.get().as_bytes());
            out.push(b':');
            match kind {
                _ if node.path.is_some() => out.extend_from_slice(value.get().as_bytes()),
                b'[' => {
                    out.push(b'[');
                    for element in objects(value) {
                        separate(out);
                        node.project(element, out);
                    }
                    out.push(b']');
                }
                _ => node.project(value, out),
            }
        }
        out.push(b'}');
    }

    fn select<'a>(&self, object: &'a RawValue, found: &mut [Vec<&'a RawValue>]) {
        for (key, value) in members(object) {
            let Some(node) = self.child(key) else { continue };
            if let Some(path) = node.path {
                found[path].push(value);
            }
            match first_byte(value) {
                _ if node.below.is_empty() => {}
                b'{' => node.select(value, found),
                b'[' => objects(value).for_each(|element| node.select(element, found)),
                _ => {}
            }
        }
    }
}

/// The whole of the data, if it is a JSON object. What this has read, the functions below cannot fail to read.
fn object(data: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice::<&RawValue>(data).ok().filter(|value| first_byte(value) == b'{')
}

/// Says what kind of value it is.
fn first_byte(value: &RawValue) -> u8 {
    value.get().bytes().next().unwrap_or_default()
}

/// A comma, unless this is the first of its object or array.
fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// Keys and values as they are written, repeated keys included. Keys stay raw because the scanner that accepted the
/// event lets half a surrogate pair pass (`"\ud800"`), which no Rust string can hold.
#[derive(Default)]
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

fn members(object: &RawValue) -> Vec<(&RawValue, &RawValue)> {
    serde_json::from_str::<Members<'_>>(object.get()).unwrap_or_default().0
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

fn elements(array: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(array.get()).unwrap_or_default()
}

fn objects(array: &RawValue) -> impl Iterator<Item = &RawValue> {
    elements(array).into_iter().filter(|element| first_byte(element) == b'{')
}

/// What a string says, or `None` if it is not Unicode.
fn text(string: &RawValue) -> Option<Cow<'_, str>> {
    let written = string.get().strip_prefix('"')?.strip_suffix('"')?;
    if written.contains('\\') {
        serde_json::from_str(string.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(written))
    }
}

/// Whether two documents say the same, as [`Changed`] compares values.
pub(crate) fn is_same_document(a: &[u8], b: &[u8]) -> bool {
    object(a).zip(object(b)).is_some_and(|(a, b)| same(a, b, MAX_COMPARED_DEPTH))
}

fn same_all(a: &[&RawValue], b: &[&RawValue], depth: usize) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, depth))
}

fn same(a: &RawValue, b: &RawValue, depth: usize) -> bool {
    if a.get() == b.get() {
        return true;
    }
    let Some(depth) = depth.checked_sub(1) else { return false };
    match (first_byte(a), first_byte(b)) {
        (b'{', b'{') => {
            let (a, b) = (by_key(a), by_key(b));
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.0 == b.0 && same(a.1, b.1, depth))
        }
        (b'[', b'[') => same_all(&elements(a), &elements(b), depth),
        (b'"', b'"') => text(a).is_some_and(|a| text(b) == Some(a)),
        _ => exponent_aside(a).eq(exponent_aside(b)),
    }
}

/// Members in the order of what their keys say, or of how they are spelled where they say nothing. Members of the same
/// key keep their order.
fn by_key(object: &RawValue) -> Vec<(Result<Cow<'_, str>, &str>, &RawValue)> {
    let mut members: Vec<_> =
        members(object).into_iter().map(|(key, value)| (text(key).ok_or(key.get()), value)).collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    members
}

/// Of a number, its text with the exponent in its shortest spelling. Anything else still differs in its first letter.
fn exponent_aside(value: &RawValue) -> impl Iterator<Item = u8> {
    value.get().bytes().filter(|byte| *byte != b'+').map(|byte| byte.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owned(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    fn project(paths: &[&str], data: &str) -> String {
        let out = Fields::parse(owned(paths)).unwrap().project(data.as_bytes());
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn between(paths: &[&str], before: Option<&str>, after: &str) -> Vec<String> {
        let changed = Changed::parse(owned(paths)).unwrap();
        changed.between(before.map(str::as_bytes), after.as_bytes()).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_projection_has_what_was_asked_for_as_it_was_written() {
        for (paths, data, projected) in [
            (&["id"][..], r#"{ "x": 1, "id" : 1.10 , "y": 2 }"#, r#"{"id":1.10}"#),
            (&["b", "a"], r#"{"a":1E+2,"b":12345678901234567890123}"#, r#"{"a":1E+2,"b":12345678901234567890123}"#),
            (&["a"], r#"{"a":1e999,"b":1e999}"#, r#"{"a":1e999}"#),
            (&["a"], r#"{"a":{ "z" : "Zo\u00eb é\ud800" }}"#, r#"{"a":{ "z" : "Zo\u00eb é\ud800" }}"#),
            (&["é"], r#"{"\u00e9":1,"\ud800":2,"é":3}"#, r#"{"\u00e9":1,"é":3}"#),
            (&["a"], r#"{"a":1,"b":2,"a":3}"#, r#"{"a":1,"a":3}"#),
            (&["c.e"], r#"{"c":{"id":1,"e":"x"},"d":{"e":2}}"#, r#"{"c":{"e":"x"}}"#),
            (&["c.e", "c"], r#"{"c":{"id":1,"e":"x"}}"#, r#"{"c":{"id":1,"e":"x"}}"#),
            (&["l.s", "l.q"], r#"{"l":[{"s":1,"p":2,"q":3},{"p":4},{"q":5}]}"#, r#"{"l":[{"s":1,"q":3},{},{"q":5}]}"#),
            (&["l.s"], r#"{"l":[7,{"s":1},null,[{"s":2}],"s"]}"#, r#"{"l":[{"s":1}]}"#),
            (&["l.s"], r#"{"l":[]}"#, r#"{"l":[]}"#),
            (&["a.x", "b.x", "c.x"], r#"{"a":null,"b":{},"c":"x","d":{}}"#, r#"{"b":{}}"#),
            (&["a.b"], r#"{"a.b":1}"#, "{}"),
            (&["nope", "A"], r#"{"a":1}"#, "{}"),
            (&[], r#"{"a":1}"#, "{}"),
        ] {
            assert_eq!(project(paths, data), projected, "{paths:?} {data}");
        }
    }

    #[test]
    fn what_is_not_an_object_gives_nothing_away() {
        for data in ["", "{", r#"{"a":1"#, r#"{"a":1}}"#, r#"[{"a":1}]"#, "\"a\"", "null", "\u{feff}{}"] {
            assert_eq!(project(&["a"], data), "{}", "{data}");
            assert!(between(&["a"], None, data).is_empty(), "{data}");
        }
        assert_eq!(Fields::parse(owned(&["a"])).unwrap().project(b"{\"a\":\"\xff\"}"), "{}");
    }

    #[test]
    fn a_change_is_a_change_of_a_value() {
        for (path, before, after, differs) in [
            ("a", r#"{"a":1,"b":1}"#, r#"{"b":2,"a":1}"#, false),
            ("a", r#"{"a":1}"#, r#"{"a":2}"#, true),
            ("a", r#"{"a":1}"#, r#"{"a":"1"}"#, true),
            ("a", r#"{"a":1}"#, r#"{"a":1.0}"#, true),
            ("a", r#"{"a":1E+2}"#, r#"{"a":1e2}"#, false),
            ("a", r#"{"a":1E+2}"#, r#"{"a":1e-2}"#, true),
            ("a", r#"{"a":12345678901234567890123}"#, r#"{"a":12345678901234567890124}"#, true),
            ("a", r#"{"a":null}"#, "{}", true),
            ("a", "{}", r#"{"a":null}"#, true),
            ("a", "{}", "{}", false),
            ("a", r#"{"a":"\u0078\/"}"#, r#"{"a":"x/"}"#, false),
            ("a", r#"{"a":"X"}"#, r#"{"a":"x"}"#, true),
            ("a", r#"{"a":"\ud800"}"#, r#"{"a":"\ud801"}"#, true),
            ("a", r#"{"a":{"x":1,"y":[1, 2]}}"#, r#"{"a": {"\u0079":[1,2],"x":1}}"#, false),
            ("a", r#"{"a":{"x":1,"y":2}}"#, r#"{"a":{"x":2,"y":1}}"#, true),
            ("a", r#"{"a":{"x":1}}"#, r#"{"a":{"y":1}}"#, true),
            ("a", r#"{"a":{"x":1,"x":2}}"#, r#"{"a":{"x":2,"x":1}}"#, true),
            ("a", r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, true),
            ("a", r#"{"a":{}}"#, r#"{"a":[]}"#, true),
            ("l.s", r#"{"l":[{"s":1},{"s":2}]}"#, r#"{"l":[{"s":1,"q":0},{"q":1},{"s":2}]}"#, false),
            ("l.s", r#"{"l":[{"s":1},{"s":2}]}"#, r#"{"l":[{"s":2},{"s":1}]}"#, true),
            ("l.s", r#"{"l":[{"s":1}]}"#, r#"{"l":[{"s":1},{"s":1}]}"#, true),
            ("l.s", r#"{"l":[]}"#, r#"{"l":null}"#, false),
        ] {
            assert_eq!(
                between(&[path], Some(before), after),
                owned(&[path][..usize::from(differs)]),
                "{before} {after}"
            );
        }
    }

    #[test]
    fn every_path_is_judged_by_itself() {
        let (before, after) = (r#"{"a":{"b":1,"c":1},"d":1}"#, r#"{"a":{"b":1,"c":2},"e":1}"#);
        let paths = ["e", "a.b", "a", "d", "a.c", "f"];
        assert_eq!(between(&paths, Some(before), after), ["e", "a", "d", "a.c"]);
        assert_eq!(between(&paths, None, after), ["e", "a.b", "a", "a.c"]);
    }

    #[test]
    fn a_path_that_cannot_be_one_is_named() {
        let (long, deep) = ("x".repeat(201), ["x"; 17].join("."));
        for bad in ["", ".", "a.", ".a", "a..b", "a\nb", "\u{7f}", "a.\u{85}", &long, &deep] {
            assert_eq!(Fields::parse(owned(&["a", "a", bad])).unwrap_err().field, "fields[2]", "{bad:?}");
            assert_eq!(Changed::parse(owned(&[bad])).unwrap_err().field, "changed[0]", "{bad:?}");
        }
        let many: Vec<_> = (0..51).map(|i| format!("f{i}")).collect();
        assert_eq!(Fields::parse(many.clone()).unwrap_err().field, "fields[50]");
        assert!(Fields::parse(many[..50].to_vec()).is_ok());
        assert!(Fields::parse(owned(&["x".repeat(200).as_str(), &["x"; 16].join("."), "a b", "*"])).is_ok());
    }

    #[test]
    fn paths_read_from_their_list_and_print_as_one() {
        let fields: Fields = serde_json::from_str(r#"["id","a.b","id","a"]"#).unwrap();
        assert_eq!(serde_json::to_string(&fields).unwrap(), r#"["id","a.b","a"]"#);
        let changed: Changed = serde_json::from_str(r#"["b","b"]"#).unwrap();
        assert_eq!(serde_json::to_string(&changed).unwrap(), r#"["b"]"#);
        assert!(serde_json::from_str::<Fields>(r#"["a",""]"#).unwrap_err().to_string().contains("fields[1]"));
    }

    #[test]
    fn a_deep_resource_is_neither_slow_nor_a_crash() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let depth = 40_000;
            let nested = |inner| format!(r#"{{"a":{}{inner}{}}}"#, open.repeat(depth), close.repeat(depth));
            assert_eq!(between(&["a"], Some(&nested("1")), &nested("1 ")), ["a"]);
            assert_eq!(project(&["a"], &nested("1")), nested("1"));
            assert!(project(&["a.a.b"], &nested("1")).len() < 20);
        }
    }

    const LEAVES: [&str; 9] = ["0", "1.0", "-0", "1E+2", "1e999", "null", "true", r#""x\u0079""#, r#""\ud800""#];

    fn json_object() -> impl Strategy<Value = String> {
        let leaf = proptest::sample::select(&LEAVES[..]).prop_map(str::to_owned);
        leaf.prop_recursive(4, 40, 4, |value| {
            let array = proptest::collection::vec(value.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(" , ")));
            prop_oneof![array, object_of(value)]
        })
        .prop_flat_map(|value| object_of(Just(value)))
    }

    fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        let key = proptest::sample::select(&[r#""a""#, r#""b""#, r#""\u0061""#, r#""c""#, r#""\ud800""#][..]);
        let member = (key, value).prop_map(|(key, value)| format!("{key}: {value}"));
        proptest::collection::vec(member, 0..4).prop_map(|all| format!("{{ {} }}", all.join(", ")))
    }

    fn some_paths() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[abc](\\.[abc]){0,3}", 0..6)
    }

    /// The keys to each value, by a walk that shares nothing with the tree of paths.
    fn ways(value: &RawValue, way: &str, all: &mut Vec<String>) {
        for element in elements(value) {
            ways(element, way, all);
        }
        for (key, value) in members(value) {
            let way = format!("{way}{}.", text(key).unwrap_or(key.get().into()));
            ways(value, &way, all);
            all.push(way);
        }
    }

    proptest! {
        #[test]
        fn what_was_asked_for_is_there_byte_for_byte(paths in some_paths(), data in json_object()) {
            let projected = Fields::parse(paths.clone()).unwrap().project(data.as_bytes());
            let paths = Paths::parse("fields", paths).unwrap();
            let texts = |data| paths.select(data).into_iter().map(|all| all.into_iter().map(RawValue::get).collect());
            let (asked, sent): (Vec<Vec<_>>, Vec<Vec<_>>) = (texts(data.as_bytes()).collect(), texts(&projected).collect());
            prop_assert!(asked.iter().flatten().all(|value| data.contains(value)));
            prop_assert_eq!(asked, sent);
        }

        #[test]
        fn nothing_else_is_there(paths in some_paths(), data in json_object()) {
            let projected = Fields::parse(paths.clone()).unwrap().project(data.as_bytes());
            let mut sent = Vec::new();
            ways(object(&projected).expect("an object"), "", &mut sent);
            let paths: Vec<_> = paths.iter().map(|path| format!("{path}.")).collect();
            for way in sent {
                prop_assert!(paths.iter().any(|path| way.starts_with(path) || path.starts_with(&way)), "{}", way);
            }
        }

        #[test]
        fn projecting_again_changes_nothing(paths in some_paths(), data in json_object()) {
            let fields = Fields::parse(paths).unwrap();
            let once = fields.project(data.as_bytes());
            prop_assert_eq!(fields.project(&once), once);
        }

        #[test]
        fn all_keys_of_the_resource_are_all_of_it(data in json_object()) {
            let data = data.replace(r"\ud800", "d");
            let all = project(&["a", "b", "c", "d"], &data);
            prop_assert!(same(object(all.as_bytes()).unwrap(), object(data.as_bytes()).unwrap(), 64));
            prop_assert_eq!(all.replace(' ', ""), data.replace(' ', ""));
        }

        #[test]
        fn what_is_the_same_has_not_changed(paths in some_paths(), data in json_object()) {
            let changed = Changed::parse(paths.clone()).unwrap();
            prop_assert_eq!(changed.between(Some(data.as_bytes()), data.as_bytes()), Vec::<&str>::new());
            let sent = Fields::parse(paths).unwrap().project(data.as_bytes());
            prop_assert_eq!(changed.between(Some(data.as_bytes()), &sent), Vec::<&str>::new());
            prop_assert_eq!(changed.between(None, &sent), changed.between(Some(b"{}"), data.as_bytes()));
        }

        #[test]
        fn a_change_does_not_depend_on_its_direction(paths in some_paths(), a in json_object(), b in json_object()) {
            let changed = Changed::parse(paths).unwrap();
            let (a, b) = (a.as_bytes(), b.as_bytes());
            prop_assert_eq!(changed.between(Some(a), b), changed.between(Some(b), a));
        }

        #[test]
        fn no_input_panics(
            path in "\\PC{0,20}|[ab.\n]{0,20}",
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            almost in "[{}\\[\\]\":,ab\\\\u01e+. ]{0,60}",
        ) {
            let _ = Fields::parse(vec![path.clone()]);
            let paths = || owned(&["a", "a.b", "b.a.b"]);
            let (fields, changed) = (Fields::parse(paths()).unwrap(), Changed::parse(paths()).unwrap());
            for data in [&noise[..], almost.as_bytes(), &[b"{\"a\":", almost.as_bytes(), b"}"].concat()] {
                prop_assert!(serde_json::from_slice::<&RawValue>(&fields.project(data)).is_ok());
                changed.between(Some(b"{\"a\":{}}"), data);
            }
        }
    }
}
