//! Finding claims and receipts of a Kafka partition: what takeover reads.
//!
//! All of them lie in one folder per Kafka partition, named by first offset, so a listing is in offset order and can
//! begin anywhere. Names that are neither a claim's nor a receipt's are passed over.
//!
//! Old receipts are in folds ([`super::folds`]). What follows a committed offset is hardly ever: the newest receipts are never folded
//! ([`super::folding`]), so where nothing is listed from an offset on, no fold reaches beyond it, and none is looked for.

use super::claim::Claim;
use super::folds::{Folds, Stretch, prevailing, stretches};
use super::receipt::Receipt;
use super::{Bucket, BucketError, RECEIPTS_FOLDER, receipts_folder};
use crate::destination::StoreKind;
use crate::record::{OffsetRange, TopicPartition};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;

/// Documents read side by side.
const READS_MAX: usize = 8;

/// What the bucket holds about the batch that begins at `first`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First offset of the batch.
    pub first: i64,
    /// Its claim.
    pub claim: Option<Claim>,
    /// Its receipt.
    pub receipt: Option<Receipt>,
}

impl Entry {
    /// The id that the topic had, where its claim or receipt tells.
    pub fn topic_id(&self) -> Option<&String> {
        let receipt = self.receipt.as_ref().and_then(|receipt| receipt.topic_id.as_ref());
        receipt.or(self.claim.as_ref().and_then(|claim| claim.topic_id.as_ref()))
    }

    /// Where the batch ends: what its receipt says, or else its claim.
    pub fn reach(&self) -> i64 {
        let receipt = self.receipt.as_ref().map(|receipt| receipt.end);
        receipt.or(self.claim.as_ref().map(|claim| claim.end)).unwrap_or(self.first)
    }
}

/// Which documents there are about the batch that begins at `first`, without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// First offset of the batch.
    pub first: i64,
    /// There is a claim.
    pub claim: bool,
    /// There is a receipt, alone or in a fold.
    pub receipt: bool,
    /// A fold has one, whether there is another beside it or not.
    pub folded: bool,
}

impl Listed {
    fn new(first: i64) -> Self {
        Self { first, claim: false, receipt: false, folded: false }
    }

    /// Of a batch that was not listed: there may be both documents.
    pub fn assumed(first: i64) -> Self {
        Self { claim: true, receipt: true, ..Self::new(first) }
    }
}

/// What is listed of a Kafka partition, as far as its folds can be read.
#[derive(Debug)]
pub struct AllListed {
    /// Batches in offset order. Those that a damaged fold has are not among them, or only as claims.
    pub listed: Vec<Listed>,
    /// Folds that cannot be read, in offset order.
    pub damaged: Vec<DamagedFold>,
}

/// A fold that cannot be read: nobody knows which batches of its range have a receipt in it.
#[derive(Debug)]
pub struct DamagedFold {
    /// From the first offset of its first receipt to the end of its last one: its name tells.
    pub range: OffsetRange,
    /// What is wrong with it, and what to do: [`BucketError::Unreadable`] or [`BucketError::Newer`].
    pub error: BucketError,
}

