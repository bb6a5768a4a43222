//! `siltstone backfill`: a range of offsets or times, archived beside the live group.

use super::drive::{Stop, drive, stop_on_signals};
use super::run::{Connected, connect};
use crate::backfill::job::{self, Made, Site};
use crate::backfill::tally::{Tally, tally};
use crate::bucket::jobs::{Job, JobRequest, check_name};
use crate::cli::BackfillArgs;
use crate::clock::{Clock, SystemClock};
use crate::config::{ArchiveConfig, Config};
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::kafka::look;
use crate::ledger::{self, Destinations};
use crate::parse::timestamp::render_instant;
use crate::pipeline::Ended;
use crate::pipeline::context::Folding;
use crate::pipeline::start::{Parts, open_destinations, patiently, pipeline, prepare};
use crate::record::{OffsetRange, TopicPartition};
use crate::spool::process_number;
use crate::telemetry::health::Health;
use crate::telemetry::http::Heartbeat;
use crate::telemetry::progress::Progress;
use crate::telemetry::status::Status;
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Records that are looked at in each partition to tell how large they are.
const SAMPLE: usize = 100;

/// Partitions that are looked at so.
const SAMPLED_MAX: usize = 16;

/// Price of 1,000 writes at S3's standard storage class in us-east-1, in USD.
const USD_PER_1000_WRITES: f64 = 0.005;

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
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let destinations = open_destinations(config)?;
    let archive = archive_of(config, &args.topic)?;
    let Connected { coordinator, topics, .. } = connect(config).await?;
    let Some(&count) = topics.get(&args.topic) else {
        return Err(Failure::new(Exit::Config, format!("no such topic: {}", args.topic)));
    };
    let site = site(config, archive, &destinations, &*clock).await?;
    let partitions = partitions(args, count)?;
    let request = request(args);
    let name = args.job.clone().unwrap_or_else(|| job::default_name(&args.topic, &request));
    if args.cancel {
        if patiently(&*clock, "cancel the job", || site.ledger.bucket.job(&name)).await?.is_none() {
            return Err(Failure::new(Exit::Config, format!("there is no job {name} to cancel")));
        }
        patiently(&*clock, "cancel the job", || site.ledger.bucket.end_job(&name, clock.wall_ms())).await?;
        return say(out, args.json, &Said::Cancelled { job: &name }, || format!("job {name} is cancelled"));
    }
    let made = match job::find(&site, &*clock, &name, &args.topic, &request).await? {
        Some(made) => made,
        None => {
            let (of, chunk) = (&*coordinator, args.chunk);
            let job = job::draft(&site, of, &*clock, &request, &partitions, Some(&name), chunk).await?;
            if args.dry_run || job.ranges.is_empty() {
                let is_resumed = false;
                Made { job, is_resumed, is_ended: false }
            } else {
                job::store(&site, &*clock, job).await?
            }
        }
    };
    announce(args, config, &made, out).await?;
    if args.dry_run || made.job.ranges.is_empty() {
        return Ok(Exit::Done);
    }
    if !made.is_ended {
        job::check_overlap(&site, &*clock, &made.job).await?;
        drop(coordinator);
        let ended = archive_job(args, config, archive, &made.job, &clock, progress, out).await?;
        if let Some(failure) = failure_of(&made.job, ended) {
            return Err(failure);
        }
    }
    let tally = tally(&site, &*clock, &made.job).await?;
    if tally.left == 0 && !made.is_ended {
        patiently(&*clock, "end the job", || site.ledger.bucket.end_job(&name, clock.wall_ms())).await?;
    }
    let left = tally.left;
    say(out, args.json, &Said::Balance { job: &name, balance: &tally }, || balance_text(&name, &tally))?;
    match left {
        0 => Ok(Exit::Done),
        _ => Err(Failure::new(
            Exit::Stopped,
            format!(
                "nothing vouches for {left} offsets of job {name}, whose group {} is through with it: it was cancelled, or receipts of it are \
                 gone. Ask for them under another --job",
                made.job.group
            ),
        )),
    }
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
    Ok(Site { archive, ledger, group: config.kafka.group.clone(), kafka: config.kafka.clone() })
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

