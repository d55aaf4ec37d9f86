//! `cargo run --release -p fuzz`: feeds every parser that outsiders reach with hostile input, and prints a table.
#![allow(clippy::print_stdout, reason = "it is the result")]

use clap::Parser;

#[derive(Parser)]
struct Options {
    /// For each parser.
    #[arg(long, default_value_t = 1_000_000)]
    executions: u64,
    /// The same seed, the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only parsers whose name has this in it.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() {
    let options = Options::parse();
    println!("{:<22}{:>12}{:>12}{:>12}{:>12}", "parser", "executions", "taken", "per second", "slowest ms");
    for target in fuzz::TARGETS.iter().filter(|target| target.name.contains(&options.only)) {
        let report = fuzz::run(target, options.executions, options.seed);
        let (rate, slowest) =
            (report.executions as f64 / report.took.as_secs_f64(), report.slowest.as_secs_f64() * 1e3);
        println!("{:<22}{:>12}{:>12}{rate:>12.0}{slowest:>12.2}", target.name, report.executions, report.taken);
    }
}
