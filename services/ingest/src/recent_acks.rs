//! What EVENTS said of events that came over NATS recently.
//!
//! A message of NATS is seen twice by ingest: by the task that answers its publisher, and by the one that forwards it from
//! INBOUND. Whoever comes first stores it for both, so each message is published to EVENTS once.
//!
//! Which of two is a repeat cannot be read from the acknowledgement then, since both tasks get the same one. An entry says
//! whether its publisher was answered: the first answer is that of EVENTS, and each later one is to a repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::publish::PublishAck;
use moka::future::Cache;
use shopery_queue::PublishError;

/// How many there are, and for how long: both are bounds on memory, no promise. EVENTS itself knows an id for longer.
const MAX_ENTRIES: u64 = 64 * 1024;
const TIME_TO_LIVE: Duration = Duration::from_secs(60);

/// Both tasks see a message within this time. What was forwarded before that and is answered now was published without
/// a wish for an answer, and is published again.
const SAME_MESSAGE: Duration = Duration::from_secs(1);

/// An event that EVENTS has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Accepted {
    pub(crate) ack: PublishAck,
    /// It was there before.
    pub(crate) is_repeat: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAccepted {
    /// Its source and id are those of another event.
    #[error("another event has its source and id")]
    Conflict,
    /// It may be stored or not: its publisher repeats it with the same id.
    #[error(transparent)]
    Unavailable(PublishError),
}

/// The two tasks that see each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Answer,
    Forward,
}

#[derive(Debug, Clone)]
pub(crate) struct RecentAcks(Cache<String, Arc<RecentAck>>);

#[derive(Debug)]
struct RecentAck {
    accepted: Accepted,
    content_digest: [u8; 32],
    made_by: Task,
    made_at: Instant,
    is_answered: AtomicBool,
}

impl RecentAcks {
    pub(crate) fn new() -> Self {
        Self(Cache::builder().max_capacity(MAX_ENTRIES).time_to_live(TIME_TO_LIVE).build())
    }

    /// What became of the event with this id and content, for one of the tasks; `store` runs if it is not known. `None` if
    /// the id is known with other content: EVENTS has to be asked then.
    pub(crate) async fn get_or_store(
        &self,
        id: String,
        content_digest: [u8; 32],
        task: Task,
        store: impl Future<Output = Result<Accepted, NotAccepted>>,
    ) -> Result<Option<Accepted>, Arc<NotAccepted>> {
        let mut is_mine = false;
        let entry = async {
            is_mine = true;
            let (accepted, made_at) = (store.await?, Instant::now());
            let is_answered = AtomicBool::new(false);
            Ok(Arc::new(RecentAck { accepted, content_digest, made_by: task, made_at, is_answered }))
        };
        match self.0.try_get_with(id, entry).await {
            Ok(recent) if recent.content_digest == content_digest => Ok(Some(recent.tell(task, Instant::now()))),
            Ok(_) => Ok(None),
            // Of an event that came at the same time, whose content may be another.
            Err(error) if !is_mine && matches!(*error, NotAccepted::Conflict) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl RecentAck {
    fn tell(&self, task: Task, now: Instant) -> Accepted {
        let mut accepted = self.accepted.clone();
        if task == Task::Answer {
            let is_answered = self.is_answered.swap(true, Ordering::Relaxed);
            let is_older = self.made_by == Task::Forward && now.duration_since(self.made_at) > SAME_MESSAGE;
            accepted.is_repeat |= is_answered || is_older;
        }
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: [u8; 32] = [1; 32];
    const OTHER: [u8; 32] = [2; 32];

    fn recent(made_by: Task, is_repeat: bool) -> RecentAck {
        let accepted = Accepted { ack: PublishAck::default(), is_repeat };
        let (made_at, is_answered) = (Instant::now(), AtomicBool::new(false));
        RecentAck { accepted, content_digest: ONE, made_by, made_at, is_answered }
    }

    #[test]
    fn the_first_answer_is_that_of_events_and_later_ones_are_to_repeats() {
        for made_by in [Task::Answer, Task::Forward] {
            let recent = recent(made_by, false);
            let now = recent.made_at;
            assert!(!recent.tell(Task::Forward, now).is_repeat, "forwarding answers nobody");
            let told: Vec<_> = (0..3).map(|_| recent.tell(Task::Answer, now).is_repeat).collect();
            assert_eq!(told, [false, true, true], "{made_by:?}");
        }
        let known = recent(Task::Answer, true);
        assert!(known.tell(Task::Answer, known.made_at).is_repeat);
    }

    #[test]
    fn what_was_forwarded_long_before_it_is_answered_is_a_repeat() {
        for (made_by, after, is_repeat) in [
            (Task::Forward, SAME_MESSAGE, false),
            (Task::Forward, SAME_MESSAGE + Duration::from_millis(1), true),
            (Task::Answer, SAME_MESSAGE * 30, false),
        ] {
            let recent = recent(made_by, false);
            assert_eq!(recent.tell(Task::Answer, recent.made_at + after).is_repeat, is_repeat, "{made_by:?} {after:?}");
        }
    }

    #[tokio::test]
    async fn an_event_is_stored_once_for_both_tasks_and_other_content_is_not_taken_for_it() {
        let acks = RecentAcks::new();
        let new = async || Ok(Accepted { ack: PublishAck::default(), is_repeat: false });
        let never = async || -> Result<Accepted, NotAccepted> { panic!("it is known") };
        let told = acks.get_or_store("id".into(), ONE, Task::Forward, new()).await.unwrap().unwrap();
        assert!(!told.is_repeat);
        let told = acks.get_or_store("id".into(), ONE, Task::Answer, never()).await.unwrap().unwrap();
        assert!(!told.is_repeat);
        let told = acks.get_or_store("id".into(), ONE, Task::Answer, never()).await.unwrap().unwrap();
        assert!(told.is_repeat);
        assert_eq!(acks.get_or_store("id".into(), OTHER, Task::Answer, never()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_conflict_is_told_to_its_own_event_and_not_kept() {
        let acks = RecentAcks::new();
        let refuse = async || {
            tokio::task::yield_now().await;
            Err(NotAccepted::Conflict)
        };
        let (first, second) = tokio::join!(
            acks.get_or_store("id".into(), ONE, Task::Answer, refuse()),
            acks.get_or_store("id".into(), OTHER, Task::Answer, async { panic!("the other runs") }),
        );
        assert!(matches!(*first.unwrap_err(), NotAccepted::Conflict));
        assert_eq!(second.unwrap(), None);
        let new = async { Ok(Accepted { ack: PublishAck::default(), is_repeat: false }) };
        assert!(acks.get_or_store("id".into(), OTHER, Task::Answer, new).await.unwrap().is_some());
    }
}
