//! Taking what the source brings: records into the open batch, ends of partitions, assignments and revocations.

use super::{Core, Request};
use crate::consume::{Held, SourceSink};
use crate::pipeline::open_batch::{OpenBatch, Opened};
use crate::pipeline::partition::{Partition, Phase};
use crate::pipeline::start::chain;
use crate::planted::{Bug, has};
use crate::record::{OffsetRange, Record, TopicPartition, offset_after};

impl SourceSink for Core {
    fn record(&mut self, record: &Record<'_>) {
        let Some(slot) = self.slot(record.topic, record.partition) else { return };
        let partition = &mut self.partitions[slot];
        match partition.phase {
            Phase::Running => {}
            Phase::Sampling { .. } => {
                if !self.is_sampled(slot, record) {
                    return;
                }
                let partition = &mut self.partitions[slot];
                partition.next = offset_after(record.offset);
                partition.phase = match partition.phase {
                    Phase::Sampling { first, .. } => Phase::Sampling { first, caught_up: false },
                    _ => return,
                };
                let archive = partition.archive;
                let monotonic_ms = self.clock.monotonic_ms();
                return self.samplers[archive].add(record, monotonic_ms);
            }
            _ => return,
        }
        if record.offset < partition.next {
            return;
        }
        // Offsets skip, perhaps over more than one end.
        while let Some(end) = self.end_of_open(slot).filter(|&end| record.offset >= end) {
            if !self.cover_to(slot, end) {
                return;
            }
            // Behind a redone batch the record is the next batch's first; behind a drain it is nobody's.
            let partition = &mut self.partitions[slot];
            if partition.phase != Phase::Running || partition.open.is_some() {
                partition.turned_away |= partition.open.is_some();
                return;
            }
        }
        if self.is_readable(slot, record) {
            self.append(slot, record);
        }
    }

    fn end_of_partition(&mut self, partition: &TopicPartition, position: i64) {
        let Some(slot) = self.slot(&partition.topic, partition.partition) else { return };
        let state = &mut self.partitions[slot];
        state.log_end = Some(position);
        match state.phase {
            Phase::Running => {}
            Phase::Sampling { .. } => {
                if let Phase::Sampling { caught_up, .. } = &mut state.phase {
                    *caught_up = true;
                }
                let next = state.next;
                let drain = self.drain_to.as_ref().and_then(|to| to.get(partition).copied());
                if drain.is_some_and(|end| next >= end) && self.partitions[slot].read_from >= next {
                    self.drained_without_batch(slot);
                }
                return;
            }
            _ => return,
        }
        if has(Bug::EndOfPartitionIgnored) {
            return;
        }
        // Control records and aborted data at the end are covered too.
        self.cover_to(slot, position);
    }

    fn assigned(&mut self, held: Vec<Held>) {
        let mut mine = Vec::new();
        for held in held {
            let topic = &held.partition.topic;
            let Some((archive, of)) = self.context.archive_of(topic) else {
                tracing::warn!(partition = %held.partition, "assigned a topic that no archive wants");
                continue;
            };
            tracing::info!(partition = %held.partition, archive = of.name, "partition assigned");
            if has(Bug::OpenBatchKept) && self.went_on(&held) {
                continue;
            }
            self.partitions.push(Partition::new(held.clone(), archive));
            mine.push(held);
        }
        self.rebuild_index();
        if !mine.is_empty() {
            self.begin_takeover(mine);
        }
    }

    fn revoked(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            tracing::info!(%partition, "partition revoked");
        }
        self.forget(partitions);
    }

    fn lost(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            tracing::warn!(%partition, "partition lost");
        }
        self.forget(partitions);
    }

    fn out_of_range(&mut self, partition: &TopicPartition, log_start: Option<i64>) {
        let Some(slot) = self.slot(&partition.topic, partition.partition) else { return };
        tracing::warn!(%partition, ?log_start, next = self.partitions[slot].next, "the position is outside the log");
        match self.partitions[slot].phase {
            Phase::Running | Phase::Starting { .. } => self.ask_bounds(slot),
            Phase::Sampling { .. } => self.take_over_again(slot),
            // It starts again once the schema is known, and hears of it then.
            Phase::AwaitingSchema { .. } => {}
            Phase::TakingOver | Phase::OutOfRange | Phase::Waiting { .. } | Phase::Drained | Phase::Stopped(_) => {}
        }
    }

    fn trouble(&mut self, what: String) {
        self.context.health.kafka_trouble(&what);
        tracing::warn!("kafka: {what}");
    }

    fn fatal(&mut self, what: String) {
        self.fatal = Some(what);
    }
}

impl Core {
    /// Where the open batch ends, or the next one, where that is decided.
    pub(super) fn end_of_open(&self, slot: usize) -> Option<i64> {
        let partition = &self.partitions[slot];
        match (&partition.open, &partition.redo) {
            (Some(open), _) => open.planned_end,
            (None, Some(redo)) => Some(redo.end),
            (None, None) => self.end_ahead(partition),
        }
    }

    /// Where a batch of `partition` that begins at its next offset ends, where `--drain` or a schedule says so.
    fn end_ahead(&self, partition: &Partition) -> Option<i64> {
        match &self.context.schedule {
            Some(_) => partition.end_scheduled(),
            None => self.drain_to.as_ref()?.get(&partition.held.partition).copied(),
        }
    }

