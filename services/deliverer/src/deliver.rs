//! One job, from its message to its outcome.

use std::sync::Arc;

use shopery_model::{DeliveryState, Job, MalformedJob, Outcome};
use shopery_queue::{
    Circuits, Disposition, Lookup, Message, Outcomes, Parked, PublishError, Queue, Sent, Taken, WebhookCache, subject,
    trace,
};

use crate::attempt::{Attempter, Tried, without_attempt};
use crate::breaker::Breaker;
use crate::ended::End;
use crate::endpoints::Endpoints;
use crate::room::{Found, Room, no_room};

#[derive(Debug)]
pub(crate) struct Deliverer {
    pub(crate) queue: Queue,
    pub(crate) webhooks: WebhookCache,
    pub(crate) circuits: Circuits,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) breaker: Breaker,
    pub(crate) attempter: Arc<Attempter>,
    pub(crate) outcomes: Outcomes,
    pub(crate) room: Room,
}

/// A job that has been looked at.
#[derive(Debug)]
pub(crate) enum Begun {
    /// To be attempted.
    Job(Job, Taken),
    /// On its way to PARKED.
    Parking(Job, Sent, Taken),
    Malformed(MalformedJob, Taken),
}

impl Deliverer {
    /// Begins with a job. What is to be parked is parked here, so that it lies there in the order in which it came.
    pub(crate) async fn begin(&self, taken: Taken) -> Begun {
        match Job::decode(taken.message.payload()) {
            Ok(job) if self.is_held_back(&job, &taken.message) => {
                let sent = Parked::park(&self.queue, &job).await;
                Begun::Parking(job, sent, taken)
            }
            Ok(job) => Begun::Job(job, taken),
            Err(error) => Begun::Malformed(error, taken),
        }
    }

    /// Works a job off. If that cannot be finished, it is repeated.
    pub(crate) async fn finish(&self, begun: Begun) {
        let (finished, taken) = match begun {
            Begun::Job(job, taken) => (self.work_off(job, &taken.message).await, taken),
            Begun::Parking(job, sent, taken) => (self.held_back(job, sent).await, taken),
            Begun::Malformed(error, taken) => {
                let why = error.to_string();
                return taken.settle(Disposition::Dead { reason: "undecodable-job", tenant: None, why }).await;
            }
        };
        let disposition =
            finished.map_or_else(Disposition::Retry, |outcome| Disposition::Outcomes(vec![outcome], &self.outcomes));
        taken.settle(disposition).await;
    }

    fn is_held_back(&self, job: &Job, message: &Message) -> bool {
        let webhook = self.webhooks.get_cached(&job.meta.tenant, job.meta.webhook);
        webhook.is_some_and(|webhook| {
            let known = Lookup::Found(webhook.clone());
            // One drain sees to those, whichever deliverer makes it.
            let is_paced = webhook.rules.rate_limit.is_some() || webhook.rules.ordered;
            let is_closed = !webhook.can_be_sent_to() || is_paced || self.circuits.is_broken(webhook.id);
            is_closed && end_of(&known, job, message).is_none()
        })
    }

    /// What a webhook with a rate limit gets is parked, so that one drain paces it for all deliverers.
    async fn held_back(&self, job: Job, sent: Sent) -> anyhow::Result<Outcome> {
        let (tenant, id) = (job.meta.tenant.clone(), job.meta.webhook);
        let parked = self.parked(job, sent).await?;
        if self.webhooks.get_cached(&tenant, id).is_some_and(|webhook| webhook.can_be_sent_to()) {
            self.breaker.open(&tenant, id, None).await?;
        }
        Ok(parked)
    }

    /// Attempts a job, or parks it where its endpoint does not keep up.
    async fn work_off(&self, job: Job, message: &Message) -> anyhow::Result<Outcome> {
        let (id, delivery) = (job.meta.webhook, job.meta.delivery);
        let known = self.webhooks.get(&job.meta.tenant, id).await?;
        if let Some(end) = end_of(&known, &job, message) {
            return Ok(end.outcome(job.meta));
        }
        let webhook = known.found().filter(|webhook| webhook.can_be_sent_to() && !webhook.rules.ordered);
        let Some(webhook) = webhook else {
            let sent = Parked::park(&self.queue, &job).await;
            return self.held_back(job, sent).await;
        };
        let Some(pass) = self.endpoints.enter(&job.meta.tenant, id).await else {
            let sent = Parked::park(&self.queue, &job).await;
            let parked = self.parked(job, sent).await?;
            self.breaker.open(&parked.job.tenant, id, None).await?;
            return Ok(parked);
        };
        let parent = trace::incoming(message.headers());
        let attempted = match self.attempter.attempt(&job, &webhook, None, parent).await? {
            Tried::Attempted(attempted) => *attempted,
            Tried::Ended(end) => return Ok(end.outcome(job.meta)),
        };
        let (tenant, event_type) = (job.meta.tenant.clone(), job.meta.event_type);
        let failures = pass.finish(delivery, attempted.is_success());
        // Who refuses notifications only would be one more to notify of, and so on in a circle.
        let is_broken = self.breaker.is_reached(failures) || attempted.is_lasting_failure();
        if is_broken && !event_type.is_operational() {
            self.breaker.open(&tenant, id, Some(&attempted.answer)).await?;
            self.endpoints.turn_away(id);
        }
        self.attempter.follow_up(job, attempted, parent).await
    }

    async fn parked(&self, job: Job, sent: Sent) -> anyhow::Result<Outcome> {
        match sent.acked().await {
            Ok(_) => Ok(without_attempt(job.meta, DeliveryState::Parked, None)),
            // One webhook alone has filled its part: there will be no room soon, and others need theirs.
            Err(PublishError::SubjectFull(_)) => Ok(no_room(job.meta)),
            Err(PublishError::Full(_)) => Ok(match self.room.park(&job).await? {
                Found::Parked => without_attempt(job.meta, DeliveryState::Parked, None),
                Found::None => no_room(job.meta),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

/// Why a job is not to be attempted any more. What comes from JOBS has not waited, so it cannot be unwanted by now.
fn end_of(webhook: &Lookup, job: &Job, message: &Message) -> Option<End> {
    let is_due = subject::is_due(message.subject());
    End::of_scheduled(webhook, &job.meta).filter(|end| is_due || *end == End::Deleted)
}
