//! Records of an archive, produced back to Kafka: exactly once, in order within each source partition, resumable.
//!
//! ```text
//! receipts ──plan──▶ what, how much, what is lost ──▶ checks of the target topic ──▶ refused, or:
//! objects ──read──▶ rows in order ──sieve──▶ records ──produce──▶ one transaction: records and progress
//! ```
//! - [`plan`]: which output, source partitions and losses; [`loss`]: what each kind of output does not hold.
//! - [`read`]: rows in order; [`walk`]: of one source partition; [`order`]: by offset, of many objects; [`value`]: the record that a row becomes again.
//! - [`target`]: the seam towards Kafka, and what a topic's settings would do to old records.
//! - [`produce`]: the loop; `stops`: what ends it, or one source partition of it; [`tally`]: what came of rows.
//! - [`position`]: how far a job is, and where that is kept; [`rate`]: so many a second.
//!
//! # Guarantees
//! - **R-1** A record and the progress behind it are one transaction. So a reader of committed records sees each record of a job once,
//!   whoever is killed: what is open then is aborted, by whoever comes next or by Kafka after [`TRANSACTION_TIMEOUT_MS`].
//! - **R-2** Records of one source partition that go to one target partition are in their order there. The rows of one record are in one transaction, where
//!   rows tell their record and one transaction takes them.
//! - **R-3** Only one process goes on with a job: a later one fences the earlier one before it reads the progress.
//! - **R-4** From whole records, key, value, headers and timestamp are what they were, null and empty told apart. Offsets are new. librdkafka
//!   takes a timestamp of 0 for none, so such a record gets the time of the restore; it is counted.
//! - **R-5** A source partition stops alone where something of it cannot be read or produced: all before that is committed, the others go on to their ends,
//!   and the job is not said to be whole.
//!
//! Progress is as lasting as the group's offsets: Kafka forgets them after `offsets.retention.minutes` without a commit (7 days by default).
//! A job that is gone on with later begins anew; where only some are forgotten it is refused.

pub mod loss;
pub mod order;
pub mod plan;
pub mod position;
pub mod produce;
pub mod rate;
pub mod read;
mod stops;
pub mod tally;
pub mod target;
pub mod value;
pub mod walk;

#[cfg(test)]
mod tests;

/// How long Kafka lets a transaction be open before it aborts it, milliseconds.
pub const TRANSACTION_TIMEOUT_MS: u32 = 60_000;

/// The group that keeps the progress of `job`, of the archive whose group is `group`.
pub fn group_of(group: &str, job: &str) -> String {
    format!("{group}-restore-{job}")
}

/// The transactional id of `job` to a topic: one process at a time.
pub fn transactional_id(group: &str, job: &str, to_topic: &str) -> String {
    format!("siltstone-{}-{to_topic}", group_of(group, job))
}
