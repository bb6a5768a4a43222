//! Rows that tell their offset, of many objects, in the order of it.
//!
//! An object is opened when the order reaches the first offset that it can have, and closed at its end. Rows of one object are in the order of their
//! offsets: the pipeline writes them as they come, and a compaction puts objects one behind the other whose batches are (a unit's groups,
//! [`crate::compact::plan`]).
//!
//! # Where more overlap
//! At most [`OPEN_MAX`] objects are open. For one more, the one whose next row is furthest away is parked: it is closed, and its next row is known. As
//! long as that lies ahead it costs nothing, as with an object of one hour that has few late rows. Where the order reaches it and there is no
//! room, a pass reads the parked ones one after the other and keeps up to [`PASS_BYTES`] of what comes next; each stays parked behind that, and those
//! with nothing in it are not opened. So an object is read again from where it was left: of Parquet that takes its next row group, everything else is
//! unpacked from its beginning up to there.
//!
//! # Memory
//! [`OPEN_MAX`] open objects, one more in a pass ([`crate::reader::rows`] says what one takes), and [`PASS_BYTES`] of rows, or those of one offset.

use crate::exit::Failure;
use crate::reader::merge::{Item, Source};
use crate::reader::plan::Chosen;
use crate::reader::records::Records;
use crate::reader::row::{Body, Row};
use crate::reader::rows::Rows;
use crate::record::offset_after;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Objects of one source partition that are open at a time.
pub const OPEN_MAX: usize = 8;

/// Bytes of rows that one pass keeps.
pub const PASS_BYTES: usize = 32 << 20;

/// What a kept row takes beside its bytes, about.
const ROW_OVERHEAD: usize = 160;

/// Which object of its source partition and output, and where it stands among them: the same whoever looks. What a replay of dead letters adds
/// comes behind what was there before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// First offset of its batches.
    pub first: i64,
    /// The replay that wrote it.
    pub replay: Option<u32>,
    /// One past the last offset of its batches.
    pub end: i64,
    /// Its key.
    pub key: String,
    /// Its rows, where they are known.
    pub rows: Option<u64>,
}

impl Rank {
    /// Of `chosen`.
    pub fn of(chosen: &Chosen) -> Self {
        let (range, object) = (chosen.range, &chosen.object);
        Self { first: range.first, replay: chosen.replay, end: range.end, key: object.key.clone(), rows: object.rows }
    }

    /// Whether rows of `offset` can be in it.
    pub fn reaches_over(&self, offset: i64) -> bool {
        self.first <= offset && offset < self.end
    }
}

/// Where the rows of an object stand among those of one offset: a record may be several rows, of several windows. A compaction puts objects of one
/// window together, of several batches: so windows come before what tells batches, and the order of a record's rows is the same before it and
/// after it. Rows of one object are in their order, which a compaction keeps. Objects of replays are never compacted, and come last: what a
/// replay adds while a job is on its way stands behind what was there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    replay: Option<u32>,
    unit: String,
    rank: Rank,
}

impl Seat {
    /// Of `chosen`, which is of that unit ([`crate::reader::plan::Shapes::unit_of`]).
    pub fn of(chosen: &Chosen, unit: String) -> Self {
        Self { replay: chosen.replay, unit, rank: Rank::of(chosen) }
    }
}

/// Why there is no next row.
pub struct Unread {
    /// What it means.
    pub failure: Failure,
    /// The object, where the reason is that it is not there.
    pub gone: Option<Arc<Source>>,
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        Self { failure, gone: None }
    }
}

/// Rows of one object with what puts them in order: their offset, or that of the row before.
pub struct Feed {
    source: Arc<Source>,
    kind: FeedKind,
    last: i64,
}

enum FeedKind {
    Records(Box<Records>, u64),
    Rows(Box<Rows>),
}

impl Feed {
    /// From row `first` on, whose offset is `from` at least.
    ///
    /// # Errors
    /// None but bugs.
    pub fn start(source: Arc<Source>, first: u64, from: i64) -> Result<Self, Failure> {
        let (place, shape) = (source.place.clone(), source.shape.clone());
        let kind = if shape.has_records() {
            let (partition, range) = (source.chosen.partition.clone(), source.chosen.range);
            FeedKind::Records(Box::new(Records::start_at(place, shape, partition, range, first)?), first)
        } else {
            FeedKind::Rows(Box::new(Rows::start_at(place, shape, first)))
        };
        Ok(Self { source, kind, last: from })
    }

