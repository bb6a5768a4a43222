//! [`Producing`]: records one by one, each acknowledged by all in-sync replicas. For hooks.

use super::KafkaError;
use super::client::telling;
use super::group::log;
use super::trouble::explain;
use crate::config::KafkaConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError as ClientError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Keeps the client's own last words.
#[derive(Clone, Default)]
struct Words(Arc<Mutex<String>>);

impl Words {
    fn kept(&self) -> MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Words {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        *self.kept() = explain(code, reason);
    }
}

/// Why a record is not known to be in the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TellingError {
    /// It may pass.
    Passing(String),
    /// It needs somebody.
    Refused(String),
}

/// A producer.
pub struct Producing {
    client: FutureProducer<Words>,
    words: Words,
    timeout: Duration,
}

impl Producing {
    /// With the brokers and client settings of `config`. A record that is not acknowledged within `timeout` is given up. Contacts nobody yet.
    ///
    /// # Errors
    /// [`KafkaError::Setting`] and [`KafkaError::Create`]: the configuration cannot work.
    pub fn new(config: &KafkaConfig, timeout: Duration) -> Result<Self, KafkaError> {
        let words = Words::default();
        let client = telling(config, timeout)?.create_with_context(words.clone());
        let failed =
            |error: ClientError| KafkaError::Create { brokers: config.brokers.clone(), problem: error.to_string() };
        Ok(Self { client: client.map_err(failed)?, words, timeout })
    }

    /// Produces a record and waits until all in-sync replicas have it.
    ///
    /// # Errors
    /// [`TellingError`]; it may be there all the same, or come later.
    pub async fn send(&self, topic: &str, key: &str, value: &str) -> Result<(), TellingError> {
        let record = FutureRecord::to(topic).key(key).payload(value);
        let (error, _) = match self.client.send(record, self.timeout).await {
            Ok(_) => {
                self.words.kept().clear();
                return Ok(());
            }
            Err(failed) => failed,
        };
        Err(match error.rdkafka_error_code() {
            Some(code @ (Code::MessageSizeTooLarge | Code::InvalidMessageSize)) => TellingError::Refused(format!(
                "{code}: the record has {} bytes; raise max.message.bytes of {topic}",
                key.len() + value.len()
            )),
            Some(code @ (Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) => {
                TellingError::Refused(format!("{code}; this user needs the rights WRITE and DESCRIBE on {topic}"))
            }
            Some(code @ (Code::UnknownTopic | Code::UnknownTopicOrPartition)) => {
                TellingError::Refused(code.to_string())
            }
            _ => TellingError::Passing(self.explained(&error)),
        })
    }

    /// What came back, with what the client said last.
    fn explained(&self, error: &ClientError) -> String {
        let words = self.words.kept();
        if words.is_empty() { error.to_string() } else { format!("{error}; the client says: {words}") }
    }
}
