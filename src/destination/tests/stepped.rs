//! Stores that a test steps into: as the one within, but for what the test says.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;

/// The store within.
pub(crate) type Within = Arc<dyn ObjectStore>;

/// What becomes of requests. What is not said of goes to the store within.
#[async_trait]
pub(crate) trait StepIn: fmt::Debug + Send + Sync + 'static {
    async fn put(&self, within: &Within, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        within.put_opts(to, payload, options).await
    }

    async fn get(&self, within: &Within, from: &Path, options: GetOptions) -> Result<GetResult> {
        within.get_opts(from, options).await
    }

    fn delete(&self, within: &Within, of: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        within.delete_stream(of)
    }

    fn list(&self, within: &Within, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        within.list(prefix)
    }
}

/// A store and who steps into it.
#[derive(Debug)]
pub(crate) struct Stepped<S> {
    pub(crate) within: Within,
    pub(crate) step: S,
}

impl<S: StepIn> Stepped<S> {
    pub(crate) fn over(within: Within, step: S) -> Arc<Self> {
        Arc::new(Self { within, step })
    }
}

impl<S: StepIn> fmt::Display for Stepped<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stepped({})", self.within)
    }
}

#[async_trait]
impl<S: StepIn> ObjectStore for Stepped<S> {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.step.put(&self.within, to, payload, options).await
    }
    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.within.put_multipart_opts(to, options).await
    }
    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.step.get(&self.within, from, options).await
    }
    fn delete_stream(&self, of: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.step.delete(&self.within, of)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.step.list(&self.within, prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.within.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.within.copy_opts(from, to, options).await
    }
}
