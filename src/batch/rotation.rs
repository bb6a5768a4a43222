//! When an open batch is sealed. Pure: the clocks' readings are arguments.

use crate::config::Rotate;
use crate::spool::part::BLOCKS_MAX;

/// Why a batch was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealReason {
    /// A part has reached `size` on disk, or [`BLOCKS_MAX`] blocks.
    Size,
    /// `records` records were read.
    Records,
    /// `bytes` payload bytes were read.
    Bytes,
    /// The oldest record is `age` old.
    Age,
    /// A window ended while it was open, and `grace` has passed since.
    WindowClosed,
    /// The process shuts down.
    Shutdown,
    /// Memory or disk is short.
    Pressure,
    /// The end that a plan, a claim or `--drain` named is reached.
    EndOfRange,
    /// Kafka deleted the records that come next, and `on_gap = "halt"`.
    Gap,
    /// The next record has a newer schema, which rows are projected onto from there on.
    Schema,
}

impl SealReason {
    /// The word used in receipts, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Records => "records",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::WindowClosed => "window_closed",
            Self::Shutdown => "shutdown",
            Self::Pressure => "pressure",
            Self::EndOfRange => "end_of_range",
            Self::Gap => "gap",
            Self::Schema => "schema",
        }
    }
}

/// What rotation needs to know of an open batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFacts {
    /// Monotonic time at which its first record was appended.
    pub opened_monotonic_ms: i64,
    /// Records read into it.
    pub records: u64,
    /// Payload bytes read into it.
    pub bytes_read: u64,
    /// Bytes on disk of its largest part.
    pub largest_part: u64,
    /// Blocks cut of the part that has most.
    pub most_blocks: u64,
    /// Wall time at which the first of its windows that was still open when it got its first record closes.
    pub first_window_end_ms: Option<i64>,
}

/// Whether the batch is due, by the rules that time alone cannot change. Cheap enough for every record.
pub fn due_by_volume(facts: &BatchFacts, rotate: &Rotate) -> Option<SealReason> {
    if facts.largest_part >= rotate.size || facts.most_blocks >= BLOCKS_MAX {
        return Some(SealReason::Size);
    }
    if facts.records >= rotate.records {
        return Some(SealReason::Records);
    }
    match rotate.bytes {
        Some(limit) if facts.bytes_read >= limit => Some(SealReason::Bytes),
        _ => None,
    }
}

/// Whether the batch is due by the clock. Age is measured on the monotonic clock, so a wall clock that jumps neither
/// seals early nor never; windows close on the wall clock.
pub fn due_by_time(facts: &BatchFacts, rotate: &Rotate, wall_ms: i64, monotonic_ms: i64) -> Option<SealReason> {
    let age_ms = monotonic_ms.saturating_sub(facts.opened_monotonic_ms);
    if age_ms >= i64::try_from(rotate.age.as_millis()).unwrap_or(i64::MAX) {
        return Some(SealReason::Age);
    }
    let (Some(grace), Some(end_ms)) = (rotate.grace, facts.first_window_end_ms) else { return None };
    let closes_ms = end_ms.saturating_add(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX));
    (wall_ms >= closes_ms).then_some(SealReason::WindowClosed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ROTATE: Rotate = Rotate {
        size: 1000,
        age: Duration::from_secs(600),
        records: 50,
        bytes: Some(5000),
        grace: Some(Duration::from_secs(120)),
    };
    const FACTS: BatchFacts = BatchFacts {
        opened_monotonic_ms: 10_000,
        records: 1,
        bytes_read: 10,
        largest_part: 0,
        most_blocks: 0,
        first_window_end_ms: Some(3_600_000),
    };

    #[test]
    fn volume_rules_fire_at_their_limit_and_not_before() {
        let with = |change: fn(&mut BatchFacts)| {
            let mut facts = FACTS;
            change(&mut facts);
            due_by_volume(&facts, &ROTATE)
        };
        assert_eq!(with(|_| {}), None);
        assert_eq!(with(|f| f.largest_part = 999), None);
        assert_eq!(with(|f| f.largest_part = 1000), Some(SealReason::Size));
        assert_eq!(with(|f| f.most_blocks = BLOCKS_MAX - 1), None);
        assert_eq!(with(|f| f.most_blocks = BLOCKS_MAX), Some(SealReason::Size));
        assert_eq!(with(|f| f.records = 49), None);
        assert_eq!(with(|f| f.records = 50), Some(SealReason::Records));
        assert_eq!(with(|f| f.bytes_read = 4999), None);
        assert_eq!(with(|f| f.bytes_read = 5000), Some(SealReason::Bytes));
    }

    #[test]
    fn age_counts_from_the_first_record_whatever_the_wall_clock_says() {
        assert_eq!(due_by_time(&FACTS, &ROTATE, 0, 609_999), None);
        assert_eq!(due_by_time(&FACTS, &ROTATE, 0, 610_000), Some(SealReason::Age));
        assert_eq!(due_by_time(&FACTS, &ROTATE, -1_000_000_000, 610_000), Some(SealReason::Age));
    }

    #[test]
    fn a_window_closes_its_grace_after_its_end() {
        assert_eq!(due_by_time(&FACTS, &ROTATE, 3_719_999, 20_000), None);
        assert_eq!(due_by_time(&FACTS, &ROTATE, 3_720_000, 20_000), Some(SealReason::WindowClosed));
        let backlog = BatchFacts { first_window_end_ms: None, ..FACTS };
        assert_eq!(due_by_time(&backlog, &ROTATE, i64::MAX, 20_000), None);
        let off = Rotate { grace: None, ..ROTATE };
        assert_eq!(due_by_time(&FACTS, &off, i64::MAX, 20_000), None);
    }
}
