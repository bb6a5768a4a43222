//! The loop: rows to records, records into transactions, transactions one after the other.
//!
//! # Bounds
//! A transaction is committed after [`RECORDS_MAX`] rows, [`BYTES_MAX`] bytes or [`OPEN_MS`] milliseconds, whichever comes first: a reader of
//! committed records waits no longer. What fails in passing is aborted, and everything since the last commit is read again, up to
//! [`ATTEMPTS_MAX`] times without a commit in between.

use super::position::{Progress, ProgressError};
use super::rate::Rate;
use super::read::{Archive, Left, Step, steps};
use super::target::{Origin, Target, TimeLimits, Trouble};
use super::value::{NO_TIMESTAMP, record_of};
use crate::effect::Effect;
use crate::effect::requests::commit_records;
use crate::exit::{Exit, Failure};
use crate::reader::merge::Item;
use crate::reader::plan::Wanted;
use crate::reader::sieve::Sieve;
use crate::record::{OffsetRange, OwnedRecord, TopicPartition};
use futures::{FutureExt, StreamExt};
use serde::Serialize;
use std::time::Duration;

/// Rows of a transaction, those that are left out among them.
pub const RECORDS_MAX: u64 = 20_000;

/// Bytes of keys, values and headers of a transaction; a record more than that is taken.
pub const BYTES_MAX: u64 = 32 << 20;

/// How long a transaction stays open, milliseconds.
pub const OPEN_MS: i64 = 2_000;

/// Transactions in a row that may fail in passing.
pub const ATTEMPTS_MAX: u32 = 10;

/// How often somebody is told how far it is, and a signal is looked for.
const TICK: Duration = Duration::from_millis(200);

/// Pause after a transaction that failed, longer each time.
const PAUSE: Duration = Duration::from_millis(500);

/// What came of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Rows read, of whole batches at a time.
    pub read: u64,
    /// Records produced.
    pub produced: u64,
    /// Bytes of their keys, values and headers.
    pub bytes: u64,
    /// Rows outside of the times and offsets asked for.
    pub outside: u64,
    /// Rows that do not meet the condition.
    pub filtered: u64,
    /// Of the records produced: those without a timestamp of their own, which have the time of the restore.
    pub untimed: u64,
    /// Transactions committed.
    pub transactions: u64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything is restored.
    Done,
    /// It was told to stop; what was open is committed.
    Stopped,
}

/// How records are produced.
pub struct How<'h> {
    /// The source partitions, as receipts know them.
    pub topic: &'h str,
    /// The topic that is produced into, for messages.
    pub to_topic: &'h str,
    /// What was asked for.
    pub wanted: &'h Wanted,
    /// Each record goes where it was.
    pub preserve_partitions: bool,
    /// Records a second.
    pub rate: Option<u64>,
    /// Timestamps that may be produced.
    pub limits: TimeLimits,
    /// Hash of the request.
    pub job: u32,
    /// Whether it is told to stop.
    pub is_stopped: &'h dyn Fn() -> bool,
}

/// A restore on its way.
pub struct Restore<'r> {
    /// How.
    pub how: How<'r>,
    /// Which rows.
    pub sieve: Sieve,
    /// Into what.
    pub target: &'r dyn Target,
    /// From where.
    pub archive: Archive<'r>,
    /// What is committed.
    pub committed: Tally,
}

/// A transaction that is open.
struct Open {
    began_ms: i64,
    tally: Tally,
}

enum Stop {
    Trouble(Trouble),
    Failure(Failure),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Restore<'_> {
    /// Produces what is left of `progress`, and tells `seen` now and then what is committed and open.
    ///
    /// # Errors
    /// What cannot be read or produced; what was open then is aborted, what was committed stays and the same job goes on behind it.
    pub async fn run(&mut self, mut progress: Progress, seen: &mut dyn FnMut(&Tally)) -> Result<Ended, Failure> {
        let begun = progress.clone();
        let mut attempts = 0;
        let mut rate = self.how.rate.map(Rate::new);
        loop {
            let before = self.committed.transactions;
            let stop = match self.session(&mut progress, &mut rate, seen).await {
                Ok(ended) => return Ok(ended),
                Err(stop) => stop,
            };
            // Whatever it was: nothing of the open transaction stays. Where even that fails, the coordinator aborts it, or the next
            // process does.
            let aborted = match &stop {
                Stop::Trouble(Trouble::Fenced(_) | Trouble::Fatal(_)) => Ok(()),
                _ => self.target.abort().await,
            };
            let what = match stop {
                Stop::Failure(failure) => return Err(failure),
                Stop::Trouble(Trouble::Passing(what)) => what,
                Stop::Trouble(trouble) => return Err(self.failure(trouble)),
            };
            aborted.map_err(|trouble| self.failure(trouble))?;
            attempts = if self.committed.transactions > before { 1 } else { attempts + 1 };
            if attempts >= ATTEMPTS_MAX {
                let what = format!(
                    "produce to {}: {what}; {attempts} transactions in a row were aborted. The same command goes on where it is",
                    self.how.to_topic
                );
                return Err(Failure::new(Exit::Unreachable, what));
            }
            tracing::warn!(attempts, "a transaction is aborted and tried again: {what}");
            tokio::time::sleep(PAUSE * attempts).await;
            if (self.how.is_stopped)() {
                return Ok(Ended::Stopped);
            }
            progress = match self.recovered().await? {
                Some(known) => known,
                None if self.committed.transactions == 0 => begun.clone(),
                None => {
                    let what = "the committed offsets of the job's group are gone, so nobody knows how far it is: somebody has deleted them";
                    return Err(Failure::new(Exit::Stopped, what));
                }
            };
        }
    }

