//! Holding back a tenant's work in the bulk lane while other tenants use the fast one.
//!
//! Meanwhile an echo goes to the server and back every few milliseconds; how long it takes sets the [`Pace`]. A tenant
//! that is alone goes as fast as it can.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use shopery_model::{Pace, TenantId};
use shopery_runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Queue;

/// A tenant is here while its last work in the fast lane is no older.
const HERE: Duration = Duration::from_secs(2);
const BETWEEN_ECHOES: Duration = Duration::from_millis(5);
/// An echo that takes longer is taken to have taken so long.
const ECHO_TIMEOUT: Duration = Duration::from_secs(1);
/// What is due within this time goes at once: a timer is no more exact.
const AT_ONCE: Duration = Duration::from_millis(2);

/// Clones are the same pacer.
#[derive(Debug, Clone)]
pub struct Pacer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Somebody goes at the pace.
    paced: Notify,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    present: Present,
    /// When the next turn is due.
    next: Instant,
}

/// The tenant that was last here, and when any other was: all that it takes to know whether one is alone.
#[derive(Debug, Default)]
struct Present {
    last: Option<(TenantId, Instant)>,
    another_at: Option<Instant>,
}

impl Pacer {
    pub fn start(queue: &Queue, runtime: &Runtime) -> Self {
        let state = State { pace: Pace::default(), present: Present::default(), next: Instant::now() };
        let pacer = Self(Arc::new(Inner { state: Mutex::new(state), paced: Notify::new() }));
        let (queue, listening) = (queue.clone(), pacer.clone());
        runtime.spawn("pacer", async move { listening.listen(&queue).await });
        pacer
    }

    /// Something of this tenant goes through the fast lane.
    pub fn note_fast(&self, tenant: &TenantId) {
        self.lock().present.note(tenant, Instant::now());
    }

    /// Whether no other tenant uses the fast lane.
    pub fn is_alone(&self, tenant: &TenantId) -> bool {
        self.lock().present.is_alone(tenant, Instant::now())
    }

    /// Waits until `count` pieces of the tenant's bulk work may go.
    pub async fn turns(&self, tenant: &TenantId, count: usize) {
        let due = {
            let mut state = self.lock();
            let now = Instant::now();
            if state.present.is_alone(tenant, now) {
                return;
            }
            let due = state.next.max(now);
            state.next = due + state.pace.time_for(count);
            due
        };
        self.0.paced.notify_one();
        if due > Instant::now() + AT_ONCE {
            tokio::time::sleep_until(due).await;
        }
    }

    async fn listen(&self, queue: &Queue) {
        let inbox = queue.client.new_inbox();
        let mut echoes = loop {
            match queue.client.subscribe(inbox.clone()).await {
                Ok(echoes) => break echoes,
                Err(error) => tracing::warn!(%error, "cannot listen for echoes"),
            }
            tokio::time::sleep(ECHO_TIMEOUT).await;
        };
        for number in 0_u64.. {
            self.0.paced.notified().await;
            let sent = Instant::now();
            let answered = tokio::time::timeout(ECHO_TIMEOUT, echo(queue, &inbox, number, &mut echoes)).await;
            self.lock().pace.note(sent.elapsed());
            if let Ok(Err(error)) = answered {
                tracing::warn!("{error:#}");
                tokio::time::sleep(ECHO_TIMEOUT).await;
            }
            tokio::time::sleep(BETWEEN_ECHOES).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn note(&mut self, tenant: &TenantId, now: Instant) {
        match &mut self.last {
            Some((last, at)) if last == tenant => *at = now,
            last => {
                self.another_at = last.as_ref().map(|(_, at)| *at);
                *last = Some((tenant.clone(), now));
            }
        }
    }

    fn is_alone(&self, tenant: &TenantId, now: Instant) -> bool {
        let other_at = match &self.last {
            Some((last, at)) if last != tenant => Some(*at),
            _ => self.another_at,
        };
        other_at.is_none_or(|at| now.duration_since(at) > HERE)
    }
}

async fn echo(queue: &Queue, inbox: &str, number: u64, echoes: &mut Subscriber) -> anyhow::Result<()> {
    let body = Bytes::copy_from_slice(&number.to_be_bytes());
    queue.client.publish(inbox.to_owned(), body).await.context("cannot send an echo")?;
    is_back(number, echoes.map(|echo| echo.payload)).await
}

/// Waits for this echo. Those that nobody waited for any more may come before it: were one of them taken for it, every
/// later one would seem to be back at once.
async fn is_back(number: u64, echoes: impl Stream<Item = Bytes>) -> anyhow::Result<()> {
    let mut echoes = pin!(echoes);
    while let Some(echo) = echoes.next().await {
        if echo[..] == number.to_be_bytes() {
            return Ok(());
        }
    }
    bail!("the subscription for echoes was closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_echo_that_comes_too_late_is_not_taken_for_the_next_one() {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let mut echoes = futures_util::stream::poll_fn({
            let mut receiver = receiver;
            move |context| receiver.poll_recv(context)
        });
        let send = |number: u64| sender.send(Bytes::copy_from_slice(&number.to_be_bytes())).unwrap();
        send(1);
        send(2);
        let third = tokio::time::timeout(Duration::from_millis(50), is_back(3, &mut echoes)).await;
        assert!(third.is_err(), "echoes 1 and 2 were taken for echo 3");
        send(3);
        is_back(3, &mut echoes).await.unwrap();
    }

    /// Each row: seconds, who uses the fast lane, and whether a and b are alone then.
    #[test]
    fn a_tenant_is_alone_until_another_comes_and_when_it_has_gone() {
        let (mut present, began) = (Present::default(), Instant::now());
        let [a, b] = ["a", "b"].map(|id| id.parse::<TenantId>().unwrap());
        for (seconds, tenant, alone) in [
            (0, &a, (true, false)),
            (1, &a, (true, false)),
            (1, &b, (false, false)),
            (2, &a, (false, false)),
            (4, &a, (true, false)),
            (9, &b, (false, true)),
            (9, &a, (false, false)),
        ] {
            let now = began + Duration::from_secs(seconds);
            present.note(tenant, now);
            let found = (present.is_alone(&a, now), present.is_alone(&b, now));
            assert_eq!(found, alone, "{tenant} at {seconds}");
        }
    }
}
