//! The states of a resource and their order.

use super::Resource;

/// An event that was accepted. Times are Unix milliseconds.
#[derive(Debug, Clone)]
pub struct State {
    pub source: String,
    pub id: String,
    pub event_type: String,
    /// `order/a`
    pub resource: String,
    pub data: Resource,
    /// As its publisher said; the time of storing if the publisher said nothing.
    pub time: i64,
    pub stored: i64,
    /// Among all events of the tenant, in the order in which they were stored.
    pub place: usize,
}

impl State {
    /// By time, taken as no later than the time of storing; then by storing.
    pub fn rank(&self) -> (i64, usize) {
        (self.at(), self.place)
    }

    /// The time that the state counts as being of.
    pub fn at(&self) -> i64 {
        self.time.min(self.stored)
    }

    pub fn is_deletion(&self) -> bool {
        is_deletion(&self.event_type)
    }
}

pub(super) fn is_deletion(event_type: &str) -> bool {
    event_type.ends_with("-deleted")
}

/// Of one resource, oldest first.
#[derive(Debug, Clone, Default)]
pub struct States(Vec<State>);

impl States {
    pub fn new(mut states: Vec<State>) -> Self {
        states.sort_by_key(State::rank);
        Self(states)
    }

    pub fn all(&self) -> &[State] {
        &self.0
    }

    /// By the id of its event; ids are unique within a resource.
    pub fn of(&self, event: &str) -> Option<&State> {
        self.0.iter().find(|state| state.id == event)
    }

    /// The most recent one that was stored by `moment`, but for deletions: while the resource is gone, whatever is not its
    /// deletion tells what it was.
    pub fn latest_alive(&self, moment: i64) -> Option<&State> {
        self.0.iter().rev().find(|state| state.stored <= moment && !state.is_deletion())
    }

    /// Those that are not older than `state`.
    pub fn from(&self, state: &State) -> &[State] {
        &self.0[self.0.partition_point(|other| other.rank() < state.rank())..]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn state(id: &str, event_type: &str, time: i64, stored: i64) -> State {
        State {
            source: "s".to_owned(),
            id: id.to_owned(),
            event_type: event_type.to_owned(),
            resource: "order/a".to_owned(),
            data: Resource { id: "a".to_owned(), number: 1, total: 100, status: "open" },
            time,
            stored,
            place: usize::try_from(stored).unwrap(),
        }
    }

    fn ids(states: &[State]) -> Vec<&str> {
        states.iter().map(|state| state.id.as_str()).collect()
    }

    #[test]
    fn a_state_is_of_its_time_and_never_of_the_future() {
        let states = States::new(vec![
            state("ahead", "order-updated", 9000, 20),
            state("first", "order-created", 10, 10),
            state("late", "order-updated", 5, 40),
            state("last", "order-updated", 30, 30),
            state("same", "order-updated", 30, 35),
        ]);
        assert_eq!(ids(states.all()), ["late", "first", "ahead", "last", "same"]);
        assert_eq!(ids(states.from(states.of("last").unwrap())), ["last", "same"]);
    }

    #[test]
    fn what_a_resource_was_is_told_while_it_is_gone() {
        let states = States::new(vec![
            state("1", "order-created", 10, 10),
            state("2", "order-updated", 20, 20),
            state("3", "order-deleted", 30, 30),
            state("4", "order-deleted", 40, 40),
            state("5", "order-created", 50, 50),
        ]);
        let latest = |moment| states.latest_alive(moment).map(|state| state.id.as_str());
        assert_eq!((latest(9), latest(45), latest(50)), (None, Some("2"), Some("5")));
    }
}
