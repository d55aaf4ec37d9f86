//! Recoveries, as they are worked on: turn by turn, each by one process.
//!
//! A turn begins with [`Store::claim_recovery`], which gives a lease, and whatever it writes is written only while the
//! lease is its own. What is to be sent is written down before it is (an item, planned), and counted when it was, with
//! the outcomes in the same transaction. So whoever takes the next turn, after a crash too, knows what may have been
//! sent already.
//!
//! Invariant: a recovery has one item for each resource, or for each delivery where every one is sent.

use std::collections::HashMap;
use std::time::Duration;

use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Order};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr,
    EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Statement, TransactionTrait, UpdateMany, Value,
};
use shopery_model::{AttemptId, DeliveryId, Outcome, PayloadMode, TenantId};
use time::OffsetDateTime;

use crate::entity::{delivery, recovery, recovery_item};
use crate::history::{self, read_delivery};
use crate::recoveries::read;
use crate::sql::numbered;
use crate::{DeliveryRecord, RecoveryRecord, RecoveryState, Store, StoreError, to_millis};

/// Whoever has a recovery is given up on after so long. Above the longest turn.
const LEASE: Duration = Duration::from_secs(20);

/// Deliveries that are counted before a recovery is made.
const MAX_COUNTED: u64 = 200_000;
const LONGEST_COUNT: Duration = Duration::from_secs(10);

/// Deliveries of the webhook that are gone through for a page, whatever their states.
const SCANNED: u64 = 5000;

/// A recovery, and the right to work on it.
#[derive(Debug)]
pub struct RecoveryTurn {
    pub recovery: RecoveryRecord,
    owner: String,
}

/// What a turn looks at.
#[derive(Debug)]
pub struct RecoveryPage {
    pub deliveries: Vec<DeliveryRecord>,
    /// The next page begins behind it; `None` if there is none.
    pub end: Option<String>,
}

/// What a recovery would be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recoverable {
    /// Deliveries.
    pub total: u64,
    /// When the first and the last of them were made.
    pub oldest_at: Option<OffsetDateTime>,
    pub newest_at: Option<OffsetDateTime>,
    /// Those of them whose own event EVENTS no longer holds.
    pub not_held: u64,
}

/// One message that a recovery sends.
#[derive(Debug, Clone)]
pub struct RecoveryItem {
    /// The resource, or the delivery where every one is sent.
    pub item: String,
    pub delivery: DeliveryId,
    /// The round of the delivery that it begins.
    pub round: u32,
    pub state: ItemState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemState {
    /// It may have been sent already, and the process ended before it could say so.
    Planned,
    Sent,
    /// EVENTS no longer holds it.
    Unavailable,
}

impl ItemState {
    fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Sent => "sent",
            Self::Unavailable => "unavailable",
        }
    }
}

impl RecoveryTurn {
    /// What the delivery is one item with.
    pub fn item_of(&self, delivery: &DeliveryRecord) -> String {
        match self.recovery.mode {
            PayloadMode::Latest => delivery.resource.clone(),
            PayloadMode::Original => delivery.id.clone(),
        }
    }

    fn mine(&self) -> Condition {
        use recovery::Column;
        Condition::all().add(Column::Id.eq(self.recovery.id.to_string())).add(Column::LeaseOwner.eq(&*self.owner))
    }

    fn mine_and_running(&self) -> Condition {
        self.mine().add(recovery::Column::State.eq(RecoveryState::Running.name()))
    }
}

impl Store {
    /// The recovery that has waited longest for a turn, if there is one that nobody works on.
    pub async fn claim_recovery(&self, now: OffsetDateTime) -> Result<Option<RecoveryTurn>, StoreError> {
        use recovery::Column;
        let free = Condition::all()
            .add(Column::State.eq(RecoveryState::Running.name()))
            .add(Column::LeaseUntil.lte(to_millis(now)));
        let longest = recovery::Entity::find().filter(free.clone()).order_by_asc(Column::UpdatedAt);
        let Some(found) = longest.one(&self.db).await? else { return Ok(None) };
        // Names this turn: what an earlier one of the same process still writes is not taken for its.
        let owner = AttemptId::generate().to_string();
        let claimed = recovery::Entity::update_many()
            .col_expr(Column::LeaseOwner, Expr::value(owner.as_str()))
            .col_expr(Column::LeaseUntil, Expr::value(to_millis(now + LEASE)))
            .filter(free.add(Column::Id.eq(found.id.as_str())));
        if claimed.exec(&self.db).await?.rows_affected == 0 {
            return Ok(None);
        }
        // As it is now: the other turn may have written after we looked.
        let found = recovery::Entity::find_by_id(found.id).one(&self.db).await?;
        found.map(|row| Ok(RecoveryTurn { recovery: read(row)?, owner })).transpose()
    }

