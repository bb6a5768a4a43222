//! Goal: a compacted archive holds the rows that it held, and every command sees them once. Method: archives that the pipeline's own parts make on a
//! store in memory, compacted by the command as it is typed, and looked at with `ls`, `cat`, `find` and `verify --deep`.

mod damaged;
mod undone;

use crate::bucket::Bucket;
use crate::bucket::compactions::{CompactionOutcome, CompactionReceipt};
use crate::bucket::jobs::{JOB_VERSION, Job, JobRange, JobRequest};
use crate::cli::{Cli, Command};
use crate::clock::ManualClock;
use crate::commands::compact::compact_in;
use crate::config::Config;
use crate::destination::stepped::{StepIn, Stepped, Within};
use crate::destination::{Destination, StoreKind};
use crate::exit::{Exit, Failure};
use crate::ledger::Destinations;
use crate::ledger::live::{Live, Standing};
use crate::reader::tests::archives::{
    BASE_MS, BY_TIME, MINUTE_MS, Ran, SPARE, URL, World, every_format, id, output, record, three_by_three,
};
use crate::record::{OffsetRange, OwnedRecord, TopicPartition};
use crate::upload::Look;
use crate::verify::finding::{Finding, Kind};
use crate::verify::{Options, Parts, Told, Verified, verify};
use async_trait::async_trait;
use clap::Parser;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutOptions, PutPayload, PutResult, Result,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tokio::sync::Notify;

/// A week later.
const LATER_MS: i64 = BASE_MS + 7 * 24 * 60 * MINUTE_MS;
const OUTPUTS: [&str; 6] = ["json", "kept", "raw", "avro", "parquet", "envelope"];

/// A store that dies after so many writes, some with the last one done. A delete of many is one write.
#[derive(Debug)]
struct Mortal {
    left: AtomicI64,
    last_is_done: bool,
    /// Documents with that in their names come at this moment: they are not listed until the process wants to put one itself.
    unlisted: Option<&'static str>,
    has_met_them: AtomicBool,
    /// Whoever deletes is refused.
    no_deletes: bool,
    /// A put with that in its name comes to the store late, and nobody answers for half an hour of that clock.
    late: Option<(&'static str, Arc<ManualClock>)>,
    /// Where the process is stopped.
    gate: Option<Arc<Gate>>,
}

/// Where a process is stopped, once, until it is let go on.
#[derive(Debug)]
struct Gate {
    /// `delete`, or something in `put <key>`, `<key> is put` or `get <key>`.
    at: &'static str,
    is_passed: AtomicBool,
    reached: Notify,
    open: Notify,
}

impl Gate {
    fn at(at: &'static str) -> Arc<Self> {
        Arc::new(Self { at, is_passed: AtomicBool::new(false), reached: Notify::new(), open: Notify::new() })
    }

    async fn pass(&self, request: &str) {
        if request.contains(self.at) && !self.is_passed.swap(true, Ordering::SeqCst) {
            self.reached.notify_one();
            self.open.notified().await;
        }
    }

    /// Runs a process until it comes here.
    async fn stops<T>(&self, mut process: Pin<&mut impl Future<Output = T>>) {
        tokio::select! {
            _ = &mut process => panic!("it never came to {}", self.at),
            () = self.reached.notified() => {}
        }
    }

    /// Runs a process, which is stopped here while something else is done.
    async fn meanwhile<T>(&self, process: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
        let mut process = std::pin::pin!(process);
        self.stops(process.as_mut()).await;
        other.await;
        self.open.notify_one();
        process.await
    }
}

fn dead() -> Error {
    Error::PermissionDenied { path: String::new(), source: "the process is dead".into() }
}

impl Mortal {
    /// One that lives.
    fn never() -> Self {
        Self {
            left: AtomicI64::new(i64::MAX),
            last_is_done: true,
            unlisted: None,
            has_met_them: AtomicBool::new(false),
            no_deletes: false,
            late: None,
            gate: None,
        }
    }

    async fn pass(&self, request: String) {
        if let Some(gate) = &self.gate {
            gate.pass(&request).await;
        }
    }

