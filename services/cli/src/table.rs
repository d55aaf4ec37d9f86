//! Rows for people, in columns that fit the terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::json::Members;
use crate::terminal::{Terminal, plain};

/// A column: its title, and where in the JSON of a row its text is.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    pub path: &'static str,
    /// Is shortened where the terminal is narrow; an id never is, since it is there to be copied.
    pub gives: bool,
}

pub const fn fixed(title: &'static str, path: &'static str) -> Column {
    Column { title, path, gives: false }
}

pub const fn gives(title: &'static str, path: &'static str) -> Column {
    Column { title, path, gives: true }
}

/// A column does not become narrower than this.
const NARROWEST: usize = 8;
const GAP: usize = 2;

/// The parts of one table, page by page: the title is printed once, and columns only become wider.
#[derive(Debug)]
pub struct Table<'a> {
    columns: &'a [Column],
    widths: Vec<usize>,
    has_begun: bool,
}

impl<'a> Table<'a> {
    pub fn new(columns: &'a [Column]) -> Self {
        Self { columns, widths: columns.iter().map(|column| column.title.len()).collect(), has_begun: false }
    }

    /// The lines of a page.
    pub fn lines(&mut self, rows: &[Members], terminal: Terminal) -> Vec<String> {
        let texts: Vec<Vec<String>> =
            rows.iter().map(|row| self.columns.iter().map(|column| plain(&row.text(column.path))).collect()).collect();
        for row in &texts {
            for (width, text) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(text.width());
            }
        }
        let widths = fit(self.columns, &self.widths, terminal.width);
        let titles = self.columns.iter().map(|column| column.title.to_owned()).collect::<Vec<_>>();
        let mut lines = Vec::with_capacity(rows.len() + 1);
        if !std::mem::replace(&mut self.has_begun, true) {
            lines.push(line(&titles, &widths, |_, title| paint(title, DIM, terminal.has_colour)));
        }
        let colour = |place: usize, text: &str| match self.columns.get(place) {
            Some(Column { path: "state", .. }) => state(text, terminal.has_colour),
            _ => text.to_owned(),
        };
        lines.extend(texts.iter().map(|row| line(row, &widths, colour)));
        lines
    }
}

/// Takes from the widest column that gives, until all fit.
fn fit(columns: &[Column], natural: &[usize], terminal: Option<usize>) -> Vec<usize> {
    let mut widths = natural.to_vec();
    let Some(terminal) = terminal else { return widths };
    while widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1) > terminal {
        let widest = widths.iter_mut().zip(columns).filter(|(width, column)| column.gives && **width > NARROWEST);
        let Some((width, _)) = widest.max_by_key(|(width, _)| **width) else { break };
        *width -= 1;
    }
    widths
}

fn line(texts: &[String], widths: &[usize], colour: impl Fn(usize, &str) -> String) -> String {
    let mut line = String::new();
    for (place, (text, width)) in texts.iter().zip(widths).enumerate() {
        let text = shorten(text, *width);
        line += &colour(place, &text);
        if place + 1 < texts.len() {
            line += &" ".repeat(width.saturating_sub(text.width()) + GAP);
        }
    }
    line.trim_end().to_owned()
}

fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        short.push(c);
    }
    short + "…"
}

pub const DIM: &str = "2";

pub fn paint(text: &str, code: &str, has_colour: bool) -> String {
    if has_colour && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// The state of a webhook, a delivery or a recovery, in its colour.
pub fn state(text: &str, has_colour: bool) -> String {
    let code = match text.trim_end() {
        "delivered" | "active" | "completed" => "32",
        "failed" | "disabled" | "expired" => "31",
        "pending" | "parked" | "running" | "paused" => "33",
        _ => DIM,
    };
    paint(&plain(text), code, has_colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [fixed("ID", "id"), gives("NAME", "name"), fixed("STATE", "state")];

    fn rows(json: &[&str]) -> Vec<Members> {
        json.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    fn terminal(width: Option<usize>, has_colour: bool) -> Terminal {
        Terminal { is_terminal: width.is_some(), has_colour, width }
    }

    #[test]
    fn columns_stand_below_each_other_whatever_is_in_them() {
        let rows = rows(&[
            r#"{"id":"wbh_1","name":"a","state":"active"}"#,
            r#"{"id":"wbh_22","name":"山田","state":"failed"}"#,
            r#"{"id":"wbh_3","state":"paused"}"#,
        ]);
        let lines = Table::new(&COLUMNS).lines(&rows, terminal(None, false));
        assert_eq!(
            lines,
            ["ID      NAME  STATE", "wbh_1   a     active", "wbh_22  山田  failed", "wbh_3         paused"]
        );
    }

    #[test]
    fn what_gives_is_shortened_to_the_terminal_and_an_id_is_not() {
        let rows =
            rows(&[r#"{"id":"wbh_01HA4XCG60CT4G3EWF4CKYM1MF","name":"a name of some length","state":"active"}"#]);
        let lines = Table::new(&COLUMNS).lines(&rows, terminal(Some(52), false));
        assert_eq!(lines[1], "wbh_01HA4XCG60CT4G3EWF4CKYM1MF  a name of s…  active");
        assert!(lines.iter().all(|line| line.width() <= 52));
        let narrow = Table::new(&COLUMNS).lines(&rows, terminal(Some(10), false));
        assert!(narrow[1].contains("wbh_01HA4XCG60CT4G3EWF4CKYM1MF"));
    }

    #[test]
    fn colour_is_for_terminals_and_does_not_move_columns() {
        let rows = rows(&[r#"{"id":"a","name":"b","state":"delivered"}"#]);
        let lines = Table::new(&COLUMNS).lines(&rows, terminal(Some(80), true));
        assert!(lines[1].ends_with("\u{1b}[32mdelivered\u{1b}[0m"), "{lines:?}");
        assert!(!Table::new(&COLUMNS).lines(&rows, terminal(Some(80), false))[1].contains('\u{1b}'));
    }

    #[test]
    fn the_title_is_printed_once_and_later_pages_are_aligned_with_the_first() {
        let mut table = Table::new(&COLUMNS);
        let first = table.lines(&rows(&[r#"{"id":"long_id","name":"n","state":"s"}"#]), terminal(None, false));
        let second = table.lines(&rows(&[r#"{"id":"b","name":"n","state":"s"}"#]), terminal(None, false));
        assert_eq!((first.len(), second.as_slice()), (2, &["b        n     s".to_owned()][..]));
    }
}
