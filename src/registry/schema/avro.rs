//! Avro schemas as the registry has them: made whole, compared, and given each other's names.
//!
//! Source: the Avro specification 1.12, "Names", "Aliases" and "Schema Resolution".

use super::Part;
use super::resolution::Resolution;
use crate::layout::Column;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How deep a schema may nest.
const DEPTH_MAX: usize = 200;

const PRIMITIVES: &[&str] = &["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// The schema with everything it refers to in it and all names in full: the first mention of a type holds it.
pub(super) fn whole(text: &str, parts: &[Part]) -> Result<Value, String> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| format!("not JSON: {error}"));
    let mut known = HashMap::new();
    for part in parts {
        let schema = parse(&part.text)?;
        if let Value::Object(named) = &schema {
            known.insert(full_name(named, "").unwrap_or_else(|| part.name.clone()), schema);
        }
    }
    // A schema that is a bare name is not in quotes everywhere.
    let schema = parse(text).or_else(|error| if PRIMITIVES.contains(&text) { Ok(text.into()) } else { Err(error) })?;
    Whole { known: &known, defined: HashSet::new() }.walk(schema, "", 0)
}

struct Whole<'a> {
    known: &'a HashMap<String, Value>,
    defined: HashSet<String>,
}

impl Whole<'_> {
    fn walk(&mut self, schema: Value, namespace: &str, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it nests deeper than {DEPTH_MAX}"));
        }
        match schema {
            Value::String(name) if PRIMITIVES.contains(&name.as_str()) => Ok(Value::String(name)),
            Value::String(name) => {
                let full = qualified(&name, namespace);
                if self.defined.contains(&full) {
                    return Ok(Value::String(full));
                }
                let found = self.known.get(&full).or_else(|| self.known.get(&name));
                match found.cloned() {
                    Some(schema) => self.walk(schema, "", depth + 1),
                    None => Err(format!("nothing says what {full} is")),
                }
            }
            Value::Array(branches) => {
                branches.into_iter().map(|branch| self.walk(branch, namespace, depth + 1)).collect()
            }
            Value::Object(mut schema) => {
                let kind = schema.get("type").and_then(Value::as_str).map(str::to_string);
                match kind.as_deref() {
                    Some("record" | "error" | "enum" | "fixed") => self.named(schema, namespace, depth),
                    Some("array" | "map") => {
                        let key = if kind.as_deref() == Some("array") { "items" } else { "values" };
                        let inner = schema.remove(key).ok_or_else(|| format!("{key} are missing"))?;
                        schema.insert(key.to_string(), self.walk(inner, namespace, depth + 1)?);
                        Ok(Value::Object(schema))
                    }
                    _ => {
                        let inner = schema.remove("type").ok_or("a type is missing")?;
                        let inner = self.walk(inner, namespace, depth + 1)?;
                        // `{"type": {"type": …}}` is the inner one; `{"type": "long", "logicalType": …}` is itself.
                        if !inner.is_string() {
                            return Ok(inner);
                        }
                        schema.insert("type".to_string(), inner);
                        Ok(Value::Object(schema))
                    }
                }
            }
            _ => Err("it holds what is no schema".to_string()),
        }
    }

    fn named(&mut self, mut schema: Map<String, Value>, namespace: &str, depth: usize) -> Result<Value, String> {
        let full = full_name(&schema, namespace).ok_or("a named type has no name")?;
        let own = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_string();
        if !self.defined.insert(full.clone()) {
            // A part that two others hold.
            return Ok(Value::String(full));
        }
        schema.insert("name".to_string(), full.clone().into());
        schema.remove("namespace");
        if own.is_empty() && !namespace.is_empty() {
            schema.insert("namespace".to_string(), "".into());
        }
        if let Some(Value::Array(aliases)) = schema.get_mut("aliases") {
            for alias in aliases {
                if let Some(name) = alias.as_str() {
                    *alias = qualified(name, &own).into();
                }
            }
        }
        if let Some(Value::Array(fields)) = schema.get_mut("fields") {
            for field in fields.iter_mut().filter_map(Value::as_object_mut) {
                let inner = field.remove("type").ok_or("a field has no type")?;
                let inner = self.walk(inner, &own, depth + 1)?;
                field.insert("type".to_string(), inner);
            }
        }
        Ok(Value::Object(schema))
    }
}

fn qualified(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_string() } else { format!("{namespace}.{name}") }
}

fn full_name(schema: &Map<String, Value>, namespace: &str) -> Option<String> {
    let name = schema.get("name")?.as_str()?;
    let namespace = schema.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
    Some(qualified(name, namespace))
}

/// What a reader calls things, by their aliases.
#[derive(Default)]
struct Names {
    types: HashMap<String, String>,
    /// By record and alias.
    fields: HashMap<(String, String), String>,
    /// Names of fields by record.
    own: HashMap<String, HashSet<String>>,
}

fn text_of<'v>(schema: &'v Map<String, Value>, key: &str) -> &'v str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn aliases(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    schema.get("aliases").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

