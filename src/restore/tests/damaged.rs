//! Goal: a receipt, fold or layout that is damaged stops the source partition that needs it, and no other; once it is there again the same command
//! brings the rest. Method: as in [`super`], with documents of one of three source partitions spoilt before the first record.

use super::*;
use crate::destination::stepped::{StepIn, Stepped, Within};
use crate::restore::position::{END_UNKNOWN, known_end};
use async_trait::async_trait;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetResult};

fn of(partition: i32) -> Vec<OwnedRecord> {
    (0..40).map(|offset| record(partition, offset, offset % 2)).collect()
}

/// The documents whose keys have all of that in them.
async fn found(world: &World, words: &[&str]) -> Vec<Path> {
    let mut listed: Vec<Path> =
        world.store.list(None).map_ok(|object| object.location).try_collect().await.expect("listed");
    listed.retain(|key| words.iter().all(|word| key.as_ref().contains(word)));
    listed.sort();
    listed
}

/// Restores with partition 1 stopped, twice, and then with what `mend` does.
async fn stops_one(world: &World, before: usize, why: &str, knows_end: bool, mend: impl AsyncFnOnce(&World)) {
    let target = Fake::new([]);
    for _ in 0..2 {
        let (ended, _, survey) = world.restored(&target, &Asked::default()).await;
        assert_eq!(ended.expect("ended"), Ended::Short, "{why}");
        assert_eq!(survey.unreadable.keys().collect::<Vec<_>>(), [&1], "{why}: {:?}", survey.unreadable);
        assert_eq!(known_end(survey.partitions[&1].1).is_some(), knows_end, "{why}: {:?}", survey.partitions);
        assert_eq!(survey.partitions.len(), 3);
        let stopped = world.last.borrow().clone();
        assert!(stopped.keys().eq([&1]) && stopped[&1].contains(why), "{why}: {stopped:?}");
        for partition in [0, 2] {
            assert_eq!(target.of_partition(partition), of(partition), "{why}");
        }
        assert_eq!(target.of_partition(1), of(1)[..before], "{why}");
    }
    mend(world).await;
    // What is archived once the job knows its end is of another one.
    let (ended, _, survey) = world.restored(&target, &Asked::default()).await;
    assert_eq!((ended.expect("ended"), survey.partitions[&1]), (Ended::Done, (0, 40)), "{why}");
    assert_eq!(world.reached.borrow()[&1].end, 40, "{why}");
    for partition in 0..3 {
        assert_eq!(target.of_partition(partition), of(partition), "{why}");
    }
}

async fn archived() -> World {
    let world = World::new(ENVELOPE);
    for partition in 0..3 {
        world.archived(&of(partition), 10).await;
    }
    world
}

