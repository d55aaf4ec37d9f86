//! What one tenant does, from a seed: its webhooks, its events, and what happens to its endpoints meanwhile.

use serde_json::{Value, json};

use super::Rules;
use super::rules::filter;
use crate::Behaviour;
use crate::documents::Random;

const SOURCES: [&str; 3] = ["shop", "till", "stock"];
const ORDER: [&str; 5] = ["order-updated", "order-paid", "order-refunded", "order-created", "order-deleted"];
const PRODUCT: [&str; 3] = ["product-updated", "product-created", "product-deleted"];

/// A resource as events carry it: flat, so that a reference needs no JSON of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    pub id: String,
    /// Of the event among those of the scenario: two states are never the same as a whole.
    pub number: usize,
    pub total: i64,
    pub status: &'static str,
}

impl Resource {
    pub fn members(&self) -> [(&'static str, String); 4] {
        [
            ("id", format!("\"{}\"", self.id)),
            ("number", self.number.to_string()),
            ("total", self.total.to_string()),
            ("status", format!("\"{}\"", self.status)),
        ]
    }

    pub fn json(&self) -> String {
        let members: Vec<_> = self.members().into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    }
}

/// What the publisher's clock says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clock {
    /// The event has no time.
    Silent,
    /// Milliseconds ahead of the true time; below 0 it is behind, or the event is late.
    Off(i64),
}

/// An event that will be published.
#[derive(Debug, Clone)]
pub struct Planned {
    pub source: &'static str,
    pub id: String,
    pub event_type: &'static str,
    /// `order/a`
    pub resource: String,
    pub data: Resource,
    pub clock: Clock,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// To another path, by its number.
    Url(usize),
    Secret,
    Disable,
    EnableAndSend,
    EnableAndDiscard,
    /// To another total that must be passed.
    Filter(i64),
}

impl Change {
    /// Whether the endpoint is another one after it.
    pub fn makes_new_endpoint(self) -> bool {
        matches!(self, Self::Url(_) | Self::Secret | Self::EnableAndSend | Self::EnableAndDiscard)
    }

    /// The body of the PATCH; a secret has a call of its own.
    pub fn patch(self, url: impl Fn(usize) -> String) -> Option<Value> {
        match self {
            Self::Url(number) => Some(json!({ "url": url(number) })),
            Self::Secret => None,
            Self::Disable => Some(json!({ "isEnabled": false })),
            Self::EnableAndSend => Some(json!({ "isEnabled": true, "waiting": "send" })),
            Self::EnableAndDiscard => Some(json!({ "isEnabled": true, "waiting": "discard" })),
            Self::Filter(above) => Some(json!({ "filter": filter(above) })),
        }
    }
}

#[derive(Debug, Clone)]
pub enum Step {
    /// One event by itself, several as a batch. Over NATS each goes by itself.
    Publish {
        events: Vec<Planned>,
        over_nats: bool,
    },
    Patch {
        webhook: usize,
        change: Change,
    },
    /// From now on, whatever URL the webhook has or gets.
    Behave {
        webhook: usize,
        behaviour: Behaviour,
    },
    /// Milliseconds in which nothing is published, so that retries come between.
    Pause(u64),
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub tenant: String,
    /// The rules of each webhook, and what its endpoint does at first.
    pub webhooks: Vec<(Rules, Behaviour)>,
    pub steps: Vec<Step>,
}

