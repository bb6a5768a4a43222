//! Hooks: somebody else is told of each completed batch and of each complete folder, by a command, an HTTP POST or a record in a Kafka topic.
//!
//! ```text
//! receipts below the committed offset ──follow──▶ batch ──┐
//! revisions of complete folders ──load::work──▶ folder ───┴─▶ Hook::call ──▶ call: a command, a POST; record: a record
//! ```
//! # Invariants
//! - **H-1** A receipt is told after its batch was committed. A cursor in the bucket ([`crate::bucket::hooks`]) stands at an offset only when all receipts
//!   below it, from where the hook began, were told: so each is told at least once, over any restart.
//! - **H-2** The receipts of a Kafka partition are told one after the other, in the order of their offsets; one that fails is tried again before the next one.
//! - **H-3** What is told twice has the same key twice ([`batch_key`], [`folder_key`]).
//! - **H-4** Nothing here holds back offsets: a call that fails or hangs is tried again later, with longer pauses. Only that a hook begins somewhere is
//!   waited for when a Kafka partition is taken over, [`follow::BEGIN_WAIT`] at most.
//!
//! # Bounds
//! [`AT_ONCE`] calls of one hook are under way at a time; each ends with the hook's timeout. They share nothing with uploads.

pub mod call;
pub mod follow;
pub mod open;
pub mod record;

use crate::bucket::completions::Completed;
use crate::bucket::receipt::Receipt;
use crate::destination::fault::Verdict;
use crate::effect::{Effect, requests};
use crate::record::TopicPartition;
use async_trait::async_trait;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Calls of one hook that are under way at a time.
pub const AT_ONCE: usize = 8;
/// Most of what the other side says that a failure repeats, bytes.
const SAID_BYTES_MAX: usize = 1_000;

/// What somebody is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A batch that is archived and committed.
    Batch,
    /// A revision of a folder that is complete.
    Folder,
}

impl Kind {
    /// Its word in bodies and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Folder => "folder",
        }
    }
}

/// Why somebody is not known to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookFailure {
    /// What was tried, what came back, what to do.
    pub message: String,
    /// [`Verdict::Retry`]: it may pass. Else it needs somebody. It is tried again all the same.
    pub verdict: Verdict,
}

impl HookFailure {
    pub(crate) fn passing(message: impl Into<String>) -> Self {
        Self { message: message.into(), verdict: Verdict::Retry }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { message: message.into(), verdict: Verdict::Refused }
    }
}

/// A way of telling somebody.
#[async_trait]
pub trait Caller: Debug + Send + Sync {
    /// Which effect a call is.
    fn effect(&self) -> Effect;

    /// In a few words, without secrets.
    fn shown(&self) -> String;

    /// Tells `body`, which has that key. A call that is dropped ends.
    ///
    /// # Errors
    /// [`HookFailure`]; it may have been told all the same.
    async fn call(&self, key: &str, body: &str) -> Result<(), HookFailure>;
}

