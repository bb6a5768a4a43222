//! Rows of dead letters on their way into objects: one open batch, whose blocks are encoded at once.
//!
//! Memory: plain rows up to the share of `[memory] budget` that rows have, with parts and what is kept for their footers; rows that exceed
//! it are spilled. Only a replay that was begun with a larger budget may have more parts than that, and then a quarter for rows comes on
//! top. Disk: the spool.

use crate::bucket::replays::LetterId;
use crate::exit::{Exit, Failure};
use crate::format::FormatError;
use crate::format::dead_letter::letter::Letter;
use crate::layout::window::replay_key;
use crate::pipeline::archive::Archive;
use crate::pipeline::finish::{SealedPart, file_metadata};
use crate::pipeline::open_batch::again::{Again, Wanted};
use crate::pipeline::open_batch::{OpenBatch, Opened, Workspace};
use crate::record::{OffsetRange, TopicPartition};
use crate::replay::schemas::Asker;
use crate::spool::part::{Block, Finished};
use crate::spool::{BatchDir, Spool};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Dead letters being taken again.
pub(super) struct Taking {
    batch: OpenBatch,
    workspace: Workspace,
    rows_max: usize,
    asker: Asker,
    finished: BTreeMap<usize, Finished>,
    /// Dead letters that became rows, by output.
    pub(super) rows: BTreeMap<String, Vec<LetterId>>,
    /// Dead letters that became rows in some output.
    pub(super) letters: u64,
    /// Blocks of the part that has most.
    pub(super) most_blocks: u64,
    /// Memory that the last spill could not free.
    floor: usize,
}

/// What was taken, as files.
pub(super) struct Taken {
    /// One an output and window.
    pub(super) parts: Vec<SealedPart>,
    /// Dead letters that are rows in them, by output.
    pub(super) rows: BTreeMap<String, Vec<LetterId>>,
    /// Holds the files.
    _dir: Arc<BatchDir>,
}

impl Taking {
    /// Nothing yet. `rows_max`: bytes of plain rows in memory.
    ///
    /// # Errors
    /// The spool cannot be written to.
    pub(super) fn new(
        archive: Arc<Archive>,
        spool: &mut Spool,
        rows_max: usize,
        asker: &Asker,
    ) -> Result<Self, Failure> {
        let dir = spool.batch_dir().map_err(|error| local("make a folder in the spool", &error))?;
        let opened = Opened { number: 0, wall_ms: 0, monotonic_ms: 0 };
        let batch = OpenBatch::new(archive, 0, None, dir, opened);
        let asker = asker.clone();
        let (finished, rows) = (BTreeMap::new(), BTreeMap::new());
        let workspace = Workspace::default();
        Ok(Self { batch, workspace, rows_max, asker, finished, rows, letters: 0, most_blocks: 0, floor: 0 })
    }

    /// Whether what cannot be spilled (parts, and what is kept for their footers) takes more than half of the memory that there is.
    pub(super) fn is_crowded(&self) -> bool {
        self.floor > self.rows_max / 2
    }

    /// Parts so far: objects to come.
    pub(super) fn parts(&self) -> usize {
        self.batch.parts.len()
    }

    /// Decodes one letter again and takes its rows; says what became of it in each of the outputs that are wanted.
    ///
    /// The one place where a letter is decoded. What its decoder has to be told first, it is told here.
    ///
    /// # Errors
    /// The spool cannot be written to; the schema registry refuses or does not answer.
    pub(super) async fn take(&mut self, letter: &Letter, wanted: &[Wanted]) -> Result<Vec<Again>, Failure> {
        if let Some(payload) = &letter.record.value {
            self.asker.prepare(&self.batch.archive, payload).await?;
        }
        let mut blocks = Vec::new();
        let outcomes = self.batch.append_again(&letter.record.as_record(), wanted, &mut self.workspace, &mut blocks);
        let mut is_row = false;
        for (wanted, outcome) in wanted.iter().zip(&outcomes) {
            if matches!(outcome, Again::Rows(_)) {
                is_row = true;
                let output = &self.batch.archive.outputs[wanted.output].name;
                self.rows.entry(output.clone()).or_default().push((letter.record.offset, letter.index));
            }
        }
        self.letters += u64::from(is_row);
        for (part, block) in blocks {
            self.most_blocks = self.most_blocks.max(self.batch.parts[part].part.blocks());
            self.encode(part, block)?;
            self.batch.block_encoded(part);
        }
        if must_spill(self.batch.memory, self.floor, self.rows_max) {
            self.spill()?;
        }
        Ok(outcomes)
    }

