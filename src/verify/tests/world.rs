//! Archives made up for tests: receipts, claims and objects as `run` writes them, in memory or in a folder, and what can be done to them.

use crate::bucket::Bucket;
use crate::bucket::claim::{CLAIM_VERSION, Claim, ClaimedObject, claim_key};
use crate::bucket::folding::{Rules, Task};
use crate::bucket::identity::StoredStart;
use crate::bucket::receipt::{Balance, OutputBalance, RECEIPT_VERSION, Receipt, ReceiptObject, receipt_key};
use crate::bucket::replays::{
    REPLAY_VERSION, Replay, ReplayClaim, ReplayReceipt, ReplayedObject, replay_claim_key, replay_receipt_key,
};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, parse};
use crate::consume::{Committed, CommittedOffsets, LogBounds};
use crate::destination::stepped::{StepIn, Stepped, Within};
use crate::destination::{Destination, StoreKind};
use crate::layout::window::{KeyTemplate, WindowValues, replay_key};
use crate::ledger::Destinations;
use crate::pipeline::start::open_destinations;
use crate::record::{OffsetRange, TopicPartition};
use crate::upload::hex;
use crate::verify::against::{Cluster, Counting};
use crate::verify::finding::{Finding, Kind, Note};
use crate::verify::{Counters, Options, Parts, Told, Verified, verify};
use async_trait::async_trait;
use flate2::write::GzEncoder;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, GetResult, ObjectStoreExt};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// 2025-11-21T08:00:00Z.
pub(in crate::verify) const START_MS: i64 = 1_763_712_000_000;
const HOUR_MS: i64 = 3_600_000;
/// Offsets of a batch.
pub(in crate::verify) const BATCH: i64 = 100;
const TOPIC: &str = "t";

/// A receipt that names these keys at a destination `d`, with so many rows each.
pub(in crate::verify) fn receipt(first: i64, end: i64, objects: &[(&str, u64)]) -> Receipt {
    let rows = objects.iter().map(|(_, rows)| rows).sum();
    let objects = objects.iter().map(|&(key, rows)| object("d", key, rows, &[])).collect();
    Receipt {
        version: RECEIPT_VERSION,
        topic: TOPIC.to_string(),
        partition: 0,
        first,
        end,
        topic_id: None,
        cluster_id: "c".to_string(),
        archive: TOPIC.to_string(),
        generation: 1,
        fingerprint: "f".to_string(),
        writer: "0".to_string(),
        schemas: BTreeMap::new(),
        target: None,
        reason: "age".to_string(),
        watermark_ms: None,
        balance: Balance {
            consumed: rows,
            outputs: BTreeMap::from([(
                "json".to_string(),
                OutputBalance { archived: rows, rows, ..OutputBalance::default() },
            )]),
            ..Balance::default()
        },
        objects,
        lost: Vec::new(),
        written_ms: None,
    }
}

fn object(destination: &str, key: &str, rows: u64, bytes: &[u8]) -> ReceiptObject {
    ReceiptObject {
        output: "json".to_string(),
        destination: destination.to_string(),
        key: key.to_string(),
        folder: key.rsplit_once('/').map_or("", |(folder, _)| folder).to_string(),
        records: Some(rows),
        rows: Some(rows),
        bytes: bytes.len() as u64,
        sha256: Some(hex(&Sha256::digest(bytes))),
        event_min_ms: None,
        event_max_ms: None,
        kept: None,
    }
}

/// Lines as an output has them.
fn lines(rows: u64, seed: &str) -> Vec<u8> {
    let mut file = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for row in 0..rows {
        writeln!(file, "{{\"row\":{row},\"of\":\"{seed}\"}}").expect("memory takes everything");
    }
    file.finish().expect("memory takes everything")
}

/// An archive of one topic.
pub(in crate::verify) struct World {
    pub(in crate::verify) config: Config,
    pub(in crate::verify) destinations: Destinations,
    pub(in crate::verify) destination: Arc<Destination>,
    template: KeyTemplate,
    /// By Kafka partition and number of the batch.
    pub(in crate::verify) receipts: BTreeMap<(i32, i64), Receipt>,
    folder: Option<tempfile::TempDir>,
}

