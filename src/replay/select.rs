//! Which dead letters are meant.

use super::find::DeadObject;
use crate::format::dead_letter::letter::Letter;
use crate::record::{OffsetRange, TopicPartition};

/// Which dead letters are meant: those that meet all of it. The default: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only of this archive.
    pub archive: Option<String>,
    /// Only of this topic.
    pub topic: Option<String>,
    /// Only of these Kafka partitions; of all where it is empty.
    pub partitions: Vec<i32>,
    /// Only of the record at this offset.
    pub offset: Option<i64>,
    /// Only with a Kafka timestamp from here on, milliseconds UTC.
    pub since_ms: Option<i64>,
    /// Only with a Kafka timestamp before this, milliseconds UTC.
    pub until_ms: Option<i64>,
    /// Only of these stages; of all where it is empty.
    pub stages: Vec<String>,
}

impl Selection {
    /// Whether there can be one in that Kafka partition.
    pub fn takes_partition(&self, partition: &TopicPartition) -> bool {
        self.topic.as_deref().is_none_or(|topic| topic == &*partition.topic)
            && (self.partitions.is_empty() || self.partitions.contains(&partition.partition))
    }

    /// Whether there can be one in a batch of that range.
    pub fn takes_range(&self, range: OffsetRange) -> bool {
        self.offset.is_none_or(|offset| range.contains(offset))
    }

    /// Whether there can be one in that object, as its receipt tells it.
    pub fn takes_object(&self, object: &DeadObject) -> bool {
        let after = |since| object.event_max_ms.is_none_or(|last| last >= since);
        let before = |until| object.event_min_ms.is_none_or(|first| first < until);
        self.since_ms.is_none_or(after) && self.until_ms.is_none_or(before)
    }

    /// Whether it is one.
    pub fn takes(&self, letter: &Letter) -> bool {
        let in_time = match letter.record.timestamp {
            Some(ms) => self.since_ms.is_none_or(|since| ms >= since) && self.until_ms.is_none_or(|until| ms < until),
            None => self.since_ms.is_none() && self.until_ms.is_none(),
        };
        in_time
            && self.offset.is_none_or(|offset| letter.record.offset == offset)
            && (self.stages.is_empty() || self.stages.contains(&letter.stage))
    }
}
