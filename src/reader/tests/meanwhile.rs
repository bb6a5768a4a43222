//! Goal: what is read beside a compaction is all there, once. Method: a store that has another process compact the archive when so many requests for
//! objects were made, for every number of them.

use super::archives::{BASE_MS, BY_TIME, MINUTE_MS, World, id, output, record};
use crate::bucket::Bucket;
use crate::cli::{Cli, Command};
use crate::clock::ManualClock;
use crate::commands::cat::{Streams, cat_in};
use crate::commands::find::find_in;
use crate::compact::{Compactor, Options};
use crate::config::Config;
use crate::destination::stepped::{StepIn, Stepped, Within};
use crate::destination::{Destination, StoreKind};
use crate::exit::Exit;
use crate::ledger::Destinations;
use crate::record::{OwnedRecord, TopicPartition};
use async_trait::async_trait;
use bytes::Bytes;
use clap::Parser;
use futures::TryStreamExt;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, Result};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Steps that happen before so many further requests for objects are answered.
type Steps = Vec<(u32, Box<dyn FnOnce() + Send>)>;

/// A store gives objects in two halves, the second one if the object is there by then. Halves and ranges are requests.
struct Meanwhile {
    steps: Arc<Mutex<Steps>>,
    /// Once no more steps are left than that, lists and what is asked for documents are requests, too.
    documents: usize,
}

impl Meanwhile {
    fn next_of_documents(&self) {
        if self.left() <= self.documents {
            next(&self.steps);
        }
    }

    /// Steps that did not happen.
    fn left(&self) -> usize {
        self.steps.lock().expect("no test panics inside").len()
    }
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

fn next(steps: &Mutex<Steps>) {
    let mut steps = steps.lock().expect("no test panics inside");
    let Some((left, _)) = steps.first_mut() else { return };
    if *left > 0 {
        *left -= 1;
        return;
    }
    let (_, step) = steps.remove(0);
    drop(steps);
    step();
}

#[async_trait]
impl StepIn for Meanwhile {
    async fn get(&self, within: &Within, location: &Path, options: GetOptions) -> Result<GetResult> {
        if location.as_ref().contains("_siltstone") {
            self.next_of_documents();
            return within.get_opts(location, options).await;
        }
        next(&self.steps);
        let is_whole = options.range.is_none() && !options.head;
        let got = within.get_opts(location, options).await?;
        if !is_whole {
            return Ok(got);
        }
        let whole = GetResult { payload: GetResultPayload::Stream(stream::empty().boxed()), ..got };
        let mut first = within.get(location).await?.bytes().await?;
        let second = first.split_off(first.len() / 2);
        let (within, steps, location) = (within.clone(), self.steps.clone(), location.clone());
        let second = stream::once(async move {
            next(&steps);
            within.head(&location).await.map(|_| second)
        });
        let halves = stream::iter([Ok(first)]).chain(second);
        Ok(GetResult { payload: GetResultPayload::Stream(halves.boxed()), ..whole })
    }
    fn list(&self, within: &Within, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.next_of_documents();
        within.list(prefix)
    }
}

fn destinations(world: &World, (steps, documents): (Steps, usize)) -> (Destinations, Arc<Stepped<Meanwhile>>) {
    let steps = Arc::new(Mutex::new(steps));
    let store = Stepped::over(world.main.clone(), Meanwhile { steps, documents });
    let url = super::archives::URL;
    let main = Destination::from_store("main", url, store.clone(), StoreKind::Memory);
    let mut all = world.destinations();
    all.insert(url.to_string(), Arc::new(main));
    (all, store)
}

/// Compacts the hours before that one, as another process.
fn compaction(world: &World, config: &Config, before: i64) -> Box<dyn FnOnce() + Send> {
    let (config, destinations) = (config.clone(), world.destinations());
    elsewhere(move || async move {
        let clock = Arc::new(ManualClock::at(BASE_MS + 10_000 * HOUR_MS));
        let options = Options::before(BASE_MS + before * HOUR_MS);
        let mut compactor = Compactor::new(&config, destinations, clock, options).expect("ready");
        compactor.run(&mut |_| Ok(())).await.expect("compacted");
    })
}

/// What is done on a thread of its own, and waited for.
fn elsewhere<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) -> Box<dyn FnOnce() + Send> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work());
    };
    Box::new(move || std::thread::spawn(run).join().expect("no panic"))
}

