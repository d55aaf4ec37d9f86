//! What was told by another delivery: `carriedBy`.

use super::checks::Case;
use super::{Row, State, Webhook};

impl Case<'_> {
    /// The delivery that has told the endpoint what `row` would have. One that was itself superseded passes that on.
    fn carrier<'w>(&self, webhook: &'w Webhook, row: &Row) -> Result<&'w Row, String> {
        let mut at = row;
        for _ in 0..webhook.rows.len() {
            let Some(id) = &at.carried_by else { return Err(format!("{} is {} by nobody", at.id, at.state)) };
            let Some(next) = webhook.row(id) else {
                return Err(format!("{id}, which carries it, is no delivery of this webhook"));
            };
            match next.state.as_str() {
                "delivered" => return Ok(next),
                "superseded" | "duplicate" => at = next,
                state => return Err(format!("{id}, which carries it, is {state}")),
            }
        }
        Err("its carriers go round in a circle".to_owned())
    }

    /// The states that the endpoint has accepted from a delivery since a moment.
    fn told<'s>(&'s self, webhook: &'s Webhook, delivery: &'s Row, since: i64) -> impl Iterator<Item = &'s State> {
        let of = move |arrival: &&super::Arrival| arrival.delivery == delivery.id && arrival.arrived >= since as f64;
        webhook.accepted().filter(of).filter_map(|arrival| self.payload(arrival))
    }

    pub(super) fn duplicate(&self, webhook: &Webhook, row: &Row, own: &State) -> Result<(), String> {
        if !webhook.rules.drops_duplicates() {
            return Err("nothing of this webhook is a duplicate".to_owned());
        }
        let carrier = self.carrier(webhook, row)?;
        if (&carrier.event_type, &carrier.resource) != (&row.event_type, &row.resource) && !is_deletion_of(carrier, row)
        {
            return Err(format!("{} is of another event type or resource", carrier.id));
        }
        // An endpoint that has been told nothing: since the last change that was over when the event was stored. A
        // change that was under way then may count or not.
        let changes = webhook.patched.iter().filter(|patched| patched.change.makes_new_endpoint());
        let since = changes.filter(|patched| patched.answered < row.created).map(|patched| patched.asked).max();
        // What the event would have been sent as: with `latest`, and when it was late, the state of a newer one. A retry of
        // the carrier may have taken a newer state along too, which is at least as good.
        let newer = self.states_from(own);
        let could_be = if webhook.rules.original { &newer[..1] } else { newer };
        let payload = webhook.rules.project(&own.data);
        let tells = |told: &State| {
            let payload = webhook.rules.project(&told.data);
            told.rank() >= own.rank() || could_be.iter().any(|state| webhook.rules.project(&state.data) == payload)
        };
        if self.told(webhook, carrier, since.unwrap_or(0)).any(tells) {
            return Ok(());
        }
        Err(format!("{} has not told this endpoint {payload}, nor anything newer", carrier.id))
    }

    pub(super) fn superseded(&self, webhook: &Webhook, row: &Row, own: &State) -> Result<(), String> {
        let carrier = self.carrier(webhook, row)?;
        if carrier.resource != row.resource {
            return Err(format!("{} is of another resource", carrier.id));
        }
        let newest = self.told(webhook, carrier, 0).map(State::rank).max();
        if newest.is_none_or(|newest| newest < own.rank()) {
            return Err(format!("{} has not told the endpoint anything newer: {newest:?}", carrier.id));
        }
        // What may be superseded at all: what a deletion has overtaken, all but the last of a burst of one type, and
        // what is late for an ordered webhook.
        let is_deletion = is_deletion_of(carrier, row);
        let is_burst = webhook.rules.debounce && carrier.event_type == row.event_type;
        if is_deletion || is_burst || webhook.rules.ordered {
            return Ok(());
        }
        Err(format!("{}, a {}, is no reason", carrier.id, carrier.event_type))
    }
}

fn is_deletion_of(carrier: &Row, row: &Row) -> bool {
    super::order::is_deletion(&carrier.event_type) && carrier.resource == row.resource
}