    /// Ends a turn; the next one is due at `next`.
    pub async fn end_turn(
        &self,
        turn: &RecoveryTurn,
        now: OffsetDateTime,
        next: OffsetDateTime,
    ) -> Result<(), StoreError> {
        use recovery::Column;
        let released = recovery::Entity::update_many()
            .col_expr(Column::LeaseUntil, Expr::value(to_millis(next)))
            .col_expr(Column::UpdatedAt, Expr::value(to_millis(now)))
            .filter(turn.mine_and_running());
        released.exec(&self.db).await?;
        Ok(())
    }

    /// What a recovery would be about, before it is made; `None` if it is more than [`MAX_COUNTED`] deliveries, or takes too
    /// long to count. `held_from`: the first place in EVENTS from which on all is held.
    pub async fn recoverable(
        &self,
        recovery: &RecoveryRecord,
        held_from: u64,
    ) -> Result<Option<Recoverable>, StoreError> {
        let backend = self.db.get_database_backend();
        let transaction = self.db.begin().await?;
        if backend == DatabaseBackend::Postgres {
            // Nobody waits for it any more then, and the server would go on.
            let limit = format!("SET LOCAL statement_timeout = {}", LONGEST_COUNT.as_millis());
            transaction.execute_unprepared(&limit).await?;
        }
        let states = vec!["?"; recovery.statuses.len()].join(", ");
        let sql = format!(
            "SELECT count(*), min(id), max(id), CAST(sum(CASE WHEN event_sequence < ? THEN 1 ELSE 0 END) AS BIGINT) FROM \
             (SELECT id, event_sequence FROM deliveries WHERE tenant = ? AND webhook_id = ? AND id >= ? AND id <= ? \
             AND state IN ({states}) LIMIT {}) AS d",
            MAX_COUNTED + 1
        );
        let mut values: Vec<Value> = vec![
            i64::try_from(held_from).unwrap_or(i64::MAX).into(),
            recovery.tenant.as_str().into(),
            recovery.webhook.to_string().into(),
            DeliveryId::first_at(recovery.since).to_string().into(),
            DeliveryId::last_at(recovery.until).to_string().into(),
        ];
        values.extend(recovery.statuses.iter().map(|state| Value::from(state.name())));
        let counting = Statement::from_sql_and_values(backend, numbered(backend, &sql), values);
        let counted = tokio::time::timeout(LONGEST_COUNT, transaction.query_one_raw(counting)).await;
        let row = match counted {
            Ok(Err(error)) if !StoreError::from(error.clone()).is_cancelled() => return Err(error.into()),
            Ok(Ok(row)) => row,
            Ok(Err(_)) | Err(_) => return Ok(None),
        };
        transaction.commit().await?;
        let Some(row) = row else { return Ok(None) };
        let count = |number: Option<i64>| u64::try_from(number.unwrap_or_default()).unwrap_or_default();
        let created = |id: Option<String>| id.and_then(|id| id.parse::<DeliveryId>().ok()).map(DeliveryId::created_at);
        let found = Recoverable {
            total: count(row.try_get_by_index(0)?),
            oldest_at: created(row.try_get_by_index(1)?),
            newest_at: created(row.try_get_by_index(2)?),
            not_held: count(row.try_get_by_index(3)?),
        };
        Ok(Some(found).filter(|found| found.total <= MAX_COUNTED))
    }

    /// Counts what there is to do.
    pub async fn count_recovery(&self, turn: &RecoveryTurn) -> Result<(), StoreError> {
        let total = delivery::Entity::find()
            .filter(in_window(&turn.recovery).add(in_statuses(&turn.recovery)))
            .count(&self.db)
            .await?;
        let counted = recovery::Entity::update_many()
            .col_expr(recovery::Column::Total, Expr::value(i64::try_from(total).unwrap_or(i64::MAX)))
            .filter(turn.mine());
        counted.exec(&self.db).await?;
        Ok(())
    }

