//! Counts of what happened to the deliveries of a webhook, minute by minute and hour by hour, so that they can be told without
//! reading the history. After two days the hours alone are left.
//!
//! Both are written at once. Rejected: hours that are made of minutes when these are two days old, since then whoever asks for
//! the last day of many webhooks in hours has all the minutes of it read and summed.
//!
//! What is counted: an attempt, when it ends; an end, when it is reached, once for every round. A delivery that fails with its
//! carrier has been counted at the end that it had before, and is not counted again. Percentiles of an
//! attempt's time come from buckets whose bounds lie 19 % apart.
//!
//! The tenant is counted beside its webhooks, so that its metrics do not cost more than those of one of them.
//!
//! Invariant: a message of OUTCOMES is counted once, however often it is recorded: its place in the stream is written in
//! the transaction that counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    Statement, TransactionTrait, Value,
};
use shopery_model::{DeliveryId, DeliveryState, Fault, Outcome, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::entity::delivery;
use crate::history;
use crate::sql::{in_sizes, numbered};
use crate::{Store, StoreError, to_millis};

/// How long a bucket is, in milliseconds, tells the sizes apart. A minute beside which its hour is counted has another number than
/// one that is to become a part of its hour, as earlier versions have counted it.
const LONE_MINUTE: i64 = 60_000;
pub(crate) const MINUTE: i64 = 60_001;
pub(crate) const HOUR: i64 = 3_600_000;
const MINUTE_MILLIS: i64 = 60_000;
/// Counts are told by the minute for this time, then by the hour.
const MINUTES_TOLD: time::Duration = time::Duration::days(2);
/// Longer than they are told, so that a query that has begun to read minutes finds all of them.
pub(crate) const MINUTES_KEPT: time::Duration = time::Duration::hours(49);
/// Webhooks and tenants whose minutes are folded at a time.
const FOLDED: usize = 100;

/// A message of OUTCOMES: where the stream has it, and since when. Were the stream made anew, the time would differ.
#[derive(Debug, Clone)]
pub struct Recorded<'a> {
    pub sequence: u64,
    pub at: OffsetDateTime,
    pub outcomes: &'a [Outcome],
}

impl Recorded<'_> {
    fn place(&self) -> (i64, i64) {
        (i64::try_from(self.sequence).unwrap_or(i64::MAX), to_millis(self.at))
    }
}

/// Windows of time, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    pub from: OffsetDateTime,
    pub step: Duration,
    pub count: u32,
}

/// What can be counted: each is a column, in the order of [`Kind::all`]. What is new needs a migration that adds its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Attempts,
    Failed(Fault),
    State(DeliveryState),
    /// By how long it took: the index of a bucket.
    Latency(usize),
}

/// Four buckets for each doubling; the last one ends at 110 s, and has what took longer.
const LATENCIES: usize = 68;
const COLUMNS: usize = 1 + Fault::ALL.len() + DeliveryState::ALL.len() + LATENCIES;

impl Kind {
    fn all() -> impl Iterator<Item = Self> {
        let (faults, states) =
            (Fault::ALL.into_iter().map(Self::Failed), DeliveryState::ALL.into_iter().map(Self::State));
        [Self::Attempts].into_iter().chain(faults).chain(states).chain((0..LATENCIES).map(Self::Latency))
    }

    fn column(self) -> String {
        match self {
            Self::Attempts => "attempts".to_owned(),
            Self::Failed(fault) => format!("failed_{}", fault.name()),
            Self::State(state) => format!("state_{}", state.name()),
            Self::Latency(index) => format!("ms_{index}"),
        }
    }

    fn index(self) -> usize {
        let place_of = |position: Option<usize>| position.unwrap_or_default();
        match self {
            Self::Attempts => 0,
            Self::Failed(fault) => 1 + place_of(Fault::ALL.iter().position(|known| *known == fault)),
            Self::State(state) => {
                1 + Fault::ALL.len() + place_of(DeliveryState::ALL.iter().position(|known| *known == state))
            }
            Self::Latency(index) => COLUMNS - LATENCIES + index.min(LATENCIES - 1),
        }
    }
}

