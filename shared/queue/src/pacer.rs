//! Holding back the bulk lane while others use the fast one.
//!
//! While both have work, an echo goes to the server and back every few milliseconds; how long it takes sets the
//! [`Pace`]. With nothing in the fast lane, the bulk lane goes as fast as it can.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use shopery_model::Pace;
use shopery_runtime::Shutdown;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Queue;

/// The fast lane is in use while its last work is no older.
const IN_USE: Duration = Duration::from_secs(2);
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
    fast_at: Option<Instant>,
    /// When the next turn is due.
    next: Instant,
}

impl Pacer {
    pub fn start(queue: &Queue, shutdown: &Shutdown) -> Self {
        let state = State { pace: Pace::default(), fast_at: None, next: Instant::now() };
        let pacer = Self(Arc::new(Inner { state: Mutex::new(state), paced: Notify::new() }));
        let (queue, shutdown, listening) = (queue.clone(), shutdown.clone(), pacer.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = listening.listen(&queue) => {}
                () = shutdown.draining() => {}
            }
        });
        pacer
    }

    /// Something went through the fast lane.
    pub fn note_fast(&self) {
        self.lock().fast_at = Some(Instant::now());
    }

    /// Waits until `count` pieces of bulk work may go.
    pub async fn turns(&self, count: usize) {
        let due = {
            let mut state = self.lock();
            let now = Instant::now();
            if state.fast_at.is_none_or(|at| now.duration_since(at) > IN_USE) {
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
        loop {
            self.0.paced.notified().await;
            let sent = Instant::now();
            let answered = tokio::time::timeout(ECHO_TIMEOUT, echo(queue, &inbox, &mut echoes)).await;
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

async fn echo(queue: &Queue, inbox: &str, echoes: &mut Subscriber) -> anyhow::Result<()> {
    queue.client.publish(inbox.to_owned(), Bytes::new()).await.context("cannot send an echo")?;
    echoes.next().await.context("the subscription for echoes was closed").map(drop)
}
