//! The part of the oracle that holds receipts, claims and committed offsets against each other, the buckets and what was
//! produced.

use crate::log::Log;
use crate::oracle::{Contents, Reached};
use crate::payload::is_refused;
use crate::settings::{BUCKETS, LAYOUTS, Layout, TOPIC};
use crate::state::State;
use crate::store::Object;
use serde_json::Value;
use sha2::{Digest, Sha256};
use siltstone::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// A receipt, as far as it is needed.
pub(crate) struct Receipt {
    pub(crate) first: i64,
    pub(crate) end: i64,
    /// What its batch was written with.
    pub(crate) layout: &'static Layout,
    document: Value,
}

impl Receipt {
    pub(crate) fn covers(&self, offset: i64) -> bool {
        self.first <= offset && offset < self.end
    }

    /// Whether it says that Kafka had deleted the record before it was read.
    pub(crate) fn says_absent(&self, offset: i64) -> bool {
        self.absent().any(|(first, end)| first <= offset && offset < end)
    }

    fn absent(&self) -> impl Iterator<Item = (i64, i64)> {
        let ranges = self.document["balance"]["absent"].as_array().into_iter().flatten();
        // A range that does not say where it is covers everything, which no log allows.
        ranges.map(|range| (number(range, "first").unwrap_or(i64::MIN), number(range, "end").unwrap_or(i64::MAX)))
    }
}

/// Whether retention or compaction took a record of the range.
pub(crate) fn is_thinned(log: &Log, first: i64, end: i64) -> bool {
    log.removed.range(first..end).next().is_some()
}

/// The stored layouts by their fingerprints: each must be one that a process was configured with.
pub(crate) fn layouts(state: &State) -> Result<BTreeMap<String, &'static Layout>, String> {
    let mut layouts = BTreeMap::new();
    for ((bucket, key), object) in &state.buckets.objects {
        let Some(fingerprint) = key.strip_prefix("_siltstone/layouts/").filter(|_| *bucket == "a") else { continue };
        let document: Value = serde_json::from_slice(&object.bytes).map_err(|error| format!("{key}: {error}"))?;
        let layout = layout_in(&document).ok_or_else(|| format!("{key} is nobody's layout: {document}"))?;
        let layout = &LAYOUTS[layout];
        layouts.insert(fingerprint.trim_end_matches(".json").to_string(), layout);
    }
    Ok(layouts)
}

/// Which layout a stored one is: an index among those that processes are configured with.
pub(crate) fn layout_in(document: &Value) -> Option<usize> {
    let outputs = document["outputs"].as_array()?.iter();
    let told = outputs.map(|output| (output["name"].as_str(), output["place"]["path"].as_str()));
    let is_it = |layout: &Layout| told.clone().eq(layout.outputs.iter().map(|(name, path)| (Some(*name), Some(*path))));
    LAYOUTS.iter().position(is_it)
}

fn documents(state: &State, partition: &TopicPartition, log: &Log, extension: &str) -> Result<Vec<Value>, String> {
    let generation = if log.incarnation > 1 { format!(".g{}", log.incarnation) } else { String::new() };
    let folder = format!("_siltstone/receipts/v1/{TOPIC}/{:05}{generation}/", partition.partition);
    let found = state
        .buckets
        .objects
        .iter()
        .filter(|((bucket, key), _)| *bucket == "a" && key.starts_with(&folder) && key.ends_with(extension));
    found
        .map(|((_, key), object)| serde_json::from_slice(&object.bytes).map_err(|error| format!("{key}: {error}")))
        .collect()
}

/// The receipts in the folds of a log. Folds that overlap say the same.
fn folded(state: &State, partition: &TopicPartition, log: &Log) -> Result<Vec<Value>, String> {
    let generation = if log.incarnation > 1 { format!(".g{}", log.incarnation) } else { String::new() };
    let folder = format!("_siltstone/receipts/v1/{TOPIC}/{:05}{generation}/folded/", partition.partition);
    let mut folded = Vec::new();
    for ((bucket, key), object) in &state.buckets.objects {
        if *bucket != "a" || !key.starts_with(&folder) {
            continue;
        }
        let mut text = String::new();
        let read = flate2::read::MultiGzDecoder::new(&object.bytes[..]).read_to_string(&mut text);
        read.map_err(|error| format!("{key}: {error}"))?;
        for line in text.lines().skip(1) {
            folded.push(serde_json::from_str(line).map_err(|error| format!("{key}: {error}"))?);
        }
    }
    Ok(folded)
}

