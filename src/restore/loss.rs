//! What an output does not hold of the records that it was made of, said before the first record is produced.

use crate::layout::{KeptColumn, Newlines, TimestampSource};
use crate::reader::shape::Shape;

/// Something of the records that does not come back, in a sentence.
pub type Loss = String;

/// What records restored from rows of `shape` do not have as it was. Empty for whole records.
pub fn losses(shape: &Shape) -> Vec<Loss> {
    if shape.has_records() {
        return Vec::new();
    }
    let mut losses = Vec::new();
    let mut lost = |what: &str| losses.push(what.to_string());
    let keeps = |column| shape.keep().is_some_and(|keep| keep.columns.contains(&column));
    match (shape.has_payloads(), shape.has_columns(), shape.teller.payload_is_row()) {
        (true, ..) => {}
        (false, true, true) => lost("values: they are JSON made of columns, not the payloads"),
        (false, false, true) => lost("values: JSON as it was, without newlines and white space around it"),
        (false, _, false) => {
            lost("values: they are the rows that payloads were decoded into, as JSON, and one record may be several");
        }
    }
    if !keeps(KeptColumn::Key) {
        lost("keys: all are null");
    }
    if !keeps(KeptColumn::Headers) {
        lost("headers: there are none");
    }
    if !keeps(KeptColumn::Timestamp) {
        match shape.teller.source() {
            TimestampSource::Kafka => lost("timestamps: they are the time of the restore"),
            TimestampSource::Field(_) if !shape.has_payloads() || shape.teller.payload_is_row() => {
                lost("timestamps: they are the rows' event times, or the time of the restore where a row tells none");
            }
            TimestampSource::Header(_) if keeps(KeptColumn::Headers) => {
                lost("timestamps: they are the rows' event times, or the time of the restore where a row tells none");
            }
            TimestampSource::Field(_) | TimestampSource::Header(_) => {
                lost("timestamps: they are the time of the restore");
            }
        }
    }
    if shape.has_payloads() && shape.newlines() != Newlines::Length {
        lost("tombstones: they are empty values, as both were an empty line");
    }
    if !shape.has_payloads() && shape.keep().is_none() {
        lost("tombstones: where they were kept they are a value, null or an object without fields");
    }
    if !shape.teller.tells_offsets(false) {
        lost("order: records of a batch whose windows differ come window by window");
    }
    losses
}
