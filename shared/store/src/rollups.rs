//! Counts of what happened to the deliveries of a webhook, minute by minute, so that they can be told without reading the
//! history. After two days the minutes of an hour become one.
//!
//! What is counted: an attempt, when it ends; an end, when it is reached, once for every round. Percentiles of an
//! attempt's time come from buckets whose bounds lie 19 % apart.
//!
//! The tenant is counted beside its webhooks, so that its metrics do not cost more than those of one of them.
//!
//! Invariant: a message of OUTCOMES is counted once, however often it is recorded: its place in the stream is written in
//! the transaction that counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    Statement, TransactionTrait, Value,
};
use shopery_model::{DeliveryId, DeliveryState, Outcome, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::entity::{delivery, rollup};
use crate::sql::{in_sizes, numbered};
use crate::{Store, StoreError, to_millis};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// Webhooks and tenants whose minutes are folded at a time.
const FOLDED: u64 = 20;

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

/// What was counted in a window of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub attempts: u64,
    /// Attempts that failed, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Deliveries that came to an end, or were parked, by state.
    pub states: BTreeMap<String, u64>,
    /// Attempts by how long they took: the index of a bucket.
    latency: BTreeMap<u32, u64>,
}

/// One kind of count, as a row names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Attempts,
    Failed(String),
    State(String),
    Latency(u32),
}

impl Kind {
    fn text(&self) -> String {
        match self {
            Self::Attempts => "attempts".to_owned(),
            Self::Failed(reason) => format!("failed:{reason}"),
            Self::State(state) => format!("state:{state}"),
            Self::Latency(index) => format!("ms:{index}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text.split_once(':') {
            None if text == "attempts" => Self::Attempts,
            Some(("failed", reason)) => Self::Failed(reason.to_owned()),
            Some(("state", state)) => Self::State(state.to_owned()),
            Some(("ms", index)) => Self::Latency(index.parse().ok()?),
            _ => return None,
        })
    }
}

/// The bucket of a time: four for each doubling.
fn bucket(millis: u32) -> u32 {
    (f64::from(Ord::max(millis, 1)).log2() * 4.0).ceil() as u32
}

/// The longest time of a bucket, in milliseconds.
fn bound(bucket: u32) -> f64 {
    2f64.powf(f64::from(bucket) / 4.0)
}

impl Counts {
    fn add(&mut self, kind: Kind, count: u64) {
        *match kind {
            Kind::Attempts => &mut self.attempts,
            Kind::Failed(reason) => self.failed.entry(reason).or_default(),
            Kind::State(state) => self.states.entry(state).or_default(),
            Kind::Latency(index) => self.latency.entry(index).or_default(),
        } += count;
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.attempts += other.attempts;
        for (reason, count) in &other.failed {
            *self.failed.entry(reason.clone()).or_default() += count;
        }
        for (state, count) in &other.states {
            *self.states.entry(state.clone()).or_default() += count;
        }
        for (index, count) in &other.latency {
            *self.latency.entry(*index).or_default() += count;
        }
    }

    /// So many of a thousand attempts took no longer, in milliseconds; up to 19 % too much. `None` if there were none.
    pub fn latency(&self, per_mille: u64) -> Option<f64> {
        let all: u64 = self.latency.values().sum();
        let rank = Ord::max((all * per_mille).div_ceil(1000), 1);
        let mut seen = 0;
        self.latency.iter().find_map(|(index, count)| {
            seen += count;
            (seen >= rank).then(|| bound(*index))
        })
    }
}

/// Whose counts they are, as a row names it: a webhook, or all of a tenant's.
fn subject(tenant: &TenantId, webhook: Option<WebhookId>) -> String {
    webhook.map_or_else(|| format!("{TENANT}{tenant}"), |id| id.to_string())
}

/// No id of a webhook begins so.
const TENANT: &str = "tenant:";

/// The tenant, whose counts they are, the minute, and what is counted.
type Key<'a> = (&'a TenantId, Option<WebhookId>, i64, Kind);

fn count<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> BTreeMap<Key<'a>, u64> {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        let (tenant, minute) = (&outcome.job.tenant, to_millis(outcome.at).div_euclid(MINUTE) * MINUTE);
        let mut add = |kind: Kind| {
            *counts.entry((tenant, Some(outcome.job.webhook), minute, kind.clone())).or_default() += 1;
            *counts.entry((tenant, None, minute, kind)).or_default() += 1;
        };
        if let Some(attempt) = &outcome.attempt {
            add(Kind::Attempts);
            add(Kind::Latency(bucket(attempt.duration_ms)));
            if let Some((fault, _)) = &outcome.fault {
                add(Kind::Failed(fault.name().to_owned()));
            }
        }
        if outcome.state != DeliveryState::Pending {
            add(Kind::State(outcome.state.name().to_owned()));
        }
    }
    counts
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
        let places = vec!["(?, ?, ?, ?, ?, ?)"; part.len()].join(", ");
        let sql = format!(
            "INSERT INTO rollups AS r (tenant, webhook_id, size, bucket, kind, total) VALUES {places} \
             ON CONFLICT (webhook_id, size, bucket, kind) DO UPDATE SET total = r.total + excluded.total"
        );
        let values = part.iter().flat_map(|((tenant, webhook, minute, kind), total)| -> [Value; 6] {
            let total = i64::try_from(*total).unwrap_or(i64::MAX);
            let (subject, kind) = (subject(tenant, *webhook), kind.text());
            [tenant.as_str().into(), subject.into(), MINUTE.into(), (*minute).into(), kind.into(), total.into()]
        });
        transaction.execute_raw(statement(&sql, values.collect())).await?;
    }
    Ok(())
}

