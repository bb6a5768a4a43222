//! The spool: a local folder of parts. A cache only: Kafka and the bucket are the truth.
//!
//! ```text
//! <dir>/slot-0/lock                     held by this process for as long as it lives
//! <dir>/slot-0/5eed-000017/0003.part    the finished blocks of one part: later the object, byte for byte
//! <dir>/slot-0/5eed-000017/0003.rows    plain rows that memory had no room for, not yet a block
//! ```
//! # Guarantees
//! - Two processes never share a slot: each takes the first free one and holds its lock. Who finds that the lock file that
//!   lies there is not the one it holds (the folder was deleted under it) takes a slot anew before its next batch.
//! - Two processes never write the same name, not even then: folders of batches carry the number of their process.
//! - What a slot holds when it is taken is swept: it belonged to a dead process.
//! - Bytes count until they are deleted: a folder that cannot be deleted is tried again.
//! - Between two writes no file is open, so open files do not grow with partitions or windows.
//!
//! It never decides when a batch ends and never talks to Kafka or a store.

pub mod encode;
pub mod part;

use crate::effect::{Effect, files};
use crate::planted::{Bug, has};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most processes that can share one spool folder.
pub const SLOTS_MAX: u32 = 64;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be made, locked or swept.
    #[error("{what} in the spool folder {}", .path.display())]
    Folder {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Every slot is held by a living process.
    #[error("all {SLOTS_MAX} slots of the spool folder {} are in use; give this process another [spool] dir", .0.display())]
    Full(PathBuf),
}

/// This process's place in the spool folder.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    limit: u64,
    process: u64,
    room: Arc<Room>,
    next_batch: u64,
    slot: Slot,
}

impl Spool {
    /// Takes and sweeps the first free slot of `dir`, which is made if absent. `limit`: bytes, see [`Spool::is_full`].
    /// `process`: a number that no other living process has (see [`process_number`]).
    ///
    /// # Errors
    /// [`SpoolError`]: the folder is unusable or full; the process should not start.
    pub fn open(dir: &Path, limit: u64, process: u64) -> Result<Self, SpoolError> {
        let slot = Slot::take(dir, process)?;
        Ok(Self { dir: dir.to_path_buf(), limit, process, room: Arc::default(), next_batch: 0, slot })
    }

    /// Bytes on disk now.
    pub fn used(&self) -> u64 {
        self.room.used.load(Ordering::Relaxed)
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether reading should wait until uploads have freed room.
    pub fn is_full(&self) -> bool {
        self.used() >= self.limit
    }

    /// A new folder for one batch; removed with all it holds when the last clone of the result is dropped.
    ///
    /// # Errors
    /// [`SpoolError`]: what the file system said. A later call may go well.
    pub fn batch_dir(&mut self) -> Result<Arc<BatchDir>, SpoolError> {
        if !self.slot.is_held() {
            tracing::warn!(
                slot = %self.slot.path.display(),
                "the spool was deleted or replaced under this process: taking a slot anew; what was open is read again"
            );
            self.slot = Slot::take(&self.dir, self.process)?;
        }
        self.clear();
        let path = self.slot.path.join(format!("{}{:08}", prefix(self.process), self.next_batch));
        self.next_batch += 1;
        files::make_folder(Effect::BatchFolder, &path)
            .map_err(|error| failed("create a batch's folder", &path, error))?;
        Ok(Arc::new(BatchDir { path, room: self.room.clone(), bytes: AtomicU64::new(0) }))
    }

    /// Tries once more to delete what could not be deleted.
    pub fn clear(&self) {
        let left = std::mem::take(&mut *self.room.left());
        for (path, bytes) in left {
            self.room.delete(path, bytes);
        }
    }
}

/// A number for [`Spool::open`]: random, as processes in containers of their own may have all else in common.
pub fn process_number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What the names of a process's folders begin with.
fn prefix(process: u64) -> String {
    format!("{process:016x}-")
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> SpoolError {
    SpoolError::Folder { what, path: path.to_path_buf(), source }
}

/// A slot whose lock this process holds.
#[derive(Debug)]
struct Slot {
    path: PathBuf,
    /// The kernel frees it when the process dies.
    lock: File,
}

impl Slot {
    fn take(dir: &Path, process: u64) -> Result<Self, SpoolError> {
        files::make_folders(Effect::SpoolFolder, dir).map_err(|error| failed("create a folder", dir, error))?;
        for number in 0..SLOTS_MAX {
            let path = dir.join(format!("slot-{number}"));
            files::make_folders(Effect::SpoolFolder, &path).map_err(|error| failed("create a folder", &path, error))?;
            let lock = lock_path(&path);
            let locked = files::make_readable(Effect::SpoolLock, &lock).and_then(|file| locked(file, &lock));
            let locked = locked.map_err(|error| failed("lock a slot", &path, error))?;
            let Some(lock) = locked else { continue };
            let slot = Self { path, lock };
            // Deleted and made again by others since it was opened: theirs.
            if !slot.is_held() {
                continue;
            }
            sweep(Effect::SlotSweep, &slot.path, process).map_err(|error| failed("sweep a slot", &slot.path, error))?;
            sweep_dead_slots(dir, number, process);
            return Ok(slot);
        }
        Err(SpoolError::Full(dir.to_path_buf()))
    }

    /// Whether the lock file that lies there is the one that is held: only then no other process can have taken the slot.
    fn is_held(&self) -> bool {
        let file = |found: fs::Metadata| (found.dev(), found.ino());
        match (self.lock.metadata(), fs::metadata(lock_path(&self.path))) {
            (Ok(held), Ok(there)) => file(held) == file(there),
            // A disk that fails has not given the slot away.
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), Ok(_)) => true,
        }
    }
}

