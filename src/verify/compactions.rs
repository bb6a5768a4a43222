//! What compactions changed: objects that batches' receipts name and that are to be gone, and those that count in their place.

use super::finding::{Fault, Finding};
use super::read::{Reader, Unreadable, described, spawned};
use super::run::Run;
use super::table::{Digest, Filling, Owner, digest};
use crate::bucket::compactions::{Compaction, CompactionId, ListedCompaction, To, UNIT_DIGITS};
use crate::bucket::receipt::ReceiptObject;
use crate::exit::Failure;
use crate::pipeline::start::patiently;
use crate::record::{OffsetRange, TopicPartition};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;

/// Receipts of compactions read side by side.
const READS_MAX: usize = 16;

/// A compaction that counts, in few bytes: those of all Kafka partitions are held from the first reading to the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The digits of its unit.
    unit: [u8; UNIT_DIGITS / 2],
    n: u32,
    /// As the name of its receipt tells.
    pub(super) range: OffsetRange,
    /// What it replaced is deleted.
    pub(super) done: bool,
}

/// The compactions of one Kafka partition.
#[derive(Debug, Default)]
pub(super) struct Compactions {
    /// Places of objects that count no more; sorted.
    replaced: Vec<Digest>,
    /// Objects that count in their place, with the number of their compaction, from 1, and what is known of them.
    pub(super) objects: Vec<(u32, CompactedObject)>,
}

/// An object of a compaction.
#[derive(Clone, Debug)]
pub(super) struct CompactedObject {
    pub(super) object: ReceiptObject,
    pub(super) range: OffsetRange,
    pub(super) fingerprint: String,
    pub(super) to: Option<To>,
}

impl Compactions {
    /// Whether that object gave way to another one.
    pub(super) fn is_replaced(&self, object: &ReceiptObject) -> bool {
        !self.replaced.is_empty() && self.replaced.binary_search(&digest(&object.destination, &object.key)).is_ok()
    }

    /// Those of `objects` that count.
    pub(super) fn counting(&self, objects: &[ReceiptObject]) -> Vec<ReceiptObject> {
        objects.iter().filter(|object| !self.is_replaced(object)).cloned().collect()
    }
}

/// What the documents of a compaction tell.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// What it decided: as its receipt says, or its claim where that is damaged; `None` where it was given up.
    pub(super) compaction: Option<Compaction>,
    /// What is wrong with its receipt.
    pub(super) damage: Option<Unreadable>,
}

/// What compactions say of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Named {
    /// None names it.
    Nowhere,
    /// One that was taken back made it.
    TakenBack,
    /// The documents that may name it are damaged, which is told elsewhere.
    Undecided,
    /// One that was begun or finished names it.
    Known,
}

impl Reader {
    /// The documents of a compaction that counts, looked for anew.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn compaction(&self, partition: &TopicPartition, known: &Known) -> Result<Documents, Failure> {
        let (bucket, id, range) = (&self.bucket, &known.id(), &known.range);
        let what = format!("{partition}: the receipt of compaction {}.{}", id.0, id.1);
        let error = match self.tolerantly(&what, || bucket.compaction_receipt(partition, id, *range)).await? {
            Ok(receipt) => {
                let receipt = receipt.filter(|receipt| !receipt.given_up);
                return Ok(Documents { compaction: receipt.map(|receipt| receipt.compaction), damage: None });
            }
            Err(error) => error,
        };
        let claim = self.tolerantly(&what, || bucket.compaction_claim(partition, id)).await?;
        let compaction = claim.ok().flatten().filter(|claim| claim.range() == *range);
        Ok(Documents { compaction, damage: Some(described(Some(range.end), &error)) })
    }

    /// Whether a compaction that was begun or finished meanwhile has `place` among its new objects.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn is_compacted(
        &self,
        partition: &TopicPartition,
        n: u32,
        place: (&str, &str),
    ) -> Result<Named, Failure> {
        let bucket = &self.bucket;
        let listed = patiently(&*self.clock, "list compactions", || bucket.listed_compactions(partition)).await?;
        let mut told = Named::Nowhere;
        for (id, documents) in listed.into_iter().filter(|(id, _)| id.1 == n) {
            let what = format!("{partition}: compaction {}.{}", id.0, id.1);
            let receipt = match documents.receipt {
                Some(range) => self.tolerantly(&what, || bucket.compaction_receipt(partition, &id, range)).await?,
                None => Ok(None),
            };
            let (compaction, is_over) = match receipt {
                Ok(Some(receipt)) => (Ok(Some(receipt.compaction)), documents.undone || receipt.given_up),
                Ok(None) | Err(_) => {
                    let claim = self.tolerantly(&what, || bucket.compaction_claim(partition, &id)).await?;
                    (claim, documents.undone)
                }
            };
            let names = |compaction: Compaction| compaction.objects().any(|(_, object)| object.place() == place);
            told = told.max(match (compaction.map(|found| found.is_some_and(names)), is_over) {
                (Ok(true), false) => Named::Known,
                (Ok(true), true) => Named::TakenBack,
                (Ok(false), _) => Named::Nowhere,
                (Err(_), _) => Named::Undecided,
            });
        }
        Ok(told)
    }
}

