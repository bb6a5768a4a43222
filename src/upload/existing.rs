//! What is in the bucket under a file's key.

use super::read::hash_stream;
use super::{Target, UploadError, hex, metadata_name};
use crate::destination::Destination;
use object_store::path::Path;
use object_store::{Attribute, GetOptions, ObjectStoreExt};

/// An object under the key.
pub(super) struct Existing {
    pub(super) shown: Shown,
    /// Equal size and SHA-256.
    pub(super) same: bool,
}

/// What a HEAD shows. All but the size is from our own metadata, where the store keeps any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Size.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: Option<String>,
    /// Records inside.
    pub records: Option<u64>,
}

/// The object at `location`, without reading it.
pub(super) async fn look(destination: &Destination, location: &Path) -> Result<Option<Shown>, object_store::Error> {
    let found = match destination.store().get_opts(location, GetOptions::new().with_head(true)).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stored = |name| {
        let name = metadata_name(destination.kind(), name);
        found.attributes.get(&Attribute::Metadata(name.into())).map(|value| value.to_string())
    };
    let records = stored("records").and_then(|count| count.parse().ok());
    Ok(Some(Shown { bytes: found.meta.size, sha256: stored("sha256"), records }))
}

pub(super) async fn head(target: &Target<'_>) -> Result<Option<Shown>, UploadError> {
    look(target.destination, &target.location).await.map_err(|error| target.store_error(&error))
}

/// Looks at the object, and reads it where only its bytes can tell whether it is the same.
pub(super) async fn existing(target: &Target<'_>) -> Result<Option<Existing>, UploadError> {
    let Some(shown) = head(target).await? else { return Ok(None) };
    let same = shown.bytes == target.file.bytes
        && match &shown.sha256 {
            Some(sha256) => *sha256 == hex(&target.file.sha256),
            None => {
                let stored = stored_sha256(target.destination, &target.location).await;
                stored.map_err(|error| target.store_error(&error))? == Some(target.file.sha256)
            }
        };
    Ok(Some(Existing { shown, same }))
}

/// The SHA-256 of the bytes that are there, if anything is.
pub(super) async fn stored_sha256(
    destination: &Destination,
    location: &Path,
) -> Result<Option<[u8; 32]>, object_store::Error> {
    let read = async { hash_stream(destination.store().get(location).await?.into_stream()).await };
    match read.await {
        Ok(digest) => Ok(Some(digest)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
