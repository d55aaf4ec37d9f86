//! A bounded memory of what was seen lately.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem::take;
use std::sync::{Mutex, PoisonError};

/// Two generations: when the younger one is full, the elder one is forgotten whole. So what was seen last is always
/// there, at the price of two look-ups, and nothing has to be ordered by its age. (A cache that does that cost the
/// router a third of its time.)
#[derive(Debug)]
pub struct Recent<K, V> {
    generations: Mutex<Generations<K, V>>,
    /// Of one generation.
    capacity: usize,
}

#[derive(Debug)]
struct Generations<K, V> {
    younger: HashMap<K, V>,
    elder: HashMap<K, V>,
    /// The number of the younger one.
    number: u64,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// Remembers at least the last `capacity` keys, and at most twice as many.
    pub fn new(capacity: usize) -> Self {
        let generations = Generations { younger: HashMap::new(), elder: HashMap::new(), number: 0 };
        Self { generations: Mutex::new(generations), capacity }
    }

    /// Shows `update` what is known of a key, and remembers what it returns instead, if anything.
    pub fn update<R>(&self, key: K, update: impl FnOnce(Option<&V>) -> (R, Option<V>)) -> R {
        self.update_in_generation(key, |known, _| update(known))
    }

    /// The same, and shows the number of the younger generation: what is not known may have been in one that is forgotten.
    pub fn update_in_generation<R>(&self, key: K, update: impl FnOnce(Option<&V>, u64) -> (R, Option<V>)) -> R {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let Generations { younger, elder, number } = &mut *generations;
        let (result, value) = update(younger.get(&key).or_else(|| elder.get(&key)), *number);
        if let Some(value) = value {
            younger.insert(key, value);
            if younger.len() >= self.capacity {
                *elder = take(younger);
                *number += 1;
            }
        }
        result
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let number = generations.number + 1;
        *generations = Generations { younger: HashMap::new(), elder: HashMap::new(), number };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_last_is_known_and_no_more_than_twice_as_much() {
        let recent = Recent::new(10);
        for key in 0..1000 {
            assert!(recent.update(key, |known| (known.is_none(), Some(key))));
            if key >= 10 {
                assert!(recent.update(key - 9, |known| (known.is_some(), None)), "{key}");
            }
        }
        assert_eq!(recent.update_in_generation(0, |_, number| (number, None)), 100);
        let generations = recent.generations.lock().unwrap();
        assert!(generations.younger.len() + generations.elder.len() <= 20);
    }

    #[test]
    fn what_is_left_alone_is_not_written() {
        let recent = Recent::<u32, u32>::new(10);
        assert!(recent.update(1, |known| (known.is_none(), None)));
        assert!(recent.update(1, |known| (known.is_none(), None)));
    }
}
