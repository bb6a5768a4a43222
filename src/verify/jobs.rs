//! Claims without a receipt that belong to a backfill: on their way, or left.
//!
//! Whether a job's processes still run is known to nobody but them. What the bucket tells is when the job was made, when the claim was written, and
//! when claims and receipts of its ranges were. Where nothing of it is younger than [`LEFT_MS`] the job was left: a person must go on with it or give it
//! up, as no other job touches its offsets.

use super::chain::Chain;
use super::compactions::Compactions;
use super::finding::Fault;
use super::listing::failed;
use super::read::Document;
use super::run::Run;
use super::table::Filling;
use crate::bucket::claim::claim_key;
use crate::bucket::jobs::{Job, JobRange};
use crate::bucket::{Bucket, receipts_folder};
use crate::exit::{Exit, Failure};
use crate::pipeline::start::{chain, patiently};
use crate::record::{OffsetRange, TopicPartition};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How long nothing of a job must have been written before what it has claimed is told as left. A batch takes minutes; this is far more than the
/// pause between two runs of a job that somebody works on, and than clocks differ.
pub const LEFT_MS: i64 = 24 * 3_600_000;

/// The backfills of one archive that have not ended.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: Vec<Job>,
    /// Index of the Kafka partition that they were listed for.
    of: usize,
    /// When something of a job's ranges was last written, by its name, where somebody has asked since they were listed.
    written: HashMap<String, Option<i64>>,
    /// What was told of jobs that cannot be read.
    told: BTreeSet<String>,
}

/// What the job that has claimed a batch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may be at work.
    OnItsWay(String),
    /// Nobody has gone on with it for long.
    Left(String),
}

impl Jobs {
    /// Of which job the batch of `claimed` is; `None`: of none. `now_ms`: the wall time.
    async fn standing(
        &mut self,
        bucket: &Bucket,
        partition: &TopicPartition,
        claimed: OffsetRange,
        now_ms: i64,
    ) -> Result<Option<Standing>, Failure> {
        let is_young = |ms: i64| now_ms.saturating_sub(ms) < LEFT_MS;
        let generation = bucket.generation();
        let mut standing = None;
        for job in self.jobs.iter().filter(|job| job.meets(partition, generation, claimed)) {
            let key = claim_key(partition, generation, claimed.first);
            let is_alive = job.made_ms.is_some_and(is_young)
                || modified(bucket, &key).await?.is_some_and(is_young)
                || match self.written.get(&job.name) {
                    Some(written) => *written,
                    None => *self.written.entry(job.name.clone()).or_insert(written(bucket, job).await?),
                }
                .is_some_and(is_young);
            if is_alive {
                return Ok(Some(Standing::OnItsWay(job.name.clone())));
            }
            standing = Some(Standing::Left(job.name.clone()));
        }
        Ok(standing)
    }
}

/// When the object was written; `None`: it is not there.
async fn modified(bucket: &Bucket, key: &str) -> Result<Option<i64>, Failure> {
    let destination = bucket.destination();
    match destination.store().head(&path(bucket, key)?).await {
        Ok(found) => Ok(Some(found.last_modified.timestamp_millis())),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed(&format!("look for {}/{key}", destination.id()), &error)),
    }
}

/// When the last claim or receipt was written of a batch that begins in one of the job's ranges.
async fn written(bucket: &Bucket, job: &Job) -> Result<Option<i64>, Failure> {
    let mut ranges: BTreeMap<i32, Vec<&JobRange>> = BTreeMap::new();
    for range in &job.ranges {
        ranges.entry(range.partition).or_default().push(range);
    }
    let mut last = None;
    for (number, ranges) in ranges {
        let folder = receipts_folder(&TopicPartition::new(job.topic.as_str(), number), job.generation);
        let mut listed = bucket.destination().store().list(Some(&path(bucket, &folder)?));
        let failure = |error: Error| failed(&format!("list {}/{folder}", bucket.destination().id()), &error);
        while let Some(object) = listed.try_next().await.map_err(failure)? {
            let first = object.location.filename().and_then(|name| name.split_once('.')?.0.parse::<i64>().ok());
            let is_of_job = first.is_some_and(|first| {
                let next = ranges.get(ranges.partition_point(|range| range.end <= first));
                next.is_some_and(|range| range.first <= first)
            });
            if is_of_job {
                last = last.max(Some(object.last_modified.timestamp_millis()));
            }
        }
    }
    Ok(last)
}

fn path(bucket: &Bucket, key: &str) -> Result<Path, Failure> {
    bucket.destination().path(key).map_err(|error| Failure::new(Exit::Stopped, error.to_string()))
}

