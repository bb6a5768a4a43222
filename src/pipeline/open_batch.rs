//! The open batch of one Kafka partition: records in, blocks out.

pub mod again;

use super::archive::{Archive, Decoded, Json, Output};
use super::unpack::{Refusal, Scratch, Unpacked, What, unharmed};
use crate::batch::balance::Balance;
use crate::batch::rotation::BatchFacts;
use crate::decode::ByRegistry;
use crate::format;
use crate::format::dead_letter::{self, DeadLetterStage, Failure};
use crate::layout::Tombstones;
use crate::layout::window::Window;
use crate::planted::{Bug, has};
use crate::record::{OffsetRange, Record, TopicPartition};
use crate::registry::schema_id;
use crate::spool::BatchDir;
use crate::spool::part::{Block, Part};
use std::collections::{BTreeSet, HashMap};
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
    /// Records that they are of.
    pub records: u64,
    last_offset: Option<i64>,
    /// Bytes of its footer that the batch's memory has counted.
    footer: usize,
    /// Least event time, milliseconds UTC.
    pub event_min_ms: i64,
    /// Greatest event time, milliseconds UTC.
    pub event_max_ms: i64,
}

/// The rules under which a record counts of which an output has no row: it unfolds to none at all, the transform dropped it,
/// sent it to other outputs, the output's filter kept it out.
const EMPTY: &str = "empty";
const TRANSFORM: &str = "transform";
const ROUTE: &str = "route";
const FILTER: &str = "filter";

/// One row of a record.
struct Row<'a> {
    /// Which of the rows that the record was unfolded to; `None`: it was not.
    index: Option<u32>,
    decoded: Decoded<'a>,
    /// The outputs that it is for; `None`: all.
    route: Option<&'a BTreeSet<usize>>,
}

impl<'a> Row<'a> {
    /// A record that is one row, or none.
    fn whole(decoded: Decoded<'a>) -> Self {
        Self { index: None, decoded, route: None }
    }
}

/// A row of a record; or that the transform dropped it, with its number as in [`Row::index`].
type Found<'a> = Result<Row<'a>, Option<u32>>;

/// Calls `take` with each row that `record` was unpacked to. Where there is no row at all, and none was refused, with what stands
/// for the record in outputs that take every one.
fn for_each_row<'a>(
    archive: &Archive,
    record: &Record<'a>,
    unpacked: Unpacked,
    scratch: &'a Scratch,
    mut take: impl FnMut(Found<'a>),
) {
    match unpacked {
        Unpacked::AsItIs => take(Ok(Row::whole(archive.decode(record)))),
        Unpacked::Refused(refusal) => take(Ok(Row::whole(archive.refused(record, refusal)))),
        Unpacked::Rows => {
            let mut any = false;
            let several = scratch.found.len() > 1;
            for (number, what) in (0..).zip(&scratch.found) {
                let index = several.then_some(number);
                let (decoded, route) = match what {
                    What::Row(row, route) => match scratch.row(*row) {
                        Some(text) => (archive.decode_row(record, text), route.as_ref()),
                        None => continue,
                    },
                    What::Refused(refusal) => (archive.refused(record, refusal.clone()), None),
                    What::Dropped => {
                        take(Err(index));
                        continue;
                    }
                };
                any = true;
                take(Ok(Row { index, decoded, route }));
            }
            if !any {
                take(Ok(Row::whole(archive.nothing(record))));
            }
        }
    }
}

/// One dead letter: the outputs that a row is missing in, and why.
struct Letter {
    /// Which of the rows that the record was unfolded to; `None`: the record as a whole.
    row: Option<u32>,
    outputs: Vec<usize>,
    refusal: Refusal,
}

/// What became of one record so far.
struct Taken {
    /// By output.
    fates: Vec<Fate>,
    letters: Vec<Letter>,
    /// A row counts by its Kafka timestamp in place of its own.
    is_fallback: bool,
    event_max_ms: Option<i64>,
}

