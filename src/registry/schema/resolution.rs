//! Avro's schema resolution: data of one schema read as another one.
//!
//! Source: the Avro specification 1.12, "Schema Resolution". The library's own resolution guesses the branches of unions and builds
//! values that are hundreds of times as large as what they are read from, so only its numbers are used: both schemas are walked here side by
//! side, once, and data is copied from the one order to the other.

use crate::decode::{Meaning, meaning};
use apache_avro::types::Value;
use serde_avro_fast::schema::{Enum, LogicalType, Name, Record, RegularType, SchemaKey, SchemaMut, SchemaNode, Union};
use serde_json::{Map, Value as Json};
use std::collections::HashMap;
use std::rc::Rc;

/// Most pairs of types that are compared.
const STEPS_MAX: usize = 100_000;

/// Most names of fields, symbols, branches and aliases that are looked at while types are compared, those of both schemas: what is
/// kept of symbols takes some 60 bytes each.
const NAMES_MAX: usize = 2_000_000;

/// How deep values may nest: further than any that is whole by its own schema.
const DEPTH_MAX: usize = 512;

/// Most bytes that the data of one record may become.
const DATA_BYTES_MAX: usize = 128 << 20;

/// How deep a default may nest.
const DEFAULT_DEPTH_MAX: usize = 64;

/// Most values that the defaults of a schema may have, those that are tried and do not fit with them.
const DEFAULT_VALUES_MAX: usize = 100_000;

/// Most bytes of all defaults that a schema is read with.
const DEFAULT_BYTES_MAX: usize = 4 << 20;

const NO_END: &str = "its default is too large, or has no end";

/// Reads data of one schema as another one.
pub struct Resolution {
    /// The first is that of the whole.
    steps: Vec<Step>,
}

/// How a value is read.
enum Step {
    /// As it is.
    Copy(Kind),
    /// As text, which it may not be.
    Text,
    /// A whole number as a float or, if so, a double.
    Float(bool),
    /// A float as a double.
    Widen,
    /// What each symbol is written as.
    Enum(Vec<Vec<u8>>),
    Array(usize),
    Map(usize),
    Record(Fields),
    /// By the branch.
    Union(Vec<usize>),
    /// Behind what the reader's branch is written as.
    Branch(Vec<u8>, usize),
}

/// How much a value takes.
#[derive(Clone, Copy)]
enum Kind {
    Bytes(usize),
    /// A whole number.
    Number,
    /// A length, and as many bytes.
    Counted,
}

struct Fields {
    /// How the writer's are read, in their order, and as which of the reader's.
    written: Vec<(usize, Option<usize>)>,
    /// Those of the reader that are not written: their defaults, as data.
    defaults: Vec<Option<Vec<u8>>>,
    /// What is written comes in the order of the reader, all defaults behind it.
    is_in_order: bool,
}

/// Compares two schemas that are whole.
///
/// # Errors
/// Data of `writer` cannot be read as `reader`, and what is in the way.
pub(super) fn resolve(reader: &Json, writer: &Json) -> Result<Resolution, String> {
    let parse = |schema: &Json| {
        let parsed: Result<SchemaMut, _> = schema.to_string().parse();
        parsed.map_err(|error| format!("not an Avro schema: {error}"))
    };
    let (read, written) = (parse(reader)?, parse(writer)?);
    let mut definitions = HashMap::new();
    define(reader, &mut definitions);
    let mut compare = Compare {
        writer: &written,
        reader: &read,
        definitions,
        steps: 0,
        known: HashMap::new(),
        todo: Vec::new(),
        names: NAMES_MAX,
        values: DEFAULT_VALUES_MAX,
        bytes: DEFAULT_BYTES_MAX,
    };
    compare.pair(SchemaKey::root(), Some(SchemaKey::root()), &Rc::from(""));
    let mut steps: Vec<Option<Step>> = Vec::new();
    // One after the other, not inside each other: types can refer to others in long chains.
    while let Some(pair) = compare.todo.pop() {
        let step = compare.step(&pair).map_err(|problem| match &*pair.place {
            "" => problem,
            place => format!("{place}: {problem}"),
        })?;
        if compare.steps > STEPS_MAX {
            return Err(format!("there are more than {STEPS_MAX} pairs of types"));
        }
        steps.resize_with(compare.steps, || None);
        steps[pair.step] = Some(step);
    }
    let steps = steps.into_iter().collect::<Option<Vec<_>>>().ok_or("a pair of types was left out, which is a bug")?;
    Ok(Resolution { steps })
}

