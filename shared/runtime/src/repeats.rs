//! Log lines that repeat: of each place in the code, a number in a time is written, and the rest is counted. Whoever makes us write a line
//! for each of a million bad messages would otherwise fill the disk, and hide every other line.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place that are written in a window.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// Of the message of what was left out.
const SHOWN_CHARS: usize = 200;

/// Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repeats(Arc<Mutex<HashMap<Identifier, Seen>>>);

/// A window of one place. Places are as many as there are in the code.
#[derive(Debug)]
struct Seen {
    began: Instant,
    written: u32,
    left_out: u64,
    message: String,
}

impl Repeats {
    fn admits(&self, place: Identifier, now: Instant, message: impl FnOnce() -> String) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen =
            seen.entry(place).or_insert_with(|| Seen { began: now, written: 0, left_out: 0, message: String::new() });
        if now - seen.began >= WINDOW {
            (seen.began, seen.written) = (now, 0);
        }
        if seen.written < LINES {
            seen.written += 1;
            return true;
        }
        if seen.left_out == 0 {
            seen.message = message();
        }
        seen.left_out += 1;
        false
    }

    /// What was left out since the last time.
    fn take(&self) -> Vec<(String, u64)> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = seen.values_mut().filter(|seen| seen.left_out > 0);
        left_out.map(|seen| (std::mem::take(&mut seen.message), std::mem::take(&mut seen.left_out))).collect()
    }

    /// Tells now and then what was left out. It never ends.
    pub(crate) async fn tell(self) {
        loop {
            tokio::time::sleep(WINDOW).await;
            for (message, left_out) in self.take() {
                tracing::warn!(left_out, like = message, "log lines were left out");
            }
        }
    }
}

/// A layer that writes lines, and is not given those that repeat. What is asked for by name, at `debug` or `trace`, it gets whole.
///
/// Rejected: a filter of the layer. One that refuses an event by more than its place leaves a mark behind, by which the next line of the
/// thread is refused too (tracing-subscriber 0.3).
pub(crate) struct Counted<L> {
    pub(crate) lines: L,
    pub(crate) repeats: Repeats,
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for Counted<L> {
    fn on_layer(&mut self, subscriber: &mut S) {
        self.lines.on_layer(subscriber);
    }

    // A line has the spans that it is written in, those of libraries that are asked for by name.
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        self.lines.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        self.lines.on_record(id, values, context);
    }

    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        self.lines.on_enter(id, context);
    }

    fn on_exit(&self, id: &span::Id, context: Context<'_, S>) {
        self.lines.on_exit(id, context);
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        self.lines.on_close(id, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let message = || {
            let mut message = Message::default();
            event.record(&mut message);
            message.0
        };
        if *metadata.level() > Level::INFO || self.repeats.admits(metadata.callsite(), Instant::now(), message) {
            self.lines.on_event(event, context);
        }
    }
}

/// The text of an event, without its fields.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").chars().take(SHOWN_CHARS).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tracing::Callsite as _;
    use tracing_subscriber::filter::EnvFilter;
    use tracing_subscriber::prelude::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_repeats_is_counted_and_others_are_written() {
        let (written, repeats) = (Lines::default(), Repeats::default());
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let layer = Counted { lines, repeats: repeats.clone() };
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(EnvFilter::new("debug")));
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..100 {
                tracing::warn!(number, "a bad message");
                tracing::debug!(number, "asked for");
            }
            tracing::warn!("another");
        });
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let count = |text: &str| written.matches(text).count();
        assert_eq!(
            (count("a bad message"), count("asked for"), count("another")),
            (LINES as usize, 100, 1),
            "{written}"
        );
        assert_eq!(repeats.take(), [("a bad message".to_owned(), 80)]);
        assert!(repeats.take().is_empty());
    }

    #[test]
    fn a_line_within_a_span_is_written_as_json() {
        let written = Lines::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(move || writer.clone());
        let layer = Counted { lines, repeats: Repeats::default() };
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(EnvFilter::new("debug")));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug_span!("Connection", peer = 7).in_scope(|| tracing::debug!("a line of a library"));
        });
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(written.contains("a line of a library") && written.contains("Connection"), "{written}");
    }

    #[test]
    fn the_next_window_has_lines_of_its_own() {
        let (repeats, began) = (Repeats::default(), Instant::now());
        let place =
            tracing::callsite!(name: "place", kind: tracing::metadata::Kind::EVENT, fields:).metadata().callsite();
        let admitted =
            |after: Duration| (0..50).filter(|_| repeats.admits(place.clone(), began + after, String::new)).count();
        assert_eq!(admitted(Duration::ZERO), LINES as usize);
        assert_eq!(admitted(WINDOW / 2), 0);
        assert_eq!(admitted(WINDOW), LINES as usize);
    }
}
