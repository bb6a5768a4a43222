//! Payloads into rows: one [`Decoder`] for each kind of payload that an archive can read.
//!
//! ```text
//! payload ──Decoder──▶ Rows: JSON texts in order ──JsonScan──▶ fields, event time ──▶ outputs
//! ```
//! A row is JSON text whatever it came from: event times, templates, transforms and formats know one form only. Numbers
//! keep their digits, bytes are base64, instants RFC 3339.
//!
//! # Guarantees
//! - **D-1** Rows depend on the record and the layout alone: never on the clock, the machine's zone or other records.
//! - **D-2** A payload gives all of its rows or none, with a reason that is permanent.
//! - **D-3** Whatever the bytes are: no panic, no unbounded recursion, and memory in proportion to the payload.
//! - **D-4** Each row is valid JSON, at most [`DEPTH_MAX`](crate::parse::json::DEPTH_MAX) levels deep, without white space around it. What was no JSON before
//!   names each field of an object once.
//!
//! Every format is read by a library made for it; here is only what their values become.
//! Thrift is not decoded, as a payload does not tell its type: keep it with `decode = "raw"`.

mod avro;
pub mod columns;
mod json;
mod line;
mod msgpack;
mod protobuf;
mod registry;
mod rows;
mod separated;
mod syslog;
mod text;

pub(crate) use avro::{Meaning, meaning};
pub use protobuf::message_of;
pub use registry::{Aim, ByRegistry, Fits, Needs, Schemas};
pub use rows::{KEPT_BYTES_MAX, Members, Rows, Writer};

use crate::layout::Decode;
use crate::record::Record;
use crate::registry::whole_avro;
use std::sync::Arc;

/// Why a payload gives no rows. Permanent: the record is a dead letter with this text as its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Turns payloads of one kind into rows. Shared by all threads.
pub trait Decoder: Send + Sync {
    /// Adds the rows of `payload`, which is the value of `record`, to `rows`, which are empty.
    ///
    /// # Errors
    /// The payload is not of this kind; `rows` then hold nothing of worth.
    fn decode(&self, record: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError>;
    /// The names of all fields that rows can have, where they are known beforehand.
    fn fields(&self) -> Option<Vec<String>> {
        None
    }
}

/// Compiles `decode`, if it needs nothing beside itself: see [`by_registry`] for what does. `None`: payloads are their own rows (JSON as it is), or have none (raw).
///
/// # Errors
/// A pattern, schema or descriptor that cannot be used; in words for the person who wrote it.
pub fn compile(decode: &Decode) -> Result<Option<Box<dyn Decoder>>, String> {
    Ok(Some(match decode {
        Decode::Raw => return Ok(None),
        Decode::Json { unfold: false, names, .. } if names.is_empty() => return Ok(None),
        Decode::Json { unfold, names, .. } => Box::new(json::Json::new(*unfold, names)),
        Decode::Ltsv { fields } => Box::new(separated::Ltsv::new(fields)),
        Decode::Csv { columns, delimiter, quote, unfold, fields } => {
            Box::new(separated::Csv::new(columns, *delimiter, *quote, *unfold, fields)?)
        }
        Decode::Regex { pattern, fields } => Box::new(line::Regular::new(pattern, fields)?),
        Decode::Grok { pattern, patterns, fields } => Box::new(line::Grok::new(pattern, patterns, fields)?),
        Decode::Syslog { zone } => Box::new(syslog::Syslog::new(zone)?),
        Decode::Avro { schema } => Box::new(avro::Avro::new(&whole_avro(schema)?)?),
        Decode::Protobuf { descriptors, message, ignore_unknown } => {
            Box::new(protobuf::Protobuf::new(descriptors, message, *ignore_unknown)?)
        }
        Decode::Registry { .. } => return Err("its schemas are in a registry".to_string()),
        Decode::Msgpack { unfold, names } => Box::new(msgpack::Msgpack::new(*unfold, names)),
    }))
}

/// The reader of payloads that name schemas of a registry; `None` where `decode` is of another kind.
///
/// # Errors
/// There is no registry.
pub fn by_registry(decode: &Decode, schemas: &Schemas) -> Result<Option<Arc<ByRegistry>>, String> {
    match decode {
        Decode::Registry { format, ignore_unknown } => {
            ByRegistry::new(*format, *ignore_unknown, schemas).map(Arc::new).map(Some)
        }
        _ => Ok(None),
    }
}

/// JSON, one value a record, read to its end whatever the layout says of validation: for those that look at all of it.
pub fn one_json() -> Box<dyn Decoder> {
    Box::new(json::Json::new(false, &[]))
}

#[cfg(test)]
mod tests;
