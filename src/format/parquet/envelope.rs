//! Whole records in Parquet, decodable or not, and dead letters in the same columns.
//!
//! | column | type | |
//! |---|---|---|
//! | `topic` | text, required | |
//! | `partition` | 32 bits, required | Kafka partition |
//! | `offset` | 64 bits, required | |
//! | `timestamp` | timestamp in milliseconds, UTC | the Kafka timestamp; null where the record has none |
//! | `key` | bytes | null is a null key, no bytes an empty one |
//! | `value` | bytes | null is a tombstone, no bytes an empty payload |
//! | `headers` | list of `key` (text, required) and `value` (bytes), required | in their order, repeats kept |
//! | `timestamp_beyond` | 64 bits | a Kafka timestamp outside the years 1 to 9999, in milliseconds: `timestamp` is null then, because one such value makes readers refuse the file |
//!
//! Dead letters have five more, behind `headers`:
//!
//! | column | type | |
//! |---|---|---|
//! | `index` | 32 bits, required | counts the dead letters of one record, from 0 |
//! | `row` | 32 bits | which of the rows that the record was unfolded to, from 0; null: the whole record |
//! | `stage` | text, required | `decode`, `transform`, `timestamp`, `tombstone`, `row` |
//! | `outputs` | list of text, required | the outputs that it is missing in |
//! | `reason` | text, required | |
//!
//! Lossless: (topic, partition, offset) is a record and nothing of it is left out. Nothing here can refuse one.

pub mod read;

use super::encode::Encoder;
use super::pages::PageRules;
use super::row::{END, VALUE, push_bytes, push_field};
use super::schema::utc;
use crate::format::dead_letter::Failure;
use crate::format::{Appended, Assembler, BlockLimit, EncodedBlock, Format, FormatError, Row, RowError};
use crate::layout::Compression;
use crate::parse::timestamp::{TIME_MS_MAX, TIME_MS_MIN};
use crate::record::Record;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

const TOPIC: usize = 0;
const PARTITION: usize = 1;
const OFFSET: usize = 2;
const TIMESTAMP: usize = 3;
const KEY: usize = 4;
const PAYLOAD: usize = 5;
const HEADERS: usize = 6;
const INDEX: usize = 7;
const ROW: usize = 8;
const STAGE: usize = 9;
const OUTPUTS: usize = 10;
const REASON: usize = 11;

/// Number of the last column, `timestamp_beyond`.
#[derive(Clone, Copy)]
struct Beyond(usize);

const OF_RECORDS: Beyond = Beyond(INDEX);
const OF_DEAD_LETTERS: Beyond = Beyond(REASON + 1);

/// Row groups of dead letters: within what the least budget has room for.
const DEAD_LETTER_LIMIT: BlockLimit = BlockLimit { bytes: 4 << 20, rows: 1_000_000 };

/// Pages of dead letters.
const DEAD_LETTER_COMPRESSION: Compression = Compression::Zstd(3);

/// Whole records, or dead letters.
pub(in crate::format) struct EnvelopeFormat {
    encoder: Encoder,
    limit: BlockLimit,
    of_dead_letters: bool,
}

impl EnvelopeFormat {
    /// Prepares files of whole records.
    ///
    /// # Errors
    /// The compression or the limit cannot be; in words for the person who wrote the layout.
    pub(in crate::format) fn new(compression: Compression, limit: BlockLimit) -> Result<Self, String> {
        super::check_limit(limit)?;
        let encoder = Encoder::new(Arc::new(Schema::new(fields(false))), compression, &PageRules::USUAL, limit)?;
        Ok(Self { encoder, limit, of_dead_letters: false })
    }

    /// Prepares files of dead letters. Their rows come from [`append_dead_letter`].
    ///
    /// # Errors
    /// None: nothing in it is chosen by anybody.
    pub(in crate::format) fn of_dead_letters() -> Result<Self, String> {
        let schema = Arc::new(Schema::new(fields(true)));
        let encoder = Encoder::new(schema, DEAD_LETTER_COMPRESSION, &PageRules::USUAL, DEAD_LETTER_LIMIT)?;
        Ok(Self { encoder, limit: DEAD_LETTER_LIMIT, of_dead_letters: true })
    }
}

/// The columns of whole records.
pub(in crate::format) fn schema() -> SchemaRef {
    Arc::new(Schema::new(fields(false)))
}

