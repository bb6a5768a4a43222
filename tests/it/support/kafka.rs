//! Topics of the real broker, what was produced into them, and offsets of groups.

use super::{DEADLINE, setting, unique};
use futures::executor::block_on;
use rdkafka::Message as _;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// 2025-11-21T08:00:00Z: the Kafka timestamp of a record that says nothing else.
pub(crate) const BASE_MS: i64 = 1_763_712_000_000;

/// A record as it was produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its transaction was aborted: a reader of committed records never sees it.
    pub(crate) aborted: bool,
}

/// A record to be produced; everything but the value has a default.
#[derive(Clone, Default)]
pub(crate) struct Shape {
    pub(crate) partition: i32,
    pub(crate) timestamp: Option<i64>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Shape {
    pub(crate) fn of(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }
    pub(crate) fn tombstone(key: &str) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }
    pub(crate) fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
    pub(crate) fn header(mut self, name: &str, value: Option<&[u8]>) -> Self {
        self.headers.push((name.to_string(), value.map(<[u8]>::to_vec)));
        self
    }
    pub(crate) fn keyed(mut self, key: Option<&[u8]>) -> Self {
        self.key = key.map(<[u8]>::to_vec);
        self
    }
}

pub(crate) fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", setting("KAFKA_BROKERS")).create().expect("an admin client")
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)))
}

/// A topic, deleted at the end, that remembers all it was given.
pub(crate) struct Topic {
    pub(crate) name: String,
    producer: BaseProducer,
    log: Mutex<Log>,
}

/// What a topic was given.
#[derive(Default)]
struct Log {
    sent: Vec<Sent>,
    /// The next offset by partition: markers of transactions take one, too.
    ends: BTreeMap<i32, i64>,
}

impl Topic {
    pub(crate) fn create(partitions: i32) -> Self {
        Self::named(&unique("t"), partitions)
    }

    pub(crate) fn named(name: &str, partitions: i32) -> Self {
        Self::with(name, partitions, &[])
    }

    /// A topic of which Kafka soon keeps the newest record of each key alone.
    pub(crate) fn compacted(partitions: i32) -> Self {
        let settings = [
            ("cleanup.policy", "compact"),
            ("segment.ms", "100"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("max.compaction.lag.ms", "100"),
        ];
        Self::with(&unique("t"), partitions, &settings)
    }

    /// With these settings of the topic.
    pub(crate) fn with(name: &str, partitions: i32, settings: &[(&str, &str)]) -> Self {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("max.message.bytes", "8388608");
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let created = block_on(admin().create_topics([&topic], &options())).expect("an answer");
        created.into_iter().for_each(|one| drop(one.expect("created")));
        // The controller has answered; that the broker knows it too takes a moment.
        let asking = member("nobody");
        super::until("the broker shows the topic", DEADLINE, || {
            let known = asking.fetch_metadata(Some(name), DEADLINE).expect("metadata");
            let topic = known.topics().iter().find(|topic| topic.name() == name)?;
            let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0).count();
            (topic.error().is_none() && i32::try_from(led) == Ok(partitions)).then_some(())
        });
        let producer = ClientConfig::new()
            .set("bootstrap.servers", setting("KAFKA_BROKERS"))
            .set("enable.idempotence", "true")
            .set("message.max.bytes", "8388608")
            .set("topic.metadata.refresh.interval.ms", "1000")
            .create()
            .expect("a producer");
        Self { name: name.to_string(), producer, log: Mutex::default() }
    }

    /// One record.
    pub(crate) fn send(&self, shape: Shape) {
        self.send_by(&self.producer, shape, false);
    }

