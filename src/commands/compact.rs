//! `siltstone compact`: large objects of small ones, or `--undo`.

use crate::bucket::compactions::To;
use crate::cli::{CompactArgs, CompactTo};
use crate::clock::{Clock, SystemClock};
use crate::compact::{Compactor, HELD_MAX, Options, Step, Summary};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::ledger::Destinations;
use crate::parse::text::printable;
use crate::parse::timestamp::render_instant;
use crate::pipeline::start::open_destinations;
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;

/// The last line of `--json`.
#[derive(Serialize)]
struct Last<'a> {
    step: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    summary: &'a Summary,
}

/// Compacts, or takes back, and writes what was done to `out`.
///
/// # Errors
/// What ended it; doing it again goes on. [`Exit::Stopped`] where something that was begun could not be finished.
pub async fn compact(args: &CompactArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    compact_in(args, config, open_destinations(config)?, Arc::new(SystemClock::new()), out).await
}

/// The same with opened destinations.
///
/// # Errors
/// As [`compact`].
pub async fn compact_in(
    args: &CompactArgs,
    config: &Config,
    destinations: Destinations,
    clock: Arc<dyn Clock>,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let options = options(args, clock.wall_ms());
    let dry_run = options.dry_run;
    let mut compactor = Compactor::new(config, destinations, clock, options)?;
    let mut tell = |step: Step| match args.json {
        true => write_json(out, &step),
        false => writeln!(out, "{}", shown(&sentence(&step))).map_err(wrote),
    };
    let ended = match &args.undo {
        Some(wanted) => compactor.undo(wanted, &mut tell).await,
        None => compactor.run(&mut tell).await,
    };
    let summary = &compactor.summary;
    if args.json {
        write_json(out, &Last { step: "summary", dry_run, summary })?;
    } else {
        write_summary(out, summary, args.undo.is_some(), dry_run).map_err(wrote)?;
    }
    ended?;
    match summary.stopped {
        0 => Ok(Exit::Done),
        count => {
            let what = format!("{count} compactions that were begun are not finished, see above");
            Err(Failure::new(Exit::Stopped, what))
        }
    }
}

fn options(args: &CompactArgs, now_ms: i64) -> Options {
    Options {
        archive: args.archive.clone(),
        topic: args.topic.clone(),
        partitions: args.partition.clone(),
        output: args.output.clone(),
        before_ms: args.before.map_or(now_ms, |before| before.at(now_ms)),
        min_age_ms: args.min_age,
        target_bytes: args.target_size,
        to: args.to.map(|CompactTo::Parquet| To::Parquet),
        nulls_as_missing: args.nulls_as_missing,
        sweep: args.sweep,
        dry_run: args.dry_run || (args.undo.is_some() && !args.yes),
        held_max: HELD_MAX,
    }
}

fn sentence(step: &Step) -> String {
    match step {
        Step::Compacted {
            partition,
            output,
            folder,
            inputs,
            objects,
            rows,
            bytes_before,
            bytes_after,
            was_begun,
            dry_run,
            unit,
            n,
            ..
        } => {
            let (would, about) = if *dry_run { ("would become ", "about ") } else { ("are now ", "") };
            let after = bytes_after.map(|bytes| format!(", {bytes} bytes")).unwrap_or_default();
            let begun = if *was_begun { ", begun before" } else { "" };
            let name = n.map(|n| format!(" (compaction {unit}.{n}{begun})")).unwrap_or_default();
            format!(
                "{partition} {output} {folder}: {inputs} objects, {bytes_before} bytes, {rows} rows {would}{about}{objects}{after}{name}"
            )
        }
        Step::Deleted { partition, unit, n, objects, returned, dry_run } => {
            let what = if *returned { "came back" } else { "were there still" };
            let done = if *dry_run { "would be deleted" } else { "are deleted" };
            format!("{partition}: {objects} objects that compaction {unit}.{n} had replaced {what}, and {done}")
        }
        Step::Left { partition, output, place, inputs, why } => {
            format!("left  {partition} {output} {place}: {inputs} objects stay as they are: {why}")
        }
        Step::Skipped { partition, why } => format!("left  {partition}: {why}"),
        Step::Undone { partition, unit, n, inputs, keys, kept, kept_until_ms, given_up, dry_run } => {
            let count = inputs.len();
            let what = match (*given_up, *dry_run) {
                (true, true) => format!("would be given up: its {count} old objects count as before"),
                (true, false) => format!("is given up: its {count} old objects count as before"),
                (false, true) => format!("would be taken back: {count} old objects would count again"),
                (false, false) => format!("is taken back: {count} old objects count again"),
            };
            let list = |objects: &[String], what: &str| match objects {
                [] => String::new(),
                _ => format!("\n  {what}{}", objects.iter().map(|key| format!("\n    {key}")).collect::<String>()),
            };
            let deleted = list(keys, if *dry_run { "to be deleted:" } else { "deleted:" });
            let why = match kept_until_ms.map(render_instant) {
                None => "to stay, as not all that they were made of is there, until it is archived again:".to_string(),
                Some(until) => format!(
                    "to stay until {until}, as whoever looked before may be deleting what they were made of, and then until all of that is there:"
                ),
            };
            let stay = list(kept, &why);
            format!("{partition}: compaction {unit}.{n} {what}{deleted}{stay}")
        }
        Step::Stopped { partition, why, .. } => format!("FAIL  {partition}: {why}"),
    }
}

fn write_summary(out: &mut dyn Write, summary: &Summary, is_undo: bool, dry_run: bool) -> std::io::Result<()> {
    if is_undo {
        // What was typed may mean another compaction by then.
        let said: Vec<String> =
            summary.meant.iter().map(|meant| format!("siltstone compact --undo {meant} --yes")).collect();
        return match dry_run {
            true => writeln!(
                out,
                "nothing was done. This does it: {}. What is taken back and not given up counts again only as far as its old objects are there: the others \
                 have to be archived again, which needs their records in Kafka (siltstone verify says which are missing, siltstone backfill \
                 --missing archives them). No new object is deleted before that",
                said.join(", ")
            ),
            false => writeln!(
                out,
                "siltstone verify says what is missing now, siltstone backfill --missing archives it again, and a siltstone compact after that deletes \
                 what stays until then"
            ),
        };
    }
    let Summary { compactions, inputs, objects, rows, bytes_before, bytes_after, left, deleted, .. } = summary;
    let (would, about) = if dry_run { ("would become", "about ") } else { ("became", "") };
    let after = if dry_run { String::new() } else { format!(" of {bytes_after} bytes") };
    writeln!(
        out,
        "{inputs} objects of {bytes_before} bytes {would} {about}{objects}{after}, with {rows} rows, in {compactions} compactions"
    )?;
    for (count, what) in [
        (left, "objects stay as they are, see above"),
        (deleted, "objects that were replaced before were there still or again"),
    ] {
        if *count > 0 {
            writeln!(out, "{count} {what}")?;
        }
    }
    Ok(())
}

fn write_json<T: Serialize>(out: &mut dyn Write, line: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(line).map_err(|error| Failure::new(Exit::Failed, format!("write: {error}")))?;
    writeln!(out, "{text}").map_err(wrote)
}

fn wrote(error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("write: {error}"))
}

/// Text as a terminal may be given it; lines stay lines.
fn shown(text: &str) -> String {
    text.lines().map(|line| line.chars().flat_map(printable).collect::<String>()).collect::<Vec<_>>().join("\n")
}
