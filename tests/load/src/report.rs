//! What the measurements say: the table, the targets, and the same in JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::measure::Percentiles;
use crate::meter::{LOADER, Line, Share};
use crate::options::{Options, Row};
use crate::rows::Findings;
use crate::table::Table;

const MIB: u64 = 1024 * 1024;

// The targets of the design.
const RAW_RATE_SHARE: f64 = 1.0 / 8.0;
const RAW_CPU_FACTOR: f64 = 5.0;
const BESIDE_FACTOR: f64 = 2.0;
const DOOR_FACTOR: f64 = 3.0;
const LATENCY_P50: Duration = Duration::from_millis(2);
const LATENCY_P99: Duration = Duration::from_millis(6);

impl Line {
    /// In a raw row: POSTs.
    fn deliveries_per_second(&self) -> f64 {
        per_second(self.tally.arrived, self.tally.delivering)
    }

    fn accepted_per_second(&self) -> f64 {
        per_second(self.tally.accepted, self.tally.accepting)
    }

    /// The processes whose CPU time a delivery costs. In a raw row that is this one, client and sink; in the others it
    /// is all but this one, which only plays the platform and the merchant.
    fn charged(&self) -> impl Iterator<Item = &Share> {
        self.shares.iter().filter(|share| (share.process == LOADER) == (self.row == Row::A))
    }

    fn cpu_per_delivery(&self) -> Duration {
        per_delivery(self.charged().map(|share| share.cpu).sum(), self.tally.arrived)
    }

    fn peak_memory(&self) -> u64 {
        self.charged().map(|share| share.peak_memory).sum()
    }
}

fn per_second(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

fn per_delivery(cpu: Duration, deliveries: usize) -> Duration {
    u32::try_from(deliveries).ok().and_then(|count| cpu.checked_div(count)).unwrap_or_default()
}

/// What the ratios refer to: POSTs over TLS, as deliveries are.
fn raw(findings: &Findings) -> Option<&Line> {
    findings.lines.iter().find(|line| line.row == Row::A)
}

#[derive(Debug, PartialEq)]
pub struct Target {
    what: String,
    measured: String,
    met: bool,
}

pub fn lost(findings: &Findings) -> u64 {
    findings.lines.iter().map(|line| line.tally.lost).sum()
}

pub fn targets(findings: &Findings) -> Vec<Target> {
    let mut targets = vec![];
    let mut judge = |what, measured, met| targets.push(Target { what, measured, met });
    for line in findings.lines.iter().filter(|line| matches!(line.row, Row::B | Row::C)) {
        let Some(raw) = raw(findings) else { break };
        let rate = line.deliveries_per_second() / raw.deliveries_per_second();
        let what = |what| format!("{}: {}: {what}", line.row.letter(), line.name);
        judge(what("deliveries/s >= 1/8 of raw"), fraction(rate), rate >= RAW_RATE_SHARE);
        let cpu = line.cpu_per_delivery().as_secs_f64() / raw.cpu_per_delivery().as_secs_f64();
        judge(what("CPU a delivery <= 5x raw"), format!("{cpu:.1}x"), cpu <= RAW_CPU_FACTOR);
    }
    for line in findings.lines.iter().filter(|line| line.row == Row::D) {
        let Some(latency) = line.tally.latency else { continue };
        for (name, measured, limit) in [("p50", latency.p50, LATENCY_P50), ("p99", latency.p99, LATENCY_P99)] {
            let what = format!("{}: {}: {name} <= {} ms", line.row.letter(), line.name, limit.as_millis());
            judge(what, format!("{} ms", millis(measured)), measured <= limit);
        }
    }
    // Of each of these rows the first line is the tenant alone.
    for row in [Row::E, Row::F, Row::G, Row::H] {
        let mut lines = findings.lines.iter().filter(|line| line.row == row && !line.is_load);
        let Some(alone) = lines.next().and_then(|line| line.tally.latency) else { continue };
        for (line, latency) in lines.filter_map(|line| Some((line, line.tally.latency?))) {
            let ratio = latency.p99.as_secs_f64() / alone.p99.as_secs_f64();
            let what = format!("{}: {}: p99 <= 2x alone", row.letter(), line.name);
            judge(what, format!("{ratio:.2}x"), ratio <= BESIDE_FACTOR);
        }
    }
    // And of each door.
    let doors: Vec<_> = findings.lines.iter().filter(|line| line.row == Row::J).collect();
    for door in doors.chunks_exact(2) {
        let what = format!("j: {}: p99 <= 3x alone", door[1].name);
        let [Some(alone), Some(beside)] = [door[0].tally.latency, door[1].tally.latency] else {
            judge(what, "no answer".to_owned(), false);
            continue;
        };
        let ratio = beside.p99.as_secs_f64() / alone.p99.as_secs_f64();
        judge(what, format!("{ratio:.2}x"), ratio <= DOOR_FACTOR);
    }
    for line in &findings.lines {
        let Some(displaced) = line.displaced else { continue };
        judge(format!("{}: {}: 0 out of order", line.row.letter(), line.name), displaced.to_string(), displaced == 0);
    }
    judge("lost 0".to_owned(), lost(findings).to_string(), lost(findings) == 0);
    targets
}

pub fn text(options: &Options, findings: &Findings) -> String {
    let mut text = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a String cannot fail.
        let _ = if options.markdown {
            write!(text, "### {title}\n\n{body}\n")
        } else {
            write!(text, "{title}\n\n{body}\n")
        };
    };
    section("Shopery Webhooks: benchmark", &list(findings.facts.iter().map(String::as_str)));
    section("Results (latencies in ms, from publish to arrival)", &results(findings).render(options.markdown));
    if findings.lines.iter().any(|line| line.row != Row::A) {
        section("CPU a delivery by process, in µs", &by_process(findings, cpu_cell).render(options.markdown));
        section("Peak RSS by process, in MiB", &by_process(findings, memory_cell).render(options.markdown));
    }
    let verdicts = targets(findings).into_iter().map(|target| {
        let verdict = if target.met { "met   " } else { "MISSED" };
        format!("{verdict} {}: {}", target.what, target.measured)
    });
    section("Targets", &list(verdicts));
    text
}

