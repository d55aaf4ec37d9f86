//! The event types that the platform adds: all services have to agree on them.

use std::str::FromStr;

use shopery_model::Catalogue;
use shopery_runtime::Env;

/// A file is no longer than this.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Puts the catalogue of the process in place.
pub(crate) fn read(env: &mut Env) -> Option<()> {
    let added = env.or::<Added>(
        "SHOPERY_EVENT_TYPES",
        "",
        "Path of a JSON file with event types to add, the same for all services: \
         [{\"resource\":\"invoice\",\"actions\":{\"paid\":\"An invoice was paid\"}}]",
    );
    added.map(|Added| ())
}

struct Added;

impl FromStr for Added {
    type Err = String;

    fn from_str(path: &str) -> Result<Self, String> {
        if path.is_empty() {
            return Ok(Self);
        }
        let size = std::fs::metadata(path).map_err(|error| format!("cannot read {path}: {error}"))?.len();
        if size > MAX_BYTES {
            return Err(format!("{path} has {size} bytes; at most {MAX_BYTES} are read"));
        }
        let json = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        let installed = Catalogue::with_added(&json).and_then(Catalogue::install);
        installed.map(|()| Self).map_err(|invalid| format!("{path}: the {invalid}"))
    }
}