/// Archives two batches more of [`filled`], and compacts all.
fn filling_and_compaction(world: &World, config: &Config) -> Box<dyn FnOnce() + Send> {
    let again = World { main: world.main.clone(), spare: world.spare.clone(), spool: World::new().spool };
    let (of, compact) = (config.clone(), compaction(world, config, 100));
    let fill = elsewhere(move || async move { filled(&again, &of, 4..6).await });
    Box::new(move || {
        fill();
        compact();
    })
}

/// Takes every compaction back that there is now: what it has replaced, which was `before`, is there again, and what it made is not.
async fn undoing(world: &World, before: Vec<(Path, Bytes)>) -> Box<dyn FnOnce() + Send> {
    let bucket = Bucket::new(world.destinations()[super::archives::URL].clone());
    let of = TopicPartition::new("t", 0);
    let ids: Vec<_> = bucket.listed_compactions(&of).await.expect("listed").into_keys().collect();
    let old: Vec<Path> = before.iter().map(|(path, _)| path.clone()).collect();
    let made: Vec<Path> = objects(world).await.into_iter().map(|(path, _)| path).collect();
    let made: Vec<Path> = made.into_iter().filter(|path| !old.contains(path)).collect();
    let main = world.main.clone();
    elsewhere(move || async move {
        for (path, bytes) in before {
            main.put(&path, bytes.into()).await.expect("put");
        }
        for id in ids {
            bucket.undo_compaction(&of, &id, BASE_MS).await.expect("taken back");
        }
        for path in made {
            main.delete(&path).await.expect("deleted");
        }
    })
}

/// The objects of outputs.
async fn objects(world: &World) -> Vec<(Path, Bytes)> {
    let mut found = Vec::new();
    for key in world.keys().await.into_iter().filter(|key| !key.as_ref().contains("_siltstone")) {
        let bytes = world.main.get(&key).await.expect("there").bytes().await.expect("read");
        found.push((key, bytes));
    }
    found
}

/// Two Kafka partitions with batches of seven records, ten an hour, so that most hours have a batch in common with the next one.
async fn filled(world: &World, config: &Config, batches: std::ops::Range<i64>) {
    filled_at(world, config, batches, |offset| offset).await;
}

/// The same with other times: each record has that of the offset that `of` says.
async fn filled_at(world: &World, config: &Config, batches: std::ops::Range<i64>, of_time: impl Fn(i64) -> i64) {
    for partition in 0..2 {
        for batch in batches.clone() {
            let of = batch * 7..batch * 7 + 7;
            let at = |offset: i64| BASE_MS + of_time(offset) * 6 * MINUTE_MS;
            let records: Vec<OwnedRecord> =
                of.clone().map(|offset| record(partition, offset, at(offset) + i64::from(partition))).collect();
            world.archived(config, (of.start, of.end), &records).await;
        }
    }
}

/// Batches of one Kafka partition with more records each than are handed on at once, each with the time of the offset that `of_time` says.
async fn filled_with_many(world: &World, config: &Config, batches: std::ops::Range<i64>, of_time: impl Fn(i64) -> i64) {
    for batch in batches {
        let of = batch * 400..batch * 400 + 400;
        let records: Vec<OwnedRecord> = of.clone().map(|offset| record(0, offset, BASE_MS + of_time(offset))).collect();
        world.archived(config, (of.start, of.end), &records).await;
    }
}

/// One output, all of it in one folder.
fn in_one_folder(world: &World, format: &str, more: &str) -> Config {
    world.config(&format!("{BY_TIME}{}", output("o", format, more).replace("hr=%H", "all")))
}

struct Ran {
    exit: std::result::Result<Exit, crate::exit::Failure>,
    ids: Vec<i64>,
    /// Steps that did not happen.
    left: usize,
}

async fn cat(world: &World, config: &Config, arguments: &str, steps: Steps) -> Ran {
    cat_beside(world, config, arguments, (steps, 0)).await
}

