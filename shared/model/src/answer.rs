//! What an attempt met, and what follows from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{DeliveryId, FailureReason, RetrySchedule};

/// Why an attempt, or a delivery without one, failed. The names are part of the API: `error.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The host name has no address.
    DnsFailed,
    /// The address is one that we do not send to.
    AddressForbidden,
    ConnectionRefused,
    /// No connection, TLS included, within a second.
    ConnectTimeout,
    /// The certificate is not one that we can trust for this host.
    CertificateInvalid,
    TlsFailed,
    /// Any other failure to connect, or a connection that broke.
    ConnectionFailed,
    /// No complete response within five seconds.
    Timeout,
    /// A 3xx: redirects are not followed.
    Redirected,
    /// A status other than 2xx and 3xx.
    HttpStatus,
    ResponseTooLarge,
    /// 410: the endpoint says that it is gone for good.
    Gone,
    /// The webhook was deleted before the attempt.
    WebhookDeleted,
    /// Whoever enabled the webhook wanted nothing of what had waited.
    Discarded,
    /// The webhook has as many jobs parked as it may have.
    ParkingFull,
    /// The state that would be sent does not match the webhook's filter.
    FilterNotMatched,
    /// The delivery that was to tell the endpoint this, or newer, was not delivered.
    CarrierFailed,
    /// A cloud takes no more from this account or project for now.
    Throttled,
    /// A bus or topic does not let us publish.
    AccessDenied,
    /// There is no such bus or topic.
    DestinationNotFound,
    /// A cloud will never take this message.
    MessageRejected,
    /// A cloud failed in a way that passes.
    ProviderError,
}

impl Fault {
    pub const ALL: [Self; 22] = [
        Self::DnsFailed,
        Self::AddressForbidden,
        Self::ConnectionRefused,
        Self::ConnectTimeout,
        Self::CertificateInvalid,
        Self::TlsFailed,
        Self::ConnectionFailed,
        Self::Timeout,
        Self::Redirected,
        Self::HttpStatus,
        Self::ResponseTooLarge,
        Self::Gone,
        Self::WebhookDeleted,
        Self::Discarded,
        Self::ParkingFull,
        Self::FilterNotMatched,
        Self::CarrierFailed,
        Self::Throttled,
        Self::AccessDenied,
        Self::DestinationNotFound,
        Self::MessageRejected,
        Self::ProviderError,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::DnsFailed => "dns_failed",
            Self::AddressForbidden => "address_forbidden",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::CertificateInvalid => "certificate_invalid",
            Self::TlsFailed => "tls_failed",
            Self::ConnectionFailed => "connection_failed",
            Self::Timeout => "timeout",
            Self::Redirected => "redirected",
            Self::HttpStatus => "http_status",
            Self::ResponseTooLarge => "response_too_large",
            Self::Gone => "gone",
            Self::WebhookDeleted => "webhook_deleted",
            Self::Discarded => "discarded",
            Self::ParkingFull => "parking_full",
            Self::FilterNotMatched => "filter_not_matched",
            Self::CarrierFailed => "carrier_failed",
            Self::Throttled => "throttled",
            Self::AccessDenied => "access_denied",
            Self::DestinationNotFound => "destination_not_found",
            Self::MessageRejected => "message_rejected",
            Self::ProviderError => "provider_error",
        }
    }

    /// Whether one attempt is enough to know that the next ones fail too, until somebody changes something: the circuit opens at
    /// once.
    pub fn is_lasting(self) -> bool {
        matches!(self, Self::AccessDenied | Self::DestinationNotFound)
    }

    /// What the owner of the endpoint can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::DnsFailed => {
                "Check the spelling of the host. If it is right, its DNS zone has no A or AAAA record that the internet can see."
            }
            Self::AddressForbidden => {
                "Use a host with a public address: private, local and reserved addresses cannot be sent to. For your own machine, \
                 use a tunnel."
            }
            Self::ConnectionRefused => {
                "Nothing listens at this port. Start the server, or correct the port; a firewall may refuse connections too."
            }
            Self::ConnectTimeout => {
                "The host does not answer within a second. Check that the server is up, and that its firewall lets connections \
                 from the internet in."
            }
            Self::CertificateInvalid => {
                "Install a certificate of a public authority for this very host, with the whole chain of intermediate \
                 certificates."
            }
            Self::TlsFailed => "Allow TLS 1.2 or 1.3 at the endpoint, and check that this port speaks TLS.",
            Self::ConnectionFailed => {
                "The connection broke before there was an answer. Look into the log of the server, or of the proxy in front of it."
            }
            Self::Timeout => "Answer within five seconds: store the message, answer 200, and do the work afterwards.",
            Self::Redirected => "Use the final URL: redirects are not followed.",
            Self::HttpStatus => {
                "Answer with a status from 200 to 299. Look into the log of the endpoint for this time; 401 and 403 mostly mean \
                 that it wants credentials, which `headers` can carry, 404 and 405 that the path is another one."
            }
            Self::ResponseTooLarge => "Answer with a short body, or none.",
            Self::Gone => "The endpoint says that it is gone for good. Answer otherwise if it is not.",
            Self::WebhookDeleted => "Create the webhook again if it is still wanted.",
            Self::Discarded => "Nothing: it was discarded when the webhook was enabled.",
            Self::ParkingFull => "Repair the endpoint: more deliveries wait for it than are kept.",
            Self::FilterNotMatched => "Nothing, or change the webhook's `filter`.",
            Self::CarrierFailed => "Repair the endpoint, then send the delivery that it relied on again.",
            Self::Throttled => {
                "The account or project has reached a limit of its cloud. Deliveries wait and go on by themselves; if it happens \
                 often, have the limit raised."
            }
            Self::AccessDenied => {
                "Let us publish there: `GET /company/destinations/setup?url=…` shows the policy or command to paste. With \
                 credentials of your own, check that they are valid and may publish."
            }
            Self::DestinationNotFound => {
                "Create the bus or topic, or correct the webhook's `url`: account or project, region and name."
            }
            Self::MessageRejected => "The cloud will not take this message: `fields` can make it smaller.",
            Self::ProviderError => "Nothing: the cloud failed, and the delivery is attempted again.",
        }
    }
}

