//! `siltstone ls`: the objects of an archive, from its receipts.

use super::{Unprinted, ended, print_json, wanted};
use crate::cli::LsArgs;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::ledger::Destinations;
use crate::parse::timestamp::render_instant;
use crate::pipeline::archive::DEAD_LETTERS;
use crate::pipeline::start::open_destinations;
use crate::reader::plan::{Chosen, batches, sites};
use futures::TryStreamExt;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};

/// Most lines of `--folders` and `--summary`: they are in memory until the end.
const GROUPS_MAX: usize = 500_000;

/// An object.
#[derive(Debug, Serialize)]
struct Line<'a> {
    archive: &'a str,
    topic: &'a str,
    partition: i32,
    first: i64,
    end: i64,
    output: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compaction: Option<u32>,
    rows: Option<u64>,
    bytes: u64,
    event_min: Option<String>,
    event_max: Option<String>,
    key: &'a str,
    destinations: &'a [String],
}

/// What several objects come to.
#[derive(Clone, Debug, Default, Serialize)]
struct Sum {
    objects: u64,
    /// Of objects whose receipt knows them.
    rows: u64,
    bytes: u64,
    #[serde(skip)]
    event_min_ms: Option<i64>,
    #[serde(skip)]
    event_max_ms: Option<i64>,
}

/// A line of `--folders` and `--summary`.
#[derive(Debug, Serialize)]
struct GroupLine<'a> {
    #[serde(flatten)]
    group: &'a Group,
    #[serde(flatten)]
    sum: &'a Sum,
    event_min: Option<String>,
    event_max: Option<String>,
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct Total<'a> {
    total: &'a Sum,
}

/// What objects are counted together by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
enum Group {
    Folder { archive: String, output: String, destination: String, folder: String },
    Partition { archive: String, topic: String, partition: i32, output: String },
}

/// Writes a line for each object, folder or Kafka partition to `out`, and totals.
///
/// # Errors
/// A store refuses or does not answer; a receipt is damaged.
pub async fn ls(args: &LsArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    ls_in(args, config, &open_destinations(config)?, &SystemClock::new(), out).await
}

/// The same with opened destinations.
///
/// # Errors
/// As [`ls`].
pub async fn ls_in(
    args: &LsArgs,
    config: &Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let mut out = BufWriter::new(out);
    let listed = list(args, config, destinations, clock, &mut out).await;
    ended(match listed {
        Ok(()) => out.flush().map(|()| Exit::Done).map_err(Unprinted::from),
        Err(unprinted) => Err(unprinted),
    })
}

