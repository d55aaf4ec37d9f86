//! Reading a pattern, with an error for its author wherever it could not do what it seems to say.

use serde_json::value::RawValue;

use super::matching::{Comparison, Pattern, Rule, Test, TextTest};
use super::number::Number;
use super::value::{Members, Node, Scalar, Value};
use crate::Invalid;

const MAX_BYTES: usize = 8 * 1024;
/// Objects within objects, the branches of `$or` among them.
const MAX_DEPTH: usize = 8;
/// Values that a field is compared with, in the whole pattern.
const MAX_VALUES: usize = 100;
const MAX_BRANCHES: usize = 16;
const MAX_STARS: usize = 8;
/// In scientific notation: more than a float can hold.
const MAX_EXPONENT: i64 = 1000;

const OPERATORS: &str = "prefix, suffix, equals-ignore-case, wildcard, anything-but, numeric, exists";

pub(super) fn parse(json: &RawValue) -> Result<Pattern, Invalid> {
    let bytes = json.get().len();
    if bytes > MAX_BYTES {
        return Err(Invalid::new("filter", format!("has {bytes} bytes; the limit is {MAX_BYTES}")));
    }
    match Node::new(json).value() {
        Some(Value::Object(members)) => Reader { values: 0 }.pattern(members, "filter", 1),
        _ => Err(Invalid::new(
            "filter",
            "must be an object with fields of the resource, such as {\"currency\":[\"SEK\"]}",
        )),
    }
}

struct Reader {
    /// How many were met so far.
    values: usize,
}

impl Reader {
    fn pattern(&mut self, members: &Members<'_>, at: &str, depth: usize) -> Result<Pattern, Invalid> {
        if depth > MAX_DEPTH {
            return Err(invalid(
                at,
                format!("is nested too deep: the limit is {MAX_DEPTH} objects within one another"),
            ));
        }
        if members.is_empty() {
            return Err(invalid(at, "must name at least one field; leave it out if every value will do"));
        }
        let mut rules = Vec::with_capacity(members.len());
        for (index, (name, node)) in members.iter().enumerate() {
            let at = inner(at, name);
            if members[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(invalid(&at, "is there twice: merge the two"));
            }
            rules.push(match node.value() {
                _ if name == "$or" => Rule::Or(self.branches(node, &at, depth)?),
                value if is_misplaced(name, value) => {
                    return Err(invalid(
                        &at,
                        format!("is an operator: put it into the field's array, [{{\"{name}\":…}}]"),
                    ));
                }
                Some(Value::List(values)) => Rule::Field(name.to_string(), self.tests(values, &at)?),
                Some(Value::Object(members)) => Rule::Object(name.to_string(), self.pattern(members, &at, depth + 1)?),
                _ => return Err(invalid(&at, "must be an array of what may match, such as [\"SEK\",\"NOK\"]")),
            });
        }
        Ok(Pattern(rules))
    }

    fn branches(&mut self, node: &Node<'_>, at: &str, depth: usize) -> Result<Vec<Pattern>, Invalid> {
        let Some(Value::List(branches)) = node.value() else {
            return Err(invalid(at, "must be an array of patterns, one of which has to match"));
        };
        if !(2..=MAX_BRANCHES).contains(&branches.len()) {
            return Err(invalid(at, format!("has {} patterns; it must have 2 to {MAX_BRANCHES}", branches.len())));
        }
        let branch = |(index, branch): (usize, &Node<'_>)| {
            let at = format!("{at}[{index}]");
            match branch.value() {
                Some(Value::Object(members)) => self.pattern(members, &at, depth + 1),
                _ => Err(invalid(&at, "must be a pattern: an object with fields of the resource")),
            }
        };
        branches.iter().enumerate().map(branch).collect()
    }

