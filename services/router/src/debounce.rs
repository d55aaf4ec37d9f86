//! Gathering the changes of one resource into one delivery.
//!
//! The first event schedules its job on RETRY, on a subject of the webhook and resource that holds one schedule at a
//! time; the server itself refuses a second one. Whatever comes until the schedule fires is in that delivery: it is
//! sent later, with the state that is the latest then. So replicas of the router need not know of each other.

use anyhow::bail;
use shopery_model::{Debounce, DeliveryId, Job};
use shopery_queue::{Outgoing, PublishError, Queue, subject};
use time::OffsetDateTime;

/// A schedule may fire between our being refused and our looking for it, but hardly twice.
const TRIES: usize = 4;

#[derive(Debug, PartialEq)]
pub(crate) enum Gathered {
    /// The job itself waits for its time, or has waited before.
    Scheduled,
    /// Another delivery waits and will carry what this one would.
    Into(DeliveryId),
}

pub(crate) async fn gather(
    queue: &Queue,
    job: &Job,
    debounce: Debounce,
    headers: &[(&'static str, String)],
) -> anyhow::Result<Gathered> {
    let meta = &job.meta;
    let place = subject::debounce(&meta.tenant, meta.webhook, &meta.resource);
    let body = job.encode();
    for _ in 0..TRIES {
        let due = OffsetDateTime::now_utc() + debounce.duration();
        let mut message = Outgoing::new(place.clone(), body.clone())
            .scheduled(due, subject::due(&meta.tenant, meta.webhook))
            .only_after(0)
            .with_id(meta.delivery.to_string());
        message.headers.extend_from_slice(headers);
        match queue.publish_until_stored(&message, queue.limits.ack_wait / 3).await {
            Ok(_) => return Ok(Gathered::Scheduled),
            Err(PublishError::Overtaken(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(pending) = queue.scheduled(&place).await? {
            let carrier = Job::decode(&pending)?.meta.delivery;
            return Ok(if carrier == meta.delivery { Gathered::Scheduled } else { Gathered::Into(carrier) });
        }
    }
    bail!("the schedule on {place} is refused, and yet there is none")
}
