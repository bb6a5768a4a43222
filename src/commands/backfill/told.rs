//! What the command says: lines for people, or objects for scripts.

use crate::backfill::job::{self, Made};
use crate::backfill::tally::Tally;
use crate::bucket::jobs::{Job, JobFound, JobKept};
use crate::clock::Clock;
use crate::config::{ArchiveConfig, Config};
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::kafka::look;
use crate::parse::text::printable;
use crate::parse::timestamp::render_instant;
use crate::pipeline::start::first_bounds;
use crate::record::{OffsetRange, TopicPartition};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

/// Records that are looked at in each partition to tell how large they are.
const SAMPLE: usize = 100;

/// Partitions that are looked at so.
const SAMPLED_MAX: usize = 16;

/// Ranges that are shown to people; the rest is counted.
const SHOWN_MAX: usize = 100;

/// Price of 1,000 writes at S3's standard storage class in us-east-1, in USD.
const USD_PER_1000_WRITES: f64 = 0.005;

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Said<'a> {
    Found {
        topic: &'a str,
        deep: bool,
        ranges: usize,
        #[serde(flatten)]
        found: &'a JobFound,
    },
    Job {
        job: &'a Job,
        resumed: bool,
        ended: bool,
        dry_run: bool,
        estimate: Estimate,
    },
    Progress {
        job: &'a str,
        offsets: u64,
        done: u64,
        offsets_per_s: u64,
        eta_s: Option<u64>,
    },
    Cancelled {
        job: &'a str,
    },
    Balance {
        job: &'a str,
        balance: &'a Tally,
    },
    Beside {
        job: &'a str,
        objects: u64,
    },
}

/// What to say of objects beside those that batches have put again.
pub(super) fn beside_text(objects: u64) -> String {
    format!(
        "{objects} objects that no receipt names are not those that their batches have put now: another layout named them so, and their rows are \
         there twice. `siltstone verify` names them; move them away"
    )
}

pub(super) fn say(
    out: &mut dyn Write,
    json: bool,
    line: &Said<'_>,
    text: impl FnOnce() -> String,
) -> Result<Exit, Failure> {
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
pub(super) struct Estimate {
    /// Offsets, so at most so many records.
    offsets: u64,
    /// Of them those that Kafka no longer holds.
    gone: u64,
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

async fn estimate(
    config: &Config,
    archive: &ArchiveConfig,
    job: &Job,
    kafka: (&dyn Coordinator, &dyn Clock),
) -> Result<Estimate, Failure> {
    let schedule = job::schedule(job);
    let offsets = job.ranges.iter().map(|range| (range.end - range.first).unsigned_abs()).sum();
    let batches = schedule.pieces();
    let writes = batches * (2 + archive.layout.outputs.len() as u64);
    let (mut bytes, mut records, mut from, mut to) = (0_u64, 0_u64, None::<i64>, None::<i64>);
    let (mut seen, mut gone) = (Vec::new(), 0);
    let mut starts: BTreeMap<i32, i64> = BTreeMap::new();
    for range in &job.ranges {
        let start = match starts.get(&range.partition) {
            Some(&start) => start,
            None => {
                let partition = TopicPartition::new(job.topic.as_str(), range.partition);
                let start = first_bounds(kafka.1, kafka.0, &partition).await?.start;
                *starts.entry(range.partition).or_insert(start)
            }
        };
        gone += (start.clamp(range.first, range.end) - range.first).unsigned_abs();
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
        gone,
        bytes: bytes.checked_div(records).map(|average| average * offsets),
        from: from.map(render_instant),
        to: to.map(render_instant),
        batches,
        writes,
        usd: writes as f64 / 1000.0 * USD_PER_1000_WRITES,
    })
}

/// How it is said.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// Objects instead of lines.
    pub(super) json: bool,
    /// Nothing will be archived.
    pub(super) dry_run: bool,
}

