//! One request on one connection, and what it means if no answer comes of it.
//!
//! Whether a request was processed is told by the protocol's own signals alone, never by the text of an error:
//!
//! | seen | the request was |
//! |---|---|
//! | the connection ended before the request was written | not processed |
//! | a kept connection, with no other request on it, ended within a second and before a byte of the answer | not processed, as far as one can know |
//! | HTTP/2: a GOAWAY whose last stream is an earlier one | not processed (RFC 9113, 6.8) |
//! | HTTP/2: the stream was reset with REFUSED_STREAM | not processed (8.7) |
//! | HTTP/2: reset with HTTP_1_1_REQUIRED | not processed; HTTP/1.1 is wanted (7) |
//! | a status, and then something that is no HTTP | answered: the status decides |
//! | anything else | perhaps processed |
//!
//! What was not processed is sent again on a new connection, three times at most. What was perhaps processed is left to the retries:
//! the endpoint may be at it. That a kept connection has ended can, rarely, be the endpoint's crash amid the request; it
//! is sent again all the same, since a receiver has to know a `webhook-id` that comes twice anyway.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use shopery_model::{Fault, Timing};
use tokio::time::Instant;
use url::{Position, Url};

use crate::failure::{Failure, find};
use crate::pool::{Connection, Sender};

/// A server that closes an idle connection does so while the request is on its way. An end that comes later may be a crash.
const IDLE_CLOSE_WINDOW: Duration = Duration::from_secs(1);

/// What is posted, on whichever connection.
pub(crate) struct Request<'a> {
    pub(crate) url: &'a Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An exchange that ended without an answer that could be read.
#[derive(Debug)]
pub(crate) enum Broken {
    NotProcessed(Refusal),
    /// There was a status; what followed was no HTTP.
    Answered(StatusCode),
    Unknown(Failure),
}

/// How the endpoint, or the protocol, says that it has not processed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// The connection had ended.
    Closed,
    GoAway,
    RefusedStream,
    Http11Required,
}

impl Refusal {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::GoAway => "goaway",
            Self::RefusedStream => "refused_stream",
            Self::Http11Required => "http_1_1_required",
        }
    }

    /// For the merchant.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Closed => "the endpoint closed the connection before it took the request",
            Self::GoAway => "the endpoint closed an HTTP/2 connection (GOAWAY)",
            Self::RefusedStream => "the endpoint refused a request on an HTTP/2 connection (REFUSED_STREAM)",
            Self::Http11Required => "the endpoint wants HTTP/1.1 (HTTP_1_1_REQUIRED)",
        }
    }
}

/// What was seen of an exchange that broke.
#[derive(Debug, Default)]
struct Seen {
    was_written: bool,
    /// The connection had served a request before.
    is_kept: bool,
    /// Nothing has come since the request.
    is_silent: bool,
    /// The status that has come on HTTP/1.1.
    status: Option<StatusCode>,
    http2: Option<Refusal>,
    /// It ended as soon as the request was written. Later, the endpoint may have been at it.
    is_soon: bool,
}

impl Seen {
    fn meaning(&self) -> Broken {
        // Whatever has come is no answer to it.
        if !self.was_written {
            return Broken::NotProcessed(self.http2.unwrap_or(Refusal::Closed));
        }
        if let Some(status) = self.status {
            return Broken::Answered(status);
        }
        match self.http2 {
            Some(refusal) => Broken::NotProcessed(refusal),
            None if self.is_kept && self.is_silent && self.is_soon => Broken::NotProcessed(Refusal::Closed),
            None => {
                let why = "the connection broke before the answer began";
                Broken::Unknown(Failure::Endpoint(Fault::ConnectionFailed, why.to_owned()))
            }
        }
    }
}

/// What HTTP/2 says of a stream that failed.
fn refusal(error: &h2::Error) -> Option<Refusal> {
    if !error.is_remote() {
        return None;
    }
    match error.reason() {
        // Only streams above the last one that the endpoint has taken fail so.
        _ if error.is_go_away() => Some(Refusal::GoAway),
        Some(Reason::REFUSED_STREAM) => Some(Refusal::RefusedStream),
        Some(Reason::HTTP_1_1_REQUIRED) => Some(Refusal::Http11Required),
        _ => None,
    }
}

