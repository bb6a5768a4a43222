//! What the tests on a real broker share: topics, members, a miniature archiver, logins.

use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use siltstone::clock::{Clock, SystemClock};
use siltstone::config::{GroupProtocol, Isolation, KafkaConfig, Secret, Start};
use siltstone::consume::{Coordinator, Held, Source, SourceSink};
use siltstone::kafka::{KafkaCoordinator, KafkaSource, Wanted, connect};
use siltstone::record::{OwnedRecord, Record, TopicPartition, offset_after};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Nothing on one machine takes longer than this.
const DEADLINE: Duration = Duration::from_secs(90);

pub(crate) fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run scripts/test.sh, or scripts/services.sh start kafka and export what its `env` prints")
    })
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// Names differ between tests and between runs.
fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (now, count) = (SystemClock::new().wall_ms(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!("siltstone-test-{name}-{now}-{}-{count}", std::process::id())
}

pub(crate) fn config(group: &str) -> KafkaConfig {
    KafkaConfig {
        brokers: env("KAFKA_BROKERS"),
        group: group.to_string(),
        start: Start::Earliest,
        isolation: Isolation::ReadCommitted,
        protocol: GroupProtocol::Classic,
        instance_id: None,
        revoke_grace: Duration::from_secs(5),
        client: BTreeMap::new(),
    }
}

/// One way to log in.
pub(crate) struct Way {
    pub(crate) name: String,
    brokers: String,
    settings: BTreeMap<String, Secret>,
}

impl Way {
    fn new(name: &str, brokers: &str, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(key, value)| ((*key).to_string(), Secret::new(*value))).collect();
        Self { name: name.to_string(), brokers: env(brokers), settings }
    }
    pub(crate) fn without(mut self, key: &str) -> Self {
        self.settings.remove(key).expect("the setting was there");
        self
    }
}

pub(crate) fn scram(mechanism: &str, user: &str, password: &str) -> Way {
    let settings = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", mechanism),
        ("sasl.username", user),
        ("sasl.password", password),
        ("ssl.ca.location", &env("KAFKA_CA")),
    ];
    Way::new(mechanism, "KAFKA_SASL_BROKERS", &settings)
}

pub(crate) fn mutual_tls() -> Way {
    let (authority, certificate, key) = (env("KAFKA_CA"), env("KAFKA_CLIENT_CERT"), env("KAFKA_CLIENT_KEY"));
    let settings = [
        ("security.protocol", "SSL"),
        ("ssl.ca.location", &*authority),
        ("ssl.certificate.location", &*certificate),
        ("ssl.key.location", &*key),
    ];
    Way::new("mTLS", "KAFKA_MTLS_BROKERS", &settings)
}

pub(crate) fn secured(group: &str, way: Way) -> KafkaConfig {
    KafkaConfig { brokers: way.brokers, client: way.settings, ..config(group) }
}

/// SplitMix64: the same walk in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", env("KAFKA_BROKERS")).create().expect("an admin client")
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)))
}

/// A topic, deleted at the end.
pub(crate) struct Topic {
    pub(crate) name: String,
    producer: BaseProducer,
    keep: bool,
}

impl Topic {
    pub(crate) fn create(name: &str, partitions: i32) -> Self {
        Self::create_named(&unique(name), partitions)
    }

    pub(crate) fn create_named(name: &str, partitions: i32) -> Self {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let created = block_on(admin().create_topics([&topic], &options())).expect("an answer");
        created.into_iter().for_each(|one| drop(one.expect("created")));
        let producer = ClientConfig::new()
            .set("bootstrap.servers", env("KAFKA_BROKERS"))
            .set("enable.idempotence", "true")
            .create()
            .expect("a producer");
        Self { name: name.to_string(), producer, keep: false }
    }

    pub(crate) fn partition(&self, number: i32) -> TopicPartition {
        TopicPartition::new(self.name.as_str(), number)
    }

    /// `count` records whose payload is their offset, when `first` is the next one.
    pub(crate) fn produce(&self, partition: i32, first: i64, count: i64) {
        for at in first..first + count {
            let payload = at.to_string();
            let record = BaseRecord::<(), str>::to(&self.name).partition(partition).payload(&payload);
            self.send(record);
        }
        self.producer.flush(Duration::from_secs(60)).expect("delivered");
    }

