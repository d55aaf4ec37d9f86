use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

/// The merchant of the demo.
pub const TENANT: &str = "tnt_demo";

const LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A token that lets its bearer do everything for [`TENANT`], for 30 days.
pub fn token(secret: &str) -> anyhow::Result<String> {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH)? + LIFE;
    let claims = json!({
        "sub": "shopery-local",
        "tenants": [TENANT],
        "scope": "webhooks:read webhooks:write events:write",
        "exp": expires.as_secs(),
    });
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))
        .context("cannot make a token")
}
