//! [`KafkaCluster`]: what `verify` asks of Kafka. Joins no group, commits nothing.

use super::KafkaError;
use super::client::asking;
use super::look::{self, Gone};
use super::meta::MetaClient;
use crate::config::KafkaConfig;
use crate::consume::{CommittedOffsets, LogBounds};
use crate::record::{OffsetRange, TopicPartition};
use crate::verify::against::{Cluster, Counting};
use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long one question may take.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Records that are counted before somebody is told.
const TELL_EVERY: u64 = 10_000;
/// Settings of consumers, which the client that asks for a topic's settings warns of.
const CONSUMER_SETTINGS: [&str; 4] = ["group.id", "enable.auto.commit", "isolation.level", "allow.auto.create.topics"];

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
    let mut untold = 0;
    // A position that is not there any more is told, and nothing else is counted instead.
    let position = look::walk(config, partition, span, Gone::Refuse, |message| {
        counting.record(message.offset());
        untold += 1;
        if untold >= TELL_EVERY {
            seen(std::mem::take(&mut untold));
        }
        true
    });
    let position = position.map_err(|error| format!("count the records of {partition} {span}: {error}"))?;
    seen(untold);
    Ok(counting.end(position))
}
