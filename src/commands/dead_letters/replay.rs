//! `siltstone dead-letters replay`: decode them again, write what makes rows now, end with a balance.

use super::{selection, shown, write_json, wrote};
use crate::cli::ReplayArgs;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::pipeline::start::open_destinations;
use crate::replay::balance::Balance;
use crate::replay::{Limits, Replayer, Step};
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;

/// Most reasons that are printed.
const REASONS_MAX: usize = 20;

/// The last line of `--json`.
#[derive(Serialize)]
struct Last<'a> {
    step: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    balance: &'a Balance,
}

/// Replays, and writes what was done and a balance to `out`.
///
/// # Errors
/// What ended it; doing it again goes on. [`Exit::Stopped`] where an object of dead letters was left out, or a replay that was begun
/// could not be finished.
pub(super) async fn replay(args: &ReplayArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    let limits = Limits { letters: args.limit.unwrap_or(u64::MAX), dry_run: args.dry_run, ..Limits::default() };
    let mut replayer = Replayer::new(config, open_destinations(config)?, Arc::new(SystemClock::new()), limits)?;
    let mut tell = |step: Step| match args.json {
        true => write_json(out, &step),
        false => writeln!(out, "{}", sentence(&step)).map_err(wrote),
    };
    let ended = replayer.run(&selection(&args.letters), &mut tell).await;
    if args.json {
        write_json(out, &Last { step: "balance", dry_run: args.dry_run, balance: &replayer.balance })?;
    } else {
        write_balance(out, &replayer.balance, args.dry_run).map_err(wrote)?;
    }
    ended?;
    match replayer.stopped {
        Some(failure) => {
            let what = "objects were left out, or replays that were begun are not finished, see above";
            Err(Failure::new(failure.exit, format!("{what}; {}", failure.message)))
        }
        None => Ok(Exit::Done),
    }
}

fn sentence(step: &Step) -> String {
    match step {
        Step::Replayed { object, n, letters, keys, dry_run } => {
            let would = if *dry_run { "would be " } else { "" };
            let keys: String = keys.iter().map(|key| format!("\n    {key}")).collect();
            format!("{object}: {letters} dead letters {would}written as replay {n}{keys}")
        }
        Step::Finished { object, n, letters, dry_run: false } => {
            format!("{object}: replay {n}, begun before and not finished, is finished now ({letters} dead letters)")
        }
        Step::Finished { object, n, letters, dry_run: true } => {
            format!("{object}: replay {n} was begun and not finished ({letters} dead letters): it would be finished")
        }
        Step::Stopped { object, reason } => format!("FAIL  {object}: {reason}"),
    }
}

fn write_balance(out: &mut dyn Write, balance: &Balance, dry_run: bool) -> std::io::Result<()> {
    writeln!(out, "{} dead letters read", balance.letters)?;
    if balance.finished > 0 {
        writeln!(out, "{} of replays that were begun before were written", balance.finished)?;
    }
    let replayed = if dry_run { "would be" } else { "replayed" };
    writeln!(
        out,
        "{:<24} {:>10} {replayed:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "output", "missing", "(rows)", "already", "failing", "dropped", "no output"
    )?;
    for (output, of) in &balance.outputs {
        writeln!(
            out,
            "{output:<24} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            of.wanted,
            of.replayed,
            of.rows,
            of.already,
            of.failing,
            of.dropped.values().sum::<u64>(),
            of.gone
        )?;
    }
    for (output, of) in &balance.outputs {
        for (rule, letters) in &of.dropped {
            writeln!(out, "{letters:>10}  {output}: dropped by the rule {rule}")?;
        }
        if of.gone > 0 {
            writeln!(out, "{:>10}  {output}: the configuration has no output of this name", of.gone)?;
        }
    }
    let reasons = balance.reasons();
    for reason in reasons.iter().take(REASONS_MAX) {
        let text = shown(&reason.reason);
        writeln!(out, "{:>10}  {}: still failing at {}: {text}", reason.letters, reason.output, reason.stage)?;
    }
    if reasons.len() > REASONS_MAX {
        writeln!(out, "            and {} more reasons; --json has all", reasons.len() - REASONS_MAX)?;
    }
    Ok(())
}
