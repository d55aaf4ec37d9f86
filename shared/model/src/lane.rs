//! The two ways a job can take to the deliverers.

use std::fmt;

/// Deliverers take from the fast lane first, and always leave the bulk lane a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// What a tenant's events cause within its rate.
    Fast,
    /// The excess of a burst, an import, a recovery: it takes what the fast lane leaves.
    Bulk,
}

impl Lane {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