impl Scenario {
    pub fn new(seed: u64, number: usize, has_nats: bool) -> Self {
        let mut random = Random::new(seed ^ (number as u64 + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let mut script = Script::publications(&mut random, has_nats);
        let count = 2 + random.below(3);
        let mut webhooks: Vec<_> = (0..count).map(|_| (rules(&mut random), Behaviour::Answer(200))).collect();
        // It is told of all, so that every event is in the history.
        webhooks[0].0.events.clear();
        for (place, (_, behaviour)) in webhooks.iter_mut().enumerate() {
            *behaviour = script.behave(place, &mut random);
            script.patch(place, &mut random);
        }
        Self { tenant: format!("model_{number}"), webhooks, steps: script.steps() }
    }
}

/// Publications, and what happens before each of them and at the end.
struct Script {
    publications: Vec<Step>,
    /// One more than there are publications.
    between: Vec<Vec<Step>>,
}

impl Script {
    fn publications(random: &mut Random, has_nats: bool) -> Self {
        let mut events = Events::new(random);
        let mut publications = Vec::new();
        for _ in 0..4 + random.below(4) {
            let size = match random.below(20) {
                0..10 => 1,
                10..17 => 2 + random.below(3),
                _ => 8,
            };
            let mut batch: Vec<_> = (0..size).map(|_| events.next(random)).collect();
            if random.once_in(6) {
                // A repeat, of this batch or of one before.
                let again = events.planned[random.below(events.planned.len())].clone();
                batch.push(again);
            }
            publications.push(Step::Publish { events: batch, over_nats: has_nats && random.once_in(2) });
        }
        let mut between = vec![Vec::new(); publications.len() + 1];
        for pauses in between.iter_mut().skip(1) {
            if !random.once_in(3) {
                pauses.push(Step::Pause(random.below(900) as u64));
            }
        }
        Self { publications, between }
    }

    /// How the endpoint of a webhook begins; what it does later is put between the publications.
    fn behave(&mut self, webhook: usize, random: &mut Random) -> Behaviour {
        match random.below(20) {
            0..7 => Behaviour::Answer(200),
            7..12 => {
                Behaviour::FailFirst { times: 1 + random.below(3), status: if random.once_in(2) { 500 } else { 503 } }
            }
            12..14 => Behaviour::Turns(vec![200, 500]),
            14 => Behaviour::Turns(vec![500, 503, 200]),
            15..17 => Behaviour::Slow(std::time::Duration::from_millis(50 + random.below(350) as u64)),
            _ => {
                let place = 1 + random.below(self.publications.len());
                self.between[place].push(Step::Behave { webhook, behaviour: Behaviour::Answer(200) });
                Behaviour::Answer(500)
            }
        }
    }

    fn patch(&mut self, webhook: usize, random: &mut Random) {
        if !random.once_in(3) {
            return;
        }
        let last = self.publications.len();
        let mut put = |place: usize, change| self.between[place].push(Step::Patch { webhook, change });
        let place = 1 + random.below(last);
        match random.below(8) {
            0..2 => put(place, Change::Url(1)),
            2..4 => put(place, Change::Secret),
            4..7 => {
                put(place, Change::Disable);
                let enable = if random.once_in(2) { Change::EnableAndSend } else { Change::EnableAndDiscard };
                put(place + random.below(last + 1 - place), enable);
            }
            _ => put(place, Change::Filter(if random.once_in(2) { 100 } else { 60 })),
        }
    }

    fn steps(self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut publications = self.publications.into_iter();
        for between in self.between {
            steps.extend(between);
            steps.extend(publications.next());
        }
        steps
    }
}

/// The events of a scenario as they are thought of.
struct Events {
    resources: Vec<(String, &'static [&'static str], bool)>,
    planned: Vec<Planned>,
}

impl Events {
    fn new(random: &mut Random) -> Self {
        let mut resources: Vec<_> =
            ["a", "b"].iter().take(1 + random.below(2)).map(|id| (format!("order/{id}"), &ORDER[..], false)).collect();
        if random.once_in(3) {
            resources.push(("product/a".to_owned(), &PRODUCT[..], false));
        }
        Self { resources, planned: Vec::new() }
    }