impl Names {
    fn learn(&mut self, schema: &Value) {
        match schema {
            Value::Array(branches) => branches.iter().for_each(|branch| self.learn(branch)),
            Value::Object(schema) => {
                let name = text_of(schema, "name").to_string();
                for alias in aliases(schema) {
                    self.types.insert(alias.to_string(), name.clone());
                }
                for field in schema.get("fields").and_then(Value::as_array).into_iter().flatten() {
                    let Some(field) = field.as_object() else { continue };
                    let called = text_of(field, "name").to_string();
                    self.own.entry(name.clone()).or_default().insert(called.clone());
                    for alias in aliases(field) {
                        self.fields.insert((name.clone(), alias.to_string()), called.clone());
                    }
                    field.get("type").into_iter().for_each(|inner| self.learn(inner));
                }
                ["items", "values", "type"]
                    .iter()
                    .filter_map(|key| schema.get(*key))
                    .for_each(|inner| self.learn(inner));
            }
            _ => {}
        }
    }

    fn give(&self, schema: &mut Value) {
        match schema {
            Value::String(name) => {
                if let Some(new) = self.types.get(name) {
                    name.clone_from(new);
                }
            }
            Value::Array(branches) => branches.iter_mut().for_each(|branch| self.give(branch)),
            Value::Object(schema) => {
                let is_named = schema.contains_key("name");
                if let Some(new) = self.types.get(text_of(schema, "name")).filter(|_| is_named) {
                    schema.insert("name".to_string(), new.clone().into());
                }
                let name = text_of(schema, "name").to_string();
                for field in schema.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                    let Some(field) = field.as_object_mut() else { continue };
                    let called = text_of(field, "name").to_string();
                    let is_known = self.own.get(&name).is_some_and(|own| own.contains(&called));
                    if let Some(new) = self.fields.get(&(name.clone(), called)).filter(|_| !is_known) {
                        field.insert("name".to_string(), new.clone().into());
                    }
                    field.get_mut("type").into_iter().for_each(|inner| self.give(inner));
                }
                for key in ["items", "values"] {
                    schema.get_mut(key).into_iter().for_each(|inner| self.give(inner));
                }
            }
            _ => {}
        }
    }
}

/// How data of `writer` is read as `reader`: by the reader's names, and by plain types, as what numbers and bytes mean does not
/// matter to resolution and stays as the reader says.
///
/// # Errors
/// It cannot be read so, and what is in the way.
pub(super) fn resolution(reader: &Value, writer: &Value) -> Result<Resolution, String> {
    let mut names = Names::default();
    names.learn(reader);
    let (mut reader, mut writer) = (reader.clone(), writer.clone());
    names.give(&mut writer);
    same_meaning(&reader, &writer)?;
    plain(&mut reader);
    plain(&mut writer);
    Resolution::new(&reader, &writer)
}

/// Takes away what values mean.
fn plain(schema: &mut Value) {
    match schema {
        Value::Array(branches) => branches.iter_mut().for_each(plain),
        Value::Object(schema) => {
            schema.remove("logicalType");
            for field in schema.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                field.get_mut("type").into_iter().for_each(plain);
            }
            ["items", "values", "type"].iter().for_each(|key| schema.get_mut(*key).into_iter().for_each(plain));
        }
        _ => {}
    }
}

/// Refuses numbers and bytes that mean one thing to the writer and another one to the reader: milliseconds are no microseconds.
fn same_meaning(reader: &Value, writer: &Value) -> Result<(), String> {
    let (mut new, mut old) = (BTreeMap::new(), BTreeMap::new());
    meanings(reader, String::new(), &mut new);
    meanings(writer, String::new(), &mut old);
    let listed = |meanings: &BTreeSet<String>| meanings.iter().cloned().collect::<Vec<_>>().join(" or ");
    for (place, new) in &new {
        if let Some(old) = old.get(place).filter(|old| !old.is_subset(new)) {
            return Err(format!("{place} was {} and is {}", listed(old), listed(new)));
        }
    }
    Ok(())
}

/// What numbers and bytes can mean, by their place; branches of a union share theirs.
fn meanings(schema: &Value, place: String, found: &mut BTreeMap<String, BTreeSet<String>>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| meanings(branch, place.clone(), found)),
        Value::Object(schema) => {
            if let Some(meaning) = schema.get("logicalType").and_then(Value::as_str) {
                // A decimal that names no scale has none: <https://avro.apache.org/docs/1.12.0/specification/#decimal>.
                let scale = schema.get("scale").and_then(Value::as_u64).unwrap_or(0);
                let meaning = match meaning {
                    "decimal" => format!("decimal of scale {scale}"),
                    _ => meaning.to_string(),
                };
                found.entry(place.clone()).or_default().insert(meaning);
            }
            for field in schema.get("fields").and_then(Value::as_array).into_iter().flatten() {
                let Some(field) = field.as_object() else { continue };
                let name = text_of(field, "name");
                // By the record's own name: a type is the same one wherever it is mentioned.
                let place = format!("{}.{name}", text_of(schema, "name"));
                field.get("type").into_iter().for_each(|inner| meanings(inner, place.clone(), found));
            }
            for key in ["items", "values"] {
                schema.get(key).into_iter().for_each(|inner| meanings(inner, format!("{place}[]"), found));
            }
        }
        _ => {}
    }
}

pub(super) fn columns(schema: &Value) -> Result<Vec<Column>, String> {
    crate::decode::columns::columns_of_avro(&schema.to_string())
}
