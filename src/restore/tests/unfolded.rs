//! Goal: a record that is many rows is in one transaction, or goes on behind the rows that are restored: also where they lie in the objects of several
//! hours, and those are compacted in between. Method: as in [`super`], with payloads that unfold, in batches that have few hours in common.

use super::compacted::{compact, compaction, to_the_end};
use super::{Asked, BASE_MS, Ended, Fake, Fate, HOUR_MS, World, record};
use crate::clock::ManualClock;
use crate::ledger::Destinations;
use crate::reader::plan::{Wanted, batches, sites};
use crate::record::OwnedRecord;
use crate::restore::order::Rank;
use crate::restore::position::{Position, Reached, RowsOf, Told};
use crate::restore::walk::hash;
use futures::TryStreamExt;
use std::collections::BTreeMap;

const UNFOLDED: &str = "decode = { type = \"json\", unfold = true }\ntimestamp = { field = \"at\", unit = \"ms\" }\n[[archive.output]]\n\
                        format = \"json\"\nkeep = [\"offset\"]\n";
/// The hours of a record's rows, by batch. The compacted object of the later hour begins first, so objects stand in another order then.
const HOURS: [[i64; 2]; 4] = [[9, 9], [9, 8], [8, 8], [9, 8]];
const OFFSETS: i64 = 12;
const ROWS: u64 = 6;

