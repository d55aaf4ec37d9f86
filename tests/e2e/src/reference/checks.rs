//! The promises, each as a check of what was seen.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::order::is_deletion;
use super::{Arrival, Change, Row, Seen, State, Webhook};

/// A first attempt that begins this soon after storing carries its own event's state. Milliseconds.
const FRESH: i64 = 1000;
/// What a deliverer may take to read a state that was stored before an attempt began, and to note what an attempt has come
/// to.
const SLACK: i64 = 1000;

/// Everything about a case that breaks a promise.
pub fn check(seen: &Seen) -> Vec<String> {
    let case = Case::new(seen);
    let mut wrong = case.sequences();
    for webhook in &seen.webhooks {
        let found = [
            case.rows(webhook),
            case.ends(webhook),
            case.arrivals(webhook),
            case.identities(webhook),
            case.freshness(webhook),
            case.last_states(webhook),
            case.deletions(webhook),
            case.order(webhook),
        ];
        wrong.extend(found.concat().into_iter().map(|what| format!("{}: {what} [{:?}]", webhook.id, webhook.rules)));
    }
    wrong
}

pub(super) struct Case<'a> {
    seen: &'a Seen,
    by_identity: HashMap<(&'a str, &'a str), &'a State>,
}

impl<'a> Case<'a> {
    fn new(seen: &'a Seen) -> Self {
        let states = seen.states.values().flat_map(|states| states.all());
        Self { seen, by_identity: states.map(|state| ((state.source.as_str(), state.id.as_str()), state)).collect() }
    }

