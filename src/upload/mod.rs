//! Puts one sealed file under its final name, and says only what it has seen confirmed.
//!
//! # Invariants
//! - **U-1** Nothing becomes visible under the key but the sealed bytes: size and SHA-256 of the file are checked while
//!   it is read, before the single PUT is sent or the pieces are put together.
//! - **U-2** [`Placed`] is returned only after a HEAD has shown an object of the right size (and SHA-256, where the
//!   store keeps metadata). What the store itself verified is told at [`crate::destination::StoreKind`].
//! - **U-3** An object is never replaced by one with fewer records. With one PUT (files up to the piece size, on stores that
//!   create only if absent) the store guarantees it: a file is created, and what is there instead is replaced only as it was
//!   when it was looked at (`file://` cannot compare; there the last look counts). Pieces are put together right after a look,
//!   and a moment stays uncovered: no store's client offers more for pieces.
//! - **U-4** Memory: at most [`UploadSettings::memory`], the piece being read included; on HDFS twice that ([`room_for_pieces`]). An
//!   upload that is dropped keeps its pieces on their way for as long as they are waited for (P-1).
//!
//! Retries beyond the client's own few are the caller's: [`UploadError::verdict`] tells. Calling again with the same
//! file is always safe. The HEAD of a missing object needs the right to list the bucket on S3 (else it is 403).

mod existing;
mod pieces;
mod read;
mod send;

use crate::destination::fault::{Fault, FaultKind, Verdict};
use crate::destination::{Destination, DestinationError, StoreKind};
use crate::planted::{Bug, has};
pub use existing::Shown;
use existing::{Existing, existing};
use object_store::path::Path;
use object_store::{Attribute, Attributes, PutMode};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Counts the records of an object that lies in a local file.
pub type CountRecords = Arc<dyn Fn(File) -> io::Result<u64> + Send + Sync>;

/// How records are counted, and the local folder in which an object that lies in another machine's files is copied for it. The copy has no
/// name, and is gone with whoever made it.
pub type Counting<'a> = (&'a CountRecords, &'a std::path::Path);

/// A sealed local file and where it goes.
#[derive(Clone)]
pub struct UploadFile {
    /// The file.
    pub path: PathBuf,
    /// Key under the destination's prefix, percent-encoded where it needs it.
    pub key: String,
    /// Size when it was sealed.
    pub bytes: u64,
    /// SHA-256 when it was sealed.
    pub sha256: [u8; 32],
    /// Records inside.
    pub records: u64,
    /// `Content-Type`.
    pub content_type: String,
    /// `Content-Encoding`, where the object is to carry one.
    pub content_encoding: Option<String>,
    /// More metadata by name, ASCII: topic, partition, first, end, fingerprint. Stored as `siltstone-…` beside
    /// `siltstone-sha256` and `siltstone-records`, which are always there.
    pub metadata: Vec<(String, String)>,
    /// What may happen to another object that is already there and does not tell how many records it holds.
    pub rule: PutRule,
    /// Counts the records of another object, where the store keeps no metadata and has it as a local file.
    pub count: CountRecords,
    /// Look first whether the object is there already: for redone batches.
    pub check_existing: bool,
    /// What tells whether an object that is there is the file.
    pub look: Look,
}

/// What tells one object from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// Its size, and the SHA-256 that its writer has put beside it. It is read only where the store keeps no such metadata.
    #[default]
    Shown,
    /// Its bytes, which are read: what is shown was true once. Metadata that they do not bear out tell nothing.
    Bytes,
}

/// What may happen to another object that is already under the key and does not tell how many records it holds. One that does
/// stays where it holds at least as many as the file, and is replaced where it holds fewer: Kafka may have deleted records
/// between two tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutRule {
    /// It stays: it may be another try's.
    KeepUntold,
    /// It is replaced: nobody else can have put it as it is, so it is damaged or a stranger's. So is one whose rows had to be
    /// counted and are no more than the file's.
    ReplaceUntold,
}

/// How files are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadSettings {
    /// Files up to this size go in one PUT, larger ones in pieces of it; at least 5 MiB for S3 and GCS. Grows where a
    /// file would need more than 10,000 pieces.
    pub part_size: u64,
    /// Most pieces of one file in memory at the same time, the one being read included. At least 1.
    pub pieces: usize,
}

/// What pieces may take of `share` bytes that uploads to a store of that kind have. HDFS's client holds what it was given once more, in packets,
/// until every datanode has it; when a piece counts as sent there, none of it is left.
pub fn room_for_pieces(kind: StoreKind, share: u64) -> u64 {
    match kind {
        StoreKind::Hdfs => share / 2,
        StoreKind::S3 | StoreKind::Gcs | StoreKind::Azure | StoreKind::File | StoreKind::Memory => share,
    }
}

