//! What objects hold. A [`Format`] turns rows into blocks and blocks into a file.
//!
//! ```text
//! append_row*            encode_block (any core)        Assembler::append, in order      finish
//! plain rows ─────────▶ [rows of one block] ─────────▶ EncodedBlock ─────────────────▶ the file's bytes
//! ```
//! # Invariants
//! - **F-1** Block borders are a function of the rows alone: a block is full as soon as it holds
//!   [`BlockLimit::bytes`] or [`BlockLimit::rows`]. Never of time, memory, threads or what was spilled.
//! - **F-2** Equal rows in equal order give equal bytes, within one release of the program.
//! - **F-3** `append_row` either adds exactly one row or leaves the buffer as it was. A row that it accepted can be encoded.
//! - **F-4** Between blocks a part holds no encoder: only the assembler's few numbers, and what goes into the footer
//!   ([`Assembler::memory`]).

mod avro;
pub mod compress;
pub mod dead_letter;
pub mod json;
pub mod keep;
pub(crate) mod object;
pub mod parquet;
pub mod raw;
#[cfg(test)]
pub(crate) mod testing;

pub use avro::again::{AvroAgain, read_header};
pub use dead_letter::{count_dead_letters, dead_letters};

use crate::layout::{Column, Compression, Keep, OutputFormat, SchemaSource};
use crate::record::Record;
use arrow_schema::SchemaRef;
use parquet::PageRules;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Makes the format of an output. `keep` is what it keeps of Kafka's own; `pinned` the columns that were inferred and
/// pinned, or come from a registry, where the layout itself has none.
///
/// # Errors
/// The output cannot be: a compression or level that the format has not, kept columns for `raw`, a schema that Parquet
/// cannot hold or that is not pinned yet. In words for the person who wrote the layout.
pub fn build(output: &OutputFormat, keep: Option<&Keep>, pinned: Option<&[Column]>) -> Result<Arc<dyn Format>, String> {
    match output {
        OutputFormat::Raw { compression, newlines } => {
            if keep.is_some_and(|keep| !keep.columns.is_empty()) {
                return Err("raw has no place for kept columns: they need json, parquet or avro".to_string());
            }
            Ok(Arc::new(raw::RawFormat::new(compress::Codec::new(*compression)?, *newlines)))
        }
        OutputFormat::Json { compression } => {
            Ok(Arc::new(json::JsonFormat::new(compress::Codec::new(*compression)?, keep)))
        }
        OutputFormat::Avro { codec, schema, unknown, block_bytes } => {
            let columns = columns(schema, pinned)?;
            let bytes = usize::try_from(*block_bytes)
                .map_err(|_| format!("blocks of {block_bytes} bytes do not fit this machine"))?;
            Ok(Arc::new(avro::AvroFormat::new(columns, keep, *unknown, *codec, bytes)?))
        }
        OutputFormat::Envelope { compression, row_group_bytes, row_group_rows } => {
            if keep.is_some_and(|keep| !keep.columns.is_empty()) {
                return Err("an envelope has every one of Kafka's own columns already".to_string());
            }
            let limit = row_group(*row_group_bytes, *row_group_rows)?;
            Ok(Arc::new(parquet::envelope::EnvelopeFormat::new(*compression, limit)?))
        }
        OutputFormat::Parquet { compression, schema, unknown, row_group_bytes, row_group_rows, pages } => {
            let is_given = matches!(schema, SchemaSource::Columns(_));
            let columns = columns(schema, pinned)?;
            let limit = row_group(*row_group_bytes, *row_group_rows)?;
            Ok(Arc::new(parquet::ParquetFormat::new(
                columns,
                keep,
                *unknown,
                *compression,
                limit,
                &PageRules { pages, is_given },
            )?))
        }
    }
}

/// The columns of files, as their readers see them.
pub struct Columns {
    /// Kept columns first, then the payload's, then that of the rest. Those of Avro have their names in Avro.
    pub schema: SchemaRef,
    /// The schema that stands in Avro's files, as JSON.
    pub avro: Option<String>,
}