/// Once one object was read, others are put.
#[derive(Debug)]
struct Late {
    read: Path,
    put: Mutex<Vec<(Path, Vec<u8>)>>,
}

#[async_trait]
impl StepIn for Late {
    async fn get(&self, within: &Within, from: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let got = within.get_opts(from, options).await;
        if *from == self.read {
            let put = std::mem::take(&mut *self.put.lock().expect("no test panics with it"));
            for (to, bytes) in put {
                within.put(&to, bytes.into()).await?;
            }
        }
        got
    }
}

impl World {
    /// An empty archive in memory, with names of that preset.
    pub(in crate::verify) async fn in_memory(preset: &str) -> Self {
        let id = "s3://bucket/archive";
        let config = config(id, preset);
        let store = Arc::new(InMemory::new());
        let destination = Arc::new(Destination::from_store("main", id, store, StoreKind::Memory));
        let destinations = BTreeMap::from([(id.to_string(), destination.clone())]);
        Self::new(config, destinations, destination, None).await
    }

    /// The same in a local folder.
    pub(in crate::verify) async fn in_folder(preset: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(&format!("file://{}/archive", folder.path().display()), preset);
        let destinations = open_destinations(&config).expect("opened");
        let destination = destinations.values().next().expect("one destination").clone();
        Self::new(config, destinations, destination, Some(folder)).await
    }

    async fn new(
        config: Config,
        destinations: Destinations,
        destination: Arc<Destination>,
        folder: Option<tempfile::TempDir>,
    ) -> Self {
        let bucket = Bucket::new(destination.clone());
        let start = StoredStart { ends: BTreeMap::new() };
        bucket.ensure_identity("c", &config.kafka.group, start).await.expect("an identity");
        let layout = &config.archives[0].layout;
        bucket.put_layout(layout).await.expect("a layout");
        let output = &layout.outputs[0];
        let extension = output.place.extension(&output.format);
        let template = KeyTemplate::compile(&output.place, &output.name, &extension, 1).expect("a template");
        Self { config, destinations, destination, template, receipts: BTreeMap::new(), folder }
    }

    pub(in crate::verify) fn id(&self) -> String {
        self.destination.id().to_string()
    }

    pub(in crate::verify) fn partition(partition: i32) -> TopicPartition {
        TopicPartition::new(TOPIC, partition)
    }

    /// Key of an object of that batch, in the `window`th hour.
    pub(in crate::verify) fn key(&self, partition: i32, range: OffsetRange, window: i64) -> String {
        let event_ms = START_MS + window * HOUR_MS;
        let values = WindowValues { topic: TOPIC, partition, event_ms, fields: &[], headers: &[], key: None };
        self.template.window(&values).key(range)
    }

    /// Archives batch `number` of `partition` with `windows` objects of 5 rows each. Every third offset holds no record.
    pub(in crate::verify) async fn archive(&mut self, partition: i32, number: i64, windows: i64) {
        let range = OffsetRange::new(number * BATCH, (number + 1) * BATCH);
        let mut receipt = receipt(range.first, range.end, &[]);
        receipt.partition = partition;
        receipt.fingerprint = self.config.archives[0].layout.fingerprint();
        receipt.topic_id = Some("id".to_string());
        for window in number..number + windows {
            let key = self.key(partition, range, window);
            let bytes = lines(5, &key);
            self.put(&key, bytes.clone()).await;
            let mut object = object(&self.id(), &key, 5, &bytes);
            let event_ms = START_MS + window * HOUR_MS;
            (object.event_min_ms, object.event_max_ms) = (Some(event_ms), Some(event_ms + HOUR_MS - 1));
            receipt.objects.push(object);
        }
        let count = 5 * windows.unsigned_abs();
        receipt.balance.consumed = count;
        let archived = OutputBalance { archived: count, rows: count, ..OutputBalance::default() };
        receipt.balance.outputs.insert("json".to_string(), archived);
        self.claim(&receipt).await;
        self.write(&receipt).await;
        self.receipts.insert((partition, number), receipt);
    }