/// Pieces of one object in memory where there is room: while one is read the other is on its way, then both are.
const PIECES_HELD_MAX: usize = 2;

/// Most pieces of one object: the limit of S3 and GCS.
const PIECES_MAX: u64 = 10_000;

impl UploadSettings {
    /// Pieces of `part_size`, as many at a time as `share` bytes hold: two, or one.
    pub fn within(part_size: u64, share: u64) -> Self {
        let held = usize::try_from(share / part_size.max(1)).unwrap_or(usize::MAX);
        Self { part_size, pieces: held.clamp(1, PIECES_HELD_MAX) }
    }

    /// Bytes in memory while a file of `bytes` bytes goes up.
    pub fn memory(&self, bytes: u64) -> u64 {
        if bytes <= self.part_size { bytes } else { bytes.min(self.pieces as u64 * self.piece(bytes)) }
    }

    /// Bytes of one piece of a file of `bytes` bytes.
    fn piece(&self, bytes: u64) -> u64 {
        self.part_size.max(bytes.div_ceil(PIECES_MAX))
    }
}

/// An object that is in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// Records inside; `None` in a kept object that does not tell and cannot be counted.
    pub records: Option<u64>,
    /// Its SHA-256 in hex; `None` in a kept object without our metadata.
    pub sha256: Option<String>,
    /// How it came there.
    pub how: How,
}

/// How an object came to be in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Put now.
    New,
    /// It was there with equal size and SHA-256 (perhaps by a request of ours whose answer was lost).
    AlreadyThere,
    /// Another one was there and was kept (see [`PutRule`]; or it cannot be replaced, as in a write-once bucket).
    Kept,
}

/// Why a file is not known to be in the bucket.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The store did not take it, or its answer was lost. [`Fault::kind`] says more.
    #[error("put {key} at {destination}: {fault}")]
    Store {
        /// Key.
        key: String,
        /// Destination id.
        destination: String,
        /// What came back.
        fault: Fault,
    },
    /// The put succeeded, but what the bucket shows afterwards is something else: somebody else wrote it, or the store
    /// is broken.
    #[error("{key} at {destination} should have {bytes} bytes after the put, but {found}")]
    Mismatch {
        /// Key.
        key: String,
        /// Destination id.
        destination: String,
        /// Bytes of the file.
        bytes: u64,
        /// What the bucket shows.
        found: String,
    },
    /// The local file is not the one that was sealed. Nothing was made visible.
    #[error("spool file {} was sealed with {sealed_bytes} bytes and is not the same any more: {found}", .path.display())]
    SpoolChanged {
        /// The file.
        path: PathBuf,
        /// Bytes when sealed.
        sealed_bytes: u64,
        /// What it is now.
        found: String,
    },
    /// The local file cannot be read. Nothing was made visible.
    #[error("read spool file {}", .path.display())]
    SpoolUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key is not one: a mistake in the program.
    #[error(transparent)]
    Key(#[from] DestinationError),
}

impl UploadError {
    /// What the caller does next.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Store { fault, .. } => fault.verdict(),
            Self::Mismatch { .. } => Verdict::Retry,
            Self::SpoolChanged { .. } | Self::SpoolUnreadable { .. } | Self::Key(_) => Verdict::Stop,
        }
    }
}

/// Where a file goes, resolved once.
struct Target<'a> {
    destination: &'a Destination,
    file: &'a UploadFile,
    location: Path,
}

impl Target<'_> {
    fn store_error(&self, error: &object_store::Error) -> UploadError {
        self.fault(Fault::of(error))
    }

    fn fault(&self, fault: Fault) -> UploadError {
        UploadError::Store { key: self.file.key.clone(), destination: self.destination.id().to_string(), fault }
    }

    /// The object is the file.
    fn placed(&self, how: How) -> Placed {
        let (records, sha256) = (Some(self.file.records), Some(hex(&self.file.sha256)));
        Placed { key: self.file.key.clone(), bytes: self.file.bytes, records, sha256, how }
    }

    /// The object is another one, and stays.
    fn kept(&self, shown: &Shown) -> Placed {
        let Shown { bytes, sha256, records } = shown;
        let (sha256, key) = (sha256.clone(), self.file.key.clone());
        Placed { key, bytes: *bytes, records: *records, sha256, how: How::Kept }
    }

    fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, self.file.content_type.clone().into());
        if let Some(encoding) = &self.file.content_encoding {
            attributes.insert(Attribute::ContentEncoding, encoding.clone().into());
        }
        let kind = self.destination.kind();
        let mut add = |name: &str, value: String| {
            attributes.insert(Attribute::Metadata(metadata_name(kind, name).into()), value.into());
        };
        for (name, value) in &self.file.metadata {
            add(name, value.clone());
        }
        add("records", self.file.records.to_string());
        add("sha256", hex(&self.file.sha256));
        attributes
    }
}