fn list(lines: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    lines.into_iter().map(|line| format!("- {}\n", line.as_ref())).collect()
}

fn results(findings: &Findings) -> Table {
    let raw = raw(findings);
    let mut table = Table::new(
        &[
            "row",
            "what",
            "events/s",
            "deliveries/s",
            "p50",
            "p90",
            "p99",
            "max",
            "lost",
            "dup",
            "CPU µs",
            "RSS MiB",
            "rate/raw",
            "CPU/raw",
        ],
        2,
    );
    for line in &findings.lines {
        let (rate, cpu) = (line.deliveries_per_second(), line.cpu_per_delivery());
        let accepted = match line.row {
            Row::A => String::new(),
            _ => format!("{:.0}", line.accepted_per_second()),
        };
        let mut row = vec![line.row.letter().to_string(), line.name.clone(), accepted, format!("{rate:.0}")];
        match line.tally.latency {
            Some(latency) => row.extend([latency.p50, latency.p90, latency.p99, latency.max].map(millis)),
            None => row.extend(["", "", "", ""].map(str::to_owned)),
        }
        row.push(line.tally.lost.to_string());
        row.push(line.tally.repeats.to_string());
        row.push(micros(cpu));
        row.push((line.peak_memory() / MIB).to_string());
        if let Some(raw) = raw {
            row.push(fraction(rate / raw.deliveries_per_second()));
            row.push(format!("{:.1}x", cpu.as_secs_f64() / raw.cpu_per_delivery().as_secs_f64()));
        }
        table.push(row);
    }
    table
}

/// One column for each process, the loader last: its share is shown, and in no sum.
fn by_process(findings: &Findings, cell: fn(&Line, &Share) -> String) -> Table {
    let lines = findings.lines.iter().filter(|line| line.row != Row::A);
    let mut header = vec!["row", "what"];
    header.extend(lines.clone().next().into_iter().flat_map(|line| &line.shares).map(|share| match share.process {
        LOADER => "load (not counted)",
        process => process.trim_start_matches("shopery-"),
    }));
    header.push("connections");
    let mut table = Table::new(&header, 2);
    for line in lines {
        let mut row = vec![line.row.letter().to_string(), line.name.clone()];
        row.extend(line.shares.iter().map(|share| cell(line, share)));
        row.push(line.connections.to_string());
        table.push(row);
    }
    table
}

fn cpu_cell(line: &Line, share: &Share) -> String {
    micros(per_delivery(share.cpu, line.tally.arrived))
}

fn memory_cell(_: &Line, share: &Share) -> String {
    (share.peak_memory / MIB).to_string()
}

pub fn json(options: &Options, findings: &Findings) -> Value {
    let raw = raw(findings);
    let line = |line: &Line| {
        let share = |share: &Share| {
            let micros = per_delivery(share.cpu, line.tally.arrived).as_secs_f64() * 1e6;
            (share.process.to_owned(), json!({"cpuMicrosPerDelivery": micros, "peakRssBytes": share.peak_memory}))
        };
        let (rate, cpu) = (line.deliveries_per_second(), line.cpu_per_delivery().as_secs_f64());
        json!({
            "row": line.row.letter(),
            "name": line.name,
            "accepted": line.tally.accepted,
            "acceptedPerSecond": line.accepted_per_second(),
            "deliveries": line.tally.arrived,
            "deliveriesPerSecond": rate,
            "latencyMs": line.tally.latency.map(percentiles),
            "answerMs": line.tally.answer.map(percentiles),
            "sentLateMs": line.late.map(percentiles),
            "lost": line.tally.lost,
            "duplicated": line.tally.repeats,
            "cpuMicrosPerDelivery": cpu * 1e6,
            "peakRssBytes": line.peak_memory(),
            "outOfOrder": line.displaced,
            "sinkConnections": line.connections,
            "rateToRaw": raw.map(|raw| rate / raw.deliveries_per_second()),
            "cpuToRaw": raw.map(|raw| cpu / raw.cpu_per_delivery().as_secs_f64()),
            "processes": line.shares.iter().map(share).collect::<serde_json::Map<_, _>>(),
        })
    };
    let target = |target: Target| json!({"target": target.what, "measured": target.measured, "met": target.met});
    json!({
        "facts": findings.facts,
        "seconds": options.seconds,
        "lines": findings.lines.iter().map(line).collect::<Vec<_>>(),
        "targets": targets(findings).into_iter().map(target).collect::<Vec<_>>(),
    })
}

fn percentiles(of: Percentiles) -> Value {
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    json!({"p50": millis(of.p50), "p90": millis(of.p90), "p99": millis(of.p99), "max": millis(of.max)})
}

/// Three digits that matter, more or less.
fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        0.0..10.0 => format!("{millis:.2}"),
        10.0..100.0 => format!("{millis:.1}"),
        _ => format!("{millis:.0}"),
    }
}

fn micros(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e6)
}

/// `1/6.3`
fn fraction(ratio: f64) -> String {
    match ratio {
        1.0.. => format!("{ratio:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("1/{:.1}", 1.0 / ratio),
    }
}
