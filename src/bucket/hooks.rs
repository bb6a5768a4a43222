//! How far hooks were told of receipts.
//!
//! ```text
//! _siltstone/hook/v1/{hook}/{topic}/{partition:05}.json   of a later generation: {topic}/g{generation}/{partition:05}.json
//! ```
//! - **K-14** The document is created with the offset at which the hook begins, and put with a higher one only after all receipts below it were told. Whoever
//!   stalled may put a lower one over it: what is behind that is told again.
//!
//! # The document, version 1
//! ```json
//! {"version": 1, "hook": "notify", "archive": "access", "generation": 1, "topic": "access", "partition": 3, "through": 42000, "written_ms": 1763697700000}
//! ```
//! `through`: one past the last offset of the last receipt that was told. `error`: why the next one was not, when that was tried last; rarely there.

use super::{Bucket, BucketError, CONTROL_FOLDER, Created, to_json};
use crate::effect::Effect;
use crate::record::TopicPartition;
use serde::{Deserialize, Serialize};

/// Version of the stored form of [`HookCursor`].
pub const HOOK_CURSOR_VERSION: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCursor {
    /// [`HOOK_CURSOR_VERSION`] of the writer.
    pub version: u32,
    /// Name of the hook.
    pub hook: String,
    /// Name of the archive.
    pub archive: String,
    /// Generation of the archive.
    pub generation: u32,
    /// Topic.
    pub topic: String,
    /// Kafka partition.
    pub partition: i32,
    /// All receipts below this offset were told.
    pub through: i64,
    /// Wall time, milliseconds UTC.
    pub written_ms: i64,
    /// Why the next receipt was not told, when that was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn cursor_key(hook: &str, partition: &TopicPartition, generation: u32) -> String {
    let inside = if generation > 1 { format!("/g{generation}") } else { String::new() };
    format!("{CONTROL_FOLDER}/hook/v1/{hook}/{}{inside}/{:05}.json", partition.topic, partition.partition)
}

impl HookCursor {
    fn key(&self) -> String {
        cursor_key(&self.hook, &TopicPartition::new(self.topic.as_str(), self.partition), self.generation)
    }
}

impl Bucket {
    /// How far `hook` was told of a Kafka partition; `None` where it has not begun.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn hook_cursor(&self, hook: &str, partition: &TopicPartition) -> Result<Option<HookCursor>, BucketError> {
        let key = cursor_key(hook, partition, self.generation);
        let bytes = self.get(&key).await?;
        bytes.map(|bytes| self.parse(&key, &bytes, HOOK_CURSOR_VERSION)).transpose()
    }

    /// Lets a hook begin where `cursor` says, unless it has begun; where it is now.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn begin_hook(&self, cursor: &HookCursor) -> Result<HookCursor, BucketError> {
        let key = cursor.key();
        if let Some(bytes) = self.get(&key).await? {
            return self.parse(&key, &bytes, HOOK_CURSOR_VERSION);
        }
        match self.create(Effect::HookBegin, &key, to_json(cursor)).await? {
            Created::Now => Ok(cursor.clone()),
            Created::Found(stored) => self.parse(&key, &stored.bytes, HOOK_CURSOR_VERSION),
        }
    }

    /// Writes how far a hook was told.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn put_hook_cursor(&self, cursor: &HookCursor) -> Result<(), BucketError> {
        self.put(Effect::HookCursor, &cursor.key(), to_json(cursor)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a document of today is read by every later release, and one with fields of a later release by this one.
    #[test]
    fn the_stored_form_stays() {
        let stored = r#"{"version":1,"hook":"h","archive":"a","generation":2,"topic":"t","partition":3,"through":7,"written_ms":9,"new":[1]}"#;
        let cursor: HookCursor = serde_json::from_str(stored).expect("version 1");
        assert_eq!((cursor.through, &cursor.error), (7, &None));
        assert_eq!(cursor.key(), "_siltstone/hook/v1/h/t/g2/00003.json");
        assert_eq!(cursor_key("h", &TopicPartition::new("t", 12), 1), "_siltstone/hook/v1/h/t/00012.json");
        let again: HookCursor = serde_json::from_str(&to_json(&cursor)).expect("what we write");
        assert_eq!(again, cursor);
    }
}
