//! What is in a folder, as receipts tell it. Pure.

use crate::bucket::completions::{COMPLETED_VERSION, Completed};
use crate::bucket::receipt::ReceiptObject;
use crate::upload::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// A folder of an output at a destination: what is completed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FolderId {
    /// Output.
    pub output: String,
    /// Destination id.
    pub destination: String,
    /// The folder: the rendered `path`.
    pub folder: String,
}

impl FolderId {
    /// The folder that `object` lies in.
    pub fn of(object: &ReceiptObject) -> Self {
        Self { output: object.output.clone(), destination: object.destination.clone(), folder: object.folder.clone() }
    }

    /// 32 hex digits: the beginning of the SHA-256 of the three, each with its length.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for part in [&self.output, &self.destination, &self.folder] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
        hex(&digest.finalize())[..32].to_string()
    }
}

impl fmt::Display for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} (output {})", self.destination, self.folder, self.output)
    }
}

/// Offsets `[first, end)` of a Kafka partition, from the first batch with an object in a folder to the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, i64)", into = "(i64, i64)")]
pub struct Covered {
    /// First offset.
    pub first: i64,
    /// One past the last offset.
    pub end: i64,
}

impl From<(i64, i64)> for Covered {
    fn from((first, end): (i64, i64)) -> Self {
        Self { first, end }
    }
}

impl From<Covered> for (i64, i64) {
    fn from(covered: Covered) -> Self {
        (covered.first, covered.end)
    }
}

impl Covered {
    /// Both, and what is between them.
    pub fn hull(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), end: self.end.max(other.end) }
    }

    fn holds(self, other: Self) -> bool {
        self.first <= other.first && other.end <= self.end
    }
}

/// Counts of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows, as far as receipts tell.
    pub rows: u64,
    /// Objects whose rows no receipt tells.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: u64,
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.uncounted += other.uncounted;
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// What batches of one Kafka partition put into a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Of which offsets.
    pub covered: Covered,
    /// How much.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What batches put into a folder that was not complete when they were looked at, or was and is changed by them. Memory: some 64 bytes for each
/// Kafka partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The first instant behind the window; `None` where it is not known: then it is never complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_end_ms: Option<i64>,
    /// Smallest event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_min_ms: Option<i64>,
    /// Largest event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_max_ms: Option<i64>,
    /// By Kafka partition.
    pub parts: BTreeMap<i32, Part>,
}

/// How a [`Tally`] stands to the newest revision of its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The revision covers all of it.
    Covered,
    /// This is what it would be with it.
    Beyond(Box<Completed>),
    /// They share some offsets, and nobody knows which of the objects are counted in both: what lies outside is to be counted anew.
    Mixed,
}

impl Tally {
    /// Adds an object that the batch `covered` of Kafka partition `number` put. Batches come in the order of their offsets.
    pub fn add(&mut self, number: i32, covered: Covered, object: &ReceiptObject, window_end_ms: Option<i64>) {
        self.window_end_ms = self.window_end_ms.max(window_end_ms);
        self.event_min_ms = least(self.event_min_ms, object.event_min_ms);
        self.event_max_ms = self.event_max_ms.max(object.event_max_ms);
        let counts = Counts {
            rows: object.rows.unwrap_or(0),
            uncounted: u64::from(object.rows.is_none()),
            objects: 1,
            bytes: object.bytes,
        };
        let part = self.parts.entry(number).or_insert(Part { covered, counts: Counts::default() });
        part.covered = part.covered.hull(covered);
        part.counts.add(counts);
    }

    /// Rows, as far as receipts tell, and objects.
    pub fn sums(&self) -> (u64, u64) {
        let counts = self.parts.values().map(|part| (part.counts.rows, part.counts.objects));
        counts.fold((0, 0), |(rows, objects), (more, others)| (rows + more, objects + others))
    }

