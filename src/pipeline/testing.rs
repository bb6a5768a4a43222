//! What the pipeline leaves of a batch, for tests of what reads archives; and a Kafka for tests of the pipeline itself.

use super::archive::Archive;
use super::finish::{SealedPart, file_metadata, object_metadata, receipt_object, upload_file};
use super::open_batch::{OpenBatch, Opened, Workspace};
use crate::batch::balance;
use crate::bucket::identity::StoredStart;
use crate::bucket::receipt::{Balance, OutputBalance, RECEIPT_VERSION, Receipt};
use crate::config::Config;
use crate::consume::{CommitError, CommittedOffsets, Coordinator, Held, LogBounds, PlannedGuard};
use crate::decode::Schemas;
use crate::ledger::Destinations;
use crate::record::{OffsetRange, OwnedRecord, TopicPartition};
use crate::registry::Target;
use crate::spool::Spool;
use crate::upload::{PutRule, UploadSettings, put_file};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Archives `records`, all of one Kafka partition, as the batch that covers `range`, with the first archive of `config`: objects, layout
/// and receipt.
pub(crate) async fn archive_batch(
    config: &Config,
    destinations: &Destinations,
    spool: &Path,
    range: OffsetRange,
    records: &[OwnedRecord],
    schemas: &Schemas,
) {
    let layout = &config.archives[0].layout;
    let archive = Arc::new(Archive::compile(layout, destinations, &BTreeMap::new(), schemas).expect("compiles"));
    archive.bucket.ensure_identity("c", "g", StoredStart::default()).await.expect("taken");
    archive.bucket.put_layout(layout).await.expect("stored");
    let mut spool = Spool::open(spool, 1 << 30, 1).expect("a spool");
    let dir = spool.batch_dir().expect("a folder");
    let opened = Opened { number: 1, wall_ms: 0, monotonic_ms: 0 };
    let mut batch = OpenBatch::new(archive.clone(), range.first, None, dir.clone(), opened);
    for record in records {
        batch.append(&record.as_record(), &mut Workspace::default(), &mut Vec::new());
    }
    assert!(batch.balance.holds() && batch.rows_agree());
    let first = records.first().expect("a record");
    let partition = TopicPartition::new(first.topic.as_str(), first.partition);
    let balance = of_receipt(&archive, &batch.balance);
    let mut objects = Vec::new();
    for open in batch.parts {
        let output = &archive.outputs[open.output];
        let (key, rows, records) = (output.keys.key(&open.window, range), open.rows, open.records);
        let event_ms = (open.event_min_ms, open.event_max_ms);
        let block = open.part.cut_last(file_metadata(&partition, range, &archive));
        let file = block.encode().expect("encoded").expect("finished");
        let folder = open.window.folder.to_string();
        let part = SealedPart { output: open.output, folder, key, file, rows, records, event_ms };
        for destination in &output.destinations {
            let metadata = object_metadata(&partition, range, &archive);
            let file = upload_file(output, &part, false, metadata, PutRule::ReplaceUntold);
            let settings = UploadSettings::within(1 << 20, 1 << 20);
            let placed = put_file(destination, &file, settings).await.expect("put");
            objects.push(receipt_object(&archive, &part, destination.id(), placed));
        }
    }
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        topic: partition.topic.to_string(),
        partition: partition.partition,
        first: range.first,
        end: range.end,
        topic_id: None,
        cluster_id: "c".into(),
        archive: layout.archive.clone(),
        generation: layout.generation,
        fingerprint: archive.fingerprint.clone(),
        writer: "0".into(),
        schemas: archive.schemas.clone(),
        target: archive.target.as_ref().map(Target::to_string),
        reason: "age".into(),
        watermark_ms: None,
        balance,
        objects,
        lost: Vec::new(),
        written_ms: records.last().and_then(|record| record.timestamp),
    };
    archive.bucket.put_receipt(&receipt, None).await.expect("vouched for");
}

fn of_receipt(archive: &Archive, balance: &balance::Balance) -> Balance {
    let mut outputs = BTreeMap::new();
    for (output, counted) in archive.outputs.iter().zip(&balance.outputs) {
        let dropped = counted.dropped.iter().map(|(rule, count)| (rule.to_string(), *count)).collect();
        let balance::OutputBalance { archived, rows, dead_lettered, .. } = *counted;
        outputs.insert(output.name.clone(), OutputBalance { archived, rows, dead_lettered, dropped });
    }
    Balance { consumed: balance.consumed, outputs, ..Balance::default() }
}

/// A Kafka that says yes to everything: each partition is held and has the offsets below 1000, and whatever is committed is, and forgotten.
#[derive(Debug, Default)]
pub(crate) struct Yes {
    /// The offsets that were committed, in that order.
    pub(crate) commits: Mutex<Vec<i64>>,
}

impl Coordinator for Yes {
    fn commit(&self, _: Held, offset: i64, _: String) -> BoxFuture<'_, Result<(), CommitError>> {
        self.commits.lock().expect("no test panics with it").push(offset);
        async { Ok(()) }.boxed()
    }
    fn committed(&self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<CommittedOffsets, String>> {
        async { Ok(partitions.into_iter().map(|partition| (partition, None)).collect()) }.boxed()
    }
    fn log_bounds(&self, _: TopicPartition) -> BoxFuture<'_, Result<LogBounds, String>> {
        async { Ok(LogBounds { start: 0, end: 1_000, readable_end: 1_000 }) }.boxed()
    }
    fn offset_at_time(&self, _: TopicPartition, _: i64) -> BoxFuture<'_, Result<Option<i64>, String>> {
        async { Ok(None) }.boxed()
    }
    fn cluster_id(&self) -> BoxFuture<'_, Result<String, String>> {
        async { Ok("cluster".to_string()) }.boxed()
    }
    fn topic_id(&self, _: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        async { Ok(None) }.boxed()
    }
    fn partitions(&self, _: &str) -> BoxFuture<'_, Result<i32, String>> {
        async { Ok(1) }.boxed()
    }
    fn planned(&self, _: &Held) -> PlannedGuard {
        PlannedGuard::new(|| {})
    }
    fn is_held(&self, _: &Held) -> bool {
        true
    }
}
