//! Lost answers, write-once buckets, missing buckets, wrong logins, nobody there.

use crate::control::{bucket, claim, receipt};
use crate::faulty::{Faults, FaultyStore};
use crate::objects::{MIB, SETTINGS, content, sealed};
use crate::places::{self, Place, config, fresh, setting};
use object_store::{Attribute, Attributes};
use siltstone::bucket::claim::ClaimOutcome;
use siltstone::bucket::probe::ProbeError;
use siltstone::bucket::receipt::{Receipt, ReceiptOutcome};
use siltstone::bucket::{Bucket, BucketError};
use siltstone::config::DestinationConfig;
use siltstone::destination::fault::{FaultKind, Verdict};
use siltstone::destination::{Destination, StoreKind};
use siltstone::record::TopicPartition;
use siltstone::upload::{How, PutRule, UploadError, UploadFile, metadata_name, put_file};
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn faulty() -> (Place, Arc<Faults>) {
    let store = FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
    let faults = Arc::clone(&store.faults);
    let destination = Destination::from_store("main", "memory://", Arc::new(store), StoreKind::Memory);
    let folder = tempfile::tempdir().expect("a temporary folder");
    (Place { destination: Arc::new(destination), folder }, faults)
}

/// Goal: a claim whose answer is lost is found again, and another's is adopted, never replaced (K-2).
#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_ours() {
    let (place, faults) = faulty();
    let (bucket, partition) = (bucket(&place), TopicPartition::new("t", 0));
    faults.lost_answers.store(1, Ordering::SeqCst);
    let ours = claim(&partition, 0, 10);
    assert_eq!(bucket.claim(&ours).await.expect("found"), ClaimOutcome::Same(Box::new(ours.clone())));
    let other = bucket.claim(&claim(&partition, 0, 11)).await.expect("an answer");
    assert_eq!(other, ClaimOutcome::Other(Box::new(claim(&partition, 0, 10))));
    faults.lost_answers.store(1, Ordering::SeqCst);
    bucket.ensure_identity("c", "g", Default::default()).await.expect("found");
    faults.lost_answers.store(1, Ordering::SeqCst);
    let written = bucket.put_receipt(&receipt(&partition, 0, 10), None).await.expect("found");
    assert!(matches!(written, ReceiptOutcome::Written), "{written:?}");
}

/// Goal: uploads whose answer is lost are not taken for failures.
#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_found() {
    let (place, faults) = faulty();
    for bytes in [1000, 6 * MIB] {
        for rule in [PutRule::KeepUntold, PutRule::ReplaceUntold] {
            let mut file = sealed(&place, &format!("lost/{bytes}-{rule:?}"), &content(bytes, 1));
            file.rule = rule;
            faults.lost_answers.store(1, Ordering::SeqCst);
            let placed = put_file(&place.destination, &file, SETTINGS).await.expect("found");
            assert_eq!(placed.how, How::AlreadyThere);
        }
    }
}

/// Goal: that something is there already, and cannot be looked at just now, is waited out; it is no refusal.
#[tokio::test]
async fn what_exists_and_cannot_be_seen_is_looked_at_again() {
    let (place, faults) = faulty();
    let file = sealed(&place, "unseen/x", b"rows");
    put_file(&place.destination, &file, SETTINGS).await.expect("new");
    let (bucket, ours) = (bucket(&place), claim(&TopicPartition::new("t", 0), 0, 10));
    bucket.claim(&ours).await.expect("new");
    faults.lost_reads.store(1, Ordering::SeqCst);
    let error = put_file(&place.destination, &file, SETTINGS).await.expect_err("it cannot be seen");
    assert_eq!(error.verdict(), Verdict::Retry, "{error}");
    faults.lost_reads.store(1, Ordering::SeqCst);
    let error = bucket.claim(&ours).await.expect_err("it cannot be seen");
    assert_eq!(error.verdict(), Verdict::Retry, "{error}");
    assert_eq!(bucket.claim(&ours).await.expect("seen"), ClaimOutcome::Same(Box::new(ours.clone())));
}

