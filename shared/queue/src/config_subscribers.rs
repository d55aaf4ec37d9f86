//! Read-your-writes for CONFIG: whether all that follow it have applied a change.
//!
//! The service that changed CONFIG says up to which revision; every subscriber answers once its [`WebhookCache`] is there. NATS
//! does not tell how many subscribers there are, so we wait only for those that answered recently.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use shopery_runtime::{Runtime, Shutdown};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::webhook_cache::Applied;
use crate::{Queue, WebhookCache};

const SUBJECT: &str = "config.followed";
/// The bucket that a revision is of, as in [`Applied::bucket`]. A header, because services of before read the body as a
/// number.
const BUCKET: &str = "Shopery-Config-Bucket";
/// Nobody waits longer for a subscriber: then it is down, or does not get along.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How often we ask who follows.
const MEMBERSHIP_INTERVAL: Duration = Duration::from_secs(10);
/// A subscriber that has not answered for this long is gone.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(25);
const RESUBSCRIBE_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    follower: String,
    revision: u64,
    /// Absent where a service of before answers.
    #[serde(default)]
    bucket: Option<String>,
}

/// Where a change of CONFIG is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    /// As in [`Applied::bucket`].
    pub bucket: i128,
    pub number: u64,
}

/// Those who follow CONFIG in other processes. Clones are the same.
#[derive(Debug, Clone)]
pub struct ConfigSubscribers {
    queue: Queue,
    inbox: String,
    membership: Arc<watch::Sender<Membership>>,
}

#[derive(Debug, Default)]
struct Membership {
    /// Up to where each has CONFIG, and when it said so.
    subscribers: HashMap<String, (Answer, Instant)>,
    /// All that came, so that it is seen that something did.
    answers: u64,
}

impl Answer {
    fn has(&self, revision: Revision) -> bool {
        let is_of_bucket = self.bucket.as_ref().is_none_or(|bucket| *bucket == revision.bucket.to_string());
        is_of_bucket && self.revision >= revision.number
    }
}

impl ConfigSubscribers {
    pub fn start(queue: &Queue, runtime: &Runtime) -> Self {
        let subscribers = Self { queue: queue.clone(), inbox: queue.client.new_inbox(), membership: Arc::default() };
        let listening = subscribers.clone();
        runtime.spawn("config-subscribers", async move {
            tokio::join!(listening.listen(), listening.renew_membership());
        });
        subscribers
    }

    /// Waits until all subscribers have applied CONFIG up to this revision. One that does not answer in time is not waited
    /// for again before it does.
    pub async fn wait_until_applied(&self, revision: Revision) {
        let has = |answer: &Answer| answer.has(revision);
        if !self.ask(revision.number, Some(revision.bucket), has).await {
            tracing::warn!(revision.number, "not all services have taken note of a change of CONFIG in time");
            self.membership.send_modify(|members| members.subscribers.retain(|_, (answer, _)| has(answer)));
        }
    }

    /// False if not all whom we know have answered as wanted in time.
    async fn ask(&self, number: u64, bucket: Option<i128>, is_wanted: impl Fn(&Answer) -> bool) -> bool {
        let mut members = self.membership.subscribe();
        let before = members.borrow_and_update().answers;
        let mut headers = HeaderMap::new();
        if let Some(bucket) = bucket {
            headers.insert(BUCKET, bucket.to_string());
        }
        let question = number.to_string().into();
        let asked =
            self.queue.client.publish_with_reply_and_headers(SUBJECT, self.inbox.clone(), headers, question).await;
        if let Err(error) = asked {
            tracing::warn!(%error, "cannot ask whether a change of CONFIG has arrived");
            return true;
        }
        let have_it = |members: &Membership| {
            members.answers > before && members.subscribers.values().all(|(answer, _)| is_wanted(answer))
        };
        tokio::time::timeout(APPLY_TIMEOUT, members.wait_for(have_it)).await.is_ok()
    }

    async fn renew_membership(&self) {
        loop {
            self.ask(0, None, |_| true).await;
            tokio::time::sleep(MEMBERSHIP_INTERVAL).await;
            let now = Instant::now();
            self.membership.send_modify(|members| {
                members.subscribers.retain(|_, (_, at)| now.duration_since(*at) < MEMBERSHIP_TIMEOUT);
            });
        }
    }

    async fn listen(&self) {
        loop {
            match self.queue.client.subscribe(self.inbox.clone()).await {
                Ok(mut answers) => {
                    while let Some(answer) = answers.next().await {
                        self.membership.send_modify(|members| members.note(&answer));
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot hear who follows CONFIG"),
            }
            tokio::time::sleep(RESUBSCRIBE_DELAY).await;
        }
    }
}

impl Membership {
    fn note(&mut self, answer: &Message) {
        self.answers += 1;
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            self.subscribers.clear();
        } else if let Ok(answer) = serde_json::from_slice::<Answer>(&answer.payload) {
            // Answers may overtake each other.
            let is_older =
                |(known, _): &(Answer, Instant)| known.bucket == answer.bucket && known.revision > answer.revision;
            match self.subscribers.get_mut(&answer.follower).filter(|known| is_older(known)) {
                Some((_, at)) => *at = Instant::now(),
                None => drop(self.subscribers.insert(answer.follower.clone(), (answer, Instant::now()))),
            }
        }
    }
}

impl WebhookCache {
    /// Answers whoever asks whether this process has applied a change, until the drain.
    pub async fn answer(&self, queue: &Queue, shutdown: &Shutdown) {
        let follower = queue.client.new_inbox();
        loop {
            tokio::select! {
                answered = self.answer_as(&follower, queue) => {
                    let error = answered.err().map(|error| format!("{error:#}")).unwrap_or_default();
                    tracing::warn!(error, "cannot say which changes of CONFIG have arrived");
                    tokio::time::sleep(RESUBSCRIBE_DELAY).await;
                }
                () = shutdown.draining() => return,
            }
        }
    }

    async fn answer_as(&self, follower: &str, queue: &Queue) -> anyhow::Result<()> {
        let mut questions = queue.client.subscribe(SUBJECT).await?;
        while let Some(question) = questions.next().await {
            let number = std::str::from_utf8(&question.payload).ok().and_then(|text| text.parse().ok());
            let (Some(number), Some(asker)) = (number, question.reply) else { continue };
            let bucket = question.headers.as_ref().and_then(|headers| headers.get(BUCKET));
            let bucket: Option<i128> = bucket.and_then(|bucket| bucket.as_str().parse().ok());
            let has =
                |applied: &Applied| bucket.is_none_or(|bucket| applied.bucket == bucket) && applied.revision >= number;
            let mut applied = self.applied();
            // Who asks does not wait longer either.
            let _ = tokio::time::timeout(APPLY_TIMEOUT, applied.wait_for(has)).await;
            let Applied { bucket, revision, .. } = *applied.borrow();
            let answer = Answer { follower: follower.to_owned(), revision, bucket: Some(bucket.to_string()) };
            queue.client.publish(asker, serde_json::to_vec(&answer)?.into()).await?;
        }
        Ok(())
    }
}
