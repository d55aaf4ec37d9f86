//! What the person at the terminal reads: plain text on standard output. Logs go to standard error.

use std::fmt::Display;
use std::io::Write;

/// Writes a line. A reader who has gone away (`| head`) is no reason to stop.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
