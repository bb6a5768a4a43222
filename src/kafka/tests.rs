//! The seams over librdkafka's mock cluster: groups, commits and faults that a real broker gives only by luck.
//! Everything that the mock does not know (transactions, the metadata limit) is in `tests/kafka_parts.rs`.

use crate::clock::{Clock, SystemClock};
use crate::config::{GroupProtocol, Isolation, KafkaConfig, Secret, Start};
use crate::consume::{CommitError, Coordinator, Held, Source, SourceSink};
use crate::kafka::producing::{JobTarget, Transactions};
use crate::kafka::{KafkaCoordinator, KafkaSource, Wanted, connect};
use crate::record::{OwnedRecord, Record, TopicPartition};
use crate::restore::target::{Handed, Target, Trouble};
use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A configuration with defaults.
pub(super) fn config(brokers: &str) -> KafkaConfig {
    KafkaConfig {
        brokers: brokers.to_string(),
        group: "siltstone-test".to_string(),
        start: Start::Earliest,
        isolation: Isolation::ReadCommitted,
        protocol: GroupProtocol::Classic,
        instance_id: None,
        revoke_grace: Duration::from_secs(5),
        client: BTreeMap::new(),
    }
}

const TOPIC: &str = "t";

#[derive(Default)]
struct Log {
    held: Vec<Held>,
    offsets: Vec<i64>,
    lost: Vec<TopicPartition>,
    troubles: Vec<String>,
    fatals: Vec<String>,
}

impl SourceSink for Log {
    fn record(&mut self, record: &Record<'_>) {
        self.offsets.push(record.offset);
    }
    fn end_of_partition(&mut self, _partition: &TopicPartition, _position: i64) {}
    fn assigned(&mut self, held: Vec<Held>) {
        self.held.extend(held);
    }
    fn revoked(&mut self, partitions: &[TopicPartition]) {
        self.held.retain(|held| !partitions.contains(&held.partition));
    }
    fn lost(&mut self, partitions: &[TopicPartition]) {
        self.held.retain(|held| !partitions.contains(&held.partition));
        self.lost.extend_from_slice(partitions);
    }
    fn out_of_range(&mut self, partition: &TopicPartition, _log_start: Option<i64>) {
        self.troubles.push(format!("{partition} out of range"));
    }
    fn trouble(&mut self, what: String) {
        self.troubles.push(what);
    }
    fn fatal(&mut self, what: String) {
        self.fatals.push(what);
    }
}

/// A mock cluster with ten records in one partition, and a member that holds it.
struct Bench {
    cluster: MockCluster<'static, DefaultProducerContext>,
    source: KafkaSource,
    coordinator: Arc<KafkaCoordinator>,
    log: Log,
}

impl Bench {
    fn new() -> Self {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic(TOPIC, 1, 1).expect("a topic");
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a producer");
        for _ in 0..10 {
            let record = BaseRecord::<(), str>::to(TOPIC).partition(0).payload("x");
            producer.send(record).map_err(|(error, _)| error).expect("queued");
        }
        producer.flush(Duration::from_secs(30)).expect("delivered");
        let wanted = Wanted { names: vec![TOPIC.to_string()], matches: Box::new(|_| false) };
        let mut config = config(&brokers);
        // The mock puts nobody out by itself: a member that believes so is forgotten only after this time.
        config.client.insert("session.timeout.ms".to_string(), Secret::new("6000"));
        let (source, coordinator) = connect(&config, 64 << 20, wanted).expect("a source");
        let mut bench = Self { cluster, source, coordinator, log: Log::default() };
        bench.until("the partition", |bench| !bench.log.held.is_empty());
        bench
    }

    fn held(&self) -> Held {
        self.log.held[0].clone()
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let clock = SystemClock::new();
        while !done(self) {
            let Log { held, offsets, lost, troubles, fatals } = &self.log;
            assert!(
                clock.monotonic_ms() < 60_000,
                "waited in vain for {what}: held {held:?} offsets {offsets:?} lost {lost:?} {troubles:?} {fatals:?}"
            );
            self.source.poll(Duration::from_millis(20), true, &mut self.log);
        }
    }

    /// Commits on another thread while the source is driven, as the pipeline does.
    fn commit(&mut self, held: &Held, offset: i64) -> Result<(), CommitError> {
        let (coordinator, held) = (self.coordinator.clone(), held.clone());
        let thread = std::thread::spawn(move || block_on(coordinator.commit(held, offset, "m".to_string())));
        self.until("an answer to the commit", |_| thread.is_finished());
        thread.join().expect("no panic")
    }

    /// The mock answers the next commits with these.
    fn refuse(&self, errors: &[RDKafkaRespErr]) {
        self.cluster.request_errors(RDKafkaApiKey::OffsetCommit, errors);
    }
}

/// Goal: a commit that is refused because the member's epoch moved is tried again while the partition stays.
#[test]
fn a_commit_in_a_moving_group_is_tried_again() {
    let mut bench = Bench::new();
    let held = bench.held();
    bench.refuse(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_STALE_MEMBER_EPOCH; 2]);
    assert_eq!(bench.commit(&held, 3), Ok(()));
    assert!(bench.coordinator.is_held(&held));
}

/// Goal: a generation that is refused outside a rebalance ends in a loss, and the commit is not sent again.
#[test]
fn an_old_generation_is_a_loss_and_is_not_sent_again() {
    let mut bench = Bench::new();
    let held = bench.held();
    bench.refuse(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION]);
    assert_eq!(bench.commit(&held, 3), Err(CommitError::NotHeld));
    bench.until("the loss", |bench| !bench.log.lost.is_empty());
    bench.until("the partition again", |bench| !bench.log.held.is_empty());
    assert_ne!(bench.held(), held);
}