    fn send(&self, record: BaseRecord<'_, (), str>) {
        let mut record = record;
        while let Err((error, again)) = self.producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull));
            self.producer.poll(Duration::from_millis(100));
            record = again;
        }
    }

    pub(crate) fn produce_shape(&self, shape: &OwnedRecord) {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &shape.headers {
            headers = headers.insert(Header { key, value: value.as_ref() });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.name).partition(0).headers(headers);
        record.timestamp = shape.timestamp;
        record.key = shape.key.as_deref();
        record.payload = shape.value.as_deref();
        self.producer.send(record).map_err(|(error, _)| error).expect("queued");
        self.producer.flush(Duration::from_secs(60)).expect("delivered");
    }

    pub(crate) fn transactional(&self) -> Transactions {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", env("KAFKA_BROKERS"))
            .set("transactional.id", unique("transactions"))
            .create()
            .expect("a producer");
        producer.init_transactions(DEADLINE).expect("transactions");
        Transactions(producer)
    }

    pub(crate) fn in_transaction(&self, transactions: &Transactions, partition: i32, count: i64) {
        transactions.0.begin_transaction().expect("begun");
        for _ in 0..count {
            let record = BaseRecord::<(), str>::to(&self.name).partition(partition).payload("in a transaction");
            transactions.0.send(record).map_err(|(error, _)| error).expect("queued");
        }
        transactions.0.flush(Duration::from_secs(60)).expect("delivered");
    }

    pub(crate) fn grow(&self, partitions: usize) {
        let grown = block_on(admin().create_partitions([&NewPartitions::new(&self.name, partitions)], &options()));
        grown.expect("an answer").into_iter().for_each(|one| drop(one.expect("grown")));
    }

    pub(crate) fn delete_records(&self, partition: i32, before: i64) {
        let mut offsets = rdkafka::TopicPartitionList::new();
        offsets.add_partition_offset(&self.name, partition, rdkafka::Offset::Offset(before)).expect("an offset");
        block_on(admin().delete_records(&offsets, &options())).expect("deleted");
    }

    pub(crate) fn delete_and_create(mut self) -> Self {
        self.keep = true; // The new one is deleted instead.
        let deleted = block_on(admin().delete_topics(&[&self.name], &options())).expect("an answer");
        deleted.into_iter().for_each(|one| drop(one.expect("deleted")));
        Self::create_named(&self.name, 2)
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        if !self.keep {
            // Only tidiness: a topic that stays disturbs nobody.
            drop(block_on(admin().delete_topics(&[&self.name], &options())));
        }
    }
}

pub(crate) struct Transactions(BaseProducer);

impl Transactions {
    pub(crate) fn commit(&self) {
        self.0.commit_transaction(DEADLINE).expect("committed");
    }
    pub(crate) fn abort(&self) {
        self.0.abort_transaction(DEADLINE).expect("aborted");
    }
}

pub(crate) fn wanted(topic: &Topic) -> Wanted {
    Wanted { names: vec![topic.name.clone()], matches: Box::new(|_| false) }
}

/// Everything that a source brings, checked as it comes.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) faults: Vec<String>,
    pub(crate) troubles: Vec<String>,
    pub(crate) fatals: Vec<String>,
    pub(crate) lost: Vec<TopicPartition>,
    pub(crate) out_of_range: BTreeSet<TopicPartition>,
    /// Offsets may skip in this topic.
    pub(crate) gaps: bool,
    /// Keep whole records.
    pub(crate) keep: bool,
    pub(crate) kept: Vec<OwnedRecord>,
    fresh: Vec<Held>,
    held: BTreeMap<TopicPartition, u64>,
    next: BTreeMap<TopicPartition, i64>,
    offsets: BTreeMap<TopicPartition, Vec<i64>>,
    ends: BTreeMap<TopicPartition, i64>,
    notes: BTreeMap<TopicPartition, usize>,
}

impl Log {
    pub(crate) fn offsets(&self, partition: &TopicPartition) -> Vec<i64> {
        self.offsets.get(partition).cloned().unwrap_or_default()
    }
    fn forget(&mut self, partitions: &[TopicPartition], how: &str) {
        for partition in partitions {
            if self.held.remove(partition).is_none() {
                self.faults.push(format!("{partition} was {how} but not held"));
            }
            self.offsets.remove(partition);
            self.ends.remove(partition);
            self.fresh.retain(|held| held.partition != *partition);
        }
    }
}

