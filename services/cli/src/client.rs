//! The client, as the command line has it: where it leads and who we are come from a login, from variables, or from options.

use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use shopery_client::{Caller, Error, JSON as JSON_TYPE, Settings, SettingsError, TRIES};
use url::Url;

use crate::config::Config;
use crate::failure::Failure;
use crate::terminal::plain_lines;

pub use shopery_client::Answer;

const CONNECT: Duration = Duration::from_secs(10);
/// A wait that is worth telling of.
const LONG: Duration = Duration::from_secs(1);

pub const JSON: &str = JSON_TYPE;

/// `Debug` shows no token.
#[derive(Debug)]
pub struct Client {
    http: shopery_client::Client,
    api_url: Option<Url>,
    ingest_url: Option<Url>,
    tenant: Option<String>,
    token: Option<SecretString>,
}

/// A request, and which of the two it is for.
#[derive(Debug)]
pub struct Request {
    is_for_ingest: bool,
    request: shopery_client::Request,
}

impl Request {
    pub fn new(method: Method, path: &[&str]) -> Self {
        Self { is_for_ingest: false, request: shopery_client::Request::new(method, path) }
    }

    pub fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path)
    }

    pub fn ingest(self) -> Self {
        Self { is_for_ingest: true, ..self }
    }

    pub fn query(self, query: &[(&'static str, String)]) -> Self {
        Self { request: self.request.query(query), ..self }
    }

    pub fn body(self, kind: &'static str, body: impl Into<bytes::Bytes>) -> Self {
        Self { request: self.request.body(kind, body), ..self }
    }

    pub fn if_match(self, tag: Option<String>) -> Self {
        Self { request: self.request.if_match(tag), ..self }
    }
}

impl Client {
    pub fn new(config: Config) -> Result<Self, Failure> {
        let wrong =
            |path: &std::path::Path, why: String| Failure::usage(format!("the CA file {} {why}", path.display()));
        let read = |path: &std::path::PathBuf| {
            std::fs::read(path).map_err(|error| wrong(path, format!("cannot be read: {error}")))
        };
        let ca = config.ca.as_ref().map(read).transpose()?;
        let settings = Settings {
            user_agent: concat!("shopery-cli/", env!("CARGO_PKG_VERSION")),
            connect_timeout: CONNECT.min(config.timeout),
            timeout: config.timeout,
            ca: ca.as_deref(),
            tries: TRIES,
        };
        let http = shopery_client::Client::new(&settings).map_err(|error| match (&error, &config.ca) {
            (SettingsError::NoCertificate, Some(path)) => wrong(path, error.to_string()),
            _ => Failure::failed(error.to_string()),
        })?;
        let Config { api_url, ingest_url, tenant, token, .. } = config;
        Ok(Self { http, api_url, ingest_url, tenant, token: token.map(|(token, _)| token) })
    }

    /// Sends a request, again where that is safe and may help; gives the answer if it says yes.
    pub async fn send(&self, request: Request) -> Result<Answer, Failure> {
        let caller = self.caller(request.is_for_ingest)?;
        let waits = |pause: Duration, error: &Error| {
            if pause >= LONG {
                let why = Failure::from(error.clone()).to_string();
                eprintln!("waiting {} s, then trying again: {}", pause.as_secs(), plain_lines(&why));
            }
        };
        Ok(self.http.send(caller, &request.request, waits).await?)
    }

    fn caller(&self, is_for_ingest: bool) -> Result<Caller<'_>, Failure> {
        let (base, option, variable) = if is_for_ingest {
            (&self.ingest_url, "--ingest-url", "SHOPERY_INGEST_URL")
        } else {
            (&self.api_url, "--api-url", "SHOPERY_API_URL")
        };
        let nowhere = || Failure::usage(format!("which URL? `shopery login`, {variable} or {option} says it"));
        let nobody = || Failure::usage("who are you? `shopery login`, or SHOPERY_TOKEN");
        let nothing = || Failure::usage("which tenant? `shopery login`, SHOPERY_TENANT or --tenant");
        Ok(Caller {
            base: base.as_ref().ok_or_else(nowhere)?,
            token: self.token.as_ref().ok_or_else(nobody)?,
            tenant: self.tenant.as_deref().ok_or_else(nothing)?,
            forwarded_for: None,
        })
    }
}
