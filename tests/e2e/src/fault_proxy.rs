//! A proxy in front of an emulator that fails as the cloud itself does, as a test tells it, destination by destination, and
//! remembers every request. Emulators hardly ever fail.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use shopery_model::DestinationKind;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::ports;

/// The destination of what is asked of Amazon's STS: keys for a role.
pub const STS: &str = "sts";

/// What requests to publish meet.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The whole request is refused with this status, and what the cloud calls that.
    Refuse { status: u16, code: &'static str },
    /// The request is taken and never answered.
    Hang,
    /// Of EventBridge: of the entries that come for the first time every second one is refused, alone. It is taken when it comes again.
    RefuseEveryOther { code: &'static str },
    /// Of EventBridge: entries with this text are refused, whenever they come.
    RefuseText { code: &'static str, text: String },
}

impl Fault {
    /// It does not let us publish.
    pub fn denied(kind: DestinationKind) -> Self {
        match kind {
            DestinationKind::PubSub => Self::Refuse { status: 403, code: "PERMISSION_DENIED" },
            _ => Self::Refuse { status: 400, code: "AccessDeniedException" },
        }
    }

    /// The account or project has reached a limit.
    pub fn throttled(kind: DestinationKind) -> Self {
        match kind {
            DestinationKind::PubSub => Self::Refuse { status: 429, code: "RESOURCE_EXHAUSTED" },
            _ => Self::Refuse { status: 400, code: "ThrottlingException" },
        }
    }

    /// The cloud fails.
    pub fn broken(kind: DestinationKind) -> Self {
        match kind {
            DestinationKind::PubSub => Self::Refuse { status: 503, code: "UNAVAILABLE" },
            _ => Self::Refuse { status: 500, code: "InternalFailure" },
        }
    }

    /// What the cloud calls it; empty if it says nothing.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refuse { code, .. } | Self::RefuseEveryOther { code } | Self::RefuseText { code, .. } => code,
            Self::Hang => "",
        }
    }
}

/// A request as it came.
#[derive(Debug)]
pub struct Request {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What it was to publish; of other requests nothing.
    pub entries: Vec<Entry>,
    answer: OnceLock<Answered>,
}

#[derive(Debug)]
struct Answered {
    status: u16,
    body: Bytes,
    /// By place, those entries that were refused alone.
    refused: HashSet<usize>,
}

/// One message of a request.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As a webhook's `url` names it.
    pub destination: String,
    /// Of EventBridge.
    pub source: String,
    /// What HTTPS has as headers, by the names as they came.
    pub names: BTreeMap<String, String>,
    /// The payload as text: of EventBridge that within `Detail`.
    pub payload: String,
    pub ordering_key: Option<String>,
}

impl Entry {
    /// A test, as the Test call sends it; also whoever saves a webhook.
    pub fn is_test(&self) -> bool {
        self.name("x-shopery-test") == "true"
    }

    /// Empty if it is not there.
    pub fn name(&self, name: &str) -> &str {
        let found = self.names.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

impl Request {
    /// The entries, and whether each was accepted.
    pub fn outcomes(&self) -> impl Iterator<Item = (&Entry, bool)> {
        let accepted = self.answer.get().filter(|answer| answer.status == 200);
        let is_accepted = move |place| accepted.is_some_and(|answer| !answer.refused.contains(&place));
        self.entries.iter().enumerate().map(move |(place, entry)| (entry, is_accepted(place)))
    }

    /// The status that it was answered with; 0 if it was not.
    pub fn status(&self) -> u16 {
        self.answer.get().map_or(0, |answer| answer.status)
    }

    /// What it was answered; empty if it was not.
    pub fn answer(&self) -> String {
        self.answer.get().map(|answer| String::from_utf8_lossy(&answer.body).into_owned()).unwrap_or_default()
    }

    /// A header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Rule {
    fault: Fault,
    /// How many more requests meet it; `None` is all.
    left: Option<usize>,
    /// The entries that have come before, by `webhook-id`.
    seen: HashSet<String>,
    came: usize,
}

#[derive(Debug)]
struct Shared {
    kind: DestinationKind,
    upstream: String,
    http: reqwest::Client,
    rules: Mutex<HashMap<String, Rule>>,
    requests: Mutex<Vec<Arc<Request>>>,
}

/// What is done with a request.
enum Plan {
    Forward { refused: HashMap<usize, &'static str> },
    Refuse { status: u16, code: &'static str },
    Hang,
}

#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
    _server: AbortOnDropHandle<()>,
}

impl FaultProxy {
    /// In front of the emulator at `upstream`, `http://127.0.0.1:<port>`.
    pub async fn start(kind: DestinationKind, upstream: String) -> Self {
        let port = ports::free();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        // No connection is kept: one that the emulator is about to close would be a fault that no test has asked for.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let shared = Arc::new(Shared { kind, upstream, http, rules: Mutex::default(), requests: Mutex::default() });
        let routes = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(shared.clone());
        let server = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }));
        Self { port, shared, _server: server }
    }

