//! Records whose schema is in a registry: asking for it, and ending a batch where the next record needs another target.
//!
//! Nothing waits here: a record that cannot be read yet is let go, and its partition starts again there once it can.

use super::hold::halting_on_panic;
use super::{Completion, Core, Request};
use crate::batch::rotation::SealReason;
use crate::consume::Held;
use crate::decode::{ByRegistry, Needs};
use crate::layout::RegistryFormat;
use crate::pipeline::archive::Archive;
use crate::pipeline::context::{Context, Halt, Try};
use crate::pipeline::partition::{self, Phase};
use crate::pipeline::start::chain;
use crate::pipeline::takeover::redo::attempt;
use crate::record::Record;
use crate::registry::Target;
use std::sync::Arc;

/// Ids without a schema after which a batch ends: its claim names them all.
const UNKNOWN_MAX: usize = 1_000;

/// What the registry is asked.
#[derive(Clone, Copy)]
struct Question {
    id: u32,
    /// Of the record that names it.
    offset: i64,
    /// Of the layout that the record is read with, which may be an earlier one.
    format: RegistryFormat,
    /// What an unfinished batch knew and is unknown now must come back.
    must_exist: bool,
}

impl Core {
    /// Whether the record can be read now; if not, its partition starts again there when it can.
    pub(super) fn is_readable(&mut self, slot: usize, record: &Record<'_>) -> bool {
        let (Some(payload), Some(by_registry)) = (record.value, self.reads_by(slot)) else { return true };
        let (format, must_exist) = (by_registry.format(), by_registry.settled().is_some());
        let needs = by_registry.needs(payload);
        let (is_nothing, is_stray) = (needs == Needs::Nothing, matches!(needs, Needs::Stray(_)));
        let partition = &self.partitions[slot];
        match needs {
            // It was unknown to this batch and is known now: its claim must not say both.
            Needs::Nothing | Needs::Target(_)
                if partition.redo.is_none()
                    && partition.open.as_ref().is_some_and(|open| {
                        // What is broken of a stray schema is refused as the rest of it.
                        open.noted(payload) && !(is_nothing && open.noted_stray(payload))
                    }) =>
            {
                self.end_before(slot);
                false
            }
            Needs::Nothing => true,
            // A batch that is redone ends where it was cut.
            Needs::Target(_) if partition.redo.is_some() => true,
            Needs::Target(target) if partition.left.contains(&target) => true,
            Needs::Target(target) => {
                self.ask_for_target(slot, target);
                false
            }
            Needs::Ask(id) => {
                self.ask_for_schema(slot, Question { id, offset: record.offset, format, must_exist }, None);
                false
            }
            // Some of its records are rows of the batch: its claim must not say that there was none.
            Needs::Note(id) | Needs::Stray(id)
                if partition.redo.is_none() && partition.open.as_ref().is_some_and(|open| open.has_read(id)) =>
            {
                self.end_before(slot);
                false
            }
            Needs::Note(id) | Needs::Stray(id) => {
                self.look_again(id, format);
                self.note_unknown(slot, id, is_stray)
            }
        }
    }

    /// Whether the record can be sampled now.
    pub(super) fn is_sampled(&mut self, slot: usize, record: &Record<'_>) -> bool {
        let partition = &self.partitions[slot];
        let Phase::Sampling { first, .. } = partition.phase else { return true };
        let sampler = &self.samplers[partition.archive];
        let Some((id, format)) = record.value.and_then(|payload| sampler.asks_for(payload)) else { return true };
        self.partitions[slot].next = record.offset;
        let question = Question { id, offset: record.offset, format, must_exist: false };
        self.ask_for_schema(slot, question, Some(first));
        false
    }

    /// What the next record of a partition is read by, where that is a registry.
    fn reads_by(&self, slot: usize) -> Option<&ByRegistry> {
        let partition = &self.partitions[slot];
        let open = partition.open.as_ref().map(|open| &open.archive);
        let redo = partition.redo.as_ref().map(|redo| &redo.archive);
        let own = || self.context.archives[partition.archive].compiled.get();
        open.or(redo).or(partition.at_target.as_ref()).or_else(own)?.by_registry()
    }

    /// The batch ends before the next record.
    fn end_before(&mut self, slot: usize) {
        self.await_schema(slot, None);
        let partition = &mut self.partitions[slot];
        if let Phase::AwaitingSchema { asking, .. } = &mut partition.phase {
            *asking = None;
        }
        partition.ends = true;
        self.go_on_with_schema(slot);
    }

    /// The batch of the next record keeps that there was no schema of that id, or a stray one. False: there is no batch to take the record.
    fn note_unknown(&mut self, slot: usize, id: u32, is_stray: bool) -> bool {
        let partition = &self.partitions[slot];
        let is_full = partition
            .open
            .as_ref()
            .is_some_and(|open| open.unknown_schemas.len() >= UNKNOWN_MAX && !open.unknown_schemas.contains(&id));
        if is_full && partition.redo.is_none() && partition.due.is_none() {
            self.seal_or_wait(slot, SealReason::Schema);
        }
        if !self.ensure_open(slot) {
            return false;
        }
        let Some(open) = &mut self.partitions[slot].open else { return false };
        open.note(id, is_stray);
        true
    }

