//! Dead letters read back.
//!
//! [`Lines`] takes the bytes of an object as they come and gives its letters. Memory: what [`FEED_BYTES_MAX`] bytes of gzip
//! unpack to (some 16 MiB at the very most) and one letter.

use crate::record::OwnedRecord;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::write::MultiGzDecoder;
use memchr::memchr;
use serde::{Deserialize, Deserializer};
use std::io::{self, Write};

/// Most bytes that [`Lines::feed`] takes at once.
pub const FEED_BYTES_MAX: usize = 16 << 10;

/// Longest line: far more than Kafka lets a record be, in base64.
const LINE_BYTES_MAX: usize = 1 << 30;

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The record.
    pub record: OwnedRecord,
    /// Tells it from other dead letters of the record.
    pub index: u32,
    /// Which of the rows that the record was unfolded to; `None`: the whole record.
    pub row: Option<u32>,
    /// What it failed at: a word of [`super::DeadLetterStage`], or of a later release.
    pub stage: String,
    /// The outputs that it is missing in.
    pub outputs: Vec<String>,
    /// Why.
    pub reason: String,
}

/// The form of a line. Fields of later releases are passed over.
#[derive(Deserialize)]
struct Line {
    topic: String,
    partition: i32,
    offset: i64,
    index: u32,
    timestamp: Option<i64>,
    #[serde(deserialize_with = "bytes")]
    key_base64: Option<Vec<u8>>,
    headers: Vec<(String, Base64)>,
    #[serde(deserialize_with = "bytes")]
    value_base64: Option<Vec<u8>>,
    row: Option<u32>,
    stage: String,
    outputs: Vec<String>,
    reason: String,
}

#[derive(Deserialize)]
struct Base64(#[serde(deserialize_with = "bytes")] Option<Vec<u8>>);

/// Base64 or null. A field that is not there at all is an error: a dead letter without its payload is none.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| BASE64.decode(text)).transpose().map_err(serde::de::Error::custom)
}

impl Letter {
    /// Reads a line, which [`super::append`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_line(line: &[u8]) -> Result<Self, String> {
        let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let record = OwnedRecord {
            topic: line.topic,
            partition: line.partition,
            offset: line.offset,
            timestamp: line.timestamp,
            key: line.key_base64,
            value: line.value_base64,
            headers: line.headers.into_iter().map(|(name, Base64(value))| (name, value)).collect(),
        };
        let Line { index, row, stage, outputs, reason, .. } = line;
        Ok(Self { record, index, row, stage, outputs, reason })
    }
}

/// The lines of an object of dead letters.
pub struct Lines {
    decoder: MultiGzDecoder<Vec<u8>>,
    /// Bytes at the begin of what is unpacked that were given out.
    given: usize,
    /// Bytes behind them that have no line's end.
    searched: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self { decoder: MultiGzDecoder::new(Vec::new()), given: 0, searched: 0 }
    }
}

