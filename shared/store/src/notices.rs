//! What tenants are still to be notified of: deliveries that have failed, and webhooks of which others know that they fail.
//!
//! Like the outbox of CONFIG: a row is written in the transaction of what it is about, and removed when EVENTS has the event. So
//! no crash loses a notification, and a full EVENTS holds up no history.
//!
//! Invariant: the failed delivery of a notification causes none. Two broken webhooks would notify each other of it for ever.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, FromQueryResult, QueryFilter,
    QueryOrder, QuerySelect, Statement,
};
use shopery_model::{
    DELIVERY_FAILED, DeliveryId, DeliveryState, EventPattern, EventType, Fault, Outcome, TenantId, WebhookId,
};
use time::OffsetDateTime;

use crate::entity::{circuit_notice, failure_outbox, webhook};
use crate::sql::numbered;
use crate::{Store, StoreError, WebhookState, from_millis, history, to_millis};

/// Tenants whose failures are read at a time, and failures of each: nobody waits for the many of another, and what is read does
/// not grow with what waits.
const TENANTS: u64 = 32;
const OF_A_TENANT: u64 = 32;
/// Tenants in one query, and rows in one statement.
const MANY: usize = 500;

/// A delivery of which it is still to be published that it has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingFailure {
    pub tenant: TenantId,
    pub delivery: DeliveryId,
    pub round: u32,
}

/// Some of what is to be published, by tenants.
#[derive(Debug)]
pub struct PendingFailures {
    pub failures: Vec<PendingFailure>,
    /// The tenant after which the next ones come; empty if these were the last.
    pub cursor: String,
    /// Whether to look again at once.
    pub is_more: bool,
}

/// Others know that this webhook fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitNotice {
    pub tenant: TenantId,
    pub webhook: WebhookId,
    /// Since when its circuit was open.
    pub since: OffsetDateTime,
}

impl Store {
    /// Failures that are to be published: the oldest of each of the next tenants after this one.
    pub async fn pending_failures(&self, after: &str) -> Result<PendingFailures, StoreError> {
        use failure_outbox::Column;
        // From tenant to tenant by the primary key, however many rows each of them has. Rejected: DISTINCT and window functions,
        // which read all that waits.
        let sql = "WITH RECURSIVE tenants (tenant) AS (\
                   SELECT MIN(tenant) FROM failure_outbox WHERE tenant > ? \
                   UNION ALL SELECT (SELECT MIN(f.tenant) FROM failure_outbox AS f WHERE f.tenant > t.tenant) \
                   FROM tenants AS t WHERE t.tenant IS NOT NULL) \
                   SELECT tenant FROM tenants WHERE tenant IS NOT NULL LIMIT ?";
        let backend = self.db.get_database_backend();
        let values = [after.into(), i64::try_from(TENANTS).unwrap_or(i64::MAX).into()];
        let select = Statement::from_sql_and_values(backend, numbered(backend, sql), values);
        let mut tenants = Vec::new();
        for row in self.db.query_all_raw(select).await? {
            tenants.push(row.try_get_by_index::<String>(0)?);
        }
        let is_last = (tenants.len() as u64) < TENANTS;
        let cursor = tenants.last().filter(|_| !is_last).cloned().unwrap_or_default();
        let mut failures = Vec::new();
        for tenant in tenants {
            let of_tenant = failure_outbox::Entity::find().filter(Column::Tenant.eq(tenant));
            let oldest = of_tenant.order_by_asc(Column::DeliveryId).order_by_asc(Column::Round).limit(OF_A_TENANT);
            let rows = oldest.all(&self.db).await?;
            for row in rows {
                match read_failure(&row) {
                    Some(failure) => failures.push(failure),
                    None => self.drop_unreadable(row).await?,
                }
            }
        }
        // Tenants before these may have had more than their part.
        let is_more = !failures.is_empty() || !after.is_empty();
        Ok(PendingFailures { failures, cursor, is_more })
    }

