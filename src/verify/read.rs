//! The documents of a Kafka partition, one after the other. One that is damaged is told and stops nothing.

use crate::bucket::claim::{Claim, claim_key};
use crate::bucket::entries::Listed;
use crate::bucket::receipt::{Receipt, receipt_key};
use crate::bucket::replays::{ReplayClaim, ReplayReceipt, replay_claim_key, replay_receipt_key};
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
use crate::pipeline::start::{chain, patiently};
use crate::record::TopicPartition;
use futures::stream::{self, BoxStream, StreamExt};
use std::future::Future;
use std::sync::Arc;

/// Documents read side by side.
pub(super) const READS_MAX: usize = 16;

/// What there is about a batch.
#[derive(Debug)]
pub(super) enum Document {
    /// Its receipt.
    Receipt(Box<Receipt>),
    /// Its claim, where it has no receipt.
    Claim(Box<Claim>),
    /// Its receipt, or its claim where there is no receipt, cannot be read.
    Unreadable(Unreadable),
    /// Nothing, by now.
    Gone,
}

/// A document that cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// Key.
    pub(super) key: String,
    /// One past the last offset of its batch, where its claim tells.
    pub(super) end: Option<i64>,
    /// What is wrong.
    pub(super) what: String,
    /// A newer release can read it.
    pub(super) newer: bool,
}

/// What there is about a replay.
#[derive(Debug)]
pub(super) enum ReplayDocument {
    /// Its receipt.
    Receipt(Box<ReplayReceipt>),
    /// Its claim, where it has no receipt.
    Claim(Box<ReplayClaim>),
    /// See [`Document::Unreadable`].
    Unreadable(Unreadable),
    /// Nothing, by now.
    Gone,
}

/// Where documents of one archive are read.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) bucket: Bucket,
    pub(super) clock: Arc<dyn Clock>,
}

impl Reader {
    /// Repeats `attempt` as [`patiently`] does, but hands over what a document has against being read.
    pub(super) async fn tolerantly<T, F, R>(&self, what: &str, attempt: F) -> Result<Result<T, BucketError>, Failure>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T, BucketError>>,
    {
        let attempt = || async {
            match attempt().await {
                Err(error @ (BucketError::Unreadable { .. } | BucketError::Newer { .. })) => Ok(Err(error)),
                Err(error) => Err(error),
                Ok(found) => Ok(Ok(found)),
            }
        };
        patiently(&*self.clock, what, attempt).await
    }

    /// The batch that begins at `first`, looked for anew.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn document(&self, partition: &TopicPartition, first: i64) -> Result<Document, Failure> {
        let (bucket, what) = (&self.bucket, format!("{partition}: the receipt of {first}"));
        let receipt = self.tolerantly(&what, || bucket.get_receipt(partition, first)).await?;
        let unreadable = match receipt {
            Ok(Some(receipt)) => return Ok(Document::Receipt(Box::new(receipt))),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let what = format!("{partition}: the claim of {first}");
        let claim = self.tolerantly(&what, || bucket.get_claim(partition, first)).await?;
        let generation = bucket.generation();
        if let Some(error) = unreadable {
            let end = claim.ok().flatten().map(|claim| claim.end);
            return Ok(Document::Unreadable(described(receipt_key(partition, generation, first), end, &error)));
        }
        Ok(match claim {
            Ok(Some(claim)) => Document::Claim(Box::new(claim)),
            Ok(None) => Document::Gone,
            Err(error) => Document::Unreadable(described(claim_key(partition, generation, first), None, &error)),
        })
    }

    /// Replay `n` of the batch that begins at `first`, looked for anew.
    ///
    /// # Errors
    /// As [`Reader::document`].
    pub(super) async fn replay(
        &self,
        partition: &TopicPartition,
        (first, n): (i64, u32),
    ) -> Result<ReplayDocument, Failure> {
        let (bucket, what) = (&self.bucket, format!("{partition}: replay {n} of the batch at {first}"));
        let generation = bucket.generation();
        match self.tolerantly(&what, || bucket.replay_receipt(partition, first, n)).await? {
            Ok(Some(receipt)) => return Ok(ReplayDocument::Receipt(Box::new(receipt))),
            Ok(None) => {}
            Err(error) => {
                let key = replay_receipt_key(partition, generation, first, n);
                return Ok(ReplayDocument::Unreadable(described(key, None, &error)));
            }
        }
        Ok(match self.tolerantly(&what, || bucket.replay_claim(partition, first, n)).await? {
            Ok(Some(claim)) => ReplayDocument::Claim(Box::new(claim)),
            Ok(None) => ReplayDocument::Gone,
            Err(error) => {
                let key = replay_claim_key(partition, generation, first, n);
                ReplayDocument::Unreadable(described(key, None, &error))
            }
        })
    }

    /// Everything about the batches of `partition`, in offset order, with their first offsets. Lists its folder (some 20 bytes of
    /// memory for each batch), then reads some documents side by side: of each batch its receipt, and its claim only where it has none.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn batches(
        &self,
        partition: &TopicPartition,
    ) -> Result<BoxStream<'static, Result<(i64, Document), Failure>>, Failure> {
        let what = format!("{partition}: list receipts");
        let listed = patiently(&*self.clock, &what, || self.bucket.listed_from(partition, 0)).await?;
        let (reader, partition) = (self.clone(), partition.clone());
        let read = move |Listed { first, .. }: Listed| {
            let (reader, partition) = (reader.clone(), partition.clone());
            spawned(async move { Ok((first, reader.document(&partition, first).await?)) })
        };
        Ok(stream::iter(listed).map(read).buffered(READS_MAX).boxed())
    }

    /// The same of the replays of `partition`, by first offset of the batch and number.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn replays(
        &self,
        partition: &TopicPartition,
    ) -> Result<BoxStream<'static, Result<((i64, u32), ReplayDocument), Failure>>, Failure> {
        let what = format!("{partition}: list replays");
        let listed = patiently(&*self.clock, &what, || self.bucket.listed_replays(partition)).await?;
        let (reader, partition) = (self.clone(), partition.clone());
        let read = move |replay: (i64, u32)| {
            let (reader, partition) = (reader.clone(), partition.clone());
            spawned(async move { Ok((replay, reader.replay(&partition, replay).await?)) })
        };
        Ok(stream::iter(listed.into_keys()).map(read).buffered(READS_MAX).boxed())
    }
}

/// Runs `work` as a task of its own, so that documents are parsed on all cores. It ends with whoever waits for it, or soon after.
pub(super) async fn spawned<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let ended = tokio::spawn(work).await;
    ended.unwrap_or_else(|error| Err(Failure::new(Exit::Failed, format!("a task of verify ended: {error}"))))
}

pub(super) fn described(key: String, end: Option<i64>, error: &BucketError) -> Unreadable {
    let newer = matches!(error, BucketError::Newer { .. });
    Unreadable { key, end, what: chain(error), newer }
}
