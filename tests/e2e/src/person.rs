//! Somebody at a command line, with `shopery` and what it prints.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::pty::{OpenptyResult, Winsize, openpty};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{Folder, Process, Service, Signal, Stack, leaks, parts, process, wait};

const SOON: Duration = Duration::from_secs(60);

/// Somebody at a command line, with a home of their own. All that they are told is searched for secrets at the end.
#[derive(Debug)]
pub struct Person {
    pub home: Folder,
    env: BTreeMap<String, String>,
    pub token: String,
    told: Mutex<Vec<u8>>,
}

#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Person {
    /// As one who has sourced the launcher's variables.
    pub fn of(stack: &Stack, tenant: &str) -> Self {
        let person = Self::without_variables(stack, tenant);
        let env = [
            ("SHOPERY_API_URL", stack.url(Service::Api)),
            ("SHOPERY_INGEST_URL", stack.url(Service::Ingest)),
            ("SHOPERY_TENANT", tenant.to_owned()),
            ("SHOPERY_TOKEN", person.token.clone()),
        ];
        env.into_iter().fold(person, |person, (name, value)| person.with(name, &value))
    }

    pub fn without_variables(stack: &Stack, tenant: &str) -> Self {
        let home = Folder::create();
        let token = stack.client(tenant).token;
        let env = [("HOME".to_owned(), home.path().display().to_string())].into();
        Self { home, env, token, told: Mutex::default() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(parts::binary("shopery"));
        command.args(arguments).env_clear().envs(&self.env).current_dir(self.home.path()).kill_on_drop(true);
        command
    }

    pub async fn pipe(&self, arguments: &[&str], stdin: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // What needs no input may have gone before it has taken it.
        let _ = input.write_all(stdin).await;
        drop(input);
        let done = wait::within(&format!("shopery {arguments:?}"), SOON, child.wait_with_output()).await.unwrap();
        self.told.lock().unwrap().extend([done.stderr.as_slice(), &done.stdout].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: done.status.code().unwrap(), out: text(done.stdout), err: text(done.stderr) }
    }

    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.pipe(arguments, b"").await
    }

    /// What it prints, which must go well.
    pub async fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        assert_eq!(ran.code, 0, "{arguments:?}: {}\n{}", ran.err, ran.out);
        ran.out.trim_end().to_owned()
    }

    pub async fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.ok(&[arguments, &["--json"]].concat()).await;
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {printed}"))
    }

    /// What it says when it ends with this code.
    pub async fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        assert_eq!(ran.code, code, "{arguments:?}: {}\n{}", ran.err, ran.out);
        ran.err
    }

    /// Runs it at a terminal, wide enough to shorten nothing.
    pub fn at_terminal(&self, arguments: &[&str]) -> AtTerminal {
        let size = Winsize { ws_row: 50, ws_col: 1000, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = command.spawn().unwrap();
        // It has copies of the terminal's end, and reading ends when the last is closed.
        drop(command);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (to, mut from) = (shown.clone(), File::from(master));
        let reader = spawn_blocking(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        AtTerminal { child, shown, reader }
    }

    /// Something that runs until it is told to end.
    pub fn start(&self, arguments: &[&str]) -> Running<'_> {
        let log = self.home.join("running.log");
        let _ = std::fs::remove_file(&log);
        Running { process: Process::start("shopery", self.command(arguments), &log), person: self }
    }
}

/// A command at a terminal, which shows both outputs.
#[derive(Debug)]
pub struct AtTerminal {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl AtTerminal {
    pub fn shown(&self) -> String {
        String::from_utf8(self.shown.lock().unwrap().clone()).unwrap()
    }

    pub async fn shows(&self, text: &str) {
        wait::until(&format!("the terminal to show {text:?}"), SOON, async || {
            let shown = self.shown();
            if shown.contains(text) { Ok(()) } else { Err(shown) }
        })
        .await;
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        process::send(self.child.id().unwrap(), Signal::SIGINT).unwrap();
    }

    /// Its exit code, and all that was shown.
    pub async fn end(mut self) -> (Option<i32>, String) {
        let status = wait::within("the end of a command", SOON, self.child.wait()).await.unwrap();
        wait::within("the last of what it shows", SOON, &mut self.reader).await.unwrap();
        (status.code(), self.shown())
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let told = self.told.lock().unwrap();
        let has_token = String::from_utf8_lossy(&told).contains(&self.token);
        if !std::thread::panicking() {
            assert!(!has_token, "the token was printed");
            assert_eq!(leaks::find(&told), None);
        }
    }
}

/// What runs until it is told to end.
#[derive(Debug)]
pub struct Running<'a> {
    pub process: Process,
    person: &'a Person,
}

impl Running<'_> {
    pub async fn says(&mut self, text: &str) {
        wait::until(&format!("it to say {text:?}"), SOON, async || {
            let said = self.process.output();
            assert!(self.process.ended().is_none(), "it has ended: {said}");
            if said.contains(text) { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Ctrl-C; returns the exit code, and all it has printed.
    pub async fn interrupt(mut self) -> (Option<i32>, String) {
        self.process.signal(Signal::SIGINT);
        let code = self.process.exit(SOON).await.code();
        let said = self.process.output();
        self.person.told.lock().unwrap().extend(said.as_bytes());
        (code, said)
    }
}
