//! What a delivery carries: chosen at every attempt, since the resource may have changed since the event.
//!
//! The rules are those of `services/guarantees.md`. What correctness rests on: a state is newer than another only by its
//! [`StateVersion`](shopery_model::StateVersion), and a delivery is never given a state that is older than its event's.

use anyhow::Context;
use bytes::Bytes;
use shopery_model::{
    CloudEvent, Event, FRESH, Job, JobMeta, PayloadEvent, PayloadFormat, PayloadMode, Rules, StateVersion, Webhook,
};
use shopery_queue::{Queue, SentState, State};
use time::OffsetDateTime;

use crate::ended::End;

/// States that are looked at before a deletion, from it back. What lies further back than so many deletions and late
/// events is not worth the requests: the delivery then carries its own state.
const MAX_STEPS_BACK: usize = 8;

/// Late events that may lie behind the newest state before a router has seen to it.
const LATE_IN_A_ROW: usize = 3;

/// A payload, and the event whose state it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Payload {
    pub(crate) data: Bytes,
    pub(crate) of: PayloadEvent,
}

#[derive(Debug)]
pub(crate) enum Choice {
    Send(Payload),
    /// There is nothing left to tell.
    End(End),
}

/// `sent`: what an ordered webhook has accepted last of the resource; nothing older follows it.
pub(crate) async fn choose(
    queue: &Queue,
    job: &Job,
    webhook: &Webhook,
    sent: Option<SentState>,
    now: OffsetDateTime,
) -> anyhow::Result<Choice> {
    let (meta, rules) = (&job.meta, &webhook.rules);
    let own = Payload { data: job.payload.clone(), of: meta.payload_event() };
    let asked = meta.resend.and_then(|resend| resend.payload);
    if asked == Some(PayloadMode::Original) {
        // Somebody wants the history as it was, deletions or not.
        return Ok(Choice::Send(own));
    }
    // What a burst has gathered is sent as it is; the next burst has a delivery of its own.
    let is_burst = rules.debounce.is_some() && meta.attempt == 1 && meta.resend.is_none();
    let mode = if is_burst { PayloadMode::Original } else { asked.unwrap_or(rules.payload) };
    let is_current = |version: StateVersion| sent.is_none_or(|sent| version >= sent.version);
    if is_fresh(meta, rules, now) && is_current(own.of.version) {
        return Ok(Choice::Send(own));
    }
    let newer = newest_state(queue, meta).await?.filter(|state| state.version > own.of.version);
    // A late event may be older than a deletion that lies before it: what has marked the job may be that.
    if newer.is_some() || meta.may_be_stale {
        let (progress, _) = queue.progress(meta).await?;
        if let Some(deletion) = progress.deletion_after(own.of.version) {
            return Ok(Choice::End(End::Superseded(deletion.delivery)));
        }
    }
    let mut state = match newer {
        Some(newer) if mode == PayloadMode::Latest => carried(queue, meta, rules, newer, own.of.version).await?,
        _ => None,
    };
    if let Some(sent) = sent
        && !is_current(state.as_ref().map_or(own.of.version, |state| state.version))
        && meta.resend.is_none()
    {
        // A replica of EVENTS may lag behind what was sent; its leader does not.
        let latest = match mode {
            PayloadMode::Latest => queue.latest_state_of_leader(&meta.tenant, &meta.resource).await?,
            PayloadMode::Original => None,
        };
        state = latest.filter(|state| is_current(state.version) && may_carry(meta, rules, &state.event));
        if state.is_none() {
            return Ok(Choice::End(End::Superseded(sent.delivery)));
        }
    }
    // Whoever asks for a delivery again gets it, filter or not.
    if meta.resend.is_none() && !matches_filter(queue, meta, rules, state.as_ref()).await? {
        return Ok(Choice::End(End::NotMatching));
    }
    Ok(Choice::Send(match state {
        Some(state) => Payload { data: rules.project(&state.event.data), of: state.payload_event() },
        None => own,
    }))
}

/// The newest state of the resource that EVENTS has. That is the last one, unless a late event came just now: until a
/// router has published the newest state again behind it, that one lies a few places before.
async fn newest_state(queue: &Queue, meta: &JobMeta) -> anyhow::Result<Option<State>> {
    let latest = queue.latest_state(&meta.tenant, &meta.resource).await.context("cannot read the latest state")?;
    let Some(mut newest) = latest else { return Ok(None) };
    let mut sequence = newest.sequence;
    for _ in 0..LATE_IN_A_ROW {
        // What lies before the event itself was looked at when it was routed.
        if sequence <= meta.event_sequence {
            break;
        }
        let Some(before) = queue.previous_state(&meta.tenant, &meta.resource, sequence).await? else { break };
        sequence = before.sequence;
        if before.version > newest.version {
            newest = before;
        }
    }
    Ok(Some(newest))
}

