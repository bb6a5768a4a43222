//! The encoder threads: blocks in, finished parts out.
//!
//! The number of threads decides how fast blocks are encoded, never what comes out (P-1, F-1). With no threads at all
//! a block is encoded where it is submitted: that is how the simulation runs on one thread.

use super::part::{Block, Finished};
use crate::format::FormatError;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Called on an encoder thread when a block is done.
pub type Done = Box<dyn FnOnce(Result<Option<Finished>, FormatError>) + Send>;

struct Job {
    block: Block,
    done: Done,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    memory: AtomicU64,
}

/// The encoder threads and their queue.
pub struct EncodePool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    memory_limit: u64,
}

impl EncodePool {
    /// Starts `threads` threads (0: encode in place). [`EncodePool::has_room`] says no from `memory_limit` bytes on.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn new(threads: usize, memory_limit: u64) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { queue: Mutex::new(Queue::default()), wake: Condvar::new(), memory: AtomicU64::new(0) });
        let mut handles = Vec::new();
        for number in 0..threads {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("encode-{number}"));
            handles.push(thread.spawn(move || work(&shared))?);
        }
        Ok(Self { shared, threads: handles, memory_limit })
    }

    /// Whether another block may be submitted. The pipeline stops taking records while there is no room; blocks that
    /// a seal cuts are submitted all the same, so the bound is this limit plus one batch's unfinished blocks.
    pub fn has_room(&self) -> bool {
        self.shared.memory.load(Ordering::Relaxed) < self.memory_limit
    }

    /// Bytes of rows that await encoding or are being encoded.
    pub fn memory(&self) -> u64 {
        self.shared.memory.load(Ordering::Relaxed)
    }

    /// Hands a block over. Blocks of one part must be submitted in the order in which they were cut.
    pub fn submit(&self, block: Block, done: Done) {
        if self.threads.is_empty() {
            done(block.encode());
            return;
        }
        self.shared.memory.fetch_add(block.memory(), Ordering::Relaxed);
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).jobs.push_back(Job { block, done });
        self.shared.wake.notify_one();
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closed {
                    return;
                }
                queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let memory = job.block.memory();
        let result = encode_guarded(job.block);
        shared.memory.fetch_sub(memory, Ordering::Relaxed);
        (job.done)(result);
    }
}

/// A panic in an encoder is a bug, but it must stop one partition with a message, not hang all of them.
fn encode_guarded(block: Block) -> Result<Option<Finished>, FormatError> {
    let rows = block.rows();
    std::panic::catch_unwind(AssertUnwindSafe(|| block.encode()))
        .unwrap_or_else(|_| Err(FormatError::Encode { rows, what: "the encoder panicked; see the log".to_string() }))
}

impl Drop for EncodePool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an encoder thread panicked");
            }
        }
    }
}
