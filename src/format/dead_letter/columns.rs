//! Dead letters read back from the columns of Parquet, see `format::parquet::envelope`. Columns are found by their names; ones of later
//! releases are passed over.

use super::letter::Letter;
use crate::record::{HeaderList, OwnedRecord};
use arrow_array::cast::AsArray;
use arrow_array::{
    Array, BinaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMillisecondArray,
};

/// The letters of `batch`.
///
/// # Errors
/// What is wrong with it.
pub fn letters(batch: &RecordBatch) -> Result<Vec<Letter>, String> {
    let topic: &StringArray = column(batch, "topic")?;
    let partition: &Int32Array = column(batch, "partition")?;
    let offset: &Int64Array = column(batch, "offset")?;
    let timestamp: &TimestampMillisecondArray = column(batch, "timestamp")?;
    let beyond: &Int64Array = column(batch, "timestamp_beyond")?;
    let key: &BinaryArray = column(batch, "key")?;
    let value: &BinaryArray = column(batch, "value")?;
    let headers: &ListArray = column(batch, "headers")?;
    let index: &Int32Array = column(batch, "index")?;
    let numbers: &Int32Array = column(batch, "row")?;
    let stage: &StringArray = column(batch, "stage")?;
    let outputs: &ListArray = column(batch, "outputs")?;
    let reason: &StringArray = column(batch, "reason")?;
    let bytes = |of: &BinaryArray, at: usize| of.is_valid(at).then(|| of.value(at).to_vec());
    let number = |of: i32| u32::try_from(of).map_err(|_| format!("{of} is no number of a dead letter"));
    let mut letters = Vec::with_capacity(batch.num_rows());
    for at in 0..batch.num_rows() {
        let beyond = beyond.is_valid(at).then(|| beyond.value(at));
        let record = OwnedRecord {
            topic: topic.value(at).to_string(),
            partition: partition.value(at),
            offset: offset.value(at),
            timestamp: timestamp.is_valid(at).then(|| timestamp.value(at)).or(beyond),
            key: bytes(key, at),
            value: bytes(value, at),
            headers: header_list(&headers.value(at))?,
        };
        letters.push(Letter {
            record,
            index: number(index.value(at))?,
            row: numbers.is_valid(at).then(|| number(numbers.value(at))).transpose()?,
            stage: stage.value(at).to_string(),
            outputs: texts(&outputs.value(at))?,
            reason: reason.value(at).to_string(),
        });
    }
    Ok(letters)
}

fn column<'b, T: Array + 'static>(batch: &'b RecordBatch, name: &str) -> Result<&'b T, String> {
    let found = batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"))?;
    let kind = found.data_type();
    found.as_any().downcast_ref().ok_or_else(|| format!("its column {name} is of type {kind}"))
}

fn header_list(headers: &dyn Array) -> Result<HeaderList, String> {
    let wrong = || "its headers are no keys and values".to_string();
    let headers: &StructArray = headers.as_struct_opt().ok_or_else(wrong)?;
    let keys = headers.column_by_name("key").and_then(|keys| keys.as_string_opt::<i32>()).ok_or_else(wrong)?;
    let values = headers.column_by_name("value").and_then(|values| values.as_binary_opt::<i32>()).ok_or_else(wrong)?;
    let value = |at: usize| values.is_valid(at).then(|| values.value(at).to_vec());
    Ok((0..headers.len()).map(|at| (keys.value(at).to_string(), value(at))).collect())
}

fn texts(list: &dyn Array) -> Result<Vec<String>, String> {
    let texts = list.as_string_opt::<i32>().ok_or("its outputs are no text")?;
    Ok((0..texts.len()).map(|at| texts.value(at).to_string()).collect())
}
