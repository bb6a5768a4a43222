//! Planted bugs: each is found by the oracle alone, or only brings something to a standstill, or is covered by another rule.
//!
//! Only what the oracle reads in buckets and offsets counts as found. A process that notices by itself, stops or panics is a
//! standstill: nothing is lost or doubled then, but nothing is proved of the oracle either.

use crate::knobs::Knobs;
use crate::world::Finding;
use crate::{number, run_seed};
use siltstone::planted::{self, Bug};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds that the oracle may take to find a bug.
const SEEDS_MAX: u64 = 1_500;
/// Seeds in which the oracle must find nothing where another rule stands behind the one that is turned off.
const COVERED_SEEDS: u64 = 100;

/// Makes what a bug needs to show more frequent: a seed costs ten milliseconds, and there are many bugs.
pub(crate) fn provoke(bug: Bug, knobs: &mut Knobs) {
    match bug {
        // Where nothing is created only if absent, the plan is the only fence.
        Bug::PlanSkipped => {
            (knobs.conditional, knobs.commit_twice, knobs.crash_after_effect) = (false, 0, 40);
            knobs.commit_stamped_anew = 0;
            (knobs.weights.reset, knobs.weights.expire) = (0, 0);
        }
        Bug::ClaimSkipped | Bug::ClaimIgnored | Bug::AdoptionForgotten | Bug::StaleAssignment => knobs.quarrel(),
        Bug::PoorerObjectKept | Bug::ReceiptOverwritten => {
            knobs.quarrel();
            (knobs.weights.trim, knobs.weights.compact, knobs.write_once) = (9, 0, false);
            // Pieces are put together without a condition: no store's client offers one.
            knobs.part_size = 1 << 20;
        }
        Bug::RedoEndsAll => (knobs.skips, knobs.crash_after_effect) = (700, 40),
        Bug::RedoReplaces => {
            (knobs.weights.compact, knobs.crash_after_effect, knobs.write_once) = (9, 40, false);
        }
        Bug::RecreatedTopicMixed => {
            (knobs.weights.recreate, knobs.weights.cut, knobs.weights.sleep) = (9, 5, 5);
            knobs.drain = false;
        }
        _ => {}
    }
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
    /// Looks for `bug` in at most `seeds` seeds. What fails with it must not fail without it.
    fn new(bug: Bug, seeds: u64) -> Self {
        let mut search = Self { bug, found: None, standstills: 0, first_standstill: None };
        for seed in 0..seeds {
            let Some(finding) = finding(bug, seed, Some(bug)) else { continue };
            match finding {
                Finding::Oracle(why) => {
                    assert_eq!(
                        finding_without(bug, seed),
                        None,
                        "seed {seed}, as provoked for {bug:?}, without any bug"
                    );
                    search.found = Some((seed, why));
                    return search;
                }
                Finding::Standstill(why) => {
                    search.standstills += 1;
                    search.first_standstill.get_or_insert(why);
                }
            }
        }
        search
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

fn finding(provoked: Bug, seed: u64, planted: Option<Bug>) -> Option<Finding> {
    planted::plant(planted);
    let verdict = catch_unwind(AssertUnwindSafe(|| run_seed(seed, &|knobs| provoke(provoked, knobs)).verdict));
    planted::plant(None);
    verdict.unwrap_or_else(|_| Err(Finding::Standstill("a panic".to_string()))).err()
}

fn finding_without(provoked: Bug, seed: u64) -> Option<Finding> {
    finding(provoked, seed, None)
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
    let missed: Vec<Bug> = planted::FOUND
        .into_iter()
        .filter(|&bug| {
            let search = Search::new(bug, seeds);
            search.print();
            search.found.is_none()
        })
        .collect();
    assert!(missed.is_empty(), "not found within {seeds} seeds: {missed:?}");
}

/// Goal: the archiver notices some bugs itself, before anything is lost or doubled, and stops.
#[test]
fn a_noticed_bug_stands_still() {
    heading("noticed by the archiver, which stops");
    for bug in planted::NOTICED {
        let search = Search::new(bug, number("SIM_BUG_SEEDS").unwrap_or(COVERED_SEEDS));
        search.print();
        assert_eq!(search.found, None, "{bug:?}");
        assert!(search.standstills > 0, "{bug:?} was never noticed");
    }
}

/// Goal: some rules are there twice, and one of each pair is enough.
#[test]
fn a_masked_bug_is_masked() {
    heading("covered by another rule");
    for bug in planted::MASKED {
        let search = Search::new(bug, number("SIM_BUG_SEEDS").unwrap_or(COVERED_SEEDS));
        search.print();
        assert_eq!((search.found, search.first_standstill), (None, None), "{bug:?}");
    }
}