impl SourceSink for Log {
    fn record(&mut self, record: &Record<'_>) {
        let partition = TopicPartition::new(record.topic, record.partition);
        let expected = self.next.get(&partition).copied().unwrap_or(0);
        let fits = if self.gaps { record.offset >= expected } else { record.offset == expected };
        if !fits || !self.held.contains_key(&partition) {
            let step = self.notes.get(&partition);
            self.faults.push(format!("{partition}: {} instead of {expected}, after step {step:?}", record.offset));
        }
        if self.keep {
            let headers = (0..record.headers.len())
                .map(|index| record.headers.get(index))
                .map(|(name, value)| (name.to_string(), value.map(<[u8]>::to_vec)))
                .collect();
            self.kept.push(OwnedRecord {
                topic: record.topic.to_string(),
                partition: record.partition,
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers,
            });
        }
        self.offsets.entry(partition.clone()).or_default().push(record.offset);
        self.next.insert(partition, offset_after(record.offset));
    }
    fn end_of_partition(&mut self, partition: &TopicPartition, position: i64) {
        let next = self.next.entry(partition.clone()).or_insert(0);
        if position < *next || (!self.gaps && position != *next) {
            self.faults.push(format!("{partition}: end at {position} instead of {next}"));
        }
        *next = position;
        self.ends.insert(partition.clone(), position);
    }
    fn assigned(&mut self, held: Vec<Held>) {
        for one in held {
            if self.held.insert(one.partition.clone(), one.assignment).is_some() {
                self.faults.push(format!("{} was assigned twice", one.partition));
            }
            self.fresh.push(one);
        }
    }
    fn revoked(&mut self, partitions: &[TopicPartition]) {
        self.forget(partitions, "revoked");
    }
    fn lost(&mut self, partitions: &[TopicPartition]) {
        self.forget(partitions, "lost");
        self.lost.extend_from_slice(partitions);
    }
    fn out_of_range(&mut self, partition: &TopicPartition, _log_start: Option<i64>) {
        self.out_of_range.insert(partition.clone());
    }
    fn trouble(&mut self, what: String) {
        self.troubles.push(what);
    }
    fn fatal(&mut self, what: String) {
        self.fatals.push(what);
    }
}

/// Where a member starts what it is given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartAt {
    /// At the committed offset, or at 0.
    Committed,
    Never,
}

/// A source with its log, driven by the test.
pub(crate) struct Member {
    pub(crate) source: KafkaSource,
    pub(crate) coordinator: Arc<KafkaCoordinator>,
    pub(crate) log: Log,
    pub(crate) starts_at: StartAt,
    /// Whether records are taken.
    pub(crate) take: bool,
    runtime: tokio::runtime::Handle,
}

impl Member {
    /// Within a runtime, or (where nothing is asked) without one.
    pub(crate) fn join(config: KafkaConfig, wanted: Wanted) -> Self {
        let (source, coordinator) = connect(&config, 64 << 20, wanted).expect("a source");
        let runtime = tokio::runtime::Handle::try_current().unwrap_or_else(|_| runtime_forever());
        let (log, starts_at) = (Log::default(), StartAt::Committed);
        Self { source, coordinator, log, starts_at, take: true, runtime }
    }

    pub(crate) fn held(&self) -> Vec<Held> {
        let held = self.log.held.iter();
        held.map(|(partition, &assignment)| Held { partition: partition.clone(), assignment }).collect()
    }

    pub(crate) fn next(&self, partition: &TopicPartition) -> i64 {
        self.log.next.get(partition).copied().unwrap_or(0)
    }

    pub(crate) fn end(&self, partition: &TopicPartition) -> Option<i64> {
        self.log.ends.get(partition).copied()
    }

    pub(crate) fn committed(&self, partition: &TopicPartition) -> Option<(i64, String)> {
        let answer = self.runtime.block_on(self.coordinator.committed(vec![partition.clone()]));
        answer.expect("an answer").remove(0).1.map(|found| (found.offset, found.metadata))
    }

    /// For messages: the last thing done to a partition.
    pub(crate) fn note(&mut self, partition: &TopicPartition, step: usize) {
        self.log.notes.insert(partition.clone(), step);
    }

    pub(crate) fn start(&mut self, held: &Held, offset: i64) {
        self.source.start_at(held, offset).expect("started");
        self.log.next.insert(held.partition.clone(), offset);
    }

