//! What control documents promise, on any store.

use crate::places::Place;
use siltstone::bucket::claim::{CLAIM_VERSION, Claim, ClaimOutcome};
use siltstone::bucket::folding::{Rest, Rules, Task};
use siltstone::bucket::identity::StoredStart;
use siltstone::bucket::receipt::{Balance, FoundReceipt, RECEIPT_VERSION, Receipt, ReceiptOutcome};
use siltstone::bucket::{Bucket, BucketError};
use siltstone::clock::SystemClock;
use siltstone::destination::fault::Verdict;
use siltstone::format::parquet::schema::schema_hash;
use siltstone::layout::{
    CodeRevision, Column, ColumnKind, Compression, DeadLetterFormat, DeadLetterLayout, Decode, LAYOUT_VERSION, Layout,
    OutputFormat, OutputLayout, Place as LayoutPlace, TimeFormat, TimestampFallback, TimestampRule, TimestampSource,
    Tombstones,
};
use siltstone::record::TopicPartition;

pub(crate) fn bucket(place: &Place) -> Bucket {
    Bucket::new(place.destination.clone())
}

pub(crate) fn claim(partition: &TopicPartition, first: i64, end: i64) -> Claim {
    Claim {
        version: CLAIM_VERSION,
        topic_id: None,
        topic: partition.topic.to_string(),
        partition: partition.partition,
        first,
        end,
        fingerprint: "f".repeat(32),
        generation: 1,
        schemas: Default::default(),
        target: None,
        unknown_schemas: Default::default(),
        keys: Vec::new(),
        spool_bytes: 5,
    }
}

pub(crate) fn receipt(partition: &TopicPartition, first: i64, end: i64) -> Receipt {
    Receipt {
        version: RECEIPT_VERSION,
        topic: partition.topic.to_string(),
        partition: partition.partition,
        first,
        end,
        topic_id: None,
        cluster_id: "c".into(),
        archive: "a".into(),
        generation: 1,
        fingerprint: "f".repeat(32),
        writer: "0.1.0".into(),
        schemas: Default::default(),
        target: None,
        reason: "age".into(),
        watermark_ms: Some(17),
        balance: Balance::default(),
        objects: Vec::new(),
        lost: Vec::new(),
        written_ms: None,
    }
}

/// Of concurrent claims of one offset with different ends exactly one is created, and all learn which.
pub(crate) async fn claims_race(place: &Place) {
    let bucket = bucket(place);
    for round in 0..5 {
        let partition = TopicPartition::new("race", round);
        let claims: Vec<_> = (1..=4).map(|end| claim(&partition, 0, end * 10)).collect();
        let outcomes = futures::future::join_all(claims.iter().map(|claim| bucket.claim(claim))).await;
        let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.expect("an answer")).collect();
        let won: Vec<_> =
            claims.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == ClaimOutcome::Created).collect();
        assert_eq!(won.len(), 1, "round {round}: {outcomes:?}");
        let winner = won[0].0;
        for (claim, outcome) in claims.iter().zip(&outcomes).filter(|(claim, _)| *claim != winner) {
            assert_eq!(*outcome, ClaimOutcome::Other(Box::new(winner.clone())), "round {round}: {claim:?}");
        }
        assert_eq!(bucket.claim(winner).await.expect("again"), ClaimOutcome::Same(Box::new(winner.clone())));
    }
}

