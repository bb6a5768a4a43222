//! What a compaction tells of what it does, and in numbers.

use crate::bucket::compactions::Compaction;
use crate::exit::Failure;
use serde::Serialize;

/// Something that a compaction did, or with a dry run would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Objects of a unit gave way to others.
    Compacted {
        /// Topic and Kafka partition.
        partition: String,
        /// Output.
        output: String,
        /// Folder.
        folder: String,
        /// The unit.
        unit: String,
        /// Which compaction of the unit; `None` in a dry run.
        n: Option<u32>,
        /// Objects that gave way, each once whatever its destinations.
        inputs: u64,
        /// New objects; in a dry run about.
        objects: u64,
        /// Rows.
        rows: u64,
        /// Bytes before.
        bytes_before: u64,
        /// Bytes afterwards; `None` in a dry run.
        bytes_after: Option<u64>,
        /// The new objects; empty in a dry run.
        keys: Vec<String>,
        /// It was begun before, by another process or one that ended.
        was_begun: bool,
        /// Only said.
        dry_run: bool,
    },
    /// Objects that gave way before were there still or again, and were deleted.
    Deleted {
        /// Topic and Kafka partition.
        partition: String,
        /// The unit.
        unit: String,
        /// Which compaction of the unit.
        n: u32,
        /// How many.
        objects: u64,
        /// They had been deleted once, and came back.
        returned: bool,
        /// Only said.
        dry_run: bool,
    },
    /// Objects stay what they are.
    Left {
        /// Topic and Kafka partition.
        partition: String,
        /// Output.
        output: String,
        /// Folder, or the object that is meant.
        place: String,
        /// How many.
        inputs: u64,
        /// Why.
        why: String,
    },
    /// A Kafka partition was passed over.
    Skipped {
        /// Topic and Kafka partition.
        partition: String,
        /// Why.
        why: String,
    },
    /// A compaction was taken back, or given up before it was finished.
    Undone {
        /// Topic and Kafka partition.
        partition: String,
        /// The unit.
        unit: String,
        /// Which compaction of the unit.
        n: u32,
        /// Objects that count again, and that are to be archived again where they are not there.
        inputs: Vec<String>,
        /// Its objects that were deleted: their rows are there without them.
        keys: Vec<String>,
        /// Its objects that stay until their rows are there without them.
        kept: Vec<String>,
        /// Until then they stay whatever is there, milliseconds UTC: somebody who looked before may be deleting what they were made of.
        #[serde(skip_serializing_if = "Option::is_none")]
        kept_until_ms: Option<i64>,
        /// It never counted.
        given_up: bool,
        /// Only said.
        dry_run: bool,
    },
    /// A compaction that was begun could not be finished, and a person must decide.
    Stopped {
        /// Topic and Kafka partition.
        partition: String,
        /// The unit.
        unit: String,
        /// Which compaction of the unit.
        n: u32,
        /// Why.
        why: String,
    },
}

/// Everything in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Compactions.
    pub compactions: u64,
    /// Objects that gave way.
    pub inputs: u64,
    /// New objects.
    pub objects: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes afterwards.
    pub bytes_after: u64,
    /// Objects that stay what they are though they could have been compacted.
    pub left: u64,
    /// Replaced objects that were there still or again, and were deleted.
    pub deleted: u64,
    /// Compactions that were begun and could not be finished.
    pub stopped: u64,
    /// Compactions that were taken back or given up.
    pub undone: u64,
    /// Their objects that stay until their rows are there without them.
    pub kept: u64,
    /// What was asked to be taken back, as `unit.n`: a unit or a key may mean another compaction when it is said again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub meant: Vec<String>,
}

impl Summary {
    pub(super) fn add(&mut self, step: &Step) {
        match step {
            Step::Compacted { inputs, objects, rows, bytes_before, bytes_after, .. } => {
                self.compactions += 1;
                self.inputs += inputs;
                self.objects += objects;
                self.rows += rows;
                self.bytes_before += bytes_before;
                self.bytes_after += bytes_after.unwrap_or_default();
            }
            Step::Deleted { objects, .. } => self.deleted += objects,
            Step::Left { inputs, .. } => self.left += inputs,
            Step::Skipped { .. } => {}
            Step::Undone { kept, .. } => {
                self.undone += 1;
                self.kept += kept.len() as u64;
            }
            Step::Stopped { .. } => self.stopped += 1,
        }
    }
}

/// Hears of each step.
pub(super) type Tell<'t> = &'t mut dyn FnMut(Step) -> Result<(), Failure>;

/// What is said of a compaction.
pub(super) fn compacted(claim: &Compaction, was_begun: bool) -> Step {
    let inputs = || claim.groups.iter().flat_map(|group| &group.inputs);
    Step::Compacted {
        partition: claim.topic_partition().to_string(),
        output: claim.output.clone(),
        folder: claim.folder.clone(),
        unit: claim.unit.clone(),
        n: Some(claim.n),
        inputs: inputs().count() as u64,
        objects: claim.groups.len() as u64,
        rows: claim.groups.iter().map(|group| group.rows).sum(),
        bytes_before: inputs().map(|input| input.bytes).sum(),
        bytes_after: Some(claim.groups.iter().map(|group| group.bytes).sum()),
        keys: claim.groups.iter().map(|group| group.key.clone()).collect(),
        was_begun,
        dry_run: false,
    }
}
