//! A tenant's developer and the platform's services, over HTTP.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Event, leaks, token, wait};

/// A list that cannot be read for this long is not to be had.
const PAGE_DEADLINE: Duration = Duration::from_secs(20);

pub const ONE: &str = "application/cloudevents+json";
pub const BATCH: &str = "application/cloudevents-batch+json";

/// A tenant's way to the API and to ingest.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    pub api: String,
    pub ingest: String,
    pub tenant: String,
    pub token: String,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// A header; empty if there is none.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The answer as a problem, which it must be in every respect.
    #[track_caller]
    pub fn problem(&self) -> Value {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        assert_eq!(content_type, Some("application/problem+json"), "{} {}", self.status, self.text());
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "no {member} in {problem}");
        }
        problem
    }
}

impl Client {
    pub fn new(api: String, ingest: String, tenant: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(40))
            // A kept connection to a service that was killed would fail the next request.
            .pool_idle_timeout(Duration::from_millis(500))
            .build()
            .unwrap();
        Self { http, api, ingest, tenant: tenant.to_owned(), token: token::mint(&[tenant], token::ALL) }
    }

    /// The same, with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Of another tenant, over the same connections: to make a client takes a while.
    pub fn of_tenant(&self, tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), token: token::mint(&[tenant], token::ALL), ..self.clone() }
    }

    /// A request with the headers that the documentation asks for. `path` is one of the API's, or a whole URL.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.api) };
        let mut request = self.http.request(method, url);
        if !self.token.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {}", self.token));
        }
        request.header("X-tenant-ID", HeaderValue::from_bytes(self.tenant.as_bytes()).unwrap())
    }

    pub async fn get(&self, path: &str) -> Reply {
        send(self.request(Method::GET, path)).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        let request = self.request(Method::POST, path).json(body);
        send(request).await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        let request = self.request(Method::PATCH, path).json(body);
        send(request).await.unwrap_or_else(|error| panic!("PATCH {path}: {error}"))
    }

    pub async fn delete(&self, path: &str) -> Reply {
        send(self.request(Method::DELETE, path)).await.unwrap_or_else(|error| panic!("DELETE {path}: {error}"))
    }

    /// Creates a webhook; returns its id.
    pub async fn create_webhook(&self, url: &str, events: &[&str]) -> String {
        self.create_webhook_with(url, events, json!({})).await
    }

    /// With more members than every webhook has: its rules.
    pub async fn create_webhook_with(&self, url: &str, events: &[&str], rules: Value) -> String {
        let mut body = json!({ "name": "a webhook", "url": url, "events": events, "isEnabled": true });
        body.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
        let created = self.post("/company/webhooks", &body).await.expect(201).json();
        created["id"].as_str().unwrap().to_owned()
    }

    pub async fn secret(&self, webhook: &str) -> String {
        let secret = self.get(&format!("/company/webhooks/{webhook}/secret")).await.expect(200).json();
        secret["secret"].as_str().unwrap().to_owned()
    }

    pub async fn try_publish(&self, event: &Event) -> reqwest::Result<Reply> {
        self.try_post_events(ONE, event.json()).await
    }

    pub async fn publish(&self, event: &Event) -> Reply {
        self.try_publish(event).await.unwrap_or_else(|error| panic!("POST /events: {error}"))
    }

    pub async fn try_publish_batch(&self, events: &[Event]) -> reqwest::Result<Reply> {
        self.try_post_events(BATCH, Event::batch(events)).await
    }

    /// `POST /events` with any content type and body.
    pub async fn try_post_events(&self, kind: &str, body: impl Into<reqwest::Body>) -> reqwest::Result<Reply> {
        let url = format!("{}/events", self.ingest);
        send(self.request(Method::POST, &url).header(CONTENT_TYPE, kind).body(body)).await
    }

    pub async fn post_events(&self, kind: &str, body: impl Into<reqwest::Body>) -> Reply {
        self.try_post_events(kind, body).await.unwrap_or_else(|error| panic!("POST /events: {error}"))
    }

    /// Every entry of a list, page by page. What cannot be read now (503) is asked for again, as the answer says.
    pub async fn all(&self, path: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut cursor = None::<String>;
        let separator = if path.contains('?') { '&' } else { '?' };
        loop {
            let page = match &cursor {
                Some(cursor) => format!("{path}{separator}limit=100&cursor={cursor}"),
                None => format!("{path}{separator}limit=100"),
            };
            let page = wait::until("a page to be read", PAGE_DEADLINE, async || match self.get(&page).await {
                busy if busy.status == 503 => Err(busy.text()),
                answer => Ok(answer),
            });
            let page = page.await.expect(200).json();
            all.extend(page["data"].as_array().unwrap().iter().cloned());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return all,
            }
        }
    }

    /// Waits until the webhook's history has `count` deliveries, all of them at their end; returns them, newest first.
    pub async fn settled(&self, webhook: &str, count: usize, deadline: Duration) -> Vec<Value> {
        let path = format!("/company/webhooks/{webhook}/deliveries");
        wait::until(&format!("{count} settled deliveries of {webhook}"), deadline, async || {
            let found = self.all(&path).await;
            let open = found.iter().filter(|one| one["state"] == "pending" || one["state"] == "parked").count();
            match found.len() {
                n if n == count && open == 0 => Ok(found),
                n => Err(format!("{n} deliveries, {open} of them pending or parked")),
            }
        })
        .await
    }

    /// Waits until the webhook's history has `count` deliveries in a state, no more and no fewer; returns them.
    pub async fn in_state(&self, webhook: &str, state: &str, count: usize, deadline: Duration) -> Vec<Value> {
        let path = format!("/company/webhooks/{webhook}/deliveries?status={state}");
        wait::until(&format!("{count} deliveries that are {state}"), deadline, async || {
            let found = self.all(&path).await;
            if found.len() == count { Ok(found) } else { Err(format!("{} of them", found.len())) }
        })
        .await
    }

    /// A delivery with its attempts.
    pub async fn delivery(&self, id: &Value) -> Value {
        self.get(&format!("/company/deliveries/{}", id.as_str().unwrap())).await.expect(200).json()
    }
}

/// A time of the API.
#[track_caller]
pub fn time(value: &Value) -> OffsetDateTime {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    OffsetDateTime::parse(text, &Rfc3339).unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub async fn send(request: RequestBuilder) -> reqwest::Result<Reply> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let reply = Reply { status, headers, body: response.bytes().await? };
    if status >= 400
        && let Some(leak) = leaks::find(&reply.body)
    {
        panic!("an error has {leak}");
    }
    Ok(reply)
}
