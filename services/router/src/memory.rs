//! What is remembered of the tenants of a partition.

use std::sync::Arc;
use std::time::Duration;

use crate::duplicates::{Duplicates, Undelivered};
use crate::latest_states::LatestStates;

/// Begun anew whenever this process takes a partition over: what another has routed meanwhile is not known here. It then errs on
/// the side of sending.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) latest_states: LatestStates,
    /// `None`: nothing is dropped.
    pub(crate) duplicates: Option<Duplicates>,
}

impl Memory {
    pub(crate) fn new(duplicate_window: Duration, undelivered: &Arc<Undelivered>) -> Self {
        Self { latest_states: LatestStates::new(), duplicates: Duplicates::within(duplicate_window, undelivered) }
    }
}
