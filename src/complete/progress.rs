//! How far the receipts of a topic were looked at: kept in the bucket, so that whoever completes next need not begin anew (K-12).

use super::tally::{FolderId, Tally};
use crate::bucket::completions::Completed;
use crate::load::queue::Waiting;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Version of the stored form.
pub const PROGRESS_VERSION: u32 = 1;

/// Completed folders that are told, the newest ones.
pub const RECENT_MAX: usize = 200;

/// See the module. What is open is a function of the receipts below `through` and of the folders that were complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// [`PROGRESS_VERSION`] of the writer.
    pub version: u32,
    /// By Kafka partition: receipts below this offset were looked at.
    pub through: BTreeMap<i32, i64>,
    /// By Kafka partition: the watermark of the last one.
    #[serde(default)]
    pub watermarks: BTreeMap<i32, i64>,
    /// Folders that are not complete, or were changed since.
    pub open: Vec<OpenFolder>,
    /// What was completed last, the newest one last; at most [`RECENT_MAX`].
    #[serde(default)]
    pub recent: VecDeque<Recent>,
    /// Loaders for which every complete folder waits that they have not loaded.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub loaders: BTreeSet<String>,
    /// Complete folders that wait for loaders (L-2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loads: Vec<Waiting>,
}

/// A folder that is not complete, or was changed since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFolder {
    /// Which.
    #[serde(flatten)]
    pub id: FolderId,
    /// What batches put into it that no revision covers.
    pub tally: Tally,
}

/// A folder that was completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// Which.
    #[serde(flatten)]
    pub id: FolderId,
    /// Its revision.
    pub revision: u32,
    /// The first instant behind its window.
    pub window_end_ms: i64,
    /// Rows.
    pub rows: u64,
    /// Objects.
    pub objects: u64,
    /// Wall time at which it was completed.
    pub at_ms: i64,
}

impl Recent {
    /// Of a folder that was completed at `at_ms`.
    pub fn of(completed: &Completed, at_ms: i64) -> Self {
        let Completed { id, revision, window_end_ms, rows, objects, .. } = completed.clone();
        Self { id, revision, window_end_ms, rows, objects, at_ms }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            version: PROGRESS_VERSION,
            through: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            open: Vec::new(),
            recent: VecDeque::new(),
            loaders: BTreeSet::new(),
            loads: Vec::new(),
        }
    }
}
