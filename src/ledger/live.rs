//! Which objects count: those that receipts of batches name, but those that compactions have replaced, and the compactions' own.
//!
//! Whoever reads, verifies or mends an archive asks here before it takes an object of a batch's receipt for one that is there.
//!
//! Memory: 16 bytes for each object that was replaced, and some hundred for each that replaces them; of the compactions that share an offset
//! with what is asked for. Nothing where nobody has compacted anything.

use super::taken::Listing;
use crate::bucket::compactions::{Compaction, CompactionId, CompactionReceipt, Group, ListedCompaction, To};
use crate::bucket::receipt::{Receipt, ReceiptObject, receipt_key};
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
use crate::ledger::Destinations;
use crate::pipeline::start::{chain, patiently};
use crate::record::{OffsetRange, TopicPartition};
use crate::upload::{Look, UploadError, is_there};
use crate::verify::table::{Digest, digest};
use futures::stream::{FuturesOrdered, TryStreamExt};
use std::collections::BTreeMap;

/// Receipts of compactions read side by side.
const READS_MAX: usize = 8;

/// An object that a compaction made and that counts.
#[derive(Clone, Debug)]
pub struct Compacted {
    /// The compaction.
    pub id: CompactionId,
    /// What its group says; without the inputs, which count no more.
    pub group: Group,
    /// It, at each of its destinations.
    pub objects: Vec<ReceiptObject>,
}

/// A compaction of which nobody knows whether it counts, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubtful {
    /// Which.
    pub id: CompactionId,
    /// The offsets of its batches, from the first to the last.
    pub range: OffsetRange,
    /// Why, and what to do.
    pub why: String,
}

/// What counts of one Kafka partition.
#[derive(Debug, Default)]
pub struct Live {
    /// Of the places of objects that count no more; sorted.
    replaced: Vec<Digest>,
    /// What counts in their place, by offset.
    compacted: Vec<Compacted>,
    /// First offset of each batch whose rows are in one of them, and in which; sorted.
    of_batches: Vec<(i64, usize)>,
}

impl Live {
    /// Reads the compactions of `partition` that share an offset with `range`.
    ///
    /// # Errors
    /// A store that refuses or does not answer. [`Exit::Stopped`]: a receipt is damaged, and nobody knows whether its inputs count.
    pub async fn read(
        bucket: &Bucket,
        clock: &dyn Clock,
        partition: &TopicPartition,
        range: OffsetRange,
    ) -> Result<Self, Failure> {
        let (live, damaged) = Self::read_tolerantly(bucket, clock, partition, range).await?;
        match damaged.into_iter().next() {
            None => Ok(live),
            Some(Doubtful { why, .. }) => Err(Failure::new(Exit::Stopped, format!("{partition}: {why}"))),
        }
    }

