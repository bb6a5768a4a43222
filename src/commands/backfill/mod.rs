//! `siltstone backfill`: a range of offsets or times, or what verifying finds missing, archived beside the live group.

mod told;
mod watch;

use super::drive::{Stop, drive, stop_on_signals};
use super::run::{Connected, connect};
use crate::backfill::elsewhere::{self, config_into};
use crate::backfill::job::{self, Made, Site, Wish};
use crate::backfill::missing;
use crate::backfill::resolve::{Resolved, resolve};
use crate::backfill::tally::tally;
use crate::bucket::jobs::{Job, JobFound, JobRequest, check_name};
use crate::bucket::recounts::Recount;
use crate::cli::BackfillArgs;
use crate::clock::{Clock, SystemClock};
use crate::config::{ArchiveConfig, Config};
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::kafka::KafkaCluster;
use crate::ledger::{self, Destinations};
use crate::parse::timestamp::render_instant;
use crate::pipeline::Ended;
use crate::pipeline::context::Folding;
use crate::pipeline::start::{Parts, chain, open_destinations, patiently, pipeline, prepare};
use crate::record::TopicPartition;
use crate::spool::process_number;
use crate::telemetry::health::Health;
use crate::telemetry::http::Heartbeat;
use crate::telemetry::progress::Progress;
use crate::telemetry::status::Status;
use crate::verify;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use told::{How, Said, announce, balance_text, beside_text, say, tell_of_missing};
use watch::Watch;

/// How long a broker may be out of reach when verifying begins.
const KAFKA_PATIENCE: Duration = Duration::from_secs(30);

/// How often the terminal's bars change.
const WATCH: Duration = Duration::from_secs(1);

/// Carries out the command.
///
/// # Errors
/// A [`Failure`] with its exit code.
pub async fn backfill(
    args: &BackfillArgs,
    config: &Config,
    progress: Option<Progress>,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    if let Some(name) = &args.job {
        check_name(name).map_err(|problem| Failure::new(Exit::Config, format!("--job {name:?}: {problem}")))?;
    }
    match &args.into {
        None => backfill_with(args, config, progress, out).await,
        Some(into) => {
            let moved = config_into(config, archive_of(config, &args.topic)?, into)?;
            backfill_with(args, &moved, progress, out).await
        }
    }
}

/// The same. `config` has the destinations that are written to.
async fn backfill_with(
    args: &BackfillArgs,
    config: &Config,
    progress: Option<Progress>,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let destinations = open_destinations(config)?;
    let archive = archive_of(config, &args.topic)?;
    let Connected { coordinator, topics, .. } = connect(config).await?;
    let Some(&count) = topics.get(&args.topic) else {
        return Err(Failure::new(Exit::Config, format!("no such topic: {}", args.topic)));
    };
    let partitions = partitions(args, count)?;
    check_order(args)?;
    let request = request(args, archive);
    let default_name = job::default_name(&args.topic, &request);
    let named = args.job.as_ref().unwrap_or(&default_name);
    let site = match request.into {
        Some(_) => elsewhere::site(config, &destinations, &*clock, named).await?,
        None => site(config, archive, &destinations, &*clock).await?,
    };
    if args.cancel {
        return cancel(args, &site, &*clock, named, out).await;
    }
    let wanted = Wanted { args, site: &site, request: &request, partitions: &partitions };
    let asked = || wanted.asked(config, &destinations, &clock, &*coordinator);
    let found = wanted.under_way(&*clock, named).await?;
    // What was asked for before, and has ended, may have come about again.
    let ended = found.as_ref().filter(|made| made.is_ended).map(|made| made.job.name.clone());
    let made = match found {
        Some(made) if ended.is_some() && !request.missing => {
            wanted.again(&*clock, &*coordinator, made, asked().await?).await?
        }
        Some(made) if ended.is_none() => {
            // Whoever goes on with it is told the same.
            if let Some(found) = &made.job.found {
                tell_of_missing(out, args.json, &args.topic, args.deep, (found, made.job.ranges.len()))?;
            }
            made
        }
        _ if request.missing => {
            let missing = find_missing(&wanted, config, destinations.clone(), &clock, &*coordinator).await?;
            tell_of_missing(out, args.json, &args.topic, args.deep, (&missing.found, missing.resolved.ranges.len()))?;
            if missing.is_empty() {
                return Ok(if missing.found.is_mended() { Exit::Done } else { Exit::Findings });
            }
            if let Some(name) = ended {
                let what = format!("job {name} has ended, and this was found since: give another --job, or none");
                return Err(Failure::new(Exit::Stopped, what));
            }
            wanted.mend(&*clock, &*coordinator, missing.resolved).await?
        }
        _ => wanted.make(&*clock, &*coordinator, named, asked().await?).await?,
    };
    let how = How { json: args.json, dry_run: args.dry_run };
    announce(config, archive, &made, (&*coordinator, &*clock), how, out).await?;
    if args.dry_run || made.job.ranges.is_empty() {
        return Ok(if is_all_mended(&made) { Exit::Done } else { Exit::Findings });
    }
    if !made.is_ended {
        job::check_overlap(&site, &*clock, &made.job).await?;
        if site.archive.complete.is_some() && !site.is_elsewhere {
            // Its rows may come into folders that are complete.
            let again = Recount::of_job(&made.job.topic, &made.job.name, &made.job.ranges);
            patiently(&*clock, "ask for folders to be counted anew", || site.ledger.bucket.ask_recount(&again)).await?;
        }
        drop(coordinator);
        let archived = archive_job(args, config, &site, &made.job, &clock, progress, out).await;
        if site.archive.complete.is_some() && !site.is_elsewhere {
            // Once more: a job that was cancelled meanwhile may have been answered before its last batch was there.
            let again = Recount::of_job(&made.job.topic, &made.job.name, &made.job.ranges).once_more();
            patiently(&*clock, "ask for folders to be counted anew", || site.ledger.bucket.ask_recount(&again)).await?;
        }
        let ended = archived?;
        if let Some(failure) = failure_of(&made.job, ended) {
            return Err(failure);
        }
    }
    let ended = end(args, &site, &*clock, &made, out).await?;
    let is_told = made.job.found.as_ref().is_some_and(|found| found.revouched > 0);
    if ended != Exit::Done || !is_told {
        return Ok(ended);
    }
    // Another layout may have given names that look like those of today.
    let left = missing::left_beside(&site, config, verify_parts(&destinations, &clock), &made.job).await?;
    if left == 0 {
        return Ok(Exit::Done);
    }
    say(out, args.json, &Said::Beside { job: &made.job.name, objects: left }, || beside_text(left))?;
    Ok(Exit::Findings)
}

