//! What an earlier try of a batch left in the bucket, and what a redo may do about it.
//!
//! A redo reads `[first, end)` again, but Kafka may no longer hold all of it. So:
//!
//! - **E-1** An object that a receipt vouches for, that is as the receipt says and that has no fewer rows than this try is left
//!   alone, and stays in the new receipt as it stands in the old one.
//! - **E-2** An object is never replaced by one with fewer rows, and by one with as many only where its rows had to be counted and
//!   it is not what its receipt says. One that does not tell its rows is kept where another try may have put it, and where its
//!   receipt says more rows than this try has.
//! - **E-3** An object that the claim announced and that Kafka has no records for any more is in the receipt if it is in the
//!   bucket.
//! - **E-4** Rows that a receipt vouched for, that are gone from the bucket and from Kafka, are named as lost; so are rows that
//!   this try has and cannot put, as nobody can replace the poorer object that is there.
//! - **E-5** What is put is what the claim announced: a redo that names an object otherwise (other rules of a time zone, another
//!   release) stops before it puts anything.
//! - **E-6** Where objects of a receipt are missing or damaged ([`Look::Bytes`]), nothing is believed that a store shows: an object is as its
//!   receipt says if its bytes are. A damaged one tells no rows: it gives way to one with as many as its receipt says,
//!   and is kept, with the SHA-256 that it has and its rows named as lost, where Kafka can give no more as many.
//! - **E-7** An object that gave way to a compaction's ([`crate::ledger::live`]) is not put again: its rows would be there twice. It stays in the
//!   receipt, which is read together with that of the compaction.
//! - **E-8** A batch of a job that has no receipt is not archived where a compaction's object that counts has rows of it: its receipt was lost, and
//!   under whatever name its rows would be there twice. The job stops and says which receipt is to be brought back.

use super::context::{Context, Halt, Try};
use super::finish::{SealedBatch, count_records};
use super::schedule::Schedule;
use super::start::chain;
use crate::bucket::claim::ClaimedObject;
use crate::bucket::receipt::{LostRows, Receipt, ReceiptObject};
use crate::bucket::{Bucket, Place};
use crate::consume::Held;
use crate::exit::Exit;
use crate::ledger::live::{Doubtful, Live};
use crate::ledger::taken::Taken;
use crate::record::OffsetRange;
use crate::upload::{self, Look, PutRule};
use std::collections::BTreeSet;

/// Why an object of a receipt is not the one that this batch would have put.
pub const KEPT: &str =
    "an object of another try was there with other bytes; it is kept, as Kafka may no longer hold all of its records";
/// Why an object of a receipt has no counterpart in this batch.
const KEPT_ALONE: &str = "an object of another try; Kafka no longer holds any of its records";

/// What is known of earlier tries of a batch.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    /// The objects that its claim announced.
    pub claimed: Vec<ClaimedObject>,
    /// Its receipt, of which an object is missing or damaged.
    pub vouched: Option<Box<Receipt>>,
    /// What tells whether objects of it are intact. [`Look::Bytes`] where a receipt was found whose objects are not.
    pub look: Look,
}

impl Earlier {
    /// What the receipt says of that object.
    pub fn vouched_for(&self, destination: &str, key: &str) -> Option<&ReceiptObject> {
        let objects = self.vouched.as_ref().map(|receipt| &receipt.objects)?;
        objects.iter().find(|object| object.place() == (destination, key))
    }

    /// What may happen to an object that is there, is not the one to be put, which has `rows` rows, and does not tell its own
    /// (E-2).
    pub fn put_rule(&self, destination: &str, key: &str, rows: u64) -> PutRule {
        match self.vouched_for(destination, key) {
            Some(object) if object.rows.is_some_and(|vouched| rows >= vouched) => PutRule::ReplaceUntold,
            _ => PutRule::KeepUntold,
        }
    }

    /// The key of an object that is to be put and that the claim did not announce (E-5).
    pub fn unclaimed(&self, objects: Vec<ClaimedObject>) -> Option<String> {
        let mut objects = objects.into_iter();
        let stranger = objects.find(|object| !self.claimed.is_empty() && !self.claimed.contains(object))?;
        Some(stranger.key)
    }

