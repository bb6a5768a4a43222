//! Making folds: who may, what is folded, and in which order.
//!
//! ```text
//! folds ─▶ receipts from the last fold on ─▶ leftovers deleted ─▶ the oldest thousand read ─▶ fold put ─▶ read back ─▶ receipts deleted
//! ```
//! - **K-8** A fold begins at or behind the end of the one before. It has [`Rules::fold`] receipts, the oldest that are in no fold, or as many
//!   of these as come to [`FOLD_BYTES_MAX`]; all of them older than [`Rules::min_age_ms`] and ending at or below an offset that the group has committed; the newest
//!   [`Rules::kept`] stay documents of their own. A receipt that is written later inside a fold's range stays one, too.
//! - **K-9** Nothing is folded while a backfill of that Kafka partition is under way, asked before the fold is put and before receipts are
//!   deleted: only backfills put receipts over others of batches that a group has committed. Right before receipts are deleted they are listed
//!   again, and one that is not what was read (time, size, version) stays.
//!
//! Any number of processes may fold one Kafka partition, and each may die anywhere: a fold whose receipts are still there is finished by
//! whoever folds next, before it makes another. Between the last look and the last delete that is sent lie 5 s by the process's
//! own clock ([`DELETES_MS_MAX`]), and a request may take its time: where a backfill begins and mends a batch meanwhile, its receipt may be
//! deleted. The folded one then counts again, `verify` sees that its objects are others, and `backfill --missing` mends it again.
//!
//! Memory: one fold's text twice, and its compressed form ([`FOLD_BYTES_MAX`]), one Kafka partition at a time.

use super::entries::parse_name;
use super::folds::{FOLD_TEXT_MAX, FOLD_VERSION, Fold, FoldHeader, compressed, fold_key, fold_text, folded_prevails};
use super::receipt::receipt_key;
use super::{Body, Bucket, BucketError, Created, receipts_folder};
use crate::clock::Clock;
use crate::destination::StoreKind;
use crate::effect::{Effect, requests};
use crate::planted::{Bug, has};
use crate::record::{OffsetRange, TopicPartition};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};

/// Receipts of a fold.
pub const FOLD: usize = 1_000;
/// The newest receipts, which are never folded.
pub const KEPT: usize = 1_000;
/// Receipts younger than this are not folded, unless somebody says so.
pub const MIN_AGE_MS: i64 = 24 * 3_600_000;
/// How long after its last look a process may go on to delete.
pub const DELETES_MS_MAX: i64 = 5_000;

/// Most bytes of the receipts of a fold: a thousand of 8 KiB, some twenty objects each. Of larger ones a fold has fewer.
pub const FOLD_BYTES_MAX: usize = 8 << 20;
const _: () = assert!(FOLD_BYTES_MAX + (1 << 20) <= FOLD_TEXT_MAX, "a fold that is made can be read");

/// Requests side by side.
const REQUESTS_MAX: usize = 8;

/// What is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Receipts of a fold. Less than [`FOLD`] is for tests.
    pub fold: usize,
    /// Receipts that stay.
    pub kept: usize,
    /// Age of the youngest receipt that is folded.
    pub min_age_ms: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { fold: FOLD, kept: KEPT, min_age_ms: MIN_AGE_MS }
    }
}

/// What is to be folded.
pub struct Task<'a> {
    /// Of this Kafka partition.
    pub partition: &'a TopicPartition,
    /// By these rules.
    pub rules: Rules,
    /// Only receipts that end at or below it.
    pub committed: i64,
    /// At most so many folds.
    pub folds_max: usize,
    /// Nothing is written, only counted.
    pub dry_run: bool,
    /// Whether to go on: asked before whatever is written.
    pub goes_on: &'a (dyn Fn() -> bool + Send + Sync),
    /// Tells the time.
    pub clock: &'a dyn Clock,
}

/// Why no more was folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There are too few receipts.
    Few,
    /// The oldest of them are too young, or not committed.
    Young,
    /// This backfill is under way.
    Job(String),
    /// The two oldest alone come to more than [`FOLD_BYTES_MAX`].
    Large,
    /// Somebody else writes there at the moment.
    Busy,
    /// There may be more, but so much was asked for.
    Enough,
    /// Whoever asked is not to go on.
    Stopped,
}

