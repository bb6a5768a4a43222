//! From the receipts of a Kafka partition to claims, unit by unit. Crash-safe at each point, see [`super`].

use super::Options;
use super::plan::{Planned, Rules, claims, groups};
use super::step::{Step, Summary, Tell, compacted};
use super::unit::{Age, KnownNames, Names, Unit, Units};
use crate::bucket::Bucket;
use crate::bucket::compactions::{COMPACTION_VERSION, Compaction, CompactionId, CompactionOutcome, ListedCompaction};
use crate::bucket::jobs::Job;
use crate::bucket::receipt::Receipt;
use crate::clock::Clock;
use crate::config::{Config, MemoryShares};
use crate::destination::Destination;
use crate::destination::fault::{Fault, Verdict};
use crate::exit::{Exit, Failure};
use crate::layout::Layout;
use crate::ledger::live::{Doubtful, Live};
use crate::ledger::{self, Destinations, Site};
use crate::pipeline::start::{chain, patiently};
use crate::reader::plan::ALL_OFFSETS;
use crate::record::TopicPartition;
use crate::replay::layouts::Layouts;
use crate::spool::{Spool, process_number};
use crate::upload::{UploadSettings, room_for_pieces};
use futures::TryStreamExt;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Compacts a configuration's archives.
pub struct Compactor<'c> {
    pub(super) config: &'c Config,
    pub(super) destinations: Destinations,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: Options,
    pub(super) spool: Spool,
    pub(super) settings: UploadSettings,
    /// This process, to others that take the same unit back.
    pub(super) process: String,
    /// What was done so far.
    pub summary: Summary,
}

/// What is known of an archive while it is compacted.
pub(super) struct Work<'s, 'c> {
    pub(super) site: &'s Site<'c>,
    layouts: Layouts,
    pub(super) names: KnownNames,
}

impl<'c> Compactor<'c> {
    /// Ready to compact.
    ///
    /// # Errors
    /// The spool cannot be had, or has no room for what is asked for.
    pub fn new(
        config: &'c Config,
        destinations: Destinations,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<Self, Failure> {
        if options.target_bytes > config.spool.limit / 3 {
            let what = format!(
                "--target-size of {} bytes: the spool holds the old objects and the new one, and its limit is {} bytes; at most a third \
                 of that is possible. Raise [spool] limit, or ask for less",
                options.target_bytes, config.spool.limit
            );
            return Err(Failure::new(Exit::Config, what));
        }
        let spool = Spool::open(&config.spool.dir, config.spool.limit, process_number());
        let spool = spool.map_err(|error| Failure::new(Exit::Config, chain(&error)))?;
        let upload = MemoryShares::of(config.memory.budget).upload_to_each(destinations.len());
        let rooms = destinations.values().map(|destination| room_for_pieces(destination.kind(), upload));
        let upload = rooms.min().unwrap_or(upload);
        let settings = UploadSettings::within(config.upload.part_size.min(upload), upload);
        let process = format!("{:016x}", process_number());
        Ok(Self { config, destinations, clock, options, spool, settings, process, summary: Summary::default() })
    }

    /// Compacts what the options mean; `tell` hears of each step. What was begun before is finished first. To do it again is always safe, and
    /// goes on where this one stopped.
    ///
    /// # Errors
    /// A store that refuses or does not answer, a configuration that does not fit. Nothing is lost, and nothing doubled.
    pub async fn run(&mut self, tell: Tell<'_>) -> Result<(), Failure> {
        let (clock, destinations) = (self.clock.clone(), self.destinations.clone());
        for site in self.sites(&destinations).await? {
            let mut work = Work { site: &site, layouts: Layouts::new(&site.archive.layout), names: KnownNames::new() };
            for partition in &site.partitions {
                if let Some(job) = job_of(&site.bucket, &*clock, partition).await? {
                    let why = format!("the backfill {job} has ranges of it and has not ended");
                    self.tell(Step::Skipped { partition: partition.to_string(), why }, tell)?;
                    continue;
                }
                self.compact_partition(&mut work, partition, tell).await?;
            }
        }
        Ok(())
    }

    /// The archives and Kafka partitions that are meant.
    pub(super) async fn sites(&self, destinations: &Destinations) -> Result<Vec<Site<'c>>, Failure> {
        let options = &self.options;
        let takes = |partition: &TopicPartition| {
            options.topic.as_deref().is_none_or(|topic| topic == &*partition.topic)
                && (options.partitions.is_empty()
                    || options.partitions.iter().any(|range| range.contains(&partition.partition)))
        };
        let sites = ledger::sites(self.config, destinations, &*self.clock, options.archive.as_deref(), takes).await?;
        if !options.dry_run {
            for site in &sites {
                let can = site.bucket.check_can_compact();
                can.map_err(|error| Failure::new(Exit::Config, format!("archive {}: {error}", site.archive.name)))?;
            }
        }
        Ok(sites)
    }

