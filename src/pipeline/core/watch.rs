//! Questions to the coordinator that no batch asks: committed offsets read back, log ends, what a drain still waits for.
//!
//! Each answer comes as a completion and is checked against what changed meanwhile.

use super::{Completion, Core, Request, TopicIds};
use crate::batch::metadata::OffsetMetadata;
use crate::consume::{Committed, Held, LogBounds};
use crate::pipeline::context::Context;
use crate::pipeline::partition::Phase;
use crate::planted::{Bug, has};
use crate::record::TopicPartition;
use std::collections::BTreeMap;

impl Core {
    /// Asks the coordinator what it holds for partitions at rest: a stray commit may have moved it back.
    pub(in crate::pipeline) fn start_read_back(&mut self) {
        let expected: Vec<(Held, i64)> = self
            .partitions
            .iter()
            .filter(|partition| partition.phase == Phase::Running && partition.sealed.is_none())
            .filter_map(|partition| Some((partition.held.clone(), partition.committed?)))
            .collect();
        if has(Bug::ReadBackDropped) || expected.is_empty() || std::mem::replace(&mut self.asking.read_back, true) {
            return;
        }
        let (context, report) = (self.context.clone(), self.report.clone());
        self.tasks.spawn(async move {
            let partitions = expected.iter().map(|(held, _)| held.partition.clone()).collect();
            // Without an answer the next round asks again.
            let found = context.coordinator.committed(partitions).await.unwrap_or_default();
            let found: BTreeMap<_, _> = found.into_iter().collect();
            let answer = |(held, offset): (Held, i64)| {
                let committed = found.get(&held.partition)?.clone();
                Some((held, offset, committed))
            };
            let answers = expected.into_iter().filter_map(answer).collect();
            drop(report.send(Completion::ReadBack { answers }));
        });
    }

    pub(super) fn read_back(&mut self, answers: Vec<(Held, i64, Option<Committed>)>) {
        self.asking.read_back = false;
        for (held, expected, committed) in answers {
            let Some(slot) = self.slot_of(&held) else { continue };
            let partition = &mut self.partitions[slot];
            // Only where nothing was committed since the question was asked.
            if partition.committed != Some(expected) || partition.sealed.is_some() {
                continue;
            }
            let found = committed.map(|committed| committed.offset);
            if found.is_none_or(|found| found < expected) {
                tracing::error!(partition = %held.partition, expected, ?found, "the committed offset has fallen behind; joining again to repair it");
                metrics::counter!("siltstone_offsets_behind_total").increment(1);
                self.requests.push(Request::Rejoin);
                return;
            }
            let ahead = found.filter(|&found| found > expected);
            if ahead.is_some() && partition.told_ahead != ahead {
                tracing::warn!(
                    partition = %held.partition, expected, found = ahead,
                    "somebody has set the group's committed offset ahead under this process, whose next commit overwrites it. To set \
                     it on purpose, stop every process of the group first"
                );
            }
            partition.told_ahead = ahead;
        }
    }

    /// Asks for the log ends of held partitions: for lag, and as the proof that Kafka answers.
    pub(in crate::pipeline) fn start_log_ends(&mut self) {
        let partitions: Vec<TopicPartition> =
            self.partitions.iter().map(|partition| partition.held.partition.clone()).collect();
        if std::mem::replace(&mut self.asking.log_ends, true) {
            return;
        }
        self.lag_unknown = false;
        let (context, report) = (self.context.clone(), self.report.clone());
        self.tasks.spawn(async move {
            let mut ends = Vec::new();
            let mut failed = None;
            if partitions.is_empty() {
                failed = context.coordinator.answers().await.err();
            }
            for partition in partitions {
                match context.coordinator.log_bounds(partition.clone()).await {
                    Ok(bounds) => ends.push((partition, bounds)),
                    Err(reason) => {
                        // The next round asks again; to wait for every partition here would pile up rounds.
                        failed = Some(format!("read the log's end of {partition}: {reason}"));
                        break;
                    }
                }
            }
            drop(report.send(Completion::LogEnds { ends: failed.map_or(Ok(ends), Err) }));
        });
    }

    pub(super) fn log_ends(&mut self, ends: Result<Vec<(TopicPartition, LogBounds)>, String>) {
        self.asking.log_ends = false;
        let ends = match ends {
            Ok(ends) => ends,
            Err(reason) => return self.context.health.kafka_trouble(&reason),
        };
        // Records alone prove nothing: they may have been fetched before Kafka went away.
        self.context.health.kafka_well();
        for (partition, bounds) in ends {
            let Some(slot) = self.slot(&partition.topic, partition.partition) else { continue };
            let partition = &mut self.partitions[slot];
            partition.log_end = Some(bounds.readable_end);
            let is_short =
                partition.phase == Phase::Running && partition.stretch.is_some_and(|stretch| bounds.end < stretch.end);
            // Once may be a leader that does not know its end yet. The takeover says what is wrong.
            if std::mem::replace(&mut partition.is_log_short, is_short) && is_short {
                self.take_over_again(slot);
            }
        }
    }

    /// Asks what the whole group, not only this process, has committed of what is to be drained.
    pub(in crate::pipeline) fn start_drain_check(&mut self) {
        let Some(ends) = &self.drain_to else { return };
        let partitions: Vec<TopicPartition> = ends.keys().cloned().collect();
        if std::mem::replace(&mut self.asking.drain, true) {
            return;
        }
        let (context, report) = (self.context.clone(), self.report.clone());
        let mut topic_ids = std::mem::take(&mut self.drain_topic_ids);
        self.tasks.spawn(async move {
            let offsets = trusted_offsets(&context, partitions, &mut topic_ids).await.ok();
            drop(report.send(Completion::DrainCommitted { offsets, topic_ids }));
        });
    }

    pub(super) fn drain_checked(&mut self, offsets: Option<BTreeMap<TopicPartition, i64>>, topic_ids: TopicIds) {
        self.asking.drain = false;
        self.drain_topic_ids = topic_ids;
        if let Some(offsets) = offsets {
            self.drain_committed = offsets;
        }
    }
}

/// Committed offsets that are ours, of this generation of the archive and of the topic as it is now. Any other offset says
/// nothing of what is archived: whoever takes the partition over decides. A topic that cannot be asked for holds up no other.
async fn trusted_offsets(
    context: &Context,
    partitions: Vec<TopicPartition>,
    topic_ids: &mut TopicIds,
) -> Result<BTreeMap<TopicPartition, i64>, String> {
    let mut trusted = BTreeMap::new();
    for (partition, committed) in context.coordinator.committed(partitions).await? {
        let Some(committed) = committed else { continue };
        let Some(metadata) = OffsetMetadata::decode(&committed.metadata) else { continue };
        let archive = context.archive_of(&partition.topic);
        if archive.is_none_or(|(_, archive)| archive.layout.generation != metadata.generation) {
            continue;
        }
        let topic = &*partition.topic;
        if !topic_ids.contains_key(topic) {
            let Ok(id) = context.coordinator.topic_id(topic).await else { continue };
            topic_ids.insert(topic.to_string(), id);
        }
        let now = &topic_ids[topic];
        if metadata.topic_id.is_none() || now.is_none() || metadata.topic_id == *now {
            trusted.insert(partition, committed.offset);
        }
    }
    Ok(trusted)
}