    /// What the job has committed, once nobody else can commit any more; `None`: nothing yet.
    ///
    /// # Errors
    /// The group does not answer, refuses, or tells of something else.
    pub async fn recovered(&self) -> Result<Option<Progress>, Failure> {
        let kept = self.target.recover().await.map_err(|trouble| self.failure(trouble))?;
        Progress::read(self.how.job, &kept).map_err(not_ours)
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        let topic = self.how.to_topic;
        match trouble {
            Trouble::Passing(what) => Failure::new(
                Exit::Unreachable,
                format!("produce to {topic}: {what}; the same command goes on where it is"),
            ),
            Trouble::Refused(what) => Failure::new(Exit::Refused, format!("produce to {topic}: {what}")),
            Trouble::Fenced(what) => Failure::new(
                Exit::Stopped,
                format!(
                    "another process has taken this job over, and goes on with it ({what}); nothing is lost or doubled"
                ),
            ),
            Trouble::Fatal(what) => Failure::new(
                Exit::Failed,
                format!(
                    "produce to {topic}: {what}; nothing is lost or doubled, and the same command goes on where it is"
                ),
            ),
        }
    }

    fn left(&self, progress: &Progress) -> Vec<Left> {
        let topic = self.how.topic;
        let of_partition = |(&partition, reached): (&i32, &super::position::Reached)| {
            let offsets = OffsetRange::new(reached.at.next, reached.end);
            (offsets.first < offsets.end).then(|| Left {
                partition: TopicPartition::new(topic, partition),
                from: reached.at,
                begin: self.how.wanted.offsets.first,
                wanted: Wanted { offsets, ..self.how.wanted.clone() },
            })
        };
        progress.reached().iter().filter_map(of_partition).collect()
    }

    async fn session(
        &mut self,
        progress: &mut Progress,
        rate: &mut Option<Rate>,
        seen: &mut dyn FnMut(&Tally),
    ) -> Result<Ended, Stop> {
        let (archive, clock) = (self.archive, self.archive.clock);
        let left = self.left(progress);
        let mut steps = steps(archive, &left);
        let mut open: Option<Open> = None;
        let mut told_ms = clock.monotonic_ms();
        loop {
            let step = match steps.next().now_or_never() {
                Some(step) => Some(step),
                None => tokio::select! {
                    step = steps.next() => Some(step),
                    () = tokio::time::sleep(TICK) => None,
                },
            };
            match step {
                None => {}
                Some(Some(step)) => self.take(step?, progress, rate, &mut open).await?,
                Some(None) => {
                    self.close(progress, &mut open).await?;
                    seen(&self.committed);
                    return Ok(Ended::Done);
                }
            }
            let now_ms = clock.monotonic_ms();
            let is_stopped = (self.how.is_stopped)();
            if is_stopped || open.as_ref().is_some_and(|open| open.is_due(now_ms)) {
                self.close(progress, &mut open).await?;
            }
            if is_stopped {
                return Ok(Ended::Stopped);
            }
            if now_ms - told_ms >= TICK.as_millis() as i64 {
                told_ms = now_ms;
                let pending = open.as_ref().map(|open| open.tally).unwrap_or_default();
                seen(&self.committed.with(&pending));
            }
        }
    }

