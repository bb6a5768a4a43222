//! [`Transactions`]: what `restore` asks of Kafka. One transactional producer, and the group that keeps the job's progress.
//!
//! # How a call ends
//! | answer | result |
//! |---|---|
//! | a record is too large for the client | `Never` |
//! | a record is refused by the broker for what it is (packed size, time, no key where the topic is compacted) | `Passing`; the abort tells which record, see below |
//! | a right is missing | `Refused` |
//! | fenced: another producer has the transactional id | `Fenced` |
//! | the transaction is to be aborted | `Passing` |
//! | no answer in time | asked again, [`TRIES`] times; then `Fatal`: starting again finds out whether it happened |
//! | anything else | `Fatal` |
//!
//! # Which record is refused
//! A broker refuses a whole batch. Where it is refused for its size it is one record ([`producing`]), and brokers from 2.4 on name the records that
//! are refused for something else: then the one that is not delivered for such a reason is the one. Where several are not, an old broker named none, or
//! the topic's limit was not known: the next client puts each record into a batch of its own, so that each answer is of one record. It is slow, and
//! ends with the answer to the refused one, or where none is refused so once as many records are committed as the refused transaction had.

use super::KafkaError;
use super::client::producing;
use super::group::{list, log};
use super::meta::MetaClient;
use super::trouble::explain;
use crate::config::{Isolation, KafkaConfig};
use crate::record::{OwnedRecord, TopicPartition};
use crate::restore::position::Kept;
use crate::restore::target::{Handed, RefusedRecord, Settings, Target, Trouble};
use crate::restore::{group_of, transactional_id};
use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError as ClientError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one call may take before it is asked again.
const CALL_WAIT: Duration = Duration::from_secs(30);
/// How long deliveries are waited for before it is looked whether one was refused.
const FLUSH_WAIT: Duration = Duration::from_millis(200);
/// How often a call without an answer is made.
const TRIES: u32 = 4;
/// How long one look for room lasts.
const ROOM_WAIT: Duration = Duration::from_millis(20);
/// Records on their way where each is a batch of its own: so many answers are waited for in time before a transaction must end.
const SINGLE_MAX: i32 = 100;
/// Most rows of a record in one transaction then: it must end in time, and nothing but its rows ends it.
const SINGLE_ROWS_MAX: u64 = 500;

/// Where a restore goes.
pub struct JobTarget<'a> {
    /// The cluster: `[kafka]` with the target's brokers.
    pub kafka: &'a KafkaConfig,
    /// The topic.
    pub topic: &'a str,
    /// Its partitions.
    pub partitions: i32,
    /// Name of the job.
    pub job: &'a str,
    /// The group of the archive.
    pub group: &'a str,
    /// The largest batch that the topic takes, packed, bytes.
    pub message_bytes_max: Option<u64>,
}

/// What librdkafka tells of records that were handed over.
#[derive(Default)]
struct Deliveries {
    /// Why one of the transaction could not be delivered: a right that is missing before any other.
    failed: Mutex<Option<Code>>,
    /// The first record that is refused for what it is, by its number in the transaction, and how many are.
    refused: Mutex<Option<(usize, Code, usize)>>,
    /// The client's own last words.
    reason: Mutex<String>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        *locked(&self.reason) = explain(code, reason);
    }
}

