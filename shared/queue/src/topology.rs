//! Streams and consumers: declared here once, created or updated when a service starts.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode, kv};
use shopery_runtime::Env;

pub const INBOUND: &str = "INBOUND";
pub const EVENTS: &str = "EVENTS";
pub const DEFERRED: &str = "DEFERRED";
pub const JOBS: &str = "JOBS";
pub const RETRY: &str = "RETRY";
pub const PARKED: &str = "PARKED";
pub const OUTCOMES: &str = "OUTCOMES";
pub const DEAD: &str = "DEAD";
/// The key-value bucket of the webhooks.
pub const CONFIG: &str = "CONFIG";
/// The key-value bucket of the circuits that are not closed.
pub const CIRCUITS: &str = "CIRCUITS";
/// The key-value bucket of what webhooks were sent of a resource.
pub const PROGRESS: &str = "PROGRESS";

/// Publishing the same event twice within this window stores it once. An id costs the server about 228 bytes.
const EVENTS_WINDOW: Duration = Duration::from_secs(10 * 60);

/// The same for every other stream: long enough for what a service repeats after a crash.
const WINDOW: Duration = Duration::from_secs(2 * 60);

/// Explicit, because the server's default (1000) is no limit of ours.
const MAX_CONSUMERS: i32 = 64;

/// PARKED has one for each endpoint whose backlog is being sent.
const MAX_DRAINS: i32 = 10_000;

/// Parked jobs expire after [`Limits::parked_max_age`], and are recorded as expired by whoever comes to see them; what
/// the stream itself removes is gone without a trace, so it waits so much longer.
const PARKED_SLACK: Duration = DAY;

/// Pulls that may wait at one consumer: a few for each replica of a service.
const MAX_WAITING: i64 = 4096;

const MIB: i64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sizes that an operator chooses. Every service must be given the same.
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
        })
    }
}

/// The key-value buckets, declared in [`ensure_streams`].
#[derive(Debug, Clone)]
pub struct Buckets {
    pub config: kv::Store,
    pub circuits: kv::Store,
    pub progress: kv::Store,
}

/// What is in the way for good.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Incompatible(String);

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
/// EVENTS → router
pub const ROUTER: Consumer = Consumer { stream: EVENTS, name: "router", filter: "events.>", max_ack_pending: 20_000 };
/// DEFERRED → router
pub const ROUTER_DEFERRED: Consumer =
    Consumer { stream: DEFERRED, name: "router-deferred", filter: "deferred.>", max_ack_pending: 20_000 };
/// JOBS → deliverer
pub const DELIVERER_FAST: Consumer =
    Consumer { stream: JOBS, name: "deliverer-fast", filter: "jobs.fast.>", max_ack_pending: 50_000 };
/// JOBS → deliverer
pub const DELIVERER_BULK: Consumer =
    Consumer { stream: JOBS, name: "deliverer-bulk", filter: "jobs.bulk.>", max_ack_pending: 50_000 };
/// RETRY → deliverer
pub const DELIVERER_DUE: Consumer =
    Consumer { stream: RETRY, name: "deliverer-due", filter: "due.>", max_ack_pending: 20_000 };
/// OUTCOMES → recorder
pub const RECORDER: Consumer =
    Consumer { stream: OUTCOMES, name: "recorder", filter: "outcomes.>", max_ack_pending: 1000 };

impl Consumer {
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

pub(crate) async fn ensure_streams(jetstream: &Context, limits: &Limits) -> anyhow::Result<Buckets> {
    for wanted in streams(limits) {
        ensure_stream(jetstream, wanted).await?;
    }
    let bucket = async |name: &str, max_age: Duration| -> anyhow::Result<kv::Store> {
        if let Ok(found) = jetstream.get_key_value(name).await {
            return Ok(found);
        }
        let wanted = kv::Config {
            bucket: name.to_owned(),
            history: 1,
            max_age,
            max_bytes: 512 * MIB,
            num_replicas: limits.replicas,
            ..kv::Config::default()
        };
        let created = jetstream.create_or_update_key_value(wanted).await;
        created.with_context(|| format!("cannot create the key-value bucket {name}"))
    };
    // Nothing of a resource waits for longer than it may be parked, or than EVENTS has its states.
    let longest_wait = limits.events_max_age.max(limits.parked_max_age + PARKED_SLACK) + DAY;
    Ok(Buckets {
        config: bucket(CONFIG, Duration::ZERO).await?,
        circuits: bucket(CIRCUITS, Duration::ZERO).await?,
        progress: bucket(PROGRESS, longest_wait).await?,
    })
}

async fn ensure_stream(jetstream: &Context, wanted: Config) -> anyhow::Result<()> {
    let name = wanted.name.clone();
    let found = match jetstream.get_stream(&name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(ref cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                // Create or update: another replica may be starting too.
                jetstream
                    .create_or_update_stream(wanted)
                    .await
                    .with_context(|| format!("cannot create stream {name}"))?;
                return Ok(());
            }
            _ => return Err(error).with_context(|| format!("cannot look at stream {name}; is JetStream enabled?")),
        },
    };
    let shape = |config: &Config| {
        format!(
            "subjects {:?}, {:?} retention, {:?} storage, discard {:?}, schedules {}",
            config.subjects, config.retention, config.storage, config.discard, config.allow_message_schedules
        )
    };
    if shape(&found) != shape(&wanted) {
        let (has, needed) = (shape(&found), shape(&wanted));
        return Err(anyhow::Error::new(Incompatible(format!(
            "stream {name} exists with an incompatible shape: it has {has}; this version needs {needed}. \
             Drain and delete it, or use another NATS account"
        ))));
    }
    // What has no limit is -1 to the server, and 0 here.
    let limits = |config: &Config| {
        (
            config.max_bytes.max(0),
            config.max_age,
            config.num_replicas,
            config.max_consumers,
            config.duplicate_window,
            config.no_ack,
            config.allow_direct,
            (config.max_messages_per_subject.max(0), config.discard_new_per_subject),
        )
    };
    if limits(&found) != limits(&wanted) {
        jetstream.update_stream(wanted).await.with_context(|| format!("cannot change the limits of stream {name}"))?;
    }
    Ok(())
}
