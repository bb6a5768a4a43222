//! From a sealed batch to a committed one: plan, claim, upload, receipt, commit. Read this beside the delivery page.
//!
//! Every step is repeated until it is done or the partition is no longer held; the order never changes, and nothing
//! is skipped because time is short.

use super::archive::{Archive, Output};
use super::context::{Context, Halt, Try};
use super::earlier::{self, Earlier};
use super::start::chain;
use super::takeover;
use crate::batch::balance::Balance;
use crate::batch::metadata::{OffsetMetadata, OffsetState};
use crate::batch::rotation::SealReason;
use crate::bucket::BucketError;
use crate::bucket::claim::{CLAIM_VERSION, Claim, ClaimOutcome, ClaimedObject};
use crate::bucket::folds::prevailing;
use crate::bucket::receipt::{self, FoundReceipt, LostRows, RECEIPT_VERSION, Receipt, ReceiptObject, ReceiptOutcome};
use crate::consume::Held;
use crate::destination::fault::Verdict;
use crate::effect::Effect;
use crate::exit::Exit;
use crate::format::content_headers;
use crate::ledger::live::{Live, Standing};
use crate::planted::{Bug, has};
use crate::record::{OffsetRange, TopicPartition, offset_after};
use crate::registry::Target;
use crate::spool::BatchDir;
use crate::spool::part::Finished;
use crate::upload::{self, CountRecords, How, Look, Placed, PutRule, UploadError, UploadFile, hex};
use futures::stream::{FuturesOrdered, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A part of a sealed batch: a finished local file and where it goes.
pub struct SealedPart {
    /// Index among the archive's outputs.
    pub output: usize,
    /// Folder below the destination's prefix.
    pub folder: String,
    /// Object key below the destination's prefix.
    pub key: String,
    /// The file.
    pub file: Finished,
    /// Rows in it.
    pub rows: u64,
    /// Records that they are of.
    pub records: u64,
    /// Least and greatest event time, milliseconds UTC.
    pub event_ms: (i64, i64),
}

/// A batch that takes no more records and whose parts are complete.
pub struct SealedBatch {
    /// The assignment that made it. It is finished under this one or not at all.
    pub held: Held,
    /// Its layout.
    pub archive: Arc<Archive>,
    /// What it covers.
    pub range: OffsetRange,
    /// Why it ended.
    pub reason: SealReason,
    /// What became of its records.
    pub balance: Balance,
    /// Its parts.
    pub parts: Vec<SealedPart>,
    /// The partition's watermark with this batch.
    pub watermark_ms: Option<i64>,
    /// The partition's watermark before it.
    pub watermark_before_ms: Option<i64>,
    /// `first` of the batch before.
    pub previous_first: Option<i64>,
    /// The topic's id.
    pub topic_id: Option<String>,
    /// It repeats a cut that was decided before, and this is what is known of that.
    pub earlier: Option<Earlier>,
    /// Text objects carry `Content-Encoding`.
    pub content_encoding: bool,
    /// Ids that the registry had no schema of.
    pub unknown_schemas: BTreeSet<u32>,
    /// Deleted with the batch.
    pub dir: Arc<BatchDir>,
}

impl SealedBatch {
    /// What tells whether objects that are there are its own.
    pub fn look(&self) -> Look {
        self.earlier.as_ref().map_or(Look::Shown, |earlier| earlier.look)
    }
}

/// How a sealed batch ended.
pub enum Finish {
    /// Archived and committed.
    Committed,
    /// Another process had decided another cut for the same `first`: take over again and follow it.
    Adopt,
}

/// Takes a sealed batch to its commit.
///
/// # Errors
/// [`Halt`]. Whatever was uploaded by then is what a successor will upload: same names, same rows.
pub async fn finish(context: &Context, mut batch: SealedBatch) -> Result<Finish, Halt> {
    let held = batch.held.clone();
    if !has(Bug::RecreatedTopicMixed) {
        check_topic(context, &batch).await?;
    }
    tell_of_a_reset(context, &batch).await;
    if context.schedule.is_some() && batch.earlier.as_ref().is_none_or(|earlier| earlier.vouched.is_none()) {
        earlier::check_compacted(context, &batch.archive.bucket, &held, batch.range).await?;
    }
    if !has(Bug::PlanSkipped) {
        context.commit(Effect::PlanCommit, &held, batch.range.first, plan(&batch).encode()).await?;
    }
    check_job(context, &batch).await?;
    let claimed_ms = context.clock.monotonic_ms();
    let claimed = if has(Bug::ClaimSkipped) { Claimed::Now } else { claim(context, &batch).await? };
    // Once more: a process may have stood still between, and others have cut there otherwise. Nothing of it is uploaded yet.
    check_job(context, &batch).await?;
    let is_redo = batch.earlier.is_some();
    match claimed {
        Claimed::Now => {}
        // Somebody has uploaded some of it, perhaps, and may have read more or less than this try.
        Claimed::Before(objects) => batch.earlier.get_or_insert_default().claimed = objects,
        Claimed::Otherwise if has(Bug::AdoptionForgotten) => return Ok(Finish::Committed),
        Claimed::Otherwise => return Ok(Finish::Adopt),
    }
    if is_redo {
        check_redo(&batch)?;
    }
    if has(Bug::CommitBeforeUpload) {
        context.commit(Effect::EndCommit, &held, batch.range.end, done(&batch).encode()).await?;
    }
    if has(Bug::CommitBeforeReceipt) {
        upload_all(context, &batch).await?;
        context.commit(Effect::EndCommit, &held, batch.range.end, done(&batch).encode()).await?;
    }
    let Some(balance) = vouch(context, &mut batch, claimed_ms).await? else { return Ok(Finish::Adopt) };
    let batch = &batch;
    let end = if has(Bug::CommitOneTooFar) { offset_after(batch.range.end) } else { batch.range.end };
    context.commit(Effect::EndCommit, &held, end, done(batch).encode()).await?;
    count(batch, &balance);
    Ok(Finish::Committed)
}

/// How long a batch waits to be told that somebody has moved the group's offset.
const RESET_ANSWER_MAX: Duration = Duration::from_secs(1);

/// Says that somebody has moved the group's offset while this process held the partition, before the plan overwrites it: nobody
/// else would. A question that is not answered soon holds up nothing.
async fn tell_of_a_reset(context: &Context, batch: &SealedBatch) {
    let (partition, first) = (&batch.held.partition, batch.range.first);
    let asked = context.coordinator.committed(vec![partition.clone()]);
    let Ok(Ok(found)) = tokio::time::timeout(RESET_ANSWER_MAX, asked).await else { return };
    let Some(found) = found.into_iter().find_map(|(of, found)| found.filter(|_| of == *partition)) else { return };
    if found.offset != first && context.coordinator.is_held(&batch.held) {
        tracing::warn!(
            %partition, first, found = found.offset,
            "the group's committed offset is not where this process left it: somebody has set it, or an old commit came late; the \
             commit of this batch overwrites it. To set it on purpose, stop every process of the group first"
        );
    }
}

/// Stops a batch of a job that has ended: another job may have offsets of it by now, and would cut them otherwise.
async fn check_job(context: &Context, batch: &SealedBatch) -> Result<(), Halt> {
    let Some(name) = context.schedule.as_ref().and_then(|schedule| schedule.job()) else { return Ok(()) };
    let ended = context
        .while_held(&batch.held, "ask whether the job has ended", || async {
            match batch.archive.bucket.is_job_ended(name).await {
                Ok(ended) => Try::Done(ended),
                Err(error) => Try::of(&error),
            }
        })
        .await?;
    if ended {
        return Err(Halt::Stop(format!(
            "job {name} was cancelled, or has ended: {} archives no more of it",
            batch.held.partition
        )));
    }
    Ok(())
}

/// Stops a redo that would put other objects than those that were decided (E-5), before it puts any.
fn check_redo(batch: &SealedBatch) -> Result<(), Halt> {
    let Some(earlier) = &batch.earlier else { return Ok(()) };
    if let Some(key) = earlier.unclaimed(claimed_objects(batch)) {
        return Err(Halt::Stop(format!(
            "{}: the unfinished batch {} was claimed by a release that names its objects otherwise: {key} is not among \
             them. Run the release that claimed it until the batch is finished",
            batch.held.partition, batch.range
        )));
    }
    let other = earlier
        .vouched
        .as_deref()
        .filter(|receipt| receipt.end != batch.range.end || receipt.fingerprint != batch.archive.fingerprint);
    other.map_or(Ok(()), |receipt| Err(two_cuts(batch, receipt)))
}

/// Uploads the batch and writes its receipt. Where another try of the same batch has written one, that one stays if it covers
/// what this try holds; otherwise this try takes what that one vouches for into its own and puts it over that one, or beside the fold
/// that has it (K-7). Gives the balance that is vouched for; `None`: the receipt that is there is of another cut.
async fn vouch(context: &Context, batch: &mut SealedBatch, claimed_ms: i64) -> Result<Option<receipt::Balance>, Halt> {
    let mut objects = upload_all(context, batch).await?;
    let (mut over, folded) = folded(context, batch, claimed_ms).await?;
    let counts = |beside: &Receipt| match &folded {
        Some(folded) => prevailing(beside.clone(), (**folded).clone()),
        None => beside.clone(),
    };
    // What counts before anything is put.
    let mut known_before =
        folded.as_deref().map(|folded| over.as_ref().map_or_else(|| folded.clone(), |beside| counts(&beside.receipt)));
    loop {
        let receipt = receipt(context, batch, objects);
        let found = match known_before.take() {
            Some(found) => found,
            None => {
                let outcome = context
                    .while_held(&batch.held, "write a receipt", || async {
                        match batch.archive.bucket.put_receipt(&receipt, over.as_deref()).await {
                            Ok(outcome) => Try::Done(outcome),
                            Err(error) => Try::of(&error),
                        }
                    })
                    .await?;
                let ReceiptOutcome::Found(found) = outcome else { return Ok(Some(receipt.balance)) };
                let found = over.insert(found);
                counts(&found.receipt)
            }
        };
        if has(Bug::ReceiptOverwritten) {
            objects = receipt.objects;
            continue;
        }
        if !found.is_of_batch(&receipt) {
            return Ok(None);
        }
        let covers = found.covers(&receipt);
        // Those of this try were looked at when they were put.
        if covers && objects_are_intact(context, &batch.held, &found, Look::Shown).await? {
            tracing::info!(partition = %batch.held.partition, range = %batch.range, "another try has vouched for this batch");
            return Ok(Some(found.balance));
        }
        let known = batch.earlier.as_ref().and_then(|earlier| earlier.vouched.as_deref());
        objects = if known == Some(&found) {
            receipt.objects
        } else {
            batch.earlier.get_or_insert_default().vouched = Some(Box::new(found));
            upload_all(context, batch).await?
        };
    }
}

/// The receipt of this batch that is in a fold, and the one beside it, if there is one: one of the two counts (K-7), and what this try puts goes over
/// the one beside. Without a folded one, which cannot be where the claim is this try's own and younger than any receipt that is folded, neither is
/// looked for: the put itself tells.
async fn folded(context: &Context, batch: &SealedBatch, claimed_ms: i64) -> Result<Twice, Halt> {
    let is_fresh = context.clock.monotonic_ms() - claimed_ms < context.folding.rules.min_age_ms;
    if batch.earlier.is_none() && is_fresh {
        return Ok((None, None));
    }
    let (partition, first) = (&batch.held.partition, batch.range.first);
    context
        .while_held(&batch.held, "look for a receipt in folds", || async {
            let bucket = &batch.archive.bucket;
            let looked = async {
                let Some(folded) = bucket.folded_receipt(partition, first).await? else { return Ok((None, None)) };
                Ok((bucket.found_beside(partition, first).await?.map(Box::new), Some(Box::new(folded))))
            };
            looked.await.map_or_else(|error: BucketError| Try::of(&error), Try::Done)
        })
        .await
}

/// A receipt that is a document of its own, and one of the same batch that a fold has.
type Twice = (Option<Box<FoundReceipt>>, Option<Box<Receipt>>);

/// A claim and a receipt of one `first` that end differently, and objects of the receipt that are gone.
fn two_cuts(batch: &SealedBatch, found: &Receipt) -> Halt {
    Halt::Stop(format!(
        "{}: the claim of offset {} says that its batch ends at {}, but the receipt that is there says {}, and objects of that \
         receipt are missing or damaged: two processes have archived it on a store that creates nothing only if absent, or a \
         claim was deleted. Restore the objects, or delete whichever of the two is wrong with the objects of its range",
        batch.held.partition, batch.range.first, batch.range.end, found.end
    ))
}

/// Stops where the topic is another one now than when its partition was taken over: every record of the batch was read
/// before this question, so none of the new topic's can be among them if the answer is still the same.
async fn check_topic(context: &Context, batch: &SealedBatch) -> Result<(), Halt> {
    let Some(known) = &batch.topic_id else { return Ok(()) };
    match takeover::topic_id(context, &batch.held).await? {
        Some(found) if found != *known => {
            Err(Halt::Stop(takeover::recreated(&batch.held.partition.topic, known, &found)))
        }
        _ => Ok(()),
    }
}

/// Adds the batch to the process's counters, as its receipt has it: only what is committed counts.
fn count(batch: &SealedBatch, balance: &receipt::Balance) {
    let add = |output: &str, outcome: &'static str, records: u64| {
        let archive = batch.archive.layout.archive.clone();
        let output = output.to_string();
        metrics::counter!("siltstone_records_total", "archive" => archive, "output" => output, "outcome" => outcome)
            .increment(records);
    };
    for (output, balance) in &balance.outputs {
        add(output, "archived", balance.archived);
        add(output, "dead_lettered", balance.dead_lettered);
        add(output, "dropped", balance.dropped.values().sum());
    }
    let absent: u64 = balance.absent.iter().map(|range| (range.end - range.first).unsigned_abs()).sum();
    metrics::counter!("siltstone_absent_offsets_total").increment(absent);
    metrics::counter!("siltstone_dropped_fields_total").increment(balance.fields_dropped);
    let archive = batch.archive.layout.archive.clone();
    metrics::counter!("siltstone_time_fallbacks_total", "archive" => archive).increment(balance.time_fallbacks);
}

