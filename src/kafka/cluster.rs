//! [`KafkaCluster`]: what `verify` asks of Kafka. Joins no group, commits nothing.

use super::KafkaError;
use super::client::asking;
use super::meta::MetaClient;
use crate::config::{Isolation, KafkaConfig};
use crate::consume::{CommittedOffsets, LogBounds};
use crate::record::{OffsetRange, TopicPartition, offset_after};
use crate::verify::against::{Cluster, Counting};
use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::message::Message;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long one question may take.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// How long one poll waits, and how many in a row may bring nothing: 60 s.
const WAIT: Duration = Duration::from_millis(200);
const EMPTY_MAX: u32 = 300;
/// Records that are counted before somebody is told.
const TELL_EVERY: u64 = 10_000;
/// Settings of consumers, which the client that asks for a topic's settings warns of.
const CONSUMER_SETTINGS: [&str; 4] = ["group.id", "enable.auto.commit", "isolation.level", "allow.auto.create.topics"];

/// Errors come back from the poll; the end of a log is one of them, and nothing to be logged.
struct Reading;

impl ClientContext for Reading {
    fn error(&self, error: ClientError, reason: &str) {
        tracing::debug!("{error}: {reason}");
    }
}

impl ConsumerContext for Reading {}

/// A cluster that is asked. Each question runs on a thread for blocking work.
pub struct KafkaCluster {
    meta: Arc<MetaClient>,
    config: KafkaConfig,
    admin: AdminClient<DefaultClientContext>,
}

impl KafkaCluster {
    /// Connects, and waits until a broker answers, up to `wait`.
    ///
    /// # Errors
    /// As [`MetaClient::wait_for_cluster`]; or the settings are wrong.
    pub async fn connect(config: &KafkaConfig, wait: Duration) -> Result<Self, KafkaError> {
        let meta = Arc::new(MetaClient::new(config)?);
        let mut settings = asking(config, config.isolation)?;
        for setting in CONSUMER_SETTINGS {
            settings.remove(setting);
        }
        let failed = |problem: String| KafkaError::Create { brokers: config.brokers.clone(), problem };
        let admin = settings.create().map_err(|error| failed(error.to_string()))?;
        let asked = meta.clone();
        let asked = tokio::task::spawn_blocking(move || asked.wait_for_cluster(wait)).await;
        asked.map_err(|error| failed(error.to_string()))??;
        Ok(Self { meta, config: config.clone(), admin })
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&MetaClient) -> Result<T, String> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, String>> {
        let meta = self.meta.clone();
        let asked = tokio::task::spawn_blocking(move || question(&meta));
        async move { asked.await.unwrap_or_else(|error| Err(format!("the question was not finished: {error}"))) }
            .boxed()
    }
}

impl Cluster for KafkaCluster {
    fn topics(&self) -> BoxFuture<'_, Result<BTreeMap<String, i32>, String>> {
        self.ask(|meta| {
            let topics = meta.cluster(ANSWER_WAIT)?.topics.into_iter();
            Ok(topics.map(|topic| (topic.name, i32::try_from(topic.partitions).unwrap_or(i32::MAX))).collect())
        })
    }

    fn committed(&self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<CommittedOffsets, String>> {
        self.ask(move |meta| meta.committed(&partitions))
    }

    fn bounds(&self, partition: TopicPartition) -> BoxFuture<'_, Result<LogBounds, String>> {
        self.ask(move |meta| meta.log_bounds(&partition))
    }

    fn topic_id(&self, topic: String) -> BoxFuture<'_, Result<Option<String>, String>> {
        self.ask(move |meta| meta.topic_id(&topic))
    }

    fn is_compacted(&self, topic: String) -> BoxFuture<'_, Result<Option<bool>, String>> {
        async move {
            let options = AdminOptions::new().request_timeout(Some(ANSWER_WAIT));
            let asked = self.admin.describe_configs([&ResourceSpecifier::Topic(&topic)], &options).await;
            // Not to be allowed to see it is no fault of the archive: then it is not known.
            let described = asked.ok().into_iter().flatten().filter_map(Result::ok).next();
            let policy = described.and_then(|topic| topic.get("cleanup.policy").and_then(|entry| entry.value.clone()));
            Ok(policy.map(|policy| policy.split(',').any(|word| word.trim() == "compact")))
        }
        .boxed()
    }

    fn count(
        &self,
        partition: TopicPartition,
        ranges: Vec<OffsetRange>,
        seen: Box<dyn Fn(u64) + Send>,
    ) -> BoxFuture<'_, Result<Vec<Option<u64>>, String>> {
        let config = self.config.clone();
        let counted = tokio::task::spawn_blocking(move || count(&config, &partition, ranges, &*seen));
        async move { counted.await.unwrap_or_else(|error| Err(format!("records were not counted: {error}"))) }.boxed()
    }
}

/// Reads one Kafka partition once, from the first range to the end of the last one or of what is readable.
fn count(
    config: &KafkaConfig,
    partition: &TopicPartition,
    ranges: Vec<OffsetRange>,
    seen: &dyn Fn(u64),
) -> Result<Vec<Option<u64>>, String> {
    let mut counting = Counting::new(ranges);
    let Some(span) = counting.span() else { return Ok(counting.end(0)) };
    let failed = |error: ClientError| format!("count the records of {partition} {span}: {error}");
    let consumer = reader(config, config.isolation).map_err(|error| error.to_string())?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(span.first)).map_err(failed)?;
    consumer.assign(&list).map_err(failed)?;
    let (mut position, mut empty, mut untold) = (span.first, 0, 0);
    while position < span.end {
        match consumer.poll(WAIT) {
            Some(Ok(message)) => {
                (position, empty, untold) = (offset_after(message.offset()), 0, untold + 1);
                counting.record(message.offset());
                if untold >= TELL_EVERY {
                    seen(std::mem::take(&mut untold));
                }
            }
            // Markers of transactions may lie between the last record and the end: everything readable is covered.
            Some(Err(ClientError::PartitionEOF(_))) => {
                position = at(&consumer, partition).unwrap_or(position).max(position);
                break;
            }
            Some(Err(error)) if empty >= EMPTY_MAX => return Err(failed(error)),
            Some(Err(error)) => {
                tracing::warn!("{}", failed(error));
                empty += 1;
            }
            None if empty >= EMPTY_MAX => {
                return Err(format!("count the records of {partition} {span}: nothing comes"));
            }
            None => empty += 1,
        }
    }
    seen(untold);
    Ok(counting.end(position))
}

fn reader(config: &KafkaConfig, isolation: Isolation) -> Result<BaseConsumer<Reading>, KafkaError> {
    let mut client = asking(config, isolation)?;
    // A position that is not there any more is told, and nothing else is read instead.
    client.set("enable.partition.eof", "true").set("auto.offset.reset", "error");
    client
        .create_with_context(Reading)
        .map_err(|error| KafkaError::Create { brokers: config.brokers.clone(), problem: error.to_string() })
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
