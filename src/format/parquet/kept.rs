//! Kafka's own columns in the rows of Parquet: what no payload can get wrong.

use super::row::{END, VALUE, push_bytes, push_field};
use crate::format::RowError;
use crate::layout::{Keep, KeptColumn};
use crate::parse::timestamp::{TIME_MS_MAX, TIME_MS_MIN};
use crate::record::Record;

/// The kept columns of an output: the first fields of its rows, in this order.
pub(super) struct KeptColumns(Vec<KeptColumn>);

impl KeptColumns {
    pub(super) fn new(keep: Option<&Keep>) -> Self {
        Self(keep.map_or_else(Vec::new, |keep| keep.columns.clone()))
    }

    /// How many fields they are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Writes those that are not null.
    ///
    /// # Errors
    /// A timestamp that readers cannot show: it would take the whole file with it.
    pub(super) fn write(&self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<(), RowError> {
        for (number, column) in self.0.iter().enumerate() {
            match column {
                KeptColumn::Key => {
                    if let Some(key) = record.key {
                        push_field(number, rows);
                        push_bytes(key, rows);
                    }
                }
                KeptColumn::Headers => {
                    push_field(number, rows);
                    write_headers(record, rows);
                }
                KeptColumn::Timestamp => {
                    if let Some(ms) = record.timestamp {
                        if !(TIME_MS_MIN..=TIME_MS_MAX).contains(&ms) {
                            let what = format!("the Kafka timestamp {ms} ms is outside the years 1 to 9999");
                            return Err(RowError(what));
                        }
                        push_field(number, rows);
                        rows.extend_from_slice(&ms.to_le_bytes());
                    }
                }
                KeptColumn::Topic => {
                    push_field(number, rows);
                    push_bytes(record.topic.as_bytes(), rows);
                }
                KeptColumn::Partition => {
                    push_field(number, rows);
                    rows.extend_from_slice(&record.partition.to_le_bytes());
                }
                KeptColumn::Offset => {
                    push_field(number, rows);
                    rows.extend_from_slice(&record.offset.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

/// A list of structs of name and value, which may be null.
pub(super) fn write_headers(record: &Record<'_>, rows: &mut Vec<u8>) {
    for index in 0..record.headers.len() {
        let (name, value) = record.headers.get(index);
        rows.push(VALUE);
        push_field(0, rows);
        push_bytes(name.as_bytes(), rows);
        if let Some(value) = value {
            push_field(1, rows);
            push_bytes(value, rows);
        }
        rows.push(END);
    }
    rows.push(END);
}
