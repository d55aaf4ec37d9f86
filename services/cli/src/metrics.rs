//! `shopery metrics`.

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::Request;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::{self, Members};
use crate::list::Query;
use crate::moment;
use crate::output;
use crate::table::{Column, Table, fixed, gives};
use crate::terminal::Terminal;

const WINDOWS: [Column; 7] = [
    fixed("FROM", "from"),
    fixed("ATTEMPTS", "attempts"),
    fixed("DELIVERED", "deliveries.delivered"),
    fixed("FAILED", "deliveries.failed"),
    fixed("P50 MS", "latency.p50"),
    fixed("P99 MS", "latency.p99"),
    gives("FAILED ATTEMPTS", "failedAttempts"),
];

const EACH: [Column; 7] = [
    fixed("WEBHOOK", "webhookId"),
    fixed("ATTEMPTS", "total.attempts"),
    fixed("DELIVERED", "total.deliveries.delivered"),
    fixed("FAILED", "total.deliveries.failed"),
    fixed("P95 MS", "total.latency.p95"),
    fixed("CIRCUIT", "now.circuit"),
    gives("OLDEST WAITING", "now.oldestWaitingAt"),
];

/// Without a webhook: of all of the tenant's.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Of this webhook alone
    #[arg(value_name = "WEBHOOK")]
    id: Option<String>,
    /// Of every webhook, a line each
    #[arg(long, conflicts_with = "id")]
    each: bool,
    /// From when on [24h]
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    since: Option<String>,
    /// Until when [now]
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    until: Option<String>,
    /// How long a window is, in whole minutes [1h]
    #[arg(long, value_name = "TIME")]
    step: Option<String>,
}

#[derive(Deserialize)]
struct Parts {
    total: Members,
    data: Vec<Box<RawValue>>,
    now: Members,
}

impl Metrics {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let given = [("created_at_min", self.since), ("created_at_max", self.until), ("step", self.step)];
        let query: Query = given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if self.each {
            return context.whole(&["company", "webhooks", "metrics"], &query, &EACH).await;
        }
        let path = match &self.id {
            Some(id) => vec!["company", "webhooks", id, "metrics"],
            None => vec!["company", "metrics"],
        };
        let answer = context.send(Request::get(&path).query(&query)).await?;
        if !context.output.is_human() {
            return context.output.json(answer.json()?.get());
        }
        context.output.line(tell(&answer.read()?, context.output.terminal).trim_end())
    }
}

/// The totals, what is now, and the windows in which something happened.
fn tell(parts: &Parts, terminal: Terminal) -> String {
    let windows: Vec<Members> = parts.data.iter().filter_map(|window| json::of(window)).collect();
    let busy: Vec<Members> = windows.into_iter().filter(|window| window.text("attempts") != "0").collect();
    let mut told = output::describe(&parts.total, terminal.has_colour);
    told += &output::describe(&parts.now, terminal.has_colour);
    if !busy.is_empty() {
        told += "\n";
        told += &Table::new(&WINDOWS).lines(&busy, terminal).join("\n");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_windows_are_left_out() {
        let parts = serde_json::from_str(
            r#"{"total":{"attempts":3,"failedAttempts":{},"deliveries":{"delivered":3},"latency":{"p50":2.8}},
            "data":[{"from":"2026-11-24T10:00:00Z","to":"2026-11-24T11:00:00Z","attempts":0,"deliveries":{}},
            {"from":"2026-11-24T11:00:00Z","to":"2026-11-24T12:00:00Z","attempts":3,"deliveries":{"delivered":3},
            "failedAttempts":{},"latency":{"p50":2.8,"p99":3.4}}],"now":{"oldestWaitingAt":null,"circuit":"closed"}}"#,
        );
        let told = tell(&parts.unwrap(), Terminal { is_terminal: false, has_colour: false, width: None });
        assert!(told.starts_with("attempts        3\n") && told.contains("circuit  closed\n"), "{told}");
        assert!(told.ends_with("2026-11-24T11:00:00Z  3         3                  2.8     3.4     {}"), "{told}");
        assert!(!told.contains("10:00:00"), "{told}");
    }
}
