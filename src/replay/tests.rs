//! Replays on a store in memory: what is written, what stays, and that crashes and rivals neither lose nor double a row.

use super::layouts::Layouts;
use super::schemas::Asker;
use super::select::Selection;
use super::take::Taking;
use super::{LETTERS_MAX, Limits, PARTS_MAX, Replayer, Step};
use crate::bucket::replays::ReplayReceipt;
use crate::bucket::{Bucket, CONTROL_FOLDER};
use crate::clock::SystemClock;
use crate::config::{Config, parse};
use crate::decode::{Aim, Schemas};
use crate::destination::stepped::{StepIn, Stepped, Within};
use crate::destination::{Destination, StoreKind};
use crate::exit::{Exit, Failure};
use crate::format::dead_letter::letter::Letter;
use crate::layout::{OutputFormat, RegistryFormat};
use crate::ledger::Destinations;
use crate::pipeline::archive::Archive;
use crate::pipeline::open_batch::again::{Again, Wanted};
use crate::pipeline::testing::archive_batch;
use crate::record::{OffsetRange, OwnedRecord, TopicPartition, offset_after};
use crate::registry::{Lookup, Registry};
use crate::spool::Spool;
use crate::spool::part::BLOCKS_MAX;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ObjectStore, ObjectStoreExt, PutOptions, PutPayload, PutResult, Result,
};
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const URL: &str = "s3://bucket/archive";
/// 2025-11-21T08:00:00Z.
const KAFKA_MS: i64 = 1_763_712_000_000;

/// A store as one process sees it. Shared by all processes is what lies within.
#[derive(Debug)]
struct Seen {
    /// Writes until the process dies; `true`: only after that write.
    dies: Option<(AtomicU64, bool)>,
    /// State of the generator that says how often other processes go first; 0: never.
    dice: AtomicU64,
    /// Reads of claims and receipts of replays.
    replays_read: AtomicU64,
}

fn dead() -> Error {
    Error::PermissionDenied { path: String::new(), source: "the process is dead".into() }
}

impl Seen {
    async fn others_first(&self) {
        let dice = self.dice.load(Ordering::SeqCst);
        let next = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(dice != 0));
        self.dice.store(next, Ordering::SeqCst);
        for _ in 0..(next >> 40) % 8 {
            tokio::task::yield_now().await;
        }
    }

    fn alive(&self) -> Result<()> {
        let is_dead = self.dies.as_ref().is_some_and(|(left, _)| left.load(Ordering::SeqCst) == 0);
        if is_dead { Err(dead()) } else { Ok(()) }
    }
}

#[async_trait]
impl StepIn for Seen {
    async fn put(&self, within: &Within, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.others_first().await;
        self.alive()?;
        let last = self.dies.as_ref().is_some_and(|(left, _)| left.fetch_sub(1, Ordering::SeqCst) == 1);
        let happens = !last || self.dies.as_ref().is_some_and(|(_, after)| *after);
        let put = if happens { within.put_opts(to, payload, options).await } else { Err(dead()) };
        self.others_first().await;
        if last { Err(dead()) } else { put }
    }

    async fn get(&self, within: &Within, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.others_first().await;
        self.alive()?;
        let is_of_replay = from.as_ref().contains("/replays/");
        self.replays_read.fetch_add(u64::from(is_of_replay), Ordering::SeqCst);
        within.get_opts(from, options).await
    }
}

/// A bucket, and a folder for spools.
struct World {
    store: Arc<InMemory>,
    spool: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { store: Arc::new(InMemory::new()), spool: tempfile::tempdir().expect("a folder") }
    }

    fn config(&self, archive: &str) -> Config {
        let text = format!(
            "[kafka]\nbrokers = \"k\"\ngroup = \"g\"\n[spool]\ndir = \"{}\"\n[destinations.main]\nurl = \"{URL}\"\n\
             [[archive]]\nname = \"a\"\ntopics = [\"t\"]\n{archive}",
            self.spool.path().display()
        );
        parse(&text, self.spool.path(), &|_| None).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    }

    /// The destinations of one process.
    fn seen(&self, dies: Option<(u64, bool)>, dice: u64) -> (Arc<Stepped<Seen>>, Destinations) {
        let dies = dies.map(|(writes, after)| (AtomicU64::new(writes), after));
        let (dice, replays_read) = (AtomicU64::new(dice), AtomicU64::new(0));
        let seen = Stepped::over(self.store.clone(), Seen { dies, dice, replays_read });
        let destination = Destination::from_store("main", URL, seen.clone(), StoreKind::Memory);
        (seen, BTreeMap::from([(URL.to_string(), Arc::new(destination))]))
    }

    /// What the pipeline leaves of a batch of `payloads` from offset `first` on, each a minute after the one before.
    async fn archived(&self, config: &Config, first: i64, payloads: &[&str]) {
        let payloads: Vec<Vec<u8>> = payloads.iter().map(|payload| payload.as_bytes().to_vec()).collect();
        self.archived_by(config, first, &payloads, &Schemas::default()).await;
    }

    /// The same with what a registry says.
    async fn archived_by(&self, config: &Config, first: i64, payloads: &[Vec<u8>], schemas: &Schemas) {
        let (_, destinations) = self.seen(None, 0);
        let records: Vec<OwnedRecord> = (first..)
            .zip(payloads)
            .map(|(offset, payload)| {
                let timestamp = Some(KAFKA_MS + (offset - first) * 60_000);
                let value = Some(payload.clone());
                OwnedRecord { topic: "t".into(), offset, timestamp, value, ..OwnedRecord::default() }
            })
            .collect();
        let range = OffsetRange::new(first, records.last().map_or(first, |last| offset_after(last.offset)));
        archive_batch(config, &destinations, self.spool.path(), range, &records, schemas).await;
    }

    /// Bytes by key.
    async fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let listed: Vec<_> = self.store.list(None).try_collect().await.expect("listed");
        let mut objects = BTreeMap::new();
        for object in listed {
            let bytes = self.store.get(&object.location).await.expect("got").bytes().await.expect("read");
            objects.insert(object.location.to_string(), bytes.to_vec());
        }
        objects
    }

    /// Sorted lines of all objects below `prefix`.
    async fn rows(&self, prefix: &str) -> Vec<String> {
        let objects = self.objects().await;
        let of_prefix = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let mut rows: Vec<String> = of_prefix
            .flat_map(|(_, bytes)| String::from_utf8_lossy(bytes).lines().map(str::to_string).collect::<Vec<_>>())
            .collect();
        rows.sort();
        rows
    }

    /// The receipts of all finished replays.
    async fn replay_receipts(&self) -> Vec<ReplayReceipt> {
        let (bucket, partition) = (Bucket::new(self.seen(None, 0).1[URL].clone()), TopicPartition::new("t", 0));
        let mut receipts = Vec::new();
        for (first, n) in bucket.finished_replays(&partition).await.expect("listed") {
            receipts.extend(bucket.replay_receipt(&partition, first, n).await.expect("read"));
        }
        receipts
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects().await.into_keys().filter(|key| key.starts_with(prefix)).collect()
    }
}

