//! Schemas of outputs: BigQuery's JSON form, from a file or inside the configuration; schema files of Avro and Arrow; a
//! message of Protocol Buffers.
//!
//! A field is `{ name, type, mode, fields, precision, scale }`, types in either case. Our own additions are `unit` for
//! numbers of a `TIMESTAMP`, `MAP` with a `value` and `ARRAY` with an `element`, which are fields without a name. What only describes a table (`description`, `policyTags`, …) is read over.
//! A `REPEATED` field becomes a list that may be missing and may hold nulls: an archive keeps what came.

use super::decode::{DESCRIPTORS, MESSAGE, descriptors};
use super::error::did_you_mean;
use super::raw::Field;
use super::shape;
use super::time::UNITS;
use super::tree::{Node, Value};
use crate::decode::{self, columns};
use crate::layout::{Column, ColumnKind, SchemaSource, TimeUnit};
use crate::registry::whole_avro;
use std::path::Path;

/// Most levels of nested fields, as in BigQuery.
pub const DEPTH_MOST: usize = 15;
/// Most fields of a schema, nested ones counted, as in BigQuery.
pub const FIELDS_MOST: usize = 10_000;
/// Name of the values of a list, as Parquet recommends.
pub const LIST_ELEMENT: &str = "element";
/// Name of the values of a map, as Parquet recommends.
pub(super) const MAP_VALUE: &str = "value";

const SOURCE: &str = "infer, the path of a schema file (.json as of BigQuery, .avsc, .arrow.json), { descriptors, message } of \
    Protocol Buffers, or a list of fields { name, type, mode, fields, precision, scale, unit, element, value }";
/// How the name of an Avro schema's file ends.
const AVRO_ENDING: &str = ".avsc";
/// How the name of an Arrow schema's file ends.
const ARROW_ENDING: &str = ".arrow.json";
const TYPES: &[&str] = &[
    "BOOL",
    "BOOLEAN",
    "INT64",
    "INTEGER",
    "FLOAT64",
    "FLOAT",
    "STRING",
    "BYTES",
    "JSON",
    "DATE",
    "TIMESTAMP",
    "NUMERIC",
    "BIGNUMERIC",
    "RECORD",
    "STRUCT",
    "ARRAY",
    "MAP",
];
const KEYS: &[&str] = &["name", "type", "mode", "fields", "precision", "scale", "unit", "element", "value"];
/// Keys of BigQuery's that say nothing about rows.
const IGNORED: &[&str] = &[
    "description",
    "policyTags",
    "dataPolicies",
    "maxLength",
    "collation",
    "defaultValueExpression",
    "roundingMode",
    "categories",
    "timestampPrecision",
    "foreignTypeDefinition",
];

/// Reads `schema`.
pub(super) fn source(field: &Field<'_>, base_dir: &Path) -> Option<SchemaSource> {
    if let Value::List(_) = &field.node.value {
        let reader = Reader { schema: field, file: false };
        return reader.columns(field.node).map(SchemaSource::Columns);
    }
    if field.is_table() {
        return of_message(field, base_dir).map(SchemaSource::Columns);
    }
    match field.text(SOURCE)? {
        "infer" => Some(SchemaSource::Infer),
        "registry" => Some(SchemaSource::Registry),
        file => from_file(field, file, base_dir).map(SchemaSource::Columns),
    }
}

/// The columns of a message of Protocol Buffers.
fn of_message(field: &Field<'_>, base_dir: &Path) -> Option<Vec<Column>> {
    let section = field.section(&shape::SCHEMA_MESSAGE)?;
    for (key, allowed) in [("descriptors", DESCRIPTORS), ("message", MESSAGE)] {
        if !section.has(key) {
            section.missing(key, "missing", allowed);
        }
    }
    let descriptors = section.field("descriptors").and_then(|given| Some((descriptors(&given, base_dir)?, given)));
    let message = section.field("message").and_then(|given| Some((given.text(MESSAGE)?.to_string(), given)));
    let ((descriptors, descriptors_field), (message, message_field)) = (descriptors?, message?);
    match decode::message_of(&descriptors, &message) {
        Ok(found) => match columns::columns_of_message(&found) {
            Ok(columns) => Some(columns),
            Err(problem) => message_field.wrong(problem, MESSAGE),
        },
        Err(problem) if problem.starts_with("no message") => message_field.wrong(problem, MESSAGE),
        Err(problem) => descriptors_field.wrong(problem, DESCRIPTORS),
    }
}

