//! What came of rows, in numbers.

use crate::record::OwnedRecord;
use serde::Serialize;

/// What came of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Rows read, of whole batches at a time.
    pub read: u64,
    /// Records produced.
    pub produced: u64,
    /// Bytes of their keys, values and headers.
    pub bytes: u64,
    /// Rows outside of the times and offsets asked for.
    pub outside: u64,
    /// Rows that do not meet the condition.
    pub filtered: u64,
    /// Of the records produced: those without a timestamp of their own, which have the time of the restore.
    pub untimed: u64,
    /// Transactions committed.
    pub transactions: u64,
}

impl Tally {
    pub(super) fn with(&self, other: &Self) -> Self {
        Self {
            read: self.read + other.read,
            produced: self.produced + other.produced,
            bytes: self.bytes + other.bytes,
            outside: self.outside + other.outside,
            filtered: self.filtered + other.filtered,
            untimed: self.untimed + other.untimed,
            transactions: self.transactions + other.transactions,
        }
    }
}

/// Bytes of a record's key, value and headers.
pub(super) fn bytes(record: &OwnedRecord) -> u64 {
    let headers = record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len));
    let all = record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len);
    (all + headers.sum::<usize>()) as u64
}
