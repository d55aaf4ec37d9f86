//! Counts of what happened to the deliveries of a webhook, minute by minute, so that they can be told without reading the
//! history. After two days the minutes of an hour become one.
//!
//! What is counted: an attempt, when it ends; an end, when it is reached, once for every round. Percentiles of an
//! attempt's time come from buckets whose bounds lie 19 % apart.
//!
//! Invariant: a message of OUTCOMES is counted once, however often it is recorded: its place in the stream is written in
//! the transaction that counts it.

use std::collections::BTreeMap;

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, Statement, TransactionTrait, Value,
};
use shopery_model::{DeliveryId, DeliveryState, Outcome, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::entity::{delivery, rollup};
use crate::{Store, StoreError, from_millis, to_millis};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// Values in one statement.
const ROWS: usize = 100;

/// A message of OUTCOMES: where the stream has it, and since when. Were the stream made anew, the time would differ.
#[derive(Debug, Clone)]
pub struct Recorded<'a> {
    pub sequence: u64,
    pub at: OffsetDateTime,
    pub outcomes: &'a [Outcome],
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

type Key = (String, WebhookId, i64, Kind);

fn count<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> BTreeMap<Key, u64> {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        let minute = to_millis(outcome.at).div_euclid(MINUTE) * MINUTE;
        let mut add = |kind: Kind| {
            let key = (outcome.job.tenant.to_string(), outcome.job.webhook, minute, kind);
            *counts.entry(key).or_default() += 1;
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
    let mut fresh = Vec::with_capacity(messages.len());
    for message in messages {
        let sequence = i64::try_from(message.sequence).unwrap_or(i64::MAX);
        let values: [Value; 2] = [sequence.into(), to_millis(message.at).into()];
        let sql = numbered(backend, "INSERT INTO recorded (sequence, at) VALUES (?, ?) ON CONFLICT DO NOTHING");
        let inserted = transaction.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
        if inserted.rows_affected() > 0 {
            fresh.push(message);
        }
    }
    let counts: Vec<_> = count(fresh.into_iter().flat_map(|message| message.outcomes)).into_iter().collect();
    for part in counts.chunks(ROWS) {
        let places = vec!["(?, ?, ?, ?, ?, ?)"; part.len()].join(", ");
        let sql = format!(
            "INSERT INTO rollups AS r (tenant, webhook_id, size, bucket, kind, total) VALUES {places} \
             ON CONFLICT (webhook_id, size, bucket, kind) DO UPDATE SET total = r.total + excluded.total"
        );
        let values = part.iter().flat_map(|((tenant, webhook, minute, kind), total)| -> [Value; 6] {
            let total = i64::try_from(*total).unwrap_or(i64::MAX);
            let (webhook, kind) = (webhook.to_string(), kind.text());
            [tenant.as_str().into(), webhook.into(), MINUTE.into(), (*minute).into(), kind.into(), total.into()]
        });
        transaction.execute_raw(Statement::from_sql_and_values(backend, numbered(backend, &sql), values)).await?;
    }
    Ok(())
}

/// PostgreSQL numbers what SQLite leaves a question mark for.
fn numbered(backend: DatabaseBackend, sql: &str) -> String {
    if backend != DatabaseBackend::Postgres {
        return sql.to_owned();
    }
    let mut numbered = String::with_capacity(sql.len() + 64);
    for (index, part) in sql.split('?').enumerate() {
        if index > 0 {
            numbered.push('$');
            numbered.push_str(&index.to_string());
        }
        numbered.push_str(part);
    }
    numbered
}

impl Store {
    /// What was counted from then until then (without it), by the beginning of the minute, or of the hour if it is long ago.
    pub async fn counts(
        &self,
        tenant: &TenantId,
        webhook: Option<WebhookId>,
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<BTreeMap<OffsetDateTime, Counts>, StoreError> {
        use rollup::Column;
        let mut rows = rollup::Entity::find()
            .select_only()
            .column(Column::Bucket)
            .column(Column::Kind)
            .expr_as(Expr::col(Column::Total).sum().cast_as("BIGINT"), "total")
            .filter(Column::Tenant.eq(tenant.as_str()))
            .filter(Column::Bucket.gte(to_millis(from)))
            .filter(Column::Bucket.lt(to_millis(until)))
            .group_by(Column::Bucket)
            .group_by(Column::Kind);
        if let Some(webhook) = webhook {
            rows = rows.filter(Column::WebhookId.eq(webhook.to_string()));
        }
        let rows: Vec<(i64, String, i64)> = rows.into_tuple().all(&self.db).await?;
        let mut counts = BTreeMap::<OffsetDateTime, Counts>::new();
        for (bucket, kind, total) in rows {
            let corrupt = || StoreError::Corrupt(format!("rollup {kind} of {bucket}"));
            let total = u64::try_from(total).map_err(|_| corrupt())?;
            counts.entry(from_millis(bucket)).or_default().add(Kind::parse(&kind).ok_or_else(corrupt)?, total);
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

    /// Makes one hour of the minutes of the oldest one that lies before; false when there are no more.
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
        let Some(hour) = oldest.map(|minute| minute.div_euclid(HOUR) * HOUR) else { return Ok(false) };
        let transaction = self.db.begin().await?;
        let backend = transaction.get_database_backend();
        let within = "size = ? AND bucket >= ? AND bucket < ?";
        let fold = format!(
            "INSERT INTO rollups AS r (tenant, webhook_id, size, bucket, kind, total) \
             SELECT tenant, webhook_id, CAST(? AS BIGINT), CAST(? AS BIGINT), kind, CAST(SUM(total) AS BIGINT) \
             FROM rollups WHERE {within} GROUP BY tenant, webhook_id, kind \
             ON CONFLICT (webhook_id, size, bucket, kind) DO UPDATE SET total = r.total + excluded.total"
        );
        let values: [Value; 5] = [HOUR.into(), hour.into(), MINUTE.into(), hour.into(), (hour + HOUR).into()];
        transaction.execute_raw(Statement::from_sql_and_values(backend, numbered(backend, &fold), values)).await?;
        let of_hour = rollup::Entity::delete_many()
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
