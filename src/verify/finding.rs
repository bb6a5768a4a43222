//! What `verify` tells: findings, each with what to do, and notes, which are no faults.

use crate::record::{OffsetRange, TopicPartition};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;

/// The word for a kind of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Offsets that no receipt covers, with receipts (or the group's committed offset) behind them.
    Gap,
    /// Offsets that two receipts cover.
    Overlap,
    /// A receipt names an object that is not there.
    Missing,
    /// An object has another size than its receipt says.
    Size,
    /// An object has another SHA-256 than its receipt says.
    Checksum,
    /// An object has another number of rows than its receipt says.
    Rows,
    /// Rows that are there twice: two objects of one batch and window, or one object that two receipts count.
    Doubled,
    /// An object that a compaction replaced and deleted is there again.
    Returned,
    /// An object with one of the archive's names that nobody vouches for.
    Unvouched,
    /// A receipt whose numbers do not add up.
    Unbalanced,
    /// A receipt or claim that is damaged, or of a newer release.
    Unreadable,
    /// A claim without receipt, with batches behind it.
    Unfinished,
    /// A claim without receipt of a backfill that has not ended, and that nobody has gone on with for long.
    Left,
    /// Receipts name objects at a destination that the configuration does not have.
    Unreached,
    /// A receipt covers offsets that Kafka has not given out yet.
    BeyondLog,
    /// A receipt is of another topic that had the same name.
    TopicId,
    /// Kafka holds another number of records in a range than its receipt counts.
    Count,
}

impl Kind {
    /// All, in the order in which tables show them.
    pub const ALL: [Self; 17] = [
        Self::Gap,
        Self::Overlap,
        Self::Missing,
        Self::Size,
        Self::Checksum,
        Self::Rows,
        Self::Doubled,
        Self::Returned,
        Self::Unvouched,
        Self::Unbalanced,
        Self::Unreadable,
        Self::Unfinished,
        Self::Left,
        Self::Unreached,
        Self::BeyondLog,
        Self::TopicId,
        Self::Count,
    ];

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Overlap => "overlap",
            Self::Missing => "missing",
            Self::Size => "size",
            Self::Checksum => "checksum",
            Self::Rows => "rows",
            Self::Doubled => "doubled",
            Self::Returned => "returned",
            Self::Unvouched => "unvouched",
            Self::Unbalanced => "unbalanced",
            Self::Unreadable => "unreadable",
            Self::Unfinished => "unfinished",
            Self::Left => "left",
            Self::Unreached => "unreached",
            Self::BeyondLog => "beyond_log",
            Self::TopicId => "topic_id",
            Self::Count => "count",
        }
    }

    /// What a person does about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Gap => "siltstone backfill --missing --topic T archives it, of what Kafka still holds",
            Self::Overlap => {
                "find out which of the two batches is right (same rows, or another topic of that name), and keep one: its rows are in the archive twice"
            }
            Self::Missing | Self::Size => {
                "siltstone backfill --missing --topic T makes it again while Kafka holds its batch; else restore it from a backup or an older version of the bucket"
            }
            Self::Checksum => {
                "siltstone backfill --missing --deep --topic T makes it again while Kafka holds its batch; else restore it from a backup or an older version of the bucket"
            }
            Self::Rows => {
                "its bytes are those that were uploaded, so its receipt is wrong, or it was never counted: report it with the receipt"
            }
            Self::Doubled => "compare the objects; keep the one that a receipt names, and move the other one away",
            Self::Returned => {
                "an upload that had stalled put it again; delete it, as who lists folders reads its rows twice: siltstone compact --before … --sweep"
            }
            Self::Unvouched => {
                "read it before you delete it: readers of the bucket count its rows, and no receipt says where they come from"
            }
            Self::Unbalanced => {
                "report it with the receipt: the program must not write such a one; compare with Kafka while it holds the range"
            }
            Self::Unreadable => {
                "a newer version: use the newer release; else restore the document from a backup or an older version of the bucket. Where there is none move it away, and siltstone backfill --missing --topic T archives its batch again; but never one in a folder called folded, which has a thousand receipts; one of a compaction is written again by siltstone compact once it is moved away"
            }
            Self::Unfinished => "siltstone backfill --missing --topic T finishes it, of what Kafka still holds",
            Self::Left => {
                "the same siltstone backfill goes on with that job (--job NAME, and what was asked for then); or siltstone backfill --topic T --job NAME --cancel gives it up, and then siltstone backfill --missing --topic T finishes what it has claimed"
            }
            Self::Unreached => {
                "add the destination to the configuration and verify again: these objects were not looked at"
            }
            Self::BeyondLog => {
                "the topic was deleted and made again, or its log was cut: use a new generation of the archive for the new topic"
            }
            Self::TopicId => {
                "the topic was deleted and made again: use a new generation of the archive for the new topic"
            }
            Self::Count => {
                "more in Kafka: the batch lacks records, archive its range elsewhere (siltstone backfill --into) and compare; fewer: the log was changed, look at its cleanup and its transactions"
            }
        }
    }
}