/// Notes the named types of a whole schema by their full names.
fn define<'s>(schema: &'s Json, definitions: &mut HashMap<&'s str, &'s Map<String, Json>>) {
    match schema {
        Json::Array(branches) => branches.iter().for_each(|branch| define(branch, definitions)),
        Json::Object(schema) => {
            if let Some(name) = schema.get("name").and_then(Json::as_str) {
                definitions.insert(name, schema);
            }
            let fields = schema.get("fields").and_then(Json::as_array).into_iter().flatten();
            fields.filter_map(|field| field.get("type")).for_each(|inner| define(inner, definitions));
            ["items", "values"].iter().filter_map(|key| schema.get(*key)).for_each(|inner| define(inner, definitions));
        }
        _ => {}
    }
}

/// A type of the writer and one of the reader, none: it is only passed over.
struct Pair {
    step: usize,
    writer: SchemaKey,
    reader: Option<SchemaKey>,
    /// Of which field they are.
    place: Rc<str>,
}

/// How a branch takes data of a writer, the better way first.
#[derive(Clone, Copy)]
enum Way {
    Itself,
    Alike,
    Promoted,
}

struct Compare<'s> {
    writer: &'s SchemaMut,
    reader: &'s SchemaMut,
    /// The reader's named types as they are written: what the library leaves out.
    definitions: HashMap<&'s str, &'s Map<String, Json>>,
    /// How many pairs there are.
    steps: usize,
    known: HashMap<(SchemaKey, Option<SchemaKey>), usize>,
    todo: Vec<Pair>,
    /// How many names may still be looked at.
    names: usize,
    /// How many values of defaults there may still be.
    values: usize,
    /// And how many bytes.
    bytes: usize,
}

impl<'s> Compare<'s> {
    /// The step of a pair.
    fn pair(&mut self, writer: SchemaKey, reader: Option<SchemaKey>, place: &Rc<str>) -> usize {
        let next = self.steps;
        let step = *self.known.entry((writer, reader)).or_insert(next);
        if step == next {
            self.steps += 1;
            // What is past the bound is refused by who works them off.
            if self.steps <= STEPS_MAX + 1 {
                self.todo.push(Pair { step, writer, reader, place: place.clone() });
            }
        }
        step
    }

    /// Counts names that are looked at.
    fn look(&mut self, names: usize) -> Result<(), String> {
        if names > self.names {
            // No other branch of a union is tried.
            self.values = 0;
            return Err(format!("there are too many names to compare, more than {NAMES_MAX}"));
        }
        self.names -= names;
        Ok(())
    }