impl Rest {
    /// In words.
    pub fn text(&self) -> String {
        match self {
            Self::Few => "too few receipts are left".to_string(),
            Self::Young => "the rest is too young".to_string(),
            Self::Job(name) => format!("the backfill {name} is under way"),
            Self::Large => format!("the two oldest receipts alone come to more than {FOLD_BYTES_MAX} bytes"),
            Self::Busy => "another process writes receipts there at the moment".to_string(),
            Self::Enough => "there may be more".to_string(),
            Self::Stopped => "stopped".to_string(),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Folds that are made.
    pub folds: u64,
    /// Receipts in them.
    pub receipts: u64,
    /// Receipts deleted, those that earlier runs had left among them.
    pub deleted: u64,
    /// Why there are no more.
    pub rest: Rest,
}

/// A receipt that is a document of its own, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lying {
    size: u64,
    modified_ms: i64,
    version: (Option<String>, Option<String>),
}

/// A listed receipt that was read.
struct Taken {
    first: i64,
    end: i64,
    written_ms: Option<i64>,
    lying: Lying,
    body: Bytes,
}

/// How many of the oldest receipts come to no more than a fold takes, as they are listed.
fn count_that_fits(oldest: &[(i64, Lying)]) -> usize {
    let mut bytes = 0_u64;
    oldest
        .iter()
        .take_while(|(_, lying)| {
            bytes = bytes.saturating_add(lying.size).saturating_add(1);
            bytes <= FOLD_BYTES_MAX as u64
        })
        .count()
}

impl Bucket {
    /// Folds receipts of a Kafka partition, as the module says. Lists their folder from the last fold on: five pages or so where there is
    /// nothing to fold.
    ///
    /// # Errors
    /// [`BucketError`]; what was done by then stays done, and whoever folds next goes on from there.
    pub async fn fold_receipts(&self, task: &Task<'_>) -> Result<Done, BucketError> {
        let mut done = Done { folds: 0, receipts: 0, deleted: 0, rest: Rest::Enough };
        let mut behind = None;
        while done.folds < u64::try_from(task.folds_max).unwrap_or(u64::MAX) {
            if let Some(rest) = self.fold_once(task, &mut done, &mut behind).await? {
                done.rest = rest;
                break;
            }
        }
        Ok(done)
    }

    /// Makes one fold; `None`: it is made. `behind`, in a dry run: where the fold before would end.
    async fn fold_once(
        &self,
        task: &Task<'_>,
        done: &mut Done,
        behind: &mut Option<i64>,
    ) -> Result<Option<Rest>, BucketError> {
        let (partition, Rules { fold, kept, min_age_ms }) = (task.partition, task.rules);
        let folds = self.folds(partition).await?;
        let last = folds.last().copied();
        let end = folds.iter().map(|range| range.end).max();
        let from = behind.or(end).unwrap_or(0);
        let begin = behind.or(last.map(|last| last.first)).unwrap_or(0);
        let listed = self.lying_from(partition, begin, (from, fold + kept)).await?;
        if self.folds(partition).await? != folds {
            return Ok(Some(Rest::Busy));
        }
        if let Some(last) = last.filter(|_| behind.is_none() && !task.dry_run) {
            let fold = self.read_fold(partition, last).await?;
            if fold.firsts().any(|first| listed.contains_key(&first)) {
                if let Some(job) = self.job_of(partition).await? {
                    return Ok(Some(Rest::Job(job)));
                }
                let found: Vec<i64> = fold.firsts().filter(|first| listed.contains_key(first)).collect();
                self.delete_folded(task, &fold, &listed, found, done).await?;
            }
        }
        let mut unfolded = listed.range(from..);
        let mut oldest: Vec<(i64, Lying)> =
            unfolded.by_ref().take(fold).map(|(&first, lying)| (first, lying.clone())).collect();
        if oldest.len() < fold || unfolded.count() < kept {
            return Ok(Some(Rest::Few));
        }
        let before_ms = task.clock.wall_ms().saturating_sub(min_age_ms);
        if oldest.iter().any(|(_, lying)| lying.modified_ms > before_ms) {
            return Ok(Some(Rest::Young));
        }
        if let Some(job) = self.job_of(partition).await? {
            return Ok(Some(Rest::Job(job)));
        }
        // As they are listed: what is too large is not read.
        oldest.truncate(count_that_fits(&oldest));
        if oldest.len() < fold.min(2) {
            return Ok(Some(Rest::Large));
        }
        let reads = oldest.into_iter().map(|(first, lying)| self.take_receipt(partition, first, lying));
        let read: Vec<Option<Taken>> = futures::stream::iter(reads).buffered(REQUESTS_MAX).try_collect().await?;
        let Some(taken) = read.into_iter().collect::<Option<Vec<Taken>>>() else { return Ok(Some(Rest::Busy)) };
        if taken.iter().any(|taken| taken.end > task.committed || taken.written_ms.is_some_and(|ms| ms > before_ms)) {
            return Ok(Some(Rest::Young));
        }
        if taken.iter().map(|taken| taken.body.len() + 1).sum::<usize>() > FOLD_BYTES_MAX {
            return Ok(Some(Rest::Busy));
        }
        let receipts = taken.len() as u64;
        let range = OffsetRange::new(taken[0].first, taken.iter().map(|taken| taken.end).fold(0, i64::max));
        if task.dry_run {
            *behind = Some(range.end);
        } else {
            if !(task.goes_on)() {
                return Ok(Some(Rest::Stopped));
            }
            if let Some(rest) = self.put_and_delete(task, range, taken, done).await? {
                return Ok(Some(rest));
            }
        }
        done.folds += 1;
        done.receipts += receipts;
        Ok(None)
    }