/// A hook of an archive.
#[derive(Debug)]
pub struct Hook {
    /// Its name: it stands in the bucket.
    pub name: String,
    /// Whether batches are told.
    pub on_batch: bool,
    /// Whether folders are told.
    pub on_folder: bool,
    archive: String,
    timeout: Duration,
    caller: Box<dyn Caller>,
    room: Semaphore,
    /// One at a time tells of a Kafka partition.
    turns: Mutex<BTreeMap<TopicPartition, Arc<tokio::sync::Mutex<()>>>>,
    /// Committed offsets that were not told, of those that are followed.
    behind: Mutex<BTreeMap<TopicPartition, i64>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hook {
    /// A hook of `archive` that tells of batches and of folders, or of one of them, by `caller`, and waits no longer than `timeout`.
    pub fn new(
        (archive, name): (&str, &str),
        (on_batch, on_folder): (bool, bool),
        timeout: Duration,
        caller: Box<dyn Caller>,
    ) -> Self {
        let labels = |kind: Kind| Self::labels(archive, name, kind);
        for kind in
            [(on_batch, Kind::Batch), (on_folder, Kind::Folder)].into_iter().filter_map(|(on, kind)| on.then_some(kind))
        {
            // There from the start: alerts see the first failure, too.
            metrics::counter!("siltstone_hook_calls_total", &labels(kind)).increment(0);
            metrics::counter!("siltstone_hook_failures_total", &labels(kind)).increment(0);
        }
        Self {
            name: name.to_string(),
            on_batch,
            on_folder,
            archive: archive.to_string(),
            timeout,
            caller,
            room: Semaphore::new(AT_ONCE),
            turns: Mutex::default(),
            behind: Mutex::default(),
        }
    }

    fn labels(archive: &str, name: &str, kind: Kind) -> [(&'static str, String); 3] {
        [("archive", archive.to_string()), ("hook", name.to_string()), ("kind", kind.name().to_string())]
    }

    /// What it calls, in a few words, without secrets.
    pub fn shown(&self) -> String {
        self.caller.shown()
    }

    /// Tells `body`, which has that key.
    ///
    /// # Errors
    /// [`HookFailure`]; it may have been told all the same.
    pub async fn call(&self, kind: Kind, key: &str, body: &str) -> Result<(), HookFailure> {
        let labels = Self::labels(&self.archive, &self.name, kind);
        metrics::counter!("siltstone_hook_calls_total", &labels).increment(1);
        let calling = tokio::time::timeout(self.timeout, self.caller.call(key, body));
        let called = requests::ask(self.caller.effect(), calling).await;
        let called = called.unwrap_or_else(|_| {
            let what = format!("no end within {} s; see `timeout` of the hook", self.timeout.as_secs_f64());
            Err(HookFailure::passing(what))
        });
        called.map_err(|HookFailure { message, verdict }| {
            metrics::counter!("siltstone_hook_failures_total", &labels).increment(1);
            HookFailure { message: format!("{}: {message}", self.shown()), verdict }
        })
    }

    /// Waits until fewer than [`AT_ONCE`] are at it.
    pub async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        // Closed never.
        self.room.acquire().await.ok()
    }

    /// Its turn to tell of a Kafka partition.
    fn turn(&self, partition: &TopicPartition) -> Arc<tokio::sync::Mutex<()>> {
        locked(&self.turns).entry(partition.clone()).or_default().clone()
    }

    /// How many committed offsets of a Kafka partition are not told; `None`: it is not followed any more.
    fn is_behind(&self, partition: &TopicPartition, offsets: Option<i64>) {
        let mut behind = locked(&self.behind);
        match offsets {
            Some(offsets) => behind.insert(partition.clone(), offsets),
            None => behind.remove(partition),
        };
        let of_topic = behind.iter().filter(|(other, _)| other.topic == partition.topic).map(|(_, &offsets)| offsets);
        let labels =
            [("archive", self.archive.clone()), ("hook", self.name.clone()), ("topic", partition.topic.to_string())];
        metrics::gauge!("siltstone_hook_behind_offsets", &labels).set(of_topic.fold(0, i64::saturating_add) as f64);
    }
}

#[derive(Serialize)]
struct BatchBody<'a> {
    kind: &'static str,
    key: &'a str,
    receipt: &'a Receipt,
}

#[derive(Serialize)]
struct FolderBody<'a> {
    kind: &'static str,
    key: &'a str,
    #[serde(flatten)]
    completed: &'a Completed,
}

/// What is told of a batch.
pub fn batch_body(key: &str, receipt: &Receipt) -> String {
    json(&BatchBody { kind: Kind::Batch.name(), key, receipt })
}

/// What is told of a revision of a folder.
pub fn folder_body(key: &str, completed: &Completed) -> String {
    json(&FolderBody { kind: Kind::Folder.name(), key, completed })
}

/// Bodies hold only strings, numbers, lists and maps with string keys.
fn json<T: Serialize>(body: &T) -> String {
    serde_json::to_string(body).expect("a body holds only what JSON has")
}

