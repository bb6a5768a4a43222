//! The open batch of one Kafka partition: records in, blocks out.

use super::archive::{Archive, Decoded, Refusal};
use crate::batch::balance::Balance;
use crate::batch::rotation::BatchFacts;
use crate::format::Row;
use crate::format::dead_letter::{self, DeadLetterStage, Failure};
use crate::layout::Tombstones;
use crate::layout::window::Window;
use crate::parse::json::Captures;
use crate::planted::{Bug, has};
use crate::record::{OffsetRange, Record, TopicPartition};
use crate::spool::BatchDir;
use crate::spool::part::{Block, Part};
use std::collections::HashMap;
use std::sync::Arc;

/// A part with what its receipt will say of it.
pub struct OpenPart {
    /// Index among the archive's outputs.
    pub output: usize,
    /// Its window.
    pub window: Window,
    /// Its rows and file.
    pub part: Part,
    /// Rows in it.
    pub rows: u64,
    /// Least event time, milliseconds UTC.
    pub event_min_ms: i64,
    /// Greatest event time, milliseconds UTC.
    pub event_max_ms: i64,
}

/// Outputs that a record is missing in, and why: one dead letter.
type Refused = (Vec<usize>, Refusal);

/// Where records without any time are put: before every calendar, which templates show as the year 1.
const NO_TIME_MS: i64 = i64::MIN;

/// Bytes that a part takes beside its rows, about: windows of high cardinality must count.
const PART_MEMORY: usize = 1024;

/// What a batch is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Tells it from other batches of this process.
    pub number: u64,
    /// Wall time.
    pub wall_ms: i64,
    /// Monotonic time.
    pub monotonic_ms: i64,
}

/// A batch that still takes records.
pub struct OpenBatch {
    /// Tells it from other batches of this process.
    pub number: u64,
    /// Compiled layout it is written with.
    pub archive: Arc<Archive>,
    /// First offset covered.
    pub first: i64,
    /// Where a plan, a claim or a drain says that it ends.
    pub planned_end: Option<i64>,
    /// What became of its records.
    pub balance: Balance,
    /// Its parts; a block names its part by its index here.
    pub parts: Vec<OpenPart>,
    /// Monotonic time of its first record.
    pub opened_monotonic_ms: i64,
    opened_wall_ms: i64,
    first_window_end_ms: Option<i64>,
    /// Bytes of rows in memory.
    pub memory: usize,
    dir: Arc<BatchDir>,
    /// Windows that depend on the event time alone, by (output, granule). Only looked up, never iterated.
    by_granule: HashMap<(usize, i64), usize>,
    by_pattern: HashMap<(usize, Arc<str>), usize>,
    last_granule: Vec<Option<(i64, usize)>>,
}

impl OpenBatch {
    /// A batch that starts at `first`.
    pub fn new(
        archive: Arc<Archive>,
        first: i64,
        planned_end: Option<i64>,
        dir: Arc<BatchDir>,
        opened: Opened,
    ) -> Self {
        let outputs = archive.outputs.len();
        Self {
            number: opened.number,
            balance: Balance::new(archive.data_outputs()),
            archive,
            first,
            planned_end,
            parts: Vec::new(),
            opened_monotonic_ms: opened.monotonic_ms,
            opened_wall_ms: opened.wall_ms,
            first_window_end_ms: None,
            memory: 0,
            dir,
            by_granule: HashMap::new(),
            by_pattern: HashMap::new(),
            last_granule: vec![None; outputs],
        }
    }

    /// The folder that holds its parts.
    pub fn dir(&self) -> Arc<BatchDir> {
        self.dir.clone()
    }

    /// Whether the parts hold as many rows as the balance says (one record, one row), output by output.
    pub fn rows_agree(&self) -> bool {
        let mut rows = vec![0_u64; self.archive.outputs.len()];
        for part in &self.parts {
            rows[part.output] += part.rows;
        }
        let dead = rows.pop();
        let data = self.balance.outputs.iter().map(|output| output.archived);
        dead == Some(self.balance.dead_letter_rows) && rows.into_iter().eq(data)
    }

