//! Folds: their form, and what every reader sees while they are made, whoever dies.

use super::*;
use crate::bucket::claim::{CLAIM_VERSION, Claim};
use crate::bucket::entries::Listed;
use crate::bucket::folding::{Done, Rest, Rules, Task};
use crate::bucket::jobs::{JOB_VERSION, Job, JobRange, JobRequest};
use crate::bucket::receipt::{Balance, RECEIPT_VERSION, ReceiptObject, receipt_key};
use crate::clock::ManualClock;
use crate::destination::{Destination, StoreKind};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

fn partition() -> TopicPartition {
    TopicPartition::new("t", 3)
}

fn bucket() -> Bucket {
    let store = Arc::new(InMemory::new());
    Bucket::new(Arc::new(Destination::from_store("main", "memory:///", store, StoreKind::Memory)))
}

fn receipt(first: i64, objects: &[(&str, u64)]) -> Receipt {
    let object = |&(key, bytes): &(&str, u64)| ReceiptObject {
        output: "json".into(),
        destination: "memory:///".into(),
        key: key.into(),
        folder: String::new(),
        records: Some(1),
        rows: Some(1),
        bytes,
        sha256: Some(format!("{bytes}")),
        event_min_ms: None,
        event_max_ms: None,
        kept: None,
    };
    Receipt {
        version: RECEIPT_VERSION,
        topic: "t".into(),
        partition: 3,
        first,
        end: first + 10,
        topic_id: None,
        cluster_id: "c".into(),
        archive: "a".into(),
        generation: 1,
        fingerprint: "f".into(),
        writer: "0".into(),
        schemas: BTreeMap::new(),
        target: None,
        reason: "age".into(),
        watermark_ms: None,
        balance: Balance::default(),
        objects: objects.iter().map(object).collect(),
        lost: Vec::new(),
        written_ms: Some(5),
    }
}

fn claim(first: i64) -> Claim {
    Claim {
        version: CLAIM_VERSION,
        topic: "t".into(),
        partition: 3,
        first,
        end: first + 10,
        topic_id: None,
        fingerprint: "f".into(),
        generation: 1,
        schemas: BTreeMap::new(),
        target: None,
        unknown_schemas: BTreeSet::new(),
        keys: Vec::new(),
        spool_bytes: 0,
    }
}

/// Batches of ten offsets, claimed and vouched for.
async fn filled(bucket: &Bucket, batches: i64) {
    for first in (0..batches).map(|number| number * 10) {
        bucket.claim(&claim(first)).await.expect("claimed");
        bucket.put_receipt(&receipt(first, &[("x", 1)]), None).await.expect("written");
    }
}

const RULES: Rules = Rules { fold: 4, kept: 3, min_age_ms: -1_000_000_000_000_000 };

async fn fold(bucket: &Bucket, rules: Rules, committed: i64) -> Result<Done, BucketError> {
    let (partition, clock) = (partition(), ManualClock::at(0));
    let (goes_on, clock): (_, &ManualClock) = (&|| true, &clock);
    bucket
        .fold_receipts(&Task {
            partition: &partition,
            rules,
            committed,
            folds_max: 100,
            dry_run: false,
            goes_on,
            clock,
        })
        .await
}

/// First offsets of the receipts that are documents of their own.
async fn beside(bucket: &Bucket) -> Vec<i64> {
    let names = bucket.names_from(&partition(), 0).await.expect("listed");
    names.into_values().filter(|name| name.receipt).map(|name| name.first).collect()
}

