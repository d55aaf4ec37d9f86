//! Events that platform services publish on `in.<tenant>.<event>`.
//!
//! INBOUND keeps every such message until it has been forwarded to EVENTS ([`forward`]), also while ingest is away. A
//! publisher that asks for a reply gets it from [`answer`], which sees the same message as it is published: an
//! acknowledgement once EVENTS has the event, or the problem. Within one process an event is stored once for both; where
//! they are in different replicas it is published twice, and its id makes that one event.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use async_nats::{HeaderMap, Message};
use futures_util::StreamExt;
use serde_json::{Value, json};
use shopery_http::Problem;
use shopery_model::{BinaryAttributes, Event, EventType, Invalid, MAX_EVENT_BYTES, TenantId, stable_hash};
use shopery_queue::{Dead, Disposition, Intake, Queue, subject, trace};
use shopery_runtime::Shutdown;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::accept::{Acceptor, Source};
use crate::encoding::Encoding;
use crate::http::{conflict, unavailable};
use crate::mode::Mode;
use crate::recent_acks::{NotAccepted, Task};
use crate::validate::Purpose;

pub(crate) const SLOTS: usize = 1024;

/// Replies go to inboxes only: whoever publishes chooses the reply subject, and we have more rights than they.
const INBOX: &str = "_INBOX";

/// Answers publishers that asked for a reply.
pub(crate) async fn answer(queue: Queue, acceptor: Acceptor, shutdown: &Shutdown) -> anyhow::Result<()> {
    let mut messages =
        queue.client.queue_subscribe("in.>", "ingest".into()).await.context("cannot subscribe to in.>")?;
    let slots = Arc::new(Semaphore::new(SLOTS));
    let tasks = TaskTracker::new();
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let message = tokio::select! {
            message = messages.next() => message.context("the subscription to in.> was closed")?,
            () = shutdown.draining() => break,
        };
        let Some(reply) = message.reply.clone().filter(|reply| reply.starts_with(INBOX)) else { continue };
        let (queue, acceptor) = (queue.clone(), acceptor.clone());
        tasks.spawn(async move {
            let answer = match accept(&acceptor, &message, Task::Answer).await {
                Ok(answer) => answer,
                Err(refused) => refused.reply(),
            };
            // A reply that is lost is a publisher that repeats.
            let _ = queue.client.publish(reply, answer.to_string().into()).await;
            drop(slot);
        });
    }
    tasks.close();
    tasks.wait().await;
    queue.client.flush().await.ok();
    Ok(())
}

