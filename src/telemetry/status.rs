//! Numbers of the running pipeline, for metrics, the terminal's live line and the demo.

use crate::pipeline::partition::{Partition, Phase};
use crate::record::TopicPartition;
use crate::spool::Spool;
use crate::spool::encode::EncodePool;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One topic's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicStatus {
    /// Kafka partitions held.
    pub partitions: u64,
    /// Kafka partitions that wait for a person.
    pub stopped: u64,
    /// Offsets between what is committed and the log's end, where known.
    pub lag: u64,
    /// Records in open batches.
    pub open_records: u64,
    /// Parts of open batches.
    pub open_parts: u64,
    /// Batches on their way up.
    pub uploading: u64,
    /// Records appended by the partitions that are held now.
    pub read: u64,
    /// Batches committed by this process.
    pub committed_batches: u64,
}

/// The newest numbers.
#[derive(Default)]
pub struct Status(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    topics: BTreeMap<String, TopicStatus>,
    committed_batches: BTreeMap<String, u64>,
    /// Next offsets to be read of the partitions that are held and taken over.
    positions: BTreeMap<TopicPartition, i64>,
}

impl Status {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch was committed.
    pub fn committed(&self, partition: &TopicPartition) {
        *self.lock().committed_batches.entry(partition.topic.to_string()).or_default() += 1;
    }

    /// The newest numbers by topic.
    pub fn topics(&self) -> BTreeMap<String, TopicStatus> {
        self.lock().topics.clone()
    }

    /// The offset up to which each partition was read that this process holds and has taken over.
    pub fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        self.lock().positions.clone()
    }

    /// Has numbers of `topic`, without a pipeline.
    #[cfg(test)]
    pub(super) fn set(&self, topic: &str, numbers: TopicStatus) {
        self.lock().topics.insert(topic.to_string(), numbers);
    }

    /// Takes the pipeline's numbers and sets the gauges.
    pub fn publish(&self, partitions: &[Partition], spool: &Spool, pool: &EncodePool) {
        let mut topics: BTreeMap<String, TopicStatus> = BTreeMap::new();
        for partition in partitions {
            let topic = topics.entry(partition.held.partition.topic.to_string()).or_default();
            topic.partitions += 1;
            topic.stopped += u64::from(matches!(partition.phase, Phase::Stopped(_)));
            // Not known before the partition is taken over.
            if let (Some(end), Some(committed)) = (partition.log_end, partition.committed) {
                topic.lag += end.saturating_sub(committed).max(0).unsigned_abs();
            }
            topic.read += partition.records;
            topic.uploading += u64::from(partition.sealed.is_some());
            if let Some(open) = &partition.open {
                topic.open_records += open.balance.consumed;
                topic.open_parts += open.parts.len() as u64;
            }
        }
        let is_known = |partition: &&Partition| partition.committed.is_some();
        let position = |partition: &Partition| (partition.held.partition.clone(), partition.next);
        let positions = partitions.iter().filter(is_known).map(position).collect();
        let mut inner = self.lock();
        inner.positions = positions;
        for gone in inner.topics.keys().filter(|name| !topics.contains_key(*name)) {
            set_gauges(gone, &TopicStatus::default());
        }
        for (name, topic) in &mut topics {
            topic.committed_batches = inner.committed_batches.get(name).copied().unwrap_or(0);
            set_gauges(name, topic);
        }
        metrics::gauge!("siltstone_spool_bytes").set(spool.used() as f64);
        metrics::gauge!("siltstone_encoding_bytes").set(pool.memory() as f64);
        inner.topics = topics;
    }
}

fn set_gauges(name: &str, topic: &TopicStatus) {
    let gauges = [
        ("siltstone_held_partitions", topic.partitions),
        ("siltstone_stopped_partitions", topic.stopped),
        ("siltstone_lag_offsets", topic.lag),
        ("siltstone_open_parts", topic.open_parts),
        ("siltstone_uploading_batches", topic.uploading),
    ];
    for (gauge, value) in gauges {
        metrics::gauge!(gauge, "topic" => name.to_string()).set(value as f64);
    }
}
