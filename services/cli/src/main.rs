//! `shopery`: the command line of Shopery Webhooks, thin over its REST API.
//!
//! The cast: [`arguments`] is what can be asked for; a [`context::Context`] is what every command is given, a
//! [`client::Client`] that speaks HTTP and an [`output::Output`] that speaks to people or scripts; each group of
//! commands has a file of its own. What goes wrong is a [`failure::Failure`], which decides the exit code.
//!
//! Invariants: what is for scripts goes to stdout, all else to stderr. With `--json`, stdout has the API's own JSON, byte
//! for byte. A token or secret is never part of an error: [`redact`] is the last thing that each of them passes.

mod arguments;
mod attempt;
mod client;
mod config;
mod context;
mod deliveries;
mod digest;
mod envelope;
mod events;
mod failure;
mod file;
mod input;
mod json;
mod list;
mod login;
mod metrics;
mod moment;
mod output;
mod problem;
mod progress;
mod publish;
mod recovery;
mod redact;
mod signature;
mod table;
mod tail;
mod terminal;
mod verify;
mod webhook_body;
mod webhooks;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // What was typed may be a token in the wrong place.
        Err(error) if error.use_stderr() => {
            eprint!("{}", terminal::plain_lines(&redact::redact(&error.to_string())));
            return ExitCode::from(failure::USAGE);
        }
        Err(help) => {
            // Whoever closes the pipe has read enough.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::Failed(format!("the system gives no runtime: {error}")).report(),
    };
    let done = runtime.block_on(arguments::run(arguments));
    // A prompt that was interrupted still waits for its line.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
