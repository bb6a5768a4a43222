//! Which objects are meant: by archive, topic, Kafka partition, output, offsets and event times, as receipts tell them.

use super::rows::Place;
use super::shape::Shape;
use crate::bucket::compactions::{CompactionId, To};
use crate::bucket::receipt::{Receipt, ReceiptObject};
use crate::clock::Clock;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::layout::recognise::Recogniser;
use crate::layout::{Layout, SchemaSource};
use crate::ledger::live::{Compacted, Live};
use crate::ledger::{self, Destinations, Site};
use crate::pipeline::start::patiently;
use crate::record::{OffsetRange, TopicPartition};
use crate::replay::layouts::Layouts;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which objects and rows are meant: those that meet all of it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Only of this archive.
    pub archive: Option<String>,
    /// Only of this topic.
    pub topic: Option<String>,
    /// Only of these Kafka partitions; of all where it is empty.
    pub partitions: Vec<RangeInclusive<i32>>,
    /// Only of this output.
    pub output: Option<String>,
    /// Only with an event time from here on, milliseconds UTC.
    pub since_ms: Option<i64>,
    /// Only with an event time before this, milliseconds UTC.
    pub until_ms: Option<i64>,
    /// Only of these offsets.
    pub offsets: OffsetRange,
}

/// Every offset there can be.
pub const ALL_OFFSETS: OffsetRange = OffsetRange { first: 0, end: i64::MAX };

impl Default for Wanted {
    fn default() -> Self {
        Self {
            archive: None,
            topic: None,
            partitions: Vec::new(),
            output: None,
            since_ms: None,
            until_ms: None,
            offsets: ALL_OFFSETS,
        }
    }
}

impl Wanted {
    /// Whether there can be something in that Kafka partition.
    pub fn takes_partition(&self, partition: &TopicPartition) -> bool {
        self.topic.as_deref().is_none_or(|topic| topic == &*partition.topic)
            && (self.partitions.is_empty() || self.partitions.iter().any(|range| range.contains(&partition.partition)))
    }

    /// Whether there can be something in that object.
    pub fn takes_object(&self, object: &ReceiptObject) -> bool {
        self.output.as_deref().is_none_or(|output| output == object.output)
            && self.since_ms.is_none_or(|since| object.event_max_ms.is_none_or(|last| last >= since))
            && self.until_ms.is_none_or(|until| object.event_min_ms.is_none_or(|first| first < until))
    }

    /// Whether every row of that object is meant, as far as times go.
    pub fn takes_all_times_of(&self, object: &ReceiptObject) -> bool {
        self.since_ms.is_none_or(|since| object.event_min_ms.is_some_and(|first| first >= since))
            && self.until_ms.is_none_or(|until| object.event_max_ms.is_some_and(|last| last < until))
    }

    /// Whether a row of that event time is meant.
    pub fn takes_time(&self, event_ms: i64) -> bool {
        self.since_ms.is_none_or(|since| event_ms >= since) && self.until_ms.is_none_or(|until| event_ms < until)
    }

    /// Whether every row of a batch of that range is meant, as far as offsets go.
    pub fn takes_all_offsets_of(&self, range: OffsetRange) -> bool {
        self.offsets.first <= range.first && range.end <= self.offsets.end
    }
}

/// An object that is meant.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The Kafka partition of its records.
    pub partition: TopicPartition,
    /// What its batch covers, or those whose rows it has.
    pub range: OffsetRange,
    /// First offset of the batch that it comes with: of an object of a compaction the first one that is meant and has rows in it.
    pub batch: i64,
    /// The layout that it was written with.
    pub fingerprint: String,
    /// What its receipt says of it, at the first destination.
    pub object: ReceiptObject,
    /// Ids of the destinations that have it.
    pub destinations: Vec<String>,
    /// It was written by that replay of the batch's dead letters.
    pub replay: Option<u32>,
    /// Every offset of the range is one record and one row here, in order: the row of an offset is its distance from the first.
    pub is_dense: bool,
    /// It was made by that compaction, of objects of several batches.
    pub compaction: Option<CompactionId>,
    /// What it is, where it is not what its layout says.
    pub to: Option<To>,
}

/// A batch, and which of its objects are meant.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What its receipt says.
    pub receipt: Receipt,
    /// Its objects that count, and those of replays of its dead letters, by output and event time. An object of a compaction is of the first of its
    /// batches that is meant, and of no other.
    pub objects: Vec<Chosen>,
}

