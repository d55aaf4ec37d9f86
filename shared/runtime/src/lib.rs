//! What every service of ours stands on: its configuration, its logs and traces, its metrics, whether it is ready, and
//! how it stops. A service differs from the others in its `Config` and its `run` alone.

mod env;
mod health;
mod metrics;
mod recent;
pub mod service;
mod shutdown;
pub mod telemetry;

pub use env::Env;
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
}
