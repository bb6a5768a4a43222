//! What is looked at by its name: objects that a listing did not show as their receipts say, and with `deep` all of them.

use super::deep;
use super::finding::{Fault, Finding};
use super::listing::failed;
use super::read::{Document, READS_MAX, Reader, ReplayDocument, spawned};
use super::run::Run;
use super::table::{Owner, Table, digest};
use crate::bucket::receipt::{Receipt, ReceiptObject};
use crate::bucket::replays::ReplayReceipt;
use crate::destination::Destination;
use crate::exit::{Exit, Failure};
use crate::record::TopicPartition;
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
            let (archive, partition) = self.archive(table.owner(number).partition as usize);
            let examination = Examination {
                reader: archive.reader.clone(),
                archive: archive.name.clone(),
                partition,
                destinations: self.scope.destinations.clone(),
                table: table.clone(),
                number,
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
        let mut batches = reader.batches(&partition).await?;
        let mut running = FuturesUnordered::new();
        while let Some((_, document)) = batches.try_next().await? {
            let Document::Receipt(receipt) = document else { continue };
            let Receipt { first, end, objects, fingerprint, .. } = *receipt;
            if !self.scope.takes(&objects) {
                continue;
            }
            for object in objects {
                if running.len() >= deep::OBJECTS_MAX {
                    let checked = running.try_next().await?;
                    self.tell_read_back(index, checked)?;
                }
                running.extend(self.checking(index, object, &fingerprint, (first, end, None)));
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
                running.extend(self.checking(index, object, &replay.fingerprint, (first, replay.end, Some(n))));
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
        fingerprint: &str,
        batch: (i64, i64, Option<u32>),
    ) -> Option<impl Future<Output = Result<Checked, Failure>> + use<>> {
        let (archive, _) = self.archive(index);
        let layout = archive.layouts.read_before(fingerprint).cloned();
        let destination = self.scope.destinations[self.scope.destination(&object.destination)?].clone();
        let counters = self.parts.counters.clone();
        let place = (object.destination.clone(), object.key.clone());
        Some(spawned(async move {
            let faults = deep::check(destination, object, layout, counters).await?;
            Ok(Checked { batch, place, faults })
        }))
    }

    fn tell_read_back(&mut self, index: usize, checked: Option<Checked>) -> Result<(), Failure> {
        let Some(Checked { batch: (first, end, replay), place, faults }) = checked else { return Ok(()) };
        self.summary.read_back += 1;
        for fault in faults {
            let (archive, partition) = self.archive(index);
            let archive = archive.name.clone();
            let place = Some(place.clone());
            self.emit(Finding { archive, partition, first, end: Some(end), place, replay, fault })?;
        }
        Ok(())
    }
}

/// An object that was read back.
struct Checked {
    /// First offset and end of its batch, and which replay of it.
    batch: (i64, i64, Option<u32>),
    place: (String, String),
    faults: Vec<Fault>,
}

/// Looks into what one receipt names.
struct Examination {
    reader: Reader,
    archive: Arc<str>,
    partition: TopicPartition,
    destinations: Arc<Vec<Arc<Destination>>>,
    table: Arc<Table>,
    number: u32,
}

impl Examination {
    async fn examine(self) -> Result<Vec<Finding>, Failure> {
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
        let mut findings = Vec::new();
        for object in objects {
            let faults = self.faults(&object).await?;
            findings.extend(faults.into_iter().map(|fault| Finding {
                archive: self.archive.clone(),
                partition: self.partition.clone(),
                first,
                end: Some(end),
                place: Some((object.destination.clone(), object.key.clone())),
                replay: (replay > 0).then_some(replay),
                fault,
            }));
        }
        Ok(findings)
    }

    async fn faults(&self, object: &ReceiptObject) -> Result<Vec<Fault>, Failure> {
        let place = digest(&object.destination, &object.key);
        let Some(marks) = self.table.marks(place, self.number).filter(|_| self.table.takes(place)) else {
            return Ok(Vec::new());
        };
        let mut faults = Vec::new();
        if marks.is_missing() || marks.has_wrong_size() {
            let found = self.size(object).await?;
            match found {
                None => faults.push(Fault::Missing { bytes: object.bytes }),
                Some(found) if found != object.bytes => faults.push(Fault::Size { expected: object.bytes, found }),
                // Replaced since, or a listing that was not up to date.
                Some(_) => {}
            }
        }
        if marks.is_doubled() {
            let first = self.table.first_owner(place).map(|owner| (owner.first, owner.replay));
            let beside = match first {
                Some((first, 0)) => format!("the receipt of the batch at {first}, which names it, too"),
                Some((first, n)) => format!("the receipt of replay {n} of the batch at {first}, which names it, too"),
                None => "another receipt that names it".to_string(),
            };
            faults.push(Fault::Doubled { beside });
        }
        Ok(faults)
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