    /// The next row, with the offset that it is put in order by.
    ///
    /// # Errors
    /// As [`Rows::next`].
    pub async fn next(&mut self) -> Result<Option<(i64, Item)>, Unread> {
        let read = match &mut self.kind {
            FeedKind::Records(records, read) => match records.next().await {
                Ok(Some(record)) => {
                    *read += 1;
                    Ok(Some(Row { index: *read - 1, body: Body::Record(Box::new(record)) }))
                }
                Ok(None) => Ok(None),
                Err(failure) => Err((failure, records.is_gone())),
            },
            FeedKind::Rows(rows) => match rows.next().await {
                Ok(row) => Ok(row),
                Err(failure) => Err((failure, rows.is_gone())),
            },
        };
        match read {
            Ok(row) => Ok(row.map(|row| self.told(row))),
            Err((failure, is_gone)) => Err(Unread { failure, gone: is_gone.then(|| self.source.clone()) }),
        }
    }

    fn told(&mut self, row: Row) -> (i64, Item) {
        let mut told = self.source.shape.teller.tell(&row);
        told.offset = told.offset.or_else(|| self.source.chosen.offset_by_place(row.index));
        self.last = self.last.max(told.offset.unwrap_or(self.last));
        (self.last, Item { row, told, source: self.source.clone() })
    }
}

/// An object that is not open, and which of its rows is next.
struct Waiting {
    source: Arc<Source>,
    row: u64,
    /// It was open, so what its next row has is known.
    is_parked: bool,
}

impl Waiting {
    fn parked(source: Arc<Source>, row: u64) -> Self {
        Self { source, row, is_parked: true }
    }
}

struct Open {
    feed: Feed,
    item: Item,
}

/// Gives the rows of objects in the order of their offsets; of one offset, object by object as [`Seat`] says.
pub struct InOrder {
    /// Rows below it are left out.
    from: i64,
    bytes_max: usize,
    /// Those that are not open, by what their next row has at least: not begun, or parked.
    waiting: BTreeMap<(i64, Arc<Seat>), Waiting>,
    /// Those that are open, by their next row.
    open: BTreeMap<(i64, Arc<Seat>), Open>,
    /// Rows of parked ones, each before the row that its object is parked at.
    kept: BTreeMap<(i64, Arc<Seat>, u64), Item>,
    kept_bytes: usize,
}

fn bytes(item: &Item) -> usize {
    item.row.body.bytes() + ROW_OVERHEAD
}

impl InOrder {
    /// Nothing yet. Rows whose offset is below `from` will be left out.
    pub fn new(from: i64) -> Self {
        Self::with_room(from, PASS_BYTES)
    }

    /// With another number in the place of [`PASS_BYTES`].
    pub(super) fn with_room(from: i64, bytes_max: usize) -> Self {
        let (waiting, open, kept) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { from, bytes_max, waiting, open, kept, kept_bytes: 0 }
    }

    /// Adds an object that has no rows between what was given already and `from`.
    pub fn push(&mut self, source: Arc<Source>, seat: Seat, from: i64) {
        self.waiting.insert((from, Arc::new(seat)), Waiting { source, row: 0, is_parked: false });
    }

    /// The offset of the next row, if it is below `limit`. Objects that begin at `limit` or behind it are not opened for it.
    ///
    /// # Errors
    /// As [`Feed::next`].
    pub async fn peek(&mut self, limit: i64) -> Result<Option<i64>, Unread> {
        loop {
            let open = self.open.first_key_value().map(|((offset, _), _)| *offset);
            let kept = self.kept.first_key_value().map(|((offset, ..), _)| *offset);
            let ready = open.into_iter().chain(kept).min();
            let Some(((from, _), next)) = self.waiting.first_key_value() else {
                return Ok(ready.filter(|&offset| offset < limit));
            };
            if *from >= limit || ready.is_some_and(|offset| offset < *from) {
                return Ok(ready.filter(|&offset| offset < limit));
            }
            // Those behind it may have to wait for what it has.
            let reached = offset_after(*from);
            match (next.is_parked, self.open.len() < OPEN_MAX) {
                (_, true) => self.open_all(reached).await?,
                (false, false) => self.park_one(),
                (true, false) => self.pass().await?,
            }
        }
    }

