//! Sealing credentials anew, with the first key: at every start those of before there were keys, and by the command
//! `shopery-api reencrypt` all that another key has sealed, after which that key can be taken away.
//!
//! It may be stopped, repeated, and run beside the services: a row is replaced only where it is what was opened, and
//! CONFIG is brought in line as after any change.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use secrecy::SecretString;
use shopery_control::{ConfigWriter, database};
use shopery_model::{Keyring, Unopened, Webhook, WebhookId};
use shopery_queue::{Queue, WebhookCache, read_keyring};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime};
use shopery_store::{Resealed, Store, WebhookRecord};

pub const COMMAND: &str = "reencrypt";

pub const ABOUT: About = About {
    name: "shopery-api reencrypt",
    what: "seals the secrets in the database and in CONFIG with the first of SHOPERY_ENCRYPTION_KEYS, while all services run",
    version: env!("CARGO_PKG_VERSION"),
};

/// How everything that any key has sealed begins.
const SEALED: &str = "v1.";
/// Webhooks read at a time.
const PAGE: u64 = 500;
/// How often CONFIG is compared until all of it is in line, and how long after another.
const TRIES: usize = 20;
const RETRY_DELAY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub struct Config {
    queue: shopery_queue::Config,
    keys: Keyring,
    database: SecretString,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let queue = shopery_queue::Config::read(env);
        let keys = read_keyring(env);
        let database = database::read_url(env);
        Some(Self { queue: queue?, keys: keys?, database: database? })
    }
}

/// What has become of the rows that were not sealed with the first key.
#[derive(Debug, Default)]
struct Done {
    resealed: usize,
    closed: usize,
    first_closed: Option<(WebhookId, Unopened)>,
}

/// The command.
pub async fn run(config: Config, runtime: Runtime) -> anyhow::Result<()> {
    let (keys, prefix) = (&config.keys, config.keys.prefix());
    let starting = runtime.health.starting(ABOUT.name);
    let store = database::open(&config.database, &runtime.shutdown).await?;
    let queue = Queue::connect(&config.queue, ABOUT.name, &starting, &runtime).await?;
    database::wait_for_schema(&store, &starting, &runtime.shutdown).await?;
    let done = reseal(&store, keys, &prefix).await?;
    println!("re-encrypted {} webhooks with the key {}", done.resealed, keys.first_id());
    let published = WebhookCache::mirror(&queue, &runtime).await?;
    let writer = ConfigWriter::start(&queue, store, &runtime);
    for _ in 0..TRIES {
        let is_left = |webhook: &Arc<Webhook>| !webhook.sealed.stored().starts_with(&prefix);
        let left: Vec<_> = published.all().into_iter().filter(is_left).collect();
        for webhook in &left {
            writer.repair(&webhook.tenant, webhook.id).await?;
        }
        if let Some((id, why)) = done.first_closed {
            bail!("{} webhooks were left as they are; the first is {id}: {why}", done.closed);
        }
        if left.is_empty() {
            println!("nothing is left, in the database or in CONFIG, that another key has sealed");
            return Ok(());
        }
        // What was written just now comes back by the mirror.
        tokio::time::sleep(RETRY_DELAY).await;
    }
    bail!("CONFIG still has entries that another key has sealed: others change them; run it again")
}

/// Seals what is in plain.
pub(crate) async fn seal_plain(store: &Store, keys: &Keyring) -> anyhow::Result<()> {
    match reseal(store, keys, SEALED).await?.resealed {
        0 => {}
        count => tracing::info!(count, "secrets that were stored in plain are sealed now"),
    }
    Ok(())
}

/// Fails if there are webhooks and none of them can be opened: then the keys are the wrong ones.
pub(crate) async fn check_keys(store: &Store, keys: &Keyring) -> anyhow::Result<()> {
    let (mut after, mut closed) = (None::<WebhookId>, None);
    loop {
        let page = store.all_webhooks(after.map(|id| id.to_string()).as_deref(), PAGE).await?;
        // What does not read is no matter of keys.
        let page: Vec<_> = page.into_iter().flatten().collect();
        for WebhookRecord { id, tenant, sealed, .. } in &page {
            match keys.open(tenant, *id, sealed) {
                Ok(_) => return Ok(()),
                Err(why) => drop(closed.get_or_insert((*id, why))),
            }
        }
        match (page.last(), &closed) {
            (Some(last), _) => after = Some(last.id),
            (None, Some((id, why))) => bail!("none of the webhooks in the database can be opened; of {id}: {why}"),
            (None, None) => return Ok(()),
        }
    }
}

/// Seals with the first key all that begins otherwise than `prefix`.
async fn reseal(store: &Store, keys: &Keyring, prefix: &str) -> anyhow::Result<Done> {
    let (mut done, mut after) = (Done::default(), None);
    loop {
        let page = store.webhooks_sealed_otherwise(prefix, after, PAGE).await.context("cannot read the webhooks")?;
        let Some(last) = page.last() else { return Ok(done) };
        after = Some(last.id);
        for WebhookRecord { id, tenant, sealed: before, .. } in page {
            match keys.open(&tenant, id, &before) {
                Ok(credentials) => {
                    let after = keys.seal(&tenant, id, &credentials)?;
                    // If it was changed meanwhile, that has sealed it with the first key of whoever did.
                    let resealed = Resealed { before, after, is_new_secret: false, told: Vec::new() };
                    done.resealed += usize::from(store.reseal(&tenant, id, &resealed).await?);
                }
                Err(why) => {
                    done.closed += 1;
                    done.first_closed.get_or_insert((id, why));
                }
            }
        }
    }
}