/// The columns that the files of an output have; `None` where they have none. Arguments as of [`build`].
///
/// # Errors
/// As [`build`].
pub fn columns_of_files(
    output: &OutputFormat,
    keep: Option<&Keep>,
    pinned: Option<&[Column]>,
) -> Result<Option<Columns>, String> {
    Ok(match output {
        OutputFormat::Raw { .. } | OutputFormat::Json { .. } => None,
        OutputFormat::Avro { codec, schema, unknown, .. } => {
            let schema = avro::schema_of(columns(schema, pinned)?, keep, *unknown, *codec)?;
            let avro = schema.metadata().get(arrow_avro::schema::SCHEMA_METADATA_KEY).cloned();
            Some(Columns { schema, avro })
        }
        OutputFormat::Envelope { .. } => Some(Columns { schema: parquet::envelope::schema(), avro: None }),
        OutputFormat::Parquet { schema, unknown, .. } => {
            let rows = parquet::rows::ColumnRows::new(columns(schema, pinned)?, keep, *unknown)?;
            Some(Columns { schema: rows.arrow().clone(), avro: None })
        }
    })
}

fn columns<'a>(schema: &'a SchemaSource, pinned: Option<&'a [Column]>) -> Result<&'a [Column], String> {
    match (schema, pinned) {
        (SchemaSource::Columns(columns), _) => Ok(columns),
        (SchemaSource::Infer | SchemaSource::Registry, Some(columns)) => Ok(columns),
        (SchemaSource::Registry, None) => Err("the schema of the registry is missing".to_string()),
        (SchemaSource::Infer, None) => Err("the inferred schema is not pinned yet".to_string()),
    }
}

fn row_group(bytes: u64, rows: u32) -> Result<BlockLimit, String> {
    let bytes = usize::try_from(bytes).map_err(|_| format!("row groups of {bytes} bytes do not fit this machine"))?;
    Ok(BlockLimit { bytes, rows })
}

/// One record on its way into an output.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// The record.
    pub record: &'a Record<'a>,
    /// The payload as JSON text without surrounding white space, where the archive decodes JSON and the record has a
    /// payload. Not too deep; valid JSON where the archive validates, unless all outputs have columns: their
    /// rows are made of valid JSON alone.
    pub json: Option<&'a str>,
    /// Event time, milliseconds UTC.
    pub event_ms: i64,
}

/// What happened while a row was appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Fields left out by `unknown = "drop"`.
    pub fields_dropped: u32,
}

/// Why a record cannot be a row of this output: it becomes a dead letter with this text as its reason.
/// Permanent and decided by the record alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RowError(pub String);

/// Why a block or file could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The spool file could not be written.
    #[error("write the spool file")]
    Io(#[from] std::io::Error),
    /// The encoder refused rows that `append_row` had accepted: a bug; the partition stops and nothing is lost.
    #[error("encode a block of {rows} rows: {what}")]
    Encode {
        /// Rows in the block.
        rows: u32,
        /// What the encoder said.
        what: String,
    },
}

/// When a block is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLimit {
    /// Bytes of plain rows.
    pub bytes: usize,
    /// Rows.
    pub rows: u32,
}

/// A block, encoded but not yet placed in a file.
pub enum EncodedBlock {
    /// Bytes of a text format.
    Bytes(compress::CompressedBlock),
    /// One Parquet row group.
    RowGroup(parquet::EncodedRowGroup),
    /// Bytes of one block of an Avro file.
    Container(Vec<u8>),
}

