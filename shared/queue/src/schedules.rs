//! A look at RETRY: what is scheduled on a subject.

use anyhow::Context as _;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;

use crate::{Queue, topology};

impl Queue {
    /// The body of the schedule on this subject of RETRY, or `None` if it has fired. The leader answers, so what was
    /// acknowledged is seen.
    pub async fn scheduled(&self, subject: &str) -> anyhow::Result<Option<Bytes>> {
        let retry = self.jetstream.get_stream_no_info(topology::RETRY).await?;
        match retry.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error).context("cannot read RETRY"),
        }
    }
}
