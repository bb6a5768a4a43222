//! What every partition's work shares: the seams, the stores, the bounds.

use super::archive::{Archive, PinnedSchemas};
use super::schedule::Schedule;
use super::start::chain;
use crate::batch::metadata::METADATA_BYTES_MAX;
use crate::bucket::folding::Rules;
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::complete::horizon::Rules as CompleteRules;
use crate::complete::round::{PARTS_MAX, Seams};
use crate::config::{Rotate, Start, TopicPatterns, UploadConfig};
use crate::consume::{CommitError, Coordinator, Held};
use crate::decode::{Aim, Schemas};
use crate::destination::Destination;
use crate::destination::fault::Verdict;
use crate::effect::{Effect, requests};
use crate::hook::Hook;
use crate::hook::follow::Seams as TellSeams;
use crate::layout::Layout;
use crate::load::Setup;
use crate::load::work::LoadSeams;
use crate::planted::{Bug, has};
use crate::record::TopicPartition;
use crate::registry::{Registry, Target};
use crate::telemetry::health::Health;
use crate::upload::UploadSettings;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Shared by all partitions.
pub struct Context {
    /// Keeps offsets.
    pub coordinator: Arc<dyn Coordinator>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Destinations by URL.
    pub destinations: BTreeMap<String, Arc<Destination>>,
    /// Archives in file order.
    pub archives: Vec<Arc<ArchiveContext>>,
    /// The cluster's id.
    pub cluster_id: String,
    /// Upload bounds.
    pub upload: UploadConfig,
    /// Room for uploads by id of the destination.
    pub upload_rooms: BTreeMap<String, UploadRoom>,
    /// The spool's folder.
    pub spool_dir: PathBuf,
    /// Bytes the spool may hold.
    pub spool_limit: u64,
    /// Take the receipts' word where the group has none.
    pub resume_from_receipts: bool,
    /// What is archived, where that is not all that comes.
    pub schedule: Option<Schedule>,
    /// Where schemas are asked for.
    pub registry: Option<Arc<Registry>>,
    /// What is folded of receipts, and when.
    pub folding: Folding,
    /// One Kafka partition's receipts are folded at a time.
    pub folds: Semaphore,
    /// A number that no other living process has.
    pub process: u64,
    /// What is wrong at the moment.
    pub health: Arc<Health>,
}

/// What is folded of receipts, and when.
#[derive(Clone, Copy, Debug)]
pub struct Folding {
    /// What.
    pub rules: Rules,
    /// How long after a takeover it is looked for the first time, milliseconds.
    pub first_ms: i64,
    /// How long after that it is looked again, milliseconds.
    pub again_ms: i64,
}

impl Default for Folding {
    /// After ten minutes, so that processes that are started anew every day fold, too; then every hour.
    fn default() -> Self {
        Self { rules: Rules::default(), first_ms: 600_000, again_ms: 3_600_000 }
    }
}

/// When folders are complete, and what their marker is called.
#[derive(Clone, Debug)]
pub struct Complete {
    /// When.
    pub rules: CompleteRules,
    /// Its name.
    pub marker: String,
    /// How long after a folder was completed it is not completed again, milliseconds.
    pub revise_after_ms: i64,
}

/// One archive of the configuration.
pub struct ArchiveContext {
    /// Its name.
    pub name: String,
    /// Which topics are its own.
    pub topics: TopicPatterns,
    /// The configured layout.
    pub layout: Layout,
    /// Compiled once the inferred schemas are known.
    pub compiled: OnceLock<Arc<Archive>>,
    /// The same for rows that are projected onto a schema of the registry.
    pub by_target: Mutex<HashMap<Target, Arc<Archive>>>,
    /// When batches are sealed.
    pub rotate: Rotate,
    /// Records gone before they were read halt the partition.
    pub halt_on_gap: bool,
    /// Event times further ahead of the Kafka timestamp do not move the watermark.
    pub max_future_ms: i64,
    /// When its folders are complete, and what their marker is called; `None`: nothing is completed.
    pub complete: Option<Complete>,
    /// What loads complete folders.
    pub loaders: Vec<Setup>,
    /// Who is told of batches and folders.
    pub hooks: Vec<Arc<Hook>>,
    /// Text objects carry `Content-Encoding`.
    pub content_encoding: bool,
    /// Claims and receipts.
    pub bucket: Bucket,
    /// Where partitions without committed offset start.
    pub start: StartRule,
}

