//! What a commit carries beside its offset: JSON in the group's offset metadata, at most 4096 bytes.
//!
//! A commit without metadata clears the earlier one, so every commit of ours carries everything that must last.
//! Metadata that is not ours (another tool's, an operator's, empty) reads as `None`: unknown, never "nothing planned".

use serde::{Deserialize, Serialize};

/// Version of the form.
const VERSION: u32 = 1;

/// Kafka's default limit (`offset.metadata.max.bytes`); a longer string is not sent. What is sent has less than a tenth of
/// it, whatever is configured, and less than a quarter with the longest name of a message in a registry: lists (windows,
/// schemas by output, unknown schemas) are in the claim.
pub const METADATA_BYTES_MAX: usize = 4096;

/// What the committed offset of a partition means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetMetadata {
    /// Always [`VERSION`]; tells ours from other tools'.
    siltstone: u32,
    /// Start, plan or done.
    #[serde(flatten)]
    pub state: OffsetState,
    /// Generation of the archive, from 1.
    #[serde(rename = "gen", default = "first_generation", skip_serializing_if = "is_first_generation")]
    pub generation: u32,
    /// The partition's event-time watermark: the largest event time archived, records far in the future not counted.
    #[serde(rename = "wm", default, skip_serializing_if = "Option::is_none")]
    pub watermark_ms: Option<i64>,
    /// `first` of the newest finished batch below the committed offset.
    #[serde(rename = "prev", default, skip_serializing_if = "Option::is_none")]
    pub previous_first: Option<i64>,
    /// The schema in the registry that rows are projected onto: those of the plan, or of the batch before.
    #[serde(rename = "schema", default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The topic's id, where the client can tell.
    #[serde(rename = "topic", default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
}

fn first_generation() -> u32 {
    1
}

fn is_first_generation(generation: &u32) -> bool {
    *generation == 1
}

/// Why an offset was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OffsetState {
    /// The first position, chosen once.
    Start,
    /// A batch `[offset, end)` was sealed; the offset is unchanged.
    Plan {
        /// Its end.
        end: i64,
        /// Fingerprint of the layout it is written with.
        #[serde(rename = "layout")]
        fingerprint: String,
        /// One hash over all inferred schemas it is written with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schemas: Option<String>,
        /// Bytes it takes in a spool.
        #[serde(rename = "spool")]
        spool_bytes: u64,
    },
    /// Everything below the offset is archived.
    Done,
}

impl OffsetMetadata {
    /// Metadata of ours in state `state`, with nothing else known.
    pub fn new(state: OffsetState, generation: u32) -> Self {
        Self {
            siltstone: VERSION,
            state,
            generation,
            watermark_ms: None,
            previous_first: None,
            target: None,
            topic_id: None,
        }
    }

    /// The string that is committed.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("metadata holds only strings and numbers")
    }

    /// Reads a committed string; `None` where it is not ours.
    pub fn decode(text: &str) -> Option<Self> {
        let metadata: Self = serde_json::from_str(text).ok()?;
        (metadata.siltstone == VERSION).then_some(metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::TARGET_BYTES_MAX;

    /// Goal: no configuration makes a plan that Kafka refuses. Method: every field at its longest; none of them grows
    /// with outputs, windows or names. Brokers with a smaller `offset.metadata.max.bytes` than the default's tenth are
    /// not heard of; the first plan of a partition would stop it there, before anything is uploaded.
    #[test]
    fn the_largest_metadata_is_far_below_the_limit() {
        let plan = OffsetState::Plan {
            end: i64::MIN,
            fingerprint: "f".repeat(32),
            schemas: Some("s".repeat(32)),
            spool_bytes: u64::MAX,
        };
        for state in [plan, OffsetState::Start, OffsetState::Done] {
            let mut metadata = OffsetMetadata::new(state, u32::MAX);
            metadata.watermark_ms = Some(i64::MIN);
            metadata.previous_first = Some(i64::MIN);
            // A UUID in its longest form; Kafka's own have 22 characters.
            metadata.topic_id = Some("t".repeat(36));
            let text = metadata.encode();
            assert!(text.len() < METADATA_BYTES_MAX / 10, "{} bytes: {text}", text.len());
            metadata.target = Some("m".repeat(TARGET_BYTES_MAX));
            let text = metadata.encode();
            assert!(text.len() < METADATA_BYTES_MAX / 4, "{} bytes: {text}", text.len());
            assert_eq!(OffsetMetadata::decode(&text), Some(metadata));
        }
    }

    #[test]
    fn done_and_start_have_a_fixed_form() {
        let mut done = OffsetMetadata::new(OffsetState::Done, 1);
        (done.watermark_ms, done.previous_first) = (Some(5), Some(3));
        assert_eq!(done.encode(), r#"{"siltstone":1,"state":"done","wm":5,"prev":3}"#);
        let start = OffsetMetadata::new(OffsetState::Start, 1);
        assert_eq!(start.encode(), r#"{"siltstone":1,"state":"start"}"#);
        assert_eq!(OffsetMetadata::decode(&start.encode()).map(|metadata| metadata.generation), Some(1));
        let second = OffsetMetadata::new(OffsetState::Start, 2);
        assert_eq!(second.encode(), r#"{"siltstone":1,"state":"start","gen":2}"#);
    }

    #[test]
    fn what_is_not_ours_is_unknown() {
        for text in ["", "null", "{}", "siltstone", r#"{"siltstone":2,"state":"done"}"#, r#"{"siltstone":1}"#] {
            assert_eq!(OffsetMetadata::decode(text), None, "{text}");
        }
    }
}
