//! The rows of source partitions, each in order, from where a job is.
//!
//! # Order
//! Rows of one source partition come batch by batch. A batch may lie in several objects, one for each window of event times: where rows tell
//! their offset they are merged by it, else the objects come one after the other. Batches that an object has in common, as it was compacted,
//! are read as one.
//!
//! # Memory
//! [`PARTITIONS_MAX`] source partitions are read at a time, of each of them at most [`OPEN_MAX`] objects; see [`crate::reader::rows`] for what
//! one takes. A batch in more objects than that is read in passes: each reads every object that may have the next rows by offset, and keeps up to
//! [`PASS_BYTES`] of them.

use super::position::{Position, short_hash};
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
use crate::ledger::{Destinations, Site};
use crate::reader::merge::{Item, Source};
use crate::reader::plan::{Batch, Chosen, Shapes, Wanted, batches};
use crate::reader::records::Records;
use crate::reader::row::{Body, Row};
use crate::reader::rows::Rows;
use crate::record::{OffsetRange, TopicPartition, offset_after};
use futures::stream::{self, BoxStream, LocalBoxStream, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Source partitions that are read at a time.
pub const PARTITIONS_MAX: usize = 4;

/// Objects of one batch that are open at a time.
pub const OPEN_MAX: usize = 8;

/// Bytes of rows that one pass keeps.
pub const PASS_BYTES: usize = 32 << 20;

/// Objects of batches that are read as one: more are refused.
pub const STRETCH_MAX: usize = 50_000;

/// What a kept row takes beside its bytes, about.
const ROW_OVERHEAD: usize = 160;

/// The next thing of a source partition.
pub enum Step {
    /// A row, and where the partition is behind it.
    Row {
        /// The source partition.
        partition: i32,
        /// The row.
        item: Box<Item>,
        /// Where it is then.
        after: Position,
    },
    /// Everything up to there is done with.
    Passed {
        /// The source partition.
        partition: i32,
        /// Where it is.
        after: Position,
    },
}

/// Where rows are read.
#[derive(Clone, Copy)]
pub struct Archive<'s> {
    /// The archive.
    pub site: &'s Site<'s>,
    /// Its stores.
    pub destinations: &'s Destinations,
    /// The time.
    pub clock: &'s dyn Clock,
}

/// What is left of a source partition.
pub struct Left {
    /// The source partition.
    pub partition: TopicPartition,
    /// From here on.
    pub from: Position,
    /// Which objects: their output and times, and the offsets up to the end.
    pub wanted: Wanted,
}

/// What cannot be read, and the source partition that ends with it.
pub type Unread = (i32, Failure);

/// Everything that is left, each source partition in order, several of them side by side. One that fails ends there, without a step to its end;
/// the others do not.
pub fn steps<'s>(archive: Archive<'s>, left: &'s [Left]) -> LocalBoxStream<'s, Result<Step, Unread>> {
    let each = left.iter().map(move |left| {
        let mut is_failed = false;
        let steps = of_partition(archive, left);
        let until_failed = steps.take_while(move |step| {
            let was_failed = is_failed;
            is_failed |= step.is_err();
            std::future::ready(!was_failed)
        });
        until_failed.map_err(|failure| (left.partition.partition, failure)).boxed_local()
    });
    stream::iter(each).flatten_unordered(PARTITIONS_MAX).boxed_local()
}

fn of_partition<'s>(archive: Archive<'s>, left: &'s Left) -> LocalBoxStream<'s, Result<Step, Failure>> {
    let partition = left.partition.partition;
    let opened = async move {
        let batches = batches(archive.site, &left.partition, archive.clock, &left.wanted).await?;
        let shapes = Shapes::new(archive.site);
        Ok::<_, Failure>(Partition { archive, left, batches, shapes, current: None, is_ended: false })
    };
    let steps = |reader: Partition<'s>| {
        stream::try_unfold(reader, |mut reader| async move {
            let step = reader.next().await?;
            Ok::<_, Failure>(step.map(|step| (step, reader)))
        })
    };
    let end = Position { next: left.wanted.offsets.end, rows: 0, tag: 0 };
    let ended = stream::iter([Ok(Step::Passed { partition, after: end })]);
    stream::once(opened).map_ok(steps).try_flatten().chain(ended).boxed_local()
}