    /// Whether the next write happens, and whether its answer comes.
    fn next(&self) -> (bool, bool) {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        (left > 0 || (left == 0 && self.last_is_done), left > 0)
    }
}

#[async_trait]
impl StepIn for Mortal {
    async fn put(
        &self,
        within: &Within,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.pass(format!("put {location}")).await;
        if self.unlisted.is_some_and(|name| is_end_of(location, name)) {
            self.has_met_them.store(true, Ordering::SeqCst);
        }
        if let Some((_, clock)) = self.late.as_ref().filter(|(name, _)| location.as_ref().contains(name)) {
            clock.advance(30 * MINUTE_MS);
            return Err(Error::Generic { store: "late", source: "no answer".into() });
        }
        let (happens, answers) = self.next();
        let put = if happens { within.put_opts(location, payload, options).await } else { Err(dead()) };
        self.pass(format!("{location} is put")).await;
        if answers { put } else { Err(dead()) }
    }
    async fn get(&self, within: &Within, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.left.load(Ordering::SeqCst) < 0 {
            return Err(dead());
        }
        self.pass(format!("get {location}")).await;
        within.get_opts(location, options).await
    }
    fn delete(&self, within: &Within, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let dead_stream = || futures::stream::iter([Err(dead())]).boxed();
        if self.no_deletes {
            return dead_stream();
        }
        let (happens, answers) = self.next();
        let deleting = match (happens, answers) {
            (false, _) => dead_stream(),
            (true, true) => within.delete_stream(locations),
            // Half of them are gone.
            (true, false) => within.delete_stream(locations).take(1).chain(dead_stream()).boxed(),
        };
        let Some(gate) = self.gate.clone() else { return deleting };
        let waiting = async move {
            gate.pass("delete").await;
            deleting
        };
        futures::stream::once(waiting).flatten().boxed()
    }
    fn list(&self, within: &Within, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let unlisted = self.unlisted.filter(|_| !self.has_met_them.load(Ordering::SeqCst));
        let is_listed = move |found: &Result<ObjectMeta>| {
            let hides = |name: &str| found.as_ref().is_ok_and(|object| is_end_of(&object.location, name));
            std::future::ready(!unlisted.is_some_and(hides))
        };
        within.list(prefix).filter(is_listed).boxed()
    }
}

/// Destinations of a process that dies after `writes` writes to the main one.
fn mortal(world: &World, writes: i64, last_is_done: bool) -> Destinations {
    at_store(world, Mortal { left: AtomicI64::new(writes), last_is_done, ..Mortal::never() })
}

/// Destinations of a process that is stopped at a gate.
fn stopped(world: &World, gate: &Arc<Gate>) -> Destinations {
    at_store(world, Mortal { gate: Some(gate.clone()), ..Mortal::never() })
}

/// Whether it says that a compaction with that number, between dots, is finished: the receipt, or the mark.
fn is_end_of(location: &Path, number: &str) -> bool {
    let name = location.as_ref();
    let is_end = name.ends_with(".json") || name.ends_with(".done");
    name.contains("/compactions/") && name.contains(number) && is_end
}

/// Destinations of a process that lists before it can see that compactions of such numbers are finished.
fn a_moment_ago(world: &World, unlisted: &'static str) -> Destinations {
    at_store(world, Mortal { unlisted: Some(unlisted), ..Mortal::never() })
}

fn at_store(world: &World, store: Mortal) -> Destinations {
    let store = Stepped::over(world.main.clone(), store);
    let main = Destination::from_store("main", URL, store, StoreKind::Memory);
    let mut destinations = world.destinations();
    destinations.insert(URL.to_string(), Arc::new(main));
    destinations
}

async fn compact_at(config: &Config, destinations: Destinations, now_ms: i64, line: &str) -> Ran {
    compact_by(config, destinations, Arc::new(ManualClock::at(now_ms)), line).await
}

async fn compact_by(config: &Config, destinations: Destinations, clock: Arc<ManualClock>, line: &str) -> Ran {
    let words = ["siltstone", "compact", "-c", "x"].into_iter().chain(line.split_whitespace());
    let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    let Command::Compact(args) = &cli.command else { panic!("{cli:?}") };
    let mut out = Vec::new();
    let exit = compact_in(args, config, destinations, clock, &mut out).await;
    Ran { exit, out: String::from_utf8(out).expect("text"), notes: String::new() }
}

async fn compact(world: &World, config: &Config, line: &str) -> Ran {
    let line = format!("--before 2d --json {line}");
    compact_at(config, world.destinations(), LATER_MS, &line).await.done()
}

fn summary(ran: &Ran) -> Value {
    ran.json().pop().expect("a summary")
}

/// What `verify --deep` says.
async fn verified(world: &World, config: &Config) -> (Vec<Finding>, Vec<&'static str>, Verified) {
    let (mut findings, mut notes) = (Vec::new(), Vec::new());
    let parts = Parts {
        destinations: world.destinations(),
        clock: Arc::new(ManualClock::at(LATER_MS)),
        cluster: None,
        counters: Arc::default(),
    };
    let options = Options { deep: true, ..Options::default() };
    let mut tell = |told: Told| {
        match told {
            Told::Finding(finding) => findings.push(finding),
            Told::Note(note) => notes.push(note.note),
        }
        Ok(())
    };
    let verified = verify(config, parts, &options, &mut tell).await.expect("verified");
    (findings, notes, verified)
}

async fn assert_clean(world: &World, config: &Config, what: &str) -> Verified {
    let (findings, notes, verified) = verified(world, config).await;
    assert!(findings.is_empty() && notes.is_empty(), "{what}: {findings:#?} {notes:?}");
    verified
}

/// What `cat` prints of each output, in both orders.
async fn printed(world: &World, config: &Config, outputs: &[&str]) -> BTreeMap<String, String> {
    let mut printed = BTreeMap::new();
    for name in outputs {
        for order in ["offset", "time"] {
            let line = format!("cat --topic t --output {name} --order {order}");
            printed.insert(line.clone(), world.run(config, &line).await.done().out);
        }
    }
    printed
}

async fn data_keys(world: &World) -> BTreeSet<String> {
    let keys = world.keys().await.into_iter().map(|key| key.to_string());
    keys.filter(|key| !key.starts_with("_siltstone/")).collect()
}

/// Goal: rows of every format come out as they went in, in the same order; fewer objects hold them, and nothing else is left of the old ones.
#[tokio::test]
async fn every_format_is_compacted_and_reads_the_same() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let before = printed(&world, &config, &OUTPUTS).await;
    let old = data_keys(&world).await;
    let listed = world.run(&config, "ls --json").await.done().json().pop().expect("totals");
    let dry = summary(&compact(&world, &config, "--dry-run").await);
    assert_eq!(data_keys(&world).await, old, "a dry run writes nothing");
    let done = summary(&compact(&world, &config, "").await);
    // Of the hours 08 to 11, 09 and 10 have objects of two batches each.
    for key in ["compactions", "inputs", "objects", "rows", "left"] {
        assert_eq!(dry[key], done[key], "{key}: {dry} {done}");
    }
    assert_eq!((&done["left"], &done["stopped"]), (&0.into(), &0.into()));
    let (inputs, objects) = (done["inputs"].as_u64().expect("a count"), done["objects"].as_u64().expect("a count"));
    assert_eq!((inputs, objects), (2 * objects, objects), "{done}");
    let new = data_keys(&world).await;
    assert_eq!(new.difference(&old).count() as u64, objects);
    assert_eq!(old.difference(&new).count() as u64, inputs);
    assert!(new.difference(&old).all(|key| key.contains("+compact-1.")), "{new:?}");
    assert_eq!(printed(&world, &config, &OUTPUTS).await, before);
    let verified = assert_clean(&world, &config, "compacted").await;
    assert_eq!((verified.summary.replaced, verified.summary.objects), (inputs, new.len() as u64));
    let now = world.run(&config, "ls --json").await.done().json();
    let total = now.last().expect("totals");
    assert_eq!((&total["total"]["rows"], &total["total"]["objects"]), (&listed["total"]["rows"], &new.len().into()));
    assert!(now.iter().any(|line| line["compaction"] == 1 && line["end"].as_i64() > line["first"].as_i64()));
    // Again there is nothing to do.
    let again = summary(&compact(&world, &config, "").await);
    assert_eq!((&again["compactions"], &again["deleted"]), (&0.into(), &0.into()));
    assert_eq!(data_keys(&world).await, new);
}