/// Where partitions start that never had an offset: decided once for the archive and kept in the bucket.
#[derive(Clone, Debug)]
pub struct StartRule {
    /// The configured start.
    pub start: Start,
    /// For `latest`: log ends by topic and Kafka partition when the archive was first started. A partition that is not
    /// here appeared later and starts at its first offset.
    pub known: BTreeMap<String, Vec<i64>>,
}

impl ArchiveContext {
    /// The compiled layout for `fingerprint`: this configuration's own, or the stored one it was planned with.
    ///
    /// `decided`: what was decided of schemas when the batch was cut.
    ///
    /// # Errors
    /// [`Missing`].
    pub async fn archive_for(
        &self,
        context: &Context,
        fingerprint: &str,
        decided: &Decided,
    ) -> Result<Arc<Archive>, Missing> {
        let own = self.compiled.get().filter(|own| own.fingerprint == fingerprint);
        if let Some(own) = own.filter(|own| own.by_registry().is_none()) {
            return Ok(own.clone());
        }
        let (layout, bucket) = match own {
            Some(_) => (self.layout.clone(), self.bucket.clone()),
            None => self.stored_layout(context, fingerprint).await?,
        };
        let pinned = load_pinned(&bucket, &layout).await.map_err(|error| Missing::of(&error))?;
        let pinned = pinned.ok_or_else(|| {
            Missing::Never(format!("layout {fingerprint}: a schema that it was planned with is not pinned"))
        })?;
        let schemas = context.schemas(&layout, decided).await?;
        Archive::compile(&layout, &context.destinations, &pinned, &schemas).map(Arc::new).map_err(Missing::Never)
    }

    /// The compiled layout of this configuration for rows that are projected onto `target`.
    ///
    /// # Errors
    /// [`Missing`].
    pub async fn at_target(&self, context: &Context, target: &Target) -> Result<Arc<Archive>, Missing> {
        let known = self.by_target.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let decided = Decided { target: Some(target.clone()), unknown: None };
        let pinned = load_pinned(&self.bucket, &self.layout).await.map_err(|error| Missing::of(&error))?;
        let pinned = pinned.ok_or_else(|| Missing::Never("a schema of the archive is pinned no more".to_string()))?;
        let schemas = context.schemas(&self.layout, &decided).await?;
        let compiled = Archive::compile(&self.layout, &context.destinations, &pinned, &schemas);
        let compiled = Arc::new(compiled.map_err(Missing::Never)?);
        let mut known = self.by_target.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TARGETS_MAX {
            known.clear();
        }
        known.insert(target.clone(), compiled.clone());
        Ok(compiled)
    }

    /// A layout of this archive, from its own bucket or, where its first destination was changed since, from another one of the
    /// configuration.
    async fn stored_layout(&self, context: &Context, fingerprint: &str) -> Result<(Layout, Bucket), Missing> {
        let elsewhere = context.destinations.values().map(|destination| Bucket::new(destination.clone()));
        let mut reason = None;
        for bucket in std::iter::once(self.bucket.clone()).chain(elsewhere) {
            match bucket.get_layout(fingerprint).await {
                Ok(layout) => return Ok((layout, bucket)),
                Err(error) if error.verdict() == Verdict::Stop => reason = reason.or_else(|| Some(chain(&error))),
                Err(error) => return Err(Missing::Later(chain(&error))),
            }
        }
        Err(Missing::Never(reason.unwrap_or_else(|| format!("no destination has the layout {fingerprint}"))))
    }
}