impl Bucket {
    /// Everything about batches that begin at or after `offset`, in offset order. Reads every document: meant for the few
    /// that follow a committed offset.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn entries_from(&self, partition: &TopicPartition, offset: i64) -> Result<Vec<Entry>, BucketError> {
        let names = self.names_from(partition, offset).await?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut ranges = self.folds(partition).await?;
        ranges.retain(|range| range.end > offset);
        let firsts: Vec<i64> = names.keys().copied().collect();
        let mut entries = Vec::new();
        for stretch in stretches(&firsts, ranges) {
            let (mut firsts, folds) = match stretch {
                Stretch::Beside(firsts) => (firsts, Folds::default()),
                Stretch::Folded { folds, beside } => (beside, self.read_folds(partition, &folds).await?),
            };
            firsts.extend(folds.firsts().into_iter().filter(|&first| first >= offset));
            firsts.sort_unstable();
            firsts.dedup();
            let folds = &folds;
            let reads = firsts.into_iter().map(|first| {
                let listed = names.get(&first).copied().unwrap_or(Listed::new(first));
                self.read_listed(partition, listed, Some(folds))
            });
            let read: Vec<Entry> = futures::stream::iter(reads).buffered(READS_MAX).try_collect().await?;
            entries.extend(read);
        }
        Ok(entries)
    }

    /// Everything about the batch that begins exactly at `first`; `None` where there is nothing.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn entry_at(&self, partition: &TopicPartition, first: i64) -> Result<Option<Entry>, BucketError> {
        self.entry_of(partition, Listed::assumed(first)).await
    }

    /// Everything about a batch that was listed; `None` where there is nothing any more.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn entry_of(&self, partition: &TopicPartition, listed: Listed) -> Result<Option<Entry>, BucketError> {
        let entry = self.read_listed(partition, listed, None).await?;
        Ok((entry.claim.is_some() || entry.receipt.is_some()).then_some(entry))
    }

    /// The last batch that begins below `offset`. Lists the partition's whole folder: for when the group's metadata is
    /// missing or an offset has no entry of its own.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn last_below(&self, partition: &TopicPartition, offset: i64) -> Result<Option<Entry>, BucketError> {
        let names = self.names_from(partition, 0).await?;
        let mut last = names.range(..offset).next_back().map(|(&first, _)| first);
        let mut ranges = self.folds(partition).await?;
        ranges.retain(|range| range.first < offset && last.is_none_or(|last| range.end > last));
        for range in ranges {
            let fold = self.read_fold(partition, range).await?;
            last = last.max(fold.firsts().take_while(|&first| first < offset).last());
        }
        match last {
            Some(first) => self.entry_at(partition, first).await,
            None => Ok(None),
        }
    }

    /// The last batch of all. Lists the partition's whole folder.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn highest(&self, partition: &TopicPartition) -> Result<Option<Entry>, BucketError> {
        self.last_below(partition, i64::MAX).await
    }

    /// Which documents there are about batches that begin at or after `offset`, in offset order. Reads the folds that reach beyond it, one
    /// after the other.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn listed_from(&self, partition: &TopicPartition, offset: i64) -> Result<Vec<Listed>, BucketError> {
        let AllListed { listed, damaged } = self.listed_with_damaged(partition, offset, i64::MAX).await?;
        damaged.into_iter().next().map_or(Ok(listed), |fold| Err(fold.error))
    }

    /// The same, but no further than one at or behind `until`, which is there where it has a document of its own. Folds that cannot be read are no
    /// error: nothing may be done about the offsets of their ranges. Lists no further where stores list in order, and reads only the folds that share
    /// an offset with what is asked for.
    ///
    /// # Errors
    /// [`BucketError`] of the store.
    pub async fn listed_with_damaged(
        &self,
        partition: &TopicPartition,
        offset: i64,
        until: i64,
    ) -> Result<AllListed, BucketError> {
        let mut names = self.names_between(partition, offset, until).await?;
        let mut damaged = Vec::new();
        if names.is_empty() && offset > 0 {
            return Ok(AllListed { listed: Vec::new(), damaged });
        }
        let mut ranges = self.folds(partition).await?;
        ranges.retain(|range| range.end > offset && range.first <= until);
        for range in ranges {
            let fold = match self.read_fold(partition, range).await {
                Ok(fold) => fold,
                Err(error @ (BucketError::Unreadable { .. } | BucketError::Newer { .. })) => {
                    damaged.push(DamagedFold { range, error });
                    continue;
                }
                Err(error) => return Err(error),
            };
            for first in fold.firsts().filter(|&first| first >= offset) {
                let listed = names.entry(first).or_insert(Listed::new(first));
                (listed.receipt, listed.folded) = (true, true);
            }
        }
        Ok(AllListed { listed: names.into_values().collect(), damaged })
    }

    /// Which documents of their own there are about batches that begin at or after `offset`, by first offset: without what folds have. A
    /// caller that wants all of it lists these before it lists the folds (K-6).
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn names_from(
        &self,
        partition: &TopicPartition,
        offset: i64,
    ) -> Result<BTreeMap<i64, Listed>, BucketError> {
        self.names_between(partition, offset, i64::MAX).await
    }

    async fn names_between(
        &self,
        partition: &TopicPartition,
        offset: i64,
        until: i64,
    ) -> Result<BTreeMap<i64, Listed>, BucketError> {
        let in_order = self.destination.kind() != StoreKind::File;
        let key = receipts_folder(partition, self.generation);
        let folder = self.destination.path(&key)?;
        // Right before both documents of `offset`, which have an extension each.
        let before = self.destination.path(&format!("{key}/{offset:020}"))?;
        let store = self.destination.store();
        let mut objects =
            if offset <= 0 { store.list(Some(&folder)) } else { store.list_with_offset(Some(&folder), &before) };
        let mut found: BTreeMap<i64, Listed> = BTreeMap::new();
        while let Some(object) = objects.try_next().await.map_err(|error| self.store_error("list", &key, &error))? {
            let Some((first, is_claim)) = object.location.filename().and_then(parse_name) else { continue };
            // Some stores and emulators take the offset as a hint only, and not all list in order.
            if first < offset {
                continue;
            }
            if in_order && found.range(until..).any(|(&beyond, _)| first > beyond) {
                break;
            }
            let listed = found.entry(first).or_insert(Listed::new(first));
            listed.claim |= is_claim;
            listed.receipt |= !is_claim;
        }
        Ok(found)
    }

    /// The Kafka partitions that have claims or receipts of this generation, by topic and number. Lists folders only.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn partitions(&self) -> Result<Vec<TopicPartition>, BucketError> {
        let mut partitions = Vec::new();
        for topic in self.folders(RECEIPTS_FOLDER).await? {
            for folder in self.folders(&format!("{RECEIPTS_FOLDER}/{topic}")).await? {
                let digits = folder.split('.').next().unwrap_or_default();
                let Ok(number) = digits.parse() else { continue };
                let partition = TopicPartition::new(topic.as_str(), number);
                let own = receipts_folder(&partition, self.generation);
                if own.rsplit_once('/').is_some_and(|(_, name)| name == folder) {
                    partitions.push(partition);
                }
            }
        }
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// Names of the folders in `folder`.
    async fn folders(&self, folder: &str) -> Result<Vec<String>, BucketError> {
        let path = self.destination.path(folder)?;
        let listed = match self.destination.store().list_with_delimiter(Some(&path)).await {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(self.store_error("list", folder, &error)),
        };
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_string)).collect())
    }

    /// `folds`: those that may have its receipt, where they are known; else they are looked for, if there is no other.
    async fn read_listed(
        &self,
        partition: &TopicPartition,
        listed: Listed,
        folds: Option<&Folds>,
    ) -> Result<Entry, BucketError> {
        let first = listed.first;
        let claim = if listed.claim { self.get_claim(partition, first).await? } else { None };
        let beside = if listed.receipt { self.get_receipt(partition, first).await? } else { None };
        let folded = match folds {
            Some(folds) => folds.receipt(first)?,
            None if listed.folded => self.folded_receipt(partition, first).await?,
            None => None,
        };
        let receipt = match (beside, folded) {
            (Some(beside), Some(folded)) => Some(prevailing(beside, folded)),
            (Some(beside), None) => Some(beside),
            (None, Some(folded)) => Some(folded),
            // It was listed and is gone, or was not looked for: folded since.
            (None, None) if listed.receipt => self.folded_receipt(partition, first).await?,
            (None, None) => None,
        };
        Ok(Entry { first, claim, receipt })
    }
}

/// First offset, and whether it is a claim.
pub(super) fn parse_name(name: &str) -> Option<(i64, bool)> {
    let (digits, extension) = name.split_once('.')?;
    let is_claim = match extension {
        "claim" => true,
        "json" => false,
        _ => return None,
    };
    let well_formed = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let first = well_formed.then(|| digits.parse().ok()).flatten()?;
    Some((first, is_claim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_others_are_passed_over() {
        let cases = [
            ("00000000000000000010.claim", Some((10, true))),
            ("09223372036854775807.json", Some((i64::MAX, false))),
            ("99999999999999999999.json", None),
            ("00000000000000000010.json.tmp", None),
            ("0000000000000000001.json", None),
            ("+0000000000000000010.json", None),
            (".DS_Store", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(parse_name(name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_parses_or_is_passed_over(name in ".*", first in 0..i64::MAX) {
            let _ = parse_name(&name);
            prop_assert_eq!(parse_name(&format!("{first:020}.claim")), Some((first, true)));
        }
    }
}
