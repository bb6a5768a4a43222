//! Takeover for a backfill: the next offsets of its schedule that nothing vouches for, and where their batches end.
//!
//! Batches of other jobs, and those that are to be mended, lie between: finished and intact ones are skipped, an unfinished or damaged one is
//! redone exactly as it was cut, and no new batch reaches over the beginning of another. The group's committed offset only tells how far this
//! job is; what is archived is asked of the bucket.

use super::redo::{Redo, begin_with, unfinished};
use super::{Chain, Takeover, back_to_claimed_first, commit_chain, entry_of, recreated, topic_id};
use crate::batch::metadata::{OffsetMetadata, OffsetState};
use crate::bucket::claim::Claim;
use crate::bucket::entries::{AllListed, DamagedFold, Entry, Listed};
use crate::consume::{Committed, Held};
use crate::effect::Effect;
use crate::pipeline::context::{ArchiveContext, Context, Halt, Try};
use crate::pipeline::earlier::{Earlier, check_compacted};
use crate::pipeline::finish::objects_are_intact;
use crate::pipeline::schedule::Schedule;
use crate::record::OffsetRange;

/// Takes over one held partition for `schedule`.
///
/// # Errors
/// [`Halt`]: not held any more, an unknown commit, or a contradiction that a person must resolve.
pub async fn take_over(
    context: &Context,
    archive: &ArchiveContext,
    schedule: &Schedule,
    held: &Held,
    committed: Option<Committed>,
) -> Result<Takeover, Halt> {
    let partition = &held.partition;
    let topic_id = topic_id(context, held).await?;
    if let (Some(known), Some(found)) = (schedule.topic_id(), &topic_id)
        && known != found
    {
        return Err(Halt::Stop(recreated(&partition.topic, known, found)));
    }
    let ours = committed.and_then(|committed| {
        let metadata = OffsetMetadata::decode(&committed.metadata)?;
        (metadata.generation == archive.layout.generation).then_some((committed.offset, metadata))
    });
    let (offset, metadata) = match ours {
        Some(ours) => ours,
        None => {
            let mut start = OffsetMetadata::new(OffsetState::Start, archive.layout.generation);
            start.topic_id.clone_from(&topic_id);
            let first = schedule.next(partition, 0).unwrap_or(0);
            context.commit(Effect::StartCommit, held, first, start.encode()).await?;
            (first, start)
        }
    };
    let offset = back_to_claimed_first(context, archive, held, offset, metadata.previous_first).await?;
    let mut chain = Chain::of(&metadata, topic_id);
    let ahead = skip_finished(context, archive, schedule, held, offset, &mut chain).await?;
    let position = ahead.position;
    let unfinished = match ahead.next {
        Next::Nothing => None,
        Next::Batch { .. } => unfinished(&metadata, offset, position, ahead.entry.as_ref()),
    };
    if position > offset {
        commit_chain(context, archive, held, position, &chain, &metadata).await?;
    }
    let log = super::log_bounds(context, held).await?;
    let (redo, at_target) = begin_with(context, archive, held, position, unfinished, &metadata).await?;
    let redo = redo.or_else(|| one_batch(archive, schedule, held, position, &ahead));
    let redo_end = redo.as_ref().map(|redo| redo.end);
    // What follows a redone batch is taken over when that is through: by then Kafka may have deleted some of it.
    let stretch = match ahead.next {
        Next::Batch { limit } if redo.is_none() => {
            let stretch = schedule.stretch(partition, position);
            stretch.map(|stretch| stretch.up_to(limit.unwrap_or(i64::MAX))).filter(|stretch| stretch.end > position)
        }
        _ => None,
    };
    let needed = redo_end.or(stretch.map(|stretch| stretch.end)).unwrap_or(position);
    if log.end < needed {
        return Err(Halt::Stop(format!(
            "{partition}: the log ends at offset {} but the job wants it up to {needed}: the topic was created again or truncated",
            log.end
        )));
    }
    let deleted = OffsetRange::new(position, log.start.min(needed));
    // A receipt that is there names its objects, and stays.
    let is_vouched = ahead.entry.as_ref().is_some_and(|entry| entry.receipt.is_some());
    if let Some(kept) = schedule.kept_of(partition, deleted).filter(|_| !is_vouched) {
        return Err(Halt::Stop(kept_as_it_is(schedule, held, kept)));
    }
    if !is_vouched && position < needed {
        check_compacted(context, &archive.bucket, held, OffsetRange::new(position, needed)).await?;
    }
    let read_from = position.max(log.start);
    let Chain { previous_first, watermark_ms, topic_id } = chain;
    Ok(Takeover { first: position, read_from, redo, stretch, at_target, watermark_ms, previous_first, topic_id })
}

