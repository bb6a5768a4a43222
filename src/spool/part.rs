//! A part: the records of one batch, one output and one window, on its way to becoming one object.
//!
//! ```text
//! pipeline thread                         encoder threads
//! rows in memory ──full block──▶ job ──▶ encode ──▶ in order ──▶ <n>.part
//!      │ memory pressure                                            │ last block
//!      └──▶ <n>.rows ──────────read back with the block────────▶    └──▶ Finished { bytes, sha256 }
//! ```
//! # Invariants
//! - **P-1** Blocks reach the file in the order in which they were cut, whatever order threads finish in.
//! - **P-2** Spilling moves rows between memory and disk; it never changes where a block ends (F-1).
//! - **P-3** Spilled rows that are not as they were written (length, CRC-32) reach no block.

use super::BatchDir;
use crate::effect::{Effect, files};
use crate::format::{Assembler, EncodedBlock, Format, FormatError};
use crc32fast::Hasher;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many blocks of a part end its batch: a Parquet file has 32,767 row groups at most, and a record's rows can fill several.
pub const BLOCKS_MAX: u64 = 16_384;

/// A part's file as it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of all its bytes, taken while they were written.
    pub sha256: [u8; 32],
}

/// The plain rows of a part that do not fill a block yet. Owned by the pipeline thread.
pub struct Part {
    /// Plain rows in memory, behind those on disk.
    rows: Vec<u8>,
    /// Plain rows on disk.
    spilled: Spilled,
    /// Rows in memory and on disk together.
    pending_rows: u32,
    next_block: u64,
    file: Arc<PartFile>,
}

/// What is known of plain rows on disk, to recognize them.
#[derive(Clone, Default)]
struct Spilled {
    bytes: u64,
    /// CRC-32.
    sum: Hasher,
}

impl Spilled {
    fn add(&mut self, rows: &[u8]) {
        self.bytes += rows.len() as u64;
        self.sum.update(rows);
    }

    /// Reads them back, with room for `more` bytes behind them.
    ///
    /// # Errors
    /// What the file system said, or that they are not what was written (P-3).
    fn read(self, path: &Path, more: usize) -> io::Result<Vec<u8>> {
        let mut rows = Vec::with_capacity(self.bytes as usize + more);
        let read = fs::File::open(path)?.take(self.bytes).read_to_end(&mut rows)?;
        self.check_length(path, read as u64)?;
        if crc32fast::hash(&rows) != self.sum.finalize() {
            return Err(changed(path, "holds other rows than were written"));
        }
        Ok(rows)
    }

    /// Behind them a failed spill may have left more, but never less.
    fn check_length(&self, path: &Path, there: u64) -> io::Result<()> {
        if there < self.bytes {
            return Err(changed(path, &format!("holds {there} bytes, {} were written", self.bytes)));
        }
        Ok(())
    }
}

/// A block that was cut and awaits an encoder.
pub struct Block {
    file: Arc<PartFile>,
    number: u64,
    rows: Vec<u8>,
    spilled: Spilled,
    count: u32,
    /// Set on a part's last block: what goes into the footer.
    finish: Option<Vec<(String, String)>>,
}

impl Part {
    /// An empty part whose files are called `number` in `dir`.
    pub fn new(dir: Arc<BatchDir>, number: usize, format: Arc<dyn Format>) -> Self {
        let file = PartFile {
            part_path: dir.file(&format!("{number:06}.part")),
            rows_path: dir.file(&format!("{number:06}.rows")),
            format,
            dir,
            bytes: AtomicU64::new(0),
            footer: AtomicU64::new(0),
            assembly: Mutex::new(Assembly {
                assembler: None,
                sink: None,
                next_block: 0,
                waiting: BTreeMap::new(),
                failed: false,
            }),
        };
        Self { rows: Vec::new(), spilled: Spilled::default(), pending_rows: 0, next_block: 0, file: Arc::new(file) }
    }

    /// Where the next row goes. Call [`Part::row_added`] after each.
    pub fn rows(&mut self) -> &mut Vec<u8> {
        &mut self.rows
    }

    /// Counts a row and tells whether the block is now full.
    pub fn row_added(&mut self) -> bool {
        self.pending_rows += 1;
        let limit = self.file.format.block_limit();
        self.spilled.bytes + self.rows.len() as u64 >= limit.bytes as u64 || self.pending_rows >= limit.rows
    }

    /// Bytes of plain rows in memory.
    pub fn memory(&self) -> usize {
        self.rows.capacity()
    }

