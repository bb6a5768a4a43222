//! Dead letters: records that could not become rows, whole and with the reason, as gzip JSON lines or as Parquet.
//!
//! As Parquet they have the columns of [`super::parquet::envelope`]. As JSON:
//! ```json
//! {"topic":"access","partition":3,"offset":17,"index":0,"timestamp":1763712000000,"key_base64":null,
//!  "headers":[["trace","YWI="],["gone",null]],"value_base64":"ey4=","stage":"decode","outputs":["json"],"reason":"…"}
//! ```
//! Lossless: key, payload and header values are base64 of their bytes or null, headers keep order and repeats. Takes
//! every record: nothing here can fail. `row`, only where the record was unfolded, tells which of its rows is meant, from 0.
//! `index` counts the dead letters of one record from 0, in layout order of the outputs
//! that refused it (of several that refuse it together, the first): (topic, partition, offset, index) is a dead letter's
//! identity, and the same whenever it is redone. [`letter`] and [`columns`] read them back.

pub mod columns;
pub mod letter;

use super::compress::Codec;
use super::parquet::envelope::{EnvelopeFormat, append_dead_letter};
use super::{Appended, Assembler, BlockLimit, EncodedBlock, Format, FormatError, Row, RowError};
use crate::layout::DeadLetterFormat;
use crate::parse::text::{write_base64, write_json_string};
use crate::record::Record;
use letter::Letter;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Codec of dead letters in lines.
pub(crate) const CODEC: Codec = Codec::Gzip(6);

/// What a record failed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadLetterStage {
    /// Its payload does not decode.
    Decode,
    /// A program of the user's failed on it.
    Transform,
    /// It has no readable event time, and the rule asks for one.
    Timestamp,
    /// It has no payload, and the rule is to put such records here.
    Tombstone,
    /// An output cannot hold it.
    Row,
}

impl DeadLetterStage {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Transform => "transform",
            Self::Timestamp => "timestamp",
            Self::Tombstone => "tombstone",
            Self::Row => "row",
        }
    }
}

/// What a dead letter says beside its record.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// Counts the dead letters of one record, from 0.
    pub index: usize,
    /// Which of the rows that the record was unfolded to, from 0; `None`: the whole record.
    pub row: Option<u32>,
    /// What it failed at.
    pub stage: DeadLetterStage,
    /// The outputs that it is missing in.
    pub outputs: &'a [&'a str],
    /// Why.
    pub reason: &'a str,
}

/// Adds one dead letter to `rows`, which are of that format.
pub fn append(format: DeadLetterFormat, record: &Record<'_>, failure: &Failure<'_>, rows: &mut Vec<u8>) {
    match format {
        DeadLetterFormat::Json => {
            let said = Said {
                index: failure.index as u64,
                row: failure.row,
                stage: failure.stage.as_str(),
                outputs: failure.outputs,
                reason: failure.reason,
            };
            append_line(record, &said, rows);
        }
        DeadLetterFormat::Parquet => append_dead_letter(record, failure, rows),
    }
}

/// Adds a dead letter that was read as the line that says the same.
pub fn append_letter(letter: &Letter, rows: &mut Vec<u8>) {
    let said = Said {
        index: letter.index.into(),
        row: letter.row,
        stage: &letter.stage,
        outputs: &letter.outputs,
        reason: &letter.reason,
    };
    append_line(&letter.record.as_record(), &said, rows);
}

/// What a line says beside the record.
struct Said<'a, T> {
    index: u64,
    row: Option<u32>,
    stage: &'a str,
    outputs: &'a [T],
    reason: &'a str,
}

fn append_line<T: AsRef<str>>(record: &Record<'_>, failure: &Said<'_, T>, rows: &mut Vec<u8>) {
    rows.extend_from_slice(b"{\"topic\":");
    write_json_string(record.topic, rows);
    let (partition, offset, index) = (record.partition, record.offset, failure.index);
    let numbers = format!(",\"partition\":{partition},\"offset\":{offset},\"index\":{index},\"timestamp\":");
    rows.extend_from_slice(numbers.as_bytes());
    match record.timestamp {
        Some(ms) => rows.extend_from_slice(ms.to_string().as_bytes()),
        None => rows.extend_from_slice(b"null"),
    }
    rows.extend_from_slice(b",\"key_base64\":");
    write_bytes(record.key, rows);
    rows.extend_from_slice(b",\"headers\":[");
    for index in 0..record.headers.len() {
        let (name, value) = record.headers.get(index);
        rows.extend_from_slice(if index > 0 { b",[" } else { b"[" });
        write_json_string(name, rows);
        rows.push(b',');
        write_bytes(value, rows);
        rows.push(b']');
    }
    rows.extend_from_slice(b"],\"value_base64\":");
    write_bytes(record.value, rows);
    if let Some(row) = failure.row {
        rows.extend_from_slice(format!(",\"row\":{row}").as_bytes());
    }
    rows.extend_from_slice(b",\"stage\":");
    write_json_string(failure.stage, rows);
    rows.extend_from_slice(b",\"outputs\":[");
    for (index, output) in failure.outputs.iter().enumerate() {
        if index > 0 {
            rows.push(b',');
        }
        write_json_string(output.as_ref(), rows);
    }
    rows.extend_from_slice(b"],\"reason\":");
    write_json_string(failure.reason, rows);
    rows.extend_from_slice(b"}\n");
}

