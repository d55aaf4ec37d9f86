//! What a process used, read from `/proc`, and percentiles.

use std::time::Duration;

use anyhow::Context;

/// One tick of `/proc/<pid>/stat`: the kernel's USER_HZ, 100 on every Linux that Rust's tier 1 runs on.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process so far, user and system, all threads, ended ones included.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&stat).map(|ticks| TICK * ticks).with_context(|| format!("{path} has an unknown form"))
}

/// Fields 14 and 15. They are counted from the `)` of field 2, which may itself hold spaces and parentheses.
fn ticks(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// The largest resident size since the last [`forget_peak`], in bytes.
pub fn peak_memory(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).with_context(|| format!("{path} has no VmHWM"))
}

/// Lets the peak start anew from the present size. Where the kernel does not allow it, peaks cover the whole run.
pub fn forget_peak(pid: u32) {
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

#[derive(Debug, Clone, Copy)]
pub struct Percentiles {
    pub p50: Duration,
    pub p90: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Percentiles {
    /// Of all samples, by nearest rank; nothing is thinned out or put into buckets.
    pub fn of(mut samples: Vec<u64>) -> Option<Self> {
        samples.sort_unstable();
        let at = |per_cent: usize| {
            let rank = (samples.len() * per_cent).div_ceil(100);
            samples.get(rank.checked_sub(1)?).copied().map(Duration::from_nanos)
        };
        Some(Self { p50: at(50)?, p90: at(90)?, p99: at(99)?, max: at(100)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_sample() {
        let of = |samples: &[u64]| Percentiles::of(samples.to_vec());
        assert!(of(&[]).is_none());
        let hundred: Vec<u64> = (1..=100).rev().collect();
        let found = of(&hundred).unwrap();
        let nanos = [found.p50, found.p90, found.p99, found.max].map(|value| value.as_nanos());
        assert_eq!(nanos, [50, 90, 99, 100]);
        let found = of(&[7]).unwrap();
        assert_eq!([found.p50, found.max].map(|value| value.as_nanos()), [7, 7]);
    }

    #[test]
    fn the_name_of_a_process_does_not_shift_its_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 321 123 7 8 20 0 4 0 99 1 1";
        assert_eq!(ticks(stat), Some(444));
        assert_eq!(ticks("42 (short) S 1"), None);
    }

    #[test]
    fn a_process_measures_itself() {
        let pid = std::process::id();
        assert!(cpu(pid).is_ok());
        assert!(peak_memory(pid).unwrap() > 1024 * 1024);
    }
}
