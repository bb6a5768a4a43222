//! Which objects become one. Pure: the same objects and rules give the same groups.

use super::unit::Candidate;
use crate::bucket::compactions::To;

/// Objects of one claim at most: with their names it is of some megabytes.
pub const INPUTS_MAX: usize = 10_000;

/// What groups are made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Bytes that a new object aims at.
    pub target_bytes: u64,
    /// JSON lines become this.
    pub to: Option<To>,
    /// Bytes of all objects of one claim, unless its first group has more.
    pub claim_bytes_max: u64,
}

/// Objects that become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// In the order of their rows.
    pub candidates: Vec<Candidate>,
    /// What it becomes, where it is not what it is.
    pub to: Option<To>,
}

impl Planned {
    /// Bytes of its inputs.
    pub fn bytes(&self) -> u64 {
        self.candidates.iter().map(|candidate| candidate.input.bytes).sum()
    }

    fn new(to: Option<To>) -> Self {
        Self { candidates: Vec::new(), to }
    }

    /// Whether there is anything to do about it: one object that stays what it is, stays.
    fn is_worth_it(&self) -> bool {
        self.candidates.len() > 1 || (self.to.is_some() && !self.candidates.is_empty())
    }

    /// Whether `next` can stand behind its rows in one object.
    fn takes(&self, next: &Candidate, rules: &Rules) -> bool {
        let Some(last) = self.candidates.last() else { return true };
        let same = last.destinations == next.destinations
            && last.fingerprint == next.fingerprint
            && last.schema == next.schema
            && last.target == next.target
            && last.is_json == next.is_json;
        same && next.input.first >= last.input.end
            && self.candidates.len() < INPUTS_MAX
            && self.bytes() + next.input.bytes <= rules.target_bytes
    }
}

/// The groups of one unit, by offset. Neighbours become one while they are together no more than the target; an object of more than half of
/// it stays, unless its format is to change.
pub fn groups(mut candidates: Vec<Candidate>, rules: &Rules) -> Vec<Planned> {
    candidates.sort_by(|one, other| {
        (one.input.first, one.input.end, &one.input.key).cmp(&(other.input.first, other.input.end, &other.input.key))
    });
    let mut groups = Vec::new();
    let mut open = Planned::new(None);
    for candidate in candidates {
        let to = rules.to.filter(|_| candidate.is_json);
        let stays = to.is_none() && candidate.input.bytes > rules.target_bytes / 2;
        if stays || to != open.to || !open.takes(&candidate, rules) {
            groups.push(std::mem::replace(&mut open, Planned::new(to)));
        }
        if !stays {
            open.candidates.push(candidate);
        }
    }
    groups.push(open);
    groups.retain(Planned::is_worth_it);
    groups
}

/// The groups of each claim.
pub fn claims(groups: Vec<Planned>, rules: &Rules) -> Vec<Vec<Planned>> {
    let mut claims: Vec<Vec<Planned>> = Vec::new();
    let (mut inputs, mut bytes) = (0, 0);
    for group in groups {
        let fits = inputs + group.candidates.len() <= INPUTS_MAX && bytes + group.bytes() <= rules.claim_bytes_max;
        if !fits || claims.is_empty() {
            (inputs, bytes) = (0, 0);
            claims.push(Vec::new());
        }
        inputs += group.candidates.len();
        bytes += group.bytes();
        if let Some(last) = claims.last_mut() {
            last.push(group);
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::compactions::Input;
    use proptest::prelude::*;

    fn candidate(first: i64, bytes: u64) -> Candidate {
        let (end, key) = (first + 10, format!("k{first:05}"));
        Candidate {
            input: Input { key, first, end, rows: 1, bytes, sha256: String::new() },
            batches: vec![(first, end)],
            destinations: vec!["d".into()],
            fingerprint: "f".into(),
            schema: None,
            target: None,
            records: None,
            event_min_ms: None,
            event_max_ms: None,
            is_json: true,
        }
    }

    const RULES: Rules = Rules { target_bytes: 100, to: None, claim_bytes_max: 250 };

    fn firsts(groups: &[Planned]) -> Vec<Vec<i64>> {
        let of = |group: &Planned| group.candidates.iter().map(|candidate| candidate.input.first).collect();
        groups.iter().map(of).collect()
    }

    #[test]
    fn neighbours_become_one_up_to_the_target() {
        let sized = |sizes: &[u64]| -> Vec<Candidate> {
            sizes.iter().zip((0..).step_by(10)).map(|(&bytes, first)| candidate(first, bytes)).collect()
        };
        assert_eq!(firsts(&groups(sized(&[40, 40, 40, 10]), &RULES)), [vec![0, 10], vec![20, 30]]);
        // One that is large enough parts those around it; one alone stays.
        assert_eq!(firsts(&groups(sized(&[10, 10, 60, 10, 10, 51, 10]), &RULES)), [vec![0, 10], vec![30, 40]]);
        assert_eq!(groups(sized(&[10]), &RULES), []);
        let to = Rules { to: Some(To::Parquet), ..RULES };
        assert_eq!(firsts(&groups(sized(&[10, 200, 10]), &to)), [vec![0], vec![10], vec![20]]);
    }

    #[test]
    fn what_differs_or_overlaps_is_no_neighbour() {
        let mut other = candidate(10, 1);
        other.fingerprint = "g".into();
        assert_eq!(groups(vec![candidate(0, 1), other.clone(), candidate(20, 1)], &RULES), []);
        let mut wide = candidate(0, 1);
        wide.input.end = 40;
        let all = vec![wide, candidate(20, 1), candidate(40, 1)];
        assert_eq!(firsts(&groups(all, &RULES)), [vec![20, 40]], "rows would not be in order");
        other.fingerprint = "f".into();
        other.is_json = false;
        let to = Rules { to: Some(To::Parquet), ..RULES };
        let groups = groups(vec![candidate(0, 1), other], &to);
        assert_eq!((firsts(&groups), groups[0].to), (vec![vec![0]], Some(To::Parquet)));
    }

    proptest! {
        /// Every object is in one group at most, groups keep their order and size, and a claim has as many as it may.
        #[test]
        fn groups_are_bounded_and_in_order(sizes in prop::collection::vec(1..120_u64, 0..60)) {
            let all: Vec<Candidate> = sizes.iter().zip((0..).step_by(10)).map(|(&bytes, first)| candidate(first, bytes)).collect();
            let planned = groups(all, &RULES);
            let order: Vec<i64> = firsts(&planned).concat();
            prop_assert!(order.is_sorted_by(|one, other| one < other));
            for group in &planned {
                prop_assert!(group.bytes() <= RULES.target_bytes && group.candidates.len() > 1);
            }
            let claimed = claims(planned.clone(), &RULES);
            prop_assert_eq!(claimed.concat(), planned);
            for claim in claimed {
                prop_assert!(claim.len() == 1 || claim.iter().map(Planned::bytes).sum::<u64>() <= RULES.claim_bytes_max);
            }
        }
    }
}
