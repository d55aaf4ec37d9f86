use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// The benchmark of Shopery Webhooks: real services, a real NATS server and an HTTPS endpoint, all on this machine.
///
/// Prints one table. Exits with 1 if a delivery was lost or the benchmark could not run; a missed speed target is
/// printed and is no failure.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Rows to run, such as a,b; all if not given. Ratios and their targets need a.
    #[arg(long, value_delimiter = ',', value_enum, ignore_case = true)]
    pub only: Vec<Row>,
    /// How long each throughput row publishes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Stop a throughput row after so many events, if that comes first.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    pub events: Option<u64>,
    /// Events a second in row d.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
    /// How long row d, each line of row e and the others' lines without an end of their own are measured, row d after 3 seconds of warm-up.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub rate_seconds: u64,
    /// Requests in flight at a time: to the sink in row a, to ingest in row b; an eighth of it in batches, four times
    /// as many in row c.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
    /// Deliveries on their way at a time in a throughput row; publishers wait for arrivals beyond. 0 is no bound.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub backlog: u32,
    /// Retries that wait in row f.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=2_000_000))]
    pub pending: u32,
    /// Jobs that are parked in row g.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=2_000_000))]
    pub parked: u32,
    /// Products that are imported in one go in row h.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    pub import: u32,
    /// Print the table in Markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Also write everything that was measured to this file, in JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// POSTs straight to the sink
    A,
    /// End to end over HTTP ingest
    B,
    /// End to end over NATS ingest
    C,
    /// Latency at a fixed rate
    D,
    /// A healthy tenant alone, and beside tenants whose endpoints never answer
    E,
    /// A healthy tenant alone, and beside many pending retries, which then fire after a restart of NATS
    F,
    /// A healthy tenant alone, and while another's parked jobs drain
    G,
    /// A quiet tenant alone, and beside one that imports its products
    H,
    /// End to end over HTTP ingest, to an ordered webhook
    I,
    /// At each door, a quiet tenant alone, and beside one that asks for all that it can get
    J,
    /// End to end over HTTP ingest, to an endpoint, an event bus and a topic
    K,
}

impl Row {
    pub fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
            Self::C => 'c',
            Self::D => 'd',
            Self::E => 'e',
            Self::F => 'f',
            Self::G => 'g',
            Self::H => 'h',
            Self::I => 'i',
            Self::J => 'j',
            Self::K => 'k',
        }
    }
}

impl Options {
    pub fn wants(&self, row: Row) -> bool {
        self.only.is_empty() || self.only.contains(&row)
    }

    /// Whether a row needs the services.
    pub fn wants_services(&self) -> bool {
        [Row::B, Row::C, Row::D, Row::E, Row::F, Row::G, Row::H, Row::I, Row::J, Row::K]
            .into_iter()
            .any(|row| self.wants(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
        let options = Options::try_parse_from(["load", "--only", "a,D"]).unwrap();
        assert!(options.wants(Row::A) && options.wants(Row::D) && !options.wants(Row::B));
        assert!(Options::try_parse_from(["load", "--seconds", "0"]).is_err());
    }
}