/// What the plan's commit carries.
fn plan(batch: &SealedBatch) -> OffsetMetadata {
    let state = OffsetState::Plan {
        end: batch.range.end,
        fingerprint: batch.archive.fingerprint.clone(),
        schemas: batch.archive.schemas_hash(),
        spool_bytes: batch.dir.bytes(),
    };
    let mut plan = OffsetMetadata::new(state, batch.archive.layout.generation);
    plan.watermark_ms = batch.watermark_before_ms;
    plan.previous_first = batch.previous_first;
    plan.topic_id = batch.topic_id.clone();
    plan.target = batch.archive.target.as_ref().map(Target::to_string);
    plan
}

/// What the commit of its end carries.
fn done(batch: &SealedBatch) -> OffsetMetadata {
    let mut done = OffsetMetadata::new(OffsetState::Done, batch.archive.layout.generation);
    done.watermark_ms = batch.watermark_ms;
    done.previous_first = Some(batch.range.first);
    done.topic_id = batch.topic_id.clone();
    done.target = batch.archive.target.as_ref().map(Target::to_string);
    done
}

/// What the claim of a batch found.
enum Claimed {
    /// Nothing: nobody can have uploaded anything of the batch.
    Now,
    /// The same cut, by an earlier try or by another process: objects may be there, and may hold records that Kafka has
    /// deleted since. That claim announced these.
    Before(Vec<ClaimedObject>),
    /// Another cut.
    Otherwise,
}

