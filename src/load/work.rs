//! Loading what waits: each folder until it is loaded at its newest revision.

use super::{LoadFailure, Setup, Window, name_of};
use crate::bucket::Bucket;
use crate::bucket::completions::Completed;
use crate::bucket::loads::Loaded;
use crate::clock::Clock;
use crate::complete::tally::FolderId;
use crate::destination::fault::Verdict;
use crate::exit::{Exit, Failure};
use crate::load::queue::Waiting;
use crate::pipeline::start::patiently;
use futures::FutureExt;
use futures::stream::{self, StreamExt};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Folders of one loader and topic that are loaded side by side.
pub const AT_ONCE: usize = 4;
/// Folders that are taken from the queue at a time.
pub const TAKEN_MAX: usize = 64;
/// Earlier revisions that a loader is told of: nobody stalls for so many.
const EARLIER_MAX: u32 = 16;
/// How often a folder is loaded anew in one go because it was completed again meanwhile.
const TRIES: usize = 8;

/// What loading works with.
#[derive(Clone)]
pub struct LoadSeams {
    /// Revisions, receipts and what was loaded.
    pub bucket: Bucket,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Asked before each load.
    pub goes_on: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Name of the archive.
    pub archive: String,
    /// Topic.
    pub topic: String,
}

/// What became of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is loaded at this revision.
    Loaded {
        /// Which.
        revision: u32,
    },
    /// It is not, and why.
    Failed {
        /// What was tried, on what, what came back.
        message: String,
        /// Whether it may pass by itself.
        verdict: Verdict,
    },
    /// It was not tried: it is another process's now.
    Left,
}

/// What became of which folder.
#[derive(Clone, Debug)]
pub struct Told {
    /// The loader.
    pub loader: String,
    /// The folder.
    pub id: FolderId,
    /// What.
    pub outcome: Outcome,
}

