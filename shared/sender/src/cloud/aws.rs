//! Keys of Amazon, and requests that they sign.
//!
//! The signature is that of crate `aws-sigv4`, from Amazon's own SDK; the requests are two, which need no SDK. Where keys come from
//! is as in Amazon's libraries: variables, STS for a token of the cluster, an agent of the container; or STS for a merchant's own key.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as Keys;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use serde::Deserialize;
use shopery_model::{AwsKey, Fault, Partition, SecretText};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::Serializer;

use super::TIMEOUT;
use super::client::{Client, Response};
use super::config::{Authorization, AwsKeys};
use super::refusal::Refusal;
use super::renewal::Source;
use crate::failure::SenderFault;

/// Keys without an end are looked at again after this.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What STS records as who has assumed a role.
const SESSION: &str = "shopery-webhooks";
const STS_VERSION: &str = "2011-06-15";
/// Of a file with a token, or an agent's answer.
const MAX_TOKEN: usize = 64 * 1024;

/// Where the keys of one principal come from.
#[derive(Debug)]
pub(crate) struct KeySource {
    pub(crate) client: Client,
    /// An emulator's.
    pub(crate) endpoint: Option<Url>,
    pub(crate) principal: Principal,
}

#[derive(Debug)]
pub(crate) enum Principal {
    Platform(AwsKeys),
    /// Of a merchant. `region` and `partition` are those of the bus: its STS is asked for keys of the role.
    Own {
        key: AwsKey,
        region: String,
        partition: Partition,
    },
}

impl Principal {
    /// Whether keys are had from somebody, and end.
    pub(crate) fn is_renewed(&self) -> bool {
        match self {
            Self::Platform(keys) => !matches!(keys, AwsKeys::Static { .. }),
            Self::Own { key, .. } => key.role_arn.is_some(),
        }
    }
}

/// What is posted to a service of Amazon.
pub(crate) struct Call<'a> {
    pub(crate) url: &'a Url,
    pub(crate) region: &'a str,
    pub(crate) service: &'static str,
    pub(crate) headers: &'a [(&'static str, &'static str)],
    pub(crate) body: Bytes,
}

impl Source for KeySource {
    type Value = Keys;
    type Error = Refusal;

    async fn fetch(&self) -> Result<(Keys, Instant), Refusal> {
        let deadline = Instant::now() + TIMEOUT;
        match &self.principal {
            Principal::Platform(keys) => self.of_the_platform(keys, deadline).await.map_err(|why| {
                tracing::error!("there are no keys of the platform's principal at Amazon: {}", why.in_words());
                Refusal::ours(SenderFault::CloudCredentials)
            }),
            Principal::Own { key, region, partition } => {
                let base = keys(&key.access_key_id, &key.secret_access_key, None);
                let Some(role) = &key.role_arn else { return Ok((base, Instant::now() + DAY)) };
                self.assume(role, key.external_id.as_deref(), &base, (region, *partition), deadline).await
            }
        }
    }
}

impl KeySource {
    async fn of_the_platform(&self, from: &AwsKeys, deadline: Instant) -> Result<(Keys, Instant), Refusal> {
        match from {
            AwsKeys::Static { id, secret, session } => Ok((keys(id, secret, session.as_ref()), Instant::now() + DAY)),
            AwsKeys::WebIdentity { role, token_file, region, partition } => {
                let token = read_token(token_file)?;
                let parameters = [("RoleArn", role.as_str()), ("WebIdentityToken", &token)];
                let url = self.sts(region, *partition)?;
                let body = form("AssumeRoleWithWebIdentity", &parameters);
                let request = Request::post(url.as_str()).header(CONTENT_TYPE, FORM).body(body);
                let response = self.client.send(request.map_err(unsendable)?, deadline).await?;
                keys_of_sts(&response)
            }
            AwsKeys::Container { url, authorization } => {
                let mut request = Request::get(url.as_str());
                if let Some(authorization) = authorization {
                    let token = match authorization {
                        Authorization::File(path) => read_token(path)?,
                        Authorization::Token(token) => token.expose().to_owned(),
                    };
                    let mut token = HeaderValue::try_from(token).map_err(unsendable)?;
                    token.set_sensitive(true);
                    request = request.header(AUTHORIZATION, token);
                }
                let request = request.body(Bytes::new()).map_err(unsendable)?;
                keys_of_agent(&self.client.send(request, deadline).await?)
            }
        }
    }

    /// Keys of a role of the merchant's, for a key of the merchant's.
    async fn assume(
        &self,
        role: &str,
        external_id: Option<&str>,
        base: &Keys,
        (region, partition): (&str, Partition),
        deadline: Instant,
    ) -> Result<(Keys, Instant), Refusal> {
        let mut parameters = vec![("RoleArn", role)];
        parameters.extend(external_id.map(|id| ("ExternalId", id)));
        let url = self.sts(region, partition)?;
        let body = form("AssumeRole", &parameters);
        let call = Call { url: &url, region, service: "sts", headers: &[("content-type", FORM)], body };
        let response = self.client.send(signed(call, base, SystemTime::now())?, deadline).await?;
        keys_of_sts(&response)
    }

    fn sts(&self, region: &str, partition: Partition) -> Result<Url, Refusal> {
        match &self.endpoint {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Url::parse(&format!("https://sts.{region}.{}/", partition.domain())).map_err(unsendable),
        }
    }
}

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

fn keys(id: &str, secret: &SecretText, session: Option<&SecretText>) -> Keys {
    Keys::new(id, secret.expose(), session.map(|session| session.expose().to_owned()), None, "shopery")
}

