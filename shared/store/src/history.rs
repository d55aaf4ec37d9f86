//! The history of deliveries: written in batches by the recorder, read by the API.
//!
//! A delivery is one row, its attempts with it. Ids begin with the time of the event, so rows and index entries are
//! written where the last ones were.
//!
//! Invariant: writing the same outcomes again changes nothing, and an outcome that comes late or twice never takes a
//! delivery back: what is delivered stays delivered, and a lower attempt does not replace a higher one. Only somebody
//! who asks for the delivery again begins a new round, and the state is always that of the last round; its attempts are
//! those of all rounds. What a delivery carries for others fails with it, see [`carriers`](crate::carriers).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::OnceLock;

use sea_orm::sea_query::{Expr, SimpleExpr};
use sea_orm::{
    AccessMode, ColumnTrait, Condition, ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, EntityTrait,
    IsolationLevel, Iterable, QueryFilter, QueryOrder, QuerySelect, Statement, TransactionTrait, Value,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use shopery_model::{DeliveryId, DeliveryState, Fault, Outcome, Posted, TenantId, WebhookId};
use time::{Duration, OffsetDateTime};

use crate::carriers::Carriers;
use crate::entity::delivery;
use crate::rollups;
use crate::sql::{SIZES, in_sizes, numbered};
use crate::{Cursor, Page, Recorded, Store, StoreError, Times, from_millis, notices, to_millis};

/// A delivery that changes later than this after it was made is late: few are.
const LATE: Duration = Duration::minutes(10);
/// From this status on an answer is no success.
const REFUSALS: u16 = 300;

#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    pub id: String,
    pub webhook_id: String,
    pub event_id: String,
    /// The event's `source`; `None` in rows of before deliveries told it.
    pub source: Option<String>,
    pub event_type: String,
    pub resource: String,
    pub event_sequence: u64,
    pub state: String,
    pub attempt_count: i32,
    /// The highest number of an attempt so far.
    pub last_attempt: u32,
    /// How often somebody has asked for it again.
    pub round: u32,
    /// Reason and detail.
    pub fault: Option<(String, String)>,
    /// What the endpoint has answered to the last attempt; `None` in rows of before this was kept.
    pub response_status: Option<u16>,
    pub triggered_at: OffsetDateTime,
    pub next_attempt_at: Option<OffsetDateTime>,
    pub carried_by: Option<String>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// An attempt, as it is kept in the row of its delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub id: String,
    pub number: u32,
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub started_at: OffsetDateTime,
    pub duration_ms: u32,
    pub url: String,
    pub request_bytes: u32,
    pub status: Option<u16>,
    /// Of a cloud: the name of what it met, and of the message that it has accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Reason and detail.
    pub fault: Option<(String, String)>,
    pub response_body: String,
    /// `name: value`, a line each.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub response_headers: String,
    /// `None` in rows of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub posted: Option<Posted>,
    /// What was odd about the exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a newer version may have written in another form is not known here; the rest of the row is.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    pub webhook: Option<WebhookId>,
    /// In any of these; in any state if there are none.
    pub states: Vec<DeliveryState>,
    pub event_type: Option<String>,
    pub resource: Option<String>,
    pub fault: Option<Fault>,
    pub response_status: Option<u16>,
    pub order: SortOrder,
    pub times: Times,
}

/// By when they were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortOrder {
    #[default]
    NewestFirst,
    OldestFirst,
}

impl SortOrder {
    fn sql(self) -> sea_orm::Order {
        match self {
            Self::NewestFirst => sea_orm::Order::Desc,
            Self::OldestFirst => sea_orm::Order::Asc,
        }
    }

    fn compare(self, a: &str, b: &str) -> std::cmp::Ordering {
        match self {
            Self::NewestFirst => b.cmp(a),
            Self::OldestFirst => a.cmp(b),
        }
    }

    /// What comes after this id.
    fn is_behind(self, column: delivery::Column, id: &str) -> SimpleExpr {
        match self {
            Self::NewestFirst => column.lt(id),
            Self::OldestFirst => column.gt(id),
        }
    }
}

