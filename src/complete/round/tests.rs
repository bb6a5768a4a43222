//! Rounds over a store in memory and a Kafka that says what it is told.

use super::*;
use crate::batch::metadata::{OffsetMetadata, OffsetState};
use crate::bucket::receipt::{Balance, RECEIPT_VERSION};
use crate::clock::ManualClock;
use crate::config;
use crate::consume::{CommitError, Committed, CommittedOffsets, Held, LogBounds, PlannedGuard};
use crate::destination::stepped::{StepIn, Stepped, Within};
use crate::destination::{Destination, StoreKind};
use crate::layout::Layout;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutOptions, PutPayload, PutResult};
use proptest::prelude::*;
use sha2::Digest;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const CONFIG: &str = r#"
[kafka]
brokers = "nowhere:9092"
group = "g"
[destinations.a]
url = "s3://a"
[[archive]]
name = "main"
topics = ["t"]
[archive.complete]
[[archive.output]]
name = "lines"
format = { type = "json", compression = "none" }
layout = { path = "{topic}/hr=%Y%m%d%H", zone = "UTC" }
"#;

const HOUR_MS: i64 = 3_600_000;
const START_MS: i64 = 490_000 * HOUR_MS;
const RULES: Rules = Rules { allowed_lateness_ms: 60_000, idle_grace_ms: 30_000 };
const NUMBERS: i32 = 3;

/// What the group has committed, and where the log ends.
#[derive(Clone)]
struct Told {
    offset: i64,
    watermark_ms: Option<i64>,
    plan: bool,
    end: i64,
}

struct Kafka(Mutex<BTreeMap<i32, Told>>);

impl Coordinator for Kafka {
    fn commit(&self, _: Held, _: i64, _: String) -> BoxFuture<'_, Result<(), CommitError>> {
        async { Err(CommitError::NotHeld) }.boxed()
    }
    fn committed(&self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<CommittedOffsets, String>> {
        let told = self.0.lock().expect("no panic");
        let of = |partition: TopicPartition| {
            let committed = told.get(&partition.partition).map(|told| {
                let state = match told.plan {
                    true => OffsetState::Plan { end: told.end, fingerprint: "f".into(), schemas: None, spool_bytes: 1 },
                    false => OffsetState::Done,
                };
                let mut metadata = OffsetMetadata::new(state, 1);
                metadata.watermark_ms = told.watermark_ms;
                Committed { offset: told.offset, metadata: metadata.encode() }
            });
            (partition, committed)
        };
        let answer = partitions.into_iter().map(of).collect();
        async { Ok(answer) }.boxed()
    }
    fn log_bounds(&self, partition: TopicPartition) -> BoxFuture<'_, Result<LogBounds, String>> {
        let end = self.0.lock().expect("no panic").get(&partition.partition).map_or(0, |told| told.end);
        async move { Ok(LogBounds { start: 0, end, readable_end: end }) }.boxed()
    }
    fn offset_at_time(&self, _: TopicPartition, _: i64) -> BoxFuture<'_, Result<Option<i64>, String>> {
        async { Ok(None) }.boxed()
    }
    fn cluster_id(&self) -> BoxFuture<'_, Result<String, String>> {
        async { Ok("c".to_string()) }.boxed()
    }
    fn topic_id(&self, _: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        async { Ok(None) }.boxed()
    }
    fn partitions(&self, _: &str) -> BoxFuture<'_, Result<i32, String>> {
        async { Ok(NUMBERS) }.boxed()
    }
    fn planned(&self, _: &Held) -> PlannedGuard {
        PlannedGuard::new(|| {})
    }
    fn is_held(&self, _: &Held) -> bool {
        true
    }
}

struct World {
    store: Arc<InMemory>,
    destinations: Destinations,
    bucket: Bucket,
    layout: Layout,
    /// Of the layout that batches are archived with.
    fingerprint: String,
    kafka: Kafka,
    clock: ManualClock,
    /// Rows by folder, of all that was archived.
    truth: BTreeMap<String, u64>,
    revise_after_ms: i64,
    loaders: Vec<Setup>,
    parts_max: usize,
}