    /// Takes the row that [`InOrder::peek`] told of.
    ///
    /// # Errors
    /// As [`Feed::next`], of the row behind it.
    pub async fn pop(&mut self) -> Result<Option<(i64, Item)>, Unread> {
        let open =
            self.open.first_key_value().map(|((offset, seat), open)| (*offset, seat.clone(), open.item.row.index));
        let kept = self.kept.first_key_value().map(|(key, _)| key);
        let is_kept = match (&open, kept) {
            (Some(open), Some(kept)) => kept < open,
            (open, _) => open.is_none(),
        };
        if is_kept {
            let Some(((offset, ..), item)) = self.kept.pop_first() else { return Ok(None) };
            self.kept_bytes -= bytes(&item);
            return Ok(Some((offset, item)));
        }
        let Some(((offset, seat), Open { mut feed, item })) = self.open.pop_first() else { return Ok(None) };
        if let Some((next, following)) = feed.next().await? {
            self.open.insert((next, seat), Open { feed, item: following });
        }
        Ok(Some((offset, item)))
    }

    /// Opens what begins below `reached`, as far as there is room. All are on their way before the first is waited for.
    async fn open_all(&mut self, reached: i64) -> Result<(), Unread> {
        let mut begun = Vec::new();
        while self.open.len() + begun.len() < OPEN_MAX {
            // New ones first: one that was parked for the sake of another must not come before that.
            let due = || self.waiting.iter().take_while(|((from, _), _)| *from < reached);
            let next = due().find(|(_, waiting)| !waiting.is_parked).or_else(|| due().next());
            let Some(key) = next.map(|(key, _)| key.clone()) else { break };
            let Some(Waiting { source, row, is_parked }) = self.waiting.remove(&key) else { break };
            let (from, seat) = key;
            // Where nothing of it was given yet, `from` may be more than its first rows have.
            let from = if is_parked { from } else { source.chosen.range.first };
            begun.push((seat, Feed::start(source, row, from)?));
        }
        for (seat, mut feed) in begun {
            while let Some((offset, item)) = feed.next().await? {
                if offset >= self.from {
                    self.open.insert((offset, seat), Open { feed, item });
                    break;
                }
            }
        }
        Ok(())
    }

    /// Closes the object whose next row is furthest away, to come back to it.
    fn park_one(&mut self) {
        if let Some(((offset, seat), Open { feed, item })) = self.open.pop_last() {
            self.waiting.insert((offset, seat), Waiting::parked(feed.source, item.row.index));
        }
    }

    /// Keeps what comes next of those that are parked.
    async fn pass(&mut self) -> Result<(), Unread> {
        let mut parked = BTreeMap::new();
        for (key, waiting) in std::mem::take(&mut self.waiting) {
            let of = if waiting.is_parked { &mut parked } else { &mut self.waiting };
            of.insert(key, waiting);
        }
        let mut again: BTreeMap<Arc<Seat>, (i64, Waiting)> = BTreeMap::new();
        let mut end: Option<i64> = None;
        for ((from, seat), Waiting { source, row, .. }) in parked {
            if end.is_some_and(|end| from >= end) {
                again.entry(seat).or_insert((from, Waiting::parked(source, row)));
                continue;
            }
            let mut feed = Feed::start(source.clone(), row, from)?;
            while let Some((offset, item)) = feed.next().await? {
                let row = item.row.index;
                if end.is_some_and(|end| offset >= end) {
                    again.entry(seat.clone()).or_insert((offset, Waiting::parked(source.clone(), row)));
                    break;
                }
                self.kept_bytes += bytes(&item);
                self.kept.insert((offset, seat.clone(), row), item);
                while self.kept_bytes > self.bytes_max
                    && let (Some(((first, ..), _)), Some(((last, ..), _))) =
                        (self.kept.first_key_value(), self.kept.last_key_value())
                    && first < last
                {
                    let last = *last;
                    end = Some(last);
                    // From the last one on, so that its object is parked at the first of those that are left out.
                    while let Some(entry) = self.kept.last_entry().filter(|entry| entry.key().0 >= last) {
                        let ((offset, seat, row), item) = entry.remove_entry();
                        self.kept_bytes -= bytes(&item);
                        again.insert(seat, (offset, Waiting::parked(item.source, row)));
                    }
                }
            }
        }
        self.waiting.extend(again.into_iter().map(|(seat, (offset, waiting))| ((offset, seat), waiting)));
        Ok(())
    }
}
