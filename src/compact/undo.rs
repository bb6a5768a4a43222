//! Taking a compaction back: the old objects count again, and are to be archived again from Kafka, as they were deleted.
//!
//! For whoever finds that a compacted object is lost or damaged while Kafka still holds its records; and to give up a claim that cannot be finished,
//! which costs nothing, as its old objects are all there. Compactions of a unit are taken back together, the newest first: the inputs of a later one
//! are objects of an earlier one, which no backfill could make.

use super::step::{Step, Tell};
use super::work::{Compactor, listed};
use crate::bucket::compactions::{Compaction, CompactionId, CompactionReceipt, ListedCompaction};
use crate::effect::Effect;
use crate::exit::{Exit, Failure};
use crate::ledger::Site;
use crate::pipeline::start::patiently;
use crate::record::TopicPartition;
use std::collections::BTreeMap;

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
                let listed = listed(&site.bucket, &*self.clock, partition).await?;
                let mut units: BTreeMap<String, Vec<(Compaction, bool)>> = BTreeMap::new();
                for (id, documents) in &listed {
                    let Some(compaction) = self.document(&site, partition, id, documents).await? else { continue };
                    units.entry(id.0.clone()).or_default().push((compaction, documents.is_open()));
                }
                for (unit, compactions) in units {
                    if unit == wanted || compactions.iter().any(|(compaction, _)| names(compaction, wanted)) {
                        is_found = true;
                        for (compaction, is_open) in compactions.into_iter().rev() {
                            self.take_back(&site, (&compaction, is_open), tell).await?;
                        }
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

    async fn take_back(
        &mut self,
        site: &Site<'_>,
        (compaction, is_open): (&Compaction, bool),
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let (partition, id) = (compaction.topic_partition(), compaction.id());
        let dry_run = self.options.dry_run;
        if !dry_run {
            if is_open && !self.give_up(site, compaction).await? {
                let (partition, (unit, n)) = (partition.to_string(), id);
                let why = "it was finished at this moment: look again whether it is to be taken back".to_string();
                return self.tell(Step::Stopped { partition, unit, n, why }, tell);
            }
            self.withdraw(site, compaction).await?;
        }
        let inputs = compaction.groups.iter().flat_map(|group| &group.inputs).map(|input| input.key.clone()).collect();
        let keys = compaction.groups.iter().map(|group| group.key.clone()).collect();
        let (unit, n) = id;
        self.tell(Step::Undone { partition: partition.to_string(), unit, n, inputs, keys, dry_run }, tell)
    }
}

fn names(compaction: &Compaction, key: &str) -> bool {
    compaction.groups.iter().any(|group| group.key == key || group.inputs.iter().any(|input| input.key == key))
}
