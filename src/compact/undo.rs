//! Taking a compaction back: the old objects count again, and are to be archived again from Kafka, as they were deleted.
//!
//! For whoever finds that a compacted object is lost or damaged while Kafka still holds its records; and to give up a claim that cannot be finished,
//! which costs nothing, as its old objects are all there. Compactions of a unit are taken back together, the newest first: the inputs of a later one
//! are objects of an earlier one, which no backfill could make.
//!
//! # Beside a compactor
//! - **C-6** Before anything of a unit is taken back its next number is held (K-5), and its compactions are listed once more. So a compactor that planned with objects of
//!   the unit finds the number taken, and one that comes later leaves the unit alone, until all of it is taken back: nothing that counts is ever made
//!   of objects that do not, and no row counts twice. A process that is killed in between leaves the hold; to say it again goes on.
//! - Of a claim that a compactor is finishing, the first one to put the receipt decides (K-6). Where that was the compactor, nothing more of the unit is taken back:
//!   whoever asked did not know of it.
//! - Whether the old objects of a compaction with a receipt are still there is not decided by anything: a compactor may be deleting them at that moment, as it may have
//!   done the day before. It looks for a hold and for the mark right before; after that it goes on. Readers of receipts miss those rows then and do not see others twice, and
//!   `verify` names them, as after any compaction that is taken back.

use super::step::{Step, Tell};
use super::work::{Compactor, listed};
use crate::bucket::compactions::{Compaction, CompactionId, CompactionOutcome, CompactionReceipt, ListedCompaction};
use crate::effect::Effect;
use crate::exit::{Exit, Failure};
use crate::ledger::Site;
use crate::pipeline::start::patiently;
use crate::record::TopicPartition;
use std::collections::BTreeMap;

/// Numbers of a unit that may be taken by others before one is held.
const HOLD_TRIES: u32 = 20;