/// Goal: each offset is found in the object that has it now, and only once; a range of offsets gives its rows.
#[tokio::test]
async fn offsets_are_found_in_what_replaced_their_objects() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let find = |offset: i64| {
        let (world, config) = (&world, &config);
        async move { world.run(config, &format!("find t/1/{offset} --json")).await.done().json().remove(0) }
    };
    let places = |found: &Value| -> Vec<(String, String, usize)> {
        let outputs = found["outputs"].as_array().expect("outputs").iter();
        let of = |output: &Value| {
            let objects = output["objects"].as_array().expect("objects");
            (output["output"].to_string(), output["fate"].to_string(), objects.len())
        };
        outputs.map(of).collect()
    };
    let mut before = Vec::new();
    for offset in 0..30 {
        before.push(places(&find(offset).await));
    }
    let range = "cat --topic t --partition 1 --output kept --from-offset 8 --to-offset 19";
    let rows = world.run(&config, range).await.done();
    compact(&world, &config, "").await;
    for offset in 0..30_i64 {
        let found = find(offset).await;
        let now = places(&found);
        for ((output, fate, count), (_, fate_before, before)) in now.iter().zip(&before[offset as usize]) {
            // Where rows do not tell their offset, all objects of the batch can have it.
            assert!(fate == fate_before && (1..=*before).contains(count), "{output} of {offset}: {found}");
        }
        let kept = found["outputs"].as_array().expect("outputs").iter().find(|output| output["output"] == "kept");
        let object = &kept.expect("kept")["objects"][0];
        let (key, row) = (object["key"].as_str().expect("a key"), object["rows"][0].as_u64().expect("a row"));
        let hour = format!("hr={:02}", 8 + offset * 7 / 60);
        assert!(key.contains(&hour), "{offset}: {key}");
        let bytes = world.main.get(&Path::from(key)).await.expect("there").bytes().await.expect("read");
        let text = zstd::decode_all(bytes.as_ref()).expect("zstd");
        let line = text.split(|byte| *byte == b'\n').nth(usize::try_from(row).expect("few")).expect("that row");
        let told: Value = serde_json::from_slice(line).expect("JSON");
        assert_eq!(told["id"], id(1, offset), "{key} row {row}");
    }
    assert_eq!(world.run(&config, range).await.done().out, rows.out);
    assert_eq!(rows.ids(), (8..19).map(|offset| id(1, offset)).collect::<Vec<_>>());
}

/// Goal: wherever a process dies, no command sees a row twice or not at all, and the next one comes to the same end.
#[tokio::test]
async fn whoever_dies_anywhere_is_followed_by_one_that_finishes() {
    let small = || {
        format!(
            "{BY_TIME}{}{}",
            output("json", "type = \"json\", compression = \"gzip\"", ""),
            output("envelope", "type = \"envelope\"", "")
        )
    };
    let names = ["json", "envelope"];
    let mut ends = BTreeSet::new();
    for writes in 0..60 {
        for last_is_done in [false, true] {
            let world = World::new();
            let config = world.config(&small());
            for batch in 0..2 {
                let (first, end) = (batch * 10, batch * 10 + 10);
                let at = |offset: i64| BASE_MS + offset * MINUTE_MS;
                let records: Vec<OwnedRecord> = (first..end).map(|offset| record(0, offset, at(offset))).collect();
                world.archived(&config, (first, end), &records).await;
            }
            let before = printed(&world, &config, &names).await;
            let dying = mortal(&world, writes, last_is_done);
            let died = compact_at(&config, dying, LATER_MS, "--before 2d --json").await;
            let what = format!("dead after {writes} writes, {last_is_done}");
            assert_eq!(printed(&world, &config, &names).await, before, "{what}");
            let (findings, _, _) = verified(&world, &config).await;
            assert!(findings.is_empty(), "{what}: {findings:#?}");
            compact(&world, &config, "").await;
            assert_eq!(printed(&world, &config, &names).await, before, "{what}");
            assert_clean(&world, &config, &what).await;
            ends.insert(data_keys(&world).await);
            if died.exit.is_ok() {
                assert_eq!(ends.len(), 1, "{ends:#?}");
                assert_eq!(ends.first().expect("an end").len(), 2);
                assert!(writes >= 10, "two outputs, and for each a claim, an object, a receipt, a delete and a mark");
                return;
            }
        }
    }
    panic!("it dies always");
}

