//! The main job, shown once: a webhook is created through the REST API, a sample order is published, and the delivery
//! that the sample endpoint receives is verified as any receiver would and printed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use http::{Method, header};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::screen::say;
use crate::{Delivery, Endpoint, TENANT};

const WEBHOOK: &str = "demo";
const EVENT: &str = "order-created";
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// The two HTTP faces, as a merchant's developer and a platform service use them.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    pub api_url: String,
    pub ingest_url: String,
    pub token: String,
}

impl Client {
    pub fn new(api_url: String, ingest_url: String, token: String) -> anyhow::Result<Self> {
        // Plain HTTP to this machine: no proxy, and no certificates to look for.
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(TIMEOUT).build()?;
        Ok(Self { http, api_url, ingest_url, token })
    }

    pub(crate) async fn rest(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let body = body.map(|body| ("application/json", body.to_string()));
        self.call(method, format!("{}{path}", self.api_url), body).await
    }

    async fn call(&self, method: Method, url: String, body: Option<(&str, String)>) -> anyhow::Result<Value> {
        let what = format!("{method} {url}");
        let mut request = self.http.request(method, url).bearer_auth(&self.token).header("X-tenant-ID", TENANT);
        if let Some((kind, body)) = body {
            request = request.header(header::CONTENT_TYPE, kind).body(body);
        }
        let answer = request.send().await.with_context(|| format!("{what} failed"))?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| format!("{what}: the answer broke off"))?;
        if !status.is_success() {
            bail!("{what} answered {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("{what} answered something else than JSON"))
    }
}

/// Shows one delivery. The webhook is created on the first start and reused on every later one.
pub async fn run(client: &Client, endpoint: &mut Endpoint) -> anyhow::Result<()> {
    let webhook = webhook(client, WEBHOOK, &endpoint.url()).await.context("the demo webhook")?;
    let answer = client.rest(Method::GET, &format!("/company/webhooks/{webhook}/secret"), None).await?;
    let secret = answer["secret"].as_str().context("the answer has no secret")?;

    let event_id = event_id("demo")?;
    say(format_args!("\nDemo: webhook {webhook} wants {EVENT}; publishing the sample order ...\n"));
    let published = Instant::now();
    publish(client, &event_id).await?;

    let Some(delivery) = arrival(endpoint, &webhook, &event_id, published + TIMEOUT).await else {
        let why = last_error(client, &webhook, &event_id).await;
        bail!("the sample order was not delivered within {} s{why}", TIMEOUT.as_secs());
    };
    let verified = standardwebhooks::Webhook::new(secret)
        .and_then(|verifier| verifier.verify(&delivery.body, &delivery.headers))
        .map_err(|error| anyhow!("the delivery arrived, but its signature does not verify: {error}"));
    show(&delivery);
    verified?;
    let took = delivery.at.duration_since(published).as_secs_f64() * 1000.0;
    say(format_args!("signature verified; {took:.1} ms from publish to arrival"));
    Ok(())
}

/// One line for a delivery that is not the demo's.
pub fn announce(delivery: &Delivery) {
    let shown = ["X-Shopery-Event", "webhook-id", "X-Shopery-Attempt"].map(|name| delivery.header(name));
    let [event, id, attempt] = shown;
    say(format_args!("received {event} {id} attempt {attempt}, {} bytes", delivery.body.len()));
}

/// An id of its own: the event of an earlier start would be a repeat, and stored once.
pub(crate) fn event_id(prefix: &str) -> anyhow::Result<String> {
    Ok(format!("{prefix}-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis()))
}

/// Publishes the sample order under this id.
pub(crate) async fn publish(client: &Client, event_id: &str) -> anyhow::Result<()> {
    let event = ("application/cloudevents+json", event(event_id));
    client.call(Method::POST, format!("{}/events", client.ingest_url), Some(event)).await.map(drop)
}

/// The id of a demo's webhook, enabled and with its present address.
pub(crate) async fn webhook(client: &Client, name: &str, url: &str) -> anyhow::Result<String> {
    if let Some(id) = find_webhook(client, name).await? {
        let change = json!({ "url": url, "events": [EVENT], "isEnabled": true });
        client.rest(Method::PATCH, &format!("/company/webhooks/{id}"), Some(change)).await?;
        return Ok(id);
    }
    let wanted = json!({ "name": name, "url": url, "events": [EVENT], "isEnabled": true });
    let created = client.rest(Method::POST, "/company/webhooks", Some(wanted)).await?;
    created["id"].as_str().map(str::to_owned).context("the answer has no id")
}

/// Pauses a demo's webhook, if there is one.
pub(crate) async fn pause(client: &Client, name: &str) -> anyhow::Result<()> {
    let Some(id) = find_webhook(client, name).await? else { return Ok(()) };
    let change = json!({ "isEnabled": false });
    client.rest(Method::PATCH, &format!("/company/webhooks/{id}"), Some(change)).await.map(drop)
}

async fn find_webhook(client: &Client, name: &str) -> anyhow::Result<Option<String>> {
    let mut path = "/company/webhooks?limit=200".to_owned();
    loop {
        let page = client.rest(Method::GET, &path, None).await?;
        let webhooks = page["data"].as_array().context("the answer has no data")?;
        if let Some(found) = webhooks.iter().find(|webhook| webhook["name"] == name) {
            return Ok(found["id"].as_str().map(str::to_owned));
        }
        let Some(cursor) = page["nextCursor"].as_str() else { return Ok(None) };
        path = format!("/company/webhooks?limit=200&cursor={cursor}");
    }
}

/// The event's delivery for the demo's webhook. Those that arrive before it, such as retries from an earlier start or
/// what other webhooks with the same URL are sent, are announced.
async fn arrival(endpoint: &mut Endpoint, webhook: &str, event_id: &str, deadline: Instant) -> Option<Delivery> {
    while let Ok(Some(delivery)) = timeout_at(deadline, endpoint.next()).await {
        if delivery.header("X-Shopery-Event-Id") == event_id && delivery.header("X-Shopery-Webhook-Id") == webhook {
            return Some(delivery);
        }
        announce(&delivery);
    }
    None
}

/// What the history says about the delivery that did not arrive.
pub(crate) async fn last_error(client: &Client, webhook: &str, event_id: &str) -> String {
    let path = format!("/company/webhooks/{webhook}/deliveries");
    let Ok(page) = client.rest(Method::GET, &path, None).await else { return String::new() };
    let mut deliveries = page["data"].as_array().into_iter().flatten();
    match deliveries.find(|delivery| delivery["eventId"] == event_id) {
        Some(Value::Object(delivery)) if delivery.contains_key("error") => format!(": {}", delivery["error"]),
        _ => String::new(),
    }
}

fn show(delivery: &Delivery) {
    say(&delivery.request);
    for name in delivery.headers.keys() {
        let value = delivery.header(name.as_str());
        // A terminal is copied into tickets.
        let shown = if name == "x-shopery-secret" { format!("{:.10}...", value) } else { value };
        say(format_args!("{name}: {shown}"));
    }
    say(format_args!("\n{}\n", String::from_utf8_lossy(&delivery.body)));
}

/// The example of the catalogue, laid out for reading: it arrives byte for byte as it is published.
const ORDER: &str = r#"{
  "id": "ord_123",
  "number": 1042,
  "status": "open",
  "currency": "EUR",
  "total_price": 59.80,
  "customer": { "id": "cus_7", "email": "zoe@example.com" },
  "line_items": [{ "sku": "MUG-BLUE", "title": "Blue mug", "quantity": 2, "price": 29.90 }],
  "created_at": "2026-11-24T10:00:00Z",
  "updated_at": "2026-11-24T10:00:00Z"
}"#;

fn event(id: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"orders","type":"{EVENT}","subject":"order/ord_123","data":{ORDER}}}"#
    )
}

#[cfg(test)]
mod tests {
    use shopery_model::catalogue;

    use super::*;

    #[test]
    fn the_sample_order_is_that_of_the_catalogue() {
        let event: Value = serde_json::from_str(&event("e")).unwrap();
        let example = catalogue().example(EVENT.parse().unwrap()).unwrap();
        assert_eq!(event["data"], serde_json::from_str::<Value>(example.get()).unwrap());
        assert_eq!(event["subject"], format!("order/{}", event["data"]["id"].as_str().unwrap()));
    }
}
