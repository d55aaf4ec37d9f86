//! Event buses of Amazon EventBridge: `PutEvents`, in JSON.
//!
//! A request has messages for one bus, though it could have some for several: Amazon decides about a request as a whole whether it is
//! allowed, so the bus of one merchant would keep out the messages of others.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::{Deserialize, Serialize, Serializer};
use shopery_model::{
    AwsKey, CloudKey, Credentials, Destination, DestinationKind, EventBus, Fault, Partition, SignatureKind,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use url::Url;

use super::aws::{self, Call, KeySource, is_bad_key, signed};
use super::batch::Requests;
use super::client::{Client, Response};
use super::principals::{OwnPrincipals, Principal, PrincipalId};
use super::refusal::{Refusal, Sent};
use super::renewal::Fetches;
use super::tenant::bus_source;
use super::{Cloud, Clouds};
use crate::Message;
use crate::failure::SenderFault;

/// Amazon counts the bytes of an entry's texts, and these for its time.
const TIME_BYTES: usize = 14;
/// All entries of a request together must have fewer bytes.
const MAX_BYTES: usize = 1024 * 1024 - 1;
/// How long it counts that a region has taken the platform's keys.
const JUST_NOW: Duration = Duration::from_secs(60);
const SERVICE: &str = "events";
const HEADERS: [(&str, &str); 2] =
    [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", "AWSEvents.PutEvents")];

pub(crate) struct EventBridge {
    clouds: Clouds,
    client: Client,
    platform: Option<Principal<KeySource>>,
    own: OwnPrincipals<KeySource>,
    fetches: Fetches,
    /// The region that has taken the platform's keys last, and when.
    taken_by: Mutex<Option<(String, Instant)>>,
}

/// One bus, and who sends to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    principal: Principal<KeySource>,
    bus: EventBus,
}

/// An entry as it is written in a request.
#[derive(Debug)]
pub(crate) struct Entry {
    json: Vec<u8>,
    /// As Amazon counts it.
    size: usize,
}

impl EventBridge {
    pub(crate) fn new(clouds: &Clouds, client: &Client, fetches: Fetches) -> Self {
        let platform = clouds.aws.as_ref().map(|principal| {
            let principal = aws::Principal::Platform(principal.keys.clone());
            let source = KeySource { client: client.clone(), endpoint: clouds.aws_endpoint.clone(), principal };
            let fetches = if source.principal.is_renewed() { fetches.clone() } else { Fetches::default() };
            Principal::platform(source, fetches)
        });
        Self {
            clouds: clouds.clone(),
            client: client.clone(),
            platform,
            own: OwnPrincipals::new(),
            fetches,
            taken_by: Mutex::default(),
        }
    }

    fn own(&self, key: &AwsKey, bus: &EventBus) -> Principal<KeySource> {
        let AwsKey { access_key_id, secret_access_key, role_arn, external_id } = key;
        let (role, external) = (role_arn.as_deref().unwrap_or_default(), external_id.as_deref().unwrap_or_default());
        let id = PrincipalId::of(&[access_key_id, secret_access_key.expose(), role, external, &bus.region]);
        self.own.get(id, || {
            let (region, partition) = (bus.region.clone(), bus.partition);
            let principal = aws::Principal::Own { key: key.clone(), region, partition };
            let fetches = if principal.is_renewed() { self.fetches.clone() } else { Fetches::default() };
            let source =
                KeySource { client: self.client.clone(), endpoint: self.clouds.aws_endpoint.clone(), principal };
            (source, fetches)
        })
    }

    /// Who is to mend that a key is refused.
    fn bad_key(&self, route: &Route, code: &str, response: &Response, used: Instant) -> Refusal {
        if response.says_our_clock_is_off() {
            return Refusal::ours(SenderFault::Clock);
        }
        match route.principal.id {
            // A region that our account has not enabled says the same as one that is given a wrong key. It is the tenant's choice.
            PrincipalId::Platform
                if matches!(code, "UnrecognizedClientException" | "InvalidClientTokenId")
                    && self.are_keys_taken_beside(&route.bus.region, used) =>
            {
                let why = "the principal of this platform is not known in this region: give accessKeyId and secretAccessKey, \
                           or use a bus of another region";
                Refusal::new(Fault::AccessDenied, why).with_code(code)
            }
            PrincipalId::Platform => {
                route.principal.refused(used);
                tracing::error!("Amazon refuses the keys of the platform's principal: {code}");
                Refusal::ours(SenderFault::CloudCredentials)
            }
            PrincipalId::Own(_) if route.principal.source().principal.is_renewed() => {
                route.principal.refused(used);
                Refusal::new(Fault::ProviderError, "Amazon refuses the keys of the role, which are fetched again")
                    .with_code(code)
            }
            PrincipalId::Own(_) => {
                let why = "Amazon does not know the access key, or its secret is another one";
                Refusal::new(Fault::AccessDenied, why).with_code(code)
            }
        }
    }

    fn note_taken(&self, route: &Route) {
        if route.principal.id == PrincipalId::Platform {
            let mut taken_by = self.taken_by.lock().unwrap_or_else(PoisonError::into_inner);
            match taken_by.as_mut().filter(|(region, _)| *region == route.bus.region) {
                Some((_, at)) => *at = Instant::now(),
                None => *taken_by = Some((route.bus.region.clone(), Instant::now())),
            }
        }
    }

    /// Whether another region has taken the platform's keys just now.
    fn are_keys_taken_beside(&self, region: &str, now: Instant) -> bool {
        let taken_by = self.taken_by.lock().unwrap_or_else(PoisonError::into_inner);
        taken_by.as_ref().is_some_and(|(other, at)| other != region && now.duration_since(*at) < JUST_NOW)
    }
}

impl Requests for EventBridge {
    type Route = Route;
    /// As Amazon counts: by account, here as its principal, and region.
    type Account = (PrincipalId, Partition, String);
    type Entry = Entry;

    const MAX_ENTRIES: usize = 10;
    const MAX_BYTES: usize = MAX_BYTES;

    fn account(route: &Route) -> Self::Account {
        (route.principal.id, route.bus.partition, route.bus.region.clone())
    }

    fn is_serial(_: &Route) -> bool {
        false
    }

    fn size(entry: &Entry) -> usize {
        entry.size
    }

    async fn send(&self, route: &Route, entries: &[Entry], deadline: Instant) -> Result<Vec<Sent>, Refusal> {
        let used = Instant::now();
        let keys = route.principal.proof(deadline).await?;
        let url = match &self.clouds.aws_endpoint {
            Some(endpoint) => endpoint.clone(),
            // A region that was validated makes a host name.
            None => Url::parse(&format!("https://{}/", route.bus.host()))
                .map_err(|_| Refusal::new(Fault::DestinationNotFound, "the region is none"))?,
        };
        let jsons: Vec<_> = entries.iter().map(|entry| entry.json.as_slice()).collect();
        let body = [&b"{\"Entries\":["[..], &jsons.join(&b','), b"]}"].concat().into();
        let call = Call { url: &url, region: &route.bus.region, service: SERVICE, headers: &HEADERS, body };
        let response = self.client.send(signed(call, &keys, SystemTime::now())?, deadline).await?;
        match read(&response, entries.len()) {
            Err(Refused::Request(refusal)) => Err(refusal),
            Err(Refused::Key(code)) => Err(self.bad_key(route, &code, &response, used)),
            Ok(sents) => {
                self.note_taken(route);
                Ok(sents)
            }
        }
    }
}

impl Cloud for EventBridge {
    type Address = EventBus;

    fn route(&self, bus: &EventBus, own: Option<&CloudKey>, _: &Message<'_>) -> Result<Route, Refusal> {
        let principal = match own {
            Some(CloudKey::Aws(key)) => self.own(key, bus),
            _ => {
                let destination = Destination::EventBridge(bus.clone());
                let objection = self.clouds.objection(&destination, own);
                let platform = self.platform.clone();
                let platform = platform.ok_or_else(|| Refusal::ours(SenderFault::CloudCredentials))?;
                if let Some(objection) = objection {
                    let why = format!("{} {}", objection.field, objection.detail);
                    return Err(Refusal::new(Fault::AccessDenied, why));
                }
                platform
            }
        };
        Ok(Route { principal, bus: bus.clone() })
    }

    fn prepare(
        &self,
        bus: &EventBus,
        message: &Message<'_>,
        credentials: &Credentials,
        now: OffsetDateTime,
    ) -> Result<Entry, Refusal> {
        let rejected = |why: &str| Refusal::new(Fault::MessageRejected, why);
        let no_json = "the payload is no JSON with a canonical form (RFC 8785), which the signature on a bus covers";
        let payload = std::str::from_utf8(&message.payload).map_err(|_| rejected(no_json))?;
        // A bus, and whatever it feeds, reads JSON and writes it anew: the bytes that we send arrive nowhere.
        let canonical = serde_json_canonicalizer::pipe(payload).map_err(|_| rejected(no_json))?;
        let signatures =
            credentials.signatures(SignatureKind::Symmetric, &message.webhook_id, now, canonical.as_bytes());
        let metadata = Metadata(message.metadata(DestinationKind::EventBridge, &signatures, now));
        let metadata = serde_json::to_string(&metadata).map_err(|_| rejected(no_json))?;
        let (source, detail) = (bus_source(message.tenant), Detail { payload, metadata: &metadata });
        let size = TIME_BYTES + source.len() + message.event.len() + detail.len();
        if size > MAX_BYTES {
            let why = format!("a bus takes less than 1 MiB, and this would be {size} bytes");
            return Err(rejected(&why));
        }
        let entry = PutEventsRequestEntry {
            source: &source,
            detail_type: message.event,
            event_bus_name: bus.to_string(),
            time: message.triggered_at.unix_timestamp(),
            detail,
        };
        let mut json = Vec::with_capacity(size + size / 4 + 256);
        serde_json::to_writer(&mut json, &entry).map_err(|_| rejected(no_json))?;
        Ok(Entry { json, size })
    }

    async fn permit(&self, _: &Route, _: &str, _: bool, _: Instant) -> Result<(), Refusal> {
        // The policy of the bus asks for the source that we write.
        Ok(())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PutEventsRequestEntry<'a> {
    source: &'a str,
    detail_type: &'a str,
    event_bus_name: String,
    time: i64,
    #[serde(serialize_with = "as_text")]
    detail: Detail<'a>,
}

/// JSON within a text of JSON: written into that as it is, without a copy.
struct Detail<'a> {
    payload: &'a str,
    metadata: &'a str,
}

const PARTS: [&str; 3] = [r#"{"payload":"#, r#","metadata":"#, "}"];

impl Detail<'_> {
    fn len(&self) -> usize {
        PARTS.map(str::len).iter().sum::<usize>() + self.payload.len() + self.metadata.len()
    }
}

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, between, after] = PARTS;
        [before, self.payload, between, self.metadata, after].into_iter().try_for_each(|part| f.write_str(part))
    }
}