    /// The event that made the delivery.
    fn event(&self, arrival: &Arrival) -> Option<&'a State> {
        self.by_identity.get(&(arrival.source.as_str(), arrival.event.as_str())).copied()
    }

    /// The event whose state is the body.
    pub(super) fn payload(&self, arrival: &Arrival) -> Option<&'a State> {
        self.seen.states[&self.event(arrival)?.resource].of(&arrival.payload_event)
    }

    /// A state and those that are newer.
    pub(super) fn states_from(&self, state: &State) -> &'a [State] {
        self.seen.states[&state.resource].from(state)
    }

    fn state(&self, row: &Row) -> Option<&'a State> {
        self.seen.states.get(&row.resource)?.of(&row.event)
    }

    /// What came, with its event and the state that it carried; what has none is found by [`Self::arrivals`].
    fn came<'w>(&'w self, webhook: &'w Webhook) -> impl Iterator<Item = (&'w Arrival, &'a State, &'a State)> {
        webhook.arrivals.iter().filter_map(|arrival| Some((arrival, self.event(arrival)?, self.payload(arrival)?)))
    }

    /// Each event makes one delivery for each webhook that subscribes to it, and that is at its end.
    fn rows(&self, webhook: &Webhook) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut due: HashMap<_, _> = self
            .seen
            .states
            .values()
            .flat_map(|states| states.all())
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|state| webhook.rules.subscribes_to(&state.event_type))
            .map(|state| ((state.resource.as_str(), state.id.as_str()), state))
            .collect();
        let mut ids = HashSet::new();
        for row in &webhook.rows {
            match due.remove(&(row.resource.as_str(), row.event.as_str())) {
                None => wrong.push(format!("nobody is owed {row:?}, or a second time")),
                Some(state) if state.event_type != row.event_type => wrong.push(format!("{row:?} is of another type")),
                Some(_) => {}
            }
            if !ids.insert(&row.id) {
                wrong.push(format!("{} is there twice", row.id));
            }
            if ["pending", "parked"].contains(&row.state.as_str()) {
                wrong.push(format!("{row:?} has come to no end"));
            }
        }
        wrong.extend(due.into_values().map(|state| format!("nothing is known of {state:?}")));
        wrong
    }

    /// Each end is what has happened.
    fn ends(&self, webhook: &Webhook) -> Vec<String> {
        let accepted: HashSet<_> = webhook.accepted().map(|arrival| arrival.delivery.as_str()).collect();
        let judge = |row: &Row| {
            let own = self.state(row).ok_or("its event is unknown")?;
            let has_come = accepted.contains(row.id.as_str());
            if row.state == "delivered" {
                return if has_come { Ok(()) } else { Err("the endpoint has accepted no such thing".to_owned()) };
            }
            // Whoever has sent it may have been killed before it could say so.
            if has_come && !self.seen.is_disturbed {
                return Err("the endpoint has accepted it".to_owned());
            }
            match row.state.as_str() {
                "failed" if row.reason == "carrier_failed" => {
                    // What a crash repeats may be accepted after it had failed for good.
                    let carrier = row.carried_by.as_ref().filter(|_| !self.seen.is_disturbed);
                    match carrier.and_then(|carrier| webhook.row(carrier)) {
                        Some(carrier) if carrier.state == "delivered" => Err("its carrier was delivered".to_owned()),
                        _ => Ok(()),
                    }
                }
                "failed" if row.attempts > 0 => Ok(()),
                "filtered" if self.may_be_filtered(webhook, own) => Ok(()),
                "duplicate" => self.duplicate(webhook, row, own),
                "superseded" => self.superseded(webhook, row, own),
                "discarded" if webhook.has_changed(|change| change == Change::EnableAndDiscard) => Ok(()),
                _ => Err("it cannot end so".to_owned()),
            }
        };
        let found = webhook.rows.iter().filter_map(|row| Some((row, judge(row).err()?)));
        found.map(|(row, what)| format!("{what}: {row:?}")).collect()
    }

    /// Whether a state that may have been about to be sent is one that the rules let pass by.
    fn may_be_filtered(&self, webhook: &Webhook, own: &State) -> bool {
        let rules = &webhook.rules;
        if rules.changed || !webhook.keeps_filter() {
            return true;
        }
        let could_be_sent = if rules.original { std::slice::from_ref(own) } else { self.states_from(own) };
        could_be_sent.iter().any(|state| !rules.matches(state))
    }

    /// Each request is what it says it is.
    fn arrivals(&self, webhook: &Webhook) -> Vec<String> {
        let rules = &webhook.rules;
        let judge = |arrival: &Arrival| {
            let own = self.event(arrival).ok_or("no such event was published")?;
            let payload = self.payload(arrival).ok_or("no state of the resource is called that")?;
            let row = webhook.row(&arrival.delivery).ok_or("the history does not know the delivery")?;
            let made = self.state(row).ok_or("its event is unknown")?;
            let is_own = payload.id == own.id;
            // A burst has the delivery of its first event, and the name of its last.
            let is_burst = rules.debounce && made.resource == own.resource && made.rank() <= own.rank();
            let is_its = is_burst || (&made.id, &made.resource) == (&own.id, &own.resource);
            // It tells for others that were dropped as its duplicates.
            let is_carried = rules.drops_duplicates() && rules.is_body_of(&arrival.body, &own.data);
            let faults = [
                (!is_its, "the history has another event"),
                (arrival.event_type != own.event_type || made.event_type != own.event_type, "it is under another name"),
                (!rules.is_body_of(&arrival.body, &payload.data), "the body is not that state"),
                (arrival.payload_at != payload.at(), "the state is not of that time"),
                (payload.is_deletion() && !own.is_deletion(), "a deletion under another name"),
                (rules.original && !is_own && !is_carried, "it is not the original state"),
                (rules.debounce && arrival.attempt == 1 && !is_own, "it names another event than that of its state"),
                (rules.debounce && payload.event_type != own.event_type, "the state is of another type than the burst"),
                (payload.rank() < own.rank(), "the state is older than the event's own"),
                (webhook.keeps_filter() && !rules.matches(payload), "the filter does not match"),
            ];
            match faults.into_iter().find(|(is_so, _)| *is_so) {
                Some((_, fault)) => Err(fault),
                None => Ok(()),
            }
        };
        let found = webhook.arrivals.iter().filter_map(|arrival| Some((arrival, judge(arrival).err()?)));
        found.map(|(arrival, what)| format!("{what}: {arrival:?}")).collect()
    }

    /// A `webhook-id` is one event's. A burst that is sent again after a crash may be told as it was before its last event.
    fn identities(&self, webhook: &Webhook) -> Vec<String> {
        if webhook.rules.debounce && self.seen.is_disturbed {
            return Vec::new();
        }
        let mut known = HashMap::new();
        let mut judge = |arrival: &Arrival| {
            let event = (arrival.source.clone(), arrival.event.clone());
            let first = known.entry(arrival.delivery.clone()).or_insert_with(|| event.clone());
            (*first != event).then(|| format!("{} is of {first:?} and of {event:?}", arrival.delivery))
        };
        webhook.arrivals.iter().filter_map(&mut judge).collect()
    }

    /// A state has one sequence, and sequences are in the order of the states.
    fn sequences(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut known: BTreeMap<(&str, (i64, usize)), &str> = BTreeMap::new();
        for webhook in &self.seen.webhooks {
            for (arrival, _, payload) in self.came(webhook) {
                if arrival.sequence.len() != 32 || !arrival.sequence.bytes().all(|byte| byte.is_ascii_digit()) {
                    wrong.push(format!("{:?} is no sequence", arrival.sequence));
                }
                let sequence = *known.entry((&payload.resource, payload.rank())).or_insert(&arrival.sequence);
                if sequence != arrival.sequence {
                    wrong.push(format!("{} is at {sequence} and at {}", payload.id, arrival.sequence));
                }
            }
        }
        let all: Vec<_> = known.into_iter().collect();
        for pair in all.windows(2) {
            let ((resource, older), sequence) = pair[0];
            let ((other, newer), next) = pair[1];
            if resource == other && sequence >= next {
                wrong.push(format!("{resource}: {older:?} is before {newer:?}, but not {sequence} before {next}"));
            }
        }
        wrong
    }

    /// What is not sent at once carries the most recent state. A deletion tells of itself alone, and a burst of its own type.
    fn freshness(&self, webhook: &Webhook) -> Vec<String> {
        if webhook.rules.original || webhook.rules.debounce {
            return Vec::new();
        }
        let is_late = |arrival: &Arrival, own: &State| arrival.attempt > 1 || arrival.began > own.stored + FRESH;
        let late = self.came(webhook).filter(|(arrival, own, _)| is_late(arrival, own) && !own.is_deletion());
        let stale = late.filter_map(|(arrival, own, payload)| {
            let latest = self.seen.states[&own.resource].latest_alive(arrival.began - SLACK)?;
            let is_stale = payload.rank() < latest.rank();
            is_stale.then(|| format!("{} was there before the attempt: {arrival:?}", latest.id))
        });
        stale.collect()
    }

    /// In the end the endpoint has the newest state.
    fn last_states(&self, webhook: &Webhook) -> Vec<String> {
        let rules = &webhook.rules;
        let is_told_all = rules.above.is_none() && !rules.changed && rules.fields.is_empty() && webhook.keeps_filter();
        if !is_told_all {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        for (resource, states) in &self.seen.states {
            let Some(newest) = states.all().iter().rev().find(|state| rules.subscribes_to(&state.event_type)) else {
                continue;
            };
            let row = webhook.rows.iter().find(|row| row.event == newest.id && row.resource == *resource);
            if row.is_none_or(|row| !["delivered", "superseded"].contains(&row.state.as_str())) {
                continue;
            }
            let accepted = || {
                let of_it =
                    self.came(webhook).filter(|(arrival, own, _)| arrival.is_accepted() && own.resource == *resource);
                of_it.map(|(arrival, _, payload)| (arrival.sequence.as_str(), payload))
            };
            // By sequence, as a receiver would have it; an ordered webhook's receiver may take what comes last.
            let has = if rules.ordered { accepted().last() } else { accepted().max_by_key(|(sequence, _)| *sequence) };
            if has.is_none_or(|(_, payload)| payload.rank() < newest.rank()) {
                let has = has.map(|(_, payload)| &payload.id);
                wrong.push(format!("{resource}: the newest state is {}, the endpoint has {has:?}", newest.id));
            }
        }
        wrong
    }

    /// A deletion is final: what begins after it was delivered carries nothing older.
    fn deletions(&self, webhook: &Webhook) -> Vec<String> {
        let mut wrong = Vec::new();
        for deletion in webhook.rows.iter().filter(|row| row.state == "delivered" && is_deletion(&row.event_type)) {
            // A retry may have carried another state under its name.
            let told = self.came(webhook).filter(|(one, _, _)| one.delivery == deletion.id && one.is_accepted());
            let Some(told) = told
                .map(|(_, _, payload)| payload)
                .filter(|payload| payload.is_deletion())
                .max_by_key(|one| one.rank())
            else {
                continue;
            };
            for (arrival, own, payload) in self.came(webhook) {
                let began_after = arrival.began > deletion.updated + SLACK;
                if began_after && own.resource == deletion.resource && payload.rank() < told.rank() {
                    wrong.push(format!("it undoes the deletion of {deletion:?}: {arrival:?}"));
                }
            }
        }
        wrong
    }

    /// With `ordered`, states never go back, and deliveries of a resource are made one after the other.
    fn order(&self, webhook: &Webhook) -> Vec<String> {
        if !webhook.rules.ordered {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        let mut last: HashMap<&str, &Arrival> = HashMap::new();
        // One that a crash kept from being recorded is made again, and may end otherwise by then.
        let is_recorded = |arrival: &Arrival| {
            webhook.rows.iter().any(|row| row.id == arrival.delivery && (row.attempts > 0 || row.state == "delivered"))
        };
        let accepted = self.came(webhook).filter(|(arrival, _, _)| arrival.is_accepted() && is_recorded(arrival));
        for (arrival, own, _) in accepted {
            if let Some(before) = last.insert(&own.resource, arrival)
                && before.sequence > arrival.sequence
            {
                wrong.push(format!("{} came after {}: {arrival:?}", arrival.sequence, before.sequence));
            }
        }
        for (first, own, _) in self.came(webhook) {
            let Some((_, answered)) = first.answered else { continue };
            for (second, other, _) in self.came(webhook) {
                let is_meanwhile = first.arrived <= second.arrived && second.arrived < answered;
                if own.resource == other.resource && first.delivery != second.delivery && is_meanwhile {
                    wrong.push(format!("{} was sent while {} was under way", second.delivery, first.delivery));
                }
            }
        }
        wrong
    }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
