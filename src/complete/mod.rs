//! When an hour is complete: watermarks from Kafka, folders from receipts, a marker in each folder.
//!
//! ```text
//! committed offsets, log ends ──horizon──▶ the instant that every Kafka partition of the topic is past ─┐
//! receipts ──scan──▶ tallies of open folders ───────────────────────────────────────────────────────────┴─▶ revision ─▶ marker
//! ```
//! Whoever holds Kafka partition 0 of a topic completes its folders, in rounds ([`round`]); nobody is elected, and nothing is locked.
//!
//! # Invariants
//! - **W-1** A folder is complete when the end of its window is not behind the instant that all Kafka partitions of the topic are past
//!   ([`horizon`]). What is not known is never past.
//! - **W-2** A revision tells exactly the objects of all receipts that lie in `covered` and name the folder. All that was committed when the horizon
//!   was asked for is in it: offsets are read before receipts.
//! - **W-3** What is put into a complete folder makes its next revision, in the next round, as the folder's window has ended. A marker is never deleted.
//! - **W-4** Any number of processes may complete the same topic, and each may stall or die anywhere: revisions are created only if absent
//!   (K-10), and whoever comes second counts only what is not covered, or counts anew.
//!
//! What is complete and is to be loaded waits in the same document in which it is open no more ([`loads`], and [`crate::load`]).
//!
//! Nothing here holds back offsets: a store that refuses a marker is told in the log and in health, and asked again in the next round.
//!
//! Rows that a backfill archives into a folder, and those of replayed dead letters, lie below offsets that were looked at already: who makes them asks for
//! the folders to be counted anew ([`recount`], K-15).
//!
//! # Bounds
//! [`round::PARTS_MAX`] Kafka partitions of folders are open at a time; where there would be more, only the Kafka partition that is furthest behind is looked at, some
//! receipts a round, until the oldest windows are completed by what was read so far, which may be again when more is known. [`progress::RECENT_MAX`] completed folders
//! are told by `siltstone status`.

pub mod calendars;
pub mod horizon;
pub mod loads;
pub mod progress;
pub mod recount;
pub mod round;
pub mod status;
pub mod tally;
