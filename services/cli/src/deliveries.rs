//! `shopery deliveries`.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::attempt;
use crate::client::{JSON, Request};
use crate::context::Context;
use crate::failure::Failure;
use crate::json;
use crate::list::{Part, Query, Times};
use crate::output;
use crate::table::{Column, Table, fixed, gives};
use crate::tail::Tail;
use crate::terminal::{Terminal, plain};
use crate::webhook_body::Body;

const COLUMNS: [Column; 8] = [
    fixed("ID", "id"),
    fixed("STATE", "state"),
    gives("EVENT", "event"),
    gives("RESOURCE", "resource"),
    fixed("ATTEMPTS", "attemptCount"),
    gives("UPDATED", "updatedAt"),
    gives("STATUS", "responseStatus"),
    gives("ERROR", "error.reason"),
];

const ATTEMPTS: [Column; 5] = [
    fixed("ATTEMPT", "number"),
    fixed("STARTED", "startedAt"),
    fixed("MS", "durationMs"),
    fixed("STATUS", "response.status"),
    gives("ERROR", "error.detail"),
];

/// The same where some went to a bus or a topic.
const ATTEMPTS_AT_CLOUDS: [Column; 7] = [
    fixed("ATTEMPT", "number"),
    fixed("STARTED", "startedAt"),
    fixed("MS", "durationMs"),
    fixed("STATUS", "response.status"),
    fixed("CODE", "response.code"),
    fixed("MESSAGE", "response.messageId"),
    gives("ERROR", "error.detail"),
];

/// Which deliveries.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Of this webhook alone
    #[arg(long, value_name = "ID")]
    webhook: Option<String>,

    /// In one of these states: pending, delivered, failed, filtered, duplicate, superseded, parked, expired or discarded; may be
    /// repeated or have commas
    #[arg(long = "status", value_name = "STATE", value_delimiter = ',')]
    statuses: Vec<String>,

    /// Of this event type
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,

    /// About this resource, such as order/ord_123
    #[arg(long, value_name = "RESOURCE")]
    resource: Option<String>,

    /// Whose last attempt failed for this reason, such as timeout
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,

    /// Whose last attempt was answered with this status, such as 503
    #[arg(long, value_name = "STATUS")]
    response_status: Option<u16>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List deliveries, the newest first
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        part: Part,
        #[command(flatten)]
        times: Times,
        /// The oldest first
        #[arg(long)]
        oldest_first: bool,
    },
    /// Show a delivery with its attempts
    Get { id: String },
    /// Show what an attempt has sent, and what was answered: headers and bodies
    Attempt {
        /// The delivery
        id: String,
        /// Its number; the last one if it is not given
        number: Option<u64>,
    },
    /// Send deliveries again, at most 100; exit code 1 if one of them cannot be
    Resend {
        #[arg(required = true, num_args = 1..=100, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Watch deliveries as they happen, until Ctrl-C
    Tail(Tail),
}

impl Which {
    pub fn path(&self) -> Vec<&str> {
        match &self.webhook {
            Some(id) => vec!["company", "webhooks", id, "deliveries"],
            None => vec!["company", "deliveries"],
        }
    }