    /// `127.0.0.1:<port>`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on what is published to this destination, an address of a webhook or [`STS`], meets this.
    pub fn behave(&self, destination: &str, fault: Fault) {
        self.set(destination, fault, None);
    }

    /// The next requests do, and none after them.
    pub fn behave_times(&self, destination: &str, fault: Fault, times: usize) {
        self.set(destination, fault, Some(times));
    }

    fn set(&self, destination: &str, fault: Fault, left: Option<usize>) {
        let rule = Rule { fault, left, seen: HashSet::new(), came: 0 };
        self.shared.rules.lock().unwrap().insert(destination.to_owned(), rule);
    }

    /// From now on this destination works.
    pub fn heal(&self, destination: &str) {
        self.shared.rules.lock().unwrap().remove(destination);
    }

    pub fn requests(&self) -> Vec<Arc<Request>> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The requests to publish something to a destination, tests left out.
    pub fn requests_to(&self, destination: &str) -> Vec<Arc<Request>> {
        let is_of_it = |entry: &Entry| entry.destination == destination && !entry.is_test();
        self.requests().into_iter().filter(|request| request.entries.iter().any(is_of_it)).collect()
    }

    /// What was to be published to a destination, tests left out, in the order in which it came, and whether it was accepted.
    pub fn attempts_at(&self, destination: &str) -> Vec<(Instant, Entry, bool)> {
        let mut attempts = vec![];
        for request in self.requests_to(destination) {
            let of_it = request.outcomes().filter(|(entry, _)| entry.destination == destination && !entry.is_test());
            attempts.extend(of_it.map(|(entry, is_accepted)| (request.at, entry.clone(), is_accepted)));
        }
        attempts
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap, Bytes) {
    let request = Arc::new(Request {
        at: Instant::now(),
        method: method.to_string(),
        path: uri.path().to_owned(),
        headers: headers.clone(),
        body: body.clone(),
        entries: entries(shared.kind, uri.path(), &body),
        answer: OnceLock::new(),
    });
    shared.requests.lock().unwrap().push(request.clone());
    let is_sts = body.starts_with(b"Action=Assume");
    let destinations = request.entries.iter().map(|entry| entry.destination.as_str()).chain(is_sts.then_some(STS));
    let plan = plan(&mut shared.rules.lock().unwrap(), destinations, &request.entries);
    let (status, headers, body, refused) = match plan {
        Plan::Hang => std::future::pending().await,
        Plan::Refuse { status, code } => {
            let (kind, body) = refusal(shared.kind, status, code);
            (status, HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]), body, HashSet::new())
        }
        Plan::Forward { refused } => {
            let (status, headers, body) = shared.forward(method, &uri, headers, body, &refused).await;
            (status, headers, body, refused.into_keys().collect())
        }
    };
    // Before its sender can know.
    let _ = request.answer.set(Answered { status, body: body.clone(), refused });
    (StatusCode::from_u16(status).unwrap(), headers, body)
}

/// A request to several destinations meets the first of their faults that is for all of it.
fn plan<'a>(rules: &mut HashMap<String, Rule>, destinations: impl Iterator<Item = &'a str>, entries: &[Entry]) -> Plan {
    let (mut refused, mut met) = (HashMap::new(), HashSet::new());
    for destination in destinations.filter(|destination| met.insert(*destination)) {
        let Some(rule) = rules.get_mut(destination) else { continue };
        match &mut rule.left {
            Some(0) => continue,
            Some(left) => *left -= 1,
            None => {}
        }
        match &rule.fault {
            Fault::Refuse { status, code } => return Plan::Refuse { status: *status, code },
            Fault::Hang => return Plan::Hang,
            Fault::RefuseEveryOther { .. } | Fault::RefuseText { .. } => {
                let of_it = entries.iter().enumerate().filter(|(_, entry)| entry.destination == destination);
                for (place, entry) in of_it {
                    if rule.refuses(entry) {
                        refused.insert(place, rule.fault.code());
                    }
                }
            }
        }
    }
    Plan::Forward { refused }
}

impl Rule {
    fn refuses(&mut self, entry: &Entry) -> bool {
        match &self.fault {
            Fault::RefuseEveryOther { .. } => {
                let is_new = self.seen.insert(entry.name("webhook-id").to_owned());
                self.came += usize::from(is_new);
                is_new && self.came.is_multiple_of(2)
            }
            Fault::RefuseText { text, .. } => entry.payload.contains(text.as_str()),
            Fault::Refuse { .. } | Fault::Hang => false,
        }
    }
}