    fn send_by(&self, producer: &BaseProducer, shape: Shape, aborted: bool) {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &shape.headers {
            headers = headers.insert(Header { key, value: value.as_ref() });
        }
        let timestamp = shape.timestamp.unwrap_or(BASE_MS);
        let mut record =
            BaseRecord::<[u8], [u8]>::to(&self.name).partition(shape.partition).timestamp(timestamp).headers(headers);
        record.key = shape.key.as_deref();
        record.payload = shape.value.as_deref();
        while let Err((error, again)) = producer.send(record) {
            // A partition that was just added is known after the next look at the topic.
            let passing = [RDKafkaErrorCode::QueueFull, RDKafkaErrorCode::UnknownPartition];
            assert!(error.rdkafka_error_code().is_some_and(|code| passing.contains(&code)), "{error}");
            producer.poll(Duration::from_millis(20));
            record = again;
        }
        let mut log = self.log();
        let Shape { partition, key, value, headers, .. } = shape;
        let end = log.ends.entry(partition).or_default();
        let offset = *end;
        *end += 1;
        log.sent.push(Sent { partition, offset, timestamp, key, value, headers, aborted });
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no test panics inside")
    }

    /// One transaction, committed or aborted; its marker takes an offset in each partition that it wrote to.
    pub(crate) fn transaction(&self, shapes: impl IntoIterator<Item = Shape>, commit: bool) {
        self.transaction_with(shapes, commit, || {});
    }

    /// The same, with something to do while it is open and all of its records are in the log.
    pub(crate) fn transaction_with(
        &self,
        shapes: impl IntoIterator<Item = Shape>,
        commit: bool,
        while_open: impl FnOnce(),
    ) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", setting("KAFKA_BROKERS"))
            .set("transactional.id", unique("x"))
            .create()
            .expect("a producer");
        producer.init_transactions(DEADLINE).expect("a transactional id");
        producer.begin_transaction().expect("begun");
        let mut written = BTreeSet::new();
        for shape in shapes {
            written.insert(shape.partition);
            self.send_by(&producer, shape, !commit);
        }
        // An abort drops what was not sent yet.
        producer.flush(DEADLINE).expect("delivered");
        while_open();
        let ended = if commit { producer.commit_transaction(DEADLINE) } else { producer.abort_transaction(DEADLINE) };
        ended.expect("ended");
        let mut log = self.log();
        written.into_iter().for_each(|partition| *log.ends.entry(partition).or_default() += 1);
    }

    /// Another topic of that name.
    pub(crate) fn created_again(self) -> Self {
        let (name, partitions) = (self.name.clone(), 1);
        drop(self);
        super::until("the topic is gone", DEADLINE, || {
            let known = member("nobody").fetch_metadata(None, DEADLINE).expect("metadata");
            known.topics().iter().all(|topic| topic.name() != name).then_some(())
        });
        Self::named(&name, partitions)
    }

    pub(crate) fn flush(&self) {
        self.producer.flush(DEADLINE).expect("delivered");
    }

    pub(crate) fn send_all(&self, shapes: impl IntoIterator<Item = Shape>) {
        shapes.into_iter().for_each(|shape| self.send(shape));
        self.flush();
    }

    /// `count` good JSON records with ids from `first` on, a minute apart, over all `partitions`.
    pub(crate) fn send_good(&self, first: u64, count: u64, partitions: i32) {
        self.send_all(
            (first..first + count).map(|id| Shape { partition: (id % partitions as u64) as i32, ..good(id) }),
        );
    }

    /// What a reader of committed records sees.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.log().sent.iter().filter(|one| !one.aborted).cloned().collect()
    }

    /// Also what was aborted.
    pub(crate) fn written(&self) -> Vec<Sent> {
        self.log().sent.clone()
    }

    /// The end of each partition's log.
    pub(crate) fn ends(&self) -> BTreeMap<i64, i64> {
        self.log().ends.iter().map(|(&partition, &end)| (partition.into(), end)).collect()
    }

    pub(crate) fn count(&self) -> u64 {
        self.sent().len() as u64
    }

    /// Deletes all records below `offset`, as retention does.
    pub(crate) fn delete_to(&self, partition: i32, offset: i64) {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_offset(&self.name, partition, Offset::Offset(offset)).expect("an offset");
        let deleted = block_on(admin().delete_records(&wanted, &options())).expect("an answer");
        let deleted = deleted.find_partition(&self.name, partition).expect("the partition");
        deleted.error().expect("deleted");
        assert_eq!(deleted.offset(), Offset::Offset(offset), "where the log begins now");
    }

    /// The offsets of the records that Kafka still has of partition 0.
    pub(crate) fn kept(&self) -> Vec<i64> {
        let reader = member("nobody");
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&self.name, 0, Offset::Beginning).expect("an offset");
        reader.assign(&from).expect("assigned");
        let end = self.ends().get(&0).copied().unwrap_or_default();
        let mut kept = Vec::new();
        // The newest record is never compacted away.
        while kept.last().is_none_or(|&last: &i64| last + 1 < end) {
            let record = reader.poll(DEADLINE).expect("a record within the deadline").expect("a record");
            kept.push(record.offset());
        }
        kept
    }

    /// Its settings are these from now on, and the broker's own.
    pub(crate) fn set(&self, settings: &[(&str, &str)]) {
        let altered = settings
            .iter()
            .fold(AlterConfig::new(ResourceSpecifier::Topic(&self.name)), |all, (name, value)| all.set(name, value));
        let altering = async { admin().alter_configs([&altered], &AdminOptions::new()).await };
        let done = block_on(altering).expect("an answer");
        done[0].as_ref().expect("altered");
    }

    pub(crate) fn grow(&self, partitions: usize) {
        let grown = block_on(admin().create_partitions([&NewPartitions::new(&self.name, partitions)], &options()));
        grown.expect("an answer").into_iter().for_each(|one| drop(one.expect("grown")));
    }
}

