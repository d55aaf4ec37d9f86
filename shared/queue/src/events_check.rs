//! Whether EVENTS stores. The connection says nothing about that, and neither does the JetStream API: in a nats-server whose disk
//! was full, a stream rejects what is wrong and acknowledges nothing, however much room there is later, until the server is
//! restarted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use shopery_runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_secs(5);
/// The same while it does not answer, so that its return is noticed soon.
const SHORT_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum time without an answer that is not reported: an election in a cluster takes less.
const REPORT_TIMEOUT: Duration = Duration::from_secs(12);
/// No event has it, and no consumer.
const SUBJECT: &str = "events.check";
const NO_STREAM: &str = "none";

/// Whether the last publish of this process was not acknowledged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doubt(Arc<AtomicBool>);

impl Doubt {
    pub(crate) fn set(&self, is_in_doubt: bool) {
        self.0.store(is_in_doubt, Ordering::Relaxed);
    }
}

/// Makes `/readyz` report it if EVENTS does not answer, or does not store what it is sent.
pub(crate) fn watch_events(client: &Client, doubt: &Doubt, runtime: &Runtime) {
    let (obstacle, current) = watch::channel(None::<String>);
    runtime.health.check("events", move || current.borrow().clone().map_or(Ok(()), Err));
    let (client, doubt) = (client.clone(), doubt.clone());
    runtime.spawn("check of EVENTS", async move {
        let mut answered = Instant::now();
        loop {
            let is_late = answered.elapsed() > INTERVAL + SHORT_INTERVAL;
            tokio::time::sleep(if is_late { SHORT_INTERVAL } else { INTERVAL }).await;
            match check(&client, &doubt).await {
                Ok(()) => {
                    answered = Instant::now();
                    if obstacle.send_if_modified(|obstacle| obstacle.take().is_some()) {
                        tracing::info!("EVENTS answers again");
                    }
                }
                Err(error) if answered.elapsed() > REPORT_TIMEOUT && obstacle.borrow().is_none() => {
                    let why = format!("EVENTS stores nothing: {error:#}. If the disk of NATS was full, restart NATS");
                    tracing::error!("{why}");
                    obstacle.send_replace(Some(why));
                }
                Err(_) => {}
            }
        }
    });
}

/// Publishes what EVENTS must reject; that it does is the answer. After a publish that was not acknowledged, a message has to be
/// stored: otherwise a service that is not ready, and so is sent nothing, would never be ready again.
async fn check(client: &Client, doubt: &Doubt) -> anyhow::Result<()> {
    let mut headers = HeaderMap::new();
    let has_to_store = doubt.0.load(Ordering::Relaxed);
    if !has_to_store {
        headers.insert("Nats-Expected-Stream", NO_STREAM);
    }
    let answer = client.request_with_headers(SUBJECT, headers, Bytes::new()).await?;
    let stored = serde_json::from_slice::<serde_json::Value>(&answer.payload).is_ok_and(|ack| ack["seq"].is_u64());
    if has_to_store {
        ensure!(stored, "it answers {}", String::from_utf8_lossy(&answer.payload));
        doubt.set(false);
    }
    Ok(())
}
