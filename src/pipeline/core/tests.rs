//! The core alone, with a Kafka that says yes to everything: what it opens and what it lets go.

use super::*;
use crate::clock::ManualClock;
use crate::config;
use crate::destination::{Destination, StoreKind};
use crate::effect::Effect;
use crate::hook::{Caller, Hook, HookFailure};
use crate::pipeline::context::Folding;
use crate::pipeline::partition::{Phase, Telling};
use crate::pipeline::schedule::Schedule;
use crate::pipeline::start::{Parts, prepare};
use crate::pipeline::testing::Yes;
use crate::record::{OffsetRange, OwnedRecord};
use crate::telemetry::health::Health;
use object_store::memory::InMemory;
use std::path::Path;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONFIG: &str = r#"
[kafka]
brokers = "nowhere:9092"
group = "g"
[spool]
dir = "/nowhere"
[registry]
url = "http://127.0.0.1:1"
[destinations.a]
url = "s3://a"
[[archive]]
name = "main"
topics = ["t"]
decode = { type = "avro", registry = true }
[archive.dead_letters]
destination = "a"
[[archive.output]]
name = "lines"
format = { type = "json", compression = "none" }
layout = { path = "{topic}/hr=%H", zone = "UTC" }
destination = "a"
"#;

/// A core that holds partition 0 of `t`, which has been archived up to offset 100, and reads on there.
struct Trial {
    core: Core,
    folder: TempDir,
    // Its tasks end with it, behind the core.
    runtime: Runtime,
}

/// A schema that the registry has said it has not.
const UNKNOWN: u32 = 9;

impl Trial {
    fn new() -> Self {
        Self::of(None)
    }

    fn of(schedule: Option<Schedule>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let config = config::parse(CONFIG, Path::new(""), &|_| None);
        let config = config.unwrap_or_else(|errors| panic!("the test's own configuration: {errors}"));
        let memory = Destination::from_store("a", "s3://a", Arc::new(InMemory::new()), StoreKind::Memory);
        let parts = Parts {
            coordinator: Arc::new(Yes::default()),
            clock: Arc::new(ManualClock::at(1_763_712_000_000)),
            destinations: BTreeMap::from([("s3://a".to_string(), Arc::new(memory))]),
            topics: BTreeMap::from([("t".to_string(), 1)]),
            health: Health::new(),
            resume_from_receipts: false,
            folding: Folding::default(),
            schedule,
            owner: None,
            process: 1,
        };
        let context = runtime.block_on(prepare(&config, parts)).unwrap_or_else(|failure| panic!("{failure:?}"));
        context.registry.as_ref().expect("it is configured").forget(UNKNOWN);
        let spool = Spool::open(&folder.path().join("spool"), 1 << 30, 1).expect("a spool");
        let pool = EncodePool::new(0, 1 << 20).expect("an encoder");
        let mut core = Core::new(context, spool, pool, runtime.handle().clone(), Arc::new(Status::default()));
        let held = Held { partition: TopicPartition { topic: "t".into(), partition: 0 }, assignment: 1 };
        let mut partition = Partition::new(held, 0);
        (partition.next, partition.read_from) = (100, 100);
        partition.phase = Phase::Running;
        core.partitions.push(partition);
        core.rebuild_index();
        Self { core, folder, runtime }
    }

    /// The spool folder is gone, and a file lies in its place.
    fn break_spool(&self) {
        let path = self.folder.path().join("spool");
        std::fs::remove_dir_all(&path).expect("the spool");
        std::fs::write(&path, "").expect("a file");
    }

    fn mend_spool(&self) {
        std::fs::remove_file(self.folder.path().join("spool")).expect("the file");
    }

    fn partition(&mut self) -> &mut Partition {
        &mut self.core.partitions[0]
    }
}

