//! JSON to VRL's values and back, without a silent change.

use crate::decode::{DecodeError, Rows, Writer};
use crate::parse::text::quote;
use crate::record::Record;
use chrono::SecondsFormat;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::btree_map::Entry;
use std::fmt;
use vrl::value::{KeyString, ObjectMap, Value};

/// Numbers from here on are no longer exact. (As a double: 2^63.)
const TOO_LARGE: f64 = 9_223_372_036_854_775_808.0;

/// The value of a row.
///
/// # Errors
/// It holds a number that VRL cannot hold exactly, or two members of one name, of which one would be lost.
pub(super) fn read(row: &str) -> Result<Value, DecodeError> {
    serde_json::from_str::<Read<true>>(row)
        .map(|read| read.0)
        .map_err(|error| DecodeError(format!("before the transform: {error}")))
}

/// The value of a row that is only looked at: of names that repeat the first counts, as for event times and templates.
///
/// # Errors
/// It holds a number that VRL cannot hold exactly.
pub(super) fn read_for_filter(row: &str) -> Result<Value, DecodeError> {
    serde_json::from_str::<Read<false>>(row)
        .map(|read| read.0)
        .map_err(|error| DecodeError(format!("before the filter: {error}")))
}

/// What `%` holds.
pub(super) fn of_record(record: &Record<'_>) -> Value {
    let bytes = |bytes: Option<&[u8]>| bytes.map_or(Value::Null, Value::from);
    let mut headers = ObjectMap::new();
    // The last of a name counts.
    for index in 0..record.headers.len() {
        let (name, value) = record.headers.get(index);
        headers.insert(name.into(), bytes(value));
    }
    let entries: [(&str, Value); 6] = [
        ("topic", record.topic.into()),
        ("partition", Value::Integer(record.partition.into())),
        ("offset", Value::Integer(record.offset)),
        ("timestamp", record.timestamp.map_or(Value::Null, Value::Integer)),
        ("key", bytes(record.key)),
        ("headers", Value::Object(headers)),
    ];
    Value::Object(entries.into_iter().map(|(name, value)| (KeyString::from(name), value)).collect())
}

/// Adds `value` as a row.
pub(super) fn write(value: &Value, out: &mut Rows) -> Result<(), DecodeError> {
    out.add(|writer| write_value(value, writer))
}

fn write_value(value: &Value, out: &mut Writer<'_>) -> Result<(), DecodeError> {
    match value {
        Value::Null => out.raw("null"),
        Value::Boolean(value) => out.raw(if *value { "true" } else { "false" }),
        Value::Integer(value) => out.raw(&value.to_string()),
        // What a function parsed may have been a whole number: VRL makes a double of it, which is another number.
        Value::Float(value) if value.abs() >= TOO_LARGE => {
            return Err(DecodeError(format!(
                "the transform gives the number {value}: from 2^63 on it may not be the one that was written"
            )));
        }
        Value::Float(value) => out.float(value.into_inner()),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => out.string(text),
            Err(_) => {
                let shown = quote(&String::from_utf8_lossy(bytes));
                return Err(DecodeError(format!(
                    "the transform gives bytes that are no text, {shown}: encode_base64 makes them one"
                )));
            }
        },
        Value::String(text) => out.string(text),
        Value::Regex(pattern) => out.string(pattern.as_str()),
        Value::Timestamp(at) => out.string(&at.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        Value::Array(elements) => out.array(elements, |out, element| write_value(element, out))?,
        Value::Object(fields) => {
            let mut members = out.object()?;
            for (name, value) in fields {
                out.name(&mut members, name)?;
                write_value(value, out)?;
            }
            out.end_object();
        }
    }
    Ok(())
}

/// JSON; `ONCE`: no name repeats in an object.
struct Read<const ONCE: bool>(Value);

impl<'de, const ONCE: bool> Deserialize<'de> for Read<ONCE> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadVisitor)
    }
}

struct ReadVisitor<const ONCE: bool>;

impl<'de, const ONCE: bool> Visitor<'de> for ReadVisitor<ONCE> {
    type Value = Read<ONCE>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Read(Value::Null))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Read(Value::Boolean(value)))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Read(Value::Integer(value)))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        i64::try_from(value).map(|value| Read(Value::Integer(value))).map_err(|_| too_large(value))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        if value.abs() >= TOO_LARGE {
            return Err(too_large(value));
        }
        Ok(Read(Value::from_f64_or_zero(value)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Read(Value::from(text)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Read::<ONCE>(value)) = elements.next_element()? {
            values.push(value);
        }
        Ok(Read(Value::Array(values)))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut fields = ObjectMap::new();
        while let Some(name) = members.next_key::<String>()? {
            let Read::<ONCE>(value) = members.next_value()?;
            match fields.entry(KeyString::from(name)) {
                Entry::Vacant(field) => _ = field.insert(value),
                Entry::Occupied(field) if ONCE => {
                    return Err(A::Error::custom(format!("the name {} comes twice", quote(field.key()))));
                }
                Entry::Occupied(_) => {}
            }
        }
        Ok(Read(Value::Object(fields)))
    }
}

fn too_large<E: Error>(number: impl fmt::Display) -> E {
    E::custom(format!("a program cannot hold the number {number} exactly"))
}
