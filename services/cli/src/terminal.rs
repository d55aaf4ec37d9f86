//! What we know of the terminal, and the prompt.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write as _};

use rustix::termios::{self, LocalModes, OptionalActions};
use secrecy::SecretString;

use crate::failure::Failure;

/// A line of a prompt: no token is longer.
const MAX_LINE: u64 = 16 * 1024;

/// One of our two outputs.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    pub is_terminal: bool,
    pub has_colour: bool,
    /// In columns; `None` where nothing has to fit.
    pub width: Option<usize>,
}

impl Terminal {
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        Self::of(stdout.is_terminal(), termios::tcgetwinsize(&stdout).ok())
    }

    pub fn stderr() -> Self {
        let stderr = io::stderr();
        Self::of(stderr.is_terminal(), termios::tcgetwinsize(&stderr).ok())
    }

    /// JSON as this output is to get it.
    pub fn json(self, json: &str) -> Cow<'_, str> {
        if self.is_terminal { plain_json(json).into() } else { json.into() }
    }

    fn of(is_terminal: bool, size: Option<termios::Winsize>) -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let columns = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        Self {
            is_terminal,
            has_colour: is_terminal && !is_set("NO_COLOR") && !is_dumb,
            width: is_terminal.then(|| columns.unwrap_or(80)),
        }
    }
}

/// What a terminal obeys rather than shows, or what shows a text as another one: controls (C0, DEL, C1), marks that change the
/// direction or break the line, and what has no width.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text that came from elsewhere, such as an endpoint's answer, without what a terminal would obey.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The same of lines of ours that hold such texts.
pub fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// The same of JSON, which stays JSON and says the same: `\u009b`. White space between its parts stays as it is.
pub fn plain_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) && !matches!(c, '\n' | '\r' | '\t') {
            let mut units = [0; 2];
            // Writing to a String cannot fail.
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Asks on stderr, and reads a line of stdin.
pub async fn ask(question: &str) -> Result<String, Failure> {
    eprint!("{question}: ");
    io::stderr().flush().ok();
    read_line().await
}

/// As [`ask`], and what is typed is not shown.
pub async fn ask_secret(question: &str) -> Result<SecretString, Failure> {
    let quiet = Quiet::begin();
    let answer = ask(question).await;
    drop(quiet);
    eprintln!();
    answer.map(SecretString::from)
}

/// On a thread of its own, so that Ctrl-C comes through and the echo comes back.
async fn read_line() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::Read::take(io::stdin().lock(), MAX_LINE).read_line(&mut line).map(|_| line)
    });
    tokio::select! {
        line = read => match line {
            Ok(Ok(line)) => Ok(line.trim().to_owned()),
            _ => Err(Failure::usage("the answer cannot be read")),
        },
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted("\nnothing was changed".into())),
    }
}

/// The terminal does not echo while this lives.
struct Quiet(Option<termios::Termios>);

impl Quiet {
    fn begin() -> Self {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ECHO);
            let _ = termios::tcsetattr(&stdin, OptionalActions::Flush, &quiet);
        }
        Self(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded_by_what_it_shows() {
        assert_eq!(plain("Grüße, 山田"), "Grüße, 山田");
        assert_eq!(plain("a\u{1b}[31mb\r\n\u{9b}2J\u{202e}"), "a\\u{1b}[31mb\\u{d}\\u{a}\\u{9b}2J\\u{202e}");
        assert_eq!(plain("a\u{200b}b\u{2028}"), "a\\u{200b}b\\u{2028}");
    }

    #[test]
    fn json_for_a_terminal_is_the_same_json() {
        let text = "a\u{7f}\u{9b}2J\u{202e}\u{2028}\u{200b}\u{e0041}\n\u{1b} Grüße";
        let json = serde_json::to_string_pretty(&serde_json::json!({ "a": text })).unwrap();
        let shown = plain_json(&json);
        assert!(!shown.chars().any(|c| is_hidden(c) && c != '\n'), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap()["a"], text);
    }

    #[test]
    fn what_is_no_terminal_has_neither_colour_nor_width() {
        let terminal = Terminal::of(false, None);
        assert!(!terminal.has_colour && terminal.width.is_none());
    }
}
