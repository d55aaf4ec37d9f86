//! What is too old is removed, some rows at a time, so that nobody who writes waits for it.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, TransactionTrait};
use shopery_model::DeliveryId;
use time::OffsetDateTime;

use crate::entity::{delivery, recorded, recovery, recovery_item, rollup};
use crate::{RecoveryState, Store, StoreError, to_millis};

/// Rows that are removed at a time.
const BATCH: u64 = 500;

impl Store {
    /// Forgets deliveries that were made before, some at a time; false when there are no more. One that is recorded again
    /// afterwards is forgotten the next time.
    pub async fn forget_deliveries(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        use delivery::Column;
        let old = delivery::Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::Id.lt(DeliveryId::first_at(before).to_string()))
            .order_by_asc(Column::Id)
            .limit(BATCH);
        let ids: Vec<String> = old.into_tuple().all(&self.db).await?;
        // Ids of one time lie together: a range is cheaper than a list.
        let Some((first, last)) = ids.first().zip(ids.last()) else { return Ok(false) };
        let range = delivery::Entity::delete_many().filter(Column::Id.gte(first)).filter(Column::Id.lte(last));
        range.exec(&self.db).await?;
        Ok(ids.len() as u64 == BATCH)
    }

    /// Forgets recoveries that ended before, some at a time; false when there are no more.
    pub async fn forget_recoveries(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        use recovery::Column;
        let old = recovery::Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::State.ne(RecoveryState::Running.name()))
            .filter(Column::UpdatedAt.lt(to_millis(before)))
            .limit(BATCH);
        let ids: Vec<String> = old.into_tuple().all(&self.db).await?;
        let transaction = self.db.begin().await?;
        let items = recovery_item::Entity::delete_many();
        items.filter(recovery_item::Column::RecoveryId.is_in(&ids)).exec(&transaction).await?;
        recovery::Entity::delete_many().filter(Column::Id.is_in(&ids)).exec(&transaction).await?;
        transaction.commit().await?;
        Ok(ids.len() as u64 == BATCH)
    }

    /// Forgets which messages of before were counted, some at a time; false when there are no more.
    pub async fn forget_recorded(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        use recorded::Column;
        let old = recorded::Entity::find()
            .select_only()
            .column(Column::Sequence)
            .filter(Column::At.lt(to_millis(before)))
            .limit(BATCH);
        let sequences: Vec<i64> = old.into_tuple().all(&self.db).await?;
        let is_more = sequences.len() as u64 == BATCH;
        let old = recorded::Entity::delete_many().filter(Column::Sequence.is_in(sequences));
        old.filter(Column::At.lt(to_millis(before))).exec(&self.db).await?;
        Ok(is_more)
    }

    /// Forgets counts of before.
    pub async fn forget_counts(&self, before: OffsetDateTime) -> Result<(), StoreError> {
        let old = rollup::Entity::delete_many().filter(rollup::Column::Bucket.lt(to_millis(before)));
        old.exec(&self.db).await?;
        Ok(())
    }
}
