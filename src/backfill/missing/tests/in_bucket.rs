//! What is asked of the bucket beside findings. Method: documents in memory, some of them damaged.

use super::*;
use crate::bucket::Bucket;
use crate::bucket::claim::Claim;
use crate::bucket::compactions::{compaction_claim_key, compaction_receipt_key};
use crate::bucket::folds::fold_key;
use crate::bucket::receipt::Receipt;
use crate::clock::ManualClock;
use crate::destination::{Destination, StoreKind};
use crate::ledger;
use crate::ledger::testing::{compaction, finish};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use serde_json::json;
use std::sync::Arc;

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("t", number)
}

/// An archive without any document.
struct World {
    config: Config,
    store: Arc<InMemory>,
    bucket: Bucket,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let destination = Destination::from_store("main", "file:///nowhere", store.clone(), StoreKind::Memory);
        Self { config: config(), store, bucket: Bucket::new(Arc::new(destination)) }
    }

    fn site(&self) -> Site<'_> {
        let archive = &self.config.archives[0];
        let ledger = ledger::Site { archive, bucket: self.bucket.clone(), partitions: Vec::new() };
        let group = self.config.kafka.group.clone();
        Site { archive, ledger, owner: group.clone(), group, is_elsewhere: false, kafka: self.config.kafka.clone() }
    }

    /// The claim of a batch of partition 0.
    async fn claim(&self, first: i64, end: i64) {
        let claim = json!({
            "version": 1, "topic": "t", "partition": 0, "first": first, "end": end, "fingerprint": "f", "generation": 1, "spool_bytes": 0
        });
        let claim: Claim = serde_json::from_value(claim).expect("a claim");
        self.bucket.claim(&claim).await.expect("written");
    }

    /// Its receipt.
    async fn receipt(&self, first: i64, end: i64) {
        let receipt = json!({
            "version": 1, "topic": "t", "partition": 0, "first": first, "end": end, "cluster_id": "c", "archive": "a", "generation": 1,
            "fingerprint": "f", "writer": "0", "reason": "age", "balance": {"consumed": 0, "outputs": {}}, "objects": []
        });
        let receipt: Receipt = serde_json::from_value(receipt).expect("a receipt");
        self.bucket.put_receipt(&receipt, None).await.expect("written");
    }

    /// Half of something lies there.
    async fn damage(&self, key: &str) {
        self.store.put(&Path::from(key), "{".into()).await.expect("written");
    }

    /// A fold of partition 0 that cannot be read.
    async fn damaged_fold(&self, first: i64, end: i64) {
        self.damage(&fold_key(&partition(0), 1, OffsetRange::new(first, end))).await;
    }

    /// What findings are once it is known what compactions hold.
    async fn looked_for(&self, findings: &[Finding]) -> Found {
        let site = self.site();
        let mut found = Found::new(&site);
        findings.iter().for_each(|finding| found.add(finding));
        let partitions = [partition(0), partition(1)];
        found.look_for_compacted(&site, &ManualClock::at(0), &partitions).await.expect("the store answers");
        found
    }

    async fn missing(&self, findings: &[Finding]) -> Missing {
        let live = BTreeMap::from([(0, 1_000), (1, 1_000)]);
        self.looked_for(findings).await.into_missing(&live, &BTreeMap::new(), 99)
    }

    /// From where on nobody vouches for what is before each of `ranges`. Names that tell no end begin at `endless`.
    async fn begins(&self, endless: &[i64], ranges: &[(i64, i64)]) -> Vec<i64> {
        let mut strangers = Strangers::default();
        endless.iter().for_each(|&first| strangers.add(&stranger(first, None), false));
        let ranges: Vec<OffsetRange> = ranges.iter().map(|&(first, end)| OffsetRange::new(first, end)).collect();
        let begun = with_begins(&self.site(), &ManualClock::at(0), &partition(0), ranges.clone(), &strangers).await;
        let (of, begins): (Vec<_>, Vec<_>) = begun.expect("the store answers").into_iter().unzip();
        assert_eq!(of, ranges);
        begins
    }
}