/// How our metadata `name` is called on a store: Azure allows only what could be an identifier in C#.
pub fn metadata_name(kind: StoreKind, name: &str) -> String {
    match kind {
        StoreKind::Azure => format!("siltstone_{}", name.replace('-', "_")),
        StoreKind::S3 | StoreKind::Gcs | StoreKind::Hdfs | StoreKind::File | StoreKind::Memory => {
            format!("siltstone-{name}")
        }
    }
}

/// Whether an object of `bytes` bytes and, where it is known, that SHA-256 (hex) lies under `key`.
///
/// # Errors
/// [`UploadError::Store`], [`UploadError::Key`].
pub async fn is_there(
    destination: &Destination,
    key: &str,
    bytes: u64,
    sha256: Option<&str>,
    look: Look,
) -> Result<bool, UploadError> {
    let Some(found) = shown(destination, key, None, Look::Shown).await? else { return Ok(false) };
    let Some(wanted) = sha256.filter(|_| found.bytes == bytes) else { return Ok(found.bytes == bytes) };
    if let Some(stored) = found.sha256.filter(|_| look == Look::Shown) {
        return Ok(stored == wanted);
    }
    let digest = existing::stored_sha256(destination, &destination.path(key)?).await;
    let digest = digest.map_err(|error| store_error(destination, key, &error))?;
    Ok(digest.is_some_and(|digest| hex(&digest) == wanted))
}

/// What lies under `key`, if anything. With `count` it is read where it is a plain file, which tells nothing by itself.
///
/// # Errors
/// [`UploadError::Store`], [`UploadError::Key`].
pub async fn shown(
    destination: &Destination,
    key: &str,
    count: Option<Counting<'_>>,
    look: Look,
) -> Result<Option<Shown>, UploadError> {
    let location = destination.path(key)?;
    let read = async {
        let Some(mut shown) = existing::look(destination, &location).await? else { return Ok(None) };
        destination.sync(&location).await?;
        if look == Look::Bytes {
            match existing::borne_out(destination, &location, shown).await? {
                Some(found) => shown = found,
                None => return Ok(None),
            }
        }
        if let Some(count) = count.filter(|_| shown.records.is_none()) {
            let (records, sha256) = existing::read(destination, &location, count).await?;
            (shown.records, shown.sha256) = (records, sha256.or(shown.sha256.filter(|_| look == Look::Bytes)));
        }
        Ok(Some(shown))
    };
    read.await.map_err(|error: object_store::Error| store_error(destination, key, &error))
}

