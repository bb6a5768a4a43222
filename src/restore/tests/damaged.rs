//! Goal: a receipt, fold or layout that is damaged stops the source partition that needs it, and no other; once it is there again the same command
//! brings the rest. Method: as in [`super`], with documents of one of three source partitions spoilt before the first record.

use super::*;
use crate::restore::position::{END_UNKNOWN, known_end};
use object_store::path::Path;

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

/// Goal: the plan tells an end that is not known as such.
#[test]
fn an_end_that_is_not_known_is_null() {
    let survey = Survey { partitions: BTreeMap::from([(0, (0, 40)), (1, (7, END_UNKNOWN))]), ..Survey::default() };
    let said = serde_json::to_value(&survey).expect("JSON");
    assert_eq!(said["partitions"], serde_json::json!({"0": [0, 40], "1": [7, null]}));
}