/// Makes the claim.
async fn claim(context: &Context, batch: &SealedBatch) -> Result<Claimed, Halt> {
    let claim = Claim {
        version: CLAIM_VERSION,
        topic: batch.held.partition.topic.to_string(),
        partition: batch.held.partition.partition,
        first: batch.range.first,
        end: batch.range.end,
        generation: batch.archive.layout.generation,
        topic_id: batch.topic_id.clone(),
        fingerprint: batch.archive.fingerprint.clone(),
        schemas: batch.archive.schemas.clone(),
        target: batch.archive.target.as_ref().map(Target::to_string),
        unknown_schemas: batch.unknown_schemas.clone(),
        spool_bytes: batch.dir.bytes(),
        keys: claimed_objects(batch),
    };
    let outcome = context
        .while_held(&batch.held, "write a claim", || async {
            match batch.archive.bucket.claim(&claim).await {
                Ok(outcome) => Try::Done(outcome),
                Err(error) => Try::of(&error),
            }
        })
        .await?;
    match outcome {
        ClaimOutcome::Created => Ok(Claimed::Now),
        ClaimOutcome::Same(found) => Ok(Claimed::Before(found.keys)),
        ClaimOutcome::Other(_) if has(Bug::ClaimIgnored) => Ok(Claimed::Now),
        ClaimOutcome::Other(other)
            if other.end == claim.end && other.fingerprint == claim.fingerprint && other.reads_as(&claim) =>
        {
            Err(Halt::Stop(format!(
                "{}: the batch [{}, {}) was claimed with other schemas than the pinned ones ({:?}, now {:?}); restore \
                 _siltstone/schemas as they were",
                batch.held.partition, claim.first, claim.end, other.schemas, claim.schemas
            )))
        }
        ClaimOutcome::Other(other) => {
            tracing::warn!(
                partition = %batch.held.partition, first = claim.first, ours = claim.end, theirs = other.end,
                "another process claimed another end for this batch; following it"
            );
            metrics::counter!("siltstone_adopted_claims_total").increment(1);
            Ok(Claimed::Otherwise)
        }
    }
}

