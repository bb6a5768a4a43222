//! Avro schemas (specification 1.12) as columns.
//!
//! | Avro | column |
//! |---|---|
//! | boolean; int, long; float, double | `Bool`, `Int64`, `Float64` |
//! | string, enum, uuid, time-…, local-timestamp-… | `String` |
//! | bytes, fixed | `Bytes` |
//! | decimal | `Decimal`; `String` past 38 digits |
//! | date; timestamp-… | `Date`; `Timestamp` in the unit of the logical type, which counts where rows have numbers |
//! | duration | `Struct` of `months`, `days`, `milliseconds` |
//! | array, map, record | `List`, `Map`, `Struct` |
//! | union with null | its other type, nullable |
//! | other unions | the one column of all branches where that is the same, else `Json` |
//! | null; a record in itself | `Json` |

use super::super::avro::{Meaning, meaning};
use super::{Count, DEPTH_MAX, column, list, map, object};
use crate::layout::{Column, ColumnKind, TimeUnit};
use serde_avro_fast::schema::{Decimal, LogicalType, RegularType, SchemaKey, SchemaMut, SchemaNode};

/// Digits that a `Decimal` column may have.
const DECIMAL_DIGITS_MAX: usize = 38;

/// The columns of a record's schema, given as JSON text: required but for unions with null.
///
/// # Errors
/// It is no Avro schema, no record (nor a union of one with null), or has too many fields; in words for the person who
/// wrote it.
pub fn columns_of_avro(schema: &str) -> Result<Vec<Column>, String> {
    let schema: SchemaMut = schema.parse().map_err(|error| format!("not an Avro schema: {error}"))?;
    // The library finds here what the text alone does not show: names without a type, records that hold themselves.
    schema.clone().freeze().map_err(|error| format!("not an Avro schema: {error}"))?;
    let mut reader = Reader { schema: &schema, around: Vec::new(), count: Count::default() };
    let root = SchemaKey::root();
    let record = match &reader.node(root)?.type_ {
        RegularType::Union(union) => {
            let mut others = Vec::new();
            for &branch in &union.variants {
                if !matches!(reader.node(branch)?.type_, RegularType::Null) {
                    others.push(branch);
                }
            }
            let [only] = others.as_slice() else { return Err(NO_RECORD.to_string()) };
            *only
        }
        _ => root,
    };
    let RegularType::Record(_) = reader.node(record)?.type_ else { return Err(NO_RECORD.to_string()) };
    reader.fields(record, 1)
}

const NO_RECORD: &str = "the Avro schema is no record: columns are the fields of one";

struct Reader<'s> {
    schema: &'s SchemaMut,
    /// The records that are being read.
    around: Vec<usize>,
    count: Count,
}

impl<'s> Reader<'s> {
    fn node(&self, key: SchemaKey) -> Result<&'s SchemaNode, String> {
        self.schema.get(key).ok_or_else(|| "the Avro schema names a type that is not there".to_string())
    }

    /// The fields of the record `key` as columns `depth` levels deep.
    fn fields(&mut self, key: SchemaKey, depth: usize) -> Result<Vec<Column>, String> {
        let RegularType::Record(record) = &self.node(key)?.type_ else { return Ok(Vec::new()) };
        self.around.push(key.idx());
        let mut columns = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            self.count.one_more()?;
            let (kind, nullable) = self.kind(field.type_, depth)?;
            columns.push(column(&field.name, kind, nullable));
        }
        self.around.pop();
        Ok(columns)
    }

    /// What a value of the type `key` is as a column `depth` levels deep, and whether it may be null.
    fn kind(&mut self, key: SchemaKey, depth: usize) -> Result<(ColumnKind, bool), String> {
        let node = self.node(key)?;
        let has_room = depth < DEPTH_MAX;
        let kind = match &node.type_ {
            RegularType::Null => return Ok((ColumnKind::Json, true)),
            RegularType::Union(union) => return self.union(&union.variants, depth),
            RegularType::Array(array) if has_room => {
                self.count.one_more()?;
                let (kind, nullable) = self.kind(array.items, depth + 1)?;
                list(kind, nullable)
            }
            RegularType::Map(entries) if has_room => {
                self.count.one_more()?;
                let (kind, nullable) = self.kind(entries.values, depth + 1)?;
                map(kind, nullable)
            }
            RegularType::Record(_) if has_room && !self.around.contains(&key.idx()) => {
                object(self.fields(key, depth + 1)?)
            }
            RegularType::Array(_) | RegularType::Map(_) | RegularType::Record(_) => ColumnKind::Json,
            RegularType::Boolean => ColumnKind::Bool,
            RegularType::Float | RegularType::Double => ColumnKind::Float64,
            RegularType::String | RegularType::Enum(_) => ColumnKind::String,
            RegularType::Int | RegularType::Long | RegularType::Bytes | RegularType::Fixed(_) => scalar(node, depth),
        };
        Ok((kind, false))
    }

    fn union(&mut self, branches: &[SchemaKey], depth: usize) -> Result<(ColumnKind, bool), String> {
        let mut kinds = Vec::new();
        let mut nullable = false;
        for &branch in branches {
            if matches!(self.node(branch)?.type_, RegularType::Null) {
                nullable = true;
                continue;
            }
            let (kind, inner) = self.kind(branch, depth)?;
            nullable |= inner;
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        match kinds.pop() {
            Some(only) if kinds.is_empty() => Ok((only, nullable)),
            None => Ok((ColumnKind::Json, true)),
            Some(_) => Ok((ColumnKind::Json, nullable)),
        }
    }
}

/// Numbers and bytes, by what they stand for.
fn scalar(node: &SchemaNode, depth: usize) -> ColumnKind {
    match meaning(node) {
        Meaning::Date => ColumnKind::Date,
        Meaning::TimeMillis | Meaning::TimeMicros | Meaning::Timestamp(_, false) | Meaning::Uuid => ColumnKind::String,
        // What Avro's own decoder writes is text, and a unit says nothing of it; numbers of other decoders are in it.
        Meaning::Timestamp(power, true) => ColumnKind::Timestamp {
            unit: Some(match power {
                3 => TimeUnit::Ms,
                6 => TimeUnit::Us,
                _ => TimeUnit::Ns,
            }),
        },
        Meaning::Decimal(_) => decimal(node.logical_type.as_ref()),
        Meaning::Duration if depth < DEPTH_MAX => ColumnKind::Struct(
            ["months", "days", "milliseconds"].map(|name| column(name, ColumnKind::Int64, false)).to_vec(),
        ),
        Meaning::Duration => ColumnKind::Json,
        Meaning::Itself => match node.type_ {
            RegularType::Int | RegularType::Long => ColumnKind::Int64,
            _ => ColumnKind::Bytes,
        },
    }
}

/// Text keeps the digits of what no `Decimal` column holds.
fn decimal(logical: Option<&LogicalType>) -> ColumnKind {
    let Some(LogicalType::Decimal(Decimal { scale, precision, .. })) = logical else { return ColumnKind::String };
    match (u8::try_from(*precision), i8::try_from(*scale)) {
        (Ok(precision), Ok(scale))
            if (1..=DECIMAL_DIGITS_MAX).contains(&usize::from(precision))
                && u8::try_from(scale).is_ok_and(|scale| scale <= precision) =>
        {
            ColumnKind::Decimal { precision, scale }
        }
        _ => ColumnKind::String,
    }
}
