//! `shopery webhooks`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::{JSON, Request};
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Members;
use crate::list::{Part, Times};
use crate::output;
use crate::table::{Column, fixed, gives};
use crate::terminal;
use crate::webhook_body::{self, Body, Clearable, Fields};

const COLUMNS: [Column; 5] =
    [fixed("ID", "id"), gives("NAME", "name"), fixed("STATE", "state"), gives("EVENTS", "events"), gives("URL", "url")];

const CHANGES: [Column; 4] =
    [fixed("AT", "createdAt"), fixed("ACTION", "action"), gives("BY", "by"), gives("CHANGES", "changes")];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List webhooks, newest first
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        part: Part,
        #[command(flatten)]
        times: Times,
    },
    /// Show a webhook, what waits for it, and its etag
    Get {
        id: String,
        /// Print the etag alone, for update --if-match
        #[arg(long)]
        etag: bool,
    },
    /// Create a webhook: --name, --url and --event are needed
    Create {
        #[command(flatten)]
        fields: Fields,
        /// Create it paused
        #[arg(long)]
        disabled: bool,
    },
    /// Change what is named; the rest stays
    Update {
        id: String,
        #[command(flatten)]
        fields: Fields,
        /// Take a rule, all headers, or the credentials of a bus or topic, away
        #[arg(long, value_name = "RULE", value_delimiter = ',')]
        clear: Vec<Clearable>,
        /// Only if the webhook still has this etag
        #[arg(long, value_name = "ETAG")]
        if_match: Option<String>,
    },
    /// Delete a webhook; its history stays
    #[command(alias = "rm")]
    Delete {
        id: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Send a test message now: to a webhook, or to a --url; exit code 1 if the endpoint does not answer 200, or the bus or topic
    /// does not accept it
    Test(Test),
    /// Show how the owner of an event bus or a topic lets us publish there: commands on stdout, what they do on stderr
    Setup {
        /// arn:aws:events:… or pubsub://project/topic
        url: String,
    },
    /// Say whether an event would make a delivery of a webhook with these rules, why not, and what would be sent; exit code 1 if
    /// it would not
    Match(Match),
    /// Show the secret, public key and former ones that are still valid
    Secret { id: String },
    /// Put a new secret in place; the former one stays valid for a while
    RotateSecret {
        id: String,
        /// whsec_… of your own, @FILE, or - for stdin
        #[arg(long, value_name = "SECRET")]
        secret: Option<SecretString>,
        /// How long the former secret stays valid: 0s to 7d [24h]
        #[arg(long, value_name = "TIME")]
        overlap: Option<String>,
    },
    /// Let deliveries go on
    Enable {
        id: String,
        /// What becomes of what has waited
        #[arg(long, value_name = "send|discard")]
        waiting: Option<String>,
    },
    /// Pause deliveries; they wait for up to 3 days
    Disable { id: String },
    /// Who has changed a webhook, when, and from what to what
    Changes {
        id: String,
        #[command(flatten)]
        part: Part,
        #[command(flatten)]
        times: Times,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("tested").required(true).args(["id", "url"])))]
pub struct Test {
    id: Option<String>,
    /// A URL that is not saved
    #[arg(long)]
    url: Option<String>,
    /// For --url: the secret to sign with, @FILE, or - for stdin
    #[arg(long, value_name = "SECRET", conflicts_with = "id")]
    secret: Option<SecretString>,
    /// Send the example of this event type, through the webhook's own rules
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,
    /// For --url: a header to send, 'Name: value'
    #[arg(long = "header", value_name = "HEADER", conflicts_with = "id")]
    headers: Vec<SecretString>,
    /// For a --url of a bus or topic: credentials of your own, in a JSON file, or - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    credentials: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Match {
    /// The type of the event
    #[arg(value_name = "EVENT_TYPE")]
    event_type: String,
    /// The resource as JSON, or @FILE; the example of the event type if it is not given
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// The state of the resource before, as JSON or @FILE, for --changed
    #[arg(long, value_name = "JSON")]
    previous: Option<String>,
    /// What the webhook subscribes to [the event type]; may be repeated or have commas
    #[arg(long = "event", value_name = "EVENT", value_delimiter = ',')]
    events: Vec<String>,
    /// Send these parts of the resource alone; may be repeated or have commas
    #[arg(long = "field", value_name = "PATH", value_delimiter = ',')]
    fields: Vec<String>,
    /// What the resource must look like: a JSON pattern, or @FILE
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// One of these paths must have changed; may be repeated or have commas
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    changed: Vec<String>,
    /// What the body of a delivery is: the resource, or a CloudEvent with it
    #[arg(long, value_name = "resource|cloudevent")]
    format: Option<String>,
}

