//! What must be true at the end, whatever has happened: told from the buckets, the committed offsets and what was
//! produced, with no code of the archiver's.
//!
//! Records that retention or compaction took are the only ones that may be missing. A range that lost some of them is
//! *thinned*: there, an object of an earlier try may hold more rows than its receipt says, and may even be one that no
//! receipt names.

use crate::log::Log;
use crate::rows::{RowId, What, named, rows_of, what_of};
use crate::settings::{BUCKETS, TOPIC};
use crate::state::State;
use crate::store::Object;
use serde_json::Value;
use sha2::{Digest, Sha256};
use siltstone::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) records: usize,
    pub(crate) batches: usize,
    pub(crate) objects: usize,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.batches += other.batches;
        self.objects += other.objects;
    }
}

/// A receipt, as far as it is needed.
struct Receipt {
    first: i64,
    end: i64,
    document: Value,
}

type Rows = BTreeMap<(What, i64), usize>;

/// Checks everything. The first thing that is wrong is told.
pub(crate) fn check(state: &State) -> Result<Count, String> {
    let mut count = Count::default();
    let contents = contents(state)?;
    let deleted = state.deleted_logs.iter().map(|(partition, log)| (partition, log));
    for (partition, log) in state.logs.iter().chain(deleted) {
        let receipts = receipts(state, partition, log)?;
        check_chain(state, partition, log, &receipts)?;
        check_claims(state, partition, log, &receipts)?;
        let mut vouched = BTreeSet::new();
        for receipt in &receipts {
            check_balance(log, receipt)?;
            check_objects(state, &contents, log, receipt, &mut vouched)?;
        }
        check_strangers(&contents, partition, log, &receipts, &vouched)?;
        check_rows(&contents, partition, log, &receipts)?;
        count.records += log.produced.len();
        count.batches += receipts.len();
    }
    check_replaced(state, &contents)?;
    count.objects = contents.len();
    Ok(count)
}

