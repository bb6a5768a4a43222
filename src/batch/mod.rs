//! The batch: one range of one topic partition, on its way to the bucket. Pure rules, no effects.
//!
//! ```text
//! append*        seal(reason)       plan, claim, put all, receipt       commit
//! OpenBatch ───▶ SealedBatch ──────────────────────────────────▶ done: position = end
//!     └──────────────┴── abandon: revoked or fenced; spool deleted, nothing committed
//! ```
//! # Invariants
//! - **B-1** Ranges of one topic partition chain: each `first` is the `end` of the batch before.
//! - **B-2** Names and rows depend only on the records, the range and the layout.
//! - **B-3** A commit never passes an offset whose record is in neither the bucket, the dead letters nor a counted drop.
//!
//! [`crate::pipeline`] carries out what this module decides.

pub mod balance;
pub mod metadata;
pub mod rotation;
