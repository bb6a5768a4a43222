//! One suite for every store, alone and in a storm: what the archiver builds on, and that nothing is left behind.
//!
//! In calm weather the first answer counts. In a storm each step is tried again for as long as its trouble may pass, as the
//! archiver does, and has to come to the same end.

use crate::control::{bucket, claim, receipt};
use crate::leftovers;
use crate::objects::{MIB, content, sealed};
use crate::places::Place;
use crate::storm::Weather;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::{Error, GetOptions, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};
use siltstone::bucket::BucketError;
use siltstone::bucket::claim::ClaimOutcome;
use siltstone::bucket::probe::ProbeError;
use siltstone::bucket::receipt::{Receipt, ReceiptOutcome};
use siltstone::destination::StoreKind;
use siltstone::destination::fault::{Fault, FaultKind, Verdict};
use siltstone::record::TopicPartition;
use siltstone::upload::{How, UploadError, UploadSettings, put_file};
use std::time::Duration;

/// Most tries of one step. Of an upload in pieces one of fifteen comes through.
const TRIES_MAX: usize = 500;

/// Every promise. Uploads that take long are the last.
pub(crate) async fn suite(place: &Place, weather: &Weather) {
    probes(place, weather).await;
    overwrites(place, weather).await;
    creates(place, weather).await;
    replaces_exactly_that_one(place, weather).await;
    lists(place, weather).await;
    documents(place, weather).await;
    pieces(place, weather).await;
    aborts(place, weather).await;
    given_up(place, weather).await;
    leftovers::none(place, weather).await;
}

/// What tells whether it may pass.
pub(crate) trait Trouble: std::fmt::Display {
    fn may_pass(&self) -> bool;
}

impl Trouble for Error {
    fn may_pass(&self) -> bool {
        Fault::of(self).verdict() == Verdict::Retry
    }
}

impl Trouble for UploadError {
    fn may_pass(&self) -> bool {
        self.verdict() == Verdict::Retry
    }
}

impl Trouble for BucketError {
    fn may_pass(&self) -> bool {
        self.verdict() == Verdict::Retry
    }
}

impl Trouble for ProbeError {
    fn may_pass(&self) -> bool {
        self.verdict() == Verdict::Retry
    }
}

/// Tries until it is done or refused for good.
async fn steadily<T, E: Trouble>(weather: &Weather, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 0..TRIES_MAX {
        match attempt().await {
            Err(trouble) if trouble.may_pass() && !weather.is_calm() => {}
            outcome => return outcome,
        }
    }
    panic!("a step does not succeed in {TRIES_MAX} tries");
}

/// Small pieces where the store allows them.
fn settings(place: &Place) -> UploadSettings {
    let part_size = match place.destination.kind() {
        StoreKind::S3 | StoreKind::Gcs | StoreKind::Azure => 5 * MIB,
        StoreKind::Hdfs | StoreKind::File | StoreKind::Memory => 64 * 1024,
    };
    UploadSettings { part_size: part_size as u64, pieces: 2 }
}

async fn put(place: &Place, weather: &Weather, key: &str, bytes: &[u8], mode: PutMode) -> Result<(), Error> {
    let path = place.destination.path(key).expect("a key");
    let put = async || {
        let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
        place.destination.store().put_opts(&path, PutPayload::from(bytes.to_vec()), options).await
    };
    steadily(weather, put).await.map(|_| ())
}

async fn get(place: &Place, weather: &Weather, key: &str) -> Option<Vec<u8>> {
    let path = place.destination.path(key).expect("a key");
    let read = async || place.destination.store().get(&path).await?.bytes().await;
    match steadily(weather, read).await {
        Ok(bytes) => Some(bytes.to_vec()),
        Err(Error::NotFound { .. }) => None,
        Err(error) => panic!("{key}: {error}"),
    }
}

/// What names exactly the object that is there now.
async fn version(place: &Place, weather: &Weather, key: &str) -> Option<UpdateVersion> {
    let path = place.destination.path(key).expect("a key");
    let head = async || place.destination.store().get_opts(&path, GetOptions::new().with_head(true)).await;
    let head = steadily(weather, head).await.expect("it is there");
    place.destination.version(&head.meta)
}

