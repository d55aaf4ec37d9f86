//! Who asks for a page, in which language; and how a call of the API that failed becomes a page.

use std::borrow::Cow;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::de::DeserializeOwned;
use shopery_client::{Answer, Caller, Error, Problem, Request};
use time::OffsetDateTime;
use url::form_urlencoded::byte_serialize;

use crate::form::Sent;
use crate::session::Session;
use crate::sign_in::ended_page;
use crate::texts::{Language, Texts};
use crate::{App, Origin, layout, live};

/// A person who has signed in.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) app: App,
    pub(crate) session: Session,
    pub(crate) texts: &'static Texts,
    /// The path and query of the page: of the request, or the one that has the form.
    pub(crate) here: String,
    /// Whether only a part of that page is asked for.
    pub(crate) is_part: bool,
    /// What that part shows already.
    pub(crate) shown: Option<String>,
    pub(crate) origin: Option<IpAddr>,
    /// What was typed, if a form was sent.
    pub(crate) sent: Option<Arc<Sent>>,
}

/// A page that says why another one is not shown.
#[derive(Debug)]
pub(crate) enum NoPage {
    /// Whoever asks has to sign in first, and comes back to this path then.
    SignIn {
        back: String,
        /// A part of a page was asked for: the whole page has to go there.
        is_part: bool,
    },
    /// The same, of a form: what was typed is kept.
    Ended {
        sent: Arc<Sent>,
        app: Box<App>,
        texts: &'static Texts,
    },
    Api {
        error: Error,
        visitor: Box<Visitor>,
    },
    /// A form that is not of this session.
    Forged {
        texts: &'static Texts,
    },
    /// A form that cannot be read.
    Malformed {
        texts: &'static Texts,
    },
}

impl FromRequestParts<App> for Visitor {
    type Rejection = NoPage;

    fn from_request_parts(parts: &mut Parts, app: &App) -> impl Future<Output = Result<Self, NoPage>> + Send {
        let here = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let session = Session::of(&parts.headers, &app.keys, app.is_secure());
        let session = session.filter(|session| !session.is_over(OffsetDateTime::now_utc()));
        let texts = Language::of(&parts.headers).texts();
        let origin = parts.extensions.get::<Origin>().map(|origin| origin.0);
        let page = live::page_of(&parts.headers);
        let is_part = page.is_some();
        let here = page.unwrap_or(here);
        let visitor = session.map(|session| Self {
            app: app.clone(),
            session,
            texts,
            here: here.clone(),
            is_part,
            shown: live::shown(&parts.headers),
            origin,
            sent: None,
        });
        std::future::ready(visitor.ok_or(NoPage::SignIn { back: here, is_part }))
    }
}

impl App {
    pub(crate) fn is_secure(&self) -> bool {
        self.url.scheme() == "https"
    }
}

impl Visitor {
    pub(crate) async fn send(&self, request: Request) -> Result<Answer, NoPage> {
        self.try_send(request).await.map_err(|error| self.failed(error))
    }

    pub(crate) async fn try_send(&self, request: Request) -> Result<Answer, Error> {
        let (base, token) = (&self.app.api_url, &self.session.token);
        let caller = Caller { base, tenant: &self.session.tenant, token, forwarded_for: self.origin };
        self.app.client.send(caller, &request, |_, _| {}).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&'static str, String)],
    ) -> Result<T, NoPage> {
        let answer = self.send(Request::get(path).query(query)).await?;
        answer.read().map_err(|error| self.failed(error))
    }

    pub(crate) fn failed(&self, error: Error) -> NoPage {
        match error {
            Error::Refused(problem) if problem.status == 401 => self.sign_in_again(),
            error => NoPage::Api { error, visitor: Box::new(self.clone()) },
        }
    }

    pub(crate) fn sign_in_again(&self) -> NoPage {
        match &self.sent {
            Some(sent) => NoPage::Ended { sent: sent.clone(), app: Box::new(self.app.clone()), texts: self.texts },
            None => NoPage::SignIn { back: self.here.clone(), is_part: self.is_part },
        }
    }
}

/// Where to go after signing in: a path of ours, never another host.
pub(crate) fn path_of_ours(path: &str) -> &str {
    // Browsers leave tabs and line breaks of a URL away, and take a backslash for a slash.
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_ours = path.starts_with('/') && !path.starts_with("//") && is_plain;
    if is_ours { path } else { "/" }
}

pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    Cow::Owned(byte_serialize(text.as_bytes()).collect())
}

impl IntoResponse for NoPage {
    fn into_response(self) -> Response {
        match self {
            Self::SignIn { back, is_part } => {
                let sign_in = format!("/sign-in?back={}", escaped(&back));
                if is_part {
                    return (StatusCode::UNAUTHORIZED, [("hx-redirect", sign_in)]).into_response();
                }
                Redirect::to(&sign_in).into_response()
            }
            Self::Ended { sent, app, texts } => {
                (StatusCode::FORBIDDEN, html(ended_page(&app, texts, &sent))).into_response()
            }
            Self::Forged { texts } => {
                let page = layout::bare(texts, texts.refused, texts.forged);
                (StatusCode::FORBIDDEN, html(page)).into_response()
            }
            Self::Malformed { texts } => {
                let page = layout::bare(texts, texts.refused, texts.malformed);
                (StatusCode::BAD_REQUEST, html(page)).into_response()
            }
            Self::Api { error, visitor } => {
                let texts = visitor.texts;
                let (status, title, why) = match &error {
                    Error::Refused(problem) if problem.status == 404 => {
                        (StatusCode::NOT_FOUND, texts.not_found, texts.not_found_why.to_owned())
                    }
                    Error::Refused(problem) if problem.status == 403 => {
                        (StatusCode::FORBIDDEN, texts.not_allowed, problem.detail.clone())
                    }
                    Error::Refused(problem) => {
                        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
                        (status, texts.refused, told(problem))
                    }
                    other => {
                        tracing::warn!(error = %other, "the API does not answer");
                        (StatusCode::BAD_GATEWAY, texts.unavailable, texts.unavailable_why.to_owned())
                    }
                };
                (status, html(layout::problem(&visitor, title, &why))).into_response()
            }
        }
    }
}

/// What is wrong, in a line.
pub(crate) fn told(problem: &Problem) -> String {
    if problem.detail.is_empty() { problem.title.clone() } else { problem.detail.clone() }
}

pub(crate) fn html(page: String) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_elsewhere() {
        for (asked, taken) in [
            ("/webhooks?q=a", "/webhooks?q=a"),
            ("//evil.example", "/"),
            ("https://evil.example", "/"),
            ("/\\evil.example", "/"),
            ("", "/"),
            ("/a\r\nb", "/"),
            ("/\t/evil.example", "/"),
            ("/ñ", "/"),
        ] {
            assert_eq!(path_of_ours(asked), taken, "{asked}");
        }
    }
}
