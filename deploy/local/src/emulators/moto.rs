//! Amazon EventBridge as moto has it (PyPI's `moto[server]`). Behind each bus is a queue of SQS, so what arrives can be read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::process::Command;

pub(super) const MISSING: &str =
    "moto_server is missing: pip install 'moto[server]' puts it on PATH, and tests/run into target/parts";

pub const REGION: &str = "eu-west-1";
/// moto takes every key that it has not made itself for one of this account.
pub const ACCOUNT: &str = "123456789012";

const TIMEOUT: Duration = Duration::from_secs(20);

/// A client of a moto server on this machine: the merchant's side of it.
#[derive(Debug, Clone)]
pub struct Moto {
    url: String,
    http: reqwest::Client,
}

/// The server on PATH, or that of the tests, whose Python is beside the folder of our own binary.
pub(super) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&path).map(|folder| folder.join("moto_server"));
    let of_the_tests = || Some(std::env::current_exe().ok()?.ancestors().nth(2)?.join("parts/venv/bin/moto_server"));
    on_path.find(|file| file.is_file()).or_else(|| of_the_tests().filter(|file| file.is_file()))
}

impl Moto {
    /// The server, for whoever starts it.
    pub fn command(binary: &Path, port: u16) -> Command {
        let mut command = Command::new(binary);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command
    }

    /// A client of the server on this port.
    pub fn at(port: u16) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(TIMEOUT).build()?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), http })
    }

    /// For `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the server answers.
    pub async fn is_ready(&self) -> bool {
        self.http.get(format!("{}/moto-api/", self.url)).send().await.is_ok()
    }

    /// `arn:aws:events:eu-west-1:123456789012:event-bus/<name>`
    pub fn arn(name: &str) -> String {
        format!("arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{name}")
    }

    /// Makes a bus, and a rule by which what comes from a tenant goes to a queue of the same name; returns the ARN of the bus.
    pub async fn make_bus(&self, name: &str, tenant: &str) -> anyhow::Result<String> {
        self.events("CreateEventBus", json!({ "Name": name })).await?;
        self.queue("CreateQueue", json!({ "QueueName": name })).await?;
        let pattern = json!({ "source": [format!("shopery/{tenant}")] }).to_string();
        self.events("PutRule", json!({ "Name": name, "EventBusName": name, "EventPattern": pattern })).await?;
        // The whole event, as without a transformer; but for that, moto compiles eight paths anew for each event.
        let transformer =
            json!({ "InputPathsMap": { "source": "$.source" }, "InputTemplate": "<aws.events.event.json>" });
        let target = json!({ "Id": name, "Arn": format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"), "InputTransformer": transformer });
        self.events("PutTargets", json!({ "Rule": name, "EventBusName": name, "Targets": [target] })).await?;
        Ok(Self::arn(name))
    }

    /// Nothing can be sent to it any more.
    pub async fn delete_bus(&self, name: &str) -> anyhow::Result<()> {
        self.events("DeleteEventBus", json!({ "Name": name })).await.map(drop)
    }

    /// Where the queue behind a bus is.
    pub fn queue_url(&self, name: &str) -> String {
        format!("{}/{ACCOUNT}/{name}", self.url)
    }

    /// Takes all that the queue behind a bus holds: events as EventBridge writes them.
    pub async fn take(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let queue = self.queue_url(name);
        let mut taken = vec![];
        loop {
            let asked = json!({ "QueueUrl": queue, "MaxNumberOfMessages": 10 });
            let received = self.queue("ReceiveMessage", asked).await?;
            let Some(messages) = received["Messages"].as_array().filter(|messages| !messages.is_empty()) else {
                return Ok(taken);
            };
            let entries = messages.iter().enumerate().map(
                |(number, message)| json!({ "Id": number.to_string(), "ReceiptHandle": message["ReceiptHandle"] }),
            );
            let deleted = json!({ "QueueUrl": queue, "Entries": entries.collect::<Vec<_>>() });
            self.queue("DeleteMessageBatch", deleted).await?;
            for message in messages {
                taken.push(message["Body"].as_str().context("a message has no body")?.to_owned());
            }
        }
    }

    async fn events(&self, action: &str, body: Value) -> anyhow::Result<Value> {
        self.call("events", &format!("AWSEvents.{action}"), "application/x-amz-json-1.1", body).await
    }

    async fn queue(&self, action: &str, body: Value) -> anyhow::Result<Value> {
        self.call("sqs", &format!("AmazonSQS.{action}"), "application/x-amz-json-1.0", body).await
    }

    async fn call(&self, service: &str, target: &str, kind: &str, body: Value) -> anyhow::Result<Value> {
        // moto reads from it which service is asked in which region, and verifies nothing.
        let signed = format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261201/{REGION}/{service}/aws4_request, \
             SignedHeaders=host, Signature=0"
        );
        let request = self.http.post(&self.url).header("content-type", kind).header("x-amz-target", target);
        let answer = request.header("authorization", signed).body(body.to_string()).send().await;
        let answer = answer.with_context(|| format!("moto does not answer {target}"))?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("moto answered {status} to {target}: {text}");
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("moto answered something else than JSON to {target}"))
    }
}
