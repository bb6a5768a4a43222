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
//!   that counts is ever made of objects that do not, and no row counts twice. The hold is released whatever comes of it: as the newest is taken back
//!   first, what counts then is made of nothing that does not. A process that is killed in between leaves the hold, which says what it was for: to
//!   say that again goes on.
//! - Of a claim that a compactor is finishing, the first one to put the receipt decides (K-6). Where that was the compactor, nothing more of the
//!   unit is taken back: whoever asked did not know of it.
//! - **C-7** Whether the old objects of a compaction with a receipt are still there is not decided by anything: a compactor may be deleting them at that
//!   moment, or one that sweeps those that came back. Both look for a hold and for the mark right before; after that they go on. So a new object that
//!   counted is not deleted by whoever has just taken it back, though all that it was made of is there: it rests first ([`super::chain`]). Readers of
//!   receipts miss those old objects then and do not see others twice, and `verify` names them, as after any compaction that is taken back.
//!
//! # Beside another who takes back
//! Each has a hold of its own, and releases no other, but those for the same compaction with a lower number, which may be of processes that were killed; and
//! these only when all that hangs together with it is marked. If the process of such a hold lives, its hold is for nothing any more:
//! - Both know the same compactions: from the lower hold on no number is claimed but for holds.
//! - Both take back the same ones: what hangs together is a matter of objects. Only an open claim can become something else meanwhile. It is the newest, so
//!   each of the two decides on it before all others: where it was finished first, the one that means it marks nothing; where it was given up first, it
//!   means no more to the other one.
//! - So all that the lower one has still to mark is marked. What it deletes has its rows elsewhere, and what is compacted from now on takes none away: a new
//!   object is seen before old ones go.
//!
//! The lower one releases no higher hold: that process may have read a claim's end later, and be in the middle.
//!
//! A hold that was left for another compaction stays, and keeps compactors away, until that is said again.

