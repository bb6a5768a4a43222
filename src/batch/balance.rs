//! The balance of a batch: what became of every record, per output.
//!
//! For each output: `consumed = archived + dead-lettered + dropped`, checked when the batch is sealed. Offsets that
//! Kafka deleted before they were read are `absent` and counted beside it: they were never consumed.

use crate::record::OffsetRange;
use std::collections::BTreeMap;

/// What became of the records of one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Records read.
    pub consumed: u64,
    /// Payload bytes read.
    pub bytes: u64,
    /// Offsets that Kafka no longer had when they were to be read.
    pub absent: Vec<OffsetRange>,
    /// Rows in the dead letters: one a record and failing stage.
    pub dead_letter_rows: u64,
    /// Fields dropped by `unknown = "drop"`.
    pub fields_dropped: u64,
    /// Records that are rows by their Kafka timestamp because the field or header that should tell their time is
    /// missing or unreadable. Depends on records and layout alone.
    pub time_fallbacks: u64,
    /// Per output, in layout order.
    pub outputs: Vec<OutputBalance>,
}

/// What became of the records of one batch in one output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputBalance {
    /// Records that are rows of the output, with all of them.
    pub archived: u64,
    /// Rows of the output: one a record that is not unfolded. Also of records of which others are dead letters.
    pub rows: u64,
    /// Records that are dead letters instead, or of which a row is one.
    pub dead_lettered: u64,
    /// Records dropped, by the name of the rule the user wrote.
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Balance {
    /// A balance of nothing for `outputs` outputs.
    pub fn new(outputs: usize) -> Self {
        Self { outputs: vec![OutputBalance::default(); outputs], ..Self::default() }
    }

    /// Whether every output accounts for every record.
    pub fn holds(&self) -> bool {
        self.outputs.iter().all(|output| {
            output.archived + output.dead_lettered + output.dropped.values().sum::<u64>() == self.consumed
        })
    }
}