fn record_of(schema: u32, offset: i64) -> OwnedRecord {
    let value = [&[0][..], &schema.to_be_bytes(), &[2]].concat();
    OwnedRecord {
        topic: "t".to_string(),
        offset,
        timestamp: Some(1_763_712_000_000),
        value: Some(value),
        ..OwnedRecord::default()
    }
}

/// Goal: a record whose id is noted in a batch that cannot be opened is let go: what `reset` left behind is no offset to begin
/// a batch with, not even where the spool is back a moment later.
#[test]
fn a_failed_spool_lets_the_record_go_that_was_looked_at() {
    let mut trial = Trial::new();
    let record = record_of(UNKNOWN, 100);
    trial.break_spool();
    assert!(!trial.core.is_readable(0, &record.as_record()));
    assert!(matches!(trial.partition().phase, Phase::Waiting { .. }), "{:?}", trial.partition().phase);
    trial.mend_spool();
    trial.core.append(0, &record.as_record());
    assert!(!trial.core.ensure_open(0) && trial.partition().open.is_none());
    // Taken over again, it begins where it was.
    (trial.partition().next, trial.partition().phase) = (100, Phase::Running);
    crate::consume::SourceSink::record(&mut trial.core, &record.as_record());
    let open = trial.partition().open.as_ref().map(|open| (open.first, open.balance.consumed));
    assert_eq!(open, Some((100, 1)));
}

/// Goal: a partition that a person must look at is not started again by what it waited for when it was stopped.
#[test]
fn a_batch_that_cannot_be_sealed_before_another_schema_stops_its_partition() {
    let mut trial = Trial::new();
    assert!(trial.core.ensure_open(0));
    let open = trial.partition().open.as_mut().expect("it was just opened");
    open.balance.consumed += 1;
    trial.partition().phase = Phase::AwaitingSchema { sampled_from: None, asking: None, since_ms: 0 };
    trial.partition().ends = true;
    trial.core.go_on_with_schema(0);
    let phase = &trial.partition().phase;
    assert!(matches!(phase, Phase::Stopped(reason) if reason.contains("the balance")), "{phase:?}");
}

