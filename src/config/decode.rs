//! `decode` of an archive: what payloads are, and how they become rows.

use super::error::did_you_mean;
use super::raw::{Field, Section};
use super::shape::{self, Shape};
use super::tree::Value;
use super::{program, time};
use crate::decode;
use crate::layout::{Decode, RegistryFormat, TextFields, TextType};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::BTreeMap;
use std::path::Path;

const TYPES: &[(&str, &Shape)] = &[
    ("json", &shape::DECODE_JSON),
    ("raw", &shape::DECODE_RAW),
    ("ltsv", &shape::DECODE_LTSV),
    ("csv", &shape::DECODE_CSV),
    ("regex", &shape::DECODE_REGEX),
    ("grok", &shape::DECODE_GROK),
    ("syslog", &shape::DECODE_SYSLOG),
    ("msgpack", &shape::DECODE_MSGPACK),
    ("avro", &shape::DECODE_AVRO),
    ("protobuf", &shape::DECODE_PROTOBUF),
    ("json_schema", &shape::DECODE_JSON_SCHEMA),
];
const NAMES: &str = "a list of names, each once: an array of as many elements becomes an object with them";
const COLUMNS: &str = "a list of names, each once: one for each value of a line";
const VALUE_TYPES: &[(&str, TextType)] =
    &[("int", TextType::Int), ("float", TextType::Float), ("bool", TextType::Bool), ("json", TextType::Json)];

/// Decoding where the file says nothing.
pub(super) const DEFAULT: Decode = Decode::Json { validate: true, unfold: false, names: Vec::new() };

/// What the file says, or `None` where that is wrong and has been reported.
pub(super) fn decode(field: &Field<'_>, base_dir: &Path) -> Option<Decode> {
    let kinds: Vec<_> = TYPES.iter().enumerate().map(|(index, (name, _))| (*name, index)).collect();
    let choose = |field: &Field<'_>| field.choice(&kinds);
    if !field.is_table() {
        let kind = choose(field)?;
        // As an empty section of that type: what it needs is reported there.
        return of_type(&field.nothing(TYPES[kind].1), TYPES[kind].0, field, base_dir);
    }
    let kind = match field.peek("type") {
        Some(kind) => choose(&kind)?,
        None => 0,
    };
    of_type(&field.section(TYPES[kind].1)?, TYPES[kind].0, field, base_dir)
}

