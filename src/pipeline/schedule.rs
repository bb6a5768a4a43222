//! What a backfill archives: for each Kafka partition the offsets, and where its batches end. Pure.
//!
//! ```text
//! ranges  [1000 ─────────────── 4500)          [9000 ── 9700)
//! pieces  [1000, 2000)[2000, 4000)[4000, 4500) [9000, 9700)        chunk = 2000
//! ```
//! A batch of a backfill ends at the end of its piece, wherever it began. So the borders are a function of the ranges and the chunk alone,
//! and whoever does the rest of a job cuts it as the one before would have. What is to be one batch again, as it was once, is cut nowhere.

use crate::record::{OffsetRange, TopicPartition};
use crate::upload::Look;
use std::collections::{BTreeMap, BTreeSet};

/// The offsets of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Disjoint, in offset order, none of them empty.
    spans: BTreeMap<TopicPartition, Vec<Span>>,
    /// Batches end at multiples of it.
    chunk: i64,
    /// The id that the topic had when the job was made.
    topic_id: Option<String>,
    /// Partitions that one process archives at the same time.
    parallel: usize,
    /// First offsets of batches whose objects are read before they are taken for intact.
    read_back: BTreeMap<TopicPartition, BTreeSet<i64>>,
    /// Offsets that never become absent: disjoint, in order.
    never_absent: BTreeMap<TopicPartition, Vec<OffsetRange>>,
    /// The job that it is of.
    job: Option<String>,
}

/// Offsets without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    range: OffsetRange,
    /// They are one batch, whatever the chunk.
    is_batch: bool,
}

impl Schedule {
    /// A schedule of `ranges`, in any order; those that touch or overlap become one. `chunk` is in offsets, at least 1.
    pub fn new(
        ranges: impl IntoIterator<Item = (TopicPartition, OffsetRange)>,
        chunk: i64,
        topic_id: Option<String>,
    ) -> Self {
        Self::with_batches(ranges, [], chunk, topic_id)
    }

    /// The same with `batches` beside the ranges: each of them is one batch, whatever the chunk, and none is joined with another one.
    /// Offsets that several of them have are the first one's.
    pub fn with_batches(
        ranges: impl IntoIterator<Item = (TopicPartition, OffsetRange)>,
        batches: impl IntoIterator<Item = (TopicPartition, OffsetRange)>,
        chunk: i64,
        topic_id: Option<String>,
    ) -> Self {
        let mut of_ranges: BTreeMap<TopicPartition, Vec<OffsetRange>> = BTreeMap::new();
        for (partition, range) in ranges {
            of_ranges.entry(partition).or_default().push(range);
        }
        let mut of_batches: BTreeMap<TopicPartition, Vec<OffsetRange>> = BTreeMap::new();
        for (partition, range) in batches {
            of_ranges.entry(partition.clone()).or_default();
            of_batches.entry(partition).or_default().push(range);
        }
        let mut spans = BTreeMap::new();
        for (partition, ranges) in of_ranges {
            let mut batches = of_batches.remove(&partition).unwrap_or_default();
            batches.sort_unstable();
            let mut end = i64::MIN;
            for batch in &mut batches {
                batch.first = batch.first.max(end);
                end = end.max(batch.end);
            }
            batches.retain(|batch| batch.first < batch.end);
            let ranges = without(ranges, batches.clone());
            let span = |is_batch| move |range| Span { range, is_batch };
            let mut all: Vec<Span> =
                ranges.into_iter().map(span(false)).chain(batches.into_iter().map(span(true))).collect();
            all.sort_unstable_by_key(|span| span.range);
            if !all.is_empty() {
                spans.insert(partition, all);
            }
        }
        let (read_back, never_absent) = (BTreeMap::new(), BTreeMap::new());
        Self { spans, chunk: chunk.max(1), topic_id, parallel: usize::MAX, read_back, never_absent, job: None }
    }

    /// The same, carried out for as long as the job of that name has not ended.
    pub fn of_job(self, name: &str) -> Self {
        Self { job: Some(name.to_string()), ..self }
    }

    /// The job that it is of, where it is of one.
    pub fn job(&self) -> Option<&str> {
        self.job.as_deref()
    }

    /// The same, but so many partitions at the same time in each process.
    pub fn in_parallel(self, partitions: usize) -> Self {
        Self { parallel: partitions.max(1), ..self }
    }

    /// The same, but the objects of the batches that begin at these offsets are read before they are taken for intact.
    pub fn reading_back(mut self, batches: impl IntoIterator<Item = (TopicPartition, i64)>) -> Self {
        for (partition, first) in batches {
            self.read_back.entry(partition).or_default().insert(first);
        }
        self
    }

    /// The same, but no batch declares these offsets absent: objects that no receipt names hold rows of them.
    pub fn never_absent(mut self, ranges: impl IntoIterator<Item = (TopicPartition, OffsetRange)>) -> Self {
        for (partition, range) in ranges {
            self.never_absent.entry(partition).or_default().push(range);
        }
        self.never_absent.values_mut().for_each(|ranges| *ranges = union(std::mem::take(ranges)));
        self
    }

