use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Whether this process can do its work: a named check for each thing that it needs.
#[derive(Clone, Default)]
pub struct Health(Arc<RwLock<BTreeMap<&'static str, Check>>>);

/// Cheap and without waiting: it reports what is already known.
type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

impl Health {
    /// Adds a check, or replaces the one of that name.
    pub fn check(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, Box::new(check));
    }

    /// In the way under this name, until what is returned is told that the start is over.
    pub fn starting(&self, name: &'static str) -> Starting {
        let starting = Starting(Arc::new(Mutex::new(Some("still starting".to_owned()))));
        let state = starting.0.clone();
        self.check(name, move || match &*state.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        });
        starting
    }

    /// What stands in the way, by name. Empty: ready.
    pub fn obstacles(&self) -> BTreeMap<&'static str, String> {
        let checks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        checks.iter().filter_map(|(name, check)| Some((*name, check().err()?))).collect()
    }
}

/// See [`Health::starting`]. Holds what the start waits for; nothing once it is over.
#[derive(Debug)]
pub struct Starting(Arc<Mutex<Option<String>>>);

impl Starting {
    /// Says what the start waits for; true if that is something else than before.
    pub fn waits_for(&self, what: impl Into<String>) -> bool {
        let what = Some(what.into());
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), what.clone());
        before != what
    }

    pub fn over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.obstacles()).finish()
    }
}
