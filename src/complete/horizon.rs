//! How far in event time a Kafka partition is certain to be through. Pure.
//!
//! Source of the rules: the delivery contract, "When an hour is complete". A partition is past an instant when its committed watermark is
//! at least [`Rules::allowed_lateness_ms`] later, or when all that could be read at a wall time that is later by as much, and by
//! [`Rules::idle_grace_ms`] more, is archived. What is not known is never past.

use crate::batch::metadata::{OffsetMetadata, OffsetState};
use crate::consume::Committed;
use serde::Serialize;
use std::fmt;

/// When a window is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How much later than newer ones records may come, milliseconds.
    pub allowed_lateness_ms: i64,
    /// How much longer a Kafka partition without records holds back, milliseconds.
    pub idle_grace_ms: i64,
}

impl Rules {
    /// What a watermark says.
    pub fn of_watermark(&self, watermark_ms: i64) -> i64 {
        watermark_ms.saturating_sub(self.allowed_lateness_ms)
    }

    /// What it says that all that could be read at `wall_ms` is archived.
    pub fn of_idle(&self, wall_ms: i64) -> i64 {
        wall_ms.saturating_sub(self.allowed_lateness_ms).saturating_sub(self.idle_grace_ms)
    }
}

/// What of a Kafka partition must be as the archive knows it.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Generation of the archive.
    pub generation: u32,
    /// The topic's id, where the client can tell.
    pub topic_id: Option<&'a str>,
}

/// What the group's committed offset says of a Kafka partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// Everything below is archived.
    pub offset: i64,
    /// The event-time watermark of what is.
    pub watermark_ms: Option<i64>,
    /// A batch is planned and not archived yet.
    pub has_plan: bool,
}

/// Why nothing is known of a Kafka partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// Kafka did not tell its committed offset.
    Unanswered,
    /// The group has committed nothing.
    NothingCommitted,
    /// What is committed has no metadata of ours: an operator or another tool set it.
    NotOurs,
    /// It was committed for another generation of the archive.
    OtherGeneration,
    /// It was committed before the topic was made again.
    OtherTopic,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unanswered => "Kafka does not tell what is committed",
            Self::NothingCommitted => "nothing is committed yet",
            Self::NotOurs => "somebody else set the committed offset",
            Self::OtherGeneration => "the committed offset is of another generation",
            Self::OtherTopic => "the topic was made again since it was committed",
        })
    }
}

/// What a committed offset says.
///
/// # Errors
/// [`Unknown`].
pub fn archived(committed: Option<&Committed>, expected: Expected<'_>) -> Result<Archived, Unknown> {
    let committed = committed.ok_or(Unknown::NothingCommitted)?;
    let metadata = OffsetMetadata::decode(&committed.metadata).ok_or(Unknown::NotOurs)?;
    if metadata.generation != expected.generation {
        return Err(Unknown::OtherGeneration);
    }
    if let (Some(then), Some(now)) = (metadata.topic_id.as_deref(), expected.topic_id)
        && then != now
    {
        return Err(Unknown::OtherTopic);
    }
    Ok(Archived {
        offset: committed.offset,
        watermark_ms: metadata.watermark_ms,
        has_plan: matches!(metadata.state, OffsetState::Plan { .. }),
    })
}

impl Archived {
    /// The instant that the partition is past; `i64::MIN` where it is past none. `idle`: where the readable log ended, and the wall time at which that was
    /// asked, if it was.
    pub fn past(&self, rules: &Rules, idle: Option<(i64, i64)>) -> i64 {
        let by_watermark = self.watermark_ms.map(|watermark_ms| rules.of_watermark(watermark_ms));
        let by_rest = idle.filter(|(readable_end, _)| !self.has_plan && self.offset == *readable_end);
        let by_rest = by_rest.map(|(_, asked_ms)| rules.of_idle(asked_ms));
        by_watermark.max(by_rest).unwrap_or(i64::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { allowed_lateness_ms: 100, idle_grace_ms: 50 };
    const EXPECTED: Expected<'_> = Expected { generation: 1, topic_id: Some("id") };

    fn committed(state: OffsetState, change: impl Fn(&mut OffsetMetadata)) -> Committed {
        let mut metadata = OffsetMetadata::new(state, 1);
        metadata.watermark_ms = Some(1_000);
        change(&mut metadata);
        Committed { offset: 10, metadata: metadata.encode() }
    }

    fn plan() -> OffsetState {
        OffsetState::Plan { end: 20, fingerprint: "f".into(), schemas: None, spool_bytes: 1 }
    }

    #[test]
    fn a_watermark_is_past_what_is_older_than_the_lateness() {
        let archived = archived(Some(&committed(OffsetState::Done, |_| {})), EXPECTED).expect("ours");
        assert_eq!(archived.past(&RULES, None), 900);
        // It has more to read, or was asked too early to say more.
        assert_eq!(archived.past(&RULES, Some((11, 9_000))), 900);
        assert_eq!(archived.past(&RULES, Some((10, 1_000))), 900);
        assert_eq!(archived.past(&RULES, Some((10, 2_000))), 1_850);
    }

    /// Goal: an open plan, or nothing known, is never past.
    #[test]
    fn plans_and_the_unknown_hold_back() {
        let planned = archived(Some(&committed(plan(), |_| {})), EXPECTED).expect("ours");
        assert_eq!(planned.past(&RULES, Some((10, 9_000))), 900);
        let never =
            archived(Some(&committed(plan(), |metadata| metadata.watermark_ms = None)), EXPECTED).expect("ours");
        assert_eq!(never.past(&RULES, Some((10, 9_000))), i64::MIN);
        let start = committed(OffsetState::Start, |metadata| metadata.watermark_ms = None);
        assert_eq!(archived(Some(&start), EXPECTED).expect("ours").past(&RULES, Some((10, 9_000))), 8_850);
        assert_eq!(archived(None, EXPECTED), Err(Unknown::NothingCommitted));
        let reset = Committed { offset: 10, metadata: String::new() };
        assert_eq!(archived(Some(&reset), EXPECTED), Err(Unknown::NotOurs));
        let of = |change: fn(&mut OffsetMetadata)| archived(Some(&committed(OffsetState::Done, change)), EXPECTED);
        assert_eq!(of(|metadata| metadata.generation = 2), Err(Unknown::OtherGeneration));
        assert_eq!(of(|metadata| metadata.topic_id = Some("other".into())), Err(Unknown::OtherTopic));
        assert!(of(|metadata| metadata.topic_id = Some("id".into())).is_ok());
    }
}
