//! What follows from one event for one webhook, as far as states of the resource can tell.

use bytes::Bytes;
use shopery_model::{Event, PayloadEvent, PayloadMode, Rules};
use shopery_queue::{NewerStates, State};

/// What is known of the resource when an event is routed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct States<'a> {
    /// The event itself.
    pub own: &'a Event,
    /// Newer states, if the event is late.
    pub newer: &'a NewerStates,
    /// The state before the event; only looked up if a rule needs it.
    pub previous: Option<&'a Bytes>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    Send {
        payload: Bytes,
        /// Whose state that is, if it is not the event's own.
        payload_of: Option<PayloadEvent>,
        /// Which of the webhook's `changed` paths have changed.
        changed: Vec<String>,
    },
    Filtered,
}

/// The rules look at the state that would be sent.
pub(crate) fn decide(rules: &Rules, states: States<'_>) -> Decision {
    let own = states.own.event_type;
    let may_carry = |newer: &Event| rules.payload == PayloadMode::Latest && rules.may_carry(own, newer.event_type);
    let newer = states.newer.newest_that(may_carry);
    let data = newer.map_or(&states.own.data, |newer| &newer.event.data);
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
    Decision::Send { payload: rules.project(data), payload_of: newer.map(State::payload_event), changed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;

    const AT: OffsetDateTime = time::macros::datetime!(2026-11-24 10:00 UTC);

    fn event(event_type: &str, id: &str, data: &str) -> Event {
        let json = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"orders","type":"{event_type}","subject":"order/1","data":{data}}}"#
        );
        Event::parse_stored(&json.into(), AT).unwrap()
    }

    fn state(event: Event) -> State {
        State { tenant: "t".parse().unwrap(), sequence: 7, stored_at: AT, version: event.version(AT, 7), event }
    }

    fn send(payload: &'static str, changed: &[&str]) -> Decision {
        let changed = changed.iter().map(|path| (*path).to_owned()).collect();
        Decision::Send { payload: Bytes::from_static(payload.as_bytes()), payload_of: None, changed }
    }

    fn newer(payload: &'static str) -> Decision {
        let payload_of = Some(state(event("order-paid", "newer", "{}")).payload_event());
        Decision::Send { payload: Bytes::from_static(payload.as_bytes()), payload_of, changed: Vec::new() }
    }

    #[test]
    fn a_deletion_and_another_event_are_not_mixed() {
        let (order, gone) = (r#"{"id":1,"total":30}"#, r#"{"id":1}"#);
        for (own, later) in [("order-paid", "order-deleted"), ("order-deleted", "order-created")] {
            let (own, later) = (event(own, "own", order), state(event(later, "newer", gone)));
            let states = States { own: &own, newer: &vec![later].into(), previous: None };
            assert_eq!(decide(&Rules::default(), states), send(order, &[]));
        }
    }

    /// Each row: the rules, the states (own, newer, previous), and what follows.
    #[test]
    fn rules_decide_what_is_sent() {
        let own = r#"{"id":9007199254740993,"total":10.10,"note":"a"}"#;
        let later = r#"{"id":9007199254740993,"total":30,"note":"a"}"#;
        let before = r#"{"id":9007199254740993,"total":9,"note":"a"}"#;
        for (rules, states, decision) in [
            ("{}", [Some(own), None, None], send(own, &[])),
            ("{}", [Some(own), Some(later), None], newer(later)),
            (r#"{"payload":"original"}"#, [Some(own), Some(later), None], send(own, &[])),
            (r#"{"fields":["total"]}"#, [Some(own), None, None], send(r#"{"total":10.10}"#, &[])),
            (r#"{"fields":["total"]}"#, [Some(own), Some(later), None], newer(r#"{"total":30}"#)),
            (r#"{"filter":{"total":[10.1]}}"#, [Some(own), None, None], send(own, &[])),
            (r#"{"filter":{"total":[10.1]}}"#, [Some(own), Some(later), None], Decision::Filtered),
            (r#"{"filter":{"total":[10.1]},"payload":"original"}"#, [Some(own), Some(later), None], send(own, &[])),
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
            (r#"{"changed":["total"]}"#, [Some(own), Some(later), Some(later)], Decision::Filtered),
            (r#"{"changed":["total"],"filter":{"note":["b"]}}"#, [Some(own), None, Some(before)], Decision::Filtered),
        ] {
            let parsed: Rules = serde_json::from_str(rules).unwrap();
            let [own, newer, previous] = states;
            let own = event("order-paid", "own", own.unwrap());
            let newer = newer.map(|json| state(event("order-paid", "newer", json)));
            let newer = newer.into_iter().collect::<Vec<_>>().into();
            let previous = previous.map(|json| Bytes::from_static(json.as_bytes()));
            let known = States { own: &own, newer: &newer, previous: previous.as_ref() };
            assert_eq!(decide(&parsed, known), decision, "{rules} {states:?}");
        }
    }
}
