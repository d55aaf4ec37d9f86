//! The rows of the table, one after the other: each has the machine to itself, on streams that the one before has
//! left empty.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use shopery_local::tls::Authority;

use crate::doors::{self, Asker, DOORS, HISTORY};
use crate::ledger::{Ledger, Sheet};
use crate::measure::Percentiles;
use crate::meter::{Line, Meter};
use crate::options::{Options, Row};
use crate::parked;
use crate::payload::Kind;
use crate::publish::{self, Lane};
use crate::raw;
use crate::retries::{self, Window};
use crate::sink::Sink;
use crate::stack::{self, Stack, Tenant};

/// No row publishes faster than this, per second and webhook: it bounds the sheets.
const MAX_RATE: usize = 100_000;
/// A delivery is lost when none has arrived for so long: longer than `ack_wait` (30 s), after which a service's
/// unfinished work is repeated.
const SILENCE: Duration = Duration::from_secs(45);
/// A tenant is alone once all others have been silent for two seconds: so long a row of one tenant waits.
const ALONE: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(1);
const RATE_WARM_UP: Duration = Duration::from_secs(3);
/// Connections of the publishers of row d: more than are ever busy at its rate.
const RATE_LANES: usize = 32;
const BATCH: usize = 100;
/// The healthy tenant of row e, in events a second.
const BESIDE_RATE: u32 = 100;
/// Events that each silent endpoint of row e has queued before.
const SILENT_EVENTS: usize = 5000;
/// The tenant beside the import of row h, in events a second.
const QUIET_RATE: u32 = 10;
/// Products in one request of the import, and its requests at a time.
const IMPORT_BATCH: usize = 1000;
const IMPORT_LANES: usize = 4;
/// How long the import, or the draining of what was parked, may take at most.
const LONG: Duration = Duration::from_secs(1200);
/// A drain may send so many at once, after a probe that takes one of the eight oldest.
const UNORDERED: usize = 64 + 8;
/// How long an endpoint that is back may wait for a probe; the pause between two grows to five minutes and a fifth.
const PROBE: Duration = Duration::from_secs(6 * 60);
pub struct Findings {
    pub lines: Vec<Line>,
    pub facts: Vec<String>,
}

pub async fn run(options: &Options) -> anyhow::Result<Findings> {
    let authority = Authority::generate()?;
    let ledger = Arc::new(Ledger::default());
    let sink = Sink::start(&authority, ledger.clone()).await?;
    let mut bench = Bench { options, ledger, sink, client: raw::client(&authority)?, lines: vec![] };
    if options.wants(Row::A) {
        bench.raw("raw POST, TLS", bench.sink.url(0)).await?;
        bench.raw("raw POST, no TLS", bench.sink.plain_url(0)).await?;
    }
    let mut facts = vec![];
    if options.wants_services() {
        let mut stack = Stack::start(&authority, &bench.sink, &bench.client).await?;
        facts = stack.facts();
        let measured = bench.end_to_end(&mut stack).await;
        stack.complaints().iter().for_each(|complaint| eprintln!("{complaint}"));
        measured?;
    }
    // Row e runs last and is shown in its place.
    bench.lines.sort_by_key(|line| line.row.letter());
    // A repeat may come long after its row.
    bench.lines.iter_mut().for_each(|line| line.tally.repeats = line.sheet.tally().repeats);
    if bench.ledger.strays() > 0 {
        eprintln!("the sink was sent {} requests that no row had published", bench.ledger.strays());
    }
    Ok(Findings { lines: bench.lines, facts })
}

struct Bench<'a> {
    options: &'a Options,
    ledger: Arc<Ledger>,
    sink: Sink,
    client: reqwest::Client,
    lines: Vec<Line>,
}

/// How the events of a throughput row come in.
#[derive(Clone, Copy)]
enum Way {
    Http { batch: usize },
    Nats,
}

