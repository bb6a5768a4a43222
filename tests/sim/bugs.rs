//! Planted bugs: each is found by the oracle alone, or only brings something to a standstill, or is covered by another rule.
//!
//! Only what the oracle reads in buckets and offsets counts as found. A process that notices by itself, stops or panics is a
//! standstill: nothing is lost or doubled then, but nothing is proved of the oracle either.

use crate::knobs::{Knobs, Weights};
use crate::world::Finding;
use crate::{number, run_seed};
use siltstone::planted::{self, Bug};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bugs that the oracle finds.
pub(crate) const FOUND: [Bug; 22] = [
    Bug::CommitBeforeUpload,
    Bug::CommitBeforeReceipt,
    Bug::CommitOneTooFar,
    Bug::UnknownCommitIsDone,
    Bug::EndOneShort,
    Bug::PlanSkipped,
    Bug::ClaimSkipped,
    Bug::ClaimIgnored,
    Bug::AdoptionForgotten,
    Bug::StaleAssignment,
    Bug::RedoCutsAnew,
    Bug::RedoWithOwnLayout,
    Bug::RedoReplaces,
    Bug::OpenBatchKept,
    Bug::AbsentNotCounted,
    Bug::UploadUnconfirmed,
    Bug::ForeignOffsetTrusted,
    Bug::RecreatedTopicMixed,
    Bug::PoorerObjectKept,
    Bug::DeadLettersUnordered,
    Bug::DeadLettersNumberedAlike,
    Bug::FoldDeletesFirst,
];
/// Bugs with which something stands still before anything is lost or doubled.
pub(crate) const STANDING_STILL: [Bug; 4] =
    [Bug::ReceiptsIgnored, Bug::ReadBackDropped, Bug::EndOfPartitionIgnored, Bug::RedoEndsAll];
/// Bugs behind which another rule still stands: a file that is not the sealed one is not uploaded; the objects of a receipt that
/// is put over another are never poorer than those it named (what it says of absent offsets may be); a batch whose receipt is in a fold that
/// nobody looks into is redone as it was claimed, which changes nothing, and the newest receipts are in no fold.
const MASKED: [Bug; 3] = [Bug::SpoolKept, Bug::ReceiptOverwritten, Bug::FoldsIgnored];

/// Seeds that a bug may take to show, to the oracle or by a standstill.
const SEEDS_MAX: u64 = 1_500;
/// Seeds in which the oracle must find nothing where a standstill comes first, or another rule stands behind the one that is turned
/// off.
const COVERED_SEEDS: u64 = 100;

/// Makes what a bug needs to show more frequent: a seed costs ten milliseconds, and there are many bugs.
pub(crate) fn provoke(bug: Bug, knobs: &mut Knobs) {
    match bug {
        Bug::PlanSkipped => without_conditions(knobs),
        // A claim on its way for long lands over another one.
        Bug::RedoCutsAnew | Bug::RedoWithOwnLayout => {
            without_conditions(knobs);
            (knobs.slow_claims, knobs.processes, knobs.layouts_change) = (700, 2, true);
        }
        // Committed offsets are read back, and receipts speak against an offset that was never committed. A plan that was not is the
        // only one that leaves no trace, and then a claim on its way for long lands over that of another process.
        Bug::UnknownCommitIsDone => {
            without_conditions(knobs);
            (knobs.slow_claims, knobs.processes, knobs.layouts_change) = (700, 3, true);
            (knobs.commit_lost, knobs.rotate_records, knobs.weights.rebalance) = (150, 5, 9);
        }
        Bug::ClaimSkipped | Bug::ClaimIgnored => feud(knobs),
        // Whoever does not follow must hold the partition until it has archived what comes next.
        Bug::AdoptionForgotten => {
            feud(knobs);
            knobs.pause_ms = 8_000;
        }
        // Claims and the read-back repair what a stale commit does, where the store creates only if absent.
        Bug::StaleAssignment => {
            feud(knobs);
            (knobs.conditional, knobs.commit_twice, knobs.commit_stamped_anew) = (false, 0, 0);
        }
        Bug::PoorerObjectKept | Bug::ReceiptOverwritten => {
            feud(knobs);
            (knobs.weights.trim, knobs.write_once) = (9, false);
            // Pieces are put together without a condition: no store's client offers one.
            knobs.part_size = 1 << 20;
        }
        // A batch that is full ends at its last record, before offsets that hold none and are the log's last.
        Bug::RedoEndsAll => {
            (knobs.skips, knobs.crash_after_effect) = (1_000, 100);
            (knobs.records, knobs.rotate_records) = (30, 2);
        }
        Bug::RedoReplaces => {
            (knobs.weights.compact, knobs.crash_after_effect, knobs.write_once) = (9, 40, false);
        }
        Bug::ForeignOffsetTrusted => {
            (knobs.conditional, knobs.drain) = (true, false);
            knobs.weights.reset = 9;
        }
        Bug::FoldDeletesFirst | Bug::FoldsIgnored => {
            (knobs.fold_every_ms, knobs.rotate_records, knobs.write_once) = (Some(2_000), 2, false);
            (knobs.crash_after_effect, knobs.commit_late, knobs.conditional) = (40, 200, true);
            knobs.weights.trim = 5;
        }
        Bug::RecreatedTopicMixed => {
            (knobs.weights.recreate, knobs.weights.cut, knobs.weights.sleep) = (9, 5, 5);
            (knobs.drain, knobs.partitions) = (false, 1);
        }
        _ => {}
    }
}

