//! What a command prints: the API's JSON for scripts, tables and lines for people.

use std::io::{self, Write};

use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::json::{self, Members};
use crate::table::{Column, Table, paint, state};
use crate::terminal::{Terminal, plain, plain_lines};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Human,
    Json,
    JsonLines,
}

#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub format: Format,
    pub terminal: Terminal,
}

impl Output {
    pub fn is_human(self) -> bool {
        self.format == Format::Human
    }

    /// A line of stdout.
    pub fn line(self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// JSON as it came, on a line of stdout. A terminal gets it escaped; files and pipes get every byte.
    pub fn json(self, json: &str) -> Result<(), Failure> {
        self.line(&self.terminal.json(json))
    }

    /// What is neither result nor error goes to stderr, so that it is in nobody's way.
    pub fn note(self, text: &str) {
        eprintln!("{}", plain_lines(text));
    }

    /// One object: as it came, or what `tell` makes of it.
    pub fn one(self, json: &RawValue, tell: impl FnOnce(&Members) -> String) -> Result<(), Failure> {
        match json::of(json) {
            Some(members) if self.is_human() => self.line(tell(&members).trim_end()),
            _ => self.json(json.get()),
        }
    }

    /// One object, member by member.
    pub fn detail(self, json: &RawValue) -> Result<(), Failure> {
        self.one(json, |members| describe(members, self.terminal.has_colour))
    }

    pub fn list(self, columns: &[Column]) -> Listing<'_> {
        Listing { output: self, table: Table::new(columns), printed: 0 }
    }
}

/// Each member on a line of its own, the values below each other.
pub fn describe(members: &Members, has_colour: bool) -> String {
    let shown = members.0.iter().map(|(name, value)| (name, json::text(value))).filter(|(_, text)| !text.is_empty());
    let shown: Vec<_> = shown.collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let line = |(name, text): &(&String, String)| {
        let text = if *name == "state" { state(text, has_colour) } else { plain(text) };
        format!("{}  {text}\n", paint(&format!("{:<width$}", plain(name)), "2", has_colour))
    };
    shown.iter().map(line).collect()
}

/// A list that is printed page by page, so that it may be of any length.
#[derive(Debug)]
pub struct Listing<'a> {
    output: Output,
    table: Table<'a>,
    printed: usize,
}

impl Listing<'_> {
    pub fn page(&mut self, items: &[Box<RawValue>]) -> Result<(), Failure> {
        match self.output.format {
            Format::Human => {
                let rows: Vec<_> = items.iter().filter_map(|item| json::of(item)).collect();
                if !rows.is_empty() {
                    self.output.line(&self.table.lines(&rows, self.output.terminal).join("\n"))?;
                }
            }
            Format::Json => {
                let mut out = io::stdout().lock();
                for (place, item) in items.iter().enumerate() {
                    out.write_all(if self.printed + place == 0 { b"[" } else { b",\n" })?;
                    out.write_all(self.output.terminal.json(item.get()).as_bytes())?;
                }
            }
            Format::JsonLines => {
                for item in items {
                    self.output.json(item.get())?;
                }
            }
        }
        self.printed += items.len();
        Ok(())
    }

    /// `nothing` is for people, when there is nothing.
    pub fn end(self, nothing: &str) -> Result<(), Failure> {
        match (self.output.format, self.printed) {
            (Format::Json, 0) => self.output.line("[]"),
            (Format::Json, _) => self.output.line("]"),
            (Format::Human, 0) => {
                self.output.note(nothing);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_told_member_by_member_in_its_order() {
        let json =
            r#"{"id":"wbh_1","events":["a","b"],"rateLimit":50,"waiting":{"parked":3},"x":null,"name":"\u001b[0m"}"#;
        let members: Members = serde_json::from_str(json).unwrap();
        let told = describe(&members, false);
        assert_eq!(
            told,
            "id         wbh_1\nevents     a, b\nrateLimit  50\nwaiting    {\"parked\":3}\nname       \\u{1b}[0m\n"
        );
    }
}
