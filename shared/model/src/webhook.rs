use std::collections::BTreeMap;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use url::Url;

use crate::{
    Credentials, Destination, EventPattern, EventType, Invalid, Keyring, Rules, Sealed, TenantId, Unopened, WebhookId,
};

const MAX_URL_BYTES: usize = 2048;
const MAX_NAME_CHARS: usize = 200;
const MAX_DESCRIPTION_CHARS: usize = 1000;
const MAX_METADATA: usize = 16;
const MAX_METADATA_NAME_CHARS: usize = 40;
const MAX_METADATA_VALUE_CHARS: usize = 500;

/// A tenant's webhook, as the data plane needs it: the value of a CONFIG entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    pub id: WebhookId,
    pub tenant: TenantId,
    #[serde(rename = "url")]
    pub destination: Destination,
    pub events: Vec<EventPattern>,
    pub is_enabled: bool,
    /// An entry of before there were keys has its secret here.
    #[serde(alias = "secret")]
    pub sealed: Sealed,
    /// What `sealed` holds, for whoever has opened it. In memory alone.
    #[serde(skip)]
    pub credentials: Option<Arc<Credentials>>,
    #[serde(default)]
    pub rules: Rules,
    /// What has waited since before this time is not to be sent.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub discard_before: Option<OffsetDateTime>,
    /// When its URL or secret was last changed, or it was enabled: since then it is another endpoint, which knows nothing
    /// of what was sent before. `None`: never.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub endpoint_since: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl Webhook {
    /// Whether an event of this type makes a delivery for this webhook. That of a disabled webhook waits.
    pub fn wants(&self, event_type: EventType) -> bool {
        self.events.iter().any(|pattern| pattern.matches(event_type))
    }

    /// Opens the credentials, without which nothing can be sent.
    pub fn open(&mut self, keys: &Keyring) -> Result<(), Unopened> {
        self.credentials = Some(Arc::new(keys.open(&self.tenant, self.id, &self.sealed)?));
        Ok(())
    }

    /// Whether a delivery can be sent now. If not, it waits.
    pub fn can_be_sent_to(&self) -> bool {
        self.is_enabled && self.credentials.is_some()
    }

    /// Whether a delivery of that time was made for the endpoint as it is now.
    pub fn is_same_endpoint_since(&self, at: OffsetDateTime) -> bool {
        self.endpoint_since.is_none_or(|since| since < at)
    }

    /// Whether what has waited since then is not to be sent any more.
    pub fn discards(&self, waiting_since: OffsetDateTime) -> bool {
        self.discard_before.is_some_and(|before| waiting_since < before)
    }
}

/// A name for people: 1 to 200 characters.
pub fn validate_name(name: &str) -> Result<(), Invalid> {
    let chars = name.chars().count();
    if name.trim().is_empty() || chars > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        return Err(Invalid::new("name", format!("must have 1 to {MAX_NAME_CHARS} characters that can be seen")));
    }
    Ok(())
}

/// What its owner says a webhook is for, on as many lines as it takes.
pub fn validate_description(text: &str) -> Result<(), Invalid> {
    let is_bad = |char: char| char.is_control() && !matches!(char, '\n' | '\r' | '\t');
    if text.chars().count() > MAX_DESCRIPTION_CHARS || text.chars().any(is_bad) {
        let detail = format!("must have at most {MAX_DESCRIPTION_CHARS} characters, none of them a control character");
        return Err(Invalid::new("description", detail));
    }
    Ok(())
}

/// The owner's own labels of a webhook. We keep them, and nothing follows from them.
pub fn validate_metadata(pairs: &BTreeMap<String, String>) -> Result<(), Invalid> {
    let is_seen = |text: &str, max: usize| text.chars().count() <= max && !text.chars().any(char::is_control);
    if pairs.len() > MAX_METADATA {
        return Err(Invalid::new("metadata", format!("must have at most {MAX_METADATA} members")));
    }
    for (name, value) in pairs {
        let field = || format!("metadata.{}", name.chars().take(MAX_METADATA_NAME_CHARS).collect::<String>());
        if name.is_empty() || !is_seen(name, MAX_METADATA_NAME_CHARS) {
            let detail = format!("its name must have 1 to {MAX_METADATA_NAME_CHARS} characters that can be seen");
            return Err(Invalid::new(field(), detail));
        }
        if !is_seen(value, MAX_METADATA_VALUE_CHARS) {
            let detail = format!("must have at most {MAX_METADATA_VALUE_CHARS} characters that can be seen");
            return Err(Invalid::new(field(), detail));
        }
    }
    Ok(())
}

/// The URL of an endpoint. What its host resolves to is judged when we connect, not here.
pub(crate) fn endpoint_url(text: &str, allow_http: bool) -> Result<Url, Invalid> {
    let invalid = |detail: &'static str| Invalid::new("url", detail);
    let too_long = || Invalid::new("url", format!("must have at most {MAX_URL_BYTES} bytes, as it is written in full"));
    if text.len() > MAX_URL_BYTES {
        return Err(too_long());
    }
    let url =
        Url::parse(text).map_err(|error| Invalid::new("url", format!("must be an absolute https:// URL: {error}")))?;
    // What had to be escaped has grown; it is stored, and shown, as it is now.
    if url.as_str().len() > MAX_URL_BYTES {
        return Err(too_long());
    }
    match url.scheme() {
        "https" => {}
        "http" if allow_http => {}
        "http" => return Err(invalid("must start with https://: a webhook is sent over TLS only")),
        _ => return Err(invalid("must start with https://")),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(invalid("must name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("must not contain a user name or password: verify the signature instead"));
    }
    if url.fragment().is_some() {
        return Err(invalid("must not contain a fragment (#…): it would never be sent"));
    }
    if url.port() == Some(0) {
        return Err(invalid("must not name port 0"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_https_url_is_taken() {
        for good in ["https://test.com/wh", "https://xn--bcher-kva.example:8443/a?b=c", "https://[2001:db8::1]/"] {
            assert!(endpoint_url(good, false).is_ok(), "{good}");
        }
        let long = format!("https://a.example/{}", "x".repeat(2048));
        let grows = format!("https://a.example/{}", "ö".repeat(1000));
        for bad in [
            "",
            "test.com/wh",
            "/wh",
            "http://test.com/wh",
            "ftp://test.com",
            "javascript:alert(1)",
            "https://",
            "https://user@test.com",
            "https://user:pass@test.com",
            "https://test.com/#here",
            "https://test.com:0/",
            "https://test.com:99999/",
            "https://a b.example/",
            long.as_str(),
            grows.as_str(),
        ] {
            assert_eq!(endpoint_url(bad, false).unwrap_err().field, "url", "{bad}");
        }
        assert!(endpoint_url("http://test.com/wh", true).is_ok());
    }

    #[test]
    fn a_name_is_seen() {
        assert!(validate_name("webhook test").is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(201)] {
            assert!(validate_name(bad).is_err(), "{bad:?}");
        }
    }
}