/// Goal: pieces are aborted when one fails, and when the upload is given up in the middle.
// Files are read beside a runtime of several threads, so that an upload takes several steps.
#[tokio::test(flavor = "multi_thread")]
async fn pieces_of_failed_uploads_are_aborted() {
    let (place, faults) = faulty();
    let file = sealed(&place, "pieces/x", &content(17 * MIB, 1));
    faults.refused_pieces.store(1, Ordering::SeqCst);
    let error = put_file(&place.destination, &file, SETTINGS).await.expect_err("a piece failed");
    assert_eq!((error.verdict(), faults.aborted.load(Ordering::SeqCst)), (Verdict::Retry, 1));
    {
        let mut upload = Box::pin(put_file(&place.destination, &file, SETTINGS));
        // Two steps: far enough that the upload is open, and not at its end.
        for _ in 0..2 {
            tokio::select! { biased; _ = &mut upload => panic!("it cannot be over"), () = tokio::task::yield_now() => {} }
        }
    }
    let deadline = tokio::time::Duration::from_secs(10);
    let aborted = async {
        while faults.aborted.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(deadline, aborted).await.expect("the upload that was given up is aborted");
    assert_eq!(crate::list(&place, "pieces").await, Vec::<String>::new());
}

/// Goal: a probe whose put is told as failed, and was done, leaves its object behind no more than one that succeeds.
#[tokio::test]
async fn a_probe_whose_answer_was_lost_is_deleted() {
    let (place, faults) = faulty();
    faults.lost_answers.store(1, Ordering::SeqCst);
    let error = bucket(&place).probe().await.expect_err("its answer was lost");
    assert_eq!((error.verdict(), faults.writes.load(Ordering::SeqCst)), (Verdict::Retry, 1), "{error}");
    assert_eq!(crate::list(&place, "_siltstone/probe").await, Vec::<String>::new());
}

/// Goal: in a bucket that lets nothing be replaced, what is there already is success where it is the same, and an
/// error, not a loop, where it is not.
#[tokio::test]
async fn write_once_buckets_work() {
    let (place, faults) = faulty();
    faults.write_once.store(true, Ordering::SeqCst);
    let file = sealed(&place, "once/x", b"rows");
    assert_eq!(put_file(&place.destination, &file, SETTINGS).await.expect("new").how, How::New);
    assert_eq!(put_file(&place.destination, &file, SETTINGS).await.expect("same").how, How::AlreadyThere);
    let mut other = sealed(&place, "once/x", b"ROWS");
    assert_eq!(put_file(&place.destination, &other, SETTINGS).await.expect("as many").how, How::Kept);
    other.records += 1;
    let error = put_file(&place.destination, &other, SETTINGS).await.expect_err("one with fewer records is there");
    assert_eq!(error.verdict(), Verdict::Refused);
    let (bucket, partition) = (bucket(&place), TopicPartition::new("t", 0));
    for _ in 0..2 {
        let written = bucket.put_receipt(&receipt(&partition, 0, 10), None).await.expect("new, then there already");
        assert!(matches!(written, ReceiptOutcome::Written), "{written:?}");
    }
    let fuller = Receipt { watermark_ms: Some(99), ..receipt(&partition, 0, 10) };
    let other = receipt(&partition, 0, 11);
    for (receipt, is_enough) in [(fuller, true), (other, false)] {
        let Ok(ReceiptOutcome::Found(found)) = bucket.put_receipt(&receipt, None).await else {
            panic!("another one is there");
        };
        let over = bucket.put_receipt(&receipt, Some(&found)).await;
        assert_eq!(matches!(over, Ok(ReceiptOutcome::Written)), is_enough, "{over:?}");
    }
}

/// Goal: what a rule of the bucket protects stays, and is told with what it holds; an object that tells nothing is not taken
/// for one of ours.
#[tokio::test]
async fn protected_objects_stay() {
    let (place, faults) = faulty();
    let fewer = sealed(&place, "protected/x", b"rows");
    assert_eq!(put_file(&place.destination, &fewer, SETTINGS).await.expect("new").how, How::New);
    crate::put_text(&place, "protected/untold", "somebody's").await;
    faults.protects.store(true, Ordering::SeqCst);
    let more = UploadFile { records: 8, ..sealed(&place, "protected/x", b"more rows") };
    let kept = put_file(&place.destination, &more, SETTINGS).await.expect("nobody can replace it");
    assert_eq!((kept.how, kept.records), (How::Kept, Some(7)));
    let untold = sealed(&place, "protected/untold", b"rows");
    let error = put_file(&place.destination, &untold, SETTINGS).await.expect_err("what is there tells nothing");
    assert_eq!(error.verdict(), Verdict::Refused, "{error}");
}

/// Goal: what lands between the look at a poorer object and its replacement is looked at again (U-3).
#[tokio::test]
async fn a_put_over_what_was_seen_replaces_nothing_else() {
    let (place, faults) = faulty();
    let file = |records, content: &[u8]| UploadFile { records, ..sealed(&place, "overtaken/x", content) };
    put_file(&place.destination, &file(5, b"five"), SETTINGS).await.expect("new");
    let lands = |records: &'static str| {
        let name = metadata_name(StoreKind::Memory, "records");
        let attributes = Attributes::from_iter([(Attribute::Metadata(name.into()), records)]);
        *faults.overtaking.lock().expect("no panic inside") = Some((records.into(), attributes));
    };
    lands("6");
    let error = put_file(&place.destination, &file(7, b"seven"), SETTINGS).await.expect_err("it is another one now");
    assert_eq!(error.verdict(), Verdict::Retry, "{error}");
    assert_eq!(put_file(&place.destination, &file(7, b"seven"), SETTINGS).await.expect("put").how, How::New);
    lands("9");
    let kept = put_file(&place.destination, &file(8, b"eight"), SETTINGS).await.expect("the richer one is there");
    assert_eq!((kept.how, kept.records), (How::Kept, Some(9)));
}