fn of_type(section: &Section<'_>, kind: &str, field: &Field<'_>, base_dir: &Path) -> Option<Decode> {
    let unfold = || section.field("unfold").and_then(|field| field.flag()).unwrap_or(false);
    let array_names = || section.field("names").and_then(|field| names(&field, NAMES)).unwrap_or_default();
    let decode = match kind {
        "raw" => Decode::Raw,
        "ltsv" => Decode::Ltsv { fields: fields(section) },
        "csv" => Decode::Csv {
            columns: match section.field("columns") {
                Some(field) => names(&field, COLUMNS)?,
                None => return needed(section, "columns", COLUMNS),
            },
            delimiter: section.field("delimiter").map_or(Some(','), |field| letter(&field))?,
            quote: match section.field("quote") {
                Some(field) if field.is_off() => None,
                Some(field) => Some(letter(&field)?),
                None => Some('"'),
            },
            unfold: unfold(),
            fields: fields(section),
        },
        "regex" => Decode::Regex { pattern: pattern(section, REGEX)?, fields: fields(section) },
        "grok" => Decode::Grok {
            pattern: pattern(section, GROK)?,
            patterns: section.field("patterns").and_then(|field| patterns(&field)).unwrap_or_default(),
            fields: fields(section),
        },
        "syslog" => Decode::Syslog {
            zone: section.field("zone").and_then(|field| time::zone(&field)).unwrap_or_else(|| "UTC".to_string()),
        },
        "avro" if by_registry(section, &["schema"]) => {
            Decode::Registry { format: RegistryFormat::Avro, ignore_unknown: false }
        }
        "protobuf" if by_registry(section, &["descriptors", "message"]) => {
            Decode::Registry { format: RegistryFormat::Protobuf, ignore_unknown: ignores_unknown(section)? }
        }
        "json_schema" => Decode::Registry { format: RegistryFormat::JsonSchema, ignore_unknown: false },
        "avro" => Decode::Avro {
            schema: match section.field("schema") {
                Some(field) => program::text_or_file(&field, base_dir, ".avsc", AVRO)?,
                None => return needed(section, "schema", AVRO),
            },
        },
        "protobuf" => Decode::Protobuf {
            descriptors: match section.field("descriptors") {
                Some(field) => descriptors(&field, base_dir)?,
                None => return needed(section, "descriptors", DESCRIPTORS),
            },
            message: match section.field("message") {
                Some(field) => field.text(MESSAGE)?.to_string(),
                None => return needed(section, "message", MESSAGE),
            },
            ignore_unknown: ignores_unknown(section)?,
        },
        "msgpack" => Decode::Msgpack { unfold: unfold(), names: array_names() },
        _ => Decode::Json {
            validate: section.field("validate").and_then(|field| field.flag()).unwrap_or(true),
            unfold: unfold(),
            names: array_names(),
        },
    };
    if let Decode::Csv { delimiter, quote: Some(quote), .. } = decode
        && delimiter == quote
    {
        section.cross("quote", "the delimiter, too".to_string(), "another character, or off".to_string());
    }
    if decode.registry_format().is_some() {
        return Some(decode);
    }
    let compiled = decode::compile(&decode);
    if let Ok(Some(decoder)) = &compiled {
        refuse_unknown_types(section, decoder.fields());
    }
    if let Err(problem) = compiled {
        let pattern = match decode {
            Decode::Regex { .. } | Decode::Grok { .. } => section.field("pattern"),
            Decode::Avro { .. } => section.field("schema"),
            Decode::Protobuf { .. } if problem.starts_with("no message") => section.field("message"),
            Decode::Protobuf { .. } => section.field("descriptors"),
            _ => None,
        };
        let allowed = match kind {
            "grok" => GROK,
            "avro" => AVRO,
            "protobuf" if problem.starts_with("no message") => MESSAGE,
            "protobuf" => DESCRIPTORS,
            _ => REGEX,
        };
        return pattern.as_ref().unwrap_or(field).wrong(problem, allowed);
    }
    if let Decode::Json { validate: false, .. } = decode
        && (unfold() || !array_names().is_empty())
    {
        section.cross(
            "validate",
            "false, but unfold and names read every payload in full".to_string(),
            "true, or neither unfold nor names".to_string(),
        );
    }
    Some(decode)
}

/// Whether payloads name schemas of a registry. `own`: the keys of a schema that stands in the file instead.
fn by_registry(section: &Section<'_>, own: &[&'static str]) -> bool {
    let given = section.field("registry").and_then(|field| field.flag()).unwrap_or(false);
    for key in own.iter().filter(|key| given && section.has(key)) {
        section.cross(
            key,
            "given, but registry = true".to_string(),
            "a schema of one's own, or registry = true".to_string(),
        );
    }
    given
}

fn ignores_unknown(section: &Section<'_>) -> Option<bool> {
    match section.field("unknown") {
        Some(field) => field.choice(&[("dead_letter", false), ("ignore", true)]),
        None => Some(false),
    }
}

/// Refuses types of fields that no row can have.
fn refuse_unknown_types(section: &Section<'_>, known: Option<Vec<String>>) {
    let Some(known) = known else { return };
    let Some(types) = section.field("types").filter(Field::is_table) else { return };
    for (name, field) in types.entries("").unwrap_or_default() {
        if !known.iter().any(|known| known == name) {
            let hint = did_you_mean(name, known.iter().map(String::as_str));
            field.wrong::<()>(format!("no field of that name{hint}"), known.join(", "));
        }
    }
}