    /// Says how all data of a pair is read.
    fn step(&mut self, pair: &Pair) -> Result<Step, String> {
        let place = &pair.place;
        let writer = node(self.writer, pair.writer)?;
        if let RegularType::Union(union) = &writer.type_ {
            return Ok(Step::Union(
                union.variants.iter().map(|branch| self.pair(*branch, pair.reader, place)).collect(),
            ));
        }
        let Some(reader_key) = pair.reader else { return Ok(self.passed_over(writer, place)) };
        let reader = node(self.reader, reader_key)?;
        if let RegularType::Union(union) = &reader.type_ {
            let branch = self.branch(writer, union)?;
            let step = self.pair(pair.writer, Some(union.variants[branch]), place);
            return Ok(Step::Branch(index(branch)?, step));
        }
        Ok(match (&writer.type_, &reader.type_) {
            (RegularType::Array(writer), RegularType::Array(reader)) => {
                Step::Array(self.pair(writer.items, Some(reader.items), place))
            }
            (RegularType::Map(writer), RegularType::Map(reader)) => {
                Step::Map(self.pair(writer.values, Some(reader.values), place))
            }
            (RegularType::Record(writer), RegularType::Record(reader)) => {
                self.alike(&writer.name, &reader.name)?;
                self.record(writer, reader)?
            }
            (RegularType::Enum(writer), RegularType::Enum(reader)) => {
                self.alike(&writer.name, &reader.name)?;
                self.symbols(writer, reader)?
            }
            (RegularType::Fixed(fixed), RegularType::Fixed(other)) => {
                self.alike(&fixed.name, &other.name)?;
                if fixed.size != other.size {
                    return Err(format!("{} bytes are not {}", fixed.size, other.size));
                }
                same_meaning(writer, reader)?;
                Step::Copy(Kind::Bytes(fixed.size))
            }
            (old, new) => {
                let step = promoted(old, new).ok_or_else(|| format!("{} is not read as {}", kind(old), kind(new)))?;
                same_meaning(writer, reader)?;
                step
            }
        })
    }

    /// How a value that nobody asks for is read.
    fn passed_over(&mut self, writer: &SchemaNode, place: &Rc<str>) -> Step {
        match &writer.type_ {
            RegularType::Array(array) => Step::Array(self.pair(array.items, None, place)),
            RegularType::Map(map) => Step::Map(self.pair(map.values, None, place)),
            RegularType::Record(record) => {
                let fields = record.fields.iter().map(|field| (self.pair(field.type_, None, place), None));
                Step::Record(Fields { written: fields.collect(), defaults: Vec::new(), is_in_order: true })
            }
            RegularType::Fixed(fixed) => Step::Copy(Kind::Bytes(fixed.size)),
            RegularType::Enum(_) => Step::Copy(Kind::Number),
            plain => promoted(plain, plain).unwrap_or(Step::Copy(Kind::Bytes(0))),
        }
    }

    fn record(&mut self, writer: &Record, reader: &Record) -> Result<Step, String> {
        self.look(writer.fields.len() + reader.fields.len())?;
        let definition = self.definitions.get(reader.name.fully_qualified_name()).copied();
        let told = |field: usize| definition.and_then(|told| told.get("fields")?.get(field)?.as_object());
        let places = places(writer.fields.iter().map(|field| field.name.as_str()));
        let mut sources: Vec<Option<usize>> =
            reader.fields.iter().map(|field| places.get(field.name.as_str()).copied()).collect();
        let mut is_read = vec![false; writer.fields.len()];
        sources.iter().flatten().for_each(|source| is_read[*source] = true);
        for (number, source) in sources.iter_mut().enumerate().filter(|(_, source)| source.is_none()) {
            for alias in told(number).into_iter().flat_map(aliases) {
                self.look(1)?;
                // What is read by its own name, or by another alias, is not meant.
                if let Some(&old) = places.get(alias)
                    && !is_read[old]
                {
                    is_read[old] = true;
                    *source = Some(old);
                    break;
                }
            }
        }
        let mut written = vec![None; writer.fields.len()];
        let mut defaults = Vec::with_capacity(reader.fields.len());
        for (number, (field, source)) in reader.fields.iter().zip(&sources).enumerate() {
            let place: Rc<str> = format!("{}.{}", reader.name.name(), field.name).into();
            defaults.push(match source {
                Some(source) => {
                    let step = self.pair(writer.fields[*source].type_, Some(field.type_), &place);
                    written[*source] = Some((step, Some(number)));
                    None
                }
                None => {
                    let default = told(number).and_then(|told| told.get("default"));
                    let default = default.ok_or_else(|| format!("{place}: it is not there, and has no default"))?;
                    let mut data = Vec::new();
                    let written = self.default(default, field.type_, &mut data, 0).and_then(|()| {
                        self.bytes = self.bytes.checked_sub(data.len()).ok_or(NO_END)?;
                        Ok(())
                    });
                    written.map_err(|problem| format!("{place}: {problem}"))?;
                    Some(data)
                }
            });
        }
        let read: Vec<usize> = written.iter().flatten().filter_map(|(_, number)| *number).collect();
        let mut passed_over = |field: usize| {
            let place: Rc<str> = format!("{}.{}", writer.name.name(), writer.fields[field].name).into();
            (self.pair(writer.fields[field].type_, None, &place), None)
        };
        let written = written.into_iter().enumerate();
        let written = written.map(|(field, step)| step.unwrap_or_else(|| passed_over(field))).collect();
        let is_in_order = read.iter().copied().eq(0..read.len());
        Ok(Step::Record(Fields { written, defaults, is_in_order }))
    }

