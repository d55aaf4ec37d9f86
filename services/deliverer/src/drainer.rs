//! Timers of endpoints whose circuit is not closed. When one fires, one deliverer takes the circuit (it writes its name into it), and
//! begins a [`Drain`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use shopery_model::{AttemptId, Circuit, CircuitState, MalformedJob, TenantId, WebhookId};
use shopery_queue::{Circuits, Dead, Disposition, Lookup, Message, Pacer, Parked, Queue, Taken, WebhookCache, subject};
use shopery_runtime::Shutdown;
use tokio::sync::Semaphore;

use crate::attempt::Attempter;
use crate::breaker::Breaker;
use crate::drain::{Drain, LEASE};

/// Delay before the next try, where this deliverer admits no further drain.
pub(crate) const POSTPONED: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(crate) struct Drainer {
    pub(crate) queue: Queue,
    pub(crate) webhooks: WebhookCache,
    pub(crate) circuits: Circuits,
    pub(crate) breaker: Breaker,
    pub(crate) attempter: Arc<Attempter>,
    pub(crate) pacer: Pacer,
    /// Attempts that drains may have under way.
    pub(crate) slots: Arc<Semaphore>,
    /// Drains that there may be here.
    pub(crate) drains: Arc<Semaphore>,
}

impl Drainer {
    /// Processes the timer of an endpoint that has fired. If that cannot be finished, the timer is redelivered.
    ///
    /// A drain can take hours, at the pace of its webhook, so it gives its slot back: the slots are for retries.
    pub(crate) async fn drain(&self, mut taken: Taken, shutdown: &Shutdown) {
        let done = match self.drains.clone().try_acquire_owned() {
            Ok(slot) => {
                taken.slot = slot;
                self.process(taken.message.clone(), shutdown).await
            }
            Err(_) => self.postpone(&taken.message).await,
        };
        if let Err(error) = done {
            taken.settle(Disposition::Retry(error.context("cannot send what is parked"))).await;
        }
    }

    /// There are as many drains here as there may be. The timer is set again: it would be pending if it were redelivered, and
    /// what is pending is bounded for all.
    async fn postpone(&self, message: &Message) -> anyhow::Result<()> {
        let (tenant, id) = parse_drain(message)?;
        let (circuit, _) = self.circuits.read(&tenant, id).await?;
        if !is_early_wake(message, circuit.as_ref()) {
            self.breaker.set_timer(&tenant, id, POSTPONED).await?;
        }
        message.ack().await;
        Ok(())
    }

    async fn process(&self, message: Message, shutdown: &Shutdown) -> anyhow::Result<()> {
        let (tenant, id) = parse_drain(&message)?;
        let (circuit, revision) = self.circuits.read(&tenant, id).await?;
        if is_early_wake(&message, circuit.as_ref()) {
            message.ack().await;
            return Ok(());
        }
        let webhook = match self.webhooks.get(&tenant, id).await? {
            Lookup::Found(webhook) if webhook.can_be_sent_to() => webhook,
            other => {
                // What is parked of a webhook that is disabled, unknown, or stays closed, waits for that to end, or expires.
                self.end_waiting(&tenant, id, &other, &message).await?;
                if circuit.is_some() {
                    self.circuits.close(&tenant, id, revision).await?;
                }
                message.ack().await;
                return Ok(());
            }
        };
        if webhook.discard_before.is_some() {
            self.end_waiting(&tenant, id, &Lookup::Found(webhook.clone()), &message).await?;
        }
        let now = shopery_queue::now();
        if circuit.is_none() && Parked::count(&self.queue, &tenant, id).await? == 0 {
            message.ack().await;
            return Ok(());
        }
        // Names this drain in the circuit that it has taken.
        let me = AttemptId::generate().to_string();
        let mut circuit = circuit.unwrap_or_else(|| Circuit::new(CircuitState::Draining, now));
        let taken = if circuit.is_drained_by_another(&me, now, LEASE) {
            None
        } else {
            (circuit.drainer, circuit.seen_at) = (Some(me), now);
            self.circuits.write(&tenant, id, circuit.clone(), revision).await?
        };
        let Some(revision) = taken else {
            // Another deliverer is at it. Should it be gone, somebody has to see to it when its claim has run out.
            self.breaker.set_timer(&tenant, id, LEASE).await?;
            message.ack().await;
            return Ok(());
        };
        let drain = Drain::new(self, tenant, webhook, circuit, revision, message);
        if drain.webhook.rules.ordered { drain.run_ordered(shutdown).await } else { drain.run(shutdown).await }
    }
}

/// New work is no reason to probe sooner; the timer will come.
fn is_early_wake(message: &Message, circuit: Option<&Circuit>) -> bool {
    Parked::is_wake(message) && circuit.is_some_and(|circuit| circuit.waits_for_probe(shopery_queue::now()))
}

fn parse_drain(message: &Message) -> anyhow::Result<(TenantId, WebhookId)> {
    subject::parse_drain(message.subject()).context("the subject names no webhook")
}

/// Puts a parked job that does not decode on DEAD.
pub(crate) async fn dead_letter(
    queue: &Queue,
    tenant: &TenantId,
    id: WebhookId,
    sequence: u64,
    frame: &[u8],
    error: &MalformedJob,
) -> anyhow::Result<()> {
    let subject = subject::parked(tenant, id);
    let dead = Dead::whole(&subject, error.to_string(), frame);
    Ok(queue.dead_letter("undecodable-job", Some(tenant), format!("PARKED:{sequence}"), &dead).await?)
}
