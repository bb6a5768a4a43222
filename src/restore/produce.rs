//! The loop: rows to records, records into transactions, transactions one after the other.
//!
//! # Bounds
//! A transaction is committed after [`RECORDS_MAX`] rows, [`BYTES_MAX`] bytes or [`OPEN_MS`] milliseconds, whichever comes first: a reader of
//! committed records waits no longer. What fails in passing is aborted, and everything since the last commit is read again, up to
//! [`ATTEMPTS_MAX`] times without a commit in between.
//!
//! # What stops a source partition
//! Something of it that cannot be read, or a record that the target does not take. What is open then is committed, and what is left of the
//! other source partitions is read again from there. A store that does not answer ends all of it, as does whatever is Kafka's and no record's.

use super::narrow::Narrow;
use super::position::{Progress, Reached};
use super::rate::Rate;
use super::read::{Archive, Left, Step, Stopped, steps};
use super::stops::{Met, Stop, not_ours};
use super::tally::{Tally, bytes};
use super::target::{Handed, Target, TimeLimits, Trouble};
use super::value::record_of;
use crate::effect::Effect;
use crate::effect::requests::commit_records;
use crate::exit::{Exit, Failure};
use crate::reader::merge::Item;
use crate::reader::plan::Wanted;
use crate::reader::sieve::{Counted, Sieve};
use crate::record::{OffsetRange, OwnedRecord, TopicPartition};
use futures::{FutureExt, StreamExt};
use std::collections::BTreeMap;
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

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything is restored.
    Done,
    /// Everything is restored but what is left of the source partitions that stopped: [`Restore::stopped`].
    Short,
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
    /// The largest batch that the topic takes, bytes, where its settings are known; for messages.
    pub message_bytes_max: Option<u64>,
    /// Hash of the request.
    pub job: u32,
    /// Whether it is told to stop.
    pub is_stopped: &'h dyn Fn() -> bool,
}

/// A restore on its way.
pub struct Restore<'r> {
    pub(super) how: How<'r>,
    sieve: Sieve,
    target: &'r dyn Target,
    archive: Archive<'r>,
    committed: Tally,
    /// What the sieve had counted then.
    counted: Counted,
    reached: BTreeMap<i32, Reached>,
    pub(super) stopped: BTreeMap<i32, Failure>,
    pub(super) narrow: Narrow,
}

/// A transaction that is open.
pub(super) struct Open {
    began_ms: i64,
    pub(super) tally: Tally,
    records_max: Option<u64>,
    /// Its first record.
    pub(super) first: Option<Met>,
}

/// How a session ended without trouble.
enum Session {
    Ended(Ended),
    /// A source partition has stopped, and nothing is open: the others go on.
    OneStopped,
}

impl<'r> Restore<'r> {
    /// Ready to begin, or to go on.
    pub fn new(how: How<'r>, sieve: Sieve, target: &'r dyn Target, archive: Archive<'r>) -> Self {
        Self {
            how,
            counted: sieve.counted(),
            sieve,
            target,
            archive,
            committed: Tally::default(),
            reached: BTreeMap::new(),
            stopped: BTreeMap::new(),
            narrow: Narrow::default(),
        }
    }

    /// What is committed.
    pub fn committed(&self) -> &Tally {
        &self.committed
    }

    /// How far each source partition is, as committed.
    pub fn reached(&self) -> &BTreeMap<i32, Reached> {
        &self.reached
    }

    /// The source partitions that stopped before their ends, and why.
    pub fn stopped(&self) -> &BTreeMap<i32, Failure> {
        &self.stopped
    }

    /// What rows did not tell.
    pub fn sieve(&self) -> &Sieve {
        &self.sieve
    }