impl Store {
    /// Writes outcomes, in one transaction.
    pub async fn record(&self, outcomes: &[Outcome]) -> Result<(), StoreError> {
        let transaction = self.db.begin().await?;
        write(&transaction, outcomes).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Writes the outcomes of messages, and counts those that were not counted before, in one transaction.
    pub async fn record_messages(&self, messages: &[Recorded<'_>]) -> Result<(), StoreError> {
        let transaction = self.db.begin().await?;
        write(&transaction, messages.iter().flat_map(|message| message.outcomes)).await?;
        rollups::write(&transaction, messages).await?;
        transaction.commit().await?;
        Ok(())
    }

    pub async fn deliveries(
        &self,
        tenant: &TenantId,
        filter: &DeliveryFilter,
        after: Option<&Cursor>,
        limit: u64,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        let states: BTreeSet<_> = filter.states.iter().map(|state| state.name()).collect();
        let one = match states.len() {
            0 => None,
            1 => states.first().copied(),
            _ => return self.of_states(tenant, filter, &states, after, limit).await,
        };
        page(rows_of(&self.db, tenant, filter, one, after, limit + 1).await?, limit)
    }

    /// An index has the rows of one state in their order, but not those of several.
    async fn of_states(
        &self,
        tenant: &TenantId,
        filter: &DeliveryFilter,
        states: &BTreeSet<&'static str>,
        after: Option<&Cursor>,
        limit: u64,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        // Of one moment: what goes from one state to another between two queries would be in neither. SQLite reads so anyway.
        let snapshot = match self.db.get_database_backend() {
            DatabaseBackend::Postgres => {
                let (isolation, access) = (IsolationLevel::RepeatableRead, AccessMode::ReadOnly);
                self.db.begin_with_config(Some(isolation), Some(access)).await?
            }
            _ => self.db.begin().await?,
        };
        let mut rows = Vec::new();
        for state in states {
            rows.extend(rows_of(&snapshot, tenant, filter, Some(state), after, limit + 1).await?);
        }
        snapshot.commit().await?;
        rows.sort_by(|a, b| filter.order.compare(&a.id, &b.id));
        rows.truncate(usize::try_from(limit + 1).unwrap_or(usize::MAX));
        page(rows, limit)
    }

    /// The deliveries of one event, which was stored at that time; their ids begin with it.
    pub async fn deliveries_of_event(
        &self,
        tenant: &TenantId,
        stored_at: OffsetDateTime,
        event_id: &str,
        source: &str,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        use delivery::Column;
        let of_event = Condition::all()
            .add(Column::Tenant.eq(tenant.as_str()))
            .add(Column::Id.gte(DeliveryId::first_at(stored_at).to_string()))
            .add(Column::Id.lte(DeliveryId::last_at(stored_at).to_string()))
            .add(Column::EventId.eq(event_id))
            .add(Condition::any().add(Column::Source.is_null()).add(Column::Source.eq(source)));
        let columns = Column::iter().filter(|column| !matches!(column, Column::Attempts));
        let found = delivery::Entity::find().filter(of_event).select_only().columns(columns);
        let rows: Vec<delivery::Model> = found.expr_as(Expr::val(""), "attempts").into_model().all(&self.db).await?;
        rows.into_iter().map(|row| read_delivery(row).map(|(delivery, _)| delivery)).collect()
    }

    /// Where the deliveries of a webhook stand, by id: those above `after` and up to `last`, at most `limit`.
    pub async fn states(
        &self,
        tenant: &TenantId,
        webhook: WebhookId,
        (after, last): (DeliveryId, DeliveryId),
        limit: u64,
    ) -> Result<Vec<(DeliveryId, DeliveryState)>, StoreError> {
        use delivery::Column;
        let rows: Vec<(String, String)> = delivery::Entity::find()
            .select_only()
            .columns([Column::Id, Column::State])
            .filter(Column::Tenant.eq(tenant.as_str()))
            .filter(Column::WebhookId.eq(webhook.to_string()))
            .filter(Column::Id.gt(after.to_string()))
            .filter(Column::Id.lte(last.to_string()))
            .order_by_asc(Column::Id)
            .limit(limit)
            .into_tuple()
            .all(&self.db)
            .await?;
        let read = |(id, state): (String, String)| {
            let known = DeliveryState::ALL.into_iter().find(|known| known.name() == state);
            let corrupt = || StoreError::Corrupt(format!("delivery {id}: {state}"));
            Ok((id.parse().map_err(|_| corrupt())?, known.ok_or_else(corrupt)?))
        };
        rows.into_iter().map(read).collect()
    }

    /// One delivery and its attempts, oldest first.
    pub async fn delivery(
        &self,
        tenant: &TenantId,
        id: DeliveryId,
    ) -> Result<Option<(DeliveryRecord, Vec<AttemptRecord>)>, StoreError> {
        let found = delivery::Entity::find_by_id(id.to_string())
            .filter(delivery::Column::Tenant.eq(tenant.as_str()))
            .one(&self.db)
            .await?;
        found.map(read_delivery).transpose()
    }
}

/// The first rows that match, of one state or of any.
async fn rows_of(
    db: &impl ConnectionTrait,
    tenant: &TenantId,
    filter: &DeliveryFilter,
    state: Option<&str>,
    after: Option<&Cursor>,
    count: u64,
) -> Result<Vec<delivery::Model>, StoreError> {
    use delivery::Column;
    let (order, Times { created_at_min, created_at_max, updated_at_min, updated_at_max }) =
        (filter.order, filter.times);
    // Hardly anything changes before it was made: the clocks of two machines may differ a little.
    let made_max = [created_at_max, updated_at_max.and_then(|max| max.checked_add(LATE))];
    let matching = Condition::all()
        .add(Column::Tenant.eq(tenant.as_str()))
        .add_option(filter.webhook.map(|id| Column::WebhookId.eq(id.to_string())))
        .add_option(state.map(|state| Column::State.eq(state)))
        .add_option(filter.event_type.as_ref().map(|event| Column::EventType.eq(event.as_str())))
        .add_option(filter.resource.as_ref().map(|resource| Column::Resource.eq(resource.as_str())))
        .add_option(filter.fault.map(|fault| Column::Fault.eq(fault.name())))
        .add_option(filter.response_status.map(answered))
        .add_option(created_at_min.map(|min| Column::Id.gte(DeliveryId::first_at(min).to_string())))
        .add_option(
            made_max.into_iter().flatten().min().map(|max| Column::Id.lte(DeliveryId::last_at(max).to_string())),
        )
        .add(filter.times.updated(Column::UpdatedAt))
        .add_option(after.map(|cursor| order.is_behind(Column::Id, &cursor.0)));
    // Attempts are long, and a list does not show them.
    let columns = Column::iter().filter(|column| !matches!(column, Column::Attempts));
    let matching = delivery::Entity::find().filter(matching).select_only().columns(columns);
    let matching = matching.expr_as(Expr::val(""), "attempts");
    let Some(min) = updated_at_min else {
        return Ok(matching.order_by(Column::Id, order.sql()).limit(count).into_model().all(db).await?);
    };
    // What has changed since then was made since then, but for what is late, which has an index of its own.
    let border = DeliveryId::first_at(min.checked_sub(LATE).unwrap_or(OffsetDateTime::UNIX_EPOCH)).to_string();
    let newer = matching.clone().filter(Column::Id.gte(&border)).order_by(Column::Id, order.sql());
    // An order by the id itself would tempt the database to look through all ids.
    let late = matching.filter(Column::Id.lt(border)).filter(Column::LateAt.gte(to_millis(min)));
    let late = late.order_by(Expr::cust("id || ''"), order.sql());
    let parts = if order == SortOrder::NewestFirst { [newer, late] } else { [late, newer] };
    let mut rows: Vec<delivery::Model> = Vec::new();
    for part in parts {
        let left = count.saturating_sub(rows.len() as u64);
        if left > 0 {
            rows.extend(part.limit(left).into_model().all(db).await?);
        }
    }
    Ok(rows)
}

/// What was answered to the last attempt.
fn answered(status: u16) -> Condition {
    use delivery::Column;
    let is_it = Condition::all().add(Column::ResponseStatus.eq(i32::from(status)));
    if status < REFUSALS {
        return is_it;
    }
    // As their index has it: a plan for any status would not see that it is one of these.
    let is_it = is_it.add(Expr::cust(format!("response_status >= {REFUSALS}")));
    // What is delivered was refused before, by a recorder of before.
    is_it.add(Column::State.ne(DeliveryState::Delivered.name()))
}

/// From up to one row more than the limit.
fn page(rows: Vec<delivery::Model>, limit: u64) -> Result<Page<DeliveryRecord>, StoreError> {
    let page = Page::of(rows, limit, |row| Cursor(row.id.clone()));
    page.try_map(|row| read_delivery(row).map(|(delivery, _)| delivery))
}

/// Writes outcomes within a transaction.
pub(crate) async fn write<'a>(
    transaction: &DatabaseTransaction,
    outcomes: impl IntoIterator<Item = &'a Outcome>,
) -> Result<(), DbErr> {
    let rows = rows(outcomes);
    let backend = transaction.get_database_backend();
    let carriers = Carriers::of(rows.iter().map(|row| row.latest));
    carriers.lock(transaction).await?;
    for part in in_sizes(&rows) {
        let values = part.iter().flat_map(Row::values);
        let sql = upsert(backend, part.len());
        transaction.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    }
    carriers.fail_carried(transaction).await?;
    notices::note(transaction, rows.iter().map(|row| row.latest)).await
}

/// What the outcomes of one delivery add up to: one INSERT cannot meet a row twice.
struct Row<'a> {
    latest: &'a Outcome,
    rank: i64,
    /// What was answered to the highest of the attempts, if it was answered.
    status: Option<u16>,
    last_attempt: u32,
    /// JSON objects, separated by commas.
    attempts: String,
}

