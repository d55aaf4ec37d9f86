//! Which debounced bursts were begun: the bucket BURSTS has the id of the delivery of each. A router asks it whether it begins
//! with an event for the first time.

use bytes::Bytes;
use shopery_model::DeliveryId;

use crate::{Outgoing, PublishError, Queue, topology};

impl Queue {
    /// Notes that a burst begins; false if that was noted before. An entry is forgotten after [`topology::BURSTS_MAX_AGE`].
    pub async fn note_burst(&self, delivery: DeliveryId) -> Result<bool, PublishError> {
        let key = format!("$KV.{}.{delivery}", topology::BURSTS);
        match self.publish(&Outgoing::new(key, Bytes::new()).only_after(0)).await {
            Ok(_) => Ok(true),
            Err(PublishError::Overtaken(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
