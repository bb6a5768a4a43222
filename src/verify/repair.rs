//! What must be archived again to mend an archive: no more than what was found to be missing or damaged. Pure.

use super::finding::Finding;
use crate::record::{OffsetRange, TopicPartition};
use std::collections::BTreeMap;

/// Ranges of one Kafka partition are merged whenever there are this many more than after the last time.
const MERGE_EVERY: usize = 1_024;

/// For each Kafka partition the ranges to archive again: those that nobody vouches for, and the whole ranges of batches that have an
/// object which is missing or is not as its receipt says. Sorted by topic, partition and offset; ranges neither touch nor overlap.
///
/// Half-open, as everywhere. A range may hold offsets that other receipts vouch for only where receipts overlap.
/// Memory: 16 bytes a range; neighbours are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    ranges: BTreeMap<TopicPartition, Ranges>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges {
    list: Vec<OffsetRange>,
    merged: usize,
}

impl Repairs {
    /// Takes in what a finding says.
    pub fn add(&mut self, finding: &Finding) {
        if let Some(range) = finding.redo() {
            self.add_range(&finding.partition, range);
        }
    }

    fn add_range(&mut self, partition: &TopicPartition, range: OffsetRange) {
        let ranges = self.ranges.entry(partition.clone()).or_default();
        ranges.list.push(range);
        if ranges.list.len() >= ranges.merged + MERGE_EVERY {
            ranges.list = merged(std::mem::take(&mut ranges.list));
            ranges.merged = ranges.list.len();
        }
    }

    /// The ranges, merged and sorted. Empty: nothing is to be archived again.
    pub fn into_ranges(self) -> BTreeMap<TopicPartition, Vec<OffsetRange>> {
        self.ranges.into_iter().map(|(partition, ranges)| (partition, merged(ranges.list))).collect()
    }
}

/// The same offsets in as few ranges as there can be, sorted.
pub fn merged(mut ranges: Vec<OffsetRange>) -> Vec<OffsetRange> {
    ranges.retain(|range| range.first < range.end);
    ranges.sort_unstable();
    let mut kept: Vec<OffsetRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match kept.last_mut() {
            Some(last) if range.first <= last.end => last.end = last.end.max(range.end),
            _ => kept.push(range),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_same_offsets_whatever_the_order(list in prop::collection::vec((0..60_i64, 0..9_i64), 0..30)) {
            let ranges: Vec<_> = list.iter().map(|&(first, count)| OffsetRange::new(first, first + count)).collect();
            let merged_ranges = merged(ranges.clone());
            for offset in 0..80 {
                let before = ranges.iter().any(|range| range.contains(offset));
                prop_assert_eq!(before, merged_ranges.iter().any(|range| range.contains(offset)), "{}", offset);
            }
            prop_assert!(merged_ranges.windows(2).all(|pair| pair[0].end < pair[1].first), "{:?}", merged_ranges);
            prop_assert!(merged_ranges.iter().all(|range| range.first < range.end));
            let mut other_order = ranges;
            other_order.reverse();
            prop_assert_eq!(merged(other_order), merged_ranges);
        }
    }

    #[test]
    fn many_ranges_stay_few() {
        let mut repairs = Repairs::default();
        let partition = TopicPartition::new("t", 0);
        for first in 0..100_000 {
            repairs.add_range(&partition, OffsetRange::new(first, first + 1));
            assert!(repairs.ranges[&partition].list.len() < 2 * MERGE_EVERY);
        }
        let ranges = repairs.into_ranges();
        assert_eq!(ranges, BTreeMap::from([(partition, vec![OffsetRange::new(0, 100_000)])]));
    }
}
