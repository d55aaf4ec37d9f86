use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::context::{PublishAckFuture, PublishError as NatsError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use serde::Serialize;
use shopery_model::{Event, TenantId};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::connection::MAX_OVERHEAD;
use crate::{Queue, subject, version};

/// A message on its way into a stream.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub subject: Subject,
    /// `Nats-Msg-Id`: within the stream's duplicate window it is stored once.
    pub id: Option<String>,
    /// Few: the server pays for each.
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// Why a message was not acknowledged by a stream. It may have been stored all the same: publish again with the same id.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the stream is full: {0}")]
    Full(String),
    /// The stream has room, but takes no more of this subject.
    #[error("the stream has all it may have of the subject: {0}")]
    SubjectFull(String),
    #[error("the stream cannot be reached: {0}")]
    Unavailable(String),
    #[error("the message is too large for NATS: {0}")]
    TooLarge(String),
    /// Of a message that was to be stored [`Outgoing::only_after`] another: it was not.
    #[error("another message has come before: {0}")]
    Overtaken(String),
}

impl Outgoing {
    pub fn new(subject: String, body: Bytes) -> Self {
        Self { subject: subject.into(), id: None, headers: version::header().into_iter().collect(), body }
    }

    /// An event on its way to EVENTS, which knows it by its source and id.
    pub fn event(tenant: &TenantId, event: &Event) -> Self {
        Self::new(subject::event(tenant, &event.resource), event.encode()).with_id(subject::event_id(
            tenant,
            &event.source,
            &event.id,
        ))
    }

    /// Later: the server publishes the message on `target` at `due`. Its own subject holds one schedule at a time;
    /// publishing there again replaces it.
    pub fn scheduled(mut self, due: OffsetDateTime, target: String) -> Self {
        // A time of this era always has an RFC 3339 form; without one it is due at once.
        let due = due.format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned());
        self.headers.push(("Nats-Schedule", format!("@at {due}")));
        self.headers.push(("Nats-Schedule-Target", target));
        self
    }

    /// Stored only if the last message on its subject is the one at this sequence; 0: if there is none.
    pub fn only_after(mut self, sequence: u64) -> Self {
        self.headers.push(("Nats-Expected-Last-Subject-Sequence", sequence.to_string()));
        self
    }

    pub fn with_id(mut self, id: String) -> Self {
        self.id = Some(id);
        self
    }
}

/// What DEAD holds: a message that nobody can use, and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dead<'a, Reason: Serialize> {
    subject: &'a str,
    problem: Reason,
    /// Those headers that are a part of the message's content.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    /// The start of the message as text; what is not UTF-8 in it is replaced.
    body: String,
    /// The size of the whole message.
    bytes: usize,
    /// It came from a service of ours.
    #[serde(skip)]
    is_ours: bool,
}

/// Kept of a dead message that came from outside, at most: it is evidence of what was wrong, and who sends much that is bad must not
/// take the room of others.
const DEAD_BODY: usize = 8 * 1024;
const DEAD_HEADERS: usize = 8 * 1024;

impl<Reason: Serialize> Dead<'_, Reason> {
    /// As JSON that a NATS server takes: where the whole is too large, less of the message is kept.
    fn encode(&self, max_payload: usize) -> Vec<u8> {
        let most = max_payload.saturating_sub(MAX_OVERHEAD);
        let mut kept = self.body.len();
        loop {
            let end = self.body.floor_char_boundary(kept);
            let shorter = Dead {
                subject: self.subject,
                problem: &self.problem,
                headers: self.headers.clone(),
                body: self.body[..end].to_owned(),
                bytes: self.bytes,
                is_ours: self.is_ours,
            };
            match serde_json::to_vec(&shorter) {
                Ok(json) if json.len() <= most || kept == 0 => return json,
                Ok(_) => kept /= 2,
                Err(error) => return error.to_string().into_bytes(),
            }
        }
    }
}

impl<'a, Reason: Serialize> Dead<'a, Reason> {
    /// A message of a service of ours: all of it, as far as NATS takes it.
    pub fn whole(subject: &'a str, problem: Reason, message: &[u8]) -> Self {
        let body = String::from_utf8_lossy(message).into_owned();
        Self { subject, problem, headers: Vec::new(), body, bytes: message.len(), is_ours: true }
    }

    /// A message that came from outside: its start.
    pub fn start_of(subject: &'a str, problem: Reason, message: &[u8]) -> Self {
        let start = &message[..message.len().min(DEAD_BODY)];
        Self { bytes: message.len(), is_ours: false, ..Self::whole(subject, problem, start) }
    }

    /// With headers, as many as there is room for.
    pub fn with_headers<N: Into<String>, V: Into<String>>(self, headers: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut room = DEAD_HEADERS;
        let headers = headers.into_iter().map(|(name, value)| (name.into(), value.into()));
        let fits = |(name, value): &(String, String)| {
            let bytes = name.len() + value.len();
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        };
        Self { headers: headers.take_while(fits).collect(), ..self }
    }
}

/// Maximum delay before a message is published again. A cluster without a leader refuses at once, and deliveries wait for
/// this longer than the election takes.
const MAX_RETRY_DELAY: Duration = Duration::from_millis(500);

impl Queue {
    /// Publishes and waits for the stream's acknowledgement. Many may be under way at once; each waits for its own.
    pub async fn publish(&self, message: &Outgoing) -> Result<PublishAck, PublishError> {
        self.noted(acked(self.jetstream.send_publish(message.subject.clone(), prepare(message)).await).await)
    }

