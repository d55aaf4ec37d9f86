//! HTTP to the API and to ingest: who we are, what is repeated, and what an answer means.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ulid::Ulid;
use url::Url;

use crate::config::Config;
use crate::failure::Failure;
use crate::problem::Problem;
use crate::retry::{self, Met};
use crate::terminal::plain_lines;

const CONNECT: Duration = Duration::from_secs(10);
/// A page of events has 4 MiB at most.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// A wait that is worth telling of.
const LONG: Duration = Duration::from_secs(1);

pub const JSON: &str = "application/json";

/// `Debug` shows no token.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    api_url: Option<Url>,
    ingest_url: Option<Url>,
    tenant: Option<String>,
    token: Option<SecretString>,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Api,
    Ingest,
}

#[derive(Debug)]
pub struct Request {
    to: To,
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<(&'static str, Bytes)>,
    if_match: Option<String>,
}

impl Request {
    /// Each segment of the path is escaped by itself, so an id cannot lead elsewhere.
    pub fn new(method: Method, path: &[&str]) -> Self {
        let path = path.iter().map(|segment| (*segment).to_owned()).collect();
        Self { to: To::Api, method, path, query: Vec::new(), body: None, if_match: None }
    }

    pub fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path)
    }

    pub fn ingest(mut self) -> Self {
        self.to = To::Ingest;
        self
    }

    pub fn query(mut self, query: &[(&'static str, String)]) -> Self {
        self.query.extend_from_slice(query);
        self
    }

    pub fn body(mut self, kind: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = Some((kind, body.into()));
        self
    }

    pub fn if_match(mut self, tag: Option<String>) -> Self {
        self.if_match = tag;
        self
    }

    /// Doing it twice is doing it once: a POST has a key, an event its id.
    fn is_repeatable(&self) -> bool {
        self.method == Method::GET || self.method == Method::POST
    }
}

/// An answer that says yes.
#[derive(Debug)]
pub struct Answer {
    pub etag: Option<String>,
    /// The time of the API, which may not be that of this machine.
    pub date: Option<OffsetDateTime>,
    body: Bytes,
}

impl Answer {
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|_| {
            Failure::Unavailable("what answered is not the API: is its URL right? (SHOPERY_API_URL, --api-url)".into())
        })
    }

    /// As it came.
    pub fn json(&self) -> Result<Box<RawValue>, Failure> {
        self.read()
    }
}

impl Client {
    pub fn new(config: Config) -> Result<Self, Failure> {
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("shopery-cli/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(config.timeout))
            .timeout(config.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false);
        if let Some(path) = &config.ca {
            let wrong = |why: &str| Failure::usage(format!("the CA file {} {why}", path.display()));
            let pem = std::fs::read(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|roots| !roots.is_empty());
            http = http.tls_certs_merge(roots.ok_or_else(|| wrong("has no certificate in PEM"))?);
        }
        let http = http.build().map_err(|error| Failure::failed(format!("TLS cannot be set up: {error}")))?;
        let Config { api_url, ingest_url, tenant, token, .. } = config;
        Ok(Self { http, api_url, ingest_url, tenant, token: token.map(|(token, _)| token) })
    }

    /// Sends a request, again where that is safe and may help; gives the answer if it says yes.
    pub async fn send(&self, request: Request) -> Result<Answer, Failure> {
        let (url, mut headers) = (self.url(&request)?, self.headers()?);
        if request.method == Method::POST {
            // The same for each try: what was done is not done again.
            headers.insert("Idempotency-Key", header("a key", &Ulid::generate().to_string())?);
        }
        if let Some(tag) = &request.if_match {
            headers.insert("If-Match", header("--if-match", tag)?);
        }
        if let Some((kind, _)) = &request.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        let (mut tries, mut was_lost) = (0, false);
        loop {
            tries += 1;
            let mut one = self.http.request(request.method.clone(), url.clone()).headers(headers.clone());
            if let Some((_, body)) = &request.body {
                one = one.body(body.clone());
            }
            let (met, failure) = match attempt(one).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            was_lost |= met == Met::Lost;
            let Some(pause) = retry::pause(met, tries, request.is_repeatable(), was_lost) else { return Err(failure) };
            if pause >= LONG {
                eprintln!("waiting {} s, then trying again: {}", pause.as_secs(), plain_lines(&failure.to_string()));
            }
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    fn url(&self, request: &Request) -> Result<Url, Failure> {
        let (base, option, variable) = match request.to {
            To::Api => (&self.api_url, "--api-url", "SHOPERY_API_URL"),
            To::Ingest => (&self.ingest_url, "--ingest-url", "SHOPERY_INGEST_URL"),
        };
        let missing = || Failure::usage(format!("which URL? `shopery login`, {variable} or {option} says it"));
        let mut url = base.clone().ok_or_else(missing)?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(&request.path);
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        Ok(url)
    }

    fn headers(&self) -> Result<HeaderMap, Failure> {
        let token =
            self.token.as_ref().ok_or_else(|| Failure::usage("who are you? `shopery login`, or SHOPERY_TOKEN"))?;
        let tenant = self.tenant.as_deref();
        let tenant =
            tenant.ok_or_else(|| Failure::usage("which tenant? `shopery login`, SHOPERY_TENANT or --tenant"))?;
        let mut authorization = header("the token", &format!("Bearer {}", token.expose_secret()))?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization);
        headers.insert("X-tenant-ID", header("the tenant", tenant)?);
        Ok(headers)
    }
}

fn header(what: &str, text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| Failure::usage(format!("{what} has characters that it cannot have")))
}

async fn attempt(request: reqwest::RequestBuilder) -> Result<Answer, (Met, Failure)> {
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
    let problem = Problem::read(status, &body);
    let failure = match status {
        408 | 429 | 500.. => Failure::Unavailable(problem.to_string()),
        300..400 => Failure::Unavailable(format!("the URL of the API redirects ({status}): give the one it leads to")),
        _ => Failure::Refused(Box::new(problem)),
    };
    Err((Met::Answer { status, retry_after }, failure))
}

async fn read(mut response: Response) -> Result<Bytes, (Met, Failure)> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            let status = response.status().as_u16();
            let failure = Failure::failed("the answer is larger than 64 MiB: ask for less at a time");
            return Err((Met::Answer { status, retry_after: None }, failure));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// No answer, and why: the cause at the bottom is what a person can mend.
fn lost(error: reqwest::Error) -> (Met, Failure) {
    let met = if error.is_connect() { Met::Unsent } else { Met::Lost };
    let host = error.url().and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    let host = host.unwrap_or_else(|| "the API".to_owned());
    let what = match (error.is_connect(), error.is_timeout()) {
        (true, _) => format!("cannot reach {host}"),
        (_, true) => format!("{host} did not answer in time (--timeout)"),
        _ => format!("the connection to {host} broke"),
    };
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let mut text = if error.is_timeout() { what } else { format!("{what}: {cause}") };
    if text.contains("UnknownIssuer") || text.contains("certificate") {
        text.push_str("\nhint: --ca FILE, or SHOPERY_CA, names a CA to trust");
    }
    (met, Failure::Unavailable(text))
}

/// Up to a quarter longer, so that many clients do not come back at once.
fn jittered(pause: Duration) -> Duration {
    pause + pause.mul_f64(f64::from(Ulid::generate().random() as u16) / f64::from(u16::MAX) / 4.0)
}
