//! The queue: what passes between the services, and how.
//!
//! Everything that two services must agree on is here: the streams and their limits ([`topology`]), the subjects
//! ([`subject`]), how a message is published ([`Queue::publish`]) and how work is pulled and acknowledged ([`Intake`]),
//! and the webhooks that the control plane makes known ([`WebhookCache`]).
//!
//! Invariant: an input is acknowledged only after its output was. A crash repeats work and loses none.

mod ages;
mod bursts;
mod circuits;
mod clock;
mod config_subscribers;
mod connection;
mod disposition;
mod event_types;
mod events_check;
mod feed;
mod given_up;
#[cfg(test)]
mod golden_tests;
mod intake;
mod lease;
mod leftovers;
mod message;
mod meter;
mod outcomes;
mod pacer;
mod parked;
mod partition;
mod partitions;
mod progress;
mod publish;
mod schedules;
mod states;
pub mod subject;
pub mod topology;
pub mod trace;
mod version;
mod webhook_cache;

pub use ages::{Age, Waiting, watch_ages};
pub use circuits::Circuits;
pub use clock::now;
pub use config_subscribers::{ConfigSubscribers, Revision};
pub use connection::{Config, Link, Queue};
pub use disposition::Disposition;
pub use feed::{Feed, FeedStart, Held, ReverseFeed, StoredEvent};
pub use given_up::HeldEvent;
pub use intake::Intake;
pub use lease::Lease;
pub use message::{Message, NotStored, Stored, Taken};
pub use meter::{Meter, read_allowance};
pub use outcomes::{Outcomes, store_outcomes};
pub use pacer::Pacer;
pub use parked::{Parked, ParkedJob};
pub use partition::Partition;
pub use partitions::Partitions;
pub use progress::{OrderedRetry, Progress, SentState, newest};
pub use publish::{Dead, Outgoing, PublishError, Sent};
pub use schedules::Schedule;
pub use shopery_runtime::Recent;
pub use states::{NewerStates, REPUBLISHED, State, republished};
pub use webhook_cache::{Applied, COMPLETE, Lookup, WebhookCache, read_keyring};
