//! From an HTTP response to an [`Answer`] that a merchant understands.
//!
//! The status decides as soon as it is there. What comes after it, a body that is long, slow or broken, is read for the
//! history alone, as far as it goes, and what was odd is said.

use std::time::Duration;

use http::header::{HeaderName, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use shopery_model::{Answer, Credentials, Fault, Timing};
use time::OffsetDateTime;
use tokio::time::Instant;

/// A body is read so far, so that its connection can be used again.
const MAX_BODY: usize = 16 * 1024;
/// Bytes of a body that are read beyond what is kept: a secret that the endpoint repeats there is seen whole, and masked.
const MARGIN: usize = 1024;
/// Maximum length of the body in the history, written as JSON: a control character takes six bytes there.
const MAX_KEPT: usize = 16 * 1024;
/// Maximum bytes of response headers in the history, names and values.
const MAX_KEPT_HEADERS: usize = 4 * 1024;
/// How long it is waited for after the status.
const BODY_TIME: Duration = Duration::from_secs(1);
/// The longest that an endpoint can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What an endpoint has answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: HeaderMap,
    pub(crate) oddity: Option<String>,
    /// The response was read to its end.
    pub(crate) is_complete: bool,
    /// How long the endpoint says that it keeps the connection.
    pub(crate) keep_alive: Option<Duration>,
}

impl Reply {
    /// A status of which nothing else could be read.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let oddity = Some("what came after the status is no HTTP that can be read".to_owned());
        Self {
            status,
            retry_after: None,
            body: Vec::new(),
            headers: HeaderMap::new(),
            oddity,
            is_complete: false,
            keep_alive: None,
        }
    }

    /// Reads a response, for no longer than until `deadline`.
    pub(crate) async fn read(response: Response<Incoming>, deadline: Instant, now: OffsetDateTime) -> Self {
        let (head, mut rest) = response.into_parts();
        let mut body = Vec::new();
        let deadline = deadline.min(Instant::now() + BODY_TIME);
        let oddity = loop {
            if body.len() > MAX_BODY + MARGIN {
                break Some(too_long());
            }
            match tokio::time::timeout_at(deadline, rest.frame()).await {
                Ok(None) => break None,
                Ok(Some(Ok(frame))) => body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Ok(Some(Err(_))) => break Some("the answer's body broke off".to_owned()),
                Err(_) if rest.size_hint().lower() > MAX_BODY as u64 => break Some(too_long()),
                Err(_) => break Some(format!("the answer's body did not end within {} s", BODY_TIME.as_secs())),
            }
        };
        let may_ask = matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        Self {
            status: head.status,
            retry_after: may_ask.then(|| retry_after(&head.headers, now)).flatten(),
            is_complete: oddity.is_none(),
            keep_alive: keep_alive(&head.headers),
            headers: head.headers,
            body,
            oddity,
        }
    }

    /// What the endpoint has repeated of `credentials` is hidden.
    pub(crate) fn answer(self, credentials: &Credentials) -> Answer {
        // A NUL is no text to PostgreSQL. Secrets go before the rest does, or half of one could stay.
        let shown = |bytes: &[u8]| credentials.hide_in(String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}"));
        let mut body = shown(&self.body);
        if self.body.len() > MAX_BODY {
            // Its end may be half of a secret.
            body.truncate(body.floor_char_boundary(body.len().saturating_sub(MARGIN)));
        }
        body.truncate(kept(&body));
        let mut room = MAX_KEPT_HEADERS;
        let mut headers = String::with_capacity(self.headers.len().min(64) * 40);
        for (name, value) in &self.headers {
            let value = shown(value.as_bytes());
            if let Some(left) = room.checked_sub(name.as_str().len() + value.len()) {
                room = left;
                headers.extend([name.as_str(), ": ", &value, "\n"]);
            }
        }
        Answer {
            duration: Duration::ZERO,
            status: Some(self.status.as_u16()),
            code: None,
            message_id: None,
            fault: judge(self.status),
            retry_after: self.retry_after,
            body,
            headers,
            note: self.oddity,
            timing: Timing::default(),
        }
    }
}

