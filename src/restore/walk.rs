//! One source partition, object by object and row by row, from where a job is.
//!
//! # Order
//! Rows that tell their offset, by themselves or by their place in an object that has a row for every offset, come in the order of it
//! ([`super::order`]). Rows that do not tell it cannot be put in order between objects: such an object comes as a whole when the order reaches its
//! first offset, before a row that has that offset; of those that begin with the same one, first the one that [`Rank`] says.
//!
//! So the place of a job is an offset, and while such an object is read its first offset and the number of rows of it ([`Position`]). Objects that
//! reach over that offset and are done with are remembered as a hash of their keys: where they are others when the job goes on, as a compaction has put
//! rows that are done with together with rows that are not, nobody knows where to go on, and that is said.
//!
//! # The ends of what is asked for
//! A row that tells its offset is of the part in which that lies. An object whose rows do not is of the part in which its first offset lies, as a whole:
//! so parts that adjoin each other have it once, as long as it is the same object.
//!
//! # Memory
//! That of [`super::order`], one more open object, the objects of two batches, and for each object that reaches over the place where the job is its
//! key: of compactions, all of which are in memory anyway ([`crate::ledger::live`]).

use super::order::{Feed, InOrder, Rank, Unread};
use super::position::{Position, short_hash};
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
    /// Its first offset: objects of which all rows lie at it or behind it are not known yet.
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
    /// So many rows of the offset where it began are done with.
    done_rows: u64,
    /// The last row's offset, and how many rows of it came.
    counted: (i64, u64),
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

    /// The next row, and where the job is behind it; `None`: nothing is left.
    ///
    /// # Errors
    /// As [`Walk::begin`], and of [`Feed::next`].
    pub async fn next(&mut self) -> Result<Option<(Item, Position)>, Unread> {
        let end = self.left.wanted.offsets.end;
        loop {
            if let Some(Whole { rank, feed, tag }) = &mut self.current {
                if let Some((_, item)) = feed.next().await? {
                    let after = Position { next: rank.first, rows: item.row.index + 1, tag: *tag };
                    return Ok(Some((item, after)));
                }
                self.current = None;
                continue;
            }
            let first = self.whole.first_key_value().map(|(rank, _)| rank.first);
            let limit = first.unwrap_or(end).min(self.bound).min(end);
            if let Some(offset) = self.ordered.peek(limit).await? {
                let Some((_, item)) = self.ordered.pop().await? else { continue };
                let count = if self.counted.0 == offset { self.counted.1 + 1 } else { 1 };
                self.counted = (offset, count);
                let is_last = self.ordered.peek(offset_after(offset)).await?.is_none();
                if offset == self.from.next && count <= self.done_rows {
                    continue;
                }
                let after = match is_last {
                    true => Position { next: offset_after(offset), rows: 0, tag: self.tag_behind(offset) },
                    false => Position { next: offset, rows: count, tag: self.tag_within(offset) },
                };
                return Ok(Some((item, after)));
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

    /// Takes the objects of the next batch.
    async fn load(&mut self) -> Result<(), Failure> {
        if let Some(Batch { receipt, objects }) = self.ahead.take() {
            let passed = |rank: &Rank| rank.end > receipt.first;
            self.whole_over.retain(passed);
            self.ordered_over.retain(passed);
            for chosen in objects {
                self.take(chosen, receipt.first).await?;
            }
        }
        self.ahead = self.batches.try_next().await?;
        self.bound = self.ahead.as_ref().map_or(i64::MAX, |batch| batch.receipt.first);
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
        let source = Arc::new(Source { chosen, place, shape });
        if is_ordered {
            // A compacted object comes with the first of its batches that is asked for, and has nothing before it.
            self.ordered.push(source, rank.clone(), rank.first.max(first));
        } else {
            self.whole.insert(rank, source);
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
        let Position { next, rows, tag } = self.from;
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
        let counts = behind + 1..=known.len();
        if let Some(count) = counts.rev().find(|&count| hash("objects", &known[..count]) == tag) {
            self.done.extend(known[..count - 1].iter().cloned());
            self.begun = Some((known[count - 1].clone(), rows));
        } else if self.tag_within(next) == tag {
            self.done.extend(known);
            self.done_rows = rows;
        } else {
            return Err(self.unknown(&known));
        }
        let done = &self.done;
        self.whole.retain(|rank, _| !done.contains(rank));
        Ok(())
    }

    /// A hash of what is done with as a whole and reaches over the offset behind `offset`.
    fn tag_behind(&self, offset: i64) -> u32 {
        let next = offset_after(offset);
        hash("objects", self.whole_over.iter().filter(|rank| rank.first < next && rank.reaches_over(next)))
    }

    /// A hash of what rows of `offset` are counted in, and of what is done with as a whole and reaches over it.
    fn tag_within(&self, offset: i64) -> u32 {
        let all = self.whole_over.iter().chain(&self.ordered_over);
        hash("rows", all.filter(|rank| rank.reaches_over(offset)))
    }

    fn unknown(&self, known: &[Rank]) -> Failure {
        let (partition, next) = (&self.left.partition, self.from.next);
        let mut keys: Vec<&str> = known.iter().take(NAMED_MAX).map(|rank| rank.key.as_str()).collect();
        if known.len() > NAMED_MAX {
            keys.push("others");
        }
        let keys = if keys.is_empty() { "none".to_string() } else { keys.join(", ") };
        let end = known.iter().map(|rank| rank.end).max().unwrap_or(next);
        let what = format!(
            "{partition}: at offset {next}, where the job is, lie other objects than when it came there ({keys}): a compaction or a replay \
             of dead letters came in between. Their rows tell no offset, so which of them are restored is not known, and none of them is skipped or \
             restored twice: restore this source partition anew into another topic, or what begins at {end} or behind it under another --job with \
             --from-offset {end}, which leaves out what is left before that"
        );
        Failure::new(Exit::Stopped, what)
    }
}

/// Tells objects from others; 0 where there are none.
fn hash<'r>(kind: &str, ranks: impl IntoIterator<Item = &'r Rank>) -> u32 {
    let names: Vec<_> = ranks.into_iter().map(|rank| (rank.key.as_str(), rank.rows)).collect();
    if names.is_empty() { 0 } else { short_hash(&format!("{kind} {names:?}")).max(1) }
}