fn kind(outcome: Result<(), Error>) -> Option<FaultKind> {
    outcome.err().map(|error| Fault::of(&error).kind)
}

/// What `check --connect` asks of a store; whatever was told, its object is gone afterwards.
async fn probes(place: &Place, weather: &Weather) {
    let bucket = bucket(place);
    for _ in 0..3 {
        steadily(weather, async || bucket.probe().await).await.expect("it can be worked with");
    }
    assert_eq!(listed(place, weather, "_siltstone/probe").await, Vec::<String>::new());
    steadily(weather, async || bucket.probe_for_start().await).await.expect("it can be worked with");
    assert_eq!(listed(place, weather, "_siltstone/probe").await, ["_siltstone/probe/start"]);
}

/// An object that is overwritten is one or the other, whole, to whoever reads it meanwhile.
async fn overwrites(place: &Place, weather: &Weather) {
    const KEY: &str = "overwrites/x";
    let versions: Vec<Vec<u8>> = (0..6).map(|seed| content(150_000 - 20_000 * seed, seed as u32)).collect();
    put(place, weather, KEY, &versions[0], PutMode::Overwrite).await.expect("put");
    let writes = async {
        for version in &versions[1..] {
            put(place, weather, KEY, version, PutMode::Overwrite).await.expect("put over it");
        }
    };
    let reads = async {
        for _ in 0..10 {
            let read = get(place, weather, KEY).await.expect("it is always there");
            assert!(versions.contains(&read), "a reader saw {} bytes that nobody wrote", read.len());
        }
    };
    futures::join!(writes, reads);
    assert!(get(place, weather, KEY).await.as_ref() == versions.last(), "the last one stays");
}

/// Of many that create one object, one does.
async fn creates(place: &Place, weather: &Weather) {
    if !place.destination.conditional_put() {
        let refused = put(place, weather, "creates/x", b"x", PutMode::Create).await;
        assert_eq!(kind(refused), Some(FaultKind::Unsupported));
        return;
    }
    for round in 0..3 {
        let key = format!("creates/{round}");
        let contents: Vec<_> = (0..6).map(|seed| content(5_000 + seed, seed as u32)).collect();
        let creates = contents.iter().map(|bytes| put(place, weather, &key, bytes, PutMode::Create));
        let outcomes: Vec<_> = join_all(creates).await.into_iter().map(kind).collect();
        let stored = get(place, weather, &key).await.expect("one of them");
        let winner = contents.iter().position(|bytes| *bytes == stored).expect("whole, and one of them");
        for (index, outcome) in outcomes.iter().enumerate() {
            // The answer to the one that won may have been lost; then it finds its own.
            let told = *outcome == Some(FaultKind::Exists) && (index != winner || !weather.is_calm());
            assert!(told || (outcome.is_none() && index == winner), "{key}: {winner} won: {outcomes:?}");
        }
        let late = put(place, weather, &key, b"late", PutMode::Create).await;
        assert_eq!(kind(late), Some(FaultKind::Exists), "{key}");
        assert!(get(place, weather, &key).await == Some(stored), "{key}");
    }
}

/// An object is replaced as it was when it was looked at, or not at all.
async fn replaces_exactly_that_one(place: &Place, weather: &Weather) {
    const KEY: &str = "replaces/x";
    put(place, weather, KEY, b"first", PutMode::Overwrite).await.expect("put");
    let Some(first) = version(place, weather, KEY).await else {
        let unknown = UpdateVersion { e_tag: Some("e".to_string()), version: Some("v".to_string()) };
        let refused = put(place, weather, KEY, b"second", PutMode::Update(unknown)).await;
        assert_eq!(kind(refused), Some(FaultKind::Unsupported));
        assert_eq!(get(place, weather, KEY).await.as_deref(), Some(&b"first"[..]));
        return;
    };
    let contents: Vec<_> = (1..=4).map(|seed| content(3_000 + seed, seed as u32)).collect();
    let replaces = contents.iter().map(|bytes| put(place, weather, KEY, bytes, PutMode::Update(first.clone())));
    let outcomes: Vec<_> = join_all(replaces).await.into_iter().map(kind).collect();
    let stored = get(place, weather, KEY).await.expect("one of them");
    let winner = contents.iter().position(|bytes| *bytes == stored).expect("whole, and one of them");
    for (index, outcome) in outcomes.iter().enumerate() {
        let told = *outcome == Some(FaultKind::Exists) && (index != winner || !weather.is_calm());
        assert!(told || (outcome.is_none() && index == winner), "{winner} won: {outcomes:?}");
    }
    let stale = put(place, weather, KEY, b"late", PutMode::Update(first)).await;
    assert_eq!(kind(stale), Some(FaultKind::Exists));
    assert!(get(place, weather, KEY).await == Some(stored), "what somebody else wrote stays");
}

