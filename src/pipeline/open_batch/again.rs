//! Dead letters taken again: rows for the outputs that a record is missing in, and for no other.
//!
//! - **A-1** Of a record, an output gets all of the rows that it is to have, or none: so that whether it was written is one answer for
//!   each dead letter and output, and nothing of it is left behind.
//! - **A-2** What is refused makes no dead letter: it has one.

use super::{EMPTY, FILTER, Found, Judged, OpenBatch, ROUTE, Row, TRANSFORM, Workspace, for_each_row, judge};
use crate::format;
use crate::format::dead_letter::DeadLetterStage;
use crate::layout::Tombstones;
use crate::pipeline::archive::Archive;
use crate::pipeline::unpack::Refusal;
use crate::record::Record;
use crate::spool::part::Block;

/// An output that a record is to be a row of after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Index among the archive's outputs.
    pub output: usize,
    /// Only this one of the rows that the record unfolds to; `None`: all of them. An output that takes every record takes it whole.
    pub row: Option<u32>,
}

/// What became of a record in an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Again {
    /// It is so many rows now, at least one.
    Rows(u64),
    /// A rule, by its name, has no row of it in this output.
    Dropped(&'static str),
    /// It still cannot be a row.
    Refused(Refusal),
}

impl OpenBatch {
    /// Adds `record` to the outputs of `wanted`, each on its own, and says what became of it there, in their order. Full blocks are
    /// added to `blocks` with the index of their part. The balance stays as it is: the record was counted when it was read.
    pub fn append_again(
        &mut self,
        record: &Record<'_>,
        wanted: &[Wanted],
        workspace: &mut Workspace,
        blocks: &mut Vec<(usize, Block)>,
    ) -> Vec<Again> {
        let archive = self.archive.clone();
        if record.value.is_none() {
            let outcome = match archive.tombstones() {
                Tombstones::Keep => None,
                Tombstones::Drop => Some(Again::Dropped("tombstones")),
                Tombstones::DeadLetter => {
                    let reason = "the record has no payload".to_string();
                    Some(Again::Refused((DeadLetterStage::Tombstone, reason)))
                }
            };
            if let Some(outcome) = outcome {
                return vec![outcome; wanted.len()];
            }
        }
        let scratch = &mut workspace.scratch;
        let unpacked = archive.unpack(record, scratch);
        let mut found = Vec::new();
        for_each_row(&archive, record, unpacked, scratch, |row| found.push(row));
        let mut outcomes = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let outcome = match choose(&archive, record, &found, *wanted) {
                Ok(Chosen::Rows(rows)) => {
                    for row in &rows {
                        let added = self.add_to(&archive, wanted.output, record, &row.decoded, blocks);
                        added.map_err(|(refusal, _)| refusal).expect("the same row was taken a moment ago (T-1, F-3)");
                    }
                    Again::Rows(rows.len() as u64)
                }
                Ok(Chosen::None(rule)) => Again::Dropped(rule),
                Err(refusal) => Again::Refused(refusal),
            };
            outcomes.push(outcome);
        }
        drop(found);
        scratch.clear();
        outcomes
    }
}

/// What an output is to have of a record.
enum Chosen<'f, 'a> {
    /// These rows; at least one.
    Rows(Vec<&'f Row<'a>>),
    /// Nothing, by this rule.
    None(&'static str),
}

/// Tries all rows that an output is to have, and adds none.
fn choose<'f, 'a>(
    archive: &Archive,
    record: &Record<'a>,
    found: &'f [Found<'a>],
    Wanted { output: index, row: only }: Wanted,
) -> Result<Chosen<'f, 'a>, Refusal> {
    let output = &archive.outputs[index];
    let every = output.takes_every_record;
    let only = only.filter(|_| !every);
    let (mut rows, mut rule, mut is_there) = (Vec::new(), None, false);
    for found in found {
        let place = match found {
            Ok(row) => row.index,
            Err(place) => *place,
        };
        if only.is_some() && place != only {
            continue;
        }
        is_there = true;
        let row = match found {
            Ok(row) => row,
            Err(_) => {
                rule.get_or_insert(TRANSFORM);
                continue;
            }
        };
        if row.route.is_some_and(|route| !every && !route.contains(&index)) {
            rule.get_or_insert(ROUTE);
            continue;
        }
        match judge(output, record, &row.decoded) {
            Ok(Judged::Takes { json, event_ms }) => {
                let tried = output.format.append_row(&format::Row { record, json, event_ms }, &mut Vec::new());
                tried.map_err(|error| why(archive, record, (DeadLetterStage::Row, error.to_string())))?;
                rows.push(row);
                if every {
                    break;
                }
            }
            Ok(Judged::Nothing) => {}
            Ok(Judged::Filtered) => {
                rule.get_or_insert(FILTER);
            }
            Err((refusal, is_shared)) if is_shared => return Err(refusal),
            Err((refusal, _)) => return Err(why(archive, record, refusal)),
        }
    }
    match only {
        Some(row) if !is_there => {
            Err((DeadLetterStage::Row, format!("the record does not unfold to a row {row} any more")))
        }
        _ if rows.is_empty() => Ok(Chosen::None(rule.unwrap_or(EMPTY))),
        _ => Ok(Chosen::Rows(rows)),
    }
}

/// Why an output refused a row: that the payload is broken comes before what the output made of it.
fn why(archive: &Archive, record: &Record<'_>, refusal: Refusal) -> Refusal {
    archive.broken(record).and_then(|decoded| decoded.json.err()).unwrap_or(refusal)
}
