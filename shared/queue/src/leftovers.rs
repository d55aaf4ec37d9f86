//! Messages of a work queue that were acknowledged and are still there. A nats-server whose disk was full notes the
//! acknowledgement and cannot remove the message; after its restart the message is there, and nobody is given it.

use anyhow::Context as _;
use async_nats::jetstream::stream::LastRawMessageErrorKind;

use crate::Queue;
use crate::topology::Consumer;

/// Removed within one look.
const MAX_REMOVED: usize = 1000;

impl Queue {
    /// Removes what a consumer has acknowledged. Returns how many messages.
    pub async fn remove_leftovers(&self, consumer: &Consumer) -> anyhow::Result<usize> {
        // All up to the floor are acknowledged.
        let floor = consumer.info(self).await?.ack_floor.stream_sequence;
        let stream = self.jetstream.get_stream_no_info(consumer.stream).await?;
        let mut removed = 0;
        while removed < MAX_REMOVED {
            let first = match stream.get_first_raw_message_by_subject(consumer.filter, 1).await {
                Ok(message) => message.sequence,
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => break,
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", consumer.stream)),
            };
            if first > floor {
                break;
            }
            self.delete_message(consumer.stream, first).await?;
            removed += 1;
        }
        Ok(removed)
    }
}
