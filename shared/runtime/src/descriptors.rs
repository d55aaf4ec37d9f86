//! File descriptors: each connection needs one, and many systems start a process with 1,024.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors that this process may have.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises their number to what the system allows, and says so.
pub fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = match current {
        Some(_) if current != maximum => setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }),
        _ => Ok(()),
    };
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
    tracing::info!(limit = descriptors(), before = current, "file descriptors");
}
