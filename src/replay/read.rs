//! The letters of one object, streamed from its destination: never whole in memory, see [`crate::format::dead_letter::letter`]; of Parquet
//! one row group is, which has 4 MiB of rows or is one record.
//!
//! What is read must be a dead letter of the batch whose receipt names the object, and lie where the writer puts it, so that none
//! is there twice: anything else is damage, and stops the object before anything is made of it.

use super::find::{DeadBatch, DeadObject, place_of};
use crate::destination::Destination;
use crate::exit::{Exit, Failure};
use crate::format::dead_letter::letter::{FEED_BYTES_MAX, Letter, Lines};
use crate::ledger::Destinations;
use crate::reader::ranges::{Ranges, Trouble, open_parquet};
use crate::record::{OffsetRange, TopicPartition};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::async_reader::ParquetRecordBatchStream;

/// Rows of Parquet that are made letters at once.
const BATCH_ROWS: usize = 64;

/// The letters of one object, in the order in which they lie there.
pub struct Letters {
    partition: TopicPartition,
    range: OffsetRange,
    /// The object in words.
    name: String,
    source: Source,
    order: Order,
}

/// How the dead letters of an object lie: by offset, those of a record by index, with which the row that each is of never falls; and no
/// two of one record and row name the same output, as each output refuses a row once. Two that did would make a row twice.
#[derive(Default)]
struct Order {
    /// Offset, index and row of the last one.
    last: Option<(i64, u32, Option<u32>)>,
    /// Outputs that those of the same record and row name.
    outputs: Vec<String>,
}

impl Order {
    /// # Errors
    /// `letter` cannot come next.
    fn next(&mut self, letter: &Letter) -> Result<(), String> {
        let (offset, index, row) = (letter.record.offset, letter.index, letter.row);
        if let Some((last_offset, last_index, last_row)) = self.last {
            let is_next = match offset == last_offset {
                true => index > last_index && row >= last_row && row.is_some() == last_row.is_some(),
                false => offset > last_offset,
            };
            if !is_next {
                let place = |offset, index, row: Option<u32>| {
                    format!("offset {offset} index {index}{}", row.map_or(String::new(), |row| format!(" row {row}")))
                };
                let (this, last) = (place(offset, index, row), place(last_offset, last_index, last_row));
                return Err(format!("the dead letter of {this} lies behind that of {last}"));
            }
        }
        if self.last.is_none_or(|(last_offset, _, last_row)| (last_offset, last_row) != (offset, row)) {
            self.outputs.clear();
        }
        self.last = Some((offset, index, row));
        for output in &letter.outputs {
            if self.outputs.contains(output) {
                return Err(format!("the dead letters of offset {offset} name the output {output} twice for one row"));
            }
            self.outputs.push(output.clone());
        }
        Ok(())
    }
}

enum Source {
    Lines(Box<Unpacking>),
    Columns { batches: Box<ParquetRecordBatchStream<Ranges>>, letters: std::vec::IntoIter<Letter> },
}

/// Lines on their way.
struct Unpacking {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    unread: Bytes,
    lines: Lines,
    ended: bool,
}

impl Letters {
    /// Opens an object of `batch`. Its name tells what it is: Parquet, or else gzip JSON lines.
    ///
    /// # Errors
    /// [`Exit::Stopped`]: it is not there. [`Exit::Config`]: nobody knows its destination. Else what the store says.
    pub async fn open(batch: &DeadBatch, object: &DeadObject, destinations: &Destinations) -> Result<Self, Failure> {
        let destination = place_of(object, destinations)?;
        Self::open_at(batch, &object.key, destination).await
    }

