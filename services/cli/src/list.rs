//! Lists: their options, and following their cursors.

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::client::Request;
use crate::context::Context;
use crate::failure::Failure;
use crate::moment;
use crate::table::Column;

/// The API gives no more at a time.
pub const PAGE: usize = 200;

#[derive(Debug, Args)]
pub struct Part {
    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Show all, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

impl Part {
    pub fn limit(&self) -> usize {
        if self.all { usize::MAX } else { self.limit as usize }
    }
}

/// Times are RFC 3339, a day, or so long ago: 2026-11-24T10:00:00Z, 2026-11-24, 2h.
#[derive(Debug, Default, Args)]
pub struct Times {
    /// Created at this time or later (created_at_min)
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    pub since: Option<String>,

    /// Created at this time or earlier (created_at_max)
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    pub until: Option<String>,

    /// Last changed at this time or later (updated_at_min)
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    updated_since: Option<String>,

    /// Last changed at this time or earlier (updated_at_max)
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    updated_until: Option<String>,
}

pub type Query = Vec<(&'static str, String)>;

impl Times {
    pub fn query(&self) -> Query {
        let times = [
            ("created_at_min", &self.since),
            ("created_at_max", &self.until),
            ("updated_at_min", &self.updated_since),
            ("updated_at_max", &self.updated_until),
        ];
        times.into_iter().filter_map(|(name, time)| Some((name, time.clone()?))).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    pub data: Vec<Box<RawValue>>,
    #[serde(default)]
    pub next_cursor: Option<String>,
    /// Of events alone: where to go on later.
    #[serde(default)]
    pub position: Option<String>,
    #[serde(default)]
    pub gap: bool,
    /// The time of the API.
    #[serde(skip, default = "OffsetDateTime::now_utc")]
    pub date: OffsetDateTime,
}

impl Context {
    pub async fn page(
        &self,
        path: &[&str],
        query: &Query,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page, Failure> {
        let mut query = query.clone();
        query.push(("limit", limit.clamp(1, PAGE).to_string()));
        query.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        let answer = self.send(Request::get(path).query(&query)).await?;
        let page: Page = answer.read()?;
        Ok(Page { date: answer.date.unwrap_or(page.date), ..page })
    }

    /// The whole of a read-only command that shows a list.
    pub async fn list(&self, path: &[&str], query: Query, limit: usize, columns: &[Column]) -> Result<(), Failure> {
        let mut listing = self.output.list(columns);
        let (mut left, mut cursor) = (limit, None::<String>);
        loop {
            let mut page = self.page(path, &query, left, cursor.as_deref()).await?;
            page.data.truncate(left);
            left -= page.data.len();
            listing.page(&page.data)?;
            cursor = page.next_cursor;
            if left == 0 || cursor.is_none() {
                break;
            }
        }
        listing.end("there are none")?;
        if cursor.is_some() && self.output.is_human() {
            self.output.note("there are more: --limit N, or --all");
        }
        Ok(())
    }

    /// The whole of a command that shows a list which comes at once, without pages.
    pub async fn whole(&self, path: &[&str], query: &Query, columns: &[Column]) -> Result<(), Failure> {
        let page: Page = self.send(Request::get(path).query(query)).await?.read()?;
        let mut listing = self.output.list(columns);
        listing.page(&page.data)?;
        listing.end("there are none")
    }
}
