//! Servers that stand where a cloud is, for the tests of this crate: they answer as they are told, and note what they were asked.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use shopery_model::{AwsKey, CloudKey, Credentials, EndpointSecret, GoogleKey, PayloadFormat};
use shopery_runtime::{Env, Runtime};
use time::OffsetDateTime;
use time::macros::datetime;

use super::{CloudSender, Posting};
use crate::{Config, Message};

pub(crate) const NOW: OffsetDateTime = datetime!(2026-12-01 10:00:00 UTC);
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const BUS: &str = "arn:aws:events:eu-west-1:123456789012:event-bus/orders";
pub(crate) const ROLE: &str = "arn:aws:iam::999999999999:role/shopery";

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) what: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

/// The next answers; the last one is given again and again.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

pub(crate) fn says(status: u16, body: impl Into<String>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into() }
}

impl Answer {
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Server {
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        let server = Self { url, asked: Arc::default(), answers };
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        server
    }

    pub(crate) fn host(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// What it was asked since somebody looked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    pub(crate) fn now_says(&self, answers: impl IntoIterator<Item = Answer>) {
        *self.answers.lock().unwrap() = answers.into_iter().collect();
    }
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let what = format!("{} {}", head.method, head.uri);
    let body = String::from_utf8(body.into()).unwrap();
    server.asked.lock().unwrap().push(Asked { what, headers: head.headers, body });
    let answer = {
        let mut answers = server.answers.lock().unwrap();
        if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
    };
    let Some(Answer { status, headers, body }) = answer else { return std::future::pending().await };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

pub(crate) fn clouds(variables: &[(&str, &str)]) -> CloudSender {
    let mut env = Env::of(variables.iter().copied());
    let config = Config::read(&mut env);
    CloudSender::new(&env.finish(config).unwrap(), &Runtime::default()).unwrap()
}

pub(crate) fn credentials(cloud: Option<CloudKey>) -> Credentials {
    let mut credentials = Credentials::new(EndpointSecret::parse(SECRET).unwrap());
    credentials.cloud = cloud;
    credentials
}

pub(crate) const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
pub(crate) const KEY_SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

pub(crate) fn aws_key(role: Option<&str>) -> CloudKey {
    CloudKey::Aws(AwsKey::parse(KEY_ID, KEY_SECRET, role, role.map(|_| "tnt_8w2k"), None).unwrap())
}

/// The key of a service account, private and public, as PEM.
pub(crate) static RSA: LazyLock<[String; 2]> = LazyLock::new(|| {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).unwrap();
    let public = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
    [pem("PRIVATE", private.as_ref()), pem("PUBLIC", public.as_ref())]
});

fn pem(what: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {what} KEY-----\n{}\n-----END {what} KEY-----\n", lines.join("\n"))
}

pub(crate) fn google_key() -> CloudKey {
    let email = "shop@shop-analytics.iam.gserviceaccount.com";
    CloudKey::Google(GoogleKey::parse(email, "0a1b2c", &RSA[0], None).unwrap())
}

pub(crate) fn message(payload: &'static str) -> Message<'static> {
    Message {
        webhook_id: "dlv_01HA4XCG60CT4G3EWF4CKYM1MF".to_owned(),
        event: "order-paid",
        event_id: "evt 1",
        event_source: "orders",
        webhook: Some("wbh_01HA4XCG60CT4G3EWF4CKYM1MF".to_owned()),
        tenant: "acme",
        triggered_at: datetime!(2026-12-01 09:59:58.123 UTC),
        payload_of: None,
        changed: &[],
        changed_omitted: 0,
        ordering_key: None,
        attempt: 2,
        is_test: false,
        format: PayloadFormat::Resource,
        payload: payload.into(),
    }
}

pub(crate) fn posting<'a>(message: &'a Message<'a>, credentials: &'a Credentials) -> Posting<'a> {
    Posting { message, credentials, now: NOW, is_alone: false }
}
