//! Values that are given on the command line, as `@FILE`, or on stdin as `-`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use secrecy::SecretString;

use crate::failure::Failure;

/// The API takes no more in one request.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The value itself, or what is in the file or on stdin. `what` names it in an error.
pub fn value(what: &str, given: &str) -> Result<Vec<u8>, Failure> {
    match (given, given.strip_prefix('@')) {
        ("-", _) => read(what, "stdin", io::stdin().lock()),
        (_, Some(path)) => of_file(what, Path::new(path)),
        _ => Ok(given.as_bytes().to_vec()),
    }
}

/// A file, or stdin as `-`.
pub fn of_file(what: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    if path == Path::new("-") {
        return read(what, "stdin", io::stdin().lock());
    }
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| unreadable(what, &name, &error))?;
    read(what, &name, file)
}

/// A text without the line end that an editor or `echo` puts behind it.
pub fn text(what: &str, given: &str) -> Result<String, Failure> {
    let text = String::from_utf8(value(what, given)?);
    let text = text.map_err(|_| Failure::usage(format!("{what} is not UTF-8")))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// As [`text`], of what must not be shown.
pub fn secret(what: &str, given: &str) -> Result<SecretString, Failure> {
    text(what, given).map(SecretString::from)
}

fn read(what: &str, name: &str, from: impl Read) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(what, name, &error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::usage(format!("{what} from {name} is larger than 16 MiB")));
    }
    Ok(bytes)
}

fn unreadable(what: &str, name: &str, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {what} from {name}: {error}"))
}