impl ProducerContext for Deliveries {
    /// The record's number in the transaction.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let Err((error, message)) = result else { return };
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        tracing::debug!(%error, partition = message.partition(), "a record is not delivered");
        // What is thrown away because another one failed explains nothing.
        if matches!(code, Code::PurgeQueue | Code::PurgeInflight) {
            return;
        }
        if is_of_the_record(code) {
            let mut refused = locked(&self.refused);
            let (first, why, count) = refused.unwrap_or((number, code, 0));
            let (first, why) = if number < first { (number, code) } else { (first, why) };
            *refused = Some((first, why, count + 1));
            return;
        }
        let mut failed = locked(&self.failed);
        if failed.is_none() || (is_a_right(code) && !failed.is_some_and(is_a_right)) {
            *failed = Some(code);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Client = ThreadedProducer<Deliveries>;

/// The parts that calls on other threads share.
struct Shared {
    /// What makes the producer.
    settings: Mutex<ClientConfig>,
    /// The producer. A client of which a record was refused numbers its batches as if the broker had that one, so the broker takes nothing
    /// more from it: another one goes on, and fences it.
    producer: Mutex<Arc<Client>>,
    brokers: String,
    state: Mutex<State>,
    /// Whether the producer puts each record into a batch of its own.
    single: Mutex<Single>,
    /// Records that the transaction was handed.
    handed: AtomicUsize,
    /// A client of the job's group: it never joins, and knows its offsets.
    group: MetaClient,
    topic: String,
    partitions: i32,
}

/// Whether each record is put into a batch of its own, as an answer to several did not tell which of them is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Single {
    /// The answer, and how many records are to be committed before it is known that none of them is refused alone.
    left: Option<(Code, usize)>,
}

impl Single {
    /// A transaction of `handed` records is refused, for `count` of them with `code`. Whether it is known which one: else each comes in a batch of its
    /// own from now on.
    fn refused(&mut self, code: Code, count: usize, handed: usize) -> bool {
        let is_known = count == 1 || self.left.is_some();
        self.left = (!is_known).then_some((code, handed));
        is_known
    }

    /// A transaction of `handed` records is committed. The answer that they came singly for, once as many are as the refused transaction had: the ones
    /// that it was about may be behind those of one that is shorter.
    fn committed(&mut self, handed: usize) -> Option<Code> {
        let (code, left) = self.left?;
        let left = left.saturating_sub(handed);
        self.left = (left > 0).then_some((code, left));
        (left == 0).then_some(code)
    }
}

/// What is to be done with the producer before it goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not taken the transactional id.
    New,
    /// Nothing.
    Ready,
    /// Another is to be made.
    Spoilt,
}

/// See the module.
pub struct Transactions {
    shared: Arc<Shared>,
}

impl Transactions {
    /// Makes the producer. Contacts nobody yet, and fences nobody.
    ///
    /// # Errors
    /// [`KafkaError::Setting`] and [`KafkaError::Create`]: the configuration cannot work.
    pub fn new(into: &JobTarget<'_>) -> Result<Self, KafkaError> {
        let id = transactional_id(into.group, into.job, into.topic);
        let settings = producing(into.kafka, &id, into.message_bytes_max)?;
        let failed =
            |error: ClientError| KafkaError::Create { brokers: into.kafka.brokers.clone(), problem: error.to_string() };
        let producer: Client = settings.create_with_context(Deliveries::default()).map_err(failed)?;
        let shared = Shared {
            settings: Mutex::new(settings),
            producer: Mutex::new(Arc::new(producer)),
            brokers: into.kafka.brokers.clone(),
            state: Mutex::new(State::New),
            single: Mutex::default(),
            handed: AtomicUsize::new(0),
            group: MetaClient::new(&of_group(into.kafka, into.group, into.job))?,
            topic: into.topic.to_string(),
            partitions: into.partitions,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A setting of the producers that are made from now on.
    #[cfg(test)]
    pub(super) fn setting(&self, name: &str) -> Option<String> {
        locked(&self.shared.settings).get(name).map(str::to_string)
    }

    fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Shared) -> Result<T, Trouble> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Trouble>> {
        let shared = self.shared.clone();
        let called = tokio::task::spawn_blocking(move || call(&shared));
        async move { called.await.unwrap_or_else(|error| Err(Trouble::Fatal(format!("a call to Kafka panicked: {error}")))) }
            .boxed()
    }
}

/// `[kafka]` as a client of the group that keeps the progress of `job`. What a transaction that is still open would commit is waited for.
pub fn of_group(kafka: &KafkaConfig, group: &str, job: &str) -> KafkaConfig {
    KafkaConfig { group: group_of(group, job), isolation: Isolation::ReadCommitted, instance_id: None, ..kafka.clone() }
}

/// What the job's transactions have committed, as far as `client`, of its group, can see. Fences nobody.
///
/// # Errors
/// What came back.
pub fn kept(client: &MetaClient, topic: &str, partitions: i32) -> Result<Vec<Kept>, String> {
    let partitions: Vec<_> = (0..partitions).map(|partition| TopicPartition::new(topic, partition)).collect();
    let found = client.committed(&partitions)?;
    // One that is missing in the answer could not be read: to go on without it would double what it tells.
    if found.len() < partitions.len() {
        let (read, all) = (found.len(), partitions.len());
        return Err(format!("the committed offsets of {} of {all} partitions of {topic} cannot be read", all - read));
    }
    let kept = found.into_iter().filter_map(|(partition, committed)| {
        committed.map(|committed| (partition.partition, committed.offset, committed.metadata))
    });
    Ok(kept.collect())
}

/// The settings of `topic`, as its cluster tells them.
pub async fn settings(kafka: &KafkaConfig, topic: &str) -> Settings {
    let admin: AdminClient<DefaultClientContext> = super::client::administering(kafka)
        .and_then(|settings| {
            settings
                .create()
                .map_err(|error| KafkaError::Create { brokers: kafka.brokers.clone(), problem: error.to_string() })
        })
        .map_err(|error| error.to_string())?;
    let options = AdminOptions::new().request_timeout(Some(CALL_WAIT));
    let described = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
    let described = described.map_err(|error| error.to_string())?;
    let described = described.into_iter().next().ok_or("an empty answer")?.map_err(|code| code.to_string())?;
    let entry = |entry: rdkafka::admin::ConfigEntry| entry.value.map(|value| (entry.name, value));
    Ok(described.entries.into_iter().filter_map(entry).collect())
}

impl Shared {
    fn producer(&self) -> Arc<Client> {
        locked(&self.producer).clone()
    }

