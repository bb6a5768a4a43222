//! The receipt: what a finished batch holds.
//!
//! `_siltstone/receipts/v1/{topic}/{partition:05}/{first:020}.json`, written after every object of the batch has been
//! confirmed and before its end is committed. It lists what its writer knows to be in the bucket.
//!
//! - **K-3** A receipt is created only if absent. It is replaced only by one whose writer has read it, has looked at its objects,
//!   and found that it does not cover what is in the bucket.
//!
//! # The document, version 1
//! ```json
//! {
//!   "version": 1, "topic": "access", "partition": 3, "first": 1000, "end": 2000,
//!   "topic_id": "…", "cluster_id": "…", "archive": "access", "generation": 1,
//!   "fingerprint": "…", "writer": "0.1.0", "schemas": {"parquet": "…"}, "reason": "age",
//!   "watermark_ms": 1763695000000,
//!   "balance": {
//!     "consumed": 990,
//!     "outputs": {"json": {"archived": 980, "rows": 980, "dead_lettered": 8, "dropped": {"tombstones": 2}}},
//!     "absent": [{"first": 1000, "end": 1010, "cause": "deleted by retention"}]
//!   },
//!   "objects": [{
//!     "output": "json", "destination": "s3://logs/prod", "key": "access/dt=…/access+00003+….json.gz",
//!     "folder": "access/dt=…/hr=03", "records": 980, "rows": 980, "bytes": 51234, "sha256": "…",
//!     "event_min_ms": 1763694000000, "event_max_ms": 1763694999000
//!   }],
//!   "written_ms": 1763695100000
//! }
//! ```
//! Offsets are half-open, times milliseconds UTC, counts whole records. `records` counts Kafka records, `rows` what they
//! unfolded to. `absent` are offsets that Kafka no longer held when they were to be read: never consumed, so beside the
//! sum. `balance.fields_dropped` and `balance.time_fallbacks` (records archived by their Kafka timestamp because their own is
//! missing or unreadable) are beside it too, and left out where they are 0. `kept` in an object tells why it is not the one that this batch would have put; then `records` and `rows` are
//! left out where they are not known. `lost`, rarely there, names rows that were deleted from the bucket behind our back and
//! that Kafka no longer had when the batch was repaired, or that an object holds which nobody may put over a poorer one.
//!
//! # Versions
//! Readers accept fields they do not know, and refuse versions they do not know: `version` goes up only where an older release would
//! misread what it finds, and never because something was added. A release reads every version from 1 up to its own [`RECEIPT_VERSION`], alone
//! or in a fold, and writes only the last. Whatever a later version changes, it keeps a way to read the ones before, and its documents of every
//! version stay in the tests of this module.

use super::{Bucket, BucketError, Created, Place, Stored, parse_document, receipts_folder, to_json};
use crate::destination::fault::FaultKind;
use crate::effect::Effect;
use crate::record::TopicPartition;
use object_store::UpdateVersion;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the stored form.
pub const RECEIPT_VERSION: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// [`RECEIPT_VERSION`] of the writer.
    pub version: u32,
    /// Topic.
    pub topic: String,
    /// Kafka partition.
    pub partition: i32,
    /// First offset covered.
    pub first: i64,
    /// One past the last offset covered: what Kafka commits.
    pub end: i64,
    /// The topic's id, where the client could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// The cluster's id.
    pub cluster_id: String,
    /// Name of the archive.
    pub archive: String,
    /// Generation of the archive.
    pub generation: u32,
    /// Fingerprint of the layout.
    pub fingerprint: String,
    /// Version of the program: hashes compare only between equal ones.
    pub writer: String,
    /// Hash of the pinned schema, by output.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schemas: BTreeMap<String, String>,
    /// The schema in the registry that its rows are projected onto: its id, for Protocol Buffers with `:` and the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Why the batch was sealed.
    pub reason: String,
    /// Event-time watermark of the Kafka partition at `end`, milliseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_ms: Option<i64>,
    /// Where the records went.
    pub balance: Balance,
    /// What is in the bucket. Empty where every record was dropped.
    pub objects: Vec<ReceiptObject>,
    /// Rows of the balance that are not in the bucket, as far as anybody can tell without reading it: deleted there, and Kafka
    /// could not give them back when the batch was repaired; or in place of an object that cannot be replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRows>,
    /// Wall time of the writer, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_ms: Option<i64>,
}