    /// The next deliveries to be looked at. Where one is sent for each resource, the newest come first, so that it is
    /// met before those that it carries; else in the order of their events.
    pub async fn recovery_page(&self, turn: &RecoveryTurn, limit: u64) -> Result<RecoveryPage, StoreError> {
        use delivery::Column;
        let RecoveryRecord { place, mode, .. } = &turn.recovery;
        let order = if *mode == PayloadMode::Latest { Order::Desc } else { Order::Asc };
        let is_newest_first = order == Order::Desc;
        let behind = |place: &str| if is_newest_first { Column::Id.lt(place) } else { Column::Id.gt(place) };
        let rest = delivery::Entity::find()
            .filter(in_window(&turn.recovery).add_option(place.as_deref().map(behind)))
            .order_by(Column::Id, order);
        // However few of them are to be recovered, a page takes a bounded time.
        let end = rest.clone().select_only().column(Column::Id).offset(SCANNED).limit(1);
        let end = end.into_tuple::<String>().one(&self.db).await?;
        let within = |end: &String| if is_newest_first { Column::Id.gte(&**end) } else { Column::Id.lte(&**end) };
        let page = rest.filter(in_statuses(&turn.recovery).add_option(end.as_ref().map(within)));
        let rows = page.limit(limit).all(&self.db).await?;
        let is_full = u64::try_from(rows.len()).is_ok_and(|count| count >= limit);
        let end = if is_full || end.is_none() { rows.last().map(|row| row.id.clone()) } else { end };
        let deliveries = rows.into_iter().map(|row| read_delivery(row).map(|(delivery, _)| delivery));
        Ok(RecoveryPage { deliveries: deliveries.collect::<Result<_, _>>()?, end })
    }

    /// The items that are known of these.
    pub async fn recovery_items(
        &self,
        turn: &RecoveryTurn,
        items: Vec<String>,
    ) -> Result<HashMap<String, RecoveryItem>, StoreError> {
        let known = of(turn).filter(recovery_item::Column::Item.is_in(items)).all(&self.db).await?;
        known.into_iter().map(|row| Ok((row.item.clone(), read_item(row)?))).collect()
    }

    /// What a turn that did not end has planned, and the deliveries as they are now.
    pub async fn planned_items(&self, turn: &RecoveryTurn) -> Result<Vec<(RecoveryItem, DeliveryRecord)>, StoreError> {
        let planned = of(turn).filter(recovery_item::Column::State.eq(ItemState::Planned.name()));
        let planned = planned.all(&self.db).await?.into_iter().map(read_item).collect::<Result<Vec<_>, _>>()?;
        let mut deliveries = self.deliveries_by_id(&turn.recovery.tenant, &planned).await?;
        let mut found: Vec<_> = planned
            .into_iter()
            .filter_map(|item| Some((item.clone(), deliveries.remove(&item.delivery.to_string())?)))
            .collect();
        found.sort_by_key(|(item, _)| item.delivery);
        Ok(found)
    }

    async fn deliveries_by_id(
        &self,
        tenant: &TenantId,
        items: &[RecoveryItem],
    ) -> Result<HashMap<String, DeliveryRecord>, StoreError> {
        use delivery::Column;
        let found = delivery::Entity::find()
            .filter(Column::Tenant.eq(tenant.as_str()))
            .filter(Column::Id.is_in(items.iter().map(|item| item.delivery.to_string())));
        let found = found.all(&self.db).await?.into_iter();
        found.map(|row| read_delivery(row).map(|(delivery, _)| (delivery.id.clone(), delivery))).collect()
    }