#[tokio::test]
async fn the_oldest_are_folded_and_the_newest_stay() {
    let bucket = bucket();
    filled(&bucket, 14).await;
    let done = fold(&bucket, RULES, i64::MAX).await.expect("folded");
    assert_eq!(done, Done { folds: 2, receipts: 8, deleted: 8, rest: Rest::Few });
    assert_eq!(bucket.folds(&partition()).await.expect("listed"), [OffsetRange::new(0, 40), OffsetRange::new(40, 80)]);
    assert_eq!(beside(&bucket).await, [80, 90, 100, 110, 120, 130]);
    // Whoever looks sees no difference.
    for offset in [0, 10, 35, 70, 80, 139] {
        let entries = bucket.entries_from(&partition(), offset).await.expect("read");
        let firsts: Vec<i64> = entries.iter().map(|entry| entry.first).collect();
        assert_eq!(firsts, (0..14).map(|number| number * 10).filter(|&first| first >= offset).collect::<Vec<_>>());
        assert!(
            entries
                .iter()
                .all(|entry| entry.claim.is_some() && entry.receipt == Some(receipt(entry.first, &[("x", 1)])))
        );
        let listed = bucket.listed_from(&partition(), offset).await.expect("listed");
        assert!(listed.iter().all(|listed| listed.claim && listed.receipt));
        assert_eq!(listed.len(), entries.len());
        for until in [offset, offset + 15, 80, 1_000] {
            let between = bucket.listed_with_damaged(&partition(), offset, until).await.expect("listed").listed;
            let needed = listed.iter().position(|listed| listed.first >= until).map_or(listed.len(), |index| index + 1);
            let firsts = |of: &[Listed]| of.iter().take(needed).map(|listed| listed.first).collect::<Vec<_>>();
            assert_eq!(firsts(&between), firsts(&listed), "from {offset} until {until}");
            let inside = listed.iter().filter(|listed| listed.first < until).count();
            assert_eq!(between.get(..inside), listed.get(..inside), "from {offset} until {until}");
        }
        let below = bucket.last_below(&partition(), offset).await.expect("looked").map(|entry| entry.first);
        assert_eq!(below, (0..14).map(|number| number * 10).rfind(|&first| first < offset));
    }
    assert_eq!(bucket.highest(&partition()).await.expect("looked").expect("one").first, 130);
    assert_eq!(bucket.partitions().await.expect("listed"), [partition()]);
    assert!(bucket.entry_at(&partition(), 20).await.expect("looked").expect("there").receipt.is_some());
    assert_eq!(bucket.entry_at(&partition(), 25).await.expect("looked"), None);
    let again = fold(&bucket, RULES, i64::MAX).await.expect("looked");
    assert_eq!(again, Done { folds: 0, receipts: 0, deleted: 0, rest: Rest::Few });
}

/// Goal: what a takeover needs is not folded, nor what a backfill may put another receipt over.
#[tokio::test]
async fn young_uncommitted_and_mended_ranges_stay() {
    let bucket = bucket();
    filled(&bucket, 14).await;
    let rest = async |rules, committed| fold(&bucket, rules, committed).await.expect("looked").rest;
    assert_eq!(rest(RULES, 39).await, Rest::Young);
    assert_eq!(rest(Rules { min_age_ms: 0, ..RULES }, i64::MAX).await, Rest::Young, "written just now");
    assert_eq!(rest(Rules { kept: 11, ..RULES }, i64::MAX).await, Rest::Few);
    let job = Job {
        version: JOB_VERSION,
        name: "j".into(),
        archive: "a".into(),
        topic: "t".into(),
        topic_id: None,
        cluster_id: "c".into(),
        group: "g".into(),
        request: JobRequest::default(),
        generation: 1,
        fingerprint: "f".into(),
        chunk: 10,
        ranges: vec![JobRange::new(3, OffsetRange::new(1_000, 2_000))],
        read_back: Vec::new(),
        unvouched: Vec::new(),
        before: Vec::new(),
        found: None,
        skipped: 0,
        made_ms: None,
    };
    bucket.put_job(&job).await.expect("stored");
    assert_eq!(rest(RULES, i64::MAX).await, Rest::Job("j".into()));
    bucket.end_job("j", 0).await.expect("ended");
    assert_eq!(bucket.folds(&partition()).await.expect("listed"), []);
    assert_eq!(fold(&bucket, RULES, 40).await.expect("folded").folds, 1);
}

