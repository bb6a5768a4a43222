//! Folds: receipts of a Kafka partition that follow each other, in one document, so that a year of them stays cheap to read.
//!
//! `_siltstone/receipts/v1/{topic}/{partition:05}/folded/{first:020}-{end:020}.jsonl.gz`, made by [`super::folding`].
//!
//! - **K-5** A fold is put whole, under a name that nothing had, and is never changed or deleted. Only when it has been read back are the
//!   receipts in it deleted, each only while it says what the fold has of it.
//! - **K-6** So every receipt is in the bucket at any time, beside the folds or in one. Whoever lists receipts first and folds afterwards sees
//!   each at least once. A claim without a receipt is unfinished only if no fold has its `first` either.
//! - **K-7** Where both are there, the receipt beside counts: a batch was mended after it had been folded. But one of the same batch that names
//!   nothing the folded one lacks, and not all that it has, and tells of no lost rows, is of a process that was stopped for long: there the
//!   folded one counts ([`prevailing`]). [`Bucket::receipt`], for whoever reads many, takes the one beside without a look into the folds.
//!
//! Claims are never folded. A claim is made by creating an object that is absent: one cut per `first`, for ever (K-1). Were it deleted, a process
//! that was stopped before its create, however long ago, would make it anew when it wakes, with another cut. A receipt has no such power.
//!
//! # The document, version 1
//! Lines of JSON, compressed with gzip. The first is a header; each other line is a receipt as it was ([`super::receipt`], whatever its version),
//! in offset order:
//! ```json
//! {"version": 1, "topic": "access", "partition": 3, "generation": 1, "first": 0, "end": 1000000, "count": 1000}
//! ```
//! `first` and `end` are those of its first and its last receipt, as in its name; offsets between that no receipt covers are nobody's. It follows
//! from its receipts alone, so two processes that fold the same put the same text. Ranges of two folds overlap only where two processes folded at
//! the same time and one of them saw a receipt more; what both have, both have alike. Readers accept fields they do not know and refuse
//! versions they do not know.

use super::receipt::{Receipt, parse_receipt};
use super::{Bucket, BucketError, receipts_folder};
use crate::planted::{Bug, has};
use crate::record::{OffsetRange, TopicPartition};
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Version of the stored form.
pub const FOLD_VERSION: u32 = 1;

/// Most bytes of a fold's text, in memory while it is read. What is made is smaller ([`super::folding::FOLD_BYTES_MAX`]).
pub const FOLD_TEXT_MAX: usize = 64 << 20;

/// Bytes of folds' texts that a bucket keeps for look-ups that follow each other: one of the largest that are made, with its header.
const KEPT_TEXT_MAX: usize = super::folding::FOLD_BYTES_MAX + (1 << 20);
/// And so many folds at most.
const KEPT_MAX: usize = 4;

/// Folder of the folds, in that of their receipts. It sorts behind every receipt.
const FOLDED_FOLDER: &str = "folded";
const EXTENSION: &str = ".jsonl.gz";

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FoldHeader {
    pub(super) version: u32,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) generation: u32,
    pub(super) first: i64,
    pub(super) end: i64,
    pub(super) count: usize,
}

/// What is read of a line before anybody asks for it.
#[derive(Deserialize)]
struct Cut {
    first: i64,
    end: i64,
}

/// A fold that was read: its text, and where each receipt is in it.
#[derive(Debug)]
pub struct Fold {
    key: String,
    destination: String,
    partition: TopicPartition,
    generation: u32,
    range: OffsetRange,
    text: String,
    lines: BTreeMap<i64, Range<usize>>,
}

impl Fold {
    /// From the first offset of its first receipt to the end of its last one.
    pub fn range(&self) -> OffsetRange {
        self.range
    }

    /// First offsets of its receipts.
    pub fn firsts(&self) -> impl Iterator<Item = i64> {
        self.lines.keys().copied()
    }

    /// Whether it has the receipt of `first`.
    pub fn has(&self, first: i64) -> bool {
        self.lines.contains_key(&first)
    }

