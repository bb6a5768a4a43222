//! A round: look at what was committed and archived since the last one, and complete what is.

use super::calendars::Calendars;
use super::horizon::{Archived, Expected, Rules, Unknown, archived};
use super::loads::{Looking, Workers, waiting};
use super::progress::{OpenFolder, Progress, RECENT_MAX, Recent};
use super::recount::{Kept, Recounting};
use super::tally::{Covered, FolderId, Standing, Tally, Whose};
use crate::bucket::completions::Completed;
use crate::bucket::receipt::{Receipt, ReceiptObject};
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::ledger::{Destinations, receipts_from};
use crate::load::Setup;
use crate::load::queue::{Queue, Waiting};
use crate::pipeline::start::{chain, patiently};
use crate::record::TopicPartition;
use crate::telemetry::health::Trouble;
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Kafka partitions of open folders, all together: some 64 bytes each, and some 400 for each folder.
pub const PARTS_MAX: usize = 200_000;
/// How long progress is not written where nothing was completed, milliseconds: what was looked at since is looked at again by whoever comes next.
const SAVE_MS: i64 = 60_000;
/// Receipts read one after the other before they are listed.
const WALK_MAX: usize = 64;
/// Receipts of one Kafka partition that are read before another one's turn comes, which comes earlier where this one is a day ahead of all others.
const TURN_MAX: usize = 10_000;
/// The same where there is no room: what is furthest behind is looked at all the same, as nothing is complete before it is.
const TURN_WITHOUT_ROOM: usize = 64;
/// How far ahead of all others a Kafka partition gets in a turn, milliseconds of event time.
const AHEAD_MS: i64 = 24 * 3_600_000;
/// How often a folder is looked at anew that others complete, too.
const TRIES: usize = 8;

/// What a round works with.
pub struct Seams<'a> {
    /// Revisions, receipts and progress.
    pub bucket: &'a Bucket,
    /// Where folders lie.
    pub destinations: &'a Destinations,
    /// Offsets and logs.
    pub coordinator: &'a dyn Coordinator,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Asked before each write.
    pub goes_on: &'a (dyn Fn() -> bool + Sync),
    /// Name of the archive.
    pub archive: &'a str,
    /// Topic.
    pub topic: &'a str,
    /// When a window is complete.
    pub rules: Rules,
    /// Name of the marker.
    pub marker: &'a str,
    /// How long after a folder was completed it is not completed again, milliseconds.
    pub revise_after_ms: i64,
    /// What loads complete folders.
    pub loaders: &'a [Setup],
    /// [`PARTS_MAX`]; less is for tests.
    pub parts_max: usize,
}

/// What became of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Folders that are complete now, for the first time.
    pub completed: u64,
    /// Folders that late data changed.
    pub revised: u64,
    /// Folders that are open.
    pub open: u64,
    /// The instant that the topic is past; `None` where something is not known.
    pub horizon_ms: Option<i64>,
    /// Not all receipts were looked at: there was no room, or it was told not to go on.
    pub has_more: bool,
    /// Folders that were counted anew, for backfills and replays.
    pub recounted: u64,
}

/// What is known of a topic between rounds. Forgotten with the assignment.
#[derive(Default)]
pub struct Completer {
    state: Option<State>,
    calendars: Calendars,
    /// What health says of it.
    pub trouble: Option<Trouble>,
    /// What health says of loads.
    pub load_trouble: Option<Trouble>,
    /// What loads, by loader.
    pub workers: Workers,
    /// How far what loaders lack was looked through, by loader.
    looking: Looking,
    /// When requests to count folders anew are looked for, monotonic milliseconds.
    pub(super) recounts_at_ms: Option<i64>,
    /// Folders that are being counted anew.
    pub(super) recounting: Option<Recounting>,
    /// Requests that wait for open folders.
    pub(super) kept: Kept,
    /// Why folders were not counted anew when that was tried last.
    pub recount_failed: Option<(Exit, String)>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    through: BTreeMap<i32, i64>,
    watermarks: BTreeMap<i32, i64>,
    open: BTreeMap<FolderId, Tally>,
    pub(super) recent: VecDeque<Recent>,
    /// Complete folders that are not loaded.
    pub(super) loads: Queue,
    /// Kafka partitions of `open`.
    parts: usize,
    pub(super) changed: bool,
    /// When progress was written, monotonic milliseconds.
    saved_ms: Option<i64>,
    /// When folders were completed that may not be completed again yet.
    completed_ms: BTreeMap<FolderId, i64>,
    /// There was no room, and nothing could be completed: the one that is furthest behind is looked at all the same.
    is_stuck: bool,
}

