//! The switch, and what is left to do behind it: finish what was begun, delete what counts no more.

use super::chain::{Known, name, successor};
use super::make::{Made, Source};
use super::rewrite::Trouble;
use super::step::{Step, Tell, compacted};
use super::work::{Compactor, Work, job_of, listed, store_failure};
use crate::bucket::Bucket;
use crate::bucket::compactions::{Compaction, CompactionId, CompactionReceipt, Group, ListedCompaction};
use crate::effect::{Effect, requests};
use crate::exit::{Exit, Failure};
use crate::ledger::Site;
use crate::ledger::live::{self, Live};
use crate::pipeline::start::patiently;
use crate::record::TopicPartition;
use crate::upload::{self, Look, hex};
use std::collections::{BTreeMap, BTreeSet};

impl Compactor<'_> {
    /// Writes the receipt, which is the switch, and deletes what counts no more.
    pub(super) async fn switch(&mut self, site: &Site<'_>, claim: &Compaction, tell: Tell<'_>) -> Result<(), Failure> {
        self.vouch(site, claim, tell).await?;
        self.delete_inputs(site, claim).await
    }

    /// Writes the receipt.
    async fn vouch(&mut self, site: &Site<'_>, claim: &Compaction, tell: Tell<'_>) -> Result<(), Failure> {
        let (bucket, receipt) = (&site.bucket, self.receipt_of(claim, false));
        let what = "write the receipt of a compaction";
        if patiently(&*self.clock, what, || bucket.put_compaction_receipt(&receipt)).await? {
            return Ok(());
        }
        // What was put since counts for nobody, and whoever lists the folder would read its rows twice.
        self.withdraw(site, claim, tell).await?;
        let what = format!("compaction {}.{} was given up by somebody else: its old objects stay", claim.unit, claim.n);
        Err(Failure::new(Exit::Stopped, what))
    }

    pub(super) fn receipt_of(&self, claim: &Compaction, given_up: bool) -> CompactionReceipt {
        CompactionReceipt {
            compaction: claim.clone(),
            writer: env!("CARGO_PKG_VERSION").to_string(),
            written_ms: Some(self.clock.wall_ms()),
            given_up,
        }
    }

    /// Deletes the inputs of a compaction that has its receipt, and says so.
    async fn delete_inputs(&self, site: &Site<'_>, claim: &Compaction) -> Result<(), Failure> {
        let (bucket, partition, id) = (&site.bucket, claim.topic_partition(), claim.id());
        // A backfill that was stored before the receipt may be mending a batch of these and put back what is deleted here; one that is stored
        // later sees the receipt. What is left is deleted by the next run, when it has ended.
        if job_of(bucket, &*self.clock, &partition).await?.is_some() {
            return self.check_counts(bucket, claim).await;
        }
        self.delete_replaced(bucket, claim, &inputs_by_destination(claim)).await?;
        let end = || bucket.end_compaction(&partition, &id, self.clock.wall_ms());
        patiently(&*self.clock, "say that a compaction is done", end).await
    }

    /// Deletes objects that a compaction replaced, by destination. Whoever takes it back is looked for right before, each time: what is between that
    /// look and the delete, the rest of those that were taken back is for ([`super::chain`]).
    async fn delete_replaced(
        &self,
        bucket: &Bucket,
        claim: &Compaction,
        replaced: &BTreeMap<String, Vec<String>>,
    ) -> Result<(), Failure> {
        for (id, keys) in replaced {
            self.check_counts(bucket, claim).await?;
            self.delete_objects(Effect::InputsDelete, id, keys).await?;
        }
        Ok(())
    }

    /// Nothing is deleted of a compaction that somebody has taken back since, nor while its unit is held.
    async fn check_counts(&self, bucket: &Bucket, claim: &Compaction) -> Result<(), Failure> {
        let now = listed(bucket, &*self.clock, &claim.topic_partition()).await?;
        let counts = now.get(&claim.id()).is_some_and(|documents| documents.counts().is_some());
        if counts {
            let hold = self.hold_behind(bucket, claim, &now).await?;
            return hold.map_or(Ok(()), |hold| Err(Failure::new(Exit::Stopped, held(&hold))));
        }
        let what = format!(
            "compaction {}.{} was taken back by somebody else: no more of its old objects are deleted",
            claim.unit, claim.n
        );
        Err(Failure::new(Exit::Stopped, what))
    }

    /// Nothing more is done for a claim while somebody holds its unit, who may be giving it up.
    async fn check_not_held(&self, bucket: &Bucket, claim: &Compaction) -> Result<(), Failure> {
        let now = listed(bucket, &*self.clock, &claim.topic_partition()).await?;
        match self.hold_behind(bucket, claim, &now).await? {
            Some(hold) => Err(Failure::new(Exit::Stopped, held(&hold))),
            None => Ok(()),
        }
    }

    /// The first one behind `claim` that holds its unit.
    async fn hold_behind(
        &self,
        bucket: &Bucket,
        claim: &Compaction,
        now: &BTreeMap<CompactionId, ListedCompaction>,
    ) -> Result<Option<Compaction>, Failure> {
        let partition = claim.topic_partition();
        let later = now.iter().filter(|(id, documents)| id.0 == claim.unit && id.1 > claim.n && documents.is_open());
        for (id, _) in later {
            let read = || bucket.compaction_claim(&partition, id);
            let found = patiently(&*self.clock, "read a claim", read).await?;
            if let Some(hold) = found.filter(Compaction::is_hold) {
                return Ok(Some(hold));
            }
        }
        Ok(None)
    }

    pub(super) async fn delete_objects(&self, effect: Effect, id: &str, keys: &[String]) -> Result<(), Failure> {
        let destination = self.destination(id)?;
        let wrong = |error: crate::destination::DestinationError| Failure::new(Exit::Stopped, error.to_string());
        let paths = keys.iter().map(|key| destination.path(key)).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let deleted = requests::delete_all(effect, &**destination.store(), paths).await;
        deleted.map_err(|error| {
            store_failure(&format!("delete {} objects that were compacted at {id}", keys.len()), &error)
        })
    }

    /// Finishes what was begun, and deletes what counts no more. `false`: it cannot be finished, which is told.
    pub(super) async fn catch_up(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        id: &CompactionId,
        documents: &ListedCompaction,
        tell: Tell<'_>,
    ) -> Result<bool, Failure> {
        let outcome = if documents.has_lost_receipt() {
            self.vouch_again(work, partition, id, tell).await
        } else if documents.is_open() {
            self.finish(work, partition, id, tell).await
        } else if documents.counts().is_some() && (!documents.done || self.options.sweep) {
            self.sweep(work, partition, id, documents, tell).await
        } else if documents.undone {
            self.clear(work.site, partition, id, tell).await
        } else {
            Ok(())
        };
        match outcome {
            // What a dry run leaves open is in the way of nothing but its own numbers.
            Ok(()) => Ok(!(documents.is_open() && self.options.dry_run)),
            Err(failure) if matches!(failure.exit, Exit::Stopped | Exit::Config) => {
                let (partition, unit, n, why) = (partition.to_string(), id.0.clone(), id.1, failure.message);
                self.tell(Step::Stopped { partition, unit, n, why }, tell)?;
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The claim of a compaction, where it is there and of an output that is meant.
    async fn meant_claim(
        &self,
        bucket: &Bucket,
        partition: &TopicPartition,
        id: &CompactionId,
    ) -> Result<Option<Compaction>, Failure> {
        let what = format!("the claim of compaction {}.{}", id.0, id.1);
        let claim = patiently(&*self.clock, &what, || bucket.compaction_claim(partition, id)).await?;
        Ok(claim.filter(|claim| self.is_meant(&claim.output)))
    }

    /// Does what a claim says, whoever made it.
    async fn finish(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        id: &CompactionId,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let Some(claim) = self.meant_claim(&work.site.bucket, partition, id).await? else { return Ok(()) };
        if claim.is_hold() {
            return Err(Failure::new(Exit::Stopped, held(&claim)));
        }
        self.check_not_held(&work.site.bucket, &claim).await?;
        if self.options.dry_run {
            return self.tell(would_be_finished(&claim), tell);
        }
        for group in &claim.groups {
            if self.is_there(group).await? {
                continue;
            }
            match self.make_again(work, &claim, group).await {
                Ok(made) => self.upload(work.site, &claim, &made, false).await?,
                Err(failure) => {
                    // Whoever was at it, too, may have finished it, and deleted what it was made of.
                    let now = listed(&work.site.bucket, &*self.clock, partition).await?;
                    if now.get(id).is_some_and(|documents| !documents.is_open()) {
                        return Ok(());
                    }
                    return Err(failure);
                }
            }
        }
        self.check_not_held(&work.site.bucket, &claim).await?;
        self.switch(work.site, &claim, tell).await?;
        self.tell(compacted(&claim, true), tell)
    }

    /// Writes the receipt of a compaction again that was finished and has lost it, from its claim. Nothing is deleted: that was done, and what is there
    /// of it came back.
    async fn vouch_again(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        id: &CompactionId,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let site = work.site;
        let Some(claim) = self.meant_claim(&site.bucket, partition, id).await? else { return Ok(()) };
        let now = listed(&site.bucket, &*self.clock, partition).await?;
        let known = self.known(site, partition, &now, &id.0).await?;
        for group in &claim.groups {
            if !self.is_there_or_taken_in(&known, claim.n, group).await? {
                let what = format!(
                    "compaction {}.{} of {partition} was finished and has lost its receipt, and {} is not there as its claim says. Restore that \
                     object, and the receipt is written again; or take the compaction back: siltstone compact --undo {}.{} --yes",
                    claim.unit, claim.n, group.key, claim.unit, claim.n
                );
                return Err(Failure::new(Exit::Stopped, what));
            }
        }
        if self.options.dry_run {
            return self.tell(would_be_finished(&claim), tell);
        }
        self.vouch(site, &claim, tell).await?;
        self.tell(compacted(&claim, true), tell)
    }

    /// Whether the object of a group of number `n` is there, or what a later compaction that counts has made of it.
    async fn is_there_or_taken_in(&self, known: &[Known], n: u32, group: &Group) -> Result<bool, Failure> {
        let mut next = Some((n, group));
        while let Some((n, group)) = next {
            if self.is_there(group).await? {
                return Ok(true);
            }
            next = successor(known, n, &group.key);
        }
        Ok(false)
    }

    pub(super) fn is_meant(&self, output: &str) -> bool {
        self.options.output.as_deref().is_none_or(|meant| meant == output)
    }

    /// Makes the file of a claimed group once more.
    async fn make_again(
        &mut self,
        work: &mut Work<'_, '_>,
        claim: &Compaction,
        group: &Group,
    ) -> Result<Made, Failure> {
        let stopped = |why: String| {
            let text = format!(
                "compaction {}.{} of {}/{} was begun and not finished: {why}. Run the release that began it until it is finished, or give it up, \
                 which touches nothing but what it has put: siltstone compact --undo {} --yes",
                claim.unit,
                claim.n,
                claim.topic,
                claim.partition,
                name(&claim.unit, claim.n, true)
            );
            Failure::new(Exit::Stopped, text)
        };
        let layout = self.layout(work, &group.fingerprint).await?.map_err(stopped)?;
        let partition = claim.topic_partition();
        let source = Source {
            partition: &partition,
            output: &claim.output,
            layout: &layout,
            inputs: &group.inputs,
            destinations: &group.destinations,
            range: group.range(),
            target: group.target.as_deref(),
            to: group.to,
            by: group.proof.by,
        };
        let (file, format, _, dir) = match self.write_and_prove(source).await {
            Ok(written) => written,
            Err(Trouble::Left(why)) => return Err(stopped(why)),
            Err(Trouble::Failed(failure)) => return Err(failure),
        };
        if hex(&file.sha256) != group.sha256 {
            return Err(stopped(format!("{} comes out with other bytes than its claim says", group.key)));
        }
        Ok(Made { group: group.clone(), file, format, _dir: dir })
    }

    /// Whether the object of a group is at all its destinations, with its size and checksum.
    async fn is_there(&self, group: &Group) -> Result<bool, Failure> {
        for id in &group.destinations {
            let destination = self.destination(id)?;
            let look = || upload::is_there(destination, &group.key, group.bytes, Some(&group.sha256), Look::Bytes);
            if !patiently(&*self.clock, "look for a compacted object", look).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes what a finished compaction replaced and what is there still, or again.
    async fn sweep(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        id: &CompactionId,
        documents: &ListedCompaction,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let bucket = &work.site.bucket;
        let read = live::counting(bucket, &*self.clock, partition, id, documents).await?;
        let receipt = read.map_err(|why| Failure::new(Exit::Stopped, why))?;
        let Some(receipt) = receipt.filter(|receipt| self.is_meant(&receipt.compaction.output)) else { return Ok(()) };
        let claim = receipt.compaction;
        if receipt.given_up {
            // Whoever gave it up did not come to the end of it.
            return if self.options.dry_run { Ok(()) } else { self.withdraw(work.site, &claim, tell).await };
        }
        let there = self.inputs_there(&claim).await?;
        let objects = there.values().map(|keys| keys.len() as u64).sum();
        if objects > 0 {
            let (returned, dry_run) = (documents.done, self.options.dry_run);
            if !dry_run && job_of(bucket, &*self.clock, partition).await?.is_some() {
                return Ok(());
            }
            if !dry_run {
                self.check_replacements(bucket, &claim).await?;
                self.delete_replaced(bucket, &claim, &there).await?;
            }
            let (partition, unit, n) = (partition.to_string(), id.0.clone(), id.1);
            self.tell(Step::Deleted { partition, unit, n, objects, returned, dry_run }, tell)?;
        }
        if !documents.done && !self.options.dry_run {
            let end = || bucket.end_compaction(partition, id, self.clock.wall_ms());
            patiently(&*self.clock, "say that a compaction is done", end).await?;
        }
        Ok(())
    }

    /// Nothing is deleted while what replaces it is not there (C-3), be it what a later compaction made of it.
    async fn check_replacements(&self, bucket: &Bucket, claim: &Compaction) -> Result<(), Failure> {
        let (live, damaged) =
            Live::read_tolerantly(bucket, &*self.clock, &claim.topic_partition(), claim.range()).await?;
        if let Some(doubtful) = damaged.into_iter().find(|of| of.id.0 == claim.unit) {
            return Err(Failure::new(Exit::Stopped, doubtful.why));
        }
        let mut replacements = BTreeSet::new();
        for &(first, _) in claim.groups.iter().flat_map(|group| &group.batches) {
            let of_unit = |index: &usize| live.compacted()[*index].id.0 == claim.unit;
            let of_batch: Vec<usize> = live.of_batch(first).filter(of_unit).collect();
            replacements.extend(of_batch.iter().copied());
            if of_batch.is_empty() {
                let what = format!(
                    "nothing counts in place of the objects that compaction {}.{} replaced: they are not deleted",
                    claim.unit, claim.n
                );
                return Err(Failure::new(Exit::Stopped, what));
            }
        }
        for now in replacements.into_iter().map(|index| &live.compacted()[index]) {
            if !self.is_there(&now.group).await? {
                let what = format!(
                    "{} is not there as its receipt says, and replaces objects that are still there: nothing of them is deleted. Restore it, or \
                     take the compaction back: siltstone compact --undo {}.{} --yes",
                    now.group.key, now.id.0, now.id.1
                );
                return Err(Failure::new(Exit::Stopped, what));
            }
        }
        Ok(())
    }

    /// The inputs that are in their folder, with the size that they had, by destination.
    async fn inputs_there(&self, claim: &Compaction) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        let mut there: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let inputs = claim.groups.iter().flat_map(|group| &group.inputs);
        let sizes: BTreeMap<&str, u64> = inputs.map(|input| (input.key.as_str(), input.bytes)).collect();
        for id in inputs_by_destination(claim).into_keys() {
            for (key, bytes) in self.sizes_in(&id, &claim.folder).await? {
                if sizes.get(key.as_str()) == Some(&bytes) {
                    there.entry(id.clone()).or_default().push(key);
                }
            }
        }
        Ok(there)
    }

    /// The objects of a folder of the destination `id`, with their sizes.
    pub(super) async fn sizes_in(&self, id: &str, folder: &str) -> Result<Vec<(String, u64)>, Failure> {
        let destination = self.destination(id)?;
        let path = match folder {
            "" => Some(destination.prefix().clone()).filter(|prefix| !prefix.is_root()),
            folder => Some(destination.path(folder).map_err(|error| Failure::new(Exit::Stopped, error.to_string()))?),
        };
        let objects = match destination.store().list_with_delimiter(path.as_ref()).await {
            Ok(listed) => listed.objects,
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(store_failure(&format!("list {id}/{folder}"), &error)),
        };
        let sized = |object: object_store::ObjectMeta| Some((destination.key_of(&object.location)?, object.size));
        Ok(objects.into_iter().filter_map(sized).collect())
    }
}

/// Why a unit that is held is left alone, and what to do.
fn held(claim: &Compaction) -> String {
    let unit = &claim.unit;
    match &claim.hold {
        Some(hold) => format!(
            "the unit {unit} is left alone: compaction {unit}.{} is being taken back, or was when the process ended that did it. Where none does it any \
             more, this finishes it: siltstone compact --undo {} --yes; and this gives up the wish where nothing is taken back yet: siltstone \
             compact --undo {unit}.{} --yes",
            hold.of,
            name(unit, hold.of, hold.alone),
            claim.n
        ),
        None => format!(
            "the unit {unit} is left alone: a compaction of it is being taken back by an earlier release, or was when the process ended that did it. Say \
             there again what was said; or where none does it any more, this gives up the wish and takes nothing back: siltstone compact --undo \
             {unit}.{} --yes",
            claim.n
        ),
    }
}

fn would_be_finished(claim: &Compaction) -> Step {
    let mut step = compacted(claim, true);
    if let Step::Compacted { dry_run, .. } = &mut step {
        *dry_run = true;
    }
    step
}

fn inputs_by_destination(claim: &Compaction) -> BTreeMap<String, Vec<String>> {
    let mut by_destination: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for group in &claim.groups {
        for id in &group.destinations {
            let keys = group.inputs.iter().map(|input| input.key.clone());
            by_destination.entry(id.clone()).or_default().extend(keys);
        }
    }
    by_destination
}
