//! One suite for every store: what destinations, uploads and control documents promise, they promise everywhere.
//!
//! Memory, a local folder, and the real servers that `scripts/services.sh` starts: an S3 server, fake-gcs-server,
//! Azurite. A server that is not there is a failure, never a skip.

#[path = "stores/control.rs"]
mod control;
#[path = "stores/faulty.rs"]
mod faulty;
#[path = "stores/objects.rs"]
mod objects;
#[path = "stores/places.rs"]
mod places;
#[path = "stores/trouble.rs"]
mod trouble;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use places::Place;

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
    control::longest_topic(place).await;
    control::damaged_documents(place).await;
    control::identity(place).await;
    control::pins_race(place).await;
    control::layouts(place).await;
    if place.destination.conditional_put() {
        control::claims_race(place).await;
    }
}

#[tokio::test]
async fn memory() {
    suite(&places::memory()).await;
}

#[tokio::test]
async fn file() {
    suite(&places::file()).await;
}

#[tokio::test]
async fn s3() {
    suite(&places::s3()).await;
}

#[tokio::test]
async fn s3_from_environment() {
    control::probe(&places::s3_from_environment()).await;
}

#[tokio::test]
async fn s3_without_conditions() {
    suite(&places::s3_without_conditions()).await;
}

#[tokio::test]
async fn gcs() {
    suite(&places::gcs()).await;
}

#[tokio::test]
async fn azure() {
    suite(&places::azure()).await;
}