impl World {
    async fn new() -> Self {
        let config = config::parse(CONFIG, Path::new(""), &|_| None);
        let config = config.unwrap_or_else(|errors| panic!("the test's own configuration: {errors}"));
        let layout = config.archives[0].layout.clone();
        let store = Arc::new(InMemory::new());
        let destination = Arc::new(Destination::from_store("a", "s3://a", store.clone(), StoreKind::Memory));
        let bucket = Bucket::new(destination.clone());
        bucket.put_layout(&layout).await.expect("stored");
        let start = Told { offset: 0, watermark_ms: None, plan: false, end: 0 };
        let told = (0..NUMBERS).map(|number| (number, start.clone())).collect();
        Self {
            store,
            destinations: BTreeMap::from([("s3://a".to_string(), destination)]),
            bucket,
            fingerprint: layout.fingerprint(),
            layout,
            kafka: Kafka(Mutex::new(told)),
            clock: ManualClock::at(START_MS),
            truth: BTreeMap::new(),
            revise_after_ms: 0,
            loaders: Vec::new(),
            parts_max: usize::MAX,
        }
    }

    fn tell(&self, number: i32, change: impl FnOnce(&mut Told)) {
        change(self.kafka.0.lock().expect("no panic").get_mut(&number).expect("a partition"));
    }

    fn told(&self, number: i32) -> Told {
        self.kafka.0.lock().expect("no panic")[&number].clone()
    }

    /// Archives a batch of `number` with `rows` rows in each of the hours, and commits it.
    async fn archive(&mut self, number: i32, hours: &[i64], rows: u64) {
        self.archive_at("s3://a", number, hours, rows).await;
    }

    async fn archive_at(&mut self, destination: &str, number: i32, hours: &[i64], rows: u64) {
        let Told { offset: first, watermark_ms, .. } = self.told(number);
        let end = first + rows as i64 * hours.len() as i64;
        let mut objects = Vec::new();
        for hour in hours {
            let at_ms = START_MS + hour * HOUR_MS + 1_000;
            let folder = folder_of(*hour);
            *self.truth.entry(folder.clone()).or_default() += rows;
            objects.push(ReceiptObject {
                output: "lines".into(),
                destination: destination.into(),
                key: format!("{folder}/t+{number}+{first}-{end}.json"),
                folder,
                records: Some(rows),
                rows: Some(rows),
                bytes: rows,
                sha256: None,
                event_min_ms: Some(at_ms),
                event_max_ms: Some(at_ms + 1),
                kept: None,
            });
        }
        let newest = hours.iter().max().map(|hour| START_MS + hour * HOUR_MS + 1_001);
        let watermark_ms = watermark_ms.max(newest);
        let receipt = Receipt {
            version: RECEIPT_VERSION,
            topic: "t".into(),
            partition: number,
            first,
            end,
            topic_id: None,
            cluster_id: "c".into(),
            archive: "main".into(),
            generation: 1,
            fingerprint: self.fingerprint.clone(),
            writer: "0".into(),
            schemas: BTreeMap::new(),
            target: None,
            reason: "age".into(),
            watermark_ms,
            balance: Balance::default(),
            objects,
            lost: Vec::new(),
            written_ms: None,
        };
        self.bucket.put_receipt(&receipt, None).await.expect("vouched for");
        self.tell(number, |told| {
            *told = Told { offset: end, watermark_ms, plan: false, end: told.end.max(end) };
        });
    }

    async fn round(&self, completer: &mut Completer) -> Outcome {
        self.round_of(completer, usize::MAX).await.expect("nothing fails")
    }

    /// Rounds until all is looked at; where there is no room they may say so.
    async fn rounds(&self, completer: &mut Completer) -> Outcome {
        for _ in 0..1_000 {
            match self.round_of(completer, usize::MAX).await {
                Ok(outcome) if !outcome.has_more => return outcome,
                Ok(_) => {}
                Err(failure) => assert!(failure.message.contains("are to be kept in memory"), "{}", failure.message),
            }
        }
        panic!("it gets nowhere");
    }

    /// A round that ends at its `writes`th look whether it goes on.
    async fn round_of(&self, completer: &mut Completer, writes: usize) -> Result<Outcome, Failure> {
        let left = AtomicUsize::new(writes);
        let goes_on = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let (outcome, failure) = completer.round(&self.seams(&goes_on)).await;
        failure.map_or(Ok(outcome), Err)
    }

