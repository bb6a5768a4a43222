//! Rounds over a store in memory, with somebody who notes what he is told.

use super::*;
use crate::bucket::receipt::{Balance, RECEIPT_VERSION};
use crate::clock::ManualClock;
use crate::destination::{Destination, StoreKind};
use crate::effect::Effect;
use crate::hook::Caller;
use async_trait::async_trait;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// What somebody was told, and how often he will fail.
#[derive(Debug, Default)]
struct Other {
    told: Mutex<Vec<(String, i64)>>,
    fails: AtomicUsize,
    /// How long a call takes, milliseconds.
    takes_ms: AtomicI64,
    clock: Arc<ManualClock>,
}

#[derive(Debug)]
struct Line(Arc<Other>);

#[async_trait]
impl Caller for Line {
    fn effect(&self) -> Effect {
        Effect::HookCommand
    }

    fn shown(&self) -> String {
        "call the other".to_string()
    }

    async fn call(&self, key: &str, body: &str) -> Result<(), HookFailure> {
        self.0.clock.advance(self.0.takes_ms.load(Ordering::SeqCst));
        if self.0.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(HookFailure::passing("it says no"));
        }
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!((&body["kind"], &body["key"]), (&"batch".into(), &key.into()));
        let first = body["receipt"]["first"].as_i64().expect("an offset");
        self.0.told.lock().expect("no panic").push((key.to_string(), first));
        Ok(())
    }
}

struct World {
    store: Arc<InMemory>,
    bucket: Bucket,
    clock: Arc<ManualClock>,
    other: Arc<Other>,
    hook: Arc<Hook>,
    partition: TopicPartition,
    /// First offsets of receipts that are there.
    receipts: Vec<i64>,
    /// Where the next receipt begins.
    end: i64,
    committed: i64,
}

const CURSOR: &str = "_siltstone/hook/v1/h/t/00003.json";

impl World {
    fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let destination = Destination::from_store("a", "s3://a", store.clone(), StoreKind::Memory);
        let clock = Arc::new(ManualClock::at(1_763_712_000_000));
        let other = Arc::new(Other { clock: clock.clone(), ..Other::default() });
        let caller = Box::new(Line(other.clone()));
        Self {
            store,
            bucket: Bucket::new(Arc::new(destination)),
            clock,
            other,
            hook: Arc::new(Hook::new(("main", "h"), (true, false), Duration::from_secs(30), caller)),
            partition: TopicPartition::new("t", 3),
            receipts: Vec::new(),
            end: 0,
            committed: 0,
        }
    }

    /// Archives a batch of ten offsets.
    async fn archive(&mut self) {
        let (first, end) = (self.end, self.end + 10);
        let receipt = Receipt {
            version: RECEIPT_VERSION,
            topic: "t".into(),
            partition: 3,
            first,
            end,
            topic_id: None,
            cluster_id: "c".into(),
            archive: "main".into(),
            generation: 1,
            fingerprint: "f".into(),
            writer: "0".into(),
            schemas: BTreeMap::new(),
            target: None,
            reason: "age".into(),
            watermark_ms: None,
            balance: Balance::default(),
            objects: Vec::new(),
            lost: Vec::new(),
            written_ms: None,
        };
        self.bucket.put_receipt(&receipt, None).await.expect("vouched for");
        self.receipts.push(first);
        self.end = end;
    }

    async fn archive_and_commit(&mut self, batches: usize) {
        for _ in 0..batches {
            self.archive().await;
        }
        self.committed = self.end;
    }

    async fn round_of(&self, follower: &mut Follower, calls: usize) -> Outcome {
        let left = AtomicUsize::new(calls);
        let goes_on = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        follower.round(&self.hook, &world_seams(self, &goes_on)).await
    }

    async fn round(&self, follower: &mut Follower) -> Outcome {
        self.round_of(follower, usize::MAX).await
    }

    async fn cursor(&self) -> Option<HookCursor> {
        self.bucket.hook_cursor("h", &self.partition).await.expect("readable")
    }

    async fn through(&self) -> i64 {
        self.cursor().await.expect("it has begun").through
    }

    fn told(&self) -> Vec<i64> {
        self.other.told.lock().expect("no panic").iter().map(|(_, first)| *first).collect()
    }
}

