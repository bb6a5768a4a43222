//! Avro object container files: the columns of Parquet, row by row, behind the schema they were written with.
//!
//! | column | Avro |
//! |---|---|
//! | `Bool`, `Int64`, `Float64` | `boolean`, `long`, `double` |
//! | `String`, `Json`; `Bytes` | `string`; `bytes` |
//! | `Date`, `Timestamp` | `int` (`date`), `long` (`timestamp-micros`) |
//! | `Decimal` | `bytes` (`decimal`) |
//! | `Struct`, `List`, `Map` | `record`, `array`, `map` |
//! | kept timestamp, partition, offset | `long` (`timestamp-millis`), `int`, `long` |
//! | nullable | union of `null` and the type, by default null |
//!
//! The record is `siltstone.row`; nested ones are called as their field, in the namespace of the record around, so that no
//! other column changes their names. Avro's names have letters, digits and `_` of ASCII only: in others each other
//! character becomes `_`, a name that is taken then gets a number behind it, and `doc` has the name as it was.
//!
//! A block of ours is a block of the file. What the specification wants to be random, the marker between blocks, is the
//! first half of the SHA-256 of the file's schema and codec: equal rows give equal bytes (F-2). The range of a batch is not
//! in the file: Avro's metadata stands in front of the rows, where its end is not known yet.

pub(super) mod again;

use super::parquet::rows::{ColumnRows, arrays};
use super::{Appended, Assembler, BlockLimit, EncodedBlock, Format, FormatError, Row, RowError};
use crate::layout::{AvroCodec, Column, Keep, UnknownFields};
use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_avro::compression::CompressionCodec;
use arrow_avro::errors::AvroError;
use arrow_avro::schema::{
    AVRO_DOC_METADATA_KEY, AVRO_FIELD_DEFAULT_METADATA_KEY, AVRO_NAME_METADATA_KEY, AVRO_NAMESPACE_METADATA_KEY,
    AvroSchema, SCHEMA_METADATA_KEY,
};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroFormat as ContainerFormat;
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use serde::de::{IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_avro_fast::ser::SerializerConfig;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;

/// Most values of a block, nulls counted: of wide rows with hardly a value in them a block holds fewer.
const BLOCK_CELLS_MAX: u32 = 1 << 18;

/// Bytes that a value takes at most as arrow's array and Avro's bytes together, beside its own bytes in the row.
const CELL_BYTES: u64 = 20;

/// The record's name and namespace.
const ROOT: (&str, &str) = ("siltstone", "row");

/// Container files with one schema.
pub(super) struct AvroFormat {
    rows: ColumnRows,
    container: Container,
    limit: BlockLimit,
}

/// What every file and block of the format needs.
#[derive(Clone)]
struct Container {
    /// The columns under their names in Avro, with the writer schema as metadata.
    schema: SchemaRef,
    codec: Option<CompressionCodec>,
    /// Everything in front of the first block.
    header: Vec<u8>,
    columns: u32,
}

impl AvroFormat {
    /// Prepares files of `columns` beside the kept ones, with blocks of so many bytes of plain rows.
    ///
    /// # Errors
    /// The schema or the limit cannot be; in words for the person who wrote the layout.
    pub(super) fn new(
        columns: &[Column],
        keep: Option<&Keep>,
        unknown: UnknownFields,
        codec: AvroCodec,
        block_bytes: usize,
    ) -> Result<Self, String> {
        let rows = ColumnRows::new(columns, keep, unknown)?;
        let container = Container::new(rows.arrow(), codec)?;
        if block_bytes == 0 {
            return Err("a block of 0 bytes".to_string());
        }
        let limit = BlockLimit { bytes: block_bytes, rows: (BLOCK_CELLS_MAX / container.columns).max(16) };
        Ok(Self { rows, container, limit })
    }
}

/// The columns of files of `columns` beside the kept ones, under their names in Avro, with the writer schema as metadata.
///
/// # Errors
/// The schema cannot be; in words for the person who wrote the layout.
pub(super) fn schema_of(
    columns: &[Column],
    keep: Option<&Keep>,
    unknown: UnknownFields,
    codec: AvroCodec,
) -> Result<SchemaRef, String> {
    let rows = ColumnRows::new(columns, keep, unknown)?;
    Ok(Container::new(rows.arrow(), codec)?.schema)
}

impl Container {
    fn new(arrow: &Schema, codec: AvroCodec) -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("the Avro schema: {error}");
        let names = HashMap::from([
            (AVRO_NAMESPACE_METADATA_KEY.to_string(), ROOT.0.to_string()),
            (AVRO_NAME_METADATA_KEY.to_string(), ROOT.1.to_string()),
        ]);
        let fields = renamed(arrow.fields(), &format!("{}.{}", ROOT.0, ROOT.1));
        let schema = Schema::new_with_metadata(fields, names);
        let made = AvroSchema::try_from(&schema).map_err(|error| wrong(&error))?;
        let mut json: Value = serde_json::from_str(&made.json_string).map_err(|error| wrong(&error))?;
        forget_names(&mut json);
        let metadata = HashMap::from([(SCHEMA_METADATA_KEY.to_string(), json.to_string())]);
        let columns = u32::try_from(schema.flattened_fields().len()).map_err(|error| wrong(&error))?.max(1);
        let schema = Arc::new(Schema::new_with_metadata(schema.fields, metadata));
        let codec = match codec {
            AvroCodec::None => None,
            AvroCodec::Deflate => Some(CompressionCodec::Deflate),
            AvroCodec::Snappy => Some(CompressionCodec::Snappy),
            AvroCodec::Zstd => Some(CompressionCodec::ZStandard),
        };
        let mut container = Self { schema, codec, header: Vec::new(), columns };
        // A file without blocks is its header; it also proves the schema to the library.
        container.header = container.encode(None).map_err(|error| wrong(&error))?;
        Ok(container)
    }

    /// A file of one block, or of none.
    fn encode(&self, batch: Option<&RecordBatch>) -> Result<Vec<u8>, AvroError> {
        let builder = WriterBuilder::new(Schema::clone(&self.schema)).with_compression(self.codec);
        let mut writer = builder.build::<_, Header>(Vec::new())?;
        if let Some(batch) = batch {
            writer.write(batch)?;
        }
        writer.finish()?;
        Ok(writer.into_inner())
    }

    fn encode_rows(&self, rows: &[u8], count: usize) -> Result<(Vec<u8>, usize), String> {
        let (arrays, found) = arrays(self.schema.fields(), rows, count)?;
        let options = RecordBatchOptions::new().with_row_count(Some(found));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| error.to_string())?;
        let mut file = self.encode(Some(&batch)).map_err(|error| error.to_string())?;
        if !file.starts_with(&self.header) {
            return Err("the file begins otherwise than all others".to_string());
        }
        Ok((file.split_off(self.header.len()), found))
    }
}

