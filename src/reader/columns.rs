//! Rows of Avro and Parquet as JSON, one object a line: as near as can be to what a JSON output shows of the same record.
//!
//! | column | JSON |
//! |---|---|
//! | text, numbers, booleans | themselves; a double that is no number is `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | bytes | base64 |
//! | date | `"2025-11-21"` |
//! | instant | RFC 3339 in UTC, with as many digits of a second as it needs: `"2025-11-21T08:00:00.123Z"` |
//! | decimal | a number with all digits of its scale: `1.50` |
//! | JSON text, `_rest` | that JSON; of rows that were JSON lines its fields stand in the row itself |
//! | struct, map; list | object; array |
//! | null | left out, in an array `null` |
//! | kept key, headers, timestamp | as JSON outputs keep them, see [`crate::format::keep`] |
//!
//! What is JSON text the Parquet file says itself. Avro has no such type: there the columns of the layout say it.

use crate::format::keep::{base_name, write_bytes, write_header_list};
use crate::format::parquet::envelope::read::header_list;
use crate::format::parquet::schema::REST_COLUMN;
use crate::layout::{Column, ColumnKind, Keep, KeptColumn};
use crate::parse::text::{write_base64, write_json_string};
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float64Type, TimestampMicrosecondType, TimestampMillisecondType};
use arrow_array::{
    Array, ArrayRef, BinaryArray, ListArray, MapArray, PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, TimeUnit};
use chrono::{DateTime, SecondsFormat, Utc};
use parquet::basic::LogicalType;
use parquet::schema::types::SchemaDescriptor;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Marks a field whose text is JSON.
const JSON: &str = "siltstone.json";

/// Where a column lies, in Parquet's words: names from the outermost, with `list.element` and `key_value.value` between them.
type ColumnPath = Vec<String>;

/// How the rows of one file become lines.
#[derive(Debug)]
pub struct JsonLines {
    /// The columns with what is JSON text marked.
    fields: Fields,
    /// Each column's name as JSON, and what it is of Kafka's own.
    names: Vec<(Vec<u8>, Option<KeptColumn>)>,
    /// Name of the flag beside a kept key.
    key_base64: Vec<u8>,
    /// The column whose fields stand in the row itself.
    unfolded: Option<usize>,
    options: EncoderOptions,
}

impl JsonLines {
    /// Of a Parquet file with these columns.
    pub fn of_parquet(fields: &Fields, parquet: &SchemaDescriptor, keep: Option<&Keep>) -> Self {
        let is_json = |column: &&Arc<parquet::schema::types::ColumnDescriptor>| {
            matches!(column.logical_type_ref(), Some(LogicalType::Json))
        };
        let json = parquet.columns().iter().filter(is_json).map(|column| column.path().parts().to_vec()).collect();
        Self::new(fields, &json, keep)
    }

    /// Of a Parquet file that was made of JSON lines: what had no column is in the row again as it was, and no column is Kafka's own as
    /// Parquet outputs keep it.
    pub fn of_lines(fields: &Fields, parquet: &SchemaDescriptor) -> Self {
        let lines = Self::of_parquet(fields, parquet, None);
        let is_rest = |field: &FieldRef| field.name() == REST_COLUMN && *field.data_type() == DataType::Utf8;
        Self { unfolded: fields.iter().position(is_rest), ..lines }
    }

    /// Of an Avro file with these columns; `columns`: those of its layout, where they are known.
    pub fn of_avro(fields: &Fields, columns: &[Column], keep: Option<&Keep>) -> Self {
        let mut json = HashSet::from([vec![REST_COLUMN.to_string()]]);
        for column in columns {
            json_columns(&column.kind, vec![column.name.clone()], &mut json);
        }
        Self::new(fields, &json, keep)
    }

