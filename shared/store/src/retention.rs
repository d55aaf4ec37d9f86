//! What is too old is removed, some rows at a time, or a partition, so that nobody who writes waits for it.

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect, Statement, TransactionTrait, Value,
};
use shopery_model::DeliveryId;
use time::OffsetDateTime;

use crate::entity::{recovery, recovery_item};
use crate::sql::numbered;
use crate::{RecoveryState, Store, StoreError, partitions, rollups, to_millis};

/// Rows that are removed at a time.
const BATCH: u64 = 500;

impl Store {
    /// Forgets deliveries that were made before: a whole partition, or some rows; false when there are no more. One that is
    /// recorded again afterwards is forgotten the next time.
    pub async fn forget_deliveries(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        if self.is_partitioned() && self.drop_partition(before).await? {
            return Ok(true);
        }
        let table = if self.is_partitioned() { partitions::DEFAULT } else { "deliveries" };
        let sql =
            format!("DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id < ? ORDER BY id LIMIT {BATCH})");
        self.forget(&sql, [DeliveryId::first_at(before).to_string().into()]).await
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

    /// Forgets which messages were counted, of those that cannot come again: up to a place in the stream, or from before (of
    /// a stream that was made anew); some at a time, false when there are no more.
    pub async fn forget_recorded(&self, through: u64, before: OffsetDateTime) -> Result<bool, StoreError> {
        let through = i64::try_from(through).unwrap_or(i64::MAX);
        let sql = format!(
            "DELETE FROM recorded WHERE (sequence, at) IN \
             (SELECT sequence, at FROM recorded WHERE sequence <= ? OR at < ? ORDER BY sequence LIMIT {BATCH})"
        );
        self.forget(&sql, [through.into(), to_millis(before).into()]).await
    }

    async fn forget<const N: usize>(&self, sql: &str, values: [Value; N]) -> Result<bool, StoreError> {
        let backend = self.db.get_database_backend();
        let statement = Statement::from_sql_and_values(backend, numbered(backend, sql), values);
        Ok(self.db.execute_raw(statement).await?.rows_affected() == BATCH)
    }

    /// Forgets counts by the hour of before, some at a time; false when there are no more.
    pub async fn forget_counts(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        self.forget_buckets(rollups::HOUR, before).await
    }

    /// Forgets counts by the minute that are told by the hour by now, some at a time; false when there are no more.
    pub async fn forget_minutes(&self, now: OffsetDateTime) -> Result<bool, StoreError> {
        let before = now.checked_sub(rollups::MINUTES_KEPT).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        self.forget_buckets(rollups::MINUTE, before).await
    }

    async fn forget_buckets(&self, size: i64, before: OffsetDateTime) -> Result<bool, StoreError> {
        let old = format!("size = {size} AND bucket < ?");
        let sql = format!(
            "DELETE FROM counts WHERE (subject, size, bucket) IN \
             (SELECT subject, size, bucket FROM counts WHERE {old} ORDER BY bucket LIMIT {BATCH})"
        );
        self.forget(&sql, [to_millis(before).into()]).await
    }
}
