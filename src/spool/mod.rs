//! The spool: a local folder of parts. A cache only: Kafka and the bucket are the truth.
//!
//! ```text
//! <dir>/slot-0/lock            held by this process for as long as it lives
//! <dir>/slot-0/000017/0003.part    the finished blocks of one part: later the object, byte for byte
//! <dir>/slot-0/000017/0003.rows    plain rows that memory had no room for, not yet a block
//! ```
//! # Guarantees
//! - Two processes never share a slot: each takes the first free one and holds its lock.
//! - What a slot holds when it is taken is swept: it belonged to a dead process.
//! - Between two writes no file is open, so open files do not grow with partitions or windows.
//!
//! It never decides when a batch ends and never talks to Kafka or a store.

pub mod encode;
pub mod part;

use crate::effect::{Effect, files};
use crate::planted::{Bug, has};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// This process's slot of the spool folder.
#[derive(Debug)]
pub struct Spool {
    slot: PathBuf,
    limit: u64,
    used: Arc<AtomicU64>,
    next_batch: AtomicU64,
    /// Holds the lock; the kernel frees it when the process dies.
    _lock: File,
}

impl Spool {
    /// Takes and sweeps the first free slot of `dir`, which is made if absent. `limit`: bytes, see [`Spool::is_full`].
    ///
    /// # Errors
    /// [`SpoolError`]: the folder is unusable or full; the process should not start.
    pub fn open(dir: &Path, limit: u64) -> Result<Self, SpoolError> {
        let failed = |what, path: &Path, source| SpoolError::Folder { what, path: path.to_path_buf(), source };
        files::make_folders(Effect::SpoolFolder, dir).map_err(|e| failed("create a folder", dir, e))?;
        for number in 0..SLOTS_MAX {
            let slot = dir.join(format!("slot-{number}"));
            files::make_folders(Effect::SpoolFolder, &slot).map_err(|e| failed("create a folder", &slot, e))?;
            let lock_path = slot.join("lock");
            let lock = files::make(Effect::SpoolLock, &lock_path);
            let lock = lock.map_err(|e| failed("create a lock file", &lock_path, e))?;
            match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => continue,
                Err(errno) => return Err(failed("lock a slot", &lock_path, errno.into())),
            }
            sweep(Effect::SlotSweep, &slot).map_err(|e| failed("sweep a slot", &slot, e))?;
            sweep_dead_slots(dir, number);
            return Ok(Self {
                slot,
                limit,
                used: Arc::new(AtomicU64::new(0)),
                next_batch: AtomicU64::new(0),
                _lock: lock,
            });
        }
        Err(SpoolError::Full(dir.to_path_buf()))
    }

    /// Bytes on disk now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
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
    /// What the file system said.
    pub fn batch_dir(&self) -> io::Result<Arc<BatchDir>> {
        let number = self.next_batch.fetch_add(1, Ordering::Relaxed);
        let path = self.slot.join(format!("{number:08}"));
        files::make_folders(Effect::BatchFolder, &path)?;
        Ok(Arc::new(BatchDir { path, used: self.used.clone(), bytes: AtomicU64::new(0) }))
    }
}

/// Empties the slots of processes that are dead: nobody else would before as many processes start again.
fn sweep_dead_slots(dir: &Path, own: u32) {
    for number in (0..SLOTS_MAX).filter(|&number| number != own) {
        let slot = dir.join(format!("slot-{number}"));
        let Ok(lock) = File::open(slot.join("lock")) else { continue };
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        if let Err(error) = sweep(Effect::DeadSlotSweep, &slot) {
            tracing::warn!(slot = %slot.display(), %error, "could not empty the spool of a dead process");
        }
    }
}

/// Removes everything in a slot but its lock.
fn sweep(effect: Effect, slot: &Path) -> io::Result<()> {
    if has(Bug::SpoolKept) {
        return Ok(());
    }
    for entry in fs::read_dir(slot)? {
        let entry = entry?;
        if entry.file_name() == "lock" {
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

/// The folder of one batch. Dropping the last reference deletes it and gives its bytes back.
#[derive(Debug)]
pub struct BatchDir {
    path: PathBuf,
    used: Arc<AtomicU64>,
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
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes taken out of the folder.
    pub fn subtract(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes in the folder.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for BatchDir {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes(), Ordering::Relaxed);
        if let Err(error) = files::remove_folder(Effect::BatchDelete, &self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // Not fatal: the next start sweeps the slot.
            tracing::warn!(path = %self.path.display(), %error, "could not delete a batch's spool folder");
        }
    }
}
