//! Telling hooks of receipts: a Kafka partition's one after the other, from where the hook was told last up to what is committed.

use super::{Hook, HookFailure, Kind, batch_body, batch_key};
use crate::bucket::Bucket;
use crate::bucket::hooks::{HOOK_CURSOR_VERSION, HookCursor};
use crate::bucket::receipt::Receipt;
use crate::clock::Clock;
use crate::destination::fault::Verdict;
use crate::exit::{Exit, Failure};
use crate::ledger::receipts_from;
use crate::load::queue::{ERROR_CHARS_MAX, pause_ms};
use crate::pipeline::start::patiently;
use crate::record::TopicPartition;
use crate::telemetry::health::Trouble;
use futures::TryStreamExt;
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;

/// Receipts of a round: then another Kafka partition has its turn.
pub const ROUND_MAX: u64 = 200;
/// How long a hook's place is not written while it is being told, milliseconds: what was told since is told again by whoever comes next.
const SAVE_MS: i64 = 5_000;
/// How long a takeover waits at most until it is written where hooks begin.
pub const BEGIN_WAIT: Duration = Duration::from_secs(10);

/// What a round works with.
pub struct Seams<'a> {
    /// Receipts and cursors.
    pub bucket: &'a Bucket,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Asked before each call.
    pub goes_on: &'a (dyn Fn() -> bool + Sync),
    /// Name of the archive.
    pub archive: &'a str,
    /// Whose receipts.
    pub partition: &'a TopicPartition,
    /// Receipts below this offset are told.
    pub committed: i64,
    /// Where a hook begins that was never told of this partition.
    pub begin: i64,
}

/// What became of a round.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Receipts that were told.
    pub told: u64,
    /// There are more to be told now.
    pub has_more: bool,
    /// When it is to be tried again, monotonic milliseconds.
    pub again_ms: Option<i64>,
    /// Why the next receipt is not told.
    pub failure: Option<HookFailure>,
}

/// How far a hook is in a Kafka partition, between rounds. Forgotten with the assignment.
#[derive(Default)]
pub struct Follower {
    /// All receipts below it were told; `None` before it was read.
    through: Option<i64>,
    /// What the bucket says: how far, and what was wrong.
    saved: Option<(i64, Option<String>)>,
    /// When that was written, monotonic milliseconds.
    saved_ms: i64,
    tries: u32,
    not_before_ms: i64,
    /// Why the next one was not told.
    error: Option<String>,
    /// What health says of it.
    pub trouble: Option<Trouble>,
    behind: Option<Behind>,
}

/// A line in the gauge, as long as it lives.
struct Behind {
    hook: Arc<Hook>,
    partition: TopicPartition,
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.hook.is_behind(&self.partition, None);
    }
}

impl Follower {
    /// How far it is; `None` before it was asked.
    pub fn through(&self) -> Option<i64> {
        self.through
    }

    /// Why the next receipt was not told when that was tried last.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Tells `hook` of receipts that it was not told of.
    pub async fn round(&mut self, hook: &Arc<Hook>, seams: &Seams<'_>) -> Outcome {
        let turn = hook.turn(seams.partition);
        let _turn = turn.lock().await;
        let mut outcome = Outcome::default();
        self.note_behind(hook, seams);
        if seams.clock.monotonic_ms() < self.not_before_ms {
            outcome.again_ms = Some(self.not_before_ms);
            return outcome;
        }
        let result = match self.begun(hook, seams).await {
            Ok(through) => {
                self.note_behind(hook, seams);
                if through >= seams.committed || !(seams.goes_on)() {
                    return outcome;
                }
                let _room = hook.enter().await;
                self.tell(hook, seams, &mut outcome).await
            }
            Err(failure) => Err(failure),
        };
        self.note_behind(hook, seams);
        match result {
            Ok(()) => (self.tries, self.not_before_ms, self.error) = (0, 0, None),
            Err(failure) => self.failed(hook, seams, failure, &mut outcome),
        }
        if let Err(failure) = self.save(hook, seams, true).await
            && outcome.failure.is_none()
        {
            self.failed(hook, seams, failure, &mut outcome);
        }
        outcome
    }