    /// What rotation needs to know. Looks at every part: not for every record.
    pub fn facts(&self) -> BatchFacts {
        BatchFacts {
            opened_monotonic_ms: self.opened_monotonic_ms,
            records: self.balance.consumed,
            bytes_read: self.balance.bytes,
            largest_part: self.parts.iter().map(|part| part.part.bytes_on_disk()).max().unwrap_or(0),
            first_window_end_ms: self.first_window_end_ms,
        }
    }

    /// Counts offsets that Kafka deleted before they were read.
    pub fn absent(&mut self, partition: &TopicPartition, range: OffsetRange) {
        tracing::error!(
            %partition, first = range.first, end = range.end,
            "Kafka deleted these offsets before they were read; they are counted as absent"
        );
        if !has(Bug::AbsentNotCounted) {
            self.balance.absent.push(range);
        }
    }

    /// Adds `record` to every output, or to the dead letters, or counts it as dropped. Full blocks are added to `blocks`
    /// with the index of their part. Gives the record's event time where it has one.
    pub fn append(&mut self, record: &Record<'_>, blocks: &mut Vec<(usize, Block)>) -> Option<i64> {
        self.balance.consumed += 1;
        self.balance.bytes += record.value.map_or(0, |value| value.len() as u64);
        let archive = self.archive.clone();
        if record.value.is_none() {
            match archive.tombstones() {
                Tombstones::Keep => {}
                Tombstones::Drop => {
                    for output in &mut self.balance.outputs {
                        *output.dropped.entry("tombstones").or_default() += 1;
                    }
                    return None;
                }
                Tombstones::DeadLetter => {
                    let refusal = (DeadLetterStage::Tombstone, "the record has no payload".to_string());
                    let all: Vec<usize> = (0..archive.data_outputs()).collect();
                    self.add_dead_letters(&archive, record, &[(all, refusal)], blocks);
                    return None;
                }
            }
        }
        let mut decoded = archive.decode(record);
        let mut refused: Vec<Refused> = Vec::new();
        // Outputs that refused the record for one shared reason make one dead letter together, in the place of the first.
        let mut shared: Option<usize> = None;
        let mut is_archived = false;
        for index in 0..archive.data_outputs() {
            let mut added = self.add_row(&archive, index, record, &decoded, blocks);
            if let Err((_, false)) = added
                && let Some(broken) = archive.broken(record)
            {
                decoded = broken;
                added = self.add_row(&archive, index, record, &decoded, blocks);
            }
            match added {
                Ok(()) => {
                    self.balance.outputs[index].archived += 1;
                    is_archived = true;
                }
                Err((refusal, true)) => match shared {
                    Some(letter) => refused[letter].0.push(index),
                    None => {
                        shared = Some(refused.len());
                        refused.push((vec![index], refusal));
                    }
                },
                Err((refusal, false)) => refused.push((vec![index], refusal)),
            }
        }
        if let Some(letter) = shared.filter(|_| has(Bug::DeadLettersUnordered)) {
            let together = refused.remove(letter);
            refused.push(together);
        }
        self.add_dead_letters(&archive, record, &refused, blocks);
        self.balance.time_fallbacks += u64::from(is_archived && decoded.is_fallback);
        decoded.event_ms.ok()
    }

    /// Adds the record to one output; on refusal says whether the reason is the archive's or this output's alone.
    fn add_row(
        &mut self,
        archive: &Archive,
        index: usize,
        record: &Record<'_>,
        decoded: &Decoded<'_>,
        blocks: &mut Vec<(usize, Block)>,
    ) -> Result<(), (Refusal, bool)> {
        let output = &archive.outputs[index];
        let json = match &decoded.json {
            Ok(json) => *json,
            Err(_) if output.takes_every_record => None,
            Err(refusal) => return Err((refusal.clone(), true)),
        };
        let event_ms = match (&decoded.event_ms, record.timestamp) {
            (Ok(event_ms), _) => *event_ms,
            (Err(_), kafka_ms) if output.takes_every_record => kafka_ms.unwrap_or(NO_TIME_MS),
            (Err(refusal), _) => return Err((refusal.clone(), true)),
        };
        let part = self.part_for(archive, index, record, decoded, event_ms);
        let open = &mut self.parts[part];
        let before = open.part.memory();
        let row = Row { record, json, event_ms };
        let appended = output.format.append_row(&row, open.part.rows());
        // A refused row may have left a larger buffer behind.
        self.memory = self.memory + open.part.memory() - before;
        let appended = appended.map_err(|error| ((DeadLetterStage::Row, error.to_string()), false))?;
        let before = self.parts[part].part.memory();
        self.balance.fields_dropped += u64::from(appended.fields_dropped);
        self.row_added(part, before, event_ms, blocks);
        Ok(())
    }