    /// Opens the object under `key` at `destination`.
    ///
    /// # Errors
    /// As [`Letters::open`].
    pub async fn open_at(batch: &DeadBatch, key: &str, destination: &Destination) -> Result<Self, Failure> {
        let name = format!("{key} at {}", destination.id());
        let path = destination.path(key).map_err(|error| Failure::new(Exit::Stopped, error.to_string()))?;
        let opened = match key.ends_with(".parquet") {
            true => columns(destination, path).await,
            false => lines(destination, path).await,
        };
        let source = opened.map_err(|trouble| trouble.of_object(&name))?;
        Ok(Self { partition: batch.partition.clone(), range: batch.range, name, source, order: Order::default() })
    }

    /// The next letter; `None` behind the last one.
    ///
    /// # Errors
    /// [`Exit::Stopped`]: the object is damaged, or holds what its batch has not. Else what the store says.
    pub async fn next(&mut self) -> Result<Option<Letter>, Failure> {
        let next = match &mut self.source {
            Source::Lines(unpacking) => unpacking.next().await,
            Source::Columns { batches, letters } => next_of_columns(batches, letters).await,
        };
        let letter = next.map_err(|trouble| trouble.of_object(&self.name))?;
        letter.map(|letter| self.checked(letter)).transpose()
    }

    fn checked(&mut self, letter: Letter) -> Result<Letter, Failure> {
        let record = &letter.record;
        let is_of_batch = record.topic == *self.partition.topic
            && record.partition == self.partition.partition
            && self.range.contains(record.offset);
        if is_of_batch {
            let ordered = self.order.next(&letter);
            return ordered.map(|()| letter).map_err(|what| Trouble::Damaged(what).of_object(&self.name));
        }
        let place = format!("{}/{} offset {}", record.topic, record.partition, record.offset);
        let what = format!("it holds a dead letter of {place}, and is of {} {}", self.partition, self.range);
        Err(Trouble::Damaged(what).of_object(&self.name))
    }
}

async fn lines(destination: &Destination, path: Path) -> Result<Source, Trouble> {
    let got = destination.store().get(&path).await.map_err(Trouble::Store)?;
    let (stream, lines) = (got.into_stream(), Lines::default());
    Ok(Source::Lines(Box::new(Unpacking { stream, unread: Bytes::new(), lines, ended: false })))
}

async fn columns(destination: &Destination, path: Path) -> Result<Source, Trouble> {
    let batches = Box::new(open_parquet(destination.store(), path).await?.with_batch_size(BATCH_ROWS).build()?);
    Ok(Source::Columns { batches, letters: Vec::new().into_iter() })
}

async fn next_of_columns(
    batches: &mut ParquetRecordBatchStream<Ranges>,
    letters: &mut std::vec::IntoIter<Letter>,
) -> Result<Option<Letter>, Trouble> {
    loop {
        if let Some(letter) = letters.next() {
            return Ok(Some(letter));
        }
        let Some(batch) = batches.try_next().await? else { return Ok(None) };
        *letters = crate::format::dead_letter::columns::letters(&batch).map_err(Trouble::Damaged)?.into_iter();
    }
}

impl Unpacking {
    async fn next(&mut self) -> Result<Option<Letter>, Trouble> {
        loop {
            let found = self.lines.next_letter().map_err(Trouble::Damaged)?;
            if found.is_some() {
                return Ok(found);
            }
            if self.ended {
                return match self.lines.is_broken_off() {
                    true => Err(Trouble::Damaged("its last line has no end".to_string())),
                    false => Ok(None),
                };
            }
            self.feed().await?;
        }
    }

    async fn feed(&mut self) -> Result<(), Trouble> {
        let damaged = |error: std::io::Error| Trouble::Damaged(error.to_string());
        if self.unread.is_empty() {
            match self.stream.try_next().await.map_err(Trouble::Store)? {
                Some(bytes) => self.unread = bytes,
                None => {
                    self.ended = true;
                    return self.lines.end().map_err(damaged);
                }
            }
        }
        let piece = self.unread.split_to(self.unread.len().min(FEED_BYTES_MAX));
        self.lines.feed(&piece).map_err(damaged)
    }
}
