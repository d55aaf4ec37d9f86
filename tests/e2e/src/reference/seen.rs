//! What came of a scenario. Moments are Unix milliseconds, those of arrivals by the endpoint's clock, which never goes back.

use std::collections::BTreeMap;
use std::fmt;

use super::{Change, Rules, States};

#[derive(Debug, Default)]
pub struct Seen {
    pub tenant: String,
    /// By resource.
    pub states: BTreeMap<String, States>,
    pub webhooks: Vec<Webhook>,
    /// Services or NATS were killed meanwhile.
    pub is_disturbed: bool,
}

#[derive(Debug)]
pub struct Webhook {
    pub id: String,
    pub rules: Rules,
    pub patched: Vec<Patched>,
    pub rows: Vec<Row>,
    /// In the order in which they came, whatever URL the webhook had.
    pub arrivals: Vec<Arrival>,
}

/// A change that was asked for and answered.
#[derive(Debug, Clone, Copy)]
pub struct Patched {
    pub change: Change,
    pub asked: i64,
    pub answered: i64,
}

/// A delivery of the history.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: String,
    pub event: String,
    pub event_type: String,
    pub resource: String,
    pub state: String,
    pub attempts: i64,
    pub reason: String,
    pub carried_by: Option<String>,
    pub created: i64,
    pub updated: i64,
}

#[derive(Debug, Clone)]
pub struct Arrival {
    pub delivery: String,
    pub event: String,
    pub source: String,
    pub event_type: String,
    pub payload_event: String,
    /// The time of that state.
    pub payload_at: i64,
    pub sequence: String,
    pub attempt: u32,
    /// The second in which the attempt began: it began no earlier.
    pub began: i64,
    pub arrived: f64,
    /// The status and when; `None` if its sender went away.
    pub answered: Option<(u16, f64)>,
    pub body: String,
}

impl Arrival {
    pub fn is_accepted(&self) -> bool {
        self.answered.is_some_and(|(status, _)| (200..300).contains(&status))
    }
}

impl Webhook {
    pub fn row(&self, delivery: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.id == delivery)
    }

    pub fn accepted(&self) -> impl DoubleEndedIterator<Item = &Arrival> {
        self.arrivals.iter().filter(|arrival| arrival.is_accepted())
    }

    pub fn has_changed(&self, is: impl Fn(Change) -> bool) -> bool {
        self.patched.iter().any(|patched| is(patched.change))
    }

    /// Whether what is sent is judged by the filter that it was created with.
    pub fn keeps_filter(&self) -> bool {
        !self.has_changed(|change| matches!(change, Change::Filter(_)))
    }
}

/// What happened, in the order of time, for whoever has to find out why.
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut stored: Vec<_> = self.states.values().flat_map(States::all).collect();
        stored.sort_by_key(|state| state.place);
        let first = stored.first().map_or(0, |state| state.stored);
        for state in stored {
            let (id, resource, data) = (&state.id, &state.resource, state.data.json());
            writeln!(
                f,
                "{:6} of {:6} {id} {} {resource} {data}",
                state.stored - first,
                state.at() - first,
                state.event_type
            )?;
        }
        for webhook in &self.webhooks {
            writeln!(f, "{} {:?}", webhook.id, webhook.rules)?;
            for Patched { change, asked, answered } in &webhook.patched {
                writeln!(f, "{:6} to {:6} {change:?}", asked - first, answered - first)?;
            }
            for Row { id, event, state, attempts, reason, carried_by, updated, .. } in &webhook.rows {
                let carried_by = carried_by.as_deref().unwrap_or_default();
                writeln!(f, "{:6} {id} {event} {state} {attempts} {reason} {carried_by}", updated - first)?;
            }
            for arrival in &webhook.arrivals {
                let Arrival { delivery, event, payload_event, attempt, body, .. } = arrival;
                let answer = arrival.answered.map(|(status, _)| status);
                writeln!(
                    f,
                    "{:6.0} {delivery} {event} {payload_event} {attempt} {answer:?} {body}",
                    arrival.arrived - first as f64
                )?;
            }
        }
        Ok(())
    }
}