fn request(args: &BackfillArgs) -> JobRequest {
    JobRequest {
        partitions: args.partition.iter().flatten().copied().collect(),
        from_offset: args.from_offset,
        to_offset: args.to_offset,
        from_ms: args.from_time,
        to_ms: args.to_time,
    }
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Said<'a> {
    Job { job: &'a Job, resumed: bool, ended: bool, dry_run: bool, estimate: Estimate },
    Progress { job: &'a str, offsets: u64, done: u64, offsets_per_s: u64, eta_s: Option<u64> },
    Cancelled { job: &'a str },
    Balance { job: &'a str, balance: &'a Tally },
}

fn say(out: &mut dyn Write, json: bool, line: &Said<'_>, text: impl FnOnce() -> String) -> Result<Exit, Failure> {
    let wrote = |error: std::io::Error| Failure::new(Exit::Failed, format!("write to the terminal: {error}"));
    let line = match json {
        true => serde_json::to_string(line).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?,
        false => text(),
    };
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(wrote)?;
    Ok(Exit::Done)
}

/// What a job is about to take, as far as a look at a few records tells.
#[derive(Clone, Debug, Default, Serialize)]
struct Estimate {
    /// Offsets, so at most so many records.
    offsets: u64,
    /// Bytes of payloads, keys apart.
    bytes: Option<u64>,
    /// Kafka timestamps of the first records that are there, the least one.
    from: Option<String>,
    /// The greatest Kafka timestamp of the last records.
    to: Option<String>,
    /// Batches.
    batches: u64,
    /// Requests that write: claims, receipts, and one object for each output and batch at least.
    writes: u64,
    /// What they cost at S3's list price, in USD.
    usd: f64,
}

async fn estimate(config: &Config, archive: &ArchiveConfig, job: &Job) -> Result<Estimate, Failure> {
    let schedule = job::schedule(job);
    let offsets = job.ranges.iter().map(|range| (range.end - range.first).unsigned_abs()).sum();
    let batches = schedule.pieces();
    let writes = batches * (2 + archive.layout.outputs.len() as u64);
    let (mut bytes, mut records, mut from, mut to) = (0_u64, 0_u64, None::<i64>, None::<i64>);
    let mut seen = Vec::new();
    for range in &job.ranges {
        if seen.contains(&range.partition) || seen.len() == SAMPLED_MAX {
            continue;
        }
        seen.push(range.partition);
        let partition = TopicPartition::new(job.topic.as_str(), range.partition);
        let last = job.ranges.iter().rfind(|of| of.partition == range.partition).unwrap_or(range);
        let tail = OffsetRange::new(last.first.max(last.end - SAMPLE as i64), last.end);
        let (kafka, range) = (config.kafka.clone(), range.range());
        let look = move || {
            Ok::<_, crate::kafka::KafkaError>((
                look::first_of(&kafka, &partition, range, SAMPLE)?,
                look::first_of(&kafka, &partition, tail, SAMPLE)?,
            ))
        };
        let looked = tokio::task::spawn_blocking(look).await;
        let looked = looked.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let (head, tail) = looked.map_err(|error| Failure::new(error.exit(), error.to_string()))?;
        from = from.into_iter().chain(head.iter().filter_map(|record| record.timestamp)).min();
        to = to.into_iter().chain(tail.iter().filter_map(|record| record.timestamp)).max();
        for record in head.iter().chain(&tail) {
            bytes += record.value.as_ref().map_or(0, |value| value.len() as u64);
            records += 1;
        }
    }
    Ok(Estimate {
        offsets,
        bytes: bytes.checked_div(records).map(|average| average * offsets),
        from: from.map(render_instant),
        to: to.map(render_instant),
        batches,
        writes,
        usd: writes as f64 / 1000.0 * USD_PER_1000_WRITES,
    })
}

/// Says what is about to be archived.
async fn announce(args: &BackfillArgs, config: &Config, made: &Made, out: &mut dyn Write) -> Result<(), Failure> {
    let job = &made.job;
    let archive = archive_of(config, &job.topic)?;
    let estimate = match made.is_ended || job.ranges.is_empty() {
        true => Estimate::default(),
        false => estimate(config, archive, job).await?,
    };
    let said = Said::Job {
        job,
        resumed: made.is_resumed,
        ended: made.is_ended,
        dry_run: args.dry_run,
        estimate: estimate.clone(),
    };
    say(out, args.json, &said, || {
        let mut text = match (made.is_ended, made.is_resumed, args.dry_run) {
            (true, ..) => format!("job {} has ended", job.name),
            (_, true, _) => format!("job {}, gone on with", job.name),
            (_, _, true) => format!("job {}, not made: --dry-run", job.name),
            _ => format!("job {}, group {}", job.name, job.group),
        };
        for range in &job.ranges {
            text += &format!("\n  {}/{} [{}, {})", job.topic, range.partition, range.first, range.end);
        }
        if job.ranges.is_empty() {
            text += &format!("\n  nothing to do: receipts vouch for all {} offsets", job.skipped);
        } else if !made.is_ended {
            let bytes = estimate.bytes.map_or("unknown".to_string(), show_bytes);
            let span = match (&estimate.from, &estimate.to) {
                (Some(from), Some(to)) => format!("{from} to {to}"),
                _ => "unknown".to_string(),
            };
            text += &format!(
                "\n  {} offsets, {} more that receipts vouch for; Kafka timestamps {span}\n  payloads about {bytes}; {} batches, at least {} \
                 writes, about {:.2} USD at S3's list price",
                estimate.offsets, job.skipped, estimate.batches, estimate.writes, estimate.usd
            );
        }
        text
    })?;
    Ok(())
}

fn show_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Runs this process's share of the job.
async fn archive_job(
    args: &BackfillArgs,
    config: &Config,
    archive: &ArchiveConfig,
    job: &Job,
    clock: &Arc<dyn Clock>,
    progress: Option<Progress>,
    out: &mut dyn Write,
) -> Result<Ended, Failure> {
    let stop = Stop::default();
    stop_on_signals(stop.clone())?;
    let own = job::config_of(config, archive, job);
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
        owner: Some(config.kafka.group.clone()),
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

/// How often the terminal's bars change.
const WATCH: Duration = Duration::from_secs(1);

/// How often a line is written where there is no terminal.
const LINES_MS: i64 = 10_000;

/// Shows how far the whole job is: what its group has committed, and what this process has read beyond.
struct Watch<'a> {
    job: &'a Job,
    coordinator: &'a dyn Coordinator,
    status: &'a Status,
    bars: Option<Bars>,
    json: bool,
    partitions: Vec<TopicPartition>,
    offsets: u64,
    began: Option<(i64, u64)>,
    next_line_ms: Option<i64>,
}

struct Bars {
    progress: Progress,
    bars: Vec<indicatif::ProgressBar>,
}

impl<'a> Watch<'a> {
    fn new(
        job: &'a Job,
        coordinator: &'a dyn Coordinator,
        status: &'a Status,
        progress: Option<Progress>,
        json: bool,
    ) -> Self {
        let mut partitions: Vec<TopicPartition> =
            job.ranges.iter().map(|range| TopicPartition::new(job.topic.as_str(), range.partition)).collect();
        partitions.dedup();
        let length = |partition: &TopicPartition| done(job, partition.partition, i64::MAX);
        let bars = progress.map(|progress| {
            let bar = |partition: &TopicPartition| progress.bar(&partition.to_string(), length(partition));
            Bars { bars: partitions.iter().map(bar).collect(), progress }
        });
        let offsets = partitions.iter().map(length).sum();
        Self { job, coordinator, status, bars, json, partitions, offsets, began: None, next_line_ms: None }
    }

    async fn look(&mut self, now_ms: i64, out: &mut dyn Write) -> Result<(), Failure> {
        // Not to know it is no reason to stop: the next look asks again.
        let Ok(committed) = self.coordinator.committed(self.partitions.clone()).await else { return Ok(()) };
        let read = self.status.positions();
        let mut all = 0;
        for (index, partition) in self.partitions.iter().enumerate() {
            let committed = committed.iter().find_map(|(of, committed)| committed.as_ref().filter(|_| of == partition));
            let position = committed.map(|committed| committed.offset).max(read.get(partition).copied()).unwrap_or(0);
            let done = done(self.job, partition.partition, position);
            all += done;
            if let Some(bars) = &self.bars {
                bars.bars[index].set_position(done);
            }
        }
        let (began_ms, before) = *self.began.get_or_insert((now_ms, all));
        let next_line_ms = *self.next_line_ms.get_or_insert(now_ms + LINES_MS);
        if self.bars.is_some() || now_ms < next_line_ms {
            return Ok(());
        }
        self.next_line_ms = Some(now_ms + LINES_MS);
        let (offsets, seconds) = (self.offsets, (now_ms - began_ms).max(1) as f64 / 1000.0);
        let rate = (all - before.min(all)) as f64 / seconds;
        let eta_s = (rate > 0.0).then(|| ((offsets - all.min(offsets)) as f64 / rate).round() as u64);
        let said =
            Said::Progress { job: &self.job.name, offsets, done: all, offsets_per_s: rate.round() as u64, eta_s };
        say(out, self.json, &said, || {
            let eta = eta_s.map_or(String::new(), |eta_s| format!(", {eta_s} s left"));
            format!("{all} of {offsets} offsets, {rate:.0} offsets/s{eta}")
        })?;
        Ok(())
    }

    fn end(self) {
        if let Some(Bars { progress, bars }) = self.bars {
            bars.iter().for_each(|bar| bar.finish_and_clear());
            drop(progress);
        }
    }
}

/// Offsets of the job in a Kafka partition that lie below `position`.
fn done(job: &Job, partition: i32, position: i64) -> u64 {
    let of = job.ranges.iter().filter(|range| range.partition == partition);
    of.map(|range| (position.clamp(range.first, range.end) - range.first).unsigned_abs()).sum()
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

fn balance_text(name: &str, tally: &Tally) -> String {
    let mut text = format!(
        "job {name}: {} offsets, {} records read in {} batches, {} offsets absent from Kafka, {} vouched for before; {} objects, {}",
        tally.offsets,
        tally.read,
        tally.batches,
        tally.absent,
        tally.skipped,
        tally.objects,
        show_bytes(tally.bytes)
    );
    for (output, balance) in &tally.outputs {
        let dropped: u64 = balance.dropped.values().sum();
        text += &format!(
            "\n  output {output}: {} archived ({} rows), {} dead letters, {dropped} filtered or dropped",
            balance.archived, balance.rows, balance.dead_lettered
        );
    }
    if tally.lost > 0 {
        text +=
            &format!("\n  {} rows are lost: their objects were deleted, and Kafka has the records no more", tally.lost);
    }
    text
}
