//! What verifying an archive finds missing or damaged, as a job: that and no more.
//!
//! ```text
//! findings ──▶ batches whose objects are missing or damaged, claims without receipt ──▶ each one batch again
//!         └──▶ gaps ──without those batches, cut where names of objects tell a batch──▶ batches as the chunk says
//!               └──what Kafka holds no more and objects reach into that no receipt names──▶ left as it is
//! ```
//! That last is what keeps rows that are there from being declared absent. What Kafka deletes after a job was made is looked at once more when its
//! batches are taken over ([`Resolved::unvouched`]): those of jobs that mend, and of jobs for a range that was named ([`unvouched`]).

use super::job::Site;
use super::resolve::{self, Resolved, live_offset};
use super::strangers::Strangers;
use super::tally;
use crate::bucket::entries::AllListed;
use crate::bucket::jobs::{Job, JobBatch, JobFound, JobKept, JobRange, JobRequest, LEFT_MAX};
use crate::clock::Clock;
use crate::config::Config;
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::layout::recognise::Recogniser;
use crate::ledger::live::Doubtful;
use crate::ledger::taken::Taken;
use crate::pipeline::schedule::{union, without};
use crate::pipeline::start::{first_bounds, patiently};
use crate::record::{OffsetRange, TopicPartition};
use crate::verify::finding::{Fault, Finding};
use crate::verify::layouts::recognisers;
use crate::verify::{self, Options, Parts, Told};
use std::collections::{BTreeMap, BTreeSet};

/// Ranges of one job: what is found beyond them is left to the next job.
pub const RANGES_MAX: usize = 50_000;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// What a job mends.
    pub resolved: Resolved,
    /// What was found, and what of it no job mends.
    pub found: JobFound,
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
    let clock = parts.clock.clone();
    let topic = partitions.first().map(|partition| partition.topic.to_string());
    tracing::info!(topic, deep = request.deep, "verifying the archive for what is missing");
    let wanted = Options { topic, partitions: request.partitions.clone(), deep: request.deep, ..Options::default() };
    let mut found = findings_of(site, config, parts, wanted).await?;
    found.look_for_compacted(site, &*clock, partitions).await?;
    // After the verification: the log begins later and later.
    let mut starts = BTreeMap::new();
    for partition in partitions.iter().filter(|partition| found.numbers().contains(&partition.partition)) {
        starts.insert(partition.partition, first_bounds(&*clock, coordinator, partition).await?.start);
    }
    let mut missing = found.into_missing(&live, &starts, RANGES_MAX);
    if let Some(partition) = partitions.first() {
        missing.resolved.before = tally::before(site, &*clock, &partition.topic, &missing.resolved.ranges).await?;
    }
    Ok(missing)
}