impl Compactor<'_> {
    /// Takes back all compactions of the unit called `wanted`, or of the one that has made or replaced the object with that key. With a dry run it is only
    /// said what that means.
    ///
    /// # Errors
    /// A store that refuses or does not answer. [`Exit::Config`]: there is no such unit.
    pub async fn undo(&mut self, wanted: &str, tell: Tell<'_>) -> Result<(), Failure> {
        let destinations = self.destinations.clone();
        let mut is_found = false;
        for site in self.sites(&destinations).await? {
            for partition in &site.partitions {
                for (unit, compactions) in self.units(&site, partition, None).await? {
                    if unit == wanted || compactions.iter().any(|(compaction, _)| names(compaction, wanted)) {
                        is_found = true;
                        self.take_back_unit(&site, compactions, tell).await?;
                    }
                }
            }
        }
        match is_found {
            true => Ok(()),
            false => {
                let what = format!("no compaction has the unit {wanted:?} or an object with that key");
                Err(Failure::new(Exit::Config, what))
            }
        }
    }

    /// The compactions of each unit, or of that one, by number, and whether they are open. Holds are among them.
    async fn units(
        &self,
        site: &Site<'_>,
        partition: &TopicPartition,
        unit: Option<&str>,
    ) -> Result<BTreeMap<String, Vec<(Compaction, bool)>>, Failure> {
        let mut listed = listed(&site.bucket, &*self.clock, partition).await?;
        listed.retain(|id, _| unit.is_none_or(|unit| unit == id.0));
        let mut units: BTreeMap<String, Vec<(Compaction, bool)>> = BTreeMap::new();
        for (id, documents) in &listed {
            let Some(compaction) = self.document(site, partition, id, documents).await? else { continue };
            units.entry(id.0.clone()).or_default().push((compaction, documents.is_open()));
        }
        Ok(units)
    }

    /// Takes back all compactions of a unit, the newest first, while its next number is held.
    async fn take_back_unit(
        &mut self,
        site: &Site<'_>,
        compactions: Vec<(Compaction, bool)>,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        if self.options.dry_run {
            for (compaction, is_open) in compactions.iter().rev().filter(|(compaction, _)| !compaction.is_hold()) {
                self.take_back(site, (compaction, *is_open), tell).await?;
            }
            return Ok(());
        }
        let (hold, compactions) = self.hold(site, compactions).await?;
        for (compaction, is_open) in compactions.iter().rev() {
            // Another hold may be of a process that was killed, or of one beside us: what both do is the same.
            if !compaction.is_hold() && !self.take_back(site, (compaction, *is_open), tell).await? {
                break;
            }
        }
        for held in compactions.iter().filter(|(of, is_open)| of.is_hold() && *is_open).map(|(of, _)| of).chain([&hold])
        {
            self.give_up(site, held).await?;
            self.withdraw(site, held).await?;
        }
        Ok(())
    }

    /// Holds the next number of a unit, and gives the hold with what the unit is then.
    async fn hold(
        &self,
        site: &Site<'_>,
        mut compactions: Vec<(Compaction, bool)>,
    ) -> Result<(Compaction, Vec<(Compaction, bool)>), Failure> {
        for _ in 0..HOLD_TRIES {
            let Some((last, _)) = compactions.last() else { break };
            let (partition, hold) = (last.topic_partition(), last.to_hold(last.n.saturating_add(1)));
            let what = format!("hold the unit {} of {partition}", hold.unit);
            let claimed = patiently(&*self.clock, &what, || site.bucket.claim_compaction(&hold)).await?;
            let units = self.units(site, &partition, Some(hold.unit.as_str())).await?;
            compactions = units.into_values().next().unwrap_or_default();
            if claimed != CompactionOutcome::Other {
                compactions.retain(|(compaction, _)| compaction.n < hold.n);
                return Ok((hold, compactions));
            }
        }
        let what =
            "take a compaction back: others claim one number of the unit after the other; stop them, and say it again";
        Err(Failure::new(Exit::Stopped, what))
    }

    async fn document(
        &self,
        site: &Site<'_>,
        partition: &TopicPartition,
        id: &CompactionId,
        documents: &ListedCompaction,
    ) -> Result<Option<Compaction>, Failure> {
        let (bucket, what) = (&site.bucket, format!("compaction {}.{}", id.0, id.1));
        match documents.receipt {
            Some(range) => {
                let receipt =
                    patiently(&*self.clock, &what, || bucket.compaction_receipt(partition, id, range)).await?;
                Ok(receipt.map(|receipt| receipt.compaction))
            }
            None => patiently(&*self.clock, &what, || bucket.compaction_claim(partition, id)).await,
        }
    }

    /// Says of a claim without receipt that it is given up. `false`: it has its receipt now.
    async fn give_up(&self, site: &Site<'_>, compaction: &Compaction) -> Result<bool, Failure> {
        let receipt = CompactionReceipt {
            compaction: compaction.clone(),
            writer: env!("CARGO_PKG_VERSION").to_string(),
            written_ms: Some(self.clock.wall_ms()),
            given_up: true,
        };
        let put = || site.bucket.put_compaction_receipt(&receipt);
        patiently(&*self.clock, "give a compaction up", put).await
    }

    /// Marks a compaction as taken back, and deletes its objects. To do it again is the same.
    pub(super) async fn withdraw(&self, site: &Site<'_>, compaction: &Compaction) -> Result<(), Failure> {
        let (bucket, partition, id) = (&site.bucket, compaction.topic_partition(), compaction.id());
        let mark = || bucket.undo_compaction(&partition, &id, self.clock.wall_ms());
        patiently(&*self.clock, "take a compaction back", mark).await?;
        let mut keys: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for group in &compaction.groups {
            for destination in &group.destinations {
                keys.entry(destination).or_default().push(group.key.clone());
            }
        }
        for (destination, keys) in keys {
            self.delete_objects(Effect::CompactedDelete, destination, &keys).await?;
        }
        Ok(())
    }

    /// `false`: it was finished at this moment, and is not taken back.
    async fn take_back(
        &mut self,
        site: &Site<'_>,
        (compaction, is_open): (&Compaction, bool),
        tell: Tell<'_>,
    ) -> Result<bool, Failure> {
        let (partition, id) = (compaction.topic_partition(), compaction.id());
        let dry_run = self.options.dry_run;
        if !dry_run {
            if is_open && !self.give_up(site, compaction).await? {
                let (partition, (unit, n)) = (partition.to_string(), id);
                let why = "it was finished at this moment, so nothing of the unit is taken back: look again whether it is to be".to_string();
                self.tell(Step::Stopped { partition, unit, n, why }, tell)?;
                return Ok(false);
            }
            self.withdraw(site, compaction).await?;
        }
        let inputs = compaction.groups.iter().flat_map(|group| &group.inputs).map(|input| input.key.clone()).collect();
        let keys = compaction.groups.iter().map(|group| group.key.clone()).collect();
        let (unit, n) = id;
        self.tell(Step::Undone { partition: partition.to_string(), unit, n, inputs, keys, dry_run }, tell)?;
        Ok(true)
    }
}

fn names(compaction: &Compaction, key: &str) -> bool {
    compaction.groups.iter().any(|group| group.key == key || group.inputs.iter().any(|input| input.key == key))
}
