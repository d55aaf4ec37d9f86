//! The state that a router keeps of a partition.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use crate::duplicates::{Duplicates, Undelivered};
use crate::latest_states::LatestStates;

/// New whenever this process takes a partition over, because another router has routed its events before. An empty memory errs on
/// the side of sending.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) latest_states: LatestStates,
    /// `None` if no duplicates are dropped.
    pub(crate) duplicates: Option<Duplicates>,
    /// Another router may have routed events that were stored by then.
    pub(crate) since: Option<OffsetDateTime>,
}

impl Memory {
    /// `last_before`: when the last event was stored that another router may have routed, if there is any.
    pub(crate) fn since(
        last_before: Option<OffsetDateTime>,
        duplicate_window: Duration,
        undelivered: &Arc<Undelivered>,
    ) -> Self {
        Self {
            latest_states: LatestStates::since(last_before),
            duplicates: Duplicates::within(duplicate_window, undelivered),
            since: last_before,
        }
    }
}
