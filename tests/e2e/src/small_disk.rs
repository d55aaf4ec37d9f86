//! A disk that is soon full: a file system in memory. Mounting it takes root.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Folder;

/// Unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    // The mount point.
    folder: Folder,
}

impl SmallDisk {
    pub fn of_mib(size: usize) -> Self {
        let folder = Folder::create();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}m"), "shopery-e2e"]).arg(folder.path());
        let status = mount.status().expect("mount");
        assert!(status.success(), "a small disk cannot be mounted ({status}): this test has to run as root");
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes what is free.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        for size in [64 * 1024, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives it back.
    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has a file open on it ends later.
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}
