//! Which compactions of a unit are taken back together, and whether the rows of an object are there without it. Pure.
//!
//! A later compaction of a unit may have taken in objects of an earlier one, or have nothing to do with it: a unit that is too large for one claim has
//! several. Those that hang together by their objects are taken back together, and no other; a claim that is open is given up alone.

use crate::bucket::compactions::{Compaction, Group, Input};
use std::collections::BTreeSet;

/// A compaction of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) compaction: Compaction,
    pub(super) state: State,
}

/// What a compaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Claimed, and not finished.
    Open,
    /// Its objects count.
    Counts,
    /// It counted, and was taken back.
    Undone,
    /// It never came to be.
    GivenUp,
}

impl State {
    /// What it is once it is taken back.
    pub(super) fn taken_back(self) -> Self {
        match self {
            Self::Open | Self::GivenUp => Self::GivenUp,
            Self::Counts | Self::Undone => Self::Undone,
        }
    }
}

/// Places in `of`, which is sorted by number, of those that `wanted` means, the newest first. `wanted` is the unit, which means its newest one; unit and
/// number as `unit.n`; or the key of an object that one has made or replaced. Empty: none.
pub(super) fn chosen(of: &[Known], wanted: &str) -> Vec<usize> {
    let Some(newest) = of.last() else { return Vec::new() };
    let unit = newest.compaction.unit.as_str();
    let number = wanted.strip_prefix(unit).and_then(|rest| rest.strip_prefix('.')).and_then(|n| n.parse::<u32>().ok());
    let where_is = |test: &dyn Fn(&Known) -> bool| -> BTreeSet<usize> {
        of.iter().enumerate().filter(|(_, known)| test(known)).map(|(at, _)| at).collect()
    };
    let seeds = if wanted == unit {
        BTreeSet::from([of.len() - 1])
    } else if let Some(n) = number {
        where_is(&|known| known.compaction.n == n)
    } else {
        let made = where_is(&|known| known.compaction.groups.iter().any(|group| group.key == wanted));
        let replaced = || where_is(&|known| known.state != State::GivenUp && takes(&known.compaction, wanted));
        if made.is_empty() { replaced() } else { made }
    };
    let mut found = seeds.clone();
    let mut waiting: Vec<usize> = seeds.into_iter().filter(|&at| counted(of[at].state)).collect();
    while let Some(at) = waiting.pop() {
        let one = &of[at].compaction;
        for (index, other) in of.iter().enumerate() {
            let is_later = other.state != State::GivenUp && feeds(one, &other.compaction);
            let is_earlier = counted(other.state) && feeds(&other.compaction, one);
            if (is_later || is_earlier) && found.insert(index) && counted(other.state) {
                waiting.push(index);
            }
        }
    }
    found.into_iter().rev().collect()
}

fn counted(state: State) -> bool {
    matches!(state, State::Counts | State::Undone)
}

/// Whether `later` has taken in an object that `earlier` made.
fn feeds(earlier: &Compaction, later: &Compaction) -> bool {
    earlier.n < later.n && earlier.groups.iter().any(|group| takes(later, &group.key))
}

fn takes(compaction: &Compaction, key: &str) -> bool {
    compaction.groups.iter().any(|group| has_input(group, key))
}

fn has_input(group: &Group, key: &str) -> bool {
    group.inputs.iter().any(|input| input.key == key)
}

/// What there is at one destination.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Keys of what is there with the size that it should have.
    pub(super) whole: BTreeSet<String>,
    /// Keys of all that is there.
    pub(super) listed: BTreeSet<String>,
}

impl Found {
    /// Whether the rows of `group`, an object of number `n` that does not count, are there without it: all that it was made of is there again, or what that
    /// was made of in its turn, or what counts in its place.
    pub(super) fn has_rows_of(&self, of: &[Known], group: &Group, n: u32) -> bool {
        group.inputs.iter().all(|input| self.has(of, input, n))
    }

    fn has(&self, of: &[Known], input: &Input, n: u32) -> bool {
        if self.whole.contains(&input.key) || self.has_successor(of, &input.key, 0) {
            return true;
        }
        let mut earlier = of.iter().filter(|known| known.state == State::Undone && known.compaction.n < n);
        earlier.any(|known| {
            let mut groups = known.compaction.groups.iter().filter(|group| group.key == input.key);
            groups.any(|group| self.has_rows_of(of, group, known.compaction.n))
        })
    }

