//! The encoder threads: blocks in, finished parts out.
//!
//! The number of threads decides how fast blocks are encoded, never what comes out (P-1, F-1). With no threads at all
//! a block is encoded where it is submitted: that is how the simulation runs on one thread.
//!
//! # Memory
//! A seal submits the last block of every part at once, most of them spilled: what bounds memory is how many are read
//! back at the same time. So each block has a weight, the memory that encoding it takes ([`Block::encoding_memory`]),
//! and blocks are encoded side by side only while their weights fit the limit together. One that is heavier than the
//! limit is encoded alone. Blocks begin in the order in which they were submitted, so a heavy one always has its turn.
//!
//! The system's allocator keeps what a thread has freed, for that thread. So that sixteen threads do not each keep a
//! large block's worth, a block of which only n fit side by side is left to the first n threads.

use super::part::{Block, Finished};
use crate::format::FormatError;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Called on an encoder thread when a block is done.
pub type Done = Box<dyn FnOnce(Result<Option<Finished>, FormatError>) + Send>;

struct Job {
    block: Block,
    done: Done,
    /// Bytes that it holds while it waits.
    waiting: u64,
    /// Bytes that it takes while it is encoded.
    weight: u64,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Bytes that the jobs hold.
    waiting: u64,
    /// Weights of the blocks that are being encoded.
    encoding: u64,
    closed: bool,
}

impl Queue {
    /// The next job, if encoder thread `thread` may begin it now.
    fn next(&mut self, thread: usize, limit: u64) -> Option<Job> {
        let weight = self.jobs.front()?.weight;
        // Alone on the first thread, whatever the weight: there is always a thread that takes the next job in the end.
        let side_by_side = (limit / weight.max(1)).max(1);
        let has_room = self.encoding == 0 || self.encoding.saturating_add(weight) <= limit;
        if thread as u64 >= side_by_side || !has_room {
            return None;
        }
        let job = self.jobs.pop_front()?;
        self.waiting -= job.waiting;
        self.encoding += job.weight;
        Some(job)
    }
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    limit: u64,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job for encoder thread `thread`, waiting for it; `None` once the pool is closed.
    fn next(&self, thread: usize) -> Option<Job> {
        let mut queue = self.queue();
        while !queue.closed {
            if let Some(job) = queue.next(thread, self.limit) {
                // The one behind it may fit beside it, on a thread that this one was not for.
                self.wake.notify_all();
                return Some(job);
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// A block of that weight is through.
    fn encoded(&self, weight: u64) {
        self.queue().encoding -= weight;
        self.wake.notify_all();
    }
}

/// The encoder threads and their queue.
pub struct EncodePool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl EncodePool {
    /// Starts `threads` threads (0: encode in place). Blocks are encoded side by side, and [`EncodePool::has_room`] says
    /// yes, within `memory_limit` bytes.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn new(threads: usize, memory_limit: u64) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { queue: Mutex::new(Queue::default()), wake: Condvar::new(), limit: memory_limit });
        let mut handles = Vec::new();
        for number in 0..threads {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("encode-{number}"));
            handles.push(thread.spawn(move || work(&shared, number))?);
        }
        Ok(Self { shared, threads: handles })
    }

    /// Whether another block may be submitted. The pipeline stops taking records while there is no room; blocks that
    /// a seal cuts are submitted all the same: what they hold in memory, they held before as rows of open parts.
    pub fn has_room(&self) -> bool {
        self.memory() < self.shared.limit
    }

    /// Bytes that blocks hold which await encoding, and that those take which are being encoded.
    pub fn memory(&self) -> u64 {
        let queue = self.shared.queue();
        queue.waiting + queue.encoding
    }

    /// Hands a block over. Blocks of one part must be submitted in the order in which they were cut.
    pub fn submit(&self, block: Block, done: Done) {
        if self.threads.is_empty() {
            done(block.encode());
            return;
        }
        let job = Job { waiting: block.memory(), weight: block.encoding_memory(), block, done };
        let mut queue = self.shared.queue();
        queue.waiting += job.waiting;
        queue.jobs.push_back(job);
        drop(queue);
        // All of them: the one that wakes must be one that may begin it.
        self.shared.wake.notify_all();
    }
}

fn work(shared: &Shared, thread: usize) {
    while let Some(Job { block, done, weight, .. }) = shared.next(thread) {
        let result = encode_guarded(block);
        shared.encoded(weight);
        done(result);
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
        let mut queue = self.shared.queue();
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

#[cfg(test)]
mod tests;
