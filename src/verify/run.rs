//! One verification: passes over receipts and listings, then bytes, then Kafka.

use super::against::Side;
use super::chain::{Batch, Break, Chain};
use super::compactions::{self, Compactions};
use super::finding::{Fault, Finding, Note};
use super::jobs::Jobs;
use super::listing::{self, Folder, Judge, Known, STRANGERS_MAX};
use super::read::{Document, READS_MAX, Reader, ReplayDocument, Unreadable, spawned};
use super::repair::Repairs;
use super::scope::{Archive, Scope};
use super::stranger::{Lookup, Resolved};
use super::table::{Filling, Owner, Table, digest};
use super::{Options, Parts, Summary, Told, Verified, check};
use crate::bucket::claim::ClaimedObject;
use crate::bucket::receipt::{Receipt, ReceiptObject};
use crate::bucket::replays::ReplayReceipt;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::ledger;
use crate::record::{OffsetRange, TopicPartition};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// With a window of time: most folders that are listed one by one. Above it all folders of the archive are listed.
const FOLDERS_MAX: usize = 100_000;

/// See the module.
pub(super) struct Run<'r> {
    pub(super) options: &'r Options,
    pub(super) parts: Parts,
    tell: &'r mut (dyn FnMut(Told) -> Result<(), Failure> + Send),
    pub(super) scope: Scope,
    pub(super) summary: Summary,
    repairs: Repairs,
    /// With a window of time: the folders that receipts name; `None`: too many.
    folders: Option<BTreeSet<(usize, String)>>,
    /// By index of the Kafka partition and destination: objects that cannot be reached, and the range of their batches.
    unreached: BTreeMap<(usize, String), (u64, OffsetRange)>,
    /// Compactions that count, by index of the Kafka partition: 40 bytes each.
    pub(super) compactions: BTreeMap<usize, Arc<Vec<compactions::Known>>>,
    /// What Kafka says, by index of the Kafka partition.
    pub(super) sides: BTreeMap<usize, Side>,
    /// Backfills that have not ended, by index of the archive, once somebody has asked.
    pub(super) jobs: BTreeMap<usize, Jobs>,
    started_ms: i64,
}

impl<'r> Run<'r> {
    /// Finds out what there is to verify.
    ///
    /// # Errors
    /// As [`super::verify`].
    pub(super) async fn begin(
        config: &Config,
        parts: Parts,
        options: &'r Options,
        tell: &'r mut (dyn FnMut(Told) -> Result<(), Failure> + Send),
    ) -> Result<Self, Failure> {
        let started_ms = parts.clock.monotonic_ms();
        let topics = match &parts.cluster {
            Some(cluster) => Some(cluster.topics().await.map_err(|error| unreachable("list Kafka's topics", &error))?),
            None => None,
        };
        let takes = |partition: &TopicPartition| options.takes(partition);
        let name = options.archive.as_deref();
        let sites = ledger::sites(config, &parts.destinations, &*parts.clock, name, takes).await?;
        let with_readers = sites.into_iter().map(|site| {
            let reader = Reader { bucket: site.bucket.clone(), clock: parts.clock.clone() };
            (site, reader)
        });
        let scope = Scope::new(config, &parts.destinations, with_readers.collect(), options, topics.as_ref());
        let summary = Summary {
            archives: scope.archives.iter().map(|archive| archive.name.to_string()).collect(),
            partitions: scope.partitions.len() as u64,
            ..Summary::default()
        };
        let mut run = Self {
            options,
            parts,
            tell,
            folders: scope.is_window().then(BTreeSet::new),
            scope,
            summary,
            repairs: Repairs::default(),
            unreached: BTreeMap::new(),
            compactions: BTreeMap::new(),
            sides: BTreeMap::new(),
            jobs: BTreeMap::new(),
            started_ms,
        };
        run.ask_before(topics.as_ref()).await?;
        Ok(run)
    }