impl State {
    fn of(progress: Progress, loaders: &[Setup]) -> Self {
        let open: BTreeMap<_, _> = progress.open.into_iter().map(|open| (open.id, open.tally)).collect();
        let parts = open.values().map(|tally| tally.parts.len()).sum();
        let Progress { through, watermarks, recent, loaders: known, loads, .. } = progress;
        let setup = |id: &str| loaders.iter().find(|setup| setup.id == id);
        let takes = |waiting: &Waiting| {
            setup(&waiting.loader).is_some_and(|setup| setup.takes(&waiting.id, waiting.window_end_ms))
        };
        let loads = Queue::of(known, loads, |id| setup(id).is_some(), takes);
        let completed_ms = recent.iter().map(|recent| (recent.id.clone(), recent.at_ms)).collect();
        Self { through, watermarks, open, recent, loads, parts, completed_ms, ..Self::default() }
    }

    fn progress(&self) -> Progress {
        let open = self.open.iter().map(|(id, tally)| OpenFolder { id: id.clone(), tally: tally.clone() }).collect();
        let (loaders, loads) = self.loads.kept();
        Progress {
            through: self.through.clone(),
            watermarks: self.watermarks.clone(),
            open,
            recent: self.recent.clone(),
            loaders,
            loads,
            ..Progress::default()
        }
    }
}

impl Completer {
    /// Looks and completes. What failed is in the next round, which goes on from there: a store or Kafka that refuses or does not answer, or no room.
    pub async fn round(&mut self, seams: &Seams<'_>) -> (Outcome, Option<Failure>) {
        let mut outcome = Outcome::default();
        let failure = self.round_into(seams, &mut outcome).await.err();
        outcome.open = self.state.as_ref().map_or(0, |state| state.open.len() as u64);
        (outcome, failure)
    }

    async fn round_into(&mut self, seams: &Seams<'_>, outcome: &mut Outcome) -> Result<(), Failure> {
        if self.state.is_none() {
            self.state = Some(State::of(seams.progress().await?, seams.loaders));
        }
        self.note_loads(seams);
        let asked = seams.ask().await?;
        // Offsets before receipts (W-2).
        let result = match self.scan(seams, &asked).await {
            Ok(read_ms) => self.complete_past(seams, &asked, read_ms, outcome).await,
            Err(failure) => Err(failure),
        };
        // Behind what is completed (L-1), and so are folders that are counted anew.
        let again = self.answer_recounts(seams, outcome).await;
        let found = self.find_unloaded(seams).await;
        // A cache: what cannot be written of it keeps nothing from being completed (K-12).
        let saved =
            self.save(seams, found.as_ref().is_ok_and(|found| *found) || outcome.completed + outcome.revised > 0).await;
        result.and(saved).and(again).and(found.map(drop))
    }

    /// Grows with each receipt that is looked at.
    pub fn looked_at(&self) -> i64 {
        self.state
            .as_ref()
            .map_or(0, |state| state.through.values().fold(0, |sum, &through| sum.saturating_add(through)))
    }

    /// Lets what loaders lack wait which were not there before, or had no room: some of it in each round. Whether there was something.
    ///
    /// # Errors
    /// A store refuses or does not answer. What is complete now waits all the same, and the rest is looked for again.
    pub(super) async fn find_unloaded(&mut self, seams: &Seams<'_>) -> Result<bool, Failure> {
        let Self { state: Some(state), looking, .. } = self else { return Ok(false) };
        let (mut has_found, mut failed) = (false, None);
        for setup in seams.loaders.iter().filter(|setup| state.loads.lacks(&setup.id)).collect::<Vec<_>>() {
            match seams.find_unloaded(&mut state.loads, setup, looking).await {
                Ok(found) => has_found |= found,
                Err(failure) => drop(failed.get_or_insert(failure)),
            }
        }
        state.changed |= has_found;
        failed.map_or(Ok(has_found), Err)
    }

