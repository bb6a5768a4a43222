//! Claims and receipts of replays: which dead letters were decoded again and written, for ever.
//!
//! `_siltstone/replays/v1/{topic}/{partition:05}/{first:020}.{n}.claim` and `….{n}.json`, beside the receipts of the batch that
//! begins at `first`. `n` counts from 1, and is used up by its claim.
//!
//! - **K-4** Claims of one batch have the numbers 1, 2, 3, … without a gap, as whoever makes one has read all before it. A dead
//!   letter that a claim names for an output is named for it by no later claim.
//!
//! # The documents, version 1
//! ```json
//! {
//!   "version": 1, "topic": "access", "partition": 3, "first": 1000, "end": 2000, "generation": 1, "archive": "access", "n": 1,
//!   "object": {"destination": "s3://logs/prod", "key": "_dead/access/dt=…/access+00003+….json.gz"},
//!   "fingerprint": "…", "schemas": {"parquet": "…"},
//!   "rows": {"json": [[1017, 0], [1018, 0]]},
//!   "keys": [{"output": "json", "destination": "s3://logs/prod", "key": "access/dt=…/access+00003+…+replay-1.json.gz"}]
//! }
//! ```
//! is a claim: the dead letters of one object, by offset and index, that the layout with that fingerprint makes rows of, by output. The
//! receipt has the same and, in place of `keys`, the `objects` that are in the bucket (as in [`super::receipt`]), `cluster_id`,
//! `writer` and `written_ms`. Readers accept fields they do not know and refuse versions they do not know.

use super::claim::ClaimedObject;
use super::receipt::ReceiptObject;
use super::{Bucket, BucketError, CONTROL_FOLDER, Created, partition_folder, to_json};
use crate::effect::Effect;
use crate::record::TopicPartition;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the stored forms.
pub const REPLAY_VERSION: u32 = 1;

/// A dead letter within its batch: offset and index.
pub type LetterId = (i64, u32);

/// What a replay decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// [`REPLAY_VERSION`] of the writer.
    pub version: u32,
    /// Topic.
    pub topic: String,
    /// Kafka partition.
    pub partition: i32,
    /// First offset of the batch that the dead letters are of.
    pub first: i64,
    /// One past the last offset of that batch.
    pub end: i64,
    /// Generation of the archive.
    pub generation: u32,
    /// Name of the archive.
    pub archive: String,
    /// Which replay of that batch, from 1.
    pub n: u32,
    /// Where the dead letters lie.
    pub object: ReplayedObject,
    /// Fingerprint of the layout that makes rows of them.
    pub fingerprint: String,
    /// Hash of the pinned schema, by output.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schemas: BTreeMap<String, String>,
    /// The schema in the registry that rows are projected onto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The dead letters that are written, by output, in the order in which they lie in their object.
    pub rows: BTreeMap<String, Vec<LetterId>>,
}

/// An object of dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedObject {
    /// Destination id.
    pub destination: String,
    /// Key under the destination's prefix.
    pub key: String,
}

/// What a replay decided, before it put anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayClaim {
    /// What it decided.
    #[serde(flatten)]
    pub replay: Replay,
    /// The objects to come.
    pub keys: Vec<ClaimedObject>,
}

/// What a finished replay has put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayReceipt {
    /// What it decided.
    #[serde(flatten)]
    pub replay: Replay,
    /// The cluster's id.
    pub cluster_id: String,
    /// Version of the program.
    pub writer: String,
    /// What is in the bucket.
    pub objects: Vec<ReceiptObject>,
    /// Wall time of the writer, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_ms: Option<i64>,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// It is ours, and it is new.
    Created,
    /// It is there already: ours, by a request whose answer was lost, or another process's that decided just the same.
    Same,
    /// Another one is there: finish that one, then decide anew.
    Other,
}

impl Replay {
    /// The Kafka partition.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.as_str(), self.partition)
    }

    /// How many dead letters it names, each once whatever the outputs.
    pub fn letters(&self) -> u64 {
        let all: std::collections::BTreeSet<&LetterId> = self.rows.values().flatten().collect();
        all.len() as u64
    }
}

