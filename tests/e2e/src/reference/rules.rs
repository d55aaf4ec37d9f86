//! What a webhook asks for, as far as scenarios use it: flat resources, one filter, one path that must change.

use serde_json::{Value, json};

use super::{Resource, State};

#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Event types; none for all of them.
    pub events: Vec<&'static str>,
    /// Names of members; none for the whole resource.
    pub fields: Vec<&'static str>,
    /// The total must be above this.
    pub above: Option<i64>,
    /// The total must have changed.
    pub changed: bool,
    pub original: bool,
    pub debounce: bool,
    pub keep_duplicates: bool,
    pub ordered: bool,
    pub cloudevent: bool,
}

impl Rules {
    pub fn subscribes_to(&self, event_type: &str) -> bool {
        self.events.is_empty() || self.events.contains(&event_type)
    }

    /// Whether its filter matches; `changed` is not looked at.
    pub fn matches(&self, state: &State) -> bool {
        self.above.is_none_or(|above| state.data.total > above)
    }

    /// The resource as it is sent.
    pub fn project(&self, data: &Resource) -> String {
        if self.fields.is_empty() {
            return data.json();
        }
        let kept = data.members().into_iter().filter(|(name, _)| self.fields.contains(name));
        let members: Vec<_> = kept.map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    }

    /// Whether this is what is sent of a resource.
    pub fn is_body_of(&self, body: &str, data: &Resource) -> bool {
        let expected = self.project(data);
        if !self.cloudevent {
            return body == expected;
        }
        let Ok(event) = serde_json::from_str::<Value>(body) else { return false };
        event["data"] == serde_json::from_str::<Value>(&expected).unwrap()
    }

    pub fn drops_duplicates(&self) -> bool {
        !self.fields.is_empty() && !self.keep_duplicates
    }

    /// The members of `POST /company/webhooks` that say so.
    pub fn json(&self) -> Value {
        let mut json = json!({
            "payload": if self.original { "original" } else { "latest" },
            "dropDuplicates": !self.keep_duplicates,
            "ordered": self.ordered,
            "format": if self.cloudevent { "cloudevent" } else { "resource" },
        });
        let mut set = |name: &str, value: Value| json[name] = value;
        if !self.fields.is_empty() {
            set("fields", json!(self.fields));
        }
        if let Some(above) = self.above {
            set("filter", filter(above));
        }
        if self.changed {
            set("changed", json!(["total"]));
        }
        if self.debounce {
            set("debounce", json!("1s"));
        }
        json
    }
}

/// The total must be above this.
pub(super) fn filter(above: i64) -> Value {
    json!({ "total": [{ "numeric": [">", above] }] })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::order::tests::state;
    use super::*;

    /// Of a webhook that asks for nothing.
    pub fn plain() -> Rules {
        Rules {
            events: vec![],
            fields: vec![],
            above: None,
            changed: false,
            original: false,
            debounce: false,
            keep_duplicates: false,
            ordered: false,
            cloudevent: false,
        }
    }

    #[test]
    fn a_resource_is_sent_as_the_rules_say() {
        let state = state("1", "order-paid", 1, 1);
        let whole = r#"{"id":"a","number":1,"total":100,"status":"open"}"#;
        assert!(plain().is_body_of(whole, &state.data));
        let few = Rules { fields: vec!["status", "total"], ..plain() };
        assert!(few.is_body_of(r#"{"total":100,"status":"open"}"#, &state.data));
        assert!(!few.is_body_of(whole, &state.data));
        let enveloped = Rules { cloudevent: true, ..few };
        assert!(enveloped.is_body_of(r#"{"type":"x","data":{"total":100,"status":"open"}}"#, &state.data));
        assert!(!enveloped.is_body_of(r#"{"total":100,"status":"open"}"#, &state.data));
    }

    #[test]
    fn a_filter_is_strict() {
        let state = state("1", "order-paid", 1, 1);
        for (above, matches) in [(None, true), (Some(99), true), (Some(100), false)] {
            assert_eq!(Rules { above, ..plain() }.matches(&state), matches, "{above:?}");
        }
        let rules = Rules { events: vec!["order-paid"], ..plain() };
        assert!(rules.subscribes_to("order-paid") && !rules.subscribes_to("order-deleted"));
    }
}
