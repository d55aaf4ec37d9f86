use std::collections::BTreeSet;

use super::*;

/// A member that does at once what it has to.
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

    fn turn(&mut self, table: &mut Table, alive: &[&str]) {
        let running = self.running.clone();
        let turn =
            table.turn(&self.name, |member| alive.contains(&member), |index| running.contains(&index), self.is_leaving);
        table.sign(&self.name, "p", self.is_leaving);
        self.running.extend(&turn.begin);
        self.running.retain(|index| !turn.end.contains(index));
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
    a.turn(&mut table, &[]);
    assert_eq!(a.running.len(), Partition::COUNT);
    let all = ["a", "b", "c"];
    // b gets nothing that a has not ended.
    b.turn(&mut table, &all);
    assert!(b.running.is_empty());
    for _ in 0..4 {
        a.turn(&mut table, &all);
        assert!(a.running.is_disjoint(&b.running));
        b.turn(&mut table, &all);
        assert!(a.running.is_disjoint(&b.running));
    }
    assert_eq!(counts(&[&mut a, &mut b]).iter().sum::<usize>(), Partition::COUNT);
    assert!(counts(&[&mut a, &mut b]).into_iter().all(|count| count >= Partition::COUNT / 2));
    // b dies: a has it all.
    for _ in 0..2 {
        a.turn(&mut table, &["a"]);
    }
    assert_eq!(a.running.len(), Partition::COUNT);
    // It was not dead: it ends what is not its own any more.
    b.turn(&mut table, &all);
    assert!(b.running.is_empty(), "{table:?}");
    for _ in 0..4 {
        for member in [&mut a, &mut b, &mut c] {
            member.turn(&mut table, &all);
        }
    }
    assert_eq!(counts(&[&mut a, &mut b, &mut c]), [3, 3, 3]);
    // a leaves.
    a.is_leaving = true;
    for _ in 0..2 {
        for member in [&mut a, &mut b, &mut c] {
            member.turn(&mut table, &all);
        }
    }
    assert_eq!(counts(&[&mut a, &mut b, &mut c]).iter().sum::<usize>(), Partition::COUNT);
    assert!(a.running.is_empty());
}

#[test]
fn a_process_that_starts_anew_has_what_the_one_before_had() {
    let mut table = Table::default();
    Simulated::new("a").turn(&mut table, &[]);
    let mut again = Simulated::new("a");
    again.turn(&mut table, &["a"]);
    assert_eq!(again.running.len(), Partition::COUNT);
}

#[test]
fn what_runs_here_ends_when_the_table_is_lost() {
    let (mut a, mut table) = (Simulated::new("a"), Table::default());
    a.turn(&mut table, &[]);
    let mut lost = Table::default();
    a.turn(&mut lost, &[]);
    assert!(a.running.is_empty());
    a.turn(&mut lost, &[]);
    assert_eq!(a.running.len(), Partition::COUNT);
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let mut table = Table::default();
    table.turn("host/1/x", |_| false, |_| false, false);
    table.sign("host/1/x", "p", false);
    let read: Table = serde_json::from_slice(&serde_json::to_vec(&table).unwrap()).unwrap();
    assert_eq!(read, table);
}
