//! `siltstone restore`: records of an archive, back to Kafka.

use super::drive::{Stop, stop_on_signals};
use super::wanted;
use crate::bucket::jobs::check_name;
use crate::cli::{Moment, RestoreArgs};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, KafkaConfig};
use crate::exit::{Exit, Failure};
use crate::kafka::producing::{JobTarget, Transactions, kept, of_group, settings};
use crate::kafka::{KafkaError, MetaClient};
use crate::ledger::Site;
use crate::parse::timestamp::render_instant;
use crate::pipeline::start::{chain, open_destinations, patiently};
use crate::reader::plan::{Wanted, sites};
use crate::reader::sieve::Sieve;
use crate::restore::plan::{Choice, Survey, choose, survey};
use crate::restore::position::{Progress as Reached, ProgressError, short_hash};
use crate::restore::produce::{Ended, How, Restore, Tally};
use crate::restore::read::Archive;
use crate::restore::target::{Facts, Finding, Settings, TimeLimits, findings, no_such_topic};
use crate::telemetry::progress::Progress;
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// How long a broker may be out of reach at the start.
const KAFKA_PATIENCE: Duration = Duration::from_secs(30);

/// How often a line is written where there is no terminal.
const LINES_MS: i64 = 10_000;

/// Carries out the command.
///
/// # Errors
/// A [`Failure`] with its exit code.
pub async fn restore(
    args: &RestoreArgs,
    config: &Config,
    progress: Option<Progress>,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    check(args)?;
    let clock = SystemClock::new();
    let wanted = wanted(&args.part, Some(&args.topic), clock.wall_ms());
    let mut sieve = Sieve::new(&wanted, None, args.condition.as_deref())?;
    let destinations = open_destinations(config)?;
    let sites = sites(config, &destinations, &clock, &wanted).await?;
    let site = site_of(args, config, &sites)?;
    let choice = choose(&site.archive.layout, args.part.output.as_deref())?;
    let wanted = Wanted { output: Some(choice.output.clone()), ..wanted };
    let archive = Archive { site, destinations: &destinations, clock: &clock };
    let survey = survey(archive, &wanted).await?;
    let hash = request_hash(args, &site.archive.name, &choice.output);
    let job = args.job.clone().unwrap_or_else(|| default_name(args, hash));
    let kafka = KafkaConfig {
        brokers: args.to_brokers.clone().unwrap_or_else(|| config.kafka.brokers.clone()),
        ..config.kafka.clone()
    };
    let look = look(args, &kafka, &config.kafka.group, &job, &survey).await?;
    let known = known(hash, &look, &survey)?;
    let facts = facts(args, config, site, &kafka, &look, &survey, &clock).await?;
    let found = findings(&look.settings, &facts, &args.accept);
    let plan = Said::Plan {
        job: &job,
        group: &of_group(&kafka, &config.kafka.group, &job).group,
        archive: &site.archive.name,
        choice: &choice,
        survey: &survey,
        earlier: known.produced(),
        findings: &found,
        dry_run: args.dry_run,
    };
    say(out, args.json, &plan, || plan_text(args, &job, &choice, &survey, known.produced(), &found))?;
    let refused: Vec<&str> = found.iter().filter(|one| one.refused).map(|one| one.text.as_str()).collect();
    if !refused.is_empty() {
        return Err(Failure::new(Exit::Stopped, format!("nothing is restored: {}", refused.join("; also: "))));
    }
    if args.dry_run || survey.partitions.is_empty() {
        return Ok(Exit::Done);
    }
    let message_bytes_max = look.settings.as_ref().ok().and_then(|known| known.get("max.message.bytes")?.parse().ok());
    let target = JobTarget {
        kafka: &kafka,
        topic: &args.to_topic,
        partitions: look.partitions,
        job: &job,
        group: &config.kafka.group,
        message_bytes_max,
    };
    let target = Transactions::new(&target).map_err(refused_by_kafka)?;
    let stop = Stop::default();
    stop_on_signals(stop.clone())?;
    sieve.failing = (0, String::new());
    let how = How {
        topic: &args.topic,
        to_topic: &args.to_topic,
        wanted: &wanted,
        preserve_partitions: args.preserve_partitions,
        rate: args.rate,
        limits: TimeLimits::of(&look.settings, clock.wall_ms(), &args.accept),
        job: hash,
        is_stopped: &|| stop.is_asked(),
    };
    let mut restore = Restore { how, sieve, target: &target, archive, committed: Tally::default() };
    let begun = match restore.recovered().await? {
        Some(progress) => progress,
        None => known.clone(),
    };
    let earlier = begun.produced();
    let mut watch = Watch::new(progress, args, &job, survey.rows, &clock);
    let ended = restore.run(begun, &mut |tally| watch.see(tally, out)).await;
    let unwritten = watch.end();
    let ended = ended?;
    unwritten?;
    let balance = Balance {
        tally: restore.committed,
        earlier,
        undecided: restore.sieve.failing.0,
        undecided_why: &restore.sieve.failing.1,
        untold_times: restore.sieve.untimed,
        untold_offsets: restore.sieve.unplaced,
        left_out: LeftOut::of(&survey),
    };
    say(out, args.json, &Said::Balance { job: &job, complete: ended == Ended::Done, balance: &balance }, || {
        balance_text(&job, &args.to_topic, &balance)
    })?;
    match ended {
        Ended::Done => Ok(Exit::Done),
        Ended::Stopped => {
            let what = format!("job {job} has not ended; nothing is lost or doubled. The same command goes on where it was left");
            Err(Failure::new(Exit::Incomplete, what))
        }
    }
}

