//! From an open batch to a committed one: when it is sealed, how its parts are completed, what its end means.

use super::hold::halting_on_panic;
use super::{Completion, Core, Request};
use crate::batch::rotation::{SealReason, due_by_time, due_by_volume};
use crate::consume::Held;
use crate::format::FormatError;
use crate::pipeline::context::Halt;
use crate::pipeline::finish::{self, Finish, SealedBatch, SealedPart, file_metadata};
use crate::pipeline::open_batch::{OpenBatch, PART_MEMORY};
use crate::pipeline::partition::{Encoding, EncodingPart, Phase, Sealing};
use crate::planted::{Bug, has};
use crate::record::OffsetRange;
use crate::spool::part::{Block, Finished};

impl Core {
    pub(super) fn check_volume(&mut self, slot: usize) {
        let partition = &self.partitions[slot];
        if partition.redo.is_some() || partition.due.is_some() {
            return;
        }
        let Some(open) = &partition.open else { return };
        if let Some(reason) = due_by_volume(&open.facts(), &self.context.archives[partition.archive].rotate) {
            self.seal_or_wait(slot, reason);
        }
    }

    /// The rules that time decides, for every partition.
    pub(in crate::pipeline) fn check_time(&mut self) {
        let (wall_ms, monotonic_ms) = (self.clock.wall_ms(), self.clock.monotonic_ms());
        for slot in 0..self.partitions.len() {
            let partition = &self.partitions[slot];
            match &partition.phase {
                Phase::Waiting { not_before_ms } if monotonic_ms >= *not_before_ms && partition.settling.is_none() => {
                    let held = partition.held.clone();
                    self.partitions[slot].phase = Phase::TakingOver;
                    self.begin_takeover(vec![held]);
                    continue;
                }
                Phase::Starting { not_before_ms } if monotonic_ms >= *not_before_ms => {
                    self.requests.push(Request::StartAt(partition.held.clone()));
                    continue;
                }
                Phase::Running => {}
                // It may wait for long: what is open is archived meanwhile.
                Phase::AwaitingSchema { .. } => self.go_on_with_schema(slot),
                _ => continue,
            }
            let partition = &self.partitions[slot];
            if partition.redo.is_some() || partition.due.is_some() {
                continue;
            }
            let Some(open) = &partition.open else { continue };
            let rotate = &self.context.archives[partition.archive].rotate;
            let facts = open.facts();
            let due = due_by_volume(&facts, rotate).or_else(|| due_by_time(&facts, rotate, wall_ms, monotonic_ms));
            if let Some(reason) = due {
                self.seal_or_wait(slot, reason);
            }
        }
    }

    /// Seals the open batch, or marks it due and pauses the partition while the one before is still on its way.
    pub(in crate::pipeline) fn seal_or_wait(&mut self, slot: usize, reason: SealReason) {
        let partition = &mut self.partitions[slot];
        if partition.sealed.is_none() {
            self.seal(slot, reason);
        } else {
            partition.due = Some(reason);
            if !partition.paused {
                partition.paused = true;
                self.requests.push(Request::Pause(partition.held.clone()));
            }
        }
    }

    pub(super) fn seal_if_end_reached(&mut self, slot: usize) {
        let partition = &self.partitions[slot];
        let reached =
            partition.open.as_ref().and_then(|open| open.planned_end).is_some_and(|end| partition.next >= end);
        if reached && partition.due.is_none() {
            self.seal_or_wait(slot, SealReason::EndOfRange);
        }
    }