    fn seams<'a>(&'a self, goes_on: &'a (dyn Fn() -> bool + Sync)) -> Seams<'a> {
        Seams {
            bucket: &self.bucket,
            destinations: &self.destinations,
            coordinator: &self.kafka,
            clock: &self.clock,
            goes_on,
            archive: "main",
            topic: "t",
            rules: RULES,
            marker: "_SUCCESS",
            revise_after_ms: self.revise_after_ms,
            loaders: &self.loaders,
            parts_max: self.parts_max,
        }
    }

    async fn newest(&self, folder: &str) -> Option<Completed> {
        let id = FolderId { output: "lines".into(), destination: "s3://a".into(), folder: folder.into() };
        self.bucket.completed("t", &id).await.expect("readable")
    }

    async fn marker(&self, folder: &str) -> Option<Completed> {
        let path = StorePath::from(format!("{folder}/_SUCCESS"));
        let bytes = self.store.get(&path).await.ok()?.bytes().await.expect("bytes");
        Some(serde_json::from_slice(&bytes).expect("a marker of ours"))
    }

    async fn bytes(&self, key: &str) -> Option<bytes::Bytes> {
        Some(self.store.get(&StorePath::from(key)).await.ok()?.bytes().await.expect("bytes"))
    }

    /// Every revision of every folder, in order of folder and revision.
    async fn revisions(&self) -> Vec<Completed> {
        let prefix = StorePath::from("_siltstone/complete/v1/t");
        let listed: Vec<_> = self.store.list(Some(&prefix)).try_collect().await.expect("listed");
        let mut revisions: Vec<Completed> = Vec::new();
        for meta in listed.iter().filter(|meta| meta.location.filename() != Some("progress.json")) {
            let bytes = self.store.get(&meta.location).await.expect("there").bytes().await.expect("bytes");
            revisions.push(serde_json::from_slice(&bytes).expect("a revision"));
        }
        revisions.sort_by(|one, other| (&one.id, one.revision).cmp(&(&other.id, other.revision)));
        revisions
    }
}

fn folder_of(hour: i64) -> String {
    let at = chrono::DateTime::from_timestamp_millis(START_MS + hour * HOUR_MS).expect("a time");
    format!("t/hr={}", at.format("%Y%m%d%H"))
}

/// Goal: an hour is complete when every Kafka partition is past it, and not before; one that is idle holds it back for the grace alone.
#[tokio::test]
async fn an_hour_is_complete_when_all_partitions_are_past_it() {
    let mut world = World::new().await;
    let mut completer = Completer::default();
    for number in 0..NUMBERS {
        world.archive(number, &[0], 5).await;
    }
    assert_eq!(
        world.round(&mut completer).await,
        Outcome { open: 1, horizon_ms: Some(START_MS - 58_999), ..Outcome::default() }
    );
    world.archive(0, &[1], 5).await;
    world.archive(1, &[0, 1], 5).await;
    world.clock.advance(HOUR_MS + RULES.allowed_lateness_ms + RULES.idle_grace_ms - 1);
    // Partitions 0 and 1 are one second into the next hour, which is less than the lateness.
    assert_eq!(world.round(&mut completer).await.completed, 0);
    world.clock.advance(1);
    assert_eq!(world.round(&mut completer).await.completed, 1, "all are idle for long enough");
    let complete = world.newest(&folder_of(0)).await.expect("complete");
    assert_eq!((complete.rows, complete.objects, complete.revision), (20, 4, 1));
    assert_eq!(complete.covers(1), Some(Covered { first: 0, end: 15 }));
    assert_eq!(complete.window_end_ms, START_MS + HOUR_MS);
    assert_eq!(world.marker(&folder_of(0)).await, Some(complete));
    // The next hour: one partition has more to read.
    world.tell(2, |told| told.end += 1);
    world.clock.advance(2 * HOUR_MS);
    let outcome = world.round(&mut completer).await;
    assert_eq!((outcome.completed, outcome.open), (0, 1));
    // It has a plan: where its log ends says nothing.
    world.tell(2, |told| (told.plan, told.end) = (true, told.end - 1));
    assert_eq!(world.round(&mut completer).await.completed, 0);
    world.tell(2, |told| told.plan = false);
    assert_eq!(world.round(&mut completer).await.completed, 1);
}