/// What became of one record in one output.
#[derive(Clone, Copy, Default)]
struct Fate {
    rows: u64,
    is_refused: bool,
    /// The first rule that dropped a row.
    dropped: Option<&'static str>,
}

impl Fate {
    /// Whether the record is in the output or in its dead letters.
    fn is_settled(&self) -> bool {
        self.rows > 0 || self.is_refused
    }
}

impl Taken {
    /// `fates` is what an earlier record left, for its room.
    fn new(mut fates: Vec<Fate>, outputs: usize) -> Self {
        fates.clear();
        fates.resize(outputs, Fate::default());
        Self { fates, letters: Vec::new(), is_fallback: false, event_max_ms: None }
    }

    /// A row was dropped for all outputs.
    fn dropped(&mut self, rule: &'static str) {
        for fate in &mut self.fates {
            fate.dropped.get_or_insert(rule);
        }
    }
}

/// What an output thinks of a row, before it has seen its fields.
enum Judged<'a> {
    /// It takes it.
    Takes {
        json: Option<&'a str>,
        event_ms: i64,
    },
    Nothing,
    Filtered,
}

/// Why an output refuses a row, and whether the reason is the archive's rather than this output's alone.
type OutputRefusal = (Refusal, bool);

/// Judges a row of `record` for one output.
fn judge<'a>(output: &Output, record: &Record<'_>, decoded: &Decoded<'a>) -> Result<Judged<'a>, OutputRefusal> {
    let json = match &decoded.json {
        Ok(Json::Row(json)) => Some(*json),
        Ok(Json::NotDecoded) => None,
        // No row passes where there is none.
        Ok(Json::NoRow) if output.takes_every_record && output.filter.is_some() => return Ok(Judged::Filtered),
        Ok(Json::NoRow) if output.takes_every_record => None,
        Ok(Json::NoRow) => return Ok(Judged::Nothing),
        Err(_) if output.takes_every_record => None,
        Err(refusal) => return Err((refusal.clone(), true)),
    };
    if let (Some(filter), Some(text)) = (&output.filter, json) {
        match unharmed(DeadLetterStage::Transform, || filter.passes(record, text)) {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(Judged::Filtered),
            Ok(Err(error)) => return Err(((DeadLetterStage::Transform, error.to_string()), false)),
            Err(refusal) => return Err((refusal, false)),
        }
    }
    let event_ms = match (&decoded.event_ms, record.timestamp) {
        (Ok(event_ms), _) => *event_ms,
        (Err(_), kafka_ms) if output.takes_every_record => kafka_ms.unwrap_or(NO_TIME_MS),
        (Err(refusal), _) => return Err((refusal.clone(), true)),
    };
    Ok(Judged::Takes { json, event_ms })
}

/// What an output made of a row.
enum Added {
    Row,
    /// There is none to take.
    Nothing,
    /// It does not pass.
    Filtered,
}

/// Where records without any time are put: before every calendar, which templates show as the year 1.
pub const NO_TIME_MS: i64 = i64::MIN;

/// Bytes that a part takes beside its rows, about: windows of high cardinality must count. Sealed, it is its names and sums, and
/// those of its object in the claim and the receipt: as much, so that sealing a batch for want of room takes none from others.
pub const PART_MEMORY: usize = 1536;

/// Most granules whose part is remembered: others are looked up by the window that they render to.
const GRANULES_MAX: usize = 4096;

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
    /// Ids in payloads that the registry had no schema of.
    pub unknown_schemas: BTreeSet<u32>,
    /// Those of them that the registry has a schema of, which cannot be read as the batch's target.
    stray_schemas: BTreeSet<u32>,
    /// Ids in payloads that were read by their schema.
    read_schemas: BTreeSet<u32>,
    /// Bytes of memory: of rows, of parts, and of what is kept for their footers.
    pub memory: usize,
    dir: Arc<BatchDir>,
    /// Windows that depend on the event time alone, by (output, granule). Only looked up, never iterated.
    by_granule: HashMap<(usize, i64), usize>,
    by_pattern: HashMap<(usize, Arc<str>), usize>,
    last_granule: Vec<Option<(i64, usize)>>,
}

