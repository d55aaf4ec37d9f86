//! The history of deliveries: written in batches by the recorder, read by the API.
//!
//! Invariant: writing the same outcomes again changes nothing, and an outcome that comes late or twice never takes a
//! delivery back: what is delivered stays delivered, and a lower attempt does not replace a higher one.

use std::collections::HashMap;

use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, TransactionTrait,
};
use shopery_model::{DeliveryId, DeliveryState, Fault, Outcome, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::entity::{attempt, delivery};
use crate::{Cursor, Page, Store, StoreError, from_millis, to_millis};

/// Rows in one INSERT: 15 columns × 1000 is half of what SQLite can bind (32,766).
const ROWS: usize = 1000;

#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    pub id: String,
    pub webhook_id: String,
    pub event_id: String,
    pub event_type: String,
    pub resource: String,
    pub event_sequence: u64,
    pub state: String,
    pub attempt_count: i32,
    /// Reason and detail.
    pub fault: Option<(String, String)>,
    pub triggered_at: OffsetDateTime,
    pub next_attempt_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

#[derive(Debug, Clone)]
pub struct AttemptRecord {
    pub id: String,
    pub number: i32,
    pub started_at: OffsetDateTime,
    pub duration_ms: i32,
    pub url: String,
    pub request_bytes: i32,
    pub status: Option<i32>,
    /// Reason and detail.
    pub fault: Option<(String, String)>,
    pub response_body: String,
}

#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    pub webhook: Option<WebhookId>,
    pub state: Option<DeliveryState>,
    pub event_type: Option<String>,
    pub created_at_min: Option<OffsetDateTime>,
    pub created_at_max: Option<OffsetDateTime>,
    pub updated_at_min: Option<OffsetDateTime>,
}

impl Store {
    /// Writes outcomes, in one transaction.
    pub async fn record(&self, outcomes: &[Outcome]) -> Result<(), StoreError> {
        let deliveries: Vec<_> = latest(outcomes).into_iter().map(delivery_row).collect();
        let mut attempts: Vec<_> = outcomes.iter().filter_map(attempt_row).collect();
        let transaction = self.db.begin().await?;
        for rows in deliveries.chunks(ROWS) {
            delivery::Entity::insert_many(rows.to_vec())
                .on_conflict(supersede())
                .exec_without_returning(&transaction)
                .await?;
        }
        while !attempts.is_empty() {
            let rows: Vec<_> = attempts.drain(..attempts.len().min(ROWS)).collect();
            let unless_known =
                OnConflict::columns([attempt::Column::DeliveryId, attempt::Column::Id]).do_nothing().to_owned();
            attempt::Entity::insert_many(rows).on_conflict(unless_known).exec_without_returning(&transaction).await?;
        }
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
        use delivery::Column;
        let matching = Condition::all()
            .add(Column::Tenant.eq(tenant.as_str()))
            .add_option(filter.webhook.map(|id| Column::WebhookId.eq(id.to_string())))
            .add_option(filter.state.map(|state| Column::State.eq(state.name())))
            .add_option(filter.event_type.as_ref().map(|event| Column::EventType.eq(event.as_str())))
            .add_option(filter.created_at_min.map(|min| Column::CreatedAt.gte(to_millis(min))))
            .add_option(filter.created_at_max.map(|max| Column::CreatedAt.lte(to_millis(max))))
            .add_option(filter.updated_at_min.map(|min| Column::UpdatedAt.gte(to_millis(min))))
            .add_option(after.map(|cursor| cursor.behind(Column::CreatedAt, Column::Id)));
        let rows = delivery::Entity::find()
            .filter(matching)
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Id)
            .limit(limit + 1)
            .all(&self.db)
            .await?;
        let page = Page::of(rows, limit, |row| Cursor { created_at: row.created_at, id: row.id.clone() });
        page.try_map(|row| Ok(read_delivery(row)))
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
        let Some(row) = found else { return Ok(None) };
        let attempts = attempt::Entity::find()
            .filter(attempt::Column::DeliveryId.eq(&row.id))
            .order_by_asc(attempt::Column::StartedAt)
            .order_by_asc(attempt::Column::Id)
            .all(&self.db)
            .await?;
        Ok(Some((read_delivery(row), attempts.into_iter().map(read_attempt).collect())))
    }
}

