//! What may happen to an installation, and how it is over again.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream;
use shopery_e2e::documents::Random;
use shopery_e2e::process::Signal;
use shopery_e2e::{Apart, Burst, DatabaseKind, Process, Service, SmallDisk, Stack, wait};

use super::REST_TIMEOUT;

/// Maximum pause: another router has taken over by then, and another controller leads. Milliseconds.
const LONGEST_PAUSE: usize = 8000;
/// Maximum difference of a clock from that of NATS, either way, in seconds.
const CLOCKS_APART: usize = 30;
/// Services of which a second process runs. Publishers and the test know the address of the first one of the others alone.
const SECOND: [Service; 4] = [Service::Router, Service::Deliverer, Service::Recorder, Service::Controller];

/// An installation in which every service that is started has a clock of its own, and some of them another version.
pub(super) struct Installation {
    pub(super) stack: Stack,
    nats_disk: SmallDisk,
    second: Vec<Process>,
    old_binaries: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    One(Service),
    Two(Service, Service),
    /// Killed again as soon as it has been started.
    Twice(Service),
    /// Of [`SECOND`].
    Second(usize),
    Nats,
    NatsAnd(Service),
    /// Its disk; it stores nothing until it is restarted.
    NatsFull,
    NatsPaused,
    Paused(Service),
    SecondPaused(usize),
    ConfigDeleted,
    Database(DatabaseFault),
}

/// Of PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub(super) enum DatabaseFault {
    Crashed,
    Silent,
    ReadOnly,
    /// Its disk.
    Full,
}

impl Installation {
    pub(super) async fn of(stack: Stack, nats_disk: SmallDisk, random: &mut Random) -> Self {
        let old_binaries = std::env::var_os("SHOPERY_TEST_OLD_BINARIES").map(PathBuf::from);
        let mut installation = Self { stack, nats_disk, second: Vec::new(), old_binaries };
        for place in 0..SECOND.len() {
            let second = installation.second(place, random).await;
            installation.second.push(second);
        }
        installation
    }

    fn apart(&self, random: &mut Random) -> Apart {
        Apart {
            binaries: self.old_binaries.clone().filter(|_| random.below(2) == 0),
            clock_seconds: random.below(2 * CLOCKS_APART + 1) as i64 - CLOCKS_APART as i64,
        }
    }

    async fn second(&self, place: usize, random: &mut Random) -> Process {
        let apart = self.apart(random);
        self.stack.replica_apart(SECOND[place], 2, &apart).await
    }

    /// NATS comes back, and has nothing. Returns what was published before: of what was accepted nobody else may know, and
    /// what is published again is another event by then.
    pub(super) async fn empty_nats(&mut self, burst: &Burst) -> HashSet<String> {
        self.stack.kill_nats().await;
        // By then nobody has an acknowledgement of before any more.
        burst.setbacks(6).await;
        let published = burst.published_ids();
        self.stack.empty_nats();
        self.stack.start_nats().await;
        published
    }

    /// All that runs becomes one of this version. Earlier ones do not mend all that they leave behind: their controllers let messages
    /// be that a crash of NATS brought back although they were acknowledged.
    pub(super) async fn end_upgrade(&mut self, random: &mut Random) {
        let Some(old) = self.old_binaries.take() else { return };
        for service in Service::ALL {
            self.stack.kill(service).await;
            self.run(service, random).await;
        }
        for place in 0..SECOND.len() {
            self.second[place].kill().await;
            self.second[place] = self.second(place, random).await;
        }
        self.old_binaries = Some(old);
    }

    async fn run(&mut self, service: Service, random: &mut Random) {
        let apart = self.apart(random);
        self.stack.set_apart(service, apart);
        self.stack.run(service).await;
    }
}

impl Fault {
    pub(super) fn choose(random: &mut Random, database: DatabaseKind) -> Self {
        let service = Service::ALL[random.below(Service::ALL.len())];
        let second = random.below(SECOND.len());
        match random.below(if database == DatabaseKind::Postgres { 18 } else { 14 }) {
            0..3 => Self::One(service),
            3 => Self::Two(
                service,
                Service::ALL[(service as usize + 1 + random.below(Service::ALL.len() - 1)) % Service::ALL.len()],
            ),
            4 => Self::Twice(service),
            5 => Self::Second(second),
            6 => Self::Nats,
            7 => Self::NatsAnd(service),
            8 => Self::NatsFull,
            9 => Self::NatsPaused,
            10 | 11 => Self::Paused(service),
            12 => Self::SecondPaused(second),
            13 => Self::ConfigDeleted,
            14 => Self::Database(DatabaseFault::Crashed),
            15 => Self::Database(DatabaseFault::Silent),
            16 => Self::Database(DatabaseFault::ReadOnly),
            _ => Self::Database(DatabaseFault::Full),
        }
    }

