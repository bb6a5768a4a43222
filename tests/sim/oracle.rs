//! What must be true, whatever has happened: told from the buckets, the committed offsets and what was produced, with no
//! code of the archiver's.
//!
//! Records that retention or compaction took are the only ones that may be missing. A range that lost some of them is
//! *thinned*: there, an object of an earlier try may hold more rows than its receipt says, and may even be one that no
//! receipt names.

use crate::log::Log;
use crate::payload::rows_wanted;
use crate::receipts::{self, Receipt, is_thinned};
use crate::rows::{Place, RowId, What, named, rows_of, what_of};
use crate::state::State;
use crate::store::Object;
use siltstone::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) records: usize,
    pub(crate) batches: usize,
    pub(crate) objects: usize,
    /// Dead letters that are not the first one of their record.
    pub(crate) further_letters: usize,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.batches += other.batches;
        self.objects += other.objects;
        self.further_letters += other.further_letters;
    }
}

/// How far the run came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Everything is archived, as far as the group knows.
    End,
    /// Something stands still: what is open may be half done, and nothing else.
    Standstill,
}

/// The rows of every data object, by bucket and key.
pub(crate) type Contents = BTreeMap<(&'static str, String), Vec<RowId>>;

/// Checks everything. The first thing that is wrong is told.
pub(crate) fn check(state: &State, reached: Reached) -> Result<Count, String> {
    let mut count = Count::default();
    let contents = contents(state)?;
    let layouts = receipts::layouts(state)?;
    let deleted = state.deleted_logs.iter().map(|(partition, log)| (partition, log));
    for (partition, log) in state.logs.iter().chain(deleted) {
        let receipts = receipts::all(state, &layouts, partition, log)?;
        receipts::check_chain(state, partition, log, &receipts, reached)?;
        receipts::check_claims(state, partition, log, &receipts, reached)?;
        let mut vouched = BTreeSet::new();
        for receipt in &receipts {
            receipts::check_balance(log, receipt)?;
            receipts::check_objects(state, &contents, log, receipt, &mut vouched)?;
        }
        check_strangers(&contents, partition, log, &receipts, &vouched, reached)?;
        check_rows(&contents, partition, log, &receipts)?;
        count.records += log.produced.len();
        count.batches += receipts.len();
    }
    check_replaced(state, &contents)?;
    count.objects = contents.len();
    count.further_letters = contents.values().flatten().filter(|row| row.place.index > 0).count();
    Ok(count)
}

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

/// Objects that no receipt names: only a thinned range may have left them, or a batch that is still open.
fn check_strangers(
    contents: &Contents,
    partition: &TopicPartition,
    log: &Log,
    receipts: &[Receipt],
    vouched: &BTreeSet<(&'static str, String)>,
    reached: Reached,
) -> Result<(), String> {
    let open_at = receipts.last().map(|receipt| receipt.end);
    for place in contents.keys().filter(|place| !vouched.contains(*place)) {
        let Some(name) = named(&place.1) else { continue };
        if name.partition != partition.partition || name.generation != log.incarnation || log.deleted {
            continue;
        }
        if reached == Reached::Standstill && open_at.is_none_or(|open_at| open_at == name.first) {
            continue;
        }
        let known = receipts.iter().any(|receipt| receipt.first == name.first && receipt.end == name.end);
        if !known || !is_thinned(log, name.first, name.end) {
            return Err(format!("{} is named by no receipt", place.1));
        }
    }
    Ok(())
}

/// Every record that a receipt covers has exactly the rows that its layout asks for; one that none covers has none twice.
fn check_rows(contents: &Contents, partition: &TopicPartition, log: &Log, receipts: &[Receipt]) -> Result<(), String> {
    let mut rows: BTreeMap<i64, BTreeMap<(What, &Place), usize>> = BTreeMap::new();
    for ((_, key), found) in contents {
        let Some(what) = what_of(key) else { return Err(format!("{key} is nobody's")) };
        let ours = |row: &&RowId| row.partition == partition.partition && row.incarnation == log.incarnation;
        for row in found.iter().filter(ours) {
            *rows.entry(row.offset).or_default().entry((what, &row.place)).or_insert(0) += 1;
        }
    }
    for (offset, record) in &log.produced {
        let receipt = receipts.iter().find(|receipt| receipt.covers(*offset));
        let outputs = receipt.map_or(&[][..], |receipt| receipt.layout.outputs);
        let wanted = rows_wanted(outputs, record.value.as_deref());
        let mut found = rows.remove(offset).unwrap_or_default();
        if let Some(((what, place), times)) = found.iter().find(|(_, times)| **times > 1) {
            return Err(format!("DOUBLED: {partition} offset {offset} is {times} times in {what:?} as {place:?}"));
        }
        let Some(receipt) = receipt else { continue };
        for (what, place) in &wanted {
            let is_there = found.remove(&(*what, place)).is_some();
            let may_be_missing =
                log.compacted.contains(offset) || log.removed.contains(offset) && receipt.says_absent(*offset);
            if !is_there && !may_be_missing {
                return Err(format!("LOST: {partition} offset {offset} is not in {what:?} as {place:?}"));
            }
        }
        if let Some((what, place)) = found.keys().next() {
            return Err(format!("DOUBLED: {partition} offset {offset} must not be in {what:?} as {place:?}"));
        }
    }
    match rows.iter().next() {
        Some((offset, found)) => Err(format!("{partition} offset {offset} was never produced: {found:?}")),
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