/// Of `ranges` of `topic`, which no receipt vouches for, the offsets that objects reach into which no receipt names: should Kafka delete them before
/// they are archived, a receipt would declare these rows absent. Verifies the archive, but reads no object.
///
/// # Errors
/// [`Exit::Stopped`]: Kafka has deleted some of them already. As [`verify::verify`]; Kafka does not answer.
pub async fn unvouched(
    site: &Site<'_>,
    config: &Config,
    parts: Parts,
    coordinator: &dyn Coordinator,
    topic: &str,
    ranges: &[JobRange],
) -> Result<Vec<JobRange>, Failure> {
    let numbers: BTreeSet<i32> = ranges.iter().map(|range| range.partition).collect();
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    tracing::info!(topic, "looking for objects of these offsets that no receipt names");
    let clock = parts.clock.clone();
    let found = strangers_of(site, config, parts, topic, &numbers).await?;
    let mut unvouched = Vec::new();
    for number in numbers {
        let Some(strangers) = found.strangers.get(&number) else { continue };
        // After the verification: the log begins later and later.
        let start = first_bounds(&*clock, coordinator, &TopicPartition::new(topic, number)).await?.start;
        let of_number: Vec<OffsetRange> =
            ranges.iter().filter(|range| range.partition == number).map(JobRange::range).collect();
        let of_number = with_begins(site, &*clock, &TopicPartition::new(topic, number), of_number, strangers).await?;
        for &(range, from) in &of_number {
            let kept = strangers.kept_from(number, range, from, start);
            if let (Some(JobKept { first, objects, example, .. }), Some(last)) = (kept.first(), kept.last()) {
                return Err(Failure::new(
                    Exit::Stopped,
                    format!(
                        "{topic}/{number} offset {first}: Kafka has deleted it, and {objects} objects that no receipt names hold rows of it and of \
                         those behind it, such as {example}: a receipt now would declare these rows absent. Ask for offsets from {} on \
                         (--from-offset), or let --missing do what is missing around them; `siltstone help backfill` says what can be done about \
                         such objects",
                        last.end
                    ),
                ));
            }
        }
        let reached = of_number.into_iter().flat_map(|(range, from)| strangers.reaching_from(range, from));
        let reached = union(reached.collect());
        if let Some(first) = reached.first() {
            tracing::warn!(
                %topic, partition = number, first = first.first,
                "objects that no receipt names hold rows of offsets that are archived now: whoever lists folders reads these twice then. \
                 --missing archives them as they were; `siltstone verify` names the objects"
            );
        }
        unvouched.extend(reached.into_iter().map(|range| JobRange::new(number, range)));
    }
    Ok(not_too_many(unvouched, ranges, RANGES_MAX))
}

/// Each of `ranges` with the offset from which on nobody vouches for what is before it: a named range may begin inside a batch without a receipt. Looked for
/// only where a name that tells no end may reach over the beginning.
async fn with_begins(
    site: &Site<'_>,
    clock: &dyn Clock,
    partition: &TopicPartition,
    ranges: Vec<OffsetRange>,
    strangers: &Strangers,
) -> Result<Vec<(OffsetRange, i64)>, Failure> {
    let bucket = &site.ledger.bucket;
    let until = ranges.iter().filter(|range| strangers.may_reach_over(range.first)).map(|range| range.first).max();
    let all = match until {
        None => AllListed { listed: Vec::new(), damaged: Vec::new() },
        Some(until) => {
            patiently(clock, "list claims and receipts", || bucket.listed_with_damaged(partition, 0, until)).await?
        }
    };
    let mut begun = Vec::new();
    for range in ranges {
        let before = all.listed.partition_point(|listed| listed.first < range.first).checked_sub(1);
        let before = before.and_then(|index| all.listed.get(index)).copied();
        let mut from = match before.filter(|_| strangers.may_reach_over(range.first)) {
            None if strangers.may_reach_over(range.first) => 0,
            None => range.first,
            Some(listed) => {
                let entry = patiently(clock, "read the batch before", || bucket.entry_of(partition, listed)).await?;
                entry.map_or(listed.first, |entry| entry.reach())
            }
        };
        // What a fold has that cannot be read ends where the fold ends, or before it.
        for fold in all.damaged.iter().filter(|fold| fold.range.first < range.first) {
            from = from.max(fold.range.end);
        }
        begun.push((range, from.min(range.first)));
    }
    Ok(begun)
}

/// `unvouched`, or where it is more than `max` all of `ranges`.
fn not_too_many(unvouched: Vec<JobRange>, ranges: &[JobRange], max: usize) -> Vec<JobRange> {
    match unvouched.len() > max {
        true => ranges.iter().map(|range| JobRange::new(range.partition, range.range())).collect(),
        false => unvouched,
    }
}

/// Objects that nobody vouches for in the batches of `job`, which has ended, that names of objects told: they are not what these batches put, so their rows are
/// there twice.
///
/// # Errors
/// As [`verify::verify`].
pub async fn left_beside(site: &Site<'_>, config: &Config, parts: Parts, job: &Job) -> Result<u64, Failure> {
    let batches: Vec<&JobRange> = job.ranges.iter().filter(|range| range.batch).collect();
    let numbers = batches.iter().map(|range| range.partition).collect();
    tracing::info!(topic = job.topic, "looking whether objects that told a batch are those that it has put");
    let found = strangers_of(site, config, parts, &job.topic, &numbers).await?;
    let left = batches.iter().filter_map(|batch| {
        let named = found.strangers.get(&batch.partition)?.known.get(&batch.range())?;
        Some(named.of_batch)
    });
    Ok(left.sum())
}

