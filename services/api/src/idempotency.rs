//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a POST that is repeated because its answer was lost is
//! done once, and answered the same.
//!
//! A key belongs to a tenant and to one request (method, path and body), for a day. Answers that say nothing final (408,
//! 409, 429 and our own faults) are not kept, nor those of a request for many of which some were answered so: the same
//! request may then be sent again.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use shopery_http::{Permission, Problem, read_body};
use shopery_model::{Invalid, Sealed, TenantId};
use shopery_store::{Answered, Claim, Keyed};
use tracing::Instrument;

use crate::{App, database_problem, matching};

/// Of a response that another request may be answered otherwise, though its status says nothing of that.
#[derive(Debug, Clone, Copy)]
struct NotFinal;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that the answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const MAX_KEY: usize = 255;
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// A change takes no longer, whether or not its client still waits.
const LONGEST: Duration = Duration::from_secs(55);
/// After this, whoever worked on it is no more.
const ABANDONED: Duration = Duration::from_secs(60);
const MAX_BYTES: usize = 64 * 1024;

/// Stands before every handler. What changes something runs to its end by itself: a client that goes away would otherwise
/// stop it half-way, with a webhook made and its key not answered for.
pub(crate) async fn once(State(app): State<App>, request: Request, next: Next) -> Response {
    // A question that is too long for a URL changes nothing either.
    if request.method().is_safe() || request.uri().path() == matching::PATH {
        return next.run(request).await;
    }
    let change = tokio::time::timeout(LONGEST, keyed(app, request, next)).in_current_span();
    match tokio::spawn(change).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Problem::timed_out().into_response(),
        Err(error) => {
            tracing::error!(%error, "a request handler panicked");
            Problem::internal().into_response()
        }
    }
}

/// Steps aside unless a POST names a key.
async fn keyed(app: App, request: Request, next: Next) -> Response {
    let Some(key) = request.headers().get(&KEY).filter(|_| request.method() == Method::POST) else {
        return next.run(request).await;
    };
    let Some(key) = read_key(key) else {
        let detail = format!("the header Idempotency-Key must be 1 to {MAX_KEY} visible ASCII characters");
        return Problem::malformed(detail).into_response();
    };
    // Who may not do it is told so by the handler, and has no keys.
    let Ok(tenant) = app.access.tenant(request.headers(), Permission::WebhooksWrite) else {
        return next.run(request).await;
    };
    run(&app, &tenant, &key, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn run(app: &App, tenant: &TenantId, key: &str, request: Request, next: Next) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let body = read_body(body, MAX_BYTES, None).await?;
    let fingerprint = fingerprint(head.uri.path(), &body);
    let keyed = Keyed { tenant, key, fingerprint: &fingerprint };
    let now = shopery_queue::now();
    match app.store.claim(keyed, now, now - KEPT, now - ABANDONED).await.map_err(database_problem)? {
        Claim::First => {}
        Claim::UnderWay => return Err(Problem::conflict("a request with this Idempotency-Key is being worked on")),
        Claim::Differs => {
            let detail = "was given for another request: each needs one of its own";
            return Err(Problem::invalid(vec![Invalid::new("Idempotency-Key", detail)]));
        }
        Claim::Answered(answered) => return replay(app, keyed, answered),
    }
    let response = next.run(Request::from_parts(head, Body::from(body))).await;
    if is_final(response.status()) && response.extensions().get::<NotFinal>().is_none() {
        keep(app, keyed, response).await
    } else {
        app.store.give_back(keyed).await.map_err(database_problem)?;
        Ok(response)
    }
}

fn is_final(status: StatusCode) -> bool {
    let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS];
    !status.is_server_error() && !passes.contains(&status)
}

/// An answer that depends on what others may change meanwhile.
pub(crate) fn not_final(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.extensions_mut().insert(NotFinal);
    response
}

async fn keep(app: &App, keyed: Keyed<'_>, response: Response) -> Result<Response, Problem> {
    let (head, body) = response.into_parts();
    let body = read_body(body, MAX_BYTES, None).await.map_err(|_| Problem::internal())?;
    let sealed = app.keys.seal_text(&owner(keyed), body.to_vec()).map_err(|_| Problem::internal())?;
    let location = head.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let answered = Answered { status: head.status.as_u16(), location, body: sealed.stored().to_owned() };
    if let Err(error) = app.store.answered(keyed, answered).await {
        // What was done is done: whoever repeats it within a minute is told to wait.
        tracing::warn!(%error, "an answer could not be kept under its Idempotency-Key");
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

fn replay(app: &App, keyed: Keyed<'_>, answered: Answered) -> Result<Response, Problem> {
    let status = StatusCode::from_u16(answered.status).map_err(|_| Problem::internal())?;
    let body = app.keys.open_text(&owner(keyed), &Sealed::of_stored(answered.body)).map_err(|why| {
        tracing::error!(%why, "an answer that was kept cannot be opened");
        Problem::internal()
    })?;
    let is_problem = !status.is_success();
    let kind = if is_problem { "application/problem+json" } else { "application/json" };
    let mut response = (status, Bytes::copy_from_slice(&body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    headers.extend(answered.location.and_then(|to| Some((header::LOCATION, HeaderValue::try_from(to).ok()?))));
    Ok(response)
}

fn read_key(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim();
    // The draft has it in quotes, most clients without.
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let is_plain = (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain.then(|| text.to_owned())
}

fn fingerprint(path: &str, body: &[u8]) -> String {
    let mut digest = Context::new(&SHA256);
    digest.update(path.as_bytes());
    digest.update(b"\0");
    digest.update(body);
    STANDARD.encode(digest.finish())
}

fn owner(keyed: Keyed<'_>) -> String {
    format!("shopery idempotency key\0{}\0{}", keyed.tenant.as_str(), keyed.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_with_or_without_quotes() {
        for (written, read) in [
            ("a-1", Some("a-1")),
            ("\"a-1\"", Some("a-1")),
            (" a ", Some("a")),
            ("", None),
            ("\"\"", None),
            ("a b", None),
            (&"x".repeat(MAX_KEY + 1), None),
        ] {
            assert_eq!(read_key(&HeaderValue::from_str(written).unwrap()).as_deref(), read, "{written}");
        }
    }
}