    /// The branch of `readers` for data of `writer`: the type itself, else the first one that it can be promoted to.
    fn branch(&mut self, writer: &SchemaNode, readers: &Union) -> Result<usize, String> {
        let old = &writer.type_;
        for way in [Way::Itself, Way::Alike, Way::Promoted] {
            for (place, reader) in readers.variants.iter().enumerate() {
                self.look(1)?;
                let new = &node(self.reader, *reader)?.type_;
                let is_kind = kind(old) == kind(new);
                let is_taken = match (way, old.name(), new.name()) {
                    (Way::Itself, ..) => is_kind && name_of(old) == name_of(new),
                    (Way::Alike, Some(old), Some(new)) if is_kind => self.is_alike(old, new)?,
                    (Way::Alike, ..) => false,
                    (Way::Promoted, ..) => promoted(old, new).is_some(),
                };
                if is_taken {
                    return Ok(place);
                }
            }
        }
        let problem = format!("no branch of the union takes {} {}", kind(&writer.type_), name_of(&writer.type_));
        Err(problem.trim_end().to_string())
    }

    /// Names count without their namespaces; aliases with them.
    fn is_alike(&mut self, writer: &Name, reader: &Name) -> Result<bool, String> {
        if writer.name() == reader.name() {
            return Ok(true);
        }
        let told = self.definitions.get(reader.fully_qualified_name()).copied();
        for alias in told.into_iter().flat_map(aliases) {
            self.look(1)?;
            if alias == writer.fully_qualified_name() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn alike(&mut self, writer: &Name, reader: &Name) -> Result<(), String> {
        match self.is_alike(writer, reader)? {
            true => Ok(()),
            false => {
                Err(format!("{} is another type than {}", writer.fully_qualified_name(), reader.fully_qualified_name()))
            }
        }
    }

    /// Each symbol of the writer as the reader's of that name, else as the reader's default.
    fn symbols(&mut self, writer: &Enum, reader: &Enum) -> Result<Step, String> {
        self.look(writer.symbols.len() + reader.symbols.len())?;
        let places = places(reader.symbols.iter().map(String::as_str));
        let told = self.definitions.get(reader.name.fully_qualified_name());
        let default = told.and_then(|told| places.get(told.get("default")?.as_str()?));
        let mut written = Vec::with_capacity(writer.symbols.len());
        for symbol in &writer.symbols {
            let place = places.get(symbol.as_str()).or(default);
            let none = || format!("{} has no symbol {symbol}, and no default", reader.name.name());
            written.push(index(*place.ok_or_else(none)?)?);
        }
        Ok(Step::Enum(written))
    }

    /// Writes the value of a default; of a union that of the first branch that takes it.
    fn default(&mut self, default: &Json, of: SchemaKey, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
        if depth > DEFAULT_DEPTH_MAX || out.len() > self.bytes {
            // No other branch of a union around it is tried.
            self.values = 0;
        }
        self.values = self.values.checked_sub(1).ok_or(NO_END)?;
        let wrong = || {
            let text: String = default.to_string().chars().take(100).collect();
            format!("the default {text} is not of its type")
        };
        let schema = self.reader;
        match &node(schema, of)?.type_ {
            RegularType::Null => default.as_null().ok_or_else(wrong)?,
            RegularType::Boolean => out.push(default.as_bool().ok_or_else(wrong)?.into()),
            RegularType::Int => {
                let number = default.as_i64().and_then(|number| i32::try_from(number).ok()).ok_or_else(wrong)?;
                out.extend(number_as_data(number.into())?);
            }
            RegularType::Long => out.extend(number_as_data(default.as_i64().ok_or_else(wrong)?)?),
            RegularType::Float => out.extend((default.as_f64().ok_or_else(wrong)? as f32).to_le_bytes()),
            RegularType::Double => out.extend(default.as_f64().ok_or_else(wrong)?.to_le_bytes()),
            RegularType::String => counted(default.as_str().ok_or_else(wrong)?.as_bytes(), out)?,
            RegularType::Bytes => counted(&bytes_of(default).ok_or_else(wrong)?, out)?,
            RegularType::Fixed(fixed) => {
                out.extend(bytes_of(default).filter(|bytes| bytes.len() == fixed.size).ok_or_else(wrong)?);
            }
            RegularType::Enum(symbols) => {
                let symbol = default.as_str().ok_or_else(wrong)?;
                let place = symbols.symbols.iter().position(|known| known == symbol);
                self.look(place.map_or(symbols.symbols.len(), |place| place + 1))?;
                out.extend(index(place.ok_or_else(wrong)?)?);
            }
            RegularType::Array(array) => {
                let items = default.as_array().ok_or_else(wrong)?;
                if !items.is_empty() {
                    out.extend(index(items.len())?);
                }
                for item in items {
                    self.default(item, array.items, out, depth + 1)?;
                }
                out.push(0);
            }
            RegularType::Map(map) => {
                let entries = default.as_object().ok_or_else(wrong)?;
                if !entries.is_empty() {
                    out.extend(index(entries.len())?);
                }
                for (key, value) in entries {
                    counted(key.as_bytes(), out)?;
                    self.default(value, map.values, out, depth + 1)?;
                }
                out.push(0);
            }
            RegularType::Record(record) => {
                let object = default.as_object().ok_or_else(wrong)?;
                let told = self.definitions.get(record.name.fully_qualified_name()).copied();
                for (number, field) in record.fields.iter().enumerate() {
                    let own = || told?.get("fields")?.get(number)?.get("default");
                    let value = object.get(&field.name).or_else(own).ok_or_else(wrong)?;
                    self.default(value, field.type_, out, depth + 1)?;
                }
            }
            RegularType::Union(union) => {
                let start = out.len();
                for (branch, variant) in union.variants.iter().enumerate() {
                    out.extend(index(branch)?);
                    match self.default(default, *variant, out, depth + 1) {
                        Err(_) if self.values > 0 => out.truncate(start),
                        taken => return taken,
                    }
                }
                return Err(wrong());
            }
        }
        Ok(())
    }
}

fn node(schema: &SchemaMut, key: SchemaKey) -> Result<&SchemaNode, String> {
    schema.get(key).ok_or_else(|| "it names a type that is not there".to_string())
}

/// The place of each name, of one that comes twice the first.
fn places<'n>(names: impl Iterator<Item = &'n str>) -> HashMap<&'n str, usize> {
    let mut places = HashMap::new();
    for (place, name) in names.enumerate() {
        places.entry(name).or_insert(place);
    }
    places
}

