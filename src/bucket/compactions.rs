//! Claims and receipts of compactions: which objects gave way to which, for ever.
//!
//! All in one folder per Kafka partition, `_siltstone/compactions/v1/{topic}/{partition:05}/`:
//!
//! | name | what |
//! |---|---|
//! | `{unit}.{n}.claim` | what is to become of which objects, created only if absent, before the first upload |
//! | `{unit}.{n}.{first:020}-{end:020}.json` | the receipt: the new objects are there, and the old ones count no more; or that the claim is given up |
//! | `{unit}.{n}.done` | the old objects are deleted: from here on there was a receipt, whatever became of that document |
//! | `{unit}.{n}.undone` | it was taken back: the old objects count again, the new ones no more |
//!
//! A unit is what can be compacted into one object: one output's objects of a Kafka partition whose names tell the same but for offsets,
//! which implies one folder. `unit` is the begin of the SHA-256 of that; `n` counts its compactions from 1.
//!
//! - **K-5** Compactions of one unit have the numbers 1, 2, 3, … without a gap, and each is claimed only when the one before has its receipt or
//!   was taken back. So no object is ever an input of two that count. A claim without groups makes nothing: whoever takes a unit back holds its next
//!   number with it meanwhile, so that nobody makes something of objects that are about to count no more. Several may hold a unit, each with a number of
//!   its own; nobody but they claims a number of it until each hold is given up.
//! - **K-6** The receipt is the switch: until it is there the inputs count, from then on the objects that it names. To take it back is one more
//!   document. At any time exactly one of the two sets counts. A claim that is given up gets its receipt, too, which says so: as both are created
//!   only if absent and under one name, nobody deletes what a claim named that somebody else gives up.
//!
//! # The documents, version 1
//! ```json
//! {
//!   "version": 1, "topic": "access", "partition": 3, "generation": 1, "archive": "access", "output": "json",
//!   "folder": "access/dt=2025-11-21/hr=03", "unit": "5f0c…", "n": 1,
//!   "groups": [{
//!     "destinations": ["s3://logs/prod"], "fingerprint": "…", "schema": "…", "target": "7", "to": "parquet",
//!     "inputs": [{"key": "…", "first": 1000, "end": 2000, "rows": 980, "bytes": 51234, "sha256": "…"}],
//!     "batches": [[1000, 2000]],
//!     "key": "…+compact-1.json.gz", "records": 980, "rows": 980, "bytes": 50000, "sha256": "…",
//!     "event_min_ms": 1763694000000, "event_max_ms": 1763694999000,
//!     "proof": {"by": "bytes", "rows": 980, "inputs": "…", "object": "…"}
//!   }]
//! }
//! ```
//! is a claim; the receipt has also `writer` and `written_ms`. Each group is one object: the rows of its inputs, one behind the other in that order. Inputs
//! and object lie at each of the destinations. `batches` are those whose rows it has. `to` is there where the format changed. The proof: `inputs` and
//! `object` are a SHA-256 over all rows in order, as read from the inputs and as read back from the new file. `by` is `bytes`: the two are equal;
//! or `values`: row by row the same JSON values, which is how a change of format is proven. A claim that holds a unit has no groups, and
//! `"hold": {"of": 1, "by": "9f…"}`: which compaction of the unit is taken back meanwhile, and by which process; earlier releases wrote it without that.
//! Readers accept fields they do not know and refuse versions they do not know.

use super::receipt::ReceiptObject;
use super::{Bucket, BucketError, CONTROL_FOLDER, Created, partition_folder, to_json};
use crate::effect::Effect;
use crate::record::{OffsetRange, TopicPartition};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the stored forms.
pub const COMPACTION_VERSION: u32 = 1;

/// Hex digits of a unit's name.
pub const UNIT_DIGITS: usize = 32;

