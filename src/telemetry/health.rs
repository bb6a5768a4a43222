//! Health: what is wrong at the moment, in words for the person on call.
//!
//! *Healthy*: nothing is wrong. *Degraded*: something is retried and lag grows; nothing is lost. *Stopped*: at least one
//! partition waits for a person.

use crate::record::TopicPartition;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of this process in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing is wrong.
    Healthy,
    /// Something is retried.
    Degraded,
    /// A partition waits for a person.
    Stopped,
}

#[derive(Default)]
struct Inner {
    next: u64,
    troubles: BTreeMap<u64, (String, String)>,
    stopped: BTreeMap<TopicPartition, String>,
    kafka: Option<String>,
    spool: Option<String>,
}

/// Collects what is wrong.
#[derive(Default)]
pub struct Health(Mutex<Inner>);

/// One activity that may be failing; forgotten when it is dropped.
pub struct Trouble {
    health: Arc<Health>,
    number: u64,
    what: String,
}

impl Health {
    /// Nothing is wrong yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches an activity; nothing shows until [`Trouble::report`].
    pub fn trouble(self: &Arc<Self>, what: &str) -> Trouble {
        let mut inner = self.lock();
        inner.next += 1;
        Trouble { health: self.clone(), number: inner.next, what: what.to_string() }
    }

    /// A partition stopped.
    pub fn stopped(&self, partition: &TopicPartition, reason: &str) {
        self.lock().stopped.insert(partition.clone(), reason.to_string());
    }

    /// A partition is no longer ours, or goes on.
    pub fn released(&self, partition: &TopicPartition) {
        self.lock().stopped.remove(partition);
    }

    /// The Kafka client is in trouble.
    pub fn kafka_trouble(&self, what: &str) {
        self.lock().kafka = Some(what.to_string());
    }

    /// Kafka answers again.
    pub fn kafka_well(&self) {
        self.lock().kafka = None;
    }

    /// The spool failed.
    pub fn spool_failed(&self, what: &str) {
        self.lock().spool = Some(what.to_string());
    }

    /// The spool works again.
    pub fn spool_well(&self) {
        self.lock().spool = None;
    }

    /// The state in one word.
    pub fn state(&self) -> State {
        let inner = self.lock();
        if !inner.stopped.is_empty() {
            State::Stopped
        } else if !inner.troubles.is_empty() || inner.kafka.is_some() || inner.spool.is_some() {
            State::Degraded
        } else {
            State::Healthy
        }
    }

    /// One line for each thing that is wrong.
    pub fn lines(&self) -> Vec<String> {
        let inner = self.lock();
        let mut lines: Vec<String> =
            inner.stopped.iter().map(|(partition, reason)| format!("stopped {partition}: {reason}")).collect();
        lines.extend(inner.troubles.values().map(|(what, reason)| format!("retrying: {what}: {reason}")));
        lines.extend(inner.kafka.iter().map(|what| format!("kafka: {what}")));
        lines.extend(inner.spool.iter().map(|what| format!("spool: {what}")));
        lines
    }
}

impl Trouble {
    /// It failed, and is tried again.
    pub fn report(&self, reason: &str) {
        self.health.lock().troubles.insert(self.number, (self.what.clone(), reason.to_string()));
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.health.lock().troubles.remove(&self.number);
    }
}
