//! A delivery that ended as `duplicate` or `superseded` relies on another one, its carrier, to tell the endpoint. If the
//! carrier ends undelivered, so has what it carried: those rows become `failed` with the reason `carrier_failed`.
//!
//! Outcomes come in any order, so both sides are looked at whenever either is written: what the ended one carries, and
//! what became of the carrier of the one that is carried. What follows from a row that fails here is followed too.
//!
//! Invariant: a row fails here only in the round that its carrier failed in its place. Its rank becomes that of a failed
//! attempt, so the outcome that made it a duplicate changes nothing when it is recorded again, and a later round wins.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, Statement, Value};
use shopery_model::{DeliveryState, Fault, Outcome, stable_hash};

use crate::sql::{in_sizes, lock, numbered};
use crate::to_millis;

/// How far is followed what was carried by one that was carried. Each step is a burst or a recovery of its own, so a chain
/// has a few.
const MAX_CHAIN: usize = 64;
/// Locks that the webhooks of all tenants share: a transaction may need one for each webhook, and PostgreSQL has room for a
/// few thousand in all.
const LOCKS: u32 = 64;
/// The first key of the locks. Any number that nothing else uses.
const LOCK_SPACE: i32 = 1_128_485_441;

/// What of a batch of outcomes may be carried, or have carried others.
#[derive(Debug, Default)]
pub(crate) struct Carriers {
    /// Ended, and told the endpoint nothing.
    ended: BTreeSet<String>,
    carried: BTreeSet<String>,
    locks: BTreeSet<u32>,
    at: i64,
}

impl Carriers {
    pub(crate) fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Self {
        let mut found = Self::default();
        for outcome in outcomes {
            if outcome.is_end_of_a_carrier() {
                found.ended.insert(outcome.job.delivery.to_string());
            } else if is_carried(outcome.state) && outcome.carried_by.is_some() {
                found.carried.insert(outcome.job.delivery.to_string());
            } else {
                continue;
            }
            found.locks.insert(lock_of(&outcome.job.webhook.to_string()));
            found.at = Ord::max(found.at, to_millis(outcome.at));
        }
        found
    }

    /// To be called before anything is written. A carrier and what it carries may be recorded by two replicas at the same
    /// time, and neither would see what the other has not committed.
    pub(crate) async fn lock(&self, transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        lock(transaction, LOCK_SPACE, &self.locks).await
    }

    /// To be called when the outcomes are written.
    pub(crate) async fn fail_carried(self, transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        let Self { ended, carried, at, .. } = self;
        let mut failed = fail(transaction, "id", &carried, at).await?;
        failed.extend(ended);
        for _ in 0..MAX_CHAIN {
            if failed.is_empty() {
                break;
            }
            failed = fail(transaction, "carried_by", &failed, at).await?;
        }
        Ok(())
    }
}

/// Fails what is carried by a carrier that has ended undelivered, of the rows in which `column` is one of `ids`; returns
/// the ids of those rows.
async fn fail(
    transaction: &DatabaseTransaction,
    column: &str,
    ids: &BTreeSet<String>,
    at: i64,
) -> Result<BTreeSet<String>, DbErr> {
    let backend = transaction.get_database_backend();
    let ids: Vec<_> = ids.iter().collect();
    let mut failed = BTreeSet::new();
    for part in in_sizes(&ids) {
        let sql = numbered(backend, &sql(column, part.len()));
        let values = [at; 4].into_iter().map(Value::from).chain(part.iter().map(|id| id.as_str().into()));
        for row in transaction.query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await? {
            failed.insert(row.try_get::<String>("", "id")?);
        }
    }
    Ok(failed)
}

fn sql(column: &str, size: usize) -> String {
    let names = |states: &[DeliveryState]| {
        states.iter().map(|state| format!("'{}'", state.name())).collect::<Vec<_>>().join(", ")
    };
    let carried: Vec<_> = DeliveryState::ALL.into_iter().filter(|state| is_carried(*state)).collect();
    let ends: Vec<_> = DeliveryState::ALL.into_iter().filter(|state| state.is_undelivered_end()).collect();
    // What ends a carrier is what `Outcome::is_end_of_a_carrier` says of it. It is looked up by its id, row by row: as a join, a
    // database that expects few failed rows would read all of those. The state itself would tempt PostgreSQL to read all
    // duplicates of an index by state, beside the few rows that `carried_by` names. When the row was made is not known
    // here, so it counts as late, which costs an entry in an index.
    format!(
        "UPDATE deliveries AS d SET state = '{failed}', fault = '{fault}', \
         fault_detail = 'its payload was to be told by ' || carried_by || ', which was not delivered', \
         rank = rank + 1, updated_at = CASE WHEN updated_at < ? THEN ? ELSE updated_at END, \
         late_at = CASE WHEN updated_at < ? THEN ? ELSE updated_at END \
         WHERE {column} IN ({places}) AND carried_by IS NOT NULL AND state || '' IN ({carried}) AND (\
         SELECT c.state IN ({ends}) OR (c.state = '{filtered}' AND c.fault IS NOT NULL) \
         FROM deliveries AS c WHERE c.id = d.carried_by) RETURNING id",
        failed = DeliveryState::Failed.name(),
        fault = Fault::CarrierFailed.name(),
        filtered = DeliveryState::Filtered.name(),
        places = vec!["?"; size].join(", "),
        carried = names(&carried),
        ends = names(&ends),
    )
}

fn is_carried(state: DeliveryState) -> bool {
    matches!(state, DeliveryState::Duplicate | DeliveryState::Superseded)
}

/// The same in every replica.
fn lock_of(webhook: &str) -> u32 {
    stable_hash(webhook.as_bytes()) % LOCKS
}
