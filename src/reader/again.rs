//! Going on where objects gave way to others: which rows were given under which names, and which of an object's rows are left.
//!
//! A compaction puts objects one behind the other, so the rows of its object are those of its inputs, in their order: its receipt says how many
//! each has. An input may have been made by an earlier compaction of the same unit. So what was given of any of them tells exactly which rows
//! of the new one were.
//!
//! # Memory
//! Some 80 bytes for each object that was given, but for those of batches that everything was given of.

use super::plan::Chosen;
use crate::bucket::compactions::{CompactionId, Group, ListedCompaction};
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
use crate::ledger::Site;
use crate::ledger::live::counting;
use crate::record::OffsetRange;
use crate::verify::table::{Digest, digest};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// The compactions of a Kafka partition, as a listing shows them.
pub type ListedCompactions = BTreeMap<CompactionId, ListedCompaction>;

/// What was given of one Kafka partition.
#[derive(Debug)]
pub struct Given {
    /// All that is meant of batches that begin before it.
    before: i64,
    objects: HashMap<Digest, Rows>,
}

#[derive(Debug)]
struct Rows {
    /// So many, from the first one on.
    count: u64,
    /// One past the last offset of its batches.
    end: i64,
    compaction: Option<CompactionId>,
}

/// An object, and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its key.
    pub key: String,
    /// Of its batch, or from the first to the last of those whose rows it has.
    pub range: OffsetRange,
    /// Its rows. Of one that was made of nothing else perhaps more than it has.
    pub rows: u64,
    /// The objects whose rows it has, one behind the other; none: it was made of records.
    pub inputs: Vec<Made>,
}

impl Given {
    /// All of batches that begin before that offset.
    pub fn before(before: i64) -> Self {
        Self { before, objects: HashMap::new() }
    }

    /// Adds the first `rows` rows of an object; [`u64::MAX`]: all of it.
    pub fn add(&mut self, chosen: &Chosen, rows: u64) {
        if rows > 0 {
            let of = Rows { count: rows, end: chosen.range.end, compaction: chosen.compaction.clone() };
            self.objects.insert(place(&chosen.object.key), of);
        }
    }

    /// All of batches that begin before `batch` was given. What ends there needs no entry of its own any more.
    pub fn pass(&mut self, batch: i64) {
        if batch > self.before {
            self.before = batch;
            self.objects.retain(|_, rows| rows.end > batch);
        }
    }

    /// First offset from which on something may be left.
    pub fn from(&self) -> i64 {
        self.before
    }

    /// The compactions whose objects were given, as far as they reach over [`Given::from`].
    pub fn compactions(&self) -> impl Iterator<Item = &CompactionId> {
        self.objects.values().filter_map(|rows| rows.compaction.as_ref())
    }

    /// The rows of `object` that are left of what is meant of `offsets`: ranges of their numbers, in order. The last one has no end where it
    /// reaches to the object's.
    pub fn left(&self, object: &Made, offsets: OffsetRange) -> Vec<Range<u64>> {
        let mut left = Vec::new();
        self.collect(object, offsets, (0, 0), &mut left);
        if let Some(last) = left.last_mut().filter(|last| last.end == object.rows) {
            last.end = u64::MAX;
        }
        left
    }

    /// `begin`: number of the first row of `of`; rows below `given` were given.
    fn collect(&self, of: &Made, offsets: OffsetRange, (begin, given): (u64, u64), left: &mut Vec<Range<u64>>) {
        let own = self.objects.get(&place(&of.key)).map_or(0, |rows| rows.count);
        let given = given.max(begin.saturating_add(own));
        if !of.inputs.is_empty() {
            let mut begin = begin;
            for input in &of.inputs {
                self.collect(input, offsets, (begin, given), left);
                begin = begin.saturating_add(input.rows);
            }
            return;
        }
        let is_meant = of.range.first < offsets.end && offsets.first < of.range.end;
        if of.range.first < self.before || !is_meant {
            return;
        }
        let rows = begin.max(given)..begin.saturating_add(of.rows);
        match left.last_mut() {
            _ if rows.is_empty() => {}
            Some(last) if last.end == rows.start => last.end = rows.end,
            _ => left.push(rows),
        }
    }
}

