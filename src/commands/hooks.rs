//! What `siltstone status` says of hooks: how far each was told of receipts, and what is wrong.

use super::{Unprinted, print_json};
use crate::bucket::hooks::HookCursor;
use crate::clock::Clock;
use crate::config::ArchiveConfig;
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::ledger::Site;
use crate::parse::timestamp::render_instant;
use crate::pipeline::start::patiently;
use crate::record::TopicPartition;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

#[derive(Serialize)]
struct HookLine<'a> {
    kind: &'static str,
    archive: &'a str,
    topic: &'a str,
    hook: &'a str,
    /// Committed offsets that were not told.
    behind: i64,
    partitions: Vec<PartitionLine>,
}

#[derive(Serialize)]
struct PartitionLine {
    partition: i32,
    committed: i64,
    /// `None`: it was never told of this one.
    through: Option<i64>,
    behind: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Whether it has hooks that are told of batches.
pub(super) fn tells(archive: &ArchiveConfig) -> bool {
    archive.hooks.iter().any(|hook| hook.on.batch)
}

/// Writes how far the hooks of an archive are to `out`; the first failure, if there is one.
pub(super) async fn tell(
    json: bool,
    site: &Site<'_>,
    coordinator: &dyn Coordinator,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<Option<Failure>, Unprinted> {
    let mut by_topic: BTreeMap<&str, Vec<&TopicPartition>> = BTreeMap::new();
    for partition in &site.partitions {
        by_topic.entry(&partition.topic).or_default().push(partition);
    }
    let mut failed = None;
    for (topic, partitions) in by_topic {
        for hook in site.archive.hooks.iter().filter(|hook| hook.on.batch) {
            let archive = site.archive.name.as_str();
            match partition_lines(site, &hook.name, &partitions, coordinator, clock).await {
                Ok(partitions) => {
                    let behind = partitions.iter().map(|line| line.behind).fold(0, i64::saturating_add);
                    let line = HookLine { kind: "hook", archive, topic, hook: &hook.name, behind, partitions };
                    match json {
                        true => print_json(out, &line)?,
                        false => print(&line, out)?,
                    }
                }
                Err(failure) => {
                    if !json {
                        let message = &failure.message;
                        writeln!(out, "hook {}, topic {topic} (archive {archive}): not known: {message}", hook.name)?;
                    }
                    failed.get_or_insert(failure);
                }
            }
        }
    }
    Ok(failed)
}

async fn partition_lines(
    site: &Site<'_>,
    hook: &str,
    partitions: &[&TopicPartition],
    coordinator: &dyn Coordinator,
    clock: &dyn Clock,
) -> Result<Vec<PartitionLine>, Failure> {
    let asked = partitions.iter().map(|partition| (*partition).clone()).collect();
    let committed = coordinator.committed(asked).await;
    let committed = committed
        .map_err(|reason| Failure::new(Exit::Unreachable, format!("ask Kafka what is committed: {reason}")))?;
    let mut lines = Vec::new();
    for (partition, committed) in committed {
        let Some(committed) = committed.map(|committed| committed.offset) else { continue };
        let what = format!("{partition}: read how far hook {hook} was told");
        let cursor = patiently(clock, &what, || site.bucket.hook_cursor(hook, &partition)).await?;
        let through = cursor.as_ref().map(|cursor| cursor.through);
        lines.push(PartitionLine {
            partition: partition.partition,
            committed,
            through,
            behind: through.map_or(0, |through| committed.saturating_sub(through).max(0)),
            written: cursor.as_ref().map(|cursor| render_instant(cursor.written_ms)),
            error: cursor.and_then(|HookCursor { error, .. }| error),
        });
    }
    Ok(lines)
}

fn print(line: &HookLine<'_>, out: &mut dyn Write) -> Result<(), Unprinted> {
    let HookLine { archive, topic, hook, behind, partitions, .. } = line;
    let behind_in: Vec<String> =
        partitions.iter().filter(|line| line.behind > 0).map(|line| line.partition.to_string()).collect();
    let told = match behind_in.len() {
        0 => "told of everything".to_string(),
        count @ 9.. => format!("{behind} offsets behind in {count} Kafka partitions"),
        _ => format!("{behind} offsets behind in Kafka partitions {}", behind_in.join(", ")),
    };
    writeln!(out, "hook {hook}, topic {topic} (archive {archive}): {told}")?;
    let new: Vec<String> =
        partitions.iter().filter(|line| line.through.is_none()).map(|line| line.partition.to_string()).collect();
    if !new.is_empty() {
        writeln!(out, "  not begun in Kafka partitions {}: run begins at what is committed then", new.join(", "))?;
    }
    for line in partitions {
        if let Some(error) = &line.error {
            writeln!(out, "  Kafka partition {} at {}: {error}", line.partition, line.through.unwrap_or_default())?;
        }
    }
    Ok(())
}
