//! From the receipts of a Kafka partition to the receipt of a compaction. Crash-safe at each point, see [`super`].

use super::plan::{Planned, Rules, claims, groups};
use super::proof::{RowsOf, prove};
use super::rewrite::{Rewriting, Trouble};
use super::unit::{Age, KnownNames, Names, Unit, Units};
use super::Options;
use crate::bucket::Bucket;
use crate::bucket::compactions::{
    COMPACTION_VERSION, Compaction, CompactionId, CompactionOutcome, CompactionReceipt, Group, Input, ListedCompaction,
    Proof, ProofBy, To,
};
use crate::bucket::receipt::Receipt;
use crate::clock::Clock;
use crate::config::{Config, MemoryShares};
use crate::destination::fault::{Fault, Verdict};
use crate::destination::{Destination, StoreKind};
use crate::effect::{Effect, files, requests};
use crate::exit::{Exit, Failure};
use crate::format::{Format, content_headers};
use crate::layout::window::compaction_key;
use crate::layout::{Layout, OutputFormat};
use crate::ledger::live::Live;
use crate::ledger::{self, Destinations, Site};
use crate::pipeline::start::{chain, patiently};
use crate::reader::plan::ALL_OFFSETS;
use crate::reader::rows::Place;
use crate::reader::shape::Shape;
use crate::record::{OffsetRange, TopicPartition};
use crate::replay::layouts::Layouts;
use crate::spool::part::Finished;
use crate::spool::{BatchDir, Spool, process_number};
use crate::upload::{self, How, PutRule, UploadFile, UploadSettings, hex, put_file};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of an object that are written to the spool at once.
const PIECE_BYTES: usize = 1 << 20;

/// Something that a compaction did, or with a dry run would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Objects of a unit gave way to others.
    Compacted {
        /// Topic and Kafka partition.
        partition: String,
        /// Output.
        output: String,
        /// Folder.
        folder: String,
        /// The unit.
        unit: String,
        /// Which compaction of the unit; `None` in a dry run.
        n: Option<u32>,
        /// Objects that gave way, each once whatever its destinations.
        inputs: u64,
        /// New objects; in a dry run about.
        objects: u64,
        /// Rows.
        rows: u64,
        /// Bytes before.
        bytes_before: u64,
        /// Bytes afterwards; `None` in a dry run.
        bytes_after: Option<u64>,
        /// The new objects; empty in a dry run.
        keys: Vec<String>,
        /// It was begun before, by another process or one that ended.
        was_begun: bool,
        /// Only said.
        dry_run: bool,
    },
    /// Objects that gave way before were there still or again, and were deleted.
    Deleted {
        /// Topic and Kafka partition.
        partition: String,
        /// The unit.
        unit: String,
        /// Which compaction of the unit.
        n: u32,
        /// How many.
        objects: u64,
        /// They had been deleted once, and came back.
        returned: bool,
        /// Only said.
        dry_run: bool,
    },
    /// Objects stay what they are.
    Left {
        /// Topic and Kafka partition.
        partition: String,
        /// Output.
        output: String,
        /// Folder, or the object that is meant.
        place: String,
        /// How many.
        inputs: u64,
        /// Why.
        why: String,
    },
    /// A Kafka partition was passed over.
    Skipped {
        /// Topic and Kafka partition.
        partition: String,
        /// Why.
        why: String,
    },
    /// A compaction was taken back.
    Undone {
        /// Topic and Kafka partition.
        partition: String,
        /// The unit.
        unit: String,
        /// Which compaction of the unit.
        n: u32,
        /// Objects that count again, and that are to be archived again where they are not there.
        inputs: Vec<String>,
        /// The objects that count no more.
        keys: Vec<String>,
        /// Only said.
        dry_run: bool,
    },
    /// A compaction that was begun could not be finished, and a person must decide.
    Stopped {
        /// Topic and Kafka partition.
        partition: String,
        /// The unit.
        unit: String,
        /// Which compaction of the unit.
        n: u32,
        /// Why.
        why: String,
    },
}

/// Everything in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Compactions.
    pub compactions: u64,
    /// Objects that gave way.
    pub inputs: u64,
    /// New objects.
    pub objects: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes afterwards.
    pub bytes_after: u64,
    /// Objects that stay what they are though they could have been compacted.
    pub left: u64,
    /// Replaced objects that were there still or again, and were deleted.
    pub deleted: u64,
    /// Compactions that were begun and could not be finished.
    pub stopped: u64,
    /// Compactions that were taken back.
    pub undone: u64,
}

