//! The record that a row becomes again.

use crate::format::keep::base_name;
use crate::format::object::for_each_field;
use crate::layout::{Keep, TimestampSource};
use crate::reader::merge::Item;
use crate::reader::row::Body;
use crate::record::OwnedRecord;

/// The timestamp of a whole record that has none, as Kafka writes it.
pub const NO_TIMESTAMP: i64 = -1;

/// A record to produce. Its timestamp is `None` where the row tells none.
pub fn record_of(item: Item) -> OwnedRecord {
    let Item { row, told, source } = item;
    if let Body::Record(record) = row.body {
        let timestamp = record.timestamp.or(Some(NO_TIMESTAMP));
        return OwnedRecord { timestamp, ..*record };
    }
    let teller = &source.shape.teller;
    let mut record = teller.record(&source.chosen.partition, &row);
    // Its event time is the payload's own, where that is not Kafka's.
    let event_ms = told.event_ms.filter(|_| *teller.source() != TimestampSource::Kafka);
    record.timestamp = record.timestamp.or(event_ms);
    if let Body::Json(line) = row.body {
        record.value = match source.shape.keep() {
            Some(keep) => payload_of(line, keep),
            None => Some(line),
        };
    }
    record
}

/// The payload of a row without Kafka's own columns; `None`: it was a tombstone. A line that is no object with such columns stays as it is.
fn payload_of(line: Vec<u8>, keep: &Keep) -> Option<Vec<u8>> {
    let named = |name: &str| format!("{}{name}", keep.prefix);
    let (tombstone, value) = (named("tombstone"), named("value"));
    let mut reserved: Vec<String> = keep.columns.iter().map(|&column| named(base_name(column))).collect();
    reserved.extend([named("key_base64"), value.clone(), tombstone.clone()]);
    let Ok(text) = std::str::from_utf8(&line) else { return Some(line) };
    let (mut is_tombstone, mut alone, mut in_front) = (false, None, 0);
    let mut own = Vec::new();
    let walked = for_each_field(text, |name, field| {
        if !reserved.iter().any(|reserved| *reserved == name) {
            own.push((name, field));
            return Ok(());
        }
        if own.is_empty() {
            in_front = field.as_ptr() as usize - text.as_ptr() as usize + field.len();
        } else {
            in_front = usize::MAX;
        }
        is_tombstone |= name == tombstone && field == "true";
        if name == value {
            alone = Some(field);
        }
        Ok(())
    });
    if walked.is_err() {
        return Some(line);
    }
    if is_tombstone {
        return None;
    }
    if let Some(alone) = alone {
        return Some(alone.as_bytes().to_vec());
    }
    // As JSON outputs write it: the payload's own text follows as it was.
    let as_written = text.get(in_front..).and_then(|rest| rest.trim_start().strip_prefix(','));
    if let Some(rest) = as_written.filter(|_| in_front > 0) {
        return Some([b"{", rest.as_bytes()].concat());
    }
    let mut payload = vec![b'{'];
    for (index, (name, field)) in own.iter().enumerate() {
        if index > 0 {
            payload.push(b',');
        }
        serde_json::to_writer(&mut payload, name).expect("text, and a Vec");
        payload.push(b':');
        payload.extend_from_slice(field.as_bytes());
    }
    payload.push(b'}');
    Some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::KeptColumn;

    #[test]
    fn kafkas_own_columns_are_taken_out_and_the_rest_stays_as_it_is() {
        let columns = vec![KeptColumn::Key, KeptColumn::Offset];
        let keep = Keep { columns, prefix: "_k_".to_string() };
        for (line, payload) in [
            (r#"{"_k_key":"a","_k_offset":5, "b" : 1.0,"a":{ "_k_key":1}}"#, Some(r#"{ "b" : 1.0,"a":{ "_k_key":1}}"#)),
            (r#"{"_k_key":"/w==","_k_key_base64":true,"_k_offset":5,"b":1}"#, Some(r#"{"b":1}"#)),
            (r#"{"_k_key":null,"_k_offset":5}"#, Some("{}")),
            (r#"{"_k_key":null,"_k_offset":5,"_k_tombstone":true}"#, None),
            (r#"{"_k_key":null,"_k_offset":5,"_k_value":[1,2]}"#, Some("[1,2]")),
            (r#"{"a":1,"_k_key":"x","b":"\n","_k_offset":5}"#, Some(r#"{"a":1,"b":"\n"}"#)),
            (r#"{"a":1}"#, Some(r#"{"a":1}"#)),
            ("null", Some("null")),
        ] {
            let found = payload_of(line.as_bytes().to_vec(), &keep);
            assert_eq!(found.as_deref(), payload.map(str::as_bytes), "{line}");
        }
    }
}
