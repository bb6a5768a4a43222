//! Parquet files from JSON payloads.
//!
//! ```text
//! append_row: check.rs          encode_block: columns.rs, encode.rs       Assembler: encode.rs
//! payload ──────▶ row, as row.rs has it ───────▶ column chunks of a row group ───────▶ file
//! ```
//! Until its row group is full a row is a few bytes that hold only columns of the schema, each checked and in its own
//! type; so what is accepted can be encoded (F-3), and nothing but bytes lies in the spool (F-4). A payload is parsed
//! once on its way.
//!
//! [`schema`] has the columns in Parquet's and arrow's words, `check.rs` the rules of what a column takes and what
//! becomes of the rest, [`infer`] makes columns from records. Never changes a value, but that a `Timestamp` ends at
//! microseconds: what a column cannot tell back is a dead letter, what has no column is in `_rest` by default, dropped
//! fields are counted.

mod check;
mod columns;
mod encode;
pub mod envelope;
pub mod infer;
mod kept;
mod number;
mod pages;
mod row;
pub(in crate::format) mod rows;
mod scalar;
pub mod schema;
mod unique;

pub use encode::EncodedRowGroup;
pub use encode::again::{OpenRowGroup, ParquetAgain};
pub(super) use pages::PageRules;

use super::{Appended, Assembler, BlockLimit, EncodedBlock, Format, FormatError, Row, RowError};
use crate::layout::{Column, Compression, Keep, UnknownFields};
use encode::Encoder;
use parquet::file::metadata::ParquetMetaDataReader;
use rows::ColumnRows;
use std::fs::File;
use std::io::{self, Write};

/// Parquet with one schema.
pub(super) struct ParquetFormat {
    rows: ColumnRows,
    encoder: Encoder,
    limit: BlockLimit,
}

impl ParquetFormat {
    /// Prepares files of `columns` beside the kept ones.
    ///
    /// # Errors
    /// The schema, the compression or the limit cannot be; in words for the person who wrote the layout.
    pub(super) fn new(
        columns: &[Column],
        keep: Option<&Keep>,
        unknown: UnknownFields,
        compression: Compression,
        limit: BlockLimit,
        rules: &PageRules<'_>,
    ) -> Result<Self, String> {
        let rows = ColumnRows::new(columns, keep, unknown)?;
        check_limit(limit)?;
        let encoder = Encoder::new(rows.arrow().clone(), compression, rules, limit)?;
        Ok(Self { rows, encoder, limit })
    }
}

const EXTENSION: &str = "parquet";
const CONTENT_TYPE: &str = "application/vnd.apache.parquet";

fn check_limit(limit: BlockLimit) -> Result<(), String> {
    if limit.bytes == 0 || limit.rows == 0 {
        return Err("a row group of 0 bytes or 0 rows".to_string());
    }
    Ok(())
}

/// Rows of a whole file.
fn count_rows(file: &File) -> io::Result<u64> {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(file).map_err(io::Error::other)?;
    u64::try_from(metadata.file_metadata().num_rows()).map_err(io::Error::other)
}

impl Format for ParquetFormat {
    fn extension(&self) -> String {
        EXTENSION.to_string()
    }

    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn block_limit(&self) -> BlockLimit {
        self.limit
    }

    fn append_row(&self, row: &Row<'_>, rows: &mut Vec<u8>) -> Result<Appended, RowError> {
        self.rows.append(row, rows)
    }

    fn encode_block(&self, rows: &[u8], count: u32) -> Result<EncodedBlock, FormatError> {
        self.encoder.encode(rows, count)
    }

    fn encoding_memory(&self, rows: u64) -> u64 {
        self.encoder.memory(rows)
    }

    fn assemble(&self, out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        self.encoder.assemble(out)
    }

    fn count_rows(&self, file: File) -> io::Result<u64> {
        count_rows(&file)
    }
}

#[cfg(test)]
pub(in crate::format) mod roundtrip;
#[cfg(test)]
pub(in crate::format) mod tests;
