//! The claims of one batch, each read once: they are never changed, and their numbers have no gap (K-4).
//!
//! What is known here may be behind what is there, as other processes claim at any time. That is safe: a claim goes under the number
//! behind all that were read, and is created only if absent. So if there is one more than was read, nothing is claimed, and
//! [`Claims::next`] finds that one.

use super::find::DeadBatch;
use crate::bucket::Bucket;
use crate::bucket::replays::{LetterId, Replay, ReplayClaim};
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
use crate::pipeline::start::patiently;
use std::collections::{BTreeMap, HashSet};

/// Dead letters by output.
#[derive(Default)]
pub(super) struct Named(BTreeMap<String, HashSet<LetterId>>);

impl Named {
    /// Adds what `replay` names.
    pub(super) fn add(&mut self, replay: &Replay) {
        for (output, letters) in &replay.rows {
            self.0.entry(output.clone()).or_default().extend(letters);
        }
    }

    /// Whether that dead letter is named for that output.
    pub(super) fn has(&self, output: &str, letter: &LetterId) -> bool {
        self.0.get(output).is_some_and(|named| named.contains(letter))
    }
}

/// What is known of the claims of one batch. Memory: the numbers of the dead letters that they name.
#[derive(Default)]
pub(super) struct Claims {
    /// So many were read.
    read: u32,
    /// What they name.
    pub(super) named: Named,
}

impl Claims {
    /// The number that the next claim gets, if nobody else takes it.
    pub(super) fn number(&self) -> u32 {
        self.read.saturating_add(1)
    }

    /// Reads the next claim; `None`: there are no more by now. `true`: it has its receipt.
    ///
    /// # Errors
    /// A store that refuses or does not answer, a claim that is damaged.
    pub(super) async fn next(
        &mut self,
        bucket: &Bucket,
        clock: &dyn Clock,
        batch: &DeadBatch,
    ) -> Result<Option<(ReplayClaim, bool)>, Failure> {
        let (partition, first, n) = (&batch.partition, batch.range.first, self.number());
        let what = format!("replay {n} of {partition} {}", batch.range);
        let claim = patiently(clock, &what, || bucket.replay_claim(partition, first, n)).await?;
        let Some(claim) = claim else { return Ok(None) };
        let is_finished = patiently(clock, &what, || bucket.is_replay_finished(partition, first, n)).await?;
        self.add(&claim.replay);
        Ok(Some((claim, is_finished)))
    }

    /// Takes in the claim of that number, which is there: it need not be read.
    pub(super) fn add(&mut self, replay: &Replay) {
        debug_assert_eq!(replay.n, self.number());
        self.read = replay.n;
        self.named.add(replay);
    }
}

/// Why a replay that was begun cannot be finished.
pub(super) fn unfinished(Replay { n, first, topic, partition, .. }: &Replay, why: String) -> Failure {
    let text = format!("replay {n} of the batch at {first} of {topic}/{partition} was begun and not finished{why}");
    Failure::new(Exit::Stopped, text)
}
