//! The transactional outbox of CONFIG: a change of a webhook leaves a row here in its own transaction, and the service
//! that brings CONFIG in line with it removes the row. What a crash or an outage left undone is found here, however many
//! webhooks there are; comparing all of them would cost a core at a hundred thousand.

use sea_orm::ActiveValue::Set;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use shopery_model::{ChangeId, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::entity::{config_outbox, webhook_change};
use crate::{Store, StoreError};

/// Changes read at a time.
const BATCH: u64 = 500;

/// A change of a webhook that CONFIG may not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingChange {
    pub id: ChangeId,
    pub tenant: TenantId,
    pub webhook: WebhookId,
}

impl Store {
    /// The changes of this webhook that CONFIG may not have.
    pub async fn pending_changes_of(&self, webhook: WebhookId) -> Result<Vec<PendingChange>, StoreError> {
        let of_webhook = config_outbox::Column::WebhookId.eq(webhook.to_string());
        let rows = config_outbox::Entity::find().filter(of_webhook).limit(BATCH).all(&self.db).await?;
        rows.into_iter().map(read).collect()
    }

    /// The oldest changes from before this time that CONFIG may not have, at most 500.
    pub async fn pending_changes(&self, before: OffsetDateTime) -> Result<Vec<PendingChange>, StoreError> {
        use config_outbox::Column;
        let old = config_outbox::Entity::find().filter(Column::Id.lt(ChangeId::first_at(before).to_string()));
        let rows = old.order_by_asc(Column::Id).limit(BATCH).all(&self.db).await?;
        rows.into_iter().map(read).collect()
    }

    /// CONFIG has these changes.
    pub async fn changes_published(&self, changes: &[PendingChange]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let ids = changes.iter().map(|change| change.id.to_string());
        config_outbox::Entity::delete_many().filter(config_outbox::Column::Id.is_in(ids)).exec(&self.db).await?;
        Ok(())
    }

    /// The webhooks that were deleted since then, newest first, with an id of their change below `before`; at most 500.
    pub async fn deleted_webhooks(
        &self,
        since: OffsetDateTime,
        before: Option<ChangeId>,
    ) -> Result<Vec<PendingChange>, StoreError> {
        use webhook_change::Column;
        let mut deleted = webhook_change::Entity::find()
            .select_only()
            .columns([Column::Id, Column::Tenant, Column::WebhookId])
            .filter(Column::Action.eq("deleted"))
            .filter(Column::Id.gte(ChangeId::first_at(since).to_string()));
        if let Some(before) = before {
            deleted = deleted.filter(Column::Id.lt(before.to_string()));
        }
        let rows: Vec<(String, String, String)> =
            deleted.order_by_desc(Column::Id).limit(BATCH).into_tuple().all(&self.db).await?;
        let rows = rows.into_iter().map(|(id, tenant, webhook_id)| config_outbox::Model { id, tenant, webhook_id });
        rows.map(read).collect()
    }
}

/// Notes, in the transaction of the change, that CONFIG does not have it yet.
pub(crate) async fn note(db: &impl ConnectionTrait, tenant: &TenantId, webhook: WebhookId) -> Result<(), StoreError> {
    let row = config_outbox::ActiveModel {
        id: Set(ChangeId::generate().to_string()),
        tenant: Set(tenant.to_string()),
        webhook_id: Set(webhook.to_string()),
    };
    config_outbox::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

fn read(row: config_outbox::Model) -> Result<PendingChange, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("pending change {}: {what}", row.id));
    Ok(PendingChange {
        id: row.id.parse().map_err(|_| corrupt("id"))?,
        tenant: row.tenant.parse().map_err(|_| corrupt("tenant"))?,
        webhook: row.webhook_id.parse().map_err(|_| corrupt("webhook_id"))?,
    })
}