async fn cat_beside(world: &World, config: &Config, arguments: &str, steps: (Steps, usize)) -> Ran {
    let words = ["siltstone", "cat", "--topic", "t", "-c", "x"].into_iter().chain(arguments.split_whitespace());
    let Command::Cat(args) = Cli::try_parse_from(words).expect("arguments").command else { panic!("cat") };
    let (destinations, store) = destinations(world, steps);
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let clock = ManualClock::at(BASE_MS + 20_000 * HOUR_MS);
    let streams = Streams { out: &mut out, notes: &mut notes };
    let exit = cat_in(&args, config, &destinations, &clock, streams, std::future::pending()).await;
    let line = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let number = |name: &str| row[name].as_i64();
        number("id").or_else(|| Some(id(number("partition")? as i32, number("offset")?))).expect("an id")
    };
    let ids = String::from_utf8(out).expect("text").lines().map(line).collect();
    Ran { exit, ids, left: store.step.left() }
}

fn formats() -> [String; 3] {
    let columns =
        "schema = [{ name = \"id\", type = \"INT64\" }, { name = \"time\", type = \"TIMESTAMP\", unit = \"ms\" }]";
    [
        "type = \"json\", compression = \"gzip\"".to_string(),
        format!("type = \"parquet\", {columns}"),
        "type = \"envelope\"".to_string(),
    ]
}

fn all(batches: std::ops::Range<i64>) -> Vec<i64> {
    (0..2).flat_map(|partition| (batches.start * 7..batches.end * 7).map(move |offset| id(partition, offset))).collect()
}

/// Of each Kafka partition and hour rows are in the order of offsets: an object of a compaction has them so.
fn assert_in_order(ids: &[i64], what: &str) {
    let mut last = std::collections::BTreeMap::new();
    for &id in ids {
        let (partition, offset) = (id / 1_000_000, id % 1_000_000);
        let before = last.insert((partition, offset / 10), offset);
        assert!(before.is_none_or(|before| before < offset), "{what}: {ids:?}");
    }
}

#[tokio::test]
async fn a_compaction_is_followed_wherever_it_comes() {
    for format in formats() {
        for order in ["time", "offset"] {
            // Of Parquet each object takes several requests.
            for after in (0..).step_by(if format.contains("json") { 2 } else { 7 }) {
                let world = World::new();
                let config = world.config(&format!("{BY_TIME}{}", output("o", &format, "")));
                filled(&world, &config, 0..6).await;
                let what = format!("{format} by {order}, after {after} requests");
                let steps: Steps = vec![(after, compaction(&world, &config, 100))];
                let ran = cat(&world, &config, &format!("--order {order}"), steps).await;
                assert!(matches!(ran.exit, Ok(Exit::Done)), "{what}: {:?}", ran.exit);
                assert_in_order(&ran.ids, &what);
                if order == "offset" {
                    assert!(ran.ids.is_sorted_by_key(|id| id / 1_000_000), "{what}: {:?}", ran.ids);
                }
                let mut ids = ran.ids;
                ids.sort_unstable();
                assert_eq!(ids, all(0..6), "{what}");
                if ran.left > 0 {
                    assert!(after >= 12, "{what}: it was never compacted");
                    break;
                }
            }
        }
    }
}

/// Goal: the same where many objects of one Kafka partition are merged at a time, and each has given some of its rows.
#[tokio::test]
async fn a_compaction_of_what_is_being_merged_is_followed() {
    for order in ["time", "offset"] {
        for after in (0..).step_by(9) {
            let world = World::new();
            let config = world.config(&format!("{BY_TIME}{}", output("o", "type = \"json\"", "")));
            filled_at(&world, &config, 0..6, |offset| offset * 17 % 42).await;
            let steps: Steps = vec![(after, compaction(&world, &config, 100))];
            let ran = cat(&world, &config, &format!("--order {order}"), steps).await;
            let what = format!("by {order}, after {after} requests");
            assert!(matches!(ran.exit, Ok(Exit::Done)), "{what}: {:?}", ran.exit);
            let mut ids = ran.ids;
            ids.sort_unstable();
            assert_eq!(ids, all(0..6), "{what}");
            if ran.left > 0 {
                assert!(after >= 40, "{what}: it was never compacted");
                break;
            }
        }
    }
}

