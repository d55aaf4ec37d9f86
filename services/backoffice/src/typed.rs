//! What the form of a webhook has, and the body of a request that comes of it.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::api::{Type, Webhook};
use crate::form::Form;
use crate::layout::pretty;

/// What was typed, or is there.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) url: String,
    pub(crate) events: Vec<String>,
    /// Fields that were checked, and those that were typed.
    pub(crate) checked: Vec<String>,
    pub(crate) fields: String,
    /// The order that the fields had, which is kept: a save that changes nothing is no change.
    pub(crate) order: Vec<String>,
    pub(crate) filter: String,
    pub(crate) changed: String,
    pub(crate) debounce: String,
    pub(crate) rate_limit: String,
    /// The version that is changed.
    pub(crate) etag: String,
    /// The type whose example shows what fields there are, and what would be sent.
    pub(crate) example: String,
    /// Somebody is at the part that is closed at first.
    pub(crate) is_advanced: bool,
}

impl Typed {
    pub(crate) fn of_form(form: &Form) -> Self {
        let text = |name: &str| form.text(name).to_owned();
        Self {
            name: text("name"),
            description: text("description"),
            url: text("url"),
            events: form.all("events").map(str::to_owned).collect(),
            checked: form.all("field").map(str::to_owned).collect(),
            fields: text("fields"),
            order: form.all("order").map(str::to_owned).collect(),
            filter: text("filter"),
            changed: text("changed"),
            debounce: text("debounce"),
            rate_limit: text("rateLimit"),
            etag: text("etag"),
            example: text("example"),
            is_advanced: matches!(form.text("action"), "fields" | "preview"),
        }
    }

    pub(crate) fn of_webhook(webhook: Webhook, etag: Option<String>) -> Self {
        let lines = |list: Option<Vec<String>>| list.unwrap_or_default().join("\n");
        Self {
            name: webhook.name,
            description: webhook.description.unwrap_or_default(),
            url: webhook.url,
            events: webhook.events,
            fields: lines(webhook.fields),
            filter: webhook.filter.map(|filter| pretty(filter.get())).unwrap_or_default(),
            changed: lines(webhook.changed),
            debounce: webhook.debounce.unwrap_or_default(),
            rate_limit: webhook.rate_limit.map(|limit| limit.to_string()).unwrap_or_default(),
            etag: etag.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// The fields, each once.
    pub(crate) fn paths(&self) -> Vec<String> {
        let typed = self.fields.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut paths: Vec<String> = Vec::new();
        for path in self.checked.iter().map(String::as_str).chain(typed) {
            if paths.iter().all(|known| known != path) {
                paths.push(path.to_owned());
            }
        }
        let place = |path: &String| self.order.iter().position(|known| known == path).unwrap_or(usize::MAX);
        paths.sort_by_key(place);
        paths
    }

    /// The type whose example is shown: the one that was asked for, else the first one of the events.
    pub(crate) fn example_of<'a>(&self, types: &'a [Type]) -> Option<&'a Type> {
        let named = |name: &str| types.iter().find(|one| one.name == name);
        let of_event = |event: &String| match event.strip_suffix("-*") {
            Some(resource) => types.iter().find(|one| one.resource == resource),
            None => named(event),
        };
        named(&self.example).or_else(|| self.events.iter().find_map(of_event)).or(types.first())
    }

    /// The rules, `null` where there is none. What is no JSON goes as a text, so that the API names the field.
    fn rules(&self) -> Map<String, Value> {
        let lines = |text: &str| {
            let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            if lines.is_empty() { Value::Null } else { json!(lines) }
        };
        let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
        let fields = self.paths();
        let fields = if fields.is_empty() { Value::Null } else { json!(fields) };
        let rate_limit = self.rate_limit.parse::<u32>().map_or_else(|_| text(&self.rate_limit), |limit| json!(limit));
        Map::from_iter([
            ("fields".to_owned(), fields),
            ("changed".to_owned(), lines(&self.changed)),
            ("debounce".to_owned(), text(&self.debounce)),
            ("rateLimit".to_owned(), rate_limit),
        ])
    }

    /// The body of a request. The filter keeps the digits of its numbers, so it is put in as it was typed.
    pub(crate) fn body(&self, more: Map<String, Value>) -> String {
        let mut body = self.rules();
        body.extend(more);
        let filter = match serde_json::from_str::<&RawValue>(&self.filter) {
            _ if self.filter.is_empty() => "null".to_owned(),
            Ok(filter) => filter.get().to_owned(),
            Err(_) => json!(self.filter).to_string(),
        };
        let body = Value::Object(body).to_string();
        format!("{},\"filter\":{filter}}}", body.strip_suffix('}').unwrap_or(&body))
    }

    pub(crate) fn whole(&self) -> String {
        let description = if self.description.is_empty() { Value::Null } else { json!(self.description) };
        self.body(Map::from_iter([
            ("name".to_owned(), json!(self.name)),
            ("description".to_owned(), description),
            ("url".to_owned(), json!(self.url)),
            ("events".to_owned(), json!(self.events)),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_the_body_and_no_number_loses_a_digit() {
        let typed = Typed {
            name: "a".to_owned(),
            url: "https://a.example/".to_owned(),
            events: vec!["order-*".to_owned()],
            fields: " id\n\ncustomer.email \n".to_owned(),
            filter: r#"{ "total_price": [10.10] }"#.to_owned(),
            rate_limit: "50".to_owned(),
            ..Typed::default()
        };
        let body = typed.whole();
        let read: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&read["fields"], &read["rateLimit"]), (&json!(["id", "customer.email"]), &json!(50)), "{body}");
        assert_eq!((&read["changed"], &read["description"]), (&Value::Null, &Value::Null));
        assert!(body.contains(r#""filter":{ "total_price": [10.10] }"#), "{body}");
        // What was checked comes before what was typed, but keeps the place that it had.
        let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        let (checked, order) = (owned(&["a", "c", "id"]), owned(&["id", "b", "a"]));
        let typed = Typed { fields: "b\nd\nid".to_owned(), checked, order, ..Typed::default() };
        assert_eq!(typed.paths(), ["id", "b", "a", "c", "d"]);
        // The API says what is wrong with what is not as it should be.
        let odd = Typed { filter: "{".to_owned(), rate_limit: "many".to_owned(), ..Typed::default() };
        let read: Value = serde_json::from_str(&odd.whole()).unwrap();
        assert_eq!((&read["filter"], &read["rateLimit"]), (&json!("{"), &json!("many")));
    }
}