/// The folder of a Kafka partition's replays.
fn folder(partition: &TopicPartition, generation: u32) -> String {
    format!("{CONTROL_FOLDER}/replays/v1/{}", partition_folder(partition, generation))
}

/// Key of the claim of replay `n` of the batch that begins at `first`.
pub fn replay_claim_key(partition: &TopicPartition, generation: u32, first: i64, n: u32) -> String {
    format!("{}/{first:020}.{n}.claim", folder(partition, generation))
}

/// Key of its receipt.
pub fn replay_receipt_key(partition: &TopicPartition, generation: u32, first: i64, n: u32) -> String {
    format!("{}/{first:020}.{n}.json", folder(partition, generation))
}

impl Bucket {
    /// The claim of replay `n` of the batch that begins at `first`; `None`: that number is free. Asks for it by its name: no listing,
    /// so that a claim made a moment ago is seen.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn replay_claim(
        &self,
        partition: &TopicPartition,
        first: i64,
        n: u32,
    ) -> Result<Option<ReplayClaim>, BucketError> {
        let key = replay_claim_key(partition, self.generation, first, n);
        let Some(bytes) = self.get(&key).await? else { return Ok(None) };
        let claim: ReplayClaim = self.parse(&key, &bytes, REPLAY_VERSION)?;
        self.check_replay(&key, partition, (first, n), &claim.replay)?;
        Ok(Some(claim))
    }

    /// Whether replay `n` of the batch that begins at `first` has its receipt, which is not read for that.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn is_replay_finished(
        &self,
        partition: &TopicPartition,
        first: i64,
        n: u32,
    ) -> Result<bool, BucketError> {
        self.exists(&replay_receipt_key(partition, self.generation, first, n)).await
    }

    /// Claims replay `n` of its batch. Of any number of different claims of one number, exactly one is ever
    /// [`ReplayOutcome::Created`] (K-4).
    ///
    /// # Errors
    /// [`BucketError::CannotReplay`] where the store cannot create only if absent. Others as they are; after
    /// [`super::Verdict::Retry`] the claim may be there already or come later: claim again.
    pub async fn claim_replay(&self, claim: &ReplayClaim) -> Result<ReplayOutcome, BucketError> {
        self.check_can_replay()?;
        let (partition, replay) = (claim.replay.topic_partition(), &claim.replay);
        let key = replay_claim_key(&partition, self.generation, replay.first, replay.n);
        let found: ReplayClaim = match self.create(Effect::ReplayClaim, &key, to_json(claim)).await? {
            Created::Now => return Ok(ReplayOutcome::Created),
            Created::Found(stored) => self.parse(&key, &stored.bytes, REPLAY_VERSION)?,
        };
        Ok(if found == *claim { ReplayOutcome::Same } else { ReplayOutcome::Other })
    }

    /// Says that a replay is finished. Of two processes that finish the same one, the first to say so is kept.
    ///
    /// # Errors
    /// [`BucketError::Unreadable`]: a receipt of another decision is there. Others as they are; after
    /// [`super::Verdict::Retry`] put it again.
    pub async fn put_replay_receipt(&self, receipt: &ReplayReceipt) -> Result<(), BucketError> {
        let (partition, replay) = (receipt.replay.topic_partition(), &receipt.replay);
        let key = replay_receipt_key(&partition, self.generation, replay.first, replay.n);
        let found: ReplayReceipt = match self.create(Effect::ReplayReceipt, &key, to_json(receipt)).await? {
            Created::Now => return Ok(()),
            Created::Found(stored) => self.parse(&key, &stored.bytes, REPLAY_VERSION)?,
        };
        if found.replay != *replay {
            return Err(self.unreadable(&key, "it names other rows than its claim"));
        }
        Ok(())
    }

    /// Refuses a store that cannot keep two processes from claiming the same replay.
    ///
    /// # Errors
    /// [`BucketError::CannotReplay`].
    pub fn check_can_replay(&self) -> Result<(), BucketError> {
        if self.destination.conditional_put() {
            return Ok(());
        }
        Err(BucketError::CannotReplay { destination: self.destination.id().to_string() })
    }

    /// First offset of the batch and number of each finished replay of a Kafka partition, in that order.
    /// Lists the partition's folder of replays, which is empty where nobody has replayed anything.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn finished_replays(&self, partition: &TopicPartition) -> Result<Vec<(i64, u32)>, BucketError> {
        let key = folder(partition, self.generation);
        let prefix = self.destination.path(&key)?;
        let listed = self.destination.store().list(Some(&prefix));
        let names = listed.try_filter_map(|object| {
            let name = object.location.filename().and_then(parse_name);
            async move { Ok(name) }
        });
        let mut names: Vec<(i64, u32)> =
            names.try_collect().await.map_err(|error| self.store_error("list", &key, &error))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Which documents of replays a Kafka partition has, by first offset of the batch and number: whether there is a claim, and
    /// whether there is a receipt. Lists as [`Bucket::finished_replays`].
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn listed_replays(
        &self,
        partition: &TopicPartition,
    ) -> Result<BTreeMap<(i64, u32), (bool, bool)>, BucketError> {
        let key = folder(partition, self.generation);
        let prefix = self.destination.path(&key)?;
        let mut listed = self.destination.store().list(Some(&prefix));
        let mut found: BTreeMap<(i64, u32), (bool, bool)> = BTreeMap::new();
        while let Some(object) = listed.try_next().await.map_err(|error| self.store_error("list", &key, &error))? {
            let Some(name) = object.location.filename() else { continue };
            let claim = name.strip_suffix(".claim").map(|name| format!("{name}.json"));
            let Some(replay) = parse_name(claim.as_deref().unwrap_or(name)) else { continue };
            let documents = found.entry(replay).or_default();
            documents.0 |= claim.is_some();
            documents.1 |= claim.is_none();
        }
        Ok(found)
    }

    /// The receipt of replay `n` of the batch that begins at `first`; `None`: it is not finished.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn replay_receipt(
        &self,
        partition: &TopicPartition,
        first: i64,
        n: u32,
    ) -> Result<Option<ReplayReceipt>, BucketError> {
        let key = replay_receipt_key(partition, self.generation, first, n);
        let Some(bytes) = self.get(&key).await? else { return Ok(None) };
        let receipt: ReplayReceipt = self.parse(&key, &bytes, REPLAY_VERSION)?;
        self.check_replay(&key, partition, (first, n), &receipt.replay)?;
        Ok(Some(receipt))
    }

    fn check_replay(
        &self,
        key: &str,
        partition: &TopicPartition,
        place: (i64, u32),
        found: &Replay,
    ) -> Result<(), BucketError> {
        if found.topic_partition() == *partition && (found.first, found.n) == place {
            return Ok(());
        }
        let what = format!("it is replay {} of the batch at {} of {}", found.n, found.first, found.topic_partition());
        Err(self.unreadable(key, what))
    }
}

