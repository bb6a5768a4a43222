//! How far a job has come in each source partition, and how that is kept in Kafka.
//!
//! # Where it is kept
//! As committed offsets of the job's own group, `<group>-restore-<job>`, on the partitions of the *target* topic, sent inside the same
//! transaction as the records. The source topic would read more naturally, and may be gone or in another cluster: Kafka commits no offset of
//! a topic that it does not have. The target topic is there, or nothing can be restored.
//!
//! A target may have fewer partitions than the source, so the committed offset itself is only the number of records produced, for people, and
//! the metadata beside it says what matters. Source partition `p` is told of at target partition `p mod n`, where `n` is how many of them
//! the job uses; `n` is fixed when the job begins, and said by each of them, so that a target that grows does not move anything.
//!
//! ```text
//! r2 <job> <n> <count> <p>:<next>:<rows>:<tag>:<end> <p>:…       numbers in base 36, words apart by blanks
//! ```
//! `job` is a hash of what was asked for, `count` how many source partitions there are, `end` where one ends: all are fixed by the first transaction, but
//! for an end that nobody could tell then ([`END_UNKNOWN`]). A word has `:1` behind it where `rows` are those of a record ([`RowsOf`]); earlier releases
//! did not tell that.
//! Kafka forgets each offset by itself, so all of them are committed again now and then, and a job of which some are gone is refused. At most
//! [`METADATA_MAX_BYTES`] fit; more is refused before anything is produced.

use crate::kafka::coordinator::METADATA_MAX_BYTES;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

const VERSION: &str = "r2";
const RADIX: u32 = 36;
/// Numbers of each source partition.
const NUMBERS: usize = 5;
/// Behind those of which the rows are a record's.
const OF_RECORD: &str = ":1";

/// The end of a source partition of which nobody could tell it when the job began, as a receipt was damaged.
pub const END_UNKNOWN: i64 = i64::MAX;

/// `end`, where it is known.
pub fn known_end(end: i64) -> Option<i64> {
    (end != END_UNKNOWN).then_some(end)
}

/// What the rows of a [`Position`] are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowsOf {
    /// The object that begins with the offset, as its rows tell none. Earlier releases told the rows of a record so, too: as they lay in its objects.
    #[default]
    Object,
    /// The record that has the offset: in an order that no compaction changes ([`super::order::Seat`]).
    Record,
}

/// How far one source partition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Every record below it is done with.
    pub next: i64,
    /// … and so many rows behind it.
    pub rows: u64,
    /// What those are counted in.
    pub of: RowsOf,
    /// A hash of the objects whose rows tell no offset, and in which `rows` were counted or that are done with as a whole and reach over `next`; 0:
    /// there are none. Of a record's rows, of where those stand as well. See [`super::walk`].
    pub tag: u32,
}

impl Position {
    /// All below `next` is done with, and nothing else.
    pub const fn at(next: i64) -> Self {
        Self { next, rows: 0, of: RowsOf::Object, tag: 0 }
    }
}

/// How far one source partition is, and where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// How far.
    pub at: Position,
    /// One past the last offset of the job.
    pub end: i64,
}

/// What one target partition tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Hash of the request.
    pub job: u32,
    /// How many target partitions tell of the job.
    pub slots: i32,
    /// How many source partitions it has.
    pub count: u32,
    /// By source partition.
    pub reached: BTreeMap<i32, Reached>,
}

/// Why progress cannot be kept, or not be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgressError {
    /// More source partitions than the target's metadata can tell of.
    #[error(
        "the progress of its {partitions} source partitions takes {bytes} bytes beside one partition of the target, and Kafka keeps 4096: restore fewer with --partition, each share under a --job of its own"
    )]
    TooLarge {
        /// Source partitions of one target partition.
        partitions: usize,
        /// Bytes.
        bytes: usize,
    },
    /// It is not ours, or of a later release.
    #[error("its metadata is none of this release's: {0:?}")]
    Unknown(String),
    /// Offsets of some of its partitions are gone.
    #[error(
        "Kafka has forgotten how far it is in {gone} of {all} source partitions (offsets.retention.minutes, or somebody has deleted them): nobody \
         knows what of them was produced. Look at the target, and restore what it lacks under another --job, with --partition"
    )]
    Partial {
        /// Source partitions that nothing is told of.
        gone: usize,
        /// All of them.
        all: usize,
    },
    /// Target partitions tell different things.
    #[error("it is of another restore: {0}; give this one a --job of its own")]
    Other(String),
}