    /// Rows that the receipt vouched for, or named as lost, and that `objects`, which are in the bucket now, do not have (E-4).
    pub fn lost(&self, objects: &[ReceiptObject]) -> Vec<LostRows> {
        let Some(receipt) = &self.vouched else { return Vec::new() };
        let mut wanted = receipt.lost.clone();
        for object in &receipt.objects {
            let rows = object.rows.unwrap_or(0);
            match wanted.iter_mut().find(|lost| lost.place() == object.place()) {
                Some(lost) => lost.rows += rows,
                None => {
                    let ReceiptObject { output, destination, key, .. } = object.clone();
                    wanted.push(LostRows { output, destination, key, rows });
                }
            }
        }
        for lost in &mut wanted {
            let now = objects.iter().find(|now| now.place() == lost.place());
            // For an object that is kept though it is not what the receipt said, and that tells no count, nobody vouches.
            lost.rows = lost.rows.saturating_sub(now.and_then(|now| now.rows).unwrap_or(0));
        }
        wanted.retain(|lost| lost.rows > 0);
        wanted
    }
}

/// The receipt's entry of an object that is exactly what an earlier receipt says (E-1); `None` where there is no such.
///
/// # Errors
/// [`Halt`].
pub async fn intact(context: &Context, batch: &SealedBatch, object: Place<'_>) -> Result<Option<ReceiptObject>, Halt> {
    let Some(vouched) = batch.earlier.as_ref().and_then(|earlier| earlier.vouched_for(object.0, object.1)) else {
        return Ok(None);
    };
    let Some(destination) = context.destinations.get(&vouched.destination) else {
        return Err(Halt::Stop(format!("no destination has the URL {}; add it", vouched.destination)));
    };
    let is_there = context
        .while_held(&batch.held, "look at an object of a receipt", || async {
            let sha256 = vouched.sha256.as_deref();
            match upload::is_there(destination, &vouched.key, vouched.bytes, sha256, batch.look()).await {
                Ok(is_there) => Try::Done(is_there),
                Err(error) => Try::Again(chain(&error)),
            }
        })
        .await?;
    Ok(is_there.then(|| vouched.clone()))
}

/// What compactions have replaced of the batch (E-7): only of one that had a receipt, as those of jobs stop that had none (E-8).
///
/// # Errors
/// [`Halt`].
pub async fn live(context: &Context, batch: &SealedBatch) -> Result<Live, Halt> {
    let had_receipt = batch.earlier.as_ref().is_some_and(|earlier| earlier.vouched.is_some());
    if !had_receipt {
        return Ok(Live::default());
    }
    read_live(context, &batch.archive.bucket, &batch.held, batch.range).await
}

async fn read_live(context: &Context, bucket: &Bucket, held: &Held, range: OffsetRange) -> Result<Live, Halt> {
    context
        .while_held(held, "read compactions", || async {
            match Live::read(bucket, &*context.clock, &held.partition, range).await {
                Ok(live) => Try::Done(live),
                Err(failure) if failure.exit == Exit::Stopped => Try::Halt(Halt::Stop(failure.message)),
                Err(failure) => Try::Again(failure.message),
            }
        })
        .await
}

/// Stops a job before it archives offsets without a receipt of which rows are in the object of a compaction (E-8). Asked when they are taken over, and of
/// each batch before its plan: a compactor that was at work when the job began may have come to them since.
///
/// # Errors
/// [`Halt`].
pub async fn check_compacted(context: &Context, bucket: &Bucket, held: &Held, range: OffsetRange) -> Result<(), Halt> {
    let read = || async {
        match Taken::read(bucket, &*context.clock, &held.partition, range).await {
            Ok(taken) => Try::Done(taken),
            Err(failure) if failure.exit == Exit::Stopped => Try::Halt(Halt::Stop(failure.message)),
            Err(failure) => Try::Again(failure.message),
        }
    };
    let Taken { mut batches, doubtful, doubtful_claims, .. } =
        context.while_held(held, "read compactions", read).await?;
    let job = context.schedule.as_ref().and_then(Schedule::job).unwrap_or("NAME");
    let topic = &held.partition.topic;
    let give_up = format!(
        "give this job up (siltstone backfill --topic {topic} --job {job} --cancel, with --into where it has one)"
    );
    if let Some(Doubtful { why, .. }) = doubtful.into_iter().chain(doubtful_claims).next() {
        let partition = &held.partition;
        return Err(Halt::Stop(format!("{partition}: {why}. Compactions wait for this job to end: {give_up}")));
    }
    match batches.pop_first() {
        None => Ok(()),
        Some((OffsetRange { first, end }, what)) => Err(Halt::Stop(format!(
            "{what}. For what is beside it {give_up}; jobs with --to-offset {first} and --from-offset {end} leave it out"
        ))),
    }
}