fn open(config: &DestinationConfig) -> Place {
    let destination = Arc::new(Destination::open("main", config).expect("a destination"));
    Place { destination, folder: tempfile::tempdir().expect("a temporary folder") }
}

async fn probe(config: &DestinationConfig) -> (ProbeError, UploadError, BucketError) {
    let place = open(config);
    let probe = Bucket::new(place.destination.clone()).probe().await.expect_err("it cannot be worked with");
    let file = sealed(&place, "k/x", b"x");
    let upload = put_file(&place.destination, &file, SETTINGS).await.expect_err("it cannot be put");
    let claim = claim(&TopicPartition::new("t", 0), 0, 1);
    let bucket = Bucket::new(place.destination.clone()).claim(&claim).await.expect_err("it cannot be claimed");
    for text in [probe.to_string(), upload.to_string(), bucket.to_string()] {
        assert!(text.contains(place.destination.id()), "{text}");
        assert!(!text.contains("WRONG") && !text.contains("http") && !text.contains('<'), "{text}");
        assert!(text.len() < 600, "{text}");
    }
    assert!(upload.to_string().contains("k/x"), "{upload}");
    (probe, upload, bucket)
}

#[tokio::test]
async fn a_missing_bucket_is_told_as_one() {
    for config in [
        places::s3_config("no-such-bucket", &setting("AWS_SECRET_ACCESS_KEY"), &[]),
        places::gcs_config("no-such-bucket"),
        places::azure_config("no-such-container", &[]),
    ] {
        let (probe, upload, bucket) = probe(&config).await;
        assert!(matches!(probe, ProbeError::MissingBucket { .. }), "{probe}");
        assert_eq!((upload.verdict(), bucket.verdict()), (Verdict::Refused, Verdict::Refused), "{upload}; {bucket}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_told_as_such() {
    let wrong_azure_key = "V1JPTkc="; // WRONG, in base64.
    for config in [
        places::s3_config(&setting("S3_BUCKET"), "WRONG", &[]),
        places::azure_config(&setting("AZURE_CONTAINER"), &[("access_key", wrong_azure_key)]),
    ] {
        let (probe, upload, bucket) = probe(&config).await;
        assert!(matches!(probe, ProbeError::Credentials { .. }), "{probe}");
        assert_eq!((upload.verdict(), bucket.verdict()), (Verdict::Refused, Verdict::Refused), "{upload}; {bucket}");
    }
}

#[tokio::test]
async fn an_endpoint_where_nobody_is_can_be_retried() {
    // A port that was just free: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a free port");
    let endpoint = format!("http://{free}");
    let login = [("endpoint", endpoint.as_str()), ("access_key_id", "id"), ("secret_access_key", "WRONG")];
    let (probe, upload, bucket) = probe(&config(format!("s3://bucket/{}", fresh()), &login)).await;
    assert!(matches!(probe, ProbeError::Unreachable { .. }), "{probe}");
    assert!(probe.to_string().contains(&free.to_string()), "{probe}");
    assert_eq!((upload.verdict(), bucket.verdict()), (Verdict::Retry, Verdict::Retry), "{upload}; {bucket}");
    assert!(upload.to_string().contains("refused"), "{upload}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("file"), "x").expect("a file");
    let (probe, upload, bucket) = probe(&config(format!("file://{}/file/archive", folder.path().display()), &[])).await;
    assert_eq!(probe.verdict(), Verdict::Refused, "{probe}");
    assert_eq!((upload.verdict(), bucket.verdict()), (Verdict::Refused, Verdict::Refused), "{upload}; {bucket}");
}

#[tokio::test]
async fn a_name_too_long_for_the_file_system_is_refused() {
    let place = places::file();
    let file = sealed(&place, &format!("k/{}", "n".repeat(300)), b"x");
    let error = put_file(&place.destination, &file, SETTINGS).await.expect_err("too long");
    let UploadError::Store { fault, .. } = &error else { panic!("{error}") };
    assert_eq!((fault.kind, error.verdict()), (FaultKind::Invalid, Verdict::Refused), "{error}");
}