fn from_file(field: &Field<'_>, name: &str, base_dir: &Path) -> Option<Vec<Column>> {
    let path = base_dir.join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if field.node.variables.is_empty() => {
            return field.wrong(format!("{} cannot be read: {error}", path.display()), SOURCE);
        }
        Err(error) => return field.wrong(format!("the schema file cannot be read: {error}"), SOURCE),
    };
    let of_others = if name.ends_with(AVRO_ENDING) {
        Some(whole_avro(&text).and_then(|schema| columns::columns_of_avro(&schema)))
    } else if name.ends_with(ARROW_ENDING) {
        Some(columns::columns_of_arrow(&text))
    } else {
        None
    };
    match of_others {
        Some(Ok(columns)) => return Some(columns),
        Some(Err(problem)) => return field.wrong(format!("in the file, {problem}"), SOURCE),
        None => {}
    }
    let json: serde_json::Value = match serde_json::from_str(&text) {
        Ok(json) => json,
        Err(error) => return field.wrong(format!("the schema file is not JSON: {error}"), SOURCE),
    };
    // `bq show --schema` prints the bare list, the API wraps it.
    let fields = match json {
        serde_json::Value::Object(mut object) if object.contains_key("fields") => object.remove("fields")?,
        other => other,
    };
    Reader { schema: field, file: true }.columns(&node(field.node.line, fields))
}

/// JSON as the tree that the configuration is read from.
fn node(line: usize, json: serde_json::Value) -> Node {
    let value = match json {
        serde_json::Value::Null => Value::Float("null".to_string()),
        serde_json::Value::Bool(flag) => Value::Flag(flag),
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.to_string()), Value::Integer)
        }
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(|item| node(line, item)).collect()),
        serde_json::Value::Object(object) => {
            Value::Table(object.into_iter().map(|(key, value)| (key, node(line, value))).collect())
        }
    };
    Node::plain(line, value)
}

struct Reader<'a, 'n> {
    /// The key `schema`: where problems of a file are reported.
    schema: &'a Field<'n>,
    file: bool,
}

impl Reader<'_, '_> {
    fn columns(&self, list: &Node) -> Option<Vec<Column>> {
        let mut count = 0;
        let columns = self.fields(list, "", 1, &mut count)?;
        if count > FIELDS_MOST {
            return self.schema.wrong("too many fields", format!("at most {FIELDS_MOST}"));
        }
        Some(columns)
    }

    /// Reports a problem at `path`, the names of the fields joined by dots.
    fn wrong<T>(&self, node: &Node, path: &str, problem: &str, allowed: impl Into<String>) -> Option<T> {
        let place = if path.is_empty() { String::new() } else { format!("field {path}: ") };
        let problem = if self.file { format!("in the file, {place}{problem}") } else { format!("{place}{problem}") };
        if self.file {
            self.schema.wrong(problem, allowed)
        } else {
            self.schema.at(&self.schema.path, node).wrong(problem, allowed)
        }
    }

    /// All fields of a list; `None` where one of them is wrong, after all were looked at.
    fn fields(&self, list: &Node, path: &str, depth: usize, count: &mut usize) -> Option<Vec<Column>> {
        const NEEDED: &str = "a list of at least one field";
        if depth > DEPTH_MOST {
            return self.wrong(list, path, "nested too deeply", format!("at most {DEPTH_MOST} levels"));
        }
        let Value::List(items) = &list.value else { return self.wrong(list, path, "not a list of fields", NEEDED) };
        if items.is_empty() {
            return self.wrong(list, path, "no fields", NEEDED);
        }
        let mut columns: Vec<Column> = Vec::new();
        let mut good = true;
        for (index, item) in items.iter().enumerate() {
            *count += 1;
            let Some(column) = self.field(item, path, index, depth, count) else {
                good = false;
                continue;
            };
            if columns.iter().any(|other| other.name.eq_ignore_ascii_case(&column.name)) {
                let path = below(path, &column.name);
                good = self.wrong(item, &path, "named twice", "names that differ in more than upper and lower case")?;
            }
            columns.push(column);
        }
        good.then_some(columns)
    }