/// What a compaction decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// [`COMPACTION_VERSION`] of the writer.
    pub version: u32,
    /// Topic.
    pub topic: String,
    /// Kafka partition.
    pub partition: i32,
    /// Generation of the archive.
    pub generation: u32,
    /// Name of the archive.
    pub archive: String,
    /// Output.
    pub output: String,
    /// The folder that all of it lies in.
    pub folder: String,
    /// The unit.
    pub unit: String,
    /// Which compaction of the unit, from 1.
    pub n: u32,
    /// The objects to be, by offset.
    pub groups: Vec<Group>,
    /// What it is made for, where it makes nothing; `None` there: an earlier release did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// What a claim that makes nothing is made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The compaction of the unit that is taken back, with what hangs together with it.
    pub of: u32,
    /// The process that does it: two that take the same back hold a number each.
    pub by: String,
}

/// Objects that become one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Ids of the destinations that have the inputs and get the object.
    pub destinations: Vec<String>,
    /// Fingerprint of the layout that wrote the inputs.
    pub fingerprint: String,
    /// Hash of the pinned schema of the output, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The schema in the registry that the rows are projected onto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What the object is, where it is not what its layout says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<To>,
    /// What gives way, in the order of its rows.
    pub inputs: Vec<Input>,
    /// Ranges of the batches whose rows it has, by offset.
    pub batches: Vec<(i64, i64)>,
    /// The object's key at each destination.
    pub key: String,
    /// Records inside, where all inputs tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Rows inside.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
    /// Smallest event time inside, milliseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_min_ms: Option<i64>,
    /// Largest event time inside, milliseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_max_ms: Option<i64>,
    /// That no row is another.
    pub proof: Proof,
}

/// The format that rows were given in place of the layout's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// Parquet, with the columns that all rows of the object have together.
    Parquet,
}

/// An object that gives way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its key at each destination.
    pub key: String,
    /// First offset of the batch (or of the first batch) that it is of.
    pub first: i64,
    /// One past the last offset of its (last) batch.
    pub end: i64,
    /// Rows inside.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
}

/// How it is known that the object has the rows of the inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// How rows were compared.
    pub by: ProofBy,
    /// Rows read on each side.
    pub rows: u64,
    /// SHA-256 over the rows of the inputs, hex.
    pub inputs: String,
    /// SHA-256 over the rows of the object as it was read back, hex.
    pub object: String,
}

/// How rows were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofBy {
    /// Byte for byte, as rows are read.
    Bytes,
    /// As JSON values.
    Values,
    /// As JSON values, where a field that is null counts as one that is not there.
    ValuesWithoutNulls,
}

/// A finished compaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionReceipt {
    /// What it decided, and did.
    #[serde(flatten)]
    pub compaction: Compaction,
    /// Version of the program.
    pub writer: String,
    /// Wall time of the writer, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_ms: Option<i64>,
    /// It never came to be: nothing of it counts, ever.
    #[serde(default, skip_serializing_if = "is_false")]
    pub given_up: bool,
}

fn is_false(of: &bool) -> bool {
    !of
}

/// Says that something of a compaction is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    version: u32,
    /// Wall time of the writer.
    at_ms: i64,
}

/// Which documents there are of a compaction, without reading them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListedCompaction {
    /// Its claim.
    pub claim: bool,
    /// Its receipt, and the offsets that its name tells.
    pub receipt: Option<OffsetRange>,
    /// The old objects are deleted.
    pub done: bool,
    /// It was taken back.
    pub undone: bool,
}

impl ListedCompaction {
    /// The range of its receipt, where its objects count.
    pub fn counts(&self) -> Option<OffsetRange> {
        self.receipt.filter(|_| !self.undone)
    }

    /// Whether it is claimed, and neither finished nor taken back.
    pub fn is_open(&self) -> bool {
        self.claim && self.receipt.is_none() && !self.undone
    }

    /// Whether it was finished, and lost its receipt: old objects were deleted on the word of one.
    pub fn has_lost_receipt(&self) -> bool {
        self.is_open() && self.done
    }
}

/// The name of a compaction: unit and number.
pub type CompactionId = (String, u32);

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactionOutcome {
    /// It is ours, and it is new.
    Created,
    /// It is there already: ours, by a request whose answer was lost, or another process's that decided just the same.
    Same,
    /// Another one is there: that one is to be finished first.
    Other,
}

