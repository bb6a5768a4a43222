//! What a backfill archives: for each Kafka partition the offsets, and where its batches end. Pure.
//!
//! ```text
//! ranges  [1000 ─────────────── 4500)          [9000 ── 9700)
//! pieces  [1000, 2000)[2000, 4000)[4000, 4500) [9000, 9700)        chunk = 2000
//! ```
//! A batch of a backfill ends at the end of its piece, wherever it began. So the borders are a function of the ranges and the chunk alone,
//! and whoever does the rest of a job cuts it as the one before would have.

use crate::record::{OffsetRange, TopicPartition};
use std::collections::BTreeMap;

/// The offsets of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Disjoint, in offset order, none of them empty.
    ranges: BTreeMap<TopicPartition, Vec<OffsetRange>>,
    /// Batches end at multiples of it.
    chunk: i64,
    /// The id that the topic had when the job was made.
    topic_id: Option<String>,
    /// Partitions that one process archives at the same time.
    parallel: usize,
}

impl Schedule {
    /// A schedule of `ranges`, in any order; those that touch or overlap become one. `chunk` is in offsets, at least 1.
    pub fn new(
        ranges: impl IntoIterator<Item = (TopicPartition, OffsetRange)>,
        chunk: i64,
        topic_id: Option<String>,
    ) -> Self {
        let mut by_partition: BTreeMap<TopicPartition, Vec<OffsetRange>> = BTreeMap::new();
        for (partition, range) in ranges {
            by_partition.entry(partition).or_default().push(range);
        }
        by_partition.values_mut().for_each(|ranges| *ranges = union(std::mem::take(ranges)));
        by_partition.retain(|_, ranges| !ranges.is_empty());
        Self { ranges: by_partition, chunk: chunk.max(1), topic_id, parallel: usize::MAX }
    }

    /// The same, but so many partitions at the same time in each process.
    pub fn in_parallel(self, partitions: usize) -> Self {
        Self { parallel: partitions.max(1), ..self }
    }

    /// Partitions that one process archives at the same time.
    pub fn parallel(&self) -> usize {
        self.parallel
    }

    /// The topic's id, where it was known.
    pub fn topic_id(&self) -> Option<&str> {
        self.topic_id.as_deref()
    }

    /// What there is to archive.
    pub fn ranges(&self) -> &BTreeMap<TopicPartition, Vec<OffsetRange>> {
        &self.ranges
    }

    /// Where each partition's last range ends.
    pub fn ends(&self) -> BTreeMap<TopicPartition, i64> {
        let end = |ranges: &Vec<OffsetRange>| ranges.last().map_or(0, |range| range.end);
        self.ranges.iter().map(|(partition, ranges)| (partition.clone(), end(ranges))).collect()
    }

    /// The first offset at or above `offset` that there is to archive; `None` where all is below.
    pub fn next(&self, partition: &TopicPartition, offset: i64) -> Option<i64> {
        let range = self.ranges.get(partition)?.iter().find(|range| range.end > offset)?;
        Some(range.first.max(offset))
    }

    /// What is archived from `offset` on without anything between: up to the end of the range that holds it. `None` where none does.
    pub fn stretch(&self, partition: &TopicPartition, offset: i64) -> Option<Stretch> {
        let range = self.ranges.get(partition)?.iter().find(|range| range.contains(offset))?;
        Some(Stretch { end: range.end, chunk: self.chunk })
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> u64 {
        let pieces = |range: &OffsetRange| {
            let last = range.end.saturating_sub(1).div_euclid(self.chunk);
            (last - range.first.div_euclid(self.chunk) + 1).unsigned_abs()
        };
        self.ranges.values().flatten().map(pieces).sum()
    }
}

/// Offsets up to `end`, in batches that end at multiples of `chunk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where the last batch ends.
    pub end: i64,
    /// Where the others do: at multiples of it. At least 1.
    pub chunk: i64,
}

impl Stretch {
    /// Where the batch that begins at `first` ends; `None` where the stretch is over.
    pub fn end_of(&self, first: i64) -> Option<i64> {
        let border = (first - first.rem_euclid(self.chunk)).saturating_add(self.chunk);
        (first < self.end).then(|| border.min(self.end))
    }

    /// The same, but no further than `limit`.
    pub fn up_to(self, limit: i64) -> Self {
        Self { end: self.end.min(limit), ..self }
    }
}

