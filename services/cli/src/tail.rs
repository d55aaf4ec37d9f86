//! `shopery deliveries tail`: what happens to deliveries, as it happens.
//!
//! The API tells what was updated since a time, and an outcome may be recorded after the time that it bears. So each look
//! overlaps the one before, a long one from time to time, and what was shown already is left out. While the API does not
//! answer, the look that is due goes back to before it went away. So nothing is missed that is recorded within
//! [`LATE`], and nothing is shown twice. Time is that of the API: the clock of this machine may be wrong.

use std::collections::HashMap;
use std::time::Duration as Pause;

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::{Duration, OffsetDateTime};

use crate::context::Context;
use crate::deliveries::Which;
use crate::failure::Failure;
use crate::json;
use crate::list::PAGE;
use crate::moment;
use crate::output::Output;
use crate::table::state;
use crate::terminal::plain;

/// How far each look goes back behind the one before.
const OVERLAP: Duration = Duration::seconds(5);
/// How late an outcome may be recorded, but for the time in which the API was away.
const LATE: Duration = Duration::minutes(2);
/// How often a look goes back that far.
const LONG_LOOK: Duration = Duration::seconds(15);
/// Deliveries that are remembered at most.
const MAX_SEEN: usize = 200_000;

#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    which: Which,

    /// Begin with what has happened since then
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    since: Option<String>,

    /// How long to wait between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Pause,
}

fn interval(text: &str) -> Result<Pause, String> {
    let time = humantime::parse_duration(text).map_err(|_| "must be a time such as 1s".to_owned())?;
    if (Pause::from_millis(100)..=Pause::from_secs(60)).contains(&time) {
        Ok(time)
    } else {
        Err("must be from 100ms to 60s".into())
    }
}

