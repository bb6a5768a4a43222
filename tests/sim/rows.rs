//! Reads objects in the simplest way there is, without any code of the archiver's.

use crate::settings::{JSON, PLAIN, RAW};
use crate::store::Object;
use base64::Engine;
use std::io::Read;

/// What an object holds rows of, by the first folder of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Output(&'static str),
    DeadLetters,
}

pub(crate) fn what_of(key: &str) -> Option<What> {
    let folder = key.split('/').next()?;
    match [JSON, RAW, PLAIN].into_iter().find(|output| *output == folder) {
        Some(output) => Some(What::Output(output)),
        None => (folder == "_dead").then_some(What::DeadLetters),
    }
}

/// One row of an object: what record it is of, and which of the rows that this record has there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowId {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) incarnation: u32,
    pub(crate) place: Place,
}

/// Which of the rows of its record a row is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Counts them, from 0.
    pub(crate) index: i64,
    /// The outputs that a dead letter says the record is missing in.
    pub(crate) missing_in: Vec<String>,
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
    let json: serde_json::Value = match what {
        What::Output(RAW) => return id_in(line),
        What::Output(_) | What::DeadLetters => serde_json::from_str(line).ok()?,
    };
    let (mut id, prefix) = match what {
        What::DeadLetters => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(json.get("value_base64")?.as_str()?).ok()?;
            (id_in(std::str::from_utf8(&bytes).ok()?)?, "")
        }
        What::Output(_) => (id_in(line)?, "_kafka_"),
    };
    if what == What::Output(PLAIN) {
        return Some(id);
    }
    // What the archiver says of the record and what the record says of itself.
    let number = |name: &str| json.get(format!("{prefix}{name}"))?.as_i64();
    let topic = json.get(format!("{prefix}topic"))?.as_str()?;
    if (topic, number("partition")?, number("offset")?) != (id.topic.as_str(), i64::from(id.partition), id.offset) {
        return None;
    }
    if what == What::DeadLetters {
        let outputs = json.get("outputs")?.as_array()?.iter().map(|output| output.as_str().map(str::to_string));
        id.place = Place { index: number("index")?, missing_in: outputs.collect::<Option<_>>()? };
    }
    Some(id)
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
        place: Place::default(),
    })
}
