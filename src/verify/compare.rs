//! Receipts against Kafka, as [`super::against`] has it: what is asked before receipts are read, and what after it.

use super::against::{Side, compare_count};
use super::finding::Fault;
use super::run::{Run, unreachable};
use crate::exit::Failure;
use crate::record::OffsetRange;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

impl Run<'_> {
    /// What Kafka is asked before receipts are read.
    pub(super) async fn ask_before(&mut self, topics: Option<&BTreeMap<String, i32>>) -> Result<(), Failure> {
        let (Some(cluster), Some(topics)) = (self.parts.cluster.clone(), topics) else { return Ok(()) };
        for index in 0..self.scope.partitions.len() {
            let (_, partition) = self.archive(index);
            let is_known = topics.get(&*partition.topic).is_some_and(|&count| partition.partition < count);
            if !is_known {
                self.note(index, "unknown_to_kafka", "Kafka has no such partition: nothing is compared".to_string())?;
                continue;
            }
            let unreached = |error: String| unreachable(&partition.to_string(), &error);
            let committed = cluster.committed(vec![partition.clone()]).await.map_err(unreached)?;
            let committed = committed.into_iter().next().and_then(|(_, committed)| committed);
            let bounds = cluster.bounds(partition.clone()).await.map_err(unreached)?;
            let topic_id = cluster.topic_id(partition.topic.to_string()).await.map_err(unreached)?;
            self.sides.insert(index, Side { committed, log_start: Some(bounds.start), topic_id, ..Side::default() });
        }
        Ok(())
    }

    /// What Kafka is asked after receipts were read.
    pub(super) async fn compare_with_kafka(&mut self) -> Result<(), Failure> {
        let Some(cluster) = self.parts.cluster.clone() else { return Ok(()) };
        for (index, mut side) in std::mem::take(&mut self.sides) {
            let (_, partition) = self.archive(index);
            let unreached = |error: String| unreachable(&partition.to_string(), &error);
            let bounds = cluster.bounds(partition.clone()).await.map_err(unreached)?;
            let (faults, notes) = side.compare(bounds);
            for (range, fault) in faults {
                if fault == Fault::Unfinished && side.is_of_job {
                    continue;
                }
                self.find(index, (range.first, Some(range.end)), None, fault)?;
            }
            for (note, what) in notes {
                self.note(index, note, what)?;
            }
            // Offsets of another topic are other records.
            if side.other_topic.is_some() || !self.options.counts {
                continue;
            }
            let mut counted = std::mem::take(&mut side.counted);
            let (all, mut start) = (counted.len(), bounds.start);
            // Retention goes on while receipts are read, and while records are counted: where the log begins afterwards says which counts are of
            // whole ranges.
            let (found, begin) = loop {
                counted.retain(|(range, _)| range.first >= start);
                let ranges: Vec<OffsetRange> = counted.iter().map(|(range, _)| *range).collect();
                let counters = self.parts.counters.clone();
                let seen = Box::new(move |count| {
                    counters.counted.fetch_add(count, Ordering::Relaxed);
                });
                let found = cluster.count(partition.clone(), ranges, seen).await;
                let begin = cluster.bounds(partition.clone()).await.map_err(unreached)?.start;
                match found {
                    Ok(found) => break (found, begin),
                    Err(error) if counted.first().is_none_or(|(range, _)| range.first >= begin) => {
                        return Err(unreached(error));
                    }
                    Err(_) => start = begin,
                }
            };
            if counted.len() < all {
                let what = format!(
                    "the records of {} batches could not be counted: Kafka has deleted them meanwhile",
                    all - counted.len()
                );
                self.note(index, "uncounted", what)?;
            }
            let is_compacted = cluster.is_compacted(partition.topic.to_string()).await.map_err(unreached)?;
            let mut uncounted = 0_u64;
            for ((range, consumed), found) in counted.into_iter().zip(found) {
                let Some(found) = found else {
                    uncounted += 1;
                    continue;
                };
                if let Some(fault) = compare_count(range, consumed, found, is_compacted, begin) {
                    self.find(index, (range.first, Some(range.end)), None, fault)?;
                }
            }
            if uncounted > 0 {
                let what = format!("the records of {uncounted} batches could not be counted: the log ends before them");
                self.note(index, "uncounted", what)?;
            }
        }
        Ok(())
    }
}