/// The archives and Kafka partitions that are meant.
///
/// # Errors
/// As [`ledger::sites`].
pub async fn sites<'c>(
    config: &'c Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    wanted: &Wanted,
) -> Result<Vec<Site<'c>>, Failure> {
    let takes = |partition: &TopicPartition| wanted.takes_partition(partition);
    ledger::sites(config, destinations, clock, wanted.archive.as_deref(), takes).await
}

/// The batches of `partition` that share an offset with what is meant, in offset order, with the objects that are meant: perhaps none.
///
/// # Errors
/// A store that refuses or does not answer, a receipt that is damaged.
pub async fn batches<'s>(
    site: &'s Site<'_>,
    partition: &'s TopicPartition,
    clock: &'s dyn Clock,
    wanted: &'s Wanted,
) -> Result<BoxStream<'s, Result<Batch, Failure>>, Failure> {
    batches_from(site, partition, clock, wanted, wanted.offsets).await
}

/// The same of those that share an offset with `offsets`, whatever `wanted` says of offsets.
///
/// # Errors
/// As [`batches`].
pub async fn batches_from<'s>(
    site: &'s Site<'_>,
    partition: &'s TopicPartition,
    clock: &'s dyn Clock,
    wanted: &'s Wanted,
    offsets: OffsetRange,
) -> Result<BoxStream<'s, Result<Batch, Failure>>, Failure> {
    let counting = Counting::read(site, partition, clock, offsets).await?;
    counted(site, partition, clock, wanted, offsets, counting).await
}

/// The same, and the objects of compactions that are meant and have `at` in their range: they come with a batch that they have rows of, too, which may
/// be a later one.
///
/// # Errors
/// As [`batches`].
pub async fn batches_and_over<'s>(
    site: &'s Site<'_>,
    partition: &'s TopicPartition,
    clock: &'s dyn Clock,
    wanted: &'s Wanted,
    at: i64,
) -> Result<(BoxStream<'s, Result<Batch, Failure>>, Vec<Chosen>), Failure> {
    let counting = Counting::read(site, partition, clock, wanted.offsets).await?;
    let over = counting.live.compacted().iter().filter(|compacted| compacted.range().contains(at));
    let over =
        over.filter_map(|compacted| chosen_of(partition, compacted, (wanted, compacted.range().first))).collect();
    Ok((counted(site, partition, clock, wanted, wanted.offsets, counting).await?, over))
}

async fn counted<'s>(
    site: &'s Site<'_>,
    partition: &'s TopicPartition,
    clock: &'s dyn Clock,
    wanted: &'s Wanted,
    offsets: OffsetRange,
    counting: Counting,
) -> Result<BoxStream<'s, Result<Batch, Failure>>, Failure> {
    let receipts = site.receipts(partition, clock, offsets).await?;
    let counting = Arc::new(counting);
    let with_objects = move |receipt: Receipt| {
        let counting = counting.clone();
        async move { batch(site, clock, wanted, receipt, &counting).await }
    };
    Ok(receipts.and_then(with_objects).boxed())
}

/// Whether a compaction that counts by now has replaced `chosen`, which is not there any more.
///
/// # Errors
/// A store that refuses or does not answer, a receipt that is damaged.
pub async fn is_replaced(site: &Site<'_>, clock: &dyn Clock, chosen: &Chosen) -> Result<bool, Failure> {
    let live = Live::read(&site.bucket, clock, &chosen.partition, chosen.range).await?;
    Ok(chosen.destinations.iter().any(|destination| live.is_replaced(destination, &chosen.object.key)))
}

/// What is known of a Kafka partition beside the receipts of its batches.
#[derive(Debug, Default)]
pub struct Counting {
    /// Its finished replays.
    replays: Vec<(i64, u32)>,
    live: Live,
    /// Which objects of compactions were given already, as all their batches name them.
    given: Vec<AtomicBool>,
}

impl Counting {
    async fn read(
        site: &Site<'_>,
        partition: &TopicPartition,
        clock: &dyn Clock,
        offsets: OffsetRange,
    ) -> Result<Self, Failure> {
        let replays = patiently(clock, "list replays", || site.bucket.finished_replays(partition)).await?;
        let live = Live::read(&site.bucket, clock, partition, offsets).await?;
        Ok(Self { given: live.compacted().iter().map(|_| AtomicBool::new(false)).collect(), replays, live })
    }
}

