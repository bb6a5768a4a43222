//! What verifying an archive finds missing or damaged, as a job: that and no more.
//!
//! ```text
//! findings ──▶ batches whose objects are missing or damaged, claims without receipt ──▶ each one batch again
//!         └──▶ gaps ──without those batches, cut where names of objects tell a batch──▶ batches as the chunk says
//! ```

use super::job::Site;
use super::resolve::{self, Resolved, live_offset};
use crate::bucket::jobs::{JobBatch, JobRange, JobRequest};
use crate::config::Config;
use crate::consume::Coordinator;
use crate::exit::Failure;
use crate::pipeline::schedule::without;
use crate::record::{OffsetRange, TopicPartition};
use crate::verify::finding::{Fault, Finding, Kind};
use crate::verify::{self, Options, Parts, Told};
use std::collections::{BTreeMap, BTreeSet};

/// Ranges of one job: what is found beyond them is left to the next job.
pub const RANGES_MAX: usize = 50_000;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// What a job mends.
    pub resolved: Resolved,
    /// Findings by kind, all of them.
    pub findings: BTreeMap<Kind, u64>,
    /// Findings by kind that no job mends: strangers, doubled objects, objects of replays, …
    pub besides: BTreeMap<Kind, u64>,
    /// What keeps a range from being mended, and what to do about it.
    pub blocked: Vec<String>,
    /// Ranges that are not the job's, as the live group has not committed them, or as there are too many.
    pub later: u64,
}

/// Verifies the archive of `site` and gives what is missing or damaged of `partitions`, which are of one topic. Records are not counted in Kafka, but
/// what the live group has committed and nobody vouches for is missing.
///
/// # Errors
/// As [`verify::verify`]; Kafka does not answer.
pub async fn find(
    site: &Site<'_>,
    config: &Config,
    parts: Parts,
    coordinator: &dyn Coordinator,
    request: &JobRequest,
    partitions: &[TopicPartition],
) -> Result<Missing, Failure> {
    // Before anything is read of the bucket: what the live group does meanwhile is not missing.
    let committed = resolve::committed(site, coordinator, partitions).await?;
    let of = |(partition, committed): (TopicPartition, Option<_>)| {
        Some((partition.partition, live_offset(site, committed.as_ref())?))
    };
    let live: BTreeMap<i32, i64> = committed.into_iter().filter_map(of).collect();
    let options = Options {
        archive: Some(site.archive.name.clone()),
        topic: partitions.first().map(|partition| partition.topic.to_string()),
        partitions: request.partitions.clone(),
        deep: request.deep,
        counts: false,
        ..Options::default()
    };
    let mut found = Found::default();
    let mut tell = |told| {
        if let Told::Finding(finding) = told {
            tracing::debug!("{finding}");
            found.add(&finding);
        }
        Ok(())
    };
    tracing::info!(topic = options.topic, deep = options.deep, "verifying the archive for what is missing");
    verify::verify(config, parts, &options, &mut tell).await?;
    Ok(found.into_missing(&live, RANGES_MAX))
}

/// Findings as they come. Memory: some 60 bytes for each batch that is meant.
#[derive(Clone, Debug, Default)]
struct Found {
    /// By Kafka partition and first offset: where batches end that are one batch again.
    batches: BTreeMap<i32, BTreeSet<OffsetRange>>,
    gaps: BTreeMap<i32, Vec<OffsetRange>>,
    /// What names of objects tell that nobody vouches for.
    strangers: BTreeMap<i32, BTreeSet<OffsetRange>>,
    read_back: BTreeSet<JobBatch>,
    findings: BTreeMap<Kind, u64>,
    besides: BTreeMap<Kind, u64>,
    blocked: Vec<String>,
}

impl Found {
    fn add(&mut self, finding: &Finding) {
        let number = finding.partition.partition;
        *self.findings.entry(finding.kind()).or_default() += 1;
        let range = finding.end.map(|end| OffsetRange::new(finding.first, end));
        match (&finding.fault, finding.redo()) {
            (Fault::Gap, Some(range)) => self.gaps.entry(number).or_default().push(range),
            (Fault::Unreadable { .. }, _) if finding.replay.is_none() && finding.compaction.is_none() => {
                self.blocked.push(format!("{finding}; {}", finding.kind().advice()));
            }
            (fault, Some(range)) => {
                self.batches.entry(number).or_default().insert(range);
                if matches!(fault, Fault::Checksum { .. }) {
                    self.read_back.insert(JobBatch { partition: number, first: range.first });
                }
            }
            (fault, None) => {
                *self.besides.entry(finding.kind()).or_default() += 1;
                if let (Fault::Unvouched { .. }, Some(range)) = (fault, range) {
                    self.strangers.entry(number).or_default().insert(range);
                }
            }
        }
    }

