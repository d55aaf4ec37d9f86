// Verifies a webhook of Shopery. cargo add base64@0.22 hmac@0.13 sha2@0.11
use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const TOLERANCE: u64 = 5 * 60; // seconds

fn secret() -> Option<String> {
    std::env::var("SHOPERY_WEBHOOK_SECRET").ok()
}

/// `header` gives the value of a header; `body` is the bytes as they came, before any parsing.
/// An error says why the message is not to be trusted.
pub fn verify<'a>(header: impl Fn(&str) -> Option<&'a str>, body: &[u8]) -> Result<(), &'static str> {
    let id = header("webhook-id").ok_or("webhook-id is missing")?;
    let timestamp = header("webhook-timestamp").ok_or("webhook-timestamp is missing")?;
    let signatures = header("webhook-signature").ok_or("webhook-signature is missing")?;
    let sent_at: u64 = timestamp.parse().map_err(|_| "the timestamp is no number")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| "the clock is wrong")?.as_secs();
    if now.abs_diff(sent_at) > TOLERANCE {
        return Err("the timestamp is too far from now");
    }

    let secret = secret().ok_or("there is no secret")?;
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).map_err(|_| "the secret is no base64")?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|_| "the secret is no key")?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    // While a secret is rotated there are several signatures: one of them must be ours.
    let given = signatures.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
    // verify_slice takes constant time.
    let is_ours = !key.is_empty() && given.into_iter().any(|given| mac.clone().verify_slice(&given).is_ok());
    if is_ours { Ok(()) } else { Err("no signature is of this secret") }
}
