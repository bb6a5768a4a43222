//! Folders counted anew, for rows that came below offsets which were looked at: those of backfills and replays (K-15).

use super::calendars::Calendars;
use super::loads::waiting;
use super::progress::{RECENT_MAX, Recent};
use super::round::{Completer, Outcome, Seams};
use super::tally::{Covered, FolderId, Tally, Whose};
use crate::bucket::completions::Completed;
use crate::bucket::recounts::{Recount, Whose as Asker};
use crate::exit::{Exit, Failure};
use crate::ledger::receipts_from;
use crate::pipeline::start::patiently;
use crate::record::TopicPartition;
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};

/// How long after requests were looked for they are looked for again, milliseconds.
const LOOK_MS: i64 = 60_000;
/// How often a folder is counted anew that others complete, too.
const TRIES: usize = 8;

/// Folders that are counted anew in one round.
const FOLDERS_MAX: usize = 64;

/// Offsets by Kafka partition.
type Ranges = BTreeMap<i32, Covered>;

/// What is being answered.
#[derive(Debug, Default)]
pub(super) struct Recounting {
    /// Requests whose makers have ended, and their folders.
    requests: Vec<(Recount, BTreeSet<FolderId>)>,
    /// Folders that are not counted yet.
    left: BTreeMap<FolderId, Ranges>,
    /// Folders that are open.
    open: BTreeSet<FolderId>,
    /// Why some could not be counted: requests are kept.
    failed: Option<Failure>,
}

/// Requests that wait for open folders, by name: they are looked at again when one of these is complete.
pub(super) type Kept = BTreeMap<String, BTreeSet<FolderId>>;

impl Completer {
    /// Answers requests whose makers have ended: each of their folders is counted anew, some of them in each round.
    ///
    /// # Errors
    /// A store that refuses or does not answer. What is not answered is in a later round.
    pub(super) async fn answer_recounts(&mut self, seams: &Seams<'_>, outcome: &mut Outcome) -> Result<(), Failure> {
        if self.recounting.is_none() {
            let now_ms = seams.clock.monotonic_ms();
            if self.recounts_at_ms.is_some_and(|at_ms| now_ms < at_ms) {
                return Ok(());
            }
            self.recounts_at_ms = Some(now_ms + LOOK_MS);
            self.recounting = self.asked_for(seams).await?;
        }
        let Some(mut recounting) = self.recounting.take() else {
            self.recount_failed = None;
            return Ok(());
        };
        let mut unreachable: BTreeSet<String> = BTreeSet::new();
        for _ in 0..FOLDERS_MAX {
            if !(seams.goes_on)() {
                return Ok(());
            }
            let Some((id, ranges)) = recounting.left.pop_first() else { break };
            if unreachable.contains(&id.destination) {
                continue;
            }
            match self.recount(seams, &id, &ranges, outcome).await {
                Ok(is_open) => {
                    outcome.recounted += 1;
                    recounting.open.extend(is_open.then_some(id));
                }
                // It holds back no other one, and a destination that does not answer none of another one.
                Err(failure) => {
                    if failure.exit == Exit::Unreachable {
                        unreachable.insert(id.destination);
                    }
                    recounting.failed.get_or_insert(failure);
                }
            }
        }
        outcome.has_more |= outcome.recounted > 0 || !recounting.left.is_empty();
        if !recounting.left.is_empty() {
            self.recounting = Some(recounting);
            return Ok(());
        }
        self.recounts_at_ms = Some(seams.clock.monotonic_ms() + LOOK_MS);
        let Recounting { requests, open, failed, .. } = recounting;
        self.recount_failed = failed.as_ref().map(|failure| (failure.exit, failure.message.clone()));
        // First that it is known, then that nobody need ask any more.
        self.queue_changed();
        self.save(seams, true).await?;
        if self.is_saved() && failed.is_none() {
            self.end_requests(seams, requests, &open).await?;
        }
        failed.map_or(Ok(()), Err)
    }

    async fn end_requests(
        &mut self,
        seams: &Seams<'_>,
        requests: Vec<(Recount, BTreeSet<FolderId>)>,
        open: &BTreeSet<FolderId>,
    ) -> Result<(), Failure> {
        let what = seams.what("say that folders were counted anew");
        for (request, folders) in requests {
            let waits: BTreeSet<FolderId> = folders.intersection(open).cloned().collect();
            if waits.is_empty() {
                patiently(seams.clock, &what, || seams.bucket.end_recount(&request)).await?;
                self.kept.remove(&request.name());
            } else {
                self.kept.insert(request.name(), waits);
            }
        }
        Ok(())
    }

