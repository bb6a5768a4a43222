//! Goal: what is committed is what was archived, once and in order, whatever fails on the way. Method: archives that the pipeline's own parts make on
//! a store in memory, and a target in memory that fails as it is told.

mod compacted;
mod damaged;
mod parquet;
mod unfolded;

use super::order::{InOrder, Seat};
use super::plan::{Survey, choose, survey};
use super::position::{Kept, Progress, Reached};
use super::produce::{Ended, How, Restore};
use super::read::Archive;
use super::tally::Tally;
use super::target::{Handed, RefusedRecord, Target, TimeLimits, Trouble};
use crate::clock::ManualClock;
use crate::config::{Config, parse};
use crate::decode::Schemas;
use crate::destination::{Destination, StoreKind};
use crate::exit::{Exit, Failure};
use crate::ledger::Destinations;
use crate::pipeline::testing::archive_batch;
use crate::reader::merge::Source;
use crate::reader::plan::{Shapes, Wanted, batches, sites};
use crate::reader::sieve::Sieve;
use crate::record::{OffsetRange, OwnedRecord};
use futures::FutureExt;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

pub(super) const URL: &str = "s3://bucket/archive";
/// 2025-11-21T08:00:00Z.
pub(super) const BASE_MS: i64 = 1_763_712_000_000;
pub(super) const HOUR_MS: i64 = 3_600_000;

pub(super) struct World {
    pub(super) store: Arc<InMemory>,
    pub(super) spool: tempfile::TempDir,
    pub(super) config: Config,
    /// Source partitions that the last restore stopped in, and why.
    pub(super) last: std::cell::RefCell<BTreeMap<i32, String>>,
    /// How far it came, as it was told.
    pub(super) reached: std::cell::RefCell<BTreeMap<i32, Reached>>,
    /// Rows that it has restored though they told no time, or no offset.
    pub(super) untold: std::cell::RefCell<(u64, u64)>,
}

impl World {
    pub(super) fn new(archive: &str) -> Self {
        let spool = tempfile::tempdir().expect("a folder");
        let text = format!(
            "[kafka]\nbrokers = \"k\"\ngroup = \"g\"\n[spool]\ndir = \"{}\"\n[destinations.main]\nurl = \"{URL}\"\n\
             [[archive]]\nname = \"a\"\ntopics = [\"t\"]\n{archive}",
            spool.path().display()
        );
        let config = parse(&text, spool.path(), &|_| None).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let store = Arc::new(InMemory::new());
        Self { store, spool, config, last: Default::default(), reached: Default::default(), untold: Default::default() }
    }

    fn destinations(&self) -> Destinations {
        self.destinations_of(self.store.clone())
    }

    pub(super) fn destinations_of(&self, store: Arc<dyn ObjectStore>) -> Destinations {
        let destination = Destination::from_store("main", URL, store, StoreKind::Memory);
        BTreeMap::from([(URL.to_string(), Arc::new(destination))])
    }

    /// Archives `records`, all of one Kafka partition, in batches of `size` offsets.
    pub(super) async fn archived(&self, records: &[OwnedRecord], size: i64) {
        for batch in records.chunk_by(|one, other| one.offset / size == other.offset / size) {
            let first = batch[0].offset / size * size;
            let range = OffsetRange::new(first, first + size);
            let schemas = Schemas::default();
            archive_batch(&self.config, &self.destinations(), self.spool.path(), range, batch, &schemas).await;
        }
    }

    async fn restored(&self, target: &Fake, asked: &Asked<'_>) -> (Result<Ended, Failure>, Tally, Survey) {
        self.restored_of(self.destinations(), target, asked).await
    }