async fn list(
    args: &LsArgs,
    config: &Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<(), Unprinted> {
    let wanted = wanted(&args.part, args.topic.as_deref(), clock.wall_ms());
    let mut total = Sum::default();
    let mut partitions = BTreeSet::new();
    let mut groups: BTreeMap<Group, Sum> = BTreeMap::new();
    if !args.json && !args.folders && !args.summary {
        head(out)?;
    }
    for site in sites(config, destinations, clock, &wanted).await? {
        for partition in &site.partitions {
            let mut batches = batches(&site, partition, clock, &wanted).await?;
            while let Some(batch) = batches.try_next().await? {
                for chosen in &batch.objects {
                    total.add(chosen);
                    partitions.insert(partition.clone());
                    if args.folders || args.summary {
                        groups.entry(group(args, &site.archive.name, chosen)).or_default().add(chosen);
                        if groups.len() > GROUPS_MAX {
                            let what = format!(
                                "more than {GROUPS_MAX} lines: ask for a part of them, with --since and --until"
                            );
                            return Err(Failure::new(Exit::Config, what).into());
                        }
                        continue;
                    }
                    let line = line(&site.archive.name, chosen);
                    if args.json { print_json(out, &line)? } else { row(out, &line)? }
                }
            }
        }
    }
    if !args.json && (args.folders || args.summary) {
        head_of_groups(out)?;
    }
    for (group, sum) in &groups {
        let (event_min, event_max) = (shown_time(sum.event_min_ms), shown_time(sum.event_max_ms));
        let line = GroupLine { group, sum, event_min, event_max };
        if args.json { print_json(out, &line)? } else { group_row(out, &line)? }
    }
    if args.json {
        return print_json(out, &Total { total: &total });
    }
    let Sum { objects, rows, bytes, .. } = total;
    let size = size(bytes);
    Ok(writeln!(
        out,
        "{objects} objects, {rows} rows, {size} ({bytes} bytes) of {} Kafka partitions",
        partitions.len()
    )?)
}

impl Sum {
    fn add(&mut self, chosen: &Chosen) {
        let object = &chosen.object;
        self.objects += 1;
        self.rows += object.rows.unwrap_or_default();
        self.bytes += object.bytes;
        let earlier = |known: Option<i64>, found: i64| Some(known.map_or(found, |known| known.min(found)));
        let later = |known: Option<i64>, found: i64| Some(known.map_or(found, |known| known.max(found)));
        if let Some(found) = object.event_min_ms {
            self.event_min_ms = earlier(self.event_min_ms, found);
        }
        if let Some(found) = object.event_max_ms {
            self.event_max_ms = later(self.event_max_ms, found);
        }
    }
}

fn group(args: &LsArgs, archive: &str, chosen: &Chosen) -> Group {
    let (archive, output) = (archive.to_string(), chosen.object.output.clone());
    if args.folders {
        let destination = chosen.object.destination.clone();
        return Group::Folder { archive, output, destination, folder: chosen.object.folder.clone() };
    }
    let (topic, partition) = (chosen.partition.topic.to_string(), chosen.partition.partition);
    Group::Partition { archive, topic, partition, output }
}

/// Records without a timestamp lie before every calendar.
fn shown_time(ms: Option<i64>) -> Option<String> {
    ms.filter(|&ms| ms != i64::MIN).map(render_instant)
}

fn line<'a>(archive: &'a str, chosen: &'a Chosen) -> Line<'a> {
    Line {
        archive,
        topic: &chosen.partition.topic,
        partition: chosen.partition.partition,
        first: chosen.range.first,
        end: chosen.range.end,
        output: &chosen.object.output,
        replay: chosen.replay,
        compaction: chosen.compaction.as_ref().map(|(_, number)| *number),
        rows: chosen.object.rows,
        bytes: chosen.object.bytes,
        event_min: shown_time(chosen.object.event_min_ms),
        event_max: shown_time(chosen.object.event_max_ms),
        key: &chosen.object.key,
        destinations: &chosen.destinations,
    }
}

fn head(out: &mut dyn Write) -> std::io::Result<()> {
    let (partition, range, output) = ("Kafka partition", "range", "output");
    writeln!(
        out,
        "{partition:<28} {range:>26} {output:<12} {:>10} {:>10} {:<24} {:<24} object",
        "rows", "size", "from", "to"
    )
}

fn row(out: &mut dyn Write, line: &Line<'_>) -> std::io::Result<()> {
    let (partition, range) = (format!("{}/{}", line.topic, line.partition), format!("[{}, {})", line.first, line.end));
    let (rows, size) = (line.rows.map_or("?".to_string(), |rows| rows.to_string()), size(line.bytes));
    let (from, to) = (span(&line.event_min), span(&line.event_max));
    let destination = line.destinations.first().map_or("", String::as_str);
    let more = match line.destinations.len() {
        0 | 1 => String::new(),
        count => format!(" (+{} destinations)", count - 1),
    };
    writeln!(
        out,
        "{partition:<28} {range:>26} {:<12} {rows:>10} {size:>10} {from:<24} {to:<24} {destination}/{}{more}",
        line.output, line.key
    )
}

fn span(time: &Option<String>) -> &str {
    time.as_deref().unwrap_or("-")
}

fn head_of_groups(out: &mut dyn Write) -> std::io::Result<()> {
    let (objects, rows, size) = ("objects", "rows", "size");
    writeln!(out, "{objects:>8} {rows:>12} {size:>10} {:<24} {:<24} {:<12} of", "from", "to", "output")
}

fn group_row(out: &mut dyn Write, line: &GroupLine<'_>) -> std::io::Result<()> {
    let Sum { objects, rows, bytes, .. } = line.sum;
    let (from, to, size) = (span(&line.event_min), span(&line.event_max), size(*bytes));
    let (output, of) = match line.group {
        Group::Folder { output, destination, folder, .. } => (output, format!("{destination}/{folder}")),
        Group::Partition { output, topic, partition, .. } => (output, format!("{topic}/{partition}")),
    };
    let dead = if output == DEAD_LETTERS { " (dead letters)" } else { "" };
    writeln!(out, "{objects:>8} {rows:>12} {size:>10} {from:<24} {to:<24} {output:<12} {of}{dead}")
}

/// Bytes with a unit, of two or three digits.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        let cases =
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (u64::MAX, "16777216.0 TiB")];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
    }
}