    /// Its receipt of `first`; `None` where it has none.
    ///
    /// # Errors
    /// [`BucketError::Unreadable`] and [`BucketError::Newer`], with the fold's key.
    pub fn receipt(&self, first: i64) -> Result<Option<Receipt>, BucketError> {
        let Some(line) = self.lines.get(&first) else { return Ok(None) };
        let bytes = self.text[line.clone()].as_bytes();
        parse_receipt((&self.key, &self.destination), &self.partition, first, bytes).map(Some)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn is_of(&self, partition: &TopicPartition, generation: u32) -> bool {
        self.generation == generation && self.partition == *partition
    }
}

/// Folds whose ranges overlap: mostly one.
#[derive(Clone, Debug, Default)]
pub struct Folds(Vec<Arc<Fold>>);

impl Folds {
    /// First offsets of all their receipts, in order.
    pub fn firsts(&self) -> BTreeSet<i64> {
        self.0.iter().flat_map(|fold| fold.firsts()).collect()
    }

    /// The receipt of `first` in any of them; `None` where none has it.
    ///
    /// # Errors
    /// As [`Fold::receipt`].
    pub fn receipt(&self, first: i64) -> Result<Option<Receipt>, BucketError> {
        let mut found: Option<Receipt> = None;
        for fold in &self.0 {
            if let Some(receipt) = fold.receipt(first)? {
                found = Some(match found {
                    Some(other) => prevailing(other, receipt),
                    None => receipt,
                });
            }
        }
        Ok(found)
    }
}

/// Which of two receipts of one `first` counts (K-7).
pub fn prevailing(beside: Receipt, folded: Receipt) -> Receipt {
    if folded_prevails(&beside, &folded) { folded } else { beside }
}

pub(super) fn folded_prevails(beside: &Receipt, folded: &Receipt) -> bool {
    beside.is_of_batch(folded) && beside.lost.is_empty() && folded.covers(beside) && !beside.covers(folded)
}

/// A piece of a Kafka partition's receipts, in offset order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// Documents of their own, by first offset.
    Beside(Vec<i64>),
    /// What these folds have, with documents of their own in between.
    Folded {
        /// The folds: their ranges overlap.
        folds: Vec<OffsetRange>,
        /// First offsets of documents in the folds' range.
        beside: Vec<i64>,
    },
}

/// Puts documents of their own and folds in offset order. Both are sorted.
pub fn stretches(beside: &[i64], folds: Vec<OffsetRange>) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut left = beside;
    let mut take_below = |offset: i64| {
        let (taken, rest) = left.split_at(left.partition_point(|&first| first < offset));
        left = rest;
        taken.to_vec()
    };
    let mut folds = folds.into_iter().peekable();
    while let Some(fold) = folds.next() {
        let before = take_below(fold.first);
        if !before.is_empty() {
            stretches.push(Stretch::Beside(before));
        }
        let (mut group, mut end) = (vec![fold], fold.end);
        while let Some(next) = folds.next_if(|next| next.first < end) {
            end = end.max(next.end);
            group.push(next);
        }
        stretches.push(Stretch::Folded { folds: group, beside: take_below(end) });
    }
    let behind = take_below(i64::MAX);
    if !behind.is_empty() {
        stretches.push(Stretch::Beside(behind));
    }
    stretches
}

/// Folds that were read a moment ago. They never change, so they are as good as new.
#[derive(Debug, Default)]
pub(super) struct KeptFolds {
    kept: Mutex<VecDeque<Arc<Fold>>>,
    /// Held while one is read: whoever waits finds it among the kept ones then, and no two are in memory twice.
    reading: tokio::sync::Mutex<()>,
}

impl KeptFolds {
    /// The fold of that range.
    fn fold(&self, partition: &TopicPartition, generation: u32, range: OffsetRange) -> Option<Arc<Fold>> {
        self.find(|fold| fold.range == range && fold.is_of(partition, generation))
    }

    fn find(&self, is_it: impl Fn(&Fold) -> bool) -> Option<Arc<Fold>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|fold| is_it(fold)).cloned()
    }

    fn keep(&self, fold: &Arc<Fold>) {
        if fold.text.len() > KEPT_TEXT_MAX {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(fold.clone());
        while kept.len() > KEPT_MAX || kept.iter().map(|fold| fold.text.len()).sum::<usize>() > KEPT_TEXT_MAX {
            kept.pop_front();
        }
    }
}