    /// Writes down what is about to be sent. False if the turn is over.
    pub async fn plan_items(
        &self,
        turn: &RecoveryTurn,
        items: &[RecoveryItem],
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let transaction = self.db.begin().await?;
        if !still(&transaction, touched(now).filter(turn.mine_and_running())).await? {
            return Ok(false);
        }
        let rows = items.iter().map(|item| recovery_item::ActiveModel {
            recovery_id: Set(turn.recovery.id.to_string()),
            item: Set(item.item.clone()),
            delivery_id: Set(item.delivery.to_string()),
            round: Set(i64::from(item.round)),
            state: Set(item.state.name().to_owned()),
        });
        let nothing = OnConflict::new().do_nothing().to_owned();
        recovery_item::Entity::insert_many(rows).on_conflict(nothing).exec_without_returning(&transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Writes down what has become of planned items, and that their deliveries wait for their attempt. A recovery that
    /// was cancelled meanwhile counts them too. False if the turn is over.
    pub async fn settle_items(
        &self,
        turn: &RecoveryTurn,
        items: &[RecoveryItem],
        outcomes: &[Outcome],
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        use recovery::Column;
        use recovery_item::Column as Item;
        let in_state = |state| items.iter().filter(move |item| item.state == state);
        let transaction = self.db.begin().await?;
        let counted = added(touched(now), Column::Resent, in_state(ItemState::Sent).count());
        let counted = added(counted, Column::Unavailable, in_state(ItemState::Unavailable).count());
        if !still(&transaction, counted.filter(turn.mine())).await? {
            return Ok(false);
        }
        for state in [ItemState::Sent, ItemState::Unavailable] {
            let names: Vec<_> = in_state(state).map(|item| item.item.as_str()).collect();
            if !names.is_empty() {
                recovery_item::Entity::update_many()
                    .col_expr(Item::State, Expr::value(state.name()))
                    .filter(Item::RecoveryId.eq(turn.recovery.id.to_string()))
                    .filter(Item::Item.is_in(names))
                    .exec(&transaction)
                    .await?;
            }
        }
        history::write(&transaction, outcomes).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Goes on behind `place`, with what has become of the deliveries that are carried by others. False if the turn is
    /// over.
    pub async fn pass_recovery(
        &self,
        turn: &RecoveryTurn,
        place: &str,
        superseded: &[Outcome],
        unavailable: usize,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        use recovery::Column;
        let transaction = self.db.begin().await?;
        let counted = added(touched(now), Column::Skipped, superseded.len());
        let counted = added(counted, Column::Unavailable, unavailable).col_expr(Column::Place, Expr::value(place));
        if !still(&transaction, counted.filter(turn.mine_and_running())).await? {
            return Ok(false);
        }
        history::write(&transaction, superseded).await?;
        if turn.recovery.mode == PayloadMode::Original {
            // None of them is met again.
            forget(turn).exec(&transaction).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Ends a recovery.
    pub async fn finish_recovery(
        &self,
        turn: &RecoveryTurn,
        state: RecoveryState,
        error: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        use recovery::Column;
        let finished = touched(now)
            .col_expr(Column::State, Expr::value(state.name()))
            .col_expr(Column::Error, Expr::value(error))
            .col_expr(Column::FinishedAt, Expr::value(to_millis(now)));
        if finished.filter(turn.mine_and_running()).exec(&self.db).await?.rows_affected > 0 {
            forget(turn).exec(&self.db).await?;
        }
        Ok(())
    }

    /// Forgets what recoveries that were cancelled have left behind.
    pub async fn sweep_recoveries(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        use recovery::Column;
        let over = recovery::Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::State.ne(RecoveryState::Running.name()))
            .filter(Column::LeaseUntil.lte(to_millis(now)));
        recovery_item::Entity::delete_many()
            .filter(recovery_item::Column::RecoveryId.in_subquery(sea_orm::QueryTrait::into_query(over)))
            .exec(&self.db)
            .await?;
        Ok(())
    }
}

/// The deliveries that a recovery looks at.
fn in_window(recovery: &RecoveryRecord) -> Condition {
    use delivery::Column;
    Condition::all()
        .add(Column::Tenant.eq(recovery.tenant.as_str()))
        .add(Column::WebhookId.eq(recovery.webhook.to_string()))
        .add(Column::Id.gte(DeliveryId::first_at(recovery.since).to_string()))
        .add(Column::Id.lte(DeliveryId::last_at(recovery.until).to_string()))
}

/// Of those, the ones that it is about.
fn in_statuses(recovery: &RecoveryRecord) -> Condition {
    Condition::all().add(delivery::Column::State.is_in(recovery.statuses.iter().map(|state| state.name())))
}

fn of(turn: &RecoveryTurn) -> sea_orm::Select<recovery_item::Entity> {
    recovery_item::Entity::find().filter(recovery_item::Column::RecoveryId.eq(turn.recovery.id.to_string()))
}

fn forget(turn: &RecoveryTurn) -> sea_orm::DeleteMany<recovery_item::Entity> {
    recovery_item::Entity::delete_many().filter(recovery_item::Column::RecoveryId.eq(turn.recovery.id.to_string()))
}

fn touched(now: OffsetDateTime) -> UpdateMany<recovery::Entity> {
    recovery::Entity::update_many().col_expr(recovery::Column::UpdatedAt, Expr::value(to_millis(now)))
}

fn added(update: UpdateMany<recovery::Entity>, column: recovery::Column, count: usize) -> UpdateMany<recovery::Entity> {
    update.col_expr(column, Expr::col(column).add(i64::try_from(count).unwrap_or(i64::MAX)))
}

/// The first statement of a transaction: it is a write, so SQLite does not have to make a writer of a reader later.
async fn still(transaction: &DatabaseTransaction, update: UpdateMany<recovery::Entity>) -> Result<bool, DbErr> {
    Ok(update.exec(transaction).await?.rows_affected > 0)
}

fn read_item(row: recovery_item::Model) -> Result<RecoveryItem, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("item {} of {}: {what}", row.item, row.recovery_id));
    Ok(RecoveryItem {
        delivery: row.delivery_id.parse().map_err(|_| corrupt("delivery_id"))?,
        round: u32::try_from(row.round).map_err(|_| corrupt("round"))?,
        state: match row.state.as_str() {
            "planned" => ItemState::Planned,
            "sent" => ItemState::Sent,
            "unavailable" => ItemState::Unavailable,
            _ => return Err(corrupt("state")),
        },
        item: row.item,
    })
}