/// What came back from an endpoint, or did not.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// From the decision to send until the answer was read.
    pub duration: Duration,
    /// The HTTP status, if a response began; of an HTTPS endpoint alone.
    pub status: Option<u16>,
    /// What a cloud calls what it met: `AccessDeniedException`, `PERMISSION_DENIED`.
    pub code: Option<String>,
    /// What a cloud calls the message that it has accepted.
    pub message_id: Option<String>,
    /// What failed and a sentence for the merchant; `None` if the endpoint accepted.
    pub fault: Option<(Fault, String)>,
    /// What a 429 or 503 asked for.
    pub retry_after: Option<Duration>,
    /// The start of the response body, for the history.
    pub body: String,
    /// The headers of the response, for the history too: `name: value`, a line each.
    pub headers: String,
    /// What was odd, and did not decide: a body that broke off, a request that was sent again.
    pub note: Option<String>,
    pub timing: Timing,
}

impl Answer {
    /// Nothing but a failure.
    pub fn failed(fault: Fault, detail: String) -> Self {
        Self { fault: Some((fault, detail)), ..Self::accepted() }
    }

    /// Nothing but that it was accepted.
    pub fn accepted() -> Self {
        Self {
            duration: Duration::ZERO,
            status: None,
            code: None,
            message_id: None,
            fault: None,
            retry_after: None,
            body: String::new(),
            headers: String::new(),
            note: None,
            timing: Timing::default(),
        }
    }

    /// Why the endpoint is found to fail; `None` if it accepted.
    pub fn failure_reason(&self) -> Option<FailureReason> {
        let (fault, detail) = self.fault.as_ref()?;
        Some(FailureReason { reason: fault.name().to_owned(), detail: detail.clone() })
    }
}

/// How long the parts of an exchange took; `None` where there was no such part, as on a connection that was kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    pub dns: Option<Duration>,
    /// TCP, to the address that answered.
    pub connect: Option<Duration>,
    pub tls: Option<Duration>,
    /// From when the request was begun on its connection until the headers of the answer were there.
    pub first_byte: Option<Duration>,
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    RetryAfter(Duration),
    /// Failed for good.
    GiveUp,
    /// Failed for good, and the webhook is disabled.
    Disable,
}

impl Verdict {
    pub fn of(answer: &Answer, attempt: u32, id: DeliveryId, schedule: &RetrySchedule) -> Self {
        match &answer.fault {
            None => Self::Delivered,
            Some((Fault::Gone, _)) => Self::Disable,
            Some((
                Fault::WebhookDeleted
                | Fault::Discarded
                | Fault::ParkingFull
                | Fault::FilterNotMatched
                | Fault::CarrierFailed
                | Fault::MessageRejected,
                _,
            )) => Self::GiveUp,
            Some(_) => schedule.delay_after(attempt, id, answer.retry_after).map_or(Self::GiveUp, Self::RetryAfter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WebhookId;
    use time::OffsetDateTime;

    fn verdict(fault: Option<Fault>, attempt: u32) -> Verdict {
        let answer = fault.map_or_else(Answer::accepted, |fault| Answer::failed(fault, String::new()));
        let id =
            DeliveryId::of(&"t".parse().unwrap(), "orders", "e", OffsetDateTime::UNIX_EPOCH, WebhookId::generate());
        Verdict::of(&answer, attempt, id, &"1s,2s".parse().unwrap())
    }

    #[test]
    fn a_verdict_follows_from_the_answer() {
        assert_eq!(verdict(None, 1), Verdict::Delivered);
        assert_eq!(verdict(Some(Fault::Gone), 1), Verdict::Disable);
        assert_eq!(verdict(Some(Fault::WebhookDeleted), 1), Verdict::GiveUp);
        assert_eq!(verdict(Some(Fault::MessageRejected), 1), Verdict::GiveUp);
        assert!(matches!(verdict(Some(Fault::AccessDenied), 1), Verdict::RetryAfter(_)));
        assert!(matches!(verdict(Some(Fault::HttpStatus), 1), Verdict::RetryAfter(_)));
        assert!(matches!(verdict(Some(Fault::AddressForbidden), 2), Verdict::RetryAfter(_)));
        assert_eq!(verdict(Some(Fault::Timeout), 3), Verdict::GiveUp);
    }

    #[test]
    fn a_fault_has_one_name() {
        for fault in Fault::ALL {
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.name());
        }
    }
}
