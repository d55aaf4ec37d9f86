use std::collections::BTreeSet;

use super::*;

/// A member whose work starts and stops at once.
#[derive(Default)]
struct Simulated {
    name: String,
    running: BTreeSet<usize>,
    is_leaving: bool,
}

impl Simulated {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn renew(&mut self, table: &mut Table, alive: &[&str]) {
        let running = self.running.clone();
        let changes = table.rebalance(
            &self.name,
            |member| alive.contains(&member),
            |index| running.contains(&index),
            self.is_leaving,
        );
        table.beat(&self.name, "p", self.is_leaving);
        self.running.extend(&changes.start);
        self.running.retain(|index| !changes.stop.contains(index));
    }
}

fn counts(members: &[&mut Simulated]) -> Vec<usize> {
    members.iter().map(|member| member.running.len()).collect()
}

#[test]
fn shares_are_even_and_few_move() {
    let all = ["a", "b", "c", "d", "e"];
    let mut before: Vec<&str> = Vec::new();
    for count in 1..=all.len() {
        let assigned = assign(&all[..count], Partition::COUNT);
        assert_eq!(assigned.len(), Partition::COUNT);
        let shares: Vec<_> =
            all[..count].iter().map(|one| assigned.iter().filter(|owner| *owner == one).count()).collect();
        assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        let moved = before.iter().zip(&assigned).filter(|(before, after)| before != after).count();
        assert!(moved <= Partition::COUNT.div_ceil(2) + 1, "{moved} move to {count} members");
        before = assigned;
    }
    assert!(assign(&[], Partition::COUNT).is_empty());
}

#[test]
fn members_come_go_and_die_and_no_partition_is_with_two() {
    let mut table = Table::default();
    let (mut a, mut b, mut c) = (Simulated::new("a"), Simulated::new("b"), Simulated::new("c"));
    a.renew(&mut table, &[]);
    assert_eq!(a.running.len(), Partition::COUNT);
    let all = ["a", "b", "c"];
    // b gets no partition before a has stopped its work.
    b.renew(&mut table, &all);
    assert!(b.running.is_empty());
    for _ in 0..4 {
        a.renew(&mut table, &all);
        assert!(a.running.is_disjoint(&b.running));
        b.renew(&mut table, &all);
        assert!(a.running.is_disjoint(&b.running));
    }
    assert_eq!(counts(&[&mut a, &mut b]).iter().sum::<usize>(), Partition::COUNT);
    assert!(counts(&[&mut a, &mut b]).into_iter().all(|count| count >= Partition::COUNT / 2));
    // b dies: a owns all partitions.
    for _ in 0..2 {
        a.renew(&mut table, &["a"]);
    }
    assert_eq!(a.running.len(), Partition::COUNT);
    // b was only paused: it stops the work on partitions that it does not own any more.
    b.renew(&mut table, &all);
    assert!(b.running.is_empty(), "{table:?}");
    for _ in 0..4 {
        for member in [&mut a, &mut b, &mut c] {
            member.renew(&mut table, &all);
        }
    }
    assert_eq!(counts(&[&mut a, &mut b, &mut c]), [3, 3, 3]);
    // a leaves.
    a.is_leaving = true;
    for _ in 0..2 {
        for member in [&mut a, &mut b, &mut c] {
            member.renew(&mut table, &all);
        }
    }
    assert_eq!(counts(&[&mut a, &mut b, &mut c]).iter().sum::<usize>(), Partition::COUNT);
    assert!(a.running.is_empty());
}

#[test]
fn a_process_that_restarts_owns_the_partitions_of_the_killed_one() {
    let mut table = Table::default();
    Simulated::new("a").renew(&mut table, &[]);
    let mut again = Simulated::new("a");
    again.renew(&mut table, &["a"]);
    assert_eq!(again.running.len(), Partition::COUNT);
}

#[test]
fn work_stops_when_the_table_is_lost() {
    let (mut a, mut table) = (Simulated::new("a"), Table::default());
    a.renew(&mut table, &[]);
    let mut lost = Table::default();
    a.renew(&mut lost, &[]);
    assert!(a.running.is_empty());
    a.renew(&mut lost, &[]);
    assert_eq!(a.running.len(), Partition::COUNT);
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let mut table = Table::default();
    table.rebalance("host/1/x", |_| false, |_| false, false);
    table.beat("host/1/x", "p", false);
    let read: Table = serde_json::from_slice(&serde_json::to_vec(&table).unwrap()).unwrap();
    assert_eq!(read, table);
}
