//! From an object of dead letters to a receipt: choose, claim, upload, receipt. Crash-safe at each point, see [`super`].

use super::balance::Balance;
use super::claims::{Claims, Named, unfinished};
use super::find::{DeadBatch, DeadObject, batches, place_of, sites};
use super::layouts::{Layouts, Numbers, Seams, compile, compile_claimed};
use super::read::Letters;
use super::schemas::Asker;
use super::select::Selection;
use super::take::{Taken, Taking};
use crate::bucket::claim::ClaimedObject;
use crate::bucket::receipt::ReceiptObject;
use crate::bucket::recounts::Recount;
use crate::bucket::replays::{REPLAY_VERSION, Replay, ReplayClaim, ReplayOutcome, ReplayReceipt, ReplayedObject};
use crate::clock::Clock;
use crate::config::{Config, MemoryShares};
use crate::exit::{Exit, Failure};
use crate::format::dead_letter::DeadLetterStage;
use crate::format::dead_letter::letter::Letter;
use crate::ledger::{Destinations, Site};
use crate::pipeline::archive::Archive;
use crate::pipeline::finish::{object_metadata, placed_parts, receipt_object, upload_file};
use crate::pipeline::open_batch::again::{Again, Wanted};
use crate::pipeline::start::{chain, open_registry, patiently};
use crate::registry::Target;
use crate::spool::part::BLOCKS_MAX;
use crate::spool::{Spool, process_number};
use crate::upload::{How, Placed, PutRule, UploadFile, UploadSettings, put_file, room_for_pieces};
use futures::TryStreamExt;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;

/// Most dead letters of one claim: with their numbers it is of some megabytes at most.
pub const LETTERS_MAX: u64 = 100_000;

/// Objects (one an output and window) behind which no further dead letter is taken into a claim: with their names it is of some
/// megabytes. A claim has more only by its last dead letter.
pub const PARTS_MAX: u64 = 10_000;

/// Bytes of memory that an open part takes beside its rows, at most about.
const PART_BYTES: usize = 2048;

/// What a replay may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At most so many dead letters are written.
    pub letters: u64,
    /// Nothing is written: only what would be is said.
    pub dry_run: bool,
    /// Most dead letters of one claim: [`LETTERS_MAX`].
    pub letters_of_claim: u64,
    /// Objects behind which a claim takes no further dead letter: [`PARTS_MAX`], or fewer where `[memory] budget` is small.
    pub parts_of_claim: u64,
    /// Blocks (row groups) of one object behind which a claim takes no further dead letter: [`BLOCKS_MAX`].
    pub blocks_of_part: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            letters: u64::MAX,
            dry_run: false,
            letters_of_claim: LETTERS_MAX,
            parts_of_claim: PARTS_MAX,
            blocks_of_part: BLOCKS_MAX,
        }
    }
}

/// Something that a replay did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Dead letters of an object were written; or with a dry run would be.
    Replayed {
        /// The object that they lie in.
        object: String,
        /// Number of the replay.
        n: u32,
        /// How many.
        letters: u64,
        /// The objects that hold their rows now.
        keys: Vec<String>,
        /// Only said.
        dry_run: bool,
    },
    /// A replay was finished that another process had begun; or with a dry run would be.
    Finished {
        /// The object of the dead letters.
        object: String,
        /// Number of the replay.
        n: u32,
        /// How many.
        letters: u64,
        /// Only said.
        dry_run: bool,
    },
    /// An object of dead letters was left out, or a replay that was begun could not be finished, and a person must decide.
    Stopped {
        /// Which.
        object: String,
        /// Why.
        reason: String,
    },
}

/// Replays dead letters of a configuration's archives.
pub struct Replayer<'c> {
    config: &'c Config,
    destinations: Destinations,
    clock: Arc<dyn Clock>,
    pub(super) asker: Asker,
    spool: Spool,
    rows_max: usize,
    parts_max: usize,
    settings: UploadSettings,
    limits: Limits,
    /// Dead letters that may still be written.
    left: u64,
    /// What became of the letters so far.
    pub balance: Balance,
    /// Why an object was left out or a replay was not finished, the first time.
    pub stopped: Option<Failure>,
}

/// What is known of an archive while its dead letters are replayed.
struct Work<'s, 'c> {
    site: &'s Site<'c>,
    /// With no schema of the registry decided.
    archive: Arc<Archive>,
    /// The same for rows that are projected onto a schema, the last one.
    at_target: Option<Arc<Archive>>,
    layouts: Layouts,
    layout_is_stored: bool,
}

