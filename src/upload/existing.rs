//! What is in the bucket under a file's key.

use super::read::hash_stream;
use super::{Counting, Look, Target, UploadError, hex, metadata_name};
use crate::destination::Destination;
use crate::effect::files;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{Attribute, GetOptions, GetResultPayload, ObjectStoreExt, UpdateVersion};
use std::fs::File;
use std::path::Path as FilePath;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

/// An object under the key.
pub(super) struct Existing {
    pub(super) shown: Shown,
    /// Equal size and SHA-256.
    pub(super) same: bool,
    /// What it can be replaced by, where the store compares.
    pub(super) version: Option<UpdateVersion>,
    /// Its records were counted, which says nothing of what is in them.
    pub(super) counted: bool,
    /// It was tried to replace it, and nobody ever can.
    pub(super) stays: bool,
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
    Ok(head(destination, location).await?.map(|found| found.shown))
}

/// What a HEAD brings.
struct Head {
    shown: Shown,
    version: Option<UpdateVersion>,
}

async fn head(destination: &Destination, location: &Path) -> Result<Option<Head>, object_store::Error> {
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
    let shown = Shown { bytes: found.meta.size, sha256: stored("sha256"), records };
    Ok(Some(Head { shown, version: destination.version(&found.meta) }))
}

pub(super) async fn shown(target: &Target<'_>) -> Result<Option<Shown>, UploadError> {
    look(target.destination, &target.location).await.map_err(|error| target.store_error(&error))
}

/// Looks at the object, and reads it where only its bytes can tell whether it is the same or how many records it holds.
pub(super) async fn existing(target: &Target<'_>) -> Result<Option<Existing>, UploadError> {
    let found = head(target.destination, &target.location).await.map_err(|error| target.store_error(&error))?;
    let Some(Head { mut shown, version }) = found else { return Ok(None) };
    let by_bytes = target.file.look == Look::Bytes;
    if by_bytes {
        let found = borne_out(target.destination, &target.location, shown).await;
        match found.map_err(|error| target.store_error(&error))? {
            Some(found) => shown = found,
            None => return Ok(None),
        }
    }
    let same = shown.bytes == target.file.bytes
        && match &shown.sha256 {
            Some(sha256) => *sha256 == hex(&target.file.sha256),
            None => {
                let stored = stored_sha256(target.destination, &target.location).await;
                stored.map_err(|error| target.store_error(&error))? == Some(target.file.sha256)
            }
        };
    let told = shown.records.is_some();
    if !same && !told {
        // A folder of ours, with room for files.
        let folder = target.file.path.parent().unwrap_or(&target.file.path);
        let read = read(target.destination, &target.location, (&target.file.count, folder)).await;
        let (records, sha256) = read.map_err(|error| target.store_error(&error))?;
        (shown.records, shown.sha256) = (records, sha256.or(shown.sha256.filter(|_| by_bytes)));
    }
    let counted = !told && shown.records.is_some();
    Ok(Some(Existing { shown, same, version, counted, stays: false }))
}

/// What is shown, as far as the bytes bear it out: with another SHA-256 than that of the bytes it tells no records. `None`: the object is
/// gone.
pub(super) async fn borne_out(
    destination: &Destination,
    location: &Path,
    shown: Shown,
) -> Result<Option<Shown>, object_store::Error> {
    let Some(digest) = stored_sha256(destination, location).await? else { return Ok(None) };
    let sha256 = Some(hex(&digest));
    let records = shown.records.filter(|_| shown.sha256 == sha256);
    Ok(Some(Shown { sha256, records, ..shown }))
}

/// Records and SHA-256 of an object that is a plain file: local, or in HDFS.
pub(super) async fn read(
    destination: &Destination,
    location: &Path,
    count: Counting<'_>,
) -> Result<(Option<u64>, Option<String>), object_store::Error> {
    if !destination.is_files() {
        return Ok((None, None));
    }
    let records = counted(destination, location, count).await?;
    let sha256 = stored_sha256(destination, location).await?;
    Ok((records, sha256.map(|sha256| hex(&sha256))))
}

/// The records of an object that is a plain file; `None` where it is not there, or is not what its name says.
async fn counted(
    destination: &Destination,
    location: &Path,
    (count, folder): Counting<'_>,
) -> Result<Option<u64>, object_store::Error> {
    let found = match destination.store().get(location).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let file = match found.payload {
        GetResultPayload::File(file, _) => file,
        GetResultPayload::Stream(bytes) => fetched(bytes, folder).await?,
    };
    let count = count.clone();
    let counted = tokio::task::spawn_blocking(move || count(file)).await;
    match counted.map_err(|source| object_store::Error::JoinError { source })? {
        Ok(records) => Ok(Some(records)),
        Err(error) if is_of_the_system(&error) => {
            Err(object_store::Error::Generic { store: "upload", source: Box::new(error) })
        }
        Err(error) => {
            tracing::warn!(%location, %error, "an object is not what its name says");
            Ok(None)
        }
    }
}

/// A copy without a name in `folder`: counting may jump about in it.
async fn fetched(
    mut bytes: BoxStream<'static, Result<Bytes, object_store::Error>>,
    folder: &FilePath,
) -> Result<File, object_store::Error> {
    let broken = |error: std::io::Error| object_store::Error::Generic { store: "upload", source: Box::new(error) };
    let mut copy = tokio::fs::File::from_std(files::nameless(folder).map_err(broken)?);
    while let Some(bytes) = bytes.try_next().await? {
        copy.write_all(&bytes).await.map_err(broken)?;
    }
    copy.flush().await.map_err(broken)?;
    copy.rewind().await.map_err(broken)?;
    Ok(copy.into_std().await)
}