fn name_of(of: &RegularType) -> &str {
    of.name().map_or("", Name::fully_qualified_name)
}

fn aliases(told: &Map<String, Json>) -> impl Iterator<Item = &str> {
    told.get("aliases").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

/// Text whose code points are bytes.
fn bytes_of(default: &Json) -> Option<Vec<u8>> {
    default.as_str()?.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect()
}

/// Refuses numbers and bytes that mean one thing to the writer and another one to the reader: milliseconds are no microseconds.
/// What means nothing to one of them is read as the reader says.
fn same_meaning(writer: &SchemaNode, reader: &SchemaNode) -> Result<(), String> {
    let (old, new) = (meaning(writer), meaning(reader));
    if old == new || old == Meaning::Itself || new == Meaning::Itself {
        return Ok(());
    }
    let logical = |node: &SchemaNode| match &node.logical_type {
        Some(LogicalType::Decimal(decimal)) => format!("decimal of scale {}", decimal.scale),
        Some(other) => other.as_str().to_string(),
        None => "itself".to_string(),
    };
    Err(format!("it was {} and is {}", logical(writer), logical(reader)))
}

/// How values of `writer`, which has no parts, are read as `reader`, if they are.
fn promoted(writer: &RegularType, reader: &RegularType) -> Option<Step> {
    use RegularType::{Boolean, Bytes, Double, Float, Int, Long, Null, String};
    Some(match (writer, reader) {
        (Null, Null) => Step::Copy(Kind::Bytes(0)),
        (Boolean, Boolean) => Step::Copy(Kind::Bytes(1)),
        (Float, Float) => Step::Copy(Kind::Bytes(4)),
        (Double, Double) => Step::Copy(Kind::Bytes(8)),
        (Int, Int | Long) | (Long, Long) => Step::Copy(Kind::Number),
        (Int | Long, Float) => Step::Float(false),
        (Int | Long, Double) => Step::Float(true),
        (Float, Double) => Step::Widen,
        (Bytes | String, Bytes) | (String, String) => Step::Copy(Kind::Counted),
        (Bytes, String) => Step::Text,
        _ => return None,
    })
}

fn kind(of: &RegularType) -> &'static str {
    match of {
        RegularType::Null => "null",
        RegularType::Boolean => "boolean",
        RegularType::Int => "int",
        RegularType::Long => "long",
        RegularType::Float => "float",
        RegularType::Double => "double",
        RegularType::Bytes => "bytes",
        RegularType::String => "string",
        RegularType::Array(_) => "array",
        RegularType::Map(_) => "map",
        RegularType::Record(_) => "record",
        RegularType::Enum(_) => "enum",
        RegularType::Fixed(_) => "fixed",
        RegularType::Union(_) => "union",
    }
}

