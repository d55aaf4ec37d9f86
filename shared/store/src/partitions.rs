//! The history on PostgreSQL lies in partitions, each of some days of deliveries, so that what is too old is dropped at once
//! and nothing is left to vacuum.
//!
//! A partition is named for the day on which it ends, and begins where the one before ends; what belongs to none is in the
//! default partition. An id begins with its time, so ids are what the history is divided by.
//!
//! Invariant: whoever records never waits longer than [`LOCK_TIMEOUT`] for any of this; if it cannot be had, it is done later.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, Statement, TransactionTrait};
use sea_orm_migration::SchemaManager;
use shopery_model::DeliveryId;
use time::{Date, Duration, OffsetDateTime};

use crate::{Store, StoreError};

/// Where deliveries are that belong to no partition: older than all of them, or newer by some fault of a clock.
pub(crate) const DEFAULT: &str = "deliveries_default";
const PREFIX: &str = "deliveries_until_";
/// The history is divided into so many: each query looks at all that its times do not rule out.
const PARTITIONS: i64 = 30;
/// Partitions that are made before they are needed.
const AHEAD: i32 = 2;
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";
/// For the lock of an old partition, which nobody records in: autovacuum gives way after one second.
const OLD_LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";
/// How often it is looked whether an index is built.
const BUILD_LOOK: std::time::Duration = std::time::Duration::from_secs(1);
/// One replica at a time. Any number that nothing else uses.
const ADVISORY_LOCK: &str = "SELECT pg_advisory_xact_lock(7205759403792793)";

/// The deliveries of before this day, as far as the partition before does not have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Until(pub Date);

impl Until {
    pub fn table(self) -> String {
        let Self(day) = self;
        format!("{PREFIX}{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day())
    }

    fn parse(table: &str) -> Option<Self> {
        let digits = table.strip_prefix(PREFIX).filter(|digits| digits.len() == 8 && digits.is_ascii())?;
        let month = digits[4..6].parse::<u8>().ok()?.try_into().ok()?;
        Date::from_calendar_date(digits[..4].parse().ok()?, month, digits[6..].parse().ok()?).ok().map(Self)
    }

    fn time(self) -> OffsetDateTime {
        self.0.midnight().assume_utc()
    }

    /// The lowest id that is not in it.
    pub fn bound(self) -> DeliveryId {
        DeliveryId::first_at(self.time())
    }
}

/// Which partitions are still to be made, oldest first: each with where it begins.
fn missing(known: &BTreeSet<Until>, now: OffsetDateTime, max_age: Duration) -> Vec<(Until, Until)> {
    let days = Ord::clamp(max_age.whole_days(), 1, 36_500);
    let width = Duration::days((days + PARTITIONS - 1) / PARTITIONS);
    let end = now.saturating_add(width * AHEAD);
    // After a long time in which nobody ran, what would be dropped at once is not made.
    let oldest = Until(now.checked_sub(max_age).unwrap_or(OffsetDateTime::UNIX_EPOCH).date());
    let today = Until(now.date());
    let mut begin = known.last().copied().unwrap_or(today).max(oldest);
    let mut missing = Vec::new();
    while begin.time() < end {
        let Some(next) = begin.0.checked_add(width).map(Until) else { break };
        missing.push((begin, next));
        begin = next;
    }
    missing
}

impl Store {
    pub(crate) fn is_partitioned(&self) -> bool {
        self.db.get_database_backend() == DatabaseBackend::Postgres
    }

