//! Streams, buckets and consumers: declared here once. The controller creates and updates streams and buckets ([`declare`]);
//! every other service waits until they are there ([`find`]), and creates its own consumers.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind, UpdateStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode, kv};
use shopery_model::MAX_EVENT_BYTES;
use shopery_runtime::Env;
use time::OffsetDateTime;

use crate::{Partition, lease};

pub const INBOUND: &str = "INBOUND";
pub const EVENTS: &str = "EVENTS";
pub const DEFERRED: &str = "DEFERRED";
pub const JOBS: &str = "JOBS";
pub const RETRY: &str = "RETRY";
pub const PARKED: &str = "PARKED";
pub const OUTCOMES: &str = "OUTCOMES";
pub const DEAD: &str = "DEAD";
/// Every stream but those of buckets.
pub const STREAMS: [&str; 8] = [INBOUND, EVENTS, DEFERRED, JOBS, RETRY, PARKED, OUTCOMES, DEAD];
/// The key-value bucket of the webhooks.
pub const CONFIG: &str = "CONFIG";
/// The key-value bucket of the circuits that are not closed.
pub const CIRCUITS: &str = "CIRCUITS";
/// The key-value bucket of what webhooks were sent of a resource.
pub const PROGRESS: &str = "PROGRESS";
/// The key-value bucket of the debounced bursts that were begun.
pub(crate) const BURSTS: &str = "BURSTS";
/// The key-value bucket of what EVENTS gave up of single tenants.
pub(crate) const GIVEN_UP: &str = "GIVEN_UP";
/// The key-value bucket of the leases; see [`Lease`](crate::Lease).
pub(crate) const LEASES: &str = "LEASES";

/// Publishing the same event twice within this window stores it once. An id costs the server about 228 bytes.
const EVENTS_WINDOW: Duration = Duration::from_secs(10 * 60);

/// The same for every other stream: long enough for what a service repeats after a crash.
const WINDOW: Duration = Duration::from_secs(2 * 60);

/// A burst is repeated within a few `ack_wait`s after a crash of NATS, or after the time that NATS is away.
pub(crate) const BURSTS_MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Explicit, because the server's default (1000) is no limit of ours.
const MAX_CONSUMERS: i32 = 64;

/// An event has at most [`MAX_EVENT_BYTES`]; the rest is for headers.
const MAX_INBOUND_BYTES: i32 = MAX_EVENT_BYTES as i32 + 64 * 1024;

/// Messages on DEAD of one tenant and reason; the oldest go. Those from outside have a few kilobytes each.
const MAX_DEAD_OF_A_TENANT: i64 = 500;

/// PARKED has one for each endpoint whose backlog is being sent.
const MAX_DRAINS: i32 = 10_000;

/// Parked jobs expire after [`Limits::parked_max_age`], and are recorded as expired by whoever comes to see them; what
/// the stream itself removes is gone without a trace, so it waits so much longer.
const PARKED_SLACK: Duration = DAY;

/// Pulls that may wait at one consumer: a few for each replica of a service.
const MAX_WAITING: i64 = 4096;

const MIB: i64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sizes that an operator chooses. Those of streams are the controller's; every service must be given the same times.
#[derive(Debug, Clone)]
pub struct Limits {
    pub replicas: usize,
    pub events_max_age: Duration,
    pub events_max_bytes: i64,
    pub deferred_max_bytes: i64,
    pub jobs_max_bytes: i64,
    pub inbound_max_bytes: i64,
    pub outcomes_max_bytes: i64,
    pub parked_max_bytes: i64,
    pub parked_max_age: Duration,
    /// Of one webhook.
    pub parked_max_jobs: i64,
    /// A message that was pulled and not acknowledged for so long is given to another. Above the longest attempt (5 s).
    pub ack_wait: Duration,
    /// Whether a stream may become smaller than what it holds.
    pub may_shrink: bool,
}

