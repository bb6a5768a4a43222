//! A look at records of some topics: without the group, without a commit, without a trace.

use super::KafkaError;
use super::client::asking;
use crate::config::KafkaConfig;
use crate::record::{OffsetRange, OwnedRecord, TopicPartition, offset_after};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one poll waits, and how many in a row may bring nothing: 60 s.
const WAIT: Duration = Duration::from_millis(200);
const EMPTY_MAX: u32 = 300;

/// How often a log is read on that seems to end within a range: a new leader may not know its end for a moment.
const SHORT_MAX: usize = 10;

/// Errors come back from the poll; the end of a log is one of them, and nothing to be logged.
struct Reading;

impl ClientContext for Reading {
    fn error(&self, error: ClientError, reason: &str) {
        tracing::debug!("{error}: {reason}");
    }
}

impl ConsumerContext for Reading {}

/// What becomes of a position that Kafka has deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// It is passed over: the first record that is still there is the next one.
    PassOver,
    /// It is an error.
    Refuse,
}

fn reader(config: &KafkaConfig, gone: Gone) -> Result<BaseConsumer<Reading>, KafkaError> {
    let mut client = asking(config, config.isolation)?;
    let reset = match gone {
        Gone::PassOver => "earliest",
        Gone::Refuse => "error",
    };
    client.set("enable.partition.eof", "true").set("auto.offset.reset", reset);
    client.create_with_context(Reading).map_err(|error| failed(config, &error))
}

fn failed(config: &KafkaConfig, error: &ClientError) -> KafkaError {
    KafkaError::Create { brokers: config.brokers.clone(), problem: error.to_string() }
}

/// The newest records of `partitions`, at most `count` of each, in the order of topics, partitions and offsets. Ends once
/// nothing has come for 60 s: what is missing then is left out.
///
/// # Errors
/// [`KafkaError`]: a setting is wrong, or no client can be made.
pub fn newest(
    config: &KafkaConfig,
    partitions: &[TopicPartition],
    count: usize,
) -> Result<Vec<OwnedRecord>, KafkaError> {
    let consumer = reader(config, Gone::PassOver)?;
    let mut records = Vec::new();
    for of_topic in partitions.chunk_by(|one, other| one.topic == other.topic) {
        read(&consumer, of_topic, count, &mut records).map_err(|error| failed(config, &error))?;
    }
    records.sort_by(|one, other| {
        (&one.topic, one.partition, one.offset).cmp(&(&other.topic, other.partition, other.offset))
    });
    Ok(records)
}

/// One past the last record of `range` whose Kafka timestamp is before `ms`; `range.first` where none is. Reads all of the range.
///
/// # Errors
/// [`KafkaError`]: a setting is wrong, no client can be made, nothing has come for 60 s, or the log ends within the range.
pub fn end_before(
    config: &KafkaConfig,
    partition: &TopicPartition,
    range: OffsetRange,
    ms: i64,
) -> Result<i64, KafkaError> {
    let (mut end, mut position) = (range.first, range.first);
    for _ in 0..SHORT_MAX {
        let rest = OffsetRange::new(position, range.end);
        position = walk(config, partition, rest, Gone::PassOver, |message| {
            if message.timestamp().to_millis().is_some_and(|at| at < ms) {
                end = offset_after(message.offset());
            }
            true
        })?;
        if position >= range.end {
            return Ok(end);
        }
    }
    let reasons = format!("the log of {partition} ends at offset {position}, and is to be read up to {}", range.end);
    Err(KafkaError::Unreachable { brokers: config.brokers.clone(), seconds: 0, reasons })
}

/// At most `count` records from the beginning of `range`.
///
/// # Errors
/// As [`end_before`].
pub fn first_of(
    config: &KafkaConfig,
    partition: &TopicPartition,
    range: OffsetRange,
    count: usize,
) -> Result<Vec<OwnedRecord>, KafkaError> {
    let mut records = Vec::new();
    walk(config, partition, range, Gone::PassOver, |message| {
        records.push(owned(message));
        records.len() < count
    })?;
    Ok(records)
}

/// Hands over the records of `range` in order, until `take` has enough. Gives the position behind the last one, or where the log ends
/// for this reader: markers of transactions may lie between.
///
/// # Errors
/// As [`end_before`].
pub(super) fn walk(
    config: &KafkaConfig,
    partition: &TopicPartition,
    range: OffsetRange,
    gone: Gone,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> bool,
) -> Result<i64, KafkaError> {
    let mut position = range.first;
    if position >= range.end {
        return Ok(position);
    }
    let consumer = reader(config, gone)?;
    let mut list = TopicPartitionList::new();
    let from = Offset::Offset(range.first);
    list.add_partition_offset(&partition.topic, partition.partition, from).map_err(|error| failed(config, &error))?;
    consumer.assign(&list).map_err(|error| failed(config, &error))?;
    let (mut empty, mut reasons) = (0, String::new());
    while empty < EMPTY_MAX {
        match consumer.poll(WAIT) {
            Some(Ok(message)) if message.offset() >= range.end => return Ok(message.offset()),
            Some(Ok(message)) => {
                (empty, position) = (0, offset_after(message.offset()));
                if !take(&message) || position >= range.end {
                    return Ok(position);
                }
            }
            // Everything readable is covered.
            Some(Err(ClientError::PartitionEOF(_))) => {
                return Ok(at(&consumer, partition).unwrap_or(position).max(position));
            }
            Some(Err(error)) => (empty, reasons) = (empty + 1, error.to_string()),
            None => empty += 1,
        }
    }
    let seconds = (WAIT * EMPTY_MAX).as_secs();
    Err(KafkaError::Unreachable { brokers: config.brokers.clone(), seconds, reasons })
}

/// Where reading stands.
fn at(consumer: &BaseConsumer<Reading>, partition: &TopicPartition) -> Option<i64> {
    let positions = consumer.position().ok()?;
    let found = positions.find_partition(&partition.topic, partition.partition)?;
    match found.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// Reads the newest records of one topic's partitions.
fn read(
    consumer: &BaseConsumer<Reading>,
    partitions: &[TopicPartition],
    count: usize,
    records: &mut Vec<OwnedRecord>,
) -> Result<(), ClientError> {
    let mut list = TopicPartitionList::new();
    let tail = Offset::OffsetTail(i64::try_from(count).unwrap_or(i64::MAX));
    for partition in partitions {
        list.add_partition_offset(&partition.topic, partition.partition, tail)?;
    }
    consumer.assign(&list)?;
    let mut left: BTreeMap<i32, usize> = partitions.iter().map(|partition| (partition.partition, count)).collect();
    let mut empty = 0;
    while !left.is_empty() && empty < EMPTY_MAX {
        match consumer.poll(WAIT) {
            Some(Ok(message)) => {
                let Some(wanted) = left.get_mut(&message.partition()) else { continue };
                records.push(owned(&message));
                *wanted -= 1;
                if *wanted == 0 {
                    left.remove(&message.partition());
                }
            }
            Some(Err(ClientError::PartitionEOF(partition))) => drop(left.remove(&partition)),
            Some(Err(error)) => {
                tracing::warn!("look at the newest records: {error}");
                empty += 1;
            }
            None => empty += 1,
        }
    }
    Ok(())
}

fn owned(message: &BorrowedMessage<'_>) -> OwnedRecord {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_string(), header.value.map(<[u8]>::to_vec))).collect()
    });
    OwnedRecord {
        topic: message.topic().to_string(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    }
}
