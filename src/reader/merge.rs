//! Rows of many objects in one order.
//!
//! - [`Order::Offset`]: object by object as they come: by Kafka partition and offset. [`AHEAD_MAX`] objects are opened before their turn, so
//!   that their first rows are there.
//! - [`Order::Time`]: merged by event time. Objects come by their earliest event time, and one is opened as soon as its earliest row could
//!   be the next one. Rows of one object stay in its order: where records of one Kafka partition are not in the order of their event times,
//!   rows are not either. A row whose time cannot be told stays with the row before it.
//!
//! # Memory
//! At most [`OPEN_MAX`] objects are merged (Parquet counts [`PARQUET_WEIGHT`], for its row groups), [`AHEAD_MAX`] more are opened ahead; see
//! [`super::rows`] for what each takes. Where more overlap, those that do not fit come after one that ends, whatever their times:
//! [`Merge::is_crowded`] says so.

use super::plan::Chosen;
use super::row::Row;
use super::rows::{Place, Rows};
use super::shape::Shape;
use super::told::Told;
use crate::exit::Failure;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Objects that are merged at once.
pub const OPEN_MAX: usize = 32;

/// Objects that are opened before their turn.
pub const AHEAD_MAX: usize = 3;

/// How many objects of other formats an open one of Parquet counts.
pub const PARQUET_WEIGHT: usize = 4;

/// In which order rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As the objects come.
    Offset,
    /// By event time.
    Time,
}

/// An object whose rows are wanted.
pub struct Source {
    /// Which.
    pub chosen: Chosen,
    /// Where it lies.
    pub place: Place,
    /// How it is read.
    pub shape: Arc<Shape>,
}

/// A row, and where it comes from.
pub struct Item {
    /// The row.
    pub row: Row,
    /// What it tells.
    pub told: Told,
    /// Its object.
    pub source: Arc<Source>,
}

/// What comes next.
pub enum Next {
    /// A row.
    Row(Box<Item>),
    /// Another object is to be [pushed](Merge::push), or [no more](Merge::end).
    WantsObject,
    /// All rows were given.
    End,
}

/// An object that is being read.
struct Open {
    source: Arc<Source>,
    rows: Rows,
    weight: usize,
    /// Numbers of the rows that are wanted, in order.
    left: VecDeque<Range<u64>>,
    /// Number of the next row: those before it were given, or are not wanted.
    at: u64,
}

/// Gives the rows of objects in one order.
pub struct Merge {
    order: Order,
    /// Opened ahead, in their order.
    ahead: VecDeque<Open>,
    /// Those that are merged, with their next row, by the time of that and their number.
    open: BTreeMap<(i64, u64), (Open, Row, Told)>,
    /// The one whose rows come as they lie.
    current: Option<Open>,
    pushed: u64,
    ended: bool,
    is_crowded: bool,
    finished: Vec<Arc<Source>>,
    gone: Option<(Arc<Source>, u64)>,
}

impl Merge {
    /// Nothing yet.
    pub fn new(order: Order) -> Self {
        let (ahead, open) = (VecDeque::new(), BTreeMap::new());
        let (finished, gone) = (Vec::new(), None);
        Self { order, ahead, open, current: None, pushed: 0, ended: false, is_crowded: false, finished, gone }
    }

    /// Adds the next object; in the order of time none may come whose earliest event time is before that of one pushed before.
    pub fn push(&mut self, source: Source) {
        let all = 0..u64::MAX;
        self.push_left(source, vec![all]);
    }

    /// The same of its rows with numbers in `left` alone: ranges in order, none of them empty. Rows before the first of them are not given out, and
    /// behind the last one it is not read on.
    pub fn push_left(&mut self, source: Source, left: Vec<Range<u64>>) {
        let weight = if source.shape.has_row_groups() { PARQUET_WEIGHT } else { 1 };
        let at = left.first().map_or(0, |range| range.start);
        let rows = Rows::start_at(source.place.clone(), source.shape.clone(), at);
        self.ahead.push_back(Open { source: Arc::new(source), rows, weight, left: left.into(), at });
    }

    /// No object comes any more.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether more objects overlapped than are merged at once, so that rows are not in order of time.
    pub fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// The object of the last error, where that was that no destination has it.
    pub fn gone(&self) -> Option<&Source> {
        self.gone.as_ref().map(|(source, _)| &**source)
    }

