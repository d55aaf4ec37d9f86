//! A client of the REST API and of ingest, for the command line and the backoffice: what is repeated, and what an answer
//! means. Whoever uses it says who they are with each [`Request`], so one client may act for many people.
//!
//! Invariant: no error has a token in it, nor the URL of a request.

mod claims;
mod problem;
mod retry;

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ulid::Ulid;
use url::Url;

pub use claims::Claims;
pub use problem::{FieldError, Problem};
pub use reqwest::Method;

use crate::retry::Met;

/// A page of events has 4 MiB at most.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

pub const JSON: &str = "application/json";

/// How a client speaks HTTP.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    pub user_agent: &'a str,
    /// Of a connection, and of a whole request.
    pub connect_timeout: Duration,
    pub timeout: Duration,
    /// Certificates to trust besides the system's, as PEM.
    pub ca: Option<&'a [u8]>,
    /// Sent at most so often; [`TRIES`] is enough for most.
    pub tries: u32,
}

pub use crate::retry::TRIES;

/// Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    tries: u32,
}

/// Who asks, and whom. `Debug` shows no token.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub base: &'a Url,
    pub tenant: &'a str,
    pub token: &'a SecretString,
    /// For whom we ask, if that is somebody else: an API that trusts us counts the request for that address.
    pub forwarded_for: Option<IpAddr>,
}

#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<(&'static str, Bytes)>,
    if_match: Option<String>,
}

/// Why there is no answer that says yes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The API refuses: the same again will not help.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// The API cannot answer now: the same may work later.
    #[error("{}", .0.detail)]
    Busy(Box<Problem>),
    /// There was no answer, and why.
    #[error("{why}")]
    Unreachable { why: String, cause: Unreachable },
    #[error("what answered is not the API: is its URL right?")]
    NotTheApi,
    #[error("the URL of the API redirects ({0}): give the one it leads to")]
    Redirects(u16),
    #[error("the answer is larger than 64 MiB: ask for less at a time")]
    TooLarge,
    /// Something of the request has characters that a header cannot have.
    #[error("{0} has characters that it cannot have")]
    BadHeader(&'static str),
}

/// What whoever asks can do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    TooSlow,
    Certificate,
    Other,
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("has no certificate in PEM")]
    NoCertificate,
    #[error("TLS cannot be set up: {0}")]
    Tls(reqwest::Error),
}

impl Request {
    /// Each segment of the path is escaped by itself, so an id cannot lead elsewhere.
    pub fn new(method: Method, path: &[&str]) -> Self {
        let path = path.iter().map(|segment| (*segment).to_owned()).collect();
        Self { method, path, query: Vec::new(), body: None, if_match: None }
    }

    pub fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path)
    }

    #[must_use]
    pub fn query(mut self, query: &[(&'static str, String)]) -> Self {
        self.query.extend_from_slice(query);
        self
    }

    #[must_use]
    pub fn body(mut self, kind: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = Some((kind, body.into()));
        self
    }

    #[must_use]
    pub fn if_match(mut self, tag: Option<String>) -> Self {
        self.if_match = tag;
        self
    }

    /// Doing it twice is doing it once: a POST has a key, an event its id.
    fn is_repeatable(&self) -> bool {
        self.method == Method::GET || self.method == Method::POST
    }

    fn url(&self, base: &Url) -> Url {
        let mut url = base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(&self.path);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }

    fn headers(&self, caller: Caller<'_>) -> Result<HeaderMap, Error> {
        let mut authorization = header("the token", &format!("Bearer {}", caller.token.expose_secret()))?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization);
        headers.insert("X-tenant-ID", header("the tenant", caller.tenant)?);
        if let Some(address) = caller.forwarded_for {
            headers.insert("X-Forwarded-For", header("the address", &address.to_string())?);
        }
        if self.method == Method::POST {
            // The same for each try: what was done is not done again.
            headers.insert("Idempotency-Key", header("a key", &Ulid::generate().to_string())?);
        }
        if let Some(tag) = &self.if_match {
            headers.insert("If-Match", header("the etag", tag)?);
        }
        if let Some((kind, _)) = &self.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        Ok(headers)
    }
}

/// An answer that says yes.
#[derive(Debug, Clone)]
pub struct Answer {
    pub etag: Option<String>,
    /// The time of the API, which may not be that of this machine.
    pub date: Option<OffsetDateTime>,
    body: Bytes,
}

impl Answer {
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|_| Error::NotTheApi)
    }

    /// As it came.
    pub fn json(&self) -> Result<Box<RawValue>, Error> {
        self.read()
    }
}

