//! Rounds of completion, beside everything else: a topic's by whoever holds its Kafka partition 0.
//!
//! The task belongs to the assignment: it ends before its next write when the partition is taken away. Only where batches come as they are read: a
//! backfill completes nothing.

use super::{Completion, Core};
use crate::complete::loads::Worker;
use crate::complete::round::Completer;
use crate::consume::Held;
use crate::exit::Failure;
use crate::load::work::TAKEN_MAX;
use crate::pipeline::context::{ArchiveContext, Context};
use crate::pipeline::partition::Phase;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// How long after a round the next one begins.
const ROUND_MS: i64 = 10_000;

impl Core {
    /// Begins a round where it is time.
    pub(in crate::pipeline) fn start_rounds(&mut self, now_ms: i64) {
        if self.shutting_down || self.context.schedule.is_some() {
            return;
        }
        for partition in &mut self.partitions {
            let is_taken = !matches!(partition.phase, Phase::TakingOver | Phase::Waiting { .. });
            if !is_taken || partition.complete_at_ms.is_none_or(|at| now_ms < at) {
                continue;
            }
            partition.complete_at_ms = None;
            let mut completer = partition.completer.take().unwrap_or_default();
            let (context, report) = (self.context.clone(), self.report.clone());
            let (held, archive) = (partition.held.clone(), partition.archive);
            self.tasks.spawn(async move {
                let work = round(&context, &held, archive, &mut completer);
                // A panic is a bug, and must not end completion without a word.
                if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                    tracing::error!(topic = %held.partition.topic, "a panic while looking for complete folders; this is a bug, nothing is lost");
                    *completer = Completer::default();
                }
                drop(report.send(Completion::RoundDone { held, completer }));
            });
        }
    }

    pub(super) fn round_done(&mut self, held: &Held, completer: Box<Completer>) {
        let at_ms = self.clock.monotonic_ms() + ROUND_MS;
        if let Some(slot) = self.slot_of(held) {
            self.partitions[slot].completer = Some(completer);
            self.partitions[slot].complete_at_ms = Some(at_ms);
        }
    }
}

async fn round(context: &Arc<Context>, held: &Held, archive: usize, completer: &mut Completer) {
    let archive = &context.archives[archive];
    let Some(complete) = &archive.complete else { return };
    let goes_on = || context.coordinator.is_held(held);
    let (outcome, failure) = completer.round(&context.seams(archive, complete, &held.partition.topic, &goes_on)).await;
    start_loads(context, held, archive, completer);
    tracing::debug!(topic = %held.partition.topic, ?outcome, "looked for complete folders");
    let labels = [("archive", archive.name.clone()), ("topic", held.partition.topic.to_string())];
    metrics::gauge!("siltstone_folders_open", &labels).set(outcome.open as f64);
    if let Some(horizon_ms) = outcome.horizon_ms.filter(|&horizon_ms| horizon_ms > i64::MIN) {
        metrics::gauge!("siltstone_complete_until_seconds", &labels).set(horizon_ms as f64 / 1000.0);
    }
    // Offsets go on without it; what was not completed is in the next round.
    let again = completer.recount_failed.clone().map(|(exit, message)| Failure::new(exit, message));
    let is_new = failure.is_some();
    let Some(failure) = failure.or(again) else {
        completer.trouble = None;
        return;
    };
    if is_new {
        metrics::counter!("siltstone_completion_failures_total", "archive" => archive.name.clone()).increment(1);
        tracing::warn!("{}; trying again in {} s", failure.message, ROUND_MS / 1000);
    }
    let trouble = completer.trouble.get_or_insert_with(|| context.health.trouble("complete folders"));
    trouble.report(&failure.message);
}

/// Lets loaders begin that have nothing to do. They go on beside the next rounds, and end with the assignment.
fn start_loads(context: &Arc<Context>, held: &Held, archive: &ArchiveContext, completer: &mut Completer) {
    let topic = &held.partition.topic;
    for (setup, folders) in completer.take_loads(&archive.loaders, context.clock.wall_ms(), TAKEN_MAX) {
        let goes_on = {
            let (context, held) = (context.clone(), held.clone());
            Arc::new(move || context.coordinator.is_held(&held))
        };
        let seams = context.load_seams(archive, topic, goes_on);
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let work = {
            let setup = setup.clone();
            async move { seams.load(&setup, folders, |one| drop(tell.send(one))).await }
        };
        completer.workers.insert(setup.id.clone(), Worker::new(tokio::spawn(work), told));
    }
    let Some(queue) = completer.loads() else { return };
    for setup in &archive.loaders {
        let labels = [("archive", archive.name.clone()), ("topic", topic.to_string()), ("loader", setup.name.clone())];
        metrics::gauge!("siltstone_loads_waiting", &labels).set(queue.len(&setup.id) as f64);
    }
    let error = queue.trouble().and_then(|waiting| waiting.error.clone());
    match error {
        None => completer.load_trouble = None,
        Some(error) => {
            let trouble = completer.load_trouble.get_or_insert_with(|| context.health.trouble("load complete folders"));
            trouble.report(&error);
        }
    }
}
