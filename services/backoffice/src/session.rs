//! A session: whose token the API is asked with, sealed in a cookie that only we can open.

use axum::http::{HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use shopery_client::Claims;
use shopery_model::Keyring;
use time::{Duration, OffsetDateTime};

use crate::cookie::{Cookie, NoCookie};

const COOKIE: Cookie = Cookie { name: "shopery", owner: "shopery backoffice session", max_age: None };

#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) token: SecretString,
    pub(crate) tenant: String,
    /// What every form of this session carries.
    pub(crate) form_key: SecretString,
    /// The identity provider has a session too.
    pub(crate) is_of_provider: bool,
    pub(crate) claims: Claims,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    token: String,
    tenant: String,
    form_key: String,
    #[serde(default)]
    is_of_provider: bool,
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
    /// With the tenant that is asked for, that of the session `before` in the same browser, or the token's first.
    pub(crate) fn new(token: SecretString, tenant: Option<&str>, before: Option<&Self>) -> Result<Self, NoSession> {
        let claims = Claims::read(token.expose_secret()).ok_or(NoSession::NotAToken)?;
        let asked = tenant.filter(|tenant| !tenant.is_empty());
        let had = before.map(|before| before.tenant.as_str());
        let had = had.filter(|had| claims.tenants.iter().any(|tenant| tenant == had));
        let first = claims.tenants.first().map(String::as_str);
        let tenant = asked.or(had).or(first).ok_or(NoSession::NoTenant)?.to_owned();
        // Who signs in again may still send the pages that were open when the session ended; nobody else may.
        let same =
            before.filter(|before| before.tenant == tenant && claims.sub.is_some() && before.claims.sub == claims.sub);
        let form_key = match same {
            Some(before) => before.form_key.clone(),
            None => {
                let mut key = [0; 24];
                aws_lc_rs::rand::fill(&mut key).map_err(|_| NoSession::Ours)?;
                URL_SAFE_NO_PAD.encode(key).into()
            }
        };
        Ok(Self { token, tenant, form_key, is_of_provider: false, claims })
    }

    pub(crate) fn may_write(&self) -> bool {
        self.claims.scopes().contains(&"webhooks:write")
    }

    /// How long the token is good for yet, if it says so; nothing or less: the API would refuse it.
    pub(crate) fn left(&self, now: OffsetDateTime) -> Option<Duration> {
        self.claims.exp.map(|end| Duration::seconds(end.saturating_sub(now.unix_timestamp())))
    }

    pub(crate) fn is_over(&self, now: OffsetDateTime) -> bool {
        self.left(now).is_some_and(|left| !left.is_positive())
    }

    /// The header that begins the session.
    pub(crate) fn cookie(&self, keys: &Keyring, is_secure: bool) -> Result<HeaderValue, NoSession> {
        let stored = Stored {
            token: self.token.expose_secret().to_owned(),
            tenant: self.tenant.clone(),
            form_key: self.form_key.expose_secret().to_owned(),
            is_of_provider: self.is_of_provider,
        };
        COOKIE.set(keys, &stored, is_secure).map_err(|why| match why {
            NoCookie::TooLong => NoSession::TooLong,
            NoCookie::Ours => NoSession::Ours,
        })
    }

    /// The session of a request, if it has one that we have begun. It may be over.
    pub(crate) fn of(headers: &HeaderMap, keys: &Keyring, is_secure: bool) -> Option<Self> {
        let Stored { token, tenant, form_key, is_of_provider } = COOKIE.read(headers, keys, is_secure)?;
        let claims = Claims::read(&token)?;
        Some(Self { token: token.into(), tenant, form_key: form_key.into(), is_of_provider, claims })
    }
}

/// The header that ends a session.
pub(crate) fn ended(is_secure: bool) -> HeaderValue {
    COOKIE.removed(is_secure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header;
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
        let session = Session::new(token(r#"{"tenants":["a","b"],"scope":"webhooks:write"}"#), None, None).unwrap();
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
        let refused = |token: SecretString, tenant| Session::new(token, tenant, None).err();
        assert_eq!(refused("hunter2".into(), None), Some(NoSession::NotAToken));
        assert_eq!(refused(token("{}"), None), Some(NoSession::NoTenant));
        assert_eq!(refused(token("{}"), Some("a")), None);
        let long = format!(r#"{{"tenants":["a"],"x":"{}"}}"#, "x".repeat(4000));
        assert_eq!(
            Session::new(token(&long), None, None).unwrap().cookie(&keys(1), true).err(),
            Some(NoSession::TooLong)
        );
    }

    #[test]
    fn forms_outlive_a_session_for_the_same_person_and_tenant_alone() {
        let new = |claims, tenant, before| Session::new(token(claims), tenant, before).unwrap();
        let before = new(r#"{"sub":"ann","tenants":["a","b"],"exp":1000}"#, Some("b"), None);
        for (claims, tenant, taken, is_same) in [
            (r#"{"sub":"ann","tenants":["a","b"],"exp":2000}"#, None, "b", true),
            (r#"{"sub":"ann","tenants":["a","b"]}"#, Some(""), "b", true),
            (r#"{"sub":"ann","tenants":["a","b"]}"#, Some("a"), "a", false),
            (r#"{"sub":"ann","tenants":["a"]}"#, None, "a", false),
            (r#"{"sub":"bob","tenants":["a","b"]}"#, None, "b", false),
            (r#"{"tenants":["a","b"]}"#, None, "b", false),
        ] {
            let after = new(claims, tenant, Some(&before));
            let keeps = after.form_key.expose_secret() == before.form_key.expose_secret();
            assert_eq!((after.tenant.as_str(), keeps), (taken, is_same), "{claims}");
        }
    }

    #[test]
    fn a_session_is_over_when_its_token_is() {
        let session = |claims| Session::new(token(claims), None, None).unwrap();
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let ends = session(r#"{"tenants":["a"],"exp":1000.9}"#);
        assert_eq!([999, 1000, 1001].map(|now| ends.is_over(at(now))), [false, true, true]);
        assert_eq!(ends.left(at(400)), Some(Duration::seconds(600)));
        let endless = session(r#"{"tenants":["a"]}"#);
        assert!(!endless.is_over(at(i64::from(u32::MAX))) && endless.left(at(0)).is_none());
    }
}