    /// Verifies.
    ///
    /// # Errors
    /// As [`super::verify`].
    pub(super) async fn finish(mut self) -> Result<Verified, Failure> {
        let mut from = Some(0);
        while let Some(first) = from {
            self.summary.passes += 1;
            let mut filling = Filling::new(first, self.options.entries_max);
            for index in 0..self.scope.partitions.len() {
                let compacted = self.read_compactions(index, &mut filling).await?;
                self.read_batches(index, &compacted, &mut filling).await?;
                self.read_replays(index, &mut filling).await?;
            }
            self.tell_of_layouts()?;
            let table = Arc::new(filling.seal());
            self.list(&table).await?;
            self.examine(&table).await?;
            from = table.next_pass();
        }
        self.tell_of_unreached()?;
        if self.options.deep {
            for index in 0..self.scope.partitions.len() {
                self.read_back(index).await?;
            }
        }
        self.compare_with_kafka().await?;
        let counters = &self.parts.counters;
        self.summary.listed = counters.listed.load(Ordering::Relaxed);
        self.summary.others = counters.others.load(Ordering::Relaxed);
        self.summary.took_ms = self.parts.clock.monotonic_ms() - self.started_ms;
        Ok(Verified { summary: self.summary, repairs: self.repairs.into_ranges() })
    }

    pub(super) fn is_first_pass(&self) -> bool {
        self.summary.passes == 1
    }

    pub(super) fn archive(&self, index: usize) -> (&Archive, TopicPartition) {
        let (archive, partition) = &self.scope.partitions[index];
        (&self.scope.archives[*archive], partition.clone())
    }

    pub(super) fn emit(&mut self, finding: Finding) -> Result<(), Failure> {
        *self.summary.findings.entry(finding.kind()).or_default() += 1;
        self.parts.counters.findings.fetch_add(1, Ordering::Relaxed);
        self.repairs.add(&finding);
        (self.tell)(Told::Finding(finding))
    }

    pub(super) fn find(
        &mut self,
        index: usize,
        range: (i64, Option<i64>),
        place: Option<(String, String)>,
        fault: Fault,
    ) -> Result<(), Failure> {
        let (archive, partition) = self.archive(index);
        let archive = archive.name.clone();
        let (first, end) = range;
        self.emit(Finding { archive, partition, first, end, place, replay: None, compaction: None, fault })
    }

    pub(super) fn note(&mut self, index: usize, note: &'static str, what: String) -> Result<(), Failure> {
        let (archive, partition) = self.archive(index);
        let archive = archive.name.clone();
        (self.tell)(Told::Note(Note { note, archive, of: Some(partition.to_string()), what }))
    }

    /// Follows the batches of one Kafka partition; the objects that they name go into the table.
    async fn read_batches(
        &mut self,
        index: usize,
        compacted: &Compactions,
        filling: &mut Filling,
    ) -> Result<(), Failure> {
        let (archive, partition) = self.archive(index);
        let reader = archive.reader.clone();
        let mut batches = reader.batches(&partition).await?;
        let mut chain = Chain::default();
        while let Some((first, document)) = batches.try_next().await? {
            self.settle_claimed(index, false, &mut chain, (compacted, &mut *filling)).await?;
            // A listing that takes a while may show a batch and not the one before it.
            while let Some(gap) = chain.gap_before(first).filter(|_| self.is_first_pass()) {
                let missed = reader.document(&partition, gap.first).await?;
                if !matches!(missed, Document::Receipt(_)) {
                    break;
                }
                self.take(index, gap.first, missed, &mut chain, (compacted, &mut *filling)).await?;
                if chain.gap_before(first).is_some_and(|left| left.first <= gap.first) {
                    break;
                }
            }
            self.take(index, first, document, &mut chain, (compacted, &mut *filling)).await?;
        }
        self.settle_claimed(index, true, &mut chain, (compacted, &mut *filling)).await?;
        let mut breaks = Vec::new();
        let reach = chain.end(&mut breaks);
        if !self.is_first_pass() {
            return Ok(());
        }
        self.tell_breaks(index, breaks).await?;
        if let Some(open) = reach.open {
            self.tell_newest(index, open).await?;
        }
        if let Some(side) = self.sides.get_mut(&index) {
            side.reach = reach;
        }
        Ok(())
    }