fn too_long() -> String {
    format!("the answer's body is over {} KiB; its start was read", MAX_BODY / 1024)
}

/// How much of a text has at most [`MAX_KEPT`] bytes as JSON.
fn kept(text: &str) -> usize {
    let written = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        c if u32::from(c) < 0x20 => 6,
        c => c.len_utf8(),
    };
    let mut length = 0;
    let beyond = text.char_indices().find(|(_, c)| {
        length += written(*c);
        length > MAX_KEPT
    });
    beyond.map_or(text.len(), |(place, _)| place)
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

/// In seconds, however many, or as a date in one of the three forms of RFC 9110.
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let date = OffsetDateTime::from(httpdate::parse_http_date(value).ok()?);
        (date - now).try_into().ok()?
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

/// `Keep-Alive: timeout=5`, less a second for the way there.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let timeout = value.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    Some(Duration::from_secs(timeout.trim().parse().ok()?).saturating_sub(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn an_endpoint_asks_for_time_in_every_form_of_rfc_9110() {
        let now = datetime!(2026-11-30 10:00:00 UTC);
        for (value, seconds) in [
            ("60", Some(60)),
            (" 60 ", Some(60)),
            ("0", Some(0)),
            ("99999999999999999999999999", Some(86_400)),
            ("100000", Some(86_400)),
            ("Mon, 30 Nov 2026 10:02:00 GMT", Some(120)),
            ("Monday, 30-Nov-26 10:02:00 GMT", Some(120)),
            ("Mon Nov 30 10:02:00 2026", Some(120)),
            ("Mon, 30 Nov 2026 09:00:00 GMT", None),
            ("Fri, 31 Dec 2032 23:59:59 GMT", Some(86_400)),
            ("-5", None),
            ("soon", None),
            ("", None),
        ] {
            let asked = retry_after(&headers(RETRY_AFTER, value), now);
            assert_eq!(asked.map(|asked| asked.as_secs()), seconds, "{value:?}");
        }
    }

    #[test]
    fn what_is_kept_of_a_body_is_bounded_as_json() {
        for (text, length) in [("x", MAX_KEPT), ("\u{1}", MAX_KEPT / 6), ("\n", MAX_KEPT / 2), ("é", MAX_KEPT)] {
            let long = text.repeat(MAX_KEPT * 2);
            assert_eq!(kept(&long), length / text.len() * text.len(), "{text:?}");
        }
        assert_eq!(kept("short"), 5);
    }

    #[test]
    fn a_secret_at_the_end_of_what_was_read_is_not_half_kept() {
        let credentials = Credentials::new(shopery_model::EndpointSecret::generate().unwrap());
        let secret = credentials.secret.expose().to_owned();
        let start = &secret["whsec_".len()..][..4];
        for cut in [MAX_BODY - 20, MAX_BODY + MARGIN - 20] {
            let mut body = "x".repeat(cut) + &secret;
            body.truncate(MAX_BODY + MARGIN + 1);
            let reply = Reply { body: body.into(), is_complete: false, ..Reply::of_status(StatusCode::OK) };
            let kept = reply.answer(&credentials).body;
            assert!(!kept.contains(start), "{}", &kept[kept.len() - 40..]);
        }
    }

    #[test]
    fn an_endpoint_may_say_how_long_it_keeps_a_connection() {
        for (value, seconds) in
            [("timeout=5", Some(4)), ("max=100, timeout=3", Some(2)), ("timeout=0", Some(0)), ("x", None)]
        {
            assert_eq!(keep_alive(&headers(KEEP_ALIVE, value)).map(|time| time.as_secs()), seconds, "{value}");
        }
    }
}
