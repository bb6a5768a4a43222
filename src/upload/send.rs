//! Sends a file: in one PUT, or in pieces.

use super::existing::existing;
use super::pieces::Pieces;
use super::read::{Piece, SealedReader};
use super::{Placed, Target, UploadError, UploadSettings, settled};
use crate::effect::{Effect, requests};
use object_store::{PutMode, PutOptions, PutPayload};

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
    let mut pieces = Pieces::begin(target).await?;
    match send_pieces(target, &mut pieces, settings).await {
        Ok(None) => pieces.complete().await.map(|()| None).map_err(|error| target.store_error(&error)),
        settled => {
            pieces.give_up().await;
            settled
        }
    }
}

/// Sends the pieces, and looks once more what is there before they are put together.
async fn send_pieces(
    target: &Target<'_>,
    pieces: &mut Pieces,
    settings: UploadSettings,
) -> Result<Option<Placed>, UploadError> {
    let file = target.file;
    let piece_bytes = settings.piece(file.bytes);
    let mut reader = SealedReader::open(file).await?;
    loop {
        // Before the next piece is read: it takes memory, too (U-4).
        while pieces.on_their_way() >= settings.pieces.max(1) {
            pieces.landed().await.map_err(|error| target.store_error(&error))?;
        }
        let Piece::Bytes(rest, bytes) = reader.next(file, piece_bytes).await? else { break };
        reader = rest;
        pieces.send(bytes);
    }
    while pieces.on_their_way() > 0 {
        pieces.landed().await.map_err(|error| target.store_error(&error))?;
    }
    let found = existing(target).await?;
    Ok(found.and_then(|found| settled(target, &found)))
}

#[cfg(test)]
mod tests {
    use super::super::{Look, PutRule, UploadFile, put_file};
    use super::*;
    use crate::destination::{Destination, StoreKind};
    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
        PutMultipartOptions, PutResult, Result, UploadPart,
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
                look: Look::Shown,
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
