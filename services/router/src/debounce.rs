//! Debouncing: the events of one type of a resource that come within some time become one delivery.
//!
//! The first event schedules its job on RETRY, on a subject of the webhook, event type and resource that holds one
//! schedule at a time; the server itself refuses a second one. Whatever comes until the schedule fires puts its state into
//! that job in place of an older one, by compare-and-set. So the delivery, which is the first event's, carries the state
//! of the last one, under the name that both have; and replicas of the router need not know of each other.
//!
//! A schedule that is firing still holds its subject: the server takes a replacement of it, and then removes that with the
//! schedule, unfired. So a state counts as carried only if the server stored it before the schedule was due; by the
//! server's clock, since ours may differ. Otherwise the event waits until the subject is free, and begins a burst.
//!
//! An event may be routed again after its burst was sent: a crash of NATS can lose both its acknowledgement and the id by
//! which RETRY knows a repeat. Then its delivery is scheduled a second time, although the endpoint may have accepted it. If that
//! delivery carried another event's state, a receiver would drop the state as a repeat. So the bucket BURSTS notes which bursts
//! were begun, and a burst that begins again is due at once: nothing can be merged into it. Rejected: to replace what is scheduled
//! late by the delivery of each newer event. That needs no notes, but with a router that lags every event would be superseded by the next.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use anyhow::bail;
use shopery_model::{Debounce, DeliveryId, Job, JobMeta};
use shopery_queue::{Outgoing, PublishError, Queue, Schedule, subject};
use time::OffsetDateTime;
use tokio::sync::Mutex;

/// What is due so soon may be firing.
const CLOSING: Duration = Duration::from_millis(50);
/// Delay before it is looked again whether it has fired; it doubles each time, up to the second one: NATS that is late has enough
/// to do.
const DELAY: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));

#[derive(Debug, PartialEq)]
pub(crate) enum Debounced {
    /// The job itself waits for its time, or has waited before.
    Scheduled,
    /// Another delivery waits and carries what this one would.
    SupersededBy(DeliveryId),
}

/// The schedules that this router is changing. One event at a time does with each: those of a burst would otherwise overtake
/// each other's compare-and-set until they gave up, and be routed again when their `ack_wait` is over.
#[derive(Debug)]
pub(crate) struct Debouncing([Mutex<()>; PLACES]);

/// Schedules are told apart by a hash: two that share a place wait for each other, for some milliseconds.
const PLACES: usize = 256;

impl Default for Debouncing {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Debouncing {
    pub(crate) async fn debounce(
        &self,
        queue: &Queue,
        job: &Job,
        window: Debounce,
        headers: &[(&'static str, String)],
    ) -> anyhow::Result<Debounced> {
        let meta = &job.meta;
        let place = subject::debounce(&meta.tenant, meta.webhook, meta.event_type, &meta.resource);
        let mut hasher = DefaultHasher::new();
        place.hash(&mut hasher);
        let _turn = self.0[usize::try_from(hasher.finish() % PLACES as u64).unwrap_or_default()].lock().await;
        debounce(queue, place, job, window, headers).await
    }
}

async fn debounce(
    queue: &Queue,
    place: String,
    job: &Job,
    debounce: Debounce,
    headers: &[(&'static str, String)],
) -> anyhow::Result<Debounced> {
    let meta = &job.meta;
    let schedule = |job: &Job, due: OffsetDateTime| {
        let mut message =
            Outgoing::new(place.clone(), job.encode()).scheduled(due, subject::due(&meta.tenant, meta.webhook));
        message.headers.extend_from_slice(headers);
        message
    };
    // The schedule may fire, or another router change it, between our being refused and our looking; but not for ever.
    let deadline = Instant::now() + queue.limits.ack_wait / 3;
    let mut window = None;
    let mut begin = async || -> anyhow::Result<bool> {
        let window = match window {
            Some(window) => window,
            // One that begins again is not coalesced again.
            None if is_new(queue, meta).await => *window.insert(debounce.duration()),
            None => *window.insert(Duration::ZERO),
        };
        let first = schedule(job, shopery_queue::now() + window);
        is_stored(queue, &first.only_after(0).with_id(meta.delivery.to_string())).await
    };
    let (mut delay, mut has_asked) = (DELAY.0, false);
    while Instant::now() < deadline {
        let Some(pending) = queue.scheduled(&place).await? else {
            if begin().await? {
                return Ok(Debounced::Scheduled);
            }
            continue;
        };
        let carrier = Job::decode(pending.frame())?;
        let (carrier_id, pending_version) = (carrier.meta.delivery, carrier.meta.payload_event().version);
        if carrier_id == meta.delivery {
            return Ok(Debounced::Scheduled);
        }
        // A burst of its own may have been sent before this one began: RETRY knows, unless NATS has crashed.
        if carrier.meta.event_sequence > meta.event_sequence
            && !std::mem::replace(&mut has_asked, true)
            && begin().await?
        {
            return Ok(Debounced::Scheduled);
        }
        if pending_version >= meta.payload_event().version && !is_in_doubt(&pending) {
            return Ok(Debounced::SupersededBy(carrier_id));
        }
        if pending.due_at - CLOSING <= shopery_queue::now() {
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(DELAY.1);
            continue;
        }
        let newer = Job {
            payload: job.payload.clone(),
            meta: JobMeta {
                payload_of: Some(meta.payload_event()),
                fields: meta.fields.clone(),
                changed: merged(&carrier.meta.changed, &meta.changed),
                ..carrier.meta
            },
        };
        if is_stored(queue, &schedule(&newer, pending.due_at).only_after(pending.sequence)).await?
            && let Some(replaced) = queue.scheduled(&place).await?
            && !is_in_doubt(&replaced)
        {
            return Ok(Debounced::SupersededBy(carrier_id));
        }
    }
    bail!("others change the schedule on {place} all the time")
}

/// False if this burst was noted before.
async fn is_new(queue: &Queue, job: &JobMeta) -> bool {
    // Without the note all goes on as it does as long as NATS does not crash.
    queue.note_burst(job.delivery).await.unwrap_or_else(|error| {
        tracing::debug!(tenant = %job.tenant, webhook = %job.webhook, "cannot note a burst: {error}");
        true
    })
}

/// Whether it was stored when the one before it may have been firing, so that it may never fire.
fn is_in_doubt(schedule: &Schedule) -> bool {
    schedule.stored_at > schedule.due_at - CLOSING
}

async fn is_stored(queue: &Queue, message: &Outgoing) -> anyhow::Result<bool> {
    match queue.publish_until_stored(message, queue.limits.ack_wait / 3).await {
        Ok(_) => Ok(true),
        Err(PublishError::Overtaken(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Which paths have changed over the whole burst.
fn merged(before: &[String], after: &[String]) -> Vec<String> {
    let mut all = before.to_vec();
    all.extend(after.iter().filter(|path| !before.contains(path)).cloned());
    all
}
