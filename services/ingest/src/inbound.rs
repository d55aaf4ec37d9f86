//! Events that platform services publish on `in.<tenant>.<event>`.
//!
//! INBOUND keeps every such message until it has been forwarded to EVENTS ([`forward`]), also while ingest is away. A
//! publisher that asks for a reply gets it from [`answer`], which sees the same message as it is published: an
//! acknowledgement once EVENTS has the event, or the problem. Within one process an event is stored once for both; where
//! they are in different replicas it is published twice, and its id makes that one event.

use std::sync::Arc;

use anyhow::Context;
use async_nats::{Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use shopery_http::Problem;
use shopery_model::{Event, Invalid, TenantId};
use shopery_queue::{Dead, Intake, Queue, Taken, subject, trace};
use shopery_runtime::Shutdown;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::accept::{Acceptor, Source};
use crate::http::unavailable;

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
            let answer = match accept(&acceptor, &message).await {
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
    while let Some(Taken { message, slot }) = intake.next(shutdown).await {
        let (queue, acceptor) = (queue.clone(), acceptor.clone());
        tasks.spawn(async move {
            let done = match accept(&acceptor, message.core()).await {
                Ok(_) => true,
                Err(Refused::Unavailable(_)) => false,
                Err(Refused::Invalid(tenant, problem)) => {
                    acceptor.refuse(Source::Nats, "invalid");
                    bury(&queue, &message, tenant.as_ref(), &problem).await
                }
            };
            // What is not acknowledged comes again.
            if done {
                message.ack().await;
            }
            drop(slot);
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

enum Refused {
    Invalid(Option<TenantId>, Box<Problem>),
    Unavailable(Box<Problem>),
}

impl Refused {
    /// The problem, with the member by which JetStream clients recognise an error.
    fn reply(&self) -> Value {
        let (Self::Invalid(_, problem) | Self::Unavailable(problem)) = self;
        let mut reply = serde_json::to_value(problem).unwrap_or_default();
        reply["error"] = json!({ "code": problem.status, "err_code": 0, "description": problem.detail });
        reply
    }
}

/// Stores the event of a message. The answer has the form of a JetStream acknowledgement.
async fn accept(acceptor: &Acceptor, message: &Message) -> Result<Value, Refused> {
    let (tenant, event) = read(&message.subject, &message.payload)?;
    let traceparent = trace::incoming(message.headers.as_ref());
    match acceptor.store_once(&tenant, &event, traceparent, Source::Nats).await {
        Ok(ack) => Ok(json!({ "stream": ack.stream, "seq": ack.sequence, "duplicate": ack.duplicate, "id": event.id })),
        Err(error) => Err(Refused::Unavailable(Box::new(unavailable(&error)))),
    }
}

fn read(subject: &Subject, payload: &Bytes) -> Result<(TenantId, Event), Refused> {
    let Some((tenant, named)) = subject::parse_inbound(subject) else {
        let detail = "must be in.<tenant>.<event>, each one token; other characters than A-Z a-z 0-9 _ - as =XX";
        return Err(Refused::Invalid(None, Box::new(Problem::invalid(vec![Invalid::new("subject", detail)]))));
    };
    let event = Event::parse(payload, OffsetDateTime::now_utc()).and_then(|event| {
        if named.parse().is_ok_and(|named: shopery_model::EventType| named == event.event_type) {
            Ok(event)
        } else {
            let detail = format!("is {}, but the subject is for {named}", event.event_type);
            Err(vec![Invalid::new("type", detail)])
        }
    });
    match event {
        Ok(event) => Ok((tenant, event)),
        Err(invalid) => Err(Refused::Invalid(Some(tenant), Box::new(Problem::invalid(invalid)))),
    }
}

async fn bury(queue: &Queue, message: &shopery_queue::Message, tenant: Option<&TenantId>, problem: &Problem) -> bool {
    let Ok(stored) = message.stored() else { return false };
    let id = format!("inbound:{}", stored.sequence);
    let dead = Dead::new(message.subject(), problem, message.payload());
    match queue.bury("invalid-event", tenant, id, &dead).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "cannot put a bad event on DEAD; it will be tried again");
            false
        }
    }
}