/// Keys below a folder, in order.
async fn listed(place: &Place, weather: &Weather, folder: &str) -> Vec<String> {
    let path = place.destination.path(folder).expect("a key");
    let list = async || place.destination.store().list(Some(&path)).try_collect::<Vec<_>>().await;
    let objects = steadily(weather, list).await.expect("a listing");
    let key = |path| place.destination.key_of(path).expect("below the prefix");
    let mut keys: Vec<_> = objects.iter().map(|object| key(&object.location)).collect();
    keys.sort();
    keys
}

/// A listing shows what was put a moment ago, all of it and nothing beside it, and what was deleted no more.
async fn lists(place: &Place, weather: &Weather) {
    let mut expected = Vec::new();
    for hour in 0..3 {
        for part in 0..4 {
            let key = format!("lists/a/hr={hour:02}/part-{part:03}.json");
            put(place, weather, &key, key.as_bytes(), PutMode::Overwrite).await.expect("put");
            expected.push(key);
            assert_eq!(listed(place, weather, "lists/a").await, expected);
        }
    }
    // A neighbour whose name begins alike is in another folder.
    put(place, weather, "lists/ab/x", b"x", PutMode::Overwrite).await.expect("put");
    assert_eq!(listed(place, weather, "lists/a").await, expected);
    assert_eq!(listed(place, weather, "lists/a/hr=01").await, expected[4..8]);
    let gone = expected.remove(5);
    let path = place.destination.path(&gone).expect("a key");
    let deleted = steadily(weather, async || place.destination.store().delete(&path).await).await;
    assert!(matches!(deleted, Ok(()) | Err(Error::NotFound { .. })), "{deleted:?}");
    assert_eq!(get(place, weather, &gone).await, None);
    assert_eq!(listed(place, weather, "lists/a").await, expected);
}

/// Claims and receipts say one thing to all, whatever was lost on the way.
async fn documents(place: &Place, weather: &Weather) {
    let bucket = bucket(place);
    let partition = TopicPartition::new("storm", 3);
    steadily(weather, async || bucket.ensure_identity("c", "g", Default::default()).await).await.expect("ours");
    let foreign = steadily(weather, async || bucket.ensure_identity("c", "other", Default::default()).await).await;
    assert!(matches!(foreign, Err(BucketError::IdentityMismatch { .. })), "{foreign:?}");
    for first in 0..4 {
        let ends: Vec<i64> = if place.destination.conditional_put() { vec![10, 20, 30] } else { vec![20] };
        let claims: Vec<_> = ends.iter().map(|end| claim(&partition, first, first + end)).collect();
        let tries = claims.iter().map(|claim| steadily(weather, async || bucket.claim(claim).await));
        let outcomes: Vec<_> = join_all(tries).await.into_iter().map(|outcome| outcome.expect("an answer")).collect();
        let agreed = claims.iter().zip(outcomes).map(|(claim, outcome)| match outcome {
            ClaimOutcome::Created => claim.clone(),
            ClaimOutcome::Same(found) | ClaimOutcome::Other(found) => *found,
        });
        let agreed: Vec<_> = agreed.collect();
        let stored = steadily(weather, async || bucket.get_claim(&partition, first).await).await.expect("an answer");
        assert!(agreed.iter().all(|claim| Some(claim) == stored.as_ref()), "{agreed:?}");
        receipts(place, weather, &receipt(&partition, first, agreed[0].end)).await;
    }
    let entries = steadily(weather, async || bucket.entries_from(&partition, 1).await).await.expect("entries");
    let whole: Vec<_> =
        entries.iter().map(|entry| (entry.first, entry.claim.is_some(), entry.receipt.is_some())).collect();
    assert_eq!(whole, [(1, true, true), (2, true, true), (3, true, true)]);
}