/// Goal: a compaction of which nobody knows which rows it holds keeps what lies in its range from being archived, and nothing else; and that is told.
#[tokio::test]
async fn a_damaged_compaction_keeps_only_what_has_no_receipt() {
    let world = World::new();
    let beside = |one: Finding| Finding { partition: partition(1), ..one };
    let findings = [
        finding(100, 200, Fault::Gap),
        finding(300, 400, Fault::Unfinished),
        finding(400, 500, Fault::Missing { bytes: 1 }),
        beside(finding(100, 200, Fault::Gap)),
        beside(finding(300, 400, Fault::Unfinished)),
    ];
    let of = compaction('a', 1, &[("x/0", 0, 10), ("x/1", 300, 400)], "x/c1");
    world.bucket.claim_compaction(&of).await.expect("claimed");
    finish(&world.bucket, &of).await;
    let (range, batch) = (
        |number, first, end| JobRange::new(number, OffsetRange::new(first, end)),
        |range: JobRange| JobRange { batch: true, ..range },
    );
    let left = [batch(range(0, 400, 500)), range(1, 100, 200), batch(range(1, 300, 400))];
    let known = world.missing(&findings).await;
    assert_eq!(known.resolved.ranges, [&[range(0, 100, 200)], &left[..]].concat());
    assert!(known.found.blocked.len() == 1 && known.found.blocked[0].contains("[300, 400)"), "{:?}", known.found);

    world.damage(&compaction_receipt_key(&partition(0), 1, &of.id(), of.range())).await;
    let damaged = world.missing(&findings).await;
    assert_eq!(damaged.resolved.ranges, left);
    assert!(!damaged.found.is_mended());
    let told = &damaged.found.blocked;
    assert!(!told.is_empty(), "{:?}", damaged.found);
    for said in
        ["t/0: the receipt of compaction aaaa", "Restore it", "nothing is archived again of offsets in [0, 400)"]
    {
        assert!(told.iter().all(|told| told.contains(said)), "{said}: {told:?}");
    }
    // Once its old objects are deleted its claim tells what it holds.
    world.bucket.end_compaction(&partition(0), &of.id(), 0).await.expect("marked");
    assert_eq!(world.missing(&findings).await, known);
}

/// Goal: a damaged compaction keeps only what lies in its range, be it vouched for or not; and one that is claimed and has no receipt holds its batches.
#[tokio::test]
async fn a_doubtful_compaction_keeps_what_is_in_its_range_alone() {
    let world = World::new();
    let findings = [
        finding(0, 10, Fault::Gap),
        finding(100, 110, Fault::Missing { bytes: 1 }),
        finding(120, 130, Fault::Missing { bytes: 1 }),
        finding(200, 210, Fault::Gap),
        finding(300, 310, Fault::Unfinished),
    ];
    let of = compaction('a', 1, &[("x/0", 90, 95), ("x/1", 105, 115)], "x/c1");
    finish(&world.bucket, &of).await;
    world.damage(&compaction_receipt_key(&partition(0), 1, &of.id(), of.range())).await;
    let ranges = |missing: &Missing| missing.resolved.ranges.iter().map(|of| (of.first, of.end)).collect::<Vec<_>>();
    let damaged = world.missing(&findings).await;
    assert_eq!(ranges(&damaged), [(0, 10), (120, 130), (200, 210), (300, 310)]);
    assert!(matches!(&damaged.found.blocked[..], [told] if told.contains("[90, 115)")), "{:?}", damaged.found.blocked);
    let begun = compaction('b', 1, &[("y/0", 202, 205), ("y/1", 300, 310), ("y/2", 120, 130)], "y/c1");
    world.bucket.claim_compaction(&begun).await.expect("claimed");
    let held = world.missing(&findings).await;
    assert_eq!(ranges(&held), [(0, 10), (120, 130), (200, 202), (205, 210)]);
    assert_eq!(held.found.blocked.len(), 3, "{:?}", held.found.blocked);
    assert!(!held.found.is_mended());
    world.damage(&compaction_claim_key(&partition(0), 1, &begun.id())).await;
    let nobody_knows = world.missing(&findings).await;
    assert_eq!(ranges(&nobody_knows), [(120, 130)]);
}

