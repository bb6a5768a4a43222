//! Backfill: any range of offsets archived by the very pipeline that `run` has, under a group of its own.
//!
//! ```text
//! request ──resolve──▶ ranges ──without what receipts vouch for──▶ Job (in the bucket) ──▶ Schedule ──▶ pipeline ──▶ tally of receipts
//! ```
//! # Invariants
//! - **B-1** A job touches only offsets below what the live group had committed when it was made: nobody else begins a batch there. (Elsewhere, B-6:
//!   offsets of the log as it was then.)
//! - **B-2** What a job archives, and where its batches end, is in its document, which never changes. So processes can come and go, and to run
//!   it again does what is left, or nothing.
//! - **B-3** No two jobs that share an offset are under way: a job that overlaps another one is refused, and both are named. Each looks for the other
//!   after its own document is stored, so at most one of two goes on.
//! - **B-4** The live group's offsets are read and never committed.
//! - **B-5** A job that mends holds what verifying the archive has found, and no more. Each of its batches is archived again exactly as it was cut
//!   once, as far as a receipt, a claim or the names of objects tell that.
//! - **B-6** A job that archives elsewhere reads and writes its own destination alone. The archive there belongs to the group of a job.

pub mod elsewhere;
pub mod job;
pub mod missing;
pub mod resolve;
mod strangers;
pub mod tally;
