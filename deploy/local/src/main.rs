//! `cargo run`: everything on one machine, and a delivery to look at.

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use shopery_backoffice::Link;
use shopery_local::emulators::{Emulators, Receivers};
use shopery_local::nats::{self, Nats};
use shopery_local::screen::say;
use shopery_local::tls::Authority;
use shopery_local::{
    Arguments, DataDir, Endpoint, Listeners, Services, Settings, TENANT, cloud_demo, demo, env_file, random_hex, token,
};
use shopery_runtime::service::stop_on_signals;
use shopery_runtime::{Runtime, make_files_private, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match launch(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shopery-local: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes on one line. Some libraries repeat the cause in the text of the error; we do not.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if !line.contains(&cause) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&cause);
        }
    }
    line
}

fn launch(arguments: &Arguments) -> anyhow::Result<()> {
    let mut settings = Settings::of_process();
    // The launcher itself says when its own NATS server fails; that clients then notice is no news.
    let quiet = if arguments.nats_url.is_some() {
        "warn,async_nats=off"
    } else {
        "warn,async_nats=off,shopery_queue::config=error"
    };
    settings.set_default("SHOPERY_LOG", quiet);
    settings.set_default("SHOPERY_DRAIN_TIMEOUT", "25s");
    let (logs, drain) = settings.read(|env| {
        let logs = telemetry::Config::read(env);
        let drain = env.duration("SHOPERY_DRAIN_TIMEOUT", "25s", "How long a stop waits for work in flight");
        Some((logs?, drain?))
    })?;
    make_files_private();
    let telemetry = telemetry::start("shopery-local", &logs)?;
    let data = if arguments.ephemeral { DataDir::ephemeral() } else { DataDir::open(&arguments.data_dir) }?;
    env_file::remove(data.path())?;

    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    tokio.spawn(telemetry.tell_of_repeats());
    let ran = tokio.block_on(supervise(arguments, settings, &data, drain));
    // What a hard stop left running must not write into a directory that is being removed.
    tokio.shutdown_timeout(Duration::from_secs(1));
    drop(telemetry);
    ran
}

/// Runs until it fails, or is told to stop and has drained, or the drain is cut short.
async fn supervise(arguments: &Arguments, settings: Settings, data: &DataDir, drain: Duration) -> anyhow::Result<()> {
    let runtime = Runtime::default();
    let mut cut_short = pin!(stop_on_signals(runtime.shutdown.clone(), drain)?);
    let mut stack = Stack::default();
    let ran = tokio::select! {
        // In this order: once the drain has begun, a service that ends has not failed.
        biased;
        why = &mut cut_short => bail!(why),
        () = runtime.shutdown.draining() => {
            say("Stopping: finishing what is in flight; a second Ctrl-C stops at once.");
            Ok(())
        }
        ran = run(arguments, settings, data, &runtime, &mut stack) => ran,
    };
    runtime.shutdown.begin();
    let removed = env_file::remove(data.path());
    let stopped = tokio::select! {
        stopped = stack.stop() => stopped,
        why = cut_short => Err(anyhow!(why)),
    };
    // What made us stop is worth more than what the stop then met.
    ran.and(removed).and(stopped)
}

/// What has been started so far. Dropped without a stop, it is killed.
#[derive(Default)]
struct Stack {
    nats: Option<Nats>,
    endpoint: Option<Endpoint>,
    emulators: Option<Emulators>,
    services: Option<Services>,
}

impl Stack {
    /// In the reverse order of the start: the endpoint, the emulators and NATS are there for the services to finish.
    async fn stop(&mut self) -> anyhow::Result<()> {
        let server = self.nats.as_mut().and_then(|nats| nats.server.as_mut());
        let drained = match (&mut self.services, &server) {
            // Without its queue no service can finish anything.
            (_, Some(server)) if server.has_ended() => Ok(()),
            (Some(services), _) => services.drained().await,
            (None, _) => Ok(()),
        };
        self.endpoint = None;
        let drained = match &mut self.emulators {
            Some(emulators) => drained.and(emulators.stop().await),
            None => drained,
        };
        match server {
            Some(server) => drained.and(server.stop().await),
            None => drained,
        }
    }
}

