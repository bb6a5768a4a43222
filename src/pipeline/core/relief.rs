//! Who makes room where memory or spool is full. Decisions over a few numbers: nothing here touches anything.
//!
//! - **M-1** A batch that is redone ends where it was cut, so it cannot be sealed to make room: one at a time goes on, and all else
//!   gives way to it. One that waits for the schema registry goes nowhere, so nobody gives way to it for long.
//! - **M-2** A batch that others can be sealed beside is sealed only where that gives room: not for a few names, again and again, while
//!   it is others that take it.
//! - **M-3** A batch that waits for its store holds up its own partition, and no other, until the names of the objects that wait take
//!   half of what rows have: then nothing is read before one of them is through.

/// What is open of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// The partition's.
    pub(super) slot: usize,
    /// Bytes of memory.
    pub(super) memory: usize,
    /// Bytes in the spool.
    pub(super) spooled: u64,
    /// What can be done about it.
    pub(super) state: State,
}

/// What can be done about an open batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It can be sealed.
    Free,
    /// It can be sealed once the one before it is through, and reads on.
    Behind,
    /// It is to be sealed, and takes nothing more: the one before it is not through.
    Due,
    /// It is redone.
    Redone,
    /// It is redone, and has waited for the registry for [`super::room::REDO_PATIENCE_MS`].
    Stuck,
}

/// What makes room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Relief {
    /// There is room enough, or nobody can make any.
    Nothing,
    /// This batch ends.
    Seal(usize),
    /// Those that can be sealed only once the one before is through take no more records: their store does not keep up.
    Yield {
        /// This batch of another partition ends.
        seal: Option<usize>,
    },
    /// Nothing is read but one redone batch.
    GiveWay {
        /// These end.
        seal: Vec<usize>,
        /// These are redone later.
        put_off: Vec<usize>,
    },
    /// These wait for the registry, and are redone later.
    PutOff(Vec<usize>),
}

/// What makes room where open batches take more than `left` bytes of memory and nothing is left to spill.
///
/// Past batches that nobody can end, those that can be sealed take an eighth of `left` together: so what is written elsewhere than
/// to a store that hangs goes on.
pub(super) fn in_memory(open: &[Open], left: usize) -> Relief {
    let all = memory(open, |_| true);
    if all <= left {
        return Relief::Nothing;
    }
    let redone = memory(open, |state| state == State::Redone);
    let mut fixed = redone + memory(open, |state| state == State::Stuck);
    if redone > left / 2 {
        let free = open.iter().filter(|open| open.state == State::Free && open.memory > 0);
        return Relief::GiveWay { seal: free.map(|open| open.slot).collect(), put_off: all_but_one(open) };
    }
    let can_end = |open: &&Open| matches!(open.state, State::Free | State::Behind);
    let largest = open.iter().filter(can_end).max_by_key(|open| open.memory).filter(|open| open.memory > 0);
    let Some(largest) = largest else { return Relief::Nothing };
    let mut stuck: Vec<&Open> = open.iter().filter(|open| open.state == State::Stuck).collect();
    stuck.sort_unstable_by_key(|open| open.memory);
    let mut put_off = Vec::new();
    while fixed > left / 2
        && let Some(open) = stuck.pop()
    {
        fixed -= open.memory;
        put_off.push(open.slot);
    }
    if !put_off.is_empty() {
        return Relief::PutOff(put_off);
    }
    fixed += memory(open, |state| state == State::Due);
    if fixed <= left / 2 || largest.memory >= left / 16 {
        return Relief::Seal(largest.slot);
    }
    let behind = memory(open, |state| state == State::Behind);
    let free = open.iter().filter(|open| open.state == State::Free).max_by_key(|open| open.memory);
    let seal = free.filter(|_| all - fixed - behind > left / 8).map(|open| open.slot);
    if seal.is_some() || fixed + behind > left { Relief::Yield { seal } } else { Relief::Nothing }
}

