//! What is judged of a webhook as a whole before it is saved: whether what it has goes together with where it is sent, and
//! whether the cloud of a bus or a topic lets us publish there.
//!
//! Invariant: a webhook that is enabled and sent to a topic as the platform has shown by a test that the topic is its tenant's. What is
//! saved paused is tried when it is enabled.

use shopery_http::Problem;
use shopery_model::{Answer, CloudKey, Destination, DestinationKind, Fault, Invalid, SignatureKind, TenantId};
use shopery_sender::{SenderFault, Target};

use crate::{App, test_call};

/// Refuses a webhook that is sent there for what no attempt would change.
pub(crate) fn judge(app: &App, target: Target<'_>) -> Result<(), Problem> {
    let mut wrong = unfit(target);
    if wrong.is_empty() && target.destination.kind() != DestinationKind::Https {
        wrong.extend(app.clouds.objection(target.destination, target.credentials.cloud.as_ref()));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Problem::invalid(wrong)) }
}

/// What of it cannot be used where it is sent.
fn unfit(target: Target<'_>) -> Vec<Invalid> {
    let Target { destination, credentials, signature } = target;
    let (kind, mut wrong) = (destination.kind(), Vec::new());
    if kind != DestinationKind::Https {
        let what = described(kind);
        if !credentials.headers.is_empty() {
            let detail = format!("cannot be sent to {what}: leave them out, or take them away with null");
            wrong.push(Invalid::new("headers", detail));
        }
        if signature != SignatureKind::Symmetric {
            let detail = format!("must be symmetric: what is sent to {what} is signed with the secret");
            wrong.push(Invalid::new("signature", detail));
        }
    }
    if let Some(key) = credentials.cloud.as_ref().filter(|key| key.kind() != kind) {
        let whose = match key {
            CloudKey::Aws(_) => "Amazon",
            CloudKey::Google(_) => "Google",
        };
        let what = described(kind);
        let detail = format!("are those of {whose}, but `url` is {what}: replace them, or take them away with null");
        wrong.push(Invalid::new("credentials", detail));
    }
    wrong
}

fn described(kind: DestinationKind) -> &'static str {
    match kind {
        DestinationKind::Https => "an HTTPS endpoint",
        DestinationKind::EventBridge => "an event bus of Amazon",
        DestinationKind::PubSub => "a topic of Google",
    }
}

/// Sends a test to a bus or topic before it is saved, and refuses it for what lasts. What passes, such as throttling, or is our own
/// fault, keeps nothing from being saved.
///
/// A topic that we would publish to as the platform is saved only after an answer that shows whose it is. Otherwise a tenant
/// could name another's topic in a moment at which Google does not answer.
pub(crate) async fn try_out(
    app: &App,
    tenant: &TenantId,
    target: Target<'_>,
    webhook: Option<String>,
) -> Result<(), Problem> {
    if target.destination.kind() == DestinationKind::Https {
        return Ok(());
    }
    let answer = test_call::try_plain(app, tenant, target, webhook).await?;
    let has_own = target.credentials.cloud.is_some();
    match tried(target.destination, has_own, answer) {
        Tried::Good => Ok(()),
        Tried::Refused(wrong) => Err(Problem::invalid(vec![wrong])),
        Tried::Unproven(why) => Err(Problem::unavailable(
            format!("the topic could not be shown to be yours, so nothing was saved: {why}; try again"),
            5,
        )),
    }
}

#[derive(Debug, PartialEq)]
enum Tried {
    Good,
    Refused(Invalid),
    Unproven(String),
}

