//! A NATS server of our own, as a child process: found or installed, started, stopped, and never left behind ([`Kept`]).

mod config;
mod install;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

pub use install::{PINNED, find, find_or_install, install, user_cache};

use crate::kept::Kept;
use crate::private_file;

/// Recovering a large store takes seconds.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A server with much to write takes its time to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// The server's garbage collector runs when the heap has grown by so many percent: a tenth less CPU a delivery than
/// Go's default of 100, for more memory: under the benchmark's load, gigabytes. A GOGC of the user's own holds.
const GOGC: &str = "400";

/// A server to start.
#[derive(Debug, Clone)]
pub struct Options {
    pub binary: PathBuf,
    /// Configuration, log and streams. A server may be started again on the store of one that is gone.
    pub store: PathBuf,
    /// On 127.0.0.1; `None` lets the operating system choose.
    pub port: Option<u16>,
    /// User and password with all rights.
    pub service: (String, String),
    pub publishers: Vec<Publisher>,
}

/// A user who may publish `in.<tenant>.>` and subscribe to `<inbox prefix>.>`, and nothing else.
#[derive(Debug, Clone)]
pub struct Publisher {
    pub user: String,
    pub password: String,
    pub tenant: String,
    /// Ingest answers only below `_INBOX`, so a prefix begins with that: `_INBOX_orders`.
    pub inbox_prefix: String,
}

/// A server that runs until it is stopped, killed or dropped.
#[derive(Debug)]
pub struct NatsServer {
    process: Kept,
    port: u16,
    log: PathBuf,
}

impl NatsServer {
    /// Returns once the server has recovered its streams and listens.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let mut options = options.clone();
        options.store = std::path::absolute(&options.store)?;
        let store = &options.store;
        let (ports, config, log) = (store.join("ports"), store.join("nats.conf"), store.join("nats-server.log"));
        // What a killed server left may bear the process id that the next one gets.
        let _ = std::fs::remove_dir_all(&ports);
        std::fs::create_dir_all(&ports).with_context(|| format!("cannot make {}", ports.display()))?;
        private_file::write(&config, &config::text(&options, &ports))?;

        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&options.binary);
        command.arg("-c").arg(&config).env("GOGC", std::env::var_os("GOGC").unwrap_or_else(|| GOGC.into()));
        command.stdout(output.try_clone()?).stderr(output);
        let mut started = Self { process: Kept::start("nats-server", command)?, port: 0, log };
        started.port = started.listens_on(&ports).await?;
        Ok(started)
    }

    /// `nats://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Completes when the server has ended, which it does not do by itself; the error says why it may have.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.process.wait().await {
            Ok(status) => self.failure(status),
            Err(error) => error.into(),
        }
    }

    /// Whether it has ended by itself and [`ended`](Self::ended) has said so.
    pub fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    /// SIGTERM. Returns when the server is gone; one that does not go is killed.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.stop(STOP_DEADLINE).await
    }

    /// SIGKILL. Returns when the server is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// Waits for the file in which the server writes, when it is ready, where it listens.
    async fn listens_on(&mut self, ports: &Path) -> anyhow::Result<u16> {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if let Some(port) = port_in(ports, self.process.pid()) {
                return Ok(port);
            }
            tokio::select! {
                status = self.process.wait() => return Err(self.failure(status?)),
                () = sleep(Duration::from_millis(5)) => {}
            }
        }
        bail!("nats-server was not ready within {} s; see {}", START_DEADLINE.as_secs(), self.log.display())
    }

    /// The last line of the log that says why, if any does.
    fn failure(&self, status: ExitStatus) -> anyhow::Error {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
        let graver = |line: &&str| line.contains("[FTL]") || line.contains("[ERR]") || line.starts_with("nats-server:");
        let said = lines.clone().rfind(graver).or_else(|| lines.next_back()).unwrap_or("it said nothing");
        // `[pid] date time [FTL] what`
        let said = said.rsplit_once("] ").map_or(said, |(_, what)| what);
        anyhow::anyhow!("nats-server ended ({status}): {said}; its log is {}", self.log.display())
    }
}

/// The port in `{"nats":["nats://127.0.0.1:4222"]}`, once it is there whole.
fn port_in(ports: &Path, pid: u32) -> Option<u16> {
    let suffix = format!("_{pid}.ports");
    let mut entries = std::fs::read_dir(ports).ok()?.filter_map(Result::ok);
    let file = entries.find(|entry| entry.file_name().to_string_lossy().ends_with(&suffix))?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests;
