//! Protocol Buffers by one message type: the canonical JSON of proto3, with 64-bit integers as numbers, names of fields as in
//! the `.proto` file and in the order of their names, and fields that are not set left out where the message tells presence and with their defaults elsewhere.

use super::rows::{ROWS_BYTES_MAX, Writer, too_large};
use super::{DecodeError, Decoder, Rows};
use crate::parse::json::{DEPTH_MAX, levels};
use crate::record::Record;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, SerializeOptions, Value};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashSet};
use std::io;

/// Messages of one type.
pub(super) struct Protobuf {
    message: MessageDescriptor,
    ignores_unknown: bool,
    has_wrapped: bool,
    options: SerializeOptions,
}

impl Protobuf {
    /// `descriptors`: base64 of a `FileDescriptorSet`; `message`: the full name of the type.
    pub(super) fn new(descriptors: &str, message: &str, ignores_unknown: bool) -> Result<Self, String> {
        Self::of(message_of(descriptors, message)?, ignores_unknown)
    }

    /// Messages of the type `message`.
    pub(super) fn of(message: MessageDescriptor, ignores_unknown: bool) -> Result<Self, String> {
        if holds(&message, ANY) {
            let message = message.full_name();
            return Err(format!(
                "{message} holds google.protobuf.Any, which is not decoded: keep such payloads with decode = \"raw\""
            ));
        }
        let options = SerializeOptions::new()
            .stringify_64_bit_integers(false)
            .use_proto_field_name(true)
            .skip_default_fields(false);
        let has_wrapped = holds(&message, WRAPPED);
        Ok(Self { message, ignores_unknown, has_wrapped, options })
    }
}

/// The type called `message`, its full name, in base64 of a `FileDescriptorSet`.
///
/// # Errors
/// They are no descriptors, or there is no such message: the text then begins with `no message`. In words for the person
/// who wrote it.
pub fn message_of(descriptors: &str, message: &str) -> Result<MessageDescriptor, String> {
    let bytes = BASE64.decode(descriptors).map_err(|error| format!("the descriptors are not base64: {error}"))?;
    let not_descriptors = |what: &dyn std::fmt::Display| {
        format!("not a FileDescriptorSet with all that it imports (protoc --include_imports): {what}")
    };
    // The library panics over some sets that contradict themselves, instead of saying where.
    let pool = std::panic::catch_unwind(|| DescriptorPool::decode(bytes.as_slice()))
        .map_err(|_| not_descriptors(&"it contradicts itself"))?
        .map_err(|error| not_descriptors(&error))?;
    pool.get_message_by_name(message).ok_or_else(|| {
        let known: Vec<String> = pool.all_messages().map(|known| known.full_name().to_string()).take(20).collect();
        format!("no message {message}; there are {}", known.join(", "))
    })
}

impl Decoder for Protobuf {
    fn decode(&self, _: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let message = DynamicMessage::decode(self.message.clone(), payload)
            .map_err(|error| DecodeError(format!("not a {}: {error}", self.message.full_name())))?;
        if !self.ignores_unknown
            && let Some(place) = unknown_field(&message)
        {
            return Err(DecodeError(format!(
                "field {place} is not of the schema; unknown = \"ignore\" leaves such fields out"
            )));
        }
        if self.has_wrapped && message.fields().any(|(_, value)| is_odd(value, false)) {
            return Err(DecodeError(
                "a wrapped number is infinite or no number, which its JSON cannot tell".to_string(),
            ));
        }
        let mut json = serde_json::Serializer::new(Bounded(Vec::new()));
        message.serialize_with_options(&mut json, &self.options).map_err(|error| match error.is_io() {
            true => too_large(),
            false => DecodeError(format!("{} as JSON: {error}", self.message.full_name())),
        })?;
        drop(message);
        let text = String::from_utf8(json.into_inner().0).map_err(|error| DecodeError(error.to_string()))?;
        if levels(&text) > DEPTH_MAX {
            return Err(DecodeError(format!("values nest deeper than {DEPTH_MAX}")));
        }
        rows.add(|out| sorted(&text, out))
    }
}

/// Takes as many bytes as the rows of a record may have: a few bytes can stand for very many, as fields that are not set have
/// their defaults.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > ROWS_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `json` with the names of each object in order: the library keeps maps in an order of the moment.
fn sorted(json: &str, out: &mut Writer<'_>) -> Result<(), DecodeError> {
    let broken = |error: serde_json::Error| DecodeError(error.to_string());
    match json.as_bytes().first() {
        Some(b'{') => {
            let fields: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(broken)?;
            let mut members = out.object()?;
            for (name, value) in fields {
                out.name(&mut members, &name)?;
                sorted(value.get(), out)?;
            }
            out.end_object();
            Ok(())
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(json).map_err(broken)?;
            out.array(elements, |out, element| sorted(element.get(), out))
        }
        _ => {
            out.raw(json);
            Ok(())
        }
    }
}

/// Messages of any type: what is in them is decoded without a bound.
const ANY: &[&str] = &["google.protobuf.Any"];
/// Numbers that the library writes as null where they are no numbers.
const WRAPPED: &[&str] = &["google.protobuf.FloatValue", "google.protobuf.DoubleValue", "google.protobuf.Value"];

/// Whether `message` is one of `names`, or holds one.
fn holds(message: &MessageDescriptor, names: &[&str]) -> bool {
    let mut seen = HashSet::from([message.full_name().to_string()]);
    let mut open = vec![message.clone()];
    // One after the other, not inside each other: types can refer to others in long chains.
    while let Some(message) = open.pop() {
        if names.contains(&message.full_name()) {
            return true;
        }
        for field in message.fields() {
            if let Some(inner) = field.kind().as_message()
                && seen.insert(inner.full_name().to_string())
            {
                open.push(inner.clone());
            }
        }
    }
    false
}

/// Whether a value of [`WRAPPED`] in `value` is infinite or no number.
fn is_odd(value: &Value, is_wrapped: bool) -> bool {
    match value {
        Value::F32(number) => is_wrapped && !number.is_finite(),
        Value::F64(number) => is_wrapped && !number.is_finite(),
        Value::Message(message) => {
            let is_wrapped = WRAPPED.contains(&message.descriptor().full_name());
            message.fields().any(|(_, value)| is_odd(value, is_wrapped))
        }
        Value::List(values) => values.iter().any(|value| is_odd(value, false)),
        Value::Map(entries) => entries.values().any(|value| is_odd(value, false)),
        _ => false,
    }
}

/// The first field that the schema does not have: names of the fields it is in, and its number. Messages nest at most as deep
/// as decoding allows (100).
fn unknown_field(message: &DynamicMessage) -> Option<String> {
    if let Some(field) = message.unknown_fields().next() {
        return Some(field.number().to_string());
    }
    message.fields().find_map(|(field, value)| unknown_in(value).map(|inner| format!("{}.{inner}", field.name())))
}

fn unknown_in(value: &Value) -> Option<String> {
    match value {
        Value::Message(message) => unknown_field(message),
        Value::List(values) => values.iter().find_map(unknown_in),
        Value::Map(entries) => entries.values().filter_map(unknown_in).min(),
        _ => None,
    }
}