/// A hash for comparison, of anything.
pub fn short_hash(text: &str) -> u32 {
    let digest = Sha256::digest(text);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

impl Told {
    /// As metadata of a committed offset.
    ///
    /// # Errors
    /// [`ProgressError::TooLarge`].
    pub fn encode(&self) -> Result<String, ProgressError> {
        let numbers = [self.job, self.slots.unsigned_abs(), self.count].map(|number| radix(number.into()));
        let mut text = format!("{VERSION} {}", numbers.join(" "));
        for (&partition, Reached { at, end }) in &self.reached {
            let numbers = [
                u64::from(partition.unsigned_abs()),
                at.next.unsigned_abs(),
                at.rows,
                u64::from(at.tag),
                end.unsigned_abs(),
            ];
            text.push(' ');
            text.push_str(&numbers.map(radix).join(":"));
            if at.of == RowsOf::Record {
                text.push_str(OF_RECORD);
            }
        }
        match text.len() {
            0..=METADATA_MAX_BYTES => Ok(text),
            bytes => Err(ProgressError::TooLarge { partitions: self.reached.len(), bytes }),
        }
    }

    /// Of the metadata of a committed offset.
    ///
    /// # Errors
    /// [`ProgressError::Unknown`].
    pub fn decode(metadata: &str) -> Result<Self, ProgressError> {
        let unknown = || ProgressError::Unknown(metadata.chars().take(40).collect());
        let mut words = metadata.split(' ');
        if words.next() != Some(VERSION) {
            return Err(unknown());
        }
        let mut number = || words.next().and_then(of_radix);
        let job = number().and_then(|job| u32::try_from(job).ok());
        let slots = number().and_then(|slots| i32::try_from(slots).ok());
        let count = number().and_then(|count| u32::try_from(count).ok());
        let (Some(job), Some(slots @ 1..), Some(count)) = (job, slots, count) else { return Err(unknown()) };
        let mut reached = BTreeMap::new();
        for word in words {
            let (word, of) = match word.strip_suffix(OF_RECORD) {
                Some(other) if other.matches(':').count() == NUMBERS - 1 => (other, RowsOf::Record),
                _ => (word, RowsOf::Object),
            };
            let numbers: Option<Vec<u64>> = word.split(':').map(of_radix).collect();
            let Some([partition, next, rows, tag, end]) = numbers.as_deref() else { return Err(unknown()) };
            let one = || {
                let at = Position { next: i64::try_from(*next).ok()?, rows: *rows, of, tag: u32::try_from(*tag).ok()? };
                Some((i32::try_from(*partition).ok()?, Reached { at, end: i64::try_from(*end).ok()? }))
            };
            let (partition, one) = one().ok_or_else(unknown)?;
            reached.insert(partition, one);
        }
        Ok(Self { job, slots, count, reached })
    }
}

fn radix(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(number % u64::from(RADIX)).unwrap_or_default();
        digits.push(char::from_digit(digit, RADIX).unwrap_or('0'));
        number /= u64::from(RADIX);
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

fn of_radix(text: &str) -> Option<u64> {
    let is_clean = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    u64::from_str_radix(text, RADIX).ok().filter(|_| is_clean)
}

/// A committed offset of the job's group: target partition, records produced, metadata.
pub type Kept = (i32, i64, String);

/// How far a job is: all of its source partitions, and how many records each target partition's share has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    job: u32,
    slots: i32,
    reached: BTreeMap<i32, Reached>,
    produced: BTreeMap<i32, i64>,
    /// Target partitions whose part has changed since the last transaction.
    changed: BTreeSet<i32>,
    /// Ends that were learnt and are not committed.
    learnt: BTreeMap<i32, i64>,
    /// Transactions so far.
    commits: u64,
}

/// After so many transactions all parts are committed again, also those that have not changed: Kafka forgets each by itself.
const ALL_AGAIN: u64 = 300;

impl Progress {
    /// A job that has not begun: `ends` are the source partitions with where each begins and ends, [`END_UNKNOWN`] among them.
    ///
    /// # Errors
    /// [`ProgressError::TooLarge`]: it could not be kept, at its largest.
    pub fn begin(job: u32, targets: i32, ends: &BTreeMap<i32, (i64, i64)>) -> Result<Self, ProgressError> {
        let reached: BTreeMap<_, _> = ends
            .iter()
            .map(|(&partition, &(first, end))| (partition, Reached { at: Position::at(first), end }))
            .collect();
        let parts = i32::try_from(reached.len()).unwrap_or(i32::MAX).max(1);
        let slots = targets.clamp(1, parts);
        let changed = reached.keys().map(|partition| partition % slots).collect();
        let begun =
            Self { job, slots, reached, produced: BTreeMap::new(), changed, learnt: BTreeMap::new(), commits: 0 };
        let mut largest = begun.clone();
        for reached in largest.reached.values_mut() {
            // One record may be many rows of an object. Those of a record alone are fewer, which outweighs that they are told apart.
            let rows = reached.end.unsigned_abs().max(u32::MAX.into());
            reached.at = Position { next: reached.end, rows, of: RowsOf::Object, tag: u32::MAX };
        }
        largest.kept()?;
        Ok(begun)
    }

    /// What the committed offsets of the job's group tell; `None`: the job has not begun.
    ///
    /// # Errors
    /// [`ProgressError`]: they are not this job's, or not ours.
    pub fn read(job: u32, kept: &[Kept]) -> Result<Option<Self>, ProgressError> {
        let (mut all, mut count): (Option<Self>, usize) = (None, 0);
        for (slot, produced, metadata) in kept {
            let told = Told::decode(metadata)?;
            if told.job != job {
                let what = "topic, range, output, condition or the choice of partitions was another one".to_string();
                return Err(ProgressError::Other(what));
            }
            let all = all.get_or_insert_with(|| Self {
                job,
                slots: told.slots,
                reached: BTreeMap::new(),
                produced: BTreeMap::new(),
                changed: BTreeSet::new(),
                learnt: BTreeMap::new(),
                commits: 0,
            });
            if all.slots != told.slots {
                let what = format!("one partition tells of {} parts, another of {}", all.slots, told.slots);
                return Err(ProgressError::Other(what));
            }
            all.produced.insert(*slot, *produced);
            all.reached.extend(told.reached);
            count = told.count as usize;
        }
        match all.as_ref().map(|all| count.saturating_sub(all.reached.len())) {
            Some(gone @ 1..) => Err(ProgressError::Partial { gone, all: count }),
            _ => Ok(all),
        }
    }

    /// By source partition.
    pub fn reached(&self) -> &BTreeMap<i32, Reached> {
        &self.reached
    }

    /// Records that committed transactions have produced, and what was noted since.
    pub fn produced(&self) -> u64 {
        self.produced.values().map(|produced| produced.unsigned_abs()).sum()
    }

    /// Takes in where source partitions end of which nobody could tell it when the job began: one that `ends` tells nothing of has nothing more.
    pub fn learn_ends(&mut self, ends: &BTreeMap<i32, (i64, i64)>) {
        for (partition, reached) in &mut self.reached {
            let learnt = match ends.get(partition) {
                Some(&(_, end)) => known_end(end),
                None => (reached.at.rows == 0).then_some(reached.at.next),
            };
            if let (None, Some(end)) = (known_end(reached.end), learnt) {
                reached.end = end;
                self.learnt.insert(*partition, end);
                self.changed.insert(partition % self.slots);
            }
        }
    }

    /// Whether ends were learnt that are to be committed, also where no row is left.
    pub fn has_learnt(&self) -> bool {
        !self.learnt.is_empty()
    }

    /// Notes that `partition` is at `at`, after so many more records.
    pub fn note(&mut self, partition: i32, at: Position, produced: u64) {
        let slot = partition % self.slots;
        if let Some(reached) = self.reached.get_mut(&partition) {
            reached.at = at;
        }
        *self.produced.entry(slot).or_default() += i64::try_from(produced).unwrap_or(i64::MAX);
        self.changed.insert(slot);
    }

    /// What is to be committed: the target partitions whose part has changed.
    ///
    /// # Errors
    /// [`ProgressError::TooLarge`].
    pub fn kept(&self) -> Result<Vec<Kept>, ProgressError> {
        let of_slot = |&slot: &i32| {
            let reached = self.reached.iter().filter(|(partition, _)| *partition % self.slots == slot);
            let reached = reached.map(|(&partition, &reached)| (partition, reached)).collect();
            let count = u32::try_from(self.reached.len()).unwrap_or(u32::MAX);
            let told = Told { job: self.job, slots: self.slots, count, reached };
            Ok::<_, ProgressError>((slot, self.produced.get(&slot).copied().unwrap_or_default(), told.encode()?))
        };
        self.changed.iter().map(of_slot).collect()
    }

    /// Everything noted is committed.
    pub fn committed(&mut self) {
        self.changed.clear();
        for (source_partition, end) in std::mem::take(&mut self.learnt) {
            tracing::warn!(
                source_partition,
                end,
                "nobody could tell where this source partition ends when the job began: it ends here now, for good. What a backfill brings back \
                 behind it is another job's (--from-offset)"
            );
        }
        self.commits += 1;
        if self.commits.is_multiple_of(ALL_AGAIN) {
            self.changed = self.reached.keys().map(|partition| partition % self.slots).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ends(count: i32, end: i64) -> BTreeMap<i32, (i64, i64)> {
        (0..count).map(|partition| (partition, (0, end))).collect()
    }

    proptest! {
        /// Goal: what is kept is read back. Method: any numbers.
        #[test]
        fn what_is_kept_is_read_back(
            job: u32,
            slots in 1..=i32::MAX,
            count: u32,
            reached in prop::collection::btree_map(0..=i32::MAX, (0..=i64::MAX, any::<u64>(), any::<u32>(), 0..=i64::MAX, any::<bool>()), 0..40),
        ) {
            let reached = reached.into_iter().map(|(partition, (next, rows, tag, end, is_record))| {
                let of = if is_record { RowsOf::Record } else { RowsOf::Object };
                (partition, Reached { at: Position { next, rows, of, tag }, end })
            });
            let told = Told { job, slots, count, reached: reached.collect() };
            prop_assert_eq!(Told::decode(&told.encode().expect("fits")), Ok(told));
        }

        #[test]
        fn what_is_not_ours_is_refused_and_never_a_panic(text in ".{0,60}") {
            prop_assert!(Told::decode(&text).is_err());
        }
    }

    #[test]
    fn the_documented_form_is_the_one_that_is_kept() {
        let told = |of| {
            let at = Position { next: 1_000, rows: 3, of, tag: 35 };
            Told { job: 36, slots: 2, count: 37, reached: BTreeMap::from([(10, Reached { at, end: 46_655 })]) }
        };
        // What earlier releases have kept, whatever their rows were counted in.
        let earlier = "r2 10 2 11 a:rs:3:z:zzz";
        assert_eq!(told(RowsOf::Object).encode().as_deref(), Ok(earlier));
        assert_eq!(Told::decode(earlier), Ok(told(RowsOf::Object)));
        assert_eq!(told(RowsOf::Record).encode().as_deref(), Ok("r2 10 2 11 a:rs:3:z:zzz:1"));
        // An end of 1 is no more than that.
        assert_eq!(Told::decode("r2 10 2 11 a:rs:3:z:1").map(|told| told.reached[&10].end), Ok(1));
        for wrong in [
            "",
            "r2",
            "r1 10 2 1",
            "r2 10 0 1",
            "r2 10 2",
            "r2 10 2 1 a:rs:3:z",
            "r2 10 2 1 a:rs:3:z:-1",
            "r2 10 2 1 a:rs:3:1",
            "r2 10 2 1 a:rs:3:z:zzz:2",
            "r2 10 2 1 a:rs:3:z:zzz:1:1",
            "r2 10 2 1  ",
            "{}",
        ] {
            assert_eq!(Told::decode(wrong), Err(ProgressError::Unknown(wrong.to_string())), "{wrong:?}");
        }
    }

    /// Goal: several source partitions share a target partition, and a target that grew changes nothing.
    #[test]
    fn progress_of_a_job_is_the_sum_of_what_target_partitions_tell() {
        let mut progress = Progress::begin(7, 2, &ends(5, 100)).expect("fits");
        let first = progress.kept().expect("fits");
        assert_eq!(first.iter().map(|kept| kept.0).collect::<Vec<_>>(), [0, 1], "ends are fixed by the first one");
        progress.committed();
        assert_eq!(progress.kept(), Ok(vec![]));
        progress.note(3, Position::at(9), 1);
        progress.note(3, Position::at(10), 0);
        let second = progress.kept().expect("fits");
        assert_eq!(second.iter().map(|kept| (kept.0, kept.1)).collect::<Vec<_>>(), [(1, 1)]);
        progress.committed();
        let read = Progress::read(7, &[first[0].clone(), second[0].clone()]).expect("ours").expect("begun");
        assert_eq!((read.reached(), read.produced()), (progress.reached(), progress.produced()));
        assert_eq!(read.produced(), 1);
        assert!(matches!(Progress::read(8, &second), Err(ProgressError::Other(_))));
        // Kafka forgets each offset by itself: what nobody tells of is not what has not begun.
        assert_eq!(Progress::read(7, &second), Err(ProgressError::Partial { gone: 3, all: 5 }));
        assert_eq!(Progress::read(7, &[]), Ok(None));
    }

    /// Goal: an end that was not known is taken in and kept once it is; one that was fixed stays.
    #[test]
    fn an_end_that_was_not_known_is_learnt() {
        let of = |first: i64, second: i64| BTreeMap::from([(0, (0, first)), (1, (0, second))]);
        let mut progress = Progress::begin(7, 2, &of(100, END_UNKNOWN)).expect("fits");
        progress.committed();
        progress.learn_ends(&of(150, END_UNKNOWN));
        assert_eq!((progress.kept(), known_end(progress.reached()[&1].end)), (Ok(vec![]), None));
        progress.learn_ends(&of(150, 120));
        assert_eq!(progress.reached().values().map(|reached| reached.end).collect::<Vec<_>>(), [100, 120]);
        assert_eq!(progress.kept().expect("fits").iter().map(|kept| kept.0).collect::<Vec<_>>(), [1]);
        progress.learn_ends(&of(150, 130));
        assert_eq!(progress.reached()[&1].end, 120);
        assert!(progress.has_learnt());
        let kept = progress.kept().expect("fits");
        progress.committed();
        assert!(!progress.has_learnt());
        // Nor does the next run learn it anew, whatever is there by then.
        let first = Progress::begin(7, 2, &of(100, END_UNKNOWN)).expect("fits").kept().expect("fits");
        let mut next = Progress::read(7, &[first[0].clone(), kept[0].clone()]).expect("ours").expect("begun");
        for ends in [of(150, 130), BTreeMap::new()] {
            next.learn_ends(&ends);
            assert_eq!(next.reached(), progress.reached());
            assert_eq!((next.has_learnt(), next.kept()), (false, Ok(vec![])));
        }
        // What could not be read is gone, and nothing else is there.
        let mut progress = Progress::begin(7, 2, &BTreeMap::from([(1, (5, END_UNKNOWN))])).expect("fits");
        progress.learn_ends(&BTreeMap::new());
        assert_eq!((progress.reached()[&1].end, progress.has_learnt()), (5, true));
    }

    #[test]
    fn progress_that_could_not_be_kept_is_refused_at_the_begin() {
        Progress::begin(7, 1, &ends(60, i64::MAX)).expect("fits");
        Progress::begin(7, 12, &ends(900, i64::MAX)).expect("fits");
        let refused = Progress::begin(7, 1, &ends(500, i64::MAX)).expect_err("too large");
        assert!(matches!(refused, ProgressError::TooLarge { partitions: 500, .. }), "{refused}");
    }
}