    /// Adds all dead letters of one record: their indexes tell them apart.
    fn add_dead_letters(
        &mut self,
        archive: &Archive,
        record: &Record<'_>,
        refused: &[Refused],
        blocks: &mut Vec<(usize, Block)>,
    ) {
        for (index, (outputs, (stage, reason))) in refused.iter().enumerate() {
            for &output in outputs {
                self.balance.outputs[output].dead_lettered += 1;
            }
            self.balance.dead_letter_rows += 1;
            let names: Vec<&str> = outputs.iter().map(|&output| archive.outputs[output].name.as_str()).collect();
            let nothing = Decoded { json: Ok(None), event_ms: Ok(0), is_fallback: false, captures: Captures::new() };
            let event_ms = record.timestamp.unwrap_or(NO_TIME_MS);
            let part = self.part_for(archive, archive.dead_letters(), record, &nothing, event_ms);
            let before = self.parts[part].part.memory();
            let index = if has(Bug::DeadLettersNumberedAlike) { 0 } else { index };
            let failure = Failure { index, stage: *stage, outputs: &names, reason };
            dead_letter::append(record, &failure, self.parts[part].part.rows());
            self.row_added(part, before, event_ms, blocks);
        }
    }

    fn row_added(&mut self, index: usize, memory_before: usize, event_ms: i64, blocks: &mut Vec<(usize, Block)>) {
        let open = &mut self.parts[index];
        open.rows += 1;
        open.event_min_ms = open.event_min_ms.min(event_ms);
        open.event_max_ms = open.event_max_ms.max(event_ms);
        if open.part.row_added() {
            blocks.push((index, open.part.cut()));
        }
        self.memory = self.memory + open.part.memory() - memory_before;
    }

    /// The part of the record's window, made if this is its first row.
    fn part_for(
        &mut self,
        archive: &Archive,
        output: usize,
        record: &Record<'_>,
        decoded: &Decoded<'_>,
        event_ms: i64,
    ) -> usize {
        let compiled = &archive.outputs[output];
        if !compiled.by_time_alone {
            let window = compiled.window(record, &decoded.captures, event_ms);
            return self.part_of_window(archive, output, window);
        }
        let granule = compiled.keys.time_granule(event_ms);
        if let Some((last, part)) = self.last_granule[output]
            && last == granule
        {
            return part;
        }
        let part = match self.by_granule.get(&(output, granule)) {
            Some(&part) => part,
            None => {
                let window = compiled.window(record, &decoded.captures, event_ms);
                let part = self.part_of_window(archive, output, window);
                self.by_granule.insert((output, granule), part);
                part
            }
        };
        self.last_granule[output] = Some((granule, part));
        part
    }

    fn part_of_window(&mut self, archive: &Archive, output: usize, window: Window) -> usize {
        if let Some(&part) = self.by_pattern.get(&(output, window.pattern.clone())) {
            return part;
        }
        let index = self.parts.len();
        // A window that had ended before this batch opened (backlog, late records) is not waited for.
        if let Some(end_ms) = window.end_ms.filter(|&end_ms| end_ms > self.opened_wall_ms) {
            self.first_window_end_ms = Some(self.first_window_end_ms.map_or(end_ms, |first| first.min(end_ms)));
        }
        self.by_pattern.insert((output, window.pattern.clone()), index);
        let part = Part::new(self.dir.clone(), index, archive.outputs[output].format.clone());
        self.memory += PART_MEMORY;
        self.parts.push(OpenPart { output, window, part, rows: 0, event_min_ms: i64::MAX, event_max_ms: i64::MIN });
        index
    }
}

#[cfg(test)]
mod tests;
