//! `shopery digest`.

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::list::Query;
use crate::moment;
use crate::table::{Column, fixed, gives};

const COLUMNS: [Column; 6] = [
    fixed("FROM", "from"),
    fixed("TO", "to"),
    fixed("DELIVERED", "delivered"),
    fixed("OPEN", "open"),
    gives("DIGEST", "digest"),
    gives("OTHER", "other"),
];

#[derive(Debug, Args)]
pub struct Digest {
    /// The webhook
    id: String,
    /// From when on
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    since: String,
    /// Until when [now]
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    until: Option<String>,
    /// How long a window is [1h]
    #[arg(long, value_name = "TIME")]
    step: Option<String>,
}

impl Digest {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut query: Query = vec![("created_at_min", self.since)];
        query.extend(self.until.map(|until| ("created_at_max", until)));
        query.extend(self.step.map(|step| ("step", step)));
        context.whole(&["company", "webhooks", &self.id, "digest"], &query, &COLUMNS).await
    }
}