    pub(super) async fn restored_of(
        &self,
        destinations: Destinations,
        target: &Fake,
        asked: &Asked<'_>,
    ) -> (Result<Ended, Failure>, Tally, Survey) {
        let clock = target.clock.clone();
        let wanted = Wanted { topic: Some("t".to_string()), ..asked.wanted.clone() };
        let sites = sites(&self.config, &destinations, &*clock, &wanted).await.expect("sites");
        let output = choose(&sites[0].archive.layout, wanted.output.as_deref()).expect("an output").output;
        let wanted = Wanted { output: Some(output), ..wanted };
        let archive = Archive { site: &sites[0], destinations: &destinations, clock: &*clock };
        let survey = survey(archive, &wanted).await.expect("surveyed");
        let how = How {
            topic: "t",
            to_topic: "u",
            wanted: &wanted,
            ends: &survey.partitions,
            preserve_partitions: true,
            rate: asked.rate,
            limits: TimeLimits::default(),
            message_bytes_max: Some(1_000),
            job: 7,
            is_stopped: &|| false,
        };
        let sieve = Sieve::new(&wanted, None, asked.condition).expect("a condition");
        let mut restore = Restore::new(how, sieve, target, archive);
        let begun = match restore.recovered().await {
            Ok(Some(progress)) => progress,
            Ok(None) => Progress::begin(7, 2, &survey.partitions).expect("fits"),
            Err(failure) => return (Err(failure), Tally::default(), survey),
        };
        let ended = restore.run(begun, &mut |_| {}).await;
        *self.last.borrow_mut() =
            restore.stopped().iter().map(|(&partition, why)| (partition, why.message.clone())).collect();
        self.reached.borrow_mut().clone_from(restore.reached());
        *self.untold.borrow_mut() = (restore.sieve().untimed, restore.sieve().unplaced);
        (ended, *restore.committed(), survey)
    }
}

#[derive(Default)]
pub(super) struct Asked<'a> {
    pub(super) wanted: Wanted,
    pub(super) condition: Option<&'a str>,
    pub(super) rate: Option<u64>,
}

/// What a commit comes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Happens,
    /// It did not happen, and the transaction is to be aborted.
    Aborts,
    /// It happened, and the process never learns of it.
    HappensUntold,
    /// It did not happen, and the process ends.
    Dies,
}

/// A topic in memory. Each record moves the clock, so that transactions are due.
pub(super) struct Fake {
    pub(super) clock: Arc<ManualClock>,
    pub(super) record_ms: i64,
    pub(super) log: Mutex<Log>,
    /// So many records later this happens.
    pub(super) then: Mutex<Option<(u32, Then)>>,
}

pub(super) type Then = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Log {
    open: Option<Vec<(Option<i32>, OwnedRecord)>>,
    committed: Vec<(Option<i32>, OwnedRecord)>,
    pub(super) kept: BTreeMap<i32, (i64, String)>,
    fates: VecDeque<Fate>,
    commits: u32,
    /// Offsets of partition 0 that the client refuses to send.
    unsent: BTreeSet<i64>,
    /// Offsets of partition 0 that the broker refuses, with all that is in their transaction.
    refused: BTreeSet<i64>,
    /// It tells which one only when it is asked a second time.
    is_vague: bool,
    was_vague: bool,
    /// The transaction's first one that it has refused, by its number.
    failed: Option<usize>,
    aborts: u32,
}

impl Fake {
    pub(super) fn new(fates: impl IntoIterator<Item = Fate>) -> Self {
        let log = Log { fates: fates.into_iter().collect(), ..Log::default() };
        Self { clock: Arc::new(ManualClock::at(BASE_MS)), record_ms: 300, log: Mutex::new(log), then: Mutex::new(None) }
    }

    fn of_partition(&self, partition: i32) -> Vec<OwnedRecord> {
        let log = self.log.lock().expect("no test panics inside");
        let of = log.committed.iter().filter(|(to, _)| *to == Some(partition));
        of.map(|(_, record)| record.clone()).collect()
    }

    pub(super) fn values(&self) -> Vec<String> {
        let log = self.log.lock().expect("no test panics inside");
        let text = |record: &OwnedRecord| String::from_utf8_lossy(record.value.as_deref().unwrap_or(b"-")).into_owned();
        log.committed.iter().map(|(_, record)| text(record)).collect()
    }
}

