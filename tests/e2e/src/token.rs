//! Tokens as the platform's identity provider would issue them.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// `SHOPERY_JWT_SECRET` of every stack.
pub const SECRET: &str = "the secret of the end-to-end suite, 32 bytes and more";

pub const ALL: &str = "webhooks:read webhooks:write events:write";

pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a good token.
pub fn claims(tenants: &[&str], scope: &str) -> Value {
    json!({ "sub": "e2e", "tenants": tenants, "scope": scope, "exp": unix_now() + 3600 })
}

pub fn mint(tenants: &[&str], scope: &str) -> String {
    sign(&claims(tenants, scope), Algorithm::HS256, SECRET)
}

pub fn sign(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}