    fn is_single(&self) -> bool {
        locked(&self.single).left.is_some()
    }

    /// Goes on with batches of several records, once as many single ones are committed as the refused transaction had: none of them was refused. Where
    /// several in one batch were for its size, it was more than the topic takes, which nobody knew, so the next ones are smaller.
    fn leave_single(&self) -> Result<(), Trouble> {
        let handed = self.handed.load(Ordering::Relaxed);
        let Some(code) = locked(&self.single).committed(handed) else { return Ok(()) };
        if is_a_size(code) {
            let mut settings = locked(&self.settings);
            let most = settings.get("batch.size").and_then(|most| most.parse::<u64>().ok());
            if let Some(most) = most {
                settings.set("batch.size", (most / 2).max(1).to_string());
            }
        }
        *locked(&self.state) = State::Spoilt;
        // What was committed is: only another look tells how to go on.
        self.prepare().map_err(|trouble| match trouble {
            Trouble::Passing(what) => Trouble::Fatal(what),
            other => other,
        })
    }

    /// Takes the transactional id, with another producer where the one before is of no use.
    fn prepare(&self) -> Result<(), Trouble> {
        let state = *locked(&self.state);
        if state == State::Spoilt {
            let mut settings = locked(&self.settings).clone();
            if self.is_single() {
                settings.set("batch.num.messages", "1");
            }
            let made = settings.create_with_context(Deliveries::default());
            let made =
                made.map_err(|error| Trouble::Fatal(format!("make a producer for {}: {error}", self.brokers)))?;
            *locked(&self.producer) = Arc::new(made);
            *locked(&self.state) = State::New;
        }
        if state != State::Ready {
            let producer = self.producer();
            self.until_answered("take the transactional id", || producer.init_transactions(CALL_WAIT))?;
            *locked(&self.state) = State::Ready;
        }
        Ok(())
    }

    /// What an error of a call means; `None`: there was no answer, and it can be asked again. A record or right that is refused explains all others.
    fn trouble(&self, what: &str, error: &ClientError) -> Option<Trouble> {
        let refused = *locked(&self.producer().client().context().refused);
        let refused = refused.map(|(_, code, _)| Trouble::Passing(format!("{what}: {}", advice(code, &self.topic))));
        refused.or_else(|| self.missing_right()).or_else(|| self.trouble_of_call(what, error))
    }