/// Most targets of an archive whose compiled layout is kept.
const TARGETS_MAX: usize = 64;

/// What was decided of schemas when a batch was cut.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    /// What its rows are projected onto.
    pub target: Option<Target>,
    /// The ids that were unknown, where that is decided.
    pub unknown: Option<BTreeSet<u32>>,
}

/// Why something that a batch is written with cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Not now.
    Later(String),
    /// Somebody has removed it, and can put it back.
    Gone(String),
    /// It cannot be had, and why.
    Never(String),
}

impl Missing {
    fn of(error: &BucketError) -> Self {
        match error.verdict() {
            Verdict::Stop => Self::Never(chain(error)),
            Verdict::Retry | Verdict::Refused => Self::Later(chain(error)),
        }
    }
}

/// What `layout` needs of `registry`.
///
/// # Errors
/// [`Missing`].
pub async fn schemas(registry: Option<&Arc<Registry>>, layout: &Layout, decided: &Decided) -> Result<Schemas, Missing> {
    let Some(format) = layout.decode.registry_format() else { return Ok(Schemas::default()) };
    let registry = registry.ok_or_else(|| {
        Missing::Never(
            "the layout reads payloads by a schema registry, and this configuration has no section [registry]; add it"
                .to_string(),
        )
    })?;
    let mut schemas = Schemas::of(layout, Some(registry), decided.unknown.clone());
    if let Some(target) = decided.target.as_ref().filter(|_| layout.needs_target()) {
        schemas.aim = match registry.schema_or_ask(target.id, format).await {
            Ok(Some(schema)) => Aim::At(target.clone(), schema),
            Ok(None) => {
                return Err(Missing::Gone(format!(
                    "rows are projected onto schema {target}, which the schema registry has no more; register it again under \
                     its id"
                )));
            }
            Err(error) => return Err(Missing::Later(chain(&error))),
        };
    }
    Ok(schemas)
}

/// The pinned schemas of all outputs of `layout` that infer theirs; `None` where one is not pinned yet.
///
/// # Errors
/// The store's, or a schema that is there and cannot be read.
pub async fn load_pinned(bucket: &Bucket, layout: &Layout) -> Result<Option<PinnedSchemas>, BucketError> {
    let mut pinned = PinnedSchemas::new();
    for output in super::sample::inferring(layout) {
        let Some(columns) = bucket.get_schema(&layout.archive, output, 1).await? else { return Ok(None) };
        pinned.insert(output.to_string(), columns);
    }
    Ok(Some(pinned))
}

/// Why a partition's work cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The partition is not ours any more; nothing to do.
    NotHeld,
    /// A commit's answer is unknown: leave the group and join again.
    Rejoin(String),
    /// A person must act; the partition stops.
    Stop(String),
    /// Something of this process failed (its spool): the batch is thrown away and read again.
    Local(String),
}

/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(20));

/// What one try came to.
pub enum Try<T> {
    /// Done.
    Done(T),
    /// Not now; try again.
    Again(String),
    /// Never.
    Halt(Halt),
}

impl<T> Try<T> {
    /// What a failed document comes to for a partition that is held: refusals may be mended by somebody, damage not.
    pub fn of(error: &BucketError) -> Self {
        match error.verdict() {
            Verdict::Retry | Verdict::Refused => Self::Again(chain(error)),
            Verdict::Stop => Self::Halt(Halt::Stop(chain(error))),
        }
    }
}

impl Context {
    /// What `layout` needs of the registry.
    ///
    /// # Errors
    /// [`Missing`].
    pub async fn schemas(&self, layout: &Layout, decided: &Decided) -> Result<Schemas, Missing> {
        schemas(self.registry.as_ref(), layout, decided).await
    }

