//! Kafka's own columns in JSON rows.
//!
//! Lossless: a key or header value that is UTF-8 is a JSON string; one that is not is the base64 of its bytes, and a
//! flag beside it says so. The flag is there only where it is `true`, so that the columns keep one type for all rows.
//!
//! | kept | field | value |
//! |---|---|---|
//! | key | `<prefix>key` | string, or null for a null key |
//! | | `<prefix>key_base64` | `true` where the string is base64 |
//! | headers | `<prefix>headers` | array of `{"name":…,"value":…}` in order, repeats kept, null values as null; `"base64":true` where the value is base64 |
//! | timestamp | `<prefix>timestamp` | milliseconds UTC, or null where the record has none |
//! | topic, partition, offset | `<prefix>topic` … | string, integer, integer |
//!
//! Two more fields stand for payloads that have no fields: `<prefix>tombstone` (`true`) for a null payload and
//! `<prefix>value` for one that is not an object. None of these names may be a field of a payload: such a record is
//! refused, never overwritten.

use crate::layout::{Keep, KeptColumn};
use crate::parse::text::{write_base64, write_json_string};
use crate::record::{Headers, Record};

/// Name of `column` without its prefix.
pub fn base_name(column: KeptColumn) -> &'static str {
    match column {
        KeptColumn::Key => "key",
        KeptColumn::Headers => "headers",
        KeptColumn::Timestamp => "timestamp",
        KeptColumn::Topic => "topic",
        KeptColumn::Partition => "partition",
        KeptColumn::Offset => "offset",
    }
}

/// Kept columns of a JSON output, ready to write.
#[derive(Debug)]
pub(super) struct JsonKeep {
    columns: Vec<(KeptColumn, String)>,
    key_base64: String,
    value: String,
    tombstone: String,
    /// Every name above: no payload may have a field called so.
    reserved: Vec<String>,
}

impl JsonKeep {
    /// Prepares `keep`; `None` where it keeps nothing.
    pub(super) fn new(keep: &Keep) -> Option<Self> {
        if keep.columns.is_empty() {
            return None;
        }
        let named = |name: &str| format!("{}{name}", keep.prefix);
        let mut reserved: Vec<String> = keep.columns.iter().map(|&column| named(base_name(column))).collect();
        reserved.extend(["key_base64", "value", "tombstone"].map(named));
        Some(Self {
            columns: keep.columns.iter().map(|&column| (column, quoted(&named(base_name(column))))).collect(),
            key_base64: quoted(&named("key_base64")),
            value: quoted(&named("value")),
            tombstone: quoted(&named("tombstone")),
            reserved,
        })
    }

    /// Whether a payload must not have a field `name`.
    pub(super) fn reserves(&self, name: &str) -> bool {
        self.reserved.iter().any(|reserved| reserved == name)
    }

    /// Writes `{"<prefix>key":…,…` without the closing brace.
    pub(super) fn open(&self, record: &Record<'_>, rows: &mut Vec<u8>) {
        rows.push(b'{');
        for (index, (column, name)) in self.columns.iter().enumerate() {
            if index > 0 {
                rows.push(b',');
            }
            rows.extend_from_slice(name.as_bytes());
            rows.push(b':');
            match column {
                KeptColumn::Key => self.write_key(record.key, rows),
                KeptColumn::Headers => write_header_list(record.headers, rows),
                KeptColumn::Timestamp => match record.timestamp {
                    Some(ms) => rows.extend_from_slice(ms.to_string().as_bytes()),
                    None => rows.extend_from_slice(b"null"),
                },
                KeptColumn::Topic => write_json_string(record.topic, rows),
                KeptColumn::Partition => rows.extend_from_slice(record.partition.to_string().as_bytes()),
                KeptColumn::Offset => rows.extend_from_slice(record.offset.to_string().as_bytes()),
            }
        }
    }

    /// Writes `,"<prefix>tombstone":true}`.
    pub(super) fn close_tombstone(&self, rows: &mut Vec<u8>) {
        rows.push(b',');
        rows.extend_from_slice(self.tombstone.as_bytes());
        rows.extend_from_slice(b":true}");
    }

    /// Writes `,"<prefix>value":`.
    pub(super) fn open_value(&self, rows: &mut Vec<u8>) {
        rows.push(b',');
        rows.extend_from_slice(self.value.as_bytes());
        rows.push(b':');
    }

    fn write_key(&self, key: Option<&[u8]>, rows: &mut Vec<u8>) {
        let is_base64 = write_bytes(key, rows);
        if is_base64 {
            rows.push(b',');
            rows.extend_from_slice(self.key_base64.as_bytes());
            rows.extend_from_slice(b":true");
        }
    }
}

/// Writes an array of headers.
pub(crate) fn write_header_list(headers: &dyn Headers, rows: &mut Vec<u8>) {
    rows.push(b'[');
    for index in 0..headers.len() {
        if index > 0 {
            rows.push(b',');
        }
        let (name, value) = headers.get(index);
        rows.extend_from_slice(b"{\"name\":");
        write_json_string(name, rows);
        rows.extend_from_slice(b",\"value\":");
        let is_base64 = write_bytes(value, rows);
        rows.extend_from_slice(if is_base64 { b",\"base64\":true}" } else { b"}" });
    }
    rows.push(b']');
}

/// Writes null, a string, or the base64 of what is not UTF-8; returns whether it was base64.
pub(crate) fn write_bytes(bytes: Option<&[u8]>, rows: &mut Vec<u8>) -> bool {
    let Some(bytes) = bytes else {
        rows.extend_from_slice(b"null");
        return false;
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            write_json_string(text, rows);
            false
        }
        Err(_) => {
            write_base64(bytes, rows);
            true
        }
    }
}

fn quoted(name: &str) -> String {
    let mut text = Vec::new();
    write_json_string(name, &mut text);
    String::from_utf8(text).expect("JSON of a string is UTF-8")
}
