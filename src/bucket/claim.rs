//! The claim: what a seal decided about one batch, in the bucket, for ever.
//!
//! `_siltstone/receipts/v1/{topic}/{partition:05}/{first:020}.claim`, created only if absent, before the first upload.
//! One cut per `first`: whoever finds another's claim gives up its own cut and adopts that one.

use super::{Bucket, BucketError, Created, Place, receipts_folder, to_json};
use crate::effect::Effect;
use crate::record::TopicPartition;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the stored form.
pub const CLAIM_VERSION: u32 = 1;

/// What a seal decided. Offsets are half-open: `[first, end)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// [`CLAIM_VERSION`] of the writer.
    pub version: u32,
    /// Topic.
    pub topic: String,
    /// Kafka partition.
    pub partition: i32,
    /// First offset covered.
    pub first: i64,
    /// One past the last offset covered.
    pub end: i64,
    /// The topic's id, where the client could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Fingerprint of the layout.
    pub fingerprint: String,
    /// Generation of the archive.
    pub generation: u32,
    /// Hash of the pinned schema, by output.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schemas: BTreeMap<String, String>,
    /// The schema in the registry that rows are projected onto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Ids that the registry had no schema of: records that name them are dead letters, whatever it says later.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unknown_schemas: BTreeSet<u32>,
    /// The objects to come. Empty where the writer did not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<ClaimedObject>,
    /// Bytes of all parts on the spool of whoever sealed it: what a successor must have room for.
    pub spool_bytes: u64,
}

/// An object that a claim announces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClaimedObject {
    /// Output.
    pub output: String,
    /// Destination id.
    pub destination: String,
    /// Key under the destination's prefix.
    pub key: String,
}

impl ClaimedObject {
    /// Where it is to lie: destination and key.
    pub fn place(&self) -> Place<'_> {
        (&self.destination, &self.key)
    }
}

impl Claim {
    /// The Kafka partition.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.as_str(), self.partition)
    }

    /// Whether both decide the same: equal end, fingerprint and schemas. What the batch holds then follows.
    pub fn decides_as(&self, other: &Self) -> bool {
        self.end == other.end
            && self.fingerprint == other.fingerprint
            && self.schemas == other.schemas
            && self.reads_as(other)
    }

    /// Whether both were decided with the same answers of the registry.
    pub fn reads_as(&self, other: &Self) -> bool {
        self.target == other.target && self.unknown_schemas == other.unknown_schemas
    }
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// It is ours, and it is new.
    Created,
    /// This one, which decides the same, is there: an earlier attempt's, or ours by a request whose answer was lost.
    Same(Box<Claim>),
    /// Another one is there: adopt it.
    Other(Box<Claim>),
}

/// Key of the claim of `first`.
pub fn claim_key(partition: &TopicPartition, generation: u32, first: i64) -> String {
    format!("{}/{first:020}.claim", receipts_folder(partition, generation))
}

impl Bucket {
    /// Claims `[claim.first, claim.end)`. Of any number of different claims of one `first`, exactly one is ever
    /// [`ClaimOutcome::Created`] where the store creates only if absent (else see K-1), and all callers agree on it.
    ///
    /// # Errors
    /// [`BucketError`]; after [`super::Verdict::Retry`] the claim may be there already or come later: claim again.
    pub async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome, BucketError> {
        let partition = claim.topic_partition();
        let key = claim_key(&partition, self.generation, claim.first);
        let found = match self.create(Effect::ClaimPut, &key, to_json(claim)).await? {
            Created::Now => return Ok(ClaimOutcome::Created),
            Created::Found(stored) => self.parse_claim(&partition, claim.first, &stored.bytes)?,
        };
        let same = found.decides_as(claim);
        let found = Box::new(found);
        Ok(if same { ClaimOutcome::Same(found) } else { ClaimOutcome::Other(found) })
    }

    /// The claim of `first`; `None` where there is none.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn get_claim(&self, partition: &TopicPartition, first: i64) -> Result<Option<Claim>, BucketError> {
        let found = self.get(&claim_key(partition, self.generation, first)).await?;
        found.map(|bytes| self.parse_claim(partition, first, &bytes)).transpose()
    }

    fn parse_claim(&self, partition: &TopicPartition, first: i64, bytes: &[u8]) -> Result<Claim, BucketError> {
        let key = claim_key(partition, self.generation, first);
        let claim: Claim = self.parse(&key, bytes, CLAIM_VERSION)?;
        if claim.topic_partition() != *partition || claim.first != first || claim.end < first {
            let what = format!("it claims [{}, {}) of {}", claim.first, claim.end, claim.topic_partition());
            return Err(self.unreadable(&key, what));
        }
        Ok(claim)
    }
}
