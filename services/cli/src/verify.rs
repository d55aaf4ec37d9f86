//! `shopery verify`: whether a delivery that arrived somewhere is one of ours. Nothing is asked of the API.

use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use shopery_model::EndpointSecret;
use time::OffsetDateTime;

use crate::envelope::{self, Opened};
use crate::failure::Failure;
use crate::input;
use crate::moment;
use crate::output::Output;
use crate::signature::{Arrived, Clock, Key, verify};

/// Values can be @FILE, or - for stdin. Example: shopery verify --secret @secret --headers @headers.txt --body @body.json.
/// Without any header, the body is taken for what an event bus or a topic has passed on: an event or its detail, or a message as it
/// is pushed or pulled
#[derive(Debug, Args)]
pub struct Verify {
    /// whsec_… (also: SHOPERY_WEBHOOK_SECRET); may be repeated
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<SecretString>,

    /// whpk_…, for asymmetric signatures; may be repeated
    #[arg(long = "public-key", value_name = "KEY")]
    public_keys: Vec<String>,

    /// A header: 'webhook-id: …'; may be repeated
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,

    /// All headers, one on each line; what is no header is passed over
    #[arg(long = "headers", value_name = "LINES")]
    lines: Option<String>,

    /// The body, byte for byte; of a bus or topic the JSON that arrived
    #[arg(long, default_value = "-")]
    body: String,

    /// How old or new the timestamp may be; any: as it likes
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = tolerance)]
    tolerance: Tolerance,

    /// The time to compare the timestamp with, in RFC 3339 [now]
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    at: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Tolerance(Option<Duration>);

fn tolerance(text: &str) -> Result<Tolerance, String> {
    if text == "any" {
        return Ok(Tolerance(None));
    }
    let parsed = humantime::parse_duration(text);
    parsed.map(|time| Tolerance(Some(time))).map_err(|_| "must be a time such as 5m, or any".into())
}

impl Verify {
    pub fn run(self, output: Output) -> Result<(), Failure> {
        self.check_stdin()?;
        let (keys, headers) = (self.keys()?, self.headers()?);
        let body = input::value("the body", &self.body)?;
        let opened = if headers.is_empty() { envelope::open(&body) } else { None };
        let Opened { body, headers, place } = match opened.unwrap_or(Ok(Opened { body, headers, place: "header" })) {
            Ok(opened) => opened,
            Err(why) => return tell(output, None, Err(vec![why])),
        };
        let header = |name: &str| {
            let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        let arrived = Arrived {
            id: header("webhook-id"),
            timestamp: header("webhook-timestamp"),
            signature: header("webhook-signature"),
            body: &body,
            place,
        };
        let now = self.at.as_deref().and_then(moment::read).unwrap_or_else(OffsetDateTime::now_utc).unix_timestamp();
        let Tolerance(tolerance) = self.tolerance;
        let tolerance = tolerance.map(|time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        tell(output, arrived.id, verify(arrived, &keys, Clock { now, tolerance }))
    }

    /// Stdin can be read once.
    fn check_stdin(&self) -> Result<(), Failure> {
        let texts = [Some(&self.body), self.lines.as_ref()].into_iter().flatten().chain(&self.public_keys);
        let secrets = self.secrets.iter().filter(|secret| secret.expose_secret() == "-").count();
        match texts.filter(|given| *given == "-").count() + secrets {
            0 | 1 => Ok(()),
            _ => Err(Failure::usage("only one value can come from stdin; the body does unless --body says otherwise")),
        }
    }

    fn keys(&self) -> Result<Vec<Key>, Failure> {
        let mut keys = Vec::new();
        let from_env = std::env::var("SHOPERY_WEBHOOK_SECRET").ok().filter(|secret| !secret.is_empty());
        let from_env = from_env.filter(|_| self.secrets.is_empty() && self.public_keys.is_empty());
        for given in self.secrets.iter().cloned().chain(from_env.map(SecretString::from)) {
            let secret = input::secret("--secret", given.expose_secret())?;
            let secret = EndpointSecret::parse(secret.expose_secret());
            keys.push(Key::Secret(secret.map_err(|wrong| Failure::usage(format!("--{wrong}")))?));
        }
        for given in &self.public_keys {
            let key = Key::public(&input::text("--public-key", given)?);
            keys.push(key.map_err(|wrong| Failure::usage(format!("--public-key {wrong}")))?);
        }
        if keys.is_empty() {
            return Err(Failure::usage(
                "verify with what? --secret or --public-key; `shopery webhooks secret ID` shows both",
            ));
        }
        Ok(keys)
    }

    fn headers(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut headers = Vec::new();
        for given in &self.headers {
            headers.push(header(given).ok_or_else(|| Failure::usage("--header must be like 'webhook-id: …'"))?);
        }
        if let Some(given) = &self.lines {
            headers.extend(input::text("--headers", given)?.lines().filter_map(header));
        }
        Ok(headers)
    }
}

fn tell(output: Output, id: Option<&str>, verdict: Result<&'static str, Vec<String>>) -> Result<(), Failure> {
    if !output.is_human() {
        let (version, wrong) = (verdict.as_ref().ok(), verdict.as_ref().err());
        let told = json!({ "verified": version.is_some(), "signature": version, "id": id, "wrong": wrong });
        output.json(&told.to_string())?;
    }
    match verdict {
        Ok(version) if output.is_human() => output.line(&format!("verified, by a {version} signature")),
        Ok(_) => Ok(()),
        Err(wrong) => Err(Failure::failed(format!("not verified\n  {}", wrong.join("\n  ")))),
    }
}

fn header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().to_owned(), value.trim().to_owned()))
}
