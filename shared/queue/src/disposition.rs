//! What becomes of a message that was worked on: every handler returns one of these, and here alone it is carried out.

use std::time::Duration;

use anyhow::anyhow;
use serde::Serialize;
use shopery_model::{Outcome, TenantId};

use crate::{Dead, Message, Outcomes, Taken};

/// Delay before a message is redelivered that could not be finished; it doubles with each try, up to `ack_wait`.
const FIRST_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub enum Disposition<'a> {
    /// Everything that follows from the message is stored.
    Done,
    /// The same, once these outcomes are.
    Outcomes(Vec<Outcome>, &'a Outcomes),
    /// What stands in the way passes: the message is redelivered, here or to another process.
    Retry(anyhow::Error),
    /// Nobody can use it, now or later: the whole message goes to DEAD.
    Dead { reason: &'static str, tenant: Option<TenantId>, why: String },
}

impl Taken {
    /// Carries out what was decided. The slot is free afterwards.
    pub async fn settle(self, disposition: Disposition<'_>) {
        let Self { message, slot } = self;
        match disposition {
            Disposition::Outcomes(outcomes, store) if !outcomes.is_empty() => {
                // They are handed over: a batch that is full holds back new work.
                store.add(outcomes, message).await;
            }
            Disposition::Done | Disposition::Outcomes(..) => message.ack().await,
            Disposition::Retry(error) => message.retry(&error).await,
            Disposition::Dead { reason, tenant, why } => match message.dead_letter(reason, tenant.as_ref(), &why).await
            {
                Ok(()) => message.ack().await,
                Err(error) => message.retry(&error).await,
            },
        }
        drop(slot);
    }
}

impl Message {
    /// Dead-letters a message of ours that nobody can use, all of it; a repeat adds nothing.
    pub async fn dead_letter(
        &self,
        reason: &str,
        tenant: Option<&TenantId>,
        why: impl Serialize,
    ) -> anyhow::Result<()> {
        let stored = self.stored()?;
        let id = format!("{}:{}", stored.stream, stored.sequence);
        let dead = Dead::whole(self.subject(), why, self.payload());
        self.queue
            .dead_letter(reason, tenant, id, &dead)
            .await
            .map_err(|error| anyhow!("cannot put a message on DEAD: {error}"))
    }

    async fn retry(&self, error: &anyhow::Error) {
        let (consumer, tries) = self.stored().map_or(("", 1), |stored| (stored.consumer, stored.tries));
        let ack_wait = self.queue.limits.ack_wait;
        let delay = delay(tries, ack_wait);
        tracing::warn!(subject = self.subject(), consumer, tries, ?delay, "a message is redelivered: {error:#}");
        self.queue.retried.get_or_create(&[("consumer", consumer.to_owned())]).inc();
        // After that another process may have it, and the server does not tell whose NAK it is.
        if self.received.elapsed() < ack_wait {
            self.nak_after(delay).await;
        }
    }
}

fn delay(tries: u32, longest: Duration) -> Duration {
    FIRST_DELAY.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_waits_longer_each_time() {
        let longest = Duration::from_secs(30);
        for (tries, seconds) in [(0, 1), (1, 1), (2, 2), (5, 16), (6, 30), (u32::MAX, 30)] {
            assert_eq!(delay(tries, longest), Duration::from_secs(seconds), "{tries}");
        }
    }
}
