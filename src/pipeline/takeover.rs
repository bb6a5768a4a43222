//! Takeover: what a process does with a Kafka partition before it reads its first record.
//!
//! The committed offset and its metadata are read, then claims and receipts from that offset on. Finished batches are
//! skipped forward along, an unfinished one is redone exactly as it was cut, and where group and bucket contradict
//! each other the partition stops and says so: nothing is doubled because a group forgot.

pub mod redo;
pub mod scheduled;

use super::archive::Archive;
use super::context::{ArchiveContext, Context, Halt, Try};
use super::schedule::Stretch;
use crate::batch::metadata::{OffsetMetadata, OffsetState};
use crate::bucket::entries::{Entry, Listed};
use crate::bucket::{Bucket, CONTROL_FOLDER};
use crate::config::Start;
use crate::consume::{Committed, Held, LogBounds};
use crate::effect::Effect;
use crate::planted::{Bug, has};
use crate::upload::Look;
use redo::{Redo, begin_with, unfinished};
use std::sync::Arc;

/// How a partition begins.
pub struct Takeover {
    /// `first` of the next batch.
    pub first: i64,
    /// First offset that Kafka still has, at or after `first`: where reading starts.
    pub read_from: i64,
    /// The batch that must be redone, if there is one.
    pub redo: Option<Redo>,
    /// With a schedule: what is archived. `None` where nothing is left, or a batch is redone first.
    pub stretch: Option<Stretch>,
    /// The compiled layout at the target of the batch before, or of the one that must be redone.
    pub at_target: Option<Arc<Archive>>,
    /// Watermark so far.
    pub watermark_ms: Option<i64>,
    /// `first` of the newest finished batch.
    pub previous_first: Option<i64>,
    /// The topic's id, where the client can tell.
    pub topic_id: Option<String>,
}

/// Takes over one held partition. `committed`: what the coordinator holds for it, read after the assignment.
///
/// # Errors
/// [`Halt`]: not held any more, an unknown commit, or a contradiction that a person must resolve.
pub async fn take_over(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    committed: Option<Committed>,
) -> Result<Takeover, Halt> {
    let partition = &held.partition;
    let topic_id = topic_id(context, held).await?;
    let metadata = committed.as_ref().and_then(|committed| OffsetMetadata::decode(&committed.metadata));
    let (offset, metadata) = match (committed, metadata) {
        (Some(committed), Some(metadata)) if metadata.generation == archive.layout.generation => {
            (committed.offset, metadata)
        }
        (Some(_), Some(metadata)) if metadata.generation > archive.layout.generation => {
            return Err(Halt::Stop(format!(
                "{partition}: the archive has reached generation {}, this configuration says {}; raise `generation` in its section",
                metadata.generation, archive.layout.generation
            )));
        }
        // An earlier generation's offset says nothing of this one.
        (Some(_), Some(_)) => first_position(context, archive, held, None, topic_id.clone()).await?,
        (committed, _) => first_position(context, archive, held, committed, topic_id.clone()).await?,
    };
    if let (Some(known), Some(found)) = (&metadata.topic_id, &topic_id)
        && known != found
    {
        return Err(Halt::Stop(recreated(&partition.topic, known, found)));
    }
    let offset = back_to_claimed_first(context, archive, held, offset, metadata.previous_first).await?;
    let mut chain = Chain::of(&metadata, topic_id);
    let (position, entry) = follow_receipts(context, archive, held, offset, &mut chain).await?;
    if position > offset {
        tracing::info!(%partition, offset, position, "receipts prove finished batches above the committed offset");
        commit_chain(context, archive, held, position, &chain, &metadata).await?;
    }
    let log = log_bounds(context, held).await?;
    let unfinished = unfinished(&metadata, offset, position, entry.as_ref());
    let (redo, at_target) = begin_with(context, archive, held, position, unfinished, &metadata).await?;
    let Chain { previous_first, watermark_ms, topic_id } = chain;
    check_bounds(archive, held, position, redo.as_ref().map(|redo| redo.end), log)?;
    let read_from = position.max(log.start);
    let stretch = None;
    Ok(Takeover { first: position, read_from, redo, stretch, at_target, watermark_ms, previous_first, topic_id })
}

