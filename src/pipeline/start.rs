//! What a process does before it joins the group: open the stores, prove whose archive this is, store the layouts,
//! compile what can be compiled.

use super::archive::Archive;
use super::context::{ArchiveContext, Complete, Context, Folding, StartRule, UploadRoom, load_pinned};
use super::core::Core;
use super::schedule::Schedule;
use super::{Bounds, Pipeline};
use crate::bucket::identity::StoredStart;
use crate::bucket::probe::ProbeError;
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::complete::horizon::Rules;
use crate::config::{ArchiveConfig, CompleteConfig, Config, MemoryShares, Start};
use crate::consume::{Coordinator, LogBounds, Source};
use crate::decode::Schemas;
use crate::destination::Destination;
use crate::destination::fault::Verdict;
use crate::exit::{Exit, Failure};
use crate::hook;
use crate::load::open::{Shared, open};
use crate::record::TopicPartition;
use crate::registry::{Registry, RegistryError};
use crate::spool::Spool;
use crate::spool::encode::EncodePool;
use crate::telemetry::health::Health;
use crate::telemetry::status::Status;
use crate::upload::{UploadError, room_for_pieces};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// How long a store may be out of reach when a process starts.
const START_PATIENCE_MS: i64 = 30_000;

/// Half-written local files older than this belong to dead processes.
const STAGE_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a pipeline is started with besides its configuration.
pub struct Parts {
    /// Keeps offsets.
    pub coordinator: Arc<dyn Coordinator>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Stores by URL.
    pub destinations: BTreeMap<String, Arc<Destination>>,
    /// Kafka partitions by topic, as they are now.
    pub topics: BTreeMap<String, i32>,
    /// Collects what is wrong.
    pub health: Arc<Health>,
    /// `--resume-from-receipts`.
    pub resume_from_receipts: bool,
    /// What is archived, where that is not all that comes.
    pub schedule: Option<Schedule>,
    /// The group that the archive belongs to, where it is not the one that commits.
    pub owner: Option<String>,
    /// What is folded of receipts, and when.
    pub folding: Folding,
    /// A number that no other living process has, for its names in the spool.
    pub process: u64,
}

/// Opens every configured destination.
///
/// # Errors
/// The first one that cannot be opened; nothing was sent anywhere.
pub fn open_destinations(config: &Config) -> Result<BTreeMap<String, Arc<Destination>>, Failure> {
    let mut destinations = BTreeMap::new();
    for (name, section) in &config.destinations {
        let destination = Destination::open(name, section)
            .map_err(|error| Failure::new(Exit::Config, format!("[destinations.{name}]: {}", chain(&error))))?;
        destinations.insert(destination.id().to_string(), Arc::new(destination));
    }
    Ok(destinations)
}

/// The configured schema registry. Contacts nobody yet.
///
/// # Errors
/// Its settings cannot work.
pub fn open_registry(config: &Config) -> Result<Option<Arc<Registry>>, Failure> {
    let opened = config.registry.as_ref().map(Registry::new).transpose();
    Ok(opened.map_err(|problem| Failure::new(Exit::Config, format!("[registry]: {problem}")))?.map(Arc::new))
}

/// Asks the registry for something: a refused login ends the process. One that does not answer is waited for when it is needed.
async fn prove(clock: &dyn Clock, registry: &Registry) -> Result<(), Failure> {
    let started_ms = clock.monotonic_ms();
    match registry.probe().await {
        Ok(()) => Ok(()),
        Err(error @ RegistryError::Refused { .. }) => Err(Failure::new(Exit::Refused, error.to_string())),
        Err(error) => {
            let waited_ms = clock.monotonic_ms() - started_ms;
            tracing::warn!(waited_ms, "{error}; partitions with records that need it will wait");
            Ok(())
        }
    }
}

