//! A Kafka inside this process, for `siltstone demo`: librdkafka's mock cluster and a producer for it.
//!
//! The mock keeps only about 5 MB a partition, so the demo reads while it produces.

use super::KafkaCoordinator;
use crate::consume::{CommitError, Committed, Coordinator, Held, LogBounds, PlannedGuard};
use crate::record::TopicPartition;
use futures::future::BoxFuture;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use std::sync::Arc;
use std::time::Duration;

/// A cluster of one broker that lives as long as this value.
pub struct DemoCluster {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl DemoCluster {
    /// Starts it with one topic.
    ///
    /// # Errors
    /// What librdkafka said.
    pub fn start(topic: &str, partitions: i32) -> Result<Self, String> {
        let cluster = MockCluster::new(1).map_err(|error| format!("start the in-process Kafka: {error}"))?;
        cluster.create_topic(topic, partitions, 1).map_err(|error| format!("create topic {topic}: {error}"))?;
        Ok(Self { cluster })
    }

    /// Its address.
    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}

/// Produces into the demo's cluster.
pub struct DemoProducer {
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl DemoProducer {
    /// A producer for the cluster at `brokers`.
    ///
    /// # Errors
    /// What librdkafka said.
    pub fn new(brokers: &str) -> Result<Self, String> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("linger.ms", "5").set("queue.buffering.max.messages", "20000");
        let producer = config.create().map_err(|error| format!("make the demo's producer: {error}"))?;
        Ok(Self { producer })
    }

    /// Queues one record, waiting for room.
    ///
    /// # Errors
    /// What librdkafka said.
    pub fn send(&self, topic: &str, partition: i32, timestamp_ms: i64, key: &str, value: &str) -> Result<(), String> {
        let mut record = BaseRecord::to(topic).partition(partition).timestamp(timestamp_ms).key(key).payload(value);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(format!("produce to {topic}/{partition}: {error}")),
            }
        }
    }

    /// Waits until everything queued is in the cluster.
    ///
    /// # Errors
    /// It did not get there within a minute.
    pub fn finish(&self) -> Result<(), String> {
        self.producer.flush(Duration::from_secs(60)).map_err(|error| format!("flush the demo's producer: {error}"))
    }
}

/// The real coordinator, but for the one question that the mock cluster never answers: topics have no ids there.
pub struct DemoCoordinator(pub Arc<KafkaCoordinator>);

impl Coordinator for DemoCoordinator {
    fn commit(&self, held: Held, offset: i64, metadata: String) -> BoxFuture<'_, Result<(), CommitError>> {
        self.0.commit(held, offset, metadata)
    }
    fn committed(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> BoxFuture<'_, Result<Vec<(TopicPartition, Option<Committed>)>, String>> {
        self.0.committed(partitions)
    }
    fn log_bounds(&self, partition: TopicPartition) -> BoxFuture<'_, Result<LogBounds, String>> {
        self.0.log_bounds(partition)
    }
    fn offset_at_time(&self, partition: TopicPartition, time_ms: i64) -> BoxFuture<'_, Result<Option<i64>, String>> {
        self.0.offset_at_time(partition, time_ms)
    }
    fn cluster_id(&self) -> BoxFuture<'_, Result<String, String>> {
        self.0.cluster_id()
    }
    fn topic_id(&self, _topic: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    fn partitions(&self, topic: &str) -> BoxFuture<'_, Result<i32, String>> {
        self.0.partitions(topic)
    }
    fn planned(&self, held: &Held) -> PlannedGuard {
        self.0.planned(held)
    }
    fn is_held(&self, held: &Held) -> bool {
        self.0.is_held(held)
    }
}
