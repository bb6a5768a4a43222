//! Records whose schema is in a registry: asking for it, and ending a batch where the next record needs another target.
//!
//! Nothing waits here: a record that cannot be read yet is let go, and its partition starts again there once it can.

use super::{Completion, Core, Request};
use crate::batch::rotation::SealReason;
use crate::consume::Held;
use crate::decode::Needs;
use crate::pipeline::archive::Archive;
use crate::pipeline::context::{Context, Halt, Try};
use crate::pipeline::partition::Phase;
use crate::pipeline::start::chain;
use crate::pipeline::takeover::attempt;
use crate::record::Record;
use crate::registry::{Lookup, Target};
use std::sync::Arc;

/// Ids without a schema after which a batch ends: its claim names them all.
const UNKNOWN_MAX: usize = 1_000;

impl Core {
    /// Whether the record can be read now; if not, its partition starts again there when it can.
    pub(super) fn is_readable(&mut self, slot: usize, record: &Record<'_>) -> bool {
        let (Some(payload), Some(archive)) = (record.value, self.reads_with(slot)) else { return true };
        let Some(by_registry) = archive.by_registry() else { return true };
        match by_registry.needs(payload) {
            Needs::Nothing => true,
            // A batch that is redone ends where it was cut.
            Needs::Target(_) if self.partitions[slot].redo.is_some() => true,
            Needs::Target(target) => {
                self.ask_for_target(slot, target);
                false
            }
            Needs::Ask(id) => {
                self.ask_for_schema(slot, id, None);
                false
            }
            Needs::Note(id) => {
                self.note_unknown(slot, id);
                true
            }
        }
    }

    /// Whether the record can be sampled now.
    pub(super) fn is_sampled(&mut self, slot: usize, record: &Record<'_>) -> bool {
        let partition = &self.partitions[slot];
        let Phase::Sampling { first, .. } = partition.phase else { return true };
        let sampler = &self.samplers[partition.archive];
        let Some(id) = record.value.and_then(|payload| sampler.asks_for(payload)) else { return true };
        self.partitions[slot].next = record.offset;
        self.ask_for_schema(slot, id, Some(first));
        false
    }

    /// What the next record of a partition is read with.
    fn reads_with(&self, slot: usize) -> Option<Arc<Archive>> {
        let partition = &self.partitions[slot];
        let open = partition.open.as_ref().map(|open| &open.archive);
        let redo = partition.redo.as_ref().map(|redo| &redo.archive);
        let own = || self.context.archives[partition.archive].compiled.get();
        open.or(redo).or(partition.at_target.as_ref()).or_else(own).cloned()
    }

    /// The batch of the next record keeps that there was no schema of that id.
    fn note_unknown(&mut self, slot: usize, id: u32) {
        if !self.ensure_open(slot) {
            return;
        }
        let partition = &mut self.partitions[slot];
        let Some(open) = &mut partition.open else { return };
        open.unknown_schemas.insert(id);
        let is_full = open.unknown_schemas.len() >= UNKNOWN_MAX;
        if is_full && partition.redo.is_none() && partition.due.is_none() {
            self.seal_or_wait(slot, SealReason::Schema);
        }
    }

    fn ask_for_schema(&mut self, slot: usize, id: u32, sampled_from: Option<i64>) {
        let (context, report) = (self.context.clone(), self.report.clone());
        let (held, archive) = self.await_schema(slot, sampled_from);
        self.tasks.spawn(async move {
            let result = ask(&context, &held, archive, id).await.map(|()| None);
            drop(report.send(Completion::SchemaKnown { held, result }));
        });
    }

    fn ask_for_target(&mut self, slot: usize, target: Target) {
        let (context, report) = (self.context.clone(), self.report.clone());
        let (held, archive) = self.await_schema(slot, None);
        self.tasks.spawn(async move {
            let archive = &context.archives[archive];
            let compiled = context
                .while_held(&held, "ask the schema registry", || async {
                    attempt(&held, archive.at_target(&context, &target).await.map(Some))
                })
                .await;
            drop(report.send(Completion::SchemaKnown { held, result: compiled }));
        });
    }

    fn await_schema(&mut self, slot: usize, sampled_from: Option<i64>) -> (Held, usize) {
        let partition = &mut self.partitions[slot];
        partition.phase = Phase::AwaitingSchema { sampled_from, asking: true };
        partition.paused = true;
        self.requests.push(Request::Pause(partition.held.clone()));
        (partition.held.clone(), partition.archive)
    }

    pub(super) fn schema_known(&mut self, held: &Held, result: Result<Option<Arc<Archive>>, Halt>) {
        let Some(slot) = self.slot_of(held) else { return };
        let partition = &mut self.partitions[slot];
        let Phase::AwaitingSchema { asking, .. } = &mut partition.phase else { return };
        *asking = false;
        match result {
            Ok(next_target) => {
                partition.next_target = next_target;
                self.go_on_with_schema(slot);
            }
            Err(halt) => self.halted(slot, halt),
        }
    }

    /// Starts the partition again where it waits for a schema, once it is there and no batch with another target is open.
    pub(super) fn go_on_with_schema(&mut self, slot: usize) {
        let partition = &mut self.partitions[slot];
        let Phase::AwaitingSchema { sampled_from, asking: false } = partition.phase else { return };
        if let (Some(next), Some(open)) = (&partition.next_target, &mut partition.open)
            && !open.aim(next)
        {
            if partition.due.is_none() {
                self.seal_or_wait(slot, SealReason::Schema);
            }
            if self.partitions[slot].open.is_some() {
                return;
            }
        }
        let not_before_ms = self.clock.monotonic_ms();
        let partition = &mut self.partitions[slot];
        partition.at_target = partition.next_target.take().or(partition.at_target.take());
        partition.phase = match sampled_from {
            Some(first) => Phase::Sampling { first, caught_up: false },
            None => Phase::Starting { not_before_ms },
        };
        self.requests.push(Request::StartAt(partition.held.clone()));
    }
}

/// Asks the registry for a schema for as long as the partition is held.
async fn ask(context: &Context, held: &Held, archive: usize, id: u32) -> Result<(), Halt> {
    let (Some(registry), Some(format)) = (&context.registry, context.archives[archive].layout.decode.registry_format())
    else {
        let text =
            format!("{}: its records name schemas of a registry, and there is no section [registry]", held.partition);
        return Err(Halt::Stop(text));
    };
    // What an unfinished batch knew and is unknown now must come back.
    let was_unknown = matches!(registry.lookup(id), Lookup::Unknown);
    context
        .while_held(held, "ask the schema registry", || async {
            match registry.ask(id, format).await {
                Ok(None) if was_unknown => Try::Again(format!(
                    "schema {id}, which records of an unfinished batch name, is in the registry no more; register it again \
                     under its id"
                )),
                Ok(_) => Try::Done(()),
                Err(error) => Try::Again(chain(&error)),
            }
        })
        .await
}