/// Who of those that yielded can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoOn {
    /// Nobody: a redone batch takes the room.
    Nobody,
    /// Those that have no sealed batch on its way.
    Through,
    /// All: there is room again, or those that they would yield to are put off at need.
    All,
}

/// Who of those that yielded can go on.
pub(super) fn who_goes_on(open: &[Open], left: usize) -> GoOn {
    let all = memory(open, |_| true);
    let redone = memory(open, |state| state == State::Redone);
    let stuck = memory(open, |state| state == State::Stuck);
    if all <= left / 4 * 3 || (redone <= left / 2 && (redone + stuck > left / 2 || all <= left)) {
        GoOn::All
    } else if redone <= left / 2 {
        GoOn::Through
    } else {
        GoOn::Nobody
    }
}

/// What makes room where the spool is full and nothing is on its way up.
pub(super) fn in_spool(open: &[Open]) -> Relief {
    let can_end = |open: &&Open| !matches!(open.state, State::Redone | State::Stuck);
    match open.iter().filter(can_end).max_by_key(|open| (open.spooled, open.slot)) {
        Some(largest) => Relief::Seal(largest.slot),
        None => Relief::GiveWay { seal: Vec::new(), put_off: all_but_one(open) },
    }
}

/// All redone batches but the one that goes on and is furthest along.
fn all_but_one(open: &[Open]) -> Vec<usize> {
    let mut redone: Vec<&Open> =
        open.iter().filter(|open| matches!(open.state, State::Redone | State::Stuck)).collect();
    redone.sort_unstable_by_key(|open| (open.state == State::Redone, open.spooled, open.slot));
    redone.pop();
    redone.into_iter().map(|open| open.slot).collect()
}

fn memory(open: &[Open], of: impl Fn(State) -> bool) -> usize {
    open.iter().filter(|open| of(open.state)).map(|open| open.memory).sum()
}

#[cfg(test)]
mod tests {
    use super::State::{Behind, Due, Free, Redone, Stuck};
    use super::*;

    const LEFT: usize = 1_600;

    /// Batches by slot: what of them and how many bytes of memory; the spool has ten times as many.
    fn open(batches: &[(State, usize)]) -> Vec<Open> {
        let open = |(slot, &(state, memory)): (usize, &(State, usize))| Open {
            slot,
            memory,
            spooled: memory as u64 * 10,
            state,
        };
        batches.iter().enumerate().map(open).collect()
    }

    fn give_way(seal: &[usize], put_off: &[usize]) -> Relief {
        Relief::GiveWay { seal: seal.to_vec(), put_off: put_off.to_vec() }
    }

    #[test]
    fn the_largest_batch_that_can_end_ends() {
        assert_eq!(in_memory(&open(&[(Free, 800), (Free, 800)]), LEFT), Relief::Nothing);
        assert_eq!(in_memory(&open(&[(Free, 700), (Free, 901)]), LEFT), Relief::Seal(1));
        assert_eq!(in_memory(&open(&[(Behind, 700), (Free, 301), (Redone, 600)]), LEFT), Relief::Seal(0));
        // However many there are: none is large, and nobody else takes the room.
        assert_eq!(in_memory(&open(&[(Free, 9); 200]), LEFT), Relief::Seal(199));
        assert_eq!(in_memory(&open(&[(Redone, 700), (Due, 901)]), LEFT), Relief::Nothing);
        assert_eq!(in_memory(&open(&[(Free, 0), (Due, 1_601)]), LEFT), Relief::Nothing);
    }

