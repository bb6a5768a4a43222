//! The columns of a table, in no engine's words.
//!
//! Of Parquet, Avro and envelopes they are those of the files. Of JSON lines they are what the schema of the archive makes of the payload's
//! own text: a time that is a number stays one, bytes are base64.

use crate::format::keep::base_name;
use crate::layout::{Column as LayoutColumn, ColumnKind, Keep, KeptColumn, TimeUnit};
use arrow_schema::{DataType, Field, Schema, TimeUnit as ArrowUnit};

/// A column, or a nested field.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// As in the rows.
    pub name: String,
    /// Its type.
    pub kind: Type,
    /// Whether it can be null.
    pub nullable: bool,
    /// What a reader should know.
    pub comment: Option<String>,
}

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// true / false.
    Bool,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// IEEE double.
    Double,
    /// UTF-8 text.
    Text,
    /// JSON: as text, or inside of JSON lines any value.
    Json,
    /// Bytes.
    Bytes,
    /// Calendar day.
    Date,
    /// Instant, UTC.
    Timestamp(Precision),
    /// Exact decimal.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits behind the point.
        scale: i8,
    },
    /// Nested fields.
    Struct(Vec<Column>),
    /// Repeated values.
    List(Box<Type>),
    /// Text to values.
    Map(Box<Type>),
}

impl Type {
    /// Whether this or a type inside of it is one that `wanted` says yes to.
    pub fn has(&self, wanted: &dyn Fn(&Self) -> bool) -> bool {
        wanted(self)
            || match self {
                Self::Struct(fields) => fields.iter().any(|field| field.kind.has(wanted)),
                Self::List(inner) | Self::Map(inner) => inner.has(wanted),
                _ => false,
            }
    }
}

/// Unit of an instant in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

/// The columns of files with that schema.
///
/// # Errors
/// A type that no format of ours has.
pub fn of_files(schema: &Schema) -> Result<Vec<Column>, String> {
    schema.fields().iter().map(|field| of_field(field)).collect()
}

fn of_field(field: &Field) -> Result<Column, String> {
    let is_json = field.extension_type_name() == Some("arrow.json");
    let kind = if is_json { Type::Json } else { of_type(field.data_type())? };
    Ok(Column { name: field.name().clone(), kind, nullable: field.is_nullable(), comment: None })
}

fn of_type(data_type: &DataType) -> Result<Type, String> {
    Ok(match data_type {
        DataType::Boolean => Type::Bool,
        DataType::Int32 => Type::Int32,
        DataType::Int64 => Type::Int64,
        DataType::Float64 => Type::Double,
        DataType::Utf8 => Type::Text,
        DataType::Binary => Type::Bytes,
        DataType::Date32 => Type::Date,
        DataType::Timestamp(ArrowUnit::Millisecond, _) => Type::Timestamp(Precision::Milliseconds),
        DataType::Timestamp(ArrowUnit::Microsecond, _) => Type::Timestamp(Precision::Microseconds),
        DataType::Decimal128(precision, scale) => Type::Decimal { precision: *precision, scale: *scale },
        DataType::Struct(fields) => {
            Type::Struct(fields.iter().map(|field| of_field(field)).collect::<Result<Vec<_>, _>>()?)
        }
        DataType::List(element) => Type::List(Box::new(of_field(element)?.kind)),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => Type::Map(Box::new(of_field(&pair[1])?.kind)),
            other => return Err(format!("a map of {other}")),
        },
        other => return Err(format!("no column has the type {other}")),
    })
}

/// The fields of JSON lines whose payloads fit `columns`, with the kept ones in front. Nothing holds such rows to them: each may be missing.
pub fn of_json(columns: &[LayoutColumn], keep: Option<&Keep>) -> Vec<Column> {
    let mut fields = Vec::new();
    if let Some(keep) = keep.filter(|keep| !keep.columns.is_empty()) {
        fields.extend(keep.columns.iter().flat_map(|column| kept(*column, &keep.prefix)));
    }
    fields.extend(columns.iter().map(|column| field(&column.name, &column.kind)));
    fields
}

fn plain(name: String, kind: Type) -> Column {
    Column { name, kind, nullable: true, comment: None }
}

fn kept(column: KeptColumn, prefix: &str) -> Vec<Column> {
    let name = format!("{prefix}{}", base_name(column));
    let text = |name: &str| plain(name.to_string(), Type::Text);
    match column {
        KeptColumn::Key => {
            vec![plain(name, Type::Text), plain(format!("{prefix}key_base64"), Type::Bool)]
        }
        KeptColumn::Headers => {
            let header = vec![text("name"), text("value"), plain("base64".to_string(), Type::Bool)];
            vec![plain(name, Type::List(Box::new(Type::Struct(header))))]
        }
        KeptColumn::Timestamp => {
            let comment = Some("milliseconds since 1970, UTC".to_string());
            vec![Column { comment, ..plain(name, Type::Int64) }]
        }
        KeptColumn::Topic => vec![plain(name, Type::Text)],
        KeptColumn::Partition => vec![plain(name, Type::Int32)],
        KeptColumn::Offset => vec![plain(name, Type::Int64)],
    }
}

fn field(name: &str, kind: &ColumnKind) -> Column {
    let comment = match kind {
        ColumnKind::Bytes => Some("base64".to_string()),
        ColumnKind::Timestamp { unit: None } => Some("a time as the payload has it".to_string()),
        ColumnKind::Timestamp { unit: Some(unit) } => Some(format!("{} since 1970, UTC", words(*unit))),
        _ => None,
    };
    Column { name: name.to_string(), kind: in_json(kind), nullable: true, comment }
}

/// Whether a time in them, at any depth, is a number of units; such a field may be text (RFC 3339) all the same.
pub fn has_times_with_unit(columns: &[LayoutColumn]) -> bool {
    columns.iter().any(|column| has_unit(&column.kind))
}

fn has_unit(kind: &ColumnKind) -> bool {
    match kind {
        ColumnKind::Timestamp { unit } => unit.is_some(),
        ColumnKind::Struct(fields) => has_times_with_unit(fields),
        ColumnKind::List(element) => has_unit(&element.kind),
        ColumnKind::Map(value) => has_unit(&value.kind),
        _ => false,
    }
}

fn words(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::S => "seconds",
        TimeUnit::Ms => "milliseconds",
        TimeUnit::Us => "microseconds",
        TimeUnit::Ns => "nanoseconds",
    }
}

fn in_json(kind: &ColumnKind) -> Type {
    match kind {
        ColumnKind::Bool => Type::Bool,
        ColumnKind::Int64 | ColumnKind::Timestamp { unit: Some(_) } => Type::Int64,
        ColumnKind::Float64 => Type::Double,
        ColumnKind::String | ColumnKind::Bytes | ColumnKind::Timestamp { unit: None } => Type::Text,
        ColumnKind::Json => Type::Json,
        ColumnKind::Date => Type::Date,
        ColumnKind::Decimal { precision, scale } => Type::Decimal { precision: *precision, scale: *scale },
        ColumnKind::Struct(fields) => {
            Type::Struct(fields.iter().map(|nested| field(&nested.name, &nested.kind)).collect())
        }
        ColumnKind::List(element) => Type::List(Box::new(in_json(&element.kind))),
        ColumnKind::Map(value) => Type::Map(Box::new(in_json(&value.kind))),
    }
}
