//! Topics of Google Cloud Pub/Sub: `publish`, in JSON over REST.
//!
//! Google's client libraries speak gRPC: a second HTTP stack of some sixty crates, for one call that REST has too.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};
use moka::sync::Cache;
use serde::Deserialize;
use shopery_model::{CloudKey, Credentials, Destination, DestinationKind, Fault, GoogleKey, SignatureKind, Topic};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::batch::Requests;
use super::client::{Client, Response};
use super::event_bridge::Metadata;
use super::google::{Account, TokenSource};
use super::label::LabelSource;
use super::principals::{OwnPrincipals, Principal, PrincipalId};
use super::refusal::{Refusal, Sent};
use super::renewal::{Fetches, Missing, Renewing};
use super::tenant::tenant_label;
use super::{Cloud, Clouds};
use crate::Message;
use crate::failure::SenderFault;

/// Google takes 10 MB; what is around the messages is small.
const MAX_BYTES: usize = 9_000_000;
const MAX_ORDERING_KEY: usize = 1024;
/// Topics whose label is known, and for how long after their last use.
const MAX_LABELS: u64 = 10_000;
const LABEL_IDLE: std::time::Duration = std::time::Duration::from_secs(60 * 60);

pub(crate) struct PubSub {
    clouds: Clouds,
    api: Arc<Api>,
    own: OwnPrincipals<TokenSource>,
    fetches: Fetches,
    labels: Cache<(String, Topic), Renewing<LabelSource>>,
}

/// Google's, or an emulator's.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    /// With its last slash.
    base: String,
    /// `None` if there is none, or nobody asks who we are.
    platform: Option<Principal<TokenSource>>,
}

/// What is sent together: to one topic, by one principal, and with one ordering key, as Google has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// `None` of the platform, where nobody asks who we are.
    principal: Option<Principal<TokenSource>>,
    topic: Topic,
    ordering_key: Option<String>,
}

/// A message as it is written in a request.
#[derive(Debug)]
pub(crate) struct Entry(String);

impl PubSub {
    pub(crate) fn new(clouds: &Clouds, client: &Client, fetches: Fetches) -> Self {
        let base = match &clouds.pub_sub_emulator {
            Some(emulator) => emulator.to_string(),
            None => format!("https://{}/", Topic::HOST),
        };
        let account = clouds.google.clone().filter(|_| clouds.pub_sub_emulator.is_none()).map(Account::Platform);
        let platform = account
            .map(|account| Principal::platform(TokenSource { client: client.clone(), account }, fetches.clone()));
        let labels = Cache::builder().max_capacity(MAX_LABELS).time_to_idle(LABEL_IDLE).build();
        let api = Arc::new(Api { client: client.clone(), base, platform });
        Self { clouds: clouds.clone(), api, own: OwnPrincipals::new(), fetches, labels }
    }

    /// Fetches a token ahead: it brings the name of the account, which is shown to merchants.
    pub(crate) fn warm_up(&self) {
        if let Some(platform) = self.api.platform.clone() {
            tokio::spawn(async move {
                // What is wrong is in the log, and it is tried again when it is needed.
                let _ = platform.proof(Instant::now() + super::TIMEOUT).await;
            });
        }
    }

    fn own(&self, key: &GoogleKey) -> Principal<TokenSource> {
        let GoogleKey { client_email, private_key_id, private_key } = key;
        let id = PrincipalId::of(&[client_email, private_key_id, private_key.expose()]);
        self.own.get(id, || {
            let source = TokenSource { client: self.api.client.clone(), account: Account::Own(key.clone()) };
            (source, self.fetches.clone())
        })
    }
}

impl Requests for PubSub {
    type Route = Route;
    /// As Google counts: by the project. Which is the caller's, of whom we know the key.
    type Account = (PrincipalId, String);
    type Entry = Entry;

    const MAX_ENTRIES: usize = 1000;
    const MAX_BYTES: usize = MAX_BYTES;

    fn account(route: &Route) -> Self::Account {
        let id = route.principal.as_ref().map_or(PrincipalId::Platform, |principal| principal.id);
        (id, route.topic.project.clone())
    }

    fn is_serial(route: &Route) -> bool {
        route.ordering_key.is_some()
    }

