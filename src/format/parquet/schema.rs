//! The columns of a Parquet output: checked, hashed, and as arrow's and Parquet's own types.
//!
//! A file has the kept columns first, then the payload's columns in their order, then `_rest` where the layout keeps
//! unknown fields. Never depends on anything but the layout and the columns.
//!
//! | [`ColumnKind`] | Parquet |
//! |---|---|
//! | `Bool`, `Int64`, `Float64` | `BOOLEAN`, `INT64`, `DOUBLE` |
//! | `String`, `Json`, `Bytes` | `BYTE_ARRAY` (`STRING`), (`JSON`), plain |
//! | `Date`, `Timestamp` | `INT32 (DATE)`, `INT64 (TIMESTAMP(MICROS, UTC))` |
//! | `Decimal` | `INT32`, `INT64` or `FIXED_LEN_BYTE_ARRAY` by precision, `(DECIMAL)` |
//! | `Struct`, `List`, `Map` | group, 3-level `LIST` with `element`, `MAP` with `key_value`, `key`, `value` |

use crate::format::keep::base_name;
use crate::layout::{Column, ColumnKind, Keep, KeptColumn, UnknownFields};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parquet::basic::{LogicalType, Repetition, TimeUnit as ParquetUnit, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::{Type, TypePtr};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Column of the fields outside the schema.
pub const REST_COLUMN: &str = "_rest";

/// Deepest nesting of columns, the outermost counted as 1.
pub const DEPTH_MAX: usize = 16;

/// Marks an arrow string field that is JSON text, by arrow's own name for it.
const JSON_MARK: (&str, &str) = ("ARROW:extension:name", "arrow.json");

/// The canonical JSON of `columns`: what is pinned in the bucket and hashed.
pub fn schema_json(columns: &[Column]) -> String {
    serde_json::to_string(columns).expect("columns hold only strings, numbers and enums")
}

/// The first 16 hex digits of the SHA-256 of [`schema_json`].
pub fn schema_hash(columns: &[Column]) -> String {
    let digest = Sha256::digest(schema_json(columns).as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Names that the payload's columns must not have: of the kept columns and, where fields outside the schema are kept,
/// [`REST_COLUMN`].
pub(super) fn reserved_names(keep: Option<&Keep>, unknown: UnknownFields) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(keep) = keep {
        names.extend(keep.columns.iter().map(|&column| format!("{}{}", keep.prefix, base_name(column))));
    }
    if unknown == UnknownFields::Rest {
        names.push(REST_COLUMN.to_string());
    }
    names
}

/// Whether `columns` can be a Parquet file beside the kept columns.
///
/// # Errors
/// The first reason against it, naming the column: an empty or repeated name (letters that differ only in case count
/// as equal: most readers cannot tell them apart), a name that is reserved, a struct without fields, a decimal out of
/// range, nesting past [`DEPTH_MAX`], or no column at all.
pub fn check_columns(columns: &[Column], keep: Option<&Keep>, unknown: UnknownFields) -> Result<(), String> {
    let reserved = reserved_names(keep, unknown);
    let mut taken = HashSet::new();
    for name in &reserved {
        if !taken.insert(name.to_ascii_lowercase()) {
            return Err(format!("the kept column `{name}` is there twice"));
        }
    }
    if let Some(column) = columns.iter().find(|column| taken.contains(&column.name.to_ascii_lowercase())) {
        return Err(format!("column `{}`: a kept column or `{REST_COLUMN}` has that name", column.name));
    }
    if columns.is_empty() && reserved.is_empty() {
        return Err("the schema has no columns".to_string());
    }
    check_fields(columns, "", 1)
}

fn check_fields(columns: &[Column], path: &str, depth: usize) -> Result<(), String> {
    let mut taken = HashSet::new();
    for column in columns {
        let here = if path.is_empty() { column.name.clone() } else { format!("{path}.{}", column.name) };
        if column.name.is_empty() {
            return Err(format!("column `{here}`: the name is empty"));
        }
        if !taken.insert(column.name.to_ascii_lowercase()) {
            return Err(format!("column `{here}`: another one has the same name but for upper and lower case"));
        }
        check_kind(&column.kind, &here, depth)?;
    }
    Ok(())
}

fn check_kind(kind: &ColumnKind, path: &str, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("column `{path}`: nested deeper than {DEPTH_MAX}"));
    }
    match kind {
        ColumnKind::Decimal { precision, scale } => {
            let scale_allowed = u8::try_from(*scale).is_ok_and(|scale| scale <= *precision);
            if !(1..=38).contains(precision) || !scale_allowed {
                return Err(format!(
                    "column `{path}`: decimal({precision}, {scale}): 1 to 38 digits, 0 to all of them behind the point"
                ));
            }
            Ok(())
        }
        ColumnKind::Struct(fields) if fields.is_empty() => Err(format!("column `{path}`: a struct without fields")),
        ColumnKind::Struct(fields) => check_fields(fields, path, depth + 1),
        ColumnKind::List(element) => check_kind(&element.kind, &format!("{path}[]"), depth + 1),
        ColumnKind::Map(value) => check_kind(&value.kind, &format!("{path}{{}}"), depth + 1),
        ColumnKind::Bool
        | ColumnKind::Int64
        | ColumnKind::Float64
        | ColumnKind::String
        | ColumnKind::Bytes
        | ColumnKind::Json
        | ColumnKind::Date
        | ColumnKind::Timestamp { .. } => Ok(()),
    }
}