/// What can be told wrong by the arguments alone.
fn check(args: &RestoreArgs) -> Result<(), Failure> {
    if let Some(name) = &args.job {
        check_name(name).map_err(|problem| Failure::new(Exit::Config, format!("--job {name:?}: {problem}")))?;
    }
    for (flag, moment) in [("--since", args.part.since), ("--until", args.part.until)] {
        if let Some(Moment::Ago(_)) = moment {
            let what = format!(
                "{flag}: a restore that is gone on with must mean the same as before: give the time itself, as in 2025-11-21T08:00:00Z"
            );
            return Err(Failure::new(Exit::Config, what));
        }
    }
    Ok(())
}

fn site_of<'s>(args: &RestoreArgs, config: &Config, sites: &'s [Site<'s>]) -> Result<&'s Site<'s>, Failure> {
    let topic = &args.topic;
    let Some(archive) = config.archives.iter().find(|archive| archive.topics.matches(topic)) else {
        return Err(Failure::new(Exit::Config, format!("no archive of this configuration takes the topic {topic}")));
    };
    if args.part.archive.as_ref().is_some_and(|name| *name != archive.name) {
        let what = format!("--archive: the topic {topic} is archived by {}", archive.name);
        return Err(Failure::new(Exit::Config, what));
    }
    let site = sites.iter().find(|site| site.archive.name == archive.name);
    site.ok_or_else(|| Failure::new(Exit::Config, format!("archive {} has not begun: there is nothing to restore", archive.name)))
}

/// A hash of all that decides which records go where.
fn request_hash(args: &RestoreArgs, archive: &str, output: &str) -> u32 {
    let part = &args.part;
    let at = |moment: Option<Moment>| moment.map(|moment| moment.at(0));
    let request = (
        (&args.topic, &args.to_topic, archive, output, &args.condition, args.preserve_partitions),
        (&part.partition, at(part.since), at(part.until), part.from_offset, part.to_offset),
    );
    short_hash(&format!("{request:?}"))
}

fn default_name(args: &RestoreArgs, hash: u32) -> String {
    let allowed = |character: char| if character.is_ascii_alphanumeric() || character == '_' { character } else { '-' };
    let topic: String = args.topic.chars().map(allowed).take(80).collect();
    format!("{topic}-{hash:08x}")
}

fn refused_by_kafka(error: KafkaError) -> Failure {
    Failure::new(error.exit(), chain(&error))
}

/// What Kafka tells before anything is done.
struct Look {
    partitions: i32,
    cluster_id: String,
    settings: Settings,
    kept: Vec<crate::restore::position::Kept>,
}

async fn look(
    args: &RestoreArgs,
    kafka: &KafkaConfig,
    group: &str,
    job: &str,
    survey: &Survey,
) -> Result<Look, Failure> {
    let client = MetaClient::new(&of_group(kafka, group, job)).map_err(refused_by_kafka)?;
    let (topic, brokers) = (args.to_topic.clone(), kafka.brokers.clone());
    let wanted = survey.partitions.last_key_value().map_or(1, |(&last, _)| last.saturating_add(1));
    let asked = tokio::task::spawn_blocking(move || {
        let cluster = client.wait_for_cluster(KAFKA_PATIENCE).map_err(refused_by_kafka)?;
        let Some(found) = cluster.topics.iter().find(|found| found.name == topic) else {
            return Err(Failure::new(Exit::Config, no_such_topic(&topic, &brokers, wanted)));
        };
        let partitions = i32::try_from(found.partitions).unwrap_or(i32::MAX);
        let kept = kept(&client, &topic, partitions);
        let kept = kept.map_err(|problem| Failure::new(Exit::Unreachable, format!("how far the job is: {problem}")))?;
        Ok((partitions, cluster.id, kept))
    });
    let asked = asked.await.map_err(|error| Failure::new(Exit::Failed, format!("ask the Kafka cluster: {error}")))?;
    let (partitions, cluster_id, kept) = asked?;
    Ok(Look { partitions, cluster_id, kept, settings: settings(kafka, &args.to_topic).await })
}

