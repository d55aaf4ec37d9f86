//! A session: whose token the API is asked with, sealed in a cookie that only we can open.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use shopery_client::Claims;
use shopery_model::{Keyring, Sealed};

/// Ties the sealed text to what it is.
const OWNER: &str = "shopery backoffice session";
/// What browsers keep of a cookie is 4,096 bytes, name and attributes included.
const MAX_COOKIE: usize = 4000;

#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) token: SecretString,
    pub(crate) tenant: String,
    /// What every form of this session carries.
    pub(crate) form_key: SecretString,
    pub(crate) claims: Claims,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    token: String,
    tenant: String,
    form_key: String,
}

/// Why somebody cannot be signed in with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSession {
    NotAToken,
    NoTenant,
    TooLong,
    /// The operating system gave no random bytes, or the key failed.
    Ours,
}

impl Session {
    /// With the tenant that is asked for, or the token's first.
    pub(crate) fn new(token: SecretString, tenant: Option<&str>) -> Result<Self, NoSession> {
        let claims = Claims::read(token.expose_secret()).ok_or(NoSession::NotAToken)?;
        let tenant = match tenant.filter(|tenant| !tenant.is_empty()) {
            Some(tenant) => tenant.to_owned(),
            None => claims.tenants.first().cloned().ok_or(NoSession::NoTenant)?,
        };
        let mut key = [0; 24];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| NoSession::Ours)?;
        Ok(Self { token, tenant, form_key: URL_SAFE_NO_PAD.encode(key).into(), claims })
    }

    pub(crate) fn may_write(&self) -> bool {
        self.claims.scopes().contains(&"webhooks:write")
    }

    /// The header that begins the session.
    pub(crate) fn cookie(&self, keys: &Keyring, is_secure: bool) -> Result<HeaderValue, NoSession> {
        let stored = Stored {
            token: self.token.expose_secret().to_owned(),
            tenant: self.tenant.clone(),
            form_key: self.form_key.expose_secret().to_owned(),
        };
        let json = serde_json::to_vec(&stored).map_err(|_| NoSession::Ours)?;
        let sealed = keys.seal_text(OWNER, json).map_err(|_| NoSession::Ours)?;
        let value = URL_SAFE_NO_PAD.encode(sealed.stored());
        if value.len() > MAX_COOKIE {
            return Err(NoSession::TooLong);
        }
        set_cookie(&value, is_secure).ok_or(NoSession::Ours)
    }

    /// The session of a request, if it has one that we have begun.
    pub(crate) fn of(headers: &HeaderMap, keys: &Keyring, is_secure: bool) -> Option<Self> {
        let name = name(is_secure);
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(given, _)| *given == name)?;
        let sealed = Sealed::of_stored(String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok()?);
        let opened = keys.open_text(OWNER, &sealed).ok()?;
        let Stored { token, tenant, form_key } = serde_json::from_slice(&opened).ok()?;
        let claims = Claims::read(&token)?;
        Some(Self { token: token.into(), tenant, form_key: form_key.into(), claims })
    }
}

/// With this prefix a browser takes it over TLS alone, and from this very host.
fn name(is_secure: bool) -> &'static str {
    if is_secure { "__Host-shopery" } else { "shopery" }
}

fn set_cookie(value: &str, is_secure: bool) -> Option<HeaderValue> {
    let secure = if is_secure { "; Secure" } else { "" };
    // Lax: whoever follows a link to a page is signed in; a form of another site is not sent with it.
    let cookie = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}", name(is_secure));
    let mut cookie = HeaderValue::from_str(&cookie).ok()?;
    cookie.set_sensitive(true);
    Some(cookie)
}

/// The header that ends a session.
pub(crate) fn ended(is_secure: bool) -> HeaderValue {
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!("{}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0{secure}", name(is_secure));
    HeaderValue::from_str(&cookie).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    fn keys(byte: u8) -> Keyring {
        format!("k1:{}", STANDARD.encode([byte; 32])).parse().unwrap()
    }

    fn token(claims: &str) -> SecretString {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)).into()
    }

    fn request(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        HeaderMap::from_iter([(header::COOKIE, format!("other=1; {pair}").parse().unwrap())])
    }

    #[test]
    fn a_session_is_opened_by_its_own_keys_alone_and_shows_nothing() {
        let session = Session::new(token(r#"{"tenants":["a","b"],"scope":"webhooks:write"}"#), None).unwrap();
        assert_eq!((session.tenant.as_str(), session.may_write()), ("a", true));
        for is_secure in [true, false] {
            let cookie = session.cookie(&keys(1), is_secure).unwrap();
            let text = cookie.to_str().unwrap();
            assert!(text.contains("; HttpOnly; SameSite=Lax") && text.contains("; Secure") == is_secure, "{text}");
            assert!(!text.contains("e30"), "{text}");
            let read = Session::of(&request(&cookie), &keys(1), is_secure).unwrap();
            assert_eq!(read.form_key.expose_secret(), session.form_key.expose_secret());
            assert!(Session::of(&request(&cookie), &keys(2), is_secure).is_none());
            assert!(Session::of(&request(&cookie), &keys(1), !is_secure).is_none());
        }
        assert!(!format!("{session:?}").contains("c2ln"));
    }

    #[test]
    fn what_is_no_token_or_too_long_begins_no_session() {
        let refused = |token: SecretString, tenant| Session::new(token, tenant).err();
        assert_eq!(refused("hunter2".into(), None), Some(NoSession::NotAToken));
        assert_eq!(refused(token("{}"), None), Some(NoSession::NoTenant));
        assert_eq!(refused(token("{}"), Some("a")), None);
        let long = format!(r#"{{"tenants":["a"],"x":"{}"}}"#, "x".repeat(4000));
        assert_eq!(Session::new(token(&long), None).unwrap().cookie(&keys(1), true).err(), Some(NoSession::TooLong));
    }
}