/// Goal: two processes at once come to one end.
#[tokio::test]
async fn two_at_once_do_it_once() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let before = printed(&world, &config, &OUTPUTS).await;
    let run = || compact_at(&config, world.destinations(), LATER_MS, "--before 2d --json");
    let (one, other) = tokio::join!(run(), run());
    one.done();
    other.done();
    compact(&world, &config, "").await;
    assert_eq!(printed(&world, &config, &OUTPUTS).await, before);
    assert_clean(&world, &config, "after two").await;
    assert!(data_keys(&world).await.iter().all(|key| !key.contains("+compact-2")));
}

fn job_of_partition_1() -> Job {
    Job {
        version: JOB_VERSION,
        name: "older".into(),
        archive: "a".into(),
        topic: "t".into(),
        topic_id: None,
        cluster_id: "c".into(),
        group: "g-backfill".into(),
        request: JobRequest::default(),
        generation: 1,
        fingerprint: "f".into(),
        chunk: 10,
        ranges: vec![JobRange::new(1, OffsetRange::new(0, 5))],
        read_back: Vec::new(),
        unvouched: Vec::new(),
        before: Vec::new(),
        found: None,
        skipped: 0,
        made_ms: None,
    }
}

/// Goal: only windows and receipts that are old enough, nothing else.
#[tokio::test]
async fn what_is_young_or_meant_by_a_backfill_stays() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let old = data_keys(&world).await;
    let at = |now_ms: i64, line: &'static str| compact_at(&config, world.destinations(), now_ms, line);
    for (now_ms, line) in [
        (BASE_MS + 26 * 60 * MINUTE_MS, "--before 0s --json"),
        (LATER_MS, "--before 2025-11-21T09:59:59Z --json"),
        (LATER_MS, "--before 1d --topic u --json"),
        (LATER_MS, "--before 1d --output other --json"),
        (LATER_MS, "--before 1d --min-age 30d --json"),
    ] {
        let ran = at(now_ms, line).await.done();
        assert_eq!(summary(&ran)["compactions"], 0, "{line}: {}", ran.out);
    }
    assert_eq!(data_keys(&world).await, old);
    let job = job_of_partition_1();
    let bucket = Bucket::new(world.destinations()[URL].clone());
    bucket.put_job(&job).await.expect("stored");
    let ran = compact(&world, &config, "--output json").await;
    assert!(ran.out.contains("t/1") && ran.out.contains("the backfill older"), "{}", ran.out);
    assert_eq!(summary(&ran)["compactions"], 4, "{}", ran.out);
    bucket.end_job("older", 0).await.expect("ended");
    let ran = compact(&world, &config, "--output json --partition 1").await;
    assert_eq!(summary(&ran)["compactions"], 2, "{}", ran.out);
    assert_clean(&world, &config, "afterwards").await;
}

/// Begins a backfill as soon as a compaction has told of something.
struct Meanwhile<'b> {
    bucket: &'b Bucket,
    job: Option<Job>,
}

impl std::io::Write for Meanwhile<'_> {
    fn write(&mut self, told: &[u8]) -> std::io::Result<usize> {
        if let Some(job) = self.job.take() {
            futures::executor::block_on(self.bucket.put_job(&job)).expect("stored");
        }
        Ok(told.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Goal: while a backfill that began meanwhile may mend a batch, nothing is deleted that it might put back.
#[tokio::test]
async fn nothing_is_deleted_beside_a_backfill() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let old = data_keys(&world).await;
    let bucket = Bucket::new(world.destinations()[URL].clone());
    let mut out = Meanwhile { bucket: &bucket, job: Some(job_of_partition_1()) };
    let words = "siltstone compact -c x --before 2d --json --output json --partition 1";
    let cli = Cli::try_parse_from(words.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
    let Command::Compact(args) = &cli.command else { panic!("{cli:?}") };
    let clock = Arc::new(ManualClock::at(LATER_MS));
    let exit = compact_in(args, &config, world.destinations(), clock, &mut out).await;
    assert_eq!(exit.expect("compacted"), Exit::Done);
    // Of the first folder nothing is left; of the second both sets are there, and only the new one counts.
    let now = data_keys(&world).await;
    assert_eq!(now.difference(&old).count(), 2, "{now:?}");
    assert_eq!(old.difference(&now).count(), 2, "{now:?}");
    let (findings, notes, _) = verified(&world, &config).await;
    assert!(findings.is_empty() && notes == ["open_compaction"], "both sets are there: {findings:#?} {notes:?}");
    bucket.end_job("older", 0).await.expect("ended");
    let ran = compact(&world, &config, "--output json --partition 1").await;
    let counts = (summary(&ran)["compactions"].as_u64(), summary(&ran)["deleted"].as_u64());
    assert_eq!(counts, (Some(0), Some(2)), "{}", ran.out);
    assert_eq!(old.difference(&data_keys(&world).await).count(), 4);
    assert_clean(&world, &config, "afterwards").await;
}

/// Goal: an old object that comes back is told, counts for nobody, and is deleted again when that is asked for.
#[tokio::test]
async fn an_object_that_comes_back_is_told_and_swept() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    let mut old = BTreeMap::new();
    for key in data_keys(&world).await {
        let bytes = world.main.get(&Path::from(key.as_str())).await.expect("there").bytes().await.expect("read");
        old.insert(key, bytes);
    }
    let before = printed(&world, &config, &OUTPUTS).await;
    compact(&world, &config, "").await;
    let now = data_keys(&world).await;
    let gone: Vec<_> = old.iter().filter(|(key, _)| !now.contains(*key)).collect();
    for (key, bytes) in gone.iter().take(2) {
        world.main.put(&Path::from(key.as_str()), (*bytes).clone().into()).await.expect("put");
    }
    let (findings, _, verified) = verified(&world, &config).await;
    let told: Vec<_> =
        findings.iter().map(|finding| (finding.kind(), finding.place.clone().expect("a place").1)).collect();
    assert_eq!(told.len(), 2, "{findings:#?}");
    assert!(
        told.iter().all(|(kind, key)| *kind == Kind::Returned && gone.iter().any(|(of, _)| *of == key)),
        "{told:?}"
    );
    assert!(verified.repairs.is_empty() && findings.iter().all(|finding| finding.compaction.is_some()));
    assert_eq!(printed(&world, &config, &OUTPUTS).await, before, "nobody counts them");
    let idle = summary(&compact(&world, &config, "").await);
    assert_eq!(idle["deleted"], 0);
    let swept = summary(&compact(&world, &config, "--sweep").await);
    assert_eq!((&swept["deleted"], &swept["compactions"]), (&2.into(), &0.into()));
    assert_clean(&world, &config, "swept").await;
    assert_eq!(data_keys(&world).await, now);
}

/// Goal: objects of a window that come later are taken in, and what was compacted is compacted again.
#[tokio::test]
async fn late_objects_are_taken_in() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    compact(&world, &config, "").await;
    let late: Vec<OwnedRecord> = (30..34).map(|offset| record(0, offset, BASE_MS + 65 * MINUTE_MS)).collect();
    world.archived(&config, (30, 34), &late).await;
    let before = printed(&world, &config, &OUTPUTS).await;
    let done = summary(&compact(&world, &config, "").await);
    assert_eq!((&done["compactions"], &done["inputs"], &done["objects"]), (&6.into(), &12.into(), &6.into()), "{done}");
    assert!(data_keys(&world).await.iter().any(|key| key.contains("+compact-2.")));
    let after = printed(&world, &config, &OUTPUTS).await;
    for (line, text) in before {
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!(sorted(&after[&line]), sorted(&text), "{line}");
    }
    assert_clean(&world, &config, "again").await;
}