/// Goal: a receipt that was mended after it was folded counts, and a late one that knows less does not.
#[tokio::test]
async fn a_receipt_beside_its_fold_counts_unless_it_knows_less() {
    let bucket = bucket();
    for first in (0..8).map(|number| number * 10) {
        bucket.put_receipt(&receipt(first, &[("x", 1), ("y", 1)]), None).await.expect("written");
    }
    assert_eq!(fold(&bucket, RULES, i64::MAX).await.expect("folded").folds, 1);
    let (mended, late) = (receipt(10, &[("x", 2), ("y", 1)]), receipt(20, &[("x", 1)]));
    for beside in [&mended, &late] {
        bucket.put_receipt(beside, None).await.expect("written");
    }
    let entries = bucket.entries_from(&partition(), 0).await.expect("read");
    assert_eq!(entries[1].receipt.as_ref(), Some(&mended));
    assert_eq!(entries[2].receipt.as_ref(), Some(&receipt(20, &[("x", 1), ("y", 1)])));
    // So does whoever asks for one of them.
    for (first, expected) in [(10, &mended), (20, &receipt(20, &[("x", 1), ("y", 1)]))] {
        assert_eq!(bucket.counting_receipt(&partition(), first).await.expect("read").as_ref(), Some(expected));
        let found = bucket.found_beside(&partition(), first).await.expect("read").expect("there");
        let folded = bucket.folded_receipt(&partition(), first).await.expect("read").expect("there");
        assert_eq!(&prevailing(found.receipt, folded), expected, "whoever mends {first} goes by what counts");
        let listed = bucket.listed_with_damaged(&partition(), first, first + 1).await.expect("listed").listed[0];
        assert!(listed.folded);
        let entry = bucket.entry_of(&partition(), listed).await.expect("read").expect("there");
        assert_eq!(entry.receipt.as_ref(), Some(expected));
    }
    // The next run deletes the late one, and never the mended one.
    let done = fold(&bucket, RULES, i64::MAX).await.expect("looked");
    assert_eq!((done.deleted, done.rest), (1, Rest::Few));
    assert_eq!(beside(&bucket).await, [10, 40, 50, 60, 70]);
}

/// Goal: a thousand receipts may come to more than a fold takes, and are folded nevertheless.
#[tokio::test]
async fn large_receipts_are_folded_by_fewer() {
    let bucket = bucket();
    let key = "x".repeat(3 << 20);
    for first in (0..7).map(|number| number * 10) {
        bucket.put_receipt(&receipt(first, &[(&key, 1)]), None).await.expect("written");
    }
    let done = fold(&bucket, RULES, i64::MAX).await.expect("folded");
    assert_eq!((done.folds, done.receipts, done.rest), (1, 2, Rest::Few));
    assert_eq!(bucket.folds(&partition()).await.expect("listed"), [OffsetRange::new(0, 20)]);
    let key = "x".repeat(5 << 20);
    for first in (7..10).map(|number| number * 10) {
        bucket.put_receipt(&receipt(first, &[(&key, 1)]), None).await.expect("written");
    }
    let done = fold(&bucket, RULES, i64::MAX).await.expect("folded");
    assert_eq!((done.folds, done.receipts, done.rest), (1, 2, Rest::Few), "the next two");
    assert_eq!(beside(&bucket).await, [40, 50, 60, 70, 80, 90]);
}

/// Goal: where a store deletes slowly all receipts of a fold are deleted before the next fold is made, in several looks.
#[tokio::test]
async fn slow_deletes_are_finished_before_the_next_fold() {
    let bucket = bucket();
    filled(&bucket, 11).await;
    let (partition, clock) = (partition(), ManualClock::at(0));
    let goes_on = || {
        clock.advance(3_000);
        true
    };
    let task = Task {
        partition: &partition,
        rules: RULES,
        committed: i64::MAX,
        folds_max: 100,
        dry_run: false,
        goes_on: &goes_on,
        clock: &clock,
    };
    let done = bucket.fold_receipts(&task).await.expect("folded");
    assert_eq!(done, Done { folds: 2, receipts: 8, deleted: 8, rest: Rest::Few });
}

