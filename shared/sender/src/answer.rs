//! From what the HTTP client met to an [`Answer`] that a merchant understands.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use rustls::CertificateError;
use shopery_model::{Answer, Credentials, Fault};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::egress::Forbidden;
use crate::{CONNECT_TIMEOUT, TIMEOUT};

/// A response body is read so far; one that is longer is a failure.
const MAX_BODY: usize = 16 * 1024;
/// So much of it goes to the history.
const KEPT_BODY: usize = 1024;

pub(crate) fn failed(fault: Fault, detail: String) -> Answer {
    Answer {
        duration: Duration::ZERO,
        status: None,
        fault: Some((fault, detail)),
        retry_after: None,
        body: String::new(),
    }
}

/// What the endpoint has repeated of `credentials` is hidden.
pub(crate) async fn read(
    sent: Result<Response, reqwest::Error>,
    credentials: &Credentials,
    now: impl Fn() -> OffsetDateTime,
) -> Answer {
    let mut response = match sent {
        Ok(response) => response,
        Err(error) => {
            let (fault, detail) = explain(&error);
            return failed(fault, detail);
        }
    };
    let status = response.status();
    let retry_after = retry_after(&response, now());
    let mut body = Vec::new();
    let fault = loop {
        if response.content_length().is_some_and(|length| length > MAX_BODY as u64) || body.len() > MAX_BODY {
            let detail = format!(
                "it answered {} with a body over {} KiB; answer with a short body",
                status.as_u16(),
                MAX_BODY / 1024
            );
            break Some((Fault::ResponseTooLarge, detail));
        }
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break judge(status),
            Err(error) => break Some(explain(&error)),
        }
    };
    // A NUL is no text to PostgreSQL. Secrets go before the rest does, or half of one could stay.
    let mut text = credentials.hide_in(String::from_utf8_lossy(&body).replace('\0', "\u{fffd}"));
    text.truncate(text.floor_char_boundary(KEPT_BODY));
    Answer { duration: Duration::ZERO, status: Some(status.as_u16()), fault, retry_after, body: text }
}

fn judge(status: StatusCode) -> Option<(Fault, String)> {
    let code = status.as_u16();
    if status.is_success() {
        None
    } else if status == StatusCode::GONE {
        Some((Fault::Gone, "it answered 410 Gone: the endpoint says that it is gone for good".to_owned()))
    } else if status.is_redirection() {
        Some((
            Fault::Redirected,
            format!("it answered {code}, a redirect; redirects are not followed: use the final URL"),
        ))
    } else {
        Some((Fault::HttpStatus, format!("it answered {code}; answer with a 2xx status")))
    }
}

/// In seconds or as a date; only 429 and 503 may ask.
fn retry_after(response: &Response, now: OffsetDateTime) -> Option<Duration> {
    if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
            (date - now).try_into().ok()
        }
    }
}

fn explain(error: &reqwest::Error) -> (Fault, String) {
    if let Some(forbidden) = find::<Forbidden>(error) {
        return (Fault::AddressForbidden, forbidden.to_string());
    }
    if let Some(tls) = find::<rustls::Error>(error) {
        return explain_tls(tls);
    }
    if error.is_timeout() {
        return if error.is_connect() {
            (Fault::ConnectTimeout, format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))
        } else {
            (Fault::Timeout, format!("no complete answer within {} s", TIMEOUT.as_secs()))
        };
    }
    let kind = find::<io::Error>(error).map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => {
            (Fault::ConnectionRefused, "the host refused the connection: nothing listens there".to_owned())
        }
        _ if is_dns(error) => (Fault::DnsFailed, "the host name cannot be resolved".to_owned()),
        Some(kind) if error.is_connect() => (Fault::ConnectionFailed, format!("the connection failed: {kind}")),
        _ if error.is_connect() => (Fault::ConnectionFailed, "the connection failed".to_owned()),
        _ => (Fault::ConnectionFailed, "the connection broke before the answer was complete".to_owned()),
    }
}

fn explain_tls(error: &rustls::Error) -> (Fault, String) {
    let rustls::Error::InvalidCertificate(reason) = error else {
        return (Fault::TlsFailed, format!("the TLS handshake failed: {error}"));
    };
    let detail = match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another host name"
        }
        CertificateError::UnknownIssuer => {
            "the certificate is self-signed, or its chain to a trusted authority is incomplete"
        }
        CertificateError::BadSignature => "the certificate is not signed by the authority that it names",
        CertificateError::Revoked => "the certificate is revoked",
        _ => return (Fault::CertificateInvalid, format!("the certificate is invalid: {error}")),
    };
    (Fault::CertificateInvalid, detail.to_owned())
}

/// The first `E` among the causes of an error. An [`io::Error`] hides its cause from `source`.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
    }
    None
}

/// The HTTP client gives name resolution no type of its own.
fn is_dns(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if cause.to_string().contains("dns error") || cause.to_string().contains("failed to lookup address") {
            return true;
        }
        next = cause.source();
    }
    false
}