/// Entries come in offset order from any offset, whatever the number of digits; names of others are passed over.
pub(crate) async fn entries(place: &Place) {
    let bucket = bucket(place);
    let partition = TopicPartition::new("entries.with-dots_1", 12);
    let neighbour = TopicPartition::new("entries.with-dots_1", 120);
    bucket.put_receipt(&receipt(&neighbour, 5, 6), None).await.expect("a neighbour's receipt");
    assert_eq!(bucket.entries_from(&partition, 0).await.expect("none").len(), 0);
    assert_eq!(bucket.highest(&partition).await.expect("none"), None);
    for (first, end) in [(0, 9), (9, 10), (10, 1000), (1000, 10_000_000_000)] {
        bucket.claim(&claim(&partition, first, end)).await.expect("a claim");
        if first != 1000 {
            bucket.put_receipt(&receipt(&partition, first, end), None).await.expect("a receipt");
        }
    }
    crate::put_text(place, "_siltstone/receipts/v1/entries.with-dots_1/00012/notes.txt", "x").await;
    for (offset, expected) in [
        (0, vec![0, 9, 10, 1000]),
        (1, vec![9, 10, 1000]),
        (9, vec![9, 10, 1000]),
        (10, vec![10, 1000]),
        (1000, vec![1000]),
        (1001, vec![]),
    ] {
        let found = bucket.entries_from(&partition, offset).await.expect("entries");
        assert_eq!(found.iter().map(|entry| entry.first).collect::<Vec<_>>(), expected, "from {offset}");
    }
    let last = bucket.highest(&partition).await.expect("the last").expect("there is one");
    assert_eq!((last.first, last.claim.is_some(), last.receipt), (1000, true, None));
    let below = bucket.last_below(&partition, 10).await.expect("one").expect("there is one");
    assert_eq!((below.first, below.receipt.map(|receipt| receipt.end)), (9, Some(10)));
    assert_eq!(bucket.last_below(&partition, 0).await.expect("none"), None);
    assert_eq!(bucket.entry_at(&partition, 5).await.expect("none"), None);
    let at = bucket.entry_at(&partition, 10).await.expect("one").expect("there is one");
    assert_eq!(at.claim, Some(claim(&partition, 10, 1000)));
    assert_eq!(at.receipt, Some(receipt(&partition, 10, 1000)));
}

async fn put_receipt(bucket: &Bucket, receipt: &Receipt, over: Option<&FoundReceipt>) -> Option<FoundReceipt> {
    match bucket.put_receipt(receipt, over).await.expect("an answer") {
        ReceiptOutcome::Written => None,
        ReceiptOutcome::Found(found) => Some(*found),
    }
}

/// A receipt is replaced only by one whose writer has read it: of two writers who have read the same one, the later learns of
/// the other (K-3).
pub(crate) async fn receipts(place: &Place) {
    let bucket = bucket(place);
    let partition = TopicPartition::new("receipts", 0);
    let version = |watermark_ms| Receipt { watermark_ms: Some(watermark_ms), ..receipt(&partition, 0, 10) };
    assert!(put_receipt(&bucket, &version(1), None).await.is_none());
    let later = Receipt { written_ms: Some(5), ..version(1) };
    assert!(put_receipt(&bucket, &later, None).await.is_none(), "it says the same");
    let found = put_receipt(&bucket, &version(2), None).await.expect("another one is there");
    assert_eq!(found.receipt, version(1));
    assert!(put_receipt(&bucket, &version(2), Some(&found)).await.is_none());
    let stored = async || bucket.get_receipt(&partition, 0).await.expect("an answer").expect("a receipt");
    assert_eq!(stored().await, version(2));
    let overtaken = put_receipt(&bucket, &version(3), Some(&found)).await.expect("it is another one now");
    assert_eq!(overtaken.receipt, version(2));
    assert_eq!(stored().await, version(2));
    assert!(put_receipt(&bucket, &version(3), Some(&overtaken)).await.is_none());
    assert_eq!(stored().await, version(3));
}

/// Receipts are folded on any store, and every reader finds them as before; what was left by one that was stopped is finished.
pub(crate) async fn folds(place: &Place) {
    let bucket = bucket(place);
    let partition = TopicPartition::new("folds", 0);
    for first in (0..10).map(|number| number * 10) {
        bucket.claim(&claim(&partition, first, first + 10)).await.expect("a claim");
        bucket.put_receipt(&receipt(&partition, first, first + 10), None).await.expect("a receipt");
    }
    let clock = SystemClock::new();
    let fold = async |min_age_ms| {
        let rules = Rules { fold: 3, kept: 2, min_age_ms };
        let (committed, folds_max) = (i64::MAX, 10);
        let task = Task {
            partition: &partition,
            rules,
            committed,
            folds_max,
            dry_run: false,
            goes_on: &|| true,
            clock: &clock,
        };
        bucket.fold_receipts(&task).await.expect("folded")
    };
    assert_eq!(fold(3_600_000).await.rest, Rest::Young, "the store tells the age");
    // Clocks differ.
    let done = fold(-3_600_000).await;
    assert_eq!((done.folds, done.receipts, done.deleted), (2, 6, 6));
    assert_eq!(bucket.folds(&partition).await.expect("listed").len(), 2);
    let names = bucket.names_from(&partition, 0).await.expect("listed");
    assert_eq!(names.values().filter(|name| name.receipt).count(), 4);
    for offset in [0, 30, 55, 60] {
        let found = bucket.entries_from(&partition, offset).await.expect("entries");
        let firsts: Vec<i64> = found.iter().map(|entry| entry.first).collect();
        assert_eq!(firsts, (0..10).map(|number| number * 10).filter(|&first| first >= offset).collect::<Vec<_>>());
        for entry in found {
            assert_eq!(entry.receipt, Some(receipt(&partition, entry.first, entry.first + 10)));
        }
    }
    // As if whoever made the last fold had been stopped before its deletes.
    bucket.put_receipt(&receipt(&partition, 40, 50), None).await.expect("a receipt");
    assert_eq!(fold(-3_600_000).await.deleted, 1);
}

