//! Avro's schema resolution: data of one schema read as another one.
//!
//! Source: the Avro specification 1.12, "Schema Resolution". The library's own resolution guesses the branches of unions, so only
//! its reading and writing of data is used; both schemas are walked here side by side.

use apache_avro::Schema;
use apache_avro::schema::{EnumSchema, RecordSchema, UnionSchema};
use apache_avro::types::Value;
use serde_json::Value as Json;
use std::collections::{HashMap, HashSet};

/// Named types by their full names.
type Names = HashMap<String, Schema>;

/// Reads data of one schema as another one.
pub struct Resolution {
    writer: Schema,
    reader: Schema,
    written: Names,
    read: Names,
}

impl Resolution {
    /// Compares two schemas that are whole, have no logical types and call things alike.
    ///
    /// # Errors
    /// Data of `writer` cannot be read as `reader`, and what is in the way.
    pub(super) fn new(reader: &Json, writer: &Json) -> Result<Self, String> {
        let parse = |schema: &Json| Schema::parse(schema).map_err(|error| error.to_string());
        let (writer, reader) = (parse(writer)?, parse(reader)?);
        let (mut written, mut read) = (Names::new(), Names::new());
        collect(&writer, &mut written);
        collect(&reader, &mut read);
        let resolution = Self { writer, reader, written, read };
        resolution.fits(&resolution.writer, &resolution.reader, &mut HashSet::new())?;
        Ok(resolution)
    }

    /// `data`, which is whole and nests within bounds, as data of the reader. Maps lose their order.
    ///
    /// # Errors
    /// It holds a value that the reader has no place for.
    pub fn apply(&self, data: &[u8]) -> Result<Vec<u8>, String> {
        let value =
            apache_avro::from_avro_datum(&self.writer, &mut &data[..], None).map_err(|error| error.to_string())?;
        let value = self.value(value, &self.writer, &self.reader)?;
        apache_avro::to_avro_datum(&self.reader, value).map_err(|error| error.to_string())
    }

    /// Whether all data of `writer` can be read as `reader`, but for symbols and branches that come without a default.
    fn fits(&self, writer: &Schema, reader: &Schema, seen: &mut HashSet<(String, String)>) -> Result<(), String> {
        match (named(writer, &self.written)?, named(reader, &self.read)?) {
            (Schema::Union(writers), reader) => {
                writers.variants().iter().try_for_each(|writer| self.fits(writer, reader, seen))
            }
            (writer, Schema::Union(readers)) => {
                let branch = self.branch(writer, readers)?;
                self.fits(writer, &readers.variants()[branch], seen)
            }
            (Schema::Array(writer), Schema::Array(reader)) => self.fits(&writer.items, &reader.items, seen),
            (Schema::Map(writer), Schema::Map(reader)) => self.fits(&writer.types, &reader.types, seen),
            (Schema::Record(writer), Schema::Record(reader)) => {
                alike(&full_name(&writer.name), &full_name(&reader.name))?;
                if !seen.insert((full_name(&writer.name), full_name(&reader.name))) {
                    return Ok(());
                }
                for field in &reader.fields {
                    let place = |problem| format!("{}.{}: {problem}", reader.name.name, field.name);
                    match (field_of(writer, &field.name), &field.default) {
                        (Some(written), _) => self.fits(written, &field.schema, seen).map_err(place)?,
                        (None, Some(default)) => drop(self.default(default, &field.schema).map_err(place)?),
                        (None, None) => return Err(place("it is not there, and has no default".to_string())),
                    }
                }
                Ok(())
            }
            (Schema::Enum(writer), Schema::Enum(reader)) => {
                alike(&full_name(&writer.name), &full_name(&reader.name))?;
                writer.symbols.iter().try_for_each(|symbol| symbol_in(symbol, reader).map(drop))
            }
            (Schema::Fixed(writer), Schema::Fixed(reader)) => {
                alike(&full_name(&writer.name), &full_name(&reader.name))?;
                match writer.size == reader.size {
                    true => Ok(()),
                    false => Err(format!("{} bytes are not {}", writer.size, reader.size)),
                }
            }
            (writer, reader) if promotes(writer, reader) => Ok(()),
            (writer, reader) => Err(format!("{} is not read as {}", kind(writer), kind(reader))),
        }
    }

    /// The branch of `readers` for data of `writer`: the type itself, else the first one that it can be promoted to.
    fn branch(&self, writer: &Schema, readers: &UnionSchema) -> Result<usize, String> {
        let ways: [&dyn Fn(&Schema) -> bool; 3] = [
            &|reader| kind(writer) == kind(reader) && name_of(writer) == name_of(reader),
            &|reader| kind(writer) == kind(reader) && alike(&name_of(writer), &name_of(reader)).is_ok(),
            &|reader| promotes(writer, reader),
        ];
        for way in ways {
            for (index, reader) in readers.variants().iter().enumerate() {
                if way(named(reader, &self.read)?) {
                    return Ok(index);
                }
            }
        }
        Err(format!("no branch of the union takes {} {}", kind(writer), name_of(writer)))
    }