    /// Bytes of memory that is kept of its encoded blocks for the footer. Grows while blocks are encoded.
    pub fn footer_memory(&self) -> usize {
        self.file.footer.load(Ordering::Relaxed) as usize
    }

    /// Blocks cut so far.
    pub fn blocks(&self) -> u64 {
        self.next_block
    }

    /// Bytes of the object so far.
    pub fn bytes_on_disk(&self) -> u64 {
        self.file.bytes.load(Ordering::Relaxed)
    }

    /// Moves the rows in memory to disk and frees their memory.
    ///
    /// # Errors
    /// What the file system said (disk full …); the rows are then still in memory and nothing of them on disk counts.
    pub fn spill(&mut self) -> io::Result<()> {
        if self.rows.is_empty() {
            self.rows = Vec::new();
            return Ok(());
        }
        let there = match fs::metadata(&self.file.rows_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            metadata => metadata?.len(),
        };
        self.spilled.check_length(&self.file.rows_path, there)?;
        // A failed earlier spill may have left bytes behind the ones that count.
        files::append(Effect::RowsSpill, &self.file.rows_path, Some(self.spilled.bytes), &self.rows)?;
        self.spilled.add(&self.rows);
        self.file.dir.add(self.rows.len() as u64);
        self.rows = Vec::new();
        Ok(())
    }

    /// Cuts the block that is full.
    pub fn cut(&mut self) -> Block {
        let block = Block {
            file: self.file.clone(),
            number: self.next_block,
            rows: std::mem::take(&mut self.rows),
            spilled: std::mem::take(&mut self.spilled),
            count: std::mem::take(&mut self.pending_rows),
            finish: None,
        };
        self.next_block += 1;
        // The rows file now belongs to the block: rows spilled from here on must not land in it.
        if block.spilled.bytes > 0 {
            block.file.retire_rows(block.number);
        }
        block
    }

    /// Places a block that was encoded elsewhere behind those that were cut. There may be no row that is not cut.
    ///
    /// # Errors
    /// [`FormatError`]: the part is unusable.
    pub fn add_encoded(&mut self, block: EncodedBlock) -> Result<(), FormatError> {
        debug_assert!(self.pending_rows == 0, "rows wait for a block of their own");
        let number = self.next_block;
        self.next_block += 1;
        self.file.place(number, Some(block), None).map(drop)
    }

    /// Cuts the last block, possibly empty, after which the file is complete.
    pub fn cut_last(mut self, metadata: Vec<(String, String)>) -> Block {
        let mut block = self.cut();
        block.finish = Some(metadata);
        block
    }
}

