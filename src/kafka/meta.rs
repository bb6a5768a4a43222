//! Questions to the cluster: its topics, the bounds of logs, committed offsets.
//!
//! Asked through clients of their own that never join a group, so they work between two memberships and never hold up
//! the poll thread. Everything here blocks up to the stated time.

use super::KafkaError;
use super::batch_queue;
use super::client::asking;
use super::group::{list, log};
use super::trouble::explain;
use crate::clock::{Clock, SystemClock};
use crate::config::{Isolation, KafkaConfig};
use crate::consume::{Committed, LogBounds};
use crate::record::TopicPartition;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// How long one question may take.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// How long a refused login is tried again: a broker that has just started may not know its users yet.
const LOGIN_WAIT_MS: i64 = 5_000;
/// How many of the client's own words are kept for an error.
const REASONS: usize = 4;

/// A topic as the cluster lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Name.
    pub name: String,
    /// Number of Kafka partitions.
    pub partitions: usize,
}

/// What the cluster says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its id; empty where the brokers give none.
    pub id: String,
    /// `host:port` of the brokers as they advertise themselves: what this machine must be able to reach.
    pub brokers: Vec<String>,
    /// All topics this user may see, by name.
    pub topics: Vec<TopicInfo>,
}

impl Cluster {
    /// One line for a person.
    pub fn describe(&self) -> String {
        let partitions: usize = self.topics.iter().map(|topic| topic.partitions).sum();
        let brokers = self.brokers.join(", ");
        format!("cluster {}: brokers {brokers}; {} topics, {partitions} partitions", self.id, self.topics.len())
    }
}

/// Collects the client's own words on what goes wrong.
#[derive(Default)]
pub(super) struct AskingContext {
    reasons: Mutex<VecDeque<String>>,
    reported: AtomicU64,
    /// A broker refused the login.
    refused: AtomicBool,
}

impl AskingContext {
    fn note(&self, code: RDKafkaErrorCode, reason: &str) {
        let text = explain(code, reason);
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        // "1/1 brokers are down" only repeats what the fault of the broker itself has said.
        let repeats = code == RDKafkaErrorCode::AllBrokersDown && !reasons.is_empty();
        if repeats || reasons.contains(&text) {
            return;
        }
        if reasons.len() == REASONS {
            reasons.pop_front();
        }
        reasons.push_back(text);
    }

    fn reasons(&self) -> String {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        Vec::from_iter(reasons.iter().cloned()).join("; ")
    }
}

impl ClientContext for AskingContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reported.fetch_add(1, Ordering::SeqCst);
        log(level, facility, message);
        // A connection that the broker closes is told in the log alone; a wrong security.protocol shows only there.
        if facility == "FAIL" && level as i32 > RDKafkaLogLevel::Error as i32 {
            self.note(RDKafkaErrorCode::BrokerTransportFailure, message);
        }
    }
    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        self.reported.fetch_add(1, Ordering::SeqCst);
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        use RDKafkaErrorCode::{Authentication, SaslAuthenticationFailed, UnsupportedSASLMechanism};
        if matches!(code, Authentication | SaslAuthenticationFailed | UnsupportedSASLMechanism) {
            self.refused.store(true, Ordering::SeqCst);
        }
        self.note(code, reason);
    }
}

impl ConsumerContext for AskingContext {}

/// A client that asks and never joins a group. Cheap to keep; used from any thread.
pub struct MetaClient {
    client: BaseConsumer<AskingContext>,
    /// Asks for the log's end whatever transactions are open, where `client` does not.
    uncommitted: OnceLock<BaseConsumer<AskingContext>>,
    config: KafkaConfig,
}