    /// Archives `batches` batches of each of `partitions` Kafka partitions.
    pub(in crate::verify) async fn fill(&mut self, partitions: i32, batches: i64, windows: i64) {
        for partition in 0..partitions {
            for number in 0..batches {
                self.archive(partition, number, windows).await;
            }
        }
    }

    pub(in crate::verify) fn receipt(&self, partition: i32, number: i64) -> Receipt {
        self.receipts[&(partition, number)].clone()
    }

    pub(in crate::verify) fn bucket(&self) -> Bucket {
        Bucket::new(self.destination.clone())
    }

    pub(in crate::verify) async fn put(&self, key: &str, bytes: Vec<u8>) {
        let path = self.destination.path(key).expect("a key");
        self.destination.store().put(&path, bytes.into()).await.expect("written");
    }

    pub(in crate::verify) async fn get(&self, key: &str) -> Vec<u8> {
        let path = self.destination.path(key).expect("a key");
        self.destination.store().get(&path).await.expect("there").bytes().await.expect("read").to_vec()
    }

    pub(in crate::verify) async fn delete(&self, key: &str) {
        let path = self.destination.path(key).expect("a key");
        self.destination.store().delete(&path).await.expect("deleted");
    }

    /// From now on the receipt is put as soon as somebody has read its claim.
    pub(in crate::verify) fn put_late(&mut self, receipt: &Receipt) {
        let partition = receipt.topic_partition();
        let put = (receipt_key(&partition, 1, receipt.first), serde_json::to_vec(receipt).expect("JSON"));
        self.put_once_read(&claim_key(&partition, 1, receipt.first), put);
    }

    /// From now on an object is put as soon as somebody has read the other one.
    pub(in crate::verify) fn put_once_read(&mut self, read: &str, (key, bytes): (String, Vec<u8>)) {
        let path = |key: &str| Path::parse(key).expect("a key");
        let late = Late { read: path(read), put: Mutex::new(vec![(path(&key), bytes)]) };
        let within = PrefixStore::new(self.destination.store().clone(), self.destination.prefix().clone());
        let store = Stepped::over(Arc::new(within), late);
        let destination = Destination::from_store("main", &self.id(), store, self.destination.kind());
        self.destinations = BTreeMap::from([(self.id(), Arc::new(destination))]);
    }

    /// Lets an object in the folder have been written so many hours ago.
    pub(in crate::verify) fn age(&self, key: &str, hours: u64) {
        let folder = self.folder.as_ref().expect("a folder").path();
        let file = std::fs::File::options().write(true).open(folder.join("archive").join(key)).expect("there");
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(SystemClock::new().wall_ms().unsigned_abs());
        file.set_modified(now - Duration::from_secs(hours * 3_600)).expect("set");
    }

    /// Writes the receipt, whatever is there.
    pub(in crate::verify) async fn write(&self, receipt: &Receipt) {
        let key = receipt_key(&receipt.topic_partition(), 1, receipt.first);
        self.put(&key, serde_json::to_vec(receipt).expect("JSON")).await;
    }

    /// Folds receipts of that Kafka partition, three each; the newest two stay.
    pub(in crate::verify) async fn fold(&self, partition: i32) {
        let (partition, clock) = (Self::partition(partition), SystemClock::new());
        let task = Task {
            partition: &partition,
            rules: Rules { fold: 3, kept: 2, min_age_ms: -HOUR_MS },
            committed: i64::MAX,
            folds_max: usize::MAX,
            dry_run: false,
            goes_on: &|| true,
            clock: &clock,
        };
        Bucket::new(self.destination.clone()).fold_receipts(&task).await.expect("folded");
    }

    /// Writes the claim of what `receipt` says.
    pub(in crate::verify) async fn claim(&self, receipt: &Receipt) {
        let keys = receipt.objects.iter().map(|object| ClaimedObject {
            output: object.output.clone(),
            destination: object.destination.clone(),
            key: object.key.clone(),
        });
        let claim = Claim {
            version: CLAIM_VERSION,
            topic: receipt.topic.clone(),
            partition: receipt.partition,
            first: receipt.first,
            end: receipt.end,
            topic_id: None,
            fingerprint: receipt.fingerprint.clone(),
            generation: 1,
            schemas: BTreeMap::new(),
            target: None,
            unknown_schemas: Default::default(),
            keys: keys.collect(),
            spool_bytes: 0,
        };
        let key = claim_key(&receipt.topic_partition(), 1, receipt.first);
        self.put(&key, serde_json::to_vec(&claim).expect("JSON")).await;
    }

