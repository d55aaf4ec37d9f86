//! Signing in at the identity provider: away to it, and back; and out again, there as well.
//!
//! What correctness rests on: a sign-in that was begun is a sealed cookie of the browser that began it, so nobody else
//! can finish it (state), no other sign-in's tokens are taken (nonce), and a stolen code is worth nothing (PKCE).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use maud::html;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use shopery_client::Error;
use time::OffsetDateTime;
use url::form_urlencoded::parse;

use crate::cookie::Cookie;
use crate::provider::{Begun, NoToken, Provider};
use crate::session::{NoSession, Session};
use crate::sign_in::{Refused, begin};
use crate::texts::{Language, Texts};
use crate::visitor::{escaped, html as page, path_of_ours, told};
use crate::{App, Origin, layout};

/// How long somebody may take at the provider.
const MAX_SECONDS: u32 = 600;
const COOKIE: Cookie =
    Cookie { name: "shopery-sign-in", owner: "shopery backoffice sign-in", max_age: Some(MAX_SECONDS) };
/// Of the path to come back to: a longer one does not fit into the cookie, and leads to the first page.
const MAX_BACK: usize = 1000;
/// Of what comes back in the URL.
const MAX_CODE: usize = 4096;
const MAX_LOGGED: usize = 200;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/sign-in/provider", get(leave))
        .route("/sign-in/callback", get(come_back))
        .route("/signed-in", get(signed_in))
        .route("/signed-out", get(signed_out))
}

/// A sign-in that was begun.
#[derive(Serialize, Deserialize)]
struct Pending {
    state: String,
    nonce: String,
    verifier: String,
    back: String,
    /// In seconds since 1970. The browser forgets it by itself; a copy of it is not forgotten.
    until: i64,
}

impl Pending {
    fn of(begun: &Begun, back: &str, now: OffsetDateTime) -> Self {
        let text = |secret: &secrecy::SecretString| secret.expose_secret().to_owned();
        Self {
            state: text(&begun.state),
            nonce: text(&begun.nonce),
            verifier: text(&begun.verifier),
            back: if back.len() > MAX_BACK { "/".to_owned() } else { back.to_owned() },
            until: now.unix_timestamp() + i64::from(MAX_SECONDS),
        }
    }

    fn is_for(&self, state: &str, now: OffsetDateTime) -> bool {
        let is_same = verify_slices_are_equal(self.state.as_bytes(), state.as_bytes()).is_ok();
        is_same && now.unix_timestamp() < self.until
    }
}

/// Why nobody is signed in.
#[derive(Debug)]
enum Failure {
    /// The sign-in was not begun in this browser, or too long ago, or has ended before.
    Unknown,
    /// The person has cancelled, or may not.
    Denied,
    Provider(NoToken),
    Session(NoSession),
    Api(Error),
}

/// A link leads here, not a form: our content security policy lets no form lead to another site, redirects included.
async fn leave(State(app): State<App>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let texts = Language::of(&headers).texts();
    let Some(provider) = &app.provider else { return no_provider(texts) };
    let back = text_of(query.as_deref().unwrap_or_default(), "back");
    let back = path_of_ours(back.as_deref().unwrap_or("/"));
    let begun = match provider.begin(texts.code).await {
        Ok(begun) => begun,
        Err(why) => return failed(texts, back, &Failure::Provider(why)),
    };
    let pending = Pending::of(&begun, back, OffsetDateTime::now_utc());
    match COOKIE.set(&app.keys, &pending, app.is_secure()) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(begun.url.as_str())).into_response(),
        Err(_) => failed(texts, back, &Failure::Session(NoSession::Ours)),
    }
}

