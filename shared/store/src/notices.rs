//! What tenants are still to be notified of: deliveries that were given up, and webhooks of which it was said that they fail.
//!
//! Like the outbox of CONFIG: a row is written in the transaction of what it tells of, and removed when EVENTS has the event. So
//! no crash loses a notification, and a full EVENTS holds up no history.
//!
//! Invariant: the delivery of a notification causes none. Two broken webhooks would tell each other of their failures for ever.

use std::collections::BTreeSet;

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use shopery_model::{DeliveryId, DeliveryState, EventPattern, EventType, Fault, Outcome, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::entity::{circuit_notice, failure_outbox, webhook};
use crate::{Store, StoreError, WebhookState, from_millis, history, to_millis};

/// What tells that a delivery was given up.
pub const DELIVERY_FAILED: &str = "delivery-failed";
/// Failures read at a time.
const BATCH: u64 = 500;
/// Tenants in one query, and rows in one statement.
const MANY: usize = 500;

/// A delivery of which it is still to be told that it was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingFailure {
    pub delivery: DeliveryId,
    pub round: u32,
    pub tenant: TenantId,
}

impl Store {
    /// The oldest failures that are to be told, at most 500.
    pub async fn pending_failures(&self) -> Result<Vec<PendingFailure>, StoreError> {
        use failure_outbox::{Column, Entity};
        let rows = Entity::find().order_by_asc(Column::DeliveryId).limit(BATCH).all(&self.db).await?;
        let read = |row: failure_outbox::Model| {
            let corrupt = |what: &str| StoreError::Corrupt(format!("failure of {}: {what}", row.delivery_id));
            Ok(PendingFailure {
                delivery: row.delivery_id.parse().map_err(|_| corrupt("delivery_id"))?,
                round: u32::try_from(row.round).map_err(|_| corrupt("round"))?,
                tenant: row.tenant.parse().map_err(|_| corrupt("tenant"))?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// EVENTS has these, or there is nothing left to tell of them.
    pub async fn failures_notified(&self, failures: &[PendingFailure]) -> Result<(), StoreError> {
        use failure_outbox::Column;
        if failures.is_empty() {
            return Ok(());
        }
        let is_one = failures.iter().fold(Condition::any(), |any, PendingFailure { delivery, round, .. }| {
            let same = Condition::all().add(Column::DeliveryId.eq(delivery.to_string()));
            any.add(same.add(Column::Round.eq(i64::from(*round))))
        });
        failure_outbox::Entity::delete_many().filter(is_one).exec(&self.db).await?;
        Ok(())
    }

    /// The webhooks of which it was told that they fail, since then, and not yet that they work again.
    pub async fn webhooks_told_failing(&self) -> Result<Vec<(TenantId, WebhookId, OffsetDateTime)>, StoreError> {
        let rows = circuit_notice::Entity::find().all(&self.db).await?;
        // What does not read is of a later release, which tells the rest.
        let read = |row: circuit_notice::Model| {
            Some((row.tenant.parse().ok()?, row.webhook_id.parse().ok()?, from_millis(row.since)))
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// It was told that this webhook fails.
    pub async fn told_failing(
        &self,
        tenant: &TenantId,
        webhook: WebhookId,
        since: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let row = circuit_notice::ActiveModel {
            webhook_id: Set(webhook.to_string()),
            tenant: Set(tenant.to_string()),
            since: Set(to_millis(since)),
        };
        let known = OnConflict::column(circuit_notice::Column::WebhookId).do_nothing().to_owned();
        circuit_notice::Entity::insert(row).on_conflict(known).exec_without_returning(&self.db).await?;
        Ok(())
    }

    /// There is nothing left to tell of a webhook that has failed.
    pub async fn told_recovered(&self, webhook: WebhookId) -> Result<(), StoreError> {
        circuit_notice::Entity::delete_by_id(webhook.to_string()).exec(&self.db).await?;
        Ok(())
    }
}

/// Whether others may want to know: its owner has not chosen this end, and it is not that of a notification. What waits until it
/// has expired is not told one by one: it was told that the webhook fails, or its owner has paused it.
fn is_given_up(outcome: &Outcome) -> bool {
    let is_chosen = matches!(outcome.fault, Some((Fault::WebhookDeleted, _)));
    history::state(outcome) == DeliveryState::Failed && !is_chosen && !outcome.job.event_type.is_operational()
}

/// Notes, in the transaction that records them, which of the outcomes tell of a delivery that was given up and that another
/// webhook of its tenant wants to know of.
pub(crate) async fn note<'a>(
    transaction: &DatabaseTransaction,
    outcomes: impl Iterator<Item = &'a Outcome>,
) -> Result<(), DbErr> {
    let given_up: Vec<_> = outcomes.filter(|outcome| is_given_up(outcome)).collect();
    if given_up.is_empty() {
        return Ok(());
    }
    let tenants: Vec<_> =
        given_up.iter().map(|outcome| outcome.job.tenant.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    let mut listeners = Vec::new();
    for part in tenants.chunks(MANY) {
        listeners.extend(listeners_of(transaction, part).await?);
    }
    let wanted = given_up.into_iter().filter(|outcome| {
        let job = &outcome.job;
        let subject = job.webhook.to_string();
        listeners.iter().any(|(tenant, webhook)| tenant == job.tenant.as_str() && *webhook != subject)
    });
    let rows: Vec<_> = wanted
        .map(|outcome| failure_outbox::ActiveModel {
            delivery_id: Set(outcome.job.delivery.to_string()),
            round: Set(outcome.job.round().into()),
            tenant: Set(outcome.job.tenant.to_string()),
        })
        .collect();
    for part in rows.chunks(MANY) {
        let known = OnConflict::columns([failure_outbox::Column::DeliveryId, failure_outbox::Column::Round])
            .do_nothing()
            .to_owned();
        let insert = failure_outbox::Entity::insert_many(part.iter().cloned()).on_conflict(known);
        insert.exec_without_returning(transaction).await?;
    }
    Ok(())
}

/// The webhooks of these tenants that are told of what was given up.
async fn listeners_of(transaction: &DatabaseTransaction, tenants: &[&str]) -> Result<Vec<(String, String)>, DbErr> {
    use webhook::Column;
    let Ok(failed) = EventType::of_stored(DELIVERY_FAILED) else { return Ok(Vec::new()) };
    // Few match this, and of those the patterns are read.
    let may_match = Condition::any().add(Column::Events.contains("*")).add(Column::Events.contains(DELIVERY_FAILED));
    let rows: Vec<(String, String, String)> = webhook::Entity::find()
        .select_only()
        .columns([Column::Tenant, Column::Id, Column::Events])
        .filter(Column::Tenant.is_in(tenants.iter().copied()))
        .filter(Column::State.eq(WebhookState::Active.name()))
        .filter(may_match)
        .into_tuple()
        .all(transaction)
        .await?;
    let wants = |events: &str| {
        events.split(',').any(|text| EventPattern::of_stored(text).is_ok_and(|pattern| pattern.matches(failed)))
    };
    Ok(rows.into_iter().filter(|(_, _, events)| wants(events)).map(|(tenant, id, _)| (tenant, id)).collect())
}