    /// Asks for an unknown schema again, if it is time to, while records are read on.
    fn look_again(&self, id: u32, format: RegistryFormat) {
        let Some(registry) = self.context.registry.clone().filter(|registry| registry.looks_again(id)) else { return };
        self.tasks.spawn(async move { registry.look_again(id, format).await });
    }

    fn ask_for_schema(&mut self, slot: usize, asked: Question, sampled_from: Option<i64>) {
        let (context, report) = (self.context.clone(), self.report.clone());
        let (held, _, question) = self.await_schema(slot, sampled_from);
        let asks = self.tasks.spawn(async move {
            let asked = halting_on_panic(ask(&context, &held, asked), "ask for a schema");
            let result = asked.await.map(|()| None);
            drop(report.send(Completion::SchemaKnown { held, question, result }));
        });
        self.partitions[slot].question = Some(partition::Question(asks));
    }

    fn ask_for_target(&mut self, slot: usize, target: Target) {
        let (context, report) = (self.context.clone(), self.report.clone());
        let (held, archive, question) = self.await_schema(slot, None);
        let asks = self.tasks.spawn(async move {
            let archive = &context.archives[archive];
            let asked = context.while_held(&held, "ask the schema registry", || async {
                attempt(&held, archive.at_target(&context, &target).await.map(Some))
            });
            let result = halting_on_panic(asked, "project rows onto another schema").await;
            drop(report.send(Completion::SchemaKnown { held, question, result }));
        });
        self.partitions[slot].question = Some(partition::Question(asks));
    }

    /// The partition waits; the number tells the answer of its question from those of earlier ones.
    fn await_schema(&mut self, slot: usize, sampled_from: Option<i64>) -> (Held, usize, u64) {
        self.questions += 1;
        let since_ms = self.clock.monotonic_ms();
        let partition = &mut self.partitions[slot];
        partition.phase = Phase::AwaitingSchema { sampled_from, asking: Some(self.questions), since_ms };
        partition.paused = true;
        self.requests.push(Request::Pause(partition.held.clone()));
        (partition.held.clone(), partition.archive, self.questions)
    }

    pub(super) fn schema_known(&mut self, held: &Held, question: u64, result: Result<Option<Arc<Archive>>, Halt>) {
        let Some(slot) = self.slot_of(held) else { return };
        let partition = &mut self.partitions[slot];
        let Phase::AwaitingSchema { asking, .. } = &mut partition.phase else { return };
        if asking.take_if(|asked| *asked == question).is_none() {
            return;
        }
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
        let Phase::AwaitingSchema { sampled_from, asking: None, .. } = partition.phase else { return };
        let ends = match (&partition.next_target, &mut partition.open) {
            (Some(next), Some(open)) => !open.aim(next),
            (None, Some(_)) => partition.ends,
            (_, None) => false,
        };
        if ends {
            if partition.due.is_none() {
                self.seal_or_wait(slot, SealReason::Schema);
            }
            let partition = &self.partitions[slot];
            // Not sealed yet, or thrown back by what went wrong with that.
            if partition.open.is_some() || !matches!(partition.phase, Phase::AwaitingSchema { .. }) {
                return;
            }
        }
        let not_before_ms = self.clock.monotonic_ms();
        let partition = &mut self.partitions[slot];
        partition.ends = false;
        partition.go_to_next_target();
        let pinned = self.context.archives[partition.archive].compiled.get().is_some();
        partition.phase = match sampled_from {
            Some(first) if !pinned => Phase::Sampling { first, caught_up: false },
            // Pinned meanwhile by what others had sampled.
            Some(first) => {
                partition.next = first;
                Phase::Starting { not_before_ms }
            }
            None => Phase::Starting { not_before_ms },
        };
        self.requests.push(Request::StartAt(partition.held.clone()));
        if sampled_from.is_some() && pinned {
            self.cover_absent(slot);
        }
    }
}

/// Asks the registry for a schema for as long as the partition is held.
async fn ask(context: &Context, held: &Held, asked: Question) -> Result<(), Halt> {
    let Question { id, offset, format, must_exist } = asked;
    let partition = &held.partition;
    let Some(registry) = &context.registry else {
        let text =
            format!("{}: its records name schemas of a registry, and there is no section [registry]", held.partition);
        return Err(Halt::Stop(text));
    };
    context
        .while_held(held, "ask the schema registry", || async {
            match registry.ask(id, format).await {
                Ok(None) if must_exist => Try::Again(format!(
                    "schema {id}, which the record at offset {offset} of {partition} names, is in the registry no more, but an \
                     unfinished batch holds the record; register it again under its id"
                )),
                Ok(_) => Try::Done(()),
                // Nothing else makes a dead letter of what the registry never answers for.
                Err(error) if !must_exist => Try::Again(format!(
                    "{}; {partition} waits at offset {offset} for schema {id}. If other schemas are answered, and this one never \
                     will be, unknown_ids = [{id}] in [registry] makes dead letters of its records",
                    chain(&error)
                )),
                Err(error) => Try::Again(format!(
                    "{}; {partition} waits at offset {offset} for schema {id}, of an unfinished batch",
                    chain(&error)
                )),
            }
        })
        .await
}
