//! Signing in, at the provider or with a token of the platform, and out again; another tenant of the same token; the link that the
//! launcher prints; and what is said of a session that ends.

use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::{Markup, html};
use secrecy::{ExposeSecret, SecretString};
use shopery_client::{Caller, Error};
use time::{Duration, OffsetDateTime};
use url::form_urlencoded::parse;

use crate::form::{Form, REOPEN, Sent, fields, is_from_here};
use crate::layout;
use crate::session::{NoSession, Session, ended};
use crate::texts::{Language, Texts};
use crate::visitor::{NoPage, Visitor, escaped, html as page, path_of_ours, told};
use crate::{App, Link, Origin};

/// From then on a page says when the session ends.
const SOON: Duration = Duration::minutes(10);
/// Where a sign-in in another tab ends.
const SIGNED_IN: &str = "/signed-in";

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(|| async { Redirect::to("/webhooks") }))
        .route("/sign-in", get(ask).post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/tenant", post(other_tenant))
        .route("/link/{code}", get(by_link))
}

async fn ask(State(app): State<App>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let texts = Language::of(&headers).texts();
    let query = query.unwrap_or_default();
    let back = parse(query.as_bytes()).find(|(name, _)| name == "back").map(|(_, value)| value.into_owned());
    page(form(&app, texts, path_of_ours(back.as_deref().unwrap_or("/")), "", None))
}

fn form(app: &App, texts: &Texts, back: &str, tenant: &str, wrong: Option<&str>) -> String {
    let content = html! {
        @if let Some(wrong) = wrong { p.problem role="alert" { (wrong) } } @else { p { (texts.sign_in_first) } }
        (ways(app, texts, back, tenant, None))
    };
    layout::bare_with(texts, texts.sign_in, &content)
}

/// The ways to sign in. `target` is the browser's tab, if it is another one.
fn ways(app: &App, texts: &Texts, back: &str, tenant: &str, target: Option<&str>) -> Markup {
    let with_token = html! {
        form method="post" action="/sign-in" target=[target] {
            input type="hidden" name="back" value=(back);
            div.field {
                label for="token" { (texts.token) }
                input #token type="password" name="token" required autocomplete="off" aria-describedby="token-hint";
                p.hint #token-hint { (texts.token_hint) }
            }
            div.field {
                label for="tenant" { (texts.tenant) " (" (texts.optional) ")" }
                input #tenant type="text" name="tenant" value=(tenant) autocomplete="off" aria-describedby="tenant-hint";
                p.hint #tenant-hint { (texts.tenant_hint) }
            }
            button { (texts.sign_in) }
        }
    };
    html! {
        @if let Some(provider) = &app.provider {
            p {
                a.button href={ "/sign-in/provider?back=" (escaped(back)) } target=[target] { (texts.sign_in) }
                " " span.hint { (provider.host) }
            }
            @if app.takes_tokens { details.card { summary { (texts.with_a_token) } (with_token) } }
        } @else { (with_token) }
    }
}

/// A form was sent when its session had ended. What was typed stays in this page while the person signs in beside it.
pub(crate) fn ended_page(app: &App, texts: &Texts, sent: &Sent) -> String {
    let content = html! {
        p.notice role="alert" { (texts.session_ended_kept) }
        (ways(app, texts, SIGNED_IN, "", Some("_blank")))
        form method="post" action=(sent.path) {
            @for (name, value) in sent.fields.iter().filter(|(name, _)| name != "action") {
                input type="hidden" name=(name) value=(value);
            }
            button name="action" value=(REOPEN) { (texts.go_on) }
        }
    };
    layout::bare_with(texts, texts.session_ended, &content)
}

/// When the session ends, once that is soon.
pub(crate) fn ends_soon(visitor: &Visitor, now: OffsetDateTime) -> Markup {
    let texts = visitor.texts;
    let left = visitor.session.left(now).filter(|left| *left < SOON);
    let end = left.map(|left| now + left);
    html! {
        @if let Some(end) = end {
            p.notice {
                (texts.ends_soon.replace("{}", &format!("{:02}:{:02}", end.hour(), end.minute()))) " "
                // In another tab, so that what is being typed stays.
                a href={ "/sign-in?back=" (SIGNED_IN) } target="_blank" { (texts.sign_in_again) }
            }
        }
    }
}