/// The longest name Kafka allows.
pub(crate) async fn longest_topic(place: &Place) {
    let bucket = bucket(place);
    let partition = TopicPartition::new(format!("a.{}", "b_-".repeat(90)).get(..249).expect("ASCII"), 99_999);
    assert_eq!(bucket.claim(&claim(&partition, 0, 5)).await.expect("a claim"), ClaimOutcome::Created);
    bucket.put_receipt(&receipt(&partition, 0, 5), None).await.expect("a receipt");
    assert_eq!(bucket.entries_from(&partition, 0).await.expect("entries").len(), 1);
}

/// Documents that are not what their place says, or of a later release, stop; they are never passed over.
pub(crate) async fn damaged_documents(place: &Place) {
    let bucket = bucket(place);
    let partition = TopicPartition::new("damaged", 0);
    let elsewhere = serde_json::to_string(&claim(&TopicPartition::new("other", 0), 0, 5)).expect("JSON");
    let later = r#"{"version": 99, "anything": true}"#;
    for (first, text, newer) in
        [(0, "", false), (1, "{\"version\":1}", false), (2, &elsewhere, false), (3, later, true)]
    {
        let key = format!("_siltstone/receipts/v1/damaged/00000/{first:020}.claim");
        crate::put_text(place, &key, text).await;
        let error = bucket.claim(&claim(&partition, first, 9)).await.expect_err(text);
        assert_eq!(matches!(error, BucketError::Newer { .. }), newer, "{error}");
        assert_eq!(error.verdict(), Verdict::Stop);
        assert!(error.to_string().contains(&key), "{error}");
        assert!(bucket.entry_at(&partition, first).await.is_err());
    }
}