fn as_text<S: Serializer>(detail: &Detail<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(detail)
}

/// As an object, in this order.
pub(super) struct Metadata<'a>(pub(super) Vec<(&'static str, std::borrow::Cow<'a, str>)>);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Why a request was refused as a whole.
enum Refused {
    Request(Refusal),
    /// The key, by what Amazon calls that. What it says may repeat what was signed, tokens included, and is not quoted.
    Key(String),
}

/// What became of each entry of a request that had `count` of them.
fn read(response: &Response, count: usize) -> Result<Vec<Sent>, Refused> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct PutEventsResponse {
        entries: Vec<EntryResult>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct EntryResult {
        event_id: Option<String>,
        error_code: Option<String>,
        #[serde(default)]
        error_message: Option<String>,
    }
    if response.status != StatusCode::OK {
        return Err(read_error(response));
    }
    let read: Option<PutEventsResponse> = serde_json::from_slice(&response.body).ok();
    let entries = read.map(|read| read.entries).filter(|entries| entries.len() == count);
    let entries = entries.ok_or_else(|| Refused::Request(Refusal::unreadable("EventBridge")))?;
    let sent = |entry: EntryResult| match (entry.error_code, entry.event_id) {
        (Some(code), _) => Err(refusal(&code, response, entry.error_message.as_deref().unwrap_or_default())),
        (None, Some(id)) => Ok(id),
        (None, None) => Err(Refusal::unreadable("EventBridge")),
    };
    Ok(entries.into_iter().map(sent).collect())
}