    fn tests(&mut self, values: &[Node<'_>], at: &str) -> Result<Vec<Test>, Invalid> {
        if values.is_empty() {
            return Err(invalid(at, "must not be empty: nothing could match"));
        }
        let test = |(index, node): (usize, &Node<'_>)| {
            let at = format!("{at}[{index}]");
            match node.value() {
                Some(Value::Scalar(scalar)) => self.equals(scalar, &at),
                Some(Value::Object(members)) => self.operator(members, &at),
                _ => Err(invalid(&at, "must be a string, a number, true, false, null or an operator")),
            }
        };
        values.iter().enumerate().map(test).collect()
    }

    fn equals(&mut self, scalar: &Scalar<'_>, at: &str) -> Result<Test, Invalid> {
        if let Scalar::Number(number) = scalar {
            check_number(number, at)?;
        }
        self.count(at)?;
        Ok(Test::Equals(scalar.to_static()))
    }

    fn operator(&mut self, members: &Members<'_>, at: &str) -> Result<Test, Invalid> {
        let [(name, argument)] = &**members else {
            return Err(invalid(at, format!("must have exactly one operator: {OPERATORS}")));
        };
        let at = inner(at, name);
        match &**name {
            "exists" => match argument.value() {
                Some(Value::Scalar(Scalar::Bool(wanted))) => {
                    self.count(&at)?;
                    Ok(Test::Exists(*wanted))
                }
                _ => Err(invalid(&at, "must be true or false")),
            },
            "numeric" => self.numeric(argument, &at),
            "anything-but" => self.anything_but(argument, &at),
            operator => self.text(operator, argument, &at).map(Test::Text),
        }
    }

    fn text(&mut self, operator: &str, argument: &Node<'_>, at: &str) -> Result<TextTest, Invalid> {
        let read: fn(&str) -> Result<TextTest, String> = match operator {
            "prefix" => |text| Ok(TextTest::Prefix(text.to_owned())),
            "suffix" => |text| Ok(TextTest::Suffix(text.to_owned())),
            "equals-ignore-case" => |text| Ok(TextTest::EqualsIgnoreCase(text.to_owned())),
            "wildcard" => |text| wildcard(text).map(TextTest::Wildcard),
            _ => return Err(invalid(at, format!("is not an operator; use one of {OPERATORS}"))),
        };
        let Some(Value::Scalar(Scalar::Text(text))) = argument.value() else {
            return Err(invalid(at, "must be a string"));
        };
        self.count(at)?;
        read(text).map_err(|detail| invalid(at, detail))
    }

    fn anything_but(&mut self, argument: &Node<'_>, at: &str) -> Result<Test, Invalid> {
        let tests = match argument.value() {
            Some(Value::Scalar(scalar)) => vec![self.equals(scalar, at)?],
            Some(Value::List(values)) if !values.is_empty() => {
                let test = |(index, node): (usize, &Node<'_>)| match node.value() {
                    Some(Value::Scalar(scalar)) => self.equals(scalar, &format!("{at}[{index}]")),
                    _ => Err(invalid(&format!("{at}[{index}]"), "must be a string, a number, true, false or null")),
                };
                values.iter().enumerate().map(test).collect::<Result<_, _>>()?
            }
            Some(Value::Object(members)) if members.len() == 1 => {
                let (name, argument) = &members[0];
                let at = inner(at, name);
                if matches!(&**name, "anything-but" | "numeric" | "exists") {
                    let allowed = "prefix, suffix, equals-ignore-case or wildcard";
                    return Err(invalid(&at, format!("cannot be used in anything-but: it takes {allowed}")));
                }
                vec![Test::Text(self.text(name, argument, &at)?)]
            }
            _ => {
                return Err(invalid(at, "must be a value, an array of values, or one operator: {\"prefix\":…}"));
            }
        };
        Ok(Test::AnythingBut(tests))
    }

    fn numeric(&mut self, argument: &Node<'_>, at: &str) -> Result<Test, Invalid> {
        let form = || invalid(at, "must be one or two comparisons with numbers, such as [\">\",100,\"<=\",5000]");
        let Some(Value::List(parts)) = argument.value() else { return Err(form()) };
        if !matches!(parts.len(), 2 | 4) {
            return Err(form());
        }
        let mut comparisons = Vec::with_capacity(2);
        for pair in parts.chunks(2) {
            let [Some(Value::Scalar(Scalar::Text(sign))), Some(Value::Scalar(Scalar::Number(bound)))] =
                [pair[0].value(), pair[1].value()]
            else {
                return Err(form());
            };
            let comparison = comparison(sign).ok_or_else(|| invalid(at, "must compare with one of =, <, <=, >, >="))?;
            check_number(bound, at)?;
            self.count(at)?;
            comparisons.push((comparison, bound.clone()));
        }
        if let [a, b] = &*comparisons {
            let (low, high) = if a.0.is_lower_bound() { (a, b) } else { (b, a) };
            if !low.0.is_lower_bound() || !high.0.is_upper_bound() {
                return Err(invalid(at, "must, with two comparisons, be a range: one of > or >=, and one of < or <="));
            }
            let takes_both_ends = low.0 == Comparison::AtLeast && high.0 == Comparison::AtMost;
            if low.1 > high.1 || (low.1 == high.1 && !takes_both_ends) {
                return Err(invalid(at, "must leave a number between its bounds: nothing could match"));
            }
        }
        Ok(Test::Numeric(comparisons))
    }

    fn count(&mut self, at: &str) -> Result<(), Invalid> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(invalid(at, format!("is more than the {MAX_VALUES} values that a filter may have in all")));
        }
        Ok(())
    }
}

