//! Rows of columns, for every format that has columns: payloads into plain rows, plain rows into arrow's arrays.

use super::check::RowCheck;
use super::columns::Columns;
use super::row::RowReader;
use super::schema;
use crate::format::json::payload;
use crate::format::{Appended, Row, RowError};
use crate::layout::{Column, Keep, UnknownFields};
use arrow_array::ArrayRef;
use arrow_schema::{Fields, SchemaRef};

/// Rows of one schema.
pub(in crate::format) struct ColumnRows {
    check: RowCheck,
    arrow: SchemaRef,
}

impl ColumnRows {
    /// Prepares rows of `columns` beside the kept ones.
    ///
    /// # Errors
    /// See [`schema::check_columns`].
    pub(in crate::format) fn new(
        columns: &[Column],
        keep: Option<&Keep>,
        unknown: UnknownFields,
    ) -> Result<Self, String> {
        schema::check_columns(columns, keep, unknown)?;
        let arrow = schema::arrow_schema(columns, keep, unknown);
        Ok(Self { check: RowCheck::new(columns, keep, unknown), arrow })
    }

    /// The columns as arrow sees them.
    pub(in crate::format) fn arrow(&self) -> &SchemaRef {
        &self.arrow
    }

    /// Adds `row` in its plain form to `rows`; see [`crate::format::Format::append_row`].
    ///
    /// # Errors
    /// It does not fit the columns; `rows` is unchanged.
    pub(in crate::format) fn append(&self, row: &Row<'_>, rows: &mut Vec<u8>) -> Result<Appended, RowError> {
        let json = payload(row)?;
        let start = rows.len();
        match self.check.append(row, json, rows) {
            Ok(fields_dropped) => Ok(Appended { fields_dropped }),
            Err(refused) => {
                rows.truncate(start);
                Err(refused)
            }
        }
    }
}

/// One array for each of `fields` with all of `rows`, and how many rows they are. `fields` are those of the rows' schema,
/// whatever their names. Room is made for `room` values of each beforehand.
///
/// # Errors
/// They are not rows of this schema.
pub(in crate::format) fn arrays(fields: &Fields, rows: &[u8], room: usize) -> Result<(Vec<ArrayRef>, usize), String> {
    let mut columns = Columns::new(fields, room)?;
    let mut reader = RowReader::new(rows);
    while reader.left() > 0 {
        columns.read(&mut reader).map_err(|broken| broken.to_string())?;
    }
    let count = columns.rows();
    Ok((columns.finish().map_err(|error| error.to_string())?, count))
}
