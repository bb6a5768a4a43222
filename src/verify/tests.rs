//! Whole verifications of archives made up: what is planted is found, and nothing else is told.

pub(super) mod world;

use super::against::Cluster;
use super::finding::{Fault, Kind};
use super::{Counters, Options, Parts, missing};
use crate::batch::metadata::{OffsetMetadata, OffsetState};
use crate::bucket::jobs::{JOB_VERSION, Job, JobRange, JobRequest};
use crate::bucket::receipt::{Absent, LostRows, Receipt};
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::consume::{Committed, LogBounds};
use crate::record::{OffsetRange, TopicPartition};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use world::{BATCH, Broker, START_MS, Seen, World, receipt};

const PRESETS: [&str; 3] = ["hive", "secor", "fluentd"];

fn deep() -> Options {
    Options { deep: true, ..Options::default() }
}

/// Something that can go wrong with batch `number` of `partition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Plant {
    Gap,
    Overlap,
    Missing,
    Longer,
    OtherBytes,
    OtherRows,
    OtherEnd,
    NamedTwice,
    Stranger,
    Unbalanced,
    ObjectForgotten,
    Damaged,
    Newer,
    Unfinished,
    Elsewhere,
    ReplayMissing,
}

impl Plant {
    const ALL: [Self; 16] = [
        Self::Gap,
        Self::Overlap,
        Self::Missing,
        Self::Longer,
        Self::OtherBytes,
        Self::OtherRows,
        Self::OtherEnd,
        Self::NamedTwice,
        Self::Stranger,
        Self::Unbalanced,
        Self::ObjectForgotten,
        Self::Damaged,
        Self::Newer,
        Self::Unfinished,
        Self::Elsewhere,
        Self::ReplayMissing,
    ];

    /// Plants it; gives the kinds and first offsets that must be told, and whether the batch must be archived again.
    async fn plant(self, world: &World, partition: i32, number: i64) -> (Vec<(Kind, i64)>, bool) {
        let mut receipt_of = world.receipt(partition, number);
        let (first, object) = (receipt_of.first, receipt_of.objects[0].clone());
        match self {
            Self::Gap => {
                for object in &receipt_of.objects {
                    world.delete(&object.key).await;
                }
                world.delete(&world.receipt_key(partition, number)).await;
                world.delete(&world.claim_key(partition, number)).await;
                (vec![(Kind::Gap, first)], true)
            }
            Self::Overlap => {
                let mut other = receipt(first + 10, first + 20, &[]);
                other.partition = partition;
                world.write(&other).await;
                (vec![(Kind::Overlap, first + 10)], false)
            }
            Self::Missing => {
                world.delete(&object.key).await;
                (vec![(Kind::Missing, first)], true)
            }
            Self::Longer => {
                let mut bytes = world.get(&object.key).await;
                bytes.push(0);
                world.put(&object.key, bytes).await;
                (vec![(Kind::Size, first)], true)
            }
            Self::OtherBytes => {
                let mut bytes = world.get(&object.key).await;
                bytes[12] ^= 1;
                world.put(&object.key, bytes).await;
                (vec![(Kind::Checksum, first)], true)
            }
            Self::OtherRows => {
                let changed = &mut receipt_of.objects[0];
                for count in [&mut changed.rows, &mut changed.records] {
                    *count = count.map(|count| count + 1);
                }
                receipt_of.balance.consumed += 1;
                let output = receipt_of.balance.outputs.get_mut("json").expect("the output");
                (output.rows, output.archived) = (output.rows + 1, output.archived + 1);
                world.write(&receipt_of).await;
                (vec![(Kind::Rows, first)], false)
            }
            Self::OtherEnd => {
                // Where names have no end, another window that the batch has nothing in.
                let other = OffsetRange::new(first, receipt_of.end + 7);
                let key = world.key(partition, other, number);
                let has_no_end = key == object.key;
                let key = if has_no_end { world.key(partition, other, number + 50) } else { key };
                world.put(&key, b"{}\n".to_vec()).await;
                (vec![(if has_no_end { Kind::Unvouched } else { Kind::Doubled }, first)], false)
            }
            Self::NamedTwice => {
                // By the batch behind it, as another output so that its balance stays.
                let mut next = world.receipt(partition, number + 1);
                let mut again = object;
                again.output = "dead_letters".to_string();
                next.objects.push(again);
                world.write(&next).await;
                (vec![(Kind::Doubled, next.first)], false)
            }
            Self::Stranger => {
                let range = OffsetRange::new(first + 33, first + 34);
                world.put(&world.key(partition, range, number), b"{}\n".to_vec()).await;
                (vec![(Kind::Unvouched, first + 33)], false)
            }
            Self::Unbalanced => {
                receipt_of.balance.consumed += 1;
                world.write(&receipt_of).await;
                (vec![(Kind::Unbalanced, first)], false)
            }
            Self::ObjectForgotten => {
                receipt_of.objects.remove(0);
                world.write(&receipt_of).await;
                (vec![(Kind::Unvouched, first), (Kind::Unbalanced, first)], false)
            }
            Self::Damaged => {
                world.put(&world.receipt_key(partition, number), b"{\"version\":1,".to_vec()).await;
                (vec![(Kind::Unreadable, first)], true)
            }
            Self::Newer => {
                receipt_of.version = 99;
                world.write(&receipt_of).await;
                (vec![(Kind::Unreadable, first)], false)
            }
            Self::Unfinished => {
                world.delete(&world.receipt_key(partition, number)).await;
                (vec![(Kind::Unfinished, first)], true)
            }
            Self::Elsewhere => {
                for object in &mut receipt_of.objects {
                    world.delete(&object.key).await;
                    object.destination = "s3://elsewhere".to_string();
                }
                world.write(&receipt_of).await;
                // What is missing where the layout says that it lies does not add up either.
                (vec![(Kind::Unbalanced, first), (Kind::Unreached, first)], false)
            }
            Self::ReplayMissing => {
                let key = world.replay(partition, number, true).await;
                world.delete(&key).await;
                (vec![(Kind::Missing, first)], false)
            }
        }
    }
}

