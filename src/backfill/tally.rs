//! What became of the offsets of a job, as the receipts in the bucket tell it: the same whoever archived them, and when.

use super::job::Site;
use crate::bucket::jobs::{Job, JobBefore, JobRange};
use crate::bucket::receipt::{LostRows, Receipt};
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
use crate::pipeline::schedule::without;
use crate::pipeline::start::patiently;
use crate::record::{OffsetRange, TopicPartition};
use crate::verify::table::digest;
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
            tally.lost_before += before.map_or(0, |before| lost_before(before, &receipt));
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

/// Objects with lost rows that a job's document names, some 27 bytes each; of further ones only how many rows they are.
const LOST_OF_MAX: usize = 100_000;

/// Rows that `receipt` names as lost and that `before` named already: of the same objects, as others may be back since.
fn lost_before(before: &JobBefore, receipt: &Receipt) -> u64 {
    let known = |lost: &LostRows| before.lost_of.get(&place_of(lost)).copied().unwrap_or(0).min(lost.rows);
    match before.lost_of.is_empty() {
        true => before.lost.min(receipt.lost.iter().map(|lost| lost.rows).sum()),
        false => receipt.lost.iter().map(known).sum(),
    }
}

/// Stands for the place of an object in a job's document.
fn place_of(lost: &LostRows) -> String {
    format!("{:016x}", digest(&lost.destination, &lost.key) >> 64)
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
            let lost_of = receipt.lost.iter().map(|lost| (place_of(lost), lost.rows)).collect();
            let before = JobBefore { partition: range.partition, first: range.first, absent, lost, lost_of };
            (absent > 0 || lost > 0).then_some(before)
        }))
    };
    let batches: Vec<JobRange> = ranges.iter().copied().filter(|range| range.batch).collect();
    let mut named = 0;
    stream::iter(batches)
        .map(read)
        .buffered(READS_MAX)
        .try_filter_map(|found| async move { Ok(found) })
        .map_ok(|mut before: JobBefore| {
            named += before.lost_of.len();
            if named > LOST_OF_MAX {
                before.lost_of.clear();
            }
            before
        })
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: rows of an object that are lost now are not taken for those of another one that were lost before and are back.
    #[test]
    fn what_was_lost_before_is_told_by_object() {
        let lost =
            |key: &str, rows: u64| serde_json::json!({"output": "o", "destination": "d", "key": key, "rows": rows});
        let receipt = |lost: Vec<serde_json::Value>| -> Receipt {
            serde_json::from_value(serde_json::json!({
                "version": 1, "topic": "t", "partition": 0, "first": 0, "end": 9, "cluster_id": "c", "archive": "a", "generation": 1,
                "fingerprint": "f", "writer": "0", "reason": "age", "balance": {"consumed": 9, "outputs": {}}, "objects": [], "lost": lost
            }))
            .expect("a receipt")
        };
        let then = receipt(vec![lost("x", 5), lost("y", 1)]);
        let lost_of: BTreeMap<String, u64> = then.lost.iter().map(|lost| (place_of(lost), lost.rows)).collect();
        // As documents have them.
        assert_eq!(lost_of, BTreeMap::from([("1e94dfde2714d7f7".to_string(), 5), ("54a1c5d2fe06d7be".to_string(), 1)]));
        let before = JobBefore { partition: 0, first: 0, absent: 0, lost: 6, lost_of };
        assert_eq!(lost_before(&before, &then), 6);
        assert_eq!(lost_before(&before, &receipt(vec![lost("z", 5)])), 0);
        assert_eq!(lost_before(&before, &receipt(vec![lost("x", 9), lost("z", 5)])), 5);
        // A job that an earlier release made tells no objects.
        let before = JobBefore { lost_of: BTreeMap::new(), ..before };
        assert_eq!(lost_before(&before, &receipt(vec![lost("z", 5)])), 5);
    }
}