fn claimed_objects(batch: &SealedBatch) -> Vec<ClaimedObject> {
    placed_parts(&batch.archive, &batch.parts).map(|(_, object)| object).collect()
}

/// Every part, once for each of its destinations.
pub fn placed_parts<'a>(
    archive: &'a Archive,
    parts: &'a [SealedPart],
) -> impl Iterator<Item = (&'a SealedPart, ClaimedObject)> {
    parts.iter().flat_map(|part| {
        let output = &archive.outputs[part.output];
        output.destinations.iter().map(move |destination| {
            let (destination, key) = (destination.id().to_string(), part.key.clone());
            (part, ClaimedObject { output: output.name.clone(), destination, key })
        })
    })
}

/// Uploads every part to every destination, side by side within the process's bounds.
async fn upload_all(context: &Context, batch: &SealedBatch) -> Result<Vec<ReceiptObject>, Halt> {
    let live = earlier::live(context, batch).await?;
    let mut waiting = batch.parts.iter().flat_map(|part| {
        let destinations = batch.archive.outputs[part.output].destinations.len();
        (0..destinations).map(move |destination| (part, destination))
    });
    let (mut running, mut objects) = (FuturesOrdered::new(), Vec::new());
    loop {
        // An upload that is only prepared takes some kilobytes already.
        while running.len() < context.upload.concurrency
            && let Some((part, destination)) = waiting.next()
        {
            running.push_back(upload_one(context, batch, &live, part, destination));
        }
        let Some(object) = running.try_next().await? else { break };
        objects.push(object);
    }
    objects.extend(earlier::without_part(context, batch, &live, &objects).await?);
    Ok(objects)
}