/// Content type and body of a refusal, as the clouds write them.
fn refusal(kind: DestinationKind, status: u16, code: &str) -> (&'static str, Bytes) {
    let told = "refused by the proxy of a test";
    match kind {
        DestinationKind::PubSub => {
            let body = json!({ "error": { "code": status, "message": told, "status": code } });
            ("application/json; charset=UTF-8", body.to_string().into())
        }
        _ => ("application/x-amz-json-1.1", json!({ "__type": code, "message": told }).to_string().into()),
    }
}

impl Shared {
    /// Asks the emulator, without what is refused here.
    async fn forward(
        &self,
        method: Method,
        uri: &Uri,
        headers: HeaderMap,
        body: Bytes,
        refused: &HashMap<usize, &'static str>,
    ) -> (u16, HeaderMap, Bytes) {
        if refused.is_empty() {
            return self.ask(method, uri, headers, body).await;
        }
        let asked: Value = serde_json::from_slice(&body).unwrap();
        let asked = asked["Entries"].as_array().unwrap();
        let others = asked.iter().enumerate().filter(|(place, _)| !refused.contains_key(place));
        let others: Vec<_> = others.map(|(_, entry)| entry).collect();
        let (status, headers, answer) = if others.is_empty() {
            let kind = HeaderValue::from_static("application/x-amz-json-1.1");
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind)]);
            (200, headers, Bytes::from_static(br#"{"Entries":[]}"#))
        } else {
            self.ask(method, uri, headers, json!({ "Entries": others }).to_string().into()).await
        };
        if status != 200 {
            return (status, headers, answer);
        }
        let answered: Value = serde_json::from_slice(&answer).unwrap();
        let mut taken = answered["Entries"].as_array().unwrap().iter().cloned();
        let entry = |place| match refused.get(&place) {
            Some(code) => json!({ "ErrorCode": code, "ErrorMessage": "refused by the proxy of a test" }),
            None => taken.next().expect("an answer for each entry"),
        };
        let entries: Vec<Value> = (0..asked.len()).map(entry).collect();
        let merged = json!({ "FailedEntryCount": refused.len(), "Entries": entries });
        (status, headers, merged.to_string().into())
    }

    async fn ask(&self, method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> (u16, HeaderMap, Bytes) {
        let of_a_connection = [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];
        let strip = |mut headers: HeaderMap| {
            for name in &of_a_connection {
                headers.remove(name);
            }
            headers
        };
        let url = format!("{}{}", self.upstream, uri.path_and_query().map_or("/", |path| path.as_str()));
        let request = self.http.request(method, url).headers(strip(headers)).body(body);
        match request.send().await {
            Ok(answer) => {
                let (status, headers) = (answer.status().as_u16(), strip(answer.headers().clone()));
                (status, headers, answer.bytes().await.unwrap_or_default())
            }
            Err(error) => (502, HeaderMap::new(), format!("the emulator does not answer: {error}").into()),
        }
    }
}

/// What a request is to publish.
fn entries(kind: DestinationKind, path: &str, body: &Bytes) -> Vec<Entry> {
    let names = |value: &Value| -> BTreeMap<String, String> {
        let members = value.as_object().into_iter().flatten();
        members.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    match kind {
        DestinationKind::PubSub => {
            let topic = path.strip_prefix("/v1/projects/").and_then(|path| path.strip_suffix(":publish"));
            let Some((project, topic)) = topic.and_then(|topic| topic.split_once("/topics/")) else { return vec![] };
            let destination = format!("pubsub://{project}/{topic}");
            let entry = |message: &Value| Entry {
                destination: destination.clone(),
                source: String::new(),
                names: names(&message["attributes"]),
                payload: String::from_utf8(STANDARD.decode(text(&message["data"])).unwrap()).unwrap(),
                ordering_key: message["orderingKey"].as_str().map(str::to_owned),
            };
            asked["messages"].as_array().into_iter().flatten().map(entry).collect()
        }
        _ => {
            let entry = |entry: &Value| {
                let detail: Value = serde_json::from_str(&text(&entry["Detail"])).unwrap_or_default();
                Entry {
                    destination: text(&entry["EventBusName"]),
                    source: text(&entry["Source"]),
                    names: names(&detail["metadata"]),
                    payload: detail["payload"].to_string(),
                    ordering_key: None,
                }
            };
            asked["Entries"].as_array().into_iter().flatten().map(entry).collect()
        }
    }
}