    async fn take(
        &mut self,
        step: Step,
        progress: &mut Progress,
        rate: &mut Option<Rate>,
        open: &mut Option<Open>,
    ) -> Result<(), Stop> {
        let (partition, item, after) = match step {
            Step::Row { partition, item, after } => (partition, Some(item), after),
            Step::Passed { partition, after } => (partition, None, after),
        };
        let mut came = Tally::default();
        let record = item.and_then(|item| self.sifted(*item, &mut came));
        if let Some((record, origin)) = &record {
            if let Some(rate) = rate {
                self.wait_for(rate, progress, open).await?;
            }
            self.begin(open)?;
            let to = self.how.preserve_partitions.then_some(partition);
            self.check(record, *origin)?;
            while !self.target.put(to, record, *origin)? {
                self.target.room().await;
            }
            came.produced = 1;
            came.bytes = bytes(record);
            came.untimed = u64::from(matches!(record.timestamp, None | Some(0)));
        } else {
            self.begin(open)?;
        }
        progress.note(partition, after, record.is_some());
        if let Some(open) = open {
            open.tally = open.tally.with(&came);
        }
        Ok(())
    }

    fn begin(&self, open: &mut Option<Open>) -> Result<(), Stop> {
        if open.is_none() {
            self.target.begin()?;
            *open = Some(Open { began_ms: self.archive.clock.monotonic_ms(), tally: Tally::default() });
        }
        Ok(())
    }

    /// The record of a row, if it is one that is meant.
    fn sifted(&mut self, item: Item, came: &mut Tally) -> Option<(OwnedRecord, Origin)> {
        came.read = 1;
        let origin = (item.source.chosen.partition.partition, item.told.offset);
        let Some(untold) = self.sieve.in_range(&item) else {
            came.outside = 1;
            return None;
        };
        if !self.sieve.takes(&item, &[], untold) {
            came.filtered = 1;
            return None;
        }
        Some((record_of(item), origin))
    }

    fn check(&self, record: &OwnedRecord, (partition, offset): Origin) -> Result<(), Failure> {
        let at_ms = record.timestamp.filter(|&at_ms| at_ms != NO_TIMESTAMP);
        let problem = at_ms.and_then(|at_ms| self.how.limits.problem(at_ms, self.how.to_topic));
        let Some(problem) = problem else { return Ok(()) };
        let what = place(self.how.topic, (partition, offset));
        Err(Failure::new(
            Exit::Stopped,
            format!(
                "{what}: {problem}. What transactions before it have committed stays; the same job goes on with the rest"
            ),
        ))
    }

    /// Waits until the rate lets a record through; commits meanwhile what is due.
    async fn wait_for(
        &mut self,
        rate: &mut Rate,
        progress: &mut Progress,
        open: &mut Option<Open>,
    ) -> Result<(), Stop> {
        loop {
            let now_ms = self.archive.clock.monotonic_ms();
            let Err(wait_ms) = rate.take(now_ms) else { return Ok(()) };
            if open.as_ref().is_some_and(|open| open.is_due(now_ms)) || (self.how.is_stopped)() {
                self.close(progress, open).await?;
            }
            tokio::time::sleep(Duration::from_millis(wait_ms).min(TICK)).await;
        }
    }

    async fn close(&mut self, progress: &mut Progress, open: &mut Option<Open>) -> Result<(), Stop> {
        let Some(closing) = open.take() else { return Ok(()) };
        let kept = progress.kept().map_err(not_ours)?;
        commit_records(Effect::RestoreCommit, self.target, kept).await?;
        progress.committed();
        self.committed = self.committed.with(&closing.tally);
        self.committed.transactions += 1;
        Ok(())
    }
}

/// Which record of the archive it is, in words.
pub fn place(topic: &str, (partition, offset): Origin) -> String {
    match offset {
        Some(offset) => format!("{topic}/{partition} offset {offset}"),
        None => format!("a row of {topic}/{partition}"),
    }
}

fn not_ours(error: ProgressError) -> Failure {
    let exit = match error {
        ProgressError::TooLarge { .. } | ProgressError::Other(_) => Exit::Config,
        ProgressError::Unknown(_) | ProgressError::Partial { .. } => Exit::Stopped,
    };
    Failure::new(exit, format!("how far the job is: {error}"))
}

fn bytes(record: &OwnedRecord) -> u64 {
    let headers = record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len));
    let all = record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len);
    (all + headers.sum::<usize>()) as u64
}

impl Open {
    fn is_due(&self, now_ms: i64) -> bool {
        self.tally.read >= RECORDS_MAX || self.tally.bytes >= BYTES_MAX || now_ms - self.began_ms >= OPEN_MS
    }
}

impl Tally {
    fn with(&self, other: &Self) -> Self {
        Self {
            read: self.read + other.read,
            produced: self.produced + other.produced,
            bytes: self.bytes + other.bytes,
            outside: self.outside + other.outside,
            filtered: self.filtered + other.filtered,
            untimed: self.untimed + other.untimed,
            transactions: self.transactions + other.transactions,
        }
    }
}
