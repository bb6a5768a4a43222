//! What became of the offsets of a job, as the receipts in the bucket tell it: the same whoever archived them, and when.

use super::job::Site;
use crate::bucket::jobs::{Job, JobBefore, JobRange};
use crate::bucket::receipt::Receipt;
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
use crate::pipeline::schedule::without;
use crate::pipeline::start::patiently;
use crate::record::{OffsetRange, TopicPartition};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use std::collections::BTreeMap;

/// The balance of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Offsets of the job.
    pub offsets: u64,
    /// Offsets that receipts vouched for before it was made.
    pub skipped: u64,
    /// Batches that share an offset with it.
    pub batches: u64,
    /// Records read into them.
    pub read: u64,
    /// By output.
    pub outputs: BTreeMap<String, OutputTally>,
    /// Offsets that Kafka no longer held.
    pub absent: u64,
    /// Of them those that receipts named before the job was made.
    pub absent_before: u64,
    /// Rows that are in the bucket no more, and that Kafka could not give back.
    pub lost: u64,
    /// Of them those that receipts named before the job was made.
    pub lost_before: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Offsets of the job that nothing vouches for: none once it has ended.
    pub left: u64,
}

impl Tally {
    /// Whether the job has found nothing absent or lost that receipts did not name already when it was made.
    pub fn is_whole(&self) -> bool {
        self.absent == self.absent_before && self.lost == self.lost_before
    }
}

/// The balance of an output, in records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutputTally {
    /// In its objects.
    pub archived: u64,
    /// Rows of them.
    pub rows: u64,
    /// In the dead letters instead.
    pub dead_lettered: u64,
    /// Dropped, by rule.
    pub dropped: BTreeMap<String, u64>,
}

/// Reads the receipts of the job's ranges and sums them up.
///
/// # Errors
/// A store that refuses or does not answer, a receipt that is damaged.
pub async fn tally(site: &Site<'_>, clock: &dyn Clock, job: &Job) -> Result<Tally, Failure> {
    let length = |range: &OffsetRange| (range.end - range.first).unsigned_abs();
    let mut tally = Tally { skipped: job.skipped, ..Tally::default() };
    let said_before: BTreeMap<(i32, i64), &JobBefore> =
        job.before.iter().map(|before| ((before.partition, before.first), before)).collect();
    let mut by_partition: BTreeMap<i32, Vec<OffsetRange>> = BTreeMap::new();
    for range in &job.ranges {
        by_partition.entry(range.partition).or_default().push(range.range());
    }
    for (number, ranges) in by_partition {
        let partition = TopicPartition::new(job.topic.as_str(), number);
        tally.offsets += ranges.iter().map(length).sum::<u64>();
        let mut vouched = Vec::new();
        let mut receipts = site.ledger.receipts_of(&partition, clock, ranges.clone()).await?;
        while let Some(receipt) = receipts.try_next().await? {
            vouched.push(OffsetRange::new(receipt.first, receipt.end));
            tally.batches += 1;
            tally.read += receipt.balance.consumed;
            tally.objects += receipt.objects.len() as u64;
            tally.bytes += receipt.objects.iter().map(|object| object.bytes).sum::<u64>();
            let (absent, lost) = missing_of(&receipt);
            tally.absent += absent;
            tally.lost += lost;
            let before = said_before.get(&(number, receipt.first));
            tally.absent_before += before.map_or(0, |before| before.absent.min(absent));
            tally.lost_before += before.map_or(0, |before| before.lost.min(lost));
            for (name, balance) in receipt.balance.outputs {
                let output = tally.outputs.entry(name).or_default();
                output.archived += balance.archived;
                output.rows += balance.rows;
                output.dead_lettered += balance.dead_lettered;
                for (rule, records) in balance.dropped {
                    *output.dropped.entry(rule).or_default() += records;
                }
            }
        }
        tally.left += without(ranges, vouched).iter().map(length).sum::<u64>();
    }
    Ok(tally)
}

/// Offsets that a receipt names as absent, and rows that it names as lost.
fn missing_of(receipt: &Receipt) -> (u64, u64) {
    let absent = receipt.balance.absent.iter().map(|gone| (gone.end - gone.first).unsigned_abs()).sum();
    (absent, receipt.lost.iter().map(|lost| lost.rows).sum())
}

/// Receipts read side by side.
const READS_MAX: usize = 8;

/// What receipts of the batches among `ranges` say of absent offsets and lost rows, where they say something. One that cannot be read says nothing.
///
/// # Errors
/// A store that refuses or does not answer.
pub async fn before(
    site: &Site<'_>,
    clock: &dyn Clock,
    topic: &str,
    ranges: &[JobRange],
) -> Result<Vec<JobBefore>, Failure> {
    let bucket = &site.ledger.bucket;
    let read = |range: JobRange| async move {
        let partition = TopicPartition::new(topic, range.partition);
        let what = format!("{partition}: the receipt of {}", range.first);
        let read = patiently(clock, &what, || bucket.receipt(&partition, range.first)).await;
        let found = match read {
            Err(failure) if failure.exit == Exit::Stopped => None,
            found => found?,
        };
        Ok::<_, Failure>(found.and_then(|receipt| {
            let (absent, lost) = missing_of(&receipt);
            let before = JobBefore { partition: range.partition, first: range.first, absent, lost };
            (absent > 0 || lost > 0).then_some(before)
        }))
    };
    let batches: Vec<JobRange> = ranges.iter().copied().filter(|range| range.batch).collect();
    stream::iter(batches)
        .map(read)
        .buffered(READS_MAX)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await
}