/// One source partition on its way.
struct Partition<'s> {
    archive: Archive<'s>,
    left: &'s Left,
    batches: BoxStream<'s, Result<Batch, Failure>>,
    shapes: Shapes,
    current: Option<Current>,
    is_ended: bool,
}

/// The batch that is being read.
struct Current {
    rows: Ordered,
    range: OffsetRange,
    /// All of it are whole records: their offsets say where it is.
    has_records: bool,
    tag: u32,
    /// Rows that came, whether or not they were done with before.
    seen: u64,
}

impl Partition<'_> {
    async fn next(&mut self) -> Result<Option<Step>, Failure> {
        let partition = self.left.partition.partition;
        loop {
            if self.is_ended {
                return Ok(None);
            }
            let Some(current) = &mut self.current else {
                match self.stretch().await? {
                    Some((objects, range)) => self.current = self.open(objects, range).await?,
                    None => self.is_ended = true,
                }
                continue;
            };
            let Some((offset, item)) = current.rows.next().await? else {
                let after = Position { next: current.range.end.min(self.left.wanted.offsets.end), rows: 0, tag: 0 };
                self.current = None;
                return Ok(Some(Step::Passed { partition, after }));
            };
            current.seen += 1;
            // A compacted object may reach over the end of the job.
            if offset.is_some_and(|offset| offset >= self.left.wanted.offsets.end) {
                continue;
            }
            let from = self.left.from;
            let after = match (current.has_records, offset) {
                (true, Some(offset)) if offset < from.next => continue,
                (true, Some(offset)) => Position { next: offset_after(offset), rows: 0, tag: 0 },
                _ if from.next == current.range.first && current.seen <= from.rows => continue,
                _ => Position { next: current.range.first, rows: current.seen, tag: current.tag },
            };
            return Ok(Some(Step::Row { partition, item: Box::new(item), after }));
        }
    }

    /// The objects of the next batch, with the batches behind it that they reach into, and what these cover.
    async fn stretch(&mut self) -> Result<Option<(Vec<Chosen>, OffsetRange)>, Failure> {
        let Some(Batch { receipt, mut objects }) = self.batches.try_next().await? else { return Ok(None) };
        let mut range = OffsetRange::new(receipt.first, receipt.end);
        while objects.iter().any(|chosen| chosen.range.end > range.end) {
            let Some(Batch { receipt, objects: more }) = self.batches.try_next().await? else { break };
            range.end = range.end.max(receipt.end);
            objects.extend(more);
            if objects.len() > STRETCH_MAX {
                let what = format!(
                    "{}: more than {STRETCH_MAX} objects have to be read together from offset {} on, as compacted ones reach over them: restore it \
                     in parts, with --from-offset and --to-offset",
                    self.left.partition, range.first
                );
                return Err(Failure::new(Exit::Config, what));
            }
        }
        Ok(Some((objects, range)))
    }

    /// Begins to read the objects of `range`; `None`: there are none.
    async fn open(&mut self, mut objects: Vec<Chosen>, range: OffsetRange) -> Result<Option<Current>, Failure> {
        let Archive { site, destinations, clock } = self.archive;
        let from = self.left.from;
        // What a replay of dead letters adds comes last, so that rows before it keep their numbers.
        objects.sort_by_key(|chosen| chosen.replay);
        let (count, tag) = known(&objects, from, range)?;
        objects.truncate(count);
        let mut sources = Vec::with_capacity(objects.len());
        for chosen in objects {
            let shape = self.shapes.of(site, clock, &chosen).await?;
            let place = chosen.place(destinations)?;
            sources.push(Arc::new(Source { chosen, place, shape }));
        }
        if sources.is_empty() {
            return Ok(None);
        }
        let has_records = sources.iter().all(|source| source.shape.has_records());
        let has_offsets = sources
            .iter()
            .all(|source| source.shape.has_records() || source.shape.teller.tells_offsets(source.shape.has_records()));
        // Rows below it are skipped without a look where whole records tell it.
        let rows = Ordered::new(sources, has_offsets, if has_records { from.next } else { 0 });
        Ok(Some(Current { rows, range, has_records, tag, seen: 0 }))
    }
}