/// Whether `folded` names all that `beside`, of the same batch, names, and not the other way round.
fn knows_more(folded: &Value, beside: &Value) -> bool {
    let same = |name: &str| folded[name] == beside[name];
    same("end") && same("fingerprint") && beside["lost"].is_null() && covers(folded, beside) && !covers(beside, folded)
}

fn covers(one: &Value, other: &Value) -> bool {
    let objects = |receipt: &Value| receipt["objects"].as_array().cloned().unwrap_or_default();
    let is_same = |ours: &Value, theirs: &Value| {
        let same = |name: &str| ours[name] == theirs[name];
        same("destination") && same("key") && same("bytes") && (theirs["sha256"].is_null() || same("sha256"))
    };
    let ours = objects(one);
    one["balance"]["consumed"].as_u64() >= other["balance"]["consumed"].as_u64()
        && objects(other).iter().all(|theirs| ours.iter().any(|ours| is_same(ours, theirs)))
}

fn number(document: &Value, name: &str) -> Result<i64, String> {
    document.get(name).and_then(Value::as_i64).ok_or_else(|| format!("{name} is missing in {document}"))
}

/// All receipts of a log, by their first offsets.
pub(crate) fn all(
    state: &State,
    layouts: &BTreeMap<String, &'static Layout>,
    partition: &TopicPartition,
    log: &Log,
) -> Result<Vec<Receipt>, String> {
    let mut by_first = BTreeMap::new();
    for folded in folded(state, partition, log)? {
        by_first.insert(number(&folded, "first")?, folded);
    }
    for beside in documents(state, partition, log, ".json")? {
        let first = number(&beside, "first")?;
        // One that a process which was stopped for long has written beside a fold that knows more.
        if !by_first.get(&first).is_some_and(|folded| knows_more(folded, &beside)) {
            by_first.insert(first, beside);
        }
    }
    let documents: Vec<Value> = by_first.into_values().collect();
    let receipt = |document: Value| {
        let fingerprint = document["fingerprint"].as_str().unwrap_or_default();
        let layout = layouts.get(fingerprint).ok_or_else(|| format!("no layout is stored for {document}"))?;
        Ok(Receipt { first: number(&document, "first")?, end: number(&document, "end")?, layout, document })
    };
    documents.into_iter().map(receipt).collect()
}

/// Receipts chain from the first one to the committed offset.
pub(crate) fn check_chain(
    state: &State,
    partition: &TopicPartition,
    log: &Log,
    receipts: &[Receipt],
    reached: Reached,
) -> Result<(), String> {
    let committed = state.group.offsets.get(partition);
    let is_ours = |metadata: &str| metadata.contains(&format!("id-{}", log.incarnation));
    let begin = match (receipts.first(), reached) {
        (Some(receipt), _) => receipt.first,
        (None, Reached::End) => log.stable,
        (None, Reached::Standstill) => {
            committed.filter(|committed| is_ours(&committed.metadata)).map_or(0, |committed| committed.offset)
        }
    };
    // Before the first batch only what retention had taken before anybody looked.
    let missed = log.produced.iter().find(|(offset, _)| *offset < begin && !log.removed.contains(offset));
    if let Some((offset, _)) = missed {
        return Err(format!("{partition}: the archive begins at {begin}, behind record {offset}"));
    }
    let mut position = begin;
    for receipt in receipts {
        if receipt.first != position {
            let first = receipt.first;
            return Err(format!("{partition}: a receipt begins at {first}, the one before ends at {position}"));
        }
        position = receipt.end;
    }
    if log.deleted {
        return Ok(());
    }
    let agrees = match reached {
        Reached::End => committed.is_some_and(|committed| committed.offset == position),
        Reached::Standstill => {
            committed.is_none_or(|committed| committed.offset <= position || !is_ours(&committed.metadata))
        }
    };
    let committed = committed.map(|committed| committed.offset);
    agrees.then_some(()).ok_or_else(|| format!("{partition}: receipts reach {position}, committed is {committed:?}"))
}