    fn trouble_of_call(&self, what: &str, error: &ClientError) -> Option<Trouble> {
        let producer = self.producer();
        let context = producer.client().context();
        let of_error = |code: Code| {
            let words = match error {
                ClientError::Transaction(error) => error.string(),
                other => other.to_string(),
            };
            format!("{what}: {}", explain(code, &words))
        };
        let failed = *locked(&context.failed);
        let code = match error {
            ClientError::Transaction(error) => error.code(),
            other => other.rdkafka_error_code().unwrap_or(Code::Unknown),
        };
        if matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) {
            return Some(Trouble::Fenced(of_error(code)));
        }
        if is_a_right(code) {
            return Some(Trouble::Refused(format!("{}; {}", of_error(code), rights(&self.topic))));
        }
        let with_reason = |text: String| match locked(&context.reason).as_str() {
            "" => text,
            reason => format!("{text} ({reason})"),
        };
        match error {
            ClientError::Transaction(error) if error.is_fatal() => Some(Trouble::Fatal(with_reason(of_error(code)))),
            ClientError::Transaction(error) if error.txn_requires_abort() => {
                let failed = failed.map(|code| format!("; a record was not delivered: {code}")).unwrap_or_default();
                Some(Trouble::Passing(with_reason(of_error(code)) + &failed))
            }
            ClientError::Transaction(error) if error.is_retriable() => None,
            ClientError::Flush(_) => None,
            _ if code == Code::OperationTimedOut => None,
            _ => Some(Trouble::Fatal(with_reason(of_error(code)))),
        }
    }

    /// The right for want of which a record of the transaction was not delivered.
    fn missing_right(&self) -> Option<Trouble> {
        let failed = *locked(&self.producer().client().context().failed);
        let code = failed.filter(|&code| is_a_right(code))?;
        Some(Trouble::Refused(format!("{code}; {}", rights(&self.topic))))
    }

    /// The record that is refused, once all deliveries are known. Where it is not known which of several, the next client finds out.
    fn refused_record(&self) -> Option<RefusedRecord> {
        let refused = *locked(&self.producer().client().context().refused);
        let (first, code, count) = refused?;
        let is_known = locked(&self.single).refused(code, count, self.handed.load(Ordering::Relaxed));
        if !is_known {
            tracing::warn!(
                "{}: {code} of {count} records, and not which of them: each is sent in a batch of its own until it is met",
                self.topic
            );
        }
        Some(RefusedRecord { number: is_known.then_some(first), why: advice(code, &self.topic) })
    }

    /// Makes a call until it has an answer, [`TRIES`] times.
    fn until_answered(&self, what: &str, call: impl FnMut() -> Result<(), ClientError>) -> Result<(), Trouble> {
        self.until_known(what, call, |error| self.trouble(what, error))
    }

    fn until_known(
        &self,
        what: &str,
        mut call: impl FnMut() -> Result<(), ClientError>,
        meaning: impl Fn(&ClientError) -> Option<Trouble>,
    ) -> Result<(), Trouble> {
        let mut last = String::new();
        for _ in 0..TRIES {
            let Err(error) = call() else { return Ok(()) };
            match meaning(&error) {
                Some(trouble) => return Err(trouble),
                None => last = error.to_string(),
            }
            tracing::warn!("{what}: {last}; asked again");
        }
        let reason = locked(&self.producer().client().context().reason).clone();
        Err(Trouble::Fatal(format!("{what}: no answer after {TRIES} times {} s: {last} {reason}", CALL_WAIT.as_secs())))
    }

    fn commit(&self, progress: &[Kept]) -> Result<(), Trouble> {
        let partitions: Vec<_> =
            progress.iter().map(|(partition, ..)| TopicPartition::new(self.topic.as_str(), *partition)).collect();
        let offsets: TopicPartitionList = list(&partitions);
        for (partition, offset, metadata) in progress {
            let Some(mut entry) = offsets.find_partition(&self.topic, *partition) else { continue };
            entry.set_offset(Offset::Offset(*offset)).map_err(|error| Trouble::Fatal(error.to_string()))?;
            entry.set_metadata(metadata);
        }
        let producer = self.producer();
        // All records first: what is wrong with one is told better by its own error.
        self.until_answered("deliver the records of a transaction", || self.deliver(&producer))?;
        if !progress.is_empty() {
            let group = self.group.group_metadata();
            let group = group.ok_or_else(|| Trouble::Fatal("the group's client has no group".to_string()))?;
            self.until_answered("send the progress to the transaction", || {
                producer.send_offsets_to_transaction(&offsets, &group, CALL_WAIT)
            })?;
        }
        self.until_answered("commit a transaction", || producer.commit_transaction(CALL_WAIT))?;
        self.leave_single()
    }