/// Objects of earlier tries that have no part in this one: what Kafka held when they were made is gone (E-1, E-3).
///
/// # Errors
/// [`Halt`].
pub async fn without_part(
    context: &Context,
    batch: &SealedBatch,
    live: &Live,
    objects: &[ReceiptObject],
) -> Result<Vec<ReceiptObject>, Halt> {
    let Some(earlier) = &batch.earlier else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let mut seen: BTreeSet<Place<'_>> = objects.iter().map(ReceiptObject::place).collect();
    for object in earlier.vouched.iter().flat_map(|receipt| &receipt.objects) {
        if !seen.insert(object.place()) {
            continue;
        }
        if live.is_replaced(&object.destination, &object.key) {
            found.push(object.clone());
            continue;
        }
        match intact(context, batch, object.place()).await? {
            Some(intact) => found.push(intact),
            // Another one may be there than the receipt says: a third try's, with more records.
            None => found.extend(kept_alone(context, batch, &object.output, object.place()).await?),
        }
    }
    for claimed in &earlier.claimed {
        if seen.insert(claimed.place()) {
            found.extend(kept_alone(context, batch, &claimed.output, claimed.place()).await?);
        }
    }
    Ok(found)
}

/// An object of another try that is in the bucket, as the receipt tells it.
async fn kept_alone(
    context: &Context,
    batch: &SealedBatch,
    output: &str,
    (id, key): Place<'_>,
) -> Result<Option<ReceiptObject>, Halt> {
    // A destination that the configuration has no more cannot be asked; the claim's layout could not be compiled without it.
    let Some(destination) = context.destinations.get(id) else { return Ok(None) };
    let count = batch.archive.outputs.iter().find(|of| of.name == output).map(count_records);
    let count = count.as_ref().map(|count| (count, context.spool_dir.as_path()));
    let shown = context
        .while_held(&batch.held, "look at a claimed object", || async {
            match upload::shown(destination, key, count, batch.look()).await {
                Ok(shown) => Try::Done(shown),
                Err(error) => Try::Again(chain(&error)),
            }
        })
        .await?;
    Ok(shown.map(|shown| ReceiptObject {
        output: output.to_string(),
        destination: id.to_string(),
        key: key.to_string(),
        folder: key.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_string()),
        records: batch.archive.records_of(shown.records),
        rows: shown.records,
        bytes: shown.bytes,
        sha256: shown.sha256,
        event_min_ms: None,
        event_max_ms: None,
        kept: Some(KEPT_ALONE.to_string()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, rows: u64) -> ReceiptObject {
        serde_json::from_value(serde_json::json!({
            "output": "json", "destination": "d", "key": key, "folder": "", "rows": rows, "bytes": 1
        }))
        .expect("an object")
    }

    /// Goal: rows are named as lost as long as they are, and no longer (E-4).
    #[test]
    fn what_is_lost_is_named_until_it_is_back() {
        let vouched = |objects: Vec<ReceiptObject>, lost: Vec<LostRows>| {
            let receipt = serde_json::from_value(serde_json::json!({
                "version": 1, "topic": "t", "partition": 0, "first": 0, "end": 9, "cluster_id": "c", "archive": "a",
                "generation": 1, "fingerprint": "f", "writer": "0", "reason": "age",
                "balance": {"consumed": 9, "outputs": {}}, "objects": objects, "lost": lost
            }));
            Earlier { vouched: Some(Box::new(receipt.expect("a receipt"))), ..Earlier::default() }
        };
        let lost = |key: &str, rows| LostRows { output: "json".into(), destination: "d".into(), key: key.into(), rows };
        let first = vouched(vec![object("x", 80), object("y", 5)], Vec::new());
        assert_eq!(first.lost(&[object("x", 80), object("y", 9)]), []);
        assert_eq!(first.lost(&[object("x", 60)]), [lost("x", 20), lost("y", 5)]);
        let second = vouched(vec![object("x", 60)], vec![lost("x", 20), lost("y", 5)]);
        assert_eq!(second.lost(&[object("x", 60)]), [lost("x", 20), lost("y", 5)]);
        assert_eq!(second.lost(&[object("x", 75)]), [lost("x", 5), lost("y", 5)]);
        assert_eq!(second.lost(&[object("x", 80)]), [lost("y", 5)]);
        assert_eq!(second.lost(&[object("x", 90), object("y", 5)]), []);
    }
}