    fn new(fields: &Fields, json: &HashSet<ColumnPath>, keep: Option<&Keep>) -> Self {
        let kept = |name: &str| {
            let keep = keep?;
            keep.columns.iter().copied().find(|&column| name == format!("{}{}", keep.prefix, base_name(column)))
        };
        let quoted = |name: &str| {
            let mut text = Vec::new();
            write_json_string(name, &mut text);
            text.push(b':');
            text
        };
        let names = fields.iter().map(|field| (quoted(field.name()), kept(field.name()))).collect();
        let marked = fields.iter().map(|field| marked(field, &mut vec![field.name().clone()], json)).collect();
        let prefix = keep.map_or("", |keep| keep.prefix.as_str());
        let options = EncoderOptions::default().with_encoder_factory(Arc::new(Values));
        let key_base64 = quoted(&format!("{prefix}key_base64"));
        Self { fields: marked, names, key_base64, unfolded: None, options }
    }

    /// The rows of `batch`, a line each without its end.
    ///
    /// # Errors
    /// It has other columns, or a type that our files do not have.
    pub fn lines(&self, batch: &RecordBatch) -> Result<Vec<Vec<u8>>, String> {
        if batch.num_columns() != self.fields.len() {
            return Err(format!("{} columns where its schema has {}", batch.num_columns(), self.fields.len()));
        }
        let retyped = self.fields.iter().zip(batch.columns()).map(|(field, array)| retyped(array, field));
        let arrays: Vec<ArrayRef> = retyped.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let mut cells = Vec::with_capacity(arrays.len());
        for (index, ((field, array), (_, kept))) in self.fields.iter().zip(&arrays).zip(&self.names).enumerate() {
            cells.push(match array.as_string_opt().filter(|_| self.unfolded == Some(index)) {
                Some(texts) => Cells::Unfolded(texts),
                None => self.cells(field, array, *kept)?,
            });
        }
        let mut lines = Vec::with_capacity(batch.num_rows());
        for at in 0..batch.num_rows() {
            let mut line = vec![b'{'];
            for ((name, _), cells) in self.names.iter().zip(&mut cells) {
                cells.write(at, name, &self.key_base64, &mut line)?;
            }
            if line.len() > 1 {
                line.pop();
            }
            line.push(b'}');
            lines.push(line);
        }
        Ok(lines)
    }

    fn cells<'a>(
        &'a self,
        field: &'a FieldRef,
        array: &'a ArrayRef,
        kept: Option<KeptColumn>,
    ) -> Result<Cells<'a>, String> {
        let of_kind = match kept {
            Some(KeptColumn::Key) => array.as_binary_opt().map(Cells::Key),
            Some(KeptColumn::Headers) => array.as_list_opt().map(Cells::Headers),
            Some(KeptColumn::Timestamp) => array.as_primitive_opt().map(Cells::Timestamp),
            Some(KeptColumn::Topic | KeptColumn::Partition | KeptColumn::Offset) | None => None,
        };
        match of_kind {
            Some(cells) => Ok(cells),
            None => make_encoder(field, array, &self.options).map(Cells::Value).map_err(|error| error.to_string()),
        }
    }
}