impl Lines {
    /// Takes the next bytes of the object, at most [`FEED_BYTES_MAX`]. Take all letters before the next ones.
    ///
    /// # Errors
    /// It is not gzip, or damaged.
    pub fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(bytes.len() <= FEED_BYTES_MAX, "{} bytes", bytes.len());
        let unpacked = self.decoder.get_mut();
        unpacked.drain(..self.given);
        self.given = 0;
        self.decoder.write_all(bytes)?;
        if self.decoder.get_ref().len() > LINE_BYTES_MAX {
            return Err(io::Error::other(format!("a line of more than {LINE_BYTES_MAX} bytes")));
        }
        Ok(())
    }

    /// The object is at its end.
    ///
    /// # Errors
    /// It is not: something is missing.
    pub fn end(&mut self) -> io::Result<()> {
        self.decoder.try_finish()
    }

    /// The next letter; `None`: not without more bytes.
    ///
    /// # Errors
    /// A line is none.
    pub fn next_letter(&mut self) -> Result<Option<Letter>, String> {
        let unpacked = self.decoder.get_ref();
        let from = self.given + self.searched;
        let Some(at) = memchr(b'\n', &unpacked[from..]) else {
            self.searched = unpacked.len() - self.given;
            return Ok(None);
        };
        let letter = Letter::from_line(&unpacked[self.given..from + at]);
        (self.given, self.searched) = (from + at + 1, 0);
        letter.map(Some)
    }

    /// Whether bytes are left that make no line: at the end of the object something is missing.
    pub fn is_broken_off(&self) -> bool {
        self.decoder.get_ref().len() > self.given
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dead_letter::columns;
    use crate::format::dead_letter::{DeadLetterStage, Failure, append, append_letter, dead_letters};
    use crate::format::testing::file_of;
    use crate::layout::DeadLetterFormat;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use proptest::prelude::*;

    fn read(object: &[u8], piece: usize) -> Result<Vec<Letter>, String> {
        let (mut lines, mut letters) = (Lines::default(), Vec::new());
        for piece in object.chunks(piece) {
            lines.feed(piece).map_err(|error| error.to_string())?;
            while let Some(letter) = lines.next_letter()? {
                letters.push(letter);
            }
        }
        lines.end().map_err(|error| error.to_string())?;
        while let Some(letter) = lines.next_letter()? {
            letters.push(letter);
        }
        if lines.is_broken_off() { Err("broken off".to_string()) } else { Ok(letters) }
    }

    fn written(letters: &[Letter]) -> Vec<u8> {
        written_as(DeadLetterFormat::Json, letters)
    }

    fn written_as(format: DeadLetterFormat, letters: &[Letter]) -> Vec<u8> {
        let mut blocks = Vec::new();
        for block in letters.chunks(2) {
            let mut rows = Vec::new();
            for letter in block {
                let outputs: Vec<&str> = letter.outputs.iter().map(String::as_str).collect();
                let failure = Failure {
                    index: letter.index as usize,
                    row: letter.row,
                    stage: DeadLetterStage::Decode,
                    outputs: &outputs,
                    reason: &letter.reason,
                };
                append(format, &letter.record.as_record(), &failure, &mut rows);
            }
            blocks.push((rows, block.len() as u32));
        }
        file_of(dead_letters(format).as_ref(), &blocks, &[])
    }

    fn letter(offset: i64) -> Letter {
        let record = OwnedRecord {
            topic: "t".into(),
            partition: 1,
            offset,
            timestamp: None,
            key: Some(Vec::new()),
            value: Some(vec![0, 255, b'\n']),
            headers: vec![("h".into(), None), ("h".into(), Some(b"x".to_vec()))],
        };
        let (stage, outputs, reason) = ("decode".into(), vec!["json".into()], "a\nb".into());
        Letter { record, index: 2, row: Some(4), stage, outputs, reason }
    }

    #[test]
    fn what_is_missing_is_noticed() {
        let letters = [letter(1), letter(2), letter(3)];
        let object = written(&letters);
        assert_eq!(read(&object, 7), Ok(letters.to_vec()));
        for end in 1..object.len() {
            assert!(read(&object[..end], FEED_BYTES_MAX).is_err(), "cut to {end} of {} bytes", object.len());
        }
        let mut damaged = object.clone();
        damaged[object.len() / 2] ^= 0xff;
        assert!(read(&damaged, FEED_BYTES_MAX).is_err());
        assert!(read(b"{\"topic\":1}\n", FEED_BYTES_MAX).is_err());
    }

    #[test]
    fn fields_of_later_releases_are_passed_over_and_none_may_lack() {
        let line = r#"{"topic":"t","partition":1,"offset":2,"index":0,"timestamp":null,"key_base64":null,"headers":[],
            "value_base64":"","stage":"schema","outputs":[],"reason":"","schema_id":7}"#;
        let found = Letter::from_line(line.as_bytes()).expect("a letter");
        assert_eq!((found.record.value, found.stage.as_str(), found.row), (Some(Vec::new()), "schema", None));
        assert!(Letter::from_line(line.replace("value_base64", "x").as_bytes()).is_err());
        assert!(Letter::from_line(line.replace(r#""value_base64":"""#, r#""value_base64":"?""#).as_bytes()).is_err());
    }

    fn of_columns(object: Vec<u8>) -> Vec<Letter> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(object)).expect("Parquet");
        let batches = reader.with_batch_size(2).build().expect("a reader");
        batches.flat_map(|batch| columns::letters(&batch.expect("a batch")).expect("letters")).collect()
    }

    proptest! {
        #[test]
        fn any_record_comes_back(
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
            name in ".*", reason in ".*", timestamp in any::<Option<i64>>(), row in any::<Option<u32>>(), piece in 1..50usize
        ) {
            let mut wanted = letter(5);
            (wanted.record.value, wanted.record.timestamp, wanted.row) = (value, timestamp, row);
            (wanted.record.headers[0].0, wanted.reason) = (name, reason);
            // Parquet has 31 bits for it, which no record has rows for.
            wanted.row = wanted.row.map(|row| row / 2);
            let letters = vec![letter(4), wanted, letter(6)];
            let mut lines = Vec::new();
            letters.iter().for_each(|letter| append_letter(letter, &mut lines));
            let again: Vec<Letter> = lines.split_inclusive(|&byte| byte == b'\n').map(|line| Letter::from_line(line).expect("a line")).collect();
            prop_assert_eq!(&again, &letters);
            prop_assert_eq!(&of_columns(written_as(DeadLetterFormat::Parquet, &letters)), &letters);
            prop_assert_eq!(read(&written(&letters), piece), Ok(letters));
        }
    }
}
