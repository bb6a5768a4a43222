//! Pinning inferred schemas: while none is pinned, records of an archive feed its sampler and nothing else.

use super::{Completion, Core, Request};
use crate::decode::Schemas;
use crate::layout::Column;
use crate::pipeline::archive::Archive;
use crate::pipeline::partition::Phase;
use crate::pipeline::sample;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Core {
    /// The layout's schemas are not pinned yet: from `next` on, records only feed the sampler.
    pub(super) fn sample(&mut self, slot: usize) {
        let partition = &mut self.partitions[slot];
        partition.phase = Phase::Sampling { first: partition.next, caught_up: false };
        self.requests.push(Request::StartAt(partition.held.clone()));
    }

    /// Pins what the samplers have seen, once one of them has seen enough.
    pub(in crate::pipeline) fn check_samples(&mut self) {
        let monotonic_ms = self.clock.monotonic_ms();
        for archive in 0..self.samplers.len() {
            let hurry = self.drain_to.is_some();
            let waits_for_its_turn = self.context.schedule.is_some();
            let is_exhausted = |phase: &Phase| match phase {
                Phase::Sampling { caught_up, .. } => *caught_up,
                Phase::AwaitingSchema { sampled_from, .. } => sampled_from.is_none(),
                Phase::Waiting { .. } | Phase::TakingOver => !waits_for_its_turn,
                Phase::Starting { .. } | Phase::Running | Phase::OutOfRange | Phase::Drained | Phase::Stopped(_) => {
                    true
                }
            };
            let of_archive = self.partitions.iter().filter(|partition| partition.archive == archive);
            let exhausted = of_archive.map(|partition| &partition.phase).all(is_exhausted);
            // A smaller sample waits for as long as a batch would.
            let age_ms = i64::try_from(self.context.archives[archive].rotate.age.as_millis()).unwrap_or(i64::MAX);
            let patience_ms = if hurry { 0 } else { age_ms };
            if hurry && exhausted && self.samplers[archive].is_empty() {
                self.drain_without_schema(archive);
            }
            self.report_samples_in_vain(archive);
            let Some(inferred) = self.samplers[archive].take_if_enough(monotonic_ms, patience_ms, exhausted) else {
                continue;
            };
            let context = self.context.clone();
            let report = self.report.clone();
            self.tasks.spawn(async move {
                let result = sample::pin(&context.archives[archive], inferred).await;
                drop(report.send(Completion::Pinned { archive, result }));
            });
        }
    }

    /// Nothing is archived before there is a schema, so somebody must know that none can be inferred yet.
    fn report_samples_in_vain(&mut self, archive: usize) {
        let Some(records) = self.samplers[archive].in_vain() else {
            self.sampling_troubles.remove(&archive);
            return;
        };
        let name = &self.context.archives[archive].name;
        let trouble = self.sampling_troubles.entry(archive).or_insert_with(|| {
            tracing::warn!(
                archive = name,
                "no record so far has a field to infer a schema from; waiting for one that has"
            );
            self.context.health.trouble(&format!("infer a schema for archive {name}"))
        });
        trouble.report(&format!(
            "none of the {records} records read so far is a JSON object with a field; nothing of the archive is written \
             before one is. Give it a schema in the configuration, or mend what produces"
        ));
    }

    /// `--drain` found no record at all: without one there is no schema to infer and nothing to archive.
    pub(super) fn drain_without_schema(&mut self, archive: usize) {
        for slot in 0..self.partitions.len() {
            let partition = &self.partitions[slot];
            if partition.archive == archive && matches!(partition.phase, Phase::Sampling { caught_up: true, .. }) {
                self.drained_without_batch(slot);
            }
        }
    }

    pub(super) fn pinned(&mut self, archive: usize, result: Result<BTreeMap<String, Vec<Column>>, String>) {
        let context = self.context.clone();
        let compiled = result.and_then(|pinned| {
            let layout = &context.archives[archive].layout;
            let schemas = Schemas::of(layout, context.registry.as_ref(), None);
            Archive::compile(layout, &context.destinations, &pinned, &schemas)
        });
        match compiled {
            Ok(compiled) => {
                tracing::info!(archive = context.archives[archive].name, "schema pinned");
                drop(context.archives[archive].compiled.set(Arc::new(compiled)));
            }
            Err(reason) => {
                self.fatal =
                    Some(format!("archive {}: pin the inferred schema: {reason}", context.archives[archive].name));
                return;
            }
        }
        let not_before_ms = self.clock.monotonic_ms();
        for slot in 0..self.partitions.len() {
            let partition = &mut self.partitions[slot];
            if partition.archive != archive {
                continue;
            }
            if let Phase::Sampling { first, .. } = partition.phase {
                if context.schedule.is_some() {
                    // More of them have sampled than may begin at the same time.
                    self.take_over_again(slot);
                    continue;
                }
                partition.next = first;
                partition.phase = Phase::Starting { not_before_ms };
                self.cover_absent(slot);
            }
        }
    }
}