fn store_error(destination: &Destination, key: &str, error: &object_store::Error) -> UploadError {
    UploadError::Store { key: key.to_string(), destination: destination.id().to_string(), fault: Fault::of(error) }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts `file` at `destination` and confirms it. Dropping the future gives up: pieces already sent are aborted, and an upload whose
/// completion is on its way may still land.
///
/// # Errors
/// - [`UploadError::Store`], [`UploadError::Mismatch`]: by [`UploadError::verdict`], try again or report.
/// - [`UploadError::SpoolChanged`], [`UploadError::SpoolUnreadable`]: throw the batch away and read it again from Kafka.
pub async fn put_file(
    destination: &Destination,
    file: &UploadFile,
    settings: UploadSettings,
) -> Result<Placed, UploadError> {
    let target = Target { destination, file, location: destination.path(&file.key)? };
    let one_put = file.bytes <= settings.part_size;
    // Where the store cannot create only if absent, only a look keeps an object from being replaced.
    let looks_first = file.check_existing || (one_put && !destination.conditional_put());
    let mut seen = if looks_first { existing(&target).await? } else { None };
    loop {
        if let Some(placed) = seen.as_ref().and_then(|found| settled(&target, found)) {
            return found_there(&target, placed).await;
        }
        let sent = if one_put {
            send::whole(&target, put_mode(&target, seen.as_ref())).await
        } else {
            send::in_pieces(&target, settings).await
        };
        let error = match sent {
            Ok(Some(placed)) => return found_there(&target, placed).await,
            Ok(None) => return confirm(&target).await,
            Err(_) if has(Bug::UploadUnconfirmed) => return Ok(target.placed(How::New)),
            Err(error) => error,
        };
        // A put that finds another object, one over that, and one without a condition where the store knows none.
        seen = Some(after_failure(&target, error, seen).await?);
    }
}

/// An object that was found and not put.
async fn found_there(target: &Target<'_>, placed: Placed) -> Result<Placed, UploadError> {
    let synced = target.destination.sync(&target.location).await;
    synced.map(|()| placed).map_err(|error| target.store_error(&error))
}

fn put_mode(target: &Target<'_>, seen: Option<&Existing>) -> PutMode {
    match seen {
        _ if has(Bug::RedoReplaces) => PutMode::Overwrite,
        None if target.destination.conditional_put() => PutMode::Create,
        None => PutMode::Overwrite,
        Some(found) => found.version.clone().map_or(PutMode::Overwrite, PutMode::Update),
    }
}

/// What an object that is there already means, where it ends the matter.
fn settled(target: &Target<'_>, found: &Existing) -> Option<Placed> {
    if found.same {
        return Some(target.placed(How::AlreadyThere));
    }
    let stays = match (found.shown.records, target.file.rule) {
        _ if found.stays => true,
        // Its bytes are not those that its receipt names: what can be counted in them proves nothing.
        (Some(_), PutRule::ReplaceUntold) if found.counted && target.file.look == Look::Bytes => false,
        // As many rows, and yet not what the receipt says: damaged.
        (Some(records), PutRule::ReplaceUntold) if found.counted => records > target.file.records,
        (Some(records), _) => records >= target.file.records,
        (None, PutRule::KeepUntold) => true,
        (None, PutRule::ReplaceUntold) => false,
    };
    let stays = (stays || has(Bug::PoorerObjectKept)) && !has(Bug::RedoReplaces);
    stays.then(|| target.kept(&found.shown))
}

/// The put was answered with success: does the bucket show it?
async fn confirm(target: &Target<'_>) -> Result<Placed, UploadError> {
    let mismatch = |found: String| UploadError::Mismatch {
        key: target.file.key.clone(),
        destination: target.destination.id().to_string(),
        bytes: target.file.bytes,
        found,
    };
    let shown = existing::shown(target).await?.ok_or_else(|| mismatch("there is no such object".to_string()))?;
    if shown.bytes != target.file.bytes {
        return Err(mismatch(format!("it has {}", shown.bytes)));
    }
    if shown.sha256.is_some_and(|sha256| sha256 != hex(&target.file.sha256)) {
        return Err(mismatch("another SHA-256: somebody else has written it meanwhile".to_string()));
    }
    Ok(target.placed(How::New))
}

/// A put that failed may have happened, or may have been refused because an object is there already: perhaps the very same (a
/// write-once bucket; a create whose first answer was lost). The bucket tells. Gives what settles the matter or what the file
/// may be put over.
async fn after_failure(
    target: &Target<'_>,
    error: UploadError,
    seen: Option<Existing>,
) -> Result<Existing, UploadError> {
    let UploadError::Store { fault, .. } = &error else { return Err(error) };
    let first = seen.is_none();
    let (exists, denied) = (fault.kind == FaultKind::Exists, fault.kind == FaultKind::Denied);
    if fault.kind == FaultKind::Unsupported
        && let Some(found) = seen.filter(|found| found.version.is_some())
    {
        return Ok(Existing { version: None, ..found });
    }
    let asks_back = match fault.kind {
        FaultKind::Exists | FaultKind::Denied => true,
        FaultKind::NotFound => !fault.bucket_is_missing(), // The upload in pieces is gone: completed, perhaps.
        _ => target.destination.may_have_done(fault),
    };
    if !asks_back {
        return Err(error);
    }
    match existing(target).await {
        Ok(Some(found)) if settled(target, &found).is_some() || ((exists || denied) && first) => Ok(found),
        // It holds fewer records, or is damaged, and a rule of the bucket protects it. Any other refusal may pass.
        Ok(Some(found))
            if fault.is_protected() && (found.shown.records.is_some() || target.file.look == Look::Bytes) =>
        {
            Ok(Existing { stays: true, ..found })
        }
        // Refused as existing, and yet not there, or another one than a moment ago: somebody is at it.
        Ok(_) if exists => Err(target.fault(fault.clone().passing())),
        // That it exists is no failure; not to see it is.
        Err(unseen) if exists => Err(unseen),
        Ok(_) | Err(_) => Err(error),
    }
}
