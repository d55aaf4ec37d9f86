//! Files that a process makes: databases, logs and stores hold what is nobody else's business.

use rustix::fs::Mode;
use rustix::process::umask;

/// From now on, files that this process and its children make can be read by their owner alone.
pub fn make_files_private() {
    umask(Mode::RWXG | Mode::RWXO);
}
