//! The layout: everything that decides names and rows, as one value that can be stored, hashed and compiled again.
//!
//! A [`Layout`] holds no secrets and nothing of the process, the host or the clock. Its canonical JSON is stored in
//! the bucket before the first plan that uses it; the SHA-256 of that JSON is the [`Layout::fingerprint`].
//! Two processes with equal fingerprints give equal rows and equal names for equal records.

pub mod alphabet;
pub mod calendar;
pub mod collide;
pub mod decode;
pub mod directive;
pub mod encode;
pub mod extension;
mod language;
pub mod preset;
pub mod recognise;
mod telling;
pub mod template;
pub mod window;

pub use decode::{Decode, RegistryFormat, TextFields, TextType};
pub use extension::Ending;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Version of the stored form of a [`Layout`].
pub const LAYOUT_VERSION: u32 = 1;

/// Raised whenever a release changes the rows or names that equal layouts give: decoding, encoding, templates.
pub const ROWS_REVISION: u32 = 1;

/// Everything that decides the names and rows of one archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// [`LAYOUT_VERSION`] of the writer.
    pub version: u32,
    /// What of the code decides rows.
    pub code: CodeRevision,
    /// Name of the archive.
    pub archive: String,
    /// Counts deliberate new beginnings (re-created topics); in every name when above 1. From 1.
    pub generation: u32,
    /// How payloads are decoded.
    pub decode: Decode,
    /// The program that every row runs through; see [`crate::transform`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<String>,
    /// Where the event time comes from.
    pub timestamp: TimestampRule,
    /// What becomes of records without a payload.
    pub tombstones: Tombstones,
    /// The outputs, in file order. At least one.
    pub outputs: Vec<OutputLayout>,
    /// Where records go that do not decode.
    pub dead_letters: DeadLetterLayout,
}

impl Layout {
    /// Whether an output takes its columns from the registry, so that all rows of a batch are projected onto one schema.
    pub fn needs_target(&self) -> bool {
        self.outputs.iter().any(|output| matches!(output.format.schema(), Some(SchemaSource::Registry)))
    }

    /// The canonical JSON that is stored and hashed.
    pub fn canonical_json(&self) -> String {
        serde_json::to_string(self).expect("a layout holds only strings, numbers and enums")
    }

    /// The first 32 hex digits of the SHA-256 of [`Layout::canonical_json`].
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.canonical_json().as_bytes());
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The part of the program that decides rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeRevision {
    /// [`ROWS_REVISION`] of the writer.
    pub rows: u32,
    /// Version of the time-zone data, for example `2026a`.
    pub tzdata: String,
}

impl CodeRevision {
    /// What this build has.
    pub fn current() -> Self {
        Self { rows: ROWS_REVISION, tzdata: chrono_tz::IANA_TZDB_VERSION.to_string() }
    }
}

/// Where a record's event time comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampRule {
    /// Where to look.
    pub source: TimestampSource,
    /// How to read what is found there.
    pub format: TimeFormat,
    /// IANA zone for patterns without one of their own.
    pub zone: String,
    /// What happens when it is missing or unreadable.
    pub fallback: TimestampFallback,
}

/// Where an event time is looked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampSource {
    /// The Kafka timestamp.
    Kafka,
    /// A field of the decoded payload: the path, outermost name first.
    Field(Vec<String>),
    /// The last header of that name, as text.
    Header(String),
}

/// How a value becomes a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeFormat {
    /// Numbers (or numeric strings) as an epoch whose unit is told by its size, other strings as RFC 3339.
    Auto,
    /// Epoch in that unit, number or numeric string.
    Epoch(TimeUnit),
    /// RFC 3339 text.
    Rfc3339,
    /// A strftime pattern (chrono's), read in the rule's zone where the text carries none.
    Pattern(String),
}

/// Unit of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl TimeUnit {
    /// The power of ten that one of them is in seconds.
    pub fn power_of_ten(self) -> i32 {
        match self {
            Self::S => 0,
            Self::Ms => -3,
            Self::Us => -6,
            Self::Ns => -9,
        }
    }
}

/// What becomes of a record without a readable event time. Never a silent 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampFallback {
    /// Its Kafka timestamp counts (a dead letter where there is none either).
    Kafka,
    /// It is a dead letter.
    DeadLetter,
}