fn write_bytes(bytes: Option<&[u8]>, rows: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => write_base64(bytes, rows),
        None => rows.extend_from_slice(b"null"),
    }
}

/// Dead letters in an object, from its bytes from begin to end; `None`: they are counted from the end of the file (Parquet).
pub fn count_dead_letters(format: DeadLetterFormat, bytes: Box<dyn Read + Send>) -> Option<io::Result<u64>> {
    match format {
        DeadLetterFormat::Json => Some(CODEC.count_lines(bytes)),
        DeadLetterFormat::Parquet => None,
    }
}

/// How dead letters become a file. Rows come from [`append`]: [`Format::append_row`] refuses each record, because a
/// dead letter without its reason is none.
pub fn dead_letters(format: DeadLetterFormat) -> Arc<dyn Format> {
    match format {
        DeadLetterFormat::Json => Arc::new(DeadLetterLines),
        DeadLetterFormat::Parquet => {
            Arc::new(EnvelopeFormat::of_dead_letters().expect("fixed columns, and a codec that Parquet has"))
        }
    }
}

struct DeadLetterLines;

impl Format for DeadLetterLines {
    fn extension(&self) -> String {
        CODEC.extension("json")
    }

    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn block_limit(&self) -> BlockLimit {
        CODEC.block_limit()
    }

    fn append_row(&self, _row: &Row<'_>, _rows: &mut Vec<u8>) -> Result<Appended, RowError> {
        Err(RowError("a dead letter is appended with its stage and reason".to_string()))
    }

    fn encode_block(&self, rows: &[u8], count: u32) -> Result<EncodedBlock, FormatError> {
        CODEC.encode(rows, count)
    }

    fn assemble(&self, out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        CODEC.assemble(out)
    }

    fn count_rows(&self, file: File) -> io::Result<u64> {
        CODEC.count_lines(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::{Sample, file_of};
    use flate2::read::GzDecoder;
    use std::io::Read;

    #[test]
    fn a_dead_letter_is_one_line_with_all_of_the_record() {
        let mut sample = Sample::new(Some(b"{\xff\n"));
        sample.record.key = Some(b"k".to_vec());
        sample.record.headers = vec![("t".to_string(), Some(b"ab".to_vec())), ("t".to_string(), None)];
        let mut rows = Vec::new();
        let failure = Failure {
            index: 1,
            row: Some(4),
            stage: DeadLetterStage::Decode,
            outputs: &["json", "raw\""],
            reason: "breaks at\nline 1",
        };
        append(DeadLetterFormat::Json, &sample.record.as_record(), &failure, &mut rows);
        let expected = concat!(
            r#"{"topic":"access","partition":3,"offset":17,"index":1,"timestamp":1763712000000,"key_base64":"aw==","#,
            r#""headers":[["t","YWI="],["t",null]],"value_base64":"e/8K","row":4,"stage":"decode","outputs":["json","raw\""],"#,
            r#""reason":"breaks at\nline 1"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(rows.clone()).expect("JSON is UTF-8"), expected);

        let file = file_of(dead_letters(DeadLetterFormat::Json).as_ref(), &[(rows, 1)], &[]);
        let mut text = String::new();
        GzDecoder::new(file.as_slice()).read_to_string(&mut text).expect("one gzip member");
        assert_eq!(text, expected);
        assert_eq!(dead_letters(DeadLetterFormat::Json).extension(), "json.gz");
    }

    #[test]
    fn nulls_are_told_from_empty_bytes() {
        let mut sample = Sample::new(None);
        sample.record.timestamp = None;
        sample.record.key = Some(Vec::new());
        let mut rows = Vec::new();
        let failure = Failure { index: 0, row: None, stage: DeadLetterStage::Tombstone, outputs: &[], reason: "" };
        append(DeadLetterFormat::Json, &sample.record.as_record(), &failure, &mut rows);
        let line = String::from_utf8(rows).expect("JSON is UTF-8");
        assert!(line.contains(r#""timestamp":null,"key_base64":"","headers":[],"value_base64":null"#), "{line}");
    }
}
