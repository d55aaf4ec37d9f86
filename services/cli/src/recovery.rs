//! `shopery recover` and `shopery recoveries`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::{JSON, Request};
use crate::context::Context;
use crate::failure::Failure;
use crate::list::{Part, Times};
use crate::moment;
use crate::progress::Progress;
use crate::table::{Column, fixed, gives};
use crate::terminal::plain;
use crate::webhook_body::Body;

const LOOK: Duration = Duration::from_millis(500);

const COLUMNS: [Column; 8] = [
    fixed("ID", "id"),
    fixed("STATE", "state"),
    gives("SINCE", "since"),
    gives("UNTIL", "until"),
    fixed("TOTAL", "total"),
    fixed("RESENT", "resent"),
    fixed("SKIPPED", "skipped"),
    fixed("UNAVAILABLE", "unavailable"),
];

/// Sends again what has ended as failed or expired, and shows how it gets on. What was discarded is sent if --status names it.
#[derive(Debug, Args)]
pub struct Recover {
    /// The webhook
    id: String,

    /// Of events since then
    #[arg(long, value_name = "TIME", value_parser = moment::argument, required_unless_present = "since_delivery")]
    since: Option<String>,

    /// From this delivery of the webhook on
    #[arg(long, value_name = "ID", conflicts_with = "since")]
    since_delivery: Option<String>,

    /// Of events until then [now]
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    until: Option<String>,

    /// What has ended so [failed,expired]; may be repeated or have commas
    #[arg(long = "status", value_name = "STATE", value_delimiter = ',')]
    statuses: Vec<String>,

    /// latest: one message for each resource, its most recent state; original: every delivery as it was [latest]
    #[arg(long, value_name = "latest|original")]
    mode: Option<String>,

    /// Do not wait for its end
    #[arg(long)]
    no_wait: bool,

    /// Say what it would be about, and send nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the recoveries of a webhook, newest first
    #[command(alias = "ls")]
    List {
        /// The webhook
        webhook: String,
        #[command(flatten)]
        part: Part,
        #[command(flatten)]
        times: Times,
    },
    /// Show a recovery
    Get {
        id: String,
        /// Show how it gets on, until its end
        #[arg(long, short)]
        follow: bool,
    },
    /// Cancel a recovery; what was handed over by then is still sent
    Cancel { id: String },
}

#[derive(Debug, Deserialize)]
struct Recovery {
    id: String,
    state: String,
    total: Option<u64>,
    resent: u64,
    skipped: u64,
    unavailable: u64,
    error: Option<String>,
}

impl Recover {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut body = Body::default();
        body.set_if("since", self.since.as_ref())?;
        body.set_if("sinceDelivery", self.since_delivery.as_ref())?;
        body.set_if("dryRun", Some(&true).filter(|_| self.dry_run))?;
        body.set_if("until", self.until.as_ref())?;
        body.set_if("statuses", Some(&self.statuses).filter(|statuses| !statuses.is_empty()))?;
        body.set_if("mode", self.mode.as_ref())?;
        let request = Request::post(&["company", "webhooks", &self.id, "recover"]).body(JSON, body.json()?);
        let answer = context.send(request).await?;
        if self.no_wait || self.dry_run {
            return context.output.detail(&answer.json()?);
        }
        follow(context, &answer.read::<Recovery>()?.id).await
    }
}

impl Command {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List { webhook, part, times } => {
                let path = ["company", "webhooks", &webhook, "recoveries"];
                context.list(&path, times.query(), part.limit(), &COLUMNS).await
            }
            Self::Get { id, follow: true } => follow(context, &id).await,
            Self::Get { id, .. } => context.show(Request::get(&["company", "recoveries", &id])).await,
            Self::Cancel { id } => context.show(Request::post(&["company", "recoveries", &id, "cancel"])).await,
        }
    }
}

/// Shows how it gets on, then what came of it. It goes on whether somebody looks or not.
async fn follow(context: &Context, id: &str) -> Result<(), Failure> {
    let go_on = format!(
        "the recovery goes on; to follow it: shopery recoveries get {id} --follow; to end it: shopery recoveries cancel {id}",
        id = plain(id)
    );
    let ended = tokio::select! {
        ended = until_end(context, id) => ended,
        _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted(go_on)),
    };
    let (json, recovery) = ended.map_err(|failure| match failure {
        Failure::Unavailable(why) => Failure::Unavailable(format!("{why}\n{go_on}")),
        other => other,
    })?;
    context.output.detail(&json)?;
    match recovery {
        Recovery { state, .. } if state == "completed" => Ok(()),
        Recovery { error: Some(why), .. } => Err(Failure::failed(format!("the recovery has failed: {}", plain(&why)))),
        Recovery { state, .. } => Err(Failure::failed(format!("the recovery is {}", plain(&state)))),
    }
}

async fn until_end(context: &Context, id: &str) -> Result<(Box<RawValue>, Recovery), Failure> {
    let mut progress = Progress::new();
    loop {
        let answer = context.send(Request::get(&["company", "recoveries", id])).await?;
        let recovery: Recovery = answer.read()?;
        let Recovery { resent, skipped, unavailable, .. } = recovery;
        let told = format!("{resent} resent, {skipped} carried by another, {unavailable} no longer held");
        progress.update(resent + skipped + unavailable, recovery.total, &told);
        if recovery.state != "running" {
            return Ok((answer.json()?, recovery));
        }
        tokio::time::sleep(LOOK).await;
    }
}
