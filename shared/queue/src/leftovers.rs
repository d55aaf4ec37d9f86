//! Messages of a work queue that were acknowledged and are still there. A nats-server whose disk was full notes the
//! acknowledgement and cannot remove the message; after its restart the message is there, and nobody is given it.

use anyhow::Context as _;
use async_nats::jetstream::stream::LastRawMessageErrorKind;

use crate::Queue;
use crate::topology::Consumer;

/// Removed within one look.
const MAX_REMOVED: usize = 1000;

impl Queue {
    /// Removes what a consumer had acknowledged when this was asked for the last time, `before` being the answer of then.
    /// Returns up to where it has acknowledged by now, and how many messages were removed.
    ///
    /// Not what it has acknowledged by now: its removal may be under way.
    pub async fn remove_leftovers(&self, consumer: &Consumer, before: Option<u64>) -> anyhow::Result<(u64, usize)> {
        // All up to the floor are acknowledged.
        let floor = consumer.info(self).await?.ack_floor.stream_sequence;
        // It has decreased if NATS was emptied.
        let Some(end) = before.map(|before| before.min(floor)) else { return Ok((floor, 0)) };
        let stream = self.jetstream.get_stream_no_info(consumer.stream).await?;
        let mut removed = 0;
        for _ in 0..MAX_REMOVED {
            let first = match stream.get_first_raw_message_by_subject(consumer.filter, 1).await {
                Ok(message) => message.sequence,
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => break,
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", consumer.stream)),
            };
            if first > end {
                break;
            }
            removed += usize::from(self.delete_message(consumer.stream, first).await?);
        }
        Ok((floor, removed))
    }
}
