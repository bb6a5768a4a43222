//! What stops a source partition, or all of a restore, and what is said of it.

use super::position::ProgressError;
use super::produce::{Open, Restore};
use super::target::Trouble;
use super::value::NO_TIMESTAMP;
use crate::exit::{Exit, Failure};
use crate::reader::merge::Source;
use crate::record::{OwnedRecord, offset_after};
use std::sync::Arc;

/// A record as it was met in the archive.
pub(super) struct Met {
    pub(super) partition: i32,
    pub(super) offset: Option<i64>,
    pub(super) bytes: u64,
    pub(super) source: Arc<Source>,
}

/// Why a session ended.
pub(super) enum Stop {
    Trouble(Trouble),
    Failure(Failure),
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
    /// A transaction was refused for what one of its records is: smaller ones find out which, and its source partition stops there.
    pub(super) fn narrow_down(&mut self, refused: Option<Open>, why: String) -> Result<(), Failure> {
        let (records, first) = refused.map_or((0, None), |open| (open.tally.produced, open.first));
        match (records, first) {
            (1, Some(met)) => {
                self.narrow.found();
                let failure = self.not_taken(&met, &why);
                self.stop(met.partition, failure);
            }
            (2.., _) => {
                tracing::warn!(records, "a transaction is refused, and tried again in parts to find the record: {why}");
                self.narrow.refused(records);
            }
            _ => return Err(self.failure(Trouble::Record(why))),
        }
        Ok(())
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
            Trouble::Refused(what) | Trouble::Record(what) => {
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

    /// Why a record's time may not be produced.
    pub(super) fn checked(&self, record: &OwnedRecord, met: &Met) -> Option<Failure> {
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