/// A span that is to be one batch, as names of its objects tell, is cut nowhere, whatever is full: under other names its rows would be there
/// twice. Where the batch's target is in a registry, the schemas of its records cut it as they do any batch.
fn one_batch(archive: &ArchiveContext, schedule: &Schedule, held: &Held, position: i64, ahead: &Ahead) -> Option<Redo> {
    let Next::Batch { limit } = ahead.next else { return None };
    let end = schedule.batch_at(&held.partition, position)?;
    let is_free = ahead.entry.is_none() && limit.is_none_or(|limit| limit >= end) && !archive.layout.needs_target();
    let compiled = archive.compiled.get().filter(|_| is_free)?;
    Some(Redo { end, archive: compiled.clone(), earlier: Earlier::default() })
}

/// What to say where Kafka has deleted offsets since the job was made, and objects hold rows of them that no receipt names.
fn kept_as_it_is(schedule: &Schedule, held: &Held, kept: OffsetRange) -> String {
    let partition = &held.partition;
    let job = schedule.job().unwrap_or_default();
    format!(
        "{partition}: Kafka has deleted the offsets {kept} since the job was made, and objects that no receipt names hold rows of them: a \
         receipt would declare these rows absent, so none is written. Stop the other processes of the job, give it up with --job {job} \
         --cancel, and run `siltstone backfill --missing --topic {}` again: it leaves these offsets as they are and says what can be done",
        partition.topic
    )
}

/// Where a job goes on.
struct Ahead {
    position: i64,
    /// What the bucket holds about the batch that begins there.
    entry: Option<Entry>,
    next: Next,
}

enum Next {
    /// All of the schedule is done.
    Nothing,
    /// A batch begins at the position, and none may reach beyond `limit`, where another one begins.
    Batch { limit: Option<i64> },
}

/// Walks along the schedule over batches that are finished and intact.
async fn skip_finished(
    context: &Context,
    archive: &ArchiveContext,
    schedule: &Schedule,
    held: &Held,
    offset: i64,
    chain: &mut Chain,
) -> Result<Ahead, Halt> {
    let partition = &held.partition;
    // Never a batch outside of the schedule, whatever lies there: it is the live group's.
    let Some(mut position) = schedule.next(partition, offset) else {
        return Ok(Ahead { position: offset, entry: None, next: Next::Nothing });
    };
    // Span by span: a job may mend a few batches of a million.
    loop {
        // The batch before this job's last one reaches no further than that.
        let from = chain.previous_first.filter(|&first| first < position).unwrap_or(0);
        let until = schedule.stretch(partition, position).map_or(position, |stretch| stretch.end);
        let AllListed { listed, damaged } = context
            .while_held(held, "list claims and receipts", || async {
                match archive.bucket.listed_with_damaged(partition, from, until).await {
                    Ok(all) => Try::Done(all),
                    Err(error) => Try::of(&error),
                }
            })
            .await?;
        stop_in_a_damaged_fold(held, &damaged, position)?;
        position = behind_the_batch_before(context, archive, held, (&listed, &damaged), position).await?;
        match schedule.next(partition, position) {
            Some(next) => position = next,
            None => return Ok(Ahead { position, entry: None, next: Next::Nothing }),
        }
        if position < until
            && let Some(ahead) =
                walk(context, archive, schedule, held, (&listed, &damaged), (&mut position, until), chain).await?
        {
            return Ok(ahead);
        }
    }
}