    async fn put_and_delete(
        &self,
        task: &Task<'_>,
        range: OffsetRange,
        taken: Vec<Taken>,
        done: &mut Done,
    ) -> Result<Option<Rest>, BucketError> {
        let partition = task.partition;
        let firsts: Vec<i64> = taken.iter().map(|taken| taken.first).collect();
        let lying: BTreeMap<i64, Lying> = taken.iter().map(|taken| (taken.first, taken.lying.clone())).collect();
        if has(Bug::FoldDeletesFirst) {
            for &first in &firsts {
                self.delete_receipt(partition, first).await?;
            }
        }
        let header = FoldHeader {
            version: FOLD_VERSION,
            topic: partition.topic.to_string(),
            partition: partition.partition,
            generation: self.generation,
            first: range.first,
            end: range.end,
            count: taken.len(),
        };
        let bodies: Vec<Bytes> = taken.into_iter().map(|taken| taken.body).collect();
        let text = fold_text(&header, &bodies);
        drop(bodies);
        let fold = self.put_fold(partition, range, &text).await?;
        drop(text);
        if let Some(job) = self.job_of(partition).await? {
            return Ok(Some(Rest::Job(job)));
        }
        self.delete_folded(task, &fold, &lying, firsts, done).await?;
        Ok(None)
    }

    /// Puts a fold unless one of that range is there, and reads back what is.
    async fn put_fold(&self, partition: &TopicPartition, range: OffsetRange, text: &[u8]) -> Result<Fold, BucketError> {
        let key = fold_key(partition, self.generation, range);
        let body = Body { bytes: compressed(text).into(), content_type: "application/gzip" };
        let created = matches!(self.create(Effect::FoldPut, &key, body).await?, Created::Now);
        let Some(bytes) = self.get(&key).await? else {
            return Err(self.unreadable(&key, "it was put a moment ago and is not there"));
        };
        let fold = self.parse_fold(partition, range, &bytes)?;
        if created && fold.text().as_bytes() != text {
            return Err(self.unreadable(&key, "it was put a moment ago and reads otherwise"));
        }
        Ok(fold)
    }

