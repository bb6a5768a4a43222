//! Whether an archive is complete: receipts against each other, against the listing, against the objects' bytes, against Kafka.
//!
//! ```text
//! receipts ──in offset order──▶ gaps, overlaps, balances          ([`chain`], `check`)
//!     └────▶ table of places ◀──crossed off── listing             ([`table`], `listing`)
//!                 └────▶ missing, other sizes, doubled; strangers ([`finding`])
//! objects ──read back──▶ checksums, rows                          (`deep`)
//! Kafka ──▶ committed offsets, log bounds, records counted        ([`against`])
//! ```
//! # Guarantees
//! - **V-1** Nothing is written, no group is joined, no offset is committed.
//! - **V-2** What goes on meanwhile is no fault: whatever seems to be missing, of another size or unknown is looked for a second time, by
//!   its name, before it is told. Batches that are on their way are told as such: the newest claim, and what a backfill has claimed, unless that was
//!   left ([`jobs`]). One whose receipt has come meanwhile is a batch as others.
//! - **V-3** One fault is told once.
//! - **V-4** Memory does not grow with batches and objects: [`ENTRIES_MAX`] objects are held at a time, 32 bytes each, and 16 for each receipt
//!   that names one of them; those that compactions replaced count as objects. Where there are more, receipts and listings are read again, once for each further pass: twice as many
//!   objects are two passes, or three. Beside it: 40 bytes for each compaction that counts, of all Kafka partitions (an hour's of an output and partition: 9,000 a year are 360 KB);
//!   of one Kafka partition at a time 16 bytes for each object that was replaced and some 500 for each that counts in their place, the names of its documents (some 20 bytes a
//!   batch), and one fold of its receipts; and what `listing` and `read` say.
//!
//! What is not proven is told in the guide (`siltstone help verify`).

pub mod against;
pub mod chain;
mod check;
mod compactions;
mod compare;
mod deep;
mod examine;
pub mod finding;
pub mod jobs;
pub mod layouts;
mod listing;
mod read;
pub mod repair;
mod run;
mod scope;
mod stranger;
pub mod table;
#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::config::Config;
use crate::exit::Failure;
use crate::ledger::Destinations;
use crate::record::{OffsetRange, TopicPartition};
use against::Cluster;
use finding::{Finding, Kind, Note};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Objects that are held at a time: 64 MiB, and up to 32 MiB for the receipts that name them.
pub const ENTRIES_MAX: usize = 2_000_000;

/// What is verified, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Only this archive.
    pub archive: Option<String>,
    /// Only this topic.
    pub topic: Option<String>,
    /// Only these Kafka partitions; of all where it is empty.
    pub partitions: Vec<i32>,
    /// Only batches with an object whose event times reach this, milliseconds UTC.
    pub since_ms: Option<i64>,
    /// Only batches with an object whose event times begin before this, milliseconds UTC.
    pub until_ms: Option<i64>,
    /// Objects are read back.
    pub deep: bool,
    /// With [`Parts::cluster`]: records are counted in Kafka, too. Without it only offsets are compared.
    pub counts: bool,
    /// See [`ENTRIES_MAX`]. Less is for tests.
    pub entries_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        let (archive, topic, since_ms, until_ms) = (None, None, None, None);
        let partitions = Vec::new();
        let (deep, counts) = (false, true);
        Self { archive, topic, partitions, since_ms, until_ms, deep, counts, entries_max: ENTRIES_MAX }
    }
}

impl Options {
    fn takes_topic(&self, topic: &str) -> bool {
        self.topic.as_deref().is_none_or(|wanted| wanted == topic)
    }

    fn takes(&self, partition: &TopicPartition) -> bool {
        self.takes_topic(&partition.topic)
            && (self.partitions.is_empty() || self.partitions.contains(&partition.partition))
    }
}

/// How far it is, for whoever watches.
#[derive(Debug, Default)]
pub struct Counters {
    /// Receipts read, in all passes.
    pub receipts: AtomicU64,
    /// Objects listed.
    pub listed: AtomicU64,
    /// Of them with names that are not the archive's.
    pub others: AtomicU64,
    /// Bytes of objects read back.
    pub read_bytes: AtomicU64,
    /// Records counted in Kafka.
    pub counted: AtomicU64,
    /// Findings.
    pub findings: AtomicU64,
}