/// Proves stores and identity, stores layouts, and gives the context that partitions work with.
///
/// # Errors
/// A [`Failure`] with its exit code: refused, unreachable, another archive's prefix, a schema that cannot be read.
pub async fn prepare(config: &Config, parts: Parts) -> Result<Arc<Context>, Failure> {
    let clock = parts.clock.clone();
    let unreachable = |reason| Failure::new(Exit::Unreachable, format!("read the Kafka cluster's id: {reason}"));
    let cluster_id = parts.coordinator.cluster_id().await.map_err(unreachable)?;
    for destination in parts.destinations.values() {
        let bucket = Bucket::new(destination.clone());
        patiently(&*clock, &format!("destination {}", destination.id()), || bucket.probe_for_start()).await?;
    }
    for destination in parts.destinations.values() {
        let (destination, now_ms) = (destination.clone(), clock.wall_ms());
        // What dead processes left half written in local folders; a large tree takes a while, so beside everything else.
        tokio::spawn(async move {
            if let Err(error) = destination.sweep_stages(STAGE_AGE_MAX, now_ms).await {
                tracing::warn!(destination = destination.id(), %error, "could not sweep half-written files");
            }
        });
    }
    let registry = open_registry(config)?;
    if let Some(registry) = &registry {
        prove(&*clock, registry).await?;
    }
    let mut archives = Vec::new();
    for archive in &config.archives {
        archives.push(Arc::new(prepare_archive(config, archive, &parts, &cluster_id, registry.as_ref()).await?));
    }
    let upload_memory = MemoryShares::of(config.memory.budget).upload_to_each(parts.destinations.len());
    let room = |destination: &Arc<Destination>| {
        let memory = room_for_pieces(destination.kind(), upload_memory);
        let room = UploadRoom::new(config.upload.concurrency, config.upload.part_size, memory);
        (destination.id().to_string(), room)
    };
    let upload_rooms = parts.destinations.values().map(room).collect();
    Ok(Arc::new(Context {
        coordinator: parts.coordinator,
        clock,
        destinations: parts.destinations,
        archives,
        cluster_id,
        upload: config.upload.clone(),
        upload_rooms,
        spool_dir: config.spool.dir.clone(),
        spool_limit: config.spool.limit,
        resume_from_receipts: parts.resume_from_receipts,
        schedule: parts.schedule,
        registry,
        folding: parts.folding,
        folds: Semaphore::new(1),
        process: parts.process,
        health: parts.health,
    }))
}

async fn prepare_archive(
    config: &Config,
    archive: &ArchiveConfig,
    parts: &Parts,
    cluster_id: &str,
    registry: Option<&Arc<Registry>>,
) -> Result<ArchiveContext, Failure> {
    let clock = &*parts.clock;
    let layout = &archive.layout;
    let home_url = &layout.outputs[0].place.destinations[0];
    let home = parts.destinations.get(home_url).ok_or_else(|| {
        Failure::new(Exit::Config, format!("archive {}: no destination has the URL {home_url}", archive.name))
    })?;
    let bucket = Bucket::new(home.clone()).of_generation(layout.generation);
    let what = format!("archive {}", archive.name);
    let start = stored_start(config, parts).await?;
    let group = parts.owner.as_ref().unwrap_or(&config.kafka.group);
    let identity = patiently(clock, &what, || bucket.ensure_identity(cluster_id, group, start.clone())).await?;
    let compiled = OnceLock::new();
    match patiently(clock, &what, || load_pinned(&bucket, layout)).await? {
        Some(pinned) => {
            let own = Archive::compile(layout, &parts.destinations, &pinned, &Schemas::of(layout, registry, None))
                .map_err(|reason| Failure::new(Exit::Config, format!("{what}: {reason}")))?;
            drop(compiled.set(Arc::new(own)));
        }
        // Not pinned yet: the first records decide.
        None if home.conditional_put() => {}
        None => {
            return Err(Failure::new(
                Exit::Config,
                format!(
                    "{what}: {} cannot create objects only if absent, so `schema = \"infer\"` cannot be used; give a schema",
                    home.id()
                ),
            ));
        }
    }
    patiently(clock, &what, || bucket.put_layout(layout)).await?;
    let (loaders, hooks) = match parts.schedule {
        // Where nothing is completed nothing is loaded, and nobody is told of what a job archives.
        Some(_) => (Vec::new(), Vec::new()),
        None => {
            let shared = Shared { config, archive, bucket: &bucket, clock: &parts.clock, registry };
            let hooks = hook::open::open(config, archive, &parts.coordinator)?;
            let mut loaders = open(&shared).await?;
            loaders.extend(hook::open::loaders(&hooks));
            (loaders, hooks)
        }
    };
    Ok(ArchiveContext {
        name: archive.name.clone(),
        topics: archive.topics.clone(),
        layout: layout.clone(),
        compiled,
        by_target: Mutex::default(),
        rotate: archive.rotate,
        halt_on_gap: archive.halt_on_gap,
        max_future_ms: i64::try_from(archive.max_future.as_millis()).unwrap_or(i64::MAX),
        complete: archive.complete.as_ref().map(complete_of),
        loaders,
        hooks,
        content_encoding: archive.content_encoding,
        bucket,
        start: StartRule { start: config.kafka.start, known: identity.start.ends },
    })
}

/// When folders are complete, as the configuration says.
pub fn complete_of(complete: &CompleteConfig) -> Complete {
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let rules = Rules { allowed_lateness_ms: ms(complete.allowed_lateness), idle_grace_ms: ms(complete.idle_grace) };
    Complete { rules, marker: complete.marker.clone(), revise_after_ms: ms(complete.revise_after) }
}

