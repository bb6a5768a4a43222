//! `siltstone fold`: old receipts put together, for archives that no process runs on.

use super::{Unprinted, ended, print_json};
use crate::bucket::folding::{Done, Rules, Task};
use crate::cli::FoldArgs;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::ledger::{Destinations, sites};
use crate::pipeline::start::{open_destinations, patiently};
use serde::Serialize;
use std::io::Write;

#[derive(Serialize)]
struct Line<'a> {
    archive: &'a str,
    topic: &'a str,
    partition: i32,
    folds: u64,
    receipts: u64,
    deleted: u64,
    rest: String,
    dry_run: bool,
}

/// Folds the receipts of every Kafka partition, and writes a line for each to `out`.
///
/// # Errors
/// A store refuses or does not answer; a receipt or a fold is damaged.
pub async fn fold(args: &FoldArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    fold_in(args, config, &open_destinations(config)?, &SystemClock::new(), out).await
}

/// The same with opened destinations.
///
/// # Errors
/// As [`fold`].
pub async fn fold_in(
    args: &FoldArgs,
    config: &Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    ended(fold_all(args, config, destinations, clock, out).await)
}

async fn fold_all(
    args: &FoldArgs,
    config: &Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<Exit, Unprinted> {
    let takes = |topic: &str| args.topic.as_ref().is_none_or(|only| only == topic);
    let wanted = sites(config, destinations, clock, args.archive.as_deref(), |partition| takes(&partition.topic));
    if !args.json {
        writeln!(out, "{:<28} {:>9} {:>6} {:>9} {:>9}", "archive", "partition", "folds", "receipts", "deleted")?;
    }
    for site in wanted.await? {
        for partition in &site.partitions {
            let task = Task {
                partition,
                rules: Rules { min_age_ms: args.min_age, ..Rules::default() },
                // The newest stay, and with them all that a group may not have committed yet.
                committed: i64::MAX,
                folds_max: usize::MAX,
                dry_run: args.dry_run,
                goes_on: &|| true,
                clock,
            };
            let what = format!("fold receipts of {partition}");
            let Done { folds, receipts, deleted, rest } =
                patiently(clock, &what, || site.bucket.fold_receipts(&task)).await?;
            let (archive, topic, partition) = (&*site.archive.name, &*partition.topic, partition.partition);
            let (rest, dry_run) = (rest.text(), args.dry_run);
            if args.json {
                print_json(out, &Line { archive, topic, partition, folds, receipts, deleted, rest, dry_run })?;
                continue;
            }
            let place = format!("{topic}/{partition}");
            writeln!(out, "{archive:<18} {place:>19} {folds:>6} {receipts:>9} {deleted:>9}  {rest}")?;
        }
    }
    if args.dry_run && !args.json {
        writeln!(out, "nothing was written")?;
    }
    Ok(Exit::Done)
}