/// The rows of every data object, by bucket and key.
type Contents = BTreeMap<(&'static str, String), Vec<RowId>>;

fn contents(state: &State) -> Result<Contents, String> {
    let mut contents = Contents::new();
    for ((bucket, key), object) in &state.buckets.objects {
        if key.starts_with("_siltstone/") {
            continue;
        }
        let rows = rows_of(key, object)?;
        let name = named(key).ok_or_else(|| format!("{key} has no range in its name"))?;
        let stranger = rows.iter().find(|row| {
            let place = (&row.topic, row.partition, row.incarnation) == (&name.topic, name.partition, name.generation);
            !place || row.offset < name.first || row.offset >= name.end
        });
        if let Some(row) = stranger {
            return Err(format!("{key} holds a row of {row:?}"));
        }
        contents.insert((*bucket, key.clone()), rows);
    }
    Ok(contents)
}

fn folder(partition: &TopicPartition, log: &Log) -> String {
    let generation = if log.incarnation > 1 { format!(".g{}", log.incarnation) } else { String::new() };
    format!("_siltstone/receipts/v1/{TOPIC}/{:05}{generation}/", partition.partition)
}

fn documents(state: &State, partition: &TopicPartition, log: &Log, extension: &str) -> Result<Vec<Value>, String> {
    let folder = folder(partition, log);
    let found = state
        .buckets
        .objects
        .iter()
        .filter(|((bucket, key), _)| *bucket == "a" && key.starts_with(&folder) && key.ends_with(extension));
    found
        .map(|((_, key), object)| serde_json::from_slice(&object.bytes).map_err(|error| format!("{key}: {error}")))
        .collect()
}

fn number(document: &Value, name: &str) -> Result<i64, String> {
    document.get(name).and_then(Value::as_i64).ok_or_else(|| format!("{name} is missing in {document}"))
}

fn receipts(state: &State, partition: &TopicPartition, log: &Log) -> Result<Vec<Receipt>, String> {
    let documents = documents(state, partition, log, ".json")?;
    let receipt =
        |document: Value| Ok(Receipt { first: number(&document, "first")?, end: number(&document, "end")?, document });
    documents.into_iter().map(receipt).collect()
}

/// Whether retention or compaction took a record of the range.
fn is_thinned(log: &Log, first: i64, end: i64) -> bool {
    log.removed.range(first..end).next().is_some()
}

fn check_chain(state: &State, partition: &TopicPartition, log: &Log, receipts: &[Receipt]) -> Result<(), String> {
    let mut position = receipts.first().map_or(log.stable, |receipt| receipt.first);
    // Before the first batch only what retention had taken before anybody looked.
    if let Some((offset, _)) =
        log.produced.iter().find(|(offset, _)| *offset < position && !log.removed.contains(offset))
    {
        return Err(format!("{partition}: the archive begins at {position}, behind record {offset}"));
    }
    for receipt in receipts {
        if receipt.first != position {
            return Err(format!(
                "{partition}: a receipt begins at {}, the one before ends at {position}",
                receipt.first
            ));
        }
        position = receipt.end;
    }
    if log.deleted {
        return Ok(());
    }
    let committed = state.group.offsets.get(partition).map(|committed| committed.offset);
    if committed != Some(position) {
        return Err(format!("{partition}: receipts reach {position}, committed is {committed:?}"));
    }
    Ok(())
}

fn check_claims(state: &State, partition: &TopicPartition, log: &Log, receipts: &[Receipt]) -> Result<(), String> {
    for claim in documents(state, partition, log, ".claim")? {
        let (first, end) = (number(&claim, "first")?, number(&claim, "end")?);
        // A claim may land after its partition was begun anew further on, where retention has taken what was before.
        if receipts.first().is_some_and(|receipt| end <= receipt.first) {
            continue;
        }
        // What was claimed of a topic that is gone may stay unfinished.
        if !log.deleted && !receipts.iter().any(|receipt| receipt.first == first && receipt.end == end) {
            return Err(format!("{partition}: the claim of [{first}, {end}) has no receipt"));
        }
    }
    Ok(())
}

fn check_balance(log: &Log, receipt: &Receipt) -> Result<(), String> {
    let (first, end) = (receipt.first, receipt.end);
    let balance = &receipt.document["balance"];
    let of = |value: &Value| value.as_u64().unwrap_or(0);
    let consumed = of(&balance["consumed"]);
    let outputs = balance["outputs"].as_object().ok_or("a receipt without outputs")?;
    let in_range: Vec<_> = log.produced.iter().filter(|(offset, _)| first <= *offset && *offset < end).collect();
    let tombstones = in_range.iter().filter(|(_, record)| record.value.is_none()).count() as u64;
    let thinned = is_thinned(log, first, end);
    for name in ["json", "raw"] {
        let output = outputs.get(name).ok_or_else(|| format!("[{first}, {end}): no balance of {name}"))?;
        let dropped: u64 = output["dropped"].as_object().into_iter().flat_map(|rules| rules.values()).map(of).sum();
        if of(&output["archived"]) + of(&output["dead_lettered"]) + dropped != consumed {
            return Err(format!("[{first}, {end}): {name} does not add up to {consumed}: {output}"));
        }
        if !thinned && dropped != tombstones {
            return Err(format!("[{first}, {end}): {dropped} dropped, but {tombstones} records have no payload"));
        }
    }
    if !thinned && consumed != in_range.len() as u64 {
        return Err(format!("[{first}, {end}): {consumed} consumed of {} produced", in_range.len()));
    }
    for absent in balance["absent"].as_array().into_iter().flatten() {
        if !log.deleted && number(absent, "end")? > log.start {
            return Err(format!("[{first}, {end}): {absent} is called absent, but the log starts at {}", log.start));
        }
    }
    Ok(())
}

fn check_objects(
    state: &State,
    contents: &Contents,
    log: &Log,
    receipt: &Receipt,
    vouched: &mut BTreeSet<(&'static str, String)>,
) -> Result<(), String> {
    let thinned = is_thinned(log, receipt.first, receipt.end);
    for object in receipt.document["objects"].as_array().into_iter().flatten() {
        let (Some(url), Some(key)) = (object["destination"].as_str(), object["key"].as_str()) else {
            return Err(format!("an object without place: {object}"));
        };
        let bucket = BUCKETS.iter().find(|(of, _)| *of == url).map(|(_, bucket)| *bucket);
        let place = (bucket.ok_or_else(|| format!("no bucket {url}"))?, key.to_string());
        let Some(found) = state.buckets.objects.get(&place) else {
            return Err(format!("{key} is in a receipt, but not in the bucket"));
        };
        vouched.insert(place.clone());
        if !thinned {
            let rows = contents.get(&place).map_or(0, Vec::len);
            agree(object, found, rows)?;
        }
    }
    Ok(())
}

fn agree(object: &Value, found: &Object, rows: usize) -> Result<(), String> {
    let digest: String = Sha256::digest(&found.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let size = object["bytes"].as_u64() == Some(found.bytes.len() as u64);
    let same = object["sha256"].as_str().is_none_or(|sha256| sha256 == digest);
    let counted = object["rows"].as_u64().is_none_or(|counted| counted == rows as u64);
    if !size || !same || !counted {
        return Err(format!("{object} is not what is there: {} bytes, {rows} rows, {digest}", found.bytes.len()));
    }
    Ok(())
}

/// Objects that no receipt names: only a thinned range may have left them.
fn check_strangers(
    contents: &Contents,
    partition: &TopicPartition,
    log: &Log,
    receipts: &[Receipt],
    vouched: &BTreeSet<(&'static str, String)>,
) -> Result<(), String> {
    for place in contents.keys().filter(|place| !vouched.contains(*place)) {
        let Some(name) = named(&place.1) else { continue };
        if name.partition != partition.partition || name.generation != log.incarnation || log.deleted {
            continue;
        }
        let known = receipts.iter().any(|receipt| receipt.first == name.first && receipt.end == name.end);
        if !known || !is_thinned(log, name.first, name.end) {
            return Err(format!("{} is named by no receipt", place.1));
        }
    }
    Ok(())
}

fn is_absent(receipts: &[Receipt], offset: i64) -> bool {
    receipts.iter().filter(|receipt| receipt.first <= offset && offset < receipt.end).any(|receipt| {
        let ranges = receipt.document["balance"]["absent"].as_array();
        ranges.into_iter().flatten().any(|range| {
            number(range, "first").is_ok_and(|first| first <= offset)
                && number(range, "end").is_ok_and(|end| offset < end)
        })
    })
}

fn check_rows(contents: &Contents, partition: &TopicPartition, log: &Log, receipts: &[Receipt]) -> Result<(), String> {
    let mut rows = Rows::new();
    for ((_, key), found) in contents {
        let Some(what) = what_of(key) else { return Err(format!("{key} is nobody's")) };
        let ours = |row: &&RowId| row.partition == partition.partition && row.incarnation == log.incarnation;
        for row in found.iter().filter(ours) {
            *rows.entry((what, row.offset)).or_insert(0) += 1;
        }
    }
    let begin = receipts.first().map_or(log.stable, |receipt| receipt.first);
    for (offset, record) in &log.produced {
        let value = record.value.as_deref();
        let broken = value.is_some_and(|value| !value.ends_with(b"}"));
        let wanted =
            [(What::Json, value.is_some() && !broken), (What::Raw, value.is_some()), (What::DeadLetters, broken)];
        for (what, wanted) in wanted {
            let found = rows.remove(&(what, *offset)).unwrap_or(0);
            let removed = log.removed.contains(offset);
            match (wanted, found) {
                (true, 1) | (false, 0) => {}
                (true, 0) if removed && (log.compacted.contains(offset) || *offset < begin) => {}
                (true, 0) if removed && is_absent(receipts, *offset) => {}
                (true, 0) => return Err(format!("LOST: {partition} offset {offset} is not in {what:?}")),
                (_, found) => return Err(format!("DOUBLED: {partition} offset {offset} is {found} times in {what:?}")),
            }
        }
    }
    match rows.keys().next() {
        Some((what, offset)) => Err(format!("{partition} offset {offset} in {what:?} was never produced")),
        None => Ok(()),
    }
}

/// Nothing that was visible once is gone.
fn check_replaced(state: &State, contents: &Contents) -> Result<(), String> {
    for (bucket, key, bytes) in &state.buckets.replaced {
        if key.starts_with("_siltstone/") {
            continue;
        }
        let before =
            rows_of(key, &Object { bytes: bytes.clone(), attributes: object_store::Attributes::new(), version: 0 })?;
        let now = contents.get(&(*bucket, key.clone())).ok_or_else(|| format!("{key} is gone"))?;
        if let Some(row) = before.iter().find(|row| !now.contains(row)) {
            return Err(format!("SHRUNK: {key} once held {row:?}"));
        }
    }
    Ok(())
}