/// Goal: an object that is deleted when some of its rows were given goes on with the row behind these.
#[tokio::test]
async fn what_is_gone_in_the_middle_goes_on_there() {
    for order in ["time", "offset"] {
        for after in 0..10 {
            let world = World::new();
            let config = in_one_folder(&world, "type = \"json\", compression = \"none\"", "");
            filled_with_many(&world, &config, 0..4, |offset| offset).await;
            let steps: Steps = vec![(after, compaction(&world, &config, 100))];
            let ran = cat(&world, &config, &format!("--order {order}"), steps).await;
            assert!(matches!(ran.exit, Ok(Exit::Done)), "by {order}, after {after}: {:?}", ran.exit);
            assert_eq!(ran.ids, (0..1_600).collect::<Vec<_>>(), "by {order}, after {after}");
            assert_eq!(ran.left, usize::from(after >= 8), "two halves of each of four objects");
        }
    }
}

/// Goal: of a compaction whose old objects are deleted and whose receipt is damaged the claim tells which rows were given. Where nobody has said that
/// they are deleted it may have been given up, so nothing goes on there.
#[tokio::test]
async fn a_compaction_whose_receipt_is_damaged_is_followed_once_it_is_done() {
    for order in ["time", "offset"] {
        for (after, is_done) in [(0, true), (1, true), (3, true), (6, true), (7, true), (3, false)] {
            let world = World::new();
            let config = in_one_folder(&world, "type = \"json\", compression = \"none\"", "");
            filled_with_many(&world, &config, 0..4, |offset| offset).await;
            let (compact, main) = (compaction(&world, &config, 100), world.main.clone());
            let spoil = elsewhere(move || async move {
                let folder = Path::from("_siltstone/compactions");
                let listed: Vec<ObjectMeta> = main.list(Some(&folder)).try_collect().await.expect("listed");
                for key in listed.into_iter().map(|object| object.location) {
                    match key.extension() {
                        Some("json") => drop(main.put(&key, "no JSON".into()).await.expect("put")),
                        Some("done") if !is_done => main.delete(&key).await.expect("deleted"),
                        _ => {}
                    }
                }
            });
            let both: Box<dyn FnOnce() + Send> = Box::new(move || {
                compact();
                spoil();
            });
            let ran = cat(&world, &config, &format!("--order {order}"), vec![(after, both)]).await;
            let what = format!("by {order}, after {after}: {:?}", ran.exit);
            if is_done {
                assert!(matches!(ran.exit, Ok(Exit::Done)), "{what}");
                assert_eq!(ran.ids, (0..1_600).collect::<Vec<_>>(), "{what}");
            } else {
                assert!(ran.exit.is_err_and(|failure| failure.exit == Exit::Stopped), "{what}");
            }
            assert_eq!(ran.left, 0, "{what}");
        }
    }
}

/// Goal: what a first compaction made and a second one takes in is not given twice, nor what lies beyond the offsets that are asked for.
#[tokio::test]
async fn compactions_of_compactions_and_parts_are_followed() {
    for order in ["time", "offset"] {
        for (first, second) in [(0, 0), (1, 1), (2, 2), (4, 1), (5, 3), (7, 2), (8, 4)] {
            let world = World::new();
            let config = in_one_folder(&world, "type = \"json\"", "keep = [\"offset\"]\n");
            filled(&world, &config, 0..4).await;
            let more = filling_and_compaction(&world, &config);
            let steps: Steps = vec![(first, compaction(&world, &config, 100)), (second, more)];
            let ran = cat(&world, &config, &format!("--order {order} --from-offset 3 --to-offset 26"), steps).await;
            let what = format!("{order} {first} {second}: {:?}", ran.ids);
            assert!(matches!(ran.exit, Ok(Exit::Done)), "{what} {:?}", ran.exit);
            let (mut ids, count) = (ran.ids.clone(), ran.ids.len());
            ids.sort_unstable();
            ids.dedup();
            let wanted = (0..2).flat_map(|partition| (3..26).map(move |offset| id(partition, offset)));
            assert_eq!(ids, wanted.collect::<Vec<_>>(), "{what}");
            assert_eq!(count, ids.len(), "{what}: a row comes twice");
            assert!(ran.left == 0 || second > 2, "{what}: {} steps are left", ran.left);
        }
    }
}

