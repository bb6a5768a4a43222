//! One source partition, object by object and row by row, from where a job is.
//!
//! # Order
//! Rows that tell their offset, by themselves or by their place in an object that has a row for every offset, come in the order of it
//! ([`super::order`]); those of one record together, as far as they fit a transaction. Rows that do not tell it cannot be put in order between objects: such an object comes as a whole when the order reaches its
//! first offset, before a row that has that offset; of those that begin with the same one, first the one that [`Rank`] says.
//!
//! So the place of a job is an offset, with the number of its rows that are done with where the record is larger than a transaction: their order is one that no
//! compaction changes ([`super::order::Seat`]). While an object is read whose rows tell no offset it is the first one of it and the number of rows of it
//! ([`Position`]). Such objects that reach over that offset and are done with are remembered as a hash of their keys: where they are others when the job
//! goes on, as a compaction has put rows that are done with together with rows that are not, nobody knows where to go on, and that is said.
//!
//! # The ends of what is asked for
//! A row that tells its offset is of the part in which that lies. An object whose rows do not is of the part in which its first offset lies, as a whole:
//! so parts that adjoin each other have it once, as long as it is the same object.
//!
//! # Memory
//! That of [`super::order`], a record's rows, or a transaction of them ([`Left::rows_max`], [`BYTES_MAX`]), one more open object, the objects of two batches, and for each object that reaches over the place where the job is its
//! key: of compactions, all of which are in memory anyway ([`crate::ledger::live`]).

use super::order::{Feed, InOrder, Rank, Seat, Unread};
use super::position::{Position, RowsOf, short_hash};
use super::produce::BYTES_MAX;
use super::read::{Archive, Left};
use crate::exit::{Exit, Failure};
use crate::reader::merge::{Item, Source};
use crate::reader::plan::{Batch, Chosen, Shapes, batches_and_over};
use crate::record::offset_after;
use futures::stream::{BoxStream, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Keys that a message names.
const NAMED_MAX: usize = 3;

/// A source partition that is being read.
pub struct Walk<'s> {
    archive: Archive<'s>,
    left: &'s Left,
    /// Where it began.
    from: Position,
    batches: BoxStream<'s, Result<Batch, Failure>>,
    /// The next batch.
    ahead: Option<Batch>,
    /// Why it cannot be read, where it cannot: what precedes it comes first.
    failed: Option<Failure>,
    /// Its first offset, or the least that it can be: objects of which all rows lie at it or behind it are not known yet.
    bound: i64,
    shapes: Shapes,
    /// Objects whose rows tell their offset.
    ordered: InOrder,
    /// Those whose rows do not, and that are to be read.
    whole: BTreeMap<Rank, Arc<Source>>,
    current: Option<Whole>,
    /// Those that reach over where it is, whether or not they are done with.
    whole_over: BTreeSet<Rank>,
    ordered_over: BTreeSet<Rank>,
    /// What of those that begin where it began is done with.
    done: BTreeSet<Rank>,
    begun: Option<(Rank, u64)>,
    /// So many rows of the offset where it began are done with …
    done_rows: u64,
    /// … in the order of their objects' [`Rank`], as earlier releases gave them.
    done_by_rank: bool,
    /// The last row's offset, and how many rows of it came.
    counted: (i64, u64),
}

/// Rows that one transaction has or has not, and where the job is behind them.
pub struct Given {
    /// All rows of a record, or as many as a transaction takes; one row where rows do not tell their records.
    pub items: Vec<Item>,
    /// Where it is then.
    pub after: Position,
}

/// An object that is read as a whole.
struct Whole {
    rank: Rank,
    feed: Feed,
    tag: u32,
}

impl<'s> Walk<'s> {
    /// Looks at what counts now, and goes on from `from`.
    ///
    /// # Errors
    /// A store refuses or does not answer, a receipt is damaged; [`Exit::Stopped`]: where to go on is not known.
    pub async fn begin(archive: Archive<'s>, left: &'s Left, from: Position) -> Result<Self, Failure> {
        let wanted = &left.wanted;
        let (batches, over) = batches_and_over(archive.site, &left.partition, archive.clock, wanted, from.next).await?;
        let mut walk = Self {
            archive,
            left,
            from,
            batches,
            ahead: None,
            failed: None,
            bound: i64::MIN,
            shapes: Shapes::new(archive.site),
            ordered: InOrder::new(from.next),
            whole: BTreeMap::new(),
            current: None,
            whole_over: BTreeSet::new(),
            ordered_over: BTreeSet::new(),
            done: BTreeSet::new(),
            begun: None,
            done_rows: 0,
            done_by_rank: false,
            counted: (from.next, 0),
        };
        for chosen in over {
            walk.note(&chosen).await?;
        }
        while walk.bound <= from.next {
            walk.load().await?;
        }
        walk.find_place()?;
        Ok(walk)
    }

