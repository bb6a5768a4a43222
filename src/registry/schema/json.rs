//! JSON Schema, as far as it tells the columns of rows. Payloads are not judged by it: what a column cannot hold is refused there.

use crate::layout::{Column, ColumnKind};
use serde_json::{Map, Value};

/// How deep columns may nest; what is deeper, and what holds itself, is kept as JSON text.
const DEPTH_MAX: usize = 15;
/// Most columns in all.
const COLUMNS_MAX: usize = 10_000;

/// The columns of rows that a schema describes.
pub(super) fn columns(text: &str) -> Result<Vec<Column>, String> {
    let root: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let mut walk = Walk { root: &root, open: Vec::new(), columns: 0 };
    let Value::Object(schema) = &root else { return Err("it describes no object".to_string()) };
    let (schema, _) = walk.resolved(schema).ok_or("it describes no object")?;
    match schema.get("properties").and_then(Value::as_object) {
        Some(properties) => {
            let columns = walk.fields(schema, properties);
            if walk.columns > COLUMNS_MAX {
                return Err(format!("it has more than {COLUMNS_MAX} columns"));
            }
            Ok(columns)
        }
        None => Err("it describes no object with properties".to_string()),
    }
}

struct Walk<'s> {
    root: &'s Value,
    /// What is being described, from the outside in: a schema that is in here holds itself.
    open: Vec<*const Map<String, Value>>,
    columns: usize,
}

impl<'s> Walk<'s> {
    fn fields(&mut self, schema: &'s Map<String, Value>, properties: &'s Map<String, Value>) -> Vec<Column> {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let required: Vec<&str> = required.filter_map(Value::as_str).collect();
        self.open.push(schema);
        let mut columns = Vec::new();
        for (name, property) in properties {
            let (kind, or_null) = self.kind(property);
            columns.push(Column { name: name.clone(), kind, nullable: or_null || !required.contains(&name.as_str()) });
        }
        self.open.pop();
        columns
    }

    /// What a schema stands for, and whether it may be null: references and a choice between null and one other are followed.
    fn resolved(&self, schema: &'s Map<String, Value>) -> Option<(&'s Map<String, Value>, bool)> {
        let (mut schema, mut or_null) = (schema, false);
        for _ in 0..DEPTH_MAX {
            if let Some(path) = schema.get("$ref").and_then(Value::as_str) {
                schema = self.root.pointer(path.strip_prefix('#')?)?.as_object()?;
                continue;
            }
            let choice = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)?.as_array());
            let Some(choice) = choice else { return Some((schema, or_null)) };
            let (nulls, others): (Vec<_>, Vec<_>) = choice.iter().partition(|one| one["type"] == "null");
            let [Value::Object(only)] = others.as_slice() else { return None };
            or_null |= !nulls.is_empty();
            schema = only;
        }
        None
    }

    fn kind(&mut self, schema: &'s Value) -> (ColumnKind, bool) {
        self.columns += 1;
        let found = schema.as_object().and_then(|schema| self.resolved(schema));
        let Some((schema, or_null)) = found else { return (ColumnKind::Json, true) };
        let is_open = self.open.iter().any(|open| std::ptr::eq(*open, schema));
        if is_open || self.open.len() >= DEPTH_MAX || self.columns > COLUMNS_MAX {
            return (ColumnKind::Json, true);
        }
        let (name, or_null) = match schema.get("type") {
            Some(Value::String(name)) => (name.as_str(), or_null),
            Some(Value::Array(names)) => {
                let others: Vec<&str> = names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
                let [only] = others.as_slice() else { return (ColumnKind::Json, true) };
                (*only, or_null || others.len() < names.len())
            }
            _ => return (ColumnKind::Json, true),
        };
        let kind = match name {
            "boolean" => ColumnKind::Bool,
            "integer" => ColumnKind::Int64,
            "number" => ColumnKind::Float64,
            "string" => ColumnKind::String,
            "array" => match schema.get("items") {
                Some(items) => ColumnKind::List(Box::new(self.inner(schema, "element", items))),
                None => ColumnKind::Json,
            },
            "object" => match (schema.get("properties").and_then(Value::as_object), schema.get("additionalProperties"))
            {
                (Some(properties), _) if !properties.is_empty() => ColumnKind::Struct(self.fields(schema, properties)),
                (_, Some(values @ Value::Object(_))) => ColumnKind::Map(Box::new(self.inner(schema, "value", values))),
                _ => ColumnKind::Json,
            },
            _ => return (ColumnKind::Json, true),
        };
        (kind, or_null)
    }

    fn inner(&mut self, of: &'s Map<String, Value>, name: &str, schema: &'s Value) -> Column {
        self.open.push(of);
        let (kind, nullable) = self.kind(schema);
        self.open.pop();
        Column { name: name.to_string(), kind, nullable }
    }
}

/// Whether rows with the columns `old` fit into `new`: columns of one name are of the same kind or a wider
/// one, and what is only in `new` may be missing. What is only in `old` is a field outside the schema from then on.
pub(super) fn reads(new: &[Column], old: &[Column]) -> Result<(), String> {
    for column in new {
        match old.iter().find(|known| known.name == column.name) {
            None if !column.nullable => return Err(format!("{} is required, and older rows have none", column.name)),
            None => {}
            Some(known) if known.nullable && !column.nullable => {
                return Err(format!("{} is required, and older rows may have none", column.name));
            }
            Some(known) => fits(&column.kind, &known.kind).map_err(|problem| format!("{}: {problem}", column.name))?,
        }
    }
    Ok(())
}

fn fits(new: &ColumnKind, old: &ColumnKind) -> Result<(), String> {
    match (new, old) {
        (ColumnKind::Json, _) | (ColumnKind::Float64, ColumnKind::Int64) => Ok(()),
        (ColumnKind::Struct(new), ColumnKind::Struct(old)) => reads(new, old),
        (ColumnKind::List(new), ColumnKind::List(old)) | (ColumnKind::Map(new), ColumnKind::Map(old)) => {
            fits(&new.kind, &old.kind)
        }
        (new, old) if new == old => Ok(()),
        _ => Err("of another type".to_string()),
    }
}
