//! Requests to look at folders again: what a backfill or a replay archives below offsets that were looked at already.
//!
//! ```text
//! _siltstone/recount/v1/{topic}/<name>.json   put before the work begins, deleted once it ended and its folders were counted anew
//! ```
//! - **K-15** Whoever puts rows below what completion has looked at says so before it does. A request outlives its maker: it is answered when the job has
//!   ended or the replay has its receipt, by whoever completes the topic then, and as often as it is there: to count anew changes nothing the second time. It
//!   is deleted once all of its folders are complete with these rows: before that, older progress could bring back what was counted without them.
//!
//! # The document, version 1
//! ```json
//! {"version": 1, "topic": "access", "of": {"job": "access-1a2b3c4d"}, "ranges": [{"partition": 0, "first": 0, "end": 100000}]}
//! ```
//! `of` may also be `{"replay": {"partition": 3, "first": 1000, "n": 1}}`.

use super::jobs::JobRange;
use super::{Bucket, BucketError, CONTROL_FOLDER, to_json};
use crate::effect::{Effect, requests};
use crate::record::TopicPartition;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Version of the stored form.
pub const RECOUNT_VERSION: u32 = 1;
/// Requests that are read at a time.
const READ_MAX: usize = 1_000;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recount {
    /// [`RECOUNT_VERSION`] of the writer.
    pub version: u32,
    /// Topic.
    pub topic: String,
    /// Whose rows.
    pub of: Whose,
    /// Where batches may come to lie.
    pub ranges: Vec<JobRange>,
    /// It is asked once more, as the first request may have been answered too early.
    #[serde(default, skip_serializing_if = "is_false")]
    pub again: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Whose rows are to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// Those of a job.
    Job(String),
    /// Those of a replay.
    Replay {
        /// Kafka partition.
        partition: i32,
        /// First offset of the batch.
        first: i64,
        /// Which replay of it.
        n: u32,
    },
}

impl Recount {
    /// A request for the rows of a job.
    pub fn of_job(topic: &str, name: &str, ranges: &[JobRange]) -> Self {
        let of = Whose::Job(name.to_string());
        Self { version: RECOUNT_VERSION, topic: topic.to_string(), of, ranges: ranges.to_vec(), again: false }
    }

    /// The same, asked once more: who answers the first one does not take this one for it.
    pub fn once_more(self) -> Self {
        Self { again: true, ..self }
    }

    /// A request for the rows of replay `n` of the batch `range`.
    pub fn of_replay(partition: &TopicPartition, range: (i64, i64), n: u32) -> Self {
        let (number, (first, end)) = (partition.partition, range);
        Self {
            version: RECOUNT_VERSION,
            topic: partition.topic.to_string(),
            of: Whose::Replay { partition: number, first, n },
            ranges: vec![JobRange { partition: number, first, end, batch: true }],
            again: false,
        }
    }

    /// Its name in the topic's folder.
    pub fn name(&self) -> String {
        match &self.of {
            Whose::Job(name) if self.again => format!("again-{name}"),
            Whose::Job(name) => format!("job-{name}"),
            Whose::Replay { partition, first, n } => format!("replay-{partition:05}-{first:020}.{n}"),
        }
    }
}

fn folder(topic: &str, generation: u32) -> String {
    let inside = if generation > 1 { format!("/g{generation}") } else { String::new() };
    format!("{CONTROL_FOLDER}/recount/v1/{topic}{inside}")
}

impl Bucket {
    /// Asks for folders to be looked at again.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn ask_recount(&self, again: &Recount) -> Result<(), BucketError> {
        let key = format!("{}/{}.json", folder(&again.topic, self.generation), again.name());
        self.put(Effect::RecountPut, &key, to_json(again)).await
    }

    /// What is asked for of a topic, or the first thousand of it that `is_new` by name, and the names of the others. What cannot be read is told in the log: it holds
    /// back no other.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn recounts(
        &self,
        topic: &str,
        is_new: impl Fn(&str) -> bool,
    ) -> Result<(Vec<Recount>, BTreeSet<String>), BucketError> {
        let folder = folder(topic, self.generation);
        let path = self.destination.path(&folder)?;
        let mut listed = self.destination.store().list(Some(&path));
        let (mut found, mut others) = (Vec::new(), BTreeSet::new());
        while let Some(object) = listed.try_next().await.map_err(|error| self.store_error("list", &folder, &error))? {
            let Some(name) = object.location.as_ref().strip_prefix(path.as_ref()) else { continue };
            let name = name.trim_start_matches('/');
            // What lies deeper is of another generation.
            let Some(bare) = name.strip_suffix(".json").filter(|bare| !bare.contains('/')) else { continue };
            if !is_new(bare) || found.len() >= READ_MAX {
                others.insert(bare.to_string());
                continue;
            }
            let key = format!("{folder}/{name}");
            let Some(bytes) = self.get(&key).await? else { continue };
            match self.parse(&key, &bytes, RECOUNT_VERSION) {
                Ok(recount) => found.push(recount),
                Err(error) => tracing::error!("{error}; nobody counts its folders anew until it is restored"),
            }
        }
        Ok((found, others))
    }

    /// It was answered.
    ///
    /// # Errors
    /// [`BucketError`]. That it is gone already is as good.
    pub async fn end_recount(&self, again: &Recount) -> Result<(), BucketError> {
        let key = format!("{}/{}.json", folder(&again.topic, self.generation), again.name());
        let path = self.destination.path(&key)?;
        match requests::delete(Effect::RecountDelete, self.destination.store(), &path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.store_error("delete", &key, &error)),
        }
    }

    /// Whether the work that asked has ended: nothing comes of it any more.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn has_ended(&self, again: &Recount) -> Result<bool, BucketError> {
        match &again.of {
            Whose::Job(name) => self.is_job_ended(name).await,
            Whose::Replay { partition, first, n } => {
                let partition = TopicPartition::new(again.topic.as_str(), *partition);
                self.is_replay_finished(&partition, *first, *n).await
            }
        }
    }
}
