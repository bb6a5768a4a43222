//! What receipts say of an archive: the one way in which commands that read an archive find their way. No folder of objects is listed.
//!
//! ```text
//! configuration ──▶ Site (archive, bucket, Kafka partitions) ──▶ receipts in offset order ──▶ objects that count ([`live`])
//! ```

pub mod live;

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
    /// The receipts of `partition` whose batches share an offset with `range`, in offset order. Lists the partition's folder, then reads
    /// some receipts at a time.
    ///
    /// # Errors
    /// A store that refuses or does not answer, a receipt that is damaged.
    pub async fn receipts<'s>(
        &'s self,
        partition: &'s TopicPartition,
        clock: &'s dyn Clock,
        range: OffsetRange,
    ) -> Result<BoxStream<'s, Result<Receipt, Failure>>, Failure> {
        let listed = patiently(clock, "list receipts", || self.bucket.listed_from(partition, 0)).await?;
        let firsts: Vec<i64> = listed.into_iter().filter(|listed| listed.receipt).map(|listed| listed.first).collect();
        // Only the last one that begins at or before the range can reach into it.
        let from = firsts.partition_point(|&first| first <= range.first).saturating_sub(1);
        let to = firsts.partition_point(|&first| first < range.end);
        let read = move |first: i64| async move {
            let what = format!("{partition}: the receipt of {first}");
            patiently(clock, &what, || self.bucket.get_receipt(partition, first)).await
        };
        let firsts = firsts[from.min(to)..to].to_vec();
        let receipts = stream::iter(firsts).map(read).buffered(READS_MAX);
        // One that is gone since the listing gave way to another.
        let reaching =
            move |receipt: Option<Receipt>| async move { Ok(receipt.filter(|receipt| receipt.end > range.first)) };
        Ok(receipts.try_filter_map(reaching).boxed())
    }
}