/// A spool file that is not as it was written.
fn changed(path: &Path, what: &str) -> io::Error {
    let text = format!("{} was changed behind this process's back: it {what}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Block {
    /// Its rows in their plain form, but for those on disk.
    pub fn plain(&self) -> &[u8] {
        &self.rows
    }

    /// Rows in it.
    pub fn rows(&self) -> u32 {
        self.count
    }

    /// Bytes of memory that it holds while it waits for an encoder: its rows but for those on disk.
    pub fn memory(&self) -> u64 {
        self.rows.capacity() as u64
    }

    /// Bytes of memory that it takes while it is encoded, rows read back from disk included.
    pub fn encoding_memory(&self) -> u64 {
        self.file.format.encoding_memory(self.rows.capacity() as u64 + self.spilled.bytes)
    }

    /// Encodes it and places it, and every block that waited for it, in the part's file. Runs on an encoder thread.
    /// Gives the finished file where this call completed it.
    ///
    /// # Errors
    /// [`FormatError`]: the part is unusable; every later block of it fails too.
    pub fn encode(self) -> Result<Option<Finished>, FormatError> {
        let file = self.file.clone();
        let finish = self.finish.clone();
        let number = self.number;
        let encoded = match self.encode_rows() {
            Ok(encoded) => encoded,
            Err(error) => {
                file.assembly().failed = true;
                return Err(error);
            }
        };
        file.place(number, encoded, finish)
    }

    fn encode_rows(self) -> Result<Option<EncodedBlock>, FormatError> {
        if self.count == 0 {
            return Ok(None);
        }
        if self.spilled.bytes == 0 {
            return self.file.format.encode_block(&self.rows, self.count).map(Some);
        }
        let path = self.file.retired_rows_path(self.number);
        let spilled = self.spilled.bytes;
        let mut rows = self.spilled.read(&path, self.rows.len())?;
        rows.extend_from_slice(&self.rows);
        drop(self.rows);
        files::remove(Effect::RowsDelete, &path)?;
        self.file.dir.subtract(spilled);
        self.file.format.encode_block(&rows, self.count).map(Some)
    }
}

/// The growing file of a part. Shared by the pipeline thread and the encoders.
struct PartFile {
    part_path: PathBuf,
    rows_path: PathBuf,
    format: Arc<dyn Format>,
    dir: Arc<BatchDir>,
    bytes: AtomicU64,
    footer: AtomicU64,
    assembly: Mutex<Assembly>,
}

struct Assembly {
    assembler: Option<Box<dyn Assembler>>,
    sink: Option<Sink>,
    next_block: u64,
    waiting: BTreeMap<u64, Waiting>,
    failed: bool,
}

struct Waiting {
    block: Option<EncodedBlock>,
    finish: Option<Vec<(String, String)>>,
}

impl PartFile {
    fn assembly(&self) -> MutexGuard<'_, Assembly> {
        // A panic in an encoder leaves `failed` unset only where nothing was written.
        self.assembly.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired_rows_path(&self, block: u64) -> PathBuf {
        self.rows_path.with_extension(format!("{block}.rows"))
    }

    fn retire_rows(&self, block: u64) {
        // A failure shows when the block reads its rows back.
        if let Err(error) = files::rename(Effect::RowsAside, &self.rows_path, &self.retired_rows_path(block)) {
            tracing::error!(path = %self.rows_path.display(), %error, "could not set spilled rows aside");
        }
    }

    fn place(
        &self,
        number: u64,
        block: Option<EncodedBlock>,
        finish: Option<Vec<(String, String)>>,
    ) -> Result<Option<Finished>, FormatError> {
        let mut assembly = self.assembly();
        assembly.waiting.insert(number, Waiting { block, finish });
        let placed = self.place_waiting(&mut assembly);
        if placed.is_err() {
            assembly.failed = true;
        }
        placed
    }

    fn place_waiting(&self, assembly: &mut Assembly) -> Result<Option<Finished>, FormatError> {
        loop {
            let next = assembly.next_block;
            let Some(waiting) = assembly.waiting.remove(&next) else { return Ok(None) };
            if assembly.failed {
                return Err(FormatError::Io(io::Error::other("an earlier block of this part failed")));
            }
            if assembly.assembler.is_none() {
                let sink = Sink::new();
                assembly.assembler = Some(self.format.assemble(Box::new(sink.clone()))?);
                assembly.sink = Some(sink);
            }
            assembly.next_block += 1;
            let assembler = assembly.assembler.as_mut().expect("made above");
            if let Some(block) = waiting.block {
                assembler.append(block)?;
                self.footer.store(assembler.memory(), Ordering::Relaxed);
            }
            let sink = assembly.sink.as_ref().expect("made with the assembler").clone();
            if let Some(metadata) = waiting.finish {
                assembly.assembler.take().expect("made above").finish(&metadata)?;
                self.drain(Effect::PartSeal, &sink)?;
                let totals = sink.lock();
                return Ok(Some(Finished {
                    path: self.part_path.clone(),
                    bytes: totals.bytes,
                    sha256: totals.sha256.clone().finalize().into(),
                }));
            }
            self.drain(Effect::BlockAppend, &sink)?;
        }
    }

    /// Writes what the assembler has produced to the file, opening and closing it.
    fn drain(&self, effect: Effect, sink: &Sink) -> io::Result<()> {
        let buffered = std::mem::take(&mut sink.lock().buffered);
        if buffered.is_empty() && self.part_path.exists() {
            return Ok(());
        }
        files::append(effect, &self.part_path, None, &buffered)?;
        self.bytes.fetch_add(buffered.len() as u64, Ordering::Relaxed);
        self.dir.add(buffered.len() as u64);
        Ok(())
    }
}

/// Counts and hashes what an assembler writes, and keeps it until it is drained to the file.
#[derive(Clone)]
struct Sink(Arc<Mutex<SinkTotals>>);

struct SinkTotals {
    buffered: Vec<u8>,
    bytes: u64,
    sha256: Sha256,
}

impl Sink {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(SinkTotals { buffered: Vec::new(), bytes: 0, sha256: Sha256::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, SinkTotals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut totals = self.lock();
        totals.buffered.extend_from_slice(data);
        totals.bytes += data.len() as u64;
        totals.sha256.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
