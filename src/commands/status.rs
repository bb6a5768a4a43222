//! `siltstone status`: which folders are complete, which wait, and for which Kafka partitions.

use super::run::{Connected, connect};
use super::{Unprinted, ended, hooks, print_json};
use crate::cli::StatusArgs;
use crate::clock::{Clock, SystemClock};
use crate::complete::progress::{OpenFolder, Recent};
use crate::complete::round::{PARTS_MAX, Seams};
use crate::complete::status::{PartitionStatus, TopicStatus};
use crate::config::Config;
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::ledger::{Destinations, sites};
use crate::load::name_of;
use crate::load::queue::Waiting;
use crate::parse::timestamp::render_instant;
use crate::pipeline::start::{complete_of, open_destinations};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Lines of complete folders, unless `--json` asks for all that is known.
const RECENT_SHOWN: usize = 12;
/// Lines of open folders, the same.
const OPEN_SHOWN: usize = 24;

#[derive(Serialize)]
struct TopicLine<'a> {
    kind: &'static str,
    archive: &'a str,
    topic: &'a str,
    /// The instant that all Kafka partitions are past.
    complete_until: Option<String>,
    open: usize,
    /// Complete folders that wait for loaders.
    loads_waiting: usize,
    partitions: Vec<PartitionLine>,
}