/// What follows from a test for a webhook that is to be saved.
fn tried(destination: &Destination, has_own: bool, answer: Result<Answer, SenderFault>) -> Tried {
    let needs_proof = matches!(destination, Destination::PubSub(_)) && !has_own;
    let fault = match answer {
        Ok(answer) => answer.fault,
        Err(ours) if needs_proof => return Tried::Unproven(ours.to_string()),
        Err(_) => return Tried::Good,
    };
    match fault {
        None => Tried::Good,
        Some((fault, detail)) if fault.is_lasting() => {
            let is_of_key = has_own && fault == Fault::AccessDenied;
            let field = if is_of_key { "credentials" } else { "url" };
            let detail = format!("was tried: {}. {}", detail.trim_end_matches('.'), fault.advice());
            Tried::Refused(Invalid::new(field, detail))
        }
        // A message is looked at after the topic, whose schema ours may not have.
        Some((Fault::MessageRejected, _)) => Tried::Good,
        Some((_, detail)) if needs_proof => Tried::Unproven(detail),
        Some(_) => Tried::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shopery_model::{AwsKey, Credentials, EndpointSecret, GoogleKey, Headers, HeadersChange};

    const HTTPS: &str = "https://test.com/wh";
    const BUS: &str = "arn:aws:events:eu-west-1:123456789012:event-bus/orders";
    const TOPIC: &str = "pubsub://shop-analytics/orders";

    fn aws() -> CloudKey {
        CloudKey::Aws(AwsKey::parse("AKIAIOSFODNN7EXAMPLE", "secret", None, None, None).unwrap())
    }

    fn google() -> CloudKey {
        let pem = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n";
        CloudKey::Google(GoogleKey::parse("a@b", "0a1b", pem, None).unwrap())
    }

    #[test]
    fn what_does_not_go_with_an_address_is_named() {
        let headers = HeadersChange::parse(vec![("X-A".to_owned(), "a".into())]).unwrap();
        let headers = headers.apply(&Headers::default()).unwrap();
        let (symmetric, both) = (SignatureKind::Symmetric, SignatureKind::Both);
        for (url, has_headers, signature, cloud, fields) in [
            (HTTPS, true, both, None, [""; 0].as_slice()),
            (BUS, false, symmetric, None, &[]),
            (BUS, false, symmetric, Some(aws()), &[]),
            (TOPIC, false, symmetric, Some(google()), &[]),
            (BUS, true, both, Some(google()), &["headers", "signature", "credentials"]),
            (TOPIC, true, SignatureKind::Asymmetric, Some(aws()), &["headers", "signature", "credentials"]),
            (HTTPS, false, symmetric, Some(aws()), &["credentials"]),
        ] {
            let mut credentials = Credentials::new(EndpointSecret::generate().unwrap());
            if has_headers {
                credentials.headers = headers.clone();
            }
            credentials.cloud = cloud;
            let destination = Destination::parse(url, false).unwrap();
            let wrong = unfit(Target { destination: &destination, credentials: &credentials, signature });
            let named: Vec<_> = wrong.iter().map(|invalid| invalid.field.as_ref()).collect();
            assert_eq!(named, fields, "{url}");
        }
    }

    #[test]
    fn what_lasts_is_refused_by_its_field_and_what_passes_is_not() {
        let met = |fault| -> Result<Answer, SenderFault> { Ok(Answer::failed(fault, "it met that".to_owned())) };
        for (url, has_own, answer, expected) in [
            (BUS, false, Ok(Answer::accepted()), Ok(None)),
            (BUS, false, met(Fault::AccessDenied), Ok(Some("url"))),
            (BUS, true, met(Fault::AccessDenied), Ok(Some("credentials"))),
            (BUS, true, met(Fault::DestinationNotFound), Ok(Some("url"))),
            (BUS, false, met(Fault::Throttled), Ok(None)),
            (BUS, false, Err(SenderFault::Resolver), Ok(None)),
            (TOPIC, true, met(Fault::ProviderError), Ok(None)),
            (TOPIC, true, Err(SenderFault::Resolver), Ok(None)),
            (TOPIC, false, Ok(Answer::accepted()), Ok(None)),
            (TOPIC, false, met(Fault::MessageRejected), Ok(None)),
            (TOPIC, false, met(Fault::AccessDenied), Ok(Some("url"))),
            // Nobody knows whose topic it is.
            (TOPIC, false, met(Fault::Timeout), Err(())),
            (TOPIC, false, met(Fault::Throttled), Err(())),
            (TOPIC, false, Err(SenderFault::Resolver), Err(())),
        ] {
            let found = match tried(&url.parse().unwrap(), has_own, answer) {
                Tried::Good => Ok(None),
                Tried::Refused(invalid) => {
                    assert!(invalid.detail.starts_with("was tried: it met that. "), "{invalid}");
                    Ok(Some(invalid.field.into_owned()))
                }
                Tried::Unproven(_) => Err(()),
            };
            assert_eq!(found, expected.map(|field| field.map(str::to_owned)), "{url} {has_own}");
        }
    }
}