/// First offset and number of a receipt's name.
fn parse_name(name: &str) -> Option<(i64, u32)> {
    let (first, number) = name.strip_suffix(".json")?.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if first.len() != 20 || !digits(first) || !digits(number) {
        return None;
    }
    Some((first.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{Destination, StoreKind};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    fn bucket() -> Bucket {
        let store = Arc::new(InMemory::new());
        Bucket::new(Arc::new(Destination::from_store("main", "memory:///", store, StoreKind::Memory)))
    }

    fn claim(n: u32, rows: &[LetterId]) -> ReplayClaim {
        let object = ReplayedObject { destination: "memory:///".into(), key: "_dead/t/x.json.gz".into() };
        let replay = Replay {
            version: REPLAY_VERSION,
            topic: "t".into(),
            partition: 3,
            first: 10,
            end: 20,
            generation: 1,
            archive: "a".into(),
            n,
            object,
            fingerprint: "f".into(),
            schemas: BTreeMap::new(),
            target: None,
            rows: BTreeMap::from([("json".to_string(), rows.to_vec())]),
        };
        ReplayClaim { replay, keys: Vec::new() }
    }

    fn receipt(claim: &ReplayClaim) -> ReplayReceipt {
        let replay = claim.replay.clone();
        let (cluster_id, writer) = ("c".to_string(), "0".to_string());
        ReplayReceipt { replay, cluster_id, writer, objects: Vec::new(), written_ms: None }
    }

    #[tokio::test]
    async fn a_number_is_claimed_once() {
        let bucket = bucket();
        let partition = TopicPartition::new("t", 3);
        let (first, second) = (claim(1, &[(11, 0)]), claim(1, &[(12, 0)]));
        assert_eq!(bucket.claim_replay(&first).await.expect("claimed"), ReplayOutcome::Created);
        assert_eq!(bucket.claim_replay(&first).await.expect("claimed"), ReplayOutcome::Same);
        assert_eq!(bucket.claim_replay(&second).await.expect("an answer"), ReplayOutcome::Other);
        assert_eq!(bucket.replay_claim(&partition, 10, 1).await.expect("read"), Some(first.clone()));
        assert!(!bucket.is_replay_finished(&partition, 10, 1).await.expect("looked for"));
        assert_eq!(bucket.finished_replays(&partition).await.expect("listed"), []);
        let begun = BTreeMap::from([((10, 1), (true, false))]);
        assert_eq!(bucket.listed_replays(&partition).await.expect("listed"), begun);
        bucket.put_replay_receipt(&receipt(&first)).await.expect("written");
        bucket.put_replay_receipt(&receipt(&first)).await.expect("and again");
        assert!(bucket.put_replay_receipt(&receipt(&second)).await.is_err(), "of other rows");
        assert!(bucket.is_replay_finished(&partition, 10, 1).await.expect("looked for"));
        assert_eq!(bucket.finished_replays(&partition).await.expect("listed"), [(10, 1)]);
        let finished = BTreeMap::from([((10, 1), (true, true))]);
        assert_eq!(bucket.listed_replays(&partition).await.expect("listed"), finished);
        assert_eq!(bucket.replay_receipt(&partition, 10, 1).await.expect("read"), Some(receipt(&first)));
        assert_eq!(bucket.replay_receipt(&partition, 10, 2).await.expect("read"), None);
        for (first, n) in [(10, 2), (11, 1)] {
            assert_eq!(bucket.replay_claim(&partition, first, n).await.expect("read"), None);
            assert!(!bucket.is_replay_finished(&partition, first, n).await.expect("looked for"));
        }
    }

    #[tokio::test]
    async fn a_store_without_conditions_is_refused() {
        let store = Arc::new(InMemory::new());
        let main = Destination::from_store("main", "memory:///", store, StoreKind::Memory);
        let bucket = Bucket::new(Arc::new(main.without_conditional_put()));
        let error = bucket.claim_replay(&claim(1, &[(11, 0)])).await.expect_err("refused").to_string();
        assert!(error.contains("conditional_put = false"), "{error}");
    }

    /// Goal: a document of today is read by every later release, and one with fields of a later release by this one.
    #[test]
    fn the_stored_forms_stay() {
        let cut = r#""version":1,"topic":"t","partition":3,"first":10,"end":20,"generation":1,"archive":"a","n":1,
            "object":{"destination":"memory:///","key":"_dead/t/x.json.gz","etag":"later"},"fingerprint":"f",
            "rows":{"json":[[11,0]]},"later":{"x":1}"#;
        let stored = format!(r#"{{{cut},"keys":[]}}"#);
        assert_eq!(serde_json::from_str::<ReplayClaim>(&stored).expect("version 1"), claim(1, &[(11, 0)]));
        let stored = format!(r#"{{{cut},"cluster_id":"c","writer":"0","objects":[]}}"#);
        let found: ReplayReceipt = serde_json::from_str(&stored).expect("version 1");
        assert_eq!(found, receipt(&claim(1, &[(11, 0)])));
        assert_eq!(serde_json::from_str::<ReplayReceipt>(&to_json(&found)).expect("what we write"), found);
    }

    #[test]
    fn names_of_others_are_passed_over() {
        for (name, expected) in [
            ("00000000000000000010.1.json", Some((10, 1))),
            ("00000000000000000010.1.claim", None),
            ("00000000000000000010.json", None),
            ("10.1.json", None),
            ("00000000000000000010.-1.json", None),
            ("", None),
        ] {
            assert_eq!(parse_name(name), expected, "{name}");
        }
    }
}
