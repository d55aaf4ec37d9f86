//! The services under test: release binaries, each a process of its own, built when they are missing or stale.

use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

pub const NAMES: [&str; 6] =
    ["shopery-ingest", "shopery-router", "shopery-deliverer", "shopery-recorder", "shopery-controller", "shopery-api"];

/// How long a service may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where each binary is. Cargo decides what has to be built, and says where it put it.
pub async fn build() -> anyhow::Result<HashMap<String, PathBuf>> {
    eprintln!("building the services in release mode, if they are not up to date");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = tokio::process::Command::new(cargo);
    build.args(["build", "--release", "--bins", "--message-format", "json-render-diagnostics"]);
    for name in NAMES {
        build.args(["--package", name]);
    }
    // Killed with us: cargo itself stops its compilers.
    build.current_dir(workspace()).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let built = build.spawn().context("cannot run cargo")?.wait_with_output().await?;
    ensure!(built.status.success(), "the services do not build");

    let messages = built.stdout.split(|byte| *byte == b'\n').filter_map(|line| {
        let message: serde_json::Value = serde_json::from_slice(line).ok()?;
        Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
    });
    let binaries: HashMap<String, PathBuf> = messages.collect();
    for name in NAMES {
        ensure!(binaries.contains_key(name), "cargo has built no binary {name}");
    }
    Ok(binaries)
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// A running service. Killed when it is dropped: its data is thrown away anyway.
pub struct Service {
    pub name: &'static str,
    pub address: SocketAddr,
    log: PathBuf,
    child: Child,
}

impl Service {
    /// Starts a binary on a free port, with its log in `directory`.
    pub fn start(
        name: &'static str,
        binary: &Path,
        variables: &[(&str, String)],
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = directory.join(format!("{name}.log"));
        let child = Command::new(binary)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .env("SHOPERY_LISTEN", address.to_string())
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self { name, address, log, child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `/readyz` answers 200.
    pub async fn ready(&mut self, client: &reqwest::Client) -> anyhow::Result<()> {
        let url = format!("http://{}/readyz", self.address);
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check_alive()?;
            let answer = client.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {} s; its log ends with\n{}", self.name, PATIENCE.as_secs(), self.tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status}); its log ends with\n{}", self.name, self.tail()),
        }
    }

    /// The number of warnings and errors in its log, and the first of them.
    pub fn complaints(&self) -> Option<(usize, String)> {
        let log = std::fs::read_to_string(&self.log).ok()?;
        let mut complaints = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
        let first = complaints.next()?.to_owned();
        Some((1 + complaints.count(), first))
    }

    fn tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