    /// Whether the next cut of `partition` is decided: it is made there, or not by this process.
    pub(in crate::pipeline) fn cut_is_decided(&self, partition: &Partition) -> bool {
        partition.redo.is_some() || self.context.schedule.is_some()
    }

    /// Only with [`Bug::OpenBatchKept`]: an earlier assignment's state simply goes on.
    fn went_on(&mut self, held: &Held) -> bool {
        let not_before_ms = self.clock.monotonic_ms();
        let same = |partition: &&mut Partition| partition.held.partition == held.partition;
        let Some(partition) = self.partitions.iter_mut().find(same) else { return false };
        partition.held = held.clone();
        partition.phase = Phase::Starting { not_before_ms };
        true
    }

    /// Makes sure that the partition has an open batch; false where the spool refused, or nothing may be opened now.
    pub(super) fn ensure_open(&mut self, slot: usize) -> bool {
        if self.partitions[slot].open.is_some() {
            return true;
        }
        // A partition that was thrown back while a record was looked at knows no offset to begin a batch with.
        if self.shutting_down || !self.partitions[slot].phase.may_open() {
            return false;
        }
        let own = self.context.archives[self.partitions[slot].archive].compiled.get().cloned();
        if own.is_none() && self.partitions[slot].redo.is_none() {
            self.sample(slot);
            return false;
        }
        let dir = match self.spool.batch_dir() {
            Ok(dir) => dir,
            Err(error) => {
                self.local_failure(slot, &format!("make a folder for a batch: {}", chain(&error)));
                return false;
            }
        };
        let end_ahead = self.end_ahead(&self.partitions[slot]);
        let partition = &mut self.partitions[slot];
        let (archive, planned_end) = match (&partition.redo, &partition.at_target) {
            (Some(redo), _) => (redo.archive.clone(), Some(redo.end)),
            (None, Some(at_target)) => (at_target.clone(), end_ahead),
            (None, None) => (own.expect("looked at above"), end_ahead),
        };
        let (wall_ms, monotonic_ms) = (self.clock.wall_ms(), self.clock.monotonic_ms());
        let opened = Opened { number: self.next_batch, wall_ms, monotonic_ms };
        self.next_batch += 1;
        let mut open = OpenBatch::new(archive, partition.next, planned_end, dir, opened);
        // Offsets that Kafka deleted before they were read belong to the batch that covers them.
        let absent_end = planned_end.map_or(partition.read_from, |end| end.min(partition.read_from));
        if absent_end > partition.next {
            open.absent(&partition.held.partition, OffsetRange::new(partition.next, absent_end));
            partition.next = absent_end;
        }
        partition.open = Some(open);
        true
    }

    pub(super) fn append(&mut self, slot: usize, record: &Record<'_>) {
        if !self.ensure_open(slot) {
            return;
        }
        let partition = &mut self.partitions[slot];
        let Some(open) = partition.open.as_mut() else { return };
        let event_ms = open.append(record, &mut self.workspace, &mut self.blocks);
        let number = open.number;
        partition.records += 1;
        partition.next = offset_after(record.offset);
        if let Some(event_ms) = event_ms {
            let newest = record
                .timestamp
                .unwrap_or(event_ms)
                .saturating_add(self.context.archives[partition.archive].max_future_ms);
            if event_ms <= newest {
                partition.watermark_ms = Some(partition.watermark_ms.map_or(event_ms, |before| before.max(event_ms)));
            }
        }
        if !self.blocks.is_empty() {
            let mut blocks = std::mem::take(&mut self.blocks);
            for (part, block) in blocks.drain(..) {
                self.submit(slot, number, part, block);
            }
            self.blocks = blocks;
            self.check_volume(slot);
        } else if self.partitions[slot].open.as_ref().is_some_and(|open| self.records_due(slot, open)) {
            self.check_volume(slot);
        }
    }

    /// Everything below `position` is covered, whether records were there or not: the open batch (made if needed) now
    /// reaches there, but not beyond its planned end, and is sealed if that is reached. False where the spool refused.
    pub(super) fn cover_to(&mut self, slot: usize, position: i64) -> bool {
        let partition = &self.partitions[slot];
        let drain_end = self.end_ahead(partition);
        if partition.redo.is_none() && partition.open.is_none() && position <= partition.next {
            if drain_end.is_some_and(|end| partition.next >= end) {
                self.drained_without_batch(slot);
            }
            return true;
        }
        if !self.ensure_open(slot) {
            return false;
        }
        let partition = &mut self.partitions[slot];
        let planned_end = partition.open.as_ref().and_then(|open| open.planned_end);
        let reached = planned_end.map_or(position, |end| position.min(end));
        partition.next = partition.next.max(reached);
        self.seal_if_end_reached(slot);
        let partition = &mut self.partitions[slot];
        // The source says it only once.
        partition.turned_away |= partition.open.is_some() && reached < position;
        let rest = partition.open.is_none() && partition.next < position && !has(Bug::RedoEndsAll);
        if partition.phase == Phase::Running && rest {
            // A redone batch has ended before `position`. The next one covers the rest: the source says it only once.
            return self.cover_to(slot, position);
        }
        true
    }

    /// `--drain` has nothing (more) to archive in this partition.
    pub(super) fn drained_without_batch(&mut self, slot: usize) {
        let partition = &mut self.partitions[slot];
        partition.phase = Phase::Drained;
        if !partition.paused {
            partition.paused = true;
            self.requests.push(Request::Pause(partition.held.clone()));
        }
    }
}