/// Goal: nobody asks a registry that is out of reach for what is not waited for any more.
#[test]
fn a_partition_that_is_taken_over_again_asks_no_more() {
    let mut trial = Trial::new();
    assert!(!trial.core.is_readable(0, &record_of(UNKNOWN + 1, 100).as_record()));
    let asks = trial.partition().question.as_ref().expect("it asks").0.abort_handle();
    trial.runtime.block_on(tokio::task::yield_now());
    assert!(!asks.is_finished());
    trial.core.take_over_again(0);
    let ended = async {
        while !asks.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    let ended = trial.runtime.block_on(async { tokio::time::timeout(std::time::Duration::from_secs(10), ended).await });
    ended.expect("the question ended with the wait");
}

/// Goal: records of a batch that were read stay, though Kafka holds them no more, and those are not declared absent that objects hold without a receipt.
/// Method: of a job for [100, 400) in pieces of a hundred offsets, 50 were read when the log turns out to begin at `start`.
#[test]
fn what_was_read_is_archived_before_a_gap_that_may_not_be_absent() {
    let partition = TopicPartition::new("t", 0);
    let range = |first, end| [(partition.clone(), OffsetRange::new(first, end))];
    // Kept offsets, whether all of [100, 200) is one batch, and the log's beginning; then what is sealed and how far the job's stretch goes.
    for (kept, is_batch, start, sealed, stretch) in [
        ((170, 175), false, 180, Some((100, 150)), 400),
        ((170, 175), false, 500, Some((100, 150)), 400),
        ((210, 220), false, 250, Some((100, 200)), 200),
        ((390, 400), false, 380, Some((100, 200)), 400),
        ((170, 175), true, 180, None, 0),
    ] {
        let schedule = match is_batch {
            true => Schedule::with_batches([], range(100, 200), 100, None),
            false => Schedule::new(range(100, 400), 100, None),
        };
        let mut trial = Trial::of(Some(schedule.never_absent(range(kept.0, kept.1))));
        let held = trial.partition().held.clone();
        trial.partition().stretch =
            trial.core.context.schedule.as_ref().and_then(|schedule| schedule.stretch(&partition, 100));
        assert!(trial.core.ensure_open(0));
        (trial.partition().next, trial.partition().phase) = (150, Phase::OutOfRange);
        trial.core.bounds_known(&held, Ok(LogBounds { start, end: 1_000, readable_end: 1_000 }));
        let now = trial.partition();
        let found = now.sealed.as_ref().map(|sealed| (sealed.first, sealed.end));
        assert_eq!((found, now.stretch.map_or(0, |stretch| stretch.end)), (sealed, stretch), "{kept:?} {start}");
        assert!(sealed.is_some() || matches!(now.phase, Phase::Waiting { .. }), "{:?}", now.phase);
    }
}

/// Notes the first offsets of the batches that it is told of.
#[derive(Debug, Default)]
struct Noted(Arc<std::sync::Mutex<Vec<i64>>>);

#[async_trait::async_trait]
impl Caller for Noted {
    fn effect(&self) -> Effect {
        Effect::HookCommand
    }
    fn shown(&self) -> String {
        "note".to_string()
    }
    async fn call(&self, _: &str, body: &str) -> Result<(), HookFailure> {
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        self.0.lock().expect("no panic").push(body["receipt"]["first"].as_i64().expect("an offset"));
        Ok(())
    }
}

/// Goal: hooks are told soon after a commit, by one task at a time, which goes on where it is when the partition is taken over again; and not while nobody knows
/// what is committed.
#[test]
fn hooks_are_told_of_what_is_committed() {
    let mut trial = Trial::new();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let caller = Box::new(Noted(told.clone()));
    let hook = Hook::new(("main", "h"), (true, false), std::time::Duration::from_secs(30), caller);
    trial.partition().telling = vec![Telling::new(Arc::new(hook), 100)];
    for first in [90, 100, 110] {
        let receipt = format!(
            r#"{{"version":1,"topic":"t","partition":0,"first":{first},"end":{},"cluster_id":"c","archive":"main","generation":1,
            "fingerprint":"f","writer":"0","reason":"age","balance":{{"consumed":0,"outputs":{{}}}},"objects":[]}}"#,
            first + 10
        );
        let receipt: crate::bucket::receipt::Receipt = serde_json::from_str(&receipt).expect("a receipt");
        let bucket = trial.core.context.archives[0].bucket.clone();
        trial.runtime.block_on(bucket.put_receipt(&receipt, None)).expect("vouched for");
    }
    let mut now_ms = 0;
    let mut turn = |trial: &mut Trial, committed: Option<i64>| {
        now_ms += 5_000;
        trial.partition().committed = committed;
        trial.core.start_telling(now_ms);
        let began = trial.partition().telling[0].is_running;
        // A second one does not begin beside it.
        trial.core.start_telling(now_ms);
        trial.runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(200)).await });
        trial.core.drain_completions();
        assert!(!trial.partition().telling[0].is_running);
        (began, told.lock().expect("no panic").clone())
    };
    assert_eq!(turn(&mut trial, None), (false, vec![]));
    assert_eq!(turn(&mut trial, Some(100)), (true, vec![]));
    assert_eq!(turn(&mut trial, Some(100)), (false, vec![]), "nothing is new");
    assert_eq!(turn(&mut trial, Some(110)), (true, vec![100]));
    trial.core.take_over_again(0);
    assert_eq!(turn(&mut trial, Some(120)), (false, vec![100]));
    trial.partition().phase = Phase::Running;
    assert_eq!(turn(&mut trial, Some(120)), (true, vec![100, 110]));
    trial.core.shutting_down = true;
    assert!(!turn(&mut trial, Some(130)).0);
}