    /// It never will read, and others wait behind it.
    async fn drop_unreadable(&self, row: failure_outbox::Model) -> Result<(), StoreError> {
        tracing::error!(row.tenant, row.delivery_id, row.round, "a failure that is to be published does not read");
        failure_outbox::Entity::delete_by_id((row.tenant, row.delivery_id, row.round)).exec(&self.db).await?;
        Ok(())
    }

    /// EVENTS has these, or there is nothing to publish of them any more.
    pub async fn failures_notified(&self, failures: &[PendingFailure]) -> Result<(), StoreError> {
        use failure_outbox::Column;
        if failures.is_empty() {
            return Ok(());
        }
        let is_one = failures.iter().fold(Condition::any(), |any, PendingFailure { tenant, delivery, round }| {
            let same = Condition::all().add(Column::Tenant.eq(tenant.as_str()));
            any.add(same.add(Column::DeliveryId.eq(delivery.to_string())).add(Column::Round.eq(i64::from(*round))))
        });
        failure_outbox::Entity::delete_many().filter(is_one).exec(&self.db).await?;
        Ok(())
    }

    /// Notices, by the id of the webhook, behind this one, of which the webhooks fail no more, as far as the database can tell.
    pub async fn circuit_notices(&self, after: &str, limit: u64) -> Result<Vec<CircuitNotice>, StoreError> {
        let sql = "SELECT n.webhook_id, n.tenant, n.since FROM circuit_notices AS n \
                   LEFT JOIN webhooks AS w ON w.id = n.webhook_id AND w.tenant = n.tenant \
                   WHERE n.webhook_id > ? AND (w.id IS NULL OR w.state <> 'active' OR w.failing_since IS NULL) \
                   ORDER BY n.webhook_id LIMIT ?";
        let backend = self.db.get_database_backend();
        let values = [after.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
        let select = Statement::from_sql_and_values(backend, numbered(backend, sql), values);
        let rows = circuit_notice::Model::find_by_statement(select).all(&self.db).await?;
        let read = |row: circuit_notice::Model| {
            let (tenant, webhook) = (row.tenant.parse().ok()?, row.webhook_id.parse().ok()?);
            Some(CircuitNotice { tenant, webhook, since: from_millis(row.since) })
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// From now on others know that this webhook fails; returns since when, by the row that was there before if there was one.
    pub async fn note_circuit(
        &self,
        tenant: &TenantId,
        webhook: WebhookId,
        since: OffsetDateTime,
    ) -> Result<OffsetDateTime, StoreError> {
        use circuit_notice::Column;
        let row = circuit_notice::ActiveModel {
            webhook_id: Set(webhook.to_string()),
            tenant: Set(tenant.to_string()),
            since: Set(to_millis(since)),
        };
        let known = OnConflict::column(Column::WebhookId).do_nothing().to_owned();
        circuit_notice::Entity::insert(row).on_conflict(known).exec_without_returning(&self.db).await?;
        let kept = circuit_notice::Entity::find_by_id(webhook.to_string()).one(&self.db).await?;
        Ok(kept.map_or(since, |row| from_millis(row.since)))
    }

    /// There is nothing more to publish of that time.
    pub async fn forget_circuit_notice(&self, notice: &CircuitNotice) -> Result<(), StoreError> {
        use circuit_notice::Column;
        let same = Condition::all()
            .add(Column::WebhookId.eq(notice.webhook.to_string()))
            .add(Column::Since.eq(to_millis(notice.since)));
        circuit_notice::Entity::delete_many().filter(same).exec(&self.db).await?;
        Ok(())
    }

    /// Whether another webhook of the tenant than that subscribes to this.
    pub async fn has_listener(
        &self,
        tenant: &TenantId,
        event_type: EventType,
        subject: WebhookId,
    ) -> Result<bool, StoreError> {
        let listeners = listeners(&self.db, &[tenant.as_str()], event_type).await?;
        Ok(listeners.is_another(tenant, subject))
    }
}

fn read_failure(row: &failure_outbox::Model) -> Option<PendingFailure> {
    Some(PendingFailure {
        tenant: row.tenant.parse().ok()?,
        delivery: row.delivery_id.parse().ok()?,
        round: u32::try_from(row.round).ok()?,
    })
}

/// Whether others may want to know: its owner has not chosen this end, and it is not that of a notification. What waits until it
/// has expired is not published one by one: others know that the webhook fails, or its owner has paused it.
fn is_to_be_published(outcome: &Outcome) -> bool {
    let is_chosen = matches!(outcome.fault, Some((Fault::WebhookDeleted, _)));
    history::state(outcome) == DeliveryState::Failed && !is_chosen && !outcome.job.event_type.is_operational()
}

/// Notes, in the transaction that records them, which of the outcomes are the end of a delivery that has failed and that
/// another webhook of its tenant wants to know of.
pub(crate) async fn note<'a>(
    transaction: &DatabaseTransaction,
    outcomes: impl Iterator<Item = &'a Outcome>,
) -> Result<(), DbErr> {
    let failed_outcomes: Vec<_> = outcomes.filter(|outcome| is_to_be_published(outcome)).collect();
    let tenants: BTreeSet<_> = failed_outcomes.iter().map(|outcome| outcome.job.tenant.as_str()).collect();
    let tenants: Vec<_> = tenants.into_iter().collect();
    let Ok(failed) = EventType::of_stored(DELIVERY_FAILED) else { return Ok(()) };
    let mut known = Listeners::default();
    for part in tenants.chunks(MANY) {
        known.0.extend(listeners(transaction, part, failed).await?.0);
    }
    let wanted =
        failed_outcomes.into_iter().filter(|outcome| known.is_another(&outcome.job.tenant, outcome.job.webhook));
    let rows: Vec<_> = wanted
        .map(|outcome| failure_outbox::ActiveModel {
            tenant: Set(outcome.job.tenant.to_string()),
            delivery_id: Set(outcome.job.delivery.to_string()),
            round: Set(outcome.job.round().into()),
        })
        .collect();
    for part in rows.chunks(MANY) {
        use failure_outbox::Column;
        let key = [Column::Tenant, Column::DeliveryId, Column::Round];
        let known = OnConflict::columns(key).do_nothing().to_owned();
        let insert = failure_outbox::Entity::insert_many(part.iter().cloned()).on_conflict(known);
        insert.exec_without_returning(transaction).await?;
    }
    Ok(())
}

/// The webhooks of each tenant that are notified of something.
#[derive(Debug, Default)]
struct Listeners(BTreeMap<String, BTreeSet<String>>);

impl Listeners {
    /// A webhook is not notified of itself.
    fn is_another(&self, tenant: &TenantId, subject: WebhookId) -> bool {
        let subject = subject.to_string();
        self.0.get(tenant.as_str()).is_some_and(|webhooks| webhooks.iter().any(|webhook| *webhook != subject))
    }
}

async fn listeners(db: &impl ConnectionTrait, tenants: &[&str], event_type: EventType) -> Result<Listeners, DbErr> {
    use webhook::Column;
    // Few match this, and of those the patterns are read.
    let name = event_type.to_string();
    let may_match = Condition::any().add(Column::Events.contains("*")).add(Column::Events.contains(name));
    let rows: Vec<(String, String, String)> = webhook::Entity::find()
        .select_only()
        .columns([Column::Tenant, Column::Id, Column::Events])
        .filter(Column::Tenant.is_in(tenants.iter().copied()))
        .filter(Column::State.eq(WebhookState::Active.name()))
        .filter(may_match)
        .into_tuple()
        .all(db)
        .await?;
    let wants = |events: &str| {
        events.split(',').any(|text| EventPattern::of_stored(text).is_ok_and(|pattern| pattern.matches(event_type)))
    };
    let mut listeners = Listeners::default();
    for (tenant, id, events) in rows {
        if wants(&events) {
            listeners.0.entry(tenant).or_default().insert(id);
        }
    }
    Ok(listeners)
}
