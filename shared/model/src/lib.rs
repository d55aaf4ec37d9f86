//! The words of Shopery Webhooks, and the decisions that need nothing but their arguments.
//!
//! No I/O, no clock and no async runtime in this crate: whatever depends on the time takes it as an argument, and
//! whatever is random is derived from an id. The cast, in the order in which an event meets them:
//!
//! - [`Event`]: what a platform service published, one state of one resource (CloudEvents 1.0).
//!   Its [`StateVersion`] says where that state stands among the others of the resource.
//! - [`Webhook`]: a tenant's wish to have some [`EventType`]s sent to a [`Destination`].
//!   Its [`Rules`] say more: [`Filter`], what the resource must look like; [`Changed`], whose change it waits for;
//!   [`Fields`], what of the resource it is sent.
//!   Its [`Credentials`] are what a delivery proves itself with; they are stored [`Sealed`] by a [`Keyring`].
//! - [`Job`]: one event for one webhook, waiting for an attempt. Its [`DeliveryId`] follows from the two, so work that
//!   is repeated after a crash carries the same id.
//! - [`Lane`]: whether it goes ahead of what is beyond a tenant's [`Allowance`], or with it.
//! - [`Gate`] and [`Circuit`]: whether an endpoint gets it now, or it is parked until the endpoint works again.
//! - [`Answer`]: what an attempt met, and the [`Verdict`] that follows from it.
//! - [`Outcome`]: the record of an attempt, on its way to the history; [`Posted`] says what was sent.

mod answer;
mod attributes;
mod catalogue;
mod circuit;
mod cloud;
mod credentials;
mod destination;
mod digest;
mod event;
mod event_type;
mod extensions;
mod fields;
mod filter;
mod headers;
mod id;
mod invalid;
mod job;
mod keyring;
mod lane;
mod masked;
mod network;
mod objections;
mod outcome;
mod posted;
mod rules;
mod schedule;
mod secret;
mod signing_key;
mod state_version;
mod timestamp;
mod token;
mod webhook;

pub use answer::{Answer, Fault, Timing, Verdict};
pub use attributes::BinaryAttributes;
pub use catalogue::{Catalogue, DELIVERY_FAILED, ResourceType, catalogue};
pub use circuit::{Admission, Circuit, CircuitState, FailureReason, Gate, probe_delay};
pub use cloud::{AwsKey, CloudKey, CloudKeyChange, GoogleKey, SecretText};
pub use credentials::{Credentials, Former, Overlap};
pub use destination::{Destination, DestinationKind, EventBus, Partition, Topic};
pub use digest::Digest;
pub use event::{ABOUT_WEBHOOK, CloudEvent, Event, MAX_EVENT_BYTES, Resource, is_json};
pub use event_type::{EventPattern, EventType};
pub use extensions::Extensions;
pub use fields::{Changed, Fields};
pub use filter::Filter;
pub use headers::{Headers, HeadersChange};
pub use id::{AttemptId, ChangeId, DeliveryId, RecoveryId, TenantId, WebhookId};
pub use invalid::Invalid;
pub use job::{Job, JobMeta, MalformedJob, PayloadEvent, Resend};
pub use keyring::{BadKeyring, Keyring, NotSealed, Sealed, Unopened};
pub use lane::{Allowance, Credit, FRESH, Lane, Pace, Way};
pub use masked::MaskedChange;
pub use network::{Network, NotANetwork};
pub use objections::{Objection, StateChange, objections};
pub use outcome::{Attempt, DeliveryState, Outcome};
pub use posted::{NamedEvent, Posted};
pub use rules::{Debounce, PayloadFormat, PayloadMode, Rules, SignatureKind};
pub use schedule::RetrySchedule;
pub use secret::EndpointSecret;
pub use signing_key::SigningKey;
pub use state_version::StateVersion;
pub use timestamp::parse_time;
pub use token::{escape, stable_hash, unescape};
pub use webhook::{Webhook, validate_description, validate_metadata, validate_name};