/// How far the job is, or its begin.
fn known(hash: u32, look: &Look, survey: &Survey) -> Result<Reached, Failure> {
    let failed = |error: ProgressError| Failure::new(Exit::Config, format!("how far the job is: {error}"));
    match Reached::read(hash, &look.kept).map_err(failed)? {
        Some(progress) => Ok(progress),
        None => Reached::begin(hash, look.partitions, &survey.partitions).map_err(failed),
    }
}

async fn facts(
    args: &RestoreArgs,
    config: &Config,
    site: &Site<'_>,
    kafka: &KafkaConfig,
    look: &Look,
    survey: &Survey,
    clock: &dyn Clock,
) -> Result<Facts, Failure> {
    let identity = patiently(clock, "archive.json", || site.bucket.identity()).await?;
    let home = identity.map(|identity| identity.cluster_id).unwrap_or_default();
    let is_home = match (home.as_str(), look.cluster_id.as_str()) {
        ("", _) | (_, "") => args.to_brokers.is_none(),
        (home, target) => home == target,
    };
    let taking = config.archives.iter().find(|archive| archive.topics.matches(&args.to_topic));
    Ok(Facts {
        topic: args.to_topic.clone(),
        brokers: kafka.brokers.clone(),
        partitions: look.partitions,
        preserved_max: survey.partitions.last_key_value().map(|(&last, _)| last).filter(|_| args.preserve_partitions),
        oldest_ms: survey.oldest_ms,
        newest_ms: survey.newest_ms,
        now_ms: clock.wall_ms(),
        is_source: is_home && args.topic == args.to_topic,
        archived_by: taking.filter(|_| is_home).map(|archive| archive.name.clone()),
        bytes: survey.bytes,
    })
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Said<'a> {
    Plan {
        job: &'a str,
        group: &'a str,
        archive: &'a str,
        #[serde(flatten)]
        choice: &'a Choice,
        survey: &'a Survey,
        earlier: u64,
        findings: &'a [Finding],
        dry_run: bool,
    },
    Progress {
        job: &'a str,
        rows: u64,
        #[serde(flatten)]
        tally: &'a Tally,
        records_per_s: u64,
    },
    Balance {
        job: &'a str,
        complete: bool,
        balance: &'a Balance<'a>,
    },
}

/// What came of everything.
#[derive(Serialize)]
struct Balance<'a> {
    #[serde(flatten)]
    tally: Tally,
    /// Records that earlier runs of the job have produced.
    earlier: u64,
    /// Of those that do not meet the condition: rows of which it cannot say, and why the first one.
    undecided: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    undecided_why: &'a str,
    /// Records produced though their rows do not tell a time or offset, and something of their objects lies outside of those asked for.
    untold_times: u64,
    untold_offsets: u64,
    #[serde(flatten)]
    left_out: LeftOut<'a>,
}

/// Records of the range that the output does not have.
#[derive(Serialize)]
struct LeftOut<'a> {
    dead_letters: u64,
    dropped: &'a std::collections::BTreeMap<String, u64>,
    without_output: u64,
    absent: u64,
    lost: u64,
}

impl<'a> LeftOut<'a> {
    fn of(survey: &'a Survey) -> Self {
        Self {
            dead_letters: survey.dead_letters,
            dropped: &survey.dropped,
            without_output: survey.without_output,
            absent: survey.absent,
            lost: survey.lost,
        }
    }

    /// A line for each, as far as there is something.
    fn lines(&self) -> String {
        let dropped = self.dropped.values().sum();
        let lines = [
            (self.dead_letters, "records are not in it but dead letters (`siltstone dead-letters`)"),
            (dropped, "records were dropped by rules when they were archived"),
            (self.without_output, "records were archived when there was no such output"),
            (self.absent, "offsets were gone from Kafka before they could be archived, or hold no records"),
            (self.lost, "rows are gone from the bucket"),
        ];
        let said = lines.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("\n  not there: {count} {what}"));
        said.collect()
    }
}

fn say(out: &mut dyn Write, json: bool, line: &Said<'_>, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let line = match json {
        true => serde_json::to_string(line).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?,
        false => text(),
    };
    let wrote = writeln!(out, "{line}").and_then(|()| out.flush());
    wrote.map_err(|error| Failure::new(Exit::Failed, format!("write to the terminal: {error}")))
}

