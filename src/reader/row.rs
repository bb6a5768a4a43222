//! A row as its object has it.

use crate::format::raw::append_payload;
use crate::layout::Newlines;
use crate::parse::text::{base64, text_or_base64};
use crate::record::OwnedRecord;
use serde::Serialize;

/// A row of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which row of its object it is, from 0.
    pub index: u64,
    /// What it holds.
    pub body: Body,
}

/// What a row holds, by the format of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// JSON on one line, without its end: the bytes of a JSON line, or the columns of Avro and Parquet as [`super::columns`] shows them.
    Json(Vec<u8>),
    /// The payload of a raw output. `None`: a tombstone, where its framing tells.
    Payload(Option<Vec<u8>>),
    /// A whole record.
    Record(Box<OwnedRecord>),
}

impl Body {
    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Json(line) => line.len(),
            Self::Payload(payload) => payload.as_ref().map_or(0, Vec::len),
            Self::Record(record) => {
                let header =
                    |(name, value): &(String, Option<Vec<u8>>)| name.len() + value.as_ref().map_or(0, Vec::len);
                let headers: usize = record.headers.iter().map(header).sum();
                record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len) + headers
            }
        }
    }

    /// The payload of a raw output or of a whole record; `None` of rows that are none.
    pub fn payload(&self) -> Option<Option<&[u8]>> {
        match self {
            Self::Json(_) => None,
            Self::Payload(payload) => Some(payload.as_deref()),
            Self::Record(record) => Some(record.value.as_deref()),
        }
    }

    /// Adds the row as it is printed, its end included: JSON and raw as they lie in their object, a whole record as a [`ShownRecord`].
    pub fn append(&self, newlines: Newlines, out: &mut Vec<u8>) {
        match self {
            Self::Json(line) => {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            Self::Payload(payload) => {
                if append_payload(newlines, payload.as_deref(), out).is_err() {
                    // What was read by a rule is written by it; of another output this would be a line that is two.
                    out.extend_from_slice(payload.as_deref().unwrap_or_default());
                    out.push(b'\n');
                }
            }
            Self::Record(record) => {
                serde_json::to_writer(&mut *out, &ShownRecord::of(record)).expect("text, numbers, and a Vec");
                out.push(b'\n');
            }
        }
    }
}

/// A record as JSON, in the form that `preview --records` reads: text where it is text, else base64 under a name that says so. A null
/// key or payload is left out, headers are names and base64.
#[derive(Debug, Serialize)]
pub struct ShownRecord<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    headers: Vec<(&'a str, Option<String>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> ShownRecord<'a> {
    /// Shows `record`.
    pub fn of(record: &'a OwnedRecord) -> Self {
        let ((key, key_base64), (value, value_base64)) =
            (text_or_base64(record.key.as_deref()), text_or_base64(record.value.as_deref()));
        Self {
            topic: &record.topic,
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key,
            key_base64,
            headers: record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref().map(base64))).collect(),
            value,
            value_base64,
        }
    }
}