    /// Tries until it is done, halted, or the partition is no longer held. Pauses double from 0.2 s to 20 s. While it fails,
    /// health names `what` and the last reason.
    ///
    /// # Errors
    /// [`Halt`].
    pub async fn while_held<T, F, R>(&self, held: &Held, what: &str, mut attempt: F) -> Result<T, Halt>
    where
        F: FnMut() -> R,
        R: Future<Output = Try<T>>,
    {
        let mut pause = BACKOFF.0;
        let trouble = self.health.trouble(what);
        loop {
            if !self.coordinator.is_held(held) {
                return Err(Halt::NotHeld);
            }
            match attempt().await {
                Try::Done(value) => return Ok(value),
                Try::Halt(halt) => return Err(halt),
                Try::Again(reason) => {
                    trouble.report(&reason);
                    metrics::counter!("siltstone_retries_total").increment(1);
                    tracing::warn!(partition = %held.partition, reason, pause_ms = pause.as_millis() as u64, "{what} failed; trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Commits, and tries again only where the coordinator said that it did not happen.
    ///
    /// # Errors
    /// [`Halt`]; an unknown answer is [`Halt::Rejoin`].
    pub async fn commit(&self, effect: Effect, held: &Held, offset: i64, metadata: String) -> Result<(), Halt> {
        if metadata.len() > METADATA_BYTES_MAX {
            return Err(Halt::Stop(format!(
                "{}: the metadata of offset {offset} has {} bytes and Kafka takes {METADATA_BYTES_MAX}; this is a bug, \
                 nothing is lost: {metadata}",
                held.partition,
                metadata.len()
            )));
        }
        self.while_held(held, "commit an offset", || {
            let metadata = metadata.clone();
            async move {
                match requests::commit(effect, &*self.coordinator, held.clone(), offset, metadata).await {
                    Ok(()) => Try::Done(()),
                    Err(CommitError::NotHeld) => Try::Halt(Halt::NotHeld),
                    Err(CommitError::Fenced(reason)) => Try::Again(reason),
                    Err(CommitError::Unknown(_)) if has(Bug::UnknownCommitIsDone) => Try::Done(()),
                    Err(CommitError::Unknown(reason)) => Try::Halt(Halt::Rejoin(reason)),
                    Err(CommitError::Refused(reason)) => Try::Halt(Halt::Stop(format!(
                        "the coordinator refuses to commit offset {offset} of {}: {reason}",
                        held.partition
                    ))),
                }
            }
        })
        .await
    }

    /// The archive that wants `topic`, with its index: the first one in the file.
    pub fn archive_of(&self, topic: &str) -> Option<(usize, &ArchiveContext)> {
        self.archives
            .iter()
            .enumerate()
            .find_map(|(index, archive)| archive.topics.matches(topic).then_some((index, &**archive)))
    }

    /// What completes the folders of `topic`, which is of `archive`, as long as `goes_on`.
    pub fn seams<'a>(
        &'a self,
        archive: &'a ArchiveContext,
        complete: &'a Complete,
        topic: &'a str,
        goes_on: &'a (dyn Fn() -> bool + Sync),
    ) -> Seams<'a> {
        Seams {
            bucket: &archive.bucket,
            destinations: &self.destinations,
            coordinator: &*self.coordinator,
            clock: &*self.clock,
            goes_on,
            archive: &archive.name,
            topic,
            rules: complete.rules,
            marker: &complete.marker,
            revise_after_ms: complete.revise_after_ms,
            loaders: &archive.loaders,
            parts_max: PARTS_MAX,
        }
    }

    /// What loading works with.
    pub fn load_seams(
        &self,
        archive: &ArchiveContext,
        topic: &str,
        goes_on: Arc<dyn Fn() -> bool + Send + Sync>,
    ) -> LoadSeams {
        LoadSeams {
            bucket: archive.bucket.clone(),
            clock: self.clock.clone(),
            goes_on,
            archive: archive.name.clone(),
            topic: topic.to_string(),
        }
    }

    /// What telling hooks of receipts below `committed` works with.
    pub fn tell_seams<'a>(
        &'a self,
        archive: &'a ArchiveContext,
        partition: &'a TopicPartition,
        committed: i64,
        goes_on: &'a (dyn Fn() -> bool + Sync),
    ) -> TellSeams<'a> {
        let (bucket, clock, name) = (&archive.bucket, &*self.clock, &*archive.name);
        TellSeams { bucket, clock, goes_on, archive: name, partition, committed, begin: committed }
    }

    /// The room that uploads to `destination` have.
    pub fn upload_room(&self, destination: &Destination) -> &UploadRoom {
        self.upload_rooms.get(destination.id()).expect("every destination was given one at the start")
    }
}

/// What uploads to one destination may take at the same time. Each destination has its own: a store that does not answer
/// keeps what it was given for as long as an attempt lasts, and the uploads to all others go on.
pub struct UploadRoom {
    /// How objects are sent: in as many pieces at a time as there is memory for.
    pub settings: UploadSettings,
    /// One permit an object on its way up.
    slots: Semaphore,
    /// One permit a kibibyte of pieces.
    memory: Semaphore,
    memory_kib: u32,
}

/// Held while an object is on its way up.
pub struct UploadPermit<'a> {
    _slot: Option<SemaphorePermit<'a>>,
    _memory: Option<SemaphorePermit<'a>>,
}