impl Counters {
    /// One line for a person.
    pub fn describe(&self) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut line = format!("{} receipts, {} objects listed", get(&self.receipts), get(&self.listed));
        if get(&self.read_bytes) > 0 {
            line += &format!(", {} MB read back", get(&self.read_bytes) / 1_000_000);
        }
        if get(&self.counted) > 0 {
            line += &format!(", {} records counted in Kafka", get(&self.counted));
        }
        line + &format!(", {} findings", get(&self.findings))
    }
}

/// What is told on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something is wrong.
    Finding(Finding),
    /// Nothing is wrong.
    Note(Note),
}

/// Everything in numbers. The fields are those of the last line of `--json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Names of the archives.
    pub archives: Vec<String>,
    /// Kafka partitions.
    pub partitions: u64,
    /// Receipts of batches that are meant, and of replays.
    pub receipts: u64,
    /// Batches that are claimed and on their way.
    pub open: u64,
    /// Objects that these receipts name.
    pub objects: u64,
    /// Objects that were listed.
    pub listed: u64,
    /// Of them those whose names are not the archive's.
    pub others: u64,
    /// Listed objects with the archive's names of which it cannot be told whether somebody vouches for them, as the receipt of their
    /// batch cannot be read.
    pub undecided: u64,
    /// Rows in objects, as receipts say: those of all outputs and destinations.
    pub rows: u64,
    /// Bytes of objects, as receipts say.
    pub bytes: u64,
    /// Records in Kafka that were gone before they could be read, in offsets.
    pub absent: u64,
    /// Rows that receipts name as lost.
    pub lost: u64,
    /// Objects that are not the ones their batches would have put.
    pub kept: u64,
    /// Objects that were read back.
    pub read_back: u64,
    /// Compactions that count.
    #[serde(skip_serializing_if = "is_none")]
    pub compactions: u64,
    /// Objects that these replaced: receipts of batches name them, and they are not to be there. Each at each of its destinations.
    #[serde(skip_serializing_if = "is_none")]
    pub replaced: u64,
    /// Findings by kind; kinds without one are left out.
    pub findings: BTreeMap<Kind, u64>,
    /// How often receipts and listings were read.
    pub passes: u64,
    /// Time it took, in milliseconds.
    pub took_ms: i64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

impl Summary {
    /// Whether nothing is wrong.
    pub fn is_complete(&self) -> bool {
        self.findings.is_empty()
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// In numbers.
    pub summary: Summary,
    /// What is to be archived again: see [`repair::Repairs`].
    pub repairs: BTreeMap<TopicPartition, Vec<OffsetRange>>,
}

/// Where and with what it is verified.
#[derive(Clone)]
pub struct Parts {
    /// Stores by URL.
    pub destinations: Destinations,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Kafka, where it is to be compared with.
    pub cluster: Option<Arc<dyn Cluster>>,
    /// Shows how far it is.
    pub counters: Arc<Counters>,
}

/// Verifies the archives of `config` that `options` names, and tells what it finds as it finds it. What is wrong is no error: see
/// [`Summary::is_complete`].
///
/// # Errors
/// A store or Kafka that refuses or does not answer, no such archive, an archive of another group; what `tell` returns.
pub async fn verify(
    config: &Config,
    parts: Parts,
    options: &Options,
    tell: &mut (dyn FnMut(Told) -> Result<(), Failure> + Send),
) -> Result<Verified, Failure> {
    run::Run::begin(config, parts, options, tell).await?.finish().await
}

/// The ranges that must be archived again, by Kafka partition: gaps, and the whole ranges of batches of which an object is missing,
/// has another size or, with [`Options::deep`], other bytes. With [`Parts::cluster`] also what the live group has committed
/// and nobody vouches for. Merged, sorted, half-open; what must be archived again to mend the archive, no more and no less.
///
/// Kafka may not hold all of it any more: who archives again finds out.
///
/// # Errors
/// As [`verify`].
pub async fn missing(
    config: &Config,
    parts: Parts,
    options: &Options,
) -> Result<BTreeMap<TopicPartition, Vec<OffsetRange>>, Failure> {
    Ok(verify(config, parts, options, &mut |_| Ok(())).await?.repairs)
}