    /// Seals the open batch at `next` (or its planned end): cuts every part's last block.
    pub(super) fn seal(&mut self, slot: usize, reason: SealReason) {
        let partition = &mut self.partitions[slot];
        let Some(open) = partition.open.take() else { return };
        let number = open.number;
        partition.due = None;
        let end = match (&partition.redo, open.planned_end) {
            (Some(redo), _) => redo.end,
            (None, Some(planned)) if reason == SealReason::EndOfRange => planned,
            _ if has(Bug::EndOneShort) => partition.next.saturating_sub(1).max(open.first),
            _ => partition.next,
        };
        partition.next = partition.next.max(end);
        let range = OffsetRange::new(open.first, end);
        if !open.balance.holds() || !open.rows_agree() {
            let text = format!(
                "{}: the balance of {range} does not hold: {:?}; this is a bug, nothing is lost",
                partition.held.partition, open.balance
            );
            return self.halted(slot, Halt::Stop(text));
        }
        let redo = partition.redo.take();
        // By a schedule, what comes behind the last end is asked for again: other batches may lie between.
        let retires = self.context.schedule.is_some() && partition.end_scheduled().is_none();
        let drained =
            retires || (self.context.schedule.is_none() && reason == SealReason::EndOfRange && redo.is_none());
        partition.retires |= retires;
        let dir = open.dir();
        let metadata = file_metadata(&partition.held.partition, range, &open.archive);
        let mut parts = Vec::new();
        let mut last_blocks = Vec::new();
        let mut footers = 0;
        for (index, part) in open.parts.into_iter().enumerate() {
            // A window whose only record was refused has no rows: no object.
            if part.rows == 0 {
                continue;
            }
            let keys = &open.archive.outputs[part.output].keys;
            footers += part.part.footer_memory();
            parts.push(EncodingPart {
                index,
                output: part.output,
                key: keys.key(&part.window, range),
                folder: part.window.folder.to_string(),
                rows: part.rows,
                records: part.records,
                event_ms: (part.event_min_ms, part.event_max_ms),
                file: None,
            });
            last_blocks.push((index, part.part.cut_last(metadata.clone())));
        }
        tracing::info!(
            partition = %partition.held.partition, first = range.first, end, reason = reason.as_str(),
            records = open.balance.consumed, parts = parts.len(), "batch sealed"
        );
        metrics::counter!("siltstone_sealed_batches_total", "reason" => reason.as_str()).increment(1);
        let batch = SealedBatch {
            held: partition.held.clone(),
            range,
            reason,
            balance: open.balance,
            parts: Vec::new(),
            watermark_ms: partition.watermark_ms,
            watermark_before_ms: partition.watermark_committed_ms,
            previous_first: partition.previous_first,
            topic_id: partition.topic_id.clone(),
            earlier: redo.map(|redo| redo.earlier),
            content_encoding: self.context.archives[partition.archive].content_encoding,
            unknown_schemas: open.unknown_schemas,
            dir,
            archive: open.archive,
        };
        let missing = parts.len();
        let memory = footers + missing * PART_MEMORY;
        let watermark_ms = partition.watermark_ms;
        let encoding = Some(Encoding { batch, parts, missing });
        partition.sealed = Some(Sealing { number, first: range.first, end, watermark_ms, memory, encoding });
        if drained {
            partition.phase = Phase::Drained;
            if !partition.paused {
                partition.paused = true;
                self.requests.push(Request::Pause(partition.held.clone()));
            }
        }
        for (part, block) in last_blocks {
            self.submit(slot, number, part, block);
        }
        if missing == 0 {
            self.start_finishing(slot);
        }
    }

    /// Hands a block of batch `batch` to the encoders.
    pub(super) fn submit(&mut self, slot: usize, batch: u64, part: usize, block: Block) {
        let report = self.report.clone();
        let held = self.partitions[slot].held.clone();
        let done = move |result| {
            // Nobody listens any more only when the pipeline is gone.
            drop(report.send(Completion::Encoded { held, batch, part, result }));
        };
        self.pool.submit(block, Box::new(done));
    }

    pub(super) fn encoded(
        &mut self,
        held: &Held,
        batch: u64,
        part: usize,
        result: Result<Option<Finished>, FormatError>,
    ) {
        let Some(slot) = self.slot_of(held) else { return };
        let partition = &mut self.partitions[slot];
        let file = match result {
            Ok(None) => {
                if let Some(open) = partition.open.as_mut().filter(|open| open.number == batch) {
                    open.block_encoded(part);
                }
                return;
            }
            Ok(Some(file)) => file,
            // A batch that was thrown away since: nobody's business any more.
            Err(_) if !partition.has_batch(batch) => return,
            Err(FormatError::Io(error)) => return self.local_failure(slot, &format!("write a part: {error}")),
            Err(error @ FormatError::Encode { .. }) => {
                let text = format!("{}: {error}; this is a bug, nothing is lost", held.partition);
                return self.halted(slot, Halt::Stop(text));
            }
        };
        let Some(sealing) = partition.sealed.as_mut().filter(|sealing| sealing.number == batch) else { return };
        let Some(encoding) = &mut sealing.encoding else { return };
        let Some(sealed) = encoding.parts.iter_mut().find(|sealed| sealed.index == part) else { return };
        if sealed.file.replace(file).is_none() {
            encoding.missing -= 1;
        }
        if encoding.missing == 0 {
            self.start_finishing(slot);
        }
    }

