use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr};
use sea_orm_migration::MigratorTrait;

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

impl Store {
    /// Connects and brings the schema up to date.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new(url);
        options
            .max_connections(16)
            .connect_timeout(ACQUIRE_TIMEOUT)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Statements carry secrets as values.
            .sqlx_logging(false)
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
        let db = Database::connect(options).await?;
        Migrator::up(&db, None).await?;
        Ok(Self { db })
    }

    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.db.execute_unprepared("SELECT 1").await.map(drop)?)
    }
}
