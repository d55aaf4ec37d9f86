//! `shopery webhooks`.

use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};
use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;

use crate::client::{JSON, Request};
use crate::context::Context;
use crate::failure::Failure;
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
        /// Take a rule, or all headers, away
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
    /// Send a test message now: to a webhook, or to a --url; exit code 1 if the endpoint does not answer 200
    Test(Test),
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
#[group(id = "tested", required = true, multiple = false, args = ["id", "url"])]
pub struct Test {
    id: Option<String>,
    /// A URL that is not saved
    #[arg(long)]
    url: Option<String>,
    /// For --url: the secret to sign with, @FILE, or - for stdin
    #[arg(long, value_name = "SECRET", conflicts_with = "id")]
    secret: Option<SecretString>,
    /// For --url: a header to send, 'Name: value'
    #[arg(long = "header", value_name = "HEADER", conflicts_with = "id")]
    headers: Vec<SecretString>,
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
struct Report {
    success: bool,
}

impl Test {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let request = match &self.id {
            Some(id) => Request::post(&["company", "webhooks", id, "test"]),
            None => {
                let mut body = Body::default();
                body.set_if("url", self.url.as_ref())?;
                webhook_body::set_secret(&mut body, self.secret.as_ref())?;
                webhook_body::set_headers(&mut body, &self.headers)?;
                Request::post(&["company", "webhooks", "test"]).body(JSON, body.json()?)
            }
        };
        let answer = context.send(request).await?;
        context.output.one(&answer.json()?, |members| {
            let status = members.text("status");
            let status = if status.is_empty() { "no answer".to_owned() } else { format!("status {status}") };
            format!("{status} in {} ms", members.text("durationMs"))
        })?;
        if answer.read::<Report>()?.success {
            return Ok(());
        }
        let json = answer.json()?;
        let why = crate::json::of(&json).map(|members| members.text("error.detail")).unwrap_or_default();
        Err(Failure::failed(format!("the test failed: {}", terminal::plain(&why))))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_etag_is_taken_with_or_without_its_quotes() {
        for (given, sent) in [("7", "\"7\""), ("\"7\"", "\"7\""), ("*", "*"), ("W/\"7\"", "W/\"7\"")] {
            assert_eq!(super::tag(given), sent);
        }
    }
}
