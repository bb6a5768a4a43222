//! What uploads promise, on any store.

use crate::places::Place;
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};
use siltstone::destination::StoreKind;
use siltstone::destination::fault::Verdict;
use siltstone::upload::{
    How, Look, Placed, PutRule, UploadError, UploadFile, UploadSettings, hex, metadata_name, put_file,
};
use std::io::Read;
use std::sync::Arc;

pub(crate) const MIB: usize = 1024 * 1024;
pub(crate) const SETTINGS: UploadSettings = UploadSettings { part_size: 5 * MIB as u64, pieces: 2 };

/// `bytes` bytes that repeat nowhere within a piece and differ by `seed`.
pub(crate) fn content(bytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let step = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 24) as u8
    };
    (0..bytes).map(|_| step(&mut state)).collect()
}

/// A sealed file with that content.
pub(crate) fn sealed(place: &Place, key: &str, content: &[u8]) -> UploadFile {
    let name = format!("{}.part", key.replace('/', "_").chars().take(100).collect::<String>());
    let path = place.folder.path().join(name);
    std::fs::write(&path, content).expect("a spool file");
    UploadFile {
        path,
        key: key.to_string(),
        bytes: content.len() as u64,
        sha256: Sha256::digest(content).into(),
        records: 7,
        content_type: "application/gzip".to_string(),
        content_encoding: None,
        metadata: vec![("topic".into(), "t".into()), ("first".into(), "10".into())],
        rule: PutRule::ReplaceUntold,
        count: Arc::new(|_| Err(std::io::ErrorKind::InvalidData.into())),
        check_existing: false,
        look: Look::Shown,
    }
}