/// Room for the rows and fates of one record, kept for the next one, of whichever batch: a process needs one for each thread that
/// appends, not one for each batch. Between records it holds at most three times [`crate::decode::KEPT_BYTES_MAX`].
#[derive(Default)]
pub struct Workspace {
    scratch: Scratch,
    fates: Vec<Fate>,
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
        let settled = archive.by_registry().and_then(ByRegistry::settled);
        Self {
            unknown_schemas: settled.cloned().unwrap_or_default(),
            stray_schemas: BTreeSet::new(),
            read_schemas: BTreeSet::new(),
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

    /// Bytes of its parts in the spool.
    pub fn spooled(&self) -> u64 {
        self.dir.bytes()
    }

    /// Whether records of that schema were read.
    pub fn has_read(&self, id: u32) -> bool {
        self.read_schemas.contains(&id)
    }

    /// Whether `payload` names a schema that was unknown to this batch.
    pub fn noted(&self, payload: &[u8]) -> bool {
        !self.unknown_schemas.is_empty() && schema_id(payload).is_some_and(|id| self.unknown_schemas.contains(&id))
    }

    /// Whether `payload` names a schema that was noted though the registry has it.
    pub fn noted_stray(&self, payload: &[u8]) -> bool {
        schema_id(payload).is_some_and(|id| self.stray_schemas.contains(&id))
    }

    /// Keeps that `id` gives no rows: there is no schema of it, or a stray one.
    pub fn note(&mut self, id: u32, is_stray: bool) {
        self.unknown_schemas.insert(id);
        if is_stray {
            self.stray_schemas.insert(id);
        }
    }

    /// Goes on with `archive`, which projects rows onto a schema, where nothing was projected yet. False: rows were.
    pub fn aim(&mut self, archive: &Arc<Archive>) -> bool {
        let rowless = |part: &OpenPart| self.archive.outputs[part.output].takes_every_record;
        if self.archive.target.is_some() || !self.parts.iter().all(rowless) {
            return false;
        }
        self.archive = archive.clone();
        true
    }

    /// Whether the parts hold as many rows as the balance says, output by output.
    pub fn rows_agree(&self) -> bool {
        let mut rows = vec![0_u64; self.archive.outputs.len()];
        for part in &self.parts {
            rows[part.output] += part.rows;
        }
        let dead = rows.pop();
        let data = self.balance.outputs.iter().map(|output| output.rows);
        dead == Some(self.balance.dead_letter_rows) && rows.into_iter().eq(data)
    }

    /// What rotation needs to know. Looks at every part: not for every record.
    pub fn facts(&self) -> BatchFacts {
        BatchFacts {
            opened_monotonic_ms: self.opened_monotonic_ms,
            records: self.balance.consumed,
            bytes_read: self.balance.bytes,
            largest_part: self.parts.iter().map(|part| part.part.bytes_on_disk()).max().unwrap_or(0),
            most_blocks: self.parts.iter().map(|part| part.part.blocks()).max().unwrap_or(0),
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
    pub fn append(
        &mut self,
        record: &Record<'_>,
        workspace: &mut Workspace,
        blocks: &mut Vec<(usize, Block)>,
    ) -> Option<i64> {
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
                    for output in &mut self.balance.outputs {
                        output.dead_lettered += 1;
                    }
                    let letter = Letter { row: None, outputs: all, refusal };
                    self.add_dead_letters(&archive, record, &[letter], blocks);
                    return None;
                }
            }
        }
        let Workspace { scratch, fates } = workspace;
        let mut taken = Taken::new(std::mem::take(fates), archive.data_outputs());
        // What the claim says of a schema goes for each record of the batch, also where the registry has got it a moment ago.
        let by_registry = archive.by_registry();
        let named = by_registry.zip(record.value.and_then(schema_id));
        let unpacked = match named {
            Some((by_registry, id)) if self.unknown_schemas.contains(&id) => {
                Unpacked::Refused((DeadLetterStage::Decode, by_registry.unknown(id).to_string()))
            }
            _ => {
                self.read_schemas.extend(named.map(|(_, id)| id));
                archive.unpack(record, scratch)
            }
        };
        for_each_row(&archive, record, unpacked, scratch, |found| match found {
            Ok(row) => self.add_row(&archive, record, &row, &mut taken, blocks),
            Err(_) => taken.dropped(TRANSFORM),
        });
        scratch.clear();
        self.settle(&archive, record, &taken, blocks);
        *fates = taken.fates;
        taken.event_max_ms
    }

