//! Which folders wait for which loader. Pure.

use crate::complete::tally::FolderId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Folders that wait for one loader, some 500 bytes each. What is more is forgotten, as are for it those that failed again and again, and found again in the bucket once
/// half of these are loaded.
pub const LOADS_MAX: usize = 10_000;
/// First and longest pause after a load that failed, milliseconds.
const PAUSE_MS: (i64, i64) = (10_000, 600_000);
/// Longest text of a failure that is kept, in characters.
pub const ERROR_CHARS_MAX: usize = 400;

/// How long it is waited after a load that failed, and that `tries` failed before.
pub fn pause_ms(tries: u32) -> i64 {
    PAUSE_MS.0.saturating_mul(1 << tries.min(10)).min(PAUSE_MS.1)
}

/// A folder that waits, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The id of the loader.
    pub loader: String,
    /// Which folder.
    #[serde(flatten)]
    pub id: FolderId,
    /// The revision that made it wait.
    pub revision: u32,
    /// The first instant behind its window.
    pub window_end_ms: i64,
    /// Why it was not loaded when that was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    tries: u32,
    not_before_ms: i64,
    is_running: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    /// Loaders for which every complete folder that they have not loaded waits.
    known: BTreeSet<String>,
    waiting: BTreeMap<String, BTreeMap<FolderId, Entry>>,
    /// Loaders of which some folder was forgotten since the bucket is looked through for them.
    forgetful: BTreeSet<String>,
}

impl Queue {
    /// What was kept, of the loaders that are there still (`is_there`, by id) and take it (`takes`).
    pub fn of(
        known: BTreeSet<String>,
        waiting: Vec<Waiting>,
        is_there: impl Fn(&str) -> bool,
        takes: impl Fn(&Waiting) -> bool,
    ) -> Self {
        let known = known.into_iter().filter(|loader| is_there(loader)).collect();
        let mut queue = Self { known, ..Self::default() };
        for waiting in waiting.into_iter().filter(|waiting| is_there(&waiting.loader) && takes(waiting)) {
            queue.enqueue(waiting);
        }
        queue
    }

    /// What is to be kept: the loaders that it is complete for, and what waits.
    pub fn kept(&self) -> (BTreeSet<String>, Vec<Waiting>) {
        let waiting = self.waiting.values().flat_map(BTreeMap::values).map(|entry| entry.waiting.clone());
        (self.known.clone(), waiting.collect())
    }

    /// Lets a folder wait, at this revision or a later one.
    pub fn enqueue(&mut self, waiting: Waiting) {
        let of_loader = self.waiting.entry(waiting.loader.clone()).or_default();
        if let Some(entry) = of_loader.get_mut(&waiting.id) {
            if entry.waiting.revision < waiting.revision {
                entry.waiting.revision = waiting.revision;
                // What was wrong with the one before may be mended with this one.
                (entry.not_before_ms, entry.tries) = (0, 0);
            }
            return;
        }
        if of_loader.len() >= LOADS_MAX {
            self.known.remove(&waiting.loader);
            self.forgetful.insert(waiting.loader.clone());
            // One that failed again and again makes room: it is found again in the bucket.
            let hopeless = of_loader.iter().filter(|(_, entry)| entry.tries > 1 && !entry.is_running);
            let Some(id) = hopeless.max_by_key(|(_, entry)| entry.tries).map(|(id, _)| id.clone()) else { return };
            of_loader.remove(&id);
        }
        of_loader.insert(waiting.id.clone(), Entry { waiting, tries: 0, not_before_ms: 0, is_running: false });
    }

    /// Whether the bucket is to be looked through for folders that `loader` has not loaded.
    pub fn lacks(&self, loader: &str) -> bool {
        !self.known.contains(loader) && self.len(loader) <= LOADS_MAX / 2
    }

    /// The bucket is looked through for `loader` from its beginning.
    pub fn looks(&mut self, loader: &str) {
        self.forgetful.remove(loader);
    }