impl Limits {
    pub fn read(env: &mut Env) -> Option<Self> {
        let mut mib = |name, default, doc| {
            env.number(name, default, 1..=64 * 1024 * 1024, doc)
                .and_then(|size| i64::try_from(size).ok()?.checked_mul(MIB))
        };
        let events = mib("SHOPERY_EVENTS_MAX_MIB", "8192", "Size of EVENTS in MiB; when full, new events are refused");
        let jobs = mib("SHOPERY_JOBS_MAX_MIB", "4096", "Size of JOBS in MiB; when full, events wait in EVENTS");
        let deferred = mib(
            "SHOPERY_DEFERRED_MAX_MIB",
            "4096",
            "Size of DEFERRED in MiB: events beyond a tenant's rate; when full, they go through the fast lane",
        );
        let inbound =
            mib("SHOPERY_INBOUND_MAX_MIB", "1024", "Size of INBOUND in MiB; when full, NATS publishers are refused");
        let outcomes =
            mib("SHOPERY_OUTCOMES_MAX_MIB", "2048", "Size of OUTCOMES in MiB: history that waits for the database");
        let parked =
            mib("SHOPERY_PARKED_MAX_MIB", "8192", "Size of PARKED in MiB: jobs of endpoints that do not keep up");
        let parked_age = env.duration("SHOPERY_PARKED_MAX_AGE", "3d", "How long a job may be parked before it expires");
        let parked_jobs = env.number(
            "SHOPERY_PARKED_MAX_JOBS",
            "2000000",
            1..=1_000_000_000,
            "Jobs that one webhook may have parked; what comes then expires at once",
        );
        let replicas = env.number("SHOPERY_STREAM_REPLICAS", "1", 1..=5, "Copies of every stream; 3 in production");
        let age = env.duration("SHOPERY_EVENTS_MAX_AGE", "7d", "How long EVENTS keeps an event");
        let may_shrink = env.or(
            "SHOPERY_STREAMS_MAY_SHRINK",
            "false",
            "true: a size or age that deletes what a stream holds is applied; otherwise the controller refuses it",
        );
        let ack_wait =
            env.duration("SHOPERY_ACK_WAIT", "30s", "How soon work of a crashed service is repeated; over 5 s");
        Some(Self {
            replicas: usize::try_from(replicas?).ok()?,
            events_max_age: age?,
            events_max_bytes: events?,
            deferred_max_bytes: deferred?,
            jobs_max_bytes: jobs?,
            inbound_max_bytes: inbound?,
            outcomes_max_bytes: outcomes?,
            parked_max_bytes: parked?,
            parked_max_age: parked_age?,
            parked_max_jobs: i64::try_from(parked_jobs?).ok()?,
            ack_wait: ack_wait?.max(Duration::from_secs(6)),
            may_shrink: may_shrink?,
        })
    }
}

/// The key-value buckets.
#[derive(Debug, Clone)]
pub struct Buckets {
    pub config: kv::Store,
    pub circuits: kv::Store,
    pub progress: kv::Store,
}

/// What is in the way until an operator changes it: waiting does not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Incompatible(String);

/// What the controller has still to make.
#[derive(Debug, thiserror::Error)]
#[error("waiting for the controller to create {0}")]
pub(crate) struct Missing(String);

/// Every stream but those of the [`Buckets`].
fn streams(limits: &Limits) -> [Config; 8] {
    let base = |name: &str, subjects: &[&str]| Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        storage: StorageType::File,
        num_replicas: limits.replicas,
        max_consumers: MAX_CONSUMERS,
        duplicate_window: WINDOW,
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    [
        Config {
            retention: RetentionPolicy::WorkQueue,
            max_bytes: limits.inbound_max_bytes,
            // A larger message cannot be an event, so it takes no room. Ingest still answers it if the publisher asks for a reply.
            max_message_size: MAX_INBOUND_BYTES,
            // The publisher is answered by ingest, once the event is in EVENTS or known to be bad.
            no_ack: true,
            ..base(INBOUND, &["in.>"])
        },
        Config {
            retention: RetentionPolicy::Limits,
            max_age: limits.events_max_age,
            max_bytes: limits.events_max_bytes,
            allow_direct: true,
            // The server takes no window beyond the age.
            duplicate_window: EVENTS_WINDOW.min(limits.events_max_age),
            ..base(EVENTS, &["events.>"])
        },
        Config {
            retention: RetentionPolicy::WorkQueue,
            max_bytes: limits.deferred_max_bytes,
            ..base(DEFERRED, &["deferred.>"])
        },
        Config { retention: RetentionPolicy::WorkQueue, max_bytes: limits.jobs_max_bytes, ..base(JOBS, &["jobs.>"]) },
        Config {
            // Schedules need discard old, so no limit may ever evict: this stream has none. What bounds it is that a
            // delivery has one schedule at a time, and JOBS and EVENTS are bounded.
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::Old,
            allow_message_schedules: true,
            // For a look at schedules that have not fired.
            allow_direct: true,
            allow_rollup: true,
            ..base(RETRY, &["retry.>", "due.>"])
        },
        Config {
            retention: RetentionPolicy::Limits,
            max_age: limits.parked_max_age + PARKED_SLACK,
            max_bytes: limits.parked_max_bytes,
            max_messages_per_subject: limits.parked_max_jobs,
            discard_new_per_subject: true,
            max_consumers: MAX_DRAINS,
            ..base(PARKED, &["parked.>"])
        },
        Config {
            retention: RetentionPolicy::WorkQueue,
            max_bytes: limits.outcomes_max_bytes,
            ..base(OUTCOMES, &["outcomes.>"])
        },
        Config {
            retention: RetentionPolicy::Limits,
            max_age: 30 * DAY,
            max_bytes: 256 * MIB,
            // A tenant that sends many bad events loses its own oldest evidence, and nobody else's. Messages of ours have a subject each.
            max_messages_per_subject: MAX_DEAD_OF_A_TENANT,
            discard: DiscardPolicy::Old,
            ..base(DEAD, &["dead.>"])
        },
    ]
}

