use std::collections::BTreeMap;

use anyhow::anyhow;
use shopery_runtime::Env;

/// Of names that the services read.
const PREFIXES: [&str; 3] = ["SHOPERY_", "OTEL_", "AWS_"];
const OF_GOOGLE: [&str; 3] = ["GOOGLE_APPLICATION_CREDENTIALS", "GCE_METADATA_HOST", "PUBSUB_EMULATOR_HOST"];

/// The variables that the services are configured with: those of this process, and those that the launcher decides.
#[derive(Debug, Clone)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    pub fn of_process() -> Self {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::of(std::env::vars_os().filter_map(utf8))
    }

    fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || OF_GOOGLE.contains(&name);
        Self(variables.into_iter().filter(|(name, value)| ours(name) && !value.is_empty()).collect())
    }

    /// Decides a variable, whatever this process was given.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.0.insert(name.to_owned(), value.into());
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
        self.0.remove(&file_variant(name));
    }

    /// Decides a variable that this process was not given.
    pub fn set_default(&mut self, name: &str, value: &str) {
        if !self.0.contains_key(name) && !self.0.contains_key(&file_variant(name)) {
            self.0.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Adds to a comma-separated list.
    pub fn append(&mut self, name: &str, item: &str) {
        let list = self.0.entry(name.to_owned()).or_default();
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(item);
    }

    pub fn read<T>(&self, read: impl FnOnce(&mut Env) -> Option<T>) -> anyhow::Result<T> {
        let mut env = Env::of(self.0.clone());
        let config = read(&mut env);
        env.finish(config).map_err(|wrong| {
            // The services share variables, and each has complained of the same one.
            let mut lines: Vec<_> = wrong.lines().collect();
            lines.sort_unstable();
            lines.dedup();
            anyhow!(lines.join("; "))
        })
    }
}

/// `NAME_FILE`, which may name a file that holds the value of `NAME`.
fn file_variant(name: &str) -> String {
    format!("{name}_FILE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::of(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_launcher_decides_what_it_sets() {
        let mut settings =
            settings(&[("SHOPERY_A", "theirs"), ("SHOPERY_A_FILE", "/a"), ("SHOPERY_B_FILE", "/b"), ("HOME", "/")]);
        settings.set("SHOPERY_A", "ours");
        settings.set_default("SHOPERY_A", "default");
        settings.set_default("SHOPERY_B", "default");
        settings.set_default("SHOPERY_C", "default");
        settings.append("SHOPERY_D", "1");
        settings.append("SHOPERY_D", "2");
        let set: Vec<_> = settings.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(set, ["SHOPERY_A=ours", "SHOPERY_B_FILE=/b", "SHOPERY_C=default", "SHOPERY_D=1,2"]);
    }

    #[test]
    fn what_is_wrong_is_said_once_and_on_one_line() {
        let settings = settings(&[("SHOPERY_A", "x"), ("SHOPERY_B", "y")]);
        let read = |env: &mut Env| {
            let wrong = ["SHOPERY_B", "SHOPERY_A", "SHOPERY_B"].map(|name| env.or::<u8>(name, "1", "a number"));
            wrong[0]
        };
        let error = settings.read(read).unwrap_err().to_string();
        assert_eq!(error, "SHOPERY_A: invalid digit found in string; SHOPERY_B: invalid digit found in string");
    }
}
