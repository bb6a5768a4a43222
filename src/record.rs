//! Kafka's words, without a Kafka library: topic partition, offset range, record.
//!
//! Pure data. Nothing here uses a clock, a file, the network or a thread.
//! Ranges are half-open everywhere: `[first, end)`, and `end` is the number that Kafka commits.

use std::fmt;
use std::sync::Arc;

/// One Kafka partition of one topic. (A folder of the archive is a *window*, never a "partition".)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic name: 1 to 249 characters of `[a-zA-Z0-9._-]`.
    pub topic: Arc<str>,
    /// Kafka partition number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Offsets `[first, end)` that were *covered*: offsets inside may never have held a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct OffsetRange {
    /// First offset covered.
    pub first: i64,
    /// One past the last offset covered: what Kafka commits.
    pub end: i64,
}

impl OffsetRange {
    /// The range `[first, end)`.
    pub fn new(first: i64, end: i64) -> Self {
        Self { first, end }
    }

    /// Whether `offset` lies inside.
    pub fn contains(&self, offset: i64) -> bool {
        self.first <= offset && offset < self.end
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.first, self.end)
    }
}

/// The offset that follows `offset`: the only place in the product where one is added to an offset.
pub fn offset_after(offset: i64) -> i64 {
    offset + 1
}

/// Record headers, read only when somebody asks: most archives never do.
pub trait Headers {
    /// Number of headers, repeats counted.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Name and value of header `index` (`index < len()`), in the order of the record. Names may repeat;
    /// a value may be null.
    fn get(&self, index: usize) -> (&str, Option<&[u8]>);
    /// The value of the last header called `name`, as Kafka's own `lastHeader`. `None` where there is none or it is null.
    fn last(&self, name: &str) -> Option<&[u8]> {
        (0..self.len())
            .rev()
            .map(|index| self.get(index))
            .find(|(found, _)| *found == name)
            .and_then(|(_, value)| value)
    }
}

/// Headers held in memory.
pub type HeaderList = Vec<(String, Option<Vec<u8>>)>;

impl Headers for HeaderList {
    fn len(&self) -> usize {
        Vec::len(self)
    }
    fn get(&self, index: usize) -> (&str, Option<&[u8]>) {
        let (name, value) = &self[index];
        (name, value.as_deref())
    }
}

/// One Kafka record, borrowed from the client's buffers.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Topic it was read from.
    pub topic: &'a str,
    /// Kafka partition it was read from.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Kafka timestamp, milliseconds UTC; `None` where the record has none.
    pub timestamp: Option<i64>,
    /// Key bytes; `None` is a null key.
    pub key: Option<&'a [u8]>,
    /// Payload bytes, possibly empty; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in order, repeats kept.
    pub headers: &'a dyn Headers,
}

impl fmt::Debug for Record<'_> {
    /// Coordinates and sizes only: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.value.map(<[u8]>::len);
        write!(f, "Record({}/{}/{}, value {:?} bytes)", self.topic, self.partition, self.offset, bytes)
    }
}

/// A record that owns its bytes: for tests, samples and simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Topic.
    pub topic: String,
    /// Kafka partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Kafka timestamp, milliseconds UTC.
    pub timestamp: Option<i64>,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Payload.
    pub value: Option<Vec<u8>>,
    /// Headers.
    pub headers: HeaderList,
}

impl OwnedRecord {
    /// Borrows it as a [`Record`].
    pub fn as_record(&self) -> Record<'_> {
        Record {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }
}
