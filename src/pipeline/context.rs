//! What every partition's work shares: the seams, the stores, the bounds.

use super::archive::{Archive, PinnedSchemas};
use super::start::chain;
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::config::{Rotate, Start, TopicPatterns, UploadConfig};
use crate::consume::{CommitError, Coordinator, Held};
use crate::destination::Destination;
use crate::destination::fault::Verdict;
use crate::layout::Layout;
use crate::telemetry::health::Health;
use crate::upload::UploadSettings;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;

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
    /// One permit a kibibyte of upload buffers; see [`Context::upload_permits`].
    pub upload_memory: Semaphore,
    /// One permit an object on its way up.
    pub uploads: Semaphore,
    /// What `upload_memory` started with.
    pub upload_memory_kib: u32,
    /// Bytes the spool may hold.
    pub spool_limit: u64,
    /// Take the receipts' word where the group has none.
    pub resume_from_receipts: bool,
    /// What is wrong at the moment.
    pub health: Arc<Health>,
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
    /// When batches are sealed.
    pub rotate: Rotate,
    /// Records gone before they were read halt the partition.
    pub halt_on_gap: bool,
    /// Event times further ahead of the Kafka timestamp do not move the watermark.
    pub max_future_ms: i64,
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
    /// # Errors
    /// `Err(Some(text))`: it cannot be had, and why; `Err(None)`: the store does not answer, try again.
    pub async fn archive_for(&self, context: &Context, fingerprint: &str) -> Result<Arc<Archive>, Option<String>> {
        if let Some(own) = self.compiled.get().filter(|own| own.fingerprint == fingerprint) {
            return Ok(own.clone());
        }
        let (layout, bucket) = self.stored_layout(context, fingerprint).await?;
        let failed = |error: BucketError| (error.verdict() == Verdict::Stop).then(|| chain(&error));
        let pinned = load_pinned(&bucket, &layout).await.map_err(failed)?;
        let pinned = pinned
            .ok_or_else(|| Some(format!("layout {fingerprint}: a schema that it was planned with is not pinned")))?;
        Archive::compile(&layout, &context.destinations, &pinned).map(Arc::new).map_err(Some)
    }

    /// A layout of this archive, from its own bucket or, where its first destination was changed since, from another one of the
    /// configuration.
    async fn stored_layout(&self, context: &Context, fingerprint: &str) -> Result<(Layout, Bucket), Option<String>> {
        let elsewhere = context.destinations.values().map(|destination| Bucket::new(destination.clone()));
        let mut reason = None;
        for bucket in std::iter::once(self.bucket.clone()).chain(elsewhere) {
            match bucket.get_layout(fingerprint).await {
                Ok(layout) => return Ok((layout, bucket)),
                Err(error) if error.verdict() == Verdict::Stop => reason = reason.or_else(|| Some(chain(&error))),
                Err(_) => return Err(None),
            }
        }
        Err(reason)
    }
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
    pub async fn commit(&self, held: &Held, offset: i64, metadata: String) -> Result<(), Halt> {
        self.while_held(held, "commit an offset", || {
            let metadata = metadata.clone();
            async move {
                match self.coordinator.commit(held.clone(), offset, metadata).await {
                    Ok(()) => Try::Done(()),
                    Err(CommitError::NotHeld) => Try::Halt(Halt::NotHeld),
                    Err(CommitError::Fenced(reason)) => Try::Again(reason),
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

    /// How objects are sent: in as many pieces at a time as `upload_memory` has room for.
    pub fn upload_settings(&self) -> UploadSettings {
        UploadSettings::within(self.upload.part_size, u64::from(self.upload_memory_kib) * 1024)
    }

    /// How many permits of `upload_memory` an object of `bytes` bytes takes while it goes up.
    pub fn upload_permits(&self, bytes: u64) -> u32 {
        let kib = self.upload_settings().memory(bytes).div_ceil(1024);
        u32::try_from(kib).unwrap_or(u32::MAX).clamp(1, self.upload_memory_kib)
    }
}