/// The fields of a record under names that Avro allows, with names for the records in them. `record`: its full name.
fn renamed(fields: &Fields, record: &str) -> Fields {
    // Names that Avro allows stay as they are, whatever the others become.
    let mut taken: HashSet<String> =
        fields.iter().map(|field| field.name()).filter(|name| allowed(name) == **name).cloned().collect();
    fields.iter().map(|field| Arc::new(renamed_field(field, record, &mut taken))).collect()
}

fn renamed_field(field: &Field, record: &str, taken: &mut HashSet<String>) -> Field {
    let name = free_name(field.name(), taken);
    let mut of_field = renamed_type(field, &name, record);
    let mut metadata = of_field.metadata().clone();
    if name != *field.name() {
        metadata.insert(AVRO_DOC_METADATA_KEY.to_string(), field.name().clone());
    }
    if field.is_nullable() {
        metadata.insert(AVRO_FIELD_DEFAULT_METADATA_KEY.to_string(), "null".to_string());
    }
    of_field.set_metadata(metadata);
    of_field
}

/// `field` as `name`, with what is in it renamed. A record in it is called `name` in the namespace `record`.
fn renamed_type(field: &Field, name: &str, record: &str) -> Field {
    let inner = format!("{record}.{name}");
    let inside = |part: &FieldRef, name: &str| Arc::new(renamed_type(part, name, &inner));
    let mut metadata = HashMap::new();
    let data_type = match field.data_type() {
        DataType::Struct(fields) => {
            metadata.insert(AVRO_NAME_METADATA_KEY.to_string(), name.to_string());
            metadata.insert(AVRO_NAMESPACE_METADATA_KEY.to_string(), record.to_string());
            DataType::Struct(renamed(fields, &inner))
        }
        DataType::List(element) => DataType::List(inside(element, "element")),
        DataType::Map(entries, ordered) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                let pair = DataType::Struct(Fields::from(vec![Arc::clone(&pair[0]), inside(&pair[1], "value")]));
                DataType::Map(Arc::new(Field::new(entries.name(), pair, false)), *ordered)
            }
            _ => field.data_type().clone(),
        },
        other => other.clone(),
    };
    Field::new(name, data_type, field.is_nullable()).with_metadata(metadata)
}