/// Whether the file could not be read, whatever is in it.
fn is_of_the_system(error: &std::io::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.raw_os_error().is_some()) {
            return true;
        }
        // What an `io::Error` wraps is not among its sources.
        cause = io.and_then(|io| io.get_ref()).map(|inner| inner as _).or_else(|| error.source());
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::StoreKind;
    use std::io::{Error, ErrorKind};

    /// Goal: a file that could not be read is read again; one that is no such file tells nothing.
    #[test]
    fn a_broken_disk_is_not_a_broken_file() {
        let broken = || Error::from_raw_os_error(5);
        assert!(is_of_the_system(&broken()));
        assert!(is_of_the_system(&Error::other(broken())));
        assert!(is_of_the_system(&Error::other(parquet::errors::ParquetError::External(Box::new(broken())))));
        assert!(!is_of_the_system(&Error::from(ErrorKind::UnexpectedEof)));
        assert!(!is_of_the_system(&Error::other(parquet::errors::ParquetError::EOF("cut off".to_string()))));
    }

    /// Goal: an object that has to be copied to be counted is copied beside the spool's files, where nobody else reads it and nothing stays.
    #[tokio::test]
    async fn a_copy_is_ours_alone_and_has_no_name() {
        use super::super::{How, PutRule, UploadFile, UploadSettings, put_file};
        use object_store::ObjectStoreExt;
        use object_store::memory::InMemory;
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::PermissionsExt;
        use std::sync::Arc;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.part");
        std::fs::write(&path, b"rows").expect("written");
        let store = Arc::new(InMemory::new());
        store.put(&Path::from("x"), "more of them".into()).await.expect("put");
        let beside = folder.path().to_path_buf();
        let count = move |mut file: File| {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut file, &mut text)?;
            let place = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            assert!(place.starts_with(&beside) && place.to_string_lossy().ends_with(" (deleted)"), "{place:?}");
            assert_eq!((file.metadata()?.permissions().mode() & 0o777, text.as_str()), (0o600, "more of them"));
            Ok(7)
        };
        let file = UploadFile {
            path,
            key: "x".to_string(),
            bytes: 4,
            sha256: [0; 32],
            records: 1,
            content_type: "text/plain".to_string(),
            content_encoding: None,
            metadata: Vec::new(),
            rule: PutRule::KeepUntold,
            count: Arc::new(count),
            check_existing: true,
            look: Look::Shown,
        };
        let destination = Destination::from_store("main", "memory:///", store, StoreKind::Hdfs);
        let kept = put_file(&destination, &file, UploadSettings::within(1 << 20, 1 << 20)).await.expect("kept");
        assert_eq!((kept.how, kept.records), (How::Kept, Some(7)));
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    /// Goal: an object whose bytes were changed behind its metadata is taken for what it shows, unless its bytes are to tell: then it gives way, or
    /// is kept as what it is.
    #[tokio::test]
    async fn bytes_tell_what_metadata_hide() {
        use super::super::{How, PutRule, UploadFile, UploadSettings, is_there, put_file};
        use object_store::memory::InMemory;
        use object_store::{ObjectStore, PutOptions};
        use std::sync::Arc;
        let folder = tempfile::tempdir().expect("a folder");
        let (content, damaged) = (b"rows".to_vec(), b"rowS".to_vec());
        let path = folder.path().join("x.part");
        std::fs::write(&path, &content).expect("written");
        let digest = |bytes: &[u8]| -> [u8; 32] { <sha2::Sha256 as sha2::Digest>::digest(bytes).into() };
        let sha256 = hex(&digest(&content));
        let file = |look, rule| UploadFile {
            path: path.clone(),
            key: "x".to_string(),
            bytes: 4,
            sha256: digest(&content),
            records: 1,
            content_type: "text/plain".to_string(),
            content_encoding: None,
            metadata: Vec::new(),
            rule,
            count: Arc::new(|_| Ok(1)),
            check_existing: true,
            look,
        };
        let store = Arc::new(InMemory::new());
        let destination = Destination::from_store("main", "memory:///", store.clone(), StoreKind::Memory);
        let settings = UploadSettings::within(1 << 20, 1 << 20);
        let location = Path::from("x");
        let put = async |look, rule| put_file(&destination, &file(look, rule), settings).await.expect("put");
        put(Look::Shown, PutRule::ReplaceUntold).await;
        let shown = store.get(&location).await.expect("there").attributes;
        let options = PutOptions { attributes: shown, ..PutOptions::default() };
        store.put_opts(&location, damaged.clone().into(), options).await.expect("damaged");
        let there = async |look| is_there(&destination, "x", 4, Some(&sha256), look).await.expect("an answer");
        assert!(there(Look::Shown).await && !there(Look::Bytes).await);
        assert_eq!(put(Look::Shown, PutRule::ReplaceUntold).await.how, How::AlreadyThere);
        let kept = put(Look::Bytes, PutRule::KeepUntold).await;
        assert_eq!((kept.how, kept.records, kept.sha256), (How::Kept, None, Some(hex(&digest(&damaged)))));
        assert_eq!(put(Look::Bytes, PutRule::ReplaceUntold).await.how, How::New);
        assert!(there(Look::Bytes).await);
        assert_eq!(put(Look::Bytes, PutRule::ReplaceUntold).await.how, How::AlreadyThere);
    }
}
