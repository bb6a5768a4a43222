//! The two seams towards Kafka: [`Source`] brings records and rebalances, [`Coordinator`] keeps offsets.
//!
//! All that the pipeline knows of Kafka. [`crate::kafka`] implements both over librdkafka; the simulation
//! implements both over a scripted group and log.
//!
//! # Invariants
//! - **C-1** When [`SourceSink::revoked`] or [`SourceSink::lost`] is called, every [`Held`] of the named partitions is
//!   already dead: [`Coordinator::commit`] with it answers [`CommitError::NotHeld`] and sends nothing.
//! - **C-2** A [`Held`] is used up by one assignment: the same partition given again has a new `assignment`.
//! - **C-3** Nobody commits offsets but [`Coordinator::commit`]: one Kafka partition a call, synchronously.

use crate::record::{Record, TopicPartition};
use futures::future::{BoxFuture, FutureExt, TryFutureExt};
use std::time::Duration;

/// Proof that a Kafka partition was given to this process: its assignment number makes stale work recognisable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// The Kafka partition.
    pub partition: TopicPartition,
    /// Counts assignments in this process, from 1; never used twice.
    pub assignment: u64,
}

/// Receives what a [`Source`] brings, in the order in which it happened.
pub trait SourceSink {
    /// A record of a partition that was resumed by [`Source::start_at`]. Records of one Kafka partition come in
    /// offset order; offsets may skip. Duplicates and records of partitions not started may come and must be ignored.
    fn record(&mut self, record: &Record<'_>);
    /// The reader of `partition` has covered every offset below `position` and nothing more is there at the moment.
    fn end_of_partition(&mut self, partition: &TopicPartition, position: i64);
    /// Partitions newly held. Nothing is read from them before [`Source::start_at`].
    fn assigned(&mut self, held: Vec<Held>);
    /// Partitions taken away by the group in an orderly way; the source has already waited for planned batches
    /// (see [`Source`]) and the [`Held`]s are dead.
    fn revoked(&mut self, partitions: &[TopicPartition]);
    /// Partitions lost: somebody else may own them already.
    fn lost(&mut self, partitions: &[TopicPartition]);
    /// The position asked for is below the log's start (`log_start` where known): records were deleted before they were read.
    /// The partition stays held and no other notices; [`Source::start_at`] reads it again.
    fn out_of_range(&mut self, partition: &TopicPartition, log_start: Option<i64>);
    /// A passing fault of the client (brokers down, …): shown in health and log, nothing else.
    fn trouble(&mut self, what: String);
    /// The client can never recover (fenced static member, fatal error): the process ends with this message.
    fn fatal(&mut self, what: String);
}

/// Where records come from. Driven by one thread; every method but `poll` returns promptly.
pub trait Source {
    /// Waits up to `wait` for something to happen and hands it to `sink`. With `take_records` false, records stay
    /// where they are (bounded by the client's own queue) but rebalances and errors are still served. Must be
    /// called often enough for `max.poll.interval.ms`.
    fn poll(&mut self, wait: Duration, take_records: bool, sink: &mut dyn SourceSink);
    /// Starts (or restarts) reading a held partition at `offset`. Also ends a pause.
    ///
    /// # Errors
    /// A message; the caller tries again later, or gives the partition up when it is no longer held.
    fn start_at(&mut self, held: &Held, offset: i64) -> Result<(), String>;
    /// Stops handing over records of the partition for a while; the position is kept.
    fn pause(&mut self, held: &Held);
    /// Ends a [`Source::pause`]: reading goes on behind the last record handed over.
    fn resume(&mut self, held: &Held);
    /// Leaves the group as if crashed and joins again as a new member: after a commit whose answer is unknown.
    /// All partitions are reported [`SourceSink::lost`] by the next `poll`.
    fn rejoin(&mut self);
    /// Leaves the group for good, within `deadline`.
    fn close(&mut self, deadline: Duration);
}

/// What the coordinator holds for one Kafka partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The committed offset: next to consume.
    pub offset: i64,
    /// The metadata string committed with it; empty where there is none.
    pub metadata: String,
}

/// What the coordinator holds for several Kafka partitions; `None` where nothing was ever committed.
pub type CommittedOffsets = Vec<(TopicPartition, Option<Committed>)>;

/// First and last offsets of a Kafka partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// First offset still there.
    pub start: i64,
    /// Next offset that a producer would get (high watermark).
    pub end: i64,
    /// Next offset that a reader with the configured isolation would reach (last stable offset for `read_committed`).
    pub readable_end: i64,
}

/// Ends the announcement of a planned batch when it is dropped.
pub struct PlannedGuard(Option<Box<dyn FnOnce() + Send>>);

impl PlannedGuard {
    /// Calls `end` when dropped.
    pub fn new(end: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(end)))
    }
}

impl Drop for PlannedGuard {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

/// Why a commit is not known to have happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The partition is no longer held by this assignment; nothing was sent.
    #[error("the partition is no longer held")]
    NotHeld,
    /// The coordinator refused it: this member was put out of the group, or its generation is old. It did not happen.
    #[error("the group coordinator refused the commit: {0}")]
    Fenced(String),
    /// The answer is unknown: it may have happened, and may still happen. The caller must [`Source::rejoin`].
    #[error("no answer to the commit: {0}")]
    Unknown(String),
    /// Refused for its content or for rights: will be refused again. It did not happen.
    #[error("the commit was refused: {0}")]
    Refused(String),
}

/// Keeps committed offsets with metadata, and knows the log. Called from many tasks.
pub trait Coordinator: Send + Sync {
    /// Commits `offset` with `metadata` (at most 4096 bytes) for one held partition and waits for the answer.
    fn commit(&self, held: Held, offset: i64, metadata: String) -> BoxFuture<'_, Result<(), CommitError>>;
    /// Reads the committed offset of each partition from the coordinator, not from a cache. A partition that could not be
    /// read is left out of the answer.
    fn committed(&self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<CommittedOffsets, String>>;
    /// Asks the broker for the log's bounds.
    fn log_bounds(&self, partition: TopicPartition) -> BoxFuture<'_, Result<LogBounds, String>>;
    /// The first offset whose Kafka timestamp is at or after `time_ms`; `None` where there is none yet.
    fn offset_at_time(&self, partition: TopicPartition, time_ms: i64) -> BoxFuture<'_, Result<Option<i64>, String>>;
    /// Whether Kafka answers at the moment. A cached answer is none, so what talks to a network must ask.
    fn answers(&self) -> BoxFuture<'_, Result<(), String>> {
        self.cluster_id().map_ok(drop).boxed()
    }
    /// The cluster's id.
    fn cluster_id(&self) -> BoxFuture<'_, Result<String, String>>;
    /// The topic's id as the broker gives it, where the client can tell: a re-created topic has another.
    fn topic_id(&self, topic: &str) -> BoxFuture<'_, Result<Option<String>, String>>;
    /// How many Kafka partitions `topic` has.
    fn partitions(&self, topic: &str) -> BoxFuture<'_, Result<i32, String>>;
    /// Announces a planned batch of `held`: while the guard lives, an orderly revoke waits for it, up to its grace.
    fn planned(&self, held: &Held) -> PlannedGuard;
    /// Whether the assignment is still this process's. Work for a dead one stops at its next step.
    fn is_held(&self, held: &Held) -> bool;
}
