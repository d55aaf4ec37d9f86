//! Cookies of ours: sealed, so that a browser keeps for us what only we can read or make.

use axum::http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shopery_model::{Keyring, Sealed};

/// What browsers keep of a cookie is 4,096 bytes, name and attributes included.
const MAX_BYTES: usize = 4000;

#[derive(Debug)]
pub(crate) struct Cookie {
    pub(crate) name: &'static str,
    /// Ties the sealed text to what it is: one cookie cannot be sent in place of another.
    pub(crate) owner: &'static str,
    /// In seconds; without, it ends with the browser.
    pub(crate) max_age: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoCookie {
    TooLong,
    /// The operating system gave no random bytes, or the key failed.
    Ours,
}

impl Cookie {
    /// With the prefix a browser takes it over TLS alone, and from this very host.
    fn full_name(&self, is_secure: bool) -> String {
        let prefix = if is_secure { "__Host-" } else { "" };
        format!("{prefix}{}", self.name)
    }

    /// The header that sets it.
    pub(crate) fn set<T: Serialize>(&self, keys: &Keyring, held: &T, is_secure: bool) -> Result<HeaderValue, NoCookie> {
        let json = serde_json::to_vec(held).map_err(|_| NoCookie::Ours)?;
        let sealed = keys.seal_text(self.owner, json).map_err(|_| NoCookie::Ours)?;
        // Dots and base64 are what a cookie may hold (RFC 6265): encoded once more, a third less would fit.
        if sealed.stored().len() > MAX_BYTES {
            return Err(NoCookie::TooLong);
        }
        self.header(sealed.stored(), self.max_age, is_secure).ok_or(NoCookie::Ours)
    }

    /// What it holds, if it is one that we have set.
    pub(crate) fn read<T: DeserializeOwned>(&self, headers: &HeaderMap, keys: &Keyring, is_secure: bool) -> Option<T> {
        let name = self.full_name(is_secure);
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(given, _)| *given == name)?;
        let opened = keys.open_text(self.owner, &Sealed::of_stored(value.to_owned())).ok()?;
        serde_json::from_slice(&opened).ok()
    }

    /// The header that removes it.
    pub(crate) fn removed(&self, is_secure: bool) -> HeaderValue {
        self.header("", Some(0), is_secure).unwrap_or_else(|| HeaderValue::from_static(""))
    }

    fn header(&self, value: &str, max_age: Option<u32>, is_secure: bool) -> Option<HeaderValue> {
        let (name, secure) = (self.full_name(is_secure), if is_secure { "; Secure" } else { "" });
        let max_age = max_age.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
        // Lax: whoever follows a link to a page is signed in; a form of another site is not sent with it.
        let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{max_age}{secure}");
        let mut cookie = HeaderValue::from_str(&cookie).ok()?;
        cookie.set_sensitive(true);
        Some(cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    const ONE: Cookie = Cookie { name: "one", owner: "one", max_age: Some(600) };

    fn keys(byte: u8) -> Keyring {
        format!("k1:{}", STANDARD.encode([byte; 32])).parse().unwrap()
    }

    fn request(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, format!("other=1; {cookie}").parse().unwrap())])
    }

    #[test]
    fn a_cookie_is_read_where_it_was_made_for_and_nowhere_else() {
        let set = ONE.set(&keys(1), &"held", true).unwrap();
        let text = set.to_str().unwrap();
        assert!(text.starts_with("__Host-one=") && !text.contains("held"), "{text}");
        assert!(text.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=600; Secure"), "{text}");
        let (pair, _) = text.split_once(';').unwrap();
        let read =
            |cookie: &Cookie, pair: &str, keys, is_secure| cookie.read::<String>(&request(pair), &keys, is_secure);
        assert_eq!(read(&ONE, pair, keys(1), true).as_deref(), Some("held"));
        assert_eq!(read(&ONE, pair, keys(2), true), None);
        assert_eq!(read(&ONE, pair, keys(1), false), None);
        // Neither under another cookie's name, nor in its place.
        let two = Cookie { name: "two", owner: "two", max_age: None };
        assert_eq!(read(&two, &pair.replace("one=", "two="), keys(1), true), None);
        let changed = format!("{}A{}", &pair[..pair.len() - 5], &pair[pair.len() - 4..]);
        assert!(changed == pair || read(&ONE, &changed, keys(1), true).is_none());
    }

    #[test]
    fn a_browser_is_given_no_more_than_it_keeps() {
        assert!(ONE.set(&keys(1), &"x".repeat(2900), true).unwrap().len() < 4096);
        assert_eq!(ONE.set(&keys(1), &"x".repeat(3000), true), Err(NoCookie::TooLong));
    }
}
