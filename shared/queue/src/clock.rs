//! The clock of NATS. Schedules fire by it and messages are stored by it, so whatever is compared with those is read from it
//! too: by a clock that is half a minute ahead every retry would come half a minute late, and by one that is behind at once.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::Client;
use bytes::Bytes;
use serde::Deserialize;
use shopery_runtime::Runtime;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::topology;

const INTERVAL: Duration = Duration::from_secs(30);
/// An answer that took longer says too little.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);
/// A difference that is reported.
const REPORTED: Duration = Duration::from_secs(1);

/// By how many nanoseconds the clock of NATS is ahead of that of this machine. Of the process, as that clock itself is:
/// all that it does is with one NATS.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// The time by the clock of NATS.
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::nanoseconds(AHEAD.load(Ordering::Relaxed))
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(with = "time::serde::rfc3339")]
    ts: OffsetDateTime,
}

/// Compares the clocks; [`now`] knows the difference from then on. Returns by how much NATS is ahead.
pub(crate) async fn compare(client: &Client) -> anyhow::Result<time::Duration> {
    let subject = format!("$JS.API.STREAM.INFO.{}", topology::EVENTS);
    let (before, asked) = (OffsetDateTime::now_utc(), Instant::now());
    let answer = client.request(subject, Bytes::new()).await.context("cannot ask NATS for the time")?;
    let took = asked.elapsed();
    let Answer { ts } = serde_json::from_slice(&answer.payload).context("NATS does not say what time it is")?;
    ensure!(took <= MAX_ROUND_TRIP, "NATS took {took:?} to say what time it is");
    let known = time::Duration::nanoseconds(AHEAD.load(Ordering::Relaxed));
    let ahead = nearest(known, ts - before, took);
    AHEAD.store(i64::try_from(ahead.whole_nanoseconds()).context("NATS is centuries away")?, Ordering::Relaxed);
    Ok(ahead)
}

/// The difference that an answer leaves possible and that is nearest to the known one, so that a slow answer, which says
/// little, changes little. `most`: the true one if the question took no time, and the answer all of `took`.
fn nearest(known: time::Duration, most: time::Duration, took: Duration) -> time::Duration {
    known.clamp(most - took, most)
}

/// Compares the clocks from time to time.
pub(crate) fn watch_clock(client: &Client, runtime: &Runtime) {
    let client = client.clone();
    runtime.spawn("comparison of clocks", async move {
        let mut is_reported = false;
        loop {
            match compare(&client).await {
                Ok(ahead) => {
                    let is_apart = ahead.unsigned_abs() > REPORTED;
                    if is_apart && !is_reported {
                        let way = if ahead.is_negative() { "ahead of" } else { "behind" };
                        let apart = ahead.unsigned_abs();
                        tracing::warn!("the clock of this machine is {apart:.1?} {way} that of NATS; set both by NTP");
                    }
                    is_reported = is_apart;
                }
                // NATS is away, or busy; the next time will do.
                Err(error) => tracing::debug!("{error:#}"),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_changes_only_what_cannot_be_true() {
        let ms = time::Duration::milliseconds;
        for (known, most, took, nearest) in [
            // Clocks that agree, and an answer that was long on its way, there or back.
            (0, 900, 900, 0),
            (0, 0, 900, 0),
            (0, 500, 900, 0),
            // They do not.
            (0, 40_900, 900, 40_000),
            (0, -40_000, 900, -40_000),
            (40_000, 40_001, 2, 40_000),
            (40_000, 5, 2, 5),
        ] {
            assert_eq!(super::nearest(ms(known), ms(most), Duration::from_millis(took)), ms(nearest));
        }
    }
}
