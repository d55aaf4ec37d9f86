//! Verification by somebody else's code, as a receiver would: the packages `standardwebhooks` of PyPI, npm and
//! crates.io; asymmetric signatures, which those do not know, by Python's `cryptography` and Node's own.

use std::collections::HashMap;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::{Arrival, Received, parts};

/// A message as a receiver has it.
#[derive(Debug, Clone)]
pub struct Message {
    /// `whsec_…`, or a public key, `whpk_…`.
    pub secret: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn of(arrival: &Arrival, secret: &str) -> Self {
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        let headers = names.map(|name| (name.to_owned(), arrival.header(name).to_owned()));
        Self { secret: secret.to_owned(), headers: headers.into(), body: arrival.body.to_vec() }
    }

    /// What came through a cloud; `body` is what its signature covers.
    pub fn of_received(received: &Received, secret: &str, body: Vec<u8>) -> Self {
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        let headers = names.map(|name| (name.to_owned(), received.name(name).to_owned()));
        Self { secret: secret.to_owned(), headers: headers.into(), body }
    }

    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The same in three ways in which it is not what was sent.
    fn tampered(&self) -> [Self; 3] {
        let body = [&self.body[..], b" "].concat();
        let timestamp = self.headers["webhook-timestamp"].parse::<i64>().unwrap() + 1;
        [
            Self { body, ..self.clone() },
            self.clone().with_header("webhook-id", "another"),
            self.clone().with_header("webhook-timestamp", &timestamp.to_string()),
        ]
    }

    fn line(&self) -> String {
        let body = STANDARD.encode(&self.body);
        format!("{}\n", json!({ "secret": self.secret, "headers": self.headers, "body": body }))
    }
}

/// For each message, nothing or the reason why it was refused: by the package of PyPI.
pub async fn verify(messages: &[Message]) -> Vec<Result<(), String>> {
    let mut python = Command::new(parts::python());
    python.args(["-c", include_str!("verify.py")]);
    ask(python, messages).await
}

/// The same by the package of npm.
async fn verify_by_npm(messages: &[Message]) -> Vec<Result<(), String>> {
    let mut node = Command::new("node");
    node.args(["-e", include_str!("verify.js")]).current_dir(parts::node_packages());
    ask(node, messages).await
}

/// The same by the crate, which knows secrets alone.
fn verify_by_crate(message: &Message) -> Result<(), String> {
    let header = |(name, value): (&String, &String)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let headers: HeaderMap = message.headers.iter().map(header).collect();
    let verifier = standardwebhooks::Webhook::new(&message.secret).map_err(|error| error.to_string())?;
    verifier.verify(&message.body, &headers).map_err(|error| error.to_string())
}

/// The canonical forms (RFC 8785) of JSON texts, by PyPI's `rfc8785`.
pub async fn canonical(texts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut python = Command::new(parts::python());
    python.args(["-c", include_str!("canonical.py")]);
    let lines: Vec<_> = texts.iter().map(|text| format!("{}\n", STANDARD.encode(text))).collect();
    talk(python, lines).await.iter().map(|line| STANDARD.decode(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Everybody's code accepts an arrival with this secret or public key, and refuses it once it was tampered with.
pub async fn assert_accepted(arrival: &Arrival, secret: &str) {
    for (who, verdicts) in verdicts(arrival, secret).await {
        let refused = verdicts[1..].iter().all(Result::is_err);
        assert!(verdicts[0].is_ok() && refused, "{who}: {verdicts:?} of {:?}", arrival.headers);
    }
}

/// Nobody's code accepts an arrival with this secret or public key.
pub async fn assert_refused(arrival: &Arrival, secret: &str) {
    for (who, verdicts) in verdicts(arrival, secret).await {
        assert!(verdicts.iter().all(Result::is_err), "{who}: {verdicts:?} of {:?}", arrival.headers);
    }
}

/// What each says of a message as it came, and as it did not.
async fn verdicts(arrival: &Arrival, secret: &str) -> Vec<(&'static str, Vec<Result<(), String>>)> {
    let message = Message::of(arrival, secret);
    let messages = [&[message.clone()][..], &message.tampered()].concat();
    let mut all = vec![("PyPI", verify(&messages).await), ("npm", verify_by_npm(&messages).await)];
    if !secret.starts_with("whpk_") {
        all.push(("crates.io", messages.iter().map(verify_by_crate).collect()));
    }
    all
}

/// Gives a program the messages, and takes what it says of each.
async fn ask(program: Command, messages: &[Message]) -> Vec<Result<(), String>> {
    let verdict = |line: String| if line == "ok" { Ok(()) } else { Err(line) };
    talk(program, messages.iter().map(Message::line).collect()).await.into_iter().map(verdict).collect()
}

/// Gives a program lines, and takes one for each.
async fn talk(mut program: Command, lines: Vec<String>) -> Vec<String> {
    let started = program.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let mut child = started.unwrap_or_else(|error| panic!("{program:?} IS MISSING: run tests/run: {error}"));
    let mut input = child.stdin.take().unwrap();
    let (count, text) = (lines.len(), lines.concat());
    // It answers while it reads, so both must go on at once.
    let write = async move { input.write_all(text.as_bytes()).await };
    let (written, done) = tokio::join!(write, child.wait_with_output());
    let done = done.unwrap();
    assert!(written.is_ok() && done.status.success(), "the program failed: {written:?} {done:?}");
    let said: Vec<_> = String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(said.len(), count);
    said
}