/// Every claim was carried out as it is, or is that of the batch that is open.
pub(crate) fn check_claims(
    state: &State,
    partition: &TopicPartition,
    log: &Log,
    receipts: &[Receipt],
    reached: Reached,
) -> Result<(), String> {
    let open_at = receipts.last().map(|receipt| receipt.end);
    for claim in documents(state, partition, log, ".claim")? {
        let (first, end) = (number(&claim, "first")?, number(&claim, "end")?);
        // A claim may land after its partition was begun anew further on, where retention has taken what was before.
        if receipts.first().is_some_and(|receipt| end <= receipt.first) {
            continue;
        }
        // What was claimed of a topic that is gone may stay unfinished.
        let may_be_open =
            log.deleted || (reached == Reached::Standstill && open_at.is_none_or(|open_at| open_at == first));
        match receipts.iter().find(|receipt| receipt.first == first && receipt.end == end) {
            Some(receipt) if !is_thinned(log, first, end) => check_announced(&claim, receipt)?,
            None if !may_be_open => return Err(format!("{partition}: the claim of [{first}, {end}) has no receipt")),
            _ => {}
        }
    }
    Ok(())
}

/// What a batch has put is what its claim announced.
fn check_announced(claim: &Value, receipt: &Receipt) -> Result<(), String> {
    let places = |document: &Value, list: &str| -> BTreeSet<(String, String)> {
        let objects = document[list].as_array().into_iter().flatten();
        let text = |object: &Value, name: &str| object[name].as_str().unwrap_or_default().to_string();
        objects.map(|object| (text(object, "destination"), text(object, "key"))).collect()
    };
    let (announced, put) = (places(claim, "keys"), places(&receipt.document, "objects"));
    let (first, end) = (receipt.first, receipt.end);
    (announced == put).then_some(()).ok_or_else(|| format!("[{first}, {end}): announced {announced:?}, put {put:?}"))
}

/// What a receipt says became of its records is what must have become of them.
pub(crate) fn check_balance(log: &Log, receipt: &Receipt) -> Result<(), String> {
    let (first, end) = (receipt.first, receipt.end);
    let balance = &receipt.document["balance"];
    let of = |value: &Value| value.as_u64().unwrap_or(0);
    let consumed = of(&balance["consumed"]);
    let told = balance["outputs"].as_object().ok_or("a receipt without outputs")?;
    let in_range: Vec<_> = log.produced.iter().filter(|(offset, _)| receipt.covers(*offset)).collect();
    let thinned = is_thinned(log, first, end);
    for (name, _) in receipt.layout.outputs {
        let output = told.get(*name).ok_or_else(|| format!("[{first}, {end}): no balance of {name}"))?;
        let dropped: u64 = output["dropped"].as_object().into_iter().flat_map(|rules| rules.values()).map(of).sum();
        let refused = of(&output["dead_lettered"]);
        if of(&output["archived"]) + refused + dropped != consumed {
            return Err(format!("[{first}, {end}): {name} does not add up to {consumed}: {output}"));
        }
        let tombstones = in_range.iter().filter(|(_, record)| record.value.is_none()).count() as u64;
        let unfit = |value: &Vec<u8>| is_refused(name, value);
        let unfit = in_range.iter().filter(|(_, record)| record.value.as_ref().is_some_and(unfit)).count() as u64;
        let agrees =
            if thinned { dropped <= tombstones && refused <= unfit } else { (dropped, refused) == (tombstones, unfit) };
        if !agrees {
            return Err(format!("[{first}, {end}): {tombstones} to be dropped, {unfit} to be refused, but {output}"));
        }
    }
    if told.len() != receipt.layout.outputs.len() {
        return Err(format!("[{first}, {end}): outputs that the layout does not have: {balance}"));
    }
    let there = in_range.iter().filter(|(offset, _)| !log.removed.contains(offset)).count() as u64;
    if consumed < there || consumed > in_range.len() as u64 {
        return Err(format!("[{first}, {end}): {consumed} consumed of {}, {there} still there", in_range.len()));
    }
    for (absent_first, absent_end) in receipt.absent() {
        if absent_first < first || absent_end > end || absent_first >= absent_end {
            return Err(format!("[{first}, {end}): [{absent_first}, {absent_end}) is called absent"));
        }
        if !log.deleted && absent_end > log.start {
            let start = log.start;
            return Err(format!("[{first}, {end}): absent up to {absent_end}, but the log starts at {start}"));
        }
    }
    Ok(())
}

/// The objects that a receipt names are there, as it says.
pub(crate) fn check_objects(
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
        let rows = contents.get(&place).map_or(0, Vec::len);
        let vouched_rows = object["rows"].as_u64();
        if thinned && vouched_rows.is_some_and(|vouched| vouched > rows as u64) {
            return Err(format!("{object} has only {rows} rows"));
        }
        if !thinned {
            agree(object, found, rows)?;
        }
        vouched.insert(place);
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
