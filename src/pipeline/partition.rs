//! The state of one held Kafka partition. All of it dies when the partition is revoked or lost.

use super::archive::Archive;
use super::finish::SealedBatch;
use super::open_batch::OpenBatch;
use super::schedule::Stretch;
use super::takeover::redo::Redo;
use crate::batch::rotation::SealReason;
use crate::complete::round::Completer;
use crate::consume::Held;
use crate::hook::Hook;
use crate::hook::follow::Follower;
use crate::registry::Target;
use crate::spool::part::Finished;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What a held partition is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Committed offset, claims and receipts are being read.
    TakingOver,
    /// Waits until the source can start at `next` (or for the time of the next try, monotonic milliseconds).
    Starting {
        /// Not before this monotonic time.
        not_before_ms: i64,
    },
    /// Its records feed schema inference; it starts again at `first` when the schema is pinned.
    Sampling {
        /// Where it starts again.
        first: i64,
        /// Whether it has no more records at the moment.
        caught_up: bool,
    },
    /// Records are archived.
    Running,
    /// The next record waits for an answer of the schema registry, or for a batch with another target. What is open stays open.
    AwaitingSchema {
        /// Where its records are sampled from, if they are.
        sampled_from: Option<i64>,
        /// The question that is under way.
        asking: Option<u64>,
        /// Since that monotonic time.
        since_ms: i64,
    },
    /// Its position is outside the log: the log's bounds are asked for. What is open stays open.
    OutOfRange,
    /// Everything that `--drain` asked for is sealed.
    Drained,
    /// It is taken over again: not before that monotonic time, and not before `settling` is done.
    Waiting {
        /// Not before this monotonic time.
        not_before_ms: i64,
    },
    /// A person must act.
    Stopped(String),
}

impl Phase {
    /// Whether a batch may be opened: it begins at [`Partition::next`], which in all other phases is not known, is somebody else's
    /// to set, or is where sampling has got to.
    pub fn may_open(&self) -> bool {
        match self {
            Self::Starting { .. } | Self::Running => true,
            Self::TakingOver
            | Self::Sampling { .. }
            | Self::AwaitingSchema { .. }
            | Self::OutOfRange
            | Self::Drained
            | Self::Waiting { .. }
            | Self::Stopped(_) => false,
        }
    }
}

/// A held Kafka partition.
pub struct Partition {
    /// The assignment.
    pub held: Held,
    /// Index among the context's archives.
    pub archive: usize,
    /// What it is doing.
    pub phase: Phase,
    /// Next offset to be covered: everything below is in `open`, sealed or archived.
    pub next: i64,
    /// First offset that Kafka still has, at or after `next`, when it was taken over: where reading starts.
    pub read_from: i64,
    /// What the coordinator holds, as far as this process knows.
    pub committed: Option<i64>,
    /// The offset ahead of that which somebody has set, as far as it was told.
    pub told_ahead: Option<i64>,
    /// The next batch's cut, if it was decided before.
    pub redo: Option<Redo>,
    /// With a schedule: what is archived before it is taken over again.
    pub stretch: Option<Stretch>,
    /// The compiled layout at the target that rows are projected onto, once there is one.
    pub at_target: Option<Arc<Archive>>,
    /// The next one, before whose first record the open batch ends.
    pub next_target: Option<Arc<Archive>>,
    /// Targets that rows are projected onto no more. None of them is the next one again: "newer" goes by versions and by ids, so
    /// it can turn in a circle.
    pub left: HashSet<Target>,
    /// The open batch ends before the next record, whatever its target.
    pub ends: bool,
    /// The batch that takes records.
    pub open: Option<OpenBatch>,
    /// The batch that is being finished.
    pub sealed: Option<Sealing>,
    /// A batch of a state that was thrown away, still on its way: nothing is taken over before it has ended.
    pub settling: Option<u64>,
    /// What asks the registry for it: ends when the answer is not waited for any more.
    pub question: Option<Question>,
    /// `open` should be sealed as soon as `sealed` is done.
    pub due: Option<SealReason>,
    /// Something came that belongs to the next batch while this one could not be sealed: the source starts at `next` again.
    pub turned_away: bool,
    /// Whether the source was asked to pause it.
    pub paused: bool,
    /// It is paused while batches that nobody can end fill memory or spool.
    pub yields: bool,
    /// It is taken over again as soon as nothing is open and nothing on its way: what Kafka deleted stops it then.
    pub retires: bool,
    /// Largest event time so far.
    pub watermark_ms: Option<i64>,
    /// The watermark of what is committed.
    pub watermark_committed_ms: Option<i64>,
    /// `first` of the newest finished batch.
    pub previous_first: Option<i64>,
    /// The topic's id.
    pub topic_id: Option<String>,
    /// Records appended since it was assigned.
    pub records: u64,
    /// Next offset a reader could reach when last asked, for lag.
    pub log_end: Option<i64>,
    /// When last asked, the log ended before what the schedule has to come: it was truncated.
    pub is_log_short: bool,
    /// When it is next looked whether receipts are to be folded, by the monotonic clock; `None` while nobody is to look, or somebody does.
    pub fold_at_ms: Option<i64>,
    /// When the topic's folders are looked at next, monotonic milliseconds; `None`: never, or it is being done.
    pub complete_at_ms: Option<i64>,
    /// What is known of the topic's folders, while nobody works with it.
    pub completer: Option<Box<Completer>>,
    /// Hooks that are told of its receipts; they stay when it is taken over again.
    pub telling: Vec<Telling>,
}