fn plan_text(
    args: &RestoreArgs,
    job: &str,
    choice: &Choice,
    survey: &Survey,
    earlier: u64,
    findings: &[Finding],
) -> String {
    let (topic, to) = (&args.topic, &args.to_topic);
    let begin = match (args.dry_run, earlier) {
        (true, _) => format!("job {job}, not begun with: --dry-run"),
        (false, 0) => format!("job {job}"),
        (false, earlier) => format!("job {job}, gone on with: {earlier} records are restored already"),
    };
    let mut text = format!("{begin}\n  {topic} to {to}, from the output {}", choice.output);
    if !choice.is_asked && !choice.others.is_empty() {
        text += &format!(" (there are also {}: --output NAME)", choice.others.join(", "));
    }
    for (partition, (first, end)) in &survey.partitions {
        text += &format!("\n  {topic}/{partition} [{first}, {end})");
    }
    if survey.partitions.is_empty() {
        return text + "\n  nothing of it is archived";
    }
    let time = |ms: Option<i64>| ms.map_or("unknown".to_string(), render_instant);
    text += &format!(
        "\n  {} rows in {} objects of {} batches, {}; event times {} to {}",
        survey.rows,
        survey.objects,
        survey.batches,
        indicatif::HumanBytes(survey.bytes),
        time(survey.event_min_ms),
        time(survey.event_max_ms)
    );
    for loss in &survey.losses {
        text += &format!("\n  lost: {loss}");
    }
    if survey.losses.is_empty() {
        text += "\n  records come back as they were; their offsets are new";
    }
    text += &LeftOut::of(survey).lines();
    for finding in findings {
        text += &format!("\n  {}: {}", if finding.refused { "refused" } else { "warning" }, finding.text);
    }
    text
}

fn balance_text(job: &str, to_topic: &str, balance: &Balance<'_>) -> String {
    let tally = &balance.tally;
    let mut text = format!(
        "job {job}: {} records produced to {to_topic} in {} transactions, {}; {} restored earlier\n  {} rows read, {} outside of the times \
         and offsets, {} not meeting the condition",
        tally.produced,
        tally.transactions,
        indicatif::HumanBytes(tally.bytes),
        balance.earlier,
        tally.read,
        tally.outside,
        tally.filtered
    );
    if balance.undecided > 0 {
        text += &format!("\n  of {} rows the condition cannot say whether they meet it: {}", balance.undecided, balance.undecided_why);
    }
    for (count, what) in [
        (tally.untimed, "records have the time of the restore: they had none, or 0"),
        (balance.untold_times, "records are restored though their rows do not tell their time"),
        (balance.untold_offsets, "records are restored though their rows do not tell their offset"),
    ] {
        if count > 0 {
            text += &format!("\n  {count} {what}");
        }
    }
    text + &balance.left_out.lines()
}

/// Shows how far it is: a bar on a terminal, lines elsewhere.
struct Watch<'a> {
    bar: Option<(indicatif::ProgressBar, Progress)>,
    args: &'a RestoreArgs,
    job: &'a str,
    rows: u64,
    clock: &'a dyn Clock,
    began_ms: i64,
    next_line_ms: i64,
    unwritten: Option<Failure>,
}

impl<'a> Watch<'a> {
    fn new(
        progress: Option<Progress>,
        args: &'a RestoreArgs,
        job: &'a str,
        rows: u64,
        clock: &'a dyn Clock,
    ) -> Self {
        let bar = progress.map(|progress| (progress.bar(&args.to_topic, rows), progress));
        let began_ms = clock.monotonic_ms();
        Self { bar, args, job, rows, clock, began_ms, next_line_ms: began_ms + LINES_MS, unwritten: None }
    }

    fn see(&mut self, tally: &Tally, out: &mut dyn Write) {
        let now_ms = self.clock.monotonic_ms();
        if let Some((bar, _)) = &self.bar {
            bar.set_position(tally.read);
            return;
        }
        if now_ms < self.next_line_ms {
            return;
        }
        self.next_line_ms = now_ms + LINES_MS;
        let seconds = (now_ms - self.began_ms).max(1) as f64 / 1000.0;
        let records_per_s = (tally.produced as f64 / seconds).round() as u64;
        let (rows, job) = (self.rows, self.job);
        let said = Said::Progress { job, rows, tally, records_per_s };
        let text = || format!("{} of {rows} rows, {} records produced, {records_per_s} records/s", tally.read, tally.produced);
        if let Err(failure) = say(out, self.args.json, &said, text) {
            self.unwritten.get_or_insert(failure);
        }
    }

    /// Takes the bar off the terminal.
    ///
    /// # Errors
    /// A line could not be written.
    fn end(self) -> Result<(), Failure> {
        if let Some((bar, progress)) = self.bar {
            bar.finish_and_clear();
            drop(progress);
        }
        self.unwritten.map_or(Ok(()), Err)
    }
}