    fn noted(&self, stored: Result<PublishAck, PublishError>) -> Result<PublishAck, PublishError> {
        match &stored {
            Ok(_) => self.doubt.set(false),
            Err(PublishError::Unavailable(_)) => self.doubt.set(true),
            Err(_) => {}
        }
        stored
    }

    /// Hands a message to the connection, in the order of the calls; [`Sent::stored`] waits for the acknowledgement.
    ///
    /// A bounded number of messages is under way, and each makes room when it is acknowledged, not when somebody asks for
    /// that: callers that have sent a part of what they have would otherwise wait for each other's room, for ever. (Windows
    /// of their own would only divide it.) The task ends with the acknowledgement's time-out at the latest.
    pub async fn send(&self, message: Outgoing) -> Sent {
        let ack = self.jetstream.send_publish(message.subject.clone(), prepare(&message)).await;
        let ack = ack.map(|ack| tokio::spawn(ack.into_future()));
        Sent { queue: self.clone(), message, ack }
    }

    /// Publishes again and again, with the same id, until the stream has it or `patience` ends.
    pub async fn publish_until_stored(
        &self,
        message: &Outgoing,
        patience: Duration,
    ) -> Result<PublishAck, PublishError> {
        let end = Instant::now() + patience;
        let mut pause = Duration::from_millis(50);
        loop {
            match self.publish(message).await {
                Err(error @ (PublishError::Full(_) | PublishError::Unavailable(_))) if Instant::now() + pause < end => {
                    tracing::debug!(subject = %message.subject, %error, "publishing again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_RETRY_DELAY);
                }
                done => return done,
            }
        }
    }

    /// Puts a message that nobody can use on DEAD, with the reason. `id` keeps a repeat from adding a second one.
    pub async fn dead_letter(
        &self,
        reason: &str,
        tenant: Option<&TenantId>,
        id: String,
        dead: &Dead<'_, impl Serialize>,
    ) -> Result<(), PublishError> {
        let body = dead.encode(self.max_payload());
        tracing::warn!(reason, tenant = tenant.map(TenantId::as_str), subject = dead.subject, "a message went to DEAD");
        // DEAD keeps a number of messages of each subject. Of ours it keeps all that it has room for.
        let mut subject = subject::dead(reason, tenant);
        if dead.is_ours {
            subject = format!("{subject}.{}", shopery_model::escape(&id));
        }
        let ack = self.publish(&Outgoing::new(subject, body.into()).with_id(id)).await?;
        if !ack.duplicate {
            self.dead.get_or_create(&[("reason", reason.to_owned())]).inc();
        }
        Ok(())
    }
}

/// A message on its way, acknowledged or not.
#[derive(Debug)]
pub struct Sent {
    queue: Queue,
    message: Outgoing,
    ack: Result<JoinHandle<Result<PublishAck, NatsError>>, NatsError>,
}

impl Sent {
    /// Waits until the stream has the message; publishes it again if need be, for as long as `patience`.
    pub async fn stored(self, patience: Duration) -> Result<PublishAck, PublishError> {
        match self.queue.noted(arrived(self.ack).await) {
            Err(PublishError::Full(_) | PublishError::Unavailable(_)) => {
                self.queue.publish_until_stored(&self.message, patience).await
            }
            done => done,
        }
    }

    /// What the stream says of it.
    pub async fn acked(self) -> Result<PublishAck, PublishError> {
        self.queue.noted(arrived(self.ack).await)
    }
}

async fn arrived(
    ack: Result<JoinHandle<Result<PublishAck, NatsError>>, NatsError>,
) -> Result<PublishAck, PublishError> {
    match ack.map_err(|error| classify(&error))?.await {
        Ok(ack) => ack.map_err(|error| classify(&error)),
        // Only while the runtime ends.
        Err(error) => Err(PublishError::Unavailable(error.to_string())),
    }
}

async fn acked(ack: Result<PublishAckFuture, NatsError>) -> Result<PublishAck, PublishError> {
    match ack {
        Ok(ack) => ack.await,
        Err(error) => Err(error),
    }
    .map_err(|error| classify(&error))
}

fn prepare(message: &Outgoing) -> PublishMessage {
    let mut publish = PublishMessage::build().payload(message.body.clone());
    for (name, value) in &message.headers {
        publish = publish.header(*name, value.as_str());
    }
    match &message.id {
        Some(id) => publish.message_id(id),
        None => publish,
    }
}

const SUBJECT_FULL: &str = "maximum messages per subject exceeded";

fn classify(error: &NatsError) -> PublishError {
    let refusal = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<jetstream::Error>());
    // The server has one code for all that it cannot store.
    if refusal.is_some_and(|refusal| refusal.to_string().contains(SUBJECT_FULL)) {
        return PublishError::SubjectFull(error.to_string());
    }
    match (error.kind(), refusal.map(jetstream::Error::error_code)) {
        (
            _,
            Some(
                ErrorCode::STREAM_STORE_FAILED
                | ErrorCode::INSUFFICIENT_RESOURCES
                | ErrorCode::STORAGE_RESOURCES_EXCEEDED
                | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
            ),
        ) => PublishError::Full(error.to_string()),
        (_, Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)) => {
            PublishError::Overtaken(error.to_string())
        }
        (PublishErrorKind::MaxPayloadExceeded, _) => PublishError::TooLarge(error.to_string()),
        _ => PublishError::Unavailable(error.to_string()),
    }
}