    /// Deletes receipts that `fold`, which is in the bucket, has: each only while it is as it was `listed` and says what the fold has.
    async fn delete_folded(
        &self,
        task: &Task<'_>,
        fold: &Fold,
        listed: &BTreeMap<i64, Lying>,
        firsts: Vec<i64>,
        done: &mut Done,
    ) -> Result<(), BucketError> {
        let partition = task.partition;
        let alike = firsts.into_iter().map(|first| async move {
            let Some(folded) = fold.receipt(first)? else { return Ok(None) };
            let beside = self.get_receipt(partition, first).await?;
            let is_alike = |beside: &super::receipt::Receipt| *beside == folded || folded_prevails(beside, &folded);
            Ok::<_, BucketError>(beside.filter(is_alike).map(|_| first))
        });
        let alike: Vec<Option<i64>> = futures::stream::iter(alike).buffered(REQUESTS_MAX).try_collect().await?;
        let mut left: Vec<i64> = alike.into_iter().flatten().collect();
        // A store may be too slow for one look.
        while !left.is_empty() && (task.goes_on)() {
            let looked_ms = task.clock.monotonic_ms();
            let now = self.lying_from(partition, fold.range().first, (fold.range().end, 1)).await?;
            // Asked behind the look: a job that began before it is seen, and one that begins after it has to verify first.
            if self.job_of(partition).await?.is_some() {
                return Ok(());
            }
            left.retain(|first| now.contains_key(first) && now.get(first) == listed.get(first));
            let deletes = left.clone().into_iter().map(|first| async move {
                let in_time = task.clock.monotonic_ms() - looked_ms < DELETES_MS_MAX;
                match in_time && (task.goes_on)() {
                    true => self.delete_receipt(partition, first).await.map(|()| Some(first)),
                    false => Ok(None),
                }
            });
            let deleted: Vec<Option<i64>> = futures::stream::iter(deletes).buffered(REQUESTS_MAX).try_collect().await?;
            let deleted: BTreeSet<i64> = deleted.into_iter().flatten().collect();
            if deleted.is_empty() {
                break;
            }
            done.deleted += deleted.len() as u64;
            left.retain(|first| !deleted.contains(first));
        }
        Ok(())
    }

    async fn delete_receipt(&self, partition: &TopicPartition, first: i64) -> Result<(), BucketError> {
        let key = receipt_key(partition, self.generation, first);
        let path = self.destination.path(&key)?;
        match requests::delete(Effect::FoldedDelete, self.destination.store(), &path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.store_error("delete (a fold has it)", &key, &error)),
        }
    }

    async fn take_receipt(
        &self,
        partition: &TopicPartition,
        first: i64,
        lying: Lying,
    ) -> Result<Option<Taken>, BucketError> {
        let Some(body) = self.get(&receipt_key(partition, self.generation, first)).await? else { return Ok(None) };
        let receipt = self.parse_receipt(partition, first, &body)?;
        Ok(Some(Taken { first, end: receipt.end, written_ms: receipt.written_ms, lying, body }))
    }

    /// A backfill under way that has to do with that Kafka partition.
    async fn job_of(&self, partition: &TopicPartition) -> Result<Option<String>, BucketError> {
        let jobs = self.jobs_under_way().await?;
        let all = OffsetRange::new(0, i64::MAX);
        let meets = |job: &&super::jobs::Job| job.meets(partition, self.generation, all);
        Ok(jobs.iter().find(meets).map(|job| job.name.clone()))
    }

    /// Receipts that are documents of their own, from `first` on, and at least `enough.1` of those from `enough.0` on, if there are so many.
    /// Lists no further where stores list in order, so that an archive with millions of receipts is not listed for each fold.
    async fn lying_from(
        &self,
        partition: &TopicPartition,
        first: i64,
        (from, enough): (i64, usize),
    ) -> Result<BTreeMap<i64, Lying>, BucketError> {
        let key = receipts_folder(partition, self.generation);
        let folder = self.destination.path(&key)?;
        let before = self.destination.path(&format!("{key}/{first:020}"))?;
        let in_order = self.destination.kind() != StoreKind::File;
        let mut objects = self.destination.store().list_with_offset(Some(&folder), &before);
        let (mut lying, mut seen) = (BTreeMap::new(), 0);
        while let Some(object) = objects.try_next().await.map_err(|error| self.store_error("list", &key, &error))? {
            let Some((of, false)) = object.location.filename().and_then(parse_name) else { continue };
            if of >= first {
                let modified_ms = object.last_modified.timestamp_millis();
                lying.insert(of, Lying { size: object.size, modified_ms, version: (object.e_tag, object.version) });
            }
            seen += usize::from(of >= from);
            if in_order && seen >= enough {
                break;
            }
        }
        Ok(lying)
    }
}
