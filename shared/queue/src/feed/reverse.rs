//! A tenant's events from the newest back.
//!
//! EVENTS is read forward only, so a window is looked for first that ends where reading has come to and holds about as many
//! messages as are wanted, and then read. Every answer says how many messages of the tenant lie behind it (ADR-31), so
//! looking for the window takes one message a step.
//!
//! Invariant: nothing before [`ReverseFeed::end`] has been given, and nothing at or behind it will be. Correctness does not rest
//! on the counts: replicas that lag may contradict each other, and then a part is only shorter or the search longer.

use std::collections::VecDeque;

use anyhow::bail;
use shopery_model::TenantId;

use super::{FeedStart, StoredEvent, Wanted, place, read};
use crate::{Queue, subject};

/// A window has at most this many times the messages that are wanted: the more, the fewer steps.
const MAX_SURPLUS: u64 = 2;
/// Of one batch: what passes through memory beside the events that are kept.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Batches in which a window is read; it needs more only if it holds far more than EVENTS has said.
const MAX_BATCHES: usize = 32;

/// Where reading a tenant's events from the newest back has come to.
#[derive(Debug)]
pub struct ReverseFeed<'a> {
    queue: &'a Queue,
    tenant: &'a TenantId,
    subjects: String,
    /// The place of the oldest message.
    first: u64,
    end: u64,
    /// Messages from `first` to before `end`.
    left: u64,
    /// Messages at or behind `end`.
    behind: u64,
}

impl Queue {
    /// The tenant's events before the place `end`, from the newest back: none from before `from`, and those of one kind of resource
    /// alone if it is given.
    pub async fn reverse_feed<'a>(
        &'a self,
        tenant: &'a TenantId,
        kind: Option<&str>,
        from: FeedStart,
        end: u64,
    ) -> anyhow::Result<ReverseFeed<'a>> {
        let subjects = subject::events(tenant, kind);
        let mut feed = ReverseFeed { queue: self, tenant, subjects, first: end, end, left: 0, behind: 0 };
        if let Some((first, count)) = feed.count(from).await?.filter(|(first, _)| *first < end) {
            feed.behind = feed.count(FeedStart::At(end)).await?.map_or(0, |(_, behind)| behind);
            (feed.first, feed.left) = (first, count.saturating_sub(feed.behind));
        }
        Ok(feed)
    }
}

