//! The letters of one object, streamed from its destination: never whole in memory, see [`crate::format::dead_letter::letter`].
//!
//! What is read must be a dead letter of the batch whose receipt names the object: anything else is damage, and stops the object
//! before anything is made of it.

use super::find::{DeadBatch, DeadObject, Destinations, place_of};
use crate::destination::Destination;
use crate::destination::fault::{Fault, FaultKind, Verdict};
use crate::exit::{Exit, Failure};
use crate::format::dead_letter::letter::{FEED_BYTES_MAX, Letter, Lines};
use crate::record::{OffsetRange, TopicPartition};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStoreExt;
use std::fmt::Display;

/// The letters of one object, in the order in which they lie there.
pub struct Letters {
    partition: TopicPartition,
    range: OffsetRange,
    /// The object in words.
    name: String,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    unread: Bytes,
    lines: Lines,
    ended: bool,
}

impl Letters {
    /// Opens an object of `batch`.
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
        let got = destination.store().get(&path).await.map_err(|error| store_failure(&name, &error))?;
        Ok(Self {
            partition: batch.partition.clone(),
            range: batch.range,
            name,
            stream: got.into_stream(),
            unread: Bytes::new(),
            lines: Lines::default(),
            ended: false,
        })
    }

    /// The next letter; `None` behind the last one.
    ///
    /// # Errors
    /// [`Exit::Stopped`]: the object is damaged, or holds what its batch has not. Else what the store says.
    pub async fn next(&mut self) -> Result<Option<Letter>, Failure> {
        loop {
            let found = self.lines.next_letter().map_err(|what| self.damaged(what))?;
            if let Some(letter) = found {
                return self.checked(letter).map(Some);
            }
            if self.ended {
                return match self.lines.is_broken_off() {
                    true => Err(self.damaged("its last line has no end")),
                    false => Ok(None),
                };
            }
            self.feed().await?;
        }
    }

    async fn feed(&mut self) -> Result<(), Failure> {
        if self.unread.is_empty() {
            match self.stream.try_next().await.map_err(|error| store_failure(&self.name, &error))? {
                Some(bytes) => self.unread = bytes,
                None => {
                    self.ended = true;
                    return self.lines.end().map_err(|error| self.damaged(error));
                }
            }
        }
        let piece = self.unread.split_to(self.unread.len().min(FEED_BYTES_MAX));
        self.lines.feed(&piece).map_err(|error| self.damaged(error))
    }

    fn checked(&self, letter: Letter) -> Result<Letter, Failure> {
        let record = &letter.record;
        let is_of_batch = record.topic == *self.partition.topic
            && record.partition == self.partition.partition
            && self.range.contains(record.offset);
        if is_of_batch {
            return Ok(letter);
        }
        let place = format!("{}/{} offset {}", record.topic, record.partition, record.offset);
        Err(self.damaged(format!("it holds a dead letter of {place}, and is of {} {}", self.partition, self.range)))
    }

    fn damaged(&self, what: impl Display) -> Failure {
        Failure::new(Exit::Stopped, format!("{} is damaged: {what}; restore it, or leave it out", self.name))
    }
}

fn store_failure(name: &str, error: &object_store::Error) -> Failure {
    let fault = Fault::of(error);
    if fault.kind == FaultKind::NotFound {
        let what =
            format!("{name} is not there, and its receipt says that it was: restore it, or leave it out ({fault})");
        return Failure::new(Exit::Stopped, what);
    }
    let exit = match fault.verdict() {
        Verdict::Retry => Exit::Unreachable,
        Verdict::Refused => Exit::Refused,
        Verdict::Stop => Exit::Stopped,
    };
    Failure::new(exit, format!("read {name}: {fault}"))
}