    /// What waits for loaders, to be changed; `None` before the first round.
    pub(super) fn queue(&mut self) -> Option<&mut Queue> {
        self.state.as_mut().map(|state| &mut state.loads)
    }

    /// What waits is to be written.
    pub(super) fn queue_changed(&mut self) {
        if let Some(state) = &mut self.state {
            state.changed = true;
        }
    }

    pub(super) fn state_mut(&mut self) -> Option<&mut State> {
        self.state.as_mut()
    }

    /// Whether all of it is written.
    pub(super) fn is_saved(&self) -> bool {
        self.state.as_ref().is_some_and(|state| !state.changed)
    }

    pub(super) fn is_open(&self, id: &FolderId) -> bool {
        self.state.as_ref().is_some_and(|state| state.open.contains_key(id))
    }

    pub(super) fn calendars(&mut self) -> &mut Calendars {
        &mut self.calendars
    }

    /// Below which offset receipts of a Kafka partition were looked at.
    pub(super) fn through(&self, number: i32) -> i64 {
        self.state.as_ref().and_then(|state| state.through.get(&number)).copied().unwrap_or(0)
    }

    /// What is open of a folder, by Kafka partition.
    pub(super) fn open_parts(&self, id: &FolderId) -> Vec<(i32, Covered)> {
        let tally = self.state.as_ref().and_then(|state| state.open.get(id));
        tally
            .map(|tally| tally.parts.iter().map(|(&number, part)| (number, part.covered)).collect())
            .unwrap_or_default()
    }

    /// What is open of a folder is `tally`.
    pub(super) fn reopen(&mut self, id: &FolderId, tally: Tally) {
        let Some(state) = &mut self.state else { return };
        state.changed = true;
        state.parts += tally.parts.len();
        if let Some(before) = state.open.insert(id.clone(), tally) {
            state.parts -= before.parts.len();
        }
    }

    /// What waits for loaders, to be looked at.
    pub fn loads(&self) -> Option<&Queue> {
        self.state.as_ref().map(|state| &state.loads)
    }

    /// Writes how far it got, if there is something new: at once, or where it was not for a while.
    pub(super) async fn save(&mut self, seams: &Seams<'_>, at_once: bool) -> Result<(), Failure> {
        let Some(state) = self.state.as_mut().filter(|state| state.changed) else { return Ok(()) };
        let now_ms = seams.clock.monotonic_ms();
        let is_time = state.saved_ms.is_none_or(|saved_ms| now_ms >= saved_ms.saturating_add(SAVE_MS));
        if !(at_once || is_time) || !(seams.goes_on)() {
            return Ok(());
        }
        let progress = state.progress();
        state.saved_ms = Some(now_ms);
        let put = || seams.bucket.put_progress(seams.topic, &progress);
        patiently(seams.clock, &seams.what("write how far completion got"), put).await?;
        state.changed = false;
        Ok(())
    }

    /// Looks at the receipts of what was committed since the last round. Where there is no room for more open folders it stops, and gives the instant
    /// that all that was looked at is past.
    async fn scan(&mut self, seams: &Seams<'_>, asked: &Asked) -> Result<Option<i64>, Failure> {
        let mut waiting: BTreeSet<i32> = asked.archived.keys().copied().collect();
        loop {
            let Self { state: Some(state), calendars, .. } = self else { return Ok(None) };
            waiting.retain(|number| {
                let archived = asked.archived.get(number).and_then(|archived| archived.as_ref().ok());
                archived
                    .is_some_and(|archived| state.through.get(number).is_none_or(|&through| through < archived.offset))
            });
            // The one that is furthest behind, so that as few folders as can be are open when a whole archive is looked at.
            let mut by_watermark: Vec<_> =
                waiting.iter().map(|number| (state.watermarks.get(number).copied(), *number)).collect();
            by_watermark.sort_unstable();
            let Some(&(read_ms, number)) = by_watermark.first() else { return Ok(None) };
            let has_room = state.parts < seams.parts_max;
            if !(has_room || std::mem::take(&mut state.is_stuck)) {
                let read_ms = read_ms.map(|read_ms| seams.rules.of_watermark(read_ms));
                return Ok(Some(read_ms.unwrap_or(i64::MIN)));
            }
            if !(seams.goes_on)() {
                return Ok(Some(i64::MIN));
            }
            let Some(Ok(archived)) = asked.archived.get(&number) else { return Ok(None) };
            let turn = Turn {
                until: archived.offset,
                most: if has_room { TURN_MAX } else { TURN_WITHOUT_ROOM },
                until_ms: by_watermark
                    .get(1)
                    .map(|(next_ms, _)| next_ms.map_or(i64::MIN, |ms| ms.saturating_add(AHEAD_MS))),
                needs_room: has_room,
            };
            if look(state, calendars, seams, number, &turn).await? {
                waiting.remove(&number);
            }
            if let Err(failure) = self.save(seams, false).await {
                tracing::warn!("{}", failure.message);
            }
        }
    }

