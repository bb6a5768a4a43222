//! Loaders: what brings a complete folder of an archive into a catalogue or a database.
//!
//! ```text
//! complete: a revision of a folder ──queue──▶ work ──▶ Loader (hive_loader, bigquery_loader, hook) ──▶ a document that says so
//!                                                 └── origin, objects, table: what lies in the folder, and what it is to engines
//! ```
//! A loader is handed what is complete and makes it so over there, as often as it is asked: asked again it changes nothing, and it never
//! takes anything away. [`bigquery`] and [`hive`] know no archive; the modules beside them do.
//!
//! # Invariants
//! - **L-1** Nothing here holds back offsets or completion: a loader that fails is asked again later, with longer pauses, as long as the folder waits.
//! - **L-2** A folder that was completed waits for each loader of its output in the same document ([`crate::complete::progress`]) in which it is no
//!   longer open. So whoever completes next knows of it, and where that document is lost all folders are looked at again.
//! - **L-3** After each load the newest revision is read again: whoever stalled finds that there is a newer one, and loads that.
//! - **L-4** A loader that was not there when folders were completed gets them all, from what is listed of both in the bucket.
//! - **L-5** A table is of one loader's folders alone: of one archive, output, destination, generation and path and, where the path keeps topics apart, of one topic
//!   ([`crate::bucket::loads`], K-14). Else what one folder replaces could be another's.
//!
//! # Bounds
//! [`queue::LOADS_MAX`] folders wait for a loader at a time; what is more is found again in the listings of L-4, which are kept in memory while they are looked
//! through (48 bytes a folder). [`work::AT_ONCE`] loads of one loader and topic are under way at a time, and [`LOADS_AT_ONCE`] of one loader.

pub mod bigquery;
pub mod bigquery_loader;
pub mod hive;
pub mod hive_loader;
pub mod hook_loader;
pub mod objects;
pub mod open;
pub mod origin;
pub mod queue;
pub mod table;
pub mod work;

use crate::bucket::completions::Completed;
use crate::complete::tally::FolderId;
use crate::destination::fault::Verdict;
use crate::upload::hex;
use async_trait::async_trait;
use sha2::{Digest, Sha256};
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::Semaphore;

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
    /// It never is, and why: the folder is none that the table can have. It is written down as done, and told once.
    Passed(String),
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

/// Loads of one loader that are under way at a time, whatever the topics.
pub const LOADS_AT_ONCE: usize = 8;

/// A loader of an archive.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name.
    pub name: String,
    /// The name, and 8 hex digits of what it loads and where: it stands in the bucket. A loader that is given another table begins anew there.
    pub id: String,
    /// Folders of that output alone, if it is given.
    pub output: Option<String>,
    /// Folders at the destination with that id alone, if it is given.
    pub destination: Option<String>,
    /// Folders whose windows end behind it alone, milliseconds UTC.
    pub since_ms: Option<i64>,
    /// What does it.
    pub loader: Arc<dyn Loader>,
    /// [`LOADS_AT_ONCE`] permits.
    pub room: Arc<Semaphore>,
}

impl Setup {
    /// The id of a loader called `name`; `what`: all that decides what it loads and where.
    pub fn id_of(name: &str, what: &[&str]) -> String {
        let mut digest = Sha256::new();
        for part in what {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
        format!("{name}-{}", &hex(&digest.finalize())[..8])
    }

    /// A loader of every folder.
    pub fn new(name: &str, id: String, loader: Arc<dyn Loader>) -> Self {
        let room = Arc::new(Semaphore::new(LOADS_AT_ONCE));
        Self { name: name.to_string(), id, output: None, destination: None, since_ms: None, loader, room }
    }

    /// Whether it loads that folder.
    pub fn takes(&self, id: &FolderId, window_end_ms: i64) -> bool {
        self.output.as_ref().is_none_or(|output| *output == id.output)
            && self.destination.as_ref().is_none_or(|destination| *destination == id.destination)
            && self.since_ms.is_none_or(|since_ms| window_end_ms > since_ms)
    }
}

/// The name of the loader with that id.
pub fn name_of(id: &str) -> &str {
    id.rsplit_once('-').map_or(id, |(name, _)| name)
}
