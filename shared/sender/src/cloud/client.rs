//! The HTTP client for clouds. It is not that of endpoints: whom it connects to no tenant can say, so nothing is judged, and hosts
//! are few, so a pool that is simpler does. The system's resolver is asked, as within a cloud its names may lead to private addresses.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use shopery_model::Fault;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::TIMEOUT;
use super::refusal::Refusal;
use crate::connect::{CONNECT_TIMEOUT, explain};
use crate::failure::{Failure, SenderFault, find};
use crate::https::AGENT;

/// To all clouds together: each may need a descriptor.
const MAX_REQUESTS: usize = 128;
/// Servers of clouds keep connections for a minute or more.
const MAX_IDLE: Duration = Duration::from_secs(20);
const MAX_BODY: usize = 1024 * 1024;
/// How far our clock may be from that of a cloud: Amazon takes five minutes, Google less.
const MAX_SKEW: Duration = Duration::from_secs(60);
/// The longest that a cloud can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    requests: Arc<Semaphore>,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Client {
    /// `ca_file`: certificates to trust besides the system's.
    pub(crate) fn new(ca_file: Option<&str>) -> anyhow::Result<Self> {
        let mut client = reqwest::Client::builder()
            .user_agent(AGENT)
            .dns_resolver(Arc::new(SystemResolver))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(MAX_IDLE)
            .pool_max_idle_per_host(MAX_REQUESTS);
        if let Some(path) = ca_file {
            let pem = std::fs::read(path).with_context(|| format!("cannot read SHOPERY_CA_FILE {path}"))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("SHOPERY_CA_FILE {path} is not PEM"))?;
            client = client.tls_certs_merge(certificates);
        }
        let http = client.build().context("cannot set up the HTTP client for clouds")?;
        Ok(Self { http, requests: Arc::new(Semaphore::new(MAX_REQUESTS)) })
    }

    /// Whatever the cloud answers is a response.
    pub(crate) async fn send(&self, request: Request<Bytes>, deadline: Instant) -> Result<Response, Refusal> {
        tokio::time::timeout_at(deadline, self.exchange(request)).await.unwrap_or_else(|_| Err(no_answer()))
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response, Refusal> {
        let broken = |error: reqwest::Error| Refusal::from(explain_http(&error));
        let _permit = self.requests.acquire().await.map_err(|_| Refusal::ours(SenderFault::Interrupted))?;
        let request = reqwest::Request::try_from(request).map_err(broken)?;
        let mut response = self.http.execute(request).await.map_err(broken)?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BODY {
                return Err(Refusal::new(Fault::ProviderError, "the answer of the cloud is too long"));
            }
        }
        Ok(Response { status, headers, body: body.into() })
    }
}

impl Response {
    /// In seconds, as clouds write it.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
    }

    /// Whether what we sign is too old or too new for whoever answered.
    pub(crate) fn says_our_clock_is_off(&self) -> bool {
        let date = self.headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let now = SystemTime::now();
        let apart = |date: SystemTime| now.duration_since(date).unwrap_or_else(|error| error.duration());
        date.is_some_and(|date| apart(date) > MAX_SKEW)
    }
}

fn no_answer() -> Refusal {
    Refusal::new(Fault::Timeout, format!("no answer within {} s", TIMEOUT.as_secs()))
}

/// The system's way, with an error that can be told from others by its type.
struct SystemResolver;

#[derive(Debug, thiserror::Error)]
#[error("the host name cannot be resolved")]
struct Unresolved(#[source] io::Error);

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(Unresolved)?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

fn explain_http(error: &reqwest::Error) -> Failure {
    if find::<Unresolved>(error).is_some() {
        return Failure::Endpoint(Fault::DnsFailed, "the host name of the cloud cannot be resolved".to_owned());
    }
    if error.is_timeout() {
        let why = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
        return Failure::Endpoint(Fault::ConnectTimeout, why);
    }
    if let Some(error) = find::<io::Error>(error) {
        return explain(error);
    }
    Failure::Endpoint(Fault::ConnectionFailed, "the connection broke before the answer was complete".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(headers: &[(http::HeaderName, String)]) -> Response {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        Response { status: StatusCode::FORBIDDEN, headers, body: Bytes::new() }
    }

    #[test]
    fn a_clock_that_is_off_is_told_by_the_date_of_an_answer() {
        let at = |seconds: i64| {
            let now = SystemTime::now();
            let moved = Duration::from_secs(seconds.unsigned_abs());
            httpdate::fmt_http_date(if seconds < 0 { now - moved } else { now + moved })
        };
        for (date, is_off) in
            [(at(0), false), (at(30), false), (at(-30), false), (at(300), true), (at(-300), true), ("x".into(), false)]
        {
            assert_eq!(response(&[(DATE, date.clone())]).says_our_clock_is_off(), is_off, "{date}");
        }
        assert!(!response(&[]).says_our_clock_is_off());
    }

    #[test]
    fn a_cloud_may_ask_for_time() {
        for (value, seconds) in [("2", Some(2)), ("99999999", Some(3600)), ("soon", None), ("-1", None)] {
            let asked = response(&[(RETRY_AFTER, value.to_owned())]).retry_after();
            assert_eq!(asked.map(|asked| asked.as_secs()), seconds, "{value}");
        }
    }

    #[tokio::test]
    async fn what_keeps_a_request_from_its_cloud_is_told_as_of_endpoints() {
        let client = Client::new(None).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = listener.local_addr().unwrap();
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        for (url, fault) in [
            ("http://nobody.invalid/".to_owned(), Fault::DnsFailed),
            (format!("http://{closed}/"), Fault::ConnectionRefused),
            (format!("http://{silent}/"), Fault::Timeout),
            (format!("https://{silent}/"), Fault::ConnectTimeout),
        ] {
            let request = Request::post(&url).body(Bytes::new()).unwrap();
            let deadline = Instant::now() + Duration::from_secs(2);
            let refusal = client.send(request, deadline).await.unwrap_err();
            assert_eq!(refusal.fault(), Some(fault), "{url}: {refusal:?}");
        }
    }
}