impl Command {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List { part, times } => {
                context.list(&["company", "webhooks"], times.query(), part.limit(), &COLUMNS).await
            }
            Self::Get { id, etag } => get(context, &id, etag).await,
            Self::Create { fields, disabled } => create(context, &fields, disabled).await,
            Self::Update { id, fields, clear, if_match } => {
                let mut body = fields.body()?;
                webhook_body::clear(&mut body, &clear)?;
                if body.is_empty() {
                    return Err(Failure::usage(
                        "nothing to change: `shopery webhooks update --help` shows the options",
                    ));
                }
                patch(context, &id, &body, if_match.as_deref().map(tag)).await
            }
            Self::Delete { id, yes } => delete(context, &id, yes).await,
            Self::Test(test) => test.run(context).await,
            Self::Match(rules) => rules.run(context).await,
            Self::Setup { url } => setup(context, url).await,
            Self::Changes { id, part, times } => {
                context.list(&["company", "webhooks", &id, "changes"], times.query(), part.limit(), &CHANGES).await
            }
            Self::Secret { id } => context.show(Request::get(&["company", "webhooks", &id, "secret"])).await,
            Self::RotateSecret { id, secret, overlap } => {
                let mut body = Body::default();
                webhook_body::set_secret(&mut body, secret.as_ref())?;
                body.set_if("overlap", overlap.as_ref())?;
                let path = ["company", "webhooks", &id, "rotate-secret"];
                context.show(Request::post(&path).body(JSON, body.json()?)).await
            }
            Self::Enable { id, waiting } => {
                let mut body = Body::default();
                body.set("isEnabled", &true)?;
                body.set_if("waiting", waiting.as_ref())?;
                patch(context, &id, &body, None).await
            }
            Self::Disable { id } => {
                let mut body = Body::default();
                body.set("isEnabled", &false)?;
                patch(context, &id, &body, None).await
            }
        }
    }
}

async fn get(context: &Context, id: &str, only_etag: bool) -> Result<(), Failure> {
    let answer = context.send(Request::get(&["company", "webhooks", id])).await?;
    let etag = answer.etag.clone().unwrap_or_default();
    if only_etag {
        return context.output.line(&etag);
    }
    let has_colour = context.output.terminal.has_colour;
    context.output.one(&answer.json()?, |members| {
        format!("{}etag  {}", output::describe(members, has_colour), terminal::plain(&etag))
    })
}

async fn create(context: &Context, fields: &Fields, disabled: bool) -> Result<(), Failure> {
    let mut body = fields.body()?;
    body.set("isEnabled", &!disabled)?;
    let request = Request::post(&["company", "webhooks"]).body(JSON, body.json()?);
    context.output.one(&context.json(request).await?, |members| members.text("id"))
}

async fn patch(context: &Context, id: &str, body: &Body, if_match: Option<String>) -> Result<(), Failure> {
    let request = Request::new(Method::PATCH, &["company", "webhooks", id]);
    context.show(request.body(JSON, body.json()?).if_match(if_match)).await
}

/// An etag has quotes, which a shell takes away.
fn tag(given: &str) -> String {
    let is_whole = given == "*" || given.contains('"');
    if is_whole { given.to_owned() } else { format!("\"{given}\"") }
}

async fn delete(context: &Context, id: &str, yes: bool) -> Result<(), Failure> {
    if !yes {
        if !io::stdin().is_terminal() {
            return Err(Failure::usage("deleting asks first, and there is nobody to ask: --yes"));
        }
        let answer =
            terminal::ask(&format!("Delete {}, and end what waits for it? [y/N]", terminal::plain(id))).await?;
        if !matches!(answer.as_str(), "y" | "Y" | "yes") {
            return Err(Failure::failed("nothing was deleted"));
        }
    }
    context.send(Request::new(Method::DELETE, &["company", "webhooks", id])).await?;
    context.output.note(&format!("deleted {}", terminal::plain(id)));
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Matched {
    matches: bool,
    objections: Vec<Objection>,
    payload: Box<RawValue>,
}

#[derive(Debug, Deserialize)]
struct Objection {
    rule: String,
    detail: String,
}

impl Match {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut body = Body::default();
        body.set("eventType", &self.event_type)?;
        for (name, option, given) in [
            ("data", "--data", &self.data),
            ("previous", "--previous", &self.previous),
            ("filter", "--filter", &self.filter),
        ] {
            webhook_body::set_json(&mut body, name, option, given.as_ref())?;
        }
        for (name, list) in [("events", &self.events), ("fields", &self.fields), ("changed", &self.changed)] {
            body.set_if(name, Some(list).filter(|list| !list.is_empty()))?;
        }
        body.set_if("format", self.format.as_ref())?;
        let answer = context.send(Request::post(&["company", "webhooks", "match"]).body(JSON, body.json()?)).await?;
        let matched: Matched = answer.read()?;
        match context.output.is_human() {
            true => context.output.line(&terminal::plain_lines(matched.payload.get()))?,
            false => context.output.json(answer.json()?.get())?,
        }
        if matched.matches {
            return Ok(());
        }
        let why: Vec<_> = matched.objections.iter().map(|one| format!("{}: {}", one.rule, one.detail)).collect();
        Err(Failure::failed(format!("it would make no delivery\n{}", terminal::plain_lines(&why.join("\n")))))
    }
}