/// What becomes of a record with a null payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tombstones {
    /// A row: `null` in JSON, an empty line in raw, nulls in Parquet. Its event time is the Kafka timestamp.
    Keep,
    /// A dead letter.
    DeadLetter,
    /// Dropped, and counted under the rule `tombstones`.
    Drop,
}

/// One output of an archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputLayout {
    /// Unique in the archive.
    pub name: String,
    /// The condition that rows must meet; see [`crate::transform`]. Of an output that takes every record: at least one of its
    /// rows, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// What the objects hold.
    pub format: OutputFormat,
    /// Columns of Kafka's own that are added to each row.
    pub keep: Option<Keep>,
    /// Where the objects lie.
    pub place: Place,
}

/// Folder, name and destinations of an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Template of the folder; see [`template`].
    pub path: String,
    /// Template of the object's name without its extension.
    pub name: String,
    /// IANA zone of the strftime parts.
    pub zone: String,
    /// Destination URLs without secrets, first one first. At least one.
    pub destinations: Vec<String>,
    /// How much of the format's extension the name ends in.
    #[serde(default, skip_serializing_if = "Ending::is_whole")]
    pub ending: Ending,
}

/// Where dead letters lie, one a record and failing stage, and what they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterLayout {
    /// Folder, name and destinations.
    pub place: Place,
    /// What the objects hold.
    #[serde(default, skip_serializing_if = "DeadLetterFormat::is_json")]
    pub format: DeadLetterFormat,
}

/// What an object of dead letters holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterFormat {
    /// gzip JSON lines.
    #[default]
    Json,
    /// Parquet.
    Parquet,
}

impl DeadLetterFormat {
    /// Whether it is the one that layouts leave out.
    pub fn is_json(&self) -> bool {
        *self == Self::Json
    }
}

/// Kafka's own columns in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// Which, in row order, each at most once.
    pub columns: Vec<KeptColumn>,
    /// Put in front of each column's name.
    pub prefix: String,
}

/// A column of Kafka's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptColumn {
    /// Record key.
    Key,
    /// Headers, in order, repeats kept.
    Headers,
    /// Kafka timestamp.
    Timestamp,
    /// Topic name.
    Topic,
    /// Kafka partition.
    Partition,
    /// Offset.
    Offset,
}

/// What an object holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum OutputFormat {
    /// The payload's bytes, one record a line or frame.
    Raw {
        /// Of the whole file.
        compression: Compression,
        /// What becomes of payloads with a newline inside.
        newlines: Newlines,
    },
    /// One JSON value a line.
    Json {
        /// Of the whole file.
        compression: Compression,
    },
    /// Avro object container files.
    Avro {
        /// Of the blocks.
        codec: AvroCodec,
        /// Columns.
        schema: SchemaSource,
        /// What becomes of fields outside the schema.
        unknown: UnknownFields,
        /// A block is closed at this many bytes of rows before encoding, counted as in `Parquet`.
        block_bytes: u64,
    },
    /// Whole records in Parquet, decodable or not.
    Envelope {
        /// Of the pages.
        compression: Compression,
        /// As those of `Parquet`.
        row_group_bytes: u64,
        /// As those of `Parquet`.
        row_group_rows: u32,
    },
    /// Parquet.
    Parquet {
        /// Of the pages.
        compression: Compression,
        /// Columns.
        schema: SchemaSource,
        /// What becomes of fields outside the schema.
        unknown: UnknownFields,
        /// A row group is closed at this many bytes of rows before encoding: values in the width of their types, text
        /// as it is.
        row_group_bytes: u64,
        /// … or at this many rows.
        row_group_rows: u32,
        /// How columns are stored.
        #[serde(default, skip_serializing_if = "Pages::are_usual")]
        pages: Pages,
    },
}

/// How Parquet stores columns. Those of values are named by their paths in the file: names from the outermost, joined by
/// dots (`request.path`, `tags.list.element`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    /// Columns with a bloom filter for each row group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bloom_filters: Vec<String>,
    /// Which columns may have a dictionary.
    #[serde(default, skip_serializing_if = "Dictionaries::are_all")]
    pub dictionary: Dictionaries,
    /// Bytes of a data page before compression; [`Pages::BYTES`] where it is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_bytes: Option<u32>,
}

