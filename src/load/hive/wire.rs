//! Thrift's values without generated code: what is read keeps every field, so that it can be written back whole.
//!
//! Apache's `thrift` reads and writes the binary protocol; here is what the values are. Pure.

use std::collections::BTreeMap;
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TFieldIdentifier, TInputProtocol, TListIdentifier, TMapIdentifier,
    TMessageIdentifier, TMessageType, TOutputProtocol, TSetIdentifier, TStructIdentifier, TType,
};
use thrift::{ProtocolErrorKind, TConfiguration, TransportErrorKind};

/// Most bytes of an answer. A table of a thousand columns has 100,000.
pub(super) const ANSWER_BYTES_MAX: usize = 8 << 20;
/// How deep values lie in each other at most. A table has 5.
const DEPTH_MAX: u32 = 32;

/// A struct's fields by their ids.
pub(super) type Fields = BTreeMap<i16, Value>;

/// Any value of thrift.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    Double(f64),
    /// A string, or bytes: thrift has one type for both.
    Bytes(Vec<u8>),
    Uuid([u8; 16]),
    Struct(Fields),
    List(TType, Vec<Value>),
    Set(TType, Vec<Value>),
    Map(TType, TType, Vec<(Value, Value)>),
}

/// What came back for a call.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// The result: field 0 what was asked for, others exceptions.
    Reply(Fields),
    /// Thrift's own exception: no such call, or something that the interface does not declare.
    Failure(String),
}

/// Why bytes are no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// There is more to come.
    Incomplete,
    /// They never will be.
    Wrong(String),
}

pub(super) fn fields<const N: usize>(fields: [(i16, Value); N]) -> Fields {
    Fields::from(fields)
}

pub(super) fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().to_vec())
}

pub(super) fn texts(items: impl IntoIterator<Item = impl AsRef<str>>) -> Value {
    Value::List(TType::String, items.into_iter().map(|item| text(item.as_ref())).collect())
}

pub(super) fn structs(items: impl IntoIterator<Item = Fields>) -> Value {
    Value::List(TType::Struct, items.into_iter().map(Value::Struct).collect())
}

pub(super) fn text_map(entries: &BTreeMap<String, String>) -> Value {
    let entries = entries.iter().map(|(name, value)| (text(name), text(value)));
    Value::Map(TType::String, TType::String, entries.collect())
}

impl Value {
    /// A string, where it is one.
    pub(super) fn as_text(&self) -> Option<String> {
        match self {
            Self::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// The elements of a list or set; none of anything else.
    pub(super) fn items(&self) -> &[Self] {
        match self {
            Self::List(_, items) | Self::Set(_, items) => items,
            _ => &[],
        }
    }

    pub(super) fn as_fields(&self) -> Option<&Fields> {
        match self {
            Self::Struct(fields) => Some(fields),
            _ => None,
        }
    }

    /// A map of strings; of anything else nothing.
    pub(super) fn as_text_map(&self) -> BTreeMap<String, String> {
        let Self::Map(_, _, entries) = self else { return BTreeMap::new() };
        entries.iter().filter_map(|(name, value)| Some((name.as_text()?, value.as_text()?))).collect()
    }

    const fn kind(&self) -> TType {
        match self {
            Self::Bool(_) => TType::Bool,
            Self::I8(_) => TType::I08,
            Self::I16(_) => TType::I16,
            Self::I32(_) => TType::I32,
            Self::I64(_) => TType::I64,
            Self::Double(_) => TType::Double,
            Self::Bytes(_) => TType::String,
            Self::Uuid(_) => TType::Uuid,
            Self::Struct(_) => TType::Struct,
            Self::List(..) => TType::List,
            Self::Set(..) => TType::Set,
            Self::Map(..) => TType::Map,
        }
    }
}

/// The bytes of a call.
///
/// # Errors
/// What `thrift` says: something is longer than its lengths can tell.
pub(super) fn call(method: &str, sequence: i32, arguments: &Fields) -> thrift::Result<Vec<u8>> {
    message(&TMessageIdentifier::new(method, TMessageType::Call, sequence), arguments)
}

/// The bytes of a message.
pub(super) fn message(head: &TMessageIdentifier, body: &Fields) -> thrift::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut out = TBinaryOutputProtocol::new(&mut bytes, true);
    out.write_message_begin(head)?;
    write_struct(&mut out, body)?;
    out.write_message_end()?;
    Ok(bytes)
}

/// The answer to the call `sequence` in `bytes`.
///
/// # Errors
/// [`Unread`].
pub(super) fn answer(bytes: &[u8], sequence: i32) -> Result<Answer, Unread> {
    let limit = Some(ANSWER_BYTES_MAX);
    let config = TConfiguration::builder().max_message_size(limit).max_frame_size(limit);
    let config = config.max_string_size(limit).max_container_size(limit).build().map_err(unread)?;
    let mut rest = bytes;
    let mut input = TBinaryInputProtocol::with_config(&mut rest, true, config);
    let head = input.read_message_begin().map_err(unread)?;
    let body = read_struct(&mut input, 0).map_err(unread)?;
    if head.sequence_number != sequence {
        return Err(Unread::Wrong(format!("an answer to call {}, not to {sequence}", head.sequence_number)));
    }
    if !rest.is_empty() {
        return Err(Unread::Wrong(format!("{} bytes behind the answer", rest.len())));
    }
    match head.message_type {
        TMessageType::Reply => Ok(Answer::Reply(body)),
        TMessageType::Exception => Ok(Answer::Failure(body.get(&1).and_then(Value::as_text).unwrap_or_default())),
        TMessageType::Call | TMessageType::OneWay => Err(Unread::Wrong("a call instead of an answer".to_string())),
    }
}

fn unread(error: thrift::Error) -> Unread {
    match error {
        thrift::Error::Transport(error) if error.kind == TransportErrorKind::EndOfFile => Unread::Incomplete,
        error => Unread::Wrong(said(&error)),
    }
}

/// What the error tells beyond its kind, which is all that its `Display` has.
pub(super) fn said(error: &thrift::Error) -> String {
    match error {
        thrift::Error::Transport(error) => error.message.clone(),
        thrift::Error::Protocol(error) => error.message.clone(),
        thrift::Error::Application(error) => error.message.clone(),
        thrift::Error::User(error) => error.to_string(),
    }
}

fn too_deep() -> thrift::Error {
    thrift::new_protocol_error(ProtocolErrorKind::DepthLimit, format!("values lie in each other {DEPTH_MAX} deep"))
}

fn read_struct(input: &mut dyn TInputProtocol, depth: u32) -> thrift::Result<Fields> {
    let mut fields = Fields::new();
    input.read_struct_begin()?;
    loop {
        let field = input.read_field_begin()?;
        if field.field_type == TType::Stop {
            break;
        }
        let value = read(input, field.field_type, depth + 1)?;
        input.read_field_end()?;
        fields.insert(field.id.unwrap_or_default(), value);
    }
    input.read_struct_end()?;
    Ok(fields)
}

fn read(input: &mut dyn TInputProtocol, kind: TType, depth: u32) -> thrift::Result<Value> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    Ok(match kind {
        TType::Bool => Value::Bool(input.read_bool()?),
        TType::I08 => Value::I8(input.read_i8()?),
        TType::I16 => Value::I16(input.read_i16()?),
        TType::I32 => Value::I32(input.read_i32()?),
        TType::I64 => Value::I64(input.read_i64()?),
        TType::Double => Value::Double(input.read_double()?),
        TType::String => Value::Bytes(input.read_bytes()?),
        TType::Uuid => Value::Uuid(input.read_uuid()?.into_bytes()),
        TType::Struct => Value::Struct(read_struct(input, depth)?),
        TType::List => {
            let list = input.read_list_begin()?;
            let items = read_items(input, list.element_type, list.size, depth)?;
            input.read_list_end()?;
            Value::List(list.element_type, items)
        }
        TType::Set => {
            let set = input.read_set_begin()?;
            let items = read_items(input, set.element_type, set.size, depth)?;
            input.read_set_end()?;
            Value::Set(set.element_type, items)
        }
        TType::Map => {
            let map = input.read_map_begin()?;
            let [key, value] = [map.key_type, map.value_type].map(|kind| kind.unwrap_or(TType::Stop));
            let mut entries = Vec::new();
            for _ in 0..map.size {
                entries.push((read(input, key, depth + 1)?, read(input, value, depth + 1)?));
            }
            input.read_map_end()?;
            Value::Map(key, value, entries)
        }
        TType::Stop | TType::Void | TType::Utf7 => {
            return Err(thrift::new_protocol_error(ProtocolErrorKind::InvalidData, format!("a value of type {kind}")));
        }
    })
}

