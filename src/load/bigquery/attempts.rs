//! One set of ranges, from whatever BigQuery knows of it to a job that is done.

use super::api::Asked;
use super::fault::{LoadFault, LoadFaultKind};
use super::request::{self, bar_job, barred_for, job_id, load_job};
use super::{BigQuery, BqField, HourLoad, Loaded, Pace, TableRef};
use crate::destination::fault::Verdict;
use crate::effect::Effect;
use google_cloud_bigquery_v2::model::Job;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Jobs that one call makes where each fails with what may pass.
const ATTEMPTS_A_CALL: u32 = 3;
/// Most doublings of the time until a failed set is tried again.
const DOUBLINGS_MAX: u32 = 5;

/// The last job of a digest.
struct Attempt {
    number: u32,
    job: Job,
    is_new: bool,
}

/// What a job that is done did.
enum Ended {
    Loaded(Loaded),
    /// And when, milliseconds in BigQuery's time.
    Failed((LoadFault, i64)),
    /// It did nothing but take the id.
    Bar(String),
}

impl BigQuery {
    /// Sees to it that the partition holds exactly what `load` names: does nothing where a job has done that, waits for one that is about to,
    /// makes one otherwise. Returns once it is done.
    ///
    /// What may pass is tried again with growing pauses, as long as [`Pace::call`] lets it. A job that failed at its rows or at rights is
    /// answered with its fault for [`Pace::failed`] and longer each time, however many processes ask, and then tried again.
    ///
    /// # Errors
    /// [`LoadFault`]; its verdict says what to do. [`Verdict::Retry`]: call again later, it finds what is there by then.
    /// [`Verdict::Refused`]: the same, slowly, and tell somebody. [`LoadFaultKind::Superseded`]: read again what is complete.
    pub async fn load(&self, load: &HourLoad<'_>) -> Result<Loaded, LoadFault> {
        request::check(load)?;
        let location = self.location_of(load.table).await?;
        let labels = request::labels(&self.labels, load.archive);
        for earlier in load.earlier {
            self.bar(earlier, load.digest, &location, &labels).await?;
        }
        let mut last = self.last_attempt(load.digest, &location).await?;
        let mut made = 0;
        loop {
            let number = match last {
                None => 1,
                Some(attempt) => {
                    let (number, is_new) = (attempt.number, attempt.is_new);
                    match self.end_of(load.digest, attempt, &location).await? {
                        Ended::Loaded(loaded)
                            if load.after_ms.is_none_or(|after_ms| loaded.created_ms > after_ms)
                                && (loaded.is_new || self.is_there(load.table, &loaded).await?) =>
                        {
                            return Ok(loaded);
                        }
                        Ended::Loaded(_) => {}
                        Ended::Bar(newer) => return Err(superseded(load, &newer)),
                        Ended::Failed(fault) => self.again(fault, is_new, made, number).await?,
                    }
                    number + 1
                }
            };
            let job = load_job(load, self.api.project(), &location, number, &labels);
            let attempt = self.make(Effect::LoadJob, load.digest, number, job, &location).await?;
            made += u32::from(attempt.is_new);
            last = Some(attempt);
        }
    }

    /// Whether the table is the one that `loaded` was loaded into: somebody may have dropped it since, or made it anew.
    async fn is_there(&self, table: &TableRef, loaded: &Loaded) -> Result<bool, LoadFault> {
        let there = patiently(&self.pace, || self.api.table(table)).await?;
        Ok(there.is_some_and(|there| there.creation_time <= loaded.ended_ms))
    }

    /// The columns that a table has; `None` where there is no such table.
    ///
    /// # Errors
    /// [`LoadFault`].
    pub async fn columns(&self, table: &TableRef) -> Result<Option<Vec<BqField>>, LoadFault> {
        let there = patiently(&self.pace, || self.api.table(table)).await?;
        Ok(there.map(|there| there.schema.map(|schema| request::columns(&schema.fields)).unwrap_or_default()))
    }

