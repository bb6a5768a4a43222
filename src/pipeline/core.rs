//! The pipeline's state and its reactions: events in, work out. One thread owns it.
//!
//! Everything that waits (stores, commits) runs as a task and reports back through a channel, so that this thread never
//! waits for anything but the next record.

use super::context::{Context, Halt};
use super::finish::{self, Finish, SealedBatch, SealedPart};
use super::open_batch::{OpenBatch, Opened};
use super::partition::{Encoding, EncodingPart, Partition, Phase, Sealing};
use super::sample::Sampler;
use super::takeover::{self, Takeover};
use crate::batch::rotation::{SealReason, due_by_time, due_by_volume};
use crate::clock::Clock;
use crate::consume::{Committed, Held, SourceSink};
use crate::format::FormatError;
use crate::layout::Column;
use crate::record::{OffsetRange, Record, TopicPartition, offset_after};
use crate::spool::Spool;
use crate::spool::encode::EncodePool;
use crate::spool::part::{Block, Finished};
use crate::telemetry::status::Status;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a task or an encoder reports back. Bounded in number by partitions and parts: each has at most one under way
/// (encoders: one a block in the pool).
pub(super) enum Completion {
    TakenOver { held: Held, result: Result<Takeover, Halt> },
    Encoded { held: Held, batch: u64, part: usize, result: Result<Option<Finished>, FormatError> },
    Finished { held: Held, batch: u64, result: Result<Finish, Halt> },
    Pinned { archive: usize, result: Result<BTreeMap<String, Vec<Column>>, String> },
    ReadBack { answers: Vec<(Held, i64, Option<Committed>)> },
    LogEnds { ends: Result<Vec<(TopicPartition, i64)>, String> },
    DrainCommitted { offsets: BTreeMap<TopicPartition, i64> },
}

/// What the source is asked to do once it is not being polled.
pub(super) enum Request {
    StartAt(Held),
    Pause(Held),
    Resume(Held),
    Rejoin,
}

/// How long a partition waits after a local failure.
const LOCAL_RETRY_MS: i64 = 5_000;
/// How long a redone batch waits that had no room in the spool beside another.
const REDO_LATER_MS: i64 = 30_000;
/// Pause before asking the source again to start a partition.
const START_RETRY_MS: i64 = 200;

/// The pipeline's state.
pub struct Core {
    pub(super) context: Arc<Context>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) partitions: Vec<Partition>,
    /// Slot by topic and Kafka partition. Only looked up.
    index: HashMap<Arc<str>, HashMap<i32, usize>>,
    last: Option<usize>,
    pub(super) spool: Spool,
    pub(super) pool: EncodePool,
    tasks: Handle,
    completions: UnboundedReceiver<Completion>,
    report: UnboundedSender<Completion>,
    pub(super) requests: Vec<Request>,
    pub(super) samplers: Vec<Sampler>,
    next_batch: u64,
    /// For `--drain`: where each partition ends.
    pub(super) drain_to: Option<BTreeMap<TopicPartition, i64>>,
    /// For `--drain`: what the whole group has committed.
    pub(super) drain_committed: BTreeMap<TopicPartition, i64>,
    pub(super) shutting_down: bool,
    /// Whether something open was thrown away since the shutdown began.
    pub(super) dropped_work: bool,
    pub(super) fatal: Option<String>,
    pub(super) status: Arc<Status>,
    blocks: Vec<(usize, Block)>,
}

impl Core {
    /// A core that holds nothing yet.
    pub fn new(context: Arc<Context>, spool: Spool, pool: EncodePool, tasks: Handle, status: Arc<Status>) -> Self {
        let (report, completions) = unbounded_channel();
        let samplers = context.archives.iter().map(|archive| Sampler::new(&archive.layout)).collect();
        Self {
            clock: context.clock.clone(),
            context,
            partitions: Vec::new(),
            index: HashMap::new(),
            last: None,
            spool,
            pool,
            tasks,
            completions,
            report,
            requests: Vec::new(),
            samplers,
            next_batch: 0,
            drain_to: None,
            drain_committed: BTreeMap::new(),
            shutting_down: false,
            dropped_work: false,
            fatal: None,
            status,
            blocks: Vec::new(),
        }
    }

