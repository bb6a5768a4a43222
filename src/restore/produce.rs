//! The loop: rows to records, records into transactions, transactions one after the other.
//!
//! # Bounds
//! A transaction is committed after [`RECORDS_MAX`] rows, [`BYTES_MAX`] bytes or [`OPEN_MS`] milliseconds, whichever comes first: a reader of
//! committed records waits no longer. It ends between two records, where rows tell their record: only one of which the rows alone are more than that, or
//! more than [`How::rate`] lets through in that time, is in several ([`super::walk`]). What fails in passing is aborted, and everything since the last commit is read again, up to
//! [`ATTEMPTS_MAX`] times without a commit in between.
//!
//! # What stops a source partition
//! Something of it that cannot be read, or a record that the target does not take. What is open then is committed, and what is left of the
//! other source partitions is read again from there. A store that does not answer ends all of it, as does whatever is Kafka's and no record's.
//!
//! # A record that is refused
//! is known only once the broker was asked: what its limits are held to is a record as it is packed, and with that of the topic's own choice. It costs the
//! transaction, and the target tells which record it is ([`super::target::Target::abort`]). So the same is read again, and the source partition stops
//! before that record, with all before it committed. Each such record costs one or two transactions.

use super::position::{Progress, Reached};
use super::rate::Rate;
use super::read::{Archive, Left, Step, Stopped, steps};
use super::stops::{Met, Stop, not_ours};
use super::tally::{Tally, bytes};
use super::target::{Handed, RefusedRecord, Target, TimeLimits, Trouble};
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
    /// Where each source partition begins and ends, as it is known now.
    pub ends: &'h BTreeMap<i32, (i64, i64)>,
    /// Each record goes where it was.
    pub preserve_partitions: bool,
    /// Records a second.
    pub rate: Option<u64>,
    /// Timestamps that may be produced.
    pub limits: TimeLimits,
    /// The largest batch that the topic takes, packed, bytes, where its settings are known. Only messages tell it: the broker decides.
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
    /// By source partition, the record that the target does not take, and why: as long as it was not met again.
    pub(super) refused: BTreeMap<i32, (Met, String)>,
}

