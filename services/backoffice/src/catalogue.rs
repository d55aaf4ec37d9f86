//! What is chosen from the catalogue of event types: events, each with its description and an example, and the fields of an
//! example, so that nobody has to type paths.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::value::RawValue;

use crate::api::Type;
use crate::layout::pretty;
use crate::texts::Texts;

/// Bounds of what is offered of an example, which a platform may have made as large as it likes.
const MAX_PATHS: usize = 100;
const MAX_DEPTH: usize = 16;
const MAX_SAMPLE_CHARS: usize = 40;

/// A checkbox of a field that may be given several times.
fn choice(name: &str, value: &str, is_chosen: bool, label: &Markup) -> Markup {
    html! { label.choice { input type="checkbox" name=(name) value=(value) checked[is_chosen]; " " (label) } }
}

/// The events, those of a resource together: open where something is chosen.
pub(crate) fn events(texts: &Texts, types: &[Type], chosen: &[String]) -> Markup {
    let mut resources: Vec<&str> = types.iter().map(|one| one.resource.as_str()).collect();
    resources.dedup();
    let is_chosen = |value: &str| chosen.iter().any(|event| event == value);
    let is_known = |event: &str| {
        event == "*"
            || types.iter().any(|one| one.name == event || event.strip_suffix("-*") == Some(one.resource.as_str()))
    };
    html! {
        (choice("events", "*", is_chosen("*"), &html! { (texts.all_events) " " code { "*" } }))
        // What the catalogue does not have any more is not taken away by whoever changes something else.
        @for event in chosen.iter().filter(|event| !is_known(event)) {
            (choice("events", event, true, &html! { code { (event) } }))
        }
        @for resource in resources {
            @let all = format!("{resource}-*");
            @let of: Vec<_> = types.iter().filter(|one| one.resource == resource).collect();
            @let count = of.iter().filter(|one| is_chosen(&one.name)).count() + usize::from(is_chosen(&all));
            details open[count > 0] {
                summary { code { (resource) } @if count > 0 { " " b { (count) " " (texts.chosen) } } }
                (choice("events", &all, is_chosen(&all), &html! { code { (all) } " " span.faint { (texts.all_of_resource) } }))
                @for one in of {
                    (choice("events", &one.name, is_chosen(&one.name), &html! {
                        code { (one.name) } " " span.faint { (one.description) }
                    }))
                    @if let Some(example) = &one.example {
                        details {
                            summary { (texts.example) span.unseen { ": " (one.name) } }
                            pre { code { (pretty(example.get())) } }
                        }
                    }
                }
            }
        }
    }
}

/// A path into a resource, and what an example has there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) path: String,
    sample: String,
}

/// The fields of an example, to be checked.
pub(crate) fn fields(paths: &[Path], chosen: &[String]) -> Markup {
    html! {
        div.choices {
            @for one in paths {
                (choice("field", &one.path, chosen.contains(&one.path), &html! {
                    code { (one.path) } " " span.faint { (one.sample) }
                }))
            }
        }
    }
}

/// The paths that the API's `fields` could name, as the example has them. Arrays are gone through; a key with a dot in it
/// cannot be named.
pub(crate) fn paths(example: &str) -> Vec<Path> {
    let mut found = Vec::new();
    if example.starts_with('{') {
        walk(example, "", 1, &mut found);
    }
    found
}

fn walk(text: &str, above: &str, depth: usize, found: &mut Vec<Path>) {
    if text.starts_with('[') {
        let elements: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
        for element in elements.iter().filter(|element| element.get().starts_with('{')) {
            walk(element.get(), above, depth, found);
        }
        return;
    }
    if !text.starts_with('{') || depth > MAX_DEPTH {
        return;
    }
    // As text, so that a number is shown with the digits that it has.
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).unwrap_or_default();
    for (key, value) in members.into_iter().filter(|(key, _)| !key.is_empty() && !key.contains('.')) {
        let path = if above.is_empty() { key } else { format!("{above}.{key}") };
        if !found.iter().any(|one| one.path == path) {
            if found.len() == MAX_PATHS {
                return;
            }
            found.push(Path { path: path.clone(), sample: sample(value.get()) });
        }
        walk(value.get(), &path, depth + 1, found);
    }
}

fn sample(text: &str) -> String {
    match text.as_bytes().first() {
        Some(b'{') => "{…}".to_owned(),
        Some(b'[') => "[…]".to_owned(),
        _ if text.chars().count() > MAX_SAMPLE_CHARS => text.chars().take(MAX_SAMPLE_CHARS).chain(['…']).collect(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::Language;

    fn found(example: &str) -> Vec<(String, String)> {
        paths(example).into_iter().map(|one| (one.path, one.sample)).collect()
    }

    #[test]
    fn the_paths_of_an_example_are_those_that_can_be_named() {
        let example = r#"{"id": "ord_1", "total": 59.80, "customer": {"email": "a@b.example"}, "a.b": 1, "": 2,
            "items": [{"sku": "A"}, {"sku": "B", "gift": null}, [{"deep": 1}], 7]}"#;
        let expected = [
            ("customer", "{…}"),
            ("customer.email", "\"a@b.example\""),
            ("id", "\"ord_1\""),
            ("items", "[…]"),
            ("items.sku", "\"A\""),
            ("items.gift", "null"),
            ("total", "59.80"),
        ];
        let expected: Vec<_> = expected.map(|(path, sample)| (path.to_owned(), sample.to_owned())).into();
        assert_eq!(found(example), expected);
    }

    #[test]
    fn what_is_no_resource_has_no_paths_and_a_large_one_is_bounded() {
        for example in ["", "7", "[{\"a\":1}]", "{", "null"] {
            assert_eq!(found(example), [], "{example}");
        }
        let wide: String = (0..500).map(|number| format!("\"key{number}\":1,")).collect();
        assert_eq!(found(&format!("{{{}}}", wide.trim_end_matches(','))).len(), MAX_PATHS);
        let deep = format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100));
        assert_eq!(found(&deep).len(), MAX_DEPTH);
        assert_eq!(found(&format!("{{\"a\":\"{}\"}}", "x".repeat(500)))[0].1.chars().count(), MAX_SAMPLE_CHARS + 1);
    }

    #[test]
    fn what_is_chosen_stays_chosen_though_the_catalogue_no_longer_has_it() {
        let example = Some(RawValue::from_string("{\"id\":1}".to_owned()).unwrap());
        let types = [Type {
            name: "order-paid".to_owned(),
            resource: "order".to_owned(),
            description: "An order was paid".to_owned(),
            example,
        }];
        let texts = Language::English.texts();
        let shown = |chosen: &[&str]| {
            let chosen: Vec<_> = chosen.iter().map(|event| (*event).to_owned()).collect();
            events(texts, &types, &chosen).into_string()
        };
        let none = shown(&[]);
        assert!(!none.contains(" checked") && !none.contains("<details open") && none.contains("An order was paid"));
        for event in ["order-paid", "order-*"] {
            let one = shown(&[event]);
            assert!(one.contains(&format!("value=\"{event}\" checked")) && one.contains("<details open"), "{one}");
            assert_eq!(one.matches(" checked").count(), 1, "{one}");
        }
        assert!(shown(&["invoice-paid"]).contains("value=\"invoice-paid\" checked"));
    }
}