    pub(super) async fn take(
        &mut self,
        index: usize,
        first: i64,
        document: Document,
        chain: &mut Chain,
        (compacted, filling): (&Compactions, &mut Filling),
    ) -> Result<(), Failure> {
        self.parts.counters.receipts.fetch_add(1, Ordering::Relaxed);
        let owner = Owner { partition: u32::try_from(index).unwrap_or(u32::MAX), replay: 0, compaction: 0, first };
        let batch = match document {
            Document::Receipt(receipt) => {
                let range = OffsetRange::new(receipt.first, receipt.end);
                let selected = self.scope.takes(&receipt.objects);
                let counting = compacted.counting(&receipt.objects);
                if self.is_first_pass() {
                    self.look_at(index, &receipt, &counting, selected).await?;
                }
                if selected {
                    self.add(index, range, &counting, owner, filling);
                }
                Batch::Vouched { range, selected }
            }
            Document::Claim(claim) => {
                self.announce(&claim.keys, owner, filling);
                Batch::Claimed { range: OffsetRange::new(claim.first, claim.end) }
            }
            Document::Unreadable(Unreadable { key, end, what, newer }) => {
                Batch::Unreadable { first, end, key, what, newer }
            }
            Document::Gone => return Ok(()),
        };
        let mut breaks = Vec::new();
        chain.push(batch, &mut breaks);
        if self.is_first_pass() { self.tell_breaks(index, breaks).await } else { Ok(()) }
    }

    async fn tell_breaks(&mut self, index: usize, breaks: Vec<Break>) -> Result<(), Failure> {
        for found in breaks {
            let range = |range: OffsetRange| (range.first, Some(range.end));
            match found {
                Break::Gap(gap) => self.find(index, range(gap), None, Fault::Gap)?,
                Break::Overlap(other, twice) => self.find(index, range(twice), None, Fault::Overlap { other })?,
                Break::Unfinished(claimed) => self.tell_unfinished(index, claimed).await?,
                Break::Unreadable { first, end, key, what, newer } => {
                    let home = self.archive(index).0.reader.bucket.destination().id().to_string();
                    self.find(index, (first, end), Some((home, key)), Fault::Unreadable { what, newer })?;
                }
            }
        }
        Ok(())
    }

    /// What a receipt tells by itself.
    async fn look_at(
        &mut self,
        index: usize,
        receipt: &Receipt,
        counting: &[ReceiptObject],
        selected: bool,
    ) -> Result<(), Failure> {
        let range = OffsetRange::new(receipt.first, receipt.end);
        let archive = &mut self.scope.archives[self.scope.partitions[index].0];
        let reader = archive.reader.clone();
        let layout = archive.layouts.get(&reader, &receipt.fingerprint).await?;
        if let Some(side) = self.sides.get_mut(&index) {
            side.receipt(range, receipt.topic_id.as_ref(), receipt.balance.consumed, selected);
        }
        if !selected {
            return Ok(());
        }
        self.summary.receipts += 1;
        self.count(counting);
        self.summary.lost += receipt.lost.iter().map(|lost| lost.rows).sum::<u64>();
        let absent = receipt.balance.absent.iter().map(|absent| absent.end.saturating_sub(absent.first));
        self.summary.absent += absent.map(|count| u64::try_from(count).unwrap_or(0)).sum::<u64>();
        for (output, what) in check::unbalanced(receipt, layout.as_deref()) {
            self.find(index, (range.first, Some(range.end)), None, Fault::Unbalanced { output, what })?;
        }
        Ok(())
    }

    pub(super) fn count(&mut self, objects: &[ReceiptObject]) {
        for object in objects {
            self.summary.objects += 1;
            self.summary.rows += object.rows.unwrap_or(0);
            self.summary.bytes += object.bytes;
            self.summary.kept += u64::from(object.kept.is_some());
        }
    }

