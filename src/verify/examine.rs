//! What is looked at by its name: objects that a listing did not show as their receipts say, and with `deep` all of them.

use super::compactions::Known;
use super::deep;
use super::finding::{Fault, Finding};
use super::listing::failed;
use super::read::{Document, READS_MAX, Reader, ReplayDocument, spawned};
use super::run::Run;
use super::table::{Digest, Marks, Owner, Table, digest};
use crate::bucket::compactions::To;
use crate::bucket::receipt::{Receipt, ReceiptObject};
use crate::bucket::replays::ReplayReceipt;
use crate::destination::Destination;
use crate::exit::{Exit, Failure};
use crate::ledger::live::Live;
use crate::record::{OffsetRange, TopicPartition};
use futures::stream::{FuturesUnordered, TryStreamExt};
use object_store::{Error, ObjectStoreExt};
use std::sync::Arc;

impl Run<'_> {
    /// Names what is missing, has another size or is named twice. Reads the receipts of these objects again, and looks for each by its
    /// name.
    pub(super) async fn examine(&mut self, table: &Arc<Table>) -> Result<(), Failure> {
        let mut running = FuturesUnordered::new();
        for number in table.faulty_owners() {
            if running.len() >= READS_MAX {
                let findings: Option<Vec<Finding>> = running.try_next().await?;
                findings.into_iter().flatten().try_for_each(|finding| self.emit(finding))?;
            }
            let owner = table.owner(number);
            let index = owner.partition as usize;
            let (archive, partition) = self.archive(index);
            let compaction = usize::try_from(owner.compaction).ok().and_then(|number| number.checked_sub(1));
            let known = compaction.and_then(|at| self.compactions.get(&index)?.get(at).cloned());
            let examination = Examination {
                reader: archive.reader.clone(),
                archive: archive.name.clone(),
                partition,
                destinations: self.scope.destinations.clone(),
                table: table.clone(),
                number,
                known,
            };
            running.push(spawned(examination.examine()));
        }
        while let Some(findings) = running.try_next().await? {
            findings.into_iter().try_for_each(|finding| self.emit(finding))?;
        }
        Ok(())
    }

    /// Reads the objects of one Kafka partition back.
    pub(super) async fn read_back(&mut self, index: usize) -> Result<(), Failure> {
        let (archive, partition) = self.archive(index);
        let reader = archive.reader.clone();
        let compacted = self.compactions_again(index).await?;
        let mut batches = reader.batches(&partition).await?;
        let mut running = FuturesUnordered::new();
        for (number, of) in &compacted.objects {
            if running.len() >= deep::OBJECTS_MAX {
                let checked = running.try_next().await?;
                self.tell_read_back(index, checked)?;
            }
            let batch = Meant { first: of.range.first, end: of.range.end, replay: None, compaction: *number };
            running.extend(self.checking(index, of.object.clone(), (&of.fingerprint, of.to), batch));
        }
        while let Some((_, document)) = batches.try_next().await? {
            let Document::Receipt(receipt) = document else { continue };
            let Receipt { first, end, objects, fingerprint, .. } = *receipt;
            if !self.scope.takes(&objects) {
                continue;
            }
            for object in compacted.counting(&objects) {
                if running.len() >= deep::OBJECTS_MAX {
                    let checked = running.try_next().await?;
                    self.tell_read_back(index, checked)?;
                }
                let batch = Meant { first, end, replay: None, compaction: 0 };
                running.extend(self.checking(index, object, (&fingerprint, None), batch));
            }
        }
        let mut replays = reader.replays(&partition).await?;
        while let Some(((first, n), document)) = replays.try_next().await? {
            let ReplayDocument::Receipt(receipt) = document else { continue };
            let ReplayReceipt { replay, objects, .. } = *receipt;
            let selected = self.scope.takes(&objects);
            for object in objects.into_iter().filter(|_| selected) {
                if running.len() >= deep::OBJECTS_MAX {
                    let checked = running.try_next().await?;
                    self.tell_read_back(index, checked)?;
                }
                let batch = Meant { first, end: replay.end, replay: Some(n), compaction: 0 };
                running.extend(self.checking(index, object, (&replay.fingerprint, None), batch));
            }
        }
        while let Some(checked) = running.try_next().await? {
            self.tell_read_back(index, Some(checked))?;
        }
        Ok(())
    }

    /// The reading of one object; `None`: its destination is not known.
    fn checking(
        &self,
        index: usize,
        object: ReceiptObject,
        (fingerprint, to): (&str, Option<To>),
        batch: Meant,
    ) -> Option<impl Future<Output = Result<Checked, Failure>> + use<>> {
        let (archive, _) = self.archive(index);
        let layout = archive.layouts.read_before(fingerprint).cloned();
        let destination = self.scope.destinations[self.scope.destination(&object.destination)?].clone();
        let counters = self.parts.counters.clone();
        let place = (object.destination.clone(), object.key.clone());
        Some(spawned(async move {
            let faults = deep::check(destination, object, (layout, to), counters).await?;
            Ok(Checked { batch, place, faults })
        }))
    }

    fn tell_read_back(&mut self, index: usize, checked: Option<Checked>) -> Result<(), Failure> {
        let Some(Checked { batch, place, faults }) = checked else { return Ok(()) };
        let Meant { first, end, replay, compaction } = batch;
        self.summary.read_back += 1;
        let known = (compaction as usize).checked_sub(1);
        let name = known.and_then(|at| Some(self.compactions.get(&index)?.get(at)?.name()));
        for fault in faults {
            let (archive, partition) = self.archive(index);
            let archive = archive.name.clone();
            let place = Some(place.clone());
            let (end, compaction) = (Some(end), name.clone());
            self.emit(Finding { archive, partition, first, end, place, replay, compaction, fault })?;
        }
        Ok(())
    }
}

