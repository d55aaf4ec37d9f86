//! Who sent what and when, and when it arrived: tables made beforehand, written without a lock by publishers and sink.
//!
//! Publisher and sink share one process, hence one monotonic clock. Every row of the benchmark writes on a sheet of its
//! own, named in the ids of its events, so a straggler of one row never counts in the next.

use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::Semaphore;

use crate::measure::Percentiles;
use crate::payload::{self, Kind};

const SHEETS: usize = 96;

pub struct Ledger {
    start: Instant,
    sheets: [OnceLock<Arc<Sheet>>; SHEETS],
    opened: AtomicUsize,
    /// Requests at the sink that belong to no sheet.
    strays: AtomicU64,
}

/// Instants are nanoseconds since the ledger was begun; 0 is "not yet".
pub struct Sheet {
    pub id: usize,
    pub kind: Kind,
    pub fan_out: usize,
    start: Instant,
    next: AtomicUsize,
    published: Box<[AtomicU64]>,
    accepted: Box<[AtomicU64]>,
    /// `fan_out` in a row for each event.
    arrivals: Box<[Arrival]>,
    arrived: AtomicUsize,
    repeats: AtomicU64,
    damaged: AtomicU64,
    /// The length of every body.
    body: usize,
    /// Deliveries that may still be published before one has to arrive.
    room: Semaphore,
}

#[derive(Default)]
struct Arrival {
    at: AtomicU64,
    /// A hash of `webhook-id`.
    webhook_id: AtomicU64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            sheets: [const { OnceLock::new() }; SHEETS],
            opened: AtomicUsize::new(0),
            strays: AtomicU64::new(0),
        }
    }
}

impl Ledger {
    /// A sheet for up to `events` events that `fan_out` webhooks want, with at most `backlog` deliveries on their way.
    pub fn open(&self, events: usize, fan_out: usize, backlog: Option<usize>) -> anyhow::Result<Arc<Sheet>> {
        self.open_of(Kind::Order, events, fan_out, backlog)
    }

    pub fn open_of(
        &self,
        kind: Kind,
        events: usize,
        fan_out: usize,
        backlog: Option<usize>,
    ) -> anyhow::Result<Arc<Sheet>> {
        let id = self.opened.fetch_add(1, Ordering::Relaxed);
        let place = self.sheets.get(id).context("the ledger has no sheet left")?;
        let instants = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let sheet = Arc::new(Sheet {
            id,
            kind,
            fan_out,
            start: self.start,
            next: AtomicUsize::new(0),
            published: instants(events),
            accepted: instants(events),
            arrivals: (0..events * fan_out).map(|_| Arrival::default()).collect(),
            arrived: AtomicUsize::new(0),
            repeats: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            body: payload::order(id, 0).len(),
            room: Semaphore::new(backlog.unwrap_or(Semaphore::MAX_PERMITS / 2)),
        });
        Ok(place.get_or_init(|| sheet).clone())
    }

    /// The sink's note: `webhook` is the number of the endpoint, `bytes` the length of the body.
    pub fn arrived(&self, event_id: &[u8], webhook: usize, webhook_id: &[u8], bytes: usize) {
        let noted = payload::parse_event_id(event_id)
            .and_then(|(sheet, number)| self.sheets.get(sheet)?.get()?.arrived(number, webhook, webhook_id, bytes));
        if noted.is_none() {
            self.strays.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }
}

impl Sheet {
    /// The numbers of the next `count` events, once the backlog has room for them; `None` when the sheet is full.
    pub async fn take(&self, count: usize) -> Option<Range<usize>> {
        let room = u32::try_from(count * self.fan_out).ok()?;
        self.room.acquire_many(room).await.ok()?.forget();
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let end = first.saturating_add(count).min(self.published.len());
        (first < end).then_some(first..end)
    }

    /// To be called before the request is sent; `at` is when it should be.
    pub fn publish(&self, number: usize, at: Instant) {
        if let Some(published) = self.published.get(number) {
            published.store(nanos(at.saturating_duration_since(self.start)), Ordering::Relaxed);
        }
    }