/// What is wrong, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// See [`Kind::Gap`].
    Gap,
    /// The range is what two receipts cover.
    Overlap {
        /// The earlier receipt.
        other: OffsetRange,
    },
    /// See [`Kind::Missing`].
    Missing {
        /// Bytes, as the receipt says.
        bytes: u64,
    },
    /// See [`Kind::Size`].
    Size {
        /// Bytes, as the receipt says.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// See [`Kind::Checksum`].
    Checksum {
        /// SHA-256 in hex, as the receipt says.
        expected: String,
        /// That of the bytes that are there.
        found: String,
    },
    /// See [`Kind::Rows`].
    Rows {
        /// Rows, as the receipt says.
        expected: u64,
        /// Rows that were counted, or why they could not be.
        found: Result<u64, String>,
    },
    /// See [`Kind::Doubled`].
    Doubled {
        /// The object or receipt beside it, in words.
        beside: String,
    },
    /// See [`Kind::Returned`].
    Returned {
        /// Its size.
        bytes: u64,
    },
    /// See [`Kind::Unvouched`].
    Unvouched {
        /// Its size.
        bytes: u64,
        /// What is known of its batch.
        why: &'static str,
    },
    /// See [`Kind::Unbalanced`].
    Unbalanced {
        /// Of which output.
        output: String,
        /// What does not add up.
        what: String,
    },
    /// See [`Kind::Unreadable`].
    Unreadable {
        /// What is wrong with it.
        what: String,
        /// Somebody can read it: a newer release.
        newer: bool,
    },
    /// See [`Kind::Unfinished`].
    Unfinished,
    /// See [`Kind::Left`].
    Left {
        /// The job's name.
        job: String,
    },
    /// See [`Kind::Unreached`].
    Unreached {
        /// Objects that were not looked at.
        objects: u64,
    },
    /// See [`Kind::BeyondLog`].
    BeyondLog {
        /// Where the log ends.
        log_end: i64,
    },
    /// See [`Kind::TopicId`].
    TopicId {
        /// Of the receipts.
        expected: String,
        /// Of the topic as it is now.
        found: String,
    },
    /// See [`Kind::Count`].
    Count {
        /// Records that the receipt says were read.
        consumed: u64,
        /// Records that Kafka gives now.
        found: u64,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Archive.
    pub archive: Arc<str>,
    /// Kafka partition.
    pub partition: TopicPartition,
    /// First offset of what is meant: a batch, or a range without one.
    pub first: i64,
    /// One past its last offset, where it is known.
    pub end: Option<i64>,
    /// Destination id and key, where an object or document is meant.
    pub place: Option<(String, String)>,
    /// It is an object of that replay of dead letters, not of the batch itself.
    pub replay: Option<u32>,
    /// It is an object of that compaction, or one that it replaced: unit and number; of one that nobody vouches for the number, as its name tells.
    pub compaction: Option<Arc<str>>,
    /// What is wrong.
    pub fault: Fault,
}

impl Finding {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self.fault {
            Fault::Gap => Kind::Gap,
            Fault::Overlap { .. } => Kind::Overlap,
            Fault::Missing { .. } => Kind::Missing,
            Fault::Size { .. } => Kind::Size,
            Fault::Checksum { .. } => Kind::Checksum,
            Fault::Rows { .. } => Kind::Rows,
            Fault::Doubled { .. } => Kind::Doubled,
            Fault::Returned { .. } => Kind::Returned,
            Fault::Unvouched { .. } => Kind::Unvouched,
            Fault::Unbalanced { .. } => Kind::Unbalanced,
            Fault::Unreadable { .. } => Kind::Unreadable,
            Fault::Unfinished => Kind::Unfinished,
            Fault::Left { .. } => Kind::Left,
            Fault::Unreached { .. } => Kind::Unreached,
            Fault::BeyondLog { .. } => Kind::BeyondLog,
            Fault::TopicId { .. } => Kind::TopicId,
            Fault::Count { .. } => Kind::Count,
        }
    }

    /// The range that archiving again would mend: nobody vouches for it, or an object of its batch is not as vouched for.
    pub fn redo(&self) -> Option<OffsetRange> {
        let mends = match &self.fault {
            Fault::Gap | Fault::Unfinished => true,
            // Archiving the batch again does not replay its dead letters.
            Fault::Missing { .. } | Fault::Size { .. } | Fault::Checksum { .. } => {
                // Archiving a batch again does not make an object of many.
                self.replay.is_none() && self.compaction.is_none()
            }
            Fault::Unreadable { newer, .. } => !newer && self.replay.is_none() && self.compaction.is_none(),
            Fault::Overlap { .. }
            | Fault::Doubled { .. }
            | Fault::Returned { .. }
            | Fault::Unvouched { .. }
            | Fault::Unbalanced { .. }
            // No other job may have its offsets.
            | Fault::Left { .. }
            | Fault::Unreached { .. }
            | Fault::BeyondLog { .. }
            | Fault::TopicId { .. }
            | Fault::Count { .. } => false,
            // Its bytes are what was uploaded: the same would be uploaded again.
            Fault::Rows { .. } => false,
        };
        let range = OffsetRange::new(self.first, self.end.filter(|_| mends)?);
        (range.first < range.end).then_some(range)
    }

    /// What is wrong, in a sentence without place and range.
    pub fn what(&self) -> String {
        let what = self.what_alone();
        match (&self.compaction, &self.fault) {
            (Some(name), Fault::Missing { .. } | Fault::Size { .. } | Fault::Checksum { .. } | Fault::Rows { .. }) => {
                format!(
                    "{what}. Compaction {name} made it of several: while Kafka holds its records, siltstone compact --undo {name} and siltstone \
                     backfill --missing make the old ones again"
                )
            }
            (Some(name), Fault::Returned { .. }) => format!("{what} (compaction {name})"),
            (Some(name), Fault::Unreadable { newer: false, .. }) => format!(
                "{what}. It is a document of compaction {name}: restore it, or move it away, and siltstone compact writes it again from its claim; never \
                 archive anything again for it"
            ),
            _ => what,
        }
    }

    fn what_alone(&self) -> String {
        match &self.fault {
            Fault::Gap => "no receipt covers these offsets".to_string(),
            Fault::Overlap { other } => format!("the receipt of {other} covers these offsets, too"),
            Fault::Missing { bytes } => format!("its receipt says that it has {bytes} bytes, and it is not there"),
            Fault::Size { expected, found } => format!("it has {found} bytes, its receipt says {expected}"),
            Fault::Checksum { expected, found } => format!("its SHA-256 is {found}, its receipt says {expected}"),
            Fault::Rows { expected, found: Ok(found) } => format!("it has {found} rows, its receipt says {expected}"),
            Fault::Rows { expected, found: Err(why) } => {
                format!("its rows cannot be counted, its receipt says {expected}: {why}")
            }
            Fault::Doubled { beside } => format!("its rows are counted twice: beside it is {beside}"),
            Fault::Returned { bytes } => {
                format!("a compaction replaced and deleted it, and it is there again with {bytes} bytes")
            }
            Fault::Unvouched { bytes, why } => format!("nobody vouches for it ({bytes} bytes): {why}"),
            Fault::Unbalanced { output, what } => format!("output {output}: {what}"),
            Fault::Unreadable { what, .. } => what.clone(),
            Fault::Unfinished => "it was claimed, has no receipt, and other batches follow".to_string(),
            Fault::Left { job } => format!(
                "it was claimed and has no receipt, and its job was left: of the backfill {job}, which has not ended, nothing was written for a day"
            ),
            Fault::Unreached { objects } => {
                format!("receipts name {objects} objects at a destination that the configuration does not have")
            }
            Fault::BeyondLog { log_end } => format!("Kafka's log ends at {log_end}"),
            Fault::TopicId { expected, found } => format!("its topic had the id {expected}, and now it is {found}"),
            Fault::Count { consumed, found } => format!("Kafka gives {found} records, the receipt says {consumed}"),
        }
    }

    /// The object of `--json`.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        let mut add = |name: &str, value: Value| drop(fields.insert(name.to_string(), value));
        add("kind", json!(self.kind().word()));
        add("archive", json!(&*self.archive));
        add("topic", json!(&*self.partition.topic));
        add("partition", json!(self.partition.partition));
        add("first", json!(self.first));
        add("end", json!(self.end));
        if let Some((destination, key)) = &self.place {
            add("destination", json!(destination));
            add("key", json!(key));
        }
        if let Some(n) = self.replay {
            add("replay", json!(n));
        }
        if let Some(name) = &self.compaction {
            add("compaction", json!(&**name));
        }
        match &self.fault {
            Fault::Gap | Fault::Unfinished | Fault::Doubled { .. } => {}
            Fault::Overlap { other } => add("other", json!(other)),
            Fault::Missing { bytes } | Fault::Returned { bytes } | Fault::Unvouched { bytes, .. } => {
                add("bytes", json!(bytes))
            }
            Fault::Size { expected, found } => {
                add("expected", json!(expected));
                add("found", json!(found));
            }
            Fault::Checksum { expected, found } | Fault::TopicId { expected, found } => {
                add("expected", json!(expected));
                add("found", json!(found));
            }
            Fault::Rows { expected, found } => {
                add("expected", json!(expected));
                add("found", json!(found.as_ref().ok()));
            }
            Fault::Unbalanced { output, .. } => add("output", json!(output)),
            Fault::Unreadable { newer, .. } => add("newer", json!(newer)),
            Fault::Left { job } => add("job", json!(job)),
            Fault::Unreached { objects } => add("objects", json!(objects)),
            Fault::BeyondLog { log_end } => add("log_end", json!(log_end)),
            Fault::Count { consumed, found } => {
                add("expected", json!(consumed));
                add("found", json!(found));
            }
        }
        add("what", json!(self.what()));
        add("do", json!(self.kind().advice()));
        Value::Object(fields)
    }
}

