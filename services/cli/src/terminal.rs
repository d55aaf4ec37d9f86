//! What we know of the terminal, and the prompt.

use std::io::{self, BufRead, IsTerminal, Write};

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

/// A text that came from elsewhere, such as an endpoint's answer, without what a terminal would obey.
pub fn plain(text: &str) -> String {
    let is_command = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_command(c) {
            shown.extend(c.escape_unicode());
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
    }

    #[test]
    fn what_is_no_terminal_has_neither_colour_nor_width() {
        let terminal = Terminal::of(false, None);
        assert!(!terminal.has_colour && terminal.width.is_none());
    }
}
