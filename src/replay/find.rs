//! Where dead letters lie, as receipts tell it. No bucket is listed for them: only folders of receipts.

use super::select::Selection;
use crate::bucket::receipt::Receipt;
use crate::clock::Clock;
use crate::config::Config;
use crate::destination::Destination;
use crate::exit::{Exit, Failure};
use crate::ledger::{self, Destinations, Site};
use crate::pipeline::archive::DEAD_LETTERS;
use crate::record::{OffsetRange, TopicPartition, offset_after};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use std::sync::Arc;

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
/// As [`ledger::sites`].
pub async fn sites<'c>(
    config: &'c Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    selection: &Selection,
) -> Result<Vec<Site<'c>>, Failure> {
    let takes = |partition: &TopicPartition| selection.takes_partition(partition);
    ledger::sites(config, destinations, clock, selection.archive.as_deref(), takes).await
}

/// The batches of `partition` that have dead letters which can be meant, in offset order. Reads the receipts of the partition,
/// some at a time.
///
/// # Errors
/// A store that refuses or does not answer, a receipt that is damaged.
pub async fn batches<'s>(
    site: &'s Site<'_>,
    partition: &'s TopicPartition,
    clock: &'s dyn Clock,
    selection: &'s Selection,
) -> Result<BoxStream<'s, Result<DeadBatch, Failure>>, Failure> {
    let range = match selection.offset {
        Some(offset) => OffsetRange::new(offset, offset_after(offset)),
        None => OffsetRange::new(0, i64::MAX),
    };
    let receipts = site.receipts(partition, clock, range).await?;
    Ok(receipts.try_filter_map(move |receipt| async move { Ok(dead_batch(receipt, selection)) }).boxed())
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
