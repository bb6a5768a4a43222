//! What uploads leave behind that no reader sees, and that costs money or space all the same.

use crate::places::{Place, setting};
use crate::storm::{ABORTS, Weather};
use object_store::path::Path;
use sha2::{Digest, Sha256};
use siltstone::destination::StoreKind;
use siltstone::destination::local::STAGE_PREFIX;
use siltstone::upload::hex;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest that an upload which was given up may take to be aborted.
const DEADLINE: Duration = Duration::from_secs(60);

/// Uploads in pieces that are neither completed nor aborted are those alone that nobody could abort; and these go, too.
pub(crate) async fn none(place: &Place, weather: &Weather) {
    assert!(place.destination.at_rest(DEADLINE).await, "what was given up comes to an end");
    assert_eq!(weather.pestered(), Vec::<Path>::new(), "aborted more often than {ABORTS} times");
    assert_eq!(unfinished(place, weather).await, weather.orphans(), "uploads in pieces that are left unfinished");
    weather.sweep_orphans().await;
    assert_eq!(unfinished(place, weather).await, Vec::<Path>::new());
}

/// Where uploads in pieces are unfinished, one entry each, in order.
async fn unfinished(place: &Place, weather: &Weather) -> Vec<Path> {
    let orphans = weather.orphans();
    match place.destination.kind() {
        StoreKind::S3 => weather.begun().into_iter().flat_map(unfinished_on_s3).collect(),
        StoreKind::Gcs => unfinished_on_gcs(place).await,
        // The names of staged files do not tell whose they are.
        StoreKind::File => Some(stages(place)).filter(|found| found.len() != orphans.len()).unwrap_or(orphans),
        StoreKind::Hdfs => {
            // Removed by a task of the store's own.
            assert!(place.destination.at_rest(DEADLINE).await, "what was given up comes to an end");
            Some(stages_in_hdfs(place)).filter(|found| found.len() != orphans.len()).unwrap_or(orphans)
        }
        // Blocks that were not committed are no upload: nobody sees them, and Azure deletes them after a week.
        StoreKind::Azure | StoreKind::Memory => orphans,
    }
}

/// The S3 server keeps the pieces of `location` in `<SHA-256 of the key>/<upload id>/`. Looked at there and not through its
/// listing: a piece that lands after the abort is in no listing.
fn unfinished_on_s3(location: Path) -> Vec<Path> {
    let folder = PathBuf::from(setting("S3_DATA")).join(".sgwtmp/multipart");
    assert!(folder.is_dir(), "{} is not where the S3 server keeps pieces", folder.display());
    match std::fs::read_dir(folder.join(hex(&Sha256::digest(location.as_ref())))) {
        Ok(uploads) => uploads.map(|_| location.clone()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// Asks for `GET /bucket?uploads`, which needs no login at the emulator.
async fn unfinished_on_gcs(place: &Place) -> Vec<Path> {
    let endpoint = setting("GCS_ENDPOINT");
    let host = endpoint.strip_prefix("http://").expect("an emulator speaks plain HTTP");
    let mut server = TcpStream::connect(host).await.expect("the emulator");
    let (bucket, prefix) = (setting("GCS_BUCKET"), place.destination.prefix());
    let request = format!("GET /{bucket}?uploads&prefix={prefix}/ HTTP/1.0\r\nHost: {host}\r\n\r\n");
    server.write_all(request.as_bytes()).await.expect("asked");
    let mut answer = String::new();
    server.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.contains("<ListMultipartUploadsResult>"), "restart the gcs service, it is an old one: {answer}");
    let keys = answer.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().expect("an end"));
    let mut found: Vec<_> = keys.map(|key| Path::parse(key).expect("a key")).collect();
    found.sort();
    found
}

/// Staged files in HDFS, as WebHDFS shows them.
pub(crate) fn stages_in_hdfs(place: &Place) -> Vec<Path> {
    let root = place.destination.prefix();
    let folders = crate::hadoop::names(root.as_ref());
    let staging = folders.iter().map(|folder| format!("{root}/{folder}/.siltstone-staging"));
    let mut found = Vec::new();
    for folder in staging.chain([format!("{root}/.siltstone-staging")]) {
        found.extend(crate::hadoop::names(&folder).iter().map(|name| Path::from(format!("{folder}/{name}"))));
    }
    found.sort();
    found
}

/// Staged files in a local folder.
pub(crate) fn stages(place: &Place) -> Vec<Path> {
    let root = PathBuf::from("/").join(place.destination.prefix().as_ref());
    let mut found = Vec::new();
    let mut pending = vec![root];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            if entry.file_type().expect("its type").is_dir() {
                pending.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(STAGE_PREFIX) {
                found.push(Path::from_absolute_path(entry.path()).expect("a path"));
            }
        }
    }
    found.sort();
    found
}