/// Starts everything, shows a delivery, and returns only if something fails.
async fn run(
    arguments: &Arguments,
    mut settings: Settings,
    data: &DataDir,
    runtime: &Runtime,
    stack: &mut Stack,
) -> anyhow::Result<()> {
    let listeners = Listeners::bind(arguments, data).await?;
    let secret = data.secret("jwt-secret")?;
    let client = demo::Client::new(listeners.api_url()?, listeners.ingest_url()?, token(&secret)?)?;
    let nats = match &arguments.nats_url {
        Some(url) => nats::existing(url, &mut settings),
        None => nats::start(data, &mut settings, &runtime.shutdown).await?,
    };
    let nats = stack.nats.insert(nats);
    let authority = Authority::load_or_create(data.path())?;
    let endpoint = Endpoint::start(data.listen("endpoint.port").await?, &authority)?;
    let endpoint = stack.endpoint.insert(endpoint);
    if arguments.cloud_emulators {
        stack.emulators = Some(Emulators::start(data, &mut settings).await?);
    }
    let receivers = stack.emulators.as_ref().map(|emulators| emulators.receivers.clone());

    decide(&mut settings, arguments, data, &secret, endpoint);
    settings.set("SHOPERY_API_URL", &client.api_url);
    settings.set_default("SHOPERY_BACKOFFICE_URL", &listeners.backoffice_url()?);
    let pages_url = settings.get("SHOPERY_BACKOFFICE_URL").unwrap_or_default().trim_end_matches('/').to_owned();
    settings.set_default("SHOPERY_ENCRYPTION_KEYS", &data.encryption_keys()?);
    settings.set_default("SHOPERY_BACKOFFICE_KEYS", &data.session_keys()?);
    // Who can read what we print may sign in while this process runs, and stays signed in for as long as the token is good.
    let code = random_hex()?;
    let link = format!("{pages_url}/link/{code}");
    let signs_in = Link { code: code.into(), tenant: TENANT.to_owned(), token: client.token.clone().into() };
    let services = stack.services.insert(Services::start(&settings, listeners, signs_in, runtime)?);
    services.ready().await.with_context(|| format!("cannot start on the data in {}", data.path().display()))?;
    let mut known = variables(&client, pages_url, nats, endpoint, data);
    known.extend(receivers.iter().flat_map(of_emulators));
    env_file::write(data.path(), &known)?;
    greet(arguments, &client, &link, nats, endpoint, data);
    receivers.iter().for_each(greet_emulators);

    let shown = async {
        if !arguments.no_demo {
            demo::run(&client, endpoint).await?;
        }
        match &receivers {
            Some(receivers) if !arguments.no_demo => cloud_demo::run(&client, receivers).await?,
            Some(_) => {}
            // Theirs cannot be reached any more. That this cannot be said of them now is no reason not to run.
            None => drop(cloud_demo::pause(&client).await),
        }
        let env = data.path().join("env");
        say(format_args!("\nReady. {} says where everything is, and holds a token; Ctrl-C stops.", env.display()));
        say(format_args!("To publish an order, paste this in another terminal:\n{}", publish_command(&env)));
        tokio::try_join!(watch(endpoint), watch_emulators(receivers.as_ref())).map(drop)
    };
    tokio::select! {
        shown = shown => shown,
        error = services.failed() => Err(error),
        error = ended(nats) => Err(error),
        error = failed(stack.emulators.as_mut()) => Err(error),
    }
}

/// The variables that are the launcher's to decide.
fn decide(settings: &mut Settings, arguments: &Arguments, data: &DataDir, secret: &str, endpoint: &Endpoint) {
    // The listeners are bound already.
    settings.remove("SHOPERY_LISTEN");
    settings.set("SHOPERY_JWT_SECRET", secret);
    settings.set("SHOPERY_CA_FILE", data.path().join("ca.pem").to_string_lossy());
    settings.append("SHOPERY_EGRESS_ALLOW", &endpoint.address().to_string());
    if arguments.insecure_endpoints {
        settings.set("SHOPERY_INSECURE_ENDPOINTS", "true");
    }
    match &arguments.database_url {
        Some(url) => settings.set("SHOPERY_DATABASE_URL", url),
        None => settings.set("SHOPERY_DATABASE_URL", data.sqlite_url("shopery.db")),
    }
}