fn number_as_data(number: i64) -> Result<Vec<u8>, String> {
    let data = apache_avro::to_avro_datum(&apache_avro::Schema::Long, number);
    data.map_err(|error| error.to_string())
}

/// A place, or how many there are, as data.
fn index(place: usize) -> Result<Vec<u8>, String> {
    number_as_data(i64::try_from(place).map_err(|error| error.to_string())?)
}

fn counted(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    out.extend(index(bytes.len())?);
    out.extend(bytes);
    Ok(())
}

impl Resolution {
    /// `data`, which is whole and nests within bounds, as data of the reader.
    ///
    /// # Errors
    /// It holds a value that the reader has no place for, or becomes more than a row can be.
    pub fn apply(&self, data: &[u8]) -> Result<Vec<u8>, String> {
        let mut copy = Copy { steps: &self.steps, data, out: Vec::with_capacity(data.len()) };
        copy.value(0, 0)?;
        match copy.data {
            [] => Ok(copy.out),
            rest => Err(format!("{} bytes are behind its value", rest.len())),
        }
    }
}

/// Data on its way.
struct Copy<'a> {
    steps: &'a [Step],
    /// What is still to be read.
    data: &'a [u8],
    out: Vec<u8>,
}

const SHORT: &str = "it ends within a value";

