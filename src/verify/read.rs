//! The documents of a Kafka partition, one after the other. One that is damaged is told and stops nothing.

use crate::bucket::claim::Claim;
use crate::bucket::entries::Listed;
use crate::bucket::folds::{Folds, Stretch, prevailing, stretches};
use crate::bucket::receipt::Receipt;
use crate::bucket::replays::{ReplayClaim, ReplayReceipt};
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
use crate::pipeline::start::{chain, patiently};
use crate::record::TopicPartition;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
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
        let receipt = self.tolerantly(&what, || bucket.counting_receipt(partition, first)).await?;
        let unreadable = match receipt {
            Ok(Some(receipt)) => return Ok(Document::Receipt(Box::new(receipt))),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let what = format!("{partition}: the claim of {first}");
        let claim = self.tolerantly(&what, || bucket.get_claim(partition, first)).await?;
        if let Some(error) = unreadable {
            let end = claim.ok().flatten().map(|claim| claim.end);
            return Ok(Document::Unreadable(described(end, &error)));
        }
        Ok(match claim {
            Ok(Some(claim)) => Document::Claim(Box::new(claim)),
            Ok(None) => Document::Gone,
            Err(error) => Document::Unreadable(described(None, &error)),
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
        match self.tolerantly(&what, || bucket.replay_receipt(partition, first, n)).await? {
            Ok(Some(receipt)) => return Ok(ReplayDocument::Receipt(Box::new(receipt))),
            Ok(None) => {}
            Err(error) => return Ok(ReplayDocument::Unreadable(described(None, &error))),
        }
        Ok(match self.tolerantly(&what, || bucket.replay_claim(partition, first, n)).await? {
            Ok(Some(claim)) => ReplayDocument::Claim(Box::new(claim)),
            Ok(None) => ReplayDocument::Gone,
            Err(error) => ReplayDocument::Unreadable(described(None, &error)),
        })
    }

    /// Everything about the batches of `partition`, in offset order, with their first offsets. Lists its folder (some 20 bytes of
    /// memory for each batch), then reads some documents side by side: of each batch its receipt, and its claim only where it has none. Of
    /// the folds one is read at a time.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn batches(
        &self,
        partition: &TopicPartition,
    ) -> Result<BoxStream<'static, Result<(i64, Document), Failure>>, Failure> {
        let what = format!("{partition}: list receipts");
        let names = patiently(&*self.clock, &what, || self.bucket.names_from(partition, 0)).await?;
        let folds = patiently(&*self.clock, &what, || self.bucket.folds(partition)).await?;
        let firsts: Vec<i64> = names.keys().copied().collect();
        let with_receipt: Arc<Vec<i64>> =
            Arc::new(names.into_values().filter(|name: &Listed| name.receipt).map(|name| name.first).collect());
        let (reader, partition) = (self.clone(), partition.clone());
        let of_stretch = move |stretch| {
            let (reader, partition, with_receipt) = (reader.clone(), partition.clone(), with_receipt.clone());
            async move { reader.of_stretch(partition, stretch, with_receipt).await }
        };
        Ok(stream::iter(stretches(&firsts, folds)).map(Ok).and_then(of_stretch).try_flatten().boxed())
    }

    async fn of_stretch(
        self,
        partition: TopicPartition,
        stretch: Stretch,
        with_receipt: Arc<Vec<i64>>,
    ) -> Result<BoxStream<'static, Result<(i64, Document), Failure>>, Failure> {
        let (firsts, folds) = match stretch {
            Stretch::Beside(firsts) => (firsts, Folds::default()),
            Stretch::Folded { folds: ranges, beside } => {
                let what = format!("{partition}: folded receipts");
                let read = self.tolerantly(&what, || self.bucket.read_folds(&partition, &ranges)).await?;
                let folds = match read {
                    Ok(folds) => folds,
                    // Told once, for all that they have.
                    Err(error) => {
                        let first = ranges.iter().map(|range| range.first).min().unwrap_or_default();
                        let end = ranges.iter().map(|range| range.end).max();
                        let told = (first, Document::Unreadable(described(end, &error)));
                        return Ok(stream::once(std::future::ready(Ok(told))).boxed());
                    }
                };
                let mut firsts = folds.firsts();
                firsts.extend(beside);
                (firsts.into_iter().collect(), folds)
            }
        };
        let (reader, folds) = (self, Arc::new(folds));
        let read = move |first: i64| {
            let (reader, partition, folds) = (reader.clone(), partition.clone(), folds.clone());
            let is_beside = with_receipt.binary_search(&first).is_ok();
            spawned(async move {
                let folded = match folds.receipt(first) {
                    Ok(folded) => folded,
                    Err(error @ (BucketError::Unreadable { .. } | BucketError::Newer { .. })) if !is_beside => {
                        return Ok((first, reader.unread_receipt(&partition, first, &error).await?));
                    }
                    Err(_) => None,
                };
                Ok((
                    first,
                    match folded {
                        Some(folded) if !is_beside => Document::Receipt(Box::new(folded)),
                        Some(folded) => match reader.document(&partition, first).await? {
                            Document::Receipt(beside) => Document::Receipt(Box::new(prevailing(*beside, folded))),
                            other => other,
                        },
                        None => reader.document(&partition, first).await?,
                    },
                ))
            })
        };
        Ok(stream::iter(firsts).map(read).buffered(READS_MAX).boxed())
    }

    /// A receipt in a fold that cannot be read.
    async fn unread_receipt(
        &self,
        partition: &TopicPartition,
        first: i64,
        error: &BucketError,
    ) -> Result<Document, Failure> {
        let what = format!("{partition}: the claim of {first}");
        let claim = self.tolerantly(&what, || self.bucket.get_claim(partition, first)).await?;
        let end = claim.ok().flatten().map(|claim| claim.end);
        Ok(Document::Unreadable(described(end, error)))
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

/// What stands against reading a document, as [`Reader::tolerantly`] hands it over.
pub(super) fn described(end: Option<i64>, error: &BucketError) -> Unreadable {
    let (key, newer) = match error {
        BucketError::Newer { key, .. } => (key.clone(), true),
        BucketError::Unreadable { key, .. } => (key.clone(), false),
        _ => (String::new(), false),
    };
    Unreadable { key, end, what: chain(error), newer }
}