/// Goal: a record of the far future, which moves no watermark, completes nothing, and its own hour stays open.
#[tokio::test]
async fn a_record_of_2099_completes_nothing() {
    let mut world = World::new().await;
    for number in 0..NUMBERS {
        world.archive(number, &[0], 5).await;
    }
    let far = (chrono::DateTime::parse_from_rfc3339("2099-01-01T00:00:00Z").expect("a time").timestamp_millis()
        - START_MS)
        / HOUR_MS;
    let Told { watermark_ms, .. } = world.told(0);
    world.archive(0, &[far], 1).await;
    world.tell(0, |told| told.watermark_ms = watermark_ms);
    let mut completer = Completer::default();
    let outcome = world.round(&mut completer).await;
    assert_eq!((outcome.completed, outcome.open), (0, 2));
    world.clock.advance(10 * HOUR_MS);
    let outcome = world.round(&mut completer).await;
    assert_eq!((outcome.completed, outcome.open), (1, 1));
    assert_eq!(world.newest(&folder_of(far)).await, None);
}

/// Goal: a late record changes exactly one hour, whoever completes it, and the marker is replaced, never deleted.
#[tokio::test]
async fn late_data_makes_the_next_revision_of_one_hour() {
    let mut world = World::new().await;
    let (mut one, mut other) = (Completer::default(), Completer::default());
    for number in 0..NUMBERS {
        world.archive(number, &[0, 1, 2], 5).await;
    }
    world.clock.advance(10 * HOUR_MS);
    assert_eq!(world.round(&mut one).await.completed, 3);
    let before = world.marker(&folder_of(0)).await.expect("marked");
    world.archive(1, &[1], 2).await;
    let outcome = world.round(&mut other).await;
    assert_eq!((outcome.completed, outcome.revised, outcome.open), (0, 1, 0));
    let revised = world.newest(&folder_of(1)).await.expect("complete");
    assert_eq!((revised.revision, revised.rows), (2, 17));
    assert_eq!(world.marker(&folder_of(1)).await, Some(revised));
    assert_eq!(world.marker(&folder_of(0)).await, Some(before));
    // The first one has its own memory, and learns of it without a third revision.
    let outcome = world.round(&mut one).await;
    assert_eq!((outcome.completed, outcome.open), (0, 0));
    assert_eq!(world.revisions().await.len(), 4);
    assert_eq!(world.round(&mut Completer::default()).await.open, 0);
}

/// Goal: what is not known is never past, and is told.
#[tokio::test]
async fn a_foreign_commit_holds_everything_back() {
    let mut world = World::new().await;
    for number in 0..NUMBERS {
        world.archive(number, &[0], 5).await;
    }
    world.clock.advance(10 * HOUR_MS);
    let told = world.kafka.0.lock().expect("no panic").remove(&2);
    let mut completer = Completer::default();
    let outcome = world.round(&mut completer).await;
    assert_eq!((outcome.completed, outcome.horizon_ms), (0, None));
    world.kafka.0.lock().expect("no panic").extend(told.map(|told| (2, told)));
    assert_eq!(world.round(&mut completer).await.completed, 1);
}

/// Goal: a damaged progress, or one of long ago, costs reads and changes nothing; a marker of somebody else's is replaced, one of a later revision stays.
#[tokio::test]
async fn caches_and_foreign_markers_do_no_harm() {
    let mut world = World::new().await;
    let marker = StorePath::from(format!("{}/_SUCCESS", folder_of(0)));
    world.store.put(&marker, "".into()).await.expect("put");
    for number in 0..NUMBERS {
        world.archive(number, &[0, 1], 5).await;
    }
    world.clock.advance(10 * HOUR_MS);
    world.round(&mut Completer::default()).await;
    let revisions = world.revisions().await;
    assert_eq!(world.marker(&folder_of(0)).await.as_ref(), revisions.first());
    let progress = StorePath::from("_siltstone/complete/v1/t/progress.json");
    world.store.put(&progress, "{\"version\":1,".into()).await.expect("put");
    let outcome = world.round(&mut Completer::default()).await;
    assert_eq!(outcome.open, 0);
    assert_eq!(world.revisions().await, revisions);
    let newer = Completed { revision: 9, ..revisions[0].clone() };
    world.bucket.mark_complete(&newer, "_SUCCESS").await.expect("put");
    world.bucket.mark_complete(&revisions[0], "_SUCCESS").await.expect("left");
    assert_eq!(world.marker(&folder_of(0)).await.map(|marker| marker.revision), Some(9));
}