impl<'c> Replayer<'c> {
    /// Ready to replay.
    ///
    /// # Errors
    /// The spool cannot be had, or the settings of the schema registry cannot work.
    pub fn new(
        config: &'c Config,
        destinations: Destinations,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Result<Self, Failure> {
        let spool = Spool::open(&config.spool.dir, config.spool.limit, process_number());
        let spool = spool.map_err(|error| Failure::new(Exit::Config, chain(&error)))?;
        let shares = MemoryShares::of(config.memory.budget);
        let upload = shares.upload_to_each(destinations.len());
        let rooms = destinations.values().map(|destination| room_for_pieces(destination.kind(), upload));
        let upload = rooms.min().unwrap_or(upload);
        let asker = Asker { registry: open_registry(config)?, clock: clock.clone() };
        let rows_max = usize::try_from(shares.rows).unwrap_or(usize::MAX);
        // Half of the rows' share, so that the other half is left for rows.
        let parts_max = usize::try_from(limits.parts_of_claim).unwrap_or(usize::MAX).min(rows_max / 2 / PART_BYTES);
        Ok(Self {
            config,
            destinations,
            clock,
            asker,
            spool,
            rows_max,
            parts_max,
            settings: UploadSettings::within(config.upload.part_size.min(upload), upload),
            limits,
            left: limits.letters,
            balance: Balance::default(),
            stopped: None,
        })
    }

    /// Replays every dead letter that `selection` means and that makes a row now; `tell` hears of each step. Objects that are damaged
    /// or gone are left out and told, and so are replays that cannot be finished. To do it again is always safe, and goes on where this one stopped.
    ///
    /// # Errors
    /// A store that refuses or does not answer, a configuration that does not fit. Nothing is lost, and nothing doubled.
    pub async fn run(
        &mut self,
        selection: &Selection,
        tell: &mut dyn FnMut(Step) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (clock, destinations) = (self.clock.clone(), self.destinations.clone());
        for site in sites(self.config, &destinations, &*clock, selection).await? {
            if !self.limits.dry_run {
                let can = site.bucket.check_can_replay();
                can.map_err(|error| Failure::new(Exit::Config, format!("archive {}: {error}", site.archive.name)))?;
            }
            let layout = &site.archive.layout;
            let archive = compile(self.seams(&site), layout, None).await?;
            let layouts = Layouts::new(layout);
            let mut work = Work { site: &site, archive, at_target: None, layouts, layout_is_stored: false };
            for partition in &site.partitions {
                let mut batches = batches(&site, partition, &*clock, selection).await?;
                while let Some(batch) = batches.try_next().await? {
                    let mut claims = Claims::default();
                    for object in &batch.objects {
                        if self.left == 0 {
                            return Ok(());
                        }
                        match self.replay_object(&mut work, &batch, &mut claims, object, selection, tell).await {
                            Err(failure) if failure.exit == Exit::Stopped => {
                                self.tell_stopped(&object.key, failure, tell)?;
                            }
                            outcome => outcome?,
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn tell_stopped(
        &mut self,
        object: &str,
        failure: Failure,
        tell: &mut dyn FnMut(Step) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (object, reason) = (object.to_string(), failure.message.clone());
        self.stopped.get_or_insert(failure);
        tell(Step::Stopped { object, reason })
    }

    async fn replay_object(
        &mut self,
        work: &mut Work<'_, '_>,
        batch: &DeadBatch,
        claims: &mut Claims,
        object: &DeadObject,
        selection: &Selection,
        tell: &mut dyn FnMut(Step) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let destination = place_of(object, &self.destinations)?.id().to_string();
        let replayed = ReplayedObject { destination, key: object.key.clone() };
        let clock = self.clock.clone();
        // Letters before this one are done with.
        let mut position = 0;
        loop {
            self.catch_up(work, batch, claims, tell).await?;
            let numbers = work.layouts.numbers(&work.site.bucket, &*clock, &batch.fingerprint).await?;
            let archive = self.aimed(work, batch, &replayed, selection).await?;
            let choice = Choice { selection, archive: &archive, done: &claims.named, numbers: &numbers, position };
            let (taking, chosen) = self.choose(batch, &replayed, &choice).await?;
            let letters = taking.letters;
            if letters > 0 {
                let n = claims.number();
                let taken = taking.seal(&batch.partition, batch.range, n)?;
                let keys = taken.parts.iter().map(|part| part.key.clone()).collect();
                if !self.limits.dry_run && !self.write(work, batch, claims, &replayed, &archive, taken).await? {
                    // Somebody else has this number: what is done is another thing now.
                    continue;
                }
                let (object, dry_run) = (object.key.clone(), self.limits.dry_run);
                tell(Step::Replayed { object, n, letters, keys, dry_run })?;
            }
            self.left -= letters;
            self.balance.add(chosen.balance);
            position = chosen.position;
            if chosen.is_all || self.left == 0 {
                return Ok(());
            }
        }
    }

    fn seams<'a>(&'a self, site: &'a Site<'_>) -> Seams<'a> {
        Seams { bucket: &site.bucket, destinations: &self.destinations, asker: &self.asker }
    }

    /// The archive, with rows projected onto the newest schema of the registry that the letters name.
    async fn aimed(
        &self,
        work: &mut Work<'_, '_>,
        batch: &DeadBatch,
        object: &ReplayedObject,
        selection: &Selection,
    ) -> Result<Arc<Archive>, Failure> {
        if !work.archive.layout.needs_target() {
            return Ok(work.archive.clone());
        }
        let mut archive = work.archive.clone();
        if let Some(target) = batch.target.as_deref().and_then(|target| target.parse().ok()) {
            match self.at_target(work, &target).await {
                Ok(at_target) => archive = at_target,
                // Gone from the registry: the letters decide.
                Err(failure) if matches!(failure.exit, Exit::Stopped | Exit::Config) => {}
                Err(failure) => return Err(failure),
            }
        }
        let mut letters = self.open(batch, object).await?;
        while let Some(letter) = letters.next().await? {
            let Some(payload) = letter.record.value.as_ref().filter(|_| selection.takes(&letter)) else { continue };
            while let Some(target) = self.asker.prepare(&archive, payload).await? {
                archive = self.at_target(work, &target).await?;
            }
        }
        Ok(archive)
    }

    async fn at_target(&self, work: &mut Work<'_, '_>, target: &Target) -> Result<Arc<Archive>, Failure> {
        let known = work.at_target.as_ref().filter(|known| known.target.as_ref() == Some(target));
        if let Some(known) = known {
            return Ok(known.clone());
        }
        let compiled = compile(self.seams(work.site), &work.archive.layout, Some(target.clone())).await?;
        work.at_target = Some(compiled.clone());
        Ok(compiled)
    }

    /// Reads letters and takes those that make rows in outputs that lack them.
    async fn choose(
        &mut self,
        batch: &DeadBatch,
        object: &ReplayedObject,
        choice: &Choice<'_>,
    ) -> Result<(Taking, Chosen), Failure> {
        let mut taking = Taking::new(choice.archive.clone(), &mut self.spool, self.rows_max, &self.asker)?;
        let mut letters = self.open(batch, object).await?;
        let mut chosen = Chosen { balance: Balance::default(), position: 0, is_all: true };
        let most = self.left.min(self.limits.letters_of_claim);
        while let Some(letter) = letters.next().await? {
            chosen.position += 1;
            if chosen.position <= choice.position || !choice.selection.takes(&letter) {
                continue;
            }
            choose_letter(&mut taking, choice, &letter, &mut chosen.balance).await?;
            let is_full = self.spool.is_full()
                || taking.parts() >= self.parts_max
                || taking.is_crowded()
                || taking.most_blocks >= self.limits.blocks_of_part;
            if taking.letters >= most || (is_full && taking.letters > 0) {
                chosen.is_all = false;
                break;
            }
        }
        debug_assert!(chosen.balance.holds(), "{:?}", chosen.balance);
        Ok((taking, chosen))
    }

    async fn open(&self, batch: &DeadBatch, object: &ReplayedObject) -> Result<Letters, Failure> {
        let destination = self.destinations.get(&object.destination).ok_or_else(|| {
            let ReplayedObject { destination, key } = object;
            let what = format!("{key} lies at {destination}, which this configuration has no destination for; add it");
            Failure::new(Exit::Config, what)
        })?;
        Letters::open_at(batch, &object.key, destination).await
    }

    /// Claims what was taken and puts it. `false`: another process was first; nothing is put.
    async fn write(
        &self,
        work: &mut Work<'_, '_>,
        batch: &DeadBatch,
        claims: &mut Claims,
        object: &ReplayedObject,
        archive: &Arc<Archive>,
        taken: Taken,
    ) -> Result<bool, Failure> {
        let bucket = &work.site.bucket;
        if !work.layout_is_stored {
            patiently(&*self.clock, "store the layout", || bucket.put_layout(&archive.layout)).await?;
            work.layout_is_stored = true;
        }
        let replay = Replay {
            version: REPLAY_VERSION,
            topic: batch.partition.topic.to_string(),
            partition: batch.partition.partition,
            first: batch.range.first,
            end: batch.range.end,
            generation: archive.layout.generation,
            archive: archive.layout.archive.clone(),
            n: claims.number(),
            object: object.clone(),
            fingerprint: archive.fingerprint.clone(),
            schemas: archive.schemas.clone(),
            target: archive.target.as_ref().map(Target::to_string),
            rows: taken.rows.clone(),
        };
        let keys = placed_parts(archive, &taken.parts).map(|(_, object)| object).collect();
        let claim = ReplayClaim { replay, keys };
        let what = format!("claim a replay of {} {}", batch.partition, batch.range);
        let is_new = match patiently(&*self.clock, &what, || bucket.claim_replay(&claim)).await? {
            ReplayOutcome::Created => true,
            ReplayOutcome::Same => false,
            ReplayOutcome::Other => return Ok(false),
        };
        claims.add(&claim.replay);
        self.place(work, batch, &claim.replay, archive, &taken, is_new).await?;
        Ok(true)
    }

    /// Reads the claims of the batch that were not read yet, and finishes those without a receipt. What cannot be finished is told
    /// and left: its dead letters count as named, and its number as used up, so that no other decision hangs on it.
    async fn catch_up(
        &mut self,
        work: &mut Work<'_, '_>,
        batch: &DeadBatch,
        claims: &mut Claims,
        tell: &mut dyn FnMut(Step) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let clock = self.clock.clone();
        while let Some((claim, is_finished)) = claims.next(&work.site.bucket, &*clock, batch).await? {
            if is_finished {
                continue;
            }
            let (replay, dry_run) = (&claim.replay, self.limits.dry_run);
            let letters = replay.letters();
            if !dry_run {
                match self.finish(work, batch, &claim).await {
                    Ok(()) => self.balance.finished += letters,
                    Err(failure) if matches!(failure.exit, Exit::Stopped | Exit::Config) => {
                        // The configuration lacks what the claim needs.
                        let failure = match failure.exit {
                            Exit::Config => unfinished(replay, format!(": {}", failure.message)),
                            _ => failure,
                        };
                        self.tell_stopped(&replay.object.key, failure, tell)?;
                        continue;
                    }
                    Err(failure) => return Err(failure),
                }
            }
            tell(Step::Finished { object: replay.object.key.clone(), n: replay.n, letters, dry_run })?;
        }
        Ok(())
    }

    /// Does what a claim says, whoever made it.
    async fn finish(&mut self, work: &mut Work<'_, '_>, batch: &DeadBatch, claim: &ReplayClaim) -> Result<(), Failure> {
        let (clock, replay) = (self.clock.clone(), &claim.replay);
        let bucket = &work.site.bucket;
        let layout = work.layouts.get(bucket, &*clock, &replay.fingerprint).await?;
        let archive = compile_claimed(self.seams(work.site), replay, layout).await?;
        let unlike = |what: String| {
            unfinished(replay, format!(", and {what}: run the release that began it until it is finished"))
        };
        let mut wanted = Named::default();
        wanted.add(replay);
        let mut taking = Taking::new(archive.clone(), &mut self.spool, self.rows_max, &self.asker)?;
        let mut letters = self.open(batch, &replay.object).await?;
        while let Some(letter) = letters.next().await? {
            let id = (letter.record.offset, letter.index);
            let row = letter.row;
            let of_claim = |(output, name): (usize, &String)| wanted.has(name, &id).then_some(Wanted { output, row });
            let names = archive.outputs.iter().map(|output| &output.name).take(archive.data_outputs());
            let wanted: Vec<Wanted> = names.enumerate().filter_map(of_claim).collect();
            if wanted.is_empty() {
                continue;
            }
            for outcome in taking.take(&letter, &wanted).await? {
                let what = match outcome {
                    Again::Rows(_) => continue,
                    Again::Dropped(rule) => format!("the rule {rule} drops it"),
                    Again::Refused((stage, reason)) => format!("{}: {reason}", stage.as_str()),
                };
                return Err(unlike(format!("offset {} makes no row any more ({what})", id.0)));
            }
        }
        if taking.rows != replay.rows {
            return Err(unlike(format!("{} does not hold all that it names", replay.object.key)));
        }
        let taken = taking.seal(&batch.partition, batch.range, replay.n)?;
        let keys: Vec<_> = placed_parts(&archive, &taken.parts).map(|(_, object)| object).collect();
        let named: HashSet<&ClaimedObject> = claim.keys.iter().collect();
        if let Some(stranger) = keys.iter().find(|key| !named.contains(key)) {
            return Err(unlike(format!("{} is not among the objects that it names", stranger.key)));
        }
        self.place(work, batch, replay, &archive, &taken, false).await
    }

    /// Uploads what was taken, and writes the receipt. `is_new`: nobody can have put any of it before.
    async fn place(
        &self,
        work: &Work<'_, '_>,
        batch: &DeadBatch,
        replay: &Replay,
        archive: &Archive,
        taken: &Taken,
        is_new: bool,
    ) -> Result<(), Failure> {
        if work.site.archive.complete.is_some() {
            // Its rows may come into folders that are complete.
            let request = Recount::of_replay(&batch.partition, (replay.first, replay.end), replay.n);
            let what = "ask for folders to be counted anew";
            patiently(&*self.clock, what, || work.site.bucket.ask_recount(&request)).await?;
        }
        let mut metadata = object_metadata(&batch.partition, batch.range, archive);
        metadata.push(("replay".to_string(), replay.n.to_string()));
        let mut objects: Vec<ReceiptObject> = Vec::new();
        for part in &taken.parts {
            let output = &archive.outputs[part.output];
            let rule = if is_new { PutRule::ReplaceUntold } else { PutRule::KeepUntold };
            let content_encoding = work.site.archive.content_encoding;
            let file = UploadFile {
                check_existing: !is_new,
                ..upload_file(output, part, content_encoding, metadata.clone(), rule)
            };
            for destination in &output.destinations {
                let placed: Placed =
                    patiently(&*self.clock, "upload", || put_file(destination, &file, self.settings)).await?;
                // Rows are the same in every release; bytes need not be.
                if placed.how == How::Kept && placed.records != Some(part.rows) {
                    let there = placed.records.map_or("an unknown number of".to_string(), |rows| rows.to_string());
                    let what = format!(
                        "{} at {} should hold {} rows, but another object with {there} rows is there and was kept: somebody else put \
                         it. Move it away and replay again",
                        part.key,
                        destination.id(),
                        part.rows
                    );
                    return Err(Failure::new(Exit::Stopped, what));
                }
                objects.push(receipt_object(archive, part, destination.id(), placed));
            }
        }
        let receipt = ReplayReceipt {
            replay: replay.clone(),
            cluster_id: batch.cluster_id.clone(),
            writer: env!("CARGO_PKG_VERSION").to_string(),
            objects,
            written_ms: Some(self.clock.wall_ms()),
        };
        let bucket = &work.site.bucket;
        patiently(&*self.clock, "write the receipt of a replay", || bucket.put_replay_receipt(&receipt)).await
    }
}

/// What decides of a letter.
struct Choice<'a> {
    selection: &'a Selection,
    /// What makes rows of them.
    archive: &'a Arc<Archive>,
    /// Named by claims before.
    done: &'a Named,
    /// Whether row numbers mean what they meant when the letters were refused.
    numbers: &'a Numbers,
    /// So many letters were read before.
    position: u64,
}

/// What was read.
struct Chosen {
    balance: Balance,
    /// Letters read.
    position: u64,
    /// There are no more.
    is_all: bool,
}

async fn choose_letter(
    taking: &mut Taking,
    choice: &Choice<'_>,
    letter: &Letter,
    balance: &mut Balance,
) -> Result<(), Failure> {
    let archive = choice.archive;
    balance.letters += 1;
    let id = (letter.record.offset, letter.index);
    let mut wanted = Vec::new();
    for name in &letter.outputs {
        let of = balance.wanted(name);
        if choice.done.has(name, &id) {
            of.already += 1;
            continue;
        }
        let outputs = archive.outputs.iter().take(archive.data_outputs());
        let Some(output) = outputs.enumerate().find_map(|(index, of)| (of.name == *name).then_some(index)) else {
            of.gone += 1;
            continue;
        };
        match letter.row.map(|_| &choice.numbers[output]) {
            Some(Err(reason)) => balance.failing(name, (DeadLetterStage::Row, reason.clone())),
            Some(Ok(())) | None => wanted.push(Wanted { output, row: letter.row }),
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    for (wanted, outcome) in wanted.iter().zip(taking.take(letter, &wanted).await?) {
        let name = &archive.outputs[wanted.output].name;
        let of = balance.outputs.entry(name.clone()).or_default();
        match outcome {
            Again::Rows(rows) => {
                of.replayed += 1;
                of.rows += rows;
            }
            Again::Dropped(rule) => *of.dropped.entry(rule.to_string()).or_default() += 1,
            Again::Refused(refusal) => balance.failing(name, refusal),
        }
    }
    Ok(())
}