impl UploadRoom {
    /// Room for `concurrency` objects whose pieces, of `part_size` bytes or of `memory` where that is less, take `memory`
    /// bytes together.
    pub fn new(concurrency: usize, part_size: u64, memory: u64) -> Self {
        let memory_kib = u32::try_from(memory / 1024).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS as u32);
        Self {
            settings: UploadSettings::within(part_size.min(memory), memory),
            slots: Semaphore::new(concurrency),
            memory: Semaphore::new(memory_kib as usize),
            memory_kib,
        }
    }

    /// Waits until there is room for an object of `bytes` bytes.
    pub async fn enter(&self, bytes: u64) -> UploadPermit<'_> {
        let kib = self.settings.memory(bytes).div_ceil(1024);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX).clamp(1, self.memory_kib);
        // Neither is ever closed.
        let slot = self.slots.acquire().await.ok();
        UploadPermit { _slot: slot, _memory: self.memory.acquire_many(kib).await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const MIB: u64 = 1 << 20;

    /// Goal: an object waits while the slots or the memory of its destination are taken, and goes on when they are given
    /// back. Method: futures are polled once; nothing else runs.
    #[test]
    fn a_room_holds_its_slots_and_its_memory() {
        let room = UploadRoom::new(2, 8 * MIB, 16 * MIB);
        let small = room.enter(1).now_or_never().expect("room for the first");
        let large = room.enter(100 * MIB).now_or_never();
        assert!(large.is_none(), "two pieces are all of the memory");
        let second = room.enter(8 * MIB).now_or_never().expect("room for one piece");
        assert!(room.enter(1).now_or_never().is_none(), "there are two slots");
        drop((small, second));
        let all = room.enter(100 * MIB).now_or_never().expect("room for two pieces");
        assert!(room.enter(1).now_or_never().is_none(), "a slot is free, but no memory");
        drop(all);
        assert!(room.enter(1).now_or_never().is_some());
    }

    /// An object larger than everything goes up alone instead of never, in pieces that fit.
    #[test]
    fn a_piece_is_no_larger_than_the_room() {
        let room = UploadRoom::new(8, 64 * MIB, 5 * MIB);
        assert_eq!(room.settings, UploadSettings { part_size: 5 * MIB, pieces: 1 });
        for bytes in [0, 5 * MIB, 6 * MIB, 100 * MIB, 1 << 50] {
            assert!(room.enter(bytes).now_or_never().is_some(), "{bytes}");
        }
    }
}