async fn come_back(State(app): State<App>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let texts = Language::of(&parts.headers).texts();
    let Some(provider) = &app.provider else { return no_provider(texts) };
    let query = parts.uri.query().unwrap_or_default();
    let pending: Option<Pending> = COOKIE.read(&parts.headers, &app.keys, app.is_secure());
    let state = text_of(query, "state").unwrap_or_default();
    let Some(pending) = pending.filter(|pending| pending.is_for(&state, OffsetDateTime::now_utc())) else {
        // The cookie stays: somebody else's link does not end a sign-in that goes on in another tab.
        return failed(texts, "/", &Failure::Unknown);
    };
    let origin = parts.extensions.get::<Origin>().map(|origin| origin.0);
    let begun = async {
        let code = code_of(provider, query)?;
        let token = provider.exchange(&code, &pending.nonce, &pending.verifier).await.map_err(Failure::Provider)?;
        let before = Session::of(&parts.headers, &app.keys, app.is_secure());
        let mut session = Session::new(token, None, before.as_ref()).map_err(Failure::Session)?;
        session.is_of_provider = true;
        begin(&app, &session, origin).await.map_err(|refused| match refused {
            Refused::Session(why) => Failure::Session(why),
            Refused::Api(error) => Failure::Api(error),
        })
    };
    let mut response = match begun.await {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(path_of_ours(&pending.back))).into_response(),
        Err(failure) => failed(texts, &pending.back, &failure),
    };
    // It is over whatever came of it.
    response.headers_mut().append(header::SET_COOKIE, COOKIE.removed(app.is_secure()));
    response
}

/// The code in the provider's answer, or why there is none.
fn code_of(provider: &Provider, query: &str) -> Result<String, Failure> {
    if text_of(query, "iss").is_some_and(|issuer| !provider.is_issuer(&issuer)) {
        return Err(Failure::Provider(NoToken::Untrusted("the answer is of another issuer".to_owned())));
    }
    if let Some(error) = text_of(query, "error") {
        let why = text_of(query, "error_description").unwrap_or_default();
        tracing::info!(error = shortened(&error), why = shortened(&why), "the provider signs nobody in");
        return Err(match error.as_str() {
            "access_denied" => Failure::Denied,
            "server_error" | "temporarily_unavailable" => Failure::Provider(NoToken::Away(shortened(&error))),
            _ => Failure::Provider(NoToken::Refused(shortened(&error))),
        });
    }
    text_of(query, "code").filter(|code| code.len() <= MAX_CODE).ok_or(Failure::Unknown)
}