/// Goal: what is committed is told, in order and once, and nothing else; without a cursor it begins at what is committed.
#[tokio::test]
async fn what_is_committed_is_told_in_order() {
    let mut world = World::new();
    world.archive_and_commit(2).await;
    let mut follower = Follower::default();
    world.round(&mut follower).await;
    assert_eq!((world.told(), world.through().await), (vec![], 20), "it begins at what is committed");
    world.archive_and_commit(3).await;
    world.archive().await;
    assert_eq!(world.round(&mut follower).await.told, 3);
    assert_eq!((world.told(), world.through().await), (vec![20, 30, 40], 50), "the last one is not committed");
    // Offsets that nothing vouches for: somebody set the committed offset ahead.
    world.end = 100;
    world.archive_and_commit(1).await;
    world.end = 200;
    world.committed = 200;
    world.round(&mut follower).await;
    assert_eq!((world.told(), world.through().await), (vec![20, 30, 40, 50, 100], 200));
    // What a job archives behind it is not told.
    let end = std::mem::replace(&mut world.end, 70);
    world.archive().await;
    (world.end, world.committed) = (end, end);
    let outcome = world.round(&mut Follower::default()).await;
    assert_eq!((outcome.told, world.told().len()), (0, 5));
}

/// Goal: whoever comes next tells again what was told since the cursor was written, under the same keys, and nothing before it.
#[tokio::test]
async fn a_restart_tells_again_what_the_cursor_does_not_say() {
    let mut world = World::new();
    world.round(&mut Follower::default()).await;
    world.archive_and_commit(4).await;
    // It dies before it writes: its calls were let through, its last look is for the third call, and what it would write then is not counted.
    let before = world.store.get(&Path::from(CURSOR)).await.expect("there").bytes().await.expect("bytes");
    world.round_of(&mut Follower::default(), 3).await;
    assert_eq!(world.told(), [0, 10]);
    world.store.put(&Path::from(CURSOR), before.into()).await.expect("put");
    world.round(&mut Follower::default()).await;
    assert_eq!(world.told(), [0, 10, 0, 10, 20, 30]);
    let told = world.other.told.lock().expect("no panic").clone();
    let keys: BTreeSet<&String> = told.iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), 4);
    assert_eq!((&told[0].0, &told[1].0), (&told[2].0, &told[3].0));
}

/// Goal: one that fails is told before the next one, after pauses that grow; what is wrong stands in the bucket until it is over.
#[tokio::test]
async fn what_fails_is_told_again_before_the_next_one() {
    let mut world = World::new();
    let mut follower = Follower::default();
    world.round(&mut follower).await;
    world.archive_and_commit(2).await;
    world.other.fails.store(2, Ordering::SeqCst);
    let outcome = world.round(&mut follower).await;
    let failure = outcome.failure.expect("it says no");
    assert!(
        failure.message.contains("main, t/3: tell hook h of receipts: offsets 0 to 10: call the other: it says no"),
        "{failure:?}"
    );
    assert_eq!(outcome.again_ms, Some(10_000));
    assert!(world.cursor().await.expect("begun").error.is_some_and(|error| error.contains("it says no")));
    assert_eq!(
        (world.round(&mut follower).await.again_ms, world.told()),
        (Some(10_000), vec![]),
        "not before its time"
    );
    world.clock.advance(10_000);
    assert_eq!(world.round(&mut follower).await.again_ms, Some(30_000), "the second pause is twice as long");
    world.clock.advance(20_000);
    let outcome = world.round(&mut follower).await;
    assert!(outcome.failure.is_none() && outcome.again_ms.is_none() && follower.error().is_none());
    assert_eq!((world.told(), world.cursor().await.expect("begun").error), (vec![0, 10], None));
    // A restart tries at once.
    world.archive_and_commit(1).await;
    world.other.fails.store(1, Ordering::SeqCst);
    world.round(&mut follower).await;
    assert_eq!(world.round(&mut Follower::default()).await.told, 1);
}

/// Goal: no hook is ahead of the others for long, and the cursor is written while it is told for long.
#[tokio::test]
async fn a_round_is_bounded_and_writes_on_its_way() {
    let mut world = World::new();
    let mut follower = Follower::default();
    world.round(&mut follower).await;
    let many = usize::try_from(ROUND_MAX).expect("few") + 5;
    world.archive_and_commit(many).await;
    let outcome = world.round(&mut follower).await;
    assert_eq!((outcome.told, outcome.has_more), (ROUND_MAX, true));
    let outcome = world.round(&mut follower).await;
    assert_eq!((outcome.told, outcome.has_more), (5, false));
    world.archive_and_commit(3).await;
    // The third call hangs up; each takes longer than a cursor waits.
    world.other.takes_ms.store(SAVE_MS, Ordering::SeqCst);
    let written = world.cursor().await.expect("begun").written_ms;
    world.round(&mut follower).await;
    let last = world.cursor().await.expect("begun");
    assert_eq!((last.through, last.written_ms), (world.committed, written + 3 * SAVE_MS));
}