/// A hook that is told of a partition's receipts.
pub struct Telling {
    /// Which.
    pub hook: Arc<Hook>,
    /// What was committed when the partition was taken over first: where the hook begins if it was never told.
    pub begin: i64,
    /// How far it is, while nobody works with it.
    pub follower: Option<Box<Follower>>,
    /// Somebody works with it.
    pub is_running: bool,
    /// What was committed when it was begun last.
    pub seen: Option<i64>,
    /// What is new is not told before this monotonic time.
    pub not_before_ms: i64,
    /// When it is tried again whether there is something new or not, monotonic milliseconds.
    pub again_ms: Option<i64>,
}

impl Telling {
    /// One that is to begin.
    pub fn new(hook: Arc<Hook>, begin: i64) -> Self {
        Self { hook, begin, follower: None, is_running: false, seen: None, not_before_ms: 0, again_ms: None }
    }
}

/// A task that asks for something; it ends when this is dropped.
pub struct Question(pub JoinHandle<()>);

impl Drop for Question {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A sealed batch on its way.
pub struct Sealing {
    /// Tells it from other batches of this process.
    pub number: u64,
    /// `first` of the range.
    pub first: i64,
    /// `end` of the range.
    pub end: i64,
    /// The watermark with it.
    pub watermark_ms: Option<i64>,
    /// Bytes of memory that its parts take, the files' own contents apart.
    pub memory: usize,
    /// While parts are still being encoded: the batch, and each part's file once it is complete.
    pub encoding: Option<Encoding>,
}

/// Parts that are being completed.
pub struct Encoding {
    /// Everything but the parts.
    pub batch: SealedBatch,
    /// What each part's receipt will say.
    pub parts: Vec<EncodingPart>,
    /// Parts whose file is not complete.
    pub missing: usize,
}

/// One part that is being completed.
pub struct EncodingPart {
    /// Its index among the parts of the open batch: what its blocks are reported under, from the first to the last.
    pub index: usize,
    /// Index among outputs.
    pub output: usize,
    /// Folder.
    pub folder: String,
    /// Key.
    pub key: String,
    /// Rows.
    pub rows: u64,
    /// Records that they are of.
    pub records: u64,
    /// Event times.
    pub event_ms: (i64, i64),
    /// The file.
    pub file: Option<Finished>,
}

impl Partition {
    /// A partition just assigned.
    pub fn new(held: Held, archive: usize) -> Self {
        Self {
            held,
            archive,
            phase: Phase::TakingOver,
            next: 0,
            read_from: 0,
            committed: None,
            told_ahead: None,
            redo: None,
            stretch: None,
            at_target: None,
            next_target: None,
            left: HashSet::new(),
            ends: false,
            open: None,
            sealed: None,
            settling: None,
            question: None,
            due: None,
            turned_away: false,
            paused: false,
            yields: false,
            retires: false,
            watermark_ms: None,
            watermark_committed_ms: None,
            previous_first: None,
            topic_id: None,
            records: 0,
            log_end: None,
            is_log_short: false,
            fold_at_ms: None,
            complete_at_ms: None,
            completer: None,
            telling: Vec::new(),
        }
    }

    /// Forgets everything but the assignment: the partition is taken over again.
    pub fn reset(&mut self) {
        let on_its_way =
            self.sealed.as_ref().filter(|sealing| sealing.encoding.is_none()).map(|sealing| sealing.number);
        let settling = on_its_way.or(self.settling);
        *self = Self {
            settling,
            records: self.records,
            committed: self.committed,
            telling: std::mem::take(&mut self.telling),
            ..Self::new(self.held.clone(), self.archive)
        };
    }

    /// Where a batch that begins at `next` ends by the schedule; `None` where the stretch is over.
    pub fn end_scheduled(&self) -> Option<i64> {
        self.stretch.and_then(|stretch| stretch.end_of(self.next))
    }

    /// Rows are projected onto the next target from now on, if there is one.
    pub fn go_to_next_target(&mut self) {
        let Some(next) = self.next_target.take() else { return };
        let before = self.at_target.replace(next);
        self.left.extend(before.and_then(|before| before.target.clone()));
    }

    /// Bytes of memory that the open batch takes.
    pub fn memory(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.memory)
    }

    /// Bytes of memory that the sealed batch takes.
    pub fn sealed_memory(&self) -> usize {
        self.sealed.as_ref().map_or(0, |sealing| sealing.memory)
    }

    /// Whether `number` is its open or its sealed batch.
    pub fn has_batch(&self, number: u64) -> bool {
        self.open.as_ref().is_some_and(|open| open.number == number)
            || self.sealed.as_ref().is_some_and(|sealing| sealing.number == number)
    }

    /// Whether nothing of it is open or on its way.
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.sealed.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no batch begins at an offset that nobody has found: `reset` leaves 0 behind, whatever the partition was doing.
    #[test]
    fn nothing_is_opened_before_it_is_known_where() {
        let waits = Phase::Waiting { not_before_ms: 0 };
        let stopped = Phase::Stopped("a disk".to_string());
        let asks = Phase::AwaitingSchema { sampled_from: None, asking: None, since_ms: 0 };
        let samples = Phase::Sampling { first: 0, caught_up: false };
        for phase in [waits, stopped, asks, samples, Phase::TakingOver, Phase::OutOfRange, Phase::Drained] {
            assert!(!phase.may_open(), "{phase:?}");
        }
        for phase in [Phase::Running, Phase::Starting { not_before_ms: 0 }] {
            assert!(phase.may_open(), "{phase:?}");
        }
    }
}
