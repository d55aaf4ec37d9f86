//! The main job for the clouds, shown once: webhooks to a bus and to a topic of the emulators, a sample order, and what came
//! out of the queue and of the subscription, its signature verified as any receiver would.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::demo::{self, Client, TIMEOUT};
use crate::emulators::{Message, Receivers};
use crate::screen::say;

const PAUSE: Duration = Duration::from_millis(200);
/// Each look is a line in the log of moto.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

const BUS: &str = "demo-eventbridge";
const TOPIC: &str = "demo-pubsub";

/// A delivery as its receiver reads it.
struct Arrival {
    cloud: &'static str,
    names: HeaderMap,
    /// As it is shown.
    payload: String,
    /// What its signature covers.
    signed: Vec<u8>,
}

impl Arrival {
    /// An event out of the queue behind a bus.
    fn of_event(text: &str) -> anyhow::Result<Self> {
        let event: Value = serde_json::from_str(text).context("the queue holds something else than an event")?;
        let detail = &event["detail"];
        let metadata = detail["metadata"].as_object().into_iter().flatten();
        // The canonical form of RFC 8785, for the sample order: its names are ASCII and sorted, its numbers short. A receiver of
        // anything else takes a library: rfc8785 of PyPI, canonicalize of npm.
        let payload = detail["payload"].to_string();
        Ok(Self {
            cloud: "EventBridge",
            names: names(metadata.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))),
            signed: payload.clone().into_bytes(),
            payload,
        })
    }

    fn of_message(message: Message) -> Self {
        Self {
            cloud: "Pub/Sub",
            names: names(message.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))),
            payload: String::from_utf8_lossy(&message.data).into_owned(),
            signed: message.data,
        }
    }

    fn name(&self, name: &str) -> &str {
        self.names.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn announce(&self) {
        let [event, id, attempt] = ["x-shopery-event", "webhook-id", "x-shopery-attempt"].map(|name| self.name(name));
        say(format_args!("received {event} {id} attempt {attempt} through {}", self.cloud));
    }

    fn show(&self) {
        say(format_args!("\nthrough {}", self.cloud));
        for name in self.names.keys() {
            say(format_args!("{name}: {}", self.name(name.as_str())));
        }
        say(format_args!("\n{}\n", self.payload));
    }
}

fn names<'a>(of: impl Iterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let header = |(name, value): (&str, &str)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
    };
    of.filter_map(header).collect()
}

/// All that has come since the last look.
async fn take(receivers: &Receivers) -> anyhow::Result<Vec<Arrival>> {
    let events = receivers.bus.moto.take(&receivers.bus.name).await?;
    let mut arrivals: Vec<_> = events.iter().map(|event| Arrival::of_event(event)).collect::<Result<_, _>>()?;
    if let Some(subscribed) = &receivers.topic {
        arrivals.extend(subscribed.emulator.take(&subscribed.topic).await?.into_iter().map(Arrival::of_message));
    }
    Ok(arrivals)
}

/// Shows a delivery through each. The webhooks are created on the first start and reused on every later one.
pub async fn run(client: &Client, receivers: &Receivers) -> anyhow::Result<()> {
    let mut webhooks = vec![demo::webhook(client, BUS, &receivers.bus.arn).await.context("the webhook of the bus")?];
    if let Some(subscribed) = &receivers.topic {
        let topic = subscribed.topic.to_string();
        webhooks.push(demo::webhook(client, TOPIC, &topic).await.context("the webhook of the topic")?);
    }
    let mut secrets = vec![];
    for webhook in &webhooks {
        let answer = client.rest(Method::GET, &format!("/company/webhooks/{webhook}/secret"), None).await?;
        secrets.push(answer["secret"].as_str().context("the answer has no secret")?.to_owned());
    }
    let event_id = demo::event_id("demo-clouds")?;
    say("\nDemo: publishing the sample order to the emulators too ...");
    let published = Instant::now();
    demo::publish(client, &event_id).await?;

    let mut missing: Vec<_> = webhooks.iter().zip(&secrets).collect();
    while let Some((webhook, _)) = missing.first() {
        if published.elapsed() > TIMEOUT {
            let why = demo::last_error(client, webhook, &event_id).await;
            bail!("the sample order did not come through a cloud within {} s{why}", TIMEOUT.as_secs());
        }
        for arrival in take(receivers).await? {
            let is_it = |(webhook, _): &(&String, &String)| {
                arrival.name("x-shopery-event-id") == event_id && arrival.name("x-shopery-webhook-id") == *webhook
            };
            let Some(place) = missing.iter().position(is_it) else {
                arrival.announce();
                continue;
            };
            let (_, secret) = missing.remove(place);
            verify(&arrival, secret, published)?;
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

fn verify(arrival: &Arrival, secret: &str, published: Instant) -> anyhow::Result<()> {
    let took = published.elapsed().as_millis();
    let verified = standardwebhooks::Webhook::new(secret)
        .and_then(|verifier| verifier.verify(&arrival.signed, &arrival.names))
        .map_err(|error| anyhow!("a delivery came through {}, but does not verify: {error}", arrival.cloud));
    arrival.show();
    verified?;
    say(format_args!("signature through {} verified; seen {took} ms after it was published", arrival.cloud));
    Ok(())
}

/// The webhooks of emulators that ran once, and do not now.
pub async fn pause(client: &Client) -> anyhow::Result<()> {
    for name in [BUS, TOPIC] {
        demo::pause(client, name).await?;
    }
    Ok(())
}

/// Says what comes, for ever.
pub async fn watch(receivers: &Receivers) -> anyhow::Result<()> {
    loop {
        sleep(WATCH_PAUSE).await;
        take(receivers).await?.iter().for_each(Arrival::announce);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_order_is_signed_in_its_canonical_form() {
        let event = r#"{ "detail-type": "order-created", "detail": { "payload": { "b": [59.80, 2], "a": "é" },
            "metadata": { "X-Shopery-Event": "order-created", "webhook-id": "dlv_1" } } }"#;
        let arrival = Arrival::of_event(event).unwrap();
        assert_eq!(arrival.payload, r#"{"a":"é","b":[59.8,2]}"#);
        assert_eq!((arrival.name("webhook-id"), arrival.name("x-shopery-event")), ("dlv_1", "order-created"));
    }
}