    /// Completes all that is past, but not what ends behind `read_ms`, where not all was looked at.
    async fn complete_past(
        &mut self,
        seams: &Seams<'_>,
        asked: &Asked,
        read_ms: Option<i64>,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let state = self.state.as_ref().expect("read before");
        let now_ms = seams.clock.wall_ms();
        let wanted = seams.rules.of_idle(now_ms);
        let ends = state.open.values().filter_map(|tally| tally.window_end_ms);
        let due = ends.filter(|&end_ms| end_ms <= wanted).max();
        // Log ends are asked for only where they may let something through.
        let mut idle = BTreeMap::new();
        if let Some(due) = due.filter(|_| asked.archived.values().all(Result::is_ok)) {
            let behind = asked.archived.iter().filter_map(|(&number, archived)| {
                let archived = archived.as_ref().ok()?;
                (!archived.has_plan && archived.past(&seams.rules, None) < due).then_some(number)
            });
            for number in behind {
                let asked_ms = seams.clock.wall_ms();
                let partition = TopicPartition::new(seams.topic, number);
                match seams.coordinator.log_bounds(partition).await {
                    Ok(bounds) => drop(idle.insert(number, (bounds.readable_end, asked_ms))),
                    Err(reason) => tracing::debug!(topic = seams.topic, number, reason, "its log's end is not known"),
                }
            }
        }
        // No hour is over before it is by the clock, whatever clocks of producers say.
        outcome.horizon_ms = asked.horizon(&seams.rules, &idle).map(|horizon_ms| horizon_ms.min(now_ms));
        outcome.has_more = read_ms.is_some();
        let before = state.parts;
        let completed = match outcome.horizon_ms {
            Some(horizon_ms) => {
                self.complete_until(seams, read_ms.map_or(horizon_ms, |read_ms| read_ms.min(horizon_ms)), outcome).await
            }
            None => Ok(()),
        };
        let state = self.state.as_mut().expect("read before");
        let has_no_room = state.parts >= seams.parts_max && state.parts >= before;
        // To look further helps only where what was looked at is behind what all are past: else more and more would be open.
        let is_behind = read_ms.zip(outcome.horizon_ms).is_some_and(|(read_ms, horizon_ms)| read_ms < horizon_ms);
        state.is_stuck = has_no_room && is_behind;
        if has_no_room && completed.is_ok() && (seams.goes_on)() {
            return Err(Failure::new(
                Exit::Stopped,
                format!(
                    "{}: {} Kafka partitions of {} folders are not complete, more than {} are to be kept in memory, and none of them can be completed now: only what is \
                     furthest behind is looked at. Fewer fields in `path` make fewer folders; `siltstone status` shows which Kafka partitions hold them back",
                    seams.what("look for complete folders"),
                    state.parts,
                    state.open.len(),
                    seams.parts_max
                ),
            ));
        }
        completed
    }

