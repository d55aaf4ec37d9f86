//! What the form of a webhook has, and the body of a request that comes of it.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use shopery_model::{DestinationKind, Headers};

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
    /// The owner's own for a bus, and for a topic.
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
    pub(crate) role_arn: String,
    pub(crate) external_id: String,
    pub(crate) key_file: String,
    /// The webhook has credentials, which are taken away if none are left.
    pub(crate) has_key: bool,
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
            access_key_id: text("accessKeyId"),
            secret_access_key: text("secretAccessKey"),
            role_arn: text("roleArn"),
            external_id: text("externalId"),
            key_file: text("keyFile"),
            has_key: form.given("hasKey").is_some(),
            etag: text("etag"),
            example: text("example"),
            is_advanced: matches!(form.text("action"), "fields" | "preview"),
        }
    }

    pub(crate) fn of_webhook(webhook: Webhook, etag: Option<String>) -> Self {
        let lines = |list: Option<Vec<String>>| list.unwrap_or_default().join("\n");
        let key = webhook.credentials;
        let of_key = |name: &str| key.get(name).cloned().unwrap_or_default();
        let is_of_google = key.contains_key("client_email");
        Self {
            access_key_id: of_key("accessKeyId"),
            secret_access_key: of_key("secretAccessKey"),
            role_arn: of_key("roleArn"),
            external_id: of_key("externalId"),
            key_file: if is_of_google { pretty(&json!(key).to_string()) } else { String::new() },
            has_key: !key.is_empty(),
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
        let filter = if self.filter.is_empty() { "null".to_owned() } else { as_json(&self.filter) };
        with_member(&Value::Object(body).to_string(), "filter", &filter)
    }

    pub(crate) fn whole(&self) -> String {
        let description = if self.description.is_empty() { Value::Null } else { json!(self.description) };
        let body = self.body(Map::from_iter([
            ("name".to_owned(), json!(self.name)),
            ("description".to_owned(), description),
            ("url".to_owned(), json!(self.url)),
            ("events".to_owned(), json!(self.events)),
        ]));
        self.with_credentials(body)
    }

    /// The body of a request that tests what was typed.
    pub(crate) fn test(&self) -> String {
        self.with_credentials(json!({ "url": self.url }).to_string())
    }

    fn with_credentials(&self, body: String) -> String {
        match self.credentials() {
            Some(credentials) => with_member(&body, "credentials", &credentials),
            // Of a webhook without any nothing is said: it is none that has to be opened.
            None if self.has_key => with_member(&body, "credentials", "null"),
            None => body,
        }
    }

    /// Those of the kind of the URL. Others are sent as well where there are none of it: the API says why they do not fit.
    fn credentials(&self) -> Option<String> {
        let members = [
            ("accessKeyId", &self.access_key_id),
            ("secretAccessKey", &self.secret_access_key),
            ("roleArn", &self.role_arn),
            ("externalId", &self.external_id),
        ];
        let given = members.into_iter().filter(|(_, text)| !text.is_empty());
        let amazon: Map<String, Value> = given.map(|(name, text)| (name.to_owned(), json!(text))).collect();
        let amazon = (!amazon.is_empty()).then(|| Value::Object(amazon).to_string());
        let google = (!self.key_file.is_empty()).then(|| as_json(&self.key_file));
        if DestinationKind::of(&self.url) == DestinationKind::PubSub { google.or(amazon) } else { amazon.or(google) }
    }

    pub(crate) fn has_credentials(&self) -> bool {
        self.has_key || self.credentials().is_some()
    }

    /// Whether a secret of the credentials is known to the API alone.
    pub(crate) fn is_masked(&self) -> bool {
        self.credentials().is_some_and(|credentials| credentials.contains(&format!("\"{}\"", Headers::MASK)))
    }
}

/// JSON as it was typed. What is none goes as a text, so that the API names the field.
fn as_json(text: &str) -> String {
    serde_json::from_str::<&RawValue>(text).map_or_else(|_| json!(text).to_string(), |json| json.get().to_owned())
}

/// An object with one more member, which keeps every byte of it.
fn with_member(object: &str, name: &str, json: &str) -> String {
    format!("{},\"{name}\":{json}}}", object.strip_suffix('}').unwrap_or(object))
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

    #[test]
    fn credentials_are_those_of_the_url_and_none_are_said_to_be_none_only_where_there_were_some() {
        let (bus, topic) = ("arn:aws:events:eu-west-1:123456789012:event-bus/orders", "pubsub://shop-analytics/orders");
        let with = |url: &str, id: &str, key_file: &str, has_key| {
            let [url, access_key_id, key_file] = [url, id, key_file].map(str::to_owned);
            let body = Typed { url, access_key_id, key_file, has_key, ..Typed::default() }.whole();
            serde_json::from_str::<Value>(&body).unwrap().get("credentials").cloned()
        };
        let (amazon, google) = (json!({ "accessKeyId": "AKIA" }), json!({ "client_email": "a@b" }));
        let file = google.to_string();
        for (url, id, key_file, has_key, sent) in [
            (bus, "AKIA", "", false, Some(&amazon)),
            (bus, "AKIA", file.as_str(), false, Some(&amazon)),
            (topic, "AKIA", file.as_str(), false, Some(&google)),
            (bus, "", file.as_str(), false, Some(&google)),
            ("https://a.example/", "AKIA", "", true, Some(&amazon)),
            (topic, "", "no JSON", false, Some(&json!("no JSON"))),
            (topic, "", "", true, Some(&Value::Null)),
            (topic, "", "", false, None),
        ] {
            assert_eq!(with(url, id, key_file, has_key), sent.cloned(), "{url} {id} {key_file}");
        }
    }

    #[test]
    fn what_is_shown_of_credentials_is_what_is_sent_back() {
        for (url, credentials) in [
            (
                "arn:aws:events:eu-west-1:123456789012:event-bus/a",
                json!({ "accessKeyId": "AKIA", "secretAccessKey": "***", "roleArn": "r" }),
            ),
            (
                "pubsub://shop-analytics/a",
                json!({ "client_email": "a@b", "private_key": "***", "private_key_id": "1" }),
            ),
        ] {
            let webhook = json!({
                "id": "1", "name": "a", "url": url, "events": [], "state": "active", "createdAt": "2026-11-24T10:00:00Z",
                "credentials": credentials,
            });
            let typed = Typed::of_webhook(serde_json::from_value(webhook).unwrap(), None);
            let body: Value = serde_json::from_str(&typed.test()).unwrap();
            assert_eq!(body, json!({ "url": url, "credentials": credentials }));
            assert!(typed.is_masked() && typed.has_credentials());
        }
    }
}
