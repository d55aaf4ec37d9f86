//! Parts of a page that keep themselves up to date while somebody looks at it.
//!
//! A part asks for itself again, by htmx, and takes the place of what was there. Nothing jumps under the eyes of a reader: a list says
//! that there is more, and shows it when asked; only what was asked to be live moves.
//!
//! A reader keeps the focus and the selection. A part says what it shows already; if it still does, the answer is 204, and htmx leaves
//! the page alone. If it has changed, htmx gives the focus back to the element that has the id of the one before.
//! Invariant: whatever in a part can have the focus has an id that stays, and nothing in a part is folded.

use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use crate::assets::fingerprint;
use crate::visitor::{Visitor, path_of_ours};

/// How often, as htmx has it: what somebody waits for, and what may change some day.
const OFTEN: &str = "every 3s";
const SELDOM: &str = "every 10s";
/// The header by which a part says what it shows already.
const SHOWN: &str = "shopery-shown";

/// A part that is fetched again from `path`, a page that has a part of this id. If a screen reader is to tell what changes, the
/// element with `role="status"` is around it, not in it: only what was there before is listened to.
pub(crate) fn part(id: &str, path: &str, is_live: bool, content: &Markup) -> Markup {
    part_every(OFTEN, id, path, is_live, content)
}

/// The same, of what changes seldom.
pub(crate) fn calm_part(id: &str, path: &str, is_live: bool, content: &Markup) -> Markup {
    part_every(SELDOM, id, path, is_live, content)
}

fn part_every(every: &str, id: &str, path: &str, is_live: bool, content: &Markup) -> Markup {
    let headers = format!("{{\"{SHOWN}\":\"{}\"}}", fingerprint(&content.0));
    html! {
        @if is_live {
            div id=(id) hx-get=(path) hx-select={ "#" (id) } hx-swap="outerHTML" hx-trigger=(every) hx-headers=(headers) {
                (content)
            }
        } @else {
            div id=(id) { (content) }
        }
    }
}

/// The answer to a part that shows this content already.
pub(crate) fn unchanged(visitor: &Visitor, content: &Markup) -> Option<Response> {
    let shown = visitor.shown.as_deref()?;
    (shown == fingerprint(&content.0)).then(|| StatusCode::NO_CONTENT.into_response())
}

/// What the part shows that is asked for again.
pub(crate) fn shown(headers: &HeaderMap) -> Option<String> {
    headers.get(SHOWN)?.to_str().ok().map(str::to_owned)
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
    fn a_part_says_what_it_shows() {
        let of = |content: &str| part("list", "/deliveries?live=1", true, &html! { p { (content) } }).into_string();
        let (one, other) = (of("one"), of("other"));
        let headers = |part: &str| part.split_once("hx-headers=\"").unwrap().1.split_once("\">").unwrap().0.to_owned();
        assert_eq!(headers(&one), format!("{{&quot;shopery-shown&quot;:&quot;{}&quot;}}", fingerprint("<p>one</p>")));
        assert_ne!(headers(&one), headers(&other));
        assert_eq!(headers(&one), headers(&of("one")));
        let still = part("list", "/", false, &html! {}).into_string();
        assert_eq!(still, "<div id=\"list\"></div>");
    }

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
