use std::collections::HashSet;
use std::time::Duration;

use sea_orm::sqlx::Connection;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, RuntimeErr, Statement};
use sea_orm_migration::{MigratorTrait, SchemaManager};

use crate::migration::Migrator;

/// A request that finds no free connection, or no database, fails after this long rather than queue.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// The database. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) db: DatabaseConnection,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Also when it does not answer in time. Trying again later may help.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
    #[error("the database holds a row that does not read: {0}")]
    Corrupt(String),
    #[error("the tenant has {0} webhooks already, which is the limit")]
    TooMany(u64),
    #[error("the tenant has {0} recoveries running already, which is the limit")]
    TooManyRecoveries(u64),
}

impl StoreError {
    /// Whether a row is at fault, which is refused however often it is written. Whatever else is wrong passes, or is mended
    /// by an operator: a database that is away, full, read-only, being failed over, or has a schema of another version. It is
    /// told by SQLSTATE, SQLite's code and the kind of the error, never by text.
    pub fn is_of_the_row(&self) -> bool {
        match self {
            Self::Database(DbErr::Exec(error) | DbErr::Query(error) | DbErr::Conn(error)) => is_of_the_row(error),
            Self::Database(DbErr::ConnectionAcquire(_)) | Self::TooMany(_) | Self::TooManyRecoveries(_) => false,
            Self::Database(_) | Self::Corrupt(_) => true,
        }
    }

    /// Whether a lock was not to be had within its time; it may be had later.
    pub fn is_of_a_lock(&self) -> bool {
        let Self::Database(DbErr::Exec(error) | DbErr::Query(error) | DbErr::Conn(error)) = self else { return false };
        let RuntimeErr::SqlxError(error) = error else { return false };
        let code = error.as_database_error().and_then(|error| error.code());
        self.is_busy() || code.is_some_and(|code| LOCK_SQLSTATES.contains(&&*code))
    }

    /// Whether the database was told to give up, after the time that it had.
    pub(crate) fn is_cancelled(&self) -> bool {
        let Self::Database(DbErr::Exec(error) | DbErr::Query(error) | DbErr::Conn(error)) = self else { return false };
        let RuntimeErr::SqlxError(error) = error else { return false };
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == QUERY_CANCELLED)
    }

    /// Whether another connection of a SQLite database is at work.
    pub fn is_busy(&self) -> bool {
        let Self::Database(DbErr::Exec(error) | DbErr::Query(error) | DbErr::Conn(error)) = self else { return false };
        sqlite_code(error).is_some_and(|code| BUSY_SQLITE_CODES.contains(&code))
    }
}

/// The primary code of an error of SQLite, which the lowest byte has. SQLSTATEs have five characters.
fn sqlite_code(error: &RuntimeErr) -> Option<i64> {
    let RuntimeErr::SqlxError(error) = error else { return None };
    let code = error.as_database_error()?.code()?;
    code.parse::<i64>().ok().filter(|_| code.len() != 5).map(|code| code & 0xff)
}

/// SQLite's `BUSY` and `LOCKED`: another connection is writing.
const BUSY_SQLITE_CODES: [i64; 2] = [5, 6];
/// A SQLSTATE.
const QUERY_CANCELLED: &str = "57014";
/// `lock_not_available` and `deadlock_detected`.
const LOCK_SQLSTATES: [&str; 2] = ["55P03", "40P01"];
/// SQLSTATE classes of what a row may be refused for: data exceptions and violated constraints.
const REFUSED_SQLSTATES: [&str; 2] = ["22", "23"];
/// The same in SQLite: `TOOBIG`, `CONSTRAINT`, `MISMATCH`, `RANGE`.
const REFUSED_SQLITE_CODES: [i64; 4] = [18, 19, 20, 25];

fn is_of_the_row(error: &RuntimeErr) -> bool {
    use sea_orm::sqlx::Error;
    if let Some(code) = sqlite_code(error) {
        return REFUSED_SQLITE_CODES.contains(&code);
    }
    let RuntimeErr::SqlxError(error) = error else { return false };
    match error.as_ref() {
        Error::Database(refused) => {
            refused.code().is_some_and(|code| REFUSED_SQLSTATES.iter().any(|class| code.starts_with(class)))
        }
        Error::Encode(_) | Error::Decode(_) | Error::ColumnDecode { .. } | Error::InvalidArgument(_) => true,
        _ => false,
    }
}

impl Store {
    /// Connects and brings the schema up to date.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let store = Self::open(url).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Connects. The schema is what it is: see [`Store::missing_migrations`].
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new(url);
        options
            .max_connections(16)
            .connect_timeout(ACQUIRE_TIMEOUT)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Statements carry secrets as values.
            .sqlx_logging(false)
            // A connection whose rollback has failed (the disk was full) is still in its transaction. What is written over it
            // afterwards would be a savepoint in a transaction that nobody commits.
            .map_sqlx_sqlite_pool_opts(|options| {
                options.after_release(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            })
            .map_sqlx_postgres_pool_opts(|options| {
                options.after_release(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            })
            .map_sqlx_sqlite_opts(|options| {
                options
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Normal)
                    // 64 MiB of pages, and as much of log before it is moved into the file: a page that is written
                    // often is moved once.
                    .pragma("cache_size", "-65536")
                    .pragma("wal_autocheckpoint", "16384")
                    .busy_timeout(ACQUIRE_TIMEOUT)
            });
        Ok(Self { db: Database::connect(options).await? })
    }

    /// Brings the schema up to date. One service does that, and the others wait for it.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // The migrator takes steps that it does not know for an error. They are those of a later version, beside which this
        // one goes on: a step only ever adds.
        if self.missing_migrations().await?.is_empty() {
            return Ok(());
        }
        Ok(Migrator::up(&self.db, None).await?)
    }

    /// The steps of the schema that this version needs and the database does not have.
    pub async fn missing_migrations(&self) -> Result<Vec<String>, StoreError> {
        let needed = Migrator::migrations();
        let mut applied = HashSet::new();
        if SchemaManager::new(&self.db).has_table("seaql_migrations").await? {
            let sql = Statement::from_string(self.db.get_database_backend(), "SELECT version FROM seaql_migrations");
            for row in self.db.query_all_raw(sql).await? {
                applied.insert(row.try_get_by_index::<String>(0)?);
            }
        }
        let missing = needed.iter().map(|step| step.name().to_owned()).filter(|name| !applied.contains(name));
        Ok(missing.collect())
    }

    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.db.execute_unprepared("SELECT 1").await.map(drop)?)
    }
}