    /// Waits until all records are delivered. Where one is refused, those behind it wait for the abort, so nobody waits for them.
    fn deliver(&self, producer: &Client) -> Result<(), ClientError> {
        let mut slices = CALL_WAIT.as_millis() / FLUSH_WAIT.as_millis();
        loop {
            let flushed = producer.flush(FLUSH_WAIT);
            slices = slices.saturating_sub(1);
            let is_refused = locked(&producer.client().context().refused).is_some();
            let is_over = flushed.is_ok() || slices == 0 || is_refused || self.missing_right().is_some();
            if is_over {
                return flushed;
            }
        }
    }

    fn forget(&self) {
        let producer = self.producer();
        *locked(&producer.client().context().failed) = None;
        *locked(&producer.client().context().refused) = None;
        self.handed.store(0, Ordering::Relaxed);
        locked(&producer.client().context().reason).clear();
    }
}

/// Whether a record would be refused for it again.
fn is_of_the_record(code: Code) -> bool {
    is_a_size(code) || matches!(code, Code::InvalidTimestamp | Code::InvalidRecord | Code::PolicyViolation)
}

fn is_a_size(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::InvalidMessageSize)
}

fn is_a_right(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed
    )
}

fn rights(topic: &str) -> String {
    format!(
        "a restore needs the rights WRITE and DESCRIBE on {topic} and on its transactional id, and READ on its group <group>-restore-<job>"
    )
}

fn advice(code: Code, topic: &str) -> String {
    let what = match code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            format!("raise max.message.bytes of {topic}, which a record is held to as it is packed")
        }
        Code::InvalidTimestamp => {
            format!("raise message.timestamp.before.max.ms and message.timestamp.after.max.ms of {topic}")
        }
        Code::InvalidRecord => "a compacted topic takes no record without a key".to_string(),
        _ => format!("see the settings and rights of {topic}"),
    };
    format!("{code}; {what}")
}