    /// It was looked through to its end: all that `loader` has not loaded waits, unless something was forgotten meanwhile.
    pub fn know(&mut self, loader: &str) {
        if !self.forgetful.contains(loader) {
            self.known.insert(loader.to_string());
        }
    }

    /// How many folders wait for `loader`.
    pub fn len(&self, loader: &str) -> usize {
        self.waiting.get(loader).map_or(0, BTreeMap::len)
    }

    /// Whether nothing waits that could be tried now or later.
    pub fn is_empty(&self) -> bool {
        self.waiting.values().all(BTreeMap::is_empty)
    }

    /// Takes up to `most` folders that are to be loaded by `loader` now, the oldest first: they are under way until [`Queue::done`], [`Queue::failed`] or
    /// [`Queue::left`].
    pub fn take(&mut self, loader: &str, now_ms: i64, most: usize) -> Vec<Waiting> {
        let entries = self.waiting.get_mut(loader).into_iter().flat_map(BTreeMap::values_mut);
        let mut due: Vec<_> = entries.filter(|entry| !entry.is_running && entry.not_before_ms <= now_ms).collect();
        due.sort_by_key(|entry| entry.waiting.window_end_ms);
        let taken = due.into_iter().take(most).map(|entry| {
            entry.is_running = true;
            entry.waiting.clone()
        });
        taken.collect()
    }

    /// The folder was loaded at `revision`. One that was completed again meanwhile waits on.
    pub fn done(&mut self, loader: &str, id: &FolderId, revision: u32) {
        let Some(of_loader) = self.waiting.get_mut(loader) else { return };
        let Some(entry) = of_loader.get_mut(id) else { return };
        entry.is_running = false;
        entry.waiting.error = None;
        if entry.waiting.revision <= revision {
            of_loader.remove(id);
        }
    }

    /// It was not; it is tried again after a pause that doubles each time. Whether the reason is a new one.
    pub fn failed(&mut self, loader: &str, id: &FolderId, error: &str, now_ms: i64) -> bool {
        let Some(entry) = self.entry(loader, id) else { return false };
        let error: String = error.chars().take(ERROR_CHARS_MAX).collect();
        let pause_ms = pause_ms(entry.tries);
        entry.is_running = false;
        entry.tries = entry.tries.saturating_add(1);
        entry.not_before_ms = now_ms.saturating_add(pause_ms);
        let is_new = entry.waiting.error.as_ref() != Some(&error);
        entry.waiting.error = Some(error);
        is_new
    }

    /// It was not tried.
    pub fn left(&mut self, loader: &str, id: &FolderId) {
        if let Some(entry) = self.entry(loader, id) {
            entry.is_running = false;
        }
    }

    /// Nothing is under way by `loader`.
    pub fn left_all(&mut self, loader: &str) {
        self.waiting
            .get_mut(loader)
            .into_iter()
            .flat_map(BTreeMap::values_mut)
            .for_each(|entry| entry.is_running = false);
    }

    fn entry(&mut self, loader: &str, id: &FolderId) -> Option<&mut Entry> {
        self.waiting.get_mut(loader)?.get_mut(id)
    }