/// A first attempt soon after the event: nobody else had time to change the resource.
fn is_fresh(meta: &JobMeta, rules: &Rules, now: OffsetDateTime) -> bool {
    meta.attempt == 1
        && !meta.may_be_stale
        && meta.resend.is_none()
        && rules.debounce.is_none()
        && now - meta.delivery.created_at() < FRESH
}

/// The state that goes out in place of the event's own, which is older; `None` if the own one does.
async fn carried(
    queue: &Queue,
    meta: &JobMeta,
    rules: &Rules,
    newer: State,
    own: StateVersion,
) -> anyhow::Result<Option<State>> {
    if may_carry(meta, rules, &newer.event) {
        return Ok(Some(newer));
    }
    if !newer.event.event_type.is_deletion() || meta.event_type.is_deletion() || rules.debounce.is_some() {
        return Ok(None);
    }
    // The resource is gone, which its deletion tells; this one tells what it was last. Before the deletion may lie another
    // one, or a state that came late.
    let (mut sequence, mut last) = (newer.sequence, None);
    for _ in 0..MAX_STEPS_BACK {
        let Some(before) = queue.previous_state(&meta.tenant, &meta.resource, sequence).await? else { break };
        sequence = before.sequence;
        if before.version <= own && sequence <= own.sequence() {
            break;
        }
        let is_later = last.as_ref().is_none_or(|last: &State| last.version < before.version);
        if before.version > own && is_later && may_carry(meta, rules, &before.event) {
            last = Some(before);
        }
    }
    Ok(last)
}

/// Whether the name of the delivery's event can stand over this newer state. A deletion has its own name, and what it
/// deleted no longer has any; a debounced delivery has the name and the state of one event type.
fn may_carry(meta: &JobMeta, rules: &Rules, newer: &Event) -> bool {
    !meta.event_type.is_deletion()
        && !newer.event_type.is_deletion()
        && (rules.debounce.is_none() || newer.event_type == meta.event_type)
}

/// Whether what would be sent matches the webhook's filter as it is now. `state`: in place of the event's own.
async fn matches_filter(queue: &Queue, meta: &JobMeta, rules: &Rules, state: Option<&State>) -> anyhow::Result<bool> {
    let Some(filter) = &rules.filter else { return Ok(true) };
    if let Some(state) = state {
        return Ok(filter.matches(&state.event.data));
    }
    // The job has what `fields` has left of it. If EVENTS no longer has the whole, what was decided then holds.
    let of = meta.payload_event();
    let own = queue.state_at(of.version.sequence()).await?;
    let own = own.filter(|state| state.tenant == meta.tenant && state.event.id == of.id);
    Ok(own.is_none_or(|state| filter.matches(&state.event.data)))
}

/// The event that a delivery tells of: its own, but for a debounced one, which tells of the last event of its burst.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    pub(crate) source: &'a str,
    pub(crate) id: &'a str,
    pub(crate) at: OffsetDateTime,
}

/// The same on every attempt, whichever state that carries.
pub(crate) fn told<'a>(meta: &'a JobMeta, rules: &Rules) -> Told<'a> {
    match &meta.payload_of {
        Some(PayloadEvent { source, id, version }) if rules.debounce.is_some() => Told { source, id, at: version.at() },
        _ => Told { source: &meta.source, id: &meta.event, at: meta.triggered_at },
    }
}

/// The body of the POST.
pub(crate) fn body(meta: &JobMeta, told: Told<'_>, format: PayloadFormat, payload: &Payload) -> Bytes {
    match format {
        PayloadFormat::Resource => payload.data.clone(),
        PayloadFormat::CloudEvent => {
            let PayloadEvent { id, version, .. } = &payload.of;
            // What the headers say, for receivers that pass the body on without them.
            let extensions = meta
                .extensions
                .clone()
                .with_text("shoperysequence", version.to_string())
                .with_text("shoperypayloadeventid", id.clone());
            let event = CloudEvent {
                id: told.id,
                source: told.source,
                event_type: meta.event_type,
                subject: &meta.resource,
                time: Some(told.at),
                extensions: &extensions,
                data: &payload.data,
            };
            event.encode()
        }
    }
}
