//! Arrow schemas as columns: the JSON that arrow's Rust library writes of a `Schema`.
//!
//! | Arrow | column |
//! |---|---|
//! | Boolean; Int8 to Int64, UInt8 to UInt32; UInt64 | `Bool`, `Int64`, `Decimal(20, 0)` |
//! | Float16 to Float64 | `Float64` |
//! | Utf8 and its kin, Time32, Time64 | `String`; `Json` where the field is marked `arrow.json` |
//! | Binary and its kin | `Bytes` |
//! | Date32, Date64 | `Date` |
//! | Timestamp with a zone | `Timestamp` in its unit |
//! | Decimal of at most 38 digits | `Decimal` |
//! | Struct, List and its kin, Map with text keys | `Struct`, `List`, `Map` |
//! | Dictionary, RunEndEncoded | the column of its values |
//! | Null, Union | `Json` |
//!
//! Durations, intervals, and timestamps without a zone have no column.

use super::{Count, DEPTH_MAX, UNSIGNED_64, column, list, map, object};
use crate::layout::{Column, ColumnKind, TimeUnit};
use arrow_schema::{DataType, Field, FieldRef, Schema, TimeUnit as ArrowUnit};

/// The columns of an arrow schema, given as JSON text.
///
/// # Errors
/// It is no such schema, a type has no column, or there are too many; in words for the person who wrote it.
pub fn columns_of_arrow(schema: &str) -> Result<Vec<Column>, String> {
    let schema: Schema = serde_json::from_str(schema)
        .map_err(|error| format!("not an Arrow schema as arrow's Rust library writes one: {error}"))?;
    Reader { count: Count::default() }.fields(schema.fields(), "", 1)
}

struct Reader {
    count: Count,
}

impl Reader {
    fn fields(&mut self, fields: &[FieldRef], path: &str, depth: usize) -> Result<Vec<Column>, String> {
        fields.iter().map(|field| self.field(field, path, depth)).collect()
    }

    fn field(&mut self, field: &Field, parent: &str, depth: usize) -> Result<Column, String> {
        self.count.one_more()?;
        let path = if parent.is_empty() { field.name().clone() } else { format!("{parent}.{}", field.name()) };
        let is_json = field.extension_type_name() == Some("arrow.json");
        let (kind, null) = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if is_json => (ColumnKind::Json, false),
            other => (self.kind(other, &path, depth)?, *other == DataType::Null),
        };
        Ok(column(field.name(), kind, field.is_nullable() || null))
    }

    fn kind(&mut self, data_type: &DataType, path: &str, depth: usize) -> Result<ColumnKind, String> {
        let has_room = depth < DEPTH_MAX;
        Ok(match data_type {
            DataType::Null | DataType::Union(..) => ColumnKind::Json,
            DataType::Boolean => ColumnKind::Bool,
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32 => ColumnKind::Int64,
            DataType::UInt64 => UNSIGNED_64,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => ColumnKind::Float64,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Time32(_) | DataType::Time64(_) => {
                ColumnKind::String
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                ColumnKind::Bytes
            }
            DataType::Date32 | DataType::Date64 => ColumnKind::Date,
            DataType::Timestamp(unit, Some(_)) => ColumnKind::Timestamp { unit: Some(unit_of(*unit)) },
            DataType::Timestamp(_, None) => {
                return Err(format!(
                    "field {path}: a timestamp without a zone has no column: give it one, such as UTC"
                ));
            }
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => {
                let scale_allowed = u8::try_from(*scale).is_ok_and(|scale| scale <= *precision);
                if !(1..=38).contains(precision) || !scale_allowed {
                    return Err(format!(
                        "field {path}: decimal({precision}, {scale}): 1 to 38 digits, 0 to all of them behind the point"
                    ));
                }
                ColumnKind::Decimal { precision: *precision, scale: *scale }
            }
            DataType::Struct(fields) if has_room => object(self.fields(fields, path, depth + 1)?),
            DataType::List(element)
            | DataType::LargeList(element)
            | DataType::ListView(element)
            | DataType::LargeListView(element)
            | DataType::FixedSizeList(element, _)
                if has_room =>
            {
                let element = self.field(element, path, depth + 1)?;
                list(element.kind, element.nullable)
            }
            DataType::Map(entries, _) if has_room => {
                let DataType::Struct(pair) = entries.data_type() else { return Err(no_map(path)) };
                let [key, value] = pair.as_ref() else { return Err(no_map(path)) };
                if !matches!(key.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
                    return Err(no_map(path));
                }
                let value = self.field(value, path, depth + 1)?;
                map(value.kind, value.nullable)
            }
            DataType::Struct(_)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::FixedSizeList(..)
            | DataType::Map(..) => ColumnKind::Json,
            DataType::Dictionary(_, values) => self.kind(values, path, depth)?,
            DataType::RunEndEncoded(_, values) => self.kind(values.data_type(), path, depth)?,
            DataType::Duration(_) | DataType::Interval(_) => {
                return Err(format!("field {path}: {data_type} has no column: use an integer or text"));
            }
        })
    }
}

fn no_map(path: &str) -> String {
    format!("field {path}: a map needs keys of text and values")
}

fn unit_of(unit: ArrowUnit) -> TimeUnit {
    match unit {
        ArrowUnit::Second => TimeUnit::S,
        ArrowUnit::Millisecond => TimeUnit::Ms,
        ArrowUnit::Microsecond => TimeUnit::Us,
        ArrowUnit::Nanosecond => TimeUnit::Ns,
    }
}