/// Where nothing is created only if absent, the plan is the only fence; people and commits that come twice would take it away.
fn without_conditions(knobs: &mut Knobs) {
    (knobs.conditional, knobs.commit_twice, knobs.commit_stamped_anew) = (false, 0, 0);
    (knobs.weights.reset, knobs.weights.expire, knobs.crash_after_effect) = (0, 0, 40);
}

/// A quarrel and nothing else: two processes cut one batch differently as often as that can be.
fn feud(knobs: &mut Knobs) {
    knobs.quarrel();
    (knobs.processes, knobs.partitions) = (3, 3);
    (knobs.commit_twice, knobs.slow_claims, knobs.session_ms, knobs.pause_ms) = (800, 950, 6_000, 1_500);
    (knobs.commit_lost, knobs.commit_unanswered, knobs.commit_late) = (0, 0, 0);
    knobs.weights = Weights { rebalance: 9, cut: 9, restart: 2, ..Weights::default() };
    (knobs.crash_after_effect, knobs.rotate_age_s) = (0, 1);
}

/// What became of a bug in so many seeds.
struct Search {
    bug: Bug,
    /// The first seed in which the oracle finds it, and what it says.
    found: Option<(u64, String)>,
    /// Seeds before that one in which something stood still.
    standstills: u64,
    /// What stood still first.
    first_standstill: Option<String>,
}

impl Search {
    fn new(bug: Bug) -> Self {
        Self { bug, found: None, standstills: 0, first_standstill: None }
    }

    /// Looks for the bug in `seeds`, until the oracle finds it. What fails with it must not fail without it.
    fn through(mut self, seeds: Range<u64>) -> Self {
        for seed in seeds {
            let bug = self.bug;
            let Some(finding) = run_with(bug, seed, Some(bug)) else { continue };
            match finding {
                Finding::Oracle(why) => {
                    let without = run_with(bug, seed, None);
                    assert_eq!(without, None, "seed {seed}, as provoked for {bug:?}, without any bug");
                    self.found = Some((seed, why));
                    return self;
                }
                Finding::Standstill(why) => {
                    self.standstills += 1;
                    self.first_standstill.get_or_insert(why);
                }
            }
        }
        self
    }

    fn print(&self) {
        let name = format!("{:?}", self.bug);
        let said = match (&self.found, &self.first_standstill) {
            (Some((_, why)), _) | (None, Some(why)) => why.chars().take(110).collect(),
            (None, None) => String::new(),
        };
        let seeds = self.found.as_ref().map_or("-".to_string(), |(seed, _)| (seed + 1).to_string());
        println!("{name:<24} {seeds:>6} {:>11}  {said}", self.standstills);
    }
}

fn run_with(provoked: Bug, seed: u64, planted: Option<Bug>) -> Option<Finding> {
    planted::plant(planted);
    let verdict = catch_unwind(AssertUnwindSafe(|| run_seed(seed, &|knobs| provoke(provoked, knobs)).verdict));
    planted::plant(None);
    verdict.unwrap_or_else(|_| Err(Finding::Standstill("a panic".to_string()))).err()
}

/// Whether `SIM_BUG` asks for another bug alone.
fn is_asked_for(bug: Bug) -> bool {
    std::env::var("SIM_BUG").map_or(true, |name| name == format!("{bug:?}"))
}

fn covered_seeds() -> u64 {
    number("SIM_BUG_SEEDS").unwrap_or(COVERED_SEEDS)
}

fn heading(what: &str) {
    println!(
        "{what}\n{:<24} {:>6} {:>11}  what the oracle says, or what stood still first",
        "bug", "seeds", "standstills"
    );
}

#[test]
fn every_planted_bug_is_found() {
    let seeds = number("SIM_BUG_SEEDS").unwrap_or(SEEDS_MAX);
    heading("found by the oracle alone");
    let missed: Vec<Bug> = FOUND
        .into_iter()
        .filter(|&bug| is_asked_for(bug))
        .filter(|&bug| {
            let search = Search::new(bug).through(0..seeds);
            search.print();
            search.found.is_none()
        })
        .collect();
    assert!(missed.is_empty(), "not found within {seeds} seeds: {missed:?}");
}

/// Goal: with some bugs a partition stands still before anything is lost or doubled.
#[test]
fn a_bug_that_stands_still_loses_nothing() {
    heading("standing still, with nothing lost or doubled");
    for bug in STANDING_STILL.into_iter().filter(|&bug| is_asked_for(bug)) {
        let mut search = Search::new(bug).through(0..covered_seeds());
        for seed in covered_seeds()..SEEDS_MAX {
            if search.first_standstill.is_some() {
                break;
            }
            search = search.through(seed..seed + 1);
        }
        search.print();
        assert_eq!(search.found, None, "{bug:?}");
        assert!(search.standstills > 0, "{bug:?} was never noticed");
    }
}

/// Goal: some rules are there twice, and one of each pair is enough.
#[test]
fn a_masked_bug_is_masked() {
    heading("covered by another rule");
    for bug in MASKED.into_iter().filter(|&bug| is_asked_for(bug)) {
        let search = Search::new(bug).through(0..covered_seeds());
        search.print();
        assert_eq!((search.found, search.first_standstill), (None, None), "{bug:?}");
    }
}