impl Compaction {
    /// The Kafka partition.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.as_str(), self.partition)
    }

    /// Unit and number.
    pub fn id(&self) -> CompactionId {
        (self.unit.clone(), self.n)
    }

    /// Whether it makes nothing, and only holds the unit while others of it are taken back (K-5).
    pub fn is_hold(&self) -> bool {
        self.groups.is_empty()
    }

    /// The claim number `n` of the same unit that [`Compaction::is_hold`].
    pub fn to_hold(&self, n: u32, hold: Hold) -> Self {
        Self { n, groups: Vec::new(), hold: Some(hold), ..self.clone() }
    }

    /// Whether both decide the same. What a hold is made for decides nothing: an earlier release gives one up without telling it.
    fn decides_as(&self, other: &Self) -> bool {
        let bare = |of: &Self| Self { hold: None, ..of.clone() };
        self == other || (self.is_hold() && other.is_hold() && bare(self) == bare(other))
    }

    /// From the first offset that a group covers to the end of the last one.
    pub fn range(&self) -> OffsetRange {
        let ranges = || self.groups.iter().map(Group::range);
        let first = ranges().map(|range| range.first).min().unwrap_or_default();
        OffsetRange::new(first, ranges().map(|range| range.end).max().unwrap_or(first))
    }

    /// The new objects, as receipts tell objects: each at each of its destinations.
    pub fn objects(&self) -> impl Iterator<Item = (&Group, ReceiptObject)> {
        self.groups.iter().flat_map(move |group| {
            group.destinations.iter().map(move |destination| {
                let object = ReceiptObject {
                    output: self.output.clone(),
                    destination: destination.clone(),
                    key: group.key.clone(),
                    folder: self.folder.clone(),
                    records: group.records,
                    rows: Some(group.rows),
                    bytes: group.bytes,
                    sha256: Some(group.sha256.clone()),
                    event_min_ms: group.event_min_ms,
                    event_max_ms: group.event_max_ms,
                    kept: None,
                };
                (group, object)
            })
        })
    }
}

impl Group {
    /// From the first offset of its first batch to the end of its last one.
    pub fn range(&self) -> OffsetRange {
        let first = self.batches.iter().map(|&(first, _)| first).min().unwrap_or_default();
        OffsetRange::new(first, self.batches.iter().map(|&(_, end)| end).max().unwrap_or(first))
    }
}

/// The folder of a Kafka partition's compactions.
fn folder(partition: &TopicPartition, generation: u32) -> String {
    format!("{CONTROL_FOLDER}/compactions/v1/{}", partition_folder(partition, generation))
}

/// Key of the claim of that compaction.
pub fn compaction_claim_key(partition: &TopicPartition, generation: u32, (unit, n): &CompactionId) -> String {
    format!("{}/{unit}.{n}.claim", folder(partition, generation))
}

/// Key of its receipt.
pub fn compaction_receipt_key(
    partition: &TopicPartition,
    generation: u32,
    (unit, n): &CompactionId,
    range: OffsetRange,
) -> String {
    format!("{}/{unit}.{n}.{:020}-{:020}.json", folder(partition, generation), range.first, range.end)
}

fn done_key(partition: &TopicPartition, generation: u32, (unit, n): &CompactionId) -> String {
    format!("{}/{unit}.{n}.done", folder(partition, generation))
}

fn undone_key(partition: &TopicPartition, generation: u32, (unit, n): &CompactionId) -> String {
    format!("{}/{unit}.{n}.undone", folder(partition, generation))
}

/// A document that is found by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Claim,
    Receipt(OffsetRange),
    Done,
    Undone,
}

