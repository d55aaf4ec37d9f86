//! Retries that wait: jobs on RETRY as the deliverer puts them there after a first attempt has failed, except that none
//! was made, and that EVENTS does not have their events, so that each carries its own state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::HeaderMap;
use bytes::Bytes;
use shopery_model::{DeliveryId, Extensions, Job, JobMeta, TenantId};
use shopery_queue::subject;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ledger::Sheet;
use crate::payload;
use crate::stack::{Stack, Tenant};

/// Published before their acknowledgements are awaited.
const BATCH: usize = 500;
/// What the server stores in a second at the least, and how many we let come due in one.
const STORED: usize = 5000;
const DUE: usize = 4000;
/// For a start of the NATS server, and for whatever else takes longer than it should.
const MARGIN: Duration = Duration::from_secs(20);

/// When the retries are due.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub start: Instant,
    pub length: Duration,
    clock: OffsetDateTime,
}

impl Window {
    /// It begins when `count` retries are stored and something has been measured for a while.
    pub fn of(count: usize, measured: Duration) -> Self {
        let seconds = |per_second| Duration::from_secs((count / per_second) as u64);
        let until = seconds(STORED) + measured + MARGIN;
        let length = seconds(DUE).max(Duration::from_secs(5));
        Self { start: Instant::now() + until, length, clock: OffsetDateTime::now_utc() + until }
    }

    /// Spread evenly, neighbours far apart: multiples of the golden ratio.
    fn offset(&self, number: usize) -> Duration {
        self.length.mul_f64((number as f64 * 0.618_033_988_749_895).fract())
    }
}

/// Puts a retry on RETRY for every place of the sheet. On the sheet they are published when they are due.
pub async fn publish(stack: &Stack, tenant: &Tenant, sheet: &Arc<Sheet>, window: Window) -> anyhow::Result<()> {
    let id: TenantId = tenant.id.parse()?;
    let webhook = *tenant.webhooks.first().context("the tenant has no webhook")?;
    while let Some(numbers) = sheet.take(BATCH).await {
        let mut acks = Vec::with_capacity(BATCH);
        for number in numbers.clone() {
            let now = OffsetDateTime::now_utc();
            let event = payload::event_id(sheet.id, number);
            let meta = JobMeta {
                delivery: DeliveryId::of(&id, "load", &event, now, webhook),
                tenant: id.clone(),
                webhook,
                resource: format!("order/{event}"),
                source: "load".to_owned(),
                event,
                event_type: "order-created".parse()?,
                triggered_at: now,
                event_sequence: 0,
                changed: vec![],
                stored_ns: None,
                payload_of: None,
                fields: None,
                extensions: Extensions::default(),
                may_be_stale: false,
                failed_at: None,
                resend: None,
                attempt: 2,
            };
            let subject = subject::retry(&id, webhook, meta.delivery);
            let job = Job { meta, payload: Bytes::from(payload::order(sheet.id, number)) };
            let offset = window.offset(number);
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Schedule", format!("@at {}", (window.clock + offset).format(&Rfc3339)?));
            headers.insert("Nats-Schedule-Target", subject::due(&id, webhook));
            sheet.publish(number, window.start + offset);
            acks.push(stack.admin.publish_with_headers(subject, headers, job.encode()).await?);
        }
        for (number, ack) in numbers.zip(acks) {
            ack.await.context("RETRY does not take a retry")?;
            sheet.accept(number);
        }
    }
    Ok(())
}