/// What must be told and archived again, all in all.
#[derive(Default)]
struct Expected {
    told: Vec<(Kind, i32, i64)>,
    again: BTreeMap<TopicPartition, Vec<OffsetRange>>,
}

impl Expected {
    async fn plant(&mut self, plant: Plant, world: &World, partition: i32, number: i64) {
        let (kinds, again) = plant.plant(world, partition, number).await;
        for (kind, first) in kinds {
            // All that one Kafka partition has at a place which nobody knows is told once, by its first batch.
            match self.told.iter_mut().find(|told| kind == Kind::Unreached && (told.0, told.1) == (kind, partition)) {
                Some(told) => told.2 = told.2.min(first),
                None => self.told.push((kind, partition, first)),
            }
        }
        self.told.sort_unstable();
        if again {
            let range = OffsetRange::new(number * BATCH, (number + 1) * BATCH);
            self.again.entry(World::partition(partition)).or_default().push(range);
        }
    }

    fn check(self, seen: &Seen, what: &str) {
        assert_eq!(seen.told(), self.told, "{what}: {:#?}", seen.findings);
        let again: BTreeMap<TopicPartition, Vec<OffsetRange>> =
            self.again.into_iter().map(|(of, ranges)| (of, super::repair::merged(ranges))).collect();
        assert_eq!(seen.verified.repairs, again, "{what}");
        let count: u64 = seen.verified.summary.findings.values().sum();
        assert_eq!(count, seen.findings.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_wrong_with_a_good_archive() {
    for preset in PRESETS {
        let mut worlds = [World::in_memory(preset).await, World::in_folder(preset).await];
        for world in &mut worlds {
            world.fill(2, 6, 2).await;
            world.replay(0, 2, true).await;
            // On its way: claimed, with one of its objects.
            world.archive(1, 6, 2).await;
            world.delete(&world.receipt_key(1, 6)).await;
            world.delete(&world.receipts[&(1, 6)].objects[1].key).await;
            // Not ours.
            for name in ["_SUCCESS", "part-0001.json.gz", "deep/er/x"] {
                let folder = world.receipts[&(0, 0)].objects[0].folder.clone();
                world.put(&format!("{folder}/{name}"), b"x".to_vec()).await;
            }
            world.put("other/dt=2025-11-21/x", b"x".to_vec()).await;
            let seen = world.verify(&deep()).await;
            assert_eq!(seen.told(), [], "{preset}: {:#?}", seen.findings);
            // Secor's names have no end.
            let notes: &[&str] = if preset == "secor" { &["open", "names"] } else { &["open"] };
            assert_eq!(seen.notes(), notes);
            let summary = &seen.verified.summary;
            assert!(summary.is_complete() && seen.verified.repairs.is_empty());
            assert_eq!((summary.receipts, summary.open, summary.passes, summary.partitions), (13, 1, 1, 2));
            // A replay has 2 rows.
            assert_eq!((summary.objects, summary.rows, summary.read_back), (25, 24 * 5 + 2, 25));
            // fluentd's names begin with the time: all of the bucket is listed.
            let others = if preset == "fluentd" { 4 } else { 3 };
            assert_eq!((summary.others, summary.listed), (others, 26 + others), "{preset}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_is_found_alone() {
    for preset in PRESETS {
        for plant in Plant::ALL {
            let mut world = World::in_memory(preset).await;
            world.fill(2, 5, 2).await;
            let mut expected = Expected::default();
            expected.plant(plant, &world, 1, 2).await;
            let seen = world.verify(&deep()).await;
            expected.check(&seen, &format!("{preset}, {plant:?}"));
            for finding in &seen.findings {
                assert!(!finding.to_string().is_empty() && finding.to_json()["do"].is_string());
            }
        }
    }
}

/// Goal: receipts in folds are as good as others, and what is written beside a fold counts. (What the left out plants delete, or take from a
/// receipt, the fold still has.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_found_where_receipts_are_folded() {
    for plant in Plant::ALL {
        let mut world = World::in_memory("hive").await;
        world.fill(2, 9, 2).await;
        for partition in 0..2 {
            world.fold(partition).await;
        }
        assert_eq!(world.verify(&deep()).await.told(), []);
        if matches!(plant, Plant::Gap | Plant::Unfinished | Plant::ObjectForgotten) {
            plant.plant(&world, 1, 4).await;
            continue;
        }
        let mut expected = Expected::default();
        expected.plant(plant, &world, 1, 4).await;
        expected.check(&world.verify(&deep()).await, &format!("folded, {plant:?}"));
    }
}

/// Goal: a fold that cannot be read is told once, not for each of its receipts, and what lies beyond it is verified all the same.
#[tokio::test]
async fn a_damaged_fold_is_told_once() {
    let mut world = World::in_memory("hive").await;
    world.fill(1, 9, 2).await;
    world.fold(0).await;
    Plant::Missing.plant(&world, 0, 7).await;
    let range = OffsetRange::new(300, 600);
    world.put(&crate::bucket::folds::fold_key(&World::partition(0), 1, range), b"no gzip".to_vec()).await;
    assert_eq!(world.verify(&deep()).await.told(), [(Kind::Missing, 0, 700), (Kind::Unreadable, 0, 300)]);
}

/// Goal: only `deep` reads objects.
#[tokio::test]
async fn contents_are_not_proven_by_a_listing() {
    let mut world = World::in_memory("hive").await;
    world.fill(1, 3, 1).await;
    Plant::OtherBytes.plant(&world, 0, 1).await;
    assert_eq!(world.verify(&Options::default()).await.told(), []);
    assert_eq!(world.verify(&deep()).await.told(), [(Kind::Checksum, 0, 100)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Goal: of any faults in any batches, exactly these are found, whatever the room for objects and so the passes.
    #[test]
    fn exactly_what_is_planted_is_found(
        plants in prop::collection::btree_map((0..3_i32, 0..6_i64), 0..Plant::ALL.len(), 0..8),
        room in 3..80_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut world = World::in_memory("hive").await;
            world.fill(3, 14, 2).await;
            let mut expected = Expected::default();
            for (&(partition, number), &plant) in &plants {
                // Every second batch, so that no fault hides another; nor the first, before which nobody knows of any.
                expected.plant(Plant::ALL[plant], &world, partition, 2 * number + 1).await;
            }
            let seen = world.verify(&Options { entries_max: room, ..deep() }).await;
            expected.check(&seen, &format!("{plants:?}"));
        });
    }
}

/// Goal: the large proof of `scripts/verify-million.sh` in small: 2,000 objects in a folder, every fault, several passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_among_two_thousand_objects() {
    let mut world = World::in_folder("hive").await;
    world.fill(4, 50, 10).await;
    let mut expected = Expected::default();
    for (index, plant) in Plant::ALL.into_iter().enumerate() {
        let index = i64::try_from(index).expect("few");
        expected.plant(plant, &world, i32::try_from(index % 4).expect("few"), 3 + 2 * index).await;
    }
    let seen = world.verify(&Options { entries_max: 600, ..deep() }).await;
    assert!(seen.verified.summary.passes >= 4, "{:?}", seen.verified.summary);
    expected.check(&seen, "all");
    // The same without a second pass.
    assert_eq!(world.verify(&deep()).await.told(), seen.told());
}

#[tokio::test]
async fn what_receipts_tell_themselves_is_no_fault() {
    let mut world = World::in_memory("hive").await;
    world.fill(1, 3, 2).await;
    let mut told = world.receipt(0, 1);
    told.balance.absent.push(Absent { first: 100, end: 110, cause: "retention".to_string() });
    let gone = told.objects.remove(0);
    world.delete(&gone.key).await;
    let (output, destination, key) = (gone.output, gone.destination, gone.key);
    told.lost.push(LostRows { output, destination, key, rows: 5 });
    told.objects[0].kept = Some("another try's".to_string());
    (told.objects[0].rows, told.objects[0].sha256) = (None, None);
    world.write(&told).await;
    let seen = world.verify(&deep()).await;
    assert_eq!(seen.told(), []);
    let summary = &seen.verified.summary;
    assert_eq!((summary.absent, summary.lost, summary.kept), (10, 5, 1));
}

/// Goal: of a window of time only its batches count, and gaps beside them are not told.
#[tokio::test]
async fn a_window_of_time() {
    let mut world = World::in_memory("hive").await;
    world.fill(1, 12, 2).await;
    for (plant, number) in
        [(Plant::Gap, 1), (Plant::Missing, 2), (Plant::Gap, 6), (Plant::Missing, 8), (Plant::Stranger, 7)]
    {
        plant.plant(&world, 0, number).await;
    }
    // Batch n has events of the hours n and n + 1.
    let hour = |hour: i64| Some(START_MS + hour * 3_600_000);
    let options = Options { since_ms: hour(5), until_ms: hour(9), ..deep() };
    let seen = world.verify(&options).await;
    assert_eq!(seen.told(), [(Kind::Gap, 0, 600), (Kind::Missing, 0, 800), (Kind::Unvouched, 0, 733)]);
    assert_eq!(seen.verified.summary.receipts, 4, "batches 4, 5, 7 and 8");
    let seen = world.verify(&Options { since_ms: hour(10), ..Options::default() }).await;
    assert_eq!(seen.told(), []);
}

#[tokio::test]
async fn one_partition_or_topic() {
    let mut world = World::in_memory("fluentd").await;
    world.fill(3, 4, 2).await;
    for partition in 0..3 {
        Plant::Missing.plant(&world, partition, 1).await;
        Plant::Stranger.plant(&world, partition, 2).await;
    }
    let seen = world.verify(&Options { partitions: vec![1], ..Options::default() }).await;
    assert_eq!(seen.told(), [(Kind::Missing, 1, 100), (Kind::Unvouched, 1, 233)]);
    let seen = world.verify(&Options { topic: Some("u".to_string()), ..Options::default() }).await;
    assert_eq!((seen.told(), seen.verified.summary.partitions), (vec![], 0));
}

/// Goal: without any receipt every object of the archive is a stranger.
#[tokio::test]
async fn all_receipts_are_gone() {
    for preset in PRESETS {
        let mut world = World::in_memory(preset).await;
        world.fill(1, 3, 2).await;
        for number in 0..3 {
            world.delete(&world.receipt_key(0, number)).await;
            world.delete(&world.claim_key(0, number)).await;
        }
        let seen = world.verify(&Options::default()).await;
        assert_eq!(seen.told().len(), 6, "{:?}", seen.findings);
        for finding in &seen.findings {
            assert!(matches!(finding.fault, Fault::Unvouched { .. }), "{finding}");
            assert_eq!(finding.end.is_none(), preset == "secor");
            assert_eq!(finding.what().contains("its name does not tell its range"), preset == "secor", "{finding}");
        }
    }
}

#[tokio::test]
async fn a_replay_on_its_way_is_told_as_such() {
    let mut world = World::in_memory("hive").await;
    world.fill(1, 3, 1).await;
    world.replay(0, 1, false).await;
    let seen = world.verify(&Options::default()).await;
    assert_eq!((seen.told(), seen.notes()), (vec![], vec!["open_replay"]));
}

/// Kafka as it is when everything is right: every batch of `world` has its records, and the end is committed.
fn broker(world: &World, partitions: i32, batches: i64) -> Broker {
    let mut broker = Broker { is_compacted: Some(false), ..Broker::default() };
    for partition in 0..partitions {
        let end = batches * BATCH;
        let bounds = LogBounds { start: 0, end: end + 5, readable_end: end + 5 };
        // Each batch has fewer records than offsets.
        let of_batch = |number: i64| {
            let count = world.receipt(partition, number).balance.consumed;
            (0..i64::try_from(count).expect("few")).map(move |record| number * BATCH + 3 * record)
        };
        broker.logs.insert(World::partition(partition), (bounds, (0..batches).flat_map(of_batch).collect()));
        let metadata = OffsetMetadata::new(OffsetState::Done, 1).encode();
        broker.committed.insert(World::partition(partition), Committed { offset: end, metadata });
    }
    broker
}

async fn against(world: &World, change: impl FnOnce(&mut Broker)) -> Seen {
    let mut kafka = broker(world, 2, 5);
    change(&mut kafka);
    world.verify_with(&Options::default(), Some(Arc::new(kafka) as Arc<dyn Cluster>)).await
}

#[tokio::test]
async fn receipts_against_kafka() {
    let mut world = World::in_memory("hive").await;
    world.fill(2, 5, 2).await;
    let of = World::partition(1);
    assert_eq!(against(&world, |_| ()).await.told(), []);

    let seen = against(&world, |kafka| kafka.committed.get_mut(&of).expect("committed").offset = 530).await;
    assert_eq!(seen.told(), [(Kind::Gap, 1, 500)]);
    assert_eq!(seen.verified.repairs, BTreeMap::from([(of.clone(), vec![OffsetRange::new(500, 530)])]));

    let seen = against(&world, |kafka| kafka.committed.get_mut(&of).expect("committed").offset = 400).await;
    assert_eq!((seen.told(), seen.notes()), (vec![], vec!["ahead"]));

    let seen = against(&world, |kafka| drop(kafka.committed.remove(&of))).await;
    assert_eq!((seen.told(), seen.notes()), (vec![], vec!["no_offset"]));

    let seen = against(&world, |kafka| kafka.logs.get_mut(&of).expect("a log").0.end = 420).await;
    assert_eq!(seen.told(), [(Kind::BeyondLog, 1, 400)]);

    let more = |kafka: &mut Broker| kafka.logs.get_mut(&of).expect("a log").1.extend([395, 396, 499]);
    let seen = against(&world, |kafka| {
        more(kafka);
        kafka.logs.get_mut(&of).expect("a log").1.sort_unstable();
    })
    .await;
    assert_eq!(seen.told(), [(Kind::Count, 1, 300), (Kind::Count, 1, 400)]);

    // Fewer is a fault only where nothing can have gone.
    for (is_compacted, expected) in [(Some(false), vec![(Kind::Count, 1, 0)]), (Some(true), vec![]), (None, vec![])] {
        let seen = against(&world, |kafka| {
            kafka.is_compacted = is_compacted;
            kafka.logs.get_mut(&of).expect("a log").1.remove(0);
        })
        .await;
        assert_eq!(seen.told(), expected);
    }
    let seen = against(&world, |kafka| {
        let log = kafka.logs.get_mut(&of).expect("a log");
        log.0.start = 150;
        log.1.retain(|offset| *offset >= 150);
    })
    .await;
    assert_eq!(seen.told(), [], "what retention took cannot be counted");

    // Retention takes batches while they are counted, twice.
    let seen = against(&world, |kafka| kafka.retention = Mutex::new(vec![250, 120])).await;
    assert_eq!((seen.told(), seen.notes()), (vec![], vec!["uncounted", "uncounted"]));

    let seen = against(&world, |kafka| drop(kafka.logs.remove(&of))).await;
    assert_eq!((seen.told(), seen.notes()), (vec![], vec!["unknown_to_kafka"]));

    let mut other = world.receipt(1, 0);
    other.topic_id = Some("before".to_string());
    world.write(&other).await;
    assert_eq!(against(&world, |_| ()).await.told(), [(Kind::TopicId, 1, 0)]);
}

/// A backfill of these offsets of Kafka partition 0 that has not ended.
async fn begin_job(world: &World, range: OffsetRange, made_ms: Option<i64>) {
    begin_job_of(world, vec![JobRange::new(0, range)], made_ms).await;
}

async fn begin_job_of(world: &World, ranges: Vec<JobRange>, made_ms: Option<i64>) {
    let job = Job {
        version: JOB_VERSION,
        name: "j".into(),
        archive: "a".into(),
        topic: "t".into(),
        topic_id: None,
        cluster_id: "c".into(),
        group: "g".into(),
        request: JobRequest::default(),
        generation: 1,
        fingerprint: "f".into(),
        chunk: 100,
        ranges,
        read_back: Vec::new(),
        unvouched: Vec::new(),
        before: Vec::new(),
        found: None,
        skipped: 0,
        made_ms,
    };
    world.bucket().put_job(&job).await.expect("stored");
}

/// Takes the receipt of a batch away, and its objects.
async fn claim_only(world: &World, number: i64) -> Receipt {
    claim_only_of(world, 0, number).await
}

async fn claim_only_of(world: &World, partition: i32, number: i64) -> Receipt {
    let open = world.receipt(partition, number);
    world.delete(&world.receipt_key(partition, number)).await;
    for object in &open.objects {
        world.delete(&object.key).await;
    }
    open
}

/// So many hours from now on.
fn in_hours(hours: i64) -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(SystemClock::new().wall_ms() + hours * 3_600_000))
}

/// Goal: what a backfill has claimed and not finished is on its way, with batches of the group behind it; once it has ended it is not.
#[tokio::test]
async fn a_backfill_on_its_way_is_told_as_such() {
    let mut world = World::in_memory("hive").await;
    world.fill(1, 5, 2).await;
    let open = claim_only(&world, 2).await;
    begin_job(&world, OffsetRange::new(open.first, open.end), None).await;
    let seen = world.verify(&Options::default()).await;
    assert_eq!((seen.told(), seen.notes()), (vec![], vec!["open"]));
    assert_eq!(seen.verified.summary.open, 1);
    world.bucket().end_job("j", 0).await.expect("ended");
    assert_eq!(world.verify(&Options::default()).await.told(), [(Kind::Unfinished, 0, open.first)]);
}

/// Goal: what a backfill has claimed that nobody goes on with is told, with or without batches behind it, and nobody archives it again beside the job.
#[tokio::test]
async fn a_backfill_that_was_left_is_told() {
    for number in [2, 4] {
        let mut world = World::in_memory("hive").await;
        world.fill(1, 5, 2).await;
        let open = claim_only(&world, number).await;
        begin_job(&world, OffsetRange::new(open.first, open.end), None).await;
        let seen = world.verify_at(&Options::default(), None, in_hours(23)).await;
        assert_eq!((seen.told(), seen.notes()), (vec![], vec!["open"]));
        for cluster in [None, Some(Arc::new(broker(&world, 1, 5)) as Arc<dyn Cluster>)] {
            let seen = world.verify_at(&Options::default(), cluster, in_hours(25)).await;
            assert_eq!((seen.told(), seen.notes()), (vec![(Kind::Left, 0, open.first)], vec![]));
            assert!(seen.findings[0].what().contains("backfill j,") && seen.findings[0].to_json()["job"] == "j");
            assert!(seen.verified.repairs.is_empty() && seen.verified.summary.open == 0);
        }
        world.bucket().end_job("j", 0).await.expect("given up");
        let seen = world.verify_at(&Options::default(), None, in_hours(25)).await;
        let unfinished = if number == 2 { vec![(Kind::Unfinished, 0, open.first)] } else { vec![] };
        assert_eq!(seen.told(), unfinished);
    }
    // One that was made since may have taken the claim over.
    let mut world = World::in_memory("hive").await;
    world.fill(1, 5, 2).await;
    let open = claim_only(&world, 2).await;
    let made_ms = in_hours(2).wall_ms();
    begin_job(&world, OffsetRange::new(open.first, open.end), Some(made_ms)).await;
    assert_eq!(world.verify_at(&Options::default(), None, in_hours(25)).await.told(), []);
    assert_eq!(world.verify_at(&Options::default(), None, in_hours(27)).await.told(), [(Kind::Left, 0, open.first)]);
}

/// Goal: a job that writes something of its ranges is alive, however old the claim that one of its processes has left.
#[tokio::test]
async fn a_backfill_that_writes_is_alive() {
    let mut world = World::in_folder("hive").await;
    world.fill(1, 5, 2).await;
    let open = claim_only(&world, 2).await;
    let long_ago = in_hours(-40).wall_ms();
    begin_job(&world, OffsetRange::new(100, open.end), Some(long_ago)).await;
    world.age(&world.claim_key(0, 2), 30);
    let seen = world.verify(&Options::default()).await;
    assert_eq!((seen.told(), seen.notes()), (vec![], vec!["open"]), "batch 1 was written a moment ago");
    world.age(&world.claim_key(0, 1), 30);
    world.age(&world.receipt_key(0, 1), 30);
    assert_eq!(world.verify(&Options::default()).await.told(), [(Kind::Left, 0, open.first)]);
}

/// Goal: when a job wrote last is looked for anew with each Kafka partition: somebody may have gone on with it meanwhile. Method: all of its ranges is old,
/// and one of its receipts is written again behind the first Kafka partition.
#[tokio::test]
async fn a_backfill_that_goes_on_meanwhile_is_alive() {
    let mut world = World::in_folder("hive").await;
    world.fill(2, 5, 2).await;
    let open = [claim_only_of(&world, 0, 4).await, claim_only_of(&world, 1, 2).await];
    let ranges = [0, 1].map(|partition| JobRange::new(partition, OffsetRange::new(200, 500)));
    begin_job_of(&world, ranges.to_vec(), Some(in_hours(-40).wall_ms())).await;
    for (partition, number) in [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)] {
        world.age(&world.claim_key(partition, number), 30);
        if (partition, number) != (0, 4) && (partition, number) != (1, 2) {
            world.age(&world.receipt_key(partition, number), 30);
        }
    }
    let left: Vec<_> = [0, 1].into_iter().zip(&open).map(|(of, open)| (Kind::Left, of, open.first)).collect();
    assert_eq!(world.verify(&Options::default()).await.told(), left);
    let again = (world.receipt_key(1, 3), serde_json::to_vec(&world.receipt(1, 3)).expect("JSON"));
    world.put_once_read(&world.claim_key(1, 2), again);
    let seen = world.verify(&Options::default()).await;
    assert_eq!((seen.told(), seen.notes()), (left[..1].to_vec(), vec!["open"]));
}

/// Goal: what a job under way has claimed is no fault for the group's committed offset either.
#[tokio::test]
async fn a_backfill_at_the_end_of_receipts_is_no_fault_for_kafka() {
    let mut world = World::in_memory("hive").await;
    world.fill(1, 5, 2).await;
    let kafka = || Some(Arc::new(broker(&world, 1, 5)) as Arc<dyn Cluster>);
    let open = claim_only(&world, 4).await;
    assert_eq!(world.verify_with(&Options::default(), kafka()).await.told(), [(Kind::Unfinished, 0, open.first)]);
    begin_job(&world, OffsetRange::new(open.first, open.end), None).await;
    let seen = world.verify_with(&Options::default(), kafka()).await;
    assert_eq!((seen.told(), seen.notes()), (vec![], vec!["open"]));
}

/// Goal: what a job under way has claimed at the end of one Kafka partition is none either where the job ends, and that shows, while another is read.
#[tokio::test]
async fn a_backfill_that_ends_meanwhile_is_no_fault_for_kafka() {
    let mut world = World::in_memory("hive").await;
    world.fill(2, 5, 2).await;
    let kafka = Some(Arc::new(broker(&world, 2, 5)) as Arc<dyn Cluster>);
    let open = claim_only(&world, 4).await;
    let other = claim_only_of(&world, 1, 2).await;
    begin_job(&world, OffsetRange::new(open.first, open.end), None).await;
    let end = br#"{"version":1,"ended_ms":0}"#.to_vec();
    world.put_once_read(&world.claim_key(1, 2), ("_siltstone/jobs/j.done.json".to_string(), end));
    let seen = world.verify_with(&Options::default(), kafka).await;
    assert_eq!((seen.told(), seen.notes()), (vec![(Kind::Unfinished, 1, other.first)], vec!["open"]));
}

/// Goal: the document of a job that cannot be read is told, and ends no verification; where every claim has its receipt nobody looks.
#[tokio::test]
async fn a_backfill_that_cannot_be_read_stops_nothing() {
    for document in ["{", r#"{"version":99}"#] {
        for number in [4, 2] {
            let mut world = World::in_memory("hive").await;
            world.fill(2, 5, 2).await;
            world.put("_siltstone/jobs/x.json", document.into()).await;
            assert!(world.bucket().jobs_under_way().await.is_err());
            let seen = world.verify(&Options::default()).await;
            assert_eq!((seen.told(), seen.notes()), (vec![], vec![]));
            let batch = claim_only(&world, number).await;
            let other = claim_only_of(&world, 1, number).await;
            begin_job(&world, OffsetRange::new(batch.first, batch.end), None).await;
            let seen = world.verify(&Options::default()).await;
            let told = if number == 2 { vec![(Kind::Unfinished, 1, other.first)] } else { vec![] };
            let notes: Vec<&str> = ["unreadable_job", "open", "open"][..seen.told().len().abs_diff(3)].to_vec();
            assert_eq!((seen.told(), seen.notes()), (told, notes), "{document} {number}");
        }
    }
    // The newest batch is finished while receipts are read, as in each live archive.
    let mut world = World::in_memory("hive").await;
    world.fill(1, 5, 2).await;
    world.put("_siltstone/jobs/x.json", "{".into()).await;
    let batch = world.receipt(0, 4);
    world.delete(&world.receipt_key(0, 4)).await;
    world.put_late(&batch);
    let seen = world.verify(&Options::default()).await;
    assert_eq!((seen.told(), seen.notes()), (vec![], vec![]));
}

/// Goal: a batch whose receipt comes while others are read is finished, whatever job has claimed it: its objects must be there.
#[tokio::test]
async fn a_claim_whose_receipt_has_come_is_a_batch_as_others() {
    for (number, is_of_job) in [(2, true), (2, false), (4, true), (4, false)] {
        let mut world = World::in_memory("hive").await;
        world.fill(1, 5, 2).await;
        let batch = world.receipt(0, number);
        world.delete(&world.receipt_key(0, number)).await;
        if is_of_job {
            begin_job(&world, OffsetRange::new(batch.first, batch.end), None).await;
        }
        world.put_late(&batch);
        let seen = world.verify(&deep()).await;
        assert_eq!((seen.told(), seen.notes()), (vec![], vec![]), "{number} {is_of_job}");
        let summary = &seen.verified.summary;
        assert_eq!((summary.open, summary.receipts, summary.objects, summary.read_back), (0, 5, 10, 10));

        world.delete(&world.receipt_key(0, number)).await;
        world.delete(&batch.objects[1].key).await;
        world.put_late(&batch);
        let seen = world.verify(&Options::default()).await;
        assert_eq!(seen.told(), [(Kind::Missing, 0, batch.first)], "{number} {is_of_job}");
    }
}

/// Goal: Kafka is asked where a log begins and ends no more often than it takes to know what retention took meanwhile.
#[tokio::test]
async fn bounds_are_asked_for_once_behind_each_count() {
    let mut world = World::in_memory("hive").await;
    world.fill(2, 5, 2).await;
    for (retention, times) in [(vec![], 1), (vec![250, 120], 3)] {
        let kafka = Arc::new(Broker { retention: Mutex::new(retention), ..broker(&world, 2, 5) });
        let seen = world.verify_with(&Options::default(), Some(kafka.clone())).await;
        assert_eq!(seen.told(), []);
        // Of each Kafka partition before receipts are read, after it, and behind each count; what retention takes it takes once.
        assert_eq!(*kafka.bounds.lock().expect("no panic"), 2 * (2 + 1) + times - 1);
    }
}

/// Goal: a Kafka partition that has committed offsets and not one receipt is not overlooked.
#[tokio::test]
async fn a_partition_without_receipts() {
    let mut world = World::in_memory("hive").await;
    world.fill(2, 5, 2).await;
    for number in 0..5 {
        Plant::Gap.plant(&world, 1, number).await;
    }
    assert_eq!(world.verify(&Options::default()).await.told(), []);
    assert_eq!(against(&world, |_| ()).await.told(), [(Kind::Gap, 1, 0)]);
}

#[tokio::test]
async fn what_is_to_be_archived_again() {
    let mut world = World::in_memory("hive").await;
    world.fill(2, 10, 2).await;
    for (plant, number) in [(Plant::Gap, 2), (Plant::Missing, 3), (Plant::Overlap, 5), (Plant::OtherBytes, 7)] {
        plant.plant(&world, 1, number).await;
    }
    let parts = Parts {
        destinations: world.destinations.clone(),
        clock: Arc::new(SystemClock::new()),
        cluster: None,
        counters: Arc::new(Counters::default()),
    };
    let ranges = missing(&world.config, parts, &deep()).await.expect("verified");
    let expected = vec![OffsetRange::new(200, 400), OffsetRange::new(700, 800)];
    assert_eq!(ranges, BTreeMap::from([(World::partition(1), expected)]));
}
