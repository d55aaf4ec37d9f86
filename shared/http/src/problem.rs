use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shopery_model::Invalid;

/// An error for a caller: RFC 9457, `application/problem+json`.
///
/// The `type` is `urn:shopery:problem:<name>`; name and status are part of the contract.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: &'static str,
    pub status: u16,
    pub detail: String,
    /// What is wrong with the input, field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Invalid>,
    #[serde(skip)]
    advice: Advice,
}

/// The header that goes with a problem.
#[derive(Debug, Clone)]
enum Advice {
    None,
    /// `WWW-Authenticate`, as RFC 6750 has it.
    Authenticate(String),
    /// `Retry-After`, in seconds.
    RetryAfter(u32),
    /// `Accept-Encoding`, as RFC 7694 has it: what a body may be encoded with.
    AcceptEncoding(&'static str),
}

/// How every challenge of ours begins.
const CHALLENGE: &str = "Bearer realm=\"shopery\"";

impl Problem {
    fn new(status: StatusCode, name: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:shopery:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            advice: Advice::None,
        }
    }

    /// 400: the request cannot be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed-request", "The request cannot be read", detail)
    }

    /// 422: the request reads, but its content is wrong. `body` as the field stands for the body as a whole.
    pub fn invalid(errors: Vec<Invalid>) -> Self {
        let detail = match errors.as_slice() {
            [one] => one.to_string(),
            [first, ..] => format!("{first} (and {} more, see errors)", errors.len() - 1),
            [] => String::new(),
        };
        // A body that is not even JSON is another thing than a wrong field.
        let problem = if errors.iter().any(|error| error.field == "body") {
            Self::malformed(detail)
        } else {
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-fields", "Fields of the request are invalid", detail)
        };
        Self { errors, ..problem }
    }

    /// 401 for a request without a token. RFC 6750: it is not told of an error, it has made none yet.
    pub fn no_token() -> Self {
        Self::unauthorized("send the header Authorization: Bearer <token>", String::new())
    }

    /// 401 for a token that opens nothing.
    pub fn invalid_token(detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let error = format!(", error=\"invalid_token\", error_description=\"{detail}\"");
        Self::unauthorized(detail, error)
    }

    fn unauthorized(detail: impl Into<String>, error: String) -> Self {
        let title = "The token is missing or invalid";
        let problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", title, detail);
        Self { advice: Advice::Authenticate(format!("{CHALLENGE}{error}")), ..problem }
    }

    /// 403: the token is good, but not for this. `scope` is what the request needs.
    pub fn forbidden(scope: &str, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::FORBIDDEN, "forbidden", "The token does not permit this", detail);
        let error = "error=\"insufficient_scope\"";
        let advice = format!("{CHALLENGE}, {error}, error_description=\"{}\", scope=\"{scope}\"", problem.detail);
        Self { advice: Advice::Authenticate(advice), ..problem }
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail)
    }

    pub fn method_not_allowed() -> Self {
        let detail = "this path does not take that method; see Allow";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed", detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "The request conflicts with the current state", detail)
    }

    /// 412: it is no longer as the request takes it to be.
    pub fn precondition_failed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", "It was changed meanwhile", detail)
    }

    /// 409 for some of several things; `errors` says for which.
    pub fn conflicts(detail: impl Into<String>, errors: Vec<Invalid>) -> Self {
        Self { errors, ..Self::conflict(detail) }
    }

    /// 410: it was there and is there no more.
    pub fn gone(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "gone", "What is asked for is no longer held", detail)
    }

    pub fn timed_out() -> Self {
        Self::too_slow("the request took too long to arrive or to answer; send it again")
    }

    /// 408.
    pub fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "The request took too long", detail)
    }

    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large", detail)
    }

    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        let title = "The content type or encoding is not supported";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", title, detail)
    }

    /// 415 for a `Content-Encoding` that is none of `accepted`.
    pub fn unsupported_encoding(detail: impl Into<String>, accepted: &'static str) -> Self {
        Self { advice: Advice::AcceptEncoding(accepted), ..Self::unsupported_media_type(detail) }
    }

    pub fn internal() -> Self {
        let detail = "something failed on our side and was logged; try again";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "An internal error", detail)
    }

    /// 429: nothing was accepted; the same request will be in `wait`.
    pub fn too_many_requests(detail: impl Into<String>, wait: Duration) -> Self {
        let problem =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "There are too many requests", detail);
        // Rounded up: whoever comes then is let in.
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        Self { advice: Advice::RetryAfter(u32::try_from(seconds).unwrap_or(u32::MAX)), ..problem }
    }

    /// 503: nothing was lost and nothing was accepted; the same request may succeed in `seconds`.
    pub fn unavailable(detail: impl Into<String>, seconds: u32) -> Self {
        let title = "The service cannot take the request now";
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", title, detail);
        Self { advice: Advice::RetryAfter(seconds), ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let advice = self.advice.clone();
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match advice {
            Advice::None => None,
            Advice::Authenticate(how) => {
                let challenge = HeaderValue::try_from(how).unwrap_or(HeaderValue::from_static(CHALLENGE));
                headers.insert(header::WWW_AUTHENTICATE, challenge)
            }
            Advice::AcceptEncoding(accepted) => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted))
            }
            Advice::RetryAfter(seconds) => headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds)),
        };
        response
    }
}