    /// Completes the folders whose windows end at or before `horizon_ms`, the oldest first.
    async fn complete_until(
        &mut self,
        seams: &Seams<'_>,
        horizon_ms: i64,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let state = self.state.as_mut().expect("read before");
        let is_past = |tally: &Tally| tally.window_end_ms.filter(|&end_ms| end_ms <= horizon_ms);
        let mut past: Vec<_> =
            state.open.iter().filter_map(|(id, tally)| Some((is_past(tally)?, id.clone()))).collect();
        past.sort_unstable();
        let (now_ms, mut failed) = (seams.clock.wall_ms(), None);
        // A clock that was ahead holds nothing back.
        state
            .completed_ms
            .retain(|_, &mut at_ms| at_ms <= now_ms && now_ms < at_ms.saturating_add(seams.revise_after_ms));
        let mut left: BTreeSet<String> = BTreeSet::new();
        for (_, id) in past {
            if !(seams.goes_on)() {
                return Ok(());
            }
            if left.contains(&id.destination) || state.completed_ms.contains_key(&id) {
                continue;
            }
            let Some(tally) = state.open.get(&id) else { continue };
            let settled = seams.settle(&id, tally, horizon_ms, &mut self.calendars).await;
            // What is complete waits for loaders, whatever becomes of its marker.
            if let Ok((completed, _)) = &settled {
                for setup in seams.loaders.iter().filter(|setup| setup.takes(&id, completed.window_end_ms)) {
                    state.loads.enqueue(waiting(setup, completed));
                }
            }
            let completed = match settled.and_then(|(completed, marked)| marked.map(|()| completed)) {
                Ok(completed) => completed,
                // A folder that is refused keeps no other one from being completed, and a destination that does not answer none of another one.
                Err(failure) => {
                    if failure.exit == Exit::Unreachable {
                        left.insert(id.destination);
                    }
                    failed.get_or_insert(failure);
                    continue;
                }
            };
            state.parts -= tally.parts.len();
            state.open.remove(&id);
            state.changed = true;
            match completed.revision {
                1 => outcome.completed += 1,
                _ => outcome.revised += 1,
            }
            state.completed_ms.insert(id, now_ms);
            state.recent.push_back(Recent::of(&completed, now_ms));
            if state.recent.len() > RECENT_MAX {
                state.recent.pop_front();
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// What the group's committed offsets say, by Kafka partition.
#[derive(Debug)]
pub struct Asked {
    /// Of each.
    pub archived: BTreeMap<i32, Result<Archived, Unknown>>,
}

impl Asked {
    /// The instant that all are past; `None` where something is not known. `idle`: where readable logs ended, and when that was asked.
    pub fn horizon(&self, rules: &Rules, idle: &BTreeMap<i32, (i64, i64)>) -> Option<i64> {
        let past = |(number, archived): (&i32, &Result<Archived, Unknown>)| {
            Some(archived.as_ref().ok()?.past(rules, idle.get(number).copied()))
        };
        self.archived.iter().map(past).min().flatten()
    }
}

impl Seams<'_> {
    pub(super) fn what(&self, what: &str) -> String {
        format!("archive {}, topic {}: {what}", self.archive, self.topic)
    }

    pub(super) async fn progress(&self) -> Result<Progress, Failure> {
        match patiently(self.clock, &self.what("read how far completion got"), || self.readable_progress()).await? {
            Ok(progress) => Ok(progress.unwrap_or_default()),
            Err(damage) => {
                tracing::warn!("{damage}; all receipts are looked at anew");
                Ok(Progress::default())
            }
        }
    }

    /// What is there, or why it cannot be read, which is no loss (K-12).
    async fn readable_progress(&self) -> Result<Result<Option<Progress>, String>, BucketError> {
        match self.bucket.progress(self.topic).await {
            Ok(progress) => Ok(Ok(progress)),
            Err(error @ BucketError::Unreadable { .. }) => Ok(Err(chain(&error))),
            Err(error) => Err(error),
        }
    }

    /// Asks the group's coordinator what is committed of each Kafka partition of the topic.
    ///
    /// # Errors
    /// No answer.
    pub async fn ask(&self) -> Result<Asked, Failure> {
        let failed = |reason: String| Failure::new(Exit::Unreachable, format!("{}: {reason}", self.what("ask Kafka")));
        let count = self.coordinator.partitions(self.topic).await.map_err(failed)?;
        let topic_id = self.coordinator.topic_id(self.topic).await.map_err(failed)?;
        let expected = Expected { generation: self.bucket.generation(), topic_id: topic_id.as_deref() };
        let all: Vec<_> = (0..count).map(|number| TopicPartition::new(self.topic, number)).collect();
        let found: BTreeMap<_, _> =
            self.coordinator.committed(all.clone()).await.map_err(failed)?.into_iter().collect();
        let of = |partition: TopicPartition| {
            let said = match found.get(&partition) {
                Some(committed) => archived(committed.as_ref(), expected),
                None => Err(Unknown::Unanswered),
            };
            (partition.partition, said)
        };
        Ok(Asked { archived: all.into_iter().map(of).collect() })
    }

    /// Completes one folder: creates its revision unless one covers it, and sees to its marker. The inner error: what became of the marker.
    async fn settle(
        &self,
        id: &FolderId,
        tally: &Tally,
        watermark_ms: i64,
        calendars: &mut Calendars,
    ) -> Result<(Completed, Result<(), Failure>), Failure> {
        let of = Whose { archive: self.archive, generation: self.bucket.generation(), topic: self.topic };
        let what = self.what(&format!("complete {id}"));
        let newest = || self.bucket.completed(self.topic, id);
        for _ in 0..TRIES {
            let known = patiently(self.clock, &what, newest).await?;
            let next = match &known {
                None => tally.completed(&of, id, 1, watermark_ms),
                Some(known) => match tally.standing(known, watermark_ms) {
                    Standing::Covered => known.clone(),
                    Standing::Beyond(next) => *next,
                    Standing::Mixed => {
                        let counted = self.count_outside(id, tally, known, calendars).await?;
                        match counted.parts.is_empty() {
                            true => known.clone(),
                            false => counted.added_to(known, watermark_ms),
                        }
                    }
                },
            };
            if known.as_ref() != Some(&next) {
                let put = || self.bucket.put_completed(&next);
                if let Some(other) = patiently(self.clock, &what, put).await? {
                    // Somebody else was faster. Where he stalled long ago, ours covers more and comes next.
                    tracing::debug!(
                        folder = id.folder,
                        revision = other.revision,
                        "completed by another process meanwhile"
                    );
                    continue;
                }
                self.tell(&next);
            }
            let marked = self.mark(&next).await;
            return Ok((next, marked));
        }
        Err(Failure::new(Exit::Unreachable, format!("{what}: other processes complete it again and again")))
    }

    /// Sees to the marker of a revision.
    pub(super) async fn mark(&self, next: &Completed) -> Result<(), Failure> {
        let what = self.what(&format!("complete {}", next.id));
        let Some(destination) = self.destinations.get(&next.id.destination) else {
            let folder = &next.id.folder;
            tracing::warn!(
                folder,
                "{what}: no destination of the configuration has that URL any more, so the folder gets no marker"
            );
            return Ok(());
        };
        let place = Bucket::new(destination.clone());
        patiently(self.clock, &what, || place.mark_complete(next, self.marker)).await
    }

    pub(super) fn tell(&self, completed: &Completed) {
        let Completed { revision, rows, objects, .. } = completed;
        let (topic, folder) = (self.topic, &completed.id.folder);
        let archive = self.archive.to_string();
        if *revision == 1 {
            metrics::counter!("siltstone_folders_completed_total", "archive" => archive).increment(1);
            tracing::info!(topic, folder, rows, objects, "folder complete");
        } else {
            metrics::counter!("siltstone_folders_revised_total", "archive" => archive).increment(1);
            tracing::warn!(
                topic,
                folder,
                revision,
                rows,
                objects,
                "late or backfilled data: the folder is complete again"
            );
        }
    }

    /// Counts what `tally` has and `known` does not cover, from the receipts.
    async fn count_outside(
        &self,
        id: &FolderId,
        tally: &Tally,
        known: &Completed,
        calendars: &mut Calendars,
    ) -> Result<Tally, Failure> {
        let mut counted = Tally { window_end_ms: tally.window_end_ms, ..Tally::default() };
        for (number, range) in tally.outside(known) {
            let partition = TopicPartition::new(self.topic, number);
            let mut receipts = receipts_from(self.bucket, &partition, self.clock, range.first).await?;
            while let Some(receipt) = receipts.try_next().await? {
                if receipt.first >= range.end {
                    break;
                }
                for of in self.folders_of(&receipt, calendars).await? {
                    if of.id == *id {
                        counted.add(number, of.covered, of.object, of.end_ms);
                    }
                }
            }
        }
        Ok(counted)
    }

    /// The folders that a batch put objects into, with the ends of their windows.
    pub(super) async fn folders_of<'r>(
        &self,
        receipt: &'r Receipt,
        calendars: &mut Calendars,
    ) -> Result<Vec<InFolder<'r>>, Failure> {
        calendars.know(self.bucket, self.clock, &receipt.fingerprint).await?;
        let covered = Covered { first: receipt.first, end: receipt.end };
        let of = |object: &'r ReceiptObject| {
            let calendar = calendars.of(&receipt.fingerprint, &object.output)?;
            let end_ms = object.event_max_ms.or(object.event_min_ms).and_then(|at_ms| calendar.end_of_window(at_ms));
            Some(InFolder { id: FolderId::of(object), covered, object, end_ms })
        };
        Ok(receipt.objects.iter().filter_map(of).collect())
    }
}