/// The file's columns as arrow sees them. `columns` has passed [`check_columns`].
pub(super) fn arrow_schema(columns: &[Column], keep: Option<&Keep>, unknown: UnknownFields) -> SchemaRef {
    let mut fields: Vec<Field> = Vec::new();
    if let Some(keep) = keep {
        fields.extend(keep.columns.iter().map(|&column| kept_field(column, &keep.prefix)));
    }
    fields.extend(columns.iter().map(|column| field(&column.name, column)));
    if unknown == UnknownFields::Rest {
        fields.push(json_field(REST_COLUMN, true));
    }
    Arc::new(Schema::new(fields))
}

fn kept_field(column: KeptColumn, prefix: &str) -> Field {
    let name = format!("{prefix}{}", base_name(column));
    match column {
        KeptColumn::Key => Field::new(name, DataType::Binary, true),
        KeptColumn::Headers => {
            let header = Fields::from(vec![
                Field::new("name", DataType::Utf8, false),
                Field::new("value", DataType::Binary, true),
            ]);
            let element = Field::new("element", DataType::Struct(header), false);
            Field::new(name, DataType::List(Arc::new(element)), false)
        }
        KeptColumn::Timestamp => Field::new(name, utc(TimeUnit::Millisecond), true),
        KeptColumn::Topic => Field::new(name, DataType::Utf8, false),
        KeptColumn::Partition => Field::new(name, DataType::Int32, false),
        KeptColumn::Offset => Field::new(name, DataType::Int64, false),
    }
}

/// `column` under the name `name`: list elements and map values have Parquet's names, whatever the layout calls them.
fn field(name: &str, column: &Column) -> Field {
    let data_type = match &column.kind {
        ColumnKind::Bool => DataType::Boolean,
        ColumnKind::Int64 => DataType::Int64,
        ColumnKind::Float64 => DataType::Float64,
        ColumnKind::String => DataType::Utf8,
        ColumnKind::Bytes => DataType::Binary,
        ColumnKind::Json => return json_field(name, column.nullable),
        ColumnKind::Date => DataType::Date32,
        ColumnKind::Timestamp { .. } => utc(TimeUnit::Microsecond),
        ColumnKind::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
        ColumnKind::Struct(fields) => {
            DataType::Struct(fields.iter().map(|nested| field(&nested.name, nested)).collect())
        }
        ColumnKind::List(element) => DataType::List(Arc::new(field("element", element))),
        ColumnKind::Map(value) => {
            let entry = Fields::from(vec![Field::new("key", DataType::Utf8, false), field("value", value)]);
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false)
        }
    };
    Field::new(name, data_type, column.nullable)
}

/// An instant. Parquet says only "adjusted to UTC", so the name of the zone is arrow's business alone.
pub(super) fn utc(unit: TimeUnit) -> DataType {
    DataType::Timestamp(unit, Some("+00:00".into()))
}

fn json_field(name: &str, nullable: bool) -> Field {
    let mark = HashMap::from([(JSON_MARK.0.to_string(), JSON_MARK.1.to_string())]);
    Field::new(name, DataType::Utf8, nullable).with_metadata(mark)
}