impl MetaClient {
    /// Makes the client. Contacts nobody yet.
    ///
    /// # Errors
    /// [`KafkaError::Setting`] and [`KafkaError::Create`]: the configuration cannot work.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let client = make(config, config.isolation)?;
        Ok(Self { client, uncommitted: OnceLock::new(), config: config.clone() })
    }

    /// Waits until a broker answers, up to `wait`, and says what it said.
    ///
    /// # Errors
    /// [`KafkaError::Unreachable`] with the client's own words: connection and TLS faults are told apart there.
    /// [`KafkaError::Refused`] after a few seconds of refused logins.
    pub fn wait_for_cluster(&self, wait: Duration) -> Result<Cluster, KafkaError> {
        let clock = SystemClock::new();
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        loop {
            let left_ms = wait_ms - clock.monotonic_ms();
            let slice = Duration::from_millis(u64::try_from(left_ms.clamp(1, 1_000)).unwrap_or(1));
            let answer = self.cluster(slice);
            self.drain();
            let refused = self.client.context().refused.load(Ordering::SeqCst);
            match answer {
                Ok(cluster) => return Ok(cluster),
                Err(_) if refused && wait_ms - left_ms >= LOGIN_WAIT_MS.min(wait_ms) => {
                    let reasons = self.client.context().reasons();
                    return Err(KafkaError::Refused { brokers: self.config.brokers.clone(), reasons });
                }
                Err(_) if left_ms > 0 => {
                    // Gives a refused connection time to be tried again.
                    self.client.poll(slice.min(Duration::from_millis(100)));
                }
                Err(last) => {
                    let reasons = self.client.context().reasons();
                    let reasons = if reasons.is_empty() { last } else { reasons };
                    let brokers = self.config.brokers.clone();
                    return Err(KafkaError::Unreachable { brokers, seconds: wait.as_secs(), reasons });
                }
            }
        }
    }

    /// The cluster as one broker sees it now.
    ///
    /// # Errors
    /// What came back instead, after up to `wait`.
    pub fn cluster(&self, wait: Duration) -> Result<Cluster, String> {
        let metadata = self.client.fetch_metadata(None, wait).map_err(|error| format!("list the topics: {error}"))?;
        let mut topics: Vec<TopicInfo> = metadata
            .topics()
            .iter()
            .map(|topic| TopicInfo { name: topic.name().to_string(), partitions: topic.partitions().len() })
            .collect();
        topics.sort_by(|left, right| left.name.cmp(&right.name));
        // It answers: what went wrong before explains nothing that goes wrong later.
        self.client.context().reasons.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.client.context().refused.store(false, Ordering::SeqCst);
        let brokers = metadata.brokers().iter().map(|one| format!("{}:{}", one.host(), one.port())).collect();
        // Known as soon as any metadata has come.
        let id = self.client.client().fetch_cluster_id(Duration::from_millis(100)).unwrap_or_default();
        Ok(Cluster { id, brokers, topics })
    }

    /// Takes in what the client has to report, so that nothing piles up.
    pub(super) fn drain(&self) {
        loop {
            let before = self.client.context().reported.load(Ordering::SeqCst);
            let polled = self.client.poll(Duration::ZERO);
            if polled.is_none() && self.client.context().reported.load(Ordering::SeqCst) == before {
                return;
            }
        }
    }

    /// Committed offsets of the configured group, from its coordinator, in the order asked.
    ///
    /// # Errors
    /// What came back; metadata that is not UTF-8 (another tool's) is one.
    pub fn committed(&self, partitions: &[TopicPartition]) -> Result<Vec<(TopicPartition, Option<Committed>)>, String> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let answer = self
            .client
            .committed_offsets(list(partitions), ANSWER_WAIT)
            .map_err(|error| format!("read the committed offsets of group {}: {error}", self.config.group))?;
        let mut found = BTreeMap::new();
        for (index, entry) in answer.elements().iter().enumerate() {
            let partition = TopicPartition::new(entry.topic(), entry.partition());
            // One that cannot be read (its topic is gone, a right is missing) is left out: it holds up no other.
            if let Err(error) = entry.error() {
                tracing::warn!(%partition, %error, "cannot read the committed offset");
                continue;
            }
            let Offset::Offset(offset) = entry.offset() else {
                found.insert(partition, None);
                continue;
            };
            // What is no text is another tool's, and ours never reads it.
            let metadata = String::from_utf8_lossy(&batch_queue::metadata(&answer, index)).into_owned();
            found.insert(partition, Some(Committed { offset, metadata }));
        }
        Ok(partitions.iter().filter_map(|partition| Some((partition.clone(), found.remove(partition)?))).collect())
    }

    /// Who commits in transactions for the configured group: nobody's member.
    pub(super) fn group_metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.client.group_metadata()
    }

    /// The bounds of a log. `readable_end` never exceeds `end`.
    ///
    /// # Errors
    /// What came back.
    pub fn log_bounds(&self, partition: &TopicPartition) -> Result<LogBounds, String> {
        // With the configured isolation librdkafka asks for the last stable offset, so this is asked first.
        let (start, readable_end) = watermarks(&self.client, partition)?;
        if self.config.isolation == Isolation::ReadUncommitted {
            return Ok(LogBounds { start, end: readable_end, readable_end });
        }
        let (_, end) = watermarks(self.uncommitted()?, partition)?;
        Ok(LogBounds { start, end: end.max(readable_end), readable_end })
    }

    fn uncommitted(&self) -> Result<&BaseConsumer<AskingContext>, String> {
        if self.uncommitted.get().is_none() {
            let client = make(&self.config, Isolation::ReadUncommitted).map_err(|error| error.to_string())?;
            // Another thread may have been quicker; then this one is dropped.
            self.uncommitted.set(client).ok();
        }
        self.uncommitted.get().ok_or_else(|| "no client for the log's end".to_string())
    }

    /// The first offset whose Kafka timestamp is at or after `time_ms`; `None` where there is none yet.
    ///
    /// # Errors
    /// What came back.
    pub fn offset_at_time(&self, partition: &TopicPartition, time_ms: i64) -> Result<Option<i64>, String> {
        let failed =
            |error: rdkafka::error::KafkaError| format!("find the offset of {partition} at {time_ms} ms: {error}");
        let mut times = TopicPartitionList::new();
        let time = Offset::Offset(time_ms.max(0)); // Negative numbers have another meaning to Kafka.
        times.add_partition_offset(&partition.topic, partition.partition, time).map_err(failed)?;
        let answer = self.client.offsets_for_times(times, ANSWER_WAIT).map_err(failed)?;
        let elements = answer.elements();
        let entry = elements.first().ok_or_else(|| format!("no answer on {partition}"))?;
        entry.error().map_err(failed)?;
        match entry.offset() {
            Offset::Offset(offset) => Ok(Some(offset)),
            _ => Ok(None),
        }
    }

    /// Asks a broker for something that every cluster with groups has.
    ///
    /// # Errors
    /// What came back, or that nothing came.
    pub fn answers(&self) -> Result<(), String> {
        let asked = self.client.fetch_metadata(Some("__consumer_offsets"), ANSWER_WAIT);
        asked
            .map(drop)
            .map_err(|error| format!("ask a broker for metadata: {error}: {}", self.client.context().reasons()))
    }

    /// The cluster's id.
    ///
    /// # Errors
    /// No broker answered in time, or it gave no id.
    pub fn cluster_id(&self) -> Result<String, String> {
        let id = self.client.client().fetch_cluster_id(ANSWER_WAIT);
        id.ok_or_else(|| {
            format!("no cluster id within {} s: {}", ANSWER_WAIT.as_secs(), self.client.context().reasons())
        })
    }

    /// How many Kafka partitions a topic has.
    ///
    /// # Errors
    /// What came back, an unknown topic included.
    pub fn partitions(&self, topic: &str) -> Result<i32, String> {
        let failed = |what: String| format!("read the metadata of topic {topic}: {what}");
        let metadata =
            self.client.fetch_metadata(Some(topic), ANSWER_WAIT).map_err(|error| failed(error.to_string()))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let found = found.ok_or_else(|| failed("the broker did not tell it".to_string()))?;
        if let Some(error) = found.error() {
            return Err(failed(format!("{:?}", RDKafkaErrorCode::from(error))));
        }
        i32::try_from(found.partitions().len())
            .ok()
            .filter(|&count| count > 0)
            .ok_or_else(|| failed("no partitions".to_string()))
    }

    /// The topic's id, base64 as Kafka prints it; `None` where the broker gives none.
    ///
    /// # Errors
    /// What came back, an unknown topic included.
    pub fn topic_id(&self, topic: &str) -> Result<Option<String>, String> {
        batch_queue::topic_id(&self.client, topic, ANSWER_WAIT)
    }
}

fn make(config: &KafkaConfig, isolation: Isolation) -> Result<BaseConsumer<AskingContext>, KafkaError> {
    let client = asking(config, isolation)?.create_with_context(AskingContext::default());
    client.map_err(|error| KafkaError::Create { brokers: config.brokers.clone(), problem: error.to_string() })
}

/// The bounds of a log as `client` sees them. A partition that is not among what the client remembers of the topic may be
/// new: the topic is looked at again before the answer counts, else it would stay unknown for up to `metadata.max.age.ms`.
fn watermarks(client: &BaseConsumer<AskingContext>, partition: &TopicPartition) -> Result<(i64, i64), String> {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    let ask = || client.fetch_watermarks(&partition.topic, partition.partition, ANSWER_WAIT);
    let mut answer = ask();
    let code = answer.as_ref().err().and_then(rdkafka::error::KafkaError::rdkafka_error_code);
    if matches!(code, Some(UnknownPartition | UnknownTopic | UnknownTopicOrPartition))
        && client.fetch_metadata(Some(&partition.topic), ANSWER_WAIT).is_ok()
    {
        answer = ask();
    }
    answer.map_err(|error| format!("ask for the bounds of {partition}: {error}"))
}
