//! `siltstone restore`: records of an archive, back to Kafka.

mod said;

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
use crate::pipeline::start::{chain, open_destinations, patiently};
use crate::reader::plan::{Wanted, sites};
use crate::reader::sieve::Sieve;
use crate::restore::plan::{Survey, choose, survey};
use crate::restore::position::{Progress as Reached, ProgressError, known_end, short_hash};
use crate::restore::produce::{Ended, How, Restore};
use crate::restore::read::Archive;
use crate::restore::tally::Tally;
use crate::restore::target::{Facts, Settings, TimeLimits, findings, no_such_topic};
use crate::telemetry::progress::Progress;
use said::{Balance, Come, LeftOut, Said, Watch, balance_text, plan_text, say};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

/// Source partitions of which the last message says why they stopped; the balance says it of all.
const STOPPED_SAID_MAX: usize = 5;

/// How long a broker may be out of reach at the start.
const KAFKA_PATIENCE: Duration = Duration::from_secs(30);

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
    let sieve = Sieve::new(&wanted, None, args.condition.as_deref())?;
    let destinations = open_destinations(config)?;
    let sites = sites(config, &destinations, &clock, &wanted).await?;
    let site = site_of(args, config, &sites)?;
    let choice = choose(&site.archive.layout, args.part.output.as_deref())?;
    let wanted = Wanted { output: Some(choice.output.clone()), ..wanted };
    let archive = Archive { site, destinations: &destinations, clock: &clock };
    let survey = survey(archive, &wanted).await?;
    let hash = request_hash(args, site, &choice.output);
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
    // One that is under way may be through with what is refused now.
    if let (Some(why), 0) = (&survey.refused, known.produced()) {
        return Err(Failure::new(Exit::Refused, format!("nothing is restored: {why}")));
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
    let how = How {
        topic: &args.topic,
        to_topic: &args.to_topic,
        wanted: &wanted,
        ends: &survey.partitions,
        preserve_partitions: args.preserve_partitions,
        rate: args.rate,
        limits: TimeLimits::of(&look.settings, clock.wall_ms(), &args.accept),
        message_bytes_max,
        job: hash,
        is_stopped: &|| stop.is_asked(),
    };
    let mut restore = Restore::new(how, sieve, &target, archive);
    let begun = match restore.recovered().await? {
        Some(progress) => progress,
        None => known,
    };
    let earlier = begun.produced();
    let mut watch = Watch::new(progress, args, &job, survey.rows, &clock);
    let ended = restore.run(begun, &mut |tally: &Tally| watch.see(tally, out)).await;
    let unwritten = watch.end();
    let ended = ended?;
    unwritten?;
    let balance = Balance {
        tally: *restore.committed(),
        earlier,
        undecided: restore.sieve().failing.0,
        undecided_why: &restore.sieve().failing.1,
        untold_times: restore.sieve().untimed,
        untold_offsets: restore.sieve().unplaced,
        left_out: LeftOut::of(&survey),
        partitions: come(&restore),
    };
    say(out, args.json, &Said::Balance { job: &job, complete: ended == Ended::Done, balance: &balance }, || {
        balance_text(&job, &args.topic, &args.to_topic, &balance)
    })?;
    match ended {
        Ended::Done if balance.undecided > 0 => Ok(Exit::Findings),
        Ended::Done => Ok(Exit::Done),
        Ended::Stopped if restore.stopped().is_empty() => {
            let what = format!(
                "job {job} has not ended; nothing is lost or doubled. The same command goes on where it was left"
            );
            Err(Failure::new(Exit::Incomplete, what))
        }
        Ended::Stopped | Ended::Short => Err(not_whole(&job, ended, restore.stopped())),
    }
}

/// How far each source partition has come.
fn come<'a>(restore: &'a Restore<'_>) -> Vec<Come<'a>> {
    let one = |(&partition, reached): (&i32, &crate::restore::position::Reached)| Come {
        partition,
        next: reached.at.next,
        rows: reached.at.rows,
        rows_of: (reached.at.rows > 0).then_some(reached.at.of),
        end: known_end(reached.end),
        stopped: restore.stopped().get(&partition).map(|failure| failure.message.as_str()),
    };
    restore.reached().iter().map(one).collect()
}

/// Of a job of which source partitions have stopped. A person must decide, but where all of them stopped for the same other reason.
fn not_whole(job: &str, ended: Ended, stopped: &BTreeMap<i32, Failure>) -> Failure {
    let exits: BTreeSet<u8> = stopped.values().map(|failure| failure.exit as u8).collect();
    let same = stopped.values().next().map(|failure| failure.exit).filter(|_| exits.len() == 1);
    let rest = match ended {
        Ended::Stopped => "the others were told to stop before their ends",
        Ended::Done | Ended::Short => "the others are restored",
    };
    let why: Vec<String> = stopped
        .iter()
        .take(STOPPED_SAID_MAX)
        .map(|(partition, failure)| format!("partition {partition}: {failure}"))
        .collect();
    let more = match stopped.len().saturating_sub(STOPPED_SAID_MAX) {
        0 => String::new(),
        more => format!("; and {more} more, as the balance says"),
    };
    let what = format!(
        "job {job} is not whole: {} source partitions stopped, {rest}; nothing is lost or doubled, and the same command goes on with what is left. {}{more}",
        stopped.len(),
        why.join("; ")
    );
    Failure::new(same.unwrap_or(Exit::Stopped), what)
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
    site.ok_or_else(|| {
        Failure::new(Exit::Config, format!("archive {} has not begun: there is nothing to restore", archive.name))
    })
}

/// A hash of all that decides which records go where.
fn request_hash(args: &RestoreArgs, site: &Site<'_>, output: &str) -> u32 {
    let part = &args.part;
    let archive = (&site.archive.name, site.archive.layout.generation, site.bucket.destination().id());
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