/// What verifying finds of these Kafka partitions from listings and receipts alone.
async fn strangers_of(
    site: &Site<'_>,
    config: &Config,
    parts: Parts,
    topic: &str,
    numbers: &BTreeSet<i32>,
) -> Result<Found, Failure> {
    let (topic, partitions) = (Some(topic.to_string()), numbers.iter().copied().collect());
    let parts = Parts { cluster: None, ..parts };
    findings_of(site, config, parts, Options { topic, partitions, ..Options::default() }).await
}

/// What verifying finds of what is `wanted` of the archive of `site`. Records are not counted in Kafka.
async fn findings_of(site: &Site<'_>, config: &Config, parts: Parts, wanted: Options) -> Result<Found, Failure> {
    let options = Options { archive: Some(site.archive.name.clone()), counts: false, ..wanted };
    let mut found = Found::new(site);
    let mut tell = |told| {
        if let Told::Finding(finding) = told {
            tracing::debug!("{finding}");
            found.add(&finding);
        }
        Ok(())
    };
    verify::verify(config, parts, &options, &mut tell).await?;
    Ok(found)
}

/// Findings as they come. Memory: some 60 bytes for each batch that is meant, some 200 for each that only names of objects tell.
#[derive(Clone, Debug, Default)]
struct Found {
    /// By Kafka partition and first offset: where batches end that are one batch again.
    batches: BTreeMap<i32, BTreeSet<OffsetRange>>,
    /// Those of them that are claimed and have no receipt.
    claimed: BTreeMap<i32, BTreeSet<OffsetRange>>,
    gaps: BTreeMap<i32, Vec<OffsetRange>>,
    /// Batches whose rows are in objects of compactions, and what to say where they have no receipt.
    compacted: BTreeMap<i32, BTreeMap<OffsetRange, String>>,
    strangers: BTreeMap<i32, Strangers>,
    read_back: BTreeSet<JobBatch>,
    /// Read the keys of batches that are archived now, at these destinations.
    names: Vec<(Vec<String>, Recogniser)>,
    findings: BTreeMap<String, u64>,
    besides: BTreeMap<String, u64>,
    blocked: Vec<String>,
}

impl Found {
    fn new(site: &Site<'_>) -> Self {
        Self { names: recognisers(&site.archive.layout), ..Self::default() }
    }

    /// Whether a batch of the offsets that the object's name tells would put one of that name.
    fn is_of_batch(&self, finding: &Finding) -> bool {
        let is_named = |(destination, key): &(String, String)| {
            let puts = |(destinations, names): &(Vec<String>, Recogniser)| {
                destinations.contains(destination) && names.read(key).is_some()
            };
            self.names.iter().any(puts)
        };
        finding.replay.is_none() && finding.compaction.is_none() && finding.place.as_ref().is_some_and(is_named)
    }

    fn add(&mut self, finding: &Finding) {
        let number = finding.partition.partition;
        let word = finding.kind().word();
        *self.findings.entry(word.to_string()).or_default() += 1;
        match (&finding.fault, finding.redo()) {
            (Fault::Gap, Some(range)) => self.gaps.entry(number).or_default().push(range),
            (Fault::Unreadable { .. }, _) if finding.replay.is_none() && finding.compaction.is_none() => {
                self.blocked.push(format!("{finding}; {}", finding.kind().advice()));
            }
            (fault, Some(range)) => {
                self.batches.entry(number).or_default().insert(range);
                if matches!(fault, Fault::Unfinished) {
                    self.claimed.entry(number).or_default().insert(range);
                }
                if matches!(fault, Fault::Checksum { .. }) {
                    self.read_back.insert(JobBatch { partition: number, first: range.first });
                }
            }
            (fault, None) => {
                *self.besides.entry(word.to_string()).or_default() += 1;
                let is_stranger = match fault {
                    Fault::Unvouched { .. } => true,
                    // What a compaction made and somebody else names, too, is no stranger, and would count for all that its name tells.
                    Fault::Doubled { .. } => finding.compaction.is_none() && finding.replay.is_none(),
                    _ => false,
                };
                if is_stranger {
                    let is_of_batch = self.is_of_batch(finding);
                    self.strangers.entry(number).or_default().add(finding, is_of_batch);
                }
            }
        }
    }

