//! Jobs: what a backfill was asked for, resolved once. `_siltstone/jobs/<name>.json`, created only if absent, so all processes of a job
//! work on the same offsets, whatever became of Kafka and the bucket since. `<name>.done.json` says that it ended.
//!
//! # The document, version 1
//! ```json
//! {
//!   "version": 1, "name": "access-1a2b3c4d", "archive": "access", "topic": "access", "topic_id": "…", "cluster_id": "…",
//!   "group": "siltstone-backfill-access-1a2b3c4d", "request": {"from_offset": 0, "to_offset": 100000}, "generation": 1,
//!   "fingerprint": "…", "chunk": 200000,
//!   "ranges": [{"partition": 0, "first": 0, "end": 100000}], "skipped": 1200, "made_ms": 1763695100000
//! }
//! ```
//! Offsets are half-open, in Kafka's partitions of `topic`; ranges are disjoint and in order. `skipped` counts offsets that were asked for and
//! that receipts vouched for already. Readers accept fields they do not know.
//!
//! A job that mends (`request` has `missing`) holds the ranges that were found: with `"batch": true` those that are one batch again as they
//! were once, whatever the chunk. `read_back` names batches (`partition`, `first`) of which an object is damaged that has the right size: no job
//! takes their objects for intact without reading them. `unvouched` are offsets of its ranges that objects reach into which no receipt names: they
//! never become absent. `before` is what receipts of its batches said of lost and absent records when it was made, `found` what was found then
//! ([`JobFound`]), for whoever goes on with it. A job with `into` in its request lies at that destination, not at the archive's own.

use super::{Bucket, BucketError, CONTROL_FOLDER, Created, to_json};
use crate::effect::Effect;
use crate::record::{OffsetRange, TopicPartition};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the stored form.
pub const JOB_VERSION: u32 = 1;

/// Jobs that are looked through for one that overlaps, at most: older ones are to be deleted by then.
pub const JOBS_MAX: usize = 10_000;

/// What is left over that a job's document names, of each sort: the rest is counted.
pub const LEFT_MAX: usize = 1_000;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// [`JOB_VERSION`] of the writer.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Name of the archive.
    pub archive: String,
    /// Topic.
    pub topic: String,
    /// The topic's id, where the client could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// The cluster's id.
    pub cluster_id: String,
    /// The consumer group that its processes share.
    pub group: String,
    /// What was asked for, as it was typed.
    pub request: JobRequest,
    /// Generation of the archive.
    pub generation: u32,
    /// Fingerprint of the layout that new batches are archived with.
    pub fingerprint: String,
    /// Batches end at multiples of so many offsets.
    pub chunk: i64,
    /// What there is to archive.
    pub ranges: Vec<JobRange>,
    /// Batches whose objects are read before they are taken for intact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_back: Vec<JobBatch>,
    /// Offsets that objects reach into which no receipt names, disjoint and in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unvouched: Vec<JobRange>,
    /// What receipts of its batches said when it was made, where they said something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<JobBefore>,
    /// With `missing`: what was found when it was made. Earlier releases did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<JobFound>,
    /// Offsets that were asked for and vouched for already.
    pub skipped: u64,
    /// Wall time of whoever made it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_ms: Option<i64>,
}

/// What a backfill was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRequest {
    /// Only these Kafka partitions; all where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<i32>,
    /// First offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_offset: Option<i64>,
    /// One past the last offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_offset: Option<i64>,
    /// First Kafka timestamp, milliseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<i64>,
    /// Kafka timestamps are below it, milliseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<i64>,
    /// What verifying the archive finds missing or damaged, instead of a range.
    #[serde(default, skip_serializing_if = "is_false")]
    pub missing: bool,
    /// With `missing`: objects were read back to find it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deep: bool,
    /// The destination that it is archived into again, instead of those of the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<String>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Offsets `[first, end)` of a Kafka partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRange {
    /// Kafka partition.
    pub partition: i32,
    /// First offset.
    pub first: i64,
    /// One past the last offset.
    pub end: i64,
    /// It is one batch, whatever the chunk.
    #[serde(default, skip_serializing_if = "is_false")]
    pub batch: bool,
}

/// A batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobBatch {
    /// Kafka partition.
    pub partition: i32,
    /// First offset.
    pub first: i64,
}

