//! The pool under a format that weighs what a test says and notes how much is encoded at the same time.

use super::*;
use crate::format::compress::CompressedBlock;
use crate::format::{Appended, Assembler, BlockLimit, EncodedBlock, Format, Row, RowError};
use crate::spool::Spool;
use crate::spool::part::Part;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Encoding takes this many times the rows.
const WEIGHT: u64 = 3;
const DEADLINE: Duration = Duration::from_secs(60);

/// Rows as they are. What is being encoded, and the most that ever was.
#[derive(Default)]
struct Weighed(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    now: u64,
    most: u64,
    most_blocks: usize,
    blocks: usize,
    threads: std::collections::BTreeSet<String>,
}

impl Format for Weighed {
    fn extension(&self) -> String {
        "txt".to_string()
    }
    fn content_type(&self) -> &'static str {
        "text/plain"
    }
    fn block_limit(&self) -> BlockLimit {
        BlockLimit { bytes: usize::MAX, rows: u32::MAX }
    }
    fn append_row(&self, _row: &Row<'_>, _rows: &mut Vec<u8>) -> Result<Appended, RowError> {
        Err(RowError("not asked for".to_string()))
    }
    fn encode_block(&self, rows: &[u8], _count: u32) -> Result<EncodedBlock, FormatError> {
        let weight = rows.len() as u64 * WEIGHT;
        {
            let mut seen = self.0.lock().expect("no panic");
            seen.now += weight;
            seen.blocks += 1;
            seen.most = seen.most.max(seen.now);
            seen.most_blocks = seen.most_blocks.max(seen.blocks);
            seen.threads.extend(std::thread::current().name().map(str::to_string));
        }
        for _ in 0..20 {
            std::thread::yield_now(); // Lets others begin, if they may.
        }
        let mut seen = self.0.lock().expect("no panic");
        seen.now -= weight;
        seen.blocks -= 1;
        Ok(EncodedBlock::Bytes(CompressedBlock { bytes: rows.to_vec(), plain_bytes: 0, crc32: 0 }))
    }
    fn count_rows(&self, _file: std::fs::File) -> std::io::Result<u64> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn encoding_memory(&self, rows: u64) -> u64 {
        rows * WEIGHT
    }
    fn assemble(&self, out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        Ok(Box::new(Plain(out)))
    }
}

struct Plain(Box<dyn Write + Send>);

impl Assembler for Plain {
    fn append(&mut self, block: EncodedBlock) -> Result<(), FormatError> {
        let EncodedBlock::Bytes(block) = block else { panic!("bytes") };
        Ok(self.0.write_all(&block.bytes)?)
    }
    fn finish(self: Box<Self>, _metadata: &[(String, String)]) -> Result<(), FormatError> {
        Ok(())
    }
}

/// Seals parts whose blocks have `sizes` bytes (one list a part), half of the blocks spilled, and gives the files and what was
/// seen of memory.
fn seal(threads: usize, limit: u64, parts: &[Vec<usize>]) -> (Vec<Vec<u8>>, Seen) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), u64::MAX, 1).expect("a spool");
    let dir = spool.batch_dir().expect("a folder in it");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let format: Arc<dyn Format> = Arc::new(Weighed(seen.clone()));
    let pool = EncodePool::new(threads, limit).expect("threads");
    let (report, reports) = mpsc::channel();
    for (number, sizes) in parts.iter().enumerate() {
        let mut part = Part::new(dir.clone(), number, format.clone());
        let last = sizes.len() - 1;
        for (at, &size) in sizes.iter().enumerate() {
            part.rows().extend(std::iter::repeat_n(b'a' + at as u8, size));
            part.row_added();
            if at % 2 == number % 2 {
                part.spill().expect("spilled");
            }
            let report = report.clone();
            let done = move |result| drop(report.send((number, result)));
            if at < last {
                pool.submit(part.cut(), Box::new(done));
            } else {
                pool.submit(part.cut_last(Vec::new()), Box::new(done));
                break;
            }
        }
    }
    let mut files = vec![Vec::new(); parts.len()];
    for _ in 0..parts.iter().map(Vec::len).sum() {
        let (number, result) = reports.recv_timeout(DEADLINE).expect("every block is encoded, none waits for ever");
        if let Some(finished) = result.expect("encoded") {
            files[number] = std::fs::read(finished.path).expect("the part");
        }
    }
    assert_eq!(pool.memory(), 0, "all of it is given back");
    assert!(pool.has_room());
    drop(pool);
    let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    (files, seen)
}

fn expected(parts: &[Vec<usize>]) -> Vec<Vec<u8>> {
    let file = |sizes: &Vec<usize>| {
        let rows = |(at, &size): (usize, &usize)| std::iter::repeat_n(b'a' + at as u8, size);
        sizes.iter().enumerate().flat_map(rows).collect()
    };
    parts.iter().map(file).collect()
}

