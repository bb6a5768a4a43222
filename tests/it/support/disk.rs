//! A small file system that a test fills or makes read-only, and what lies in a spool.

use super::archive::files_below;
use super::{DEADLINE, until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own, taken away at the end.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(crate) fn mount(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output().unwrap();
        assert!(
            mounted.status.success(),
            "this test mounts a small file system and must be run as root: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        Self(path.to_path_buf())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// `ro` or `rw`. A file that is open for writing at that moment keeps it from becoming read-only.
    pub(crate) fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        until(&format!("{} is {how}", self.0.display()), DEADLINE, || {
            let done = Command::new("mount").args(["-o", &options]).arg(&self.0).output().unwrap();
            done.status.success().then_some(())
        });
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, so that a process that is still ending does not keep it.
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

/// Files of batches in a spool, sorted: everything but locks.
pub(crate) fn spooled(spool: &Path) -> Vec<PathBuf> {
    let mut files = files_below(spool);
    files.retain(|path| path.file_name().is_none_or(|name| name != "lock"));
    files.sort();
    files
}