    /// To be called when the system has promised delivery.
    pub fn accept(&self, number: usize) {
        if let Some(accepted) = self.accepted.get(number) {
            accepted.store(nanos(self.start.elapsed()), Ordering::Relaxed);
        }
    }

    /// To be called when something else than an event, which has no other end than its answer, was answered.
    pub fn answered(&self, number: usize) {
        let Some(arrival) = self.arrivals.get(number) else { return };
        arrival.at.store(nanos(self.start.elapsed()), Ordering::Relaxed);
        // Nothing was delivered; what tells them apart is their number.
        arrival.webhook_id.store(number as u64, Ordering::Relaxed);
        self.arrived.fetch_add(1, Ordering::Release);
        self.room.add_permits(1);
    }

    fn arrived(&self, number: usize, webhook: usize, webhook_id: &[u8], bytes: usize) -> Option<()> {
        if webhook >= self.fan_out {
            return None;
        }
        let arrival = self.arrivals.get(number * self.fan_out + webhook)?;
        let now = nanos(self.start.elapsed());
        if bytes != self.body {
            self.damaged.fetch_add(1, Ordering::Relaxed);
        }
        if arrival.at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.repeats.fetch_add(1, Ordering::Relaxed);
            return Some(());
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(webhook_id);
        arrival.webhook_id.store(hasher.finish(), Ordering::Relaxed);
        // Whoever sees the count sees what was counted.
        self.arrived.fetch_add(1, Ordering::Release);
        self.room.add_permits(1);
        Some(())
    }

    /// Deliveries so far, without repeats.
    pub fn arrivals(&self) -> usize {
        self.arrived.load(Ordering::Acquire)
    }

    /// The numbers of the events in the order in which they arrived at the first endpoint.
    pub fn order(&self) -> Vec<usize> {
        let mut arrived: Vec<_> = (self.arrivals.iter().step_by(self.fan_out).enumerate())
            .map(|(number, arrival)| (arrival.at.load(Ordering::Relaxed), number))
            .filter(|(at, _)| *at > 0)
            .collect();
        arrived.sort_unstable();
        arrived.into_iter().map(|(_, number)| number).collect()
    }

    /// How many events it has place for.
    pub fn size(&self) -> usize {
        self.published.len()
    }

    /// Deliveries that are to be expected of the events taken so far.
    pub fn expected(&self) -> usize {
        self.next.load(Ordering::Relaxed).min(self.published.len()) * self.fan_out
    }

    /// The sum, once publishers are done and nothing more is expected.
    pub fn tally(&self) -> Tally {
        let at = |cell: &AtomicU64| Some(cell.load(Ordering::Relaxed)).filter(|at| *at > 0);
        let mut tally = Tally { repeats: self.repeats.load(Ordering::Relaxed), ..Tally::default() };
        let (mut latencies, mut answers, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        let (mut first, mut last_accepted, mut last_arrived) = (u64::MAX, 0, 0);
        for (number, published) in self.published.iter().enumerate() {
            let Some(published) = at(published) else { continue };
            first = first.min(published);
            let accepted = at(&self.accepted[number]);
            if let Some(accepted) = accepted {
                tally.accepted += 1;
                answers.push(accepted.saturating_sub(published));
                last_accepted = last_accepted.max(accepted);
            }
            for arrival in &self.arrivals[number * self.fan_out..][..self.fan_out] {
                match at(&arrival.at) {
                    Some(arrived) => {
                        latencies.push(arrived.saturating_sub(published));
                        ids.push(arrival.webhook_id.load(Ordering::Relaxed));
                        last_arrived = last_arrived.max(arrived);
                    }
                    None if accepted.is_some() => tally.lost += 1,
                    None => {}
                }
            }
        }
        tally.arrived = latencies.len();
        ids.sort_unstable();
        ids.dedup();
        // Two deliveries under one webhook-id: the receiver would drop the second as a repeat.
        tally.repeats += (tally.arrived - ids.len()) as u64;
        tally.damaged = self.damaged.load(Ordering::Relaxed);
        tally.accepting = Duration::from_nanos(last_accepted.saturating_sub(first));
        tally.delivering = Duration::from_nanos(last_arrived.saturating_sub(first));
        tally.latency = Percentiles::of(latencies);
        tally.answer = Percentiles::of(answers);
        tally
    }
}

/// What a sheet adds up to.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Events that the system promised to deliver.
    pub accepted: usize,
    /// Deliveries, repeats not counted.
    pub arrived: usize,
    /// Deliveries of accepted events that did not arrive.
    pub lost: u64,
    /// Arrivals under a `webhook-id` that had arrived before.
    pub repeats: u64,
    /// Bodies of a length that was not published.
    pub damaged: u64,
    /// From the first publish to the last promise.
    pub accepting: Duration,
    /// From the first publish to the last arrival.
    pub delivering: Duration,
    /// From publish to arrival.
    pub latency: Option<Percentiles>,
    /// From publish to promise.
    pub answer: Option<Percentiles>,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(ledger: &Ledger, sheet: &Sheet, number: usize, webhook: usize, webhook_id: &str) {
        let event_id = payload::event_id(sheet.id, number);
        ledger.arrived(event_id.as_bytes(), webhook, webhook_id.as_bytes(), sheet.body);
    }