fn lock_path(slot: &Path) -> PathBuf {
    slot.join("lock")
}

/// Locks the lock file of a slot, which lies at `path`; `None`: a living process holds it.
fn locked(mut file: File, path: &Path) -> io::Result<Option<File>> {
    let mut locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    if locked == Err(Errno::BADF) {
        // NFS makes it a lock on a range of bytes, for which a file must be open for writing.
        file = files::make(Effect::SpoolLock, path)?;
        locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    }
    match locked {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Empties the slots of processes that are dead: nobody else would before as many processes start again.
fn sweep_dead_slots(dir: &Path, own: u32, process: u64) {
    for number in (0..SLOTS_MAX).filter(|&number| number != own) {
        let path = dir.join(format!("slot-{number}"));
        let lock = lock_path(&path);
        let Ok(Some(lock)) = File::open(&lock).and_then(|file| locked(file, &lock)) else { continue };
        let slot = Slot { path, lock };
        if !slot.is_held() {
            continue;
        }
        if let Err(error) = sweep(Effect::DeadSlotSweep, &slot.path, process) {
            tracing::warn!(slot = %slot.path.display(), %error, "could not empty the spool of a dead process");
        }
    }
}

/// Removes everything in a slot but its lock and what `process` itself has there.
fn sweep(effect: Effect, slot: &Path, process: u64) -> io::Result<()> {
    if has(Bug::SpoolKept) {
        return Ok(());
    }
    let own = prefix(process);
    for entry in fs::read_dir(slot)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "lock" || name.as_encoded_bytes().starts_with(own.as_bytes()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            files::remove_folder(effect, &entry.path())?;
        } else {
            files::remove(effect, &entry.path())?;
        }
    }
    Ok(())
}

/// What all batches of a process take.
#[derive(Debug, Default)]
struct Room {
    /// Bytes on disk.
    used: AtomicU64,
    /// Folders that could not be deleted yet, with their bytes, which are still among those used.
    left: Mutex<Vec<(PathBuf, u64)>>,
}

impl Room {
    fn left(&self) -> MutexGuard<'_, Vec<(PathBuf, u64)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes a batch's folder and gives its bytes back; what cannot be deleted now is kept in mind.
    fn delete(&self, path: PathBuf, bytes: u64) {
        match files::remove_folder(Effect::BatchDelete, &path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "could not delete a batch's spool folder; trying again later");
                self.left().push((path, bytes));
            }
            Ok(()) | Err(_) => {
                self.used.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }
}

/// The folder of one batch. Dropping the last reference deletes it and gives its bytes back.
#[derive(Debug)]
pub struct BatchDir {
    path: PathBuf,
    room: Arc<Room>,
    bytes: AtomicU64,
}

impl BatchDir {
    /// Path of a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Counts bytes written to the folder.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.room.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes taken out of the folder.
    pub fn subtract(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.room.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes in the folder.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for BatchDir {
    fn drop(&mut self) {
        self.room.delete(std::mem::take(&mut self.path), self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().expect("a name")).collect();
        names.sort();
        names
    }

    /// Goal: a process whose spool was deleted takes a slot that the next one does not have, and no name of the two is the
    /// same, not even of the batch that was open.
    #[test]
    fn a_spool_deleted_under_its_process_is_not_shared_with_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("spool");
        let mut first = Spool::open(&dir, 100, 1).expect("a spool");
        let before = first.batch_dir().expect("a folder in it");
        fs::remove_dir_all(&dir).expect("deleted");
        let mut second = Spool::open(&dir, 100, 2).expect("a spool");
        let other = second.batch_dir().expect("a folder in it");
        let after = first.batch_dir().expect("a folder in another slot");
        assert_eq!(names(&dir), ["slot-0", "slot-1"]);
        assert!(!before.file("x").exists() && before.path != other.path);
        assert_eq!(names(&dir.join("slot-0")), [format!("{}00000000", prefix(2)), "lock".to_string()]);
        assert_eq!(names(&dir.join("slot-1")), [format!("{}00000001", prefix(1)), "lock".to_string()]);
        drop((first, after));
        // The next one sweeps what is dead, and only that.
        let third = Spool::open(&dir, 100, 3).expect("a spool");
        assert_eq!(third.slot.path, dir.join("slot-1"));
        assert!(other.path.exists());
    }

    /// Only the lock was deleted: what the process has open is not swept when it takes its slot again.
    #[test]
    fn a_lost_lock_is_taken_again_and_sweeps_nothing_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 100, 1).expect("a spool");
        let open = spool.batch_dir().expect("a folder in it");
        fs::write(open.file("x"), "rows").expect("written");
        fs::remove_file(lock_path(&spool.slot.path)).expect("deleted");
        assert!(!spool.slot.is_held());
        let next = spool.batch_dir().expect("another folder");
        assert!(spool.slot.is_held() && open.file("x").exists() && next.path.exists());
    }

    /// Goal: bytes that are still on disk still count. Method: a file stands where the folder was, which no call for
    /// folders deletes.
    #[test]
    fn what_cannot_be_deleted_counts_until_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 100, 1).expect("a spool");
        let dir = spool.batch_dir().expect("a folder in it");
        dir.add(100);
        assert!(spool.is_full());
        let path = dir.path.clone();
        fs::remove_dir(&path).expect("empty");
        fs::write(&path, "in the way").expect("written");
        drop(dir);
        assert_eq!(spool.used(), 100, "it is still there");
        spool.clear();
        assert_eq!(spool.used(), 100, "and still");
        fs::remove_file(&path).expect("deleted");
        spool.clear();
        assert_eq!(spool.used(), 0);
    }
}
