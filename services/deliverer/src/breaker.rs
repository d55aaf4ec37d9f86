//! Opening circuits: when an endpoint's jobs begin to be parked, and the timer that ends it.

use std::time::Duration;

use shopery_model::{Answer, Circuit, CircuitState, TenantId, WebhookId, probe_delay};
use shopery_queue::{Circuits, Parked, Queue};
use shopery_runtime::Env;

/// Deliveries that must fail in a row, and the pauses between probes.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    failures: usize,
    first_probe: Duration,
    longest_probe: Duration,
}

impl Config {
    pub(crate) fn read(env: &mut Env) -> Option<Self> {
        let failures = env.number(
            "SHOPERY_CIRCUIT_FAILURES",
            "5",
            1..=50,
            "Deliveries that fail in a row until an endpoint's jobs are parked",
        );
        let first = env.duration("SHOPERY_PROBE_FIRST", "5s", "Pause before the first probe of a broken endpoint");
        let longest = env.duration("SHOPERY_PROBE_LONGEST", "5m", "It doubles with each probe that fails, up to this");
        Some(Self { failures: usize::try_from(failures?).ok()?, first_probe: first?, longest_probe: longest? })
    }
}

/// A timer that is set before its circuit is written fires no sooner.
const MIN_TIMER: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    pub(crate) queue: Queue,
    pub(crate) circuits: Circuits,
    pub(crate) config: Config,
}

impl Breaker {
    pub(crate) fn is_reached(&self, failures: usize) -> bool {
        failures >= self.config.failures
    }

    /// From now on the webhook's jobs are parked, and a timer sees to them. Nothing to do if somebody has come first.
    /// `failure`: what the endpoint did, if it fails.
    pub(crate) async fn open(&self, tenant: &TenantId, id: WebhookId, failure: Option<&Answer>) -> anyhow::Result<()> {
        if self.circuits.is_broken(id) {
            return Ok(());
        }
        let (known, revision) = self.circuits.read(tenant, id).await?;
        let (state, delay) = match failure {
            Some(answer) => (CircuitState::Open, self.probe_delay(id, 0, answer.retry_after)),
            None => (CircuitState::Draining, Duration::ZERO),
        };
        if known.is_some() {
            return Ok(());
        }
        // First a timer: a crash must not leave a circuit without one. It comes after the circuit is written.
        self.set_timer(tenant, id, delay.max(MIN_TIMER)).await?;
        let now = shopery_queue::now();
        let error = failure.and_then(Answer::failure_reason);
        let circuit = Circuit { probe_at: Some(now + delay), error, ..Circuit::new(state, now) };
        if self.circuits.write(tenant, id, circuit, revision).await?.is_none() {
            return Ok(());
        }
        if state == CircuitState::Open {
            tracing::info!(%tenant, webhook = %id, "the endpoint fails; its jobs are parked");
        }
        if delay < MIN_TIMER {
            self.set_timer(tenant, id, delay).await?;
        }
        Ok(())
    }

    /// An endpoint that asks for more time than the schedule has gets it.
    pub(crate) fn probe_delay(&self, id: WebhookId, probes: u32, asked: Option<Duration>) -> Duration {
        let planned = probe_delay(probes, id, self.config.first_probe, self.config.longest_probe);
        planned.max(asked.unwrap_or_default())
    }

    /// An endpoint has one timer: setting it again replaces it.
    pub(crate) async fn set_timer(&self, tenant: &TenantId, id: WebhookId, delay: Duration) -> anyhow::Result<()> {
        Ok(Parked::set_timer(&self.queue, tenant, id, shopery_queue::now() + delay).await?)
    }
}