    /// Slot of a held partition. Records come in runs of one partition, so the last answer is tried first.
    fn slot(&mut self, topic: &str, partition: i32) -> Option<usize> {
        if let Some(slot) = self.last
            && let Some(found) = self.partitions.get(slot)
            && found.held.partition.partition == partition
            && &*found.held.partition.topic == topic
        {
            return Some(slot);
        }
        let slot = *self.index.get(topic)?.get(&partition)?;
        self.last = Some(slot);
        Some(slot)
    }

    fn slot_of(&mut self, held: &Held) -> Option<usize> {
        let slot = self.slot(&held.partition.topic, held.partition.partition)?;
        (self.partitions[slot].held == *held).then_some(slot)
    }

    fn rebuild_index(&mut self) {
        self.index.clear();
        self.last = None;
        for (slot, partition) in self.partitions.iter().enumerate() {
            let of_topic = self.index.entry(partition.held.partition.topic.clone()).or_default();
            of_topic.insert(partition.held.partition.partition, slot);
        }
    }

    /// Forgets partitions: their spool goes with their batches; tasks of theirs end at their next step (C-1).
    fn forget(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.context.health.released(partition);
        }
        self.partitions.retain(|partition| !partitions.contains(&partition.held.partition));
        self.rebuild_index();
    }

    /// Starts the takeover of partitions just held: one read of their offsets, then each on its own.
    pub(super) fn begin_takeover(&mut self, held: Vec<Held>) {
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

    /// Handles what tasks and encoders have reported.
    pub(super) fn drain_completions(&mut self) -> bool {
        // Only what is there now: whoever reports again and again must not keep the source from being polled.
        let waiting = self.completions.len();
        for _ in 0..waiting {
            let Ok(completion) = self.completions.try_recv() else { break };
            match completion {
                Completion::TakenOver { held, result } => self.taken_over(&held, result),
                Completion::Encoded { held, batch, part, result } => self.encoded(&held, batch, part, result),
                Completion::Finished { held, batch, result } => self.finished(&held, batch, result),
                Completion::Pinned { archive, result } => self.pinned(archive, result),
                Completion::ReadBack { answers } => self.read_back(answers),
                Completion::LogEnds { ends } => self.log_ends(ends),
                Completion::DrainCommitted { offsets } => self.drain_committed = offsets,
            }
        }
        waiting > 0
    }

    /// A commit's answer is unknown: whoever it was for, this membership must end.
    fn rejoin(&mut self, held: &Held, reason: &str) {
        tracing::warn!(partition = %held.partition, reason, "a commit's answer is unknown; leaving the group and joining again");
        metrics::counter!("siltstone_rejoins_total").increment(1);
        self.requests.push(Request::Rejoin);
    }

    fn taken_over(&mut self, held: &Held, result: Result<Takeover, Halt>) {
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
        let partition = &mut self.partitions[slot];
        partition.next = takeover.first;
        partition.read_from = takeover.read_from;
        partition.committed = takeover.first;
        partition.watermark_ms = takeover.watermark_ms;
        partition.watermark_committed_ms = takeover.watermark_ms;
        partition.previous_first = takeover.previous_first;
        partition.topic_id = takeover.topic_id;
        partition.redo = takeover.redo;
        tracing::info!(partition = %held.partition, first = takeover.first, "partition taken over");
        // What appeared after `--drain` had looked is not its business.
        if self.drain_to.as_ref().is_some_and(|to| !to.contains_key(&held.partition)) && partition.redo.is_none() {
            return self.drained_without_batch(slot);
        }
        if sampling {
            return self.sample(slot);
        }
        partition.phase = Phase::Starting { not_before_ms };
        self.cover_absent(slot);
        self.requests.push(Request::StartAt(held.clone()));
    }

    /// The layout's schemas are not pinned yet: from `next` on, records only feed the sampler.
    fn sample(&mut self, slot: usize) {
        let partition = &mut self.partitions[slot];
        partition.phase = Phase::Sampling { first: partition.next, caught_up: false };
        self.requests.push(Request::StartAt(partition.held.clone()));
    }

    /// Covers what Kafka deleted before it was read, if anything, without waiting for a record.
    fn cover_absent(&mut self, slot: usize) {
        let partition = &self.partitions[slot];
        if partition.read_from > partition.next && self.ensure_open(slot) {
            self.seal_if_end_reached(slot);
        }
    }

    fn halted(&mut self, slot: usize, halt: Halt) {
        let partition = &mut self.partitions[slot];
        match halt {
            Halt::NotHeld => {}
            Halt::Rejoin(reason) => {
                let held = partition.held.clone();
                self.rejoin(&held, &reason);
            }
            Halt::Local(reason) => self.local_failure(slot, &reason),
            Halt::Stop(reason) => {
                tracing::error!(partition = %partition.held.partition, "partition stopped: {reason}");
                self.context.health.stopped(&partition.held.partition, &reason);
                let held = partition.held.clone();
                partition.reset();
                partition.phase = Phase::Stopped(reason);
                partition.paused = true;
                self.requests.push(Request::Pause(held));
            }
        }
    }

    /// A local failure (disk, encoder): the batch is thrown away and read again.
    fn local_failure(&mut self, slot: usize, what: &str) {
        let not_before_ms = self.clock.monotonic_ms() + LOCAL_RETRY_MS;
        let partition = &mut self.partitions[slot];
        tracing::error!(partition = %partition.held.partition, "the spool failed: {what}; the batch will be read again");
        metrics::counter!("siltstone_spool_failures_total").increment(1);
        self.context.health.spool_failed(what);
        let held = partition.held.clone();
        self.dropped_work |= self.shutting_down;
        partition.reset();
        partition.phase = Phase::Waiting { not_before_ms };
        partition.paused = true;
        self.requests.push(Request::Pause(held));
    }

    /// Makes sure that the partition has an open batch; false where the spool refused.
    fn ensure_open(&mut self, slot: usize) -> bool {
        if self.partitions[slot].open.is_some() {
            return true;
        }
        if self.shutting_down {
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
                self.local_failure(slot, &format!("make a folder for a batch: {error}"));
                return false;
            }
        };
        let partition = &mut self.partitions[slot];
        let drain_end = self.drain_to.as_ref().and_then(|to| to.get(&partition.held.partition).copied());
        let (archive, planned_end) = match &partition.redo {
            Some(redo) => (redo.archive.clone(), Some(redo.end)),
            None => (own.expect("looked at above"), drain_end),
        };
        let (wall_ms, monotonic_ms) = (self.clock.wall_ms(), self.clock.monotonic_ms());
        let opened = Opened { number: self.next_batch, wall_ms, monotonic_ms };
        self.next_batch += 1;
        let mut open = OpenBatch::new(archive, partition.next, planned_end, dir, opened);
        // Offsets that Kafka deleted before they were read belong to the batch that covers them.
        let absent_end = planned_end.map_or(partition.read_from, |end| end.min(partition.read_from));
        if absent_end > partition.next {
            let (first, end) = (partition.next, absent_end);
            tracing::error!(
                partition = %partition.held.partition, first, end,
                "Kafka deleted these offsets before they were read; they are counted as absent"
            );
            open.balance.absent.push(OffsetRange::new(first, end));
            partition.next = end;
        }
        partition.open = Some(open);
        true
    }

    fn append(&mut self, slot: usize, record: &Record<'_>) {
        if !self.ensure_open(slot) {
            return;
        }
        let partition = &mut self.partitions[slot];
        let Some(open) = partition.open.as_mut() else { return };
        let event_ms = open.append(record, &mut self.blocks);
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

    /// The volume rules that a single record can fire, without a look at the parts.
    fn records_due(&self, slot: usize, open: &OpenBatch) -> bool {
        let rotate = &self.context.archives[self.partitions[slot].archive].rotate;
        open.balance.consumed >= rotate.records || rotate.bytes.is_some_and(|limit| open.balance.bytes >= limit)
    }

    /// Hands a block of batch `batch` to the encoders.
    fn submit(&mut self, slot: usize, batch: u64, part: usize, block: Block) {
        let report = self.report.clone();
        let held = self.partitions[slot].held.clone();
        let done = move |result| {
            // Nobody listens any more only when the pipeline is gone.
            drop(report.send(Completion::Encoded { held, batch, part, result }));
        };
        self.pool.submit(block, Box::new(done));
    }

    fn check_volume(&mut self, slot: usize) {
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
    pub(super) fn check_time(&mut self) {
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
                _ => continue,
            }
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
    pub(super) fn seal_or_wait(&mut self, slot: usize, reason: SealReason) {
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

    fn seal_if_end_reached(&mut self, slot: usize) {
        let partition = &self.partitions[slot];
        let reached =
            partition.open.as_ref().and_then(|open| open.planned_end).is_some_and(|end| partition.next >= end);
        if reached && partition.due.is_none() {
            self.seal_or_wait(slot, SealReason::EndOfRange);
        }
    }

    /// Seals the open batch at `next` (or its planned end): cuts every part's last block.
    fn seal(&mut self, slot: usize, reason: SealReason) {
        let partition = &mut self.partitions[slot];
        let Some(open) = partition.open.take() else { return };
        let number = open.number;
        partition.due = None;
        let end = match (&partition.redo, open.planned_end) {
            (Some(redo), _) => redo.end,
            (None, Some(planned)) if reason == SealReason::EndOfRange => planned,
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
        let drained = reason == SealReason::EndOfRange && redo.is_none();
        let dir = open.dir();
        let metadata = vec![
            ("siltstone.topic".to_string(), partition.held.partition.topic.to_string()),
            ("siltstone.partition".to_string(), partition.held.partition.partition.to_string()),
            ("siltstone.first".to_string(), range.first.to_string()),
            ("siltstone.end".to_string(), range.end.to_string()),
        ];
        let mut parts = Vec::new();
        let mut last_blocks = Vec::new();
        for (index, part) in open.parts.into_iter().enumerate() {
            // A window whose only record was refused has no rows: no object.
            if part.rows == 0 {
                continue;
            }
            let keys = &open.archive.outputs[part.output].keys;
            parts.push(EncodingPart {
                index,
                output: part.output,
                key: keys.key(&part.window, range),
                folder: part.window.folder.to_string(),
                rows: part.rows,
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
            redo: redo.is_some(),
            repair: redo.is_some_and(|redo| redo.repair),
            content_encoding: self.context.archives[partition.archive].content_encoding,
            dir,
            archive: open.archive,
        };
        let missing = parts.len();
        let watermark_ms = partition.watermark_ms;
        let encoding = Some(Encoding { batch, parts, missing });
        partition.sealed = Some(Sealing { number, first: range.first, end, watermark_ms, encoding });
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

    fn encoded(&mut self, held: &Held, batch: u64, part: usize, result: Result<Option<Finished>, FormatError>) {
        let Some(slot) = self.slot_of(held) else { return };
        let partition = &mut self.partitions[slot];
        let file = match result {
            Ok(None) => return,
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

    /// All parts are complete: the batch goes to plan, claim, upload, receipt, commit.
    fn start_finishing(&mut self, slot: usize) {
        let Some(sealing) = self.partitions[slot].sealed.as_mut() else { return };
        let Some(Encoding { mut batch, parts, .. }) = sealing.encoding.take() else { return };
        let number = sealing.number;
        for part in parts {
            let Some(file) = part.file else {
                let text = format!(
                    "{}: part {} was never completed; this is a bug, nothing is lost",
                    batch.held.partition, part.key
                );
                return self.halted(slot, Halt::Stop(text));
            };
            let EncodingPart { output, folder, key, rows, event_ms, .. } = part;
            batch.parts.push(SealedPart { output, folder, key, file, rows, event_ms });
        }
        // Every part of a batch is on disk.
        self.context.health.spool_well();
        let context = self.context.clone();
        let report = self.report.clone();
        self.tasks.spawn(async move {
            let pending = context.coordinator.planned(&batch.held);
            let result = finish::finish(&context, &batch).await;
            drop(pending);
            let held = batch.held.clone();
            // The spool of the batch goes before the report, so that a full spool has room when reading goes on.
            drop(batch);
            drop(report.send(Completion::Finished { held, batch: number, result }));
        });
    }

    fn finished(&mut self, held: &Held, batch: u64, result: Result<Finish, Halt>) {
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
        match result {
            Ok(Finish::Committed) => {
                tracing::info!(partition = %held.partition, first = sealing.first, end = sealing.end, "batch committed");
                metrics::counter!("siltstone_committed_batches_total").increment(1);
                self.status.committed(&held.partition, sealing.end);
                partition.committed = sealing.end;
                partition.watermark_committed_ms = sealing.watermark_ms;
                partition.previous_first = Some(sealing.first);
                if let Some(reason) = partition.due.take() {
                    self.seal(slot, reason);
                } else if self.shutting_down && partition.open.is_some() {
                    self.seal(slot, SealReason::Shutdown);
                }
                let partition = &mut self.partitions[slot];
                if partition.paused && partition.phase == Phase::Running {
                    partition.paused = false;
                    self.requests.push(Request::Resume(partition.held.clone()));
                }
            }
            Ok(Finish::Adopt) => self.take_over_again(slot),
            Err(halt) => self.halted(slot, halt),
        }
    }

    /// Drops the partition's state and takes it over anew, once a batch that is still on its way has come to its end: what it
    /// commits must not come after what the takeover reads.
    fn take_over_again(&mut self, slot: usize) {
        let not_before_ms = self.clock.monotonic_ms();
        let partition = &mut self.partitions[slot];
        partition.reset();
        partition.phase = Phase::Waiting { not_before_ms };
        partition.paused = true;
        self.requests.push(Request::Pause(partition.held.clone()));
    }

    /// Moves rows to disk until memory is back under three quarters of `limit`.
    pub(super) fn spill(&mut self, limit: usize) {
        let mut memory: usize = self.partitions.iter().map(Partition::memory).sum();
        if memory <= limit {
            return;
        }
        let mut sizes = Vec::new();
        for (slot, partition) in self.partitions.iter().enumerate() {
            let parts = partition.open.iter().flat_map(|open| open.parts.iter().enumerate());
            sizes.extend(parts.map(|(part, open)| (open.part.memory(), slot, part)));
        }
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        for (bytes, slot, part) in sizes {
            if memory <= limit / 4 * 3 {
                break;
            }
            let Some(open) = self.partitions[slot].open.as_mut() else { continue };
            if let Err(error) = open.parts[part].part.spill() {
                self.local_failure(slot, &format!("spill rows: {error}"));
                continue;
            }
            open.memory = open.memory.saturating_sub(bytes);
            memory = memory.saturating_sub(bytes);
        }
        if memory > limit {
            // Nothing is left to spill: it is the parts themselves that take the room.
            let largest = (0..self.partitions.len())
                .filter(|&slot| self.partitions[slot].redo.is_none() && self.partitions[slot].due.is_none())
                .max_by_key(|&slot| self.partitions[slot].memory());
            if let Some(slot) = largest {
                self.seal_or_wait(slot, SealReason::Pressure);
            }
        }
    }

    /// Seals the batch that takes most room, so that a full spool empties.
    pub(super) fn relieve_spool(&mut self) {
        // What is on its way up makes room soon.
        if self.partitions.iter().any(|partition| partition.sealed.is_some()) {
            return;
        }
        let open = |slot: usize| {
            let partition = &self.partitions[slot];
            Some((partition.redo.is_some(), partition.open.as_ref()?.dir().bytes(), slot))
        };
        let mut batches: Vec<_> =
            (0..self.partitions.len()).filter_map(open).filter(|(_, bytes, _)| *bytes > 0).collect();
        batches.sort_unstable();
        if let Some(&(_, _, slot)) = batches.iter().rev().find(|(redo, _, _)| !redo) {
            return self.seal(slot, SealReason::Pressure);
        }
        // Only redone batches, which end where they were cut: let the one that is furthest along finish first.
        batches.pop();
        for (_, _, slot) in batches {
            tracing::warn!(partition = %self.partitions[slot].held.partition, "the spool is full; redoing this batch later");
            self.take_over_again(slot);
            self.partitions[slot].phase = Phase::Waiting { not_before_ms: self.clock.monotonic_ms() + REDO_LATER_MS };
        }
    }

    /// Whether records can be taken although the spool is full: when one batch, whose end is fixed, holds it all.
    pub(super) fn only_one_redo_is_open(&self) -> bool {
        let mut open =
            self.partitions.iter().filter(|partition| partition.open.is_some() || partition.sealed.is_some());
        let first = open.next();
        first.is_some_and(|partition| partition.redo.is_some() && partition.sealed.is_none()) && open.next().is_none()
    }

    /// Asks the coordinator what it holds for partitions at rest: a stray commit may have moved it back.
    pub(super) fn start_read_back(&mut self) {
        let expected: Vec<(Held, i64)> = self
            .partitions
            .iter()
            .filter(|partition| partition.phase == Phase::Running && partition.sealed.is_none())
            .map(|partition| (partition.held.clone(), partition.committed))
            .collect();
        if expected.is_empty() {
            return;
        }
        let (context, report) = (self.context.clone(), self.report.clone());
        self.tasks.spawn(async move {
            let partitions = expected.iter().map(|(held, _)| held.partition.clone()).collect();
            let Ok(found) = context.coordinator.committed(partitions).await else { return };
            let found: BTreeMap<_, _> = found.into_iter().collect();
            let answer = |(held, offset): (Held, i64)| {
                let committed = found.get(&held.partition)?.clone();
                Some((held, offset, committed))
            };
            let answers = expected.into_iter().filter_map(answer).collect();
            drop(report.send(Completion::ReadBack { answers }));
        });
    }

    fn read_back(&mut self, answers: Vec<(Held, i64, Option<Committed>)>) {
        for (held, expected, committed) in answers {
            let Some(slot) = self.slot_of(&held) else { continue };
            let partition = &self.partitions[slot];
            // Only where nothing was committed since the question was asked.
            if partition.committed != expected || partition.sealed.is_some() {
                continue;
            }
            if committed.as_ref().is_none_or(|committed| committed.offset < expected) {
                let found = committed.map(|committed| committed.offset);
                tracing::error!(partition = %held.partition, expected, ?found, "the committed offset has fallen behind; joining again to repair it");
                metrics::counter!("siltstone_offsets_behind_total").increment(1);
                self.requests.push(Request::Rejoin);
                return;
            }
        }
    }

    /// Asks for the log ends of held partitions: for lag, and as the proof that Kafka answers.
    pub(super) fn start_log_ends(&mut self) {
        let partitions: Vec<TopicPartition> =
            self.partitions.iter().map(|partition| partition.held.partition.clone()).collect();
        if partitions.is_empty() {
            return;
        }
        let (context, report) = (self.context.clone(), self.report.clone());
        self.tasks.spawn(async move {
            let mut ends = Vec::new();
            let mut failed = None;
            for partition in partitions {
                match context.coordinator.log_bounds(partition.clone()).await {
                    Ok(bounds) => ends.push((partition, bounds.readable_end)),
                    Err(reason) => {
                        // The next round asks again; to wait for every partition here would pile up rounds.
                        failed = Some(format!("read the log's end of {partition}: {reason}"));
                        break;
                    }
                }
            }
            drop(report.send(Completion::LogEnds { ends: failed.map_or(Ok(ends), Err) }));
        });
    }

    /// Asks what the whole group, not only this process, has committed of what is to be drained.
    pub(super) fn start_drain_check(&mut self) {
        let Some(ends) = &self.drain_to else { return };
        let partitions: Vec<TopicPartition> = ends.keys().cloned().collect();
        let (context, report) = (self.context.clone(), self.report.clone());
        self.tasks.spawn(async move {
            let Ok(found) = context.coordinator.committed(partitions).await else { return };
            let offsets =
                found.into_iter().filter_map(|(partition, committed)| Some((partition, committed?.offset))).collect();
            drop(report.send(Completion::DrainCommitted { offsets }));
        });
    }

    fn log_ends(&mut self, ends: Result<Vec<(TopicPartition, i64)>, String>) {
        let ends = match ends {
            Ok(ends) => ends,
            Err(reason) => return self.context.health.kafka_trouble(&reason),
        };
        // Records alone prove nothing: they may have been fetched before Kafka went away.
        self.context.health.kafka_well();
        for (partition, end) in ends {
            if let Some(slot) = self.slot(&partition.topic, partition.partition) {
                self.partitions[slot].log_end = Some(end);
            }
        }
    }

    /// Pins what the samplers have seen, once one of them has seen enough.
    pub(super) fn check_samples(&mut self) {
        let monotonic_ms = self.clock.monotonic_ms();
        for archive in 0..self.samplers.len() {
            let hurry = self.drain_to.is_some();
            let exhausted = self.partitions.iter().all(|partition| {
                partition.archive != archive || !matches!(partition.phase, Phase::Sampling { caught_up: false, .. })
            });
            // A smaller sample waits for as long as a batch would.
            let age_ms = i64::try_from(self.context.archives[archive].rotate.age.as_millis()).unwrap_or(i64::MAX);
            let patience_ms = if hurry { 0 } else { age_ms };
            if hurry && exhausted && self.samplers[archive].is_empty() {
                self.drain_without_schema(archive);
            }
            let Some(inferred) = self.samplers[archive].take_if_enough(monotonic_ms, patience_ms, exhausted) else {
                continue;
            };
            let context = self.context.clone();
            let report = self.report.clone();
            self.tasks.spawn(async move {
                let result = super::sample::pin(&context.archives[archive], inferred).await;
                drop(report.send(Completion::Pinned { archive, result }));
            });
        }
    }

    /// `--drain` found no record at all: without one there is no schema to infer and nothing to archive.
    fn drain_without_schema(&mut self, archive: usize) {
        for slot in 0..self.partitions.len() {
            let partition = &self.partitions[slot];
            if partition.archive == archive && matches!(partition.phase, Phase::Sampling { caught_up: true, .. }) {
                self.drained_without_batch(slot);
            }
        }
    }

    fn pinned(&mut self, archive: usize, result: Result<BTreeMap<String, Vec<Column>>, String>) {
        let context = self.context.clone();
        let compiled = result.and_then(|pinned| {
            super::archive::Archive::compile(&context.archives[archive].layout, &context.destinations, &pinned)
        });
        match compiled {
            Ok(compiled) => {
                tracing::info!(archive = context.archives[archive].name, "schema pinned");
                drop(context.archives[archive].compiled.set(Arc::new(compiled)));
            }
            Err(reason) => {
                self.fatal =
                    Some(format!("archive {}: pin the inferred schema: {reason}", context.archives[archive].name));
                return;
            }
        }
        let not_before_ms = self.clock.monotonic_ms();
        for slot in 0..self.partitions.len() {
            let partition = &mut self.partitions[slot];
            if partition.archive != archive {
                continue;
            }
            if let Phase::Sampling { first, .. } = partition.phase {
                partition.next = first;
                partition.phase = Phase::Starting { not_before_ms };
                self.cover_absent(slot);
            }
        }
    }

    /// Called by the driver when the source has started (or refused to start) a partition.
    pub(super) fn started(&mut self, held: &Held, result: Result<(), String>) {
        let not_before_ms = self.clock.monotonic_ms() + START_RETRY_MS;
        let Some(slot) = self.slot_of(held) else { return };
        let partition = &mut self.partitions[slot];
        match result {
            Ok(()) => {
                partition.paused = false;
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
    pub(super) fn start_offset(&mut self, held: &Held) -> Option<i64> {
        let slot = self.slot_of(held)?;
        let partition = &self.partitions[slot];
        match partition.phase {
            Phase::Starting { .. } | Phase::Sampling { .. } => Some(partition.read_from.max(partition.next)),
            _ => None,
        }
    }

    /// Publishes numbers for metrics, health and progress.
    pub(super) fn publish(&self) {
        self.status.publish(&self.partitions, &self.spool, &self.pool);
    }
}

impl SourceSink for Core {
    fn record(&mut self, record: &Record<'_>) {
        let Some(slot) = self.slot(record.topic, record.partition) else { return };
        let partition = &mut self.partitions[slot];
        match partition.phase {
            Phase::Running => {}
            Phase::Sampling { .. } => {
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
        let planned_end = match (&partition.open, &partition.redo) {
            (Some(open), _) => open.planned_end,
            (None, Some(redo)) => Some(redo.end),
            (None, None) => self.drain_to.as_ref().and_then(|to| to.get(&partition.held.partition).copied()),
        };
        if let Some(end) = planned_end.filter(|&end| record.offset >= end) {
            if !self.cover_to(slot, end) {
                return;
            }
            // Behind a redone batch the record is the next batch's first; behind a drain it is nobody's.
            if self.partitions[slot].phase != Phase::Running || self.partitions[slot].open.is_some() {
                return;
            }
        }
        self.append(slot, record);
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
                let (next, drain) = (state.next, self.drain_to.as_ref().and_then(|to| to.get(partition).copied()));
                if drain.is_some_and(|end| next >= end) && self.partitions[slot].read_from >= next {
                    self.drained_without_batch(slot);
                }
                return;
            }
            _ => return,
        }
        // Control records and aborted data at the end are covered too.
        self.cover_to(slot, position);
    }

    fn assigned(&mut self, held: Vec<Held>) {
        let mut mine = Vec::new();
        for held in held {
            let topic = &held.partition.topic;
            let Some(archive) = self.context.archives.iter().position(|archive| archive.topics.matches(topic)) else {
                tracing::warn!(partition = %held.partition, "assigned a topic that no archive wants");
                continue;
            };
            tracing::info!(partition = %held.partition, archive = self.context.archives[archive].name, "partition assigned");
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
        tracing::warn!(%partition, ?log_start, next = self.partitions[slot].next, "the position is outside the log; taking the partition over again");
        self.take_over_again(slot);
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
    /// Everything below `position` is covered, whether records were there or not: the open batch (made if needed) now
    /// reaches there, but not beyond its planned end, and is sealed if that is reached. False where the spool refused.
    fn cover_to(&mut self, slot: usize, position: i64) -> bool {
        let partition = &self.partitions[slot];
        let drain_end = self.drain_to.as_ref().and_then(|to| to.get(&partition.held.partition).copied());
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
        true
    }

    /// `--drain` has nothing (more) to archive in this partition.
    fn drained_without_batch(&mut self, slot: usize) {
        let partition = &mut self.partitions[slot];
        partition.phase = Phase::Drained;
        if !partition.paused {
            partition.paused = true;
            self.requests.push(Request::Pause(partition.held.clone()));
        }
    }
}

/// Reads the offsets of all partitions at once, then takes each over on its own: one that waits for its store holds up no other.
async fn takeover_all(context: Arc<Context>, held: Vec<(Held, usize)>, report: UnboundedSender<Completion>) {
    let Some((first, _)) = held.first() else { return };
    let read = context
        .while_held(first, "read committed offsets", || async {
            match context.coordinator.committed(held.iter().map(|(held, _)| held.partition.clone()).collect()).await {
                Ok(found) => super::context::Try::Done(found),
                Err(reason) => super::context::Try::Again(reason),
            }
        })
        .await;
    let mut found: BTreeMap<TopicPartition, Option<Committed>> = match read {
        Ok(found) => found.into_iter().collect(),
        Err(halt) => {
            // The first one is gone; the others may still be ours and are asked for again.
            for (held, _) in held {
                drop(report.send(Completion::TakenOver { held, result: Err(halt.clone()) }));
            }
            return;
        }
    };
    let work = held.into_iter().map(|(held, archive)| {
        let committed = found.remove(&held.partition);
        let (context, report) = (context.clone(), report.clone());
        async move {
            // No answer for this one: asked again in a moment, without the others.
            let Some(committed) = committed else {
                drop(report.send(Completion::TakenOver { held, result: Err(Halt::NotHeld) }));
                return;
            };
            let result = takeover::take_over(&context, &context.archives[archive], &held, committed).await;
            drop(report.send(Completion::TakenOver { held, result }));
        }
    });
    for takeover in work {
        tokio::spawn(takeover);
    }
}