/// However many threads there are, what is encoded at the same time fits the limit, and the files hold the blocks in order.
#[test]
fn blocks_side_by_side_fit_the_limit() {
    let parts: Vec<Vec<usize>> =
        (0..12).map(|part| (0..6).map(|block| 1000 + (part * 7 + block * 13) % 5 * 400).collect()).collect();
    for threads in [0, 1, 2, 16] {
        for limit in [9_000, 20_000, 1_000_000] {
            let (files, seen) = seal(threads, limit, &parts);
            assert_eq!(files, expected(&parts), "{threads} threads, {limit} bytes");
            assert!(seen.most <= limit, "{} of {limit} bytes, {threads} threads", seen.most);
        }
    }
}

/// A block that is heavier than the limit is encoded, with nothing beside it, and always by the same thread.
#[test]
fn a_block_over_the_limit_is_encoded_alone() {
    let parts: Vec<Vec<usize>> = (0..4).map(|_| vec![10, 5000, 20, 7000]).collect();
    for threads in [0, 1, 3, 16] {
        let (files, seen) = seal(threads, 6000, &parts);
        assert_eq!(files, expected(&parts), "{threads} threads");
        assert_eq!(seen.most, 7000 * WEIGHT, "{threads} threads: nothing beside the heaviest");
    }
    let heavy: Vec<Vec<usize>> = (0..8).map(|_| vec![5000]).collect();
    let (_, seen) = seal(16, 6000, &heavy);
    assert_eq!((seen.most_blocks, seen.threads.len()), (1, 1), "{:?}", seen.threads);
}

/// Blocks that fit side by side are encoded side by side: the limit does not make one thread of sixteen.
#[test]
fn what_fits_is_begun() {
    let mut queue = Queue::default();
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), u64::MAX, 1).expect("a spool");
    let dir = spool.batch_dir().expect("a folder in it");
    let format: Arc<dyn Format> = Arc::new(Weighed::default());
    for (number, weight) in [40, 30, 40, 100].into_iter().enumerate() {
        let block = Part::new(dir.clone(), number, format.clone()).cut();
        queue.jobs.push_back(Job { block, done: Box::new(drop), waiting: 0, weight });
    }
    assert!(queue.next(2, 100).is_none(), "only two of 40 fit, so the third thread is not for them");
    assert_eq!(queue.next(1, 100).map(|job| job.weight), Some(40));
    assert_eq!(queue.next(2, 100).map(|job| job.weight), Some(30));
    assert!(queue.next(0, 100).is_none(), "70 and 40 are more than 100");
    queue.encoding -= 40;
    assert_eq!(queue.next(0, 100).map(|job| job.weight), Some(40));
    assert!(queue.next(0, 100).is_none());
    queue.encoding -= 70;
    assert!(queue.next(1, 100).is_none(), "the first thread's");
    assert_eq!(queue.next(0, 100).map(|job| job.weight), Some(100));
}

/// Goal: rows that were spilled and are not what was written, reach no block (P-3), whenever somebody changes them.
#[test]
fn changed_spilled_rows_are_noticed() {
    let cut_short = |path: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("rows");
        file.set_len(500).expect("cut short");
    };
    let flipped = |path: &Path| {
        let mut rows = std::fs::read(path).expect("rows");
        rows[500] ^= 1;
        std::fs::write(path, rows).expect("flipped");
    };
    let deleted = |path: &Path| std::fs::remove_file(path).expect("deleted");
    let nothing = |_: &Path| ();
    type Change<'a> = (&'a dyn Fn(&Path), bool, bool);
    let changes: [Change<'_>; 4] =
        [(&cut_short, true, true), (&deleted, true, true), (&flipped, false, true), (&nothing, false, false)];
    for (change, spill_fails, encode_fails) in changes {
        for spills_again in [true, false] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut spool = Spool::open(folder.path(), u64::MAX, 1).expect("a spool");
            let dir = spool.batch_dir().expect("a folder in it");
            let mut part = Part::new(dir.clone(), 0, Arc::new(Weighed::default()));
            let add = |part: &mut Part| {
                part.rows().extend(std::iter::repeat_n(b'a', 1000));
                part.row_added();
            };
            add(&mut part);
            part.spill().expect("spilled");
            change(&dir.file("000000.rows"));
            add(&mut part);
            if spills_again {
                assert_eq!(part.spill().is_err(), spill_fails);
            }
            if !(spills_again && spill_fails) {
                let encoded = part.cut_last(Vec::new()).encode();
                assert_eq!(matches!(encoded, Err(FormatError::Io(_))), encode_fails);
            }
        }
    }
}