/// The outcome that counts for each delivery, as [`supersede`] would choose: one INSERT cannot meet a row twice.
fn latest(outcomes: &[Outcome]) -> Vec<&Outcome> {
    let rank = |outcome: &Outcome| (outcome.state == DeliveryState::Delivered, outcome.job.attempt);
    let mut latest: HashMap<DeliveryId, &Outcome> = HashMap::with_capacity(outcomes.len());
    for outcome in outcomes {
        let known = latest.entry(outcome.job.delivery).or_insert(outcome);
        if rank(outcome) >= rank(known) {
            *known = outcome;
        }
    }
    latest.into_values().collect()
}

fn supersede() -> OnConflict {
    use delivery::Column;
    use sea_orm::sea_query::ExprTrait;
    let stored = |column: Column| Expr::col((delivery::Entity, column));
    let excluded = |column: Column| Expr::col(("excluded", column));
    OnConflict::column(Column::Id)
        .update_columns([
            Column::State,
            Column::AttemptCount,
            Column::Fault,
            Column::FaultDetail,
            Column::NextAttemptAt,
            Column::UpdatedAt,
        ])
        .action_cond_where(
            Condition::any()
                .add(
                    Condition::all()
                        .add(stored(Column::State).eq(DeliveryState::Pending.name()))
                        .add(excluded(Column::AttemptCount).gte(stored(Column::AttemptCount))),
                )
                .add(
                    Condition::all()
                        .add(excluded(Column::State).eq(DeliveryState::Delivered.name()))
                        .add(stored(Column::State).ne(DeliveryState::Delivered.name())),
                ),
        )
        .to_owned()
}

fn delivery_row(outcome: &Outcome) -> delivery::ActiveModel {
    let job = &outcome.job;
    let (fault, detail) = split(outcome.fault.as_ref());
    delivery::ActiveModel {
        id: Set(job.delivery.to_string()),
        tenant: Set(job.tenant.to_string()),
        webhook_id: Set(job.webhook.to_string()),
        event_id: Set(job.event.clone()),
        event_type: Set(job.event_type.to_string()),
        resource: Set(job.resource.clone()),
        event_sequence: Set(i64::try_from(job.event_sequence).unwrap_or(i64::MAX)),
        state: Set(outcome.state.name().to_owned()),
        attempt_count: Set(i32::try_from(job.attempt).unwrap_or(i32::MAX)),
        fault: Set(fault),
        fault_detail: Set(detail),
        triggered_at: Set(to_millis(job.triggered_at)),
        next_attempt_at: Set(outcome.next_attempt_at.map(to_millis)),
        created_at: Set(to_millis(outcome.at)),
        updated_at: Set(to_millis(outcome.at)),
    }
}

fn attempt_row(outcome: &Outcome) -> Option<attempt::ActiveModel> {
    let tried = outcome.attempt.as_ref()?;
    let (fault, detail) = split(outcome.fault.as_ref());
    Some(attempt::ActiveModel {
        delivery_id: Set(outcome.job.delivery.to_string()),
        id: Set(tried.id.to_string()),
        number: Set(i32::try_from(outcome.job.attempt).unwrap_or(i32::MAX)),
        started_at: Set(to_millis(tried.started_at)),
        duration_ms: Set(i32::try_from(tried.duration_ms).unwrap_or(i32::MAX)),
        url: Set(tried.url.clone()),
        request_bytes: Set(i32::try_from(tried.request_bytes).unwrap_or(i32::MAX)),
        status: Set(tried.status.map(i32::from)),
        fault: Set(fault),
        fault_detail: Set(detail),
        response_body: Set(tried.response_body.clone()),
    })
}

fn split(fault: Option<&(Fault, String)>) -> (Option<String>, Option<String>) {
    fault.map(|(fault, detail)| (fault.name().to_owned(), detail.clone())).unzip()
}

fn read_delivery(row: delivery::Model) -> DeliveryRecord {
    DeliveryRecord {
        id: row.id,
        webhook_id: row.webhook_id,
        event_id: row.event_id,
        event_type: row.event_type,
        resource: row.resource,
        event_sequence: u64::try_from(row.event_sequence).unwrap_or_default(),
        state: row.state,
        attempt_count: row.attempt_count,
        fault: row.fault.zip(row.fault_detail),
        triggered_at: from_millis(row.triggered_at),
        next_attempt_at: row.next_attempt_at.map(from_millis),
        created_at: from_millis(row.created_at),
        updated_at: from_millis(row.updated_at),
    }
}

fn read_attempt(row: attempt::Model) -> AttemptRecord {
    AttemptRecord {
        id: row.id,
        number: row.number,
        started_at: from_millis(row.started_at),
        duration_ms: row.duration_ms,
        url: row.url,
        request_bytes: row.request_bytes,
        status: row.status,
        fault: row.fault.zip(row.fault_detail),
        response_body: row.response_body,
    }
}