    fn value(&self, value: Value, writer: &Schema, reader: &Schema) -> Result<Value, String> {
        let (writer, reader) = (named(writer, &self.written)?, named(reader, &self.read)?);
        if let Schema::Union(writers) = writer {
            let Value::Union(index, value) = value else { return Err("a union without its branch".to_string()) };
            let branch = usize::try_from(index).ok().and_then(|index| writers.variants().get(index));
            return self.value(*value, branch.ok_or("a branch that the union has not")?, reader);
        }
        if let Schema::Union(readers) = reader {
            let index = self.branch(writer, readers)?;
            let value = self.value(value, writer, &readers.variants()[index])?;
            return Ok(Value::Union(u32::try_from(index).unwrap_or(u32::MAX), Box::new(value)));
        }
        Ok(match (value, writer, reader) {
            (Value::Int(number), _, Schema::Long) => Value::Long(number.into()),
            (Value::Int(number), _, Schema::Float) => Value::Float(number as f32),
            (Value::Int(number), _, Schema::Double) => Value::Double(number.into()),
            (Value::Long(number), _, Schema::Float) => Value::Float(number as f32),
            (Value::Long(number), _, Schema::Double) => Value::Double(number as f64),
            (Value::Float(number), _, Schema::Double) => Value::Double(number.into()),
            (Value::String(text), _, Schema::Bytes) => Value::Bytes(text.into_bytes()),
            (Value::Bytes(bytes), _, Schema::String) => {
                Value::String(String::from_utf8(bytes).map_err(|_| "bytes that are no text".to_string())?)
            }
            (Value::Enum(_, symbol), _, Schema::Enum(reader)) => {
                let index = symbol_in(&symbol, reader)?;
                Value::Enum(u32::try_from(index).unwrap_or(u32::MAX), reader.symbols[index].clone())
            }
            (Value::Array(items), Schema::Array(writer), Schema::Array(reader)) => {
                let items = items.into_iter().map(|item| self.value(item, &writer.items, &reader.items));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            (Value::Map(entries), Schema::Map(writer), Schema::Map(reader)) => {
                let entry = |(key, value)| Ok::<_, String>((key, self.value(value, &writer.types, &reader.types)?));
                Value::Map(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
            }
            (Value::Record(fields), Schema::Record(writer), Schema::Record(reader)) => {
                let mut fields: HashMap<String, Value> = fields.into_iter().collect();
                let mut read = Vec::with_capacity(reader.fields.len());
                for field in &reader.fields {
                    let value = match (fields.remove(&field.name), field_of(writer, &field.name), &field.default) {
                        (Some(value), Some(written), _) => self.value(value, written, &field.schema)?,
                        (_, _, Some(default)) => self.default(default, &field.schema)?,
                        _ => return Err(format!("{} is not there, and has no default", field.name)),
                    };
                    read.push((field.name.clone(), value));
                }
                Value::Record(read)
            }
            (value, ..) => value,
        })
    }

    /// The value of a default; of a union that of the first branch that takes it.
    fn default(&self, default: &Json, schema: &Schema) -> Result<Value, String> {
        let wrong = || format!("the default {default} is not of its type");
        Ok(match named(schema, &self.read)? {
            Schema::Null if default.is_null() => Value::Null,
            Schema::Boolean => Value::Boolean(default.as_bool().ok_or_else(wrong)?),
            Schema::Int => {
                Value::Int(default.as_i64().and_then(|number| i32::try_from(number).ok()).ok_or_else(wrong)?)
            }
            Schema::Long => Value::Long(default.as_i64().ok_or_else(wrong)?),
            Schema::Float => Value::Float(default.as_f64().ok_or_else(wrong)? as f32),
            Schema::Double => Value::Double(default.as_f64().ok_or_else(wrong)?),
            Schema::String => Value::String(default.as_str().ok_or_else(wrong)?.to_string()),
            Schema::Bytes => Value::Bytes(bytes_of(default).ok_or_else(wrong)?),
            Schema::Fixed(fixed) => {
                let bytes = bytes_of(default).filter(|bytes| bytes.len() == fixed.size).ok_or_else(wrong)?;
                Value::Fixed(fixed.size, bytes)
            }
            Schema::Enum(symbols) => {
                let symbol = default.as_str().ok_or_else(wrong)?;
                let index = symbols.symbols.iter().position(|known| known == symbol).ok_or_else(wrong)?;
                Value::Enum(u32::try_from(index).unwrap_or(u32::MAX), symbol.to_string())
            }
            Schema::Array(array) => {
                let items = default.as_array().ok_or_else(wrong)?.iter().map(|item| self.default(item, &array.items));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Schema::Map(map) => {
                let entries = default.as_object().ok_or_else(wrong)?.iter();
                let entry =
                    |(key, value): (&String, &Json)| Ok::<_, String>((key.clone(), self.default(value, &map.types)?));
                Value::Map(entries.map(entry).collect::<Result<_, _>>()?)
            }
            Schema::Record(record) => {
                let object = default.as_object().ok_or_else(wrong)?;
                let field = |field: &apache_avro::schema::RecordField| {
                    let default = object.get(&field.name).or(field.default.as_ref()).ok_or_else(wrong)?;
                    Ok::<_, String>((field.name.clone(), self.default(default, &field.schema)?))
                };
                Value::Record(record.fields.iter().map(field).collect::<Result<_, _>>()?)
            }
            Schema::Union(union) => {
                let taken = |(index, branch)| Some((index, self.default(default, branch).ok()?));
                let (index, value) = (0..).zip(union.variants()).find_map(taken).ok_or_else(wrong)?;
                Value::Union(index, Box::new(value))
            }
            _ => return Err(wrong()),
        })
    }
}

/// Text whose code points are bytes.
fn bytes_of(default: &Json) -> Option<Vec<u8>> {
    default.as_str()?.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect()
}

fn collect(schema: &Schema, names: &mut Names) {
    match schema {
        Schema::Array(array) => collect(&array.items, names),
        Schema::Map(map) => collect(&map.types, names),
        Schema::Union(union) => union.variants().iter().for_each(|branch| collect(branch, names)),
        Schema::Record(record) => {
            names.insert(full_name(&record.name), schema.clone());
            record.fields.iter().for_each(|field| collect(&field.schema, names));
        }
        Schema::Enum(EnumSchema { name, .. }) => drop(names.insert(full_name(name), schema.clone())),
        Schema::Fixed(fixed) => drop(names.insert(full_name(&fixed.name), schema.clone())),
        _ => {}
    }
}

/// What a mention stands for.
fn named<'a>(schema: &'a Schema, names: &'a Names) -> Result<&'a Schema, String> {
    match schema {
        Schema::Ref { name } => {
            let full = full_name(name);
            names.get(&full).ok_or_else(|| format!("nothing says what {full} is"))
        }
        schema => Ok(schema),
    }
}

fn full_name(name: &apache_avro::schema::Name) -> String {
    name.fullname(None)
}

fn name_of(schema: &Schema) -> String {
    match schema {
        Schema::Record(RecordSchema { name, .. }) | Schema::Enum(EnumSchema { name, .. }) => full_name(name),
        Schema::Fixed(fixed) => full_name(&fixed.name),
        _ => String::new(),
    }
}

/// Names count without their namespaces.
fn alike(writer: &str, reader: &str) -> Result<(), String> {
    let bare = |name: &str| name.rsplit('.').next().unwrap_or_default().to_string();
    if bare(writer) == bare(reader) { Ok(()) } else { Err(format!("{writer} is another type than {reader}")) }
}

fn field_of<'a>(record: &'a RecordSchema, name: &str) -> Option<&'a Schema> {
    record.fields.iter().find(|field| field.name == name).map(|field| &field.schema)
}

/// The place of a symbol among those of `reader`, or that of its default.
fn symbol_in(symbol: &str, reader: &EnumSchema) -> Result<usize, String> {
    let place = |symbol: &str| reader.symbols.iter().position(|known| known == symbol);
    let found = place(symbol).or_else(|| place(reader.default.as_ref()?));
    found.ok_or_else(|| format!("{} has no symbol {symbol}, and no default", reader.name.name))
}

fn kind(schema: &Schema) -> &'static str {
    match schema {
        Schema::Null => "null",
        Schema::Boolean => "boolean",
        Schema::Int => "int",
        Schema::Long => "long",
        Schema::Float => "float",
        Schema::Double => "double",
        Schema::Bytes => "bytes",
        Schema::String => "string",
        Schema::Array(_) => "array",
        Schema::Map(_) => "map",
        Schema::Record(_) => "record",
        Schema::Enum(_) => "enum",
        Schema::Fixed(_) => "fixed",
        Schema::Union(_) => "union",
        _ => "another type",
    }
}

/// Whether values of `writer`, which has no parts, are values of `reader` as well.
fn promotes(writer: &Schema, reader: &Schema) -> bool {
    let may = match kind(writer) {
        "int" => ["int", "long", "float", "double"].as_slice(),
        "long" => &["long", "float", "double"],
        "float" => &["float", "double"],
        "string" | "bytes" => &["string", "bytes"],
        "null" => &["null"],
        "boolean" => &["boolean"],
        "double" => &["double"],
        _ => &[],
    };
    may.contains(&kind(reader))
}
