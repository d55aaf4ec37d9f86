//! The end of what waits for a webhook that does not want it any more: parked jobs and scheduled retries, many at a time.
//!
//! Invariant: what waits is removed only after its outcome is stored. A crash repeats outcomes and loses none.

use std::time::Duration;

use shopery_model::{Job, TenantId, Webhook, WebhookId};
use shopery_queue::{Lookup, Message, Parked, ParkedJob, store_outcomes, subject};

use crate::drainer::{Drainer, dead_letter};
use crate::ended::End;

/// Jobs that end at a time.
const MANY: usize = 256;
/// How long what is scheduled is looked for after a webhook was enabled to start anew. What a crash has left by then
/// ends when it is due.
const LOOKED_FOR: Duration = Duration::from_secs(10 * 60);

impl Drainer {
    /// Ends what a webhook has waiting and is not to be sent: all of it if the webhook was deleted.
    pub(crate) async fn end_waiting(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        webhook: &Lookup,
        message: &Message,
    ) -> anyhow::Result<()> {
        self.end_parked(tenant, id, webhook, message).await?;
        let now = shopery_queue::now();
        let is_new = |webhook: &Webhook| webhook.discard_before.is_some_and(|before| now - before < LOOKED_FOR);
        let is_any_to_end = match webhook {
            Lookup::Deleted => true,
            Lookup::Found(webhook) => is_new(webhook),
            Lookup::Unknown => false,
        };
        if is_any_to_end {
            self.end_scheduled(tenant, id, webhook, message).await?;
        }
        Ok(())
    }

    async fn end_parked(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        webhook: &Lookup,
        message: &Message,
    ) -> anyhow::Result<()> {
        let max_age = self.queue.limits.parked_max_age;
        let end = |at| End::of_parked(webhook, at, shopery_queue::now(), max_age);
        // Most of the time there is nothing to do, and one look tells.
        if Parked::oldest(&self.queue, tenant, id).await?.and_then(end).is_none() {
            return Ok(());
        }
        let parked = Parked::open(&self.queue, tenant, id).await?;
        loop {
            // They lie in the order in which they were parked.
            let mut jobs = parked.next(MANY).await?;
            let read = jobs.len();
            jobs.truncate(jobs.iter().take_while(|job| end(job.at).is_some()).count());
            let Some(last) = jobs.last().map(|job| job.sequence) else { return Ok(()) };
            let is_over = jobs.len() < read;
            let mut outcomes = Vec::with_capacity(jobs.len());
            for ParkedJob { sequence, at, frame } in jobs {
                match (Job::decode(&frame), end(at)) {
                    (Ok(job), Some(end)) => outcomes.push(end.outcome(job.meta)),
                    (Ok(_), None) => {}
                    (Err(error), _) => dead_letter(&self.queue, tenant, id, sequence, &frame, &error).await?,
                }
            }
            store_outcomes(&self.queue, "deliverer", &outcomes, self.queue.limits.ack_wait / 3).await?;
            parked.remove_through(last).await?;
            message.progress().await;
            if is_over {
                return Ok(());
            }
        }
    }

    async fn end_scheduled(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        webhook: &Lookup,
        message: &Message,
    ) -> anyhow::Result<()> {
        let (subjects, mut next) = (subject::scheduled(tenant, id), 1);
        loop {
            let mut schedules = self.queue.schedules(&subjects, next).await?;
            let Some(last) = schedules.last() else { return Ok(()) };
            next = last.sequence + 1;
            let mut outcomes = Vec::new();
            schedules.retain(|schedule| {
                // What does not decode is a timer, or goes to DEAD when it is due, as any job does.
                let Ok(job) = Job::decode(schedule.frame()) else { return false };
                let end = End::of_scheduled(webhook, &job.meta);
                outcomes.extend(end.map(|end| end.outcome(job.meta)));
                end.is_some()
            });
            store_outcomes(&self.queue, "deliverer", &outcomes, self.queue.limits.ack_wait / 3).await?;
            self.queue.remove_schedules(&schedules).await?;
            message.progress().await;
        }
    }
}