/// The bucket of a time.
fn bucket(millis: u32) -> usize {
    (f64::from(Ord::max(millis, 1)).log2() * 4.0).ceil() as usize
}

/// The longest time of a bucket, in milliseconds.
fn bound(bucket: usize) -> f64 {
    2f64.powf(bucket as f64 / 4.0)
}

/// What was counted in a window of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts([u64; COLUMNS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; COLUMNS])
    }
}

impl Counts {
    fn add(&mut self, kind: Kind) {
        self.0[kind.index()] += 1;
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    pub fn attempts(&self) -> u64 {
        self.0[0]
    }

    /// Attempts that failed, by reason.
    pub fn failed(&self) -> BTreeMap<&'static str, u64> {
        self.those(Fault::ALL.map(|fault| (fault.name(), Kind::Failed(fault))))
    }

    /// Deliveries that came to an end, or were parked, by state.
    pub fn states(&self) -> BTreeMap<&'static str, u64> {
        self.those(DeliveryState::ALL.map(|state| (state.name(), Kind::State(state))))
    }

    fn those<const N: usize>(&self, kinds: [(&'static str, Kind); N]) -> BTreeMap<&'static str, u64> {
        let counts = kinds.into_iter().map(|(name, kind)| (name, self.0[kind.index()]));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// So many of a thousand attempts took no longer, in milliseconds; up to 19 % too much. `None` if there were none.
    pub fn latency(&self, per_mille: u64) -> Option<f64> {
        let latencies = &self.0[COLUMNS - LATENCIES..];
        let rank = Ord::max((latencies.iter().sum::<u64>() * per_mille).div_ceil(1000), 1);
        let mut seen = 0;
        latencies.iter().enumerate().find_map(|(index, count)| {
            seen += count;
            (seen >= rank).then(|| bound(index))
        })
    }
}

/// Whose counts they are, as a row names it: a webhook, or all of a tenant's.
fn subject(tenant: &TenantId, webhook: Option<WebhookId>) -> String {
    // No id of a webhook begins so.
    webhook.map_or_else(|| format!("tenant:{tenant}"), |id| id.to_string())
}

/// The tenant, whose counts they are, the size of the bucket and its beginning.
type Key<'a> = (&'a TenantId, Option<WebhookId>, i64, i64);

fn count<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> BTreeMap<Key<'a>, Counts> {
    let mut counts = BTreeMap::<Key<'a>, Counts>::new();
    for outcome in outcomes {
        let minute = to_millis(outcome.at).div_euclid(MINUTE_MILLIS) * MINUTE_MILLIS;
        for webhook in [Some(outcome.job.webhook), None] {
            let counts = counts.entry((&outcome.job.tenant, webhook, MINUTE, minute)).or_default();
            if let Some(attempt) = &outcome.attempt {
                counts.add(Kind::Attempts);
                counts.add(Kind::Latency(bucket(attempt.duration_ms)));
                if let Some((fault, _)) = &outcome.fault {
                    counts.add(Kind::Failed(*fault));
                }
            }
            let state = history::state(outcome);
            if state != DeliveryState::Pending {
                counts.add(Kind::State(state));
            }
        }
    }
    let mut hours = BTreeMap::<Key<'a>, Counts>::new();
    for ((tenant, webhook, _, minute), counts) in &counts {
        let hour = minute.div_euclid(HOUR) * HOUR;
        hours.entry((tenant, *webhook, HOUR, hour)).or_default().merge(counts);
    }
    counts.append(&mut hours);
    counts
}

/// The columns that are counts, with commas between.
fn columns() -> &'static str {
    static COLUMNS: LazyLock<String> = LazyLock::new(|| list(|column| column.to_owned()));
    &COLUMNS
}

