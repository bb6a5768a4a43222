//! The batch that a takeover begins with: one that was decided and is not finished, or whose objects are not as its receipt says. It is redone
//! exactly as it was cut.

use crate::batch::metadata::{OffsetMetadata, OffsetState};
use crate::bucket::entries::Entry;
use crate::consume::Held;
use crate::pipeline::archive::Archive;
use crate::pipeline::context::{ArchiveContext, Context, Decided, Halt, Missing, Try};
use crate::pipeline::earlier::Earlier;
use crate::planted::{Bug, has};
use crate::upload::Look;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A batch whose cut is fixed.
pub struct Redo {
    /// Where it ends.
    pub end: i64,
    /// The compiled layout it was planned with.
    pub archive: Arc<Archive>,
    /// What is known of earlier tries.
    pub earlier: Earlier,
}

/// An unfinished batch as its claim or plan describes it.
pub(super) struct Unfinished {
    end: i64,
    fingerprint: String,
    /// The schema that its rows are projected onto.
    target: Option<String>,
    /// The schemas that were unknown, where that is decided.
    unknown_schemas: Option<BTreeSet<u32>>,
    spool_bytes: u64,
    earlier: Earlier,
}

/// The batch at `position` that was decided but not finished. Where claim and plan differ, the claim wins: objects are
/// uploaded only after it.
pub(super) fn unfinished(
    metadata: &OffsetMetadata,
    offset: i64,
    position: i64,
    entry: Option<&Entry>,
) -> Option<Unfinished> {
    if let Some(entry) = entry.filter(|entry| entry.first == position) {
        let vouched = entry.receipt.clone().map(Box::new);
        // Objects of it are not as it says: whatever was done to them, what they show may be left from before.
        let look = if vouched.is_some() { Look::Bytes } else { Look::Shown };
        if let Some(claim) = &entry.claim {
            return Some(Unfinished {
                end: claim.end,
                fingerprint: claim.fingerprint.clone(),
                target: claim.target.clone(),
                unknown_schemas: Some(claim.unknown_schemas.clone()),
                spool_bytes: claim.spool_bytes,
                earlier: Earlier { claimed: claim.keys.clone(), vouched, look },
            });
        }
        if let Some(receipt) = &entry.receipt {
            return Some(Unfinished {
                end: receipt.end,
                fingerprint: receipt.fingerprint.clone(),
                target: receipt.target.clone(),
                unknown_schemas: None,
                spool_bytes: 0,
                earlier: Earlier { claimed: Vec::new(), vouched, look },
            });
        }
    }
    match &metadata.state {
        OffsetState::Plan { end, fingerprint, spool_bytes, .. } if offset == position => Some(Unfinished {
            end: *end,
            fingerprint: fingerprint.clone(),
            target: metadata.target.clone(),
            unknown_schemas: None,
            spool_bytes: *spool_bytes,
            earlier: Earlier::default(),
        }),
        _ => None,
    }
}

/// How the partition begins at `position`: the batch that must be redone, and the compiled layout at the target that it or the one before has.
pub(super) async fn begin_with(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    position: i64,
    unfinished: Option<Unfinished>,
    metadata: &OffsetMetadata,
) -> Result<(Option<Redo>, Option<Arc<Archive>>), Halt> {
    let target = unfinished.as_ref().map_or(&metadata.target, |unfinished| &unfinished.target).clone();
    let redo = match unfinished {
        None => None,
        Some(unfinished) => Some(redo(context, archive, held, position, unfinished).await?),
    };
    let at_target = match target.filter(|_| archive.layout.needs_target()) {
        Some(target) => at_target(context, archive, held, &target).await?,
        None => None,
    };
    Ok((redo, at_target))
}

async fn redo(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    first: i64,
    unfinished: Unfinished,
) -> Result<Redo, Halt> {
    if unfinished.spool_bytes > context.spool_limit {
        return Err(Halt::Stop(format!(
            "{}: the unfinished batch [{first}, {}) takes {} bytes in the spool, but [spool] limit is {}; raise it",
            held.partition, unfinished.end, unfinished.spool_bytes, context.spool_limit
        )));
    }
    let fingerprint = match archive.compiled.get().filter(|_| has(Bug::RedoWithOwnLayout)) {
        Some(own) => &own.fingerprint,
        None => &unfinished.fingerprint,
    };
    let target = unfinished.target.as_deref().map(str::parse).transpose();
    let target = target.map_err(|problem: String| {
        Halt::Stop(format!(
            "{}: the schema of the unfinished batch [{first}, {}): {problem}",
            held.partition, unfinished.end
        ))
    })?;
    let decided = Decided { target, unknown: unfinished.unknown_schemas };
    let compiled = context
        .while_held(held, "read a stored layout and its schemas", || async {
            attempt(held, archive.archive_for(context, fingerprint, &decided).await)
        })
        .await?;
    tracing::info!(partition = %held.partition, first, end = unfinished.end, "redoing an unfinished batch");
    metrics::counter!("siltstone_redone_batches_total").increment(1);
    Ok(Redo { end: unfinished.end, archive: compiled, earlier: unfinished.earlier })
}

/// The compiled layout at `target`, which an earlier batch had; `None` where that cannot be had any more: the first record
/// decides anew then.
async fn at_target(
    context: &Context,
    archive: &ArchiveContext,
    held: &Held,
    target: &str,
) -> Result<Option<Arc<Archive>>, Halt> {
    let Ok(target) = target.parse() else { return Ok(None) };
    // Where a schema has yet to be inferred nothing was archived, whatever another layout had for a target.
    if archive.compiled.get().is_none() {
        return Ok(None);
    }
    context
        .while_held(held, "ask the schema registry", || async {
            match archive.at_target(context, &target).await {
                Err(Missing::Never(reason) | Missing::Gone(reason)) => {
                    tracing::warn!(
                        partition = %held.partition, %target, reason,
                        "the schema of the batch before cannot be had; the next record decides onto which one rows are projected"
                    );
                    Try::Done(None)
                }
                other => attempt(held, other.map(Some)),
            }
        })
        .await
}

/// What an attempt to get a compiled layout comes to.
pub(in crate::pipeline) fn attempt<T>(held: &Held, found: Result<T, Missing>) -> Try<T> {
    match found {
        Ok(found) => Try::Done(found),
        Err(Missing::Later(reason) | Missing::Gone(reason)) => Try::Again(reason),
        Err(Missing::Never(reason)) => Try::Halt(Halt::Stop(format!("{}: {reason}", held.partition))),
    }
}