/// The same offsets as disjoint ranges in order, none of them empty, no two of them touching.
pub fn union(mut ranges: Vec<OffsetRange>) -> Vec<OffsetRange> {
    ranges.retain(|range| range.first < range.end);
    ranges.sort_unstable_by_key(|range| (range.first, range.end));
    let mut joined: Vec<OffsetRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.first <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// The offsets of `wanted` that are in none of `taken`: disjoint ranges in order. Both in any order.
pub fn without(wanted: Vec<OffsetRange>, taken: Vec<OffsetRange>) -> Vec<OffsetRange> {
    let taken = union(taken);
    let mut left = Vec::new();
    for range in union(wanted) {
        let mut first = range.first;
        for other in taken.iter().filter(|other| other.end > range.first && other.first < range.end) {
            if other.first > first {
                left.push(OffsetRange::new(first, other.first));
            }
            first = first.max(other.end);
        }
        if first < range.end {
            left.push(OffsetRange::new(first, range.end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new("access", number)
    }

    fn ranges(ranges: &[(i64, i64)]) -> Vec<OffsetRange> {
        ranges.iter().map(|&(first, end)| OffsetRange::new(first, end)).collect()
    }

    fn schedule(of: &[(i64, i64)], chunk: i64) -> Schedule {
        Schedule::new(ranges(of).into_iter().map(|range| (partition(3), range)), chunk, None)
    }

    fn ends_from(schedule: &Schedule, offset: i64) -> Vec<i64> {
        let stretch = schedule.stretch(&partition(3), offset);
        let next = |&first: &i64| stretch.and_then(|stretch| stretch.end_of(first));
        std::iter::successors(Some(offset), next).skip(1).collect()
    }

    #[test]
    fn batches_end_at_multiples_of_the_chunk_and_at_the_ends_of_ranges() {
        let schedule = schedule(&[(1000, 4500), (9000, 9700)], 2000);
        let ends = |offset| ends_from(&schedule, offset);
        assert_eq!(ends(1000), [2000, 4000, 4500]);
        assert_eq!(ends(1999), [2000, 4000, 4500]);
        assert_eq!(ends(2000), [4000, 4500]);
        assert_eq!(ends(4499), [4500]);
        assert_eq!((ends(999), ends(4500), ends(9700)), (vec![], vec![], vec![]));
        assert_eq!(ends(9000), [9700]);
        let next = |offset| schedule.next(&partition(3), offset);
        assert_eq!(
            (next(0), next(1500), next(4500), next(9699), next(9700)),
            (Some(1000), Some(1500), Some(9000), Some(9699), None)
        );
        assert_eq!(schedule.next(&partition(0), 0), None);
        assert_eq!((schedule.pieces(), schedule.ends()[&partition(3)]), (4, 9700));
    }

    proptest! {
        /// Goal: the ends from any offset are those from the beginning, without the ones below. Method: compare with a walk over offsets.
        #[test]
        fn ends_do_not_depend_on_where_one_begins(
            of in proptest::collection::vec((0_i64..300, 1_i64..60), 0..6), chunk in 1_i64..40, offset in 0_i64..400,
        ) {
            let of: Vec<(i64, i64)> = of.into_iter().map(|(first, length)| (first, first + length)).collect();
            let schedule = schedule(&of, chunk);
            let holds = |offset: i64| of.iter().any(|&(first, end)| first <= offset && offset < end);
            let mut expected = Vec::new();
            let mut at = offset;
            while holds(at) {
                at += 1;
                if at % chunk == 0 || !holds(at) {
                    expected.push(at);
                }
            }
            prop_assert_eq!(ends_from(&schedule, offset), expected);
            prop_assert_eq!(schedule.next(&partition(3), offset), (offset..400).find(|&offset| holds(offset)));
            let borders = (0..400_i64).filter(|&at| holds(at) && ((at + 1) % chunk == 0 || !holds(at + 1))).count();
            prop_assert_eq!(schedule.pieces(), borders as u64);
        }

        #[test]
        fn what_is_left_is_wanted_and_not_taken(
            wanted in proptest::collection::vec((0_i64..200, 0_i64..50), 0..6), taken in proptest::collection::vec((0_i64..200, 0_i64..50), 0..6),
        ) {
            let of = |ranges: &[(i64, i64)]| -> Vec<OffsetRange> {
                ranges.iter().map(|&(first, length)| OffsetRange::new(first, first + length)).collect()
            };
            let holds = |ranges: &[OffsetRange], offset| ranges.iter().any(|range| range.contains(offset));
            let (wanted, taken) = (of(&wanted), of(&taken));
            let left = without(wanted.clone(), taken.clone());
            for offset in 0..260 {
                prop_assert_eq!(holds(&left, offset), holds(&wanted, offset) && !holds(&taken, offset), "{}", offset);
            }
            prop_assert!(left.iter().all(|range| range.first < range.end));
            prop_assert!(left.windows(2).all(|pair| pair[0].end < pair[1].first));
        }
    }
}