impl Bench<'_> {
    async fn raw(&mut self, name: &str, url: String) -> anyhow::Result<()> {
        eprintln!("row a: {name}");
        let concurrency = usize::from(self.options.concurrency);
        let warm = self.ledger.open(MAX_RATE, 1, None)?;
        raw::post_until(Instant::now() + WARM_UP, &self.client, &url, concurrency, &warm).await?;

        let sheet = self.sheet(1, None)?;
        let meter = Meter::start(vec![], &self.sink)?;
        raw::post_until(self.end(), &self.client, &url, concurrency, &sheet).await?;
        self.lines.push(meter.line(Row::A, name.to_owned(), sheet, None, &self.sink)?);
        Ok(())
    }

    async fn end_to_end(&mut self, stack: &mut Stack) -> anyhow::Result<()> {
        for fan_out in [1, 5] {
            self.warm_up(stack, fan_out).await?;
        }
        if self.options.wants(Row::B) {
            for (batch, fan_out) in [(1, 1), (1, 5), (BATCH, 1), (BATCH, 5)] {
                self.throughput(stack, Row::B, Way::Http { batch }, fan_out).await?;
            }
        }
        if self.options.wants(Row::C) {
            for fan_out in [1, 5] {
                self.throughput(stack, Row::C, Way::Nats, fan_out).await?;
            }
        }
        if self.options.wants(Row::D) {
            self.latency(stack).await?;
        }
        if self.options.wants(Row::F) {
            self.retries(stack).await?;
        }
        if self.options.wants(Row::G) {
            self.parked(stack).await?;
        }
        if self.options.wants(Row::H) {
            self.import(stack).await?;
        }
        if self.options.wants(Row::I) {
            self.ordered(stack).await?;
        }
        if self.options.wants(Row::J) {
            self.doors(stack).await?;
        }
        if self.options.wants(Row::K) {
            self.clouds(stack).await?;
        }
        // The last one: what it leaves behind is never delivered.
        if self.options.wants(Row::E) {
            self.beside(stack, "alone", None).await?;
            self.beside(stack, "beside a silent endpoint", Some(1)).await?;
            self.beside(stack, "beside 20 silent endpoints", Some(20)).await?;
        }
        Ok(())
    }

    /// Publishes until the router knows all webhooks of the tenant, then a little of everything, unmeasured: code,
    /// caches and connections are as they are in a service that has been up for a while.
    async fn warm_up(&mut self, stack: &mut Stack, fan_out: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let sheet = self.ledger.open(1, fan_out, None)?;
            let lanes = self.lanes(stack, Way::Http { batch: 1 }, fan_out, 1).await?;
            publish::until(deadline, lanes, 1, &sheet).await?;
            if arrived(&sheet, Duration::from_secs(1)).await {
                break;
            }
            if Instant::now() > deadline {
                bail!("{} of {fan_out} webhooks are delivered to within 30 s", sheet.arrivals());
            }
        }
        for way in [Way::Http { batch: 1 }, Way::Nats] {
            let sheet = self.ledger.open(MAX_RATE / fan_out, fan_out, self.backlog())?;
            let lanes = self.lanes(stack, way, fan_out, self.options.concurrency.into()).await?;
            publish::until(Instant::now() + WARM_UP, lanes, 1, &sheet).await?;
            arrived(&sheet, SILENCE).await;
        }
        stack.settled().await
    }

    async fn throughput(&mut self, stack: &mut Stack, row: Row, way: Way, fan_out: usize) -> anyhow::Result<()> {
        let name = match way {
            Way::Http { batch: 1 } => format!("HTTP, fan-out {fan_out}"),
            Way::Http { batch } => format!("HTTP, fan-out {fan_out}, batches of {batch}"),
            Way::Nats => format!("NATS, fan-out {fan_out}"),
        };
        eprintln!("row {}: {name}", row.letter());
        let concurrency = usize::from(self.options.concurrency);
        let (batch, concurrency) = match way {
            Way::Http { batch: 1 } => (1, concurrency),
            Way::Http { batch } => (batch, concurrency.div_ceil(8)),
            // All on one connection, so they are cheap; and an event takes one more hop before it is accepted.
            Way::Nats => (1, concurrency * 4),
        };
        let lanes = self.lanes(stack, way, fan_out, concurrency).await?;
        tokio::time::sleep(ALONE).await;
        let sheet = self.sheet(fan_out, self.backlog())?;
        let meter = Meter::start(stack.processes(), &self.sink)?;
        publish::until(self.end(), lanes, batch, &sheet).await?;
        self.finish(stack, meter, row, name, sheet, None).await
    }

    async fn latency(&mut self, stack: &mut Stack) -> anyhow::Result<()> {
        let rate = self.options.rate;
        eprintln!("row d: latency at {rate} events/s");
        let warm = self.ledger.open(events(rate, RATE_WARM_UP)?, 1, None)?;
        let lanes = self.lanes(stack, Way::Http { batch: 1 }, 1, RATE_LANES).await?;
        publish::at_rate(rate, |_| true, lanes, &warm).await?;
        arrived(&warm, SILENCE).await;

        let sheet = self.ledger.open(events(rate, Duration::from_secs(self.options.rate_seconds))?, 1, None)?;
        let lanes = self.lanes(stack, Way::Http { batch: 1 }, 1, RATE_LANES).await?;
        let meter = Meter::start(stack.processes(), &self.sink)?;
        let late = publish::at_rate(rate, |_| true, lanes, &sheet).await?;
        self.finish(stack, meter, Row::D, format!("HTTP, fan-out 1, at {rate}/s"), sheet, late).await
    }

    /// As the first line of row b, to a webhook whose deliveries of one resource are made one after the other.
    async fn ordered(&mut self, stack: &mut Stack) -> anyhow::Result<()> {
        self.one_by_one(stack, Row::I, stack::ORDERED, "HTTP, fan-out 1, ordered").await
    }

    /// The same to an endpoint, an event bus and a topic, each warm.
    async fn clouds(&mut self, stack: &mut Stack) -> anyhow::Result<()> {
        let endpoint = stack.tenant(1, true)?.id;
        for (tenant, name) in [
            (endpoint, "HTTP, fan-out 1, to an HTTPS endpoint"),
            (stack::BUS, "HTTP, fan-out 1, to EventBridge"),
            (stack::TOPIC, "HTTP, fan-out 1, to Pub/Sub"),
        ] {
            let warm = self.ledger.open(MAX_RATE, 1, self.backlog())?;
            let lanes = self.lanes_of(stack, tenant).await?;
            publish::until(Instant::now() + WARM_UP, lanes, 1, &warm).await?;
            arrived(&warm, SILENCE).await;
            stack.settled().await?;
            self.one_by_one(stack, Row::K, tenant, name).await?;
        }
        Ok(())
    }

    /// A tenant's events over HTTP, one a request.
    async fn one_by_one(&mut self, stack: &mut Stack, row: Row, tenant: &str, name: &str) -> anyhow::Result<()> {
        eprintln!("row {}: {name}", row.letter());
        let lanes = self.lanes_of(stack, tenant).await?;
        tokio::time::sleep(ALONE).await;
        let sheet = self.sheet(1, self.backlog())?;
        let meter = Meter::start(stack.processes(), &self.sink)?;
        publish::until(self.end(), lanes, 1, &sheet).await?;
        self.finish(stack, meter, row, name.to_owned(), sheet, None).await
    }

    async fn lanes_of(&self, stack: &Stack, tenant: &str) -> anyhow::Result<Vec<Lane>> {
        let headers = &stack.tenant_named(tenant)?.headers;
        let ingest = stack.service("shopery-ingest")?.address;
        let mut lanes = Vec::new();
        for _ in 0..self.options.concurrency {
            lanes.push(Lane::http(ingest, headers).await?);
        }
        Ok(lanes)
    }

    /// At each door, a quiet tenant alone and then beside a loud one.
    async fn doors(&mut self, stack: &mut Stack) -> anyhow::Result<()> {
        eprintln!("row j: {HISTORY} deliveries to look at for each of two tenants");
        let ingest = stack.service("shopery-ingest")?.address;
        for tenant in [stack::QUIET, stack::LOUD] {
            let lane = Lane::http(ingest, &stack.tenant_named(tenant)?.headers).await?;
            let sheet = self.ledger.open(HISTORY, 1, None)?;
            publish::until(Instant::now() + LONG, vec![lane], BATCH, &sheet).await?;
            arrived(&sheet, SILENCE).await;
        }
        stack.settled().await?;
        let urls = || [self.sink.test_url(), self.sink.silent_url(0)];
        let quiet = Asker::new(stack, doors::QUIET, urls())?;
        let loud = Asker::new(stack, doors::LOUD, urls())?;
        for door in &DOORS {
            for how in ["alone", "beside a loud tenant"] {
                let name = format!("{} at {}/s, {how}", door.name, door.rate);
                eprintln!("row j: {name}");
                let noise = (how != "alone").then(|| loud.ask_loudly(door));
                // Its first requests, all at once, cost this process more than the services.
                tokio::time::sleep(WARM_UP).await;
                let time = Duration::from_secs(self.options.rate_seconds.div_ceil(2));
                let sheet = self.ledger.open(events(door.rate, time)?, 1, None)?;
                let lanes = (0..RATE_LANES).map(|_| Lane::Ask { asker: quiet.clone(), door }).collect();
                let meter = Meter::start(stack.processes(), &self.sink)?;
                let late = publish::at_rate(door.rate, |_| true, lanes, &sheet).await?;
                self.lines.push(meter.line(Row::J, name, sheet, late, &self.sink)?);
                drop(noise);
                stack.settled().await?;
            }
        }
        Ok(())
    }

    /// A healthy tenant at a fixed rate, after another tenant has queued events for `silent` endpoints that never answer.
    async fn beside(&mut self, stack: &mut Stack, how: &str, silent: Option<usize>) -> anyhow::Result<()> {
        eprintln!("row e: {BESIDE_RATE}/s {how}");
        if let Some(fan_out) = silent {
            let tenant = stack.tenant(fan_out, false)?;
            let ingest = stack.service("shopery-ingest")?.address;
            let lane = Lane::http(ingest, &tenant.headers).await?;
            let sheet = self.ledger.open(SILENT_EVENTS, fan_out, None)?;
            publish::until(Instant::now() + SILENCE, vec![lane], BATCH, &sheet).await?;
        }
        self.for_a_while(stack, Row::E, BESIDE_RATE, how).await
    }

    /// A healthy tenant, alone and beside retries that wait; then NATS is started anew, and all of them have to come.
    async fn retries(&mut self, stack: &mut Stack) -> anyhow::Result<()> {
        eprintln!("row f: {BESIDE_RATE}/s alone");
        self.for_a_while(stack, Row::F, BESIDE_RATE, "alone").await?;
        let count = usize::try_from(self.options.pending)?;
        let window = Window::of(count, Duration::from_secs(self.options.rate_seconds));
        eprintln!("row f: {BESIDE_RATE}/s beside {count} pending retries");
        let sheet = self.ledger.open(count, 1, None)?;
        retries::publish(stack, stack.tenant_named(stack::RETRIES)?, &sheet, window).await?;
        self.for_a_while(stack, Row::F, BESIDE_RATE, &format!("beside {count} pending retries")).await?;
        if let Some(early) = Some(sheet.arrivals()).filter(|early| *early > 0) {
            bail!("{early} retries came before they were to: publishing or measuring took longer than was planned");
        }
        let took = stack.restart_nats().await?;
        eprintln!("row f: NATS was started anew in {:.1} s; the retries are due now and then", took.as_secs_f64());
        let meter = Meter::start(stack.processes(), &self.sink)?;
        tokio::time::sleep_until(window.start.into()).await;
        let name = format!("{count} retries over {} s, after a restart", window.length.as_secs());
        self.finish(stack, meter, Row::F, name, sheet, None).await?;
        self.mark_load(None);
        Ok(())
    }

    /// A healthy tenant, alone and while what another's endpoint has missed is sent to it.
    async fn parked(&mut self, stack: &mut Stack) -> anyhow::Result<()> {
        eprintln!("row g: {BESIDE_RATE}/s alone");
        self.for_a_while(stack, Row::G, BESIDE_RATE, "alone").await?;
        let count = usize::try_from(self.options.parked)?;
        eprintln!("row g: {count} events for an endpoint that is away");
        let headers = stack.tenant_named(stack::PARKED)?.headers.clone();
        let ingest = stack.service("shopery-ingest")?.address;
        // First a few, so that all of the others find the circuit open.
        let few = self.ledger.open(BATCH, 1, None)?;
        let missed = self.ledger.open(count, 1, None)?;
        let lane = Lane::http(ingest, &headers).await?;
        publish::until(Instant::now() + LONG, vec![lane], 1, &few).await?;
        parked::hold(stack, BATCH).await?;
        // Not before: a connection that says nothing is not kept.
        let importer = Lane::http(ingest, &headers).await?;
        publish::until(Instant::now() + LONG, vec![importer], IMPORT_BATCH, &missed).await?;
        parked::hold(stack, BATCH + count).await?;
        let lay = parked::order(stack, &missed).await?;

        eprintln!("row g: the endpoint is back");
        self.sink.open_gate();
        if !began(&missed, PROBE).await {
            bail!("no deliverer has looked at the endpoint for {} s", PROBE.as_secs());
        }
        // What counts is how long it takes from here.
        let now = Instant::now();
        (0..count).for_each(|number| missed.publish(number, now));
        let sheet = self.ledger.open(events(BESIDE_RATE, LONG)?, 1, None)?;
        let lanes = self.lanes(stack, Way::Http { batch: 1 }, 1, RATE_LANES).await?;
        let (meter, beside) = (Meter::start(stack.processes(), &self.sink)?, missed.clone());
        let late = publish::at_rate(BESIDE_RATE, move |_| beside.arrivals() < count, lanes, &sheet).await?;
        let all = arrived(&sheet, SILENCE).await && arrived(&missed, SILENCE).await;
        let name = format!("{BESIDE_RATE}/s while {count} parked jobs are sent");
        self.lines.push(meter.line(Row::G, name, sheet, late, &self.sink)?);
        let displaced = parked::displaced(&lay, &missed.order(), UNORDERED);
        self.lines.push(meter.line(Row::G, format!("the {count} parked jobs"), missed, None, &self.sink)?);
        self.mark_load(Some(displaced));
        if all { stack.settled().await } else { stack.check_alive() }
    }

    /// A quiet tenant, alone and then for as long as another imports its products, until the last is delivered.
    async fn import(&mut self, stack: &mut Stack) -> anyhow::Result<()> {
        eprintln!("row h: {QUIET_RATE}/s alone");
        self.for_a_while(stack, Row::H, QUIET_RATE, "alone").await?;
        let count = usize::try_from(self.options.import)?;
        eprintln!("row h: {QUIET_RATE}/s beside an import of {count} products");
        let tenant = stack.tenant_named(stack::IMPORT)?;
        let ingest = stack.service("shopery-ingest")?.address;
        let mut importers = Vec::with_capacity(IMPORT_LANES);
        for _ in 0..IMPORT_LANES {
            importers.push(Lane::http(ingest, &tenant.headers).await?);
        }
        let products = self.ledger.open_of(Kind::Product, count, tenant.fan_out, None)?;
        let sheet = self.ledger.open(events(QUIET_RATE, LONG)?, 1, None)?;
        let lanes = self.lanes(stack, Way::Http { batch: 1 }, 1, RATE_LANES).await?;
        let (meter, beside) = (Meter::start(stack.processes(), &self.sink)?, products.clone());
        let (late, ()) = tokio::try_join!(
            publish::at_rate(QUIET_RATE, move |_| beside.arrivals() < count, lanes, &sheet),
            publish::until(Instant::now() + LONG, importers, IMPORT_BATCH, &products),
        )?;
        let name = format!("{QUIET_RATE}/s beside an import");
        let (quiet, import) = (arrived(&sheet, SILENCE).await, arrived(&products, SILENCE).await);
        self.lines.push(meter.line(Row::H, name, sheet, late, &self.sink)?);
        self.lines.push(meter.line(Row::H, format!("the import of {count} products"), products, None, &self.sink)?);
        self.mark_load(None);
        if quiet && import { stack.settled().await } else { stack.check_alive() }
    }

    /// The last line is what others are measured beside.
    fn mark_load(&mut self, displaced: Option<usize>) {
        if let Some(line) = self.lines.last_mut() {
            (line.is_load, line.displaced) = (true, displaced);
        }
    }

    /// A tenant at a fixed rate, beside whatever goes on.
    async fn for_a_while(&mut self, stack: &mut Stack, row: Row, rate: u32, how: &str) -> anyhow::Result<()> {
        let sheet = self.ledger.open(events(rate, Duration::from_secs(self.options.rate_seconds))?, 1, None)?;
        let lanes = self.lanes(stack, Way::Http { batch: 1 }, 1, RATE_LANES).await?;
        let meter = Meter::start(stack.processes(), &self.sink)?;
        let late = publish::at_rate(rate, |_| true, lanes, &sheet).await?;
        if !arrived(&sheet, SILENCE).await {
            stack.check_alive()?;
        }
        self.lines.push(meter.line(row, format!("{rate}/s {how}"), sheet, late, &self.sink)?);
        Ok(())
    }

    /// Waits for what was published, then for the history, and only then reads the meter.
    async fn finish(
        &mut self,
        stack: &mut Stack,
        meter: Meter,
        row: Row,
        name: String,
        sheet: Arc<Sheet>,
        late: Option<Percentiles>,
    ) -> anyhow::Result<()> {
        if arrived(&sheet, SILENCE).await {
            stack.settled().await?;
        } else {
            stack.check_alive()?;
            eprintln!("{} deliveries have not arrived", sheet.expected() - sheet.arrivals());
        }
        let line = meter.line(row, name, sheet, late, &self.sink)?;
        ensure!(line.tally.damaged == 0, "{} bodies arrived with another length than published", line.tally.damaged);
        self.lines.push(line);
        Ok(())
    }

    async fn lanes(&self, stack: &Stack, way: Way, fan_out: usize, count: usize) -> anyhow::Result<Vec<Lane>> {
        let tenant: &Tenant = stack.tenant(fan_out, true)?;
        let ingest = stack.service("shopery-ingest")?.address;
        let mut lanes = Vec::with_capacity(count);
        for _ in 0..count {
            lanes.push(match way {
                Way::Http { .. } => Lane::http(ingest, &tenant.headers).await?,
                Way::Nats => Lane::nats(&tenant.nats, tenant.id),
            });
        }
        Ok(lanes)
    }

    fn sheet(&self, fan_out: usize, backlog: Option<usize>) -> anyhow::Result<Arc<Sheet>> {
        let events = usize::try_from(self.options.seconds)?.saturating_mul(MAX_RATE / fan_out);
        let limit = self.options.events.map_or(Ok(usize::MAX), usize::try_from)?;
        self.ledger.open(events.min(limit), fan_out, backlog)
    }

    fn backlog(&self) -> Option<usize> {
        // At least one batch to every webhook has to fit.
        usize::try_from(self.options.backlog).ok().filter(|backlog| *backlog > 0).map(|backlog| backlog.max(BATCH * 5))
    }

    fn end(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.options.seconds)
    }
}

fn events(rate: u32, time: Duration) -> anyhow::Result<usize> {
    Ok(usize::try_from(u64::from(rate) * time.as_secs())?)
}

/// Waits until all that was published has arrived; false when nothing has for `silence`.
async fn arrived(sheet: &Sheet, silence: Duration) -> bool {
    let (mut seen, mut since) = (0, Instant::now());
    while sheet.arrivals() < sheet.expected() {
        if sheet.arrivals() > seen {
            (seen, since) = (sheet.arrivals(), Instant::now());
        } else if since.elapsed() > silence {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

/// Waits until something of a sheet has arrived.
async fn began(sheet: &Sheet, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while sheet.arrivals() == 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    sheet.arrivals() > 0
}