/// How many of the objects the job knows, and a hash to know them again where rows in them are counted. Where it has begun with the batch,
/// what was replayed since is not in it.
fn known(objects: &[Chosen], from: Position, range: OffsetRange) -> Result<(usize, u32), Failure> {
    let tag = |count: usize| {
        let keys = objects[..count].iter().map(|chosen| (chosen.object.key.as_str(), chosen.object.rows));
        short_hash(&format!("{:?}", keys.collect::<Vec<_>>()))
    };
    if from.next != range.first || from.rows == 0 {
        return Ok((objects.len(), tag(objects.len())));
    }
    let known = (0..=objects.len()).rev().find(|&count| tag(count) == from.tag);
    known.map(|count| (count, from.tag)).ok_or_else(|| {
        let what = format!(
            "the batch {range} lies in other objects than when {} rows of it were restored, so where to go on is not known: restore what is \
             behind it, --from-offset {}, under another --job",
            from.rows, range.end
        );
        Failure::new(Exit::Stopped, what)
    })
}

/// Rows of one object with what puts them in order: their offset, or that of the row before.
struct Feed {
    source: Arc<Source>,
    kind: FeedKind,
    last: Option<i64>,
}

enum FeedKind {
    Records(Box<Records>, u64),
    Rows(Box<Rows>),
}

impl Feed {
    fn start(source: Arc<Source>) -> Result<Self, Failure> {
        let (place, shape) = (source.place.clone(), source.shape.clone());
        let kind = if shape.has_records() {
            let chosen = &source.chosen;
            FeedKind::Records(Box::new(Records::start(place, shape, chosen.partition.clone(), chosen.range)?), 0)
        } else {
            FeedKind::Rows(Box::new(Rows::start(place, shape)))
        };
        Ok(Self { source, kind, last: None })
    }

    async fn next(&mut self) -> Result<Option<(Option<i64>, Item)>, Failure> {
        let row = match &mut self.kind {
            FeedKind::Records(records, read) => {
                let Some(record) = records.next().await? else { return Ok(None) };
                *read += 1;
                Row { index: *read - 1, body: Body::Record(Box::new(record)) }
            }
            FeedKind::Rows(rows) => {
                let Some(row) = rows.next().await? else { return Ok(None) };
                row
            }
        };
        let told = self.source.shape.teller.tell(&row);
        self.last = told.offset.or(self.last);
        Ok(Some((self.last, Item { row, told, source: self.source.clone() })))
    }
}

/// The rows of a batch, in order.
enum Ordered {
    OneByOne { waiting: VecDeque<Arc<Source>>, open: Option<Feed> },
    Merged { waiting: Vec<Arc<Source>>, open: Vec<(Feed, Option<i64>, Item)> },
    InPasses(Passes),
}

impl Ordered {
    fn new(sources: Vec<Arc<Source>>, has_offsets: bool, from: i64) -> Self {
        match sources.len() {
            0..=1 => Self::OneByOne { waiting: sources.into(), open: None },
            _ if !has_offsets => Self::OneByOne { waiting: sources.into(), open: None },
            2..=OPEN_MAX => Self::Merged { waiting: sources, open: Vec::new() },
            _ => Self::InPasses(Passes::new(sources, from, PASS_BYTES)),
        }
    }