/// The objects of one batch that are meant, and that are not given yet.
///
/// # Errors
/// As [`batches`].
pub async fn batch(
    site: &Site<'_>,
    clock: &dyn Clock,
    wanted: &Wanted,
    receipt: Receipt,
    counting: &Counting,
) -> Result<Batch, Failure> {
    let Counting { replays, live, given } = counting;
    let (partition, range) = (receipt.topic_partition(), OffsetRange::new(receipt.first, receipt.end));
    let mut objects = Objects { partition: &partition, range, found: Vec::new(), by_key: HashMap::new() };
    let dense = dense_outputs(&receipt);
    let counts = |object: &&ReceiptObject| !live.is_replaced(&object.destination, &object.key);
    for object in receipt.objects.iter().filter(|object| wanted.takes_object(object)).filter(counts) {
        let is_dense = dense.contains(&object.output.as_str());
        objects.add(&receipt.fingerprint, object, None, is_dense);
    }
    let begin = replays.partition_point(|&(first, _)| first < receipt.first);
    for &(_, n) in replays[begin..].iter().take_while(|&&(first, _)| first == receipt.first) {
        let what = format!("the receipt of replay {n} of {partition} {range}");
        let found = patiently(clock, &what, || site.bucket.replay_receipt(&partition, receipt.first, n)).await?;
        let Some(replay) = found else { continue };
        for object in replay.objects.iter().filter(|object| wanted.takes_object(object)) {
            objects.add(&replay.replay.fingerprint, object, Some(n), false);
        }
    }
    for index in live.of_batch(receipt.first) {
        let compacted = &live.compacted()[index];
        if !given[index].swap(true, Ordering::Relaxed) {
            objects.found.extend(chosen_of(&partition, compacted, (wanted, receipt.first)));
        }
    }
    let order = |chosen: &Chosen| {
        let object = &chosen.object;
        (object.output.clone(), object.event_min_ms, chosen.replay, object.key.clone())
    };
    let mut objects = objects.found;
    objects.sort_by_cached_key(order);
    Ok(Batch { receipt, objects })
}

/// The outputs of which one object has every offset of the batch as one row, in order.
fn dense_outputs(receipt: &Receipt) -> Vec<&str> {
    let offsets = offsets_of(OffsetRange::new(receipt.first, receipt.end));
    let is_whole = |object: &&ReceiptObject| object.records == Some(offsets) && object.rows == Some(offsets);
    receipt.objects.iter().filter(is_whole).map(|object| object.output.as_str()).collect()
}

/// The objects of a batch, each once whatever its destinations.
struct Objects<'b> {
    partition: &'b TopicPartition,
    range: OffsetRange,
    found: Vec<Chosen>,
    /// Places in `found`.
    by_key: HashMap<String, usize>,
}

impl Objects<'_> {
    fn add(&mut self, fingerprint: &str, object: &ReceiptObject, replay: Option<u32>, is_dense: bool) {
        let destination = object.destination.clone();
        if let Some(&known) = self.by_key.get(&object.key) {
            self.found[known].destinations.push(destination);
            return;
        }
        self.by_key.insert(object.key.clone(), self.found.len());
        self.found.push(Chosen {
            partition: self.partition.clone(),
            range: self.range,
            batch: self.range.first,
            fingerprint: fingerprint.to_string(),
            object: object.clone(),
            destinations: vec![destination],
            replay,
            is_dense,
            compaction: None,
            to: None,
        });
    }
}

/// `batch`: first offset of the batch that it comes with.
fn chosen_of(partition: &TopicPartition, compacted: &Compacted, (wanted, batch): (&Wanted, i64)) -> Option<Chosen> {
    let range = compacted.range();
    let is_dense = offsets_of(range) == compacted.group.rows && compacted.group.records == Some(compacted.group.rows);
    let object = compacted.objects.first().filter(|object| wanted.takes_object(object))?;
    Some(Chosen {
        partition: partition.clone(),
        range,
        batch,
        fingerprint: compacted.group.fingerprint.clone(),
        object: object.clone(),
        destinations: compacted.group.destinations.clone(),
        replay: None,
        is_dense,
        compaction: Some(compacted.id.clone()),
        to: compacted.to(),
    })
}

fn offsets_of(range: OffsetRange) -> u64 {
    u64::try_from(range.end - range.first).unwrap_or_default()
}

impl Chosen {
    fn kind(&self) -> Kind {
        (self.fingerprint.clone(), self.object.output.clone(), self.to)
    }

    /// Whether the offset of each of its rows is known, by the row or by its place.
    pub fn tells_offsets(&self, shape: &Shape) -> bool {
        self.is_dense || shape.teller.tells_offsets(shape.has_records())
    }

    /// The offset of its row number `index`, where places tell it.
    pub fn offset_by_place(&self, index: u64) -> Option<i64> {
        self.is_dense.then(|| self.range.first.saturating_add(i64::try_from(index).unwrap_or(i64::MAX)))
    }