/// Goal: what trickles in late makes a revision now and then, and not one each round.
#[tokio::test]
async fn a_folder_is_not_completed_again_for_a_while() {
    let mut world = World::new().await;
    world.revise_after_ms = 300_000;
    let mut completer = Completer::default();
    for number in 0..NUMBERS {
        world.archive(number, &[0, 1], 5).await;
    }
    world.clock.advance(10 * HOUR_MS);
    world.round(&mut completer).await;
    for _ in 0..3 {
        world.archive(1, &[0], 2).await;
        assert_eq!(world.round(&mut completer).await.revised, 0);
        world.clock.advance(60_000);
    }
    world.clock.advance(120_000);
    assert_eq!(world.round(&mut completer).await.revised, 1);
    let revised = world.newest(&folder_of(0)).await.expect("complete");
    assert_eq!((revised.revision, revised.rows), (2, 21));
}

/// Goal: a marker says what one topic and output has in a folder; where two share it, neither is passed off for both. A later generation takes it over.
#[tokio::test]
async fn a_marker_is_of_one_topic_and_output() {
    let mut world = World::new().await;
    for number in 0..NUMBERS {
        world.archive(number, &[0], 5).await;
    }
    world.clock.advance(10 * HOUR_MS);
    world.round(&mut Completer::default()).await;
    let ours = world.marker(&folder_of(0)).await.expect("marked");
    let other = Completed { topic: "other".into(), revision: 9, ..ours.clone() };
    let refused = world.bucket.mark_complete(&other, "_SUCCESS").await.expect_err("another topic").to_string();
    assert!(refused.contains("topic other") && refused.contains("{topic}"), "{refused}");
    let again = Completed { generation: 2, ..ours.clone() };
    world.bucket.mark_complete(&again, "_SUCCESS").await.expect("put");
    world.bucket.mark_complete(&Completed { revision: 7, ..ours }, "_SUCCESS").await.expect("left");
    assert_eq!(world.marker(&folder_of(0)).await, Some(again));
}

/// Goal: a layout that is gone stops completion before anything is passed over; one of a later release is read as far as folders go.
#[tokio::test]
async fn objects_of_a_layout_that_cannot_be_read_are_never_passed_over() {
    let mut world = World::new().await;
    let key = StorePath::from(crate::bucket::layouts::layout_key(&world.layout.fingerprint()));
    let bytes = world.store.get(&key).await.expect("there").bytes().await.expect("bytes");
    world.store.delete(&key).await.expect("deleted");
    for number in 0..NUMBERS {
        world.archive(number, &[0], 5).await;
    }
    world.clock.advance(10 * HOUR_MS);
    let mut completer = Completer::default();
    let stopped = world.round_of(&mut completer, usize::MAX).await.expect_err("nobody knows the window");
    assert!(stopped.message.contains("the layout"), "{}", stopped.message);
    assert_eq!(world.newest(&folder_of(0)).await, None);
    world.store.put(&key, bytes.into()).await.expect("put");
    assert_eq!(world.round(&mut completer).await.completed, 1);
    // As a later release writes it.
    let mut later = serde_json::to_value(&world.layout).expect("JSON");
    (later["version"], later["code"]["rows"], later["news"]) = (9.into(), 9.into(), 9.into());
    let text = later.to_string();
    let fingerprint = crate::upload::hex(&sha2::Sha256::digest(text.as_bytes()))[..32].to_string();
    world
        .store
        .put(&StorePath::from(crate::bucket::layouts::layout_key(&fingerprint)), text.into())
        .await
        .expect("put");
    world.fingerprint = fingerprint;
    world.archive(0, &[1], 3).await;
    assert_eq!(world.round(&mut completer).await.completed, 1);
}