    fn failed(&mut self, hook: &Hook, seams: &Seams<'_>, failure: HookFailure, outcome: &mut Outcome) {
        let HookFailure { message, verdict } = failure;
        let pause_ms = pause_ms(self.tries);
        self.tries = self.tries.saturating_add(1);
        self.not_before_ms = seams.clock.monotonic_ms().saturating_add(pause_ms);
        let error: String = message.chars().take(ERROR_CHARS_MAX).collect();
        let message = format!("{}: {message}", what(hook, seams));
        if self.error.as_ref() != Some(&error) {
            match verdict {
                Verdict::Retry => tracing::warn!("{message}; trying again"),
                Verdict::Refused | Verdict::Stop => tracing::error!("{message}; trying again, slowly"),
            }
        }
        self.error = Some(error);
        outcome.has_more = false;
        outcome.again_ms = Some(self.not_before_ms);
        outcome.failure = Some(HookFailure { message, verdict });
    }

    fn note_behind(&mut self, hook: &Arc<Hook>, seams: &Seams<'_>) {
        let Some(through) = self.through else { return };
        let of = || Behind { hook: hook.clone(), partition: seams.partition.clone() };
        let Behind { hook, partition } = &*self.behind.get_or_insert_with(of);
        hook.is_behind(partition, Some(seams.committed.saturating_sub(through).max(0)));
    }

    /// Where it is. A hook that was never told begins at `begin`.
    async fn begun(&mut self, hook: &Hook, seams: &Seams<'_>) -> Result<i64, HookFailure> {
        if let Some(through) = self.through {
            return Ok(through);
        }
        let begins = cursor(hook, seams, seams.begin, None);
        let begun = patiently(seams.clock, "read how far it was told", || seams.bucket.begin_hook(&begins)).await;
        let begun = begun.map_err(of_store)?;
        self.through = Some(begun.through);
        self.saved = Some((begun.through, begun.error));
        self.saved_ms = seams.clock.monotonic_ms();
        Ok(begun.through)
    }

    /// Tells what is committed, [`ROUND_MAX`] receipts at most.
    async fn tell(&mut self, hook: &Hook, seams: &Seams<'_>, outcome: &mut Outcome) -> Result<(), HookFailure> {
        // Batches follow each other, so the next one is where the last one ended, and no listing is needed.
        while let Some(from) = self.through.filter(|&from| from < seams.committed) {
            if !self.goes_on(seams, outcome) {
                return Ok(());
            }
            let read = || seams.bucket.get_receipt(seams.partition, from);
            let receipt = patiently(seams.clock, "read a receipt", read).await.map_err(of_store)?;
            let Some(receipt) = receipt.filter(|receipt| receipt.end > from) else { break };
            if receipt.end > seams.committed {
                return Ok(());
            }
            self.one(hook, seams, &receipt, outcome).await?;
        }
        let Some(from) = self.through.filter(|&from| from < seams.committed) else { return Ok(()) };
        let mut receipts = receipts_from(seams.bucket, seams.partition, seams.clock, from).await.map_err(of_store)?;
        while let Some(receipt) = receipts.try_next().await.map_err(of_store)? {
            if self.through.is_some_and(|through| receipt.end <= through) {
                continue;
            }
            if receipt.end > seams.committed || !self.goes_on(seams, outcome) {
                return Ok(());
            }
            self.one(hook, seams, &receipt, outcome).await?;
        }
        // Nothing vouches for what is left: it was not archived here.
        self.through = self.through.max(Some(seams.committed));
        Ok(())
    }

    /// Whether another receipt may be told in this round.
    fn goes_on(&self, seams: &Seams<'_>, outcome: &mut Outcome) -> bool {
        if !(seams.goes_on)() {
            return false;
        }
        outcome.has_more = outcome.told >= ROUND_MAX;
        !outcome.has_more
    }

    async fn one(
        &mut self,
        hook: &Hook,
        seams: &Seams<'_>,
        receipt: &Receipt,
        outcome: &mut Outcome,
    ) -> Result<(), HookFailure> {
        let key = batch_key(seams.bucket.destination().id(), receipt);
        let body = batch_body(&key, receipt);
        hook.call(Kind::Batch, &key, &body).await.map_err(|HookFailure { message, verdict }| {
            let message = format!("offsets {} to {}: {message}", receipt.first, receipt.end);
            HookFailure { message, verdict }
        })?;
        tracing::debug!(hook = hook.name, partition = %seams.partition, first = receipt.first, end = receipt.end, key, "batch told");
        self.through = self.through.max(Some(receipt.end));
        (self.tries, self.error) = (0, None);
        outcome.told += 1;
        self.save(hook, seams, false).await
    }

