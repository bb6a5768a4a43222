//! A local folder as an object store whose answers survive a power cut.
//!
//! [`LocalFileSystem`] reads, lists and deletes; writing is our own, because its staged files have visible names and
//! nothing is synced.
//!
//! # Invariants
//! - **L-1** When a put (or the completion of an upload in pieces) returns success, the file and every folder entry on
//!   the way from the destination's folder to it have been synced.
//! - **L-2** A file under its final name is whole. Until then its bytes lie beside it under a hidden name
//!   (`.siltstone-…`, without the data's extension), which Hive, Spark and Trino do not read, a glob with the extension does not match and listings do not show.
//! - **L-3** [`PutMode::Create`] never replaces a file, whoever else writes there.
//!
//! Attributes are accepted and not kept: the receipts hold what they would say. Copy and rename are not offered.

use crate::effect::{Effect, files};
use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// How the names of staged files begin.
pub const STAGE_PREFIX: &str = ".siltstone-";

const STORE: &str = "local folder";

/// Most folders remembered as synced; beyond it all are forgotten, which costs some syncs.
const SYNCED_FOLDERS_MAX: usize = 10_000;

/// See the module. Paths are those of the whole file system, without the leading slash.
#[derive(Debug)]
pub struct LocalStore {
    files: LocalFileSystem,
    folders: Arc<Folders>,
}

impl LocalStore {
    /// A store for files below `root` (absolute). Creates nothing: the first put makes the folders it needs.
    pub fn new(root: PathBuf) -> Self {
        let folders = Folders { root, synced: Mutex::new(HashSet::new()) };
        Self { files: LocalFileSystem::new(), folders: Arc::new(folders) }
    }

    fn target(&self, location: &Path) -> Result<PathBuf> {
        let target = self.files.path_to_filesystem(location)?;
        if is_stage(location) {
            let what = format!("names that begin with {STAGE_PREFIX} are for files on their way");
            return Err(Error::Generic { store: STORE, source: what.into() });
        }
        Ok(target)
    }

    /// See [`super::Destination::sync`].
    pub(super) async fn sync(&self, location: &Path) -> Result<()> {
        let (target, folders) = (self.target(location)?, Arc::clone(&self.folders));
        let synced = blocking(move || Stage::sync_entry(&folders, &target)).await;
        synced.map_err(|error| stored(error, location))
    }

    /// See [`super::Destination::sweep_stages`].
    pub(super) async fn sweep_stages(&self, older_than: Duration, now_ms: i64) -> io::Result<u64> {
        let root = self.folders.root.clone();
        let before_ms = now_ms.saturating_sub(i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX));
        tokio::task::spawn_blocking(move || sweep(&root, before_ms)).await.map_err(io::Error::other)?
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalStore({})", self.folders.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => {
                let operation = "put with mode Update".to_string();
                return Err(Error::NotImplemented { operation, implementer: self.to_string() });
            }
        };
        let (target, folders) = (self.target(location)?, Arc::clone(&self.folders));
        blocking(move || {
            let stage = Stage::open(&folders, &target)?;
            let mut at = 0;
            for bytes in payload.iter() {
                files::write_at(Effect::StageWrite, &stage.file, bytes, at)?;
                at += bytes.len() as u64;
            }
            if create { stage.create(&folders, &target) } else { stage.replace(&folders, &target) }
        })
        .await
        .map_err(|error| stored(error, location))?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (target, folders) = (self.target(location)?, Arc::clone(&self.folders));
        let stage = {
            let (target, folders) = (target.clone(), Arc::clone(&folders));
            blocking(move || Stage::open(&folders, &target)).await.map_err(|error| stored(error, location))?
        };
        Ok(Box::new(LocalUpload { stage: Some(Arc::new(stage)), folders, target, location: location.clone(), at: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        without_stages(self.files.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        without_stages(self.files.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.files.list_with_delimiter(prefix).await?;
        listed.objects.retain(|object| !is_stage(&object.location));
        Ok(listed)
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".to_string(), implementer: self.to_string() })
    }
}

fn without_stages(listed: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let shown = |object: &Result<ObjectMeta>| !object.as_ref().is_ok_and(|object| is_stage(&object.location));
    listed.filter(move |object| std::future::ready(shown(object))).boxed()
}

fn is_stage(location: &Path) -> bool {
    location.filename().is_some_and(|name| name.starts_with(STAGE_PREFIX))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn stored(error: io::Error, location: &Path) -> Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: location.to_string(), source: Box::new(error) },
        io::ErrorKind::PermissionDenied => {
            Error::PermissionDenied { path: location.to_string(), source: Box::new(error) }
        }
        _ => Error::Generic { store: STORE, source: Box::new(error) },
    }
}

/// The folders of a destination, and which of them are known to be on disk.
#[derive(Debug)]
struct Folders {
    root: PathBuf,
    synced: Mutex<HashSet<PathBuf>>,
}

impl Folders {
    /// Makes `folder` with its parents and syncs their entries. Somebody else may have made them a moment ago without
    /// having synced them yet, so being there is not enough: each folder is synced once by this process as well.
    fn ensure(&self, folder: &FilePath) -> io::Result<()> {
        let lock = || self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().contains(folder) && folder.is_dir() {
            return Ok(());
        }
        let missing = folder.ancestors().take_while(|ancestor| !ancestor.exists()).count();
        files::make_folders(Effect::FolderMake, folder)?;
        // The entry of a folder is in its parent. Above the destination's folder only what was made now is synced:
        // we may not be allowed to read what was there before.
        let below_root = folder.ancestors().take_while(|ancestor| ancestor.starts_with(&self.root)).count();
        for parent in folder.ancestors().skip(1).take(missing.max(below_root.saturating_sub(1))) {
            sync_folder(parent)?;
        }
        let mut synced = lock();
        if synced.len() >= SYNCED_FOLDERS_MAX {
            synced.clear();
        }
        synced.insert(folder.to_path_buf());
        Ok(())
    }
}

fn sync_folder(folder: &FilePath) -> io::Result<()> {
    files::sync(Effect::FolderSync, &File::open(folder)?)
}

fn folder_of(target: &FilePath) -> io::Result<&FilePath> {
    target.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))
}

