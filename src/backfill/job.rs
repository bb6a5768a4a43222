//! A job: made once, found again by its name, turned into what the pipeline needs.

use super::resolve::Resolved;
use crate::bucket::jobs::{JOB_VERSION, Job, JobOutcome, JobRange, JobRequest};
use crate::clock::Clock;
use crate::config::{ArchiveConfig, Config, KafkaConfig, Rotate, Start, TopicPatterns};
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::ledger;
use crate::pipeline::schedule::Schedule;
use crate::pipeline::start::patiently;
use crate::record::TopicPartition;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Offsets of a piece where nothing else is asked for.
pub const CHUNK: i64 = 200_000;

/// Least offsets of a piece: smaller ones would be mostly claims and receipts.
pub const CHUNK_MIN: i64 = 1_000;

/// The archive that is backfilled.
pub struct Site<'c> {
    /// Its section.
    pub archive: &'c ArchiveConfig,
    /// What its bucket tells.
    pub ledger: ledger::Site<'c>,
    /// The live group.
    pub group: String,
    /// The group that the archive there belongs to.
    pub owner: String,
    /// It is not the place of the live archive.
    pub is_elsewhere: bool,
    /// How to reach Kafka.
    pub kafka: KafkaConfig,
}

/// What became of the wish for a job.
pub struct Made {
    /// The job.
    pub job: Job,
    /// It was there already.
    pub is_resumed: bool,
    /// It has ended.
    pub is_ended: bool,
}

/// The consumer group of the job of that name. With `into`, the URL of the destination, it is another one for each destination: jobs of one name
/// at two places have nothing in common. What follows the dot cannot be part of a name.
pub fn group_of(live: &str, name: &str, into: Option<&str>) -> String {
    let group = format!("{live}-backfill-{name}");
    into.map_or(group.clone(), |into| format!("{group}.{}", digest(into)))
}

/// What a job is wanted for.
pub struct Wish<'w> {
    /// The topic.
    pub topic: &'w str,
    /// What was asked for.
    pub request: &'w JobRequest,
    /// Its name.
    pub name: &'w str,
    /// Batches end at multiples of it.
    pub chunk: i64,
}

/// The job for what was wished, as it was resolved now.
///
/// # Errors
/// Kafka does not answer.
pub async fn draft(
    site: &Site<'_>,
    coordinator: &dyn Coordinator,
    clock: &dyn Clock,
    wish: &Wish<'_>,
    resolved: Resolved,
) -> Result<Job, Failure> {
    let &Wish { topic, request, name, chunk } = wish;
    let unreachable = |reason| Failure::new(Exit::Unreachable, format!("ask Kafka about topic {topic}: {reason}"));
    let cluster_id = coordinator.cluster_id().await.map_err(unreachable)?;
    let topic_id = coordinator.topic_id(topic).await.map_err(unreachable)?;
    let Resolved { ranges, read_back, unvouched, before, found, skipped } = resolved;
    let layout = &site.archive.layout;
    Ok(Job {
        version: JOB_VERSION,
        group: group_of(&site.group, name, request.into.as_deref()),
        name: name.to_string(),
        archive: site.archive.name.clone(),
        topic: topic.to_string(),
        topic_id,
        cluster_id,
        request: request.clone(),
        generation: layout.generation,
        fingerprint: layout.fingerprint(),
        chunk,
        ranges,
        read_back,
        unvouched,
        before,
        found,
        skipped,
        made_ms: Some(clock.wall_ms()),
    })
}

/// The name of a job that was given none: the same for the same request.
pub fn default_name(topic: &str, request: &JobRequest) -> String {
    name_of(topic, &format!("{topic}\n{}", to_json(request)))
}

/// The same for a job that mends what was found: each time that the same is found, and nothing mends it yet.
///
/// # Errors
/// A store that does not answer or refuses.
pub async fn name_to_mend(
    site: &Site<'_>,
    clock: &dyn Clock,
    topic: &str,
    request: &JobRequest,
    found: &Resolved,
) -> Result<String, Failure> {
    let found = format!("{topic}\n{}\n{}\n{}", to_json(request), to_json(&found.ranges), to_json(&found.read_back));
    not_ended(site, clock, &name_of(&format!("{topic}-missing"), &found)).await
}

