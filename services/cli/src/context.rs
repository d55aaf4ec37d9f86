//! What every command is given.

use serde_json::value::RawValue;

use crate::client::{Answer, Client, Request};
use crate::config::{Config, Global};
use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::terminal::Terminal;

#[derive(Debug)]
pub struct Context {
    pub client: Client,
    pub output: Output,
}

impl Context {
    pub fn new(global: &Global) -> Result<Self, Failure> {
        Ok(Self { client: Client::new(Config::read(global)?)?, output: output(global) })
    }

    pub async fn send(&self, request: Request) -> Result<Answer, Failure> {
        self.client.send(request).await
    }

    pub async fn json(&self, request: Request) -> Result<Box<RawValue>, Failure> {
        Ok(self.send(request).await?.json()?)
    }

    /// The whole of a read-only command that shows one object.
    pub async fn show(&self, request: Request) -> Result<(), Failure> {
        self.output.detail(&self.json(request).await?)
    }
}

pub fn output(global: &Global) -> Output {
    let format = match global {
        Global { json: true, .. } => Format::Json,
        Global { jsonl: true, .. } => Format::JsonLines,
        _ => Format::Human,
    };
    Output { format, terminal: Terminal::stdout() }
}
