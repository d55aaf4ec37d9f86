//! Row (a): what HTTP costs on this machine when nothing is between sender and sink.
//!
//! The client is built as the deliverer builds its own, and each request carries the headers and a body of a delivery,
//! so the rows below differ from this one in what the system adds and in nothing else. Body and headers are made once,
//! ids excepted: to sign, and to make a body for each, is the system's work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};
use shopery_local::tls::Authority;

use crate::ledger::Sheet;
use crate::payload;

/// The deliverer's client, as far as a sender without a tenant's rules can have it.
pub fn client(authority: &Authority) -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("Shopery-Webhooks/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .referer(false)
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(1))
        .timeout(Duration::from_secs(5))
        .tls_certs_merge(reqwest::Certificate::from_pem_bundle(authority.pem().as_bytes())?)
        .build()
        .context("cannot set up the HTTP client")
}

/// Posts until `end`, or until the sheet is full, with `concurrency` requests in flight.
pub async fn post_until(
    end: Instant,
    client: &reqwest::Client,
    url: &str,
    concurrency: usize,
    sheet: &Arc<Sheet>,
) -> anyhow::Result<()> {
    let url: Url = url.parse()?;
    let senders = (0..concurrency).map(|_| {
        let (client, url, sheet) = (client.clone(), url.clone(), sheet.clone());
        let sender = tokio::spawn(async move { post(end, &client, &url, &sheet).await });
        async move { sender.await? }
    });
    try_join_all(senders).await.map(drop)
}

async fn post(end: Instant, client: &reqwest::Client, url: &Url, sheet: &Sheet) -> anyhow::Result<()> {
    let (headers, body) = (headers(), Bytes::from(payload::order(sheet.id, 0)));
    while Instant::now() < end {
        let Some(number) = sheet.take(1).await.map(|numbers| numbers.start) else { break };
        sheet.publish(number, Instant::now());
        let event_id = payload::event_id(sheet.id, number);
        let mut request = Request::new(Method::POST, url.clone());
        *request.headers_mut() = headers.clone();
        let event_id = HeaderValue::from_maybe_shared(Bytes::from(event_id))?;
        request.headers_mut().insert("webhook-id", event_id.clone());
        request.headers_mut().insert("x-shopery-event-id", event_id);
        *request.body_mut() = Some(body.clone().into());
        let mut response = client.execute(request).await.context("a POST to the sink failed")?;
        ensure!(response.status().is_success(), "the sink answered {}", response.status());
        while response.chunk().await?.is_some() {}
        sheet.accept(number);
    }
    Ok(())
}

fn headers() -> HeaderMap {
    [
        ("content-type", "application/json"),
        ("webhook-id", ""),
        ("webhook-timestamp", "1795514400"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ("x-shopery-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="),
        ("x-shopery-event", "order-created"),
        ("x-shopery-event-id", ""),
        ("x-shopery-webhook-id", "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
        ("x-shopery-tenant-id", "tnt_load_1"),
        ("x-shopery-triggered-at", "2026-11-24T10:00:00Z"),
        ("x-shopery-attempt", "1"),
    ]
    .into_iter()
    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
    .collect()
}
