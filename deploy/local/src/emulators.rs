//! Emulators of the clouds on this machine, with something behind them that a merchant would have: a queue behind a bus, a
//! subscription of a topic. The launcher runs them with `--cloud-emulators`, and the tests borrow their clients.

mod moto;
mod pubsub;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::select_all;
use shopery_model::Topic;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

pub use moto::{ACCOUNT, Moto, REGION};
pub use pubsub::{Message, PubSub};

use crate::kept::Kept;
use crate::screen::say;
use crate::{DataDir, Settings, TENANT};

/// A JVM on a busy machine takes its time.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Nothing that they hold is worth waiting for.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The principal that the launcher sends as: of another account than the demo's bus, as in life.
const PRINCIPAL: &str = "arn:aws:iam::999999999999:user/shopery";
const KEY_ID: &str = "AKIASHOPERYLOCALDEMO";
/// moto verifies no signature, so there is nothing to keep here.
const KEY: &str = "of-an-emulator-that-takes-any-key";
const NAME: &str = "shopery-demo";
const PROJECT: &str = "shopery-local";

/// Variables by which the services would reach the clouds themselves.
const OF_THE_CLOUDS: [&str; 8] = [
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "SHOPERY_GOOGLE_METADATA",
];

/// What runs, and where its messages are to be had.
#[derive(Debug)]
pub struct Emulators {
    processes: Vec<Kept>,
    pub receivers: Receivers,
}

/// The merchant's side of both clouds.
#[derive(Debug, Clone)]
pub struct Receivers {
    pub bus: Bus,
    /// `None` where there is no emulator of Pub/Sub on this machine.
    pub topic: Option<Subscribed>,
}

/// An event bus with a queue behind it.
#[derive(Debug, Clone)]
pub struct Bus {
    pub moto: Moto,
    pub name: String,
    pub arn: String,
}

/// A topic with a subscription.
#[derive(Debug, Clone)]
pub struct Subscribed {
    pub emulator: PubSub,
    pub topic: Topic,
}

impl Emulators {
    /// Starts what there is, tells the services of it, and makes a bus and a topic. Without moto it fails, and says where to get it.
    pub async fn start(data: &DataDir, settings: &mut Settings) -> anyhow::Result<Self> {
        let binary = moto::find().context(moto::MISSING)?;
        let port = data.listen("moto.port").await?.local_addr()?.port();
        let moto = Moto::at(port)?;
        let mut process = run("moto_server", Moto::command(&binary, port), &data.path().join("moto.log"))?;
        until_ready(&mut process, async || moto.is_ready().await).await?;
        let mut processes = vec![process];
        let arn = moto.make_bus(NAME, TENANT).await.context("cannot make a bus in moto")?;
        let bus = Bus { name: NAME.to_owned(), arn, moto };

        OF_THE_CLOUDS.iter().for_each(|name| settings.remove(name));
        settings.set("AWS_ENDPOINT_URL", bus.moto.url());
        settings.set("AWS_ACCESS_KEY_ID", KEY_ID);
        settings.set("AWS_SECRET_ACCESS_KEY", KEY);
        settings.set("AWS_REGION", REGION);
        settings.set("SHOPERY_AWS_PRINCIPAL", PRINCIPAL);
        let topic = match PubSub::find() {
            Some(jar) => {
                let port = data.listen("pubsub.port").await?.local_addr()?.port();
                let emulator = PubSub::at(port)?;
                let command = PubSub::command(&jar, port);
                let mut process = run("pubsub-emulator", command, &data.path().join("pubsub.log"))?;
                until_ready(&mut process, async || emulator.is_ready().await).await?;
                processes.push(process);
                let topic = Topic { project: PROJECT.to_owned(), name: NAME.to_owned() };
                emulator.make_topic(&topic, &[("shopery-tenant", TENANT)]).await.context("cannot make a topic")?;
                settings.set("PUBSUB_EMULATOR_HOST", emulator.host());
                Some(Subscribed { emulator, topic })
            }
            None => {
                say(pubsub::MISSING);
                None
            }
        };
        Ok(Self { processes, receivers: Receivers { bus, topic } })
    }

    /// Completes when one has ended by itself.
    pub async fn failed(&mut self) -> anyhow::Error {
        if self.processes.is_empty() {
            return std::future::pending().await;
        }
        let ends = self.processes.iter_mut().map(|process| {
            let name = process.name();
            Box::pin(async move { (name, process.wait().await) })
        });
        let ((name, status), ..) = select_all(ends).await;
        match status {
            Ok(status) => anyhow::anyhow!("{name} ended by itself: {status}"),
            Err(error) => anyhow::Error::from(error).context(name),
        }
    }

    /// Returns when they are gone.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut stopped = Ok(());
        for process in &mut self.processes {
            stopped = stopped.and(process.stop(STOP_DEADLINE).await);
        }
        stopped
    }
}

fn run(name: &'static str, mut command: Command, log: &Path) -> anyhow::Result<Kept> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(output.try_clone()?).stderr(output);
    Kept::start(name, command)
}

async fn until_ready(process: &mut Kept, is_ready: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_DEADLINE;
    while !is_ready().await {
        if Instant::now() > deadline {
            bail!(
                "{} was not ready within {} s; its log is in the data directory",
                process.name(),
                START_DEADLINE.as_secs()
            );
        }
        tokio::select! {
            status = process.wait() => {
                bail!("{} ended at once ({}); its log is in the data directory", process.name(), status?);
            }
            () = sleep(Duration::from_millis(50)) => {}
        }
    }
    Ok(())
}
