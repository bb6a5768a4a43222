//! Receipts against Kafka: what the live group has committed, where the logs begin and end, how many records there are.
//!
//! Committed offsets are asked for before receipts are read, ends of logs after it: so an archive that goes on meanwhile is no fault.

use super::chain::Reach;
use super::finding::Fault;
use crate::batch::metadata::{OffsetMetadata, OffsetState};
use crate::consume::{Committed, CommittedOffsets, LogBounds};
use crate::record::{OffsetRange, TopicPartition};
use futures::future::BoxFuture;
use std::collections::BTreeMap;

/// All that is asked of Kafka. Asked without joining the group. Errors are in words.
pub trait Cluster: Send + Sync {
    /// All topics, with how many partitions they have.
    fn topics(&self) -> BoxFuture<'_, Result<BTreeMap<String, i32>, String>>;
    /// What the live group has committed.
    fn committed(&self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<CommittedOffsets, String>>;
    /// Where a log begins and ends.
    fn bounds(&self, partition: TopicPartition) -> BoxFuture<'_, Result<LogBounds, String>>;
    /// The topic's id; `None`: brokers give none.
    fn topic_id(&self, topic: String) -> BoxFuture<'_, Result<Option<String>, String>>;
    /// Whether the topic is compacted; `None`: it is not known.
    fn is_compacted(&self, topic: String) -> BoxFuture<'_, Result<Option<bool>, String>>;
    /// How many records a consumer with the configured isolation reads in each of `ranges`, which are in offset order; `None` for
    /// those whose end it does not reach. `seen` is called with how many more it has read.
    fn count(
        &self,
        partition: TopicPartition,
        ranges: Vec<OffsetRange>,
        seen: Box<dyn Fn(u64) + Send>,
    ) -> BoxFuture<'_, Result<Vec<Option<u64>>, String>>;
}

/// Counts records by range. Pure.
#[derive(Debug)]
pub struct Counting {
    ranges: Vec<OffsetRange>,
    counts: Vec<u64>,
    /// All ranges before it are behind.
    begin: usize,
}

impl Counting {
    /// `ranges` in the order of their first offsets.
    pub fn new(ranges: Vec<OffsetRange>) -> Self {
        let counts = vec![0; ranges.len()];
        Self { ranges, counts, begin: 0 }
    }

    /// First offset to read and one past the last.
    pub fn span(&self) -> Option<OffsetRange> {
        let end = self.ranges.iter().map(|range| range.end).max()?;
        Some(OffsetRange::new(self.ranges.first()?.first, end))
    }

    /// The record at `offset`, behind all before it.
    pub fn record(&mut self, offset: i64) {
        while self.ranges.get(self.begin).is_some_and(|range| range.end <= offset) {
            self.begin += 1;
        }
        for (range, count) in self.ranges[self.begin..].iter().zip(&mut self.counts[self.begin..]) {
            if range.first > offset {
                break;
            }
            *count += u64::from(range.contains(offset));
        }
    }

    /// Reading has covered everything below `position`.
    pub fn end(self, position: i64) -> Vec<Option<u64>> {
        let counted = self.ranges.iter().zip(self.counts);
        counted.map(|(range, count)| (range.end <= position).then_some(count)).collect()
    }
}

/// Ranges, and what is wrong with them.
type Faults = Vec<(OffsetRange, Fault)>;
/// Words and sentences that are told besides.
type Notes = Vec<(&'static str, String)>;

/// What receipts of one Kafka partition say that Kafka can tell, too.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// What was committed before they were read; `None`: nothing, or it could not be told.
    pub(super) committed: Option<Committed>,
    /// Where the log began before they were read; `None`: Kafka does not know the partition.
    pub(super) log_start: Option<i64>,
    /// The topic's id.
    pub(super) topic_id: Option<String>,
    /// Where the batches end.
    pub(super) reach: Reach,
    /// The newest claim, without a receipt, was told as one of a backfill.
    pub(super) is_of_job: bool,
    /// The receipt that reaches furthest.
    pub(super) last: Option<OffsetRange>,
    /// From the first to the last receipt of another topic of that name, and its id.
    pub(super) other_topic: Option<(OffsetRange, String)>,
    /// Ranges that were wholly in the log, with the records that they counted: 24 bytes each.
    pub(super) counted: Vec<(OffsetRange, u64)>,
}

impl Side {
    /// Takes in a receipt. `counts`: its records are to be counted.
    pub(super) fn receipt(&mut self, range: OffsetRange, topic_id: Option<&String>, consumed: u64, counts: bool) {
        if self.last.is_none_or(|last| range.end >= last.end) {
            self.last = Some(range);
        }
        if let (Some(expected), Some(found)) = (topic_id, &self.topic_id)
            && expected != found
        {
            let (other, _) = self.other_topic.get_or_insert_with(|| (range, expected.clone()));
            other.end = other.end.max(range.end);
        }
        if counts && self.log_start.is_some_and(|start| start <= range.first) && range.first < range.end {
            self.counted.push((range, consumed));
        }
    }