/// A good record: `{"id":7,"time":…,"text":"…"}`, one minute after the one before, Kafka timestamp the same.
pub(crate) fn good(id: u64) -> Shape {
    let time = BASE_MS + (id % 240) as i64 * 60_000;
    Shape::of(format!(r#"{{"id":{id},"time":{time},"text":"record number {id}"}}"#)).at(time)
}

impl Drop for Topic {
    fn drop(&mut self) {
        // Only tidiness: a topic that stays disturbs nobody.
        drop(block_on(admin().delete_topics(&[&self.name], &options())));
    }
}

/// Forgets a group and all its offsets, as expiry does.
pub(crate) fn delete_group(group: &str) {
    super::until("the group can be deleted", DEADLINE, || {
        let deleted = block_on(admin().delete_groups(&[group], &options())).expect("an answer");
        deleted.into_iter().all(|one| one.is_ok()).then_some(())
    });
}

pub(super) fn member(group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", setting("KAFKA_BROKERS"))
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer")
}

/// What the group holds for a partition: offset and metadata.
pub(crate) fn committed(group: &str, topic: &Topic, partition: i32) -> Option<(i64, String)> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition(&topic.name, partition);
    // The group's coordinator may be about to be found, or made.
    let asking = member(group);
    let found = super::until("committed offsets are told", DEADLINE, || {
        asking.committed_offsets(wanted.clone(), Duration::from_secs(10)).ok()
    });
    let found = found.find_partition(&topic.name, partition).expect("the partition");
    match found.offset() {
        Offset::Offset(offset) => Some((offset, found.metadata().to_string())),
        _ => None,
    }
}

/// Commits as an operator or a dying process would, without being a member.
pub(crate) fn commit(group: &str, topic: &Topic, partition: i32, offset: i64, metadata: &str) {
    let mut wanted = TopicPartitionList::new();
    let mut place = wanted.add_partition(&topic.name, partition);
    place.set_offset(Offset::Offset(offset)).expect("an offset");
    place.set_metadata(metadata);
    member(group).commit(&wanted, CommitMode::Sync).expect("committed");
    assert_eq!(committed(group, topic, partition), Some((offset, metadata.to_string())));
}
