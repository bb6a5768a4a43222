//! What lies in a complete folder, as receipts tell it: no folder is listed.

use crate::bucket::Bucket;
use crate::bucket::completions::Completed;
use crate::clock::Clock;
use crate::complete::tally::FolderId;
use crate::exit::Failure;
use crate::ledger::live::Live;
use crate::ledger::receipts_from;
use crate::pipeline::start::patiently;
use crate::record::{OffsetRange, TopicPartition};
use futures::TryStreamExt;
use std::collections::BTreeSet;

/// The objects of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Their keys at the folder's destination, in order; those of compactions in place of what they replaced.
    pub keys: BTreeSet<String>,
    /// Those of them that a compaction made.
    pub compacted: BTreeSet<String>,
    /// The schemas of a registry that batches were projected onto.
    pub targets: BTreeSet<String>,
}

/// Reads the receipts that `completed` covers. Where a compaction made one object of this and of what came later, that one is named.
///
/// # Errors
/// A store that refuses or does not answer, a receipt that is damaged.
pub async fn objects_of(bucket: &Bucket, clock: &dyn Clock, completed: &Completed) -> Result<Objects, Failure> {
    let mut objects = Objects::default();
    let id = &completed.id;
    for (number, covered) in &completed.covered {
        let Ok(number) = number.parse::<i32>() else { continue };
        let partition = TopicPartition::new(completed.topic.as_str(), number);
        let range = OffsetRange::new(covered.first, covered.end);
        let live = Live::read(bucket, clock, &partition, range).await?;
        let mut receipts = receipts_from(bucket, &partition, clock, covered.first).await?;
        while let Some(receipt) = receipts.try_next().await? {
            if receipt.first >= covered.end {
                break;
            }
            for object in receipt.objects.iter().filter(|object| FolderId::of(object) == *id) {
                objects.targets.extend(receipt.target.clone());
                if !live.is_replaced(&object.destination, &object.key) {
                    objects.keys.insert(object.key.clone());
                }
            }
        }
        let what = format!("{partition}: read replays");
        for (first, n) in patiently(clock, &what, || bucket.finished_replays(&partition)).await? {
            if !(covered.first..covered.end).contains(&first) {
                continue;
            }
            let replay = patiently(clock, &what, || bucket.replay_receipt(&partition, first, n)).await?;
            let Some(replay) = replay else { continue };
            for object in replay.objects.iter().filter(|object| FolderId::of(object) == *id) {
                objects.targets.extend(replay.replay.target.clone());
                if !live.is_replaced(&object.destination, &object.key) {
                    objects.keys.insert(object.key.clone());
                }
            }
        }
        for compacted in live.compacted() {
            for object in compacted.objects.iter().filter(|object| FolderId::of(object) == *id) {
                objects.keys.insert(object.key.clone());
                objects.compacted.insert(object.key.clone());
            }
        }
    }
    Ok(objects)
}
