//! A PostgreSQL cluster of one test: Debian's, started as `nobody` because it refuses to run as root.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::process::{Process, Signal, descendants, send};
use crate::{Folder, SmallDisk, ports, wait};

/// Ended when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    port: u16,
    server: Option<Process>,
    // Last, so that the server has ended when its files go.
    folder: Folder,
    disk: Option<SmallDisk>,
}

impl Postgres {
    /// With its data on a disk of their own, if there is one.
    pub async fn start(disk: Option<SmallDisk>) -> Self {
        let folder = Folder::create();
        let mut postgres = Self { binaries: binaries(), port: ports::free(), server: None, folder, disk };
        let data = postgres.data();
        std::fs::create_dir(&data).unwrap();
        if nix::unistd::geteuid().is_root() {
            let status = Command::new("chown").args(["-R", "nobody"]).args([postgres.folder.path(), &data]).status();
            assert!(status.await.is_ok_and(|status| status.success()), "cannot give the cluster to nobody");
        }
        let mut initdb = as_nobody(&postgres.binaries.join("initdb"));
        initdb.args(["--no-sync", "--auth=trust", "--username=shopery", "--encoding=UTF8", "--locale=C", "-D"]);
        let made = initdb.arg(&data).current_dir(postgres.folder.path()).stdin(Stdio::null()).output().await.unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        postgres.resume().await;
        postgres
    }

    fn data(&self) -> PathBuf {
        self.disk.as_ref().map_or(self.folder.path(), SmallDisk::path).join("data")
    }

    /// The disk that it was started with.
    pub fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("a disk of its own")
    }

    /// For `SHOPERY_DATABASE_URL`. No TLS: it is loopback.
    pub fn url(&self) -> String {
        format!("postgres://shopery@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// As a crash would: no client is waited for.
    pub async fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        server.signal(Signal::SIGQUIT);
        server.exit(Duration::from_secs(20)).await;
    }

    /// Starts the server; ready when it returns.
    pub async fn resume(&mut self) {
        let mut command = as_nobody(&self.binaries.join("postgres"));
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=60"] {
            command.args(["-c", setting]);
        }
        command.current_dir(self.folder.path());
        self.server = Some(Process::start("postgres", command, &self.folder.join("postgres.log")));
        self.ready().await;
    }

    /// Starts the server if it has ended by itself; ready when it returns.
    pub async fn recover(&mut self) {
        wait::until("PostgreSQL", Duration::from_secs(60), async || {
            if self.server.as_mut().is_none_or(|server| server.ended().is_some()) {
                self.resume().await;
            }
            if self.is_ready().await { Ok(()) } else { Err("it does not answer".to_owned()) }
        })
        .await;
    }

    async fn ready(&self) {
        wait::until_true("PostgreSQL", Duration::from_secs(30), async || self.is_ready().await).await;
    }

    async fn is_ready(&self) -> bool {
        let mut command = Command::new(self.binaries.join("pg_isready"));
        command.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "shopery", "-d", "postgres"]);
        command.status().await.is_ok_and(|status| status.success())
    }

    /// To the server and its processes for connections.
    pub fn signal_all(&self, signal: Signal) {
        let server = self.server.as_ref().unwrap().pid();
        for pid in [server].into_iter().chain(descendants(server)) {
            // A connection may have ended meanwhile.
            let _ = send(pid, signal);
        }
    }

    /// For transactions to come.
    pub async fn be_read_only(&self, is_read_only: bool) {
        self.value(&format!("ALTER SYSTEM SET default_transaction_read_only = {is_read_only}")).await;
        self.value("SELECT pg_reload_conf()").await;
    }

    /// All that the database holds, as SQL.
    pub async fn dump(&self) -> String {
        let mut command = Command::new(self.binaries.join("pg_dump"));
        let dumped = command.args(["--inserts", &self.url()]).stdin(Stdio::null()).output().await.unwrap();
        assert!(dumped.status.success(), "pg_dump: {}", String::from_utf8_lossy(&dumped.stderr));
        String::from_utf8(dumped.stdout).unwrap()
    }

    /// Rows for a table (its name, and its columns in brackets), as text with tabs between.
    pub fn copy(&self, table: &str) -> Copy {
        let mut command = Command::new(self.binaries.join("psql"));
        command.args(["-X", "-q", "-c", &format!("COPY {table} FROM STDIN"), &self.url()]).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Copy { input: child.stdin.take().unwrap(), child }
    }

    /// A transaction that has done this, and stays open.
    pub async fn hold(&self, sql: &str) -> Held {
        let mut command = Command::new(self.binaries.join("psql"));
        command.args(["-X", "-c", &format!("{sql}; SELECT pg_sleep(600)"), &self.url()]).kill_on_drop(true);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait::until("the transaction", Duration::from_secs(20), async || {
            let found = self.value(&format!("SELECT count(*) FROM {SLEEPERS}")).await;
            if found == "1" { Ok(()) } else { Err(found) }
        })
        .await;
        Held { url: self.url(), psql: self.binaries.join("psql"), _child: child }
    }

    /// One value from the database, as text.
    pub async fn value(&self, sql: &str) -> String {
        let mut command = Command::new(self.binaries.join("psql"));
        let found =
            command.args(["-X", "-A", "-t", "-c", sql, &self.url()]).stdin(Stdio::null()).output().await.unwrap();
        assert!(found.status.success(), "{sql}: {}", String::from_utf8_lossy(&found.stderr));
        String::from_utf8(found.stdout).unwrap().trim().to_owned()
    }
}

const SLEEPERS: &str = "pg_stat_activity WHERE wait_event = 'PgSleep'";

/// An open transaction. Its server would not notice that its client is gone.
#[derive(Debug)]
pub struct Held {
    url: String,
    psql: PathBuf,
    _child: Child,
}

impl Held {
    pub async fn end(self) {
        let ended = Command::new(&self.psql)
            .args(["-X", "-c", &format!("SELECT pg_terminate_backend(pid) FROM {SLEEPERS}"), &self.url])
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
}

/// A COPY that is under way.
#[derive(Debug)]
pub struct Copy {
    input: ChildStdin,
    child: Child,
}

impl Copy {
    pub async fn send(&mut self, lines: &str) {
        self.input.write_all(lines.as_bytes()).await.unwrap();
    }

    pub async fn end(self) {
        drop(self.input);
        let done = self.child.wait_with_output().await.unwrap();
        assert!(done.status.success(), "COPY: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The postmaster ends its own children; they hold the data directory for a moment longer than a SIGKILL would.
        if let Some(server) = &mut self.server
            && server.ended().is_none()
        {
            server.signal(Signal::SIGQUIT);
            let started = std::time::Instant::now();
            while server.ended().is_none() && started.elapsed() < Duration::from_secs(5) {
                #[allow(clippy::disallowed_methods, reason = "Drop cannot wait in another way")]
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn as_nobody(program: &Path) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(program);
    command
}

/// Debian keeps the server's programs off PATH, one folder for each version.
fn binaries() -> PathBuf {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    installed.sort();
    installed
        .into_iter()
        .rev()
        .chain(std::env::split_paths(&on_path))
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .unwrap_or_else(|| panic!("POSTGRESQL IS MISSING: run tests/run, which installs it, or tests/run quick"))
}
