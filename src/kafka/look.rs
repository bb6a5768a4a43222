//! A look at the newest records of some topics: without the group, without a commit, without a trace.

use super::KafkaError;
use super::client::asking;
use crate::config::KafkaConfig;
use crate::record::{OwnedRecord, TopicPartition};
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
