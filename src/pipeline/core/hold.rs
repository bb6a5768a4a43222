//! From assigned to reading, and back: takeover, start, and what happens to a partition that cannot go on.

use super::{Completion, Core, Request};
use crate::consume::{Committed, Held};
use crate::hook::follow::begin;
use crate::pipeline::context::{Context, Halt};
use crate::pipeline::partition::{Partition, Phase};
use crate::pipeline::takeover::{self, Takeover, scheduled};
use crate::planted::{Bug, has};
use crate::record::TopicPartition;
use futures::FutureExt;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// How long a partition waits after a local failure.
const LOCAL_RETRY_MS: i64 = 5_000;
/// Pause before a partition that had to wait for others looks whether it may begin.
const PARALLEL_RETRY_MS: i64 = 500;
/// Pause before asking the source again to start a partition.
const START_RETRY_MS: i64 = 200;

impl Core {
    /// Starts the takeover of partitions just held: one read of their offsets, then each on its own.
    pub(in crate::pipeline) fn begin_takeover(&mut self, held: Vec<Held>) {
        let held = self.within_schedule(held);
        if held.is_empty() {
            return;
        }
        let context = self.context.clone();
        let report = self.report.clone();
        let archives: Vec<(Held, usize)> = held
            .into_iter()
            .filter_map(|held| {
                let slot = self.slot_of(&held)?;
                Some((held, self.partitions[slot].archive))
            })
            .collect();
        self.tasks.spawn(takeover_all(context, archives, report));
    }

    /// Those that may begin now, where a schedule bounds how many do at the same time; the others wait.
    fn within_schedule(&mut self, mut held: Vec<Held>) -> Vec<Held> {
        let Some(schedule) = &self.context.schedule else { return held };
        let busy = |partition: &&Partition| {
            // One that has no more records to infer a schema from would keep out those that have.
            let samples_in_vain = matches!(partition.phase, Phase::Sampling { caught_up: true, .. });
            let is_idle = matches!(partition.phase, Phase::Drained | Phase::Waiting { .. } | Phase::Stopped(_));
            !is_idle && !samples_in_vain && !held.contains(&partition.held)
        };
        let room = schedule.parallel().saturating_sub(self.partitions.iter().filter(busy).count());
        let not_before_ms = self.clock.monotonic_ms() + PARALLEL_RETRY_MS;
        for later in held.split_off(room.min(held.len())) {
            if let Some(slot) = self.slot_of(&later) {
                self.partitions[slot].phase = Phase::Waiting { not_before_ms };
            }
        }
        held
    }

    pub(super) fn taken_over(&mut self, held: &Held, result: Result<Takeover, Halt>) {
        if let Err(Halt::Rejoin(reason)) = &result {
            return self.rejoin(held, reason);
        }
        let Some(slot) = self.slot_of(held).filter(|&slot| self.partitions[slot].phase == Phase::TakingOver) else {
            return;
        };
        let takeover = match result {
            Ok(takeover) => takeover,
            // Another partition of the same round was taken away; this one is still ours.
            Err(Halt::NotHeld) => {
                self.partitions[slot].phase =
                    Phase::Waiting { not_before_ms: self.clock.monotonic_ms() + START_RETRY_MS };
                return;
            }
            Err(halt) => return self.halted(slot, halt),
        };
        let archive = self.partitions[slot].archive;
        let sampling = takeover.redo.is_none() && self.context.archives[archive].compiled.get().is_none();
        let not_before_ms = self.clock.monotonic_ms();
        self.tells(slot, takeover.first);
        let partition = &mut self.partitions[slot];
        // Whatever is open was not begun by what this takeover found.
        partition.open = None;
        partition.next = takeover.first;
        partition.read_from = takeover.read_from;
        partition.committed = Some(takeover.first);
        self.lag_unknown = true;
        partition.watermark_ms = takeover.watermark_ms;
        partition.watermark_committed_ms = takeover.watermark_ms;
        partition.previous_first = takeover.previous_first;
        partition.topic_id = takeover.topic_id;
        partition.at_target = takeover.at_target;
        partition.redo = takeover.redo.filter(|_| !has(Bug::RedoCutsAnew));
        partition.stretch = takeover.stretch;
        partition.fold_at_ms = Some(not_before_ms + self.context.folding.first_ms);
        let completes = held.partition.partition == 0 && self.context.archives[archive].complete.is_some();
        partition.complete_at_ms = completes.then_some(not_before_ms);
        tracing::info!(partition = %held.partition, first = takeover.first, "partition taken over");
        // What appeared after `--drain` had looked is not its business.
        if self.drain_to.as_ref().is_some_and(|to| !to.contains_key(&held.partition)) && partition.redo.is_none() {
            return self.drained_without_batch(slot);
        }
        let partition = &mut self.partitions[slot];
        if self.context.schedule.is_some() && partition.stretch.is_none() && partition.redo.is_none() {
            return self.drained_without_batch(slot);
        }
        if sampling {
            return self.sample(slot);
        }
        partition.phase = Phase::Starting { not_before_ms };
        self.cover_absent(slot);
        self.requests.push(Request::StartAt(held.clone()));
    }

    /// Covers what Kafka deleted before it was read, if anything, without waiting for a record.
    pub(super) fn cover_absent(&mut self, slot: usize) {
        let partition = &self.partitions[slot];
        if partition.read_from > partition.next && self.ensure_open(slot) {
            self.seal_if_end_reached(slot);
        }
    }

