//! A child process that is never left behind.
//!
//! The process runs in a group with a *keeper*, a few words of shell that read a pipe from us. It passes on the
//! signals that we write, and when the pipe ends, because we dropped it or because this process died however hard, it
//! kills the group. So no child outlives its starter, and a Ctrl-C on the terminal reaches it only through us, after
//! the drain. The keeper signals nothing but its own group, which exists as long as it does: it cannot hit a stranger.

use std::io::{self, PipeWriter, Write};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const KEEPER: &str = r#"trap "" TERM; while read -r signal; do kill -s "$signal" 0; done; kill -s KILL 0"#;

/// A process that runs until it ends, is stopped, killed or dropped.
#[derive(Debug)]
pub struct Kept {
    name: &'static str,
    child: Child,
    pid: u32,
    keeper: Child,
    pipe: Option<PipeWriter>,
}

impl Kept {
    /// Starts `command`, which says where its output goes. `name` is for messages.
    pub fn start(name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        let (listening, pipe) = io::pipe()?;
        let keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .process_group(0)
            .stdin(listening)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start sh")?;
        let group = keeper.id().and_then(|id| i32::try_from(id).ok()).context("sh ended at once")?;
        let child = command
            .process_group(group)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", command.as_std().get_program().display()))?;
        let pid = child.id().with_context(|| format!("{name} ended at once"))?;
        Ok(Self { name, child, pid, keeper, pipe: Some(pipe) })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Completes when the process has ended.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Whether it has ended and [`wait`](Self::wait) has said so.
    pub fn has_ended(&self) -> bool {
        self.child.id().is_none()
    }

    /// SIGTERM. Returns when the process is gone; one that does not end within `limit` is killed.
    pub async fn stop(&mut self, limit: Duration) -> anyhow::Result<()> {
        if let Some(pipe) = &mut self.pipe {
            // A keeper that is gone has taken the process with it.
            let _ = writeln!(pipe, "TERM");
        }
        if timeout(limit, self.child.wait()).await.is_err() {
            tracing::warn!("{} does not stop; killing it", self.name);
        }
        self.kill().await
    }

    /// SIGKILL. Returns when the process is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.or_else(|error| match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            _ => Err(error),
        })?;
        self.pipe = None;
        self.keeper.wait().await?;
        Ok(())
    }

    /// What the kernel does when this process dies.
    #[cfg(test)]
    pub(crate) fn let_go(&mut self) {
        self.pipe = None;
    }
}
