//! JSON lines: one JSON value a line.
//!
//! - Without kept columns a row is the payload's bytes unchanged, white space around the value aside. Newlines and carriage returns are taken out: in
//!   valid JSON they are white space between tokens. A payload that holds one is parsed first, also where the archive
//!   does not validate, and refused if broken: one line stays one value.
//! - With kept columns (see [`super::keep`]) they stand in front of the payload's own fields, which follow as they
//!   are written. A payload that is no object goes under `<prefix>value`; one with a field of a kept name is refused.
//! - A tombstone is `null`, or with kept columns a row of those and `"<prefix>tombstone":true`.
//!
//! Never re-writes a number, a string or the order of fields.

use super::compress::Codec;
use super::keep::JsonKeep;
use super::object::{for_each_field, not_json};
use super::{Appended, Assembler, BlockLimit, EncodedBlock, Format, FormatError, Row, RowError};
use crate::layout::Keep;
use crate::parse::text::quote;
use serde::de::IgnoredAny;
use std::fs::File;
use std::io::{self, Write};

/// JSON lines, compressed by `codec`.
pub(super) struct JsonFormat {
    codec: Codec,
    keep: Option<JsonKeep>,
}

impl JsonFormat {
    pub(super) fn new(codec: Codec, keep: Option<&Keep>) -> Self {
        Self { codec, keep: keep.and_then(JsonKeep::new) }
    }
}

impl Format for JsonFormat {
    fn extension(&self) -> String {
        self.codec.extension("json")
    }

    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn block_limit(&self) -> BlockLimit {
        self.codec.block_limit()
    }

    fn append_row(&self, row: &Row<'_>, rows: &mut Vec<u8>) -> Result<Appended, RowError> {
        let start = rows.len();
        let outcome = match (&self.keep, payload(row)?) {
            (None, Some(json)) => append_line(json, rows),
            (None, None) => {
                rows.extend_from_slice(b"null");
                Ok(())
            }
            (Some(keep), Some(json)) => append_kept(keep, row, json, rows),
            (Some(keep), None) => {
                keep.open(row.record, rows);
                keep.close_tombstone(rows);
                Ok(())
            }
        };
        if let Err(refused) = outcome {
            rows.truncate(start);
            return Err(refused);
        }
        rows.push(b'\n');
        Ok(Appended::default())
    }

    fn encode_block(&self, rows: &[u8], count: u32) -> Result<EncodedBlock, FormatError> {
        self.codec.encode(rows, count)
    }

    fn assemble(&self, out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        self.codec.assemble(out)
    }

    fn count_rows(&self, file: File) -> io::Result<u64> {
        self.codec.count_lines(file)
    }
}

/// The payload's JSON; `None` is a tombstone.
///
/// # Errors
/// A payload without JSON: empty, or of an archive that does not decode.
pub(super) fn payload<'a>(row: &Row<'a>) -> Result<Option<&'a str>, RowError> {
    match (row.json, row.record.value) {
        (Some(""), _) | (None, Some(b"")) => Err(RowError("the payload is empty".to_string())),
        (Some(json), _) => Ok(Some(json)),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(RowError("the payload was not decoded as JSON".to_string())),
    }
}

/// The payload as it is, on one line.
fn append_line(json: &str, rows: &mut Vec<u8>) -> Result<(), RowError> {
    if memchr::memchr2(b'\n', b'\r', json.as_bytes()).is_some() {
        serde_json::from_str::<IgnoredAny>(json).map_err(|broken| not_json(&broken))?;
    }
    append_without_newlines(json.as_bytes(), rows);
    Ok(())
}

/// The payload behind the kept columns.
fn append_kept(keep: &JsonKeep, row: &Row<'_>, json: &str, rows: &mut Vec<u8>) -> Result<(), RowError> {
    let text = json.trim_ascii();
    keep.open(row.record, rows);
    let Some(fields) = text.strip_prefix('{') else {
        serde_json::from_str::<IgnoredAny>(text).map_err(|broken| not_json(&broken))?;
        keep.open_value(rows);
        append_without_newlines(text.as_bytes(), rows);
        rows.push(b'}');
        return Ok(());
    };
    let mut is_empty = true;
    for_each_field(text, |name, _| {
        is_empty = false;
        if keep.reserves(&name) {
            return Err(RowError(format!("the payload has a field {} of its own", quote(&name))));
        }
        Ok(())
    })?;
    if !is_empty {
        rows.push(b',');
    }
    append_without_newlines(fields.as_bytes(), rows);
    Ok(())
}

/// Copies `json`, valid or without newlines, on one line.
fn append_without_newlines(json: &[u8], rows: &mut Vec<u8>) {
    let mut unread = 0;
    for at in memchr::memchr2_iter(b'\n', b'\r', json) {
        rows.extend_from_slice(&json[unread..at]);
        unread = at + 1;
    }
    rows.extend_from_slice(&json[unread..]);
}

#[cfg(test)]
mod tests;