impl Target for Fake {
    fn recover(&self) -> BoxFuture<'_, Result<Vec<Kept>, Trouble>> {
        let mut log = self.log.lock().expect("no test panics inside");
        log.open = None;
        let kept = log.kept.iter().map(|(&slot, (offset, metadata))| (slot, *offset, metadata.clone())).collect();
        async move { Ok(kept) }.boxed()
    }

    fn begin(&self) -> Result<(), Trouble> {
        let mut log = self.log.lock().expect("no test panics inside");
        assert!(log.open.is_none(), "a transaction in a transaction");
        log.open = Some(Vec::new());
        Ok(())
    }

    fn put(&self, partition: Option<i32>, record: &OwnedRecord) -> Result<Handed, Trouble> {
        self.clock.advance(self.record_ms);
        let mut then = self.then.lock().expect("no test panics inside");
        match then.take() {
            Some((0, happen)) => happen(),
            other => *then = other.map(|(left, happen)| (left - 1, happen)),
        }
        drop(then);
        let mut log = self.log.lock().expect("no test panics inside");
        if partition == Some(0) && log.unsent.contains(&record.offset) {
            return Ok(Handed::Never("it is too large".to_string()));
        }
        log.open.as_mut().expect("a transaction").push((partition, record.clone()));
        Ok(Handed::Taken)
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn commit(&self, progress: Vec<Kept>) -> BoxFuture<'_, Result<(), Trouble>> {
        let mut log = self.log.lock().expect("no test panics inside");
        let mut open = log.open.iter().flatten();
        log.failed = open.position(|(to, record)| *to == Some(0) && log.refused.contains(&record.offset));
        if log.failed.is_some() {
            return async { Err(Trouble::Passing("a record is not delivered".to_string())) }.boxed();
        }
        let fate = log.fates.pop_front().unwrap_or(Fate::Happens);
        if matches!(fate, Fate::Happens | Fate::HappensUntold) {
            let records = log.open.take().expect("a transaction");
            log.committed.extend(records);
            log.kept.extend(progress.into_iter().map(|(slot, offset, metadata)| (slot, (offset, metadata))));
            log.commits += 1;
        }
        let outcome = match fate {
            Fate::Happens => Ok(()),
            Fate::Aborts => Err(Trouble::Passing("told to".to_string())),
            Fate::HappensUntold | Fate::Dies => Err(Trouble::Fatal("told to".to_string())),
        };
        async move { outcome }.boxed()
    }

    fn abort(&self) -> BoxFuture<'_, Result<Option<RefusedRecord>, Trouble>> {
        let mut log = self.log.lock().expect("no test panics inside");
        log.open = None;
        log.aborts += 1;
        let refused = log.failed.take().map(|number| {
            log.was_vague = log.is_vague && !log.was_vague;
            RefusedRecord { number: (!log.was_vague).then_some(number), why: "it is too large".to_string() }
        });
        async { Ok(refused) }.boxed()
    }
}

pub(super) fn record(partition: i32, offset: i64, hour: i64) -> OwnedRecord {
    OwnedRecord {
        topic: "t".to_string(),
        partition,
        offset,
        timestamp: Some(BASE_MS + hour * HOUR_MS + offset),
        key: (offset % 3 > 0).then(|| vec![b'k'; usize::try_from(offset % 3 - 1).expect("small")]),
        value: (offset % 5 > 0).then(|| format!(r#"{{"id":{offset},"hour":{hour}}}"#).into_bytes()),
        headers: vec![("h".to_string(), None), ("h".to_string(), Some(vec![0xff]))],
    }
}

pub(super) const ENVELOPE: &str = "[[archive.output]]\nformat = \"envelope\"\n";

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Happens),
        2 => Just(Fate::Aborts),
        1 => Just(Fate::HappensUntold),
        1 => Just(Fate::Dies),
    ]
}