/// Whether nothing was found missing that no job mends.
fn is_all_mended(made: &Made) -> bool {
    made.job.found.as_ref().is_none_or(JobFound::is_mended)
}

/// Says what became of the job, and that it has ended.
async fn end(
    args: &BackfillArgs,
    site: &Site<'_>,
    clock: &dyn Clock,
    made: &Made,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let name = &made.job.name;
    let tally = tally(site, clock, &made.job).await?;
    if !made.is_ended {
        // Also where receipts are gone that were there: the group is through, so it is never gone on with.
        patiently(clock, "end the job", || site.ledger.bucket.end_job(name, clock.wall_ms())).await?;
    }
    say(out, args.json, &Said::Balance { job: name, balance: &tally }, || balance_text(name, &tally))?;
    if tally.left > 0 {
        let way = match site.is_elsewhere {
            true => "Ask for them under another --job".to_string(),
            false => format!("`siltstone backfill --missing --topic {}` archives what is missing", made.job.topic),
        };
        return Err(Failure::new(
            Exit::Stopped,
            format!(
                "nothing vouches for {} offsets of job {name}, which has ended: it was cancelled, or receipts of it are gone. {way}",
                tally.left
            ),
        ));
    }
    let mended = !made.job.request.missing || (is_all_mended(made) && tally.is_whole());
    Ok(if mended { Exit::Done } else { Exit::Findings })
}

async fn cancel(
    args: &BackfillArgs,
    site: &Site<'_>,
    clock: &dyn Clock,
    name: &str,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let bucket = &site.ledger.bucket;
    if patiently(clock, "cancel the job", || bucket.job(name)).await?.is_none() {
        return Err(Failure::new(Exit::Config, format!("there is no job {name} to cancel")));
    }
    patiently(clock, "cancel the job", || bucket.end_job(name, clock.wall_ms())).await?;
    say(out, args.json, &Said::Cancelled { job: name }, || {
        format!(
            "job {name} is cancelled; processes of it that still run stop at the end of the batch that they have begun"
        )
    })
}

/// What the command asks for.
struct Wanted<'w> {
    args: &'w BackfillArgs,
    site: &'w Site<'w>,
    request: &'w JobRequest,
    partitions: &'w [TopicPartition],
}