/// Goal: a destination that does not answer keeps no folder of another one from being completed.
#[tokio::test(start_paused = true)]
async fn one_destination_out_of_reach_holds_back_its_own_folders_alone() {
    let mut world = World::new().await;
    for number in 0..NUMBERS {
        world.archive(number, &[0, 1], 5).await;
    }
    world.clock.advance(10 * HOUR_MS);
    world.archive_at("s3://b", 2, &[-1], 1).await;
    let silent = Stepped::over(world.store.clone(), Silent);
    let silent = Destination::from_store("b", "s3://b", silent, StoreKind::Memory);
    world.destinations.insert("s3://b".to_string(), Arc::new(silent));
    let clock = crate::clock::SystemClock::new();
    let seams = Seams { clock: &clock, ..world.seams(&|| true) };
    let mut completer = Completer::default();
    let failed = completer.round(&seams).await.1.expect("it does not answer");
    assert!(failed.message.contains("s3://b"), "{}", failed.message);
    assert_eq!(world.marker(&folder_of(0)).await.map(|marker| marker.rows), Some(15));
    assert!(world.marker(&folder_of(1)).await.is_some());
    world.destinations.insert("s3://b".to_string(), world.destinations["s3://a"].clone());
    assert_eq!(world.round(&mut completer).await.open, 0);
    assert_eq!(world.marker(&folder_of(-1)).await.map(|marker| marker.rows), Some(1));
}

/// Goal: a folder whose marker is refused, and a progress that cannot be written, keep no other folder from being completed.
#[tokio::test(start_paused = true)]
async fn what_is_refused_holds_back_itself_alone() {
    let mut world = World::new().await;
    for number in 0..NUMBERS {
        world.archive(number, &[0, 1, 2], 5).await;
    }
    world.clock.advance(10 * HOUR_MS);
    let refusing = Stepped::over(world.store.clone(), Refusing(vec![folder_of(0), "progress.json".to_string()]));
    let refusing = Arc::new(Destination::from_store("a", "s3://a", refusing, StoreKind::Memory));
    let bucket = Bucket::new(refusing.clone());
    let destinations = BTreeMap::from([("s3://a".to_string(), refusing)]);
    let mut completer = Completer::default();
    let seams = Seams { bucket: &bucket, destinations: &destinations, ..world.seams(&|| true) };
    let failed = completer.round(&seams).await.1.expect("a marker is refused");
    assert!(failed.message.contains("it is kept"), "{}", failed.message);
    assert_eq!(world.marker(&folder_of(0)).await, None);
    for hour in [1, 2] {
        assert_eq!(world.marker(&folder_of(hour)).await.map(|marker| marker.rows), Some(15));
    }
    assert_eq!(world.round(&mut completer).await.open, 0);
    assert!(world.marker(&folder_of(0)).await.is_some());
}

/// A store that refuses to write what has one of these words in its name.
#[derive(Debug)]
struct Refusing(Vec<String>);

#[async_trait::async_trait]
impl StepIn for Refusing {
    async fn put(
        &self,
        within: &Within,
        to: &StorePath,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        if self.0.iter().any(|word| to.as_ref().contains(word.as_str())) {
            return Err(object_store::Error::PermissionDenied { path: to.to_string(), source: "it is kept".into() });
        }
        within.put_opts(to, payload, options).await
    }
}

/// A store that never writes.
#[derive(Debug)]
struct Silent;

#[async_trait::async_trait]
impl StepIn for Silent {
    async fn put(&self, _: &Within, _: &StorePath, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        Err(object_store::Error::Generic { store: "silent", source: "no answer".into() })
    }
}

#[derive(Clone, Debug)]
enum Act {
    Archive {
        number: i32,
        hours: Vec<i64>,
        rows: u64,
    },
    Plan {
        number: i32,
    },
    Round {
        by: usize,
        writes: usize,
    },
    Die {
        by: usize,
    },
    Wait {
        ms: i64,
    },
    /// The progress of some time ago is written again, by somebody who stalled.
    Stale,
}

