//! Clouds: event buses of Amazon EventBridge and topics of Google Cloud Pub/Sub.

#[expect(dead_code, reason = "what sends to clouds comes next")]
mod config;
mod tenant;

pub use config::Clouds;
pub use tenant::{bus_source, tenant_label};
