//! How far something has come: a bar on a terminal, lines elsewhere. On stderr.

use std::io::{self, Write};

use crate::terminal::Terminal;

const BAR: usize = 30;

#[derive(Debug)]
pub struct Progress {
    terminal: Terminal,
    shown: String,
}

impl Progress {
    pub fn new() -> Self {
        Self { terminal: Terminal::stderr(), shown: String::new() }
    }

    /// `total` is `None` while nobody knows.
    pub fn update(&mut self, done: u64, total: Option<u64>, told: &str) {
        let counts = total.map_or_else(|| format!("{done}"), |total| format!("{done}/{total}"));
        let text = match total {
            Some(total) if self.terminal.is_terminal => format!("{} {counts}  {told}", bar(done, total)),
            _ => format!("{counts}  {told}"),
        };
        if text == self.shown {
            return;
        }
        if self.terminal.is_terminal {
            // Over the line that is there; a line that wraps could not be written over.
            let fits: String = text.chars().take(self.terminal.width.unwrap_or(80).saturating_sub(1)).collect();
            eprint!("\r\u{1b}[K{fits}");
            io::stderr().flush().ok();
        } else {
            eprintln!("{text}");
        }
        self.shown = text;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal.is_terminal && !self.shown.is_empty() {
            eprintln!();
        }
    }
}

fn bar(done: u64, total: u64) -> String {
    let full = if total == 0 { BAR } else { (u128::from(done.min(total)) * BAR as u128 / u128::from(total)) as usize };
    format!("[{}{}]", "#".repeat(full), "-".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_it_says() {
        for (done, total, full) in
            [(0, 10, 0), (5, 10, 15), (10, 10, 30), (11, 10, 30), (0, 0, 30), (u64::MAX, u64::MAX, 30)]
        {
            let bar = bar(done, total);
            assert_eq!((bar.len(), bar.matches('#').count()), (BAR + 2, full), "{done}/{total}");
        }
    }
}
