//! Where the reader of each held Kafka partition stands: what makes K-1 and K-2 true.
//!
//! Pure bookkeeping: no Kafka, no clock, no I/O.

use crate::consume::Held;
use crate::record::{TopicPartition, offset_after};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a reader does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Held, not started.
    Idle,
    /// Hands over records.
    Running,
    /// Started, and told to wait.
    Paused,
    /// Started, and has to be put to its position: at this time (monotonic milliseconds) or later.
    Displaced {
        /// When to try.
        at_ms: i64,
    },
    /// The position is out of range: started again by whoever decides where.
    Stalled,
}

/// One held Kafka partition.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) partition: TopicPartition,
    pub(super) assignment: u64,
    pub(super) phase: Phase,
    /// Everything below was handed over or covered since the start.
    pub(super) next: i64,
    /// How often it could not be put to its position, in a row.
    pub(super) tries: u32,
}

/// All readers.
#[derive(Debug, Default)]
pub(super) struct Readers {
    by_topic: BTreeMap<Arc<str>, BTreeMap<i32, Reader>>,
}

impl Readers {
    pub(super) fn add(&mut self, held: &Held) {
        let partition = held.partition.clone();
        let reader = Reader { partition, assignment: held.assignment, phase: Phase::Idle, next: 0, tries: 0 };
        self.by_topic.entry(held.partition.topic.clone()).or_default().insert(held.partition.partition, reader);
    }

    pub(super) fn remove(&mut self, partition: &TopicPartition) {
        if let Some(readers) = self.by_topic.get_mut(&partition.topic) {
            readers.remove(&partition.partition);
            if readers.is_empty() {
                self.by_topic.remove(&partition.topic);
            }
        }
    }

    pub(super) fn get(&mut self, topic: &str, partition: i32) -> Option<&mut Reader> {
        self.by_topic.get_mut(topic)?.get_mut(&partition)
    }

    /// The reader of `held`, if that is still its assignment.
    pub(super) fn of(&mut self, held: &Held) -> Option<&mut Reader> {
        self.get(&held.partition.topic, held.partition.partition).filter(|reader| reader.assignment == held.assignment)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Reader> {
        self.by_topic.values_mut().flat_map(BTreeMap::values_mut)
    }

    /// Whether a record at `offset` is the next one to hand over (offsets skip); if so the position moves behind it.
    pub(super) fn accept(&mut self, topic: &str, partition: i32, offset: i64) -> bool {
        match self.get(topic, partition) {
            Some(reader) if reader.phase == Phase::Running && offset >= reader.next => {
                reader.next = offset_after(offset);
                true
            }
            _ => false,
        }
    }

    /// Whether an end at `position` is news of a running reader; if so everything below it is covered.
    pub(super) fn end(&mut self, topic: &str, partition: i32, position: i64) -> Option<&TopicPartition> {
        let reader = self.get(topic, partition)?;
        if reader.phase != Phase::Running || position < reader.next {
            return None;
        }
        reader.next = position;
        Some(&reader.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(next: i64) -> Readers {
        let mut readers = Readers::default();
        readers.add(&Held { partition: TopicPartition::new("t", 0), assignment: 1 });
        let reader = readers.get("t", 0).expect("just added");
        reader.phase = Phase::Running;
        reader.next = next;
        readers
    }

    #[test]
    fn nothing_is_taken_twice_and_nothing_of_a_partition_not_started() {
        let mut readers = running(5);
        let taken: Vec<i64> = [4, 5, 5, 8, 6, 9].into_iter().filter(|&at| readers.accept("t", 0, at)).collect();
        assert_eq!(taken, [5, 8, 9], "below the position is old, above it is a gap");
        assert!(!readers.accept("t", 1, 9) && !readers.accept("u", 0, 9));
        for phase in [Phase::Idle, Phase::Paused, Phase::Displaced { at_ms: 0 }, Phase::Stalled] {
            readers.get("t", 0).expect("there").phase = phase;
            assert!(!readers.accept("t", 0, 100), "{phase:?}");
            assert!(readers.end("t", 0, 100).is_none(), "{phase:?}");
        }
    }

    #[test]
    fn an_end_covers_what_lies_below_it_but_never_goes_back() {
        let mut readers = running(5);
        assert!(readers.end("t", 0, 4).is_none(), "an end of the past");
        assert!(readers.end("t", 0, 7).is_some(), "markers at 5 and 6");
        assert!(!readers.accept("t", 0, 6));
        assert!(readers.accept("t", 0, 7));
        assert!(readers.end("t", 0, 7).is_none());
        assert!(readers.end("t", 0, 8).is_some());
    }

    #[test]
    fn a_held_of_an_earlier_assignment_finds_no_reader() {
        let mut readers = running(0);
        let partition = TopicPartition::new("t", 0);
        assert!(readers.of(&Held { partition: partition.clone(), assignment: 2 }).is_none());
        assert!(readers.of(&Held { partition: partition.clone(), assignment: 1 }).is_some());
        readers.remove(&partition);
        assert!(readers.of(&Held { partition, assignment: 1 }).is_none());
    }
}