/// Goal: a compaction that has deleted its old objects and lost its receipt keeps them from being archived again beside the new one, until its receipt is there.
#[tokio::test]
async fn what_a_compaction_without_its_receipt_replaced_is_not_archived_again() {
    let world = World::new();
    let gone = [finding(100, 110, Fault::Missing { bytes: 1 }), finding(200, 210, Fault::Missing { bytes: 1 })];
    let of = compaction('a', 1, &[("x/0", 100, 110)], "x/c1");
    world.bucket.claim_compaction(&of).await.expect("claimed");
    let ranges = |missing: &Missing| missing.resolved.ranges.iter().map(|of| of.first).collect::<Vec<_>>();
    // Begun and not finished: its objects are there, and what is missing is mended.
    assert_eq!(ranges(&world.missing(&gone).await), [100, 200]);
    world.bucket.end_compaction(&partition(0), &of.id(), 0).await.expect("marked");
    let lost = world.missing(&gone).await;
    assert_eq!(ranges(&lost), [200]);
    assert!(
        matches!(&lost.found.blocked[..], [told] if told.contains("Run siltstone compact first")),
        "{:?}",
        lost.found
    );
    assert!(!lost.found.is_mended());
}

/// Goal: what compactions have taken in counts only where nothing vouches for it: between two gaps lie batches that have their receipts.
#[tokio::test]
async fn only_what_has_no_receipt_is_held_by_compactions() {
    let world = World::new();
    let batches = [("x/0", 0, 10), ("x/1", 120, 130), ("x/2", 200, 300), ("x/3", 300, 400), ("x/4", 400, 410)];
    finish(&world.bucket, &compaction('a', 1, &batches, "x/c1")).await;
    let found = world.looked_for(&[finding(100, 200, Fault::Gap), finding(300, 400, Fault::Unfinished)]).await;
    let held: Vec<(i64, i64)> = found.compacted[&0].keys().map(|batch| (batch.first, batch.end)).collect();
    assert_eq!(held, [(120, 130), (300, 400)]);
}

/// Goal: a name that tells no end reaches into a range from behind the batch before it, whether that has a receipt or a claim alone.
#[tokio::test]
async fn a_range_begins_behind_the_batch_before_it() {
    let world = World::new();
    assert_eq!(world.begins(&[0], &[(500, 900)]).await, [0], "nothing is before it");
    world.claim(100, 300).await;
    world.receipt(100, 300).await;
    world.claim(300, 400).await;
    assert_eq!(world.begins(&[0], &[(50, 100), (300, 310), (500, 900)]).await, [0, 300, 400]);
    assert_eq!(world.begins(&[0], &[(250, 300), (350, 400)]).await, [250, 350], "inside a batch");
    world.receipt(400, 480).await;
    assert_eq!(world.begins(&[0], &[(500, 900)]).await, [480]);
    // Nobody looks where no such name begins before the range.
    assert_eq!(world.begins(&[450], &[(440, 450), (500, 900)]).await, [440, 480]);
    assert_eq!(world.begins(&[500], &[(500, 900)]).await, [500]);
    assert_eq!(world.begins(&[], &[(500, 900)]).await, [500]);
}

/// Goal: a fold that cannot be read stops no job for ranges behind it: whatever it has ends where it ends.
#[tokio::test]
async fn a_damaged_fold_ends_where_its_name_says() {
    let world = World::new();
    world.damaged_fold(0, 300).await;
    world.damaged_fold(600, 700).await;
    assert_eq!(world.begins(&[0], &[(500, 550), (900, 950)]).await, [300, 700]);
    assert_eq!(world.begins(&[0], &[(200, 250)]).await, [200], "inside the fold");
    // Of a batch that is in the fold the claim is left.
    world.claim(100, 200).await;
    assert_eq!(world.begins(&[0], &[(500, 550)]).await, [300]);
    world.claim(300, 400).await;
    assert_eq!(world.begins(&[0], &[(500, 550), (900, 950)]).await, [400, 700]);
    assert_eq!(world.begins(&[], &[(500, 550)]).await, [500]);
}