/// A transaction that is open.
struct Open {
    began_ms: i64,
    tally: Tally,
    /// Its records, in the order in which they were handed over.
    handed: Vec<Met>,
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
            refused: BTreeMap::new(),
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
                Stop::Trouble(Trouble::Fenced(_) | Trouble::Fatal(_)) => Ok(None),
                _ => self.target.abort().await,
            };
            self.sieve.back_to(self.counted);
            let mut handed = open.map(|open| open.handed).unwrap_or_default();
            let passing = match (stop, aborted) {
                (Stop::Failure(failure), _) => return Err(failure),
                (Stop::NotTaken(met, why), Ok(_)) => {
                    self.refuse(met, why);
                    None
                }
                (Stop::Trouble(Trouble::Passing(_)), Ok(Some(RefusedRecord { number: Some(number), why })))
                    if number < handed.len() =>
                {
                    self.refuse(handed.swap_remove(number), why);
                    None
                }
                (Stop::Trouble(Trouble::Passing(_)), Ok(Some(RefusedRecord { why, .. }))) => Some(why),
                (Stop::Trouble(Trouble::Passing(what)), Ok(None)) => Some(what),
                (Stop::Trouble(Trouble::Passing(_)) | Stop::NotTaken(..), Err(trouble))
                | (Stop::Trouble(trouble), _) => return Err(self.failure(trouble)),
            };
            if let Some(what) = passing {
                attempts = if self.committed.transactions > before { 1 } else { attempts + 1 };
                if attempts >= ATTEMPTS_MAX {
                    let what = format!(
                        "produce to {}: {what}; {attempts} transactions in a row were aborted. The same command goes on where it is{}",
                        self.how.to_topic,
                        self.largest_of(&handed)
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
        let mut known = Progress::read(self.how.job, &kept).map_err(not_ours)?;
        if let Some(progress) = &mut known {
            progress.learn_ends(self.how.ends);
        }
        Ok(known)
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
                rows_max: self.rows_max(),
            })
        };
        progress.reached().iter().filter_map(of_partition).collect()
    }

    /// Most rows of a record in one transaction: as many as it takes, and as may go before it is due.
    fn rows_max(&self) -> u64 {
        let in_time = |rate: u64| rate.saturating_mul(OPEN_MS.unsigned_abs()) / 1_000;
        self.how.rate.map_or(RECORDS_MAX, in_time).clamp(1, RECORDS_MAX)
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

    /// Takes a step; gives the source partition that stops before it, and why. Its rows are in one transaction.
    async fn take(
        &mut self,
        step: Step,
        progress: &mut Progress,
        rate: &mut Option<Rate>,
        open: &mut Option<Open>,
    ) -> Result<Option<Stopped>, Stop> {
        let (partition, items, after) = match step {
            Step::Rows { partition, items, after } => (partition, items, after),
            Step::Passed { partition, after } => (partition, Vec::new(), after),
        };
        let mut came = Tally::default();
        let before = self.sieve.counted();
        let mut records = Vec::with_capacity(items.len());
        for item in items {
            let Some((record, met)) = self.sifted(item, &mut came) else { continue };
            if let Some(failure) = self.checked(&record, &met) {
                self.sieve.back_to(before);
                return Ok(Some((partition, failure)));
            }
            came.produced += 1;
            came.bytes += met.bytes;
            came.untimed += u64::from(matches!(record.timestamp, None | Some(0)));
            records.push((record, met));
        }
        // What is committed before the first of them is without them.
        let with_them = self.sieve.counted();
        self.sieve.back_to(before);
        if open.as_ref().is_some_and(|open| !open.takes(&came)) {
            self.close(progress, open).await?;
        }
        let mut is_begun = false;
        for (record, met) in records {
            if let Some(rate) = rate {
                self.wait_for(rate, progress, open, is_begun).await?;
            }
            self.begin(open)?;
            is_begun = true;
            self.hand_over(&record, met, open).await?;
        }
        self.sieve.back_to(with_them);
        self.begin(open)?;
        progress.note(partition, after, came.produced);
        if let Some(open) = open {
            open.tally = open.tally.with(&came);
        }
        Ok(None)
    }

    async fn hand_over(&self, record: &OwnedRecord, met: Met, open: &mut Option<Open>) -> Result<(), Stop> {
        let to = self.how.preserve_partitions.then_some(met.partition);
        loop {
            match self.target.put(to, record)? {
                Handed::Taken => break,
                Handed::Full => self.target.room().await,
                Handed::Never(why) => return Err(Stop::NotTaken(met, why)),
            }
        }
        if let Some(open) = open {
            open.handed.push(met);
        }
        Ok(())
    }

    fn begin(&self, open: &mut Option<Open>) -> Result<(), Stop> {
        if open.is_none() {
            self.target.begin()?;
            let began_ms = self.archive.clock.monotonic_ms();
            *open = Some(Open { began_ms, tally: Tally::default(), handed: Vec::new() });
        }
        Ok(())
    }

    /// The record of a row, if it is one that is meant.
    fn sifted(&mut self, item: Item, came: &mut Tally) -> Option<(OwnedRecord, Met)> {
        came.read += 1;
        let Some(untold) = self.sieve.in_range(&item) else {
            came.outside += 1;
            return None;
        };
        if !self.sieve.takes(&item, &[], untold) {
            came.filtered += 1;
            return None;
        }
        let (partition, source) = (item.source.chosen.partition.partition, item.source.clone());
        let (offset, row) = (item.told.offset, item.row.index);
        let record = record_of(item);
        let met = Met { partition, offset, row, bytes: bytes(&record), source };
        Some((record, met))
    }

    /// Waits until the rate lets a record through; commits meanwhile what is due, but not where rows that stay together have begun.
    async fn wait_for(
        &mut self,
        rate: &mut Rate,
        progress: &mut Progress,
        open: &mut Option<Open>,
        is_begun: bool,
    ) -> Result<(), Stop> {
        loop {
            let now_ms = self.archive.clock.monotonic_ms();
            let Err(wait_ms) = rate.take(now_ms) else { return Ok(()) };
            let is_due = open.as_ref().is_some_and(|open| open.is_due(now_ms)) || (self.how.is_stopped)();
            if is_due && !is_begun {
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
        self.reached.clone_from(progress.reached());
        *open = None;
        Ok(())
    }
}

impl Open {
    fn is_due(&self, now_ms: i64) -> bool {
        self.tally.read >= RECORDS_MAX || self.tally.bytes >= BYTES_MAX || now_ms - self.began_ms >= OPEN_MS
    }

    /// Whether there is room for that as well; there is in one that is empty.
    fn takes(&self, more: &Tally) -> bool {
        let with_it = self.tally.with(more);
        self.tally.read == 0 || (with_it.read <= RECORDS_MAX && with_it.bytes <= BYTES_MAX)
    }
}
