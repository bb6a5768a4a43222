//! Whole records of an envelope, as they were: key, payload, headers in order with repeats, timestamp, tombstones.

use super::ranges::Trouble;
use super::row::Body;
use super::rows::{Place, Rows};
use super::shape::Shape;
use crate::exit::{Exit, Failure};
use crate::record::{OffsetRange, OwnedRecord, TopicPartition};
use std::sync::Arc;

/// The records of one object, by offset. Each is of the Kafka partition and range that the object's receipt names, and behind the one
/// before it: anything else is damage, and ends the object before it is made anything of.
pub struct Records {
    rows: Rows,
    name: String,
    partition: TopicPartition,
    range: OffsetRange,
    last: Option<i64>,
}

impl Records {
    /// Begins to read the object at `place`, of the batch of `partition` that covers `range`; see [`Rows::start`].
    ///
    /// # Errors
    /// [`Exit::Config`]: its output does not hold whole records.
    pub fn start(
        place: Place,
        shape: Arc<Shape>,
        partition: TopicPartition,
        range: OffsetRange,
    ) -> Result<Self, Failure> {
        Self::start_at(place, shape, partition, range, 0)
    }

    /// The same from row `first` on; see [`Rows::start_at`].
    ///
    /// # Errors
    /// As [`Records::start`].
    pub fn start_at(
        place: Place,
        shape: Arc<Shape>,
        partition: TopicPartition,
        range: OffsetRange,
        first: u64,
    ) -> Result<Self, Failure> {
        if !shape.has_records() {
            let what = format!("{} holds no whole records: only outputs of type envelope do", place.key);
            return Err(Failure::new(Exit::Config, what));
        }
        let name = place.key.clone();
        Ok(Self { rows: Rows::start_at(place, shape, first), name, partition, range, last: None })
    }

    /// See [`Rows::is_gone`].
    pub fn is_gone(&self) -> bool {
        self.rows.is_gone()
    }

    /// The next record; `None` behind the last one.
    ///
    /// # Errors
    /// As [`Rows::next`]; [`Exit::Stopped`] also where a record is not of the batch, or not behind the one before it.
    pub async fn next(&mut self) -> Result<Option<OwnedRecord>, Failure> {
        let Some(row) = self.rows.next().await? else { return Ok(None) };
        let damaged = |what: String| Err(Trouble::Damaged(what).of_object(&self.name));
        let Body::Record(record) = row.body else { return damaged(format!("row {} is no record", row.index)) };
        let is_of_batch = record.topic == *self.partition.topic
            && record.partition == self.partition.partition
            && self.range.contains(record.offset);
        if !is_of_batch {
            let place = format!("{}/{} offset {}", record.topic, record.partition, record.offset);
            return damaged(format!("it holds {place}, and is of {} {}", self.partition, self.range));
        }
        if let Some(last) = self.last.filter(|&last| record.offset <= last) {
            return damaged(format!("offset {} lies behind {last}", record.offset));
        }
        self.last = Some(record.offset);
        Ok(Some(*record))
    }
}