/// Objects of one Kafka partition differ in their keys, wherever they lie.
fn place(key: &str) -> Digest {
    digest("", key)
}

impl Made {
    /// An object of which nobody asks what it was made of.
    pub fn alone(chosen: &Chosen) -> Self {
        let range = OffsetRange::new(chosen.batch, chosen.range.end.max(chosen.batch.saturating_add(1)));
        Self { key: chosen.object.key.clone(), range, rows: u64::MAX, inputs: Vec::new() }
    }

    /// The same with what it was made of: reads the receipts of the compactions of its unit up to its own that may have made it or what it has taken
    /// in, from its own on.
    ///
    /// # Errors
    /// A store that refuses or does not answer. [`Exit::Stopped`]: a receipt is damaged, or gone.
    pub async fn read(
        site: &Site<'_>,
        clock: &dyn Clock,
        listed: &ListedCompactions,
        chosen: &Chosen,
    ) -> Result<Self, Failure> {
        let Some((unit, number)) = &chosen.compaction else { return Ok(Self::alone(chosen)) };
        let (partition, key) = (&chosen.partition, &chosen.object.key);
        let mut groups: HashMap<String, Group> = HashMap::new();
        // Objects of which it is not known yet what they were made of, if of others.
        let mut unknown = HashMap::from([(key.clone(), chosen.range)]);
        for (id, documents) in listed.range((unit.clone(), 0)..=(unit.clone(), *number)).rev() {
            let may_have_made = |range: OffsetRange| {
                unknown.values().any(|object| range.first < object.end && object.first < range.end)
            };
            if !documents.receipt.is_some_and(may_have_made) {
                continue;
            }
            // What was taken back since says still what it was.
            let documents = ListedCompaction { undone: false, ..*documents };
            let read = counting(&site.bucket, clock, partition, id, &documents).await?;
            let receipt = read.map_err(|why| Failure::new(Exit::Stopped, format!("{partition}: {why}")))?;
            let receipt = receipt.filter(|receipt| !receipt.given_up);
            for group in receipt.into_iter().flat_map(|receipt| receipt.compaction.groups) {
                if unknown.remove(&group.key).is_some() {
                    let inputs = group.inputs.iter();
                    unknown.extend(inputs.map(|input| (input.key.clone(), OffsetRange::new(input.first, input.end))));
                    groups.insert(group.key.clone(), group);
                }
            }
        }
        let made = groups.get(key).map(|group| Self::of(group, &groups));
        made.filter(Self::adds_up).ok_or_else(|| {
            let what = format!("{partition}: the receipts of compactions do not say which rows {key} was made of");
            Failure::new(Exit::Stopped, what)
        })
    }

    fn of(group: &Group, groups: &HashMap<String, Group>) -> Self {
        let input = |input: &crate::bucket::compactions::Input| match groups.get(&input.key) {
            Some(made) if made.key != group.key => Self::of(made, groups),
            _ => Self {
                key: input.key.clone(),
                range: OffsetRange::new(input.first, input.end),
                rows: input.rows,
                inputs: Vec::new(),
            },
        };
        let inputs = group.inputs.iter().map(input).collect();
        Self { key: group.key.clone(), range: group.range(), rows: group.rows, inputs }
    }

