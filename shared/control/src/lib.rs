//! What the services of the control plane share: the database, keeping CONFIG true to it, what tenants are
//! notified of, and putting a delivery back into the queue.

mod config;
pub mod database;
pub mod notification;
pub mod redelivery;
mod resource;
#[cfg(test)]
mod testing;
pub mod timestamp;

pub use config::{ConfigWriter, Written};
pub use resource::{Backlog, DestinationKindName, DisabledReasonName, WebhookResource, WebhookStateName};
