//! The database of a service of the control plane: where it is, waiting for it, and whether it answers.

use std::time::Duration;

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use shopery_runtime::{Env, Runtime, Shutdown, Starting};
use shopery_store::Store;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long the start waits for a database that does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_DELAY: Duration = Duration::from_secs(1);
/// Delay before we look again whether the controller has brought the schema up to date.
const SCHEMA_DELAY: Duration = Duration::from_millis(200);
/// How often the database is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(2);

pub fn read_url(env: &mut Env) -> Option<SecretString> {
    let doc = "postgres://user:password@host/database, or sqlite:///path/of/the.db?mode=rwc";
    env.required::<String>("SHOPERY_DATABASE_URL", doc).map(SecretString::from)
}

/// Connects to a database that may still be starting, whatever its schema is.
pub async fn open(url: &SecretString, shutdown: &Shutdown) -> anyhow::Result<Store> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    // A SQLite file that cannot be opened will not heal, but another process may be creating it just now.
    let is_passing = |error: &shopery_store::StoreError| url.expose_secret().starts_with("postgres") || error.is_busy();
    loop {
        match Store::open(url.expose_secret()).await {
            Ok(store) => return Ok(store),
            Err(error) if is_passing(&error) && Instant::now() < deadline && !shutdown.is_draining() => {
                tracing::warn!(%error, "the database does not answer yet");
                tokio::time::sleep(CONNECT_DELAY).await;
            }
            Err(error) => return Err(error).context("cannot open the database of SHOPERY_DATABASE_URL"),
        }
    }
}

/// Waits until the controller has brought the schema up to date. `starting` says so.
pub async fn wait_for_schema(store: &Store, starting: &Starting, shutdown: &Shutdown) -> anyhow::Result<()> {
    loop {
        match store.missing_migrations().await {
            Ok(missing) => match missing.first() {
                None => return Ok(()),
                Some(first) => {
                    let what = format!("waiting for the controller to bring the database up to date, to {first}");
                    if starting.waits_for(what.clone()) {
                        tracing::info!("{what}");
                    }
                }
            },
            Err(error) => tracing::warn!(%error, "cannot look at the schema of the database; trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(SCHEMA_DELAY) => {}
            () = shutdown.draining() => bail!("stopped while waiting for the database"),
        }
    }
}

/// Lets `/readyz` say whether the database answers.
pub fn watch_health(store: Store, runtime: &Runtime) {
    let (sender, state) = watch::channel(Ok(()));
    runtime.health.check("database", move || state.borrow().clone());
    runtime.spawn("database-health", async move {
        loop {
            tokio::time::sleep(PING_INTERVAL).await;
            let _ = sender.send_replace(store.ping().await.map_err(|_| "the database does not answer".to_owned()));
        }
    });
}