impl<'a> Copy<'a> {
    fn value(&mut self, step: usize, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("values nest deeper than {DEPTH_MAX}"));
        }
        let steps = self.steps;
        match &steps[step] {
            Step::Copy(kind) => {
                let bytes = self.take(*kind)?;
                self.add(bytes)?;
            }
            Step::Text => {
                let before = self.data;
                self.number()?;
                let length = before.len() - self.data.len();
                self.data = before;
                let bytes = self.take(Kind::Counted)?;
                std::str::from_utf8(&bytes[length..]).map_err(|_| "bytes that are no text".to_string())?;
                self.add(bytes)?;
            }
            Step::Float(is_double) => {
                let number = self.number()?;
                match is_double {
                    true => self.add(&(number as f64).to_le_bytes())?,
                    false => self.add(&(number as f32).to_le_bytes())?,
                }
            }
            Step::Widen => {
                let bytes = self.take(Kind::Bytes(4))?;
                let number = f32::from_le_bytes(bytes.try_into().map_err(|_| SHORT)?);
                self.add(&f64::from(number).to_le_bytes())?;
            }
            Step::Enum(symbols) => {
                let symbol = usize::try_from(self.number()?).ok().and_then(|symbol| symbols.get(symbol));
                self.add(symbol.ok_or("a symbol that the enum has not")?)?;
            }
            Step::Array(items) => self.blocks(*items, false, depth)?,
            Step::Map(values) => self.blocks(*values, true, depth)?,
            Step::Record(fields) => self.record(fields, depth)?,
            Step::Union(branches) => {
                let branch = usize::try_from(self.number()?).ok().and_then(|branch| branches.get(branch));
                self.value(*branch.ok_or("a branch that the union has not")?, depth + 1)?;
            }
            Step::Branch(branch, step) => {
                self.add(branch)?;
                self.value(*step, depth + 1)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, fields: &Fields, depth: usize) -> Result<(), String> {
        let start = self.out.len();
        let mut parts = Vec::new();
        for (step, number) in &fields.written {
            let from = self.out.len();
            self.value(*step, depth + 1)?;
            match number {
                None => self.out.truncate(from),
                Some(number) if !fields.is_in_order => parts.push((*number, from - start..self.out.len() - start)),
                Some(_) => {}
            }
        }
        if fields.is_in_order {
            return fields.defaults.iter().flatten().try_for_each(|default| self.add(default));
        }
        let written = self.out.split_off(start);
        parts.sort_unstable_by_key(|(number, _)| *number);
        let mut parts = parts.into_iter();
        for default in &fields.defaults {
            match default {
                Some(default) => self.add(default)?,
                None => self.add(parts.next().map_or(&[][..], |(_, part)| &written[part]))?,
            }
        }
        Ok(())
    }

    fn blocks(&mut self, items: usize, has_keys: bool, depth: usize) -> Result<(), String> {
        loop {
            let count = self.number()?;
            if count < 0 {
                // The size of the block: it may become another one.
                self.number()?;
            }
            self.add(&number_as_data(count.checked_abs().ok_or("a block of too many values")?)?)?;
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count.unsigned_abs() {
                if has_keys {
                    let key = self.take(Kind::Counted)?;
                    self.add(key)?;
                }
                self.value(items, depth + 1)?;
            }
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        match apache_avro::from_avro_datum(&apache_avro::Schema::Long, &mut self.data, None) {
            Ok(Value::Long(number)) => Ok(number),
            Ok(_) => Err("a number is none".to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The bytes of the next value.
    fn take(&mut self, kind: Kind) -> Result<&'a [u8], String> {
        let before = self.data;
        let length = match kind {
            Kind::Bytes(length) => length,
            Kind::Number => {
                self.number()?;
                0
            }
            Kind::Counted => usize::try_from(self.number()?).map_err(|_| SHORT)?,
        };
        self.data = self.data.get(length..).ok_or(SHORT)?;
        Ok(&before[..before.len() - self.data.len()])
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.out.len() + bytes.len() > DATA_BYTES_MAX {
            return Err(format!("it becomes more than {DATA_BYTES_MAX} bytes"));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}