/// A file on its way. Dropped without [`Stage::replace`] or [`Stage::create`], it is removed.
#[derive(Debug)]
struct Stage {
    file: File,
    path: PathBuf,
}

impl Stage {
    fn open(folders: &Folders, target: &FilePath) -> io::Result<Self> {
        let folder = folder_of(target)?;
        folders.ensure(folder)?;
        let path = folder.join(stage_name());
        let file = files::make_new(Effect::StageMake, &path)?;
        Ok(Self { file, path })
    }

    fn replace(&self, folders: &Folders, target: &FilePath) -> io::Result<()> {
        files::sync(Effect::StageSync, &self.file)?;
        files::rename(Effect::StageRename, &self.path, target)?;
        Self::sync_entry(folders, target)
    }

    fn create(&self, folders: &Folders, target: &FilePath) -> io::Result<()> {
        files::sync(Effect::StageSync, &self.file)?;
        files::rename_new(Effect::StageLink, &self.path, target)?;
        Self::sync_entry(folders, target)
    }

    fn sync_entry(folders: &Folders, target: &FilePath) -> io::Result<()> {
        let folder = folder_of(target)?;
        folders.ensure(folder)?;
        sync_folder(folder)
    }
}

impl Drop for Stage {
    /// One unlink of a name that mostly is gone already (renamed): too short to be worth a thread of its own.
    fn drop(&mut self) {
        match files::remove(Effect::StageRemove, &self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(stage = %self.path.display(), %error, "staged file stays until the next sweep");
            }
            _ => {}
        }
    }
}

/// Short whatever the target's name, and different in every process on every machine that shares the folder.
pub(super) fn stage_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{STAGE_PREFIX}{:x}-{:016x}-{count:x}", std::process::id(), RandomState::new().build_hasher().finish())
}

/// An upload in pieces: one staged file.
#[derive(Debug)]
struct LocalUpload {
    stage: Option<Arc<Stage>>,
    folders: Arc<Folders>,
    target: PathBuf,
    location: Path,
    at: u64,
}

impl LocalUpload {
    fn take(&mut self) -> Result<Arc<Stage>> {
        let what = "the upload is over already";
        self.stage.take().ok_or_else(|| Error::Generic { store: STORE, source: what.into() })
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (stage, location) = (self.stage.clone(), self.location.clone());
        let mut at = self.at;
        self.at += data.content_length() as u64;
        Box::pin(async move {
            let Some(stage) = stage else {
                return Err(Error::Generic { store: STORE, source: "the upload is over already".into() });
            };
            let write = move || {
                for bytes in data.iter() {
                    files::write_at(Effect::StageWrite, &stage.file, bytes, at)?;
                    at += bytes.len() as u64;
                }
                Ok(())
            };
            blocking(write).await.map_err(|error| stored(error, &location))
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let stage = self.take()?;
        let (folders, target) = (Arc::clone(&self.folders), self.target.clone());
        let done = blocking(move || stage.replace(&folders, &target)).await;
        done.map_err(|error| stored(error, &self.location))?;
        Ok(PutResult { e_tag: None, version: None })
    }

    /// Aborting what is over already is no failure: an abort is made again where its answer was lost.
    async fn abort(&mut self) -> Result<()> {
        self.stage = None;
        Ok(())
    }
}

/// Removes staged files below `folder` that were last written before `before_ms`. Folders and files that vanish
/// meanwhile are none of our business.
fn sweep(folder: &FilePath, before_ms: i64) -> io::Result<u64> {
    let mut removed = 0;
    let mut pending = vec![folder.to_path_buf()];
    while let Some(folder) = pending.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(STAGE_PREFIX) && is_older(&entry, before_ms) {
                match files::remove(Effect::StageSweep, &entry.path()) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => {
                        outcome?;
                        removed += 1;
                    }
                }
            }
        }
    }
    Ok(removed)
}

