//! One job, from its message to its outcome.

use std::sync::Arc;

use shopery_model::{CircuitState, DeliveryState, Fault, Job, MalformedJob};
use shopery_queue::{Circuits, Dead, Directory, Message, Outcomes, Parked, Queue, Taken, trace};

use crate::attempt::{Attempter, without_attempt};
use crate::breaker::Breaker;
use crate::endpoints::Endpoints;

#[derive(Debug)]
pub(crate) struct Deliverer {
    pub(crate) queue: Queue,
    pub(crate) directory: Directory,
    pub(crate) circuits: Circuits,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) breaker: Breaker,
    pub(crate) attempter: Arc<Attempter>,
    pub(crate) outcomes: Outcomes,
}

impl Deliverer {
    /// Works a job off. If that cannot be finished, the message stays unacknowledged and comes again.
    pub(crate) async fn deliver(&self, taken: Taken) {
        let Taken { message, slot } = taken;
        let finished = match Job::decode(message.payload()) {
            Ok(job) => self.work_off(job, &message).await,
            Err(error) => match self.bury(&message, &error).await {
                Ok(()) => {
                    message.ack().await;
                    return;
                }
                Err(error) => Err(error),
            },
        };
        match finished {
            // The slot is free once the outcome is handed over: a batch that is full holds back new work.
            Ok(outcome) => self.outcomes.add(vec![outcome], message).await,
            Err(error) => tracing::warn!(subject = message.subject(), "a job is repeated later: {error:#}"),
        }
        drop(slot);
    }

    /// Attempts a job, or parks it where its endpoint does not keep up or its webhook is disabled.
    async fn work_off(&self, job: Job, message: &Message) -> anyhow::Result<shopery_model::Outcome> {
        let (id, delivery) = (job.meta.webhook, job.meta.delivery);
        let Some(webhook) = self.directory.get(&job.meta.tenant, id).await? else {
            let why = "the webhook was deleted before the attempt";
            return Ok(without_attempt(job.meta, DeliveryState::Failed, Some((Fault::WebhookDeleted, why))));
        };
        if !webhook.is_enabled || self.circuits.is_broken(id) {
            return self.park(job).await;
        }
        let Some(pass) = self.endpoints.enter(id).await else {
            let parked = self.park(job).await?;
            self.breaker.open(&parked.job.tenant, id, CircuitState::Draining).await?;
            return Ok(parked);
        };
        let parent = trace::incoming(message.headers());
        let attempted = self.attempter.attempt(&job, &webhook, parent).await?;
        let tenant = job.meta.tenant.clone();
        let failures = pass.finish(delivery, attempted.is_success());
        if self.breaker.is_reached(failures) {
            self.breaker.open(&tenant, id, CircuitState::Open).await?;
            self.endpoints.turn_away(id);
        }
        self.attempter.follow_up(job, attempted, parent).await
    }

    async fn park(&self, job: Job) -> anyhow::Result<shopery_model::Outcome> {
        Parked::park(&self.queue, &job).await?;
        Ok(without_attempt(job.meta, DeliveryState::Parked, None))
    }

    async fn bury(&self, message: &Message, error: &MalformedJob) -> anyhow::Result<()> {
        let stored = message.stored()?;
        let id = format!("{}:{}", stored.stream, stored.sequence);
        let dead = Dead::new(message.subject(), error.to_string(), message.payload());
        Ok(self.queue.bury("undecodable-job", None, id, &dead).await?)
    }
}
