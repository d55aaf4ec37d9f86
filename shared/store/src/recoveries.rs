//! Recoveries, as their owners ask for them and see them. What is done in their turns is in
//! [`recovery_turns`](crate::recovery_turns).

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};
use shopery_model::{DeliveryState, PayloadMode, RecoveryId, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::entity::recovery;
use crate::{Cursor, Page, Store, StoreError, Times, from_millis, to_millis};

/// Of one tenant at a time.
const MAX_RUNNING: u64 = 4;

/// A recovery: what a webhook missed in some time is sent again.
#[derive(Debug, Clone)]
pub struct RecoveryRecord {
    pub id: RecoveryId,
    pub tenant: TenantId,
    pub webhook: WebhookId,
    pub state: RecoveryState,
    /// Events that were stored from then until then.
    pub since: OffsetDateTime,
    pub until: OffsetDateTime,
    /// Of their deliveries, those that stand so.
    pub statuses: Vec<DeliveryState>,
    /// Latest: one message for each resource, its most recent state.
    pub mode: PayloadMode,
    /// How many there were at the start, once they have been counted.
    pub total: Option<u64>,
    pub resent: u64,
    /// Superseded by one that is sent again.
    pub skipped: u64,
    /// EVENTS no longer holds them.
    pub unavailable: u64,
    /// The last delivery that is done with.
    pub(crate) place: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub finished_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryState {
    Running,
    Completed,
    Cancelled,
    Failed,
}

impl RecoveryState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl RecoveryRecord {
    /// Whether it has gone beyond its first page.
    pub fn has_begun(&self) -> bool {
        self.place.is_some()
    }

    /// One that is about to begin.
    pub fn new(
        tenant: TenantId,
        webhook: WebhookId,
        (since, until): (OffsetDateTime, OffsetDateTime),
        now: OffsetDateTime,
    ) -> Self {
        Self {
            id: RecoveryId::generate(),
            tenant,
            webhook,
            state: RecoveryState::Running,
            since,
            until,
            statuses: vec![DeliveryState::Failed, DeliveryState::Expired],
            mode: PayloadMode::Latest,
            total: None,
            resent: 0,
            skipped: 0,
            unavailable: 0,
            place: None,
            error: None,
            created_at: now,
            updated_at: now,
            finished_at: None,
        }
    }
}

impl Store {
    pub async fn create_recovery(&self, record: &RecoveryRecord) -> Result<(), StoreError> {
        use recovery::Column;
        let running = recovery::Entity::find()
            .filter(Column::Tenant.eq(record.tenant.as_str()))
            .filter(Column::State.eq(RecoveryState::Running.name()));
        // Two requests at once may pass the limit by one; it bounds cost, it is not a promise.
        if running.count(&self.db).await? >= MAX_RUNNING {
            return Err(StoreError::TooManyRecoveries(MAX_RUNNING));
        }
        let statuses: Vec<_> = record.statuses.iter().map(|state| state.name()).collect();
        let row = recovery::ActiveModel {
            id: Set(record.id.to_string()),
            tenant: Set(record.tenant.to_string()),
            webhook_id: Set(record.webhook.to_string()),
            state: Set(record.state.name().to_owned()),
            since: Set(to_millis(record.since)),
            until: Set(to_millis(record.until)),
            statuses: Set(statuses.join(",")),
            mode: Set(record.mode.name().to_owned()),
            total: Set(None),
            resent: Set(0),
            skipped: Set(0),
            unavailable: Set(0),
            place: Set(None),
            error: Set(None),
            lease_owner: Set(String::new()),
            lease_until: Set(0),
            created_at: Set(to_millis(record.created_at)),
            updated_at: Set(to_millis(record.updated_at)),
            finished_at: Set(None),
        };
        recovery::Entity::insert(row).exec_without_returning(&self.db).await?;
        Ok(())
    }

    pub async fn recovery(&self, tenant: &TenantId, id: RecoveryId) -> Result<Option<RecoveryRecord>, StoreError> {
        recovery::Entity::find().filter(is(tenant, id)).one(&self.db).await?.map(read).transpose()
    }

    /// Those of one webhook, newest first.
    pub async fn recoveries(
        &self,
        tenant: &TenantId,
        webhook: WebhookId,
        times: &Times,
        after: Option<&Cursor>,
        limit: u64,
    ) -> Result<Page<RecoveryRecord>, StoreError> {
        use recovery::Column;
        let matching = Condition::all()
            .add(Column::Tenant.eq(tenant.as_str()))
            .add(Column::WebhookId.eq(webhook.to_string()))
            .add(times.created(Column::CreatedAt))
            .add(times.updated(Column::UpdatedAt))
            .add_option(after.map(|cursor| Column::Id.lt(cursor.0.as_str())));
        let rows =
            recovery::Entity::find().filter(matching).order_by_desc(Column::Id).limit(limit + 1).all(&self.db).await?;
        Page::of(rows, limit, |row| Cursor(row.id.clone())).try_map(read)
    }

    /// Ends a recovery that runs; false if the tenant has no such one that does.
    pub async fn cancel_recovery(
        &self,
        tenant: &TenantId,
        id: RecoveryId,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        use recovery::Column;
        let cancelled = recovery::Entity::update_many()
            .col_expr(Column::State, Expr::value(RecoveryState::Cancelled.name()))
            .col_expr(Column::UpdatedAt, Expr::value(to_millis(now)))
            .col_expr(Column::FinishedAt, Expr::value(to_millis(now)))
            .filter(is(tenant, id).add(Column::State.eq(RecoveryState::Running.name())));
        Ok(cancelled.exec(&self.db).await?.rows_affected > 0)
    }
}

fn is(tenant: &TenantId, id: RecoveryId) -> Condition {
    Condition::all().add(recovery::Column::Tenant.eq(tenant.as_str())).add(recovery::Column::Id.eq(id.to_string()))
}

pub(crate) fn read(row: recovery::Model) -> Result<RecoveryRecord, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("recovery {}: {what}", row.id));
    let count = |count: i64| u64::try_from(count).unwrap_or_default();
    let status = |name: &str| DeliveryState::ALL.into_iter().find(|state| state.name() == name);
    Ok(RecoveryRecord {
        id: row.id.parse().map_err(|_| corrupt("id"))?,
        tenant: row.tenant.parse().map_err(|_| corrupt("tenant"))?,
        webhook: row.webhook_id.parse().map_err(|_| corrupt("webhook_id"))?,
        state: match row.state.as_str() {
            "running" => RecoveryState::Running,
            "completed" => RecoveryState::Completed,
            "cancelled" => RecoveryState::Cancelled,
            "failed" => RecoveryState::Failed,
            _ => return Err(corrupt("state")),
        },
        since: from_millis(row.since),
        until: from_millis(row.until),
        statuses: row.statuses.split(',').map(status).collect::<Option<_>>().ok_or_else(|| corrupt("statuses"))?,
        mode: row.mode.parse().map_err(|_| corrupt("mode"))?,
        total: row.total.map(count),
        resent: count(row.resent),
        skipped: count(row.skipped),
        unavailable: count(row.unavailable),
        place: row.place,
        error: row.error,
        created_at: from_millis(row.created_at),
        updated_at: from_millis(row.updated_at),
        finished_at: row.finished_at.map(from_millis),
    })
}