    /// Objects that a receipt names and that must be there.
    pub(super) fn add(
        &mut self,
        index: usize,
        range: OffsetRange,
        objects: &[ReceiptObject],
        owner: Owner,
        filling: &mut Filling,
    ) {
        let is_first = self.is_first_pass();
        for object in objects {
            let Some(destination) = self.scope.destination(&object.destination) else {
                if is_first {
                    let place = (index, object.destination.clone());
                    let (count, ranges) = self.unreached.entry(place).or_insert((0, range));
                    *count += 1;
                    ranges.end = ranges.end.max(range.end);
                }
                continue;
            };
            filling.add(digest(&object.destination, &object.key), object.bytes, owner, true);
            if let Some(folders) = self.folders.as_mut().filter(|_| is_first) {
                folders.insert((destination, object.folder.clone()));
                if folders.len() > FOLDERS_MAX {
                    self.folders = None;
                }
            }
        }
    }

    /// Objects that a claim announces and that may be there.
    fn announce(&self, keys: &[ClaimedObject], owner: Owner, filling: &mut Filling) {
        for object in keys {
            filling.add(digest(&object.destination, &object.key), 0, owner, false);
        }
    }

    /// The replays of one Kafka partition: they vouch for their objects, too.
    async fn read_replays(&mut self, index: usize, filling: &mut Filling) -> Result<(), Failure> {
        let (archive, partition) = self.archive(index);
        let mut replays = archive.reader.replays(&partition).await?;
        let mut open = 0_u64;
        while let Some(((first, n), document)) = replays.try_next().await? {
            let owner = Owner { partition: u32::try_from(index).unwrap_or(u32::MAX), replay: n, compaction: 0, first };
            match document {
                ReplayDocument::Receipt(receipt) => {
                    let ReplayReceipt { replay, objects, .. } = *receipt;
                    if !self.scope.takes(&objects) {
                        continue;
                    }
                    if self.is_first_pass() {
                        self.summary.receipts += 1;
                        self.count(&objects);
                        let archive = &mut self.scope.archives[self.scope.partitions[index].0];
                        let reader = archive.reader.clone();
                        archive.layouts.get(&reader, &replay.fingerprint).await?;
                    }
                    self.add(index, OffsetRange::new(replay.first, replay.end), &objects, owner, filling);
                }
                ReplayDocument::Claim(claim) => {
                    open += 1;
                    self.announce(&claim.keys, owner, filling);
                }
                ReplayDocument::Unreadable(unreadable) if self.is_first_pass() => {
                    self.tell_unreadable_replay(index, owner, unreadable)?;
                }
                ReplayDocument::Unreadable(_) | ReplayDocument::Gone => {}
            }
        }
        if open > 0 && self.is_first_pass() {
            let what = format!(
                "{open} replays of dead letters were begun and are not finished: siltstone dead-letters replay"
            );
            self.note(index, "open_replay", what)?;
        }
        Ok(())
    }

    fn tell_unreadable_replay(&mut self, index: usize, owner: Owner, unreadable: Unreadable) -> Result<(), Failure> {
        let (archive, partition) = self.archive(index);
        let place = (archive.reader.bucket.destination().id().to_string(), unreadable.key);
        let fault = Fault::Unreadable { what: unreadable.what, newer: unreadable.newer };
        let (archive, place, replay) = (archive.name.clone(), Some(place), Some(owner.replay));
        self.emit(Finding { archive, partition, first: owner.first, end: None, place, replay, compaction: None, fault })
    }

    /// Layouts that cannot be read, whose names nobody knows; names that tell little.
    fn tell_of_layouts(&mut self) -> Result<(), Failure> {
        for archive in &mut self.scope.archives {
            for what in std::mem::take(&mut archive.layouts.troubles) {
                let what = format!("{what}; objects that nobody vouches for are not recognised by its names");
                (self.tell)(Told::Note(Note { note: "layout", archive: archive.name.clone(), of: None, what }))?;
            }
            let silent = archive.layouts.names.iter().filter(|names| !names.recogniser.tells_end());
            let outputs: BTreeSet<&str> = silent.map(|names| names.output.as_str()).collect();
            if !outputs.is_empty() {
                let outputs = outputs.into_iter().collect::<Vec<_>>().join(", ");
                let what = format!(
                    "names of {outputs} do not tell where a batch ends: a second object of one that ended elsewhere would have had the same \
                     name, so it is not proven that there never was one; what nobody vouches for is told by its first offset alone"
                );
                (self.tell)(Told::Note(Note { note: "names", archive: archive.name.clone(), of: None, what }))?;
            }
        }
        Ok(())
    }