    pub(in crate::verify) fn receipt_key(&self, partition: i32, number: i64) -> String {
        receipt_key(&Self::partition(partition), 1, number * BATCH)
    }

    pub(in crate::verify) fn claim_key(&self, partition: i32, number: i64) -> String {
        claim_key(&Self::partition(partition), 1, number * BATCH)
    }

    /// Replays dead letters of that batch; gives the key of the object. `finished`: with a receipt.
    pub(in crate::verify) async fn replay(&self, partition: i32, number: i64, finished: bool) -> String {
        let of = self.receipt(partition, number);
        let key = replay_key(&of.objects[0].key, self.extension(), 1).expect("room for it");
        let bytes = lines(2, &key);
        self.put(&key, bytes.clone()).await;
        let mut written = object(&self.id(), &key, 2, &bytes);
        (written.event_min_ms, written.event_max_ms) = (of.objects[0].event_min_ms, of.objects[0].event_max_ms);
        let replay = Replay {
            version: REPLAY_VERSION,
            topic: of.topic.clone(),
            partition,
            first: of.first,
            end: of.end,
            generation: 1,
            archive: of.archive.clone(),
            n: 1,
            object: ReplayedObject { destination: self.id(), key: "_dead/x".to_string() },
            fingerprint: of.fingerprint.clone(),
            schemas: BTreeMap::new(),
            target: None,
            rows: BTreeMap::new(),
        };
        let keys = vec![ClaimedObject { output: "json".to_string(), destination: self.id(), key: written.key.clone() }];
        let (claim_key, receipt_key) = (
            replay_claim_key(&Self::partition(partition), 1, of.first, 1),
            replay_receipt_key(&Self::partition(partition), 1, of.first, 1),
        );
        let claim = ReplayClaim { replay: replay.clone(), keys };
        self.put(&claim_key, serde_json::to_vec(&claim).expect("JSON")).await;
        if finished {
            let (cluster_id, writer) = ("c".to_string(), "0".to_string());
            let receipt = ReplayReceipt { replay, cluster_id, writer, objects: vec![written], written_ms: None };
            self.put(&receipt_key, serde_json::to_vec(&receipt).expect("JSON")).await;
        }
        key
    }

    fn extension(&self) -> &'static str {
        match self.config.archives[0].layout.outputs[0].place.ending {
            crate::layout::Ending::Whole => "json.gz",
            crate::layout::Ending::Codec => "gz",
        }
    }

    /// Everything that `verify` tells.
    pub(in crate::verify) async fn verify(&self, options: &Options) -> Seen {
        self.verify_with(options, None).await
    }

    pub(in crate::verify) async fn verify_with(&self, options: &Options, cluster: Option<Arc<dyn Cluster>>) -> Seen {
        self.verify_at(options, cluster, Arc::new(SystemClock::new())).await
    }

    /// The same at another time.
    pub(in crate::verify) async fn verify_at(
        &self,
        options: &Options,
        cluster: Option<Arc<dyn Cluster>>,
        clock: Arc<dyn Clock>,
    ) -> Seen {
        let parts =
            Parts { destinations: self.destinations.clone(), clock, cluster, counters: Arc::new(Counters::default()) };
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        let mut tell = |told: Told| {
            match told {
                Told::Finding(finding) => findings.push(finding),
                Told::Note(note) => notes.push(note),
            }
            Ok(())
        };
        let verified = verify(&self.config, parts, options, &mut tell).await.expect("verified");
        Seen { findings, notes, verified }
    }
}

fn config(url: &str, preset: &str) -> Config {
    let text = format!(
        "[kafka]\nbrokers = \"127.0.0.1:1\"\n[destinations.main]\nurl = \"{url}\"\n[[archive]]\nname = \"{TOPIC}\"\n\
         topics = [\"{TOPIC}\"]\n[[archive.output]]\nname = \"json\"\nformat = \"json\"\nlayout = {{ preset = \"{preset}\" }}\n"
    );
    parse(&text, std::path::Path::new("/"), &|_| None).expect("a configuration")
}

