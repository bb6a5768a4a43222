//! The door to the disk: whatever makes, changes, renames, syncs or removes a file or a folder.

use super::Effect;
use super::point::around;
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Makes `folder` and its parents.
///
/// # Errors
/// What the file system said.
pub fn make_folders(effect: Effect, folder: &Path) -> io::Result<()> {
    around(effect, || fs::create_dir_all(folder))
}

/// Makes `folder`, whose parent must be there.
///
/// # Errors
/// What the file system said.
pub fn make_folder(effect: Effect, folder: &Path) -> io::Result<()> {
    around(effect, || fs::create_dir(folder))
}

/// Opens `path`, which is made if absent. For reading only, so that it keeps nobody from making the disk read-only.
///
/// # Errors
/// What the file system said.
pub fn make_readable(effect: Effect, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC;
    around(effect, || Ok(File::from(rustix::fs::open(path, flags, Mode::from(0o644))?)))
}

/// Opens `path` for writing, empty, whatever was there.
///
/// # Errors
/// What the file system said.
pub fn make(effect: Effect, path: &Path) -> io::Result<File> {
    around(effect, || File::create(path))
}

/// Makes `path` and opens it for writing.
///
/// # Errors
/// What the file system said; `AlreadyExists` where something is there.
pub fn make_new(effect: Effect, path: &Path) -> io::Result<File> {
    around(effect, || OpenOptions::new().write(true).create_new(true).open(path))
}

/// Appends `bytes` to `path`, which is made if absent. `keep`: only so many bytes of what is there stay before them.
///
/// # Errors
/// What the file system said; some of the bytes may be there.
pub fn append(effect: Effect, path: &Path, keep: Option<u64>, bytes: &[u8]) -> io::Result<()> {
    around(effect, || {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if let Some(keep) = keep {
            file.set_len(keep)?;
        }
        file.write_all(bytes)
    })
}

/// Writes `bytes` at `offset`.
///
/// # Errors
/// What the file system said; some of the bytes may be there.
pub fn write_at(effect: Effect, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    around(effect, || file.write_all_at(bytes, offset))
}

/// Brings `file`, or the entries of a folder, to the disk.
///
/// # Errors
/// What the file system said.
pub fn sync(effect: Effect, file: &File) -> io::Result<()> {
    around(effect, || file.sync_all())
}

/// Gives `from` the name `to`, whatever had it before.
///
/// # Errors
/// What the file system said.
pub fn rename(effect: Effect, from: &Path, to: &Path) -> io::Result<()> {
    around(effect, || fs::rename(from, to))
}

/// Gives `from` the name `to`, which nothing may have. The old name may stay.
///
/// # Errors
/// What the file system said; `AlreadyExists` where something has that name.
pub fn rename_new(effect: Effect, from: &Path, to: &Path) -> io::Result<()> {
    around(effect, || match fs::hard_link(from, to) {
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            // File systems without hard links (FAT, some network ones) may have this instead.
            let here = rustix::fs::CWD;
            Ok(rustix::fs::renameat_with(here, from, here, to, rustix::fs::RenameFlags::NOREPLACE)?)
        }
        linked => linked,
    })
}

/// Removes a file.
///
/// # Errors
/// What the file system said.
pub fn remove(effect: Effect, path: &Path) -> io::Result<()> {
    around(effect, || fs::remove_file(path))
}

/// Removes a folder with all that it holds.
///
/// # Errors
/// What the file system said; some of it may be gone.
pub fn remove_folder(effect: Effect, folder: &Path) -> io::Result<()> {
    around(effect, || fs::remove_dir_all(folder))
}

/// A file in `folder`, without a name, for what is needed for a moment: whatever this process comes to, nobody finds it later, so it is no
/// effect. Nobody else may read it while it has one.
///
/// # Errors
/// What the file system said.
pub fn nameless(folder: &Path) -> io::Result<File> {
    let random = || RandomState::new().build_hasher().finish();
    let path = folder.join(format!("siltstone-{:x}-{:016x}", std::process::id(), random()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