    fn tell_of_unreached(&mut self) -> Result<(), Failure> {
        for ((index, destination), (objects, range)) in std::mem::take(&mut self.unreached) {
            let place = Some((destination, String::new()));
            self.find(index, (range.first, Some(range.end)), place, Fault::Unreached { objects })?;
        }
        Ok(())
    }

    /// The names that strangers are recognised by.
    fn known(&self) -> Vec<Known> {
        let mut known = Vec::new();
        for (index, archive) in self.scope.archives.iter().enumerate() {
            for names in &archive.layouts.names {
                let ids = names.place.destinations.iter();
                let text = |topic: &Arc<str>| Some((names.recogniser.topic_text(topic)?, topic.clone()));
                known.push(Known {
                    archive: index,
                    destinations: ids.filter_map(|id| self.scope.destination(id)).collect(),
                    topics: archive.topics.iter().filter_map(text).collect(),
                    only: archive.only.clone(),
                    partitions: self.options.partitions.clone(),
                    names: names.clone(),
                });
            }
        }
        known
    }

    /// What is listed: with a window of time the folders that receipts name, else every folder in which objects of the archives lie.
    fn folders(&self, known: &[Known]) -> Vec<Folder> {
        if let Some(folders) = &self.folders {
            let flat = |(destination, name): &(usize, String)| Folder {
                destination: *destination,
                name: name.clone(),
                depth: 0,
                flat: true,
            };
            return folders.iter().map(flat).collect();
        }
        let mut folders = Vec::new();
        for known in known {
            let archive = &self.scope.archives[known.archive];
            for topic in &archive.topics {
                let (name, depth) = known.names.recogniser.folder_of(topic);
                let of = |&destination: &usize| Folder { destination, name: name.clone(), depth, flat: false };
                folders.extend(known.destinations.iter().map(of));
            }
            // Most templates begin with the topic; others have one folder for all.
            folders.sort_unstable();
            folders.dedup();
        }
        listing::outermost(folders)
    }

    async fn list(&mut self, table: &Arc<Table>) -> Result<(), Failure> {
        let known = self.known();
        let folders = self.folders(&known);
        let (strangers, mut received) = mpsc::channel(STRANGERS_MAX);
        let judge = Judge {
            table: table.clone(),
            destinations: self.scope.destinations.clone(),
            known: Arc::new(known),
            counters: self.parts.counters.clone(),
            strangers,
        };
        let listing = tokio::spawn(listing::list(Arc::new(judge), folders));
        let lookup = Lookup::default();
        let readers: Vec<(Reader, Arc<str>)> =
            self.scope.archives.iter().map(|archive| (archive.reader.clone(), archive.name.clone())).collect();
        let destinations = self.scope.destinations.clone();
        let received = stream::poll_fn(move |context| received.poll_recv(context));
        let mut resolved = received
            .map(|stranger| {
                let (reader, archive) = readers[stranger.archive].clone();
                let (lookup, destination) = (lookup.clone(), destinations[stranger.destination].clone());
                spawned(async move { lookup.resolve(&reader, archive, destination.id(), stranger).await })
            })
            .buffer_unordered(READS_MAX);
        while let Some(resolved) = resolved.try_next().await? {
            match resolved {
                Resolved::Vouched | Resolved::OnItsWay => {}
                Resolved::Undecided => self.summary.undecided += 1,
                Resolved::Finding(finding) => self.emit(*finding)?,
            }
        }
        listing.await.map_err(|error| Failure::new(Exit::Failed, format!("list the bucket: {error}")))?
    }
}

/// Kafka did not answer; `what` was asked.
pub(super) fn unreachable(what: &str, error: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("{what}: {error}"))
}