impl fmt::Display for Finding {
    /// One line for a person: kind, where, what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.end.map_or("?".to_string(), |end| end.to_string());
        write!(f, "{:<11} {} [{}, {end})", self.kind().word(), self.partition, self.first)?;
        if let Some((destination, key)) = &self.place {
            write!(f, " {destination}/{key}")?;
        }
        write!(f, ": {}", self.what())
    }
}

/// Something that is told and is no fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// A word for it.
    pub note: &'static str,
    /// Archive.
    pub archive: Arc<str>,
    /// Topic and Kafka partition, where it is of one.
    pub of: Option<String>,
    /// A sentence.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(fault: Fault, end: Option<i64>, replay: Option<u32>) -> Finding {
        let partition = TopicPartition::new("t", 3);
        Finding { archive: "a".into(), partition, first: 10, end, place: None, replay, compaction: None, fault }
    }

    #[test]
    fn what_archiving_again_mends() {
        let range = Some(OffsetRange::new(10, 20));
        let unreadable = |newer| Fault::Unreadable { what: String::new(), newer };
        for (fault, end, replay, expected) in [
            (Fault::Gap, Some(20), None, range),
            (Fault::Gap, Some(10), None, None),
            (Fault::Unfinished, Some(20), None, range),
            (Fault::Left { job: String::new() }, Some(20), None, None),
            (Fault::Missing { bytes: 1 }, Some(20), None, range),
            (Fault::Missing { bytes: 1 }, Some(20), Some(1), None),
            (Fault::Size { expected: 1, found: 2 }, Some(20), None, range),
            (Fault::Rows { expected: 1, found: Ok(2) }, Some(20), None, None),
            (Fault::Returned { bytes: 1 }, Some(20), None, None),
            (unreadable(false), Some(20), None, range),
            (unreadable(false), None, None, None),
            (unreadable(true), Some(20), None, None),
            (Fault::Unvouched { bytes: 1, why: "" }, Some(20), None, None),
            (Fault::Count { consumed: 1, found: 2 }, Some(20), None, None),
        ] {
            assert_eq!(finding(fault.clone(), end, replay).redo(), expected, "{fault:?}");
        }
    }

    #[test]
    fn a_finding_is_a_line_or_an_object() {
        let mut size = finding(Fault::Size { expected: 5, found: 4 }, Some(20), None);
        size.place = Some(("s3://b".to_string(), "t/x".to_string()));
        assert_eq!(size.to_string(), "size        t/3 [10, 20) s3://b/t/x: it has 4 bytes, its receipt says 5");
        let expected = json!({
            "kind": "size", "archive": "a", "topic": "t", "partition": 3, "first": 10, "end": 20, "destination": "s3://b",
            "key": "t/x", "expected": 5, "found": 4, "what": "it has 4 bytes, its receipt says 5", "do": Kind::Size.advice(),
        });
        assert_eq!(size.to_json(), expected);
        let words: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).expect("a word"), json!(kind.word()));
        }
    }
}
