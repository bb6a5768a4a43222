//! Taking a compaction back: the old objects count again, and are to be archived again from Kafka, as they were deleted.
//!
//! For whoever finds that a compacted object is lost or damaged while Kafka still holds its records; and to give up a claim that cannot be finished,
//! which costs nothing, as its old objects are all there. Which are taken back together is said in [`super::chain`].
//!
//! An object that counts no more is deleted only once its rows are there without it: until they are archived again it may be their only copy. What stays
//! for that is told, and deleted by whoever says it again, or by the next run.
//!
//! # Beside a compactor
//! - **C-6** Before anything of a unit is taken back its next number is held (K-5), and its compactions are listed once more. So a compactor that
//!   planned with objects of the unit finds the number taken, and one that comes later leaves the unit alone, until all of it is taken back: nothing
//!   that counts is ever made of objects that do not, and no row counts twice. A process that is killed in between leaves the hold; to say it again
//!   goes on.
//! - Of a claim that a compactor is finishing, the first one to put the receipt decides (K-6). Where that was the compactor, nothing more of the
//!   unit is taken back: whoever asked did not know of it.
//! - Whether the old objects of a compaction with a receipt are still there is not decided by anything: a compactor may be deleting them at that
//!   moment, as it may have done the day before. It looks for a hold and for the mark right before; after that it goes on. Readers of receipts miss
//!   those rows then and do not see others twice, and `verify` names them, as after any compaction that is taken back.

use super::chain::{Found, Known, State, chosen};
use super::step::{Step, Tell};
use super::work::{Compactor, listed};
use crate::bucket::compactions::{
    Compaction, CompactionId, CompactionOutcome, CompactionReceipt, Group, Input, ListedCompaction,
};
use crate::effect::Effect;
use crate::exit::{Exit, Failure};
use crate::ledger::Site;
use crate::pipeline::start::patiently;
use crate::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};

/// The documents of a Kafka partition's compactions, as a listing shows them.
type Listed = BTreeMap<CompactionId, ListedCompaction>;

/// Those that only hold the unit, and the others.
fn without_holds(known: Vec<Known>) -> (Vec<Known>, Vec<Known>) {
    known.into_iter().partition(|known| known.compaction.is_hold())
}

/// What became of the objects of a compaction that counts no more, by key.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Deleted, or to be.
    pub(super) deleted: Vec<String>,
    /// They stay, as their rows are not there without them.
    pub(super) kept: Vec<String>,
}

/// Numbers of a unit that may be taken by others before one is held.
const HOLD_TRIES: u32 = 20;

