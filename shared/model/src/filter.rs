//! A webhook's filter: what the resource must look like for an event to make a delivery.
//!
//! The syntax is that of Amazon EventBridge's event patterns, applied to the resource itself:
//!
//! ```json
//! {
//!   "currency": ["EUR", "SEK"],
//!   "total_price": [{ "numeric": [">", 50, "<=", 5000] }],
//!   "customer": { "email": [{ "suffix": "@example.com" }] },
//!   "$or": [{ "status": ["paid"] }, { "line_items": { "sku": [{ "prefix": "MUG-" }] }, "note": [{ "exists": false }] }]
//! }
//! ```
//!
//! - All members of an object must match, and of `$or` one pattern. Of the values in an array one must match: a string,
//!   number, `true`, `false` or `null` that is equal; or `prefix`, `suffix`, `equals-ignore-case`, `wildcard`,
//!   `anything-but`, `numeric`, `exists`.
//! - Numbers are compared by their exact value: `10.10` is `10.1`, and no id is rounded. A string is never a number.
//! - If the resource has an array, one of its elements must match, and arrays within it count as one with it. An object
//!   of the pattern is matched against one element as a whole, so what it wants absent is absent from that element.
//! - `anything-but` needs a value to look at: it matches no absent field, and of an array it matches if any element is
//!   another value.
//!
//! Where we differ from EventBridge: `exists` is about the field, whatever it holds, while EventBridge sees only
//! strings, numbers, `true`, `false` and `null`; a branch of `$or` may be met by another element of an array than the
//! fields beside it; a name with a dot is one name; numbers have no range of 10^9; an `anything-but` list may mix
//! kinds; an operator without its array is refused, where EventBridge would look for a field of that name. `cidr` and
//! operators within `prefix` and `suffix` are not taken.

mod explain;
mod matching;
mod number;
mod parse;
mod value;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

pub use self::explain::Mismatch;
use self::matching::Pattern;
use self::value::{Node, Value};
use crate::Invalid;

/// A content pattern on a resource; it serialises as the JSON that it was read from, byte for byte.
#[derive(Debug, Clone)]
pub struct Filter {
    json: Box<RawValue>,
    pattern: Pattern,
}

impl Filter {
    /// An error's field points into the pattern: `filter.total_price[0].numeric`. The pattern has at most 8 KiB, 8
    /// levels, 100 values, and 16 branches in an `$or`.
    pub fn parse(json: &RawValue) -> Result<Self, Invalid> {
        Ok(Self { pattern: parse::parse(json)?, json: json.to_owned() })
    }

    /// Whether the resource matches. What is not a JSON object matches no filter.
    pub fn matches(&self, data: &[u8]) -> bool {
        serde_json::from_slice::<&RawValue>(data).is_ok_and(|json| match Node::new(json).value() {
            Some(Value::Object(resource)) => self.pattern.matches(resource),
            _ => false,
        })
    }

    /// Where the resource does not match; empty if it does.
    pub fn mismatches(&self, data: &[u8]) -> Vec<Mismatch> {
        let resource = serde_json::from_slice::<&RawValue>(data).ok().map(Node::new);
        let wanted = Node::new(&self.json);
        match (resource.as_ref().and_then(Node::value), wanted.value()) {
            (Some(Value::Object(resource)), Some(Value::Object(wanted))) => {
                explain::explain(&self.pattern, wanted, resource, "")
            }
            _ => vec![Mismatch { path: String::new(), found: None, wanted: String::new() }],
        }
    }

    /// The pattern as it was written.
    pub fn as_json(&self) -> &RawValue {
        &self.json
    }
}

impl PartialEq for Filter {
    /// By the text: what is written differently reads back differently.
    fn eq(&self, other: &Self) -> bool {
        self.json.get() == other.json.get()
    }
}

