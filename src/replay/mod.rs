//! Dead letters decoded again: after a fix of the configuration, what now makes rows is written to the outputs that lack it.
//!
//! ```text
//! receipts ──▶ objects of dead letters ──▶ letters ──decoded with the layout of now──▶ rows ──▶ claim ──▶ objects ──▶ receipt
//! ```
//! # Why no group in Kafka
//! A batch needs its plan in Kafka's group because a zombie's commit may move the group's offset. A replay commits no offset: what it is
//! made of lies in the bucket and never changes, and so does what says that it was done. Its claim is created only if absent, under a
//! number that is free because all claims before it were read ([`crate::bucket::replays`], K-4). So there is nothing for a group to
//! keep, and Kafka is not asked at all. Stores that cannot create only if absent are refused for that reason.
//!
//! # Invariants
//! - **R-1** For each output a dead letter is named by at most one claim, and written by nobody without one. What a claim names is in the
//!   bucket once its receipt is: whoever finds a claim without receipt finishes it, with the layout and under the names that it says.
//! - **R-2** Names and rows of a replay are a function of its claim and its object of dead letters. So two processes that finish the same one
//!   put the same objects.
//! - **R-3** A dead letter that is one of several rows of its record is replayed only while row numbers mean what they meant
//!   ([`layouts::rows_keep_their_numbers`]); else it stays: the rows beside it were archived, and none of them may be again.
//! - **R-4** What is still no row stays where it is. A replay makes no dead letters.
//! - **R-5** Where outputs take their columns from a schema registry, the rows of one replay are projected onto one schema: the newest that its
//!   letters name, or that of their batch. The claim keeps it.
//!
//! One claim names at most [`LETTERS_MAX`] dead letters, so that claims stay small, and takes no further one once its rows are of
//! [`PARTS_MAX`] objects, one of them has [`BLOCKS_MAX`] blocks, or the budget has no room for more: what is left takes further replays, one
//! after the other.
//!
//! Requests: each claim of a batch is read once, and its receipt looked for once; then one for each object of dead letters and replay.
//!
//! Memory beside the budget's share for rows: the numbers of all dead letters of one batch that were replayed before (some 50 bytes
//! each), one claim, and what [`crate::format::dead_letter::letter`] says.
//!
//! [`BLOCKS_MAX`]: crate::spool::part::BLOCKS_MAX

pub mod balance;
mod claims;
pub mod find;
pub mod layouts;
pub mod read;
pub mod schemas;
pub mod select;
mod take;
mod work;

pub use work::{LETTERS_MAX, Limits, PARTS_MAX, Replayer, Step};

#[cfg(test)]
mod tests;