    /// The objects of which all rows were given since the last call.
    pub fn take_finished(&mut self) -> Vec<Arc<Source>> {
        std::mem::take(&mut self.finished)
    }

    /// The objects that are not at their end, that of an error among them, each with how many of its rows, from the first one on, were given or
    /// are not wanted.
    pub fn leave(self) -> Vec<(Arc<Source>, u64)> {
        let ahead = self.ahead.into_iter().chain(self.current).map(|open| (open.source, open.at));
        let open = self.open.into_values().map(|(open, row, _)| (open.source, row.index));
        ahead.chain(open).chain(self.gone).collect()
    }

    /// What comes next.
    ///
    /// # Errors
    /// As [`Rows::next`].
    pub async fn next(&mut self) -> Result<Next, Failure> {
        match self.order {
            Order::Offset => self.next_as_it_lies().await,
            Order::Time => self.next_by_time().await,
        }
    }

    fn wants_object(&self) -> bool {
        !self.ended && self.ahead.len() < AHEAD_MAX
    }

    async fn next_as_it_lies(&mut self) -> Result<Next, Failure> {
        loop {
            if self.wants_object() {
                return Ok(Next::WantsObject);
            }
            let Some(current) = &mut self.current else {
                self.current = self.ahead.pop_front();
                if self.current.is_none() {
                    return Ok(Next::End);
                }
                continue;
            };
            match next_of(current, &mut self.gone).await? {
                Some(row) => {
                    let (source, told) = (current.source.clone(), current.source.shape.teller.tell(&row));
                    return Ok(Next::Row(Box::new(Item { row, told, source })));
                }
                None => self.finished.extend(self.current.take().map(|open| open.source)),
            }
        }
    }

    async fn next_by_time(&mut self) -> Result<Next, Failure> {
        loop {
            if self.wants_object() {
                return Ok(Next::WantsObject);
            }
            let earliest = self.open.first_key_value().map(|(&(time, _), _)| time);
            let is_due = self.ahead.front().is_some_and(|front| {
                let from = front.source.chosen.object.event_min_ms.unwrap_or(i64::MIN);
                earliest.is_none_or(|earliest| from <= earliest)
            });
            if is_due && self.has_room() {
                let Some(opened) = self.ahead.pop_front() else { continue };
                let from = opened.source.chosen.object.event_min_ms.unwrap_or(i64::MIN);
                self.pushed += 1;
                self.put_back(opened, (from, self.pushed)).await?;
                continue;
            }
            self.is_crowded |= is_due;
            let Some(((time, number), (opened, row, told))) = self.open.pop_first() else { return Ok(Next::End) };
            let source = opened.source.clone();
            if let Err(failure) = self.put_back(opened, (time, number)).await {
                if let Some((_, given)) = &mut self.gone {
                    // This row was not.
                    *given = row.index;
                }
                return Err(failure);
            }
            return Ok(Next::Row(Box::new(Item { row, told, source })));
        }
    }

    fn has_room(&self) -> bool {
        let weight: usize = self.open.values().map(|(open, ..)| open.weight).sum();
        let next = self.ahead.front().map_or(0, |front| front.weight);
        self.open.is_empty() || weight + next <= OPEN_MAX
    }

    /// Merges `opened` by its next row, which is at least as late as `key` where its time is not known. Leaves it out where it is at its end.
    async fn put_back(&mut self, mut opened: Open, key: (i64, u64)) -> Result<(), Failure> {
        match next_of(&mut opened, &mut self.gone).await? {
            Some(row) => {
                let told = opened.source.shape.teller.tell(&row);
                self.open.insert((told.event_ms.unwrap_or(key.0), key.1), (opened, row, told));
            }
            None => self.finished.push(opened.source),
        }
        Ok(())
    }
}

async fn next_of(open: &mut Open, gone: &mut Option<(Arc<Source>, u64)>) -> Result<Option<Row>, Failure> {
    loop {
        while open.left.front().is_some_and(|range| range.end <= open.at) {
            open.left.pop_front();
        }
        let Some(wanted) = open.left.front() else { return Ok(None) };
        match open.rows.next().await {
            Ok(Some(row)) => {
                open.at = row.index + 1;
                if wanted.contains(&row.index) {
                    return Ok(Some(row));
                }
            }
            Ok(None) => return Ok(None),
            Err(failure) => {
                if open.rows.is_gone() {
                    *gone = Some((open.source.clone(), open.at));
                }
                return Err(failure);
            }
        }
    }
}