#[tokio::test(start_paused = true)]
async fn a_damaged_receipt_stops_its_partition_alone() {
    for (batch, before) in [(0, 0), (2, 20), (3, 30)] {
        let world = archived().await;
        let name = format!("/00001/{:020}.json", batch * 10);
        let key = found(&world, &["receipts", &name]).await.pop().expect("a receipt");
        let bytes = world.store.get(&key).await.expect("got").bytes().await.expect("read");
        world.store.put(&key, "no JSON".into()).await.expect("put");
        stops_one(&world, before, "00001", false, async |world| {
            world.store.put(&key, bytes.into()).await.expect("put");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_fold_stops_its_partition_alone() {
    let world = archived().await;
    let first = found(&world, &["receipts", "/00001/"]).await.pop().expect("a receipt");
    let folder = first.as_ref().rsplit_once('/').expect("a folder").0.to_string();
    let fold = Path::from(format!("{folder}/folded/{:020}-{:020}.jsonl.gz", 0, 20));
    world.store.put(&fold, "no fold".into()).await.expect("put");
    stops_one(&world, 0, "folded", false, async |world| world.store.delete(&fold).await.expect("deleted")).await;
}

/// A batch of another layout, which only the bucket knows.
#[tokio::test(start_paused = true)]
async fn a_damaged_layout_stops_what_needs_it_alone() {
    let world = World::new(ENVELOPE);
    let other = World {
        store: world.store.clone(),
        ..World::new("[[archive.output]]\nformat = { type = \"envelope\", level = 4 }\n")
    };
    for partition in [0, 2] {
        world.archived(&of(partition), 10).await;
    }
    let known = found(&world, &["_siltstone/layouts"]).await;
    other.archived(&of(1), 10).await;
    let mut layouts = found(&world, &["_siltstone/layouts"]).await;
    layouts.retain(|key| !known.contains(key));
    let key = layouts.pop().expect("another layout");
    let bytes = world.store.get(&key).await.expect("got").bytes().await.expect("read");
    world.store.put(&key, "no layout".into()).await.expect("put");
    stops_one(&world, 0, "the layout that wrote it cannot be used", true, async |world| {
        world.store.put(&key, bytes.into()).await.expect("put");
    })
    .await;
}

/// Objects with these words in their names cannot be had.
#[derive(Debug)]
struct Refusing {
    of: &'static str,
    name: &'static str,
    answers: bool,
}

#[async_trait]
impl StepIn for Refusing {
    async fn get(&self, within: &Within, from: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let key = from.as_ref();
        if key.contains("_siltstone") || !key.contains(self.of) || !key.contains(self.name) {
            return within.get_opts(from, options).await;
        }
        Err(match self.answers {
            true => Error::PermissionDenied { path: key.to_string(), source: "it is in a cold tier".into() },
            false => Error::Generic { store: "silent", source: "no answer".into() },
        })
    }
}

fn refusing(world: &World, name: &'static str, answers: bool) -> Destinations {
    world.destinations_of(Stepped::over(world.store.clone(), Refusing { of: "+00001+", name, answers }))
}

async fn looked_at(world: &World, destinations: &Destinations) -> Result<Survey, Failure> {
    let (clock, wanted) = (ManualClock::at(BASE_MS), Wanted { topic: Some("t".to_string()), ..Wanted::default() });
    let sites = sites(&world.config, destinations, &clock, &wanted).await?;
    let output = Some(choose(&sites[0].archive.layout, None)?.output);
    survey(Archive { site: &sites[0], destinations, clock: &clock }, &Wanted { output, ..wanted }).await
}

/// Goal: an object that the store refuses is told of its source partition alone, and the plan looks at the others; a store that does not answer ends the
/// look. The restore stops in that partition, and goes on with it once the object can be had. Method: event times that are not those of the records, so
/// that first rows alone tell when these were.
#[tokio::test(start_paused = true)]
async fn an_object_that_is_refused_is_the_trouble_of_its_partition_alone() {
    let world = World::new(&format!("timestamp = {{ field = \"at\", unit = \"ms\" }}\n{ENVELOPE}"));
    let of = |partition: i32| {
        let value = Some(format!(r#"{{"at":{BASE_MS}}}"#).into_bytes());
        let one = |offset| OwnedRecord { value: value.clone(), ..record(partition, offset, partition.into()) };
        (0..40).map(one).collect::<Vec<_>>()
    };
    for partition in 0..3 {
        world.archived(&of(partition), 10).await;
    }
    for (name, before) in [("+00000000000000000000-", 0), ("+00000000000000000020-", 20)] {
        let silent = looked_at(&world, &refusing(&world, name, false)).await;
        assert_eq!(silent.err().map(|failure| failure.exit), (before == 0).then_some(Exit::Unreachable));
        let destinations = refusing(&world, name, true);
        let survey = looked_at(&world, &destinations).await.expect("looked at");
        let told: Vec<_> = survey.unreadable.iter().map(|(&partition, why)| (partition, why.as_str())).collect();
        match before {
            0 => assert!(
                matches!(told[..], [(1, why)] if why.contains("cold tier") && why.contains("times of its records are not known")),
                "{told:?}"
            ),
            _ => assert_eq!(told, [], "its first row can be read"),
        }
        assert_eq!(survey.refused, None);
        assert_eq!((survey.oldest_ms, survey.newest_ms), (Some(BASE_MS), Some(BASE_MS + 2 * HOUR_MS)));
        assert!(survey.partitions.values().all(|&range| range == (0, 40)), "{:?}", survey.partitions);

        let target = Fake::new([]);
        let (ended, ..) = world.restored_of(destinations, &target, &Asked::default()).await;
        assert_eq!(ended.expect("ended"), Ended::Short);
        assert!(world.last.borrow().keys().eq([&1]), "{:?}", world.last.borrow());
        assert_eq!(target.of_partition(1), of(1)[..before]);
        assert_eq!((target.of_partition(0), target.of_partition(2)), (of(0), of(2)));
        assert_eq!(world.restored(&target, &Asked::default()).await.0.expect("ended"), Ended::Done);
        assert_eq!(target.of_partition(1), of(1));
    }
}

/// Goal: a store that refuses every object ends the plan: a right is missing, and no job is begun for that.
#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_all_objects_is_refused_beforehand() {
    let world = World::new(&format!("timestamp = {{ field = \"at\", unit = \"ms\" }}\n{ENVELOPE}"));
    for partition in 0..3 {
        world.archived(&[record(partition, 0, 0)], 10).await;
    }
    let all = Refusing { of: "+", name: "", answers: true };
    let looked =
        looked_at(&world, &world.destinations_of(Stepped::over(world.store.clone(), all))).await.expect("looked at");
    assert!(looked.refused.is_some_and(|why| why.contains("cold tier")));
}

/// Goal: the plan tells an end that is not known as such.
#[test]
fn an_end_that_is_not_known_is_null() {
    let survey = Survey { partitions: BTreeMap::from([(0, (0, 40)), (1, (7, END_UNKNOWN))]), ..Survey::default() };
    let said = serde_json::to_value(&survey).expect("JSON");
    assert_eq!(said["partitions"], serde_json::json!({"0": [0, 40], "1": [7, null]}));
}

/// Goal: where the survey could not tell an end and the walk reads all the same, nothing behind what was there counts as done, `--to-offset` holds, and the
/// end is fixed by the run that learns it. Method: a receipt that is mended between the two.
#[tokio::test(start_paused = true)]
async fn what_is_mended_once_the_plan_is_made_leaves_the_end_to_the_next_run() {
    for to in [i64::MAX, 35, 25] {
        let world = archived().await;
        let key = found(&world, &["receipts", &format!("/00001/{:020}.json", 20)]).await.pop().expect("a receipt");
        let bytes = world.store.get(&key).await.expect("got").bytes().await.expect("read");
        world.store.put(&key, "no JSON".into()).await.expect("put");
        let target = Fake::new([]);
        let store = world.store.clone();
        *target.behind_survey.lock().expect("no test panics inside") = Some(Box::new(move || {
            store.put(&key, bytes.into()).now_or_never().expect("memory").expect("put");
        }));
        let wanted = Wanted { offsets: OffsetRange::new(0, to), ..Wanted::default() };
        let asked = Asked { wanted, ..Asked::default() };
        let until = usize::try_from(to.min(40)).expect("small");
        let (ended, _, survey) = world.restored(&target, &asked).await;
        assert_eq!((ended.expect("ended"), known_end(survey.partitions[&1].1)), (Ended::Short, None), "{to}");
        let stopped = world.last.borrow().clone();
        assert!(stopped.keys().eq([&1]) && stopped[&1].contains("and can be now"), "{to}: {stopped:?}");
        assert_eq!(target.of_partition(1), of(1)[..until], "{to}");
        assert_eq!(world.reached.borrow()[&1].at.next, until as i64, "{to}");
        assert_eq!(world.restored(&target, &asked).await.0.expect("ended"), Ended::Done, "{to}");
        assert_eq!(world.reached.borrow()[&1].end, until as i64, "{to}");
        world.archived(&(40..50).map(|offset| record(1, offset, 0)).collect::<Vec<_>>(), 10).await;
        assert_eq!(world.restored(&target, &asked).await.0.expect("ended"), Ended::Done, "{to}");
        for partition in 0..3 {
            assert_eq!(target.of_partition(partition), of(partition)[..until], "{to}");
        }
    }
}
