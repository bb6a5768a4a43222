//! What the protocol keeps in the bucket: claims, receipts, layouts, schemas, replays, compactions, completed folders and whose archive it is.
//!
//! All of it lies under `_siltstone/` at the first destination of an archive, as small JSON documents. Each is written
//! once and whole; none is ever changed, but that a receipt gives way to one that vouches for more, and old receipts to a document
//! that has a thousand of them ([`folds`]), and that markers and the progress of completion are caches ([`completions`]), and cursors of hooks move ([`hooks`]). Readers accept fields they
//! do not know and refuse versions they do not know.
//!
//! # Invariants
//! - **K-1** What is created only if absent is never replaced (but a receipt, see K-3): on stores that can, the store guarantees
//!   it; on others (`conditional_put = false`) it is a read and then a plain PUT, and the plan in Kafka is the fence.
//! - **K-2** A create whose answer is lost is looked for: the caller learns what is in the bucket, not what was tried.
//!
//! No call waits longer than the client's own bounded retries; [`BucketError::verdict`] tells what to do next.

pub mod claim;
pub mod compactions;
pub mod completions;
pub mod entries;
pub mod folding;
pub mod folds;
pub mod hooks;
pub mod identity;
pub mod jobs;
pub mod layouts;
pub mod loads;
pub mod probe;
pub mod receipt;
pub mod recounts;
pub mod replays;
pub mod schemas;

use self::folds::KeptFolds;
use crate::destination::fault::{Fault, FaultKind, Verdict};
use crate::destination::{Destination, DestinationError};
use crate::effect::{Effect, requests};
use crate::record::TopicPartition;
use bytes::Bytes;
use object_store::{Attribute, Attributes, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Folder of everything in this module.
pub const CONTROL_FOLDER: &str = "_siltstone";

/// Folder of all claims and receipts.
const RECEIPTS_FOLDER: &str = "_siltstone/receipts/v1";

/// The control documents of one archive's first destination.
#[derive(Clone, Debug)]
pub struct Bucket {
    destination: Arc<Destination>,
    /// Of the archive, from 1: each generation has claims and receipts of its own.
    generation: u32,
    /// Folds that were read a moment ago.
    kept_folds: Arc<KeptFolds>,
}

/// Why a control document is not known to be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The store did not do it, or its answer was lost.
    #[error("{action} {key} at {destination}: {fault}")]
    Store {
        /// What was tried: read, write, list, …
        action: &'static str,
        /// Key.
        key: String,
        /// Destination id.
        destination: String,
        /// What came back.
        fault: Fault,
    },
    /// The document is there, but it is not what its place says. Somebody must look at it.
    #[error("{key} at {destination} is damaged: {what}")]
    Unreadable {
        /// Key.
        key: String,
        /// Destination id.
        destination: String,
        /// What is wrong.
        what: String,
    },
    /// Written by a newer release.
    #[error("{key} at {destination} has version {found}, this release reads up to {known}: use the newer release")]
    Newer {
        /// Key.
        key: String,
        /// Destination id.
        destination: String,
        /// Version found.
        found: u32,
        /// Newest version known here.
        known: u32,
    },
    /// The archive belongs to another cluster or group.
    #[error(
        "the archive at {destination} belongs to {what} {theirs:?} (its _siltstone/archive.json says), and this is {what} \
         {ours:?}: give this one another prefix, or {way_back}"
    )]
    IdentityMismatch {
        /// `cluster` or `group`.
        what: &'static str,
        /// Of this process.
        ours: String,
        /// Of the archive.
        theirs: String,
        /// Destination id.
        destination: String,
        /// How to go on with the archive.
        way_back: &'static str,
    },
    /// A batch was planned with a layout that this release cannot use.
    #[error(
        "layout {fingerprint} at {destination} cannot be used: {what}; run the release that wrote it until the batch is \
         finished"
    )]
    Layout {
        /// Its fingerprint.
        fingerprint: String,
        /// Destination id.
        destination: String,
        /// Why not.
        what: String,
    },
    /// Pinning needs a store that creates only if absent.
    #[error(
        "{destination} cannot create objects only if they are absent (conditional_put = false), so an inferred schema \
         cannot be pinned there: give the schema in the configuration"
    )]
    CannotPin {
        /// Destination id.
        destination: String,
    },
    /// Replays need a store that creates only if absent.
    #[error(
        "{destination} cannot create objects only if they are absent (conditional_put = false), so nothing there keeps two \
         processes from writing the same dead letters again: dead letters cannot be replayed into this archive. \
         `siltstone dead-letters show` prints them"
    )]
    CannotReplay {
        /// Destination id.
        destination: String,
    },
    /// Compactions need a store that creates only if absent.
    #[error(
        "{destination} cannot create objects only if they are absent (conditional_put = false), so nothing there keeps two \
         processes from compacting the same objects twice: this archive cannot be compacted"
    )]
    CannotCompact {
        /// Destination id.
        destination: String,
    },
    /// The key is not one: a mistake in the program, or a topic called `.` or `..`.
    #[error(transparent)]
    Key(#[from] DestinationError),
}