impl Pages {
    /// Bytes of a data page where nothing is said: 1 MiB.
    pub const BYTES: u32 = 1 << 20;

    /// Whether they are those that layouts leave out.
    pub fn are_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// Which columns of a Parquet file may have a dictionary. Columns whose values are nearly all new have none in any case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dictionaries {
    /// All.
    #[default]
    All,
    /// None.
    None,
    /// These.
    Only(Vec<String>),
}

impl Dictionaries {
    /// Whether all columns may.
    pub fn are_all(&self) -> bool {
        *self == Self::All
    }
}

impl OutputFormat {
    /// Whether an output of that format takes every record, decodable or not.
    pub fn takes_every_record(&self) -> bool {
        matches!(self, Self::Raw { .. } | Self::Envelope { .. })
    }

    /// Where its columns come from, if it has columns of the payload's: rows are then made of whole payloads, and a
    /// broken one makes none.
    pub fn schema(&self) -> Option<&SchemaSource> {
        match self {
            Self::Parquet { schema, .. } | Self::Avro { schema, .. } => Some(schema),
            Self::Raw { .. } | Self::Json { .. } | Self::Envelope { .. } => None,
        }
    }
}

/// Codec and level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "codec", content = "level", rename_all = "snake_case")]
pub enum Compression {
    /// Plain bytes.
    None,
    /// RFC 1952; level 1 to 9.
    Gzip(u32),
    /// RFC 8878; level 1 to 19.
    Zstd(i32),
    /// Snappy pages (Parquet only).
    Snappy,
    /// LZ4 pages, `LZ4_RAW` (Parquet only).
    Lz4,
}

/// Codec of the blocks of an Avro file: those that most readers have, at their usual level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AvroCodec {
    /// Plain bytes: `null`.
    None,
    /// `deflate`, which every reader has.
    Deflate,
    /// `snappy`.
    Snappy,
    /// `zstandard`.
    Zstd,
}

/// What `raw` does with a payload that holds a newline byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Newlines {
    /// A dead letter.
    Refuse,
    /// `\` becomes `\\` and newline becomes `\n` in every payload of the output: reversible.
    Escape,
    /// No newlines at all: each payload after its length as 4 bytes, big endian.
    Length,
}

/// What Parquet and Avro do with fields outside its schema, at any depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownFields {
    /// Kept as JSON text in the column `_rest`.
    Rest,
    /// The record is a dead letter.
    DeadLetter,
    /// Dropped; each field counted under the rule `unknown`.
    Drop,
}

/// Where the schema of a Parquet or Avro output comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaSource {
    /// From the first records, pinned in the bucket.
    Infer,
    /// Given: the columns.
    Columns(Vec<Column>),
    /// Those of the schema in the registry that the batch's rows are projected onto.
    Registry,
}

/// A column or nested field of a Parquet or Avro output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Name, as in the JSON payload.
    pub name: String,
    /// Type.
    pub kind: ColumnKind,
    /// Whether null or missing is allowed.
    pub nullable: bool,
}

/// Type of a [`Column`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// true / false.
    Bool,
    /// Signed, 64 bits.
    Int64,
    /// IEEE double.
    Float64,
    /// UTF-8 text.
    String,
    /// Bytes; base64 in the JSON payload.
    Bytes,
    /// Any JSON value as its text.
    Json,
    /// Calendar day.
    Date,
    /// Instant, microseconds UTC (Parquet `TIMESTAMP(MICROS, adjusted)`). Numbers are an epoch in `unit`, or told by
    /// size where that is `None` (see [`crate::parse::timestamp`]); strings are RFC 3339.
    Timestamp {
        /// Unit of numbers.
        unit: Option<TimeUnit>,
    },
    /// Exact decimal; numbers or numeric strings in the payload.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits behind the point, 0 to `precision`.
        scale: i8,
    },
    /// Nested fields.
    Struct(Vec<Column>),
    /// Repeated values.
    List(Box<Column>),
    /// Any names, one value type.
    Map(Box<Column>),
}