/// A durable consumer, shared by the replicas of the service that it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Consumer {
    pub stream: &'static str,
    pub name: &'static str,
    pub(crate) filter: &'static str,
    /// Messages pulled and not yet acknowledged, over all replicas.
    max_ack_pending: i64,
}

/// INBOUND → ingest
pub const INGEST: Consumer = Consumer { stream: INBOUND, name: "ingest", filter: "in.>", max_ack_pending: 20_000 };
/// One for each [`Partition`](crate::Partition), in their order.
macro_rules! of_partitions {
    ($stream:ident, $name:literal, $subject:literal, $($number:literal)*) => {
        [
            $(Consumer {
                stream: $stream,
                name: concat!($name, "-", $number),
                filter: concat!($subject, ".", $number, ".*.*.*"),
                max_ack_pending: 20_000,
            },)*
            Consumer { stream: $stream, name: $name, filter: concat!($subject, ".*.*.*"), max_ack_pending: 20_000 },
        ]
    };
}
/// EVENTS → router
pub const ROUTER: [Consumer; Partition::COUNT] = of_partitions!(EVENTS, "router", "events", 0 1 2 3 4 5 6 7);
/// DEFERRED → router
pub const ROUTER_DEFERRED: [Consumer; Partition::COUNT] =
    of_partitions!(DEFERRED, "router-deferred", "deferred", 0 1 2 3 4 5 6 7);
/// JOBS → deliverer
pub const DELIVERER_FAST: Consumer =
    Consumer { stream: JOBS, name: "deliverer-fast", filter: "jobs.fast.>", max_ack_pending: 50_000 };
/// JOBS → deliverer
pub const DELIVERER_BULK: Consumer =
    Consumer { stream: JOBS, name: "deliverer-bulk", filter: "jobs.bulk.>", max_ack_pending: 50_000 };
/// RETRY → deliverer
pub const DELIVERER_DUE: Consumer =
    Consumer { stream: RETRY, name: "deliverer-due", filter: "due.>", max_ack_pending: 50_000 };
/// OUTCOMES → recorder
pub const RECORDER: Consumer =
    Consumer { stream: OUTCOMES, name: "recorder", filter: "outcomes.>", max_ack_pending: 1000 };

impl Consumer {
    /// Those of work queues.
    pub fn of_work_queues() -> impl Iterator<Item = &'static Self> {
        [&INGEST, &DELIVERER_FAST, &DELIVERER_BULK, &DELIVERER_DUE, &RECORDER].into_iter().chain(&ROUTER_DEFERRED)
    }

    pub(crate) fn config(&self, limits: &Limits) -> pull::Config {
        pull::Config {
            durable_name: Some(self.name.to_owned()),
            filter_subject: self.filter.to_owned(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: limits.ack_wait,
            // A work queue orphans what passes a limit; attempts are counted in the job.
            max_deliver: -1,
            max_ack_pending: self.max_ack_pending,
            max_waiting: MAX_WAITING,
            ..pull::Config::default()
        }
    }
}

/// The buckets of [`Buckets`], BURSTS and GIVEN_UP. No service waits for those two: a controller of before does not create
/// them.
fn buckets(limits: &Limits) -> [kv::Config; 5] {
    // Nothing of a resource waits for longer than it may be parked, or than EVENTS has its states.
    let longest_wait = limits.events_max_age.max(limits.parked_max_age + PARKED_SLACK) + DAY;
    [
        (CONFIG, Duration::ZERO, 512),
        (CIRCUITS, Duration::ZERO, 512),
        (PROGRESS, longest_wait, 512),
        (BURSTS, BURSTS_MAX_AGE, 256),
        // By then EVENTS has removed by age all that an entry is about.
        (GIVEN_UP, limits.events_max_age + DAY, 64),
    ]
    .map(|(name, max_age, mib)| kv::Config {
        bucket: name.to_owned(),
        history: 1,
        max_age,
        max_bytes: mib * MIB,
        num_replicas: limits.replicas,
        ..kv::Config::default()
    })
}

