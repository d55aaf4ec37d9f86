//! The `main` of every service: help, configuration, telemetry, run, drain.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use crate::{Env, Runtime, Shutdown, descriptors, make_files_private, telemetry};

/// What a service says of itself.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The name of its binary: `shopery-ingest`.
    pub name: &'static str,
    /// One sentence for `--help`.
    pub what: &'static str,
    pub version: &'static str,
}

/// Runs a service until a signal stops it. `read` names and checks its variables; `run` returns once it is drained.
pub fn main<C, F>(about: About, read: impl Fn(&mut Env) -> Option<C>, run: impl FnOnce(C, Runtime) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    command(about, std::env::args().skip(1), read, run)
}

/// The same, of a command that a service has beside serving. `arguments` are those behind its name.
pub fn command<C, F>(
    about: About,
    arguments: impl Iterator<Item = String>,
    read: impl Fn(&mut Env) -> Option<C>,
    run: impl FnOnce(C, Runtime) -> F,
) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let read_all = |env: &mut Env| {
        let telemetry = telemetry::Config::read(env);
        let drain = env.duration(
            "SHOPERY_DRAIN_TIMEOUT",
            "25s",
            "How long a stop waits for work in flight; below the grace period of the orchestrator",
        );
        let config = read(env);
        Some((telemetry?, drain?, config?))
    };

    let arguments: Vec<_> = arguments.collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["--help" | "-h"] => {
            let mut env = Env::default();
            drop(read_all(&mut env));
            println!(
                "{}: {}\n\nConfigured by environment variables; NAME_FILE instead of NAME reads a file.\n\n{}",
                about.name,
                about.what,
                env.help()
            );
            return ExitCode::SUCCESS;
        }
        ["--version" | "-V"] => {
            println!("{} {}", about.name, about.version);
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{}: takes no arguments; it is configured by environment variables, see --help", about.name);
            return ExitCode::from(2);
        }
    }

    let mut env = Env::of_process();
    let config = read_all(&mut env);
    let (telemetry, drain, config) = match env.finish(config) {
        Ok(all) => all,
        Err(wrong) => {
            eprintln!("{}: the configuration is wrong:\n{wrong}", about.name);
            return ExitCode::FAILURE;
        }
    };
    make_files_private();
    let served = telemetry::start(about.name, &telemetry).and_then(|telemetry| {
        let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let repeats = telemetry.tell_of_repeats();
        let served = tokio.block_on(supervise(about, drain, |runtime| {
            runtime.spawn("log-repeats", repeats);
            run(config, runtime)
        }));
        drop(telemetry);
        // Blocking work that is still running (a name look-up) does not hold the process.
        tokio.shutdown_background();
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("{}: {error:#}", about.name);
            ExitCode::FAILURE
        }
    }
}

/// Runs until it returns by itself, or is told to stop and has drained, or the drain is cut short.
async fn supervise<F>(about: About, drain: Duration, run: impl FnOnce(Runtime) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let runtime = Runtime::default();
    let stopped = stop_on_signals(runtime.shutdown.clone(), drain)?;
    tracing::info!(version = about.version, "starting {}", about.name);
    descriptors::raise_descriptors();
    // On the workers' threads. On this one, each message that comes would be handed from one thread to another.
    let mut served = AbortOnDropHandle::new(tokio::spawn(run(runtime.clone())));
    tokio::select! {
        served = &mut served => served.context("it has panicked")?,
        why = stopped => anyhow::bail!(why),
        why = runtime.failed() => anyhow::bail!(why),
    }
}

/// The first SIGTERM or SIGINT begins the drain. The future completes, with the reason, when the drain must be cut
/// short: at a second signal, or `drain` after the first.
pub fn stop_on_signals(shutdown: Shutdown, drain: Duration) -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = shutdown.draining() => {}
        }
        tracing::info!("stopping: finishing what is in flight; a second signal stops at once");
        shutdown.begin();
        tokio::select! {
            _ = terminate.recv() => "stopped at once by a second signal; unfinished work will be repeated",
            _ = interrupt.recv() => "stopped at once by a second signal; unfinished work will be repeated",
            () = tokio::time::sleep(drain) => "the drain took too long; unfinished work will be repeated",
        }
    })
}