const ALL: Limits = Limits {
    letters: u64::MAX,
    dry_run: false,
    letters_of_claim: LETTERS_MAX,
    parts_of_claim: PARTS_MAX,
    blocks_of_part: BLOCKS_MAX,
};

/// What a replay came to.
struct Outcome {
    balance: super::balance::Balance,
    steps: Vec<Step>,
    ended: std::result::Result<(), Failure>,
    stopped: Option<Failure>,
}

async fn replay_in(config: &Config, destinations: Destinations, limits: Limits, selection: &Selection) -> Outcome {
    replay_by(config, destinations, limits, selection, None).await
}

async fn replay_by(
    config: &Config,
    destinations: Destinations,
    limits: Limits,
    selection: &Selection,
    registry: Option<Arc<Registry>>,
) -> Outcome {
    let clock = Arc::new(SystemClock::new());
    let mut replayer = Replayer::new(config, destinations, clock, limits).expect("a spool");
    replayer.asker.registry = registry.or(replayer.asker.registry.take());
    let mut steps = Vec::new();
    let ended = replayer
        .run(selection, &mut |step| {
            steps.push(step);
            Ok(())
        })
        .await;
    assert!(replayer.balance.holds(), "{:?}", replayer.balance);
    Outcome { balance: replayer.balance, steps, ended, stopped: replayer.stopped }
}

async fn replay(world: &World, config: &Config) -> Outcome {
    replay_in(config, world.seen(None, 0).1, ALL, &Selection::default()).await
}

impl Outcome {
    /// Replayed, already replayed and still failing in an output.
    fn of(&self, output: &str) -> (u64, u64, u64) {
        let of = self.balance.outputs.get(output).cloned().unwrap_or_default();
        (of.replayed, of.already, of.failing)
    }

    #[track_caller]
    fn done(self) -> Self {
        if let Err(failure) = &self.ended {
            panic!("{failure}");
        }
        assert!(self.stopped.is_none(), "{:?}", self.stopped);
        self
    }
}

const BY_TIME: &str = "timestamp = { field = \"time\", unit = \"ms\", fallback = \"dead_letter\" }\n";
const BY_TS: &str = "timestamp = { field = \"ts\", unit = \"ms\", fallback = \"dead_letter\" }\n";
const OUTPUTS: &str = "[archive.dead_letters]\npath = \"_dead/{topic}/min=%M\"\n\
    [[archive.output]]\nname = \"rows\"\nformat = { type = \"json\", compression = \"none\" }\n\
    layout = { path = \"rows/hr=%H\" }\n[[archive.output]]\nname = \"more\"\n\
    format = { type = \"json\", compression = \"none\" }\nlayout = { path = \"more/min=%M\" }\n";

fn with(lines: &str) -> String {
    format!("{lines}{OUTPUTS}")
}