    /// `live`: up to where the live group has committed, by Kafka partition. Of more than `ranges_max` ranges the first are taken.
    fn into_missing(mut self, live: &BTreeMap<i32, i64>, ranges_max: usize) -> Missing {
        let mut later = 0;
        let mut ranges = Vec::new();
        let numbers: BTreeSet<i32> = self.batches.keys().chain(self.gaps.keys()).copied().collect();
        for number in numbers {
            let limit = live.get(&number).copied().unwrap_or(i64::MIN);
            let mut batches = Vec::new();
            let mut end = i64::MIN;
            for batch in self.batches.remove(&number).unwrap_or_default() {
                if batch.end > limit {
                    later += 1;
                } else if batch.first < end {
                    // Receipts that overlap: a person decides which of them is right, and one is mended.
                    self.blocked
                        .push(format!("{number} {batch}: another damaged batch overlaps it; mend that one first"));
                } else {
                    end = batch.end;
                    batches.push(batch);
                }
            }
            let gaps = without(self.gaps.remove(&number).unwrap_or_default(), batches.clone());
            later += gaps.iter().filter(|gap| gap.end > limit).count() as u64;
            let strangers = self.strangers.remove(&number).unwrap_or_default();
            for gap in gaps.into_iter().filter(|gap| gap.end <= limit) {
                let told = told_by_names(gap, &strangers);
                ranges.extend(without(vec![gap], told.clone()).into_iter().map(|range| JobRange::new(number, range)));
                batches.extend(told);
            }
            let batch = |range| JobRange { batch: true, ..JobRange::new(number, range) };
            ranges.extend(batches.into_iter().map(batch));
        }
        ranges.sort_unstable_by_key(|range| (range.partition, range.first));
        later += ranges.len().saturating_sub(ranges_max) as u64;
        ranges.truncate(ranges_max);
        let firsts: BTreeSet<JobBatch> =
            ranges.iter().map(|range| JobBatch { partition: range.partition, first: range.first }).collect();
        let read_back = self.read_back.intersection(&firsts).copied().collect();
        let resolved = Resolved { ranges, read_back, skipped: 0 };
        Missing { resolved, findings: self.findings, besides: self.besides, blocked: self.blocked, later }
    }
}

/// The batches inside `gap` that names of objects tell: archived again they get these names again. Those that share an offset with another one
/// tell nothing.
fn told_by_names(gap: OffsetRange, names: &BTreeSet<OffsetRange>) -> Vec<OffsetRange> {
    let inside: Vec<OffsetRange> =
        names.iter().filter(|name| gap.first <= name.first && name.end <= gap.end).copied().collect();
    let alone = |name: &&OffsetRange| {
        inside.iter().all(|other| *name == other || other.end <= name.first || name.end <= other.first)
    };
    inside.iter().filter(alone).filter(|name| name.first < name.end).copied().collect()
}

impl Missing {
    /// Whether there is nothing to mend.
    pub fn is_empty(&self) -> bool {
        self.resolved.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(first: i64, end: i64, fault: Fault) -> Finding {
        let partition = TopicPartition::new("t", 0);
        Finding {
            archive: "a".into(),
            partition,
            first,
            end: Some(end),
            place: None,
            replay: None,
            compaction: None,
            fault,
        }
    }

    fn missing(findings: Vec<Finding>, live: i64, ranges_max: usize) -> Missing {
        let mut found = Found::default();
        findings.iter().for_each(|finding| found.add(finding));
        found.into_missing(&BTreeMap::from([(0, live)]), ranges_max)
    }

    fn ranges(missing: &Missing) -> Vec<(i64, i64, bool)> {
        missing.resolved.ranges.iter().map(|range| (range.first, range.end, range.batch)).collect()
    }

    #[test]
    fn batches_stay_batches_and_gaps_are_cut_by_names() {
        let gone = || Fault::Missing { bytes: 1 };
        let other = || Fault::Checksum { expected: "a".into(), found: "b".into() };
        let stranger = || Fault::Unvouched { bytes: 1, why: "" };
        let found = missing(
            vec![
                finding(0, 10, gone()),
                finding(0, 10, gone()),
                finding(10, 20, other()),
                finding(30, 60, Fault::Gap),
                finding(40, 50, stranger()),
                finding(50, 58, stranger()),
                finding(55, 60, stranger()),
                finding(60, 70, Fault::Unfinished),
                finding(5, 8, Fault::Overlap { other: OffsetRange::new(0, 8) }),
                finding(90, 101, gone()),
                Finding { replay: Some(1), ..finding(70, 80, gone()) },
                finding(80, 90, Fault::Unreadable { what: "x".into(), newer: false }),
            ],
            100,
            99,
        );
        assert_eq!(
            ranges(&found),
            [(0, 10, true), (10, 20, true), (30, 40, false), (40, 50, true), (50, 60, false), (60, 70, true)]
        );
        assert_eq!(found.resolved.read_back, [JobBatch { partition: 0, first: 10 }]);
        assert_eq!((found.later, found.blocked.len()), (1, 1));
        assert_eq!(found.besides, BTreeMap::from([(Kind::Overlap, 1), (Kind::Missing, 1), (Kind::Unvouched, 3)]));
        assert_eq!(found.findings[&Kind::Missing], 4);
    }

    #[test]
    fn what_is_too_much_is_left_to_the_next_job() {
        let findings: Vec<Finding> =
            (0..5).map(|at| finding(at * 10, at * 10 + 10, Fault::Size { expected: 1, found: 2 })).collect();
        let found = missing(findings.clone(), 100, 3);
        assert_eq!((ranges(&found).len(), found.later), (3, 2));
        assert!(missing(findings, -1, 3).is_empty());
        assert!(missing(Vec::new(), 100, 3).is_empty());
    }
}
