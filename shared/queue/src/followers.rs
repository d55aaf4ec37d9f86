//! Whether those who follow CONFIG have a change of it.
//!
//! Whoever has changed CONFIG says up to where; every follower answers once its [`Directory`] is there. NATS does not
//! tell how many follow, so those are waited for that have answered lately.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use shopery_runtime::Shutdown;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Directory, Queue};

const SUBJECT: &str = "config.followed";
/// Nobody waits longer for a follower: then it is down, or does not get along.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is asked who follows.
const ROLL_CALL: Duration = Duration::from_secs(10);
/// Who has not answered for so long is gone.
const GONE: Duration = Duration::from_secs(25);
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    follower: String,
    revision: u64,
}

/// Those who follow CONFIG in other processes. Clones are the same.
#[derive(Debug, Clone)]
pub struct Followers {
    queue: Queue,
    inbox: String,
    roll: Arc<watch::Sender<Roll>>,
}

#[derive(Debug, Default)]
struct Roll {
    /// Up to where each has CONFIG, and when it said so.
    followers: HashMap<String, (u64, Instant)>,
    /// All that came, so that it is seen that something did.
    answers: u64,
}

impl Followers {
    pub fn start(queue: &Queue, shutdown: &Shutdown) -> Self {
        let followers = Self { queue: queue.clone(), inbox: queue.client.new_inbox(), roll: Arc::default() };
        let (listening, shutdown) = (followers.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = listening.listen() => {}
                () = listening.call() => {}
                () = shutdown.draining() => {}
            }
        });
        followers
    }

    /// Waits until all followers have CONFIG up to this revision. One that does not answer in time is not waited for
    /// again before it does.
    pub async fn have(&self, revision: u64) {
        let mut roll = self.roll.subscribe();
        let before = roll.borrow_and_update().answers;
        let asked =
            self.queue.client.publish_with_reply(SUBJECT, self.inbox.clone(), revision.to_string().into()).await;
        if let Err(error) = asked {
            tracing::warn!(%error, "cannot ask whether a change of CONFIG has arrived");
            return;
        }
        let have_it = |roll: &Roll| roll.answers > before && roll.followers.values().all(|(has, _)| *has >= revision);
        if tokio::time::timeout(PATIENCE, roll.wait_for(have_it)).await.is_err() {
            tracing::warn!(revision, "not all services have taken note of a change of CONFIG in time");
            self.roll.send_modify(|roll| roll.followers.retain(|_, (has, _)| *has >= revision));
        }
    }

    async fn call(&self) {
        loop {
            self.have(0).await;
            tokio::time::sleep(ROLL_CALL).await;
            let now = Instant::now();
            self.roll.send_modify(|roll| roll.followers.retain(|_, (_, at)| now.duration_since(*at) < GONE));
        }
    }

    async fn listen(&self) {
        loop {
            match self.queue.client.subscribe(self.inbox.clone()).await {
                Ok(mut answers) => {
                    while let Some(answer) = answers.next().await {
                        self.roll.send_modify(|roll| roll.note(&answer));
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot hear who follows CONFIG"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Roll {
    fn note(&mut self, answer: &Message) {
        self.answers += 1;
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            self.followers.clear();
        } else if let Ok(Answer { follower, revision }) = serde_json::from_slice(&answer.payload) {
            let (has, at) = self.followers.entry(follower).or_insert((revision, Instant::now()));
            (*has, *at) = (revision.max(*has), Instant::now());
        }
    }
}

impl Directory {
    /// Answers whoever asks whether this process has a change, until the drain.
    pub async fn answer(&self, queue: &Queue, shutdown: &Shutdown) {
        let follower = queue.client.new_inbox();
        loop {
            tokio::select! {
                answered = self.answer_as(&follower, queue) => {
                    let error = answered.err().map(|error| format!("{error:#}")).unwrap_or_default();
                    tracing::warn!(error, "cannot say which changes of CONFIG have arrived");
                    tokio::time::sleep(PAUSE).await;
                }
                () = shutdown.draining() => return,
            }
        }
    }

    async fn answer_as(&self, follower: &str, queue: &Queue) -> anyhow::Result<()> {
        let mut questions = queue.client.subscribe(SUBJECT).await?;
        while let Some(question) = questions.next().await {
            let wanted = std::str::from_utf8(&question.payload).ok().and_then(|text| text.parse().ok());
            let (Some(wanted), Some(asker)) = (wanted, question.reply) else { continue };
            let mut revision = self.revision();
            // Who asks does not wait longer either.
            let _ = tokio::time::timeout(PATIENCE, revision.wait_for(|has| *has >= wanted)).await;
            let answer = Answer { follower: follower.to_owned(), revision: *revision.borrow() };
            queue.client.publish(asker, serde_json::to_vec(&answer)?.into()).await?;
        }
        Ok(())
    }
}