/// Records of six rows each, in batches of three.
async fn world() -> World {
    let world = World::new(UNFOLDED);
    let of = |offset: i64| {
        let hours = HOURS[usize::try_from(offset / 3 % 4).expect("small")];
        let rows = (0..6).map(|row: usize| {
            let at = BASE_MS + hours[row % 2] * HOUR_MS + offset;
            format!(r#"{{"id":{},"at":{at}}}"#, offset * 10 + row as i64)
        });
        let value = format!("[{}]", rows.collect::<Vec<_>>().join(","));
        OwnedRecord { value: Some(value.into_bytes()), ..record(0, offset, 0) }
    };
    world.archived(&(0..OFFSETS).map(of).collect::<Vec<_>>(), 3).await;
    world
}

fn ids(target: &Fake) -> Vec<i64> {
    let id = |value: &String| serde_json::from_str::<serde_json::Value>(value).expect("JSON")["id"].as_i64();
    target.values().iter().map(|value| id(value).expect("an id")).collect()
}

/// Each row once, and records in order.
#[track_caller]
fn assert_whole(target: &Fake, what: &str) {
    let mut found = ids(target);
    let offsets: Vec<_> = found.iter().map(|id| id / 10).collect();
    assert!(offsets.is_sorted(), "{what}: {offsets:?}");
    found.sort_unstable();
    let all: Vec<_> = (0..OFFSETS).flat_map(|offset| (0..6).map(move |row| offset * 10 + row)).collect();
    assert_eq!(found, all, "{what}");
}

fn stores(world: &World) -> Destinations {
    world.destinations_of(world.store.clone())
}

/// Where the job is, as the group tells.
fn kept(target: &Fake) -> Reached {
    let log = target.log.lock().expect("no test panics inside");
    let told = log.kept.values().map(|(_, metadata)| Told::decode(metadata).expect("ours"));
    told.flat_map(|told| told.reached).find(|&(partition, _)| partition == 0).expect("it has begun").1
}

/// Goal: no transaction ends within a record, though each is due after the first of its rows; so a compaction leaves the place of the job known.
#[tokio::test(start_paused = true)]
async fn transactions_end_between_records() {
    for lives in 1..OFFSETS as usize {
        let world = world().await;
        let dying = std::iter::repeat_n(Fate::Happens, lives).chain([Fate::Dies]);
        let target = Fake { record_ms: 3_000, ..Fake::new(dying) };
        world.restored_of(stores(&world), &target, &Asked::default()).await.0.expect_err("it died");
        let Reached { at, .. } = kept(&target);
        assert_eq!((at.rows, at.tag), (0, 0), "{lives}: {at:?}");
        assert_eq!(target.values().len() as u64, at.next.unsigned_abs() * ROWS, "{lives}");
        compact(&world.config, stores(&world), 100).await;
        to_the_end(&world, &target, &Asked::default()).await;
        assert_whole(&target, &format!("{lives}"));
    }
}

/// Goal: a record of more rows than a transaction takes goes on behind those that are restored, though its objects are compacted in between, and stand
/// in another order then. Method: so few rows a second that two of them are a transaction; each begin of a record, its middle, and between hours.
#[tokio::test(start_paused = true)]
async fn a_record_larger_than_a_transaction_goes_on_within_it() {
    let asked = Asked { rate: Some(1), ..Asked::default() };
    let mut within = 0;
    for lives in 1..(OFFSETS as usize * 3) {
        let world = world().await;
        let dying = std::iter::repeat_n(Fate::Happens, lives).chain([Fate::Dies]);
        let target = Fake { record_ms: 1_000, ..Fake::new(dying) };
        world.restored_of(stores(&world), &target, &asked).await.0.expect_err("it died");
        let Reached { at, .. } = kept(&target);
        assert_eq!(at.next.unsigned_abs() * ROWS + at.rows, lives as u64 * 2, "{lives}: {at:?}");
        assert_eq!(at.of == RowsOf::Record, at.rows > 0, "{lives}: {at:?}");
        within += usize::from(at.rows > 0);
        // As they are, or of another format.
        if lives % 2 == 0 {
            compact(&world.config, stores(&world), 100).await;
        } else {
            assert_eq!(world.compacted().await.left, 0);
        }
        to_the_end(&world, &target, &asked).await;
        assert_whole(&target, &format!("{lives}"));
    }
    assert!(within > OFFSETS as usize, "{within}");
}

/// Goal: the same where the objects are compacted while the job reads them.
#[tokio::test(start_paused = true)]
async fn a_compaction_within_a_record_is_followed() {
    for (rate, record_ms) in [(None, 3_000), (Some(1), 1_000)] {
        for after in [0, 1, 2, 3, 20, 45] {
            let world = world().await;
            let target = Fake { record_ms, ..Fake::new([]) };
            *target.then.lock().expect("no test panics inside") = Some((after, compaction(&world, 100)));
            let asked = Asked { rate, ..Asked::default() };
            let ended = world.restored_of(stores(&world), &target, &asked).await.0;
            assert_eq!(ended.expect("ended"), Ended::Done, "{rate:?} {after}: {:?}", world.last.borrow());
            assert_whole(&target, &format!("{rate:?} {after}"));
        }
    }
}

/// Goal: a refused row stops the source partition before its record, with nothing of it restored.
#[tokio::test(start_paused = true)]
async fn a_record_of_which_a_row_is_refused_is_restored_whole_or_not() {
    let world = world().await;
    let target = Fake { record_ms: 0, ..Fake::new([]) };
    target.log.lock().expect("no test panics inside").refused.insert(5);
    let ended = world.restored_of(stores(&world), &target, &Asked::default()).await.0;
    assert_eq!(ended.expect("ended"), Ended::Short);
    assert_eq!(target.values().len() as u64, 5 * ROWS);
    assert_eq!(world.reached.borrow()[&0].at, Position::at(5));
    assert!(world.last.borrow()[&0].contains("t/0 offset 5"), "{:?}", world.last.borrow());
    target.log.lock().expect("no test panics inside").refused.clear();
    to_the_end(&world, &target, &Asked::default()).await;
    assert_whole(&target, "taken");
}

/// Goal: a job of an earlier release that stopped within a record goes on behind its rows as that release gave them, as long as their objects
/// are there; else it says what is not known.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_release_has_kept_within_a_record_is_read() {
    for (is_compacted, rows) in [(false, 1), (false, 4), (true, 2)] {
        let world = world().await;
        let (destinations, clock, wanted) = (stores(&world), ManualClock::at(0), Wanted::default());
        let sites = sites(&world.config, &destinations, &clock, &wanted).await.expect("sites");
        let batches = batches(&sites[0], &sites[0].partitions[0], &clock, &wanted).await.expect("batches");
        let batches: Vec<_> = batches.try_collect().await.expect("read");
        let mut ranks: Vec<Rank> = batches.iter().flat_map(|batch| &batch.objects).map(Rank::of).collect();
        ranks.sort();
        // Offset 4 has three rows in the object of hour 8, which came first, and then three in that of hour 9.
        let tag = hash("rows", ranks.iter().filter(|rank| rank.reaches_over(4)));
        let at = Position { next: 4, rows, of: RowsOf::Object, tag };
        let told = Told { job: 7, slots: 1, count: 1, reached: BTreeMap::from([(0, Reached { at, end: OFFSETS })]) };
        let target = Fake::new([]);
        let metadata = told.encode().expect("fits");
        target.log.lock().expect("no test panics inside").kept = BTreeMap::from([(0, (24, metadata))]);
        if is_compacted {
            compact(&world.config, stores(&world), 100).await;
            let ended = world.restored_of(stores(&world), &target, &Asked::default()).await.0;
            assert_eq!((ended.expect("ended"), target.values().len()), (Ended::Short, 0));
            let said = world.last.borrow()[&0].clone();
            let words = ["2 rows", "at offset 4", "a compaction came in between", "--from-offset 5"];
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        } else {
            to_the_end(&world, &target, &Asked::default()).await;
            let by_rank = [41, 43, 45, 40, 42, 44];
            let mut expected = by_rank[rows as usize..].to_vec();
            expected.sort_unstable();
            let mut rest = ids(&target);
            rest.retain(|id| id / 10 == 4);
            rest.sort_unstable();
            assert_eq!(rest, expected, "{rows}");
            assert_eq!(ids(&target).len() as u64, (OFFSETS.unsigned_abs() - 4) * ROWS - rows);
        }
    }
}
