//! Old receipts into folds, beside everything else: looked for soon after a partition was taken over, then every hour.
//!
//! The task belongs to the assignment: it ends at its next write when the partition is taken away, and what it leaves undone its successor
//! finishes. Only where batches come as they are read: a backfill folds nothing.

use super::{Completion, Core};
use crate::bucket::folding::{Done, Rest, Task};
use crate::consume::Held;
use crate::destination::fault::Verdict;
use crate::pipeline::context::Context;
use crate::pipeline::partition::Phase;
use crate::pipeline::start::chain;

/// Most folds that are made at a time: an archive with many receipts catches up within days, and no other partition waits for long.
const FOLDS_MAX: usize = 10;

impl Core {
    /// Begins to fold where it is time.
    pub(in crate::pipeline) fn start_folds(&mut self, now_ms: i64) {
        if self.shutting_down || self.context.schedule.is_some() {
            return;
        }
        for partition in &mut self.partitions {
            let is_time = partition.phase == Phase::Running && partition.fold_at_ms.is_some_and(|at| now_ms >= at);
            let Some(committed) = partition.committed.filter(|_| is_time) else { continue };
            partition.fold_at_ms = None;
            let (context, report) = (self.context.clone(), self.report.clone());
            let (held, archive) = (partition.held.clone(), partition.archive);
            self.tasks.spawn(async move {
                let again = fold(&context, &held, archive, committed).await;
                drop(report.send(Completion::Folded { held, again }));
            });
        }
    }

    pub(super) fn folded(&mut self, held: &Held, again: bool) {
        let at_ms = self.clock.monotonic_ms() + self.context.folding.again_ms;
        if let Some(slot) = self.slot_of(held).filter(|_| again) {
            self.partitions[slot].fold_at_ms = Some(at_ms);
        }
    }
}

/// Whether it is to be looked again.
async fn fold(context: &Context, held: &Held, archive: usize, committed: i64) -> bool {
    // Closed never.
    let Ok(_turn) = context.folds.acquire().await else { return false };
    let goes_on = || context.coordinator.is_held(held);
    if !goes_on() {
        return false;
    }
    let partition = &held.partition;
    let task = Task {
        partition,
        rules: context.folding.rules,
        committed,
        folds_max: FOLDS_MAX,
        dry_run: false,
        goes_on: &goes_on,
        clock: &*context.clock,
    };
    match context.archives[archive].bucket.fold_receipts(&task).await {
        Ok(Done { folds, receipts, deleted, rest }) => {
            metrics::counter!("siltstone_folded_receipts_total").increment(receipts);
            let is_stuck = matches!(rest, Rest::Large | Rest::Job(_));
            if folds + deleted > 0 || is_stuck {
                tracing::info!(%partition, folds, receipts, deleted, rest = rest.text(), "receipts folded");
            }
            true
        }
        // Nothing depends on it; the next round goes on from there.
        Err(error) if error.verdict() == Verdict::Retry => {
            tracing::warn!(%partition, "receipts are not folded: {}; trying again in an hour", chain(&error));
            true
        }
        Err(error) => {
            tracing::warn!(
                %partition,
                "receipts are not folded, and not before the partition is taken over anew: {}.{} Everything else goes on without it",
                chain(&error),
                if error.verdict() == Verdict::Refused { " It needs the right to delete below _siltstone/receipts." } else { "" }
            );
            false
        }
    }
}