/// Where the records of a batch went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Records read.
    pub consumed: u64,
    /// Fields outside a schema that `unknown = "drop"` left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fields_dropped: u64,
    /// Records archived by their Kafka timestamp because the field or header that should tell their time is missing or
    /// unreadable.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub time_fallbacks: u64,
    /// Per output of the layout; dead letters are counted in the output that refused them.
    pub outputs: BTreeMap<String, OutputBalance>,
    /// Offsets that Kafka no longer held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Where the records of a batch went in one output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputBalance {
    /// Records in its objects.
    pub archived: u64,
    /// Rows in its objects.
    pub rows: u64,
    /// Records in the dead letters instead.
    #[serde(default)]
    pub dead_lettered: u64,
    /// Records dropped, by rule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
}

/// Offsets `[first, end)` that were gone before they could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// First offset.
    pub first: i64,
    /// One past the last offset.
    pub end: i64,
    /// Why, as far as it is known.
    pub cause: String,
}

/// An object of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptObject {
    /// Output.
    pub output: String,
    /// Destination id.
    pub destination: String,
    /// Key under the destination's prefix.
    pub key: String,
    /// The folder of that key: the window.
    pub folder: String,
    /// Records inside; `None` in a kept object whose count is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Rows inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Size.
    pub bytes: u64,
    /// SHA-256, hex; `None` in a kept object that was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Smallest event time inside, milliseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_min_ms: Option<i64>,
    /// Largest event time inside, milliseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_max_ms: Option<i64>,
    /// Why this object, already there, was kept instead of the one this batch would have put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// Rows that were archived once and are in the bucket no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRows {
    /// Output.
    pub output: String,
    /// Destination id.
    pub destination: String,
    /// Key of the object that held them.
    pub key: String,
    /// How many.
    pub rows: u64,
}

impl ReceiptObject {
    /// Where it lies: destination and key.
    pub fn place(&self) -> Place<'_> {
        (&self.destination, &self.key)
    }
}

impl LostRows {
    /// Where they lay: destination and key.
    pub fn place(&self) -> Place<'_> {
        (&self.destination, &self.key)
    }
}

impl Balance {
    /// The first output whose records do not add up: consumed = archived + dead-lettered + dropped. `None`: all do.
    pub fn unbalanced(&self) -> Option<&str> {
        let adds_up = |output: &OutputBalance| {
            output.archived + output.dead_lettered + output.dropped.values().sum::<u64>() == self.consumed
        };
        self.outputs.iter().find(|(_, output)| !adds_up(output)).map(|(name, _)| name.as_str())
    }
}

impl Receipt {
    /// The Kafka partition.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.as_str(), self.partition)
    }

    /// Whether both are of the same cut.
    pub fn is_of_batch(&self, other: &Self) -> bool {
        self.first == other.first && self.end == other.end && self.fingerprint == other.fingerprint
    }

    /// Whether it vouches for all that `other`, of the same batch, vouches for: no fewer records read, and each of its objects
    /// as it is.
    pub fn covers(&self, other: &Self) -> bool {
        let has = |object: &ReceiptObject| {
            self.objects.iter().any(|ours| {
                ours.place() == object.place()
                    && ours.bytes == object.bytes
                    && (object.sha256.is_none() || ours.sha256 == object.sha256)
            })
        };
        self.balance.consumed >= other.balance.consumed && other.objects.iter().all(has)
    }
}

/// Key of the receipt of the batch that begins at `first`.
pub fn receipt_key(partition: &TopicPartition, generation: u32, first: i64) -> String {
    format!("{}/{first:020}.json", receipts_folder(partition, generation))
}

/// A receipt that is in the bucket.
#[derive(Clone, Debug)]
pub struct FoundReceipt {
    /// What it says.
    pub receipt: Receipt,
    /// What names exactly this one to a store that compares before it replaces.
    version: Option<UpdateVersion>,
}

