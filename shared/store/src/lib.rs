//! What is kept in SQL: the webhooks, and the history of deliveries. SQLite and PostgreSQL, by one code.
//!
//! The control plane alone comes here; the data plane never does. Every query names the tenant: a row of another tenant
//! is as good as none. Times are stored as milliseconds since the Unix epoch, so that both databases compare them alike.

mod carriers;
mod changes;
mod connect;
mod entity;
mod health;
mod history;
mod idempotency;
mod migration;
mod notices;
mod outbox;
mod page;
mod partitions;
mod recoveries;
mod recovery_turns;
mod retention;
mod rollups;
mod sql;
mod webhooks;

pub use changes::{Author, ChangeRecord, FieldChange};
pub use connect::{Store, StoreError};
pub use health::Noted;
pub use history::{AttemptRecord, DeliveryFilter, DeliveryRecord, SortOrder};
pub use idempotency::{Answered, Claim, Keyed};
pub use notices::{CircuitNotice, PendingFailure, PendingFailures};
pub use outbox::PendingChange;
pub use page::{Cursor, Page, Times};
pub use recoveries::{RecoveryRecord, RecoveryState};
pub use recovery_turns::{ItemState, Recoverable, RecoveryItem, RecoveryPage, RecoveryTurn};
pub use rollups::{Counts, Recorded, Windows};
pub use webhooks::{DisabledReason, Resealed, UnreadableWebhook, WebhookChange, WebhookRecord, WebhookState};

use time::OffsetDateTime;

fn to_millis(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

fn from_millis(millis: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
