//! What is secret of a webhook, and what a delivery proves itself with.

use serde::{Deserialize, Serialize};

use crate::EndpointSecret;

/// In memory where it is used, sealed where it is stored. `Debug` shows none of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Credentials {
    pub secret: EndpointSecret,
}

/// As it is sealed.
#[derive(Serialize, Deserialize)]
struct Text {
    secret: EndpointSecret,
}

impl Credentials {
    pub fn new(secret: EndpointSecret) -> Self {
        Self { secret }
    }

    /// The value of `webhook-signature` at a time in seconds since the Unix epoch.
    pub fn signatures(&self, webhook_id: &str, timestamp: i64, body: &[u8]) -> String {
        self.secret.sign(webhook_id, timestamp, body)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // Strings always serialise.
        serde_json::to_vec(&Text { secret: self.secret.clone() }).unwrap_or_default()
    }

    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let Text { secret } = serde_json::from_slice(text).ok()?;
        Some(Self { secret })
    }
}