/// The sums of those columns.
fn sums() -> &'static str {
    static SUMS: LazyLock<String> = LazyLock::new(|| list(|column| format!("CAST(SUM({column}) AS BIGINT)")));
    &SUMS
}

/// Something of each column that is a count, with commas between.
fn list(of: impl Fn(&str) -> String) -> String {
    Kind::all().map(|kind| of(&kind.column())).collect::<Vec<_>>().join(", ")
}

/// Where there is a row already, the counts are added up.
fn or_add() -> &'static str {
    static SQL: LazyLock<String> = LazyLock::new(|| {
        let sums = list(|column| format!("{column} = r.{column} + excluded.{column}"));
        format!("ON CONFLICT (subject, size, bucket) DO UPDATE SET {sums}")
    });
    &SQL
}

/// Counts those of the messages that were not counted before.
pub(crate) async fn write(transaction: &DatabaseTransaction, messages: &[Recorded<'_>]) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let statement =
        |sql: &str, values: Vec<Value>| Statement::from_sql_and_values(backend, numbered(backend, sql), values);
    let mut fresh = BTreeSet::new();
    for part in in_sizes(messages) {
        let places = vec!["(?, ?)"; part.len()].join(", ");
        let sql = format!(
            "INSERT INTO recorded (sequence, at) VALUES {places} ON CONFLICT DO NOTHING RETURNING sequence, at"
        );
        let values = part.iter().flat_map(|message| [message.place().0.into(), message.place().1.into()]);
        for row in transaction.query_all_raw(statement(&sql, values.collect())).await? {
            fresh.insert((row.try_get::<i64>("", "sequence")?, row.try_get::<i64>("", "at")?));
        }
    }
    // The same message twice in one batch is counted once.
    let fresh = messages.iter().filter(|message| fresh.remove(&message.place()));
    let counts: Vec<_> = count(fresh.flat_map(|message| message.outcomes)).into_iter().collect();
    for part in in_sizes(&counts) {
        let row = format!("(?, ?, ?, ?{})", ", ?".repeat(COLUMNS));
        let places = vec![row.as_str(); part.len()].join(", ");
        let (columns, or_add) = (columns(), or_add());
        let sql =
            format!("INSERT INTO counts AS r (tenant, subject, size, bucket, {columns}) VALUES {places} {or_add}");
        let values = part.iter().flat_map(|((tenant, webhook, size, bucket), Counts(counts))| {
            let whose: [Value; 4] =
                [tenant.as_str().into(), subject(tenant, *webhook).into(), (*size).into(), (*bucket).into()];
            whose.into_iter().chain(counts.iter().map(|count| i64::try_from(*count).unwrap_or(i64::MAX).into()))
        });
        transaction.execute_raw(statement(&sql, values.collect())).await?;
    }
    Ok(())
}

impl Store {
    /// What was counted in windows side by side, by their number, but for those in which nothing was. A bucket belongs to the
    /// window in which it begins. `now` decides what is still known by the minute.
    pub async fn counts(
        &self,
        tenant: &TenantId,
        webhook: Option<WebhookId>,
        windows: Windows,
        now: OffsetDateTime,
    ) -> Result<BTreeMap<u64, Counts>, StoreError> {
        let subject = subject(tenant, webhook);
        Ok(self
            .counts_by_subject(tenant, vec![subject.clone()], windows, now)
            .await?
            .remove(&subject)
            .unwrap_or_default())
    }

    /// The same of several webhooks, but for those of which nothing was counted.
    pub async fn counts_of(
        &self,
        tenant: &TenantId,
        webhooks: &[WebhookId],
        windows: Windows,
        now: OffsetDateTime,
    ) -> Result<BTreeMap<WebhookId, BTreeMap<u64, Counts>>, StoreError> {
        let subjects = webhooks.iter().map(|webhook| subject(tenant, Some(*webhook))).collect();
        let mut counts = self.counts_by_subject(tenant, subjects, windows, now).await?;
        let of = |webhook: &WebhookId| Some((*webhook, counts.remove(&subject(tenant, Some(*webhook)))?));
        Ok(webhooks.iter().filter_map(of).collect())
    }

    async fn counts_by_subject(
        &self,
        tenant: &TenantId,
        subjects: Vec<String>,
        windows: Windows,
        now: OffsetDateTime,
    ) -> Result<BTreeMap<String, BTreeMap<u64, Counts>>, StoreError> {
        if subjects.is_empty() {
            return Ok(BTreeMap::new());
        }
        let from = to_millis(windows.from);
        let step = i64::try_from(windows.step.as_millis()).unwrap_or(i64::MAX).max(1);
        let until = from.saturating_add(step.saturating_mul(i64::from(windows.count)));
        let places = vec!["?"; subjects.len()].join(", ");
        // Sums of hundreds of windows would cost more than all else. A window no longer than the buckets of a size has one of
        // them at most, which is read as it is.
        let of_size = |(size, _)| {
            let (counts, group) = match step <= size {
                true => (columns(), ""),
                false => (sums(), "GROUP BY 1, 2"),
            };
            format!(
                "SELECT subject, (bucket - ?) / ?, {counts} FROM counts \
                 WHERE tenant = ? AND subject IN ({places}) AND size = {size} AND bucket >= ? AND bucket < ? {group}"
            )
        };
        let are_hours = from % HOUR == 0 && step % HOUR == 0;
        let by_minute = to_millis(now.checked_sub(MINUTES_TOLD).unwrap_or(now)).div_euclid(HOUR) * HOUR;
        let sizes = match are_hours {
            true => vec![(HOUR, (from, until)), (LONE_MINUTE, (from, until))],
            false => vec![
                (HOUR, (from, until.min(by_minute))),
                (MINUTE, (from.max(by_minute), until)),
                (LONE_MINUTE, (from, until)),
            ],
        };
        // One statement, so that what is folded meanwhile is seen once.
        let sql = sizes.iter().copied().map(of_size).collect::<Vec<_>>().join(" UNION ALL ");
        let mut values = Vec::<Value>::new();
        for (_, (since, before)) in sizes {
            values.extend([Value::from(from), step.into(), tenant.as_str().into()]);
            values.extend(subjects.iter().cloned().map(Value::from));
            values.extend([Value::from(since), before.into()]);
        }
        let backend = self.db.get_database_backend();
        let rows = Statement::from_sql_and_values(backend, numbered(backend, &sql), values);
        let mut found = BTreeMap::<String, BTreeMap<u64, Counts>>::new();
        for row in self.db.query_all_raw(rows).await? {
            let number = u64::try_from(row.try_get_by_index::<i64>(1)?).unwrap_or_default();
            let of_subject = found.entry(row.try_get_by_index(0)?).or_default();
            let counts = &mut of_subject.entry(number).or_default().0;
            for (index, count) in counts.iter_mut().enumerate() {
                *count += u64::try_from(row.try_get_by_index::<i64>(index + 2)?).unwrap_or_default();
            }
        }
        Ok(found)
    }

    /// When the oldest delivery was made that is still to be sent.
    pub async fn oldest_waiting(
        &self,
        tenant: &TenantId,
        webhook: Option<WebhookId>,
    ) -> Result<Option<OffsetDateTime>, StoreError> {
        use delivery::Column;
        let open = DeliveryState::ALL.into_iter().filter(|state| state.is_open()).map(DeliveryState::name);
        let mut oldest = delivery::Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::Tenant.eq(tenant.as_str()))
            .filter(Column::State.is_in(open))
            .order_by_asc(Column::Id)
            .limit(1);
        if let Some(webhook) = webhook {
            oldest = oldest.filter(Column::WebhookId.eq(webhook.to_string()));
        }
        let id: Option<String> = oldest.into_tuple().one(&self.db).await?;
        let read = |id: String| id.parse::<DeliveryId>().map_err(|_| StoreError::Corrupt(format!("delivery {id}")));
        Ok(id.map(read).transpose()?.map(DeliveryId::created_at))
    }

    /// The same of several webhooks, but for those for which nothing waits.
    pub async fn oldest_waiting_of(
        &self,
        tenant: &TenantId,
        webhooks: &[WebhookId],
    ) -> Result<BTreeMap<WebhookId, OffsetDateTime>, StoreError> {
        if webhooks.is_empty() {
            return Ok(BTreeMap::new());
        }
        // An index has the first of each at once; all of those that wait may be millions.
        let open = DeliveryState::ALL.into_iter().filter(|state| state.is_open());
        let open = open.map(|state| format!("'{}'", state.name())).collect::<Vec<_>>().join(", ");
        let of_one = format!(
            "SELECT webhook_id, id FROM (SELECT webhook_id, id FROM deliveries WHERE tenant = ? AND webhook_id = ? \
             AND state IN ({open}) ORDER BY id LIMIT 1) AS oldest"
        );
        let sql = vec![of_one; webhooks.len()].join(" UNION ALL ");
        let values = webhooks.iter().flat_map(|webhook| [tenant.as_str().into(), webhook.to_string().into()]);
        let backend = self.db.get_database_backend();
        let select = Statement::from_sql_and_values(backend, numbered(backend, &sql), values);
        let mut oldest = BTreeMap::new();
        for row in self.db.query_all_raw(select).await? {
            let (webhook, id): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            let read = webhook.parse::<WebhookId>().ok().zip(id.parse::<DeliveryId>().ok());
            let (webhook, delivery) = read.ok_or_else(|| StoreError::Corrupt(format!("delivery {id}")))?;
            oldest.insert(webhook, delivery.created_at());
        }
        Ok(oldest)
    }

    /// Makes one hour of what an earlier version has counted by the minute alone, the oldest that is told by the hour by now, for
    /// some of those who have such minutes; false when there are no more.
    pub async fn fold_minutes(&self, now: OffsetDateTime) -> Result<bool, StoreError> {
        let before = now.checked_sub(MINUTES_TOLD).unwrap_or(now);
        let backend = self.db.get_database_backend();
        let statement =
            |sql: &str, values: Vec<Value>| Statement::from_sql_and_values(backend, numbered(backend, sql), values);
        let full = to_millis(before).div_euclid(HOUR) * HOUR;
        let oldest =
            format!("SELECT bucket FROM counts WHERE size = {LONE_MINUTE} AND bucket < ? ORDER BY bucket LIMIT 1");
        let oldest = self.db.query_one_raw(statement(&oldest, vec![full.into()])).await?;
        let Some(minute) = oldest.map(|row| row.try_get_by_index::<i64>(0)).transpose()? else { return Ok(false) };
        let of_minute = format!("SELECT subject FROM counts WHERE size = {LONE_MINUTE} AND bucket = ? LIMIT {FOLDED}");
        let subjects = self.db.query_all_raw(statement(&of_minute, vec![minute.into()])).await?;
        let subjects: Vec<String> = subjects.iter().map(|row| row.try_get_by_index(0)).collect::<Result<_, _>>()?;
        let hour = minute.div_euclid(HOUR) * HOUR;
        let within = format!(
            "size = {LONE_MINUTE} AND bucket >= ? AND bucket < ? AND subject IN ({})",
            vec!["?"; subjects.len()].join(", ")
        );
        let times: [Value; 2] = [hour.into(), (hour + HOUR).into()];
        let values: Vec<Value> = times.into_iter().chain(subjects.into_iter().map(Value::from)).collect();
        let fold = format!(
            "INSERT INTO counts AS r (tenant, subject, size, bucket, {}) \
             SELECT tenant, subject, {HOUR}, {hour}, {} FROM counts WHERE {within} GROUP BY tenant, subject {}",
            columns(),
            sums(),
            or_add()
        );
        let transaction = self.db.begin().await?;
        transaction.execute_raw(statement(&fold, values.clone())).await?;
        transaction.execute_raw(statement(&format!("DELETE FROM counts WHERE {within}"), values)).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_at_most_a_fifth_too_long() {
        for millis in [1, 2, 3, 7, 10, 99, 100, 1000, 4999, 8000, 60_000, 109_000] {
            let bound = bound(bucket(millis));
            assert!(bound >= f64::from(millis) - 1e-6 && bound <= f64::from(millis) * 1.19, "{millis}: {bound}");
            assert!(bucket(millis) < LATENCIES, "{millis}");
        }
        let mut counts = Counts::default();
        assert_eq!(counts.latency(500), None);
        for millis in 1..=1000 {
            counts.add(Kind::Latency(bucket(millis)));
        }
        for (per_mille, exact) in [(500, 500.0), (950, 950.0), (990, 990.0), (1000, 1000.0)] {
            let found = counts.latency(per_mille).unwrap();
            assert!((exact..=exact * 1.19).contains(&found), "{per_mille}: {found}");
        }
        counts.add(Kind::Latency(bucket(u32::MAX)));
        assert!(counts.latency(1000).unwrap() > 109_000.0);
    }

    #[test]
    fn each_kind_has_a_column_of_its_own() {
        for (index, kind) in Kind::all().enumerate() {
            assert_eq!(kind.index(), index, "{kind:?}");
        }
        let names: BTreeSet<_> = Kind::all().map(Kind::column).collect();
        assert_eq!((names.len(), Kind::all().count()), (COLUMNS, COLUMNS));
        assert!(names.contains("failed_http_status") && names.contains("state_delivered") && names.contains("ms_67"));
    }

    #[tokio::test]
    async fn what_an_earlier_version_has_counted_by_the_minute_counts_before_and_after_it_is_folded() {
        let folder = std::env::temp_dir().join(format!("shopery-fold-{}", shopery_model::AttemptId::generate()));
        std::fs::create_dir(&folder).unwrap();
        let store = Store::connect(&format!("sqlite://{}/a.db?mode=rwc", folder.display())).await.unwrap();
        let (began, minute) = (time::macros::datetime!(2026-11-24 10:00 UTC), time::Duration::MINUTE);
        let of = |size: i64, place: i64, attempts: u64| {
            format!(
                "INSERT INTO counts AS r (tenant, subject, size, bucket, {}) VALUES ('t', 'tenant:t', {size}, {}, {attempts}{}) {}",
                columns(),
                to_millis(began) + place * MINUTE_MILLIS,
                ", 0".repeat(COLUMNS - 1),
                or_add()
            )
        };
        // An hour in which the version changed: of the first half there are minutes alone.
        for sql in [of(LONE_MINUTE, 0, 1), of(LONE_MINUTE, 29, 2), of(MINUTE, 30, 4), of(HOUR, 0, 4)] {
            store.db.execute_unprepared(&sql).await.unwrap();
        }
        let tenant: TenantId = "t".parse().unwrap();
        let told = async |step: time::Duration, count, now| {
            let windows = Windows { from: began, step: step.unsigned_abs(), count };
            let counts = store.counts(&tenant, None, windows, now).await.unwrap();
            let attempts = counts.into_iter().map(|(window, counts)| (window, counts.attempts()));
            attempts.filter(|(_, attempts)| *attempts > 0).collect::<Vec<_>>()
        };
        let soon = began + time::Duration::HOUR;
        assert!(!store.fold_minutes(soon).await.unwrap());
        assert_eq!(told(minute, 60, soon).await, [(0, 1), (29, 2), (30, 4)]);
        assert_eq!(told(time::Duration::HOUR, 1, soon).await, [(0, 7)]);
        let later = began + time::Duration::hours(49);
        assert_eq!(told(minute, 60, later).await, [(0, 5), (29, 2)]);
        while store.fold_minutes(later).await.unwrap() {}
        while store.forget_minutes(later).await.unwrap() {}
        assert_eq!(told(minute, 60, later).await, [(0, 7)]);
        assert_eq!(told(time::Duration::HOUR, 1, later).await, [(0, 7)]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