/// Key of the fold of that range.
pub fn fold_key(partition: &TopicPartition, generation: u32, range: OffsetRange) -> String {
    let (folder, OffsetRange { first, end }) = (receipts_folder(partition, generation), range);
    format!("{folder}/{FOLDED_FOLDER}/{first:020}-{end:020}{EXTENSION}")
}

fn parse_name(name: &str) -> Option<OffsetRange> {
    let (first, end) = name.strip_suffix(EXTENSION)?.split_once('-')?;
    let offset = |digits: &str| {
        let well_formed = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        well_formed.then(|| digits.parse::<i64>().ok()).flatten()
    };
    let range = OffsetRange::new(offset(first)?, offset(end)?);
    (range.first <= range.end).then_some(range)
}

/// The text of a fold of these receipts, by first offset and end, in offset order. JSON holds no line break but between its words.
pub(super) fn fold_text(header: &FoldHeader, bodies: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut text = super::to_json(header).into_bytes();
    for body in bodies {
        text.push(b'\n');
        text.extend(body.as_ref().iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
    }
    text.push(b'\n');
    text
}

pub(super) fn compressed(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    let written = encoder.write_all(text).and_then(|()| encoder.finish());
    written.expect("memory takes everything")
}

impl Bucket {
    /// The ranges of a Kafka partition's folds, in order. Lists their folder alone: a page for each thousand folds.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn folds(&self, partition: &TopicPartition) -> Result<Vec<OffsetRange>, BucketError> {
        if has(Bug::FoldsIgnored) {
            return Ok(Vec::new());
        }
        let key = format!("{}/{FOLDED_FOLDER}", receipts_folder(partition, self.generation));
        let folder = self.destination.path(&key)?;
        let mut objects = self.destination.store().list(Some(&folder));
        let mut folds = BTreeSet::new();
        while let Some(object) = objects.try_next().await.map_err(|error| self.store_error("list", &key, &error))? {
            folds.extend(object.location.filename().and_then(parse_name));
        }
        Ok(folds.into_iter().collect())
    }

    /// The folds of these ranges, which were listed.
    ///
    /// # Errors
    /// [`BucketError`]; [`BucketError::Unreadable`] where one is gone or is not what its name says.
    pub async fn read_folds(&self, partition: &TopicPartition, ranges: &[OffsetRange]) -> Result<Folds, BucketError> {
        let mut folds = Vec::new();
        for &range in ranges {
            folds.push(self.read_fold(partition, range).await?);
        }
        Ok(Folds(folds))
    }

    /// The fold of that range, which was listed.
    ///
    /// # Errors
    /// As [`Bucket::read_folds`].
    pub async fn read_fold(&self, partition: &TopicPartition, range: OffsetRange) -> Result<Arc<Fold>, BucketError> {
        if let Some(kept) = self.kept_folds.fold(partition, self.generation, range) {
            return Ok(kept);
        }
        // By a task of its own: whoever asks may be put aside for long, and others wait for the same lock.
        let (bucket, of) = (self.clone(), partition.clone());
        let read = async move { bucket.read_fold_alone(&of, range).await };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let read = runtime.spawn(read).await;
                read.unwrap_or_else(|error| {
                    let key = fold_key(partition, self.generation, range);
                    Err(self.damaged_fold(&key, range, format!("reading it has failed: {error}")))
                })
            }
            Err(_) => read.await,
        }
    }

    /// One at a time.
    async fn read_fold_alone(&self, partition: &TopicPartition, range: OffsetRange) -> Result<Arc<Fold>, BucketError> {
        let _one_at_a_time = self.kept_folds.reading.lock().await;
        if let Some(kept) = self.kept_folds.fold(partition, self.generation, range) {
            return Ok(kept);
        }
        let key = fold_key(partition, self.generation, range);
        let Some(bytes) = self.get(&key).await? else {
            return Err(self.damaged_fold(&key, range, "somebody has deleted it"));
        };
        let fold = Arc::new(self.parse_fold(partition, range, &bytes)?);
        self.kept_folds.keep(&fold);
        Ok(fold)
    }

    /// The receipt of `first` that a fold has. Lists the folds, unless one that was just read has it.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn folded_receipt(&self, partition: &TopicPartition, first: i64) -> Result<Option<Receipt>, BucketError> {
        let is_it = |fold: &Fold| fold.has(first) && fold.is_of(partition, self.generation);
        if let Some(kept) = self.kept_folds.find(is_it).filter(|_| !has(Bug::FoldsIgnored)) {
            return kept.receipt(first);
        }
        let mut ranges = self.folds(partition).await?;
        ranges.retain(|range| range.contains(first));
        self.read_folds(partition, &ranges).await?.receipt(first)
    }

    /// The receipt of the batch that begins at `first`, beside the folds or, where there is none, in one; `None` where there is none either.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn receipt(&self, partition: &TopicPartition, first: i64) -> Result<Option<Receipt>, BucketError> {
        match self.get_receipt(partition, first).await? {
            Some(receipt) => Ok(Some(receipt)),
            None => self.folded_receipt(partition, first).await,
        }
    }

    /// The receipt of the batch that begins at `first` that counts (K-7), whether there is another one or not. Lists the folds.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn counting_receipt(
        &self,
        partition: &TopicPartition,
        first: i64,
    ) -> Result<Option<Receipt>, BucketError> {
        let beside = self.get_receipt(partition, first).await?;
        let folded = self.folded_receipt(partition, first).await?;
        Ok(match (beside, folded) {
            (Some(beside), Some(folded)) => Some(prevailing(beside, folded)),
            (beside, folded) => beside.or(folded),
        })
    }

    /// A fold that is not what its name says. Its receipts are nowhere else, so nothing but another copy of it helps.
    fn damaged_fold(&self, key: &str, range: OffsetRange, what: impl std::fmt::Display) -> BucketError {
        self.unreadable(
            key,
            format!(
                "{what}. It is a fold and alone has the receipts of offsets {range}: put it back as it was, from a backup or an older version of the \
                 bucket, and do not delete it. Until then these offsets are not archived again; others are"
            ),
        )
    }

    pub(super) fn parse_fold(
        &self,
        partition: &TopicPartition,
        range: OffsetRange,
        bytes: &[u8],
    ) -> Result<Fold, BucketError> {
        let key = fold_key(partition, self.generation, range);
        let mut text = String::new();
        let limit = FOLD_TEXT_MAX as u64 + 1;
        let read = MultiGzDecoder::new(bytes).take(limit).read_to_string(&mut text);
        read.map_err(|error| self.damaged_fold(&key, range, format!("it is no gzip of text: {error}")))?;
        // It grew by doubling.
        text.shrink_to_fit();
        if text.len() > FOLD_TEXT_MAX {
            return Err(self.damaged_fold(&key, range, format!("its text is longer than {FOLD_TEXT_MAX} bytes")));
        }
        let mut lines = BTreeMap::new();
        let (mut at, mut header, mut end) = (0, None, range.first);
        for line in text.split_inclusive('\n') {
            let place = at..at + line.trim_end().len();
            at += line.len();
            let line = &text[place.clone()];
            if header.is_none() {
                let read: Result<FoldHeader, _> = self.parse(&key, line.as_bytes(), FOLD_VERSION);
                header = Some(read.map_err(|error| match error {
                    BucketError::Unreadable { what, .. } => self.damaged_fold(&key, range, what),
                    other => other,
                })?);
                continue;
            }
            let cut: Cut = serde_json::from_str(line).map_err(|error| self.damaged_fold(&key, range, error))?;
            if lines.last_key_value().is_some_and(|(&before, _)| cut.first <= before) {
                return Err(self.damaged_fold(
                    &key,
                    range,
                    format!("its receipts are not in order at offset {}", cut.first),
                ));
            }
            end = end.max(cut.end);
            lines.insert(cut.first, place);
        }
        let expected = |header: &FoldHeader| {
            header.topic == *partition.topic
                && (header.partition, header.generation) == (partition.partition, self.generation)
                && (header.first, header.end) == (range.first, range.end)
                && header.count == lines.len()
                && (lines.first_key_value().map(|(&first, _)| first), end) == (Some(range.first), range.end)
        };
        if !header.as_ref().is_some_and(expected) {
            let what = format!("it holds {} receipts up to offset {end}, and its header says {header:?}", lines.len());
            return Err(self.damaged_fold(&key, range, what));
        }
        let destination = self.destination.id().to_string();
        Ok(Fold { key, destination, partition: partition.clone(), generation: self.generation, range, text, lines })
    }
}

#[cfg(test)]
#[path = "folds/tests.rs"]
mod tests;