impl Run<'_> {
    /// Reads the compactions of one Kafka partition; their objects, and the places of those that they replaced, go into the table.
    pub(super) async fn read_compactions(
        &mut self,
        index: usize,
        filling: &mut Filling,
    ) -> Result<Compactions, Failure> {
        let (archive, partition) = self.archive(index);
        let reader = archive.reader.clone();
        let what = format!("{partition}: list compactions");
        let listed = patiently(&*reader.clock, &what, || reader.bucket.listed_compactions(&partition)).await?;
        let mut open = 0_u64;
        for (id, _) in listed.iter().filter(|(_, documents)| documents.is_open()) {
            open += 1;
            let claim = reader.tolerantly(&what, || reader.bucket.compaction_claim(&partition, id)).await?;
            if let Ok(Some(claim)) = claim {
                let owner = Owner { first: claim.range().first, ..self.owner(index) };
                for (_, object) in claim.objects() {
                    filling.add(digest(&object.destination, &object.key), 0, owner, false);
                }
            }
        }
        let mut known: Vec<Known> = listed.iter().filter_map(|(id, documents)| Known::of(id, documents)).collect();
        drop(listed);
        known.shrink_to_fit();
        let known = Arc::new(known);
        match known.is_empty() {
            true => self.compactions.remove(&index),
            false => self.compactions.insert(index, known.clone()),
        };
        let found = self.follow(index, &known, Some(&mut *filling)).await?;
        if self.is_first_pass() {
            self.tell_compactions(index, open, &known, &found)?;
        }
        for (number, of) in &found.objects {
            let owner = Owner { first: of.range.first, compaction: *number, ..self.owner(index) };
            self.add(index, of.range, std::slice::from_ref(&of.object), owner, filling);
        }
        Ok(found)
    }

    /// The compactions of one Kafka partition once more, without the table.
    pub(super) async fn compactions_again(&mut self, index: usize) -> Result<Compactions, Failure> {
        let known = self.compactions.get(&index).cloned().unwrap_or_default();
        self.follow(index, &known, None).await
    }

    fn owner(&self, index: usize) -> Owner {
        Owner { partition: u32::try_from(index).unwrap_or(u32::MAX), replay: 0, compaction: 0, first: 0 }
    }

    async fn follow(
        &mut self,
        index: usize,
        known: &Arc<Vec<Known>>,
        mut filling: Option<&mut Filling>,
    ) -> Result<Compactions, Failure> {
        let (archive, partition) = self.archive(index);
        let reader = archive.reader.clone();
        let read = |number: usize| {
            let (reader, partition, known) = (reader.clone(), partition.clone(), known.clone());
            spawned(async move { Ok((number, reader.compaction(&partition, &known[number]).await?)) })
        };
        let mut receipts = stream::iter(0..known.len()).map(read).buffered(READS_MAX);
        let mut found = Compactions::default();
        while let Some((at, Documents { compaction, damage })) = receipts.try_next().await? {
            // What was deleted on the word of a receipt tells that it said so.
            let counts = damage.is_none() || known[at].done;
            if let Some(damage) = damage.filter(|_| self.is_first_pass() && filling.is_some()) {
                self.tell_damage(index, &known[at], damage)?;
            }
            let (Some(compaction), number) = (compaction, at) else { continue };
            let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
            let owner = Owner { first: compaction.range().first, compaction: number, ..self.owner(index) };
            let objects: Vec<CompactedObject> = compaction
                .objects()
                .map(|(group, object)| CompactedObject {
                    object,
                    range: group.range(),
                    fingerprint: group.fingerprint.clone(),
                    to: group.to,
                })
                .collect();
            let all: Vec<ReceiptObject> = objects.iter().map(|of| of.object.clone()).collect();
            let is_meant = self.scope.takes(&all);
            for group in &compaction.groups {
                for destination in &group.destinations {
                    for input in &group.inputs {
                        let place = digest(destination, &input.key);
                        found.replaced.push(place);
                        if let Some(filling) = filling.as_deref_mut().filter(|_| is_meant) {
                            filling.add_replaced(place, input.bytes, owner);
                        }
                    }
                }
            }
            if is_meant && counts {
                found.objects.extend(objects.into_iter().map(|object| (number, object)));
            } else if let Some(filling) = filling.as_deref_mut().filter(|_| is_meant) {
                for object in &all {
                    filling.add(digest(&object.destination, &object.key), 0, Owner { compaction: 0, ..owner }, false);
                }
            }
        }
        found.replaced.sort_unstable();
        found.replaced.dedup();
        let replaced = std::mem::take(&mut found.replaced);
        // What a later compaction of the same unit has taken in counts no more either.
        let is_replaced =
            |object: &ReceiptObject| replaced.binary_search(&digest(&object.destination, &object.key)).is_ok();
        found.objects.retain(|(_, of)| !is_replaced(&of.object));
        found.replaced = replaced;
        Ok(found)
    }

    /// Tells of a receipt that is damaged: once, and nothing of what it names, as its claim names that, too.
    fn tell_damage(&mut self, index: usize, known: &Known, damage: Unreadable) -> Result<(), Failure> {
        let (archive, partition) = self.archive(index);
        let home = archive.reader.bucket.destination().id().to_string();
        let Unreadable { key, end, what, newer } = damage;
        self.emit(Finding {
            archive: archive.name.clone(),
            partition,
            first: known.range.first,
            end,
            place: Some((home, key)),
            replay: None,
            compaction: Some(known.name()),
            fault: Fault::Unreadable { what, newer },
        })
    }

    fn tell_compactions(
        &mut self,
        index: usize,
        open: u64,
        known: &[Known],
        found: &Compactions,
    ) -> Result<(), Failure> {
        if open > 0 {
            let what = format!("{open} compactions were begun and are not finished: siltstone compact");
            self.note(index, "open_compaction", what)?;
        }
        let undeleted = known.iter().filter(|known| !known.done).count();
        if undeleted > 0 {
            let what = format!("{undeleted} compactions have not deleted all that they replaced: siltstone compact");
            self.note(index, "open_compaction", what)?;
        }
        self.summary.compactions += known.len() as u64;
        self.summary.replaced += found.replaced.len() as u64;
        let objects: Vec<ReceiptObject> = found.objects.iter().map(|(_, of)| of.object.clone()).collect();
        self.count(&objects);
        Ok(())
    }
}