/// Whether an operator stands where a field is expected, without the array around it. As a field it would be taken and
/// never match, and its author would wait for events that do not come.
fn is_misplaced(name: &str, value: Option<&Value<'_>>) -> bool {
    match value {
        Some(Value::Scalar(_)) => OPERATORS.split(", ").any(|operator| operator == name),
        Some(Value::List(_)) if name == "anything-but" => true,
        Some(Value::List(values)) if name == "numeric" => match values.first().and_then(Node::value) {
            Some(Value::Scalar(Scalar::Text(sign))) => comparison(sign).is_some(),
            _ => false,
        },
        _ => false,
    }
}

fn comparison(sign: &str) -> Option<Comparison> {
    Some(match sign {
        "=" => Comparison::Equal,
        "<" => Comparison::Less,
        "<=" => Comparison::AtMost,
        ">" => Comparison::Greater,
        ">=" => Comparison::AtLeast,
        _ => return None,
    })
}

/// The pieces between the stars. `\*` is a star that stands for itself, and `\\` a backslash.
fn wildcard(text: &str) -> Result<Vec<String>, String> {
    let mut pieces = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let literal = match character {
            '*' if characters.peek() == Some(&'*') => {
                return Err("must not have two * in a row: one does the same".into());
            }
            '*' => {
                pieces.push(String::new());
                continue;
            }
            '\\' => characters
                .next_if(|next| matches!(next, '*' | '\\'))
                .ok_or("must have a backslash only before * or another backslash (in JSON: \"\\\\*\")")?,
            other => other,
        };
        if let Some(piece) = pieces.last_mut() {
            piece.push(literal);
        }
    }
    if pieces.len() > MAX_STARS + 1 {
        return Err(format!("has {} *; the limit is {MAX_STARS}", pieces.len() - 1));
    }
    Ok(pieces)
}

fn check_number(number: &Number, at: &str) -> Result<(), Invalid> {
    if number.is_within(MAX_EXPONENT) {
        return Ok(());
    }
    let detail =
        format!("must have numbers with an exponent of -{MAX_EXPONENT} to {MAX_EXPONENT}, such as 1.5e{MAX_EXPONENT}");
    Err(invalid(at, detail))
}

