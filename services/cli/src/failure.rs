//! What ends a command early, and the exit code that tells scripts of it.

use std::fmt;
use std::io;
use std::process::ExitCode;

use shopery_client::{Error, Problem, Unreachable};

use crate::problem::tell;
use crate::redact::redact;
use crate::terminal::plain_lines;

/// The API refused, or what was verified is not so: doing the same again will not help.
pub const REFUSED: u8 = 1;
pub const USAGE: u8 = 2;
/// The API cannot be reached or cannot answer now: the same may work later.
pub const UNAVAILABLE: u8 = 3;
/// 128 and the number of SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

#[derive(Debug)]
pub enum Failure {
    Refused(Box<Problem>),
    Failed(String),
    Usage(String),
    Unavailable(String),
    /// Ctrl-C; the text says how to go on.
    Interrupted(String),
    /// Whoever read our output has gone, as `head` does: no error.
    Closed,
}

impl Failure {
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    pub fn code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Failed(_) => REFUSED,
            Self::Usage(_) => USAGE,
            Self::Unavailable(_) => UNAVAILABLE,
            Self::Interrupted(_) => INTERRUPTED,
            Self::Closed => 0,
        }
    }

    /// Says it, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Closed => {}
            Self::Interrupted(how) => eprintln!("{}", plain_lines(&redact(how))),
            other => eprintln!("error: {}", plain_lines(&redact(&other.to_string()))),
        }
        ExitCode::from(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(problem) => f.write_str(&tell(problem)),
            Self::Failed(text) | Self::Usage(text) | Self::Unavailable(text) | Self::Interrupted(text) => {
                f.write_str(text)
            }
            Self::Closed => f.write_str("the output was closed"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(problem) => Self::Refused(problem),
            Error::Busy(problem) => Self::Unavailable(tell(&problem)),
            Error::Unreachable { why, cause: Unreachable::TooSlow } => Self::Unavailable(format!("{why} (--timeout)")),
            Error::Unreachable { why, cause: Unreachable::Certificate } => {
                Self::Unavailable(format!("{why}\nhint: --ca FILE, or SHOPERY_CA, names a CA to trust"))
            }
            Error::NotTheApi => Self::Unavailable(format!("{error} (SHOPERY_API_URL, --api-url)")),
            Error::Unreachable { .. } | Error::Redirects(_) => Self::Unavailable(error.to_string()),
            Error::TooLarge => Self::Failed(error.to_string()),
            Error::BadHeader("the etag") => Self::usage("--if-match has characters that it cannot have"),
            Error::BadHeader(_) => Self::Usage(error.to_string()),
        }
    }
}

/// An error of stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(format!("cannot write the output: {error}")),
        }
    }
}