use super::chain::{Found, Known, State, chosen, meant, number_in};
use super::step::{Step, Tell};
use super::work::{Compactor, listed};
use crate::bucket::Bucket;
use crate::bucket::compactions::{Compaction, CompactionId, CompactionOutcome, Group, Hold, Input, ListedCompaction};
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
    /// They stay, as their rows are not there without them, or may not be in a moment.
    pub(super) kept: Vec<String>,
    /// Until then they stay whatever is there.
    pub(super) kept_until_ms: Option<i64>,
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
                    let (holds, known) = without_holds(known);
                    let is_named = |hold: &Known| number_in(wanted, unit) == Some(hold.compaction.n);
                    let hold = holds.into_iter().find(|hold| hold.state == State::Open && is_named(hold));
                    let of = match hold {
                        // To say it of a hold is to say it of what that was made for.
                        Some(Known { compaction: Compaction { hold: Some(hold), .. }, .. }) => Some(hold.of),
                        Some(hold) => {
                            is_found = true;
                            self.let_go(&site, hold, tell).await?;
                            continue;
                        }
                        None => meant(&known, wanted),
                    };
                    let Some(of) = of else { continue };
                    is_found = true;
                    // From here on it is that number, and not what somebody claims meanwhile.
                    self.summary.meant.push(format!("{unit}.{of}"));
                    match self.options.dry_run {
                        true => self.would_take_back(&site, known, of, tell).await?,
                        false => self.take_back(&site, (partition, unit), of, tell).await?,
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

    /// The compactions of `unit`, by number. Where a receipt is damaged or lost its claim tells the same.
    pub(super) async fn known(
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
            let (compaction, given_up) = match read {
                Ok(Some(receipt)) => (Some(receipt.compaction), Some(receipt.given_up)),
                Err(failure) if failure.exit != Exit::Stopped => return Err(failure),
                Ok(None) | Err(_) => {
                    (patiently(&*self.clock, &what, || bucket.compaction_claim(partition, id)).await?, None)
                }
            };
            let never_had_a_receipt = documents.receipt.is_none() && !documents.done;
            let state = match given_up {
                Some(true) => State::GivenUp,
                None if never_had_a_receipt && documents.undone => State::GivenUp,
                None if never_had_a_receipt => State::Open,
                _ if documents.undone => State::Undone,
                _ => State::Counts,
            };
            let is_done = documents.done || given_up == Some(true) || state == State::Open;
            let marked_ms = match documents.undone && given_up != Some(true) {
                true => self.marked_ms(bucket, partition, id).await?,
                false => None,
            };
            known.extend(compaction.map(|compaction| Known { compaction, state, is_done, marked_ms }));
        }
        Ok(known)
    }

    /// When a compaction was taken back. Where the mark cannot be read nobody knows, and it may have been at this moment.
    async fn marked_ms(
        &self,
        bucket: &Bucket,
        partition: &TopicPartition,
        id: &CompactionId,
    ) -> Result<Option<i64>, Failure> {
        let what = format!("the mark that compaction {}.{} was taken back", id.0, id.1);
        match patiently(&*self.clock, &what, || bucket.compaction_undone_ms(partition, id)).await {
            Err(failure) if failure.exit == Exit::Stopped => {
                tracing::warn!("{}: move it away and take the compaction back again", failure.message);
                Ok(Some(self.clock.wall_ms()))
            }
            read => read,
        }
    }

    /// Says what it would be to take back number `of` of a unit.
    async fn would_take_back(
        &mut self,
        site: &Site<'_>,
        mut known: Vec<Known>,
        of: u32,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let chosen = chosen(&known, of);
        let now_ms = self.clock.wall_ms();
        chosen.iter().for_each(|&at| known[at].take_back(now_ms));
        self.settle_all(site, &known, chosen, tell).await
    }

    /// Takes back number `of` of a unit, and what hangs together with it, while the unit's next number is held.
    async fn take_back(
        &mut self,
        site: &Site<'_>,
        (partition, unit): (&TopicPartition, &str),
        of: u32,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let hold = self.hold(site, partition, unit, of).await?;
        let mut over = vec![hold.clone()];
        let mut outcome = self.take_back_behind(site, &hold, (of, &mut over), tell).await;
        // Whatever came of it: who is killed leaves his hold, and nobody else.
        for hold in &over {
            let Err(failure) = self.release(site, hold).await else { continue };
            match outcome.is_ok() {
                true => outcome = Err(failure),
                false => tracing::warn!("{}: it is left alone until this is said again", failure.message),
            }
        }
        outcome
    }

    /// Takes it back behind `hold`; holds that are to be released then are put into `over`.
    async fn take_back_behind(
        &mut self,
        site: &Site<'_>,
        hold: &Compaction,
        (of, over): (u32, &mut Vec<Compaction>),
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let partition = hold.topic_partition();
        let listed = listed(&site.bucket, &*self.clock, &partition).await?;
        let mut known = self.known(site, &partition, &listed, &hold.unit).await?;
        known.retain(|known| known.compaction.n < hold.n);
        let (holds, mut known) = without_holds(known);
        let chosen = chosen(&known, of);
        if !self.mark_all(site, &mut known, &chosen, tell).await? {
            return Ok(());
        }
        let same = |other: &Known| other.compaction.hold.as_ref().is_some_and(|hold| hold.of == of);
        let left = holds.into_iter().filter(|hold| hold.state == State::Open && same(hold));
        over.extend(left.map(|hold| hold.compaction));
        self.settle_all(site, &known, chosen, tell).await
    }

    /// Holds the next number of a unit.
    async fn hold(
        &self,
        site: &Site<'_>,
        partition: &TopicPartition,
        unit: &str,
        of: u32,
    ) -> Result<Compaction, Failure> {
        let (clock, what) = (self.clock.clone(), format!("hold the unit {unit} of {partition}"));
        for _ in 0..HOLD_TRIES {
            let listed = listed(&site.bucket, &*clock, partition).await?;
            let known = self.known(site, partition, &listed, unit).await?;
            let Some(Known { compaction: last, .. }) = known.last() else { break };
            let hold = last.to_hold(last.n.saturating_add(1), Hold { of, by: self.process.clone() });
            match patiently(&*clock, &what, || site.bucket.claim_compaction(&hold)).await? {
                CompactionOutcome::Created | CompactionOutcome::Same => return Ok(hold),
                CompactionOutcome::Other => {}
            }
        }
        let what =
            "take a compaction back: others claim one number of the unit after the other; stop them, and say it again";
        Err(Failure::new(Exit::Stopped, what))
    }

    /// Ends a hold: the unit may be compacted again.
    async fn release(&self, site: &Site<'_>, hold: &Compaction) -> Result<(), Failure> {
        let ended = async {
            self.give_up(site, hold).await?;
            self.mark(site, hold).await
        };
        ended.await.map_err(|failure| {
            let what = format!("release the unit {}: {}", hold.unit, failure.message);
            Failure::new(failure.exit, what)
        })
    }

    /// Ends a hold of which nobody knows what it was made for.
    async fn let_go(&mut self, site: &Site<'_>, mut hold: Known, tell: Tell<'_>) -> Result<(), Failure> {
        let dry_run = self.options.dry_run;
        let (unit, n) = hold.compaction.id();
        self.summary.meant.push(format!("{unit}.{n}"));
        if !dry_run {
            self.release(site, &hold.compaction).await?;
        }
        hold.take_back(self.clock.wall_ms());
        self.tell(undone(&hold, Settled::default(), dry_run), tell)
    }

    /// Marks those of `known` at the places `chosen` as taken back, the newest first. `false`: one was finished at this moment, which is told.
    async fn mark_all(
        &mut self,
        site: &Site<'_>,
        known: &mut [Known],
        chosen: &[usize],
        tell: Tell<'_>,
    ) -> Result<bool, Failure> {
        for &at in chosen {
            let Known { compaction, state, .. } = &known[at];
            if *state == State::Open && !self.give_up(site, compaction).await? {
                let (partition, (unit, n)) = (compaction.topic_partition().to_string(), compaction.id());
                let why = format!(
                    "compaction {unit}.{n} was finished at this moment, so nothing more of the unit is taken back: look again whether it is to be"
                );
                self.tell(Step::Stopped { partition, unit, n, why }, tell)?;
                return Ok(false);
            }
            self.mark(site, compaction).await?;
            known[at].take_back(self.clock.wall_ms());
        }
        Ok(true)
    }

    /// Deletes of those at the places `chosen`, which count no more, what is not needed any more, and tells of each.
    async fn settle_all(
        &mut self,
        site: &Site<'_>,
        known: &[Known],
        chosen: Vec<usize>,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let found = self.found(site, known).await?;
        for at in chosen {
            let settled = self.settle(known, at, &found).await?;
            self.tell(undone(&known[at], settled, self.options.dry_run), tell)?;
        }
        Ok(())
    }

    /// Says of a claim without receipt that it is given up. `false`: it has its receipt now.
    async fn give_up(&self, site: &Site<'_>, compaction: &Compaction) -> Result<bool, Failure> {
        let receipt = self.receipt_of(compaction, true);
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
        if known[at].compaction.is_hold() || !self.is_meant(&known[at].compaction.output) {
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

    /// Deletes those objects of `known[at]`, which counts no more, whose rows are there without them; none while it rests.
    async fn settle(&self, known: &[Known], at: usize, found: &BTreeMap<String, Found>) -> Result<Settled, Failure> {
        let Compaction { groups, n, .. } = &known[at].compaction;
        let rests_until = self.rests_until(&known[at]);
        let (mut deletes, mut kept): (BTreeMap<&String, Vec<String>>, BTreeSet<&String>) = Default::default();
        let mut deleted = BTreeSet::new();
        for group in groups {
            for destination in &group.destinations {
                let Some(there) = found.get(destination) else { continue };
                if rests_until.is_none() && there.has_rows_of(known, group, *n) {
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
        let kept_until_ms = rests_until.filter(|_| !kept.is_empty());
        Ok(Settled { deleted, kept: kept.into_iter().cloned().collect(), kept_until_ms })
    }

    fn rests_until(&self, known: &Known) -> Option<i64> {
        known.rests_until(self.clock.wall_ms(), self.options.min_age_ms)
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
                let inputs = || known.compaction.groups.iter().filter(here).flat_map(|group| &group.inputs);
                if self.rests_until(known).is_some() {
                    found.at_risk.extend(inputs().map(|input| input.key.clone()));
                }
                for input in inputs() {
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

fn undone(Known { compaction, state, .. }: &Known, settled: Settled, dry_run: bool) -> Step {
    let inputs = compaction.groups.iter().flat_map(|group| &group.inputs).map(|input| input.key.clone()).collect();
    let (partition, (unit, n)) = (compaction.topic_partition().to_string(), compaction.id());
    let Settled { deleted: keys, kept, kept_until_ms } = settled;
    let given_up = *state == State::GivenUp;
    Step::Undone { partition, unit, n, inputs, keys, kept, kept_until_ms, given_up, dry_run }
}
