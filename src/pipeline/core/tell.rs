//! Hooks that are told of receipts, beside everything else: soon after each commit, and again after a pause where that fails.
//!
//! A task for each hook and Kafka partition, one at a time; so one that hangs holds up no other one, and nothing else. It belongs to the assignment: it ends before its
//! next call when the partition is taken away. Only where batches come as they are read: what a backfill archives is not told.

use super::{Completion, Core};
use crate::consume::Held;
use crate::hook::Hook;
use crate::hook::follow::{Follower, Seams};
use crate::pipeline::context::Context;
use crate::pipeline::partition::{Partition, Phase, Telling};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// How long after a round the next one begins, where there is something new.
const ROUND_MS: i64 = 2_000;

impl Core {
    /// Hooks of a partition that was just taken over, and is committed up to `first`.
    pub(super) fn tells(&mut self, slot: usize, first: i64) {
        let partition = &mut self.partitions[slot];
        let hooks = &self.context.archives[partition.archive].hooks;
        if partition.telling.is_empty() && self.context.schedule.is_none() {
            let telling = hooks.iter().filter(|hook| hook.on_batch).map(|hook| Telling::new(hook.clone(), first));
            partition.telling = telling.collect();
        }
    }

    /// Begins to tell where there is something new, or where it is time to try again.
    pub(in crate::pipeline) fn start_telling(&mut self, now_ms: i64) {
        if self.shutting_down {
            return;
        }
        for partition in &mut self.partitions {
            let Partition { telling, phase, committed, held, archive, .. } = partition;
            let is_taken = !matches!(phase, Phase::TakingOver | Phase::Waiting { .. });
            let Some(committed) = committed.filter(|_| is_taken && !telling.is_empty()) else { continue };
            for (number, telling) in telling.iter_mut().enumerate() {
                let is_new = telling.seen != Some(committed) && now_ms >= telling.not_before_ms;
                if telling.is_running || !(is_new || telling.again_ms.is_some_and(|at| now_ms >= at)) {
                    continue;
                }
                (telling.is_running, telling.seen, telling.again_ms) = (true, Some(committed), None);
                let (hook, begin) = (telling.hook.clone(), telling.begin);
                let mut follower = telling.follower.take().unwrap_or_default();
                let (context, report, held) = (self.context.clone(), self.report.clone(), held.clone());
                let archive = *archive;
                self.tasks.spawn(async move {
                    let work = round(&context, &held, archive, &hook, (begin, committed), &mut follower);
                    let again_ms = AssertUnwindSafe(work).catch_unwind().await;
                    // A panic is a bug, and must not end it without a word.
                    let again_ms = again_ms.unwrap_or_else(|_| {
                        tracing::error!(partition = %held.partition, hook = hook.name, "a panic while telling a hook; this is a bug, nothing is lost");
                        *follower = Follower::default();
                        Some(context.clock.monotonic_ms() + PANIC_MS)
                    });
                    drop(report.send(Completion::Told { held, number, follower, again_ms }));
                });
            }
        }
    }

    pub(super) fn told(&mut self, held: &Held, number: usize, follower: Box<Follower>, again_ms: Option<i64>) {
        let not_before_ms = self.clock.monotonic_ms() + ROUND_MS;
        let Some(slot) = self.slot_of(held) else { return };
        let Some(telling) = self.partitions[slot].telling.get_mut(number) else { return };
        telling.follower = Some(follower);
        (telling.is_running, telling.not_before_ms, telling.again_ms) = (false, not_before_ms, again_ms);
    }
}

/// How long after a panic it is tried again.
const PANIC_MS: i64 = 60_000;

/// When it is to be tried again.
async fn round(
    context: &Arc<Context>,
    held: &Held,
    archive: usize,
    hook: &Arc<Hook>,
    (begin, committed): (i64, i64),
    follower: &mut Follower,
) -> Option<i64> {
    let archive = &context.archives[archive];
    let goes_on = || context.coordinator.is_held(held);
    let seams = Seams { begin, ..context.tell_seams(archive, &held.partition, committed, &goes_on) };
    let outcome = follower.round(hook, &seams).await;
    // While it waits for the time of the next try, the trouble stays.
    match (&outcome.failure, follower.error()) {
        (Some(failure), _) => {
            let what = || context.health.trouble("tell a hook of receipts");
            let trouble = follower.trouble.get_or_insert_with(what);
            trouble.report(&failure.message);
        }
        (None, None) => follower.trouble = None,
        (None, Some(_)) => {}
    }
    if outcome.has_more { Some(context.clock.monotonic_ms()) } else { outcome.again_ms }
}