    fn size(entry: &Entry) -> usize {
        entry.0.len() + 1
    }

    async fn send(&self, route: &Route, entries: &[Entry], deadline: Instant) -> Result<Vec<Sent>, Refusal> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct PublishResponse {
            message_ids: Vec<String>,
        }
        let messages: Vec<_> = entries.iter().map(|entry| entry.0.as_str()).collect();
        let body = [r#"{"messages":["#, &messages.join(","), "]}"].concat();
        let call = Call { topic: &route.topic, principal: route.principal.as_ref(), publish: Some(body.into()) };
        let response = self.api.call(call, deadline).await?;
        let read: Option<PublishResponse> = serde_json::from_slice(&response.body).ok();
        let ids = read.map(|read| read.message_ids).filter(|ids| ids.len() == entries.len());
        ids.map(|ids| ids.into_iter().map(Ok).collect()).ok_or_else(|| Refusal::unreadable("Pub/Sub"))
    }
}

impl Cloud for PubSub {
    type Address = Topic;

    fn route(&self, topic: &Topic, own: Option<&CloudKey>, message: &Message<'_>) -> Result<Route, Refusal> {
        let principal = match own {
            Some(CloudKey::Google(key)) => Some(self.own(key)),
            Some(CloudKey::Aws(_)) => {
                let objection = self.clouds.objection(&Destination::PubSub(topic.clone()), own);
                let why = objection.map(|it| format!("{} {}", it.field, it.detail)).unwrap_or_default();
                return Err(Refusal::new(Fault::AccessDenied, why));
            }
            None if self.api.platform.is_none() && self.clouds.pub_sub_emulator.is_none() => {
                return Err(Refusal::ours(SenderFault::CloudCredentials));
            }
            None => self.api.platform.clone(),
        };
        let ordering_key = message.ordering_key.filter(|key| key.len() <= MAX_ORDERING_KEY).map(str::to_owned);
        Ok(Route { principal, topic: topic.clone(), ordering_key })
    }