impl Summary {
    fn add(&mut self, step: &Step) {
        match step {
            Step::Compacted { inputs, objects, rows, bytes_before, bytes_after, .. } => {
                self.compactions += 1;
                self.inputs += inputs;
                self.objects += objects;
                self.rows += rows;
                self.bytes_before += bytes_before;
                self.bytes_after += bytes_after.unwrap_or_default();
            }
            Step::Deleted { objects, .. } => self.deleted += objects,
            Step::Left { inputs, .. } => self.left += inputs,
            Step::Skipped { .. } => {}
            Step::Undone { .. } => self.undone += 1,
            Step::Stopped { .. } => self.stopped += 1,
        }
    }
}

/// Hears of each step.
pub(super) type Tell<'t> = &'t mut dyn FnMut(Step) -> Result<(), Failure>;

/// Compacts a configuration's archives.
pub struct Compactor<'c> {
    pub(super) config: &'c Config,
    pub(super) destinations: Destinations,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: Options,
    spool: Spool,
    settings: UploadSettings,
    /// What was done so far.
    pub summary: Summary,
}

/// What is known of an archive while it is compacted.
struct Work<'s, 'c> {
    site: &'s Site<'c>,
    layouts: Layouts,
    names: KnownNames,
}

/// A new file that is proven, and not yet anywhere else.
struct Made {
    group: Group,
    file: Finished,
    format: Arc<dyn Format>,
    /// Holds the file.
    _dir: Arc<BatchDir>,
}

