//! HDFS as an object store, spoken natively: no Java, no WebHDFS, no mount.
//!
//! The client is `hdfs-native`. What makes a store of it is our own: the client's own object store writes its half-written files
//! under names that its listings show, and lists in no order.
//!
//! # Invariants
//! - **H-1** When a put (or the completion of an upload in pieces) returns success, every datanode of its blocks has synced them
//!   to disk (not where files are erasure-coded: HDFS cannot), and the namenode has logged the name.
//! - **H-2** A file under its final name is whole. Until then its bytes lie in the folder [`STAGING`] of the first folder below
//!   the destination's, and get their name by a rename, which the namenode does at once or not at all.
//! - **H-3** [`PutMode::Create`] never replaces a file, whoever else writes there: the namenode refuses such a rename.
//! - **H-4** Listings are in the order of keys, byte by byte, and show no file that is on its way.
//!
//! A staged file takes group, ACL, storage and erasure coding policy of that first folder. Attributes are accepted and not kept:
//! the receipts hold what they would say. Copy and rename are not offered.
//!
//! Every question to the namenode is bounded (see [`namenode`]), and so is every step with datanodes ([`STEP_TIMEOUT`]): the client
//! itself bounds neither.

mod fault;
mod namenode;
mod open;
mod read;
mod stage;
mod upload;
mod walk;

pub(super) use fault::told;
pub(super) use open::store;

use super::local::STAGE_PREFIX;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use hdfs_native::HdfsError;
use hdfs_native::client::FileStatus;
use namenode::{Namenode, Namenodes};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use stage::Stage;
use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use upload::HdfsUpload;
use walk::Walk;

/// Where files lie that are on their way: a folder of the first folder below the destination's.
pub(super) const STAGING: &str = ".siltstone-staging";

/// Most time for one step with datanodes, such as handing them a mebibyte. The client leaves out a datanode that has not confirmed anything
/// for 60 s; it is given the time to go on with the others.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// Most deletions that are asked at once.
const DELETES_MAX: usize = 10;

/// What the client's own tasks run on. A runtime of its own that outlives all others: the client keeps connections to datanodes for
/// the whole process, and one that belongs to a runtime which has ended is broken.
static RUNTIME: LazyLock<io::Result<Runtime>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).thread_name("hdfs").enable_all().build());

/// See the module. Paths are those of the whole file system, without the leading slash.
pub(super) struct HdfsStore {
    inner: Arc<Inner>,
}

/// What stages and uploads share with the store.
struct Inner {
    namenodes: Arc<Namenodes>,
    /// The destination's folder, without slashes at its ends.
    root: String,
    /// What goes on by itself: uploads that were given up, and the removal of their files.
    at_work: watch::Sender<()>,
}

impl Inner {
    fn namenode(&self) -> Namenode {
        self.namenodes.now()
    }
}

impl HdfsStore {
    fn new(namenodes: Arc<Namenodes>, root: &str) -> Self {
        Self { inner: Arc::new(Inner { namenodes, root: root.to_string(), at_work: watch::Sender::default() }) }
    }

    /// See [`super::Destination::at_rest`].
    pub(super) async fn at_rest(&self) {
        self.inner.at_work.closed().await;
    }

    /// See [`super::Destination::sync`]. A name may be seen a moment before the namenode has logged it: a change of our own, of a time to
    /// what it is, is logged behind it.
    pub(super) async fn sync(&self, location: &Path) -> Result<()> {
        /// Java's -1: the time of the last access stays.
        const AS_IT_IS: u64 = u64::MAX;
        let path = absolute(location);
        let synced = async {
            let namenode = self.inner.namenode();
            let status = namenode.answer(namenode.client.get_file_info(&path)).await?;
            namenode.answer(namenode.client.set_times(&path, status.modification_time, AS_IT_IS)).await
        };
        match synced.await {
            // Somebody else's, which we may read alone.
            Err(HdfsError::RPCError(class, _)) if class.ends_with(".AccessControlException") => Ok(()),
            synced => synced.map_err(|error| stored(error, location)),
        }
    }

    /// See [`super::Destination::sweep_stages`]. Looks into the folders for files on their way alone.
    pub(super) async fn sweep_stages(&self, older_than: Duration, now_ms: i64) -> io::Result<u64> {
        let before_ms = now_ms.saturating_sub(i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX));
        let root = format!("/{}", self.inner.root);
        let below = walk::entries(&self.inner.namenode(), &root).await.map_err(io::Error::other)?;
        let folders = below.iter().filter(|entry| entry.isdir).map(|entry| format!("{}/{STAGING}", entry.path));
        let mut removed = 0;
        for folder in folders.chain([format!("{root}/{STAGING}")]) {
            // A folder of somebody else's, which we may not enter, keeps no other one from being swept.
            let entries = match walk::entries(&self.inner.namenode(), &folder).await {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::warn!(folder, %error, "could not look for half-written files");
                    continue;
                }
            };
            for entry in entries {
                let is_old = i64::try_from(entry.modification_time).is_ok_and(|ms| ms < before_ms);
                if entry.isdir || !is_old {
                    continue;
                }
                let namenode = self.inner.namenode();
                match namenode.answer(namenode.client.delete(&entry.path, false)).await {
                    Ok(was_there) => removed += u64::from(was_there),
                    Err(error) => tracing::warn!(path = entry.path, %error, "could not remove a half-written file"),
                }
            }
        }
        Ok(removed)
    }

    fn target(&self, location: &Path) -> Result<String> {
        let wrong = |what: &str| Error::Generic {
            store: STORE,
            source: Box::new(HdfsError::InvalidPath(format!("{location}: {what}"))),
        };
        if location.parts().any(|part| part.as_ref().starts_with(STAGE_PREFIX)) {
            return Err(wrong("names that begin with .siltstone- are for files on their way"));
        }
        if location.as_ref().contains(':') {
            return Err(wrong(NO_COLON));
        }
        Ok(absolute(location))
    }
}

