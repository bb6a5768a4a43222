//! What receipts say of an archive: the one way in which commands that read an archive find their way. No folder of objects is listed.
//! Receipts that are documents of their own and those in folds come as one stream.
//!
//! ```text
//! configuration ──▶ Site (archive, bucket, Kafka partitions) ──▶ receipts in offset order ──▶ objects that count ([`live`])
//! ```

pub mod live;
pub mod taken;
#[cfg(test)]
pub(crate) mod testing;

use crate::bucket::folds::{Folds, Stretch, prevailing, stretches};
use crate::bucket::receipt::Receipt;
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::config::{ArchiveConfig, Config};
use crate::destination::Destination;
use crate::exit::{Exit, Failure};
use crate::pipeline::start::patiently;
use crate::record::{OffsetRange, TopicPartition};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Receipts read side by side.
const READS_MAX: usize = 8;

/// Stores by URL.
pub type Destinations = BTreeMap<String, Arc<Destination>>;

/// An archive of the configuration, and the Kafka partitions that its bucket tells of.
pub struct Site<'c> {
    /// The archive.
    pub archive: &'c ArchiveConfig,
    /// Its claims and receipts.
    pub bucket: Bucket,
    /// Kafka partitions of its topics that have claims or receipts, by topic and number.
    pub partitions: Vec<TopicPartition>,
}

/// The archives of `config`, or only the one called `name`, with the Kafka partitions that `takes` wants. An archive that has not begun is
/// left out.
///
/// # Errors
/// No such archive, a store that refuses or does not answer, an archive of another group.
pub async fn sites<'c>(
    config: &'c Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    name: Option<&str>,
    takes: impl Fn(&TopicPartition) -> bool,
) -> Result<Vec<Site<'c>>, Failure> {
    if let Some(name) = name
        && !config.archives.iter().any(|archive| archive.name == *name)
    {
        let names: Vec<&str> = config.archives.iter().map(|archive| archive.name.as_str()).collect();
        return Err(Failure::new(Exit::Config, format!("no archive {name:?}; there are {}", names.join(", "))));
    }
    let mut sites = Vec::new();
    for archive in &config.archives {
        if name.is_some_and(|name| *name != archive.name) {
            continue;
        }
        let home = &archive.layout.outputs[0].place.destinations[0];
        let Some(destination) = destinations.get(home) else { continue };
        let bucket = Bucket::new(destination.clone()).of_generation(archive.layout.generation);
        let what = format!("archive {}", archive.name);
        let Some(identity) = patiently(clock, &what, || bucket.identity()).await? else { continue };
        if identity.group != config.kafka.group {
            let mismatch = BucketError::IdentityMismatch {
                what: "group",
                ours: config.kafka.group.clone(),
                theirs: identity.group,
                destination: destination.id().to_string(),
                way_back: "set [kafka] group back to that name",
            };
            return Err(Failure::new(Exit::Stopped, format!("{what}: {mismatch}")));
        }
        let owns = |topic: &str| {
            let owner = config.archives.iter().find(|archive| archive.topics.matches(topic));
            owner.is_some_and(|owner| owner.name == archive.name)
        };
        let mut partitions = patiently(clock, &what, || bucket.partitions()).await?;
        partitions.retain(|partition| owns(&partition.topic) && takes(partition));
        sites.push(Site { archive, bucket, partitions });
    }
    Ok(sites)
}