    /// What comes next; `None`: nothing is left.
    ///
    /// # Errors
    /// As [`Walk::begin`], and of [`Feed::next`].
    pub async fn next(&mut self) -> Result<Option<Given>, Unread> {
        let end = self.left.wanted.offsets.end;
        loop {
            if let Some(Whole { rank, feed, tag }) = &mut self.current {
                if let Some((_, item)) = feed.next().await? {
                    let rows = item.row.index + 1;
                    let after = Position { next: rank.first, rows, of: RowsOf::Object, tag: *tag };
                    return Ok(Some(Given { items: vec![item], after }));
                }
                self.current = None;
                continue;
            }
            let first = self.whole.first_key_value().map(|(rank, _)| rank.first);
            let limit = first.unwrap_or(end).min(self.bound).min(end);
            if let Some(offset) = self.ordered.peek(limit).await? {
                match self.record(offset).await? {
                    Some(given) => return Ok(Some(given)),
                    None => continue,
                }
            }
            if first.is_some_and(|first| first < self.bound)
                && let Some((rank, source)) = self.whole.pop_first()
            {
                let done = self.begun.take_if(|(begun, _)| *begun == rank).map_or(0, |(_, rows)| rows);
                if done > 0 && source.place.rows == Some(done) {
                    continue;
                }
                let feed = Feed::start(source, done, rank.first)?;
                let known = self.whole_over.iter().filter(|known| **known <= rank && known.reaches_over(rank.first));
                let tag = hash("objects", known);
                self.current = Some(Whole { rank, feed, tag });
                continue;
            }
            if self.bound >= end {
                return Ok(None);
            }
            self.load().await?;
        }
    }

    /// Rows of `offset`, which come next: all that are left of it, or as many as a transaction takes. `None`: all of them are done with.
    async fn record(&mut self, offset: i64) -> Result<Option<Given>, Unread> {
        let is_begun = offset == self.from.next && self.done_rows > 0;
        let is_by_rank = is_begun && self.done_by_rank;
        let (mut items, mut bytes) = (Vec::new(), 0);
        let after = loop {
            let Some((_, item)) = self.ordered.pop().await? else { return Ok(None) };
            let count = if self.counted.0 == offset { self.counted.1 + 1 } else { 1 };
            self.counted = (offset, count);
            if is_by_rank || !is_begun || count > self.done_rows {
                bytes += item.row.body.bytes() as u64;
                items.push(item);
            }
            if self.ordered.peek(offset_after(offset)).await?.is_none() {
                break Position { tag: self.tag_behind(offset), ..Position::at(offset_after(offset)) };
            }
            if !is_by_rank && (items.len() as u64 >= self.left.rows_max || bytes >= BYTES_MAX) {
                break Position { next: offset, rows: count, of: RowsOf::Record, tag: self.tag_within(offset) };
            }
        };
        if is_by_rank {
            items.sort_by_cached_key(|item| (Rank::of(&item.source.chosen), item.row.index));
            let done = usize::try_from(self.done_rows).unwrap_or(usize::MAX);
            items.drain(..done.min(items.len()));
        }
        Ok((!items.is_empty()).then_some(Given { items, after }))
    }