/// Goal: a member that was put out knows it at once, holds nothing any more, and comes back as a new one by itself.
#[test]
fn a_member_that_was_put_out_comes_back() {
    let mut bench = Bench::new();
    let held = bench.held();
    bench.refuse(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    let refused = bench.commit(&held, 3);
    assert!(matches!(&refused, Err(CommitError::Fenced(text)) if text.starts_with("t/0 at 3: ")), "{refused:?}");
    assert!(!bench.coordinator.is_held(&held));
    bench.until("the loss", |bench| !bench.log.lost.is_empty());
    bench.until("the partition again", |bench| !bench.log.held.is_empty());
    let again = bench.held();
    assert_eq!(bench.commit(&again, 3), Ok(()));
}

/// Goal: an outcome nobody knows ends the right to commit at once, for every partition, until the caller joins again.
#[test]
fn after_an_unknown_outcome_nothing_is_sent_before_a_rejoin() {
    let mut bench = Bench::new();
    let held = bench.held();
    bench.refuse(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT; 8]);
    let unknown = bench.commit(&held, 3);
    assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
    bench.cluster.clear_request_errors(RDKafkaApiKey::OffsetCommit);
    assert_eq!(bench.commit(&held, 3), Err(CommitError::NotHeld));
    bench.source.rejoin();
    bench.until("the loss", |bench| !bench.log.lost.is_empty());
    bench.until("the partition again", |bench| !bench.log.held.is_empty());
    let again = bench.held();
    assert_eq!(bench.commit(&again, 4), Ok(()));
}

/// Goal: what is refused for its content or for rights says so and costs nothing else.
#[test]
fn a_commit_refused_for_rights_leaves_the_partition() {
    let mut bench = Bench::new();
    let held = bench.held();
    bench.refuse(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED]);
    let refused = bench.commit(&held, 3);
    assert!(
        matches!(&refused, Err(CommitError::Refused(text)) if text.contains("needs the right READ on the group")),
        "{refused:?}"
    );
    assert!(bench.coordinator.is_held(&held));
    assert_eq!(bench.commit(&held, 3), Ok(()));
}

/// Goal: a fetch that fails is reported, and reading goes on at the very same record.
#[test]
fn a_failed_fetch_is_reported_and_skips_nothing() {
    let mut bench = Bench::new();
    let held = bench.held();
    bench.cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_MSG; 2]);
    bench.source.start_at(&held, 0).expect("started");
    bench.until("the report", |bench| !bench.log.troubles.is_empty());
    bench.until("the records", |bench| bench.log.offsets.len() >= 10);
    assert_eq!(bench.log.offsets, Vec::from_iter(0..10));
}

/// Goal: a fenced static member is told that it can never go on, and holds nothing.
#[test]
fn a_fenced_instance_is_fatal() {
    let mut bench = Bench::new();
    let held = bench.held();
    bench.refuse(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
    let refused = bench.commit(&held, 3);
    assert!(matches!(refused, Err(CommitError::Fenced(_))), "{refused:?}");
    bench.until("the end", |bench| !bench.log.fatals.is_empty());
    assert!(bench.log.fatals[0].contains("instance_id"), "{:?}", bench.log.fatals);
    assert_eq!(bench.log.lost.len(), 1);
}

/// Goal: closing takes no longer than allowed, also when the brokers are gone.
#[test]
fn closing_without_brokers_keeps_its_deadline() {
    let mut bench = Bench::new();
    bench.cluster.broker_down(1).expect("down");
    let clock = SystemClock::new();
    bench.source.close(Duration::from_secs(2));
    assert!(clock.monotonic_ms() < 10_000, "took {} ms", clock.monotonic_ms());
    bench.until("the loss", |bench| !bench.log.lost.is_empty());
}

/// Goal: of a batch that a broker refuses the record is known, at the latest when each is a batch of its own; nothing of the transaction counts, and the
/// same job goes on.
#[test]
fn a_refused_record_is_told_by_its_number() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, 1, 1).expect("a topic");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let mut kafka = config(&cluster.bootstrap_servers());
    // Long enough for all of them to be in one batch.
    kafka.client.insert("linger.ms".to_string(), Secret::new("500"));
    let into =
        JobTarget { kafka: &kafka, topic: TOPIC, partitions: 1, job: "j", group: "g", message_bytes_max: Some(1_000) };
    let target = Transactions::new(&into).expect("a producer");
    let record = |value: usize| OwnedRecord { value: Some(vec![b'v'; value]), ..OwnedRecord::default() };
    let run = |errors: &[RDKafkaRespErr]| {
        assert_eq!(block_on(target.recover()), Ok(vec![]), "nothing is committed");
        target.begin().expect("begun");
        cluster.request_errors(RDKafkaApiKey::Produce, errors);
        for value in 1..=3 {
            assert_eq!(target.put(Some(0), &record(value)), Ok(Handed::Taken));
        }
        let ended = block_on(target.commit(vec![(0, 3, "m".to_string())]));
        cluster.clear_request_errors(RDKafkaApiKey::Produce);
        ended
    };
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    let taken = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    // All three are in one batch.
    assert!(matches!(run(&[refused]), Err(Trouble::Passing(why)) if why.contains("max.message.bytes of t")));
    let found = block_on(target.abort()).expect("aborted").expect("why");
    assert_eq!(found.number, None);
    assert!(matches!(run(&[taken, refused]), Err(Trouble::Passing(_))));
    let found = block_on(target.abort()).expect("aborted").expect("why");
    assert_eq!(found.number, Some(1));
    assert!(found.why.contains("raise max.message.bytes of t"), "{}", found.why);
    // The mock keeps no offsets of transactions, so that is all of it that it tells.
    assert_eq!(run(&[]), Ok(()));
}