impl Store {
    /// What was counted in windows side by side, by their number, but for those in which nothing was. A bucket belongs to the
    /// window in which it begins.
    pub async fn counts(
        &self,
        tenant: &TenantId,
        webhook: Option<WebhookId>,
        windows: Windows,
    ) -> Result<BTreeMap<u64, Counts>, StoreError> {
        let from = to_millis(windows.from);
        let step = i64::try_from(windows.step.as_millis()).unwrap_or(i64::MAX).max(1);
        let until = from.saturating_add(step.saturating_mul(i64::from(windows.count)));
        let sql = "SELECT (bucket - ?) / ? AS number, kind, CAST(SUM(total) AS BIGINT) AS total FROM rollups \
                   WHERE tenant = ? AND webhook_id = ? AND size IN (?, ?) AND bucket >= ? AND bucket < ? GROUP BY 1, 2";
        let (tenant, subject) = (tenant.as_str().into(), subject(tenant, webhook).into());
        let values: [Value; 8] =
            [from.into(), step.into(), tenant, subject, MINUTE.into(), HOUR.into(), from.into(), until.into()];
        let backend = self.db.get_database_backend();
        let rows = Statement::from_sql_and_values(backend, numbered(backend, sql), values);
        let mut counts = BTreeMap::<u64, Counts>::new();
        for row in self.db.query_all_raw(rows).await? {
            let (number, kind, total): (i64, String, i64) =
                (row.try_get("", "number")?, row.try_get("", "kind")?, row.try_get("", "total")?);
            let corrupt = || StoreError::Corrupt(format!("rollup {kind}: {total}"));
            let (number, total) = u64::try_from(number).ok().zip(u64::try_from(total).ok()).ok_or_else(corrupt)?;
            counts.entry(number).or_default().add(Kind::parse(&kind).ok_or_else(corrupt)?, total);
        }
        Ok(counts)
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

    /// Makes one hour of the minutes of the oldest one that lies before, for some of those who have them; false when there
    /// are no more.
    pub async fn fold_minutes(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        use rollup::Column;
        let oldest: Option<i64> = rollup::Entity::find()
            .select_only()
            .column(Column::Bucket)
            .filter(Column::Size.eq(MINUTE))
            .filter(Column::Bucket.lt(to_millis(before).div_euclid(HOUR) * HOUR))
            .order_by_asc(Column::Bucket)
            .limit(1)
            .into_tuple()
            .one(&self.db)
            .await?;
        let Some(minute) = oldest else { return Ok(false) };
        let subjects: Vec<String> = rollup::Entity::find()
            .select_only()
            .column(Column::WebhookId)
            .distinct()
            .filter(Column::Size.eq(MINUTE))
            .filter(Column::Bucket.eq(minute))
            .limit(FOLDED)
            .into_tuple()
            .all(&self.db)
            .await?;
        let hour = minute.div_euclid(HOUR) * HOUR;
        let transaction = self.db.begin().await?;
        let backend = transaction.get_database_backend();
        let fold = format!(
            "INSERT INTO rollups AS r (tenant, webhook_id, size, bucket, kind, total) \
             SELECT tenant, webhook_id, CAST(? AS BIGINT), CAST(? AS BIGINT), kind, CAST(SUM(total) AS BIGINT) \
             FROM rollups WHERE size = ? AND bucket >= ? AND bucket < ? AND webhook_id IN ({}) \
             GROUP BY tenant, webhook_id, kind \
             ON CONFLICT (webhook_id, size, bucket, kind) DO UPDATE SET total = r.total + excluded.total",
            vec!["?"; subjects.len()].join(", ")
        );
        let times: [Value; 5] = [HOUR.into(), hour.into(), MINUTE.into(), hour.into(), (hour + HOUR).into()];
        let values = times.into_iter().chain(subjects.iter().map(|subject| subject.as_str().into()));
        transaction.execute_raw(Statement::from_sql_and_values(backend, numbered(backend, &fold), values)).await?;
        let of_hour = rollup::Entity::delete_many()
            .filter(Column::WebhookId.is_in(subjects))
            .filter(Column::Size.eq(MINUTE))
            .filter(Column::Bucket.gte(hour))
            .filter(Column::Bucket.lt(hour + HOUR));
        of_hour.exec(&transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_at_most_a_fifth_too_long() {
        for millis in [1, 2, 3, 7, 10, 99, 100, 1000, 4999, 8000] {
            let bound = bound(bucket(millis));
            assert!(bound >= f64::from(millis) - 1e-6 && bound <= f64::from(millis) * 1.19, "{millis}: {bound}");
        }
        let mut counts = Counts::default();
        assert_eq!(counts.latency(500), None);
        for millis in 1..=1000 {
            counts.add(Kind::Latency(bucket(millis)), 1);
        }
        for (per_mille, exact) in [(500, 500.0), (950, 950.0), (990, 990.0), (1000, 1000.0)] {
            let found = counts.latency(per_mille).unwrap();
            assert!((exact..=exact * 1.19).contains(&found), "{per_mille}: {found}");
        }
    }

    #[test]
    fn kinds_read_back() {
        for kind in [Kind::Attempts, Kind::Failed("timeout".into()), Kind::State("parked".into()), Kind::Latency(12)] {
            assert_eq!(Kind::parse(&kind.text()), Some(kind));
        }
    }
}