    /// How it stands to `known`, the newest revision.
    pub fn standing(&self, known: &Completed, watermark_ms: i64) -> Standing {
        let mut beyond = Self { parts: BTreeMap::new(), ..self.clone() };
        for (&number, part) in &self.parts {
            match known.covers(number) {
                Some(known) if known.holds(part.covered) => {}
                Some(known) if part.covered.first < known.end => return Standing::Mixed,
                _ => drop(beyond.parts.insert(number, *part)),
            }
        }
        match beyond.parts.is_empty() {
            true => Standing::Covered,
            false => Standing::Beyond(Box::new(beyond.added_to(known, watermark_ms))),
        }
    }

    /// What of each Kafka partition `known` does not cover: up to two ranges.
    pub fn outside(&self, known: &Completed) -> Vec<(i32, Covered)> {
        let of = |(&number, part): (&i32, &Part)| {
            let all = part.covered;
            let ranges = match known.covers(number) {
                None => [Some(all), None],
                Some(known) => [
                    Some(Covered { first: all.first, end: known.first }),
                    Some(Covered { first: all.first.max(known.end), end: all.end }),
                ],
            };
            ranges.into_iter().flatten().filter(|range| range.first < range.end).map(move |range| (number, range))
        };
        self.parts.iter().flat_map(of).collect()
    }

    /// `known` with all of this, which it covers nothing of.
    pub fn added_to(&self, known: &Completed, watermark_ms: i64) -> Completed {
        let mut next = known.clone();
        for (&number, part) in &self.parts {
            let covered = known.covers(number).map_or(part.covered, |known| known.hull(part.covered));
            next.covered.insert(number.to_string(), covered);
            count(&mut next, part.counts);
        }
        next.revision = known.revision.saturating_add(1);
        self.tell_times(&mut next, watermark_ms);
        next
    }

    /// The folder as it is complete, at `revision`.
    pub fn completed(&self, of: &Whose<'_>, id: &FolderId, revision: u32, watermark_ms: i64) -> Completed {
        let mut completed = Completed {
            version: COMPLETED_VERSION,
            archive: of.archive.to_string(),
            generation: of.generation,
            topic: of.topic.to_string(),
            id: id.clone(),
            revision,
            window_end_ms: i64::MIN,
            rows: 0,
            uncounted: 0,
            objects: 0,
            bytes: 0,
            event_min_ms: None,
            event_max_ms: None,
            watermark_ms,
            covered: BTreeMap::new(),
        };
        for (number, part) in &self.parts {
            completed.covered.insert(number.to_string(), part.covered);
            count(&mut completed, part.counts);
        }
        self.tell_times(&mut completed, watermark_ms);
        completed
    }

    fn tell_times(&self, completed: &mut Completed, watermark_ms: i64) {
        completed.window_end_ms = completed.window_end_ms.max(self.window_end_ms.unwrap_or(i64::MIN));
        completed.event_min_ms = least(completed.event_min_ms, self.event_min_ms);
        completed.event_max_ms = completed.event_max_ms.max(self.event_max_ms);
        completed.watermark_ms = completed.watermark_ms.max(watermark_ms);
    }
}

/// Whose folders are completed.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// Name of the archive.
    pub archive: &'a str,
    /// Its generation.
    pub generation: u32,
    /// Topic.
    pub topic: &'a str,
}

fn count(completed: &mut Completed, counts: Counts) {
    completed.rows += counts.rows;
    completed.uncounted += counts.uncounted;
    completed.objects += counts.objects;
    completed.bytes += counts.bytes;
}