/// Goal: two processes that fold at the same time, with another receipt between what they see, disturb nobody.
#[tokio::test]
async fn folds_that_overlap_are_read_as_one() {
    let bucket = bucket();
    filled(&bucket, 9).await;
    let bodies = async |firsts: &[i64]| {
        let mut bodies = Vec::new();
        for &first in firsts {
            bodies.push(bucket.get(&receipt_key(&partition(), 1, first)).await.expect("read").expect("there"));
        }
        let (first, end) = (firsts[0], firsts[firsts.len() - 1] + 10);
        let header =
            FoldHeader { version: 1, topic: "t".into(), partition: 3, generation: 1, first, end, count: firsts.len() };
        let path = bucket.destination.path(&fold_key(&partition(), 1, OffsetRange::new(first, end))).expect("a key");
        bucket.destination.store().put(&path, compressed(&fold_text(&header, &bodies)).into()).await.expect("put");
    };
    bodies(&[0, 10, 20, 30]).await;
    bodies(&[20, 30, 40]).await;
    for first in [0, 10, 20, 30, 40] {
        let path = bucket.destination.path(&receipt_key(&partition(), 1, first)).expect("a key");
        bucket.destination.store().delete(&path).await.expect("deleted");
    }
    let entries = bucket.entries_from(&partition(), 0).await.expect("read");
    let firsts: Vec<i64> = entries.iter().map(|entry| entry.first).collect();
    assert_eq!(firsts, (0..9).map(|number| number * 10).collect::<Vec<_>>());
    assert!(entries.iter().all(|entry| entry.receipt.is_some()));
    assert_eq!(fold(&bucket, Rules { kept: 0, ..RULES }, i64::MAX).await.expect("folded").folds, 1);
    assert_eq!(bucket.folds(&partition()).await.expect("listed").last(), Some(&OffsetRange::new(50, 90)));
}

/// Goal: a fold that cannot be read is named with what to do, and hides nothing that lies outside of its range.
#[tokio::test]
async fn a_damaged_fold_hides_its_range_alone() {
    let bucket = bucket();
    filled(&bucket, 14).await;
    fold(&bucket, RULES, i64::MAX).await.expect("folded");
    let range = OffsetRange::new(0, 40);
    let key = fold_key(&partition(), 1, range);
    let path = bucket.destination.path(&key).expect("a key");
    bucket.destination.store().put(&path, b"no gzip".to_vec().into()).await.expect("put");
    // As another process finds it, which has read no fold yet.
    let bucket = Bucket::new(bucket.destination.clone());
    let all = bucket.listed_with_damaged(&partition(), 0, i64::MAX).await.expect("listed");
    assert_eq!(all.damaged.iter().map(|fold| fold.range).collect::<Vec<_>>(), [range]);
    let with_receipt: Vec<i64> = all.listed.iter().filter(|listed| listed.receipt).map(|listed| listed.first).collect();
    assert_eq!(with_receipt, (4..14).map(|number| number * 10).collect::<Vec<_>>());
    let told = all.damaged[0].error.to_string();
    assert!(told.contains(&key) && told.contains("[0, 40)") && told.contains("put it back"), "{told}");
    let refused = bucket.listed_from(&partition(), 0).await.expect_err("somebody may be misled");
    assert_eq!(refused.to_string(), told);
    bucket.destination.store().delete(&path).await.expect("deleted");
    assert!(bucket.read_fold(&partition(), range).await.expect_err("gone").to_string().contains("put it back"));
}

