//! What happens when the log no longer has the position: retention was faster, or the log is another one.
//!
//! Records that were read already are in the open batch and stay there: only what was never read is absent.

use super::{Completion, Core, Request};
use crate::batch::rotation::SealReason;
use crate::consume::{Held, LogBounds};
use crate::pipeline::context::Halt;
use crate::pipeline::open_batch::OpenBatch;
use crate::pipeline::partition::{Partition, Phase};
use crate::pipeline::takeover;
use crate::record::OffsetRange;

impl Core {
    /// Asks where the log begins and ends now.
    pub(super) fn ask_bounds(&mut self, slot: usize) {
        let partition = &mut self.partitions[slot];
        partition.phase = Phase::OutOfRange;
        let held = partition.held.clone();
        let (context, report) = (self.context.clone(), self.report.clone());
        self.tasks.spawn(async move {
            let result = takeover::log_bounds(&context, &held).await;
            drop(report.send(Completion::OutOfRange { held, result }));
        });
    }

    pub(super) fn bounds_known(&mut self, held: &Held, result: Result<LogBounds, Halt>) {
        let Some(slot) = self.slot_of(held).filter(|&slot| self.partitions[slot].phase == Phase::OutOfRange) else {
            return;
        };
        let bounds = match result {
            Ok(bounds) => bounds,
            Err(halt) => return self.halted(slot, halt),
        };
        let partition = &mut self.partitions[slot];
        // The log ends before what was read: it was truncated, or made anew. The takeover finds out which.
        if bounds.end < partition.next {
            return self.take_over_again(slot);
        }
        let gap = OffsetRange::new(partition.next, bounds.start.max(partition.next));
        partition.phase = Phase::Starting { not_before_ms: self.clock.monotonic_ms() };
        partition.read_from = gap.end;
        if gap.first == gap.end {
            return self.requests.push(Request::StartAt(held.clone()));
        }
        if self.context.archives[partition.archive].halt_on_gap {
            return self.finish_before_gap(slot);
        }
        // A receipt that is there names its objects, and stays.
        let is_vouched = partition.redo.as_ref().is_some_and(|redo| redo.earlier.vouched.is_some());
        let schedule = self.context.schedule.as_ref().filter(|_| !is_vouched);
        if let Some(kept) = schedule.and_then(|schedule| schedule.kept_of(&held.partition, gap)) {
            // What was read is archived first: Kafka may have it no more. Then the takeover stops the partition and says why.
            let in_hand = self.end_of_open(slot);
            if in_hand.is_none_or(|end| kept.first < end) {
                return self.finish_before_gap(slot);
            }
            let partition = &mut self.partitions[slot];
            partition.stretch = partition.stretch.map(|stretch| stretch.up_to(in_hand.unwrap_or(i64::MAX)));
        }
        self.bridge(slot, gap);
        self.requests.push(Request::StartAt(held.clone()));
    }

    /// Counts the gap in the batch that is open, or in the next one.
    fn bridge(&mut self, slot: usize, gap: OffsetRange) {
        let partition = &mut self.partitions[slot];
        let Some(open) = &mut partition.open else { return self.cover_absent(slot) };
        let end = open.planned_end.map_or(gap.end, |planned| gap.end.min(planned));
        if end > gap.first {
            open.absent(&partition.held.partition, OffsetRange::new(gap.first, end));
            partition.next = end;
        }
        self.seal_if_end_reached(slot);
    }

    /// `on_gap = "halt"`, or nobody may say that the gap is absent: what was read is archived first; then the takeover stops the partition and says why.
    fn finish_before_gap(&mut self, slot: usize) {
        let is_one_batch = |partition: &Partition, open: &OpenBatch| {
            let schedule = self.context.schedule.as_ref();
            schedule.is_some_and(|schedule| schedule.batch_at(&partition.held.partition, open.first).is_some())
        };
        let partition = &self.partitions[slot];
        // A redo cannot reach its end any more, nor what is to be one batch again: cut otherwise its rows would be there twice.
        let is_whole =
            partition.redo.is_some() || partition.open.as_ref().is_some_and(|open| is_one_batch(partition, open));
        if is_whole || partition.is_idle() {
            return self.take_over_again(slot);
        }
        let partition = &mut self.partitions[slot];
        partition.retires = true;
        partition.phase = Phase::Running;
        partition.paused = true;
        self.requests.push(Request::Pause(partition.held.clone()));
        if self.partitions[slot].open.is_some() {
            self.seal_or_wait(slot, SealReason::Gap);
        }
    }
}
