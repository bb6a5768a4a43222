//! What an object is that has one of the archive's names, and that no receipt or claim which was read names: put since, or nobody's.

use super::compactions::Named;
use super::finding::{Fault, Finding};
use super::listing::Stranger;
use super::read::{Document, Reader, ReplayDocument};
use crate::bucket::receipt::Receipt;
use crate::exit::Failure;
use crate::record::TopicPartition;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Receipts that are remembered: objects of one batch lie in several folders. Little, as one may be large.
const REMEMBERED_MAX: usize = 64;

/// Objects that these name together, unless the last one alone has more: some 500 bytes each.
const REMEMBERED_OBJECTS_MAX: usize = 4_096;

/// What became of a stranger.
#[derive(Debug)]
pub(super) enum Resolved {
    /// A receipt names it.
    Vouched,
    /// A claim announces it, or may.
    OnItsWay,
    /// The receipt of its batch cannot be read, which is told elsewhere.
    Undecided,
    /// Nobody vouches for it.
    Finding(Box<Finding>),
}

/// Receipts, with the index of their archive.
type Remembered = VecDeque<(usize, Arc<Receipt>)>;

/// Looks strangers up, one archive's or several'.
#[derive(Clone, Default)]
pub(super) struct Lookup {
    remembered: Arc<Mutex<Remembered>>,
}

impl Lookup {
    fn remembered(&self, stranger: &Stranger) -> Option<Arc<Receipt>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |archive: usize, receipt: &Receipt| {
            archive == stranger.archive
                && receipt.first == stranger.first
                && receipt.partition == stranger.partition
                && receipt.topic == *stranger.topic
        };
        remembered.iter().find(|(archive, receipt)| is_it(*archive, receipt)).map(|(_, receipt)| receipt.clone())
    }

    fn remember(&self, archive: usize, receipt: &Arc<Receipt>) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.push_back((archive, receipt.clone()));
        let mut objects: usize = remembered.iter().map(|(_, receipt)| receipt.objects.len()).sum();
        while remembered.len() > 1 && (remembered.len() > REMEMBERED_MAX || objects > REMEMBERED_OBJECTS_MAX) {
            objects -= remembered.pop_front().map_or(0, |(_, receipt)| receipt.objects.len());
        }
    }

    /// What `stranger`, which lies at the destination called `destination`, is. Reads the documents of its batch.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn resolve(
        &self,
        reader: &Reader,
        archive: Arc<str>,
        destination: &str,
        stranger: Stranger,
    ) -> Result<Resolved, Failure> {
        let place = (destination, stranger.key.as_str());
        let partition = TopicPartition::new(stranger.topic.clone(), stranger.partition);
        if let Some(n) = stranger.compaction {
            let fault = match reader.is_compacted(&partition, n, place).await? {
                Named::Known => return Ok(Resolved::Vouched),
                Named::Undecided => return Ok(Resolved::Undecided),
                Named::TakenBack => unvouched(
                    &stranger,
                    "a compaction made it that was taken back: siltstone compact deletes it once all that it was made of is there again, and \
                     until then it may be the only copy of its rows",
                ),
                Named::Nowhere => unvouched(&stranger, "no compaction that counts names it"),
            };
            let Stranger { first, end, replay, key, .. } = stranger;
            let (place, compaction) = (Some((destination.to_string(), key)), Some(n.to_string().into()));
            let finding = Finding { archive, partition, first, end, place, replay, compaction, fault };
            return Ok(Resolved::Finding(Box::new(finding)));
        }
        let fault = match stranger.replay {
            Some(n) => match reader.replay(&partition, (stranger.first, n)).await? {
                ReplayDocument::Receipt(receipt) if receipt.objects.iter().any(|object| object.place() == place) => {
                    return Ok(Resolved::Vouched);
                }
                ReplayDocument::Claim(claim) if claim.keys.iter().any(|object| object.place() == place) => {
                    return Ok(Resolved::OnItsWay);
                }
                ReplayDocument::Unreadable(_) => return Ok(Resolved::Undecided),
                ReplayDocument::Receipt(_) | ReplayDocument::Claim(_) => {
                    unvouched(&stranger, "the documents of its replay do not name it")
                }
                ReplayDocument::Gone => unvouched(&stranger, "there is no such replay"),
            },
            None => match self.batch(reader, &partition, &stranger).await? {
                Found::Receipt(receipt) => match vouched(&receipt, place) {
                    true => return Ok(Resolved::Vouched),
                    false => beside(&receipt, &stranger),
                },
                Found::Other(Document::Claim(claim)) => {
                    let announced = claim.keys.is_empty() || claim.keys.iter().any(|object| object.place() == place);
                    if announced {
                        return Ok(Resolved::OnItsWay);
                    }
                    unvouched(&stranger, "its batch is claimed, and the claim does not name it")
                }
                Found::Other(Document::Unreadable(_)) => return Ok(Resolved::Undecided),
                Found::Other(_) if stranger.end.is_none() => unvouched(
                    &stranger,
                    "no receipt and no claim has that first offset; its name does not tell its range",
                ),
                Found::Other(_) => unvouched(&stranger, "no receipt and no claim has that first offset"),
            },
        };
        let Stranger { first, end, replay, key, .. } = stranger;
        let place = Some((destination.to_string(), key));
        let finding = Finding { archive, partition, first, end, place, replay, compaction: None, fault };
        Ok(Resolved::Finding(Box::new(finding)))
    }

    async fn batch(&self, reader: &Reader, partition: &TopicPartition, stranger: &Stranger) -> Result<Found, Failure> {
        if let Some(receipt) = self.remembered(stranger) {
            return Ok(Found::Receipt(receipt));
        }
        Ok(match reader.document(partition, stranger.first).await? {
            Document::Receipt(receipt) => {
                let receipt = Arc::<Receipt>::from(receipt);
                self.remember(stranger.archive, &receipt);
                Found::Receipt(receipt)
            }
            other => Found::Other(other),
        })
    }
}

enum Found {
    Receipt(Arc<Receipt>),
    Other(Document),
}

fn vouched(receipt: &Receipt, place: (&str, &str)) -> bool {
    receipt.objects.iter().any(|object| object.place() == place)
}

/// The receipt of its batch does not name it: another object of the same output and window may hold the same rows.
fn beside(receipt: &Receipt, stranger: &Stranger) -> Fault {
    let folder = stranger.key.rsplit_once('/').map_or("", |(folder, _)| folder);
    let same = receipt.objects.iter().find(|object| object.output == stranger.output && object.folder == folder);
    match same {
        Some(object) => {
            Fault::Doubled { beside: format!("{}/{}, which the receipt names", object.destination, object.key) }
        }
        None => unvouched(stranger, "the receipt of its batch does not name it"),
    }
}

fn unvouched(stranger: &Stranger, why: &'static str) -> Fault {
    Fault::Unvouched { bytes: stranger.bytes, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::tests::world::receipt;

    #[test]
    fn receipts_with_many_objects_are_few() {
        let lookup = Lookup::default();
        for (objects, remembered) in [(1_000, 4), (1, 64), (REMEMBERED_OBJECTS_MAX + 1, 1)] {
            let names = vec![("k", 1); objects];
            for first in 0..100 {
                lookup.remember(0, &Arc::new(receipt(first, first + 1, &names)));
            }
            assert_eq!(lookup.remembered.lock().expect("no panic").len(), remembered, "{objects}");
        }
    }
}
