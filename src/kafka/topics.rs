//! The subscription: which topics are wanted, watched by a thread of its own, and told to the member.
//!
//! Exact names are subscribed from the start; topics that match are added within [`REFRESH_MS`] of their appearance.

use super::Wanted;
use super::client::REFRESH_MS;
use super::membership::GroupClient;
use super::meta::MetaClient;
use rdkafka::consumer::Consumer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A topic that matched a pattern is let go after it was missing this often: one listing may be incomplete.
const MISSING_MAX: u32 = 3;

/// What the watcher has found.
#[derive(Default)]
struct Found {
    /// Topics to subscribe, sorted; `None` before the first listing.
    topics: Option<Vec<String>>,
    /// Counts listings.
    listing: u64,
    troubles: Vec<String>,
    stopped: bool,
}

/// The topics to subscribe, kept up to date by a thread of its own.
pub(super) struct TopicWatch {
    found: Arc<(Mutex<Found>, Condvar)>,
}

impl TopicWatch {
    /// The number of the last listing and the topics to subscribe, if it is another than `seen` (0: none).
    fn newer_than(&self, seen: u64) -> Option<(u64, Vec<String>)> {
        let found = self.found.0.lock().unwrap_or_else(PoisonError::into_inner);
        if found.listing == seen {
            return None;
        }
        Some((found.listing, found.topics.clone()?))
    }

    fn troubles(&self) -> Vec<String> {
        std::mem::take(&mut self.found.0.lock().unwrap_or_else(PoisonError::into_inner).troubles)
    }

    fn stop(&self) {
        self.found.0.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.found.1.notify_all();
    }
}

/// What the present member is subscribed to.
pub(super) struct Subscription {
    watch: TopicWatch,
    subscribed: Vec<String>,
    /// The listing that `subscribed` was made from; 0: none.
    listing: u64,
}

impl Subscription {
    pub(super) fn new(watch: TopicWatch) -> Self {
        Self { watch, subscribed: Vec::new(), listing: 0 }
    }

    /// A new member has no subscription.
    pub(super) fn forget(&mut self) {
        self.subscribed.clear();
        self.listing = 0;
    }

    /// Brings the subscription of `client` up to what the watcher found; returns what to complain about. Partitions already
    /// held stay (cooperative).
    pub(super) fn follow(&mut self, client: &GroupClient) -> Vec<String> {
        let mut troubles = self.watch.troubles();
        let Some((listing, topics)) = self.watch.newer_than(self.listing) else { return troubles };
        self.listing = listing;
        if topics == self.subscribed {
            return troubles;
        }
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        if names.is_empty() {
            client.unsubscribe();
        } else if let Err(error) = client.subscribe(&names) {
            troubles.push(format!("subscribe to {} topics: {error}", names.len()));
            return troubles;
        }
        tracing::info!(topics = names.len(), "subscription changed");
        self.subscribed = topics;
        troubles
    }

    /// Ends the watcher's thread at its next step; does not wait for it.
    pub(super) fn stop(&self) {
        self.watch.stop();
    }
}

/// Lists the cluster's topics again and again and keeps those that are wanted.
pub(super) fn watch(meta: Arc<MetaClient>, wanted: Wanted) -> TopicWatch {
    let found: Arc<(Mutex<Found>, Condvar)> = Arc::default();
    let theirs = found.clone();
    let look = move || {
        let mut selection = Selection::new(wanted);
        let mut wait = Duration::ZERO;
        loop {
            {
                let (lock, stop) = &*theirs;
                let state = lock.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = stop.wait_timeout_while(state, wait, |state| !state.stopped);
                if waited.unwrap_or_else(PoisonError::into_inner).0.stopped {
                    return;
                }
            }
            meta.drain();
            wait = match meta.cluster(Duration::from_secs(10)) {
                Ok(cluster) => {
                    let troubles = selection.update(cluster.topics.into_iter().map(|topic| topic.name));
                    let mut state = theirs.0.lock().unwrap_or_else(PoisonError::into_inner);
                    state.topics = Some(selection.topics());
                    state.listing += 1;
                    state.troubles.extend(troubles);
                    Duration::from_millis(REFRESH_MS)
                }
                // The group client reports the same fault in more words.
                Err(_) => Duration::from_secs(1),
            };
        }
    };
    if let Err(error) = std::thread::Builder::new().name("kafka-topics".into()).spawn(look) {
        let what = format!("no thread to look for topics: {error}");
        found.0.lock().unwrap_or_else(PoisonError::into_inner).troubles.push(what);
    }
    TopicWatch { found }
}

/// Which topics to subscribe: all exact names, and the existing topics that match.
struct Selection {
    wanted: Wanted,
    /// Topics found by a match, with how many listings in a row they were missing.
    matched: BTreeMap<String, u32>,
    reported: BTreeSet<String>,
}

impl Selection {
    fn new(wanted: Wanted) -> Self {
        Self { wanted, matched: BTreeMap::new(), reported: BTreeSet::new() }
    }

    /// Takes in a listing; returns what is new to complain about.
    fn update(&mut self, existing: impl Iterator<Item = String>) -> Vec<String> {
        let existing: BTreeSet<String> = existing.collect();
        self.matched.retain(|topic, missing| {
            *missing = if existing.contains(topic) { 0 } else { *missing + 1 };
            *missing < MISSING_MAX
        });
        for topic in existing.iter().filter(|topic| (self.wanted.matches)(topic)) {
            self.matched.insert(topic.clone(), 0);
        }
        let mut troubles = Vec::new();
        for name in &self.wanted.names {
            if existing.contains(name) {
                self.reported.remove(name);
            } else if self.reported.insert(name.clone()) {
                troubles.push(format!(
                    "topic {name} does not exist, or this user may not see it (right DESCRIBE); it is read within 60 s once it does"
                ));
            }
        }
        troubles
    }

    fn topics(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.wanted.names.iter().chain(self.matched.keys()).collect();
        all.into_iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(names: &[&str], prefix: &'static str) -> Selection {
        let names: Vec<String> = names.iter().map(|name| (*name).to_string()).collect();
        Selection::new(Wanted { names, matches: Box::new(move |topic| topic.starts_with(prefix)) })
    }

    fn listing(names: &[&str]) -> impl Iterator<Item = String> {
        names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn exact_names_are_wanted_before_they_exist_and_complained_about_once() {
        let mut selection = selection(&["access"], "app.");
        let troubles = selection.update(listing(&["app.a", "other"]));
        assert_eq!(troubles.len(), 1);
        assert!(troubles[0].starts_with("topic access does not exist"), "{troubles:?}");
        assert_eq!(selection.topics(), ["access", "app.a"]);
        assert!(selection.update(listing(&["app.a"])).is_empty(), "once is enough");
        assert!(selection.update(listing(&["access", "app.a", "app.b"])).is_empty());
        assert_eq!(selection.topics(), ["access", "app.a", "app.b"]);
        assert_eq!(selection.update(listing(&["app.a"])).len(), 1, "deleted: news again");
    }

    #[test]
    fn a_matched_topic_survives_two_incomplete_listings() {
        let mut selection = selection(&[], "app.");
        selection.update(listing(&["app.a", "app.b"]));
        for _ in 1..MISSING_MAX {
            selection.update(listing(&["app.b"]));
            assert_eq!(selection.topics(), ["app.a", "app.b"]);
        }
        selection.update(listing(&["app.b"]));
        assert_eq!(selection.topics(), ["app.b"]);
    }
}