/// What became of a receipt.
#[derive(Clone, Debug)]
pub enum ReceiptOutcome {
    /// The bucket holds it.
    Written,
    /// The bucket holds this one instead.
    Found(Box<FoundReceipt>),
}

impl Bucket {
    /// Vouches for a batch: creates the receipt, or puts it over exactly the one that was found before (K-3). Writing it
    /// again is the same. Where nobody may replace a receipt, as in a write-once bucket, the one of the same batch stays.
    ///
    /// # Errors
    /// [`BucketError`]; after [`super::Verdict::Retry`] it may be there already or come later: put it again.
    pub async fn put_receipt(
        &self,
        receipt: &Receipt,
        over: Option<&FoundReceipt>,
    ) -> Result<ReceiptOutcome, BucketError> {
        debug_assert!(receipt.balance.unbalanced().is_none(), "{:?}", receipt.balance);
        let key = receipt_key(&receipt.topic_partition(), self.generation, receipt.first);
        let found = match over {
            None => self.create_receipt(&key, receipt).await?,
            Some(over) => self.replace_receipt(&key, receipt, over).await?,
        };
        let differs =
            |found: &FoundReceipt| Receipt { written_ms: receipt.written_ms, ..found.receipt.clone() } != *receipt;
        Ok(found.filter(differs).map_or(ReceiptOutcome::Written, |found| ReceiptOutcome::Found(Box::new(found))))
    }

    /// The receipt that is there instead, if any.
    async fn create_receipt(&self, key: &str, receipt: &Receipt) -> Result<Option<FoundReceipt>, BucketError> {
        match self.create(Effect::ReceiptPut, key, to_json(receipt)).await? {
            Created::Now => Ok(None),
            Created::Found(stored) => self.found_receipt(&receipt.topic_partition(), receipt.first, stored).map(Some),
        }
    }

    /// Puts `receipt` over exactly `over`. The receipt that is there instead, if any.
    async fn replace_receipt(
        &self,
        key: &str,
        receipt: &Receipt,
        over: &FoundReceipt,
    ) -> Result<Option<FoundReceipt>, BucketError> {
        let (partition, first) = (receipt.topic_partition(), receipt.first);
        // Where the store does not compare, a look right before the put must do.
        let changed =
            over.version.is_none() && self.get_receipt(&partition, first).await?.is_some_and(|now| now != over.receipt);
        let mut failed = None;
        if !changed {
            match self.replace(Effect::ReceiptReplace, key, to_json(receipt), over.version.as_ref()).await {
                Ok(()) => return Ok(None),
                Err(error) => failed = Some(error),
            }
        }
        // Somebody may have deleted it meanwhile.
        let Some(stored) = self.stored(key).await? else { return self.create_receipt(key, receipt).await };
        let found = self.found_receipt(&partition, first, stored)?;
        let unchanged = found.receipt == over.receipt && found.version == over.version;
        match failed.filter(|_| unchanged) {
            None => Ok(Some(found)),
            Some(BucketError::Store { fault, .. })
                if fault.kind == FaultKind::Denied && over.receipt.is_of_batch(receipt) =>
            {
                tracing::error!(key, %fault, "the receipt that is there cannot be replaced by one that says more; it stays");
                Ok(None)
            }
            // Refused, or lost on its way, and nothing has changed.
            Some(error) => Err(error),
        }
    }

    /// As [`Bucket::get_receipt`], for whoever puts another one over it.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn found_beside(
        &self,
        partition: &TopicPartition,
        first: i64,
    ) -> Result<Option<FoundReceipt>, BucketError> {
        let stored = self.stored(&receipt_key(partition, self.generation, first)).await?;
        stored.map(|stored| self.found_receipt(partition, first, stored)).transpose()
    }

    fn found_receipt(
        &self,
        partition: &TopicPartition,
        first: i64,
        stored: Stored,
    ) -> Result<FoundReceipt, BucketError> {
        let receipt = self.parse_receipt(partition, first, &stored.bytes)?;
        Ok(FoundReceipt { receipt, version: stored.version })
    }

    pub(super) fn parse_receipt(
        &self,
        partition: &TopicPartition,
        first: i64,
        bytes: &[u8],
    ) -> Result<Receipt, BucketError> {
        let key = receipt_key(partition, self.generation, first);
        parse_receipt((&key, self.destination.id()), partition, first, bytes)
    }

    /// The receipt of the batch that begins at `first`, where it is a document of its own; `None` where there is none, or a fold has it
    /// ([`Bucket::receipt`] looks there as well).
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn get_receipt(&self, partition: &TopicPartition, first: i64) -> Result<Option<Receipt>, BucketError> {
        let stored = self.get(&receipt_key(partition, self.generation, first)).await?;
        stored.map(|bytes| self.parse_receipt(partition, first, &bytes)).transpose()
    }
}

