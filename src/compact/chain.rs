//! Which compactions of a unit are taken back together, and whether the rows of an object are there without it, and will be. Pure.
//!
//! A later compaction of a unit may have taken in objects of an earlier one, or have nothing to do with it: a unit that is too large for one claim has
//! several. Those that hang together by their objects are taken back together, and no other; a claim that is open is given up alone.
//!
//! # Rest
//! Whoever deletes what a compaction was made of looks right before for a mark that it was taken back, and for a hold. Nothing tells him of one that is put
//! between his look and his last delete. So of a compaction that counted nothing is deleted, and nothing that it was made of counts as there, until its mark
//! is as old as such a process can be: [`LOOK_MS`], or as `--min-age` says where not even `done` tells that the deletes of the compaction itself are over:
//! they may be many, and whoever did them may be stopped in between. No row is lost to a process that sleeps for less than that.

use crate::bucket::compactions::{Compaction, Group, Input};
use std::collections::BTreeSet;

/// What a process may take from its look for a mark to the end of its deletes, where it is not stopped in between: some ten requests, each with all its
/// repetitions.
pub(super) const LOOK_MS: i64 = 600_000;

/// A compaction of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) compaction: Compaction,
    pub(super) state: State,
    /// Nobody who goes by its documents deletes what it was made of: that is done, or was never to be.
    pub(super) is_done: bool,
    /// When it was taken back, milliseconds UTC.
    pub(super) marked_ms: Option<i64>,
}

impl Known {
    /// It, taken back at this moment, unless it was before.
    pub(super) fn take_back(&mut self, now_ms: i64) {
        self.state = self.state.taken_back();
        self.marked_ms.get_or_insert(now_ms);
    }

    /// Until when somebody may be deleting what it was made of, milliseconds UTC; `None`: nobody is.
    pub(super) fn rests_until(&self, now_ms: i64, min_age_ms: i64) -> Option<i64> {
        let rest = if self.is_done { min_age_ms.min(LOOK_MS) } else { min_age_ms };
        let until = match self.state {
            State::Open => return None,
            // What counts in place of what is deleted is looked at before.
            State::Counts | State::GivenUp if self.is_done => return None,
            State::Counts => i64::MAX,
            State::Undone | State::GivenUp => self.marked_ms.map_or(i64::MAX, |marked| marked.saturating_add(rest)),
        };
        Some(until).filter(|&until| until > now_ms)
    }
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

/// The number in `wanted` where that is `unit.n`.
pub(super) fn number_in(wanted: &str, unit: &str) -> Option<u32> {
    wanted.strip_prefix(unit)?.strip_prefix('.')?.parse().ok()
}

/// The number of the one of `of`, which is sorted by number, that `wanted` means: the unit, which means its newest one; unit and number as `unit.n`; or
/// the key of an object that one has made or replaced, the newest one where an object came back and was replaced again.
pub(super) fn meant(of: &[Known], wanted: &str) -> Option<u32> {
    let unit = of.last()?.compaction.unit.as_str();
    let newest = |test: &dyn Fn(&Known) -> bool| of.iter().rev().find(|known| test(known)).map(|of| of.compaction.n);
    if wanted == unit {
        return newest(&|_| true);
    }
    if let Some(n) = number_in(wanted, unit) {
        return newest(&|known| known.compaction.n == n);
    }
    let made = newest(&|known| known.compaction.groups.iter().any(|group| group.key == wanted));
    made.or_else(|| newest(&|known| known.state != State::GivenUp && takes(&known.compaction, wanted)))
}

/// Places in `of`, which is sorted by number, of number `n` and those that hang together with it, the newest first. Whoever takes them back in that order
/// leaves nothing that counts without what it is made of, wherever he stops.
pub(super) fn chosen(of: &[Known], n: u32) -> Vec<usize> {
    let mut found: BTreeSet<usize> = of.iter().position(|known| known.compaction.n == n).into_iter().collect();
    let mut waiting: Vec<usize> = found.iter().copied().filter(|&at| counted(of[at].state)).collect();
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

/// The object that a compaction that counts, behind number `n`, has made of `key`, and that one's number.
pub(super) fn successor<'k>(of: &'k [Known], n: u32, key: &str) -> Option<(u32, &'k Group)> {
    let mut later = of.iter().filter(|known| known.state == State::Counts && known.compaction.n > n);
    later.find_map(|known| {
        let group = known.compaction.groups.iter().find(|group| has_input(group, key))?;
        Some((known.compaction.n, group))
    })
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
    /// Keys of what somebody may be deleting, see the module.
    pub(super) at_risk: BTreeSet<String>,
}

impl Found {
    /// Whether the rows of `group`, an object of number `n` that does not count, are there without it: all that it was made of is there again, or what that
    /// was made of in its turn, or what counts in its place.
    pub(super) fn has_rows_of(&self, of: &[Known], group: &Group, n: u32) -> bool {
        group.inputs.iter().all(|input| self.has(of, input, n))
    }