/// The values of one column.
enum Cells<'a> {
    Value(NullableEncoder<'a>),
    Key(&'a BinaryArray),
    Headers(&'a ListArray),
    Timestamp(&'a PrimitiveArray<TimestampMillisecondType>),
    /// JSON objects whose fields are the row's own.
    Unfolded(&'a StringArray),
}

impl Cells<'_> {
    /// Adds name, value and a comma, or nothing where it is null.
    fn write(&mut self, at: usize, name: &[u8], key_base64: &[u8], line: &mut Vec<u8>) -> Result<(), String> {
        let is_null = match self {
            Self::Value(encoder) => encoder.is_null(at),
            Self::Key(keys) => keys.is_null(at),
            Self::Headers(lists) => lists.is_null(at),
            Self::Timestamp(times) => times.is_null(at),
            Self::Unfolded(texts) => texts.is_null(at),
        };
        if is_null {
            return Ok(());
        }
        if let Self::Unfolded(texts) = self {
            let text = texts.value(at).trim();
            let inside = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
            let inside = inside.ok_or_else(|| format!("{REST_COLUMN} of a row is no JSON object"))?.trim();
            if !inside.is_empty() {
                line.extend(one_line(inside));
                line.push(b',');
            }
            return Ok(());
        }
        line.extend_from_slice(name);
        match self {
            Self::Value(encoder) => encoder.encode(at, line),
            Self::Timestamp(times) => line.extend_from_slice(times.value(at).to_string().as_bytes()),
            Self::Unfolded(_) => {}
            Self::Headers(lists) => write_header_list(&header_list(&lists.value(at), "name")?, line),
            Self::Key(keys) => {
                if write_bytes(Some(keys.value(at)), line) {
                    line.push(b',');
                    line.extend_from_slice(key_base64);
                    line.extend_from_slice(b"true");
                }
            }
        }
        line.push(b',');
        Ok(())
    }
}

/// Adds where JSON text lies below a column.
fn json_columns(kind: &ColumnKind, path: ColumnPath, found: &mut HashSet<ColumnPath>) {
    let below = |parts: &[&str]| path.iter().cloned().chain(parts.iter().map(|part| part.to_string())).collect();
    match kind {
        ColumnKind::Json => _ = found.insert(path),
        ColumnKind::Struct(fields) => {
            fields.iter().for_each(|field| json_columns(&field.kind, below(&[&field.name]), found));
        }
        ColumnKind::List(element) => json_columns(&element.kind, below(&["list", "element"]), found),
        ColumnKind::Map(value) => json_columns(&value.kind, below(&["key_value", "value"]), found),
        ColumnKind::Bool
        | ColumnKind::Int64
        | ColumnKind::Float64
        | ColumnKind::String
        | ColumnKind::Bytes
        | ColumnKind::Date
        | ColumnKind::Timestamp { .. }
        | ColumnKind::Decimal { .. } => {}
    }
}

/// `field` with what is JSON text in it marked.
fn marked(field: &FieldRef, path: &mut ColumnPath, json: &HashSet<ColumnPath>) -> FieldRef {
    let inside = |part: &FieldRef, names: &[&str], path: &mut ColumnPath| {
        path.extend(names.iter().map(|name| name.to_string()));
        let marked = marked(part, path, json);
        path.truncate(path.len() - names.len());
        marked
    };
    let data_type = match field.data_type() {
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|part| inside(part, &[part.name()], path)).collect())
        }
        DataType::List(element) => DataType::List(inside(element, &["list", "element"], path)),
        DataType::Map(entries, ordered) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                let pair = [pair[0].clone(), inside(&pair[1], &["key_value", "value"], path)];
                let entry = Field::new(entries.name(), DataType::Struct(pair.to_vec().into()), entries.is_nullable());
                DataType::Map(Arc::new(entry), *ordered)
            }
            _ => field.data_type().clone(),
        },
        DataType::Utf8 if json.contains(path) => {
            let mark = HashMap::from([(JSON.to_string(), String::new())]);
            return Arc::new(Field::new(field.name(), DataType::Utf8, field.is_nullable()).with_metadata(mark));
        }
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

/// The same values under the marked field.
fn retyped(array: &ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    let of_fields = |parts: &StructArray, fields: &Fields| {
        let columns = fields.iter().zip(parts.columns()).map(|(field, column)| retyped(column, field));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        StructArray::try_new_with_length(fields.clone(), columns, parts.nulls().cloned(), parts.len())
    };
    Ok(match (field.data_type(), array.data_type()) {
        (DataType::Struct(fields), DataType::Struct(_)) => Arc::new(of_fields(array.as_struct(), fields)?),
        (DataType::List(element), DataType::List(_)) => {
            let list: &ListArray = array.as_list();
            let (values, nulls) = (retyped(list.values(), element)?, list.nulls().cloned());
            Arc::new(ListArray::try_new(element.clone(), list.offsets().clone(), values, nulls)?)
        }
        (DataType::Map(entry, ordered), DataType::Map(..)) => {
            let map = array.as_map();
            let DataType::Struct(pair) = entry.data_type() else { return Ok(array.clone()) };
            let (entries, nulls) = (of_fields(map.entries(), pair)?, map.nulls().cloned());
            Arc::new(MapArray::try_new(entry.clone(), map.offsets().clone(), entries, nulls, *ordered)?)
        }
        _ => array.clone(),
    })
}

/// The values that we write otherwise than arrow does.
#[derive(Debug)]
struct Values;