impl Run<'_> {
    /// Looks once more whether the batch that was claimed last has its receipt, now that nothing else of it is to come: then it is a batch as
    /// others, and its objects must be there. Jobs are listed before that, so one that has ended meanwhile is not missed; but nobody asks for jobs
    /// where the newest batch of all was only finished meanwhile.
    pub(super) async fn settle_claimed(
        &mut self,
        index: usize,
        is_last: bool,
        chain: &mut Chain,
        (compacted, filling): (&Compactions, &mut Filling),
    ) -> Result<(), Failure> {
        let Some(claimed) = chain.claimed().filter(|_| self.is_first_pass()) else { return Ok(()) };
        let (archive, partition) = self.archive(index);
        let reader = archive.reader.clone();
        let mut found = match is_last {
            true => Some(reader.document(&partition, claimed.first).await?),
            false => None,
        };
        if found.as_ref().is_none_or(|found| matches!(found, Document::Claim(_))) {
            // Behind the last one nothing is a fault unless it is old.
            self.list_jobs(index, !is_last).await?;
            found = None;
        }
        let found = match found {
            Some(found) => found,
            None => reader.document(&partition, claimed.first).await?,
        };
        if matches!(found, Document::Claim(_)) {
            return Ok(());
        }
        chain.forget_claimed();
        self.take(index, claimed.first, found, chain, (compacted, filling)).await
    }

    /// Lists the backfills that have not ended, unless they are known; `anew`: unless they were listed for that Kafka partition. One that cannot be
    /// read is told once and stops nothing: what it has claimed counts as nobody's.
    async fn list_jobs(&mut self, index: usize, anew: bool) -> Result<(), Failure> {
        let home = self.scope.partitions[index].0;
        if self.jobs.get(&home).is_some_and(|jobs| !anew || jobs.of == index) {
            return Ok(());
        }
        let reader = self.archive(index).0.reader.clone();
        let read = || reader.bucket.jobs_under_way_tolerantly();
        let (jobs, damaged) = patiently(&*reader.clock, "list jobs", read).await?;
        let mut told = self.jobs.remove(&home).map(|jobs| jobs.told).unwrap_or_default();
        for error in damaged {
            let what = chain(&error);
            if told.insert(what.clone()) {
                let what = format!(
                    "{what}. What this backfill has claimed and not finished counts as nobody's; no other one, no compaction and no fold begins beside it: \
                     use the newer release, or restore it, or, where nobody goes on with it, move it away"
                );
                self.note(index, "unreadable_job", what)?;
            }
        }
        self.jobs.insert(home, Jobs { jobs, of: index, written: HashMap::new(), told });
        Ok(())
    }

    /// The job that has claimed a batch, which has no receipt.
    async fn standing(&mut self, index: usize, claimed: OffsetRange) -> Result<Option<Standing>, Failure> {
        let (archive, partition) = self.archive(index);
        let (bucket, home) = (archive.reader.bucket.clone(), self.scope.partitions[index].0);
        let now_ms = self.parts.clock.wall_ms();
        let Some(jobs) = self.jobs.get_mut(&home) else { return Ok(None) };
        jobs.standing(&bucket, &partition, claimed, now_ms).await
    }

    /// A claim without receipt, and batches behind it: a fault, unless a job is at it.
    pub(super) async fn tell_unfinished(&mut self, index: usize, claimed: OffsetRange) -> Result<(), Failure> {
        let fault = match self.standing(index, claimed).await? {
            Some(Standing::OnItsWay(job)) => return self.tell_open(index, claimed, Some(job)),
            Some(Standing::Left(job)) => Fault::Left { job },
            None => Fault::Unfinished,
        };
        self.find(index, (claimed.first, Some(claimed.end)), None, fault)
    }

    /// The newest claim, without a receipt: on its way, unless it is of a job that was left.
    pub(super) async fn tell_newest(&mut self, index: usize, claimed: OffsetRange) -> Result<(), Failure> {
        match self.standing(index, claimed).await? {
            Some(standing) => {
                // The job may have ended by the time that Kafka is asked.
                if let Some(side) = self.sides.get_mut(&index) {
                    side.is_of_job = true;
                }
                match standing {
                    Standing::Left(job) => {
                        self.find(index, (claimed.first, Some(claimed.end)), None, Fault::Left { job })
                    }
                    Standing::OnItsWay(job) => self.tell_open(index, claimed, Some(job)),
                }
            }
            None => self.tell_open(index, claimed, None),
        }
    }

    fn tell_open(&mut self, index: usize, claimed: OffsetRange, job: Option<String>) -> Result<(), Failure> {
        self.summary.open += 1;
        let by = job.map_or(String::new(), |job| format!(", by the backfill {job}"));
        self.note(index, "open", format!("batch {claimed} is claimed and has no receipt yet: it is on its way{by}"))
    }
}