fn act() -> impl Strategy<Value = Act> {
    let hours = prop::collection::btree_set(0i64..6, 1..3).prop_map(|hours| hours.into_iter().collect());
    prop_oneof![
        6 => (0..NUMBERS, hours, 1u64..5).prop_map(|(number, hours, rows)| Act::Archive { number, hours, rows }),
        1 => (0..NUMBERS).prop_map(|number| Act::Plan { number }),
        4 => (0usize..2, prop_oneof![Just(usize::MAX), 0usize..12]).prop_map(|(by, writes)| Act::Round { by, writes }),
        1 => (0usize..2).prop_map(|by| Act::Die { by }),
        2 => (0..2 * HOUR_MS).prop_map(|ms| Act::Wait { ms }),
        1 => Just(Act::Stale),
    ]
}

/// Whether all Kafka partitions are past `end_ms`, as the group's offsets and the logs say now.
fn is_past(world: &World, end_ms: i64) -> bool {
    let now_ms = world.clock.wall_ms();
    (0..NUMBERS).all(|number| {
        let told = world.told(number);
        let by_watermark =
            told.watermark_ms.is_some_and(|watermark_ms| watermark_ms - RULES.allowed_lateness_ms >= end_ms);
        let is_idle = !told.plan && told.offset >= told.end;
        by_watermark || is_idle && now_ms - RULES.allowed_lateness_ms - RULES.idle_grace_ms >= end_ms
    })
}

async fn play(acts: Vec<Act>, parts_max: usize) {
    let mut world = World::new().await;
    world.parts_max = parts_max;
    let mut completers = [Completer::default(), Completer::default()];
    let (mut seen, mut stale) = (BTreeSet::new(), None);
    for act in acts {
        match act {
            Act::Archive { number, hours, rows } => world.archive(number, &hours, rows).await,
            Act::Plan { number } => world.tell(number, |told| {
                told.plan = true;
                told.end = told.end.max(told.offset + 3);
            }),
            Act::Round { by, writes } => {
                let ended = world.round_of(&mut completers[by], writes).await;
                assert!(ended.is_ok() || parts_max < usize::MAX, "{ended:?}");
            }
            Act::Die { by } => completers[by] = Completer::default(),
            Act::Wait { ms } => world.clock.advance(ms),
            Act::Stale => {
                let now = world.bytes("_siltstone/complete/v1/t/progress.json").await;
                if let Some(then) = std::mem::replace(&mut stale, now) {
                    let path = StorePath::from("_siltstone/complete/v1/t/progress.json");
                    world.store.put(&path, then.into()).await.expect("put");
                }
            }
        }
        for revision in world.revisions().await {
            if seen.insert((revision.id.clone(), revision.revision)) {
                assert!(is_past(&world, revision.window_end_ms), "not past: {revision:?}");
            }
        }
    }
    // Everything that is planned is archived, everybody is idle, and whoever comes last completes all.
    for number in 0..NUMBERS {
        world.tell(number, |told| (told.plan, told.end) = (false, told.offset));
    }
    world.clock.advance(100 * HOUR_MS);
    for completer in &mut completers {
        world.rounds(completer).await;
    }
    let outcome = world.rounds(&mut Completer::default()).await;
    assert_eq!(outcome.open, 0);
    for (folder, &rows) in &world.truth {
        let newest = world.newest(folder).await.unwrap_or_else(|| panic!("{folder} is not complete"));
        assert_eq!(newest.rows, rows, "{folder}");
        assert_eq!(world.marker(folder).await.as_ref(), Some(&newest), "{folder}");
    }
    let revisions = world.revisions().await;
    for pair in revisions.windows(2).filter(|pair| pair[0].id == pair[1].id) {
        assert_eq!(pair[0].revision + 1, pair[1].revision);
        assert!(pair[0].rows <= pair[1].rows && pair[0].covered != pair[1].covered, "{pair:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Goal: W-1 to W-4. Whatever two processes do that stall, die, and write back what they knew long ago: no folder is complete early, the newest revision
    /// and the marker of each tell exactly what was archived, and no revision is made without something new.
    #[test]
    fn whoever_completes_the_newest_revision_tells_what_was_archived(
        acts in prop::collection::vec(act(), 1..40),
        parts_max in prop_oneof![3 => Just(usize::MAX), 1 => 1usize..8],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(play(acts, parts_max));
    }
}