    /// Whether a set that failed is tried again now.
    async fn again(&self, fault: (LoadFault, i64), is_new: bool, made: u32, number: u32) -> Result<(), LoadFault> {
        let (fault, ended_ms) = fault;
        if fault.kind == LoadFaultKind::Busy {
            if made >= ATTEMPTS_A_CALL {
                return Err(fault);
            }
            // What an earlier call has found to fail may have passed since.
            if is_new {
                sleep(doubled(self.pace.first, made, self.pace.most)).await;
            }
            return Ok(());
        }
        let rest = self.pace.failed.saturating_mul(1 << (number - 1).min(DOUBLINGS_MAX));
        let passed_ms = (self.clock.wall_ms() - ended_ms).unsigned_abs();
        // One job a call, however short the pause.
        if is_new || u128::from(passed_ms) < rest.as_millis() { Err(fault) } else { Ok(()) }
    }

    /// Makes the job, or finds the one that has its id.
    async fn make(
        &self,
        effect: Effect,
        digest: &str,
        number: u32,
        job: Job,
        location: &str,
    ) -> Result<Attempt, LoadFault> {
        let job_id = job_id(digest, number);
        let asked = patiently(&self.pace, || self.api.make_job(effect, &job_id, job.clone())).await?;
        if let Asked::Made(job) = asked {
            return Ok(Attempt { number, job, is_new: true });
        }
        // Another process was faster, or an answer of ours was lost.
        let job = patiently(&self.pace, || self.known_job(&job_id, location)).await?;
        Ok(Attempt { number, job, is_new: false })
    }

    /// A job that has been there.
    async fn known_job(&self, job_id: &str, location: &str) -> Result<Job, LoadFault> {
        let gone = || {
            let what = format!("BigQuery says of job {job_id} in {location} that it is there, and that it is not");
            LoadFault::new(LoadFaultKind::Busy, what)
        };
        self.api.job(job_id, location).await?.ok_or_else(gone)
    }

    async fn look(&self, digest: &str, number: u32, location: &str) -> Result<Option<Job>, LoadFault> {
        let job_id = job_id(digest, number);
        patiently(&self.pace, || self.api.job(&job_id, location)).await
    }

    /// The last attempt that is there. An attempt is made when the one before it is there, so numbers have no gaps.
    async fn last_attempt(&self, digest: &str, location: &str) -> Result<Option<Attempt>, LoadFault> {
        let Some(mut job) = self.look(digest, 1, location).await? else { return Ok(None) };
        let (mut number, mut step) = (1_u32, 1_u32);
        let mut absent = loop {
            let next = number.saturating_add(step);
            match self.look(digest, next, location).await? {
                Some(found) => (number, job, step) = (next, found, step.saturating_mul(2)),
                None => break next,
            }
        };
        while absent - number > 1 {
            let middle = number + (absent - number) / 2;
            match self.look(digest, middle, location).await? {
                Some(found) => (number, job) = (middle, found),
                None => absent = middle,
            }
        }
        Ok(Some(Attempt { number, job, is_new: false }))
    }

    /// Waits until the job is done.
    async fn end_of(&self, digest: &str, attempt: Attempt, location: &str) -> Result<Ended, LoadFault> {
        let Attempt { number, mut job, is_new } = attempt;
        let job_id = job_id(digest, number);
        let began = Instant::now();
        let mut looks = 0;
        loop {
            if let Some(ended) = ended(&job, &job_id, number, is_new)? {
                return Ok(ended);
            }
            if began.elapsed() >= self.pace.job {
                let what = format!(
                    "load job {job_id} still runs after {} s: it is waited for again later",
                    self.pace.job.as_secs()
                );
                return Err(LoadFault::new(LoadFaultKind::Running, what));
            }
            sleep(doubled(self.pace.first, looks, self.pace.most)).await;
            looks += 1;
            job = patiently(&self.pace, || self.known_job(&job_id, location)).await?;
        }
    }