/// `name` with only what Avro allows in names.
fn allowed(name: &str) -> String {
    let mut allowed: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if allowed.is_empty() || allowed.starts_with(|c: char| c.is_ascii_digit()) {
        allowed.insert(0, '_');
    }
    allowed
}

/// `name` if Avro allows it, which is in `taken` then; else something like it that is not in there.
fn free_name(name: &str, taken: &mut HashSet<String>) -> String {
    let allowed = allowed(name);
    if allowed == name {
        return allowed;
    }
    let mut free = allowed.clone();
    let mut number = 2;
    while !taken.insert(free.clone()) {
        free = format!("{allowed}_{number}");
        number += 1;
    }
    free
}

/// Takes arrow's notes of names and defaults out of the schema: they stand there as Avro's own.
fn forget_names(json: &mut Value) {
    match json {
        Value::Object(members) => {
            members.retain(|key, _| !key.starts_with("avro."));
            members.values_mut().for_each(forget_names);
        }
        Value::Array(elements) => elements.iter_mut().for_each(forget_names),
        _ => {}
    }
}

/// Bytes of the marker between blocks.
const MARKER_BYTES: usize = 16;

/// The header of a file, as the specification has it.
const HEADER_SCHEMA: &str = r#"{"type": "record", "name": "org.apache.avro.file.Header", "fields": [
    {"name": "magic", "type": {"type": "fixed", "name": "Magic", "size": 4}},
    {"name": "meta", "type": {"type": "map", "values": "bytes"}},
    {"name": "sync", "type": {"type": "fixed", "name": "Sync", "size": 16}}]}"#;

/// A block, as the specification has it.
const BLOCK_SCHEMA: &str = r#"{"type": "record", "name": "Block", "fields": [{"name": "count", "type": "long"},
    {"name": "data", "type": "bytes"}, {"name": "sync", "type": {"type": "fixed", "name": "Sync", "size": 16}}]}"#;

const MAGIC: &[u8] = b"Obj\x01";

/// What of a file's header and blocks tells their rows.
#[derive(Deserialize)]
struct FoundHeader {
    magic: FoundBytes,
    #[serde(rename = "meta")]
    _meta: IgnoredAny,
    sync: FoundBytes,
}

#[derive(Deserialize)]
struct FoundBlock {
    count: i64,
    #[serde(rename = "data")]
    _data: IgnoredAny,
    sync: FoundBytes,
}

struct FoundBytes(Vec<u8>);

impl<'de> Deserialize<'de> for FoundBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Found;
        impl Visitor<'_> for Found {
            type Value = FoundBytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<FoundBytes, E> {
                Ok(FoundBytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Found)
    }
}

/// Begins a file with a marker that is told by its schema and codec, not by chance.
#[derive(Debug, Default)]
struct Header {
    marker: [u8; MARKER_BYTES],
}

#[derive(Serialize)]
struct HeaderDatum<'a> {
    magic: Bytes<'a>,
    meta: BTreeMap<&'a str, Bytes<'a>>,
    sync: Bytes<'a>,
}

struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl ContainerFormat for Header {
    const NEEDS_PREFIX: bool = false;

    fn start_stream<W: Write>(
        &mut self,
        writer: &mut W,
        schema: &Schema,
        codec: Option<CompressionCodec>,
    ) -> Result<(), AvroError> {
        let wrong = |what: String| AvroError::SchemaError(what);
        let json = schema.metadata().get(SCHEMA_METADATA_KEY).ok_or_else(|| wrong("missing".to_string()))?;
        let codec = match codec {
            None => "null",
            Some(CompressionCodec::Deflate) => "deflate",
            Some(CompressionCodec::Snappy) => "snappy",
            Some(CompressionCodec::ZStandard) => "zstandard",
            Some(CompressionCodec::Bzip2) => "bzip2",
            Some(CompressionCodec::Xz) => "xz",
        };
        let digest = Sha256::digest(format!("{codec}\n{json}"));
        self.marker.copy_from_slice(&digest[..MARKER_BYTES]);
        let datum = HeaderDatum {
            magic: Bytes(MAGIC),
            meta: BTreeMap::from([
                ("avro.codec", Bytes(codec.as_bytes())),
                (SCHEMA_METADATA_KEY, Bytes(json.as_bytes())),
            ]),
            sync: Bytes(&self.marker),
        };
        let of_header: serde_avro_fast::Schema =
            HEADER_SCHEMA.parse().map_err(|error| wrong(format!("the header's: {error}")))?;
        let header = serde_avro_fast::to_datum_vec(&datum, &mut SerializerConfig::new(&of_header))
            .map_err(|error| wrong(format!("the header: {error}")))?;
        writer.write_all(&header)?;
        Ok(())
    }

    fn sync_marker(&self) -> Option<&[u8; MARKER_BYTES]> {
        Some(&self.marker)
    }
}

impl Format for AvroFormat {
    fn extension(&self) -> String {
        "avro".to_string()
    }

    fn content_type(&self) -> &'static str {
        // None is registered; this is what readers know.
        "application/avro"
    }

    fn block_limit(&self) -> BlockLimit {
        self.limit
    }

    fn append_row(&self, row: &Row<'_>, rows: &mut Vec<u8>) -> Result<Appended, RowError> {
        self.rows.append(row, rows)
    }

    fn encode_block(&self, rows: &[u8], count: u32) -> Result<EncodedBlock, FormatError> {
        let refuse = |what: String| FormatError::Encode { rows: count, what };
        let room = usize::try_from(count.min(self.limit.rows)).map_err(|error| refuse(error.to_string()))?;
        let (bytes, found) = self.container.encode_rows(rows, room).map_err(refuse)?;
        if u32::try_from(found) != Ok(count) {
            return Err(refuse(format!("the block holds {found} rows")));
        }
        Ok(EncodedBlock::Container(bytes))
    }

    /// The rows, their arrays, Avro's bytes of them, and those compressed; and what nulls take, which are nothing in a row.
    fn encoding_memory(&self, rows: u64) -> u64 {
        let cells = rows.saturating_mul(self.container.columns.into()).min(BLOCK_CELLS_MAX.into());
        rows.saturating_mul(4).saturating_add(cells * CELL_BYTES)
    }

    fn assemble(&self, mut out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        out.write_all(&self.container.header)?;
        Ok(Box::new(ContainerAssembler { out }))
    }

    fn count_rows(&self, file: File) -> io::Result<u64> {
        count_blocks(file)
    }
}

/// Rows of a container file, as the heads of its blocks tell.
pub(super) fn count_blocks(file: impl Read) -> io::Result<u64> {
    let schema = |text: &str| text.parse::<serde_avro_fast::Schema>().map_err(io::Error::other);
    let (of_header, of_block) = (schema(HEADER_SCHEMA)?, schema(BLOCK_SCHEMA)?);
    let mut file = BufReader::new(file);
    let header: FoundHeader = serde_avro_fast::from_datum_reader(&mut file, &of_header).map_err(io::Error::other)?;
    if header.magic.0 != MAGIC {
        return Err(io::Error::other("no Avro container file"));
    }
    let mut rows = 0;
    while !file.fill_buf()?.is_empty() {
        let block: FoundBlock = serde_avro_fast::from_datum_reader(&mut file, &of_block).map_err(io::Error::other)?;
        if block.sync.0 != header.sync.0 {
            return Err(io::Error::other("a block that does not end in the file's marker"));
        }
        rows += u64::try_from(block.count).map_err(io::Error::other)?;
    }
    Ok(rows)
}

/// Puts blocks behind each other.
struct ContainerAssembler {
    out: Box<dyn Write + Send>,
}

impl Assembler for ContainerAssembler {
    fn append(&mut self, block: EncodedBlock) -> Result<(), FormatError> {
        let EncodedBlock::Container(bytes) = block else {
            return Err(FormatError::Encode { rows: 0, what: "a block of another format in an Avro file".to_string() });
        };
        self.out.write_all(&bytes)?;
        Ok(())
    }

    fn finish(self: Box<Self>, _metadata: &[(String, String)]) -> Result<(), FormatError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
