//! That no row is another: rows as they are read from the old objects against rows as they are read back from the new file.
//!
//! Both are read by [`crate::reader::rows`], the way in which `cat` reads objects, which shares nothing with what wrote the new file but the
//! library below. A row is: the bytes of a JSON line or payload, or that it is a tombstone; every field of a whole record; of columns their JSON
//! ([`crate::reader::columns`]), which has every digit of a number, every microsecond, and bytes as base64.
//!
//! Memory: what two open objects take, see there, and two rows.

use super::equal::{Nulls, is_equal};
use crate::bucket::compactions::{Proof, ProofBy};
use crate::exit::Failure;
use crate::format::object::for_each_field;
use crate::reader::row::Body;
use crate::reader::rows::{Place, Rows};
use crate::reader::shape::Shape;
use crate::record::OwnedRecord;
use crate::upload::hex;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::sync::Arc;

/// The rows of several objects, one behind the other.
pub struct RowsOf {
    places: VecDeque<Place>,
    shape: Arc<Shape>,
    open: Option<Rows>,
    hash: Sha256,
    count: u64,
}

impl RowsOf {
    /// Of the objects at `places`, in that order.
    pub fn new(places: Vec<Place>, shape: Arc<Shape>) -> Self {
        Self { places: places.into(), shape, open: None, hash: Sha256::new(), count: 0 }
    }

    /// The next row, counted and hashed; `None` behind the last one.
    ///
    /// # Errors
    /// As [`Rows::next`].
    pub async fn next(&mut self) -> Result<Option<Body>, Failure> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(place) = self.places.pop_front() else { return Ok(None) };
                self.open = Some(Rows::start(place, self.shape.clone()));
                continue;
            };
            match open.next().await? {
                Some(row) => {
                    feed(&mut self.hash, &row.body);
                    self.count += 1;
                    return Ok(Some(row.body));
                }
                None => self.open = None,
            }
        }
    }

    fn digest(&self) -> String {
        hex(&self.hash.clone().finalize())
    }
}

/// Reads both to their ends.
///
/// # Errors
/// The outer one: a file cannot be read. The inner one: why they are not proven equal.
pub async fn prove(mut inputs: RowsOf, mut object: RowsOf, by: ProofBy) -> Result<Result<Proof, String>, Failure> {
    let nulls = match by {
        ProofBy::Bytes => None,
        ProofBy::Values => Some(Nulls::AreValues),
        ProofBy::ValuesWithoutNulls => Some(Nulls::AsMissing),
    };
    // A payload that is null has a field of its own where Kafka's columns are kept: without it the row is another payload.
    let payload = inputs.shape.keep().map(|keep| format!("{}value", keep.prefix));
    loop {
        let (one, other) = (inputs.next().await?, object.next().await?);
        let (one, other) = match (one, other) {
            (None, None) => break,
            (Some(one), Some(other)) => (one, other),
            (one, _) => {
                let which = if one.is_some() { "fewer" } else { "more" };
                return Ok(Err(format!("the new file has {which} rows than the old objects ({})", inputs.count)));
            }
        };
        let is_same = match (nulls, &one, &other) {
            (Some(nulls), Body::Json(line), Body::Json(back)) => {
                is_equal(line, back, nulls)
                    && payload.as_deref().is_none_or(|name| has_field(line, name) == has_field(back, name))
            }
            _ => one == other,
        };
        if !is_same {
            return Ok(Err(format!("row {} comes back as another one", inputs.count - 1)));
        }
    }
    let (of_inputs, of_object) = (inputs.digest(), object.digest());
    if nulls.is_none() && of_inputs != of_object {
        return Ok(Err("the rows are the same and their hashes are not, which is a bug".to_string()));
    }
    Ok(Ok(Proof { by, rows: inputs.count, inputs: of_inputs, object: of_object }))
}

/// Whether the JSON object `line` has a field of that name.
fn has_field(line: &[u8], name: &str) -> bool {
    let mut found = false;
    let visited = std::str::from_utf8(line).map(|text| {
        for_each_field(text, |field, _| {
            found |= field == name;
            Ok(())
        })
    });
    found && matches!(visited, Ok(Ok(())))
}

/// Adds a row: what it is, and every part of it behind its length.
fn feed(hash: &mut Sha256, body: &Body) {
    match body {
        Body::Json(line) => part(hash, b'j', Some(line)),
        Body::Payload(payload) => part(hash, b'p', payload.as_deref()),
        Body::Record(record) => feed_record(hash, record),
    }
}

fn feed_record(hash: &mut Sha256, record: &OwnedRecord) {
    part(hash, b't', Some(record.topic.as_bytes()));
    hash.update(record.partition.to_be_bytes());
    hash.update(record.offset.to_be_bytes());
    part(hash, b'm', record.timestamp.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
    part(hash, b'k', record.key.as_deref());
    part(hash, b'v', record.value.as_deref());
    hash.update((record.headers.len() as u64).to_be_bytes());
    for (name, value) in &record.headers {
        part(hash, b'n', Some(name.as_bytes()));
        part(hash, b'h', value.as_deref());
    }
}

fn part(hash: &mut Sha256, kind: u8, bytes: Option<&[u8]>) {
    hash.update([kind]);
    match bytes {
        None => hash.update(u64::MAX.to_be_bytes()),
        Some(bytes) => {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bodies: &[Body]) -> String {
        let mut hash = Sha256::new();
        bodies.iter().for_each(|body| feed(&mut hash, body));
        hex(&hash.finalize())
    }

    /// Goal: rows that differ in anything, or that are cut otherwise, have another hash.
    #[test]
    fn what_differs_has_another_hash() {
        let record = |change: &dyn Fn(&mut OwnedRecord)| {
            let mut record =
                OwnedRecord { topic: "t".into(), offset: 7, key: Some(b"k".to_vec()), ..OwnedRecord::default() };
            record.headers = vec![("a".into(), Some(b"b".to_vec()))];
            change(&mut record);
            vec![Body::Record(Box::new(record))]
        };
        let json = |lines: &[&str]| lines.iter().map(|line| Body::Json(line.as_bytes().to_vec())).collect::<Vec<_>>();
        let all = [
            json(&["ab"]),
            json(&["a", "b"]),
            json(&["b", "a"]),
            vec![Body::Payload(None)],
            vec![Body::Payload(Some(Vec::new()))],
            vec![Body::Payload(Some(b"ab".to_vec()))],
            record(&|_| ()),
            record(&|record| record.partition = 1),
            record(&|record| record.offset = 8),
            record(&|record| record.timestamp = Some(0)),
            record(&|record| record.key = None),
            record(&|record| record.value = Some(b"k".to_vec())),
            record(&|record| record.headers[0].1 = None),
            record(&|record| record.headers.push(("a".into(), None))),
            record(&|record| record.headers = Vec::new()),
        ];
        let digests: std::collections::BTreeSet<String> = all.iter().map(|bodies| digest(bodies)).collect();
        assert_eq!(digests.len(), all.len());
    }
}