/// What the bucket keeps of the start: with `latest` and a time, which partitions existed and where they ended.
async fn stored_start(config: &Config, parts: &Parts) -> Result<StoredStart, Failure> {
    let mut ends = BTreeMap::new();
    if config.kafka.start == Start::Earliest {
        return Ok(StoredStart { ends });
    }
    for (topic, &count) in &parts.topics {
        if !config.archives.iter().any(|archive| archive.topics.matches(topic)) {
            continue;
        }
        let mut of_topic = Vec::new();
        for partition in 0..count {
            let partition = TopicPartition::new(topic.as_str(), partition);
            of_topic.push(first_bounds(&*parts.clock, &*parts.coordinator, &partition).await?.end);
        }
        ends.insert(topic.clone(), of_topic);
    }
    Ok(StoredStart { ends })
}

/// Where the log of a Kafka partition begins and ends, for a process that starts. A broker that has just made the topic, or lost
/// the leader of its partition, knows it a moment later.
///
/// # Errors
/// [`Exit::Unreachable`]: no answer for half a minute.
pub async fn first_bounds(
    clock: &dyn Clock,
    coordinator: &dyn Coordinator,
    partition: &TopicPartition,
) -> Result<LogBounds, Failure> {
    let ask = || async { coordinator.log_bounds(partition.clone()).await.map_err(Unanswered) };
    patiently(clock, &format!("{partition}: read the log's bounds"), ask).await
}

/// A question to Kafka that was not answered.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unanswered(String);

impl StartError for Unanswered {
    fn exit(&self) -> Option<Exit> {
        None
    }
}

/// Repeats `attempt` while the store is out of reach, for a while; what is refused ends the process at once.
///
/// # Errors
/// What was refused, or was out of reach for half a minute; `what` is named.
pub async fn patiently<T, E, F, R>(clock: &dyn Clock, what: &str, attempt: F) -> Result<T, Failure>
where
    E: StartError,
    F: Fn() -> R,
    R: Future<Output = Result<T, E>>,
{
    let deadline = clock.monotonic_ms() + START_PATIENCE_MS;
    let mut pause = Duration::from_millis(500);
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if let Some(exit) = error.exit() {
            return Err(Failure::new(exit, format!("{what}: {}", chain(&error))));
        }
        if clock.monotonic_ms() >= deadline {
            return Err(Failure::new(Exit::Unreachable, format!("{what}: {}", chain(&error))));
        }
        tracing::warn!("{what}: {}; trying again", chain(&error));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// What an error of a store means for a process that starts.
pub trait StartError: std::error::Error {
    /// How the process ends because of it; `None`: it may pass.
    fn exit(&self) -> Option<Exit>;
}

impl StartError for BucketError {
    fn exit(&self) -> Option<Exit> {
        match (self, self.verdict()) {
            (Self::IdentityMismatch { .. }, _) | (_, Verdict::Stop) => Some(Exit::Stopped),
            (Self::CannotPin { .. } | Self::CannotReplay { .. } | Self::CannotCompact { .. }, _) => Some(Exit::Config),
            (_, Verdict::Refused) => Some(Exit::Refused),
            (_, Verdict::Retry) => None,
        }
    }
}

impl StartError for UploadError {
    fn exit(&self) -> Option<Exit> {
        match self.verdict() {
            Verdict::Retry => None,
            Verdict::Refused => Some(Exit::Refused),
            Verdict::Stop => Some(Exit::Failed),
        }
    }
}

impl StartError for ProbeError {
    fn exit(&self) -> Option<Exit> {
        (self.verdict() != Verdict::Retry).then_some(Exit::Refused)
    }
}

/// An error with everything below it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// A pipeline over `source`, ready to turn.
///
/// # Errors
/// The spool or the threads cannot be had.
pub fn pipeline<S: Source>(
    config: &Config,
    context: Arc<Context>,
    source: S,
    tasks: Handle,
    status: Arc<Status>,
) -> Result<Pipeline<S>, Failure> {
    let shares = MemoryShares::of(config.memory.budget);
    let spool = Spool::open(&config.spool.dir, config.spool.limit, context.process)
        .map_err(|error| Failure::new(Exit::Config, chain(&error)))?;
    let pool = EncodePool::new(config.memory.threads, shares.encode)
        .map_err(|error| Failure::new(Exit::Failed, format!("start the encoder threads: {error}")))?;
    let bounds = Bounds { rows: usize::try_from(shares.rows).unwrap_or(usize::MAX), shutdown: config.shutdown_timeout };
    let ends = context.schedule.as_ref().map(Schedule::ends);
    let mut pipeline = Pipeline::new(source, Core::new(context, spool, pool, tasks, status), bounds);
    if let Some(ends) = ends {
        pipeline.drain_to(ends);
    }
    Ok(pipeline)
}
