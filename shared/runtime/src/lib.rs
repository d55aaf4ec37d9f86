//! What every service of ours stands on: its configuration, its logs and traces, its metrics, whether it is ready, and
//! how it stops. A service differs from the others in its `Config` and its `run` alone.

mod descriptors;
mod env;
mod files;
mod health;
mod metrics;
mod recent;
mod repeats;
pub mod service;
mod shutdown;
mod tasks;
pub mod telemetry;

pub use descriptors::{descriptors, raise_descriptors};
pub use env::Env;
pub use files::make_files_private;
pub use health::{Health, Starting};
pub use metrics::{Counts, Metrics, latency_buckets};
pub use recent::Recent;
pub use shutdown::Shutdown;

/// What a service is handed when it starts. Clones are the same one: services that share a process share it.
#[derive(Debug, Clone, Default)]
pub struct Runtime {
    pub metrics: Metrics,
    pub health: Health,
    pub shutdown: Shutdown,
    pub(crate) failure: tasks::Failure,
}

impl Runtime {
    /// One whose drain begins with that of this one, and can begin alone.
    pub fn term(&self) -> Self {
        Self { shutdown: self.shutdown.child(), ..self.clone() }
    }
}