/// What is carried along finished batches.
struct Chain {
    topic_id: Option<String>,
    previous_first: Option<i64>,
    watermark_ms: Option<i64>,
}

impl Chain {
    fn of(metadata: &OffsetMetadata, topic_id: Option<String>) -> Self {
        Self { topic_id, previous_first: metadata.previous_first, watermark_ms: metadata.watermark_ms }
    }
}

/// Moves the group's offset along finished batches to `position`. `before`: what is committed.
async fn commit_chain(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    position: i64,
    chain: &Chain,
    before: &OffsetMetadata,
) -> Result<(), Halt> {
    let mut done = OffsetMetadata::new(OffsetState::Done, archive.layout.generation);
    done.topic_id.clone_from(&chain.topic_id);
    (done.watermark_ms, done.previous_first) = (chain.watermark_ms, chain.previous_first);
    done.target.clone_from(&before.target);
    context.commit(Effect::ChainCommit, held, position, done.encode()).await
}

/// What to say where a topic is another one than before.
pub fn recreated(topic: &str, known: &str, found: &str) -> String {
    format!(
        "topic {topic} was deleted and created again (id {known}, now {found}): its offsets would name objects of the old \
         one. Set `generation` in this archive's section one higher to archive the new topic beside the old"
    )
}

/// Stops a partition whose log cannot be the one that was archived.
fn check_bounds(
    archive: &ArchiveContext,
    held: &Held,
    first: i64,
    redo_end: Option<i64>,
    log: LogBounds,
) -> Result<(), Halt> {
    let partition = &held.partition;
    let needed = redo_end.unwrap_or(first);
    if log.end < needed {
        return Err(Halt::Stop(format!(
            "{partition}: the log ends at offset {} but the archive has reached {needed}: the topic was created again or \
             truncated. Set `generation` in the section of archive {} one higher, or reset the group on purpose",
            log.end, archive.name
        )));
    }
    if log.start > first && archive.halt_on_gap {
        return Err(Halt::Stop(format!(
            "{partition}: offsets {first} to {} were deleted by Kafka before they were read, and on_gap = \"halt\"; set \
             on_gap = \"continue\" to count them as absent and go on",
            log.start
        )));
    }
    Ok(())
}

pub(super) async fn topic_id(context: &Context, held: &Held) -> Result<Option<String>, Halt> {
    context
        .while_held(held, "read a topic's id", || async {
            match context.coordinator.topic_id(&held.partition.topic).await {
                Ok(id) => Try::Done(id),
                Err(reason) => Try::Again(reason),
            }
        })
        .await
}

/// Where the log begins and ends now.
///
/// # Errors
/// [`Halt`].
pub async fn log_bounds(context: &Context, held: &Held) -> Result<LogBounds, Halt> {
    context
        .while_held(held, "read a log's bounds", || async {
            match context.coordinator.log_bounds(held.partition.clone()).await {
                Ok(bounds) => Try::Done(bounds),
                Err(reason) => Try::Again(reason),
            }
        })
        .await
}