/// Walks along `listed` batches up to `until`. `None`: the schedule goes on behind it, at `position`.
async fn walk(
    context: &Context,
    archive: &ArchiveContext,
    schedule: &Schedule,
    held: &Held,
    (listed, damaged): (&[Listed], &[DamagedFold]),
    (position, until): (&mut i64, i64),
    chain: &mut Chain,
) -> Result<Option<Ahead>, Halt> {
    let partition = &held.partition;
    while *position < until {
        stop_in_a_damaged_fold(held, damaged, *position)?;
        let index = listed.partition_point(|listed: &Listed| listed.first < *position);
        // No batch reaches over the beginning of what a fold may have.
        let fold = damaged.iter().map(|fold| fold.range.first).find(|&first| first > *position);
        let limit_behind = |index: usize| listed.get(index).map(|listed| listed.first).into_iter().chain(fold).min();
        let begins = |entry, limit| Some(Ahead { position: *position, entry, next: Next::Batch { limit } });
        let here = listed.get(index).filter(|listed| listed.first == *position);
        let Some(here) = here else { return Ok(begins(None, limit_behind(index))) };
        let first = here.first;
        let entry = entry_of(context, archive, held, *here).await?;
        let receipt = entry.as_ref().and_then(|entry| entry.receipt.as_ref());
        if let (Some(known), Some(now)) = (entry.as_ref().and_then(Entry::topic_id), &chain.topic_id)
            && known != now
        {
            return Err(Halt::Stop(recreated(&partition.topic, known, now)));
        }
        if let Some(entry) = entry.as_ref()
            && let Some(other) = listed.get(index + 1).filter(|other| other.first < entry.reach())
        {
            return Err(Halt::Stop(format!(
                "{partition}: the batch [{first}, {}) is claimed, and another one begins inside it at offset {}: one of them was made by \
                 another job while this one was given up. `siltstone verify` shows what is there; move away the objects that the claim without receipt names, then \
                 delete that claim",
                entry.reach(),
                other.first
            )));
        }
        let Some(receipt) = receipt else { return Ok(begins(entry, limit_behind(index + 1))) };
        if !objects_are_intact(context, held, receipt, schedule.look(partition, first)).await? {
            tracing::info!(%partition, first, end = receipt.end, "objects of a batch are missing or damaged; redoing it");
            return Ok(begins(entry, limit_behind(index + 1)));
        }
        (chain.previous_first, chain.watermark_ms) = (Some(first), chain.watermark_ms.max(receipt.watermark_ms));
        let end = receipt.end;
        match schedule.next(partition, end) {
            Some(next) => *position = next,
            None => return Ok(Some(Ahead { position: end, entry: None, next: Next::Nothing })),
        }
    }
    Ok(None)
}

/// # Errors
/// [`Halt::Stop`]: whether a batch at `position` has a receipt cannot be told.
fn stop_in_a_damaged_fold(held: &Held, damaged: &[DamagedFold], position: i64) -> Result<(), Halt> {
    match damaged.iter().find(|fold| fold.range.contains(position)) {
        Some(fold) => Err(Halt::Stop(format!("{}: offset {position}: {}", held.partition, fold.error))),
        None => Ok(()),
    }
}

/// Where one may begin at `position` or behind it: a batch that begins below may reach over it.
///
/// # Errors
/// [`Halt::Stop`]: that batch is claimed and not finished.
async fn behind_the_batch_before(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    (listed, damaged): (&[Listed], &[DamagedFold]),
    position: i64,
) -> Result<i64, Halt> {
    let index = listed.partition_point(|listed| listed.first < position);
    let Some(before) = index.checked_sub(1).and_then(|index| listed.get(index)) else { return Ok(position) };
    let (partition, first) = (&held.partition, before.first);
    // What a fold has ends where the fold ends, or before it; a claim alone may be of a batch that it has.
    if !before.receipt && damaged.iter().any(|fold| fold.range.contains(first)) {
        let claim = claim_at(context, archive, held, first).await?;
        return match claim.filter(|claim| claim.end > position) {
            None => Ok(position),
            Some(claim) => Err(Halt::Stop(format!(
                "{partition}: offset {position} lies inside the batch [{first}, {}), which is claimed and whose receipt may be in a fold that \
                 cannot be read: `siltstone verify` names the fold",
                claim.end
            ))),
        };
    }
    let entry = entry_of(context, archive, held, *before).await?;
    let Some(entry) = entry.filter(|entry| entry.reach() > position) else { return Ok(position) };
    match entry.receipt {
        Some(receipt) => Ok(receipt.end),
        None => Err(Halt::Stop(format!(
            "{partition}: offset {position} lies inside the batch [{first}, {}), which was claimed and never finished: it is finished whole, by a \
             backfill from offset {first} on, once this job has ended or is cancelled",
            entry.reach()
        ))),
    }
}

async fn claim_at(context: &Context, archive: &ArchiveContext, held: &Held, first: i64) -> Result<Option<Claim>, Halt> {
    context
        .while_held(held, "read a claim", || async {
            match archive.bucket.get_claim(&held.partition, first).await {
                Ok(claim) => Try::Done(claim),
                Err(error) => Try::of(&error),
            }
        })
        .await
}