    fn adds_up(&self) -> bool {
        let rows: u64 = self.inputs.iter().map(|input| input.rows).sum();
        self.inputs.is_empty() || (rows == self.rows && self.inputs.iter().all(Self::adds_up))
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::ALL_OFFSETS;
    use super::*;
    use crate::bucket::Bucket;
    use crate::bucket::compactions::{Compaction, CompactionReceipt, compaction_receipt_key};
    use crate::bucket::receipt::ReceiptObject;
    use crate::clock::ManualClock;
    use crate::destination::{Destination, StoreKind};
    use crate::record::TopicPartition;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::Arc;

    fn chosen(key: &str, (first, end): (i64, i64)) -> Chosen {
        let object = ReceiptObject {
            output: "o".into(),
            destination: "d".into(),
            key: key.into(),
            folder: String::new(),
            records: None,
            rows: None,
            bytes: 0,
            sha256: None,
            event_min_ms: None,
            event_max_ms: None,
            kept: None,
        };
        Chosen {
            partition: TopicPartition::new("t", 0),
            range: OffsetRange::new(first, end),
            batch: first,
            fingerprint: String::new(),
            object,
            destinations: Vec::new(),
            replay: None,
            is_dense: false,
            compaction: None,
            to: None,
        }
    }

    fn leaf(number: i64, rows: u64) -> Made {
        let range = OffsetRange::new(number * 10, number * 10 + 10);
        Made { key: number.to_string(), range, rows, inputs: Vec::new() }
    }

    fn joined(key: &str, inputs: Vec<Made>) -> Made {
        let range = OffsetRange::new(inputs[0].range.first, inputs[inputs.len() - 1].range.end);
        Made { key: key.into(), range, rows: inputs.iter().map(|input| input.rows).sum(), inputs }
    }

    proptest! {
        /// Goal: whatever was given of an object's inputs, and of those of an earlier compaction among them, exactly the other rows are left.
        #[test]
        fn what_was_given_is_not_left(
            inputs in prop::collection::vec((0..4_u64, prop_oneof![4 => 0..5_u64, 1 => Just(u64::MAX)]), 2..7),
            split in 1..6_usize,
            of_earlier in prop_oneof![4 => 0..9_u64, 1 => Just(u64::MAX)],
            before in 0..50_i64,
            to in 0..80_i64,
        ) {
            let split = split.min(inputs.len() - 1);
            let leaves: Vec<Made> = (0..).zip(&inputs).map(|(number, &(rows, _))| leaf(number, rows)).collect();
            let earlier = joined("c1", leaves[..split].to_vec());
            let all = joined("c2", std::iter::once(earlier.clone()).chain(leaves[split..].to_vec()).collect());
            let mut given = Given::before(before);
            for (leaf, &(_, count)) in leaves.iter().zip(&inputs) {
                given.add(&chosen(&leaf.key, (leaf.range.first, leaf.range.end)), count);
            }
            given.add(&chosen("c1", (0, earlier.range.end)), of_earlier);
            let offsets = OffsetRange::new(0, to);
            let left = given.left(&all, offsets);
            let (mut number, mut expected) = (0, Vec::new());
            for (leaf, &(rows, count)) in leaves.iter().zip(&inputs) {
                for row in 0..rows {
                    let is_meant = leaf.range.first >= before && leaf.range.first < to;
                    if is_meant && row >= count && number >= of_earlier.min(earlier.rows) {
                        expected.push(number);
                    }
                    number += 1;
                }
            }
            let found: Vec<u64> = (0..all.rows).filter(|row| left.iter().any(|range| range.contains(row))).collect();
            prop_assert_eq!(found, expected, "{:?}", left);
            prop_assert!(left.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", left);
        }
    }

    #[test]
    fn what_lies_behind_needs_no_entry() {
        let mut given = Given::before(0);
        given.add(&chosen("0", (0, 10)), u64::MAX);
        given.add(&chosen("1", (10, 20)), 0);
        given.add(&Chosen { compaction: Some(("u".into(), 3)), ..chosen("c", (0, 30)) }, 7);
        given.pass(10);
        assert_eq!((given.objects.len(), given.from(), given.compactions().count()), (1, 10, 1));
        assert_eq!(given.left(&joined("x", vec![leaf(0, 5), leaf(1, 5)]), ALL_OFFSETS), vec![5..u64::MAX]);
        assert_eq!(given.left(&Made::alone(&chosen("1", (10, 20))), ALL_OFFSETS), vec![0..u64::MAX]);
        assert_eq!(given.left(&Made::alone(&chosen("0", (0, 10))), ALL_OFFSETS), vec![]);
    }

    const AT: &str = "memory:///";

    /// Number `n` of a unit: what it makes `key` of.
    fn compaction(n: u32, key: &str, inputs: &[Made]) -> Compaction {
        let rows: u64 = inputs.iter().map(|input| input.rows).sum();
        let ranges = inputs.iter().map(|input| (input.range.first, input.range.end));
        let input = |Made { key, range: OffsetRange { first, end }, rows, .. }: &Made| json!({"key": key, "first": first, "end": end, "rows": rows, "bytes": 1, "sha256": ""});
        let group = json!({
            "destinations": [AT], "fingerprint": "f", "inputs": inputs.iter().map(input).collect::<Vec<_>>(),
            "batches": ranges.collect::<Vec<_>>(), "key": key, "rows": rows, "bytes": 1, "sha256": "",
            "proof": {"by": "bytes", "rows": rows, "inputs": "", "object": ""},
        });
        let claim = json!({
            "version": 1, "topic": "t", "partition": 0, "generation": 1, "archive": "a", "output": "o", "folder": "f",
            "unit": "a".repeat(32), "n": n, "groups": [group],
        });
        serde_json::from_value(claim).expect("a claim")
    }

    /// Goal: what an object was made of is told by the claim of a compaction whose receipt is damaged, once its old objects are deleted, be it taken back or
    /// not; before that nobody knows. Method: a compaction that takes in what another one has made.
    #[tokio::test]
    async fn a_claim_tells_of_a_damaged_receipt_once_it_is_done() {
        let text = "[kafka]\nbrokers = \"k\"\n[spool]\ndir = \"/tmp/x\"\n[destinations.main]\nurl = \"s3://b/p\"\n\
                    [[archive]]\ntopics = [\"t\"]\n[[archive.output]]\nformat = \"json\"\n";
        let config = crate::config::parse(text, std::path::Path::new("/"), &|_| None);
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        let (clock, partition) = (ManualClock::at(0), TopicPartition::new("t", 0));
        let earlier = joined("c1", vec![leaf(0, 3), leaf(1, 4)]);
        let later = joined("c2", vec![earlier.clone(), leaf(2, 5)]);
        let claims = [compaction(1, "c1", &earlier.inputs), compaction(2, "c2", &later.inputs)];
        let chosen = Chosen { compaction: Some(claims[1].id()), ..chosen("c2", (0, 30)) };
        let cases = [(None, false), (Some(0), true), (Some(1), true), (Some(0), false), (Some(1), false)];
        for (damaged, is_done, is_undone) in
            cases.into_iter().flat_map(|(damaged, is_done)| [(damaged, is_done, false), (damaged, is_done, true)])
        {
            let store = Arc::new(InMemory::new());
            let main = Arc::new(Destination::from_store("main", AT, store.clone(), StoreKind::Memory));
            let (archive, bucket) = (&config.archives[0], Bucket::new(main));
            for claim in &claims {
                bucket.claim_compaction(claim).await.expect("claimed");
                let (compaction, writer) = (claim.clone(), String::new());
                let receipt = CompactionReceipt { compaction, writer, written_ms: None, given_up: false };
                assert!(bucket.put_compaction_receipt(&receipt).await.expect("written"));
                if is_done {
                    bucket.end_compaction(&partition, &claim.id(), 0).await.expect("written");
                }
                if is_undone {
                    bucket.undo_compaction(&partition, &claim.id(), 0).await.expect("written");
                }
            }
            if let Some(damaged) = damaged {
                let claim: &Compaction = &claims[damaged];
                let key = compaction_receipt_key(&partition, bucket.generation(), &claim.id(), claim.range());
                store.put(&key.into(), "no JSON".into()).await.expect("put");
            }
            let site = Site { archive, bucket, partitions: vec![partition.clone()] };
            let listed = site.bucket.listed_compactions(&partition).await.expect("listed");
            let made = Made::read(&site, &clock, &listed, &chosen).await;
            let what = format!("{damaged:?} {is_done} {is_undone}: {made:?}");
            if damaged.is_none() || is_done {
                assert_eq!(made.ok().as_ref(), Some(&later), "{what}");
            } else {
                assert!(made.is_err_and(|failure| failure.exit == Exit::Stopped), "{what}");
            }
        }
    }
}