    pub fn query(&self) -> Query {
        let given = [
            ("status", (!self.statuses.is_empty()).then(|| self.statuses.join(","))),
            ("event", self.event.clone()),
            ("resource", self.resource.clone()),
            ("reason", self.reason.clone()),
            ("response_status", self.response_status.map(|status| status.to_string())),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

impl Command {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List { which, part, times, oldest_first } => {
                let mut query = [which.query(), times.query()].concat();
                query.extend(oldest_first.then(|| ("order", "oldest".to_owned())));
                context.list(&which.path(), query, part.limit(), &COLUMNS).await
            }
            Self::Get { id } => {
                let found = context.json(Request::get(&["company", "deliveries", &id])).await?;
                context.output.one(&found, |members| tell(members, context.output.terminal))
            }
            Self::Attempt { id, number } => attempt::show(context, &id, number).await,
            Self::Resend { ids } => resend(context, &ids).await,
            Self::Tail(tail) => tail.run(context).await,
        }
    }
}

#[derive(Deserialize)]
struct Resent {
    data: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    id: String,
    problem: Option<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    detail: String,
}

async fn resend(context: &Context, ids: &[String]) -> Result<(), Failure> {
    if let [id] = ids {
        let asked = context.json(Request::post(&["company", "deliveries", id, "resend"])).await?;
        return context.output.one(&asked, |members| members.text("id"));
    }
    let mut body = Body::default();
    body.set("ids", ids)?;
    let answer = context.send(Request::post(&["company", "deliveries", "resend"]).body(JSON, body.json()?)).await?;
    if !context.output.is_human() {
        context.output.json(answer.json()?.get())?;
    }
    let Resent { data } = answer.read()?;
    let mut refused = 0;
    for One { id, problem } in data {
        match problem {
            None if context.output.is_human() => context.output.line(&plain(&id))?,
            None => {}
            Some(Problem { detail }) => {
                refused += 1;
                context.output.note(&format!("{}: {}", plain(&id), plain(&detail)));
            }
        }
    }
    match refused {
        0 => Ok(()),
        refused => Err(Failure::failed(format!("{refused} of {} cannot be sent again now", ids.len()))),
    }
}

/// The delivery, and a table of its attempts in place of their JSON.
fn tell(delivery: &json::Members, terminal: Terminal) -> String {
    let is_attempts = |name: &str| name == "attempts";
    let rest = delivery.0.iter().filter(|(name, _)| !is_attempts(name));
    let rest = json::Members(rest.map(|(name, value)| (name.clone(), value.clone())).collect());
    let attempts = delivery.0.iter().find(|(name, _)| is_attempts(name));
    let attempts = attempts.and_then(|(_, list)| serde_json::from_str::<Vec<Box<RawValue>>>(list.get()).ok());
    let attempts: Vec<_> = attempts.unwrap_or_default().iter().filter_map(|attempt| json::of(attempt)).collect();
    let mut told = output::describe(&rest, terminal.has_colour);
    if !attempts.is_empty() {
        let has = |path: &str| attempts.iter().any(|attempt| !attempt.text(path).is_empty());
        let is_of_cloud = has("response.code") || has("response.messageId");
        let columns: &[Column] = if is_of_cloud { &ATTEMPTS_AT_CLOUDS } else { &ATTEMPTS };
        told += "\n";
        told += &Table::new(columns).lines(&attempts, terminal).join("\n");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_told_with_its_attempts() {
        let delivery = serde_json::from_str(
            r#"{"id":"dlv_1","state":"failed","error":{"reason":"http_status","detail":"it answered 500"},
            "attempts":[{"number":1,"startedAt":"2026-11-24T10:00:00Z","durationMs":7,"response":{"status":500,"body":"x"},
            "error":{"reason":"http_status","detail":"it answered 500"}}]}"#,
        );
        let terminal = Terminal { is_terminal: false, has_colour: false, width: None };
        let told = tell(&delivery.unwrap(), terminal);
        assert!(told.starts_with("id     dlv_1\nstate  failed\n"), "{told}");
        assert!(told.ends_with("1        2026-11-24T10:00:00Z  7   500     it answered 500"), "{told}");
        let delivery = serde_json::from_str(
            r#"{"id":"dlv_1","attempts":[{"number":1,"startedAt":"2026-11-24T10:00:00Z","durationMs":7,"response":
            {"code":"ThrottlingException","body":""},"error":{"reason":"throttled","detail":"too much"}},
            {"number":2,"startedAt":"2026-11-24T10:00:05Z","durationMs":7,"response":{"messageId":"11710aed","body":""}}]}"#,
        );
        let told = tell(&delivery.unwrap(), terminal);
        for part in
            ["STATUS  CODE                 MESSAGE   ERROR", "ThrottlingException            too much", "11710aed"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}
