//! Schedules that should have fired long ago. The server tries once: if it cannot store what a schedule publishes, for
//! want of room, the schedule stays in RETRY until it is published again, and with it a retry or a timer.
//!
//! They are looked for by reading RETRY from the oldest schedule on, a page at a time at a bounded pace, up to those that
//! are too young to be late: a thousand a second, about a hundredth of a core. So a schedule that is stuck is found within
//! an interval and a millisecond for each schedule that waits; behind a million of them, within twenty minutes.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use shopery_queue::Queue;
use shopery_runtime::{Env, Runtime, Shutdown};

/// A page has up to 256 schedules.
const PACE: Duration = Duration::from_millis(256);

#[derive(Debug, Clone)]
pub(crate) struct Config {
    lateness: Duration,
}

impl Config {
    pub(crate) fn read(env: &mut Env) -> Option<Self> {
        let lateness = env.duration(
            "SHOPERY_OVERDUE_AFTER",
            "1m",
            "A retry or timer that is so late, because NATS had no room for it when it was due, is published again",
        );
        Some(Self { lateness: lateness? })
    }
}

#[derive(Debug)]
pub(crate) struct Overdue {
    queue: Queue,
    config: Config,
    interval: Duration,
    published_again: Counter,
}

impl Overdue {
    pub(crate) fn new(queue: Queue, config: Config, interval: Duration, runtime: &Runtime) -> Self {
        let published_again = runtime.metrics.register(
            "overdue_schedules",
            "Retries and timers that were published again because they had not fired",
            Counter::default(),
        );
        Self { queue, config, interval, published_again }
    }

    /// Looks every so often until the drain begins. Every replica does; the second to publish a schedule again comes too late.
    pub(crate) async fn run(self, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                () = shutdown.draining() => return,
            }
            tokio::select! {
                done = self.look() => if let Err(error) = done {
                    tracing::warn!("cannot look for overdue schedules: {error:#}");
                },
                () = shutdown.draining() => return,
            }
        }
    }

    async fn look(&self) -> anyhow::Result<()> {
        let mut next = 1;
        loop {
            let now = shopery_queue::now();
            let page = self.queue.schedules("retry.>", next).await?;
            let Some(last) = page.last() else { return Ok(()) };
            next = last.sequence + 1;
            // What was stored since cannot be so late.
            let is_last = now - last.stored_at < self.config.lateness;
            for schedule in page.into_iter().filter(|schedule| now - schedule.due_at > self.config.lateness) {
                let due_at = schedule.due_at;
                if self.queue.reschedule(schedule).await? {
                    tracing::warn!(%due_at, "a schedule had not fired; it is published again");
                    self.published_again.inc();
                }
            }
            if is_last {
                return Ok(());
            }
            tokio::time::sleep(PACE).await;
        }
    }
}