/// Goal: the same wherever the second compaction comes, also while it is found out what the first one has done.
#[tokio::test]
async fn a_compaction_beside_the_plan_is_followed() {
    for order in ["time", "offset"] {
        for second in 0..40 {
            let world = World::new();
            let config = in_one_folder(&world, "type = \"json\"", "keep = [\"offset\"]\n");
            filled(&world, &config, 0..4).await;
            let more = filling_and_compaction(&world, &config);
            let steps: Steps = vec![(1, compaction(&world, &config, 100)), (second, more)];
            let arguments = format!("--order {order} --from-offset 3 --to-offset 26");
            let ran = cat_beside(&world, &config, &arguments, (steps, 1)).await;
            let what = format!("by {order}, after {second}: {:?}", ran.ids);
            assert!(matches!(ran.exit, Ok(Exit::Done)), "{what} {:?}", ran.exit);
            let mut ids = ran.ids;
            ids.sort_unstable();
            let wanted = (0..2).flat_map(|partition| (3..26).map(move |offset| id(partition, offset)));
            assert_eq!(ids, wanted.collect::<Vec<_>>(), "{what}");
            assert!(ran.left == 0 || second > 15, "{what}");
        }
    }
}

/// Goal: many Kafka partitions that were compacted are planned again one by one before the first row comes.
#[tokio::test]
async fn a_compaction_of_many_partitions_is_followed() {
    for order in ["time", "offset"] {
        let world = World::new();
        let config = world.config(&format!("{BY_TIME}{}", output("o", "type = \"json\"", "")));
        for partition in 0..8 {
            for batch in 0..4 {
                let of = batch * 7..batch * 7 + 7;
                let records: Vec<OwnedRecord> =
                    of.clone().map(|offset| record(partition, offset, BASE_MS + offset * 6 * MINUTE_MS)).collect();
                world.archived(&config, (of.start, of.end), &records).await;
            }
        }
        let steps: Steps = vec![(0, compaction(&world, &config, 100))];
        let ran = cat(&world, &config, &format!("--order {order}"), steps).await;
        assert!(matches!(ran.exit, Ok(Exit::Done)), "by {order}: {:?}", ran.exit);
        let mut ids = ran.ids;
        ids.sort_unstable();
        let all = (0..8).flat_map(|partition| (0..28).map(move |offset| id(partition, offset)));
        assert_eq!(ids, all.collect::<Vec<_>>(), "by {order}");
    }
}