    pub(super) fn tell(&mut self, step: Step, tell: Tell<'_>) -> Result<(), Failure> {
        self.summary.add(&step);
        tell(step)
    }

    async fn compact_partition(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let (site, clock) = (work.site, self.clock.clone());
        let listed = listed(&site.bucket, &*clock, partition).await?;
        // Units whose last compaction cannot be finished take no further one.
        let mut stuck = HashSet::new();
        for (id, documents) in &listed {
            if !self.catch_up(work, partition, id, documents, tell).await? {
                stuck.insert(id.0.clone());
            }
        }
        let (live, damaged) = Live::read_tolerantly(&site.bucket, &*clock, partition, ALL_OFFSETS).await?;
        for Doubtful { id: (unit, n), why, .. } in damaged {
            if stuck.insert(unit.clone()) {
                self.tell(Step::Stopped { partition: partition.to_string(), unit, n, why }, tell)?;
            }
        }
        let mut numbers = numbers(&listed);
        let now = clock.wall_ms();
        let youngest = now.saturating_sub(self.options.min_age_ms);
        let age = Age { windows_ms: self.options.before_ms.min(youngest), receipts_ms: youngest };
        let mut units = Units::default();
        for compacted in live.compacted() {
            self.learn(work, &compacted.group.fingerprint, compacted.objects.iter().map(|of| of.output.as_str()))
                .await?;
            if compacted.objects.first().is_some_and(|object| self.is_meant(&object.output)) {
                units.add_compacted(compacted, &work.names);
            }
        }
        let mut receipts = site.receipts(partition, &*clock, ALL_OFFSETS).await?;
        while let Some(receipt) = receipts.try_next().await? {
            self.learn_of(work, &receipt).await?;
            let known = (&live, &work.names, age);
            if let Some(why) = units.add_batch(&receipt, self.options.output.as_deref(), known) {
                let (partition, place) = (partition.to_string(), format!("batch {}", receipt.first));
                self.tell(Step::Left { partition, output: String::new(), place, inputs: 1, why }, tell)?;
            }
            if units.held() >= self.options.held_max {
                for unit in units.take() {
                    self.compact_unit(work, partition, unit, (&mut stuck, &mut numbers), tell).await?;
                }
            }
        }
        for unit in units.take() {
            self.compact_unit(work, partition, unit, (&mut stuck, &mut numbers), tell).await?;
        }
        Ok(())
    }

    async fn learn_of(&self, work: &mut Work<'_, '_>, receipt: &Receipt) -> Result<(), Failure> {
        let outputs: HashSet<&str> = receipt.objects.iter().map(|object| object.output.as_str()).collect();
        self.learn(work, &receipt.fingerprint, outputs.into_iter()).await
    }