    fn field(&self, item: &Node, parent: &str, index: usize, depth: usize, count: &mut usize) -> Option<Column> {
        let Value::Table(table) = &item.value else {
            return self.wrong(item, &below(parent, &format!("[{index}]")), "not a field", "{ name, type, … }");
        };
        let find = |key: &str| table.iter().find(|(name, _)| name == key).map(|(_, node)| node);
        let name = match find("name").map(|node| &node.value) {
            Some(Value::Text(name)) if !name.is_empty() && name.len() <= 300 => name,
            _ => {
                let path = below(parent, &format!("[{index}]"));
                return self.wrong(item, &path, "the name is missing or no name", "name = 1 to 300 bytes of text");
            }
        };
        let path = below(parent, name);
        self.column(name, item, table, &path, depth, count)
    }

    /// What `table` says of the column `name`, past its name.
    fn column(
        &self,
        name: &str,
        item: &Node,
        table: &[(String, Node)],
        path: &str,
        depth: usize,
        count: &mut usize,
    ) -> Option<Column> {
        for (key, node) in table {
            if !KEYS.contains(&key.as_str()) && !IGNORED.contains(&key.as_str()) {
                let hint = did_you_mean(key, KEYS.iter().copied());
                let problem = format!("unknown key {}{hint}", super::tree::quoted(key));
                return self.wrong(node, path, &problem, KEYS.join(", "));
            }
        }
        let find = |key: &str| table.iter().find(|(name, _)| name == key).map(|(_, node)| node);
        let kind = self.kind(item, path, &find, depth, count)?;
        let (nullable, repeated) = self.mode(item, path, find("mode"))?;
        let kind = if repeated {
            let element = Column { name: LIST_ELEMENT.to_string(), kind, nullable: true };
            ColumnKind::List(Box::new(element))
        } else {
            kind
        };
        Some(Column { name: name.to_string(), kind, nullable })
    }

    /// The elements of an `ARRAY` or the values of a `MAP`: a field under `key`, which has no name of its own.
    fn inner(
        &self,
        key: &'static str,
        item: &Node,
        path: &str,
        given: Option<&Node>,
        depth: usize,
        count: &mut usize,
    ) -> Option<Box<Column>> {
        const NEEDED: &str = "a field without a name: { type, mode, … }";
        let path = below(path, key);
        let Some(node) = given else { return self.wrong(item, &path, "missing", NEEDED) };
        let Value::Table(table) = &node.value else { return self.wrong(node, &path, "not a field", NEEDED) };
        if table.iter().any(|(key, _)| key == "name") {
            return self.wrong(node, &path, "a name, but it needs none", NEEDED);
        }
        if depth > DEPTH_MOST {
            return self.wrong(node, &path, "nested too deeply", format!("at most {DEPTH_MOST} levels"));
        }
        *count += 1;
        self.column(key, node, table, &path, depth, count).map(Box::new)
    }

    /// Whether null is allowed, and whether the field is repeated.
    fn mode(&self, item: &Node, path: &str, mode: Option<&Node>) -> Option<(bool, bool)> {
        const MODES: &str = "NULLABLE, REQUIRED, REPEATED";
        let Some(mode) = mode else { return Some((true, false)) };
        let Value::Text(text) = &mode.value else { return self.wrong(item, path, "mode is not a string", MODES) };
        match text.to_ascii_uppercase().as_str() {
            "NULLABLE" => Some((true, false)),
            "REQUIRED" => Some((false, false)),
            "REPEATED" => Some((true, true)),
            _ => self.wrong(mode, path, "mode is not known", MODES),
        }
    }

