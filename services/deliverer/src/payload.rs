//! What a delivery carries: chosen at every attempt, since the resource may have changed since the event.
//!
//! The rules are those of `services/guarantees.md`. What correctness rests on: a state is newer than another only by its
//! [`StateVersion`](shopery_model::StateVersion), and a delivery is never given a state that is older than its event's.

use anyhow::Context;
use bytes::Bytes;
use shopery_model::{
    Event, FRESH, Job, JobMeta, NamedEvent, PayloadEvent, PayloadFormat, PayloadMode, Posted, Rules, StateVersion,
    Webhook,
};
use shopery_queue::{Queue, SentState, State};
use shopery_sender::fitting;
use time::OffsetDateTime;

use crate::ended::End;

/// A payload, and the event whose state it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Payload {
    pub(crate) data: Bytes,
    pub(crate) of: PayloadEvent,
    /// What it is of that state.
    fields: Option<Vec<String>>,
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
    let own = Payload { data: job.payload.clone(), of: meta.payload_event(), fields: meta.fields.clone() };
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
    let can_change = mode == PayloadMode::Latest && !meta.event_type.is_deletion();
    let may_carry = |newer: &Event| rules.may_carry(meta.event_type, newer.event_type);
    let is_wanted = |newer: &Event| !can_change || may_carry(newer);
    // What lies before the event itself was looked at when it was routed.
    let newer = queue
        .newer_states(&meta.tenant, &meta.resource, own.of.version, meta.event_sequence, None, is_wanted)
        .await
        .context("cannot read what is newer")?;
    let mut state = newer.newest_that(|newer| can_change && may_carry(newer)).cloned();
    // A late event may be older than a deletion that lies before it, which then has marked the job.
    if !newer.is_empty() || meta.may_be_stale {
        let (progress, _) = queue.progress(meta).await?;
        if let Some(deletion) = progress.deletion_after(own.of.version) {
            state = carried_since(queue, job, rules, mode, deletion.version).await?;
            if state.is_none() {
                return Ok(Choice::End(End::Superseded(deletion.delivery)));
            }
        }
    }
    if let Some(sent) = sent
        && !is_current(state.as_ref().map_or(own.of.version, |state| state.version))
        && meta.resend.is_none()
    {
        // A replica of EVENTS may lag behind what was sent; its leader does not.
        let latest = match mode {
            PayloadMode::Latest => queue.latest_state_of_leader(&meta.tenant, &meta.resource).await?,
            PayloadMode::Original => None,
        };
        state = latest.filter(|state| is_current(state.version) && may_carry(&state.event));
        if state.is_none() {
            return Ok(Choice::End(End::Superseded(sent.delivery)));
        }
    }
    // Whoever asks for a delivery again gets it, filter or not.
    if meta.resend.is_none() && !matches_filter(queue, meta, rules, state.as_ref()).await? {
        return Ok(Choice::End(End::NotMatching));
    }
    Ok(Choice::Send(match state {
        Some(state) => Payload {
            data: rules.project(&state.event.data),
            of: state.payload_event(),
            fields: rules.fields.as_ref().map(|fields| fields.paths().to_vec()),
        },
        None => own,
    }))
}

/// The newest state that this delivery carries for duplicates of it which are newer than `deletion`. The endpoint has accepted
/// that deletion, so the delivery itself is superseded. But if the deletion came late, no other delivery carries those duplicates.
async fn carried_since(
    queue: &Queue,
    job: &Job,
    rules: &Rules,
    mode: PayloadMode,
    deletion: StateVersion,
) -> anyhow::Result<Option<State>> {
    if !rules.drops_duplicates() {
        return Ok(None);
    }
    let meta = &job.meta;
    let is_carried = |newer: &Event| {
        rules.may_carry(meta.event_type, newer.event_type)
            && (mode == PayloadMode::Latest
                || (newer.event_type == meta.event_type && rules.project(&newer.data) == job.payload))
    };
    let newer =
        queue.newer_states(&meta.tenant, &meta.resource, deletion, meta.event_sequence, None, is_carried).await?;
    Ok(newer.newest_that(is_carried).cloned())
}

/// A first attempt soon after the event: nobody else had time to change the resource.
fn is_fresh(meta: &JobMeta, rules: &Rules, now: OffsetDateTime) -> bool {
    meta.attempt == 1
        && !meta.may_be_stale
        && meta.resend.is_none()
        && rules.debounce.is_none()
        && now - meta.delivery.created_at() < FRESH
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

/// The event that the headers name: the same on every attempt, whichever state that carries.
pub(crate) fn named<'a>(meta: &'a JobMeta, rules: &Rules) -> NamedEvent<'a> {
    let (event_type, resource) = (meta.event_type, meta.resource.as_str());
    match last_of_burst(meta, rules) {
        Some(PayloadEvent { source, id, version }) => NamedEvent { source, id, event_type, resource, at: version.at() },
        None => NamedEvent { source: &meta.source, id: &meta.event, event_type, resource, at: meta.triggered_at },
    }
}

fn last_of_burst<'a>(meta: &'a JobMeta, rules: &Rules) -> Option<&'a PayloadEvent> {
    meta.payload_of.as_ref().filter(|_| rules.debounce.is_some())
}

/// What the history keeps of a POST.
pub(crate) fn posted(meta: &JobMeta, webhook: &Webhook, payload: Payload, body: &[u8]) -> Posted {
    let rules = &webhook.rules;
    let (changed, omitted) = fitting(&meta.changed);
    let headers = webhook.credentials.as_deref().map(|it| it.headers.iter().map(|(name, _)| name.to_owned()).collect());
    let at = meta.triggered_at;
    let is_whole = at.offset().is_utc() && at.nanosecond().is_multiple_of(1_000_000);
    let named = last_of_burst(meta, rules).cloned();
    let is_own = named.is_none() && meta.payload_of.is_none() && payload.of == meta.payload_event();
    Posted {
        stored_ns: meta.stored_ns.filter(|_| is_own),
        payload_of: (!is_own || meta.stored_ns.is_none()).then_some(payload.of),
        named,
        triggered_at: (!is_whole).then_some(at),
        fields: payload.fields,
        format: (rules.format != PayloadFormat::Resource).then(|| rules.format.name().to_owned()),
        changed: changed.to_vec(),
        changed_omitted: u32::try_from(omitted).unwrap_or(u32::MAX),
        headers: headers.unwrap_or_default(),
        sha256: Posted::hash(body),
    }
}