    /// Looks which rows of what has no receipt compactions have taken in, or may have. What lies in the range of a compaction of which nobody knows whether it
    /// counts is left as it is, what has a receipt included: its takeover could not tell which of its objects are replaced.
    async fn look_for_compacted(
        &mut self,
        site: &Site<'_>,
        clock: &dyn Clock,
        partitions: &[TopicPartition],
    ) -> Result<(), Failure> {
        let meet = |one: &OffsetRange, other: &OffsetRange| one.first < other.end && other.first < one.end;
        for partition in partitions {
            let number = partition.partition;
            let gaps = self.gaps.get(&number).into_iter().flatten();
            let batches = self.batches.get(&number).into_iter().flatten();
            let meant = union(gaps.clone().chain(batches).copied().collect());
            let (Some(first), Some(last)) = (meant.first(), meant.last()) else { continue };
            let all = OffsetRange::new(first.first, last.end);
            let Taken { batches, unvouched, doubtful, doubtful_claims } =
                Taken::read(&site.ledger.bucket, clock, partition, all).await?;
            let claimed = self.claimed.get(&number).cloned().unwrap_or_default();
            let open = union(gaps.chain(&claimed).copied().collect());
            let is_open = |batch: &OffsetRange| {
                let behind = open.get(open.partition_point(|of| of.end <= batch.first));
                behind.is_some_and(|of| of.first < batch.end)
            };
            let mut held: BTreeMap<OffsetRange, String> =
                batches.into_iter().filter(|(batch, _)| is_open(batch)).collect();
            for Doubtful { range, why, .. } in doubtful {
                let why = format!("{partition}: {why}; until then nothing is archived again of offsets in {range}");
                let batches = self.batches.entry(number).or_default();
                let before = batches.len();
                batches.retain(|batch| claimed.contains(batch) || !meet(batch, &range));
                if batches.len() < before {
                    self.blocked.push(why.clone());
                }
                if is_open(&range) {
                    held.insert(range, why);
                }
            }
            // What counts in place of their objects is told by nobody at the moment, so their objects seem to be missing.
            for (range, why) in unvouched {
                let batches = self.batches.entry(number).or_default();
                let before = batches.len();
                batches.retain(|batch| claimed.contains(batch) || !meet(batch, &range));
                if batches.len() < before {
                    self.blocked.push(why);
                }
            }
            for Doubtful { range, why, .. } in doubtful_claims.into_iter().filter(|_| !open.is_empty()) {
                held.insert(range, format!("{partition}: {why}; until then nothing is archived that has no receipt"));
            }
            self.compacted.insert(number, held);
        }
        Ok(())
    }