    fn kind<'n>(
        &self,
        item: &Node,
        path: &str,
        find: &dyn Fn(&str) -> Option<&'n Node>,
        depth: usize,
        count: &mut usize,
    ) -> Option<ColumnKind> {
        let Some(Value::Text(given)) = find("type").map(|node| &node.value) else {
            return self.wrong(item, path, "the type is missing or not a string", TYPES.join(", "));
        };
        let upper = given.to_ascii_uppercase();
        let only = |key: &str, types: &[&str]| find(key).is_some() && !types.contains(&upper.as_str());
        if only("fields", &["RECORD", "STRUCT"]) {
            return self.wrong(item, path, "fields, but the type has none", "fields with RECORD or STRUCT only");
        }
        if only("element", &["ARRAY"]) || only("value", &["MAP"]) {
            return self.wrong(
                item,
                path,
                "element or value, but the type has none",
                "element with ARRAY, value with MAP only",
            );
        }
        if only("unit", &["TIMESTAMP"]) {
            return self.wrong(item, path, "unit, but the type has none", "unit with TIMESTAMP only");
        }
        if only("precision", &["NUMERIC", "BIGNUMERIC"]) || only("scale", &["NUMERIC", "BIGNUMERIC"]) {
            return self.wrong(
                item,
                path,
                "precision or scale, but the type has none",
                "with NUMERIC or BIGNUMERIC only",
            );
        }
        Some(match upper.as_str() {
            "BOOL" | "BOOLEAN" => ColumnKind::Bool,
            "INT64" | "INTEGER" => ColumnKind::Int64,
            "FLOAT64" | "FLOAT" => ColumnKind::Float64,
            "STRING" => ColumnKind::String,
            "BYTES" => ColumnKind::Bytes,
            "JSON" => ColumnKind::Json,
            "DATE" => ColumnKind::Date,
            "DATETIME" => {
                return self.wrong(
                    item,
                    path,
                    "DATETIME, a time without a zone, which is not written yet",
                    "TIMESTAMP or STRING",
                );
            }
            "TIMESTAMP" => ColumnKind::Timestamp { unit: self.unit(path, find("unit"))? },
            "NUMERIC" | "BIGNUMERIC" => {
                self.decimal(item, path, find("precision"), find("scale"), upper == "BIGNUMERIC")?
            }
            "RECORD" | "STRUCT" => {
                let fields = find("fields").unwrap_or(item);
                ColumnKind::Struct(self.fields(fields, path, depth + 1, count)?)
            }
            "ARRAY" => ColumnKind::List(self.inner(LIST_ELEMENT, item, path, find(LIST_ELEMENT), depth + 1, count)?),
            "MAP" => ColumnKind::Map(self.inner(MAP_VALUE, item, path, find(MAP_VALUE), depth + 1, count)?),
            _ => {
                let hint = did_you_mean(&upper, TYPES.iter().copied());
                return self.wrong(
                    item,
                    path,
                    &format!("type {} is not known{hint}", super::tree::quoted(given)),
                    TYPES.join(", "),
                );
            }
        })
    }

    fn unit(&self, path: &str, unit: Option<&Node>) -> Option<Option<TimeUnit>> {
        let Some(node) = unit else { return Some(None) };
        let known = |text: &str| UNITS.iter().find(|(name, _)| *name == text).map(|(_, unit)| *unit);
        match &node.value {
            Value::Text(text) if known(text).is_some() => Some(known(text)),
            _ => self.wrong(node, path, "unit is not known", "s, ms, us, ns"),
        }
    }

    fn decimal(
        &self,
        item: &Node,
        path: &str,
        precision: Option<&Node>,
        scale: Option<&Node>,
        big: bool,
    ) -> Option<ColumnKind> {
        let allowed = "precision 1 to 38 and scale 0 to precision; without both, NUMERIC has 38 and 9";
        // BigQuery's API writes 64-bit numbers as strings.
        let number = |node: &Node| match &node.value {
            Value::Integer(number) => u8::try_from(*number).ok(),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        let (precision, scale) = match (precision, scale) {
            (None, None) if big => {
                return self.wrong(item, path, "BIGNUMERIC without a precision does not fit", allowed);
            }
            (None, None) => (38, 9),
            (None, Some(_)) => return self.wrong(item, path, "scale without precision", allowed),
            (Some(precision), None) => (number(precision).unwrap_or(0), 0),
            (Some(precision), Some(scale)) => (number(precision).unwrap_or(0), number(scale).unwrap_or(u8::MAX)),
        };
        match i8::try_from(scale) {
            Ok(signed) if (1..=38).contains(&precision) && scale <= precision => {
                Some(ColumnKind::Decimal { precision, scale: signed })
            }
            _ => self.wrong(item, path, "precision or scale is out of range", allowed),
        }
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}