async fn upload_one(
    context: &Context,
    batch: &SealedBatch,
    live: &Live,
    part: &SealedPart,
    destination: usize,
) -> Result<ReceiptObject, Halt> {
    let output = &batch.archive.outputs[part.output];
    let destination = &output.destinations[destination];
    if live.is_replaced(destination.id(), &part.key) {
        return Ok(replaced(batch, part, destination.id()));
    }
    let intact = earlier::intact(context, batch, (destination.id(), &part.key)).await?;
    if let Some(intact) = intact.filter(|object| object.rows >= Some(part.rows)) {
        return Ok(intact);
    }
    let rule = match &batch.earlier {
        Some(earlier) => earlier.put_rule(destination.id(), &part.key, part.rows),
        None => PutRule::ReplaceUntold,
    };
    let metadata = object_metadata(&batch.held.partition, batch.range, &batch.archive);
    let file = UploadFile {
        check_existing: batch.earlier.is_some(),
        look: batch.look(),
        ..upload_file(output, part, batch.content_encoding, metadata, rule)
    };
    let room = context.upload_room(destination);
    let placed = context
        .while_held(&batch.held, "upload an object", || async {
            let _room = room.enter(file.bytes).await;
            match upload::put_file(destination, &file, room.settings).await {
                Ok(placed) => Try::Done(placed),
                Err(error) => match error.verdict() {
                    // Somebody may mend rights and buckets while we hold the partition.
                    Verdict::Retry | Verdict::Refused => Try::Again(chain(&error)),
                    Verdict::Stop => Try::Halt(match &error {
                        // The spool is a cache: what vanished or changed there is read again.
                        UploadError::SpoolChanged { .. } | UploadError::SpoolUnreadable { .. } => {
                            Halt::Local(chain(&error))
                        }
                        _ => Halt::Stop(chain(&error)),
                    }),
                },
            }
        })
        .await?;
    if placed.how == How::New {
        metrics::counter!("siltstone_uploaded_objects_total").increment(1);
        metrics::counter!("siltstone_uploaded_bytes_total").increment(part.file.bytes);
    }
    Ok(receipt_object(&batch.archive, part, destination.id(), placed))
}

