//! What a row measures of processes, and the line of the table that it makes.

use std::sync::Arc;
use std::time::Duration;

use crate::ledger::{Sheet, Tally};
use crate::measure::{self, Percentiles};
use crate::options::Row;
use crate::sink::Sink;

/// This process, in which publishers and sink run.
pub const LOADER: &str = "load";

/// What a row has measured.
pub struct Line {
    pub row: Row,
    pub name: String,
    /// What others are measured beside; no target is about its latency.
    pub is_load: bool,
    /// Arrivals that came out of order, where an order is promised.
    pub displaced: Option<usize>,
    pub sheet: Arc<Sheet>,
    pub tally: Tally,
    /// By process, the loader last.
    pub shares: Vec<Share>,
    /// Connections that the sink accepted during the row.
    pub connections: u64,
    /// How late the loader sent what was due, if there was a schedule.
    pub late: Option<Percentiles>,
}

pub struct Share {
    pub process: &'static str,
    pub cpu: Duration,
    pub peak_memory: u64,
}

/// Measures processes, this one too, from its start until a line is made of it.
pub struct Meter {
    processes: Vec<(&'static str, u32)>,
    cpu: Vec<Duration>,
    connections: u64,
}

impl Meter {
    pub fn start(mut processes: Vec<(&'static str, u32)>, sink: &Sink) -> anyhow::Result<Self> {
        processes.push((LOADER, std::process::id()));
        processes.iter().for_each(|(_, pid)| measure::forget_peak(*pid));
        let cpu = processes.iter().map(|(_, pid)| measure::cpu(*pid)).collect::<Result<_, _>>()?;
        Ok(Self { processes, cpu, connections: sink.connections() })
    }

    pub fn line(
        &self,
        row: Row,
        name: String,
        sheet: Arc<Sheet>,
        late: Option<Percentiles>,
        sink: &Sink,
    ) -> anyhow::Result<Line> {
        let share = |((process, pid), before): (&(&'static str, u32), &Duration)| {
            let cpu = measure::cpu(*pid)?.saturating_sub(*before);
            anyhow::Ok(Share { process, cpu, peak_memory: measure::peak_memory(*pid)? })
        };
        let shares = self.processes.iter().zip(&self.cpu).map(share).collect::<Result<_, _>>()?;
        let connections = sink.connections() - self.connections;
        Ok(Line { row, name, is_load: false, displaced: None, tally: sheet.tally(), sheet, shares, connections, late })
    }
}