    /// How long it lasts, in what publishers do meanwhile.
    async fn last(self, burst: &Burst, random: &mut Random) {
        let is_ingest = |service| service == Service::Ingest;
        match self {
            // A publisher learns of it after five seconds.
            Self::Nats | Self::NatsAnd(_) | Self::NatsFull => {
                burst.setbacks(1 + random.below(6)).await;
            }
            Self::One(service) | Self::Twice(service) if is_ingest(service) => {
                burst.setbacks(1 + random.below(40)).await;
            }
            Self::Two(one, other) if is_ingest(one) || is_ingest(other) => burst.setbacks(1 + random.below(40)).await,
            // Whatever they do: they hear nothing.
            Self::Paused(_) | Self::SecondPaused(_) | Self::NatsPaused | Self::Database(_) => {
                tokio::time::sleep(Duration::from_millis(200 + random.below(LONGEST_PAUSE) as u64)).await;
            }
            _ => burst.progress(1 + random.below(200)).await,
        }
    }

    pub(super) async fn strike(self, on: &mut Installation, burst: &Burst, random: &mut Random) {
        self.begin(on).await;
        self.last(burst, random).await;
        self.end(on, burst, random).await;
    }

    async fn begin(self, on: &mut Installation) {
        let stack = &mut on.stack;
        match self {
            Self::One(service) | Self::Twice(service) => stack.kill(service).await,
            Self::Two(one, other) => {
                stack.kill(one).await;
                stack.kill(other).await;
            }
            Self::Second(place) => on.second[place].kill().await,
            Self::Nats => stack.kill_nats().await,
            Self::NatsAnd(service) => {
                stack.kill(service).await;
                stack.kill_nats().await;
            }
            Self::NatsFull => tokio::task::block_in_place(|| on.nats_disk.fill()),
            Self::NatsPaused => stack.signal_nats(Signal::SIGSTOP),
            Self::Paused(service) => stack.process(service).signal(Signal::SIGSTOP),
            Self::SecondPaused(place) => on.second[place].signal(Signal::SIGSTOP),
            Self::ConfigDeleted => delete_config(stack).await,
            Self::Database(fault) => fault.begin(stack).await,
        }
    }

    async fn end(self, on: &mut Installation, burst: &Burst, random: &mut Random) {
        match self {
            Self::One(service) => on.run(service, random).await,
            Self::Two(one, other) => {
                on.run(one, random).await;
                on.run(other, random).await;
            }
            Self::Twice(service) => {
                on.stack.spawn(service);
                if service != Service::Ingest {
                    burst.progress(1 + random.below(30)).await;
                }
                on.stack.kill(service).await;
                on.run(service, random).await;
            }
            Self::Second(place) => on.second[place] = on.second(place, random).await,
            Self::Nats => on.stack.start_nats().await,
            Self::NatsAnd(service) => {
                on.stack.start_nats().await;
                on.run(service, random).await;
            }
            Self::NatsFull => {
                on.nats_disk.make_room();
                on.stack.stop_nats().await;
                on.stack.start_nats().await;
            }
            Self::NatsPaused => on.stack.signal_nats(Signal::SIGCONT),
            Self::Paused(service) => on.stack.process(service).signal(Signal::SIGCONT),
            Self::SecondPaused(place) => on.second[place].signal(Signal::SIGCONT),
            Self::ConfigDeleted => {}
            Self::Database(fault) => fault.end(&mut on.stack).await,
        }
    }
}

impl DatabaseFault {
    async fn begin(self, stack: &mut Stack) {
        let postgres = stack.postgres.as_mut().unwrap();
        match self {
            Self::Crashed => postgres.stop().await,
            Self::Silent => postgres.signal_all(Signal::SIGSTOP),
            Self::ReadOnly => postgres.be_read_only(true).await,
            Self::Full => tokio::task::block_in_place(|| postgres.disk().fill()),
        }
    }

    async fn end(self, stack: &mut Stack) {
        let postgres = stack.postgres.as_mut().unwrap();
        match self {
            Self::Crashed => postgres.resume().await,
            Self::Silent => postgres.signal_all(Signal::SIGCONT),
            Self::ReadOnly => postgres.be_read_only(false).await,
            Self::Full => {
                postgres.disk().make_room();
                postgres.recover().await;
            }
        }
    }
}

/// The controller makes a new one, and fills it from the database.
async fn delete_config(stack: &Stack) {
    let jetstream = jetstream::new(stack.operator().await);
    wait::until("CONFIG to be deleted", REST_TIMEOUT, async || {
        jetstream.delete_key_value("CONFIG").await.map_err(|error| error.to_string())
    })
    .await;
}
