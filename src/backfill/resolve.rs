//! From what was typed to offsets.

use super::job::Site;
use crate::batch::metadata::OffsetMetadata;
use crate::bucket::entries::DamagedFold;
use crate::bucket::jobs::{JobBatch, JobBefore, JobFound, JobRange, JobRequest};
use crate::clock::Clock;
use crate::consume::{Committed, CommittedOffsets, Coordinator, LogBounds};
use crate::exit::{Exit, Failure};
use crate::kafka::look;
use crate::pipeline::schedule::{union, without};
use crate::pipeline::start::{first_bounds, patiently};
use crate::pipeline::takeover::recreated;
use crate::record::{OffsetRange, TopicPartition};
use futures::TryStreamExt;

/// What was asked for, as offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// What there is to archive.
    pub ranges: Vec<JobRange>,
    /// Batches whose objects are read before they are taken for intact.
    pub read_back: Vec<JobBatch>,
    /// Offsets of these ranges that objects reach into which no receipt names.
    pub unvouched: Vec<JobRange>,
    /// What receipts of batches that are to be mended say of lost and absent records.
    pub before: Vec<JobBefore>,
    /// What was found missing, where that was looked for.
    pub found: Option<JobFound>,
    /// Offsets of those that were asked for which receipts vouch for.
    pub skipped: u64,
}

/// What the live group has committed, if it has begun with this generation of the archive.
pub fn live_offset(site: &Site<'_>, committed: Option<&Committed>) -> Option<i64> {
    let committed = committed?;
    let metadata = OffsetMetadata::decode(&committed.metadata)?;
    (metadata.generation == site.archive.layout.generation).then_some(committed.offset)
}

/// What the live group has committed in `partitions`, in that order.
///
/// # Errors
/// Kafka does not answer for each of them; [`Exit::Stopped`]: the topic is another one than the archive's.
pub async fn committed(
    site: &Site<'_>,
    coordinator: &dyn Coordinator,
    partitions: &[TopicPartition],
) -> Result<CommittedOffsets, Failure> {
    let unreachable = |reason| Failure::new(Exit::Unreachable, format!("read the live group's offsets: {reason}"));
    let found = coordinator.committed(partitions.to_vec()).await.map_err(unreachable)?;
    if let Some(silent) = partitions.iter().find(|partition| found.iter().all(|(of, _)| of != *partition)) {
        return Err(unreachable(format!("Kafka gives no answer for {silent}")));
    }
    let Some(topic) = partitions.first().map(|partition| &*partition.topic).filter(|_| !site.is_elsewhere) else {
        return Ok(found);
    };
    let Some(now) = coordinator.topic_id(topic).await.map_err(unreachable)? else { return Ok(found) };
    let ids = found.iter().filter_map(|(_, committed)| OffsetMetadata::decode(&committed.as_ref()?.metadata));
    let of_generation = ids.filter(|metadata| metadata.generation == site.archive.layout.generation);
    match of_generation.filter_map(|metadata| metadata.topic_id).find(|known| *known != now) {
        Some(known) => Err(Failure::new(Exit::Stopped, recreated(topic, &known, &now))),
        None => Ok(found),
    }
}

/// The offsets of `request` in `partitions`, without those that receipts vouch for.
///
/// # Errors
/// [`Exit::Config`]: a range reaches beyond what the live group has committed (elsewhere: beyond the log), or there is no such partition. Kafka
/// or a store that does not answer or refuses.
pub async fn resolve(
    site: &Site<'_>,
    coordinator: &dyn Coordinator,
    clock: &dyn Clock,
    request: &JobRequest,
    partitions: &[TopicPartition],
) -> Result<Resolved, Failure> {
    let mut resolved = Resolved::default();
    let count =
        |ranges: &[OffsetRange]| -> u64 { ranges.iter().map(|range| (range.end - range.first).unsigned_abs()).sum() };
    let committed = committed(site, coordinator, partitions).await?;
    for (partition, committed) in committed {
        let bounds = first_bounds(clock, coordinator, &partition).await?;
        let limit = match site.is_elsewhere {
            true => Some(bounds.readable_end),
            false => live_offset(site, committed.as_ref()),
        };
        let Some(limit) = limit else {
            return Err(Failure::new(
                Exit::Config,
                format!(
                    "{partition}: the live group {} has not begun with it, so nothing says up to where a backfill may go. Start \
                     `siltstone run` first",
                    site.group
                ),
            ));
        };
        let wanted = wanted(site, coordinator, request, &partition, bounds, limit).await?;
        let (unfinished, damaged) = unfinished(site, clock, &partition).await?;
        if let Some(fold) = damaged.iter().find(|fold| fold.range.first < wanted.end && wanted.first < fold.range.end) {
            return Err(Failure::new(
                Exit::Stopped,
                format!(
                    "{partition}: {}. Meanwhile ask for offsets below {} or from {} on: --from-offset, --to-offset",
                    fold.error, fold.range.first, fold.range.end
                ),
            ));
        }
        let taken = vouched(site, clock, &partition, wanted).await?;
        let left = without(vec![wanted], taken);
        resolved.skipped += count(&union(vec![wanted])).saturating_sub(count(&left));
        let left = with_unfinished(left, &unfinished, limit);
        resolved.ranges.extend(left.into_iter().map(|range| JobRange::new(partition.partition, range)));
    }
    resolved.ranges.sort_unstable_by_key(|range| (range.partition, range.first));
    Ok(resolved)
}