/// What the receipt says of a part whose object gave way to a compaction's, and is not put again (E-7).
fn replaced(batch: &SealedBatch, part: &SealedPart, destination: &str) -> ReceiptObject {
    let vouched = batch.earlier.as_ref().and_then(|earlier| earlier.vouched_for(destination, &part.key));
    vouched.cloned().unwrap_or_else(|| {
        let (bytes, sha256) = (part.file.bytes, Some(hex(&part.file.sha256)));
        let placed = Placed { key: part.key.clone(), bytes, records: Some(part.rows), sha256, how: How::New };
        receipt_object(&batch.archive, part, destination, placed)
    })
}

/// What is uploaded of a part that nobody looked for before.
pub fn upload_file(
    output: &Output,
    part: &SealedPart,
    content_encoding: bool,
    metadata: Vec<(String, String)>,
    rule: PutRule,
) -> UploadFile {
    let (content_type, content_encoding) = content_headers(&*output.format, content_encoding);
    UploadFile {
        path: part.file.path.clone(),
        key: part.key.clone(),
        bytes: part.file.bytes,
        sha256: part.file.sha256,
        records: part.rows,
        content_type: content_type.to_string(),
        content_encoding: content_encoding.map(str::to_string),
        metadata,
        rule,
        count: count_records(output),
        check_existing: false,
        look: Look::Shown,
    }
}

/// What a receipt says of a part that is `placed` at the destination of that id.
pub fn receipt_object(archive: &Archive, part: &SealedPart, destination: &str, placed: Placed) -> ReceiptObject {
    let kept = (placed.how == How::Kept).then(|| earlier::KEPT.to_string());
    // Event times of an object that was kept are not known.
    let ours = kept.is_none();
    ReceiptObject {
        output: archive.outputs[part.output].name.clone(),
        destination: destination.to_string(),
        key: part.key.clone(),
        folder: part.folder.clone(),
        records: match placed.records == Some(part.rows) {
            true => Some(part.records),
            false => archive.records_of(placed.records),
        },
        rows: placed.records,
        bytes: placed.bytes,
        sha256: placed.sha256,
        event_min_ms: ours.then_some(part.event_ms.0),
        event_max_ms: ours.then_some(part.event_ms.1),
        kept,
    }
}