/// Moves events from INBOUND to EVENTS, bad ones to DEAD.
pub(crate) async fn forward(
    mut intake: Intake,
    queue: &Queue,
    acceptor: Acceptor,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let tasks = TaskTracker::new();
    while let Some(taken) = intake.next(shutdown).await {
        let (queue, acceptor) = (queue.clone(), acceptor.clone());
        tasks.spawn(async move {
            let message = &taken.message;
            let forwarded = match accept(&acceptor, message.core(), Task::Forward).await {
                Ok(_) => Ok(()),
                Err(Refused::Unavailable(problem)) => Err(anyhow!(problem.detail)),
                Err(Refused::Invalid(tenant, problem)) => {
                    acceptor.refuse(Source::Nats, "invalid");
                    dead_letter("invalid-event", &queue, message, tenant.as_ref(), &problem).await
                }
                Err(Refused::Conflict(tenant, problem)) => {
                    acceptor.refuse(Source::Nats, "conflict");
                    dead_letter("conflicting-event", &queue, message, Some(&tenant), &problem).await
                }
            };
            taken.settle(forwarded.map_or_else(Disposition::Retry, |()| Disposition::Done)).await;
        });
    }
    intake.close().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

enum Refused {
    Invalid(Option<TenantId>, Box<Problem>),
    /// Its source and id are those of another event.
    Conflict(TenantId, Box<Problem>),
    Unavailable(Box<Problem>),
}

impl Refused {
    /// The problem, with the member by which JetStream clients recognise an error.
    fn reply(&self) -> Value {
        let (Self::Invalid(_, problem) | Self::Conflict(_, problem) | Self::Unavailable(problem)) = self;
        let mut reply = serde_json::to_value(problem).unwrap_or_default();
        reply["error"] = json!({ "code": problem.status, "err_code": 0, "description": problem.detail });
        reply
    }
}

/// Stores the event of a message. The answer has the form of a JetStream acknowledgement.
async fn accept(acceptor: &Acceptor, message: &Message, task: Task) -> Result<Value, Refused> {
    let (tenant, event) = read(message).await?;
    let purpose = match task {
        Task::Answer => Purpose::Answer,
        Task::Forward => Purpose::Accept,
    };
    if let Err(invalid) = acceptor.validate(&tenant, &event, purpose) {
        return Err(Refused::Invalid(Some(tenant), Box::new(Problem::invalid(invalid))));
    }
    let traceparent = trace::incoming(message.headers.as_ref());
    match acceptor.store_once(&tenant, &event, traceparent, task).await {
        Ok(accepted) => Ok(json!({
            "stream": accepted.ack.stream,
            // JetStream clients want a number there. The place in EVENTS would tell how many events all tenants together have.
            "seq": stable_hash(event.id.as_bytes()).max(1),
            "duplicate": accepted.is_repeat,
            "id": event.id,
        })),
        Err(error) => Err(match &*error {
            NotAccepted::Conflict => Refused::Conflict(tenant, Box::new(conflict(&event))),
            NotAccepted::Unavailable(error) => Refused::Unavailable(Box::new(unavailable(error))),
        }),
    }
}

async fn read(message: &Message) -> Result<(TenantId, Event), Refused> {
    let Some((tenant, named)) = subject::parse_inbound(&message.subject) else {
        let detail = "must be in.<tenant>.<event>, each one token; other characters than A-Z a-z 0-9 _ - as =XX";
        return Err(Refused::Invalid(None, Box::new(Problem::invalid(vec![Invalid::new("subject", detail)]))));
    };
    let event = match read_event(message).await {
        Ok(event) => event,
        Err(problem) => return Err(Refused::Invalid(Some(tenant), Box::new(problem))),
    };
    if !named.parse().is_ok_and(|named: EventType| named == event.event_type) {
        let detail = format!("is {}, but the subject is for {named}", event.event_type);
        let problem = Problem::invalid(vec![Invalid::new("type", detail)]);
        return Err(Refused::Invalid(Some(tenant), Box::new(problem)));
    }
    Ok((tenant, event))
}

async fn read_event(message: &Message) -> Result<Event, Problem> {
    let (headers, now) = (message.headers.as_ref(), shopery_queue::now());
    // Most messages have no headers at all.
    let Some(headers) = headers.filter(|headers| !headers.is_empty()) else {
        return Event::parse(&message.payload, now).map_err(Problem::invalid);
    };
    let has_attributes = content_headers(headers).any(|(name, _)| BinaryAttributes::REQUIRED.contains(&name.as_str()));
    let content_type = header(headers, "content-type").unwrap_or_default();
    // Without either, the payload is an event in structured JSON, whatever it is called.
    let is_plain = !has_attributes && !content_type.to_ascii_lowercase().starts_with("application/cloudevents");
    let mode = match content_type.as_str() {
        // NATS has no content type of its own; the data of an event is JSON.
        "" if has_attributes => Some(Mode::Binary),
        _ if is_plain => Some(Mode::Structured),
        content_type => Mode::of(content_type, has_attributes),
    };
    let encoding = Encoding::read(&header(headers, "content-encoding").unwrap_or_default())?;
    let payload = encoding.decode(message.payload.clone(), MAX_EVENT_BYTES, None).await?;
    let event = match mode {
        Some(Mode::Structured) => Event::parse(&payload, now),
        Some(Mode::Binary) => Event::parse_binary(attributes(headers), &payload, now),
        Some(Mode::Batch) => {
            return Err(Problem::unsupported_media_type(
                "over NATS, each event is a message of its own: send no batch",
            ));
        }
        None => {
            return Err(Problem::unsupported_media_type(
                "send application/cloudevents+json, or ce- headers and application/json for the data",
            ));
        }
    };
    event.map_err(Problem::invalid)
}

/// The first value of a header; NATS keeps the case of names, and publishers write them as they like.
fn header(headers: &HeaderMap, wanted: &str) -> Option<String> {
    content_headers(headers).find(|(name, _)| name == wanted).map(|(_, value)| value.to_owned())
}

/// The headers that are a part of an event, with names in lower case. Others may be secrets of the publisher.
fn content_headers(headers: &HeaderMap) -> impl Iterator<Item = (String, &str)> {
    let all = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value.as_str())));
    all.map(|(name, value)| (AsRef::<str>::as_ref(name).to_ascii_lowercase(), value)).filter(|(name, _)| {
        name.starts_with(BinaryAttributes::PREFIX) || name == "content-type" || name == "content-encoding"
    })
}