impl Site<'_> {
    /// The receipts of `partition` whose batches share an offset with `range`, in offset order. Lists the partition's folder and its folds,
    /// then reads one fold, or some receipts, at a time.
    ///
    /// # Errors
    /// A store that refuses or does not answer, a receipt or a fold that is damaged.
    pub async fn receipts<'s>(
        &'s self,
        partition: &'s TopicPartition,
        clock: &'s dyn Clock,
        range: OffsetRange,
    ) -> Result<BoxStream<'s, Result<Receipt, Failure>>, Failure> {
        self.receipts_of(partition, clock, vec![range]).await
    }

    /// The same for several ranges, which are disjoint and in order. What lies between them is not read.
    ///
    /// # Errors
    /// As [`Site::receipts`].
    pub async fn receipts_of<'s>(
        &'s self,
        partition: &'s TopicPartition,
        clock: &'s dyn Clock,
        ranges: Vec<OffsetRange>,
    ) -> Result<BoxStream<'s, Result<Receipt, Failure>>, Failure> {
        let names = patiently(clock, "list receipts", || self.bucket.names_from(partition, 0)).await?;
        let firsts: Vec<i64> = names.into_values().filter(|name| name.receipt).map(|name| name.first).collect();
        // After the receipts: what was folded meanwhile is in a fold by now.
        let mut folds = patiently(clock, "list folds", || self.bucket.folds(partition)).await?;
        let meets = |first: i64, end: i64, ranges: &[OffsetRange]| {
            let next = ranges.get(ranges.partition_point(|range| range.end <= first));
            next.is_some_and(|range| range.first < end)
        };
        folds.retain(|fold| meets(fold.first, fold.end, &ranges));
        let (mut wanted, mut taken) = (Vec::new(), 0);
        for range in &ranges {
            // Of documents of their own only the last one that begins at or before the range can reach into it.
            let from = firsts.partition_point(|&first| first <= range.first).saturating_sub(1);
            let to = firsts.partition_point(|&first| first < range.end);
            wanted.extend(firsts[from.max(taken).min(to)..to].iter().copied());
            taken = taken.max(to);
        }
        let receipts = of_stretches(&self.bucket, partition, clock, stretches(&wanted, folds));
        let is_of = move |receipt: &Receipt| std::future::ready(meets(receipt.first, receipt.end, &ranges));
        Ok(receipts.try_filter(is_of).boxed())
    }
}

/// The receipts of `partition` whose batches begin at or behind `from`, in offset order. Lists the partition's folder from there on and its folds, then
/// reads one fold, or some receipts, at a time.
///
/// # Errors
/// As [`Site::receipts`].
pub async fn receipts_from<'s>(
    bucket: &'s Bucket,
    partition: &'s TopicPartition,
    clock: &'s dyn Clock,
    from: i64,
) -> Result<BoxStream<'s, Result<Receipt, Failure>>, Failure> {
    let names = patiently(clock, "list receipts", || bucket.names_from(partition, from)).await?;
    let firsts: Vec<i64> = names.into_values().filter(|name| name.receipt).map(|name| name.first).collect();
    // After the receipts: what was folded meanwhile is in a fold by now.
    let mut folds = patiently(clock, "list folds", || bucket.folds(partition)).await?;
    folds.retain(|fold| fold.end > from);
    let receipts = of_stretches(bucket, partition, clock, stretches(&firsts, folds));
    Ok(receipts.try_filter(move |receipt| std::future::ready(receipt.first >= from)).boxed())
}

fn of_stretches<'s>(
    bucket: &'s Bucket,
    partition: &'s TopicPartition,
    clock: &'s dyn Clock,
    stretches: Vec<Stretch>,
) -> BoxStream<'s, Result<Receipt, Failure>> {
    let of_stretch = move |stretch| of_stretch(bucket, partition, clock, stretch);
    stream::iter(stretches).map(Ok).and_then(of_stretch).try_flatten().boxed()
}

async fn of_stretch<'s>(
    bucket: &'s Bucket,
    partition: &'s TopicPartition,
    clock: &'s dyn Clock,
    stretch: Stretch,
) -> Result<BoxStream<'s, Result<Receipt, Failure>>, Failure> {
    let (firsts, beside, folds) = match stretch {
        Stretch::Beside(firsts) => (firsts.clone(), firsts, Folds::default()),
        Stretch::Folded { folds, beside } => {
            let what = format!("{partition}: folded receipts");
            let folds = patiently(clock, &what, || bucket.read_folds(partition, &folds)).await?;
            let mut firsts = folds.firsts();
            firsts.extend(&beside);
            (firsts.into_iter().collect(), beside, folds)
        }
    };
    let (beside, folds) = (Arc::new(beside), Arc::new(folds));
    let read = move |first: i64| {
        let (beside, folds) = (beside.clone(), folds.clone());
        async move {
            let what = format!("{partition}: the receipt of {first}");
            let folded = patiently(clock, &what, || std::future::ready(folds.receipt(first))).await?;
            if beside.binary_search(&first).is_err() {
                return Ok(folded);
            }
            let found = patiently(clock, &what, || bucket.receipt(partition, first)).await?;
            Ok(match (found, folded) {
                (Some(found), Some(folded)) => Some(prevailing(found, folded)),
                // One that is gone since the listing gave way to another.
                (found, folded) => found.or(folded),
            })
        }
    };
    let receipts = stream::iter(firsts).map(read).buffered(READS_MAX);
    Ok(receipts.try_filter_map(|receipt| std::future::ready(Ok(receipt))).boxed())
}

#[cfg(test)]
mod tests;