fn row(id: u32, time: &str) -> String {
    format!(r#"{{"id":{id},"{time}":{}}}"#, KAFKA_MS + i64::from(id) * 60_000)
}

/// Two that decode, four whose time is called otherwise, and one that is broken for ever.
fn payloads() -> Vec<String> {
    let mut payloads: Vec<String> =
        (0..6).map(|id| row(id, if (1..5).contains(&id) { "ts" } else { "time" })).collect();
    payloads.push("{broken".to_string());
    payloads
}

fn texts(payloads: &[String]) -> Vec<&str> {
    payloads.iter().map(String::as_str).collect()
}

/// The rows that are to be in each output after a replay.
fn all_rows() -> Vec<String> {
    let mut rows = payloads();
    rows.pop();
    rows.sort();
    rows
}

#[tokio::test]
async fn what_decodes_now_is_written_once_and_what_does_not_stays() {
    let world = World::new();
    let before = world.config(&with(BY_TIME));
    world.archived(&before, 100, &texts(&payloads())).await;
    assert_eq!(world.rows("rows/").await, [row(0, "time"), row(5, "time")]);
    let untouched = world.objects().await;

    let same = replay(&world, &before).await.done();
    assert_eq!((same.balance.letters, same.of("rows"), same.steps.len()), (5, (0, 0, 5), 0));
    assert_eq!(world.objects().await, untouched, "nothing decodes, so nothing is written");

    let fixed = world.config(&with(BY_TS));
    let dry = Limits { dry_run: true, ..ALL };
    let said = replay_in(&fixed, world.seen(None, 0).1, dry, &Selection::default()).await.done();
    assert_eq!((said.of("rows"), said.of("more")), ((4, 0, 1), (4, 0, 1)));
    assert_eq!(world.objects().await, untouched, "a dry run writes nothing");

    let first = replay(&world, &fixed).await.done();
    assert_eq!((first.balance.letters, first.of("rows"), first.of("more")), (5, (4, 0, 1), (4, 0, 1)));
    let reasons = first.balance.reasons();
    assert_eq!((reasons.len(), reasons[0].stage.as_str(), reasons[0].letters), (2, "decode", 1));
    assert_eq!((world.rows("rows/").await, world.rows("more/").await), (all_rows(), all_rows()));
    // One object of dead letters a minute, so one replay of the batch each; one object an output and window.
    let name = |n: u32| format!("rows/hr=08/t+00000+{:020}-{:020}+replay-{n}.json", 100, 107);
    let keys = world.keys("rows/").await;
    assert_eq!(keys[..4], (1..5).map(name).collect::<Vec<_>>(), "{keys:?}");
    assert_eq!(said.steps.len(), first.steps.len());

    let once = world.objects().await;
    let again = replay(&world, &fixed).await.done();
    assert_eq!((again.of("rows"), again.of("more"), again.steps.len()), ((0, 4, 1), (0, 4, 1), 0));
    assert_eq!(world.objects().await, once);
    let receipts = world.keys(&format!("{CONTROL_FOLDER}/replays/v1/t/00000/{:020}.", 100)).await;
    assert_eq!(receipts.iter().filter(|key| key.ends_with(".claim")).count(), 4, "{receipts:?}");
    assert_eq!(receipts.len(), 8);
}

#[tokio::test]
async fn selections_and_limits_leave_the_rest() {
    let world = World::new();
    world.archived(&world.config(&with(BY_TIME)), 0, &texts(&payloads())).await;
    world.archived(&world.config(&with(BY_TIME)), 7, &texts(&payloads())).await;
    let fixed = world.config(&with(BY_TS));
    let select = |selection: Selection, limits| {
        let (fixed, world) = (&fixed, &world);
        async move { replay_in(fixed, world.seen(None, 0).1, limits, &selection).await.done().of("rows") }
    };
    let offset = Selection { offset: Some(8), ..Selection::default() };
    assert_eq!(select(offset, ALL).await, (1, 0, 0));
    let time = Selection { since_ms: Some(KAFKA_MS), until_ms: Some(KAFKA_MS + 120_000), ..Selection::default() };
    assert_eq!(select(time, ALL).await, (1, 1, 0));
    let stage = Selection { stages: vec!["decode".into()], ..Selection::default() };
    assert_eq!(select(stage, ALL).await, (0, 0, 2));
    let elsewhere = Selection { partitions: vec![1], ..Selection::default() };
    assert_eq!(select(elsewhere, ALL).await, (0, 0, 0));
    assert_eq!(select(Selection::default(), Limits { letters: 3, ..ALL }).await, (3, 1, 0));
    assert_eq!(select(Selection::default(), ALL).await, (3, 5, 2));
    let mut twice = all_rows();
    twice.extend(all_rows());
    twice.sort();
    assert_eq!(world.rows("rows/").await, twice);
    let unknown = Selection { archive: Some("b".into()), ..Selection::default() };
    let outcome = replay_in(&fixed, world.seen(None, 0).1, ALL, &unknown).await;
    assert_eq!(outcome.ended.expect_err("no such archive").exit, Exit::Config);
}

#[tokio::test]
async fn dead_letters_in_parquet_are_replayed_as_those_in_lines() {
    let world = World::new();
    let parquet =
        |lines: &str| with(lines).replace("[archive.dead_letters]\n", "[archive.dead_letters]\nformat = \"parquet\"\n");
    world.archived(&world.config(&parquet(BY_TIME)), 0, &texts(&payloads())).await;
    assert!(world.keys("_dead/").await.iter().all(|key| key.ends_with(".parquet")));
    // The configuration may have gone back to lines meanwhile.
    let outcome = replay(&world, &world.config(&with(BY_TS))).await.done();
    assert_eq!((outcome.balance.letters, outcome.of("rows"), outcome.of("more")), (5, (4, 0, 1), (4, 0, 1)));
    assert_eq!((world.rows("rows/").await, world.rows("more/").await), (all_rows(), all_rows()));
    assert_eq!(replay(&world, &world.config(&parquet(BY_TS))).await.done().of("rows"), (0, 4, 1));
    let key = &world.keys("_dead/").await[0];
    world.store.put(&Path::from(key.as_str()), "PAR1 is not enough PAR1".into()).await.expect("put");
    let stopped = replay(&world, &world.config(&with(BY_TS))).await.stopped.expect("damaged").message;
    assert!(stopped.contains("is damaged"), "{stopped}");
}

const HIT_1: &str = r#"{"type":"record","name":"Hit","fields":[{"name":"id","type":"long"}]}"#;
const HIT_2: &str = r#"{"type":"record","name":"Hit","fields":[{"name":"id","type":"long"},{"name":"name","type":"string","default":"-"}]}"#;

/// Goal: letters whose schema was unknown become rows once it is registered, all rows of a replay projected onto the newest schema, which the claim
/// keeps for whoever finishes it.
#[tokio::test]
async fn schemas_that_are_registered_meanwhile_make_rows() {
    let world = World::new();
    let text = "decode = { type = \"avro\", registry = true }\n[archive.dead_letters]\npath = \"_dead/{topic}\"\n\
        [[archive.output]]\nname = \"rows\"\nformat = { type = \"json\", compression = \"none\" }\nlayout = { path = \"rows\" }\n\
        [[archive.output]]\nname = \"columns\"\nformat = { type = \"parquet\", schema = \"registry\" }\nlayout = { path = \"columns\" }\n\
        [registry]\nurl = \"http://127.0.0.1:1\"\n";
    let config = world.config(text);
    // Zigzag: 2 is 1. Two ids that nobody knows, and one payload that is cut off.
    let framed = |id: u8, data: &[u8]| [&[0, 0, 0, 0, id][..], data].concat();
    let payloads = [
        framed(7, &[2]),
        framed(8, &[4, 2, b'x']),
        framed(9, &[6]),
        framed(7, &[]),
        framed(8, &[8, 2, b'y']),
        framed(10, &[10]),
    ];
    let before = Registry::knowing(RegistryFormat::Avro, &[(7, HIT_1, &[], 1)]);
    [8, 9, 10].into_iter().for_each(|id| before.forget(id));
    let Lookup::Known(schema) = before.lookup(7) else { panic!("it is known") };
    let aim = Aim::At("7".parse().expect("a target"), schema);
    let schemas = Schemas { registry: Some(Arc::new(before)), aim, ..Schemas::default() };
    world.archived_by(&config, 0, &payloads, &schemas).await;
    assert_eq!(world.rows("rows/").await, [r#"{"id":1}"#]);

    let now = Registry::knowing(RegistryFormat::Avro, &[(7, HIT_1, &[], 1), (8, HIT_2, &[], 3), (9, HIT_1, &[], 2)]);
    now.forget(10);
    let (now, all) = (Arc::new(now), Selection::default());
    // It dies right behind its claim.
    let died = replay_by(&config, world.seen(Some((2, true)), 0).1, ALL, &all, Some(now.clone())).await;
    assert!(died.ended.is_err());
    let outcome = replay_by(&config, world.seen(None, 0).1, ALL, &all, Some(now.clone())).await.done();
    assert_eq!((outcome.balance.finished, outcome.of("rows"), outcome.of("columns")), (3, (0, 3, 2), (0, 3, 2)));
    let rows = [r#"{"id":1}"#, r#"{"id":2,"name":"x"}"#, r#"{"id":3,"name":"-"}"#, r#"{"id":4,"name":"y"}"#];
    assert_eq!(world.rows("rows/").await, rows);
    let receipts = world.replay_receipts().await;
    assert_eq!(receipts.iter().map(|receipt| receipt.replay.target.as_deref()).collect::<Vec<_>>(), [Some("8")]);
    assert_eq!(world.keys("columns/").await.len(), 2);
}

/// One object of dead letters with more than a claim takes.
#[tokio::test]
async fn a_large_object_takes_several_replays() {
    let world = World::new();
    let one_folder = |lines: &str| with(lines).replace("_dead/{topic}/min=%M", "_dead/{topic}");
    world.archived(&world.config(&one_folder(BY_TIME)), 0, &texts(&payloads())).await;
    let fixed = world.config(&one_folder(BY_TS));
    let small = Limits { letters_of_claim: 3, ..ALL };
    let outcome = replay_in(&fixed, world.seen(None, 0).1, small, &Selection::default()).await.done();
    assert_eq!((outcome.balance.letters, outcome.of("rows"), outcome.steps.len()), (5, (4, 0, 1), 2));
    assert_eq!(world.rows("rows/").await, all_rows());
    assert_eq!(world.keys("rows/").await.len(), 3);
}

/// Goal: rows of many objects take several claims, so that neither a claim nor what finishing it takes grows with the dead letters.
#[tokio::test]
async fn a_claim_ends_before_it_has_too_many_objects() {
    let by_field = |lines: &str| {
        let one_folder = with(lines).replace("_dead/{topic}/min=%M", "_dead/{topic}");
        one_folder.replace("rows/hr=%H", "rows/id={field.id}").replace("more/min=%M", "more/id={field.id}")
    };
    let texts: Vec<String> = (0..10).map(|id| row(id, "ts")).collect();
    let payloads: Vec<&str> = texts.iter().map(String::as_str).collect();
    // Objects of each claim: two a letter, so an odd bound is passed by one; and however low it is, one letter goes through.
    for (parts_of_claim, expected) in [(5, vec![6, 6, 6, 2]), (4, vec![4; 5]), (1, vec![2; 10]), (PARTS_MAX, vec![20])]
    {
        let world = World::new();
        world.archived(&world.config(&by_field(BY_TIME)), 0, &payloads).await;
        assert_eq!((world.keys("_dead/").await.len(), world.keys("rows/").await.len()), (1, 0));
        let fixed = world.config(&by_field(BY_TS));
        let limits = Limits { parts_of_claim, ..ALL };
        let outcome = replay_in(&fixed, world.seen(None, 0).1, limits, &Selection::default()).await.done();
        assert_eq!((outcome.of("rows"), outcome.of("more")), ((10, 0, 0), (10, 0, 0)));
        let receipts = world.replay_receipts().await;
        let objects: Vec<usize> = receipts.iter().map(|receipt| receipt.objects.len()).collect();
        assert_eq!(objects, expected, "{parts_of_claim}");
        assert_eq!((world.rows("rows/").await, world.rows("more/").await), (texts.clone(), texts.clone()));
    }
}

/// Goal: no object gets more row groups than Parquet has room for.
#[tokio::test]
async fn a_claim_ends_before_an_object_has_too_many_blocks() {
    let world = World::new();
    let parquet = |lines: &str| {
        let format = "{ type = \"parquet\", schema = [{ name = \"id\", type = \"INT64\" }], unknown = \"drop\" }";
        let text = with(lines)
            .replace("_dead/{topic}/min=%M", "_dead/{topic}")
            .replace("{ type = \"json\", compression = \"none\" }", format);
        let mut config = world.config(&text);
        for output in &mut config.archives[0].layout.outputs {
            let OutputFormat::Parquet { row_group_rows, .. } = &mut output.format else { panic!("Parquet") };
            // Fewer than a configuration may ask for.
            *row_group_rows = 2;
        }
        config
    };
    let texts: Vec<String> = (0..15).map(|id| row(id, "ts")).collect();
    world.archived(&parquet(BY_TIME), 0, &self::texts(&texts)).await;
    let limits = Limits { blocks_of_part: 3, ..ALL };
    let fixed = parquet(BY_TS);
    let outcome = replay_in(&fixed, world.seen(None, 0).1, limits, &Selection::default()).await.done();
    assert_eq!(outcome.of("rows"), (15, 0, 0));
    let receipts = world.replay_receipts().await;
    let rows: Vec<usize> = receipts.iter().map(|receipt| receipt.replay.rows["rows"].len()).collect();
    assert_eq!(rows, [6, 6, 3]);
    let mut groups = Vec::new();
    for (key, bytes) in world.objects().await.into_iter().filter(|(key, _)| key.starts_with("rows/")) {
        let reader =
            SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap_or_else(|error| panic!("{key}: {error}"));
        groups.push(reader.metadata().num_row_groups());
    }
    assert_eq!(groups, [3, 3, 2]);
}

/// Goal: a claim also ends where the budget has no room for more objects, and until then most of the memory is left for rows.
#[tokio::test]
async fn objects_that_are_open_take_half_of_the_memory_at_most() {
    let world = World::new();
    let config = world.config(&with(BY_TS).replace("more/min=%M", "more/id={field.id}"));
    let (_, destinations) = world.seen(None, 0);
    let layout = &config.archives[0].layout;
    let archive = Archive::compile(layout, &destinations, &BTreeMap::new(), &Schemas::default()).expect("compiles");
    let mut spool = Spool::open(world.spool.path(), 1 << 30, 1).expect("a spool");
    let asker = Asker { registry: None, clock: Arc::new(SystemClock::new()) };
    let (rows_max, output) = (64 << 10, archive.data_outputs() - 1);
    let mut taking = Taking::new(Arc::new(archive), &mut spool, rows_max, &asker).expect("a folder");
    for id in 0.. {
        let record = OwnedRecord { topic: "t".into(), value: Some(row(id, "ts").into()), ..OwnedRecord::default() };
        let (stage, outputs, reason) = ("timestamp".into(), vec!["more".into()], "r".into());
        let letter = Letter { record, index: id, row: None, stage, outputs, reason };
        let outcomes = taking.take(&letter, &[Wanted { output, row: None }]).await.expect("taken");
        assert_eq!(outcomes, [Again::Rows(1)]);
        if taking.is_crowded() {
            break;
        }
    }
    // A KiB each beside their rows, and some are made between two looks.
    assert!((32..=64).contains(&taking.parts()), "{} parts", taking.parts());
    assert!(taking.seal(&TopicPartition::new("t", 0), OffsetRange::new(0, 1), 1).expect("sealed").parts.len() >= 32);
}

/// Goal: what was replayed costs two requests a claim, and one an object of dead letters, however many of both a batch has.
#[tokio::test]
async fn claims_are_read_once() {
    let world = World::new();
    world.archived(&world.config(&with(BY_TIME)), 0, &texts(&payloads())).await;
    let fixed = world.config(&with(BY_TS));
    // Five objects of dead letters, of which four make rows: nobody else claims, so each of them finds its number free at once.
    for expected in [5, 4 * 2 + 5] {
        let (seen, destinations) = world.seen(None, 0);
        replay_in(&fixed, destinations, ALL, &Selection::default()).await.done();
        assert_eq!(seen.step.replays_read.load(Ordering::SeqCst), expected);
    }
    assert_eq!(world.replay_receipts().await.len(), 4);
    assert_eq!(world.rows("rows/").await, all_rows());
}

/// Goal: layouts are compared once, not for every dead letter.
#[tokio::test]
async fn layouts_are_compared_once() {
    let world = World::new();
    let unfold = |function: &str| {
        world.config(&with(&format!(
            "decode = {{ type = \"json\", unfold = true }}\ntransform = '.id = {function}!(.id)'\n"
        )))
    };
    let (old, new) = (unfold("int"), unfold("to_int"));
    let (old, new) = (&old.archives[0].layout, &new.archives[0].layout);
    let bucket = Bucket::new(world.seen(None, 0).1[URL].clone());
    bucket.put_layout(old).await.expect("stored");
    let (mut layouts, clock) = (Layouts::new(new), SystemClock::new());
    let first = layouts.numbers(&bucket, &clock, &old.fingerprint()).await.expect("read");
    let second = layouts.numbers(&bucket, &clock, &old.fingerprint()).await.expect("known");
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(*first, [Ok(()), Ok(())]);
    let unread = layouts.numbers(&bucket, &clock, &"0".repeat(64)).await.expect("an answer");
    assert!(unread.iter().all(|of| of.as_ref().is_err_and(|why| why.contains("cannot be read"))), "{unread:?}");
}

#[tokio::test]
async fn each_output_is_replayed_on_its_own() {
    let world = World::new();
    world.archived(&world.config(&with(BY_TIME)), 0, &texts(&payloads())).await;
    // The second output is called otherwise now, and the first one filters.
    let renamed = with(BY_TS)
        .replace("\"more\"", "\"other\"")
        .replace("layout = { path = \"rows/hr=%H\" }", "layout = { path = \"rows/hr=%H\" }\nfilter = \".id != 2\"");
    let outcome = replay(&world, &world.config(&renamed)).await.done();
    assert_eq!((outcome.of("rows"), outcome.of("more")), ((3, 0, 1), (0, 0, 0)));
    assert_eq!(outcome.balance.outputs["more"].gone, 5);
    assert_eq!(outcome.balance.outputs["rows"].dropped, BTreeMap::from([("filter".to_string(), 1)]));
    assert!(!outcome.balance.outputs.contains_key("other"), "nothing was missing there");
    let outcome = replay(&world, &world.config(&with(BY_TS))).await.done();
    assert_eq!((outcome.of("rows"), outcome.of("more")), ((1, 3, 1), (4, 0, 1)));
    assert_eq!((world.rows("rows/").await, world.rows("more/").await), (all_rows(), all_rows()));
}

#[tokio::test]
async fn of_a_record_of_several_rows_only_the_refused_one_is_written() {
    let unfold = "decode = { type = \"json\", unfold = true }\n";
    let transform = |program: &str| with(&format!("{unfold}transform = '{program}'\n"));
    let records = [r#"[{"id":0},{"id":"1"},{"id":2}]"#, r#"[{"id":"3"},{"id":4}]"#, r#"[{"id":"x"},{"id":5}]"#];
    let fails = transform(".id = int!(.id)");
    let sound = transform(".id = to_int!(.id)");
    let spreads = transform("if is_string(.id) { . = [{\"id\": to_int!(.id)}] }");

    let world = World::new();
    world.archived(&world.config(&fails), 0, &records).await;
    let ids = |ids: &[u32]| ids.iter().map(|id| format!(r#"{{"id":{id}}}"#)).collect::<Vec<_>>();
    assert_eq!(world.rows("rows/").await, ids(&[0, 2, 4, 5]));
    // It could number rows otherwise, and so could another decoder.
    for other in [&spreads, &fails.replace(unfold, ""), &with("decode = \"raw\"\n").replace("json\",", "raw\",")] {
        let outcome = replay(&world, &world.config(other)).await.done();
        assert_eq!((outcome.of("rows"), outcome.of("more")), ((0, 0, 3), (0, 0, 3)), "{other}");
        assert!(outcome.balance.reasons().iter().all(|reason| reason.reason.contains("one of several rows")));
    }
    let outcome = replay(&world, &world.config(&sound)).await.done();
    assert_eq!(outcome.of("rows"), (2, 0, 1));
    assert_eq!(
        (world.rows("rows/").await, world.rows("more/").await),
        (ids(&[0, 1, 2, 3, 4, 5]), ids(&[0, 1, 2, 3, 4, 5]))
    );
    let outcome = replay(&world, &world.config(&sound)).await.done();
    assert_eq!((outcome.of("rows"), outcome.steps.len()), ((0, 2, 1), 0));
}

/// A record that was refused as a whole may unfold to several rows now: all of them are written, or none.
#[tokio::test]
async fn a_whole_record_is_written_whole() {
    let world = World::new();
    let records = [r#"[{"id":0},{"id":1}]"#, r#"[{"id":2},{"id":"x"}]"#];
    world.archived(&world.config(&with("transform = '.id = int!(.id)'\n")), 0, &records).await;
    assert_eq!(world.rows("rows/").await, Vec::<String>::new());
    let unfold = "decode = { type = \"json\", unfold = true }\n";
    let outcome =
        replay(&world, &world.config(&with(&format!("{unfold}transform = '.id = int!(.id)'\n")))).await.done();
    assert_eq!((outcome.of("rows"), outcome.balance.outputs["rows"].rows), ((1, 0, 1), 2));
    assert_eq!(world.rows("rows/").await, [r#"{"id":0}"#, r#"{"id":1}"#]);
    let outcome = replay(&world, &world.config(&with(unfold))).await.done();
    assert_eq!((outcome.of("rows"), outcome.balance.outputs["rows"].rows), ((1, 1, 0), 2));
    assert_eq!(world.rows("rows/").await.len(), 4);
}

/// Goal: a replay that dies before or after any of its writes is finished by the next one, and each row is there once: also where
/// the next one has another configuration, which must not write under other names what the dead one has claimed.
#[tokio::test]
async fn a_replay_that_dies_at_any_write_is_finished() {
    let fixed = with(BY_TS);
    let moved = fixed.replace("rows/hr=%H", "rows/moved/hr=%H");
    let (mut died, mut finished) = (0, 0);
    for successor in [&fixed, &moved] {
        for after in [false, true] {
            for write in 1.. {
                let world = World::new();
                world.archived(&world.config(&with(BY_TIME)), 0, &texts(&payloads())).await;
                let config = world.config(&fixed);
                let (_, destinations) = world.seen(Some((write, after)), 0);
                let outcome = replay_in(&config, destinations, ALL, &Selection::default()).await;
                if outcome.ended.is_ok() {
                    break;
                }
                died += 1;
                let outcome = replay(&world, &world.config(successor)).await.done();
                finished += outcome.balance.finished;
                let at = format!("write {write}, after it: {after}");
                assert_eq!((world.rows("rows/").await, world.rows("more/").await), (all_rows(), all_rows()), "{at}");
                let control = world.keys(&format!("{CONTROL_FOLDER}/replays/")).await;
                for claim in control.iter().filter_map(|key| key.strip_suffix(".claim")) {
                    assert!(control.contains(&format!("{claim}.json")), "{at}: {claim} has no receipt");
                }
                let outcome = replay(&world, &world.config(successor)).await.done();
                assert_eq!((outcome.of("rows"), outcome.of("more")), ((0, 4, 1), (0, 4, 1)), "{at}");
            }
        }
    }
    // A layout, and four times claim, two objects, receipt.
    assert_eq!((died, finished > 20), (2 * 2 * 17, true), "{died} deaths, {finished} letters finished by a successor");
}

/// Goal: of two replays that run side by side each row is written once, whatever their order. Method: before and after every
/// request a seeded number of turns is left to the other one. To debug a failure, run the seed it names.
#[tokio::test]
async fn two_replays_side_by_side_write_each_row_once() {
    let (mut both, mut lost) = (0, 0);
    for seed in 1..=150_u64 {
        let world = World::new();
        world.archived(&world.config(&with(BY_TIME)), 0, &texts(&payloads())).await;
        // Half of the time the two do not even agree on the names.
        let second = with(BY_TS).replace("rows/hr=%H", if seed % 2 == 0 { "rows/hr=%H" } else { "rows/x/hr=%H" });
        let (first, second) = (world.config(&with(BY_TS)), world.config(&second));
        let dice = |n: u64| (seed * 2 + n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let everything = Selection::default();
        let (one, two) = futures::join!(
            replay_in(&first, world.seen(None, dice(0)).1, ALL, &everything),
            replay_in(&second, world.seen(None, dice(1)).1, ALL, &everything)
        );
        let (one, two) = (one.done(), two.done());
        assert_eq!((world.rows("rows/").await, world.rows("more/").await), (all_rows(), all_rows()), "seed {seed}");
        let (ones, twos) = (one.of("rows").0, two.of("rows").0);
        // Both may say so of a letter where they decided alike; nobody has to.
        assert!(ones + twos >= 1, "seed {seed}");
        both += u64::from(ones > 0 && twos > 0);
        lost += one.balance.finished + two.balance.finished;
    }
    assert!(both > 30 && lost > 30, "{both} seeds in which both wrote, {lost} letters finished for the other one");
}

#[tokio::test]
async fn damage_is_told_and_the_rest_goes_on() {
    let world = World::new();
    world.archived(&world.config(&with(BY_TIME)), 0, &texts(&payloads())).await;
    let fixed = world.config(&with(BY_TS));
    let dead = world.keys("_dead/").await;
    let (gone, damaged) = (Path::from(dead[0].as_str()), Path::from(dead[1].as_str()));
    let kept = world.objects().await;
    world.store.delete(&gone).await.expect("deleted");
    world.store.put(&damaged, kept[&dead[1]][..20].to_vec().into()).await.expect("put");
    let outcome = replay(&world, &fixed).await;
    assert!(outcome.ended.is_ok());
    let stopped: Vec<_> = outcome.steps.iter().filter(|step| matches!(step, Step::Stopped { .. })).collect();
    assert_eq!((stopped.len(), outcome.of("rows")), (2, (2, 0, 1)), "{stopped:?}");
    let first = outcome.stopped.expect("the first of them").message;
    assert!(first.contains("is not there"), "{first}");
    for (key, bytes) in kept.iter().filter(|(key, _)| key.starts_with("_dead/")) {
        world.store.put(&Path::from(key.as_str()), bytes.clone().into()).await.expect("restored");
    }
    assert_eq!(replay(&world, &fixed).await.done().of("rows"), (2, 2, 1));
    assert_eq!(world.rows("rows/").await, all_rows());
}

fn gzip(lines: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(lines.as_bytes()).expect("in memory");
    encoder.finish().expect("in memory")
}

/// Goal: an object that holds a dead letter twice, or names an output twice, makes no row twice, and no claim that nobody can finish.
#[tokio::test]
async fn what_would_make_a_row_twice_is_damage() {
    let line = |index: u32, more: &str| {
        let value = BASE64.encode(row(0, "ts"));
        format!(
            "{{\"topic\":\"t\",\"partition\":0,\"offset\":0,\"index\":{index},\"timestamp\":{KAFKA_MS},\"key_base64\":null,\
             \"headers\":[],\"value_base64\":\"{value}\",\"stage\":\"timestamp\",\"reason\":\"r\",{more}}}\n"
        )
    };
    let of = |outputs: &str| format!("\"outputs\":[{outputs}]");
    let of_row = |row: u32, outputs: &str| format!("\"row\":{row},\"outputs\":[{outputs}]");
    let (both, rows, more) = (of(r#""rows","more""#), of(r#""rows""#), of(r#""more""#));
    let cases = [
        (line(0, &of(r#""rows","rows""#)), "name the output rows twice"),
        (line(0, &both) + &line(0, &both), "of offset 0 index 0 lies behind that of offset 0 index 0"),
        (line(1, &rows) + &line(0, &more), "of offset 0 index 0 lies behind that of offset 0 index 1"),
        (line(0, &rows) + &line(1, &both), "name the output rows twice"),
        (line(0, &rows) + &line(1, &of_row(1, r#""rows""#)), "of offset 0 index 1 row 1 lies behind"),
        (line(0, &of_row(1, r#""rows""#)) + &line(1, &of_row(0, r#""rows""#)), "index 1 row 0 lies behind"),
    ];
    for (lines, expected) in cases {
        let world = World::new();
        world.archived(&world.config(&with(BY_TIME)), 0, &[&row(0, "ts")]).await;
        let key = world.keys("_dead/").await.remove(0);
        world.store.put(&Path::from(key), gzip(&lines).into()).await.expect("put");
        let outcome = replay(&world, &world.config(&with(BY_TS))).await;
        let stopped = outcome.stopped.unwrap_or_else(|| panic!("{lines}")).message;
        assert!(stopped.contains("is damaged") && stopped.contains(expected), "{stopped}\n{lines}");
        assert_eq!((world.rows("rows/").await, world.replay_receipts().await), (Vec::new(), Vec::new()), "{lines}");
    }
    // As outputs refuse a record for reasons of their own.
    let world = World::new();
    world.archived(&world.config(&with(BY_TIME)), 0, &[&row(0, "ts")]).await;
    let key = world.keys("_dead/").await.remove(0);
    world.store.put(&Path::from(key), gzip(&(line(0, &rows) + &line(1, &more))).into()).await.expect("put");
    replay(&world, &world.config(&with(BY_TS))).await.done();
    assert_eq!((world.rows("rows/").await, world.rows("more/").await), (vec![row(0, "ts")], vec![row(0, "ts")]));
}

/// Goal: a replay that was begun and cannot be finished keeps nobody from the other dead letters of its batch, nor lets its own be written twice.
#[tokio::test]
async fn a_replay_that_cannot_be_finished_holds_up_nothing_else() {
    const OTHER: &str = "s3://other/archive";
    let world = World::new();
    let at_other = |lines: &str| {
        format!("{}destination = \"other\"\n[destinations.other]\nurl = \"{OTHER}\"\n", with(lines))
            .replace(
                "[[archive.output]]\nname = \"rows\"",
                "[[archive.output]]\ndestination = \"main\"\nname = \"rows\"",
            )
            .replace("[archive.dead_letters]\n", "[archive.dead_letters]\ndestination = \"main\"\n")
    };
    let with_other = |dies| {
        let (seen, mut destinations) = world.seen(dies, 0);
        let other = Destination::from_store("other", OTHER, seen, StoreKind::Memory);
        destinations.insert(OTHER.to_string(), Arc::new(other));
        destinations
    };
    world.archived(&world.config(&with(BY_TIME)), 0, &texts(&payloads())).await;
    let all = Selection::default();
    // It dies right behind its first claim, which names objects at a destination that the next one has not.
    let died = replay_in(&world.config(&at_other(BY_TS)), with_other(Some((2, true))), ALL, &all).await;
    assert!(died.ended.is_err());
    assert_eq!(world.rows("rows/").await.len(), 2);
    for expected in [(3, 1, 1), (0, 4, 1)] {
        let outcome = replay(&world, &world.config(&with(BY_TS))).await;
        assert!(outcome.ended.is_ok(), "{:?}", outcome.ended);
        assert_eq!((outcome.of("rows"), outcome.of("more")), (expected, expected));
        let told = outcome.steps.iter().filter(|step| matches!(step, Step::Stopped { .. })).count();
        let failure = outcome.stopped.expect("a person must look");
        assert_eq!((told, failure.exit), (1, Exit::Stopped));
        assert!(failure.message.contains("replay 1 of the batch at 0 of t/0 was begun and not finished"), "{failure}");
        assert_eq!(world.rows("rows/").await.len(), 5);
    }
    let outcome = replay_in(&world.config(&at_other(BY_TS)), with_other(None), ALL, &all).await.done();
    assert_eq!((outcome.balance.finished, outcome.of("rows")), (1, (0, 4, 1)));
    assert_eq!((world.rows("rows/").await, world.rows("more/").await), (all_rows(), all_rows()));
}

#[tokio::test]
async fn another_group_and_stores_without_conditions_are_refused() {
    let world = World::new();
    world.archived(&world.config(&with(BY_TIME)), 0, &texts(&payloads())).await;
    let mut config = world.config(&with(BY_TS));
    let (_, destinations) = world.seen(None, 0);
    let bare = Destination::from_store("main", URL, world.store.clone(), StoreKind::Memory);
    let without = BTreeMap::from([(URL.to_string(), Arc::new(bare.without_conditional_put()))]);
    let outcome = replay_in(&config, without.clone(), ALL, &Selection::default()).await;
    let failure = outcome.ended.expect_err("nothing is a fence there");
    assert!(failure.exit == Exit::Config && failure.message.contains("conditional_put = false"), "{failure}");
    let dry = replay_in(&config, without, Limits { dry_run: true, ..ALL }, &Selection::default()).await.done();
    assert_eq!(dry.of("rows"), (4, 0, 1), "to look is allowed");
    config.kafka.group = "other".to_string();
    let failure = replay_in(&config, destinations, ALL, &Selection::default()).await.ended.expect_err("not ours");
    assert!(failure.exit == Exit::Stopped && failure.message.contains("group"), "{failure}");
}

/// Two objects of one batch and name would be one.
#[tokio::test]
async fn somebody_elses_object_is_not_taken_for_ours() {
    let world = World::new();
    world.archived(&world.config(&with(BY_TIME)), 0, &texts(&payloads())).await;
    let key = format!("rows/hr=08/t+00000+{:020}-{:020}+replay-1.json", 0, 7);
    let attributes = object_store::Attributes::from_iter([(
        object_store::Attribute::Metadata("siltstone-records".into()),
        "77".to_string(),
    )]);
    let options = PutOptions { attributes, ..PutOptions::default() };
    world.store.put_opts(&Path::from(key.as_str()), "theirs".into(), options).await.expect("put");
    let outcome = replay(&world, &world.config(&with(BY_TS))).await;
    let failure = outcome.stopped.expect("a person must look");
    assert!(failure.message.contains("another object with 77 rows"), "{failure}");
    world.store.delete(&Path::from(key.as_str())).await.expect("moved away");
    replay(&world, &world.config(&with(BY_TS))).await.done();
    assert_eq!(world.rows("rows/").await, all_rows());
    let receipts = world.replay_receipts().await;
    assert_eq!(receipts.iter().map(|receipt| receipt.replay.letters()).sum::<u64>(), 4);
}