    /// The same, and beside it the compactions of which nobody knows whether they count: nothing of their units may be touched.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub async fn read_tolerantly(
        bucket: &Bucket,
        clock: &dyn Clock,
        partition: &TopicPartition,
        range: OffsetRange,
    ) -> Result<(Self, Vec<Doubtful>), Failure> {
        let listed = patiently(clock, "list compactions", || bucket.listed_compactions(partition)).await?;
        Self::of_listed(bucket, clock, partition, range, listed).await
    }

    /// The same of compactions that were listed.
    pub(super) async fn of_listed(
        bucket: &Bucket,
        clock: &dyn Clock,
        partition: &TopicPartition,
        range: OffsetRange,
        listed: Listing,
    ) -> Result<(Self, Vec<Doubtful>), Failure> {
        let is_meant = |documents: &ListedCompaction| {
            documents.counts().is_some_and(|covers| covers.first < range.end && range.first < covers.end)
        };
        let meant: Vec<_> = listed.into_iter().filter(|(_, documents)| is_meant(documents)).collect();
        let (mut live, mut damaged) = (Self::default(), Vec::new());
        let (mut waiting, mut running) = (meant.into_iter(), FuturesOrdered::new());
        loop {
            while running.len() < READS_MAX
                && let Some((id, documents)) = waiting.next()
            {
                running.push_back(async move {
                    let read = counting(bucket, clock, partition, &id, &documents).await?;
                    Ok::<_, Failure>((id, documents.counts(), read))
                });
            }
            let Some((id, covers, read)) = running.try_next().await? else { break };
            match read {
                Ok(receipt) => {
                    let receipt = receipt.filter(|receipt| !receipt.given_up);
                    receipt.iter().for_each(|receipt| live.add(&receipt.compaction));
                }
                Err(why) => damaged.push(Doubtful { id, range: covers.unwrap_or(range), why }),
            }
        }
        Ok((live.sealed(), damaged))
    }

    fn add(&mut self, compaction: &Compaction) {
        let objects: Vec<(&Group, ReceiptObject)> = compaction.objects().collect();
        for group in &compaction.groups {
            for destination in &group.destinations {
                self.replaced.extend(group.inputs.iter().map(|input| digest(destination, &input.key)));
            }
            let own = objects.iter().filter(|(of, _)| of.key == group.key).map(|(_, object)| object.clone()).collect();
            let group = Group { inputs: Vec::new(), ..group.clone() };
            self.compacted.push(Compacted { id: compaction.id(), group, objects: own });
        }
    }

    fn sealed(mut self) -> Self {
        self.replaced.sort_unstable();
        self.replaced.dedup();
        let replaced = std::mem::take(&mut self.replaced);
        // What a later compaction of the same unit has taken in counts no more either.
        self.compacted.retain(|of| {
            of.objects.iter().all(|object| replaced.binary_search(&digest(&object.destination, &object.key)).is_err())
        });
        self.replaced = replaced;
        self.compacted
            .sort_by(|one, other| (one.group.range(), &one.group.key).cmp(&(other.group.range(), &other.group.key)));
        let batches = self.compacted.iter().enumerate();
        let batches = batches.flat_map(|(index, of)| of.group.batches.iter().map(move |&(first, _)| (first, index)));
        self.of_batches = batches.collect();
        self.of_batches.sort_unstable();
        self
    }

    /// Whether nothing was replaced.
    pub fn is_empty(&self) -> bool {
        self.replaced.is_empty()
    }

    /// Whether that object gave way to another one.
    pub fn is_replaced(&self, destination: &str, key: &str) -> bool {
        !self.replaced.is_empty() && self.replaced.binary_search(&digest(destination, key)).is_ok()
    }

    /// The objects of compactions that count, by offset.
    pub fn compacted(&self) -> &[Compacted] {
        &self.compacted
    }

    /// The batches that share an offset with `range` and have rows in objects of compactions: each with the first of these.
    pub fn batches_of(&self, range: OffsetRange) -> BTreeMap<OffsetRange, &Compacted> {
        let mut found = BTreeMap::new();
        for of in &self.compacted {
            let batches = of.group.batches.iter().map(|&(first, end)| OffsetRange::new(first, end));
            for batch in batches.filter(|batch| batch.first < range.end && range.first < batch.end) {
                found.entry(batch).or_insert(of);
            }
        }
        found
    }

    /// Those that have rows of the batch that begins at `first`: their numbers in [`Live::compacted`].
    pub fn of_batch(&self, first: i64) -> impl Iterator<Item = usize> {
        let begin = self.of_batches.partition_point(|&(of, _)| of < first);
        self.of_batches[begin..].iter().take_while(move |&&(of, _)| of == first).map(|&(_, index)| index)
    }
}

/// What to say of a batch that has no receipt and whose rows are in an object of a compaction.
pub fn held_without_receipt(partition: &TopicPartition, generation: u32, batch: OffsetRange, by: &Compacted) -> String {
    let (key, (unit, n)) = (&by.group.key, &by.id);
    format!(
        "{partition}: no receipt vouches for offset {}, but {key} holds rows of the batch {batch}, which a compaction took in: archived again they would \
         be there twice. Restore {} from a backup or an older version of the bucket; or take the compaction back first: siltstone compact --undo {unit}.{n}",
        batch.first,
        receipt_key(partition, generation, batch.first)
    )
}

/// [`Bucket::counting_compaction`]. The inner error: why nobody knows whether it counts, and what to do.
///
/// # Errors
/// A store that refuses or does not answer.
pub async fn counting(
    bucket: &Bucket,
    clock: &dyn Clock,
    partition: &TopicPartition,
    id: &CompactionId,
    documents: &ListedCompaction,
) -> Result<Result<Option<CompactionReceipt>, String>, Failure> {
    let name = format!("compaction {}.{}", id.0, id.1);
    let read = || async {
        match bucket.counting_compaction(partition, id, documents).await {
            Err(error @ BucketError::Newer { .. }) => Ok(Err(format!("the receipt of {name}: {}", chain(&error)))),
            Err(error @ BucketError::Unreadable { .. }) => Ok(Err(format!(
                "the receipt of {name}: {}. Restore it, or move it away, and siltstone compact writes it again from its claim",
                chain(&error)
            ))),
            Err(error) => Err(error),
            Ok(receipt) => Ok(Ok(receipt)),
        }
    };
    patiently(clock, &format!("{partition}: the receipt of {name}"), read).await
}

