//! The benchmark: what a delivery costs, beside what a bare POST costs on the same machine in the same run.
//!
//! - [`options`]: what the user asks for.
//! - [`stack`] and [`service`]: NATS, the services and their tenants, as processes of their own.
//! - [`sink`]: the endpoint that webhooks point at, and [`clouds`] in it; [`publish`]: the services that publish events; both in this process.
//! - [`ledger`]: when each event was published and each delivery arrived; [`payload`]: what is in them.
//! - [`measure`] and [`meter`]: CPU, memory, percentiles, by process; [`raw`]: the POSTs of row (a).
//! - [`retries`] and [`parked`]: what waits in rows (f) and (g); [`doors`]: what is asked for in row (j).
//! - [`rows`]: the rows, one by one; [`report`] and [`table`]: what they say.

mod clouds;
mod doors;
mod ledger;
mod machine;
mod measure;
mod meter;
mod options;
mod parked;
mod payload;
mod publish;
mod raw;
mod report;
mod retries;
mod rows;
mod service;
mod sink;
mod stack;
mod table;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::options::Options;

// As the services: the ceiling of row (a) is not to be lowered by another allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options = Options::parse();
    shopery_runtime::raise_descriptors();
    if cfg!(debug_assertions) {
        eprintln!("warning: the loader is a debug build, so row a is not the ceiling; use cargo run --release");
    }
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(lost) => {
            eprintln!("{lost} deliveries were lost");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many deliveries were lost.
#[tokio::main]
async fn run(options: &Options) -> anyhow::Result<u64> {
    // Whatever was started ends with the future that started it.
    let mut findings = tokio::select! {
        findings = rows::run(options) => findings?,
        stopped = stopped() => stopped?,
    };
    findings.facts.splice(0..0, machine::facts());
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&report::json(options, &findings))?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", report::text(options, &findings));
    Ok(report::lost(&findings))
}

async fn stopped<T>() -> anyhow::Result<T> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    bail!("stopped by a signal; nothing was measured to the end")
}