fn attributes(headers: &HeaderMap) -> BinaryAttributes {
    let mut attributes = BinaryAttributes::default();
    for (name, value) in content_headers(headers) {
        if let Some(name) = name.strip_prefix(BinaryAttributes::PREFIX) {
            attributes.add(name, value.as_bytes());
        }
    }
    attributes
}

/// Puts a message on DEAD as an operator can read it: unpacked, with the headers that belong to it.
async fn dead_letter(
    reason: &str,
    queue: &Queue,
    message: &shopery_queue::Message,
    tenant: Option<&TenantId>,
    problem: &Problem,
) -> anyhow::Result<()> {
    let stored = message.stored()?;
    let id = format!("inbound:{}", stored.sequence);
    let headers = message.headers().into_iter().flat_map(content_headers);
    let encoding = message.headers().and_then(|headers| header(headers, "content-encoding")).unwrap_or_default();
    let payload = match Encoding::read(&encoding) {
        Ok(encoding) => encoding.decode(message.payload().clone(), MAX_EVENT_BYTES, None).await,
        Err(problem) => Err(problem),
    };
    let payload = payload.unwrap_or_else(|_| message.payload().clone());
    let dead = Dead::start_of(message.subject(), problem, &payload).with_headers(headers);
    queue.dead_letter(reason, tenant, id, &dead).await.context("cannot put a bad event on DEAD")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(headers: &[(&str, &str)], payload: &str) -> Message {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        Message {
            subject: "in.t.order-created".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: Some(map),
            status: None,
            description: None,
            length: payload.len(),
        }
    }

    const STRUCTURED: &str =
        r#"{"specversion":"1.0","id":"e","source":"s","type":"order-created","subject":"order/1","data":{}}"#;
    const BINARY: [(&str, &str); 5] = [
        ("ce-specversion", "1.0"),
        ("CE-Id", "a%20b"),
        ("ce-source", "s"),
        ("Ce-Type", "order-created"),
        ("ce-subject", "order/1"),
    ];

    #[tokio::test]
    async fn a_message_is_structured_unless_its_headers_say_otherwise() {
        let id = async |headers: &[(&str, &str)], payload| {
            read_event(&message(headers, payload)).await.map(|event| event.id).map_err(|problem| problem.status)
        };
        let with = |more: (&'static str, &'static str)| [&BINARY[..], &[more]].concat();
        let text = |id: &str| Ok(id.to_owned());
        assert_eq!(id(&[], STRUCTURED).await, text("e"));
        assert_eq!(id(&[("Traceparent", "x"), ("Content-Type", "text/plain")], STRUCTURED).await, text("e"));
        assert_eq!(id(&BINARY, "{}").await, text("a b"));
        assert_eq!(id(&with(("Content-Type", "application/json")), "{}").await, text("a b"));
        assert_eq!(id(&with(("content-type", "application/cloudevents+json")), STRUCTURED).await, text("e"));
        assert_eq!(id(&with(("content-type", "text/xml")), "{}").await, Err(415));
        assert_eq!(id(&[("content-type", "application/cloudevents-batch+json")], "[]").await, Err(415));
        assert_eq!(id(&with(("Content-Encoding", "br")), "{}").await, Err(415));
        assert_eq!(id(&with(("Content-Encoding", "gzip")), "{}").await, Err(400));
        assert_eq!(id(&BINARY[1..], "{}").await, Err(422));
    }

    #[test]
    fn no_header_but_those_of_the_event_is_kept() {
        let message = message(&[("Authorization", "x"), ("ce-id", "e"), ("Content-Type", "application/json")], "{}");
        let mut kept: Vec<_> = content_headers(message.headers.as_ref().unwrap()).map(|(name, _)| name).collect();
        kept.sort();
        assert_eq!(kept, ["ce-id", "content-type"]);
    }
}
