//! The jobs of an ordered webhook as a drain has them in view: a queue for each resource, and whose turn it is.

use std::collections::{BTreeMap, HashMap, VecDeque};

use shopery_model::Job;
use shopery_queue::Progress;
use time::OffsetDateTime;

/// Jobs in view at a time, and their bytes. Beyond, a job is not seen until others have gone: a bound on memory, and the
/// one case in which a job that a router was late with by so many others could be overtaken.
const MAX_JOBS: usize = 20_000;
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The jobs of one webhook, by resource.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) resources: HashMap<String, Resource>,
    /// Resources that have jobs and no attempt under way, in turn.
    pub(crate) turns: VecDeque<String>,
    pub(crate) jobs: usize,
    bytes: usize,
    /// Rounds in a row in which all that could go waited for earlier events to be routed.
    pub(crate) barriers: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Resource {
    pub(crate) waiting: BTreeMap<Place, WaitingJob>,
    /// `None` until it is read.
    pub(crate) progress: Option<Progress>,
}

/// Where a job stands in its resource's queue: what was asked for again goes behind what has never been sent. The order is
/// that of storing, so nothing that comes stands before what was attempted: by version, a late event would, and after a
/// crash nobody knows whether what it stands before was accepted. It is superseded instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    round: u32,
    /// In EVENTS.
    event: u64,
    /// In PARKED.
    pub(crate) sequence: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct WaitingJob {
    pub(crate) job: Job,
    pub(crate) parked_at: OffsetDateTime,
}

/// The next job of a resource, while it has its turn.
pub(crate) struct Head {
    pub(crate) resource: String,
    pub(crate) place: Place,
    pub(crate) waiting: WaitingJob,
    pub(crate) progress: Progress,
}

impl Backlog {
    pub(crate) fn is_full(&self) -> bool {
        self.jobs >= MAX_JOBS || self.bytes >= MAX_BYTES
    }

    pub(crate) fn add(&mut self, sequence: u64, parked_at: OffsetDateTime, job: Job) {
        let place = Place { round: job.meta.round(), event: job.meta.event_sequence, sequence };
        self.jobs += 1;
        self.bytes += job.payload.len();
        let resource = self.resources.entry(job.meta.resource.clone()).or_default();
        if resource.waiting.is_empty() {
            self.turns.push_back(job.meta.resource.clone());
        }
        resource.waiting.insert(place, WaitingJob { job, parked_at });
    }

    /// Up to `count` resources whose turn it is; they are out of turn until [`put_back`](Self::put_back).
    pub(crate) fn take_turns(&mut self, count: usize) -> Vec<String> {
        let mut names = Vec::with_capacity(count.min(self.turns.len()));
        while names.len() < count
            && let Some(name) = self.turns.pop_front()
        {
            if self.resources.contains_key(&name) {
                names.push(name);
            }
        }
        names
    }

    /// After its turn; `is_done`: the head has come to its end.
    pub(crate) fn put_back(&mut self, head: Head, is_done: bool) {
        let Some(resource) = self.resources.get_mut(&head.resource) else { return };
        resource.progress = Some(head.progress);
        if is_done && let Some(done) = resource.waiting.remove(&head.place) {
            self.jobs -= 1;
            self.bytes -= done.job.payload.len();
        }
        if resource.waiting.is_empty() {
            self.resources.remove(&head.resource);
        } else {
            self.turns.push_back(head.resource);
        }
    }
}

impl Resource {
    /// The job that is next: the one that has failed and is to be attempted again, even if one has come by now that stands
    /// before it, or else the first.
    pub(crate) fn next(&self, progress: &Progress) -> Option<(Place, &WaitingJob)> {
        let is_retry = |waiting: &WaitingJob| progress.is_retry(&waiting.job.meta);
        let retried = progress.retry.as_ref().and_then(|_| self.waiting.iter().find(|(_, waiting)| is_retry(waiting)));
        retried.or_else(|| self.waiting.first_key_value()).map(|(place, waiting)| (*place, waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shopery_model::{DeliveryId, Extensions, JobMeta, TenantId, WebhookId};
    use shopery_queue::OrderedRetry;

    const AT: OffsetDateTime = time::macros::datetime!(2026-11-24 10:00 UTC);

    /// The job of the event at this place of EVENTS.
    fn job(event_sequence: u64, resource: &str) -> Job {
        let (tenant, webhook): (TenantId, _) = ("t".parse().unwrap(), WebhookId::generate());
        let event = event_sequence.to_string();
        let meta = JobMeta {
            delivery: DeliveryId::of(&tenant, "orders", &event, AT, webhook),
            tenant,
            webhook,
            source: "orders".to_owned(),
            event,
            event_type: "order-updated".parse().unwrap(),
            resource: resource.to_owned(),
            triggered_at: AT,
            event_sequence,
            changed: Vec::new(),
            stored_ns: None,
            payload_of: None,
            fields: None,
            extensions: Extensions::default(),
            may_be_stale: false,
            attempt: 1,
            resend: None,
            failed_at: None,
        };
        Job { meta, payload: bytes::Bytes::from_static(b"{}") }
    }

    fn head(backlog: &Backlog, resource: &str, progress: Progress) -> Head {
        let (place, waiting) = backlog.resources[resource].next(&progress).unwrap();
        Head { resource: resource.to_owned(), place, waiting: waiting.clone(), progress }
    }

    #[test]
    fn the_event_that_was_stored_first_is_next_and_resources_take_turns() {
        let mut backlog = Backlog::default();
        for (parked, event, resource) in [(1, 8, "order/a"), (2, 7, "order/a"), (3, 9, "order/b")] {
            backlog.add(parked, AT, job(event, resource));
        }
        assert_eq!(backlog.take_turns(1), ["order/a"]);
        let first = head(&backlog, "order/a", Progress::default());
        assert_eq!(first.waiting.job.meta.event_sequence, 7);
        backlog.put_back(first, true);
        assert_eq!(backlog.take_turns(5), ["order/b", "order/a"]);
        assert_eq!((backlog.jobs, backlog.bytes), (2, 4));
        let last = head(&backlog, "order/a", Progress::default());
        backlog.put_back(last, true);
        assert!(backlog.take_turns(5).is_empty() && !backlog.resources.contains_key("order/a"));
    }

    #[test]
    fn a_retry_keeps_its_turn() {
        let mut backlog = Backlog::default();
        let failed = job(8, "order/a");
        let retry = OrderedRetry { job: failed.meta.key(), attempt: 2, failed_at: AT, due_at: AT };
        backlog.add(1, AT, failed);
        backlog.add(2, AT, job(7, "order/a"));
        let next = |retry| head(&backlog, "order/a", Progress { retry, ..Progress::default() });
        assert_eq!(next(Some(retry.clone())).waiting.job.meta.event_sequence, 8);
        // The entry may be of a job that is gone.
        assert_eq!(next(Some(OrderedRetry { job: "gone".to_owned(), ..retry })).waiting.job.meta.event_sequence, 7);
    }
}
