//! A look at records of some topics: without the group, without a commit, without a trace.

use super::KafkaError;
use super::client::asking;
use crate::config::KafkaConfig;
use crate::record::{OffsetRange, OwnedRecord, TopicPartition, offset_after};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one poll waits, and how many may bring nothing: 20 s.
const WAIT: Duration = Duration::from_millis(200);
const EMPTY_MAX: u32 = 100;

/// The newest records of `partitions`, at most `count` of each, in the order of topics, partitions and offsets. Ends once
/// nothing has come for 20 s: what is missing then is left out.
///
/// # Errors
/// [`KafkaError`]: a setting is wrong, or no client can be made.
pub fn newest(
    config: &KafkaConfig,
    partitions: &[TopicPartition],
    count: usize,
) -> Result<Vec<OwnedRecord>, KafkaError> {
    let mut client = asking(config, config.isolation)?;
    client.set("enable.partition.eof", "true").set("auto.offset.reset", "earliest");
    let failed =
        |error: ClientError| KafkaError::Create { brokers: config.brokers.clone(), problem: error.to_string() };
    let consumer: BaseConsumer = client.create().map_err(failed)?;
    let mut records = Vec::new();
    for of_topic in partitions.chunk_by(|one, other| one.topic == other.topic) {
        read(&consumer, of_topic, count, &mut records).map_err(failed)?;
    }
    records.sort_by(|one, other| {
        (&one.topic, one.partition, one.offset).cmp(&(&other.topic, other.partition, other.offset))
    });
    Ok(records)
}

/// One past the last record of `range` whose Kafka timestamp is before `ms`; `range.first` where none is. Reads all of the range.
///
/// # Errors
/// [`KafkaError`]: a setting is wrong, no client can be made, or nothing has come for 20 s.
pub fn end_before(
    config: &KafkaConfig,
    partition: &TopicPartition,
    range: OffsetRange,
    ms: i64,
) -> Result<i64, KafkaError> {
    let mut end = range.first;
    walk(config, partition, range, |message| {
        if message.timestamp().to_millis().is_some_and(|at| at < ms) {
            end = offset_after(message.offset());
        }
        true
    })?;
    Ok(end)
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
    walk(config, partition, range, |message| {
        records.push(owned(message));
        records.len() < count
    })?;
    Ok(records)
}

/// Hands over the records of `range` in order, until `take` has enough.
fn walk(
    config: &KafkaConfig,
    partition: &TopicPartition,
    range: OffsetRange,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> bool,
) -> Result<(), KafkaError> {
    if range.first >= range.end {
        return Ok(());
    }
    let mut client = asking(config, config.isolation)?;
    // What Kafka has deleted is passed over.
    client.set("enable.partition.eof", "true").set("auto.offset.reset", "earliest");
    let failed =
        |error: ClientError| KafkaError::Create { brokers: config.brokers.clone(), problem: error.to_string() };
    let consumer: BaseConsumer = client.create().map_err(failed)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(range.first)).map_err(failed)?;
    consumer.assign(&list).map_err(failed)?;
    let (mut empty, mut reasons) = (0, String::new());
    while empty < EMPTY_MAX {
        match consumer.poll(WAIT) {
            Some(Ok(message)) if message.offset() >= range.end => return Ok(()),
            Some(Ok(message)) => {
                empty = 0;
                if !take(&message) || offset_after(message.offset()) >= range.end {
                    return Ok(());
                }
            }
            // The log cannot end below the range: what is missing there are markers and compacted records.
            Some(Err(ClientError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) => (empty, reasons) = (empty + 1, error.to_string()),
            None => empty += 1,
        }
    }
    let seconds = (WAIT * EMPTY_MAX).as_secs();
    Err(KafkaError::Unreachable { brokers: config.brokers.clone(), seconds, reasons })
}

/// Reads the newest records of one topic's partitions.
fn read(
    consumer: &BaseConsumer,
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
