//! Folders that wait for loaders: between rounds, and at the end of a drain.

use super::round::{Completer, Seams};
use crate::bucket::completions::Completed;
use crate::destination::fault::Verdict;
use crate::exit::{Exit, Failure};
use crate::load::Setup;
use crate::load::queue::{LOADS_MAX, Queue, Waiting};
use crate::load::work::{LoadSeams, Outcome, TAKEN_MAX, Told};
use crate::pipeline::start::patiently;
use futures::stream::{self, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

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

/// Tasks by loader.
pub type Workers = BTreeMap<String, Worker>;

/// That `completed` waits for `setup`.
pub(super) fn waiting(setup: &Setup, completed: &Completed) -> Waiting {
    Waiting {
        loader: setup.name.clone(),
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
                let labels = [("archive", seams.archive.to_string()), ("loader", loader.clone())];
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
    pub fn take_loads<'s>(&mut self, loaders: &'s [Setup], now_ms: i64) -> Vec<(&'s Setup, Vec<Waiting>)> {
        let mut taken = Vec::new();
        for setup in loaders.iter().filter(|setup| !self.workers.contains_key(&setup.name)).collect::<Vec<_>>() {
            let Some(queue) = self.queue() else { continue };
            let folders = queue.take(&setup.name, now_ms, TAKEN_MAX);
            if !folders.is_empty() {
                taken.push((setup, folders));
            }
        }
        taken
    }

    /// Loads all that waits, each folder once, and writes what is left.
    ///
    /// # Errors
    /// Something was not loaded; it waits.
    pub async fn load_all(&mut self, seams: &Seams<'_>, load: &LoadSeams) -> Result<(), Failure> {
        let mut failed: Option<(u64, String, Verdict)> = None;
        loop {
            let taken = self.take_loads(seams.loaders, seams.clock.wall_ms());
            if taken.is_empty() || !(seams.goes_on)() {
                break;
            }
            for (setup, folders) in taken {
                let told = Mutex::new(Vec::new());
                load.load(setup, folders, |one| told.lock().expect("no panic while it is held").push(one)).await;
                for one in told.into_inner().expect("no panic while it was held") {
                    let now_ms = seams.clock.wall_ms();
                    let what = match &one.outcome {
                        Outcome::Failed { message, verdict } => Some((message.clone(), *verdict)),
                        _ => None,
                    };
                    self.note_load(seams, one, now_ms);
                    if let Some((message, verdict)) = what {
                        let (count, ..) = failed.get_or_insert((0, message, verdict));
                        *count += 1;
                    }
                }
            }
        }
        self.save(seams, true).await?;
        let Some((count, message, verdict)) = failed else { return Ok(()) };
        let exit = if verdict == Verdict::Retry { Exit::Unreachable } else { Exit::Refused };
        let more = if count > 1 { format!(" ({} more folders are not loaded)", count - 1) } else { String::new() };
        Err(Failure::new(exit, format!("{message}{more}; they wait, and the next run loads them")))
    }
}

impl Seams<'_> {
    /// Lets all complete folders wait that `setup` has not loaded (L-4). Whether there were any.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn find_unloaded(&self, queue: &mut Queue, setup: &Setup) -> Result<bool, Failure> {
        let what = format!(
            "archive {}, topic {}: look for folders that {} has not loaded",
            self.archive, self.topic, setup.name
        );
        let completed = patiently(self.clock, &what, || self.bucket.all_completed(self.topic)).await?;
        let loaded = patiently(self.clock, &what, || self.bucket.all_loaded(&setup.name, self.topic)).await?;
        let lacking =
            completed.into_iter().filter(|(digest, revision)| loaded.get(digest).is_none_or(|known| known < revision));
        let mut read = stream::iter(lacking.map(Ok::<_, Failure>))
            .map_ok(|(digest, revision)| {
                let what = &what;
                async move {
                    let read = || self.bucket.revision_of_digest(self.topic, digest, revision);
                    patiently(self.clock, what, read).await
                }
            })
            .try_buffered(READS_MAX);
        let mut found = false;
        while let Some(completed) = read.try_next().await? {
            if !(self.goes_on)() || queue.len(&setup.name) >= LOADS_MAX {
                return Ok(found);
            }
            if setup.takes(&completed.id) {
                queue.enqueue(waiting(setup, &completed));
                found = true;
            }
        }
        queue.know(&setup.name);
        Ok(found)
    }
}