/// The position of a partition whose committed offset is missing or not ours: compared with the receipts first.
async fn first_position(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    committed: Option<Committed>,
    topic_id: Option<String>,
) -> Result<(i64, OffsetMetadata), Halt> {
    let partition = &held.partition;
    let highest = context
        .while_held(held, "list receipts", || async {
            match archive.bucket.highest(partition).await {
                Ok(highest) => Try::Done(highest),
                Err(error) => Try::of(&error),
            }
        })
        .await?;
    let known_id = highest.as_ref().and_then(Entry::topic_id);
    if let (Some(known), Some(found)) = (known_id, &topic_id)
        && known != found
    {
        return Err(Halt::Stop(recreated(&partition.topic, known, found)));
    }
    let reach = highest.as_ref().map(Entry::reach);
    let unfinished_first = highest.as_ref().filter(|entry| entry.receipt.is_none()).map(|entry| entry.first);
    let offset = match (committed.as_ref().map(|committed| committed.offset), reach) {
        (Some(offset), None) => offset,
        (Some(offset), Some(_)) if has(Bug::ForeignOffsetTrusted) => offset,
        // At the end of what is vouched for, or at a batch that was claimed and must be redone.
        (Some(offset), Some(reach)) if offset >= reach || unfinished_first == Some(offset) => {
            let archived_to = unfinished_first.unwrap_or(reach);
            if offset > archived_to {
                tracing::warn!(
                    %partition,
                    archived_to,
                    "the group's committed offset {offset} was set by hand: what lies between is archived nowhere"
                );
            }
            offset
        }
        (offset, Some(reach)) if !context.resume_from_receipts => {
            unchanged(context, held, &committed).await?;
            let group = match offset {
                Some(offset) => format!("the group's committed offset {offset} carries no plan of siltstone's"),
                None => "the group has no committed offset".to_string(),
            };
            return Err(Halt::Stop(format!(
                "{partition}: {group}, but receipts in the bucket reach offset {reach}. Starting there would archive \
                 records twice. Either run with --resume-from-receipts to go on at {reach}, or use the group that wrote \
                 the receipts, or archive under another prefix"
            )));
        }
        (_, Some(_)) => {
            let highest = highest.as_ref().expect("reach comes from it");
            if highest.receipt.is_some() { highest.reach() } else { highest.first }
        }
        (None, None) => start_offset(context, archive, held).await?,
    };
    let mut metadata = OffsetMetadata::new(OffsetState::Start, archive.layout.generation);
    metadata.topic_id = topic_id;
    context.commit(Effect::StartCommit, held, offset, metadata.encode()).await?;
    tracing::info!(%partition, offset, "first position committed");
    Ok((offset, metadata))
}

/// Reads the committed offset once more before a person is called: whoever waited long for its store may have lost the
/// partition without knowing, and the receipts are its successor's.
async fn unchanged(context: &Context, held: &Held, committed: &Option<Committed>) -> Result<(), Halt> {
    // Taken over again, from the start, if the partition is still held.
    if committed_of(context, held).await? == *committed { Ok(()) } else { Err(Halt::NotHeld) }
}

/// The committed offset of one partition.
///
/// # Errors
/// [`Halt`].
pub async fn committed_of(context: &Context, held: &Held) -> Result<Option<Committed>, Halt> {
    let partition = &held.partition;
    context
        .while_held(held, "read a committed offset", || async {
            match context.coordinator.committed(vec![partition.clone()]).await {
                Ok(found) => match found.into_iter().find(|(of, _)| of == partition) {
                    Some((_, committed)) => Try::Done(committed),
                    None => Try::Again(format!(
                        "{partition}: the coordinator gives no answer for it: does the topic still exist, and may this \
                         login describe it?"
                    )),
                },
                Err(reason) => Try::Again(format!("{partition}: {reason}")),
            }
        })
        .await
}

/// What the bucket holds about a batch; `None` where there is nothing, or nothing any more.
async fn entry_of(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    listed: Listed,
) -> Result<Option<Entry>, Halt> {
    context
        .while_held(held, "read a claim and a receipt", || async {
            match archive.bucket.entry_of(&held.partition, listed).await {
                Ok(entry) => Try::Done(entry),
                Err(error) => Try::of(&error),
            }
        })
        .await
}