/// What a group is made of.
struct Source<'g> {
    partition: &'g TopicPartition,
    output: &'g str,
    layout: &'g Layout,
    inputs: &'g [Input],
    destinations: &'g [String],
    range: OffsetRange,
    target: Option<&'g str>,
    to: Option<To>,
    by: ProofBy,
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
        let settings = UploadSettings::within(config.upload.part_size.min(upload), upload);
        Ok(Self { config, destinations, clock, options, spool, settings, summary: Summary::default() })
    }

    /// Compacts what the options mean; `tell` hears of each step. What was begun before is finished first. To do it again is always safe, and
    /// goes on where this one stopped.
    ///
    /// # Errors
    /// A store that refuses or does not answer, a configuration that does not fit. Nothing is lost, and nothing doubled.
    pub async fn run(&mut self, tell: Tell<'_>) -> Result<(), Failure> {
        let (clock, destinations) = (self.clock.clone(), self.destinations.clone());
        for site in self.sites(&destinations).await? {
            let jobs = patiently(&*clock, "list jobs", || site.bucket.jobs_under_way()).await?;
            let mut work =
                Work { site: &site, layouts: Layouts::new(&site.archive.layout), names: KnownNames::new() };
            for partition in &site.partitions {
                let has_ranges = |job: &&crate::bucket::jobs::Job| {
                    *job.topic == *partition.topic
                        && job.generation == site.bucket.generation()
                        && job.ranges.iter().any(|range| range.partition == partition.partition)
                };
                if let Some(job) = jobs.iter().find(has_ranges) {
                    let why = format!("the backfill {} has ranges of it and has not ended", job.name);
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
        let live = Live::read(&site.bucket, &*clock, partition, ALL_OFFSETS).await?;
        let mut numbers = numbers(&listed);
        let now = clock.wall_ms();
        let youngest = now.saturating_sub(self.options.min_age_ms);
        let age = Age { windows_ms: self.options.before_ms.min(youngest), receipts_ms: youngest };
        let mut units = Units::default();
        for compacted in live.compacted() {
            self.learn(work, &compacted.group.fingerprint, compacted.objects.iter().map(|of| of.output.as_str())).await?;
            let is_meant = self.options.output.as_deref().is_none_or(|output| compacted.objects[0].output == output);
            if is_meant {
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
                    self.compact_unit(work, partition, unit, (&stuck, &mut numbers), tell).await?;
                }
            }
        }
        for unit in units.take() {
            self.compact_unit(work, partition, unit, (&stuck, &mut numbers), tell).await?;
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

    async fn layout(&self, work: &mut Work<'_, '_>, fingerprint: &str) -> Result<Result<Arc<Layout>, String>, Failure> {
        work.layouts.get(&work.site.bucket, &*self.clock, fingerprint).await
    }

    /// Compacts a unit, claim by claim.
    async fn compact_unit(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        unit: Unit,
        (stuck, numbers): (&HashSet<String>, &mut BTreeMap<String, u32>),
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
        let Unit { output, folder, id, candidates } = unit;
        for planned in claims(groups(candidates, &rules), &rules) {
            if self.options.dry_run {
                let inputs = || planned.iter().flat_map(|group| &group.candidates);
                let step = Step::Compacted {
                    partition: partition.to_string(),
                    output: output.clone(),
                    folder: folder.clone(),
                    unit: id.clone(),
                    n: None,
                    inputs: inputs().count() as u64,
                    objects: planned.len() as u64,
                    rows: inputs().map(|candidate| candidate.input.rows).sum(),
                    bytes_before: inputs().map(|candidate| candidate.input.bytes).sum(),
                    bytes_after: None,
                    keys: Vec::new(),
                    was_begun: false,
                    dry_run: true,
                };
                self.tell(step, tell)?;
                continue;
            }
            let n = numbers.entry(id.clone()).or_default().saturating_add(1);
            let mut made = Vec::new();
            for group in planned {
                let inputs = group.candidates.len() as u64;
                match self.make(work, partition, (&output, n), group).await? {
                    Ok(group) => made.push(group),
                    Err(why) => {
                        let (partition, output, place) = (partition.to_string(), output.clone(), folder.clone());
                        self.tell(Step::Left { partition, output, place, inputs, why }, tell)?;
                    }
                }
            }
            if made.is_empty() {
                continue;
            }
            let claim = Compaction {
                version: COMPACTION_VERSION,
                topic: partition.topic.to_string(),
                partition: partition.partition,
                generation: work.site.bucket.generation(),
                archive: work.site.archive.name.clone(),
                output: output.clone(),
                folder: folder.clone(),
                unit: id.clone(),
                n,
                groups: made.iter().map(|made| made.group.clone()).collect(),
            };
            let what = format!("claim compaction {id}.{n} of {partition}");
            let bucket = &work.site.bucket;
            let is_new = match patiently(&*self.clock, &what, || bucket.claim_compaction(&claim)).await? {
                CompactionOutcome::Created => true,
                CompactionOutcome::Same => false,
                CompactionOutcome::Other => {
                    // Whoever has this number knows other objects than were planned here: the next run finds what is left.
                    let why = "another process compacts it at this moment".to_string();
                    let inputs = claim.groups.iter().map(|group| group.inputs.len() as u64).sum();
                    let (partition, place) = (partition.to_string(), folder.clone());
                    self.tell(Step::Left { partition, output: output.clone(), place, inputs, why }, tell)?;
                    return Ok(());
                }
            };
            numbers.insert(id.clone(), n);
            for made in &made {
                self.upload(work.site, &claim, made, is_new).await?;
            }
            // The files are in the bucket: what they take in the spool is free.
            drop(made);
            self.switch(work.site, &claim).await?;
            self.tell(compacted(&claim, false), tell)?;
        }
        Ok(())
    }

    /// Makes and proves the new file of a group. The inner error: why its objects are left as they are.
    async fn make(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        (output, n): (&str, u32),
        planned: Planned,
    ) -> Result<Result<Made, String>, Failure> {
        let Planned { candidates, to } = planned;
        let Some(first) = candidates.first().cloned() else { return Ok(Err("there is nothing to compact".to_string())) };
        let layout = match self.layout(work, &first.fingerprint).await? {
            Ok(layout) => layout,
            Err(why) => return Ok(Err(why)),
        };
        let names = match work.names.get(&(first.fingerprint.clone(), output.to_string())) {
            Some(Ok(names)) => names.clone(),
            _ => return Ok(Err("its names cannot be read".to_string())),
        };
        let batches: Vec<(i64, i64)> = candidates.iter().flat_map(|candidate| candidate.batches.clone()).collect();
        let last = candidates.last().map_or(first.input.end, |last| last.input.end);
        let range = OffsetRange::new(first.input.first, last);
        let extension = match to {
            Some(To::Parquet) => "parquet".to_string(),
            None => names.extension.clone(),
        };
        let key = names.recogniser.with_range(&first.input.key, range);
        let Some(key) = key.and_then(|key| compaction_key(&key, &names.extension, &extension, n)) else {
            return Ok(Err(format!("the name of {} has no room for \"+compact-{n}\"", first.input.key)));
        };
        let by = match (to, self.options.nulls_as_missing) {
            (None, _) => ProofBy::Bytes,
            (Some(To::Parquet), false) => ProofBy::Values,
            (Some(To::Parquet), true) => ProofBy::ValuesWithoutNulls,
        };
        let sum = |of: &dyn Fn(&super::unit::Candidate) -> Option<u64>| candidates.iter().map(of).sum::<Option<u64>>();
        let rows = sum(&|candidate| Some(candidate.input.rows)).unwrap_or_default();
        let records = sum(&|candidate| candidate.records);
        let event_min_ms = candidates.iter().filter_map(|candidate| candidate.event_min_ms).min();
        let event_max_ms = candidates.iter().filter_map(|candidate| candidate.event_max_ms).max();
        let inputs: Vec<Input> = candidates.into_iter().map(|candidate| candidate.input).collect();
        let source = Source {
            partition,
            output,
            layout: &layout,
            inputs: &inputs,
            destinations: &first.destinations,
            range,
            target: first.target.as_deref(),
            to,
            by,
        };
        let (file, format, proof, dir) = match self.write_and_prove(source).await {
            Ok(written) => written,
            Err(Trouble::Left(why)) => return Ok(Err(why)),
            Err(Trouble::Failed(failure)) => return Err(failure),
        };
        let group = Group {
            destinations: first.destinations,
            fingerprint: first.fingerprint,
            schema: first.schema,
            target: first.target,
            to,
            inputs,
            batches,
            key,
            records,
            rows,
            bytes: file.bytes,
            sha256: hex(&file.sha256),
            event_min_ms,
            event_max_ms,
            proof,
        };
        Ok(Ok(Made { group, file, format, _dir: dir }))
    }

    /// Copies the objects into the spool, writes one of their rows, and compares these.
    async fn write_and_prove(
        &mut self,
        source: Source<'_>,
    ) -> Result<(Finished, Arc<dyn Format>, Proof, Arc<BatchDir>), Trouble> {
        let found = source.layout.outputs.iter().find(|output| output.name == source.output);
        let output = found.ok_or_else(|| Trouble::Left(format!("its layout has no output {}", source.output)))?.clone();
        let is_json = matches!(output.format, OutputFormat::Json { .. });
        let shape = |to: Option<To>| {
            let shape = Shape::of(source.layout, source.output, None).map_err(Trouble::Left)?;
            Ok::<_, Trouble>(Arc::new(if to.is_some() { shape.as_parquet() } else { shape }))
        };
        if source.to.is_some() && !is_json {
            return Err(Trouble::Left("only JSON lines become Parquet".to_string()));
        }
        let (of_inputs, of_object) = (shape(None)?, shape(source.to)?);
        let dir = self.spool.batch_dir().map_err(|error| local("make a folder in the spool", &error))?;
        let mut copies: Vec<PathBuf> = Vec::new();
        for (number, input) in source.inputs.iter().enumerate() {
            let path = dir.file(&format!("{number:06}.input"));
            self.fetch(input, source.destinations, &path, &dir).await?;
            copies.push(path);
        }
        let rewriting = Rewriting {
            output,
            to: source.to,
            inputs: copies.clone(),
            metadata: file_metadata(&source),
            dir: dir.clone(),
        };
        let written = tokio::task::spawn_blocking(move || rewriting.write()).await;
        let written = written.map_err(|error| Failure::new(Exit::Failed, format!("write the new file: {error}")))??;
        let in_spool = spool_destination(&dir)?;
        let place = |path: &PathBuf, rows: Option<u64>| Place {
            key: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            destinations: vec![in_spool.clone()],
            rows,
        };
        let rows: u64 = source.inputs.iter().map(|input| input.rows).sum();
        let inputs = copies.iter().zip(source.inputs).map(|(path, input)| place(path, Some(input.rows))).collect();
        let object = vec![place(&written.file.path, Some(rows))];
        let proven = prove(RowsOf::new(inputs, of_inputs), RowsOf::new(object, of_object), source.by).await;
        let proof = match proven {
            Ok(Ok(proof)) => proof,
            Ok(Err(why)) => return Err(Trouble::Left(why)),
            // A file of the spool that is not what it should be: the objects stay as they are.
            Err(failure) if failure.exit == Exit::Stopped => return Err(Trouble::Left(failure.message)),
            Err(failure) => return Err(failure.into()),
        };
        for (path, input) in copies.iter().zip(source.inputs) {
            files::remove(Effect::InputRemove, path)?;
            dir.subtract(input.bytes);
        }
        Ok((written.file, written.format, proof, dir))
    }

    /// Copies an object into the spool, and compares size and SHA-256 with its receipt.
    async fn fetch(
        &self,
        input: &Input,
        ids: &[String],
        path: &PathBuf,
        dir: &BatchDir,
    ) -> Result<(), Trouble> {
        let known: Vec<&Arc<Destination>> = ids.iter().filter_map(|id| self.destinations.get(id)).collect();
        if known.len() < ids.len() {
            let ids = ids.join(", ");
            return Err(Trouble::Left(format!("{} lies at {ids}: this configuration does not have all of them", input.key)));
        }
        let at = known[0];
        let what = format!("read {}/{}", at.id(), input.key);
        let location = at.path(&input.key).map_err(|error| Trouble::Left(error.to_string()))?;
        let mut kept = 0;
        let read = || async { at.store().get(&location).await };
        let mut stream = match read().await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { .. }) => return Err(Trouble::Left(format!("{what}: it is not there"))),
            Err(error) => return Err(store_failure(&what, &error).into()),
        };
        let (mut hash, mut piece) = (Sha256::new(), Vec::new());
        loop {
            let next = stream.try_next().await.map_err(|error| store_failure(&what, &error))?;
            let is_end = next.is_none();
            piece.extend_from_slice(&next.unwrap_or_default());
            if piece.len() >= PIECE_BYTES || is_end {
                hash.update(&piece);
                files::append(Effect::InputAppend, path, Some(kept), &piece)?;
                kept += piece.len() as u64;
                dir.add(piece.len() as u64);
                piece.clear();
            }
            if kept > input.bytes || is_end {
                break;
            }
        }
        let sha256 = hex(&hash.finalize());
        if (kept, &sha256) != (input.bytes, &input.sha256) {
            return Err(Trouble::Left(format!(
                "{what}: it is not what its receipt says ({kept} bytes, SHA-256 {sha256}): siltstone verify --deep"
            )));
        }
        Ok(())
    }

    /// Puts a new file at all destinations of its group. `is_new`: nobody can have put it before.
    async fn upload(&self, site: &Site<'_>, claim: &Compaction, made: &Made, is_new: bool) -> Result<(), Failure> {
        let Made { group, file, format, .. } = made;
        let (content_type, content_encoding) = content_headers(&**format, site.archive.content_encoding);
        let (range, counting) = (group.range(), format.clone());
        let metadata = [
            ("topic", claim.topic.clone()),
            ("partition", claim.partition.to_string()),
            ("first", range.first.to_string()),
            ("end", range.end.to_string()),
            ("layout", group.fingerprint.clone()),
            ("compaction", format!("{}.{}", claim.unit, claim.n)),
        ];
        let upload = UploadFile {
            path: file.path.clone(),
            key: group.key.clone(),
            bytes: file.bytes,
            sha256: file.sha256,
            records: group.rows,
            content_type: content_type.to_string(),
            content_encoding: content_encoding.map(str::to_string),
            metadata: metadata.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
            rule: if is_new { PutRule::ReplaceUntold } else { PutRule::KeepUntold },
            count: Arc::new(move |file| counting.count_rows(file)),
            check_existing: !is_new,
        };
        for id in &group.destinations {
            let destination = self.destination(id)?;
            let placed =
                patiently(&*self.clock, "upload", || put_file(destination, &upload, self.settings)).await?;
            if placed.how == How::Kept && placed.sha256.as_deref() != Some(group.sha256.as_str()) {
                let what = format!(
                    "{} at {id} is another object than the one of this compaction, and was kept: somebody else put it. Move it away and \
                     compact again",
                    group.key
                );
                return Err(Failure::new(Exit::Stopped, what));
            }
        }
        Ok(())
    }

    pub(super) fn destination(&self, id: &str) -> Result<&Arc<Destination>, Failure> {
        self.destinations.get(id).ok_or_else(|| {
            Failure::new(Exit::Config, format!("no destination of this configuration has the URL {id}; add it"))
        })
    }

    /// Writes the receipt, which is the switch, and deletes what counts no more.
    async fn switch(&self, site: &Site<'_>, claim: &Compaction) -> Result<(), Failure> {
        let receipt = CompactionReceipt {
            compaction: claim.clone(),
            writer: env!("CARGO_PKG_VERSION").to_string(),
            written_ms: Some(self.clock.wall_ms()),
        };
        let bucket = &site.bucket;
        let what = "write the receipt of a compaction";
        patiently(&*self.clock, what, || bucket.put_compaction_receipt(&receipt)).await?;
        self.delete_inputs(site, claim).await
    }

    /// Deletes the inputs of a compaction that has its receipt, and says so.
    async fn delete_inputs(&self, site: &Site<'_>, claim: &Compaction) -> Result<(), Failure> {
        for (id, keys) in inputs_by_destination(claim) {
            self.delete(Effect::InputsDelete, &id, &keys).await?;
        }
        let (bucket, partition, id) = (&site.bucket, claim.topic_partition(), claim.id());
        let end = || bucket.end_compaction(&partition, &id, self.clock.wall_ms());
        patiently(&*self.clock, "say that a compaction is done", end).await
    }

    pub(super) async fn delete(&self, effect: Effect, id: &str, keys: &[String]) -> Result<(), Failure> {
        let destination = self.destination(id)?;
        let wrong = |error: crate::destination::DestinationError| Failure::new(Exit::Stopped, error.to_string());
        let paths = keys.iter().map(|key| destination.path(key)).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let deleted = requests::delete_all(effect, &**destination.store(), paths).await;
        deleted.map_err(|error| {
            store_failure(&format!("delete {} objects that were compacted at {id}", keys.len()), &error)
        })
    }

    /// Finishes what was begun, and deletes what counts no more. `false`: it cannot be finished, which is told.
    async fn catch_up(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        id: &CompactionId,
        documents: &ListedCompaction,
        tell: Tell<'_>,
    ) -> Result<bool, Failure> {
        let outcome = if documents.is_open() {
            self.finish(work, partition, id, tell).await
        } else if documents.counts().is_some() && (!documents.done || self.options.sweep) {
            self.sweep(work, partition, id, documents, tell).await
        } else {
            Ok(())
        };
        match outcome {
            Ok(()) => Ok(true),
            Err(failure) if matches!(failure.exit, Exit::Stopped | Exit::Config) => {
                let (partition, unit, n, why) = (partition.to_string(), id.0.clone(), id.1, failure.message);
                self.tell(Step::Stopped { partition, unit, n, why }, tell)?;
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Does what a claim says, whoever made it.
    async fn finish(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        id: &CompactionId,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let bucket = &work.site.bucket;
        let what = format!("the claim of compaction {}.{}", id.0, id.1);
        let claim = patiently(&*self.clock, &what, || bucket.compaction_claim(partition, id)).await?;
        let Some(claim) = claim.filter(|claim| self.is_meant(&claim.output)) else { return Ok(()) };
        if self.options.dry_run {
            let mut step = compacted(&claim, true);
            if let Step::Compacted { dry_run, .. } = &mut step {
                *dry_run = true;
            }
            return self.tell(step, tell);
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
        self.switch(work.site, &claim).await?;
        self.tell(compacted(&claim, true), tell)
    }

    fn is_meant(&self, output: &str) -> bool {
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
                "compaction {}.{} of {}/{} was begun and not finished: {why}. Run the release that began it until it is finished, or give it up: \
                 siltstone compact --undo {}",
                claim.unit, claim.n, claim.topic, claim.partition, claim.unit
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
            let look = || upload::is_there(destination, &group.key, group.bytes, Some(&group.sha256));
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
        let (bucket, Some(range)) = (&work.site.bucket, documents.receipt) else { return Ok(()) };
        let what = format!("the receipt of compaction {}.{}", id.0, id.1);
        let receipt = patiently(&*self.clock, &what, || bucket.compaction_receipt(partition, id, range)).await?;
        let Some(claim) = receipt.map(|receipt| receipt.compaction).filter(|claim| self.is_meant(&claim.output)) else {
            return Ok(());
        };
        let there = self.inputs_there(&claim).await?;
        let objects = there.values().map(|keys| keys.len() as u64).sum();
        if objects > 0 {
            let (returned, dry_run) = (documents.done, self.options.dry_run);
            if !dry_run {
                self.check_replacements(bucket, &claim).await?;
                for (id, keys) in &there {
                    self.delete(Effect::InputsDelete, id, keys).await?;
                }
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
        let live = Live::read(bucket, &*self.clock, &claim.topic_partition(), claim.range()).await?;
        for group in &claim.groups {
            for &(first, _) in &group.batches {
                for index in live.of_batch(first) {
                    let now = &live.compacted()[index];
                    if now.id.0 == claim.unit && !self.is_there(&now.group).await? {
                        let what = format!(
                            "{} is not there as its receipt says, and replaces objects that are still there: nothing of them is deleted. Restore \
                             it, or take the compaction back: siltstone compact --undo {}",
                            now.group.key, claim.unit
                        );
                        return Err(Failure::new(Exit::Stopped, what));
                    }
                }
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
            let destination = self.destination(&id)?;
            let what = format!("list {id}/{}", claim.folder);
            let path = match claim.folder.as_str() {
                "" => Some(destination.prefix().clone()).filter(|prefix| !prefix.is_root()),
                folder => {
                    Some(destination.path(folder).map_err(|error| Failure::new(Exit::Stopped, error.to_string()))?)
                }
            };
            let listed = destination.store().list_with_delimiter(path.as_ref()).await;
            let objects = match listed {
                Ok(listed) => listed.objects,
                Err(object_store::Error::NotFound { .. }) => Vec::new(),
                Err(error) => return Err(store_failure(&what, &error)),
            };
            for object in objects {
                let Some(key) = destination.key_of(&object.location) else { continue };
                if sizes.get(key.as_str()) == Some(&object.size) {
                    there.entry(id.clone()).or_default().push(key);
                }
            }
        }
        Ok(there)
    }
}

/// What is said of a compaction.
fn compacted(claim: &Compaction, was_begun: bool) -> Step {
    let inputs = || claim.groups.iter().flat_map(|group| &group.inputs);
    Step::Compacted {
        partition: claim.topic_partition().to_string(),
        output: claim.output.clone(),
        folder: claim.folder.clone(),
        unit: claim.unit.clone(),
        n: Some(claim.n),
        inputs: inputs().count() as u64,
        objects: claim.groups.len() as u64,
        rows: claim.groups.iter().map(|group| group.rows).sum(),
        bytes_before: inputs().map(|input| input.bytes).sum(),
        bytes_after: Some(claim.groups.iter().map(|group| group.bytes).sum()),
        keys: claim.groups.iter().map(|group| group.key.clone()).collect(),
        was_begun,
        dry_run: false,
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

/// The last number of each unit.
fn numbers(listed: &BTreeMap<CompactionId, ListedCompaction>) -> BTreeMap<String, u32> {
    let mut numbers = BTreeMap::new();
    for (unit, n) in listed.keys() {
        let last: &mut u32 = numbers.entry(unit.clone()).or_default();
        *last = (*last).max(*n);
    }
    numbers
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

/// What a Parquet file says in itself of what it holds.
fn file_metadata(source: &Source<'_>) -> Vec<(String, String)> {
    let pairs = [
        ("siltstone.topic", source.partition.topic.to_string()),
        ("siltstone.partition", source.partition.partition.to_string()),
        ("siltstone.first", source.range.first.to_string()),
        ("siltstone.end", source.range.end.to_string()),
    ];
    let target = source.target.map(|target| ("siltstone.schema", target.to_string()));
    pairs.into_iter().chain(target).map(|(name, value)| (name.to_string(), value)).collect()
}

/// The folder of a batch, as a place that objects are read from.
fn spool_destination(dir: &BatchDir) -> Result<Arc<Destination>, Failure> {
    let folder = dir.file("");
    let store = LocalFileSystem::new_with_prefix(&folder);
    let store = store.map_err(|error| local("read the spool", &error))?;
    Ok(Arc::new(Destination::from_store("spool", "the spool", Arc::new(store), StoreKind::File)))
}

fn local(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{what}: {}", chain(error)))
}

/// What a store's error means for the process; `what` was tried.
fn store_failure(what: &str, error: &object_store::Error) -> Failure {
    let fault = Fault::of(error);
    let exit = match fault.verdict() {
        Verdict::Retry => Exit::Unreachable,
        Verdict::Refused => Exit::Refused,
        Verdict::Stop => Exit::Stopped,
    };
    Failure::new(exit, format!("{what}: {fault}"))
}