impl BucketError {
    /// What the caller does next.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Store { fault, .. } => fault.verdict(),
            Self::IdentityMismatch { .. }
            | Self::CannotPin { .. }
            | Self::CannotReplay { .. }
            | Self::CannotCompact { .. } => Verdict::Refused,
            Self::Unreadable { .. } | Self::Newer { .. } | Self::Layout { .. } | Self::Key(_) => Verdict::Stop,
        }
    }
}

/// Where an object lies: its destination and its key there.
pub type Place<'a> = (&'a str, &'a str);

/// What became of a create.
enum Created {
    /// It is there now, and it was not before.
    Now,
    /// This was there, or came there meanwhile: perhaps our own bytes, by a request whose answer was lost.
    Found(Stored),
}

/// A document that is there.
struct Stored {
    bytes: Bytes,
    /// What names exactly this one to a store that compares before it replaces.
    version: Option<UpdateVersion>,
}

/// What a document is put as.
struct Body {
    bytes: Bytes,
    content_type: &'static str,
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self { bytes: text.into(), content_type: "application/json" }
    }
}

/// The one field that every document has.
#[derive(Deserialize)]
struct Version {
    #[serde(alias = "format")]
    version: u32,
}

impl Bucket {
    /// The control documents at `destination`.
    pub fn new(destination: Arc<Destination>) -> Self {
        Self { destination, generation: 1, kept_folds: Arc::default() }
    }

    /// The same for a later generation of the archive: its claims and receipts lie beside those before, in folders that end
    /// in `.g<generation>`.
    pub fn of_generation(self, generation: u32) -> Self {
        Self { generation, ..self }
    }

    /// The archive's generation, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Where they are.
    pub fn destination(&self) -> &Arc<Destination> {
        &self.destination
    }

    fn store_error(&self, action: &'static str, key: &str, error: &object_store::Error) -> BucketError {
        self.fault(action, key, Fault::of(error))
    }

    fn fault(&self, action: &'static str, key: &str, fault: Fault) -> BucketError {
        BucketError::Store { action, key: key.to_string(), destination: self.destination.id().to_string(), fault }
    }

    fn unreadable(&self, key: &str, what: impl Into<String>) -> BucketError {
        let destination = self.destination.id().to_string();
        BucketError::Unreadable { key: key.to_string(), destination, what: what.into() }
    }