impl LoadSeams {
    /// Loads `folders` by `setup`, and tells of each.
    pub async fn load(&self, setup: &Setup, folders: Vec<Waiting>, tell: impl Fn(Told)) {
        let mut outcomes = stream::iter(folders)
            .map(|waiting| async move {
                // Never closed.
                let _permit = setup.room.acquire().await.ok();
                // A panic is a bug, and must not end loading without a word.
                let outcome = AssertUnwindSafe(self.one(setup, &waiting)).catch_unwind().await;
                let outcome = outcome.unwrap_or_else(|_| {
                    failed(format!("{}: a panic; this is a bug, nothing is lost", self.what(setup, &waiting.id)))
                });
                Told { loader: setup.id.clone(), id: waiting.id, outcome }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(told) = outcomes.next().await {
            tell(told);
        }
    }

    async fn one(&self, setup: &Setup, waiting: &Waiting) -> Outcome {
        match self.until_newest(setup, waiting).await {
            Ok(outcome) => outcome,
            Err(Failure { message, exit }) => {
                let verdict = if exit == Exit::Unreachable { Verdict::Retry } else { Verdict::Refused };
                Outcome::Failed { message, verdict }
            }
        }
    }

    /// Loads a folder until the newest revision is what was loaded (L-3).
    async fn until_newest(&self, setup: &Setup, waiting: &Waiting) -> Result<Outcome, Failure> {
        let (id, loader, topic) = (&waiting.id, &setup.id, &self.topic);
        let what = self.what(setup, id);
        let loaded = || self.bucket.newest_loaded(loader, topic, id);
        let loaded = patiently(&*self.clock, &what, loaded).await?;
        let mut after_ms = None;
        let mut why_not = "it is completed again and again".to_string();
        for _ in 0..TRIES {
            let newest = || self.bucket.completed(topic, id);
            let Some(completed) = patiently(&*self.clock, &what, newest).await? else {
                return Ok(failed(format!(
                    "{what}: it was complete, and has no revision any more: nobody deletes them"
                )));
            };
            let revision = completed.revision;
            if loaded >= revision {
                return Ok(Outcome::Loaded { revision: loaded });
            }
            let mut earlier = Vec::new();
            if setup.loader.asks_for_earlier() {
                // What came before the one that is loaded was barred when that one was.
                let first = loaded.max(1).max(revision.saturating_sub(EARLIER_MAX));
                for number in first..revision {
                    let read = || self.bucket.revision(topic, id, number);
                    earlier.push(patiently(&*self.clock, &what, read).await?);
                }
            }
            if !(self.goes_on)() {
                return Ok(Outcome::Left);
            }
            let window = Window { completed: &completed, earlier: &earlier, after_ms };
            let report = match setup.loader.load(&window).await {
                Ok(report) => report,
                Err(LoadFailure::Superseded(why)) => {
                    tracing::debug!(folder = id.folder, loader, why, "another process loads a newer revision");
                    why_not = why;
                    continue;
                }
                Err(LoadFailure::Passed(why)) => {
                    let passed = Loaded { passed: Some(why), ..Loaded::of(&completed, loader, self.clock.wall_ms()) };
                    let put = || self.bucket.put_loaded(&passed);
                    patiently(&*self.clock, &what, put).await?;
                    self.tell_passed(&completed, &passed);
                    return Ok(Outcome::Loaded { revision });
                }
                Err(LoadFailure::Failed { message, verdict }) => {
                    return Ok(Outcome::Failed { message: format!("{what}: {message}"), verdict });
                }
            };
            let newest = || self.bucket.completed(topic, id);
            let again = patiently(&*self.clock, &what, newest).await?;
            if again.is_some_and(|again| again.revision > revision) {
                after_ms = report.ended_ms;
                continue;
            }
            let loaded = Loaded {
                loaded_rows: report.rows,
                into: report.into,
                by: report.by,
                ..Loaded::of(&completed, loader, self.clock.wall_ms())
            };
            let put = || self.bucket.put_loaded(&loaded);
            patiently(&*self.clock, &what, put).await?;
            self.tell(&completed, &loaded);
            return Ok(Outcome::Loaded { revision });
        }
        Ok(Outcome::Failed {
            message: format!("{what}: revision after revision is not loaded: {why_not}"),
            verdict: Verdict::Retry,
        })
    }

    fn what(&self, setup: &Setup, id: &FolderId) -> String {
        format!("archive {}, topic {}: load {id} by {}", self.archive, self.topic, setup.name)
    }

    fn tell_passed(&self, completed: &Completed, passed: &Loaded) {
        let (topic, folder, revision) = (&self.topic, &completed.id.folder, completed.revision);
        let labels = [("archive", self.archive.clone()), ("loader", name_of(&passed.loader).to_string())];
        metrics::counter!("siltstone_loads_passed_total", &labels).increment(1);
        let why = passed.passed.as_deref();
        tracing::warn!(topic, folder, revision, loader = passed.loader, why, "folder passed over: it is not loaded");
    }

    fn tell(&self, completed: &Completed, loaded: &Loaded) {
        let Loaded { loader, into, by, rows, .. } = loaded;
        let (topic, folder, revision) = (&self.topic, &completed.id.folder, completed.revision);
        let labels = [("archive", self.archive.clone()), ("loader", name_of(loader).to_string())];
        metrics::counter!("siltstone_loads_total", &labels).increment(1);
        tracing::info!(topic, folder, revision, loader, into, by, rows, "folder loaded");
        if let Some(found) = loaded.loaded_rows.filter(|found| completed.uncounted == 0 && found != rows) {
            metrics::counter!("siltstone_load_mismatches_total", &labels).increment(1);
            tracing::error!(
                topic,
                folder,
                revision,
                loader,
                into,
                by,
                rows,
                found,
                "the other side counted other rows than were archived: compare the two; siltstone verify tells whether the archive is whole"
            );
        }
    }
}

fn failed(message: String) -> Outcome {
    Outcome::Failed { message, verdict: Verdict::Refused }
}