fn parse_name(name: &str) -> Option<(CompactionId, Named)> {
    let mut parts = name.split('.');
    let (unit, number, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let is_unit = unit.len() == UNIT_DIGITS && unit.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_unit || !digits(number) {
        return None;
    }
    let named = match (rest, parts.next(), parts.next()) {
        ("claim", None, None) => Named::Claim,
        ("done", None, None) => Named::Done,
        ("undone", None, None) => Named::Undone,
        (range, Some("json"), None) => {
            let (first, end) = range.split_once('-')?;
            let offset = |text: &str| (text.len() == 20 && digits(text)).then(|| text.parse::<i64>().ok()).flatten();
            Named::Receipt(OffsetRange::new(offset(first)?, offset(end)?))
        }
        _ => return None,
    };
    Some(((unit.to_string(), number.parse().ok()?), named))
}

impl Bucket {
    /// Which documents of compactions a Kafka partition has. Lists one folder, which is not there where nobody has compacted anything.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn listed_compactions(
        &self,
        partition: &TopicPartition,
    ) -> Result<BTreeMap<CompactionId, ListedCompaction>, BucketError> {
        let key = folder(partition, self.generation);
        let prefix = self.destination.path(&key)?;
        let mut listed = self.destination.store().list(Some(&prefix));
        let mut found: BTreeMap<CompactionId, ListedCompaction> = BTreeMap::new();
        while let Some(object) = listed.try_next().await.map_err(|error| self.store_error("list", &key, &error))? {
            let Some((id, named)) = object.location.filename().and_then(parse_name) else { continue };
            let documents = found.entry(id).or_default();
            match named {
                Named::Claim => documents.claim = true,
                Named::Receipt(range) => documents.receipt = Some(range),
                Named::Done => documents.done = true,
                Named::Undone => documents.undone = true,
            }
        }
        Ok(found)
    }

    /// Claims `claim`'s number of its unit. Of any number of different claims of one number, exactly one is ever
    /// [`CompactionOutcome::Created`] (K-5).
    ///
    /// # Errors
    /// [`BucketError::CannotCompact`] where the store cannot create only if absent. Others as they are; after
    /// [`super::Verdict::Retry`] the claim may be there already or come later: claim again.
    pub async fn claim_compaction(&self, claim: &Compaction) -> Result<CompactionOutcome, BucketError> {
        self.check_can_compact()?;
        let key = compaction_claim_key(&claim.topic_partition(), self.generation, &claim.id());
        let found: Compaction = match self.create(Effect::CompactionClaim, &key, to_json(claim)).await? {
            Created::Now => return Ok(CompactionOutcome::Created),
            Created::Found(stored) => self.parse(&key, &stored.bytes, COMPACTION_VERSION)?,
        };
        Ok(if found == *claim { CompactionOutcome::Same } else { CompactionOutcome::Other })
    }

    /// The claim of that compaction; `None`: there is none.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn compaction_claim(
        &self,
        partition: &TopicPartition,
        id: &CompactionId,
    ) -> Result<Option<Compaction>, BucketError> {
        let key = compaction_claim_key(partition, self.generation, id);
        let Some(bytes) = self.get(&key).await? else { return Ok(None) };
        let claim: Compaction = self.parse(&key, &bytes, COMPACTION_VERSION)?;
        self.check_compaction(&key, partition, id, &claim)?;
        Ok(Some(claim))
    }

    /// Says that the new objects are there and that the old ones count no more, or that the claim is given up (K-6). Of two processes that say
    /// the same, the first to say so is kept. `false`: the opposite was said first.
    ///
    /// # Errors
    /// [`BucketError::Unreadable`]: a receipt of another decision is there. Others as they are; after
    /// [`super::Verdict::Retry`] put it again.
    pub async fn put_compaction_receipt(&self, receipt: &CompactionReceipt) -> Result<bool, BucketError> {
        let compaction = &receipt.compaction;
        let (partition, range) = (compaction.topic_partition(), compaction.range());
        let key = compaction_receipt_key(&partition, self.generation, &compaction.id(), range);
        let found: CompactionReceipt = match self.create(Effect::CompactionReceipt, &key, to_json(receipt)).await? {
            Created::Now => return Ok(true),
            Created::Found(stored) => self.parse(&key, &stored.bytes, COMPACTION_VERSION)?,
        };
        if !found.compaction.decides_as(compaction) {
            return Err(self.unreadable(&key, "it names other objects than its claim"));
        }
        Ok(found.given_up == receipt.given_up)
    }

    /// The receipt of that compaction, whose name tells `range`; `None`: there is none.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn compaction_receipt(
        &self,
        partition: &TopicPartition,
        id: &CompactionId,
        range: OffsetRange,
    ) -> Result<Option<CompactionReceipt>, BucketError> {
        let key = compaction_receipt_key(partition, self.generation, id, range);
        let Some(bytes) = self.get(&key).await? else { return Ok(None) };
        let receipt: CompactionReceipt = self.parse(&key, &bytes, COMPACTION_VERSION)?;
        self.check_compaction(&key, partition, id, &receipt.compaction)?;
        Ok(Some(receipt))
    }

    /// The receipt of that compaction, where it is not taken back. One that is damaged is told by its claim, which decided the same, once the old objects
    /// were deleted on its word: then it was not given up.
    ///
    /// # Errors
    /// [`BucketError`]; [`BucketError::Unreadable`] where the claim does not help either.
    pub async fn counting_compaction(
        &self,
        partition: &TopicPartition,
        id: &CompactionId,
        documents: &ListedCompaction,
    ) -> Result<Option<CompactionReceipt>, BucketError> {
        let Some(range) = documents.counts() else { return Ok(None) };
        let damaged = match self.compaction_receipt(partition, id, range).await {
            Err(error @ BucketError::Unreadable { .. }) if documents.done => error,
            read => return read,
        };
        match self.compaction_claim(partition, id).await {
            Ok(Some(compaction)) if compaction.range() == range => {
                let writer = env!("CARGO_PKG_VERSION").to_string();
                Ok(Some(CompactionReceipt { compaction, writer, written_ms: None, given_up: false }))
            }
            Ok(_) | Err(BucketError::Unreadable { .. } | BucketError::Newer { .. }) => Err(damaged),
            Err(error) => Err(error),
        }
    }

    /// Says that the old objects of that compaction are deleted. Saying it again is the same.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn end_compaction(
        &self,
        partition: &TopicPartition,
        id: &CompactionId,
        at_ms: i64,
    ) -> Result<(), BucketError> {
        let mark = Mark { version: COMPACTION_VERSION, at_ms };
        let key = done_key(partition, self.generation, id);
        self.create(Effect::CompactionEnd, &key, to_json(&mark)).await.map(drop)
    }

    /// Takes that compaction back (K-6). Saying it again is the same.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn undo_compaction(
        &self,
        partition: &TopicPartition,
        id: &CompactionId,
        at_ms: i64,
    ) -> Result<(), BucketError> {
        let mark = Mark { version: COMPACTION_VERSION, at_ms };
        let key = undone_key(partition, self.generation, id);
        self.create(Effect::CompactionUndo, &key, to_json(&mark)).await.map(drop)
    }

    /// When that compaction was taken back, by the clock of whoever did it; `None`: it was not.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn compaction_undone_ms(
        &self,
        partition: &TopicPartition,
        id: &CompactionId,
    ) -> Result<Option<i64>, BucketError> {
        let key = undone_key(partition, self.generation, id);
        let Some(bytes) = self.get(&key).await? else { return Ok(None) };
        let mark: Mark = self.parse(&key, &bytes, COMPACTION_VERSION)?;
        Ok(Some(mark.at_ms))
    }

    /// Refuses a store that cannot keep two processes from compacting the same objects.
    ///
    /// # Errors
    /// [`BucketError::CannotCompact`].
    pub fn check_can_compact(&self) -> Result<(), BucketError> {
        if self.destination.conditional_put() {
            return Ok(());
        }
        Err(BucketError::CannotCompact { destination: self.destination.id().to_string() })
    }

    fn check_compaction(
        &self,
        key: &str,
        partition: &TopicPartition,
        id: &CompactionId,
        found: &Compaction,
    ) -> Result<(), BucketError> {
        if found.topic_partition() == *partition && found.id() == *id {
            return Ok(());
        }
        let what = format!("it is compaction {} of unit {} of {}", found.n, found.unit, found.topic_partition());
        Err(self.unreadable(key, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{Destination, StoreKind};
    use object_store::memory::InMemory;
    use proptest::prelude::*;
    use std::sync::Arc;

    const UNIT: &str = "00112233445566778899aabbccddeeff";

    fn bucket() -> Bucket {
        let store = Arc::new(InMemory::new());
        Bucket::new(Arc::new(Destination::from_store("main", "memory:///", store, StoreKind::Memory)))
    }

    fn claim(n: u32, key: &str) -> Compaction {
        let input = |first: i64| Input {
            key: format!("f/{first}"),
            first,
            end: first + 10,
            rows: 10,
            bytes: 5,
            sha256: "a".into(),
        };
        let proof = Proof { by: ProofBy::Bytes, rows: 20, inputs: "h".into(), object: "h".into() };
        let group = Group {
            destinations: vec!["memory:///".into()],
            fingerprint: "f".into(),
            schema: None,
            target: None,
            to: None,
            inputs: vec![input(10), input(20)],
            batches: vec![(10, 20), (20, 30)],
            key: key.into(),
            records: Some(20),
            rows: 20,
            bytes: 9,
            sha256: "b".into(),
            event_min_ms: Some(1),
            event_max_ms: Some(2),
            proof,
        };
        Compaction {
            version: COMPACTION_VERSION,
            topic: "t".into(),
            partition: 3,
            generation: 1,
            archive: "a".into(),
            output: "json".into(),
            folder: "f".into(),
            unit: UNIT.into(),
            n,
            groups: vec![group],
            hold: None,
        }
    }

    fn receipt(claim: &Compaction) -> CompactionReceipt {
        CompactionReceipt { compaction: claim.clone(), writer: "0".into(), written_ms: None, given_up: false }
    }

    /// Goal: a number is claimed once, and what the folder shows is what was said (K-5, K-6).
    #[tokio::test]
    async fn a_compaction_is_claimed_finished_and_taken_back() {
        let bucket = bucket();
        let partition = TopicPartition::new("t", 3);
        let (one, other) = (claim(1, "f/x"), claim(1, "f/y"));
        let id = one.id();
        assert_eq!(bucket.listed_compactions(&partition).await.expect("listed"), BTreeMap::new());
        assert_eq!(bucket.claim_compaction(&one).await.expect("claimed"), CompactionOutcome::Created);
        assert_eq!(bucket.claim_compaction(&one).await.expect("claimed"), CompactionOutcome::Same);
        assert_eq!(bucket.claim_compaction(&other).await.expect("an answer"), CompactionOutcome::Other);
        assert_eq!(bucket.compaction_claim(&partition, &id).await.expect("read"), Some(one.clone()));
        let listed = || async { bucket.listed_compactions(&partition).await.expect("listed")[&id] };
        assert!(listed().await.is_open());
        let range = OffsetRange::new(10, 30);
        assert_eq!(bucket.compaction_receipt(&partition, &id, range).await.expect("read"), None);
        assert!(bucket.put_compaction_receipt(&receipt(&one)).await.expect("written"));
        assert!(bucket.put_compaction_receipt(&receipt(&one)).await.expect("and again"));
        let given_up = CompactionReceipt { given_up: true, ..receipt(&one) };
        assert!(!bucket.put_compaction_receipt(&given_up).await.expect("an answer"), "it is finished");
        assert!(bucket.put_compaction_receipt(&receipt(&other)).await.is_err(), "of other objects");
        assert_eq!(listed().await.counts(), Some(range));
        assert_eq!(bucket.compaction_receipt(&partition, &id, range).await.expect("read"), Some(receipt(&one)));
        bucket.end_compaction(&partition, &id, 7).await.expect("written");
        bucket.undo_compaction(&partition, &id, 8).await.expect("written");
        bucket.undo_compaction(&partition, &id, 9).await.expect("and again");
        let now = listed().await;
        assert_eq!((now.is_open(), now.done, now.counts()), (false, true, None));
        assert_eq!(bucket.compaction_undone_ms(&partition, &id).await.expect("read"), Some(8), "the first one counts");
    }

    /// Goal: a hold is its process's own, and given up by whoever knows of it, an earlier release too, which does not tell what it was made for.
    #[tokio::test]
    async fn a_hold_is_of_one_process() {
        let bucket = bucket();
        let hold = |by: &str| claim(1, "f/x").to_hold(2, Hold { of: 1, by: by.into() });
        let earlier = Compaction { hold: None, ..hold("one") };
        for (claim, expected) in [
            (hold("one"), CompactionOutcome::Created),
            (hold("one"), CompactionOutcome::Same),
            (hold("other"), CompactionOutcome::Other),
            (earlier.clone(), CompactionOutcome::Other),
        ] {
            assert_eq!(bucket.claim_compaction(&claim).await.expect("an answer"), expected, "{claim:?}");
        }
        for by in [earlier, hold("one")] {
            let given_up = CompactionReceipt { given_up: true, ..receipt(&by) };
            assert!(bucket.put_compaction_receipt(&given_up).await.expect("given up"), "{by:?}");
        }
        let text = to_json(&hold("one"));
        assert!(text.contains(r#""groups":[],"hold":{"of":1,"by":"one"}"#), "{text}");
        let without = text.replace(r#","hold":{"of":1,"by":"one"}"#, "");
        let read: Compaction = serde_json::from_str(&without).expect("an earlier release's");
        assert_eq!((read.is_hold(), read.hold), (true, None));
    }

    #[tokio::test]
    async fn a_store_without_conditions_is_refused() {
        let store = Arc::new(InMemory::new());
        let main = Destination::from_store("main", "memory:///", store, StoreKind::Memory);
        let bucket = Bucket::new(Arc::new(main.without_conditional_put()));
        let error = bucket.claim_compaction(&claim(1, "f/x")).await.expect_err("refused").to_string();
        assert!(error.contains("conditional_put = false"), "{error}");
    }

    /// Goal: a document of today is read by every later release, and one with fields of a later release by this one.
    #[test]
    fn the_stored_forms_stay() {
        let cut = r#""version":1,"topic":"t","partition":3,"generation":1,"archive":"a","output":"json","folder":"f",
            "unit":"00112233445566778899aabbccddeeff","n":1,"groups":[{"destinations":["memory:///"],"fingerprint":"f","inputs":[
            {"key":"f/10","first":10,"end":20,"rows":10,"bytes":5,"sha256":"a","etag":"later"},
            {"key":"f/20","first":20,"end":30,"rows":10,"bytes":5,"sha256":"a"}],"batches":[[10,20],[20,30]],"key":"f/x",
            "records":20,"rows":20,"bytes":9,"sha256":"b","event_min_ms":1,"event_max_ms":2,
            "proof":{"by":"bytes","rows":20,"inputs":"h","object":"h"}}],"later":{"x":1}"#;
        assert_eq!(serde_json::from_str::<Compaction>(&format!("{{{cut}}}")).expect("version 1"), claim(1, "f/x"));
        let found: CompactionReceipt = serde_json::from_str(&format!(r#"{{{cut},"writer":"0"}}"#)).expect("version 1");
        assert_eq!(found, receipt(&claim(1, "f/x")));
        assert_eq!(serde_json::from_str::<CompactionReceipt>(&to_json(&found)).expect("what we write"), found);
    }

    proptest! {
        #[test]
        fn any_name_parses_or_is_passed_over(name in ".*", n: u32, first in 0..i64::MAX, end in 0..i64::MAX) {
            let _ = parse_name(&name);
            let id = (UNIT.to_string(), n);
            let partition = TopicPartition::new("t", 3);
            let (range, name) = (OffsetRange { first: first.min(end), end: first.max(end) }, |key: String| key.rsplit('/').next().map(str::to_string));
            let named = |key: String| name(key).and_then(|name| parse_name(&name));
            prop_assert_eq!(named(compaction_claim_key(&partition, 1, &id)), Some((id.clone(), Named::Claim)));
            prop_assert_eq!(named(compaction_receipt_key(&partition, 1, &id, range)), Some((id.clone(), Named::Receipt(range))));
            prop_assert_eq!(named(done_key(&partition, 1, &id)), Some((id.clone(), Named::Done)));
            prop_assert_eq!(named(undone_key(&partition, 1, &id)), Some((id, Named::Undone)));
        }
    }
}