impl Eq for Filter {}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Box::<RawValue>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(json: &str) -> Filter {
        serde_json::from_str(json).expect(json)
    }

    fn matches(pattern: &str, data: &str) -> bool {
        filter(pattern).matches(data.as_bytes())
    }

    /// Each row: the tests of the field `a`, what it may hold to match, and what it may hold not to.
    #[test]
    fn a_field_matches_what_its_operators_say() {
        for (tests, good, bad) in [
            (
                r#""SEK""#,
                &[r#""SEK""#, r#""\u0053EK""#] as &[_],
                &[r#""sek""#, r#""SEK ""#, "null", "{}", "[]"] as &[_],
            ),
            (r#""SEK","NOK",7"#, &[r#""NOK""#, "7"], &[r#""DKK""#, r#""7""#, "70"]),
            ("true", &["true"], &["false", r#""true""#, "1"]),
            ("false", &["false"], &["true", "null", "0"]),
            ("null", &["null"], &[r#""null""#, "0", "false", r#""""#]),
            (r#""""#, &[r#""""#], &["null", r#"" ""#]),
            ("10.1", &["10.10", "101E-1", "10.1"], &["10.11", "10", r#""10.1""#]),
            ("100", &["1E+2", "100.0"], &["1e3", "-100"]),
            ("9007199254740993", &["9007199254740993"], &["9007199254740992", "9007199254740994"]),
            (r#"{"prefix":"Zo\u00eb"}"#, &[r#""Zoë""#, r#""Zoë A""#], &[r#""zoë""#, r#"" Zoë""#, "7"]),
            (r#"{"suffix":"@example.com"}"#, &[r#""a@example.com""#], &[r#""a@example.com.""#, r#""@example""#]),
            (r#"{"equals-ignore-case":"Åre"}"#, &[r#""åRE""#, r#""Åre""#], &[r#""are""#, r#""åren""#, "7"]),
            (r#"{"wildcard":"a*b"}"#, &[r#""ab""#, r#""aXb""#, r#""abb""#], &[r#""a""#, r#""ba""#, r#""abc""#]),
            (r#"{"wildcard":"aba*aba"}"#, &[r#""abaaba""#], &[r#""aba""#, r#""ababa""#]),
            (r#"{"wildcard":"*x*yz*"}"#, &[r#""xyz""#, r#""axyyz.""#], &[r#""yzx""#, r#""xy""#, "7"]),
            (r#"{"wildcard":"*"}"#, &[r#""""#, r#""a""#], &["7", "null"]),
            (r#"{"wildcard":"1\\*2\\\\3"}"#, &[r#""1*2\\3""#], &[r#""1x2\\3""#, r#""1*2\\\\3""#]),
            (r#"{"anything-but":"x"}"#, &[r#""y""#, "7", "null"], &[r#""x""#, "{}", "[]"]),
            (r#"{"anything-but":["x",7]}"#, &[r#""y""#, "8", r#""7""#], &[r#""x""#, "7.0"]),
            (r#"{"anything-but":{"prefix":"x"}}"#, &[r#""y""#, "7"], &[r#""x""#, r#""xy""#]),
            (r#"{"anything-but":{"suffix":"x"}}"#, &[r#""y""#, "7"], &[r#""x""#, r#""yx""#]),
            (r#"{"anything-but":{"equals-ignore-case":"x"}}"#, &[r#""y""#], &[r#""x""#, r#""X""#]),
            (r#"{"anything-but":{"wildcard":"*/lib/*"}}"#, &[r#""/bin/a""#], &[r#""/lib/a""#]),
            (r#"{"numeric":["=",10.1]}"#, &["10.10"], &["10.2", r#""10.1""#, "null"]),
            (r#"{"numeric":["<",0]}"#, &["-1", "-1e-300"], &["0", "-0", "1"]),
            (r#"{"numeric":["<=",0]}"#, &["-1", "-0.0"], &["1e-300"]),
            (r#"{"numeric":[">",100]}"#, &["100.01", "1e99999999999"], &["100", "1e2", "-101"]),
            (r#"{"numeric":[">=",100]}"#, &["1e2", "101"], &["99.99999999999999999999"]),
            (r#"{"numeric":[">",100,"<=",5000]}"#, &["100.5", "5000.00"], &["100", "5000.01", r#""200""#]),
            (r#"{"numeric":["<",2,">=",1]}"#, &["1", "1.9"], &["0.9", "2"]),
            (r#"{"exists":true}"#, &["null", "7", "{}", "[]", r#"[{"b":1}]"#], &[]),
            (r#"{"exists":false}"#, &[], &["null", "7", "{}", "[]"]),
            (r#"{"exists":false},7"#, &["7"], &["8"]),
        ] {
            let pattern = format!("{{\"a\":[{tests}]}}");
            for (values, expected) in [(good, true), (bad, false)] {
                for value in values {
                    assert_eq!(matches(&pattern, &format!("{{\"a\":{value}}}")), expected, "{pattern} {value}");
                    let among_others = format!("{{\"b\":1,\"a\":[[],[{{}},{value}]]}}");
                    if !tests.contains("exists") {
                        assert_eq!(matches(&pattern, &among_others), expected, "{pattern} {among_others}");
                    }
                }
            }
            assert_eq!(matches(&pattern, "{\"b\":7}"), tests.contains(r#"{"exists":false}"#), "{pattern} on nothing");
        }
    }

    #[test]
    fn objects_arrays_and_or_combine() {
        let customer = r#"{"customer":{"email":[{"suffix":"@x.se"}],"note":[{"exists":false}]}}"#;
        let item = r#"{"items":{"sku":["A"],"count":[{"numeric":[">",1]}]}}"#;
        let either = r#"{"c":[1],"$or":[{"a":[1]},{"b":{"$or":[{"x":[1]},{"y":[1]}]}}]}"#;
        let absent = r#"{"a":{"b":{"c":[{"exists":false}]}}}"#;
        let present = r#"{"a":{"b":[{"exists":true}]}}"#;
        for (pattern, data, expected) in [
            (customer, r#"{"customer":{"email":"a@x.se"}}"#, true),
            (customer, r#"{"customer":{"email":"a@x.se","note":null}}"#, false),
            (customer, r#"{"customer":{}}"#, false),
            (customer, r#"{"email":"a@x.se"}"#, false),
            (item, r#"{"items":{"sku":"A","count":2}}"#, true),
            (item, r#"{"items":[{"sku":"B","count":1},{"sku":"A","count":2}]}"#, true),
            (item, r#"{"items":[7,[[{"sku":"A","count":2}]]]}"#, true),
            // The element as a whole: one has the sku, and the other has the count.
            (item, r#"{"items":[{"sku":"A","count":1},{"sku":"B","count":2}]}"#, false),
            (item, r#"{"items":[]}"#, false),
            (either, r#"{"c":1,"a":1}"#, true),
            (either, r#"{"c":1,"b":{"y":1}}"#, true),
            (either, r#"{"c":1,"b":{"z":1}}"#, false),
            (either, r#"{"a":1}"#, false),
            (absent, r"{}", true),
            (absent, r#"{"a":7}"#, true),
            (absent, r#"{"a":[]}"#, true),
            (absent, r#"{"a":{"b":null}}"#, true),
            (absent, r#"{"a":{"b":[{"c":1},{}]}}"#, true),
            (absent, r#"{"a":{"b":{"c":null}}}"#, false),
            (present, r"{}", false),
            (present, r#"{"a":[{"b":{}}]}"#, true),
            // Dots do not make a path, and of two members with one name the last counts.
            (r#"{"a.b":[1]}"#, r#"{"a":{"b":1}}"#, false),
            (r#"{"a.b":[1]}"#, r#"{"a.b":1}"#, true),
            (r#"{"a":[1]}"#, r#"{"a":1,"\u0061":2}"#, false),
        ] {
            assert_eq!(matches(pattern, data), expected, "{pattern} {data}");
        }
    }

    #[test]
    fn what_is_not_an_object_matches_nothing() {
        let absent = filter(r#"{"a":[{"exists":false}]}"#);
        for data in ["", "{", "[]", "7", "null", "{} {}", r#"{"b":01}"#, "[{}]", r#"{"b":tru}"#] {
            assert!(!absent.matches(data.as_bytes()), "{data}");
        }
        assert!(!absent.matches(b"{\"b\":\"\xff\"}"));
        assert!(absent.matches(br#" {"b":"\ud800","\udfff":1} "#));
    }

    #[test]
    fn an_event_may_nest_as_deep_as_its_bytes_allow() {
        let deep = |depth: usize| format!("{{\"a\":{}7{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(matches(r#"{"a":[7]}"#, &deep(8)));
        assert!(!matches(r#"{"a":[7]}"#, &deep(100_000)));
        assert!(matches(r#"{"a":[{"exists":true}]}"#, &deep(100_000)));
        let objects = format!("{}7{}", "{\"a\":".repeat(40_000), "}".repeat(40_000));
        assert!(!matches(r#"{"a":{"a":{"a":[7]}}}"#, &objects));
    }

    #[test]
    fn a_filter_reads_back_byte_for_byte() {
        let json = r#"{ "a" : [ 10.10, 12345678901234567890123, "\u00eb" ],"b":[1E+2] }"#;
        let read = filter(json);
        assert_eq!(read.as_json().get(), json);
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        assert_eq!(read.clone(), filter(&serde_json::to_string(&read).unwrap()));
        assert_ne!(filter(r#"{"a":[1]}"#), filter(r#"{"a":[1.0]}"#));
        let error = serde_json::from_str::<Filter>(r#"{"a":7}"#).unwrap_err();
        assert!(error.to_string().starts_with("filter.a: must be an array"), "{error}");
    }

    fn scalar() -> impl Strategy<Value = String> {
        let number = prop_oneof!["-?[0-3](\\.[0-2]{1,2})?(e[+-]?[0-2])?", any::<i64>().prop_map(|n| n.to_string())];
        let text = prop_oneof!["[ab]{0,2}", "\\PC{0,5}"].prop_map(|text| serde_json::json!(text).to_string());
        prop_oneof![number, text, Just("null".into()), Just("true".into()), Just("false".into())]
    }

    /// Text made of what patterns and resources are made of, so that it is often JSON and sometimes a pattern.
    fn soup() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            "[{}\\[\\],:]|\"[a$*]?\"|-?[0-9]{1,2}(e[0-9]{1,20})?|true",
            "\"(\\$or|prefix|wildcard|anything-but|numeric|exists|[<>]=?|\\\\\\\\ud800)\"",
        ]
        .boxed();
        let three = (token.clone(), token.clone(), token.clone());
        prop_oneof![
            proptest::collection::vec(token, 0..20).prop_map(|tokens| tokens.concat()),
            three.clone().prop_map(|(a, b, c)| format!("{{\"a\":[{{{a}:{b}}},{c}]}}")),
            three.prop_map(|(a, b, c)| format!("{{\"a\":{{{a}:{b}}},\"$or\":[{{\"a\":[{c}]}},{{}}]}}")),
        ]
    }

    /// An object with such values, written in two orders.
    fn two_orders(values: &'static [&'static str]) -> impl Strategy<Value = (String, String)> {
        let members = proptest::collection::btree_map("[a-c]", proptest::sample::select(values), 1..4);
        members.prop_flat_map(|members| {
            let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let object = |members: Vec<String>| format!("{{{}}}", members.join(","));
            (Just(object(members.clone())), Just(members).prop_shuffle().prop_map(object))
        })
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), a in soup(), b in soup()) {
            let _ = serde_json::from_slice::<Filter>(&bytes);
            let _ = filter(r#"{"a":{"b":[1]},"c":[{"anything-but":"x"}]}"#).matches(&bytes);
            for (pattern, data) in [(&a, &b), (&b, &a)] {
                if let Ok(filter) = serde_json::from_str::<Filter>(pattern) {
                    filter.matches(data.as_bytes());
                    filter.matches(&bytes);
                }
                filter(r#"{"a":[7],"$or":[{"a":{"a":[1]}},{"a":[{"exists":false}]}]}"#).matches(data.as_bytes());
            }
        }

        #[test]
        fn anything_but_is_the_opposite(x in scalar(), y in scalar(), is_same: bool) {
            let data = format!("{{\"a\":{}}}", if is_same { &x } else { &y });
            let is_equal = matches(&format!("{{\"a\":[{x}]}}"), &data);
            prop_assert!(is_equal || !is_same);
            for but in [x.clone(), format!("[{x}]")] {
                prop_assert_eq!(matches(&format!("{{\"a\":[{{\"anything-but\":{but}}}]}}"), &data), !is_equal);
            }
        }

        #[test]
        fn ranges_agree_with_integers(
            (low, width, offset) in (any::<i64>(), 1i64..4, -2i64..6),
            other: i64,
            (includes_low, includes_high) in any::<(bool, bool)>(),
        ) {
            let high = low.saturating_add(width);
            prop_assume!(low < high);
            let (more, less) = (if includes_low { ">=" } else { ">" }, if includes_high { "<=" } else { "<" });
            for value in [low.saturating_add(offset), other] {
                let expected = low < value && value < high
                    || includes_low && value == low
                    || includes_high && value == high;
                for bounds in [
                    format!("\"{more}\",{low},\"{less}\",{high}"),
                    format!("\"{less}\",{high}.0,\"{more}\",{low}e0"),
                ] {
                    let pattern = format!("{{\"a\":[{{\"numeric\":[{bounds}]}}]}}");
                    let data = format!("{{\"a\":{value}}}");
                    prop_assert_eq!(matches(&pattern, &data), expected, "{} {}", pattern, data);
                }
            }
        }

        #[test]
        fn the_order_of_members_is_nothing(
            (pattern, other) in two_orders(&["[1]", "[1,2]", "[{\"exists\":false}]", "{\"x\":[1],\"y\":[2]}"]),
            (data, shuffled) in two_orders(&["1", "[2,3]", "{\"x\":1,\"y\":2}", "[{\"y\":2,\"x\":1}]"]),
        ) {
            let expected = matches(&pattern, &data);
            for (pattern, data) in [(&pattern, &shuffled), (&other, &data), (&other, &shuffled)] {
                prop_assert_eq!(matches(pattern, data), expected, "{} {}", pattern, data);
            }
        }
    }
}
