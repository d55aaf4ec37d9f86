use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::Queue;

/// How long a message of a newer version waits for a service that supports it, before it is offered again.
const TOO_NEW_DELAY: Duration = Duration::from_secs(5);

/// A message to work on, and the slot that it occupies until it is dropped.
#[derive(Debug)]
pub struct Taken {
    pub message: Message,
    pub slot: OwnedSemaphorePermit,
}

/// A message of a consumer. It comes again, here or elsewhere, until it is acknowledged.
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) message: async_nats::Message,
    pub(crate) queue: Queue,
    pub(crate) received: Instant,
}

/// What a stream says of a message in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
    pub stream: &'a str,
    pub consumer: &'a str,
    /// How often it was delivered, this time included.
    pub tries: u32,
    pub sequence: u64,
    pub at: OffsetDateTime,
}

/// The subject that a message of a consumer is acknowledged on says nothing that we understand.
#[derive(Debug, thiserror::Error)]
#[error("the message did not come from a stream: its reply subject is {0:?}")]
pub struct NotStored(String);

impl Message {
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    pub fn headers(&self) -> Option<&HeaderMap> {
        self.message.headers.as_ref()
    }

    pub fn core(&self) -> &async_nats::Message {
        &self.message
    }

    /// Where the stream holds it, and since when.
    pub fn stored(&self) -> Result<Stored<'_>, NotStored> {
        let reply = self.message.reply.as_deref().unwrap_or_default();
        parse(reply).ok_or_else(|| NotStored(reply.to_owned()))
    }

    /// The work is done. The acknowledgement is handed to the connection; should it be lost, the work is repeated.
    pub async fn ack(&self) {
        self.answer(Bytes::from_static(b"+ACK")).await;
    }

    /// The work goes on: `ack_wait` begins anew.
    pub async fn progress(&self) {
        self.answer(Bytes::from_static(b"+WPI")).await;
    }

    /// The message is redelivered at once, to another process.
    pub(crate) async fn nak(&self) {
        self.answer(Bytes::from_static(b"-NAK")).await;
    }

    /// The same after a delay.
    pub(crate) async fn nak_after(&self, delay: Duration) {
        self.answer(format!(r#"-NAK {{"delay": {}}}"#, delay.as_nanos()).into()).await;
    }

    /// The message is redelivered until a service that supports its version takes it.
    pub(crate) async fn nak_too_new(&self) {
        self.nak_after(TOO_NEW_DELAY).await;
    }

    async fn answer(&self, word: Bytes) {
        if let Some(reply) = self.message.reply.clone()
            && let Err(error) = self.queue.client.publish(reply, word).await
        {
            tracing::warn!(%error, subject = self.subject(), "cannot acknowledge a message; it comes again");
        }
    }
}

/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<nanoseconds>.<pending>`; servers may
/// put a domain and an account hash before the stream, and more behind.
fn parse(reply: &str) -> Option<Stored<'_>> {
    let tokens: Vec<_> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let rest = if tokens.len() > 7 { tokens.get(2..)? } else { &tokens };
    let nanos: i128 = rest.get(5)?.parse().ok()?;
    Some(Stored {
        stream: rest.first()?,
        consumer: rest.get(1)?,
        tries: rest.get(2)?.parse().ok()?,
        sequence: rest.get(3)?.parse().ok()?,
        at: OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_message_is_read_from_its_reply_subject() {
        let at = time::macros::datetime!(2026-11-24 10:00:00.5 UTC);
        let nanos = at.unix_timestamp_nanos();
        for reply in [
            format!("$JS.ACK.EVENTS.router.1.42.7.{nanos}.0"),
            format!("$JS.ACK._.hash.EVENTS.router.1.42.7.{nanos}.0.token"),
        ] {
            assert_eq!(
                parse(&reply),
                Some(Stored { stream: "EVENTS", consumer: "router", tries: 1, sequence: 42, at }),
                "{reply}"
            );
        }
        for reply in ["", "_INBOX.x", "$JS.ACK.EVENTS.router.1.x.7.1.0", "$JS.ACK.EVENTS"] {
            assert_eq!(parse(reply), None, "{reply}");
        }
    }
}