/// The offsets of one Kafka partition that are asked for, perhaps none, and never beyond `limit`.
async fn wanted(
    site: &Site<'_>,
    coordinator: &dyn Coordinator,
    request: &JobRequest,
    partition: &TopicPartition,
    bounds: LogBounds,
    limit: i64,
) -> Result<OffsetRange, Failure> {
    let refused = |what: String| Err(Failure::new(Exit::Config, format!("{partition}: {what}")));
    let reach = match site.is_elsewhere {
        true => format!("offset {limit}, where the log ends"),
        false => format!("offset {limit}, up to which the live group {} has archived", site.group),
    };
    let unreachable = |reason| Failure::new(Exit::Unreachable, format!("{partition}: {reason}"));
    let first = match (request.from_offset, request.from_ms) {
        (Some(offset), _) => offset,
        (None, Some(ms)) => {
            let found = coordinator.offset_at_time(partition.clone(), ms).await.map_err(unreachable)?;
            found.unwrap_or(limit)
        }
        (None, None) => bounds.start,
    };
    let end = match (request.to_offset, request.to_ms) {
        (Some(offset), _) if offset > limit => {
            let rest = if site.is_elsewhere { "" } else { ": it will do the rest itself" };
            return refused(format!("--to-offset {offset} reaches beyond {reach}{rest}. Ask for at most {limit}"));
        }
        (Some(offset), _) => offset,
        (None, Some(ms)) => end_before(site, coordinator, partition, ms, limit).await?,
        (None, None) => limit,
    };
    if request.from_offset.is_some_and(|first| first >= end.max(limit) && first > bounds.start) {
        return refused(format!("--from-offset {first} is not below {reach}"));
    }
    Ok(OffsetRange::new(first, end.max(first).min(limit.max(first))))
}

/// One past the last record below `limit` whose Kafka timestamp is before `ms`. Kafka's own look-up by time finds the first record at or behind
/// a time; one that is out of order may follow it, so the log is read from there on.
async fn end_before(
    site: &Site<'_>,
    coordinator: &dyn Coordinator,
    partition: &TopicPartition,
    ms: i64,
    limit: i64,
) -> Result<i64, Failure> {
    let unreachable = |reason| Failure::new(Exit::Unreachable, format!("{partition}: {reason}"));
    let hint = coordinator.offset_at_time(partition.clone(), ms).await.map_err(unreachable)?;
    let Some(hint) = hint.filter(|&hint| hint < limit) else { return Ok(limit) };
    let (config, of, range) = (site.kafka.clone(), partition.clone(), OffsetRange::new(hint, limit));
    tracing::info!(%partition, from = hint, to = limit, "reading the log for records before --to-time that lie behind later ones");
    let read = tokio::task::spawn_blocking(move || look::end_before(&config, &of, range, ms));
    let found =
        read.await.map_err(|error| Failure::new(Exit::Failed, format!("{partition}: read the log: {error}")))?;
    found.map_err(|error| {
        Failure::new(error.exit(), format!("{partition}: look for the last record before --to-time: {error}"))
    })
}

/// Batches that are claimed and have no receipt, but those whose receipts may be in folds that cannot be read; and these folds. A claim is
/// finished whole or not at all.
async fn unfinished(
    site: &Site<'_>,
    clock: &dyn Clock,
    partition: &TopicPartition,
) -> Result<(Vec<OffsetRange>, Vec<DamagedFold>), Failure> {
    let bucket = &site.ledger.bucket;
    let mut unfinished = Vec::new();
    let all = patiently(clock, "list claims", || bucket.listed_with_damaged(partition, 0, i64::MAX)).await?;
    for listed in all.listed {
        if listed.receipt || all.damaged.iter().any(|fold| fold.range.contains(listed.first)) {
            continue;
        }
        let what = format!("{partition}: the claim of {}", listed.first);
        let claim = patiently(clock, &what, || bucket.get_claim(partition, listed.first)).await?;
        unfinished.extend(claim.map(|claim| OffsetRange::new(claim.first, claim.end)));
    }
    Ok((unfinished, all.damaged))
}

/// `ranges`, with all of each unfinished batch that they meet below `live`.
fn with_unfinished(ranges: Vec<OffsetRange>, unfinished: &[OffsetRange], live: i64) -> Vec<OffsetRange> {
    let meets = |batch: &&OffsetRange| {
        batch.end <= live && ranges.iter().any(|range| range.first < batch.end && batch.first < range.end)
    };
    let met: Vec<OffsetRange> = unfinished.iter().filter(meets).copied().collect();
    union(ranges.into_iter().chain(met).collect())
}

/// What receipts vouch for of `wanted`.
async fn vouched(
    site: &Site<'_>,
    clock: &dyn Clock,
    partition: &TopicPartition,
    wanted: OffsetRange,
) -> Result<Vec<OffsetRange>, Failure> {
    let receipts = site.ledger.receipts(partition, clock, wanted).await?;
    receipts.map_ok(|receipt| OffsetRange::new(receipt.first, receipt.end)).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_met_is_wanted_whole() {
        let of = |ranges: &[(i64, i64)]| -> Vec<OffsetRange> {
            ranges.iter().map(|&(first, end)| OffsetRange::new(first, end)).collect()
        };
        let claims = of(&[(2000, 4000), (9000, 9500)]);
        let with = |ranges: &[(i64, i64)]| with_unfinished(of(ranges), &claims, 9200);
        assert_eq!(with(&[(3000, 5000)]), of(&[(2000, 5000)]));
        assert_eq!(with(&[(0, 3000)]), of(&[(0, 4000)]));
        assert_eq!(with(&[(0, 2000), (4000, 5000)]), of(&[(0, 2000), (4000, 5000)]));
        assert_eq!(with(&[(9000, 9200)]), of(&[(9000, 9200)]), "the live group finishes what reaches beyond it");
    }
}