/// What the receipt of a batch said before the job began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobBefore {
    /// Kafka partition.
    pub partition: i32,
    /// First offset.
    pub first: i64,
    /// Offsets that Kafka no longer held.
    pub absent: u64,
    /// Rows that were lost.
    pub lost: u64,
    /// Of which objects, by the start of the SHA-256 of their destination and key. Earlier releases did not tell.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost_of: BTreeMap<String, u64>,
}

/// What verifying found when a job was made that mends, and what of it the job does not mend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFound {
    /// Findings by kind, all of them.
    pub findings: BTreeMap<String, u64>,
    /// Findings by kind that are not mended by archiving again: strangers, doubled objects, objects of replays, …
    pub besides: BTreeMap<String, u64>,
    /// Of `besides` objects without a receipt that the job's batches vouch for again.
    #[serde(default)]
    pub revouched: u64,
    /// What keeps a range from being mended, and what to do about it.
    #[serde(default)]
    pub blocked: Vec<String>,
    /// Offsets that are left as they are.
    #[serde(default)]
    pub kept: Vec<JobKept>,
    /// More of `blocked` and `kept` than are named.
    #[serde(default)]
    pub more: u64,
    /// Ranges that are not the job's, as the live group has not committed them, or as there are too many.
    #[serde(default)]
    pub later: u64,
}

/// Offsets of which Kafka holds some no more, and that objects reach into which no receipt names: to archive them again would declare rows absent
/// that are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobKept {
    /// Kafka partition.
    pub partition: i32,
    /// First offset.
    pub first: i64,
    /// One past the last offset.
    pub end: i64,
    /// Objects whose names reach into them, at all destinations.
    pub objects: u64,
    /// Destination and key of one of these.
    pub example: String,
    /// The first of the offsets that Kafka still held, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_kafka_from: Option<i64>,
}

impl JobKept {
    /// The offsets.
    pub fn range(&self) -> OffsetRange {
        OffsetRange::new(self.first, self.end)
    }
}

impl JobFound {
    /// Whether the job mends all that was found.
    pub fn is_mended(&self) -> bool {
        let beside: u64 = self.besides.values().sum();
        let named = self.blocked.is_empty() && self.kept.is_empty() && self.more == 0;
        named && self.later == 0 && beside <= self.revouched
    }
}

impl JobRange {
    /// Offsets of a Kafka partition, in batches as the chunk says.
    pub fn new(partition: i32, range: OffsetRange) -> Self {
        Self { partition, first: range.first, end: range.end, batch: false }
    }

    /// Its offsets.
    pub fn range(&self) -> OffsetRange {
        OffsetRange::new(self.first, self.end)
    }
}

impl Job {
    /// Whether it has offsets of `range` of that Kafka partition and generation.
    pub fn meets(&self, partition: &TopicPartition, generation: u32, range: OffsetRange) -> bool {
        let shares =
            |of: &JobRange| of.partition == partition.partition && of.first < range.end && range.first < of.end;
        self.topic == *partition.topic && self.generation == generation && self.ranges.iter().any(shares)
    }

    /// A range of both, if there is one.
    pub fn overlap(&self, other: &Self) -> Option<JobRange> {
        if self.topic != other.topic || self.generation != other.generation {
            return None;
        }
        let meets = |range: &JobRange| {
            other
                .ranges
                .iter()
                .any(|of| of.partition == range.partition && of.first < range.end && range.first < of.end)
        };
        self.ranges.iter().copied().find(meets)
    }
}

/// What became of a job that was to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// It is stored now.
    Created,
    /// One of its name was there.
    Found(Box<Job>),
}

/// Says that a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct JobEnd {
    version: u32,
    ended_ms: i64,
}

/// Key of the job of that name.
pub fn job_key(name: &str) -> String {
    format!("{CONTROL_FOLDER}/jobs/{name}.json")
}

fn end_key(name: &str) -> String {
    format!("{CONTROL_FOLDER}/jobs/{name}.done.json")
}

/// What a job may be called.
///
/// # Errors
/// What is wrong with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    match name.chars().all(allowed) && (1..=100).contains(&name.len()) {
        true => Ok(()),
        false => Err("a name has 1 to 100 letters, digits, - and _".to_string()),
    }
}

