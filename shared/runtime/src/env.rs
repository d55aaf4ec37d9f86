use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::str::FromStr;
use std::time::Duration;

/// Configuration from environment variables, each documented where it is read.
///
/// A reader keeps going after a bad variable, so that [`Env::finish`] can report all of them at once. For any variable
/// `NAME`, `NAME_FILE` may name a file that holds the value, as secrets are mounted on Kubernetes.
#[derive(Debug, Default)]
pub struct Env {
    values: BTreeMap<String, String>,
    known: Vec<Variable>,
    wrong: Vec<String>,
}

#[derive(Debug)]
struct Variable {
    name: &'static str,
    default: Option<&'static str>,
    required: bool,
    doc: &'static str,
}

impl Env {
    pub fn of_process() -> Self {
        // A variable that is not UTF-8 cannot be one of ours.
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::of(std::env::vars_os().filter_map(utf8))
    }

    pub fn of<N: Into<String>, V: Into<String>>(values: impl IntoIterator<Item = (N, V)>) -> Self {
        Self { values: values.into_iter().map(|(n, v)| (n.into(), v.into())).collect(), ..Self::default() }
    }

    /// A variable that must be set.
    pub fn required<T: FromStr<Err: Display>>(&mut self, name: &'static str, doc: &'static str) -> Option<T> {
        self.known.push(Variable { name, default: None, required: true, doc });
        let Some(text) = self.lookup(name) else {
            self.wrong.push(format!("{name} is not set: {doc}"));
            return None;
        };
        self.parse(name, &text)
    }

    pub fn optional<T: FromStr<Err: Display>>(&mut self, name: &'static str, doc: &'static str) -> Option<T> {
        self.known.push(Variable { name, default: None, required: false, doc });
        let text = self.lookup(name)?;
        self.parse(name, &text)
    }

    /// A variable with a default, which is written as an operator would write it.
    pub fn or<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
        default: &'static str,
        doc: &'static str,
    ) -> Option<T> {
        self.known.push(Variable { name, default: Some(default), required: false, doc });
        let text = self.lookup(name).unwrap_or_else(|| default.to_owned());
        self.parse(name, &text)
    }

    /// A number within bounds.
    pub fn number(
        &mut self,
        name: &'static str,
        default: &'static str,
        range: std::ops::RangeInclusive<u64>,
        doc: &'static str,
    ) -> Option<u64> {
        let number = self.or(name, default, doc)?;
        if range.contains(&number) {
            return Some(number);
        }
        self.wrong.push(format!("{name}: {number} is not between {} and {}", range.start(), range.end()));
        None
    }

    /// Notes what is wrong with variables that only together can be judged.
    pub fn refuse(&mut self, why: impl Into<String>) {
        self.wrong.push(why.into());
    }

    /// A duration such as `500ms`, `30s`, `7d`.
    pub fn duration(&mut self, name: &'static str, default: &'static str, doc: &'static str) -> Option<Duration> {
        self.or::<humantime::Duration>(name, default, doc).map(Into::into)
    }

    /// What was read, or a line for each variable that is wrong.
    pub fn finish<T>(self, config: Option<T>) -> Result<T, String> {
        match config {
            Some(config) if self.wrong.is_empty() => Ok(config),
            _ => Err(self.wrong.join("\n")),
        }
    }

    /// The variables that were asked for, as `--help` shows them.
    pub fn help(&self) -> String {
        let mut text = String::new();
        for Variable { name, default, required, doc } in &self.known {
            let note = match (default, required) {
                (Some(""), _) | (None, false) => String::new(),
                (Some(default), _) => format!(" [default: {default}]"),
                (None, true) => " [required]".to_owned(),
            };
            let _ = writeln!(text, "  {name}{note}\n      {doc}");
        }
        text
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        if let Some(text) = self.values.get(name).filter(|text| !text.is_empty()) {
            return Some(text.clone());
        }
        let path = self.values.get(&format!("{name}_FILE"))?;
        match std::fs::read_to_string(path) {
            Ok(text) => Some(text.trim_end().to_owned()),
            Err(error) => {
                self.wrong.push(format!("{name}_FILE: cannot read {path}: {error}"));
                None
            }
        }
    }

    /// The value stays out of the error: it may be a secret.
    fn parse<T: FromStr<Err: Display>>(&mut self, name: &str, text: &str) -> Option<T> {
        text.parse().map_err(|error| self.wrong.push(format!("{name}: {error}"))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_variable_is_reported_at_once() {
        let mut env = Env::of([("A", "x"), ("B", "11"), ("D_FILE", "/nowhere/at/all")]);
        let a = env.or::<u16>("A", "1", "a port");
        let b = env.number("B", "5", 1..=10, "a number");
        let c = env.required::<String>("C", "a name");
        let d = env.optional::<String>("D", "a secret");
        assert_eq!((a, b, &c, d), (None, None, &None, None));
        let wrong = env.finish(c).unwrap_err();
        let lines: Vec<_> = wrong.lines().collect();
        assert_eq!(lines.len(), 4, "{wrong}");
        for (line, start) in lines.iter().zip(["A: ", "B: 11 is not between", "C is not set: a name", "D_FILE: "]) {
            assert!(line.starts_with(start), "{line}");
        }
    }

    #[test]
    fn defaults_are_read_like_values() {
        let mut env = Env::of([("SET", "2m")]);
        assert_eq!(env.duration("SET", "1s", ""), Some(Duration::from_secs(120)));
        assert_eq!(env.duration("UNSET", "1s", ""), Some(Duration::from_secs(1)));
        assert!(env.help().contains("UNSET [default: 1s]"));
    }
}