impl ReverseFeed<'_> {
    /// The place before which the events lie that are still to be read.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn is_over(&self) -> bool {
        self.end <= self.first
    }

    /// The next events, the newest first: at most `count`, and few more than `bytes`. There may be none though more are left: of
    /// what does not read, or was published again.
    pub async fn read(&mut self, count: usize, bytes: usize) -> anyhow::Result<Vec<StoredEvent>> {
        if self.is_over() {
            return Ok(Vec::new());
        }
        let (start, expected) = self.window(u64::try_from(count)?.max(1)).await?;
        let mut newest = Newest::of(count, bytes);
        self.read_window(start, expected, &mut newest).await?;
        let looked_at = u64::try_from(newest.messages.len())?;
        (self.left, self.behind) = (self.left.saturating_sub(looked_at), self.behind + looked_at);
        self.end = newest.begins_at().unwrap_or(start);
        Ok(newest.messages.into_iter().rev().filter_map(|(_, event)| event).collect())
    }

    /// Where to begin, so that about `wanted` messages lie from there to the end; and how many these are.
    async fn window(&self, wanted: u64) -> anyhow::Result<(u64, u64)> {
        if self.left <= wanted * MAX_SURPLUS {
            return Ok((self.first, self.left));
        }
        let mut search = Search::new(self.first, self.end, self.left, wanted);
        loop {
            let from = self.count(FeedStart::At(search.place())).await?.map_or(0, |(_, count)| count);
            let count = from.saturating_sub(self.behind);
            if search.is_found(count) {
                return Ok((search.place(), count));
            }
        }
    }

    /// Reads all that lies from a start to the end: `expected` messages, as EVENTS has said.
    async fn read_window(&self, mut start: u64, expected: u64, newest: &mut Newest) -> anyhow::Result<()> {
        let (mut missing, mut least) = (usize::try_from(expected)?, 1);
        for _ in 0..MAX_BATCHES {
            let wanted = Wanted {
                batch: missing.max(least),
                max_bytes: Some(BATCH_BYTES),
                ..Wanted::from_start(FeedStart::At(start), &self.subjects)
            };
            let (mut next, mut count) = (None, 0);
            let behind = self.queue.batch(&wanted, |answer| {
                let (sequence, stored_at, event) = read(answer, self.tenant)?;
                (next, count) = (Some(sequence + 1), count + 1);
                if sequence < self.end {
                    newest.push(sequence, event.map(|event| StoredEvent { sequence, stored_at, event }));
                }
                Ok(())
            });
            let behind = behind.await?;
            match next {
                Some(next) if behind > 0 && next < self.end => start = next,
                _ => return Ok(()),
            }
            missing = missing.saturating_sub(count);
            // What was said is read. As a rule the next message lies behind the end; if not, there is more.
            least *= if missing == 0 { 2 } else { 1 };
        }
        bail!("EVENTS holds more before {} than it says", self.end)
    }

    /// The first message from a start on, and how many messages there are from it on; `None` if there is none.
    async fn count(&self, start: FeedStart) -> anyhow::Result<Option<(u64, u64)>> {
        let (wanted, mut first) = (Wanted::from_start(start, &self.subjects), None);
        let behind = self.queue.batch(&wanted, |answer| {
            first = Some(place(answer)?.0);
            Ok(())
        });
        let behind = behind.await?;
        Ok(first.map(|first| (first, behind + 1)))
    }
}

/// The newest messages of a window, as far as they fit: what is no event to show among them.
#[derive(Debug)]
struct Newest {
    messages: VecDeque<(u64, Option<StoredEvent>)>,
    count: usize,
    bytes: usize,
    max_count: usize,
    max_bytes: usize,
    is_cut: bool,
}

impl Newest {
    fn of(max_count: usize, max_bytes: usize) -> Self {
        Self { messages: VecDeque::new(), count: 0, bytes: 0, max_count, max_bytes, is_cut: false }
    }

    /// Adds a newer message. The newest event stays, however large it is.
    fn push(&mut self, sequence: u64, event: Option<StoredEvent>) {
        if let Some(event) = &event {
            self.count += 1;
            self.bytes += event.event.data.len();
        }
        self.messages.push_back((sequence, event));
        while self.count > 1 && (self.count > self.max_count || self.bytes > self.max_bytes) {
            self.is_cut = true;
            if let Some((_, Some(event))) = self.messages.pop_front() {
                self.count -= 1;
                self.bytes -= event.event.data.len();
            }
        }
    }

    /// Where they begin, if older ones have been left out.
    fn begins_at(&self) -> Option<u64> {
        self.messages.front().filter(|_| self.is_cut).map(|(sequence, _)| *sequence)
    }
}

/// Looks for a place from which `wanted` messages lie before the end, or up to [`MAX_SURPLUS`] times as many. There is one if
/// more of them lie from the first place on, since from place to place their number changes by one at most.
#[derive(Debug)]
struct Search {
    end: u64,
    wanted: u64,
    /// Distances from the end: within the one lie too few, within the other too many.
    few: u64,
    many: u64,
    guess: u64,
}

impl Search {
    /// `left` messages lie from `first` to the end.
    fn new(first: u64, end: u64, left: u64, wanted: u64) -> Self {
        let many = end.saturating_sub(first).max(1);
        // As if they were spread evenly: between once and twice as many as are wanted.
        let guess = u128::from(many) * u128::from(wanted) * 3 / 2 / u128::from(left.max(1));
        Self { end, wanted, few: 0, many, guess: u64::try_from(guess).unwrap_or(many).clamp(1, many) }
    }