#[derive(Serialize)]
struct PartitionLine {
    partition: i32,
    committed: Option<i64>,
    readable_end: Option<i64>,
    watermark: Option<String>,
    planned: bool,
    past: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

#[derive(Serialize)]
struct LoadLine<'a> {
    kind: &'static str,
    archive: &'a str,
    topic: &'a str,
    loader: &'a str,
    output: &'a str,
    destination: &'a str,
    folder: &'a str,
    window_end: String,
    revision: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct FolderLine<'a> {
    kind: &'static str,
    archive: &'a str,
    topic: &'a str,
    output: &'a str,
    destination: &'a str,
    folder: &'a str,
    window_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u32>,
    rows: u64,
    objects: u64,
    /// Kafka partitions that hold it back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waits_for: Vec<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

/// Writes how each topic of each archive that completes folders stands to `out`.
///
/// # Errors
/// Kafka or a store refuses or does not answer. [`Exit::Config`]: no archive completes folders.
pub async fn status(args: &StatusArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    let destinations = open_destinations(config)?;
    if !config.archives.iter().any(|archive| archive.complete.is_some() || hooks::tells(archive)) {
        return Err(Failure::new(
            Exit::Config,
            "no archive of this configuration completes folders or has hooks: a section [archive.complete] is needed; `siltstone help complete`",
        ));
    }
    let Connected { coordinator, .. } = connect(config).await?;
    status_in(args, config, &destinations, &*coordinator, &SystemClock::new(), out).await
}

/// The same with opened destinations and a connection.
///
/// # Errors
/// As [`status`].
pub async fn status_in(
    args: &StatusArgs,
    config: &Config,
    destinations: &Destinations,
    coordinator: &dyn Coordinator,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    ended(tell_all(args, config, destinations, coordinator, clock, out).await)
}

async fn tell_all(
    args: &StatusArgs,
    config: &Config,
    destinations: &Destinations,
    coordinator: &dyn Coordinator,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<Exit, Unprinted> {
    let takes = |topic: &str| args.topic.as_ref().is_none_or(|only| only == topic);
    let name = args.archive.as_deref();
    let sites = sites(config, destinations, clock, name, |partition| takes(&partition.topic)).await?;
    let mut unknown = None;
    for site in &sites {
        let Some(complete) = site.archive.complete.as_ref().map(complete_of) else { continue };
        let topics: BTreeSet<&str> = site.partitions.iter().map(|partition| &*partition.topic).collect();
        for topic in topics {
            let seams = Seams {
                bucket: &site.bucket,
                destinations,
                coordinator,
                clock,
                goes_on: &|| false,
                archive: &site.archive.name,
                topic,
                rules: complete.rules,
                marker: &complete.marker,
                revise_after_ms: complete.revise_after_ms,
                loaders: &[],
                parts_max: PARTS_MAX,
            };
            let status = match seams.status().await {
                Ok(status) => status,
                // A topic that Kafka has no more keeps no other one from being told.
                Err(failure) if !args.json => {
                    writeln!(out, "topic {topic} (archive {}): not known: {}", site.archive.name, failure.message)?;
                    unknown.get_or_insert(failure);
                    continue;
                }
                Err(failure) => {
                    unknown.get_or_insert(failure);
                    continue;
                }
            };
            match args.json {
                true => tell_json(&seams, &status, out)?,
                false => tell(&seams, &status, out)?,
            }
        }
    }
    for site in &sites {
        if let Some(failure) = hooks::tell(args.json, site, coordinator, clock, out).await? {
            unknown.get_or_insert(failure);
        }
    }
    unknown.map_or(Ok(Exit::Done), |failure| Err(failure.into()))
}

fn tell_json(seams: &Seams<'_>, status: &TopicStatus, out: &mut dyn Write) -> Result<(), Unprinted> {
    let (archive, topic) = (seams.archive, seams.topic);
    let partition = |(&number, partition): (&i32, &PartitionStatus)| {
        let known = partition.archived.as_ref().ok();
        PartitionLine {
            partition: number,
            committed: known.map(|archived| archived.offset),
            readable_end: partition.readable_end,
            watermark: known.and_then(|archived| archived.watermark_ms).map(render_instant),
            planned: known.is_some_and(|archived| archived.has_plan),
            past: partition.past_ms.map(render_instant),
            unknown: partition.archived.as_ref().err().map(ToString::to_string),
        }
    };
    let line = TopicLine {
        kind: "topic",
        archive,
        topic,
        complete_until: status.until_ms().map(render_instant),
        open: status.open.len(),
        loads_waiting: status.loads.len(),
        partitions: status.partitions.iter().map(partition).collect(),
    };
    print_json(out, &line)?;
    for Recent { id, revision, window_end_ms, rows, objects, at_ms } in &status.recent {
        let line = FolderLine {
            kind: "complete",
            archive,
            topic,
            output: &id.output,
            destination: &id.destination,
            folder: &id.folder,
            window_end: Some(render_instant(*window_end_ms)),
            revision: Some(*revision),
            rows: *rows,
            objects: *objects,
            waits_for: Vec::new(),
            completed: Some(render_instant(*at_ms)),
        };
        print_json(out, &line)?;
    }
    for OpenFolder { id, tally } in &status.open {
        let (rows, objects) = tally.sums();
        let line = FolderLine {
            kind: "open",
            archive,
            topic,
            output: &id.output,
            destination: &id.destination,
            folder: &id.folder,
            window_end: tally.window_end_ms.map(render_instant),
            revision: None,
            rows,
            objects,
            waits_for: tally.window_end_ms.map(|end_ms| status.behind(end_ms)).unwrap_or_default(),
            completed: None,
        };
        print_json(out, &line)?;
    }
    for Waiting { loader, id, revision, window_end_ms, error } in &status.loads {
        let line = LoadLine {
            kind: "load",
            archive,
            topic,
            loader: name_of(loader),
            output: &id.output,
            destination: &id.destination,
            folder: &id.folder,
            window_end: render_instant(*window_end_ms),
            revision: *revision,
            error: error.as_deref(),
        };
        print_json(out, &line)?;
    }
    Ok(())
}

fn tell(seams: &Seams<'_>, status: &TopicStatus, out: &mut dyn Write) -> Result<(), Unprinted> {
    let until =
        status.until_ms().map_or("nothing yet".to_string(), |until_ms| format!("until {}", render_instant(until_ms)));
    writeln!(
        out,
        "topic {} (archive {}): complete {until}; open folders: {}",
        seams.topic,
        seams.archive,
        status.open.len()
    )?;
    for (number, partition) in &status.partitions {
        if let Err(unknown) = &partition.archived {
            writeln!(out, "  Kafka partition {number} holds everything back: {unknown}")?;
        }
    }
    if !status.recent.is_empty() || !status.open.is_empty() {
        writeln!(out, "  {:<24} {:<9} {:>3} {:>12} {:>7}  folder", "window ends", "state", "rev", "rows", "objects")?;
    }
    let skipped = status.recent.len().saturating_sub(RECENT_SHOWN);
    for Recent { id, revision, window_end_ms, rows, objects, .. } in status.recent.iter().skip(skipped) {
        let end = render_instant(*window_end_ms);
        writeln!(out, "  {end:<24} {:<9} {revision:>3} {rows:>12} {objects:>7}  {}", "complete", id.folder)?;
    }
    for OpenFolder { id, tally } in status.open.iter().take(OPEN_SHOWN) {
        let (rows, objects) = tally.sums();
        let end = tally.window_end_ms.map_or("unknown".to_string(), render_instant);
        let behind = tally.window_end_ms.map(|end_ms| status.behind(end_ms)).unwrap_or_default();
        // A window that all are past is completed by the next round.
        let state = match tally.window_end_ms {
            None => "never",
            Some(_) if behind.is_empty() => "next",
            Some(_) => "waits",
        };
        write!(out, "  {end:<24} {state:<9} {:>3} {rows:>12} {objects:>7}  {}", "", id.folder)?;
        match behind.as_slice() {
            [] => writeln!(out)?,
            few if few.len() <= 8 => writeln!(out, "  for Kafka partitions {}", listed(few))?,
            many => writeln!(out, "  for {} Kafka partitions, such as {}", many.len(), listed(&many[..4]))?,
        }
    }
    if status.open.len() > OPEN_SHOWN {
        writeln!(out, "  and {} more that are open (--json lists all)", status.open.len() - OPEN_SHOWN)?;
    }
    tell_loads(status, out)
}

/// How many complete folders wait for each loader, and why.
fn tell_loads(status: &TopicStatus, out: &mut dyn Write) -> Result<(), Unprinted> {
    let mut by_loader: BTreeMap<&str, Vec<&Waiting>> = BTreeMap::new();
    for waiting in &status.loads {
        by_loader.entry(name_of(&waiting.loader)).or_default().push(waiting);
    }
    for (loader, waiting) in by_loader {
        let first = waiting[0];
        write!(
            out,
            "  loader {loader}: {} folders wait, the first is {} (revision {})",
            waiting.len(),
            first.id.folder,
            first.revision
        )?;
        match waiting.iter().find_map(|waiting| waiting.error.as_ref()) {
            Some(error) => writeln!(out, "; {error}")?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

fn listed(numbers: &[i32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
