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

    /// Why a record may not be produced: its time, or its size. To ask the broker would cost the whole transaction.
    pub(super) fn checked(&self, record: &OwnedRecord, met: &Met) -> Option<Failure> {
        let alone = batch_bytes(record);
        if self.how.message_bytes_max.is_some_and(|most| alone > most) {
            let why = format!(
                "a batch of it alone has {alone} bytes, unpacked; raise max.message.bytes of {}",
                self.how.to_topic
            );
            return Some(self.not_taken(met, &why));
        }
        let at_ms = record.timestamp.filter(|&at_ms| at_ms != NO_TIMESTAMP)?;
        let problem = self.how.limits.problem(at_ms, self.how.to_topic)?;
        let what = place(self.how.topic, met.partition, met.offset);
        let text = format!("{what}: {problem}. All before it is restored, and the same command goes on with it");
        Some(Failure::new(Exit::Stopped, text))
    }
}

/// Bytes of a batch that holds this record alone and is not packed, in version 2 of Kafka's message format
/// (<https://kafka.apache.org/documentation/#messageformat>): what `max.message.bytes` is compared with.
fn batch_bytes(record: &OwnedRecord) -> u64 {
    /// Attributes, and the differences of time and offset, which are 0.
    const FIXED: usize = 3;
    const BATCH: usize = 61;
    let of = |bytes: Option<&[u8]>| bytes.map_or(varint(-1), |bytes| varint(length(bytes)) + bytes.len());
    let headers = record.headers.iter().map(|(name, value)| of(Some(name.as_bytes())) + of(value.as_deref()));
    let count = varint(i64::try_from(record.headers.len()).unwrap_or(i64::MAX));
    let body = FIXED + of(record.key.as_deref()) + of(record.value.as_deref()) + count + headers.sum::<usize>();
    (BATCH + varint(i64::try_from(body).unwrap_or(i64::MAX)) + body) as u64
}

fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// Bytes of a zigzag varint.
fn varint(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)).unsigned_abs().max(1);
    (64 - zigzag.leading_zeros() as usize).div_ceil(7)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: sizes as the format has them. Method: counted by hand from its description.
    #[test]
    fn a_batch_of_one_record_is_as_large_as_the_format_says() {
        let record = |key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]| OwnedRecord {
            topic: "t".into(),
            partition: 0,
            offset: 0,
            timestamp: None,
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: headers.iter().map(|(name, value)| (name.to_string(), value.map(<[u8]>::to_vec))).collect(),
        };
        // Three fixed bytes, a byte for each null, one for the number of headers, one for the length.
        assert_eq!(batch_bytes(&record(None, None, &[])), 61 + 1 + 3 + 1 + 1 + 1);
        assert_eq!(batch_bytes(&record(Some(b"key"), Some(b""), &[])), 61 + 1 + 3 + (1 + 3) + 1 + 1);
        let (long, header) = (vec![0; 64], [("h", Some(&b"v"[..])), ("h", None)]);
        assert_eq!(batch_bytes(&record(None, Some(&long), &header)), 61 + 2 + 3 + 1 + (2 + 64) + 1 + (2 + 2) + (2 + 1));
        assert_eq!([0, -1, 63, 64, -64, -65, 8_191, 8_192].map(varint), [1, 1, 1, 2, 1, 2, 2, 3]);
    }
}