    /// Takes the objects of the next batch.
    async fn load(&mut self) -> Result<(), Failure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        let mut known = None;
        if let Some(Batch { receipt, objects }) = self.ahead.take() {
            known = Some(receipt.end);
            let passed = |rank: &Rank| rank.end > receipt.first;
            self.whole_over.retain(passed);
            self.ordered_over.retain(passed);
            for chosen in objects {
                self.take(chosen, receipt.first).await?;
            }
        }
        match (self.batches.try_next().await, known) {
            (Ok(ahead), _) => {
                self.bound = ahead.as_ref().map_or(i64::MAX, |batch| batch.receipt.first);
                self.ahead = ahead;
            }
            (Err(failure), Some(end)) => (self.bound, self.failed) = (end, Some(failure)),
            (Err(failure), None) => return Err(failure),
        }
        Ok(())
    }

    /// Takes an object that comes with the batch that begins at `first`.
    async fn take(&mut self, chosen: Chosen, first: i64) -> Result<(), Failure> {
        let rank = Rank::of(&chosen);
        if rank.end <= self.from.next {
            return Ok(());
        }
        let is_ordered = self.note(&chosen).await?;
        let is_done = rank.first < self.from.next || self.done.contains(&rank);
        if !is_ordered && (is_done || rank.first >= self.left.wanted.offsets.end) {
            return Ok(());
        }
        let Archive { site, destinations, clock } = self.archive;
        let shape = self.shapes.of(site, clock, &chosen).await?;
        let place = chosen.place(destinations)?;
        if is_ordered {
            let unit = self.shapes.unit_of(site, clock, &chosen).await?;
            let seat = Seat::of(&chosen, unit);
            // A compacted object comes with the first of its batches that is asked for, and has nothing before it.
            self.ordered.push(Arc::new(Source { chosen, place, shape }), seat, rank.first.max(first));
        } else {
            self.whole.insert(rank, Arc::new(Source { chosen, place, shape }));
        }
        Ok(())
    }

    /// Remembers that there is such an object; whether its rows tell their offset.
    async fn note(&mut self, chosen: &Chosen) -> Result<bool, Failure> {
        let Archive { site, clock, .. } = self.archive;
        let shape = self.shapes.of(site, clock, chosen).await?;
        let is_ordered = chosen.tells_offsets(&shape);
        let over = if is_ordered { &mut self.ordered_over } else { &mut self.whole_over };
        over.insert(Rank::of(chosen));
        Ok(is_ordered)
    }

    /// Finds out what is done with of the objects that reach over where the job is.
    fn find_place(&mut self) -> Result<(), Failure> {
        let Position { next, rows, of, tag } = self.from;
        let known: Vec<Rank> = self.whole_over.iter().filter(|rank| rank.reaches_over(next)).cloned().collect();
        let behind = known.iter().take_while(|rank| rank.first < next).count();
        if (rows, tag) == (0, 0) {
            // The job has given nothing of this source partition, or nothing but rows that tell their offset.
            let is_other_parts = known[..behind].iter().all(|rank| rank.first < self.left.begin);
            return if is_other_parts { Ok(()) } else { Err(self.unknown(&known)) };
        }
        if rows == 0 {
            let is_known = behind > 0 && hash("objects", &known[..behind]) == tag;
            return if is_known { Ok(()) } else { Err(self.unknown(&known)) };
        }
        if of == RowsOf::Record {
            if self.tag_within(next) != tag {
                return Err(self.unknown(&known));
            }
            self.done.extend(known);
            self.done_rows = rows;
            self.leave_done();
            return Ok(());
        }
        let counts = behind + 1..=known.len();
        if let Some(count) = counts.rev().find(|&count| hash("objects", &known[..count]) == tag) {
            self.done.extend(known[..count - 1].iter().cloned());
            self.begun = Some((known[count - 1].clone(), rows));
        } else if self.tag_by_rank(next) == tag {
            self.done.extend(known);
            (self.done_rows, self.done_by_rank) = (rows, true);
        } else {
            return Err(self.unknown(&known));
        }
        self.leave_done();
        Ok(())
    }

    fn leave_done(&mut self) {
        let done = &self.done;
        self.whole.retain(|rank, _| !done.contains(rank));
    }

    /// A hash of what is done with as a whole and reaches over the offset behind `offset`.
    fn tag_behind(&self, offset: i64) -> u32 {
        let next = offset_after(offset);
        hash("objects", self.whole_over.iter().filter(|rank| rank.first < next && rank.reaches_over(next)))
    }

    /// A hash of what is done with as a whole and reaches over `offset`, where rows of it are done with.
    fn tag_within(&self, offset: i64) -> u32 {
        hash("record", self.whole_over.iter().filter(|rank| rank.reaches_over(offset)))
    }

    /// What earlier releases had in the place of [`Walk::tag_within`]: a hash of all objects that rows of `offset` are in as well.
    fn tag_by_rank(&self, offset: i64) -> u32 {
        let all = self.whole_over.iter().chain(&self.ordered_over);
        hash("rows", all.filter(|rank| rank.reaches_over(offset)))
    }

    fn unknown(&self, known: &[Rank]) -> Failure {
        let (partition, Position { next, rows, of, .. }) = (&self.left.partition, self.from);
        if of == RowsOf::Object && rows > 0 && known.is_empty() {
            let behind = offset_after(next);
            let what = format!(
                "{partition}: {rows} rows that begin at offset {next} are restored, and there may be more of it: the objects that they were counted in \
                 are there no more (a compaction came in between), so which rows those are is not known, and none is skipped or restored twice: restore \
                 this source partition anew into another topic, or what begins at {behind} under another --job with --from-offset {behind}, which \
                 leaves out what is left of offset {next}"
            );
            return Failure::new(Exit::Stopped, what);
        }
        let within = match of {
            RowsOf::Record => format!(", of which {rows} rows are restored and others are not"),
            RowsOf::Object => String::new(),
        };
        let mut keys: Vec<&str> = known.iter().take(NAMED_MAX).map(|rank| rank.key.as_str()).collect();
        if known.len() > NAMED_MAX {
            keys.push("others");
        }
        let keys = if keys.is_empty() { "none".to_string() } else { keys.join(", ") };
        let end = known.iter().map(|rank| rank.end).max().unwrap_or(next);
        let what = format!(
            "{partition}: at offset {next}, where the job is{within}, lie other objects than when it came there ({keys}): a compaction or a replay \
             of dead letters came in between. Their rows tell no offset, so which of them are restored is not known, and none of them is skipped or \
             restored twice: restore this source partition anew into another topic, or what begins at {end} or behind it under another --job with \
             --from-offset {end}, which leaves out what is left before that"
        );
        Failure::new(Exit::Stopped, what)
    }
}

/// Tells objects from others; 0 where there are none.
pub(super) fn hash<'r>(kind: &str, ranks: impl IntoIterator<Item = &'r Rank>) -> u32 {
    let names: Vec<_> = ranks.into_iter().map(|rank| (rank.key.as_str(), rank.rows)).collect();
    if names.is_empty() { 0 } else { short_hash(&format!("{kind} {names:?}")).max(1) }
}