/// A receipt is created, found, and replaced only by a writer who has read it (K-3).
async fn receipts(place: &Place, weather: &Weather, plain: &Receipt) {
    let bucket = bucket(place);
    let version = |watermark_ms| Receipt { watermark_ms: Some(watermark_ms), ..plain.clone() };
    let put = async |receipt: &Receipt, over| {
        let put = async || bucket.put_receipt(receipt, over).await;
        match steadily(weather, put).await.expect("an answer") {
            ReceiptOutcome::Written => None,
            ReceiptOutcome::Found(found) => Some(*found),
        }
    };
    assert!(put(&version(1), None).await.is_none());
    let found = put(&version(2), None).await.expect("another one is there");
    assert_eq!(found.receipt, version(1));
    assert!(put(&version(2), Some(&found)).await.is_none());
    let overtaken = put(&version(3), Some(&found)).await.expect("it is another one now");
    assert_eq!(overtaken.receipt, version(2));
    let partition = plain.topic_partition();
    let stored = steadily(weather, async || bucket.get_receipt(&partition, plain.first).await).await;
    assert_eq!(stored.expect("an answer"), Some(version(2)));
}

/// Objects in one piece, two and three arrive whole, and the one with more records stays.
async fn pieces(place: &Place, weather: &Weather) {
    let settings = settings(place);
    let part = settings.part_size as usize;
    for (index, bytes) in [part, part + 1, 2 * part + 1000].into_iter().enumerate() {
        let key = format!("pieces/{index}.gz");
        let file = sealed(place, &key, &content(bytes, 1));
        let placed = steadily(weather, async || put_file(&place.destination, &file, settings).await).await;
        let placed = placed.unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!((placed.bytes, placed.records), (bytes as u64, Some(7)), "{key}");
        assert!(placed.how == How::New || !weather.is_calm(), "{key}: {:?}", placed.how);
        assert!(get(place, weather, &key).await == Some(content(bytes, 1)), "{key}");
    }
    let mut richer = sealed(place, "pieces/2.gz", &content(2 * part + 500, 2));
    richer.records = 8;
    let placed = steadily(weather, async || put_file(&place.destination, &richer, settings).await).await;
    assert!(placed.is_ok_and(|placed| placed.how == How::New || !weather.is_calm()));
    assert!(get(place, weather, "pieces/2.gz").await == Some(content(2 * part + 500, 2)));
}

/// A file that is not the sealed one is noticed at its last piece; then nothing of it is visible.
async fn aborts(place: &Place, weather: &Weather) {
    let settings = settings(place);
    for bytes in [1000, 2 * settings.part_size as usize + 1000] {
        let key = format!("aborts/{bytes}.gz");
        let whole = content(bytes, 1);
        let file = sealed(place, &key, &whole);
        let mut flipped = whole;
        flipped[bytes - 1] ^= 1;
        std::fs::write(&file.path, flipped).expect("the spool file changes");
        let error = steadily(weather, async || put_file(&place.destination, &file, settings).await).await;
        assert!(matches!(error, Err(UploadError::SpoolChanged { .. })), "{error:?}");
        assert_eq!(get(place, weather, &key).await, None);
    }
    assert_eq!(listed(place, weather, "aborts").await, Vec::<String>::new());
}

/// An upload that is dropped at any moment, as when a Kafka partition is revoked, leaves the whole object or none.
async fn given_up(place: &Place, weather: &Weather) {
    let settings = settings(place);
    let bytes = 2 * settings.part_size as usize + 1000;
    for (round, polls) in [1, 2, 3, 5, 8, 13, 21, 34].into_iter().enumerate() {
        let key = format!("given_up/{round}.gz");
        let file = sealed(place, &key, &content(bytes, round as u32));
        {
            let mut upload = Box::pin(put_file(&place.destination, &file, settings));
            for _ in 0..polls {
                tokio::select! { biased; _ = &mut upload => break, () = pause() => {} }
            }
        }
        assert!(place.destination.at_rest(Duration::from_secs(60)).await, "what was given up comes to an end");
        let stored = get(place, weather, &key).await;
        assert!(stored.is_none_or(|stored| stored == content(bytes, round as u32)), "{key}");
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}