fn read_items(input: &mut dyn TInputProtocol, kind: TType, size: i32, depth: u32) -> thrift::Result<Vec<Value>> {
    // Room is made as values come, not as the size promises.
    let mut items = Vec::new();
    for _ in 0..size {
        items.push(read(input, kind, depth + 1)?);
    }
    Ok(items)
}

fn write_struct(out: &mut dyn TOutputProtocol, fields: &Fields) -> thrift::Result<()> {
    out.write_struct_begin(&TStructIdentifier::new(""))?;
    for (&id, value) in fields {
        out.write_field_begin(&TFieldIdentifier { name: None, field_type: value.kind(), id: Some(id) })?;
        write(out, value)?;
        out.write_field_end()?;
    }
    out.write_field_stop()?;
    out.write_struct_end()
}

fn write(out: &mut dyn TOutputProtocol, value: &Value) -> thrift::Result<()> {
    match value {
        Value::Bool(value) => out.write_bool(*value),
        Value::I8(value) => out.write_i8(*value),
        Value::I16(value) => out.write_i16(*value),
        Value::I32(value) => out.write_i32(*value),
        Value::I64(value) => out.write_i64(*value),
        Value::Double(value) => out.write_double(*value),
        Value::Bytes(value) => {
            size(value.len())?;
            out.write_bytes(value)
        }
        Value::Uuid(value) => {
            for byte in value {
                out.write_byte(*byte)?;
            }
            Ok(())
        }
        Value::Struct(fields) => write_struct(out, fields),
        Value::List(kind, items) => {
            out.write_list_begin(&TListIdentifier::new(*kind, size(items.len())?))?;
            for item in items {
                write(out, item)?;
            }
            out.write_list_end()
        }
        Value::Set(kind, items) => {
            out.write_set_begin(&TSetIdentifier::new(*kind, size(items.len())?))?;
            for item in items {
                write(out, item)?;
            }
            out.write_set_end()
        }
        Value::Map(key, kind, entries) => {
            out.write_map_begin(&TMapIdentifier::new(*key, *kind, size(entries.len())?))?;
            for (name, value) in entries {
                write(out, name)?;
                write(out, value)?;
            }
            out.write_map_end()
        }
    }
}

fn size(length: usize) -> thrift::Result<i32> {
    i32::try_from(length)
        .map_err(|_| thrift::new_protocol_error(ProtocolErrorKind::SizeLimit, format!("{length} are too many")))
}
