//! A store that loses answers, or never lets anything be replaced.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What goes wrong. Shared with the uploads that the store has begun.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// So many writes from now on happen, and are reported as timed out.
    pub(crate) lost_answers: AtomicUsize,
    /// So many reads from now on fail.
    pub(crate) lost_reads: AtomicUsize,
    /// So many pieces from now on are not taken.
    pub(crate) refused_pieces: AtomicUsize,
    /// Nothing that is there is replaced: 403, as a bucket with retention answers.
    pub(crate) write_once: AtomicBool,
    /// Nothing that is there is replaced: 409, as an Azure container with a policy answers.
    pub(crate) protects: AtomicBool,
    /// Lands right before the next put over a version that was seen.
    pub(crate) overtaking: Mutex<Option<(PutPayload, Attributes)>>,
    /// Uploads in pieces that were aborted.
    pub(crate) aborted: AtomicUsize,
    /// Writes that the store itself has seen.
    pub(crate) writes: AtomicUsize,
}

fn take(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Faults {
    fn answer<T>(&self, answer: Result<T>) -> Result<T> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        if answer.is_ok() && take(&self.lost_answers) {
            return Err(broken(std::io::ErrorKind::TimedOut));
        }
        answer
    }
}

fn broken(kind: std::io::ErrorKind) -> Error {
    Error::Generic { store: "faulty", source: Box::new(std::io::Error::from(kind)) }
}

#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    pub(crate) faults: Arc<Faults>,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, faults: Arc::default() }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let exists = self.inner.get_opts(location, GetOptions::new().with_head(true)).await.is_ok();
        if exists && opts.mode != PutMode::Create && self.faults.write_once.load(Ordering::SeqCst) {
            let path = location.to_string();
            return Err(Error::PermissionDenied { path, source: "retention".into() });
        }
        if exists && opts.mode != PutMode::Create && self.faults.protects.load(Ordering::SeqCst) {
            let source =
                "Server returned non-2xx status code: 409 Conflict: <Code>BlobImmutableDueToPolicy</Code>".into();
            return Err(Error::AlreadyExists { path: location.to_string(), source });
        }
        if matches!(opts.mode, PutMode::Update(_)) {
            let overtaking = self.faults.overtaking.lock().expect("no panic inside").take();
            if let Some((payload, attributes)) = overtaking {
                self.inner.put_opts(location, payload, PutOptions { attributes, ..PutOptions::default() }).await?;
            }
        }
        self.faults.answer(self.inner.put_opts(location, payload, opts).await)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(FaultyUpload { inner, faults: Arc::clone(&self.faults) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if take(&self.faults.lost_reads) {
            return Err(broken(std::io::ErrorKind::ConnectionReset));
        }
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
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Arc<Faults>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        if take(&self.faults.refused_pieces) {
            return Box::pin(std::future::ready(Err(broken(std::io::ErrorKind::ConnectionReset))));
        }
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.inner.complete().await;
        self.faults.answer(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.faults.aborted.fetch_add(1, Ordering::SeqCst);
        self.inner.abort().await
    }
}