    async fn next(&mut self) -> Result<Option<(Option<i64>, Item)>, Failure> {
        match self {
            Self::OneByOne { waiting, open } => loop {
                let Some(feed) = open else {
                    match waiting.pop_front() {
                        Some(source) => *open = Some(Feed::start(source)?),
                        None => return Ok(None),
                    }
                    continue;
                };
                match feed.next().await? {
                    Some(row) => return Ok(Some(row)),
                    None => *open = None,
                }
            },
            Self::Merged { waiting, open } => {
                // All are on their way before the first is waited for.
                let begun: Vec<Feed> = waiting.drain(..).map(Feed::start).collect::<Result<_, _>>()?;
                for mut feed in begun {
                    if let Some((offset, item)) = feed.next().await? {
                        open.push((feed, offset, item));
                    }
                }
                let least = open.iter().enumerate().min_by_key(|(index, (_, offset, _))| (*offset, *index));
                let Some(least) = least.map(|(index, _)| index) else { return Ok(None) };
                let following = open[least].0.next().await?;
                match following {
                    Some((offset, item)) => {
                        let (_, was, now) = &mut open[least];
                        Ok(Some((std::mem::replace(was, offset), std::mem::replace(now, item))))
                    }
                    None => {
                        let (_, offset, item) = open.remove(least);
                        Ok(Some((offset, item)))
                    }
                }
            }
            Self::InPasses(passes) => passes.next().await,
        }
    }
}

/// Puts rows of many objects in order with little memory, at the price of reading them several times.
pub(super) struct Passes {
    sources: Vec<Arc<Source>>,
    ready: VecDeque<(Option<i64>, Item)>,
    /// Rows below it are behind.
    from: i64,
    bytes_max: usize,
    is_last: bool,
}

impl Passes {
    pub(super) fn new(mut sources: Vec<Arc<Source>>, from: i64, bytes_max: usize) -> Self {
        sources.sort_by_key(|source| source.chosen.range.first);
        Self { sources, ready: VecDeque::new(), from, bytes_max, is_last: false }
    }

    pub(super) async fn next(&mut self) -> Result<Option<(Option<i64>, Item)>, Failure> {
        while self.ready.is_empty() && !self.is_last {
            self.pass().await?;
        }
        Ok(self.ready.pop_front())
    }

    async fn pass(&mut self) -> Result<(), Failure> {
        let mut kept: BTreeMap<(i64, usize, u64), Item> = BTreeMap::new();
        let (mut bytes, mut end) = (0, None::<i64>);
        for (index, source) in self.sources.iter().enumerate() {
            let range = source.chosen.range;
            if end.is_some_and(|end| range.first >= end) {
                break;
            }
            if range.end <= self.from {
                continue;
            }
            let mut feed = Feed::start(source.clone())?;
            while let Some((offset, item)) = feed.next().await? {
                let offset = offset.unwrap_or_default();
                if offset < self.from || end.is_some_and(|end| offset >= end) {
                    continue;
                }
                bytes += item.row.body.bytes() + ROW_OVERHEAD;
                kept.insert((offset, index, item.row.index), item);
                while bytes > self.bytes_max
                    && let (Some((&(first, ..), _)), Some((&(last, ..), _))) =
                        (kept.first_key_value(), kept.last_key_value())
                    && first < last
                {
                    end = Some(last);
                    while let Some(entry) = kept.last_entry().filter(|entry| entry.key().0 >= last) {
                        bytes -= entry.remove().row.body.bytes() + ROW_OVERHEAD;
                    }
                }
            }
        }
        self.ready = kept.into_iter().map(|((offset, ..), item)| (Some(offset), item)).collect();
        match end {
            Some(end) => self.from = end,
            None => self.is_last = true,
        }
        Ok(())
    }
}