/// The columns in their order.
fn fields(of_dead_letters: bool) -> Vec<Field> {
    let header =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)]);
    let list = |of: DataType| DataType::List(Arc::new(Field::new("element", of, false)));
    let mut fields = vec![
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", utc(TimeUnit::Millisecond), true),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("headers", list(DataType::Struct(header)), false),
    ];
    if of_dead_letters {
        fields.extend([
            Field::new("index", DataType::Int32, false),
            Field::new("row", DataType::Int32, true),
            Field::new("stage", DataType::Utf8, false),
            Field::new("outputs", list(DataType::Utf8), false),
            Field::new("reason", DataType::Utf8, false),
        ]);
    }
    fields.push(Field::new("timestamp_beyond", DataType::Int64, true));
    fields
}

/// Adds the columns of `record`; the row goes on.
fn push_record(record: &Record<'_>, beyond: Beyond, rows: &mut Vec<u8>) {
    push_field(TOPIC, rows);
    push_bytes(record.topic.as_bytes(), rows);
    push_field(PARTITION, rows);
    rows.extend_from_slice(&record.partition.to_le_bytes());
    push_field(OFFSET, rows);
    rows.extend_from_slice(&record.offset.to_le_bytes());
    if let Some(ms) = record.timestamp {
        push_field(if (TIME_MS_MIN..=TIME_MS_MAX).contains(&ms) { TIMESTAMP } else { beyond.0 }, rows);
        rows.extend_from_slice(&ms.to_le_bytes());
    }
    for (number, bytes) in [(KEY, record.key), (PAYLOAD, record.value)] {
        if let Some(bytes) = bytes {
            push_field(number, rows);
            push_bytes(bytes, rows);
        }
    }
    push_field(HEADERS, rows);
    super::kept::write_headers(record, rows);
}

/// Adds a dead letter.
pub(in crate::format) fn append_dead_letter(record: &Record<'_>, failure: &Failure<'_>, rows: &mut Vec<u8>) {
    push_record(record, OF_DEAD_LETTERS, rows);
    // No record is so large that it could have more.
    let number = |number: u64| i32::try_from(number).unwrap_or(i32::MAX).to_le_bytes();
    push_field(INDEX, rows);
    rows.extend_from_slice(&number(failure.index as u64));
    if let Some(row) = failure.row {
        push_field(ROW, rows);
        rows.extend_from_slice(&number(row.into()));
    }
    push_field(STAGE, rows);
    push_bytes(failure.stage.as_str().as_bytes(), rows);
    push_field(OUTPUTS, rows);
    for output in failure.outputs {
        rows.push(VALUE);
        push_bytes(output.as_bytes(), rows);
    }
    rows.push(END);
    push_field(REASON, rows);
    push_bytes(failure.reason.as_bytes(), rows);
    rows.push(END);
}

impl Format for EnvelopeFormat {
    fn extension(&self) -> String {
        super::EXTENSION.to_string()
    }

    fn content_type(&self) -> &'static str {
        super::CONTENT_TYPE
    }

    fn block_limit(&self) -> BlockLimit {
        self.limit
    }

    fn append_row(&self, row: &Row<'_>, rows: &mut Vec<u8>) -> Result<Appended, RowError> {
        if self.of_dead_letters {
            return Err(RowError("a dead letter is appended with its stage and reason".to_string()));
        }
        push_record(row.record, OF_RECORDS, rows);
        rows.push(END);
        Ok(Appended::default())
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
        super::count_rows(&file)
    }
}

#[cfg(test)]
mod tests {
    use super::super::roundtrip::found_rows;
    use super::super::tests::{LIMIT, read_back};
    use super::*;
    use crate::format::dead_letter::DeadLetterStage;
    use crate::format::testing::file_of;
    use crate::record::OwnedRecord;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn records() -> Vec<OwnedRecord> {
        let plain = OwnedRecord {
            topic: "access".to_string(),
            partition: 3,
            offset: 17,
            timestamp: Some(1_763_712_000_123),
            key: Some(b"\xff\x00".to_vec()),
            value: Some(b"{broken".to_vec()),
            headers: vec![
                ("t".to_string(), Some(b"a".to_vec())),
                ("t".to_string(), None),
                (String::new(), Some(vec![])),
            ],
        };
        let nothing = OwnedRecord { topic: "t".to_string(), offset: 1 << 40, ..OwnedRecord::default() };
        let empty =
            OwnedRecord { key: Some(vec![]), value: Some(vec![]), timestamp: Some(i64::MAX), ..nothing.clone() };
        vec![plain, nothing, empty]
    }

