//! What became of the offsets of a job, as the receipts in the bucket tell it: the same whoever archived them, and when.

use super::job::Site;
use crate::bucket::jobs::Job;
use crate::clock::Clock;
use crate::exit::Failure;
use crate::pipeline::schedule::without;
use crate::record::{OffsetRange, TopicPartition};
use futures::TryStreamExt;
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
    /// Rows that are in the bucket no more, and that Kafka could not give back.
    pub lost: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Offsets of the job that nothing vouches for: none once it has ended.
    pub left: u64,
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
    let mut by_partition: BTreeMap<i32, Vec<OffsetRange>> = BTreeMap::new();
    for range in &job.ranges {
        by_partition.entry(range.partition).or_default().push(range.range());
    }
    for (number, ranges) in by_partition {
        let partition = TopicPartition::new(job.topic.as_str(), number);
        let (first, end) = (ranges.first().map_or(0, |range| range.first), ranges.last().map_or(0, |range| range.end));
        tally.offsets += ranges.iter().map(length).sum::<u64>();
        let mut vouched = Vec::new();
        let mut receipts = site.ledger.receipts(&partition, clock, OffsetRange::new(first, end)).await?;
        while let Some(receipt) = receipts.try_next().await? {
            let meets = |range: &&OffsetRange| range.first < receipt.end && receipt.first < range.end;
            if ranges.iter().find(meets).is_none() {
                continue;
            }
            vouched.push(OffsetRange::new(receipt.first, receipt.end));
            tally.batches += 1;
            tally.read += receipt.balance.consumed;
            tally.objects += receipt.objects.len() as u64;
            tally.bytes += receipt.objects.iter().map(|object| object.bytes).sum::<u64>();
            tally.absent +=
                receipt.balance.absent.iter().map(|gone| (gone.end - gone.first).unsigned_abs()).sum::<u64>();
            tally.lost += receipt.lost.iter().map(|lost| lost.rows).sum::<u64>();
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