/// `name`, or with a number behind it where jobs of that name have ended.
///
/// # Errors
/// A store that does not answer or refuses; a thousand have ended.
pub async fn not_ended(site: &Site<'_>, clock: &dyn Clock, name: &str) -> Result<String, Failure> {
    for time in 1..=SAME_MAX {
        let name = if time == 1 { name.to_string() } else { format!("{name}-{time}") };
        if !patiently(clock, "look for a job", || site.ledger.bucket.is_job_ended(&name)).await? {
            return Ok(name);
        }
    }
    Err(Failure::new(Exit::Config, format!("{SAME_MAX} jobs were the same: give this one another name with --job")))
}

/// How often the same is asked for under names of its own.
const SAME_MAX: u32 = 1_000;

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("requests and ranges hold only numbers and strings")
}

fn name_of(topic: &str, wanted: &str) -> String {
    let hex = digest(wanted);
    let allowed = |character: char| if character.is_ascii_alphanumeric() || character == '_' { character } else { '-' };
    let topic: String = topic.chars().map(allowed).take(80).collect();
    format!("{topic}-{hex}")
}

/// Eight hex digits.
fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The job of that name, if it was made before.
///
/// # Errors
/// It was made for something else. A store that does not answer or refuses.
pub async fn find(
    site: &Site<'_>,
    clock: &dyn Clock,
    name: &str,
    topic: &str,
    request: &JobRequest,
) -> Result<Option<Made>, Failure> {
    let bucket = &site.ledger.bucket;
    let what = format!("job {name}");
    let Some(job) = patiently(clock, &what, || bucket.job(name)).await? else { return Ok(None) };
    let is_ended = patiently(clock, &what, || bucket.is_job_ended(name)).await?;
    check_same(&job, topic, request)?;
    check_layout(site, &job)?;
    Ok(Some(Made { job, is_resumed: true, is_ended }))
}

fn check_same(job: &Job, topic: &str, request: &JobRequest) -> Result<(), Failure> {
    if job.topic == topic && job.request == *request {
        return Ok(());
    }
    let shown = |request: &JobRequest| serde_json::to_string(request).unwrap_or_default();
    Err(Failure::new(
        Exit::Config,
        format!(
            "the job {} was made for topic {} {}, and this is topic {topic} {}: give another --job, or the same arguments as before",
            job.name,
            job.topic,
            shown(&job.request),
            shown(request)
        ),
    ))
}

/// What was begun with one layout is not gone on with in another: half of the offsets would lie in other folders than the rest.
fn check_layout(site: &Site<'_>, job: &Job) -> Result<(), Failure> {
    let own = site.archive.layout.fingerprint();
    if job.fingerprint == own {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Config,
        format!(
            "the job {} was made with layout {} and the configuration has {own} now: use the configuration of before, or cancel the job \
             (--cancel) and ask for what is left under another --job",
            job.name, job.fingerprint
        ),
    ))
}

/// The job that is under way for just this request, if there is one: the first by name.
///
/// # Errors
/// It was made with another layout. A store that does not answer or refuses.
pub async fn under_way(
    site: &Site<'_>,
    clock: &dyn Clock,
    topic: &str,
    request: &JobRequest,
) -> Result<Option<Made>, Failure> {
    let jobs = patiently(clock, "list jobs", || site.ledger.bucket.jobs_under_way()).await?;
    let generation = site.archive.layout.generation;
    let same = |job: &Job| job.topic == topic && job.request == *request && job.generation == generation;
    let Some(job) = jobs.into_iter().find(same) else { return Ok(None) };
    check_layout(site, &job)?;
    Ok(Some(Made { job, is_resumed: true, is_ended: false }))
}

/// Stores the job, or finds the one that another process has stored meanwhile.
///
/// # Errors
/// [`Exit::Stopped`]: it overlaps with one that has not ended (B-3). A store that does not answer or refuses.
pub async fn store(site: &Site<'_>, clock: &dyn Clock, job: Job) -> Result<Made, Failure> {
    let bucket = &site.ledger.bucket;
    let what = format!("job {}", job.name);
    // What is refused before it is stored spends no name and stands in nobody's way.
    check_overlap(site, clock, &job).await?;
    let made = match patiently(clock, &what, || bucket.put_job(&job)).await? {
        JobOutcome::Created => Made { job, is_resumed: false, is_ended: false },
        // By a request whose answer was lost.
        JobOutcome::Found(found) if *found == job => Made { job, is_resumed: false, is_ended: false },
        JobOutcome::Found(found) => {
            check_same(&found, &job.topic, &job.request)?;
            check_layout(site, &found)?;
            let is_ended = patiently(clock, &what, || bucket.is_job_ended(&job.name)).await?;
            Made { job: *found, is_resumed: true, is_ended }
        }
    };
    if made.is_resumed {
        check_overlap(site, clock, &made.job).await?;
        return Ok(made);
    }
    if patiently(clock, &what, || bucket.is_job_ended(&made.job.name)).await? {
        let problem =
            format!("the name {} was used by a job whose document is gone: give another --job", made.job.name);
        return Err(Failure::new(Exit::Config, problem));
    }
    match check_overlap(site, clock, &made.job).await {
        Err(refused) if refused.exit == Exit::Stopped => {
            // It has archived nothing and never will, so it must not stand in anybody's way.
            patiently(clock, &what, || bucket.end_job(&made.job.name, clock.wall_ms())).await?;
            let message = format!("{}. This one is withdrawn: ask again under another --job", refused.message);
            Err(Failure::new(refused.exit, message))
        }
        outcome => outcome.map(|()| made),
    }
}