    /// Adds a row to every output, or notes why not. Outputs that take every record take it with its first row that passes.
    fn add_row(
        &mut self,
        archive: &Archive,
        record: &Record<'_>,
        row: &Row<'_>,
        taken: &mut Taken,
        blocks: &mut Vec<(usize, Block)>,
    ) {
        // Outputs that refused the row for one shared reason make one dead letter together, in the place of the first.
        let mut shared: Option<usize> = None;
        let mut is_archived = false;
        let mut broken = None;
        for output in 0..archive.data_outputs() {
            let every = archive.outputs[output].takes_every_record;
            if every && taken.fates[output].is_settled() {
                continue;
            }
            if row.route.is_some_and(|route| !every && !route.contains(&output)) {
                taken.fates[output].dropped.get_or_insert(ROUTE);
                continue;
            }
            let decoded = broken.as_ref().unwrap_or(&row.decoded);
            let mut added = self.add_to(archive, output, record, decoded, blocks);
            if let Err((_, false)) = added
                && broken.is_none()
            {
                broken = archive.broken(record);
                if let Some(decoded) = &broken {
                    added = self.add_to(archive, output, record, decoded, blocks);
                }
            }
            let fate = &mut taken.fates[output];
            match added {
                Ok(Added::Row) => {
                    fate.rows += 1;
                    is_archived = true;
                }
                Ok(Added::Nothing) => {}
                Ok(Added::Filtered) => {
                    fate.dropped.get_or_insert(FILTER);
                }
                Err((refusal, is_shared)) => {
                    fate.is_refused = true;
                    match shared.filter(|_| is_shared) {
                        Some(letter) => taken.letters[letter].outputs.push(output),
                        None => {
                            shared = if is_shared { Some(taken.letters.len()) } else { shared };
                            taken.letters.push(Letter { row: row.index, outputs: vec![output], refusal });
                        }
                    }
                }
            }
        }
        let decoded = broken.as_ref().unwrap_or(&row.decoded);
        if let Some(letter) = shared.filter(|_| has(Bug::DeadLettersUnordered)) {
            let together = taken.letters.remove(letter);
            taken.letters.push(together);
        }
        taken.is_fallback |= is_archived && decoded.is_fallback;
        // What has no row tells no event time.
        let told = decoded.event_ms.as_ref().ok().filter(|_| !matches!(decoded.json, Ok(Json::NoRow)));
        if let Some(&event_ms) = told {
            taken.event_max_ms = Some(taken.event_max_ms.map_or(event_ms, |most| most.max(event_ms)));
        }
    }

    /// Counts what became of a record and writes its dead letters.
    fn settle(&mut self, archive: &Archive, record: &Record<'_>, taken: &Taken, blocks: &mut Vec<(usize, Block)>) {
        for (balance, fate) in self.balance.outputs.iter_mut().zip(&taken.fates) {
            balance.rows += fate.rows;
            match (fate.is_refused, fate.rows) {
                (true, _) => balance.dead_lettered += 1,
                (false, 1..) => balance.archived += 1,
                (false, 0) => *balance.dropped.entry(fate.dropped.unwrap_or(EMPTY)).or_default() += 1,
            }
        }
        self.balance.time_fallbacks += u64::from(taken.is_fallback);
        self.add_dead_letters(archive, record, &taken.letters, blocks);
    }

