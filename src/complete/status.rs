//! What is complete of a topic, what waits, and for which Kafka partitions: looks, and writes nothing.

use super::horizon::{Archived, Unknown};
use super::progress::{OpenFolder, Recent};
use super::round::Seams;
use crate::exit::Failure;
use crate::load::queue::Waiting;
use crate::record::TopicPartition;
use std::collections::BTreeMap;

/// A topic of an archive.
#[derive(Clone, Debug)]
pub struct TopicStatus {
    /// By number.
    pub partitions: BTreeMap<i32, PartitionStatus>,
    /// Folders that are not complete, or were changed since, by the end of their windows.
    pub open: Vec<OpenFolder>,
    /// What was completed last, the newest one last.
    pub recent: Vec<Recent>,
    /// Complete folders that wait for loaders, the oldest first.
    pub loads: Vec<Waiting>,
}

/// A Kafka partition.
#[derive(Clone, Debug)]
pub struct PartitionStatus {
    /// What the group's committed offset says.
    pub archived: Result<Archived, Unknown>,
    /// Where its readable log ends; `None` where Kafka did not say.
    pub readable_end: Option<i64>,
    /// The instant that it is past; `None` where it is not known, or none.
    pub past_ms: Option<i64>,
}

impl TopicStatus {
    /// The instant that all Kafka partitions are past; `None` where one of them is past none.
    pub fn until_ms(&self) -> Option<i64> {
        self.partitions.values().map(|partition| partition.past_ms).min().flatten()
    }

    /// The Kafka partitions that are not past `end_ms`.
    pub fn behind(&self, end_ms: i64) -> Vec<i32> {
        let is_behind = |partition: &PartitionStatus| partition.past_ms.is_none_or(|past_ms| past_ms < end_ms);
        self.partitions.iter().filter(|(_, partition)| is_behind(partition)).map(|(&number, _)| number).collect()
    }
}

impl Seams<'_> {
    /// How the topic stands.
    ///
    /// # Errors
    /// A store or Kafka that refuses or does not answer.
    pub async fn status(&self) -> Result<TopicStatus, Failure> {
        let asked = self.ask().await?;
        let mut partitions = BTreeMap::new();
        for (number, archived) in asked.archived {
            let asked_ms = self.clock.wall_ms();
            let bounds = self.coordinator.log_bounds(TopicPartition::new(self.topic, number)).await;
            let readable_end = bounds.ok().map(|bounds| bounds.readable_end);
            let past = |archived: &Archived| archived.past(&self.rules, readable_end.map(|end| (end, asked_ms)));
            // No hour is over before it is by the clock.
            let past_ms =
                archived.as_ref().ok().map(past).filter(|&past_ms| past_ms > i64::MIN).map(|ms| ms.min(asked_ms));
            partitions.insert(number, PartitionStatus { archived, readable_end, past_ms });
        }
        let progress = self.progress().await?;
        let mut open = progress.open;
        open.sort_by(|one, other| (one.tally.window_end_ms, &one.id).cmp(&(other.tally.window_end_ms, &other.id)));
        let mut loads = progress.loads;
        loads.sort_by(|one, other| (one.window_end_ms, &one.id).cmp(&(other.window_end_ms, &other.id)));
        Ok(TopicStatus { partitions, open, recent: progress.recent.into(), loads })
    }
}