    /// Writes how far it is, if that is new: at once, or where it was not for a while.
    async fn save(&mut self, hook: &Hook, seams: &Seams<'_>, at_once: bool) -> Result<(), HookFailure> {
        let Some(through) = self.through else { return Ok(()) };
        let now_ms = seams.clock.monotonic_ms();
        let is_new = self.saved.as_ref().is_none_or(|(saved, error)| (*saved, error) != (through, &self.error));
        if !is_new || !(at_once || now_ms >= self.saved_ms.saturating_add(SAVE_MS)) {
            return Ok(());
        }
        let what = "write how far it was told";
        // It may be another process's now, which is further perhaps.
        if !(seams.goes_on)() {
            let read = || seams.bucket.hook_cursor(&hook.name, seams.partition);
            let stored = patiently(seams.clock, what, read).await.map_err(of_store)?;
            if stored.is_some_and(|stored| stored.through >= through) {
                return Ok(());
            }
        }
        let cursor = cursor(hook, seams, through, self.error.clone());
        patiently(seams.clock, what, || seams.bucket.put_hook_cursor(&cursor)).await.map_err(of_store)?;
        self.saved = Some((through, cursor.error));
        self.saved_ms = now_ms;
        Ok(())
    }
}

fn what(hook: &Hook, seams: &Seams<'_>) -> String {
    format!("archive {}, {}: tell hook {} of receipts", seams.archive, seams.partition, hook.name)
}

fn cursor(hook: &Hook, seams: &Seams<'_>, through: i64, error: Option<String>) -> HookCursor {
    HookCursor {
        version: HOOK_CURSOR_VERSION,
        hook: hook.name.clone(),
        archive: seams.archive.to_string(),
        generation: seams.bucket.generation(),
        topic: seams.partition.topic.to_string(),
        partition: seams.partition.partition,
        through,
        written_ms: seams.clock.wall_ms(),
        error,
    }
}

fn of_store(failure: Failure) -> HookFailure {
    match failure.exit {
        Exit::Unreachable => HookFailure::passing(failure.message),
        _ => HookFailure::refused(failure.message),
    }
}

/// Sees to it that each of `hooks` has a place in the bucket from which it is told of a Kafka partition that was just taken over: `committed`, unless it was
/// told before. Waits [`BEGIN_WAIT`] at most: what is not written then is written later, as far as this process lives (H-4).
pub async fn begin(hooks: &[Arc<Hook>], seams: &Seams<'_>) {
    let begun = hooks.iter().filter(|hook| hook.on_batch).map(|hook| async move {
        let begins = cursor(hook, seams, seams.begin, None);
        let begun = patiently(seams.clock, &what(hook, seams), || seams.bucket.begin_hook(&begins)).await;
        if let Err(failure) = begun {
            tracing::warn!("{}; the partition begins without it, and it is tried again", failure.message);
        }
    });
    if tokio::time::timeout(BEGIN_WAIT, join_all(begun)).await.is_err() {
        let partition = seams.partition;
        tracing::warn!(%partition, "no answer for {} s to where hooks begin; the partition begins without it, and it is tried again", BEGIN_WAIT.as_secs());
    }
}

/// Tells `hook` of all that is committed of a Kafka partition.
///
/// # Errors
/// Something was not told; the next run tells it.
pub async fn tell_all(hook: &Arc<Hook>, seams: &Seams<'_>) -> Result<(), Failure> {
    let mut follower = Follower::default();
    loop {
        let outcome = follower.round(hook, seams).await;
        if let Some(HookFailure { message, verdict }) = outcome.failure {
            let exit = if verdict == Verdict::Retry { Exit::Unreachable } else { Exit::Refused };
            return Err(Failure::new(exit, message));
        }
        if !outcome.has_more || !(seams.goes_on)() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
