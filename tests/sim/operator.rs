//! The person who looks after the processes, and when a run is given up.

use crate::state::{Life, note};
use crate::world::World;

impl World {
    /// A person looks after the processes once a second: partitions may only stop where somebody has touched the group's
    /// offsets, the topic or the room in a spool, and then they are told to go on as their message says. Anything else is
    /// trouble, and the run goes on without help.
    pub(crate) fn operate(&mut self) {
        let stopped: Vec<String> = self
            .processes
            .iter()
            .filter(|(life, _)| **life > self.decided_after)
            .flat_map(|(_, process)| process.health())
            .filter(|line| line.starts_with("stopped"))
            .collect();
        for reason in stopped {
            if self.decide(&reason) {
                let mut state = self.shared.lock();
                note!(state, "the operator does what it says and restarts everything: {reason}");
                drop(state);
                self.decided_after = self.lives;
                let lives: Vec<Life> = self.processes.keys().copied().collect();
                return lives.into_iter().for_each(|life| self.restart(life));
            }
            self.troubled(format!("STOPPED: {reason}"));
        }
    }

    /// Does what the message of a stopped partition says, where there is a cause for it.
    fn decide(&mut self, reason: &str) -> bool {
        let what = if reason.contains("`generation`") && self.recreated && self.generation == 1 {
            self.generation = 2;
            "generation raised"
        } else if reason.contains("--resume-from-receipts") && self.offsets_touched && !self.resume_from_receipts {
            self.resume_from_receipts = true;
            "resumed from receipts"
        } else if reason.contains("[spool] limit") && self.spool_may_be_small {
            (self.spool_is_small, self.spool_may_be_small) = (false, false);
            "spool enlarged"
        } else {
            return false;
        };
        self.shared.lock().fault("operator called", what);
        true
    }

    /// Something stands still that no fault excuses. The first such thing is kept.
    pub(crate) fn troubled(&mut self, what: String) {
        if self.trouble.is_some() {
            return;
        }
        let mut state = self.shared.lock();
        note!(state, "trouble: {what}");
        let since_ms = state.now_ms;
        drop(state);
        self.trouble = Some((since_ms, what));
    }
}
