//! Schemas of other systems as columns: what the rows of such payloads fit, type by type.
//!
//! Rows are JSON text whatever they came from, so columns are chosen by what the decoders of this module's neighbours
//! write. A value that no column has is kept as its JSON text ([`ColumnKind::Json`]), never changed and never left out:
//! types that hold themselves, unions of several types, objects without fields or with names that differ in nothing but
//! upper and lower case, and whatever nests deeper than columns do.
//!
//! Pure functions of the schema: equal schemas give equal columns, in the order of their fields.

mod arrow;
mod avro;
mod protobuf;
#[cfg(test)]
mod tests;

pub use arrow::columns_of_arrow;
pub use avro::columns_of_avro;
pub use protobuf::columns_of_message;

use crate::layout::{Column, ColumnKind};
use std::collections::HashSet;

/// Most columns of a schema, nested ones counted: named types may be used again and again, each use with all its fields.
pub const COLUMNS_MAX: usize = 10_000;

/// Deepest nesting of columns, the outermost counted as 1: what a configuration can have, and Parquet more than that.
pub const DEPTH_MAX: usize = 15;

/// Digits of the largest integer of 64 bits without a sign: more than `Int64` holds.
const UNSIGNED_64: ColumnKind = ColumnKind::Decimal { precision: 20, scale: 0 };

/// Counts columns on the way through a schema.
#[derive(Default)]
struct Count(usize);

impl Count {
    fn one_more(&mut self) -> Result<(), String> {
        self.0 += 1;
        if self.0 > COLUMNS_MAX { Err(format!("the schema has more than {COLUMNS_MAX} columns")) } else { Ok(()) }
    }
}

fn column(name: &str, kind: ColumnKind, nullable: bool) -> Column {
    Column { name: name.to_string(), kind, nullable }
}

/// A list of such elements.
fn list(kind: ColumnKind, nullable: bool) -> ColumnKind {
    ColumnKind::List(Box::new(column("element", kind, nullable)))
}

/// A map to such values.
fn map(kind: ColumnKind, nullable: bool) -> ColumnKind {
    ColumnKind::Map(Box::new(column("value", kind, nullable)))
}

/// A nested object of `fields`, or its text where columns cannot be those fields.
fn object(fields: Vec<Column>) -> ColumnKind {
    let mut names = HashSet::new();
    let can_be = fields.iter().all(|field| !field.name.is_empty() && names.insert(field.name.to_ascii_lowercase()));
    if can_be && !fields.is_empty() { ColumnKind::Struct(fields) } else { ColumnKind::Json }
}
