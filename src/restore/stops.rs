//! What stops a source partition, or all of a restore, and what is said of it.

use super::position::ProgressError;
use super::produce::Restore;
use super::target::Trouble;
use super::value::NO_TIMESTAMP;
use crate::exit::{Exit, Failure};
use crate::reader::merge::Source;
use crate::record::{OwnedRecord, offset_after};
use std::sync::Arc;

/// A record of so many bytes may be more than a broker takes at all: its default is 100 MiB a request.
const SUSPECT_BYTES: u64 = 32 << 20;

/// A record as it was met in the archive.
pub(super) struct Met {
    pub(super) partition: i32,
    pub(super) offset: Option<i64>,
    /// Which row of its object.
    pub(super) row: u64,
    pub(super) bytes: u64,
    pub(super) source: Arc<Source>,
}

impl Met {
    fn is_same(&self, other: &Self) -> bool {
        self.row == other.row && self.source.chosen.object.key == other.source.chosen.object.key
    }
}

/// Why a session ended.
pub(super) enum Stop {
    Trouble(Trouble),
    Failure(Failure),
    /// A record cannot be handed over, and why.
    NotTaken(Met, String),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Restore<'_> {
    /// Remembers a record that the target does not take: its source partition stops before it, once all that precedes it is committed.
    pub(super) fn refuse(&mut self, met: Met, why: String) {
        tracing::warn!(
            partition = met.partition,
            "a transaction is aborted, as a record is refused, and tried again up to that: {why}"
        );
        self.refused.insert(met.partition, (met, why));
    }

    /// Says of a record that the target does not take it.
    pub(super) fn not_taken(&self, met: &Met, why: &str) -> Failure {
        let (topic, partition) = (self.how.topic, met.partition);
        let limit = self.how.message_bytes_max.map_or(String::new(), |most| format!(", max.message.bytes={most}"));
        let behind = met.offset.map_or(String::new(), |offset| {
            format!(
                "; to leave it out, restore what is behind it as a job of its own: --partition {partition} --from-offset {}",
                offset_after(offset)
            )
        });
        let text = format!(
            "{} of {}, of {} bytes{limit}, is refused by {}: {why}. All before it is restored, and the same command goes on with it{behind}",
            place(topic, partition, met.offset),
            met.source.chosen.object.key,
            met.bytes,
            self.how.to_topic
        );
        Failure::new(Exit::Refused, text)
    }

    /// The largest record of a transaction that was never committed, where it may be why.
    pub(super) fn largest_of(&self, handed: &[Met]) -> String {
        let largest = handed.iter().max_by_key(|met| met.bytes).filter(|met| met.bytes >= SUSPECT_BYTES);
        largest.map_or(String::new(), |met| {
            format!(
                ". Its largest record is {} of {}, of {} bytes: a broker closes the connection at a request of more than its socket.request.max.bytes",
                place(self.how.topic, met.partition, met.offset),
                met.source.chosen.object.key,
                met.bytes
            )
        })
    }

    pub(super) fn stop(&mut self, partition: i32, failure: Failure) {
        tracing::error!(partition, "a source partition stops, the others go on: {failure}");
        self.stopped.insert(partition, failure);
    }

    /// What trouble means for the process.
    pub(super) fn failure(&self, trouble: Trouble) -> Failure {
        let topic = self.how.to_topic;
        match trouble {
            Trouble::Passing(what) => Failure::new(
                Exit::Unreachable,
                format!("produce to {topic}: {what}; the same command goes on where it is"),
            ),
            Trouble::Refused(what) => {
                Failure::new(Exit::Refused, format!("produce to {topic}: {what}. The same command goes on where it is"))
            }
            Trouble::Fenced(what) => Failure::new(
                Exit::Stopped,
                format!(
                    "another process has taken this job over, and goes on with it ({what}); nothing is lost or doubled"
                ),
            ),
            Trouble::Fatal(what) => Failure::new(
                Exit::Failed,
                format!(
                    "produce to {topic}: {what}; nothing is lost or doubled, and the same command goes on where it is"
                ),
            ),
        }
    }

    /// Why a record may not be produced: it was refused before, or its time would be.
    pub(super) fn checked(&self, record: &OwnedRecord, met: &Met) -> Option<Failure> {
        if let Some((refused, why)) = self.refused.get(&met.partition).filter(|(refused, _)| refused.is_same(met)) {
            return Some(self.not_taken(refused, why));
        }
        let at_ms = record.timestamp.filter(|&at_ms| at_ms != NO_TIMESTAMP)?;
        let problem = self.how.limits.problem(at_ms, self.how.to_topic)?;
        let what = place(self.how.topic, met.partition, met.offset);
        let text = format!("{what}: {problem}. All before it is restored, and the same command goes on with it");
        Some(Failure::new(Exit::Stopped, text))
    }
}

/// Which record of the archive it is, in words.
fn place(topic: &str, partition: i32, offset: Option<i64>) -> String {
    match offset {
        Some(offset) => format!("{topic}/{partition} offset {offset}"),
        None => format!("a row of {topic}/{partition}"),
    }
}

/// What is wrong with the progress that Kafka keeps.
pub(super) fn not_ours(error: ProgressError) -> Failure {
    let exit = match error {
        ProgressError::TooLarge { .. } | ProgressError::Other(_) => Exit::Config,
        ProgressError::Unknown(_) | ProgressError::Partial { .. } => Exit::Stopped,
    };
    Failure::new(exit, format!("how far the job is: {error}"))
}
