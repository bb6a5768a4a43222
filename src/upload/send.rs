//! Sends a file: in one PUT, or in pieces.

use super::existing::existing;
use super::read::{Piece, SealedReader};
use super::{Placed, Target, UploadError, UploadSettings, settled};
use crate::effect::{Effect, requests};
use bytes::Bytes;
use object_store::{MultipartUpload, PutMode, PutMultipartOptions, PutOptions, PutPayload};
use tokio::task::JoinSet;

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
    let store = target.destination.store();
    let put = requests::put(Effect::ObjectPut, store, &target.location, payload, options).await;
    put.map(|_| None).map_err(|error| target.store_error(&error))
}

/// Sends the file in pieces. `None`: the store answered with success; otherwise an object turned
/// up meanwhile that settles the matter. Whatever else happens, the pieces are aborted.
pub(super) async fn in_pieces(target: &Target<'_>, settings: UploadSettings) -> Result<Option<Placed>, UploadError> {
    let options = PutMultipartOptions { attributes: target.attributes(), ..PutMultipartOptions::default() };
    let store = target.destination.store();
    let upload = requests::begin(Effect::UploadBegin, store, &target.location, options).await;
    let mut upload = Pieces { upload: Some(upload.map_err(|error| target.store_error(&error))?) };
    let outcome = send_pieces(target, &mut upload, settings).await;
    match outcome {
        Ok(None) => upload.done(),
        Ok(Some(_)) | Err(_) => upload.abort().await,
    }
    outcome
}

async fn send_pieces(
    target: &Target<'_>,
    upload: &mut Pieces,
    settings: UploadSettings,
) -> Result<Option<Placed>, UploadError> {
    let file = target.file;
    let piece_bytes = settings.piece(file.bytes);
    let mut in_flight = JoinSet::new();
    let mut reader = SealedReader::open(file).await?;
    loop {
        // Before the next piece is read: it takes memory, too (U-4).
        while in_flight.len() >= settings.pieces.max(1) {
            join_one(target, &mut in_flight).await?;
        }
        let Piece::Bytes(rest, bytes) = reader.next(file, piece_bytes).await? else { break };
        reader = rest;
        in_flight.spawn(upload.put(bytes));
    }
    while !in_flight.is_empty() {
        join_one(target, &mut in_flight).await?;
    }
    if let Some(found) = existing(target).await?
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
            Some(upload) => requests::piece(Effect::UploadPiece, upload.as_mut(), PutPayload::from_bytes(bytes)),
            None => Box::pin(std::future::ready(Err(over()))),
        }
    }

    async fn complete(&mut self) -> object_store::Result<()> {
        let upload = self.upload.as_mut().ok_or_else(over)?;
        requests::complete(Effect::UploadComplete, upload.as_mut()).await.map(|_| ())
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
    if let Err(error) = requests::abort(Effect::UploadAbort, upload.as_mut()).await {
        let fault = crate::destination::fault::Fault::of(&error);
        tracing::debug!(%fault, "pieces of an upload were not aborted");
    }
}

fn over() -> object_store::Error {
    object_store::Error::Generic { store: "upload", source: "the upload is over already".into() }
}

#[cfg(test)]
mod tests {
    use super::super::{PutRule, UploadFile, put_file};
    use super::*;
    use crate::destination::{Destination, StoreKind};
    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutResult, Result,
        UploadPart,
    };
    use sha2::{Digest, Sha256};
    use std::fmt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// A store that takes a while for each piece, the first ones until it was busy with as many bytes as are expected, and
    /// knows how many these were at most.
    #[derive(Debug, Default)]
    struct Slow {
        inner: InMemory,
        held: Arc<Held>,
    }

    #[derive(Debug, Default)]
    struct Held {
        now: AtomicU64,
        most: AtomicU64,
        expected: AtomicU64,
    }

    impl fmt::Display for Slow {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("slow")
        }
    }

    #[async_trait]
    impl ObjectStore for Slow {
        async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.inner.put_opts(location, payload, options).await
        }
        async fn put_multipart_opts(
            &self,
            location: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            let inner = self.inner.put_multipart_opts(location, options).await?;
            Ok(Box::new(SlowUpload { inner, held: self.held.clone() }))
        }
        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(location, options).await
        }
        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(locations)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    #[derive(Debug)]
    struct SlowUpload {
        inner: Box<dyn MultipartUpload>,
        held: Arc<Held>,
    }

    #[async_trait]
    impl MultipartUpload for SlowUpload {
        fn put_part(&mut self, data: PutPayload) -> UploadPart {
            let bytes = data.content_length() as u64;
            let (part, held) = (self.inner.put_part(data), self.held.clone());
            let now = held.now.fetch_add(bytes, Ordering::SeqCst) + bytes;
            held.most.fetch_max(now, Ordering::SeqCst);
            Box::pin(async move {
                while held.most.load(Ordering::SeqCst) < held.expected.load(Ordering::SeqCst) {
                    tokio::task::yield_now().await;
                }
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                held.now.fetch_sub(bytes, Ordering::SeqCst);
                part.await
            })
        }
        async fn complete(&mut self) -> Result<PutResult> {
            self.inner.complete().await
        }
        async fn abort(&mut self) -> Result<()> {
            self.inner.abort().await
        }
    }

    /// Goal: an upload holds no more pieces than its share has room for (U-4), and as many where there is room.
    #[tokio::test]
    async fn pieces_in_memory_keep_to_the_share() {
        const PART: u64 = 1000;
        for (share, pieces) in [(PART, 1), (2 * PART - 1, 1), (2 * PART, 2), (100 * PART, 2)] {
            let folder = tempfile::tempdir().expect("a folder");
            let content: Vec<u8> = (0..7 * PART + 1).map(|at| (at % 251) as u8).collect();
            let path = folder.path().join("x.part");
            std::fs::write(&path, &content).expect("written");
            let file = UploadFile {
                path,
                key: "x".to_string(),
                bytes: content.len() as u64,
                sha256: Sha256::digest(&content).into(),
                records: 1,
                content_type: "text/plain".to_string(),
                content_encoding: None,
                metadata: Vec::new(),
                rule: PutRule::ReplaceUntold,
                count: Arc::new(|_| Ok(1)),
                check_existing: false,
            };
            let slow = Arc::new(Slow::default());
            slow.held.expected.store(pieces * PART, Ordering::SeqCst);
            let destination = Destination::from_store("main", "memory:///", slow.clone(), StoreKind::Memory);
            let settings = UploadSettings::within(PART, share);
            let put = tokio::time::timeout(Duration::from_secs(60), put_file(&destination, &file, settings));
            put.await.expect("as many pieces as there is room for are sent at once").expect("put");
            assert_eq!(slow.held.most.load(Ordering::SeqCst), pieces * PART, "share {share}");
            assert!(settings.memory(file.bytes) <= share);
            let stored = slow.get(&Path::from("x")).await.expect("there").bytes().await.expect("its bytes");
            assert_eq!(stored, content);
        }
    }
}