    /// Takes in the names of outputs of a layout.
    async fn learn<'o>(
        &self,
        work: &mut Work<'_, '_>,
        fingerprint: &str,
        outputs: impl Iterator<Item = &'o str>,
    ) -> Result<(), Failure> {
        for output in outputs.filter(|output| *output != crate::pipeline::archive::DEAD_LETTERS) {
            let name = (fingerprint.to_string(), output.to_string());
            if work.names.contains_key(&name) {
                continue;
            }
            let layout = work.layouts.get(&work.site.bucket, &*self.clock, fingerprint).await?;
            let names = layout.and_then(|layout| Names::of(&layout, output)).map(Arc::new);
            work.names.insert(name, names);
        }
        Ok(())
    }

    pub(super) async fn layout(
        &self,
        work: &mut Work<'_, '_>,
        fingerprint: &str,
    ) -> Result<Result<Arc<Layout>, String>, Failure> {
        work.layouts.get(&work.site.bucket, &*self.clock, fingerprint).await
    }

    /// Compacts a unit, claim by claim.
    async fn compact_unit(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        unit: Unit,
        (stuck, numbers): (&mut HashSet<String>, &mut BTreeMap<String, u32>),
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        if stuck.contains(&unit.id) {
            return Ok(());
        }
        let rules = Rules {
            target_bytes: self.options.target_bytes,
            to: self.options.to,
            claim_bytes_max: self.config.spool.limit / 4,
        };
        let planned = claims(groups(unit.candidates.clone(), &rules), &rules);
        for groups in planned {
            if self.options.dry_run {
                self.tell(would_be(partition, &unit, &groups), tell)?;
            } else if !self.compact_groups(work, partition, (&unit, groups), numbers, tell).await? {
                stuck.insert(unit.id);
                break;
            }
        }
        Ok(())
    }

    /// Makes, claims and puts the objects of one claim, and switches to them. `false`: another process is at the unit, or somebody must look at it.
    async fn compact_groups(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        (unit, groups): (&Unit, Vec<Planned>),
        numbers: &mut BTreeMap<String, u32>,
        tell: Tell<'_>,
    ) -> Result<bool, Failure> {
        let n = numbers.get(&unit.id).copied().unwrap_or_default().saturating_add(1);
        let left = |inputs: u64, why: String| Step::Left {
            partition: partition.to_string(),
            output: unit.output.clone(),
            place: unit.folder.clone(),
            inputs,
            why,
        };
        let mut made = Vec::new();
        for group in groups {
            let inputs = group.candidates.len() as u64;
            match self.make(work, partition, (&unit.output, n), group).await? {
                Ok(group) => made.push(group),
                Err(why) => self.tell(left(inputs, why), tell)?,
            }
        }
        if made.is_empty() {
            return Ok(true);
        }
        let claim = Compaction {
            version: COMPACTION_VERSION,
            topic: partition.topic.to_string(),
            partition: partition.partition,
            generation: work.site.bucket.generation(),
            archive: work.site.archive.name.clone(),
            output: unit.output.clone(),
            folder: unit.folder.clone(),
            unit: unit.id.clone(),
            n,
            groups: made.iter().map(|made| made.group.clone()).collect(),
            hold: None,
        };
        let (bucket, what) = (&work.site.bucket, format!("claim compaction {}.{n} of {partition}", unit.id));
        let is_new = match patiently(&*self.clock, &what, || bucket.claim_compaction(&claim)).await? {
            CompactionOutcome::Created => true,
            CompactionOutcome::Same => false,
            CompactionOutcome::Other => {
                // Whoever has this number knows other objects than were planned here: the next run finds what is left.
                let inputs = claim.groups.iter().map(|group| group.inputs.len() as u64).sum();
                self.tell(left(inputs, "another process compacts it at this moment".to_string()), tell)?;
                return Ok(false);
            }
        };
        numbers.insert(unit.id.clone(), n);
        for made in &made {
            self.upload(work.site, &claim, made, is_new).await?;
        }
        // The files are in the bucket: what they take in the spool is free.
        drop(made);
        match self.switch(work.site, &claim, tell).await {
            Ok(()) => self.tell(compacted(&claim, false), tell)?,
            // As of what was begun before: it is in the way of nothing but its own unit.
            Err(failure) if matches!(failure.exit, Exit::Stopped | Exit::Config) => {
                let (partition, why) = (partition.to_string(), failure.message);
                self.tell(Step::Stopped { partition, unit: unit.id.clone(), n, why }, tell)?;
                return Ok(false);
            }
            Err(failure) => return Err(failure),
        }
        Ok(true)
    }

    pub(super) fn destination(&self, id: &str) -> Result<&Arc<Destination>, Failure> {
        self.destinations.get(id).ok_or_else(|| {
            Failure::new(Exit::Config, format!("no destination of this configuration has the URL {id}; add it"))
        })
    }
}

/// What a dry run says of one claim.
fn would_be(partition: &TopicPartition, unit: &Unit, groups: &[Planned]) -> Step {
    let inputs = || groups.iter().flat_map(|group| &group.candidates);
    Step::Compacted {
        partition: partition.to_string(),
        output: unit.output.clone(),
        folder: unit.folder.clone(),
        unit: unit.id.clone(),
        n: None,
        inputs: inputs().count() as u64,
        objects: groups.len() as u64,
        rows: inputs().map(|candidate| candidate.input.rows).sum(),
        bytes_before: inputs().map(|candidate| candidate.input.bytes).sum(),
        bytes_after: None,
        keys: Vec::new(),
        was_begun: false,
        dry_run: true,
    }
}

/// The documents of all compactions of a Kafka partition, by unit and number.
pub(super) async fn listed(
    bucket: &Bucket,
    clock: &dyn Clock,
    partition: &TopicPartition,
) -> Result<BTreeMap<CompactionId, ListedCompaction>, Failure> {
    patiently(clock, "list compactions", || bucket.listed_compactions(partition)).await
}

/// A backfill that has ranges of that Kafka partition and has not ended.
pub(super) async fn job_of(
    bucket: &Bucket,
    clock: &dyn Clock,
    partition: &TopicPartition,
) -> Result<Option<String>, Failure> {
    let jobs = patiently(clock, "list jobs", || bucket.jobs_under_way()).await?;
    let has_ranges = |job: &Job| job.meets(partition, bucket.generation(), ALL_OFFSETS);
    Ok(jobs.into_iter().find(has_ranges).map(|job| job.name))
}

/// The last number of each unit.
fn numbers(listed: &BTreeMap<CompactionId, ListedCompaction>) -> BTreeMap<String, u32> {
    let mut numbers = BTreeMap::new();
    for (unit, n) in listed.keys() {
        let last: &mut u32 = numbers.entry(unit.clone()).or_default();
        *last = (*last).max(*n);
    }
    numbers
}

/// What a store's error means for the process; `what` was tried.
pub(super) fn store_failure(what: &str, error: &object_store::Error) -> Failure {
    let fault = Fault::of(error);
    let exit = match fault.verdict() {
        Verdict::Retry => Exit::Unreachable,
        Verdict::Refused => Exit::Refused,
        Verdict::Stop => Exit::Stopped,
    };
    Failure::new(exit, format!("{what}: {fault}"))
}
