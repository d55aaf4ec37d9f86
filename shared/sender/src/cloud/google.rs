//! Tokens of Google.
//!
//! The key of a service account signs its own token (a "self-signed JWT"), so there is no token endpoint to be away. Where the key
//! file says that tokens are to be had is not looked at: we would connect to whatever a tenant names there.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use shopery_model::{Fault, GoogleKey, SecretText};
use time::OffsetDateTime;
use tokio::time::Instant;
use url::Url;

use super::TIMEOUT;
use super::client::Client;
use super::config::{GooglePrincipal, read_key_file};
use super::refusal::Refusal;
use super::renewal::Source;
use crate::failure::SenderFault;

/// Whom a token is for.
const AUDIENCE: &str = "https://pubsub.googleapis.com/";
/// The longest life of a token that Google takes.
const LIFE: Duration = Duration::from_secs(60 * 60);
/// How much earlier it begins, for clocks that are behind ours.
const LEEWAY: Duration = Duration::from_secs(30);
const ACCOUNT: &str = "computeMetadata/v1/instance/service-accounts/default/";

/// Where the tokens of one service account come from.
#[derive(Debug)]
pub(crate) struct TokenSource {
    pub(crate) client: Client,
    pub(crate) account: Account,
}

#[derive(Debug)]
pub(crate) enum Account {
    Platform(GooglePrincipal),
    /// Of a merchant.
    Own(GoogleKey),
}

impl Source for TokenSource {
    /// Of the header `Authorization`.
    type Value = HeaderValue;
    type Error = Refusal;

    async fn fetch(&self) -> Result<(HeaderValue, Instant), Refusal> {
        let token = match &self.account {
            Account::Own(key) => {
                return signed(key, OffsetDateTime::now_utc()).map_err(|why| Refusal::new(Fault::AccessDenied, why));
            }
            Account::Platform(GooglePrincipal::KeyFile { path, .. }) => {
                // Read anew, since it may have been replaced.
                read_key_file(path).and_then(|key| signed(&key, OffsetDateTime::now_utc()).map_err(str::to_owned))
            }
            Account::Platform(GooglePrincipal::Metadata { url, email }) => self.of_this_host(url, email).await,
        };
        token.map_err(|why| {
            tracing::error!("there is no token of the platform's service account at Google: {why}");
            Refusal::ours(SenderFault::CloudCredentials)
        })
    }
}

impl TokenSource {
    /// Of the metadata server. The name of the account is noted, if it is not known yet.
    async fn of_this_host(&self, url: &Url, email: &OnceLock<String>) -> Result<(HeaderValue, Instant), String> {
        #[derive(Deserialize)]
        struct Given {
            access_token: SecretText,
            expires_in: u64,
        }
        if email.get().is_none() {
            let name = self.ask(url, "email").await?;
            let name = std::str::from_utf8(&name).unwrap_or_default().trim();
            if name.contains('@') && name.bytes().all(|byte| byte.is_ascii_graphic()) {
                email.get_or_init(|| name.to_owned());
            }
        }
        let given = self.ask(url, "token").await?;
        let given: Given = serde_json::from_slice(&given)
            .map_err(|_| "the answer of the metadata server cannot be read".to_owned())?;
        let life = Duration::from_secs(given.expires_in).min(LIFE * 24);
        let bearer = bearer(given.access_token.expose()).map_err(str::to_owned)?;
        Ok((bearer, Instant::now() + life))
    }

    async fn ask(&self, url: &Url, what: &str) -> Result<Bytes, String> {
        let request = Request::get(format!("{url}{ACCOUNT}{what}")).header("metadata-flavor", "Google");
        let request = request.body(Bytes::new()).map_err(|error| error.to_string())?;
        let response = self.client.send(request, Instant::now() + TIMEOUT).await;
        let response = response.map_err(|refusal| format!("the metadata server: {}", refusal.in_words()))?;
        if !response.status.is_success() {
            return Err(format!("the metadata server answered {}", response.status.as_u16()));
        }
        Ok(response.body)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, &'static str> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "the token is none")?;
    value.set_sensitive(true);
    Ok(value)
}

/// A token that the account's own key has signed, and when it ends.
fn signed(key: &GoogleKey, now: OffsetDateTime) -> Result<(HeaderValue, Instant), &'static str> {
    #[derive(Serialize)]
    struct Claims<'a> {
        iss: &'a str,
        sub: &'a str,
        aud: &'static str,
        iat: i64,
        exp: i64,
    }
    let unusable = "the private key cannot be used: it must be the RSA key of the key file";
    let private = EncodingKey::from_rsa_pem(key.private_key.expose().as_bytes()).map_err(|_| unusable)?;
    let header = Header { kid: Some(key.private_key_id.clone()), ..Header::new(Algorithm::RS256) };
    let begun = now - LEEWAY;
    let email = key.client_email.as_str();
    let claims = Claims {
        iss: email,
        sub: email,
        aud: AUDIENCE,
        iat: begun.unix_timestamp(),
        exp: (begun + LIFE).unix_timestamp(),
    };
    let token = jsonwebtoken::encode(&header, &claims, &private).map_err(|_| unusable)?;
    Ok((bearer(&token)?, Instant::now() + LIFE - LEEWAY))
}
