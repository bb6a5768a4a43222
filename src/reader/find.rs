//! Where one offset is: in which batch and objects, among the dead letters, or nowhere and why.
//!
//! Receipts tell the batch. Which of its objects has the record is told by rows that keep their offset (envelopes, outputs with `offset` among
//! their kept columns, dead letters): those objects are read up to it. Where rows do not tell it, an object that has a row for every
//! offset of the batch does; else all that can hold it are named, and nothing is read.

use super::plan::{Batch, Chosen, Shapes, Wanted, batches, is_replaced};
use super::row::{Body, Row};
use super::rows::Rows;
use crate::clock::Clock;
use crate::exit::Failure;
use crate::format::dead_letter::letter::Letter;
use crate::ledger::{Destinations, Site};
use crate::pipeline::archive::DEAD_LETTERS;
use crate::pipeline::start::patiently;
use crate::record::{OffsetRange, TopicPartition, offset_after};
use futures::TryStreamExt;
use serde::Serialize;
use std::collections::BTreeSet;

/// Where an offset is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Whereabouts {
    /// The archive has nothing of this Kafka partition.
    NoReceipts,
    /// It lies before everything that is archived.
    Below {
        /// The first offset that is covered.
        begins: i64,
    },
    /// It lies behind everything that is archived.
    Above {
        /// One past the last offset that is covered.
        ends: i64,
        /// A batch with it is begun and has no receipt yet.
        begun: bool,
    },
    /// It lies between two batches: no receipt covers it.
    Gap {
        /// First offset that is not covered.
        first: i64,
        /// The next one that is.
        end: i64,
        /// A batch with it is begun and has no receipt yet.
        begun: bool,
    },
    /// It was gone from Kafka before it could be read.
    Absent {
        /// The batch.
        batch: OffsetRange,
        /// Why, as far as it is known.
        cause: String,
    },
    /// A batch covers it.
    Batch {
        /// What the batch covers.
        batch: OffsetRange,
        /// What became of it in each output.
        outputs: Vec<InOutput>,
    },
}

/// What became of an offset in one output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InOutput {
    /// The output.
    pub output: String,
    /// What became of it.
    pub fate: Fate,
    /// Objects that hold it, or that can hold it.
    pub objects: Vec<InObject>,
    /// Its dead letters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dead_letters: Vec<DeadLetter>,
    /// Why it is not known better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What became of a record in an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is in the objects named.
    Archived,
    /// If it is there, it is in one of the objects named.
    Possible,
    /// It is a dead letter.
    DeadLetter,
    /// It is not there: dropped by a rule, or no record ever had that offset.
    NotThere,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InObject {
    /// Ids of the destinations that have it.
    pub destinations: Vec<String>,
    /// Its key.
    pub key: String,
    /// Its rows that are of the record, from 0, where they are known.
    pub rows: Vec<u64>,
}

/// A dead letter of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// The object that it lies in.
    pub key: String,
    /// Which dead letter of the record, from 0.
    pub index: u32,
    /// Which of the record's rows it is of; `None`: the whole record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u32>,
    /// What it failed at.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// The outputs that it was missing in.
    #[serde(skip)]
    pub outputs: Vec<String>,
}

impl Whereabouts {
    /// Whether the record is, or can be, in the archive: as rows or as a dead letter.
    pub fn is_somewhere(&self) -> bool {
        match self {
            Self::Batch { outputs, .. } => outputs.iter().any(|output| output.fate != Fate::NotThere),
            Self::NoReceipts | Self::Below { .. } | Self::Above { .. } | Self::Gap { .. } | Self::Absent { .. } => {
                false
            }
        }
    }
}

/// How often it is looked again where an object gave way to that of a compaction meanwhile.
const AGAIN_MAX: u32 = 5;

/// Where `offset` of `partition` is. Where an object that is to be read gave way to another one meanwhile it looks again.
///
/// # Errors
/// A store refuses or does not answer; a receipt, layout or object that is read is damaged.
pub async fn find(
    site: &Site<'_>,
    destinations: &Destinations,
    clock: &dyn Clock,
    partition: &TopicPartition,
    offset: i64,
) -> Result<Whereabouts, Failure> {
    let mut times = 0;
    loop {
        let mut gone = None;
        let failure = match look(site, destinations, clock, partition, (offset, &mut gone)).await {
            Ok(found) => return Ok(found),
            Err(failure) => failure,
        };
        times += 1;
        let Some(chosen) = gone.filter(|_| times <= AGAIN_MAX) else { return Err(failure) };
        if !matches!(is_replaced(site, clock, &chosen).await, Ok(true)) {
            return Err(failure);
        }
    }
}