/// A command that publishes an order-created by nothing but curl: the command line is another binary, which may not be built.
fn publish_command(env: &Path) -> String {
    let order = r#"{"id":"ord_123","number":1042,"status":"open","currency":"EUR","total_price":59.80}"#;
    let event = format!(
        r#"{{"specversion":"1.0","id":"evt-'$(date +%s)'","source":"orders","type":"order-created","subject":"order/ord_123","data":{order}}}"#
    );
    format!(
        "  (. '{}'; curl -sS \"$SHOPERY_INGEST_URL/events\" -H \"Authorization: Bearer $SHOPERY_TOKEN\" -H \"X-tenant-ID: $SHOPERY_TENANT\" \\\n    \
         -H 'Content-Type: application/cloudevents+json' -d '{event}')",
        env.display()
    )
}

/// What the env file says.
fn variables(
    client: &demo::Client,
    pages_url: String,
    nats: &Nats,
    endpoint: &Endpoint,
    data: &DataDir,
) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("SHOPERY_API_URL", client.api_url.clone()),
        ("SHOPERY_INGEST_URL", client.ingest_url.clone()),
        ("SHOPERY_BACKOFFICE_URL", pages_url),
        ("SHOPERY_NATS_URL", nats.url.clone()),
        ("SHOPERY_TENANT", TENANT.to_owned()),
        ("SHOPERY_TOKEN", client.token.clone()),
        ("SHOPERY_ENDPOINT_URL", endpoint.url()),
        ("SHOPERY_CA_FILE", data.path().join("ca.pem").to_string_lossy().into_owned()),
    ];
    if let Some(publisher) = &nats.publisher {
        variables.extend([
            ("SHOPERY_NATS_USER", publisher.user.clone()),
            ("SHOPERY_NATS_PASSWORD", publisher.password.clone()),
            ("SHOPERY_NATS_INBOX_PREFIX", publisher.inbox_prefix.clone()),
        ]);
    }
    variables
}

/// What the env file says of the emulators, in the words of the clouds' own libraries.
fn of_emulators(receivers: &Receivers) -> Vec<(&'static str, String)> {
    let mut variables = vec![("AWS_ENDPOINT_URL", receivers.bus.moto.url().to_owned())];
    if let Some(subscribed) = &receivers.topic {
        variables.push(("PUBSUB_EMULATOR_HOST", subscribed.emulator.host().to_owned()));
    }
    variables
}

fn greet_emulators(receivers: &Receivers) {
    let Receivers { bus, topic } = receivers;
    say(format_args!("  bus       {} (moto, {}, with a queue)", bus.arn, bus.moto.url()));
    if let Some(subscribed) = topic {
        let host = subscribed.emulator.host();
        say(format_args!("  topic     {} (Google's emulator, {host}, with a subscription)", subscribed.topic));
    }
}

fn greet(arguments: &Arguments, client: &demo::Client, link: &str, nats: &Nats, endpoint: &Endpoint, data: &DataDir) {
    let note = if data.is_ephemeral() { " (removed at the end)" } else { "" };
    let database = arguments.database_url.as_ref().map_or("SQLite, in the data directory", |_| "yours");
    say(format_args!("Shopery Webhooks {}", env!("CARGO_PKG_VERSION")));
    say(format_args!("  data      {}{note}", data.path().display()));
    say(format_args!("  REST API  {}", client.api_url));
    say(format_args!("  ingest    {}/events", client.ingest_url));
    say(format_args!("  NATS      {}", nats.url));
    say(format_args!("  database  {database}"));
    let own =
        if arguments.insecure_endpoints { "" } else { "; --insecure-endpoints allows one of your own on this machine" };
    say(format_args!("  endpoint  {} (a sample merchant{own})", endpoint.url()));
    say(format_args!("  pages     {link} (signs you in)"));
}

/// Says what arrives at the sample endpoint.
async fn watch(endpoint: &mut Endpoint) -> anyhow::Result<()> {
    while let Some(delivery) = endpoint.next().await {
        demo::announce(&delivery);
        match endpoint.take_unseen() {
            0 => {}
            unseen => say(format_args!("received {unseen} more, too fast to list")),
        }
    }
    bail!("the sample endpoint ended by itself")
}

async fn watch_emulators(receivers: Option<&Receivers>) -> anyhow::Result<()> {
    match receivers {
        Some(receivers) => cloud_demo::watch(receivers).await,
        None => std::future::pending().await,
    }
}

/// Completes when an emulator has ended by itself.
async fn failed(emulators: Option<&mut Emulators>) -> anyhow::Error {
    match emulators {
        Some(emulators) => emulators.failed().await,
        None => std::future::pending().await,
    }
}

/// Completes when a server of ours has ended by itself.
async fn ended(nats: &mut Nats) -> anyhow::Error {
    match &mut nats.server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}