/// By delivery, so that the rows lie in the order of the table.
fn rows<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Vec<Row<'a>> {
    let mut rows: BTreeMap<DeliveryId, Row<'a>> = BTreeMap::new();
    for outcome in outcomes {
        let rank = rank(outcome);
        let row = rows.entry(outcome.job.delivery).or_insert_with(|| Row::new(outcome, rank));
        if rank >= row.rank {
            (row.latest, row.rank) = (outcome, rank);
        }
        if let Some(tried) = outcome.attempt.as_ref().filter(|_| outcome.job.attempt >= row.last_attempt) {
            (row.last_attempt, row.status) = (outcome.job.attempt, tried.status);
        }
        if let Some(attempt) = attempt(outcome) {
            let separator = if row.attempts.is_empty() { "" } else { "," };
            let _ = write!(row.attempts, "{separator}{attempt}");
        }
    }
    rows.into_values().collect()
}

/// The ranks of one round lie below this; those of the next begin here.
const ROUND: i64 = 1 << 40;

/// Of two outcomes of a delivery the higher rank is the truth, whichever comes later.
fn rank(outcome: &Outcome) -> i64 {
    i64::from(outcome.job.round()) * ROUND + rank_in_round(outcome)
}

fn rank_in_round(outcome: &Outcome) -> i64 {
    let attempt = i64::from(outcome.job.attempt);
    match outcome.state {
        // Of an attempt that is still to come: the first one of a round was asked for, or is parked.
        DeliveryState::Pending if outcome.attempt.is_none() => 4 * attempt - 3,
        DeliveryState::Parked if outcome.attempt.is_none() => 4 * attempt - 2,
        DeliveryState::Parked => 4 * attempt - 1,
        DeliveryState::Pending => 4 * attempt,
        // An end without this attempt, found by the router, or by the deliverer after the ones before: those, and that it
        // waited for this one, are over. Whatever came of this attempt knows better.
        DeliveryState::Filtered | DeliveryState::Duplicate | DeliveryState::Superseded => 4 * attempt,
        // What waited has ended, and whoever ended it may not know how often it was attempted by then.
        DeliveryState::Failed | DeliveryState::Expired | DeliveryState::Discarded if outcome.attempt.is_none() => {
            ROUND - 2
        }
        DeliveryState::Failed | DeliveryState::Expired | DeliveryState::Discarded => 4 * attempt + 1,
        DeliveryState::Delivered => ROUND - 1,
    }
}