/// The same, once. `gone`: the object that was not there.
async fn look(
    site: &Site<'_>,
    destinations: &Destinations,
    clock: &dyn Clock,
    partition: &TopicPartition,
    (offset, gone): (i64, &mut Option<Chosen>),
) -> Result<Whereabouts, Failure> {
    let wanted = Wanted { offsets: OffsetRange::new(offset, offset_after(offset)), ..Wanted::default() };
    let batch = batches(site, partition, clock, &wanted).await?.try_next().await?;
    let Some(batch) = batch else { return outside(site, clock, partition, offset).await };
    let range = OffsetRange::new(batch.receipt.first, batch.receipt.end);
    let absent = &batch.receipt.balance.absent;
    if let Some(absent) = absent.iter().find(|absent| OffsetRange::new(absent.first, absent.end).contains(offset)) {
        return Ok(Whereabouts::Absent { batch: range, cause: absent.cause.clone() });
    }
    let mut search = Search { site, destinations, clock, partition, offset, shapes: Shapes::new(site), gone };
    let letters = search.dead_letters(&batch).await?;
    let of_balance = batch.receipt.balance.outputs.keys();
    let of_objects = batch.objects.iter().map(|chosen| &chosen.object.output);
    let names: BTreeSet<&String> = of_balance.chain(of_objects).filter(|name| *name != DEAD_LETTERS).collect();
    let mut outputs = Vec::new();
    for name in names {
        outputs.push(search.in_output(&batch, name, &letters).await?);
    }
    Ok(Whereabouts::Batch { batch: range, outputs })
}

/// Why no receipt covers `offset`.
async fn outside(
    site: &Site<'_>,
    clock: &dyn Clock,
    partition: &TopicPartition,
    offset: i64,
) -> Result<Whereabouts, Failure> {
    let listed = patiently(clock, "list receipts", || site.bucket.listed_from(partition, 0)).await?;
    let with_receipt = listed.iter().filter(|listed| listed.receipt).map(|listed| listed.first);
    let (before, behind): (Vec<i64>, Vec<i64>) = with_receipt.partition(|&first| first <= offset);
    let begun = listed.iter().rev().find(|listed| listed.first <= offset).is_some_and(|listed| !listed.receipt);
    let next = behind.first().copied();
    let Some(&last) = before.last() else {
        return Ok(next.map_or(Whereabouts::NoReceipts, |begins| Whereabouts::Below { begins }));
    };
    let what = format!("{partition}: the receipt of {last}");
    let receipt = patiently(clock, &what, || site.bucket.receipt(partition, last)).await?;
    let first = receipt.map_or(last, |receipt| receipt.end);
    Ok(match next {
        Some(end) => Whereabouts::Gap { first, end, begun },
        None => Whereabouts::Above { ends: first, begun },
    })
}

struct Search<'s, 'c> {
    site: &'s Site<'c>,
    destinations: &'s Destinations,
    clock: &'s dyn Clock,
    partition: &'s TopicPartition,
    offset: i64,
    shapes: Shapes,
    /// The object that was to be read and is not there.
    gone: &'s mut Option<Chosen>,
}

impl Search<'_, '_> {
    /// The rows of `chosen` that tell the offset. Reads no further than behind them.
    async fn rows_in(&mut self, chosen: &Chosen) -> Result<Vec<Row>, Failure> {
        let shape = self.shapes.of(self.site, self.clock, chosen).await?;
        let mut rows = Rows::start(chosen.place(self.destinations)?, shape.clone());
        let mut found = Vec::new();
        loop {
            let next = rows.next().await;
            if next.is_err() && rows.is_gone() {
                *self.gone = Some(chosen.clone());
            }
            let Some(row) = next? else { break };
            match shape.teller.tell(&row).offset {
                Some(offset) if offset > self.offset => break,
                Some(offset) if offset == self.offset => found.push(row),
                _ => {}
            }
        }
        Ok(found)
    }

