//! What became of the dead letters that a replay read: for each output that one is missing in, exactly one thing.
//!
//! `wanted = replayed + already replayed + still failing + dropped + gone`, per output.

use crate::pipeline::unpack::Refusal;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// Different reasons that are told apart, all outputs together; what comes then is counted together.
const REASONS_MAX: usize = 1_000;

/// What became of the dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Dead letters read that were meant.
    pub letters: u64,
    /// By output, as the dead letters name it.
    pub outputs: BTreeMap<String, OutputBalance>,
    /// Why some are still none.
    #[serde(serialize_with = "as_list")]
    reasons: BTreeMap<Key, u64>,
    /// Dead letters of replays that others had begun, which this one finished.
    pub finished: u64,
}

/// Output, stage, reason.
type Key = (String, String, String);

fn as_list<S: Serializer>(reasons: &BTreeMap<Key, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(listed(reasons))
}

fn listed(reasons: &BTreeMap<Key, u64>) -> Vec<Reason> {
    let reason = |((output, stage, reason), &letters): (&Key, &u64)| {
        let (output, stage, reason) = (output.clone(), stage.clone(), reason.clone());
        Reason { output, stage, reason, letters }
    };
    let mut listed: Vec<Reason> = reasons.iter().map(reason).collect();
    listed.sort_by_key(|reason| std::cmp::Reverse(reason.letters));
    listed
}

/// What became of the dead letters in one output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutputBalance {
    /// Dead letters that are missing there.
    pub wanted: u64,
    /// Written now, or with a dry run: that would be.
    pub replayed: u64,
    /// Rows that those became.
    pub rows: u64,
    /// Written by an earlier replay.
    pub already: u64,
    /// That still are no row.
    pub failing: u64,
    /// That a rule has no row of, by its name.
    pub dropped: BTreeMap<String, u64>,
    /// The configuration has no such output any more.
    pub gone: u64,
}

/// Why dead letters still are no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// In which output.
    pub output: String,
    /// At what.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub letters: u64,
}

impl Balance {
    /// The balance of an output, for a dead letter that is missing there.
    pub fn wanted(&mut self, output: &str) -> &mut OutputBalance {
        let balance = self.outputs.entry(output.to_string()).or_default();
        balance.wanted += 1;
        balance
    }

    /// Counts one that still fails; it is wanted already.
    pub fn failing(&mut self, output: &str, (stage, reason): Refusal) {
        self.outputs.entry(output.to_string()).or_default().failing += 1;
        self.reason((output.to_string(), stage.as_str().to_string(), reason), 1);
    }

    fn reason(&mut self, mut key: Key, letters: u64) {
        if self.reasons.len() >= REASONS_MAX && !self.reasons.contains_key(&key) {
            // One for each output and stage: few.
            key.2 = "other reasons".to_string();
        }
        *self.reasons.entry(key).or_default() += letters;
    }

    /// Why dead letters still are none, the most frequent first.
    pub fn reasons(&self) -> Vec<Reason> {
        listed(&self.reasons)
    }

    /// Adds what another object came to.
    pub fn add(&mut self, other: Self) {
        self.letters += other.letters;
        self.finished += other.finished;
        for (output, more) in other.outputs {
            let sum = self.outputs.entry(output).or_default();
            sum.wanted += more.wanted;
            sum.replayed += more.replayed;
            sum.rows += more.rows;
            sum.already += more.already;
            sum.failing += more.failing;
            sum.gone += more.gone;
            for (rule, count) in more.dropped {
                *sum.dropped.entry(rule).or_default() += count;
            }
        }
        for (key, letters) in other.reasons {
            self.reason(key, letters);
        }
    }

    /// Whether every dead letter is accounted for in every output that it is missing in.
    pub fn holds(&self) -> bool {
        let even = |of: &OutputBalance| {
            of.wanted == of.replayed + of.already + of.failing + of.gone + of.dropped.values().sum::<u64>()
        };
        self.outputs.values().all(even)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dead_letter::DeadLetterStage;

    #[test]
    fn reasons_are_counted_and_bounded() {
        let mut balance = Balance::default();
        for number in 0..REASONS_MAX + 5 {
            balance.wanted("json");
            balance.failing("json", (DeadLetterStage::Decode, format!("reason {number}")));
        }
        balance.wanted("json");
        balance.failing("json", (DeadLetterStage::Decode, "reason 3".to_string()));
        assert!(balance.holds(), "{:?}", balance.outputs);
        assert_eq!(balance.reasons.len(), REASONS_MAX + 1);
        let count = |wanted: &str| balance.reasons().into_iter().find(|of| of.reason == wanted).map(|of| of.letters);
        assert_eq!((count("reason 3"), count("other reasons"), count("reason 0")), (Some(2), Some(5), Some(1)));
        let mut sum = balance.clone();
        sum.add(balance);
        assert!(sum.holds() && sum.reasons().iter().map(|reason| reason.letters).sum::<u64>() == 2012);
    }
}