    pub(super) fn halted(&mut self, slot: usize, halt: Halt) {
        match halt {
            // What is not held any more and not yet taken away must not count as drained: the batch was thrown away.
            Halt::NotHeld if self.partitions[slot].phase == Phase::Drained => self.take_over_again(slot),
            Halt::NotHeld => {}
            Halt::Rejoin(reason) => {
                let held = self.partitions[slot].held.clone();
                self.rejoin(&held, &reason);
            }
            Halt::Local(reason) => self.local_failure(slot, &reason),
            Halt::Stop(reason) => {
                let partition = &self.partitions[slot].held.partition;
                tracing::error!(%partition, "partition stopped: {reason}");
                self.context.health.stopped(partition, &reason);
                self.drop_state(slot, Phase::Stopped(reason));
            }
        }
    }

    /// Throws away what is open, and what is sealed but not on its way yet; the partition then waits in `phase`.
    fn drop_state(&mut self, slot: usize, phase: Phase) {
        let partition = &mut self.partitions[slot];
        self.dropped_work |= self.shutting_down && !partition.is_idle();
        partition.reset();
        partition.phase = phase;
        partition.paused = true;
        self.requests.push(Request::Pause(partition.held.clone()));
    }

    /// A local failure (disk, encoder): the batch is thrown away and read again.
    pub(super) fn local_failure(&mut self, slot: usize, what: &str) {
        let not_before_ms = self.clock.monotonic_ms() + LOCAL_RETRY_MS;
        let partition = &self.partitions[slot];
        tracing::error!(partition = %partition.held.partition, "the spool failed: {what}; the batch will be read again");
        metrics::counter!("siltstone_spool_failures_total").increment(1);
        self.context.health.spool_failed(what);
        self.drop_state(slot, Phase::Waiting { not_before_ms });
    }

    /// Drops the partition's state and takes it over anew, once a batch that is still on its way has come to its end: what it
    /// commits must not come after what the takeover reads.
    pub(super) fn take_over_again(&mut self, slot: usize) {
        let not_before_ms = self.clock.monotonic_ms();
        self.drop_state(slot, Phase::Waiting { not_before_ms });
    }

    /// Called by the driver when the source has started (or refused to start) a partition.
    pub(in crate::pipeline) fn started(&mut self, held: &Held, result: Result<(), String>) {
        let not_before_ms = self.clock.monotonic_ms() + START_RETRY_MS;
        let Some(slot) = self.slot_of(held) else { return };
        let partition = &mut self.partitions[slot];
        match result {
            Ok(()) => {
                // A batch that is due takes nothing more before the one before it is done.
                partition.paused = partition.due.is_some();
                if partition.paused {
                    self.requests.push(Request::Pause(held.clone()));
                }
                if let Phase::Starting { .. } = partition.phase {
                    partition.phase = Phase::Running;
                }
                self.seal_if_end_reached(slot);
            }
            Err(reason) => {
                tracing::debug!(partition = %held.partition, reason, "the source cannot start the partition yet");
                if let Phase::Starting { .. } = partition.phase {
                    partition.phase = Phase::Starting { not_before_ms };
                } else {
                    self.requests.push(Request::StartAt(held.clone()));
                }
            }
        }
    }

    /// Where the source must start a partition now; `None` where that is moot.
    pub(in crate::pipeline) fn start_offset(&mut self, held: &Held) -> Option<i64> {
        let slot = self.slot_of(held)?;
        let partition = &self.partitions[slot];
        match partition.phase {
            Phase::Starting { .. } | Phase::Sampling { .. } => Some(partition.read_from.max(partition.next)),
            _ => None,
        }
    }
}

/// Reads the offsets of all partitions at once, then takes each over on its own: one that waits for its store holds up no other.
async fn takeover_all(context: Arc<Context>, held: Vec<(Held, usize)>, report: UnboundedSender<Completion>) {
    let partitions = held.iter().map(|(held, _)| held.partition.clone()).collect();
    // What fails here is asked again for each on its own.
    let read = context.coordinator.committed(partitions).await.unwrap_or_default();
    let mut found: BTreeMap<TopicPartition, Option<Committed>> = read.into_iter().collect();
    for (held, archive) in held {
        let committed = found.remove(&held.partition);
        let (context, report) = (context.clone(), report.clone());
        tokio::spawn(async move {
            let takeover = take_over(&context, archive, &held, committed);
            let result = halting_on_panic(takeover, "take a partition over").await;
            drop(report.send(Completion::TakenOver { held, result }));
        });
    }
}

async fn take_over(
    context: &Context,
    archive: usize,
    held: &Held,
    committed: Option<Option<Committed>>,
) -> Result<Takeover, Halt> {
    let committed = match committed {
        Some(committed) => committed,
        None => takeover::committed_of(context, held).await?,
    };
    let archive = &context.archives[archive];
    match &context.schedule {
        Some(schedule) => scheduled::take_over(context, archive, schedule, held, committed).await,
        None => {
            let takeover = takeover::take_over(context, archive, held, committed).await?;
            // Before the first batch is committed: whoever comes next knows from where on hooks are to be told.
            if !archive.hooks.is_empty() {
                let goes_on = || context.coordinator.is_held(held);
                begin(&archive.hooks, &context.tell_seams(archive, &held.partition, takeover.first, &goes_on)).await;
            }
            Ok(takeover)
        }
    }
}

/// A panic is a bug, and must not leave its partition waiting for ever without a word.
pub(super) async fn halting_on_panic<T>(work: impl Future<Output = Result<T, Halt>>, what: &str) -> Result<T, Halt> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(_) => Err(Halt::Stop(format!("a panic while trying to {what}; this is a bug, nothing is lost"))),
    }
}