    fn prepare(
        &self,
        _: &Topic,
        message: &Message<'_>,
        credentials: &Credentials,
        now: OffsetDateTime,
    ) -> Result<Entry, Refusal> {
        let Message { webhook_id, payload, .. } = message;
        let signatures = credentials.signatures(SignatureKind::Symmetric, webhook_id, now, payload);
        let attributes = Metadata(message.metadata(DestinationKind::PubSub, &signatures, now));
        let rejected = |why: &str| Refusal::new(Fault::MessageRejected, why);
        let as_json = |error: serde_json::Error| rejected(&error.to_string());
        let attributes = serde_json::to_string(&attributes).map_err(as_json)?;
        let mut json = String::with_capacity(payload.len() / 3 * 4 + attributes.len() + 128);
        json.push_str(r#"{"data":""#);
        STANDARD.encode_string(payload, &mut json);
        json.push_str(r#"","attributes":"#);
        json.push_str(&attributes);
        if let Some(key) = message.ordering_key.filter(|key| key.len() <= MAX_ORDERING_KEY) {
            json.push_str(r#","orderingKey":"#);
            json.push_str(&serde_json::to_string(key).map_err(as_json)?);
        }
        json.push('}');
        if json.len() > MAX_BYTES {
            return Err(rejected(&format!("a topic takes 9 MB, and this would be {} bytes", json.len())));
        }
        Ok(Entry(json))
    }

    /// With the platform's principal a topic has to carry the label of the tenant; with one of its own a tenant sends wherever that
    /// may.
    async fn permit(&self, route: &Route, tenant: &str, is_asked_anew: bool, deadline: Instant) -> Result<(), Refusal> {
        if route.principal.as_ref().is_some_and(|principal| principal.id != PrincipalId::Platform) {
            return Ok(());
        }
        let (label, topic) = (tenant_label(tenant), &route.topic);
        let source = || LabelSource { api: self.api.clone(), topic: topic.clone(), label: label.clone() };
        if is_asked_anew {
            return source().check(deadline).await;
        }
        let key = (label.clone(), topic.clone());
        let known = self.labels.get_with(key, || Renewing::new(source(), Fetches::default()));
        known.get(deadline).await.map_err(|missing| match missing {
            Missing::Failed(refusal) => refusal,
            Missing::Late => Refusal::new(Fault::Timeout, "the labels of the topic were not told in time"),
        })
    }
}

/// Something that is asked of a topic.
struct Call<'a> {
    topic: &'a Topic,
    principal: Option<&'a Principal<TokenSource>>,
    /// To publish this; otherwise the topic is read.
    publish: Option<Bytes>,
}

impl Api {
    /// The labels of a topic are asked for by the platform.
    pub(crate) async fn read_topic(&self, topic: &Topic, deadline: Instant) -> Result<Response, Refusal> {
        self.call(Call { topic, principal: self.platform.as_ref(), publish: None }, deadline).await
    }

    /// A response with a status of success.
    async fn call(&self, call: Call<'_>, deadline: Instant) -> Result<Response, Refusal> {
        let Call { topic, principal, publish } = call;
        let used = Instant::now();
        let token = match principal {
            Some(principal) => Some(principal.proof(deadline).await?),
            None => None,
        };
        // The one character that a topic's name may have and a path may not.
        let url = format!("{}v1/{}", self.base, topic.path().replace('%', "%25"));
        let request = match publish {
            Some(body) => Request::post(format!("{url}:publish"))
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(body),
            None => Request::get(url).body(Bytes::new()),
        };
        let mut request =
            request.map_err(|_| Refusal::new(Fault::DestinationNotFound, "the name of the topic is none"))?;
        if let Some(token) = token {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let response = self.client.send(request, deadline).await?;
        if response.status.is_success() {
            return Ok(response);
        }
        Err(match read_error(&response) {
            Refused::Request(refusal) => refusal,
            Refused::Key(_) if response.says_our_clock_is_off() => Refusal::ours(SenderFault::Clock),
            Refused::Key(refusal) => match principal {
                Some(principal) if principal.id != PrincipalId::Platform => refusal,
                _ => {
                    if let Some(principal) = principal {
                        principal.refused(used);
                    }
                    tracing::error!("Google refuses the token of the platform's service account");
                    Refusal::ours(SenderFault::CloudCredentials)
                }
            },
        })
    }
}

enum Refused {
    Request(Refusal),
    /// The token. What Google says of it is not quoted.
    Key(Refusal),
}

fn read_error(response: &Response) -> Refused {
    #[derive(Default, Deserialize)]
    struct Body {
        #[serde(default)]
        error: Error,
    }
    #[derive(Default, Deserialize)]
    struct Error {
        #[serde(default)]
        status: String,
        #[serde(default)]
        message: String,
    }
    let Body { error } = serde_json::from_slice(&response.body).unwrap_or_default();
    let (code, status) = (error.status.as_str(), response.status);
    if code == "UNAUTHENTICATED" || status == StatusCode::UNAUTHORIZED {
        let why = "Google does not know the key of the service account, or it was disabled";
        return Refused::Key(Refusal::new(Fault::AccessDenied, why).with_code(code));
    }
    let fault = fault(code, status);
    let words = match fault {
        Fault::AccessDenied => "the topic does not let us publish".to_owned(),
        Fault::DestinationNotFound => "there is no such topic".to_owned(),
        Fault::Throttled => "the project takes no more for now".to_owned(),
        Fault::MessageRejected => "the topic does not take this message".to_owned(),
        _ => format!("Pub/Sub failed with status {}", status.as_u16()),
    };
    let refusal = Refusal::new(fault, words).with_code(code).saying(&error.message);
    Refused::Request(if fault == Fault::Throttled { refusal.after(response.retry_after()) } else { refusal })
}

fn fault(code: &str, status: StatusCode) -> Fault {
    match code {
        "PERMISSION_DENIED" => Fault::AccessDenied,
        "NOT_FOUND" => Fault::DestinationNotFound,
        "RESOURCE_EXHAUSTED" => Fault::Throttled,
        "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE" => Fault::MessageRejected,
        _ if status == StatusCode::TOO_MANY_REQUESTS => Fault::Throttled,
        _ if status == StatusCode::PAYLOAD_TOO_LARGE => Fault::MessageRejected,
        _ => Fault::ProviderError,
    }
}

#[cfg(test)]
mod tests;