fn text_of(query: &str, wanted: &str) -> Option<String> {
    parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

/// What others have written, as far as a line of the log should have it.
fn shortened(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(MAX_LOGGED).collect()
}

/// What is wrong in plain words, what can be done, and the way to try again.
fn failed(texts: &Texts, back: &str, failure: &Failure) -> Response {
    let (status, why): (StatusCode, String) = match failure {
        Failure::Unknown | Failure::Provider(NoToken::UsedUp) => {
            (StatusCode::BAD_REQUEST, texts.sign_in_unknown.into())
        }
        Failure::Denied => (StatusCode::FORBIDDEN, texts.sign_in_denied.into()),
        Failure::Provider(NoToken::Away(_)) => (StatusCode::BAD_GATEWAY, texts.provider_away.into()),
        Failure::Provider(NoToken::Slow) => (StatusCode::GATEWAY_TIMEOUT, texts.provider_away.into()),
        Failure::Provider(NoToken::Refused(code)) => {
            (StatusCode::BAD_GATEWAY, format!("{} {code}", texts.provider_refused))
        }
        Failure::Provider(NoToken::Untrusted(_)) => (StatusCode::BAD_GATEWAY, texts.provider_untrusted.into()),
        Failure::Session(NoSession::NotAToken) => (StatusCode::BAD_GATEWAY, texts.provider_no_jwt.into()),
        Failure::Session(NoSession::NoTenant) => (StatusCode::FORBIDDEN, texts.provider_no_tenant.into()),
        Failure::Session(NoSession::TooLong) => (StatusCode::BAD_GATEWAY, texts.provider_token_too_long.into()),
        Failure::Session(NoSession::Ours) => (StatusCode::INTERNAL_SERVER_ERROR, texts.ours.into()),
        Failure::Api(Error::Refused(problem)) => {
            (StatusCode::FORBIDDEN, format!("{} {}", texts.provider_token_refused, told(problem)))
        }
        Failure::Api(_) => (StatusCode::BAD_GATEWAY, texts.unavailable_why.into()),
    };
    match failure {
        Failure::Unknown | Failure::Denied => {}
        Failure::Provider(error) => tracing::warn!(%error, "nobody is signed in"),
        Failure::Session(why) => tracing::warn!(?why, "the provider's access token begins no session"),
        Failure::Api(error) => tracing::warn!(%error, "the API does not take the provider's access token"),
    }
    let content = html! {
        p.problem role="alert" { (why) }
        p { a.button href={ "/sign-in?back=" (escaped(path_of_ours(back))) } { (texts.sign_in_again) } }
    };
    (status, page(layout::bare_with(texts, texts.not_signed_in, &content))).into_response()
}

fn no_provider(texts: &Texts) -> Response {
    (StatusCode::NOT_FOUND, page(layout::bare(texts, texts.not_found, texts.no_provider))).into_response()
}

/// Where whoever signs in beside a page that waits ends.
async fn signed_in(headers: HeaderMap) -> Response {
    let texts = Language::of(&headers).texts();
    let content = html! { p.done role="status" { (texts.signed_in_close) } p { a href="/" { (texts.webhooks) } } };
    page(layout::bare_with(texts, texts.signed_in, &content))
}

/// Our session has ended; the provider has its own. The page leads there, not a redirect of the form: see [`leave`].
async fn signed_out(State(app): State<App>, headers: HeaderMap) -> Response {
    let texts = Language::of(&headers).texts();
    let url = match &app.provider {
        None => Ok(None),
        Some(provider) => provider.end_session_url().await,
    };
    let why = match &url {
        Ok(Some(_)) => texts.signed_out_going_on,
        Ok(None) => texts.signed_out_here,
        Err(error) => {
            tracing::warn!(%error, "the provider's session cannot be ended");
            texts.signed_out_here_alone
        }
    };
    let url = url.ok().flatten();
    let content = html! {
        p.notice role="status" { (why) }
        @if let Some(url) = &url { p { a.button href=(url) { (texts.sign_out_there) } } }
        p { a href="/sign-in" { (texts.sign_in_again) } }
    };
    let mut response = page(layout::bare_with(texts, texts.signed_out, &content));
    if let Some(refresh) = url.and_then(|url| HeaderValue::from_str(&format!("0; url={url}")).ok()) {
        response.headers_mut().insert(header::REFRESH, refresh);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Begun {
        let url = "https://id.example/auth".parse().unwrap();
        Begun { url, state: "state".into(), nonce: "nonce".into(), verifier: "verifier".into() }
    }

    #[test]
    fn a_sign_in_is_finished_by_its_own_state_in_its_time() {
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let pending = Pending::of(&begun(), "/webhooks", at(1000));
        for (state, now, is_good) in [
            ("state", 1000, true),
            ("state", 1599, true),
            ("state", 1600, false),
            ("stat", 1000, false),
            ("", 1000, false),
            ("other", 1000, false),
        ] {
            assert_eq!(pending.is_for(state, at(now)), is_good, "{state} {now}");
        }
        assert_eq!(Pending::of(&begun(), &format!("/{}", "a".repeat(1000)), at(0)).back, "/");
    }

    #[test]
    fn what_others_have_written_is_a_short_line() {
        assert_eq!(shortened("a\r\nb\u{1b}[0m"), "ab[0m");
        assert_eq!(shortened(&"ä".repeat(1000)).chars().count(), MAX_LOGGED);
    }
}
