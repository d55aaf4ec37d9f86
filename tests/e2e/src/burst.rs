//! A burst of events from publishers that do as they should: each event is published again, with the same id, until it
//! is acknowledged. What was acknowledged is what must be delivered.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::{Client, Event, Publisher, wait};

/// Of each publisher, between two events.
const PACE: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(60);
/// Over HTTP, one of this number of events is first published by a client that disconnects before it has the answer.
const GIVES_UP: usize = 16;
const IMPATIENCE: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    published: Mutex<Vec<String>>,
    accepted: Mutex<Vec<String>>,
    refusals: AtomicUsize,
}

#[derive(Debug)]
pub struct Burst {
    tally: Arc<Tally>,
    publishers: JoinSet<()>,
}

impl Burst {
    /// `over_http` and `over_nats` publishers at once, for the tenant of the client and the publisher.
    pub fn start(name: &str, client: &Client, over_http: usize, nats: &Publisher, over_nats: usize) -> Self {
        let tally = Arc::<Tally>::default();
        let mut publishers = JoinSet::new();
        for number in 0..over_http {
            let (client, tally, name) = (client.clone(), tally.clone(), format!("{name}_h{number}"));
            let sent = AtomicUsize::new(0);
            publishers.spawn(publish(name, tally, async move |event: &Event| {
                if sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(GIVES_UP) {
                    // Whether it was stored, this client does not know, and publishes it again.
                    let _ = tokio::time::timeout(IMPATIENCE, client.try_publish(event)).await;
                }
                client.try_publish(event).await.is_ok_and(|reply| match reply.status {
                    202 => true,
                    // A service that starts or stops may say so; anything else is wrong.
                    503 => false,
                    status => panic!("{status}: {}", reply.text()),
                })
            }));
        }
        for number in 0..over_nats {
            let (nats, tally, name) = (nats.clone(), tally.clone(), format!("{name}_n{number}"));
            publishers.spawn(publish(name, tally, async move |event: &Event| match nats.publish(event).await {
                Ok(reply) => reply["seq"].is_u64(),
                Err(_) => false,
            }));
        }
        Self { tally, publishers }
    }

    pub fn accepted(&self) -> usize {
        self.tally.accepted.lock().unwrap().len()
    }

    /// The ids of those that have been published so far, acknowledged or not.
    pub fn published_ids(&self) -> HashSet<String> {
        self.tally.published.lock().unwrap().iter().cloned().collect()
    }

    /// Times that a publisher was not acknowledged.
    pub fn refusals(&self) -> usize {
        self.tally.refusals.load(Ordering::Relaxed)
    }

    /// Waits until so many more events have been acknowledged.
    pub async fn progress(&self, events: usize) {
        let wanted = self.accepted() + events;
        wait::until(&format!("{events} more acknowledged events"), PATIENCE, async || match self.accepted() {
            accepted if accepted >= wanted => Ok(()),
            accepted => Err(format!("{accepted} of {wanted}; {} refusals", self.refusals())),
        })
        .await;
    }

    /// Waits until so many more publishes have failed.
    pub async fn setbacks(&self, refusals: usize) {
        let wanted = self.refusals() + refusals;
        let what = format!("{refusals} more failed publishes");
        wait::until_true(&what, PATIENCE, async || self.refusals() >= wanted).await;
    }

    /// Ends the burst. Returns the ids of the events, every one of them acknowledged in the end.
    pub async fn end(mut self) -> HashSet<String> {
        self.tally.stop.store(true, Ordering::Relaxed);
        wait::within("the last acknowledgements", PATIENCE, async {
            while let Some(done) = self.publishers.join_next().await {
                done.unwrap();
            }
        })
        .await;
        let accepted = std::mem::take(&mut *self.tally.accepted.lock().unwrap());
        let ids: HashSet<_> = accepted.iter().cloned().collect();
        assert_eq!(ids.len(), accepted.len(), "an event was published anew after its acknowledgement");
        ids
    }
}

async fn publish(name: String, tally: Arc<Tally>, send: impl AsyncFn(&Event) -> bool) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0.. {
        if tally.stop.load(Ordering::Relaxed) {
            return;
        }
        let event = Event::order(&format!("{name}_{number}"));
        tally.published.lock().unwrap().push(event.id.clone());
        loop {
            pace.tick().await;
            if send(&event).await {
                break;
            }
            tally.refusals.fetch_add(1, Ordering::Relaxed);
        }
        tally.accepted.lock().unwrap().push(event.id);
    }
}
