//! `siltstone dead-letters list`: the objects of dead letters, from receipts.

use super::{selection, shown, write_json, wrote};
use crate::bucket::Bucket;
use crate::bucket::replays::LetterId;
use crate::cli::ListArgs;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::ledger::Destinations;
use crate::parse::timestamp::render_instant;
use crate::pipeline::start::{open_destinations, patiently};
use crate::replay::find::{DeadBatch, DeadObject, batches, sites};
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
            let mut batches = batches(&site, partition, &clock, &selection).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::replays::{REPLAY_VERSION, Replay, ReplayReceipt, ReplayedObject};
    use crate::destination::{Destination, StoreKind};
    use crate::record::{OffsetRange, TopicPartition};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    fn receipt(first: i64, n: u32, key: &str, rows: &[(&str, &[LetterId])]) -> ReplayReceipt {
        let replay = Replay {
            version: REPLAY_VERSION,
            topic: "t".into(),
            partition: 0,
            first,
            end: first + 10,
            generation: 1,
            archive: "a".into(),
            n,
            object: ReplayedObject { destination: "memory:///".into(), key: key.into() },
            fingerprint: "f".into(),
            schemas: BTreeMap::new(),
            target: None,
            rows: rows.iter().map(|&(output, letters)| (output.to_string(), letters.to_vec())).collect(),
        };
        let (cluster_id, writer) = ("c".to_string(), "0".to_string());
        ReplayReceipt { replay, cluster_id, writer, objects: Vec::new(), written_ms: None }
    }

    /// Goal: a dead letter counts once, whatever its outputs and replays, and receipts of other batches are not read.
    #[tokio::test]
    async fn of_each_batch_its_own_replays_are_read() {
        let store = Arc::new(InMemory::new());
        let bucket = Bucket::new(Arc::new(Destination::from_store("m", "memory:///", store, StoreKind::Memory)));
        for receipt in [
            receipt(10, 1, "x", &[("json", &[(10, 0), (11, 0)]), ("parquet", &[(10, 0)])]),
            receipt(10, 2, "x", &[("parquet", &[(11, 0), (12, 0)])]),
            receipt(10, 3, "y", &[("json", &[(13, 0)])]),
            receipt(20, 1, "z", &[("json", &[(20, 0)])]),
        ] {
            bucket.put_replay_receipt(&receipt).await.expect("written");
        }
        let partition = TopicPartition::new("t", 0);
        let mut replays = bucket.finished_replays(&partition).await.expect("listed");
        assert_eq!(replays, [(10, 1), (10, 2), (10, 3), (20, 1)]);
        // One that somebody has deleted since it was listed.
        replays.push((30, 1));
        for (first, expected) in [(0, vec![]), (10, vec![("x", 3), ("y", 1)]), (20, vec![("z", 1)]), (30, vec![])] {
            let (range, cluster_id, fingerprint) = (OffsetRange::new(first, first + 10), "c".into(), "f".into());
            let batch = DeadBatch {
                partition: partition.clone(),
                range,
                fingerprint,
                target: None,
                cluster_id,
                objects: Vec::new(),
            };
            let written = written(&bucket, &SystemClock::new(), &batch, &replays).await.expect("read");
            let mut counts: Vec<_> = written.iter().map(|(key, letters)| (key.as_str(), letters.len())).collect();
            counts.sort_unstable();
            assert_eq!(counts, expected, "{first}");
        }
    }
}
