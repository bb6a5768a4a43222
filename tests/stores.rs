//! One suite for every store: what destinations, uploads and control documents promise, they promise everywhere.
//!
//! Memory, a local folder, and the real servers that `scripts/services.sh` starts: an S3 server, fake-gcs-server,
//! Azurite, HDFS; each alone and in storms, where every seventh request is refused and every seventh answer lost. A server that is not
//! there is a failure, never a skip.

#[path = "stores/conformance.rs"]
mod conformance;
#[path = "stores/control.rs"]
mod control;
#[path = "stores/faulty.rs"]
mod faulty;
#[path = "stores/hadoop.rs"]
mod hadoop;
#[path = "stores/hanging.rs"]
mod hanging;
#[path = "stores/killed.rs"]
mod killed;
#[path = "stores/leftovers.rs"]
mod leftovers;
#[path = "stores/objects.rs"]
mod objects;
#[path = "stores/places.rs"]
mod places;
#[path = "stores/storm.rs"]
mod storm;
#[path = "stores/trouble.rs"]
mod trouble;
#[path = "stores/wire.rs"]
mod wire;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use places::Place;
use storm::Weather;

/// Keys below a folder.
async fn list(place: &Place, folder: &str) -> Vec<String> {
    let path = place.destination.path(folder).expect("a key");
    let objects: Vec<_> = place.destination.store().list(Some(&path)).try_collect().await.expect("a listing");
    let key = |path| place.destination.key_of(path).expect("below the prefix");
    objects.iter().map(|object| key(&object.location)).collect()
}

/// Puts a document as somebody else would.
async fn put_text(place: &Place, key: &str, text: &str) {
    let path = place.destination.path(key).expect("a key");
    place.destination.store().put(&path, text.to_string().into()).await.expect("put");
}

/// Every promise, one after the other: they share the prefix but no key.
async fn suite(place: &Place) {
    control::probe(place).await;
    control::starts_race(place).await;
    objects::sizes(place).await;
    objects::attributes(place).await;
    objects::redo(place).await;
    objects::richer_stays(place).await;
    objects::untold(place).await;
    objects::changed_spool(place).await;
    objects::keys_arrive_literally(place).await;
    control::entries(place).await;
    control::receipts(place).await;
    control::folds(place).await;
    control::longest_topic(place).await;
    control::damaged_documents(place).await;
    control::identity(place).await;
    control::pins_race(place).await;
    control::layouts(place).await;
    if place.destination.conditional_put() {
        control::claims_race(place).await;
    }
}

/// Seeds of the storms over each store.
const STORMS: u64 = 5;

/// What each store promises when nothing is in the way.
async fn alone(place: fn() -> Place) {
    suite(&place()).await;
    let weather = Weather::calm();
    conformance::suite(&place().in_weather(&weather), &weather).await;
}

/// The same through storms.
async fn in_storms(place: fn() -> Place) {
    let storms = (1..=STORMS).map(|seed| async move {
        let weather = Weather::storm(seed);
        conformance::suite(&place().in_weather(&weather), &weather).await;
        let felt = weather.felt();
        assert!(felt.refused > 20 && felt.lost > 20 && felt.slow > 20, "seed {seed} was no storm: {felt:?}");
        eprintln!("storm {seed}: {felt:?}");
    });
    futures::future::join_all(storms).await;
}

#[tokio::test]
async fn memory() {
    alone(places::memory).await;
}

#[tokio::test]
async fn memory_in_storms() {
    in_storms(places::memory).await;
}

#[tokio::test]
async fn file() {
    alone(places::file).await;
}

#[tokio::test]
async fn file_in_storms() {
    in_storms(places::file).await;
}

#[tokio::test]
async fn s3() {
    alone(places::s3).await;
}

#[tokio::test]
async fn s3_in_storms() {
    in_storms(places::s3).await;
}

#[tokio::test]
async fn s3_from_environment() {
    control::probe(&places::s3_from_environment()).await;
}

#[tokio::test]
async fn s3_without_conditions() {
    alone(places::s3_without_conditions).await;
}

#[tokio::test]
async fn s3_without_conditions_in_storms() {
    in_storms(places::s3_without_conditions).await;
}

#[tokio::test]
async fn gcs() {
    alone(places::gcs).await;
}

#[tokio::test]
async fn gcs_in_storms() {
    in_storms(places::gcs).await;
}

#[tokio::test]
async fn azure() {
    alone(places::azure).await;
}

#[tokio::test]
async fn azure_in_storms() {
    in_storms(places::azure).await;
}

#[tokio::test]
async fn hdfs() {
    alone(places::hdfs).await;
}

#[tokio::test]
async fn hdfs_in_storms() {
    in_storms(places::hdfs).await;
}
