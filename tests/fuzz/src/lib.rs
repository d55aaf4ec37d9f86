//! Hostile input for every parser that outsiders reach: texts that are almost right, broken in all the ways that a
//! [`Mutator`] knows. What is refused must be refused with an error, and what is taken must keep what it promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a panic is what we look for"
)]

mod mutator;
mod targets;

use std::time::{Duration, Instant};

pub use mutator::Mutator;
pub use targets::{TARGETS, Target};

/// How a target got on.
#[derive(Debug)]
pub struct Report {
    pub executions: u64,
    /// How many inputs were taken: with none, the parser was not looked at beyond its door.
    pub taken: u64,
    pub took: Duration,
    pub slowest: Duration,
}

/// Shows the input that was being looked at when something panicked.
struct Witness<'a> {
    target: &'a Target,
    input: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let shown = &self.input[..self.input.len().min(4096)];
            eprintln!("{} fails on {} bytes: {:?}", self.target.name, self.input.len(), String::from_utf8_lossy(shown));
        }
    }
}

/// Feeds a target with mutations of its samples. Panics where a promise is broken.
pub fn run(target: &Target, executions: u64, seed: u64) -> Report {
    let mut mutator = Mutator::new(seed, target.samples);
    let mut report = Report { executions, taken: 0, took: Duration::ZERO, slowest: Duration::ZERO };
    let began = Instant::now();
    for sample in target.samples {
        assert!((target.check)(sample.as_bytes()), "{}: a sample is refused: {sample}", target.name);
    }
    for _ in 0..executions {
        let input = mutator.mutate();
        let witness = Witness { target, input };
        let started = Instant::now();
        report.taken += u64::from((target.check)(input));
        report.slowest = report.slowest.max(started.elapsed());
        drop(witness);
    }
    report.took = began.elapsed();
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another seed each day. A failure prints it with the input.
    #[test]
    fn no_parser_breaks_on_hostile_input() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = now.as_secs() / 86_400;
        println!("seed {seed}");
        for target in TARGETS {
            let report = run(target, 5000, seed);
            println!("{}: {report:?}", target.name);
            assert!(report.taken > 0, "{}: nothing was taken", target.name);
        }
    }

    #[test]
    fn a_seed_gives_the_same_inputs() {
        let samples = TARGETS[0].samples;
        let (mut one, mut other) = (Mutator::new(7, samples), Mutator::new(7, samples));
        for _ in 0..100 {
            assert_eq!(one.mutate(), other.mutate());
        }
    }
}