/// Where the delivery stands. A deliverer of before says of what was discarded that it failed, and this release takes its
/// outcomes for as long as it is being replaced.
pub(crate) fn state(outcome: &Outcome) -> DeliveryState {
    match (outcome.state, &outcome.fault) {
        (DeliveryState::Failed, Some((Fault::Discarded, _))) => DeliveryState::Discarded,
        (state, _) => state,
    }
}

fn attempt(outcome: &Outcome) -> Option<String> {
    let tried = outcome.attempt.as_ref()?;
    let record = AttemptRecord {
        id: tried.id.to_string(),
        number: outcome.job.attempt,
        started_at: tried.started_at,
        duration_ms: tried.duration_ms,
        url: tried.url.clone(),
        request_bytes: tried.request_bytes,
        status: tried.status,
        fault: outcome.fault.as_ref().map(|(fault, detail)| (fault.name().to_owned(), detail.clone())),
        response_body: tried.response_body.clone(),
        response_headers: tried.response_headers.clone(),
        code: tried.code.clone(),
        message_id: tried.message_id.clone(),
        posted: tried.posted.clone(),
        note: tried.note.clone(),
    };
    serde_json::to_string(&record).ok()
}

const COLUMNS: [&str; 20] = [
    "id",
    "tenant",
    "webhook_id",
    "event_id",
    "event_type",
    "resource",
    "event_sequence",
    "triggered_at",
    "source",
    "state",
    "rank",
    "attempt_count",
    "fault",
    "fault_detail",
    "next_attempt_at",
    "updated_at",
    "late_at",
    "carried_by",
    "response_status",
    "attempts",
];
/// From here to `carried_by`: what an outcome of a higher rank replaces.
const REPLACED: std::ops::Range<usize> = 9..18;