/// An object that was read back.
struct Checked {
    batch: Meant,
    place: (String, String),
    faults: Vec<Fault>,
}

/// What an object is of.
#[derive(Clone, Copy)]
struct Meant {
    /// First offset of its batch, or of those whose rows it has.
    first: i64,
    end: i64,
    replay: Option<u32>,
    /// Its number, from 1; 0: none.
    compaction: u32,
}

/// Looks into what one receipt names.
struct Examination {
    /// The compaction, where it is one's.
    known: Option<Known>,
    reader: Reader,
    archive: Arc<str>,
    partition: TopicPartition,
    destinations: Arc<Vec<Arc<Destination>>>,
    table: Arc<Table>,
    number: u32,
}

impl Examination {
    async fn examine(self) -> Result<Vec<Finding>, Failure> {
        if let Some(known) = &self.known {
            return self.examine_compaction(known).await;
        }
        let Owner { replay, first, .. } = self.table.owner(self.number);
        let (end, objects) = match replay {
            0 => match self.reader.document(&self.partition, first).await? {
                Document::Receipt(receipt) => (receipt.end, receipt.objects),
                _ => return Ok(Vec::new()),
            },
            n => match self.reader.replay(&self.partition, (first, n)).await? {
                ReplayDocument::Receipt(receipt) => (receipt.replay.end, receipt.objects),
                _ => return Ok(Vec::new()),
            },
        };
        let faults = self.faults(&objects, OffsetRange::new(first, end)).await?;
        let of = |(at, fault): (usize, Fault)| Finding {
            replay: (replay > 0).then_some(replay),
            ..self.finding((first, end), &objects[at], fault)
        };
        Ok(faults.into_iter().map(of).collect())
    }

    fn finding(&self, (first, end): (i64, i64), object: &ReceiptObject, fault: Fault) -> Finding {
        Finding {
            archive: self.archive.clone(),
            partition: self.partition.clone(),
            first,
            end: Some(end),
            place: Some((object.destination.clone(), object.key.clone())),
            replay: None,
            compaction: self.known.as_ref().map(Known::name),
            fault,
        }
    }