    /// Reading goes on that had to wait for the batch, or ends.
    fn after_commit(&mut self, slot: usize) {
        let partition = &mut self.partitions[slot];
        if partition.retires && partition.is_idle() {
            return self.take_over_again(slot);
        }
        if partition.paused && !partition.yields && !partition.retires && partition.phase == Phase::Running {
            self.go_on_reading(slot);
        }
    }

    /// Ends a pause.
    pub(super) fn go_on_reading(&mut self, slot: usize) {
        let not_before_ms = self.clock.monotonic_ms();
        let partition = &mut self.partitions[slot];
        partition.paused = false;
        let held = partition.held.clone();
        // What was turned away is behind the source's own position.
        match std::mem::take(&mut partition.turned_away) {
            true => {
                partition.phase = Phase::Starting { not_before_ms };
                self.requests.push(Request::StartAt(held));
            }
            false => self.requests.push(Request::Resume(held)),
        }
    }

    /// All parts are complete: the batch goes to plan, claim, upload, receipt, commit.
    pub(super) fn start_finishing(&mut self, slot: usize) {
        let Some(sealing) = self.partitions[slot].sealed.as_mut() else { return };
        let Some(Encoding { mut batch, parts, .. }) = sealing.encoding.take() else { return };
        // Footers are written.
        sealing.memory = parts.len() * PART_MEMORY;
        let number = sealing.number;
        for part in parts {
            let Some(file) = part.file else {
                let text = format!(
                    "{}: part {} was never completed; this is a bug, nothing is lost",
                    batch.held.partition, part.key
                );
                return self.halted(slot, Halt::Stop(text));
            };
            let EncodingPart { output, folder, key, rows, records, event_ms, .. } = part;
            batch.parts.push(SealedPart { output, folder, key, file, rows, records, event_ms });
        }
        // Every part of a batch is on disk.
        self.context.health.spool_well();
        let context = self.context.clone();
        let report = self.report.clone();
        self.tasks.spawn(async move {
            let pending = context.coordinator.planned(&batch.held);
            let held = batch.held.clone();
            // The spool of the batch goes with it, before the report: a full spool has room when reading goes on.
            let result = halting_on_panic(finish::finish(&context, batch), "finish a batch").await;
            drop(pending);
            drop(report.send(Completion::Finished { held, batch: number, result }));
        });
    }

    pub(super) fn finished(&mut self, held: &Held, batch: u64, result: Result<Finish, Halt>) {
        // Also when the partition itself is gone: the others of this membership must not go on under it.
        if let Err(Halt::Rejoin(reason)) = &result {
            return self.rejoin(held, reason);
        }
        let Some(slot) = self.slot_of(held) else { return };
        let partition = &mut self.partitions[slot];
        if partition.settling == Some(batch) {
            partition.settling = None;
            return;
        }
        let Some(sealing) = partition.sealed.take_if(|sealing| sealing.number == batch) else { return };
        // It is on its way no more, so whoever throws the rest away does not see it.
        self.dropped_work |= self.shutting_down && !matches!(result, Ok(Finish::Committed));
        match result {
            Ok(Finish::Committed) => {
                tracing::info!(partition = %held.partition, first = sealing.first, end = sealing.end, "batch committed");
                metrics::counter!("siltstone_committed_batches_total").increment(1);
                self.status.committed(&held.partition);
                partition.committed = Some(sealing.end);
                partition.watermark_committed_ms = sealing.watermark_ms;
                partition.previous_first = Some(sealing.first);
                if let Some(reason) = partition.due.take() {
                    self.seal(slot, reason);
                } else if self.shutting_down && partition.open.is_some() && self.context.schedule.is_none() {
                    self.seal(slot, SealReason::Shutdown);
                }
                self.after_commit(slot);
            }
            Ok(Finish::Adopt) => self.take_over_again(slot),
            Err(halt) => self.halted(slot, halt),
        }
    }

    /// The volume rules that a single record can fire, without a look at the parts.
    pub(super) fn records_due(&self, slot: usize, open: &OpenBatch) -> bool {
        let rotate = &self.context.archives[self.partitions[slot].archive].rotate;
        open.balance.consumed >= rotate.records || rotate.bytes.is_some_and(|limit| open.balance.bytes >= limit)
    }
}