impl EncoderFactory for Values {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            // The library's own write what is inside as if it were the list or map itself, which has no mark.
            DataType::List(element) => {
                let list: &ListArray = array.as_list();
                Box::new(List(list.offsets(), make_encoder(element, list.values(), options)?))
            }
            DataType::Map(entry, _) => {
                let map = array.as_map();
                let DataType::Struct(pair) = entry.data_type() else { return Ok(None) };
                let keys = map.keys().as_string_opt().ok_or_else(|| {
                    ArrowError::JsonError(format!("a map with keys of type {}", map.keys().data_type()))
                })?;
                Box::new(Entries(map.offsets(), keys, make_encoder(&pair[1], map.values(), options)?))
            }
            DataType::Binary => Box::new(Base64(array.as_binary())),
            DataType::Float64 => Box::new(Double(array.as_primitive())),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
                Box::new(Instant(array.as_primitive::<TimestampMicrosecondType>(), DateTime::from_timestamp_micros))
            }
            DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => {
                Box::new(Instant(array.as_primitive::<TimestampMillisecondType>(), DateTime::from_timestamp_millis))
            }
            DataType::Utf8 if field.metadata().contains_key(JSON) => Box::new(JsonText(array.as_string())),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

struct List<'a>(&'a OffsetBuffer<i32>, NullableEncoder<'a>);

impl Encoder for List<'_> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        out.push(b'[');
        let begin = out.len();
        for element in range(self.0, at) {
            write_value(&mut self.1, element, out);
            out.push(b',');
        }
        close(begin, b']', out);
    }
}

struct Entries<'a>(&'a OffsetBuffer<i32>, &'a StringArray, NullableEncoder<'a>);

impl Encoder for Entries<'_> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        let begin = out.len();
        for entry in range(self.0, at) {
            write_json_string(self.1.value(entry), out);
            out.push(b':');
            write_value(&mut self.2, entry, out);
            out.push(b',');
        }
        close(begin, b'}', out);
    }
}

/// The elements of list or map `at`. Offsets of arrow's arrays are never negative.
fn range(offsets: &OffsetBuffer<i32>, at: usize) -> Range<usize> {
    offsets[at].unsigned_abs() as usize..offsets[at + 1].unsigned_abs() as usize
}

fn write_value(values: &mut NullableEncoder<'_>, at: usize, out: &mut Vec<u8>) {
    if values.is_null(at) { out.extend_from_slice(b"null") } else { values.encode(at, out) }
}

/// Puts `end` in place of the comma behind the last element, where anything was written since `begin`.
fn close(begin: usize, end: u8, out: &mut Vec<u8>) {
    if out.len() > begin {
        out.pop();
    }
    out.push(end);
}

struct Base64<'a>(&'a BinaryArray);

impl Encoder for Base64<'_> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        write_base64(self.0.value(at), out);
    }
}

struct Double<'a>(&'a PrimitiveArray<Float64Type>);

impl Encoder for Double<'_> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        let value = self.0.value(at);
        if value.is_finite() {
            serde_json::to_writer(out, &value).expect("a number, and a Vec");
            return;
        }
        let name = match (value.is_nan(), value > 0.0) {
            (true, _) => "NaN",
            (false, true) => "Infinity",
            (false, false) => "-Infinity",
        };
        write_json_string(name, out);
    }
}

/// Instants, and how the library's own are made of them: it knows no zone by its name.
struct Instant<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>, fn(i64) -> Option<DateTime<Utc>>);

impl<T: ArrowPrimitiveType<Native = i64>> Encoder for Instant<'_, T> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        let value = self.0.value(at);
        match (self.1)(value) {
            Some(instant) => write_json_string(&instant.to_rfc3339_opts(SecondsFormat::AutoSi, true), out),
            None => out.extend_from_slice(value.to_string().as_bytes()),
        }
    }
}

struct JsonText<'a>(&'a StringArray);

impl Encoder for JsonText<'_> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        out.extend(one_line(self.0.value(at)));
    }
}

/// JSON text without newlines, which are between tokens only: strings have theirs escaped.
fn one_line(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r'))
}