    /// What is wrong with where receipts end: ranges, and what; and what is told besides.
    pub(super) fn compare(&self, bounds: LogBounds) -> (Faults, Notes) {
        let (mut faults, mut notes) = (Vec::new(), Vec::new());
        if let Some((range, id)) = &self.other_topic {
            let found = self.topic_id.clone().unwrap_or_default();
            faults.push((*range, Fault::TopicId { expected: id.clone(), found }));
        }
        if let Some(last) = self.last.filter(|last| last.end > bounds.end) {
            faults.push((last, Fault::BeyondLog { log_end: bounds.end }));
        }
        match &self.committed {
            None if self.reach.vouched.is_some() => {
                notes.push((
                    "no_offset",
                    "the group has no committed offset: it expired, or its name was changed".into(),
                ));
            }
            None => {}
            Some(committed) => self.compare_committed(committed, &mut faults, &mut notes),
        }
        (faults, notes)
    }

    fn compare_committed(&self, committed: &Committed, faults: &mut Faults, notes: &mut Notes) {
        let offset = committed.offset;
        let metadata = OffsetMetadata::decode(&committed.metadata);
        let covered = match (self.reach.vouched, &metadata) {
            (Some(vouched), _) => vouched,
            (None, Some(OffsetMetadata { previous_first: Some(first), .. })) => *first,
            (None, Some(OffsetMetadata { state: OffsetState::Done, .. })) => self.log_start.unwrap_or(offset),
            // Nothing was archived before it.
            (None, Some(_)) => return,
            (None, None) => {
                let what = format!("offset {offset} was committed by another tool, and there is no receipt");
                notes.push(("not_begun", what));
                return;
            }
        };
        if covered > offset {
            let what = match metadata.map(|metadata| metadata.state) {
                Some(OffsetState::Plan { end, .. }) => format!("a batch is planned to {end}"),
                _ => "its batch is about to be committed, or somebody has set the offset back".to_string(),
            };
            notes.push((
                "ahead",
                format!("receipts reach {covered}, and the group's committed offset is {offset}: {what}"),
            ));
        }
        let mut from = covered;
        if let Some(open) = self.reach.open.filter(|open| open.first < offset) {
            if from < open.first {
                faults.push((OffsetRange::new(from, open.first), Fault::Gap));
            }
            faults.push((OffsetRange::new(open.first, open.end.min(offset)), Fault::Unfinished));
            from = from.max(open.end);
        }
        if from < offset {
            faults.push((OffsetRange::new(from, offset), Fault::Gap));
        }
    }
}

/// What counts say: `None`: nothing is wrong. More records in Kafka than were read is a fault; fewer only where they cannot have
/// gone: the topic is known not to be compacted, and the log still begins at or before the range.
pub(super) fn compare_count(
    range: OffsetRange,
    consumed: u64,
    found: u64,
    is_compacted: Option<bool>,
    log_start: i64,
) -> Option<Fault> {
    let all_there = is_compacted == Some(false) && log_start <= range.first;
    let is_wrong = found > consumed || (found < consumed && all_there);
    is_wrong.then_some(Fault::Count { consumed, found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: i64, end: i64) -> OffsetRange {
        OffsetRange::new(first, end)
    }

    proptest! {
        #[test]
        fn records_are_counted_in_every_range(
            mut ranges in prop::collection::vec((0..50_i64, 0..9_i64), 0..20),
            offsets in prop::collection::btree_set(0..60_i64, 0..60),
            position in 0..60_i64,
        ) {
            ranges.sort_unstable();
            let ranges: Vec<_> = ranges.iter().map(|&(first, count)| range(first, first + count)).collect();
            let mut counting = Counting::new(ranges.clone());
            for &offset in &offsets {
                counting.record(offset);
            }
            let expected: Vec<_> = ranges.iter().map(|range| {
                let count = offsets.iter().filter(|&&offset| range.contains(offset)).count() as u64;
                (range.end <= position).then_some(count)
            }).collect();
            prop_assert_eq!(counting.end(position), expected);
        }
    }

    #[test]
    fn fewer_records_are_no_fault_where_they_may_have_gone() {
        let wrong = |consumed, found, compacted, start| {
            compare_count(range(10, 20), consumed, found, compacted, start).is_some()
        };
        for compacted in [None, Some(true), Some(false)] {
            assert!(!wrong(5, 5, compacted, 0));
            assert!(wrong(5, 6, compacted, 0));
        }
        assert!(wrong(5, 4, Some(false), 10));
        assert!(!wrong(5, 4, Some(false), 11), "retention ran into it");
        assert!(!wrong(5, 4, Some(true), 0) && !wrong(5, 4, None, 0));
    }

    #[test]
    fn receipts_reach_what_is_committed() {
        let done = OffsetMetadata::new(OffsetState::Done, 1);
        let mut after = done.clone();
        after.previous_first = Some(40);
        let start = OffsetMetadata::new(OffsetState::Start, 1);
        let bounds = LogBounds { start: 0, end: 100, readable_end: 100 };
        let side = |vouched, open: Option<(i64, i64)>, offset: i64, metadata: &OffsetMetadata| Side {
            committed: Some(Committed { offset, metadata: metadata.encode() }),
            log_start: Some(0),
            reach: Reach { vouched, open: open.map(|(first, end)| range(first, end)) },
            last: vouched.map(|end| range(0, end)),
            ..Side::default()
        };
        let gap = |first, end| (range(first, end), Fault::Gap);
        let cases = [
            (side(Some(50), None, 50, &done), vec![], 0),
            (side(Some(50), Some((50, 60)), 50, &done), vec![], 0),
            (side(Some(60), None, 50, &done), vec![], 1),
            (side(Some(50), None, 60, &done), vec![gap(50, 60)], 0),
            (side(Some(50), Some((50, 60)), 60, &done), vec![(range(50, 60), Fault::Unfinished)], 0),
            (
                side(Some(40), Some((50, 60)), 70, &done),
                vec![gap(40, 50), (range(50, 60), Fault::Unfinished), gap(60, 70)],
                0,
            ),
            (side(None, None, 0, &start), vec![], 0),
            (side(None, None, 50, &done), vec![gap(0, 50)], 0),
            (side(None, None, 50, &after), vec![gap(40, 50)], 0),
            (side(Some(120), None, 120, &done), vec![(range(0, 120), Fault::BeyondLog { log_end: 100 })], 0),
        ];
        for (side, faults, notes) in cases {
            let (found, told) = side.compare(bounds);
            assert_eq!((found, told.len()), (faults, notes), "{side:?}");
        }
        let forgotten = Side { committed: None, ..side(Some(50), None, 0, &done) };
        assert_eq!(forgotten.compare(bounds).1[0].0, "no_offset");
    }

    #[test]
    fn receipts_of_another_topic_are_told_once() {
        let mut side = Side { topic_id: Some("new".into()), log_start: Some(15), ..Side::default() };
        for (first, id) in [(0, "old"), (10, "old"), (20, "new")] {
            side.receipt(range(first, first + 10), Some(&id.to_string()), 7, true);
        }
        assert_eq!(side.counted, [(range(20, 30), 7)], "those before the log's begin cannot be counted");
        let (faults, _) = side.compare(LogBounds { start: 15, end: 30, readable_end: 30 });
        assert_eq!(faults, [(range(0, 20), Fault::TopicId { expected: "old".into(), found: "new".into() })]);
    }
}