/// Creates what is missing, and brings the limits of the rest up to date.
pub(crate) async fn declare(jetstream: &Context, limits: &Limits) -> anyhow::Result<()> {
    for wanted in streams(limits) {
        let name = wanted.name.clone();
        match look(jetstream, &name).await? {
            // Create or update: another replica may be starting too.
            None => drop(jetstream.create_or_update_stream(wanted).await.map_err(|error| {
                let code = match error.kind() {
                    CreateStreamErrorKind::JetStream(cause) => Some(cause.error_code()),
                    _ => None,
                };
                no_room(limits, &name, code, error.into())
            })?),
            Some(found) => update(jetstream, &found, wanted, limits).await?,
        }
    }
    for wanted in buckets(limits).into_iter().chain([lease::bucket(limits.replicas)]) {
        let (name, replicas) = (wanted.bucket.clone(), wanted.num_replicas);
        let found = look(jetstream, &format!("KV_{name}")).await?;
        if found.is_none_or(|found| found.config.num_replicas != replicas || found.config.max_age != wanted.max_age) {
            let declared = jetstream.create_or_update_key_value(wanted).await;
            declared.with_context(|| format!("cannot declare the key-value bucket {name}"))?;
        }
    }
    Ok(())
}

/// The buckets, if all streams and buckets are there in the shape that this version needs.
pub(crate) async fn find(jetstream: &Context, limits: &Limits) -> anyhow::Result<Buckets> {
    for wanted in streams(limits) {
        match look(jetstream, &wanted.name).await? {
            Some(found) => check_shape(&found.config, &wanted)?,
            None => bail!(Missing(format!("stream {}", wanted.name))),
        }
    }
    let bucket = async |name: &str| match look(jetstream, &format!("KV_{name}")).await? {
        Some(_) => {
            jetstream.get_key_value(name).await.with_context(|| format!("cannot open the key-value bucket {name}"))
        }
        None => bail!(Missing(format!("the key-value bucket {name}"))),
    };
    Ok(Buckets { config: bucket(CONFIG).await?, circuits: bucket(CIRCUITS).await?, progress: bucket(PROGRESS).await? })
}

async fn look(jetstream: &Context, name: &str) -> anyhow::Result<Option<Info>> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(ref cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(error).with_context(|| format!("cannot look at stream {name}; is JetStream enabled?")),
        },
    }
}

fn check_shape(found: &Config, wanted: &Config) -> anyhow::Result<()> {
    let shape = |config: &Config| {
        format!(
            "subjects {:?}, {:?} retention, {:?} storage, discard {:?}, schedules {}",
            config.subjects, config.retention, config.storage, config.discard, config.allow_message_schedules
        )
    };
    let (has, needed) = (shape(found), shape(wanted));
    if has == needed {
        return Ok(());
    }
    bail!(Incompatible(format!(
        "stream {} exists with an incompatible shape: it has {has}; this version needs {needed}. \
         Drain and delete it, or use another NATS account",
        wanted.name
    )))
}

async fn update(jetstream: &Context, found: &Info, wanted: Config, limits: &Limits) -> anyhow::Result<()> {
    check_shape(&found.config, &wanted)?;
    let name = wanted.name.clone();
    // What has no limit is -1 to the server, and 0 here.
    let limits_of = |config: &Config| {
        (
            (config.max_bytes.max(0), config.max_message_size.max(0)),
            config.max_age,
            config.num_replicas,
            config.max_consumers,
            config.duplicate_window,
            config.no_ack,
            config.allow_direct,
            (config.max_messages_per_subject.max(0), config.discard_new_per_subject),
        )
    };
    if limits_of(&found.config) == limits_of(&wanted) {
        return Ok(());
    }
    if let Some(why) = would_delete(found, &wanted, OffsetDateTime::now_utc()).filter(|_| !limits.may_shrink) {
        bail!(Incompatible(format!(
            "stream {name} {why}; give it the room, or set SHOPERY_STREAMS_MAY_SHRINK=true to delete what is beyond"
        )));
    }
    tracing::info!(stream = name, "the limits of a stream are changed");
    jetstream.update_stream(wanted).await.map(drop).map_err(|error| {
        let code = match error.kind() {
            UpdateStreamErrorKind::JetStream(cause) => Some(cause.error_code()),
            _ => None,
        };
        no_room(limits, &name, code, error.into())
    })
}