impl Target for Transactions {
    fn recover(&self) -> BoxFuture<'_, Result<Vec<Kept>, Trouble>> {
        self.call(move |shared| {
            shared.forget();
            shared.prepare()?;
            let mut last = String::new();
            for _ in 0..TRIES {
                match kept(&shared.group, &shared.topic, shared.partitions) {
                    Ok(kept) => return Ok(kept),
                    Err(error) => last = error,
                }
            }
            Err(Trouble::Fatal(format!("read how far the job is: {last}")))
        })
    }

    fn begin(&self) -> Result<(), Trouble> {
        self.shared.forget();
        let begun = self.shared.producer().begin_transaction();
        begun.map_err(|error| {
            let told = self.shared.trouble("begin a transaction", &error);
            told.unwrap_or_else(|| Trouble::Fatal(format!("begin a transaction: {error}")))
        })
    }

    fn put(&self, partition: Option<i32>, record: &OwnedRecord) -> Result<Handed, Trouble> {
        let producer = self.shared.producer();
        if self.shared.is_single() && producer.in_flight_count() >= SINGLE_MAX {
            return Ok(Handed::Full);
        }
        let number = self.shared.handed.load(Ordering::Relaxed);
        let mut made = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.shared.topic, number);
        made.partition = partition;
        made.key = record.key.as_deref();
        made.payload = record.value.as_deref();
        made.timestamp = record.timestamp;
        if !record.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
            for (key, value) in &record.headers {
                headers = headers.insert(Header { key, value: value.as_ref() });
            }
            made.headers = Some(headers);
        }
        let Err((error, _)) = producer.send(made) else {
            self.shared.handed.store(number + 1, Ordering::Relaxed);
            return Ok(Handed::Taken);
        };
        match error.rdkafka_error_code() {
            Some(Code::QueueFull) => Ok(Handed::Full),
            Some(code) if is_of_the_record(code) => {
                let settings = locked(&self.shared.settings);
                let (topic, limit) = (&self.shared.topic, settings.get("message.max.bytes").unwrap_or_default());
                Ok(Handed::Never(format!(
                    "{code}; it is handed to no broker, as it is more than message.max.bytes={limit} of the client, which is max.message.bytes of \
                     {topic}, and 100 MiB at least, unless [kafka.client] sets it. A broker takes no request of more than its \
                     socket.request.max.bytes, and closes the connection: raise these"
                )))
            }
            // The transaction has failed already, and takes nothing more: the commit says why.
            _ => {
                let told = producer.flush(ROOM_WAIT).err().unwrap_or(error);
                match self.shared.trouble("hand over a record", &told) {
                    Some(trouble @ (Trouble::Refused(_) | Trouble::Fenced(_))) => Err(trouble),
                    _ => Err(Trouble::Passing(format!("hand over a record: {told}"))),
                }
            }
        }
    }

    fn rows_max(&self) -> u64 {
        if self.shared.is_single() { SINGLE_ROWS_MAX } else { u64::MAX }
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        let shared = self.shared.clone();
        async move {
            let waited = tokio::task::spawn_blocking(move || shared.producer().poll(ROOM_WAIT)).await;
            if let Err(error) = waited {
                tracing::error!(%error, "waiting for room panicked");
            }
        }
        .boxed()
    }

    fn commit(&self, progress: Vec<Kept>) -> BoxFuture<'_, Result<(), Trouble>> {
        self.call(move |shared| shared.commit(&progress))
    }

    fn abort(&self) -> BoxFuture<'_, Result<Option<RefusedRecord>, Trouble>> {
        self.call(|shared| {
            let (producer, what) = (shared.producer(), "abort a transaction");
            let abort = || match producer.abort_transaction(CALL_WAIT) {
                // There is none: it ended before anything was begun.
                Err(ClientError::Transaction(error)) if error.code() == Code::State => Ok(()),
                other => other,
            };
            // Whether it is aborted does not depend on why it has to be.
            let aborted = shared.until_known(what, abort, |error| shared.trouble_of_call(what, error));
            // All deliveries are known now: a transaction with a record that is refused would fail again.
            let (refused, right) = (shared.refused_record(), shared.missing_right());
            shared.forget();
            aborted?;
            if refused.is_some() || right.is_some() {
                *locked(&shared.state) = State::Spoilt;
            }
            match (refused, right) {
                (None, Some(right)) => Err(right),
                (refused, _) => Ok(refused),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: records come singly until as many are committed as the refused transaction had, in however many transactions.
    #[test]
    fn single_batches_are_kept_until_all_of_the_refused_transaction_are_committed() {
        let mut single = Single::default();
        assert_eq!(single.committed(500), None, "nothing was refused");
        assert!(!single.refused(Code::MessageSizeTooLarge, 3, 500));
        for committed in 1..5 {
            assert_eq!((single.committed(100), single.left.is_some()), (None, true), "{committed} of five");
        }
        assert_eq!(single.committed(100), Some(Code::MessageSizeTooLarge));
        assert_eq!((single, single.committed(100)), (Single::default(), None), "told once");
        // A transaction of more than are left.
        assert!(!single.refused(Code::InvalidTimestamp, 2, 3));
        assert_eq!(single.committed(500), Some(Code::InvalidTimestamp));
    }

    /// Goal: a second refusal in between is of one record, which ends it; one that comes later begins anew.
    #[test]
    fn a_second_refusal_tells_which_record_it_is() {
        let mut single = Single::default();
        assert!(single.refused(Code::InvalidRecord, 1, 500) && single.left.is_none(), "it is known already");
        assert!(!single.refused(Code::MessageSizeTooLarge, 3, 500));
        assert_eq!(single.committed(200), None);
        assert!(single.refused(Code::MessageSizeTooLarge, 2, 100));
        assert_eq!((single, single.committed(300)), (Single::default(), None), "nothing is left of the first one");
        assert!(!single.refused(Code::InvalidTimestamp, 2, 200));
        assert_eq!((single.committed(199), single.committed(1)), (None, Some(Code::InvalidTimestamp)));
    }
}
