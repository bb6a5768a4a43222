//! The simulation: the real pipeline over a simulated Kafka and simulated stores, thousands of seeds on one thread.
//!
//! ```text
//! seed ─▶ knobs ─▶ world: queue of effects, answers, turns ─▶ oracle: buckets and offsets against what was produced
//!                    │ processes: Pipeline::turn on a runtime of one thread with a paused clock
//!                    ├ group, log, member: Kafka          ├ store: object stores
//!                    └ chaos: crashes, zombies, rebalances, outages, jumps of the clock, retention
//! ```
//! `SIM_SEED=n` runs that seed alone and prints its trace, with `RUST_LOG=siltstone=debug SIM_LOG=1` in the middle of the archiver's
//! own log; `SIM_SEEDS=n` sets how many are run, from `SIM_FIRST` on.

// The tests print what they found: tables and traces are for people.
#![allow(clippy::print_stdout)]

mod bugs;
mod chaos;
mod coordinator;
mod group;
mod knobs;
mod lives;
mod log;
mod member;
mod oracle;
mod process;
mod rng;
mod rows;
mod settings;
mod state;
mod store;
mod trace;
mod world;

use knobs::Knobs;
use std::collections::BTreeMap;
use world::{Outcome, run};

/// Seeds of a plain run: what fits a minute and a half on one core.
const SEEDS: u64 = 4_000;
/// Seeds in which all processes quarrel over the same batches.
const QUARRELS: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Memory where there is some: a seed makes and removes hundreds of small files.
fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder for spools")
}

fn run_seed(seed: u64, tune: &dyn Fn(&mut Knobs)) -> Outcome {
    let root = scratch();
    run(seed, root.path().to_path_buf(), tune)
}

/// The archiver's own log beside the trace, where `RUST_LOG` asks for it.
fn log() -> impl tracing::Subscriber {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .without_time()
        .with_writer(std::io::stderr)
        .finish()
}

fn fail(seed: u64, outcome: &Outcome, why: &str) -> ! {
    let all: Vec<&str> = outcome.trace.lines().collect();
    let shown = if number("SIM_SEED").is_some() { 0 } else { all.len().saturating_sub(400) };
    panic!("{}\nseed {seed}: {why}\nSIM_SEED={seed} replays it with its whole trace", all[shown..].join("\n"));
}

#[test]
fn without_faults_everything_is_archived() {
    for seed in 0..20 {
        let outcome = run_seed(seed, &Knobs::without_faults);
        if let Err(why) = &outcome.verdict {
            fail(seed, &outcome, why);
        }
    }
}

/// What many seeds came to.
#[derive(Default)]
struct Summary {
    count: oracle::Count,
    faults: BTreeMap<&'static str, u64>,
    failures: Vec<(u64, String)>,
    first_failure: Option<Outcome>,
    lives: u64,
    virtual_ms: i64,
    lines: usize,
}

impl Summary {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.lives += u64::from(outcome.lives);
        self.virtual_ms += outcome.virtual_ms;
        self.lines += outcome.lines;
        outcome.faults.iter().for_each(|(kind, count)| *self.faults.entry(kind).or_insert(0) += count);
        match &outcome.verdict {
            Ok(count) => self.count.add(*count),
            Err(why) => {
                self.failures.push((seed, why.clone()));
                self.first_failure.get_or_insert(outcome);
            }
        }
    }

    fn print(&self, seeds: u64) {
        let (hours, Self { count, lives, lines, .. }) = (self.virtual_ms / 3_600_000, self);
        println!("{seeds} seeds, {hours} simulated hours, {lives} process lives, {lines} events");
        println!("{} records, {} batches, {} objects", count.records, count.batches, count.objects);
        self.faults.iter().for_each(|(kind, count)| println!("  {count:>8} {kind}"));
        self.failures.iter().for_each(|(seed, why)| println!("seed {seed}: {why}"));
    }
}

#[test]
fn every_seed_ends_exactly_once() {
    run_seeds(SEEDS, &|_| {});
}

/// `SIM_PROVOKE=RedoEndsAll` with `SIM_SEED`: a seed as it is run for that bug, without the bug.
#[test]
fn a_provoked_seed_can_be_replayed() {
    let name = std::env::var("SIM_PROVOKE").unwrap_or_else(|_| "RedoReplaces".to_string());
    let bug = siltstone::planted::FOUND.into_iter().find(|bug| format!("{bug:?}") == name).expect("a planted bug");
    run_seeds(1, &|knobs| bugs::provoke(bug, knobs));
}

#[test]
fn every_quarrel_ends_exactly_once() {
    run_seeds(QUARRELS, &Knobs::quarrel);
}

fn run_seeds(seeds: u64, tune: &dyn Fn(&mut Knobs)) {
    if let Some(seed) = number("SIM_SEED") {
        let outcome = tracing::subscriber::with_default(log(), || run_seed(seed, tune));
        println!("{}", outcome.trace);
        if let Err(why) = &outcome.verdict {
            fail(seed, &outcome, why);
        }
        return;
    }
    let (seeds, first) = (number("SIM_SEEDS").unwrap_or(seeds), number("SIM_FIRST").unwrap_or(0));
    let mut summary = Summary::default();
    for seed in first..first + seeds {
        summary.add(seed, run_seed(seed, tune));
    }
    summary.print(seeds);
    if let (Some(outcome), Some((seed, why))) = (&summary.first_failure, summary.failures.first()) {
        fail(*seed, outcome, why);
    }
}

#[test]
fn a_seed_run_twice_gives_the_same_trace() {
    for seed in [3, 7, 42, 1001] {
        let (once, again) = (run_seed(seed, &|_| {}), run_seed(seed, &|_| {}));
        let differs = once.trace.lines().zip(again.trace.lines()).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(once.lines, again.lines, "seed {seed}");
        assert!(once.lines > 60, "seed {seed}: {} lines prove little", once.lines);
    }
}