/// Goal: where a compaction is taken back whose rows were given, in part or all of them, no row comes twice, and none is missing where it ends well.
/// The objects that give way are of another one.
#[tokio::test]
async fn a_compaction_that_is_taken_back_is_told() {
    for order in ["time", "offset"] {
        let mut refused = 0;
        for (after, undo_after, documents) in
            (0..8).map(|after| (after, 0, 0)).chain((0..24).map(|undo| (3 + undo % 4, undo, 1)))
        {
            let world = World::new();
            let config = |compression: &str| {
                in_one_folder(&world, &format!("type = \"json\", compression = \"{compression}\""), "")
            };
            let (earlier, later) = (config("gzip"), config("none"));
            // Of the same times in each batch.
            let at = |offset: i64| offset % 400;
            filled_with_many(&world, &earlier, 0..2, at).await;
            let before = objects(&world).await;
            compaction(&world, &earlier, 100)();
            let undo = undoing(&world, before).await;
            filled_with_many(&world, &later, 2..4, at).await;
            let steps: Steps = match documents {
                0 => {
                    let compact = compaction(&world, &later, 100);
                    let both: Box<dyn FnOnce() + Send> = Box::new(move || {
                        undo();
                        compact();
                    });
                    vec![(after, both)]
                }
                _ => vec![(after, compaction(&world, &later, 100)), (undo_after, undo)],
            };
            let ran = cat_beside(&world, &later, &format!("--order {order}"), (steps, documents)).await;
            let what = format!("by {order}, after {after}, {undo_after}, {documents}");
            let (count, mut ids) = (ran.ids.len(), ran.ids);
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(count, ids.len(), "{what}: rows come twice");
            match ran.exit {
                Ok(exit) => assert_eq!((exit, ids), (Exit::Done, (0..1_600).collect()), "{what}"),
                Err(failure) => {
                    assert!(failure.exit == Exit::Incomplete && failure.message.contains("taken back"), "{failure}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "by {order}: it never came in between");
    }
}

/// Goal: rows of a batch that another one overlaps are not left out where an object has rows of both.
#[tokio::test]
async fn batches_that_overlap_are_followed() {
    for order in ["time", "offset"] {
        for after in 0..9 {
            let world = World::new();
            let config = in_one_folder(&world, "type = \"json\"", "");
            let mut all = Vec::new();
            for (first, end) in [(0, 10), (5, 15), (15, 25), (25, 35)] {
                let records: Vec<OwnedRecord> =
                    (first..end).map(|offset| record(0, offset, BASE_MS + offset * MINUTE_MS)).collect();
                world.archived(&config, (first, end), &records).await;
                all.extend(first..end);
            }
            let steps: Steps = vec![(after, compaction(&world, &config, 100))];
            let ran = cat(&world, &config, &format!("--order {order}"), steps).await;
            assert!(matches!(ran.exit, Ok(Exit::Done)), "by {order}, after {after}: {:?}", ran.exit);
            let mut ids = ran.ids;
            ids.sort_unstable();
            all.sort_unstable();
            assert_eq!(ids, all, "by {order}, after {after}");
        }
    }
}

/// Goal: an object that is gone and that nothing has replaced is an error as before.
#[tokio::test]
async fn what_is_gone_without_a_compaction_is_an_error() {
    let world = World::new();
    let config = world.config(&format!("{BY_TIME}{}", output("o", "type = \"json\"", "")));
    filled(&world, &config, 0..6).await;
    let main = world.main.clone();
    let keys = world.keys().await;
    let gone = keys.into_iter().rfind(|key| !key.as_ref().contains("_siltstone")).expect("objects");
    let delete = elsewhere(move || async move { main.delete(&gone).await.expect("deleted") });
    let ran = cat(&world, &config, "", vec![(2, delete)]).await;
    assert!(ran.exit.is_err_and(|failure| failure.exit == Exit::Stopped));
}

/// Goal: `find` looks again where an object gave way while it was about to read it.
#[tokio::test]
async fn an_offset_is_found_beside_a_compaction() {
    for format in ["type = \"json\"", "type = \"envelope\""] {
        let world = World::new();
        let keep = if format.contains("json") { "keep = [\"offset\"]\n" } else { "" };
        let config = world.config(&format!("{BY_TIME}{}", output("o", format, keep)));
        filled(&world, &config, 0..6).await;
        let words = ["siltstone", "find", "t/1/23", "--json", "-c", "x"];
        let Command::Find(args) = Cli::try_parse_from(words).expect("arguments").command else { panic!("find") };
        let (destinations, store) = destinations(&world, (vec![(0, compaction(&world, &config, 100))], 0));
        let mut out = Vec::new();
        let found = find_in(&args, &config, &destinations, &ManualClock::at(BASE_MS), &mut out).await;
        assert!(matches!(found, Ok(Exit::Done)), "{format}: {found:?}");
        assert_eq!(store.step.left(), 0);
        let found: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        let objects = &found["outputs"][0]["objects"];
        assert!(objects[0]["key"].as_str().is_some_and(|key| key.contains("compact")), "{found}");
        assert_eq!(objects.as_array().map(Vec::len), Some(1), "{found}");
    }
}

/// Goal: batches that were archived and compacted between two looks of `-f` are printed once.
#[tokio::test(start_paused = true)]
async fn following_goes_on_beside_a_compaction() {
    for order in ["time", "offset"] {
        follow_beside_a_compaction(order).await;
    }
}

async fn follow_beside_a_compaction(order: &str) {
    let world = World::new();
    let config = world.config(&format!("{BY_TIME}{}", output("o", "type = \"json\"", "")));
    filled(&world, &config, 0..2).await;
    let words = ["siltstone", "cat", "-f", "--topic", "t", "-c", "x", "--order", order];
    let Command::Cat(args) = Cli::try_parse_from(words).expect("arguments").command else { panic!("cat") };
    let (destinations, clock) = (world.destinations(), ManualClock::at(BASE_MS + 20_000 * HOUR_MS));
    let watched = super::archives::Watched::default();
    let (mut out, mut notes) = (watched.clone(), Vec::new());
    let events = async {
        watched.has(28).await;
        filled(&world, &config, 2..6).await;
        compaction(&world, &config, 100)();
        watched.has(84).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    };
    let streams = Streams { out: &mut out, notes: &mut notes };
    let ended = cat_in(&args, &config, &destinations, &clock, streams, events).await;
    assert!(matches!(ended, Ok(Exit::Done)), "{ended:?}");
    assert_eq!(watched.lines(), 84, "by {order}: each once");
}