/// An object that a batch put into a folder.
pub(super) struct InFolder<'r> {
    pub(super) id: FolderId,
    /// The batch.
    pub(super) covered: Covered,
    pub(super) object: &'r ReceiptObject,
    /// The first instant behind the folder's window.
    pub(super) end_ms: Option<i64>,
}

/// How far a Kafka partition is looked at before another one's turn comes.
struct Turn {
    /// What is committed.
    until: i64,
    /// Most receipts.
    most: usize,
    /// No further than where the watermark is behind this.
    until_ms: Option<i64>,
    /// It ends where there is no more room.
    needs_room: bool,
}

impl Turn {
    /// Whether it is over behind the `taken`th receipt.
    fn is_over(&self, state: &State, seams: &Seams<'_>, number: i32, taken: usize) -> bool {
        let is_ahead =
            self.until_ms.is_some_and(|until_ms| state.watermarks.get(&number).is_some_and(|&ms| ms > until_ms));
        taken >= self.most || (is_ahead && taken >= WALK_MAX) || (self.needs_room && state.parts >= seams.parts_max)
    }
}

/// Looks at receipts of one Kafka partition. Whether it got to the end of what is committed.
async fn look(
    state: &mut State,
    calendars: &mut Calendars,
    seams: &Seams<'_>,
    number: i32,
    turn: &Turn,
) -> Result<bool, Failure> {
    let partition = TopicPartition::new(seams.topic, number);
    let mut taken = 0;
    // Batches follow each other, so the next one is where the last one ended, and no listing is needed.
    while let Some(&from) = state.through.get(&number).filter(|_| taken < WALK_MAX) {
        if from >= turn.until {
            return Ok(true);
        }
        let what = seams.what("read a receipt");
        let Some(receipt) = patiently(seams.clock, &what, || seams.bucket.get_receipt(&partition, from)).await? else {
            break;
        };
        note(state, calendars, seams, &receipt).await?;
        taken += 1;
        if turn.is_over(state, seams, number, taken) {
            return Ok(false);
        }
        if receipt.end <= from {
            break;
        }
    }
    let from = state.through.get(&number).copied().unwrap_or(0);
    let mut receipts = receipts_from(seams.bucket, &partition, seams.clock, from).await?;
    loop {
        let Some(receipt) = receipts.try_next().await? else {
            // Nothing vouches for what is left: it was not archived here, or before there were receipts.
            let through = state.through.entry(number).or_insert(turn.until);
            *through = turn.until.max(*through);
            state.changed = true;
            return Ok(true);
        };
        note(state, calendars, seams, &receipt).await?;
        taken += 1;
        if turn.is_over(state, seams, number, taken) {
            return Ok(false);
        }
    }
}

async fn note(
    state: &mut State,
    calendars: &mut Calendars,
    seams: &Seams<'_>,
    receipt: &Receipt,
) -> Result<(), Failure> {
    let number = receipt.partition;
    for InFolder { id, covered, object, end_ms } in seams.folders_of(receipt, calendars).await? {
        let tally = state.open.entry(id).or_default();
        let before = tally.parts.len();
        tally.add(number, covered, object, end_ms);
        state.parts += tally.parts.len() - before;
    }
    state.through.insert(number, receipt.end);
    if let Some(watermark_ms) = receipt.watermark_ms {
        state.watermarks.insert(number, watermark_ms);
    }
    state.changed = true;
    Ok(())
}

#[cfg(test)]
mod tests;