/// Reads the receipt of `first` that stands in the document `key` of a destination.
pub(super) fn parse_receipt(
    (key, destination): (&str, &str),
    partition: &TopicPartition,
    first: i64,
    bytes: &[u8],
) -> Result<Receipt, BucketError> {
    let receipt: Receipt = parse_document(key, destination, bytes, RECEIPT_VERSION)?;
    if receipt.topic_partition() != *partition || receipt.first != first || receipt.end < first {
        let what = format!("it vouches for [{}, {}) of {}", receipt.first, receipt.end, receipt.topic_partition());
        return Err(BucketError::Unreadable { key: key.to_string(), destination: destination.to_string(), what });
    }
    Ok(receipt)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a document of today is read by every later release, and one with fields of a later release by this one.
    #[test]
    fn the_stored_form_stays() {
        let stored = r#"{"version":1,"topic":"t","partition":3,"first":10,"end":20,"cluster_id":"c","archive":"a",
            "generation":1,"fingerprint":"f","writer":"0.1.0","reason":"age","new_field":[1],
            "balance":{"consumed":9,"outputs":{"json":{"archived":7,"rows":7,"dead_lettered":1,"dropped":{"tombstones":1}}}},
            "objects":[{"output":"json","destination":"s3://b","key":"k/x","folder":"k","bytes":5,"kept":"more rows"}]}"#;
        let receipt: Receipt = serde_json::from_str(stored).expect("version 1");
        assert_eq!(receipt.balance.unbalanced(), None);
        assert_eq!(receipt.objects[0].kept.as_deref(), Some("more rows"));
        assert_eq!(receipt.topic_id, None);
        assert_eq!((receipt.balance.fields_dropped, receipt.balance.time_fallbacks), (0, 0));
        let again: Receipt = serde_json::from_str(&to_json(&receipt)).expect("what we write");
        assert_eq!(again, receipt);
    }

    /// Goal: every version that was ever written is read; what a newer release wrote is refused, and the message says what to do.
    #[test]
    fn earlier_versions_are_read_and_newer_ones_refused() {
        let of = |version: u32| {
            format!(
                r#"{{"version":{version},"topic":"t","partition":3,"first":10,"end":20,"cluster_id":"c","archive":"a","generation":1,
                "fingerprint":"f","writer":"9","reason":"age","balance":{{"consumed":0,"outputs":{{}}}},"objects":[],"x":{{"y":1}}}}"#
            )
        };
        let read =
            |version: u32| parse_receipt(("k", "s3://b"), &TopicPartition::new("t", 3), 10, of(version).as_bytes());
        for version in 1..=RECEIPT_VERSION {
            assert_eq!(read(version).expect("a version of old").end, 20);
        }
        let refused = read(RECEIPT_VERSION + 1).expect_err("newer");
        assert!(
            matches!(refused, BucketError::Newer { found, known, .. } if (found, known) == (RECEIPT_VERSION + 1, RECEIPT_VERSION))
        );
        assert!(refused.to_string().contains("use the newer release"), "{refused}");
    }

    #[test]
    fn a_balance_that_does_not_add_up_is_named() {
        let mut balance = Balance { consumed: 3, ..Balance::default() };
        balance.outputs.insert("json".into(), OutputBalance { archived: 3, rows: 3, ..OutputBalance::default() });
        balance.outputs.insert("raw".into(), OutputBalance { archived: 2, rows: 2, ..OutputBalance::default() });
        assert_eq!(balance.unbalanced(), Some("raw"));
    }
}
