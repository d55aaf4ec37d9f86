//! `shopery events`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::value::RawValue;

use crate::client::Request;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Members;
use crate::list::{PAGE, Page, Part, Times};
use crate::moment;
use crate::publish::Publish;
use crate::table::{Column, Table, fixed, gives};
use crate::terminal::{self, Terminal};

const EVENTS: [Column; 4] =
    [fixed("TIME", "time"), fixed("TYPE", "type"), gives("SUBJECT", "subject"), gives("ID", "id")];
const TYPES: [Column; 3] = [fixed("TYPE", "type"), fixed("RESOURCE", "resource"), gives("DESCRIPTION", "description")];
const WEBHOOKS: [Column; 4] = [
    fixed("WEBHOOK", "webhookId"),
    gives("NAME", "name"),
    fixed("DELIVERY", "delivery.id"),
    gives("OUTCOME", "outcome"),
];
const PATH: [&str; 2] = ["company", "events"];
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish an event, or a file of them
    Publish(Publish),
    /// Pull events, the oldest first
    #[command(alias = "ls")]
    List(List),
    /// Show an event, and what became of it at each webhook
    Get {
        id: String,
        /// The resource that it is about, such as order/ord_123: with it the event is found at once
        #[arg(long, value_name = "RESOURCE")]
        resource: Option<String>,
        /// Its publisher, where two have given the same id
        #[arg(long, value_name = "SOURCE")]
        source: Option<String>,
        /// Without --resource: look through what came since then [1h]
        #[arg(long, value_name = "TIME", value_parser = moment::argument)]
        since: Option<String>,
    },
    /// List what a webhook may subscribe to
    Types,
}

#[derive(Debug, Args)]
pub struct List {
    /// Of this event type
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,
    #[command(flatten)]
    part: Part,
    #[command(flatten)]
    times: Times,
    /// The newest first
    #[arg(long)]
    newest_first: bool,
    /// Go on with what comes, until Ctrl-C; without --since from now on
    #[arg(long, short, conflicts_with_all = ["limit", "all", "until", "newest_first"])]
    follow: bool,
}

impl Command {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Publish(publish) => publish.run(context).await,
            Self::List(list) if list.follow => {
                tokio::select! {
                    ended = list.follow(context) => ended,
                    _ = tokio::signal::ctrl_c() => Ok(()),
                }
            }
            Self::List(list) => list.run(context).await,
            Self::Get { id, resource, source, since } => {
                let given = [("resource", resource), ("source", source), ("created_at_min", since)];
                let query: crate::list::Query =
                    given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
                let found = context.json(Request::get(&["company", "events", &id]).query(&query)).await?;
                context.output.one(&found, |report| tell(report, context.output.terminal))
            }
            Self::Types => context.whole(&["company", "event-types"], &vec![], &TYPES).await,
        }
    }
}

impl List {
    fn query(&self) -> crate::list::Query {
        let mut query = self.times.query();
        query.extend(self.event.clone().map(|event| ("event", event)));
        query.extend(self.newest_first.then(|| ("order", "newest".to_owned())));
        query
    }

    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let (mut listing, mut left, mut cursor) = (context.output.list(&EVENTS), self.part.limit(), None::<String>);
        loop {
            let mut page = context.page(&PATH, &self.query(), left, cursor.as_deref()).await?;
            warn_of_gap(context, &page);
            page.data.truncate(left);
            left -= page.data.len();
            listing.page(&page.data)?;
            cursor = page.next_cursor;
            if left == 0 || cursor.is_none() {
                break;
            }
        }
        listing.end("there are none")?;
        if cursor.is_some() && context.output.is_human() {
            context.output.note("there are more: --limit N, or --all");
        }
        Ok(())
    }

    /// Goes on from the position of the page before, so nothing is missed and nothing comes twice.
    async fn follow(&self, context: &Context) -> Result<(), Failure> {
        let (mut query, mut position, mut is_told) = (self.query(), None::<String>, false);
        let mut table = Table::new(&EVENTS);
        if self.times.since.is_none() {
            let now = context.page(&["company", "deliveries"], &vec![], 1, None).await?.date;
            query.extend(moment::show(now).map(|now| ("created_at_min", now)));
        }
        loop {
            let page = context.page(&PATH, &query, PAGE, position.as_deref()).await?;
            warn_of_gap(context, &page);
            if context.output.is_human() {
                let rows: Vec<_> = page.data.iter().filter_map(|event| crate::json::of(event)).collect();
                if !rows.is_empty() {
                    context.output.line(&table.lines(&rows, context.output.terminal).join("\n"))?;
                }
            } else {
                // There is no end, so JSON is one object a line.
                page.data.iter().try_for_each(|event| context.output.json(event.get()))?;
            }
            if !std::mem::replace(&mut is_told, true) {
                context.output.note("watching; Ctrl-C ends it");
            }
            position = page.position.or(position);
            if page.next_cursor.is_none() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// The event's JSON, and a table of the webhooks.
fn tell(report: &Members, terminal: Terminal) -> String {
    let find = |wanted: &str| report.0.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
    let webhooks = find("webhooks").and_then(|list| serde_json::from_str::<Vec<Box<RawValue>>>(list.get()).ok());
    let webhooks: Vec<_> = webhooks.unwrap_or_default().iter().filter_map(|webhook| crate::json::of(webhook)).collect();
    let event = find("event").map_or_else(String::new, |event| terminal::plain_lines(event.get()));
    format!("{event}\n\n{}", Table::new(&WEBHOOKS).lines(&webhooks, terminal).join("\n"))
}

fn warn_of_gap(context: &Context, page: &Page) {
    if page.gap {
        context.output.note("note: events are missing before this: they are no longer held");
    }
}