/// Goal: what precedes a record that the target does not take is there, its partition stops, the others come to their ends; a resumed run meets it
/// again and doubles nothing; once it is taken all is there, once and in order. Method: refused by the client or by the broker, in any place, between
/// commits that fail; by a broker that tells which one it is, or only when each record is asked about.
#[test]
fn a_record_that_is_not_taken_stops_its_partition_behind_all_that_precede_it() {
    for (place, by_client, is_vague, record_ms) in [
        (0, true, false, 300),
        (0, false, false, 300),
        (0, false, true, 300),
        (17, true, false, 300),
        (17, false, false, 1),
        (17, false, true, 1),
        (39, false, false, 0),
        (39, false, true, 0),
        (39, true, false, 0),
    ] {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let world = World::new(ENVELOPE);
            let of = |partition| (0..40).map(|offset| record(partition, offset, offset % 3)).collect::<Vec<_>>();
            for partition in 0..3 {
                world.archived(&of(partition), 10).await;
            }
            let target = Fake { record_ms, ..Fake::new([Fate::Happens, Fate::Aborts]) };
            {
                let mut log = target.log.lock().expect("no test panics inside");
                if by_client { &mut log.unsent } else { &mut log.refused }.insert(place);
                log.is_vague = is_vague;
            }
            for _ in 0..2 {
                let (ended, ..) = world.restored(&target, &Asked::default()).await;
                assert_eq!(ended.expect("ended"), Ended::Short);
                assert_eq!(target.of_partition(0), of(0)[..place as usize], "{place} {by_client}");
                assert_eq!((target.of_partition(1), target.of_partition(2)), (of(1), of(2)));
                let stopped = world.last.borrow().clone();
                assert_eq!(stopped.keys().collect::<Vec<_>>(), [&0]);
                let said = [format!("t/0 offset {place}"), "max.message.bytes=1000".to_string(), "t/".to_string()];
                let behind = format!("--partition 0 --from-offset {}", place + 1);
                assert!(said.iter().chain([&behind]).all(|word| stopped[&0].contains(word)), "{stopped:?}");
            }
            {
                let mut log = target.log.lock().expect("no test panics inside");
                // Of the two runs, and the one that was told to.
                assert!(log.aborts <= 2 * (1 + u32::from(is_vague)) + 1, "{} aborts", log.aborts);
                (log.unsent, log.refused) = Default::default();
            }
            assert_eq!(world.restored(&target, &Asked::default()).await.0.expect("ended"), Ended::Done);
            for partition in 0..3 {
                assert_eq!(target.of_partition(partition), of(partition));
            }
        });
    }
}

/// Goal: a record that is larger than the topic takes unless it is packed is the broker's to decide.
#[tokio::test(start_paused = true)]
async fn a_record_that_is_large_only_unpacked_is_handed_over() {
    let world = World::new(ENVELOPE);
    let all = [record(0, 1, 0), OwnedRecord { value: Some(vec![b'a'; 5_000]), ..record(0, 2, 0) }, record(0, 3, 0)];
    world.archived(&all, 10).await;
    let target = Fake::new([]);
    // The topic of these restores has max.message.bytes=1000.
    assert_eq!(world.restored(&target, &Asked::default()).await.0.expect("ended"), Ended::Done);
    assert_eq!(target.of_partition(0), all);
}

/// Goal: of two records that are refused in one transaction the first one is told, and the second one once that is taken.
#[tokio::test(start_paused = true)]
async fn a_second_refused_record_is_met_behind_the_first() {
    let world = World::new(ENVELOPE);
    let all: Vec<_> = (0..40).map(|offset| record(0, offset, 0)).collect();
    world.archived(&all, 10).await;
    let target = Fake { record_ms: 0, ..Fake::new([]) };
    target.log.lock().expect("no test panics inside").refused = BTreeSet::from([12, 30]);
    for (place, taken) in [(12, 12), (30, 30), (i64::MAX, 40)] {
        let ended = world.restored(&target, &Asked::default()).await.0.expect("ended");
        assert_eq!(ended, if taken == 40 { Ended::Done } else { Ended::Short });
        assert_eq!(target.of_partition(0), all[..taken]);
        if taken < 40 {
            assert!(world.last.borrow()[&0].contains(&format!("t/0 offset {place}")), "{:?}", world.last.borrow());
        }
        target.log.lock().expect("no test panics inside").refused.remove(&place);
    }
}