/// The first group of the first cluster keeps the archive.
pub(crate) async fn identity(place: &Place) {
    let bucket = bucket(place);
    assert_eq!(bucket.identity().await.expect("none yet"), None);
    bucket.ensure_identity("cluster-1", "siltstone", StoredStart::default()).await.expect("ours");
    bucket.ensure_identity("cluster-1", "siltstone", StoredStart::default()).await.expect("still ours");
    for (cluster, group, told) in [("cluster-2", "siltstone", "cluster-1"), ("cluster-1", "renamed", "siltstone")] {
        let error = bucket.ensure_identity(cluster, group, StoredStart::default()).await.expect_err("somebody else's");
        assert_eq!(error.verdict(), Verdict::Refused);
        let text = error.to_string();
        for part in [told, cluster.strip_suffix("-1").map_or(cluster, |_| group), "another prefix", "archive.json"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

fn column(name: &str) -> Column {
    Column { name: name.to_string(), kind: ColumnKind::Int64, nullable: true }
}

/// All who pin at once write with one schema.
pub(crate) async fn pins_race(place: &Place) {
    let bucket = bucket(place);
    if !place.destination.conditional_put() {
        let refused = bucket.pin_schema("a", "parquet", 1, &[column("x")]).await.expect_err("it cannot");
        assert!(matches!(refused, BucketError::CannotPin { .. }), "{refused}");
        return;
    }
    assert_eq!(bucket.get_schema("a", "parquet", 1).await.expect("none"), None);
    let inferred: Vec<_> = ["x", "y", "z"].iter().map(|name| vec![column(name)]).collect();
    let pins = inferred.iter().map(|columns| bucket.pin_schema("a", "parquet", 1, columns));
    let pinned: Vec<_> = futures::future::join_all(pins).await.into_iter().map(|pin| pin.expect("pinned")).collect();
    assert!(pinned.iter().all(|columns| *columns == pinned[0]) && inferred.contains(&pinned[0]), "{pinned:?}");
    assert_eq!(bucket.get_schema("a", "parquet", 1).await.expect("one"), Some(pinned[0].clone()));
    assert_eq!(bucket.pin_schema("a", "parquet", 2, &[column("w")]).await.expect("another"), vec![column("w")]);
    assert_ne!(schema_hash(&pinned[0]), schema_hash(&[column("w")]));
}

fn layout() -> Layout {
    let place = LayoutPlace {
        path: "{topic}/dt=%Y".into(),
        name: "n".into(),
        zone: "UTC".into(),
        destinations: vec!["s3://b".into()],
        ending: Default::default(),
    };
    Layout {
        version: LAYOUT_VERSION,
        code: CodeRevision::current(),
        archive: "a".into(),
        generation: 1,
        decode: Decode::Raw,
        transform: None,
        timestamp: TimestampRule {
            source: TimestampSource::Kafka,
            format: TimeFormat::Auto,
            zone: "UTC".into(),
            fallback: TimestampFallback::Kafka,
        },
        tombstones: Tombstones::Keep,
        outputs: vec![OutputLayout {
            name: "json".into(),
            filter: None,
            format: OutputFormat::Json { compression: Compression::Gzip(6) },
            keep: None,
            place: place.clone(),
        }],
        dead_letters: DeadLetterLayout { place, format: DeadLetterFormat::Json },
    }
}

/// A stored layout comes back equal; a missing, damaged or foreign one says what it is and what to do.
pub(crate) async fn layouts(place: &Place) {
    use sha2::Digest;
    let bucket = bucket(place);
    let layout = layout();
    bucket.put_layout(&layout).await.expect("stored");
    bucket.put_layout(&layout).await.expect("there already");
    assert_eq!(bucket.get_layout(&layout.fingerprint()).await.expect("it"), layout);
    let missing = bucket.get_layout(&"0".repeat(32)).await.expect_err("not there");
    assert!(missing.to_string().contains("run the release that wrote it"), "{missing}");
    let damaged = "d".repeat(32);
    crate::put_text(place, &format!("_siltstone/layouts/{damaged}.json"), "{}").await;
    let error = bucket.get_layout(&damaged).await.expect_err("damaged");
    assert!(matches!(error, BucketError::Unreadable { .. }), "{error}");
    let later = r#"{"version":99}"#;
    let fingerprint = siltstone::upload::hex(&sha2::Sha256::digest(later)[..16]);
    crate::put_text(place, &format!("_siltstone/layouts/{fingerprint}.json"), later).await;
    let error = bucket.get_layout(&fingerprint).await.expect_err("of a later release");
    assert!(matches!(error, BucketError::Layout { .. }) && error.to_string().contains("version 99"), "{error}");
    assert_eq!(error.verdict(), Verdict::Stop);
}

/// A good destination passes, and nothing is left behind.
pub(crate) async fn probe(place: &Place) {
    bucket(place).probe().await.expect("it can be worked with");
    assert_eq!(crate::list(place, "_siltstone/probe").await, Vec::<String>::new());
}

/// Processes that start at the same moment on an empty prefix do not disturb each other, nor does a `check` beside
/// them: whatever is in the way passes by itself. One object stays behind, however often they start.
pub(crate) async fn starts_race(place: &Place) {
    const PROCESSES: usize = 6;
    for _ in 0..3 {
        let starts = (0..PROCESSES).map(|process| async move {
            let bucket = bucket(place);
            for _ in 0..100 {
                let probed = if process == 0 { bucket.probe().await } else { bucket.probe_for_start().await };
                match probed {
                    Ok(()) => return,
                    Err(error) => assert_eq!(error.verdict(), Verdict::Retry, "{error}"),
                }
            }
            panic!("a process found no moment to start");
        });
        futures::future::join_all(starts).await;
    }
    assert_eq!(crate::list(place, "_siltstone/probe").await, ["_siltstone/probe/start"]);
}