#[derive(Debug, Deserialize)]
struct Report {
    success: bool,
    setup: Option<Setup>,
}

/// How an owner lets us publish to a bus or a topic.
#[derive(Debug, Deserialize)]
struct Setup {
    instructions: String,
    commands: Vec<String>,
    policy: Option<Box<RawValue>>,
}

/// What can be pasted goes to stdout, so that it can be piped into a shell; of a bus without a command, the policy.
async fn setup(context: &Context, url: String) -> Result<(), Failure> {
    let answer = context.send(Request::get(&["company", "destinations", "setup"]).query(&[("url", url)])).await?;
    if !context.output.is_human() {
        return context.output.json(answer.json()?.get());
    }
    let Setup { instructions, commands, policy } = answer.read()?;
    context.output.note(&instructions);
    if commands.is_empty() {
        return policy.map_or(Ok(()), |policy| context.output.json(policy.get()));
    }
    commands.iter().try_for_each(|command| context.output.line(&terminal::plain(command)))
}

/// A test in a line: what was answered, and how soon.
fn tell(report: &Members) -> String {
    let (status, accepted, code) =
        (report.text("status"), report.text("response.messageId"), report.text("response.code"));
    let answered = match (status.as_str(), accepted.as_str(), code.as_str()) {
        ("", "", "") => "no answer".to_owned(),
        ("", "", code) => terminal::plain(code),
        ("", id, _) => format!("accepted as {}", terminal::plain(id)),
        (status, ..) => format!("status {status}"),
    };
    format!("{answered} in {} ms", report.text("durationMs"))
}

impl Test {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let mut body = Body::default();
        body.set_if("eventType", self.event.as_ref())?;
        let request = match &self.id {
            Some(id) => Request::post(&["company", "webhooks", id, "test"]).body(JSON, body.json()?),
            None => {
                body.set_if("url", self.url.as_ref())?;
                webhook_body::set_secret(&mut body, self.secret.as_ref())?;
                webhook_body::set_headers(&mut body, &self.headers)?;
                webhook_body::set_credentials(&mut body, self.credentials.as_deref())?;
                Request::post(&["company", "webhooks", "test"]).body(JSON, body.json()?)
            }
        };
        let answer = context.send(request).await?;
        context.output.one(&answer.json()?, tell)?;
        let Report { success, setup } = answer.read()?;
        if success {
            return Ok(());
        }
        let json = answer.json()?;
        let told = |member: &str| crate::json::of(&json).map(|members| members.text(member)).unwrap_or_default();
        let (why, advice) = (told("error.detail"), told("advice"));
        if !advice.is_empty() {
            context.output.note(&terminal::plain(&advice));
        }
        if let Some(Setup { instructions, commands, .. }) = setup {
            context.output.note(&format!("{instructions}\n\n{}\n", commands.join("\n")));
        }
        Err(Failure::failed(format!("the test failed: {}", terminal::plain(&why))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_told_by_what_its_kind_answers() {
        for (report, told) in [
            (r#"{"status":200,"durationMs":7,"response":{"status":200,"body":""}}"#, "status 200 in 7 ms"),
            (r#"{"status":null,"durationMs":7,"response":null}"#, "no answer in 7 ms"),
            (
                r#"{"status":null,"durationMs":7,"response":{"messageId":"11710aed","body":""}}"#,
                "accepted as 11710aed in 7 ms",
            ),
            (r#"{"status":null,"durationMs":7,"response":{"code":"NOT_FOUND","body":""}}"#, "NOT_FOUND in 7 ms"),
        ] {
            assert_eq!(tell(&serde_json::from_str(report).unwrap()), told);
        }
    }

    #[test]
    fn an_etag_is_taken_with_or_without_its_quotes() {
        for (given, sent) in [("7", "\"7\""), ("\"7\"", "\"7\""), ("*", "*"), ("W/\"7\"", "W/\"7\"")] {
            assert_eq!(tag(given), sent);
        }
    }
}
