//! Verification by somebody else's code: the package `standardwebhooks` of PyPI.

use std::collections::HashMap;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::{Arrival, parts};

/// A message as a receiver has it.
#[derive(Debug, Clone)]
pub struct Message {
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

    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// For each message, nothing or the reason why it was refused.
pub async fn verify(messages: &[Message]) -> Vec<Result<(), String>> {
    let mut python = Command::new(parts::python())
        .args(["-c", include_str!("verify.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines: String = messages
        .iter()
        .map(|message| {
            let body = STANDARD.encode(&message.body);
            format!("{}\n", json!({ "secret": message.secret, "headers": message.headers, "body": body }))
        })
        .collect();
    let mut input = python.stdin.take().unwrap();
    // It answers while it reads, so both must go on at once.
    let write = async move { input.write_all(lines.as_bytes()).await };
    let (written, done) = tokio::join!(write, python.wait_with_output());
    let done = done.unwrap();
    assert!(written.is_ok() && done.status.success(), "the verifier failed: {written:?} {done:?}");
    let verdicts: Vec<_> = String::from_utf8(done.stdout)
        .unwrap()
        .lines()
        .map(|line| if line == "ok" { Ok(()) } else { Err(line.to_owned()) })
        .collect();
    assert_eq!(verdicts.len(), messages.len());
    verdicts
}