/// What was told.
#[derive(Debug)]
pub(in crate::verify) struct Seen {
    pub(in crate::verify) findings: Vec<Finding>,
    pub(in crate::verify) notes: Vec<Note>,
    pub(in crate::verify) verified: Verified,
}

impl Seen {
    /// Kinds, Kafka partitions and first offsets, sorted.
    pub(in crate::verify) fn told(&self) -> Vec<(Kind, i32, i64)> {
        let mut told: Vec<_> =
            self.findings.iter().map(|found| (found.kind(), found.partition.partition, found.first)).collect();
        told.sort_unstable();
        told
    }

    pub(in crate::verify) fn notes(&self) -> Vec<&'static str> {
        self.notes.iter().map(|note| note.note).collect()
    }
}

/// A Kafka made up: the records of each partition are at these offsets.
#[derive(Default)]
pub(in crate::verify) struct Broker {
    pub(in crate::verify) logs: BTreeMap<TopicPartition, (LogBounds, Vec<i64>)>,
    pub(in crate::verify) committed: BTreeMap<TopicPartition, Committed>,
    pub(in crate::verify) is_compacted: Option<bool>,
    pub(in crate::verify) asked: Mutex<Vec<OffsetRange>>,
    /// How often it was asked where a log begins and ends.
    pub(in crate::verify) bounds: Mutex<usize>,
    /// Where the logs begin by then.
    pub(in crate::verify) start: Mutex<Option<i64>>,
    /// Retention takes what is below these offsets, one after the other, while records are counted.
    pub(in crate::verify) retention: Mutex<Vec<i64>>,
}

impl Cluster for Broker {
    fn topics(&self) -> BoxFuture<'_, Result<BTreeMap<String, i32>, String>> {
        let mut topics = BTreeMap::new();
        for partition in self.logs.keys() {
            *topics.entry(partition.topic.to_string()).or_insert(0) += 1;
        }
        async move { Ok(topics) }.boxed()
    }

    fn committed(&self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<CommittedOffsets, String>> {
        let of = |partition: TopicPartition| (partition.clone(), self.committed.get(&partition).cloned());
        let committed = partitions.into_iter().map(of).collect();
        async move { Ok(committed) }.boxed()
    }

    fn bounds(&self, partition: TopicPartition) -> BoxFuture<'_, Result<LogBounds, String>> {
        *self.bounds.lock().expect("no test panics with it") += 1;
        let taken = self.start.lock().expect("no test panics with it").unwrap_or(0);
        let bounds =
            self.logs.get(&partition).map(|(bounds, _)| LogBounds { start: bounds.start.max(taken), ..*bounds });
        async move { bounds.ok_or_else(|| "no such partition".to_string()) }.boxed()
    }

    fn topic_id(&self, _topic: String) -> BoxFuture<'_, Result<Option<String>, String>> {
        async move { Ok(Some("id".to_string())) }.boxed()
    }

    fn is_compacted(&self, _topic: String) -> BoxFuture<'_, Result<Option<bool>, String>> {
        async move { Ok(self.is_compacted) }.boxed()
    }

    fn count(
        &self,
        partition: TopicPartition,
        ranges: Vec<OffsetRange>,
        seen: Box<dyn Fn(u64) + Send>,
    ) -> BoxFuture<'_, Result<Vec<Option<u64>>, String>> {
        if let Some(taken) = self.retention.lock().expect("no test panics with it").pop() {
            *self.start.lock().expect("no test panics with it") = Some(taken);
            return async move { Err("offset out of range".to_string()) }.boxed();
        }
        self.asked.lock().expect("no test panics with it").extend(&ranges);
        let (bounds, offsets) = self.logs[&partition].clone();
        let mut counting = Counting::new(ranges);
        seen(offsets.len() as u64);
        offsets.into_iter().for_each(|offset| counting.record(offset));
        async move { Ok(counting.end(bounds.readable_end)) }.boxed()
    }
}
