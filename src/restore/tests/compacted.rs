//! Goal: a compacted archive is restored as one that is not, each row once, from where a job was and beside a compaction. Method: as in
//! [`super`], with hours of which each reaches over the next one's objects, compacted before or in the middle of a job, and a store that counts.

use super::{Asked, BASE_MS, ENVELOPE, Ended, Fake, Fate, HOUR_MS, InOrder, Seat, Then, World, record};
use crate::clock::ManualClock;
use crate::compact::{Compactor, Options};
use crate::config::Config;
use crate::destination::stepped::{StepIn, Stepped, Within};
use crate::ledger::Destinations;
use crate::reader::merge::Source;
use crate::reader::plan::{Shapes, Wanted, batches, sites};
use crate::record::{OffsetRange, OwnedRecord};
use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const JSON: &str = "[[archive.output]]\nformat = \"json\"\n";
const RAW: &str = "[[archive.output]]\nformat = \"raw\"\n";
const KEPT: &str = "[[archive.output]]\nformat = \"json\"\nkeep = [\"offset\"]\n";

/// Counts how often objects are opened.
#[derive(Debug, Default)]
struct Watched {
    opened: Mutex<BTreeMap<String, u32>>,
}

impl Watched {
    fn over(world: &World) -> Arc<Stepped<Self>> {
        Stepped::over(world.store.clone(), Self::default())
    }

    /// How often each object with rows was opened since the last time.
    fn opened(&self) -> BTreeMap<String, u32> {
        std::mem::take(&mut *self.opened.lock().expect("no test panics inside"))
    }
}

#[async_trait]
impl StepIn for Watched {
    async fn get(&self, within: &Within, from: &Path, options: GetOptions) -> Result<GetResult> {
        let key = from.to_string();
        if !key.starts_with("_siltstone/") && options.range.is_none() {
            *self.opened.lock().expect("no test panics inside").entry(key).or_default() += 1;
        }
        within.get_opts(from, options).await
    }
}

/// Compacts the hours before the one with that number.
pub(super) async fn compact(config: &Config, destinations: Destinations, before: i64) {
    let clock = Arc::new(ManualClock::at(BASE_MS + 1_000 * HOUR_MS));
    let options = Options::before(BASE_MS + before * HOUR_MS);
    let mut compactor = Compactor::new(config, destinations, clock, options).expect("ready");
    compactor.run(&mut |_| Ok(())).await.expect("compacted");
    assert!(compactor.summary.compactions > 0, "nothing was compacted");
}

/// The same at some time of a job, by another process.
pub(super) fn compaction(world: &World, before: i64) -> Then {
    let (config, destinations) = (world.config.clone(), world.destinations_of(world.store.clone()));
    Box::new(move || {
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(compact(&config, destinations, before));
        };
        std::thread::spawn(run).join().expect("compacted");
    })
}

