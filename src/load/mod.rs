//! Loaders: what brings a complete folder of an archive into a catalogue or a database.
//!
//! ```text
//! complete: a revision of a folder ──queue──▶ work ──▶ Loader (hive_loader, bigquery_loader, hook) ──▶ a document that says so
//!                                                 └── objects, table: what lies in the folder, and what it is to engines
//! ```
//! A loader is handed what is complete and makes it so over there, as often as it is asked: asked again it changes nothing, and it never
//! takes anything away. [`bigquery`] and [`hive`] know no archive; the modules beside them do.
//!
//! # Invariants
//! - **L-1** Nothing here holds back offsets or completion: a loader that fails is asked again later, with longer pauses, as long as the folder waits.
//! - **L-2** A folder that was completed waits for each loader of its output in the same document ([`crate::complete::progress`]) in which it is no
//!   longer open. So whoever completes next knows of it, and where that document is lost all folders are looked at again.
//! - **L-3** After each load the newest revision is read again: whoever stalled finds that there is a newer one, and loads that.
//! - **L-4** A loader that was not there when folders were completed gets them all, oldest first, from what is listed of both in the bucket.
//!
//! # Bounds
//! [`queue::LOADS_MAX`] folders wait for a loader at a time; what is more is found again in the listings of L-4. [`work::AT_ONCE`] loads of one loader
//! and topic are under way at a time.

pub mod bigquery;
pub mod bigquery_loader;
pub mod hive;
pub mod hive_loader;
pub mod hook_loader;
pub mod objects;
pub mod open;
pub mod queue;
pub mod table;
pub mod work;

use crate::bucket::completions::Completed;
use crate::destination::fault::Verdict;
use async_trait::async_trait;
use std::fmt::Debug;
use std::sync::Arc;

/// A folder that is complete, as a loader sees it.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// Its newest revision.
    pub completed: &'a Completed,
    /// Revisions before it that somebody may still be about to load, the oldest first.
    pub earlier: &'a [Completed],
    /// An older revision was loaded meanwhile, and that ended then ([`Report::ended_ms`]).
    pub after_ms: Option<i64>,
}

/// What a loader did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Where it is now, in the other side's words.
    pub into: String,
    /// What did it, in the other side's words; may be empty.
    pub by: String,
    /// Rows as the other side counts them, where it does.
    pub rows: Option<u64>,
    /// When it was done by the other side's clock, where that matters.
    pub ended_ms: Option<i64>,
}

/// Why a folder is not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadFailure {
    /// The revision is not the newest any more.
    Superseded(String),
    /// It did not happen, or nobody knows.
    Failed {
        /// What was tried, on what, what came back, what to do.
        message: String,
        /// [`Verdict::Retry`]: it may pass. Else it needs somebody.
        verdict: Verdict,
    },
}

/// Brings complete folders somewhere. All of it may be asked for twice, and by two at once.
#[async_trait]
pub trait Loader: Debug + Send + Sync {
    /// Sees to it that what `window` says is there.
    ///
    /// # Errors
    /// [`LoadFailure`].
    async fn load(&self, window: &Window<'_>) -> Result<Report, LoadFailure>;

    /// Whether it is to know of earlier revisions.
    fn asks_for_earlier(&self) -> bool {
        false
    }
}

/// A loader of an archive.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name: it stands in the bucket.
    pub name: String,
    /// Folders of that output alone, if it is given.
    pub output: Option<String>,
    /// Folders at the destination with that id alone, if it is given.
    pub destination: Option<String>,
    /// What does it.
    pub loader: Arc<dyn Loader>,
}

impl Setup {
    /// Whether it loads that folder.
    pub fn takes(&self, id: &crate::complete::tally::FolderId) -> bool {
        self.output.as_ref().is_none_or(|output| *output == id.output)
            && self.destination.as_ref().is_none_or(|destination| *destination == id.destination)
    }
}
