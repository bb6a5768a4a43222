//! Every planted bug is found by the oracle alone.

use crate::knobs::Knobs;
use crate::{number, run_seed};
use siltstone::planted::{self, Bug};

/// Seeds that a bug may take to be found.
const SEEDS_MAX: u64 = 3_000;
/// Seeds that a bug must stand behind which another rule does.
const MASKED_SEEDS: u64 = 150;

/// Makes what a bug needs to show more frequent: a seed costs ten milliseconds, and there are many bugs.
pub(crate) fn provoke(bug: Bug, knobs: &mut Knobs) {
    match bug {
        // Where nothing is created only if absent, the plan is the only fence.
        Bug::PlanSkipped => {
            (knobs.conditional, knobs.commit_twice, knobs.crash_after_effect) = (false, 0, 40);
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

/// The first seed that fails with `bug` and not without it, and what the oracle says.
fn first_seed(bug: Bug, seeds: u64) -> Option<(u64, String)> {
    let run = |seed, planted| {
        planted::plant(planted);
        let outcome = run_seed(seed, &|knobs| provoke(bug, knobs));
        planted::plant(None);
        outcome.verdict.err()
    };
    (0..seeds).find_map(|seed| {
        let why = run(seed, Some(bug))?;
        assert_eq!(run(seed, None), None, "seed {seed}, as provoked for {bug:?}, fails without any bug");
        Some((seed, why))
    })
}

#[test]
fn every_planted_bug_is_found() {
    let seeds = number("SIM_BUG_SEEDS").unwrap_or(SEEDS_MAX);
    let mut missed = Vec::new();
    println!("{:<24} {:>6}  what the oracle says", "bug", "seeds");
    for bug in planted::FOUND {
        match first_seed(bug, seeds) {
            Some((seed, why)) => {
                let why: String = why.chars().take(120).collect();
                println!("{:<24} {:>6}  {why}", format!("{bug:?}"), seed + 1);
            }
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {seeds} seeds: {missed:?}");
}

/// Goal: some rules are there twice, and one of each pair is enough.
#[test]
fn a_masked_bug_is_masked() {
    for bug in planted::MASKED {
        assert_eq!(first_seed(bug, MASKED_SEEDS), None, "{bug:?}");
    }
}
