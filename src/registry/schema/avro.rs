//! Avro schemas as the registry has them: made whole, and compared.
//!
//! Source: the Avro specification 1.12, "Names", "Logical Types" and "Schema Resolution".

use super::Part;
use super::resolution::{self, Resolution};
use crate::layout::Column;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// How deep a schema may nest.
const DEPTH_MAX: usize = 200;

/// Most records that a record may hold without an array, a map or a union between them: the library walks each way to each of them.
const RECORDS_MAX: usize = 100_000;

const PRIMITIVES: &[&str] = &["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// An Avro schema of a file, as one of the registry is read: names in full, and without what the library refuses although the
/// specification has it passed over or given a default (a decimal without a scale, a logical type that is none, a type in a type).
///
/// # Errors
/// It is no schema, or refers to what is not in it; in words for the person who wrote it.
pub fn whole_avro(text: &str) -> Result<String, String> {
    whole(text, &[]).map(|schema| schema.to_string()).map_err(|problem| format!("not an Avro schema: {problem}"))
}

/// The schema with everything it refers to in it and all names in full: the first mention of a type holds it.
pub(super) fn whole(text: &str, parts: &[Part]) -> Result<Value, String> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| format!("not JSON: {error}"));
    // A schema that is a bare name is not in quotes everywhere.
    let schema = parse(text).or_else(|error| if PRIMITIVES.contains(&text) { Ok(text.into()) } else { Err(error) })?;
    let parts = parts.iter().map(|part| parse(&part.text)).collect::<Result<Vec<_>, _>>()?;
    let mut known = Known::new();
    learn(&schema, "", true, &mut known);
    // A part itself goes before what another part holds under its name.
    parts.iter().for_each(|part| learn(part, "", false, &mut known));
    parts.iter().for_each(|part| learn(part, "", true, &mut known));
    let whole =
        Whole { known: &known, defined: HashSet::new(), is_alone: parts.is_empty() }.walk(schema.clone(), "", 0)?;
    check_records(&whole)?;
    Ok(whole)
}

/// Definitions of types by their full names, with the namespace around them.
type Known<'a> = HashMap<String, (&'a Map<String, Value>, String)>;

/// Notes the named types of `schema`; those inside it where they are to be.
fn learn<'a>(schema: &'a Value, namespace: &str, inside: bool, known: &mut Known<'a>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| learn(branch, namespace, inside, known)),
        Value::Object(schema) => {
            let mut own = namespace.to_string();
            if is_named(schema)
                && let Some(full) = full_name(schema, namespace)
            {
                own = namespace_of(&full).to_string();
                known.entry(full).or_insert_with(|| (schema, namespace.to_string()));
            }
            if !inside {
                return;
            }
            for field in schema.get("fields").and_then(Value::as_array).into_iter().flatten() {
                field.get("type").into_iter().for_each(|inner| learn(inner, &own, inside, known));
            }
            let inner = ["items", "values", "type"].iter().filter_map(|key| schema.get(*key));
            inner.for_each(|inner| learn(inner, &own, inside, known));
        }
        _ => {}
    }
}

struct Whole<'a> {
    known: &'a Known<'a>,
    defined: HashSet<String>,
    /// It has no parts.
    is_alone: bool,
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
                let found = [&full, &name].into_iter().find(|name| self.is_there(name));
                let found = found.ok_or_else(|| format!("nothing says what {full} is"))?;
                match self.known.get(found) {
                    Some((schema, namespace)) if !self.defined.contains(found) => {
                        self.walk(Value::Object((*schema).clone()), namespace, depth + 1)
                    }
                    _ => Ok(mention(found)),
                }
            }
            Value::Array(branches) => {
                branches.into_iter().map(|branch| self.walk(branch, namespace, depth + 1)).collect()
            }
            Value::Object(schema) if is_named(&schema) => self.named(schema, namespace, depth),
            Value::Object(mut schema) => {
                // Only named types have names, whatever is written there.
                schema.remove("name");
                schema.remove("namespace");
                let key = match schema.get("type").and_then(Value::as_str) {
                    Some("array") => "items",
                    Some("map") => "values",
                    _ => "type",
                };
                let inner = schema.remove(key).ok_or_else(|| format!("its {key} is missing"))?;
                let inner = self.walk(inner, namespace, depth + 1)?;
                let is_primitive = inner.as_str().is_some_and(|name| PRIMITIVES.contains(&name));
                // `{"type": {"type": …}}` is the inner one; `{"type": "long", "logicalType": …}` is itself.
                if key == "type" && !is_primitive {
                    return Ok(inner);
                }
                schema.insert(key.to_string(), inner);
                tidy(&mut schema);
                Ok(Value::Object(schema))
            }
            _ => Err("it holds what is no schema".to_string()),
        }
    }

    fn is_there(&self, name: &str) -> bool {
        self.defined.contains(name) || self.known.contains_key(name)
    }

    fn named(&mut self, mut schema: Map<String, Value>, namespace: &str, depth: usize) -> Result<Value, String> {
        let full = full_name(&schema, namespace).ok_or("a named type has no name")?;
        let own = namespace_of(&full).to_string();
        if !self.defined.insert(full.clone()) {
            let is_same = |(known, _): &(&Map<String, Value>, String)| says_the_same(known, &schema);
            if self.is_alone && !self.known.get(&full).is_some_and(is_same) {
                return Err(format!("{full} is defined twice, as two different types"));
            }
            // A part that two others hold.
            return Ok(mention(&full));
        }
        schema.remove("namespace");
        if own.is_empty() {
            schema.insert("namespace".to_string(), "".into());
        }
        schema.insert("name".to_string(), full.into());
        if schema.get("type").and_then(Value::as_str) == Some("error") {
            schema.insert("type".to_string(), "record".into());
        }
        tidy(&mut schema);
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
                // It belongs to the type, and means nothing here.
                field.remove("logicalType");
            }
        }
        Ok(Value::Object(schema))
    }
}