/// Goal: objects at two destinations give way at both, and one that is damaged keeps its group as it is.
#[tokio::test]
async fn every_destination_follows_and_damage_is_left_alone() {
    let world = World::new();
    let both = "destination = [\"main\", \"spare\"]\n";
    let config = world.config(&format!("{BY_TIME}{}", output("json", "type = \"json\", compression = \"none\"", both)));
    three_by_three(&world, &config, |_, _| 0).await;
    let damaged = data_keys(&world).await.into_iter().find(|key| key.contains("hr=09/t+00001")).expect("such a one");
    let bytes = world.main.get(&Path::from(damaged.as_str())).await.expect("there").bytes().await.expect("read");
    let mut other = bytes.to_vec();
    other[5] ^= 1;
    world.main.put(&Path::from(damaged.as_str()), other.into()).await.expect("put");
    let ran = compact(&world, &config, "").await;
    assert!(ran.out.contains("it is not what its receipt says") && ran.out.contains(&damaged), "{}", ran.out);
    assert_eq!((&summary(&ran)["left"], &summary(&ran)["compactions"]), (&2.into(), &5.into()), "{}", ran.out);
    world.main.put(&Path::from(damaged.as_str()), bytes.into()).await.expect("mended");
    compact(&world, &config, "").await;
    let verified = assert_clean(&world, &config, "both").await;
    let of = |store: Arc<InMemory>| async move {
        let keys: Vec<_> = store.list(None).map(|object| object.expect("listed").location.to_string()).collect().await;
        keys.into_iter().filter(|key| !key.starts_with("_siltstone/")).collect::<BTreeSet<_>>()
    };
    let (main, spare) = (of(world.main.clone()).await, of(world.spare.clone()).await);
    assert_eq!(main, spare);
    assert_eq!(verified.summary.objects, 2 * main.len() as u64);
    let lines = world.run(&config, "ls --json").await.done().json();
    let compacted = lines.iter().find(|line| line["compaction"] == 1).expect("one");
    assert_eq!(compacted["destinations"], serde_json::json!([URL, SPARE]));
    assert_eq!(world.run(&config, "cat --topic t").await.done().out.lines().count(), 90);
}