    fn place(&self) -> u64 {
        self.end - self.guess
    }

    /// Whether the place is one, if this many messages lie from it to the end; otherwise the next place has been chosen.
    fn is_found(&mut self, count: u64) -> bool {
        if count < self.wanted {
            self.few = self.guess;
        } else if count > self.wanted * MAX_SURPLUS {
            self.many = self.guess;
        } else {
            return true;
        }
        if self.many.saturating_sub(self.few) <= 1 {
            // Replicas contradict each other. What is taken now is little, and more comes with the next part.
            self.guess = self.few.max(1);
            return true;
        }
        // The geometric mean: what is looked for may be ten places away or a billion.
        let middle = (u128::from(self.few.max(1)) * u128::from(self.many)).isqrt();
        self.guess = u64::try_from(middle).unwrap_or(u64::MAX).clamp(self.few + 1, self.many - 1);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use shopery_model::Event;
    use time::macros::datetime;

    /// Where a tenant's messages lie: spread evenly, in bursts long ago and just now, and with nothing of others between.
    fn layouts() -> Vec<Vec<u64>> {
        let burst = |from: u64, count: u64| from..from + count;
        vec![
            (0..5_000).map(|number| 1 + number * 7).collect(),
            burst(1, 5_000).chain([9_000_000_000]).collect(),
            [1].into_iter().chain(burst(9_000_000_000, 5_000)).collect(),
            burst(1, 300).chain(burst(70_000, 300)).chain(burst(1_000_000_000_000, 300)).collect(),
            burst(40, 2_000).collect(),
        ]
    }

    #[test]
    fn a_window_is_found_in_few_steps_wherever_the_messages_lie() {
        for places in layouts() {
            for end in [*places.last().unwrap() + 1, places[places.len() / 2], *places.last().unwrap() + 1_000_000] {
                for wanted in [1, 7, 50] {
                    let before = |place: u64| places.iter().filter(|one| (place..end).contains(*one)).count() as u64;
                    let mut search = Search::new(places[0], end, before(places[0]), wanted);
                    let mut steps = 1;
                    while !search.is_found(before(search.place())) {
                        steps += 1;
                    }
                    let found = before(search.place());
                    assert!((wanted..=2 * wanted).contains(&found), "{found} for {wanted} before {end}");
                    assert!(steps <= 50, "{steps} steps for {wanted} before {end}");
                }
            }
        }
    }

    #[test]
    fn a_search_ends_and_goes_on_whatever_it_is_told() {
        for told in [0, u64::MAX] {
            let mut search = Search::new(1, 1_000_000, 1_000, 50);
            while !search.is_found(told) {}
            assert!((1..1_000_000).contains(&search.place()), "{search:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_for_the_next_part() {
        let stored_at = datetime!(2026-11-24 10:00 UTC);
        let event = |sequence| {
            let json =
                br#"{"specversion":"1.0","id":"e","source":"s","type":"order-paid","subject":"order/1","data":{}}"#;
            let event = Event::parse_stored(&Bytes::from_static(json), stored_at).unwrap();
            Some(StoredEvent { sequence, stored_at, event })
        };
        let kept = |max_count, max_bytes| {
            let mut newest = Newest::of(max_count, max_bytes);
            newest.push(3, event(3));
            newest.push(4, None);
            newest.push(7, event(7));
            newest.push(9, None);
            (newest.messages.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), newest.begins_at())
        };
        assert_eq!(kept(2, 100), (vec![3, 4, 7, 9], None));
        // What is no event to show is in one of the parts, whichever that is.
        assert_eq!(kept(1, 100), (vec![4, 7, 9], Some(4)));
        assert_eq!(kept(2, 3), (vec![4, 7, 9], Some(4)));
        assert_eq!(kept(1, 0), (vec![4, 7, 9], Some(4)));
    }
}