    #[tokio::test]
    async fn lost_and_repeated_deliveries_are_counted() {
        let ledger = Ledger::default();
        let sheet = ledger.open(3, 2, None).unwrap();
        for number in sheet.take(3).await.unwrap() {
            sheet.publish(number, Instant::now());
        }
        assert!(sheet.take(1).await.is_none());
        sheet.accept(0);
        sheet.accept(1);
        note(&ledger, &sheet, 0, 0, "a");
        note(&ledger, &sheet, 0, 1, "b");
        note(&ledger, &sheet, 1, 0, "c");
        note(&ledger, &sheet, 1, 0, "c");
        let tally = sheet.tally();
        // Event 2 was never promised, so only one delivery is lost: of event 1 to endpoint 1.
        assert_eq!((tally.accepted, tally.arrived, tally.lost, tally.repeats, tally.damaged), (2, 3, 1, 1, 0));
        assert_eq!((sheet.arrivals(), sheet.expected()), (3, 6));
    }

    #[test]
    fn two_deliveries_under_one_id_count_as_a_repeat() {
        let ledger = Ledger::default();
        let sheet = ledger.open(1, 2, None).unwrap();
        sheet.publish(0, Instant::now());
        note(&ledger, &sheet, 0, 0, "same");
        note(&ledger, &sheet, 0, 1, "same");
        assert_eq!(sheet.tally().repeats, 1);
    }

    #[tokio::test]
    async fn a_full_backlog_waits_for_an_arrival() {
        let ledger = Ledger::default();
        let sheet = ledger.open(9, 2, Some(4)).unwrap();
        sheet.take(2).await.unwrap();
        let mut next = std::pin::pin!(sheet.take(1));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(next.as_mut().poll(&mut context).is_pending());
        note(&ledger, &sheet, 0, 0, "a");
        assert!(next.as_mut().poll(&mut context).is_pending());
        note(&ledger, &sheet, 0, 1, "b");
        assert_eq!(next.await, Some(2..3));
    }

    #[test]
    fn what_belongs_to_no_sheet_is_a_stray() {
        let ledger = Ledger::default();
        let sheet = ledger.open(1, 1, None).unwrap();
        note(&ledger, &sheet, 1, 0, "number past the end");
        note(&ledger, &sheet, 0, 1, "endpoint past the end");
        ledger.arrived(b"load-09-00000000", 0, b"no such sheet", 1);
        ledger.arrived(b"evt_1", 0, b"not ours", 1);
        assert_eq!((ledger.strays(), sheet.tally().arrived), (4, 0));
    }
}