/// What compactions are to a batch of which objects are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They have replaced nothing of it.
    None,
    /// They have replaced all that is gone, and what they put in its place is there: nothing of the batch is missing.
    Whole,
    /// They have not replaced all that is gone: the batch is archived again, but for what they have replaced.
    Partly,
    /// They have replaced all that is gone, and one that they put in its place is not there: archiving the batch again does not make that one.
    Broken {
        /// Its key.
        key: String,
        /// Its compaction.
        id: CompactionId,
    },
}

impl Live {
    /// What this is to the batch of `receipt`, of which `gone` are not there as it says.
    ///
    /// # Errors
    /// A store refuses or does not answer.
    pub async fn stands_for(
        &self,
        receipt: &Receipt,
        gone: &[&ReceiptObject],
        destinations: &Destinations,
        look: Look,
    ) -> Result<Standing, UploadError> {
        let is_replaced = |object: &ReceiptObject| self.is_replaced(&object.destination, &object.key);
        if !receipt.objects.iter().any(is_replaced) {
            return Ok(Standing::None);
        }
        if gone.iter().any(|object| !is_replaced(object)) {
            return Ok(Standing::Partly);
        }
        for index in self.of_batch(receipt.first) {
            let of = &self.compacted[index];
            for object in &of.objects {
                let Some(destination) = destinations.get(&object.destination) else { continue };
                if !is_there(destination, &object.key, object.bytes, object.sha256.as_deref(), look).await? {
                    return Ok(Standing::Broken { key: object.key.clone(), id: of.id.clone() });
                }
            }
        }
        Ok(Standing::Whole)
    }
}

impl Compacted {
    /// From the first offset of its first batch to the end of its last one.
    pub fn range(&self) -> OffsetRange {
        self.group.range()
    }

    /// The format that its rows were given in place of the layout's.
    pub fn to(&self) -> Option<To> {
        self.group.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::destination::{Destination, StoreKind};
    use crate::ledger::testing::{AT, compaction, finish};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    /// Goal: of old and new exactly one set counts, through compactions of compactions and after one is taken back.
    #[tokio::test]
    async fn one_of_the_two_sets_counts() {
        let store = Arc::new(InMemory::new());
        let bucket = Bucket::new(Arc::new(Destination::from_store("main", AT, store, StoreKind::Memory)));
        let (clock, partition) = (ManualClock::at(0), TopicPartition::new("t", 0));
        let live = |from: i64, to: i64| Live::read(&bucket, &clock, &partition, OffsetRange::new(from, to));
        let first = compaction('a', 1, &[("x/0", 0, 10), ("x/1", 10, 20)], "x/c1");
        let second = compaction('a', 2, &[("x/c1", 0, 20), ("x/2", 20, 30)], "x/c2");
        let other = compaction('b', 1, &[("y/0", 0, 10), ("y/3", 90, 99)], "y/c1");
        for claim in [&first, &second, &other] {
            bucket.claim_compaction(claim).await.expect("claimed");
        }
        assert!(live(0, 100).await.expect("read").is_empty(), "a claim replaces nothing");
        finish(&bucket, &first).await;
        let found = live(0, 100).await.expect("read");
        assert!(found.is_replaced(AT, "x/0") && found.is_replaced(AT, "x/1") && !found.is_replaced(AT, "x/2"));
        assert!(!found.is_replaced("elsewhere", "x/0"));
        assert_eq!(
            found.of_batch(10).map(|index| found.compacted()[index].group.key.as_str()).collect::<Vec<_>>(),
            ["x/c1"]
        );
        finish(&bucket, &second).await;
        finish(&bucket, &other).await;
        let found = live(0, 100).await.expect("read");
        let keys: Vec<&str> = found.compacted().iter().map(|of| of.group.key.as_str()).collect();
        assert_eq!(keys, ["x/c2", "y/c1"]);
        assert!(found.is_replaced(AT, "x/c1") && found.is_replaced(AT, "x/0"));
        assert_eq!(found.of_batch(0).count(), 2);
        assert_eq!(found.of_batch(1).count(), 0);
        // Only what shares an offset with what is asked for is read.
        assert_eq!(live(95, 96).await.expect("read").compacted().len(), 1);
        bucket.undo_compaction(&partition, &second.id(), 0).await.expect("taken back");
        let found = live(0, 50).await.expect("read");
        let keys: Vec<&str> = found.compacted().iter().map(|of| of.group.key.as_str()).collect();
        assert_eq!(keys, ["x/c1", "y/c1"]);
        assert!(!found.is_replaced(AT, "x/2"));
    }
}