    /// Names what is wrong with the objects of a compaction, and which of those that it replaced are there again.
    async fn examine_compaction(&self, known: &Known) -> Result<Vec<Finding>, Failure> {
        let documents = self.reader.compaction(&self.partition, known).await?;
        let Some(compaction) = documents.compaction else { return Ok(Vec::new()) };
        let (groups, objects): (Vec<_>, Vec<_>) = compaction.objects().unzip();
        let of = |(at, fault): (usize, Fault)| {
            let range = groups[at].range();
            self.finding((range.first, range.end), &objects[at], fault)
        };
        let faults = self.faults(&objects, compaction.range()).await?;
        let mut findings: Vec<Finding> = faults.into_iter().map(of).collect();
        for (group, object) in groups.iter().zip(&objects) {
            for input in group.inputs.iter().filter(|_| known.done) {
                let place = digest(&object.destination, &input.key);
                let marks = self.table.marks(place, self.number).filter(|_| self.table.takes(place));
                if !marks.is_some_and(Marks::is_returned) {
                    continue;
                }
                let there = ReceiptObject { key: input.key.clone(), ..object.clone() };
                if let Some(bytes) = self.size(&there).await? {
                    findings.push(self.finding((input.first, input.end), &there, Fault::Returned { bytes }));
                }
            }
        }
        Ok(findings)
    }

    /// What is wrong with which of `objects`, which one receipt of batches of `range` names.
    async fn faults(&self, objects: &[ReceiptObject], range: OffsetRange) -> Result<Vec<(usize, Fault)>, Failure> {
        let mut faults = Vec::new();
        for (at, object) in objects.iter().enumerate() {
            let place = digest(&object.destination, &object.key);
            let Some(marks) = self.table.marks(place, self.number).filter(|_| self.table.takes(place)) else {
                continue;
            };
            if marks.is_missing() || marks.has_wrong_size() {
                match self.size(object).await? {
                    None => faults.push((at, Fault::Missing { bytes: object.bytes })),
                    Some(found) if found != object.bytes => {
                        faults.push((at, Fault::Size { expected: object.bytes, found }));
                    }
                    // A listing that was not up to date.
                    Some(_) => {}
                }
            }
            if marks.is_doubled() {
                faults.push((at, Fault::Doubled { beside: self.beside(place) }));
            }
        }
        if faults.iter().any(|(_, fault)| matches!(fault, Fault::Missing { .. })) {
            // Behind the last look: a compaction may have replaced them since receipts were read. What of it cannot be read is told elsewhere.
            let (bucket, clock) = (&self.reader.bucket, &*self.reader.clock);
            let (live, _) = Live::read_tolerantly(bucket, clock, &self.partition, range).await?;
            let is_replaced = |at: usize| live.is_replaced(&objects[at].destination, &objects[at].key);
            faults.retain(|(at, fault)| !matches!(fault, Fault::Missing { .. }) || !is_replaced(*at));
        }
        Ok(faults)
    }

    /// Who names that object, too, in words.
    fn beside(&self, place: Digest) -> String {
        let first = self.table.first_owner(place);
        match first.map(|owner| (owner.first, owner.replay)) {
            _ if first.is_some_and(|owner| owner.compaction > 0) => {
                "the receipt of a compaction, which names it, too".to_string()
            }
            Some((first, 0)) => format!("the receipt of the batch at {first}, which names it, too"),
            Some((first, n)) => format!("the receipt of replay {n} of the batch at {first}, which names it, too"),
            None => "another receipt that names it".to_string(),
        }
    }

    async fn size(&self, object: &ReceiptObject) -> Result<Option<u64>, Failure> {
        let destination = self.destinations.iter().find(|destination| destination.id() == object.destination);
        let Some(destination) = destination else { return Ok(None) };
        let path = destination.path(&object.key).map_err(|error| Failure::new(Exit::Stopped, error.to_string()))?;
        match destination.store().head(&path).await {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(&format!("look for {}/{}", destination.id(), object.key), &error)),
        }
    }
}
