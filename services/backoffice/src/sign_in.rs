//! Signing in with a token of the platform, and out again; another tenant of the same token; the link that the launcher prints.

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
use url::form_urlencoded::parse;

use crate::form::{Form, fields, is_from_here};
use crate::layout;
use crate::session::{NoSession, Session, ended};
use crate::texts::{Language, Texts};
use crate::visitor::{NoPage, html as page, path_of_ours, told};
use crate::{App, Link, Origin};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(|| async { Redirect::to("/webhooks") }))
        .route("/sign-in", get(ask).post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/tenant", post(other_tenant))
        .route("/link/{code}", get(by_link))
}

async fn ask(headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let texts = Language::of(&headers).texts();
    let query = query.unwrap_or_default();
    let back = parse(query.as_bytes()).find(|(name, _)| name == "back").map(|(_, value)| value.into_owned());
    page(form(texts, path_of_ours(back.as_deref().unwrap_or("/")), "", None))
}

fn form(texts: &Texts, back: &str, tenant: &str, wrong: Option<&str>) -> String {
    let content: Markup = html! {
        @if let Some(wrong) = wrong { p.problem role="alert" { (wrong) } } @else { p { (texts.sign_in_first) } }
        form method="post" action="/sign-in" {
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
    layout::bare_with(texts, texts.sign_in, &content)
}

/// There is no session yet whose key the form could have; a browser says where the form comes from.
async fn sign_in(State(app): State<App>, request: Request) -> Result<Response, NoPage> {
    let (parts, body) = request.into_parts();
    let texts = Language::of(&parts.headers).texts();
    if !is_from_here(&parts.headers, &app.url) {
        return Err(NoPage::Forged { texts });
    }
    let fields = fields(body).await.ok_or(NoPage::Malformed { texts })?;
    let text = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value.trim());
    let (token, tenant, back) = (SecretString::from(text("token")), text("tenant"), path_of_ours(text("back")));
    let origin = parts.extensions.get::<Origin>().map(|origin| origin.0);
    let begun = match begin(&app, token, Some(tenant), origin).await {
        Ok(cookie) => Ok(cookie),
        Err(Refused::Session(why)) => Err(said(texts, why).to_owned()),
        Err(Refused::Api(Error::Refused(problem))) => Err(format!("{} {}", texts.token_refused, told(&problem))),
        Err(Refused::Api(_)) => Err(texts.unavailable_why.to_owned()),
    };
    Ok(match begun {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(back)).into_response(),
        Err(wrong) => (StatusCode::UNPROCESSABLE_ENTITY, page(form(texts, back, tenant, Some(&wrong)))).into_response(),
    })
}

enum Refused {
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

/// A session with a token that the API accepts for that tenant.
async fn begin(
    app: &App,
    token: SecretString,
    tenant: Option<&str>,
    forwarded_for: Option<IpAddr>,
) -> Result<HeaderValue, Refused> {
    let session = Session::new(token, tenant).map_err(Refused::Session)?;
    let (tenant, token) = (&session.tenant, &session.token);
    let caller = Caller { base: &app.api_url, tenant, token, forwarded_for };
    let any = shopery_client::Request::get(&["company", "event-types"]);
    app.client.send(caller, &any, |_, _| {}).await.map_err(Refused::Api)?;
    session.cookie(&app.keys, app.is_secure()).map_err(Refused::Session)
}

async fn sign_out(form: Form) -> Response {
    let ended = ended(form.visitor.app.is_secure());
    ([(header::SET_COOKIE, ended)], Redirect::to("/sign-in")).into_response()
}

/// Of a tenant that the token does not have, the API says so.
async fn other_tenant(form: Form) -> Result<Response, NoPage> {
    let visitor = &form.visitor;
    let token = visitor.session.token.clone();
    match begin(&visitor.app, token, Some(form.text("tenant")), visitor.origin).await {
        Ok(cookie) => Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/webhooks")).into_response()),
        Err(Refused::Api(error)) => Err(visitor.failed(error)),
        Err(Refused::Session(why)) => {
            let texts = visitor.texts;
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
    match begin(&app, link.token.clone(), Some(&link.tenant), None).await {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/webhooks")).into_response(),
        Err(_) => (StatusCode::BAD_GATEWAY, page(layout::bare(texts, texts.unavailable, texts.unavailable_why)))
            .into_response(),
    }
}