impl Wanted<'_> {
    /// The job that was made for it before: of the name that it has, or, as one that mends has a name that only its findings tell, the one that
    /// is under way.
    async fn under_way(&self, clock: &dyn Clock, named: &str) -> Result<Option<Made>, Failure> {
        let Self { args, site, request, .. } = self;
        match request.missing && args.job.is_none() {
            true => job::under_way(site, clock, &args.topic, request).await,
            false => job::find(site, clock, named, &args.topic, request).await,
        }
    }

    /// The offsets that were asked for.
    async fn asked(
        &self,
        config: &Config,
        destinations: &Destinations,
        clock: &Arc<dyn Clock>,
        coordinator: &dyn Coordinator,
    ) -> Result<Resolved, Failure> {
        let Self { args, site, request, partitions } = self;
        let mut resolved = resolve(site, coordinator, &**clock, request, partitions).await?;
        if !site.is_elsewhere {
            let parts = verify_parts(destinations, clock);
            let ranges = &resolved.ranges;
            resolved.unvouched = missing::unvouched(site, config, parts, coordinator, &args.topic, ranges).await?;
        }
        Ok(resolved)
    }

    /// The job that mends what was found.
    async fn mend(&self, clock: &dyn Clock, coordinator: &dyn Coordinator, found: Resolved) -> Result<Made, Failure> {
        let Self { args, site, request, .. } = self;
        let name = match &args.job {
            Some(name) => name.clone(),
            None => job::name_to_mend(site, clock, &args.topic, request, &found).await?,
        };
        // Verifying takes a while: somebody may have made it meanwhile, and be half through.
        match self.under_way(clock, &name).await? {
            Some(made) => Ok(made),
            None => self.make(clock, coordinator, &name, found).await,
        }
    }

    /// The job that has ended, if nothing of what was asked for is left; else one that does what is left.
    async fn again(
        &self,
        clock: &dyn Clock,
        coordinator: &dyn Coordinator,
        ended: Made,
        resolved: Resolved,
    ) -> Result<Made, Failure> {
        let left: i64 = resolved.ranges.iter().map(|range| range.end - range.first).sum();
        let name = &ended.job.name;
        match (resolved.ranges.is_empty(), &self.args.job) {
            (true, _) => Ok(ended),
            (false, Some(_)) => Err(Failure::new(
                Exit::Stopped,
                format!(
                    "job {name} has ended, and nothing vouches for {left} offsets of what it was asked for: it was cancelled, or receipts \
                     are gone, or Kafka has more by now. Ask for them under another --job"
                ),
            )),
            (false, None) => {
                let next = job::not_ended(self.site, clock, name).await?;
                match job::find(self.site, clock, &next, &self.args.topic, self.request).await? {
                    Some(made) => Ok(made),
                    None => self.make(clock, coordinator, &next, resolved).await,
                }
            }
        }
    }

    /// A new job, which is stored if there is anything to do.
    async fn make(
        &self,
        clock: &dyn Clock,
        coordinator: &dyn Coordinator,
        name: &str,
        resolved: Resolved,
    ) -> Result<Made, Failure> {
        let Self { args, site, request, .. } = self;
        let wish = Wish { topic: &args.topic, request, name, chunk: args.chunk };
        let job = job::draft(site, coordinator, clock, &wish, resolved).await?;
        match args.dry_run || job.ranges.is_empty() {
            true => Ok(Made { job, is_resumed: false, is_ended: false }),
            false => job::store(site, clock, job).await,
        }
    }
}

/// What verifying needs where Kafka has no say.
fn verify_parts(destinations: &Destinations, clock: &Arc<dyn Clock>) -> verify::Parts {
    let (destinations, clock) = (destinations.clone(), clock.clone());
    verify::Parts { destinations, clock, cluster: None, counters: Arc::default() }
}

async fn find_missing(
    wanted: &Wanted<'_>,
    config: &Config,
    destinations: Destinations,
    clock: &Arc<dyn Clock>,
    coordinator: &dyn Coordinator,
) -> Result<missing::Missing, Failure> {
    let connected = KafkaCluster::connect(&config.kafka, KAFKA_PATIENCE).await;
    let cluster = connected.map_err(|error| Failure::new(error.exit(), chain(&error)))?;
    let parts = verify::Parts { cluster: Some(Arc::new(cluster)), ..verify_parts(&destinations, clock) };
    missing::find(wanted.site, config, parts, coordinator, wanted.request, wanted.partitions).await
}

fn archive_of<'c>(config: &'c Config, topic: &str) -> Result<&'c ArchiveConfig, Failure> {
    let found = config.archives.iter().find(|archive| archive.topics.matches(topic));
    found.ok_or_else(|| Failure::new(Exit::Config, format!("no archive of the configuration wants topic {topic}")))
}

