//! Reads objects in the simplest way there is, without any code of the archiver's.

use crate::store::Object;
use base64::Engine;
use std::io::Read;

/// One row of an object: what record it is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowId {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) incarnation: u32,
}

/// What an object is by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Json,
    Raw,
    DeadLetters,
}

pub(crate) fn what_of(key: &str) -> Option<What> {
    match key.split('/').next()? {
        "json" => Some(What::Json),
        "raw" => Some(What::Raw),
        "_dead" => Some(What::DeadLetters),
        _ => None,
    }
}

/// What the name of a data object says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) first: i64,
    pub(crate) end: i64,
    pub(crate) generation: u32,
}

pub(crate) fn named(key: &str) -> Option<Named> {
    let name = key.rsplit('/').next()?.split('.').next()?;
    let (generation, name) = match name.strip_prefix('g').and_then(|name| name.split_once('-')) {
        Some((generation, name)) => (generation.parse().ok()?, name),
        None => (1, name),
    };
    let mut parts = name.split('+');
    let (topic, partition, range) = (parts.next()?, parts.next()?, parts.next()?);
    let (first, end) = range.split_once('-')?;
    Some(Named {
        topic: topic.to_string(),
        partition: partition.parse().ok()?,
        first: first.parse().ok()?,
        end: end.parse().ok()?,
        generation,
    })
}

fn text_of(key: &str, object: &Object) -> Result<String, String> {
    let mut text = String::new();
    let read = if key.ends_with(".gz") {
        flate2::read::MultiGzDecoder::new(&object.bytes[..]).read_to_string(&mut text)
    } else {
        (&object.bytes[..]).read_to_string(&mut text)
    };
    read.map_err(|error| format!("{key} cannot be read: {error}"))?;
    Ok(text)
}

/// The rows of an object.
pub(crate) fn rows_of(key: &str, object: &Object) -> Result<Vec<RowId>, String> {
    let what = what_of(key).ok_or_else(|| format!("nobody knows what {key} is"))?;
    text_of(key, object)?.lines().map(|line| row(what, line).ok_or_else(|| format!("{key}: row {line}"))).collect()
}

fn row(what: What, line: &str) -> Option<RowId> {
    if what == What::Raw {
        return id_in(line);
    }
    let prefix = if what == What::Json { "_kafka_" } else { "" };
    let row: serde_json::Value = serde_json::from_str(line).ok()?;
    let number = |name: &str| row.get(format!("{prefix}{name}"))?.as_i64();
    let id = match what {
        What::DeadLetters => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(row.get("value_base64")?.as_str()?).ok()?;
            id_in(std::str::from_utf8(&bytes).ok()?)?
        }
        What::Json | What::Raw => id_in(line)?,
    };
    let topic = row.get(format!("{prefix}topic"))?.as_str()?;
    let said = (topic, number("partition")?, number("offset")?);
    // What the archiver says of the record and what the record says of itself.
    (said == (id.topic.as_str(), i64::from(id.partition), id.offset)).then_some(id)
}

/// The id that every payload holds.
fn id_in(payload: &str) -> Option<RowId> {
    let id = payload.split("\"id\":\"").nth(1)?.split('"').next()?;
    let mut parts = id.split('/');
    Some(RowId {
        topic: parts.next()?.to_string(),
        partition: parts.next()?.parse().ok()?,
        offset: parts.next()?.parse().ok()?,
        incarnation: parts.next()?.parse().ok()?,
    })
}