/// There is no session yet whose key the form could have; a browser says where the form comes from.
async fn sign_in(State(app): State<App>, request: Request) -> Result<Response, NoPage> {
    let (parts, body) = request.into_parts();
    let texts = Language::of(&parts.headers).texts();
    if !is_from_here(&parts.headers, &app.url) {
        return Err(NoPage::Forged { texts });
    }
    if !app.takes_tokens {
        let refused = layout::bare(texts, texts.not_allowed, texts.no_token_sign_in);
        return Ok((StatusCode::FORBIDDEN, page(refused)).into_response());
    }
    let fields = fields(body).await.ok_or(NoPage::Malformed { texts })?;
    let text = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value.trim());
    let (token, tenant, back) = (SecretString::from(text("token")), text("tenant"), path_of_ours(text("back")));
    let origin = parts.extensions.get::<Origin>().map(|origin| origin.0);
    let before = Session::of(&parts.headers, &app.keys, app.is_secure());
    let session = Session::new(token, Some(tenant), before.as_ref()).map_err(Refused::Session);
    let begun = match session {
        Ok(session) => begin(&app, &session, origin).await,
        Err(refused) => Err(refused),
    };
    let begun = match begun {
        Ok(cookie) => Ok(cookie),
        Err(Refused::Session(why)) => Err(said(texts, why).to_owned()),
        Err(Refused::Api(Error::Refused(problem))) => Err(format!("{} {}", texts.token_refused, told(&problem))),
        Err(Refused::Api(_)) => Err(texts.unavailable_why.to_owned()),
    };
    Ok(match begun {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(back)).into_response(),
        Err(wrong) => {
            (StatusCode::UNPROCESSABLE_ENTITY, page(form(&app, texts, back, tenant, Some(&wrong)))).into_response()
        }
    })
}

pub(crate) enum Refused {
    Session(NoSession),
    Api(Error),
}

fn said(texts: &Texts, why: NoSession) -> &'static str {
    match why {
        NoSession::NotAToken => texts.not_a_token,
        NoSession::NoTenant => texts.no_tenant,
        NoSession::TooLong => texts.token_too_long,
        NoSession::Ours => texts.ours,
    }
}

/// The header that begins a session, once the API accepts its token for its tenant.
pub(crate) async fn begin(app: &App, session: &Session, forwarded_for: Option<IpAddr>) -> Result<HeaderValue, Refused> {
    let (tenant, token) = (&session.tenant, &session.token);
    let caller = Caller { base: &app.api_url, tenant, token, forwarded_for };
    let any = shopery_client::Request::get(&["company", "event-types"]);
    app.client.send(caller, &any, |_, _| {}).await.map_err(Refused::Api)?;
    session.cookie(&app.keys, app.is_secure()).map_err(Refused::Session)
}

async fn sign_out(form: Form) -> Response {
    let ended = ended(form.visitor.app.is_secure());
    let next = if form.visitor.session.is_of_provider { "/signed-out" } else { "/sign-in" };
    ([(header::SET_COOKIE, ended)], Redirect::to(next)).into_response()
}

/// Of a tenant that the token does not have, the API says so.
async fn other_tenant(form: Form) -> Result<Response, NoPage> {
    let (visitor, texts) = (&form.visitor, form.visitor.texts);
    let own = &visitor.session;
    let session = Session::new(own.token.clone(), Some(form.text("tenant")), Some(own));
    let begun = match session {
        Ok(session) => {
            let session = Session { is_of_provider: own.is_of_provider, ..session };
            begin(&visitor.app, &session, visitor.origin).await
        }
        Err(why) => Err(Refused::Session(why)),
    };
    match begun {
        Ok(cookie) => Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/webhooks")).into_response()),
        Err(Refused::Api(error)) => Err(visitor.failed(error)),
        Err(Refused::Session(why)) => {
            let refused = layout::problem(visitor, texts.refused, said(texts, why));
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page(refused)).into_response())
        }
    }
}

async fn by_link(State(app): State<App>, headers: HeaderMap, Path(code): Path<String>) -> Response {
    let texts = Language::of(&headers).texts();
    let is_it = |link: &&Link| verify_slices_are_equal(link.code.expose_secret().as_bytes(), code.as_bytes()).is_ok();
    let Some(link) = app.link.as_ref().filter(is_it) else {
        return (StatusCode::NOT_FOUND, page(layout::bare(texts, texts.not_found, texts.not_found_why)))
            .into_response();
    };
    let before = Session::of(&headers, &app.keys, app.is_secure());
    let begun = match Session::new(link.token.clone(), Some(&link.tenant), before.as_ref()) {
        Ok(session) => begin(&app, &session, None).await,
        Err(why) => Err(Refused::Session(why)),
    };
    match begun {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/webhooks")).into_response(),
        Err(_) => (StatusCode::BAD_GATEWAY, page(layout::bare(texts, texts.unavailable, texts.unavailable_why)))
            .into_response(),
    }
}