    async fn dead_letters(&mut self, batch: &Batch) -> Result<Vec<DeadLetter>, Failure> {
        let mut letters = Vec::new();
        for chosen in batch.objects.iter().filter(|chosen| chosen.object.output == DEAD_LETTERS) {
            for row in self.rows_in(chosen).await? {
                let Body::Json(line) = row.body else { continue };
                let letter = Letter::from_line(&line)
                    .map_err(|what| super::ranges::Trouble::Damaged(what).of_object(&chosen.object.key))?;
                let Letter { index, row, stage, outputs, reason, .. } = letter;
                letters.push(DeadLetter { key: chosen.object.key.clone(), index, row, stage, reason, outputs });
            }
        }
        Ok(letters)
    }

    async fn in_output(&mut self, batch: &Batch, output: &str, letters: &[DeadLetter]) -> Result<InOutput, Failure> {
        let letters: Vec<DeadLetter> =
            letters.iter().filter(|letter| letter.outputs.iter().any(|name| name == output)).cloned().collect();
        // What was refused as a whole is in no object, unless a replay has written it.
        let is_refused = letters.iter().any(|letter| letter.row.is_none());
        let (mut sure, mut possible, mut why) = (Vec::new(), Vec::new(), None);
        for chosen in batch.objects.iter().filter(|chosen| chosen.object.output == output) {
            let object =
                |rows| InObject { destinations: chosen.destinations.clone(), key: chosen.object.key.clone(), rows };
            let shape = self.shapes.of(self.site, self.clock, chosen).await?;
            if shape.teller.tells_offsets(shape.has_records()) {
                let rows: Vec<u64> = self.rows_in(chosen).await?.iter().map(|row| row.index).collect();
                if !rows.is_empty() {
                    sure.push(object(rows));
                }
            } else if let Some(n) = chosen.replay {
                let is_of_replay =
                    |other: &&Chosen| other.replay == Some(n) && other.object.output == chosen.object.output;
                match self.was_replayed(batch, n, output).await? {
                    false => {}
                    true if batch.objects.iter().filter(is_of_replay).count() == 1 => sure.push(object(Vec::new())),
                    true => {
                        possible.push(object(Vec::new()));
                        why = Some(format!("replay {n} has written it, in one of its objects"));
                    }
                }
            } else if chosen.is_dense {
                let row = u64::try_from(self.offset - chosen.range.first).unwrap_or_default();
                sure.push(object(vec![row]));
            } else if !is_refused {
                possible.push(object(Vec::new()));
                why = Some(format!("rows of {output} do not tell their offset (keep = [\"offset\"] makes them)"));
            }
        }
        let fate = match (sure.is_empty(), possible.is_empty(), letters.is_empty()) {
            (false, ..) => Fate::Archived,
            (true, false, _) => Fate::Possible,
            (true, true, false) => Fate::DeadLetter,
            (true, true, true) => Fate::NotThere,
        };
        let objects = match fate {
            Fate::Archived => sure,
            _ => possible,
        };
        if fate == Fate::NotThere {
            why = Some(not_there(batch, output));
        }
        Ok(InOutput { output: output.to_string(), fate, objects, dead_letters: letters, why })
    }

    /// Whether replay `n` has written rows of the record in `output`.
    async fn was_replayed(&self, batch: &Batch, n: u32, output: &str) -> Result<bool, Failure> {
        let first = batch.receipt.first;
        let what = format!("the receipt of replay {n} of {}", self.partition);
        let read = || self.site.bucket.replay_receipt(self.partition, first, n);
        let replay = patiently(self.clock, &what, read).await?;
        let rows = replay.and_then(|replay| replay.replay.rows.get(output).cloned()).unwrap_or_default();
        Ok(rows.iter().any(|&(offset, _)| offset == self.offset))
    }
}

fn not_there(batch: &Batch, output: &str) -> String {
    let balance = batch.receipt.balance.outputs.get(output);
    let dropped: Vec<String> = balance
        .into_iter()
        .flat_map(|balance| balance.dropped.iter().filter(|(_, count)| **count > 0))
        .map(|(rule, count)| format!("{rule}: {count}"))
        .collect();
    let offsets = u64::try_from(batch.receipt.end - batch.receipt.first).unwrap_or_default();
    let has_holes = batch.receipt.balance.consumed < offsets;
    match (dropped.is_empty(), has_holes) {
        (false, false) => format!("a rule dropped it (of the batch {})", dropped.join(", ")),
        (false, true) => {
            format!("a rule dropped it (of the batch {}), or no record has that offset", dropped.join(", "))
        }
        (true, _) => "no record has that offset (transaction markers and compaction leave such)".to_string(),
    }
}