    fn format() -> EnvelopeFormat {
        EnvelopeFormat::new(Compression::Zstd(3), LIMIT).expect("a format")
    }

    fn rows_of(records: &[OwnedRecord]) -> (Vec<u8>, u32) {
        let (format, mut rows) = (format(), Vec::new());
        for record in records {
            let record = record.as_record();
            let row = Row { record: &record, json: None, event_ms: 0 };
            format.append_row(&row, &mut rows).expect("every record is taken");
        }
        (rows, u32::try_from(records.len()).expect("few"))
    }

    #[test]
    fn records_come_back_as_they_are() {
        let file = file_of(&format(), &[rows_of(&records())], &[]);
        let found = found_rows(&read_back(file));
        assert_eq!(
            found,
            [
                json!({"topic": "access", "partition": 3, "offset": 17, "timestamp": 1_763_712_000_123_i64, "key": "/wA=",
                    "value": "e2Jyb2tlbg==", "headers": [{"key": "t", "value": "YQ=="}, {"key": "t"}, {"key": "", "value": ""}]}),
                json!({"topic": "t", "partition": 0, "offset": 1_i64 << 40, "headers": []}),
                json!({"topic": "t", "partition": 0, "offset": 1_i64 << 40, "key": "", "value": "", "headers": [],
                    "timestamp_beyond": i64::MAX}),
            ]
        );
    }

    #[test]
    fn dead_letters_come_back_with_their_reasons() {
        let format = EnvelopeFormat::of_dead_letters().expect("a format");
        let mut rows = Vec::new();
        let records = records();
        let failures = [
            Failure { index: 1, row: Some(4), stage: DeadLetterStage::Row, outputs: &["a", "b"], reason: "what\n" },
            Failure { index: 0, row: None, stage: DeadLetterStage::Decode, outputs: &[], reason: "" },
        ];
        for (record, failure) in records.iter().zip(&failures) {
            append_dead_letter(&record.as_record(), failure, &mut rows);
        }
        let found = found_rows(&read_back(file_of(&format, &[(rows, 2)], &[])));
        assert_eq!((&found[0]["index"], &found[0]["row"], &found[0]["stage"]), (&json!(1), &json!(4), &json!("row")));
        assert_eq!((&found[0]["outputs"], &found[0]["reason"]), (&json!(["a", "b"]), &json!("what\n")));
        assert_eq!(found[0]["value"], "e2Jyb2tlbg==");
        assert_eq!((found[1].get("row"), &found[1]["outputs"]), (None, &json!([])));
        let record = records[0].as_record();
        format
            .append_row(&Row { record: &record, json: None, event_ms: 0 }, &mut Vec::new())
            .expect_err("no reason is given");
    }

    proptest! {
        /// F-3: whatever a record holds, it is a row and comes back.
        #[test]
        fn any_record_comes_back(
            partition: i32, offset: i64, timestamp: Option<i64>, key: Option<Vec<u8>>, value: Option<Vec<u8>>,
            headers in prop::collection::vec((".{0,5}", any::<Option<Vec<u8>>>()), 0..4),
        ) {
            let record = OwnedRecord { topic: "t".to_string(), partition, offset, timestamp, key, value, headers };
            let found = found_rows(&read_back(file_of(&format(), &[rows_of(std::slice::from_ref(&record))], &[])));
            let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| json!(base64(bytes)));
            prop_assert_eq!(&found[0]["offset"], &json!(offset));
            let found_timestamp = found[0].get("timestamp").or(found[0].get("timestamp_beyond")).cloned();
            prop_assert_eq!(found_timestamp, timestamp.map(|ms| json!(ms)));
            prop_assert_eq!(found[0].get("key").cloned(), bytes(&record.key));
            prop_assert_eq!(found[0].get("value").cloned(), bytes(&record.value));
            let headers: Vec<Value> = record.headers.iter().map(|(key, value)| match bytes(value) {
                Some(value) => json!({"key": key, "value": value}),
                None => json!({"key": key}),
            }).collect();
            prop_assert_eq!(&found[0]["headers"], &json!(headers));
        }
    }

    fn base64(bytes: &[u8]) -> String {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }
}
