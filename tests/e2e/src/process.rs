use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::wait;

/// A process that we started, with its output in a log. Killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let open = || OpenOptions::new().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(open()).stderr(open()).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), log: log.to_owned(), child }
    }

    /// The process id; panics if the process has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("{} has ended", self.name))
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// `Some` once the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait::within(&what, deadline, self.child.wait()).await.unwrap()
    }

    /// SIGKILL, and it is gone when this returns.
    pub async fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
            self.exit(Duration::from_secs(10)).await;
        }
    }

    /// All that it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

pub fn send(pid: u32, signal: Signal) -> nix::Result<()> {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal)
}

/// Whether a process of this id runs. A zombie, whose parent has not asked yet, does not.
pub fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything, the state comes after it.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// The processes that `pid` has started, and theirs.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parent_of = |stat: &str| stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok();
    let processes: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let child = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
            Some((child, parent_of(&stat)?))
        })
        .collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(processes.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    family.split_off(1)
}

/// The CPU time that a process has used, its own and that of the kernel for it.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may hold anything; what comes after it begins with the third field.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // The kernel counts in steps of 10 ms for every program, whatever it uses itself.
    Duration::from_millis(ticks * 10)
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