/// How rows become the bytes of an object. Shared by all threads; holds no state of any file.
pub trait Format: Send + Sync {
    /// Extension of the object's name without its first dot: `json.gz`, `parquet`.
    fn extension(&self) -> String;
    /// MIME type of the rows, before a codec of text; see [`content_headers`].
    fn content_type(&self) -> &'static str;
    /// When a block is full.
    fn block_limit(&self) -> BlockLimit;
    /// Adds `row` in its plain form to `rows`.
    ///
    /// # Errors
    /// [`RowError`]: not representable here; `rows` is unchanged and the record becomes a dead letter.
    fn append_row(&self, row: &Row<'_>, rows: &mut Vec<u8>) -> Result<Appended, RowError>;
    /// Encodes one block of `count` plain rows. Pure; takes one core for some milliseconds.
    ///
    /// # Errors
    /// [`FormatError::Encode`], see there.
    fn encode_block(&self, rows: &[u8], count: u32) -> Result<EncodedBlock, FormatError>;
    /// Bytes of memory that encoding a block of `rows` bytes takes, the rows included: what the budget is kept with, so about
    /// the most, as measured. A block of text is there twice: plain and, where it does not compress, once more.
    fn encoding_memory(&self, rows: u64) -> u64 {
        rows.saturating_mul(2)
    }
    /// Starts a file that is written to `out`. `out` counts and hashes; it is flushed by its owner.
    ///
    /// # Errors
    /// [`FormatError::Io`].
    fn assemble(&self, out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError>;
    /// Rows of a whole file of this format.
    ///
    /// # Errors
    /// It cannot be read, or is no such file.
    fn count_rows(&self, file: File) -> io::Result<u64>;
}

/// Rows of an object of `output`, from its bytes from begin to end; `None`: they are counted from the end of the file (Parquet).
/// Needs no schema. The error is of the bytes, or says that they are no such file.
pub fn count_streamed(output: &OutputFormat, bytes: Box<dyn Read + Send>) -> Option<io::Result<u64>> {
    let codec = |compression: &Compression| compress::Codec::new(*compression).map_err(io::Error::other);
    match output {
        OutputFormat::Raw { compression, newlines } => {
            Some(codec(compression).and_then(|codec| raw::RawFormat::new(codec, *newlines).count(bytes)))
        }
        OutputFormat::Json { compression } => Some(codec(compression).and_then(|codec| codec.count_lines(bytes))),
        OutputFormat::Avro { .. } => Some(avro::count_blocks(bytes)),
        OutputFormat::Parquet { .. } | OutputFormat::Envelope { .. } => None,
    }
}

/// `Content-Type` and `Content-Encoding` of an object of `format`. Compressed text is either its text with an encoding
/// (`encoded`), which clients may undo on the way, or a file of its codec: never the bytes of one under the type of the other.
pub fn content_headers(format: &dyn Format, encoded: bool) -> (&'static str, Option<&'static str>) {
    let codec = match format.extension().rsplit('.').next() {
        Some("gz") => Some(("application/gzip", "gzip")),
        Some("zst") => Some(("application/zstd", "zstd")),
        _ => None,
    };
    match codec {
        Some((_, encoding)) if encoded => (format.content_type(), Some(encoding)),
        Some((file, _)) => (file, None),
        None => (format.content_type(), None),
    }
}

/// Puts encoded blocks behind each other into one file.
pub trait Assembler: Send {
    /// Writes the next block.
    ///
    /// # Errors
    /// [`FormatError::Io`]: the file is unusable.
    fn append(&mut self, block: EncodedBlock) -> Result<(), FormatError>;
    /// Bytes of memory that what goes into the footer takes, about: it grows with every block.
    fn memory(&self) -> u64 {
        0
    }
    /// Writes the footer. `metadata` goes into the file where the format has a place for it (Parquet's key-value
    /// metadata), otherwise nowhere.
    ///
    /// # Errors
    /// [`FormatError::Io`]: the file is unusable.
    fn finish(self: Box<Self>, metadata: &[(String, String)]) -> Result<(), FormatError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{AvroCodec, DeadLetterFormat, Newlines, Pages, UnknownFields};

    fn parquet() -> OutputFormat {
        OutputFormat::Parquet {
            compression: Compression::Gzip(6),
            schema: SchemaSource::Columns(vec![Column {
                name: "a".to_string(),
                kind: crate::layout::ColumnKind::Json,
                nullable: true,
            }]),
            unknown: UnknownFields::Drop,
            row_group_bytes: 1 << 20,
            row_group_rows: 1_000,
            pages: Pages::default(),
        }
    }

    fn avro(codec: AvroCodec) -> OutputFormat {
        let OutputFormat::Parquet { schema, unknown, .. } = parquet() else { panic!("Parquet") };
        OutputFormat::Avro { codec, schema, unknown, block_bytes: 1 << 20 }
    }

    fn count(output: &OutputFormat, format: &dyn Format, file: &[u8]) -> io::Result<u64> {
        use std::io::Seek;
        let mut stored = tempfile::tempfile().expect("a temporary file");
        stored.write_all(file).expect("written");
        stored.rewind().expect("back at its begin");
        let counted = format.count_rows(stored);
        let streamed = count_streamed(output, Box::new(io::Cursor::new(file.to_vec())));
        match (&counted, streamed) {
            (Ok(counted), Some(streamed)) => assert_eq!(streamed.expect("as from the file"), *counted),
            (Err(_), Some(streamed)) => drop(streamed.expect_err("as from the file")),
            (_, None) => assert_eq!(format.extension(), "parquet"),
        }
        counted
    }

    #[test]
    fn rows_of_a_file_are_counted_and_strangers_are_none() {
        let raw = |compression, newlines| OutputFormat::Raw { compression, newlines };
        let envelope = OutputFormat::Envelope {
            compression: Compression::Snappy,
            row_group_bytes: 1 << 20,
            row_group_rows: 1_000,
        };
        let outputs = [
            OutputFormat::Json { compression: Compression::None },
            OutputFormat::Json { compression: Compression::Gzip(6) },
            raw(Compression::Zstd(3), Newlines::Escape),
            raw(Compression::None, Newlines::Length),
            raw(Compression::Gzip(1), Newlines::Length),
            parquet(),
            envelope,
            avro(AvroCodec::Deflate),
            avro(AvroCodec::Zstd),
        ];
        for output in outputs {
            let format = build(&output, None, None).expect("a format");
            let block = |count: u32| {
                let mut rows = Vec::new();
                for row in 0..count {
                    let payload = (row % 7 > 0).then(|| format!(r#"{{"a":{row}}}"#));
                    let payload = payload.as_deref();
                    let appended =
                        testing::row_of(payload.map(str::as_bytes), payload, |row| format.append_row(row, &mut rows));
                    appended.expect("a row");
                }
                (rows, count)
            };
            for blocks in [vec![], vec![block(1)], vec![block(1000), block(23)]] {
                let rows: u32 = blocks.iter().map(|(_, count)| count).sum();
                let file = testing::file_of(&*format, &blocks, &[]);
                assert_eq!(count(&output, &*format, &file).expect("a file of its own"), u64::from(rows), "{output:?}");
                // A file of plain lines is one wherever it is cut.
                if rows > 0 && output != (OutputFormat::Json { compression: Compression::None }) {
                    count(&output, &*format, &file[..file.len() - 1]).expect_err("it was cut off");
                }
            }
        }
    }

    #[test]
    fn compressed_text_is_a_file_of_its_codec_or_encoded_text() {
        let json = |compression| build(&OutputFormat::Json { compression }, None, None).expect("a format");
        let raw = OutputFormat::Raw { compression: Compression::Zstd(3), newlines: Newlines::Length };
        let text = "application/x-ndjson";
        let bytes = "application/octet-stream";
        let parquet_type = "application/vnd.apache.parquet";
        let cases = [
            (json(Compression::None), (text, None), (text, None)),
            (json(Compression::Gzip(6)), ("application/gzip", None), (text, Some("gzip"))),
            (json(Compression::Zstd(3)), ("application/zstd", None), (text, Some("zstd"))),
            (build(&raw, None, None).expect("a format"), ("application/zstd", None), (bytes, Some("zstd"))),
            (build(&parquet(), None, None).expect("a format"), (parquet_type, None), (parquet_type, None)),
            (
                build(&avro(AvroCodec::Snappy), None, None).expect("a format"),
                ("application/avro", None),
                ("application/avro", None),
            ),
            (dead_letters(DeadLetterFormat::Json), ("application/gzip", None), (text, Some("gzip"))),
            (dead_letters(DeadLetterFormat::Parquet), (parquet_type, None), (parquet_type, None)),
        ];
        for (format, plain, encoded) in cases {
            assert_eq!(content_headers(&*format, false), plain, "{}", format.extension());
            assert_eq!(content_headers(&*format, true), encoded, "{}", format.extension());
        }
    }
}