fn least(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(rows: u64, event_ms: i64) -> ReceiptObject {
        ReceiptObject {
            output: "json".into(),
            destination: "s3://b".into(),
            key: "t/h/x".into(),
            folder: "t/h".into(),
            records: Some(rows),
            rows: Some(rows),
            bytes: rows * 10,
            sha256: None,
            event_min_ms: Some(event_ms),
            event_max_ms: Some(event_ms),
            kept: None,
        }
    }

    fn tally(parts: &[(i32, i64, i64, u64)]) -> Tally {
        let mut tally = Tally::default();
        for &(number, first, end, rows) in parts {
            tally.add(number, Covered { first, end }, &object(rows, first), Some(1_000));
        }
        tally
    }

    const OF: Whose<'_> = Whose { archive: "a", generation: 1, topic: "t" };

    fn completed(parts: &[(i32, i64, i64, u64)]) -> Completed {
        tally(parts).completed(&OF, &FolderId::of(&object(1, 1)), 1, 2_000)
    }

    /// Goal: what a revision covers is not counted again, what is behind it is, and an overlap is never guessed at.
    #[test]
    fn a_tally_is_covered_beyond_or_mixed() {
        let known = completed(&[(0, 0, 10, 3), (0, 10, 20, 4), (1, 5, 9, 1)]);
        assert_eq!((known.rows, known.objects, known.bytes, known.revision), (8, 3, 80, 1));
        assert_eq!(tally(&[(0, 10, 20, 4)]).standing(&known, 0), Standing::Covered);
        assert_eq!(tally(&[(0, 10, 20, 4), (0, 20, 30, 1)]).standing(&known, 0), Standing::Mixed);
        assert_eq!(tally(&[(1, 0, 9, 4)]).standing(&known, 0), Standing::Mixed);
        let Standing::Beyond(next) = tally(&[(0, 10, 20, 4), (1, 9, 12, 2), (2, 7, 8, 5)]).standing(&known, 3_000)
        else {
            panic!("beyond")
        };
        assert_eq!((next.revision, next.rows, next.objects, next.watermark_ms), (2, 15, 5, 3_000));
        assert_eq!((next.covers(0), next.covers(1)), (known.covers(0), Some(Covered { first: 5, end: 12 })));
        assert_eq!((next.event_min_ms, next.event_max_ms, next.window_end_ms), (Some(0), Some(10), 1_000));
    }

    #[test]
    fn objects_that_nobody_counted_are_told() {
        let mut tally = Tally::default();
        tally.add(0, Covered { first: 0, end: 1 }, &ReceiptObject { rows: None, ..object(1, 1) }, None);
        let completed = tally.completed(&OF, &FolderId::of(&object(1, 1)), 1, 0);
        assert_eq!((completed.rows, completed.uncounted, completed.objects), (0, 1, 1));
    }

    /// Goal: the stored forms stay.
    #[test]
    fn stored_forms_are_read_for_ever() {
        let text = r#"{"version":1,"archive":"a","generation":1,"topic":"t","output":"json","destination":"s3://b","folder":"t/h","revision":3,
            "window_end_ms":1000,"rows":8,"objects":3,"bytes":80,"event_min_ms":0,"event_max_ms":10,"watermark_ms":2000,
            "covered":{"0":[0,20],"1":[5,9]},"later":true}"#;
        let read: Completed = serde_json::from_str(text).expect("version 1");
        assert_eq!(read, Completed { revision: 3, ..completed(&[(0, 0, 10, 3), (0, 10, 20, 4), (1, 5, 9, 1)]) });
        let again: Completed =
            serde_json::from_str(&serde_json::to_string(&read).expect("text")).expect("what we write");
        assert_eq!(again, read);
        let tally = tally(&[(0, 0, 10, 3)]);
        let text = serde_json::to_string(&tally).expect("text");
        assert_eq!(serde_json::from_str::<Tally>(&text).expect("what we write"), tally);
    }

    #[test]
    fn parts_of_an_id_do_not_run_together() {
        let id = |output: &str, destination: &str, folder: &str| FolderId {
            output: output.into(),
            destination: destination.into(),
            folder: folder.into(),
        };
        assert_ne!(id("a", "bc", "d").digest(), id("ab", "c", "d").digest());
        assert_eq!(id("a", "b", "c").digest().len(), 32);
    }
}
