//! MessagePack payloads.
//!
//! | value | JSON |
//! |---|---|
//! | nil, booleans, integers, floats | as they are; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | str | string; one that is not UTF-8 refuses the payload |
//! | bin | base64 |
//! | map | object; keys are str, integers and booleans as their text |
//! | timestamp (extension -1), Fluentd's EventTime (0) | seconds since 1970 with all their digits: `1763712000.123456789` |
//! | other extensions | `{"type": n, "base64": "…"}` |

use super::json::{must_be_as_many, no_entry};
use super::rows::Writer;
use super::{DecodeError, Decoder, Rows};
use crate::parse::json::DEPTH_MAX;
use crate::record::Record;
use rmpv::ValueRef;
use rmpv::decode::read_value_ref_with_max_depth;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::fmt::Display;

/// A level of the library is at most this many of its steps.
const STEPS_OF_A_LEVEL: usize = 2;

/// MessagePack.
pub(super) struct Msgpack {
    unfold: bool,
    names: Vec<String>,
}

impl Msgpack {
    pub(super) fn new(unfold: bool, names: &[String]) -> Self {
        Self { unfold, names: names.to_vec() }
    }

    /// With names, an array of anything but arrays and maps is no list of rows, but a row.
    fn is_row(&self, elements: &[ValueRef<'_>]) -> bool {
        let first = elements.first();
        !self.names.is_empty() && first.is_some_and(|first| !matches!(first, ValueRef::Array(_) | ValueRef::Map(_)))
    }

    fn add(&self, value: &ValueRef<'_>, rows: &mut Rows) -> Result<(), DecodeError> {
        rows.add(|out| match value {
            ValueRef::Array(elements) if !self.names.is_empty() => {
                must_be_as_many(elements.len(), &self.names)?;
                let mut members = out.object()?;
                for (name, element) in self.names.iter().zip(elements) {
                    out.name(&mut members, name)?;
                    write(element, out)?;
                }
                out.end_object();
                Ok(())
            }
            ValueRef::Map(_) => write(value, out),
            _ if !self.names.is_empty() => Err(no_entry()),
            value => write(value, out),
        })
    }
}

impl Decoder for Msgpack {
    fn decode(&self, _: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        if payload.is_empty() {
            return Err(DecodeError("the payload is empty".to_string()));
        }
        let mut unread = payload;
        while !unread.is_empty() {
            let at = payload.len() - unread.len();
            let broken =
                |error: &dyn Display| DecodeError(format!("the value at byte {at} is not MessagePack: {error}"));
            must_be_defined(unread).map_err(|error| broken(&error))?;
            let value = read_value_ref_with_max_depth(&mut unread, (DEPTH_MAX + 1) * STEPS_OF_A_LEVEL)
                .map_err(|error| broken(&error))?;
            if at > 0 && !self.unfold {
                return Err(DecodeError(format!(
                    "the payload goes on behind its value, at byte {at}, and unfold is not set"
                )));
            }
            match value {
                ValueRef::Array(elements) if self.unfold && !self.is_row(&elements) => {
                    elements.iter().try_for_each(|row| self.add(row, rows))?;
                }
                value => self.add(&value, rows)?,
            }
        }
        Ok(())
    }
}

/// Refuses what begins with no whole value, or holds the one byte (0xc1) that MessagePack gives no meaning: to the library that
/// makes values of it, it is another nil.
fn must_be_defined(payload: &[u8]) -> Result<(), rmp_serde::decode::Error> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(payload);
    reader.set_max_depth(DEPTH_MAX + 1);
    IgnoredAny::deserialize(&mut reader).map(drop)
}

fn write(value: &ValueRef<'_>, out: &mut Writer<'_>) -> Result<(), DecodeError> {
    match value {
        ValueRef::Nil => out.raw("null"),
        ValueRef::Boolean(value) => out.raw(if *value { "true" } else { "false" }),
        ValueRef::Integer(value) => out.raw(&value.to_string()),
        ValueRef::F32(value) => out.single(*value),
        ValueRef::F64(value) => out.float(*value),
        ValueRef::String(text) => out.string(text.as_str().ok_or_else(not_text)?),
        ValueRef::Binary(bytes) => out.base64(bytes),
        ValueRef::Array(elements) => out.array(elements, |out, element| write(element, out))?,
        ValueRef::Map(entries) => {
            let mut members = out.object()?;
            for (key, value) in entries {
                match key {
                    ValueRef::String(text) => out.name(&mut members, text.as_str().ok_or_else(not_text)?)?,
                    ValueRef::Integer(number) => out.name(&mut members, &number.to_string())?,
                    ValueRef::Boolean(flag) => out.name(&mut members, &flag.to_string())?,
                    _ => return Err(DecodeError("a key that is neither text, number nor boolean".to_string())),
                }
                write(value, out)?;
            }
            out.end_object();
        }
        ValueRef::Ext(kind, bytes) => match instant(*kind, bytes) {
            Some(seconds) => out.raw(&seconds),
            None => {
                let mut members = out.object()?;
                out.name(&mut members, "type")?;
                out.raw(&kind.to_string());
                out.name(&mut members, "base64")?;
                out.base64(bytes);
                out.end_object();
            }
        },
    }
    Ok(())
}

fn not_text() -> DecodeError {
    DecodeError("a str that is not UTF-8".to_string())
}

/// The seconds of a timestamp: of MessagePack's own in its three forms, or of Fluentd's forward protocol.
fn instant(kind: i8, bytes: &[u8]) -> Option<String> {
    let (seconds, nanoseconds) = match (kind, bytes.len()) {
        (-1, 4) => (i64::from(u32::from_be_bytes(bytes.try_into().ok()?)), 0),
        (-1, 8) => {
            let both = u64::from_be_bytes(bytes.try_into().ok()?);
            (i64::try_from(both & ((1 << 34) - 1)).ok()?, u32::try_from(both >> 34).ok()?)
        }
        (-1, 12) => {
            let (nanoseconds, seconds) = bytes.split_at(4);
            (i64::from_be_bytes(seconds.try_into().ok()?), u32::from_be_bytes(nanoseconds.try_into().ok()?))
        }
        (0, 8) => {
            let (seconds, nanoseconds) = bytes.split_at(4);
            (i64::from(u32::from_be_bytes(seconds.try_into().ok()?)), u32::from_be_bytes(nanoseconds.try_into().ok()?))
        }
        _ => return None,
    };
    match (seconds, nanoseconds) {
        (_, 1_000_000_000..) => None,
        (seconds, 0) => Some(seconds.to_string()),
        // The fraction counts upwards, also before 1970.
        (..0, nanoseconds) => {
            let whole = -i128::from(seconds) * 1_000_000_000 - i128::from(nanoseconds);
            Some(format!("-{}.{:09}", whole / 1_000_000_000, whole % 1_000_000_000))
        }
        (seconds, nanoseconds) => Some(format!("{seconds}.{nanoseconds:09}")),
    }
}
