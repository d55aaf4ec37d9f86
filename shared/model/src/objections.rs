//! Whether an event makes a delivery of a webhook, and what of the webhook is against it: for people who ask why they did not
//! get something. The router decides by the same [`Filter`](crate::Filter) and [`Changed`](crate::Changed).

use crate::{EventPattern, EventType, Rules};

/// What of a webhook an event does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// The field of the webhook.
    pub rule: &'static str,
    /// Where in the resource, if it is one place.
    pub path: Option<String>,
    pub detail: String,
}

/// The state of a resource, and the one before it.
#[derive(Debug, Clone, Copy)]
pub struct StateChange<'a> {
    pub before: Option<&'a [u8]>,
    pub after: &'a [u8],
}

/// All that is against a delivery; nothing if there would be one.
pub fn objections(
    events: &[EventPattern],
    rules: &Rules,
    event_type: EventType,
    state: StateChange<'_>,
) -> Vec<Objection> {
    let mut found = Vec::new();
    if !events.iter().any(|pattern| pattern.matches(event_type)) {
        let list: Vec<_> = events.iter().map(ToString::to_string).collect();
        let detail = format!("{event_type} is none of {}", list.join(", "));
        found.push(Objection { rule: "events", path: None, detail });
    }
    if let Some(filter) = &rules.filter {
        found.extend(filter.mismatches(state.after).into_iter().map(|mismatch| Objection {
            rule: "filter",
            detail: mismatch.to_string(),
            path: Some(mismatch.path).filter(|path| !path.is_empty()),
        }));
    }
    if let Some(changed) = &rules.changed
        && changed.between(state.before, state.after).is_empty()
    {
        let paths = changed.paths().join(", ");
        let detail = match state.before {
            Some(_) => format!("none of {paths} differs from the resource's previous state"),
            None => format!("no state of the resource before this one is held, and this one has none of {paths}"),
        };
        found.push(Objection { rule: "changed", path: None, detail });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_says_what_is_against_it() {
        let events = ["order-paid".parse().unwrap(), "product-*".parse().unwrap()];
        let (paid, created) = ("order-paid".parse().unwrap(), "order-created".parse().unwrap());
        let (own, before) = (r#"{"total_price":59.80,"status":"paid"}"#, r#"{"total_price":59.80,"status":"open"}"#);
        for (rules, event_type, before, expected) in [
            ("{}", paid, None, vec![]),
            ("{}", created, None, vec![("events", "order-created is none of order-paid, product-*")]),
            (
                r#"{"filter":{"total_price":[{"numeric":[">",100]}]}}"#,
                paid,
                None,
                vec![("filter", r#"total_price is 59.80, which does not match [{"numeric":[">",100]}]"#)],
            ),
            (r#"{"changed":["status"]}"#, paid, Some(before), vec![]),
            (
                r#"{"changed":["total_price","note"]}"#,
                paid,
                Some(before),
                vec![("changed", "none of total_price, note differs from the resource's previous state")],
            ),
            (
                r#"{"changed":["note"]}"#,
                paid,
                None,
                vec![("changed", "no state of the resource before this one is held, and this one has none of note")],
            ),
        ] {
            let rules: Rules = serde_json::from_str(rules).unwrap();
            let state = StateChange { before: before.map(str::as_bytes), after: own.as_bytes() };
            let found = objections(&events, &rules, event_type, state);
            let found: Vec<_> = found.iter().map(|one| (one.rule, one.detail.as_str())).collect();
            assert_eq!(found, expected, "{rules:?}");
        }
    }
}