/// Goal: JSON lines become Parquet only where every row comes back as it was, and are read like the lines.
#[tokio::test]
async fn json_becomes_parquet_where_no_row_is_another() {
    let world = World::new();
    let config = world.config(&format!(
        "{BY_TIME}{}",
        output("json", "type = \"json\", compression = \"gzip\"", "keep = [\"offset\"]\n")
    ));
    let value = |offset: i64| {
        let ms = BASE_MS + offset * 7 * MINUTE_MS;
        match offset % 5 {
            0 => {
                format!(r#"{{"id":{offset},"time":{ms},"price":1.50,"tags":["a","b"],"big":12345678901234567890123}}"#)
            }
            1 => format!(r#"{{"time":{ms},"id":{offset},"nested":{{"x":1.5,"y":"\u00e4"}},"mixed":1}}"#),
            2 => format!(
                r#"{{"id":{offset},"time":{ms},"mixed":"text","":{{"empty":"name"}},"Mixed":2,"_rest":{{"id":1}}}}"#
            ),
            3 => format!(r#"{{"id":{offset},"time":{ms},"nested":{{"x":2.5}},"list":[],"price":3.5}}"#),
            // The last hour has a null beside a number.
            _ if offset > 26 => format!(r#"{{"id":{offset},"time":{ms},"price":null}}"#),
            _ => format!(r#"{{"id":{offset},"time":{ms},"price":-0.25,"only":{{"here":[1,2,{{"z":null}}]}}}}"#),
        }
    };
    for batch in 0..3 {
        let (first, end) = (batch * 10, batch * 10 + 10);
        let of = |offset: i64| {
            let mut record = record(0, offset, BASE_MS + offset * 7 * MINUTE_MS);
            record.value = Some(value(offset).into_bytes());
            record
        };
        let records: Vec<OwnedRecord> = (first..end).map(of).collect();
        world.archived(&config, (first, end), &records).await;
    }
    let lines =
        |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect() };
    let before = lines(&world.run(&config, "cat --topic t").await.done().out);
    let ran = compact(&world, &config, "--to parquet").await;
    assert!(ran.out.contains("comes back as another one"), "{}", ran.out);
    assert_eq!(summary(&ran)["left"], 1, "{}", ran.out);
    let parquet = |keys: &BTreeSet<String>| keys.iter().filter(|key| key.ends_with("+compact-1.parquet")).count();
    let keys = data_keys(&world).await;
    assert_eq!((parquet(&keys), keys.len()), (3, 4), "{keys:?}");
    assert_clean(&world, &config, "three hours").await;
    let without_nulls = |row: &Value| {
        let mut row = row.clone();
        row.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        row
    };
    let after = world.run(&config, "cat --topic t --order offset").await.done();
    assert_eq!(lines(&after.out), before);
    let where_is = "cat --topic t --where .Mixed==2 --from-offset 0";
    assert_eq!(world.run(&config, where_is).await.done().out.lines().count(), 6);
    let ran = compact(&world, &config, "--to parquet --nulls-as-missing").await;
    assert_eq!((&summary(&ran)["left"], &summary(&ran)["objects"]), (&0.into(), &1.into()), "{}", ran.out);
    assert_eq!(parquet(&data_keys(&world).await), 4);
    let after = world.run(&config, "cat --topic t").await.done();
    let (after, expected): (Vec<Value>, Vec<Value>) =
        (lines(&after.out).iter().map(without_nulls).collect(), before.iter().map(without_nulls).collect());
    assert_eq!(after, expected);
    assert_clean(&world, &config, "four hours").await;
    let line = "cat --topic t --from-offset 7 --to-offset 12 --json";
    let rows = world.run(&config, line).await.done().json();
    let told: Vec<_> = rows.iter().map(|row| (row["offset"].as_i64(), row["event_time"].is_string())).collect();
    assert_eq!(told, (7..12).map(|offset| (Some(offset), true)).collect::<Vec<_>>());
    let found = world.run(&config, "find t/0/9 --json").await.done().json().remove(0);
    assert!(found["outputs"][0]["objects"][0]["key"].as_str().is_some_and(|key| key.ends_with(".parquet")), "{found}");
    assert_eq!(summary(&compact(&world, &config, "--to parquet").await)["compactions"], 0);
}

/// Goal: to take back says what it means, and then the old objects count again: those that are not there are told missing.
#[tokio::test]
async fn a_compaction_is_taken_back_only_when_that_is_meant() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    compact(&world, &config, "").await;
    let late: Vec<OwnedRecord> = (30..34).map(|offset| record(0, offset, BASE_MS + 65 * MINUTE_MS)).collect();
    world.archived(&config, (30, 34), &late).await;
    compact(&world, &config, "").await;
    let key = data_keys(&world).await.into_iter().find(|key| key.starts_with("json/") && key.contains("compact-2"));
    let key = key.expect("a second compaction");
    let undo = |line: String| compact_at_later(&world, &config, line);
    let keys = data_keys(&world).await;
    let said = undo(format!("--undo {key}")).await.done();
    assert!(said.out.contains("would be taken back") && said.out.contains("--yes"), "{}", said.out);
    assert_eq!(data_keys(&world).await, keys);
    let failure = undo("--undo nothing --yes".to_string()).await.exit.expect_err("there is none");
    assert_eq!(failure.exit, Exit::Config, "{failure}");
    let done = undo(format!("--undo {key} --yes --json")).await.done();
    assert_eq!((&summary(&done)["undone"], &summary(&done)["kept"]), (&2.into(), &1.into()), "{}", done.out);
    assert!(data_keys(&world).await.contains(&key), "it is the only copy of its rows");
    let (findings, _, verified) = verified(&world, &config).await;
    let missing: Vec<_> = findings.iter().filter(|finding| finding.kind() == Kind::Missing).collect();
    assert_eq!((missing.len(), findings.len()), (3, 4), "{findings:#?}");
    assert!(missing.iter().all(|finding| finding.compaction.is_none()));
    let ranges: Vec<_> = verified.repairs.values().flatten().map(|range| (range.first, range.end)).collect();
    assert_eq!(ranges, [(0, 20), (30, 34)], "what a backfill archives again");
    let other: BTreeSet<String> = data_keys(&world).await;
    assert!(other.iter().any(|key| key.starts_with("kept/") && key.contains("compact-2")), "only that unit: {other:?}");
}

/// Goal: JSON lines become Parquet like the archive's own Parquet output where that holds each row, else with inferred columns. Method: the types of columns in
/// the files themselves.
#[tokio::test]
async fn json_becomes_parquet_like_the_archives_own() {
    let world = World::new();
    let columns =
        "schema = [{ name = \"hour\", type = \"FLOAT64\" }, { name = \"id\", type = \"INT64\" }], unknown = \"drop\"";
    let own = format!("type = \"parquet\", compression = \"gzip\", {columns}");
    let outputs = output("json", "type = \"json\", compression = \"gzip\"", "") + &output("own", &own, "");
    let config = world.config(&format!("{BY_TIME}{outputs}"));
    for batch in 0..2 {
        let (first, end) = (batch * 10, batch * 10 + 10);
        let of = |offset: i64| {
            let ms = BASE_MS + (offset % 2) * 60 * MINUTE_MS;
            // The second hour has ids that the declared column does not hold.
            let id = if offset % 2 == 0 { offset.to_string() } else { format!("\"{offset}\"") };
            let mut record = record(0, offset, ms);
            record.value = Some(format!(r#"{{"id":{id},"time":{ms},"hour":1.5,"more":"x"}}"#).into_bytes());
            record
        };
        let records: Vec<OwnedRecord> = (first..end).map(of).collect();
        world.archived(&config, (first, end), &records).await;
    }
    let rows = |text: &str| {
        let values = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        values.collect::<Vec<_>>()
    };
    let cat = "cat --topic t --output json";
    let before = rows(&world.run(&config, cat).await.done().out);
    compact(&world, &config, "--output json --to parquet").await;
    assert_eq!(rows(&world.run(&config, cat).await.done().out), before);
    let mut found = BTreeMap::new();
    for key in data_keys(&world).await.into_iter().filter(|key| key.ends_with("+compact-1.parquet")) {
        let bytes = world.main.get(&Path::from(key.as_str())).await.expect("there").bytes().await.expect("read");
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("Parquet");
        let names: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
        let packed = reader.metadata().row_group(0).column(0).compression();
        found.insert(key, (names.join(" "), format!("{packed:?}").to_lowercase().contains("gzip")));
    }
    let found: Vec<(String, bool)> = found.into_values().collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].0.starts_with("hour id ") && found[0].0.contains("more"), "{found:?}");
    assert!(found[1].0.starts_with("id time hour") && found.iter().all(|(_, is_gzip)| *is_gzip), "{found:?}");
}

/// Goal: of what a compactor does beside one who takes back, no row counts twice. Method: the steps of the one between those of the other, as listings
/// show them that are a moment old.
#[tokio::test]
async fn whoever_takes_back_and_a_compactor_beside_him_leave_each_row_counting_once() {
    let world = World::new();
    let config = world.config(&format!("{BY_TIME}{}", output("json", "type = \"json\", compression = \"none\"", "")));
    three_by_three(&world, &config, |_, _| 0).await;
    compact(&world, &config, "--partition 0").await;
    let late: Vec<OwnedRecord> = (30..34).map(|offset| record(0, offset, BASE_MS + 65 * MINUTE_MS)).collect();
    world.archived(&config, (30, 34), &late).await;
    compact(&world, &config, "--partition 0").await;
    let partition = TopicPartition::new("t", 0);
    let bucket = Bucket::new(world.destinations()[URL].clone());
    let listed = bucket.listed_compactions(&partition).await.expect("listed");
    let second = listed.iter().find(|(id, _)| id.1 == 2).map(|(id, documents)| (id.clone(), documents.receipt));
    let (id, range) = second.expect("a second compaction");
    let second =
        bucket.compaction_receipt(&partition, &id, range.expect("a receipt")).await.expect("read").expect("there");
    let keys = data_keys(&world).await;
    // It was open when the unit was listed, and was finished before it could be given up: then the first one, whose object it was made of, must stay.
    let line = format!("--undo {} --yes --json", id.0);
    let ran = compact_at(&config, a_moment_ago(&world, ".2."), LATER_MS, &line).await;
    assert_eq!(ran.exit.expect_err("a person must look").exit, Exit::Stopped, "{}", ran.out);
    assert!(ran.out.contains("was finished meanwhile") && !ran.out.contains("\"undone\":1"), "{}", ran.out);
    assert_eq!(data_keys(&world).await, keys);
    assert_clean(&world, &config, "nothing is taken back").await;
    let lines = world.run(&config, "cat --topic t").await.done().out.lines().count();
    // One that was killed behind its hold: the unit is left alone until it is said again.
    let died = compact_at(&config, mortal(&world, 0, true), LATER_MS, &line).await;
    assert!(died.exit.is_err());
    let ran = compact_at_later(&world, &config, "--before 2d --partition 0 --json".to_string()).await;
    assert!(ran.out.contains("is being taken back") && ran.exit.is_err(), "{}", ran.out);
    assert!(ran.out.contains(&format!("siltstone compact --undo {}.2 --yes", id.0)), "{}", ran.out);
    assert_eq!(world.run(&config, "cat --topic t").await.done().out.lines().count(), lines);
    compact_at_later(&world, &config, line).await.done();
    // A compactor that had planned its next step with objects of the unit comes too late, whichever number it saw.
    let claimed: BTreeSet<u32> =
        bucket.listed_compactions(&partition).await.expect("listed").keys().map(|id| id.1).collect();
    assert!(claimed.contains(&3), "{claimed:?}");
    let mut planned = second.compaction.clone();
    (planned.n, planned.groups[0].key) = (3, "json/other+compact-3.json".to_string());
    assert_eq!(bucket.claim_compaction(&planned).await.expect("an answer"), CompactionOutcome::Other);
}

/// Goal: a claim that is given up while somebody finishes it leaves no object behind that a reader of folders would count.
#[tokio::test]
async fn what_was_put_for_a_claim_that_is_given_up_meanwhile_goes() {
    let world = World::new();
    let config = world.config(&format!("{BY_TIME}{}", output("json", "type = \"json\", compression = \"none\"", "")));
    three_by_three(&world, &config, |_, _| 0).await;
    let before = data_keys(&world).await;
    let died = compact_at(&config, mortal(&world, 0, true), LATER_MS, "--before 2d --partition 0").await;
    assert!(died.exit.is_err());
    let partition = TopicPartition::new("t", 0);
    let bucket = Bucket::new(world.destinations()[URL].clone());
    let listed = bucket.listed_compactions(&partition).await.expect("listed");
    let id = listed.keys().next().expect("a claim").clone();
    let compaction = bucket.compaction_claim(&partition, &id).await.expect("read").expect("there");
    let folder = compaction.folder.clone();
    let given_up = CompactionReceipt { compaction, writer: "0".to_string(), written_ms: None, given_up: true };
    assert!(bucket.put_compaction_receipt(&given_up).await.expect("given up"));
    let ran = compact_at(&config, a_moment_ago(&world, ".1."), LATER_MS, "--before 2d --partition 0 --json").await;
    assert!(ran.out.contains("was given up by somebody else"), "{}", ran.out);
    let of_folder =
        |keys: BTreeSet<String>| keys.into_iter().filter(|key| key.starts_with(&folder)).collect::<Vec<_>>();
    assert_eq!(of_folder(data_keys(&world).await), of_folder(before));
}

async fn compact_at_later(world: &World, config: &Config, line: String) -> Ran {
    compact_at(config, world.destinations(), LATER_MS, &line).await
}

/// Goal: a batch whose objects were compacted counts as whole while what replaced them is there, and is never archived again otherwise.
#[tokio::test]
async fn a_batch_that_was_compacted_is_whole_or_left_alone() {
    let world = World::new();
    let config = world.config(&every_format());
    three_by_three(&world, &config, |_, _| 0).await;
    compact(&world, &config, "--output json").await;
    let (destinations, partition) = (world.destinations(), TopicPartition::new("t", 0));
    let bucket = Bucket::new(destinations[URL].clone());
    let receipt = bucket.get_receipt(&partition, 10).await.expect("read").expect("there");
    let live = Live::read(&bucket, &ManualClock::at(0), &partition, OffsetRange::new(10, 20)).await.expect("read");
    let of = |output: &str| receipt.objects.iter().filter(|object| object.output == output).collect::<Vec<_>>();
    let stands = |gone: &'static str| {
        let (live, receipt, destinations) = (&live, &receipt, &destinations);
        let gone = of(gone);
        async move { live.stands_for(receipt, &gone, destinations, Look::Shown).await.expect("an answer") }
    };
    assert_eq!(stands("json").await, Standing::Whole);
    let broken = |found: Standing| match found {
        Standing::Broken { key, id } => (key, id.1),
        other => panic!("{other:?}"),
    };
    assert_eq!(stands("avro").await, Standing::Partly, "the batch is archived again, but for what was replaced");
    let alone = bucket.get_receipt(&TopicPartition::new("t", 1), 10).await.expect("read").expect("there");
    let nothing = Live::default();
    assert_eq!(nothing.stands_for(&alone, &[], &destinations, Look::Shown).await.expect("an answer"), Standing::None);
    let replacement = live.compacted()[0].objects[0].key.clone();
    world.main.delete(&Path::from(replacement.as_str())).await.expect("deleted");
    assert_eq!(broken(stands("json").await), (replacement, 1));
    assert_eq!(stands("avro").await, Standing::Partly);
}

/// Goal: a claim that cannot be finished holds up no other unit, and is given up without a loss.
#[tokio::test]
async fn a_claim_that_cannot_be_finished_is_told_and_given_up() {
    let world = World::new();
    let config = world.config(&format!("{BY_TIME}{}", output("json", "type = \"json\", compression = \"none\"", "")));
    three_by_three(&world, &config, |_, _| 0).await;
    // It dies right behind its first claim.
    let died = compact_at(&config, mortal(&world, 0, true), LATER_MS, "--before 2d").await;
    assert!(died.exit.is_err());
    let (_, notes, _) = verified(&world, &config).await;
    assert_eq!(notes, ["open_compaction"]);
    // What it was to be made of changes: nobody can make the same object.
    let key = data_keys(&world).await.into_iter().find(|key| key.contains("hr=09/t+00000")).expect("an input");
    let bytes = world.main.get(&Path::from(key.as_str())).await.expect("there").bytes().await.expect("read");
    world.main.put(&Path::from(key.as_str()), "other".into()).await.expect("put");
    let ran = compact_at_later(&world, &config, "--before 2d --json".to_string()).await;
    let failure: Failure = ran.exit.expect_err("a person must look");
    assert_eq!(failure.exit, Exit::Stopped, "{failure}");
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = lines.last().expect("a summary");
    assert_eq!((&last["stopped"], &last["compactions"]), (&1.into(), &5.into()), "{}", ran.out);
    let unit =
        lines.iter().find(|line| line["step"] == "stopped").and_then(|line| line["unit"].as_str()).expect("told");
    world.main.put(&Path::from(key.as_str()), bytes.into()).await.expect("mended");
    compact_at_later(&world, &config, format!("--undo {unit} --yes")).await.done();
    assert_clean(&world, &config, "given up").await;
    let done = summary(&compact(&world, &config, "").await);
    assert_eq!(done["compactions"], 1);
    assert!(data_keys(&world).await.iter().any(|key| key.contains("hr=09/t+00000") && key.contains("+compact-3")));
    assert_eq!(world.run(&config, "cat --topic t").await.done().out.lines().count(), 90);
}