/// Goal: what is wrong with one hook is not with another one: one that hangs holds no room of it. And where hooks begin is written for all of them.
#[tokio::test]
async fn hooks_begin_before_anything_is_told() {
    let mut world = World::new();
    world.archive_and_commit(1).await;
    let goes_on = || true;
    begin(std::slice::from_ref(&world.hook), &world_seams(&world, &goes_on)).await;
    assert_eq!(world.through().await, 10);
    // Whoever takes it over later, with more committed, changes nothing.
    begin(std::slice::from_ref(&world.hook), &Seams { begin: 90, ..world_seams(&world, &goes_on) }).await;
    assert_eq!(world.through().await, 10);
    world.archive_and_commit(1).await;
    tell_all(&world.hook, &world_seams(&world, &goes_on)).await.expect("told");
    assert_eq!(world.told(), [10]);
    world.other.fails.store(1, Ordering::SeqCst);
    world.archive_and_commit(1).await;
    let failure = tell_all(&world.hook, &world_seams(&world, &goes_on)).await.expect_err("it says no");
    assert_eq!(failure.exit, Exit::Unreachable);
}

fn world_seams<'a>(world: &'a World, goes_on: &'a (dyn Fn() -> bool + Sync)) -> Seams<'a> {
    let (bucket, clock, partition, committed) = (&world.bucket, &*world.clock, &world.partition, world.committed);
    Seams { bucket, clock, goes_on, archive: "main", partition, committed, begin: committed }
}

#[derive(Clone, Debug)]
enum Act {
    Archive,
    Commit,
    /// A round by one of two processes, which is told to end at its `calls`th look whether it goes on, or goes on.
    Round {
        by: usize,
        calls: usize,
    },
    Fail {
        times: usize,
    },
    Die {
        by: usize,
    },
    Wait,
    /// A cursor of long ago comes back.
    Stale,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Archive),
        3 => Just(Act::Commit),
        6 => (0..2_usize, prop_oneof![1 => 0..5_usize, 2 => Just(usize::MAX)]).prop_map(|(by, calls)| Act::Round { by, calls }),
        1 => (1..3_usize).prop_map(|times| Act::Fail { times }),
        1 => (0..2_usize).prop_map(|by| Act::Die { by }),
        2 => Just(Act::Wait),
        1 => Just(Act::Stale),
    ]
}

/// Plays `acts`, and checks after each that nothing is missing below the cursor (H-1).
async fn play(acts: Vec<Act>) {
    let mut world = World::new();
    let mut followers = [Follower::default(), Follower::default()];
    world.round(&mut followers[0]).await;
    let mut stale = None;
    for act in acts {
        match act {
            Act::Archive => world.archive().await,
            Act::Commit => world.committed = world.end,
            Act::Round { by, calls } => {
                let before = (followers[by].through(), world.told().len());
                world.round_of(&mut followers[by], calls).await;
                // In order, each once, from where it was (H-2).
                let told = &world.told()[before.1..];
                assert!(told.is_sorted() && told.iter().all(|&first| before.0.is_none_or(|through| first >= through)));
                assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), told.len());
            }
            Act::Fail { times } => world.other.fails.store(times, Ordering::SeqCst),
            Act::Die { by } => followers[by] = Follower::default(),
            Act::Wait => world.clock.advance(60_000),
            Act::Stale => {
                let now = world.store.get(&Path::from(CURSOR)).await.expect("there").bytes().await.expect("bytes");
                if let Some(then) = stale.replace(now) {
                    world.store.put(&Path::from(CURSOR), then.into()).await.expect("put");
                }
            }
        }
        let (told, through) = (BTreeSet::from_iter(world.told()), world.through().await);
        let missing: Vec<_> =
            world.receipts.iter().filter(|&&first| first < through && !told.contains(&first)).collect();
        assert!(missing.is_empty(), "not told below {through}: {missing:?}");
    }
    world.other.fails.store(0, Ordering::SeqCst);
    world.committed = world.end;
    world.round(&mut Follower::default()).await;
    let told: BTreeSet<i64> = world.told().into_iter().collect();
    assert_eq!(told, world.receipts.iter().copied().collect());
    let keys: BTreeMap<String, i64> = world.other.told.lock().expect("no panic").iter().cloned().collect();
    assert_eq!(keys.len(), told.len(), "a key for each batch, the same whenever it is told");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Goal: each receipt is told at least once, whoever tells, fails, ends or dies.
    #[test]
    fn every_receipt_is_told_at_least_once(acts in prop::collection::vec(act(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(play(acts));
    }
}