impl<'a> Row<'a> {
    fn new(latest: &'a Outcome, rank: i64) -> Self {
        Self { latest, rank, status: None, last_attempt: 0, attempts: String::new() }
    }

    /// In the order of [`COLUMNS`].
    fn values(&self) -> [Value; COLUMNS.len()] {
        let Outcome { job, next_attempt_at, attempt, fault, carried_by, at, .. } = self.latest;
        // What ends without an attempt has had those before the one that it waited for.
        let attempts = if attempt.is_some() { job.attempt } else { job.attempt.saturating_sub(1) };
        let (fault, detail) = fault.as_ref().map(|(fault, detail)| (fault.name(), detail.as_str())).unzip();
        [
            job.delivery.to_string().into(),
            job.tenant.as_str().into(),
            job.webhook.to_string().into(),
            job.event.as_str().into(),
            job.event_type.to_string().into(),
            job.resource.as_str().into(),
            i64::try_from(job.event_sequence).unwrap_or(i64::MAX).into(),
            to_millis(job.triggered_at).into(),
            Some(job.source.as_str()).filter(|source| !source.is_empty()).into(),
            state(self.latest).name().into(),
            self.rank.into(),
            i32::try_from(attempts).unwrap_or(i32::MAX).into(),
            fault.into(),
            detail.into(),
            next_attempt_at.map(to_millis).into(),
            to_millis(*at).into(),
            Some(to_millis(*at)).filter(|_| *at - job.delivery.created_at() >= LATE).into(),
            carried_by.map(|carrier| carrier.to_string()).into(),
            self.status.and_then(|status| i16::try_from(status).ok()).into(),
            self.attempts.as_str().into(),
        ]
    }
}

