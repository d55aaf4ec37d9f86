//! Messages of a work queue that were acknowledged and are still there. A nats-server whose disk was full notes the
//! acknowledgement and cannot remove the message; after its restart the message is there, and nobody is given it.

use anyhow::Context as _;
use async_nats::jetstream::stream::LastRawMessageErrorKind;

use crate::Queue;
use crate::topology::Consumer;

impl Queue {
    /// Removes what a consumer had acknowledged when this was asked for the last time, `before` being the answer of then.
    /// Returns up to where it has acknowledged by now, and how many messages were removed.
    ///
    /// Not what it has acknowledged by now: its removal may be under way.
    pub async fn remove_leftovers(&self, consumer: &Consumer, before: Option<u64>) -> anyhow::Result<(u64, u64)> {
        // All up to the floor are acknowledged.
        let floor = consumer.info(self).await?.ack_floor.stream_sequence;
        // It has decreased if NATS was emptied.
        let Some(end) = before.map(|before| before.min(floor)) else { return Ok((floor, 0)) };
        let stream = self.jetstream.get_stream_no_info(consumer.stream).await?;
        let first = match stream.get_first_raw_message_by_subject(consumer.filter, 1).await {
            Ok(message) => message.sequence,
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok((floor, 0)),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", consumer.stream)),
        };
        if first > end {
            return Ok((floor, 0));
        }
        // At once: one by one, those of a long outage were there for minutes, and counted as work that waits.
        let purge = stream.purge().filter(consumer.filter).sequence(end.saturating_add(1));
        let purged = purge.await.with_context(|| format!("cannot purge {}", consumer.stream))?;
        Ok((floor, purged.purged))
    }
}