/// A value for each offset, in the hour that `hour` says.
fn records(offsets: i64, hour: impl Fn(i64) -> i64) -> Vec<OwnedRecord> {
    let value = |offset| Some(format!(r#"{{"id":{offset}}}"#).into_bytes());
    (0..offsets).map(|offset| OwnedRecord { value: value(offset), ..record(0, offset, hour(offset)) }).collect()
}

/// Ten records an hour in batches of seven, so that most hours have a batch in common with the next one.
async fn overlapping(output: &str, hour: impl Fn(i64) -> i64) -> World {
    let world = World::new(output);
    // Without the last one no object but that of an hour alone has a row for each offset.
    let all: Vec<_> = records(100, hour).into_iter().filter(|record| record.offset % 7 != 6).collect();
    world.archived(&all, 7).await;
    world
}

fn expected(world_offsets: i64) -> Vec<String> {
    (0..world_offsets).filter(|offset| offset % 7 != 6).map(|offset| format!(r#"{{"id":{offset}}}"#)).collect()
}

fn id(value: &str) -> i64 {
    serde_json::from_str::<serde_json::Value>(value).expect("JSON")["id"].as_i64().expect("an id")
}

fn assert_once(mut values: Vec<String>, what: &str) {
    values.sort_by_key(|value| id(value));
    assert_eq!(values, expected(100), "{what}");
}

pub(super) async fn to_the_end(world: &World, target: &Fake, asked: &Asked<'_>) {
    for _ in 0..40 {
        if let Ok(ended) = world.restored_of(world.destinations_of(world.store.clone()), target, asked).await.0 {
            assert_eq!(ended, Ended::Done);
            return;
        }
    }
    panic!("it never ends");
}

/// Goal: a job over hours that overlap from the first to the last goes on where it was: nothing that is done with is read again.
#[tokio::test(start_paused = true)]
async fn what_is_done_with_is_not_read_again() {
    for output in [JSON, RAW, KEPT, ENVELOPE] {
        let world = overlapping(output, |offset| offset / 10).await;
        compact(&world.config, world.destinations_of(world.store.clone()), 100).await;
        let target = Fake::new([Fate::Happens, Fate::Happens, Fate::Happens, Fate::Happens, Fate::Happens, Fate::Dies]);
        let store = Watched::over(&world);
        let asked = Asked::default();
        let restored = || world.restored_of(world.destinations_of(store.clone()), &target, &asked);
        restored().await.0.expect_err("it died");
        let done = target.values().len();
        assert!((30..60).contains(&done), "{output}: {done}");
        store.step.opened();
        assert_eq!(restored().await.0.expect("ended"), Ended::Done);
        let opened = store.step.opened();
        // Of ten hours three at least are behind it, and the survey may look at one.
        assert!(opened.len() <= 8, "{output}: {done} rows were done with, and then {opened:?} read");
        assert_once(target.values(), output);
    }
}

/// Goal: a compaction of what a job is through with, or has not come to, changes nothing for it. Method: the hours go backward, so that the first
/// ones to be compacted come last.
#[tokio::test(start_paused = true)]
async fn a_compaction_elsewhere_leaves_the_place_of_a_job_known() {
    for output in [JSON, RAW, KEPT, ENVELOPE] {
        let world = overlapping(output, |offset| 9 - offset / 10).await;
        let dying = [Fate::Happens, Fate::Happens, Fate::Happens, Fate::Happens, Fate::Dies];
        let target = Fake::new(dying.into_iter().chain(dying));
        let store = || world.destinations_of(world.store.clone());
        world.restored_of(store(), &target, &Asked::default()).await.0.expect_err("it died");
        compact(&world.config, store(), 4).await;
        world.restored_of(store(), &target, &Asked::default()).await.0.expect_err("it died again");
        to_the_end(&world, &target, &Asked::default()).await;
        assert_once(target.values(), output);
    }
}

/// Goal: parts of an archive that adjoin each other have each row once, wherever the border lies.
#[tokio::test(start_paused = true)]
async fn adjoining_parts_have_each_row_once() {
    for output in [JSON, RAW, KEPT, ENVELOPE] {
        let world = overlapping(output, |offset| offset / 10).await;
        compact(&world.config, world.destinations_of(world.store.clone()), 100).await;
        for border in [1, 7, 10, 33, 50, 99] {
            let mut values = Vec::new();
            for offsets in [OffsetRange::new(0, border), OffsetRange::new(border, i64::MAX)] {
                let asked = Asked { wanted: Wanted { offsets, ..Wanted::default() }, ..Asked::default() };
                let target = Fake::new([Fate::Happens, Fate::Dies]);
                to_the_end(&world, &target, &asked).await;
                values.extend(target.values());
            }
            assert_once(values, &format!("{output} {border}"));
        }
    }
}

/// Goal: objects that a compaction replaces while a job is on its way are read in their new place, from where it stood. Where that is not known it
/// says so, and nothing is doubled.
#[tokio::test(start_paused = true)]
async fn a_compaction_meanwhile_is_followed() {
    for (output, after) in
        [KEPT, ENVELOPE, JSON, RAW].into_iter().flat_map(|output| [0, 8, 40, 70].map(|n| (output, n)))
    {
        let world = overlapping(output, |offset| offset / 10).await;
        let target = Fake::new([]);
        *target.then.lock().expect("no test panics inside") = Some((after, compaction(&world, 100)));
        let store = || world.destinations_of(world.store.clone());
        let ended = world.restored_of(store(), &target, &Asked::default()).await.0;
        let tells_offsets = output == KEPT || output == ENVELOPE;
        match ended {
            Ok(Ended::Short) if !tells_offsets => {
                let stopped = world.last.borrow().clone();
                assert!(
                    stopped.len() == 1 && stopped.values().all(|why| why.contains("a compaction or a replay")),
                    "{stopped:?}"
                );
                let mut ids: Vec<i64> = target.values().iter().map(|value| id(value)).collect();
                ids.sort_unstable();
                assert!(ids.is_sorted_by(|one, other| one < other), "{output} {after}: {ids:?}");
                // Where nothing was committed it begins anew.
                match world.restored_of(store(), &target, &Asked::default()).await.0.expect("it is known how far it is")
                {
                    Ended::Done => assert_once(target.values(), &format!("{output} {after}")),
                    again => assert_eq!((again, ids.is_empty()), (Ended::Short, false)),
                }
            }
            Ok(ended) => {
                assert_eq!(ended, Ended::Done);
                assert_once(target.values(), &format!("{output} {after}"));
            }
            Err(failure) => panic!("{output} {after}: {failure}"),
        }
        if tells_offsets {
            assert_eq!(target.values(), expected(100), "{output} {after}: in order");
        }
    }
}

/// Goal: where only hours are compacted that a job has not come to, rows without offsets are followed, too.
#[tokio::test(start_paused = true)]
async fn a_compaction_of_what_lies_ahead_is_followed_without_offsets() {
    for output in [JSON, RAW] {
        let world = overlapping(output, |offset| 9 - offset / 10).await;
        let target = Fake::new([]);
        *target.then.lock().expect("no test panics inside") = Some((20, compaction(&world, 4)));
        let ended = world.restored_of(world.destinations_of(world.store.clone()), &target, &Asked::default()).await.0;
        assert_eq!(ended.expect("ended"), Ended::Done);
        assert_once(target.values(), output);
    }
}

/// Goal: hours with late rows, many of which overlap, are put in order with few openings, even with memory for some rows only.
#[tokio::test]
async fn objects_that_overlap_for_few_rows_are_opened_seldom() {
    let world = World::new(KEPT);
    let hour = |offset: i64| if offset < 400 { offset / 20 } else { offset % 20 };
    world.archived(&records(420, hour), 10).await;
    compact(&world.config, world.destinations_of(world.store.clone()), 100).await;
    let store = Watched::over(&world);
    let (destinations, clock, wanted) = (world.destinations_of(store.clone()), ManualClock::at(0), Wanted::default());
    let sites = sites(&world.config, &destinations, &clock, &wanted).await.expect("sites");
    let batches = batches(&sites[0], &sites[0].partitions[0], &clock, &wanted).await.expect("batches");
    let batches: Vec<_> = batches.try_collect().await.expect("read");
    let (mut ordered, mut shapes, mut objects) = (InOrder::with_room(0, 1_000), Shapes::new(&sites[0]), 0);
    for chosen in batches.into_iter().flat_map(|batch| batch.objects) {
        let shape = shapes.of(&sites[0], &clock, &chosen).await.expect("a shape");
        let place = chosen.place(&destinations).expect("a place");
        let unit = shapes.unit_of(&sites[0], &clock, &chosen).await.expect("a unit");
        let (seat, first) = (Seat::of(&chosen, unit), chosen.range.first);
        ordered.push(Arc::new(Source { chosen, place, shape }), seat, first);
        objects += 1;
    }
    assert_eq!(objects, 20);
    store.step.opened();
    let mut offsets = Vec::new();
    while let Some(offset) = ordered.peek(i64::MAX).await.map_err(|unread| unread.failure).expect("read") {
        if offset == 100 {
            assert!(
                store.step.opened.lock().expect("no test panics inside").len() <= 6,
                "what lies ahead is not opened"
            );
        }
        ordered.pop().await.map_err(|unread| unread.failure).expect("read");
        offsets.push(offset);
    }
    assert_eq!(offsets, (0..420).collect::<Vec<_>>());
    let opened = store.step.opened();
    assert!(opened.values().all(|&times| times <= 4), "{opened:?}");
}