impl Tail {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let watching = self.watch(context);
        tokio::select! {
            ended = watching => ended,
            _ = &mut interrupted => Ok(()),
        }
    }

    async fn watch(&self, context: &Context) -> Result<(), Failure> {
        let since = self.since.as_deref().and_then(moment::read);
        let mut looks = Looks::new(since);
        let mut seen = Seen::default();
        let mut is_away = false;
        loop {
            match self.look(context, looks.from()).await {
                Ok((rows, date)) => {
                    let is_first = looks.begun.is_none();
                    looks.done(date);
                    let fresh = seen.fresh(rows);
                    // What was there before we came is not news, unless it is asked for.
                    if !is_first || since.is_some() {
                        fresh.iter().try_for_each(|row| row.print(context.output))?;
                    }
                    if is_first {
                        context.output.note("watching; Ctrl-C ends it");
                    } else if is_away {
                        context.output.note("the API answers again; nothing was missed");
                    }
                    is_away = false;
                    seen.forget(looks.horizon());
                }
                Err(Failure::Unavailable(why)) if looks.begun.is_some() => {
                    looks.failed();
                    if !std::mem::replace(&mut is_away, true) {
                        context.output.note(&format!("{}; trying on", crate::redact::redact(&why)));
                    }
                }
                Err(other) => return Err(other),
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// All that was updated since then, and the time of the API when the look began.
    async fn look(
        &self,
        context: &Context,
        from: Option<OffsetDateTime>,
    ) -> Result<(Vec<Row>, OffsetDateTime), Failure> {
        let mut query = self.which.query();
        // The first look of all is for the time of the API.
        let from = match from {
            Some(from) => from,
            None => context.page(&["company", "deliveries"], &vec![], 1, None).await?.date - OVERLAP,
        };
        query.extend(moment::show(from).map(|from| ("updated_at_min", from)));
        let (mut rows, mut cursor, mut began) = (Vec::new(), None::<String>, None);
        loop {
            let page = context.page(&self.which.path(), &query, PAGE, cursor.as_deref()).await?;
            began = began.or(Some(page.date));
            for item in page.data {
                rows.extend(Row::read(item));
            }
            cursor = page.next_cursor;
            if cursor.is_none() || rows.len() >= MAX_SEEN {
                break;
            }
        }
        Ok((rows, began.unwrap_or(from)))
    }
}

/// From when on the next look has to look.
#[derive(Debug)]
struct Looks {
    /// The first look is not silent, and no later one goes back further.
    since: Option<OffsetDateTime>,
    /// When the first look began.
    begun: Option<OffsetDateTime>,
    /// When the last one began.
    last: Option<OffsetDateTime>,
    last_long: Option<OffsetDateTime>,
    /// The last look before the API went away.
    away_since: Option<OffsetDateTime>,
}

impl Looks {
    fn new(since: Option<OffsetDateTime>) -> Self {
        Self { since, begun: None, last: None, last_long: None, away_since: None }
    }

    fn is_long(&self) -> bool {
        self.away_since.is_some() || self.last.zip(self.last_long).is_some_and(|(last, long)| last - long >= LONG_LOOK)
    }

    /// `None` before the first look, if it is not said since when.
    fn from(&self) -> Option<OffsetDateTime> {
        let (Some(last), Some(begun)) = (self.last, self.begun) else { return self.since };
        let back = if self.is_long() { self.horizon().unwrap_or(last) } else { last - OVERLAP };
        Some(back.max(self.since.unwrap_or(begun - OVERLAP)))
    }

    /// No look goes back further than this any more.
    fn horizon(&self) -> Option<OffsetDateTime> {
        Some(self.away_since.or(self.last)? - LATE)
    }

    fn done(&mut self, date: OffsetDateTime) {
        if self.is_long() || self.begun.is_none() {
            self.last_long = Some(date);
        }
        self.begun.get_or_insert(date);
        self.last = Some(date);
        // Whatever waited for the API to come back is recorded by now.
        self.away_since = self.away_since.filter(|away| date - *away < LATE * 2);
    }

    fn failed(&mut self) {
        self.away_since = self.away_since.or(self.last);
    }
}

/// A delivery, as it was at one time.
#[derive(Debug)]
struct Row {
    json: Box<RawValue>,
    id: String,
    version: Version,
    updated: OffsetDateTime,
}

/// What differs when something has happened to a delivery.
#[derive(Debug, Clone, PartialEq)]
struct Version {
    updated_at: String,
    state: String,
    attempts: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    id: String,
    updated_at: String,
    state: String,
    attempt_count: u64,
}

impl Row {
    fn read(json: Box<RawValue>) -> Option<Self> {
        let Shape { id, updated_at, state, attempt_count } = serde_json::from_str(json.get()).ok()?;
        let updated = moment::read(&updated_at)?;
        Some(Self { json, id, version: Version { updated_at, state, attempts: attempt_count }, updated })
    }

    /// There is no end, so JSON is one object a line.
    fn print(&self, output: Output) -> Result<(), Failure> {
        let Some(members) = json::of(&self.json).filter(|_| output.is_human()) else {
            return output.json(self.json.get());
        };
        let text = |path: &str| plain(&members.text(path));
        let clock = self.version.updated_at.get(11..19).unwrap_or_default();
        let state = state(&format!("{:<10}", self.version.state), output.terminal.has_colour);
        let error = Some(text("error.reason")).filter(|reason| !reason.is_empty());
        let attempts = match self.version.attempts {
            1 => "1 attempt".to_owned(),
            n => format!("{n} attempts"),
        };
        let line =
            format!("{clock}  {state}  {}  {:<18}  {}  {attempts}", plain(&self.id), text("event"), text("resource"));
        output.line(&error.map_or(line.clone(), |error| format!("{line}  {error}")))
    }
}

/// What was shown, so that it is not shown again.
#[derive(Debug, Default)]
struct Seen(HashMap<String, (Version, OffsetDateTime)>);

impl Seen {
    /// Those that are new or have changed, in the order in which it happened.
    fn fresh(&mut self, mut rows: Vec<Row>) -> Vec<Row> {
        rows.retain(|row| {
            let before = self.0.insert(row.id.clone(), (row.version.clone(), row.updated));
            before.is_none_or(|(version, _)| version != row.version)
        });
        rows.sort_by(|a, b| (a.updated, &a.id).cmp(&(b.updated, &b.id)));
        rows
    }

    /// What no later look can give is not remembered.
    fn forget(&mut self, horizon: Option<OffsetDateTime>) {
        if let Some(horizon) = horizon {
            self.0.retain(|_, (_, updated)| *updated >= horizon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000 + second).unwrap()
    }

    fn row(id: &str, second: i64, state: &str, attempts: u64) -> Row {
        let updated = moment::show(at(second)).unwrap();
        let json = format!(r#"{{"id":"{id}","updatedAt":"{updated}","state":"{state}","attemptCount":{attempts}}}"#);
        Row::read(RawValue::from_string(json).unwrap()).unwrap()
    }

    fn ids(rows: Vec<Row>) -> Vec<String> {
        rows.into_iter().map(|row| format!("{} {}", row.id, row.version.state)).collect()
    }

    #[test]
    fn each_change_is_shown_once_in_the_order_in_which_it_happened() {
        let mut seen = Seen::default();
        assert_eq!(
            ids(seen.fresh(vec![row("b", 2, "pending", 1), row("a", 1, "delivered", 1)])),
            ["a delivered", "b pending"]
        );
        assert!(seen.fresh(vec![row("b", 2, "pending", 1), row("a", 1, "delivered", 1)]).is_empty());
        // Late, before what was shown already; and a change of what was shown.
        assert_eq!(
            ids(seen.fresh(vec![row("b", 3, "delivered", 2), row("c", 1, "failed", 8)])),
            ["c failed", "b delivered"]
        );
        seen.forget(Some(at(2)));
        assert_eq!(seen.0.len(), 1);
    }

    #[test]
    fn looks_overlap_and_from_time_to_time_go_far_back() {
        let mut looks = Looks::new(None);
        assert_eq!(looks.from(), None);
        looks.done(at(1000));
        assert_eq!(looks.from(), Some(at(995)));
        looks.done(at(1010));
        assert_eq!(looks.from(), Some(at(1005)));
        looks.done(at(1200));
        // Never before the first look.
        assert_eq!(looks.from(), Some(at(1080)));
        looks.done(at(1201));
        assert_eq!(looks.from(), Some(at(1196)));
        looks.done(at(1202));
        assert_eq!(looks.from(), Some(at(1197)));
    }

    #[test]
    fn after_an_outage_looks_go_back_to_before_it() {
        let mut looks = Looks::new(Some(at(0)));
        looks.done(at(1000));
        looks.failed();
        looks.failed();
        looks.done(at(1100));
        assert_eq!(looks.from(), Some(at(880)));
        looks.done(at(1230));
        assert_eq!(looks.from(), Some(at(880)), "what waited is still being recorded");
        looks.done(at(1241));
        assert_eq!(looks.from(), Some(at(1236)));
    }
}
