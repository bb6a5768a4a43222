//! Folders that wait for loaders: between rounds, and at the end of a drain.

use super::round::{Completer, Seams};
use crate::bucket::BucketError;
use crate::bucket::completions::Completed;
use crate::destination::fault::Verdict;
use crate::exit::{Exit, Failure};
use crate::load::queue::{LOADS_MAX, Queue, Waiting};
use crate::load::work::{LoadSeams, Outcome, Told};
use crate::load::{Setup, name_of};
use crate::pipeline::start::{chain, patiently};
use futures::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

/// Documents of folders that are looked at in one round.
const LOOKED_AT_MAX: usize = 1_000;
/// Documents that are read side by side.
const READS_MAX: usize = 8;

/// A task that loads folders by one loader; it ends when this is dropped.
pub struct Worker {
    task: JoinHandle<()>,
    told: UnboundedReceiver<Told>,
}

impl Worker {
    /// A task that tells of each folder.
    pub fn new(task: JoinHandle<()>, told: UnboundedReceiver<Told>) -> Self {
        Self { task, told }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// By loader: the last digest of a folder that was looked at.
pub type Looking = BTreeMap<String, u128>;

/// Tasks by loader.
pub type Workers = BTreeMap<String, Worker>;

/// That `completed` waits for `setup`.
pub(super) fn waiting(setup: &Setup, completed: &Completed) -> Waiting {
    Waiting {
        loader: setup.id.clone(),
        id: completed.id.clone(),
        revision: completed.revision,
        window_end_ms: completed.window_end_ms,
        error: None,
    }
}

impl Completer {
    /// Notes what the tasks told since the last time.
    pub(super) fn note_loads(&mut self, seams: &Seams<'_>) {
        let now_ms = seams.clock.wall_ms();
        let (mut told, mut over) = (Vec::new(), Vec::new());
        self.workers.retain(|loader, worker| {
            // First whether it is over, then what it told: nothing comes later.
            let is_over = worker.task.is_finished();
            while let Ok(one) = worker.told.try_recv() {
                told.push(one);
            }
            over.extend(is_over.then(|| loader.clone()));
            !is_over
        });
        if !told.is_empty() {
            self.queue_changed();
        }
        for one in told {
            self.note_load(seams, one, now_ms);
        }
        for loader in over {
            // What a task that panicked has not told.
            if let Some(queue) = self.queue() {
                queue.left_all(&loader);
            }
        }
    }

    /// Whether it failed.
    fn note_load(&mut self, seams: &Seams<'_>, told: Told, now_ms: i64) -> bool {
        let Told { loader, id, outcome } = told;
        let Some(queue) = self.queue() else { return false };
        match outcome {
            Outcome::Loaded { revision } => queue.done(&loader, &id, revision),
            Outcome::Left => queue.left(&loader, &id),
            Outcome::Failed { message, verdict } => {
                let labels = [("archive", seams.archive.to_string()), ("loader", name_of(&loader).to_string())];
                metrics::counter!("siltstone_load_failures_total", &labels).increment(1);
                if queue.failed(&loader, &id, &message, now_ms) {
                    match verdict {
                        Verdict::Retry => tracing::warn!("{message}; trying again"),
                        Verdict::Refused | Verdict::Stop => tracing::error!("{message}; trying again, slowly"),
                    }
                }
                return true;
            }
        }
        false
    }

    /// What is to be loaded now by loaders that are not at work, by loader.
    pub fn take_loads<'s>(&mut self, loaders: &'s [Setup], now_ms: i64, most: usize) -> Vec<(&'s Setup, Vec<Waiting>)> {
        let mut taken = Vec::new();
        for setup in loaders.iter().filter(|setup| !self.workers.contains_key(&setup.id)).collect::<Vec<_>>() {
            let Some(queue) = self.queue() else { continue };
            let folders = queue.take(&setup.id, now_ms, most);
            if !folders.is_empty() {
                taken.push((setup, folders));
            }
        }
        taken
    }

    /// Loads all that waits, each folder once, and writes what is left.
    ///
    /// # Errors
    /// Something was not loaded: it waits, and the next process loads it.
    pub async fn load_all(&mut self, seams: &Seams<'_>, load: &LoadSeams) -> Result<(), Failure> {
        let mut failed: Option<Failure> = None;
        while failed.is_none() && (seams.goes_on)() {
            let found = self.find_unloaded(seams).await;
            let taken = self.take_loads(seams.loaders, seams.clock.wall_ms(), usize::MAX);
            let is_done = taken.is_empty() && !found.as_ref().is_ok_and(|found| *found);
            failed = found.err();
            for (setup, folders) in taken {
                let told = Mutex::new(Vec::new());
                let tell = |one| told.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                load.load(setup, folders, tell).await;
                for one in told.into_inner().unwrap_or_else(PoisonError::into_inner) {
                    if let Outcome::Failed { message, verdict } = &one.outcome {
                        let exit = if *verdict == Verdict::Retry { Exit::Unreachable } else { Exit::Refused };
                        failed.get_or_insert_with(|| Failure::new(exit, message.clone()));
                    }
                    self.note_load(seams, one, seams.clock.wall_ms());
                    self.queue_changed();
                }
            }
            if is_done {
                break;
            }
        }
        self.save(seams, true).await?;
        let waits =
            |setup: &&Setup| self.loads().is_some_and(|queue| queue.len(&setup.id) > 0 || queue.lacks(&setup.id));
        let waiting = seams.loaders.iter().filter(waits).map(|setup| {
            let count = self.loads().map_or(0, |queue| queue.len(&setup.id));
            format!("{} ({count} folders)", setup.name)
        });
        let waiting: Vec<String> = waiting.collect();
        if waiting.is_empty() {
            return failed.map_or(Ok(()), Err);
        }
        let Failure { exit, message } = failed.unwrap_or_else(|| {
            Failure::new(Exit::Incomplete, format!("archive {}, topic {}: told to stop", seams.archive, seams.topic))
        });
        Err(Failure::new(
            exit,
            format!("{message}; not everything is loaded by {}: the next run does it", waiting.join(", ")),
        ))
    }
}

impl Seams<'_> {
    /// Lets complete folders wait that `setup` has not loaded (L-4), from where it was left the last time. Whether there were any.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn find_unloaded(
        &self,
        queue: &mut Queue,
        setup: &Setup,
        looking: &mut Looking,
    ) -> Result<bool, Failure> {
        let name = &setup.name;
        let what =
            format!("archive {}, topic {}: look for folders that {name} has not loaded", self.archive, self.topic);
        let completed = patiently(self.clock, &what, || self.bucket.all_completed(self.topic)).await?;
        let loaded = patiently(self.clock, &what, || self.bucket.all_loaded(&setup.id, self.topic)).await?;
        let from = looking.get(&setup.id).copied().unwrap_or(0);
        if from == 0 {
            queue.looks(&setup.id);
        }
        let mut lacking = completed
            .range(from..)
            .filter(|(digest, revision)| loaded.get(digest).is_none_or(|known| known < revision))
            .map(|(&digest, &revision)| (digest, revision));
        let meant: Vec<(u128, u32)> = lacking.by_ref().take(LOOKED_AT_MAX).collect();
        let next = lacking.next();
        let what = &what;
        let mut read = stream::iter(meant)
            .map(|(digest, revision)| async move {
                let read = || async {
                    match self.bucket.revision_of_digest(self.topic, digest, revision).await {
                        Err(error @ (BucketError::Unreadable { .. } | BucketError::Newer { .. })) => {
                            Ok(Err(chain(&error)))
                        }
                        read => read.map(Ok),
                    }
                };
                (digest, patiently(self.clock, what, read).await)
            })
            .buffered(READS_MAX);
        let mut found = false;
        while let Some((digest, completed)) = read.next().await {
            if !(self.goes_on)() || queue.len(&setup.id) >= LOADS_MAX {
                looking.insert(setup.id.clone(), digest);
                return Ok(found);
            }
            match completed? {
                Ok(completed) if setup.takes(&completed.id, completed.window_end_ms) => {
                    queue.enqueue(waiting(setup, &completed));
                    found = true;
                }
                Ok(_) => {}
                // It holds back no other one.
                Err(damage) => {
                    tracing::error!(
                        "{what}: {damage}; that folder is not loaded. Restore the document, and delete progress.json beside it to have it looked for again"
                    )
                }
            }
        }
        match next {
            Some((digest, _)) => drop(looking.insert(setup.id.clone(), digest)),
            None => {
                looking.remove(&setup.id);
                queue.know(&setup.id);
            }
        }
        Ok(found || next.is_some())
    }
}
