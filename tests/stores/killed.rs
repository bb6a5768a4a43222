//! A writer that is killed in the middle leaves whole files, and what it had begun where no reader looks.

use crate::leftovers::stages;
use crate::objects::{content, sealed};
use crate::places;
use futures::TryStreamExt;
use siltstone::clock::{Clock, SystemClock};
use siltstone::upload::{PutRule, UploadFile, UploadSettings, put_file};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The name of the test, which is also the writer: it runs itself again.
const TEST: &str = "killed::a_killed_writer_leaves_whole_files";
/// Set for the writer: the URL it writes to.
const URL: &str = "SILTSTONE_TEST_KILLED_URL";
/// Kills.
const ROUNDS: usize = 12;
/// Keys: each is written over and over.
const KEYS: usize = 40;
/// Writers side by side in the one process.
const SIDE_BY_SIDE: usize = 4;
/// Files above it go in pieces.
const PIECE: u64 = 64 * 1024;

/// The `version`th content of a key: both are in its begin, and its length follows from them.
fn written(key: usize, version: usize) -> Vec<u8> {
    let mut bytes = format!("{key:06}:{version:06}:").into_bytes();
    // Every second key goes in pieces.
    let rows = if key.is_multiple_of(2) { 20_000 } else { 3 * PIECE as usize } + 17 * version;
    bytes.extend(content(rows, (key * 1000 + version) as u32));
    bytes
}

/// Key and version of a file that is whole.
pub(crate) fn whole(name: &str, bytes: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| std::str::from_utf8(bytes.get(at..at + 6)?).ok()?.parse::<usize>().ok();
    let (key, version) = (number(0)?, number(7)?);
    (name == format!("{key:06}.gz") && *bytes == written(key, version)).then_some((key, version))
}

/// Writes until it is killed, and says which versions are confirmed.
async fn write_for_ever(url: &str) {
    let place = places::at(url);
    let settings = UploadSettings { part_size: PIECE, pieces: 2 };
    let writers = (0..SIDE_BY_SIDE).map(|writer| {
        let place = &place;
        async move {
            for version in 0.. {
                for key in (writer..KEYS).step_by(SIDE_BY_SIDE) {
                    let bytes = written(key, version);
                    let file = sealed(place, &format!("dt=2025-11-21/hr={:02}/{key:06}.gz", key % 3), &bytes);
                    let file = UploadFile { rule: PutRule::ReplaceUntold, check_existing: true, ..file };
                    put_file(&place.destination, &file, settings).await.expect("put");
                    writeln!(std::io::stdout(), "confirmed {key} {version}").expect("somebody listens");
                }
            }
        }
    });
    futures::future::join_all(writers).await;
}

/// Goal: whatever moment a process dies at, each file under its own name is whole, what was confirmed is there (or what came after
/// it), and what was on its way is hidden from listings and swept by a later start.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_leaves_whole_files() {
    if let Ok(url) = std::env::var(URL) {
        return write_for_ever(&url).await;
    }
    let mut left_on_the_way = 0;
    for round in 0..ROUNDS {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("file://{}/archive", folder.path().display());
        let confirmed = write_and_kill(&url, 5 + 13 * round);
        let place = places::at(&url);
        let store = place.destination.store();
        let root = Path::new("/").join(place.destination.prefix().as_ref());

        let listed: Vec<_> = store.list(Some(place.destination.prefix())).try_collect().await.expect("a listing");
        let mut found = BTreeMap::new();
        for object in &listed {
            let name = object.location.filename().expect("a name");
            let bytes = std::fs::read(Path::new("/").join(object.location.as_ref())).expect("a file");
            let Some((key, version)) = whole(name, &bytes) else {
                panic!("round {round}: {name} has {} bytes that are no version of it", bytes.len());
            };
            found.insert(key, version);
        }
        for (key, version) in confirmed {
            let there = found.get(&key);
            assert!(
                there >= Some(&version),
                "round {round}: {key} was confirmed as {version} and is there as {there:?}"
            );
        }
        let hidden = stages(&place);
        left_on_the_way += hidden.len();
        let files = count_files(&root);
        assert_eq!(files, listed.len() + hidden.len(), "round {round}: a file is neither data nor hidden");

        let later_ms = SystemClock::new().wall_ms() + 60_000;
        let swept = place.destination.sweep_stages(Duration::from_secs(1), later_ms).await.expect("swept");
        assert_eq!(swept as usize, hidden.len(), "round {round}");
        assert_eq!(count_files(&root), listed.len(), "round {round}");
    }
    assert!(left_on_the_way > 0, "no kill of {ROUNDS} came in the middle of a write: the test shows nothing");
}

/// Starts the writer, kills it right after it has confirmed so many files, and gives the last version of each key that it confirmed.
pub(crate) fn write_and_kill(url: &str, after: usize) -> BTreeMap<usize, usize> {
    let mut writer = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(URL, url)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the writer");
    let mut confirmed = BTreeMap::new();
    let mut count = 0;
    let mut lines = BufReader::new(writer.stdout.take().expect("its output")).lines();
    // What it wrote before it died is read to the end.
    while let Some(Ok(line)) = lines.next() {
        // The test harness's own words stand before the first one.
        let Some((_, told)) = line.split_once("confirmed ") else { continue };
        let (key, version) = told.trim_end().split_once(' ').expect("a key and a version");
        confirmed.insert(key.parse().expect("a key"), version.parse().expect("a version"));
        count += 1;
        if count == after {
            writer.kill().expect("killed");
        }
    }
    let status = writer.wait().expect("its end");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "it was killed: {status}");
    assert!(count >= after, "the writer ended by itself");
    confirmed
}

fn count_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| match entry.file_type().expect("its type").is_dir() {
            true => count_files(&entry.path()),
            false => 1,
        })
        .sum()
}