fn is_older(entry: &fs::DirEntry, before_ms: i64) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    let since_1970 = modified.ok().and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
    since_1970.and_then(|since| i64::try_from(since.as_millis()).ok()).is_some_and(|ms| ms < before_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    fn store() -> (tempfile::TempDir, LocalStore, Path) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("archive");
        let prefix = Path::from_absolute_path(&root).expect("an absolute path");
        (folder, LocalStore::new(root), prefix)
    }

    fn names(folder: &FilePath) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        entries.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[tokio::test]
    async fn create_keeps_what_is_there_and_leaves_no_stage() {
        let (_folder, store, prefix) = store();
        let path = prefix.clone().join("a").join("b");
        store.put_opts(&path, "one".into(), PutMode::Create.into()).await.expect("first");
        let again = store.put_opts(&path, "two".into(), PutMode::Create.into()).await.expect_err("second");
        assert!(matches!(again, Error::AlreadyExists { .. }), "{again}");
        let got = store.get(&path).await.expect("get").bytes().await.expect("bytes");
        assert_eq!(&got[..], b"one");
        store.put(&path, "three".into()).await.expect("overwrite");
        assert_eq!(names(&store.folders.root.join("a")), ["b"]);
    }

    #[tokio::test]
    async fn pieces_appear_whole_or_not_at_all() {
        let (_folder, store, prefix) = store();
        let path = prefix.clone().join("x.parquet");
        let mut upload = store.put_multipart(&path).await.expect("starts");
        let (first, second) = (upload.put_part("abc".into()), upload.put_part("de".into()));
        second.await.expect("second piece");
        first.await.expect("first piece");
        let staged = names(&store.folders.root);
        assert!(staged.len() == 1 && staged[0].starts_with(STAGE_PREFIX), "{staged:?}");
        assert_eq!(store.list(Some(&prefix)).count().await, 0);
        assert_eq!(store.list_with_delimiter(Some(&prefix)).await.expect("list").objects.len(), 0);
        upload.complete().await.expect("completes");
        assert_eq!(fs::read(store.folders.root.join("x.parquet")).expect("the file"), b"abcde");
        let mut upload = store.put_multipart(&path).await.expect("starts");
        upload.put_part("zzz".into()).await.expect("piece");
        upload.abort().await.expect("aborts");
        drop(store.put_multipart(&path).await.expect("starts"));
        assert_eq!(names(&store.folders.root), ["x.parquet"]);
    }

    #[tokio::test]
    async fn a_name_of_255_bytes_can_be_staged() {
        let (_folder, store, prefix) = store();
        let path = prefix.clone().join("n".repeat(255));
        store.put(&path, "x".into()).await.expect("put");
    }

    #[tokio::test]
    async fn a_folder_that_somebody_removed_is_made_again() {
        let (_folder, store, prefix) = store();
        let path = prefix.clone().join("a").join("b");
        store.put(&path, "x".into()).await.expect("put");
        fs::remove_dir_all(store.folders.root.join("a")).expect("remove");
        store.put(&path, "x".into()).await.expect("put again");
    }

    #[tokio::test]
    async fn sweeping_removes_old_stages_only() {
        let (_folder, store, prefix) = store();
        store.put(&prefix.clone().join("a").join("b"), "x".into()).await.expect("put");
        fs::write(store.folders.root.join("a").join(stage_name()), "left over").expect("a stage");
        let hour = Duration::from_secs(3600);
        assert_eq!(store.sweep_stages(hour, 0).await.expect("sweep"), 0, "the stage is younger");
        let far = 4_102_444_800_000; // The year 2100.
        assert_eq!(store.sweep_stages(hour, far).await.expect("sweep"), 1);
        assert_eq!(names(&store.folders.root.join("a")), ["b"]);
    }
}
