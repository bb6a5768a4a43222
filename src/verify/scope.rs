//! What is to be verified: archives, their Kafka partitions, their topics and destinations.

use super::Options;
use super::layouts::Layouts;
use super::read::Reader;
use crate::bucket::receipt::ReceiptObject;
use crate::config::{ArchiveConfig, Config};
use crate::destination::Destination;
use crate::ledger::{Destinations, Site};
use crate::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An archive that is verified.
pub(super) struct Archive {
    pub(super) name: Arc<str>,
    pub(super) reader: Reader,
    pub(super) layouts: Layouts,
    /// The topics that are meant, whether or not there are receipts of them.
    pub(super) topics: Vec<Arc<str>>,
    /// The topic, where the archive can only ever have this one.
    pub(super) only: Option<Arc<str>>,
}

/// Everything that is verified.
pub(super) struct Scope {
    pub(super) archives: Vec<Archive>,
    /// Index of the archive, and the Kafka partition.
    pub(super) partitions: Vec<(usize, TopicPartition)>,
    /// By id.
    pub(super) destinations: Arc<Vec<Arc<Destination>>>,
    since_ms: Option<i64>,
    until_ms: Option<i64>,
}

impl Scope {
    /// `topics`: Kafka's topics and how many partitions each has, where it was asked.
    pub(super) fn new(
        config: &Config,
        destinations: &Destinations,
        sites: Vec<(Site<'_>, Reader)>,
        options: &Options,
        topics: Option<&BTreeMap<String, i32>>,
    ) -> Self {
        let mut scope = Self {
            archives: Vec::new(),
            partitions: Vec::new(),
            destinations: Arc::new(destinations.values().cloned().collect()),
            since_ms: options.since_ms,
            until_ms: options.until_ms,
        };
        for (Site { archive, partitions, .. }, reader) in sites {
            let mut all: BTreeSet<TopicPartition> = partitions.into_iter().collect();
            let owned = |topic: &str| options.takes_topic(topic) && owns(config, archive, topic);
            for (topic, &count) in topics.into_iter().flatten().filter(|(topic, _)| owned(topic)) {
                let of_topic = (0..count).map(|number| TopicPartition::new(topic.as_str(), number));
                all.extend(of_topic.filter(|partition| options.takes(partition)));
            }
            // The one that is asked for may match a pattern, and have objects though all its receipts are gone.
            let named = archive.topics.names.iter().chain(&options.topic).filter(|topic| owned(topic));
            let named = named.map(|topic| Arc::from(topic.as_str()));
            let known: BTreeSet<Arc<str>> = all.iter().map(|partition| partition.topic.clone()).chain(named).collect();
            let mut layouts = Layouts::default();
            layouts.add(archive.layout.fingerprint(), Arc::new(archive.layout.clone()));
            let index = scope.archives.len();
            scope.partitions.extend(all.into_iter().map(|partition| (index, partition)));
            scope.archives.push(Archive {
                name: archive.name.as_str().into(),
                reader,
                layouts,
                topics: known.into_iter().collect(),
                only: archive.topics.only().filter(|topic| options.takes_topic(topic)).map(Arc::from),
            });
        }
        scope
    }

    /// Whether only a window of time is meant.
    pub(super) fn is_window(&self) -> bool {
        self.since_ms.is_some() || self.until_ms.is_some()
    }

    /// Whether a batch with these objects is meant. Objects that tell no times are.
    pub(super) fn takes(&self, objects: &[ReceiptObject]) -> bool {
        let in_time = |object: &ReceiptObject| {
            let after = |since| object.event_max_ms.is_none_or(|last| last >= since);
            let before = |until| object.event_min_ms.is_none_or(|first| first < until);
            self.since_ms.is_none_or(after) && self.until_ms.is_none_or(before)
        };
        !self.is_window() || objects.iter().any(in_time)
    }

    /// Index of the destination with that id.
    pub(super) fn destination(&self, id: &str) -> Option<usize> {
        self.destinations.binary_search_by(|destination| destination.id().cmp(id)).ok()
    }
}

fn owns(config: &Config, archive: &ArchiveConfig, topic: &str) -> bool {
    let owner = config.archives.iter().find(|archive| archive.topics.matches(topic));
    owner.is_some_and(|owner| owner.name == archive.name)
}
