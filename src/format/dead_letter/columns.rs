//! Dead letters read back from the columns of Parquet, see `format::parquet::envelope`. Columns are found by their names; ones of later
//! releases are passed over.

use super::letter::Letter;
use crate::format::parquet::envelope::read::{column, records};
use arrow_array::cast::AsArray;
use arrow_array::{Array, Int32Array, ListArray, RecordBatch, StringArray};

/// The letters of `batch`.
///
/// # Errors
/// What is wrong with it.
pub fn letters(batch: &RecordBatch) -> Result<Vec<Letter>, String> {
    let records = records(batch)?;
    let index: &Int32Array = column(batch, "index")?;
    let numbers: &Int32Array = column(batch, "row")?;
    let stage: &StringArray = column(batch, "stage")?;
    let outputs: &ListArray = column(batch, "outputs")?;
    let reason: &StringArray = column(batch, "reason")?;
    let number = |of: i32| u32::try_from(of).map_err(|_| format!("{of} is no number of a dead letter"));
    let mut letters = Vec::with_capacity(batch.num_rows());
    for (at, record) in records.into_iter().enumerate() {
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

fn texts(list: &dyn Array) -> Result<Vec<String>, String> {
    let texts = list.as_string_opt::<i32>().ok_or("its outputs are no text")?;
    Ok((0..texts.len()).map(|at| texts.value(at).to_string()).collect())
}
