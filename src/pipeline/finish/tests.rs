//! Sealed batches, with a Kafka that says yes to everything and a store in memory.

use super::*;
use crate::clock::ManualClock;
use crate::config;
use crate::destination::{Destination, StoreKind};
use crate::ledger::testing::{compaction, finish as finish_compaction};
use crate::pipeline::context::Folding;
use crate::pipeline::schedule::{Schedule, Stretch};
use crate::pipeline::start::{Parts, prepare};
use crate::pipeline::takeover::scheduled::take_over;
use crate::pipeline::testing::Yes;
use crate::spool::Spool;
use crate::telemetry::health::Health;
use object_store::memory::InMemory;
use std::path::Path;

const CONFIG: &str = r#"
[kafka]
brokers = "nowhere:9092"
group = "g"
[spool]
dir = "/nowhere"
[destinations.a]
url = "s3://a"
[[archive]]
name = "main"
topics = ["t"]
[[archive.output]]
name = "lines"
format = { type = "json", compression = "none" }
layout = { path = "{topic}/hr=%H", zone = "UTC" }
"#;

/// A process that holds partition 0 of `t`, and carries out a schedule.
struct Trial {
    context: Arc<Context>,
    kafka: Arc<Yes>,
    held: Held,
    spool: Spool,
    _folder: tempfile::TempDir,
}

impl Trial {
    async fn of(schedule: Schedule) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config::parse(CONFIG, Path::new(""), &|_| None);
        let config = config.unwrap_or_else(|errors| panic!("the test's own configuration: {errors}"));
        let memory = Destination::from_store("a", "s3://a", Arc::new(InMemory::new()), StoreKind::Memory);
        let kafka = Arc::new(Yes::default());
        let parts = Parts {
            coordinator: kafka.clone(),
            clock: Arc::new(ManualClock::at(1_763_712_000_000)),
            destinations: BTreeMap::from([("s3://a".to_string(), Arc::new(memory))]),
            topics: BTreeMap::from([("t".to_string(), 1)]),
            health: Health::new(),
            resume_from_receipts: false,
            folding: Folding::default(),
            schedule: Some(schedule),
            owner: None,
            process: 1,
        };
        let context = prepare(&config, parts).await.unwrap_or_else(|failure| panic!("{failure:?}"));
        let spool = Spool::open(&folder.path().join("spool"), 1 << 30, 1).expect("a spool");
        let held = Held { partition: TopicPartition::new("t", 0), assignment: 1 };
        Self { context, kafka, held, spool, _folder: folder }
    }

    /// A new batch of the job in which every record was dropped: it has no objects.
    fn batch(&mut self, first: i64, end: i64) -> SealedBatch {
        let archive = self.context.archives[0].compiled.get().expect("nothing is inferred").clone();
        SealedBatch {
            held: self.held.clone(),
            range: OffsetRange::new(first, end),
            reason: SealReason::EndOfRange,
            balance: Balance::new(archive.outputs.len()),
            parts: Vec::new(),
            watermark_ms: None,
            watermark_before_ms: None,
            previous_first: None,
            topic_id: None,
            earlier: None,
            content_encoding: false,
            unknown_schemas: BTreeSet::new(),
            dir: self.spool.batch_dir().expect("a folder"),
            archive,
        }
    }

    /// What the job has to archive next, and from where on; or why it stops.
    async fn taken_over(&self) -> Result<(i64, Option<Stretch>), Halt> {
        let (archive, schedule) = (&self.context.archives[0], self.context.schedule.as_ref().expect("it has one"));
        let taken = take_over(&self.context, archive, schedule, &self.held, None).await?;
        Ok((taken.first, taken.stretch))
    }

    fn commits(&self) -> Vec<i64> {
        self.kafka.commits.lock().expect("no test panics with it").clone()
    }
}

/// Goal: rows that a compactor takes in while a job is under way are not archived beside its object (E-8): the job stops before the plan, as whoever takes it
/// over does, and says how to go on. Method: a compaction of the second of three pieces is finished once the job is taken over.
#[tokio::test]
async fn a_compaction_that_comes_under_a_job_stops_its_next_plan() {
    let partition = TopicPartition::new("t", 0);
    let schedule = Schedule::new([(partition.clone(), OffsetRange::new(0, 300))], 100, None).of_job("older");
    let mut trial = Trial::of(schedule).await;
    assert_eq!(trial.taken_over().await, Ok((0, Some(Stretch { end: 300, chunk: 100 }))));
    let bucket = trial.context.archives[0].bucket.clone();
    finish_compaction(&bucket, &compaction('a', 1, &[("x/0", 100, 150), ("x/1", 150, 200)], "x/c1")).await;
    let (beside, held) = (trial.batch(0, 100), trial.batch(100, 200));
    assert!(matches!(finish(&trial.context, beside).await, Ok(Finish::Committed)), "it shares no offset with it");
    let before = trial.commits();
    let stopped = [finish(&trial.context, held).await.err(), trial.taken_over().await.err()];
    for stopped in &stopped {
        let Some(Halt::Stop(why)) = stopped else { panic!("{stopped:?}") };
        for said in [
            "x/c1 holds rows of the batch [100, 150)",
            "siltstone compact --undo aaaa",
            "siltstone backfill --topic t --job older --cancel",
            "--to-offset 100 and --from-offset 150",
        ] {
            assert!(why.contains(said), "{said}: {why}");
        }
    }
    // What the takeover commits leads along what is archived.
    assert_eq!((before, trial.commits()[3..].to_vec()), (vec![0, 0, 100], vec![0, 100]), "no plan");
    assert_eq!(bucket.entry_at(&partition, 100).await.expect("it answers"), None, "and no claim");
}