    /// The bytes under `key`; `None` where there are none.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        Ok(self.stored(key).await?.map(|stored| stored.bytes))
    }

    /// Whether something is there under `key`.
    async fn exists(&self, key: &str) -> Result<bool, BucketError> {
        let path = self.destination.path(key)?;
        match self.destination.store().head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.store_error("look for", key, &error)),
        }
    }

    /// When what is under `key` was put, by the store's clock; `None` where there is nothing.
    async fn modified_ms(&self, key: &str) -> Result<Option<i64>, BucketError> {
        let path = self.destination.path(key)?;
        match self.destination.store().head(&path).await {
            Ok(meta) => Ok(Some(meta.last_modified.timestamp_millis())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.store_error("look for", key, &error)),
        }
    }

    async fn stored(&self, key: &str) -> Result<Option<Stored>, BucketError> {
        let path = self.destination.path(key)?;
        let read = async {
            let got = self.destination.store().get(&path).await?;
            let version = self.destination.version(&got.meta);
            Ok(Stored { bytes: got.bytes().await?, version })
        };
        match read.await {
            Ok(stored) => Ok(Some(stored)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.store_error("read", key, &error)),
        }
    }

    /// Writes `body` under `key`, whatever is there.
    async fn put(&self, effect: Effect, key: &str, body: impl Into<Body>) -> Result<(), BucketError> {
        self.put_as(effect, key, body.into(), PutMode::Overwrite).await
    }

    /// Writes `text` over the document that `version` names, or over whatever is there on stores that do not compare.
    async fn replace(
        &self,
        effect: Effect,
        key: &str,
        text: String,
        version: Option<&UpdateVersion>,
    ) -> Result<(), BucketError> {
        let Some(version) = version else { return self.put(effect, key, text).await };
        let mode = PutMode::Update(version.clone());
        let Err(error) = self.put_as(effect, key, text.clone().into(), mode).await else { return Ok(()) };
        match &error {
            BucketError::Store { fault, .. } if fault.kind == FaultKind::Unsupported => {
                self.put(effect, key, text).await
            }
            // It is another one than a moment ago, or the store thinks so: to be looked at again.
            BucketError::Store { fault, .. } if fault.kind == FaultKind::Exists => {
                Err(self.fault("write", key, fault.clone().passing()))
            }
            _ => Err(error),
        }
    }

    async fn put_as(&self, effect: Effect, key: &str, body: Body, mode: PutMode) -> Result<(), BucketError> {
        let path = self.destination.path(key)?;
        let attributes = Attributes::from_iter([(Attribute::ContentType, body.content_type)]);
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        let put = requests::put(effect, self.destination.store(), &path, body.bytes.into(), options).await;
        put.map(|_| ()).map_err(|error| self.store_error("write", key, &error))
    }

    /// Writes `body` under `key` unless something is there (K-1, K-2).
    async fn create(&self, effect: Effect, key: &str, body: impl Into<Body>) -> Result<Created, BucketError> {
        let body = body.into();
        if !self.destination.conditional_put() {
            if let Some(found) = self.stored(key).await? {
                return Ok(Created::Found(found));
            }
            return self.put(effect, key, body).await.map(|()| Created::Now);
        }
        let error = match self.put_as(effect, key, body, PutMode::Create).await {
            Ok(()) => return Ok(Created::Now),
            Err(error) => error,
        };
        let BucketError::Store { fault, .. } = &error else { return Err(error) };
        let exists = fault.kind == FaultKind::Exists;
        // A write-once bucket may say 403 to a write over what is there.
        if !(exists || fault.kind == FaultKind::Denied || self.destination.may_have_done(fault)) {
            return Err(error);
        }
        match self.stored(key).await {
            Ok(Some(found)) => {
                let synced = self.destination.sync(&self.destination.path(key)?).await;
                synced.map(|()| Created::Found(found)).map_err(|error| self.store_error("sync", key, &error))
            }
            // Refused as existing, and yet not there: another create at the same moment, not done yet.
            Ok(None) if exists => Err(self.fault("write", key, fault.clone().passing())),
            // That it exists is no failure; not to see it is.
            Err(unseen) if exists => Err(unseen),
            Ok(None) | Err(_) => Err(error),
        }
    }

    /// Reads a document of up to version `known`.
    fn parse<T: DeserializeOwned>(&self, key: &str, bytes: &[u8], known: u32) -> Result<T, BucketError> {
        parse_document(key, self.destination.id(), bytes, known)
    }
}

/// Reads a document of up to version `known`, which lies under `key` at a destination.
fn parse_document<T: DeserializeOwned>(
    key: &str,
    destination: &str,
    bytes: &[u8],
    known: u32,
) -> Result<T, BucketError> {
    let (key, destination) = (key.to_string(), destination.to_string());
    let unreadable = |error: serde_json::Error| BucketError::Unreadable {
        key: key.clone(),
        destination: destination.clone(),
        what: error.to_string(),
    };
    let Version { version: found } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if found > known {
        return Err(BucketError::Newer { key, destination, found, known });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// Documents hold only strings, numbers, lists and maps with string keys.
fn to_json<T: Serialize>(document: &T) -> String {
    serde_json::to_string(document).expect("a document holds only what JSON has")
}

/// The folder of a Kafka partition's claims and receipts.
pub fn receipts_folder(partition: &TopicPartition, generation: u32) -> String {
    format!("{RECEIPTS_FOLDER}/{}", partition_folder(partition, generation))
}

/// What a Kafka partition's folder of documents is called, below the folder of all of them.
fn partition_folder(partition: &TopicPartition, generation: u32) -> String {
    format!("{}/{:05}{}", partition.topic, partition.partition, generation_suffix(generation))
}

/// What folders of documents of a generation end in.
fn generation_suffix(generation: u32) -> String {
    if generation > 1 { format!(".g{generation}") } else { String::new() }
}
