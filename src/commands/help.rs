//! `siltstone help TOPIC`: the long pages, the same that the documentation shows.

use crate::exit::{Exit, Failure};

/// Name, what it is about, text.
pub const PAGES: [(&str, &str, &str); 19] = [
    (
        "delivery",
        "how a record reaches the bucket exactly once, and what breaks it",
        include_str!("../guide/delivery.md"),
    ),
    (
        "failures",
        "what can go wrong, what siltstone does then, what the data shows, what to do",
        include_str!("../guide/failures.md"),
    ),
    (
        "configuration",
        "the configuration file, key by key where it needs more than full.toml says",
        include_str!("../guide/configuration.md"),
    ),
    ("decode", "what payloads can be and what rows they become", include_str!("../guide/decode.md")),
    ("transform", "programs that change, drop and route rows; filters", include_str!("../guide/transform.md")),
    ("read", "list, print and find what is archived", include_str!("../guide/read.md")),
    (
        "dead-letters",
        "list and show what could not become rows, and write it after a fix",
        include_str!("../guide/dead-letters.md"),
    ),
    (
        "backfill",
        "any range of offsets or times, or what is missing, archived beside the live group",
        include_str!("../guide/backfill.md"),
    ),
    ("restore", "records of an archive, produced back to Kafka", include_str!("../guide/restore.md")),
    (
        "verify",
        "prove that an archive is complete, or find what is missing, damaged or unknown",
        include_str!("../guide/verify.md"),
    ),
    (
        "compact",
        "small objects made large, JSON lines made Parquet, with the proof that no row is another",
        include_str!("../guide/compact.md"),
    ),
    ("complete", "when an hour is complete, its marker, late data", include_str!("../guide/complete.md")),
    ("load", "complete hours in Hive and BigQuery, by themselves", include_str!("../guide/load.md")),
    ("hooks", "commands, HTTP and Kafka told of batches and complete folders", include_str!("../guide/hooks.md")),
    (
        "tables",
        "outputs as tables of Hive, Athena, BigQuery, Spark, DuckDB and ClickHouse",
        include_str!("../guide/tables.md"),
    ),
    ("hdfs", "HDFS as a destination", include_str!("../guide/hdfs.md")),
    ("layout", "names, templates, presets, time zones", include_str!("../guide/layout.md")),
    ("operations", "signals, exit codes, metrics, what to do when it stops", include_str!("../guide/operations.md")),
    ("benchmarks", "what it costs and how that was measured", include_str!("../guide/benchmarks.md")),
];

/// The text of a page, or the list of pages.
///
/// # Errors
/// [`Exit::Config`] for a page that does not exist.
pub fn help(topic: Option<&str>) -> Result<String, Failure> {
    let list: String = PAGES.iter().map(|(name, about, _)| format!("  {name:<14} {about}\n")).collect();
    let Some(topic) = topic else { return Ok(format!("siltstone help TOPIC, where TOPIC is one of\n{list}")) };
    match PAGES.iter().find(|(name, _, _)| *name == topic) {
        Some((_, _, text)) => Ok((*text).to_string()),
        None => Err(Failure::new(Exit::Config, format!("there is no help page {topic:?}; there are\n{list}"))),
    }
}