impl Compactor<'_> {
    /// Takes back what `wanted` means: a unit, of which the newest compaction is meant, unit and number, or the key of an object that one has made or
    /// replaced; and what hangs together with it. With a dry run it is only said what that means.
    ///
    /// # Errors
    /// A store that refuses or does not answer. [`Exit::Config`]: there is no such compaction.
    pub async fn undo(&mut self, wanted: &str, tell: Tell<'_>) -> Result<(), Failure> {
        let destinations = self.destinations.clone();
        let mut is_found = false;
        for site in self.sites(&destinations).await? {
            for partition in &site.partitions {
                let listed = listed(&site.bucket, &*self.clock, partition).await?;
                let units: BTreeSet<&String> = listed.keys().map(|(unit, _)| unit).collect();
                for unit in units {
                    let known = match self.known(&site, partition, &listed, unit).await {
                        Ok(known) => known,
                        // What is damaged of another unit is in nobody's way.
                        Err(failure) if failure.exit == Exit::Stopped && !wanted.starts_with(unit.as_str()) => {
                            tracing::warn!("{}", failure.message);
                            continue;
                        }
                        Err(failure) => return Err(failure),
                    };
                    let (_, known) = without_holds(known);
                    let meant = chosen(&known, wanted);
                    let Some(newest) = known.last().filter(|_| !meant.is_empty()) else { continue };
                    is_found = true;
                    if self.options.dry_run {
                        self.take_back(&site, known, meant, tell).await?;
                        continue;
                    }
                    // Not what somebody claims meanwhile.
                    let named = format!("{unit}.{}", newest.compaction.n);
                    let wanted = if wanted == unit { named.as_str() } else { wanted };
                    self.take_back_held(&site, (partition, unit), wanted, tell).await?;
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

    /// The compactions of `unit`, by number. Where a receipt is damaged its claim tells the same.
    async fn known(
        &self,
        site: &Site<'_>,
        partition: &TopicPartition,
        listed: &Listed,
        unit: &str,
    ) -> Result<Vec<Known>, Failure> {
        let mut known = Vec::new();
        for (id, documents) in listed.iter().filter(|((of, _), _)| of == unit) {
            let (bucket, what) = (&site.bucket, format!("compaction {}.{}", id.0, id.1));
            let read = match documents.receipt {
                Some(range) => patiently(&*self.clock, &what, || bucket.compaction_receipt(partition, id, range)).await,
                None => Ok(None),
            };
            let (compaction, is_given_up) = match read {
                Ok(Some(receipt)) => (Some(receipt.compaction), receipt.given_up),
                Err(failure) if failure.exit != Exit::Stopped => return Err(failure),
                Ok(None) | Err(_) => {
                    let claim = patiently(&*self.clock, &what, || bucket.compaction_claim(partition, id)).await?;
                    (claim, documents.undone && documents.receipt.is_none())
                }
            };
            let state = match () {
                () if documents.is_open() => State::Open,
                () if is_given_up => State::GivenUp,
                () if documents.undone => State::Undone,
                () => State::Counts,
            };
            known.extend(compaction.map(|compaction| Known { compaction, state }));
        }
        Ok(known)
    }

    /// Takes back what `wanted` means of a unit, while its next number is held.
    async fn take_back_held(
        &mut self,
        site: &Site<'_>,
        (partition, unit): (&TopicPartition, &str),
        wanted: &str,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let (hold, known) = self.hold(site, partition, unit).await?;
        let (holds, known) = without_holds(known);
        let meant = chosen(&known, wanted);
        self.take_back(site, known, meant, tell).await?;
        // Another hold may be of a process that was killed, or of one beside us: what both do is the same.
        for held in holds.iter().filter(|held| held.state == State::Open).map(|held| &held.compaction).chain([&hold]) {
            self.give_up(site, held).await?;
            self.mark(site, held).await?;
        }
        Ok(())
    }

    /// Holds the next number of a unit, and gives the hold with what the unit is then.
    async fn hold(
        &self,
        site: &Site<'_>,
        partition: &TopicPartition,
        unit: &str,
    ) -> Result<(Compaction, Vec<Known>), Failure> {
        let (clock, what) = (self.clock.clone(), format!("hold the unit {unit} of {partition}"));
        let known = async || self.known(site, partition, &listed(&site.bucket, &*clock, partition).await?, unit).await;
        let mut before = known().await?;
        for _ in 0..HOLD_TRIES {
            let Some(last) = before.last() else { break };
            let hold = last.compaction.to_hold(last.compaction.n.saturating_add(1));
            let claimed = patiently(&*self.clock, &what, || site.bucket.claim_compaction(&hold)).await?;
            before = known().await?;
            if claimed != CompactionOutcome::Other {
                before.retain(|known| known.compaction.n < hold.n);
                return Ok((hold, before));
            }
        }
        let what =
            "take a compaction back: others claim one number of the unit after the other; stop them, and say it again";
        Err(Failure::new(Exit::Stopped, what))
    }

    /// Takes back those of `known` at the places `meant`, the newest first: all are marked before anything is deleted.
    async fn take_back(
        &mut self,
        site: &Site<'_>,
        mut known: Vec<Known>,
        meant: Vec<usize>,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let dry_run = self.options.dry_run;
        for &at in &meant {
            let Known { compaction, state } = &known[at];
            if !dry_run {
                if *state == State::Open && !self.give_up(site, compaction).await? {
                    let (partition, (unit, n)) = (compaction.topic_partition().to_string(), compaction.id());
                    let why = "it was finished at this moment, so nothing more of the unit is taken back: look again whether it is to be"
                        .to_string();
                    return self.tell(Step::Stopped { partition, unit, n, why }, tell);
                }
                self.mark(site, compaction).await?;
            }
            known[at].state = state.taken_back();
        }
        let found = match meant.is_empty() {
            true => BTreeMap::new(),
            false => self.found(site, &known).await?,
        };
        for at in meant {
            let settled = self.settle(&known, at, &found).await?;
            self.tell(undone(&known[at], settled, dry_run), tell)?;
        }
        Ok(())
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

    /// Marks a compaction as taken back. To do it again is the same.
    async fn mark(&self, site: &Site<'_>, compaction: &Compaction) -> Result<(), Failure> {
        let (bucket, partition, id) = (&site.bucket, compaction.topic_partition(), compaction.id());
        let mark = || bucket.undo_compaction(&partition, &id, self.clock.wall_ms());
        patiently(&*self.clock, "take a compaction back", mark).await
    }

    /// Marks a compaction that somebody gave up, and did not come to the end of it.
    pub(super) async fn withdraw(
        &mut self,
        site: &Site<'_>,
        compaction: &Compaction,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        self.mark(site, compaction).await?;
        self.clear(site, &compaction.topic_partition(), &compaction.id(), tell).await
    }

    /// Deletes what a compaction that was taken back has left, as far as its rows are there without it. Tells of it only where there is something.
    pub(super) async fn clear(
        &mut self,
        site: &Site<'_>,
        partition: &TopicPartition,
        id: &CompactionId,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let listed = listed(&site.bucket, &*self.clock, partition).await?;
        let known = self.known(site, partition, &listed, &id.0).await?;
        let is_it = |known: &Known| known.compaction.n == id.1 && known.state == known.state.taken_back();
        let Some(at) = known.iter().position(is_it) else { return Ok(()) };
        if !self.is_meant(&known[at].compaction.output) {
            return Ok(());
        }
        let found = self.found(site, &known).await?;
        let own = || known[at].compaction.groups.iter();
        if !own().any(|group| found.values().any(|found| found.listed.contains(&group.key))) {
            return Ok(());
        }
        let settled = self.settle(&known, at, &found).await?;
        if settled.deleted.is_empty() {
            return Ok(());
        }
        self.tell(undone(&known[at], settled, self.options.dry_run), tell)
    }

    /// Deletes those objects of `known[at]`, which counts no more, whose rows are there without them.
    async fn settle(&self, known: &[Known], at: usize, found: &BTreeMap<String, Found>) -> Result<Settled, Failure> {
        let Compaction { groups, n, .. } = &known[at].compaction;
        let (mut deletes, mut kept): (BTreeMap<&String, Vec<String>>, BTreeSet<&String>) = Default::default();
        let mut deleted = BTreeSet::new();
        for group in groups {
            for destination in &group.destinations {
                let Some(there) = found.get(destination) else { continue };
                if there.has_rows_of(known, group, *n) {
                    deletes.entry(destination).or_default().push(group.key.clone());
                    deleted.insert(&group.key);
                } else if there.listed.contains(&group.key) {
                    kept.insert(&group.key);
                }
            }
        }
        if !self.options.dry_run {
            for (destination, keys) in deletes {
                self.delete_objects(Effect::CompactedDelete, destination, &keys).await?;
            }
        }
        let deleted = deleted.difference(&kept).map(|key| key.to_string()).collect();
        Ok(Settled { deleted, kept: kept.into_iter().cloned().collect() })
    }

    /// What there is of the objects of `known`, and of what they were made of, at each destination.
    async fn found(&self, site: &Site<'_>, known: &[Known]) -> Result<BTreeMap<String, Found>, Failure> {
        let mut by_destination: BTreeMap<String, Found> = BTreeMap::new();
        let groups = || known.iter().flat_map(|known| &known.compaction.groups);
        let made: BTreeMap<&str, u64> = groups().map(|group| (group.key.as_str(), group.bytes)).collect();
        for id in groups().flat_map(|group| &group.destinations) {
            if by_destination.contains_key(id) {
                continue;
            }
            let folders: BTreeSet<&str> = known.iter().map(|known| known.compaction.folder.as_str()).collect();
            let mut sizes = BTreeMap::new();
            for folder in folders {
                sizes.extend(self.sizes_in(id, folder).await?);
            }
            let mut found = Found::default();
            let here = |group: &&Group| group.destinations.contains(id);
            for (key, bytes) in made.iter().filter(|(key, _)| sizes.contains_key(**key)) {
                found.listed.insert(key.to_string());
                if sizes.get(*key) == Some(bytes) {
                    found.whole.insert(key.to_string());
                }
            }
            for known in known {
                let partition = known.compaction.topic_partition();
                for input in known.compaction.groups.iter().filter(here).flat_map(|group| &group.inputs) {
                    let Some(&bytes) = sizes.get(&input.key) else { continue };
                    if bytes == input.bytes
                        || (!made.contains_key(input.key.as_str())
                            && self.is_vouched_for(site, &partition, (id, input), bytes).await?)
                    {
                        found.whole.insert(input.key.clone());
                    }
                }
            }
            by_destination.insert(id.clone(), found);
        }
        Ok(by_destination)
    }

    /// Whether the receipt of its batch says that an object has `bytes` bytes, and no fewer rows than it had: another release has archived it again.
    async fn is_vouched_for(
        &self,
        site: &Site<'_>,
        partition: &TopicPartition,
        (destination, input): (&str, &Input),
        bytes: u64,
    ) -> Result<bool, Failure> {
        let (bucket, what) = (&site.bucket, format!("{partition}: the receipt of {}", input.first));
        let receipt = patiently(&*self.clock, &what, || bucket.receipt(partition, input.first)).await?;
        let objects = receipt.map(|receipt| receipt.objects).unwrap_or_default();
        Ok(objects.iter().any(|object| {
            object.place() == (destination, input.key.as_str())
                && object.bytes == bytes
                && object.rows >= Some(input.rows)
        }))
    }
}

fn undone(Known { compaction, state }: &Known, settled: Settled, dry_run: bool) -> Step {
    let inputs = compaction.groups.iter().flat_map(|group| &group.inputs).map(|input| input.key.clone()).collect();
    let (partition, (unit, n)) = (compaction.topic_partition().to_string(), compaction.id());
    let Settled { deleted: keys, kept } = settled;
    Step::Undone { partition, unit, n, inputs, keys, kept, given_up: *state == State::GivenUp, dry_run }
}
