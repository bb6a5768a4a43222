//! What compactions have taken in, or take in once they are finished: rows that are not to be archived a second time where no receipt vouches for
//! their batch (E-8).

use super::live::{Doubtful, Live, held_without_receipt};
use crate::bucket::compactions::{Compaction, CompactionId, ListedCompaction};
use crate::bucket::receipt::receipt_key;
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::exit::Failure;
use crate::pipeline::start::{chain, patiently};
use crate::record::{OffsetRange, TopicPartition};
use std::collections::BTreeMap;

/// What compactions have to do with a range of offsets.
#[derive(Debug, Default)]
pub struct Taken {
    /// The batches whose rows they hold, or are about to, with what to say where such a batch has no receipt.
    pub batches: BTreeMap<OffsetRange, String>,
    /// Of compactions that have deleted the old objects and lost their receipts: the batches, with what to say where one is to be archived again that has a
    /// receipt.
    pub unvouched: BTreeMap<OffsetRange, String>,
    /// Those of which nobody knows whether they count.
    pub doubtful: Vec<Doubtful>,
    /// Those that do not count, or have lost their receipts, and of which nobody knows what they take in: any offsets.
    pub doubtful_claims: Vec<Doubtful>,
}

impl Taken {
    /// Reads the compactions of `partition` that share an offset with `range`, and the claims of those that are not finished or have lost their receipts.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub async fn read(
        bucket: &Bucket,
        clock: &dyn Clock,
        partition: &TopicPartition,
        range: OffsetRange,
    ) -> Result<Self, Failure> {
        let listed = patiently(clock, "list compactions", || bucket.listed_compactions(partition)).await?;
        let open: Vec<(CompactionId, bool)> = listed
            .iter()
            .filter(|(_, documents)| documents.is_open())
            .map(|(id, documents)| (id.clone(), documents.has_lost_receipt()))
            .collect();
        let (live, doubtful) = Live::of_listed(bucket, clock, partition, range, listed).await?;
        let say = |(batch, by)| (batch, held_without_receipt(partition, bucket.generation(), batch, by));
        let batches = live.batches_of(range).into_iter().map(say).collect();
        let mut taken = Self { batches, doubtful, ..Self::default() };
        for of in open {
            taken.add_claim(bucket, clock, partition, range, of).await?;
        }
        Ok(taken)
    }

    async fn add_claim(
        &mut self,
        bucket: &Bucket,
        clock: &dyn Clock,
        partition: &TopicPartition,
        range: OffsetRange,
        (id, has_lost_receipt): (CompactionId, bool),
    ) -> Result<(), Failure> {
        let name = format!("{}.{}", id.0, id.1);
        let claim = match patiently(clock, &format!("{partition}: the claim of compaction {name}"), || {
            readable_claim(bucket, partition, &id)
        })
        .await?
        {
            // It was finished or given up meanwhile, and its claim deleted: what counts of it by now was asked for after this was listed, or is asked for
            // again before anything is planned.
            Ok(claim) => claim,
            Err(why) => {
                let why = format!("the claim of compaction {name}: {why}");
                self.doubtful_claims.push(Doubtful { id, range: OffsetRange::new(0, i64::MAX), why });
                return Ok(());
            }
        };
        for &(first, end) in claim.iter().flat_map(|claim| &claim.groups).flat_map(|group| &group.batches) {
            if first < range.end && range.first < end {
                let batch = OffsetRange::new(first, end);
                let undo = if has_lost_receipt { name.clone() } else { format!("{name}.claim") };
                let state = if has_lost_receipt { "has lost its receipt" } else { "is not finished" };
                let receipt = receipt_key(partition, bucket.generation(), first);
                self.batches.entry(batch).or_insert_with(|| {
                    format!(
                        "{partition}: no receipt vouches for offset {first}, but compaction {name} has taken in the batch {batch} and {state}: archived again these \
                         rows would be there twice. Restore {receipt} from a backup or an older version of the bucket; or take the compaction back first: siltstone \
                         compact --undo {undo} --yes"
                    )
                });
                if has_lost_receipt {
                    self.unvouched.entry(batch).or_insert_with(|| {
                        format!(
                            "{partition}: compaction {name} has taken in the batch {batch}, deleted its objects and lost its receipt: archived again these rows would be \
                             there twice. Run siltstone compact first, which writes that receipt again; then run this again"
                        )
                    });
                }
            }
        }
        Ok(())
    }
}