    /// A folder that failed when it was tried last, of any loader.
    pub fn trouble(&self) -> Option<&Waiting> {
        let entries = self.waiting.values().flat_map(BTreeMap::values);
        entries.map(|entry| &entry.waiting).find(|waiting| waiting.error.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(hour: i64) -> FolderId {
        FolderId { output: "json".into(), destination: "s3://b".into(), folder: format!("t/hr={hour}") }
    }

    fn waiting(loader: &str, hour: i64, revision: u32) -> Waiting {
        Waiting { loader: loader.into(), id: id(hour), revision, window_end_ms: hour, error: None }
    }

    fn hours(taken: &[Waiting]) -> Vec<i64> {
        taken.iter().map(|waiting| waiting.window_end_ms).collect()
    }

    /// Goal: the oldest come first, what is under way is not taken again, what failed waits longer each time, and what came meanwhile is not lost.
    #[test]
    fn what_waits_is_taken_once_and_again_after_a_pause() {
        let mut queue = Queue::default();
        for hour in [3, 1, 2] {
            queue.enqueue(waiting("a", hour, 1));
        }
        queue.enqueue(waiting("b", 1, 1));
        assert_eq!(hours(&queue.take("a", 0, 2)), [1, 2]);
        assert_eq!(hours(&queue.take("a", 0, 9)), [3]);
        assert!(queue.take("a", 0, 9).is_empty(), "all are under way");
        queue.done("a", &id(1), 1);
        assert!(queue.failed("a", &id(2), "no", 0) && !queue.failed("a", &id(2), "no", 5));
        queue.left("a", &id(3));
        assert_eq!(hours(&queue.take("a", 20_004, 9)), [3]);
        assert_eq!(hours(&queue.take("a", 20_005, 9)), [2], "the second pause is twice as long");
        // A newer revision came while the older one was loaded.
        queue.enqueue(waiting("a", 3, 2));
        queue.done("a", &id(3), 1);
        assert_eq!(queue.take("a", 20_005, 9)[0].revision, 2);
        queue.done("a", &id(3), 2);
        queue.done("a", &id(2), 1);
        assert_eq!((queue.len("a"), queue.len("b")), (0, 1));
    }

    /// Goal: what is kept comes back with its reasons, but not for loaders that are gone; those that are new lack everything.
    #[test]
    fn what_is_kept_comes_back_for_loaders_that_are_there() {
        let mut queue = Queue::default();
        queue.know("a");
        queue.know("gone");
        queue.enqueue(waiting("a", 1, 2));
        queue.enqueue(waiting("gone", 1, 2));
        queue.failed("a", &id(1), "no", 0);
        let (known, kept) = queue.kept();
        let mut again = Queue::of(known.clone(), kept.clone(), |loader| loader != "gone", |_| true);
        assert!(!again.lacks("a") && again.lacks("b") && again.lacks("gone"));
        assert_eq!(again.trouble().and_then(|waiting| waiting.error.as_deref()), Some("no"));
        assert_eq!((again.len("gone"), hours(&again.take("a", 0, 9))), (0, vec![1]), "a restart tries at once");
        assert_eq!(
            Queue::of(known, kept, |_| true, |waiting| waiting.loader != "a").len("a"),
            0,
            "it takes no such folder any more"
        );
    }

    /// Goal: more than there is room for is not lost: the bucket is looked through again when there is room.
    #[test]
    fn more_than_there_is_room_for_is_looked_for_again() {
        let mut queue = Queue::default();
        queue.know("a");
        for hour in 0..LOADS_MAX as i64 {
            queue.enqueue(waiting("a", hour, 1));
        }
        assert!(!queue.lacks("a"));
        queue.enqueue(waiting("a", -1, 1));
        assert_eq!((queue.len("a"), queue.lacks("a")), (LOADS_MAX, false));
        assert!(queue.take("a", 0, 1)[0].window_end_ms == 0, "the one for which there was no room is not there");
        // One that failed twice gives way.
        for _ in 0..2 {
            queue.failed("a", &id(0), "no", 0);
        }
        queue.enqueue(waiting("a", -1, 1));
        assert_eq!((queue.len("a"), queue.take("a", i64::MAX, 1)[0].window_end_ms), (LOADS_MAX, -1));
        queue.left("a", &id(-1));
        for hour in -1..LOADS_MAX as i64 / 2 {
            queue.done("a", &id(hour), 1);
        }
        assert!(queue.lacks("a"), "half of them are loaded");
        queue.know("a");
        assert!(queue.lacks("a"), "something was forgotten since it was looked for");
        queue.looks("a");
        queue.know("a");
        assert!(!queue.lacks("a"));
    }
}