/// Goal: an object that is not there stops its own partition, the first one of the job too; once it is there again the job goes on with it.
#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_stops_its_partition_alone() {
    for (batch, json) in [(0, ""), (2, ""), (2, "[[archive.output]]\nformat = \"json\"\n")] {
        let outputs = if json.is_empty() { ENVELOPE.to_string() } else { format!("tombstones = \"drop\"\n{json}") };
        let world = World::new(&outputs);
        let of = |partition| (1..40).map(|offset| record(partition, offset, offset % 2)).collect::<Vec<_>>();
        for partition in 0..3 {
            world.archived(&of(partition), 10).await;
        }
        let place = format!("{:020}", batch * 10);
        let mut listed = world.store.list(None).try_collect::<Vec<_>>().await.expect("listed");
        listed.retain(|object| {
            let key = object.location.as_ref();
            !key.contains("_siltstone") && key.contains("+00000+") && key.contains(&format!("+{place}-"))
        });
        assert!(!listed.is_empty(), "an object of {place}");
        let gone = listed.pop().expect("one").location;
        let bytes = world.store.get(&gone).await.expect("got").bytes().await.expect("read");
        world.store.delete(&gone).await.expect("deleted");
        let target = Fake::new([]);
        let values =
            |records: Vec<OwnedRecord>| records.into_iter().filter_map(|record| record.value).collect::<BTreeSet<_>>();
        for _ in 0..2 {
            let (ended, _, survey) = world.restored(&target, &Asked::default()).await;
            assert_eq!(ended.expect("ended"), Ended::Short);
            assert_eq!(survey.unreadable.contains_key(&0), batch == 0, "{:?}", survey.unreadable);
            assert_eq!(world.last.borrow().keys().collect::<Vec<_>>(), [&0]);
            for partition in 1..3 {
                assert_eq!(values(target.of_partition(partition)), values(of(partition)));
            }
            let before = of(0).into_iter().filter(|record| record.offset < batch * 10).collect::<Vec<_>>();
            assert!(values(target.of_partition(0)).is_superset(&values(before)));
        }
        world.store.put(&gone, bytes.into()).await.expect("put");
        assert_eq!(world.restored(&target, &Asked::default()).await.0.expect("ended"), Ended::Done);
        let found = target.of_partition(0);
        assert_eq!(values(found.clone()), values(of(0)));
        assert_eq!(found.iter().filter(|record| record.value.is_some()).count(), values(of(0)).len(), "none twice");
    }
}

