//! Google's own emulator of Cloud Pub/Sub, where its package is installed. It is not to be had from PyPI or Debian.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use shopery_model::Topic;
use tokio::process::Command;

pub(super) const MISSING: &str = "There is no emulator of Pub/Sub on this machine: it comes with Google's package \
    google-cloud-cli-pubsub-emulator, and needs Java 17.";

/// Where that package puts it.
const FOLDER: &str = "/usr/lib/google-cloud-sdk/platform/pubsub-emulator/lib";
const TIMEOUT: Duration = Duration::from_secs(20);

/// A client of an emulator on this machine: the merchant's side of it.
#[derive(Debug, Clone)]
pub struct PubSub {
    host: String,
    http: reqwest::Client,
}

/// A message as a subscriber gets it.
#[derive(Debug, Clone)]
pub struct Message {
    pub data: Vec<u8>,
    pub attributes: BTreeMap<String, String>,
    pub ordering_key: Option<String>,
    pub id: String,
}

impl PubSub {
    /// The emulator's jar, if it is installed.
    pub fn find() -> Option<PathBuf> {
        let files = std::fs::read_dir(FOLDER).ok()?.flatten().map(|file| file.path());
        let is_emulator = |name: &str| name.starts_with("cloud-pubsub-emulator-") && name.ends_with("-all.jar");
        files.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_emulator)).max()
    }

    /// The server, for whoever starts it.
    pub fn command(jar: &Path, port: u16) -> Command {
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-XX:+UseSerialGC", "-jar"]).arg(jar);
        command.args(["--host=127.0.0.1", &format!("--port={port}")]);
        command
    }

    /// A client of the emulator on this port.
    pub fn at(port: u16) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(TIMEOUT).build()?;
        Ok(Self { host: format!("127.0.0.1:{port}"), http })
    }

    /// For `PUBSUB_EMULATOR_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the server answers.
    pub async fn is_ready(&self) -> bool {
        self.http.get(format!("http://{}/", self.host)).send().await.is_ok()
    }

    /// Makes a topic with these labels, and a subscription of the same name that keeps to ordering keys.
    pub async fn make_topic(&self, topic: &Topic, labels: &[(&str, &str)]) -> anyhow::Result<()> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        self.call(Method::PUT, &topic.path(), json!({ "labels": labels })).await?;
        let subscription = json!({ "topic": topic.path(), "enableMessageOrdering": true, "ackDeadlineSeconds": 60 });
        self.call(Method::PUT, &Self::subscription(topic), subscription).await.map(drop)
    }

    /// Nothing can be published to it any more; its subscription keeps what it has.
    pub async fn delete_topic(&self, topic: &Topic) -> anyhow::Result<()> {
        self.call(Method::DELETE, &topic.path(), Value::Null).await.map(drop)
    }

    /// `projects/<project>/subscriptions/<topic>`
    pub fn subscription(topic: &Topic) -> String {
        format!("projects/{}/subscriptions/{}", topic.project, topic.name)
    }

    /// Takes all that the subscription of a topic holds.
    pub async fn take(&self, topic: &Topic) -> anyhow::Result<Vec<Message>> {
        let subscription = Self::subscription(topic);
        let mut taken = vec![];
        loop {
            let asked = json!({ "maxMessages": 1000, "returnImmediately": true });
            let pulled = self.call(Method::POST, &format!("{subscription}:pull"), asked).await?;
            let Some(received) = pulled["receivedMessages"].as_array().filter(|messages| !messages.is_empty()) else {
                return Ok(taken);
            };
            let acks: Vec<_> = received.iter().map(|one| &one["ackId"]).collect();
            self.call(Method::POST, &format!("{subscription}:acknowledge"), json!({ "ackIds": acks })).await?;
            for one in received {
                taken.push(message(&one["message"])?);
            }
        }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
        let what = format!("{method} {path}");
        let mut request = self.http.request(method, format!("http://{}/v1/{path}", self.host));
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.with_context(|| format!("the emulator does not answer {what}"))?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("the emulator answered {status} to {what}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("the emulator answered something else than JSON to {what}"))
    }
}

fn message(value: &Value) -> anyhow::Result<Message> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let attributes = value["attributes"].as_object().into_iter().flatten();
    Ok(Message {
        data: STANDARD.decode(value["data"].as_str().unwrap_or_default()).context("the data is not base64")?,
        attributes: attributes.map(|(name, value)| (name.clone(), text(value))).collect(),
        ordering_key: value["orderingKey"].as_str().map(str::to_owned),
        id: text(&value["messageId"]),
    })
}