async fn site<'c>(
    config: &'c Config,
    archive: &'c ArchiveConfig,
    destinations: &Destinations,
    clock: &dyn Clock,
) -> Result<Site<'c>, Failure> {
    let sites = ledger::sites(config, destinations, clock, Some(&archive.name), |_| true).await?;
    let ledger = sites.into_iter().next().ok_or_else(|| {
        let what = format!("archive {} has not begun: start `siltstone run` first", archive.name);
        Failure::new(Exit::Config, what)
    })?;
    let group = config.kafka.group.clone();
    Ok(Site { archive, ledger, owner: group.clone(), group, is_elsewhere: false, kafka: config.kafka.clone() })
}

fn partitions(args: &BackfillArgs, count: i32) -> Result<Vec<TopicPartition>, Failure> {
    let numbers: Vec<i32> = match &args.partition {
        Some(named) => named.iter().copied().collect(),
        None => (0..count).collect(),
    };
    if let Some(number) = numbers.iter().find(|&&number| number >= count) {
        let what = format!("--partition: topic {} has Kafka partitions 0 to {}, not {number}", args.topic, count - 1);
        return Err(Failure::new(Exit::Config, what));
    }
    Ok(numbers.into_iter().map(|number| TopicPartition::new(args.topic.as_str(), number)).collect())
}

/// # Errors
/// [`Exit::Config`]: the range ends before it begins.
fn check_order(args: &BackfillArgs) -> Result<(), Failure> {
    let refused = |what: String| Err(Failure::new(Exit::Config, format!("{what}: there is nothing between them")));
    if let (Some(from), Some(to)) = (args.from_offset, args.to_offset)
        && from >= to
    {
        return refused(format!("--from-offset {from} is not below --to-offset {to}"));
    }
    if let (Some(from), Some(to)) = (args.from_time, args.to_time)
        && from >= to
    {
        let (from, to) = (render_instant(from), render_instant(to));
        return refused(format!("--from-time {from} is not before --to-time {to}"));
    }
    Ok(())
}

fn request(args: &BackfillArgs, archive: &ArchiveConfig) -> JobRequest {
    JobRequest {
        partitions: args.partition.iter().flatten().copied().collect(),
        from_offset: args.from_offset,
        to_offset: args.to_offset,
        from_ms: args.from_time,
        to_ms: args.to_time,
        missing: args.missing,
        deep: args.deep,
        into: args.into.as_ref().map(|_| archive.layout.outputs[0].place.destinations[0].clone()),
    }
}

/// Runs this process's share of the job.
async fn archive_job(
    args: &BackfillArgs,
    config: &Config,
    site: &Site<'_>,
    job: &Job,
    clock: &Arc<dyn Clock>,
    progress: Option<Progress>,
    out: &mut dyn Write,
) -> Result<Ended, Failure> {
    let stop = Stop::default();
    stop_on_signals(stop.clone())?;
    let own = job::config_of(config, site.archive, job);
    let Connected { source, coordinator, topics, .. } = connect(&own).await?;
    let schedule = job::schedule(job).in_parallel(args.parallel.map_or(usize::MAX, |parallel| parallel as usize));
    let parts = Parts {
        coordinator: coordinator.clone(),
        clock: clock.clone(),
        destinations: open_destinations(&own)?,
        topics,
        health: Health::new(),
        resume_from_receipts: false,
        folding: Folding::default(),
        schedule: Some(schedule),
        owner: Some(site.owner.clone()),
        process: process_number(),
    };
    let context = prepare(&own, parts).await?;
    let status = Arc::new(Status::default());
    let pipeline = pipeline(&own, context, source, Handle::current(), status.clone())?;
    let driven = drive(pipeline, stop, Arc::new(Heartbeat::default()), clock.clone());
    let mut watch = Watch::new(job, &*coordinator, &status, progress, args.json);
    tokio::pin!(driven);
    loop {
        tokio::select! {
            ended = &mut driven => {
                watch.end();
                return ended;
            }
            () = tokio::time::sleep(WATCH) => watch.look(clock.monotonic_ms(), out).await?,
        }
    }
}

/// What the user should read, where the process ended before the job.
fn failure_of(job: &Job, ended: Ended) -> Option<Failure> {
    match ended {
        Ended::Done => None,
        Ended::Shutdown { stopped: Some(reason), .. } | Ended::Fatal(reason) => {
            Some(Failure::new(Exit::Stopped, format!("job {}: {reason}", job.name)))
        }
        Ended::Shutdown { .. } => Some(Failure::new(
            Exit::Incomplete,
            format!(
                "job {} has not ended; nothing is lost. The same command, or --job {} with it, goes on where it was left",
                job.name, job.name
            ),
        )),
    }
}