fn form(action: &str, parameters: &[(&str, &str)]) -> Bytes {
    let mut form = Serializer::new(String::new());
    form.append_pair("Action", action).append_pair("Version", STS_VERSION).append_pair("RoleSessionName", SESSION);
    form.extend_pairs(parameters);
    form.finish().into()
}

/// Of what a region, a URL or a token cannot be made into. It names none of them.
fn unsendable(_: impl std::error::Error) -> Refusal {
    Refusal::new(Fault::ProviderError, "the request to Amazon cannot be made")
}

fn read_token(path: &str) -> Result<String, Refusal> {
    let refused = |why: String| Refusal::new(Fault::ProviderError, why);
    let token = std::fs::read_to_string(path).map_err(|error| refused(format!("cannot read {path}: {error}")))?;
    let token = token.trim();
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(refused(format!("{path} has no token")));
    }
    Ok(token.to_owned())
}

/// A request with its signature (Signature Version 4), made at `now`.
pub(crate) fn signed(call: Call<'_>, keys: &Keys, now: SystemTime) -> Result<Request<Bytes>, Refusal> {
    let Call { url, region, service, headers, body } = call;
    let identity = keys.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(unsendable)?
        .into();
    let pairs = headers.iter().copied();
    let signable = SignableRequest::new("POST", url.as_str(), pairs, SignableBody::Bytes(&body)).map_err(unsendable)?;
    let (instructions, _) = sign(signable, &parameters).map_err(unsendable)?.into_parts();
    let mut request = Request::builder().method(Method::POST).uri(url.as_str());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(body).map_err(unsendable)?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

/// The keys, and when they end. The answers are small and of one form, and what is taken of them has no character that XML escapes,
/// so no parser is needed; one that is of another form has no keys.
fn keys_of_sts(response: &Response) -> Result<(Keys, Instant), Refusal> {
    let text = std::str::from_utf8(&response.body).unwrap_or_default();
    if !response.status.is_success() {
        let code = element(text, "Code").unwrap_or_default();
        return Err(sts_refusal(response, code));
    }
    let unreadable = || Refusal::unreadable("STS");
    let part =
        |name: &str| element(text, name).filter(|text| !text.is_empty() && !text.contains('&')).ok_or_else(unreadable);
    let until = end(part("Expiration")?).ok_or_else(unreadable)?;
    let (id, secret, session) = (part("AccessKeyId")?, part("SecretAccessKey")?, part("SessionToken")?);
    let (secret, session) = (secret.to_owned().into(), session.to_owned().into());
    Ok((keys(id, &secret, Some(&session)), until))
}

/// Amazon repeats what was signed, tokens included, where a signature is wrong: nothing that it says is quoted.
fn sts_refusal(response: &Response, code: &str) -> Refusal {
    let (fault, words) = match code {
        _ if is_bad_key(code) && response.says_our_clock_is_off() => return Refusal::ours(SenderFault::Clock),
        "AccessDenied" | "AccessDeniedException" => {
            (Fault::AccessDenied, "the key may not assume the role: its trust policy, or externalId, does not allow it")
        }
        _ if is_bad_key(code) => (Fault::AccessDenied, "STS does not know the key, or its secret is another one"),
        "Throttling" | "ThrottlingException" => (Fault::Throttled, "STS gives no more keys of the role for now"),
        _ if response.status.as_u16() == 429 => (Fault::Throttled, "STS gives no more keys of the role for now"),
        _ => (Fault::ProviderError, "STS gave no keys of the role"),
    };
    let refusal = Refusal::new(fault, words).with_code(code);
    if fault == Fault::Throttled { refusal.after(response.retry_after()) } else { refusal }
}

/// What Amazon says to a key that it does not know, or that has ended, or that signs otherwise.
pub(crate) fn is_bad_key(code: &str) -> bool {
    matches!(
        code.strip_suffix("Exception").unwrap_or(code),
        "UnrecognizedClient"
            | "InvalidSignature"
            | "SignatureDoesNotMatch"
            | "InvalidClientTokenId"
            | "InvalidAccessKeyId"
            | "ExpiredToken"
            | "RequestExpired"
            | "RequestTimeTooSkewed"
            | "MissingAuthenticationToken"
            | "IncompleteSignature"
            | "InvalidToken"
            | "InvalidIdentityToken"
    )
}

/// The text of the first element of this name, which has no attributes.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

fn keys_of_agent(response: &Response) -> Result<(Keys, Instant), Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Given {
        access_key_id: String,
        secret_access_key: SecretText,
        token: SecretText,
        expiration: String,
    }
    if !response.status.is_success() {
        let why = format!("the agent of the container answered {}", response.status.as_u16());
        return Err(Refusal::new(Fault::ProviderError, why));
    }
    let unreadable = || Refusal::unreadable("the agent of the container");
    let given: Given = serde_json::from_slice(&response.body).map_err(|_| unreadable())?;
    let until = end(&given.expiration).ok_or_else(unreadable)?;
    Ok((keys(&given.access_key_id, &given.secret_access_key, Some(&given.token)), until))
}

/// When it is this time; `None` if that is over, or no time.
fn end(text: &str) -> Option<Instant> {
    let left = OffsetDateTime::parse(text, &Rfc3339).ok()? - OffsetDateTime::now_utc();
    let left = Duration::try_from(left).ok().filter(|left| !left.is_zero())?;
    Instant::now().checked_add(left.min(DAY))
}