/// The key of a batch whose receipt lies at the destination `home`: the same whenever it is told, and no other batch has it.
pub fn batch_key(home: &str, receipt: &Receipt) -> String {
    let Receipt { cluster_id, archive, generation, topic, partition, first, end, .. } = receipt;
    let numbers = [generation.to_string(), partition.to_string(), first.to_string(), end.to_string()];
    let [generation, partition, first, end] = &numbers;
    format!("batch-{}", digest(&[home, cluster_id, archive, generation, topic, partition, first, end]))
}

/// The key of a revision of a folder: the same whenever it is told, and no other one has it.
pub fn folder_key(completed: &Completed) -> String {
    let Completed { archive, generation, topic, id, revision, .. } = completed;
    format!("folder-{}-{revision}", digest(&[archive, &generation.to_string(), topic, &id.digest()]))
}

/// 32 hex digits: the beginning of the SHA-256 of the parts, each with its length.
fn digest(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The end of what the other side said, in one line.
fn said(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(SAID_BYTES_MAX);
    let text = String::from_utf8_lossy(&bytes[from..]);
    let words: Vec<&str> =
        text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: keys and bodies are what others rely on: they stay, and two batches or revisions have two keys.
    #[test]
    fn keys_and_bodies_stay() {
        let receipt = |text: &str| -> Receipt { serde_json::from_str(text).expect("a receipt") };
        let stored = r#"{"version":1,"topic":"t","partition":3,"first":10,"end":20,"cluster_id":"c","archive":"a","generation":1,
            "fingerprint":"f","writer":"0","reason":"age","balance":{"consumed":0,"outputs":{}},"objects":[]}"#;
        let one = receipt(stored);
        let key = batch_key("s3://b", &one);
        assert_eq!(key, "batch-452cd81d49e51c2bcbf16cb774dc654f");
        assert_eq!(key, batch_key("s3://b", &Receipt { written_ms: Some(1), reason: "size".into(), ..one.clone() }));
        for (from, to) in
            [("\"t\"", "\"u\""), ("3,", "4,"), ("10,", "11,"), ("20,", "21,"), ("\"c\"", "\"d\""), ("\"a\"", "\"b\"")]
        {
            assert_ne!(key, batch_key("s3://b", &receipt(&stored.replacen(from, to, 1))), "{to}");
        }
        assert_ne!(key, batch_key("s3://c", &one));
        let body: serde_json::Value = serde_json::from_str(&batch_body(&key, &one)).expect("JSON");
        assert_eq!((&body["kind"], &body["key"], &body["receipt"]["end"]), (&"batch".into(), &key.into(), &20.into()));

        let stored = r#"{"version":1,"archive":"a","generation":1,"topic":"t","output":"o","destination":"s3://b","folder":"t/hr=1",
            "revision":2,"window_end_ms":3,"rows":4,"objects":5,"bytes":6,"watermark_ms":7,"covered":{"0":[1,2]}}"#;
        let mut completed: Completed = serde_json::from_str(stored).expect("a revision");
        let key = folder_key(&completed);
        let body: serde_json::Value = serde_json::from_str(&folder_body(&key, &completed)).expect("JSON");
        let mut expected: serde_json::Value = serde_json::from_str(stored).expect("JSON");
        expected["kind"] = "folder".into();
        expected["key"] = key.clone().into();
        assert_eq!(body, expected);
        completed.revision = 3;
        assert_ne!(key, folder_key(&completed));
    }

    #[test]
    fn what_the_other_side_says_is_bounded_and_one_line() {
        assert_eq!(said(b"  one\n\ttwo\x1b[0m \xff\n"), "one two [0m \u{fffd}");
        let long = "x".repeat(5_000) + " the end";
        let short = said(long.as_bytes());
        assert!(short.len() <= SAID_BYTES_MAX && short.ends_with("the end"), "{short}");
    }
}