impl Client {
    pub fn new(settings: &Settings<'_>) -> Result<Self, SettingsError> {
        let mut http = reqwest::Client::builder()
            .user_agent(settings.user_agent)
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false);
        if let Some(pem) = settings.ca {
            let roots = reqwest::Certificate::from_pem_bundle(pem).ok().filter(|roots| !roots.is_empty());
            http = http.tls_certs_merge(roots.ok_or(SettingsError::NoCertificate)?);
        }
        Ok(Self { http: http.build().map_err(SettingsError::Tls)?, tries: settings.tries })
    }

    /// Sends a request, again where that is safe and may help; gives the answer if it says yes. `waits` is told before each
    /// further try.
    pub async fn send(
        &self,
        caller: Caller<'_>,
        request: &Request,
        waits: impl Fn(Duration, &Error),
    ) -> Result<Answer, Error> {
        let (url, headers) = (request.url(caller.base), request.headers(caller)?);
        let (mut tries, mut was_lost) = (0, false);
        loop {
            tries += 1;
            let mut one = self.http.request(request.method.clone(), url.clone()).headers(headers.clone());
            if let Some((_, body)) = &request.body {
                one = one.body(body.clone());
            }
            let (met, error) = match attempt(one).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            was_lost |= met == Met::Lost;
            let pause = retry::pause(met, tries, request.is_repeatable(), was_lost);
            let Some(pause) = pause.filter(|_| tries < self.tries) else { return Err(error) };
            waits(pause, &error);
            tokio::time::sleep(jittered(pause)).await;
        }
    }
}

fn header(what: &'static str, text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Error::BadHeader(what))
}

async fn attempt(request: reqwest::RequestBuilder) -> Result<Answer, (Met, Error)> {
    let response = request.send().await.map_err(lost)?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = read(response).await?;
    if (200..300).contains(&status) {
        let date = named("date").and_then(|date| OffsetDateTime::parse(&date, &Rfc2822).ok());
        return Ok(Answer { etag: named("etag"), date, body });
    }
    let retry_after = named(RETRY_AFTER.as_str());
    let retry_after = retry_after.and_then(|value| retry::retry_after(&value, OffsetDateTime::now_utc()));
    let problem = Box::new(Problem::read(status, &body));
    let error = match status {
        408 | 429 | 500.. => Error::Busy(problem),
        300..400 => Error::Redirects(status),
        _ => Error::Refused(problem),
    };
    Err((Met::Answer { status, retry_after }, error))
}

async fn read(mut response: Response) -> Result<Bytes, (Met, Error)> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            let status = response.status().as_u16();
            return Err((Met::Answer { status, retry_after: None }, Error::TooLarge));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// No answer, and why: the cause at the bottom is what a person can mend.
fn lost(error: reqwest::Error) -> (Met, Error) {
    let met = if error.is_connect() { Met::Unsent } else { Met::Lost };
    let host = error.url().and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    let host = host.unwrap_or_else(|| "the API".to_owned());
    let what = match (error.is_connect(), error.is_timeout()) {
        (true, _) => format!("cannot reach {host}"),
        (_, true) => format!("{host} did not answer in time"),
        _ => format!("the connection to {host} broke"),
    };
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let why = if error.is_timeout() { what } else { format!("{what}: {cause}") };
    let cause = if error.is_timeout() && !error.is_connect() {
        Unreachable::TooSlow
    } else if why.contains("UnknownIssuer") || why.contains("certificate") {
        Unreachable::Certificate
    } else {
        Unreachable::Other
    };
    (met, Error::Unreachable { why, cause })
}

/// Up to a quarter longer, so that many clients do not come back at once.
fn jittered(pause: Duration) -> Duration {
    pause + pause.mul_f64(f64::from(Ulid::generate().random() as u16) / f64::from(u16::MAX) / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_nowhere_else_and_a_query_is_escaped() {
        let base: Url = "https://api.example/v1/".parse().unwrap();
        let request = Request::get(&["company", "webhooks", "../deliveries?x#y"]).query(&[("event", "a&b=c".into())]);
        assert_eq!(
            request.url(&base).as_str(),
            "https://api.example/v1/company/webhooks/..%2Fdeliveries%3Fx%23y?event=a%26b%3Dc"
        );
    }

    #[test]
    fn who_asks_is_in_the_headers_and_in_no_text() {
        let (base, token) = ("https://api.example".parse().unwrap(), SecretString::from("hunter2"));
        let caller = Caller { base: &base, tenant: "tnt_a", token: &token, forwarded_for: None };
        let headers = Request::post(&["company"]).headers(caller).unwrap();
        assert_eq!(
            (&headers["authorization"], &headers["x-tenant-id"]),
            (&"Bearer hunter2".parse().unwrap(), &"tnt_a".parse().unwrap())
        );
        assert!(headers.contains_key("idempotency-key"));
        assert!(!format!("{headers:?} {caller:?}").contains("hunter2"));
        let caller = Caller { tenant: "a\nb", ..caller };
        assert!(matches!(Request::get(&[]).headers(caller), Err(Error::BadHeader("the tenant"))));
    }
}
