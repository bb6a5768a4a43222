//! Keeping within memory and spool: spilling rows, sealing early, putting redone batches off.

use super::{Core, Request};
use crate::batch::rotation::SealReason;
use crate::pipeline::partition::{Partition, Phase};

/// How long a redone batch waits that had no room in the spool beside another.
const REDO_LATER_MS: i64 = 30_000;

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

    /// Whether redone batches, which end where they were cut, take so much of `limit` bytes that others would be sealed again at once.
    pub(in crate::pipeline) fn redo_is_large(&self, limit: usize) -> bool {
        let redone = self.partitions.iter().filter(|partition| partition.redo.is_some());
        redone.map(Partition::memory).sum::<usize>() > self.left_for_open(limit) / 2
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
                continue;
            }
            open.memory = open.memory.saturating_sub(bytes);
            memory = memory.saturating_sub(bytes);
        }
        if memory <= left {
            return;
        }
        // Nothing is left to spill: it is the parts themselves that take the room.
        if self.redo_is_large(limit) {
            self.yield_to_redo();
            return self.put_off_redos();
        }
        let largest = (0..self.partitions.len())
            .filter(|&slot| self.partitions[slot].redo.is_none() && self.partitions[slot].due.is_none())
            .max_by_key(|&slot| self.partitions[slot].memory());
        if let Some(slot) = largest {
            self.seal_or_wait(slot, SealReason::Pressure);
        }
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
        let open = |slot: usize| {
            let partition = &self.partitions[slot];
            Some((partition.redo.is_some(), partition.open.as_ref()?.dir().bytes(), slot))
        };
        let mut batches: Vec<_> = (0..self.partitions.len()).filter_map(open).collect();
        batches.sort_unstable();
        if let Some(&(_, _, slot)) = batches.iter().rev().find(|(redo, _, _)| !redo) {
            return self.seal(slot, SealReason::Pressure);
        }
        self.yield_to_redo();
        self.put_off_redos();
    }

    /// Only redone batches are open, or they fill memory, and they end where they were cut: lets the one that is furthest along finish first.
    fn put_off_redos(&mut self) {
        let open = |slot: usize| {
            let partition = &self.partitions[slot];
            partition.redo.as_ref()?;
            Some((partition.open.as_ref()?.dir().bytes(), slot))
        };
        let mut batches: Vec<_> = (0..self.partitions.len()).filter_map(open).collect();
        batches.sort_unstable();
        batches.pop();
        for (_, slot) in batches {
            tracing::warn!(partition = %self.partitions[slot].held.partition, "memory or spool is full; redoing this batch later");
            self.take_over_again(slot);
            self.partitions[slot].phase = Phase::Waiting { not_before_ms: self.clock.monotonic_ms() + REDO_LATER_MS };
        }
    }

    /// While redone batches fill memory or spool, nothing else is read: it would be sealed again at once.
    fn yield_to_redo(&mut self) {
        for partition in &mut self.partitions {
            if partition.redo.is_none() && partition.phase == Phase::Running && !partition.paused {
                (partition.paused, partition.yields) = (true, true);
                self.requests.push(Request::Pause(partition.held.clone()));
            }
        }
    }

    /// There is room again.
    pub(in crate::pipeline) fn end_yielding(&mut self) {
        for slot in 0..self.partitions.len() {
            let partition = &mut self.partitions[slot];
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