const REGEX: &str = "a regular expression with named groups: (?<name>…)";
const AVRO: &str = "an Avro schema, or the path of a file with one that ends in .avsc";
pub(super) const DESCRIPTORS: &str =
    "the path of a file that protoc --include_imports --descriptor_set_out wrote, or its base64";
pub(super) const MESSAGE: &str = "the full name of a message in the descriptors, with its package";
const GROK: &str = "a grok pattern with fields: %{NAME:field}";

fn needed<T>(section: &Section<'_>, key: &'static str, allowed: &str) -> Option<T> {
    if !section.has(key) {
        section.missing(key, "missing", allowed);
    }
    None
}

/// Base64 of a file's bytes; what is no path of a file is base64 already.
pub(super) fn descriptors(field: &Field<'_>, base_dir: &Path) -> Option<String> {
    let text = field.text(DESCRIPTORS)?;
    let path = base_dir.join(text);
    match std::fs::read(&path) {
        Ok(bytes) => Some(BASE64.encode(bytes)),
        Err(_) if BASE64.decode(text).is_ok() => Some(text.to_string()),
        Err(error) if field.node.variables.is_empty() => {
            field.wrong(format!("{} cannot be read: {error}", path.display()), DESCRIPTORS)
        }
        Err(error) => field.wrong(format!("the file cannot be read: {error}"), DESCRIPTORS),
    }
}

fn pattern(section: &Section<'_>, allowed: &str) -> Option<String> {
    match section.field("pattern") {
        Some(field) => field.text(allowed).map(str::to_string),
        None => needed(section, "pattern", allowed),
    }
}

fn names(field: &Field<'_>, allowed: &str) -> Option<Vec<String>> {
    let names = each_once(field, allowed)?;
    if names.is_empty() { field.wrong("empty", allowed) } else { Some(names) }
}

/// A list of names, each once; perhaps empty.
pub(super) fn each_once(field: &Field<'_>, allowed: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for item in field.list(allowed)? {
        let name = item.text(allowed)?;
        if names.iter().any(|known| known == name) {
            return item.wrong("named twice", allowed);
        }
        names.push(name.to_string());
    }
    Some(names)
}

fn patterns(field: &Field<'_>) -> Option<BTreeMap<String, String>> {
    const PATTERNS: &str = "names with patterns: { NAME = \"…\" }";
    let entries = field.entries(PATTERNS)?;
    entries.into_iter().map(|(name, field)| Some((name.to_string(), field.text(PATTERNS)?.to_string()))).collect()
}

/// One letter of ASCII, or `\t`.
fn letter(field: &Field<'_>) -> Option<char> {
    const LETTER: &str = "one character of ASCII";
    let text = match &field.node.value {
        Value::Text(text) => text.as_str(),
        _ => field.text(LETTER)?,
    };
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if letter.is_ascii() && !matches!(letter, '\n' | '\r') => Some(letter),
        _ => field.wrong("not one character of ASCII", LETTER),
    }
}

fn fields(section: &Section<'_>) -> TextFields {
    const TYPES: &str = "names of fields with int, float, bool or json: { status = \"int\" }";
    const NULLS: &str = "texts that stand for null: [\"-\", \"\"]";
    let types = section.field("types").and_then(|field| {
        let entries = field.entries(TYPES)?;
        entries.into_iter().map(|(name, field)| Some((name.to_string(), field.choice(VALUE_TYPES)?))).collect()
    });
    let nulls = section.field("nulls").and_then(|field| {
        let text = |item: Field<'_>| match &item.node.value {
            Value::Text(text) => Some(text.clone()),
            _ => item.text(NULLS).map(str::to_string),
        };
        field.one_or_many(NULLS)?.into_iter().map(text).collect()
    });
    TextFields { types: types.unwrap_or_default(), nulls: nulls.unwrap_or_default() }
}