    fn next(&mut self, random: &mut Random) -> Planned {
        let number = self.planned.len();
        let place = random.below(self.resources.len());
        let (resource, types, is_deleted) = &mut self.resources[place];
        let event_type = match random.below(20) {
            // What was deleted may be created again; other events may still come, out of order.
            0..12 if *is_deleted => types[types.len() - 2],
            0..9 => types[0],
            9..17 => types[random.below(types.len() - 1)],
            _ => types[types.len() - 1],
        };
        *is_deleted = event_type.ends_with("-deleted");
        let (resource, id) = (resource.clone(), format!("evt_{number}"));
        let data = Resource {
            id: resource.split_once('/').unwrap().1.to_owned(),
            number,
            total: [50, 100, 101, 150][random.below(4)],
            status: random.pick(&["open", "paid"]),
        };
        let clock = clock(random);
        let mut planned = Planned { source: SOURCES[random.below(3)], id, event_type, resource, data, clock };
        // Another source may use the id for something of its own: here always for another resource.
        if random.once_in(8)
            && let Some(other) = self.planned.iter().find(|other| {
                let taken = |known: &Planned| known.id == other.id && known.resource == planned.resource;
                other.source != planned.source
                    && !self.planned.iter().any(taken)
                    && !self.planned.iter().any(|known| known.id == other.id && known.source == planned.source)
            })
        {
            planned.id.clone_from(&other.id);
        }
        self.planned.push(planned.clone());
        planned
    }
}

fn clock(random: &mut Random) -> Clock {
    let off = |random: &mut Random, from: i64, to: usize| from + i64::try_from(random.below(to)).unwrap();
    match random.below(10) {
        0..4 => Clock::Silent,
        4..7 => Clock::Off(0),
        7 => Clock::Off(off(random, 500, 4000)),
        8 => Clock::Off(-off(random, 200, 3000)),
        _ => Clock::Off(-off(random, 5000, 60_000)),
    }
}

fn rules(random: &mut Random) -> Rules {
    let mut rules = Rules {
        events: match random.below(4) {
            0..2 => vec![],
            2 => ORDER[..4].iter().chain(&PRODUCT[..2]).copied().collect(),
            _ => vec!["order-updated", "order-deleted", "product-created"],
        },
        fields: vec![],
        above: None,
        changed: false,
        original: false,
        debounce: false,
        keep_duplicates: false,
        ordered: false,
        cloudevent: random.once_in(8),
    };
    match random.below(12) {
        0..2 => {}
        2 => rules.original = true,
        3..5 => {
            rules.ordered = true;
            rules.original = random.once_in(2);
        }
        5..7 => rules.fields = vec!["id", "status"],
        7 => rules.above = Some(100),
        8 => rules.changed = true,
        9 => rules.debounce = true,
        10 => {
            rules.fields = vec!["status", "total"];
            rules.above = random.once_in(2).then_some(60);
            rules.keep_duplicates = random.once_in(3);
        }
        _ => {
            rules.ordered = random.once_in(2);
            rules.debounce = !rules.ordered;
            rules.above = Some(60);
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn events(scenario: &Scenario) -> impl Iterator<Item = &Planned> {
        scenario.steps.iter().flat_map(|step| match step {
            Step::Publish { events, .. } => events.as_slice(),
            _ => &[],
        })
    }

    #[test]
    fn a_scenario_follows_from_its_seed() {
        let written = |seed, number| format!("{:?}", Scenario::new(seed, number, true));
        assert_eq!(written(1, 7), written(1, 7));
        assert_ne!(written(1, 7), written(1, 8));
        assert_ne!(written(1, 7), written(2, 7));
    }

    #[test]
    fn an_identity_is_one_event_and_an_id_is_one_event_of_a_resource() {
        let (mut repeats, mut shared) = (0, 0);
        for number in 0..500 {
            let (mut identities, mut ids) = (HashMap::new(), HashMap::new());
            let mut sources: HashMap<_, HashSet<_>> = HashMap::new();
            for event in events(&Scenario::new(1, number, false)) {
                let other = identities.insert((event.source, event.id.clone()), event.data.number);
                repeats += usize::from(other == Some(event.data.number));
                assert!(other.is_none_or(|other| other == event.data.number), "{event:?}");
                let other = ids.insert((event.resource.clone(), event.id.clone()), event.source);
                assert!(other.is_none_or(|other| other == event.source), "{event:?}");
                sources.entry(event.id.clone()).or_default().insert(event.source);
            }
            shared += sources.values().filter(|sources| sources.len() > 1).count();
        }
        assert!(repeats > 100 && shared > 100, "{repeats} {shared}");
    }

    #[test]
    fn everything_is_enabled_and_works_in_the_end() {
        for number in 0..500 {
            let scenario = Scenario::new(1, number, false);
            for (place, (_, behaviour)) in scenario.webhooks.iter().enumerate() {
                let (mut is_enabled, mut is_down) = (true, matches!(behaviour, Behaviour::Answer(500)));
                for step in &scenario.steps {
                    match step {
                        Step::Patch { webhook, change } if *webhook == place => match change {
                            Change::Disable => is_enabled = false,
                            Change::EnableAndSend | Change::EnableAndDiscard => is_enabled = true,
                            _ => {}
                        },
                        Step::Behave { webhook, .. } if *webhook == place => is_down = false,
                        _ => {}
                    }
                }
                assert!(is_enabled && !is_down, "{number} {place}: {scenario:?}");
            }
        }
    }
}
