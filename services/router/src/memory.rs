//! The state that a router keeps of a partition.

use std::sync::Arc;
use std::time::Duration;

use crate::duplicates::{Duplicates, Undelivered};
use crate::latest_states::LatestStates;

/// New whenever this process takes a partition over, because another router has routed its events before. An empty memory errs on
/// the side of sending.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) latest_states: LatestStates,
    /// `None` if no duplicates are dropped.
    pub(crate) duplicates: Option<Duplicates>,
}

impl Memory {
    pub(crate) fn new(duplicate_window: Duration, undelivered: &Arc<Undelivered>) -> Self {
        Self { latest_states: LatestStates::new(), duplicates: Duplicates::within(duplicate_window, undelivered) }
    }
}