impl Bucket {
    /// Stores `job` unless one of its name is there.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn put_job(&self, job: &Job) -> Result<JobOutcome, BucketError> {
        let key = job_key(&job.name);
        match self.create(Effect::JobPut, &key, to_json(job)).await? {
            Created::Now => Ok(JobOutcome::Created),
            Created::Found(stored) => Ok(JobOutcome::Found(Box::new(self.parse(&key, &stored.bytes, JOB_VERSION)?))),
        }
    }

    /// The job of that name; `None` where there is none.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn job(&self, name: &str) -> Result<Option<Job>, BucketError> {
        let key = job_key(name);
        let found = self.get(&key).await?;
        found.map(|bytes| self.parse(&key, &bytes, JOB_VERSION)).transpose()
    }

    /// Whether the job of that name ended, or was cancelled.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn is_job_ended(&self, name: &str) -> Result<bool, BucketError> {
        self.exists(&end_key(name)).await
    }

    /// Says that the job of that name ended, or is given up. Saying it again is the same.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn end_job(&self, name: &str, ended_ms: i64) -> Result<(), BucketError> {
        let end = JobEnd { version: JOB_VERSION, ended_ms };
        self.create(Effect::JobEnd, &end_key(name), to_json(&end)).await.map(drop)
    }

    /// The jobs that have not ended, by name. Reads each of them.
    ///
    /// # Errors
    /// [`BucketError`], also where one of them cannot be read: nobody knows which offsets are its.
    pub async fn jobs_under_way(&self) -> Result<Vec<Job>, BucketError> {
        let (jobs, damaged) = self.jobs_under_way_tolerantly().await?;
        damaged.into_iter().next().map_or(Ok(jobs), Err)
    }

    /// The same, and beside it what stands against reading those that are damaged or of a newer release: for whoever only looks.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn jobs_under_way_tolerantly(&self) -> Result<(Vec<Job>, Vec<BucketError>), BucketError> {
        let folder = format!("{CONTROL_FOLDER}/jobs");
        let path = self.destination.path(&folder)?;
        let mut listed = self.destination.store().list(Some(&path));
        let (mut names, mut ended) = (Vec::new(), std::collections::BTreeSet::new());
        while let Some(object) = listed.try_next().await.map_err(|error| self.store_error("list", &folder, &error))? {
            let Some(name) = object.location.filename().and_then(|name| name.strip_suffix(".json")) else { continue };
            match name.strip_suffix(".done") {
                Some(name) => drop(ended.insert(name.to_string())),
                None => names.push(name.to_string()),
            }
        }
        names.retain(|name| !ended.contains(name));
        names.sort_unstable();
        names.truncate(JOBS_MAX);
        let (mut jobs, mut damaged) = (Vec::new(), Vec::new());
        for name in names {
            match self.job(&name).await {
                Ok(job) => jobs.extend(job),
                Err(error @ (BucketError::Unreadable { .. } | BucketError::Newer { .. })) => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok((jobs, damaged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a job that an earlier release made is gone on with, and so is one of a later release with fields and kinds that this one does not know.
    #[test]
    fn jobs_of_other_releases_are_read() {
        let earlier = r#"{"version":1,"name":"n","archive":"a","topic":"t","cluster_id":"c","group":"g","request":{"missing":true},
            "generation":1,"fingerprint":"f","chunk":9,"ranges":[{"partition":0,"first":0,"end":5,"batch":true}],"skipped":0}"#;
        let job: Job = serde_json::from_str(earlier).expect("a job");
        assert_eq!((job.unvouched.len(), job.before.len(), &job.found), (0, 0, &None));
        let found = r#","found":{"findings":{"new_kind":1},"besides":{"new_kind":1},"x":1},"later":[]}"#;
        let later = format!("{}{found}", earlier.strip_suffix('}').expect("an object"));
        let job: Job = serde_json::from_str(&later).expect("a job");
        assert_eq!(job.found.as_ref().map(JobFound::is_mended), Some(false));
        assert_eq!(serde_json::from_str::<Job>(&to_json(&job)).expect("what we write"), job);
    }

    /// Goal: whatever is left over makes a job one that has not mended all.
    #[test]
    fn what_is_left_over_counts() {
        let one = || BTreeMap::from([("unvouched".to_string(), 1)]);
        let kept = JobKept { partition: 0, first: 0, end: 1, objects: 1, example: String::new(), in_kafka_from: None };
        let whole = JobFound { findings: one(), besides: one(), revouched: 1, ..JobFound::default() };
        assert!(whole.is_mended());
        let left_over = [
            JobFound { revouched: 0, ..whole.clone() },
            JobFound { later: 1, ..whole.clone() },
            JobFound { more: 1, ..whole.clone() },
            JobFound { blocked: vec![String::new()], ..whole.clone() },
            JobFound { kept: vec![kept], ..whole },
        ];
        assert!(left_over.iter().all(|found| !found.is_mended()));
    }
}