async fn readable_claim(
    bucket: &Bucket,
    partition: &TopicPartition,
    id: &CompactionId,
) -> Result<Result<Option<Compaction>, String>, BucketError> {
    match bucket.compaction_claim(partition, id).await {
        Ok(claim) => Ok(Ok(claim)),
        Err(error @ BucketError::Unreadable { .. }) => {
            Ok(Err(format!("{}. Restore it from a backup or an older version of the bucket", chain(&error))))
        }
        Err(error @ BucketError::Newer { .. }) => Ok(Err(chain(&error))),
        Err(error) => Err(error),
    }
}

/// Which documents there are, by compaction.
pub(super) type Listing = BTreeMap<CompactionId, ListedCompaction>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::compactions::{Hold, compaction_claim_key, compaction_receipt_key};
    use crate::clock::ManualClock;
    use crate::destination::{Destination, StoreKind};
    use crate::ledger::testing::{AT, compaction, finish};
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use std::sync::Arc;

    /// Goal: rows that are in the object of a compaction, or will be, are held whatever became of its receipt; what it gave back is free. Of a document that cannot be
    /// read only its own offsets are in doubt, where its name tells them.
    #[tokio::test]
    async fn what_a_compaction_takes_in_is_held_until_it_is_taken_back() {
        let store = Arc::new(InMemory::new());
        let bucket = Bucket::new(Arc::new(Destination::from_store("main", AT, store.clone(), StoreKind::Memory)));
        let (clock, partition) = (ManualClock::at(0), TopicPartition::new("t", 0));
        let taken = async |from: i64, to: i64| {
            let taken = Taken::read(&bucket, &clock, &partition, OffsetRange::new(from, to)).await.expect("read");
            let batches: Vec<_> =
                taken.batches.into_iter().map(|(batch, said)| (batch.first, batch.end, said)).collect();
            (batches, [taken.doubtful, taken.doubtful_claims].concat())
        };
        let of = compaction('a', 1, &[("x/0", 0, 10), ("x/1", 10, 20), ("x/2", 50, 60)], "x/c1");
        bucket.claim_compaction(&of).await.expect("claimed");
        let (batches, _) = taken(5, 20).await;
        let [(0, 10, begun), (10, 20, _)] = &batches[..] else { panic!("{batches:?}") };
        assert!(
            begun.contains("is not finished") && begun.contains("--undo aaaa") && begun.contains(".1.claim --yes"),
            "{begun}"
        );
        finish(&bucket, &of).await;
        let (batches, _) = taken(5, 20).await;
        assert!(
            matches!(&batches[..], [(0, 10, said), (10, 20, _)] if said.contains("holds rows of the batch")),
            "{batches:?}"
        );
        // Its receipt is lost, and it is at its end.
        bucket.end_compaction(&partition, &of.id(), 0).await.expect("marked");
        let receipt = Path::from(compaction_receipt_key(&partition, 1, &of.id(), of.range()));
        let bytes = store.get(&receipt).await.expect("there").bytes().await.expect("bytes");
        store.delete(&receipt).await.expect("deleted");
        let (batches, _) = taken(5, 20).await;
        assert!(
            matches!(&batches[..], [(0, 10, said), (10, 20, _)] if said.contains("lost its receipt")),
            "{batches:?}"
        );
        store.put(&receipt, bytes.into()).await.expect("put");
        // A hold takes nothing in.
        let hold = Hold { of: 1, by: "me".into(), alone: false };
        bucket.claim_compaction(&of.to_hold(2, hold)).await.expect("claimed");
        assert_eq!(taken(5, 20).await.0.len(), 2);
        bucket.undo_compaction(&partition, &of.id(), 0).await.expect("taken back");
        let (batches, doubtful) = taken(0, 99).await;
        assert!(batches.is_empty() && doubtful.is_empty(), "{batches:?} {doubtful:?}");

        let other = compaction('b', 1, &[("y/0", 200, 210)], "y/c1");
        finish(&bucket, &other).await;
        let receipt = Path::from(compaction_receipt_key(&partition, 1, &other.id(), other.range()));
        store.put(&receipt, "{".into()).await.expect("put");
        assert!(taken(0, 99).await.1.is_empty());
        let (_, doubtful) = taken(0, 999).await;
        assert!(matches!(&doubtful[..], [one] if one.range == OffsetRange::new(200, 210)), "{doubtful:?}");
        let third = compaction('c', 1, &[("z/0", 300, 310)], "z/c1");
        store.put(&Path::from(compaction_claim_key(&partition, 1, &third.id())), "{".into()).await.expect("put");
        let (_, doubtful) = taken(0, 9).await;
        assert!(
            matches!(&doubtful[..], [one] if one.range.contains(5) && one.why.contains("the claim")),
            "{doubtful:?}"
        );
    }
}