    /// What is asked for by makers that have ended; `None` where there is nothing.
    async fn asked_for(&mut self, seams: &Seams<'_>) -> Result<Option<Recounting>, Failure> {
        let what = seams.what("look for folders that backfills and replays have changed");
        let waits = |name: &str| self.kept.get(name).is_some_and(|open| open.iter().all(|id| self.is_open(id)));
        let read = || seams.bucket.recounts(seams.topic, |name| !waits(name));
        let (requests, others) = patiently(seams.clock, &what, read).await?;
        self.kept.retain(|name, _| others.contains(name));
        let mut recounting = Recounting::default();
        for request in requests {
            if !self.is_looked_at(&request) {
                continue;
            }
            if patiently(seams.clock, &what, || seams.bucket.has_ended(&request)).await? {
                let folders = self.folders_asked_for(seams, &request, &mut recounting.left).await?;
                recounting.requests.push((request, folders));
            }
        }
        Ok((!recounting.requests.is_empty()).then_some(recounting))
    }

    /// Whether the batches of a replay were looked at: those of jobs are looked at as any other where they were not.
    fn is_looked_at(&self, request: &Recount) -> bool {
        let is_replay = matches!(request.of, Asker::Replay { .. });
        !is_replay || request.ranges.iter().all(|range| range.first < self.through(range.partition))
    }

    /// Adds the folders that batches and replays in the ranges have put objects into, with these ranges by Kafka partition, and tells which. What was not looked at
    /// yet is left out: it will be.
    async fn folders_asked_for(
        &mut self,
        seams: &Seams<'_>,
        request: &Recount,
        folders: &mut BTreeMap<FolderId, Ranges>,
    ) -> Result<BTreeSet<FolderId>, Failure> {
        let mut own = BTreeSet::new();
        for range in &request.ranges {
            let until = self.through(range.partition).min(range.end);
            let wanted = Covered { first: range.first, end: until };
            if wanted.first >= wanted.end {
                continue;
            }
            for (id, covered) in seams.touched(range.partition, wanted, self.calendars()).await? {
                widen(folders.entry(id.clone()).or_default(), range.partition, covered);
                own.insert(id);
            }
        }
        Ok(own)
    }

    /// Counts a folder anew: what is open of it, or its next revision where it is complete. Whether it is open.
    async fn recount(
        &mut self,
        seams: &Seams<'_>,
        id: &FolderId,
        ranges: &Ranges,
        outcome: &mut Outcome,
    ) -> Result<bool, Failure> {
        let what = seams.what(&format!("count {id} anew"));
        for _ in 0..TRIES {
            let known = patiently(seams.clock, &what, || seams.bucket.completed(seams.topic, id)).await?;
            let Some(known) = known else {
                let mut ranges = ranges.clone();
                for (number, covered) in self.open_parts(id) {
                    widen(&mut ranges, number, covered);
                }
                let tally = seams.counted(id, &ranges, self.calendars()).await?;
                self.reopen(id, tally);
                return Ok(true);
            };
            let mut all = ranges.clone();
            for (number, covered) in &known.covered {
                if let Ok(number) = number.parse() {
                    widen(&mut all, number, *covered);
                }
            }
            let tally = seams.counted(id, &all, self.calendars()).await?;
            let of = Whose { archive: seams.archive, generation: seams.bucket.generation(), topic: seams.topic };
            let next = tally.completed(&of, id, known.revision.saturating_add(1), known.watermark_ms);
            let next = Completed { window_end_ms: next.window_end_ms.max(known.window_end_ms), ..next };
            if is_same(&next, &known) {
                // Whoever made this revision may have died before it was marked, or waited for loaders.
                self.waits_for_loaders(seams, &known);
                seams.mark(&known).await?;
                return Ok(false);
            }
            if patiently(seams.clock, &what, || seams.bucket.put_completed(&next)).await?.is_some() {
                // Somebody else made that revision: it is looked at anew.
                continue;
            }
            seams.tell(&next);
            outcome.revised += 1;
            self.waits_for_loaders(seams, &next);
            self.recently(&next, seams.clock.wall_ms());
            seams.mark(&next).await?;
            return Ok(false);
        }
        Err(Failure::new(Exit::Unreachable, format!("{what}: other processes complete it again and again")))
    }

