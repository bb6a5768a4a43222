//! The client that reads: a plain consumer of the partitions it is told, which never joins the group.
//!
//! The member of the group reads nothing (its partitions stay paused), so a reader is stopped, moved and started again
//! without a word to the group: no other partition notices. All partitions flow through one queue, read in batches, so
//! librdkafka's queue limits hold for all of them together.
//!
//! Guarantees: a partition is read from the offset of its last [`Reading::place`] on. Decides nothing: positions and
//! rights are the source's.

use super::KafkaError;
use super::batch_queue::{BATCH_MAX, BatchQueue, Delivery, forward};
use super::client::Settings;
use super::group::{list, log};
use super::trouble::explain;
use crate::record::TopicPartition;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a seek may take: librdkafka's own thread answers it, no broker.
const SEEK_WAIT: Duration = Duration::from_millis(500);

/// Collects what the client reports.
#[derive(Default)]
pub(super) struct ReadingContext {
    reported: AtomicU64,
    troubles: Mutex<Vec<String>>,
}

impl ConsumerContext for ReadingContext {}

impl ClientContext for ReadingContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reported.fetch_add(1, Ordering::SeqCst);
        log(level, facility, message);
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        self.reported.fetch_add(1, Ordering::SeqCst);
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        // The member of the group meets the same.
        if code != RDKafkaErrorCode::AllBrokersDown {
            self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(explain(code, reason));
        }
    }
}

/// The readers of all started partitions.
pub(super) struct Reading {
    // Declared before the client: dropped first.
    queue: BatchQueue<ReadingContext>,
    client: Arc<BaseConsumer<ReadingContext>>,
    /// The partitions that the client has.
    placed: BTreeSet<TopicPartition>,
    /// How many records the next batch may hold, from the size of the last ones.
    batch_records: usize,
    /// How many bytes it may hold, about.
    batch_bytes: u64,
}

/// What a seek met.
enum Sought {
    Done,
    /// The reader stands still: librdkafka stopped it (out of range), or has not yet started it.
    Stopped,
}

impl Reading {
    /// Makes the client. Contacts nobody before the first partition.
    pub(super) fn new(settings: &Settings) -> Result<Self, KafkaError> {
        let create = |problem: String| KafkaError::Create { brokers: settings.brokers.clone(), problem };
        let client: BaseConsumer<ReadingContext> = settings
            .reading
            .create_with_context(ReadingContext::default())
            .map_err(|error| create(error.to_string()))?;
        let client = Arc::new(client);
        let queue = BatchQueue::new(&client).ok_or_else(|| create("out of memory".to_string()))?;
        // A batch is outside librdkafka's queue limits while it is handed over: an eighth of them at most, about.
        let batch_bytes = settings.memory.queue_bytes / 8;
        Ok(Self { queue, client, placed: BTreeSet::new(), batch_records: BATCH_MAX / 10, batch_bytes })
    }

    /// Puts the reader of `partition` to `offset` and lets it run, whatever it did before.
    ///
    /// # Errors
    /// Why not yet: mostly because librdkafka still starts or stops the partition. The caller tries again.
    pub(super) fn place(&mut self, partition: &TopicPartition, offset: i64) -> Result<(), String> {
        if !self.placed.contains(partition) {
            self.begin(partition, offset)?;
        }
        if let Sought::Stopped = self.seek(partition, offset)? {
            // A stopped reader cannot be sought, only given back and taken again.
            self.stop([partition]);
            self.begin(partition, offset)?;
            if let Sought::Stopped = self.seek(partition, offset)? {
                return Err(format!("{partition} is still being started"));
            }
        }
        // An earlier stop of the same partition may have undone it.
        forward(&self.client, partition, Some(self.queue.native()));
        self.client.resume(&list([partition])).map_err(|error| format!("resume {partition}: {error}"))
    }

    fn begin(&mut self, partition: &TopicPartition, offset: i64) -> Result<(), String> {
        forward(&self.client, partition, Some(self.queue.native()));
        self.client
            .incremental_assign(&at(partition, offset)?)
            .map_err(|error| format!("begin to read {partition} at {offset}: {error}"))?;
        self.placed.insert(partition.clone());
        Ok(())
    }

    fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<Sought, String> {
        let sought = self
            .client
            .seek_partitions(at(partition, offset)?, SEEK_WAIT)
            .map_err(|error| format!("seek {partition}: {error}"))?;
        for entry in sought.elements() {
            match entry.error() {
                Ok(()) => {}
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State) => {
                    return Ok(Sought::Stopped);
                }
                Err(error) => return Err(format!("seek {partition} to {offset}: {error}")),
            }
        }
        Ok(Sought::Done)
    }

    /// Stops the reader of `partition` until it is placed again; what waits of it is thrown away.
    pub(super) fn pause(&self, partition: &TopicPartition) -> Result<(), String> {
        self.client.pause(&list([partition])).map_err(|error| error.to_string())
    }

    /// Ends the readers of `partitions`: nothing of them comes any more.
    pub(super) fn stop<'a>(&mut self, partitions: impl IntoIterator<Item = &'a TopicPartition>) {
        let ended: Vec<TopicPartition> =
            partitions.into_iter().filter_map(|partition| self.placed.take(partition)).collect();
        if ended.is_empty() {
            return;
        }
        if let Err(error) = self.client.incremental_unassign(&list(&ended)) {
            tracing::warn!(partitions = ended.len(), %error, "the client goes on reading; what it reads is thrown away");
        }
        for partition in &ended {
            forward(&self.client, partition, None);
        }
    }

    /// Takes in what the client has to report, so that nothing piles up. Returns its troubles; `past` gets partitions
    /// whose records went past the queue, and must be placed again.
    pub(super) fn drain(&self, mut past: impl FnMut(&str, i32)) -> Vec<String> {
        use rdkafka::Message;
        loop {
            let before = self.client.context().reported.load(Ordering::SeqCst);
            match self.client.poll(Duration::ZERO) {
                Some(Ok(message)) => past(message.topic(), message.partition()),
                // Errors with a text were reported through the context, this is the bare code of some of them.
                Some(Err(error)) => tracing::debug!(%error, "the reading client met an error"),
                None if self.client.context().reported.load(Ordering::SeqCst) == before => break,
                None => {}
            }
        }
        std::mem::take(&mut self.client.context().troubles.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands over one batch: waits up to `wait` for the first delivery and for no other. Returns how many there were.
    pub(super) fn consume(&mut self, wait: Duration, mut take: impl FnMut(Delivery<'_>)) -> usize {
        let (mut bytes, mut records) = (0_u64, 0_u64);
        let taken = self.queue.consume(self.batch_records, wait, |delivery| {
            if let Delivery::Record(record) = &delivery {
                records += 1;
                bytes += size(record.key) + size(record.value);
            }
            take(delivery);
        });
        if let Some(average) = bytes.checked_div(records) {
            let fitting = usize::try_from(self.batch_bytes / average.max(1)).unwrap_or(BATCH_MAX);
            self.batch_records = fitting.clamp(10, BATCH_MAX);
        }
        taken
    }
}

fn size(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(0, |bytes| bytes.len() as u64)
}

fn at(partition: &TopicPartition, offset: i64) -> Result<TopicPartitionList, String> {
    let mut target = TopicPartitionList::new();
    target
        .add_partition_offset(&partition.topic, partition.partition, Offset::Offset(offset))
        .map_err(|error| format!("{partition} cannot be read from {offset}: {error}"))?;
    Ok(target)
}
