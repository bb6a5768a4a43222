//! The door to Kafka, to stores and to tables: whatever asks them to keep or remove something.

use super::Effect;
use super::point::around_async;
use crate::consume::{CommitError, Coordinator, Held};
use crate::restore::position::Kept;
use crate::restore::target::{Target, Trouble};
use futures::stream::{self, StreamExt};
use object_store::path::Path;
use object_store::{
    Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart,
};

/// See [`Coordinator::commit`].
///
/// # Errors
/// [`CommitError`].
pub async fn commit(
    effect: Effect,
    coordinator: &dyn Coordinator,
    held: Held,
    offset: i64,
    metadata: String,
) -> std::result::Result<(), CommitError> {
    around_async(effect, coordinator.commit(held, offset, metadata)).await
}

/// See [`Target::commit`].
///
/// # Errors
/// [`Trouble`]; it may have happened all the same.
pub async fn commit_records(
    effect: Effect,
    target: &dyn Target,
    progress: Vec<Kept>,
) -> std::result::Result<(), Trouble> {
    around_async(effect, target.commit(progress)).await
}

/// Puts an object whole.
///
/// # Errors
/// What the store said; it may have happened all the same, or happen later.
pub async fn put(
    effect: Effect,
    store: &dyn ObjectStore,
    location: &Path,
    payload: PutPayload,
    options: PutOptions,
) -> Result<PutResult> {
    around_async(effect, store.put_opts(location, payload, options)).await
}

/// Deletes an object.
///
/// # Errors
/// What the store said; it may have happened all the same, or happen later.
pub async fn delete(effect: Effect, store: &dyn ObjectStore, location: &Path) -> Result<()> {
    around_async(effect, store.delete(location)).await
}

/// Deletes objects, many with one request where the store can. One that is not there is no error. One effect, however many there are.
///
/// # Errors
/// What the store said first; others may be deleted all the same, or later.
pub async fn delete_all(effect: Effect, store: &dyn ObjectStore, locations: Vec<Path>) -> Result<()> {
    let deleting = async {
        let locations = stream::iter(locations.into_iter().map(Ok)).boxed();
        let mut deleted = store.delete_stream(locations);
        let mut failed = None;
        while let Some(outcome) = deleted.next().await {
            match outcome {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    };
    around_async(effect, deleting).await
}

/// Begins an upload in pieces.
///
/// # Errors
/// What the store said.
pub async fn begin(
    effect: Effect,
    store: &dyn ObjectStore,
    location: &Path,
    options: PutMultipartOptions,
) -> Result<Box<dyn MultipartUpload>> {
    around_async(effect, store.put_multipart_opts(location, options)).await
}

/// The next piece; it is sent when the result is polled.
pub fn piece(effect: Effect, upload: &mut dyn MultipartUpload, payload: PutPayload) -> UploadPart {
    let sent = upload.put_part(payload);
    Box::pin(around_async(effect, sent))
}

/// Puts the pieces together.
///
/// # Errors
/// What the store said; it may have happened all the same, or happen later.
pub async fn complete(effect: Effect, upload: &mut dyn MultipartUpload) -> Result<PutResult> {
    around_async(effect, upload.complete()).await
}

/// Gives an upload in pieces up.
///
/// # Errors
/// What the store said.
pub async fn abort(effect: Effect, upload: &mut dyn MultipartUpload) -> Result<()> {
    around_async(effect, upload.abort()).await
}

/// Waits for `asking`, a request to a service that makes something which lasts. It is sent when it is polled.
pub async fn ask<T>(effect: Effect, asking: impl Future<Output = T>) -> T {
    around_async(effect, asking).await
}