/// Says what verifying has found.
pub(super) fn tell_of_missing(
    out: &mut dyn Write,
    json: bool,
    topic: &str,
    deep: bool,
    (found, ranges): (&JobFound, usize),
) -> Result<(), Failure> {
    let JobFound { findings, besides, revouched, blocked, kept, more, later } = found;
    let said = Said::Found { topic, deep, ranges, found };
    say(out, json, &said, || {
        let counted = |kinds: &BTreeMap<String, u64>| {
            let words: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            if words.is_empty() { "nothing".to_string() } else { words.join(", ") }
        };
        let mut text =
            format!("topic {topic}, verified: {} found, {ranges} ranges to archive again", counted(findings));
        if !besides.is_empty() {
            text +=
                &format!("\n  not mended by archiving again: {}; `siltstone verify` says what to do", counted(besides));
        }
        if *revouched > 0 {
            text += &format!(", but for {revouched} unvouched objects that receipts will name again");
        }
        for kept in kept.iter().take(SHOWN_MAX) {
            text += &format!("\n  left as it is: {}", kept_text(topic, kept));
        }
        for what in blocked.iter().take(SHOWN_MAX) {
            text += &format!("\n  left out: {what}");
        }
        let unshown = kept.len().saturating_sub(SHOWN_MAX) + blocked.len().saturating_sub(SHOWN_MAX);
        if *more + unshown as u64 > 0 {
            text += &format!("\n  and {} more that are left as they are or left out", *more + unshown as u64);
        }
        if *later > 0 {
            text += &format!(
                "\n  {later} ranges are left to the same command later: the live group has not committed them, or they are too many"
            );
        }
        if !deep {
            text += "\n  no object was read: one that is damaged and has its size is found with --deep";
        }
        text.lines().map(|line| line.chars().flat_map(printable).collect::<String>()).collect::<Vec<_>>().join("\n")
    })?;
    Ok(())
}

/// What is there, why it stays as it is, and what a person can do.
fn kept_text(topic: &str, kept: &JobKept) -> String {
    let JobKept { partition, first, end, objects, example, in_kafka_from } = kept;
    let gone = match in_kafka_from {
        Some(from) => format!("those below {from}"),
        None => "them".to_string(),
    };
    let mut text = format!(
        "{topic}/{partition} offsets {first} to {end}: Kafka has {gone} no more, and {objects} objects that no receipt names hold rows of it, such \
         as {example}: keep them. A receipt now would declare these rows absent. Bring the receipts of these offsets back from a backup or an \
         older version of the bucket; without one these objects are all there is of the rows. Only where they are moved away for good does \
         the same command declare the offsets absent"
    );
    if let Some(from) = in_kafka_from {
        text += &format!(
            ". Kafka still has those from {from} on: `siltstone backfill --into` archives them elsewhere, should objects of them be gone"
        );
    }
    text
}

/// Says what is about to be archived.
pub(super) async fn announce(
    config: &Config,
    archive: &ArchiveConfig,
    made: &Made,
    kafka: (&dyn Coordinator, &dyn Clock),
    how: How,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let job = &made.job;
    let How { json, dry_run } = how;
    let estimate = match made.is_ended || job.ranges.is_empty() {
        true => Estimate::default(),
        false => estimate(config, archive, job, kafka).await?,
    };
    let said = Said::Job { job, resumed: made.is_resumed, ended: made.is_ended, dry_run, estimate: estimate.clone() };
    say(out, json, &said, || {
        let mut text = match (made.is_ended, made.is_resumed, dry_run) {
            (true, ..) => format!("job {} has ended", job.name),
            (_, true, _) => format!("job {}, gone on with", job.name),
            (_, _, true) => format!("job {}, not made: --dry-run", job.name),
            _ => format!("job {}, group {}", job.name, job.group),
        };
        for range in job.ranges.iter().take(SHOWN_MAX) {
            text += &format!("\n  {}/{} [{}, {})", job.topic, range.partition, range.first, range.end);
        }
        if job.ranges.len() > SHOWN_MAX {
            text += &format!("\n  and {} ranges more (all of them: --json)", job.ranges.len() - SHOWN_MAX);
        }
        if job.ranges.is_empty() && job.skipped == 0 {
            text += "\n  nothing to do: Kafka has no offsets of what is asked for";
        } else if job.ranges.is_empty() {
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
            if estimate.gone > 0 {
                text += &format!(
                    "\n  {} of these offsets Kafka no longer holds: they will be absent, and rows of objects that are gone will be lost",
                    estimate.gone
                );
            }
        }
        text
    })?;
    Ok(())
}

fn show_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

pub(super) fn balance_text(name: &str, tally: &Tally) -> String {
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
    if tally.absent_before > 0 || tally.lost_before > 0 {
        text += &format!(
            "\n  of that {} absent offsets and {} lost rows are what receipts said before this job was made",
            tally.absent_before, tally.lost_before
        );
    }
    if tally.lost > 0 {
        text +=
            &format!("\n  {} rows are lost: their objects were deleted, and Kafka has the records no more", tally.lost);
    }
    text
}
