//! Compaction: the small objects of a closed window become large ones, and no row is another afterwards.
//!
//! ```text
//! receipts ──▶ units ([`unit`]) ──▶ groups ([`plan`]) ──▶ fetch, rewrite, prove ([`rewrite`], [`proof`]) ──▶ claim ──▶ upload ──▶ receipt ──▶ delete
//! ```
//! # Invariants
//! - **C-1** Until the receipt is there the old objects count, from then on the new ones, and nothing else ([`crate::ledger::live`], K-6). Whatever
//!   reads, verifies or mends follows that, so no row is ever missing or there twice for it.
//! - **C-2** Before anything is claimed, the rows of the new file were read back and compared with those of the old objects, whose size and SHA-256
//!   were those of their receipts. What is not proven equal is left as it is, and told.
//! - **C-3** Nothing is uploaded before the claim, nothing deleted before the receipt, and nothing deleted while a new object is not seen with its
//!   size and checksum.
//!   An object of a compaction that was taken back is deleted only while its rows are seen without it, in objects that nobody may be deleting
//!   (C-7).
//! - **C-4** A claim fixes inputs, names and checksums. Whoever finds one without receipt makes the same objects again, or stops.
//! - **C-5** What an object of the past is made of never changes: only windows that are over, and receipts that were written, for longer than
//!   [`Options::min_age_ms`]; no Kafka partition that an unfinished backfill has ranges of, which is
//!   asked again before anything is deleted: it might put that back. Dead letters and the rows of their replays are left alone:
//!   receipts of replays say where these are.
//!
//! Two processes at once are safe: a number is claimed once (K-5), and what both do to finish a claim is the same.
//!
//! # Memory and disk
//! [`HELD_MAX`] objects of one Kafka partition are held at a time, some 500 bytes each; where there are more, those are compacted before more are looked
//! for. Beside it: what [`proof`] and [`rewrite`] say, and an upload's pieces. On disk: the objects of one group, and all new files of one claim
//! ([`plan::Rules`]); a quarter of the spool's limit, or `--target-size` and what it becomes where that is more.

mod chain;
pub mod equal;
mod make;
pub mod plan;
pub mod proof;
pub mod rewrite;
mod step;
mod switch;
mod undo;
pub mod unit;
mod work;

pub use step::{Step, Summary};
pub use work::Compactor;

use crate::bucket::compactions::To;

#[cfg(test)]
mod tests;

/// Objects of one Kafka partition that are held at a time.
pub const HELD_MAX: usize = 200_000;

/// Bytes that a new object aims at where nothing is said: 256 MiB.
pub const TARGET_BYTES: u64 = 256 << 20;

/// How long a window must be over, and a receipt written, where nothing is said: a day.
pub const MIN_AGE_MS: i64 = 86_400_000;

/// What is compacted, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Only of this archive.
    pub archive: Option<String>,
    /// Only of this topic.
    pub topic: Option<String>,
    /// Only of these Kafka partitions; of all where it is empty.
    pub partitions: Vec<std::ops::RangeInclusive<i32>>,
    /// Only of this output.
    pub output: Option<String>,
    /// Only windows that end by then, milliseconds UTC.
    pub before_ms: i64,
    /// Only windows that are over, and receipts that were written, for so long.
    pub min_age_ms: i64,
    /// Bytes that a new object aims at.
    pub target_bytes: u64,
    /// JSON lines become this.
    pub to: Option<To>,
    /// With `to`: a field that is null counts as one that is not there.
    pub nulls_as_missing: bool,
    /// Replaced objects that came back are looked for and deleted again.
    pub sweep: bool,
    /// Nothing is written: only what would be is said.
    pub dry_run: bool,
    /// See [`HELD_MAX`]. Less is for tests.
    pub held_max: usize,
}

impl Options {
    /// All that is over before `before_ms`.
    pub fn before(before_ms: i64) -> Self {
        Self {
            archive: None,
            topic: None,
            partitions: Vec::new(),
            output: None,
            before_ms,
            min_age_ms: MIN_AGE_MS,
            target_bytes: TARGET_BYTES,
            to: None,
            nulls_as_missing: false,
            sweep: false,
            dry_run: false,
            held_max: HELD_MAX,
        }
    }
}