/// Goal: the plan says which rows come though nobody can tell whether they are asked for, and the balance counts the same ones.
#[tokio::test(start_paused = true)]
async fn rows_that_tell_no_time_or_offset_are_said_beforehand_and_counted() {
    let json = "[[archive.output]]\nformat = \"json\"\n";
    let kept = format!("{json}keep = [\"offset\", \"timestamp\"]\n");
    let cases = [(ENVELOPE.to_string(), (0, 0)), (kept, (0, 0)), (json.to_string(), (16, 16))];
    for (outputs, expected) in cases {
        let world = World::new(&format!("tombstones = \"drop\"\n{outputs}"));
        let all: Vec<_> = (1..20).map(|offset| record(0, offset, 0)).collect();
        world.archived(&all, 20).await;
        let time = Wanted { since_ms: Some(BASE_MS + 5), ..Wanted::default() };
        let offsets = Wanted { offsets: OffsetRange::new(0, 15), ..Wanted::default() };
        for (wanted, is_time) in [(time, true), (offsets, false)] {
            let target = Fake::new([Fate::Aborts, Fate::Happens, Fate::Aborts]);
            let (ended, tally, survey) =
                world.restored(&target, &Asked { wanted, condition: None, ..Asked::default() }).await;
            assert_eq!(ended.expect("ended"), Ended::Done);
            let untold = if is_time { survey.untold_times } else { survey.untold_offsets };
            let other = if is_time { survey.untold_offsets } else { survey.untold_times };
            let rows = if is_time { expected.0 } else { expected.1 };
            assert_eq!((untold.rows, other.rows, untold.objects), (rows, 0, u64::from(rows > 0)), "{outputs}");
            assert!(tally.produced >= rows, "{tally:?}");
            let (untimed, unplaced) = *world.untold.borrow();
            assert_eq!(
                if is_time { (untimed, unplaced) } else { (unplaced, untimed) },
                (rows, 0),
                "{outputs}: counted once"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Goal: each record once, in order, as it was. Method: event times in any order over up to 12 windows a batch, so that they are merged or read in
    /// passes; commits that fail, happen unseen, or are the last thing that a process does; then processes until one gets to the end.
    #[test]
    fn whole_records_come_back_once_and_in_order(
        hours in prop::collection::vec(0..12_i64, 1..60),
        fates in prop::collection::vec(fate(), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let world = World::new(ENVELOPE);
            let all: Vec<OwnedRecord> =
                hours.iter().enumerate().map(|(at, &hour)| record(at as i32 % 2, at as i64 / 2 * 2, hour)).collect();
            for partition in 0..2 {
                let of: Vec<_> = all.iter().filter(|one| one.partition == partition).cloned().collect();
                if !of.is_empty() {
                    world.archived(&of, 40).await;
                }
            }
            let target = Fake::new(fates);
            let mut lives = 0;
            loop {
                lives += 1;
                match world.restored(&target, &Asked::default()).await {
                    (Ok(Ended::Done), ..) => break,
                    (Ok(other), ..) => panic!("{other:?}"),
                    (Err(failure), ..) => assert!(lives < 20, "{failure}"),
                }
            }
            for partition in 0..2 {
                let expected: Vec<_> = all.iter().filter(|one| one.partition == partition).cloned().collect();
                assert_eq!(target.of_partition(partition), expected, "partition {partition}");
            }
            let before = target.log.lock().expect("no test panics inside").commits;
            let (again, tally, _) = world.restored(&target, &Asked::default()).await;
            assert_eq!((again.expect("ended"), tally.produced), (Ended::Done, 0));
            assert_eq!(target.log.lock().expect("no test panics inside").commits, before, "a job that is through does nothing");
        });
    }

    /// Goal: rows without offsets of their own are restored once too, each life going on behind the last one.
    #[test]
    fn rows_come_back_once(
        hours in prop::collection::vec(0..4_i64, 1..40),
        fates in prop::collection::vec(fate(), 0..10),
        keeps in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let keep = if keeps { "keep = [\"key\", \"offset\", \"timestamp\"]\n" } else { "" };
            let world = World::new(&format!("tombstones = \"keep\"\n[[archive.output]]\nformat = \"json\"\n{keep}"));
            let all: Vec<_> = hours.iter().enumerate().map(|(at, &hour)| record(0, at as i64, hour)).collect();
            world.archived(&all, 30).await;
            let target = Fake::new(fates);
            let mut lives = 0;
            while world.restored(&target, &Asked::default()).await.0.is_err() {
                lives += 1;
                assert!(lives < 20);
            }
            let found = target.of_partition(0);
            if keeps {
                let known = |one: &OwnedRecord| (one.key.clone(), one.value.clone(), one.timestamp);
                assert_eq!(found.iter().map(known).collect::<Vec<_>>(), all.iter().map(known).collect::<Vec<_>>());
            } else {
                let null = || b"null".to_vec();
                let mut values: Vec<_> = all.iter().map(|one| one.value.clone().unwrap_or_else(null)).collect();
                let mut restored: Vec<_> = found.into_iter().map(|one| one.value.unwrap_or_else(null)).collect();
                values.sort();
                restored.sort();
                assert_eq!(restored, values);
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_asked_for_is_left_out_and_counted() {
    let world = World::new(ENVELOPE);
    let all: Vec<_> = (0..20).map(|offset| record(0, offset, offset / 5)).collect();
    world.archived(&all, 20).await;
    let target = Fake::new([]);
    let wanted = Wanted {
        since_ms: Some(BASE_MS + HOUR_MS),
        offsets: OffsetRange::new(0, 17),
        partitions: vec![0..=0],
        ..Wanted::default()
    };
    let (ended, tally, survey) =
        world.restored(&target, &Asked { wanted, condition: Some(".hour != 2"), ..Asked::default() }).await;
    assert_eq!(ended.expect("ended"), Ended::Done);
    let row = |id: i64, hour: i64| format!(r#"{{"id":{id},"hour":{hour}}}"#);
    let tombstone = || "-".to_string();
    let expected = [tombstone(), row(6, 1), row(7, 1), row(8, 1), row(9, 1), tombstone(), tombstone(), row(16, 3)];
    assert_eq!(target.values(), expected);
    // What lies behind the end of the job is not looked at.
    assert_eq!((tally.produced, tally.filtered, tally.outside), (8, 4, 0));
    assert_eq!(survey.partitions, BTreeMap::from([(0, (0, 17))]));
    assert_eq!((survey.oldest_ms, survey.losses.len()), (Some(BASE_MS + HOUR_MS + 5), 0));
}

#[tokio::test(start_paused = true)]
async fn transactions_that_never_succeed_end_the_restore() {
    let world = World::new(ENVELOPE);
    world.archived(&[record(0, 0, 0)], 10).await;
    let target = Fake::new(vec![Fate::Aborts; 50]);
    let failure = world.restored(&target, &Asked::default()).await.0.expect_err("never");
    assert_eq!(failure.exit, Exit::Unreachable, "{failure}");
    assert!(failure.message.contains("10 transactions in a row"), "{failure}");
}

/// Goal: passes with little memory give the order that merging gives.
#[tokio::test]
async fn passes_with_little_memory_give_the_same_order() {
    let world = World::new(ENVELOPE);
    let all: Vec<_> = (0..60).map(|offset| record(0, offset, offset * 7 % 11)).collect();
    world.archived(&all, 60).await;
    let (destinations, clock) = (world.destinations(), ManualClock::at(BASE_MS));
    let wanted = Wanted::default();
    let sites = sites(&world.config, &destinations, &clock, &wanted).await.expect("sites");
    let batch = batches(&sites[0], &sites[0].partitions[0], &clock, &wanted).await.expect("batches").try_next().await;
    let batch = batch.expect("read").expect("one");
    assert_eq!(batch.objects.len(), 11);
    let mut shapes = Shapes::new(&sites[0]);
    let mut sources = Vec::new();
    for chosen in batch.objects {
        let shape = shapes.of(&sites[0], &clock, &chosen).await.expect("a shape");
        let place = chosen.place(&destinations).expect("a place");
        sources.push(Arc::new(Source { chosen, place, shape }));
    }
    for bytes_max in [1, 500, 5_000, 1 << 20] {
        let mut ordered = InOrder::with_room(5, bytes_max);
        for source in &sources {
            ordered.push(source.clone(), Seat::of(&source.chosen, source.chosen.object.folder.clone()), 0);
        }
        let mut offsets = Vec::new();
        while let Some(offset) = ordered.peek(i64::MAX).await.map_err(|unread| unread.failure).expect("read") {
            let (popped, item) = ordered.pop().await.map_err(|unread| unread.failure).expect("read").expect("told");
            assert_eq!((popped, item.told.offset), (offset, Some(offset)));
            offsets.push(offset);
        }
        assert_eq!(offsets, (5..60).collect::<Vec<_>>(), "{bytes_max}");
    }
}