    /// By Kafka partition, up to where the live group has committed (`live`), and where the log begins (`starts`). Of more than `ranges_max` ranges
    /// the first are taken.
    fn into_missing(mut self, live: &BTreeMap<i32, i64>, starts: &BTreeMap<i32, i64>, ranges_max: usize) -> Missing {
        let (mut later, mut revouched) = (0, 0);
        let (mut ranges, mut unvouched, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for number in self.numbers() {
            let limit = live.get(&number).copied().unwrap_or(i64::MIN);
            let start = starts.get(&number).copied().unwrap_or(i64::MIN);
            let strangers = self.strangers.remove(&number).unwrap_or_default();
            let claimed = self.claimed.remove(&number).unwrap_or_default();
            let compacted = self.compacted.remove(&number).unwrap_or_default();
            let held_of = |range: OffsetRange| {
                compacted.iter().filter(move |(batch, _)| batch.first < range.end && range.first < batch.end)
            };
            let (mut batches, mut left) = (Vec::new(), Vec::new());
            let mut end = i64::MIN;
            for batch in self.batches.remove(&number).unwrap_or_default() {
                if batch.end > limit {
                    later += 1;
                } else if batch.first < end {
                    // Receipts that overlap: a person decides which of them is right, and one is mended.
                    self.blocked
                        .push(format!("{number} {batch}: another damaged batch overlaps it; mend that one first"));
                } else if claimed.contains(&batch) && held_of(batch).next().is_some() {
                    (end, left) = (batch.end, left.into_iter().chain([batch]).collect());
                    self.blocked.extend(held_of(batch).map(|(_, what)| what.clone()));
                } else {
                    end = batch.end;
                    let whole = claimed.contains(&batch).then(|| strangers.kept_whole(number, batch, start)).flatten();
                    let of = if whole.is_some() { &mut left } else { &mut batches };
                    of.push(batch);
                    kept.extend(whole);
                }
            }
            let told_already = batches.iter().chain(&left).copied().collect();
            let gaps = without(self.gaps.remove(&number).unwrap_or_default(), told_already);
            self.blocked.extend(gaps.iter().flat_map(|&gap| held_of(gap)).map(|(_, what)| what.clone()));
            let gaps = without(gaps, compacted.keys().copied().collect());
            later += gaps.iter().filter(|gap| gap.end > limit).count() as u64;
            let mut reached: Vec<OffsetRange> = batches
                .iter()
                .filter(|batch| claimed.contains(batch))
                .flat_map(|&batch| strangers.reaching(batch))
                .collect();
            for gap in gaps.into_iter().filter(|gap| gap.end <= limit) {
                let of_gap = strangers.kept(number, gap, start);
                let stretches: Vec<OffsetRange> = of_gap.iter().map(JobKept::range).collect();
                reached.extend(without(strangers.reaching(gap), stretches.clone()));
                for part in without(vec![gap], stretches) {
                    let told = strangers.told(part);
                    revouched += told.iter().map(|name| strangers.known[name].of_batch).sum::<u64>();
                    let between = without(vec![part], told.clone());
                    ranges.extend(between.into_iter().map(|range| JobRange::new(number, range)));
                    batches.extend(told);
                }
                kept.extend(of_gap);
            }
            unvouched.extend(union(reached).into_iter().map(|range| JobRange::new(number, range)));
            let batch = |range| JobRange { batch: true, ..JobRange::new(number, range) };
            ranges.extend(batches.into_iter().map(batch));
        }
        ranges.sort_unstable_by_key(|range| (range.partition, range.first));
        later += ranges.len().saturating_sub(ranges_max) as u64;
        ranges.truncate(ranges_max);
        let unvouched = not_too_many(unvouched, &ranges, ranges_max);
        let firsts: BTreeSet<JobBatch> =
            ranges.iter().map(|range| JobBatch { partition: range.partition, first: range.first }).collect();
        let read_back = self.read_back.intersection(&firsts).copied().collect();
        let (findings, besides, mut blocked) = (self.findings, self.besides, self.blocked);
        let more = (blocked.len().saturating_sub(LEFT_MAX) + kept.len().saturating_sub(LEFT_MAX)) as u64;
        blocked.truncate(LEFT_MAX);
        kept.truncate(LEFT_MAX);
        let found = JobFound { findings, besides, revouched, blocked, kept, more, later };
        let resolved = Resolved { ranges, read_back, unvouched, found: Some(found.clone()), ..Resolved::default() };
        Missing { resolved, found }
    }

    /// Kafka partitions of which something may be mended.
    fn numbers(&self) -> BTreeSet<i32> {
        self.batches.keys().chain(self.gaps.keys()).copied().collect()
    }
}

impl Missing {
    /// Whether there is nothing to mend.
    pub fn is_empty(&self) -> bool {
        self.resolved.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests;