    /// Adds a row to one output; on refusal says whether the reason is the archive's or this output's alone.
    fn add_to(
        &mut self,
        archive: &Archive,
        index: usize,
        record: &Record<'_>,
        decoded: &Decoded<'_>,
        blocks: &mut Vec<(usize, Block)>,
    ) -> Result<Added, OutputRefusal> {
        let output = &archive.outputs[index];
        let (json, event_ms) = match judge(output, record, decoded)? {
            Judged::Takes { json, event_ms } => (json, event_ms),
            Judged::Nothing => return Ok(Added::Nothing),
            Judged::Filtered => return Ok(Added::Filtered),
        };
        let part = self.part_for(archive, index, record, decoded, event_ms);
        let open = &mut self.parts[part];
        let before = open.part.memory();
        let row = format::Row { record, json, event_ms };
        let appended = output.format.append_row(&row, open.part.rows());
        // A refused row may have left a larger buffer behind.
        self.memory = self.memory + open.part.memory() - before;
        let appended = appended.map_err(|error| ((DeadLetterStage::Row, error.to_string()), false))?;
        let before = self.parts[part].part.memory();
        self.balance.fields_dropped += u64::from(appended.fields_dropped);
        self.row_added(part, before, record.offset, event_ms, blocks);
        Ok(Added::Row)
    }

    /// Adds all dead letters of one record: their indexes tell them apart.
    fn add_dead_letters(
        &mut self,
        archive: &Archive,
        record: &Record<'_>,
        letters: &[Letter],
        blocks: &mut Vec<(usize, Block)>,
    ) {
        for (index, Letter { row, outputs, refusal: (stage, reason) }) in letters.iter().enumerate() {
            self.balance.dead_letter_rows += 1;
            let names: Vec<&str> = outputs.iter().map(|&output| archive.outputs[output].name.as_str()).collect();
            let nothing = archive.nothing(record);
            let event_ms = record.timestamp.unwrap_or(NO_TIME_MS);
            let part = self.part_for(archive, archive.dead_letters(), record, &nothing, event_ms);
            let before = self.parts[part].part.memory();
            let index = if has(Bug::DeadLettersNumberedAlike) { 0 } else { index };
            let failure = Failure { index, row: *row, stage: *stage, outputs: &names, reason };
            dead_letter::append(archive.letters, record, &failure, self.parts[part].part.rows());
            self.row_added(part, before, record.offset, event_ms, blocks);
        }
    }

    /// Counts what has been kept for the footer of part `index` since it was last counted.
    pub fn block_encoded(&mut self, index: usize) {
        let Some(open) = self.parts.get_mut(index) else { return };
        let footer = open.part.footer_memory();
        self.memory = self.memory + footer - open.footer;
        open.footer = footer;
    }

    fn row_added(
        &mut self,
        index: usize,
        memory_before: usize,
        offset: i64,
        event_ms: i64,
        blocks: &mut Vec<(usize, Block)>,
    ) {
        let open = &mut self.parts[index];
        open.rows += 1;
        open.records += u64::from(open.last_offset.replace(offset) != Some(offset));
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
                // A day has 1,440 of them, and a backlog any number of days.
                if self.by_granule.len() >= GRANULES_MAX {
                    self.by_granule.clear();
                }
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
        self.parts.push(OpenPart {
            output,
            window,
            part,
            rows: 0,
            records: 0,
            last_offset: None,
            footer: 0,
            event_min_ms: i64::MAX,
            event_max_ms: i64::MIN,
        });
        index
    }
}

#[cfg(test)]
mod tests;