    /// Takes the next id of `digest`, so that it can never be loaded again. A job of it that runs is waited for.
    async fn bar(
        &self,
        digest: &str,
        for_digest: &str,
        location: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), LoadFault> {
        let mut last = self.last_attempt(digest, location).await?;
        loop {
            let number = match last {
                None => 1,
                Some(attempt) => {
                    let number = attempt.number;
                    if let Ended::Bar(_) = self.end_of(digest, attempt, location).await? {
                        return Ok(());
                    }
                    number + 1
                }
            };
            let job = bar_job(digest, for_digest, self.api.project(), location, number, labels);
            last = Some(self.make(Effect::BarJob, digest, number, job, location).await?);
        }
    }

    /// Where jobs for the table run. Ids count there, so it must be known before one is looked for.
    pub(super) async fn location_of(&self, table: &TableRef) -> Result<String, LoadFault> {
        if let Some(location) = &self.location {
            return Ok(location.clone());
        }
        let key = (table.project.clone(), table.dataset.clone());
        if let Some(location) = self.locations.lock().await.get(&key) {
            return Ok(location.clone());
        }
        let location = patiently(&self.pace, || self.api.location(table)).await?;
        self.locations.lock().await.insert(key, location.clone());
        Ok(location)
    }
}

fn superseded(load: &HourLoad<'_>, newer: &str) -> LoadFault {
    let what = format!(
        "load table {}: the ranges {} are no longer the newest, and {newer} are loaded instead",
        load.table, load.digest
    );
    LoadFault::new(LoadFaultKind::Superseded, what)
}

/// What the job did; `None` while it runs.
fn ended(job: &Job, job_id: &str, number: u32, is_new: bool) -> Result<Option<Ended>, LoadFault> {
    let configuration = job.configuration.as_ref();
    if let Some(newer) = configuration.and_then(barred_for) {
        return Ok(Some(Ended::Bar(newer.to_string())));
    }
    if configuration.is_some_and(|configuration| configuration.load.is_none()) {
        let what = format!("job {job_id} loads nothing: somebody else has made it, under an id of ours");
        return Err(LoadFault::new(LoadFaultKind::Foreign, what));
    }
    let Some(status) = job.status.as_ref().filter(|status| status.state == "DONE") else { return Ok(None) };
    let statistics = job.statistics.as_ref();
    let ended_ms = statistics.map_or(0, |statistics| statistics.end_time);
    if let Some(fault) = LoadFault::of_job(job_id, status) {
        return Ok(Some(Ended::Failed((fault, ended_ms))));
    }
    let load = statistics.and_then(|statistics| statistics.load.as_ref());
    Ok(Some(Ended::Loaded(Loaded {
        job_id: job_id.to_string(),
        attempt: number,
        is_new,
        rows: load.and_then(|load| load.output_rows),
        bytes: load.and_then(|load| load.output_bytes),
        objects: load.and_then(|load| load.input_files),
        created_ms: statistics.map_or(0, |statistics| statistics.creation_time),
        ended_ms,
    })))
}

/// Tries again what may pass.
pub(super) async fn patiently<T, F>(pace: &Pace, mut call: impl FnMut() -> F) -> Result<T, LoadFault>
where
    F: Future<Output = Result<T, LoadFault>>,
{
    let began = Instant::now();
    let mut tries = 0;
    loop {
        let wait = doubled(pace.first, tries, pace.most);
        match call().await {
            Err(fault) if fault.verdict() == Verdict::Retry && began.elapsed() + wait < pace.call => {
                tracing::debug!(%fault, "BigQuery is asked again");
            }
            outcome => return outcome,
        }
        sleep(wait).await;
        tries += 1;
    }
}

/// `first`, doubled `times` times, at most `most`.
fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(20)).min(most)
}