/// Goal: a fold of today is read by every later release, one with fields of a later release by this one, and a newer version refused.
#[test]
fn the_stored_form_stays() {
    let bucket = bucket();
    let range = OffsetRange::new(10, 20);
    let header =
        r#"{"version":1,"topic":"t","partition":3,"generation":1,"first":10,"end":20,"count":1,"later":{"x":1}}"#;
    let line = r#"{"version":1,"topic":"t","partition":3,"first":10,"end":20,"cluster_id":"c","archive":"a","generation":1,
        "fingerprint":"f","writer":"0.1.0","reason":"age","new_field":[1],"balance":{"consumed":0,"outputs":{}},"objects":[]}"#
        .replace('\n', " ");
    let read = |text: String| bucket.parse_fold(&partition(), range, &compressed(text.as_bytes()));
    let fold = read(format!("{header}\n{line}\n")).expect("version 1");
    assert_eq!(fold.firsts().collect::<Vec<_>>(), [10]);
    assert_eq!(fold.receipt(10).expect("read").expect("there").end, 20);
    assert_eq!(fold.receipt(11).expect("read"), None);
    let newer = read(format!("{}\n{line}\n", header.replace("\"version\":1", "\"version\":2"))).expect_err("newer");
    assert!(matches!(newer, BucketError::Newer { found: 2, known: FOLD_VERSION, .. }), "{newer}");
    // A newer receipt in it is refused alone.
    let newer = line.replace("\"version\":1", "\"version\":9");
    let fold = read(format!("{header}\n{newer}\n")).expect("a fold all the same");
    assert!(matches!(fold.receipt(10), Err(BucketError::Newer { found: 9, .. })));
    for damaged in
        [String::new(), header.to_string(), format!("{header}\n{line}\n{line}\n"), format!("{line}\n"), "x".into()]
    {
        let refused = read(damaged).expect_err("damaged");
        assert!(matches!(refused, BucketError::Unreadable { .. }), "{refused}");
    }
    assert!(bucket.parse_fold(&partition(), range, b"no gzip").is_err());
}

/// Goal: two processes that fold the same put the same bytes; bodies stay as they are, but for line breaks.
#[test]
fn a_fold_follows_from_its_receipts() {
    let header = FoldHeader { version: 1, topic: "t".into(), partition: 3, generation: 1, first: 0, end: 2, count: 2 };
    let text = fold_text(&header, &["{\"a\":\n 1}", "{\"b\":\"\\n\"}"]);
    let lines: Vec<&str> = std::str::from_utf8(&text).expect("text").lines().collect();
    assert_eq!(lines[1..], ["{\"a\":  1}", "{\"b\":\"\\n\"}"]);
    assert_eq!(compressed(&text), compressed(&text));
}

#[test]
fn names_are_read_back_and_others_passed_over() {
    let range = OffsetRange::new(10, i64::MAX);
    let key = fold_key(&partition(), 2, range);
    assert_eq!(key, "_siltstone/receipts/v1/t/00003.g2/folded/00000000000000000010-09223372036854775807.jsonl.gz");
    assert_eq!(parse_name(key.rsplit('/').next().expect("a name")), Some(range));
    for other in ["", "x.jsonl.gz", "00000000000000000010.json", "00000000000000000010-00000000000000000009.jsonl.gz"] {
        assert_eq!(parse_name(other), None, "{other}");
    }
}

#[test]
fn stretches_are_in_order() {
    let ranges =
        |ranges: &[(i64, i64)]| ranges.iter().map(|&(first, end)| OffsetRange::new(first, end)).collect::<Vec<_>>();
    let found = stretches(&[0, 5, 12, 30, 41, 99], ranges(&[(10, 20), (20, 40), (35, 50)]));
    let expected = [
        Stretch::Beside(vec![0, 5]),
        Stretch::Folded { folds: ranges(&[(10, 20)]), beside: vec![12] },
        Stretch::Folded { folds: ranges(&[(20, 40), (35, 50)]), beside: vec![30, 41] },
        Stretch::Beside(vec![99]),
    ];
    assert_eq!(found, expected);
    assert_eq!(stretches(&[], Vec::new()), []);
}
