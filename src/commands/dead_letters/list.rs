//! `siltstone dead-letters list`: the objects of dead letters, from receipts.

use super::{selection, shown, write_json, wrote};
use crate::bucket::Bucket;
use crate::bucket::replays::LetterId;
use crate::cli::ListArgs;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::parse::timestamp::render_instant;
use crate::pipeline::start::{open_destinations, patiently};
use crate::replay::find::{DeadBatch, DeadObject, Destinations, sites};
use crate::replay::read::Letters;
use crate::replay::select::Selection;
use futures::TryStreamExt;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;

/// Different reasons that are told apart for one object.
const REASONS_MAX: usize = 100;

/// What is known of one object.
#[derive(Debug, Serialize)]
struct Line {
    archive: String,
    topic: String,
    partition: i32,
    first: i64,
    end: i64,
    key: String,
    destinations: Vec<String>,
    bytes: u64,
    /// Dead letters in it; with `--stage`, of those stages.
    letters: Option<u64>,
    /// Of all in it, those that were written in an output by now.
    replayed: u64,
    /// Kafka timestamps.
    oldest: Option<String>,
    newest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons: Option<Vec<Reason>>,
}

#[derive(Debug, Serialize)]
struct Reason {
    stage: String,
    reason: String,
    letters: u64,
}

/// Writes a line (or JSON object) for each object of dead letters to `out`.
///
/// # Errors
/// A store refuses or does not answer; a receipt or, where it is read, an object is damaged.
pub(super) async fn list(args: &ListArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (destinations, clock) = (open_destinations(config)?, SystemClock::new());
    let selection = selection(&args.letters);
    let reads = args.reasons || !selection.stages.is_empty();
    let (mut objects, mut letters, mut replayed) = (0_u64, 0, 0);
    if !args.json {
        writeln!(out, "{:<32} {:>26} {:>10} {:>10}  object", "Kafka partition", "range", "letters", "replayed")
            .map_err(wrote)?;
    }
    for site in sites(config, &destinations, &clock, &selection).await? {
        for partition in &site.partitions {
            let replays = patiently(&clock, "list replays", || site.bucket.finished_replays(partition)).await?;
            let mut batches = site.batches(partition, &clock, &selection).await?;
            while let Some(batch) = batches.try_next().await? {
                let written = written(&site.bucket, &clock, &batch, &replays).await?;
                for object in &batch.objects {
                    let mut line = describe(&site.archive.name, &batch, object);
                    line.replayed = written.get(&object.key).map_or(0, |letters| letters.len() as u64);
                    if reads {
                        let reasons = reasons(&batch, object, &destinations, &selection).await?;
                        let found = reasons.iter().map(|reason| reason.letters).sum();
                        if found == 0 {
                            continue;
                        }
                        line.letters = Some(found);
                        line.reasons = args.reasons.then_some(reasons);
                    }
                    (objects, letters) = (objects + 1, letters + line.letters.unwrap_or(0));
                    replayed += line.replayed;
                    if args.json { write_json(out, &line)? } else { write_text(out, &line).map_err(wrote)? }
                }
            }
        }
    }
    if !args.json {
        writeln!(out, "{letters} dead letters in {objects} objects, {replayed} of them replayed").map_err(wrote)?;
    }
    Ok(Exit::Done)
}

/// The letters of one batch that finished replays have written, by the object that they lie in. Reads the receipts of that batch alone,
/// one at a time.
async fn written(
    bucket: &Bucket,
    clock: &dyn Clock,
    batch: &DeadBatch,
    replays: &[(i64, u32)],
) -> Result<HashMap<String, HashSet<LetterId>>, Failure> {
    let (partition, first) = (&batch.partition, batch.range.first);
    let begin = replays.partition_point(|&(of, _)| of < first);
    let mut written: HashMap<String, HashSet<LetterId>> = HashMap::new();
    for &(_, n) in replays[begin..].iter().take_while(|&&(of, _)| of == first) {
        let what = format!("the receipt of replay {n} of {partition} {}", batch.range);
        let Some(receipt) = patiently(clock, &what, || bucket.replay_receipt(partition, first, n)).await? else {
            continue;
        };
        let of_object = written.entry(receipt.replay.object.key).or_default();
        of_object.extend(receipt.replay.rows.into_values().flatten());
    }
    Ok(written)
}

fn describe(archive: &str, batch: &DeadBatch, object: &DeadObject) -> Line {
    // Records without a timestamp lie before every calendar.
    let time = |ms: Option<i64>| ms.filter(|&ms| ms != i64::MIN).map(render_instant);
    Line {
        archive: archive.to_string(),
        topic: batch.partition.topic.to_string(),
        partition: batch.partition.partition,
        first: batch.range.first,
        end: batch.range.end,
        key: object.key.clone(),
        destinations: object.destinations.clone(),
        bytes: object.bytes,
        letters: object.letters,
        replayed: 0,
        oldest: time(object.event_min_ms),
        newest: time(object.event_max_ms),
        reasons: None,
    }
}

/// Stages and reasons of an object's letters that are meant, the most frequent first.
async fn reasons(
    batch: &DeadBatch,
    object: &DeadObject,
    destinations: &Destinations,
    selection: &Selection,
) -> Result<Vec<Reason>, Failure> {
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut letters = Letters::open(batch, object, destinations).await?;
    while let Some(letter) = letters.next().await? {
        if !selection.takes(&letter) {
            continue;
        }
        let mut key = (letter.stage, letter.reason);
        if counts.len() >= REASONS_MAX && !counts.contains_key(&key) {
            key.1 = "other reasons".to_string();
        }
        *counts.entry(key).or_default() += 1;
    }
    let mut reasons: Vec<_> =
        counts.into_iter().map(|((stage, reason), letters)| Reason { stage, reason, letters }).collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.letters));
    Ok(reasons)
}

fn write_text(out: &mut dyn Write, line: &Line) -> std::io::Result<()> {
    let (partition, range) = (format!("{}/{}", line.topic, line.partition), format!("[{}, {})", line.first, line.end));
    let letters = line.letters.map_or("?".to_string(), |letters| letters.to_string());
    writeln!(out, "{partition:<32} {range:>26} {letters:>10} {:>10}  {}", line.replayed, line.key)?;
    for Reason { stage, reason, letters } in line.reasons.iter().flatten() {
        writeln!(out, "    {letters:>10}  {stage}: {}", shown(reason))?;
    }
    Ok(())
}
