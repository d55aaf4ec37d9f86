//! A form that was sent: of this session, or it is refused.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use secrecy::ExposeSecret;
use shopery_http::read_body;
use time::OffsetDateTime;
use url::form_urlencoded::parse;
use url::{Position, Url};

use crate::session::Session;
use crate::texts::Language;
use crate::visitor::{NoPage, Visitor};
use crate::{App, Origin};

/// The field that tells a form of ours.
pub(crate) const KEY: &str = "form_key";
/// The action that shows a form again as it was sent, and does nothing else.
pub(crate) const REOPEN: &str = "reopen";
const MAX_BYTES: usize = 64 * 1024;

/// The fields of a form, and who has sent it.
#[derive(Debug)]
pub(crate) struct Form {
    pub(crate) visitor: Visitor,
    fields: Arc<[(String, String)]>,
}

/// What somebody has typed into a form that knows [`REOPEN`].
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) path: String,
    pub(crate) fields: Arc<[(String, String)]>,
}

impl Sent {
    /// The other forms are buttons: after signing in they are found on their page.
    fn of(path: &str, fields: &Arc<[(String, String)]>) -> Option<Arc<Self>> {
        let is_typed = path == "/webhooks/new" || path.starts_with("/webhooks/") && path.ends_with("/edit");
        is_typed.then(|| Arc::new(Self { path: path.to_owned(), fields: fields.clone() }))
    }
}

impl Form {
    /// The last value of a field, without spaces around it; empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.fields.iter().rev().find(|(given, _)| given == name).map_or("", |(_, value)| value.trim())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.trim())
    }

    /// A field that has a text.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }
}

impl FromRequest<App> for Form {
    type Rejection = NoPage;

    async fn from_request(request: Request, app: &App) -> Result<Self, NoPage> {
        let (parts, body) = request.into_parts();
        let texts = Language::of(&parts.headers).texts();
        let back = page_of(&parts.headers);
        let Some(session) = Session::of(&parts.headers, &app.keys, app.is_secure()) else {
            return Err(NoPage::SignIn { back, is_part: false });
        };
        if !is_from_here(&parts.headers, &app.url) {
            return Err(NoPage::Forged { texts });
        }
        let fields: Arc<[_]> = fields(body).await.ok_or(NoPage::Malformed { texts })?.into();
        let key = fields.iter().find(|(name, _)| name == KEY).map_or("", |(_, value)| value);
        let own = session.form_key.expose_secret();
        verify_slices_are_equal(key.as_bytes(), own.as_bytes()).map_err(|_| NoPage::Forged { texts })?;
        let is_over = session.is_over(OffsetDateTime::now_utc());
        let visitor = Visitor {
            app: app.clone(),
            session,
            texts,
            here: back,
            is_part: false,
            shown: None,
            origin: parts.extensions.get::<Origin>().map(|origin| origin.0),
            sent: Sent::of(parts.uri.path(), &fields),
        };
        // Only now: what another site had typed must not be kept for somebody to send.
        if is_over { Err(visitor.sign_in_again()) } else { Ok(Self { visitor, fields }) }
    }
}

pub(crate) async fn fields(body: Body) -> Option<Vec<(String, String)>> {
    let body = read_body(body, MAX_BYTES, None).await.ok()?;
    Some(parse(&body).into_owned().collect())
}

/// Browsers say where a form comes from; whatever does not is known by its key.
pub(crate) fn is_from_here(headers: &HeaderMap, own: &Url) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_own_site = text("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    is_own_site && text("origin").is_none_or(|origin| origin == own.origin().ascii_serialization())
}

fn page_of(headers: &HeaderMap) -> String {
    let referer = headers.get(header::REFERER).and_then(|value| value.to_str().ok());
    let page = referer.and_then(|url| Url::parse(url).ok());
    page.map_or_else(|| "/".to_owned(), |url| url[Position::BeforePath..Position::AfterQuery].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_of_another_site_is_known_by_what_the_browser_says() {
        let own: Url = "https://shop.example/backoffice".parse().unwrap();
        for (headers, is_ours) in [
            (&[][..], true),
            (&[("origin", "https://shop.example")], true),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "null")], false),
            (&[("origin", "https://shop.example:444")], false),
            (&[("sec-fetch-site", "same-origin"), ("origin", "https://shop.example")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
        ] {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            assert_eq!(is_from_here(&headers.collect::<HeaderMap>(), &own), is_ours);
        }
    }
}