/// Where a partition that nobody ever archived starts.
async fn start_offset(context: &Context, archive: &ArchiveContext, held: &Held) -> Result<i64, Halt> {
    let partition = &held.partition;
    let log = log_bounds(context, held).await?;
    if archive.layout.generation > 1 {
        return Ok(log.start);
    }
    let known = archive.start.known.get(&*partition.topic);
    let known_end = known.and_then(|ends| ends.get(usize::try_from(partition.partition).ok()?));
    match (archive.start.start, known_end) {
        (Start::Earliest, _) | (_, None) => Ok(log.start),
        (Start::Latest, Some(&end)) => Ok(end.clamp(log.start, log.end)),
        (Start::Time(time_ms), Some(_)) => {
            let found = context
                .while_held(held, "look up an offset by time", || async {
                    match context.coordinator.offset_at_time(partition.clone(), time_ms).await {
                        Ok(found) => Try::Done(found),
                        Err(reason) => Try::Again(reason),
                    }
                })
                .await?;
            Ok(found.unwrap_or(log.end))
        }
    }
}

/// An offset inside a claimed batch goes back to that batch's `first`; inside a finished one it stays and the caller's
/// walk along the receipts starts from that batch.
async fn back_to_claimed_first(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    offset: i64,
    previous_first: Option<i64>,
) -> Result<i64, Halt> {
    let Some(previous_first) = previous_first.filter(|&previous| previous < offset) else { return Ok(offset) };
    match entry_of(context, archive, held, Listed::assumed(previous_first)).await? {
        Some(entry) if entry.reach() > offset => Ok(previous_first),
        Some(_) => Ok(offset),
        None => not_elsewhere(context, archive, held, previous_first).await.map(|()| offset),
    }
}

/// Stops where the batch at `first` is claimed or vouched for at another destination than the one that is asked: nothing here would
/// know of it, and records could be archived twice.
async fn not_elsewhere(context: &Context, archive: &ArchiveContext, held: &Held, first: i64) -> Result<(), Halt> {
    let home = archive.bucket.destination().id();
    for other in context.destinations.values().filter(|other| other.id() != home) {
        let bucket = Bucket::new(other.clone()).of_generation(archive.layout.generation);
        let found = context
            .while_held(held, "look for claims and receipts at another destination", || async {
                match bucket.entry_at(&held.partition, first).await {
                    Ok(entry) => Try::Done(entry.is_some()),
                    Err(error) => Try::of(&error),
                }
            })
            .await?;
        if found {
            return Err(Halt::Stop(format!(
                "{}: the archive's claims and receipts lie at {}, but this configuration looks for them at {home}, the first \
                 destination of the archive's first output. Put {} first again, or copy its folder {CONTROL_FOLDER} to {home} \
                 while no process runs",
                held.partition,
                other.id(),
                other.id()
            )));
        }
    }
    Ok(())
}

/// Walks along finished batches from `offset`. Gives the end of the chain and what lies there, if anything.
async fn follow_receipts(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    offset: i64,
    chain: &mut Chain,
) -> Result<(i64, Option<Entry>), Halt> {
    let entries = context
        .while_held(held, "list claims and receipts", || async {
            match archive.bucket.entries_from(&held.partition, offset).await {
                Ok(_) if has(Bug::ReceiptsIgnored) => Try::Done(Vec::new()),
                Ok(entries) => Try::Done(entries),
                Err(error) => Try::of(&error),
            }
        })
        .await?;
    let mut position = offset;
    let beyond = entries.last().map(|entry| entry.first);
    for entry in entries {
        if entry.first != position {
            continue;
        }
        let Some(receipt) = &entry.receipt else { return Ok((position, Some(entry))) };
        if !super::finish::objects_are_intact(context, held, receipt, Look::Shown).await? {
            tracing::warn!(partition = %held.partition, first = entry.first, "objects of a receipt are missing or damaged; redoing the batch");
            return Ok((position, Some(entry)));
        }
        chain.previous_first = Some(entry.first);
        chain.watermark_ms = chain.watermark_ms.max(receipt.watermark_ms);
        position = receipt.end;
    }
    match beyond {
        Some(first) if first > position => Err(Halt::Stop(format!(
            "{}: the archive reaches offset {position}, but a claim or receipt for offset {first} lies beyond it and nothing \
             vouches for what is between: a receipt was deleted. Restore it, or archive the topic again under another prefix",
            held.partition
        ))),
        _ => Ok((position, None)),
    }
}