    fn encode(&mut self, part: usize, block: Block) -> Result<(), Failure> {
        let finished = block.encode().map_err(|error| match &error {
            FormatError::Io(_) => local("write to the spool", &error),
            FormatError::Encode { .. } => {
                Failure::new(Exit::Stopped, format!("{error}; this is a bug, nothing is lost"))
            }
        })?;
        if let Some(finished) = finished {
            self.finished.insert(part, finished);
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<(), Failure> {
        for open in &mut self.batch.parts {
            let bytes = open.part.memory();
            open.part.spill().map_err(|error| local("spill rows", &error))?;
            self.batch.memory = self.batch.memory.saturating_sub(bytes);
        }
        self.floor = self.batch.memory;
        Ok(())
    }

    /// Completes the files and gives them their names, as replay `n` of a batch.
    ///
    /// # Errors
    /// The spool cannot be written to; a name that is too long.
    pub(super) fn seal(mut self, partition: &TopicPartition, range: OffsetRange, n: u32) -> Result<Taken, Failure> {
        let archive = self.batch.archive.clone();
        let dir = self.batch.dir();
        let mut metadata = file_metadata(partition, range, &archive);
        metadata.push(("siltstone.replay".to_string(), n.to_string()));
        let mut parts = Vec::new();
        for (index, open) in std::mem::take(&mut self.batch.parts).into_iter().enumerate() {
            if open.rows == 0 {
                continue;
            }
            let place = &archive.layout.outputs[open.output];
            let key = archive.outputs[open.output].keys.key(&open.window, range);
            let named = replay_key(&key, &place.place.extension(&place.format), n).ok_or_else(|| {
                let what = format!("output {}: the name of {key} has no room for \"+replay-{n}\"", place.name);
                Failure::new(Exit::Config, format!("{what}; give its layout a shorter `name`"))
            })?;
            self.encode(index, open.part.cut_last(metadata.clone()))?;
            let file = self.finished.remove(&index).ok_or_else(|| {
                Failure::new(Exit::Failed, format!("{named} was never completed; this is a bug, nothing is lost"))
            })?;
            parts.push(SealedPart {
                output: open.output,
                folder: open.window.folder.to_string(),
                key: named,
                file,
                rows: open.rows,
                records: open.records,
                event_ms: (open.event_min_ms, open.event_max_ms),
            });
        }
        Ok(Taken { parts, rows: self.rows, _dir: dir })
    }
}

/// Whether rows in memory are to go to disk, where `floor` of it stays whatever goes. A spill walks over all parts, so it must be worth it: one
/// that was begun by a process with more memory may have more parts than `rows_max` has room for.
fn must_spill(memory: usize, floor: usize, rows_max: usize) -> bool {
    memory > rows_max && memory.saturating_sub(floor) > rows_max / 4
}

fn local(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{what}: {}", crate::pipeline::start::chain(error)))
}

#[cfg(test)]
mod tests {
    use super::must_spill;

    /// Goal: where parts alone take more than there is, rows are not moved to disk one by one.
    #[test]
    fn a_spill_frees_what_it_costs() {
        assert!(!must_spill(100, 0, 100) && must_spill(101, 0, 100));
        assert!(must_spill(101, 50, 100), "half of it is left for rows");
        assert!(!must_spill(325, 300, 100) && must_spill(326, 300, 100));
    }
}