    /// Produces what is left of `progress`, and tells `seen` now and then what is committed and open.
    ///
    /// # Errors
    /// What ends all source partitions; what was open then is aborted, what was committed stays and the same job goes on behind it.
    pub async fn run(&mut self, mut progress: Progress, seen: &mut dyn FnMut(&Tally)) -> Result<Ended, Failure> {
        let begun = progress.clone();
        self.reached.clone_from(progress.reached());
        let mut attempts = 0;
        let mut rate = self.how.rate.map(Rate::new);
        loop {
            let before = self.committed.transactions;
            let mut open = None;
            let stop = match self.session(&mut progress, &mut rate, &mut open, seen).await {
                Ok(Session::Ended(ended)) => return Ok(ended),
                Ok(Session::OneStopped) => continue,
                Err(stop) => stop,
            };
            // Whatever it was: nothing of the open transaction stays. Where even that fails, the coordinator aborts it, or the next
            // process does.
            let aborted = match &stop {
                Stop::Trouble(Trouble::Fenced(_) | Trouble::Fatal(_)) => Ok(()),
                _ => self.target.abort().await,
            };
            self.sieve.back_to(self.counted);
            let passing = match (stop, aborted) {
                (Stop::Failure(failure), _) => return Err(failure),
                (Stop::Trouble(Trouble::Record(why)), Ok(()) | Err(Trouble::Record(_)))
                | (Stop::Trouble(Trouble::Passing(_)), Err(Trouble::Record(why))) => {
                    self.narrow_down(open, why)?;
                    None
                }
                (Stop::Trouble(Trouble::Passing(what)), Ok(())) => Some(what),
                (Stop::Trouble(Trouble::Passing(_) | Trouble::Record(_)), Err(trouble))
                | (Stop::Trouble(trouble), _) => return Err(self.failure(trouble)),
            };
            if let Some(what) = passing {
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
            }
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

    fn left(&self, progress: &Progress) -> Vec<Left> {
        let topic = self.how.topic;
        let of_partition = |(&partition, reached): (&i32, &Reached)| {
            let offsets = OffsetRange::new(reached.at.next, reached.end);
            (offsets.first < offsets.end && !self.stopped.contains_key(&partition)).then(|| Left {
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
        open: &mut Option<Open>,
        seen: &mut dyn FnMut(&Tally),
    ) -> Result<Session, Stop> {
        let (archive, clock) = (self.archive, self.archive.clock);
        let left = self.left(progress);
        let mut steps = steps(archive, &left);
        let mut told_ms = clock.monotonic_ms();
        loop {
            let step = match steps.next().now_or_never() {
                Some(step) => Some(step),
                None => tokio::select! {
                    step = steps.next() => Some(step),
                    () = tokio::time::sleep(TICK) => None,
                },
            };
            let stops = match step {
                None => None,
                Some(Some(Ok(step))) => self.take(step, progress, rate, open).await?,
                Some(Some(Err((_, failure)))) if failure.exit == Exit::Unreachable => return Err(failure.into()),
                Some(Some(Err(unread))) => Some(unread),
                Some(None) => {
                    self.close(progress, open).await?;
                    seen(&self.committed);
                    let is_whole = self.stopped.is_empty();
                    return Ok(Session::Ended(if is_whole { Ended::Done } else { Ended::Short }));
                }
            };
            if let Some((partition, failure)) = stops {
                // Only now is all before it committed.
                self.close(progress, open).await?;
                self.stop(partition, failure);
                return Ok(Session::OneStopped);
            }
            let now_ms = clock.monotonic_ms();
            let is_stopped = (self.how.is_stopped)();
            if is_stopped || open.as_ref().is_some_and(|open| open.is_due(now_ms)) {
                self.close(progress, open).await?;
            }
            if is_stopped {
                return Ok(Session::Ended(Ended::Stopped));
            }
            if now_ms - told_ms >= TICK.as_millis() as i64 {
                told_ms = now_ms;
                let pending = open.as_ref().map(|open| open.tally).unwrap_or_default();
                seen(&self.committed.with(&pending));
            }
        }
    }

    /// Takes a step; gives the source partition that stops before it, and why.
    async fn take(
        &mut self,
        step: Step,
        progress: &mut Progress,
        rate: &mut Option<Rate>,
        open: &mut Option<Open>,
    ) -> Result<Option<Stopped>, Stop> {
        let (partition, item, after) = match step {
            Step::Row { partition, item, after } => (partition, Some(item), after),
            Step::Passed { partition, after } => (partition, None, after),
        };
        let mut came = Tally::default();
        let before = self.sieve.counted();
        let record = item.and_then(|item| self.sifted(*item, &mut came));
        if let Some((record, mut met)) = record {
            met.bytes = bytes(&record);
            if let Some(failure) = self.checked(&record, &met) {
                self.sieve.back_to(before);
                return Ok(Some((partition, failure)));
            }
            if let Some(rate) = rate {
                // What it commits meanwhile is without this row.
                let with_it = self.sieve.counted();
                self.sieve.back_to(before);
                self.wait_for(rate, progress, open).await?;
                self.sieve.back_to(with_it);
            }
            self.begin(open)?;
            let to = self.how.preserve_partitions.then_some(partition);
            loop {
                match self.target.put(to, &record)? {
                    Handed::Taken => break,
                    Handed::Full => self.target.room().await,
                    Handed::Never(why) => {
                        self.sieve.back_to(before);
                        return Ok(Some((partition, self.not_taken(&met, &why))));
                    }
                }
            }
            came.produced = 1;
            came.bytes = met.bytes;
            came.untimed = u64::from(matches!(record.timestamp, None | Some(0)));
            progress.note(partition, after, true);
            if let Some(open) = open {
                open.first.get_or_insert(met);
            }
        } else {
            self.begin(open)?;
            progress.note(partition, after, false);
        }
        if let Some(open) = open {
            open.tally = open.tally.with(&came);
        }
        Ok(None)
    }

    fn begin(&self, open: &mut Option<Open>) -> Result<(), Stop> {
        if open.is_none() {
            self.target.begin()?;
            *open = Some(Open {
                began_ms: self.archive.clock.monotonic_ms(),
                tally: Tally::default(),
                records_max: self.narrow.records_max(),
                first: None,
            });
        }
        Ok(())
    }

    /// The record of a row, if it is one that is meant.
    fn sifted(&mut self, item: Item, came: &mut Tally) -> Option<(OwnedRecord, Met)> {
        came.read = 1;
        let Some(untold) = self.sieve.in_range(&item) else {
            came.outside = 1;
            return None;
        };
        if !self.sieve.takes(&item, &[], untold) {
            came.filtered = 1;
            return None;
        }
        let (partition, source) = (item.source.chosen.partition.partition, item.source.clone());
        let met = Met { partition, offset: item.told.offset, bytes: 0, source };
        Some((record_of(item), met))
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
        let Some(closing) = open else { return Ok(()) };
        let kept = progress.kept().map_err(not_ours)?;
        commit_records(Effect::RestoreCommit, self.target, kept).await?;
        progress.committed();
        self.committed = self.committed.with(&closing.tally);
        self.committed.transactions += 1;
        self.counted = self.sieve.counted();
        self.narrow.committed(closing.tally.produced);
        self.reached.clone_from(progress.reached());
        *open = None;
        Ok(())
    }
}

impl Open {
    fn is_due(&self, now_ms: i64) -> bool {
        self.records_max.is_some_and(|most| self.tally.produced >= most)
            || self.tally.read >= RECORDS_MAX
            || self.tally.bytes >= BYTES_MAX
            || now_ms - self.began_ms >= OPEN_MS
    }
}