    /// Goal: the store of one archive hangs, and the others go on, but write no object for each poll.
    #[test]
    fn nobody_ends_for_a_few_names_beside_a_batch_that_waits_for_its_store() {
        assert_eq!(in_memory(&open(&[(Due, 1_590), (Free, 50)]), LEFT), Relief::Nothing);
        assert_eq!(in_memory(&open(&[(Due, 1_590), (Free, 100)]), LEFT), Relief::Seal(1));
        assert_eq!(in_memory(&open(&[(Due, 1_590), (Free, 90), (Free, 90)]), LEFT), Relief::Nothing);
        // Together they have an eighth, however much the others take.
        let many = open(&[(Due, 2_900), (Free, 60), (Free, 70), (Free, 80)]);
        assert_eq!(in_memory(&many, LEFT), Relief::Yield { seal: Some(3) });
        // It is those of the hanging store that wait, before the others have to.
        let behind = open(&[(Due, 1_500), (Behind, 101), (Free, 20)]);
        assert_eq!(in_memory(&behind, LEFT), Relief::Seal(1));
        let behind = open(&[(Due, 1_450), (Behind, 80), (Behind, 80), (Free, 20)]);
        assert_eq!(in_memory(&behind, LEFT), Relief::Yield { seal: None });
    }

    #[test]
    fn nobody_waits_for_the_store_of_another() {
        for others in [&[(Due, 1_590), (Due, 90), (Due, 90)][..], &[(Due, 1_590), (Behind, 90), (Behind, 90)][..]] {
            assert_eq!(who_goes_on(&open(others), LEFT), GoOn::Through);
        }
        assert_eq!(who_goes_on(&open(&[(Due, 1_590)]), LEFT), GoOn::All);
        assert_eq!(who_goes_on(&open(&[(Redone, 1_000), (Due, 300)]), LEFT), GoOn::Nobody);
    }

    /// Goal: one redone batch gets through. What can end ends first, and gives room that need not be redone.
    #[test]
    fn all_give_way_to_the_redone_batch_that_is_furthest_along() {
        let batches = open(&[(Redone, 500), (Redone, 700), (Free, 300), (Behind, 100), (Due, 100)]);
        assert_eq!(in_memory(&batches, LEFT), give_way(&[2], &[0]));
        assert_eq!(who_goes_on(&batches, LEFT), GoOn::Nobody);
        assert_eq!(who_goes_on(&open(&[(Redone, 1_100), (Free, 100)]), LEFT), GoOn::All, "there is room again");
        assert_eq!(in_memory(&open(&[(Redone, 1_700)]), LEFT), give_way(&[], &[]));
    }

    /// Goal: a redone batch that waits for the registry holds nobody up: neither one that is redone as well nor the others.
    #[test]
    fn nobody_gives_way_to_a_batch_that_waits_for_the_registry() {
        assert_eq!(in_memory(&open(&[(Stuck, 900), (Redone, 801)]), LEFT), give_way(&[], &[0]));
        let beside = open(&[(Stuck, 1_500), (Redone, 10), (Free, 100)]);
        assert_eq!(in_memory(&beside, LEFT), Relief::PutOff(vec![0]));
        assert_eq!(who_goes_on(&beside, LEFT), GoOn::All);
        // No more of them than it takes, and none where nobody else needs room.
        let two = open(&[(Stuck, 400), (Stuck, 900), (Free, 400)]);
        assert_eq!(in_memory(&two, LEFT), Relief::PutOff(vec![1]));
        assert_eq!(in_memory(&open(&[(Stuck, 1_700)]), LEFT), Relief::Nothing);
        assert_eq!(in_memory(&open(&[(Stuck, 700), (Free, 1_000)]), LEFT), Relief::Seal(1));
    }

    #[test]
    fn a_full_spool_empties() {
        assert_eq!(in_spool(&open(&[(Redone, 90), (Free, 10), (Free, 20), (Stuck, 99)])), Relief::Seal(2));
        assert_eq!(in_spool(&open(&[(Redone, 10), (Redone, 20), (Stuck, 99)])), give_way(&[], &[2, 0]));
        assert_eq!(in_spool(&open(&[(Stuck, 20)])), give_way(&[], &[]));
    }
}