/// Whether two definitions say the same, whatever is said about them.
fn says_the_same(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    fn is_same(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Object(one), Value::Object(other)) => says_the_same(one, other),
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
            }
            _ => one == other,
        }
    }
    let keys = |of: &Map<String, Value>| of.keys().filter(|key| *key != "doc").count();
    let mut said = one.iter().filter(|(key, _)| *key != "doc");
    keys(one) == keys(other) && said.all(|(key, value)| other.get(key).is_some_and(|told| is_same(value, told)))
}

/// A name as it stands for a type that is defined elsewhere: one without a namespace must not get that around it.
fn mention(full: &str) -> Value {
    if full.contains('.') { full.into() } else { format!(".{full}").into() }
}

fn is_named(schema: &Map<String, Value>) -> bool {
    matches!(schema.get("type").and_then(Value::as_str), Some("record" | "error" | "enum" | "fixed"))
}

fn qualified(name: &str, namespace: &str) -> String {
    match name.strip_prefix('.') {
        Some(name) => name.to_string(),
        None if name.contains('.') || namespace.is_empty() => name.to_string(),
        None => format!("{namespace}.{name}"),
    }
}

fn namespace_of(full: &str) -> &str {
    full.rsplit_once('.').map_or("", |(namespace, _)| namespace)
}

fn full_name(schema: &Map<String, Value>, namespace: &str) -> Option<String> {
    let name = schema.get("name")?.as_str()?;
    let namespace = schema.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
    Some(qualified(name, namespace))
}

/// Gives a decimal its scale, and takes away a logical type that is none: it "must be ignored", but the library refuses it.
fn tidy(schema: &mut Map<String, Value>) {
    let scale = schema.remove("scale").map_or(Some(0), |scale| u32::try_from(scale.as_u64()?).ok());
    let precision = schema.remove("precision").and_then(|precision| precision.as_u64()).filter(|digits| *digits > 0);
    let has_digits = matches!(schema.get("type").and_then(Value::as_str), Some("bytes" | "fixed"));
    match (schema.get("logicalType").and_then(Value::as_str), scale, precision) {
        (Some("decimal"), Some(scale), Some(precision)) if has_digits => {
            schema.insert("scale".to_string(), scale.into());
            schema.insert("precision".to_string(), precision.into());
        }
        (Some("decimal") | None, ..) => drop(schema.remove("logicalType")),
        _ => {}
    }
}

/// Refuses records that hold themselves, or so many others that the library would not come to an end.
fn check_records(schema: &Value) -> Result<(), String> {
    let mut held = HashMap::new();
    note_held(schema, &mut held);
    let mut counts = HashMap::new();
    held.keys().try_for_each(|name| count_held(name, &held, &mut counts, 0).map(drop))
}

/// Notes by the name of each record those that are the types of its fields.
fn note_held<'a>(schema: &'a Value, held: &mut HashMap<&'a str, Vec<&'a str>>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| note_held(branch, held)),
        Value::Object(schema) => {
            let fields = schema.get("fields").and_then(Value::as_array).into_iter().flatten();
            let types: Vec<&Value> = fields.filter_map(|field| field.get("type")).collect();
            if let Some(name) = schema.get("name").and_then(Value::as_str).filter(|_| !types.is_empty()) {
                let name_of = |inner: &'a Value| inner.as_str().or_else(|| inner.get("name")?.as_str());
                let names = types.iter().filter_map(|inner| Some(name_of(inner)?.trim_start_matches('.')));
                held.insert(name, names.collect());
            }
            types.into_iter().for_each(|inner| note_held(inner, held));
            ["items", "values"].iter().filter_map(|key| schema.get(*key)).for_each(|inner| note_held(inner, held));
        }
        _ => {}
    }
}

fn count_held<'a>(
    name: &'a str,
    held: &HashMap<&'a str, Vec<&'a str>>,
    counts: &mut HashMap<&'a str, usize>,
    depth: usize,
) -> Result<usize, String> {
    if let Some(count) = counts.get(name) {
        return Ok(*count);
    }
    let Some(inside) = held.get(name) else { return Ok(0) };
    if depth > DEPTH_MAX {
        return Err(format!("{name} holds itself, or others deeper than {DEPTH_MAX}"));
    }
    let mut count = 1_usize;
    for inner in inside {
        count = count.saturating_add(count_held(inner, held, counts, depth + 1)?);
    }
    if count > RECORDS_MAX {
        return Err(format!("{name} holds more than {RECORDS_MAX} others"));
    }
    counts.insert(name, count);
    Ok(count)
}

/// How data of `writer` is read as `reader`.
///
/// # Errors
/// It cannot be read so, and what is in the way.
pub(super) fn resolution(reader: &Value, writer: &Value) -> Result<Resolution, String> {
    resolution::resolve(reader, writer)
}

pub(super) fn columns(schema: &Value) -> Result<Vec<Column>, String> {
    crate::decode::columns::columns_of_avro(&schema.to_string())
}
