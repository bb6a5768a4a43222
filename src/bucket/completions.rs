//! Completed folders: which of them are complete, at which revision, and the marker that engines and schedulers look for.
//!
//! ```text
//! _siltstone/complete/v1/{topic}/<digest of output, destination and folder>/{revision:06}.json   created only if absent: what is true
//! _siltstone/complete/v1/{topic}/progress.json                                                   how far receipts were looked at
//! <folder>/_SUCCESS                                                                              a copy of the newest revision
//! ```
//! - **K-10** A revision of a folder is created only if absent, and covers all that the one before covers: of two processes that complete
//!   the same folder one writes it, and the other one learns of it.
//! - **K-11** A marker is put only over one of a lower revision, or over nothing: where the store compares (most do), by comparison, so that a
//!   writer that stalled cannot take it back; elsewhere after a look. Readers of ours take the newest revision, whatever a marker says.
//! - **K-12** Progress is a cache: without it, or with an older one, receipts are read again, and nothing comes of it that was not there.
//!
//! # The document, version 1
//! ```json
//! {
//!   "version": 1, "archive": "access", "generation": 1, "topic": "access", "output": "json", "destination": "s3://logs/prod",
//!   "folder": "access/dt=2025-11-21/hr=03", "revision": 1, "window_end_ms": 1763697600000, "rows": 98123, "objects": 12, "bytes": 4711000,
//!   "event_min_ms": 1763694000000, "event_max_ms": 1763697599000, "watermark_ms": 1763697610000,
//!   "covered": {"0": [1000, 42000], "3": [980, 41000]}
//! }
//! ```
//! `rows` counts those of objects whose receipts know them, `uncounted` the objects of which they do not. `watermark_ms`: every Kafka
//! partition was past this instant, `allowed_lateness` taken off. `covered`: by Kafka partition, from the first offset of the first batch with an
//! object in the folder to the end of the last one. A marker has the same fields.

use super::loads::Newest;
use super::{Bucket, BucketError, CONTROL_FOLDER, Created, to_json};
use crate::complete::progress::{PROGRESS_VERSION, Progress};
use crate::complete::tally::{Covered, FolderId};
use crate::effect::Effect;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the stored form of [`Completed`].
pub const COMPLETED_VERSION: u32 = 1;

/// A folder that is complete. See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// [`COMPLETED_VERSION`] of the writer.
    pub version: u32,
    /// Name of the archive.
    pub archive: String,
    /// Generation of the archive.
    pub generation: u32,
    /// Topic.
    pub topic: String,
    /// Which folder.
    #[serde(flatten)]
    pub id: FolderId,
    /// Counts up from 1 whenever late data changed the folder.
    pub revision: u32,
    /// The first instant behind the folder's window, milliseconds UTC.
    pub window_end_ms: i64,
    /// Rows, as far as receipts tell.
    pub rows: u64,
    /// Objects whose rows no receipt tells.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: u64,
    /// Objects that batches put.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Smallest event time, milliseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_min_ms: Option<i64>,
    /// Largest event time, milliseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_max_ms: Option<i64>,
    /// Every Kafka partition was past this instant.
    pub watermark_ms: i64,
    /// By Kafka partition: what offsets it has rows of.
    pub covered: BTreeMap<String, Covered>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Completed {
    /// What of Kafka partition `number` it covers.
    pub fn covers(&self, number: i32) -> Option<Covered> {
        self.covered.get(&number.to_string()).copied()
    }
}

/// What stands in a marker, as far as it matters: one that somebody else put (Hadoop's is empty) is of nothing.
#[derive(Default, Deserialize)]
struct Marker {
    #[serde(default)]
    topic: String,
    #[serde(default)]
    output: String,
    #[serde(default)]
    generation: u32,
    #[serde(default)]
    revision: u32,
}

/// The folder of a topic's completions. A topic may be called like another one with a suffix, so a later generation has a folder inside.
fn topic_folder(topic: &str, generation: u32) -> String {
    let inside = if generation > 1 { format!("/g{generation}") } else { String::new() };
    format!("{CONTROL_FOLDER}/complete/v1/{topic}{inside}")
}

fn revision_key(topic: &str, generation: u32, digest: &str, revision: u32) -> String {
    format!("{}/{digest}/{revision:06}.json", topic_folder(topic, generation))
}

const GONE: &str = "it was listed, or comes before one that was, and is gone: nobody deletes revisions";

fn progress_key(topic: &str, generation: u32) -> String {
    format!("{}/progress.json", topic_folder(topic, generation))
}

