//! Messages of Protocol Buffers as columns.
//!
//! | Protocol Buffers | column |
//! |---|---|
//! | bool; float, double | `Bool`, `Float64` |
//! | integers of 32 bits, signed ones of 64 | `Int64` |
//! | uint64, fixed64, `UInt64Value` | `Decimal(20, 0)` |
//! | string, enums, `Duration`, `FieldMask` | `String` |
//! | bytes | `Bytes` |
//! | `Timestamp` | `Timestamp` |
//! | other wrappers (`Int32Value`, …) | the column of what they wrap |
//! | repeated, map, message | `List`, `Map`, `Struct` |
//! | `Struct`, `Value`, `ListValue`, `NullValue`, `Any`, `Empty`; a message in itself | `Json` |
//!
//! Every field may be missing, as in every message: elements of lists and values of maps may not. The members of a
//! `oneof` are columns beside each other, of which at most one is not null.

use super::{Count, DEPTH_MAX, UNSIGNED_64, column, list, map, object};
use crate::layout::{Column, ColumnKind};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// The columns of messages of that type, in the order of their numbers.
///
/// # Errors
/// Rows of that type are no objects (a well-known type with a JSON form of its own), or it has too many fields; in words
/// for the person who chose it.
pub fn columns_of_message(message: &MessageDescriptor) -> Result<Vec<Column>, String> {
    if well_known(message.full_name()).is_some() {
        return Err(format!(
            "{} has no fields of its own in JSON: columns are fields of a message",
            message.full_name()
        ));
    }
    Reader { around: Vec::new(), count: Count::default() }.fields(message, 1)
}

struct Reader {
    /// The messages that are being read.
    around: Vec<String>,
    count: Count,
}

impl Reader {
    fn fields(&mut self, message: &MessageDescriptor, depth: usize) -> Result<Vec<Column>, String> {
        self.around.push(message.full_name().to_string());
        let mut columns = Vec::new();
        for field in message.fields() {
            self.count.one_more()?;
            columns.push(column(field.name(), self.field(&field, depth)?, true));
        }
        self.around.pop();
        Ok(columns)
    }

    /// What `field` is as a column `depth` levels deep.
    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Result<ColumnKind, String> {
        let repeats = field.is_map() || field.is_list();
        if !repeats {
            return self.kind(&field.kind(), depth);
        }
        if depth >= DEPTH_MAX {
            return Ok(ColumnKind::Json);
        }
        self.count.one_more()?;
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let kind = self.kind(&entry.map_entry_value_field().kind(), depth + 1)?;
            let nullable = kind == ColumnKind::Json;
            return Ok(map(kind, nullable));
        }
        let kind = self.kind(&field.kind(), depth + 1)?;
        let nullable = kind == ColumnKind::Json;
        Ok(list(kind, nullable))
    }

    fn kind(&mut self, kind: &Kind, depth: usize) -> Result<ColumnKind, String> {
        Ok(match kind {
            Kind::Double | Kind::Float => ColumnKind::Float64,
            Kind::Uint64 | Kind::Fixed64 => UNSIGNED_64,
            Kind::Int32
            | Kind::Int64
            | Kind::Uint32
            | Kind::Sint32
            | Kind::Sint64
            | Kind::Fixed32
            | Kind::Sfixed32
            | Kind::Sfixed64 => ColumnKind::Int64,
            Kind::Bool => ColumnKind::Bool,
            Kind::String => ColumnKind::String,
            Kind::Bytes => ColumnKind::Bytes,
            Kind::Enum(of) if of.full_name() == "google.protobuf.NullValue" => ColumnKind::Json,
            Kind::Enum(_) => ColumnKind::String,
            Kind::Message(message) => match well_known(message.full_name()) {
                Some(known) => known,
                None if depth >= DEPTH_MAX || self.is_around(message) => ColumnKind::Json,
                None => object(self.fields(message, depth + 1)?),
            },
        })
    }

    fn is_around(&self, message: &MessageDescriptor) -> bool {
        self.around.iter().any(|around| around == message.full_name())
    }
}

/// Types whose JSON is not an object of their fields.
fn well_known(name: &str) -> Option<ColumnKind> {
    Some(match name.strip_prefix("google.protobuf.")? {
        "Timestamp" => ColumnKind::Timestamp { unit: None },
        "Duration" | "FieldMask" | "StringValue" => ColumnKind::String,
        "BoolValue" => ColumnKind::Bool,
        "Int32Value" | "UInt32Value" | "Int64Value" => ColumnKind::Int64,
        "UInt64Value" => UNSIGNED_64,
        "FloatValue" | "DoubleValue" => ColumnKind::Float64,
        "BytesValue" => ColumnKind::Bytes,
        "Struct" | "Value" | "ListValue" | "Any" | "Empty" => ColumnKind::Json,
        _ => return None,
    })
}