    pub(crate) fn poll(&mut self) {
        self.source.poll(Duration::from_millis(20), self.take, &mut self.log);
        for held in std::mem::take(&mut self.log.fresh) {
            let offset = match self.starts_at {
                StartAt::Never => continue,
                StartAt::Committed => self.committed(&held.partition).map_or(0, |(offset, _)| offset),
            };
            if self.source.start_at(&held, offset).is_ok() {
                self.log.next.insert(held.partition.clone(), offset);
            } else {
                self.log.fresh.push(held);
            }
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let clock = SystemClock::new();
        while !done(self) {
            assert!(clock.monotonic_ms() < DEADLINE.as_millis() as i64, "waited in vain for {what}: {}", self.state());
            self.poll();
        }
    }

    pub(crate) fn state(&self) -> String {
        let Log { faults, troubles, fatals, held, next, ends, lost, .. } = &self.log;
        format!(
            "held {held:?} next {next:?} ends {ends:?} lost {lost:?} faults {faults:?} troubles {troubles:?} fatals {fatals:?}"
        )
    }

    pub(crate) fn close(&mut self) {
        self.source.close(Duration::from_secs(20));
    }
}

fn runtime_forever() -> tokio::runtime::Handle {
    let runtime = Box::leak(Box::new(runtime()));
    runtime.handle().clone()
}

pub(crate) fn both_until(
    what: &str,
    one: &mut Member,
    other: &mut Member,
    done: impl FnMut(&mut Member, &mut Member) -> bool,
) {
    both_within(DEADLINE, what, one, other, done);
}

pub(crate) fn both_within(
    limit: Duration,
    what: &str,
    one: &mut Member,
    other: &mut Member,
    mut done: impl FnMut(&mut Member, &mut Member) -> bool,
) {
    let clock = SystemClock::new();
    while !done(one, other) {
        let waited = clock.monotonic_ms();
        assert!(waited < limit.as_millis() as i64, "waited in vain for {what}:\n{}\n{}", one.state(), other.state());
        one.poll();
        other.poll();
    }
}

/// The smallest exactly-once archiver: what it read since its last commit counts only with the next one.
pub(crate) struct Archiver {
    pub(crate) member: Member,
    pub(crate) archived: Vec<(i32, i64)>,
}

impl Archiver {
    pub(crate) fn join(config: KafkaConfig, wanted: Wanted) -> Self {
        Self { member: Member::join(config, wanted), archived: Vec::new() }
    }

    pub(crate) fn step(&mut self) {
        self.member.poll();
        for held in self.member.held() {
            let read = self.member.log.offsets(&held.partition);
            if read.is_empty() || (read.len() < 200 && self.member.end(&held.partition).is_none()) {
                continue;
            }
            let end = self.member.next(&held.partition);
            match block_on(self.member.coordinator.commit(held.clone(), end, format!("to {end}"))) {
                Ok(()) => {
                    self.archived.extend(read.into_iter().map(|at| (held.partition.partition, at)));
                    self.member.log.offsets.remove(&held.partition);
                }
                Err(error) => eprintln!("commit of {} at {end}: {error}", held.partition),
            }
        }
        assert_eq!(self.member.log.faults, Vec::<String>::new());
    }

    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let clock = SystemClock::new();
        while !done(self) {
            let waited = clock.monotonic_ms();
            let state = (self.archived.len(), self.member.state());
            assert!(waited < DEADLINE.as_millis() as i64, "waited in vain for {what}: {state:?}");
            self.step();
        }
    }
}

pub(crate) fn archivers_until(
    what: &str,
    one: &mut Archiver,
    other: &mut Archiver,
    mut done: impl FnMut(&mut Archiver, &mut Archiver) -> bool,
) {
    let clock = SystemClock::new();
    while !done(one, other) {
        let waited = clock.monotonic_ms();
        let states = (one.member.state(), other.member.state());
        assert!(waited < DEADLINE.as_millis() as i64, "waited in vain for {what}: {states:?}");
        one.step();
        other.step();
    }
}

/// What is missing and what is double, shortened.
pub(crate) fn difference(found: &[(i32, i64)], expected: &[(i32, i64)]) -> String {
    let seen: BTreeSet<_> = found.iter().collect();
    let missing: Vec<_> = expected.iter().filter(|one| !seen.contains(one)).take(10).collect();
    let double: Vec<_> = found.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).take(10).collect();
    format!("{} instead of {}; missing {missing:?}, double {double:?}", found.len(), expected.len())
}

/// Records of every shape.
pub(crate) fn shapes() -> Vec<OwnedRecord> {
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    let plain = OwnedRecord { timestamp: Some(1_763_712_000_123), ..OwnedRecord::default() };
    vec![
        OwnedRecord { key: bytes("k"), value: bytes("v"), ..plain.clone() },
        OwnedRecord { key: bytes("k"), value: None, ..plain.clone() },
        OwnedRecord { key: None, value: bytes("no key"), ..plain.clone() },
        OwnedRecord { key: bytes(""), value: bytes(""), ..plain.clone() },
        OwnedRecord { value: Some(vec![0, 255, 10, 13]), timestamp: Some(1), ..plain.clone() },
        OwnedRecord {
            value: bytes("headers"),
            headers: vec![
                ("a".into(), bytes("1")),
                ("a".into(), bytes("2")),
                ("null".into(), None),
                ("empty".into(), bytes("")),
                ("ö".into(), Some(vec![255])),
            ],
            ..plain.clone()
        },
        OwnedRecord { value: Some(vec![b'x'; 900_000]), ..plain },
    ]
}