    /// Where it is read.
    ///
    /// # Errors
    /// [`Exit::Config`]: the configuration has none of its destinations.
    pub fn place(&self, destinations: &Destinations) -> Result<Place, Failure> {
        let known: Vec<_> = self.destinations.iter().filter_map(|id| destinations.get(id).cloned()).collect();
        if known.is_empty() {
            let (key, ids) = (&self.object.key, self.destinations.join(", "));
            let what = format!("{key} lies at {ids}, which this configuration has no destination for; add it");
            return Err(Failure::new(Exit::Config, what));
        }
        // What was kept in place of another object may have more rows than anybody counted.
        let rows = self.object.rows.filter(|_| self.object.kept.is_none());
        Ok(Place { key: self.object.key.clone(), destinations: known, rows })
    }
}

/// How the objects of one archive are read: each of its layouts is read once.
pub struct Shapes {
    layouts: Layouts,
    known: HashMap<Kind, Arc<Shape>>,
    /// What reads the names, and the extension of them.
    names: HashMap<Kind, Option<(Recogniser, String)>>,
}

/// Objects that are alike: fingerprint, output, and what they are in place of what those say.
type Kind = (String, String, Option<To>);

impl Shapes {
    /// Of the archive of `site`.
    pub fn new(site: &Site<'_>) -> Self {
        Self { layouts: Layouts::new(&site.archive.layout), known: HashMap::new(), names: HashMap::new() }
    }

    /// How `chosen` is read.
    ///
    /// # Errors
    /// The store refuses or does not answer; [`Exit::Stopped`]: its layout is gone, damaged or of a later release.
    pub async fn of(&mut self, site: &Site<'_>, clock: &dyn Clock, chosen: &Chosen) -> Result<Arc<Shape>, Failure> {
        let (kind, output) = (chosen.kind(), &chosen.object.output);
        if let Some(known) = self.known.get(&kind) {
            return Ok(known.clone());
        }
        let layout = self.layout(site, clock, chosen).await?;
        let found = layout.outputs.iter().find(|known| known.name == *output);
        let pinned = match found.and_then(|found| found.format.schema()) {
            Some(SchemaSource::Infer) => {
                let read = || site.bucket.get_schema(&layout.archive, output, 1);
                patiently(clock, &format!("the schema of {output}"), read).await?
            }
            _ => None,
        };
        let shape = Shape::of(&layout, output, pinned).map_err(|what| unusable(chosen, &what))?;
        let shape = Arc::new(match chosen.to {
            Some(To::Parquet) => shape.as_parquet(),
            None => shape,
        });
        self.known.insert(kind, shape.clone());
        Ok(shape)
    }

    /// What the name of `chosen` tells but for its offsets, its compaction and its extension: the same for all that a compaction may put together,
    /// and for what it makes of them.
    ///
    /// # Errors
    /// As [`Shapes::of`].
    pub async fn unit_of(&mut self, site: &Site<'_>, clock: &dyn Clock, chosen: &Chosen) -> Result<String, Failure> {
        let (kind, output) = (chosen.kind(), &chosen.object.output);
        if !self.names.contains_key(&kind) {
            let layout = self.layout(site, clock, chosen).await?;
            let found = layout.outputs.iter().find(|known| known.name == *output);
            let names = found.and_then(|found| {
                let extension = match chosen.to {
                    Some(To::Parquet) => "parquet".to_string(),
                    None => found.place.extension(&found.format),
                };
                let names = Recogniser::compile(&found.place, output, &extension, layout.generation);
                Some((names.ok()?, extension))
            });
            self.names.insert(kind.clone(), names);
        }
        let unit = self.names.get(&kind).and_then(Option::as_ref).and_then(|(names, extension)| {
            let same = names.with_range(&chosen.object.key, OffsetRange { first: 0, end: 0 })?;
            Some(same.strip_suffix(extension.as_str()).unwrap_or(&same).trim_end_matches('.').to_string())
        });
        Ok(unit.unwrap_or_else(|| chosen.object.folder.clone()))
    }

    async fn layout(&mut self, site: &Site<'_>, clock: &dyn Clock, chosen: &Chosen) -> Result<Arc<Layout>, Failure> {
        let found = self.layouts.get(&site.bucket, clock, &chosen.fingerprint).await?;
        found.map_err(|what| unusable(chosen, &what))
    }
}

fn unusable(chosen: &Chosen, what: &str) -> Failure {
    let what = format!("{}: the layout that wrote it cannot be used: {what}", chosen.object.key);
    Failure::new(Exit::Stopped, what)
}