/// # Errors
/// [`Exit::Stopped`]: it overlaps with one that has not ended.
pub async fn check_overlap(site: &Site<'_>, clock: &dyn Clock, job: &Job) -> Result<(), Failure> {
    let others = patiently(clock, "list jobs", || site.ledger.bucket.jobs_under_way()).await?;
    for other in others.iter().filter(|other| other.name != job.name) {
        if let Some(range) = job.overlap(other) {
            return Err(Failure::new(
                Exit::Stopped,
                format!(
                    "the job {} wants offsets [{}, {}) of {}/{}, and the job {} that has not ended has some of them, too. Wait for it, or \
                     stop its processes and give it up with --job {} --cancel",
                    job.name, range.first, range.end, job.topic, range.partition, other.name, other.name
                ),
            ));
        }
    }
    Ok(())
}

/// What the pipeline archives of the job.
pub fn schedule(job: &Job) -> Schedule {
    let of = |number: i32| TopicPartition::new(job.topic.as_str(), number);
    let placed = |range: &JobRange| (of(range.partition), range.range());
    let (batches, ranges): (Vec<_>, Vec<_>) = job.ranges.iter().partition(|range| range.batch);
    let (batches, ranges) = (batches.into_iter().map(placed), ranges.into_iter().map(placed));
    Schedule::with_batches(ranges, batches, job.chunk, job.topic_id.clone())
        .of_job(&job.name)
        .reading_back(job.read_back.iter().map(|batch| (of(batch.partition), batch.first)))
        .never_absent(job.unvouched.iter().map(|range| (of(range.partition), range.range())))
}

/// The configuration of a process of the job: the same archive, its topic alone, another group, and no rule that ends a batch but the schedule.
pub fn config_of(config: &Config, archive: &ArchiveConfig, job: &Job) -> Config {
    let mut own = archive.clone();
    own.topics = TopicPatterns {
        names: vec![job.topic.clone()],
        patterns: Vec::new(),
        exclude_names: Vec::new(),
        exclude_patterns: Vec::new(),
    };
    own.rotate = Rotate { size: u64::MAX, age: Duration::MAX, records: u64::MAX, bytes: None, grace: None };
    // Told before the job begins, and in each receipt.
    own.halt_on_gap = false;
    let kafka = KafkaConfig { group: job.group.clone(), start: Start::Earliest, ..config.kafka.clone() };
    Config { kafka, archives: vec![own], ..config.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_follows_from_the_request_alone() {
        let request = JobRequest { from_offset: Some(1), ..JobRequest::default() };
        let name = default_name("access.log", &request);
        assert_eq!(name, default_name("access.log", &request));
        assert!(name.starts_with("access-log-"), "{name}");
        assert_ne!(name, default_name("access.log", &JobRequest { from_offset: Some(2), ..JobRequest::default() }));
        assert_ne!(name, default_name("access-log", &request));
        crate::bucket::jobs::check_name(&default_name(&"ü".repeat(200), &request)).expect("a good name");
    }

    /// Goal: jobs of one name at two places are not of one group, and jobs at the archive's own place keep theirs.
    #[test]
    fn a_group_is_of_a_name_and_a_place() {
        assert_eq!(group_of("live", "again", None), "live-backfill-again");
        let (one, other) =
            (group_of("live", "again", Some("s3://b/one")), group_of("live", "again", Some("s3://b/other")));
        assert!(one.starts_with("live-backfill-again.") && one != other, "{one} {other}");
        let tail = one.strip_prefix("live-backfill-").expect("looked at above");
        crate::bucket::jobs::check_name(tail).expect_err("no other job can be called so");
    }
}
