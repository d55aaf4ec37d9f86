//! What can be asked for: one subcommand for each group, each in its own file.

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::{deliveries, digest, events, login, metrics, recovery, verify, webhooks};

const AFTER: &str = "\
Start with `shopery login`, or with the variables SHOPERY_API_URL, SHOPERY_INGEST_URL, SHOPERY_TENANT and SHOPERY_TOKEN.
Exit codes: 0 done; 1 refused, or not verified; 2 wrong usage; 3 not reachable or not available now; 130 Ctrl-C.";

/// The command line of Shopery Webhooks
#[derive(Debug, Parser)]
#[command(name = "shopery", version, after_help = AFTER, arg_required_else_help = true)]
pub struct Arguments {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the URLs, the tenant and the token for later
    Login(login::Login),
    /// Forget them
    Logout,
    /// Show who you are, and whether the API accepts it
    Whoami,
    /// Create, look at and change webhooks
    #[command(subcommand, alias = "webhook")]
    Webhooks(webhooks::Command),
    /// Look at what was delivered, watch it, send it again
    #[command(subcommand, alias = "delivery")]
    Deliveries(deliveries::Command),
    /// Publish events, pull them, list their types
    #[command(subcommand, alias = "event")]
    Events(events::Command),
    /// Send again what a webhook has missed
    Recover(recovery::Recover),
    /// Look at recoveries, or cancel one
    #[command(subcommand, alias = "recovery")]
    Recoveries(recovery::Command),
    /// What a receiver compares its own list with, to find what it misses
    Digest(digest::Digest),
    /// What was attempted, what came of it, and how long it took
    Metrics(metrics::Metrics),
    /// Verify a signature, without the API
    Verify(verify::Verify),
    /// Print the completions of a shell
    #[command(
        after_help = "bash: source <(shopery completions bash)\nzsh: shopery completions zsh > \"${fpath[1]}/_shopery\"\n\
        fish: shopery completions fish > ~/.config/fish/completions/shopery.fish"
    )]
    Completions { shell: Shell },
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Login(login) => login.run(global).await,
        Command::Logout => login::logout(),
        Command::Whoami => login::whoami(&global).await,
        Command::Webhooks(command) => command.run(&Context::new(&global)?).await,
        Command::Deliveries(command) => command.run(&Context::new(&global)?).await,
        Command::Events(command) => command.run(&Context::new(&global)?).await,
        Command::Recover(recover) => recover.run(&Context::new(&global)?).await,
        Command::Recoveries(command) => command.run(&Context::new(&global)?).await,
        Command::Metrics(metrics) => metrics.run(&Context::new(&global)?).await,
        Command::Digest(digest) => digest.run(&Context::new(&global)?).await,
        Command::Verify(verify) => verify.run(crate::context::output(&global)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "shopery", &mut script);
            crate::context::output(&global).line(String::from_utf8_lossy(&script).trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn debug_shows_no_token() {
        let arguments = Arguments::try_parse_from(["shopery", "login", "--token", "a-token-of-mine"]).unwrap();
        assert!(!format!("{arguments:?}").contains("a-token-of-mine"));
    }
}