impl Bucket {
    /// The newest revision of a folder; `None` where it is not complete yet.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn completed(&self, topic: &str, id: &FolderId) -> Result<Option<Completed>, BucketError> {
        let folder = format!("{}/{}", topic_folder(topic, self.generation), id.digest());
        match self.newest_below(&folder).await?.into_values().max() {
            None => Ok(None),
            Some(newest) => self.revision(topic, id, newest).await.map(Some),
        }
    }

    /// The revision `number` of a folder, which was listed or comes before one that was.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn revision(&self, topic: &str, id: &FolderId, number: u32) -> Result<Completed, BucketError> {
        let key = revision_key(topic, self.generation, &id.digest(), number);
        let bytes = self.get(&key).await?.ok_or_else(|| self.unreadable(&key, GONE))?;
        self.parse_completed(&key, id, &bytes)
    }

    /// The folder of that digest at a revision that was listed.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn revision_of_digest(&self, topic: &str, digest: u128, number: u32) -> Result<Completed, BucketError> {
        let key = revision_key(topic, self.generation, &format!("{digest:032x}"), number);
        let bytes = self.get(&key).await?.ok_or_else(|| self.unreadable(&key, GONE))?;
        self.parse(&key, &bytes, COMPLETED_VERSION)
    }

    /// Of every complete folder of a topic: the newest revision. One listing.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn all_completed(&self, topic: &str) -> Result<Newest, BucketError> {
        self.newest_below(&topic_folder(topic, self.generation)).await
    }

    /// Creates the revision that `completed` says (K-10); the one that is there instead, if any.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn put_completed(&self, completed: &Completed) -> Result<Option<Completed>, BucketError> {
        let key = revision_key(&completed.topic, self.generation, &completed.id.digest(), completed.revision);
        match self.create(Effect::CompletedPut, &key, to_json(completed)).await? {
            Created::Now => Ok(None),
            Created::Found(stored) => {
                let found = self.parse_completed(&key, &completed.id, &stored.bytes)?;
                Ok((found != *completed).then_some(found))
            }
        }
    }

    fn parse_completed(&self, key: &str, id: &FolderId, bytes: &[u8]) -> Result<Completed, BucketError> {
        let completed: Completed = self.parse(key, bytes, COMPLETED_VERSION)?;
        if completed.id != *id {
            return Err(self.unreadable(key, format!("it is about {}", completed.id)));
        }
        Ok(completed)
    }

    /// How far the receipts of `topic` were looked at; `None` where nobody has yet.
    ///
    /// # Errors
    /// [`BucketError`]; [`BucketError::Unreadable`] is no loss (K-12).
    pub async fn progress(&self, topic: &str) -> Result<Option<Progress>, BucketError> {
        let key = progress_key(topic, self.generation);
        let bytes = self.get(&key).await?;
        bytes.map(|bytes| self.parse(&key, &bytes, PROGRESS_VERSION)).transpose()
    }

    /// Writes how far the receipts of `topic` were looked at.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn put_progress(&self, topic: &str, progress: &Progress) -> Result<(), BucketError> {
        self.put(Effect::ProgressPut, &progress_key(topic, self.generation), to_json(progress)).await
    }

    /// Sees to it that the marker `name` in the folder of `completed`, at this destination, is of its revision or of a later one (K-11).
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn mark_complete(&self, completed: &Completed, name: &str) -> Result<(), BucketError> {
        let folder = &completed.id.folder;
        let key = if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
        let stored = match self.stored(&key).await? {
            Some(stored) => stored,
            None => match self.create(Effect::MarkerPut, &key, to_json(completed)).await? {
                Created::Now => return Ok(()),
                Created::Found(stored) => stored,
            },
        };
        let found: Marker = serde_json::from_slice(&stored.bytes).unwrap_or_default();
        if found.revision > 0 && (&found.topic, &found.output) != (&completed.topic, &completed.id.output) {
            let what = format!(
                "it is of output {} of topic {}, and output {} of topic {} has the same folder: nobody knows what it says is complete. Give each its \
                 own, as with {{topic}} in `path`",
                found.output, found.topic, completed.id.output, completed.topic
            );
            return Err(self.unreadable(&key, what));
        }
        if (found.generation, found.revision) >= (completed.generation, completed.revision) {
            return Ok(());
        }
        self.replace(Effect::MarkerReplace, &key, to_json(completed), stored.version.as_ref()).await
    }
}