impl Request<'_> {
    /// `None` if the URL has something that HTTP cannot ask for.
    fn build(&self, is_http2: bool) -> Option<http::Request<Full<Bytes>>> {
        let target = if is_http2 {
            &self.url[..Position::AfterQuery]
        } else {
            &self.url[Position::BeforePath..Position::AfterQuery]
        };
        let mut request = http::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.parse::<Uri>().ok()?;
        request.headers_mut().clone_from(&self.headers);
        if is_http2 {
            *request.version_mut() = Version::HTTP_2;
        } else {
            let host = &self.url[Position::BeforeHost..Position::AfterPort];
            request.headers_mut().insert(HOST, HeaderValue::from_str(host).ok()?);
        }
        request.headers_mut().insert(CONTENT_LENGTH, self.body.len().into());
        Some(request)
    }
}

impl Connection {
    /// Sends a request; returns with the head of the answer.
    pub(crate) async fn post(
        &mut self,
        request: &Request<'_>,
        timing: &mut Timing,
    ) -> Result<Response<Incoming>, Broken> {
        let Some(request) = request.build(matches!(self.sender, Sender::Http2(_))) else {
            let why = "the URL has characters that HTTP has no place for".to_owned();
            return Err(Broken::Unknown(Failure::Endpoint(Fault::ConnectionFailed, why)));
        };
        self.wire.begin();
        let (before, began) = (self.wire.bytes(), Instant::now());
        let sent = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        timing.first_byte = sent.is_ok().then(|| began.elapsed());
        sent.map_err(|mut error| {
            let was_written = error.take_message().is_none();
            let is_http2 = matches!(self.sender, Sender::Http2(_));
            let seen = Seen {
                was_written,
                is_kept: self.is_kept,
                is_soon: began.elapsed() < IDLE_CLOSE_WINDOW,
                is_silent: self.wire.bytes() == before,
                status: if is_http2 { None } else { self.wire.status() },
                http2: find::<h2::Error>(error.error()).and_then(refusal),
            };
            seen.meaning()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_processed_is_told_by_what_was_seen() {
        let written = || Seen { was_written: true, is_soon: true, ..Seen::default() };
        let not = |refusal| Some(Some(refusal));
        for (seen, expected) in [
            (Seen::default(), not(Refusal::Closed)),
            (Seen { is_kept: true, is_silent: true, ..written() }, not(Refusal::Closed)),
            (Seen { is_kept: true, is_silent: true, is_soon: false, ..written() }, None),
            // What an idle connection says of itself, 408 above all, answers nothing.
            (Seen { status: Some(StatusCode::OK), ..Seen::default() }, not(Refusal::Closed)),
            // A new connection was made for the request: the endpoint has had it.
            (Seen { is_silent: true, ..written() }, None),
            (Seen { is_kept: true, ..written() }, None),
            (Seen { http2: Some(Refusal::GoAway), ..written() }, not(Refusal::GoAway)),
            (Seen { status: Some(StatusCode::OK), is_kept: true, ..written() }, Some(None)),
        ] {
            let meaning = match seen.meaning() {
                Broken::NotProcessed(refusal) => Some(Some(refusal)),
                Broken::Answered(_) => Some(None),
                Broken::Unknown(_) => None,
            };
            assert_eq!(meaning, expected, "{seen:?}");
        }
    }

    #[test]
    fn http2_says_which_streams_it_has_not_processed() {
        for (reason, expected) in [(Reason::REFUSED_STREAM, None), (Reason::CANCEL, None)] {
            // One of ours is no refusal.
            assert_eq!(refusal(&h2::Error::from(reason)), expected);
        }
    }

    #[test]
    fn a_request_names_its_host_as_its_protocol_does() {
        let url: Url = "https://hooks.example:8443/a?b=c#d".parse().unwrap();
        let request = Request { url: &url, headers: HeaderMap::new(), body: Bytes::from_static(b"{}") };
        let http1 = request.build(false).unwrap();
        assert_eq!(
            (http1.uri().to_string(), &http1.headers()[HOST]),
            ("/a?b=c".to_owned(), &HeaderValue::from_static("hooks.example:8443"))
        );
        let http2 = request.build(true).unwrap();
        assert_eq!(
            (http2.uri().to_string(), http2.headers().get(HOST)),
            ("https://hooks.example:8443/a?b=c".to_owned(), None)
        );
        let url: Url = "https://hooks.example/".parse().unwrap();
        let request = Request { url: &url, headers: HeaderMap::new(), body: Bytes::new() };
        assert_eq!(request.build(false).unwrap().headers()[HOST], "hooks.example");
    }
}
