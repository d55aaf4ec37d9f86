//! The queue that the services use: a server of our own, or one that is running already.

use shopery_runtime::Shutdown;
use tokio::task::spawn_blocking;

use crate::nats_server::{self, NatsServer, Options, Publisher};
use crate::screen::say;
use crate::{DataDir, Settings, TENANT};

const SERVICE_USER: &str = "shopery";

/// Smaller than the services' defaults, which a laptop may not have room for.
const SIZES: [(&str, &str); 6] = [
    ("SHOPERY_EVENTS_MAX_MIB", "2048"),
    ("SHOPERY_DEFERRED_MAX_MIB", "1024"),
    ("SHOPERY_JOBS_MAX_MIB", "1024"),
    ("SHOPERY_INBOUND_MAX_MIB", "512"),
    ("SHOPERY_OUTCOMES_MAX_MIB", "512"),
    ("SHOPERY_PARKED_MAX_MIB", "2048"),
];

/// What a publisher needs to know.
#[derive(Debug)]
pub struct Nats {
    pub url: String,
    /// `None` for a server that is not ours: its publishers are not ours to name.
    pub publisher: Option<Publisher>,
    pub server: Option<NatsServer>,
}

/// Uses the server at `url`, with the user and password of the environment if there are any.
pub fn existing(url: &str, settings: &mut Settings) -> Nats {
    settings.set("SHOPERY_NATS_URL", url);
    Nats { url: url.to_owned(), publisher: None, server: None }
}

/// Starts a server that keeps its streams in the data directory, and tells the services of it.
pub async fn start(data: &DataDir, settings: &mut Settings, shutdown: &Shutdown) -> anyhow::Result<Nats> {
    let publisher = Publisher {
        user: "platform".to_owned(),
        password: data.secret("nats-publisher-password")?,
        tenant: TENANT.to_owned(),
        inbox_prefix: "_INBOX_platform".to_owned(),
    };
    let password = data.secret("nats-password")?;
    let binary = binary(data, shutdown.clone()).await?;
    // Found free and given up for the server: whoever published before finds it again.
    let port = data.listen("nats.port").await?.local_addr()?.port();
    let options = Options {
        binary,
        store: data.path().join("nats"),
        port: Some(port),
        service: (SERVICE_USER.to_owned(), password.clone()),
        publishers: vec![publisher.clone()],
    };
    let server = NatsServer::start(&options).await?;

    for name in ["SHOPERY_NATS_CREDENTIALS", "SHOPERY_NATS_CA", "SHOPERY_STREAM_REPLICAS"] {
        settings.remove(name);
    }
    settings.set("SHOPERY_NATS_URL", server.url());
    settings.set("SHOPERY_NATS_USER", SERVICE_USER);
    settings.set("SHOPERY_NATS_PASSWORD", password);
    for (name, size) in SIZES {
        settings.set_default(name, size);
    }
    Ok(Nats { url: server.url(), publisher: Some(publisher), server: Some(server) })
}

async fn binary(data: &DataDir, shutdown: Shutdown) -> anyhow::Result<std::path::PathBuf> {
    let cache = nats_server::user_cache().unwrap_or_else(|| data.path().to_owned());
    spawn_blocking(move || match nats_server::find(&cache) {
        Some(binary) => Ok(binary),
        None => {
            say(format_args!("Installing nats-server {} into {} ...", nats_server::PINNED, cache.display()));
            nats_server::install(&cache, &|| shutdown.is_draining())
        }
    })
    .await?
}
