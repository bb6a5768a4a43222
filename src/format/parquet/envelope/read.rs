//! Whole records read back. Columns are found by their names; ones of later releases are passed over.

use crate::record::{HeaderList, OwnedRecord};
use arrow_array::cast::AsArray;
use arrow_array::{
    Array, BinaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMillisecondArray,
};

/// The records of `batch`, as they were.
///
/// # Errors
/// What is wrong with it.
pub fn records(batch: &RecordBatch) -> Result<Vec<OwnedRecord>, String> {
    let topic: &StringArray = column(batch, "topic")?;
    let partition: &Int32Array = column(batch, "partition")?;
    let offset: &Int64Array = column(batch, "offset")?;
    let timestamp: &TimestampMillisecondArray = column(batch, "timestamp")?;
    let beyond: &Int64Array = column(batch, "timestamp_beyond")?;
    let key: &BinaryArray = column(batch, "key")?;
    let value: &BinaryArray = column(batch, "value")?;
    let headers: &ListArray = column(batch, "headers")?;
    let bytes = |of: &BinaryArray, at: usize| of.is_valid(at).then(|| of.value(at).to_vec());
    let mut records = Vec::with_capacity(batch.num_rows());
    for at in 0..batch.num_rows() {
        let beyond = beyond.is_valid(at).then(|| beyond.value(at));
        records.push(OwnedRecord {
            topic: topic.value(at).to_string(),
            partition: partition.value(at),
            offset: offset.value(at),
            timestamp: timestamp.is_valid(at).then(|| timestamp.value(at)).or(beyond),
            key: bytes(key, at),
            value: bytes(value, at),
            headers: header_list(&headers.value(at), "key")?,
        });
    }
    Ok(records)
}

/// The column of that name.
///
/// # Errors
/// There is none, or it is of another type.
pub(in crate::format) fn column<'b, T: Array + 'static>(batch: &'b RecordBatch, name: &str) -> Result<&'b T, String> {
    let found = batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"))?;
    let kind = found.data_type();
    found.as_any().downcast_ref().ok_or_else(|| format!("its column {name} is of type {kind}"))
}

/// Headers in their order; `name`: the field that has their names.
///
/// # Errors
/// They are none.
pub(crate) fn header_list(headers: &dyn Array, name: &str) -> Result<HeaderList, String> {
    let wrong = || "its headers are no names and values".to_string();
    let headers: &StructArray = headers.as_struct_opt().ok_or_else(wrong)?;
    let keys = headers.column_by_name(name).and_then(|keys| keys.as_string_opt::<i32>()).ok_or_else(wrong)?;
    let values = headers.column_by_name("value").and_then(|values| values.as_binary_opt::<i32>()).ok_or_else(wrong)?;
    let value = |at: usize| values.is_valid(at).then(|| values.value(at).to_vec());
    Ok((0..headers.len()).map(|at| (keys.value(at).to_string(), value(at))).collect())
}