    /// Makes the partitions of today and the next days, if they are not there.
    pub async fn prepare_history(&self, now: OffsetDateTime, max_age: Duration) -> Result<(), StoreError> {
        if !self.is_partitioned() || missing(&known(&self.db).await?, now, max_age).is_empty() {
            return Ok(());
        }
        let transaction = self.lock_history().await?;
        // Another replica may have made them by now.
        for (begin, until) in missing(&known(&transaction).await?, now, max_age) {
            create(&transaction, begin, until).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Drops the oldest partition, if all of it is from before; false if there is none.
    pub(crate) async fn drop_partition(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        let is_old = |until: &Until| until.time() <= before;
        let Some(oldest) = known(&self.db).await?.first().copied().filter(is_old) else { return Ok(false) };
        // Its files go while nobody but those who read it waits; the history as a whole is locked for its name alone.
        for (lock_timeout, statement) in [(OLD_LOCK_TIMEOUT, "TRUNCATE TABLE"), (LOCK_TIMEOUT, "DROP TABLE")] {
            let transaction = self.lock_history().await?;
            if known(&transaction).await?.contains(&oldest) {
                transaction.execute_unprepared(lock_timeout).await?;
                transaction.execute_unprepared(&format!("{statement} {}", oldest.table())).await?;
            }
            transaction.commit().await?;
        }
        Ok(true)
    }

    async fn lock_history(&self) -> Result<DatabaseTransaction, DbErr> {
        let transaction = self.db.begin().await?;
        transaction.execute_unprepared(LOCK_TIMEOUT).await?;
        transaction.execute_unprepared(ADVISORY_LOCK).await?;
        Ok(transaction)
    }
}

async fn known(db: &impl ConnectionTrait) -> Result<BTreeSet<Until>, DbErr> {
    let sql = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
               WHERE i.inhparent = 'deliveries'::regclass";
    let rows = db.query_all_raw(Statement::from_string(DatabaseBackend::Postgres, sql)).await?;
    let names = rows.iter().map(|row| row.try_get::<String>("", "relname")).collect::<Result<Vec<_>, _>>()?;
    Ok(names.iter().filter_map(|name| Until::parse(name)).collect())
}

/// Makes a partition, and moves into it what waits for it in the default one.
async fn create(transaction: &DatabaseTransaction, begin: Until, until: Until) -> Result<(), DbErr> {
    let (table, from, to) = (until.table(), begin.bound(), until.bound());
    for sql in [
        "LOCK TABLE ONLY deliveries IN SHARE UPDATE EXCLUSIVE MODE".to_owned(),
        format!("LOCK TABLE {DEFAULT} IN ACCESS EXCLUSIVE MODE"),
        format!("CREATE TABLE {table} (LIKE deliveries INCLUDING ALL)"),
        move_rows(DEFAULT, &table, &format!("id >= '{from}' AND id < '{to}'")),
        format!("ALTER TABLE deliveries ATTACH PARTITION {table} FOR VALUES FROM ('{from}') TO ('{to}')"),
    ] {
        transaction.execute_unprepared(&sql).await?;
    }
    Ok(())
}

/// For the migration: divides a history that lies in one table. What is there becomes the oldest partition as it is.
pub(crate) async fn divide(db: &impl ConnectionTrait, indexes: &[(&str, &str)]) -> Result<(), DbErr> {
    let run = async |sql: String| db.execute_unprepared(&sql).await.map(drop);
    run("ALTER TABLE deliveries RENAME TO deliveries_earlier".into()).await?;
    for name in indexes.iter().map(|(name, _)| *name).chain(["deliveries_pkey"]) {
        run(format!("ALTER INDEX IF EXISTS {name} RENAME TO earlier_{name}")).await?;
    }
    run("CREATE TABLE deliveries (LIKE deliveries_earlier INCLUDING DEFAULTS) PARTITION BY RANGE (id)".into()).await?;
    run("ALTER TABLE deliveries ADD PRIMARY KEY (id)".into()).await?;
    for (name, columns) in indexes {
        run(format!("CREATE INDEX {name} ON deliveries {columns}")).await?;
    }
    run(format!("CREATE TABLE {DEFAULT} PARTITION OF deliveries DEFAULT")).await?;
    let until = Until(OffsetDateTime::now_utc().date().next_day().unwrap_or(Date::MAX));
    let bound = until.bound();
    run(move_rows("deliveries_earlier", DEFAULT, &format!("id >= '{bound}'"))).await?;
    let any = Statement::from_string(DatabaseBackend::Postgres, "SELECT 1 FROM deliveries_earlier LIMIT 1");
    if db.query_one_raw(any).await?.is_none() {
        return run("DROP TABLE deliveries_earlier".into()).await;
    }
    let table = until.table();
    run(format!("ALTER TABLE deliveries_earlier RENAME TO {table}")).await?;
    run(format!("ALTER TABLE deliveries ATTACH PARTITION {table} FOR VALUES FROM (MINVALUE) TO ('{bound}')")).await
}

/// For the migration: an index of all partitions, which nobody waits for. If it is cut short it can be begun again.
pub(crate) async fn add_index(manager: &SchemaManager<'_>, name: &str, columns: &str) -> Result<(), DbErr> {
    let db = manager.get_connection();
    // Of the whole first: partitions that are made meanwhile have it from the start.
    soon(manager, &format!("CREATE INDEX IF NOT EXISTS {name} ON ONLY deliveries {columns}")).await?;
    let without = format!(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = 'deliveries'::regclass AND NOT EXISTS (SELECT 1 FROM pg_inherits ii \
         JOIN pg_index x ON x.indexrelid = ii.inhrelid WHERE ii.inhparent = '{name}'::regclass AND x.indrelid = c.oid)"
    );
    for table in texts(db, &without).await? {
        let index = format!("{name}_{}", table.trim_start_matches("deliveries_"));
        remove_broken(db, &index).await?;
        db.execute_unprepared(&format!("CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} {columns}")).await?;
        soon(manager, &format!("ALTER INDEX {name} ATTACH PARTITION {index}")).await?;
    }
    Ok(())
}

/// What is left of an index whose building was cut short. One that is still being built, for a leader that is gone, is waited for.
async fn remove_broken(db: &impl ConnectionTrait, index: &str) -> Result<(), DbErr> {
    let broken = format!(
        "SELECT (x.indexrelid IN (SELECT index_relid FROM pg_stat_progress_create_index))::text FROM pg_index x \
         JOIN pg_class c ON c.oid = x.indexrelid WHERE c.relname = '{index}' AND NOT x.indisvalid"
    );
    loop {
        match texts(db, &broken).await?.first().map(String::as_str) {
            None => return Ok(()),
            Some("true") => tokio::time::sleep(BUILD_LOOK).await,
            Some(_) => db.execute_unprepared(&format!("DROP INDEX CONCURRENTLY {index}")).await.map(drop)?,
        }
    }
}

/// Whoever waits for a lock has all others wait behind it, so it is not waited for for long.
async fn soon(manager: &SchemaManager<'_>, sql: &str) -> Result<(), DbErr> {
    let transaction = manager.begin().await?;
    transaction.get_connection().execute_unprepared("SET LOCAL lock_timeout = '1s'").await?;
    transaction.get_connection().execute_unprepared(sql).await?;
    transaction.commit().await
}

async fn texts(db: &impl ConnectionTrait, sql: &str) -> Result<Vec<String>, DbErr> {
    let rows = db.query_all_raw(Statement::from_string(DatabaseBackend::Postgres, sql)).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

fn move_rows(from: &str, to: &str, those: &str) -> String {
    format!("WITH moved AS (DELETE FROM {from} WHERE {those} RETURNING *) INSERT INTO {to} SELECT * FROM moved")
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::{date, datetime};

    const NOW: OffsetDateTime = datetime!(2026-11-24 10:00 UTC);

    fn made(known: &[Date], max_age: Duration) -> Vec<(Date, Date)> {
        let known = known.iter().copied().map(Until).collect();
        missing(&known, NOW, max_age).into_iter().map(|(begin, until)| (begin.0, until.0)).collect()
    }

    #[test]
    fn the_next_days_have_partitions_that_lie_side_by_side() {
        let three = [date!(2026 - 11 - 24), date!(2026 - 11 - 25), date!(2026 - 11 - 26), date!(2026 - 11 - 27)];
        let pairs: Vec<_> = three.windows(2).map(|pair| (pair[0], pair[1])).collect();
        assert_eq!(made(&[], Duration::days(30)), pairs);
        assert_eq!(made(&[date!(2026 - 11 - 26)], Duration::days(30)), pairs[2..]);
        assert_eq!(made(&[date!(2026 - 11 - 27)], Duration::days(30)), []);
        // Nobody has run for a year.
        let all = made(&[date!(2025 - 11 - 24)], Duration::days(30));
        assert_eq!((all.len(), all[0].0), (33, date!(2026 - 10 - 25)));
    }

    #[test]
    fn a_long_history_has_wide_partitions_and_not_more_of_them() {
        for (days, width) in [(0, 1), (1, 1), (30, 1), (31, 2), (60, 2), (61, 3), (365, 13)] {
            let (begin, until) = made(&[], Duration::days(days))[0];
            assert_eq!((until - begin).whole_days(), width, "{days}");
        }
        assert!(made(&[], Duration::MAX).len() <= 3);
    }

    #[test]
    fn a_partition_is_known_by_its_name() {
        let until = Until(date!(2026 - 11 - 05));
        assert_eq!(until.table(), "deliveries_until_20261105");
        assert_eq!(Until::parse(&until.table()), Some(until));
        for other in
            ["deliveries_default", "deliveries_until_2026", "deliveries_until_20261305", "deliveries_until_2026é1"]
        {
            assert_eq!(Until::parse(other), None, "{other}");
        }
    }
}