/// Counts the rows of an object of `output`.
pub(super) fn count_records(output: &Output) -> CountRecords {
    let format = output.format.clone();
    Arc::new(move |file| format.count_rows(file))
}

/// What a file says in itself of what it holds, where its format has a place for it.
pub fn file_metadata(partition: &TopicPartition, range: OffsetRange, archive: &Archive) -> Vec<(String, String)> {
    let pairs = [
        ("siltstone.topic", partition.topic.to_string()),
        ("siltstone.partition", partition.partition.to_string()),
        ("siltstone.first", range.first.to_string()),
        ("siltstone.end", range.end.to_string()),
    ];
    let target = archive.target.as_ref().map(|target| ("siltstone.schema", target.to_string()));
    pairs.into_iter().chain(target).map(|(name, value)| (name.to_string(), value)).collect()
}

/// What an object carries beside its bytes, where the store keeps it.
pub fn object_metadata(partition: &TopicPartition, range: OffsetRange, archive: &Archive) -> Vec<(String, String)> {
    let pairs = [
        ("topic", partition.topic.to_string()),
        ("partition", partition.partition.to_string()),
        ("first", range.first.to_string()),
        ("end", range.end.to_string()),
        ("layout", archive.fingerprint.clone()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

fn receipt(context: &Context, batch: &SealedBatch, objects: Vec<ReceiptObject>) -> Receipt {
    Receipt {
        version: RECEIPT_VERSION,
        topic: batch.held.partition.topic.to_string(),
        partition: batch.held.partition.partition,
        first: batch.range.first,
        end: batch.range.end,
        topic_id: batch.topic_id.clone(),
        cluster_id: context.cluster_id.clone(),
        archive: batch.archive.layout.archive.clone(),
        generation: batch.archive.layout.generation,
        fingerprint: batch.archive.fingerprint.clone(),
        writer: env!("CARGO_PKG_VERSION").to_string(),
        schemas: batch.archive.schemas.clone(),
        target: batch.archive.target.as_ref().map(Target::to_string),
        reason: batch.reason.as_str().to_string(),
        watermark_ms: batch.watermark_ms,
        balance: receipt_balance(batch),
        lost: lost(batch, &objects),
        objects,
        written_ms: Some(context.clock.wall_ms()),
    }
}

/// Rows that are not in the bucket though somebody read them (E-4).
fn lost(batch: &SealedBatch, objects: &[ReceiptObject]) -> Vec<LostRows> {
    let mut lost = batch.earlier.as_ref().map(|earlier| earlier.lost(objects)).unwrap_or_default();
    for (part, place) in placed_parts(&batch.archive, &batch.parts) {
        let object = objects.iter().find(|object| object.place() == place.place());
        let rows = object.and_then(|object| object.rows).map_or(0, |there| part.rows.saturating_sub(there));
        match lost.iter_mut().find(|lost| lost.place() == place.place()) {
            Some(named) => named.rows = named.rows.max(rows),
            None if rows > 0 => {
                let ClaimedObject { output, destination, key } = place;
                lost.push(LostRows { output, destination, key, rows });
            }
            None => {}
        }
    }
    for rows in &lost {
        tracing::error!(
            partition = %batch.held.partition, range = %batch.range, key = rows.key, rows = rows.rows,
            "these rows are not in the bucket: they were deleted there and Kafka no longer holds them, or the object that \
             is there cannot be replaced; the receipt names them as lost"
        );
    }
    lost
}

/// The balance in the receipt's words. Of two tries the balance of
/// the one that has read more records counts: a repair changes nothing of what became of them when they were all there.
fn receipt_balance(batch: &SealedBatch) -> receipt::Balance {
    let vouched = batch.earlier.as_ref().and_then(|earlier| earlier.vouched.as_ref());
    if let Some(vouched) = vouched.filter(|vouched| vouched.balance.consumed >= batch.balance.consumed) {
        return vouched.balance.clone();
    }
    let mut outputs = BTreeMap::new();
    for (output, balance) in batch.archive.outputs.iter().zip(&batch.balance.outputs) {
        let dropped = balance.dropped.iter().map(|(rule, count)| (rule.to_string(), *count)).collect();
        let counted = receipt::OutputBalance {
            archived: balance.archived,
            rows: balance.rows,
            dead_lettered: balance.dead_lettered,
            dropped,
        };
        outputs.insert(output.name.clone(), counted);
    }
    let absent = batch.balance.absent.iter().map(|range| receipt::Absent {
        first: range.first,
        end: range.end,
        cause: "Kafka deleted them before they were read".to_string(),
    });
    let Balance { consumed, fields_dropped, time_fallbacks, .. } = batch.balance;
    receipt::Balance { consumed, fields_dropped, time_fallbacks, outputs, absent: absent.collect() }
}

/// Whether every object that `receipt` names is there with its size and checksum, or the one that a compaction put in its place.
///
/// # Errors
/// [`Halt`].
pub async fn objects_are_intact(context: &Context, held: &Held, receipt: &Receipt, look: Look) -> Result<bool, Halt> {
    context
        .while_held(held, "check the objects of a receipt", || async {
            objects_are_there(context, receipt, look).await.map_or_else(|again| again, Try::Done)
        })
        .await
}

/// The error is the try to make again.
async fn objects_are_there(context: &Context, receipt: &Receipt, look: Look) -> Result<bool, Try<bool>> {
    let mut gone = Vec::new();
    for object in &receipt.objects {
        let Some(destination) = context.destinations.get(&object.destination) else {
            return Err(Try::Halt(Halt::Stop(format!(
                "the receipt of {}/{} [{}, {}) names {}, which this configuration has no destination for; add it",
                receipt.topic, receipt.partition, receipt.first, receipt.end, object.destination
            ))));
        };
        match upload::is_there(destination, &object.key, object.bytes, object.sha256.as_deref(), look).await {
            Ok(true) => {}
            Ok(false) => gone.push(object),
            Err(error) => return Err(Try::Again(chain(&error))),
        }
    }
    if gone.is_empty() { Ok(true) } else { replacements_are_there(context, receipt, &gone, look).await }
}

/// Whether compactions have replaced all of `gone`, objects of `receipt`, and what they put in their place is there.
async fn replacements_are_there(
    context: &Context,
    receipt: &Receipt,
    gone: &[&ReceiptObject],
    look: Look,
) -> Result<bool, Try<bool>> {
    let Some((_, archive)) = context.archive_of(&receipt.topic) else { return Ok(false) };
    let (partition, range) = (receipt.topic_partition(), OffsetRange::new(receipt.first, receipt.end));
    let live = Live::read(&archive.bucket, &*context.clock, &partition, range).await;
    let live = live.map_err(|failure| match failure.exit {
        Exit::Stopped => Try::Halt(Halt::Stop(failure.message)),
        _ => Try::Again(failure.message),
    })?;
    match live.stands_for(receipt, gone, &context.destinations, look).await {
        Ok(Standing::None | Standing::Partly) => Ok(false),
        Ok(Standing::Whole) => Ok(true),
        Ok(Standing::Broken { key, id: (unit, n) }) => Err(Try::Halt(Halt::Stop(format!(
            "{partition}: {key} is missing or damaged, and holds rows of the batch {range}: a compaction made it of objects of several batches, \
             so that archiving this one again does not make it. Restore {key}, or take the compaction back first: siltstone compact --undo \
             {unit}.{n}"
        )))),
        Err(error) => Err(Try::Again(chain(&error))),
    }
}

#[cfg(test)]
mod tests;
