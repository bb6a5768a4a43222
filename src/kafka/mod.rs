//! librdkafka behind the seams of [`crate::consume`]: the only module that names `rdkafka`.
//!
//! ```text
//!            ┌ reading client ── partition queues ──▶ one batch queue ──▶ KafkaSource::poll ──▶ SourceSink
//! connect ───┼ group client ── rebalance callback ─▶ Ownership ◀─ commit thread ◀── KafkaCoordinator::commit
//!            └ meta client ── metadata, watermarks, committed offsets ◀────── everything else
//! ```
//! - [`client`]: librdkafka's settings; what the protocol owns, what follows from the memory budget.
//! - [`held`]: which Kafka partitions are held, and the gate between commits and rebalances.
//! - `group`: the rebalance callback. `membership`: one member, and how it goes away. `topics`: what it subscribes.
//! - `reading`: the client that reads. `readers`: where each reader stands. `met`: what it meets besides records.
//!   `batch_queue`: the parts that need `unsafe`.
//! - [`look`]: the newest records, for whoever only wants to see some.
//! - [`producing`]: transactions, for restores. [`telling`]: records one by one, for hooks.
//! - [`source`]: records and rebalances. [`coordinator`]: offsets. [`meta`]: the cluster and the bounds of its logs.
//!
//! # Invariants
//! - **K-1** A record or an end of partition reaches the sink only for a started partition and only at or above the next
//!   expected position: nothing comes twice, and nothing of an earlier assignment comes at all.
//! - **K-2** A reader always continues at the position this module counted, by an explicit seek. librdkafka's own
//!   bookkeeping is not used: after an end-of-partition event its batch call puts it one record too far. The group's
//!   member reads nothing, so no rebalance moves a reader, and a reader that is out of range is started again alone.
//! - **K-3** A commit is sent while its [`crate::consume::Held`] is alive and the gate is held; the callback kills the
//!   `Held`s, then waits for the gate, then gives the partitions back.
//! - **K-4** After a commit whose outcome is not known nothing more is sent under the same membership.
//!
//! Never stores offsets, never commits on its own (but in the transactions of a restore, for the group of its job), never resets an offset, never creates a topic.

mod batch_queue;
pub mod client;
pub mod cluster;
pub mod coordinator;
pub mod demo;
mod group;
pub mod held;
pub mod look;
mod membership;
mod met;
pub mod meta;
pub mod producing;
mod readers;
mod reading;
pub mod source;
pub mod telling;
mod topics;
mod trouble;

#[cfg(test)]
mod tests;

pub use cluster::KafkaCluster;
pub use coordinator::KafkaCoordinator;
pub use held::PlannedGuard;
pub use meta::{Cluster, MetaClient, TopicInfo};
pub use producing::Transactions;
pub use source::KafkaSource;

use crate::config::KafkaConfig;
use std::sync::Arc;

/// Why no client could be made, or why the cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// A setting of `[kafka.client]` is unknown, has a bad value, or may not be set. The value is not shown: it may be a secret.
    #[error("[kafka.client] \"{key}\": {problem}")]
    Setting {
        /// The key as written.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// librdkafka refused to make a client.
    #[error("cannot make a Kafka client for {brokers}: {problem}")]
    Create {
        /// `[kafka] brokers`.
        brokers: String,
        /// librdkafka's own words.
        problem: String,
    },
    /// No broker gave an answer in time.
    #[error("no answer from Kafka at {brokers} within {seconds} s: {reasons}")]
    Unreachable {
        /// `[kafka] brokers`.
        brokers: String,
        /// How long it was tried.
        seconds: u64,
        /// What the client met on the way, the newest last.
        reasons: String,
    },
    /// A broker refused the login.
    #[error("Kafka at {brokers} does not let this user in: {reasons}")]
    Refused {
        /// `[kafka] brokers`.
        brokers: String,
        /// What the client met on the way, the newest last.
        reasons: String,
    },
}

impl KafkaError {
    /// How the process ends because of it.
    pub fn exit(&self) -> crate::exit::Exit {
        match self {
            Self::Setting { .. } | Self::Create { .. } => crate::exit::Exit::Config,
            Self::Unreachable { .. } => crate::exit::Exit::Unreachable,
            Self::Refused { .. } => crate::exit::Exit::Refused,
        }
    }
}

/// Which topics are read.
pub struct Wanted {
    /// Exact names. They are subscribed even while they do not exist.
    pub names: Vec<String>,
    /// Whether an existing topic is wanted. Called for every topic of the cluster every few seconds, from a thread of its own.
    pub matches: Box<dyn Fn(&str) -> bool + Send>,
}

impl Wanted {
    /// The topics of these archives: what [`crate::config::TopicPatterns::matches`] says.
    pub fn of(patterns: Vec<crate::config::TopicPatterns>) -> Self {
        let mut names: Vec<String> = patterns.iter().flat_map(|one| one.names.iter().cloned()).collect();
        names.retain(|name| patterns.iter().any(|one| one.matches(name)));
        names.sort();
        names.dedup();
        Self { names, matches: Box::new(move |topic| patterns.iter().any(|one| one.matches(topic))) }
    }
}

/// Makes the two sides of one group member. Nothing is contacted before the first [`crate::consume::Source::poll`] or
/// the first question to the coordinator; an unreachable broker shows as `trouble`.
///
/// `memory_bytes` is what librdkafka may use; [`client::Memory`] says how it is divided.
///
/// # Errors
/// [`KafkaError::Setting`] and [`KafkaError::Create`]: the configuration cannot work; the process ends.
pub fn connect(
    config: &KafkaConfig,
    memory_bytes: u64,
    wanted: Wanted,
) -> Result<(KafkaSource, Arc<KafkaCoordinator>), KafkaError> {
    let settings = client::Settings::of(config, memory_bytes)?;
    let meta = Arc::new(MetaClient::new(config)?);
    let membership = Arc::new(membership::Membership::new(config.revoke_grace));
    let subscription = topics::Subscription::new(topics::watch(meta.clone(), wanted));
    let coordinator = Arc::new(KafkaCoordinator::new(membership.clone(), meta));
    let source = KafkaSource::new(settings, membership, subscription)?;
    Ok((source, coordinator))
}