    /// Whether a compaction that counts has taken in `key`, and its object is there, or its successor's.
    fn has_successor(&self, of: &[Known], key: &str, above: u32) -> bool {
        let mut counting = of
            .iter()
            .filter(|known| known.state == State::Counts && known.compaction.n > above)
            .flat_map(|known| known.compaction.groups.iter().map(move |group| (known.compaction.n, group)));
        counting.any(|(n, group)| {
            has_input(group, key) && (self.whole.contains(&group.key) || self.has_successor(of, &group.key, n))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::compactions::{COMPACTION_VERSION, Proof, ProofBy};

    fn known(n: u32, state: State, groups: &[(&[&str], &str)]) -> Known {
        let input =
            |key: &&str| Input { key: key.to_string(), first: 0, end: 1, rows: 1, bytes: 1, sha256: String::new() };
        let group = |(inputs, key): &(&[&str], &str)| Group {
            destinations: vec!["d".into()],
            fingerprint: String::new(),
            schema: None,
            target: None,
            to: None,
            inputs: inputs.iter().map(input).collect(),
            batches: vec![(0, 1)],
            key: key.to_string(),
            records: None,
            rows: 1,
            bytes: 1,
            sha256: String::new(),
            event_min_ms: None,
            event_max_ms: None,
            proof: Proof { by: ProofBy::Bytes, rows: 1, inputs: String::new(), object: String::new() },
        };
        let compaction = Compaction {
            version: COMPACTION_VERSION,
            topic: "t".into(),
            partition: 0,
            generation: 1,
            archive: "a".into(),
            output: "json".into(),
            folder: String::new(),
            unit: "u".into(),
            n,
            groups: groups.iter().map(group).collect(),
        };
        Known { compaction, state }
    }

    /// Goal: what hangs together is taken back together, a claim alone, and nothing else.
    #[test]
    fn what_hangs_together_is_chosen() {
        let one = known(1, State::Counts, &[(&["a", "b"], "c1")]);
        let two = known(2, State::Counts, &[(&["x", "y"], "c2")]);
        let three = |state| known(3, state, &[(&["c1", "late"], "c3")]);
        let of = |state| [one.clone(), two.clone(), three(state)];
        let counting = of(State::Counts);
        for wanted in ["u", "u.3", "u.1", "c3", "c1", "a", "late"] {
            assert_eq!(chosen(&counting, wanted), [2, 0], "{wanted}");
        }
        assert_eq!((chosen(&counting, "u.2"), chosen(&counting, "y")), (vec![1], vec![1]));
        for nothing in ["", "u.4", "u.", "z", "w"] {
            assert_eq!(chosen(&counting, nothing), Vec::<usize>::new(), "{nothing}");
        }
        let open = of(State::Open);
        for wanted in ["u", "u.3", "c3", "late"] {
            assert_eq!(chosen(&open, wanted), [2], "a claim is given up alone: {wanted}");
        }
        assert_eq!(chosen(&open, "u.1"), [2, 0], "and when what it is made of is taken back");
        let given_up = of(State::GivenUp);
        assert_eq!((chosen(&given_up, "u"), chosen(&given_up, "u.1")), (vec![2], vec![0]));
        assert_eq!(chosen(&of(State::Undone), "u"), [2, 0]);
    }

    /// Goal: rows are there without an object where what it was made of is, at any remove, and nowhere else.
    #[test]
    fn rows_are_there_in_what_came_before_or_behind() {
        let group =
            |of: &[Known], n: u32| of.iter().find(|of| of.compaction.n == n).expect("it").compaction.groups[0].clone();
        let whole =
            |keys: &[&str]| Found { whole: keys.iter().map(|key| key.to_string()).collect(), ..Found::default() };
        let undone = [
            known(1, State::Undone, &[(&["a", "b"], "c1")]),
            known(2, State::Undone, &[(&["c1", "late"], "c2")]),
            known(3, State::GivenUp, &[(&["c2"], "c3")]),
        ];
        let has = |of: &[Known], n, keys: &[&str]| whole(keys).has_rows_of(of, &group(of, n), n);
        for (n, keys, expected) in [
            (1, &["a", "b"][..], true),
            (1, &["a"], false),
            (1, &["c1"], false),
            (2, &["a", "b", "late"], true),
            (2, &["c1", "late"], true),
            (2, &["a", "late"], false),
            (2, &["a", "b"], false),
            (3, &["c2"], true),
            (3, &["a", "b", "late"], true),
            (3, &["c3"], false),
        ] {
            assert_eq!(has(&undone, n, keys), expected, "{n} {keys:?}");
        }
        let counting = [
            undone[0].clone(),
            known(4, State::Counts, &[(&["a"], "c4")]),
            known(5, State::Counts, &[(&["c4"], "c5")]),
        ];
        assert!(has(&counting, 1, &["c5", "b"]) && has(&counting, 1, &["c4", "b"]));
        assert!(!has(&counting, 1, &["c5"]) && !has(&counting, 1, &["b"]));
    }
}
