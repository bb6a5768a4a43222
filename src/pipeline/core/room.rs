//! Keeping within memory and spool: spilling rows, sealing early, putting redone batches off.

use super::relief::{self, GoOn, Open, Relief, State};
use super::{Core, Request};
use crate::batch::rotation::SealReason;
use crate::pipeline::partition::{Partition, Phase};

/// How long a redone batch waits that had no room beside another.
const REDO_LATER_MS: i64 = 30_000;
/// How long others give way to a redone batch that waits for the schema registry.
pub(super) const REDO_PATIENCE_MS: i64 = 30_000;
/// How long such a batch then waits: it is read again up to where it waited, for nothing if the registry is still out of reach.
const REDO_MUCH_LATER_MS: i64 = 300_000;

impl Core {
    /// What of `limit` bytes open batches have: the names of sealed ones, which stay in memory until they are committed, take theirs
    /// from it, but never more than half.
    fn left_for_open(&self, limit: usize) -> usize {
        limit - self.sealed_memory().min(limit / 2)
    }

    fn sealed_memory(&self) -> usize {
        self.partitions.iter().map(Partition::sealed_memory).sum()
    }

    /// Whether no record should be taken before a sealed batch is through: those that are on their way take more than half of
    /// `limit` bytes with their names alone.
    pub(in crate::pipeline) fn is_crowded(&self, limit: usize) -> bool {
        self.sealed_memory() > limit / 2
    }

    /// What is open, for decisions about it.
    fn open(&self) -> Vec<Open> {
        let now_ms = self.clock.monotonic_ms();
        let open = |(slot, partition): (usize, &Partition)| {
            let batch = partition.open.as_ref()?;
            let state = state(partition, now_ms);
            Some(Open { slot, memory: batch.memory, spooled: batch.spooled(), state })
        };
        self.partitions.iter().enumerate().filter_map(open).collect()
    }

    /// Moves rows to disk until the memory of open batches is back under three quarters of what they have of `limit`.
    pub(in crate::pipeline) fn spill(&mut self, limit: usize) {
        let left = self.left_for_open(limit);
        let mut memory: usize = self.partitions.iter().map(Partition::memory).sum();
        if memory <= left {
            return;
        }
        let mut sizes = Vec::new();
        for (slot, partition) in self.partitions.iter().enumerate() {
            let parts = partition.open.iter().flat_map(|open| open.parts.iter().enumerate());
            sizes.extend(parts.map(|(part, open)| (open.part.memory(), slot, part)));
        }
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        for (bytes, slot, part) in sizes {
            if memory <= left / 4 * 3 {
                break;
            }
            let Some(open) = self.partitions[slot].open.as_mut() else { continue };
            if let Err(error) = open.parts[part].part.spill() {
                self.local_failure(slot, &format!("spill rows: {error}"));
                // What was open of the partition is gone, with all its parts.
                memory = self.partitions.iter().map(Partition::memory).sum();
                continue;
            }
            open.memory = open.memory.saturating_sub(bytes);
            memory = memory.saturating_sub(bytes);
        }
        // Nothing is left to spill: it is the parts themselves that take the room.
        self.relieve(relief::in_memory(&self.open(), left));
    }

    /// Seals the batch that takes most room, so that a full spool empties.
    pub(in crate::pipeline) fn relieve_spool(&mut self) {
        self.spool.clear();
        if !self.spool.is_full() {
            return;
        }
        // What is on its way up makes room soon.
        if self.partitions.iter().any(|partition| partition.sealed.is_some()) {
            return;
        }
        self.relieve(relief::in_spool(&self.open()));
    }

    fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Nothing => {}
            Relief::Seal(slot) => self.seal_or_wait(slot, SealReason::Pressure),
            Relief::Yield { seal } => {
                self.give_way(|partition| partition.sealed.is_some());
                if let Some(slot) = seal {
                    self.seal_or_wait(slot, SealReason::Pressure);
                }
            }
            Relief::GiveWay { seal, put_off } => {
                self.give_way(|_| true);
                for slot in seal {
                    self.seal_or_wait(slot, SealReason::Pressure);
                }
                self.put_off(&put_off);
            }
            Relief::PutOff(slots) => self.put_off(&slots),
        }
    }

    /// Throws redone batches away, to begin them again later.
    fn put_off(&mut self, slots: &[usize]) {
        let now_ms = self.clock.monotonic_ms();
        for &slot in slots {
            let partition = &self.partitions[slot];
            let is_stuck = state(partition, now_ms) == State::Stuck;
            let later_ms = if is_stuck { REDO_MUCH_LATER_MS } else { REDO_LATER_MS };
            tracing::warn!(
                partition = %partition.held.partition, waits_for_registry = is_stuck, later_ms,
                "memory or spool is full; redoing this batch later"
            );
            self.take_over_again(slot);
            self.partitions[slot].phase = Phase::Waiting { not_before_ms: now_ms + later_ms };
        }
    }

    /// While batches that nobody can end fill memory or spool, these are not read: they would be sealed again at once.
    fn give_way(&mut self, these: impl Fn(&Partition) -> bool) {
        for partition in &mut self.partitions {
            if partition.redo.is_none() && partition.phase == Phase::Running && !partition.paused && these(partition) {
                (partition.paused, partition.yields) = (true, true);
                self.requests.push(Request::Pause(partition.held.clone()));
            }
        }
    }

    /// Those that yielded go on if there is room again, of the spool and of `limit` bytes.
    pub(in crate::pipeline) fn end_yielding(&mut self, limit: usize) {
        if !self.partitions.iter().any(|partition| partition.yields) {
            return;
        }
        let who = relief::who_goes_on(&self.open(), self.left_for_open(limit));
        for slot in 0..self.partitions.len() {
            let partition = &mut self.partitions[slot];
            match who {
                GoOn::Nobody => return,
                GoOn::Through if partition.sealed.is_some() => continue,
                GoOn::Through | GoOn::All => {}
            }
            if std::mem::take(&mut partition.yields) && partition.due.is_none() && partition.phase == Phase::Running {
                self.go_on_reading(slot);
            }
        }
    }

    /// Whether records can be taken although the spool is full: when one batch, whose end is fixed, holds it all.
    pub(in crate::pipeline) fn only_one_redo_is_open(&self) -> bool {
        let mut open =
            self.partitions.iter().filter(|partition| partition.open.is_some() || partition.sealed.is_some());
        let first = open.next();
        first.is_some_and(|partition| partition.redo.is_some() && partition.sealed.is_none()) && open.next().is_none()
    }
}

/// What can be done about the batch of `partition` that is open.
fn state(partition: &Partition, now_ms: i64) -> State {
    match (&partition.redo, &partition.phase) {
        (Some(_), Phase::AwaitingSchema { since_ms, .. }) if now_ms - since_ms >= REDO_PATIENCE_MS => State::Stuck,
        (Some(_), _) => State::Redone,
        (None, _) if partition.due.is_some() => State::Due,
        (None, _) if partition.sealed.is_some() => State::Behind,
        (None, _) => State::Free,
    }
}