/// The same columns as Parquet's own schema. Written out here, not converted by arrow's, because a JSON column is to be
/// `JSON` in the file.
///
/// # Errors
/// What the library refuses, which nothing that [`check_columns`] let pass makes it do.
pub(super) fn parquet_schema(arrow: &Schema) -> Result<TypePtr, ParquetError> {
    let fields = arrow.fields().iter().map(|field| parquet_type(field)).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?))
}

fn parquet_type(field: &Field) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match field.data_type() {
        DataType::Boolean => (Physical::BOOLEAN, None),
        DataType::Int32 => (Physical::INT32, None),
        DataType::Int64 => (Physical::INT64, None),
        DataType::Float64 => (Physical::DOUBLE, None),
        DataType::Binary => (Physical::BYTE_ARRAY, None),
        DataType::Utf8 if is_json(field) => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
        DataType::Utf8 => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        DataType::Date32 => (Physical::INT32, Some(LogicalType::Date)),
        DataType::Timestamp(unit, _) => {
            let unit = if *unit == TimeUnit::Millisecond { ParquetUnit::MILLIS } else { ParquetUnit::MICROS };
            (Physical::INT64, Some(LogicalType::timestamp(true, unit)))
        }
        DataType::Decimal128(precision, scale) => return decimal_type(field, *precision, *scale),
        DataType::Struct(fields) => {
            let nested = fields.iter().map(|nested| parquet_type(nested)).collect::<Result<Vec<_>, _>>()?;
            return group(field.name(), repetition(field), None, nested);
        }
        DataType::List(element) => {
            let list = group("list", Repetition::REPEATED, None, vec![parquet_type(element)?])?;
            return group(field.name(), repetition(field), Some(LogicalType::List), vec![list]);
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(entry) = entries.data_type() else {
                return Err(ParquetError::General("a map without entries".to_string()));
            };
            let pair = entry.iter().map(|part| parquet_type(part)).collect::<Result<Vec<_>, _>>()?;
            let list = group("key_value", Repetition::REPEATED, None, pair)?;
            return group(field.name(), repetition(field), Some(LogicalType::Map), vec![list]);
        }
        other => return Err(ParquetError::General(format!("no column has the type {other}"))),
    };
    let made = Type::primitive_type_builder(field.name(), physical)
        .with_repetition(repetition(field))
        .with_logical_type(logical)
        .build()?;
    Ok(Arc::new(made))
}

fn is_json(field: &Field) -> bool {
    field.metadata().get(JSON_MARK.0).is_some_and(|mark| mark == JSON_MARK.1)
}

fn repetition(field: &Field) -> Repetition {
    if field.is_nullable() { Repetition::OPTIONAL } else { Repetition::REQUIRED }
}

fn group(
    name: &str,
    repetition: Repetition,
    logical: Option<LogicalType>,
    fields: Vec<TypePtr>,
) -> Result<TypePtr, ParquetError> {
    let made = Type::group_type_builder(name)
        .with_repetition(repetition)
        .with_logical_type(logical)
        .with_fields(fields)
        .build()?;
    Ok(Arc::new(made))
}

/// Physical type and length by precision exactly as the column writers choose them.
fn decimal_type(field: &Field, precision: u8, scale: i8) -> Result<TypePtr, ParquetError> {
    let (physical, length) = match precision {
        2..=9 => (Physical::INT32, -1),
        0..=18 => (Physical::INT64, -1),
        _ => (Physical::FIXED_LEN_BYTE_ARRAY, decimal_bytes(precision)),
    };
    let made = Type::primitive_type_builder(field.name(), physical)
        .with_repetition(repetition(field))
        .with_length(length)
        .with_logical_type(Some(LogicalType::decimal(i32::from(scale), i32::from(precision))))
        .with_precision(i32::from(precision))
        .with_scale(i32::from(scale))
        .build()?;
    Ok(Arc::new(made))
}

/// Bytes of the smallest two's complement that holds `precision` (up to 38) digits.
fn decimal_bytes(precision: u8) -> i32 {
    let largest = 10_u128.pow(u32::from(precision)) - 1;
    let bits = 128 - largest.leading_zeros() + 1;
    i32::try_from(bits.div_ceil(8)).expect("at most 17 bytes")
}
