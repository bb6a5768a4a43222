//! Sends a file: in one PUT, or in pieces.

use super::existing::existing;
use super::read::{Piece, SealedReader};
use super::{Placed, PutRule, Target, UploadError, settled};
use bytes::Bytes;
use object_store::{MultipartUpload, PutMode, PutMultipartOptions, PutOptions, PutPayload};
use tokio::task::JoinSet;

/// Pieces of one object on their way at the same time.
const PIECES_IN_FLIGHT_MAX: usize = 2;

/// Most pieces of one object: the limit of S3 and GCS.
const PIECES_MAX: u64 = 10_000;

/// Sends the file in one PUT. `None`: the store answered with success.
pub(super) async fn whole(target: &Target<'_>, mode: PutMode) -> Result<Option<Placed>, UploadError> {
    let file = target.file;
    let mut payload = Vec::new();
    let mut reader = SealedReader::open(file).await?;
    while let Piece::Bytes(rest, bytes) = reader.next(file, file.bytes).await? {
        payload.push(bytes);
        reader = rest;
    }
    let options = PutOptions { mode, attributes: target.attributes(), ..PutOptions::default() };
    let payload = PutPayload::from_iter(payload);
    let put = target.destination.store().put_opts(&target.location, payload, options).await;
    put.map(|_| None).map_err(|error| target.store_error(&error))
}

/// Sends the file in pieces of `part_size` or more. `None`: the store answered with success; otherwise an object turned
/// up meanwhile that settles the matter. Whatever else happens, the pieces are aborted.
pub(super) async fn in_pieces(target: &Target<'_>, part_size: u64) -> Result<Option<Placed>, UploadError> {
    let options = PutMultipartOptions { attributes: target.attributes(), ..PutMultipartOptions::default() };
    let upload = target.destination.store().put_multipart_opts(&target.location, options).await;
    let mut upload = Pieces { upload: Some(upload.map_err(|error| target.store_error(&error))?) };
    let outcome = send_pieces(target, &mut upload, part_size.max(target.file.bytes.div_ceil(PIECES_MAX))).await;
    match outcome {
        Ok(None) => upload.done(),
        Ok(Some(_)) | Err(_) => upload.abort().await,
    }
    outcome
}

async fn send_pieces(target: &Target<'_>, upload: &mut Pieces, part_size: u64) -> Result<Option<Placed>, UploadError> {
    let file = target.file;
    let mut in_flight = JoinSet::new();
    let mut reader = SealedReader::open(file).await?;
    while let Piece::Bytes(rest, bytes) = reader.next(file, part_size).await? {
        reader = rest;
        while in_flight.len() >= PIECES_IN_FLIGHT_MAX {
            join_one(target, &mut in_flight).await?;
        }
        in_flight.spawn(upload.put(bytes));
    }
    while !in_flight.is_empty() {
        join_one(target, &mut in_flight).await?;
    }
    if file.rule == PutRule::CreateOnly
        && let Some(found) = existing(target).await?
        && let Some(placed) = settled(target, &found)
    {
        return Ok(Some(placed));
    }
    upload.complete().await.map_err(|error| target.store_error(&error))?;
    Ok(None)
}

async fn join_one(target: &Target<'_>, in_flight: &mut JoinSet<object_store::Result<()>>) -> Result<(), UploadError> {
    match in_flight.join_next().await {
        None => Ok(()),
        Some(Ok(sent)) => sent.map_err(|error| target.store_error(&error)),
        Some(Err(source)) => Err(target.store_error(&object_store::Error::JoinError { source })),
    }
}

/// An upload in pieces that is aborted unless it is completed: pieces of dead uploads cost money.
struct Pieces {
    upload: Option<Box<dyn MultipartUpload>>,
}

impl Pieces {
    fn put(&mut self, bytes: Bytes) -> object_store::UploadPart {
        match &mut self.upload {
            Some(upload) => upload.put_part(PutPayload::from_bytes(bytes)),
            None => Box::pin(std::future::ready(Err(over()))),
        }
    }

    async fn complete(&mut self) -> object_store::Result<()> {
        let upload = self.upload.as_mut().ok_or_else(over)?;
        upload.complete().await.map(|_| ())
    }

    fn done(mut self) {
        self.upload = None;
    }

    async fn abort(mut self) {
        if let Some(upload) = self.upload.take() {
            abort(upload).await;
        }
    }
}

impl Drop for Pieces {
    /// The upload was given up in the middle: whoever awaited it is gone, so a task of its own has to tell the store.
    fn drop(&mut self) {
        if let (Some(upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(abort(upload));
        }
    }
}

/// Nobody waits for more than the attempt: the bucket's own rule for dead uploads is the last resort.
async fn abort(mut upload: Box<dyn MultipartUpload>) {
    if let Err(error) = upload.abort().await {
        let fault = crate::destination::fault::Fault::of(&error);
        tracing::debug!(%fault, "pieces of an upload were not aborted");
    }
}

fn over() -> object_store::Error {
    object_store::Error::Generic { store: "upload", source: "the upload is over already".into() }
}