fn invalid(at: &str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Invalid {
    Invalid::new(at.to_owned(), detail)
}

/// A name may be as long as the pattern; as much of it is shown as it takes to find it.
fn inner(at: &str, name: &str) -> String {
    let shown: String = name.chars().take(60).collect();
    format!("{at}.{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> Invalid {
        parse(serde_json::from_str(json).unwrap()).expect_err(json)
    }

    fn is_taken(json: &str) -> bool {
        parse(serde_json::from_str(json).unwrap()).is_ok()
    }

    #[test]
    fn what_is_wrong_is_named_with_a_way_to_mend_it() {
        for (json, field, detail) in [
            ("null", "filter", "must be an object"),
            ("[]", "filter", "must be an object"),
            ("{}", "filter", "leave it out"),
            (r#"{"a":{}}"#, "filter.a", "leave it out"),
            (r#"{"a":"SEK"}"#, "filter.a", "must be an array"),
            (r#"{"a":{"b":7}}"#, "filter.a.b", "must be an array"),
            (r#"{"a":{"exists":false}}"#, "filter.a.exists", r#"[{"exists":…}]"#),
            (r#"{"a":{"numeric":[">",5]}}"#, "filter.a.numeric", r#"[{"numeric":…}]"#),
            (r#"{"a":{"anything-but":["x"]}}"#, "filter.a.anything-but", "is an operator"),
            (r#"{"a":[]}"#, "filter.a", "must not be empty"),
            (r#"{"a":["x",[1]]}"#, "filter.a[1]", "must be a string"),
            (r#"{"a":[1],"b":[1],"\u0061":[2]}"#, "filter.a", "twice"),
            (r#"{"a":[{}]}"#, "filter.a[0]", "exactly one operator: prefix"),
            (r#"{"a":[{"prefix":"x","suffix":"y"}]}"#, "filter.a[0]", "exactly one operator"),
            (r#"{"a":[{"regex":"x"}]}"#, "filter.a[0].regex", "not an operator; use one of prefix"),
            (r#"{"a":[{"prefix":7}]}"#, "filter.a[0].prefix", "must be a string"),
            (r#"{"a":[{"suffix":["x"]}]}"#, "filter.a[0].suffix", "must be a string"),
            (r#"{"a":[{"equals-ignore-case":null}]}"#, "filter.a[0].equals-ignore-case", "must be a string"),
            (r#"{"a":[{"wildcard":true}]}"#, "filter.a[0].wildcard", "must be a string"),
            (r#"{"a":[{"wildcard":"a**b"}]}"#, "filter.a[0].wildcard", "two * in a row"),
            (r#"{"a":[{"wildcard":"a\\b"}]}"#, "filter.a[0].wildcard", "backslash"),
            (r#"{"a":[{"wildcard":"a\\"}]}"#, "filter.a[0].wildcard", "backslash"),
            (r#"{"a":[{"wildcard":"*1*2*3*4*5*6*7*8*"}]}"#, "filter.a[0].wildcard", "has 9 *; the limit is 8"),
            (r#"{"a":[{"exists":"yes"}]}"#, "filter.a[0].exists", "true or false"),
            (r#"{"a":[{"anything-but":[]}]}"#, "filter.a[0].anything-but", "an array of values"),
            (r#"{"a":[{"anything-but":{}}]}"#, "filter.a[0].anything-but", "one operator"),
            (r#"{"a":[{"anything-but":["x",["y"]]}]}"#, "filter.a[0].anything-but[1]", "must be a string"),
            (r#"{"a":[{"anything-but":{"prefix":7}}]}"#, "filter.a[0].anything-but.prefix", "must be a string"),
            (r#"{"a":[{"anything-but":{"regex":""}}]}"#, "filter.a[0].anything-but.regex", "not an operator"),
            (r#"{"a":[{"anything-but":{"exists":true}}]}"#, "filter.a[0].anything-but.exists", "it takes prefix"),
            (r#"{"a":[{"anything-but":{"numeric":["<",1]}}]}"#, "filter.a[0].anything-but.numeric", "it takes prefix"),
            (r#"{"a":[{"numeric":5}]}"#, "filter.a[0].numeric", "one or two comparisons"),
            (r#"{"a":[{"numeric":[]}]}"#, "filter.a[0].numeric", "one or two comparisons"),
            (r#"{"a":[{"numeric":["<"]}]}"#, "filter.a[0].numeric", "one or two comparisons"),
            (r#"{"a":[{"numeric":["<",1,">"]}]}"#, "filter.a[0].numeric", "one or two comparisons"),
            (r#"{"a":[{"numeric":[">",1,"<",5,"<",6]}]}"#, "filter.a[0].numeric", "one or two comparisons"),
            (r#"{"a":[{"numeric":["<","1"]}]}"#, "filter.a[0].numeric", "with numbers"),
            (r#"{"a":[{"numeric":["!=",1]}]}"#, "filter.a[0].numeric", "one of =, <"),
            (r#"{"a":[{"numeric":[">",1,">=",2]}]}"#, "filter.a[0].numeric", "a range"),
            (r#"{"a":[{"numeric":["=",1,"<",2]}]}"#, "filter.a[0].numeric", "a range"),
            (r#"{"a":[{"numeric":[">",5,"<",3]}]}"#, "filter.a[0].numeric", "nothing could match"),
            (r#"{"a":[{"numeric":[">",5,"<=",5.0]}]}"#, "filter.a[0].numeric", "nothing could match"),
            (r#"{"a":[{"numeric":["=",1e1001]}]}"#, "filter.a[0].numeric", "an exponent of -1000 to 1000"),
            (r#"{"a":[1,-1e99999999999999999999]}"#, "filter.a[1]", "an exponent of -1000 to 1000"),
            (r#"{"a":[{"anything-but":1e-1001}]}"#, "filter.a[0].anything-but", "an exponent of -1000 to 1000"),
            (r#"{"$or":{"a":[1]}}"#, "filter.$or", "array of patterns"),
            (r#"{"$or":[{"a":[1]}]}"#, "filter.$or", "has 1 patterns; it must have 2 to 16"),
            (r#"{"$or":[{"a":[1]},7]}"#, "filter.$or[1]", "must be a pattern"),
            (r#"{"$or":[{"a":[1]},{}]}"#, "filter.$or[1]", "at least one field"),
            (r#"{"c":{"$or":[{"a":[1]},{"b":1}]}}"#, "filter.c.$or[1].b", "must be an array"),
        ] {
            let invalid = error(json);
            assert_eq!(invalid.field, field, "{json}: {invalid}");
            assert!(invalid.detail.contains(detail), "{json}: {invalid}");
        }
    }

    #[test]
    fn a_filter_is_bounded() {
        let bytes = |bytes: usize| format!("{{\"a\":[\"{}\"]}}", "x".repeat(bytes - r#"{"a":[""]}"#.len()));
        assert!(is_taken(&bytes(MAX_BYTES)));
        assert_eq!(error(&bytes(MAX_BYTES + 1)).detail, "has 8193 bytes; the limit is 8192");

        let nested = |depth: usize| format!("{}[1]{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(is_taken(&nested(MAX_DEPTH)));
        assert!(error(&nested(MAX_DEPTH + 1)).detail.contains("the limit is 8"));

        let values = |count: usize| format!("{{\"a\":[1],\"b\":[{{\"anything-but\":[1{}]}}]}}", ",1".repeat(count - 2));
        assert!(is_taken(&values(MAX_VALUES)));
        assert_eq!(error(&values(MAX_VALUES + 1)).field, "filter.b[0].anything-but[99]");

        let branches = |count: usize| format!("{{\"$or\":[{{\"a\":[1]}}{}]}}", ",{\"a\":[1]}".repeat(count - 1));
        assert!(is_taken(&branches(MAX_BRANCHES)));
        assert_eq!(error(&branches(MAX_BRANCHES + 1)).field, "filter.$or");

        assert!(is_taken(
            r#"{"a":[{"wildcard":"*1*2*3*4*5*6*7*8"},9.5e1000,-1e-1000,0e99999,{"numeric":["<",5,">=",5e-9]}]}"#
        ));
        assert!(is_taken(r#"{"a":[{"numeric":[">=",5,"<=",5.0]}]}"#));
        assert!(is_taken(r#"{"a":{"numeric":[true],"prefix":["x"]}}"#));
        assert!(error(&format!("{{\"{}\":1}}", "n".repeat(4000))).field.len() < 100);
    }
}
