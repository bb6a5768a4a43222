//! Which Kafka partitions are held, and the gate between commits and rebalances.
//!
//! # Invariants
//! - **H-1** An assignment number is used once; a partition given again has a new one.
//! - **H-2** A commit holds the gate from its check to its answer. [`Ownership::remove`] first makes the partitions dead,
//!   then waits for the gate: when it returns, no commit for them is under way and none can start.
//!
//! Pure bookkeeping: no Kafka, no clock but the waits that callers ask for.

use crate::consume::Held;
use crate::planted::{Bug, has};
use crate::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<TopicPartition, u64>,
    last_assignment: u64,
    /// Counts how often the group moved, so that a waiter sees that it did.
    moves: u64,
    /// Planned batches being finished, by assignment.
    planned: BTreeMap<u64, u64>,
}

/// The partitions held by this process now.
#[derive(Debug, Default)]
pub struct Ownership {
    state: Mutex<State>,
    changed: Condvar,
    gate: Mutex<()>,
}

impl Ownership {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything can panic, so a poisoned lock still holds a sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `partitions` into possession, each with a new assignment number. One already held gets a new number too.
    pub fn add(&self, partitions: &[TopicPartition]) -> Vec<Held> {
        let mut state = self.state();
        let mut held = Vec::with_capacity(partitions.len());
        for partition in partitions {
            state.last_assignment += 1;
            let assignment = state.last_assignment;
            state.held.insert(partition.clone(), assignment);
            held.push(Held { partition: partition.clone(), assignment });
        }
        held
    }

    /// Whether `held` is still alive.
    pub fn is_held(&self, held: &Held) -> bool {
        has(Bug::StaleAssignment) || self.state().held.get(&held.partition) == Some(&held.assignment)
    }

    /// All partitions held.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.state().held.keys().cloned().collect()
    }

    /// Keeps rebalances from finishing (and other commits from starting) while the guard lives.
    pub fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `partitions` up (H-2).
    pub fn remove(&self, partitions: &[TopicPartition]) {
        {
            let mut state = self.state();
            for partition in partitions {
                state.held.remove(partition);
            }
            state.moves += 1;
        }
        self.changed.notify_all();
        drop(self.gate());
    }

    /// Makes everything dead at once and names it. Does not wait for a commit under way: the caller ends the membership.
    pub fn clear(&self) -> Vec<TopicPartition> {
        let removed = {
            let mut state = self.state();
            state.moves += 1;
            std::mem::take(&mut state.held)
        };
        self.changed.notify_all();
        removed.into_keys().collect()
    }

    /// How often the group has moved so far. Read it before a commit, then [`Ownership::wait_for_move`].
    pub fn moves(&self) -> u64 {
        self.state().moves
    }

    /// The group has moved: a commit that was refused in between may be tried again.
    pub fn moved(&self) {
        self.state().moves += 1;
        self.changed.notify_all();
    }

    /// Waits at most `wait` until the group has moved since `seen`; whether it has.
    pub fn wait_for_move(&self, seen: u64, wait: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), wait, |state| state.moves == seen);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.moves != seen
    }

    /// Counts a planned batch of `held` as being finished for as long as the guard lives: an orderly revoke waits for it.
    pub fn planned(self: &Arc<Self>, held: &Held) -> PlannedGuard {
        *self.state().planned.entry(held.assignment).or_insert(0) += 1;
        PlannedGuard { ownership: self.clone(), assignment: held.assignment }
    }

    /// Waits at most `grace` until no planned batch of `partitions` is being finished; whether that was reached.
    pub fn wait_planned(&self, partitions: &[TopicPartition], grace: Duration) -> bool {
        let state = self.state();
        let leaving: BTreeSet<u64> =
            partitions.iter().filter_map(|partition| state.held.get(partition)).copied().collect();
        let pending = |state: &State| state.planned.keys().any(|assignment| leaving.contains(assignment));
        let waited = self.changed.wait_timeout_while(state, grace, |state| pending(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !pending(&state)
    }
}

/// A planned batch is being finished. Dropping it lets a revoke of its Kafka partition go on.
#[derive(Debug)]
pub struct PlannedGuard {
    ownership: Arc<Ownership>,
    assignment: u64,
}

impl Drop for PlannedGuard {
    fn drop(&mut self) {
        {
            let mut state = self.ownership.state();
            if let Some(count) = state.planned.get_mut(&self.assignment) {
                *count -= 1;
                if *count == 0 {
                    state.planned.remove(&self.assignment);
                }
            }
        }
        self.ownership.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new("t", number)
    }

    #[test]
    fn a_partition_given_again_has_a_new_number_and_the_old_one_is_dead() {
        let ownership = Ownership::default();
        let first = ownership.add(&[partition(0), partition(1)]);
        assert!(first.iter().all(|held| ownership.is_held(held)));
        ownership.remove(&[partition(0)]);
        assert!(!ownership.is_held(&first[0]) && ownership.is_held(&first[1]));
        let again = ownership.add(&[partition(0)]);
        assert_ne!(again[0].assignment, first[0].assignment);
        assert!(ownership.is_held(&again[0]) && !ownership.is_held(&first[0]));
        assert_eq!(ownership.clear(), vec![partition(0), partition(1)]);
        assert!(!ownership.is_held(&again[0]));
    }

    /// Goal: a revoke never overtakes a commit under way, and the partition is dead while it waits.
    /// Method: hold the gate as a commit does, revoke from another thread, look, let go.
    #[test]
    fn remove_kills_first_and_then_waits_for_the_gate() {
        let ownership = Arc::new(Ownership::default());
        let held = ownership.add(&[partition(0)]).remove(0);
        let seen = ownership.moves();
        let gate = ownership.gate();
        let (sender, removed) = mpsc::channel();
        let other = ownership.clone();
        let thread = std::thread::spawn(move || {
            other.remove(&[partition(0)]);
            sender.send(()).expect("the test waits for it");
        });
        assert!(ownership.wait_for_move(seen, Duration::from_secs(10)));
        assert!(!ownership.is_held(&held), "dead while the commit is under way");
        assert_eq!(removed.try_recv(), Err(mpsc::TryRecvError::Empty), "waits for the commit");
        drop(gate);
        removed.recv_timeout(Duration::from_secs(10)).expect("goes on when the commit is done");
        thread.join().expect("no panic");
    }

    #[test]
    fn a_revoke_waits_for_planned_batches_of_its_own_partitions_only() {
        let ownership = Arc::new(Ownership::default());
        let held = ownership.add(&[partition(0), partition(1)]);
        let guard = ownership.planned(&held[0]);
        assert!(ownership.wait_planned(&[partition(1)], Duration::ZERO));
        assert!(!ownership.wait_planned(&[partition(0)], Duration::from_millis(1)));
        let other = ownership.clone();
        let waiter = std::thread::spawn(move || other.wait_planned(&[partition(0)], Duration::from_secs(10)));
        drop(guard);
        assert!(waiter.join().expect("no panic"), "released by the guard, long before the grace ends");
        assert!(!ownership.wait_for_move(ownership.moves(), Duration::from_millis(1)));
    }
}