/// Why limits would delete what a stream holds.
fn would_delete(found: &Info, wanted: &Config, now: OffsetDateTime) -> Option<String> {
    let state = &found.state;
    if state.messages == 0 {
        return None;
    }
    let age = now - state.first_timestamp;
    let is_bytes = wanted.max_bytes > 0 && u64::try_from(wanted.max_bytes).is_ok_and(|max| state.bytes > max);
    let is_age = !wanted.max_age.is_zero() && age > wanted.max_age;
    if is_bytes {
        let max = wanted.max_bytes / MIB;
        return Some(format!(
            "holds {} MiB, more than the {max} MiB that it is to have",
            state.bytes.div_ceil(1024 * 1024)
        ));
    }
    is_age.then(|| {
        format!(
            "holds {} messages, the oldest {} s old, more than the {} s that they are to be kept",
            state.messages,
            age.whole_seconds(),
            wanted.max_age.as_secs()
        )
    })
}

/// The variables that size the streams, with their values in bytes.
fn sizes(limits: &Limits) -> [(&'static str, i64); 6] {
    [
        ("SHOPERY_EVENTS_MAX_MIB", limits.events_max_bytes),
        ("SHOPERY_DEFERRED_MAX_MIB", limits.deferred_max_bytes),
        ("SHOPERY_JOBS_MAX_MIB", limits.jobs_max_bytes),
        ("SHOPERY_INBOUND_MAX_MIB", limits.inbound_max_bytes),
        ("SHOPERY_OUTCOMES_MAX_MIB", limits.outcomes_max_bytes),
        ("SHOPERY_PARKED_MAX_MIB", limits.parked_max_bytes),
    ]
}

/// An error of a stream that could not be created or changed; if NATS has no room for it, what is reserved and by which
/// variables.
fn no_room(limits: &Limits, name: &str, code: Option<ErrorCode>, error: anyhow::Error) -> anyhow::Error {
    let is_room = code.is_some_and(|code| {
        [ErrorCode::STORAGE_RESOURCES_EXCEEDED, ErrorCode::INSUFFICIENT_RESOURCES, ErrorCode::NO_LIMITS].contains(&code)
    });
    if !is_room {
        return error.context(format!("cannot declare stream {name}"));
    }
    let mut total = 0;
    let mut variables = String::new();
    for (variable, bytes) in sizes(limits) {
        total += bytes / MIB;
        let _ = write!(variables, " {variable}={}", bytes / MIB);
    }
    anyhow::Error::new(Incompatible(format!(
        "NATS has no room for stream {name}: the streams reserve {total} MiB ({}), and buckets and DEAD some 2,000 more. \
         Lower these, or raise max_file_store in the configuration of NATS",
        variables.trim_start()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shopery_runtime::Env;

    fn info(config: Config, messages: u64, bytes: u64, age: time::Duration, now: OffsetDateTime) -> Info {
        let time = |at: OffsetDateTime| at.format(&time::format_description::well_known::Rfc3339).unwrap();
        serde_json::from_value(serde_json::json!({
            "config": config, "created": time(now), "timestamp": time(now),
            "state": {
                "messages": messages, "bytes": bytes, "first_seq": 1, "first_ts": time(now - age), "last_seq": messages,
                "last_ts": time(now), "consumer_count": 0,
            },
        }))
        .unwrap()
    }

    #[test]
    fn limits_that_delete_what_is_held_are_told_apart() {
        let limits = Limits::read(&mut Env::default()).unwrap();
        let events = streams(&limits).into_iter().find(|stream| stream.name == EVENTS).unwrap();
        let now = OffsetDateTime::now_utc();
        let smaller = |max_bytes, max_age| Config { max_bytes, max_age, ..events.clone() };
        let of = |messages, wanted: &Config| {
            would_delete(
                &info(events.clone(), messages, 64 * 1024 * 1024, time::Duration::minutes(2), now),
                wanted,
                now,
            )
        };
        assert_eq!(of(30, &events), None);
        assert_eq!(of(30, &smaller(64 * MIB, Duration::from_secs(3600))), None);
        assert!(of(30, &smaller(63 * MIB, DAY)).unwrap().contains("64 MiB, more than the 63 MiB"));
        assert!(of(30, &smaller(0, Duration::from_secs(1))).unwrap().contains("120 s old, more than the 1 s"));
        assert_eq!(of(0, &smaller(MIB, Duration::from_secs(1))), None);
    }
}
