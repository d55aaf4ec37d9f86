//! Parts of a page that keep themselves up to date while somebody looks at it.
//!
//! A part asks for itself again, by htmx, and takes the place of what was there. Nothing jumps under the eyes of a reader: a list says
//! that there is more, and shows it when asked; only what was asked to be live moves.

use axum::http::{HeaderMap, Uri};
use maud::{Markup, html};

use crate::visitor::path_of_ours;

/// How often, as htmx has it: what somebody waits for, and what may change some day.
const OFTEN: &str = "every 3s";
const SELDOM: &str = "every 10s";

/// A part that is fetched again from `path`, a page that has a part of this id.
pub(crate) fn part(id: &str, path: &str, is_live: bool, content: &Markup) -> Markup {
    part_every(OFTEN, id, path, is_live, content)
}

/// The same, of what changes seldom.
pub(crate) fn calm_part(id: &str, path: &str, is_live: bool, content: &Markup) -> Markup {
    part_every(SELDOM, id, path, is_live, content)
}

fn part_every(every: &str, id: &str, path: &str, is_live: bool, content: &Markup) -> Markup {
    html! {
        @if is_live {
            div id=(id) hx-get=(path) hx-select={ "#" (id) } hx-swap="outerHTML" hx-trigger=(every) { (content) }
        } @else {
            div id=(id) { (content) }
        }
    }
}

/// What there is to tell meanwhile, in place of nothing: `path` answers with it.
pub(crate) fn news(path: &str) -> Markup {
    html! { div role="status" hx-get=(path) hx-trigger=(OFTEN) {} }
}

/// The page from which a part of it was asked for; `None` if a whole page is.
pub(crate) fn page_of(headers: &HeaderMap) -> Option<String> {
    headers.get("hx-request")?;
    let uri: Option<Uri> = headers.get("hx-current-url").and_then(|url| url.to_str().ok()?.parse().ok());
    let path = uri.as_ref().and_then(Uri::path_and_query).map_or("/", |path| path.as_str());
    Some(path_of_ours(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_knows_its_page_and_no_other_host() {
        let of = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            page_of(&pairs.collect::<HeaderMap>())
        };
        assert_eq!(of(&[("hx-current-url", "http://a/deliveries")]), None);
        let asked = ("hx-request", "true");
        assert_eq!(of(&[asked, ("hx-current-url", "http://a/deliveries?live=1")]).unwrap(), "/deliveries?live=1");
        assert_eq!(of(&[asked, ("hx-current-url", "http://a//evil.example")]).unwrap(), "/");
        assert_eq!(of(&[asked]).unwrap(), "/");
    }
}