impl Known {
    /// That of `id`, where it counts. Units are named in small letters: what is not is nobody's.
    fn of(id: &CompactionId, documents: &ListedCompaction) -> Option<Self> {
        let unit = u128::from_str_radix(&id.0, 16).ok()?.to_be_bytes();
        let known = Self { unit, n: id.1, range: documents.counts()?, done: documents.done };
        (known.id() == *id).then_some(known)
    }

    fn id(&self) -> CompactionId {
        (format!("{:0digits$x}", u128::from_be_bytes(self.unit), digits = UNIT_DIGITS), self.n)
    }

    /// As findings name it.
    pub(super) fn name(&self) -> Arc<str> {
        let (unit, n) = self.id();
        format!("{unit}.{n}").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compaction_is_small_and_keeps_its_name() {
        assert_eq!(size_of::<Known>(), 40);
        let range = OffsetRange::new(0, 9);
        let documents = ListedCompaction { claim: true, receipt: Some(range), done: true, undone: false };
        for unit in ["00ff00000000000000000000000000a1", "ffffffffffffffffffffffffffffffff"] {
            let known = Known::of(&(unit.to_string(), 7), &documents).expect("it counts");
            assert_eq!((known.id(), known.range, known.done), ((unit.to_string(), 7), range, true));
            assert_eq!(*known.name(), format!("{unit}.7"));
        }
        assert!(Known::of(&("AB".repeat(16), 1), &documents).is_none());
        assert!(Known::of(&("ab".repeat(16), 1), &ListedCompaction { undone: true, ..documents }).is_none());
    }
}