    fn has(&self, of: &[Known], input: &Input, n: u32) -> bool {
        let stays = self.whole.contains(&input.key) && !self.at_risk.contains(&input.key);
        if stays || self.has_successor(of, &input.key, 0) {
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
            hold: None,
        };
        Known { compaction, state, is_done: true, marked_ms: None }
    }

    fn wanted(of: &[Known], wanted: &str) -> Vec<usize> {
        meant(of, wanted).map(|n| chosen(of, n)).unwrap_or_default()
    }

    /// Goal: what hangs together is taken back together, a claim alone, and nothing else.
    #[test]
    fn what_hangs_together_is_chosen() {
        let one = known(1, State::Counts, &[(&["a", "b"], "c1")]);
        let two = known(2, State::Counts, &[(&["x", "y"], "c2")]);
        let three = |state| known(3, state, &[(&["c1", "late"], "c3")]);
        let of = |state| [one.clone(), two.clone(), three(state)];
        let counting = of(State::Counts);
        for of in ["u", "u.3", "u.1", "c3", "c1", "a", "late"] {
            assert_eq!(wanted(&counting, of), [2, 0], "{of}");
        }
        assert_eq!((wanted(&counting, "u.2"), wanted(&counting, "y")), (vec![1], vec![1]));
        for nothing in ["", "u.4", "u.", "z", "w"] {
            assert_eq!(wanted(&counting, nothing), Vec::<usize>::new(), "{nothing}");
        }
        let open = of(State::Open);
        for of in ["u", "u.3", "c3", "late"] {
            assert_eq!(wanted(&open, of), [2], "a claim is given up alone: {of}");
        }
        assert_eq!(wanted(&open, "u.1"), [2, 0], "and when what it is made of is taken back");
        let given_up = of(State::GivenUp);
        assert_eq!((wanted(&given_up, "u"), wanted(&given_up, "u.1")), (vec![2], vec![0]));
        assert_eq!(wanted(&of(State::Undone), "u"), [2, 0]);
        let came_back = [known(1, State::Undone, &[(&["a", "b"], "c1")]), known(2, State::Counts, &[(&["a"], "c2")])];
        assert_eq!(
            (meant(&came_back, "a"), meant(&came_back, "b"), meant(&came_back, "u")),
            (Some(2), Some(1), Some(2))
        );
        assert_eq!((meant(&given_up, "late"), meant(&[], "u")), (None, None));
    }

    /// Goal: nothing is deleted while somebody may be deleting what it was made of.
    #[test]
    fn what_was_taken_back_rests() {
        let day = 86_400_000;
        for (state, is_done, marked_ms, min_age, expected) in [
            (State::Open, true, None, day, None),
            (State::Counts, true, None, day, None),
            (State::Counts, false, None, day, Some(i64::MAX)),
            (State::GivenUp, true, Some(1_000), day, None),
            (State::GivenUp, false, Some(1_000), day, Some(1_000 + day)),
            (State::Undone, true, Some(1_000), day, Some(1_000 + LOOK_MS)),
            (State::Undone, true, Some(1_000), 60_000, Some(61_000)),
            (State::Undone, true, Some(1_000 - LOOK_MS), day, None),
            (State::Undone, true, Some(1_000), 0, None),
            (State::Undone, false, Some(1_000), day, Some(1_000 + day)),
            (State::Undone, false, Some(1_000 - day), day, None),
        ] {
            let of = Known { is_done, marked_ms, ..known(1, state, &[]) };
            assert_eq!(of.rests_until(1_000, min_age), expected, "{of:?}");
        }
        let mut taken = known(1, State::Counts, &[]);
        taken.take_back(5);
        taken.take_back(9);
        assert_eq!((taken.state, taken.marked_ms), (State::Undone, Some(5)));
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
        let at_risk = Found { at_risk: BTreeSet::from(["a".to_string()]), ..whole(&["a", "b", "c4"]) };
        assert!(!at_risk.has_rows_of(&undone, &group(&undone, 1), 1), "somebody may be deleting it");
        assert!(at_risk.has_rows_of(&counting, &group(&counting, 1), 1), "for what counts in its place");
    }
}