fn read_error(response: &Response) -> Refused {
    #[derive(Default, Deserialize)]
    struct Body {
        #[serde(rename = "__type", alias = "code")]
        kind: Option<String>,
        #[serde(alias = "Message")]
        message: Option<String>,
    }
    let body: Body = serde_json::from_slice(&response.body).unwrap_or_default();
    let header = response.headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
    let kind = header.map(str::to_owned).or(body.kind).unwrap_or_default();
    // `com.amazonaws.events#AccessDeniedException`, `AccessDeniedException:http://…`
    let kind = kind.rsplit('#').next().unwrap_or_default();
    let code = kind.split(':').next().unwrap_or_default();
    if is_bad_key(code) {
        return Refused::Key(code.to_owned());
    }
    Refused::Request(refusal(code, response, body.message.as_deref().unwrap_or_default()))
}

fn refusal(code: &str, response: &Response, said: &str) -> Refusal {
    let status = response.status;
    let fault = fault(code, status);
    let failed;
    let words = match fault {
        Fault::AccessDenied => "the bus does not let us publish",
        Fault::DestinationNotFound => "there is no such event bus",
        Fault::Throttled => "the account takes no more for now",
        Fault::MessageRejected => "the bus does not take this message",
        _ if status == StatusCode::OK => "EventBridge failed",
        _ => {
            failed = format!("EventBridge failed with status {}", status.as_u16());
            &failed
        }
    };
    let refusal = Refusal::new(fault, words).with_code(code).saying(said);
    if fault == Fault::Throttled { refusal.after(response.retry_after()) } else { refusal }
}

/// Of an entry, or a request, that was refused.
fn fault(code: &str, status: StatusCode) -> Fault {
    match code.strip_suffix("Exception").unwrap_or(code) {
        "AccessDenied"
        | "NotAuthorizedForSource"
        | "NotAuthorizedForDetailType"
        | "NotAuthorized"
        | "OptInRequired" => Fault::AccessDenied,
        "ResourceNotFound" | "InvalidAccountId" => Fault::DestinationNotFound,
        "Throttling" | "Throttled" | "TooManyRequests" | "RequestLimitExceeded" | "LimitExceeded" | "SlowDown" => {
            Fault::Throttled
        }
        "InvalidArgument"
        | "MalformedDetail"
        | "Validation"
        | "ValidationError"
        | "Serialization"
        | "RequestEntityTooLarge" => Fault::MessageRejected,
        _ if status == StatusCode::TOO_MANY_REQUESTS => Fault::Throttled,
        _ if status == StatusCode::PAYLOAD_TOO_LARGE => Fault::MessageRejected,
        _ => Fault::ProviderError,
    }
}

#[cfg(test)]
mod tests;