const STORE: &str = "hdfs";

/// Why keys with one are refused.
pub(super) const NO_COLON: &str = "HDFS takes no colon in names";

impl fmt::Display for HdfsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HdfsStore(/{})", self.inner.root)
    }
}

impl fmt::Debug for HdfsStore {
    /// Without the client: its own `Debug` shows the whole configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for HdfsStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let overwrite = match opts.mode {
            PutMode::Overwrite => true,
            PutMode::Create => false,
            PutMode::Update(_) => {
                let operation = "put with mode Update".to_string();
                return Err(Error::NotImplemented { operation, implementer: self.to_string() });
            }
        };
        let target = self.target(location)?;
        // Before all of it is written for nothing. The rename decides.
        if !overwrite {
            let namenode = self.inner.namenode();
            match namenode.answer(namenode.client.get_file_info(&target)).await {
                // Nobody can read it, and it will not give way.
                Ok(there) if there.isdir => return Err(unwritten(HdfsError::IsADirectoryError(target))),
                Ok(_) => return Err(exists(HdfsError::AlreadyExists(target), location)),
                Err(_) => {}
            }
        }
        let stage = Stage::open(&self.inner, location).await?;
        let mut upload = HdfsUpload::begin(stage, target, overwrite)?;
        upload.put_part(payload).await?;
        upload.complete().await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.target(location)?;
        let stage = Stage::open(&self.inner, location).await?;
        Ok(Box::new(HdfsUpload::begin(stage, target, true)?))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        read::get(&self.inner.namenode(), location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = Arc::clone(&self.inner);
        let delete = move |location: Result<Path>| {
            let inner = Arc::clone(&inner);
            async move {
                let location = location?;
                let path = absolute(&location);
                let namenode = inner.namenode();
                match namenode.answer(namenode.client.delete(&path, false)).await {
                    Ok(true) => Ok(location),
                    Ok(false) => Err(stored(HdfsError::FileNotFound(path), &location)),
                    Err(error) => Err(stored(error, &location)),
                }
            }
        };
        locations.map(delete).buffered(DELETES_MAX).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(Walk::new(&self.inner.namenodes, prefix, None))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(Walk::new(&self.inner.namenodes, prefix, Some(offset)))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let folder = prefix.map_or_else(|| "/".to_string(), absolute);
        let entries = walk::entries(&self.inner.namenode(), &folder).await.map_err(|error| {
            let at = prefix.cloned().unwrap_or_default();
            stored(error, &at)
        })?;
        let (mut common_prefixes, mut objects) = (Vec::new(), Vec::new());
        for entry in walk::shown(entries) {
            let (is_folder, meta) = (entry.isdir, meta(&entry)?);
            if is_folder { common_prefixes.push(meta.location) } else { objects.push(meta) }
        }
        Ok(ListResult { common_prefixes, objects })
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".to_string(), implementer: self.to_string() })
    }
}

fn listed(walk: Walk) -> BoxStream<'static, Result<ObjectMeta>> {
    let next = |mut walk: Walk| async move { walk.next().await.map(|found| (found, walk)) };
    stream::unfold(walk, next).fuse().boxed()
}

/// As the client names it.
fn absolute(location: &Path) -> String {
    format!("/{location}")
}

fn meta(status: &FileStatus) -> Result<ObjectMeta> {
    let location = Path::parse(&status.path).map_err(|error| Error::InvalidPath { source: error })?;
    let modified_ms = i64::try_from(status.modification_time).unwrap_or(0);
    Ok(ObjectMeta {
        location,
        last_modified: chrono::DateTime::from_timestamp_millis(modified_ms).unwrap_or_default(),
        size: status.length as u64,
        e_tag: Some(format!("{:x}-{:x}", status.modification_time, status.length)),
        version: None,
    })
}

/// At most `limit`.
async fn within<T>(limit: Duration, work: impl Future<Output = hdfs_native::Result<T>>) -> hdfs_native::Result<T> {
    let late = || format!("no answer within {} s", limit.as_secs_f64());
    let outcome = tokio::time::timeout(limit, work).await;
    outcome.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, late()).into()))
}

/// What was said of something that is read, listed or deleted.
fn stored(error: HdfsError, location: &Path) -> Error {
    match &error {
        HdfsError::FileNotFound(_) => Error::NotFound { path: location.to_string(), source: Box::new(error) },
        HdfsError::RPCError(class, _) if class == "java.io.FileNotFoundException" => {
            Error::NotFound { path: location.to_string(), source: Box::new(error) }
        }
        _ => Error::Generic { store: STORE, source: Box::new(error) },
    }
}

/// What was said of something that is written. Whatever is "not found" or "exists already" then is not what the caller asked for.
fn unwritten(error: HdfsError) -> Error {
    Error::Generic { store: STORE, source: Box::new(error) }
}

fn exists(error: HdfsError, location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: Box::new(error) }
}