    /// The first offsets of `range` that no batch may declare absent; `None` where it may all of them.
    pub fn kept_of(&self, partition: &TopicPartition, range: OffsetRange) -> Option<OffsetRange> {
        let ranges = self.never_absent.get(partition)?;
        let kept = ranges.get(ranges.partition_point(|kept| kept.end <= range.first))?;
        let met = OffsetRange::new(kept.first.max(range.first), kept.end.min(range.end));
        (met.first < met.end).then_some(met)
    }

    /// Partitions that one process archives at the same time.
    pub fn parallel(&self) -> usize {
        self.parallel
    }

    /// The topic's id, where it was known.
    pub fn topic_id(&self) -> Option<&str> {
        self.topic_id.as_deref()
    }

    /// What tells whether the objects of the batch that begins at `first` are intact.
    pub fn look(&self, partition: &TopicPartition, first: i64) -> Look {
        match self.read_back.get(partition).is_some_and(|firsts| firsts.contains(&first)) {
            true => Look::Bytes,
            false => Look::Shown,
        }
    }

    /// Where each partition's last range ends.
    pub fn ends(&self) -> BTreeMap<TopicPartition, i64> {
        let end = |spans: &Vec<Span>| spans.last().map_or(0, |span| span.range.end);
        self.spans.iter().map(|(partition, spans)| (partition.clone(), end(spans))).collect()
    }

    /// The first offset at or above `offset` that there is to archive; `None` where all is below.
    pub fn next(&self, partition: &TopicPartition, offset: i64) -> Option<i64> {
        let spans = self.spans.get(partition)?;
        let span = spans.get(spans.partition_point(|span| span.range.end <= offset))?;
        Some(span.range.first.max(offset))
    }

    /// What is archived from `offset` on without anything between: up to the end of the range that holds it. `None` where none does.
    pub fn stretch(&self, partition: &TopicPartition, offset: i64) -> Option<Stretch> {
        let spans = self.spans.get(partition)?;
        let span = spans.get(spans.partition_point(|span| span.range.end <= offset))?;
        let chunk = if span.is_batch { i64::MAX } else { self.chunk };
        span.range.contains(offset).then_some(Stretch { end: span.range.end, chunk })
    }

    /// Where the span ends that is to be one batch and begins at `first`.
    pub fn batch_at(&self, partition: &TopicPartition, first: i64) -> Option<i64> {
        let spans = self.spans.get(partition)?;
        let span = spans.get(spans.partition_point(|span| span.range.end <= first))?;
        (span.is_batch && span.range.first == first).then_some(span.range.end)
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> u64 {
        let pieces = |span: &Span| {
            let last = span.range.end.saturating_sub(1).div_euclid(self.chunk);
            if span.is_batch { 1 } else { (last - span.range.first.div_euclid(self.chunk) + 1).unsigned_abs() }
        };
        self.spans.values().flatten().map(pieces).sum()
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

    #[test]
    fn a_batch_begins_where_its_span_does() {
        let batches = |of: &[(i64, i64)]| ranges(of).into_iter().map(|range| (partition(3), range)).collect::<Vec<_>>();
        let schedule = Schedule::with_batches(batches(&[(0, 100)]), batches(&[(40, 50), (70, 90)]), 10, None);
        let at = |first| schedule.batch_at(&partition(3), first);
        assert_eq!(
            [0, 39, 40, 45, 50, 70, 89, 90, 200].map(at),
            [None, None, Some(50), None, None, Some(90), None, None, None]
        );
        assert_eq!(schedule.batch_at(&partition(4), 40), None);
    }

    #[test]
    fn what_objects_reach_into_is_kept() {
        let of = ranges(&[(10, 20), (30, 40), (20, 25)]).into_iter().map(|range| (partition(3), range));
        let schedule = schedule(&[(0, 50)], 10).never_absent(of);
        let kept = |first, end| {
            schedule.kept_of(&partition(3), OffsetRange::new(first, end)).map(|range| (range.first, range.end))
        };
        assert_eq!((kept(0, 10), kept(0, 11), kept(12, 50)), (None, Some((10, 11)), Some((12, 25))));
        assert_eq!((kept(25, 30), kept(25, 31), kept(40, 90)), (None, Some((30, 31)), None));
        assert_eq!((kept(15, 15), schedule.kept_of(&partition(0), OffsetRange::new(0, 50))), (None, None));
    }

    #[test]
    fn what_was_a_batch_is_one_again() {
        let of = |of: &[(i64, i64)]| ranges(of).into_iter().map(|range| (partition(3), range));
        let schedule =
            Schedule::with_batches(of(&[(0, 4000)]), of(&[(1900, 2100), (2100, 3000), (2900, 3050)]), 1000, None)
                .reading_back([(partition(3), 2100)]);
        let ends = |offset| ends_from(&schedule, offset);
        assert_eq!((ends(0), ends(1900), ends(2100)), (vec![1000, 1900], vec![2100], vec![3000]));
        assert_eq!((ends(2950), ends(3000), ends(3050)), (vec![3000], vec![3050], vec![4000]));
        assert_eq!((schedule.pieces(), schedule.ends()[&partition(3)]), (6, 4000));
        assert_eq!(
            (schedule.look(&partition(3), 2100), schedule.look(&partition(3), 1900)),
            (Look::Bytes, Look::Shown)
        );
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
