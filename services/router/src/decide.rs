//! What follows from one event for one webhook, as far as states of the resource can tell.

use bytes::Bytes;
use shopery_model::{PayloadMode, Rules};

/// What is known of the resource when an event is routed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct States<'a> {
    /// The state that the event carries.
    pub own: &'a Bytes,
    /// A newer one, if the event is late.
    pub newer: Option<&'a Bytes>,
    /// The one before the event; only looked up if a rule needs it.
    pub previous: Option<&'a Bytes>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    Send {
        payload: Bytes,
        /// Which of the webhook's `changed` paths have changed.
        changed: Vec<String>,
    },
    Filtered,
}

/// The rules look at the state that would be sent.
pub(crate) fn decide(rules: &Rules, states: States<'_>) -> Decision {
    let data = match (rules.payload, states.newer) {
        (PayloadMode::Latest, Some(newer)) => newer,
        _ => states.own,
    };
    if rules.filter.as_ref().is_some_and(|filter| !filter.matches(data)) {
        return Decision::Filtered;
    }
    let mut changed = Vec::new();
    if let Some(paths) = &rules.changed {
        changed.extend(paths.between(states.previous.map(AsRef::as_ref), data).into_iter().map(str::to_owned));
        if changed.is_empty() {
            return Decision::Filtered;
        }
    }
    Decision::Send { payload: rules.project(data), changed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(payload: &'static str, changed: &[&str]) -> Decision {
        let changed = changed.iter().map(|path| (*path).to_owned()).collect();
        Decision::Send { payload: Bytes::from_static(payload.as_bytes()), changed }
    }

    /// Each row: the rules, the states (own, newer, previous), and what follows.
    #[test]
    fn rules_decide_what_is_sent() {
        let own = r#"{"id":9007199254740993,"total":10.10,"note":"a"}"#;
        let newer = r#"{"id":9007199254740993,"total":30,"note":"a"}"#;
        let before = r#"{"id":9007199254740993,"total":9,"note":"a"}"#;
        for (rules, states, decision) in [
            ("{}", [Some(own), None, None], send(own, &[])),
            ("{}", [Some(own), Some(newer), None], send(newer, &[])),
            (r#"{"payload":"original"}"#, [Some(own), Some(newer), None], send(own, &[])),
            (r#"{"fields":["total"]}"#, [Some(own), None, None], send(r#"{"total":10.10}"#, &[])),
            (r#"{"fields":["total"]}"#, [Some(own), Some(newer), None], send(r#"{"total":30}"#, &[])),
            (r#"{"filter":{"total":[10.1]}}"#, [Some(own), None, None], send(own, &[])),
            (r#"{"filter":{"total":[10.1]}}"#, [Some(own), Some(newer), None], Decision::Filtered),
            (r#"{"filter":{"total":[10.1]},"payload":"original"}"#, [Some(own), Some(newer), None], send(own, &[])),
            // A filter sees what `fields` leaves out.
            (
                r#"{"filter":{"note":["a"]},"fields":["id"]}"#,
                [Some(own), None, None],
                send(r#"{"id":9007199254740993}"#, &[]),
            ),
            (r#"{"filter":{"note":["b"]},"fields":["id"]}"#, [Some(own), None, None], Decision::Filtered),
            (r#"{"changed":["total","note"]}"#, [Some(own), None, Some(before)], send(own, &["total"])),
            (r#"{"changed":["note","id"]}"#, [Some(own), None, Some(before)], Decision::Filtered),
            // A first state changes what it has.
            (r#"{"changed":["total","gone"]}"#, [Some(own), None, None], send(own, &["total"])),
            (r#"{"changed":["gone"]}"#, [Some(own), None, None], Decision::Filtered),
            // Of a late event nothing is left to tell.
            (r#"{"changed":["total"]}"#, [Some(own), Some(newer), Some(newer)], Decision::Filtered),
            (r#"{"changed":["total"],"filter":{"note":["b"]}}"#, [Some(own), None, Some(before)], Decision::Filtered),
        ] {
            let parsed: Rules = serde_json::from_str(rules).unwrap();
            let [own, newer, previous] = states.map(|state| state.map(|json| Bytes::from_static(json.as_bytes())));
            let own = own.unwrap();
            let known = States { own: &own, newer: newer.as_ref(), previous: previous.as_ref() };
            assert_eq!(decide(&parsed, known), decision, "{rules} {states:?}");
        }
    }
}