async fn stored(place: &Place, key: &str) -> Option<Vec<u8>> {
    let path = place.destination.path(key).expect("a key");
    match place.destination.store().get(&path).await {
        Ok(found) => Some(found.bytes().await.expect("bytes").to_vec()),
        Err(object_store::Error::NotFound { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn put(place: &Place, file: &UploadFile) -> (How, u64) {
    let placed = put_file(&place.destination, file, SETTINGS).await.expect("the file is put");
    assert_eq!(placed.key, file.key);
    (placed.how, placed.bytes)
}

/// Empty, one PUT, exactly one piece, several pieces: each arrives whole.
pub(crate) async fn sizes(place: &Place) {
    for (index, bytes) in [0, 1000, 5 * MIB, 5 * MIB + 1, 12 * MIB].into_iter().enumerate() {
        let content = content(bytes, 1);
        let key = format!("sizes/dt=2025-11-21/hr=03/object-{index}.gz");
        let file = sealed(place, &key, &content);
        assert_eq!(put(place, &file).await, (How::New, bytes as u64), "{bytes} bytes");
        assert!(stored(place, &key).await == Some(content), "{bytes} bytes");
        assert_eq!(put(place, &file).await, (How::AlreadyThere, bytes as u64), "{bytes} bytes");
    }
}

/// The object tells what it holds, where the store keeps metadata.
pub(crate) async fn attributes(place: &Place) {
    let mut file = sealed(place, "attributes/x", b"not really gzip");
    file.content_encoding = Some("gzip".to_string());
    assert_eq!(put(place, &file).await, (How::New, 15));
    let kind = place.destination.kind();
    let path = place.destination.path("attributes/x").expect("a key");
    let options = object_store::GetOptions::new().with_head(true);
    let found = place.destination.store().get_opts(&path, options).await.expect("head");
    assert_eq!(found.meta.size, 15);
    if place.destination.is_files() {
        return;
    }
    let get = |attribute| found.attributes.get(&attribute).map(|value| value.to_string());
    assert_eq!(get(object_store::Attribute::ContentType).as_deref(), Some("application/gzip"));
    assert_eq!(get(object_store::Attribute::ContentEncoding).as_deref(), Some("gzip"));
    let metadata = |name| get(object_store::Attribute::Metadata(metadata_name(kind, name).into()));
    assert_eq!(metadata("topic").as_deref(), Some("t"));
    assert_eq!(metadata("records").as_deref(), Some("7"));
    assert_eq!(metadata("sha256").map(|hex| hex.len()), Some(64));
}

/// An equal object is not sent again: the local file need not even be there.
pub(crate) async fn redo(place: &Place) {
    for bytes in [1000, 6 * MIB] {
        let key = format!("redo/{bytes}");
        let mut file = sealed(place, &key, &content(bytes, 1));
        file.check_existing = true;
        assert_eq!(put(place, &file).await, (How::New, bytes as u64));
        std::fs::remove_file(&file.path).expect("the spool file goes");
        assert_eq!(put(place, &file).await, (How::AlreadyThere, bytes as u64));
    }
}

/// A file of `bytes` bytes that tells its records by its first one, to whoever must read it.
fn telling(place: &Place, key: &str, records: u8, bytes: usize, seed: u32) -> UploadFile {
    let mut content = content(bytes, seed);
    content[0] = records;
    let mut file = sealed(place, key, &content);
    file.records = u64::from(records);
    file.count = Arc::new(|mut file| {
        let mut first = [0];
        file.read_exact(&mut first).map(|()| u64::from(first[0]))
    });
    file
}

/// Of two files the one with more records stays, whichever comes first and whatever the rule, with one PUT or in pieces: Kafka
/// may have deleted records between two tries.
pub(crate) async fn richer_stays(place: &Place) {
    for (bytes, rule) in [(1000, PutRule::KeepUntold), (1000, PutRule::ReplaceUntold), (6 * MIB, PutRule::KeepUntold)] {
        let key = format!("richer/{bytes}-{rule:?}");
        let file = |records, seed| UploadFile { rule, ..telling(place, &key, records, bytes, seed) };
        let put = async |records, seed| -> Placed {
            put_file(&place.destination, &file(records, seed), SETTINGS).await.expect("put or kept")
        };
        assert_eq!(put(7, 1).await.how, How::New);
        assert_eq!(put(7, 1).await.how, How::AlreadyThere);
        let kept = put(3, 2).await;
        let told = (How::Kept, Some(7), Some(hex(&file(7, 1).sha256)));
        assert_eq!((kept.how, kept.records, kept.sha256), told, "told as what was kept: {key}");
        // As many rows by counting them is no proof that they are the rows.
        let is_damaged = place.destination.is_files() && rule == PutRule::ReplaceUntold;
        assert_eq!(put(7, 3).await.how, if is_damaged { How::New } else { How::Kept }, "{key}");
        let richer = file(9, 4);
        assert_eq!(put_file(&place.destination, &richer, SETTINGS).await.expect("put").how, How::New, "{key}");
        let now: [u8; 32] = Sha256::digest(stored(place, &key).await.expect("there")).into();
        assert!(now == richer.sha256, "{key}");
    }
}

/// An object that does not tell its records stays or goes as the rule says.
pub(crate) async fn untold(place: &Place) {
    for (bytes, rule, how) in [
        (1000, PutRule::KeepUntold, How::Kept),
        (1000, PutRule::ReplaceUntold, How::New),
        (6 * MIB, PutRule::KeepUntold, How::Kept),
        (6 * MIB, PutRule::ReplaceUntold, How::New),
    ] {
        let key = format!("untold/{bytes}-{rule:?}");
        crate::put_text(place, &key, "somebody's").await;
        let file = UploadFile { rule, ..sealed(place, &key, &content(bytes, 1)) };
        let placed = put_file(&place.destination, &file, SETTINGS).await.expect("put or kept");
        let records = if how == How::Kept { None } else { Some(7) };
        assert_eq!((placed.how, placed.records), (how, records), "{key}");
        let expected = if how == How::Kept { b"somebody's".to_vec() } else { content(bytes, 1) };
        assert!(stored(place, &key).await == Some(expected), "{key}");
    }
}

/// A spool file that is not the sealed one any more never becomes visible.
pub(crate) async fn changed_spool(place: &Place) {
    for bytes in [1000, 12 * MIB] {
        let whole = content(bytes, 1);
        let mut flipped = whole.clone();
        flipped[bytes - 1] ^= 1;
        let longer = [whole.as_slice(), b"x"].concat();
        for (index, found) in [&whole[..bytes - 1], &[], &longer, &flipped].into_iter().enumerate() {
            let key = format!("changed/{bytes}-{index}");
            let file = sealed(place, &key, &whole);
            std::fs::write(&file.path, found).expect("the spool file changes");
            let error = put_file(&place.destination, &file, SETTINGS).await.expect_err("it is not the sealed one");
            assert!(matches!(error, UploadError::SpoolChanged { .. }), "{error}");
            assert_eq!(error.verdict(), Verdict::Stop);
            assert!(stored(place, &key).await.is_none(), "{key}");
        }
    }
    let mut gone = sealed(place, "changed/gone", b"x");
    gone.path.push("nowhere");
    let error = put_file(&place.destination, &gone, SETTINGS).await.expect_err("there is no file");
    assert!(matches!(error, UploadError::SpoolUnreadable { .. }), "{error}");
}

/// What is percent-encoded in a key arrives like that, character by character.
pub(crate) async fn keys_arrive_literally(place: &Place) {
    // HDFS takes no colon.
    let signs = if place.destination.kind() == StoreKind::Hdfs { "k=v,w;(x)!'~@$&" } else { "k:v,w;(x)!'~@$&" };
    let names = ["a%2Fb", "%2E%2E", "x=%E2%82%AC", "100%25", "a+b c", signs, "__HIVE_DEFAULT_PARTITION__"];
    for name in names {
        let file = sealed(place, &format!("literal/f={name}/{name}.gz"), name.as_bytes());
        assert_eq!(put(place, &file).await.0, How::New, "{name}");
        assert_eq!(stored(place, &file.key).await.as_deref(), Some(name.as_bytes()), "{name}");
    }
    let mut listed = crate::list(place, "literal").await;
    listed.sort();
    let mut expected: Vec<_> = names.iter().map(|name| format!("literal/f={name}/{name}.gz")).collect();
    expected.sort();
    assert_eq!(listed, expected);
}