/// The statement that writes `size` rows.
fn upsert(backend: DatabaseBackend, size: usize) -> &'static str {
    static POSTGRES: OnceLock<[String; SIZES.len()]> = OnceLock::new();
    static SQLITE: OnceLock<[String; SIZES.len()]> = OnceLock::new();
    let known = if backend == DatabaseBackend::Postgres { &POSTGRES } else { &SQLITE };
    let all = known.get_or_init(|| SIZES.map(|size| upsert_sql(backend, size)));
    SIZES.iter().position(|known| *known == size).map_or("", |place| all[place].as_str())
}

fn upsert_sql(backend: DatabaseBackend, size: usize) -> String {
    let row = format!("({})", COLUMNS.map(|_| "?").join(","));
    let replaced: Vec<_> = COLUMNS[REPLACED]
        .iter()
        .map(|column| {
            format!("{column} = CASE WHEN excluded.rank >= d.rank THEN excluded.{column} ELSE d.{column} END")
        })
        .collect();
    let contains = if backend == DatabaseBackend::Postgres { "strpos" } else { "instr" };
    let sql = format!(
        "INSERT INTO deliveries AS d ({}) VALUES {} ON CONFLICT (id) DO UPDATE SET {}, \
         source = COALESCE(d.source, excluded.source), response_status = CASE \
         WHEN excluded.attempts <> '' AND (excluded.rank >= d.rank OR d.attempts = '') \
         THEN excluded.response_status \
         ELSE d.response_status END, attempts = CASE \
         WHEN excluded.attempts = '' OR {contains}(d.attempts, excluded.attempts) > 0 THEN d.attempts \
         WHEN d.attempts = '' THEN excluded.attempts ELSE d.attempts || ',' || excluded.attempts END",
        COLUMNS.join(","),
        vec![row.as_str(); size].join(","),
        replaced.join(", "),
    );
    numbered(backend, &sql)
}

pub(crate) fn read_delivery(row: delivery::Model) -> Result<(DeliveryRecord, Vec<AttemptRecord>), StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("delivery {}: {what}", row.id));
    let id: DeliveryId = row.id.parse().map_err(|_| corrupt("id"))?;
    let mut attempts: Vec<AttemptRecord> =
        serde_json::from_str(&format!("[{}]", row.attempts)).map_err(|_| corrupt("attempts"))?;
    // Outcomes that were recorded twice, in batches of another make, may have left an attempt twice.
    attempts.sort_by(|a, b| (a.started_at, &a.id).cmp(&(b.started_at, &b.id)));
    attempts.dedup_by(|a, b| a.id == b.id);
    let counted = u32::try_from(row.attempt_count).unwrap_or_default();
    let record = DeliveryRecord {
        created_at: id.created_at(),
        id: row.id,
        webhook_id: row.webhook_id,
        event_id: row.event_id,
        source: row.source,
        event_type: row.event_type,
        resource: row.resource,
        event_sequence: u64::try_from(row.event_sequence).unwrap_or_default(),
        state: row.state.clone(),
        attempt_count: row.attempt_count,
        // A parked delivery is probed under the number of the attempt that it waits for, and may expire without one.
        last_attempt: attempts.iter().map(|attempt| attempt.number).max().unwrap_or_default().max(counted),
        round: u32::try_from(row.rank / ROUND).unwrap_or_default(),
        fault: row.fault.zip(row.fault_detail),
        // A recorder of before leaves a status as it is.
        response_status: row
            .response_status
            .and_then(|status| u16::try_from(status).ok())
            .filter(|status| *status < REFUSALS || row.state != DeliveryState::Delivered.name()),
        triggered_at: from_millis(row.triggered_at),
        next_attempt_at: row.next_attempt_at.map(from_millis),
        carried_by: row.carried_by,
        updated_at: from_millis(row.updated_at),
    };
    Ok((record, attempts))
}
