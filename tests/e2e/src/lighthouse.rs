//! What Lighthouse, npm's, says of pages: one of its scores for each category, and the audits that cost something.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::{Browser, parts, wait};

/// For all pages of a call; one takes about three seconds.
const DEADLINE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    Desk,
    /// 412 px wide, with touch.
    Phone,
}

/// A page, by a name of the test's, and where it is.
#[derive(Debug, Clone)]
pub struct Asked {
    pub name: String,
    pub url: String,
    pub screen: Screen,
}

/// What one category of Lighthouse's holds against a page.
#[derive(Debug, Clone)]
pub struct Report {
    pub page: String,
    /// `accessibility` or `best-practices`.
    pub category: String,
    /// 0 to 1; 0 of a page that does not load, or leads elsewhere.
    pub score: f64,
    /// Audits without their full score, and where, or why the page was not looked at.
    pub failed: Vec<String>,
}

impl Report {
    fn read(report: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            page: text(&report["page"]),
            category: text(&report["category"]),
            score: report["score"].as_f64().unwrap(),
            failed: report["failed"].as_array().unwrap().iter().map(text).collect(),
        }
    }
}

/// Looks at the pages one after the other, in tabs of a browser, as whom it has signed in: two reports of each.
pub async fn audit(browser: &Browser, pages: &[Asked]) -> Vec<Report> {
    let page =
        |asked: &Asked| json!({ "name": asked.name, "url": asked.url, "isPhone": asked.screen == Screen::Phone });
    let pages: Vec<_> = pages.iter().map(page).collect();
    let settings = json!({ "port": browser.devtools_port(), "pages": pages });
    let mut node = Command::new("node");
    node.args(["--input-type=module", "-e", include_str!("lighthouse.mjs")]).current_dir(parts::lighthouse());
    node.env("SETTINGS", settings.to_string()).stdin(Stdio::null()).kill_on_drop(true);
    let done = wait::within("Lighthouse", DEADLINE, node.output()).await;
    let done = done.unwrap_or_else(|error| panic!("node IS MISSING: run tests/run: {error}"));
    assert!(done.status.success(), "Lighthouse failed: {done:?}");
    let reports: Vec<Value> = serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
    assert_eq!(reports.len(), 2 * pages.len(), "{reports:?}");
    reports.iter().map(Report::read).collect()
}
