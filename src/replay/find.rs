//! Where dead letters lie, as receipts tell it. No bucket is listed for them: only folders of receipts.

use super::select::Selection;
use crate::bucket::receipt::Receipt;
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::config::{ArchiveConfig, Config};
use crate::destination::Destination;
use crate::exit::{Exit, Failure};
use crate::pipeline::archive::DEAD_LETTERS;
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
    /// Kafka partitions of its topics that have receipts.
    pub partitions: Vec<TopicPartition>,
}

/// A batch that has dead letters.
#[derive(Clone, Debug)]
pub struct DeadBatch {
    /// Its Kafka partition.
    pub partition: TopicPartition,
    /// What it covers.
    pub range: OffsetRange,
    /// The layout that it was archived with.
    pub fingerprint: String,
    /// The schema in the registry that its rows are projected onto.
    pub target: Option<String>,
    /// The cluster's id.
    pub cluster_id: String,
    /// Its objects of dead letters, one a window.
    pub objects: Vec<DeadObject>,
}

/// An object of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadObject {
    /// Its key, the same everywhere.
    pub key: String,
    /// Ids of the destinations that have it.
    pub destinations: Vec<String>,
    /// How many it holds, where its receipt knows.
    pub letters: Option<u64>,
    /// Its size.
    pub bytes: u64,
    /// Least Kafka timestamp inside, milliseconds UTC.
    pub event_min_ms: Option<i64>,
    /// Greatest Kafka timestamp inside, milliseconds UTC.
    pub event_max_ms: Option<i64>,
}

/// The archives of `config` that are meant, with the Kafka partitions that are.
///
/// # Errors
/// No such archive, a store that refuses or does not answer, an archive of another group.
pub async fn sites<'c>(
    config: &'c Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    selection: &Selection,
) -> Result<Vec<Site<'c>>, Failure> {
    if let Some(name) = &selection.archive
        && !config.archives.iter().any(|archive| archive.name == *name)
    {
        let names: Vec<&str> = config.archives.iter().map(|archive| archive.name.as_str()).collect();
        return Err(Failure::new(Exit::Config, format!("no archive {name:?}; there are {}", names.join(", "))));
    }
    let mut sites = Vec::new();
    for archive in &config.archives {
        if selection.archive.as_ref().is_some_and(|name| *name != archive.name) {
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
        partitions.retain(|partition| owns(&partition.topic) && selection.takes_partition(partition));
        sites.push(Site { archive, bucket, partitions });
    }
    Ok(sites)
}

impl Site<'_> {
    /// The batches of `partition` that have dead letters which can be meant, in offset order. Reads the receipts of the partition,
    /// some at a time.
    ///
    /// # Errors
    /// A store that refuses or does not answer, a receipt that is damaged.
    pub async fn batches<'s>(
        &'s self,
        partition: &'s TopicPartition,
        clock: &'s dyn Clock,
        selection: &'s Selection,
    ) -> Result<BoxStream<'s, Result<DeadBatch, Failure>>, Failure> {
        let listed = patiently(clock, "list receipts", || self.bucket.listed_from(partition, 0)).await?;
        let mut firsts = listed.into_iter().filter(|listed| listed.receipt).map(|listed| listed.first);
        let firsts: Vec<i64> = match selection.offset {
            // The last one that begins at or before it.
            Some(offset) => firsts.rfind(|&first| first <= offset).into_iter().collect(),
            None => firsts.collect(),
        };
        let read = move |first: i64| async move {
            let what = format!("{partition}: the receipt of {first}");
            let read = patiently(clock, &what, || self.bucket.get_receipt(partition, first));
            Ok(read.await?.and_then(|receipt| dead_batch(receipt, selection)))
        };
        let batches = stream::iter(firsts).map(read).buffered(READS_MAX);
        Ok(batches.try_filter_map(|batch| async move { Ok(batch) }).boxed())
    }
}

/// What a receipt tells of dead letters; `None` where none of them can be meant.
fn dead_batch(receipt: Receipt, selection: &Selection) -> Option<DeadBatch> {
    let range = OffsetRange::new(receipt.first, receipt.end);
    if !selection.takes_range(range) {
        return None;
    }
    let mut objects: Vec<DeadObject> = Vec::new();
    for object in receipt.objects.iter().filter(|object| object.output == DEAD_LETTERS) {
        let destination = object.destination.clone();
        match objects.iter_mut().find(|known| known.key == object.key) {
            Some(known) => known.destinations.push(destination),
            None => objects.push(DeadObject {
                key: object.key.clone(),
                destinations: vec![destination],
                letters: object.rows,
                bytes: object.bytes,
                event_min_ms: object.event_min_ms,
                event_max_ms: object.event_max_ms,
            }),
        }
    }
    objects.retain(|object| selection.takes_object(object));
    let partition = receipt.topic_partition();
    let Receipt { fingerprint, target, cluster_id, .. } = receipt;
    (!objects.is_empty()).then_some(DeadBatch { partition, range, fingerprint, target, cluster_id, objects })
}

/// The first destination of an object that the configuration has.
///
/// # Errors
/// [`Exit::Config`]: it has none of them.
pub fn place_of<'d>(object: &DeadObject, destinations: &'d Destinations) -> Result<&'d Arc<Destination>, Failure> {
    object.destinations.iter().find_map(|id| destinations.get(id)).ok_or_else(|| {
        let ids = object.destinations.join(", ");
        let what = format!("{} lies at {ids}, which this configuration has no destination for; add it", object.key);
        Failure::new(Exit::Config, what)
    })
}