    fn waits_for_loaders(&mut self, seams: &Seams<'_>, completed: &Completed) {
        let Some(state) = self.state_mut() else { return };
        for setup in seams.loaders.iter().filter(|setup| setup.takes(&completed.id, completed.window_end_ms)) {
            state.loads.enqueue(waiting(setup, completed));
        }
        state.changed = true;
    }

    fn recently(&mut self, completed: &Completed, now_ms: i64) {
        let Some(state) = self.state_mut() else { return };
        state.recent.push_back(Recent::of(completed, now_ms));
        if state.recent.len() > RECENT_MAX {
            state.recent.pop_front();
        }
    }
}

/// Whether both tell the same rows and objects of the same offsets.
fn is_same(one: &Completed, other: &Completed) -> bool {
    let told = |of: &Completed| (of.rows, of.uncounted, of.objects, of.bytes);
    told(one) == told(other) && one.covered == other.covered
}

fn widen(ranges: &mut Ranges, number: i32, covered: Covered) {
    let hull = ranges.get(&number).map_or(covered, |known| known.hull(covered));
    ranges.insert(number, hull);
}

impl Seams<'_> {
    /// The folders that batches of Kafka partition `number` which begin in `range`, and replays of these, have objects in, each with the batches' offsets.
    async fn touched(
        &self,
        number: i32,
        range: Covered,
        calendars: &mut Calendars,
    ) -> Result<BTreeMap<FolderId, Covered>, Failure> {
        let mut touched: BTreeMap<FolderId, Covered> = BTreeMap::new();
        self.each_object(number, range, calendars, |id, covered, _| {
            let hull = touched.get(&id).map_or(covered, |known| known.hull(covered));
            touched.insert(id, hull);
        })
        .await?;
        Ok(touched)
    }

    /// What lies in a folder of the batches that begin in `ranges`.
    async fn counted(&self, id: &FolderId, ranges: &Ranges, calendars: &mut Calendars) -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        for (&number, &range) in ranges {
            self.each_object(number, range, calendars, |of, covered, (object, end_ms)| {
                if of == *id {
                    tally.add(number, covered, object, end_ms);
                }
            })
            .await?;
        }
        Ok(tally)
    }

    /// Every object of rows of the batches that begin in `range` and of their replays, in folders that show a time.
    async fn each_object(
        &self,
        number: i32,
        range: Covered,
        calendars: &mut Calendars,
        mut each: impl FnMut(FolderId, Covered, (&crate::bucket::receipt::ReceiptObject, Option<i64>)),
    ) -> Result<(), Failure> {
        let partition = TopicPartition::new(self.topic, number);
        let mut receipts = receipts_from(self.bucket, &partition, self.clock, range.first).await?;
        while let Some(receipt) = receipts.try_next().await? {
            if receipt.first >= range.end {
                break;
            }
            for of in self.folders_of(&receipt, calendars).await? {
                each(of.id, of.covered, (of.object, of.end_ms));
            }
        }
        let what = self.what("read replays");
        let replays = patiently(self.clock, &what, || self.bucket.finished_replays(&partition)).await?;
        let meant: BTreeSet<(i64, u32)> =
            replays.into_iter().filter(|(first, _)| (range.first..range.end).contains(first)).collect();
        for (first, n) in meant {
            let read = || self.bucket.replay_receipt(&partition, first, n);
            let Some(replay) = patiently(self.clock, &what, read).await? else { continue };
            let covered = Covered { first: replay.replay.first, end: replay.replay.end };
            let fingerprint = &replay.replay.fingerprint;
            calendars.know(self.bucket, self.clock, fingerprint).await?;
            for object in &replay.objects {
                let Some(calendar) = calendars.of(fingerprint, &object.output) else { continue };
                let end_ms =
                    object.event_max_ms.or(object.event_min_ms).and_then(|at_ms| calendar.end_of_window(at_ms));
                each(FolderId::of(object), covered, (object, end_ms));
            }
        }
        Ok(())
    }
}
